"""Pass: a matrix that several short products read transposed is transposed once.

A product of a few rows takes little longer than packing its other operand, as at each step
of a recurrence, whose weight is stored as (out, in).
"""

from __future__ import annotations

from ..arrays import Handle, _identity, layout
from .graph import Graph, Work

FEW_ROWS = 32  # more than that, and packing costs little
USES = 4  # of the matrix, before a copy pays


def unturn(graph: Graph) -> None:
    """Copy matrices that are worth it, before their first use."""
    uses: dict[tuple[int, ...], list[int]] = {}
    for i, w in enumerate(graph.work):
        if w.program is None or w.program.kernel != "matmul":
            continue
        batch, m = w.words[:2]
        row, column = w.words[9:11]
        same = len({h.layout.dtype for h in (*w.outs, *w.ins)}) == 1
        if batch == 1 and 1 < m <= FEW_ROWS and row == 1 and column > 1 and same:
            uses.setdefault((w.ins[1].slot, *w.words[2:4], *w.words[8:11]), []).append(
                i
            )
    writers = graph.writers()
    before: dict[int, Work] = {}
    for (slot, n, k, *steps), numbers in uses.items():
        if len(numbers) >= USES and len(writers.get(slot, ())) <= 1:
            before[numbers[0]] = _copy(graph, slot, n, k, steps, numbers)
    made = []
    for i, w in enumerate(graph.work):
        made += [before[i], w] if i in before else [w]
    graph.work = made


def _copy(graph: Graph, slot: int, n: int, k: int, steps, numbers: list[int]) -> Work:
    """The copy of a (k, n) matrix in order; the products read it from now on."""
    first = graph.work[numbers[0]]
    dtype, (offset, row, column) = first.ins[1].layout.dtype, steps
    seen = layout((k, n), dtype, graph.device, (row, column), offset)
    into = layout((k, n), dtype, graph.device)
    whole = Handle(graph.slot(k * n * graph.device.backend.itemsize(dtype)), into)
    for j in numbers:
        w = graph.work[j]
        w.ins = [w.ins[0], whole]
        w.words = (*w.words[:8], 0, n, 1, *w.words[11:])
    copy = _identity(dtype, dtype)
    return Work([whole], [Handle(slot, seen)], "copy", first.line, copy, parts=["copy"])
