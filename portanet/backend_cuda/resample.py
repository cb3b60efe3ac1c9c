"""How resample.cu is launched."""

from __future__ import annotations

from collections.abc import Sequence

from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div, index_type


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """A thread for each result."""
    n, outer, _, inner, size, _, offset = words[:7]
    if n == 0:
        return Plan(())
    index = index_type([n, outer * inner * size], [], [], offset)
    grid, operands = (ceil_div(n, 128), 1, 1), (0, 1, 2, 3)
    defines = (("PN_INDEX", index),)
    return Plan((Step("resample", grid, 128, operands, tuple(words), defines),))
