"""What is asked of floating numbers: signs, nearness, and the inverse of erf."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import scalars as s
from . import elementwise as e
from .reduce import all as every

signbit = e._test(
    "signbit",
    lambda x: s.where(x == 0, s.atan2(x, x.const(-1)) < 0, x < 0),
    np.signbit,
    "Whether the sign is negative, also of -0.0; of NaN it is false.",
)


def _copysign(x: Any, y: Any) -> Any:
    size = s.apply("abs", x)
    return s.where(s.where(y == 0, s.atan2(y, y.const(-1)) < 0, y < 0), -size, size)


copysign = e.elementwise(
    "copysign", _copysign, np.copysign, types="float", domain=((-3, 3), (0.3, 3)),
    doc="|x| with the sign of y; a y of NaN has none.",
)  # fmt: skip


def _hypot(x: Any, y: Any) -> Any:
    a, b = s.apply("abs", x), s.apply("abs", y)
    top, low = s.maximum(a, b), s.minimum(a, b)
    part = low / s.where(top > 0, top, 1)
    root = top * s.sqrt(1 + part * part)
    return s.where(s.isinf(a) | s.isinf(b), a.const(math.inf), root)


hypot = e.elementwise(
    "hypot", _hypot, np.hypot, types="float", domain=((0.3, 3), (0.3, 3)), ulps=6,
    doc="sqrt(x * x + y * y), without overflow.",
)  # fmt: skip

lerp = e.elementwise(
    "lerp",
    lambda x, y, weight: x + weight * (y - x),
    lambda x, y, weight: x + weight * (y - x),
    types="float",
    doc="x + weight * (y - x): from x, for a weight of 0, to y.",
)


def _nan_to_num(x: Any, *, nan: float, posinf: float, neginf: float) -> Any:
    above = s.where(x > 0, x.const(posinf), x.const(neginf))
    return s.where(s.isnan(x), x.const(nan), s.where(s.isinf(x), above, x))


_nan_to_num_op = e.elementwise(
    "nan_to_num",
    _nan_to_num,
    lambda x, *, nan, posinf, neginf: np.nan_to_num(x, True, nan, posinf, neginf),
    types="float",
    static=({"nan": 0.5, "posinf": 3.0, "neginf": -2.0},),
)


def nan_to_num(
    x: Any, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Any:
    """x with other numbers in the place of NaN and the infinities: unless given, 0 and the
    largest and the least of the dtype.

    >>> pn.nan_to_num(pn.tensor([float("nan"), 1.0]), nan=-1.0)
    tensor([-1.,  1.])
    """
    if not x.dtype.is_float:
        return x
    most = float(x.dtype.limits.max)
    high = most if posinf is None else float(posinf)
    low = -most if neginf is None else float(neginf)
    return _nan_to_num_op(x, nan=float(nan), posinf=high, neginf=low)


def isclose(
    x: Any, y: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Any:
    """|x - y| <= atol + rtol * |y|, as bools; equal infinities are close."""
    bound = e.add(e.multiply(e.abs(y), rtol), atol)
    near = e.less_equal(e.abs(e.subtract(x, y)), bound)
    both = e.logical_and(near, e.isfinite(y))
    close = e.logical_or(e.equal(x, y), both)
    if equal_nan:
        close = e.logical_or(close, e.logical_and(e.isnan(x), e.isnan(y)))
    return close


def allclose(
    x: Any, y: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Whether all elements are close; see `isclose`. Reads the answer back.

    >>> pn.allclose(pn.tensor([1.0]), pn.tensor([1.0 + 1e-6]))
    True
    """
    return bool(every(isclose(x, y, rtol, atol, equal_nan)).item())


# Giles, "Approximating the erfinv function", GPU Computing Gems 2 (2011): about 1e-7 of the
# value. A Newton step, by erf itself, squares that.
_MIDDLE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
_TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip


def _horner(w: Any, terms: tuple[float, ...]) -> Any:
    total = w * 0 + terms[0]
    for term in terms[1:]:
        total = total * w + term
    return total


def _erfinv(x: Any) -> Any:
    w = -s.log1p(-x * x)
    is_middle = w < 5
    y = x * s.where(
        is_middle,
        _horner(w - 2.5, _MIDDLE),
        _horner(s.sqrt(s.maximum(w, 5)) - 3, _TAIL),
    )
    for _ in range(2):  # the second is for float64
        slope = 2 / math.sqrt(math.pi) * s.exp(-y * y)
        y = s.where(is_middle, y - (s.erf(y) - x) / slope, y)
    edge = s.where(x > 0, x.const(math.inf), x.const(-math.inf))
    return s.where(s.apply("abs", x) == 1, edge, y)


def _erfinv_reference(x: Any) -> Any:
    from statistics import NormalDist

    inverse = NormalDist().inv_cdf

    def one(v: float) -> float:
        if v == 0:
            return v
        if abs(v) >= 1 or v != v:
            return math.copysign(math.inf, v) if abs(v) == 1 else math.nan
        y = inverse((v + 1) / 2) / math.sqrt(2)
        for _ in range(2):
            y -= (math.erf(y) - v) / (2 / math.sqrt(math.pi) * math.exp(-y * y))
        return y

    return np.vectorize(one, otypes=[np.float64])(x)


erfinv = e._unary(
    "erfinv", _erfinv, _erfinv_reference, (-0.95, 0.95),
    (lambda g, y, x: e.multiply(g, e.multiply(e.exp(e.square(y)), math.sqrt(math.pi) / 2)),),
    ulps=32, doc="The inverse of erf; infinite at -1 and 1, NaN past them.",
)  # fmt: skip
