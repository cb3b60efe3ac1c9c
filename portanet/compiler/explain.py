"""What a plan does, launch by launch: operators, lines, shapes, bytes, operations, times."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..scalars import Expression
from .graph import Work, members
from .plan import Plan
from .roofs import roofs


@dataclass
class Row:
    """One launch."""

    number: int
    kernel: str
    operators: list[str]
    line: str
    shape: tuple[int, ...]
    nbytes: int  # read and written
    flops: int
    time_us: float | None = None
    of_roof: float | None = (
        None  # the least time that the device's roofs allow, to this
    )


def _nbytes(w: Work, itemsize: Any) -> int:
    """Bytes that the launch must move: each operand once, a broadcast one as it is stored."""
    total = 0
    for h in (*w.outs, *w.ins):
        pairs = zip(h.layout.shape, h.layout.strides, strict=True)
        total += math.prod(n for n, step in pairs if step) * itemsize(h.layout.dtype)
    return total


def _flops(w: Work) -> int:
    """Arithmetic operations; each instruction of an expression counts as one."""
    if w.expression is not None:
        return _instructions(w.expression) * w.size
    if w.epilogue is not None:
        return _instructions(w.epilogue) * w.size + _flops(w.but(epilogue=None))
    made = w.producer and w.producer.expression
    if w.program is not None and w.program.has_producer:  # one of some side by side
        made = w.program.expression
    if made is not None:
        return (_instructions(made) + 1) * w.words[0] * w.words[1]
    if w.program is not None and w.program.kernel == "matmul":
        batch, m, n, k = w.words[:4]
        return 2 * batch * m * n * k
    if w.program is not None and w.program.kernel == "convolve":
        taps = w.words[7:13]  # of a result, the sizes of y and of the kernel
        return 2 * math.prod(w.words[:4]) * math.prod(taps)
    if w.program is not None and w.program.kernel == "attention":
        return _attention_flops(w)
    if w.program is not None and w.program.copies:
        return sum(map(_flops, members(w)))
    return sum(math.prod(h.layout.shape) for h in w.ins[:1])


def _instructions(expression: Expression) -> int:
    return sum(i.name not in ("const", "cast") for i in expression.instructions)


def _attention_flops(w: Work) -> int:
    """Of the products alone: two forward, five backward, of the pairs that are not causal."""
    batch, heads, _, queries, keys, width, values, is_causal = w.words[:8]
    pairs = queries * keys
    if is_causal:
        n = min(queries, keys)
        pairs = n * (n + 1) // 2 + (queries - n) * keys
    is_forward = w.program is not None and w.program.options[0] == "forward"
    columns = width + values if is_forward else 3 * width + 2 * values
    return 2 * batch * heads * pairs * columns


def rows(plan: Plan) -> list[Row]:
    """The launches of a plan, in order."""
    made = []
    for i, (w, program) in enumerate(zip(plan.graph.work, plan.programs, strict=True)):
        made.append(
            Row(
                i,
                program.kernel,
                w.parts,
                w.line,
                w.outs[0].layout.shape,
                _nbytes(w, plan.backend.itemsize),
                _flops(w),
            )
        )
    return made


def profile(plan: Plan, buffers: Sequence[Any]) -> list[Row]:
    """The launches with the least time of some runs of each, and its part of the roofs.

    By the device's own clock where it has one (timestamp queries), else by ours, each
    launch waited for.
    """
    made = rows(plan)
    limits = roofs(plan.graph.device)
    calls = [(launch, [buffers[i] for i in slots]) for launch, slots in plan.launches]
    times = getattr(plan.backend, "times", lambda calls, repeats: None)(calls, REPEATS)
    if times is None:
        times = [_seconds(plan.backend, *call) for call in calls]
    for row, took in zip(made, times, strict=True):
        row.time_us = took * 1e6
        row.of_roof = limits.least_s(row.nbytes, row.flops) / max(took, 1e-9)
    return made


REPEATS = 20


def _seconds(backend: Any, launch: Any, operands: Sequence[Any]) -> float:
    best = math.inf
    for _ in range(REPEATS):
        backend.wait()
        start = time.perf_counter()
        launch(*operands)
        backend.wait()
        best = min(best, time.perf_counter() - start)
    return best


def text(plan: Plan, made: Sequence[Row]) -> str:
    """The launches as a table, and the totals."""
    lines = [f"{'#':>3} {'kernel':<12} {'shape':<18} {'bytes':>10} {'flops':>11} "]
    if any(r.time_us is not None for r in made):
        lines[0] += f"{'us':>9} {'GB/s':>7} {'GFLOP/s':>8} {'roof':>5} "
    lines[0] += " operators, line"
    for r in made:
        shape = "x".join(map(str, r.shape)) or "1"
        cells = (
            f"{r.number:>3} {r.kernel:<12} {shape:<18} {r.nbytes:>10} {r.flops:>11} "
        )
        if r.time_us is not None and r.of_roof is not None:
            each = max(r.time_us, 1e-3) * 1e3
            cells += f"{r.time_us:>9.1f} {r.nbytes / each:>7.1f} "
            cells += f"{r.flops / each:>8.1f} {r.of_roof:>5.0%} "
        lines.append(f"{cells} {' '.join(r.operators)}  ({r.line})")
    lines.append(
        f"{len(made)} launches, {sum(r.nbytes for r in made)} bytes moved, "
        f"{sum(r.flops for r in made)} operations, "
        f"{plan.memory.nbytes} bytes of temporaries{' and gradients' * bool(plan.lent)} "
        f"in {len(plan.memory.sizes)} buffers, "
        f"{len(plan.shared)} of {len(plan.made)} results written in place, "
        f"{plan.peak} bytes at the peak"
    )
    times = [r.time_us for r in made if r.time_us is not None]
    if times:
        limits = roofs(plan.graph.device)
        lines.append(
            f"{sum(times):.1f} us in all; roofs of {plan.graph.device}, measured: "
            f"{limits.memory / 1e9:.1f} GB/s, {limits.arithmetic / 1e9:.1f} GFLOP/s "
            "(above 100%: data that were in a cache)"
        )
    return "\n".join(lines)
