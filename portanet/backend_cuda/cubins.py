"""Texts compiled by NVRTC for one kind of GPU, and kept on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import DeviceError
from .installed import bindings_version, check_compiler, load

BYTES = (
    256 << 20
)  # of compiled kernels on disk; those that were read longest ago go first
OFTEN = 64  # writes between two looks at how many bytes there are


def cache_dir() -> Path:
    """The folder of compiled kernels."""
    if own := os.environ.get("PORTANET_CACHE"):
        return Path(own).expanduser().absolute() / "cuda"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "portanet" / "cuda"


class Cubins:
    """Compiled texts, each in a file: its SHA-256, then the cubin.

    A file that is damaged is compiled anew. A folder that can't be written is told of
    once, and kernels are compiled in every process.
    """

    def __init__(self, arch: str):
        self.arch = arch
        self.compiled = self.loaded = self.written = 0
        self.folder = cache_dir()
        self.is_kept = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as why:
            self._give_up(why)

    def _give_up(self, why: Exception) -> None:
        self.is_kept = False
        warnings.warn(
            f"cuda: compiled kernels can't be kept in {self.folder} ({why}); set "
            "PORTANET_CACHE to a folder that can be written",
            RuntimeWarning,
            stacklevel=2,
        )

    def get(self, text: str, name: str, options: tuple[str, ...] = ()) -> bytes:
        """The cubin of a text."""
        return self.get_all([(text, name, options)])[0]

    def get_all(
        self, wanted: Sequence[tuple[str, str, tuple[str, ...]]]
    ) -> list[bytes]:
        """The cubins of texts; NVRTC compiles those that are not on disk side by side."""
        files = [self._file(text, options) for text, _, options in wanted]
        found = {i: self._read(file) for i, file in enumerate(files)}
        missing = [i for i, cubin in found.items() if cubin is None]
        if missing and not self.compiled:
            check_compiler()
        threads = min(len(missing), os.cpu_count() or 1)
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                made = list(pool.map(lambda i: self.compile(*wanted[i]), missing))
        else:
            made = [self.compile(*wanted[i]) for i in missing]
        for i, cubin in zip(missing, made, strict=True):
            found[i] = cubin
            self._write(files[i], cubin)
        self.compiled += len(made)
        return [cubin for cubin in found.values() if cubin is not None]

    def _file(self, text: str, options: tuple[str, ...]) -> Path:
        key = "\0".join((bindings_version(), self.arch, *options, text)).encode()
        return self.folder / f"{hashlib.sha256(key).hexdigest()}.cubin"

    def _read(self, file: Path) -> bytes | None:
        if not self.is_kept:
            return None
        try:
            data = file.read_bytes()
            os.utime(file)  # it was of use just now
        except OSError:
            return None
        cubin = data[32:]
        if hashlib.sha256(cubin).digest() != data[:32]:
            return None
        self.loaded += 1
        return cubin

    def _write(self, file: Path, cubin: bytes) -> None:
        if not self.is_kept:
            return
        part = ""
        try:
            # Under another name first: other processes see all of a file or nothing.
            number, part = tempfile.mkstemp(".part", dir=self.folder)
            with os.fdopen(number, "wb") as to:
                to.write(hashlib.sha256(cubin).digest() + cubin)
            os.replace(part, file)
            if self.written % OFTEN == 0:
                self._shrink()
            self.written += 1
        except OSError as why:
            if part:
                Path(part).unlink(missing_ok=True)
            if not file.exists():  # nor did another process write it
                self._give_up(why)

    def _shrink(self) -> None:
        found = []
        for entry in os.scandir(self.folder):
            try:
                about = entry.stat()
            except FileNotFoundError:  # another process was first
                continue
            if entry.is_file():
                found.append((about.st_mtime, about.st_size, entry.path))
        left = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if left <= BYTES:
                return
            Path(path).unlink(missing_ok=True)
            left -= size

    def compile(self, text: str, name: str, options: tuple[str, ...] = ()) -> bytes:
        """The cubin of a text, from NVRTC."""
        nvrtc = load("cuda.bindings.nvrtc")
        status, program = nvrtc.nvrtcCreateProgram(
            text.encode(), f"{name}.cu".encode(), 0, [], []
        )
        if status:
            raise DeviceError(f"cuda: {name}: nvrtcCreateProgram failed: {status}")
        fma = "true" if "fma" in options else "false"
        given = [f"--gpu-architecture={self.arch}", "--std=c++17", f"--fmad={fma}"]
        try:
            (status,) = nvrtc.nvrtcCompileProgram(
                program, len(given), [option.encode() for option in given]
            )
            if status:
                why = _filled(nvrtc, "ProgramLog", program).decode(errors="replace")
                raise DeviceError(
                    f"cuda: {name} does not compile for {self.arch}: {status.name}: "
                    f"{why.rstrip(chr(0)).strip()[:4000]}"
                )
            cubin = _filled(nvrtc, "CUBIN", program)
        finally:
            nvrtc.nvrtcDestroyProgram(program)
        return cubin


def _filled(nvrtc: Any, what: str, program: Any) -> bytes:
    """What NVRTC has of this kind."""
    size = getattr(nvrtc, f"nvrtcGet{what}Size")(program)[1]
    room = b" " * size
    getattr(nvrtc, f"nvrtcGet{what}")(program, room)
    return room
