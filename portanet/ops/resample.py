"""More or fewer pixels, by moving or repeating them."""

from __future__ import annotations

from typing import Any

from .shape import permute_dims, repeat, reshape


def _images(name: str, x: Any) -> tuple[tuple[int, ...], int, int, int]:
    if x.ndim < 3:
        raise ValueError(f"{name}: (..., channels, h, w) is needed, got {x.shape}")
    return (tuple(x.shape[:-3]), *x.shape[-3:])


def _check_factor(name: str, factor: Any) -> None:
    if not isinstance(factor, int) or factor < 1:
        raise ValueError(f"{name}: the factor is a number above 0, not {factor!r}")


def pixel_shuffle(x: Any, upscale_factor: int) -> Any:
    """(..., c * r * r, h, w) as (..., c, h * r, w * r); Shi et al., CVPR 2016.

    y[c, h * r + i, w * r + j] = x[c * r * r + i * r + j, h, w].

    >>> nn.functional.pixel_shuffle(pn.arange(4).reshape(4, 1, 1), 2).tolist()
    [[[0, 1], [2, 3]]]
    """
    name, r = "pixel_shuffle", upscale_factor
    _check_factor(name, r)
    lead, c, h, w = _images(name, x)
    if c % (r * r):
        raise ValueError(
            f"{name}: {c} channels of input {x.shape} are no multiple of {r} * {r}"
        )
    n, c = len(lead), c // (r * r)
    x = reshape(x, (*lead, c, r, r, h, w))
    x = permute_dims(x, (*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return reshape(x, (*lead, c, h * r, w * r))


def pixel_unshuffle(x: Any, downscale_factor: int) -> Any:
    """(..., c, h * r, w * r) as (..., c * r * r, h, w): the inverse of pixel_shuffle."""
    name, r = "pixel_unshuffle", downscale_factor
    _check_factor(name, r)
    lead, c, h, w = _images(name, x)
    if h % r or w % r:
        raise ValueError(f"{name}: {h} x {w} of input {x.shape} is no multiple of {r}")
    n = len(lead)
    x = reshape(x, (*lead, c, h // r, r, w // r, r))
    x = permute_dims(x, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return reshape(x, (*lead, c * r * r, h // r, w // r))


def upsample_nearest(x: Any, scale_factor: int | tuple[int, ...]) -> Any:
    """Each element of the axes after the second repeated scale_factor times.

    x: (n, channels, ...); scale_factor: one for all of these axes, or one for each.

    >>> nn.functional.upsample_nearest(pn.tensor([[[1.0, 2.0]]]), 2).tolist()
    [[[1.0, 1.0, 2.0, 2.0]]]
    """
    name, axes = "upsample_nearest", x.ndim - 2
    factors = scale_factor
    if not isinstance(factors, tuple | list):
        factors = (factors,) * axes
    if axes < 1 or len(factors) != axes:
        raise ValueError(
            f"{name}: input {x.shape} has {max(axes, 0)} axes after the channels, "
            f"{len(factors)} factors were given"
        )
    for axis, factor in enumerate(factors, 2):
        _check_factor(name, factor)
        x = repeat(x, factor, axis=axis) if factor > 1 else x
    return x
