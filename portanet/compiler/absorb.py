"""Joining two pieces of elementwise work: one takes the other's formula in.

The formula is computed where its result was read, from inputs whose layouts are composed
with the layout of the reading. Values pass on as they were computed, so only results that
are stored as they are computed are taken in.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..arrays import Handle, collapse, row_major
from ..scalars import Builder, Instruction, finish
from .graph import Work
from .walk import Walk, is_whole, parts, refined, walk

# Expressions stay small enough to read, and to keep their values in registers.
MAX_INSTRUCTIONS = 200


def refine(w: Work, split: Sequence[Sequence[int]]) -> Work:
    """The same work over dimensions that have been split."""
    shape = tuple(n for group in split for n in group)

    def finer(h: Handle) -> Handle:
        wide = h.layout.expanded(w.shape)
        return Handle(h.slot, wide.view(shape, refined(wide.strides, split)))

    return w.but(outs=[finer(h) for h in w.outs], ins=[finer(h) for h in w.ins])


def absorb(w: Work, p: Work, keep: Sequence[Handle] = ()) -> Work | None:
    """w with the formula of p in place of what it reads of p's results; `keep` are those of
    p's results that are still stored, element by element in the order of w. With nothing
    read the two merely share a launch. None where p's results are read in an order that
    the formula can't follow, or the formula gets too long; sums over rows are only joined
    element by element."""
    made = {h.slot: k for k, h in enumerate(p.outs)}
    if any(not _passes(p.outs[made[h.slot]], h) for h in w.ins if h.slot in made):
        return None
    whole = bool(keep) or not any(h.slot in made for h in w.ins)
    if whole and w.size != p.size:
        return None
    rows = {v.row for v in (w, p) if v.row}
    if len(rows) > 1:
        return None
    if _is_aligned(w, p, made):
        still = {i: None for i, h in enumerate(w.ins) if h.slot in made}
        return _build(w, p, made, keep, (), (), {**still})
    if rows:
        return None
    wide = [h.layout.expanded(p.shape).strides for h in (*p.ins, *keep)]
    sizes, strides = collapse(p.shape, wide)
    w = _split_for(w, made, sizes, whole)
    walks = _walks(w, made, sizes, whole)
    if walks is None or whole and any(v != walks[-1] for v in walks.values()):
        return None
    return _build(w, p, made, keep, sizes, strides, walks)


def _is_aligned(w: Work, p: Work, made: dict[int, int]) -> bool:
    """Whether both go over the same shape, and w reads each element of p where it is."""
    return w.shape == p.shape and all(
        is_whole(h.layout) and h.layout.shape == w.shape
        for h in w.ins
        if h.slot in made
    )


def _passes(written: Handle, read: Handle) -> bool:
    """Whether a value is the same when it has been stored, and is whole."""
    x = written.layout
    return (
        read.layout.dtype is x.dtype is x.dtype.compute
        and x.contiguous
        and not x.offset
    )


def _split_for(w: Work, made: dict[int, int], sizes, whole: bool) -> Work:
    """w over dimensions fine enough to follow the sizes of what it takes in."""
    while True:
        views = [h.layout.expanded(w.shape).strides for h in w.ins if h.slot in made]
        views += [row_major(w.shape)] if whole else []
        for strides in views:
            split = parts(w.shape, strides, sizes)
            if any(len(group) > 1 for group in split):
                w = refine(w, split)
                break
        else:
            return w


def _walks(w: Work, made: dict[int, int], sizes, whole: bool):
    """Input of w, or -1 for the order of w itself -> its walk over p."""
    found: dict[int, Walk | None] = {}
    views = [(-1, row_major(w.shape), 0)] if whole else []
    for i, h in enumerate(w.ins):
        if h.slot in made:
            views.append((i, h.layout.expanded(w.shape).strides, h.layout.offset))
    for key, strides, offset in views:
        seen = walk(w.shape, strides, offset, sizes)
        if seen is None:
            return None
        found[key] = seen
    return found


def _build(
    w: Work, p: Work, made, keep, sizes, strides, walks: dict[int, Walk | None]
) -> Work | None:
    """The joined work; a walk that is None is over the same elements in the same place."""

    def along(h: Handle, k: int, seen: Walk | None) -> Handle:
        if seen is None:
            return Handle(h.slot, h.layout.expanded(w.shape))
        at = h.layout.offset + seen.offset(strides[k])
        return Handle(h.slot, h.layout.view(w.shape, seen.strides(strides[k]), at))

    inputs = _Inputs()
    own_order = walks.pop(-1, None)
    distinct = list(dict.fromkeys(walks.values())) or [own_order]
    read = {
        seen: [inputs.number(along(h, k, seen)) for k, h in enumerate(p.ins)]
        for seen in distinct
    }
    own = {
        i: inputs.number(Handle(h.slot, h.layout.expanded(w.shape)))
        for i, h in enumerate(w.ins)
        if i not in walks
    }
    builder = Builder([h.layout.dtype.compute for h in inputs.handles])
    ends = {
        seen: emit(builder, p, read[seen], _position(builder, w.shape, sizes, seen))
        for seen in distinct
    }
    values = [
        ends[walks[i]][made[h.slot]] if i in walks else own[i]
        for i, h in enumerate(w.ins)
    ]
    results = emit(builder, w, values)
    outs = list(w.outs)
    for k, h in enumerate(keep):
        outs.append(along(h, len(p.ins) + k, own_order))
        # Not by slot: regions share one.
        results.append(ends[own_order][p.outs.index(h)])
    expression = finish(builder, results)
    if len(expression.instructions) > MAX_INSTRUCTIONS:
        return None
    return w.but(
        label=p.label if p.can_fault and not w.can_fault else w.label,
        outs=outs,
        ins=inputs.handles,
        expression=expression,
        parts=[*p.parts, *w.parts],
        row=w.row or p.row,
    )


class _Inputs:
    """Inputs, each once."""

    def __init__(self):
        self.handles: list[Handle] = []
        self.numbers: dict[Handle, int] = {}

    def number(self, h: Handle) -> int:
        if h not in self.numbers:
            self.numbers[h] = len(self.handles)
            self.handles.append(h)
        return self.numbers[h]


def emit(builder: Builder, work: Work, inputs: Sequence[int], index=None) -> list[int]:
    """The instructions of work's expression on other inputs: its outputs' value numbers.

    index: makes the position of the element, where it is not that in the result.
    """
    expression = work.expression
    assert expression is not None
    values = list(inputs)
    for j in expression.instructions:
        operands = tuple(values[o] for o in j.operands)
        if j.name == "index" and index is not None:
            values.append(index(j))
        else:
            values.append(builder.emit(j.name, j.dtype, operands, j.immediate).value)
    return [values[o] for o in expression.outputs]


def _position(builder: Builder, shape, sizes, seen: Walk | None):
    """What stands for `index` in a formula that is walked in another order; None where the
    order is the same."""
    if seen is None:
        return None
    radix = row_major(sizes)
    strides, offset = seen.strides(radix), seen.offset(radix)
    same = all(
        a == b or n == 1
        for a, b, n in zip(strides, row_major(shape), shape, strict=True)
    )
    if same and not offset:
        return None

    def make(j: Instruction) -> int:
        def apply(name, a, number):
            other = builder.emit("const", j.dtype, (), number).value
            return builder.emit(name, j.dtype, (a, other)).value

        i = builder.emit("index", j.dtype).value
        total = builder.emit("const", j.dtype, (), offset).value
        for d, (n, inner) in enumerate(zip(shape, row_major(shape), strict=True)):
            if n == 1 or not strides[d]:
                continue
            c = apply("floordiv", i, inner) if inner > 1 else i
            c = apply("mod", c, n) if d else c
            c = apply("mul", c, strides[d]) if strides[d] != 1 else c
            total = builder.emit("add", j.dtype, (total, c)).value
        return total

    return make
