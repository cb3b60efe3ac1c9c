"""What of NVIDIA's software is installed here, and what is missing."""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..errors import DeviceError

NEWEST = "pip install 'portanet[cuda]'"  # CUDA 13: driver R580 and newer, Turing on
OLDER = "pip install 'portanet[cuda12]'"  # CUDA 12: driver R525 and newer, Maxwell on


class CudaError(DeviceError):
    """A call of the driver that failed; `code` is its CUresult."""

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


def load(module: str) -> Any:
    """A module of the packages of the extras, which have no stubs."""
    return importlib.import_module(module)


@functools.cache
def driver() -> Any:
    """The driver's functions, initialised. DeviceError says what is missing."""
    try:
        found = load("cuda.bindings.driver")
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
            f"{first_line(why)}); install it from nvidia.com/drivers, or use "
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
        raise CudaError(
            f"cuda: the driver does not start: {name_of(found, code)}", code
        )
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
    return load("cuda.bindings").__version__


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
    nvrtc = load("cuda.bindings.nvrtc")
    try:
        _, major, _ = nvrtc.nvrtcVersion()
    except RuntimeError as why:
        raise DeviceError(
            "cuda: NVRTC, which compiles the kernels, does not load "
            f"({first_line(why)}); {NEWEST}, or {OLDER} with an older driver"
        ) from None
    if major > driver_version(driver()) // 1000:
        raise DeviceError(
            f"cuda: NVRTC is of CUDA {major}, which the driver does not know; update "
            f"the driver to R580 or newer, or {OLDER}"
        )


def name_of(d: Any, code: int) -> str:
    found = d.cuGetErrorName(d.CUresult(code))[1]
    return found.decode() if found else f"error {code}"


def first_line(why: object) -> str:
    return next(iter(str(why).strip().splitlines()), "").rstrip(".")


def versions() -> dict[str, str]:
    """Of the packages that the device stands on."""
    found = {}
    for package in ("cuda-bindings", *_NVRTC):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


_NVRTC = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")
