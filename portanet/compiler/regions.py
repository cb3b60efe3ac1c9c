"""Pass: a sum of arrays that are zero but for a region each is one array of the regions.

The gradients of the slices of a tensor are such arrays (zeros, then a copy into the region).
Where the regions are apart their sum is written without adding; where they cover it all,
the zeros are not written either.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..arrays import Layout
from .graph import Graph, Work
from .share import rename
from .walk import is_whole, walk

MAX_REGIONS = 256  # of one array; each is compared with each

Box = tuple[tuple[int, int], ...]  # the first and the last element along each dimension


@dataclass
class Patchwork:
    """Zeros with regions written over them."""

    fill: int
    shape: tuple[int, ...]
    boxes: list[Box] = field(default_factory=list)
    elements: int = 0


def merge_regions(graph: Graph) -> None:
    """Write the regions of the terms of a sum into one array."""
    writers, readers = graph.writers(), graph.readers()
    found: dict[int, Patchwork | None] = {}
    new: dict[int, int] = {}
    gone: set[int] = set()

    def patchwork(slot: int) -> Patchwork | None:
        if slot not in found:
            found[slot] = _patchwork(graph, slot, writers.get(slot, ()))
        known = found[slot]
        alone = len(readers.get(slot, ())) == 1 and not graph.slots[slot].kept
        return known if alone else None

    for i, w in enumerate(graph.work):
        if not _adds(w) or len(writers[w.outs[0].slot]) != 1:
            continue
        a, b, y = w.ins[0].slot, w.ins[1].slot, w.outs[0].slot
        one, other = patchwork(a), patchwork(b)
        if one is None or other is None or a == b or not _apart(one, other):
            continue
        first, second = sorted((one, other), key=lambda p: p.fill)
        gone |= {i, second.fill}
        boxes = one.boxes + other.boxes
        n = one.elements + other.elements
        found[y] = Patchwork(first.fill, one.shape, boxes, n)
        new[a] = new[b] = y
        if n == w.size:
            gone.add(first.fill)
    for slot in list(new):
        while new[slot] in new:
            new[slot] = new[new[slot]]
    graph.work = [w for i, w in enumerate(graph.work) if i not in gone]
    rename(graph, new)


def _adds(w: Work) -> bool:
    if w.expression is None or len(w.expression.instructions) != 1:
        return False
    whole = len(w.ins) == 2 and all(is_whole(h.layout) for h in (*w.ins, *w.outs))
    dtype = w.outs[0].layout.dtype
    same = all(h.layout.size == w.size and h.layout.dtype is dtype for h in w.ins)
    return whole and same and w.expression.instructions[0].name == "add"


def _patchwork(graph: Graph, slot: int, writers) -> Patchwork | None:
    if len(writers) < 2 or len(writers) > MAX_REGIONS:
        return None
    fill = graph.work[writers[0]]
    if not _zeros(fill):
        return None
    made = Patchwork(writers[0], fill.shape)
    for i in writers[1:]:
        w = graph.work[i]
        if w.expression is None or len(w.outs) != 1:
            return None
        box = box_of(w.outs[0].layout, fill.shape)
        if box is None or any(meet(box, other) for other in made.boxes):
            return None
        made.boxes.append(box)
        made.elements += w.size
    return made


def _zeros(w: Work) -> bool:
    if w.expression is None or len(w.expression.instructions) != 1 or len(w.outs) != 1:
        return False
    made = w.expression.instructions[0]
    return made.name == "const" and made.immediate == 0 and is_whole(w.outs[0].layout)


def box_of(x: Layout, shape) -> Box | None:
    """What a layout covers of an array of a shape; None where it is no box of it."""
    seen = walk(x.shape, x.strides, x.offset, shape)
    if seen is None:
        return None
    box = []
    for k, start in enumerate(seen.start):
        moves = [s[k] * (n - 1) for s, n in zip(seen.steps, x.shape, strict=True)]
        low = start + sum(m for m in moves if m < 0)
        box.append((low, start + sum(m for m in moves if m > 0)))
    return tuple(box)


def meet(a: Box, b: Box) -> bool:
    return all(
        first <= other_last and other_first <= last
        for (first, last), (other_first, other_last) in zip(a, b, strict=True)
    )


def _apart(a: Patchwork, b: Patchwork) -> bool:
    if a.shape != b.shape or len(a.boxes) + len(b.boxes) > MAX_REGIONS:
        return False
    return not any(meet(x, y) for x in a.boxes for y in b.boxes)
