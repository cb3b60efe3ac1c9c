"""Texts compiled by NVRTC for a GPU that need not be there, and their machine code."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cuda.bindings import nvrtc

ARCHES = ("75", "80", "86", "89", "90a", "120")


@dataclass(frozen=True)
class Entry:
    """What ptxas says of one kernel, and its instructions. Local memory is the stack."""

    name: str
    registers: int
    shared: int
    stack: int
    spills: int
    cubin: bytes

    @property
    def code(self) -> tuple[str, ...]:
        """Opcodes with their modifiers, in order."""
        return disassembled(self.cubin)[self.name]

    def count(self, prefix: str) -> int:
        return sum(op.startswith(prefix) for op in self.code)


def check(result):
    status, *values = result
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(str(status))
    return values[0] if values else None


def compile_text(text: str, arch: str) -> tuple[bytes, str]:
    """The cubin of a text and the log of its compilation."""
    program = check(nvrtc.nvrtcCreateProgram(text.encode(), b"text.cu", 0, [], []))
    options = [f"--gpu-architecture=sm_{arch}", "--std=c++17", "--ptxas-options=-v"]
    given = [o.encode() for o in options]
    result = nvrtc.nvrtcCompileProgram(program, len(given), given)
    log = b" " * check(nvrtc.nvrtcGetProgramLogSize(program))
    check(nvrtc.nvrtcGetProgramLog(program, log))
    log = log.decode(errors="replace").rstrip("\0 ")
    if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"sm_{arch}: {log[:6000]}")
    cubin = b" " * check(nvrtc.nvrtcGetCUBINSize(program))
    check(nvrtc.nvrtcGetCUBIN(program, cubin))
    check(nvrtc.nvrtcDestroyProgram(program))
    return cubin, log


@functools.cache
def nvdisasm() -> str:
    """The disassembler of the wheel nvidia-cuda-nvdisasm, or of a toolkit."""
    for folder in map(Path, sys.path):
        found = sorted(folder.glob("nvidia/**/bin/nvdisasm*"))
        if found:
            return str(found[0])
    found = shutil.which("nvdisasm")
    assert found, "nvdisasm is missing: install nvidia-cuda-nvdisasm"
    return found


OPCODE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.M)


@functools.lru_cache(maxsize=8)
def disassembled(cubin: bytes) -> dict[str, tuple[str, ...]]:
    """The opcodes of each entry. The tool needs a quarter of a second to start, more than
    most texts need to be compiled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [nvdisasm(), "--no-dataflow", file.name],
            capture_output=True,
            text=True,
            check=True,
        )
    code = {}
    for part in re.split(r"^\s*\.section\s+\.text\.", done.stdout, flags=re.M)[1:]:
        name = re.match(r"[\w$]+", part)[0]
        code[name] = tuple(OPCODE.findall(part))
    return code


def entries(text: str, arch: str) -> dict[str, Entry]:
    """Each entry of a text, compiled for an architecture."""
    cubin, log = compile_text(text, arch)
    found = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        name = part[: part.index("'")]
        found[name] = Entry(
            name,
            number(part, "Used (N) registers"),
            number(part, "(N) bytes smem"),
            number(part, "(N) bytes stack frame"),
            number(part, "(N) bytes spill stores")
            + number(part, "(N) bytes spill loads"),
            cubin,
        )
    return found


def number(log: str, pattern: str) -> int:
    """What stands at N in the first match; 0 if there is none."""
    found = re.search(pattern.replace("N", r"\d+"), log)
    return int(found[1]) if found else 0
