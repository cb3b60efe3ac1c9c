"""How sort.cu is launched: runs in shared memory, then merges of runs, twice as long each."""

from __future__ import annotations

from collections.abc import Sequence

from ..program import Program
from .plan import Gpu, Plan, Step, ceil_div

RUN = 1024  # elements that a block sorts; 12 KiB of shared memory for float64


def plan(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """The first step sorts runs, each further one halves their number."""
    rows, n, kept, *view = words
    if rows * kept == 0:
        return Plan(())
    run = min(RUN, max(64, 1 << (n - 1).bit_length()))
    passes = (ceil_div(n, run) - 1).bit_length()
    # Whole rows go to temporaries in turn, of which the result is one if it has room; the
    # last step writes the result.
    turns = (2, 0 if kept == n else 3)
    targets = [turns[(passes - 1 - i) % 2] for i in range(passes)] + [0]
    widths = [n] * passes + [kept]
    head = [(rows, n, width, *view) for width in widths]
    defines = (("PN_STEP_runs", 1), ("PN_RUN", run))
    grid = (rows * ceil_div(n, run), 1, 1)
    steps = [Step("runs", grid, run // 2, (targets[0], 1), head[0], defines)]
    grid, defines = (ceil_div(rows * n, 256), 1, 1), (("PN_STEP_merge", 1),)
    for i in range(passes):
        operands = (targets[i + 1], targets[i], 1)
        merged = (*head[i + 1], run << i)
        steps.append(Step("merge", grid, 256, operands, merged, defines))
    used = len({t for t in targets if t})
    return Plan(tuple(steps), (4 * rows * n,) * used)
