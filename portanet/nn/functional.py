"""The functions behind the layers, under PyTorch's names; they hold no state."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from .. import casting
from ..autograd import Tensor, no_grad
from ..ops import dropout as dropping
from ..ops import elementwise as e
from ..ops import normalise
from ..ops import activations
from ..ops.activations import (
    glu,
    hardshrink,
    logsigmoid,
    prelu,
    softplus,
    softshrink,
    softsign,
    tanhshrink,
)
from ..creation import ones
from ..ops.attend import NAME as ATTENTION
from ..ops.attend import attend
from ..ops.convolve import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from ..ops.create import one_hot
from ..ops.ctc import ctc_loss
from ..ops.distances import (
    binary_cross_entropy,
    cosine_embedding_loss,
    cosine_similarity,
    gaussian_nll_loss,
    hinge_embedding_loss,
    kl_div,
    margin_ranking_loss,
    multi_margin_loss,
    multilabel_soft_margin_loss,
    pairwise_distance,
    poisson_nll_loss,
    soft_margin_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from ..ops.elementwise import gelu, sigmoid, tanh
from ..ops.linear import linear as matmul_rows
from ..ops.linear import matmul
from ..ops.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    l1_loss,
    log_softmax,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
    softmax,
)
from ..ops.bags import embedding_bag
from ..ops.lookup import embedding
from ..ops.lp_pool import lp_pool1d, lp_pool2d, lp_pool3d
from ..ops.normalise import layer_norm
from ..ops.norms import group_norm, rms_norm
from ..ops.norms import instance_norm as norm_of_instances
from ..ops.reduce import argmax, mean, norm
from ..ops.fold import fold, unfold
from ..ops.resample import (
    interpolate,
    pixel_shuffle,
    pixel_unshuffle,
    upsample_nearest,
)
from ..ops.pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from ..ops.grid import affine_grid, grid_sample
from ..ops.padding import bordered
from ..ops.unpool import max_unpool1d, max_unpool2d, max_unpool3d
from ..ops.shape import flatten, moveaxis, reshape
from ..naming import name_errors
from ..renames import no_function
from ..op import check_tensor
from ..random import Generator, gumbel, stream

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "affine_grid",
    "alpha_dropout",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "ctc_loss",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "elu",
    "embedding",
    "embedding_bag",
    "flatten",
    "fold",
    "gaussian_nll_loss",
    "gelu",
    "glu",
    "grid_sample",
    "group_norm",
    "gumbel_softmax",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hinge_embedding_loss",
    "huber_loss",
    "instance_norm",
    "interpolate",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "margin_ranking_loss",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "mish",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "normalize",
    "one_hot",
    "pad",
    "pairwise_distance",
    "pixel_shuffle",
    "pixel_unshuffle",
    "poisson_nll_loss",
    "prelu",
    "relu",
    "relu6",
    "rms_norm",
    "scaled_dot_product_attention",
    "selu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
    "unfold",
    "upsample_nearest",
]


def _inplace(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, which also takes PyTorch's `inplace` and ignores it: a tensor is a value."""

    @functools.wraps(f, updated=())
    def call(x: Any, *args: Any, inplace: bool = False, **options: Any) -> Any:
        return f(x, *args, **options)

    return call


relu = _inplace(e.relu)
elu = _inplace(e.elu)
leaky_relu = _inplace(e.leaky_relu)
hardtanh = _inplace(activations.hardtanh)
silu = _inplace(e.silu)
mish = _inplace(e.mish)
celu = _inplace(activations.celu)
selu = _inplace(activations.selu)
hardsigmoid = _inplace(activations.hardsigmoid)
hardswish = _inplace(activations.hardswish)
threshold = _inplace(activations.threshold)


def relu6(x: Any, inplace: bool = False) -> Any:
    """min(max(x, 0), 6).

    >>> nn.functional.relu6(pn.tensor([-1.0, 7.0]))
    tensor([0., 6.])
    """
    return activations.hardtanh(x, 0.0, 6.0)


def linear(x: Any, weight: Any, bias: Any = None, *, name: str = "linear") -> Any:
    """x @ weight.T + bias for x (..., in), weight (out, in), bias (out,).

    >>> nn.functional.linear(pn.ones((1, 2)), pn.tensor([[1.0, 2.0]])).item()
    3.0
    """
    if casting.awake and casting.mode.active is not None:  # as @casting, without a call
        return casting.through(linear, (x, weight, bias), {"name": name})
    check_tensor(name, x, weight)
    shape, width = x.shape, weight.shape[-1]
    if not shape or shape[-1] != width:
        features = shape[-1] if shape else "no"
        raise ValueError(
            f"{name}: input has {features} features, weight expects {width} "
            f"(input shape {shape})"
        )
    if x.device is not weight.device:
        raise ValueError(
            f"{name}: the input is on {x.device}, the weight on {weight.device}; move "
            f'one with .to("{weight.device}")'
        )
    rows = x if len(shape) <= 2 else reshape(x, (math.prod(shape[:-1]), width))
    y = matmul_rows(rows, weight) if len(rows.shape) > 1 else matmul(weight, rows)
    if bias is not None:
        y = e.add(y, bias)
    return y if rows is x else reshape(y, (*shape[:-1], weight.shape[0]))


