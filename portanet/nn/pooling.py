"""MaxPool and MaxUnpool, AvgPool, LPPool and adaptive forms, for one to three axes."""

from __future__ import annotations

from typing import Any

from ..ops import pool
from ..ops.lp_pool import lp_pooling
from ..ops.unpool import max_unpooling
from .module import Module


class _MaxPool(Module):
    rank = 0

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, x: Any) -> Any:
        return pool.max_pooling(
            self.rank,
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
            name=type(self).__name__,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )


class _AvgPool(Module):
    rank = 0

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        self.divisor_override = divisor_override
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, x: Any) -> Any:
        return pool.avg_pooling(
            self.rank,
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
            name=type(self).__name__,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}"
        )


class _AdaptiveAvgPool(Module):
    rank = 0

    def __init__(self, output_size: Any):
        self.output_size = output_size

    def forward(self, x: Any) -> Any:
        name = type(self).__name__
        return pool.adaptive_avg_pooling(self.rank, x, self.output_size, name=name)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class _AdaptiveMaxPool(Module):
    rank = 0

    def __init__(self, output_size: Any, return_indices: bool = False):
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, x: Any) -> Any:
        return pool.adaptive_max_pooling(
            self.rank,
            x,
            self.output_size,
            self.return_indices,
            name=type(self).__name__,
        )

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class _MaxUnpool(Module):
    rank = 0

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0):
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding

    def forward(self, x: Any, indices: Any, output_size: Any = None) -> Any:
        return max_unpooling(
            self.rank, x, indices, self.kernel_size, self.stride, self.padding,
            output_size, name=type(self).__name__,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}"
        )


class MaxUnpool1d(_MaxUnpool):
    """Values put back to where MaxPool1d with return_indices found them, 0 elsewhere.

    Called with (x, indices, output_size=None), x and indices (n, channels, length) or
    (channels, length); see `nn.functional.max_unpool1d`.

    >>> pool, unpool = nn.MaxPool1d(2, return_indices=True), nn.MaxUnpool1d(2)
    >>> unpool(*pool(pn.tensor([[[1.0, 3.0, 2.0, 0.0]]])))
    tensor([[[0., 3., 2., 0.]]])
    """

    rank = 1


class MaxUnpool2d(_MaxUnpool):
    """MaxUnpool1d for (n, channels, h, w), or without n. Zeiler et al., ICCV 2011."""

    rank = 2


class MaxUnpool3d(_MaxUnpool):
    """MaxUnpool1d for (n, channels, d, h, w), or without n."""

    rank = 3


class MaxPool1d(_MaxPool):
    """The largest element of each window; see `functional.max_pool1d`.

    x: (n, c, length), or without n. The stride is the kernel's size unless given.
    ValueError where the kernel does not fit, or padding is more than half of it.

    >>> nn.MaxPool1d(2)(pn.tensor([[[1.0, 4.0, 2.0, 3.0]]]))
    tensor([[[4., 3.]]])
    """

    rank = 1


class MaxPool2d(_MaxPool):
    """As MaxPool1d, for x (n, c, height, width)."""

    rank = 2


class MaxPool3d(_MaxPool):
    """As MaxPool1d, for x (n, c, depth, height, width)."""

    rank = 3


class AvgPool1d(_AvgPool):
    """The mean of each window; see `functional.avg_pool1d`.

    x: (n, c, length), or without n. The stride is the kernel's size unless given.
    """

    rank = 1


class AvgPool2d(_AvgPool):
    """As AvgPool1d, for x (n, c, height, width)."""

    rank = 2


class AvgPool3d(_AvgPool):
    """As AvgPool1d, for x (n, c, depth, height, width)."""

    rank = 3


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """The means of output_size windows that cover x (n, c, length), whatever its size.

    A size of None keeps that of x.
    """

    rank = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """As AdaptiveAvgPool1d, for x (n, c, height, width)."""

    rank = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """As AdaptiveAvgPool1d, for x (n, c, depth, height, width)."""

    rank = 3


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """The largest elements of output_size windows that cover x (n, c, length)."""

    rank = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """As AdaptiveMaxPool1d, for x (n, c, height, width)."""

    rank = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """As AdaptiveMaxPool1d, for x (n, c, depth, height, width)."""

    rank = 3


class _LPPool(Module):
    rank = 0

    def __init__(
        self,
        norm_type: float,
        kernel_size: Any,
        stride: Any = None,
        ceil_mode: bool = False,
    ):
        self.norm_type, self.kernel_size = norm_type, kernel_size
        self.stride = kernel_size if stride is None else stride
        self.ceil_mode = ceil_mode

    def forward(self, x: Any) -> Any:
        return lp_pooling(
            self.rank, x, self.norm_type, self.kernel_size, self.stride, self.ceil_mode,
            type(self).__name__,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    """The norm_type-norm of each window of (n, channels, length), or without n.

    >>> nn.LPPool1d(2, 2)(pn.tensor([[[3.0, 4.0]]])).item()
    5.0
    """

    rank = 1


class LPPool2d(_LPPool):
    """LPPool1d for (n, channels, h, w)."""

    rank = 2


class LPPool3d(_LPPool):
    """LPPool1d for (n, channels, d, h, w)."""

    rank = 3
