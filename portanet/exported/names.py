"""Names: of a function's arguments, and of the tensors that it reads from outside.

A tensor of a module is called as in its state_dict, `layers.0.weight`; others by the
way that leads to them from the function, `optimizer.state.layers.0.weight.exp_avg`.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from ..autograd import Tensor
from ..random import default_generator

# A closure may hold a data set; names are not worth more time than this.
MAX_VISITED = 100_000
_PLAIN = (str, bytes, int, float, complex, np.ndarray, np.generic, ModuleType, type)


def joined(prefix: str, name: Any) -> str:
    """`prefix.name`."""
    return f"{prefix}.{name}" if prefix else str(name)


# Arguments ----------------------------------------------------------------------------


def positional(function: Callable, count: int) -> list[str]:
    """What a function calls its first positional arguments."""
    try:
        signature = inspect.signature(getattr(function, "forward", function))
    except (TypeError, ValueError):
        signature = inspect.Signature()
    parameters = signature.parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in kinds][:count]
    more = [p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL]
    rest = more[0] if more else "x"
    return names + [f"{rest}{i}" for i in range(count - len(names))]


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(name, value) of what nested tuples, lists and dicts hold: `batch.x`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, joined(name, key))
    elif isinstance(value, tuple | list):
        for i, inner in enumerate(value):
            yield from leaves(inner, joined(name, i))
    else:
        yield name, value


def replaced(value: Any, name: str, found: Mapping[str, Any]) -> Any:
    """The value with its leaves exchanged for those of the same name."""
    if isinstance(value, Mapping):
        return {k: replaced(v, joined(name, k), found) for k, v in value.items()}
    if isinstance(value, tuple | list):
        made = [replaced(v, joined(name, i), found) for i, v in enumerate(value)]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    return found.get(name, value)


# Tensors ------------------------------------------------------------------------------


def of_tensors(function: Callable, arguments: Mapping[str, Any]) -> dict[int, str]:
    """id of each tensor that the function can reach -> its name; id of a leaf's node ->
    the name of its gradient."""
    roots = {**dict(_children(function)), **arguments}
    if _is_module(function):
        roots = {"": function, **arguments}
    modules = {name: value for name, value in roots.items() if _is_module(value)}
    if len(modules) == 1:
        modules = {"": value for value in modules.values()}
    known: dict[int, str] = {}
    visited: set[int] = set()
    # Modules come first: an optimizer's state is called after the parameters.
    for start in (modules, roots, {"random": default_generator}):
        _walk(deque(start.items()), known, visited)
    return known


def _walk(waiting: deque, known: dict[int, str], visited: set[int]) -> None:
    """Name the tensors below some (name, value), the nearest first."""
    while waiting and len(visited) < MAX_VISITED:
        name, value = waiting.popleft()
        if isinstance(value, Tensor):
            known.setdefault(id(value), name)
            if value.node is not None:
                known.setdefault(id(value.node), joined(name, "grad"))
        elif not isinstance(value, _PLAIN) and id(value) not in visited:
            visited.add(id(value))
            for i, (key, inner) in enumerate(_children(value)):
                step = key if isinstance(key, str | int) else known.get(id(key), i)
                waiting.append((joined(name, step), inner))


def _is_module(value: Any) -> bool:
    return hasattr(value, "named_modules") and not isinstance(value, type)


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    """(key, value) of what an object holds."""
    if _is_module(value):
        yield from value.named_parameters()
        yield from value.named_buffers()
    value = inspect.unwrap(value) if callable(value) else value
    if isinstance(value, partial):
        yield from value.keywords.items()
        yield from enumerate(value.args)
        yield from _children(value.func)
        return
    if isinstance(value, MethodType):
        yield "self", value.__self__
        value = value.__func__
    if isinstance(value, FunctionType):
        yield from _outside(value)
        return
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple | list):
        yield from enumerate(value)
    yield from getattr(value, "__dict__", {}).items()


def _outside(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The variables of a function that are not its own."""
    try:
        found = inspect.getclosurevars(function)
    except ValueError:  # a cell that is still empty
        return
    yield from found.nonlocals.items()
    yield from found.globals.items()
