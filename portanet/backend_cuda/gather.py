"""Which entry of gather.cu a launch takes."""

from __future__ import annotations

from collections.abc import Sequence

from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div, index_type


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """Whole rows in pieces of 16 bytes where they lie so, else element by element."""
    outer, count, inner, size, offset, *steps = words[:8]
    n = outer * count * inner
    if n == 0:
        return Plan(())
    index = max(
        index_type([n], [outer, size, inner], steps, offset),
        index_type([n], [outer, count, inner], words[9:12], words[8]),
    )
    width = 16 // program.inputs[0].itemsize
    is_rows = words[11] == 0 and steps[2] == 1
    if is_rows and all(s % width == 0 for s in (inner, offset, *steps[:2])):
        defines = {"PN_STEP_rows": 1, "PN_INDEX": index, "PN_VECTOR": width}
        return _one("rows", n // width, words, defines)
    return _one("each", n, words, {"PN_STEP_each": 1, "PN_INDEX": index})


def _one(entry: str, threads: int, words: Sequence[int], defines: dict) -> Plan:
    grid = (ceil_div(threads, 256), 1, 1)
    operands = (0, 1, 2)
    return Plan(
        (Step(entry, grid, 256, operands, tuple(words), tuple(defines.items())),)
    )
