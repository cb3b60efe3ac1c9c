"""Initialisers: each gives a tensor new values, unrecorded, and returns it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import random
from ..autograd import Tensor
from ..creation import eye, full, tensor
from ..ops import elementwise as e
from ..ops.floats import erfinv
from ..random import Generator


def _check(name: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: a Tensor is expected, not {type(x).__name__}")


def constant_(x: Tensor, value: float) -> Tensor:
    """Every element `value`.

    >>> nn.init.constant_(pn.zeros(2), 3.0)
    tensor([3., 3.])
    """
    _check("constant_", x)
    return x.assign(full(x.shape, value, dtype=x.dtype, device=x.device))


def zeros_(x: Tensor) -> Tensor:
    """Every element 0."""
    return constant_(x, 0)


def ones_(x: Tensor) -> Tensor:
    """Every element 1."""
    return constant_(x, 1)


def uniform_(
    x: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Uniform in [a, b)."""
    _check("uniform_", x)
    if b < a:
        raise ValueError(f"uniform_: [{a}, {b}) is empty")
    return x.assign(
        random.uniform(
            a, b, x.shape, dtype=x.dtype, device=x.device, generator=generator
        )
    )


def normal_(
    x: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Normal with this mean and standard deviation."""
    _check("normal_", x)
    if std < 0:
        raise ValueError(f"normal_: std can't be negative: {std}")
    return x.assign(
        random.normal(
            mean, std, x.shape, dtype=x.dtype, device=x.device, generator=generator
        )
    )


def trunc_normal_(
    x: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Normal with this mean and standard deviation, but only what lies in [a, b].

    By the inverse of the distribution function, at a uniform place between those of a and b.
    """
    _check("trunc_normal_", x)
    if not std > 0 or not a < b:
        raise ValueError(f"trunc_normal_: std {std} or [{a}, {b}] is empty")
    low, high = (math.erf((edge - mean) / (std * math.sqrt(2))) for edge in (a, b))
    place = random.uniform(low, high, x.shape, device=x.device, generator=generator)
    made = e.add(e.multiply(erfinv(place), std * math.sqrt(2)), mean)
    return x.assign(e.astype(e.clip(made, a, b), x.dtype))


def eye_(x: Tensor) -> Tensor:
    """The identity matrix: 1 on the diagonal, else 0."""
    _check("eye_", x)
    if x.ndim != 2:
        raise ValueError(f"eye_: a matrix is needed, got shape {x.shape}")
    return x.assign(eye(*x.shape, dtype=x.dtype, device=x.device))


def dirac_(x: Tensor, groups: int = 1) -> Tensor:
    """The weight (out, in, *kernel) of a convolution that passes on what it gets.

    In each group, output channel i is input channel i, for as many as there are.
    """
    _check("dirac_", x)
    if x.ndim not in (3, 4, 5) or x.shape[0] % groups:
        raise ValueError(f"dirac_: shape {x.shape} is no weight of {groups} groups")
    values = np.zeros(x.shape, np.float32)
    size = x.shape[0] // groups
    middle = tuple(n // 2 for n in x.shape[2:])
    for k in range(groups):
        for i in range(min(size, x.shape[1])):
            values[(k * size + i, i, *middle)] = 1
    return x.assign(tensor(values, x.dtype, x.device))


def orthogonal_(
    x: Tensor, gain: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """gain times a matrix of orthonormal rows, or columns where they are fewer, drawn
    evenly; of more than two axes the first is the rows. Saxe et al., ICLR 2014.

    The decomposition is done by NumPy, so the draw is read back.

    >>> w = nn.init.orthogonal_(pn.zeros((2, 3)))
    >>> bool((abs(w @ w.T - pn.eye(2)) < 1e-6).all())
    True
    """
    _check("orthogonal_", x)
    if x.ndim < 2:
        raise ValueError(f"orthogonal_: 2 axes are needed, got shape {x.shape}")
    rows, columns = x.shape[0], math.prod(x.shape[1:])
    drawn = random.randn(rows, columns, device=x.device, generator=generator)
    values = drawn.numpy().astype(np.float64)
    q, r = np.linalg.qr(values.T if rows < columns else values)
    q = q * np.sign(np.diag(r))  # so that no direction is preferred; Mezzadri, 2007
    q = gain * (q.T if rows < columns else q)
    return x.assign(tensor(q.reshape(x.shape), x.dtype, x.device))


# Scaled by the number of inputs and outputs ------------------------------------------------


def fans(x: Tensor) -> tuple[int, int]:
    """How many inputs an output of a weight (out, in, *kernel) sees, and the reverse.

    >>> nn.init.fans(pn.zeros((8, 3, 5, 5)))
    (75, 200)
    """
    if x.ndim < 2:
        raise ValueError(f"fans: a weight has at least 2 axes, got shape {x.shape}")
    field = math.prod(x.shape[2:])
    return x.shape[1] * field, x.shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which weights before this function are larger; PyTorch's table.

    >>> nn.init.calculate_gain("tanh")
    1.6666...
    """
    if nonlinearity in ("linear", "sigmoid"):
        return 1.0
    if nonlinearity == "tanh":
        return 5 / 3
    if nonlinearity == "relu":
        return math.sqrt(2)
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    raise ValueError(
        f"calculate_gain: {nonlinearity!r} is unknown; use linear, sigmoid, tanh, relu or "
        "leaky_relu"
    )


def _xavier(x: Tensor, gain: float) -> float:
    fan_in, fan_out = fans(x)
    return gain * math.sqrt(2 / (fan_in + fan_out))


def _kaiming(x: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"kaiming: mode is 'fan_in' or 'fan_out', not {mode!r}")
    fan = fans(x)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def xavier_uniform_(
    x: Tensor, gain: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Uniform with variance gain ** 2 * 2 / (fan_in + fan_out).

    Glorot and Bengio, AISTATS 2010.
    """
    bound = math.sqrt(3) * _xavier(x, gain)
    return uniform_(x, -bound, bound, generator)


def xavier_normal_(
    x: Tensor, gain: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Normal with variance gain ** 2 * 2 / (fan_in + fan_out)."""
    return normal_(x, 0.0, _xavier(x, gain), generator)


def kaiming_uniform_(
    x: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Uniform with variance gain ** 2 / fan; `a` is the slope of a leaky ReLU.

    He, Zhang, Ren and Sun, ICCV 2015.
    """
    bound = math.sqrt(3) * _kaiming(x, a, mode, nonlinearity)
    return uniform_(x, -bound, bound, generator)


def kaiming_normal_(
    x: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal with variance gain ** 2 / fan."""
    return normal_(x, 0.0, _kaiming(x, a, mode, nonlinearity), generator)
