"""How normalise.cu is launched: threads of a row, blocks of a channel.

What decides is sizes and alignment, never the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div

PIECE = 4096  # elements of a plane that a warp takes at a time, as in normalise.cu
THREADS = 256  # of a block that goes over channels
BLOCKS = 1024  # enough to fill any GPU
LEAST = 8  # pieces worth a block: one for each warp
KEPT = 128  # bytes of a row of x that a thread keeps, and as many of g


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """One step over rows; else sums, their second part, the gradient."""
    images, rows, n = words[:3]
    (which,) = program.options
    itemsize = program.inputs[0].itemsize
    whole = {"rows_slope": 3, "channels_slope": 2}.get(which, 1)
    vector = math.gcd(16 // itemsize, n, *words[5 : 5 + whole])
    given = (*words, *(0,) * (10 - len(words)))
    if which == "rows_slope":
        return Plan((_rows(given, vector, itemsize),))
    pieces = images * ceil_div(n, PIECE)
    everywhere = (ceil_div(rows * pieces, THREADS // 32), 1, 1)

    def step(name, grid, threads, operands, each=0) -> Step:
        defines = ((f"PN_STEP_{name}", 1), ("PN_V", vector))
        return Step(name, grid, threads, operands, (*given, each), defines)

    wanted = max(LEAST, ceil_div(pieces * rows, BLOCKS))
    each = ceil_div(wanted, LEAST) * LEAST
    blocks = ceil_div(pieces, each)
    sums, few = (blocks * rows, 1, 1), (ceil_div(rows, 128), 1, 1)
    if which == "moments":
        first = step("moments", sums, THREADS, (3, 2), each)
        second = step("moments_second", few, 128, (0, 1, 3), blocks)
        return Plan((first, second), (3 * itemsize * blocks * rows,))
    y, gh_sum, g_sum, g, x, w, mean, var, parts = range(9)
    return Plan(
        (
            step("slope_sums", sums, THREADS, (parts, g, x, mean), each),
            step("slope_second", few, 128, (gh_sum, g_sum, parts, var), blocks),
            step("slope", everywhere, THREADS, (y, gh_sum, g_sum, g, x, w, mean, var)),
        ),
        (2 * itemsize * blocks * rows,),
    )


def _rows(given: Sequence[int], vector: int, itemsize: int) -> Step:
    """A block a stretch: teams of a warp where a row fits its registers, else one team."""
    _, rows, n, _, stretch = given[:5]
    most = KEPT // itemsize // vector
    for threads in (32, 128, 256):
        packs = ceil_div(n, threads * vector)
        if packs <= most:
            break
    else:
        threads, packs = 512, 0
    defines = (("PN_STEP_rows_slope", 1), ("PN_T", threads), ("PN_PACKS", packs))
    defines = (*defines, ("PN_V", vector))
    grid = (ceil_div(rows, stretch), 1, 1)
    operands = tuple(range(6))
    return Step("rows_slope", grid, max(threads, 128), operands, (*given, 0), defines)
