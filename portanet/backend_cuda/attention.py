"""Tiles of attention.cu: one launch forward; backward the statistics of rows, then the
gradient of the queries, then those of keys and values.

What decides is sizes and strides; a GPU with less than 72 KiB of shared memory a block gets
narrower tiles of the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..dtypes import bool_
from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div

THREADS = 128
ALIGNED = 38  # the word that says whether rows lie in pieces
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

    def shared(self, owns: int, itemsize: int) -> int:
        """Bytes of the slices: so many of the own side, and two of the other."""
        pitch = self.tx * self.on + 16 // itemsize
        return (owns * self.own + 2 * self.other) * pitch * itemsize


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """The steps of `forward` or `backward`."""
    batch, heads, groups, queries, keys, width, values = words[:7]
    is_forward = program.options[0] == "forward"
    itemsize = program.outputs[0].compute.itemsize
    inputs = len(program.outputs)
    rest = inputs + (3 if is_forward else 6)
    defines, extra = _filter(program, rest, 28 if is_forward else 32)
    room = (0,) * (ALIGNED - len(words))
    given = (*words, *room, int(_is_aligned(words, is_forward, 16 // itemsize)))

    def step(name, tile, owns, rows, count, most, operands) -> Step:
        shared = tile.shared(owns, itemsize)
        if shared > gpu.shared:
            tile = tile._replace(other=tile.other // 2)
            shared = tile.shared(owns, itemsize)
        blocks = batch * count * ceil_div(rows, tile.own)
        grid = (blocks, ceil_div(most, tile.columns), 1)
        named = ((f"PN_STEP_{name}", 1), *_macros(tile), *defines)
        return Step(name, grid, THREADS, operands, given, named, shared)

    if is_forward:
        plain = len(program.inputs) == 3
        tile = _forward(itemsize, max(width, values), batch * heads, queries, plain)
        operands = tuple(range(inputs + 3)) + extra
        made = step("forward", tile, 1, queries, heads, values, operands)
        return Plan((made,))
    tile = _backward(itemsize, max(width, values))
    dq, dk, dv, dy, y, lse, q, k, v = range(9)
    temporary = len(program.outputs) + len(program.inputs)
    rows = batch * heads * queries
    first = Step(
        "statistics",
        (ceil_div(rows, THREADS // 32), 1, 1),
        THREADS,
        (temporary, dy, y, lse),
        given,
        (("PN_STEP_statistics", 1), *_macros(Tile(16, 8, 4, 1, 64)), *NO_FILTER),
    )
    reads = (temporary, dy, q, k, v, *extra)
    second = step("queries", tile, 2, queries, heads, width, (dq, *reads))
    most = max(width, values)
    third = step("keys", tile, 2, keys, groups, most, (dk, dv, *reads))
    return Plan((first, second, third), (2 * itemsize * rows,))


def _macros(tile: Tile) -> tuple[tuple[str, int], ...]:
    sizes = zip(("TX", "TM", "ON", "NS", "OTHER"), tile, strict=True)
    return tuple((f"PN_{k}", v) for k, v in sizes)


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
