"""The fake driver: built by g++ and loaded in place of NVIDIA's, for this process.

`install()` must come before anything asks for the driver. What is built is kept in
build/fakecuda, by what it is built of.
"""

import ctypes
import hashlib
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("fakecuda.cpp", "cusim.cpp", "cusim.h")
# Without contraction: what is computed in float is rounded as the texts say.
FLAGS = "-std=c++17 -O1 -ffp-contract=off -w -fPIC -shared"
KERNEL = f"g++ {FLAGS} -DPN_SIMULATED -x c++ -I {HERE}"


def folder() -> Path:
    """Where the driver and the kernels built for it are."""
    data = b"".join((HERE / name).read_bytes() for name in SOURCES) + KERNEL.encode()
    name = hashlib.sha256(data).hexdigest()[:16]
    return HERE.parents[1] / "build" / "fakecuda" / name


def build() -> Path:
    """The folder that holds libcuda.so.1, which is built unless it is there."""
    there = folder()
    library = there / "libcuda.so.1"
    if not library.exists():
        (there / "texts").mkdir(parents=True, exist_ok=True)
        made = there / f"{os.getpid()}.so"
        soname = "-Wl,-soname,libcuda.so.1"
        sources = [str(HERE / name) for name in SOURCES if name.endswith(".cpp")]
        command = ["g++", *FLAGS.split(), soname, *sources, "-o", str(made), "-ldl"]
        subprocess.run(command, check=True)
        made.rename(library)
    return there


def environment() -> dict[str, str]:
    """What a process that uses the fake driver needs."""
    there = build()
    return {
        "FAKECUDA_GPUS": "2",
        "FAKECUDA_TEXTS": str(there / "texts"),
        "FAKECUDA_BUILD": KERNEL,
        "PORTANET_CUDA_TEXTS": str(there / "texts"),
        "LD_LIBRARY_PATH": str(there),
    }


def install() -> ctypes.CDLL:
    """Load the fake driver into this process: whoever asks for libcuda.so.1 gets it."""
    for name, value in environment().items():
        if name != "LD_LIBRARY_PATH":
            os.environ.setdefault(name, value)
    return ctypes.CDLL(str(folder() / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
