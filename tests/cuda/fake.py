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
HEADERS = tuple(sorted(p.name for p in HERE.glob("cusim*.h")))
SOURCES = ("fakecuda.cpp", "cusim.cpp", *HEADERS)
# Without contraction: what is computed in float is rounded as the texts say.
FLAGS = "-std=c++17 -O1 -ffp-contract=off -w -Wno-psabi -fPIC -shared"
# Without libraries, which the process has: linking them took a third of a kernel's time.
KERNEL = f"g++ {FLAGS} -nostdlib -DPN_SIMULATED -I {HERE} -x c++"


def folder(kind: str, *sources: str) -> Path:
    """A folder for what is made of these files."""
    data = b"".join((HERE / name).read_bytes() for name in sources) + KERNEL.encode()
    name = f"{kind}-{hashlib.sha256(data).hexdigest()[:16]}"
    made = HERE.parents[1] / "build" / "fakecuda" / name
    made.mkdir(parents=True, exist_ok=True)
    return made


def build() -> Path:
    """The folder that holds libcuda.so.1, which is built unless it is there."""
    there = folder("driver", *SOURCES)
    library = there / "libcuda.so.1"
    if not library.exists():
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
    texts = str(folder("texts", *HEADERS))
    return {
        "FAKECUDA_GPUS": "2",
        "FAKECUDA_TEXTS": texts,
        "FAKECUDA_BUILD": KERNEL,
        "PORTANET_CUDA_TEXTS": texts,
        "LD_LIBRARY_PATH": str(there),
    }


def install() -> ctypes.CDLL:
    """Load the fake driver into this process: whoever asks for libcuda.so.1 gets it."""
    for name, value in environment().items():
        if name != "LD_LIBRARY_PATH":
            os.environ.setdefault(name, value)
    return ctypes.CDLL(str(build() / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
