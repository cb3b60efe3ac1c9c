"""The tape: what was computed from what, walked backwards for gradients.

A node holds the values of one call, not the tensors: no node refers to a tensor, so there is
no cycle, and a graph is freed with the last tensor that it ends in.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ..casting import suspended
from ..op import Joint, Op, grad_of
from ..ops import elementwise as e


class Node:
    """One recorded call, or (op is None) a leaf whose gradient is asked for."""

    __slots__ = ("grad", "hooks", "op", "parents", "static", "xs", "y")  # hooks: if any

    def __init__(self, op, static, xs, y, parents):
        self.op, self.static = op, static
        self.xs: Any = xs
        self.y: Any = y
        self.parents = parents
        self.grad: Any = None

    def free(self) -> None:
        """Forget the values; walking through here again is an error."""
        self.xs = self.y = None


class Part:
    """One of the results of a call that has several."""

    __slots__ = ("hooks", "index", "parents")
    op = "part"

    def __init__(self, node: Node, index: int):
        self.parents, self.index = (node,), index


class Alias:
    """The operator of an argument that a function is differentiated by: the identity."""

    name = "input"
    grad = (lambda g, y, x: g,)
    fallback = None


class _Mode(threading.local):
    enabled = True
    depth = 0  # nested calls of grad: the inner ones are differentiated
    journal: Any = None  # id: (tensor, its value before) of what is assigned meanwhile
    tracer: Any = None  # the compiler's, while it traces: every tensor read goes there


mode = _Mode()
hooked = False  # whether some node has had hooks; until then nobody looks for them


class _Revision:
    """Counts changes to what plans take for granted of Python objects: the attributes of
    modules and the options of optimizers."""

    number = 0


revision = _Revision()


def revise() -> None:
    """Plans look again at what they take for granted."""
    revision.number += 1


# (class, name, method): methods that classes have while some function is traced.
while_traced: list[tuple[type, str, Any]] = []


class no_grad:
    """Inside, nothing is recorded: `with no_grad():`, or `@no_grad()` on a function."""

    enabled = False

    def __enter__(self) -> None:
        self.before = mode.enabled
        mode.enabled = self.enabled

    def __exit__(self, *exc: object) -> None:
        mode.enabled = self.before

    def __call__(self, function):
        import functools

        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            with type(self)():
                return function(*args, **kwargs)

        return wrapped


class enable_grad(no_grad):
    """Inside, calls are recorded again."""

    enabled = True


def is_grad_enabled() -> bool:
    """Whether calls are recorded in this thread."""
    return mode.enabled


def newest_first(ends: Sequence[Any]) -> list[Any]:
    """The nodes that `ends` came from, each before its parents. No recursion: a chain may
    have any length."""
    order: list[Any] = []
    seen: set[int] = set()
    stack: list[tuple[Any, bool]] = [(n, False) for n in reversed(ends)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        if id(node) in seen:
            continue
        seen.add(id(node))
        stack.append((node, True))
        for p in node.parents:
            if p is not None and id(p) not in seen:
                stack.append((p, False))
    order.reverse()
    return order


def backward(ends: Sequence[Any], seeds: Sequence[Any], wanted: set[int] | None, wrap):
    """Gradients by the id of each node. `wanted` limits the walk to what leads to these
    nodes (None: to leaves). `wrap(value, node)` gives what rules are called with: the bare
    value, or a tensor whose operations are recorded."""
    grads: dict[int, Any] = {}
    for end, seed in zip(ends, seeds, strict=True):
        _accumulate(grads, end, seed)
    order = newest_first(ends)
    useful = _leading_to(order, wanted)
    look = hooked or mode.tracer is not None
    with suspended():
        for node in order:
            if look:
                _through_hooks(grads, node)
            if id(node) not in grads or node.op is None:
                continue
            if wanted is not None and id(node) in wanted and not _beyond(node, useful):
                continue
            keep = wanted is not None and id(node) in wanted
            g = grads[id(node)] if keep else grads.pop(id(node))
            if node.op == "part":
                _to_whole(grads, node, g)
            else:
                _through(grads, node, g, useful, wrap)
    return grads, order


def _through_hooks(grads: dict[int, Any], node: Any) -> None:
    hooks = getattr(node, "hooks", None)
    if mode.tracer is not None and node.op is None:
        mode.tracer.look(node, "hooks", hooks)
    if hooks and id(node) in grads:
        from .hooks import through_hooks

        grads[id(node)] = through_hooks(hooks, grads[id(node)])


def _leading_to(order: Sequence[Any], wanted: set[int] | None) -> set[int] | None:
    """The nodes from which a wanted one is reached (None: all of them are useful)."""
    if wanted is None:
        return None
    useful = set(wanted)
    for node in reversed(order):
        if any(p is not None and id(p) in useful for p in node.parents):
            useful.add(id(node))
    return useful


def _beyond(node: Any, useful: set[int] | None) -> bool:
    return useful is None or any(
        p is not None and id(p) in useful for p in node.parents
    )


def _accumulate(grads: dict[int, Any], node: Any, g: Any) -> None:
    known = grads.get(id(node))
    grads[id(node)] = g if known is None else e.add(known, g)


def _to_whole(grads: dict[int, Any], part: Part, g: Any) -> None:
    whole = part.parents[0]
    y: Any = whole.y
    parts = grads.setdefault(id(whole), [None] * len(y))
    known = parts[part.index]
    parts[part.index] = g if known is None else e.add(known, g)


def _through(grads, node: Node, g: Any, useful: set[int] | None, wrap) -> None:
    if node.xs is None:
        raise RuntimeError(
            f"backward: the graph through {node.op.name} was freed by an earlier backward; "
            "call that one with retain_graph=True"
        )
    if isinstance(node.op.grad, Joint):
        for parent, d in _jointly(node, g, useful, wrap):
            if d is not None:
                _accumulate(grads, parent, d)
        return
    xs = [wrap(x, p) for x, p in zip(node.xs, node.parents, strict=True)]
    y = node.y
    if isinstance(y, tuple):
        ys = [wrap(v, None) for v in y]
        g = [e.zeros_like(v) if d is None else d for v, d in zip(ys, g, strict=True)]
        y = tuple(ys)
    else:
        y = wrap(y, node)
    for i, parent in enumerate(node.parents):
        if parent is None or (useful is not None and id(parent) not in useful):
            continue
        rule = _rule(node.op, i)
        if rule is None:
            continue
        d = rule(g, y, *xs, **node.static)
        if d is not None:
            _accumulate(grads, parent, d)


def _jointly(node: Node, g: Any, useful: set[int] | None, wrap):
    """(parent, gradient) for each parent of a call whose gradient is a Joint."""
    needed = tuple(
        p is not None and (useful is None or id(p) in useful) for p in node.parents
    )
    first = node.xs[0]
    if wrap(first, None) is first:
        found = node.op.grad.rule(needed, g, node.y, *node.xs, **node.static)
    else:
        found = _through_fallback(node, g, needed, wrap)
    return [(p, d) for p, d, n in zip(node.parents, found, needed, strict=True) if n]


def _through_fallback(node: Node, g: Any, needed: Sequence[bool], wrap) -> list[Any]:
    """The gradients that are recorded in turn: those of the fallback."""
    inputs = [
        Node(Alias, {}, [x], x, [p]) if n else None
        for x, p, n in zip(node.xs, node.parents, needed, strict=True)
    ]
    xs = [
        wrap(x, p if a is None else a)
        for x, p, a in zip(node.xs, node.parents, inputs, strict=True)
    ]
    y = node.op.fallback(*xs, **node.static)
    pairs = zip(y, g, strict=True) if isinstance(y, tuple) else [(y, g)]
    ends = [(v.node, d) for v, d in pairs if d is not None and v.node is not None]
    wanted = {id(p) for p in inputs if p is not None}
    grads, _ = backward([n for n, _ in ends], [d for _, d in ends], wanted, wrap)
    return [None if p is None else grads.get(id(p)) for p in inputs]


def _rule(op: Op, i: int):
    rules: Any = op.grad
    return rules[i] if type(rules) in (list, tuple) else grad_of(op, i)
