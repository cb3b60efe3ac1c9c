"""How fold.cu is launched."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div, index_type


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """A thread for each result."""
    n = words[0]
    if n == 0:
        return Plan(())
    index = index_type([n, words[1] * prod(words[4:8])], [], [], words[12])
    grid = (ceil_div(n, 128), 1, 1)
    return Plan(
        (Step("fold", grid, 128, (0, 1), tuple(words), (("PN_INDEX", index),)),)
    )
