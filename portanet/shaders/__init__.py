"""The wgpu backend: WGSL files in this folder, run on any GPU through WebGPU."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..dtypes import Dtype, bool_, float16, float32, int32, uint32
from ..errors import DeviceError
from ..program import Program
from ..program import fault as fault_of
from . import host as hosts
from . import lower, variants
from .pace import BATCH, Pace
from .pool import Block, Buffer, Part, Pool
from .sequence import Replay
from .step import in_pieces

GROUPS = 65535  # maxComputeWorkgroupsPerDimension
MAX_BIND_GROUPS = 4096
ARENA = 64 << 10
SLOT = 256  # minUniformBufferOffsetAlignment is at most this


def list_adapters() -> list[dict[str, Any]]:
    """Each adapter, in the order of their numbers: name, backend, driver, type."""
    return [hosts.describe(a) for a in hosts.adapters()]


class Launch:
    """One dispatch, made ready: its pipeline, its words on the device, its grid."""

    __slots__ = (
        "backend", "can_fault", "kinds", "label", "number", "outputs", "params",
        "pipeline", "work", "x", "y",
    )  # fmt: skip

    def __init__(self, backend: Backend, step: variants.Step, program: Program):
        self.backend, self.kinds, self.label = backend, step.kinds, program.label
        self.can_fault = len(step.kinds) > 1 + len(step.operands)
        self.outputs = step.kinds.count("write") - self.can_fault
        self.work = step.work
        # As near to square as it takes; kernels guard the groups past the last.
        self.y = -(-step.groups // GROUPS)
        self.x = -(-step.groups // self.y)
        self.pipeline = backend._pipeline(step)
        backend._launches += 1
        self.number = backend._launches
        label = backend._label_number(self.label)
        words = lower.launch_words(step.words, label, step.first)
        self.params = backend._params.put(words)

    def __call__(self, *buffers: Buffer) -> None:
        backend = self.backend
        with backend._lock:
            key = (self.number, *[b.block for b in buffers])
            group = backend._groups.get(key)
            if group is None:
                group = backend._bind(self, key)
            limit = backend._pace.limit
            here = max(self.work, limit / BATCH)
            if backend._pending and backend._pending + here > limit:
                backend._submit()
            if self.can_fault:
                backend._may_have_faulted = True
            backend._dispatch(self.pipeline, group, self.x, self.y)
            backend._work += self.work
            backend._pending += here

    def __del__(self):
        if params := getattr(self, "params", None):
            self.backend._params.give_back(params)


class Steps:
    """Some launches in order, with a temporary buffer between them."""

    __slots__ = ("launches", "operands", "pool", "temporary")

    def __init__(self, launches: list[Launch], plan: variants.Plan, pool: Pool):
        self.launches, self.pool, self.temporary = launches, pool, plan.temporary
        self.operands = [step.operands for step in plan.steps]

    def __call__(self, *buffers: Buffer) -> None:
        every = (*buffers, self.pool.alloc(self.temporary))
        for launch, operands in zip(self.launches, self.operands):
            launch(*[every[i] for i in operands])


def _clash(written: Sequence[Block], read: Sequence[Block]) -> bool:
    """Whether a buffer is written and read, or two ranges that are written meet."""
    buffers = {id(b.buffer) for b in written}
    if any(id(b.buffer) in buffers for b in read):
        return True
    ranges = sorted((id(b.buffer), b.offset, b.offset + b.nbytes) for b in written)
    pairs = zip(ranges, ranges[1:], strict=False)
    return any(a[0] == b[0] and a[2] > b[1] for a, b in pairs)


def parts_of(launch: Any, buffers: Sequence[Any]) -> list[tuple[Launch, list[Any]]]:
    """The dispatches of a launch, with what each binds; a temporary is made."""
    if isinstance(launch, Launch):
        return [(launch, list(buffers))]
    if not isinstance(launch, Steps):
        return []
    every = [*buffers, launch.pool.alloc(launch.temporary)]
    pairs = zip(launch.launches, launch.operands, strict=True)
    return [(part, [every[i] for i in chosen]) for part, chosen in pairs]


def _nothing(*buffers: Buffer) -> None:
    """The launch of a result without elements."""


class Params:
    """The words of launches, in slots of a few uniform buffers."""

    def __init__(self, host: hosts.Host, pool: Pool, submit: Callable[[], None]):
        self.host, self.pool, self.submit = host, pool, submit
        self.buffer: Any = None
        self.top = ARENA
        self.free: dict[int, list[tuple]] = {}

    def put(self, words: Sequence[int]) -> tuple[Any, int, int, int]:
        """(buffer, offset, bytes, batch it was freed in) of a slot with these words."""
        nbytes = 16 * lower.words_declared(len(words))
        data = np.zeros(nbytes // 4, np.uint32)
        if not -1 << 31 <= min(words, default=0) <= max(words, default=0) < 1 << 32:
            raise OverflowError("a size or stride does not fit 32 bits; use the cpu")
        data[: len(words)] = np.array(words, np.int64).astype(np.uint32)
        buffer, offset = self._slot(nbytes)
        self.host.write(buffer, offset, data)
        return buffer, offset, nbytes, -1

    def _slot(self, nbytes: int) -> tuple[Any, int]:
        free = self.free.get(nbytes)
        # A write overtakes recorded work, so a slot that it reads is not written yet.
        if free and free[0][3] != self.pool.batch:
            buffer, offset, _, _ = free.pop(0)
            return buffer, offset
        if self.top + nbytes > ARENA:
            self.buffer = self.host.create_buffer(ARENA, hosts.UNIFORM)
            self.top = 0
        offset, self.top = self.top, self.top + nbytes
        return self.buffer, offset

    def give_back(self, params: tuple) -> None:
        buffer, offset, nbytes, _ = params
        slots = self.free.setdefault(nbytes, [])
        slots.append((buffer, offset, nbytes, self.pool.batch))


class Backend:
    """One adapter, opened. See portanet.program.Backend."""

    name = "wgpu"
    sums_rows = True
    epilogues = frozenset({"matmul", "convolve"})
    produces = staticmethod(lambda dtype, words: True)
    copies = frozenset(("reduce",))
    mixes = True
    # WebGPU binds no buffer for reading and writing at once.
    writes_in_place: frozenset[str] = frozenset()
    max_elements = (1 << 31) - 1  # kernels count in 32 bits

    def __init__(self, index: int = 0):
        self._host = host = hosts.Host(index)
        self._pool = Pool(host)
        self._pool.release = self._forget_groups
        self._lock = threading.RLock()
        self._dispatch = host.dispatch
        self._pace = Pace()
        self._params = Params(host, self._pool, self._submit)
        self._pipelines: dict[tuple, Any] = {}
        self._groups: dict[tuple, Any] = {}
        self._labels: dict[str, int] = {}
        self._replays: weakref.WeakSet[Replay] = weakref.WeakSet()
        self._launches = 0
        self._work = 0.0  # of what is recorded
        self._pending = 0.0  # the same, with something for each launch
        self._status: Any = None
        self._may_have_faulted = False
        self.dtypes = frozenset(
            t
            for t in (bool_, int32, uint32, float32, float16)
            if t is not float16 or "shader-f16" in host.features
        )
        self.alloc = self._pool.alloc
        # Of one launch; one binding is left for the status of launches that may fault.
        self.max_operands = host.limits["max-storage-buffers-per-shader-stage"] - 1

    def has(self, kernel: str) -> bool:
        """Whether a kernel of this stem exists."""
        return variants.has(kernel)

    def itemsize(self, dtype: Dtype) -> int:
        """Bytes that an element takes on this device: a bool is a u32."""
        return 4 if dtype is bool_ else dtype.itemsize

    def alloc(self, nbytes: int) -> Buffer:
        """An uninitialised buffer, given back when Python drops it."""
        return self._pool.alloc(nbytes)

    part = staticmethod(Part)

    def upload(self, array: np.ndarray, dtype: Dtype) -> Buffer:
        """A buffer with the values of a C-contiguous array of dtype.numpy."""
        if dtype not in self.dtypes:
            raise DeviceError(f"wgpu: {dtype.name} is not a type of this device")
        flat = np.ascontiguousarray(array).reshape(-1)
        if dtype is bool_:
            flat = flat.astype(np.uint32)
        if flat.nbytes % 4:
            flat = np.append(flat, np.zeros(1, flat.dtype))
        with self._lock:
            buffer = self._pool.alloc_unused(flat.nbytes)
            if buffer is None:
                self._submit()
                buffer = self._pool.alloc(flat.nbytes)
            if flat.nbytes:
                self._host.write(buffer.block.buffer, 0, flat)
        return buffer

    def read(self, buffer: Buffer, dtype: Dtype, offset: int, count: int) -> np.ndarray:
        """`count` elements from `offset` on, as a fresh array. Waits; raises faults."""
        size = self.itemsize(dtype)
        begin = offset * size
        start = begin - begin % 4
        nbytes = begin + count * size - start
        nbytes += -nbytes % 4
        block = buffer.block
        parts = [(block.buffer, block.offset + start, nbytes)] if count else []
        data = self._read(parts)
        stored = np.dtype(np.uint32) if dtype is bool_ else dtype.numpy
        values = np.frombuffer(data, stored, count, begin - start) if count else None
        if values is None:
            return np.empty(0, dtype.numpy)
        return values != 0 if dtype is bool_ else values

    def build(self, program: Program, words: Sequence[int]) -> Callable[..., None]:
        """A launch: called with the buffers, outputs first; it doesn't wait."""
        plan = self._plan(program, words)
        if not plan.steps:
            return _nothing
        with self._lock:
            launches = [Launch(self, step, program) for step in plan.steps]
        count = len(program.outputs) + len(program.inputs)
        if [s.operands for s in plan.steps] == [tuple(range(count))]:
            return launches[0]
        return Steps(launches, plan, self._pool)

    def _plan(self, program: Program, words: Sequence[int]) -> variants.Plan:
        limit = self._host.limits["max-storage-buffers-per-shader-stage"]
        on_cpu = self._host.description["software"]
        return in_pieces(variants.plan(program, words, limit, on_cpu))

    def prepare(self, launches: Sequence[tuple[Program, Sequence[int]]]) -> None:
        """Compile what these will need, on several threads: most of the time of the first
        call of a compiled function is the driver's compiler."""
        with self._lock:
            texts: dict[str, dict[str, tuple]] = {}  # text -> entry -> kinds
            for program, words in launches:
                for step in self._plan(program, words).steps:
                    if (step.text, step.entry) not in self._pipelines:
                        texts.setdefault(step.text, {})[step.entry] = step.kinds
            made = self._host.pipelines(
                [
                    (t, entry, k)
                    for t, each in texts.items()
                    for entry, k in each.items()
                ]
            )
            self._pipelines.update(made)

    def sequence(
        self, launches: Sequence[tuple], buffers: int
    ) -> Callable[[Sequence[Any]], None]:
        """The launches, each with the slots of its buffers, as one call of all buffers."""
        made = Replay(self, launches)
        self._replays.add(made)
        return made

    def times(
        self, calls: Sequence[tuple[Any, Sequence[Buffer]]], repeats: int
    ) -> list[float] | None:
        """Seconds of each launch on its buffers, by the device's clock, the least of some
        runs of all; None where it has no clock."""
        if "timestamp-query" not in self._host.features:
            return None
        with self._lock:
            dispatches, owners = [], []
            for number, (launch, buffers) in enumerate(calls):
                for part, operands in parts_of(launch, buffers):
                    key = (part.number, *[b.block for b in operands])
                    group = self._groups.get(key) or self._bind(part, key)
                    dispatches.append((part.pipeline, group, part.x, part.y))
                    owners.append(number)
            self._submit()
            found = [0.0] * len(calls)
            for number, took in zip(owners, self._host.times(dispatches, repeats)):
                found[number] += took
        return found

    def wait(self) -> None:
        """Return when all launches are done; raises their faults."""
        if self._may_have_faulted:
            self._read([])
        with self._lock:
            self._submit()
            start = time.perf_counter()
            self._host.wait()
            self._pace.done(start)

    def memory(self) -> dict[str, int]:
        """Bytes held by live buffers; those and the free ones; the most ever held."""
        pool = self._pool
        return {"used": pool.live, "reserved": pool.reserved, "peak": pool.peak}

    def info(self) -> dict[str, Any]:
        """Adapter, backend, driver, type, software, limits, features, wgpu version."""
        host = self._host
        return {
            **host.description,
            "wgpu": host.version,
            "features": list(host.features),
            "limits": dict(host.limits),
        }

    def text(self, program: Program) -> str:
        """The full WGSL of a program."""
        return lower.wgsl(program)

    # ------------------------------------------------------------ for launches

    def _pipeline(self, step: variants.Step) -> Any:
        key = (step.text, step.entry)
        if key not in self._pipelines:
            self._pipelines[key] = self._host.pipeline(*key, step.kinds)
        return self._pipelines[key]

    def _label_number(self, label: str) -> int:
        """The number by which a fault names the operator that asked."""
        return self._labels.setdefault(label, len(self._labels))

    def _bind(self, launch: Launch, key: tuple) -> Any:
        blocks = key[1:]
        written, read = blocks[: launch.outputs], blocks[launch.outputs :]
        if _clash(written, read):
            raise ValueError(
                f"{launch.label}: an output is also an input or another output; "
                "WebGPU can't bind one buffer for both, use a copy"
            )
        if len(self._groups) >= MAX_BIND_GROUPS:
            self._drop_old_groups()
        resources = [launch.params[:3]]
        resources += [(b.buffer, b.offset, b.nbytes) for b in blocks]
        if launch.can_fault:
            resources.append((self._status_buffer(), 0, 16))
        group = self._groups[key] = self._host.bind(launch.kinds, resources)
        return group

    def _drop_old_groups(self) -> None:
        self._submit()
        for key in list(self._groups)[: MAX_BIND_GROUPS // 2]:
            del self._groups[key]

    def _forget_groups(self) -> None:
        with self._lock:
            self._submit()
            self._groups.clear()
            for replay in self._replays:
                replay.ready.clear()

    def _submit(self) -> None:
        self._host.submit()
        # After it: interrupted in between, a block passes for used by what is recorded.
        self._pool.batch += 1
        self._pace.sent(self._work)
        self._pending = self._work = 0.0

    # ------------------------------------------------------------------ faults

    def _status_buffer(self) -> Any:
        if self._status is None:
            self._status = self._host.create_buffer(16)
        return self._status

    def _read(self, parts: list[tuple]) -> memoryview:
        """The bytes of these parts; the status with them where a launch may fault."""
        with self._lock:
            checks = self._may_have_faulted and self._status is not None
            if checks:
                parts = [*parts, (self._status, 0, 16)]
            data = memoryview(b"")
            if parts:
                start = time.perf_counter()
                self._pace.sent(self._work)
                data = self._host.read(parts)
                self._pool.batch += 1
                self._pending = self._work = 0.0
                self._pace.done(start)
            if checks:
                self._raise_fault(np.frombuffer(data[-16:], np.uint32))
        return data

    def _raise_fault(self, status: np.ndarray) -> None:
        word, value, size, unsigned = (int(w) for w in status)
        if word:
            self._host.write(self._status, 0, np.zeros(4, np.uint32))
        self._may_have_faulted = False
        if not word:
            return
        if not unsigned:
            value, size = (w - (w >> 31 << 32) for w in (value, size))
        raise fault_of(word & 15, list(self._labels)[word >> 4], value, size)
