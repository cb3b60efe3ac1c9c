"""More or fewer pixels, by moving, repeating or interpolating them."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ..dtypes import int32
from ..op import Bad, Case, Op, Spec
from .convolve import numbers
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


# Interpolation ---------------------------------------------------------------------------
# Along each axis a product with a matrix whose rows have few elements, side by side: a
# band. So has the transposed matrix, which is the gradient: one kernel for both.


class Band(NamedTuple):
    """Row p of a matrix has weights[p] from column first[p] on, and 0 elsewhere."""

    first: np.ndarray
    weights: np.ndarray


def _band(rows: int, columns: int, row: Any, column: Any, weight: Any) -> Band:
    """From elements, of which several may meet at one place."""
    low, high = np.full(rows, columns), np.zeros(rows, int)
    np.minimum.at(low, row, column)
    np.maximum.at(high, row, column)
    taps = max(1, int((high - low).max()) + 1)
    low = np.clip(low, 0, columns - taps)
    weights = np.zeros((rows, taps))
    np.add.at(weights, (row, column - low[row]), weight)
    return Band(low.astype(np.int32), weights)


def _resample_rule(x: Spec, first: Spec, weights: Spec, *rest) -> Spec:
    if not x.dtype.is_float:
        raise TypeError(f"interpolate: a floating dtype is needed, not {x.dtype.name}")
    if (
        len(x.shape) != 3
        or first.dtype is not int32
        or weights.shape[:1] != first.shape
    ):
        raise ValueError(
            f"interpolate: (outer, n, inner), int32 places (m,) and weights (m, taps) are "
            f"needed, not {x.shape}, {first.dtype.name} {first.shape}, {weights.shape}"
        )
    return Spec((x.shape[0], first.shape[0], x.shape[2]), x.dtype)


def _lower_resample(emit, x, first, weights, *rest):
    dtype = x.layout.dtype
    x, weights = (emit.contiguous(emit.cast(h, dtype.compute)) for h in (x, weights))
    (outer, size, inner), (count, taps) = x.layout.shape, weights.layout.shape
    y = emit.empty((outer, count, inner), dtype.compute)
    inputs = [x, emit.contiguous(first), weights]
    words = [y.layout.size, outer, count, inner, size, taps]
    words += [h.layout.offset for h in inputs]
    emit.kernel("resample", words, [y], inputs)
    return emit.cast(y, dtype)


def _resample_reference(x, first, weights, *rest):
    y = np.zeros((x.shape[0], len(first), x.shape[2]))
    for p, t in np.ndindex(weights.shape):
        y[:, p] += weights[p, t] * x[:, first[p] + t]
    return y


def _resample_cases(rng) -> list[Case]:
    made = []
    for size, to, inner in [(5, 8, 3), (8, 5, 1), (1, 4, 2), (300, 7, 2)]:
        tables = []
        for band in _bands(size, to, "cubic", False, size / to):
            # Whole numbers: weights are constants, which have no gradient.
            tables += [band.first, np.round(band.weights * 16).astype(int)]
        made.append(Case([rng.normal(size=(2, size, inner)), *tables], {}))
    return made


# x (outer, size, inner), a band and the transposed one, which is the gradient's.
_resample = Op(
    "resample",
    _resample_rule,
    grad=(
        lambda g, y, x, first, weights, back, back_weights: _resample(
            g, back, back_weights, first, weights
        ),
        *[None] * 4,
    ),
    reference=_resample_reference,
    cases=_resample_cases,
    lower=_lower_resample,
    kernel="resample",
    bad=[
        Bad(
            [((1, 2, 1), "int32"), ((2,), "int32"), ((2, 1), "float32")], {}, TypeError,
            "interpolate: a floating dtype",
        )
    ],
    ulps=32,
)  # fmt: skip


def _places(n: int, to: int, align_corners: bool, scale: float) -> np.ndarray:
    """Where in x the centres of the results lie."""
    p = np.arange(to)
    if align_corners:
        return p * ((n - 1) / (to - 1) if to > 1 else 0.0)
    return (p + 0.5) * scale - 0.5


def _cubic(t: np.ndarray) -> np.ndarray:
    """Keys's kernel with a = -0.75; IEEE Trans. ASSP 29 (1981)."""
    a, t = -0.75, np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


