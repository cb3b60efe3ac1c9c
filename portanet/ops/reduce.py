"""Reductions over any axes, and running sums and products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..casting import casting, suspended
from ..arrays import collapse
from ..dtypes import bool_, float32, int32
from ..op import Bad, Case, Op, Spec
from . import elementwise as e
from .shape import (
    broadcast_to,
    flip,
    moveaxis,
    normalise_axes,
    reshape,
)

# One entry for each kind of reduction: kernel `reduce`, static `axes` sorted and distinct.


def _kept(shape, axes) -> tuple[int, ...]:
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def _lower(which: str, identity: Any) -> Callable:
    def lower(emit, x, *, axes):
        seen = x.layout
        result = OPS_BY_WHICH[which].rule(Spec(seen.shape, seen.dtype), axes=axes)
        y = emit.empty(*result)
        kept = [i for i in range(len(seen.shape)) if i not in axes]
        if 0 in [seen.shape[i] for i in axes]:
            emit.fill(identity, y)
            return y
        words = [math.prod(seen.shape[i] for i in group) for group in (kept, axes)]
        groups = []
        for group in (kept, axes):
            shape = [seen.shape[i] for i in group]
            sizes, (strides,) = collapse(shape, [[seen.strides[i] for i in group]])
            groups.append((sizes, strides))
        words += [len(groups[0][0]), len(groups[1][0]), seen.offset]
        for sizes, strides in groups:
            words += [*sizes, *strides]
        emit.kernel("reduce", words, [y], [x], (which,))
        return y

    return lower


def _spread(g: Any, shape, axes) -> Any:
    """A value of the reduced shape, repeated over the shape that was reduced."""
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return broadcast_to(reshape(g, kept), shape)


def _shapes(rng, dtypes=("float32",)) -> list[Case]:
    sizes = [((), ()), ((7,), (0,)), ((3, 5), (1,)), ((3, 5), (0,)), ((3, 5), (0, 1))]
    sizes += [((2, 3, 4, 5), (1, 3)), ((2, 3, 4, 5), (0, 2)), ((65, 33), (1,))]
    sizes += [((1, 10007), (1,)), ((10007, 3), (0,)), ((0, 3), (1,))]
    return [Case([rng.uniform(-1, 1, s)], {"axes": a}, dtypes) for s, a in sizes]


def _reduction(
    which: str,
    result: Callable,
    reference: Callable,
    *,
    grad: Any = None,
    identity: Any = None,
    ulps: float = 0,
    cases: Callable = _shapes,
    doc: str = "",
) -> Op:
    def rule(x: Spec, *, axes) -> Spec:
        if identity is None:
            for i in axes:
                if x.shape[i] == 0:
                    raise ValueError(
                        f"{which}: axis {i} of shape {x.shape} is empty and has no {which}"
                    )
        if not axes and x.shape and identity is None and which.startswith("arg"):
            raise ValueError(f"{which}: no axis to search")
        return Spec(_kept(x.shape, axes), result(x.dtype))

    empty = [
        Bad(
            [((2, 0), "float32")],
            {"axes": (1,)},
            ValueError,
            f"{which}: axis 1 .*empty",
        )
    ]
    op = OPS_BY_WHICH[which] = Op(
        which,
        rule,
        grad,
        reference,
        cases,
        lower=_lower(which, identity),
        kernel="reduce",
        bad=empty if identity is None else (),
        ulps=ulps,
        doc=doc,
    )
    return op


OPS_BY_WHICH: dict[str, Op] = {}


def _wide(dtype):
    """What sums of this type are kept in: bool and uint8 as int32."""
    return int32 if dtype.kind == "bool" or dtype.itemsize == 1 else dtype


def _grad_prod(g, y, x, *, axes):
    """g times the product of the others, which is right where elements are 0 too."""
    from .scan import _scan

    order = [i for i in range(len(x.shape)) if i not in axes] + list(axes)
    rows = reshape(moveaxis(x, order, list(range(len(order)))), (*y.shape, -1))
    before = _scan(rows, which="prod", mode="exclusive")
    after = flip(_scan(flip(rows, axis=-1), which="prod", mode="exclusive"), axis=-1)
    others = reshape(e.multiply(before, after), tuple(x.shape[i] for i in order))
    others = moveaxis(others, list(range(len(order))), order)
    return e.multiply(_spread(g, x.shape, axes), others)


def _grad_extreme(g, y, x, *, axes):
    """Equal extremes share the gradient, as in PyTorch's amax."""
    hit = e.astype(e.equal(x, _spread(y, x.shape, axes)), x.dtype)
    count = _sum(hit, axes=axes)
    return e.multiply(hit, _spread(e.divide(g, count), x.shape, axes))


