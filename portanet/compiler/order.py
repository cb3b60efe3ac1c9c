"""Pass: work in an order that keeps few bytes alive, and lets states be written in place.

Work that frees memory runs as soon as it can, else the order stays. A state is replaced
after its last reader and after all work that bad data can stop, so that it may be written
in place; where the given order says otherwise, it stands. On a device that replaces states
one by one, that is as soon as it can be, while a gradient is in a cache.
"""

from __future__ import annotations

import heapq

from . import memory
from .graph import Graph, Work, dependencies


def reorder(graph: Graph, replaced: dict[int, int], one_by_one: bool = False) -> None:
    """`replaced`: slot of a new value -> slot of the state that it will replace; these are
    replaced `one_by_one`, or many by one launch."""
    before = graph.work
    needs = dependencies(before)
    _after_readers(graph, needs, replaced)
    old = memory.plan(graph).nbytes
    soon = {
        i
        for i, w in enumerate(before)
        if one_by_one and any(h.slot in replaced for h in w.outs)
    }
    graph.work = [before[i] for i in _order(graph, needs, soon)]
    if memory.plan(graph).nbytes > old:
        graph.work = before


def _after_readers(
    graph: Graph, needs: list[set[int]], replaced: dict[int, int]
) -> None:
    readers = graph.readers()
    faults = [i for i, w in enumerate(graph.work) if w.can_fault]
    for i, w in enumerate(graph.work):
        for h in w.outs:
            if h.slot in replaced:
                first = [*readers.get(replaced[h.slot], ()), *faults]
                needs[i].update(k for k in first if k < i)
        if w.proven:
            needs[i].update(k for k in faults if k < i)


def _order(graph: Graph, needs: list[set[int]], soon: set[int]) -> list[int]:
    live = _Live(graph)
    users: list[list[int]] = [[] for _ in needs]
    for i, group in enumerate(needs):
        for k in group:
            users[k].append(i)
    missing = [len(group) for group in needs]
    done = [False] * len(needs)
    made: list[int] = []
    ready: list[tuple[int, int]] = []  # rank, work

    def offer(k: int) -> None:
        if not done[k] and not missing[k]:
            rank = 0 if k in soon else 1 if live.growth(k) < 0 else 2
            heapq.heappush(ready, (rank, k))

    for i in range(len(needs)):
        offer(i)
    while ready:
        _, i = heapq.heappop(ready)
        if done[i]:
            continue
        done[i] = True
        made.append(i)
        fewer = live.run(i)
        for k in users[i]:
            missing[k] -= 1
            if not missing[k]:
                fewer.add(k)
        for k in fewer:
            offer(k)
    assert len(made) == len(needs), "work needs itself"
    return made


class _Live:
    """What running a piece of work does to the bytes of temporaries alive."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.readers = {s: set(r) for s, r in graph.readers().items()}
        self.made: set[int] = set()

    def _nbytes(self, slot: int) -> int:
        s = self.graph.slots[slot]
        return 0 if s.source is not None or s.kept else s.nbytes

    def growth(self, i: int) -> int:
        w: Work = self.graph.work[i]
        new = {h.slot for h in w.outs} - self.made
        last = {h.slot for h in w.ins if self.readers[h.slot] == {i}}
        return sum(map(self._nbytes, new)) - sum(map(self._nbytes, last))

    def run(self, i: int) -> set[int]:
        """Work that may now be the last to read something."""
        w = self.graph.work[i]
        self.made.update(h.slot for h in w.outs)
        fewer: set[int] = set()
        for slot in {h.slot for h in w.ins}:
            self.readers[slot].discard(i)
            if len(self.readers[slot]) == 1:
                fewer |= self.readers[slot]
        return fewer
