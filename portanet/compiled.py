"""`compile`: a function of tensors that is traced when first called and then replayed.

The key of a plan is what the trace took for granted: the layouts of the arguments, static
arguments, whether gradients are recorded; and guards on what it read: the layouts of states,
which gradients were there, the train/eval state of modules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .arrays import contiguous
from .autograd import Tensor
from .autograd.tape import mode
from .devices import default_device
from .compiler.graph import lower
from .compiler.lazy import Lazy, TraceError, Tracer
from .compiler.plan import Plan, optimise


def flatten(value: Any, leaves: list[Tensor]) -> Any:
    """The structure of an argument or result, its tensors put into `leaves`."""
    if isinstance(value, Tensor):
        leaves.append(value)
        return _LEAF
    if isinstance(value, tuple | list):
        return (type(value), *(flatten(v, leaves) for v in value))
    if isinstance(value, dict):
        return (dict, *((k, flatten(v, leaves)) for k, v in value.items()))
    return ("static", _Static(value))


_LEAF = "tensor"


class _Static:
    """A value that a plan takes for granted, compared by value where it can be."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        try:
            return hash((type(self.value), self.value))
        except TypeError:
            return id(self.value)

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, _Static)
        a, b = self.value, other.value
        if a is b:
            return True
        return type(a) is type(b) and _hashable(a) and bool(a == b)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def unflatten(structure: Any, leaves: Any) -> Any:
    """The value of a structure, its tensors taken from an iterator."""
    if structure is _LEAF:
        return next(leaves)
    kind, *rest = structure
    if kind == "static":
        return rest[0].value
    if kind is dict:
        return {k: unflatten(v, leaves) for k, v in rest}
    values = [unflatten(v, leaves) for v in rest]
    return kind(*values) if hasattr(kind, "_fields") else kind(values)


class Trace:
    """One traced call: its plan, its guards, and what it assigns."""

    def __init__(self, function: Callable, args: tuple, kwargs: dict):
        tensors: list[Tensor] = []
        structure = flatten((args, kwargs), tensors)
        tracer = Tracer()
        inputs = [Tensor(tracer.argument(t.value, i)) for i, t in enumerate(tensors)]
        moved_args, moved_kwargs = unflatten(structure, iter(inputs))
        before = mode.tracer
        if before is not None:
            raise TraceError("compile: a compiled function was called while another traces")
        mode.tracer = tracer
        try:
            result = function(*moved_args, **moved_kwargs)
            leaves: list[Tensor] = []
            self.structure = flatten(result, leaves)
            ends = [t._read() for t in leaves]
            _check_history(leaves)
        finally:
            mode.tracer = before
            finals = [(t, t.value, old) for t, old in tracer.assigned.values()]
            for t, _, old in finals:
                t.value = old
            grads = [(leaf, start, leaf.grad) for leaf, start in tracer.grads.values()]
            for leaf, start, _ in grads:
                leaf.grad = start
        self._keep(tracer, ends, finals, grads, tensors)

    def _keep(self, tracer, ends, finals, grads, tensors) -> None:
        self.count = len(ends)
        self.assigned = [t for t, value, _ in finals if type(value) is Lazy]
        ends = [*ends, *(v for _, v, _ in finals if type(v) is Lazy)]
        # Gradients: what each leaf had before (for the guard), and has afterwards.
        self.grads = [(leaf, start is None) for leaf, start, _ in grads]
        self.cleared = [leaf for leaf, start, end in grads if end is None and start is not None]
        self.graded = []
        for leaf, _, end in grads:
            if end is not None and type(end.value) is Lazy:
                self.graded.append((leaf, len(ends)))
                ends.append(end.value)
        self._settle(tracer)
        self.modules = list(tracer.modules.values())
        self.handles = [
            (t, t.node is not None) for t, _ in tracer.states.values()
        ]
        device = ends[0].device if ends else default_device()
        graph = lower(device, tracer.calls, ends)
        optimise(graph)
        replaced = {
            self.count + k: tracer.states[id(t)][1].origin
            for k, t in enumerate(self.assigned)
        }
        self.plan = Plan(graph, replaced)

    def _settle(self, tracer: Tracer) -> None:
        """Assigned states in the layout that each replay leaves them in."""
        for t in self.assigned:
            value = t.value
            if not value.layout.contiguous or value.layout.offset:
                t.value = contiguous(value) if not value.layout.contiguous else value
                source = tracer.states[id(t)][1].origin
                source.layout = t.value.layout

    def fits(self) -> bool:
        """Whether what the trace took for granted still holds."""
        for leaf, was_none in self.grads:
            if (leaf.grad is None) is not was_none:
                return False
        for module, training in self.modules:
            if module.training is not training:
                return False
        for t, requires in self.handles:
            if (t.node is not None) is not requires:
                return False
        return all(get().layout is seen for _, get, seen in self.plan.states)

    def replay(self, tensors: list[Tensor]) -> Any:
        """Run the plan, then assign what the function assigned."""
        made = self.plan.run([t.value for t in tensors])
        for t, value in zip(self.assigned, made[self.count :], strict=False):
            t.value = value
        for leaf in self.cleared:
            leaf.grad = None
        for leaf, i in self.graded:
            leaf.grad = Tensor(made[i])
        return unflatten(self.structure, iter([Tensor(v) for v in made[: self.count]]))


def _check_history(results: list[Tensor]) -> None:
    for i, t in enumerate(results):
        node = t.node
        if node is not None and node.op is not None and getattr(node, "xs", 1) is not None:
            raise TraceError(
                f"compile: result {i} still has a history that a gradient could go back "
                "through; call backward() inside the compiled function, or return "
                "detach() of it, or compile inside no_grad()"
            )


class Compiled:
    """A compiled function; see `compile`."""

    def __init__(self, function: Callable):
        functools.update_wrapper(self, function)
        self.function = function
        self.traces: dict[Any, list[Trace]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if mode.tracer is not None:
            return self.function(*args, **kwargs)
        tensors: list[Tensor] = []
        structure = flatten((args, kwargs), tensors)
        key = (
            structure,
            *[t.value.layout for t in tensors],
            mode.enabled,
            default_device(),
        )
        for trace in self.traces.get(key, ()):
            if trace.fits():
                return trace.replay(tensors)
        trace = Trace(self.function, args, kwargs)
        self.traces.setdefault(key, []).append(trace)
        return trace.replay(tensors)


def compile(function: Callable) -> Compiled:
    """A function of tensors, traced at its first call and replayed at later ones."""
    return Compiled(function)
