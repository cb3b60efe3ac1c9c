"""Losses that compare: probabilities, pairs by a margin, vectors by distance or angle."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..casting import casting
from .. import scalars as s
from ..dtypes import uint32
from . import elementwise as e
from .create import one_hot
from .index import take
from .losses import (
    _check_weight,
    _picked,
    _reduced,
    _same_shape,
    _weighted,
    binary_cross_entropy_with_logits,
)
from .reduce import mean, norm
from .reduce import sum as total
from .shape import reshape

# Probabilities ---------------------------------------------------------------------------

_kl = e.elementwise(
    "kl_term",
    lambda x, t: s.where(t == 0, t.const(0), t * (s.log(t) - x)),
    lambda x, t: np.where(t == 0, 0, t * (np.log(t) - x)),
    types="float",
    domain=((-4.0, 0.0), (0.1, 1.0)),
    grad=(
        lambda g, y, x, t: e.negative(e.multiply(g, t)),
        lambda g, y, x, t: e.multiply(g, e.subtract(e.add(e.log(t), 1), x)),
    ),
    ulps=16,
    doc="t * (log(t) - x), the share of one class in a divergence; 0 where t is 0.",
)


@casting
def kl_div(
    log_probabilities: Any,
    target: Any,
    *,
    reduction: str = "mean",
    log_target: bool = False,
) -> Any:
    """target * (log(target) - log_probabilities): Kullback and Leibler's divergence.

    log_target: target holds logarithms too. reduction: "batchmean", the sum divided by the
    first axis, is the divergence of a row; "mean" divides by the number of elements.

    >>> p = pn.tensor([[0.5, 0.5]])
    >>> nn.functional.kl_div(pn.log(p), p, reduction="batchmean").item()
    0.0
    """
    name, x = "kl_div", log_probabilities
    _same_shape(name, x, target)
    if log_target:
        values = e.multiply(e.exp(target), e.subtract(target, x))
    else:
        values = _kl(x, target)
    if reduction != "batchmean":
        return _reduced(name, values, reduction)
    if x.ndim == 0:
        raise ValueError(f"{name}: reduction 'batchmean' needs a first axis, got ()")
    return e.divide(total(values), x.shape[0])


# A logarithm is no less than -100, so that the loss is finite; PyTorch's number.
_bce = e.elementwise(
    "bce_term",
    lambda p, t: (t - 1) * s.maximum(s.log1p(-p), -100) - t * s.maximum(s.log(p), -100),
    lambda p, t: (
        (t - 1) * np.maximum(np.log1p(-p), -100) - t * np.maximum(np.log(p), -100)
    ),
    types="float",
    domain=((0.05, 0.95), (0.0, 1.0)),
    grad=(
        lambda g, y, p, t: e.divide(
            e.multiply(g, e.subtract(p, t)),
            e.maximum(e.multiply(p, e.subtract(1, p)), 1e-12),
        ),
        lambda g, y, p, t: e.multiply(
            g,
            e.subtract(
                e.maximum(e.log1p(e.negative(p)), -100), e.maximum(e.log(p), -100)
            ),
        ),
    ),
    ulps=16,
    doc="-(t log(p) + (1 - t) log(1 - p)), a logarithm no less than -100.",
)


@casting
def binary_cross_entropy(
    p: Any, target: Any, *, weight: Any = None, reduction: str = "mean"
) -> Any:
    """-(t log(p) + (1 - t) log(1 - p)) for probabilities p in [0, 1].

    weight: what each loss is multiplied by; it broadcasts. A logarithm counts as no less than
    -100. For logits, which lose nothing near 0 and 1, see
    binary_cross_entropy_with_logits.

    >>> nn.functional.binary_cross_entropy(pn.tensor([0.5]), pn.tensor([1.0])).item()
    0.6931...
    """
    name = "binary_cross_entropy"
    _same_shape(name, p, target)
    return _reduced(name, _weighted(name, _bce(p, target), weight), reduction)


@casting
def poisson_nll_loss(
    x: Any,
    target: Any,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Any:
    """exp(x) - target * x: of counts whose rate is exp(x), or with log_input=False x itself.

    full: with Stirling's approximation of log(target!) for targets above 1.
    """
    name = "poisson_nll_loss"
    _same_shape(name, x, target)
    if log_input:
        values = e.subtract(e.exp(x), e.multiply(target, x))
    else:
        values = e.subtract(x, e.multiply(target, e.log(e.add(x, eps))))
    if full:
        t = e.where(e.greater(target, 1), target, 1)
        rest = e.add(
            e.subtract(e.multiply(t, e.log(t)), t),
            e.multiply(0.5, e.log(e.multiply(2 * math.pi, t))),
        )
        values = e.add(values, e.where(e.greater(target, 1), rest, 0))
    return _reduced(name, values, reduction)


@casting
def gaussian_nll_loss(
    x: Any,
    target: Any,
    var: Any,
    *,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Any:
    """(log(v) + (x - target) ** 2 / v) / 2 for variances v = max(var, eps).

    var: as x, or with a last axis of size 1 or none, one variance for a row. full: with the
    constant log(2 pi) / 2. eps has no gradient. Nix and Weigend, ICNN 1994.
    """
    name = "gaussian_nll_loss"
    _same_shape(name, x, target)
    if var.shape == x.shape[:-1] and x.ndim:
        var = reshape(var, (*var.shape, 1))
    if tuple(var.shape) not in (tuple(x.shape), (*x.shape[:-1], 1)):
        raise ValueError(
            f"{name}: var {tuple(var.shape)} is not of the shape of the input {x.shape}, "
            "nor one number for a row"
        )
    if not eps > 0:
        raise ValueError(f"{name}: eps must be above 0, not {eps}")
    # Where eps takes over, the gradient still passes, as in PyTorch.
    raised = e.maximum(e.subtract(eps, var), 0)
    raised = raised.detach() if hasattr(raised, "detach") else raised
    var = e.add(var, raised)
    values = e.multiply(
        0.5, e.add(e.log(var), e.divide(e.square(e.subtract(x, target)), var))
    )
    values = e.add(values, 0.5 * math.log(2 * math.pi)) if full else values
    return _reduced(name, values, reduction)


# Margins ---------------------------------------------------------------------------------


@casting
def hinge_embedding_loss(
    x: Any, target: Any, *, margin: float = 1.0, reduction: str = "mean"
) -> Any:
    """x where the target is 1, max(0, margin - x) where it is -1, for distances x.

    >>> x, target = pn.tensor([0.5, 0.5]), pn.tensor([1, -1])
    >>> nn.functional.hinge_embedding_loss(x, target, reduction="none")
    tensor([0.5, 0.5])
    """
    name = "hinge_embedding_loss"
    _same_shape(name, x, target)
    away = e.relu(e.subtract(margin, x))
    near = e.where(e.equal(target, 1), x, 0)
    return _reduced(name, e.add(near, e.where(e.equal(target, -1), away, 0)), reduction)


@casting
def margin_ranking_loss(
    x1: Any, x2: Any, target: Any, *, margin: float = 0.0, reduction: str = "mean"
) -> Any:
    """max(0, margin - target * (x1 - x2)): target 1 asks for x1 > x2, -1 for the reverse."""
    name = "margin_ranking_loss"
    _same_shape(name, x1, x2)
    _same_shape(name, x1, target)
    gap = e.multiply(target, e.subtract(x1, x2))
    return _reduced(name, e.relu(e.subtract(margin, gap)), reduction)


@casting
def soft_margin_loss(x: Any, target: Any, *, reduction: str = "mean") -> Any:
    """log(1 + exp(-target * x)) for targets 1 or -1, without overflow."""
    _same_shape("soft_margin_loss", x, target)
    values = e.softplus(e.negative(e.multiply(target, x)))
    return _reduced("soft_margin_loss", values, reduction)


def multilabel_soft_margin_loss(
    x: Any, target: Any, *, weight: Any = None, reduction: str = "mean"
) -> Any:
    """The mean over the classes, the last axis, of binary_cross_entropy_with_logits."""
    name = "multilabel_soft_margin_loss"
    _same_shape(name, x, target)
    each = binary_cross_entropy_with_logits(x, target, weight=weight, reduction="none")
    return _reduced(name, mean(each, axis=-1), reduction)


@casting
def multi_margin_loss(
    x: Any,
    target: Any,
    *,
    p: int = 1,
    margin: float = 1.0,
    weight: Any = None,
    reduction: str = "mean",
) -> Any:
    """The mean over the other classes j of max(0, margin - x[target] + x[j]) ** p.

    x: (n, classes) or (classes,); target: (n,) or (), integers; p: 1 or 2; weight:
    (classes,), of the targets.
    """
    name = "multi_margin_loss"
    if not 1 <= x.ndim <= 2 or tuple(target.shape) != tuple(x.shape[:-1]):
        raise ValueError(
            f"{name}: the input is (n, classes) and the target (n,), got {x.shape} and "
            f"{target.shape}"
        )
    if p not in (1, 2):
        raise ValueError(f"{name}: p is 1 or 2, not {p}")
    classes = x.shape[-1]
    _check_weight(name, weight, classes)
    own = _picked(x, reshape(target, (*target.shape, 1)), name)
    gap = e.relu(e.add(e.subtract(x, own), margin))
    gap = e.square(gap) if p == 2 else gap
    if weight is not None:
        at = e.astype(target, uint32)
        scale = take(weight, at, axis=0, name=name)
        gap = e.multiply(gap, reshape(scale, (*target.shape, 1)))
    others = e.where(e.equal(one_hot(target, classes, x.dtype), 1), 0, gap)
    return _reduced(name, mean(others, axis=-1), reduction)


# Vectors ---------------------------------------------------------------------------------


@casting
def pairwise_distance(
    x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdims: bool = False
) -> Any:
    """The p-norm of x1 - x2 + eps along the last axis; x1 and x2 broadcast."""
    gap = e.add(e.subtract(x1, x2), eps)
    return norm(gap, axis=-1, keepdims=keepdims, ord=p)


@casting
def triplet_margin_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Any:
    """max(0, margin + d(anchor, positive) - d(anchor, negative)) along the last axis.

    d: `pairwise_distance`. swap: the smaller of d(anchor, negative) and
    d(positive, negative). Balntas et al., BMVC 2016.

    >>> a, b = pn.zeros((1, 2)), pn.ones((1, 2))
    >>> nn.functional.triplet_margin_loss(a, a, b, margin=0.5).item()
    0.0
    """
    name = "triplet_margin_loss"
    _same_shape(name, anchor, positive)
    _same_shape(name, anchor, negative)
    return triplet_margin_with_distance_loss(
        anchor, positive, negative, margin=margin, swap=swap, reduction=reduction,
        distance_function=lambda a, b: pairwise_distance(a, b, p, eps),
    )  # fmt: skip


def triplet_margin_with_distance_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    *,
    distance_function: Callable[[Any, Any], Any] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Any:
    """triplet_margin_loss by any distance, `pairwise_distance` where none is given."""
    away = distance_function or pairwise_distance
    near, far = away(anchor, positive), away(anchor, negative)
    if swap:
        far = e.minimum(far, away(positive, negative))
    values = e.relu(e.add(e.subtract(near, far), margin))
    return _reduced("triplet_margin_loss", values, reduction)


@casting
def cosine_similarity(x1: Any, x2: Any, axis: int = 1, eps: float = 1e-8) -> Any:
    """sum(x1 * x2) / (max(|x1|, eps) * max(|x2|, eps)) along an axis; x1, x2 broadcast.

    >>> nn.functional.cosine_similarity(pn.tensor([[3.0, 4.0]]), pn.tensor([[4.0, 3.0]]))
    tensor([0.96...])
    """
    sizes = [e.maximum(norm(x, axis=axis, keepdims=True), eps) for x in (x1, x2)]
    # Each divided by its own size first, so that neither product overflows.
    units = [e.divide(x, n) for x, n in zip((x1, x2), sizes, strict=True)]
    return total(e.multiply(*units), axis=axis)


@casting
def cosine_embedding_loss(
    x1: Any, x2: Any, target: Any, *, margin: float = 0.0, reduction: str = "mean"
) -> Any:
    """1 - cos(x1, x2) where the target is 1, max(0, cos(x1, x2) - margin) where it is -1.

    x1, x2: (n, size), target: (n,); or (size,) and ().
    """
    name = "cosine_embedding_loss"
    _same_shape(name, x1, x2)
    if not 1 <= x1.ndim <= 2 or tuple(target.shape) != tuple(x1.shape[:-1]):
        raise ValueError(
            f"{name}: inputs are (n, size) and the target (n,), got {x1.shape} and "
            f"{target.shape}"
        )
    cos = cosine_similarity(x1, x2, axis=-1)
    away = e.relu(e.subtract(cos, margin))
    near = e.where(e.equal(target, 1), e.subtract(1, cos), 0)
    return _reduced(name, e.add(near, e.where(e.equal(target, -1), away, 0)), reduction)
