"""`compile`: a function of tensors that is traced when first called and then replayed.

The key of a plan is what the trace took for granted: the layouts of the arguments, static
arguments, whether gradients are recorded; and guards on what it read: the layouts of states,
which gradients were there, attributes of modules, options of optimizers.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .arrays import Array, Layout, contiguous
from .casting import mode as casts
from .autograd import Tensor, tape, tensor_of
from .autograd.tape import mode, revision, while_traced
from .devices import chosen, default_device
from .compiler import draw, explain
from .compiler.graph import lower
from .compiler.lazy import Lazy, TraceError, Tracer
from .compiler.plan import Plan, optimise
from .compiler.reuse import Target
from .precision import get_float32_matmul_precision
from .structure import flatten, frozen, statics, unflatten


_TENSORS = {Tensor}
# Calls of compiled functions take turns: each reads the states that the one before has
# assigned, and may write over them.
_turn = threading.RLock()


class Trace:
    """One traced call: its plan, its guards, and what it assigns."""

    def __init__(
        self,
        function: Callable,
        args: tuple,
        kwargs: dict,
        memory_limit: int | None = None,
    ):
        self.memory_limit = memory_limit
        tensors: list[Tensor] = []
        structure = flatten((args, kwargs), tensors)
        tracer = Tracer()
        inputs = [self._input(tracer, t, i) for i, t in enumerate(tensors)]
        given = [x.value for x in inputs]
        moved = unflatten(structure, iter(inputs))
        before = mode.tracer
        if before is not None:
            raise TraceError(
                "compile: a compiled function was called while another traces"
            )
        mode.tracer = tracer
        try:
            with _turn, _watching():
                result = function(*moved[0], **moved[1])
            leaves: list[Tensor] = []
            self.structure = flatten(result, leaves)
            ends = [t._read() for t in leaves]
            _check_history(leaves)
        finally:
            mode.tracer = before
            tracer.is_done = True
            for owner, name, old, _ in tracer.given.values():
                setattr(owner, name, old)
            finals = list(tracer.assigned.values())
            grads = [(leaf, start, leaf.grad) for leaf, start in tracer.grads.values()]
            for leaf, start, _ in grads:
                leaf.grad = start
        # Arguments that it assigns, by number, and the leaves that stand for arguments.
        self.written = {
            i: x.value
            for i, (x, value) in enumerate(zip(inputs, given, strict=True))
            if x.value is not value
        }
        _check_unchanged(structure, moved, inputs)
        _check_states(t for t, _ in finals)
        for static in statics(self.structure):
            _check_hidden(static.value)
        self.own = {id(x.node): i for i, x in enumerate(inputs) if x.node is not None}
        # The gradients of leaves that the function has made are gone with them.
        gone = tracer.inner.keys() - self.own.keys()
        grads = [found for found in grads if id(found[0]) not in gone]
        self._keep(tracer, ends, finals, grads, tensors)

    def _input(self, tracer: Tracer, t: Tensor, i: int) -> Tensor:
        """What the function gets for an argument; a leaf for a leaf."""
        made = tensor_of(tracer.argument(t.value, i))
        if mode.enabled and _has_history(t):
            raise TraceError(
                f"compile: argument {i} is a result with a history, through which no "
                "gradient can go back; pass detach() of it, or compute it inside"
            )
        if t.requires_grad and t.is_leaf:
            made.requires_grad = True
            made.grad = t.grad
        return made

    def _keep(self, tracer, ends, finals, grads, tensors) -> None:
        self.count = len(ends)
        written = [(len(ends) + k, i) for k, i in enumerate(self.written)]
        ends = [*ends, *map(tracer.lift, self.written.values())]
        states = len(ends)
        self.assigned = [t for t, _ in finals]
        self.renewed = {id(t) for t in self.assigned}
        ends = [*ends, *(value for _, value in finals)]
        # Gradients: what each leaf had before (for the guard), and has afterwards.
        # One that the function sets before it reads it may be anything at the start.
        self.leaves = [leaf for leaf, _, _ in grads]
        self.grads = [
            (x, start is None) for x, start, _ in grads if id(x) in tracer.asked
        ]
        self.cleared = [
            leaf
            for leaf, start, end in grads
            if end is None and (start is not None or id(leaf) not in tracer.asked)
        ]
        # Leaves whose gradient is read, and the arguments that they stand for.
        self.asked = [(x, self.own[id(x)]) for x, _ in self.grads if id(x) in self.own]
        self.changed = {*self.written, *(self.own.get(id(x)) for x in self.leaves)}
        self.changed.discard(None)
        self.read = {id(t) for t, _ in tracer.states.values()}
        self._check_apart(tensors)
        self.graded = []
        for leaf, start, end in grads:
            if end is not None and end is not start:
                self.graded.append((leaf, len(ends)))
                ends.append(tracer.read(end))
        self._settle(tracer)
        self.granted = list(tracer.granted.values())
        self.revision = revision.number
        self.given = [
            (x, name, new)
            for x, name, old, new in tracer.given.values()
            if old is not new
        ]
        self.after = tracer.after
        self.optimizers = list(tracer.optimizers.values())
        self.handles = [(t, t.node is None) for t, _ in tracer.states.values()]
        found = (self.grads, self.handles)
        self.seen = [[now for _, now in pairs] for pairs in found]
        device = ends[0].device if ends else default_device()
        for end in ends:
            if end.device is not device:
                raise TraceError(
                    f"compile: the function returns or assigns tensors on {device} and on "
                    f"{end.device}; a compiled function stays on one device"
                )
        graph = lower(device, tracer.calls, ends)
        replaced = {
            states + k: tracer.states[id(t)][1].origin
            for k, t in enumerate(self.assigned)
        }
        optimise(graph, replaced, self.memory_limit)
        targets = {n: Target(i, "value") for n, i in written}
        targets |= {states + k: Target(t, "value") for k, t in enumerate(self.assigned)}
        targets |= {
            i: Target(self.own.get(id(leaf), leaf), "grad", tensor_of)
            for leaf, i in self.graded
        }
        self.plan = Plan(graph, replaced, targets)

    def _settle(self, tracer: Tracer) -> None:
        """Assigned states in the layout that each replay leaves them in."""
        for t in self.assigned:
            value = t.value
            if not value.layout.contiguous or value.layout.offset:
                t.value = contiguous(value) if not value.layout.contiguous else value
                source = tracer.states[id(t)][1].origin
                source.layout = t.value.layout

    def _leaf(self, leaf: Any, tensors: list[Tensor]) -> Any:
        """A leaf, or that of the argument that it stands for."""
        i = self.own.get(id(leaf))
        return leaf if i is None else tensors[i].node

    def _check_apart(self, tensors: list[Tensor]) -> None:
        """What becomes of an argument must not be seen through another name."""
        ids = [id(t) for t in tensors]
        for i in [i for i, known in enumerate(ids) if known in self.renewed]:
            raise TraceError(
                f"compile: argument {i} is a tensor that the function also assigns by "
                "another name; read it from outside only, or pass detach() of it"
            )
        for i in self.changed:
            if ids.count(ids[i]) > 1 or ids[i] in self.read:
                raise TraceError(
                    f"compile: argument {i} is assigned or gets a gradient, and the "
                    "function knows the same tensor by another name; pass it once, or "
                    "read it from outside only"
                )
            if i in self.own.values():
                tensors[i].requires_grad = True

    def fits(self, tensors: list[Tensor]) -> bool:
        """Whether what the trace took for granted still holds."""
        for leaf, i in self.asked:
            leaf.grad = tensors[i].grad
        seen = self.seen  # lists, since comparing two is fast
        return (
            [leaf.grad is None for leaf, _ in self.grads] == seen[0]
            and [t.node is None for t, _ in self.handles] == seen[1]
            and (self.revision == revision.number or self._still_granted())
            and all(rule.state is state for rule, state in self.optimizers)
            and self.plan.fits()
        )

    def _still_granted(self) -> bool:
        """Whether what it read of modules and optimizers is as it was."""
        now = revision.number
        if not all(g.holds() for g in self.granted):
            return False
        self.revision = now
        return True

    def unlike(self) -> str:
        """What is not as the trace took it for granted."""
        found = []
        for leaf, was_none in self.grads:
            if was_none != (leaf.grad is None):
                found.append(f"a gradient is {'there' if was_none else 'None'} now")
        found += [str(g) for g in self.granted if not g.holds()]
        for t, was_constant in self.handles:
            if was_constant != (t.node is None):
                wants = "requires a" if was_constant else "wants no"
                found.append(f"a state of shape {t.shape} {wants} gradient now")
        for rule, state in self.optimizers:
            if rule.state is not state:
                found.append(f"the state of {type(rule).__name__} is another one")
        counts = Counter(found)
        each = [f"{what} ({n} times)" if n > 1 else what for what, n in counts.items()]
        return "; ".join(each or ["a state or a gradient has another layout"])

    def snapshot(self, tensors: list[Tensor]) -> list[Any]:
        """The values of all that is assigned and all gradients, to go back to."""
        handles = [*self.assigned, *(tensors[i] for i in self.written)]
        values = [(t, Array(t.value.buffer, t.value.layout)) for t in handles]
        leaves = [self._leaf(x, tensors) for x in self.leaves]
        grads = [(leaf, leaf.grad) for leaf in leaves]
        given = [(x, name, getattr(x, name)) for x, name, _ in self.given]
        counts = [(scheduler, scheduler.state_dict()) for scheduler, _ in self.after]
        return [values, grads, given, counts]

    def nudge(self, kept: list[Any]) -> None:
        """Move what is assigned from a snapshot's values by a few units of rounding."""
        with tape.no_grad():
            for t, value in kept[0]:
                if value.dtype.kind == "float":
                    t.value = (
                        tensor_of(value) * (1 + 8 * value.dtype.limits.eps)
                    ).value

    def restore(self, kept: list[Any]) -> None:
        """Go back to a snapshot."""
        values, grads, given, counts = kept
        for t, value in values:
            t.value = Array(value.buffer, value.layout)
        for leaf, grad in grads:
            leaf.grad = grad
        for owner, name, value in given:
            setattr(owner, name, value)
        for scheduler, state in counts:
            scheduler.load_state_dict(state)

    def made(self, tensors: list[Tensor]) -> list[Any]:
        """The values of what the function assigns, and the gradients that it leaves."""
        handles = [*self.assigned, *(tensors[i] for i in self.written)]
        leaves = [self._leaf(x, tensors) for x, _ in self.graded]
        return [t.value for t in handles] + [x.grad.value for x in leaves]

    def replay(self, tensors: list[Tensor]) -> Any:
        """Run the plan and assign what the function assigned, all of it or nothing."""
        if self.changed or not self.renewed.isdisjoint(map(id, tensors)):
            self._check_apart(tensors)
        leaves = [self._leaf(x, tensors) for x in self.cleared]
        calls: list[tuple] = [(setattr, leaf, "grad", None) for leaf in leaves]
        calls += [(setattr, *what) for what in self.given]
        calls += [(scheduler.step, *args) for scheduler, args in self.after]
        made = self.plan.run(tensors, self.count, calls)
        return unflatten(self.structure, map(tensor_of, made))


