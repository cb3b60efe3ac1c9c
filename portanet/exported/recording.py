"""A recording: the operators that a function called, in order, on numbered values.

The values are the inputs, then the states, then the constants, then what each call
made. A recording knows operators and no device; calling them again on a device's
tensors, or on a tracer's values, decides there what has a kernel and what falls back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array, Emitter, from_numpy, layout
from ..autograd import Tensor, tensor_of
from ..compiled import Trace
from ..compiler.graph import _needed
from ..compiler.lazy import Lazy, Source, TraceError
from ..creation import tensor
from ..dtypes import Dtype
from ..op import Op, Spec, named
from ..scalars import Expression, Scalar
from . import names


class Call(NamedTuple):
    """One operator on values by number. `part` is set where it is not a listed one."""

    op: Op
    args: tuple[int, ...]
    static: Mapping[str, Any]
    specs: tuple[Spec, ...]
    part: Expression | None = None


class Number(NamedTuple):
    """A constant that is one number."""

    value: Any
    dtype: Dtype


@dataclass
class Recording:
    """What a function did; `results` and `assigned` are numbers of values."""

    parameters: list[str]  # the names of positional arguments
    inputs: dict[str, Spec]
    fixed: dict[str, Any]  # arguments that are no tensors
    states: dict[str, Tensor]
    constants: list[Number | Tensor]
    calls: list[Call] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    structure: Any = "tensor"
    assigned: dict[str, int] = field(default_factory=dict)

    def play(self, values: Sequence[Any]) -> list[Any]:
        """All values, given those of inputs, states and constants.

        ValueError where an operator does not give what it gave when it was recorded.
        """
        values = list(values)
        for call in self.calls:
            made = call.op(*[values[i] for i in call.args], **call.static)
            made = made if isinstance(made, tuple) else (made,)
            found = tuple(Spec(x.shape, x.dtype) for x in made)
            if found != call.specs:
                raise ValueError(
                    f"{call.op.name} gives {found}, not {call.specs} as recorded"
                )
            values += made
        return values


def structure_of(value: Any, leaves: list[Tensor]) -> Any:
    """A result as "tensor" or {kind: contents}; its tensors go to `leaves`."""
    if isinstance(value, Tensor):
        leaves.append(value)
        return "tensor"
    if isinstance(value, dict):
        return {"dict": [[k, structure_of(v, leaves)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [structure_of(v, leaves) for v in value]}
    return {"value": value}


def rebuilt(structure: Any, leaves: Any) -> Any:
    """The result of a structure, its tensors taken from an iterator."""
    if structure == "tensor":
        return next(leaves)
    ((kind, inside),) = structure.items()
    if kind == "value":
        return inside
    if kind == "dict":
        return {k: rebuilt(v, leaves) for k, v in inside}
    made = [rebuilt(v, leaves) for v in inside]
    return made if kind == "list" else tuple(made)


def part(name: str, expression: Expression, specs: tuple[Spec, ...]) -> Op:
    """An elementwise operator that is not listed, from its expression."""

    def formula(*xs: Scalar) -> tuple[Scalar, ...]:
        builder = xs[0].builder
        values = [x.value for x in xs]
        for j in expression.instructions:
            operands = tuple(values[o] for o in j.operands)
            values.append(builder.emit(j.name, j.dtype, operands, j.immediate).value)
        ends = expression.outputs
        return tuple(Scalar(builder, values[o], expression.dtype_of(o)) for o in ends)

    several = specs[0] if len(specs) == 1 else specs
    return Op(name, lambda *xs: several, formula=formula, listed=False)


# Making one ---------------------------------------------------------------------------


def record(function: Callable, example: Any) -> Recording:
    """Trace a function with example arguments.

    example: a tuple of positional arguments, a dict of keywords, or one tensor.
    TraceError where a trace can't hold what the function does.
    """
    args, keywords = _split(example)
    parameters = names.positional(function, len(args))
    given = {**dict(zip(parameters, args, strict=True)), **keywords}
    found = [pair for name in given for pair in names.leaves(given[name], name)]
    tensors = {n: as_tensor(v) for n, v in found if isinstance(v, Tensor | np.ndarray)}
    if len(tensors) < sum(isinstance(v, Tensor | np.ndarray) for _, v in found):
        raise ValueError(
            f"export: two arguments have one name: {[n for n, _ in found]}"
        )
    seen: dict[str, Any] = {}

    def flat(*values: Tensor) -> list[Tensor]:
        moved = dict(zip(tensors, values, strict=True))
        ready = {name: names.replaced(given[name], name, moved) for name in given}
        result = function(*[ready.pop(p) for p in parameters], **ready)
        ends: list[Tensor] = []
        seen["structure"] = structure_of(result, ends)
        return [t.detach() for t in ends]

    capture = _settled(flat, tuple(tensors.values()))
    fixed = {name: value for name, value in found if name not in tensors}
    inputs = {name: Spec(t.shape, t.dtype) for name, t in tensors.items()}
    made = Recording(parameters, inputs, fixed, {}, [], structure=seen["structure"])
    _fill(made, capture, names.of_tensors(function, given))
    return made


def _split(example: Any) -> tuple[tuple, dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list):
        return tuple(example), {}
    return (example,), {}


def as_tensor(value: Any) -> Tensor:
    """A tensor of an example: itself, or made from a NumPy array."""
    return tensor(value) if isinstance(value, np.ndarray) else value


class _Capture(Trace):
    """A trace that is kept as calls; no plan is made of it."""

    def _input(self, tracer, t, i) -> Tensor:
        return tensor_of(tracer.argument(t.value, i))

    def _keep(self, tracer, ends, finals, grads, tensors) -> None:
        for i in self.written:
            raise TraceError(
                f"export: the function assigns to its argument {i}, which a file does "
                "not hold; return the new value, or assign to a tensor from outside"
            )
        if tracer.after:
            raise TraceError(
                "export: the function calls step() of a scheduler, which a file does not "
                "hold; export a step that does not, or give it the rate as an argument"
            )
        self.tracer, self.ends, self.grads = tracer, ends, grads
        self.finals = {id(t): value for t, value in finals}
        states = {id(lazy) for _, lazy in tracer.states.values()}
        self.grad_reads = [
            (lazy, self._leaf_of(source))
            for source, lazy in tracer.sources
            if source.kind == "state" and id(lazy) not in states
        ]

    def _leaf_of(self, source: Source) -> Any:
        """The leaf whose gradient, as it was at the start, a source reads."""
        for leaf, start, _ in self.grads:
            same = start is not None and source.layout is start.value.layout
            if same and source.get() is start.value:  # type: ignore[misc]
                return leaf
        raise TraceError("export: a gradient is read that the function itself has set")


def _settled(flat: Callable, tensors: tuple) -> _Capture:
    """The trace of a call that follows another one.

    A gradient that a call leaves behind is there when the next begins: then the
    function is traced again with zeros in its place, which shows whether it adds to it.
    """
    capture = _Capture(flat, tensors, {})
    starts = [(leaf, start) for leaf, start, _ in capture.grads]
    steady = [
        (leaf, None if end is None else _zeros(end.value) if start is None else start)
        for leaf, start, end in capture.grads
    ]
    if all(a is b for (_, a), (_, b) in zip(starts, steady, strict=True)):
        return capture
    try:
        for leaf, g in steady:
            leaf.grad = g
        return _Capture(flat, tensors, {})
    finally:
        for leaf, g in starts:
            leaf.grad = g


def _zeros(like: Any) -> Tensor:
    values = np.zeros(like.shape, like.dtype.numpy)
    return tensor_of(from_numpy(values, like.dtype, like.device))


class _State(NamedTuple):
    """A tensor that outlives the calls, or a gradient that they add to."""

    name: str
    value: Array
    reads: list[Lazy]
    final: Lazy | None  # what a call assigns
    is_gradient: bool


def _states(capture: _Capture, known: Mapping[int, str]) -> list[_State]:
    found = []
    for t, lazy in capture.tracer.states.values():
        final = capture.finals.get(id(t))
        found.append((t, t.value, [lazy], final, False))
    for leaf, start, end in capture.grads:
        reads = [lazy for lazy, of in capture.grad_reads if of is leaf]
        if reads:
            final = None if end is None else end.value
            found.append((leaf, start.value, reads, final, True))
    return [
        _State(known.get(id(t), ""), value, reads, _lazy(final), is_gradient)
        for t, value, reads, final, is_gradient in found
    ]


def _lazy(value: Any) -> Lazy | None:
    return value if type(value) is Lazy else None


def _used(calls: Sequence[Any], ends: Sequence[Lazy]) -> set[int]:
    """ids of the values that are read on the way to the ends."""
    inner = {id(x) for call in _needed(calls, ends) for x in call.args}
    return inner | set(map(id, ends))


def _fill(made: Recording, capture: _Capture, known: Mapping[int, str]) -> None:
    """Number the values of a trace, and keep what its ends need."""
    tracer = capture.tracer
    states = _states(capture, known)
    ends = [*capture.ends, *(s.final for s in states if s.final is not None)]
    used = _used(tracer.calls, ends)
    # A gradient that nobody adds to is made anew by each call.
    states = [
        s
        for s in states
        if any(id(x) in used for x in s.reads) or (s.final and not s.is_gradient)
    ]
    ends = [*capture.ends, *(s.final for s in states if s.final is not None)]
    used = _used(tracer.calls, ends)
    number = _number_sources(made, tracer.sources, states, used)
    count = len(made.inputs) + len(made.states) + len(made.constants)
    first: dict[int, int] = {}  # id of a call -> the number of its first result

    def at(x: Lazy) -> int:
        made_by = x.origin
        return (
            number[id(x)] if type(made_by) is Source else first[id(made_by)] + x.index
        )

    for call in _needed(tracer.calls, ends):
        made.calls.append(_call(call, tuple(map(at, call.args))))
        first[id(call)] = count
        count += len(call.specs)
    made.results = [at(x) for x in capture.ends]
    pairs = zip(made.states, states, strict=True)
    made.assigned = {name: at(s.final) for name, s in pairs if s.final is not None}


def _number_sources(
    made: Recording, sources: Sequence[Any], states: Sequence[_State], used: set[int]
) -> dict[int, int]:
    """id of a value that no call made -> its number; states and constants are kept."""
    number = {id(x): source.index for source, x in sources if source.kind == "argument"}
    for i, s in enumerate(states):
        name = s.name or f"s{i}"
        while name in made.states:
            name += "_"
        number |= dict.fromkeys(map(id, s.reads), len(made.inputs) + i)
        made.states[name] = tensor_of(s.value)
    first = len(made.inputs) + len(made.states)
    for source, x in sources:
        if source.kind == "constant" and id(x) in used:
            number[id(x)] = first + len(made.constants)
            one = source.number is not None
            kept = Number(source.number, x.dtype) if one else tensor_of(source.get())
            made.constants.append(kept)
    return number


class _Formula(Emitter):
    """Catches the expression of an elementwise operator."""

    expression: Expression

    def elementwise(self, expression, outputs, inputs, row: int = 0) -> None:
        assert not row, "operators that sum rows are listed"
        self.expression = expression


def _call(call: Any, args: tuple[int, ...]) -> Call:
    """A call as it is kept: by the operator's name, or by what it computes."""
    op = call.op
    if named(op.name) is op:
        return Call(op, args, call.static, call.specs)
    if op.formula is None:
        raise TypeError(f"export: {op.name} is not listed and has no formula to keep")
    device = call.args[0].device
    emit = _Formula(device, op.name, [layout(*s, device) for s in _specs(call.args)])
    emit.formula(op, emit.inputs, call.specs, call.static)
    made = part(op.name, emit.expression, call.specs)
    return Call(made, args, {}, call.specs, emit.expression)


def _specs(values: Sequence[Any]) -> list[Spec]:
    return [Spec(x.shape, x.dtype) for x in values]
