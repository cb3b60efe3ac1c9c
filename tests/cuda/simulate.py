"""Programs run by the simulator: the steps of a plan, each from its own .cu, on NumPy arrays.

g++ builds each text once (cusim.h says how it runs). Buffers are aligned as a GPU's are,
hold NaN before they are written, and lie between guards that a launch must leave alone;
under AddressSanitizer (CUSIM_SANITIZE=1) its own guards are closer.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import subprocess
from pathlib import Path

import numpy as np

from portanet import dtypes, program
from portanet.backend_cuda import lower, plan_of
from portanet.backend_cuda.plan import Gpu, Step, TensorMap
from portanet.program import Program

HERE = Path(__file__).parent
BUILT = Path(os.environ.get("CUSIM_BUILD") or HERE.parents[1] / "build" / "cusim")
IS_SANITIZED = bool(os.environ.get("CUSIM_SANITIZE"))
FLAGS = ["-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", "-fwrapv", "-w"]
FLAGS += ["-DPN_SIMULATED", f"-I{HERE}", "-x", "c++"]
FLAGS += ["-Og" if IS_SANITIZED else "-O1"]  # building takes longer than running
if IS_SANITIZED:
    FLAGS += ["-fsanitize=address,alignment,shift,integer-divide-by-zero", "-g1"]
    FLAGS += ["-fno-sanitize-recover=all"]
GUARD = 0 if IS_SANITIZED else 256  # bytes, a multiple of what a GPU aligns buffers to
H200 = Gpu(arch=90, multiprocessors=132, shared=232448)
LABEL = 5  # any number, to see it come back in a fault


class Failure(Exception):
    """What the simulator, or a guard, says of a kernel."""


# ---- Texts


def text(made: Program, step: Step) -> str:
    """What is compiled for a step."""
    return f"#define PN_TEXT text\n{lower.text(made, step)}"


# Kernels whose entries need the same macros: one text for all saves most of the time.
TOGETHER = {"reduce", "scan"}


def simulated_text(made: Program, step: Step) -> str:
    """What is built for a step: a text with all entries, where they allow it."""
    code = text(made, step)
    if made.kernel in TOGETHER:
        names = sorted(set(re.findall(r"^#if defined\(PN_STEP_(\w+)\)", code, re.M)))
        lines = [f"#define PN_STEP_{name} 1" for name in names]
        code = "\n".join(
            [*lines, code.replace(f"#define PN_STEP_{step.entry} 1\n", "")]
        )
    return code


@functools.cache
def runtime() -> ctypes.CDLL:
    """The simulator, which kernels find by its names."""
    code = (HERE / "cusim.cpp").read_text(encoding="utf-8")
    library = ctypes.CDLL(str(built(code)), mode=ctypes.RTLD_GLOBAL)
    library.cusim_error.restype = ctypes.c_char_p
    return library


@functools.cache
def build(code: str) -> ctypes.CDLL:
    """The shared object of a text."""
    runtime()
    return ctypes.CDLL(str(built(code)))


@functools.cache
def headers() -> str:
    """What texts are built on."""
    return "".join(p.read_text("utf-8") for p in sorted(HERE.glob("cusim*.h")))


def built(code: str) -> Path:
    """The file of a text's shared object, kept by its hash."""
    seed = "\0".join([code, headers(), *FLAGS]).encode()
    made = BUILT / f"{hashlib.sha256(seed).hexdigest()[:24]}.so"
    if not made.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        part = made.with_suffix(f".{os.getpid()}")  # another process may build it too
        command = ["g++", *FLAGS, "-", "-o", part]
        done = subprocess.run(command, input=code, capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"g++: {done.stderr[:4000]}")
        part.rename(made)
    return made


# ---- Memory

LIBC = ctypes.CDLL(None)
LIBC.free.argtypes = [ctypes.c_void_p]


class Memory:
    """A buffer: `values`, or bytes of 0xff, NaN in any floating type."""

    def __init__(self, nbytes: int, values: np.ndarray | None = None):
        place = ctypes.c_void_p()
        size = ctypes.c_size_t(nbytes + 2 * GUARD)
        assert not LIBC.posix_memalign(ctypes.byref(place), ctypes.c_size_t(256), size)
        self.nbytes, self.whole = nbytes, place.value
        self.address = self.whole + GUARD
        ctypes.memset(self.whole, 0xFF, size.value)
        if values is not None and nbytes:
            values = np.ascontiguousarray(values)
            ctypes.memmove(self.address, values.ctypes.data, nbytes)

    def __del__(self):
        LIBC.free(self.whole)

    def read(self, dtype: np.dtype, count: int) -> np.ndarray:
        data = ctypes.string_at(self.address, count * dtype.itemsize)
        return np.frombuffer(data, dtype).copy()

    def is_guarded(self) -> bool:
        """Whether the guards are as they were."""
        guards = (self.whole, self.address + self.nbytes)
        return not any(ctypes.string_at(at, GUARD).strip(b"\xff") for at in guards)


