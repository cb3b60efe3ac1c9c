"""What computing and moving elements costs, in units of about one addition an element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from ..scalars import Expression
from .graph import Graph, Work

# Of one instruction; what is not named here is 1.
INSTRUCTIONS = {
    "const": 0,
    "index": 0,
    "cast": 1,
    **dict.fromkeys(("div", "sqrt", "rsqrt"), 2),
    **dict.fromkeys(
        "exp expm1 log log1p log2 sin cos tan sinh cosh tanh erf sinpi cospi asin acos "
        "atan asinh acosh atanh".split(),
        10,
    ),
    **dict.fromkeys(("pow", "atan2", "floordiv", "mod"), 20),
}
MOVE = 2  # to read or write an element in memory
LAUNCH = 4096  # about a microsecond of one core
SLACK = 1 << 16  # bytes more that may stay alive for a launch less


def of(expression: Expression) -> int:
    """Of one element."""
    return sum(INSTRUCTIONS.get(i.name, 1) for i in expression.instructions)


def varying(w: Work) -> int:
    """How many inputs differ from element to element."""
    return sum(any(h.layout.expanded(w.shape).strides) for h in w.ins)


def kernels_before(work: Sequence[Work]) -> list[int]:
    """For each place, how many pieces of work before it are not elementwise."""
    return [0, *accumulate(w.expression is None for w in work)]


def lingers(graph: Graph, p: Work, readers: Callable[[int], int]) -> bool:
    """Whether more stays alive if p runs later: what only p reads is larger than what it
    makes. A long sum would otherwise wait for all of its terms."""
    slots = {h.slot for h in p.ins if readers(h.slot) == 1}
    read = sum(graph.slots[s].nbytes for s in slots if graph.slots[s].source is None)
    return read - sum(graph.slots[h.slot].nbytes for h in p.outs) > SLACK
