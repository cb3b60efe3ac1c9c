"""Pooling: the largest or the mean element of each window.

A maximum is the element at the place that kernel `pool` finds, so its gradient is that
of an index. A mean is a convolution with equal weights.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ..dtypes import int32
from ..op import Bad, Case, Op, Spec
from . import elementwise as e
from .convolve import convolve, numbers
from .index import take_along_axis
from .linear import matmul
from .reduce import mean
from .shape import broadcast_to, moveaxis, reshape

# Where the largest element is ---------------------------------------------------------
# x (n, c, *sizes); static: size (the result's), kernel, stride, padding, dilation, one
# number an axis; kernel () for adaptive windows.


def _place_rule(x: Spec, *, size, kernel, stride, padding, dilation) -> Spec:
    if len(x.shape) != len(size) + 2:
        raise ValueError(
            f"max_pool_places: {len(size) + 2} axes are needed, got {x.shape}"
        )
    if x.dtype.kind == "bool":
        raise TypeError("max_pool_places: not defined for bool; cast with astype")
    if 0 in x.shape[2:]:
        raise ValueError(f"max_pool_places: {x.shape} has no elements to choose from")
    return Spec((*x.shape[:2], *size), int32)


def _lower_places(emit, x, *, size, kernel, stride, padding, dilation):
    shape = x.layout.shape
    y = emit.empty((*shape[:2], *size), int32)
    if 0 in y.layout.shape:
        return y
    if x.layout.dtype is not x.layout.dtype.compute:
        wide = emit.empty(shape, x.layout.dtype.compute)
        emit.copy(x, wide)
        x = wide
    x, lead = emit.contiguous(x), (3 - len(size))
    words = [math.prod(shape[:2])]
    words += [*[1] * lead, *shape[2:], *[1] * lead, *size]
    # Axes in front have one element, under either kind of window.
    words += [*[1] * lead, *(kernel or [0] * len(size))]
    for values, fill in ((stride, 1), (padding, 0), (dilation, 1)):
        words += [*[fill] * lead, *(values or [fill] * len(size))]
    emit.kernel("pool", [*words, x.layout.offset], [y], [x])
    return y


def _windows(n, out, kernel, stride, padding, dilation):
    """The elements of each window along one axis."""
    if not kernel:
        return [range(i * n // out, -(-(i + 1) * n // out)) for i in range(out)]
    taps = [
        [i * stride + t * dilation - padding for t in range(kernel)] for i in range(out)
    ]
    return [[j for j in window if 0 <= j < n] for window in taps]


def _place_reference(x, *, size, kernel, stride, padding, dilation):
    y = np.zeros((*x.shape[:2], *size), np.int64)
    wide = [v or (0,) * len(size) for v in (kernel, stride, padding, dilation)]
    axes = [_windows(*a) for a in zip(x.shape[2:], size, *wide, strict=True)]
    places = np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:])
    flat = x.reshape(*x.shape[:2], places.size)
    for p in itertools.product(*map(range, size)):
        at = np.ix_(*(axes[d][i] for d, i in enumerate(p)))
        seen = places[at].ravel()
        values = flat[..., seen]
        y[(..., *p)] = seen[values.argmax(-1)]
    return y


def _place_cases(rng) -> list[Case]:
    made = []
    for shape, size, *window in [
        ((2, 3, 7), (3,), (3,), (2,), (0,), (1,)),
        ((1, 2, 9, 8), (5, 4), (3, 2), (2, 2), (1, 0), (1, 1)),
        ((2, 1, 6, 700), (6, 699), (3, 2), (1, 1), (1, 0), (1, 1)),
        ((1, 2, 9, 11), (3, 2), (3, 2), (2, 5), (0, 1), (2, 4)),
        ((1, 2, 4, 5, 6), (2, 5, 3), (2, 3, 2), (2, 1, 2), (0, 1, 0), (1, 1, 1)),
        ((2, 2, 7, 5), (3, 5), (), (), (), ()),
        ((1, 3, 5), (8,), (), (), (), ()),
        ((1, 1, 5, 4, 3), (2, 3, 1), (), (), (), ()),
        # Many planes whose windows lie inside.
        ((7, 23, 5, 7), (2, 3), (2, 2), (2, 2), (0, 0), (1, 1)),
        ((5, 70, 2, 2), (1, 1), (2, 2), (2, 2), (0, 0), (1, 1)),
        ((3, 50, 9, 1), (4, 1), (3, 1), (2, 1), (0, 0), (1, 1)),
        ((2, 3, 46, 45), (23, 22), (2, 2), (2, 2), (0, 0), (1, 1)),
        ((3, 37, 6, 6), (2, 2), (2, 2), (1, 1), (0, 0), (3, 4)),
        ((2, 4, 4, 3, 6), (2, 3, 2), (2, 1, 3), (2, 1, 3), (0, 0, 0), (1, 1, 1)),
        ((11, 9, 5, 5), (1, 1), (), (), (), ()),
        ((3, 5, 4, 6), (2, 3), (), (), (), ()),
        ((0, 2, 4), (2,), (2,), (2,), (0,), (1,)),
    ]:
        # Few values: some are equal. NaN comes before them all, -inf after.
        x = rng.integers(-3, 4, shape).astype(float)
        names = ("kernel", "stride", "padding", "dilation")
        static = {"size": size} | dict(zip(names, window, strict=True))
        made.append(Case([x], static, _DTYPES))
        few = rng.uniform(size=shape)
        x = np.where(few < 0.1, np.nan, np.where(few < 0.4, -np.inf, x))
        made.append(Case([x], static, ("float32", "float64")))
    return made


_DTYPES = ("float32", "float64", "float16", "bfloat16", "int32", "int64")
_TWO = {"size": (2,), "kernel": (2,), "stride": (2,), "padding": (0,), "dilation": (1,)}

max_pool_places = Op(
    "max_pool_places",
    _place_rule,
    reference=_place_reference,
    cases=_place_cases,
    lower=_lower_places,
    kernel="pool",
    bad=[
        Bad([((3, 4), "float32")], _TWO, ValueError, "max_pool_places: 3 axes"),
        Bad([((1, 3, 4), "bool")], _TWO, TypeError, "max_pool_places: not defined"),
        Bad([((1, 3, 0), "float32")], _TWO, ValueError, "places: .* no elements"),
    ],
    ulps=0,
    doc="The place, row-major, of the first largest element of each window.",
)  # fmt: skip

# The public functions -----------------------------------------------------------------


def _batched(name: str, x: Any, rank: int) -> Any:
    """x with an axis for the batch, which may be left out."""
    if len(x.shape) not in (rank + 1, rank + 2):
        raise ValueError(
            f"{name}: an input has {rank + 2} axes (batch, channels, sizes), or "
            f"{rank + 1} without a batch; got shape {tuple(x.shape)}"
        )
    return reshape(x, (1, *x.shape)) if len(x.shape) == rank + 1 else x


def _unbatched(y: Any, x: Any, rank: int) -> Any:
    return reshape(y, y.shape[1:]) if len(x.shape) == rank + 1 else y


def _window(name, x, rank, kernel_size, stride, padding, dilation, ceil_mode):
    """The static arguments of a window, `size` among them."""
    kernel = numbers(name, "kernel_size", kernel_size, rank, 1)
    stride = kernel if stride is None else numbers(name, "stride", stride, rank, 1)
    padding = numbers(name, "padding", padding, rank, 0)
    dilation = numbers(name, "dilation", dilation, rank, 1)
    size = []
    for n, k, s, p, d in zip(
        x.shape[2:], kernel, stride, padding, dilation, strict=True
    ):
        span = d * (k - 1) + 1
        if 2 * p > span:
            raise ValueError(
                f"{name}: padding {p} is more than half of the kernel's size {span}"
            )
        if n + 2 * p < span:
            raise ValueError(
                f"{name}: a kernel of size {span} does not fit an axis of size {n} "
                f"with padding {p} (input {tuple(x.shape)})"
            )
        out = (n + 2 * p - span + (s - 1 if ceil_mode else 0)) // s + 1
        # A window must begin in x or in the padding before it.
        size.append(out - 1 if ceil_mode and (out - 1) * s >= n + p else out)
    return {
        "size": tuple(size), "kernel": kernel, "stride": stride, "padding": padding,
        "dilation": dilation,
    }  # fmt: skip


def _largest(x: Any, rank: int, places: Any) -> Any:
    n = math.prod(x.shape[2:])
    flat = reshape(x, (*x.shape[:2], n))
    at = reshape(places, (*x.shape[:2], math.prod(places.shape[2:])))
    return reshape(take_along_axis(flat, at, axis=-1, name="max_pool"), places.shape)


def max_pooling(
    rank: int,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    name: str = "",
) -> Any:
    """max_pool1d, 2d or 3d, by `rank`."""
    name = name or f"max_pool{rank}d"
    batch = _batched(name, x, rank)
    static = _window(
        name, batch, rank, kernel_size, stride, padding, dilation, ceil_mode
    )  # fmt: skip
    places = max_pool_places(batch, **static)
    y = _unbatched(_largest(batch, rank, places), x, rank)
    return (y, _unbatched(places, x, rank)) if return_indices else y


def _counts(n, out, k, s, p, with_padding):
    """How many elements the mean of each window divides by."""
    begin = np.arange(out) * s - p
    end = np.minimum(begin + k, n + p)
    return end - begin if with_padding else np.minimum(end, n) - np.maximum(begin, 0)


def avg_pooling(
    rank: int,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    name: str = "",
) -> Any:
    """avg_pool1d, 2d or 3d, by `rank`."""
    name = name or f"avg_pool{rank}d"
    if not x.dtype.is_float:
        raise TypeError(f"{name}: a floating dtype is needed, not {x.dtype.name}")
    batch = _batched(name, x, rank)
    static = _window(name, batch, rank, kernel_size, stride, padding, 1, ceil_mode)
    kernel, size = static.pop("kernel"), static["size"]
    if divisor_override is not None and divisor_override == 0:
        raise ValueError(f"{name}: divisor_override can't be 0")
    counts = np.ones(())
    for n, out, k, s, p in zip(
        batch.shape[2:], size, kernel, static["stride"], static["padding"], strict=True
    ):
        counts = counts[..., None] * _counts(n, out, k, s, p, count_include_pad)
    if divisor_override is not None:
        counts = np.full((), divisor_override)
    even = bool((counts == counts.flat[0]).all()) if counts.size else True
    share = x.constant(1 / counts.flat[0] if even and counts.size else 1, x.dtype)
    planes = reshape(batch, (math.prod(batch.shape[:2]), 1, *batch.shape[2:]))
    y = convolve(planes, broadcast_to(share, (1, 1, *kernel)), **static, groups=1)
    if not even:
        y = e.multiply(y, x.from_numpy(1 / counts, x.dtype))
    return _unbatched(reshape(y, (*batch.shape[:2], *size)), x, rank)


def _adapted(name: str, output_size: Any, x: Any, rank: int) -> tuple[int, ...]:
    """The sizes asked for; None keeps that of x."""
    given = output_size if isinstance(output_size, tuple | list) else (output_size,)
    given = tuple(given) * rank if len(given) == 1 else tuple(given)
    if len(given) != rank:
        raise ValueError(
            f"{name}: output_size {output_size!r} does not have {rank} numbers"
        )
    if 0 in x.shape[2:]:
        raise ValueError(f"{name}: the input {tuple(x.shape)} is empty")
    sizes = [n if o is None else o for o, n in zip(given, x.shape[2:], strict=True)]
    return numbers(name, "output_size", sizes, rank, 1)


def adaptive_max_pooling(
    rank: int, x: Any, output_size: Any, return_indices: bool = False, *, name: str = ""
) -> Any:
    """adaptive_max_pool1d, 2d or 3d, by `rank`."""
    name = name or f"adaptive_max_pool{rank}d"
    batch = _batched(name, x, rank)
    size = _adapted(name, output_size, batch, rank)
    places = max_pool_places(
        batch, size=size, kernel=(), stride=(), padding=(), dilation=()
    )
    y = _unbatched(_largest(batch, rank, places), x, rank)
    return (y, _unbatched(places, x, rank)) if return_indices else y


def _shares(n: int, out: int) -> np.ndarray:
    """Column i has 1 / count at the elements of window i."""
    shares = np.zeros((n, out))
    for i, window in enumerate(_windows(n, out, 0, 0, 0, 0)):
        shares[list(window), i] = 1 / len(window)
    return shares


def adaptive_avg_pooling(rank: int, x: Any, output_size: Any, *, name: str = "") -> Any:
    """adaptive_avg_pool1d, 2d or 3d, by `rank`."""
    name = name or f"adaptive_avg_pool{rank}d"
    if not x.dtype.is_float:
        raise TypeError(f"{name}: a floating dtype is needed, not {x.dtype.name}")
    y = _batched(name, x, rank)
    size = _adapted(name, output_size, y, rank)
    if all(out == 1 for out in size):
        y = mean(y, axis=tuple(range(2, 2 + rank)), keepdims=True)
        return _unbatched(y, x, rank)
    if all(n % out == 0 for n, out in zip(y.shape[2:], size, strict=True)):
        shape = list(y.shape[:2])
        for n, out in zip(y.shape[2:], size, strict=True):
            shape += [out, n // out]
        y = mean(reshape(y, shape), axis=tuple(range(3, 3 + 2 * rank, 2)))
        return _unbatched(y, x, rank)
    for d, out in enumerate(size, 2):
        n = y.shape[d]
        if n != out:
            share = x.from_numpy(_shares(n, out), x.dtype)
            y = moveaxis(matmul(moveaxis(y, d, -1), share), -1, d)
    return _unbatched(y, x, rank)


def max_pool1d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """y[n, c, p] = the largest x[n, c, p stride + t dilation - padding] over t in
    [0, kernel_size).

    x: (n, c, length), or without n. The stride is the kernel's size unless given. What
    is outside x does not count; ceil_mode keeps a last window that reaches past the
    end. Of equals the first gets the gradient; NaN is the largest. return_indices:
    (y, places), int32, row-major in the axes pooled.

    >>> nn.functional.max_pool1d(pn.tensor([[[1.0, 4.0, 2.0, 3.0]]]), 2)
    tensor([[[4., 3.]]])
    """
    return max_pooling(
        1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def max_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """As `max_pool1d`, for x (n, c, height, width)."""
    return max_pooling(
        2, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def max_pool3d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """As `max_pool1d`, for x (n, c, depth, height, width)."""
    return max_pooling(
        3, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def avg_pool1d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """y[n, c, p] = the mean of x[n, c, p stride + t - padding] over t < kernel_size.

    x: (n, c, length), or without n. count_include_pad: the padding's zeros count.

    >>> nn.functional.avg_pool1d(pn.tensor([[[1.0, 3.0, 2.0, 4.0]]]), 2)
    tensor([[[2., 3.]]])
    """
    return avg_pooling(1, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """As `avg_pool1d`, for x (n, c, height, width).

    divisor_override: what sums are divided by instead of the window's size.
    """
    return avg_pooling(
        2, x, kernel_size, stride, padding, ceil_mode, count_include_pad,
        divisor_override,
    )  # fmt: skip


def avg_pool3d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """As `avg_pool1d`, for x (n, c, depth, height, width).

    divisor_override: what sums are divided by instead of the window's size.
    """
    return avg_pooling(
        3, x, kernel_size, stride, padding, ceil_mode, count_include_pad,
        divisor_override,
    )  # fmt: skip


def adaptive_avg_pool1d(x: Any, output_size: Any) -> Any:
    """The means of output_size windows that cover x: window i is [i n / output_size,
    (i + 1) n / output_size), widened to whole elements.

    x: (n, c, length), or without n; a size of None keeps that of x. Where output_size does
    not divide n, the means are a product with the windows' shares: an element that is not
    finite makes NaN of all means along its axis.

    >>> nn.functional.adaptive_avg_pool1d(pn.tensor([[[1.0, 2.0, 3.0]]]), 2)
    tensor([[[1.5, 2.5]]])
    """
    return adaptive_avg_pooling(1, x, output_size)


def adaptive_avg_pool2d(x: Any, output_size: Any) -> Any:
    """As `adaptive_avg_pool1d`, for x (n, c, height, width)."""
    return adaptive_avg_pooling(2, x, output_size)


def adaptive_avg_pool3d(x: Any, output_size: Any) -> Any:
    """As `adaptive_avg_pool1d`, for x (n, c, depth, height, width)."""
    return adaptive_avg_pooling(3, x, output_size)


def adaptive_max_pool1d(x: Any, output_size: Any, return_indices: bool = False) -> Any:
    """The largest elements of `adaptive_avg_pool1d`'s windows; see `max_pool1d`."""
    return adaptive_max_pooling(1, x, output_size, return_indices)


def adaptive_max_pool2d(x: Any, output_size: Any, return_indices: bool = False) -> Any:
    """As `adaptive_max_pool1d`, for x (n, c, height, width)."""
    return adaptive_max_pooling(2, x, output_size, return_indices)


def adaptive_max_pool3d(x: Any, output_size: Any, return_indices: bool = False) -> Any:
    """As `adaptive_max_pool1d`, for x (n, c, depth, height, width)."""
    return adaptive_max_pooling(3, x, output_size, return_indices)
