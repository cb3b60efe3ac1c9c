"""How pool.cu is launched."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div, index_type


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """A thread for each result."""
    planes, x, y = words[0], prod(words[1:4]), prod(words[4:7])
    if planes * y == 0:
        return Plan(())
    index = index_type([planes * max(x, y)], [], [], words[19])
    grid = (ceil_div(planes * y, 128), 1, 1)
    return Plan(
        (Step("pool", grid, 128, (0, 1), tuple(words), (("PN_INDEX", index),)),)
    )
