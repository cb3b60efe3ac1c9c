"""Linear, Bilinear, dropouts, Flatten, Unflatten, Identity."""

from __future__ import annotations

import math
from typing import Any

from ..creation import empty
from ..ops.shape import normalise_axis, permute_dims, reshape
from . import functional as F
from . import init
from .module import Module, Parameter


class Identity(Module):
    """y = x. Arguments are accepted and forgotten, so that it can stand in for any layer."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def forward(self, x: Any) -> Any:
        return x


class Linear(Module):
    """y = x @ weight.T + bias.

    x: (..., in_features); weight: (out_features, in_features); bias: (out_features,).
    Both start uniform in +-1 / sqrt(in_features) (He et al., ICCV 2015, with a = sqrt(5)).
    ValueError where the last axis of x is not in_features.

    >>> nn.Linear(4, 2)(pn.ones((3, 4))).shape
    (3, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        if in_features < 1 or out_features < 1:
            raise ValueError(
                f"Linear: at least 1 feature is needed, not {in_features} in and "
                f"{out_features} out"
            )
        self.in_features, self.out_features = in_features, out_features
        kind = "float32" if dtype is None else dtype
        shape = (out_features, in_features)
        self.weight = Parameter(empty(shape, dtype=kind, device=device))
        self.bias = None
        if bias:
            self.bias = Parameter(empty(out_features, dtype=kind, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias again."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Any) -> Any:
        return F.linear(x, self.weight, self.bias, name="Linear")

    def extra_repr(self) -> str:
        tail = "" if self.bias is not None else ", bias=False"
        return f"{self.in_features}, {self.out_features}{tail}"


class Dropout(Module):
    """In training each element is 0 with probability p, else x / (1 - p); y = x in
    evaluation. Drawn from the default generator. Srivastava et al., JMLR 15 (2014).

    >>> nn.Dropout(0.5).eval()(pn.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, p: float = 0.5, inplace: bool = False):
        F.check_probability(type(self).__name__, p)
        self.p = p

    def forward(self, x: Any) -> Any:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _ChannelDropout(Dropout):
    rank = 0

    def forward(self, x: Any) -> Any:
        return F.channel_dropout(
            type(self).__name__, self.rank, x, self.p, self.training
        )


class Dropout1d(_ChannelDropout):
    """Dropout of whole channels of (n, channels, length), or without n; Tompson et al.,
    CVPR 2015. In evaluation y = x."""

    rank = 1


class Dropout2d(_ChannelDropout):
    """Dropout1d for (n, channels, h, w)."""

    rank = 2


class Dropout3d(_ChannelDropout):
    """Dropout1d for (n, channels, d, h, w)."""

    rank = 3


class AlphaDropout(Dropout):
    """Dropout that keeps mean 0 and variance 1, for SELU: what is dropped becomes SELU's
    limit, and all is scaled and shifted. In evaluation y = x. Klambauer et al., NeurIPS 2017.

    >>> nn.AlphaDropout(0.5).eval()(pn.ones(2))
    tensor([1., 1.])
    """

    def forward(self, x: Any) -> Any:
        return F.alpha_dropout(x, self.p, self.training)


class Flatten(Module):
    """The axes from start_dim to end_dim made one: (n, c, h, w) becomes (n, c * h * w)."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Any:
        return F.flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """One axis made several: with (1, (c, h, w)), (n, c * h * w) becomes (n, c, h, w).

    >>> nn.Unflatten(1, (2, 3))(pn.ones((4, 6))).shape
    (4, 2, 3)
    """

    def __init__(self, dim: int, unflattened_size: Any):
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, x: Any) -> Any:
        at = normalise_axis("Unflatten", self.dim, x.ndim, x.shape)
        shape = (*x.shape[:at], *self.unflattened_size, *x.shape[at + 1 :])
        if -1 not in shape and math.prod(self.unflattened_size) != x.shape[at]:
            raise ValueError(
                f"Unflatten: axis {at} of shape {x.shape} is not {self.unflattened_size}"
            )
        return reshape(x, shape)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Bilinear(Module):
    """y[o] = sum over i, j of x1[i] weight[o, i, j] x2[j], plus bias[o].

    x1: (..., in1_features), x2: (..., in2_features). weight and bias start uniform in
    +-1 / sqrt(in1_features).

    >>> nn.Bilinear(2, 3, 4)(pn.ones((5, 2)), pn.ones((5, 3))).shape
    (5, 4)
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        if min(in1_features, in2_features, out_features) < 1:
            raise ValueError(
                f"Bilinear: at least 1 feature is needed, not {in1_features} and "
                f"{in2_features} in and {out_features} out"
            )
        self.in1_features, self.in2_features = in1_features, in2_features
        self.out_features = out_features
        options = {"dtype": dtype or "float32", "device": device}
        shape = (out_features, in1_features, in2_features)
        self.weight = Parameter(empty(shape, **options))
        self.bias = Parameter(empty(out_features, **options)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias again."""
        bound = 1 / math.sqrt(self.in1_features)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def forward(self, x1: Any, x2: Any) -> Any:
        sizes = (self.in1_features, self.in2_features)
        if (x1.shape[-1:], x2.shape[-1:]) != ((sizes[0],), (sizes[1],)) or (
            x1.shape[:-1] != x2.shape[:-1]
        ):
            raise ValueError(
                f"Bilinear: (..., {sizes[0]}) and (..., {sizes[1]}) are needed, got "
                f"{x1.shape} and {x2.shape}"
            )
        o, (n, m) = self.out_features, sizes
        rows = reshape(x1, (-1, n))
        left = F.linear(rows, reshape(permute_dims(self.weight, (0, 2, 1)), (o * m, n)))
        each = reshape(left, (-1, o, m)) * reshape(x2, (-1, 1, m))
        y = reshape(each.sum(axis=-1), (*x1.shape[:-1], o))
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        tail = "" if self.bias is not None else ", bias=False"
        return f"{self.in1_features}, {self.in2_features}, {self.out_features}{tail}"