def check_probability(name: str, p: float) -> None:
    """ValueError where p is not in [0, 1]."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p is a probability in [0, 1], not {p}")


def dropout(
    x: Any,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Any:
    """Elements 0 with probability p, the others x / (1 - p); x itself where not training.

    >>> nn.functional.dropout(pn.ones(3), 1.0)
    tensor([0., 0., 0.])
    """
    check_probability("dropout", p)
    if not x.dtype.is_float:
        raise TypeError(f"dropout: a floating dtype is needed, not {x.dtype.name}")
    if not training or p == 0:
        return x
    if p == 1:
        return e.multiply(x, 0)
    bits = stream("dropout", generator).bits(x.size, x.device)
    return dropping.drop(x, reshape(bits, x.shape), p)


def channel_dropout(name: str, rank: int, x: Any, p: float, training: bool) -> Any:
    """Dropout of whole channels: x (n, channels, ...) with `rank` more axes, or without n."""
    check_probability(name, p)
    if x.ndim not in (rank + 1, rank + 2):
        raise ValueError(
            f"{name}: (n, channels, ...) with {rank} axes after the channels is needed, "
            f"or without n, got shape {x.shape}"
        )
    if not training or p == 0:
        return x
    whole = (*x.shape[: x.ndim - rank], *[1] * rank)
    return e.multiply(x, dropout(ones(whole, dtype=x.dtype, device=x.device), p))


def dropout1d(
    x: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """Dropout of whole channels of (n, channels, length), or without n."""
    return channel_dropout("dropout1d", 1, x, p, training)


def dropout2d(
    x: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """Dropout of whole channels of (n, channels, h, w), or without n."""
    return channel_dropout("dropout2d", 2, x, p, training)


def dropout3d(
    x: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """Dropout of whole channels of (n, channels, d, h, w), or without n."""
    return channel_dropout("dropout3d", 3, x, p, training)


def alpha_dropout(
    x: Any, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Any:
    """Dropout that keeps mean 0 and variance 1 after SELU; see nn.AlphaDropout."""
    check_probability("alpha_dropout", p)
    if not training or p == 0:
        return x
    if p == 1:
        return e.multiply(x, 0)
    keep, low = 1 - p, -1.7580993408473766  # SELU(x) as x falls without end
    mask = e.multiply(dropout(ones(x.shape, dtype=x.dtype, device=x.device), p), keep)
    scale = (keep * (1 + p * low * low)) ** -0.5
    held = e.add(e.multiply(x, mask), e.multiply(e.subtract(1, mask), low))
    return e.subtract(e.multiply(held, scale), scale * p * low)


def softmin(x: Any, axis: int = -1) -> Any:
    """softmax(-x) along an axis."""
    return softmax(e.negative(x), axis)


def gumbel_softmax(
    logits: Any,
    tau: float = 1.0,
    hard: bool = False,
    dim: int = -1,
    *,
    generator: Generator | None = None,
) -> Any:
    """softmax((logits + noise) / tau), whose largest element is where a draw from
    softmax(logits) falls; Jang, Gu and Poole, ICLR 2017.

    hard: 1 there and 0 elsewhere, with the gradient of the soft ones.

    >>> gumbel = nn.functional.gumbel_softmax
    >>> gumbel(pn.tensor([0.0, 100.0]), hard=True)
    tensor([0., 1.])
    """
    if not tau > 0:
        raise ValueError(f"gumbel_softmax: tau must be above 0, not {tau}")
    noise = e.astype(gumbel(logits.shape, logits.device, generator), logits.dtype)
    soft = softmax(e.divide(e.add(logits, noise), tau), dim)
    if not hard:
        return soft
    top = argmax(soft, axis=dim, keepdims=True)
    place = moveaxis(one_hot(top, soft.shape[dim], soft.dtype), -1, dim)
    whole = reshape(place, soft.shape)
    return e.add(e.subtract(whole, soft.detach()), soft)


@casting.casting
def normalize(x: Any, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Any:
    """x / max(|x|, eps) with the p-norm along `dim`.

    >>> nn.functional.normalize(pn.tensor([[3.0, 4.0]]))
    tensor([[0.6, 0.8]])
    """
    size = norm(x, axis=dim, keepdims=True, ord=p)
    return e.divide(x, e.maximum(size, eps))


def batch_norm(
    x: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    *,
    name: str = "batch_norm",
) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias for each channel, axis 1.

    In training mean and variance are the batch's, and the running ones are assigned: they
    move toward the batch's by `momentum`, the variance divided by n - 1.
    """
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError(
                f"{name}: running statistics are needed in evaluation, or training=True"
            )
        return normalise.batch_norm(
            x, running_mean, running_var, weight, bias, of_batch=False, eps=eps,
            name=name,
        )  # fmt: skip
    middle, var, count = normalise.batch_statistics(x, name)
    if running_mean is not None:
        _follow(running_mean, middle, 1.0, momentum)
    if running_var is not None:
        _follow(running_var, var, count / (count - 1), momentum)
    return normalise.batch_norm(
        x, middle, var, weight, bias, of_batch=True, eps=eps, name=name
    )


