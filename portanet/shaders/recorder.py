"""Commands recorded for one device: an encoder with an open pass, until they are sent.

A signal's handler may raise between any two instructions of Python, as Ctrl-C does, but not
inside a call into C. So each step here that takes the state from one of which more can be
recorded and sent to the next is one such call, and what an interrupt leaves is sent with the
next submit: no recorded command is lost, and none is sent twice.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import repeat, starmap
from typing import Any

READBACK = 0x1 | 0x8  # MAP_READ, COPY_DST
# Submits that may wait in the queue; more only hold memory.
IN_FLIGHT = 16
# What this module calls of the library under wgpu-py.
NEEDED = (
    "wgpuDeviceCreateCommandEncoder",
    "wgpuCommandEncoderBeginComputePass",
    "wgpuComputePassEncoderSetPipeline",
    "wgpuComputePassEncoderSetBindGroup",
    "wgpuComputePassEncoderDispatchWorkgroups",
    "wgpuComputePassEncoderEnd",
    "wgpuComputePassEncoderRelease",
    "wgpuCommandEncoderCopyBufferToBuffer",
    "wgpuCommandEncoderFinish",
    "wgpuCommandEncoderRelease",
    "wgpuCommandBufferRelease",
    "wgpuQueueSubmitForIndex",
    "wgpuDevicePoll",
)


def in_one_call(calls: Iterable[tuple]) -> None:
    """Make the calls (function, *arguments), C functions all, with no signal in between."""
    deque(starmap(operator.call, calls), maxlen=0)


class Dispatches:
    """Dispatches made ready: (pipeline, bind group, x, y), as columns."""

    __slots__ = ("groups", "kept", "pending", "pipelines", "work", "x", "y")

    def __init__(
        self,
        dispatches: Sequence[tuple[Any, Any, int, int]],
        work: float,
        pending: float,
    ):
        """work: of all; pending: the same, with something for each dispatch."""
        self.kept = dispatches  # the owners of what the columns point to
        self.pipelines = [d[0]._internal for d in dispatches]
        self.groups = [d[1]._internal for d in dispatches]
        self.x, self.y = [d[2] for d in dispatches], [d[3] for d in dispatches]
        self.work, self.pending = work, pending


class Caught:
    """Where wgpu-py's error handler puts the error of a call."""

    def __init__(self):
        self.name, self.type, self.message = "recorder", None, None


