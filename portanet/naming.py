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
# What Python says where arguments do not fit a signature.
_BOUND = re.compile(r"[\w.<>]+\(\) (got|takes|missing) ")
_RAISED = (
    AttributeError, TypeError, ValueError, IndexError, OverflowError, MemoryError,
    struct.error,
)  # fmt: skip


# What a tensor has and other values are asked for in vain.
_ASKED = {
    "shape", "ndim", "size", "dtype", "device", "level", "constant", "is_float", "is_integer",
}  # fmt: skip


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


# As PyTorch takes `axis` for `dim`, so is `dim` taken for `axis` here.
_AXIS = {"dim": "axis", "keepdim": "keepdims"}


def _binds(f: Callable, error: Exception) -> str:
    """The signature of f, where it is what the call did not fit."""
    if not _BOUND.match(str(error)):
        return ""
    import inspect

    rest = [p for p in inspect.signature(f).parameters.values() if p.name != "self"]
    plain = [p.replace(annotation=p.empty) for p in rest]
    return f"; it is {f.__name__}{inspect.Signature(plain)}"


def naming(f: Callable) -> Callable:
    """f, whose exceptions begin with its name, and whose `axis` may be called `dim`."""
    name, code = f.__name__, getattr(f, "__wrapped__", f).__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    has_axis = not {"axis", "keepdims"}.isdisjoint(known) and "dim" not in known

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        if has_axis and kwargs and not _AXIS.keys().isdisjoint(kwargs):
            kwargs = {_AXIS.get(key, key): value for key, value in kwargs.items()}
        try:
            return f(*args, **kwargs)
        except _RAISED as error:
            better = _renamed(name, error, (*args, *kwargs.values()))
            if better is None:
                raise
            if type(error) is TypeError and (fits := _binds(f, error)):
                better = TypeError(f"{better}{fits}")
        raise better

    return call


def name_errors(namespace: dict[str, Any], *modules: str) -> None:
    """Put `naming` around the public functions of these modules in a namespace."""
    public = namespace.get("__all__") or [k for k in namespace if not k.startswith("_")]
    for key in public:
        value = namespace[key]
        if isinstance(value, types.FunctionType):
            if value.__module__.startswith(modules):
                namespace[key] = call = naming(value)
                call.__module__ = namespace["__name__"]  # where pickle looks for it
