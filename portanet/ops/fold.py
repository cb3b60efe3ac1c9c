"""Patches: unfold takes every window of an image as a column, fold adds them up again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..op import Bad, Case, Op, Spec
from .convolve import numbers
from .shape import _slice, pad, reshape

# x (..., h, w) and its patches (..., kh, kw, oh, ow), where patch (i, j) begins at
# (i stride, j stride). Static: size (h, w), kernel, stride, dilation, two numbers each.


def _counts(size, kernel, stride, dilation) -> tuple[int, int]:
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    n, m = (
        max(0, (n - s) // t + 1) for n, s, t in zip(size, spans, stride, strict=True)
    )
    return n, m


def _lower_patches(emit, x, *, kernel, stride, dilation):
    *lead, h, w = x.layout.shape
    *steps, down, across = x.layout.strides
    counts = _counts((h, w), kernel, stride, dilation)
    strides = (dilation[0] * down, dilation[1] * across, stride[0] * down)
    shape = (*lead, *kernel, *counts)
    return emit.view(x, shape, (*steps, *strides, stride[1] * across))


def _patches_reference(x, *, kernel, stride, dilation):
    counts = _counts(x.shape[-2:], kernel, stride, dilation)
    rows, columns = (
        np.arange(k)[:, None] * d + np.arange(n) * s
        for k, d, n, s in zip(kernel, dilation, counts, stride, strict=True)
    )
    return x[..., rows[:, None, :, None], columns[None, :, None, :]]


_STATIC = [
    ((5, 6), (3, 2), (1, 1), (1, 1)),
    ((7, 5), (2, 3), (2, 1), (1, 2)),
    ((4, 4), (1, 1), (3, 2), (1, 1)),
]

_patches = Op(
    "patches",
    lambda x, *, kernel, stride, dilation: Spec(
        (*x.shape[:-2], *kernel, *_counts(x.shape[-2:], kernel, stride, dilation)),
        x.dtype,
    ),
    grad=(
        lambda g, y, x, *, kernel, stride, dilation: _fold(
            g, size=x.shape[-2:], stride=stride, dilation=dilation
        ),
    ),
    reference=_patches_reference,
    cases=lambda rng: [
        Case(
            [rng.normal(size=(2, *size))],
            {"kernel": k, "stride": s, "dilation": d},
            ("float32", "int32"),
        )
        for size, k, s, d in _STATIC
    ],
    lower=_lower_patches,
    ulps=0,
    doc="Every window of the last two axes: a view.",
)


def _lower_fold(emit, x, *, size, stride, dilation):
    shape, dtype = x.layout.shape, x.layout.dtype
    *lead, kh, kw, oh, ow = shape
    y = emit.empty((*lead, *size), dtype.compute)
    if 0 in shape:
        emit.fill(0, y)
        return emit.cast(y, dtype)
    x = emit.contiguous(emit.cast(x, dtype.compute))
    words = [y.layout.size, math.prod(lead), *size, oh, ow, kh, kw, *stride, *dilation]
    emit.kernel("fold", [*words, x.layout.offset], [y], [x])
    return emit.cast(y, dtype)


def _fold_reference(x, *, size, stride, dilation):
    y = np.zeros((*x.shape[:-4], *size))
    for t, u, i, j in np.ndindex(x.shape[-4:]):
        row, column = i * stride[0] + t * dilation[0], j * stride[1] + u * dilation[1]
        y[..., row, column] += x[..., t, u, i, j]
    return y


def _fold_rule(x: Spec, *, size, stride, dilation) -> Spec:
    if not x.dtype.is_float:
        raise TypeError(f"fold: a floating dtype is needed, not {x.dtype.name}")
    return Spec((*x.shape[:-4], *size), x.dtype)


_fold = Op(
    "fold",
    _fold_rule,
    grad=(
        lambda g, y, x, *, size, stride, dilation: _patches(
            g, kernel=x.shape[-4:-2], stride=stride, dilation=dilation
        ),
    ),
    reference=_fold_reference,
    cases=lambda rng: [
        Case(
            [rng.normal(size=(3, *k, *_counts(size, k, s, d)))],
            {"size": size, "stride": s, "dilation": d},
            ("float32", "float64", "float16"),
        )
        for size, k, s, d in _STATIC
    ],
    lower=_lower_fold,
    kernel="fold",
    bad=[
        Bad(
            [((1, 1, 1, 2, 2), "int32")],
            {"size": (2, 2), "stride": (1, 1), "dilation": (1, 1)},
            TypeError,
            "fold: a floating dtype",
        )
    ],
    ulps=16,
    doc="Patches added up where they were taken: the adjoint of `patches`.",
)


def _sizes(name: str, kernel_size, stride, padding, dilation):
    return [
        numbers(name, what, given, 2, least)
        for what, given, least in [
            ("kernel_size", kernel_size, 1),
            ("stride", stride, 1),
            ("padding", padding, 0),
            ("dilation", dilation, 1),
        ]
    ]


def unfold(
    x: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Any:
    """The windows of an image as columns (im2col): (n, c, h, w) to (n, c kh kw, windows).

    x: also (c, h, w). kernel_size, dilation, padding (zeros on both sides), stride: a number
    or one for each axis. Windows run along rows, as those of a convolution do.

    >>> nn.functional.unfold(pn.arange(4.0).reshape(1, 1, 2, 2), (1, 2)).tolist()
    [[[0.0, 2.0], [1.0, 3.0]]]
    """
    name = "unfold"
    if x.ndim not in (3, 4):
        raise ValueError(f"{name}: (n, c, h, w) or (c, h, w) is needed, got {x.shape}")
    kernel, step, edge, gap = _sizes(name, kernel_size, stride, padding, dilation)
    if any(edge):
        x = pad(x, ((0, 0),) * (x.ndim - 2) + tuple((p, p) for p in edge))
    counts = _counts(x.shape[-2:], kernel, step, gap)
    if 0 in counts:
        raise ValueError(
            f"{name}: no window of kernel_size {kernel} and dilation {gap} fits the padded "
            f"input {x.shape}"
        )
    y = _patches(x, kernel=kernel, stride=step, dilation=gap)
    rows = x.shape[-3] * math.prod(kernel)
    return reshape(y, (*x.shape[:-3], rows, math.prod(counts)))


def fold(
    x: Any,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Any:
    """Columns added up to an image (col2im): (n, c kh kw, windows) to (n, c, h, w).

    The adjoint of unfold with the same options and an image of output_size: where windows
    overlap they are added. x: also (c kh kw, windows).

    >>> y = nn.functional.fold(pn.ones((1, 4, 4)), (3, 3), 2)
    >>> y.tolist()
    [[[[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]]]
    """
    name = "fold"
    kernel, step, edge, gap = _sizes(name, kernel_size, stride, padding, dilation)
    size = numbers(name, "output_size", output_size, 2, 1)
    wide = tuple(n + 2 * p for n, p in zip(size, edge, strict=True))
    counts, taps = _counts(wide, kernel, step, gap), math.prod(kernel)
    fits = x.ndim in (2, 3) and x.shape[-1] == math.prod(counts)
    if not fits or x.shape[-2] % taps:
        raise ValueError(
            f"{name}: input {x.shape} must be (n, c * {taps}, {math.prod(counts)}), the "
            f"windows of kernel_size {kernel} in output_size {size}"
        )
    shape = (*x.shape[:-2], x.shape[-2] // taps, *kernel, *counts)
    y = _fold(reshape(x, shape), size=wide, stride=step, dilation=gap)
    if not any(edge):
        return y
    region = [(0, 1, n) for n in y.shape[:-2]]
    region += [(p, 1, n) for p, n in zip(edge, size, strict=True)]
    return _slice(y, region=tuple(region))
