"""Pass: what is read transposed is made transposed.

(a @ b).T = b.T @ a.T, element by element the same sums; the gradient of a weight stored as
(out, in) is such a product. Elementwise work between it and its readers is turned with it.
All then walk over memory in order.
"""

from __future__ import annotations

from dataclasses import replace

from ..arrays import Handle, Layout, layout, row_major
from .graph import Graph, Work
from .walk import walk


def turn(graph: Graph) -> None:
    """Transpose results that are read more in the other order, from the last one back."""
    writers, readers = graph.writers(), graph.readers()

    def turns(slot: int) -> list[Work] | None:
        """The readers of a result that may be turned."""
        if graph.slots[slot].source or graph.slots[slot].kept or len(writers[slot]) > 1:
            return None
        users = [graph.work[j] for j in readers.get(slot, ())]
        return None if any(u.expression is None or u.row for u in users) else users

    for i in reversed(range(len(graph.work))):
        w = graph.work[i]
        sizes = _sizes(w)
        users = turns(w.outs[0].slot) if sizes else None
        if not users:
            continue
        gain, moved = _turned_reads(users, w.outs[0].slot, sizes)
        if w.expression is not None:
            gain -= sum(
                w.size
                for h in w.ins
                if h.layout.contiguous and h.layout.size == w.size
                if graph.slots[h.slot].source or turns(h.slot) is None
            )
        if moved is not None and gain > 0:
            new = _turned_work(w)
            w.outs, w.ins, w.words, w.program = (
                new.outs,
                new.ins,
                new.words,
                new.program,
            )
            for u in users:
                u.ins = [moved.get(h, h) for h in u.ins]


def _sizes(w: Work) -> tuple[int, int, int] | None:
    """The result of turnable work as (batch, rows, columns)."""
    if w.program is not None and w.program.kernel == "matmul":
        batch, m, n = w.words[:3]
    elif w.expression is not None and not w.row and len(w.outs) == 1 < len(w.shape):
        out = w.outs[0].layout
        if not out.contiguous or out.offset:
            return None
        if any(j.name == "index" for j in w.expression.instructions):
            return None
        m, n = w.shape[-2:]
        batch = w.size // (m * n)
    else:
        return None
    return (batch, m, n) if m > 1 and n > 1 else None


def _turned_reads(users: list[Work], slot: int, sizes):
    """How many elements more are read in order after turning; the readers' handles then."""
    moved: dict[Handle, Handle] = {}
    gain = 0
    if all(h.layout.contiguous for w in users for h in w.ins if h.slot == slot):
        return 0, None
    for w in users:
        for h in w.ins:
            if h.slot != slot:
                continue
            new = _turned_layout(h.layout, sizes)
            if new is None:
                return 0, None
            moved[h] = Handle(slot, new)
            gain += new.size * (new.contiguous - h.layout.contiguous)
    return gain, moved


def _turned_layout(x: Layout, sizes) -> Layout | None:
    """How a reader sees (batch, m, n) once it lies as (batch, n, m)."""
    seen = walk(x.shape, x.strides, x.offset, sizes)
    if seen is None:
        return None
    _, m, n = sizes
    radix = (m * n, 1, m)
    strides = [
        s if k > 1 else d
        for s, d, k in zip(
            seen.strides(radix), row_major(x.shape), x.shape, strict=True
        )
    ]
    return x.view(x.shape, strides, seen.offset(radix))


def _turned_work(w: Work) -> Work:
    old = w.outs[0].layout
    *lead, m, n = w.shape
    out = Handle(w.outs[0].slot, layout((*lead, n, m), old.dtype, old.device))
    if w.expression is None:
        return _turned_product(w, out)

    def turned(h: Handle) -> Handle:
        wide = h.layout.expanded(w.shape)
        *steps, a, b = wide.strides
        return Handle(h.slot, wide.view(out.layout.shape, (*steps, b, a)))

    return w.but(outs=[out], ins=[turned(h) for h in w.ins])


def _turned_product(w: Work, out: Handle) -> Work:
    """The product with its operands exchanged and transposed."""
    batch, m, n, k, rank, *rest = w.words
    a, b, tail = rest[:3], rest[3:6], rest[6:]
    shape, a_steps, b_steps = (tail[i * rank : (i + 1) * rank] for i in range(3))
    words = [batch, n, m, k, rank, b[0], b[2], b[1], a[0], a[2], a[1]]
    words += [*shape, *b_steps, *a_steps]
    assert w.program is not None
    program = replace(w.program, inputs=w.program.inputs[::-1])
    return w.but(outs=[out], ins=w.ins[::-1], words=tuple(words), program=program)
