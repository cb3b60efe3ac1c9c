"""How a formula with sums over rows is launched: how many threads share a row.

What decides is the row's length, the dtypes and the formula, so that the order of the sums
depends on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..program import Program
from .phases import Phases
from .plan import Gpu, Plan, Step, ceil_div

BYTES = 16  # of the widest load and store
WIDEST = 8  # neighbours in a pack
BLOCK = 128  # threads, where a row has at most a warp
THREADS = 512  # of the longest rows
MOST = 32  # elements of a thread
REGISTERS = 96  # for what a thread keeps; 64 where a block has 512 threads


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """One step. Each operand lies in a row as a letter says: "p" in packs that are in line,
    "n" as neighbours, "o" and, of results, "r" is one for the row, "e" anyhow."""
    operands, rank, row = len(program.modes), program.rank, words[-1]
    offsets = words[1 : 1 + operands]
    shape = words[1 + operands : 1 + operands + rank]
    rest = words[1 + operands + rank : -1]
    strides: dict[int, Sequence[int]] = {}
    for k, mode in enumerate(program.modes):
        if mode == "v":
            strides[k], rest = rest[:rank], rest[rank:]
    letters = [
        {"c": "n", "s": "o", "r": "r"}.get(m) or _within(row, shape, strides[k])
        for k, m in enumerate(program.modes)
    ]
    vector = _neighbours(program, letters, row)
    for k, letter in enumerate(letters):
        starts = [offsets[k]]
        if k in strides:
            starts += _across(row, shape, strides[k])
        if letter == "n" and not any(s % vector for s in starts):
            letters[k] = "p"
    within = "".join(letters)
    threads, packs = _share(row, vector, Phases.of(program, within).kept_words())
    block = threads if threads > 32 else BLOCK
    index = "int" if _is_small(words[0], offsets, shape, strides) else "long long"
    defines = (
        ("PN_T", 0 if packs == 1 and threads <= 32 else threads),
        ("PN_V", vector),
        ("PN_PACKS", packs),
        ("PN_BLOCK", block),
        ("PN_INDEX", index),
        ("PN_WITHIN", within),
    )
    blocks = ceil_div(words[0] // row, block // threads)
    operand_numbers = tuple(range(operands))
    given = (*words, threads)
    step = Step("rows", (blocks, 1, 1), block, operand_numbers, given, defines)
    return Plan((step,))


def _within(row: int, shape: Sequence[int], strides: Sequence[int]) -> str:
    """How the elements of a row lie: "n", "o" or "e"."""
    size, neighbours, same = 1, True, True
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        if size >= row:
            break
        neighbours &= s == size
        same &= s == 0
        size *= n
    return "n" if neighbours else "o" if same else "e"


def _across(row: int, shape: Sequence[int], strides: Sequence[int]) -> list[int]:
    """The steps from a row's start to others."""
    size, found = 1, []
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        size *= n
        if size > row:
            found.append(s if size // n >= row else s * (row // (size // n)))
    return found


def _neighbours(program: Program, letters: Sequence[str], row: int) -> int:
    """Elements of a pack: what fits 16 bytes and divides a row."""
    dtypes = (*program.outputs, *program.inputs)
    moved = [t.itemsize for t, a in zip(dtypes, letters, strict=True) if a not in "or"]
    vector = min(WIDEST, BYTES // max(moved, default=BYTES))
    return math.gcd(vector, row)


def _share(row: int, vector: int, kept: float) -> tuple[int, int]:
    """Threads of a row and packs of a thread; 0 packs where the row is read again."""
    threads = 1
    while threads < 32 and threads * vector < row:
        threads *= 2
    while threads <= THREADS:
        packs = ceil_div(row, threads * vector)
        room = REGISTERS if threads < THREADS else 64
        if packs * vector <= MOST and packs * vector * kept <= room:
            return threads, packs
        threads *= 2
    return THREADS, 0


def _is_small(n: int, offsets, shape, strides) -> bool:
    """Whether every position fits 31 bits, with room for the threads past the end."""
    reach = max(offsets) + n + BLOCK * THREADS
    for s in strides.values():
        across = (abs(a) * (b - 1) for a, b in zip(s, shape, strict=True))
        reach = max(reach, max(offsets) + sum(across))
    return reach < 1 << 31
