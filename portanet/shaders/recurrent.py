"""Plans of the recurrent kernel: one dispatch a step, in which the cell follows its sums."""

from __future__ import annotations

import functools
import re

from ..program import Program
from .lower import header, kernel_text, kinds, with_scalars
from .step import Plan, Step, groups_of

# The words of a launch, and s before them.
WORDS = 12


@functools.cache
def _parts() -> dict[str, str]:
    """The parts of recurrent.wgsl by what follows "// ----"; "" is what all share."""
    shared, *rest = re.split(
        r"^// ---- ([a-z ]+)", kernel_text("recurrent"), flags=re.M
    )
    return {"": shared, **dict(zip(rest[::2], rest[1::2], strict=True))}


@functools.lru_cache(16)
def _text(program: Program) -> str:
    cell, way = program.options
    names = [f"{cell} {way}"] if cell in ("lstm", "gru") else [cell, f"rnn {way}"]
    parts = _parts()
    chosen = "".join(f"// {name}{parts[name]}" for name in (way, *names))
    return with_scalars(header(program, WORDS) + "\n" + parts[""] + chosen)


def _plan(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    steps, batch, size = words[:3]
    cell, way = program.options
    text, bound = _text(program), kinds(program)
    operands = tuple(range(len(program.outputs) + len(program.inputs)))
    gates = {"lstm": 4, "gru": 3}.get(cell, 1)
    elements = batch * size
    if not elements:
        return Plan(())
    entry, groups = "each", groups_of(elements, 64)
    if not on_cpu:
        entry, groups = "tile", groups_of(batch, 16) * groups_of(size, 16)
    room = (0,) * (WORDS - 1 - len(words))

    def step(entry: str, s: int, groups: int, work: float) -> Step:
        return Step(text, entry, bound, operands, (s, *words, *room), groups, work)

    made = [step("start", 0, groups_of(elements, 64), 4.0 * elements)]
    numbers = range(steps) if way == "forward" else range(steps, -1, -1)
    work = 4.0 * elements * (gates * size + 40)
    made += [step(entry, s, groups, work) for s in numbers]
    return Plan(tuple(made))


PLANS = {"recurrent": _plan}
TEXTS = {"recurrent": lambda program: [_text(program)]}
