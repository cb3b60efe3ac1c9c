"""Pass: below a limit of memory, values are computed again instead of kept.

Where most bytes are alive, a value that waits for a later reader is dropped and computed
again just before it, if elementwise work makes it from what is there anyway.
"""

from __future__ import annotations

from ..arrays import Handle
from ..errors import OutOfMemoryError
from . import memory
from .graph import Graph, Work
from .share import drop_unread, prune_outputs


def recompute(graph: Graph, limit: int, results: int = 0) -> None:
    """Bring the planned bytes, with those of the results, to `limit`; OutOfMemoryError
    names the least there is."""
    least = needed = memory.plan(graph).nbytes + results
    tries = 2 * len(graph.work)
    while needed > limit:
        tries -= 1
        if not tries or not _drop_one(graph):
            raise OutOfMemoryError(
                f"compile: memory_limit is {limit} bytes, and {least} is the least that "
                "this function can run in; raise the limit or make the batch smaller"
            )
        needed = memory.plan(graph).nbytes + results
        least = min(least, needed)


def _fullest(graph: Graph, spans: dict[int, tuple[int, int]]) -> int:
    """The piece of work at which most bytes of temporaries are alive."""
    change = [0] * (len(graph.work) + 1)
    for slot, (first, last) in spans.items():
        change[first] += graph.slots[slot].nbytes
        change[last + 1] -= graph.slots[slot].nbytes
    alive, best, at = 0, -1, 0
    for i, more in enumerate(change):
        alive += more
        if alive > best:
            best, at = alive, i
    return at


def _drop_one(graph: Graph) -> bool:
    """Drop the value that frees most where most bytes are alive; False if none does."""
    spans = memory.lifetimes(graph)
    at = _fullest(graph, spans)
    writers, readers = graph.writers(), graph.readers()
    best, chosen = 0, None
    for slot, (first, last) in spans.items():
        if not first <= at < last or len(writers[slot]) > 1:
            continue
        w, users = graph.work[first], readers.get(slot, [])
        if w.expression is None or w.can_fault or at in users:
            continue
        if first == at and len(w.outs) == 1:
            continue  # it would only move
        later = [i for i in users if i > at]
        if any(len(writers.get(h.slot, ())) > 1 for h in w.ins):
            continue
        gain = graph.slots[slot].nbytes - _woken(graph, w, spans, at)
        if gain > best:
            best, chosen = gain, (slot, w, later)
    if chosen is None:
        return False
    _again(graph, *chosen)
    return True


def _woken(graph: Graph, w: Work, spans, at: int) -> int:
    """Bytes of inputs that are no longer alive at `at`, and would be to compute w again."""
    slots = {h.slot for h in w.ins if h.slot in spans and spans[h.slot][1] < at}
    return sum(graph.slots[s].nbytes for s in slots)


def _again(graph: Graph, slot: int, w: Work, later: list[int]) -> None:
    """Compute a slot's value again, into a new slot, before its later readers."""
    new = graph.slot(graph.slots[slot].nbytes)
    k = next(k for k, h in enumerate(w.outs) if h.slot == slot)
    again = prune_outputs(w, [k])
    again.outs = [Handle(new, w.outs[k].layout)]
    for i in later:
        user = graph.work[i]
        user.ins = [
            Handle(new if h.slot == slot else h.slot, h.layout) for h in user.ins
        ]
    graph.work.insert(later[0], again)
    drop_unread(graph)
