"""More activations, one formula each, and the gated linear unit."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import scalars as s
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


def _relu6(x: Any, maximum: Any, minimum: Any) -> Any:
    return minimum(maximum(x, 0), 6)


hardswish = e._activation(
    "hardswish",
    lambda x: x * (_relu6(x + 3, s.maximum, s.minimum) * (1 / 6)),
    lambda x: x * (_relu6(x + 3, np.maximum, np.minimum) / 6),
    doc="x * min(max(x + 3, 0), 6) / 6; Howard et al., ICCV 2019.",
)

hardsigmoid = e._activation(
    "hardsigmoid",
    lambda x: _relu6(x + 3, s.maximum, s.minimum) / 6,
    lambda x: _relu6(x + 3, np.maximum, np.minimum) / 6,
    doc="min(max(x + 3, 0), 6) / 6.",
)


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
