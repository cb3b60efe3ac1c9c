"""Bytecode as text, for `portanet show`."""

from __future__ import annotations

from collections.abc import Mapping

from ..program import Program
from .lower import (
    CONSTANT,
    ONE_A_ROW,
    OPERAND,
    REGISTER,
    SCALAR,
    VIEW,
    Lowering,
    lower,
)
from .rows import Rows


def listing(program: Program, opcodes: Mapping[str, int], rows: Rows = Rows()) -> str:
    """The bytecode as text: one instruction a line, slots named by what they are."""
    lowered = lower(program, opcodes, rows)
    names = {}
    for (kind, value), slot in lowered.slots.items():
        names[slot] = _slot_name(lowered, kind, value)
    what = "epilogue" if lowered.is_epilogue else program.kernel
    what = "producer" if lowered.is_producer else what
    lines = [f"; {what}, blocks of {lowered.block()} elements"]
    for title, code in (
        ("once", lowered.prologue),
        ("once, for a block", lowered.fills),
        ("for each block", lowered.body),
    ):
        if code:
            lines.append(f"{title}:")
        for step in code:
            out, *sources = (names[s] for s in step.slots)
            text = f"  {out:8} = {step.name} {', '.join(sources)}".rstrip()
            lines.append(f"{text}  ; row by row" if step.by_rows else text)
    return "\n".join(lines)


def _slot_name(lowered: Lowering, kind: int, value: int) -> str:
    if kind in (OPERAND, SCALAR, VIEW, ONE_A_ROW):
        outputs = lowered.outputs
        name = f"y{value}" if value < outputs else f"x{value - outputs}"
        return (
            name + {OPERAND: "", SCALAR: "[0]", VIEW: "[...]", ONE_A_ROW: "[row]"}[kind]
        )
    if kind == CONSTANT:
        return _constant_text(lowered, value)
    return f"{'r' if kind == REGISTER else 'u'}{value}"


def _constant_text(lowered: Lowering, number: int) -> str:
    constants = [i for i in lowered.expression.instructions if i.name == "const"]
    return repr(constants[number].immediate)
