"""Pass: work that reads only what never changes runs once, when the plan is made."""

from __future__ import annotations

from ..arrays import Array
from .graph import Graph, Work, program_of
from .lazy import Source

MAX_BYTES = 1 << 20  # of a result that the plan keeps for as long as it lives


def hoist(graph: Graph) -> None:
    """Results of constants become constants, where the device runs what it is given."""
    if not getattr(graph.device.backend, "runs", True):
        return
    writers = graph.writers()
    kept = []
    for w in graph.work:
        if _is_constant(graph, w, writers):
            _run(graph, w)
        else:
            kept.append(w)
    graph.work = kept


def _is_constant(graph: Graph, w: Work, writers: dict[int, list[int]]) -> bool:
    if w.can_fault:
        return False
    for h in w.outs:
        slot = graph.slots[h.slot]
        if slot.kept or len(writers[h.slot]) > 1 or slot.nbytes > MAX_BYTES:
            return False
    sources = [graph.slots[h.slot].source for h in w.ins]
    return all(s is not None and s.kind == "constant" for s in sources)


def _run(graph: Graph, w: Work) -> None:
    backend = graph.device.backend
    program, words = program_of(w)
    buffers = [backend.alloc(graph.slots[h.slot].nbytes) for h in w.outs]
    inputs = [graph.slots[h.slot].source.get().buffer for h in w.ins]  # type: ignore
    backend.build(program, words)(*buffers, *inputs)
    for h, buffer in zip(w.outs, buffers, strict=True):
        made = Array(buffer, h.layout)
        graph.slots[h.slot].source = Source("constant", lambda x=made: x, h.layout)
