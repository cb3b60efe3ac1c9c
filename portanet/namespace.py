"""The rest of the array API's namespace: constants, dtype questions, devices' controls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .autograd import Tensor
from .devices import default_device
from .devices import get as get_device
from .dtypes import ALL, Dtype, as_dtype, promote, scalar_dtype
from .ops.elementwise import broadcast
from .ops.shape import broadcast_to

e, pi, inf, nan, newaxis = math.e, math.pi, math.inf, math.nan, None


def finfo(kind: Any, /) -> Any:
    """Limits of a floating dtype (or a tensor's): bits, eps, max, min, smallest_normal."""
    dtype = kind.dtype if isinstance(kind, Tensor) else as_dtype(kind)
    if not dtype.is_float:
        raise TypeError(f"finfo: {dtype.name} is not a floating dtype; see iinfo")
    return dtype.limits


def iinfo(kind: Any, /) -> Any:
    """Limits of an integer dtype (or a tensor's): bits, max, min."""
    dtype = kind.dtype if isinstance(kind, Tensor) else as_dtype(kind)
    if not dtype.is_integer:
        raise TypeError(f"iinfo: {dtype.name} is not an integer dtype; see finfo")
    return np.iinfo(dtype.numpy)


_KINDS = {
    "bool": lambda t: t.kind == "bool",
    "signed integer": lambda t: t.kind == "signed",
    "unsigned integer": lambda t: t.kind == "unsigned",
    "integral": lambda t: t.is_integer,
    "real floating": lambda t: t.is_float,
    "complex floating": lambda t: False,
    "numeric": lambda t: t.kind != "bool",
}


def isdtype(dtype: Any, kind: Any, /) -> bool:
    """Whether a dtype is of a kind: a dtype, a name such as "integral", or several.

    >>> pn.isdtype(pn.int32, "integral")
    True
    """
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, str) and kind in _KINDS:
        return _KINDS[kind](as_dtype(dtype))
    if isinstance(kind, Dtype):
        return as_dtype(dtype) is kind
    raise ValueError(
        f"isdtype: {kind!r} is no kind; use a dtype or one of {list(_KINDS)}"
    )


def result_type(*values: Any) -> Dtype:
    """The dtype that an operation on these tensors, dtypes and numbers gives.

    >>> pn.result_type(pn.int32, pn.float16)
    portanet.float16
    """
    known = [
        v.dtype if isinstance(v, Tensor) else as_dtype(v)
        for v in values
        if not isinstance(v, bool | int | float)
    ]
    if not known:
        raise ValueError("result_type: at least one tensor or dtype is needed")
    found = known[0]
    for t in known[1:]:
        found = promote(found, t)
    for v in values:
        if isinstance(v, bool | int | float):
            found = promote(found, scalar_dtype(v, found))
    return found


def can_cast(source: Any, target: Any, /) -> bool:
    """Whether promotion leads from one dtype (or a tensor's) to another."""
    source = source.dtype if isinstance(source, Tensor) else as_dtype(source)
    return promote(source, as_dtype(target)) is as_dtype(target)


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that all broadcast to."""
    return broadcast("broadcast_shapes", [tuple(s) for s in shapes])


def broadcast_arrays(*xs: Tensor) -> tuple[Tensor, ...]:
    """Each tensor, expanded to the shape that all broadcast to."""
    shape = broadcast("broadcast_arrays", [x.shape for x in xs])
    return tuple(broadcast_to(x, shape) for x in xs)


def dtypes_of(device: Any) -> list[str]:
    """Names of the dtypes that a device has."""
    has = get_device(device).backend.dtypes
    return [t.name for t in ALL if t in has]


def set_num_threads(n: int) -> None:
    """How many threads the cpu device uses. Results do not depend on it."""
    from . import backend_cpu

    backend_cpu.set_num_threads(n)


def num_threads() -> int:
    """How many threads the cpu device uses."""
    from . import backend_cpu

    return backend_cpu.num_threads()


def synchronize(device: Any = None) -> None:
    """Wait until a device has done all that it was given; raises what went wrong there."""
    place = default_device() if device is None else get_device(device)
    place.backend.wait()
