"""The cpu backend: programs become launches of the compiled extension portanet._c."""

from __future__ import annotations

import os
import platform
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..dtypes import ALL, Dtype
from ..errors import DeviceError
from ..program import Program
from .listing import listing
from .lower import pack
from .reduce import produces
from .rows import rows_of

try:
    from .. import _c
except ImportError as error:
    raise DeviceError(
        f"cpu: the compiled extension portanet._c is missing ({error}); it was not "
        "built when portanet was installed, most likely for want of a C compiler; "
        "install one (Debian: apt install gcc; macOS: xcode-select --install; "
        "Windows: LLVM's clang) "
        "and then: pip install --force-reinstall --no-cache-dir portanet"
    ) from error

# How the struct module reads one element; bfloat16 is NumPy's.
ITEM = {
    name: struct.Struct(letter)
    for name, letter in {
        "bool": "?", "uint8": "B", "int32": "i", "uint32": "I", "int64": "q",
        "float16": "e", "float32": "f", "float64": "d",
    }.items()
}  # fmt: skip

num_threads = _c.num_threads
set_num_threads = _c.set_num_threads


def _obey_environment() -> None:
    """Applies PORTANET_CPU_LEVEL and PORTANET_NUM_THREADS."""
    if wanted := os.environ.get("PORTANET_CPU_LEVEL"):
        try:
            _c.set_level(wanted)
        except ValueError as error:
            built = ", ".join(_c.LEVELS)
            raise DeviceError(
                f"cpu: PORTANET_CPU_LEVEL={wanted}: {error}; built: {built}"
            ) from None
    if wanted := os.environ.get("PORTANET_NUM_THREADS"):
        if not wanted.isdecimal() or int(wanted) < 1:
            raise DeviceError(
                f"cpu: PORTANET_NUM_THREADS={wanted} is no count of threads; "
                "set it to 1 or more"
            )
        set_num_threads(int(wanted))


_obey_environment()


class Backend:
    """The processor that Python runs on. Launches are done when they return."""

    name = "cpu"
    dtypes = frozenset(ALL)
    max_operands = 60  # of one launch
    writes_in_place = frozenset({"elementwise", "recurrent"})

    def __init__(self, index: int = 0):
        if index:
            raise DeviceError(f'cpu: there is no cpu:{index}; use "cpu"')

    def has(self, kernel: str) -> bool:
        return kernel in _c.KERNELS

    def itemsize(self, dtype: Dtype) -> int:
        return dtype.itemsize

    def alloc(self, nbytes: int) -> _c.Buffer:
        return _c.alloc(nbytes)

    part = staticmethod(_c.part)
    vacate = staticmethod(_c.vacate)

    def upload(self, array: np.ndarray, dtype: Dtype) -> _c.Buffer:
        buffer = _c.alloc(array.nbytes)
        if array.nbytes:
            view: Any = buffer  # NumPy's stubs know no __buffer__ before 3.12
            np.frombuffer(view, array.dtype)[:] = array.reshape(-1)
        return buffer

    def read(
        self, buffer: _c.Buffer, dtype: Dtype, offset: int, count: int
    ) -> np.ndarray:
        if count == 0:
            return np.empty(0, dtype.numpy)
        start = offset * dtype.itemsize
        view: Any = buffer
        return np.frombuffer(view, dtype.numpy, count, start).copy()

    def item(self, buffer: _c.Buffer, dtype: Dtype, offset: int) -> Any:
        layout = ITEM.get(dtype.name)
        if layout is None:
            return self.read(buffer, dtype, offset, 1).item()
        return layout.unpack_from(cast(Any, buffer), offset * dtype.itemsize)[0]

    sums_rows = True
    leaves_out = frozenset({"recurrent"})  # kernels that leave out what nobody reads
    epilogues = frozenset({"matmul", "convolve"})
    produces = staticmethod(produces)

    def build(self, program: Program, words: Sequence[int]) -> Callable[..., None]:
        code = b""
        if program.expression is not None:
            code = pack(program, rows_of(program, words))
        dtypes = bytes(t.code for t in (*program.outputs, *program.inputs))
        label = program.label or program.kernel
        try:
            packed = struct.pack(f"={len(words)}q", *words)
        except struct.error:
            raise OverflowError(
                f"{label}: a size or stride does not fit 64 bits"
            ) from None
        return _c.launch(program.kernel, packed, dtypes, program.options, code, label)

    def sequence(
        self, steps: Sequence[tuple[Any, tuple[int, ...]]], buffers: int
    ) -> Callable[[list[Any]], None]:
        """The launches, each with the slots of its buffers, as one call of all buffers."""
        return _c.sequence(list(steps), buffers)

    take = staticmethod(_c.take)  # see portanet.compiler.reuse

    def wait(self) -> None:
        pass

    def memory(self) -> dict[str, int]:
        return _c.memory()

    def info(self) -> dict[str, Any]:
        return {
            "adapter": _cpu_name(),
            "level": _c.level(),
            "levels": list(_c.LEVELS),
            "threads": num_threads(),
        }

    def text(self, program: Program) -> str:
        code = "" if program.expression is None else listing(program, _c.OPCODES)
        if program.kernel == "elementwise":
            return code
        return Path(__file__).with_name(f"{program.kernel}.c").read_text() + code


def _cpu_name() -> str:
    """The processor's name as the system knows it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
