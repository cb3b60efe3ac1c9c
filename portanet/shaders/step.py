"""What a launch becomes on wgpu: one dispatch, or a few in order."""

from __future__ import annotations

from dataclasses import dataclass

from .lower import kinds


@dataclass(frozen=True)
class Step:
    """One dispatch. `operands` number the launch's buffers; -1 is the temporary one."""

    text: str
    entry: str
    kinds: tuple[str, ...]
    operands: tuple[int, ...]
    words: tuple[int, ...]
    groups: int
    work: float  # about how many scalar operations


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]
    temporary: int = 0  # bytes of the buffer between the steps


def groups_of(n: int, size: int) -> int:
    return -(-n // size)


def one_step(program, text, entry, words, groups, work) -> Plan:
    """A plan of one step that binds all operands."""
    operands = tuple(range(len(program.outputs) + len(program.inputs)))
    step = Step(text, entry, kinds(program), operands, words, groups, work)
    return Plan((step,))
