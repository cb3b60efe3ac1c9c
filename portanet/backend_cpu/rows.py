"""What the words of a launch say of its rows, which decides how they are gone over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..program import Program

LONG_ROW = 64  # elements: a row that is worth a call


class Rows(NamedTuple):
    """What the words of a launch say of its rows."""

    are_long: bool = False
    fixed: frozenset[int] = frozenset()  # operands that are one row for all


def rows_of(program: Program, words: Sequence[int]) -> Rows:
    """What the words of a launch say of its rows."""
    expression = program.expression
    if expression is None or not expression.has_rows or words[-1] < LONG_ROW:
        return Rows()
    row, rank = words[-1], program.rank
    at = 1 + len(program.modes)
    shape, fixed = words[at : at + rank], set()
    for k, mode in enumerate(program.modes):
        if mode == "v":
            at += rank
            if k >= len(program.outputs) and _is_one_row(
                shape, words[at : at + rank], row
            ):
                fixed.add(k)
    return Rows(True, frozenset(fixed))


def _is_one_row(shape: Sequence[int], strides: Sequence[int], row: int) -> bool:
    """Whether every row is the same `row` neighbours."""
    n = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if stride != (n if n < row else 0):
            return False
        n *= size
        if n > row > n // size:
            return False
    return True
