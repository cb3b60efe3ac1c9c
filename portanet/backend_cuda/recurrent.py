"""How recurrent.cu is launched: one launch a step, after those that begin."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div

ROWS = 8  # rows of the batch of a warp


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """The first state, backward the weights transposed, then each step."""
    steps, batch, size = words[:3]
    cell, way = program.options
    if not batch * size:
        return Plan(())
    is_forward = way == "forward"
    itemsize = program.outputs[0].itemsize
    outputs = len(program.outputs)
    operands = tuple(range(outputs + len(program.inputs)))
    # Packs of the state and of the weights start at pieces of 16 bytes.
    weights = len(program.inputs) - (2 if is_forward else 1)
    at = words[5 + weights]
    vector = math.gcd(16 // itemsize, size, at if is_forward else 0)
    gates = {"lstm": 4, "gru": 3}.get(cell, 1)
    depth = gates * size
    defines = (("PN_V", vector),)

    def step(entry, s, blocks, chosen=operands) -> Step:
        return Step(entry, (blocks, 1, 1), 256, chosen, (s, *words), defines)

    made = [step("start", 0, ceil_div(batch * size, 256))]
    temporaries: tuple[int, ...] = ()
    chosen = operands
    if not is_forward:
        turned = len(operands)
        tiles = ceil_div(depth, 32) * ceil_div(size, 32)
        made.append(step("turn", 0, tiles, (turned, operands[-1])))
        chosen, temporaries = (*operands, turned), (depth * size * itemsize,)
    of_warp = 1 if is_forward and gates > 1 else 4
    blocks = ceil_div(ceil_div(batch, ROWS) * ceil_div(size, of_warp), 8)
    numbers = range(steps) if is_forward else range(steps, -1, -1)
    made += [step("step", s, blocks, chosen) for s in numbers]
    return Plan(tuple(made), temporaries)
