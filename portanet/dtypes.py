"""Data types: their names, sizes, kinds, promotion, and the type each computes in."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False, repr=False)
class Dtype:
    """One data type. Compare with `==` against another Dtype, its name or a NumPy dtype.

    `code` is the number that C, WGSL and CUDA know it by; `kind` is one of "bool",
    "unsigned", "signed", "float"; `itemsize` is in bytes, on the host.
    """

    name: str
    code: int
    kind: str
    itemsize: int

    def __repr__(self) -> str:
        return f"portanet.{self.name}"

    def __hash__(self) -> int:
        return self.code

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, Dtype):
            return self.code == other.code
        if isinstance(other, str):
            return self.name == other
        if other is None:
            return False
        try:
            return as_dtype(other) is self
        except TypeError:
            return False

    def __reduce__(self):
        return (as_dtype, (self.name,))

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("signed", "unsigned")

    @property
    def compute(self) -> Dtype:
        """The type that expressions compute in for values stored as this one."""
        return COMPUTE[self.code]

    @property
    def limits(self) -> Any:
        """NumPy's finfo of a floating dtype: bits, eps, max, min, smallest_normal."""
        if self.name == "bfloat16":
            import ml_dtypes

            return ml_dtypes.finfo(self.numpy)
        return np.finfo(self.numpy)

    @property
    def numpy(self) -> np.dtype:
        """The NumPy dtype with the same values (bfloat16 comes from ml_dtypes)."""
        return _numpy_dtype(self.name)


bool_ = Dtype("bool", 0, "bool", 1)
uint8 = Dtype("uint8", 1, "unsigned", 1)
int32 = Dtype("int32", 2, "signed", 4)
uint32 = Dtype("uint32", 3, "unsigned", 4)
int64 = Dtype("int64", 4, "signed", 8)
float16 = Dtype("float16", 5, "float", 2)
bfloat16 = Dtype("bfloat16", 6, "float", 2)
float32 = Dtype("float32", 7, "float", 4)
float64 = Dtype("float64", 8, "float", 8)

ALL = (bool_, uint8, int32, uint32, int64, float16, bfloat16, float32, float64)
COMPUTE = (bool_, int32, int32, uint32, int64, float32, float32, float32, float64)
_BY_NAME = {t.name: t for t in ALL}


@functools.cache
def _numpy_dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def as_dtype(spec: Any) -> Dtype:
    """The Dtype of a Dtype, a name, a NumPy dtype, or Python's bool, int, float.

    int is int32 and float is float32, the defaults of this library.
    """
    if isinstance(spec, Dtype):
        return spec
    if spec is bool:
        return bool_
    if spec is int:
        return int32
    if spec is float:
        return float32
    name = spec if isinstance(spec, str) else _numpy_name(spec)
    if name in _BY_NAME:
        return _BY_NAME[name]
    known = ", ".join(_BY_NAME)
    raise TypeError(f"dtype: {spec!r} is not a portanet dtype; use one of {known}")


def _numpy_name(spec: Any) -> str:
    try:
        return np.dtype(spec).name
    except TypeError:
        return ""


def from_numpy(dtype: np.dtype) -> Dtype | None:
    """The Dtype that holds every value of a NumPy dtype, or None if there is none."""
    wider = {"int8": int32, "int16": int32, "uint16": int32}
    return _BY_NAME.get(dtype.name) or wider.get(dtype.name)


# The type that holds both of a pair, as in the array API standard (promotion lattices of
# one kind), and as in PyTorch where the standard is silent (integer with float: the float).
_INTEGER = {
    ("int32", "uint32"): int64,
    ("int64", "uint32"): int64,
    ("int32", "uint8"): int32,
    ("int64", "uint8"): int64,
    ("uint32", "uint8"): uint32,
    ("int32", "int64"): int64,
}


@functools.cache
def promote(a: Dtype, b: Dtype) -> Dtype:
    """The smallest type that holds values of both.

    >>> promote(int32, float16)
    portanet.float16
    """
    if a is b:
        return a
    if a.kind == "bool":
        return b
    if b.kind == "bool":
        return a
    if a.is_float != b.is_float:
        return a if a.is_float else b
    if a.is_float:
        if {a, b} == {float16, bfloat16}:
            return float32
        return max(a, b, key=lambda t: t.code)
    low, high = sorted((a.name, b.name))
    return _INTEGER[low, high]


def scalar_dtype(value: Any, other: Dtype) -> Dtype:
    """The type a Python number takes beside a tensor: the tensor's, unless its kind is less."""
    if isinstance(value, bool):
        return other
    if isinstance(value, int):
        return int32 if other.kind == "bool" else other
    return other if other.is_float else float32
