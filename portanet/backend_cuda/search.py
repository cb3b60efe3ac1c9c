"""The one entry of search.cu."""

from __future__ import annotations

from collections.abc import Sequence

from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """A thread for each element of the result."""
    if words[0] == 0:
        return Plan(())
    grid = (ceil_div(words[0], 256), 1, 1)
    return Plan((Step("search", grid, 256, (0, 1, 2), tuple(words)),))
