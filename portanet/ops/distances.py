"""Losses that compare: probabilities, pairs by a margin, vectors by distance or angle."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import scalars as s
from . import elementwise as e
from .losses import _reduced, _same_shape
from .reduce import norm
from .reduce import sum as total

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


def binary_cross_entropy(p: Any, target: Any, *, reduction: str = "mean") -> Any:
    """-(t log(p) + (1 - t) log(1 - p)) for probabilities p in [0, 1].

    A logarithm counts as no less than -100. For logits, which lose nothing near 0 and 1, see
    binary_cross_entropy_with_logits.

    >>> nn.functional.binary_cross_entropy(pn.tensor([0.5]), pn.tensor([1.0])).item()
    0.6931...
    """
    _same_shape("binary_cross_entropy", p, target)
    return _reduced("binary_cross_entropy", _bce(p, target), reduction)


# Margins ---------------------------------------------------------------------------------


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


def margin_ranking_loss(
    x1: Any, x2: Any, target: Any, *, margin: float = 0.0, reduction: str = "mean"
) -> Any:
    """max(0, margin - target * (x1 - x2)): target 1 asks for x1 > x2, -1 for the reverse."""
    name = "margin_ranking_loss"
    _same_shape(name, x1, x2)
    _same_shape(name, x1, target)
    gap = e.multiply(target, e.subtract(x1, x2))
    return _reduced(name, e.relu(e.subtract(margin, gap)), reduction)


# Vectors ---------------------------------------------------------------------------------


def pairwise_distance(
    x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdims: bool = False
) -> Any:
    """The p-norm of x1 - x2 + eps along the last axis; x1 and x2 broadcast."""
    gap = e.add(e.subtract(x1, x2), eps)
    return norm(gap, axis=-1, keepdims=keepdims, ord=p)


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
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = e.minimum(far, pairwise_distance(positive, negative, p, eps))
    return _reduced(name, e.relu(e.add(e.subtract(near, far), margin)), reduction)


def cosine_similarity(x1: Any, x2: Any, axis: int = 1, eps: float = 1e-8) -> Any:
    """sum(x1 * x2) / (max(|x1|, eps) * max(|x2|, eps)) along an axis; x1, x2 broadcast.

    >>> nn.functional.cosine_similarity(pn.tensor([[3.0, 4.0]]), pn.tensor([[4.0, 3.0]]))
    tensor([0.96...])
    """
    sizes = [e.maximum(norm(x, axis=axis, keepdims=True), eps) for x in (x1, x2)]
    # Each divided by its own size first, so that neither product overflows.
    units = [e.divide(x, n) for x, n in zip((x1, x2), sizes, strict=True)]
    return total(e.multiply(*units), axis=axis)


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
