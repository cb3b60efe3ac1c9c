"""Linear, Dropout, Flatten, Identity."""

from __future__ import annotations

import math
from typing import Any

from ..creation import empty
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

    def __init__(self, p: float = 0.5):
        F.check_probability("Dropout", p)
        self.p = p

    def forward(self, x: Any) -> Any:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Flatten(Module):
    """The axes from start_dim to end_dim made one: (n, c, h, w) becomes (n, c * h * w)."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Any:
        return F.flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
