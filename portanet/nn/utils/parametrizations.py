"""Weights by length and direction, and weights of bounded slope."""

from __future__ import annotations

from typing import Any

from ...autograd import Tensor, no_grad
from ...ops import elementwise as e
from ...ops.linear import matmul, vecdot
from ...ops.reduce import norm
from ...ops.shape import moveaxis, reshape
from ...random import randn
from ..module import Module
from .parametrize import register_parametrization


class _WeightNorm(Module):
    def __init__(self, dim: int | None):
        self.dim = dim

    def _size(self, v: Any) -> Any:
        axes = [i for i in range(v.ndim) if self.dim is None or i != self.dim % v.ndim]
        return norm(v, axis=tuple(axes), keepdims=True)

    def forward(self, g: Any, v: Any) -> Any:
        return e.multiply(v, e.divide(g, self._size(v)))

    def right_inverse(self, w: Any) -> Any:
        return self._size(w), w


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """The weight as g * v / |v|: a length for each place along `dim` (None: one for all),
    and a direction. Salimans and Kingma, NeurIPS 2016.

    Trained are `parametrizations.weight.original0`, g, and `original1`, v. Gives the module.

    >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    >>> layer.parametrizations.weight.original0.shape
    (2, 1)
    """
    return register_parametrization(module, name, _WeightNorm(dim))


class _SpectralNorm(Module):
    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, steps: int, dim: int, eps: float):
        self.steps, self.dim, self.eps = steps, dim, eps
        with no_grad():
            rows, columns = self._matrix(weight).shape
            for name, n in (("_u", rows), ("_v", columns)):
                start = randn(n, device=weight.device).astype(weight.dtype)
                self.register_buffer(name, self._unit(start))
            self._iterate(self._matrix(weight.detach()), 15)

    def _matrix(self, w: Any) -> Any:
        return reshape(moveaxis(w, self.dim, 0), (w.shape[self.dim], -1))

    def _unit(self, x: Any) -> Any:
        return e.divide(x, e.maximum(norm(x), self.eps))

    def _iterate(self, w: Any, steps: int) -> None:
        for _ in range(steps):
            self._u.assign(self._unit(matmul(w, self._v)))
            self._v.assign(self._unit(matmul(w.mT, self._u)))

    def forward(self, w: Any) -> Any:
        matrix = self._matrix(w)
        if self.training:
            with no_grad():
                self._iterate(matrix.detach(), self.steps)
        u, v = self._u.detach(), self._v.detach()
        return e.divide(w, vecdot(u, matmul(matrix, v)))


def spectral_norm(
    module: Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Module:
    """The weight divided by its largest singular value, as a matrix (dim, all the others).

    The value is estimated by steps of the power iteration, each time the weight is asked for
    in training. dim: 0, but 1 for transposed convolutions. Miyato et al., ICLR 2018. Gives
    the module.

    >>> layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    >>> for _ in range(100):
    ...     weight = layer.weight
    >>> round(float(np.linalg.norm(weight.numpy(), 2)), 3)
    1.0
    """
    if n_power_iterations < 1:
        raise ValueError(
            f"spectral_norm: n_power_iterations is at least 1, not {n_power_iterations}"
        )
    weight = getattr(module, name)
    if weight.ndim < 2:
        raise ValueError(f"spectral_norm: {name} has shape {weight.shape}, no matrix")
    if dim is None:
        dim = 1 if type(module).__name__.startswith("ConvTranspose") else 0
    return register_parametrization(
        module, name, _SpectralNorm(weight, n_power_iterations, dim, eps)
    )
