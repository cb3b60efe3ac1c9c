"""PixelShuffle, PixelUnshuffle, Upsample, Unfold, Fold."""

from __future__ import annotations

from typing import Any

from ..ops.shape import permute_dims, reshape
from . import functional as F
from .module import Module


class PixelShuffle(Module):
    """(n, c * r * r, h, w) becomes (n, c, h * r, w * r); Shi et al., CVPR 2016.

    >>> nn.PixelShuffle(2)(pn.ones((1, 8, 3, 3))).shape
    (1, 2, 6, 6)
    """

    def __init__(self, upscale_factor: int):
        self.upscale_factor = upscale_factor

    def forward(self, x: Any) -> Any:
        return F.pixel_shuffle(x, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class ChannelShuffle(Module):
    """Channels (group, k) in the order (k, group): (n, groups * k, ...); Zhang et al., CVPR
    2018.

    >>> nn.ChannelShuffle(2)(pn.arange(4).reshape(1, 4, 1))[0, :, 0].tolist()
    [0, 2, 1, 3]
    """

    def __init__(self, groups: int):
        if groups < 1:
            raise ValueError(
                f"ChannelShuffle: at least 1 group is needed, not {groups}"
            )
        self.groups = groups

    def forward(self, x: Any) -> Any:
        if x.ndim < 3 or x.shape[1] % self.groups:
            raise ValueError(
                f"ChannelShuffle: (n, channels, ...) with a multiple of {self.groups} "
                f"channels is needed, got shape {x.shape}"
            )
        n, channels, *rest = x.shape
        apart = reshape(x, (n, self.groups, channels // self.groups, *rest))
        turned = permute_dims(apart, (0, 2, 1, *range(3, apart.ndim)))
        return reshape(turned, x.shape)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class PixelUnshuffle(Module):
    """(n, c, h * r, w * r) becomes (n, c * r * r, h, w).

    >>> nn.PixelUnshuffle(2)(pn.ones((1, 2, 6, 6))).shape
    (1, 8, 3, 3)
    """

    def __init__(self, downscale_factor: int):
        self.downscale_factor = downscale_factor

    def forward(self, x: Any) -> Any:
        return F.pixel_unshuffle(x, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class Upsample(Module):
    """Other sizes of the axes after the channels, interpolated; see functional.interpolate.

    size: of those axes, or scale_factor, one number for all or one for each. mode: "nearest",
    "nearest-exact", "linear", "bilinear", "trilinear", "bicubic" or "area".

    >>> nn.Upsample(scale_factor=2)(pn.ones((1, 3, 4, 5))).shape
    (1, 3, 8, 10)
    >>> nn.Upsample(size=(2, 3), mode="bilinear")(pn.ones((1, 3, 4, 5))).shape
    (1, 3, 2, 3)
    """

    def __init__(
        self,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ):
        self.size, self.scale_factor = size, scale_factor
        self.mode, self.align_corners = mode, align_corners

    def forward(self, x: Any) -> Any:
        return F.interpolate(
            x, self.size, self.scale_factor, self.mode, self.align_corners
        )

    def extra_repr(self) -> str:
        by = f"size={self.size}" if self.size else f"scale_factor={self.scale_factor}"
        return f"{by}, mode={self.mode!r}"


class Unfold(Module):
    """The windows of an image as columns: (n, c, h, w) to (n, c kh kw, windows).

    >>> nn.Unfold(3, padding=1)(pn.ones((1, 2, 4, 5))).shape
    (1, 18, 20)
    """

    def __init__(
        self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
    ):
        self.kernel_size, self.dilation = kernel_size, dilation
        self.padding, self.stride = padding, stride

    def forward(self, x: Any) -> Any:
        return F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )


class Fold(Module):
    """Columns added up to an image: (n, c kh kw, windows) to (n, c, *output_size).

    >>> nn.Fold((4, 5), 3, padding=1)(pn.ones((1, 18, 20))).shape
    (1, 2, 4, 5)
    """

    def __init__(
        self,
        output_size: Any,
        kernel_size: Any,
        dilation: Any = 1,
        padding: Any = 0,
        stride: Any = 1,
    ):
        self.output_size, self.kernel_size = output_size, kernel_size
        self.dilation, self.padding, self.stride = dilation, padding, stride

    def forward(self, x: Any) -> Any:
        return F.fold(
            x, self.output_size, self.kernel_size, self.dilation, self.padding,
            self.stride,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, "
            f"dilation={self.dilation}, padding={self.padding}, stride={self.stride}"
        )
