"""The graph that passes work on: pieces of work on slots, in order.

A slot is a buffer that will be. Elementwise work keeps its expression, so that passes can
merge it; all other work is a kernel with its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..arrays import Emitter, Handle, elementwise_program, layout
from ..devices import Device
from ..op import Spec
from ..program import MADE, OWN_INPUTS, Program
from ..scalars import Expression
from .lazy import Call, Lazy, Source


@dataclass(eq=False, slots=True)
class Slot:
    """A buffer: `source` where it exists before the replay, else it is made by work."""

    nbytes: int
    source: Source | None = None
    kept: bool = False  # read after the replay: a result, or an assigned value


class Producer(NamedTuple):
    """What makes the elements that a reduction reduces: an expression of its inputs, over
    a shape."""

    expression: Expression
    shape: tuple[int, ...]


@dataclass(eq=False, slots=True)
class Work:
    """One launch to be. Either `expression` or `program` is set; a program may have an
    epilogue, whose first input is what the program alone would store, or a producer."""

    outs: list[Handle]
    ins: list[Handle]
    label: str
    line: str
    expression: Expression | None = None
    program: Program | None = None
    words: tuple[int, ...] = ()
    parts: list[str] = field(default_factory=list)  # the operators merged into this one
    row: int = 0  # elements of a row, of an expression that has rows
    epilogue: Expression | None = None
    producer: Producer | None = None
    proven: bool = False  # bad data would have stopped work before it

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the elements that elementwise work goes over."""
        return self.outs[0].layout.shape

    @property
    def size(self) -> int:
        return self.outs[0].layout.size

    def but(self, **changes: Any) -> Work:
        """The same work with some fields changed."""
        return replace(self, **changes)

    @property
    def can_fault(self) -> bool:
        """Whether bad data can stop it."""
        known = self.program if self.expression is None else self.expression
        return not self.proven and known.can_fault  # type: ignore[union-attr]


@dataclass(eq=False)
class Graph:
    """Work in order, on slots."""

    device: Device
    slots: list[Slot] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    results: list[Handle] = field(default_factory=list)
    # Slot -> the slots that lie in it, each with its first byte. See pack.py.
    packs: dict[int, dict[int, int]] = field(default_factory=dict)

    def home(self) -> dict[int, int]:
        """Slot that lies in another -> that one."""
        return {s: whole for whole, parts in self.packs.items() for s in parts}

    def touched(self, slots: Iterable[int]) -> set[int]:
        """The slots, and those that lie in them."""
        return {s for slot in slots for s in (slot, *self.packs.get(slot, ()))}

    def slot(self, nbytes: int, source: Source | None = None) -> int:
        self.slots.append(Slot(nbytes, source))
        return len(self.slots) - 1

    def writers(self) -> dict[int, list[int]]:
        """Slot -> the numbers of the work that writes it."""
        found: dict[int, list[int]] = {}
        for i, w in enumerate(self.work):
            for h in w.outs:
                found.setdefault(h.slot, []).append(i)
        return found

    def readers(self) -> dict[int, list[int]]:
        """Slot -> the numbers of the work that reads it."""
        found: dict[int, list[int]] = {}
        for i, w in enumerate(self.work):
            for slot in {h.slot for h in w.ins}:
                found.setdefault(slot, []).append(i)
        return found


def members(w: Work) -> list[Work]:
    """The launches that go side by side as one; else the one that there is."""
    p = w.program
    if p is None or not p.copies:
        return [w]
    found, out, at = [], 0, 0
    for one, (_, words) in zip(p.members, p.copies_of(w.words), strict=True):
        outs, ins = len(one.outputs), len(one.inputs)
        is_formula = one.kernel == "elementwise"
        found.append(
            w.but(
                outs=w.outs[out : out + outs],
                ins=w.ins[at : at + ins],
                expression=one.expression if is_formula else None,
                program=None if is_formula else one,
                words=words,
            )
        )
        out, at = out + outs, at + ins
    return found


def dependencies(work: Sequence[Work]) -> list[set[int]]:
    """For each piece of work, the numbers of those that must run before it: who wrote what
    it reads or writes, and who reads what it writes."""
    writers: dict[int, list[int]] = {}
    readers: dict[int, list[int]] = {}
    found = []
    for i, w in enumerate(work):
        needs: set[int] = set()
        for h in w.ins:
            needs.update(writers.get(h.slot, ()))
            readers.setdefault(h.slot, []).append(i)
        for h in w.outs:
            needs.update(writers.get(h.slot, ()), readers.get(h.slot, ()))
            writers.setdefault(h.slot, []).append(i)
        found.append(needs - {i})
    return found


def program_of(w: Work) -> tuple[Program, tuple[int, ...]]:
    """The program of a piece of work, and its words."""
    if w.expression is not None:
        made, words = elementwise_program(w.label, w.expression, w.outs, w.ins, w.row)
        return replace(made, buffers=_buffers(w)), tuple(words)
    assert w.program is not None
    if w.producer is not None:
        return _with_producer(w, *w.producer)
    if w.epilogue is None:
        shared = _buffers(w) if w.program.copies else ()
        return replace(w.program, buffers=shared), w.words
    first = w.outs[0].layout
    result = Handle(-1, layout(first.shape, w.epilogue.inputs[0], first.device))
    ins = [result, *w.ins[OWN_INPUTS:]]
    after, words = elementwise_program(w.label, w.epilogue, w.outs, ins, w.row)
    program = replace(
        after,
        kernel=w.program.kernel,
        inputs=(*w.program.inputs, *after.inputs[1:]),
        options=w.program.options,
    )
    return program, (*w.words, *words)


