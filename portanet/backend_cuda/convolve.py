"""Which entry of convolve.cu a launch takes: its tile, and whether the sum is split."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..program import Program
from .matmul import Tile, splits_of
from .plan import Gpu, Plan, Step, ceil_div, index_type

# Rows of a tile are channels, of which there may be few; columns are positions. By bytes
# of a sum. Addresses take registers, so each multiprocessor has one block at least.
TILES = {
    4: (
        Tile(128, 128, 8, 8, 8, 1),
        Tile(64, 128, 8, 8, 8, 1),
        Tile(32, 128, 8, 4, 8, 1),
    ),
    8: (Tile(64, 64, 8, 4, 4, 1), Tile(32, 64, 8, 4, 4, 1)),
}
FEWEST = 8  # rows that a tile is worth it for


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """One launch; two if the sum is split."""
    batch, groups, channels, rows = words[:4]
    x, y, taps = (prod(words[i : i + 3]) for i in (4, 7, 10))
    m, n, k = {
        "forward": (rows, batch * y, channels * taps),
        "input": (channels, batch * x, rows * taps),
        "weight": (rows, channels * taps, batch * y),
    }[program.options[0]]
    outputs = groups * m * n
    if outputs == 0:
        return Plan(())
    defines: dict[str, int | str] = {}
    if m < FEWEST:
        entry, threads, pieces, step = "each", 128, ceil_div(outputs, 128), 1
    else:
        tiles = TILES[program.outputs[0].compute.itemsize]
        tile = next((t for t in tiles if 4 * m >= 3 * t.bm), tiles[-1])
        entry, threads, step = "tile", tile.threads, tile.bk
        pieces = groups * tile.count(m, n)
        defines = tile.defines()
    splits = splits_of(pieces, k)
    chunk = max(step * ceil_div(k, step * splits), 1)
    splits = max(ceil_div(k, chunk), 1)
    blocks = pieces * splits if entry == "tile" else ceil_div(outputs * splits, 128)
    cut = (splits, chunk, m, n, k, *words)
    sizes = [batch * groups * max(rows * y, channels * x), outputs, k]
    index = index_type(
        [*sizes, groups * rows * channels * taps], [], [], max(words[22:])
    )
    given = {
        f"PN_STEP_{entry}": 1,
        "PN_INDEX": index,
        "PN_SPLIT": int(splits > 1),
        "PN_TAPS": ", ".join(map(str, words[10:13])),
        "PN_STRIDE": ", ".join(map(str, words[13:16])),
        "PN_DILATION": ", ".join(map(str, words[19:22])),
        **defines,
    }
    operands = (0, 1, 2) if splits == 1 else (3, 1, 2)
    first = Step(entry, (blocks, 1, 1), threads, operands, cut, tuple(given.items()))
    if splits == 1:
        return Plan((first,))
    del given[f"PN_STEP_{entry}"]
    given |= {"PN_STEP_combine": 1, "PN_SPLIT": 0}
    grid = (ceil_div(outputs, 256), 1, 1)
    second = Step("combine", grid, 256, (0, 3), (splits, outputs), tuple(given.items()))
    size = program.outputs[0].compute.itemsize
    return Plan((first, second), (splits * outputs * size,))
