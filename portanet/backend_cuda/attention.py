"""Tiles of attention.cu: one launch forward; backward the statistics of rows, then the
gradient of the queries, then those of keys and values.

What decides is sizes, strides and the kind of GPU: 16 bits run on tensor cores from Ampere
on, and a GPU with less shared memory gets narrower tiles of the other side.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from ..dtypes import bool_
from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div

THREADS = 128
ALIGNED = (
    38  # the word that says whether rows lie in pieces; statistics of a head follow
)
NO_FILTER = (("PN_MASK", 0), ("PN_DROPS", 0))
ENOUGH = 256  # blocks that keep a GPU busy; with fewer, tiles are halved


class Tile(NamedTuple):
    """What attention.cu is compiled for."""

    tx: int  # threads that share a row
    tm: int  # rows of a thread
    on: int  # columns of a slice that a thread sums
    ns: int  # slices of columns that a block sums
    other: int  # rows of the other side at a time

    @property
    def own(self) -> int:
        return THREADS // self.tx * self.tm

    @property
    def columns(self) -> int:
        return self.tx * self.on * self.ns

    @property
    def threads(self) -> int:
        return THREADS

    def shared(self, owns: int, itemsize: int) -> int:
        """Bytes of the slices: so many of the own side, and two of the other."""
        pitch = self.tx * self.on + 16 // itemsize
        return (owns * self.own + 2 * self.other) * pitch * itemsize


class TensorTile(NamedTuple):
    """What attention_mma.cuh is compiled for."""

    warps: int
    mt: int  # times 16 rows of a warp
    other: int  # rows of the other side at a time
    width: int  # columns of q and k
    values: int  # and of v and dy, both multiples of 16
    blocks: int = 2  # that a multiprocessor holds

    @property
    def own(self) -> int:
        return 16 * self.mt * self.warps

    @property
    def columns(self) -> int:
        return max(self.width, self.values)

    @property
    def threads(self) -> int:
        return 32 * self.warps

    def shared(self, owns: int, itemsize: int) -> int:
        """Bytes of rows: of the own side those of scores, or also those of dp; of the other
        side two stages; backward the statistics of queries, whichever side that is."""
        pitches = (2 * self.width + 16, 2 * self.values + 16)
        rows = self.own * sum(pitches[:owns]) + 2 * self.other * sum(pitches)
        return rows + (8 * max(self.own, 2 * self.other) if owns == 2 else 0)


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """The steps of `forward` or `backward`."""
    batch, heads, groups, queries, keys, width, values = words[:7]
    is_forward = program.options[0] == "forward"
    itemsize = program.outputs[0].compute.itemsize
    inputs = len(program.outputs)
    rest = inputs + (3 if is_forward else 6)
    has_tensors = _has_tensors(program, words, gpu)
    is_aligned = _is_aligned(words, is_forward, 8 if has_tensors else 16 // itemsize)
    # Those of a head, up to whole tiles.
    statistics = 64 * ceil_div(queries, 64) if has_tensors else queries
    room = (0,) * (ALIGNED - len(words))
    given = (*words, *room, int(is_aligned), statistics)
    defines, extra = _filter(program, rest, 28 if is_forward else 32)
    if has_tensors:
        # Only scores that a positive scale multiplies have the largest where they have it
        # unscaled, and below a tiny one what is masked would not stay far below.
        scale = struct.unpack("=f", struct.pack("=I", words[10]))[0]
        scales = defines[0] != ("PN_MASK", 0) or scale < 2**-20
        defines += (("PN_WHOLE", int(is_aligned)), ("PN_ARCH", gpu.arch))
        defines += (("PN_SCALES", int(scales)),)

    def step(name, owns, rows, count, most, operands) -> Step:
        choose = _tensor_tile if has_tensors else _tile
        tile = choose(name, program, words, gpu)
        grid = (
            batch * count * ceil_div(rows, tile.own),
            ceil_div(most, tile.columns),
            1,
        )
        named = ((f"PN_STEP_{name}", 1), *_macros(tile), *defines)
        shared = tile.shared(owns, itemsize)
        return Step(name, grid, tile.threads, operands, given, named, shared)

    if is_forward:
        operands = tuple(range(inputs + 3)) + extra
        return Plan((step("forward", 1, queries, heads, values, operands),))
    dq, dk, dv, dy, y, lse, q, k, v = range(9)
    temporary = len(program.outputs) + len(program.inputs)
    rows = batch * heads * statistics
    first = Step(
        "statistics",
        (ceil_div(rows, THREADS // 32), 1, 1),
        THREADS,
        (temporary, dy, y, lse),
        given,
        (
            ("PN_STEP_statistics", 1),
            ("PN_UNIT", "1.44269504" if has_tensors else 1),
            *_macros(Tile(16, 8, 4, 1, 64)),
            *NO_FILTER,
        ),
    )
    reads = (temporary, dy, q, k, v, *extra)
    second = step("queries", 2, queries, heads, width, (dq, *reads))
    third = step("keys", 2, keys, groups, max(width, values), (dk, dv, *reads))
    return Plan((first, second, third), (2 * itemsize * rows,))


def _macros(tile: Tile | TensorTile) -> tuple[tuple[str, int], ...]:
    kind = ("PN_TENSOR", int(isinstance(tile, TensorTile)))
    return (kind, *((f"PN_{k.upper()}", v) for k, v in tile._asdict().items()))


def _filter(program: Program, rest: int, at: int) -> tuple[tuple, tuple[int, ...]]:
    """Macros for mask and dropout, whose words are from `at` on; the operands' numbers."""
    given = program.inputs[rest - len(program.outputs) :]
    has_mask = bool(given) and not given[0].is_integer
    drops = len(given) > has_mask
    kind = 0 if not has_mask else 1 if given[0] is bool_ else 2
    defines = (
        ("PN_MASK", kind),
        ("PN_MASK_AT", at),
        ("PN_M", f"PN_X{rest - len(program.outputs)}"),
        ("PN_DROPS", int(drops)),
        ("PN_STATE_AT", at + 5 * has_mask),
    )
    return defines, tuple(range(rest, rest + len(given)))


