"""A plan: built launches in order, the buffers they run on, and what is assigned after."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..arrays import Array, collapse
from ..arrays import _mode as mode_of
from ..program import Program
from . import fold, fuse, memory
from .graph import Graph, Work


def optimise(graph: Graph) -> None:
    """The passes, in order."""
    fold.fold_numbers(graph)
    fuse.fuse(graph, getattr(graph.device.backend, "max_operands", 7))


def elementwise_program(w: Work) -> tuple[Program, list[int]]:
    """The program and the words of elementwise work."""
    shape = w.outs[0].layout.shape
    layouts = [h.layout for h in w.outs] + [h.layout.expanded(shape) for h in w.ins]
    sizes, strides = collapse(shape, [x.strides for x in layouts])
    modes = "".join(mode_of(sizes, s) for s in strides)
    rank = len(sizes) if "v" in modes else 0
    words = [math.prod(shape), *(x.offset for x in layouts)]
    if rank:
        words += sizes
        for mode, s in zip(modes, strides, strict=True):
            words += s if mode == "v" else ()
    program = Program(
        "elementwise",
        tuple(h.layout.dtype for h in w.outs),
        tuple(h.layout.dtype for h in w.ins),
        (),
        w.expression,
        modes,
        rank,
        w.label,
    )
    return program, words


def exclusive(x: Array) -> Any:
    """The buffer of a state's array, if the state alone holds it, else None."""
    buffer = x.buffer
    # The array: its tensor, the argument here, getrefcount's own. The buffer: its array, the
    # local name, getrefcount's own.
    alone = sys.getrefcount(x) <= 3 and sys.getrefcount(buffer) <= 3
    return buffer if alone else None


class Plan:
    """What a traced function has become. Call `run(arguments)` with the tensors."""

    def __init__(self, graph: Graph, replaced: dict[int, Any] | None = None):
        """`replaced`: number of a result -> the source of the state that it is assigned to."""
        backend = graph.device.backend
        self.graph, self.backend = graph, backend
        self.memory = memory.plan(graph)
        self.lock = threading.Lock()
        self.launches: list[tuple[Callable, tuple[int, ...]]] = []
        self.programs: list[Program] = []
        for w in graph.work:
            program, words = (
                (w.program, w.words) if w.expression is None else elementwise_program(w)
            )
            slots = tuple(h.slot for h in (*w.outs, *w.ins))
            self.programs.append(program)  # type: ignore[arg-type]
            self.launches.append((backend.build(program, tuple(words)), slots))
        self.fixed: list[Any] = [None] * len(graph.slots)
        blocks = [backend.alloc(n) for n in self.memory.sizes]
        for slot, block in self.memory.block_of.items():
            self.fixed[slot] = blocks[block]
        self.arguments: list[tuple[int, int]] = []  # slot, number of the argument
        self.states: list[tuple[int, Callable, Any]] = []  # slot, where it is, its layout
        for i, slot in enumerate(graph.slots):
            if slot.source is None:
                continue
            if slot.source.kind == "argument":
                self.arguments.append((i, slot.source.index))
            elif slot.source.kind == "constant":
                self.fixed[i] = slot.source.get().buffer  # type: ignore[misc]
            else:
                self.states.append((i, slot.source.get, slot.source.layout))  # type: ignore[arg-type]
        self.made = [h.slot for h in graph.results]
        self.sizes = [graph.slots[h.slot].nbytes for h in graph.results]
        self.layouts = [h.layout for h in graph.results]
        self.shared = self._find_shared(replaced or {})
        sequence = getattr(backend, "sequence", None)
        self.play = sequence(self.launches, len(graph.slots)) if sequence else self._play

    def _find_shared(self, replaced: dict[int, Any]) -> dict[int, Callable]:
        """Result -> where its state is, for those that may be written in place."""
        if not getattr(self.backend, "writes_in_place", False):
            return {}
        slots = {id(s.source): i for i, s in enumerate(self.graph.slots) if s.source}
        pairs = {
            self.made[i]: slots[id(source)]
            for i, source in replaced.items()
            if id(source) in slots
        }
        safe = memory.in_place(self.graph, pairs)
        return {
            i: source.get for i, source in replaced.items() if self.made[i] in safe
        }

    def _play(self, buffers: Sequence[Any]) -> None:
        for launch, slots in self.launches:
            launch(*[buffers[i] for i in slots])

    def scratch(self, arguments: Sequence[Any]) -> list[Any]:
        """Buffers to run single launches on: results go to memory of their own."""
        buffers = self._buffers(arguments)
        for slot, nbytes in zip(self.made, self.sizes, strict=True):
            buffers[slot] = self.backend.alloc(nbytes)
        return buffers

    def _buffers(self, arguments: Sequence[Any]) -> list[Any]:
        buffers = list(self.fixed)
        for slot, index in self.arguments:
            buffers[slot] = arguments[index].value.buffer
        for slot, get, _ in self.states:
            buffers[slot] = get().buffer
        return buffers

    def run(self, arguments: Sequence[Any]) -> list[Array]:
        """Play the launches; the results are fresh arrays."""
        alloc = self.backend.alloc
        with self.lock:
            buffers = self._buffers(arguments)
            for i, slot in enumerate(self.made):
                get = self.shared.get(i)
                buffer = None if get is None else exclusive(get())
                buffers[slot] = alloc(self.sizes[i]) if buffer is None else buffer
            self.play(buffers)
        made = zip(self.made, self.layouts, strict=True)
        return [Array(buffers[slot], seen) for slot, seen in made]