@functools.lru_cache(maxsize=256)
def _bands(
    n: int, to: int, kind: str, align_corners: bool, scale: float
) -> tuple[Band, Band]:
    """The band of an axis of n that becomes `to`, and its transpose; `scale` is the step
    from a result to the next, in elements of x."""
    rows = np.arange(to)
    if kind == "area":
        begin, end = rows * n // to, -(-(rows + 1) * n // to)
        row = np.repeat(rows, end - begin)
        column = np.concatenate([np.arange(a, b) for a, b in zip(begin, end)])
        weight = 1.0 / (end - begin)[row]
    elif kind.startswith("nearest"):
        # In float32, as PyTorch has it: the same element where a place is on an edge.
        shift = np.float32(0.5 if kind == "nearest-exact" else 0)
        place = (rows.astype(np.float32) + shift) * np.float32(scale)
        row, column = rows, np.minimum(np.floor(place).astype(int), n - 1)
        weight = np.ones(to)
    else:
        place = _places(n, to, align_corners, scale)
        place = np.maximum(place, 0) if kind == "linear" else place
        low = np.floor(place).astype(int)
        taps = np.arange(2) if kind == "linear" else np.arange(-1, 3)
        away = place[:, None] - (low[:, None] + taps)
        weight = (1 - np.abs(away) if kind == "linear" else _cubic(away)).ravel()
        column = np.clip(low[:, None] + taps, 0, n - 1).ravel()
        row = np.repeat(rows, len(taps))
    return _band(to, n, row, column, weight), _band(n, to, column, row, weight)


_KINDS = {
    "nearest": ("nearest", (1, 2, 3)),
    "nearest-exact": ("nearest-exact", (1, 2, 3)),
    "linear": ("linear", (1,)),
    "bilinear": ("linear", (2,)),
    "trilinear": ("linear", (3,)),
    "bicubic": ("cubic", (2,)),
    "area": ("area", (1, 2, 3)),
}


def _targets(name: str, sizes, size: Any, factor: Any):
    """The sizes of the result, and the step from a result to the next, of each axis."""
    if (size is None) == (factor is None):
        raise ValueError(f"{name}: give one of size and scale_factor")
    if size is not None:
        to = numbers(name, "size", size, len(sizes), 1)
        return to, [n / m for n, m in zip(sizes, to, strict=True)]
    factors = factor if isinstance(factor, tuple | list) else (factor,) * len(sizes)
    if len(factors) != len(sizes) or not all(f > 0 for f in factors):
        raise ValueError(
            f"{name}: scale_factor is a number above 0, or {len(sizes)}, not {factor!r}"
        )
    to = tuple(math.floor(n * f) for n, f in zip(sizes, factors, strict=True))
    if 0 in to:
        raise ValueError(f"{name}: sizes {sizes} times {factor} leave nothing")
    return to, [1 / f for f in factors]


def interpolate(
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Any:
    """x with other sizes of the axes after the channels, interpolated between its elements.

    x: (n, channels, ...). size: of those axes, or scale_factor, one for all or one for each.
    mode: "nearest", "nearest-exact" or "area" for 1 to 3 axes, "linear" for 1, "bilinear" and
    "bicubic" for 2, "trilinear" for 3. align_corners: the first and last elements stay where
    they are (of linear and cubic modes); else elements are areas, whose outer edges stay.

    >>> x = pn.tensor([[[0.0, 4.0]]])
    >>> nn.functional.interpolate(x, 4, mode="linear").tolist()
    [[[0.0, 1.0, 3.0, 4.0]]]
    >>> nn.functional.interpolate(x, 3, mode="linear", align_corners=True).tolist()
    [[[0.0, 2.0, 4.0]]]
    """
    name = "interpolate"
    if mode not in _KINDS:
        raise ValueError(f"{name}: mode is one of {', '.join(_KINDS)}, not {mode!r}")
    kind, ranks = _KINDS[mode]
    if x.ndim - 2 not in ranks:
        wanted = " or ".join(str(r + 2) for r in ranks)
        raise ValueError(f"{name}: mode {mode!r} takes {wanted} axes, got {x.shape}")
    if align_corners is not None and kind not in ("linear", "cubic"):
        raise ValueError(f"{name}: mode {mode!r} has no align_corners")
    sizes = tuple(x.shape[2:])
    if 0 in sizes:
        raise ValueError(f"{name}: input {x.shape} has no elements to interpolate")
    to, scales = _targets(name, sizes, size, scale_factor)
    if kind == "nearest" and all(m % n == 0 for n, m in zip(sizes, to, strict=True)):
        factors = tuple(m // n for n, m in zip(sizes, to, strict=True))
        if all(abs(s * f - 1) < 1e-6 for s, f in zip(scales, factors, strict=True)):
            return upsample_nearest(x, factors)
    for axis, (n, m, scale) in enumerate(zip(sizes, to, scales, strict=True), 2):
        bands = _bands(n, m, kind, bool(align_corners), float(scale))
        tables = []
        for band in bands:
            tables.append(x.from_numpy(band.first, int32))
            tables.append(x.from_numpy(band.weights, x.dtype.compute))
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        folded = reshape(x, (math.prod(before), n, math.prod(after)))
        x = reshape(_resample(folded, *tables), (*before, m, *after))
    return x
