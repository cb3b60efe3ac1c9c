"""More activations, one formula each, and the gated linear unit."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..casting import casting
from .. import scalars as s
from ..op import check_tensor
from . import elementwise as e
from .shape import normalise_axis, reshape, split


def _below(x: Any) -> Any:
    """x where x <= 0, else 0, so that exp of it does not overflow."""
    return s.where(x > 0, x.const(0), x)


def _below_reference(x: Any) -> Any:
    return np.where(x > 0, 0, x)


# The constants keep mean 0 and variance 1; Klambauer et al., NeurIPS 2017.
_ALPHA, _SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946

selu = e._activation(
    "selu",
    lambda x: s.where(x > 0, _SCALE * x, _SCALE * _ALPHA * s.expm1(_below(x))),
    lambda x: _SCALE * np.where(x > 0, x, _ALPHA * np.expm1(_below_reference(x))),
    doc="1.0507 x where x > 0, else 1.0507 * 1.6733 * (exp(x) - 1); Klambauer et al., "
    "NeurIPS 2017.",
)

_celu = e._activation(
    "celu",
    lambda x, *, alpha: s.where(x > 0, x, alpha * s.expm1(_below(x) / alpha)),
    lambda x, *, alpha: np.where(
        x > 0, x, alpha * np.expm1(_below_reference(x) / alpha)
    ),
    static=({"alpha": 1.0}, {"alpha": 0.5}),
)


def celu(x: Any, alpha: float = 1.0) -> Any:
    """x where x > 0, else alpha * (exp(x / alpha) - 1); Barron, arXiv:1704.07483, 2017."""
    if alpha == 0:
        raise ValueError("celu: alpha can't be 0")
    return _celu(x, alpha=float(alpha))


softsign = e._activation(
    "softsign",
    lambda x: x / (1 + s.apply("abs", x)),
    lambda x: x / (1 + np.abs(x)),
    doc="x / (1 + |x|).",
)


# Ends are chosen by comparisons: there, as in PyTorch, the gradient is that of what is outside,
# infinities meet no 0, and NaN, which no comparison holds for, stays.

hardswish = e._activation(
    "hardswish",
    lambda x: s.where(x >= 3, x, s.where(x <= -3, x.const(0), x * ((x + 3) * (1 / 6)))),
    lambda x: np.where(x >= 3, x, np.where(x <= -3, 0, x * ((x + 3) / 6))),
    doc="x * min(max(x + 3, 0), 6) / 6; Howard et al., ICCV 2019.",
)

hardsigmoid = e._activation(
    "hardsigmoid",
    lambda x: s.where(x >= 3, x.const(1), s.where(x <= -3, x.const(0), (x + 3) / 6)),
    lambda x: np.where(x >= 3, 1, np.where(x <= -3, 0, (x + 3) / 6)),
    doc="min(max(x + 3, 0), 6) / 6.",
)

_hardtanh = e._activation(
    "hardtanh",
    lambda x, *, low, high: s.where(
        x <= low, x.const(low), s.where(x >= high, x.const(high), x)
    ),
    lambda x, *, low, high: np.where(x <= low, low, np.where(x >= high, high, x)),
    static=({"low": -1.0, "high": 1.0}, {"low": 0.0, "high": 6.0}),
)


def hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """x limited to [min_val, max_val], as clip; the gradient is 0 at both ends.

    x: a number of any dtype. ValueError where min_val is above max_val.
    """
    check_tensor("hardtanh", x)
    if not min_val <= max_val:
        raise ValueError(f"hardtanh: min_val {min_val} is above max_val {max_val}")
    if not x.dtype.is_float:
        return e.clip(x, min_val, max_val)
    return _hardtanh(x, low=float(min_val), high=float(max_val))


_hardshrink = e._activation(
    "hardshrink",
    lambda x, *, lambd: s.where(s.apply("abs", x) <= lambd, x.const(0), x),
    lambda x, *, lambd: np.where(np.abs(x) <= lambd, 0, x),
    static=({"lambd": 0.5},),
)


def hardshrink(x: Any, lambd: float = 0.5) -> Any:
    """x where |x| > lambd, else 0."""
    return _hardshrink(x, lambd=float(lambd))


_softshrink = e._activation(
    "softshrink",
    lambda x, *, lambd: x - s.minimum(s.maximum(x, -lambd), lambd),
    lambda x, *, lambd: x - np.clip(x, -lambd, lambd),
    static=({"lambd": 0.5},),
    grad=(lambda g, y, x, *, lambd: e.where(e.greater(e.abs(x), lambd), g, 0),),
)


def softshrink(x: Any, lambd: float = 0.5) -> Any:
    """x moved toward 0 by lambd, and 0 where |x| <= lambd."""
    if not lambd >= 0:
        raise ValueError(f"softshrink: lambd can't be negative: {lambd}")
    return _softshrink(x, lambd=float(lambd))


tanhshrink = e._activation(
    "tanhshrink",
    lambda x: x - s.tanh(x),
    lambda x: x - np.tanh(x),
    grad=(lambda g, y, x: e.multiply(g, e.square(e.tanh(x))),),
    # Near 0 the terms cancel: the bound is on their size.
    ulps=16,
    doc="x - tanh(x).",
)

_threshold = e._activation(
    "threshold",
    lambda x, *, threshold, value: s.where(x <= threshold, x.const(value), x),
    lambda x, *, threshold, value: np.where(x <= threshold, value, x),
    static=({"threshold": 0.5, "value": 2.0},),
)


def threshold(x: Any, threshold: float, value: float) -> Any:
    """x where x > threshold, else value."""
    return _threshold(x, threshold=float(threshold), value=float(value))


def _sharp_softplus(x, *, beta, threshold):
    y = s.maximum(x, 0) + s.log1p(s.exp(s.apply("abs", x) * -beta)) * (1 / beta)
    return s.where(x * beta > threshold, x, y)


_sharp = e._activation(
    "sharp_softplus",
    _sharp_softplus,
    lambda x, *, beta, threshold: np.where(
        x * beta > threshold, x, np.logaddexp(x * beta, 0) / beta
    ),
    static=({"beta": 2.0, "threshold": 5.0},),
    grad=(
        lambda g, y, x, *, beta, threshold: e.multiply(
            g,
            e.where(
                e.greater(e.multiply(x, beta), threshold),
                1,
                e.sigmoid(e.multiply(x, beta)),
            ),
        ),
    ),
)


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(beta x)) / beta, without overflow; x itself where beta x > threshold.

    >>> nn.functional.softplus(pn.tensor([0.0, 100.0]), beta=2.0)
    tensor([  0.34657..., 100.       ])
    """
    if not beta > 0:
        raise ValueError(f"softplus: beta must be above 0, not {beta}")
    if beta == 1 and threshold >= 20:  # past 20 the difference from x is below an ulp
        return e.softplus(x)
    return _sharp(x, beta=float(beta), threshold=float(threshold))


