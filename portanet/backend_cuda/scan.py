"""Which entry of scan.cu a launch takes, and how a long row is cut."""

from __future__ import annotations

from collections.abc import Sequence

from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div, index_type

BLOCKS = 256  # enough to be worth cutting rows for
LEAST = 8192  # elements of a chunk


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """A thread or a block for each row; several blocks for rows that are few and long."""
    outer, n, inner, offset, *steps = words[:7]
    rows = outer * inner
    if rows * n == 0:
        return Plan(())
    index = index_type([rows * n + 1024], [outer, n, inner], steps, offset)
    if n <= 64 or rows >= 8192:
        whole = (*words, 1, n)
        return Plan((_step("lanes", ceil_div(rows, 128), 128, (0, 1), whole, index),))
    chunk = n
    if rows < BLOCKS:
        chunk = max(LEAST, 1024 * ceil_div(n * rows, 1024 * BLOCKS))
    chunks = ceil_div(n, chunk)
    cut = (*words, chunks, chunk)
    if chunks == 1:
        return Plan((_step("rows", rows, 256, (0, 1), cut, index),))
    first = _step("totals", rows * chunks, 256, (2, 1), cut, index)
    second = _step("rows_second", rows * chunks, 256, (0, 1, 2), cut, index)
    size = program.outputs[0].compute.itemsize
    if program.options[0].startswith("arg"):  # a value and its place
        size = 2 * max(4, program.inputs[0].compute.itemsize)
    return Plan((first, second), (rows * chunks * size,))


def _step(entry, blocks, threads, operands, words, index) -> Step:
    defines = ((f"PN_STEP_{entry}", 1), ("PN_INDEX", index))
    return Step(entry, (blocks, 1, 1), threads, operands, words, defines)
