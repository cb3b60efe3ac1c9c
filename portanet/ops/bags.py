"""Sums, means and maxima of rows of a table, a bag of them at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dtypes import int32, uint32
from . import elementwise as e
from .create import positions
from .index import _as_index, index_add, take
from .lookup import embedding
from .reduce import any as any_of
from .reduce import max as maximum_of
from .reduce import sum as total
from .shape import broadcast_to, expand_dims, reshape
from .sort import searchsorted

NAME = "embedding_bag"


def _bags(x: Any, indices: Any, offsets: Any, include_last_offset: bool) -> Any:
    """The bag of each index, and the number of bags."""
    starts = _as_index(NAME, x, offsets)
    if starts.ndim != 1 or not starts.shape[0]:
        raise ValueError(f"{NAME}: offsets are (bags,), not {starts.shape}")
    if include_last_offset:
        starts = starts[:-1]
    count = indices.shape[0]
    place = positions(x, count, int32)
    bag = searchsorted(e.astype(starts, int32), place, side="right")
    return e.subtract(bag, 1), starts.shape[0]


def _in_rows(indices: Any, bag: Any, bags: int) -> tuple[Any, Any]:
    """The indices as (bags, longest), and which of them are there. Reads the bags."""
    owner = bag.numpy()
    if owner.min(initial=0) < 0:
        raise IndexError(f"{NAME}: the first offset must be 0")
    sizes = np.bincount(owner, minlength=bags)
    starts = np.cumsum(sizes) - sizes
    column = np.arange(max(int(sizes.max(initial=0)), 1))
    there = column < sizes[:, None]
    places = np.where(there, starts[:, None] + column, 0).astype(np.int32)
    return take(indices, places, axis=0, name=NAME), indices.from_numpy(there, e.bool_)


def _check(
    indices: Any,
    weight: Any,
    offsets: Any,
    mode: str,
    scale: Any,
    padding_idx: int | None,
) -> None:
    """ValueError where the arguments of embedding_bag do not fit each other."""
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"{NAME}: mode is 'sum', 'mean' or 'max', not {mode!r}")
    if scale is not None and mode != "sum":
        raise ValueError(f"{NAME}: per_sample_weights need mode 'sum', not {mode!r}")
    if scale is not None and scale.shape != indices.shape:
        raise ValueError(
            f"{NAME}: per_sample_weights {scale.shape} and indices {indices.shape} differ "
            "in shape"
        )
    if indices.ndim not in (1, 2) or (indices.ndim == 2) != (offsets is None):
        raise ValueError(
            f"{NAME}: indices are (bags, n), or (count,) with offsets; got "
            f"{indices.shape} {'without' if offsets is None else 'with'} offsets"
        )
    rows = weight.shape[0]
    if padding_idx is not None and not -rows <= padding_idx < rows:
        raise ValueError(f"{NAME}: padding_idx {padding_idx} is no row of {rows}")


def embedding_bag(
    indices: Any,
    weight: Any,
    offsets: Any = None,
    mode: str = "mean",
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """The sum, mean or maximum of weight[i] over the indices i of each bag, (bags, size).

    indices: (bags, n), or (count,) with offsets (bags,), where each bag begins; with
    include_last_offset a last one says where all end. mode: "sum", "mean" or "max".
    per_sample_weights: of the shape of indices, by which rows are multiplied, for "sum".
    Indices equal to padding_idx count for nothing; an empty bag gives zeros. "max" with
    offsets reads them. IndexError where the first offset is above 0, at the next read on a
    GPU.

    >>> table = pn.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> nn.functional.embedding_bag(pn.tensor([0, 1, 2]), table, pn.tensor([0, 2]))
    tensor([[2., 3.],
            [5., 6.]])
    """
    _check(indices, weight, offsets, mode, per_sample_weights, padding_idx)
    if padding_idx is not None:
        padding_idx %= weight.shape[0]
    bag = bags = counts = None
    if offsets is not None:
        bag, bags = _bags(weight, indices, offsets, include_last_offset)
        if mode == "max":
            indices, counts = _in_rows(indices, bag, bags)
    if padding_idx is not None:
        is_row = e.not_equal(indices, padding_idx)
        counts = is_row if counts is None else e.logical_and(counts, is_row)
    y = embedding(indices, weight, padding_idx)
    if per_sample_weights is not None:
        y = e.multiply(y, expand_dims(per_sample_weights, axis=-1))
    if counts is not None:
        counts = expand_dims(counts, axis=-1)
        y = e.where(counts, y, float("-inf") if mode == "max" else 0)
    if mode == "max":
        top = maximum_of(y, axis=1)
        return top if counts is None else e.where(any_of(counts, axis=1), top, 0)
    number = _ones(y, indices.shape) if counts is None else e.astype(counts, y.dtype)
    if bag is None:
        sums, sizes = total(y, axis=1), total(number, axis=1)
    else:
        empty = broadcast_to(y.constant(0, y.dtype), (bags, y.shape[1]))
        # Unsigned: what comes before the first bag is in none, not in the last.
        bag = e.astype(bag, uint32)
        sums = index_add(empty, bag, y)
        sizes = index_add(empty[:, :1], bag, number)
    return sums if mode == "sum" else e.divide(sums, e.maximum(sizes, 1))


def _ones(y: Any, shape: tuple[int, ...]) -> Any:
    one = y.constant(1, y.dtype)
    return broadcast_to(reshape(one, (1,) * (len(shape) + 1)), (*shape, 1))
