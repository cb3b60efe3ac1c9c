"""Which entries of convolve.cu a launch takes: its tile, whether the sum is split, and
tensor cores, before which the operands are laid channels last. What is a product of matrices
as it lies takes matmul.cu's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import NamedTuple

from ..program import Program
from . import matmul
from .matmul import (
    ENOUGH,
    STAGES,
    Tile,
    has_tensor_cores,
    slice_bytes,
    splits_of,
    tile_defines,
    with_epilogue,
)
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
WORDS = 25  # of a program, before those of its epilogue


@dataclass(frozen=True)
class Product:
    """The matrix product that a convolution is: r[i, j] = sum over l of a[i, l] b[l, j]."""

    which: str
    words: Sequence[int]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of i, j and l."""
        batch, groups, channels, rows = self.words[:4]
        x, y, taps = self.places
        return {
            "forward": (rows, batch * y, channels * taps),
            "input": (channels, batch * x, rows * taps),
            "weight": (rows, channels * taps, batch * y),
        }[self.which]

    @property
    def places(self) -> tuple[int, int, int]:
        """Of x and y, and taps."""
        x, y, taps = (prod(self.words[i : i + 3]) for i in (4, 7, 10))
        return x, y, taps

    @property
    def outputs(self) -> int:
        """Elements of the result."""
        m, n, k = self.sizes
        return self.words[1] * m * n

    @property
    def is_flat(self) -> bool:
        """Whether the first axis has one place and one tap."""
        return tuple(self.words[4:22:3]) == (1, 1, 1, 1, 0, 1)

    def defines(self, index: str) -> dict[str, int | str]:
        """The macros that all entries take."""
        return {
            "PN_INDEX": index,
            "PN_FLAT": int(self.is_flat),
            "PN_TAPS": _three(self.words[10:13]),
            "PN_STRIDE": _three(self.words[13:16]),
            "PN_DILATION": _three(self.words[19:22]),
        }


