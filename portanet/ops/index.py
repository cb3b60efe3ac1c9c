"""Indexing: slices, integers, masks; gathering and scattering along an axis."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import numpy as np

from ..dtypes import int32
from ..op import Bad, Case, Op, Spec
from . import elementwise as e
from .shape import (
    _fits_region,
    _put,
    _reshape,
    _slice,
    broadcast_to,
    moveaxis,
    normalise_axis,
    reshape,
)

# gather and scatter: the kernels ------------------------------------------------------------
# x is (outer, size, inner); an index is (outer, count, inner), its strides 0 where `take`
# uses the same index for all.


def _check_index(name: str, dtype) -> None:
    if not dtype.is_integer:
        raise TypeError(f"{name}: an index is an integer, not {dtype.name}")


def _gather_rule(x: Spec, index: Spec, *, name) -> Spec:
    _check_index(name, index.dtype)
    (o, _, i), (io, _, ii) = x.shape, index.shape
    if io not in (1, o) or ii not in (1, i):
        raise ValueError(
            f"{name}: an index of shape {index.shape} does not fit {x.shape}"
        )
    return Spec((o, index.shape[1], i), x.dtype)


def _steps(h, shape) -> list[int]:
    wide = h.layout.expanded(shape)
    return [wide.offset, *wide.strides]


def _lower_gather(emit, x, index, *, name):
    emit.label = name  # what a fault is reported as
    (o, size, i), count = x.layout.shape, index.layout.shape[1]
    y = emit.empty((o, count, i), x.layout.dtype)
    words = [o, count, i, size, x.layout.offset, *x.layout.strides]
    words += _steps(index, (o, count, i))
    emit.kernel("gather", words, [y], [x, index])
    return y


def _gather_reference(x, index, *, name):
    shape = (x.shape[0], index.shape[1], x.shape[2])
    where = np.broadcast_to(index, shape).astype(np.int64)
    return np.take_along_axis(x, where % x.shape[1] if x.shape[1] else where, 1)


def _gather_grad(g, y, x, index, *, name):
    zeros = broadcast_to(x.constant(0, x.dtype), x.shape)
    return _scatter_add(zeros, g, index, name=name)


def _index_cases(rng, count, shapes) -> list[Case]:
    cases = []
    for o, size, i, io, ii in shapes:
        index = rng.integers(-size, size, (io, count, ii))
        values = [rng.normal(size=(o, size, i)), index]
        cases.append(Case(values, {"name": "gather"}, ("float32", "int32")))
    return cases


_GATHERED = [
    (1, 5, 1, 1, 1),
    (5, 9, 1, 5, 1),
    (4, 3, 1, 1, 1),
    (3, 7, 4, 1, 1),
    (3, 7, 4, 3, 4),
    (2, 300, 5, 2, 1),
]

_gather = Op(
    "gather",
    _gather_rule,
    grad=(_gather_grad, None),
    reference=_gather_reference,
    cases=lambda rng: _index_cases(rng, 6, _GATHERED),
    lower=_lower_gather,
    kernel="gather",
    bad=[
        Bad(
            [((1, 2, 1), "float32"), ((1, 2, 1), "float32")],
            {"name": "gather"},
            TypeError,
            "gather: an index is an integer",
        )
    ],  # fmt: skip
    ulps=0,
)


def _scatter_rule(x: Spec, v: Spec, index: Spec, *, name) -> Spec:
    _check_index(name, index.dtype)
    if v.shape[0] != x.shape[0] or v.shape[2] != x.shape[2]:
        raise ValueError(f"{name}: values of shape {v.shape} do not fit {x.shape}")
    return Spec(x.shape, x.dtype)


def _lower_scatter(which: str):
    def lower(emit, x, v, index, *, name):
        emit.label = name
        o, size, i = x.layout.shape
        count = v.layout.shape[1]
        y = emit.empty(x.layout.shape, x.layout.dtype)
        emit.copy(x, y)
        v = emit.cast(v, x.layout.dtype)
        words = [o, count, i, size, v.layout.offset, *v.layout.strides]
        words += _steps(index, (o, count, i))
        if v.layout.size:
            emit.kernel("scatter", words, [y], [v, index], (which,))
        return y

    return lower


def _scatter_reference(x, v, index, add):
    y = x.copy()
    where = np.broadcast_to(index, v.shape).astype(np.int64)
    for o, j, i in np.ndindex(v.shape):
        at = where[o, j, i]
        y[o, at, i] = y[o, at, i] + v[o, j, i] if add else v[o, j, i]
    return y


def _scatter_cases(rng) -> list[Case]:
    cases = []
    for o, size, i, io, ii in [(1, 5, 1, 1, 1), (3, 7, 4, 1, 1), (2, 3, 4, 2, 4)]:
        index = rng.integers(-size, size, (io, 9, ii))
        values = [rng.normal(size=(o, size, i)), rng.normal(size=(o, 9, i)), index]
        cases.append(Case(values, {"name": "scatter"}, ("float32", "int32")))
    return cases


_scatter_add = Op(
    "scatter_add",
    _scatter_rule,
    grad=(
        lambda g, y, x, v, index, *, name: g,
        lambda g, y, x, v, index, *, name: e.fit(_gather(g, index, name=name), v),
        None,
    ),
    reference=lambda x, v, index, *, name: _scatter_reference(x, v, index, True),
    cases=_scatter_cases,
    lower=_lower_scatter("add"),
    kernel="scatter",
    ulps=8,
    doc="x with v[o, j, i] added at index[o, j, i], j ascending.",
)


def _set_grad_x(g, y, x, v, index, *, name):
    nothing = broadcast_to(g.constant(0, g.dtype), v.shape)
    return _scatter_set(g, nothing, index, name=name)


def _set_grad_v(g, y, x, v, index, *, name):
    """g where v's element is the last written to its place."""
    count = v.shape[1]
    from .create import positions

    order = reshape(positions(v, count, int32), (1, count, 1))
    order = broadcast_to(order, v.shape)
    empty = broadcast_to(v.constant(0, int32), x.shape)
    last = _scatter_set(empty, order, index, name=name)
    mine = e.equal(_gather(last, index, name=name), order)
    return e.fit(e.where(mine, _gather(g, index, name=name), 0), v)


