"""How random.cu is launched."""

from __future__ import annotations

from collections.abc import Sequence

from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """A thread for each block of four words, and one at least, for the state."""
    grid = (max(1, ceil_div(words[1], 256)), 1, 1)
    return Plan((Step("random", grid, 256, (0, 1, 2), tuple(words)),))
