"""Passes: the same work done once, copies that change nothing, and work nobody reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..arrays import Handle
from ..program import Program
from ..scalars import Expression, finish, Builder
from .absorb import emit
from .graph import Graph, Work
from .walk import is_whole


def rename(graph: Graph, new: dict[int, int]) -> None:
    """Read and write other slots."""
    if not new:
        return

    def moved(handles):
        return [
            Handle(new[h.slot] if h.slot in new else h.slot, h.layout) for h in handles
        ]

    for w in graph.work:
        w.ins, w.outs = moved(w.ins), moved(w.outs)


def share_common(graph: Graph) -> None:
    """Work that is the same as earlier work, on the same inputs, is not done again."""
    writers = graph.writers()
    known: dict[Any, Work] = {}
    new: dict[int, int] = {}
    kept = []
    for w in graph.work:
        w.ins = [Handle(new.get(h.slot, h.slot), h.layout) for h in w.ins]
        slots = [h.slot for h in (*w.outs, *w.ins)]
        once = all(len(writers.get(s, ())) <= 1 for s in slots)
        if not once or any(graph.slots[h.slot].kept for h in w.outs):
            kept.append(w)
            continue
        before = known.setdefault(_key(w), w)
        if before is w:
            kept.append(w)
        else:
            for a, b in zip(w.outs, before.outs, strict=True):
                new[a.slot] = b.slot
    graph.work = kept


def _key(w: Work) -> Any:
    what = (w.program, w.words) if w.expression is None else str(w.expression)
    return what, w.row, tuple(w.ins), tuple(h.layout for h in w.outs)


def drop_copies(graph: Graph) -> None:
    """A copy of a whole result in its own order and type is that result."""
    writers = graph.writers()
    new: dict[int, int] = {}
    gone = set()
    for i, w in enumerate(graph.work):
        if not _copies(w) or len(writers[w.outs[0].slot]) != 1:
            continue
        x, y = new.get(w.ins[0].slot, w.ins[0].slot), w.outs[0].slot
        a, b = graph.slots[x], graph.slots[y]
        if a.nbytes != b.nbytes or any(k > i for k in writers.get(x, ())):
            continue
        if not b.kept:
            new[y] = x
        elif a.source is None and not a.kept and x == w.ins[0].slot:
            new = {k: (y if v == x else v) for k, v in new.items()}
            new[x] = y
            writers[y] = writers.get(x, [])
        else:
            continue
        gone.add(i)
    graph.work = [w for i, w in enumerate(graph.work) if i not in gone]
    rename(graph, new)


def _copies(w: Work) -> bool:
    if w.expression is None or w.expression.instructions or len(w.outs) != 1:
        return False
    if len(w.ins) != 1:
        return False
    x, y = w.ins[0].layout, w.outs[0].layout
    return x.dtype is y.dtype and x.size == y.size and is_whole(x) and is_whole(y)


def drop_unread(graph: Graph) -> None:
    """Forget work, and outputs of work, that nobody reads."""
    needed = {h.slot for h in graph.results}
    able = getattr(graph.device.backend, "leaves_out", ())
    kept = []
    for w in reversed(graph.work):
        used = [h.slot in needed for h in w.outs]
        if not any(used) and not w.can_fault:
            continue
        if w.expression is not None and any(used) and not all(used):
            _keep_outputs(w, [k for k, u in enumerate(used) if u])
        elif w.program is not None and w.program.kernel in able:
            w.program = _without(w.program, used)
        needed.update(h.slot for h in w.ins)
        kept.append(w)
    graph.work = kept[::-1]


def _without(program: Program, used: list[bool]) -> Program:
    """A kernel that does not compute what nobody reads, where it knows how."""
    cell, way = program.options
    if way == "backward" and not used[1]:
        return replace(program, options=(cell, "inputs"))
    return program


def _keep_outputs(w: Work, keep: list[int]) -> None:
    if not w.can_fault:
        new = prune_outputs(w, keep)
        w.outs, w.ins, w.expression = new.outs, new.ins, new.expression


def prune_outputs(w: Work, keep: list[int]) -> Work:
    """Elementwise work that makes only some of its outputs."""
    old = w.expression
    assert old is not None
    ends = tuple(old.outputs[k] for k in keep)
    made = w.but(outs=[w.outs[k] for k in keep])
    prune_inputs(made, Expression(old.inputs, old.instructions, ends))
    return made


def prune_inputs(w: Work, expression: Expression) -> None:
    """Give w the expression, without instructions or inputs that nothing reads."""
    builder = Builder(expression.inputs)
    whole = w.but(expression=expression)
    short = finish(builder, emit(builder, whole, range(len(expression.inputs))))
    read = {o for i in short.instructions for o in i.operands} | set(short.outputs)
    keep = [i for i in range(len(w.ins)) if i in read]
    builder = Builder([expression.inputs[i] for i in keep])
    at = {i: k for k, i in enumerate(keep)}
    inputs = [at.get(i, 0) for i in range(len(expression.inputs))]
    w.expression = finish(builder, emit(builder, w.but(expression=short), inputs))
    w.ins = [w.ins[i] for i in keep]
