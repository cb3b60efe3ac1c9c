"""Views, and the few operators that move elements: pad, concat, and the gradients of views.

A view launches nothing: it is the same buffer under other strides. Its gradient is another
view, a sum, or a copy into zeros.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dtypes import promote
from ..op import Bad, Case, Op, Spec, check_tensor

# Axes ------------------------------------------------------------------------------------


def normalise_axis(name: str, axis: Any, ndim: int, shape: Any = None) -> int:
    """The axis counted from the front; IndexError where it is out of range."""
    try:
        number = operator.index(axis)
    except TypeError:
        kind = type(axis).__name__
        raise TypeError(f"{name}: an axis is an integer, not {kind}") from None
    if not -ndim <= number < ndim:
        of = f"shape {tuple(shape)}" if shape is not None else f"{ndim} dimensions"
        raise IndexError(f"{name}: axis {number} is out of range for {of}")
    return number % ndim


def normalise_axes(name: str, axis: Any, shape: Sequence[int]) -> tuple[int, ...]:
    """Axes from None (all), an integer, or several; sorted, each once."""
    if axis is None:
        return tuple(range(len(shape)))
    given = axis if isinstance(axis, tuple | list) else (axis,)
    axes = [normalise_axis(name, a, len(shape), shape) for a in given]
    if len(set(axes)) < len(axes):
        raise ValueError(f"{name}: axis {axis} names a dimension twice")
    return tuple(sorted(axes))


def as_shape(name: str, shape: Any) -> tuple[int, ...]:
    """A shape from an integer or a sequence of them."""
    sizes = shape if isinstance(shape, tuple | list) else (shape,)
    try:
        return tuple(map(operator.index, sizes))
    except TypeError:
        raise TypeError(f"{name}: a shape is made of integers, not {shape!r}") from None


# reshape -----------------------------------------------------------------------------------


def _reshape_rule(x: Spec, *, shape) -> Spec:
    if math.prod(x.shape) != math.prod(shape):
        raise ValueError(
            f"reshape: {x.shape} has {math.prod(x.shape)} elements, "
            f"{shape} needs {math.prod(shape)}"
        )
    return Spec(shape, x.dtype)


_reshape = Op(
    "reshape",
    _reshape_rule,
    grad=(lambda g, y, x, *, shape: _reshape(g, shape=x.shape),),
    reference=lambda x, *, shape: x.reshape(shape),
    cases=lambda rng: [
        Case([rng.normal(size=(4, 6))], {"shape": (3, 8)}),
        Case([rng.normal(size=(4, 6))], {"shape": (2, 2, 3, 2)}),
        Case([rng.normal(size=())], {"shape": (1, 1)}),
        Case([rng.normal(size=(0, 3))], {"shape": (5, 0)}),
    ],
    lower=lambda emit, x, *, shape: emit.reshape(x, shape),
    bad=[
        Bad(
            [((2, 3), "float32")],
            {"shape": (4,)},
            ValueError,
            "reshape: .* 6 .* needs 4",
        )
    ],
    ulps=0,
)


def reshape(x: Any, /, shape: Any, *, copy: bool | None = None) -> Any:
    """x under another shape of the same size, row-major; one size may be -1.

    >>> pn.reshape(pn.arange(6), (2, -1)).shape
    (2, 3)
    """
    sizes = as_shape("reshape", shape)
    if min(sizes, default=0) < 0:
        if min(sizes) < -1 or sizes.count(-1) > 1:
            raise ValueError(
                f"reshape: {sizes} may hold one -1 and no other negative size"
            )
        known = math.prod(n for n in sizes if n != -1)
        total = math.prod(x.shape)
        if not known or total % known:
            raise ValueError(
                f"reshape: {x.shape} has {total} elements, not a multiple of {known}"
            )
        sizes = tuple(total // known if n == -1 else n for n in sizes)
    return _reshape(x, shape=sizes)


# permute -----------------------------------------------------------------------------------


def _inverse(axes) -> tuple[int, ...]:
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


def _lower_permute(emit, x, *, axes):
    shape, strides = x.layout.shape, x.layout.strides
    return emit.view(x, tuple(shape[i] for i in axes), tuple(strides[i] for i in axes))


_permute = Op(
    "permute_dims",
    lambda x, *, axes: Spec(tuple(x.shape[i] for i in axes), x.dtype),
    grad=(lambda g, y, x, *, axes: _permute(g, axes=_inverse(axes)),),
    reference=lambda x, *, axes: x.transpose(axes),
    cases=lambda rng: [Case([rng.normal(size=(2, 3, 4))], {"axes": (2, 0, 1)})],
    lower=_lower_permute,
    ulps=0,
)


def permute_dims(x: Any, /, axes: Sequence[int]) -> Any:
    """x with its axes in another order.

    >>> pn.permute_dims(pn.zeros((2, 3, 4)), (2, 0, 1)).shape
    (4, 2, 3)
    """
    order = tuple(normalise_axis("permute_dims", a, x.ndim) for a in axes)
    if sorted(order) != list(range(x.ndim)):
        raise ValueError(
            f"permute_dims: axes {tuple(axes)} must name each of the {x.ndim} once"
        )
    return _permute(x, axes=order)


def matrix_transpose(x: Any, /) -> Any:
    """x with its last two axes exchanged."""
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose: at least 2 axes are needed, got {x.shape}")
    return swapaxes(x, -1, -2)


def swapaxes(x: Any, /, axis1: int, axis2: int) -> Any:
    """x with two axes exchanged."""
    order = list(range(x.ndim))
    a, b = (normalise_axis("swapaxes", n, x.ndim, x.shape) for n in (axis1, axis2))
    order[a], order[b] = b, a
    return _permute(x, axes=tuple(order))


def moveaxis(x: Any, source: Any, destination: Any, /) -> Any:
    """x with the axes `source` moved to the places `destination`."""
    pairs = []
    for axes in (source, destination):
        given = axes if isinstance(axes, tuple | list) else (axes,)
        pairs.append([normalise_axis("moveaxis", a, x.ndim, x.shape) for a in given])
    if len(pairs[0]) != len(pairs[1]):
        raise ValueError(
            f"moveaxis: {len(pairs[0])} axes can't go to {len(pairs[1])} places"
        )
    order = [a for a in range(x.ndim) if a not in pairs[0]]
    for to, a in sorted(zip(pairs[1], pairs[0], strict=True)):
        order.insert(to, a)
    return permute_dims(x, order)


# expand ------------------------------------------------------------------------------------


def _expand_rule(x: Spec, *, shape) -> Spec:
    lead = len(shape) - len(x.shape)
    fits = lead >= 0 and all(
        a in (1, b) for a, b in zip(x.shape, shape[max(lead, 0) :], strict=True)
    )
    if not fits:
        raise ValueError(f"broadcast_to: {x.shape} does not broadcast to {shape}")
    return Spec(shape, x.dtype)


_expand = Op(
    "broadcast_to",
    _expand_rule,
    grad=(lambda g, y, x, *, shape: sum_to(g, shape=x.shape),),
    reference=lambda x, *, shape: np.broadcast_to(x, shape),
    cases=lambda rng: [
        Case([rng.normal(size=(4, 1))], {"shape": (3, 4, 5)}),
        Case([rng.normal(size=())], {"shape": (2, 0)}),
    ],
    lower=lambda emit, x, *, shape: _lower_expand(emit, x, shape),
    bad=[
        Bad(
            [((3,), "float32")],
            {"shape": (2, 4)},
            ValueError,
            "broadcast_to: .*does not",
        )
    ],
    ulps=0,
)


def _lower_expand(emit, x, shape):
    wide = x.layout.expanded(shape)
    return emit.view(x, shape, wide.strides)


def broadcast_to(x: Any, /, shape: Any) -> Any:
    """x repeated along new or size-1 axes until it has `shape`; nothing is copied.

    >>> pn.broadcast_to(pn.tensor([1, 2]), (2, 2))
    tensor([[1, 2],
            [1, 2]], dtype=int32)
    """
    sizes = as_shape("broadcast_to", shape)
    if min(sizes, default=0) < 0:
        raise ValueError(f"broadcast_to: sizes can't be negative: {sizes}")
    return x if sizes == x.shape else _expand(x, shape=sizes)


def sum_to(x: Any, *, shape: tuple[int, ...]) -> Any:
    """x summed down to `shape`: the adjoint of broadcasting shape up to x.shape."""
    from .reduce import sum as total

    if tuple(x.shape) == tuple(shape):
        return x
    lead = len(x.shape) - len(shape)
    axes = [i for i in range(len(x.shape)) if i < lead or shape[i - lead] != x.shape[i]]
    return _reshape(total(x, axis=tuple(axes), dtype=x.dtype), shape=tuple(shape))


# slices ------------------------------------------------------------------------------------
# A slice is, for each axis of x, (start, step, count): element i is x[start + i * step].


def _lower_slice(emit, x, *, region):
    at = x.layout.offset
    strides = []
    for (start, step, _), stride in zip(region, x.layout.strides, strict=True):
        at += start * stride
        strides.append(step * stride)
    return emit.view(x, tuple(n for _, _, n in region), tuple(strides), at)


def _slice_reference(x, *, region):
    picks = [start + step * np.arange(n) for start, step, n in region]
    return x[np.ix_(*picks)]


_REGION = ((1, 2, 2), (3, -1, 4))

_slice = Op(
    "slice",
    lambda x, *, region: Spec(tuple(n for _, _, n in region), x.dtype),
    grad=(lambda g, y, x, *, region: _unslice(g, shape=x.shape, region=region),),
    reference=_slice_reference,
    cases=lambda rng: [
        Case([rng.normal(size=(5, 4))], {"region": _REGION}),
        Case([rng.normal(size=(5, 4))], {"region": ((0, 1, 5), (4, 1, 0))}),
    ],
    lower=_lower_slice,
    ulps=0,
)


def _lower_unslice(emit, g, *, shape, region):
    y = emit.empty(shape, g.layout.dtype)
    if tuple(n for _, _, n in region) != shape:
        emit.fill(0, y)
    emit.copy(g, _lower_slice(emit, y, region=region))
    return y


def _unslice_reference(g, *, shape, region):
    y = np.zeros(shape, g.dtype)
    y[np.ix_(*[start + step * np.arange(n) for start, step, n in region])] = g
    return y


_unslice = Op(
    "unslice",
    lambda g, *, shape, region: Spec(shape, g.dtype),
    grad=(lambda h, y, g, *, shape, region: _slice(h, region=region),),
    reference=_unslice_reference,
    cases=lambda rng: [
        Case([rng.normal(size=(2, 4))], {"shape": (5, 4), "region": _REGION})
    ],
    lower=_lower_unslice,
    ulps=0,
    doc="Zeros of `shape` with g in a region: the adjoint of a slice.",
)


def _lower_put(emit, x, v, *, region):
    y = emit.empty(x.layout.shape, x.layout.dtype)
    emit.copy(x, y)
    emit.copy(v, _lower_slice(emit, y, region=region))
    return y


def _put_reference(x, v, *, region):
    y = x.copy()
    y[np.ix_(*[start + step * np.arange(n) for start, step, n in region])] = v
    return y


def _put_rule(x, v, *, region):
    into = tuple(n for _, _, n in region)
    _fits_region(v.shape, into)
    return Spec(x.shape, x.dtype)


def _fits_region(shape, into) -> None:
    lead = len(into) - len(shape)
    if lead < 0 or any(
        a not in (1, b) for a, b in zip(shape, into[lead:], strict=True)
    ):
        raise ValueError(
            f"assignment: a value of shape {shape} does not broadcast to {into}"
        )


def _put_grad_x(g, y, x, v, *, region):
    return _put(g, g.constant(0, g.dtype), region=region)


def _put_grad_v(g, y, x, v, *, region):
    from .elementwise import fit

    return fit(_slice(g, region=region), v)


_put = Op(
    "put_slice",
    _put_rule,
    grad=(_put_grad_x, _put_grad_v),
    reference=_put_reference,
    cases=lambda rng: [
        Case([rng.normal(size=(5, 4)), rng.normal(size=(2, 4))], {"region": _REGION}),
        Case([rng.normal(size=(5, 4)), rng.normal(size=(4,))], {"region": _REGION}),
    ],
    lower=_lower_put,
    ulps=0,
    doc="x with the region's elements replaced by v.",
)


def flip(x: Any, /, *, axis: Any = None) -> Any:
    """x with the order along the axes reversed; nothing is copied.

    >>> pn.flip(pn.arange(3))
    tensor([2, 1, 0], dtype=int32)
    """
    axes = normalise_axes("flip", axis, x.shape)
    region = [
        (n - 1, -1, n) if i in axes and n else (0, 1, n) for i, n in enumerate(x.shape)
    ]
    return _slice(x, region=tuple(region))


# concat --------------------------------------------------------------------------------------


def _concat_rule(*xs: Spec, axis) -> Spec:
    first = xs[0].shape
    for i, x in enumerate(xs):
        rest = [n for d, n in enumerate(x.shape) if d != axis]
        if rest != [n for d, n in enumerate(first) if d != axis]:
            raise ValueError(
                f"concat: tensor {i} is {x.shape} and tensor 0 is {first}; "
                f"they may differ only along axis {axis}"
            )
    dtype = xs[0].dtype
    for x in xs[1:]:
        dtype = promote(dtype, x.dtype)
    total = sum(x.shape[axis] for x in xs)
    return Spec((*first[:axis], total, *first[axis + 1 :]), dtype)


def _spans(sizes):
    at = 0
    for n in sizes:
        yield at, n
        at += n


def _region(shape, axis, start, count):
    return tuple(
        (start, 1, count) if d == axis else (0, 1, n) for d, n in enumerate(shape)
    )


def _lower_concat(emit, *xs, axis):
    result = _concat_rule(
        *(Spec(x.layout.shape, x.layout.dtype) for x in xs), axis=axis
    )
    y = emit.empty(*result)
    for x, (at, n) in zip(xs, _spans(x.layout.shape[axis] for x in xs), strict=True):
        emit.copy(x, _lower_slice(emit, y, region=_region(result.shape, axis, at, n)))
    return y


def _concat_grad(i, g, y, *xs, axis):
    from .elementwise import fit

    at = sum(x.shape[axis] for x in xs[:i])
    part = _slice(g, region=_region(g.shape, axis, at, xs[i].shape[axis]))
    return fit(part, xs[i])


_concat = Op(
    "concat",
    _concat_rule,
    grad=_concat_grad,
    reference=lambda *xs, axis: np.concatenate(xs, axis),
    cases=lambda rng: [
        Case([rng.normal(size=(2, n, 3)) for n in (1, 0, 4)], {"axis": 1}),
        Case([rng.integers(0, 9, (n,)) for n in (3, 5)], {"axis": 0}, ("int32", "bool")),
    ],
    lower=_lower_concat,
    bad=[
        Bad(
            [((2, 3), "float32"), ((2, 4), "float32")], {"axis": 0}, ValueError,
            r"concat: tensor 1 is \(2, 4\)",
        )
    ],
    ulps=0,
)  # fmt: skip


def _split_rule(x: Spec, *, axis, sizes) -> tuple[Spec, ...]:
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    return tuple(Spec((*before, n, *after), x.dtype) for n in sizes)


def _lower_split(emit, x, *, axis, sizes):
    shape = x.layout.shape
    return [
        _lower_slice(emit, x, region=_region(shape, axis, at, n))
        for at, n in _spans(sizes)
    ]


# One operator and not slices: its gradient writes each part once, where that of a slice is
# as large as x.
_split = Op(
    "split",
    _split_rule,
    grad=(lambda g, y, x, *, axis, sizes: _concat(*g, axis=axis),),
    reference=lambda x, *, axis, sizes: tuple(np.split(x, np.cumsum(sizes)[:-1], axis)),
    cases=lambda rng: [
        Case([rng.normal(size=(2, 5, 3))], {"axis": 1, "sizes": (1, 0, 4)}),
        Case([rng.integers(0, 9, 8)], {"axis": 0, "sizes": (3, 5)}, ("int32", "bool")),
    ],
    lower=_lower_split,
    ulps=0,
)


def concat(xs: Sequence[Any], /, *, axis: int | None = 0) -> Any:
    """The tensors one after another along an axis; None flattens them first.

    >>> pn.concat([pn.ones(2), pn.zeros(1)])
    tensor([1., 1., 0.])
    """
    xs = list(xs)
    if not xs:
        raise ValueError("concat: at least one tensor is needed")
    check_tensor("concat", *xs)
    if axis is None:
        xs, axis = [reshape(x, (-1,)) for x in xs], 0
    ranks = {x.ndim for x in xs}
    if len(ranks) > 1:
        raise ValueError(
            f"concat: tensors have different numbers of axes: {sorted(ranks)}"
        )
    at = normalise_axis("concat", axis, xs[0].ndim, xs[0].shape)
    return xs[0] if len(xs) == 1 else _concat(*xs, axis=at)


def expand_dims(x: Any, /, *, axis: int = 0) -> Any:
    """x with a new axis of size 1 at this place of the result."""
    at = normalise_axis("expand_dims", axis, x.ndim + 1)
    return _reshape(x, shape=(*x.shape[:at], 1, *x.shape[at:]))


def squeeze(x: Any, /, axis: Any = None) -> Any:
    """x without the axes named, which must be of size 1 (None: all that are)."""
    if axis is None:
        axes = tuple(i for i, n in enumerate(x.shape) if n == 1)
    else:
        axes = normalise_axes("squeeze", axis, x.shape)
    for a in axes:
        if x.shape[a] != 1:
            raise ValueError(f"squeeze: axis {a} of shape {x.shape} is not of size 1")
    return _reshape(x, shape=tuple(n for i, n in enumerate(x.shape) if i not in axes))


def flatten(x: Any, /, start_dim: int = 0, end_dim: int = -1) -> Any:
    """x with the axes from start_dim to end_dim made one."""
    if x.ndim == 0:
        return _reshape(x, shape=(1,))
    a, b = (normalise_axis("flatten", n, x.ndim, x.shape) for n in (start_dim, end_dim))
    if a > b:
        raise ValueError(f"flatten: start_dim {start_dim} is after end_dim {end_dim}")
    return reshape(x, (*x.shape[:a], math.prod(x.shape[a : b + 1]), *x.shape[b + 1 :]))


def stack(xs: Sequence[Any], /, *, axis: int = 0) -> Any:
    """The tensors, all of one shape, along a new axis.

    >>> pn.stack([pn.ones(2), pn.zeros(2)]).shape
    (2, 2)
    """
    xs = list(xs)
    if not xs:
        raise ValueError("stack: at least one tensor is needed")
    check_tensor("stack", *xs)
    for i, x in enumerate(xs):
        if x.shape != xs[0].shape:
            raise ValueError(
                f"stack: tensor {i} is {x.shape} and tensor 0 is {xs[0].shape}"
            )
    at = normalise_axis("stack", axis, xs[0].ndim + 1)
    return concat([expand_dims(x, axis=at) for x in xs], axis=at)


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    """The slices of x along an axis, as a tuple."""
    at = normalise_axis("unstack", axis, x.ndim, x.shape)
    parts = split(x, 1, axis=at)
    return tuple(squeeze(p, axis=at) for p in parts)


def split(x: Any, /, size_or_sizes: Any, *, axis: int = 0) -> tuple[Any, ...]:
    """x cut along an axis into parts of a size (the last may be smaller), or of the sizes.

    >>> [p.shape for p in pn.split(pn.zeros((5, 2)), 2)]
    [(2, 2), (2, 2), (1, 2)]
    """
    at = normalise_axis("split", axis, x.ndim, x.shape)
    n = x.shape[at]
    if isinstance(size_or_sizes, int):
        if size_or_sizes < 1:
            raise ValueError(
                f"split: a part has at least 1 element, not {size_or_sizes}"
            )
        step = size_or_sizes
        sizes = [min(step, n - i) for i in range(0, n, step)] or [0]
    else:
        sizes = list(size_or_sizes)
        if sum(sizes) != n or min(sizes, default=0) < 0:
            raise ValueError(
                f"split: sizes {sizes} don't add up to {n} along axis {at}"
            )
    if len(sizes) < 2:
        return (x,) * len(sizes)
    return _split(x, axis=at, sizes=tuple(sizes))


def chunk(x: Any, /, chunks: int, *, axis: int = 0) -> tuple[Any, ...]:
    """x cut along an axis into at most `chunks` parts of equal size (the last may be less)."""
    if chunks < 1:
        raise ValueError(f"chunk: at least 1 part is needed, not {chunks}")
    at = normalise_axis("chunk", axis, x.ndim, x.shape)
    return split(x, max(1, -(-x.shape[at] // chunks)), axis=at)


# pad, roll, repeat -----------------------------------------------------------------------------


def _lower_pad(emit, x, v, *, widths):
    shape = x.layout.shape
    wide = tuple(a + n + b for n, (a, b) in zip(shape, widths, strict=True))
    y = emit.empty(wide, x.layout.dtype)
    emit.copy(v, y)
    region = tuple((a, 1, n) for n, (a, _) in zip(shape, widths, strict=True))
    emit.copy(x, _lower_slice(emit, y, region=region))
    return y


def _pad_grad(i, g, y, x, v, *, widths):
    from .elementwise import subtract
    from .reduce import sum as total

    region = tuple((a, 1, n) for n, (a, _) in zip(x.shape, widths, strict=True))
    inside = _slice(g, region=region)
    return inside if i == 0 else subtract(total(g), total(inside))


_pad = Op(
    "pad",
    lambda x, v, *, widths: Spec(
        tuple(a + n + b for n, (a, b) in zip(x.shape, widths, strict=True)), x.dtype
    ),
    grad=_pad_grad,
    reference=lambda x, v, *, widths: np.pad(x, widths, constant_values=v),
    cases=lambda rng: [
        Case([rng.normal(size=(2, 3)), np.array(0.5)], {"widths": ((1, 0), (2, 3))})
    ],
    lower=_lower_pad,
)


def pad(x: Any, /, pad_width: Any, constant_values: Any = 0) -> Any:
    """x with a border of a constant: pad_width is (before, after) an axis, one pair, or one
    number for all, as in NumPy.

    >>> pn.pad(pn.ones(2), (1, 2))
    tensor([0., 1., 1., 0., 0.])
    """
    given = np.asarray(pad_width)
    if given.size and given.dtype.kind not in "biu":
        raise TypeError(f"pad: pad_width is made of integers, not {pad_width!r}")
    try:
        widths = np.broadcast_to(given.astype(np.int64), (x.ndim, 2))
    except ValueError:
        raise ValueError(
            f"pad: pad_width {pad_width!r} is not a (before, after) for each of "
            f"{x.ndim} axes"
        ) from None
    pairs = tuple((int(a), int(b)) for a, b in widths)
    if any(w < 0 for pair in pairs for w in pair):
        raise ValueError(f"pad: widths can't be negative: {pairs}")
    if hasattr(constant_values, "level"):
        return _pad(x, constant_values, widths=pairs)
    return _pad(x, x.constant(constant_values, x.dtype), widths=pairs)


def roll(x: Any, /, shift: Any, *, axis: Any = None) -> Any:
    """x with its elements moved by `shift` along the axes, those past the end first.

    >>> pn.roll(pn.arange(4), 1)
    tensor([3, 0, 1, 2], dtype=int32)
    """
    if axis is None:
        flat = roll(reshape(x, (-1,)), shift, axis=0)
        return reshape(flat, x.shape)
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    given = shift if isinstance(shift, tuple | list) else (shift,) * len(axes)
    shifts = [operator.index(k) for k in given]
    if len(axes) != len(shifts):
        raise ValueError(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    for k, a in zip(shifts, axes, strict=True):
        at = normalise_axis("roll", a, x.ndim, x.shape)
        n = x.shape[at]
        if n and k % n:
            x = concat(split(x, [n - k % n, k % n], axis=at)[::-1], axis=at)
    return x


def tile(x: Any, repetitions: Any, /) -> Any:
    """x repeated as a whole, so many times along each axis.

    >>> pn.tile(pn.tensor([1, 2]), (2,))
    tensor([1, 2, 1, 2], dtype=int32)
    """
    times = as_shape("tile", repetitions)
    if any(k < 0 for k in times):
        raise ValueError(f"tile: repetitions can't be negative: {times}")
    rank = max(x.ndim, len(times))
    times = (1,) * (rank - len(times)) + times
    sizes = (1,) * (rank - x.ndim) + tuple(x.shape)
    split_up = [k for pair in ((1, n) for n in sizes) for k in pair]
    repeated = [k for pair in zip(times, sizes, strict=True) for k in pair]
    whole = broadcast_to(_reshape(x, shape=tuple(split_up)), tuple(repeated))
    return _reshape(
        whole, shape=tuple(k * n for k, n in zip(times, sizes, strict=True))
    )


def repeat(x: Any, repeats: int, /, *, axis: int | None = None) -> Any:
    """Each element of x repeated so many times along an axis (None: of the flat x).

    >>> pn.repeat(pn.tensor([1, 2]), 2)
    tensor([1, 1, 2, 2], dtype=int32)
    """
    if axis is None:
        x, axis = reshape(x, (-1,)), 0
    if not isinstance(repeats, int) or repeats < 0:
        raise ValueError(f"repeat: repeats is a number >= 0, not {repeats!r}")
    at = normalise_axis("repeat", axis, x.ndim, x.shape)
    shape = x.shape
    wide = (*shape[: at + 1], repeats, *shape[at + 1 :])
    made = broadcast_to(expand_dims(x, axis=at + 1), wide)
    return _reshape(made, shape=(*shape[:at], shape[at] * repeats, *shape[at + 1 :]))
