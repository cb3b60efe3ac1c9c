"""Order: sorting, searching, the largest, quantiles, distinct values.

One kernel finds the order of a row; values follow by a gather, and gradients by its rule.
NaN is above every number: last in ascending order and first in descending.
"""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np

from ..dtypes import float32, int32, promote
from ..op import Bad, Case, Op, Spec
from . import elementwise as e
from .index import take, take_along_axis
from .shape import moveaxis, normalise_axis, reshape

# The order of rows -------------------------------------------------------------------------

ALL = (1 << 31) - 1  # more than an axis may have


def _lower_argsort(emit, x, *, descending, kept):
    n = x.layout.shape[-1]
    y = emit.empty((*x.layout.shape[:-1], min(kept, n)), int32)
    x, rows, stride, step = emit.rows(x)
    words = [rows, n, min(kept, n), x.layout.offset, stride, step]
    order = "descending" if descending else "ascending"
    emit.kernel("sort", words, [y], [x], (order,))
    return y


def _argsort_reference(x, *, descending, kept):
    if not descending:
        return np.argsort(x, axis=-1, kind="stable")[..., :kept]
    # Backwards, so that the last of equals, which is the first here, comes out last.
    back = np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    return (x.shape[-1] - 1 - back)[..., :kept]


def _sort_cases(rng) -> list[Case]:
    kinds = ("float32", "float64", "float16", "int32", "int64", "uint8", "bool")
    sizes = [(1,), (7,), (3, 5), (0, 4), (2, 0), (2, 3, 33), (5, 64), (2, 1000)]
    made = [
        Case([values], {"descending": d, "kept": k}, kinds)
        for shape in sizes
        for values in (np.round(rng.normal(size=shape) * 4),)
        for d in (False, True)
        for k in (ALL, 3)
    ]
    # More than a thread's share, and a run past the last full one.
    long = rng.normal(size=40001)
    made += [Case([long], {"descending": False, "kept": k}, kinds) for k in (ALL, 9)]
    odd = np.array([1, np.nan, -np.inf, -0.0, 0.0, np.inf, np.nan, -1, 1e-40] * 5)
    statics = [{"descending": d, "kept": k} for d in (False, True) for k in (ALL, 7)]
    return made + [Case([odd], static, kinds[:2]) for static in statics]


# The first `kept` of the order of each row; ALL, or more than there are, are all of it.
_argsort = Op(
    "argsort",
    lambda x, *, descending, kept: Spec((*x.shape[:-1], min(kept, x.shape[-1])), int32),
    reference=_argsort_reference,
    cases=_sort_cases,
    lower=_lower_argsort,
    kernel="sort",
    ulps=0,
)


def _order(
    name: str, x: Any, axis: int, descending: bool, kept: int = ALL
) -> tuple[Any, int]:
    """The order along an axis, with that axis last, and the axis."""
    at = normalise_axis(name, axis, x.ndim, x.shape)
    if x.shape[at] >= 1 << 31:
        raise ValueError(f"{name}: axis {at} of shape {x.shape} is longer than 2**31")
    rows = moveaxis(x, at, -1)
    return _argsort(rows, descending=bool(descending), kept=kept), at


def argsort(
    x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True
) -> Any:
    """The indices, int32, that sort x along an axis; equals keep their order.

    NaN is above every number. `stable` is taken for the array API's sake: every sort is.

    >>> pn.argsort(pn.tensor([3.0, 1.0, 2.0]))
    tensor([1, 2, 0], dtype=int32)
    """
    order, at = _order("argsort", x, axis, descending)
    return moveaxis(order, -1, at)


def _sorted(name: str, x: Any, axis: int, descending: bool, k: int = ALL):
    """The first k values along an axis, and their indices."""
    order, at = _order(name, x, axis, descending, k)
    values = take_along_axis(moveaxis(x, at, -1), order, axis=-1, name=name)
    return moveaxis(values, -1, at), moveaxis(order, -1, at)


def sort(
    x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True
) -> Any:
    """x in order along an axis; the gradient goes to where each value came from.

    NaN is above every number, so it is last, and first if descending. Every sort is stable.

    >>> pn.sort(pn.tensor([3.0, 1.0, 2.0]), descending=True)
    tensor([3., 2., 1.])
    """
    return _sorted("sort", x, axis, descending)[0]


class TopK(NamedTuple):
    values: Any
    indices: Any


