"""Passes: numbers that the trace knows become constants of the expressions that read them,
and expressions lose what their constants decide."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dtypes import bool_, float32
from ..scalars import Builder, Expression, Instruction, finish
from .graph import Graph
from .share import prune_inputs


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


# What constants decide ---------------------------------------------------------------


def simplify(graph: Graph) -> None:
    """Each expression without the instructions whose result is known or an operand."""
    for w in graph.work:
        if w.expression is not None:
            w.expression = simplified(w.expression)
            if _inputs_read(w.expression) < len(w.ins):
                prune_inputs(w, w.expression)
        if w.epilogue is not None:
            w.epilogue = simplified(w.epilogue)
        if w.producer is not None:
            simple = simplified(w.producer.expression)
            w.producer = w.producer._replace(expression=simple)


def _inputs_read(expression: Expression) -> int:
    """How many of the inputs make a difference. A zeros_like reads none."""
    used = {o for j in expression.instructions for o in j.operands}
    return len({*used, *expression.outputs} & {*range(len(expression.inputs))})


def simplified(expression: Expression) -> Expression:
    """The same values to the bit, in fewer instructions."""
    builder = Builder(expression.inputs)
    values: list[int] = list(range(len(expression.inputs)))
    for j in expression.instructions:
        operands = tuple(values[o] for o in j.operands)
        values.append(_emit(builder, j, operands))
    return finish(builder, [values[o] for o in expression.outputs])


def _emit(builder: Builder, j: Instruction, operands: tuple[int, ...]) -> int:
    known = _same_as(builder, j, operands)
    if known is not None:
        return known
    numbers = [_number(builder, o) for o in operands]
    if operands and all(n is not None for n in numbers):
        value = _computed(builder, j, operands, numbers)
        if value is not None:
            return builder.emit("const", j.dtype, (), value).value
    return builder.emit(j.name, j.dtype, operands, j.immediate).value


def _made_by(builder: Builder, value: int) -> Instruction | None:
    k = len(builder.inputs)
    return builder.instructions[value - k] if value >= k else None


def _number(builder: Builder, value: int) -> Any:
    made = _made_by(builder, value)
    return made.immediate if made is not None and made.name == "const" else None


def _same_as(builder: Builder, j: Instruction, operands: tuple[int, ...]) -> int | None:
    """The value that an instruction gives back unchanged, if it does.

    x + 0 is not among them: it turns -0 into 0.
    """
    if j.name == "cast":
        return _uncast(builder, j, operands[0])
    if j.name == "where":
        choice = _number(builder, operands[0])
        if operands[1] == operands[2] or choice is not None:
            return operands[2 if choice is False else 1]
        return None
    if len(operands) != 2 or j.dtype is bool_:
        return None
    a, b = (_number(builder, o) for o in operands)
    if j.name in ("mul", "div") and b == 1:
        return operands[0]
    if j.name == "mul" and a == 1:
        return operands[1]
    if j.name == "sub" and b == 0 and math.copysign(1, b) > 0:
        return operands[0]
    if j.name in ("add", "sub", "shl", "shr") and b == 0 and j.dtype.is_integer:
        return operands[0]
    return None


def _uncast(builder: Builder, j: Instruction, x: int) -> int | None:
    """A cast to the type that the value has, or back to that from which it was widened."""
    if builder.dtype_of(x) is j.dtype:
        return x
    made = _made_by(builder, x)
    if made is None or made.name != "cast":
        return None
    start = builder.dtype_of(made.operands[0])
    return made.operands[0] if start is j.dtype and start is bool_ else None


_ARITHMETIC = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
}


def _computed(builder: Builder, j: Instruction, operands, numbers) -> Any:
    """The number that an instruction on numbers gives, where every device agrees on it."""
    if j.name not in _ARITHMETIC or j.dtype is not float32:
        return None
    with np.errstate(all="ignore"):
        value = _ARITHMETIC[j.name](*(np.float32(n) for n in numbers))
    normal = value == 0 or np.finfo(np.float32).tiny <= abs(value) < np.inf
    return float(value) if normal else None
