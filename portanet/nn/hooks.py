"""Functions that are called before or after a module's forward, or in its backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..autograd import Tensor
from ..autograd.hooks import passed, replaced
from ..autograd.tape import mode
from ..structure import flatten, unflatten


class Hooks:
    """The hooks of one module, by kind."""

    def __init__(self) -> None:
        self.before: dict[int, Callable] = {}
        self.after: dict[int, Callable] = {}
        self.backward_before: dict[int, Callable] = {}
        self.backward: dict[int, Callable] = {}

    def contents(self) -> tuple:
        """The functions, in order."""
        kinds = (self.before, self.after, self.backward_before, self.backward)
        return tuple(part for kind in kinds for part in (*kind.values(), None))

    def call(self, module: Any, args: tuple, kwargs: dict) -> Any:
        """The module's forward, between its hooks."""
        for hook in list(self.before.values()):
            changed = hook(module, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        watch = None
        if (self.backward or self.backward_before) and mode.enabled:
            watch = _Backward(self, module)
            args = watch.enter(args)
        y = module.forward(*args, **kwargs)
        for hook in list(self.after.values()):
            changed = hook(module, args, y)
            y = y if changed is None else changed
        return y if watch is None else watch.leave(y)


class _Backward:
    """One call of a module whose gradients hooks see, on their way in and out."""

    def __init__(self, hooks: Hooks, module: Any):
        self.hooks, self.module = hooks, module
        self.name = type(module).__name__
        self.given: tuple[Any, ...] = ()  # the gradients of the results
        self.places: list[int] = []  # of the arguments that have a gradient
        self.count = 0

    def enter(self, args: tuple) -> tuple:
        """The arguments, whose gradients come back through here."""
        self.count = len(args)
        self.places = [
            i for i, a in enumerate(args)
            if isinstance(a, Tensor) and a.node is not None
        ]  # fmt: skip
        made = list(args)
        tensors = passed([args[i] for i in self.places], self._entered)
        for i, t in zip(self.places, tensors, strict=True):
            made[i] = t
        return tuple(made)

    def leave(self, y: Any) -> Any:
        """The result, whose gradients come in through here."""
        tensors: list[Tensor] = []
        structure = flatten(y, tensors)
        return unflatten(structure, iter(passed(tensors, self._left)))

    def _left(self, g: list[Any]) -> list[Any]:
        name = f"{self.name}.register_full_backward_pre_hook"
        for hook in list(self.hooks.backward_before.values()):
            g = _all_replaced(name, g, hook(self.module, tuple(g)))
        self.given = tuple(g)
        if not self.places:  # there is nothing that gradients go on to
            self._run([None] * self.count)
        return g

    def _entered(self, g: list[Any]) -> list[Any]:
        every: list[Any] = [None] * self.count
        for i, v in zip(self.places, g, strict=True):
            every[i] = v
        every = self._run(every)
        return [every[i] for i in self.places]

    def _run(self, g: list[Any]) -> list[Any]:
        name = f"{self.name}.register_full_backward_hook"
        for hook in list(self.hooks.backward.values()):
            g = _all_replaced(name, g, hook(self.module, tuple(g), self.given))
        return g


def _all_replaced(name: str, g: list[Any], given: Any) -> list[Any]:
    """Gradients, or what a hook gave in their place."""
    if given is None:
        return g
    made = given if isinstance(given, tuple | list) else (given,)
    if len(made) != len(g):
        raise ValueError(
            f"{name}: the hook gave {len(made)} gradients, there are {len(g)}"
        )
    return [replaced(name, old, new) for old, new in zip(g, made, strict=True)]
