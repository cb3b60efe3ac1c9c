"""What a launch of a program is: which entries of its text, on which grid, with what.

A kernel is two files of one stem. `scan.cu` holds the entries, and `scan.py` a function
`plan(program, words, gpu) -> Plan` that chooses among them by the words and the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..program import Program


MAP_BYTES = 128  # of a CUtensorMap


@dataclass(frozen=True)
class Gpu:
    """What a plan may depend on."""

    arch: int  # compute capability: 75, 80, 86, 89, 90, 120
    multiprocessors: int
    shared: int  # most bytes of dynamic shared memory that a block may have


@dataclass(frozen=True)
class TensorMap:
    """An operand as the tensor memory accelerator of Hopper walks it: the entry's parameter
    is a PN_MAP instead of a pointer. Axes from the innermost on, whose elements touch."""

    dtype: str  # "float16" or "bfloat16"
    offset: int  # bytes, like the strides multiples of 16
    sizes: tuple[int, int, int]
    strides: tuple[int, int]  # bytes, of the second and third axis
    box: tuple[int, int, int]  # what is moved at once, under the 128-byte swizzle


@dataclass(frozen=True)
class Step:
    """One launch of an entry."""

    entry: str  # the name given to PN_ENTRY
    grid: tuple[int, int, int]  # blocks: at most 2^31 - 1, 65535, 65535
    threads: int  # of a block
    operands: tuple[int, ...]  # outputs, then inputs, then temporaries, by number
    words: tuple[int, ...]
    defines: tuple[tuple[str, int | str], ...] = ()  # macros of this variant
    shared: int = 0  # bytes of dynamic shared memory
    maps: tuple[TensorMap, ...] = ()  # one for each operand, or none
    of: Program | None = None  # whose text has the entry, if it is another program's
    is_table: bool = False  # operands and words are those of a pn_table; see beside.py


@dataclass(frozen=True)
class Plan:
    """The steps of a launch, in order."""

    steps: tuple[Step, ...]
    temporaries: tuple[int, ...] = field(default=())  # bytes of each


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def index_type(
    sizes: Sequence[int], shape: Sequence[int], strides: Sequence[int], offset: int
) -> str:
    """The C type for counts up to `sizes` and for places in a view."""
    reach = sum((n - 1) * abs(s) for n, s in zip(shape, strides))
    return "int" if max(*sizes, offset + reach, 0) < 1 << 30 else "long long"
