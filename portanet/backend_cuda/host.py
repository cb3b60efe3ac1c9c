"""The only module that talks to the NVIDIA driver: open, copy, compile, launch, graphs.

Everything runs on one non-blocking stream of the device, in order. Memory comes from a
pool of the driver's own and goes back to it in the order of the stream.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import hashlib
import importlib
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeviceError, OutOfMemoryError
from .plan import MAP_BYTES, Gpu, TensorMap

NEWEST = "pip install 'portanet[cuda]'"  # CUDA 13: driver R580 and newer, Turing on
OLDER = "pip install 'portanet[cuda12]'"  # CUDA 12: driver R525 and newer, Maxwell on
STAGING = 4 << 20  # bytes of each half of the pinned memory that copies go through
MAPS = 4096  # tensor maps kept; then all are made anew
CACHE_BYTES = 256 << 20  # of compiled kernels on disk, the least recently read go first

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


class CudaError(DeviceError):
    """A call of the driver that failed; `code` is its CUresult."""

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


# ----------------------------------------------------------------- what is there


def _load(module: str) -> Any:
    """A module of the packages of the extras, which have no stubs."""
    return importlib.import_module(module)


@functools.cache
def driver() -> Any:
    """The driver's functions, initialised. DeviceError says what is missing."""
    try:
        found = _load("cuda.bindings.driver")
    except ImportError as why:
        raise DeviceError(
            f"cuda: a Python package is missing ({why}); {NEWEST}, or, where the "
            f"driver is older than R580 or the GPU older than Turing, {OLDER}"
        ) from None
    try:
        code = int(found.cuInit(0)[0])
    except RuntimeError as why:  # the library is not there, or lacks the function
        raise DeviceError(
            "cuda: no NVIDIA driver is installed here (libcuda.so.1 does not load: "
            f"{_first_line(why)}); install it from nvidia.com/drivers, or use "
            "device='wgpu'"
        ) from None
    if code == 100:
        raise DeviceError(
            "cuda: the NVIDIA driver is installed but finds no GPU; see nvidia-smi, "
            "CUDA_VISIBLE_DEVICES, and in a container --gpus all"
        )
    if code in (35, 34, 803, 804):
        raise DeviceError(
            f"cuda: the NVIDIA driver is older than this version of CUDA ({code}); "
            f"update the driver, or {OLDER}"
        )
    if code:
        raise CudaError(f"cuda: the driver does not start: {_name(found, code)}", code)
    _check_driver_version(found)
    return found


def driver_version(found: Any) -> int:
    """1000 major + 10 minor of the newest CUDA that the driver knows."""
    return int(found.cuDriverGetVersion()[1])


def _check_driver_version(found: Any) -> None:
    have = driver_version(found) // 1000
    needs = int(bindings_version().split(".")[0])
    if have >= needs:
        return
    cure = f"update the driver to R580 or newer, or {OLDER}" if have >= 12 else (
        "update the driver; CUDA 12 needs R525, CUDA 13 needs R580"
    )  # fmt: skip
    raise DeviceError(
        f"cuda: the driver knows CUDA {have}, the installed cuda-bindings are for "
        f"CUDA {needs}; {cure}"
    )


@functools.cache
def bindings_version() -> str:
    """The version of cuda-bindings, whose major number is CUDA's."""
    return _load("cuda.bindings").__version__


def gpus() -> list[str]:
    """The names of the GPUs, in the order of their numbers."""
    d = driver()
    names = []
    for i in range(int(d.cuDeviceGetCount()[1])):
        names.append(d.cuDeviceGetName(128, d.cuDeviceGet(i)[1])[1])
    return [n.split(b"\0")[0].decode() for n in names]


def usable() -> list[str]:
    """The GPUs, once everything that is needed is found. DeviceError says what is not."""
    found = gpus()
    check_compiler()
    return found


def check_compiler() -> None:
    """DeviceError where NVRTC does not load or is newer than the driver."""
    nvrtc = _load("cuda.bindings.nvrtc")
    try:
        _, major, _ = nvrtc.nvrtcVersion()
    except RuntimeError as why:
        raise DeviceError(
            "cuda: NVRTC, which compiles the kernels, does not load "
            f"({_first_line(why)}); {NEWEST}, or {OLDER} with an older driver"
        ) from None
    if major > driver_version(driver()) // 1000:
        raise DeviceError(
            f"cuda: NVRTC is of CUDA {major}, which the driver does not know; update "
            f"the driver to R580 or newer, or {OLDER}"
        )


