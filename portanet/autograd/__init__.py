"""Tensors, the tape they record, and gradients."""

from .functions import custom_function, grad, gradients, value_and_grad
from .tape import enable_grad, is_grad_enabled, no_grad
from .tensor import Tensor, tensor_of

__all__ = [
    "Tensor",
    "custom_function",
    "enable_grad",
    "grad",
    "gradients",
    "is_grad_enabled",
    "no_grad",
    "tensor_of",
    "value_and_grad",
]
