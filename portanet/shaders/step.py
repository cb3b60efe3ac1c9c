"""What a launch becomes on wgpu: one dispatch, or a few in order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .lower import bound, kinds


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
    first: int = 0  # the number of the first group


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]
    temporary: int = 0  # bytes of the buffer between the steps


def groups_of(n: int, size: int) -> int:
    return -(-n // size)


def one_step(program, text, entry, words, groups, work) -> Plan:
    """A plan of one step that binds the buffers of all operands."""
    step = Step(text, entry, kinds(program), bound(program), words, groups, work)
    return Plan((step,))


# A dispatch has at most about so much work: more can't be told apart from a GPU that hangs,
# which Windows resets after 2 s. A GPU that does 1e10 operations a second takes 0.4 s.
LONG_WORK = 4e9
CUT = "group_number(group, groups)"  # in a kernel that can be cut


def in_pieces(whole: Plan) -> Plan:
    """The same in more dispatches, where one is long and its kernel can be cut."""
    steps: list[Step] = []
    for step in whole.steps:
        count = max(1, -(-step.work // LONG_WORK))
        # In one dimension, so that no group past the last is launched: a piece's is the
        # first of the next, which may not run twice.
        each = min(int(max(1, step.groups // count)), 65535)
        if count < 2 or each >= step.groups or CUT not in step.text:
            steps.append(step)
            continue
        for first in range(0, step.groups, each):
            groups = min(each, step.groups - first)
            work = step.work * groups / step.groups
            piece = replace(step, groups=groups, work=work, first=first)
            steps.append(piece)
    return replace(whole, steps=tuple(steps))
