"""Launches side by side as one: a table, by value, of the operands and words of each.

A block finds in the table (pn.cuh) which launch it is of, and does what it would do alone, so
the results are the same to the bit. Launches that take the same entry of the same text share
a table, as many as fit; those that do not go apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div

ARGUMENTS = 4096  # bytes that a launch may be given
NEVER = 1 << 62  # the first block of a place in the table that is empty


@dataclass(frozen=True)
class Copy:
    """One of the launches."""

    operands: tuple[int, ...]  # numbers of its outputs, inputs, temporaries
    steps: tuple[Step, ...]


def plan(
    program: Program,
    words: Sequence[int],
    gpu: Gpu,
    plan_one: Callable[[Program, Sequence[int], Gpu], Plan],
) -> Plan:
    """The steps of all of them: the first of each, then the second."""
    one, k = program.one_copy, program.copies
    outs, ins = len(one.outputs), len(one.inputs)
    alike: dict[tuple, list[Copy]] = {}
    temporaries: list[int] = []
    for c, (offset, own) in enumerate(program.copies_of(words)):
        assert not offset, "a result lies in a buffer of its own"
        made = plan_one(one, own, gpu)
        first = k * (outs + ins) + len(temporaries)
        operands = (
            *range(c * outs, (c + 1) * outs),
            *range(k * outs + c * ins, k * outs + (c + 1) * ins),
            *range(first, first + len(made.temporaries)),
        )
        temporaries += made.temporaries
        key = tuple((s.entry, s.defines, s.threads, s.shared) for s in made.steps)
        alike.setdefault(key, []).append(Copy(operands, made.steps))
    steps = [
        step
        for key, copies in alike.items()
        for number in range(len(key))
        for step in _tables(copies, number, one.kernel)
    ]
    return Plan(tuple(steps), tuple(temporaries))


def _tables(copies: Sequence[Copy], number: int, kernel: str) -> list[Step]:
    """One step of each launch, in as few tables as hold them."""
    # Elementwise operands side by side begin where their buffers do.
    kept = 1 if kernel == "elementwise" else None
    words = [c.steps[number].words[:kept] for c in copies]
    count = max(map(len, words))
    width = len(copies[0].steps[number].operands)
    most = ARGUMENTS // (8 * (width + 1 + count))
    tables = ceil_div(len(copies), most)
    each = ceil_div(len(copies), tables)
    # Few sizes of tables, so few texts.
    places = min(most, 1 << (each - 1).bit_length())
    return [
        _table(copies[at : at + each], words[at : at + each], number, places, count)
        for at in range(0, len(copies), each)
    ]


def _table(
    copies: Sequence[Copy],
    words: Sequence[Sequence[int]],
    number: int,
    places: int,
    count: int,
) -> Step:
    steps = [c.steps[number] for c in copies]
    first, empty = steps[0], places - len(steps)
    width = len(first.operands)
    blocks = [0, *accumulate(s.grid[0] for s in steps)]
    packed = [0] * (empty * width) + blocks[:-1] + [NEVER] * empty
    for own in words:
        packed += [*own, *[0] * (count - len(own))]
    packed += [0] * (empty * count)
    sizes = (("PN_COPIES", places), ("PN_OPERANDS", width), ("PN_WORDS", count))
    return replace(
        first,
        grid=(blocks[-1], 1, 1),
        operands=tuple(
            c.operands[i] for c, s in zip(copies, steps) for i in s.operands
        ),
        words=tuple(packed),
        defines=(*first.defines, *sizes),
        is_table=True,
    )