def topk(x: Any, k: int, /, *, axis: int = -1, largest: bool = True) -> TopK:
    """The k largest (or smallest) values along an axis, in order, and their indices, int32.

    Of equals the first is taken first. NaN is above every number.

    >>> values, indices = pn.topk(pn.tensor([3.0, 1.0, 4.0, 1.0]), 2)
    >>> values, indices
    (tensor([4., 3.]), tensor([2, 0], dtype=int32))
    """
    at = normalise_axis("topk", axis, x.ndim, x.shape)
    k = operator.index(k)
    if not 0 <= k <= x.shape[at]:
        raise ValueError(
            f"topk: k is {k}, axis {at} of shape {x.shape} allows 0 to {x.shape[at]}"
        )
    return TopK(*_sorted("topk", x, at, largest, k))


# Places in sorted rows ---------------------------------------------------------------------


def _search_rule(x: Spec, v: Spec, *, side) -> Spec:
    if x.shape[:-1] != v.shape[:-1]:
        raise ValueError(
            f"searchsorted: the sorted {x.shape} and the values {v.shape} differ in their "
            "leading axes; sorted values of 1 axis go with any"
        )
    if x.dtype != v.dtype:
        raise TypeError(f"searchsorted: {x.dtype.name} and {v.dtype.name} differ")
    return Spec(v.shape, int32)


def _lower_search(emit, x, v, *, side):
    y = emit.empty(v.layout.shape, int32)
    count, size = v.layout.shape[-1], x.layout.shape[-1]
    (x, _, *x_steps), (v, rows, *v_steps) = emit.rows(x), emit.rows(v)
    words = [rows * count, count, size, x.layout.offset, *x_steps]
    emit.kernel("search", [*words, v.layout.offset, *v_steps], [y], [x, v], (side,))
    return y


def _search_reference(x, v, *, side):
    y = np.empty(v.shape, np.int64)
    for row in np.ndindex(v.shape[:-1]):
        y[row] = np.searchsorted(x[row], v[row], side)
    return y


def _search_cases(rng) -> list[Case]:
    kinds = ("float32", "float64", "float16", "int32", "int64", "uint8")
    made = []
    for lead, size, count in [((), 5, 9), ((3,), 70, 4), ((2, 3), 1, 5), ((2,), 0, 3)]:
        x = np.sort(np.round(rng.uniform(0, 9, (*lead, size)) * 2))
        v = np.round(rng.uniform(-1, 10, (*lead, count)) * 2)
        made += [Case([x, v], {"side": s}, kinds) for s in ("left", "right")]
    ends = [np.array([-np.inf, -0.0, 1, np.nan]), np.array([np.nan, 0, np.inf, -1])]
    return made + [Case(ends, {"side": s}) for s in ("left", "right")]


_search = Op(
    "searchsorted",
    _search_rule,
    reference=_search_reference,
    cases=_search_cases,
    lower=_lower_search,
    kernel="search",
    bad=[
        Bad(
            [((2, 3), "float32"), ((3, 3), "float32")], {"side": "left"}, ValueError,
            "searchsorted: .* differ in their leading axes",
        )
    ],
    ulps=0,
)  # fmt: skip


def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Any:
    """Where each value of x2 goes in the ascending x1 so that it stays ascending, int32.

    x1: (n,), or (..., n) for an x2 of (..., m). side "left" is before equals, "right" after
    them. sorter: indices that put x1 in order, as argsort gives them.

    >>> pn.searchsorted(pn.tensor([1.0, 3.0, 5.0]), pn.tensor([0.0, 3.0, 9.0]))
    tensor([0, 1, 3], dtype=int32)
    """
    if side not in ("left", "right"):
        raise ValueError(f"searchsorted: side is 'left' or 'right', not {side!r}")
    if x1.ndim == 0:
        raise ValueError("searchsorted: the sorted values have no axis")
    if sorter is not None:
        if tuple(sorter.shape) != tuple(x1.shape):
            raise ValueError(
                f"searchsorted: sorter {sorter.shape} must have the shape of the "
                f"values to sort, {x1.shape}"
            )
        x1 = take_along_axis(x1, sorter, axis=-1, name="searchsorted")
    dtype = promote(x1.dtype, x2.dtype)
    x1, x2 = e.astype(x1, dtype), e.astype(x2, dtype)
    if x1.ndim > 1:
        return _search(x1, x2, side=side)
    flat = _search(x1, reshape(x2, (math.prod(x2.shape),)), side=side)
    return reshape(flat, x2.shape)


