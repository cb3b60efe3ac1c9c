"""Which entry of reduce.cu a reduction takes, and whether in one pass or two.

What decides is sizes and strides, never the GPU, so that results do not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..program import Program
from .elementwise import index_of
from .plan import Gpu, Plan, Step, ceil_div, index_type

BLOCKS = 1024  # enough to fill any GPU
FEW = 256  # fewer blocks than this leave most of one idle


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """One pass over x; two where there are few results of many elements each."""
    if words[0] == 0:
        return Plan(())
    if program.has_producer:
        return _produced(program, words)
    return _plan(program, words)


def _produced(program: Program, words: Sequence[int]) -> Plan:
    """The plan of what the producer would store; its first step makes it instead."""
    own = 5 + 2 * (words[2] + words[3])
    plain, made = program.without_producer, program.producer
    found = _plan(plain, words[:own], is_made=True)
    first, *rest = found.steps
    defines = dict(first.defines) | {"PN_PRODUCER": len(first.words)}
    if index_of(made, words[own:]) != "int":
        defines["PN_INDEX"] = "long long"
    operands = [0, *range(1, 1 + len(made.inputs))]
    if rest:  # partial results are the last
        operands[0] = last = 1 + len(made.inputs)
        rest = [replace(s, operands=(0, last), of=plain) for s in rest]
    first = replace(
        first,
        operands=tuple(operands),
        words=(*first.words, *words[own:]),
        defines=tuple(defines.items()),
    )
    return replace(found, steps=(first, *rest))


def _plan(program: Program, words: Sequence[int], is_made: bool = False) -> Plan:
    kept, reduced, kept_rank, reduced_rank, offset = words[:5]
    shape, strides = _halves(words[5:], kept_rank)
    inner, steps = _halves(words[5 + 2 * kept_rank :], reduced_rank)
    width = 1 if is_made else 16 // program.inputs[0].itemsize
    index = index_type([reduced, kept], [*shape, *inner], [*strides, *steps], offset)
    if reduced_rank == 1 and steps[0] == 1 and reduced >= 32:
        others = [offset, *strides]
        vector = not is_made and all(s % width == 0 for s in others)
        return _rows(program, words, vector, index, width)
    if kept_rank >= 1 and strides[-1] == 1 and reduced >= 8:
        wide = min(width, 8)
        others = [offset, shape[-1], *strides[:-1], *steps]
        vector = not is_made and all(s % wide == 0 for s in others)
        return _columns(program, words, vector, index, wide if vector else 1)
    if reduced >= 256 and kept < 65536:
        return _rows(program, words, False, index, width)
    step = _step("lanes", ceil_div(kept, 256), (0, 1), _whole(words), False, index)
    return Plan((step,))


def _halves(words: Sequence[int], rank: int) -> tuple[list[int], list[int]]:
    return list(words[:rank]), list(words[rank : 2 * rank])


def _rows(program, words, vector, index, width) -> Plan:
    """A block or a warp for each result; several blocks if there are few."""
    kept, reduced = words[:2]
    if kept >= 4 * FEW and reduced <= 512 * width:
        step = _step("warps", ceil_div(kept, 8), (0, 1), _whole(words), vector, index)
        return Plan((step,))
    chunk = _chunk(reduced, kept, 16384, 4096)
    if chunk >= reduced:
        return Plan((_step("rows", kept, (0, 1), _whole(words), vector, index),))
    chunks = ceil_div(reduced, chunk)
    split = (chunks, chunk, reduced, *words)
    first = _step("rows_first", kept * chunks, (2, 1), split, vector, index)
    return _two(program, words, first, chunks)


def _columns(program, words, vector, index, width) -> Plan:
    """32 or 8 threads side by side over the kept elements; chunks if these are few."""
    kept, reduced = words[:2]
    side = 32 if kept > 8 * width else 8
    name = "columns" if side == 32 else "narrow"
    blocks = ceil_div(kept, side * width)
    chunk = _chunk(reduced, blocks, 32 * 256 // side, 4 * 256 // side)
    if chunk >= reduced:
        return Plan((_step(name, blocks, (0, 1), _whole(words), vector, index),))
    chunks = ceil_div(reduced, chunk)
    split = (chunks, chunk, reduced, *words)
    first = _step(f"{name}_first", blocks * chunks, (2, 1), split, vector, index)
    return _two(program, words, first, chunks)


def _chunk(reduced: int, blocks: int, least: int, multiple: int) -> int:
    """Elements of a chunk, so that about BLOCKS blocks have work; at least `least`."""
    if blocks >= FEW:
        return max(reduced, 1)
    wanted = max(least, ceil_div(reduced * blocks, BLOCKS))
    return ceil_div(wanted, multiple) * multiple


def _two(program: Program, words, first: Step, chunks: int) -> Plan:
    kept = words[0]
    second = combine(kept, chunks, words[1], source=2)
    return Plan((first, second), (kept * chunks * partial_bytes(program),))


def combine(kept: int, chunks: int, total: int, source: int) -> Step:
    """The second pass: y[k] = which over c of partial[c, k], from operand `source`."""
    words = (1, chunks, total, kept, chunks, 1, 1, 0, kept, 1, chunks, kept)
    index = index_type([kept * chunks], [], [], 0)
    if kept < 32:
        return _step("rows_second", kept, (0, source), words, False, index)
    blocks = ceil_div(kept, 32)
    return _step("columns_second", blocks, (0, source), words, False, index)


def partial_bytes(program: Program) -> int:
    """Bytes of a partial result: the type that the reduction combines in."""
    which = program.options[0]
    if which in ("any", "all"):
        return 4
    if which in ("sum", "mean", "prod"):
        return program.outputs[0].compute.itemsize
    size = max(program.inputs[0].compute.itemsize, 4)
    return 2 * size if which.startswith("arg") else size


def _whole(words: Sequence[int]) -> tuple[int, ...]:
    return (1, max(words[1], 1), words[1], *words)


def _step(entry, blocks, operands, words, vector, index) -> Step:
    defines = (("PN_STEP_" + entry, 1), ("PN_VECTOR", int(vector)), ("PN_INDEX", index))
    return Step(entry, (blocks, 1, 1), 256, operands, tuple(words), defines)