_NUMBERS = ("float32", "float64", "float16", "int32", "int64")

_sum = _reduction(
    "sum", _wide, lambda x, *, axes: x.sum(axes), identity=0, ulps=16,
    grad=(lambda g, y, x, *, axes: _spread(g, x.shape, axes),),
    cases=lambda rng: _shapes(rng, _NUMBERS),
)  # fmt: skip
_mean = _reduction(
    "mean", lambda t: t, lambda x, *, axes: _mean_reference(x, axes), identity=math.nan,
    ulps=16,
    grad=(
        lambda g, y, x, *, axes: _spread(
            e.multiply(g, 1 / (math.prod(x.shape[i] for i in axes) or 1)), x.shape, axes
        ),
    ),
    cases=lambda rng: _shapes(rng, ("float32", "float64", "float16")),
)  # fmt: skip
_prod = _reduction(
    "prod", _wide, lambda x, *, axes: x.prod(axes), identity=1, ulps=64, grad=(_grad_prod,),
    cases=lambda rng: [
        Case([rng.uniform(0.5, 1.5, s)], {"axes": a}, ("float32", "float64"))
        for s, a in [((3, 5), (1,)), ((3, 4, 5), (0, 2)), ((0, 3), (0,)), ((), ())]
    ]
    + [Case([np.array([[2.0, 0, 3], [0, 0, 1]])], {"axes": (1,)})],
)  # fmt: skip
_max = _reduction(
    "max", lambda t: t, lambda x, *, axes: x.max(axes) if axes else x,
    grad=(_grad_extreme,), cases=lambda rng: _extreme_cases(rng),
)  # fmt: skip
_min = _reduction(
    "min", lambda t: t, lambda x, *, axes: x.min(axes) if axes else x,
    grad=(_grad_extreme,), cases=lambda rng: _extreme_cases(rng),
)  # fmt: skip
_any = _reduction(
    "any", lambda t: bool_, lambda x, *, axes: x.any(axes), identity=False,
    cases=lambda rng: _truth_cases(rng),
)  # fmt: skip
_all = _reduction(
    "all", lambda t: bool_, lambda x, *, axes: x.all(axes), identity=True,
    cases=lambda rng: _truth_cases(rng),
)  # fmt: skip
_argmax = _reduction(
    "argmax", lambda t: int32, lambda x, *, axes: _arg_reference(np.argmax, x, axes),
    cases=lambda rng: _extreme_cases(rng),
)  # fmt: skip
_argmin = _reduction(
    "argmin", lambda t: int32, lambda x, *, axes: _arg_reference(np.argmin, x, axes),
    cases=lambda rng: _extreme_cases(rng),
)  # fmt: skip


def _mean_reference(x, axes):
    count = math.prod(x.shape[i] for i in axes)
    return x.sum(axes) / count if count else np.full(_kept(x.shape, axes), np.nan)


def _arg_reference(function, x, axes):
    if len(axes) == 1:
        return function(x, axis=axes[0])
    kept = _kept(x.shape, axes)
    order = [i for i in range(x.ndim) if i not in axes] + list(axes)
    return function(x.transpose(order).reshape(*kept, -1), axis=-1)