_scatter_set = Op(
    "scatter_set",
    _scatter_rule,
    grad=(_set_grad_x, _set_grad_v, None),
    reference=lambda x, v, index, *, name: _scatter_reference(x, v, index, False),
    cases=_scatter_cases,
    lower=_lower_scatter("set"),
    kernel="scatter",
    ulps=0,
    doc="x with v[o, j, i] written at index[o, j, i]; of equal indices the last wins.",
)

# Along an axis ----------------------------------------------------------------------------------


def _as_index(name: str, x: Any, index: Any) -> Any:
    """An index as a tensor where x is."""
    if hasattr(index, "level"):
        _check_index(name, index.dtype)
        return index
    values = np.asarray(index)
    if values.size == 0:
        values = values.astype(np.int32)
    if values.dtype.kind not in "iu":
        raise TypeError(f"{name}: an index is an integer, not {values.dtype.name}")
    if values.size and (values.max() > 2**31 - 1 or values.min() < -(2**31)):
        raise IndexError(f"{name}: an index past 2**31 is not supported")
    return x.from_numpy(values.astype(np.int32), int32)


def _folded(x: Any, axis: int) -> Any:
    shape = x.shape
    return reshape(
        x, (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    )


def take(
    x: Any, indices: Any, /, *, axis: int | None = None, name: str = "take"
) -> Any:
    """y[..., j, ...] = x[..., indices[j], ...] along an axis; negatives count from the end.

    indices: integers of any shape, which takes the place of the axis. Out of range raises
    IndexError: at once on cpu, at the next read on a GPU; it names `name`.

    >>> pn.take(pn.tensor([10, 20, 30]), pn.tensor([2, 0]))
    tensor([30, 10], dtype=int32)
    """
    if axis is None:
        if x.ndim != 1:
            raise ValueError(f"take: name the axis of a tensor of shape {x.shape}")
        axis = 0
    at = normalise_axis(name, axis, x.ndim, x.shape)
    index = _as_index(name, x, indices)
    flat = reshape(index, (1, math.prod(index.shape), 1))
    y = _gather(_folded(x, at), flat, name=name)
    return reshape(y, (*x.shape[:at], *index.shape, *x.shape[at + 1 :]))


def take_along_axis(
    x: Any, indices: Any, /, *, axis: int = -1, name: str = "take_along_axis"
) -> Any:
    """y[i, j, k] = x[i, indices[i, j, k], k]: one index for each element.

    PyTorch's gather. x and indices have the same number of axes and broadcast, but for the
    axis itself.
    """
    at = normalise_axis(name, axis, x.ndim, x.shape)
    index = _as_index(name, x, indices)
    x, index = _aligned(name, x, index, at)
    y = _gather(_folded(x, at), _folded(index, at), name=name)
    return reshape(y, index.shape)


def _aligned(name: str, x: Any, index: Any, at: int) -> tuple[Any, Any]:
    if index.ndim != x.ndim:
        raise ValueError(
            f"{name}: x has {x.ndim} axes and indices {index.ndim}; they must agree"
        )
    rest = [[*y.shape[:at], 1, *y.shape[at + 1 :]] for y in (x, index)]
    wide = e.broadcast(name, [tuple(r) for r in rest])
    shapes = [(*wide[:at], y.shape[at], *wide[at + 1 :]) for y in (x, index)]
    return broadcast_to(x, shapes[0]), broadcast_to(index, shapes[1])


def index_add(x: Any, indices: Any, source: Any, /, *, axis: int = 0) -> Any:
    """x with source[..., j, ...] added at [..., indices[j], ...]; a new tensor.

    Equal indices add up, in order, so that the result is the same every time.

    >>> pn.index_add(pn.zeros(3), pn.tensor([0, 0, 2]), pn.ones(3))
    tensor([2., 0., 1.])
    """
    at = normalise_axis("index_add", axis, x.ndim, x.shape)
    index = _as_index("index_add", x, indices)
    if index.ndim != 1:
        raise ValueError(f"index_add: indices are 1-d, not of shape {index.shape}")
    wanted = (*x.shape[:at], index.shape[0], *x.shape[at + 1 :])
    if tuple(source.shape) != wanted:
        raise ValueError(f"index_add: source is {source.shape}, {wanted} is needed")
    flat = reshape(index, (1, index.shape[0], 1))
    y = _scatter_add(_folded(x, at), _folded(source, at), flat, name="index_add")
    return reshape(y, x.shape)


def scatter_add(x: Any, indices: Any, source: Any, /, *, axis: int = -1) -> Any:
    """x with source[i, j, k] added at [i, indices[i, j, k], k]; a new tensor."""
    at = normalise_axis("scatter_add", axis, x.ndim, x.shape)
    index = _as_index("scatter_add", x, indices)
    if index.shape != source.shape or index.ndim != x.ndim:
        raise ValueError(
            f"scatter_add: indices {index.shape} and source {source.shape} must be of one "
            f"shape, with the {x.ndim} axes of x"
        )
    for d in range(x.ndim):
        if d != at and index.shape[d] != x.shape[d]:
            raise ValueError(
                f"scatter_add: indices {index.shape} and x {x.shape} differ at axis {d}"
            )
    parts = (_folded(x, at), _folded(source, at), _folded(index, at))
    y = _scatter_add(*parts, name="scatter_add")
    return reshape(y, x.shape)


# x[...] ---------------------------------------------------------------------------------------------


def _expand_key(x: Any, key: Any) -> list[Any]:
    """The key with its ellipsis written out as full slices."""
    parts = list(key) if isinstance(key, tuple) else [key]
    parts = [_as_part(x, p) for p in parts]
    used = sum(_consumes(p) for p in parts)
    if used > x.ndim:
        raise IndexError(f"indexing: {used} indices for shape {x.shape}")
    dots = [i for i, p in enumerate(parts) if p is Ellipsis]
    if len(dots) > 1:
        raise IndexError("indexing: an index may hold one ellipsis")
    fill = [slice(None)] * (x.ndim - used)
    at = dots[0] if dots else len(parts)
    return parts[:at] + fill + parts[at + len(dots) :]


def _as_part(x: Any, part: Any) -> Any:
    if part is None or part is Ellipsis or isinstance(part, slice):
        return part
    if hasattr(part, "level"):
        if part.ndim == 0 and part.dtype.is_integer:
            return int(part.numpy()) if hasattr(part, "numpy") else part
        if part.ndim or part.dtype.kind != "bool":
            return part
    if isinstance(part, bool | np.bool_) or hasattr(part, "level"):
        raise IndexError(
            "indexing: a single bool is not supported; use a mask of x's shape"
        )
    if isinstance(part, list | np.ndarray):
        values = np.asarray(part)
        if values.dtype.kind == "b":
            return x.from_numpy(values, e.bool_)
        return _as_index("indexing", x, values)
    try:
        return operator.index(part)
    except TypeError:
        raise IndexError(
            f"indexing: {type(part).__name__} can't index; use integers, slices, None, "
            "an ellipsis, or tensors of integers or bools"
        ) from None


def _is_tensor(part: Any) -> bool:
    return hasattr(part, "level")


def _consumes(part: Any) -> int:
    if part is None or part is Ellipsis:
        return 0
    if _is_tensor(part) and part.dtype.kind == "bool":
        return part.ndim
    return 1


def _spans(x: Any, parts: list[Any]):
    """For the basic parts: the region, and the shape that the result is then given."""
    region, shape, axis = [], [], 0
    for p in parts:
        if p is None:
            shape.append(1)
            continue
        n = x.shape[axis]
        if isinstance(p, slice):
            if p.step == 0:
                raise ValueError("indexing: the step of a slice can't be 0")
            span = range(*p.indices(n))
            region.append((span.start if len(span) else 0, span.step, len(span)))
            shape.append(len(span))
        elif isinstance(p, int):
            if not -n <= p < n:
                raise IndexError(
                    f"indexing: index {p} is out of range for axis {axis} of shape {x.shape}"
                )
            region.append((p % n, 1, 1))
        else:  # a tensor: taken later
            region.append((0, 1, n))
            shape.append(n)
        axis += 1
    return tuple(region), tuple(shape)


def _masks_to_indices(x: Any, parts: list[Any]) -> list[Any]:
    """Each mask replaced by the integer indices of its true elements (read back)."""
    result, axis = [], 0
    for p in parts:
        if _is_tensor(p) and p.dtype.kind == "bool":
            if tuple(x.shape[axis : axis + p.ndim]) != tuple(p.shape):
                raise IndexError(
                    f"indexing: a mask of shape {p.shape} does not fit shape {x.shape} "
                    f"at axis {axis}"
                )
            places = np.nonzero(p.numpy())
            result += [x.from_numpy(i.astype(np.int32), int32) for i in places]
        else:
            result.append(p)
        axis += _consumes(p)
    return result


def getitem(x: Any, key: Any) -> Any:
    """x[key] as in NumPy: integers, slices with any step, None, ellipsis, integer tensors,
    masks. Basic indexing is a view; a mask is read back, since its count shapes the result.
    """
    parts = _expand_key(x, key)
    if not any(_is_tensor(p) for p in parts):
        region, shape = _spans(x, parts)
        y = _slice(x, region=region) if region else x
        return y if y.shape == shape else _reshape(y, shape=shape)
    parts = _masks_to_indices(x, parts)
    return _take_at(*_split_key(x, parts))


def _split_key(x: Any, parts: list[Any]):
    """x with the basic parts applied, the axes that tensors index, and those tensors; an
    integer beside a tensor is a tensor too, as in NumPy."""
    basic, tensors, axis = [], [], 0
    for p in parts:
        if isinstance(p, int):
            n = x.shape[axis]
            if not -n <= p < n:
                raise IndexError(
                    f"indexing: index {p} is out of range for axis {axis} of shape {x.shape}"
                )
        if p is not None:
            axis += 1
        if isinstance(p, int) or _is_tensor(p):
            basic.append(slice(None))
            tensors.append((len(basic) - 1, p))
        else:
            basic.append(p)
    region, shape = _spans(x, basic)
    seen = _reshape(_slice(x, region=region), shape=shape) if region else x
    return seen, [a for a, _ in tensors], [t for _, t in tensors]


def _flat_index(x: Any, axes: list[int], tensors: list[Any]):
    """One index into the indexed axes made one, and the shape it has."""
    total = None
    for a, t in zip(axes, tensors, strict=True):
        n = x.shape[a]
        i = e.wrap_index(t, n) if _is_tensor(t) else t % n
        if total is None:
            total = i
            continue
        total = e.multiply(total, n) if _is_tensor(total) else total * n
        total = e.add(total, i) if _is_tensor(total) or _is_tensor(i) else total + i
    if not _is_tensor(total):
        total = x.constant(total, int32)
    return total


def _take_at(x: Any, axes: list[int], tensors: list[Any]) -> Any:
    if len(axes) == 1 and _is_tensor(tensors[0]):
        return take(x, tensors[0], axis=axes[0], name="indexing")
    together = axes == list(range(axes[0], axes[0] + len(axes)))
    place = axes[0] if together else 0
    x = moveaxis(x, axes, list(range(place, place + len(axes))))
    merged = range(place, place + len(axes))
    index = _flat_index(x, list(merged), tensors)
    size = math.prod(x.shape[a] for a in merged)
    x = reshape(x, (*x.shape[:place], size, *x.shape[place + len(axes) :]))
    return take(x, index, axis=place, name="indexing")


def setitem(x: Any, key: Any, value: Any) -> Any:
    """x with x[key] replaced by the value, which broadcasts: a new tensor."""
    parts = _expand_key(x, key)
    if not _is_tensor(value):
        value = _number(x, value)
    if len(parts) == 1 and _is_tensor(parts[0]) and value.ndim == 0:
        if parts[0].dtype.kind == "bool" and parts[0].shape == x.shape:
            return e.astype(e.where(parts[0], value, x), x.dtype)
    if not any(_is_tensor(p) for p in parts):
        region, shape = _spans(x, parts)
        _fits_region(value.shape, shape)
        counts = tuple(n for _, _, n in region)
        if shape != counts:
            value = reshape(broadcast_to(value, shape), counts)
        return _put(x, value, region=region) if region else e.astype(value, x.dtype)
    return _put_at(x, _masks_to_indices(x, parts), value)


def _number(x: Any, value: Any) -> Any:
    """A number that is assigned, as a 0-d value of x's dtype."""
    if isinstance(value, np.ndarray | np.generic) and not value.ndim:
        value = value.item()
    if not isinstance(value, numbers.Real):
        raise TypeError(
            f"assignment: the value is a number or a tensor, not {type(value).__name__}"
        )
    try:
        return x.constant(value, x.dtype)
    except (OverflowError, ValueError) as error:
        why = f"assignment: {value} has no {x.dtype.name} value"
        raise type(error)(why) from None


def _put_at(x: Any, parts: list[Any], value: Any) -> Any:
    """Assignment by index tensors: the places of the elements, then one scatter."""
    size = math.prod(x.shape)
    from .create import positions

    places = reshape(positions(x, size, int32), x.shape)
    picked = _take_at(*_split_key(places, parts))
    _fits_region(value.shape, picked.shape)
    count = math.prod(picked.shape)
    flat = reshape(broadcast_to(value, picked.shape), (1, count, 1))
    index = reshape(picked, (1, count, 1))
    y = _scatter_set(reshape(x, (1, size, 1)), flat, index, name="assignment")
    return reshape(y, x.shape)


def nonzero(x: Any, /) -> tuple[Any, ...]:
    """The indices of the elements that are not 0, one int32 tensor for each axis.

    Read back, since their number depends on the data.
    """
    if x.ndim == 0:
        raise ValueError("nonzero: a 0-d tensor has no axes to index")
    places = np.nonzero(x.numpy())
    return tuple(x.from_numpy(i.astype(np.int32), int32) for i in places)