def instance_norm(
    x: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias, over each channel of each row.

    With use_input_stats the running statistics, where given, move toward the averages of
    the rows' by `momentum`, the variance divided by n - 1; without, they are what x is
    normalised by.
    """
    if not use_input_stats:
        return batch_norm(
            x, running_mean, running_var, weight, bias, eps=eps, name="instance_norm"
        )
    y = norm_of_instances(x, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        with no_grad():
            rows = x.detach().reshape(*x.shape[:2], -1)
            n = rows.shape[2]
            middle, var = normalise.moments(normalise._wide(rows), (2,))
            _follow(running_mean, mean(middle, axis=0), 1.0, momentum)
            _follow(running_var, mean(var, axis=0), n / (n - 1), momentum)
    return y


def _follow(running: Tensor, new: Tensor, scale: float, momentum: Any) -> None:
    """Move a running statistic toward `new * scale`."""
    with no_grad():
        new = reshape(new.detach(), running.shape)
        new = new if scale == 1.0 else e.multiply(new, scale)
        moved = normalise.running_average(running, new, momentum)
        running.assign(e.astype(moved, running.dtype))


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    generator: Generator | None = None,
) -> Any:
    """softmax(query @ key.T * scale + attn_mask) @ value, for each batch and head.

    query: (..., heads, queries, width), key: (..., heads, keys, width), value: (..., heads,
    keys, value width), of one floating dtype; the axes before the last two broadcast.
    scale: 1 / sqrt(width) unless given. attn_mask: bool, True where a key is seen, or floats
    that are added; it broadcasts to (..., heads, queries, keys). is_causal: query i sees
    keys up to i, also beside an attn_mask. enable_gqa: each key head serves several
    neighbouring query heads. dropout_p: the part of the weights set to 0, with no regard
    to training or evaluation. A query that sees no key gives 0. Half precision is
    computed in float32.

    Memory grows with the length, forward and backward, also with dropout, whose mask is
    drawn twice and never kept; only the gradient of an attn_mask, and gradients of
    gradients, make all scores. Vaswani et al., NeurIPS 2017; Milakov & Gimelshein,
    arXiv:1805.02867; Dao, arXiv:2307.08691.

    >>> x = pn.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)[0]
    tensor([1., 0.])
    """
    check_probability(ATTENTION, dropout_p)
    if dropout_p == 1:
        value, dropout_p = e.multiply(value, 0), 0.0
    args = (query, key, value, attn_mask)
    chosen: dict[str, Any] = {
        "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa,
    }  # fmt: skip
    if not dropout_p:
        return attend(*args, **chosen)[0]
    state = stream(ATTENTION, generator).state(query.device)
    y, after = attend(*args, state, dropout_p, **chosen)
    with no_grad():
        state.assign(after.detach())
    return y


def pad(x: Any, pad: Any, mode: str = "constant", value: float = 0.0) -> Any:
    """x with a border along its last axes, the last axis first: (left, right, top, bottom).

    mode: "constant", "reflect", "replicate" or "circular". A negative width of a constant
    border cuts off. `pn.pad` is NumPy's, the first axis first.

    >>> nn.functional.pad(pn.ones((1, 2)), (1, 0)).tolist()
    [[0.0, 1.0, 1.0]]
    """
    widths = list(pad)
    if len(widths) % 2 or len(widths) > 2 * x.ndim:
        raise ValueError(
            f"pad: two widths an axis are needed for at most {x.ndim} axes, not {pad!r}"
        )
    pairs = [(widths[i], widths[i + 1]) for i in range(0, len(widths), 2)][::-1]
    if mode == "constant" and min(widths, default=0) < 0:
        first = x.ndim - len(pairs)
        cut = [
            slice(max(-a, 0), n - max(-b, 0))
            for (a, b), n in zip(pairs, x.shape[first:], strict=True)
        ]
        x = x[(..., *cut)]
        pairs = [(max(a, 0), max(b, 0)) for a, b in pairs]
    return bordered("pad", x, pairs, mode, value)


def __getattr__(name: str) -> Any:
    raise no_function(__name__, name)


name_errors(globals(), "portanet.ops.", __name__)