def _with_producer(
    w: Work, expression: Expression, shape: tuple[int, ...]
) -> tuple[Program, tuple[int, ...]]:
    assert w.program is not None
    made = layout(
        shape, expression.dtype_of(expression.outputs[0]), w.outs[0].layout.device
    )
    before, words = elementwise_program(w.label, expression, [Handle(-1, made)], w.ins)
    program = replace(
        before,
        kernel=w.program.kernel,
        outputs=w.program.outputs,
        options=(w.program.options[0], MADE),
        buffers=_buffers(w),
    )
    return program, (*w.words, *words)


def _buffers(w: Work) -> tuple[int, ...]:
    """See `Program.buffers`: outputs in one slot, and inputs in one, of equal dtypes."""
    keys = [
        (i < len(w.outs), h.slot, h.layout.dtype)
        for i, h in enumerate([*w.outs, *w.ins])
    ]
    distinct = list(dict.fromkeys(keys))
    if len(distinct) == len(keys):
        return ()
    return tuple(map(distinct.index, keys))


class Recorder(Emitter):
    """An Emitter that writes work into a graph instead of building launches."""

    def __init__(self, graph: Graph, label: str, line: str, inputs: Sequence[Handle]):
        super().__init__(graph.device, label, ())
        self.graph, self.line, self.inputs = graph, line, list(inputs)

    def empty(self, shape: Sequence[int], dtype: Any) -> Handle:
        made = layout(shape, dtype, self.device)
        nbytes = made.size * self.device.backend.itemsize(dtype)
        return Handle(self.graph.slot(nbytes), made)

    def launch(self, program: Program, words, outputs, inputs) -> None:
        self.graph.work.append(
            Work(list(outputs), list(inputs), self.label, self.line, None, program,
                 tuple(words), [self.label])
        )  # fmt: skip

    def elementwise(self, expression, outputs, inputs, row: int = 0) -> None:
        if 0 in outputs[0].layout.shape:
            return
        self.graph.work.append(
            Work(list(outputs), list(inputs), self.label, self.line, expression, None, (),
                 [self.label], row)
        )  # fmt: skip


def lower(device: Device, calls: Sequence[Call], ends: Sequence[Lazy]) -> Graph:
    """The work of the calls that `ends` need, each operator through its own lowering."""
    graph = Graph(device)
    handles: dict[int, Handle] = {}  # id of a Lazy
    by_call: dict[int, list[Handle]] = {}

    def handle(x: Lazy) -> Handle:
        if id(x) not in handles:
            if isinstance(x.origin, Source):
                handles[id(x)] = _source_handle(graph, x)
            else:
                handles[id(x)] = by_call[id(x.origin)][x.index]
        return handles[id(x)]

    for call in _needed(calls, ends):
        inputs = [handle(x) for x in call.args]
        emit = Recorder(graph, call.op.name, call.line, inputs)
        given = [Spec(x.shape, x.dtype) for x in call.args]
        if call.op.takes_formula(device, given, call.static):
            made = emit.formula(call.op, inputs, call.specs, call.static)
        else:
            made = call.op.lower(emit, *inputs, **call.static)  # type: ignore[misc]
        made = [made] if isinstance(made, Handle) else list(made)
        for spec, h in zip(call.specs, made, strict=True):
            assert spec == Spec(h.layout.shape, h.layout.dtype), (call.op.name, spec, h)
        by_call[id(call)] = made
    for x in ends:
        graph.results.append(_owned(graph, handle(x)))
    for h in graph.results:
        graph.slots[h.slot].kept = True
    return graph


def _source_handle(graph: Graph, x: Lazy) -> Handle:
    """A slot that exists already. An argument or state is seen through the layout it had
    when the function was traced, which the guards hold it to."""
    source = x.origin
    seen = (
        source.layout
        if source.layout is not None
        else layout(x.shape, x.dtype, x.device)
    )
    nbytes = seen.size * graph.device.backend.itemsize(seen.dtype)
    return Handle(graph.slot(nbytes, source), seen)


def _needed(calls: Sequence[Call], ends: Sequence[Lazy]) -> list[Call]:
    """The calls that the ends come from, in order."""
    needed = {id(x.origin) for x in ends}
    kept = []
    for call in reversed(calls):
        if id(call) in needed:
            kept.append(call)
            needed.update(id(x.origin) for x in call.args)
    return kept[::-1]


def _owned(graph: Graph, h: Handle) -> Handle:
    """The result in a slot of its own, contiguous: no view of a state or of another result
    leaves a replay, since its memory will be written again."""
    taken = any(h.slot == r.slot for r in graph.results)
    whole = h.layout.contiguous and h.layout.offset == 0
    fresh = graph.slots[h.slot].source is None and not taken and whole
    size = h.layout.size * graph.device.backend.itemsize(h.layout.dtype)
    if fresh and graph.slots[h.slot].nbytes == size:
        return h
    emit = Recorder(graph, "copy", "result", [h])
    made = emit.empty(h.layout.shape, h.layout.dtype)
    emit.copy(h, made)
    return made
