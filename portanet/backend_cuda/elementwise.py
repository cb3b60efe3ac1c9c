"""How an elementwise program is launched: how many neighbours a thread makes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..program import Program
from . import rows
from .plan import Gpu, Plan, Step

THREADS = 256
BYTES = 16  # of the widest load and store
MOST = 8  # neighbours of a thread


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """One step, of rows.py where the formula has rows. Each operand is either in packs of
    neighbours or one for all of them."""
    assert program.expression is not None
    if program.expression.has_rows:
        return rows.plan(program, words, gpu)
    n, modes = words[0], program.modes
    operands = len(modes)
    offsets, shape, strides = _views(program, words)
    vector = _neighbours(program, offsets, shape, strides)
    together = "".join(
        "o" if mode == "s" or mode == "v" and vector > 1 and not strides[k][-1] else "p"
        for k, mode in enumerate(modes)
    )
    index = index_of(program, words)
    defines = (
        ("PN_VECTOR", vector),
        ("PN_INDEX", index),
        ("PN_TOGETHER", together),
    )
    blocks = -(-n // (THREADS * vector))
    step = Step(
        "elementwise",
        (blocks, 1, 1),
        THREADS,
        tuple(range(operands)),
        tuple(words),
        defines,
    )
    return Plan((step,))


def _views(program: Program, words: Sequence[int]):
    """Offsets, shape, and the strides of each operand of mode "v", by its number."""
    operands, rank = len(program.modes), program.rank
    offsets = words[1 : 1 + operands]
    shape = words[1 + operands : 1 + operands + rank]
    rest = words[1 + operands + rank :]
    strides: dict[int, Sequence[int]] = {}
    for k, mode in enumerate(program.modes):
        if mode == "v":
            strides[k], rest = rest[:rank], rest[rank:]
    return offsets, shape, strides


def index_of(program: Program, words: Sequence[int]) -> str:
    """The C type of positions."""
    is_small = _is_small(words[0], *_views(program, words))
    return "int" if is_small else "long long"


def _neighbours(program: Program, offsets, shape, strides) -> int:
    """Elements that a thread makes: as many as fit 16 bytes, where all operands have them
    side by side and in line, or the same one for all."""
    sizes = [t.itemsize for t in (*program.outputs, *program.inputs)]
    moved = [n for n, mode in zip(sizes, program.modes, strict=True) if mode != "s"]
    vector = min(MOST, BYTES // max(moved, default=BYTES))
    if strides and any(s[-1] not in (0, 1) for s in strides.values()):
        return 1
    outputs = len(program.outputs)
    if any(k < outputs and not s[-1] for k, s in strides.items()):
        return 1
    starts = [shape[-1]] if strides else []
    for k, mode in enumerate(program.modes):
        if mode == "c":
            starts.append(offsets[k])
        elif mode == "v" and strides[k][-1]:
            starts += [offsets[k], *strides[k][:-1]]
    while vector > 1 and any(s % vector for s in starts):
        vector //= 2
    return vector


def _is_small(n: int, offsets, shape, strides) -> bool:
    """Whether every position fits 31 bits, with room for the threads past the end."""
    reach = max(offsets, default=0) + n + THREADS * MOST
    for s in strides.values():
        across = (abs(a) * (b - 1) for a, b in zip(s, shape, strict=True))
        reach = max(reach, max(offsets) + sum(across))
    return reach < 1 << 31 and math.prod(shape) < 1 << 31
