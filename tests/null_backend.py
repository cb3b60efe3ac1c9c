"""A backend that writes down what it is asked to do and computes nothing.

What it counts is the same on every machine: launches, builds, uploads, live bytes.
"""

import weakref

import numpy as np

from portanet.dtypes import ALL
from portanet.errors import DeviceError
from portanet.program import ALIGNMENT
from portanet.shaders.lower import HERE

KERNELS = tuple(p.stem for p in HERE.glob("*.wgsl") if p.stem != "scalar")


class Buffer:
    """Room for some bytes that do not exist."""

    def __init__(self, nbytes):
        self.nbytes = nbytes


class Part(Buffer):
    """A range of a buffer."""

    def __init__(self, whole, offset, nbytes):
        assert offset % ALIGNMENT == 0 and offset + nbytes <= whole.nbytes
        super().__init__(nbytes)
        self.whole, self.offset = whole, offset


class NullBackend:
    """See portanet.program.Backend; `kernels` and `dtypes` are what it claims."""

    name = "null"
    sums_rows = True

    def __init__(self, index=0, kernels=KERNELS, dtypes=ALL):
        if index > 1:
            raise DeviceError(f"null:{index}: there are 2 null devices, counted from 0")
        self.index, self.kernels, self.dtypes = index, kernels, frozenset(dtypes)
        self.built = []  # (program, words) of each build, in order
        self.launched = []  # the program of each launch, in order
        self.live = self.peak = self.uploads = self.waits = 0

    def has(self, kernel):
        return kernel in self.kernels

    def itemsize(self, dtype):
        return dtype.itemsize

    def alloc(self, nbytes):
        buffer = Buffer(nbytes)
        self.live += nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(buffer, self._freed, nbytes)
        return buffer

    def _freed(self, nbytes):
        self.live -= nbytes

    part = staticmethod(Part)

    def upload(self, array, dtype):
        assert array.flags.c_contiguous and array.dtype == dtype.numpy
        self.uploads += 1
        return self.alloc(array.nbytes)

    def read(self, buffer, dtype, offset, count):
        assert 0 <= offset and (offset + count) * dtype.itemsize <= buffer.nbytes
        return np.zeros(count, dtype.numpy)

    def build(self, program, words):
        assert all(isinstance(w, int) for w in words), words
        self.built.append((program, tuple(words)))
        operands = len(program.outputs) + len(program.inputs)

        def launch(*buffers):
            assert len(buffers) == operands, (program, len(buffers))
            assert all(isinstance(b, Buffer) for b in buffers)
            self.launched.append(program)

        return launch

    def wait(self):
        self.waits += 1

    def memory(self):
        return {"used": self.live, "reserved": self.live, "peak": self.peak}

    def info(self):
        return {"adapter": "nothing", "software": True}

    def text(self, program):
        return f"nothing for {program.kernel}"
