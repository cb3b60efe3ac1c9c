"""Power-average pooling: the p-norm of each window."""

from __future__ import annotations

import math
from typing import Any

from . import elementwise as e
from .pool import avg_pooling


def lp_pooling(
    rank: int, x: Any, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool,
    name: str,
) -> Any:  # fmt: skip
    """The p-norm of each window over the last `rank` axes, PyTorch's lp_pool."""
    if not norm_type > 0:
        raise ValueError(f"{name}: norm_type must be above 0, not {norm_type}")
    sizes = (
        tuple(kernel_size)
        if isinstance(kernel_size, tuple | list)
        else (kernel_size,) * rank
    )
    p = float(norm_type)
    powers = e.square(x) if p == 2 else x if p == 1 else e.pow(x, p)
    means = avg_pooling(
        rank, powers, kernel_size, stride, 0, ceil_mode, True, name=name
    )
    sums = e.multiply(means, math.prod(sizes))
    if p == 1:
        return sums
    # The slope of a root at 0 is infinite: there the gradient is 0.
    size = e.maximum(sums, 0)
    is_empty = e.equal(size, 0)
    return e.where(is_empty, 0, e.pow(e.where(is_empty, 1, size), 1 / p))


def lp_pool1d(
    x: Any,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
) -> Any:
    """y[n, c, k] = (sum of x[n, c, k stride + t] ** p over t < kernel_size) ** (1 / p).

    x: (n, c, length), or without n; p: norm_type. A window whose sum is not positive gives
    0. With ceil_mode a window that is cut off counts as if its mean were that of a whole.

    >>> nn.functional.lp_pool1d(pn.tensor([[[3.0, 4.0]]]), 2, 2).item()
    5.0
    """
    return lp_pooling(1, x, norm_type, kernel_size, stride, ceil_mode, "lp_pool1d")


def lp_pool2d(
    x: Any,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
) -> Any:
    """lp_pool1d for (n, c, h, w)."""
    return lp_pooling(2, x, norm_type, kernel_size, stride, ceil_mode, "lp_pool2d")


def lp_pool3d(
    x: Any,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
) -> Any:
    """lp_pool1d for (n, c, d, h, w)."""
    return lp_pooling(3, x, norm_type, kernel_size, stride, ceil_mode, "lp_pool3d")
