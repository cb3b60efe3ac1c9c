"""New tensors: from data, from a rule, from another package."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from . import arrays
from .autograd import Tensor, tensor_of
from .autograd.tape import mode
from .devices import Device, default_device, get
from .dtypes import Dtype, as_dtype, float32, from_numpy, int32, int64
from .ops import elementwise as e
from .ops.create import positions
from .ops.shape import as_shape, broadcast_to, reshape


_DLPACK_CUDA = 2  # kDLCUDA in DLPack's header


def _place(device: Any) -> Device:
    return default_device() if device is None else get(device)


def _inferred(values: np.ndarray, data: Any) -> Dtype:
    """Python numbers take the defaults, NumPy arrays keep their dtype."""
    if values.dtype == object and all(isinstance(v, int) for v in values.flat):
        raise OverflowError("tensor: there are integers that do not fit int64")
    if values.dtype == object or values.dtype.kind not in "biufV":
        raise TypeError(f"tensor: {type(data).__name__} holds no numbers")
    if isinstance(data, np.ndarray | np.generic):
        kept = from_numpy(values.dtype)
        if kept is None:
            raise TypeError(
                f"tensor: there is no {values.dtype.name}; name a dtype to convert to"
            )
        return kept
    if values.dtype.kind == "f":
        return float32
    kept = {"b": as_dtype("bool"), "i": int32, "u": int32}[values.dtype.kind]
    if (
        kept is int32
        and values.size
        and not (-(2**31) <= values.min() <= values.max() < 2**31)
    ):
        return as_dtype("int64")
    return kept


def tensor(
    data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor with a copy of the data: a number, nested lists, a NumPy array, a tensor.

    Without a dtype Python floats become float32 and integers int32 (int64 where they don't
    fit); arrays keep theirs. A NaN for an integer dtype raises ValueError.

    >>> pn.tensor([[1, 2], [3, 4]])
    tensor([[1, 2],
            [3, 4]], dtype=int32)
    """
    if isinstance(data, Tensor):
        made = data.detach()
        if dtype is not None:
            made = e.astype(made, dtype)
        if device is not None:
            made = made.to(get(device))
        return tensor_of(made.value).requires_grad_(requires_grad)
    values = _as_numpy(data)
    chosen = _inferred(values, data) if dtype is None else as_dtype(dtype)
    _check_integer(values, chosen)
    made = arrays.from_numpy(values, chosen, _place(device))
    return tensor_of(made).requires_grad_(requires_grad)


def _as_numpy(data: Any) -> np.ndarray:
    if isinstance(data, list | tuple) and _holds_tensor(data):
        data = _to_lists(data)
    try:
        return np.asarray(data)
    except ValueError as why:
        raise ValueError(f"tensor: the lists are not rectangular ({why})") from None


def _holds_tensor(data: Any) -> bool:
    return any(
        isinstance(d, Tensor) or (isinstance(d, list | tuple) and _holds_tensor(d))
        for d in data
    )


def _to_lists(data: Any) -> Any:
    if isinstance(data, Tensor):
        return data.tolist()
    return [_to_lists(d) for d in data] if isinstance(data, list | tuple) else data


def _check_integer(values: np.ndarray, dtype: Dtype) -> None:
    if not dtype.is_integer or not values.size:
        return
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"tensor: NaN and infinity have no {dtype.name} value")
    info = np.iinfo(dtype.numpy)
    low, high = values.min(), values.max()
    if low < info.min or high > info.max:
        raise OverflowError(
            f"tensor: values from {low} to {high} do not fit {dtype.name} "
            f"({info.min} to {info.max})"
        )


def asarray(
    obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None
) -> Tensor:
    """obj as a tensor; itself where it is one already and fits (tensors are values)."""
    if isinstance(obj, Tensor) and not copy:
        same_type = dtype is None or obj.dtype == as_dtype(dtype)
        if same_type and (device is None or obj.device == get(device)):
            return obj
    if copy is False and not isinstance(obj, Tensor):
        raise ValueError(
            "asarray: the data must be copied to a tensor; copy=False can't be"
        )
    return tensor(obj, dtype, device)


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor of the values of anything that speaks DLPack: on the CPU a copy; on an
    NVIDIA GPU the same memory, on the cuda device, unless copy=True.

    Memory that is shared shows here what others write to it, and there what a compiled
    step writes to this tensor.
    """
    if not hasattr(x, "__dlpack_device__"):
        raise TypeError(f"from_dlpack: {type(x).__name__} does not speak DLPack")
    kind, number = x.__dlpack_device__()
    if kind != _DLPACK_CUDA:
        return tensor(np.from_dlpack(x), device=device)
    place = get(f"cuda:{number}")
    buffer, dtype, shape, strides, offset = place.backend.borrow(x)
    seen = arrays.layout(shape, dtype, place, strides, offset)
    shared = tensor_of(arrays.Array(buffer, seen))
    if copy:
        return tensor(shared.numpy(), device=place if device is None else device)
    return shared if device is None else shared.to(device)


def _number(value: Any, dtype: Dtype, device: Device) -> Tensor:
    arrays.check_dtype(dtype, device, "full")
    try:
        if mode.tracer is not None:
            return tensor_of(mode.tracer.number(value, dtype, device))
        return tensor_of(arrays.constant(value, dtype, device))
    except OverflowError:
        raise OverflowError(f"full: {value} does not fit {dtype.name}") from None
    except ValueError:  # of int(nan)
        raise ValueError(f"full: {value} has no {dtype.name} value") from None


def full(
    shape: Any,
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of one number, which takes the room of one until it is written to.

    >>> pn.full((2,), 7.0)
    tensor([7., 7.])
    """
    sizes = as_shape("full", shape)
    if any(n < 0 for n in sizes):
        raise ValueError(f"full: sizes can't be negative: {sizes}")
    if isinstance(fill_value, Tensor):
        fill_value = fill_value.item()
    if not isinstance(fill_value, numbers.Real | np.bool_):
        raise TypeError(f"full: a number is expected, not {type(fill_value).__name__}")
    chosen = as_dtype(type(fill_value) if dtype is None else dtype)
    one = _number(fill_value, chosen, _place(device))
    return tensor_of(broadcast_to(one, sizes).value).requires_grad_(requires_grad)