def _log_sigmoid(x):
    return -(s.maximum(-x, 0) + s.log1p(s.exp(-s.apply("abs", x))))


logsigmoid = e._activation(
    "logsigmoid",
    lambda x: _log_sigmoid(x),
    lambda x: -np.logaddexp(-x, 0),
    grad=(lambda g, y, x: e.multiply(g, e.sigmoid(e.negative(x))),),
    doc="log(1 / (1 + exp(-x))), without overflow.",
)

_prelu = e.elementwise(
    "prelu",
    lambda x, weight: s.where(x > 0, x, weight * x),
    lambda x, weight: np.where(x > 0, x, weight * x),
    types="float",
    grad=(
        lambda g, y, x, weight: e.where(e.greater(x, 0), g, e.multiply(g, weight)),
        lambda g, y, x, weight: e.where(e.greater(x, 0), 0, e.multiply(g, x)),
    ),
    doc="x where x > 0, else weight * x.",
)


@casting
def prelu(x: Any, weight: Any) -> Any:
    """x where x > 0, else weight * x; He, Zhang, Ren and Sun, ICCV 2015.

    weight: one number for all, or one for each channel, axis 1 of x. ValueError where it is
    another number of them.

    >>> nn.functional.prelu(pn.tensor([-2.0, 3.0]), pn.tensor([0.5]))
    tensor([-1.,  3.])
    """
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.ndim > 1 or weight.size not in (1, channels):
        raise ValueError(
            f"prelu: input {x.shape} has {channels} channels, weight is {weight.shape}"
        )
    if weight.size == 1:
        return _prelu(x, reshape(weight, ()))
    return _prelu(x, reshape(weight, (-1, *[1] * (x.ndim - 2))))


def glu(x: Any, axis: int = -1) -> Any:
    """a * sigmoid(b) for the halves a and b of x along an axis; Dauphin et al., ICML 2017.

    ValueError where the axis is odd.

    >>> nn.functional.glu(pn.tensor([2.0, 4.0, 0.0, 0.0]))
    tensor([1., 2.])
    """
    at = normalise_axis("glu", axis, x.ndim, x.shape)
    if x.shape[at] % 2:
        raise ValueError(f"glu: axis {axis} of shape {x.shape} has no two halves")
    a, b = split(x, [x.shape[at] // 2] * 2, axis=at)
    return e.multiply(a, e.sigmoid(b))
