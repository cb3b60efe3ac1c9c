"""Diagonals and blocks: diagonal, trace, kron; zeros between elements; quarter turns."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ..dtypes import float32, int32
from ..op import Case, Op, Spec
from . import elementwise as e
from .index import scatter_add
from .reduce import sum as total
from .shape import (
    _slice,
    _unslice,
    broadcast_to,
    flip,
    moveaxis,
    normalise_axes,
    normalise_axis,
    reshape,
    swapaxes,
)

# The diagonal of the last two axes ------------------------------------------------------------


def _length(rows: int, columns: int, offset: int) -> int:
    return max(0, min(rows + min(offset, 0), columns - max(offset, 0)))


def _view(emit, x, offset):
    """The diagonal of a handle, as a view."""
    *lead, rows, columns = x.layout.shape
    *steps, down, across = x.layout.strides
    n = _length(rows, columns, offset)
    at = x.layout.offset + (offset * across if offset > 0 else -offset * down)
    return emit.view(x, (*lead, n), (*steps, down + across), at if n else 0)


_diagonal = Op(
    "diagonal",
    lambda x, *, offset: Spec(
        (*x.shape[:-2], _length(x.shape[-2], x.shape[-1], offset)), x.dtype
    ),
    grad=(
        lambda g, y, x, *, offset: _on_diagonal(g, offset=offset, shape=x.shape[-2:]),
    ),
    reference=lambda x, *, offset: np.diagonal(x, offset, -2, -1),
    cases=lambda rng: [
        Case([rng.normal(size=shape)], {"offset": k}, ("float32", "int32"))
        for shape in ((3, 5), (2, 4, 3), (0, 2))
        for k in (0, 1, -2, 7)
    ],
    lower=lambda emit, x, *, offset: _view(emit, x, offset),
    ulps=0,
)


def _lower_on_diagonal(emit, v, *, offset, shape):
    y = emit.empty((*v.layout.shape[:-1], *shape), v.layout.dtype)
    emit.fill(0, y)
    emit.copy(v, _view(emit, y, offset))
    return y


def _on_diagonal_reference(v, *, offset, shape):
    y = np.zeros((*v.shape[:-1], *shape), v.dtype)
    i = np.arange(v.shape[-1])
    y[..., i + max(-offset, 0), i + max(offset, 0)] = v
    return y


_on_diagonal = Op(
    "on_diagonal",
    lambda v, *, offset, shape: Spec((*v.shape[:-1], *shape), v.dtype),
    grad=(lambda g, y, v, *, offset, shape: _diagonal(g, offset=offset),),
    reference=_on_diagonal_reference,
    cases=lambda rng: [
        Case([rng.normal(size=(2, 3))], {"offset": k, "shape": s})
        for k, s in [(0, (3, 5)), (2, (3, 5)), (-1, (4, 3))]
    ],
    lower=_lower_on_diagonal,
    ulps=0,
    doc="Zeros with v on a diagonal of the last two axes.",
)


def diagonal(x: Any, /, *, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Any:
    """y[..., i] = x[..., i, i + offset] of two axes, which become the last; a view.

    offset: above 0 the diagonals above the main one, below 0 those below.

    >>> pn.diagonal(pn.tensor([[1, 2], [3, 4]]))
    tensor([1, 4], dtype=int32)
    """
    if x.ndim < 2:
        raise ValueError(f"diagonal: at least 2 axes are needed, got shape {x.shape}")
    a, b = (normalise_axis("diagonal", n, x.ndim, x.shape) for n in (axis1, axis2))
    if a == b:
        raise ValueError(f"diagonal: axis1 and axis2 are both {a}")
    x = moveaxis(x, (a, b), (-2, -1))
    return _diagonal(x, offset=operator.index(offset))


def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    """The sum of the diagonal of the last two axes.

    >>> pn.trace(pn.tensor([[1.0, 2.0], [3.0, 4.0]])).item()
    5.0
    """
    return total(diagonal(x, offset=offset), axis=-1, dtype=dtype)


def kron(a: Any, b: Any, /) -> Any:
    """The Kronecker product: blocks a[i, j] * b; of any number of axes.

    >>> pn.kron(pn.tensor([1, 2]), pn.tensor([1, 10]))
    tensor([ 1, 10,  2, 20], dtype=int32)
    """
    rank = max(a.ndim, b.ndim)
    sizes = [(1,) * (rank - x.ndim) + tuple(x.shape) for x in (a, b)]
    a = reshape(a, tuple(n for size in sizes[0] for n in (size, 1)))
    b = reshape(b, tuple(n for size in sizes[1] for n in (1, size)))
    shape = tuple(m * n for m, n in zip(*sizes, strict=True))
    return reshape(e.multiply(a, b), shape)


# Zeros between elements -----------------------------------------------------------------------


def _check_dilation(name: str, dilation: Any) -> int:
    if not isinstance(dilation, int) or dilation < 0:
        raise ValueError(
            f"{name}: dilation is a number of zeros >= 0, not {dilation!r}"
        )
    return dilation + 1


def dilate(x: Any, /, axes: Any, dilation: int) -> Any:
    """x with `dilation` zeros after each element along the axes.

    >>> pn.dilate(pn.tensor([1, 2]), 0, 1)
    tensor([1, 0, 2, 0], dtype=int32)
    """
    step = _check_dilation("dilate", dilation)
    chosen = normalise_axes("dilate", axes, x.shape)
    shape = tuple(n * step if d in chosen else n for d, n in enumerate(x.shape))
    region = tuple((0, step if d in chosen else 1, n) for d, n in enumerate(x.shape))
    return _unslice(x, shape=shape, region=region)


def undilate(x: Any, /, axes: Any, dilation: int) -> Any:
    """x without the `dilation` elements that follow each one kept: the inverse of dilate.

    >>> pn.undilate(pn.tensor([1, 0, 2, 0]), 0, 1)
    tensor([1, 2], dtype=int32)
    """
    step = _check_dilation("undilate", dilation)
    chosen = normalise_axes("undilate", axes, x.shape)
    region = [
        (0, step, -(-n // step)) if d in chosen else (0, 1, n)
        for d, n in enumerate(x.shape)
    ]
    return _slice(x, region=tuple(region))


# Turns, counts ----------------------------------------------------------------------------------


def rot90(x: Any, /, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Any:
    """x turned k times by 90 degrees, from the first of the axes towards the second.

    >>> pn.rot90(pn.tensor([[1, 2], [3, 4]]))
    tensor([[2, 4],
            [1, 3]], dtype=int32)
    """
    if len(axes) != 2:
        raise ValueError(f"rot90: axes are two, not {axes}")
    a, b = (normalise_axis("rot90", n, x.ndim, x.shape) for n in axes)
    if a == b:
        raise ValueError(f"rot90: axes {axes} are the same")
    k = operator.index(k) % 4
    if k == 2:
        return flip(x, axis=(a, b))
    if k == 1:
        return swapaxes(flip(x, axis=b), a, b)
    return flip(swapaxes(x, a, b), axis=b) if k else x


def bincount(x: Any, /, weights: Any = None, *, minlength: int = 0) -> Any:
    """How often each of 0, 1, ... occurs in a 1-d x of integers, int32; with weights, the
    sum of those of each, float32 or theirs.

    The largest element is read back: it gives the size of the result.

    >>> pn.bincount(pn.tensor([1, 3, 1]))
    tensor([0, 2, 0, 1], dtype=int32)
    """
    if x.ndim != 1 or not x.dtype.is_integer:
        raise ValueError(
            f"bincount: a 1-d tensor of integers is needed, not {x.dtype.name} of shape "
            f"{x.shape}"
        )
    values = x.numpy()
    if values.size and values.min() < 0:
        raise ValueError(f"bincount: element {values.min()} is below 0")
    n = max(int(values.max()) + 1 if values.size else 0, operator.index(minlength))
    if weights is None:
        weights = broadcast_to(x.constant(1, int32), x.shape)
    elif tuple(weights.shape) != tuple(x.shape):
        raise ValueError(
            f"bincount: weights {weights.shape} are not of shape {x.shape}"
        )
    elif not weights.dtype.is_float:
        weights = e.astype(weights, float32)
    zeros = broadcast_to(weights.constant(0, weights.dtype), (n,))
    return scatter_add(zeros, x, weights)
