"""A plan: built launches in order, the buffers they run on, and what is assigned after."""

from __future__ import annotations

import operator
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import starmap
from typing import Any

from ..arrays import Array
from ..program import Program
from . import fold, fuse, hoist, inline, lengthen, memory, order, recompute, regions
from . import share, turn, unturn
from .graph import Graph, program_of


def optimise(
    graph: Graph,
    replaced: dict[int, Any] | None = None,
    memory_limit: int | None = None,
) -> None:
    """The passes, in order. `replaced`: see `Plan`; `memory_limit`: bytes."""
    most = getattr(graph.device.backend, "max_operands", 7)
    share.drop_unread(graph)
    fold.fold_numbers(graph)
    fold.simplify(graph)
    share.share_common(graph)
    regions.merge_regions(graph)
    turn.turn(graph)
    share.drop_copies(graph)
    lengthen.lengthen(graph)
    unturn.unturn(graph)
    inline.inline(graph, most)
    hoist.hoist(graph)
    # Work that joins only to save a launch would have all its inputs wait for it.
    fuse.fuse(graph, most, fuse.SMALL if memory_limit is None else 0)
    fold.simplify(graph)
    share.drop_unread(graph)
    pairs = new_for_old(graph, replaced or {})
    order.reorder(graph, pairs)
    if memory_limit is not None:
        shared = _written_in_place(graph, pairs)
        fresh = {h.slot for h in graph.results} - set(shared)
        results = sum(graph.slots[s].nbytes for s in fresh)
        recompute.recompute(graph, memory_limit, results)


def _written_in_place(graph: Graph, pairs: dict[int, int]) -> dict[int, int]:
    """Slot of a new value -> slot of the state whose memory it takes."""
    able = getattr(graph.device.backend, "writes_in_place", False)
    return memory.in_place(graph, pairs) if able else {}


def new_for_old(graph: Graph, replaced: dict[int, Any]) -> dict[int, int]:
    """Slot of a new value -> slot of the state that it replaces, of those that are read."""
    slots = {id(s.source): i for i, s in enumerate(graph.slots) if s.source}
    return {
        graph.results[i].slot: slots[id(source)]
        for i, source in replaced.items()
        if id(source) in slots
    }


def exclusive(x: Array) -> Any:
    """The buffer of a state's array, if the state alone holds it, else None."""
    buffer = x.buffer
    # The array: its tensor, the argument here, getrefcount's own. The buffer: its array, the
    # replay's list of buffers (once: not seen through another array), the local name,
    # getrefcount's own.
    alone = sys.getrefcount(x) <= 3 and sys.getrefcount(buffer) <= 4
    return buffer if alone else None


class Plan:
    """What a traced function has become. Call `run(arguments)` with the tensors."""

    def __init__(self, graph: Graph, replaced: dict[int, Any] | None = None):
        """`replaced`: number of a result -> the source of the state that it is assigned to."""
        backend = graph.device.backend
        self.graph, self.backend = graph, backend
        self.memory = memory.plan(graph)
        self.lock = threading.Lock()
        self.launches: list[tuple[Callable, tuple[int, ...]]] = []
        self.programs: list[Program] = []
        for w in graph.work:
            program, words = program_of(w)
            slots = tuple(h.slot for h in (*w.outs, *w.ins))
            self.programs.append(program)
            self.launches.append((backend.build(program, tuple(words)), slots))
        self.fixed: list[Any] = [None] * len(graph.slots)
        blocks = [backend.alloc(n) for n in self.memory.sizes]
        for slot, block in self.memory.block_of.items():
            self.fixed[slot] = blocks[block]
        self.arguments: list[tuple[int, int]] = []  # slot, number of the argument
        self.states: list[
            tuple[int, Callable, Any]
        ] = []  # slot, where it is, its layout
        for i, slot in enumerate(graph.slots):
            if slot.source is None:
                continue
            if slot.source.kind == "argument":
                self.arguments.append((i, slot.source.index))
            elif slot.source.kind == "constant":
                self.fixed[i] = slot.source.get().buffer  # type: ignore[misc]
            else:
                self.states.append((i, slot.source.get, slot.source.layout))  # type: ignore[arg-type]
        self.made = [h.slot for h in graph.results]
        self.sizes = [graph.slots[h.slot].nbytes for h in graph.results]
        self.layouts = [h.layout for h in graph.results]
        self.shared = self._find_shared(replaced or {})
        sequence = getattr(backend, "sequence", None)
        self.play = (
            sequence(self.launches, len(graph.slots)) if sequence else self._play
        )

    @property
    def peak(self) -> int:
        """Bytes that a replay has beside its arguments and states: temporaries, and results
        that are not written in place."""
        fresh = [n for i, n in enumerate(self.sizes) if i not in self.shared]
        return self.memory.nbytes + sum(fresh)

    def _find_shared(self, replaced: dict[int, Any]) -> dict[int, Callable]:
        """Result -> where its state is, for those that may be written in place."""
        safe = _written_in_place(self.graph, new_for_old(self.graph, replaced))
        return {i: source.get for i, source in replaced.items() if self.made[i] in safe}

    def _play(self, buffers: Sequence[Any]) -> None:
        for launch, slots in self.launches:
            launch(*[buffers[i] for i in slots])

    def scratch(self, arguments: Sequence[Any]) -> list[Any]:
        """Buffers to run single launches on: results go to memory of their own."""
        buffers = self._buffers(arguments)
        for slot, nbytes in zip(self.made, self.sizes, strict=True):
            buffers[slot] = self.backend.alloc(nbytes)
        return buffers

    def _buffers(self, arguments: Sequence[Any]) -> list[Any]:
        buffers = list(self.fixed)
        for slot, index in self.arguments:
            buffers[slot] = arguments[index].value.buffer
        for slot, get, _ in self.states:
            buffers[slot] = get().buffer
        return buffers

    def run(
        self, arguments: Sequence[Any], then: Callable | None = None
    ) -> list[Array]:
        """Play the launches; the results are fresh arrays.

        then(results): calls (function, *arguments) that follow the launches, all or none:
        one call into C makes them, so no signal gets in between.
        """
        alloc = self.backend.alloc
        with self.lock:
            buffers = self._buffers(arguments)
            for i, slot in enumerate(self.made):
                get = self.shared.get(i)
                buffer = None if get is None else exclusive(get())
                buffers[slot] = alloc(self.sizes[i]) if buffer is None else buffer
            made = [
                Array(buffers[slot], seen)
                for slot, seen in zip(self.made, self.layouts, strict=True)
            ]
            calls = [(self.play, buffers), *(then(made) if then else ())]
            deque(starmap(operator.call, calls), maxlen=0)
        return made