# ---- Launches


class FaultRecord(ctypes.Structure):
    _fields_ = [
        ("word", ctypes.c_uint64),
        ("value", ctypes.c_int64),
        ("size", ctypes.c_int64),
    ]


class Fault(ctypes.Structure):
    _fields_ = [("first", ctypes.c_void_p), ("label", ctypes.c_uint64)]


def encoded(seen: TensorMap, address: int) -> ctypes.Array:
    """A tensor map as the simulator has it, between bytes that align it."""
    place = (ctypes.c_uint64 * 24)()
    start = -ctypes.addressof(place) % 64
    status = runtime().cusim_encode(
        ctypes.byref(place, start),
        ctypes.c_void_p(address + seen.offset),
        2,
        (ctypes.c_uint64 * 3)(*seen.sizes),
        (ctypes.c_uint64 * 2)(*seen.strides),
        (ctypes.c_uint32 * 3)(*seen.box),
    )
    assert status == 0, seen
    return (ctypes.c_uint64 * 16).from_buffer(place, start)


def run_step(made: Program, step: Step, buffers, record: FaultRecord) -> None:
    library = build(simulated_text(made, step))
    addresses = [buffers[b].address for b in step.operands]
    arguments = [ctypes.c_void_p(a) for a in addresses]
    if step.maps:
        pairs = zip(step.maps, addresses, strict=True)
        arguments = [encoded(seen, a) for seen, a in pairs]
    if step.is_table:
        size = len(addresses) + len(step.words)
        arguments = [(ctypes.c_int64 * size)(*addresses, *step.words)]
    if made.can_fault:
        arguments.append(Fault(ctypes.addressof(record), LABEL))
    if not step.is_table:
        size = lower.words_declared(len(step.words))
        arguments.append((ctypes.c_int64 * size)(*step.words))
    count, sizes = ctypes.c_int(), (ctypes.c_size_t * 16)()
    getattr(library, f"cusim_params_{step.entry}_text")(ctypes.byref(count), sizes)
    given = [ctypes.sizeof(a) for a in arguments]
    assert given == sizes[: count.value], f"{step.entry} takes other arguments"
    pointers = [ctypes.addressof(a) for a in arguments]
    pointers = (ctypes.c_void_p * len(pointers))(*pointers)
    launch = getattr(library, f"cusim_launch_{step.entry}_text")
    shared = ctypes.c_size_t(step.shared)
    if launch(*step.grid, step.threads, 1, 1, shared, pointers):
        raise Failure(f"{step.entry}: {runtime().cusim_error().decode()}")
    for j, buffer in enumerate(buffers):
        if not buffer.is_guarded():
            raise Failure(f"{step.entry} wrote beside operand {j}")


def launch(
    kernel, words, outputs, inputs, options=(), keep=None, gpu=H200, entries=None
):
    """Results of one launch; `outputs` are (dtype name, count), `inputs` flat arrays.

    `keep` holds what the first output contains before. `entries`, if given, gets the names
    of the steps' entries.
    """
    outs = [dtypes.as_dtype(name) for name, _ in outputs]
    ins = [dtypes.as_dtype(x.dtype) for x in inputs]
    made = Program(kernel, tuple(outs), tuple(ins), tuple(options), label="probe")
    counts = [n for _, n in outputs]
    return launch_program(made, words, counts, inputs, keep, gpu, entries)


def launch_program(made, words, counts, inputs, keep=None, gpu=H200, entries=None):
    """Results of one launch of a program whose outputs have so many elements."""
    outs = made.outputs
    chosen = plan_of(made, [int(w) for w in words], gpu)
    buffers = [Memory(n * t.itemsize) for t, n in zip(outs, counts, strict=True)]
    if keep is not None:
        buffers[0] = Memory(keep.nbytes, keep)
    buffers += [Memory(x.nbytes, x) for x in inputs]
    buffers += [Memory(n) for n in chosen.temporaries]
    record = FaultRecord()
    for step in chosen.steps:
        if entries is not None:
            entries.add(step.entry)
        run_step(made, step, buffers, record)
    if record.word:
        assert record.word >> 8 == LABEL
        raise program.fault(record.word & 255, "probe", record.value, record.size)
    read = [b.read(t.numpy, n) for b, t, n in zip(buffers, outs, counts)]
    return read[0] if len(read) == 1 else read


ORDERS = ("forward", "reverse", "1")


def in_every_order(run):
    """What `run` returns, arrays: the same bits in every order of threads and blocks."""
    found = []
    before = os.environ.get("CUSIM_ORDER")
    for order in ORDERS:
        os.environ["CUSIM_ORDER"] = order
        made = run()
        found.append(made if isinstance(made, list) else [made])
    os.environ.pop("CUSIM_ORDER")
    if before:
        os.environ["CUSIM_ORDER"] = before
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert a.tobytes() == b.tobytes(), "the order of threads shows"
    return made