def _sizes(name: str, shape: tuple) -> Any:
    """The shape of `zeros((2, 3))`, `zeros(3)` or `zeros(2, 3)`."""
    if not shape:
        raise TypeError(f"{name}: a shape is needed; () is that of a single number")
    return shape[0] if len(shape) == 1 else shape


def zeros(
    *shape: Any, dtype: Any = float32, device: Any = None, requires_grad=False
) -> Tensor:
    """A tensor of zeros: `zeros((2, 3))` or `zeros(2, 3)`."""
    sizes = _sizes("zeros", shape)
    return full(sizes, 0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones(
    *shape: Any, dtype: Any = float32, device: Any = None, requires_grad=False
) -> Tensor:
    """A tensor of ones: `ones((2, 3))` or `ones(2, 3)`."""
    sizes = _sizes("ones", shape)
    return full(sizes, 1, dtype=dtype, device=device, requires_grad=requires_grad)


def empty(*shape: Any, dtype: Any = float32, device: Any = None) -> Tensor:
    """Zeros: memory that nobody has written is never shown."""
    return zeros(*shape, dtype=dtype, device=device)


def full_like(
    x: Tensor, /, fill_value: Any, *, dtype: Any = None, device: Any = None
) -> Tensor:
    """One number in the shape, dtype and place of x."""
    return full(
        x.shape,
        fill_value,
        dtype=x.dtype if dtype is None else dtype,
        device=x.device if device is None else device,
    )


def zeros_like(x: Tensor, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros in the shape, dtype and place of x."""
    return full_like(x, 0, dtype=dtype, device=device)


def ones_like(x: Tensor, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones in the shape, dtype and place of x."""
    return full_like(x, 1, dtype=dtype, device=device)


def empty_like(x: Tensor, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros in the shape, dtype and place of x; see `empty`."""
    return zeros_like(x, dtype=dtype, device=device)


def arange(
    start: Any,
    /,
    stop: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: Any = None,
) -> Tensor:
    """start, start + step, ... below stop; from 0 where only one number is given.

    >>> pn.arange(1, 6, 2)
    tensor([1, 3, 5], dtype=int32)
    """
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise ValueError("arange: step can't be 0")
    whole = all(isinstance(v, int) for v in (start, stop, step))
    count = max(0, math.ceil((stop - start) / step))
    if dtype is None:
        fits = -(2**31) <= min(start, stop) <= max(start, stop) <= 2**31
        dtype = float32 if not whole else int32 if fits else int64
    chosen = as_dtype(dtype)
    if chosen.kind == "bool":
        raise TypeError("arange: bools have no order; make integers and cast them")
    return _ramp(start, step, count, chosen, _place(device))


def _ramp(start: Any, step: Any, n: int, dtype: Dtype, device: Device) -> Tensor:
    """start + i * step for i < n: the product and the sum in one launch."""
    zero = _number(0, dtype, device)
    at = positions(zero, n, dtype)
    if start == 0 and step == 1:
        return at
    return e.add(e.multiply(at, step), start)


def linspace(
    start: float,
    stop: float,
    /,
    num: int,
    *,
    dtype: Any = None,
    device: Any = None,
    endpoint: bool = True,
) -> Tensor:
    """num numbers at equal distances from start to stop (without stop: endpoint=False).

    >>> pn.linspace(0, 1, 5)
    tensor([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    if num < 0:
        raise ValueError(f"linspace: num can't be negative: {num}")
    chosen = as_dtype(float32 if dtype is None else dtype)
    values = np.linspace(start, stop, num, endpoint=endpoint)
    return tensor(values, chosen, device)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: Any = float32,
    device: Any = None,
) -> Tensor:
    """Ones on the k-th diagonal, zeros elsewhere.

    >>> pn.eye(2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    columns = n_rows if n_cols is None else n_cols
    zero = _number(0, int32, _place(device))
    down = reshape(positions(zero, n_rows, int32), (n_rows, 1))
    hit = e.equal(e.add(down, k), positions(zero, columns, int32))
    return e.astype(hit, as_dtype(dtype))


def meshgrid(*xs: Tensor, indexing: str = "xy") -> tuple[Tensor, ...]:
    """The coordinates of a grid from those of its axes."""
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing is 'xy' or 'ij', not {indexing!r}")
    swap = indexing == "xy" and len(xs) > 1
    order = [1, 0, *range(2, len(xs))] if swap else list(range(len(xs)))
    shape = tuple(xs[i].size for i in order)
    made = []
    for i, x in enumerate(xs):
        sizes = [1] * len(xs)
        sizes[order.index(i)] = x.size
        made.append(broadcast_to(reshape(x, tuple(sizes)), shape))
    return tuple(made)
