"""Embedding: rows of a table by their numbers."""

from __future__ import annotations

from typing import Any

from ..dtypes import uint32
from ..op import Op
from . import elementwise as e
from .index import index_add, take
from .reduce import norm
from .shape import broadcast_to, expand_dims, reshape


# A part: x with its gradient multiplied by a factor; nothing is launched.
_scaled_gradient = Op(
    "scaled_gradient",
    lambda x, factor: x,
    grad=(lambda g, y, x, factor: e.multiply(g, factor), None),
    lower=lambda emit, x, factor: x,
    listed=False,
)


def _counts(indices: Any, weight: Any) -> Any:
    """How often each row is asked for, (rows,)."""
    flat = reshape(indices, (-1,))
    none = broadcast_to(weight.constant(0, weight.dtype), (weight.shape[0],))
    one = broadcast_to(weight.constant(1, weight.dtype), flat.shape)
    return index_add(none, e.astype(flat, uint32), one)


def renormalised(
    indices: Any, weight: Any, max_norm: float, norm_type: float = 2.0
) -> Any:
    """weight with those of the rows that are asked for whose norm is above max_norm scaled
    down to it."""
    sizes = norm(weight, axis=1, keepdims=True, ord=norm_type)
    asked = e.greater(reshape(_counts(indices, weight), (-1, 1)), 0)
    is_long = e.logical_and(asked, e.greater(sizes, max_norm))
    # 1e-7 as in PyTorch.
    return e.multiply(
        weight, e.where(is_long, e.divide(max_norm, e.add(sizes, 1e-7)), 1)
    )


def embedding(
    indices: Any,
    weight: Any,
    padding_idx: int | None = None,
    scale_grad_by_freq: bool = False,
) -> Any:
    """weight[indices]: the rows of a table (rows, size); the result is (*indices, size).

    Going backward, rows are added up by scatter, in order; with scale_grad_by_freq each is
    divided by how often it was asked for. The row padding_idx gets no gradient. IndexError
    for a number outside [0, rows), on a GPU at the next read.

    >>> table = pn.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> nn.functional.embedding(pn.tensor([1, 0]), table)
    tensor([[3., 4.],
            [1., 2.]])
    """
    name = "embedding"
    if weight.ndim != 2:
        raise ValueError(f"{name}: the table is (rows, size), not {weight.shape}")
    if not indices.dtype.is_integer:
        raise TypeError(f"{name}: indices are integers, not {indices.dtype.name}")
    # As an unsigned number one below 0 is out of range, not a row from the end.
    at = e.astype(indices, uint32)
    y = take(weight, at, axis=0, name=name)
    if scale_grad_by_freq:
        often = take(_counts(indices, weight.detach()), at, axis=0, name=name)
        y = _scaled_gradient(y, e.divide(1, expand_dims(often, axis=-1)))
    if padding_idx is None:
        return y
    rows = weight.shape[0]
    if not -rows <= padding_idx < rows:
        raise ValueError(f"{name}: padding_idx {padding_idx} is no row of {rows}")
    pads = expand_dims(e.equal(indices, padding_idx % rows), axis=-1)
    return e.where(pads, y.detach() if hasattr(y, "detach") else y, y)
