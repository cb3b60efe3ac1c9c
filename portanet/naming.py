"""What a public function raises names it: also what Python or NumPy raised inside."""

from __future__ import annotations

import functools
import re
import struct
import types
from collections.abc import Callable
from typing import Any

from .errors import OutOfMemoryError
from .op import check_tensor, named

_HEAD = re.compile(r"([A-Za-z_][\w.]*)[\w. ]*: ")
_RAISED = (
    AttributeError, TypeError, ValueError, IndexError, OverflowError, MemoryError,
    struct.error,
)  # fmt: skip


# What a tensor has and other values are asked for in vain.
_ASKED = {"shape", "ndim", "size", "dtype", "device", "level", "is_float", "is_integer"}


def no_tensor(name: str, error: AttributeError, values: tuple) -> Exception | None:
    """The exception that says which value is no tensor, or None if that is not it."""
    for value in values:
        is_asked = error.obj is value or error.obj is getattr(value, "dtype", value)
        if error.name in _ASKED and is_asked:
            try:
                check_tensor(name, value)
            except TypeError as better:
                return better
    return None


def _renamed(name: str, error: Exception, values: tuple) -> Exception | None:
    """The exception that names the function, or None where the one it is does."""
    if isinstance(error, AttributeError):
        return no_tensor(name, error, values)
    head = _HEAD.match(str(error))
    if head and (head[1] == name or named(head[1]) is None):
        return None
    kinds = (
        TypeError,
        IndexError,
        OverflowError,
        ValueError,
        MemoryError,
        struct.error,
    )
    kind = next(k for k in kinds if isinstance(error, k))  # NumPy's own take more
    kind = {MemoryError: OutOfMemoryError, struct.error: OverflowError}.get(kind, kind)
    return kind(f"{name}: {error}")


def naming(f: Callable) -> Callable:
    """f, whose exceptions begin with its name."""
    name = f.__name__

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return f(*args, **kwargs)
        except _RAISED as error:
            better = _renamed(name, error, (*args, *kwargs.values()))
            if better is None:
                raise
        raise better

    return call


def name_errors(namespace: dict[str, Any], *modules: str) -> None:
    """Put `naming` around the public functions of these modules in a namespace."""
    for key, value in list(namespace.items()):
        if isinstance(value, types.FunctionType) and not key.startswith("_"):
            if value.__module__.startswith(modules):
                namespace[key] = call = naming(value)
                call.__module__ = namespace["__name__"]  # where pickle looks for it
