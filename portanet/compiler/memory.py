"""Pass: temporaries that do not live at the same time share a buffer."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ..program import ALIGNMENT
from .graph import Graph, members
from .overlay import overlays


@dataclass
class Memory:
    """Slot -> the number of the block that holds it, and the bytes of each block. Where
    several lie in one block at the same time, slot -> its first byte."""

    block_of: dict[int, int]
    sizes: list[int]
    offset_of: dict[int, int] = field(default_factory=dict)
    # Slot -> the slot that it is written over.
    over: dict[int, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return sum(self.sizes)


Spans = dict[int, tuple[int, int]]


def lifetimes(graph: Graph, read_after: Collection[int] = ()) -> Spans:
    """Temporary slot -> the first and the last work that touches it. Those of `read_after`
    are results that are to lie among the temporaries, and live to the end."""
    found: Spans = {}
    home = graph.home()
    end = len(graph.work) - 1
    for i, w in enumerate(graph.work):
        for h in (*w.outs, *w.ins):
            number = home.get(h.slot, h.slot)
            slot = graph.slots[number]
            if number in read_after:
                found.setdefault(number, (i, end))
            elif slot.source is None and not slot.kept:
                found[number] = (found.get(number, (i, i))[0], i)
    return found


def plan(graph: Graph, spans: Spans | None = None) -> Memory:
    """Give each temporary the smallest block that is free and large enough, else the largest
    free one, grown; a block is free after the last work that touches what it holds."""
    spans = lifetimes(graph) if spans is None else spans
    begins: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for slot, (first, last) in spans.items():
        begins.setdefault(first, []).append(slot)
        ends.setdefault(last, []).append(slot)
    memory = Memory({}, [])
    free: list[int] = []
    for i in range(len(graph.work)):
        for slot in sorted(begins.get(i, ()), key=lambda s: -graph.slots[s].nbytes):
            memory.block_of[slot] = _take(memory, free, graph.slots[slot].nbytes)
        for slot in ends.get(i, ()):
            free.append(memory.block_of[slot])
    return memory


def least(graph: Graph, lendable: Collection[int] = ()) -> Memory:
    """The smallest of the ways to share memory. A device whose launches may read and write
    parts of one buffer can have them all in one; there `lendable` results lie too, if all
    together then takes less than with memory of their own."""
    backend = graph.device.backend
    in_place = getattr(backend, "writes_in_place", False) and hasattr(backend, "part")
    spans = lifetimes(graph)
    over = overlays(graph, spans)
    spans = _merged(spans, over)
    ways = [plan(graph, spans), largest_first(graph, spans)]
    ways += [arena(graph, spans)] if in_place else []
    best = _spread(min(ways, key=lambda m: m.nbytes), over)
    if in_place and lendable and hasattr(backend, "vacate"):
        spans = lifetimes(graph, lendable)
        over = overlays(graph, spans)
        common = _spread(arena(graph, _merged(spans, over)), over)
        if common.nbytes < best.nbytes + sum(graph.slots[s].nbytes for s in lendable):
            return common
    return best


def _merged(spans: Spans, over: Mapping[int, int]) -> Spans:
    """The lifetimes of memory that several use one after the other."""
    found = {s: span for s, span in spans.items() if s not in over}
    for slot, first in over.items():
        found[first] = (found[first][0], max(found[first][1], spans[slot][1]))
    return found


def _spread(memory: Memory, over: dict[int, int]) -> Memory:
    """The same with the slots that lie over others."""
    memory.over = over
    for slot, first in over.items():
        memory.block_of[slot] = memory.block_of[first]
        if first in memory.offset_of:
            memory.offset_of[slot] = memory.offset_of[first]
    return memory


def largest_first(graph: Graph, spans: Spans | None = None) -> Memory:
    """Each slot, the largest first, takes the smallest block, of those made so far, that
    nobody needs at the same time, and of equal ones that which stands idle for the shortest
    time (Pisarchyk and Lee, "Efficient memory management for deep neural net inference",
    2020)."""
    spans = lifetimes(graph) if spans is None else spans
    memory = Memory({}, [])
    taken: list[list[tuple[int, int]]] = []  # of each block
    for slot in sorted(spans, key=lambda s: (-graph.slots[s].nbytes, spans[s])):
        first, last = spans[slot]
        fits = [
            (memory.sizes[k], _idle(used, first, last), k)
            for k, used in enumerate(taken)
            if all(last < a or b < first for a, b in used)
        ]
        if fits:
            _, _, block = min(fits)
        else:
            block = len(taken)
            taken.append([])
            memory.sizes.append(graph.slots[slot].nbytes)
        taken[block].append((first, last))
        memory.block_of[slot] = block
    return memory


def arena(graph: Graph, spans: Spans | None = None) -> Memory:
    """All in one block: the largest first, each in the smallest gap between those that live
    at the same time and are placed already, else behind them (Pisarchyk and Lee, as above,
    greedy by size for offsets)."""
    spans = lifetimes(graph) if spans is None else spans
    placed: list[tuple[int, int, int, int]] = []  # first byte, end, first and last work
    memory = Memory(dict.fromkeys(spans, 0), [0])
    for slot in sorted(spans, key=lambda s: (-graph.slots[s].nbytes, spans[s])):
        first, last = spans[slot]
        nbytes = graph.slots[slot].nbytes
        at, best, end = -1, None, 0
        for begin, stop, a, b in placed:
            if last < a or b < first:
                continue
            gap = begin - end
            if gap >= nbytes and (best is None or gap < best):
                at, best = end, gap
            end = max(end, stop + -stop % ALIGNMENT)
        at = end if best is None else at
        memory.offset_of[slot] = at
        insort(placed, (at, at + nbytes, first, last))
        memory.sizes[0] = max(memory.sizes[0], at + nbytes)
    return memory


def _idle(used: list[tuple[int, int]], first: int, last: int) -> int:
    """How long a block is idle before or after, whichever is shorter."""
    before = [first - b for _, b in used if b < first]
    return min(before + [a - last for a, _ in used if a > last])


def _take(memory: Memory, free: list[int], nbytes: int) -> int:
    enough = [b for b in free if memory.sizes[b] >= nbytes]
    if enough:
        block = min(enough, key=lambda b: memory.sizes[b])
    elif free:
        block = max(free, key=lambda b: memory.sizes[b])
        memory.sizes[block] = nbytes
    else:
        memory.sizes.append(nbytes)
        return len(memory.sizes) - 1
    free.remove(block)
    return block


def in_place(graph: Graph, pairs: dict[int, int]) -> dict[int, int]:
    """Of pairs (slot of a new value -> slot of the state it replaces), those that may share
    one buffer: the new value is written element by element where the old one was last read,
    both are whole, and no later work can fail and leave some states new and others old."""
    writers, readers = graph.writers(), graph.readers()
    faults = [i for i, w in enumerate(graph.work) if w.can_fault]
    last_fault = max(faults, default=-1)
    safe = {}
    for new, old in pairs.items():
        made = writers.get(new, [])
        if len(made) != 1 or graph.slots[new].nbytes != graph.slots[old].nbytes:
            continue
        beside = members(graph.work[made[0]])
        (w,) = [m for m in beside if any(h.slot == new for h in m.outs)]
        if w.expression is None or w.can_fault:
            continue
        if any(h.slot == old for m in beside if m is not w for h in m.ins):
            continue
        if max(readers.get(old, [0])) > made[0]:
            continue
        if made[0] < last_fault:
            continue
        # What is passed on as it is may be stored after the state has been written.
        inputs = len(w.ins)
        if any(o < inputs and w.ins[o].slot == old for o in w.expression.outputs):
            continue
        shape = w.outs[0].layout.shape
        seen = [h.layout.expanded(shape) for h in w.ins if h.slot == old]
        seen += [h.layout for h in w.outs if h.slot == new]
        if all(x.contiguous and x.offset == 0 for x in seen):
            safe[new] = old
    return safe
