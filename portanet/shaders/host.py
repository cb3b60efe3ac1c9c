"""The only module that touches wgpu-py: open a device, buffers, pipelines, dispatches.

Everything above it sees opaque handles, so that another host (Dawn, a browser) can take
its place. An error inside a submit aborts the process (wgpu-native 29), so all commands
are validated by `finish` before, and nothing is ever destroyed, only dropped.
"""

from __future__ import annotations

import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..errors import DeviceError, OutOfMemoryError
from .recorder import NEEDED, READBACK, PlainRecorder, Recorder

# The defaults of the WebGPU specification, which every device has (gpuweb.github.io,
# 3.6.2). wgpu-py 0.32 asks for all that the adapter has where a limit is left out.
DEFAULT_LIMITS = {
    "max-buffer-size": 256 << 20,
    "max-storage-buffer-binding-size": 128 << 20,
    "max-storage-buffers-per-shader-stage": 8,
    "max-uniform-buffer-binding-size": 64 << 10,
    "max-uniform-buffers-per-shader-stage": 12,
    "max-bind-groups": 4,
    "max-bindings-per-bind-group": 1000,
    "max-dynamic-storage-buffers-per-pipeline-layout": 4,
    "max-dynamic-uniform-buffers-per-pipeline-layout": 8,
    "max-compute-workgroup-storage-size": 16384,
    "max-compute-invocations-per-workgroup": 256,
    "max-compute-workgroup-size-x": 256,
    "max-compute-workgroup-size-y": 256,
    "max-compute-workgroup-size-z": 64,
    "max-compute-workgroups-per-dimension": 65535,
    "min-storage-buffer-offset-alignment": 256,
    "min-uniform-buffer-offset-alignment": 256,
}
# Where the adapter has more of these, it is asked for.
USEFUL_LIMITS = (
    "max-buffer-size",
    "max-storage-buffer-binding-size",
    "max-storage-buffers-per-shader-stage",
    "max-compute-workgroup-storage-size",
    "max-compute-invocations-per-workgroup",
    "max-compute-workgroup-size-x",
    "max-compute-workgroup-size-y",
)
FEATURES = ("shader-f16", "timestamp-query")

STORAGE = 0x80 | 0x4 | 0x8  # STORAGE, COPY_SRC, COPY_DST
UNIFORM = 0x40 | 0x8  # UNIFORM, COPY_DST
COMPUTE = 0x4  # ShaderStage.COMPUTE
RESOLVED = 0x200 | 0x4  # QUERY_RESOLVE, COPY_SRC
THREADS = 8  # that compile pipelines
QUERIES = 4096  # of one set, at most (WebGPU, 20.1)

# A read of up to this many bytes uses one buffer that is kept.
SMALL_READ = 64 << 10

_KINDS = {"DiscreteGPU": 0, "IntegratedGPU": 1, "CPU": 3}
_lost = False  # some device of this process reported its loss


class _LossListener(logging.Filter):
    """Notes that wgpu-py logs a lost device: it has no other way to tell (0.32)."""

    def filter(self, record: logging.LogRecord) -> bool:
        global _lost
        if "lost" in str(record.msg).lower():
            _lost = True
        return True


def _import_wgpu() -> Any:
    """wgpu, with a Vulkan driver where one was unpacked for us."""
    if "wgpu" not in sys.modules:
        from .. import drivers

        drivers.activate()
    try:
        import wgpu
        import wgpu.backends.wgpu_native
    except (ImportError, OSError, RuntimeError) as why:
        raise DeviceError(
            f"wgpu: the package wgpu can't be loaded ({why}); "
            "install it with `pip install wgpu`"
        ) from why
    # After the import: a logger of this name made before makes the import fail.
    logger = logging.getLogger("wgpu")
    if not any(isinstance(f, _LossListener) for f in logger.filters):
        logger.addFilter(_LossListener())
    return wgpu


def adapters() -> list[Any]:
    """The adapters of this machine, the fastest kind first, software last.

    OpenGL adapters are left out: they lack parts of WebGPU. Direct3D is left out where
    Vulkan drives the same GPU.
    """
    wgpu = _import_wgpu()
    try:
        found = wgpu.gpu.enumerate_adapters_sync()
    except RuntimeError:  # wgpu-py raises where the list is empty
        found = []
    found = [a for a in found if a.info["backend_type"] in ("Vulkan", "Metal", "D3D12")]
    vulkan = {_identity(a) for a in found if a.info["backend_type"] == "Vulkan"}
    found = [
        a
        for a in found
        if a.info["backend_type"] != "D3D12" or _identity(a) not in vulkan
    ]
    return sorted(found, key=lambda a: _KINDS.get(a.info["adapter_type"], 2))