@contextlib.contextmanager
def _watching() -> Iterator[None]:
    """The trace sees which attributes the function reads."""
    for kind, name, method in while_traced:
        setattr(kind, name, method)
    try:
        yield
    finally:
        for kind, name, _ in while_traced:
            delattr(kind, name)


def _has_history(t: Tensor) -> bool:
    node = t.node
    return (
        node is not None and node.op is not None and getattr(node, "xs", 1) is not None
    )


def _check_hooks(arguments: list[Tensor]) -> None:
    for i, t in enumerate(arguments):
        if getattr(t.node, "hooks", None):
            raise TraceError(
                f"compile: argument {i} has a hook, which replays would not call; register "
                "it inside the function"
            )


def _check_history(results: list[Tensor]) -> None:
    for i, t in enumerate(results):
        if _has_history(t):
            raise TraceError(
                f"compile: result {i} still has a history that a gradient could go back "
                "through; call backward() inside the compiled function, or return "
                "detach() of it, or compile inside no_grad()"
            )


def _check_states(assigned: Iterable[Tensor]) -> None:
    for t in assigned:
        if _has_history(t):
            raise TraceError(
                f"compile: a tensor from outside, of shape {t.shape}, is assigned a result "
                "with a history that a gradient could go back through; assign detach() "
                "of it"
            )


