"""Which entry of scatter.cu a launch takes: who owns which elements of the result."""

from __future__ import annotations

from collections.abc import Sequence

from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div, index_type

LANES = 8192  # threads that walk all j by themselves: as many keep a GPU busy
BLOCKS = 1024  # owners


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """One launch. Every element of the result has one owner."""
    outer, count, inner, size, offset, *steps = words[:8]
    if outer * count * inner == 0:
        return Plan(())
    total = outer * max(size, count) * inner
    index = max(
        index_type([total], [outer, count, inner], steps, offset),
        index_type([total], [outer, count, inner], words[9:12], words[8]),
    )
    lanes = outer * inner
    if lanes >= LANES or count <= 8 or size == 0:
        defines = {"PN_STEP_lanes": 1, "PN_INDEX": index}
        return _one("lanes", ceil_div(lanes, 128), words, defines)
    across = 1
    if words[11] == 0:
        across = min(128, 1 << (inner - 1).bit_length())
    groups = outer * ceil_div(inner, across)
    rows = max(128 // across, ceil_div(size * groups, BLOCKS))
    defines = {"PN_STEP_owners": 1, "PN_INDEX": index, "PN_ACROSS": across}
    return _one("owners", groups * ceil_div(size, rows), (*words, rows), defines)


def _one(entry: str, blocks: int, words: Sequence[int], defines: dict) -> Plan:
    grid, operands = (blocks, 1, 1), (0, 1, 2)
    return Plan(
        (Step(entry, grid, 128, operands, tuple(words), tuple(defines.items())),)
    )