def _identity(adapter: Any) -> tuple:
    return adapter.info["vendor_id"], adapter.info["device_id"]


def describe(adapter: Any) -> dict[str, Any]:
    """What a person wants to know of an adapter."""
    info = adapter.info
    return {
        "adapter": info["device"],
        "backend": info["backend_type"],
        "driver": info["description"],
        "type": info["adapter_type"],
        "software": info["adapter_type"] == "CPU",
    }


def _choose(index: int) -> Any:
    found = adapters()
    if index < len(found):
        return found[index]
    if found:
        names = ", ".join(a.info["device"] for a in found)
        raise DeviceError(
            f"wgpu:{index}: there are {len(found)} adapters, counted from 0: {names}"
        )
    cure = (
        "`portanet doctor --fix` unpacks a software driver without root"
        if sys.platform.startswith("linux")
        else "install the GPU's driver"
    )
    raise DeviceError(
        f"wgpu: no Vulkan, Metal or Direct3D 12 adapter was found; {cure}"
    )


def _wanted_limits(adapter: Any) -> dict[str, int]:
    """Limits to ask for. PORTANET_WGPU_LIMITS: "default" or "adapter" (the default)."""
    level = os.environ.get("PORTANET_WGPU_LIMITS") or "adapter"
    if level not in ("default", "adapter"):
        raise DeviceError(
            f"wgpu: PORTANET_WGPU_LIMITS is {level!r}; use 'default' or 'adapter'"
        )
    wanted = dict(DEFAULT_LIMITS)
    if level == "adapter":
        for name in USEFUL_LIMITS:
            wanted[name] = max(wanted[name], adapter.limits[name])
    # An adapter below WebGPU's defaults is asked for all that it has.
    return {
        name: min(limit, adapter.limits[name]) if name.startswith("max") else limit
        for name, limit in wanted.items()
    }


