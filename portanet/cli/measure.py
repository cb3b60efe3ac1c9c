"""Timing: sides in turn, warm, medians and quartiles."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

MIN_SAMPLES = 5
MAX_CALLS = 10_000  # of one sample


class Timing(NamedTuple):
    """Milliseconds of one call: median and quartiles of `samples` samples of `calls`."""

    median_ms: float
    low_ms: float
    high_ms: float
    samples: int
    calls: int


class Side(NamedTuple):
    """One of the things compared: a call, and what waits until its work is done."""

    call: Callable[[], object]
    wait: Callable[[], None] = lambda: None
    # After a sample, untimed: OpenBLAS's threads go on spinning on the cores that the next
    # side needs, for 50 to 100 ms (NumPy 2.4's build, measured at 2.6 GHz).
    rest_s: float = 0.0


def sample(side: Side, calls: int) -> float:
    """Seconds of one call, from so many in a row and one wait."""
    call = side.call
    start = time.perf_counter()
    for _ in range(calls):
        call()
    side.wait()
    took = (time.perf_counter() - start) / calls
    if side.rest_s:
        time.sleep(side.rest_s)
    return took


def calls_to_last(side: Side, seconds: float) -> int:
    """How many calls a sample needs to take about so long; warms the side up."""
    calls = 1
    sample(side, calls)
    while calls < MAX_CALLS:
        took = sample(side, calls) * calls
        if took >= seconds / 2:
            break
        calls = min(MAX_CALLS, calls * max(2, int(seconds / max(took, 1e-9) / 2)))
    return calls


def in_turn(
    sides: Mapping[str, Side], budget_s: float = 1.0, sample_s: float = 0.01
) -> dict[str, Timing]:
    """A B A B ...: about `budget_s` for all, in samples of about `sample_s`.

    What the machine does besides then falls on all sides alike.
    """
    calls = {name: calls_to_last(side, sample_s) for name, side in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    rests = any(side.rest_s for side in sides.values())
    gc_was_on = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        while len(next(iter(seconds.values()))) < MIN_SAMPLES or (
            time.perf_counter() - start < budget_s
        ):
            for name, side in sides.items():
                if rests:  # what slept is woken, untimed
                    side.call()
                    side.wait()
                seconds[name].append(sample(side, calls[name]))
            gc.collect(0)
    finally:
        if gc_was_on:
            gc.enable()
    return {name: timing(seconds[name], calls[name]) for name in sides}


def timing(seconds: list[float], calls: int = 1) -> Timing:
    """The median and quartiles of some samples."""
    low, median, high = (
        1e3 * float(q) for q in np.quantile(seconds, (0.25, 0.5, 0.75))
    )
    return Timing(median, low, high, len(seconds), calls)
