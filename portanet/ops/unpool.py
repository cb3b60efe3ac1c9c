"""Max unpooling: values put back where max pooling took them from."""

from __future__ import annotations

import math
from typing import Any

from ..op import check_tensor
from .convolve import numbers
from .index import _as_index, _scatter_set
from .shape import broadcast_to, reshape


def max_unpooling(
    rank: int,
    x: Any,
    indices: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
    *,
    name: str = "",
) -> Any:
    """max_unpool1d, 2d or 3d, by `rank`."""
    name = name or f"max_unpool{rank}d"
    check_tensor(name, x, indices)
    if len(x.shape) not in (rank + 1, rank + 2) or indices.shape != x.shape:
        raise ValueError(
            f"{name}: (n, channels, ...) with {rank} axes after the channels, or without n, "
            f"and indices of the same shape are needed, not {x.shape} and {indices.shape}"
        )
    kernel = numbers(name, "kernel_size", kernel_size, rank, 1)
    stride = kernel if stride is None else numbers(name, "stride", stride, rank, 1)
    padding = numbers(name, "padding", padding, rank, 0)
    sizes = _sizes(name, x.shape, kernel, stride, padding, output_size)
    lead, count = x.shape[:-rank], math.prod(x.shape[-rank:])
    index = reshape(_as_index(name, x, indices), (math.prod(lead), count, 1))
    flat = reshape(x, (math.prod(lead), count, 1))
    empty = (math.prod(lead), math.prod(sizes), 1)
    zeros = broadcast_to(x.constant(0, x.dtype), empty)
    return reshape(_scatter_set(zeros, flat, index, name=name), (*lead, *sizes))


def _sizes(name: str, shape, kernel, stride, padding, output_size) -> tuple[int, ...]:
    """The sizes that max pooling has made those of x of: which of them, output_size says."""
    rank = len(kernel)
    usual = [
        (n - 1) * s - 2 * p + k
        for n, k, s, p in zip(shape[-rank:], kernel, stride, padding, strict=True)
    ]
    given = usual if output_size is None else [int(n) for n in output_size]
    given = given[-rank:] if len(given) == len(shape) else given
    fits = len(given) == rank and all(
        n > 0 and (n == u or abs(n - u) < s)
        for n, u, s in zip(given, usual, stride, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name}: sizes {tuple(given)} do not become {tuple(shape[-rank:])} by pooling; "
            f"they are {tuple(usual)}, or less than a stride {tuple(stride)} from it"
        )
    return tuple(given)


def max_unpool1d(
    x: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Any:  # fmt: skip
    """x (n, channels, length) put back to where `max_pool1d` with return_indices found it,
    and 0 elsewhere: y[..., indices[j]] = x[..., j].

    output_size: what was pooled, where the stride left some of it out; without, it is
    (length - 1) * stride - 2 * padding + kernel_size. Of equal indices the last counts.
    ValueError where sizes do not fit; IndexError, at the next read on a GPU, where an index
    is out of range.

    >>> x = pn.tensor([[[1.0, 3.0, 2.0, 0.0]]])
    >>> y, places = nn.functional.max_pool1d(x, 2, return_indices=True)
    >>> nn.functional.max_unpool1d(y, places, 2)
    tensor([[[0., 3., 2., 0.]]])
    """
    return max_unpooling(1, x, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    x: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Any:  # fmt: skip
    """As max_unpool1d for x (n, channels, h, w); an index counts along the rows of h by w."""
    return max_unpooling(2, x, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    x: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Any:  # fmt: skip
    """As max_unpool1d for x (n, channels, d, h, w)."""
    return max_unpooling(3, x, indices, kernel_size, stride, padding, output_size)