def _extreme_cases(rng) -> list[Case]:
    sizes = [((7,), (0,)), ((3, 5), (1,)), ((3, 5), (0,)), ((4, 3, 5), (0, 1, 2))]
    sizes += [((2, 3, 4, 5), (1, 3)), ((65, 33), (0,)), ((1, 10007), (1,))]
    return [Case([rng.uniform(-9, 9, s)], {"axes": a}, _NUMBERS) for s, a in sizes]


def _truth_cases(rng) -> list[Case]:
    sizes = [((), ()), ((7,), (0,)), ((3, 5), (1,)), ((3, 5), (0,)), ((3, 0), (1,))]
    sizes += [((2, 3, 4), (0, 2)), ((2, 3000), (1,))]
    return [
        Case([rng.integers(0, high, s)], {"axes": a}, ("bool", "float32", "int32"))
        for s, a in sizes
        for high in (1, 2)
    ]


# The public functions ------------------------------------------------------------------------


def _reduce(op: Op, x: Any, axis: Any, keepdims: bool) -> Any:
    axes = normalise_axes(op.name, axis, x.shape)
    y = op(x, axes=axes)
    if not keepdims:
        return y
    return reshape(y, tuple(1 if i in axes else n for i, n in enumerate(x.shape)))


def _reduce_as(dtype: Any, op: Op, x: Any, axis: Any, keepdims: bool) -> Any:
    with suspended():  # who names a dtype gets it
        return _reduce(op, e.astype(x, dtype), axis, keepdims)


def sum(
    x: Any, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False
) -> Any:
    """The sum over the axes; 0 where there is nothing. bool and uint8 are summed as int32.

    Floats are added in float32 or better, in a tree whose shape depends on sizes only.

    >>> pn.sum(pn.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    tensor([4., 6.])
    """
    if dtype is None:
        return _reduce(_sum, x, axis, keepdims)
    return _reduce_as(dtype, _sum, x, axis, keepdims)


def prod(
    x: Any, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False
) -> Any:
    """The product over the axes; 1 where there is nothing."""
    if dtype is None:
        return _reduce(_prod, x, axis, keepdims)
    return _reduce_as(dtype, _prod, x, axis, keepdims)


