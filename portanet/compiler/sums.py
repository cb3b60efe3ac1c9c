"""Pass: a sum over the last axes joins the elementwise work that makes what is summed.

As a formula with a sum over rows it is elementwise work itself, so that fusion can join the
two. Those that join nothing become the kernels again that they were.
"""

from __future__ import annotations

import math

from ..arrays import Handle, row_major
from ..op import LONGEST_ROW
from ..scalars import Builder, Expression, finish
from .graph import Graph, Work
from .walk import is_whole

FORMULAS = {"sum": "row_sum", "mean": "row_mean", "max": "row_max"}


def lift(graph: Graph) -> dict[Work, Work]:
    """Write sums of elementwise results as formulas: such work -> what it was."""
    was: dict[Work, Work] = {}
    if not getattr(graph.device.backend, "sums_rows", False):
        return was
    writers = graph.writers()
    for i, w in enumerate(graph.work):
        made = writers.get(w.ins[0].slot, ()) if _is_sum(w) else ()
        if len(made) != 1 or graph.work[made[0]].expression is None:
            continue
        formula = _formula(w, graph.work[made[0]])
        if formula is not None:
            was[formula] = w
            graph.work[i] = formula
    return was


def settle(graph: Graph, was: dict[Work, Work]) -> None:
    """Make kernels of the formulas that nothing has joined."""
    graph.work = [was.get(w, w) for w in graph.work]


def _is_sum(w: Work) -> bool:
    program = w.program
    return (
        program is not None
        and program.kernel == "reduce"
        and program.options[0] in FORMULAS
        and program.inputs[0].compute is program.outputs[0].compute
        and program.inputs[0].compute.is_float
    )


def _formula(w: Work, p: Work) -> Work | None:
    """The sum w of what p makes, over p's elements; None where these are no rows of them."""
    assert w.program is not None
    kept, row, kept_rank, _, offset, *rest = w.words
    at = 2 * kept_rank
    across = [s for n, s in zip(rest[:kept_rank], rest[kept_rank:at]) if n != 1]
    along = rest[at:]
    sizes, steps = along[: len(along) // 2], along[len(along) // 2 :]
    shape = [n for n in rest[:kept_rank] if n != 1]
    in_rows = across == [s * row for s in row_major(shape)]
    one_by_one = all(
        a == b for a, b, n in zip(steps, row_major(sizes), sizes) if n != 1
    )
    if offset or not in_rows or not one_by_one or not 1 < row <= LONGEST_ROW:
        return None
    written = next(h for h in p.outs if h.slot == w.ins[0].slot)
    whole = is_whole(written.layout) and written.layout.shape == p.shape
    k = len(p.shape)
    while k and math.prod(p.shape[k:]) < row:
        k -= 1
    if not whole or p.size != kept * row or math.prod(p.shape[k:]) != row:
        return None
    strides = (*row_major(p.shape[:k]), *(0 for _ in p.shape[k:]))
    out = w.outs[0]
    return w.but(
        outs=[Handle(out.slot, out.layout.view(p.shape, strides))],
        ins=[Handle(written.slot, written.layout)],
        expression=_expression(w),
        program=None,
        words=(),
        row=row,
    )


def _expression(w: Work) -> Expression:
    assert w.program is not None
    dtype = w.program.inputs[0].compute
    builder = Builder([dtype])
    made = builder.emit(FORMULAS[w.program.options[0]], dtype, (0,))
    return finish(builder, [made.value])
