"""Samples of images where a grid of coordinates says: grid_sample, affine_grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dtypes import int32
from ..op import check_tensor
from . import elementwise as e
from .index import take
from .linear import matmul
from .shape import broadcast_to, matrix_transpose, moveaxis, reshape, unstack

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")
_A = -0.75  # of the cubic kernel, as `interpolate` has it; Keys, IEEE TASSP 29 (1981)


def affine_grid(theta: Any, size: Sequence[int], align_corners: bool = False) -> Any:
    """The coordinates theta @ (x, y, 1) of each output pixel, for `grid_sample`.

    theta: (n, 2, 3), or (n, 3, 4) for volumes; size: the output's (n, c, h, w), or
    (n, c, d, h, w). The result is (n, h, w, 2), or (n, d, h, w, 3), x before y before z,
    from -1 to 1: at the centres of the corner pixels with align_corners, else at their
    outer edges. Jaderberg et al., NeurIPS 2015.

    >>> same = pn.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    >>> nn.functional.affine_grid(same, (1, 1, 1, 2))
    tensor([[[[-0.5,  0. ],
              [ 0.5,  0. ]]]])
    """
    name, sizes = "affine_grid", tuple(int(n) for n in size)
    check_tensor(name, theta)
    rank = len(sizes) - 2
    if rank not in (2, 3) or min(sizes) < 1:
        raise ValueError(
            f"{name}: size is (n, c, h, w) or (n, c, d, h, w), each at least 1, not {sizes}"
        )
    if tuple(theta.shape) != (sizes[0], rank, rank + 1) or not theta.dtype.is_float:
        raise ValueError(
            f"{name}: theta is {theta.dtype.name} {tuple(theta.shape)}; floats of shape "
            f"{(sizes[0], rank, rank + 1)} are needed for a result of {sizes}"
        )
    axes = [_centres(n, align_corners) for n in sizes[2:]]
    places = np.meshgrid(*axes, indexing="ij")[::-1]
    base = np.stack([*places, np.ones(sizes[2:])], axis=-1).reshape(-1, rank + 1)
    made = matmul(theta.from_numpy(base, theta.dtype), matrix_transpose(theta))
    return reshape(made, (sizes[0], *sizes[2:], rank))


def _centres(n: int, align_corners: bool) -> np.ndarray:
    if align_corners:
        return np.linspace(-1, 1, n) if n > 1 else np.zeros(1)
    return (2 * np.arange(n) + 1) / n - 1


def grid_sample(
    input: Any,
    grid: Any,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Any:
    """The pixels of input at the coordinates of grid, by interpolation.

    input: (n, c, h, w) with grid (n, oh, ow, 2) gives (n, c, oh, ow); or (n, c, d, h, w)
    with (n, od, oh, ow, 3). The last axis of grid is x, y (and z), from -1 to 1 over the
    image: between the centres of its corner pixels with align_corners, else between their
    outer edges. mode: "bilinear" (trilinear for volumes), "nearest" (ties to even; no
    gradient of the grid), or, not for volumes, "bicubic". padding_mode: what is outside, "zeros", the "border", or a
    "reflection". Coordinates are float32 at least; NaN is outside. Jaderberg et al.,
    NeurIPS 2015.

    >>> image = pn.tensor([[[[1.0, 3.0]]]])
    >>> nn.functional.grid_sample(image, pn.zeros((1, 1, 1, 2))).item()
    2.0
    """
    name = "grid_sample"
    check_tensor(name, input, grid)
    _check(name, input, grid, mode, padding_mode)
    sizes = tuple(input.shape[2:])
    wide = e.astype(grid, grid.dtype.compute)
    # x is the last axis of the image and the first coordinate of the grid.
    places = [
        _pixels(g, n, align_corners)
        for g, n in zip(unstack(wide, axis=-1)[::-1], sizes, strict=True)
    ]
    pad = (padding_mode, align_corners)
    taps = [_TAPS[mode](p, n, pad) for p, n in zip(places, sizes, strict=True)]
    rows = reshape(moveaxis(input, 1, -1), (-1, input.shape[1]))
    first = _first_rows(input, grid.shape[1:-1])
    total = None
    for chosen in itertools.product(*taps):
        value = _sample(name, rows, first, sizes, chosen)
        total = value if total is None else e.add(total, value)
    return e.astype(moveaxis(total, -1, 1), input.dtype)


def _check(name: str, x: Any, grid: Any, mode: str, padding_mode: str) -> None:
    rank = len(x.shape) - 2
    if rank not in (2, 3) or len(grid.shape) != rank + 2 or grid.shape[-1] != rank:
        raise ValueError(
            f"{name}: an input (n, c, h, w) and a grid (n, oh, ow, 2), or (n, c, d, h, w) "
            f"and (n, od, oh, ow, 3), are needed, not {x.shape} and {grid.shape}"
        )
    if x.shape[0] != grid.shape[0] or 0 in x.shape[2:]:
        raise ValueError(
            f"{name}: input {x.shape} and grid {grid.shape} must be of one batch, and the "
            "input of some size"
        )
    if not (x.dtype.is_float and grid.dtype.is_float):
        raise TypeError(
            f"{name}: floats are needed, not {x.dtype.name} and {grid.dtype.name}"
        )
    for what, given, known in (
        ("mode", mode, _MODES if rank == 2 else _MODES[:2]),
        ("padding_mode", padding_mode, _PADDINGS),
    ):
        if given not in known:
            raise ValueError(f"{name}: {what} is one of {known}, not {given!r}")


def _pixels(g: Any, n: int, align_corners: bool) -> Any:
    """Coordinates from -1 to 1 as numbers of pixels."""
    if align_corners:
        return e.multiply(e.add(g, 1), (n - 1) / 2)
    return e.divide(e.subtract(e.multiply(e.add(g, 1), n), 1), 2)


def _inside(x: Any, n: int, pad: tuple[str, bool]) -> Any:
    """Numbers of pixels, brought inside as the padding says."""
    mode, align_corners = pad
    if mode == "zeros":
        return x
    if mode == "reflection":
        x = _reflected(x, *((0, n - 1) if align_corners else (-0.5, n - 0.5)))
    return e.clip(x, 0, n - 1)


def _reflected(x: Any, low: float, high: float) -> Any:
    """x, reflected at low and high as often as it takes."""
    span = high - low
    if not span:
        return e.multiply(x, 0)
    away = e.abs(e.subtract(x, low))
    turns = e.floor(e.divide(away, span))
    rest = e.subtract(away, e.multiply(turns, span))
    is_odd = e.equal(e.remainder(turns, 2), 1)
    return e.add(e.where(is_odd, e.subtract(span, rest), rest), low)


# Each gives, for one axis, pairs of (number of a pixel, its weight or None for 1).


def _nearest(x: Any, n: int, pad: tuple[str, bool]):
    return [(e.round(_inside(x, n, pad)), None)]


def _linear(x: Any, n: int, pad: tuple[str, bool]):
    x = _inside(x, n, pad)
    low = e.floor(x)
    part = e.subtract(x, low)
    return [(low, e.subtract(1, part)), (e.add(low, 1), part)]


def _cubic(x: Any, n: int, pad: tuple[str, bool]):
    low = e.floor(x)
    part = e.subtract(x, low)
    weights = [
        _far(e.add(part, 1)), _near(part), _near(e.subtract(1, part)),
        _far(e.subtract(2, part)),
    ]  # fmt: skip
    return [
        (_inside(e.add(low, k - 1), n, pad), weight) for k, weight in enumerate(weights)
    ]


def _polynomial(x: Any, *factors: float) -> Any:
    y = x.constant(factors[0], x.dtype)
    for f in factors[1:]:
        y = e.add(e.multiply(y, x), f)
    return y


def _near(x: Any) -> Any:
    """The cubic kernel at a distance of at most 1."""
    return _polynomial(x, _A + 2, -(_A + 3), 0, 1)


def _far(x: Any) -> Any:
    """The cubic kernel at a distance from 1 to 2."""
    return _polynomial(x, _A, -5 * _A, 8 * _A, -4 * _A)


_TAPS = {"bilinear": _linear, "nearest": _nearest, "bicubic": _cubic}


def _first_rows(x: Any, shape: Sequence[int]) -> Any:
    """The row of the first pixel of each image, in the shape of a grid."""
    n, pixels = x.shape[0], math.prod(x.shape[2:])
    starts = x.from_numpy(np.arange(n, dtype=np.int32) * pixels, int32)
    return broadcast_to(reshape(starts, (n, *[1] * len(shape))), (n, *shape))


def _sample(name: str, rows: Any, first: Any, sizes: tuple[int, ...], chosen) -> Any:
    """The pixels at one tap of each axis, times their weights; 0 where there are none."""
    at, weight, is_there = None, None, None
    for (place, share), n in zip(chosen, sizes, strict=True):
        here = e.logical_and(e.greater_equal(place, 0), e.less(place, n))
        index = e.astype(e.where(here, place, 0), int32)
        at = index if at is None else e.add(e.multiply(at, n), index)
        is_there = here if is_there is None else e.logical_and(is_there, here)
        if share is not None:
            weight = share if weight is None else e.multiply(weight, share)
    value = take(rows, e.add(at, first), axis=0, name=name)
    column = (*first.shape, 1)
    if weight is not None:
        weight = reshape(e.where(is_there, weight, 0), column)
        return e.multiply(value, weight)
    return e.where(reshape(is_there, column), value, 0)