def _name(d: Any, code: int) -> str:
    found = d.cuGetErrorName(d.CUresult(code))[1]
    return found.decode() if found else f"error {code}"


def _first_line(why: object) -> str:
    return next(iter(str(why).strip().splitlines()), "").rstrip(".")


# -------------------------------------------------------------- compiled kernels


def cache_dir() -> Path:
    """The folder of compiled kernels."""
    if own := os.environ.get("PORTANET_CACHE"):
        return Path(own).expanduser().absolute() / "cuda"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "portanet" / "cuda"


class Cubins:
    """Compiled texts, on disk as their SHA-256 and then the cubin.

    A file that is damaged is compiled anew. A folder that can't be written is told of
    once, and kernels are compiled in every process.
    """

    def __init__(self, arch: str):
        self.arch = arch
        self.files: Any = None
        self.compiled = self.loaded = 0
        self.folder = cache_dir()
        try:
            files = _load("cuda.core.utils").FileStreamProgramCache
            self.files = files(self.folder, max_size_bytes=CACHE_BYTES)
        except OSError as why:
            self._give_up(why)

    def _give_up(self, why: Exception) -> None:
        self.files = None
        warnings.warn(
            f"cuda: compiled kernels can't be kept in {self.folder} ({why}); set "
            "PORTANET_CACHE to a folder that can be written",
            RuntimeWarning,
            stacklevel=2,
        )

    def get(self, text: str, name: str, options: tuple[str, ...] = ()) -> bytes:
        """The cubin of a text."""
        key = "\0".join((bindings_version(), self.arch, *options, text)).encode()
        key = hashlib.sha256(key).digest()
        found = self._read(key)
        if found is None:
            found = self.compile(text, name, options)
            self._write(key, found)
        return found

    def _read(self, key: bytes) -> bytes | None:
        if self.files is None:
            return None
        try:
            data = bytes(self.files[key])
        except (KeyError, OSError):
            return None
        cubin = data[32:]
        if hashlib.sha256(cubin).digest() != data[:32]:
            return None
        self.loaded += 1
        return cubin

    def _write(self, key: bytes, cubin: bytes) -> None:
        if self.files is not None:
            try:
                self.files[key] = hashlib.sha256(cubin).digest() + cubin
            except OSError as why:
                self._give_up(why)

    def compile(self, text: str, name: str, options: tuple[str, ...] = ()) -> bytes:
        """The cubin of a text, from NVRTC."""
        if not self.compiled:
            check_compiler()
        core = _load("cuda.core")
        chosen = core.ProgramOptions(
            arch=self.arch, std="c++17", name=name, fma="fma" in options
        )
        try:
            made = core.Program(text, "c++", chosen).compile("cubin").code
        except Exception as why:  # its classes differ between versions
            raise DeviceError(
                f"cuda: {name} does not compile for {self.arch}: {why}"
            ) from why
        self.compiled += 1
        return bytes(made)


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
        what = _name(self.driver, code)
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

    def kernel(self, text: str, entry: str, options: tuple[str, ...] = ()) -> Any:
        """An entry of a text, compiled and loaded."""
        name = "t" + hashlib.sha256(text.encode()).hexdigest()[:16]
        if name not in self.modules:
            full = f"#define PN_TEXT {name}\n{text}"
            if self.texts:
                Path(self.texts, f"{name}.cu").write_text(full)
            cubin = self.cubins.get(full, entry, options)
            self.modules[name] = self.call("cuModuleLoadData", cubin)
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
        finally:
            graph = self.call("cuStreamEndCapture", self.recorder)
        made = self.call("cuGraphInstantiate", graph, 0)
        self.call("cuGraphDestroy", graph)
        return made

    def replay(self, graph: Any) -> None:
        self.call("cuGraphLaunch", graph, self.stream)

    def forget(self, graph: Any) -> None:
        self.call("cuGraphExecDestroy", graph)


def versions() -> dict[str, str]:
    """Of the packages that the device stands on."""
    found = {}
    for package in ("cuda-core", "cuda-bindings", *_NVRTC):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


_NVRTC = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")