# Quantiles ------------------------------------------------------------------------------------


def quantile(x: Any, q: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """The value below which the part q of the elements lies, interpolated linearly.

    q: a number in [0, 1], or several, which become the first axis of the result. axis: one
    axis, or None for all elements. NaN if there is one. Integers are taken as float32.
    Method 7 of Hyndman and Fan, The American Statistician 50 (1996).

    >>> pn.quantile(pn.tensor([1.0, 2.0, 4.0]), 0.75).item()
    3.0
    """
    name, parts = "quantile", np.asarray(q, np.float64)
    if parts.ndim > 1 or not np.all((parts >= 0) & (parts <= 1)):
        raise ValueError(f"{name}: q is a number in [0, 1], or several, not {q!r}")
    x = x if x.dtype.is_float else e.astype(x, float32)
    shape = x.shape
    if axis is None:
        kept = (1,) * len(shape) if keepdims else ()
        rows = reshape(x, (math.prod(shape),))
    else:
        at = normalise_axis(name, axis, x.ndim, shape)
        kept = (*shape[:at], *((1,) if keepdims else ()), *shape[at + 1 :])
        rows = moveaxis(x, at, -1)
    n = rows.shape[-1]
    if n == 0:
        raise ValueError(f"{name}: there is nothing to take it of in shape {shape}")
    rows = sort(rows)
    places = parts.reshape(-1) * (n - 1)
    low = np.floor(places).astype(np.int32)
    high = np.minimum(low + 1, n - 1)
    weight = rows.from_numpy(places - low, rows.dtype)
    a, b = take(rows, low, axis=-1), take(rows, high, axis=-1)
    y = e.add(a, e.multiply(weight, e.subtract(b, a)))
    # Where both are one infinity their difference is NaN.
    y = e.where(e.equal(a, b), a, y)
    top = rows[..., n - 1 :]
    y = e.where(e.isnan(top), top, y)
    return reshape(moveaxis(y, -1, 0), (*parts.shape, *kept))


def median(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """The middle value, or the mean of the middle two: NumPy's. NaN if there is one.

    PyTorch's median is the lower of the two: `pn.sort(x)[(n - 1) // 2]`.

    >>> pn.median(pn.tensor([4.0, 1.0, 2.0, 3.0])).item()
    2.5
    """
    return quantile(x, 0.5, axis=axis, keepdims=keepdims)


# Distinct values --------------------------------------------------------------------------------


class UniqueAll(NamedTuple):
    values: Any
    indices: Any
    inverse_indices: Any
    counts: Any


class UniqueCounts(NamedTuple):
    values: Any
    counts: Any


class UniqueInverse(NamedTuple):
    values: Any
    inverse_indices: Any


def unique_all(x: Any, /) -> UniqueAll:
    """The distinct values of x in ascending order; the index in the flat x of the first of
    each; for each element of x the index of its value; how often each occurs.

    Read back, since their number depends on the data. Each NaN is distinct. The gradient of
    a value goes to its first occurrence.

    >>> values, indices, inverse, counts = pn.unique_all(pn.tensor([2, 1, 2]))
    >>> values, counts
    (tensor([1, 2], dtype=int32), tensor([1, 2], dtype=int32))
    """
    flat = reshape(x, (math.prod(x.shape),))
    known = x.numpy().reshape(-1)
    known = known.astype(np.float32) if known.dtype.kind == "V" else known
    _, *places = np.unique(
        known, return_index=True, return_inverse=True, return_counts=True,
        equal_nan=False,
    )  # fmt: skip
    indices, inverse, counts = (
        x.from_numpy(p.astype(np.int32).reshape(-1), int32) for p in places
    )
    values = take(flat, indices, axis=0, name="unique_all")
    return UniqueAll(values, indices, reshape(inverse, x.shape), counts)


def unique_counts(x: Any, /) -> UniqueCounts:
    """The distinct values of x in ascending order, and how often each occurs."""
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Any, /) -> UniqueInverse:
    """The distinct values of x in ascending order, and for each element of x the index of
    its value."""
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Any, /) -> Any:
    """The distinct values of x in ascending order, 1-d.

    >>> pn.unique_values(pn.tensor([2, 1, 2]))
    tensor([1, 2], dtype=int32)
    """
    return unique_all(x).values
