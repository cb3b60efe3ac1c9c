"""The only module that drives the GPU: open, copy, load kernels, launch, graphs.

Everything runs on one non-blocking stream of the device, in order. Memory comes from a
pool of the driver's own and goes back to it in the order of the stream.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeviceError, OutOfMemoryError
from .cubins import Cubins
from .installed import OLDER, CudaError, bindings_version, driver, gpus, name_of
from .plan import MAP_BYTES, Gpu, TensorMap

STAGING = 4 << 20  # bytes of each half of the pinned memory that copies go through
MAPS = 4096  # tensor maps kept; then all are made anew

# Errors after which the driver's context answers every call with the same error.
LOST = {
    700: "a kernel read or wrote outside its memory",
    702: "a kernel ran longer than the system allows",
    710: "a kernel stopped at an assertion",
    715: "a kernel has an illegal instruction",
    716: "a kernel used a misaligned address",
    718: "a kernel jumped outside its code",
    719: "a kernel failed",
}


# ----------------------------------------------------------------- pinned memory


class Staging:
    """Pinned memory that copies go through: two halves in turn. A half is used again when
    the stream has passed the copies of its last use."""

    def __init__(self, host: Host):
        self.host = host
        address = host.call("cuMemHostAlloc", 2 * STAGING, 0)
        self.address = int(address)
        memory: Any = (ctypes.c_ubyte * (2 * STAGING)).from_address(self.address)
        self.bytes = np.frombuffer(memory, np.uint8)
        self.done = [host.call("cuEventCreate", 2) for _ in range(2)]  # without timing
        self.half, self.top = 0, 0

    def take(self, nbytes: int) -> int:
        """Where nbytes, at most STAGING, may be written."""
        if self.top + nbytes > STAGING:
            self.host.call("cuEventRecord", self.done[self.half], self.host.stream)
            self.half, self.top = 1 - self.half, 0
            self.host.call("cuEventSynchronize", self.done[self.half])
        at = self.half * STAGING + self.top
        self.top += nbytes + -nbytes % 64
        return at


def _name_of(text: str) -> str:
    """By which a text and its entries are known."""
    return "t" + hashlib.sha256(text.encode()).hexdigest()[:16]


# ------------------------------------------------------------------------ device

_exiting: list[bool] = []
atexit.register(_exiting.append, True)


class Host:
    """One GPU, opened. Not safe for several threads at once, but for `release`."""

    def __init__(self, index: int):
        self.driver = d = driver()
        count = self.call("cuDeviceGetCount")
        if index >= count:
            known = ", ".join(f"cuda:{i} {n}" for i, n in enumerate(gpus()))
            raise DeviceError(f"cuda: there is no cuda:{index}; there are: {known}")
        self.index, self.several = index, count > 1
        self.device = self.call("cuDeviceGet", index)
        major, minor = self._attribute(75), self._attribute(76)
        self.gpu = Gpu(10 * major + minor, self._attribute(16), self._attribute(97))
        self._check_age(major, minor)
        self.name = gpus()[index]
        self.total = int(self.call("cuDeviceTotalMem", self.device))
        self.context = self.call("cuDevicePrimaryCtxRetain", self.device)
        self.current = threading.local()
        self.use()
        self.stream = self.call("cuStreamCreate", 1)  # non-blocking
        self.recorder = self.call("cuStreamCreate", 1)  # of graphs; runs nothing
        self.pool = self._create_pool()
        self.used = self.peak = 0
        self.exiting = _exiting
        self.lost = ""
        self.stream_number = int(self.stream)
        self.pool_number = int(self.pool)
        # sm_90a has what only Hopper has (wgmma, TMA).
        suffix = "a" if self.gpu.arch == 90 else ""
        self.cubins = Cubins(f"sm_{self.gpu.arch}{suffix}")
        self.modules: dict[str, Any] = {}
        self.maps: dict[tuple[TensorMap, int], bytes] = {}
        self.staging: Staging | None = None
        self.texts = os.environ.get("PORTANET_CUDA_TEXTS")
        self.launch_kernel = d.cuLaunchKernel

    def _check_age(self, major: int, minor: int) -> None:
        if 10 * major + minor < 75 and int(bindings_version().split(".")[0]) >= 13:
            raise DeviceError(
                f"cuda: the GPU has compute capability {major}.{minor}; CUDA 13 needs "
                f"7.5 (Turing) or newer; {OLDER}"
            )

    def _attribute(self, number: int) -> int:
        wanted = self.driver.CUdevice_attribute(number)
        return int(self.call("cuDeviceGetAttribute", wanted, self.device))

    def _create_pool(self) -> Any:
        """A pool that keeps what is freed, until another process or pool needs it."""
        d = self.driver
        if not self._attribute(115):
            raise DeviceError("cuda: the driver has no memory pools; update it")
        wanted = d.CUmemPoolProps()
        wanted.allocType = d.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        wanted.location.type = d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        wanted.location.id = self.index
        pool = self.call("cuMemPoolCreate", wanted)
        keep = d.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
        self.call("cuMemPoolSetAttribute", pool, keep, d.cuuint64_t(2**64 - 1))
        return pool

    def call(self, name: str, *args: Any) -> Any:
        """The result of a function of the driver; DeviceError where it fails."""
        code, *result = getattr(self.driver, name)(*args)
        if code:
            raise self.error(name, int(code))
        return result[0] if result else None

    def error(self, name: str, code: int) -> Exception:
        """What to raise for a failed call."""
        what = name_of(self.driver, code)
        if code == 2:
            return OutOfMemoryError(f"cuda: {name}: out of memory")
        if code in LOST:
            self.lost = f"{LOST[code]} ({what})"
            return CudaError(
                f"cuda: {self.lost}; the GPU's memory is lost to this process, which "
                "must be started again",
                code,
            )
        return CudaError(f"cuda: {name} failed: {what}", code)

    def use(self) -> None:
        """Make the device's context the one of this thread."""
        if self.several or not hasattr(self.current, "set"):
            self.current.set = True
            self.call("cuCtxSetCurrent", self.context)

    # ------------------------------------------------------------------ memory

    def alloc(self, nbytes: int) -> int:
        """The address of nbytes, uninitialised."""
        d = self.driver
        code, address = d.cuMemAllocFromPoolAsync(nbytes, self.pool, self.stream)
        if code:
            address = self._alloc_again(nbytes, int(code))
        self.used += nbytes
        if self.used > self.peak:
            self.peak = self.used
        return int(address)

    def _alloc_again(self, nbytes: int, code: int) -> Any:
        """After what is garbage or only kept for later has gone back to the driver."""
        if code == 2:
            gc.collect()
            self.call("cuStreamSynchronize", self.stream)
            self.call("cuMemPoolTrimTo", self.pool, 0)
            d = self.driver
            code, address = d.cuMemAllocFromPoolAsync(nbytes, self.pool, self.stream)
            if not code:
                return address
        if int(code) != 2:
            raise self.error("cuMemAllocFromPoolAsync", int(code))
        free, total = self.driver.cuMemGetInfo()[1:]
        raise OutOfMemoryError(
            f"cuda: no room for {nbytes:,} bytes on {self.name}, with {self.used:,} "
            f"bytes in use here and {int(free):,} of {int(total):,} bytes free"
        )

    def release(self, address: int, nbytes: int) -> None:
        """Give memory back once the stream is past what uses it. Runs anywhere, also
        inside the garbage collector; at exit the driver frees all by itself."""
        self.used -= nbytes
        if not self.exiting:
            self.driver.cuMemFreeAsync(address, self.stream)

    def reserved(self) -> int:
        """Bytes that the pool holds."""
        what = self.driver.CUmemPool_attribute.CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT
        return int(self.call("cuMemPoolGetAttribute", self.pool, what))

    def fill(self, address: int, nbytes: int) -> None:
        """Zeros."""
        self.call("cuMemsetD8Async", address, 0, nbytes, self.stream)

    def write(self, address: int, values: np.ndarray) -> None:
        """Copy an array's bytes to the device. The array is free when this returns."""
        if self.staging is None:
            self.staging = Staging(self)
        data = values.reshape(-1).view(np.uint8)
        for begin in range(0, data.size, STAGING):
            part = data[begin : begin + STAGING]
            at = self.staging.take(part.size)
            self.staging.bytes[at : at + part.size] = part
            source = self.staging.address + at
            self.call(
                "cuMemcpyHtoDAsync", address + begin, source, part.size, self.stream
            )

    def read(self, parts: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """The bytes of these parts, each (address, nbytes). Waits."""
        if self.staging is None:
            self.staging = Staging(self)
        found = [np.empty(nbytes, np.uint8) for _, nbytes in parts]
        waiting: list[tuple[np.ndarray, int]] = []
        for (address, nbytes), data in zip(parts, found, strict=True):
            for begin in range(0, nbytes, STAGING):
                part = data[begin : begin + STAGING]
                if self.staging.top + part.size > STAGING:
                    self._receive(waiting)
                at = self.staging.take(part.size)
                to = self.staging.address + at
                self.call(
                    "cuMemcpyDtoHAsync", to, address + begin, part.size, self.stream
                )
                waiting.append((part, at))
        self._receive(waiting)
        return found

    def _receive(self, waiting: list[tuple[np.ndarray, int]]) -> None:
        self.wait()
        for part, at in waiting:
            part[:] = self.staging.bytes[at : at + part.size]  # type: ignore[union-attr]
        waiting.clear()

    def wait(self) -> None:
        """Return when the stream is empty."""
        self.call("cuStreamSynchronize", self.stream)

    def order(self, first: Any, then: Any) -> None:
        """What is queued on one stream comes before what will be queued on another."""
        self.use()
        event = self.call("cuEventCreate", 2)
        self.call("cuEventRecord", event, first)
        self.call("cuStreamWaitEvent", then, event, 0)
        self.call("cuEventDestroy", event)

    # ----------------------------------------------------------------- kernels

    def prepare(self, kernels: Iterable[tuple[str, str, tuple[str, ...]]]) -> None:
        """Compile and load what is not loaded yet: (text, entry, options) of each."""
        new = {}
        for text, entry, options in kernels:
            name = _name_of(text)
            if name not in self.modules and name not in new:
                new[name] = (f"#define PN_TEXT {name}\n{text}", entry, options)
        if self.texts:
            for name, (full, _, _) in new.items():
                Path(self.texts, f"{name}.cu").write_text(full)
        cubins = self.cubins.get_all(list(new.values()))
        for name, cubin in zip(new, cubins, strict=True):
            self.modules[name] = self.call("cuModuleLoadData", cubin)

    def kernel(self, text: str, entry: str, options: tuple[str, ...] = ()) -> Any:
        """An entry of a text, compiled and loaded."""
        self.prepare([(text, entry, options)])
        name = _name_of(text)
        found = f"{entry}_{name}".encode()
        return self.call("cuModuleGetFunction", self.modules[name], found)

    def allow_shared(self, function: Any, nbytes: int) -> None:
        """Let a kernel have more than 48 KiB of dynamic shared memory."""
        what = self.driver.CUfunction_attribute(8)
        self.call("cuFuncSetAttribute", function, what, nbytes)

    def tensor_map(self, seen: TensorMap, address: int) -> bytes:
        """The 128 bytes by which Hopper's kernels know an operand that lies there."""
        found = self.maps.get((seen, address))
        if found is None:
            if len(self.maps) >= MAPS:
                self.maps.clear()
            found = self.maps[seen, address] = self._encode(seen, address)
        return found

    def _encode(self, seen: TensorMap, address: int) -> bytes:
        room = (ctypes.c_ubyte * (2 * MAP_BYTES))()
        at = -ctypes.addressof(room) % MAP_BYTES  # where the driver wants it to start
        code = self._encode_tiled(
            ctypes.byref(room, at),
            {"float16": 6, "bfloat16": 9}[seen.dtype],  # of CUtensorMapDataType
            3,
            address + seen.offset,
            (ctypes.c_uint64 * 3)(*seen.sizes),
            (ctypes.c_uint64 * 2)(*seen.strides),
            (ctypes.c_uint32 * 3)(*seen.box),
            (ctypes.c_uint32 * 3)(1, 1, 1),
            *(
                0,
                3,
                3,
                0,
            ),  # not interleaved, swizzle 128, fetch 256 into L2, zeros outside
        )
        if code:
            raise self.error("cuTensorMapEncodeTiled", code)
        return bytes(room[at : at + MAP_BYTES])

    @functools.cached_property
    def _encode_tiled(self) -> Callable[..., int]:
        """cuTensorMapEncodeTiled without its Python wrapper, whose CUtensorMap may start
        where the driver takes none: github.com/NVIDIA/cuda-python/pull/1692."""
        name = b"cuTensorMapEncodeTiled"
        found = self.driver.cuGetProcAddress(name, 12000, self.driver.cuuint64_t(0))
        if found[0]:
            raise self.error("cuGetProcAddress", int(found[0]))
        pointer, number = ctypes.c_void_p, ctypes.c_uint32
        kinds = [pointer, number, number, pointer, *[pointer] * 4, *[number] * 4]
        return ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(int(found[1]))

    # ------------------------------------------------------------------ graphs

    def record(self, play: Callable[[Any], None]) -> Any:
        """A graph of what `play` launches on the stream that it is given."""
        d = self.driver
        mode = d.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.call("cuStreamBeginCapture", self.recorder, mode)
        try:
            play(self.recorder)
        except BaseException:
            code, graph = d.cuStreamEndCapture(self.recorder)  # which may fail too
            if not code:
                d.cuGraphDestroy(graph)
            raise
        graph = self.call("cuStreamEndCapture", self.recorder)
        made = self.call("cuGraphInstantiate", graph, 0)
        self.call("cuGraphDestroy", graph)
        return made

    def replay(self, graph: Any) -> None:
        self.call("cuGraphLaunch", graph, self.stream)

    def forget(self, graph: Any) -> None:
        self.call("cuGraphExecDestroy", graph)
