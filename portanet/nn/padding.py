"""Borders: ConstantPad, ZeroPad, ReflectionPad, ReplicationPad, CircularPad, 1d to 3d."""

from __future__ import annotations

from typing import Any

from ..ops.padding import bordered
from .module import Module


class _Pad(Module):
    rank = 0
    mode = "constant"
    value = 0.0

    def __init__(self, padding: Any):
        count = 2 * self.rank
        given = padding if isinstance(padding, tuple | list) else (padding,) * count
        if len(given) != count or any(not isinstance(n, int) or n < 0 for n in given):
            raise ValueError(
                f"{type(self).__name__}: padding is a number of at least 0, or {count} of "
                f"them, the last axis first, not {padding!r}"
            )
        self.padding = tuple(given)

    def forward(self, x: Any) -> Any:
        name, rank = type(self).__name__, self.rank
        if x.ndim not in (rank + 1, rank + 2):
            raise ValueError(
                f"{name}: (n, channels, ...) with {rank} axes after the channels is needed, "
                f"or without n, got shape {x.shape}"
            )
        pairs = [(self.padding[i], self.padding[i + 1]) for i in range(0, 2 * rank, 2)]
        return bordered(name, x, pairs[::-1], self.mode, self.value)

    def extra_repr(self) -> str:
        return str(self.padding)


class _ConstantPad(_Pad):
    def __init__(self, padding: Any, value: float):
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """A border of a number around x (n, channels, length), or without n.

    padding: a number of elements, or (left, right); in 2d (left, right, top, bottom), in 3d
    with (front, back) after them.

    >>> nn.ConstantPad1d((1, 2), 7.0)(pn.ones((1, 1, 2))).tolist()
    [[[7.0, 1.0, 1.0, 7.0, 7.0]]]
    """

    rank = 1


class ConstantPad2d(_ConstantPad):
    """ConstantPad1d for (n, channels, h, w)."""

    rank = 2


class ConstantPad3d(_ConstantPad):
    """ConstantPad1d for (n, channels, d, h, w)."""

    rank = 3


class ZeroPad1d(_Pad):
    """A border of zeros; sizes as for ConstantPad1d."""

    rank = 1


class ZeroPad2d(_Pad):
    """ZeroPad1d for (n, channels, h, w)."""

    rank = 2


class ZeroPad3d(_Pad):
    """ZeroPad1d for (n, channels, d, h, w)."""

    rank = 3


class ReflectionPad1d(_Pad):
    """A border that mirrors x, without its edge; sizes as for ConstantPad1d.

    >>> nn.ReflectionPad1d(2)(pn.tensor([[[1.0, 2.0, 3.0]]])).tolist()
    [[[3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0]]]
    """

    rank, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """ReflectionPad1d for (n, channels, h, w)."""

    rank, mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """ReflectionPad1d for (n, channels, d, h, w)."""

    rank, mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """A border that repeats the edge of x; sizes as for ConstantPad1d."""

    rank, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """ReplicationPad1d for (n, channels, h, w)."""

    rank, mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """ReplicationPad1d for (n, channels, d, h, w)."""

    rank, mode = 3, "replicate"


class CircularPad1d(_Pad):
    """A border that goes on at the other end of x; sizes as for ConstantPad1d."""

    rank, mode = 1, "circular"


class CircularPad2d(_Pad):
    """CircularPad1d for (n, channels, h, w)."""

    rank, mode = 2, "circular"


class CircularPad3d(_Pad):
    """CircularPad1d for (n, channels, d, h, w)."""

    rank, mode = 3, "circular"
