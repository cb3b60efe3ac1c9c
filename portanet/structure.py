"""What arguments and results are made of: tensors in tuples, lists, dicts and dataclasses, and
values that a trace takes for granted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from .autograd import Tensor

LEAF = "tensor"


def flatten(value: Any, leaves: list[Tensor]) -> Any:
    """The structure of an argument or result, its tensors put into `leaves`."""
    if isinstance(value, Tensor):
        leaves.append(value)
        return LEAF
    if isinstance(value, tuple | list):
        return (type(value), *(flatten(v, leaves) for v in value))
    if isinstance(value, dict):
        return (dict, *((k, flatten(v, leaves)) for k, v in value.items()))
    if _has_fields(type(value)):
        names = [f.name for f in dataclasses.fields(value) if hasattr(value, f.name)]
        pairs = ((name, flatten(getattr(value, name), leaves)) for name in names)
        return (type(value), *pairs)
    return ("static", Static(value))


def _has_fields(kind: type) -> bool:
    """Whether a type is a dataclass of values; one with parameters is a module."""
    return dataclasses.is_dataclass(kind) and not hasattr(kind, "parameters")


def unflatten(structure: Any, leaves: Iterator[Any]) -> Any:
    """The value of a structure, its tensors taken from an iterator."""
    if structure is LEAF:
        return next(leaves)
    kind, *rest = structure
    if kind == "static":
        return rest[0].value
    if kind is dict:
        return {k: unflatten(v, leaves) for k, v in rest}
    if _has_fields(kind):
        made = object.__new__(kind)
        for name, part in rest:
            object.__setattr__(made, name, unflatten(part, leaves))
        return made
    values = [unflatten(v, leaves) for v in rest]
    return kind(*values) if hasattr(kind, "_fields") else kind(values)


def statics(structure: Any) -> Iterator[Static]:
    """The values of a structure that are no tensors."""
    if isinstance(structure, str):
        return
    kind, *rest = structure
    if kind == "static":
        yield rest[0]
        return
    named = kind is dict or _has_fields(kind)
    for part in rest:
        yield from statics(part[1] if named else part)


def frozen(structure: Any) -> Any:
    """The structure as it is now, whatever becomes of the values in it."""
    if isinstance(structure, str):
        return structure
    kind, *rest = structure
    if kind == "static":
        return (kind, rest[0].frozen())
    if kind is dict or _has_fields(kind):
        return (kind, *((name, frozen(part)) for name, part in rest))
    return (kind, *map(frozen, rest))


class Static:
    """A value that a plan takes for granted, compared by value where it can be, else by
    identity."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        try:
            return hash((type(self.value), _comparable(self.value)))
        except TypeError:
            return hash(type(self.value))

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Static)
        a, b = self.value, other.value
        if type(a) is not type(b):
            return False
        if type(a) in _BY_VALUE or _hashable(a):
            return bool(_comparable(a) == _comparable(b))
        return a is b

    def frozen(self) -> Static:
        """The same of what the value is now; TypeError for a NumPy array."""
        if isinstance(self.value, np.ndarray):
            raise TypeError(
                f"compile: an argument is a NumPy array of shape {self.value.shape}, whose "
                "values a trace would keep; make it a tensor with pn.asarray(...)"
            )
        copied = type(self.value) in _BY_VALUE
        return Static(self.value.copy()) if copied else self


_BY_VALUE = (set, bytearray)


def _comparable(value: Any) -> Any:
    """What stands for a value in comparisons: repr tells -0.0 from 0.0, and finds NaN."""
    return repr(value) if type(value) in (float, complex) else value


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
