"""Running sums, products, extremes and log-sums along an axis."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..casting import casting
from ..dtypes import as_dtype, float32, int32
from ..op import Case, Op, Spec
from . import elementwise as e
from .index import take_along_axis
from .reduce import _wide, sum
from .shape import (
    broadcast_to,
    flip,
    moveaxis,
    normalise_axis,
    pad,
    reshape,
    split,
)


def _lower_scan(emit, x, *, which, mode):
    shape = x.layout.shape
    y = emit.empty(shape, int32 if which in _EXTREMES else x.layout.dtype)
    x, rows, stride, step = emit.rows(x)
    words = [rows, shape[-1], 1, x.layout.offset, stride, step, 0]
    emit.kernel("scan", words, [y], [x], (which, mode))
    return y


_EXTREMES = ("argmax", "argmin")


def _scan_reference(x, *, which, mode):
    if which in _EXTREMES:
        return _extreme_reference(x, which)
    if which == "logsumexp":
        return np.logaddexp.accumulate(x, -1) if x.size else x
    y = np.cumsum(x, -1) if which == "sum" else np.cumprod(x, -1)
    if mode == "exclusive":
        start = np.full_like(y[..., :1], 0 if which == "sum" else 1)
        y = np.concatenate([start, y[..., :-1]], -1)[..., : x.shape[-1]]
    return y


def _extreme_reference(x, which):
    """Where the extreme so far was met last; NaN is one."""
    over = np.maximum if which == "argmax" else np.minimum
    best = over.accumulate(x.astype(np.float64), -1) if x.size else x
    met = (x == best) | np.isnan(x)
    return np.maximum.accumulate(np.where(met, np.arange(x.shape[-1]), 0), -1)


def _logsumexp_grad(g, y, x):
    """Sum over i >= j of g[i] exp(x[j] - y[i]), the signs of g apart, in logarithms."""
    parts = []
    for sign in (1, -1):
        size = e.log(e.maximum(e.multiply(g, sign), 0))
        back = flip(e.subtract(size, y), axis=-1)
        back = flip(_scan(back, which="logsumexp", mode="inclusive"), axis=-1)
        parts.append(e.exp(e.add(back, x)))
    return e.subtract(*parts)


def _scan_grad(g, y, x, *, which, mode):
    if which in _EXTREMES:
        return None
    if which == "logsumexp":
        return _logsumexp_grad(g, y, x)
    if which == "sum":
        return flip(_scan(flip(g, axis=-1), which="sum", mode=mode), axis=-1)
    return _cumprod_grad(g, x, mode)


def _cumprod_grad(g, x, mode):
    """dy[i]/dx[k] is the product of x[j], j <= i, without x[k]; so the gradient is that of
    x[j], j < k, times h[k] = g[k] + x[k + 1] h[k + 1]. No division, so that zeros are right."""
    g = g if mode == "inclusive" else _shifted(g)
    before = _scan(x, which="prod", mode="exclusive")
    return e.multiply(before, _recurrence(_shifted(x), g))


def _shifted(x):
    """x[1:] and a 0, along the last axis."""
    n, borders = x.shape[-1], [(0, 0)] * (len(x.shape) - 1)
    return pad(split(x, [1, n - 1], axis=-1)[1], (*borders, (0, 1))) if n else x


ROW = 8  # of a table of products


def _recurrence(a, g):
    """h[k] = g[k] + a[k] h[k + 1] along the last axis, h[n] = 0. By rows of ROW: each alone,
    then what comes into it from the next one, which is the same problem for the rows."""
    (*lead, n), rows = g.shape, -(-g.shape[-1] // ROW)
    if n <= ROW:
        return _alone(a, g)[0]
    more = rows * ROW - n
    borders = (*[(0, 0)] * len(lead), (0, more))
    a, g = (reshape(pad(v, borders), (*lead, rows, ROW)) for v in (a, g))
    own, through = _alone(a, g)
    first = [split(v, [1, ROW - 1], axis=-1)[0] for v in (through, own)]
    after = _shifted(_recurrence(*(reshape(v, (*lead, rows)) for v in first)))
    h = e.add(own, e.multiply(through, reshape(after, (*lead, rows, 1))))
    return split(reshape(h, (*lead, rows * ROW)), [n, more], axis=-1)[0]


def _alone(a, g):
    """h of a row, by an (n, n) table, and the products of a[k] to the last."""
    *lead, n = a.shape
    row, column = _places(a, n)
    table = broadcast_to(reshape(a, (*lead, 1, n)), (*lead, n, n))
    table = e.where(e.less(column, row), 1, table)
    runs = _scan(table, which="prod", mode="inclusive")  # [k, i]: a[k] to a[i]
    reaching = e.where(e.less(column, row), 0, runs)
    later = sum(e.multiply(reaching, reshape(_shifted(g), (*lead, 1, n))), axis=-1)
    through = split(runs, [n - 1, 1], axis=-1)[1] if n else runs
    return e.add(g, later), reshape(through, a.shape)


def _places(x, n):
    from .create import positions

    along = positions(x, n, int32)
    return reshape(along, (n, 1)), reshape(along, (1, n))


_scan = Op(
    "scan",
    lambda x, *, which, mode: Spec(x.shape, int32 if which in _EXTREMES else x.dtype),
    grad=(_scan_grad,),
    reference=_scan_reference,
    cases=lambda rng: (
        [
            Case(
                [rng.uniform(0.5, 1.5, s)],
                {"which": w, "mode": m},
                ("float32", "float64"),
            )
            for s in ((7,), (3, 5), (2, 1), (3, 0), (2, 3, 4), (2, 300))
            for w in ("sum", "prod")
            for m in ("inclusive", "exclusive")
        ]
        + [
            Case(
                [rng.integers(-9, 9, (3, 500))],
                {"which": "sum", "mode": "inclusive"},
                ("int32",),
            )
        ]
        + [
            Case(
                [np.round(rng.normal(size=shape) * 3)],
                {"which": w, "mode": "inclusive"},
                ("float32", "float64", "float16", "int32", "uint8", "bool"),
            )
            for shape in ((7,), (3, 5), (2, 0), (3, 1500))
            for w in _EXTREMES
        ]
        + [
            Case([np.array([1, np.nan, 0, 2, np.nan, 3.0])], {"which": w, "mode": m})
            for w, m in [("argmax", "inclusive"), ("argmin", "inclusive")]
        ]
        + [
            Case(
                [rng.uniform(-9, 9, shape)],
                {"which": "logsumexp", "mode": "inclusive"},
                ("float32", "float64"),
            )
            for shape in ((7,), (3, 5), (2, 0), (3, 1500))
        ]
    ),
    lower=_lower_scan,
    kernel="scan",
    ulps=64,
)


def _along(which: str, name: str, x: Any, axis: int | None) -> tuple[Any, Any, int]:
    """x with the axis last, its scan, and the axis."""
    if axis is None:
        if x.ndim != 1:
            raise ValueError(f"{name}: name the axis of a tensor of shape {x.shape}")
        axis = 0
    at = normalise_axis(name, axis, x.ndim, x.shape)
    rows = moveaxis(x, at, -1)
    return rows, _scan(rows, which=which, mode="inclusive"), at


def _cumulative(which: str, name: str, x: Any, axis: Any, dtype: Any) -> Any:
    if x.ndim == 0:
        return reshape(_cumulative(which, name, reshape(x, (1,)), 0, dtype), ())
    x = e.astype(x, _wide(x.dtype) if dtype is None else as_dtype(dtype))
    _, y, at = _along(which, name, x, axis)
    return moveaxis(y, -1, at)


class Extremes(NamedTuple):
    values: Any
    indices: Any


def _extremes(which: str, name: str, x: Any, axis: int | None) -> Extremes:
    rows, places, at = _along(which, name, x, axis)
    values = take_along_axis(rows, places, axis=-1, name=name)
    return Extremes(moveaxis(values, -1, at), moveaxis(places, -1, at))


def cummax(x: Any, /, *, axis: int | None = None) -> Extremes:
    """The largest of x[0], ..., x[i] along an axis, and its index, int32.

    Of equals the index is the last's, to which the gradient goes, as in PyTorch. From a NaN
    on all are NaN.

    >>> pn.cummax(pn.tensor([1.0, 3.0, 2.0])).values
    tensor([1., 3., 3.])
    """
    return _extremes("argmax", "cummax", x, axis)


def cummin(x: Any, /, *, axis: int | None = None) -> Extremes:
    """The smallest of x[0], ..., x[i] along an axis, and its index; as for cummax.

    >>> pn.cummin(pn.tensor([3.0, 1.0, 2.0])).indices
    tensor([0, 1, 1], dtype=int32)
    """
    return _extremes("argmin", "cummin", x, axis)


@casting
def logcumsumexp(x: Any, /, *, axis: int | None = None) -> Any:
    """log(exp(x[0]) + ... + exp(x[i])) along an axis, without overflow.

    >>> pn.logcumsumexp(pn.tensor([1000.0, 1000.0]))
    tensor([1000.    , 1000.6932])
    """
    x = x if x.dtype.is_float else e.astype(x, float32)
    _, y, at = _along("logsumexp", "logcumsumexp", x, axis)
    return moveaxis(y, -1, at)


@casting
def cumulative_sum(x: Any, /, *, axis: int | None = None, dtype: Any = None) -> Any:
    """y[i] = x[0] + ... + x[i] along an axis.

    >>> pn.cumulative_sum(pn.tensor([1, 2, 3]))
    tensor([1, 3, 6], dtype=int32)
    """
    return _cumulative("sum", "cumulative_sum", x, axis, dtype)


@casting
def cumulative_prod(x: Any, /, *, axis: int | None = None, dtype: Any = None) -> Any:
    """y[i] = x[0] * ... * x[i] along an axis."""
    return _cumulative("prod", "cumulative_prod", x, axis, dtype)
