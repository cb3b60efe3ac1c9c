"""Pass: a sum of products of one shape is one product over all their inner axes.

The gradient of a weight that is used at each step of a recurrence is such a sum: of many
products with a short inner axis, each as large as the weight. The operands are copied, one
below the other, instead of the results being added.
"""

from __future__ import annotations

from ..arrays import Handle, _identity, layout
from .graph import Graph, Work
from .regions import _adds


def lengthen(graph: Graph) -> None:
    """Replace sums of products, and the products, by copies and one product."""
    writers, readers = graph.writers(), graph.readers()
    sums: dict[int, list[int]] = {}  # slot of a sum -> numbers of its products
    last: dict[int, int] = {}  # slot of a sum -> number of the addition that ends it
    gone: set[int] = set()

    def terms(h: Handle) -> list[int] | None:
        slot = h.slot
        if graph.slots[slot].kept or len(readers.get(slot, ())) != 1:
            return None
        if slot in sums:
            return sums[slot]
        mine = writers.get(slot, ())
        return [mine[0]] if len(mine) == 1 and _fits(graph.work[mine[0]]) else None

    for i, w in enumerate(graph.work):
        if not _adds(w) or len(writers[w.outs[0].slot]) != 1:
            continue
        found = [terms(h) for h in w.ins]
        if None in found or w.ins[0].slot == w.ins[1].slot:
            continue
        both = [i for part in found for i in part or ()]
        if len({_shape(graph.work[j]) for j in both}) > 1:
            continue
        for h in w.ins:
            gone |= {last.pop(h.slot)} if h.slot in sums else set()
            sums.pop(h.slot, None)
        sums[w.outs[0].slot], last[w.outs[0].slot] = both, i
    made: dict[int, list[Work]] = {}
    for slot, numbers in sums.items():
        _replace(graph, sorted(numbers), last[slot], made)
    graph.work = [
        new
        for i, w in enumerate(graph.work)
        if i not in gone
        for new in made.get(i, [w])
    ]


def _fits(w: Work) -> bool:
    """Whether w is one product that is larger than its operands, all of one dtype."""
    if w.program is None or w.program.kernel != "matmul":
        return False
    batch, m, n, k = w.words[:4]
    dtypes = {h.layout.dtype for h in (*w.outs, *w.ins)}
    return batch == 1 and len(dtypes) == 1 and k * (m + n) <= m * n


def _shape(w: Work):
    return w.words[1], w.words[2], w.outs[0].layout.dtype


def _replace(graph: Graph, numbers: list[int], end: int, made: dict) -> None:
    """Copies where the products were, and one product where the sum ended."""
    first, total = graph.work[numbers[0]], graph.work[end]
    m, n, dtype = _shape(first)
    length = sum(graph.work[j].words[3] for j in numbers)
    itemsize = graph.device.backend.itemsize(dtype)
    a, b = (graph.slot(length * width * itemsize) for width in (m, n))
    at = 0
    for j in numbers:
        w = graph.work[j]
        k, (a_at, a_row, a_column, b_at, b_row, b_column) = w.words[3], w.words[5:11]
        made[j] = [
            _copy(w, w.ins[0], (k, m), (a_column, a_row), a_at, a, at),
            _copy(w, w.ins[1], (k, n), (b_row, b_column), b_at, b, at),
        ]
        at += k
    turned = layout((m, length), dtype, graph.device, (1, m))
    ins = [Handle(a, turned), Handle(b, layout((length, n), dtype, graph.device))]
    out = Handle(total.outs[0].slot, layout((m, n), dtype, graph.device))
    words = (1, m, n, length, 0, 0, 1, m, 0, n, 1)
    made[end] = [
        Work(
            [out], ins, first.label, first.line, None, first.program, words, first.parts
        )
    ]


def _copy(w: Work, x: Handle, shape, strides, offset: int, slot: int, row: int) -> Work:
    """An operand of a product as rows of a longer one, from `row` on."""
    seen = layout(shape, x.layout.dtype, x.layout.device, strides, offset)
    at = (shape[1], 1), row * shape[1]
    to = layout(shape, x.layout.dtype, x.layout.device, *at)
    copy = _identity(to.dtype, to.dtype)
    outs, ins = [Handle(slot, to)], [Handle(x.slot, seen)]
    return Work(outs, ins, "copy", w.line, copy, parts=["copy"])
