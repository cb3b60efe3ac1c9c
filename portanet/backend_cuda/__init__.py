"""The cuda backend: the .cu files of this folder, compiled at first use for the GPU that is
there, and run by NVIDIA's driver. Nothing of CUDA is imported before a device is opened.

A kernel is two files of one stem: `scan.cu` has the entries, written on `pn.cuh`; `scan.py`
has `plan(program, words, gpu)`, which chooses among them (`plan.py` says what a plan is).
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..dtypes import ALL, Dtype
from ..program import Program
from ..program import fault as fault_of
from . import beside, dlpack, lower
from .plan import MAP_BYTES, Gpu, Plan, Step
from .sequence import Replay

FAULT_BYTES = 24  # of pn_fault_record in pn.cuh
# What a plan is shown where no GPU is: the text is then for Ampere.
NO_GPU = Gpu(80, 108, 163 << 10)


class Buffer:
    """Memory of the device, given back when this is dropped."""

    __slots__ = ("address", "host", "nbytes")

    def __init__(self, host: Any, nbytes: int):
        self.host, self.nbytes, self.address = host, nbytes, 0
        if nbytes:
            self.address = host.alloc(nbytes)

    def __del__(self):
        if self.address:
            self.host.release(self.address, self.nbytes)


class Launch:
    """One launch of an entry, made ready: its function, grid, and block of arguments."""

    __slots__ = (
        "addresses", "arguments", "backend", "can_fault", "config", "function", "label",
        "lock", "maps", "operands", "pointers", "use",
    )  # fmt: skip

    def __init__(self, backend: Backend, program: Program, step: Step):
        host = backend._host
        self.backend, self.lock, self.use = backend, backend._lock, host.use
        self.label = program.label or program.kernel
        self.can_fault = program.can_fault
        self.function = host.kernel(*_source(program, step))
        if step.shared > 48 << 10:
            host.allow_shared(self.function, step.shared)
        self.config = (*step.grid, step.threads, 1, 1, step.shared)
        # The values that the kernel gets, and the address of each, as cuLaunchKernel wants.
        self.operands, self.maps = len(step.operands), step.maps
        width = MAP_BYTES // 8 if step.maps else 1  # words of an operand
        count = self.operands * width
        fault = [backend._fault_address(), backend._label_number(self.label)]
        values = [0] * count + (fault if self.can_fault else [])
        size = len(step.words)
        if not step.is_table:
            size = lower.words_declared(size)
        words = [*step.words, *[0] * (size - len(step.words))]
        self.arguments = (ctypes.c_int64 * (len(values) + size))(*values, *words)
        base = ctypes.addressof(self.arguments)
        starts = [*range(0, count, width)]
        starts += [*([count] if self.can_fault else []), len(values)]
        if step.is_table:  # one argument
            starts = [0]
        self.addresses = (ctypes.c_void_p * len(starts))(
            *[base + 8 * i for i in starts]
        )
        self.pointers = ctypes.addressof(self.addresses)

    def __call__(self, *buffers: Buffer) -> None:
        with self.lock:
            self.use()
            self.on(buffers, self.backend._host.stream)

    def on(self, buffers: Sequence[Buffer], stream: Any) -> None:
        """Launch on a stream; the lock is held."""
        arguments = self.arguments
        host = self.backend._host
        if self.maps:
            self._put_maps(buffers)
        else:
            for i in range(self.operands):
                arguments[i] = buffers[i].address
        (code,) = host.launch_kernel(
            self.function, *self.config, stream, self.pointers, 0
        )
        if code:
            raise host.error(f"{self.label}: cuLaunchKernel", int(code))
        if self.can_fault:
            self.backend._may_have_faulted = True

    def _put_maps(self, buffers: Sequence[Buffer]) -> None:
        to = ctypes.addressof(self.arguments)
        for i, seen in enumerate(self.maps):
            made = self.backend._host.tensor_map(seen, buffers[i].address)
            ctypes.memmove(to + i * MAP_BYTES, made, MAP_BYTES)


class Steps:
    """Several launches in order, with temporary buffers between them."""

    __slots__ = ("backend", "launches", "operands", "temporaries")

    def __init__(self, backend: Backend, launches: list[Launch], plan: Plan):
        self.backend, self.launches = backend, launches
        self.operands = [step.operands for step in plan.steps]
        self.temporaries = plan.temporaries

    def __call__(self, *buffers: Buffer) -> None:
        every = (*buffers, *[self.backend.alloc(n) for n in self.temporaries])
        for launch, operands in zip(self.launches, self.operands):
            launch(*[every[i] for i in operands])


def _nothing(*buffers: Buffer) -> None:
    """The launch of a result without elements."""


def _source(program: Program, step: Step) -> tuple[str, str, tuple[str, ...]]:
    """What is compiled for a step: the text, the entry, the options."""
    options = () if program.expression is not None else ("fma",)
    return lower.text(program, step), step.entry, options


def plan_of(program: Program, words: Sequence[int], gpu: Gpu) -> Plan:
    """The steps of a launch, chosen by the module of the kernel's stem."""
    if program.copies:
        return beside.plan(program, words, gpu, plan_of)
    module = importlib.import_module(f".{program.kernel}", __package__)
    return module.plan(program, tuple(words), gpu)


