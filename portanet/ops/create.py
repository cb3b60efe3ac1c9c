"""Values made from nothing but a place: positions, and what follows from them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .. import scalars as s
from ..dtypes import Dtype, as_dtype, int32
from ..op import Case, Op, Spec
from . import elementwise as e
from .shape import reshape


def _lower_positions(emit, x, *, n, dtype):
    builder = s.Builder(())
    at = builder.emit("index", dtype.compute)
    y = emit.empty((n,), dtype)
    emit.elementwise(s.finish(builder, [at.value]), [y], [])
    return y


_positions = Op(
    "positions",
    lambda x, *, n, dtype: Spec((n,), dtype),
    reference=lambda x, *, n, dtype: np.arange(n),
    cases=lambda rng: [
        Case([np.array(0)], {"n": n, "dtype": as_dtype(t)}, ("int32",))
        for n in (0, 1, 257)
        for t in ("int32", "float32")
    ],
    lower=_lower_positions,
    ulps=0,
    doc="0, 1, ... n - 1 where x is; of x only the device counts.",
)


def positions(x: Any, n: int, dtype: Dtype) -> Any:
    """0, 1, ... n - 1 on the device of x."""
    return _positions(x, n=n, dtype=dtype)


def one_hot(x: Any, num_classes: int, dtype: Any = None) -> Any:
    """y[..., c] = 1 where x[...] == c, else 0; float32 unless a dtype is given.

    An index outside [0, num_classes) gives a row of zeros.

    >>> pn.one_hot(pn.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    if not x.dtype.is_integer:
        raise TypeError(f"one_hot: classes are integers, not {x.dtype.name}")
    num_classes = operator.index(num_classes)
    if num_classes < 1:
        raise ValueError(f"one_hot: num_classes must be at least 1, not {num_classes}")
    hit = e.equal(reshape(x, (*x.shape, 1)), positions(x, num_classes, int32))
    return e.astype(hit, as_dtype("float32" if dtype is None else dtype))


def _grid(name: str, x: Any) -> tuple[Any, Any]:
    if x.ndim < 2:
        raise ValueError(f"{name}: at least 2 axes are needed, got shape {x.shape}")
    rows, columns = x.shape[-2:]
    down = reshape(positions(x, rows, int32), (rows, 1))
    return down, positions(x, columns, int32)


def tril(x: Any, /, *, k: int = 0) -> Any:
    """x with 0 above the k-th diagonal of its last two axes.

    >>> pn.tril(pn.ones((2, 2)))
    tensor([[1., 0.],
            [1., 1.]])
    """
    row, column = _grid("tril", x)
    return e.where(e.greater_equal(e.add(row, k), column), x, 0)


def triu(x: Any, /, *, k: int = 0) -> Any:
    """x with 0 below the k-th diagonal of its last two axes."""
    row, column = _grid("triu", x)
    return e.where(e.less_equal(e.add(row, k), column), x, 0)
