"""Pass: numbers that the trace knows become constants of the expressions that read them."""

from __future__ import annotations

from ..scalars import Builder, Expression, finish
from .graph import Graph


def fold_numbers(graph: Graph) -> None:
    """Elementwise work reads no buffer for a number."""
    for w in graph.work:
        if w.expression is None:
            continue
        numbers = {}
        for i, h in enumerate(w.ins):
            source = graph.slots[h.slot].source
            if source is not None and source.number is not None:
                numbers[i] = source.number
        if numbers:
            w.expression = with_numbers(w.expression, numbers)
            w.ins = [h for i, h in enumerate(w.ins) if i not in numbers]


def with_numbers(expression: Expression, numbers: dict[int, object]) -> Expression:
    """The expression with some of its inputs replaced by constants."""
    kept = [t for i, t in enumerate(expression.inputs) if i not in numbers]
    builder = Builder(kept)
    values, at = [], 0
    for i, t in enumerate(expression.inputs):
        if i in numbers:
            number = numbers[i]
            number = float(number) if t.is_float else number  # type: ignore[arg-type]
            values.append(builder.emit("const", t, (), number).value)
        else:
            values.append(at)
            at += 1
    for j in expression.instructions:
        operands = tuple(values[o] for o in j.operands)
        values.append(builder.emit(j.name, j.dtype, operands, j.immediate).value)
    return finish(builder, [values[o] for o in expression.outputs])
