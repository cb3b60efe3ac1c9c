"""Pass: elementwise work over the same elements becomes one launch.

Work joins an earlier one where it reads what that one writes, element by element. The joined
work runs at the place of either, whichever keeps the order; what nobody else reads is not
stored. Values pass from one expression to the next as they are computed, so only types that
are stored as they are computed join.
"""

from __future__ import annotations

from ..arrays import Handle, Layout, reshaped_strides
from ..scalars import Builder, finish
from .graph import Graph, Work

# Expressions stay small enough to read, and to keep their values in registers.
MAX_INSTRUCTIONS = 200


def fuse(graph: Graph, max_operands: int) -> None:
    """Join elementwise work until nothing more fits together."""
    position = 0
    while position < len(graph.work):
        joined = _join_one(graph, position, max_operands)
        position = joined if joined is not None else position + 1
    _drop_unread(graph)


def _join_one(graph: Graph, position: int, max_operands: int) -> int | None:
    """Join the work at a position with one that it reads from: where to go on, or None."""
    consumer = graph.work[position]
    if consumer.expression is None:
        return None
    writers = graph.writers()
    for h in consumer.ins:
        mine = writers.get(h.slot, [])
        if len(mine) != 1 or mine[0] >= position:
            continue
        producer = graph.work[mine[0]]
        if not _fits(graph, producer, consumer, h):
            continue
        made = join(graph, producer, consumer, mine[0], position)
        if made is None or len(made.ins) + len(made.outs) > max_operands:
            continue
        if len(made.expression.instructions) > MAX_INSTRUCTIONS:  # type: ignore[union-attr]
            continue
        place = _place(graph, mine[0], position)
        if place is None:
            continue
        other = position if place == mine[0] else mine[0]
        graph.work[place] = made
        del graph.work[other]
        return min(mine[0], position)
    return None


def _fits(graph: Graph, producer: Work, consumer: Work, h: Handle) -> bool:
    """Whether the consumer reads through h each element that the producer writes, in order."""
    if producer.expression is None:
        return False
    out = next(o for o in producer.outs if o.slot == h.slot)
    dtype = out.layout.dtype
    same = h.layout.dtype is dtype and dtype.compute is dtype
    return same and _same_elements(out.layout, h.layout, consumer.outs[0].layout.shape)


def _same_elements(written: Layout, read: Layout, shape: tuple[int, ...]) -> bool:
    wide = read.expanded(shape)
    n = 1
    for k in shape:
        n *= k
    return (
        written.contiguous
        and wide.contiguous
        and wide.offset == written.offset
        and n == written.size
    )


def _place(graph: Graph, first: int, second: int) -> int | None:
    """Where the joined work may run: at the second's place if nobody in between reads the
    first, else at the first's if the second needs nothing made in between."""
    between = graph.work[first + 1 : second]
    made_first = {h.slot for h in graph.work[first].outs}
    if not any(h.slot in made_first for w in between for h in (*w.ins, *w.outs)):
        return second
    made_between = {h.slot for w in between for h in w.outs}
    if not any(h.slot in made_between for h in graph.work[second].ins):
        return first
    return None


def join(graph: Graph, a: Work, b: Work, first: int, second: int) -> Work | None:
    """One piece of work that does a, then b with a's results."""
    assert a.expression is not None and b.expression is not None
    shape = b.outs[0].layout.shape
    a_ins = [_reshaped(h, a.outs[0].layout.shape, shape) for h in a.ins]
    if any(h is None for h in a_ins):
        return None
    ins: list[Handle] = []
    inner = [_number_of(ins, h) for h in a_ins if h is not None]
    links: dict[int, int] = {}  # input of b -> output of a
    for i, h in enumerate(b.ins):
        for k, o in enumerate(a.outs):
            if h.slot == o.slot and _same_elements(o.layout, h.layout, shape):
                links[i] = k
        if i not in links and any(h.slot == o.slot for o in a.outs):
            return None  # b reads a's result in another order as well
    outer = [None if i in links else _number_of(ins, h) for i, h in enumerate(b.ins)]
    types = {}
    for numbers, work in ((inner, a), (outer, b)):
        for n, t in zip(numbers, work.expression.inputs, strict=True):  # type: ignore[union-attr]
            if n is not None:
                types[n] = t
    builder = Builder([types[i] for i in range(len(ins))])
    made_a = _emit(builder, a, inner)
    b_inputs = [made_a[links[i]] if n is None else n for i, n in enumerate(outer)]
    made_b = _emit(builder, b, b_inputs)
    keep = [k for k, o in enumerate(a.outs) if _still_read(graph, o, first, second)]
    outs = [_as(a.outs[k], shape) for k in keep] + list(b.outs)
    ends = [made_a[k] for k in keep] + made_b
    return Work(
        outs, ins, b.label, b.line, finish(builder, ends), parts=[*a.parts, *b.parts]
    )


def _as(h: Handle, shape) -> Handle:
    """A contiguous result, under the shape of the joined work."""
    return Handle(h.slot, h.layout.view(shape, _strides(shape), h.layout.offset))


def _strides(shape):
    from ..arrays import row_major

    return row_major(shape)


def _reshaped(h: Handle, old: tuple[int, ...], new: tuple[int, ...]) -> Handle | None:
    """An input of work over `old`, walked in the same order over `new`."""
    wide = h.layout.expanded(old)
    if old == new:
        return Handle(h.slot, wide)
    strides = reshaped_strides(old, wide.strides, new)
    return None if strides is None else Handle(h.slot, wide.view(new, strides))


def _number_of(ins: list[Handle], h: Handle) -> int:
    for i, known in enumerate(ins):
        if known.slot == h.slot and known.layout is h.layout:
            return i
    ins.append(h)
    return len(ins) - 1


def _emit(builder: Builder, work: Work, inputs) -> list[int]:
    """The instructions of work's expression on other inputs: its outputs' value numbers."""
    expression = work.expression
    assert expression is not None
    values = list(inputs)
    for j in expression.instructions:
        operands = tuple(values[o] for o in j.operands)
        values.append(builder.emit(j.name, j.dtype, operands, j.immediate).value)
    return [values[o] for o in expression.outputs]


def _still_read(graph: Graph, out: Handle, first: int, second: int) -> bool:
    """Whether anybody but the work at `second` reads what the work at `first` writes."""
    if graph.slots[out.slot].kept:
        return True
    return any(
        h.slot == out.slot
        for i, w in enumerate(graph.work)
        if i not in (first, second)
        for h in w.ins
    )


def _drop_unread(graph: Graph) -> None:
    """Forget work whose results nobody reads."""
    while True:
        readers = graph.readers()
        kept = []
        for w in graph.work:
            used = [graph.slots[h.slot].kept or h.slot in readers for h in w.outs]
            if any(used) or w.can_fault:
                kept.append(w)
        if len(kept) == len(graph.work):
            return
        graph.work = kept
