"""Clipping gradients before a step, without reading anything back.

convert.py           parameters as one vector
parametrize.py       parameters computed from others
parametrizations.py  weight and spectral norm
rnn.py               padded and packed sequences
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ...autograd import Tensor, no_grad
from ...creation import zeros
from ...ops import elementwise as e
from ...ops.reduce import norm
from ...ops.shape import stack
from ..module import Module
from . import parametrizations, parametrize, rnn
from .convert import parameters_to_vector, vector_to_parameters

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "get_total_norm",
    "parameters_to_vector",
    "parametrizations",
    "parametrize",
    "rnn",
    "vector_to_parameters",
]


def _with_gradient(parameters: Tensor | Module | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(parameters, Module):
        parameters = parameters.parameters()
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p for p in given if p.grad is not None]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0
) -> Tensor:
    """The norm of all elements together, a 0-d tensor; of nothing 0.

    >>> nn.utils.get_total_norm([pn.tensor([3.0]), pn.tensor([4.0])]).item()
    5.0
    """
    given = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if not given:
        return zeros(())
    kind: Any = math.inf if norm_type == math.inf else float(norm_type)
    return norm(stack([norm(x, ord=kind) for x in given]), ord=kind)


def clip_grad_norm_(
    parameters: Tensor | Module | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
) -> Tensor:
    """Scale the gradients so that the norm of all together is at most max_norm.

    Gives the norm before, a 0-d tensor on the parameters' device. Pascanu, Mikolov and
    Bengio, ICML 2013.

    >>> p = nn.Parameter([3.0, 4.0])
    >>> (p * p / 2).sum().backward()
    >>> nn.utils.clip_grad_norm_(p, 1.0).item()
    5.0
    """
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: max_norm can't be negative: {max_norm}")
    chosen = _with_gradient(parameters)
    if not chosen:
        return zeros(())
    with no_grad():
        grads = [g for p in chosen if (g := p.grad) is not None]
        total = get_total_norm(grads, norm_type)
        # 1e-6 as in PyTorch, so that a norm of 0 does not divide.
        scale = e.minimum(e.divide(max_norm, e.add(total, 1e-6)), 1.0)
        for p, g in zip(chosen, grads, strict=True):
            p.grad = e.multiply(g, e.astype(scale, g.dtype))
    return total


def clip_grad_value_(
    parameters: Tensor | Module | Iterable[Tensor], clip_value: float
) -> None:
    """Limit each element of the gradients to [-clip_value, clip_value]."""
    if not clip_value >= 0:
        raise ValueError(
            f"clip_grad_value_: clip_value can't be negative: {clip_value}"
        )
    with no_grad():
        for p in _with_gradient(parameters):
            p.grad = e.clip(p.grad, -clip_value, clip_value)
