"""The roofs of a device: what it moves and computes in a second, at the most, as measured.

A launch can't take less time than its bytes at the one rate or its operations at the other
(Williams, Waterman and Patterson, Communications of the ACM 52:4, 2009). Rates are those of
our own best kernels for it: a negation of 32 MiB, past the caches, and a product of two
square matrices of 512.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..arrays import Array, from_numpy
from ..devices import Device
from ..dtypes import float32
from ..ops.elementwise import negative
from ..ops.linear import matmul

ELEMENTS = 1 << 23
SIDE = 512
SAMPLE_S, SAMPLING_S = 0.002, 0.4  # a sample, and all; the best counts


class Roofs(NamedTuple):
    """Bytes and operations a second."""

    memory: float
    arithmetic: float

    def least_s(self, nbytes: int, flops: int) -> float:
        """The seconds that so much takes at the least."""
        return max(nbytes / self.memory, flops / self.arithmetic)


@functools.cache
def roofs(device: Device) -> Roofs:
    """Measured once in a process."""
    row = from_numpy(np.linspace(0, 1, ELEMENTS), float32, device)
    moved = 2 * ELEMENTS * device.backend.itemsize(float32)
    memory = moved / _seconds(device, lambda: negative(row))
    side = from_numpy(np.full((SIDE, SIDE), 1 / SIDE), float32, device)
    return Roofs(memory, 2 * SIDE**3 / _seconds(device, lambda: matmul(side, side)))


def _seconds(device: Device, call: Callable[[], Array]) -> float:
    """Of one call, in the best of some samples."""
    call()
    best = _sample(device, call, 1)
    start = time.perf_counter()
    while time.perf_counter() - start < SAMPLING_S:
        best = min(best, _sample(device, call, max(1, int(SAMPLE_S / best))))
    return best


def _sample(device: Device, call: Callable[[], Array], calls: int) -> float:
    device.backend.wait()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    device.backend.wait()
    return (time.perf_counter() - start) / calls
