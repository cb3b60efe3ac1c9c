"""How work sees what other work makes: each step of one in steps of the other.

A reader walks over a result, maybe broadcast, permuted or sliced. Where each of its steps
is a fixed number of steps in each dimension of the result, the result's formula can be
computed at the reader's place instead, from inputs walked in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..arrays import Layout, row_major


def is_whole(x: Layout) -> bool:
    """Whether a layout sees elements from the first on in the order in which they lie."""
    return x.contiguous and x.offset == 0


class Walk(NamedTuple):
    """Over a contiguous result of some sizes: at position c it sees element
    start[k] + sum over d of c[d] * steps[d][k] of dimension k."""

    steps: tuple[tuple[int, ...], ...]
    start: tuple[int, ...]

    def strides(self, of: Sequence[int]) -> tuple[int, ...]:
        """The walk's strides over an operand with strides `of` over the result."""
        return tuple(
            sum(a * b for a, b in zip(step, of, strict=True)) for step in self.steps
        )

    def offset(self, of: Sequence[int]) -> int:
        return sum(a * b for a, b in zip(self.start, of, strict=True))


def _digits(step: int, radix: Sequence[int]) -> list[int]:
    """A flat step as steps in each dimension, the largest first."""
    sign, left, found = (-1 if step < 0 else 1), abs(step), []
    for r in radix:
        found.append(sign * (left // r))
        left %= r
    return found


def parts(
    shape: Sequence[int], strides: Sequence[int], sizes: Sequence[int]
) -> list[list[int]]:
    """Each dimension split where the walk wraps around a dimension of `sizes`."""
    radix = row_major(sizes)
    return [_split(n, s, sizes, radix) for n, s in zip(shape, strides, strict=True)]


def _split(n: int, step: int, sizes: Sequence[int], radix: Sequence[int]) -> list[int]:
    found: list[int] = []
    while n > 1 and step:
        digits = _digits(step, radix)
        k = max((i for i, d in enumerate(digits) if d), default=-1)
        if k <= 0 or sizes[k] % digits[k]:
            break
        period = sizes[k] // abs(digits[k])
        if period < 2 or n <= period or n % period:
            break
        found.append(period)
        n, step = n // period, step * period
    return [n, *reversed(found)]


def refined(strides: Sequence[int], split: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The strides over dimensions that have been split."""
    return tuple(
        step * inner
        for step, group in zip(strides, split, strict=True)
        for inner in row_major(group)
    )


def walk(
    shape: Sequence[int], strides: Sequence[int], offset: int, sizes: Sequence[int]
) -> Walk | None:
    """The walk over a contiguous result of `sizes`; None where a step would wrap."""
    radix = row_major(sizes)
    steps = [
        _digits(s, radix) if n > 1 else [0] * len(sizes)
        for n, s in zip(shape, strides, strict=True)
    ]
    start = _digits(offset, radix)
    for k, size in enumerate(sizes):
        moves = [step[k] * (n - 1) for step, n in zip(steps, shape, strict=True)]
        least = start[k] + sum(m for m in moves if m < 0)
        most = start[k] + sum(m for m in moves if m > 0)
        if least < 0 or most >= size:
            return None
    if not sizes and (
        offset or any(s for n, s in zip(shape, strides, strict=True) if n > 1)
    ):
        return None
    return Walk(tuple(map(tuple, steps)), tuple(start))
