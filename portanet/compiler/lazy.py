"""Lazy: an argument that stores the call instead of running it, and the tracer it fills.

While a tracer is active every tensor that is read becomes a Lazy: an argument of the traced
function, or a state, the handle whose value each replay reads anew. Nobody lists states; the
trace finds them. Operators, gradients, modules and kernels do not know that it exists.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array, Layout, constant, from_numpy, uses_fallback
from ..devices import Device
from ..dtypes import Dtype
from ..op import Op, Spec

PACKAGE = str(Path(__file__).parent.parent)


class TraceError(RuntimeError):
    """The traced function did what no trace can hold; the message names the line."""


def user_line() -> str:
    """The innermost line outside of the package: "step.py:12 in step"."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    if frame is None:
        return "?"
    name = Path(frame.f_code.co_filename).name
    return f"{name}:{frame.f_lineno} in {frame.f_code.co_name}"


@dataclass(eq=False, slots=True)
class Source:
    """Where a value comes from that no call made: its array is found anew at each replay."""

    kind: str  # "argument", "state", "constant"; "pack": of states, see pack.py
    get: Callable[[], Array] | None  # None for an argument, whose place is `index`
    layout: Layout | None  # the array's, when it was traced
    index: int = -1  # of a pack: the slot of the new values, each where the old one is
    number: Any = None  # of a constant that is one number
    owner: Any = None  # of a state: the tensor, or the leaf whose gradient it is


@dataclass(eq=False, slots=True)
class Call:
    """One operator on lazy values."""

    op: Op
    args: tuple[Lazy, ...]
    static: dict[str, Any]
    specs: tuple[Spec, ...]
    line: str


class Lazy:
    """A value that a replay will compute: its shape, dtype, device and origin."""

    __slots__ = ("__weakref__", "device", "dtype", "index", "origin", "shape", "tracer")
    level = 1

    def __init__(
        self, tracer: Tracer, spec: Spec, device: Device, origin, index: int = 0
    ):
        self.tracer, self.device, self.origin, self.index = (
            tracer,
            device,
            origin,
            index,
        )
        self.shape, self.dtype = spec

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        n = 1
        for k in self.shape:
            n *= k
        return n

    def constant(self, value: Any, dtype: Dtype) -> Lazy:
        """A number, known to the compiler."""
        return self.tracer.number(value, dtype, self.device)

    def from_numpy(self, values: np.ndarray, dtype: Dtype) -> Lazy:
        """An array that the trace keeps."""
        return self.tracer.lift(from_numpy(values, dtype, self.device))

    def _apply(self, op: Op, args: Sequence[Any], static: dict[str, Any]) -> Any:
        self.check()
        return self.tracer.call(op, args, static)

    def check(self, tracer: Tracer | None = None) -> None:
        """TraceError where the value was kept beyond its trace (or is not of this one)."""
        if self.tracer.is_done or tracer not in (None, self.tracer):
            raise TraceError(
                f"compile: {user_line()} uses a tensor that {self.made_at()} computed "
                "while a function was traced; only what the function returns, or assigns "
                "to a tensor, has a value after it: return it"
            )

    def made_at(self) -> str:
        """The line of the call that makes it."""
        origin = self.origin
        return origin.line if isinstance(origin, Call) else "the function"

    def numpy(self) -> np.ndarray:
        self.check()
        raise TraceError(
            f"compile: {user_line()} reads the value of a tensor, which is not known while "
            "the function is traced; return the tensor and read it outside, or use where()"
        )

    item = numpy

    def to(self, device: Device) -> Lazy:
        if device is self.device:
            return self
        raise TraceError(
            f"compile: {user_line()} moves a tensor from {self.device} to {device}; "
            "a compiled function stays on one device: move it before the call"
        )


