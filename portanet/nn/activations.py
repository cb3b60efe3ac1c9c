"""Activations: elementwise functions as layers."""

from __future__ import annotations

from typing import Any

from ..creation import full
from . import functional as F
from .module import Module, Parameter


class _Plain(Module):
    """An activation without options. inplace is PyTorch's and changes nothing here: a
    tensor is a value."""

    def __init__(self, inplace: bool = False):
        pass


class ReLU(_Plain):
    """y = max(x, 0)."""

    def forward(self, x: Any) -> Any:
        return F.relu(x)


class LeakyReLU(Module):
    """y = x where x > 0, else negative_slope * x."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        self.negative_slope = negative_slope

    def forward(self, x: Any) -> Any:
        return F.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ELU(Module):
    """y = x where x > 0, else alpha * (exp(x) - 1); Clevert et al., ICLR 2016."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        self.alpha = alpha

    def forward(self, x: Any) -> Any:
        return F.elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class GELU(Module):
    """y = x times the normal distribution function of x; Hendrycks and Gimpel, 2016.

    approximate: "none", or "tanh" for the approximation by a tanh.
    """

    def __init__(self, approximate: str = "none"):
        if approximate not in ("none", "tanh"):
            raise ValueError(
                f"GELU: approximate is 'none' or 'tanh', not {approximate!r}"
            )
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        return F.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(_Plain):
    """y = x * sigmoid(x)."""

    def forward(self, x: Any) -> Any:
        return F.silu(x)


class Sigmoid(Module):
    """y = 1 / (1 + exp(-x))."""

    def forward(self, x: Any) -> Any:
        return F.sigmoid(x)


class Tanh(Module):
    """y = tanh(x)."""

    def forward(self, x: Any) -> Any:
        return F.tanh(x)


class Softplus(Module):
    """y = log(1 + exp(beta x)) / beta, without overflow; x where beta x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        if not beta > 0:
            raise ValueError(f"Softplus: beta must be above 0, not {beta}")
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Any) -> Any:
        return F.softplus(x, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Mish(_Plain):
    """y = x * tanh(softplus(x)); Misra, BMVC 2020."""

    def forward(self, x: Any) -> Any:
        return F.mish(x)


class Hardtanh(Module):
    """y = x limited to [min_val, max_val]."""

    def __init__(
        self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
    ):
        if not min_val < max_val:
            raise ValueError(
                f"Hardtanh: min_val {min_val} must be below max_val {max_val}"
            )
        self.min_val, self.max_val = min_val, max_val

    def forward(self, x: Any) -> Any:
        return F.hardtanh(x, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


class Softmax(Module):
    """y = exp(x) / sum(exp(x)) along an axis."""

    def __init__(self, dim: int = -1):
        self.dim = dim

    def forward(self, x: Any) -> Any:
        return F.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """y = x - logsumexp(x) along an axis."""

    def __init__(self, dim: int = -1):
        self.dim = dim

    def forward(self, x: Any) -> Any:
        return F.log_softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmin(Module):
    """y = softmax(-x) along an axis."""

    def __init__(self, dim: int = -1):
        self.dim = dim

    def forward(self, x: Any) -> Any:
        return F.softmax(-x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax2d(Module):
    """Softmax over the channels of (n, channels, h, w), or without n."""

    def forward(self, x: Any) -> Any:
        if x.ndim not in (3, 4):
            raise ValueError(
                f"Softmax2d: (n, channels, h, w) or (channels, h, w) is needed, got shape "
                f"{x.shape}"
            )
        return F.softmax(x, -3)


class ReLU6(_Plain):
    """y = min(max(x, 0), 6)."""

    def forward(self, x: Any) -> Any:
        return F.relu6(x)


class Hardshrink(Module):
    """y = x where |x| > lambd, else 0."""

    def __init__(self, lambd: float = 0.5):
        self.lambd = lambd

    def forward(self, x: Any) -> Any:
        return F.hardshrink(x, self.lambd)

    def extra_repr(self) -> str:
        return str(self.lambd)


class Softshrink(Module):
    """y = x moved toward 0 by lambd, and 0 where |x| <= lambd."""

    def __init__(self, lambd: float = 0.5):
        if not lambd >= 0:
            raise ValueError(f"Softshrink: lambd can't be negative: {lambd}")
        self.lambd = lambd

    def forward(self, x: Any) -> Any:
        return F.softshrink(x, self.lambd)

    def extra_repr(self) -> str:
        return str(self.lambd)


class Tanhshrink(Module):
    """y = x - tanh(x)."""

    def forward(self, x: Any) -> Any:
        return F.tanhshrink(x)


class Threshold(Module):
    """y = x where x > threshold, else value."""

    def __init__(self, threshold: float, value: float, inplace: bool = False):
        self.threshold, self.value = threshold, value

    def forward(self, x: Any) -> Any:
        return F.threshold(x, self.threshold, self.value)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, value={self.value}"


class SELU(_Plain):
    """y = 1.0507 x where x > 0, else 1.0507 * 1.6733 * (exp(x) - 1).

    Klambauer et al., NeurIPS 2017.
    """

    def forward(self, x: Any) -> Any:
        return F.selu(x)


class CELU(Module):
    """y = x where x > 0, else alpha * (exp(x / alpha) - 1); Barron, arXiv:1704.07483."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        if alpha == 0:
            raise ValueError("CELU: alpha can't be 0")
        self.alpha = alpha

    def forward(self, x: Any) -> Any:
        return F.celu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class Softsign(Module):
    """y = x / (1 + |x|)."""

    def forward(self, x: Any) -> Any:
        return F.softsign(x)


class Hardswish(_Plain):
    """y = x * min(max(x + 3, 0), 6) / 6; Howard et al., ICCV 2019."""

    def forward(self, x: Any) -> Any:
        return F.hardswish(x)


class Hardsigmoid(_Plain):
    """y = min(max(x + 3, 0), 6) / 6."""

    def forward(self, x: Any) -> Any:
        return F.hardsigmoid(x)


class LogSigmoid(Module):
    """y = log(1 / (1 + exp(-x))), without overflow."""

    def forward(self, x: Any) -> Any:
        return F.logsigmoid(x)


class PReLU(Module):
    """y = x where x > 0, else weight * x; the weight is learned.

    num_parameters: 1, or the number of channels, axis 1 of x. He, Zhang, Ren and Sun,
    ICCV 2015.

    >>> nn.PReLU()(pn.tensor([-4.0, 2.0])).tolist()
    [-1.0, 2.0]
    """

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: Any = None,
        dtype: Any = None,
    ):
        if num_parameters < 1:
            raise ValueError(f"PReLU: at least 1 is needed, not {num_parameters}")
        self.num_parameters = num_parameters
        start = full(num_parameters, init, dtype=dtype or "float32", device=device)
        self.weight = Parameter(start)

    def forward(self, x: Any) -> Any:
        return F.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class GLU(Module):
    """y = a * sigmoid(b) for the halves a and b of x along an axis; Dauphin et al., 2017.

    >>> nn.GLU()(pn.ones((3, 8))).shape
    (3, 4)
    """

    def __init__(self, dim: int = -1):
        self.dim = dim

    def forward(self, x: Any) -> Any:
        return F.glu(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
