"""Functions that are called before or after a module's forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..autograd.tape import revise


class Hooks:
    """The hooks of one module, by kind."""

    def __init__(self) -> None:
        self.before: dict[int, Callable] = {}
        self.after: dict[int, Callable] = {}
        self.count = 0

    def add(self, kind: dict[int, Callable], hook: Callable) -> Handle:
        if not callable(hook):
            raise TypeError(f"hook: a function is expected, not {type(hook).__name__}")
        revise()
        self.count += 1
        kind[self.count] = hook
        return Handle(kind, self.count)

    def contents(self) -> tuple:
        """The functions, in order."""
        return (*self.before.values(), None, *self.after.values())

    def call(self, module: Any, args: tuple, kwargs: dict) -> Any:
        """The module's forward, between its hooks."""
        for hook in list(self.before.values()):
            changed = hook(module, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        y = module.forward(*args, **kwargs)
        for hook in list(self.after.values()):
            changed = hook(module, args, y)
            y = y if changed is None else changed
        return y


class Handle:
    """What registering a hook gives: `remove()` takes the hook away; so does leaving a
    `with` block."""

    def __init__(self, kind: dict[int, Callable], number: int):
        self.kind, self.number = kind, number

    def remove(self) -> None:
        revise()
        self.kind.pop(self.number, None)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()