class Host:
    """One open device. Its handles are wgpu-py's objects, opaque to the caller."""

    def __init__(self, index: int):
        wgpu = _import_wgpu()
        adapter = _choose(index)
        wanted = _wanted_limits(adapter)
        features = [f for f in FEATURES if f in adapter.features]
        try:
            self.device = adapter.request_device_sync(
                required_features=features, required_limits=wanted
            )
        except Exception as why:
            raise DeviceError(
                f"wgpu: {adapter.info['device']} refused to open: {why}"
            ) from why
        self.queue = self.device.queue
        self.limits = {name: self.device.limits[name] for name in wanted}
        self.features = sorted(features)
        self.version = wgpu.__version__
        self.description = describe(adapter)
        self.is_lost = False
        self._layouts: dict[tuple, tuple[Any, Any]] = {}
        self._modules: dict[str, Any] = {}
        self._small: Any = None
        self._native = native = _native(wgpu)
        self.recorder: Recorder | PlainRecorder = PlainRecorder(self.device)
        if native:
            self.recorder = Recorder(self.device, *native)
        self._answers: list[tuple[Exception, Any]] = []  # see _map_natively
        self._all_answers: list[tuple[Exception, Any]] = []
        self.dispatch = self.recorder.dispatch
        self.dispatch_all = self.recorder.dispatch_all

    # ---------------------------------------------------------------- buffers

    def create_buffer(self, nbytes: int, usage: int = STORAGE) -> Any:
        """A zeroed buffer. OutOfMemoryError where the device has no room."""
        try:
            return self.device.create_buffer(size=nbytes, usage=usage)
        except Exception as why:
            raise self._explained(why, f"no room for {nbytes} bytes") from why

    def write(self, buffer: Any, offset: int, data: Any) -> None:
        """Copy bytes in; they arrive before anything that is submitted later."""
        try:
            self.queue.write_buffer(buffer, offset, data)
        except Exception as why:
            raise self._explained(why, f"writing {data.nbytes} bytes failed") from why

    def read(self, parts: list[tuple[Any, int, int]]) -> memoryview:
        """The bytes of some (buffer, offset, nbytes), one after the other. Waits.

        Offsets and sizes are multiples of 4. Goes out with what was recorded before.
        """
        total = sum(nbytes for _, _, nbytes in parts)
        self.check()
        target = self._readback(total)
        try:
            self.recorder.copy(parts, target)
        except Exception as why:
            raise self._explained(why, "recorded commands were refused") from why
        self.submit()
        data = self._map(target, total)
        if total <= SMALL_READ:
            self._small = target
        return data

    def _readback(self, nbytes: int) -> Any:
        """A buffer to read from. The one that is kept is taken, and not given back where
        the read does not end well: who knows in which state it is then."""
        if nbytes > SMALL_READ:
            return self.create_buffer(nbytes, READBACK)
        kept, self._small = self._small, None
        return kept or self.create_buffer(SMALL_READ, READBACK)

    def _map(self, buffer: Any, nbytes: int) -> memoryview:
        """The first bytes of a readback buffer, when all that was submitted is done."""
        try:
            if self._native:
                return self._map_natively(buffer, nbytes)
            buffer.map_sync("READ_NOSYNC", 0, min(nbytes + -nbytes % 8, buffer.size))
            data = buffer.read_mapped(0, nbytes)
            buffer.unmap()
            return data
        except Exception as why:
            raise self._explained(why, f"reading {nbytes} bytes failed") from why

    def _map_natively(self, buffer: Any, nbytes: int) -> memoryview:
        """The same, polling here: wgpu-py's own thread takes 100 us more (0.32)."""
        native: Any = self._native
        ffi, lib, _ = native
        answer, callback = taken = self._take_answer()
        info = ffi.new("WGPUBufferMapCallbackInfo *")
        info.mode = lib.WGPUCallbackMode_AllowProcessEvents
        info.callback = callback
        lib.wgpuBufferMapAsync(
            buffer._internal, lib.WGPUMapMode_Read, 0, nbytes, info[0]
        )
        while not answer.args:
            self.recorder.wait()
        status = answer.args[0]
        answer.args = ()
        self._answers.append(taken)
        if status != lib.WGPUMapAsyncStatus_Success:
            self.check()
            raise RuntimeError(f"mapping gave status {status}")
        pointer = lib.wgpuBufferGetConstMappedRange(buffer._internal, 0, nbytes)
        data = bytearray(ffi.buffer(pointer, nbytes))
        lib.wgpuBufferUnmap(buffer._internal)
        return memoryview(data)

    def _take_answer(self) -> tuple[Exception, Any]:
        """What a map calls when it is done, and where that puts its arguments.

        A callback that is Python would be where Ctrl-C raises during a long wait, and the
        wait would not end. The __init__ of an exception is C, and keeps its arguments. A
        read that was interrupted leaves the device with a callback that it may still call:
        that one is kept for ever, and not used again.
        """
        if not self._answers:
            assert self._native
            answer = Exception()
            kind = "void(WGPUMapAsyncStatus, WGPUStringView, void *, void *)"
            callback = self._native[0].callback(kind, answer.__init__)
            self._all_answers.append((answer, callback))
            self._answers.append((answer, callback))
        return self._answers.pop()

    # -------------------------------------------------------------- pipelines

    def pipeline(self, text: str, entry: str, kinds: tuple[str, ...]) -> Any:
        """A compiled entry point. `kinds`: "uniform", "read" or "write" a binding."""
        try:
            if text not in self._modules:
                self._modules[text] = self._module(text)
            _, layout = self._layout(kinds)
            return self.device.create_compute_pipeline(
                layout=layout,
                compute={"module": self._modules[text], "entry_point": entry},
            )
        except Exception as why:
            raise self._explained(why, f"the shader {entry} was refused") from why

    def pipelines(self, wanted: list[tuple[str, str, tuple[str, ...]]]) -> dict:
        """(text, entry) -> pipeline, for some (text, entry, kinds), compiled on threads."""
        for _, _, kinds in wanted:
            self._layout(kinds)
        count = min(THREADS, os.cpu_count() or 1, len(wanted))
        if count < 2:
            return {(t, entry): self.pipeline(t, entry, k) for t, entry, k in wanted}
        with ThreadPoolExecutor(count) as threads:
            # The modules first: two entries of one text share theirs.
            texts = list({text for text, _, _ in wanted} - self._modules.keys())
            modules = threads.map(self._module, texts)
            self._modules.update(zip(texts, modules, strict=True))
            made = threads.map(lambda one: self.pipeline(*one), wanted)
            keys = [(text, entry) for text, entry, _ in wanted]
            return dict(zip(keys, made, strict=True))

    def _module(self, text: str) -> Any:
        try:
            return self.device.create_shader_module(code=text)
        except Exception as why:
            raise self._explained(why, "a shader was refused") from why

    def _layout(self, kinds: tuple[str, ...]) -> tuple[Any, Any]:
        """The bind group layout and pipeline layout of these kinds, made once."""
        if kinds not in self._layouts:
            types = {
                "uniform": "uniform",
                "read": "read-only-storage",
                "write": "storage",
            }
            entries = [
                {"binding": i, "visibility": COMPUTE, "buffer": {"type": types[k]}}
                for i, k in enumerate(kinds)
            ]
            group = self.device.create_bind_group_layout(entries=entries)
            layout = self.device.create_pipeline_layout(bind_group_layouts=[group])
            self._layouts[kinds] = (group, layout)
        return self._layouts[kinds]

    def bind(self, kinds: tuple[str, ...], resources: list[tuple]) -> Any:
        """A bind group of (buffer, offset, nbytes), one for each kind."""
        entries = [
            {"binding": i, "resource": {"buffer": b, "offset": o, "size": n}}
            for i, (b, o, n) in enumerate(resources)
        ]
        layout, _ = self._layout(kinds)
        try:
            return self.device.create_bind_group(layout=layout, entries=entries)
        except Exception as why:
            raise self._explained(why, "binding buffers failed") from why

    # -------------------------------------------------------------- recording

    def submit(self) -> None:
        """Send what was recorded; waits only where too much is under way."""
        self.check()
        try:
            self.recorder.submit()
        except Exception as why:
            raise self._explained(why, "recorded commands were refused") from why

    def wait(self) -> None:
        """Return when all that was submitted is done."""
        self.check()
        self.recorder.wait()
        self.check()

    def times(self, dispatches: list[tuple], repeats: int) -> list[float]:
        """Seconds of each dispatch, the least of some runs of all in order. Waits."""
        found: list[np.ndarray] = []
        for start in range(0, len(dispatches), QUERIES // 2):
            some = dispatches[start : start + QUERIES // 2]
            runs = [self._timestamps(some) for _ in range(repeats)]
            found.append(np.min(runs, axis=0))
        return [float(t) * 1e-9 for part in found for t in part]

    def _timestamps(self, dispatches: list[tuple]) -> np.ndarray:
        """Nanoseconds of each, a pass of its own."""
        count = 2 * len(dispatches)
        queries = self.device.create_query_set(type="timestamp", count=count)
        encoder = self.device.create_command_encoder()
        for i, (pipeline, group, x, y) in enumerate(dispatches):
            writes = {
                "query_set": queries,
                "beginning_of_pass_write_index": 2 * i,
                "end_of_pass_write_index": 2 * i + 1,
            }
            run = encoder.begin_compute_pass(timestamp_writes=writes)
            run.set_pipeline(pipeline)
            run.set_bind_group(0, group)
            run.dispatch_workgroups(x, y)
            run.end()
        target = self.create_buffer(8 * count, RESOLVED)
        encoder.resolve_query_set(queries, 0, count, target, 0)
        self.queue.submit([encoder.finish()])
        data = self.read([(target, 0, 8 * count)])
        return np.diff(np.frombuffer(data, np.uint64).astype(np.int64).reshape(-1, 2))[
            :, 0
        ]

    # ----------------------------------------------------------------- errors

    def check(self) -> None:
        """DeviceError if the device was lost. A submit to a lost one would abort."""
        if _lost and not self.is_lost:
            try:
                self.create_buffer(4)
            except DeviceError:
                self.is_lost = True
        if self.is_lost:
            self.recorder.drop()
            raise DeviceError(
                f"wgpu: {self.description['adapter']} was lost (its driver stopped, or "
                "it was removed); what it held is gone: start the program again"
            )

    def _explained(self, why: Exception, what: str) -> Exception:
        """The exception of ours for one of wgpu's."""
        if isinstance(why, DeviceError):
            return why
        text = str(why)
        name = self.description["adapter"]
        if "memory" in text.lower():
            return OutOfMemoryError(f"wgpu: {what} on {name}: {_first_line(text)}")
        if "lost" in text.lower():
            self.is_lost = True
            return DeviceError(
                f"wgpu: {name} was lost ({what}); what it held is gone: "
                "start the program again"
            )
        return DeviceError(f"wgpu: {what} on {name}: {text}")


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _native(wgpu: Any) -> tuple[Any, Any, Any] | None:
    """wgpu-py's cffi handles and its handler of errors, if they have what we call."""
    native = wgpu.backends.wgpu_native
    ffi, lib = getattr(native, "ffi", None), getattr(native, "lib", None)
    errors = getattr(getattr(native, "_api", None), "error_handler", None)
    needed = (
        *NEEDED,
        "wgpuBufferMapAsync",
        "wgpuBufferGetConstMappedRange",
        "wgpuBufferUnmap",
    )
    has_all = ffi is not None and all(hasattr(lib, name) for name in needed)
    if not has_all or not hasattr(errors, "_get_proxy_stack"):
        return None
    return ffi, lib, errors
