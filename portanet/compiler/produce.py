"""Pass: what only reductions read is computed where they read it.

The sum of a product over any axes is then one launch, and the product is never stored. It
runs after fusion, so that what else reads the same operands is one launch with it: a piece of
work is taken where it is gone then. Sums over the last axes are formulas already (`sums`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..arrays import Handle, layout
from ..dtypes import Dtype
from ..program import Program, combined_in
from ..scalars import Builder, Expression, finish
from . import cost
from .absorb import absorb, emit
from .graph import Graph, Producer, Work
from .inline import may_wait
from .share import prune_outputs
from .walk import is_whole

Produces = Callable[[Dtype, Sequence[int]], bool]
RESULT = -1  # stands for the slot of what is not stored
MAX_READERS = 4


def give_producers(graph: Graph, max_operands: int) -> None:
    """Take elementwise work into the reductions that alone read its results."""
    produces = getattr(graph.device.backend, "produces", None)
    if produces is None:
        return
    work: list[Work | None] = list(graph.work)
    writers, readers = graph.writers(), graph.readers()
    kernels = cost.kernels_before(graph.work)
    for i, p in reversed(list(enumerate(graph.work))):
        if not _may_vanish(graph, p, writers):
            continue
        at = [j for h in p.outs for j in readers.get(h.slot, [])]
        if not 0 < len(set(at)) == len(at) <= MAX_READERS:
            continue
        if not may_wait(graph, i, max(at), writers, readers, kernels):
            continue
        # Each reader makes the one result that it reads.
        one = [prune_outputs(p, [k]) if p.outs[1:] else p for k in range(len(p.outs))]
        pieces = [q for q in one for _ in readers.get(q.outs[0].slot, [])]
        taking = [graph.work[j] for j in at]
        made = _into_all(p, pieces, taking, max_operands, produces)
        if made is None:
            continue
        work[i] = None
        for h in p.ins:
            readers[h.slot] = [j for j in readers[h.slot] if j != i]
        for j, w in zip(at, made, strict=True):
            work[j] = graph.work[j] = w
            for slot in {h.slot for h in w.ins}:
                readers[slot] = sorted({*readers[slot], j})
    graph.work = [w for w in work if w is not None]


def _may_vanish(graph: Graph, p: Work, writers: dict[int, list[int]]) -> bool:
    """Several results only where reductions that make different ones go side by side."""
    if p.expression is None or p.row or p.can_fault:
        return False
    if len(p.outs) > 1 and not getattr(graph.device.backend, "mixes", False):
        return False
    for h in p.outs:
        alone = not graph.slots[h.slot].kept and len(writers[h.slot]) == 1
        dtype = h.layout.dtype
        if not alone or not is_whole(h.layout) or dtype is not dtype.compute:
            return False
    return True


def _into_all(
    p: Work,
    pieces: list[Work],
    readers: list[Work],
    max_operands: int,
    produces: Produces,
) -> list[Work] | None:
    """The readers, each with its piece of p taken in; None if one can't or it does not
    pay."""
    pairs = list(zip(readers, pieces, strict=True))
    if not _pays(p, pieces) or not all(_is_able(w, q, produces) for w, q in pairs):
        return None
    made = []
    for w, q in pairs:
        joined = _joined(w, q)
        if joined is None or len(joined.ins) + len(joined.outs) > max_operands:
            return None
        made.append(joined)
    return made


def _is_able(w: Work, p: Work, produces: Produces) -> bool:
    """Whether a reduction may compute what p makes, each element at most once."""
    program = w.program
    if program is None or program.kernel != "reduce" or program.copies:
        return False
    if program.options[0].startswith("arg") or p.size < w.words[0] * w.words[1]:
        return False
    return w.producer is not None or produces(p.outs[0].layout.dtype, w.words)


def _pays(p: Work, pieces: list[Work]) -> bool:
    """Whether making each piece where it is read costs no more than making all of them
    once, storing them, and reading each."""
    moved = cost.MOVE * p.size * (len(p.outs) + len(pieces))
    return sum(map(_work, pieces)) <= _work(p) + moved + cost.LAUNCH


def _work(p: Work) -> int:
    assert p.expression is not None
    return p.size * (cost.of(p.expression) + cost.MOVE * cost.varying(p))


def _joined(w: Work, p: Work) -> Work | None:
    if w.producer is None:
        assert w.program is not None and p.expression is not None
        ins = [Handle(h.slot, h.layout.expanded(p.shape)) for h in p.ins]
        made = Producer(_as_summed(p, w.program), p.shape)
        return w.but(ins=ins, producer=made, parts=[*p.parts, *w.parts])
    expression, shape = w.producer
    dtype = expression.dtype_of(expression.outputs[0])
    result = Handle(RESULT, layout(shape, dtype, p.outs[0].layout.device))
    alone = w.but(outs=[result], expression=expression, program=None, producer=None)
    made = absorb(alone, p)
    if made is None or made.expression is None:
        return None
    producer = Producer(made.expression, made.shape)
    return w.but(ins=made.ins, producer=producer, parts=made.parts)


def _as_summed(p: Work, program: Program) -> Expression:
    """What p makes, in the type that the reduction combines in."""
    assert p.expression is not None
    source, target = p.outs[0].layout.dtype, program.outputs[0].compute
    wanted = combined_in(program.options[0], source, target)
    builder = Builder(p.expression.inputs)
    (value,) = emit(builder, p, range(len(p.ins)))
    if builder.dtype_of(value) is not wanted:
        value = builder.emit("cast", wanted, (value,)).value
    return finish(builder, [value])
