"""Normalisation: mean 0 and variance 1 along axes, and the scale and shift after it.

Over the last axes it is one formula with sums over rows. Elsewhere the statistics are plain
operators, so that they can be kept (batch norm's running ones); the step after them carries
the whole gradient, the statistics' share included, so that going backward takes four
launches and not a walk through each of them.
"""

from __future__ import annotations

import functools
import math
import struct
from typing import Any

import numpy as np

from ..casting import casting
from .. import scalars as s
from ..dtypes import float32
from ..op import LONGEST_ROW, Bad, Case, Joint, Op, Spec
from . import elementwise as e
from .reduce import _sum, mean
from .shape import as_shape, reshape

# Statistics ------------------------------------------------------------------------------

square_distance = e.elementwise(
    "square_distance",
    lambda x, y: (x - y) * (x - y),
    lambda x, y: np.square(x - y),
    # The difference is rounded before it is squared: the bound is one of |x| ** 2.
    ulps=16,
    doc="(x - y) ** 2 in one launch.",
)


def moments(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    """Mean and variance (divided by n) over the axes, which stay with size 1.

    In two passes: three launches, or one where they are of channels and a kernel is there.
    """
    if axes == _batch_axes(x) and x.dtype.itemsize >= 4 and 0 not in x.shape:
        return _channel_moments(x)
    return _moments(x, axes)


def _moments(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    middle = mean(x, axis=axes, keepdims=True)
    return middle, mean(square_distance(x, middle), axis=axes, keepdims=True)


def _batch_axes(x) -> tuple[int, ...]:
    return (0, *range(2, len(x.shape)))


def _of_channels(x: Any) -> tuple[int, ...]:
    return (1, x.shape[1], *[1] * (len(x.shape) - 2))


def _norm_words(images: int, rows: int, n: int, eps: float, inputs) -> list[int]:
    (bits,) = struct.unpack("q", struct.pack("d", eps))
    return [images, rows, n, bits, STRETCH, *(h.layout.offset for h in inputs)]


STRETCH = 32  # rows whose share in the gradients of weight and bias is summed in order


def _channel_words(inputs, eps: float, x: Any) -> list[int]:
    images, channels, *sizes = x.layout.shape
    return _norm_words(images, channels, math.prod(sizes), eps, inputs)


def _lower_channel_moments(emit, x):
    x = emit.contiguous(x)
    made = [emit.empty(_of_channels(x.layout), x.layout.dtype) for _ in range(2)]
    emit.kernel("normalise", _channel_words([x], 0.0, x), made, [x], ("moments",))
    return made


def _channel_moments_grad(needed, gs, ys, x):
    """Of the mean 1 / n, of the variance 2 (x - mean) / n: batch norm's own gradient goes
    around both, so they are asked for only where a user differentiates the statistics."""
    g_mean, g_var = gs
    count = math.prod(x.shape) // x.shape[1]
    terms = []
    if g_mean is not None:
        terms.append(e.add(e.zeros_like(x), e.multiply(g_mean, 1 / count)))
    if g_var is not None:
        away = e.subtract(x, ys[0])
        terms.append(e.multiply(away, e.multiply(g_var, 2 / count)))
    return (functools.reduce(e.add, terms),)


_channel_moments = Op(
    "channel_moments",
    lambda x: (Spec(_of_channels(x), x.dtype),) * 2,
    grad=Joint(_channel_moments_grad),
    lower=_lower_channel_moments,
    fallback=lambda x: _moments(x, _batch_axes(x)),
    kernel="normalise",
    listed=False,
)


# Standardising ---------------------------------------------------------------------------


def _standard_formula(x, mean, var, *, axes, eps):
    return (x - mean) * s.rsqrt(var + eps)


def _slope_formula(g, y, var, g_mean, gy_mean, *, eps):
    return (g - g_mean - y * gy_mean) * s.rsqrt(var + eps)


def _first(*ts, **static):
    return ts[0], ts[0]


_slope = e._part("standardize_slope_by", _slope_formula, _first)


def _standard_grad(g, y, x, middle, var, *, axes, eps):
    """dy/dx with mean and variance as functions of x, so theirs is not asked for.

    rsqrt(var + eps) * (g - mean(g) - y * mean(g * y)); Ioffe and Szegedy, ICML 2015.
    """
    g_mean = mean(g, axis=axes, keepdims=True)
    gy_mean = mean(e.multiply(g, y), axis=axes, keepdims=True)
    return _slope(g, y, var, g_mean, gy_mean, eps=eps)


# A part: its inputs are not independent, so it is tested through `standardize`.
_standard = Op(
    "standardize_by",
    lambda x, middle, var, *, axes, eps: Spec(x.shape, x.dtype),
    grad=(_standard_grad, None, None),
    formula=_standard_formula,
    casts=lambda *ts, **static: [ts[0].compute] * 3,
    listed=False,
)


def standardize_by(x: Any, middle: Any, var: Any, axes: tuple[int, ...], eps: float):
    """(x - mean) / sqrt(var + eps) for the mean and variance that `moments` gave for x.

    The gradient is that of the whole, through mean and variance too.
    """
    return _standard(x, middle, var, axes=axes, eps=float(eps))


def _standardize_rule(x: Spec, *, axes, eps) -> Spec:
    if not x.dtype.is_float:
        raise TypeError(f"standardize: a floating dtype is needed, not {x.dtype.name}")
    for a in axes:
        if x.shape[a] == 0:
            raise ValueError(f"standardize: axis {a} of shape {x.shape} is empty")
    return Spec(x.shape, x.dtype)


def _standardize_reference(x, *, axes, eps):
    middle = x.mean(axes, keepdims=True)
    return (x - middle) / np.sqrt(x.var(axes, keepdims=True) + eps)


def trailing_row(x: Spec, *more: Spec, axes, **static) -> int:
    """How many elements the axes have, where they are the last ones; else 0."""
    first = len(x.shape) - len(axes)
    if tuple(axes) != tuple(range(first, len(x.shape))):
        return 0
    return math.prod(x.shape[first:])


def _standardize_formula(x, *, axes, eps):
    away = x - s.row_mean(x)
    return away * s.rsqrt(s.row_mean(away * away) + eps)


def _standardize_slope_formula(g, x, *, axes, eps):
    away = x - s.row_mean(x)
    scale = s.rsqrt(s.row_mean(away * away) + eps)
    y = away * scale
    return (g - s.row_mean(g) - y * s.row_mean(g * y)) * scale


def _standardize_slope_fallback(g, x, *, axes, eps):
    middle, var = moments(x, axes)
    y = e.multiply(e.subtract(x, middle), e.rsqrt(e.add(var, eps)))
    g_mean = mean(g, axis=axes, keepdims=True)
    gy_mean = mean(e.multiply(g, y), axis=axes, keepdims=True)
    return _slope(g, y, var, g_mean, gy_mean, eps=eps)


def _standardize_slope_reference(g, x, *, axes, eps):
    y = _standardize_reference(x, axes=axes, eps=eps)
    kept = dict(axis=axes, keepdims=True)
    inner = g - g.mean(**kept) - y * (g * y).mean(**kept)
    return inner / np.sqrt(x.var(**kept) + eps)


_FLOATS = ("float32", "float64")
_SHAPES = [
    ((3, 5), (1,)),
    ((6, 4), (0,)),
    ((5, 3, 7), (0, 2)),
    ((2, 3, 4), (1, 2)),
    ((2, 1031), (1,)),
    ((70, 40), (1,)),
]

# What `standardize` gives back for g; see _standard_grad for the formula.
standardize_slope = Op(
    "standardize_slope",
    lambda g, x, *, axes, eps: _standardize_rule(x, axes=axes, eps=eps),
    reference=_standardize_slope_reference,
    cases=lambda rng: [
        Case(
            [rng.normal(size=shape), rng.normal(1, 2, shape)],
            {"axes": axes, "eps": 1e-5},
            _FLOATS,
        )
        for shape, axes in _SHAPES
    ],
    formula=_standardize_slope_formula,
    row=lambda g, x, *, axes, eps: trailing_row(x, axes=axes),
    fallback=_standardize_slope_fallback,
    # Terms of the size of g cancel.
    ulps=128,
    doc="The gradient of standardize: (g - mean(g) - y mean(g y)) / sqrt(var + eps).",
)

standardize = Op(
    "standardize",
    _standardize_rule,
    grad=(
        lambda g, y, x, *, axes, eps: standardize_slope(g, x, axes=axes, eps=eps),
    ),
    formula=_standardize_formula,
    row=trailing_row,
    reference=_standardize_reference,
    cases=lambda rng: [
        Case([rng.normal(1, 2, shape)], {"axes": axes, "eps": 1e-5}, _FLOATS)
        for shape, axes in _SHAPES
    ],
    fallback=lambda x, *, axes, eps: standardize_by(x, *moments(x, axes), axes, eps),
    bad=[
        Bad(
            [((2, 0), "float32")], {"axes": (1,), "eps": 1e-5}, ValueError,
            "standardize: axis 1 .* empty",
        ),
        Bad(
            [((2, 2), "int32")], {"axes": (1,), "eps": 1e-5}, TypeError,
            "standardize: a floating dtype",
        ),
    ],
    ulps=32,
    doc="(x - mean) / sqrt(var + eps) over the axes.",
)  # fmt: skip


def standardized(x: Any, axes: tuple[int, ...], eps: float) -> Any:
    """(x - mean) / sqrt(var + eps) over the axes: as one launch where rows allow it, else by
    statistics that the gradient uses again."""
    if 0 < trailing_row(Spec(x.shape, x.dtype), axes=axes) <= LONGEST_ROW:
        return standardize(x, axes=axes, eps=float(eps))
    _standardize_rule(Spec(x.shape, x.dtype), axes=axes, eps=eps)
    return standardize_by(x, *moments(x, axes), axes, eps)


# Scale and shift -------------------------------------------------------------------------

affine = e.elementwise(
    "affine",
    lambda x, weight, bias: x * weight + bias,
    lambda x, weight, bias: x * weight + bias,
    grad=(
        lambda g, y, x, weight, bias: e.multiply(g, weight),
        lambda g, y, x, weight, bias: e.multiply(g, x),
        lambda g, y, x, weight, bias: g,
    ),
    # The terms may cancel: the bound is on their size.
    ulps=32,
    doc="x * weight + bias in one launch.",
)

normalise_by = e.elementwise(
    "normalise_by",
    lambda x, mean, var, *, eps: (x - mean) * s.rsqrt(var + eps),
    lambda x, mean, var, *, eps: (x - mean) / np.sqrt(var + eps),
    types="float",
    domain=((-3.0, 3.0), (-3.0, 3.0), (0.1, 4.0)),
    static=({"eps": 1e-5},),
    ulps=32,
    doc="(x - mean) / sqrt(var + eps) for a mean and variance that are given, as at "
    "inference.",
)

running_average = e.elementwise(
    "running_average",
    lambda old, new, weight: old + weight * (new - old),
    lambda old, new, weight: old + weight * (new - old),
    domain=((-3.0, 3.0), (-3.0, 3.0), (0.1, 0.9)),
    grad=None,
    ulps=32,
    doc="old + weight * (new - old).",
)


def _scaled(x: Any, weight: Any, bias: Any) -> Any:
    if weight is not None and bias is not None:
        return affine(x, weight, bias)
    if weight is not None:
        return e.multiply(x, weight)
    return x if bias is None else e.add(x, bias)


def _wide(x: Any) -> Any:
    """Half precision is normalised in float32."""
    return e.astype(x, float32) if x.dtype.itemsize < 4 else x


def _floating(name: str, x: Any) -> None:
    if not x.dtype.is_float:
        raise TypeError(f"{name}: a floating dtype is needed, not {x.dtype.name}")


# The kernels -----------------------------------------------------------------------------
# The gradients of x, weight and bias together.


def _lower_layer_norm_slope(emit, *xs, eps):
    xs = [emit.contiguous(x) for x in xs]
    x, w = xs[1].layout, xs[2].layout
    rows = x.size // w.size
    y = emit.empty(x.shape, x.dtype)
    parts = [emit.empty((-(-rows // STRETCH), *w.shape), x.dtype) for _ in range(2)]
    words = _norm_words(1, rows, w.size, eps, xs)
    emit.kernel("normalise", words, [y, *parts], xs, ("rows_slope",))
    return y, *(_sum.lower(emit, p, axes=(0,)) for p in parts)  # type: ignore[misc]


def _layer_norm_slope_fallback(g, x, w, *, eps):
    axes = _last(x, w)
    lead = tuple(range(axes[0]))
    h = standardize(x, axes=axes, eps=eps)
    slope = standardize_slope(e.multiply(g, w), x, axes=axes, eps=eps)
    return slope, _sum(e.multiply(g, h), axes=lead), _sum(g, axes=lead)


_layer_norm_slope = Op(
    "layer_norm_slope",
    lambda g, x, w, *, eps: (x, w, w),
    lower=_lower_layer_norm_slope,
    fallback=_layer_norm_slope_fallback,
    kernel="normalise",
    listed=False,
)


def _layer_norm_rule(x: Spec, w: Spec, b: Spec, *, eps) -> Spec:
    rank = len(w.shape)
    if not rank or x.shape[-rank:] != w.shape or w != b or w.dtype is not x.dtype:
        raise ValueError(f"layer_norm: weight {w} and bias {b} do not fit {x}")
    if 0 in w.shape:
        raise ValueError(f"layer_norm: the last axes of {x.shape} are empty")
    return x


def _last(x, w) -> tuple[int, ...]:
    return tuple(range(len(x.shape) - len(w.shape), len(x.shape)))


_layer_norm = Op(
    "layer_norm",
    _layer_norm_rule,
    grad=Joint(
        lambda needed, g, y, x, w, b, *, eps: _layer_norm_slope(g, x, w, eps=eps)
    ),
    reference=lambda x, w, b, *, eps: (
        _standardize_reference(x, axes=_last(x, w), eps=eps) * w + b
    ),
    cases=lambda rng: [
        Case(
            [rng.normal(1, 2, (*lead, *n)), rng.normal(size=n), rng.normal(size=n)],
            {"eps": 1e-5},
            _FLOATS,
        )
        for lead, n in [((3,), (5,)), ((), (7,)), ((70, 2), (33,)), ((4,), (3, 600))]
    ],
    formula=lambda x, w, b, *, eps: _standardize_formula(x, axes=(), eps=eps) * w + b,
    row=lambda x, w, b, *, eps: math.prod(w.shape),
    fallback=lambda x, w, b, *, eps: affine(
        standardize(x, axes=_last(x, w), eps=eps), w, b
    ),
    bad=[
        Bad(
            [((2, 3), "float32"), ((2,), "float32"), ((2,), "float32")], {"eps": 0.1},
            ValueError, "layer_norm: weight .* do not fit",
        )
    ],
    ulps=64,
)  # fmt: skip


def _lower_batch_norm_slope(emit, *xs, eps):
    xs = [emit.contiguous(x) for x in xs]
    x = xs[1].layout
    y = emit.empty(x.shape, x.dtype)
    parts = [emit.empty(xs[2].layout.shape, x.dtype) for _ in range(2)]
    words = _channel_words(xs, eps, xs[1])
    emit.kernel("normalise", words, [y, *parts], xs, ("channels_slope",))
    return y, *parts


def _batch_norm_slope_fallback(g, x, w, middle, var, *, eps):
    axes = _batch_axes(x)
    h = normalise_by(x, middle, var, eps=eps)
    g_sum = _sum(g, axes=axes)
    gh_sum = _sum(e.multiply(g, h), axes=axes)
    count = math.prod(x.shape[a] for a in axes)
    means = [e.multiply(reshape(t, middle.shape), 1 / count) for t in (g_sum, gh_sum)]
    slope = e.multiply(_slope(g, h, var, *means, eps=eps), w)
    return slope, reshape(gh_sum, w.shape), reshape(g_sum, w.shape)


_batch_norm_slope = Op(
    "batch_norm_slope",
    lambda g, x, w, middle, var, *, eps: (x, w, w),
    lower=_lower_batch_norm_slope,
    fallback=_batch_norm_slope_fallback,
    kernel="normalise",
    listed=False,
)


def _batch_norm_grads(needed, g, y, x, w, b, middle, var, *, eps):
    return *_batch_norm_slope(g, x, w, middle, var, eps=eps), None, None


def _batch_norm_fallback(x, w, b, middle, var, *, eps):
    return affine(standardize_by(x, middle, var, _batch_axes(x), eps), w, b)


def _lower_batch_norm(emit, *xs, eps):
    xs = [emit.contiguous(x) for x in xs]
    y = emit.empty(xs[0].layout.shape, xs[0].layout.dtype)
    emit.kernel("normalise", _channel_words(xs, eps, xs[0]), [y], xs, ("channels",))
    return y


# Its inputs are not independent, so it is tested through `batch_norm`.
_batch_norm = Op(
    "batch_norm",
    lambda x, w, b, middle, var, *, eps: x,
    grad=Joint(_batch_norm_grads),
    formula=lambda x, w, b, middle, var, *, eps: (
        (x - middle) * s.rsqrt(var + eps) * w + b
    ),
    casts=lambda *ts, **static: [ts[0].compute] * 5,
    lower=_lower_batch_norm,
    kernel="normalise",
    fallback=_batch_norm_fallback,
    listed=False,
)

# Layer norm ------------------------------------------------------------------------------


@casting
def layer_norm(
    x: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axes.

    normalized_shape: the sizes of those axes; weight and bias have that shape. float16 and
    bfloat16 are computed in float32. Ba, Kiros and Hinton, 2016.

    >>> nn.functional.layer_norm(pn.tensor([[1.0, 3.0]]), 2, eps=0.0)
    tensor([[-1.,  1.]])
    """
    name, sizes = "layer_norm", as_shape("layer_norm", normalized_shape)
    _floating(name, x)
    if not sizes or tuple(x.shape[-len(sizes) :]) != sizes:
        raise ValueError(
            f"{name}: the last axes of the input {x.shape} must be {sizes}"
        )
    for what, w in (("weight", weight), ("bias", bias)):
        if w is not None and tuple(w.shape) != sizes:
            raise ValueError(f"{name}: {what} is {w.shape}, {sizes} is needed")
    wide = _wide(x)
    if weight is not None and bias is not None:
        vectors = (e.astype(v, wide.dtype) for v in (weight, bias))
        return e.astype(_layer_norm(wide, *vectors, eps=float(eps)), x.dtype)
    axes = tuple(range(len(x.shape) - len(sizes), len(x.shape)))
    y = standardized(wide, axes, eps)
    return e.astype(_scaled(y, weight, bias), x.dtype)


# Batch norm ------------------------------------------------------------------------------


def _per_channel(v: Any, rank: int) -> Any:
    """(c,) as (1, c, 1, ...), where channels are axis 1."""
    return v if v is None or rank == 2 else reshape(v, (-1, *[1] * (rank - 2)))


def _check_channels(name: str, x: Any, **vectors: Any) -> None:
    _floating(name, x)
    if len(x.shape) < 2:
        raise ValueError(f"{name}: (n, channels, ...) is needed, got shape {x.shape}")
    for what, v in vectors.items():
        if v is not None and tuple(v.shape) != (x.shape[1],):
            raise ValueError(
                f"{name}: input {x.shape} has {x.shape[1]} channels, "
                f"{what} is {tuple(v.shape)}"
            )


def batch_statistics(x: Any, name: str = "batch_norm") -> tuple[Any, Any, int]:
    """Mean and variance of each channel with axes of size 1 elsewhere, and how many values
    a channel has; ValueError where that is less than 2."""
    axes = (0, *range(2, len(x.shape)))
    count = 1
    for a in axes:
        count *= x.shape[a]
    if count < 2:
        raise ValueError(
            f"{name}: more than one value per channel is needed in training, got input "
            f"shape {x.shape}; use a larger batch, or eval()"
        )
    return *moments(_wide(x), axes), count


def batch_norm(
    x: Any,
    middle: Any,
    var: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    of_batch: bool,
    eps: float = 1e-5,
    name: str = "batch_norm",
) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias for each channel, axis 1.

    of_batch: mean and var are what `batch_statistics` gave for x, and the gradient goes
    through them; else they are vectors, one number a channel.
    """
    rank = len(x.shape)
    _check_channels(name, x, weight=weight, bias=bias)
    if of_batch and weight is not None and bias is not None:
        wide = _wide(x)
        vectors = (_per_channel(e.astype(v, wide.dtype), rank) for v in (weight, bias))
        y = _batch_norm(wide, *vectors, middle, var, eps=float(eps))
        return e.astype(y, x.dtype)
    if of_batch:
        y = standardize_by(_wide(x), middle, var, _batch_axes(x), eps)
    else:
        _check_channels(name, x, mean=middle, var=var)
        middle, var = (_per_channel(v, rank) for v in (middle, var))
        y = normalise_by(_wide(x), middle, var, eps=float(eps))
    y = _scaled(y, _per_channel(weight, rank), _per_channel(bias, rank))
    return e.astype(y, x.dtype)
