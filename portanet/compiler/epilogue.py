"""Pass: elementwise work on the result of a kernel is done before the result is stored.

A bias, an activation, a residual: each reads a product element by element, and would be a
launch that reads back what has just been written. The kernel takes its expression instead, and
stores what the expression makes, with the product itself only where somebody else reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..arrays import Handle, layout
from ..program import OWN_INPUTS
from ..scalars import Builder, Expression, finish
from . import cost
from .absorb import absorb
from .fuse import Groups
from .graph import Graph, Work
from .walk import is_whole

# So that the words fit the room that a text of WGSL has for them; deeper work is rare.
MAX_RANK = 8
RESULT = -1  # stands for the slot of what the kernel alone would store


def give_epilogues(
    graph: Graph, kernels: Collection[str], max_operands: int, left: Collection[int]
) -> None:
    """Join elementwise work to the `kernels` whose results it reads. Work that writes one of
    the slots `left` is left to a launch that updates many states at once."""
    if not any(_takes(w, kernels) for w in graph.work):
        return
    groups = Epilogues(graph, max_operands, 0, able=kernels, states=left)
    for i in range(len(graph.work)):
        groups.add(i)
    graph.work = groups.ordered()


def _takes(w: Work, kernels: Collection[str]) -> bool:
    """Whether the work's kernel may have an epilogue."""
    return w.program is not None and w.program.kernel in kernels


@dataclass
class Epilogues(Groups):
    """Groups of one kernel and what it has taken, or of elementwise work alone."""

    able: Collection[str] = ()  # kernels that take an epilogue
    states: Collection[int] = ()  # slots whose writers are left alone

    def _candidates(self, b: int) -> Iterable[int]:
        """Kernels that b reads from, the latest first."""
        if self.work[b].expression is None:
            return ()
        made = {
            self.find(k) for h in self.work[b].ins for k in self.writers.get(h.slot, ())
        }
        return sorted(made - {b}, reverse=True)

    def _joined(self, a: int, b: int) -> Work | None:
        p, w = self.work[a], self.work[b]
        if not _takes(p, self.able) or w.can_fault or w.row or p.size != w.size:
            return None
        if any(h.slot in self.states for h in w.outs) or not self._may_meet(a, b):
            return None
        mine = {h.slot for h in p.outs}
        if any(len(self.writers[s]) > 1 for s in mine) or self._clash(p, w):
            return None
        keep = [h for h in p.outs if self._still_read(h, w)]
        far = self.kernels[self.last[b]] > self.kernels[self.last[a]] + 1
        if far and not keep and cost.lingers(self.graph, p, self.left.__getitem__):
            return None
        made = with_epilogue(p, w, keep)
        if made is None or len(made.ins) + len(made.outs) > self.max_operands:
            return None
        return made


def with_epilogue(p: Work, w: Work, keep: list[Handle]) -> Work | None:
    """The kernel p with the elementwise work w on its results; `keep` are those of its
    results that are still stored. None where w reads them in another order than theirs."""
    assert p.program is not None
    made = absorb(w, _after(p), keep)
    if made is None or made.expression is None:
        return None
    results = [i for i, h in enumerate(made.ins) if h.slot == RESULT]
    if len(results) != 1 or made.size != p.size:
        return None
    if max(len(made.shape), len(p.shape)) > MAX_RANK:
        return None
    if not is_whole(made.ins[results[0]].layout.expanded(made.shape)):
        return None
    others = [i for i in range(len(made.ins)) if i != results[0]]
    expression = _reordered(made.expression, [*results, *others])
    ins = [*p.ins[:OWN_INPUTS], *(made.ins[i] for i in others)]
    return p.but(outs=made.outs, ins=ins, epilogue=expression, parts=made.parts)


def _after(p: Work) -> Work:
    """What p does after its kernel, as elementwise work on the kernel's result."""
    first = p.outs[0].layout
    expression = p.epilogue or Expression((first.dtype.compute,), (), (0,))
    result = layout(first.shape, expression.inputs[0], first.device)
    ins = [Handle(RESULT, result), *p.ins[OWN_INPUTS:]]
    return p.but(ins=ins, expression=expression, program=None, epilogue=None)


def _reordered(expression: Expression, order: list[int]) -> Expression:
    """The same of inputs in another order."""
    builder = Builder([expression.inputs[i] for i in order])
    values = [order.index(i) for i in range(len(order))]
    for j in expression.instructions:
        operands = tuple(values[o] for o in j.operands)
        values.append(builder.emit(j.name, j.dtype, operands, j.immediate).value)
    return finish(builder, [values[o] for o in expression.outputs])
