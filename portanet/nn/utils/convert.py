"""All parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

from ...autograd import Tensor, no_grad
from ...ops.shape import concat, reshape


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """The elements of all, one after the other, with their history.

    >>> layer = nn.Linear(3, 2)
    >>> nn.utils.parameters_to_vector(layer.parameters()).shape
    (8,)
    """
    return concat([reshape(p, (-1,)) for p in parameters])


def vector_to_parameters(vector: Tensor, parameters: Iterable[Tensor]) -> None:
    """Assign the parameters from what `parameters_to_vector` gave.

    ValueError where the vector is not of their size; then nothing is changed.
    """
    given = list(parameters)
    wanted = sum(p.size for p in given)
    if vector.shape != (wanted,):
        raise ValueError(
            f"vector_to_parameters: {wanted} elements are needed, got shape {vector.shape}"
        )
    with no_grad():
        at = 0
        for p in given:
            part = reshape(vector.detach()[at : at + p.size], p.shape)
            p.assign(part.to(p.dtype, p.device))
            at += p.size