def _three(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """One launch; two if the sum is split. By tensor cores two that turn the operands come
    first. The last one applies the epilogue."""
    own = words[:WORDS]
    product = Product(program.options[0], own)
    if _is_of_matrices(program, product, gpu):
        return _matmul(program, words, gpu)
    made = _plain(program.without_epilogue, product, gpu)
    if not program.has_epilogue or not made.steps:
        return made
    return with_epilogue(program, made, words[WORDS:])


def _plain(program: Program, product: Product, gpu: Gpu) -> Plan:
    if product.outputs == 0:
        return Plan(())
    if has_tensor_cores(program, gpu) and _is_worth_turning(product):
        return _mma(program, product, gpu)
    return _tiled(program, product)


# ---- One tap and no stride: matrices of channels x places


def _is_plain(product: Product) -> bool:
    words, taps = product.words, product.places[2]
    is_whole = words[4:7] == words[7:10]
    return is_whole and (taps, *words[13:19]) == (1, 1, 1, 1, 0, 0, 0)


def _has_pieces(program: Program, product: Product) -> bool:
    """Whether rows of x and y start and end at pieces of 16 bytes."""
    piece = 16 // program.inputs[0].itemsize
    return not any(n % piece for n in (product.places[0], *product.words[22:25:2]))


def _is_of_matrices(program: Program, product: Product, gpu: Gpu) -> bool:
    """Whether matmul reads x and w, or y and w, where they lie, and for tensor cores rows
    of whole pieces."""
    least = min(*product.words[2:4], product.places[0])
    if product.which == "weight" or not _is_plain(product) or least < FEWEST:
        return False
    return not has_tensor_cores(program, gpu) or _has_pieces(program, product)


def _matmul(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """r[n, g] = w[g] x[n, g], or w[g]^T y[n, g], for each image and group."""
    batch, groups, channels, rows = words[:4]
    x, w_at = prod(words[4:7]), words[23]
    if program.options[0] == "forward":
        m, k, at, steps = rows, channels, words[22], (channels, 1)
    else:
        m, k, at, steps = channels, rows, words[24], (1, channels)
    axes = ((batch, 0, groups * k * x), (groups, m * k, k * x))
    shape = list(zip(*(axis for axis in axes if axis[0] > 1)))
    sizes = [batch * groups, m, x, k, len(shape[0]) if shape else 0]
    given = [*sizes, w_at, *steps, at, x, 1, *(n for part in shape for n in part)]
    options = program.options[1:]
    product = replace(program, kernel="matmul", options=options)
    made = matmul.plan(product, (*given, *words[WORDS:]), gpu)
    # The weight is the second input here, and the first factor there.
    first = len(program.outputs)
    exchanged = {first: first + 1, first + 1: first}
    steps = tuple(
        replace(
            step,
            operands=tuple(exchanged.get(i, i) for i in step.operands),
            of=product,
        )
        for step in made.steps
    )
    return Plan(steps, made.temporaries)


def _finished(
    program: Program,
    before: list[Step],
    step: Step,
    splits: int,
    temporaries: list[int],
) -> Plan:
    """The plan that ends with a step whose first operand is the result, or the last
    temporary, which has partial results, where the sum is split."""
    if splits == 1:
        return Plan((*before, step), tuple(temporaries))
    outputs, partial = step.words[-1], step.operands[0]
    size = program.outputs[0].compute.itemsize
    combine = Step(
        "combine",
        (ceil_div(outputs, 256), 1, 1),
        256,
        (0, partial),
        (splits, outputs),
        (("PN_STEP_combine", 1), ("PN_SPLIT", 0)),
    )
    return Plan((*before, step, combine), (*temporaries, splits * outputs * size))


def _tiled(program: Program, product: Product) -> Plan:
    """Without tensor cores."""
    (m, n, k), words, outputs = product.sizes, product.words, product.outputs
    batch, groups, channels, rows = words[:4]
    x, y, taps = product.places
    given: dict[str, int | str] = {}
    if m < FEWEST:
        entry, threads, pieces, step = "each", 128, ceil_div(outputs, 128), 1
    else:
        tiles = TILES[program.outputs[0].compute.itemsize]
        tile = next((t for t in tiles if 4 * m >= 3 * t.bm), tiles[-1])
        entry, threads, step = "tile", tile.threads, tile.bk
        pieces = groups * tile.count(m, n)
        given = tile.defines()
    splits = splits_of(pieces, k)
    chunk = max(step * ceil_div(k, step * splits), 1)
    splits = max(ceil_div(k, chunk), 1)
    blocks = pieces * splits if entry == "tile" else ceil_div(outputs * splits, 128)
    sizes = [batch * groups * max(rows * y, channels * x), splits * outputs, k]
    sizes.append(groups * rows * channels * taps)
    index = index_type(sizes, [], [], max(words[22:]))
    defines = {
        f"PN_STEP_{entry}": 1,
        "PN_SPLIT": int(splits > 1),
        **product.defines(index),
        **given,
    }
    made = Step(
        entry,
        (blocks, 1, 1),
        threads,
        (0 if splits == 1 else 3, 1, 2),
        (splits, chunk, m, n, k, *words, outputs),
        tuple(defines.items()),
    )
    return _finished(program, [], made, splits, [])


# ---- Tensor cores

# (bm, bn, wm, wn), a warp making wm x wn.
MMA_TILES = ((128, 128, 64, 32), (64, 128, 32, 64), (64, 64, 32, 32), (32, 128, 32, 32))
LONG = 2048  # terms of a sum for which a part's result is worth its way through memory
LEAST = 3  # channels: of fewer, what fills a piece of 16 bytes is most of it


def _is_worth_turning(product: Product) -> bool:
    batch, groups, channels, rows = product.words[:4]
    summed = rows if product.which == "input" else channels
    return product.sizes[0] >= FEWEST and summed >= LEAST


class Factors(NamedTuple):
    """A convolution as phases of one matrix product by tensor cores: m x n, over k."""

    m: int
    n: int
    k: int  # of one phase at most
    phases: int
    # Matrices to turn: of how many images and groups, rows, columns, rows filled, offset.
    turned: tuple[tuple[int, ...], ...]
    is_paired: bool  # two neighbours of the result lie at an even place
    is_of_points: bool  # the product of x and y as they lie, for the weights of one tap


def _factors(program: Program, product: Product) -> Factors:
    words = product.words
    batch, groups, channels, rows = words[:4]
    x, y, taps = product.places
    x_at, w_at, y_at = words[22:25]
    piece = 16 // program.inputs[0].itemsize
    c, o = piece * ceil_div(channels, piece), piece * ceil_div(rows, piece)
    turned_x = (batch, groups, channels, x, c, x_at)
    turned_y = (batch, groups, rows, y, o, y_at)
    m, n, k = product.sizes
    if product.which == "forward":
        turned = (turned_x, (groups * rows, 1, channels, taps, c, w_at))
        return Factors(m, n, c * taps, 1, turned, y % 2 == 0, False)
    if product.which == "input":
        turned = (turned_y, (1, groups, rows, channels * taps, o, w_at))
        stride = words[13:16]
        phases = prod(stride)
        n = batch * prod(ceil_div(s, t) for s, t in zip(words[4:7], stride))
        is_paired = phases == 1 and x % 2 == 0
        return Factors(m, n, o * taps, phases, turned, is_paired, False)
    if _is_plain(product) and _has_pieces(program, product):
        return Factors(m, n, k, 1, (), False, True)
    return Factors(m, c * taps, k, 1, (turned_x, turned_y), False, False)


def _tile(factors: Factors, groups: int) -> tuple[tuple[int, int, int, int], int]:
    """A tile, and its blocks: of long sums a large one, in parts, rather than a small one,
    which reads more."""
    m, n, k, phases = factors[:4]
    blocks = {
        tile: groups * phases * ceil_div(m, tile[0]) * ceil_div(n, tile[1])
        for tile in MMA_TILES
        if 4 * m >= 3 * tile[0] or tile is MMA_TILES[-1]
    }
    parts = max(k // LONG, 1)
    enough = (t for t, count in blocks.items() if count * parts >= ENOUGH)
    tile = next(enough, None) or max(blocks, key=lambda t: blocks[t])
    return tile, blocks[tile]


def _mma(program: Program, product: Product, gpu: Gpu) -> Plan:
    words, which, outputs = product.words, product.which, product.outputs
    batch, groups, channels, rows = words[:4]
    x, y, _ = product.places
    itemsize = program.inputs[0].itemsize
    stride, dilation = words[13:16], words[19:22]
    factors = _factors(program, product)
    m, n, k, _, turned, is_paired, is_of_points = factors
    tile, blocks = _tile(factors, groups)
    bm, bn, wm, wn = tile
    depth = 64 // itemsize
    splits = splits_of(blocks, k)
    chunk = depth * ceil_div(k, depth * splits)
    splits = ceil_div(k, chunk)
    is_along_l = which != "weight" or is_of_points
    stages = STAGES.get(gpu.arch, 2)
    shared = stages * sum(slice_bytes(itemsize, b, is_along_l) for b in (bm, bn))
    kept = [images * g * columns * f for images, g, _, columns, f, _ in turned]
    read = [*kept, batch * groups * max(channels * x, rows * y)]
    index = index_type([*read, splits * outputs, k], [], [], max(words[22:25]))
    defines = {
        "PN_STEP_mma": 1,
        "PN_SPLIT": int(splits > 1),
        **product.defines(index),
        "PN_COMMON": _three([gcd(s, d) for s, d in zip(stride, dilation)]),
        "PN_ALONG_L": int(is_along_l),
        "PN_POINTS": int(is_of_points),
        **tile_defines(tile, stages, shared, gpu, is_whole=True),
        "PN_Y_VECTOR": 1 + is_paired,
    }
    # Temporaries: the inputs (1 and 2) turned (3 and 4), if they are; then partial results.
    before = [_turn(part, 3 + i, 1 + i, index) for i, part in enumerate(turned)]
    b, a = (3, 4) if turned else (1, 2)
    step = Step(
        "mma",
        (blocks * splits, 1, 1),
        bm // wm * (bn // wn) * 32,
        (0 if splits == 1 else 3 + len(turned), a, b),
        (splits, chunk, m, n, k, *words, outputs),
        tuple(defines.items()),
        shared,
    )
    return _finished(program, before, step, splits, [itemsize * n for n in kept])


def _turn(matrices: Sequence[int], to: int, source: int, index: str) -> Step:
    """Matrices of channels x places turned, in tiles of up to 4096 elements."""
    images, groups, rows, columns, filled, offset = matrices
    across = _power(columns, 8, 64)
    down = _power(filled, 8, 4096 // across)
    across = _power(columns, 8, 4096 // down)
    blocks = images * groups * ceil_div(filled, down) * ceil_div(columns, across)
    defines = {
        "PN_STEP_turn": 1,
        "PN_SPLIT": 0,
        "PN_INDEX": index,
        "PN_ROWS": down,
        "PN_COLUMNS": across,
    }
    words = (images, groups, rows, columns, filled, offset)
    return Step(
        "turn", (blocks, 1, 1), 256, (to, source), words, tuple(defines.items())
    )


def _power(n: int, least: int, most: int) -> int:
    """The power of two that is enough for n, between those two."""
    return min(max(1 << (n - 1).bit_length(), least), most)
