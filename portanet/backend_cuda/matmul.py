"""Which entry of matmul.cu a product takes: its tile, how operands are read, splits.

What decides is sizes, strides and the kind of GPU, so a result depends on these alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..dtypes import Dtype, bfloat16, float16, float32
from ..program import Program
from . import elementwise
from .plan import Gpu, Plan, Step, TensorMap, ceil_div, index_type


@dataclass(frozen=True)
class Tile:
    """A tile of bm x bn, slices of bk, tm x tn sums a thread, blocks that fit one GPU core."""

    bm: int
    bn: int
    bk: int
    tm: int
    tn: int
    blocks: int

    @property
    def threads(self) -> int:
        return self.bm // self.tm * (self.bn // self.tn)

    def count(self, m: int, n: int) -> int:
        """Tiles that cover m x n."""
        return ceil_div(m, self.bm) * ceil_div(n, self.bn)

    def defines(self) -> dict[str, int | str]:
        """The macros of tile.cuh."""
        names = ("PN_BM", "PN_BN", "PN_BK", "PN_TM", "PN_TN")
        sizes = (self.bm, self.bn, self.bk, self.tm, self.tn)
        return dict(zip(names, sizes, strict=True))


# By the bytes of a sum, the largest first. 64 sums of 4 bytes leave room for two blocks of
# 256 threads in the 65,536 registers of a multiprocessor.
TILES = {
    4: (
        Tile(128, 128, 8, 8, 8, 2),
        Tile(64, 64, 16, 4, 8, 4),
        Tile(32, 32, 16, 4, 4, 8),
    ),
    8: (Tile(64, 64, 8, 4, 4, 2), Tile(32, 32, 8, 4, 2, 4)),
}
ENOUGH = 128  # blocks to fill a GPU with; smaller tiles or splits are taken for less


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """One launch; two if the sum is split. The last one applies the epilogue."""
    own = 11 + 3 * words[4]
    made = _plain(program.without_epilogue, words[:own], gpu)
    if not program.has_epilogue or not made.steps:
        return made
    return with_epilogue(program, made, words[own:], words[2])


def with_epilogue(
    program: Program, made: Plan, after: Sequence[int], columns: int = 0
) -> Plan:
    """The plan of a kernel of two inputs whose last step applies the epilogue, of words
    `after`, where it would store; `columns`: of the result, where its steps know them."""
    ending, k = program.epilogue, len(program.outputs)
    total = k + len(program.inputs)

    def numbers(operands: tuple[int, ...]) -> list[int]:
        """Those of the inputs and the temporaries, which follow more operands now."""
        return [i - 1 + k if i < 3 else i - 3 + total for i in operands]

    *before, last = made.steps
    steps = [replace(step, operands=tuple(numbers(step.operands))) for step in before]
    knows = last.entry != "combine"
    in_rows = knows and ending.rank == 2 and after[2 + len(ending.modes)] == columns
    defines = (
        ("PN_EPILOGUE", len(last.words)),
        ("PN_PLACE", elementwise.index_of(ending, after)),
        ("PN_IN_ROWS", int(in_rows)),
    )
    assert last.operands[0] == 0
    steps.append(
        replace(
            last,
            operands=(*range(k), *numbers(last.operands[1:]), *range(k + 2, total)),
            words=(*last.words, *after),
            defines=(*last.defines, *defines),
        )
    )
    return Plan(tuple(steps), made.temporaries)


def _plain(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """Without an epilogue."""
    batch, m, n, k, rank = words[:5]
    outputs = batch * m * n
    if outputs == 0:
        return Plan(())
    if m < 8 or n < 8 or k < 8:
        return _thin(program, words)
    if has_tensor_cores(program, gpu):
        return _wgmma(program, words, gpu) or _mma(program, words, gpu)
    return _tiled(program, words, gpu)


def has_tensor_cores(program: Program, gpu: Gpu) -> bool:
    """float16 from Turing on; bfloat16, and TF32 where it is asked for, from Ampere on."""
    oldest = {float16: 75, bfloat16: 80}
    if "tf32" in program.options:
        oldest[float32] = 80
    return gpu.arch >= oldest.get(program.inputs[0], 1000)


# Tiles by tensor cores: (bm, bn, wm, wn), a warp making wm x wn.
MMA_TILES = ((128, 128, 64, 32), (64, 64, 32, 32))
# Slices in shared memory, so that two blocks of 128 x 128 fit a multiprocessor: 164 KiB on
# sm_80 and 228 on sm_90, 100 on sm_86, sm_89 and sm_120. Turing has 64, for one.
STAGES = {80: 3, 90: 4}


def tile_defines(
    tile: Sequence[int], stages: int, shared: int, gpu: Gpu, is_whole: bool
) -> dict[str, int]:
    """What mma.cuh asks of a tile (bm, bn, wm, wn). Two blocks share a multiprocessor where
    there are registers: not where elements that do not make whole pieces are loaded one by
    one, and not on Turing."""
    bm, bn, wm, wn = tile
    return {
        "PN_BM": bm,
        "PN_BN": bn,
        "PN_WM": wm,
        "PN_WN": wn,
        "PN_STAGES": stages,
        "PN_SHARED_BYTES": shared,
        "PN_ARCH": gpu.arch,
        "PN_BLOCKS": 2 if is_whole and gpu.arch > 75 else 1,
    }


def _mma(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    batch, m, n, k, rank = words[:5]
    size = program.inputs[0].itemsize
    count = [batch * ceil_div(m, bm) * ceil_div(n, bn) for bm, bn, _, _ in MMA_TILES]
    which = 0 if count[0] >= ENOUGH else 1
    bm, bn, wm, wn = MMA_TILES[which]
    depth = 64 // size
    splits = splits_of(count[which], k)
    chunk = depth * ceil_div(k, depth * splits)
    a = _operand("A", words, 0, 16 // size)
    b = _operand("B", words, 1, 16 // size)
    stages = STAGES.get(gpu.arch, 2)
    shared = stages * sum(
        slice_bytes(size, rows, operand[f"PN_{name}_ALONG_L"])
        for name, rows, operand in (("A", bm, a), ("B", bn, b))
    )
    threads = bm // wm * (bn // wn) * 32
    is_whole = a["PN_A_VECTOR"] > 1 and b["PN_B_VECTOR"] > 1
    defines = {
        **tile_defines(MMA_TILES[which], stages, shared, gpu, is_whole),
        **a,
        **b,
        "PN_Y_VECTOR": 2 - n % 2,
    }
    return _launches(
        program, words, "mma", threads, count[which], ceil_div(k, chunk), chunk, defines,
        shared,
    )  # fmt: skip


# Tiles by wgmma: 128 x bn, and stages in shared memory beside the result's 256 bn bytes.
WGMMA_TILES = ((256, 3), (128, 5))


def _wgmma(program: Program, words: Sequence[int], gpu: Gpu) -> Plan | None:
    """On Hopper, for products that give half of its multiprocessors a tile, of operands
    that the TMA can walk; else None."""
    batch, m, n, k, rank = words[:5]
    dtype = program.inputs[0]
    is_of_one = all(t is dtype for t in (*program.outputs, *program.inputs))
    if gpu.arch != 90 or dtype.itemsize != 2 or not is_of_one or k < 64 or rank > 1:
        return None
    counts = [batch * ceil_div(m, 128) * ceil_div(n, bn) for bn, _ in WGMMA_TILES]
    which = 0 if counts[0] >= gpu.multiprocessors else 1
    (bn, stages), count = WGMMA_TILES[which], counts[which]
    shared = stages * ((128 + bn) * 128 + 16) + bn * 256
    a, b = _walked(dtype, words, 0, 128), _walked(dtype, words, 1, bn)
    y = _tensor_map(dtype, batch, (0, n, 1, [m * n] * rank), (n, m), 64)
    if 2 * count < gpu.multiprocessors or shared > gpu.shared or not (a and b and y):
        return None
    defines = {
        "PN_STEP_wgmma": 1,
        "PN_INDEX": "int",
        "PN_SPLIT": 0,
        "PN_BM": 128,
        "PN_BN": bn,
        "PN_STAGES": stages,
        "PN_SHARED_BYTES": shared,
        "PN_TENSOR_TYPE": '"f16"' if dtype is float16 else '"bf16"',
        "PN_A_ALONG_L": int(_is_along_l(words, 0)),
        "PN_B_ALONG_L": int(_is_along_l(words, 1)),
    }
    has_batches = [int(any(_strides(words, which)[3])) for which in (0, 1)]
    step = Step(
        "wgmma",
        (min(count, gpu.multiprocessors), 1, 1),
        384,
        (0, 1, 2),
        (batch, m, n, k, *has_batches),
        tuple(defines.items()),
        shared,
        (y, a, b),
    )
    return Plan((step,))


def _is_along_l(words: Sequence[int], which: int) -> bool:
    return _strides(words, which)[2] == 1


def _walked(
    dtype: Dtype, words: Sequence[int], which: int, rows: int
) -> TensorMap | None:
    """Operand a or b for the TMA, in boxes of `rows` x 64 of l, or 64 of l x 64."""
    offset, outer, inner, batch = _strides(words, which)
    size, k = words[1 + which], words[3]
    if _is_along_l(words, which):
        return _tensor_map(
            dtype, words[0], (offset, outer, inner, batch), (k, size), rows
        )
    return _tensor_map(dtype, words[0], (offset, inner, outer, batch), (size, k), 64)


def _tensor_map(
    dtype: Dtype,
    batch: int,
    strides: tuple[int, int, int, list[int]],
    sizes: tuple[int, int],
    lines: int,
) -> TensorMap | None:
    """Neighbours, lines of them, batches; strides as of _strides. None where the TMA can't
    walk them so: 16 bytes are the least that it aims at."""
    offset, line, step, of_batch = strides
    each = of_batch[0] if of_batch else 0
    if step != 1 or line <= 0 or each < 0 or any(s % 8 for s in (offset, line, each)):
        return None
    return TensorMap(
        dtype.name,
        2 * offset,
        (*sizes, batch if each else 1),
        (2 * line, 2 * (each or line * sizes[1])),
        (64, lines, 1),
    )


def slice_bytes(size: int, rows: int, is_along_l: int) -> int:
    """As pn_slice in mma.cuh."""
    if is_along_l:
        return rows * (64 + 16)
    return 64 // size * (rows * size + (32 if size == 4 else 16))


def splits_of(blocks: int, k: int) -> int:
    """Into how many parts a sum is cut: a few, where there are few blocks."""
    if blocks >= ENOUGH or k < 512:
        return 1
    return min(ceil_div(2 * ENOUGH, blocks), k // 256)


def _tiled(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    batch, m, n, k, rank = words[:5]
    tiles = TILES[program.outputs[0].compute.itemsize]
    enough = (t for t in tiles if batch * t.count(m, n) >= ENOUGH)
    tile = next(enough, tiles[-1])
    blocks = batch * tile.count(m, n)
    splits = splits_of(blocks, k)
    chunk = tile.bk * ceil_div(k, tile.bk * splits)
    splits = ceil_div(k, chunk)
    width = min(16 // program.inputs[0].itemsize, 4)
    a = _operand("A", words, 0, width)
    b = _operand("B", words, 1, width)
    # Loads one by one, or of narrow elements, need more registers than two blocks leave.
    is_heavy = (
        1 in (a["PN_A_VECTOR"], b["PN_B_VECTOR"]) or program.inputs[0].itemsize < 4
    )
    defines = {
        **tile.defines(),
        # Nor does NVRTC 13.5 keep to 128 registers for sm_120, where it spills 28 bytes.
        "PN_BLOCKS": 1 if is_heavy or gpu.arch >= 120 else tile.blocks,
        **a,
        **b,
        "PN_Y_VECTOR": _store_width(program, n),
    }
    return _launches(
        program, words, "tile", tile.threads, blocks, splits, chunk, defines
    )


def _strides(words: Sequence[int], which: int) -> tuple[int, int, int, list[int]]:
    """(offset, along i or j, along l, of the batch) of operand a or b."""
    rank = words[4]
    batch = list(words[11 + rank * (1 + which) :][:rank])
    if which == 0:
        offset, outer, inner = words[5:8]
    else:
        offset, inner, outer = words[8:11]
    return offset, outer, inner, batch


def _operand(name: str, words: Sequence[int], which: int, width: int) -> dict[str, int]:
    """How an operand is read: neighbours along l, or along i (j); `width` at once, or 1."""
    offset, outer, inner, batch = _strides(words, which)
    size, k = words[1 + which], words[3]
    along_l = inner == 1 or (outer != 1 and abs(inner) < abs(outer))
    step, other, length = (inner, outer, k) if along_l else (outer, inner, size)
    fits = step == 1 and all(s % width == 0 for s in (offset, other, length, *batch))
    return {
        f"PN_{name}_ALONG_L": int(along_l),
        f"PN_{name}_VECTOR": width if fits else 1,
    }


def _store_width(program: Program, n: int) -> int:
    width = min(4, 16 // program.outputs[0].compute.itemsize)
    return width if n % width == 0 else 1


def _thin(program: Program, words: Sequence[int]) -> Plan:
    """A vector, or a very short sum: no tile would be full."""
    batch, m, n, k, rank = words[:5]
    outputs = batch * m * n
    a, b = _strides(words, 0), _strides(words, 1)
    if k >= 64 and (b[2] == 1 or outputs < 64):
        width = 16 // max(t.itemsize for t in program.inputs)
        rest = (k, a[0], a[1], *a[3], b[0], b[1], *b[3])
        fits = a[2] == b[2] == 1 and all(s % width == 0 for s in rest)
        defines = {"PN_VECTOR": width if fits else 1}
        splits = min(ceil_div(4 * ENOUGH, outputs), k // 4096) or 1
        chunk = 512 * ceil_div(k, 512 * splits)
        blocks = ceil_div(outputs * ceil_div(k, chunk), 4)
        return _launches(
            program, words, "dots", 128, blocks, ceil_div(k, chunk), chunk, defines
        )
    splits = min(ceil_div(256 * ENOUGH, outputs), k // 64) or 1
    chunk = ceil_div(max(k, 1), splits)
    splits = ceil_div(max(k, 1), chunk)
    blocks = ceil_div(outputs * splits, 128)
    return _launches(program, words, "each", 128, blocks, splits, chunk, {})


def _launches(
    program, words, entry, threads, blocks, splits, chunk, defines, shared=0
) -> Plan:
    batch, m, n, k, rank = words[:5]
    outputs = batch * m * n
    index = _index(words)
    wide = (splits, max(chunk, 1), *words)
    grid = (blocks * (splits if entry in ("tile", "mma") else 1), 1, 1)
    common = {f"PN_STEP_{entry}": 1, "PN_INDEX": index, "PN_SPLIT": int(splits > 1)}
    given = tuple({**common, **defines}.items())
    if splits == 1:
        return Plan((Step(entry, grid, threads, (0, 1, 2), wide, given, shared),))
    first = Step(entry, grid, threads, (3, 1, 2), wide, given, shared)
    given = (("PN_STEP_combine", 1), ("PN_INDEX", index), ("PN_SPLIT", 0))
    grid = (ceil_div(outputs, 256), 1, 1)
    second = Step("combine", grid, 256, (0, 3), (splits, outputs), given)
    size = program.outputs[0].compute.itemsize
    return Plan((first, second), (splits * outputs * size,))


def _index(words: Sequence[int]) -> str:
    """The C type of places in a and b."""
    batch, m, n, k, rank = words[:5]
    shape = words[11 : 11 + rank]
    types = []
    for which, size in ((0, m), (1, n)):
        offset, outer, inner, steps = _strides(words, which)
        # A tile starts, but does not load, up to 128 rows past the last.
        sizes, strides = [size + 128, k + 128, *shape], [outer, inner, *steps]
        types.append(index_type([m, n, k], sizes, strides, offset))
    return max(types)