def _is_aligned(words: Sequence[int], is_forward: bool, lanes: int) -> bool:
    """Whether every row starts, and ends, at a piece of so many elements."""
    return not any(
        w % lanes for w in (*words[5:7], *words[16 : 28 if is_forward else 32])
    )


# By step and whether rows are wider than 64: times 16 rows of a warp, and rows of the other
# side, in the registers of two blocks of 4 warps; then the same with a mask or dropout.
TENSOR_TILES = {
    ("forward", False): ((2, 64), (2, 32)),
    ("forward", True): ((2, 32), (1, 32)),
    ("queries", False): ((2, 64), (2, 32)),
    ("queries", True): ((2, 32), (1, 32)),
    ("keys", False): ((2, 32), (1, 32)),
    ("keys", True): ((1, 64), (1, 16)),
}


def _has_tensors(program: Program, words: Sequence[int], gpu: Gpu) -> bool:
    """Whether this runs on tensor cores."""
    return (
        program.outputs[0].itemsize == 2 and gpu.arch >= 80 and max(words[5:7]) <= 128
    )


def _tensor_tile(
    name: str, program: Program, words: Sequence[int], gpu: Gpu
) -> TensorTile:
    batch, heads, groups, queries, keys = words[:5]
    width, values = (16 * ceil_div(n, 16) for n in words[5:7])
    owns = 1 if name == "forward" else 2
    is_filtered = len(program.inputs) > (3 if name == "forward" else 6)
    mt, other = TENSOR_TILES[name, max(width, values) > 64][is_filtered]
    tile = TensorTile(4, mt, other, width, values)

    def fits(tile: TensorTile) -> bool:
        """Whether a multiprocessor holds two blocks, each with 1 KiB of the driver's."""
        return 2 * (tile.shared(owns, 4) + 1024) <= gpu.shared + 1024

    if not fits(tile) and other > 32:
        tile = tile._replace(other=32)
    if mt == 2 and not fits(tile):
        tile = tile._replace(warps=8, mt=1, blocks=1)  # the same rows by more warps
        return tile if tile.shared(owns, 4) <= gpu.shared else tile._replace(warps=4)
    count, rows = (groups, keys) if name == "keys" else (heads, queries)
    if mt == 2 and batch * count * ceil_div(rows, tile.own) < gpu.multiprocessors:
        return tile._replace(mt=1)
    return tile


def _tile(name: str, program: Program, words: Sequence[int], gpu: Gpu) -> Tile:
    itemsize = program.outputs[0].compute.itemsize
    widest, is_forward = max(words[5:7]), name == "forward"
    if is_forward:
        plain = len(program.inputs) == 3
        tile = _forward(itemsize, widest, words[0] * words[1], words[3], plain)
    else:
        tile = _backward(itemsize, widest)
    if tile.shared(1 if is_forward else 2, itemsize) > gpu.shared:
        tile = tile._replace(other=tile.other // 2)
    return tile


def _forward(itemsize: int, widest: int, heads: int, queries: int, plain: bool) -> Tile:
    """Masks and dropout need registers of their own."""
    if itemsize == 8:
        return Tile(16, 4, 2, 1 if widest <= 32 else 2, 32)
    few = heads * ceil_div(queries, 128) < ENOUGH
    if widest > 64 or (few or not plain) and widest > 32:
        return Tile(16, 8 if plain else 4, 4, 1 if widest <= 64 else 2, 64)
    return Tile(8, 4 if few or not plain else 8, 4 if widest <= 32 else 8, 1, 64)


def _backward(itemsize: int, widest: int) -> Tile:
    if itemsize == 8:
        return Tile(16, 4, 2, 1 if widest <= 32 else 2, 32)
    if widest <= 32:
        return Tile(8, 4, 4, 1, 64)
    return Tile(16, 8, 4, 1, 64) if widest <= 64 else Tile(16, 4, 4, 2, 64)
