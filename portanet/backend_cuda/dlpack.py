"""DLPack without a copy: memory lent to other packages of this GPU, and borrowed from them.

The capsule holds a DLManagedTensor (dmlc/dlpack, dlpack.h). Work in order across streams: who
lends makes the borrower's stream wait for its own, and memory that comes back is used again
only after the borrower's stream.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from ..dtypes import ALL, Dtype, bfloat16

CUDA = 2  # kDLCUDA
ALIGNED = 16  # bytes: what the kernels' widest loads ask of a buffer's address
NAME, USED = b"dltensor", b"used_dltensor"
LEGACY, PER_THREAD = 1, 2  # CUDA's two default streams, by these numbers


class Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (
        ("tensor", Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_capsules = ctypes.PyDLL(None)  # Python's own functions
for _name, _result, _arguments in (
    ("PyCapsule_New", ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, Deleter]),
    ("PyCapsule_IsValid", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]),
    ("PyCapsule_GetPointer", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]),
    ("PyCapsule_SetName", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]),
):
    getattr(_capsules, _name).restype = _result
    getattr(_capsules, _name).argtypes = _arguments

_CODES = {"signed": 0, "unsigned": 1, "float": 2, "bool": 6}
TYPES: dict[tuple[int, int], Dtype] = {
    (4 if t is bfloat16 else _CODES[t.kind], 8 * t.itemsize): t for t in ALL
}
NUMBERS = {t: key for key, t in TYPES.items()}

_lent: dict[int, tuple] = {}  # address of a Managed -> it, and what it stands on


def lend(
    host: Any, buffer: Any, layout: Any, stream: int | None = None, **options: Any
) -> Any:
    """A capsule of the elements that a layout sees of a buffer."""
    asked = options.get("dl_device")
    if asked is not None and tuple(asked) != (CUDA, host.index):
        raise BufferError(
            f"__dlpack__: the tensor is on {layout.device}; use .to() first to move it"
        )
    if options.get("copy"):
        raise BufferError("__dlpack__: memory is lent without a copy; copy it there")
    if stream == 0:
        raise ValueError("__dlpack__: stream 0 is ambiguous; 1 is the default stream")
    consumer = None if stream == -1 else stream or LEGACY
    if consumer is not None:
        host.order(host.stream, consumer)
    rank = len(layout.shape)
    sizes = (ctypes.c_int64 * max(rank, 1))(*layout.shape)
    steps = (ctypes.c_int64 * max(rank, 1))(*layout.strides)
    code, bits = NUMBERS[layout.dtype]
    data = buffer.address + layout.offset * layout.dtype.itemsize
    pointer = ctypes.POINTER(ctypes.c_int64)
    tensor = Tensor(
        data, CUDA, host.index, rank, code, bits, 1,
        ctypes.cast(sizes, pointer), ctypes.cast(steps, pointer), 0,
    )  # fmt: skip
    managed = Managed(tensor, None, ctypes.cast(_give_back, ctypes.c_void_p))
    address = ctypes.addressof(managed)
    _lent[address] = (managed, sizes, steps, buffer, host, consumer)
    return _capsules.PyCapsule_New(address, NAME, _drop_capsule)


@Deleter
def _give_back(address: int) -> None:
    """The borrower is done: what it has queued comes before what we do next."""
    *_, host, consumer = _lent.get(address, (None, None))
    if consumer is not None:
        host.order(consumer, host.stream)
    _lent.pop(address, None)


@Deleter
def _drop_capsule(capsule: int) -> None:
    """Nobody took the capsule."""
    if _capsules.PyCapsule_IsValid(capsule, NAME):
        _give_back(_capsules.PyCapsule_GetPointer(capsule, NAME))


class Borrowed:
    """Another package's memory, as a buffer."""

    __slots__ = ("address", "give_back", "host", "nbytes")

    def __init__(
        self, host: Any, address: int, nbytes: int, give_back: Callable[[], None]
    ):
        self.host, self.address, self.nbytes = host, address, nbytes
        self.give_back = give_back

    def __del__(self):
        self.host.wait()  # our work on it is done
        self.give_back()


def borrow(host: Any, x: Any) -> tuple[Borrowed, Dtype, tuple, tuple, int]:
    """(buffer, dtype, shape, strides, offset) of an object on this GPU that speaks DLPack."""
    capsule = x.__dlpack__(stream=host.stream_number)
    number = id(capsule)
    if not _capsules.PyCapsule_IsValid(number, NAME):
        raise BufferError(
            "from_dlpack: the capsule was used before, or is of no tensor"
        )
    address = _capsules.PyCapsule_GetPointer(number, NAME)
    managed = Managed.from_address(address)
    tensor = managed.tensor
    dtype = TYPES.get((tensor.code, tensor.bits))
    if dtype is None or tensor.lanes != 1:
        raise TypeError(
            f"from_dlpack: there is no dtype of DLPack's code {tensor.code} with "
            f"{tensor.bits} bits and {tensor.lanes} lanes; convert it there"
        )
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = _strides(tensor, shape)
    data = (tensor.data or 0) + tensor.byte_offset
    if data % dtype.itemsize:
        raise BufferError("from_dlpack: the data is not aligned to its elements")
    ends = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    is_empty = 0 in shape
    below = 0 if is_empty else -sum(e for e in ends if e < 0) * dtype.itemsize
    above = 0 if is_empty else (sum(e for e in ends if e > 0) + 1) * dtype.itemsize
    base = (data - below) // ALIGNED * ALIGNED
    _capsules.PyCapsule_SetName(number, USED)

    def give_back():
        if managed.deleter:
            Deleter(managed.deleter)(address)

    buffer = Borrowed(host, base, data + above - base, give_back)
    return buffer, dtype, shape, strides, (data - base) // dtype.itemsize


def _strides(tensor: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    if tensor.strides:
        return tuple(tensor.strides[i] for i in range(tensor.ndim))
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))
