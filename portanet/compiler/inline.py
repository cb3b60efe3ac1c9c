"""Pass: work that is cheap to repeat is computed where its result is read.

The result is then never stored. All readers must be elementwise, and see it in an order that
the formula can follow: broadcast, permuted, sliced, reshaped. The rule: what is computed
again, and the inputs that are read again, cost no more than the launch, the writes and the
reads that are saved.
"""

from __future__ import annotations

from . import cost
from .absorb import absorb
from .graph import Graph, Work

MAX_READERS = 64


def inline(graph: Graph, max_operands: int) -> None:
    """Take cheap work into all of its readers."""
    work: list[Work | None] = list(graph.work)
    writers, readers = graph.writers(), graph.readers()
    kernels = cost.kernels_before(graph.work)
    for i, p in enumerate(graph.work):
        if not _may_vanish(graph, p, writers):
            continue
        at = readers.get(p.outs[0].slot, [])
        if not may_wait(graph, i, max(at, default=i), writers, readers, kernels):
            continue
        made = _into_all(p, [work[j] for j in at], max_operands)
        if made is None:
            continue
        work[i] = None
        for h in p.ins:
            readers[h.slot] = [j for j in readers[h.slot] if j != i]
        for j, w in zip(at, made, strict=True):
            _replace(work, j, w, readers)
            graph.work[j] = w
    graph.work = [w for w in work if w is not None]


def _replace(work, j: int, w: Work, readers: dict[int, list[int]]) -> None:
    work[j] = w
    for slot in {h.slot for h in w.ins}:
        known = readers.setdefault(slot, [])
        if j not in known:
            known.append(j)


def _may_vanish(graph: Graph, p: Work, writers: dict[int, list[int]]) -> bool:
    if p.expression is None or p.row or len(p.outs) != 1 or p.can_fault:
        return False
    slot = p.outs[0].slot
    return not graph.slots[slot].kept and len(writers[slot]) == 1


def may_wait(
    graph: Graph,
    first: int,
    last: int,
    writers: dict[int, list[int]],
    readers: dict[int, list[int]],
    kernels: list[int],
) -> bool:
    """Whether work `first` may be done where its last reader runs: what it reads is still
    as it was, and no more of it waits than it makes."""
    p = graph.work[first]
    if any(first < k < last for h in p.ins for k in writers.get(h.slot, ())):
        return False
    is_far = kernels[last] > kernels[first]
    return not (is_far and cost.lingers(graph, p, lambda slot: len(readers[slot])))


def _into_all(p: Work, readers: list[Work | None], max_operands: int):
    """The readers with p taken in, or None if one can't or it does not pay."""
    if not readers or len(readers) > MAX_READERS:
        return None
    if any(w is None or w.expression is None for w in readers):
        return None
    if not _pays(p, readers):  # type: ignore[arg-type]
        return None
    made = []
    for w in readers:
        joined = absorb(w, p)  # type: ignore[arg-type]
        if joined is None or len(joined.ins) + len(joined.outs) > max_operands:
            return None
        made.append(joined)
    return made


def _pays(p: Work, readers: list[Work]) -> bool:
    """One element for all is computed once a launch, so it costs nothing."""
    if p.size == 1:
        return True
    assert p.expression is not None
    slot = p.outs[0].slot
    reads = sum(w.size for w in readers for h in w.ins if h.slot == slot)
    again = (reads - p.size) * (cost.of(p.expression) + cost.MOVE * cost.varying(p))
    return again <= cost.MOVE * (p.size + reads) + cost.LAUNCH
