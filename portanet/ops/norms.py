"""Norms over parts of the channels: root-mean-square, group and instance norm."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from ..casting import casting
from .. import scalars as s
from ..op import LONGEST_ROW, Bad, Case, Joint, Op, Spec
from . import elementwise as e
from .normalise import (
    _check_channels,
    _floating,
    _per_channel,
    _scaled,
    _standardize_rule,
    _wide,
    affine,
    standardize,
    standardize_slope,
    standardized,
    trailing_row,
)
from .reduce import _sum, mean
from .shape import as_shape, reshape

# Root mean square ------------------------------------------------------------------------


def _first(*ts, **static):
    return ts[0], ts[0]


_slope = e._part(
    "rms_slope_by",
    lambda g, y, power, gy_mean, *, eps: (g - y * gy_mean) * s.rsqrt(power + eps),
    _first,
)


def _rms_grad(g, y, x, power, *, axes, eps):
    """dy/dx with the mean square as a function of x, so that its is not asked for.

    rsqrt(mean(x * x) + eps) * (g - y * mean(g * y)).
    """
    gy_mean = mean(e.multiply(g, y), axis=axes, keepdims=True)
    return _slope(g, y, power, gy_mean, eps=eps)


# A part: its inputs are not independent, so it is tested through `rms_scale`.
_rms_by = Op(
    "rms_scale_by",
    lambda x, power, *, axes, eps: Spec(x.shape, x.dtype),
    grad=(_rms_grad, None),
    formula=lambda x, power, *, axes, eps: x * s.rsqrt(power + eps),
    casts=lambda *ts, **static: [ts[0].compute] * 2,
    listed=False,
)


def _rms_fallback(x, *, axes, eps):
    return _rms_by(x, mean(e.square(x), axis=axes, keepdims=True), axes=axes, eps=eps)


def _rms_formula(x, *, axes, eps):
    return x * s.rsqrt(s.row_mean(x * x) + eps)


def _rms_slope_formula(g, x, *, axes, eps):
    scale = s.rsqrt(s.row_mean(x * x) + eps)
    y = x * scale
    return (g - y * s.row_mean(g * y)) * scale


def _rms_slope_fallback(g, x, *, axes, eps):
    power = mean(e.square(x), axis=axes, keepdims=True)
    y = e.multiply(x, e.rsqrt(e.add(power, eps)))
    return _slope(
        g, y, power, mean(e.multiply(g, y), axis=axes, keepdims=True), eps=eps
    )


def _rms_slope_reference(g, x, *, axes, eps):
    scale = 1 / np.sqrt((x * x).mean(axes, keepdims=True) + eps)
    y = x * scale
    return (g - y * (g * y).mean(axes, keepdims=True)) * scale


_FLOATS = ("float32", "float64")
_SHAPES = [((3, 5), (1,)), ((2, 3, 4), (1, 2)), ((1, 1), (1,)), ((2, 1031), (1,))]


def _rms_rule(x: Spec, *, axes, eps) -> Spec:
    try:
        return _standardize_rule(x, axes=axes, eps=eps)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("standardize", "rms_scale", 1)) from None


rms_slope = Op(
    "rms_slope",
    lambda g, x, *, axes, eps: _rms_rule(x, axes=axes, eps=eps),
    reference=_rms_slope_reference,
    cases=lambda rng: [
        Case(
            [rng.normal(size=shape), rng.normal(1, 2, shape)],
            {"axes": axes, "eps": 1e-5},
            _FLOATS,
        )
        for shape, axes in _SHAPES
        if shape != (1, 1)  # g - g: nothing but rounding is left
    ],
    formula=_rms_slope_formula,
    row=lambda g, x, *, axes, eps: trailing_row(x, axes=axes),
    fallback=_rms_slope_fallback,
    # Terms of the size of g cancel.
    ulps=128,
    doc="The gradient of rms_scale: (g - y mean(g y)) / sqrt(mean(x x) + eps).",
)

rms_scale = Op(
    "rms_scale",
    _rms_rule,
    grad=(lambda g, y, x, *, axes, eps: rms_slope(g, x, axes=axes, eps=eps),),
    formula=_rms_formula,
    row=trailing_row,
    reference=lambda x, *, axes, eps: (
        x / np.sqrt((x * x).mean(axes, keepdims=True) + eps)
    ),
    cases=lambda rng: [
        Case([rng.normal(1, 2, shape)], {"axes": axes, "eps": 1e-5}, _FLOATS)
        for shape, axes in _SHAPES
    ],
    fallback=_rms_fallback,
    bad=[
        Bad(
            [((2, 0), "float32")], {"axes": (1,), "eps": 1e-5}, ValueError,
            "rms_scale: axis 1 .* empty",
        ),
        Bad(
            [((2, 2), "int32")], {"axes": (1,), "eps": 1e-5}, TypeError,
            "rms_scale: a floating dtype",
        ),
    ],
    ulps=32,
    doc="x / sqrt(mean(x * x) + eps) over the axes.",
)  # fmt: skip
# The distance from 1 to the next number, which is PyTorch's eps for RMS norm.
_EPS = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-23, "float64": 2**-52}


@casting
def rms_norm(
    x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Any:
    """x / sqrt(mean(x * x) + eps) * weight over the last axes.

    normalized_shape: the sizes of those axes; weight has that shape. eps: that of x's dtype
    where it is None. Zhang and Sennrich, NeurIPS 2019.

    >>> nn.functional.rms_norm(pn.tensor([[3.0, 3.0]]), 2)
    tensor([[1., 1.]])
    """
    name, sizes = "rms_norm", as_shape("rms_norm", normalized_shape)
    _floating(name, x)
    if not sizes or tuple(x.shape[-len(sizes) :]) != sizes:
        raise ValueError(
            f"{name}: the last axes of the input {x.shape} must be {sizes}"
        )
    if weight is not None and tuple(weight.shape) != sizes:
        raise ValueError(f"{name}: weight is {weight.shape}, {sizes} is needed")
    axes = tuple(range(len(x.shape) - len(sizes), len(x.shape)))
    small = _EPS[x.dtype.name] if eps is None else float(eps)
    y = rms_scale(_wide(x), axes=axes, eps=small)
    return e.astype(_scaled(y, weight, None), x.dtype)


# Groups of channels ----------------------------------------------------------------------
# x (n, channels, ...), weight and bias (channels,), all of one dtype; `groups` of channels.


def _group_rule(x: Spec, w: Spec, b: Spec, *, groups, eps) -> Spec:
    if len(x.shape) < 2 or w != (x.shape[1:2], x.dtype) or w != b:
        raise ValueError(f"group_norm: weight {w} and bias {b} do not fit {x}")
    if x.shape[1] % groups:
        raise ValueError(f"group_norm: {groups} groups of the channels of {x}")
    return x


def _as_groups(x: Any, groups: int) -> Any:
    return reshape(x, (x.shape[0], groups, math.prod(x.shape[1:]) // groups))


def _group_fallback(x, w, b, *, groups, eps):
    y = reshape(standardized(_as_groups(x, groups), (2,), eps), x.shape)
    return affine(y, *(_per_channel(v, len(x.shape)) for v in (w, b)))


def _group_slope_fallback(g, x, w, *, groups, eps):
    axes = (0, *range(2, len(x.shape)))
    rows = _as_groups(x, groups)
    h = reshape(standardize(rows, axes=(2,), eps=eps), x.shape)
    gw = _as_groups(e.multiply(g, _per_channel(w, len(x.shape))), groups)
    slope = reshape(standardize_slope(gw, rows, axes=(2,), eps=eps), x.shape)
    return slope, _sum(e.multiply(g, h), axes=axes), _sum(g, axes=axes)


def _lower_group(emit, xs, outputs, which, *, groups, eps):
    xs = [emit.contiguous(x) for x in xs]
    images, channels, *sizes = outputs[0].layout.shape
    (bits,) = struct.unpack("q", struct.pack("d", eps))
    words = [images, groups, channels // groups, math.prod(sizes), bits]
    words += [x.layout.offset for x in xs]
    emit.kernel("group_norm", words, outputs, xs, (which,))


def _lower_group_norm(emit, *xs, **static):
    y = emit.empty(xs[0].layout.shape, xs[0].layout.dtype)
    _lower_group(emit, xs, [y], "forward", **static)
    return y


def _lower_group_slope(emit, *xs, **static):
    made = [emit.empty(x.layout.shape, x.layout.dtype) for x in (xs[1], xs[2], xs[2])]
    _lower_group(emit, xs, made, "slope", **static)
    if not xs[1].layout.size:  # nothing was launched
        for h in made[1:]:
            emit.fill(0, h)
    return made


_group_slope = Op(
    "group_norm_slope",
    lambda g, x, w, *, groups, eps: (x, w, w),
    lower=_lower_group_slope,
    fallback=_group_slope_fallback,
    kernel="group_norm",
    listed=False,
)


def _group_reference(x, w, b, *, groups, eps):
    rows = x.reshape(x.shape[0], groups, -1)
    away = rows - rows.mean(-1, keepdims=True)
    h = (away / np.sqrt(rows.var(-1, keepdims=True) + eps)).reshape(x.shape)
    w, b = (v.reshape(-1, *[1] * (x.ndim - 2)) for v in (w, b))
    return h * w + b


_group_norm = Op(
    "group_norm",
    _group_rule,
    grad=Joint(lambda needed, g, y, x, w, b, **static: _group_slope(g, x, w, **static)),
    lower=_lower_group_norm,
    fallback=_group_fallback,
    kernel="group_norm",
    reference=_group_reference,
    cases=lambda rng: [
        Case(
            [rng.normal(1, 2, shape), *(rng.normal(size=shape[1]) for _ in range(2))],
            {"groups": groups, "eps": 1e-5},
            _FLOATS,
        )
        for shape, groups in [
            ((3, 4), 2),
            ((2, 6, 5), 3),
            ((33, 4, 3, 7), 2),
            ((1, 3, 300), 3),
            ((2, 40, 9, 4), 1),
            ((65, 8, 2, 2), 4),
        ]
    ],
    bad=[
        Bad(
            [((2, 3, 4), "float32"), ((4,), "float32"), ((4,), "float32")],
            {"groups": 1, "eps": 0.1}, ValueError, "group_norm: weight .* do not fit",
        ),
        Bad(
            [((2, 3, 4), "float32"), ((3,), "float32"), ((3,), "float32")],
            {"groups": 2, "eps": 0.1}, ValueError, "group_norm: 2 groups",
        ),
    ],
    ulps=64,
)  # fmt: skip


def _in_groups(x: Any, groups: int, weight: Any, bias: Any, eps: float) -> Any:
    """Normalised over each group of channels of a row, then scaled and shifted."""
    wide, rank = _wide(x), len(x.shape)
    size = math.prod(x.shape[1:]) // groups
    if weight is not None and bias is not None and 0 < size <= LONGEST_ROW:
        vectors = (e.astype(v, wide.dtype) for v in (weight, bias))
        y = _group_norm(wide, *vectors, groups=groups, eps=float(eps))
        return e.astype(y, x.dtype)
    y = reshape(standardized(_as_groups(wide, groups), (2,), eps), x.shape)
    y = _scaled(y, _per_channel(weight, rank), _per_channel(bias, rank))
    return e.astype(y, x.dtype)


@casting
def group_norm(
    x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias, over each group of channels of a row.

    x: (n, channels, ...); channels are a multiple of num_groups; weight and bias:
    (channels,). Wu and He, ECCV 2018.

    >>> nn.functional.group_norm(pn.tensor([[1.0, 3.0, 5.0, 9.0]]), 2, eps=0.0)
    tensor([[-1.,  1., -1.,  1.]])
    """
    name = "group_norm"
    _check_channels(name, x, weight=weight, bias=bias)
    if num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(
            f"{name}: {x.shape[1]} channels of input {x.shape} do not divide into "
            f"{num_groups} groups"
        )
    return _in_groups(x, num_groups, weight, bias, eps)


def instance_norm(
    x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias, over each channel of each row.

    x: (n, channels, size, ...), more than one value a channel; weight and bias: (channels,).
    Ulyanov, Vedaldi and Lempitsky, arXiv:1607.08022, 2016.
    """
    name = "instance_norm"
    _check_channels(name, x, weight=weight, bias=bias)
    if math.prod(x.shape[2:]) < 2:
        raise ValueError(
            f"{name}: more than one value per channel is needed, got input {x.shape}"
        )
    if not x.shape[1]:
        return x
    return _in_groups(x, x.shape[1], weight, bias, eps)
