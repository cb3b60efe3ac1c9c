"""Device memory: blocks kept by size class, and handles that give theirs back.

A block is free again as soon as Python drops its handle, even while recorded work still
uses it: dispatches run in order, so a later one may write it. Only the host must not,
since its writes overtake recorded work; `freed_in` tells when that is over.
"""

from __future__ import annotations

import gc
from typing import Any

from ..errors import OutOfMemoryError
from .host import Host

MB = 1 << 20
COLLECT_BYTES = 256 * MB  # growth that is worth a run of the garbage collector
KEEP_BYTES = 256 * MB  # free bytes that are kept at least


class Block:
    """One buffer of the device, or a range of one."""

    __slots__ = ("buffer", "freed_in", "nbytes", "offset", "parts")

    def __init__(self, buffer: Any, nbytes: int, offset: int = 0):
        self.buffer, self.nbytes, self.offset = buffer, nbytes, offset
        self.freed_in = -1
        self.parts: dict[tuple[int, int], Block] = {}

    def part(self, offset: int, nbytes: int) -> Block:
        """A range; the same object each time, since bind groups are found by it."""
        key = offset, nbytes
        if key not in self.parts:
            whole = nbytes + -nbytes % 4
            self.parts[key] = Block(self.buffer, whole, self.offset + offset)
        return self.parts[key]


class Buffer:
    """What the arrays hold: a block, given back when this is dropped."""

    __slots__ = ("block", "pool")

    def __init__(self, block: Block, pool: Pool):
        self.block, self.pool = block, pool

    def __del__(self):
        # Runs anywhere, also inside the collector: one append, no lock.
        pool, block = self.pool, self.block
        pool.live -= block.nbytes
        block.freed_in = pool.batch
        pool.free[block.nbytes].append(block)


class Part:
    """A range of a buffer, which it keeps alive."""

    __slots__ = ("block", "offset", "whole")

    def __init__(self, whole: Buffer, offset: int, nbytes: int):
        self.block, self.whole = whole.block.part(offset, nbytes), whole
        self.offset = offset


def size_class(nbytes: int) -> int:
    """The block size for a request: a multiple of a quarter of the power of two below.

    >>> [size_class(n) for n in (1, 256, 257, 1000, 1100)]
    [256, 256, 320, 1024, 1280]
    """
    if nbytes <= 256:
        return 256
    step = 1 << (nbytes - 1).bit_length() - 3
    return -(-nbytes // step) * step


class Pool:
    """The blocks of one device. `batch` is the number of the batch being recorded."""

    def __init__(self, host: Host):
        self.host = host
        limits = host.limits
        self.largest = min(
            limits["max-buffer-size"], limits["max-storage-buffer-binding-size"]
        )
        self.largest -= self.largest % 4
        self.free: dict[int, list[Block]] = {}
        # Every block that was not dropped. Without this, a block whose handle dies in a
        # cycle dies with it, and the collector finalises its buffer before it is free.
        self.blocks: set[Block] = set()
        self.classes: dict[int, int] = {}  # request -> size class
        self.batch = 0
        self.live = self.reserved = self.peak = self.live_after_collect = 0
        # Called before blocks are dropped: must submit, and forget what refers to them.
        self.release = lambda: None

    def alloc(self, nbytes: int) -> Buffer:
        """An uninitialised buffer of at least nbytes."""
        size = self.classes.get(nbytes) or self._classify(nbytes)
        try:
            block = self.free[size].pop()
        except IndexError:
            block = self._grow(size, nbytes)
        self.live = live = self.live + size
        if live > self.peak:  # noqa: PLR1730, a call of max is slower
            self.peak = live
        return Buffer(block, self)

    def alloc_unused(self, nbytes: int) -> Buffer | None:
        """A buffer that no recorded work uses, so that the host may write it.

        None if there is none and no room for another: submit, then ask again.
        """
        size = self.classes.get(nbytes) or self._classify(nbytes)
        free = self.free[size]
        # The first of the list was freed longest ago.
        if free and free[0].freed_in != self.batch:
            block = free.pop(0)
        elif len(free) < 4 or size <= MB:
            block = self._grow(size, nbytes)
        else:
            return None
        self.live += size
        self.peak = max(self.peak, self.live)
        return Buffer(block, self)

    def _classify(self, nbytes: int) -> int:
        if nbytes > self.largest:
            names = "maxStorageBufferBindingSize, maxBufferSize"
            raise OutOfMemoryError(
                f"wgpu: {nbytes:,} bytes ({nbytes / 2**30:.4g} GiB) are asked for, but "
                f"{self.host.description['adapter']} allows {self.largest:,} bytes for "
                f"one tensor ({names}); split it, or use the cpu"
            )
        if len(self.classes) >= 65536:
            self.classes.clear()
        size = min(size_class(max(nbytes, 4)), self.largest)
        self.classes[nbytes] = size
        self.free.setdefault(size, [])
        return size

    def _grow(self, size: int, nbytes: int) -> Block:
        grown = self.live - self.live_after_collect
        if grown > max(COLLECT_BYTES, 2 * self.live_after_collect):
            gc.collect()
            self.live_after_collect = self.live
            if self.free[size]:
                return self.free[size].pop()
        self._trim(max(KEEP_BYTES, self.live))
        try:
            buffer = self.host.create_buffer(size)
        except OutOfMemoryError:
            buffer = self._try_again(size, nbytes)
        self.reserved += size
        made = Block(buffer, size)
        self.blocks.add(made)
        return made

    def _try_again(self, size: int, nbytes: int) -> Any:
        gc.collect()
        self._trim(0)
        try:
            return self.host.create_buffer(size)
        except OutOfMemoryError as why:
            raise OutOfMemoryError(
                f"wgpu: no room for {nbytes:,} bytes on "
                f"{self.host.description['adapter']}, with {self.live:,} bytes in use"
            ) from why

    def _trim(self, keep: int) -> None:
        """Drop free blocks, the longest free of each size first, until `keep` bytes."""
        excess = self.reserved - self.live - keep
        if excess <= 0:
            return
        self.release()
        for size in sorted(self.free, reverse=True):
            blocks = self.free[size]
            while blocks and excess > 0:
                self.blocks.discard(blocks.pop(0))
                self.reserved -= size
                excess -= size