@functools.cache
def has(kernel: str) -> bool:
    """Whether a kernel of this stem exists."""
    return (lower.HERE / f"{kernel}.cu").exists()


def text(program: Program, words: Sequence[int], gpu: Gpu = NO_GPU) -> str:
    """The CUDA C++ of a launch: each text once."""
    steps = plan_of(program, words, gpu).steps
    return "\n\n".join(dict.fromkeys(lower.text(program, step) for step in steps))


class Backend:
    """One NVIDIA GPU, opened. See portanet.program.Backend."""

    name = "cuda"
    dtypes = frozenset(ALL)
    max_operands = 60  # of one launch; CUDA allows 4 KiB of arguments
    sums_rows = True
    # Each row is a block's, which reads it again: enough of them to fill half a large GPU.
    long_rows = 64
    # An element costs its bytes, not its arithmetic; and what follows a formula joins it.
    formulas_first = True
    epilogues = frozenset({"matmul", "convolve"})
    produces = staticmethod(lambda dtype, words: True)
    copies = frozenset({"elementwise", "reduce"})
    max_copied = 1000  # more than a table of one launch holds
    writes_in_place = frozenset({"elementwise"})
    has_tf32 = True  # where the GPU has it; plans know
    halves = frozenset({"attention", "convolve"})

    def __init__(self, index: int = 0):
        from .host import Host

        self._host = Host(index)
        self._lock = threading.RLock()
        self._labels: dict[str, int] = {}
        self._fault: Buffer | None = None
        self._may_have_faulted = False

    has = staticmethod(has)

    def itemsize(self, dtype: Dtype) -> int:
        """Bytes that an element takes on this device."""
        return dtype.itemsize

    def alloc(self, nbytes: int) -> Buffer:
        """An uninitialised buffer, given back when Python drops it."""
        with self._lock:
            self._host.use()
            return Buffer(self._host, nbytes)

    def upload(self, array: np.ndarray, dtype: Dtype) -> Buffer:
        """A buffer with the values of a C-contiguous array of dtype.numpy."""
        with self._lock:
            buffer = self.alloc(array.nbytes)
            if array.nbytes:
                self._host.write(buffer.address, array)
        return buffer

    def read(self, buffer: Buffer, dtype: Dtype, offset: int, count: int) -> np.ndarray:
        """`count` elements from `offset` on, as a fresh array. Waits; raises faults."""
        if not count:
            self._read([])
            return np.empty(0, dtype.numpy)
        begin, nbytes = offset * dtype.itemsize, count * dtype.itemsize
        return self._read([(buffer.address + begin, nbytes)])[0].view(dtype.numpy)

    def build(self, program: Program, words: Sequence[int]) -> Callable[..., None]:
        """A launch: called with the buffers, outputs first; it doesn't wait."""
        plan = plan_of(program, words, self._host.gpu)
        if not plan.steps:
            return _nothing
        with self._lock:
            self._host.use()
            launches = [Launch(self, program, step) for step in plan.steps]
        step = plan.steps[0]
        direct = len(launches) == 1 and not plan.temporaries
        if direct and step.operands == tuple(range(len(step.operands))):
            return launches[0]
        return Steps(self, launches, plan)

    def prepare(self, pairs: Sequence[tuple[Program, Sequence[int]]]) -> None:
        """Compile together what these programs and words need."""
        with self._lock:
            self._host.use()
            plans = [(p, plan_of(p, words, self._host.gpu)) for p, words in pairs]
            self._host.prepare(_source(p, s) for p, made in plans for s in made.steps)

    def sequence(
        self, steps: Sequence[tuple[Any, tuple[int, ...]]], buffers: int
    ) -> Callable[[list[Any]], None]:
        """The launches, each with the slots of its buffers, as one call of all buffers."""
        return Replay(self, steps)

    def wait(self) -> None:
        """Return when all launches are done; raises their faults."""
        self._read([])

    def lend(self, buffer: Any, layout: Any, **options: Any) -> Any:
        """A DLPack capsule of what a layout sees of a buffer, without a copy."""
        with self._lock:
            return dlpack.lend(self._host, buffer, layout, **options)

    def borrow(self, x: Any) -> tuple[Any, Dtype, tuple, tuple, int]:
        """(buffer, dtype, shape, strides, offset) of anything on this GPU that speaks
        DLPack, without a copy."""
        with self._lock:
            return dlpack.borrow(self._host, x)

    @property
    def dlpack_device(self) -> tuple[int, int]:
        """The device's type and number in DLPack."""
        return dlpack.CUDA, self._host.index

    def memory(self) -> dict[str, int]:
        """Bytes held by live buffers; those and the pool's; the most ever held."""
        host = self._host
        with self._lock:
            host.use()
            reserved = max(host.reserved(), host.used)
        return {"used": host.used, "reserved": reserved, "peak": host.peak}

    def info(self) -> dict[str, Any]:
        """The GPU, its compute capability and memory, the driver, the packages."""
        from .installed import driver_version, gpus, versions

        host = self._host
        version = driver_version(host.driver)
        return {
            "adapter": host.name,
            "gpus": gpus(),
            "capability": f"{host.gpu.arch // 10}.{host.gpu.arch % 10}",
            "multiprocessors": host.gpu.multiprocessors,
            "memory": f"{host.total / 2**30:.1f} GiB",
            "driver": f"CUDA {version // 1000}.{version % 1000 // 10}",
            "packages": versions(),
            "kernels": str(host.cubins.folder),
        }

    def text(self, program: Program) -> str:
        """The CUDA C++ of a program, for words that are all 1."""
        return text(program, [1] * 64, self._host.gpu)

    # ------------------------------------------------------------------ faults

    def _label_number(self, label: str) -> int:
        """The number by which a fault names the operator that asked."""
        return self._labels.setdefault(label, len(self._labels))

    def _fault_address(self) -> int:
        if self._fault is None:
            self._fault = self.alloc(FAULT_BYTES)
            self._host.fill(self._fault.address, FAULT_BYTES)
        return self._fault.address

    def _read(self, parts: list[tuple[int, int]]) -> list[np.ndarray]:
        """The bytes of these parts, once everything before is done and has no fault."""
        with self._lock:
            host = self._host
            host.use()
            if not self._may_have_faulted or self._fault is None:
                return host.read(parts)
            *data, record = host.read([*parts, (self._fault.address, FAULT_BYTES)])
            self._may_have_faulted = False
            word, value, size = (int(w) for w in record.view(np.int64))
            if word:
                host.fill(self._fault.address, FAULT_BYTES)
                raise fault_of(word & 255, list(self._labels)[word >> 8], value, size)
        return data