class Recorder:
    """Records dispatches and copies, which run in order, and sends them."""

    def __init__(self, device: Any, ffi: Any, lib: Any, errors: Any):
        self.device, self.queue = device._internal, device.queue._internal
        self.ffi, self.lib, self.errors = ffi, lib, errors
        self.encoders: list[Any] = []  # none or one
        self.passes: list[Any] = []  # of that encoder, none or one
        self.finished: list[Any] = []  # command buffers that are to be sent
        self.submitted: deque[int] = deque()
        self.caught = Caught()
        self._make_dispatch()

    def _make_dispatch(self) -> None:
        """Without wgpu-py's wrappers: 0.8 us instead of 3.3 (wgpu-py 0.32)."""
        lib, null, passes, begin = self.lib, self.ffi.NULL, self.passes, self._begin
        set_pipeline = lib.wgpuComputePassEncoderSetPipeline
        set_group = lib.wgpuComputePassEncoderSetBindGroup
        dispatch_groups = lib.wgpuComputePassEncoderDispatchWorkgroups

        def dispatch(pipeline: Any, group: Any, x: int, y: int) -> None:
            run = passes[0] if passes else begin()
            set_pipeline(run, pipeline._internal)
            set_group(run, 0, group._internal, 0, null)
            dispatch_groups(run, x, y, 1)

        def dispatch_all(these: Dispatches) -> None:
            run, every = repeat(passes[0] if passes else begin()), repeat
            # zip takes from its three iterators in turn: all of it is one call into C.
            calls = zip(
                map(set_pipeline, run, these.pipelines),
                map(set_group, run, every(0), these.groups, every(0), every(null)),
                map(dispatch_groups, run, these.x, these.y, every(1)),
                strict=False,
            )
            deque(calls, maxlen=0)

        self.dispatch, self.dispatch_all = dispatch, dispatch_all

    def _open(self) -> Any:
        """The open encoder."""
        if not self.encoders:
            create = self.lib.wgpuDeviceCreateCommandEncoder
            self.encoders.extend(map(create, (self.device,), (self.ffi.NULL,)))
        return self.encoders[0]

    def _begin(self) -> Any:
        """The open pass."""
        begin = self.lib.wgpuCommandEncoderBeginComputePass
        self.passes.extend(map(begin, (self._open(),), (self.ffi.NULL,)))
        return self.passes[0]

    def _end(self) -> list[tuple]:
        """The calls that end the open pass."""
        calls = []
        for run in self.passes:
            calls += [(self.lib.wgpuComputePassEncoderEnd, run)]
            calls += [(self.lib.wgpuComputePassEncoderRelease, run)]
        return [*calls, (self.passes.clear,)]

    def _catching(self, calls: list[tuple]) -> None:
        """Make the calls; an error of theirs is in `caught`, not in a log."""
        stack = self.errors._get_proxy_stack()
        in_one_call([(stack.append, self.caught), *calls, (stack.pop,)])

    def copy(self, parts: Sequence[tuple[Any, int, int]], target: Any) -> None:
        """Copy some (buffer, offset, nbytes) into a buffer, one after the other."""
        encoder, at, calls = self._open(), 0, self._end()
        copy = self.lib.wgpuCommandEncoderCopyBufferToBuffer
        for buffer, offset, nbytes in parts:
            a, b = buffer._internal, target._internal
            calls.append((copy, encoder, a, offset, b, at, nbytes))
            at += nbytes
        self._catching(calls)

    def submit(self) -> None:
        """Send what was recorded. RuntimeError, with nothing sent, where it was refused: an
        error inside the library's submit would abort the process."""
        lib, ffi = self.lib, self.ffi
        if self.encoders:
            (encoder,) = self.encoders
            made = map(lib.wgpuCommandEncoderFinish, (encoder,), (ffi.NULL,))
            calls = [
                *self._end(),
                (self.finished.extend, made),
                (lib.wgpuCommandEncoderRelease, encoder),
                (self.encoders.clear,),
            ]
            self._catching(calls)
        if self.caught.message is not None:
            self.drop()
        if self.finished:
            count = len(self.finished)
            array = ffi.new("WGPUCommandBuffer[]", self.finished)
            sent = map(lib.wgpuQueueSubmitForIndex, (self.queue,), (count,), (array,))
            release = [(lib.wgpuCommandBufferRelease, f) for f in self.finished]
            calls = [(self.submitted.extend, sent), *release, (self.finished.clear,)]
            in_one_call(calls)
        if len(self.submitted) > IN_FLIGHT:
            number = ffi.new("WGPUSubmissionIndex *", self.submitted[0])
            lib.wgpuDevicePoll(self.device, True, number)
            self.submitted.popleft()

    def drop(self) -> None:
        """Forget what was recorded; RuntimeError with the reason, if there is one."""
        message, self.caught = self.caught.message, Caught()
        release = [(self.lib.wgpuCommandBufferRelease, f) for f in self.finished]
        ends = [(self.lib.wgpuCommandEncoderRelease, e) for e in self.encoders]
        lists = [(self.finished.clear,), (self.encoders.clear,)]
        self._catching([*self._end(), *release, *ends, *lists])
        self.caught = Caught()
        if message is not None:
            raise RuntimeError(message)

    def wait(self) -> None:
        """Return when all that was submitted is done."""
        self.lib.wgpuDevicePoll(self.device, True, self.ffi.NULL)
        self.submitted.clear()


class PlainRecorder:
    """The same by wgpu-py's public calls, for a version of it whose insides are others.
    Slower, and an interrupt may lose what was recorded and not sent."""

    def __init__(self, device: Any):
        self.device, self.encoder, self.run = device, None, None

    def dispatch(self, pipeline: Any, group: Any, x: int, y: int) -> None:
        run = self.run
        if run is None:
            run = self.run = self._open().begin_compute_pass()
        run.set_pipeline(pipeline)
        run.set_bind_group(0, group)
        run.dispatch_workgroups(x, y)

    def dispatch_all(self, these: Dispatches) -> None:
        for d in these.kept:
            self.dispatch(*d)

    def _open(self) -> Any:
        if self.encoder is None:
            self.encoder = self.device.create_command_encoder()
        return self.encoder

    def _end(self) -> None:
        run, self.run = self.run, None
        if run is not None:
            run.end()

    def copy(self, parts: Sequence[tuple[Any, int, int]], target: Any) -> None:
        self._end()
        encoder, at = self._open(), 0
        for buffer, offset, nbytes in parts:
            encoder.copy_buffer_to_buffer(buffer, offset, target, at, nbytes)
            at += nbytes

    def submit(self) -> None:
        self._end()
        encoder, self.encoder = self.encoder, None
        if encoder is not None:
            self.device.queue.submit([encoder.finish()])

    def drop(self) -> None:
        self.run = self.encoder = None

    def wait(self) -> None:
        # on_submitted_work_done_sync raises (wgpu-py 0.32), so map something
        buffer = self.device.create_buffer(size=8, usage=READBACK)
        buffer.map_sync("READ_NOSYNC")
        buffer.unmap()