def _check_unchanged(structure: Any, moved: Any, inputs: list[Tensor]) -> None:
    """What a function puts into a list that it is given, a replay would not."""
    leaves: list[Tensor] = []
    same = flatten(moved, leaves) == structure and len(leaves) == len(inputs)
    if not same or any(a is not b for a, b in zip(leaves, inputs, strict=True)):
        raise TraceError(
            "compile: the function changes what is in a list, dict or dataclass among its "
            "arguments, which a replay would not; return the new values, or assign to the "
            "tensors in it"
        )


def _check_hidden(value: Any) -> None:
    """A result whose tensors the trace does not see."""
    parts = value if isinstance(value, set | frozenset) else ()
    for t in (*getattr(value, "__dict__", {}).values(), *parts):
        if isinstance(t, Tensor) and type(t.value) is Lazy:
            raise TraceError(
                f"compile: a result holds tensors in a {type(value).__name__}; return "
                "them in a tuple, list, dict or dataclass"
            )


class Compiled:
    """A compiled function; see `compile`."""

    def __init__(
        self, function: Callable, verify: bool = False, memory_limit: int | None = None
    ):
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.verify, self.memory_limit = verify, memory_limit
        self.traces: dict[Any, list[Trace]] = {}
        self.made: list[tuple[Trace, Key, str]] = []  # in order; why each was made

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __getattr__(self, name: str) -> Any:
        """Of a compiled module, what the module has: parameters(), eval(), weight."""
        if name == "function":  # of one that is not made yet, while it is copied
            raise AttributeError(name)
        return getattr(self.function, name)

    def __reduce__(self):
        return Compiled, (self.function, self.verify, self.memory_limit)

    def __repr__(self) -> str:
        name = getattr(self.function, "__qualname__", type(self.function).__name__)
        return f"<compiled {name}, {len(self.made)} plans>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if mode.tracer is not None:
            return self.function(*args, **kwargs)
        with _turn:
            trace, tensors = self._find(args, kwargs)
            return trace.replay(tensors)

    @property
    def reasons(self) -> list[str]:
        """Why each trace was made."""
        return [why for _, _, why in self.made]

    def _find(self, args: tuple, kwargs: dict) -> tuple[Trace, list[Tensor]]:
        """The trace of such a call, made where there is none yet, and its tensors."""
        tensors: list[Tensor] = []
        if not kwargs and set(map(type, args)) == _TENSORS:  # mostly, and faster
            structure, tensors = "tensors", list(args)
        else:
            structure = flatten((args, kwargs), tensors)
        try:
            layouts = tuple([t.value.layout for t in tensors])
        except AttributeError:  # only a tracer's value has none
            for t in tensors:
                if type(t.value) is Lazy:
                    t.value.check()
            raise
        leaves = tuple([t.node is None for t in tensors])
        if tape.hooked:
            _check_hooks(tensors)
        precision = get_float32_matmul_precision()
        cast = None if casts.active is None else casts.active.key
        key = (structure, layouts, leaves, mode.enabled, chosen(), precision, cast)
        known = self.traces.get(key, ())
        for trace in known:
            if trace.fits(tensors):
                return trace, tensors
        why = known[-1].unlike() if known else self._unlike(key)
        key = (frozen(structure), *key[1:])
        trace = Trace(self.function, args, kwargs, self.memory_limit)
        self.made.append((trace, key, why))
        self.traces.setdefault(key, []).append(trace)
        if self.verify:
            self._compare(trace, args, kwargs, tensors)
        return trace, tensors

    def _unlike(self, key: Key) -> str:
        """What is new in a key; said of that known one which shares most with it."""
        known = [old for _, old, _ in self.made]
        if not known:
            return "the first call"
        lists = [differences(old, key) for old in reversed(known)]
        return "; ".join(min(lists, key=lambda found: (found is OTHERS, len(found))))

    def _compare(self, trace: Trace, args: tuple, kwargs: dict, tensors: list) -> None:
        """Run the function eagerly and the plan on the same states, and compare. A second
        eager run, on states that are a little off, says how much rounding matters."""
        keep = trace.snapshot(tensors)
        runs: list[list[Any]] = []
        results = 0
        for k in range(3):
            if k == 1:
                trace.nudge(keep)
            found: list[Tensor] = []
            out = trace.replay(tensors) if k == 2 else self.function(*args, **kwargs)
            flatten(out, found)
            results = len(found)
            runs.append([t.value for t in found] + trace.made(tensors))
            trace.restore(keep)
        for i, values in enumerate(zip(*runs, strict=True)):
            want, nudged, got = (v.numpy() for v in values)
            _check_close(i, results, got, want, nudged)

    def explain(self) -> str:
        """The launches of each plan: operators, the user's lines, shapes, bytes, flops."""
        return self._describe(lambda trace: explain.rows(trace.plan))

    def profile(self, *args: Any, **kwargs: Any) -> str:
        """The same with the time of each launch, run alone, of the plan for such arguments;
        nothing is changed by it."""
        timed, rows = self._profiled(args, kwargs)
        return self._describe(lambda t: rows if t is timed else explain.rows(t.plan))

    def _profiled(self, args: tuple, kwargs: dict) -> tuple[Trace, list[explain.Row]]:
        with _turn:  # a replay has the same temporaries
            trace, tensors = self._find(args, kwargs)
            return trace, explain.profile(trace.plan, trace.plan.scratch(tensors))

    def graph(self, path: Any, index: int = -1) -> None:
        """Draw a plan (the newest, or another by number) into an SVG file."""
        plan = self._plan(index)
        Path(path).write_text(draw.svg(plan, explain.rows(plan)), encoding="utf-8")

    def chrome_trace(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Profile a call of these arguments into a file for chrome://tracing."""
        trace, made = self._profiled(args, kwargs)
        text = draw.chrome_trace(made, str(trace.plan.graph.device))
        Path(path).write_text(text, encoding="utf-8")

    def _plan(self, index: int) -> Plan:
        if not self.made:
            raise RuntimeError(
                f"compile: {self.function} has no plan yet; call it once"
            )
        if not -len(self.made) <= index < len(self.made):
            raise IndexError(
                f"graph: there is no plan {index} among {len(self.made)}; see explain()"
            )
        return self.made[index][0].plan

    def _describe(self, rows_of: Callable) -> str:
        if not self.made:
            raise RuntimeError(
                f"explain: {self.function} has no plan yet; call it once first"
            )
        parts = []
        for i, (trace, _, why) in enumerate(self.made):
            parts.append(f"plan {i} on {trace.plan.graph.device} ({why})")
            parts.append(explain.text(trace.plan, rows_of(trace)))
        return "\n".join(parts)


# What is taken for granted of a call: the structure of its arguments, the layouts of their
# tensors, which are leaves, whether gradients are recorded, device, precision of products,
# what autocast casts.
Key = tuple[Any, tuple[Layout, ...], tuple[bool, ...], bool, Any, str, Any]


OTHERS = ["another number of arguments, or others of them tensors"]


def differences(old: Key, new: Key) -> list[str]:
    """What a call has that another one had not."""
    found = []
    a, b = list(statics(old[0])), list(statics(new[0]))
    if len(old[1]) != len(new[1]) or len(a) != len(b):
        return OTHERS
    if old[0] != new[0]:
        pairs = zip(a, b, strict=True)
        found = [f"{y.value!r} in place of {x.value!r}" for x, y in pairs if x != y]
        found = found or ["another structure of the arguments"]
    for i, (x, y) in enumerate(zip(old[1], new[1], strict=True)):
        if x is not y:
            found.append(f"tensor {i} is {_shown(y, x)} in place of {_shown(x, y)}")
    for i, (x, y) in enumerate(zip(old[2], new[2], strict=True)):
        if x != y:
            found.append(f"tensor {i} {'requires a' if x else 'wants no'} gradient now")
    if old[3] != new[3]:
        found.append(f"gradients are {'' if new[3] else 'not '}recorded now")
    if old[4] is not new[4]:
        found.append(f"the default device is {new[4]} in place of {old[4]}")
    if old[5] != new[5]:
        found.append(f"the precision of products is {new[5]} in place of {old[5]}")
    if old[6] != new[6]:
        found.append("autocast casts to another dtype, or not any more")
    return found


def _shown(x: Layout, other: Layout) -> str:
    text = f"{x.shape} {x.dtype.name} on {x.device}"
    if (x.shape, x.dtype, x.device) != (other.shape, other.dtype, other.device):
        return text
    return f"{text} with strides {x.strides} from {x.offset} on"


def _check_close(i: int, results: int, got: Any, want: Any, nudged: Any) -> None:
    """Compiled and eager work may differ in rounding, not in more. `nudged`: what is wanted,
    where states are a few units of rounding off: a gradient that is zero but for rounding,
    which Adam makes a step of, is any small number."""
    import numpy as np

    if got.dtype.kind not in "fV":
        close = np.array_equal(got, want)
    else:
        a, b = got.astype(np.float64), want.astype(np.float64)
        scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
        bound = 1e4 * np.finfo(np.float32 if got.dtype.itemsize < 8 else got.dtype).eps
        with np.errstate(invalid="ignore"):
            moved = np.abs(nudged.astype(np.float64) - b)
        atol = bound * scale + 16 * moved[np.isfinite(moved)].max(initial=0.0)
        close = np.allclose(a, b, rtol=bound, atol=atol, equal_nan=True)
    if not close:
        what = f"result {i}" if i < results else f"state or gradient {i - results}"
        with np.errstate(invalid="ignore"):
            most = np.nanmax(np.abs(got.astype(np.float64) - want), initial=0.0)
        raise RuntimeError(
            f"compile: verify: {what} of shape {got.shape} differs by up to {most:.3g} "
            "between the plan and eager execution; please report this with the function"
        )


def compile(
    function: Callable | None = None,
    *,
    verify: bool | None = None,
    memory_limit: int | None = None,
) -> Any:
    """A function of tensors, traced at its first call and replayed at later ones.

    Any function: a whole training step with backward and optimizer, or a forward pass. The
    tensors that it reads or assigns are found by the trace. It is traced again for new
    shapes, dtypes, devices, static arguments, and for a module's other mode. Python runs
    only while it is traced: a branch on a tensor's value, or `.item()`, raises TraceError.

    verify: at each trace, also run eagerly on the same states, and compare results, states
    and gradients; RuntimeError where they differ by more than rounding. None: as the
    variable PORTANET_VERIFY says, which is how a whole program is checked.
    memory_limit: bytes that a replay may have for temporaries and results; values are
    computed again rather than kept until it holds. OutOfMemoryError names the least there is.

    >>> @pn.compile
    ... def step(x):
    ...     return pn.exp(x) * 2 + 1
    >>> step(pn.tensor([0.0]))
    tensor([3.])
    """
    if verify is None:
        verify = os.environ.get("PORTANET_VERIFY", "0") not in ("", "0")
    limited = memory_limit is not None
    if limited and (type(memory_limit) is not int or memory_limit < 0):
        raise TypeError(
            f"compile: memory_limit is a number of bytes, not {memory_limit!r}"
        )
    if function is not None and not callable(function):
        raise TypeError(
            f"compile: a function is expected, not {type(function).__name__}"
        )
    if function is None:
        return functools.partial(compile, verify=verify, memory_limit=memory_limit)
    return Compiled(function, verify, memory_limit)
