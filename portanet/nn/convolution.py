"""Conv1d, Conv2d, Conv3d and the transposed ones."""

from __future__ import annotations

import math
from typing import Any

from ..creation import empty
from ..ops import convolve
from ..ops.convolve import numbers
from ..ops.padding import bordered
from . import init
from .module import Module, Parameter

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def _setup(
    self: Any,
    in_channels: int,
    out_channels: int,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    bias: bool,
    device: Any,
    dtype: Any,
) -> None:
    """Check and keep the arguments; make weight and bias."""
    name, rank = type(self).__name__, self.rank
    if in_channels < 1 or out_channels < 1:
        raise ValueError(
            f"{name}: at least 1 channel is needed, not {in_channels} in and "
            f"{out_channels} out"
        )
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(
            f"{name}: {in_channels} channels in and {out_channels} out do not divide "
            f"into {groups} groups"
        )
    self.in_channels, self.out_channels = in_channels, out_channels
    self.kernel_size = numbers(name, "kernel_size", kernel_size, rank, 1)
    self.stride = numbers(name, "stride", stride, rank, 1)
    self.dilation = numbers(name, "dilation", dilation, rank, 1)
    self.groups, self.padding = groups, padding
    if self.transposed or padding not in ("same", "valid"):
        self.padding = numbers(name, "padding", padding, rank, 0)
    pair = (out_channels, in_channels)
    pair = pair[::-1] if self.transposed else pair
    shape = (pair[0], pair[1] // groups, *self.kernel_size)
    kind = "float32" if dtype is None else dtype
    self.weight = Parameter(empty(shape, dtype=kind, device=device))
    self.bias = None
    if bias:
        self.bias = Parameter(empty(out_channels, dtype=kind, device=device))
    self.reset_parameters()  # fmt: skip


def _draw(self: Any) -> None:
    """Weight and bias uniform in +-1 / sqrt(weight.shape[1] * the kernel's size) (He et
    al., ICCV 2015, with a = sqrt(5))."""
    init.kaiming_uniform_(self.weight, a=math.sqrt(5))
    if self.bias is not None:
        bound = 1 / math.sqrt(init.fans(self.weight)[0])
        init.uniform_(self.bias, -bound, bound)


def _described(self: Any, plain: dict[str, Any]) -> str:
    """The arguments, without those of `plain` that have the value given there."""
    text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
    text += f", stride={self.stride}"
    plain |= {"padding": (0,) * self.rank, "dilation": (1,) * self.rank, "groups": 1}
    for key, default in plain.items():
        value = getattr(self, key)
        text += "" if value == default else f", {key}={value!r}"
    return text if self.bias is not None else f"{text}, bias=False"


class _Conv(Module):
    rank = 0
    transposed = False
    kernel_size: Any
    weight: Any
    bias: Any
    stride: Any
    padding: Any
    dilation: Any
    groups: Any

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1,
        padding: Any = 0, dilation: Any = 1, groups: int = 1, bias: bool = True,
        padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        if padding_mode not in PADDING_MODES:
            raise ValueError(
                f"{type(self).__name__}: padding_mode is one of "
                f"{', '.join(PADDING_MODES)}, not {padding_mode!r}"
            )
        self.padding_mode = padding_mode
        _setup(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation,
            groups, bias, device, dtype,
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        name, padding = type(self).__name__, self.padding
        if self.padding_mode != "zeros" and x.ndim > self.rank:
            x, padding = bordered(name, x, self._border(), self.padding_mode), 0
        return convolve.convolution(
            self.rank, x, self.weight, self.bias, self.stride, padding, self.dilation,
            self.groups, name=name,
        )  # fmt: skip

    def _border(self) -> list[tuple[int, int]]:
        """(in front, behind) of each axis, as the convolution itself would pad."""
        if self.padding == "valid":
            return [(0, 0)] * self.rank
        if self.padding != "same":
            return [(n, n) for n in self.padding]
        if any(n != 1 for n in self.stride):
            raise ValueError(
                f"{type(self).__name__}: padding 'same' needs stride 1, not {self.stride}"
            )
        wide = [
            d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True)
        ]
        return [(n // 2, n - n // 2) for n in wide]

    def reset_parameters(self) -> None:
        """Draw weight and bias again."""
        _draw(self)

    def extra_repr(self) -> str:
        return _described(self, {"padding_mode": "zeros"})


class Conv1d(_Conv):
    """y[n, o, p] = bias[o] + sum over c, t of
    x[n, c, p stride + t dilation - padding] * weight[o, c, t].

    x: (n, in_channels, length), or without n; weight: (out_channels,
    in_channels / groups, kernel_size); bias: (out_channels,). padding: elements on either
    side, "same" or "valid"; padding_mode: "zeros", "reflect", "replicate" or "circular".
    Both start uniform in
    +-1 / sqrt(in_channels / groups * kernel_size). ValueError where x has
    other channels, or is shorter than the kernel.

    >>> nn.Conv1d(4, 2, 3, padding=1)(pn.ones((5, 4, 7))).shape
    (5, 2, 7)
    """

    rank = 1


class Conv2d(_Conv):
    """As Conv1d, for x (n, in_channels, height, width).

    kernel_size, stride, padding and dilation: one number, or (height, width).

    >>> nn.Conv2d(3, 8, 3, stride=2)(pn.ones((2, 3, 9, 7))).shape
    (2, 8, 4, 3)
    """

    rank = 2


class Conv3d(_Conv):
    """As Conv1d, for x (n, in_channels, depth, height, width).

    >>> nn.Conv3d(1, 2, (1, 3, 3))(pn.ones((1, 1, 4, 5, 5))).shape
    (1, 2, 4, 3, 3)
    """

    rank = 3


class _ConvTranspose(Module):
    rank = 0
    transposed = True
    weight: Any
    bias: Any
    stride: Any
    padding: Any
    dilation: Any
    groups: Any

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1,
        padding: Any = 0, output_padding: Any = 0, groups: int = 1, bias: bool = True,
        dilation: Any = 1, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        name = type(self).__name__
        self.output_padding = numbers(
            name, "output_padding", output_padding, self.rank, 0
        )
        _setup(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation,
            groups, bias, device, dtype,
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return convolve.transposed_convolution(
            self.rank, x, self.weight, self.bias, self.stride, self.padding,
            self.output_padding, self.groups, self.dilation, name=type(self).__name__,
        )  # fmt: skip

    def reset_parameters(self) -> None:
        """Draw weight and bias again."""
        _draw(self)

    def extra_repr(self) -> str:
        return _described(self, {"output_padding": (0,) * self.rank})


class ConvTranspose1d(_ConvTranspose):
    """The gradient of Conv1d in its input, as a layer: it undoes the sizes of a
    Conv1d of the same arguments.

    x: (n, in_channels, length); weight: (in_channels, out_channels / groups,
    kernel_size). The result has length (length - 1) stride - 2 padding +
    dilation (kernel_size - 1) + output_padding + 1. Both start uniform in
    +-1 / sqrt(out_channels / groups * kernel_size).

    >>> nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1)(pn.ones((1, 2, 5))).shape
    (1, 3, 10)
    """

    rank = 1


class ConvTranspose2d(_ConvTranspose):
    """As ConvTranspose1d, for x (n, in_channels, height, width).

    >>> nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1)(pn.ones((1, 2, 5, 4))).shape
    (1, 3, 10, 8)
    """

    rank = 2


class ConvTranspose3d(_ConvTranspose):
    """As ConvTranspose1d, for x (n, in_channels, depth, height, width)."""

    rank = 3