def mean(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """The arithmetic mean over the axes; NaN where there is nothing. Integers as float32."""
    x = x if x.dtype.is_float else e.astype(x, float32)
    return _reduce(_mean, x, axis, keepdims)


def max(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest element over the axes; NaN if there is one. ValueError if there is none."""
    return _reduce(_max, x, axis, keepdims)


def min(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """The smallest element over the axes; NaN if there is one. ValueError if there is none."""
    return _reduce(_min, x, axis, keepdims)


def any(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """Whether any element over the axes is not 0."""
    return _reduce(_any, x, axis, keepdims)


def all(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """Whether all elements over the axes are not 0."""
    return _reduce(_all, x, axis, keepdims)


def argmax(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """The index, int32, of the first largest element along an axis (None: of the flat x)."""
    return _reduce(_argmax, x, axis, keepdims)


def argmin(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """The index, int32, of the first smallest element along an axis (None: of the flat x)."""
    return _reduce(_argmin, x, axis, keepdims)


@casting
def var(
    x: Any, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False
) -> Any:
    """The mean squared distance from the mean, in two passes; divided by n - correction.

    >>> pn.var(pn.tensor([1.0, 2.0, 3.0, 4.0])).item()
    1.25
    """
    x = x if x.dtype.is_float else e.astype(x, float32)
    axes = normalise_axes("var", axis, x.shape)
    count = math.prod(x.shape[i] for i in axes)
    distance = e.subtract(x, mean(x, axis=axes, keepdims=True))
    if count > 0 and correction == 0:
        return mean(e.square(distance), axis=axes, keepdims=keepdims)
    total = sum(e.square(distance), axis=axes, keepdims=keepdims)
    left = count - correction
    return e.multiply(total, 1 / left if left > 0 else math.nan)


def std(
    x: Any, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False
) -> Any:
    """The square root of `var`."""
    return e.sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims))


def _logsumexp_fallback(x, *, axes):
    top = _max(x, axes=axes)
    top = e.where(e.isfinite(top), top, 0)
    shifted = e.exp(e.subtract(x, _spread(top, x.shape, axes)))
    return e.add(top, e.log(_sum(shifted, axes=axes)))


def _logsumexp_reference(x, *, axes):
    top = x.max(axes, keepdims=True)
    return np.log(np.exp(x - top).sum(axes)) + top.reshape(_kept(x.shape, axes))


def _logsumexp_rule(x: Spec, *, axes) -> Spec:
    return _max.rule(x, axes=axes)


_logsumexp = Op(
    "logsumexp",
    _logsumexp_rule,
    grad=(
        lambda g, y, x, *, axes: e.multiply(
            _spread(g, x.shape, axes),
            e.exp(e.subtract(x, _spread(y, x.shape, axes))),
        ),
    ),
    reference=_logsumexp_reference,
    cases=lambda rng: (
        [
            Case([rng.uniform(-9, 9, s)], {"axes": a}, ("float32", "float64"))
            for s, a in [((7,), (0,)), ((3, 5), (1,)), ((3, 4, 5), (0, 2))]
        ]
        + [Case([np.array([1000.0, 1000.0, -1000.0])], {"axes": (0,)})]
    ),
    fallback=_logsumexp_fallback,
    bad=[Bad([((2, 0), "float32")], {"axes": (1,)}, ValueError, "axis 1 .*empty")],
    ulps=16,
)


def logsumexp(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) over the axes, without overflow.

    Shifted by the maximum; Blanchard, Higham and Higham, IMA J. Num. Anal. 41 (2021).

    >>> pn.logsumexp(pn.tensor([1000.0, 1000.0])).item()
    1000.6931...
    """
    return _reduce(
        _logsumexp, x if x.dtype.is_float else e.astype(x, float32), axis, keepdims
    )


def _norm_grad(g, y, x, *, axes):
    safe = e.where(e.equal(y, 0), 1, y)
    return e.multiply(_spread(e.divide(g, safe), x.shape, axes), x)


_norm2 = Op(
    "norm",
    lambda x, *, axes: Spec(_kept(x.shape, axes), x.dtype),
    grad=(_norm_grad,),
    reference=lambda x, *, axes: np.sqrt((x * x).sum(axes)),
    cases=lambda rng: [
        Case([rng.normal(size=s)], {"axes": a}, ("float32", "float64"))
        for s, a in [((7,), (0,)), ((3, 5), (1,)), ((3, 4, 5), (0, 2))]
    ],
    fallback=lambda x, *, axes: e.sqrt(_sum(e.square(x), axes=axes)),
    ulps=16,
)


@casting
def norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:
    """The vector norm over the axes: (sum |x| ** ord) ** (1 / ord); ord may be inf.

    The gradient at 0 is 0.

    >>> pn.norm(pn.tensor([3.0, 4.0])).item()
    5.0
    """
    x = x if x.dtype.is_float else e.astype(x, float32)
    if ord == 2:
        return _reduce(_norm2, x, axis, keepdims)
    if ord == math.inf:
        return max(e.abs(x), axis=axis, keepdims=keepdims)
    if ord == -math.inf:
        return min(e.abs(x), axis=axis, keepdims=keepdims)
    if ord == 0:
        return sum(e.astype(e.not_equal(x, 0), x.dtype), axis=axis, keepdims=keepdims)
    if ord == 1:
        return sum(e.abs(x), axis=axis, keepdims=keepdims)
    total = sum(e.pow(e.abs(x), ord), axis=axis, keepdims=keepdims)
    return e.pow(total, 1 / ord)


# Counts -----------------------------------------------------------------------------------


def count_nonzero(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """How many elements over the axes are not 0, int32."""
    return sum(e.astype(e.not_equal(x, 0), int32), axis=axis, keepdims=keepdims)