@dataclass(eq=False, slots=True)
class Granted:
    """What a trace has read of an object, by getattr or as an item of a dict."""

    owner: Any
    name: str
    value: Any  # with lists and dicts copied

    def now(self) -> Any:
        """What it is now."""
        if isinstance(self.owner, dict):
            return _copied(self.owner.get(self.name))
        return _copied(getattr(self.owner, self.name, None))

    def holds(self) -> bool:
        """Whether it is the same, or equal where it is a number or the like."""
        return _alike(self.value, self.now())

    def __str__(self) -> str:
        owner = type(self.owner).__name__
        was, now = self.value, self.now()
        if not isinstance(was, _PLAIN) or not isinstance(now, _PLAIN):
            return f"{owner}.{self.name} is another one"
        return f"{owner}.{self.name} is {now!r} in place of {was!r}"


_PLAIN = (int, float, str, bytes, type(None))


def _copied(value: Any) -> Any:
    if isinstance(value, list | set):
        return (type(value), *value)
    if isinstance(value, dict):
        return (dict, *value, *value.values())
    contents = getattr(type(value), "contents", None)
    return value if contents is None else contents(value)


def _alike(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    return isinstance(a, _PLAIN) and a == b


def _as_stored(value: Any, dtype: Dtype) -> Any:
    """A number as an array of the dtype would hold it."""
    if dtype.is_float:
        value = float(value)
        return value if dtype is dtype.compute else float(dtype.numpy.type(value))
    return int(value) if dtype.is_integer else bool(value)


@dataclass(eq=False)
class Tracer:
    """What one trace has found: calls in order, sources, and assigned tensors.

    A tensor from outside stays as it is while a function is traced, for other threads see
    it too: what it is assigned is kept here.
    """

    is_done: bool = False

    calls: list[Call] = field(default_factory=list)
    sources: list[tuple[Source, Lazy]] = field(default_factory=list)
    assigned: dict[int, tuple[Any, Lazy]] = field(
        default_factory=dict
    )  # id: handle, its new value
    states: dict[int, tuple[Any, Lazy]] = field(default_factory=dict)
    grads: dict[int, tuple[Any, Any]] = field(
        default_factory=dict
    )  # id: leaf, start grad
    inner: dict[int, Any] = field(
        default_factory=dict
    )  # leaves and modules made inside
    asked: set[int] = field(default_factory=set)  # leaves whose start grad was read
    # What was read of Python objects, and what they were given, by owner and name.
    granted: dict[tuple[int, str], Granted] = field(default_factory=dict)
    given: dict[tuple[int, str], tuple[Any, str, Any, Any]] = field(
        default_factory=dict
    )  # owner, name, old, new
    after: list[tuple[Any, tuple]] = field(
        default_factory=list
    )  # steps of schedulers, which each replay takes
    optimizers: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    _arrays: dict[int, tuple[Array, Lazy]] = field(default_factory=dict)
    _numbers: dict[Any, Lazy] = field(default_factory=dict)
    _known: dict[Any, Any] = field(default_factory=dict)

    def _source(
        self, kind: str, get: Any, x: Array, index=-1, number=None, owner=None
    ) -> Lazy:
        source = Source(kind, get, x.layout, index, number, owner)
        made = Lazy(self, Spec(x.shape, x.dtype), x.device, source)
        self.sources.append((source, made))
        return made

    def argument(self, x: Array, index: int) -> Lazy:
        """The lazy value of an argument of the function."""
        return self._source("argument", None, x, index)

    def read(self, tensor: Any) -> Lazy:
        """The lazy value of a tensor; a tensor from outside becomes a state."""
        value = tensor.value
        if type(value) is Lazy:
            if value.tracer is not self:
                value.check(self)
            return value
        if id(tensor) in self.assigned:
            return self.assigned[id(tensor)][1]
        known = self.states.get(id(tensor))
        if known is None:
            made = self._source("state", lambda: tensor.value, value, owner=tensor)
            known = self.states[id(tensor)] = (tensor, made)
        return known[1]

    def read_grad(self, leaf: Any) -> Any:
        """The gradient that a leaf has when the function starts, or None."""
        if id(leaf) not in self.grads:
            self.asked.add(id(leaf))
        self.look_at_grad(leaf)
        grad = leaf.grad
        if grad is None:
            return None
        if grad is not self.grads[id(leaf)][1]:  # the function itself set it
            return self.read(grad)
        if type(grad.value) is Lazy:
            return grad.value
        return self._source("state", lambda: leaf.grad.value, grad.value, owner=leaf)

    def look_at_grad(self, leaf: Any) -> None:
        """Remember what the gradient of a leaf was when it was first touched."""
        self.grads.setdefault(id(leaf), (leaf, leaf.grad))

    def make_leaf(self, tensor: Any) -> None:
        """A tensor becomes a leaf; one that the function has made is gone with it."""
        if type(tensor.value) is Lazy:
            self.inner[id(tensor.node)] = tensor.node

    def write(self, tensor: Any, value: Any) -> None:
        """Assign to a tensor: to one from outside at each replay."""
        if type(tensor.value) is Lazy:
            tensor.value = value
            return
        if (value.shape, value.dtype) != (tensor.shape, tensor.dtype):
            raise TraceError(
                f"compile: {user_line()} makes a tensor of {tensor.dtype.name} one of "
                f"{value.dtype.name}, which a replay can't; do it before the call"
            )
        self.read(tensor)  # it is a state
        self.assigned[id(tensor)] = (tensor, self.lift(value))

    def look(self, owner: Any, name: str, value: Any) -> None:
        """The function reads this of an object: the plan is for no other value."""
        key = (id(owner), name)
        if (
            id(owner) not in self.inner
            and key not in self.given
            and key not in self.granted
        ):
            self.granted[key] = Granted(owner, name, _copied(value))

    def give(self, owner: Any, name: str, old: Any, new: Any) -> None:
        """The function sets an attribute, as each replay will."""
        if id(owner) in self.inner:
            return
        what, key = f"{type(owner).__name__}.{name}", (id(owner), name)
        if type(getattr(new, "value", None)) is Lazy:
            raise TraceError(
                f"compile: {user_line()} sets {what} to a tensor that is computed while the "
                "function is traced, which a replay would not; make it a buffer with "
                "register_buffer and assign() to it, or return it"
            )
        counts = type(new) in (int, float) and key in self.granted
        if counts and new != old:
            raise TraceError(
                f"compile: {user_line()} counts in {what}, which each call would change and "
                "no replay can; make it a buffer with register_buffer and assign() to it"
            )
        first = self.given.get(key, (owner, name, old, new))
        self.given[key] = (owner, name, first[2], new)

    def number(self, value: Any, dtype: Dtype, device: Device) -> Lazy:
        """A number, known to the compiler."""
        key = (repr(value), dtype, device)
        if key not in self._numbers:
            array = constant(value, dtype, device)
            number = _as_stored(value, dtype)
            self._numbers[key] = self._source(
                "constant", lambda: array, array, number=number
            )
        return self._numbers[key]

    def lift(self, value: Any) -> Lazy:
        """An array that is no tensor's: kept as it is."""
        if type(value) is Lazy:
            if value.tracer is not self:
                value.check(self)
            return value
        if id(value) not in self._arrays:
            made = self._source("constant", lambda: value, value)
            self._arrays[id(value)] = (value, made)
        return self._arrays[id(value)][1]

    def call(self, op: Op, args: Sequence[Any], static: dict[str, Any]) -> Any:
        """Store a call; the same call made before gives the same values."""
        xs = tuple(self.lift(a) for a in args)
        device = xs[0].device
        for x in xs:
            if x.device is not device:
                raise ValueError(
                    f"{op.name}: tensors are on {device} and {x.device}; "
                    f'move one with .to("{device}")'
                )
        given = [Spec(x.shape, x.dtype) for x in xs]
        result = op.rule(*given, **static)
        if not op.takes_formula(device, given, static) and uses_fallback(op, device):
            return op.fallback(*xs, **static)  # type: ignore[misc]
        key = (op, *map(id, xs), *static.items())
        if key in self._known:
            return self._known[key]
        several = not isinstance(result, Spec)
        specs = result if several else (result,)
        made = Call(op, xs, static, tuple(specs), user_line())
        self.calls.append(made)
        values = tuple(Lazy(self, s, device, made, i) for i, s in enumerate(specs))
        self._known[key] = values if several else values[0]
        return self._known[key]
