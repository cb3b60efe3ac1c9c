"""How sort.cu is launched: runs in shared memory, then merges of runs, twice as long each."""

from __future__ import annotations

from collections.abc import Sequence

from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div

RUN = 1024  # elements that a block sorts; 12 KiB of shared memory for float64


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """The first step sorts runs, each further one halves their number."""
    rows, n = words[:2]
    if rows * n == 0:
        return Plan(())
    run = min(RUN, max(64, 1 << (n - 1).bit_length()))
    passes = (ceil_div(n, run) - 1).bit_length()
    # Passes write to the result and to a temporary in turn, the last one to the result.
    result, temporary = 0, 2
    target = (result, temporary)[passes % 2]
    defines = (("PN_STEP_runs", 1), ("PN_RUN", run))
    grid = (rows * ceil_div(n, run), 1, 1)
    steps = [Step("runs", grid, run // 2, (target, 1), tuple(words), defines)]
    grid = (ceil_div(rows * n, 256), 1, 1)
    for _ in range(passes):
        source, target = target, temporary if target == result else result
        operands = (target, source, 1)
        merged = (*words, run)
        steps.append(
            Step("merge", grid, 256, operands, merged, (("PN_STEP_merge", 1),))
        )
        run *= 2
    return Plan(tuple(steps), (4 * rows * n,) if passes else ())
