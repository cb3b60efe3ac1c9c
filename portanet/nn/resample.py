"""PixelShuffle, PixelUnshuffle, Upsample."""

from __future__ import annotations

from typing import Any

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
    """Each element of the axes after the channels repeated: nearest-neighbour upsampling.

    x: (n, channels, ...); scale_factor: one number for all of these axes, or one for each.

    >>> nn.Upsample(scale_factor=2)(pn.ones((1, 3, 4, 5))).shape
    (1, 3, 8, 10)
    """

    def __init__(self, scale_factor: int | tuple[int, ...]):
        self.scale_factor = scale_factor

    def forward(self, x: Any) -> Any:
        return F.upsample_nearest(x, self.scale_factor)

    def extra_repr(self) -> str:
        return f"scale_factor={self.scale_factor}"
