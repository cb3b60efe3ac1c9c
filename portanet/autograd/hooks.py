"""Hooks of gradients: of one tensor, or of several that pass a place together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import tape
from .tape import Node, Part, mode, no_grad, revise
from .tensor import Tensor, tensor_of


class Handle:
    """What registering a hook gives: `remove()` takes the hook away; so does leaving a
    `with` block."""

    def __init__(self, kind: dict[int, Callable], hook: Callable):
        if not callable(hook):
            raise TypeError(f"hook: a function is expected, not {type(hook).__name__}")
        revise()
        self.kind, self.number = kind, max(kind, default=0) + 1
        kind[self.number] = hook

    def remove(self) -> None:
        """Take the hook away; again, nothing."""
        revise()
        self.kind.pop(self.number, None)
        self.kind = {}

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def hook_tensor(x: Tensor, hook: Callable[[Tensor], Tensor | None]) -> Handle:
    """See Tensor.register_hook."""
    if x.node is None:
        raise RuntimeError(
            "register_hook: the tensor does not require a gradient, so that none comes"
        )
    if getattr(x.node, "hooks", None) is None:
        x.node.hooks = {}
    made = Handle(x.node.hooks, hook)
    tape.hooked = True
    return made


def through_hooks(hooks: dict[int, Callable], g: Any) -> Any:
    """A gradient, a tensor where it is recorded and else an array, after its hooks."""
    if not isinstance(g, Tensor):
        with no_grad():
            return through_hooks(hooks, tensor_of(g))._read()
    for hook in list(hooks.values()):
        g = replaced("register_hook", g, hook(g))
    return g


def replaced(name: str, g: Any, given: Any) -> Any:
    """A gradient, or what a hook gave in its place."""
    if given is None or g is None:
        return g
    if not isinstance(given, Tensor):
        raise TypeError(
            f"{name}: a hook gives a tensor or None, not {type(given).__name__}"
        )
    if given.shape != g.shape or given.dtype is not g.dtype:
        raise ValueError(
            f"{name}: the hook gave {given.shape} {given.dtype.name} for a gradient "
            f"{g.shape} {g.dtype.name}"
        )
    return given


class _Passage:
    """The operator of tensors that pass unchanged, and whose gradients are seen at once."""

    name = "backward hook"
    fallback = None

    def __init__(self, seen: Callable[[list[Any]], Sequence[Any]]):
        self.seen = seen
        self.last: tuple[Any, Any] = (None, None)

    def grad(self, i: int, g: list[Any], y: Any, *xs: Any) -> Any:
        if self.last[0] is not g:  # once for all of them
            self.last = (g, self._all(g))
        return self.last[1][i]

    def _all(self, g: list[Any]) -> Sequence[Any]:
        if isinstance(g[0], Tensor):
            return self.seen(g)
        with no_grad():
            return [v._read() for v in self.seen([tensor_of(v) for v in g])]


def passed(
    tensors: Sequence[Tensor], seen: Callable[[list[Any]], Sequence[Any]]
) -> list[Tensor]:
    """The tensors, unchanged. In backward `seen` gets the gradients of those that have one,
    all at once, and gives those that go on."""
    recorded = [t for t in tensors if t.node is not None]
    if not recorded or not mode.enabled:
        return list(tensors)
    values = tuple(t._read() for t in recorded)
    node = Node(_Passage(seen), {}, values, values, [t.node for t in recorded])
    parts = iter([tensor_of(v, Part(node, i)) for i, v in enumerate(values)])
    return [t if t.node is None else next(parts) for t in tensors]
