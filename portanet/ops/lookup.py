"""Embedding: rows of a table by their numbers."""

from __future__ import annotations

from typing import Any

from ..dtypes import uint32
from . import elementwise as e
from .index import take
from .shape import expand_dims


def embedding(indices: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """weight[indices]: the rows of a table (rows, size); the result is (*indices, size).

    Going backward, rows are added up by scatter, in order. The row padding_idx gets no
    gradient. IndexError for a number outside [0, rows), on a GPU at the next read.

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
    y = take(weight, e.astype(indices, uint32), axis=0, name=name)
    if padding_idx is None:
        return y
    rows = weight.shape[0]
    if not -rows <= padding_idx < rows:
        raise ValueError(f"{name}: padding_idx {padding_idx} is no row of {rows}")
    pads = expand_dims(e.equal(indices, padding_idx % rows), axis=-1)
    return e.where(pads, y.detach() if hasattr(y, "detach") else y, y)
