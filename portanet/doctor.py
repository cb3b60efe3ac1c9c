"""What is wrong with this installation, and the one command that cures it.

`diagnose` looks, `fix` unpacks software Vulkan drivers, `main` is the command
`portanet doctor [--fix]`. wgpu is tried in a child process: a driver that crashes
takes that one down and not this one.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portanet import drivers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Finding:
    """One thing looked at: whether it is usable, what is there, what cures it if not."""

    name: str
    ok: bool
    detail: str
    cure: str = ""


# OpenGL is left out: it lacks what the kernels need.
BACKENDS = ("Vulkan", "Metal", "D3D12")

PROBE_TIMEOUT_S = 120  # a cold driver takes about 1 s

# Runs in a child process with the path of drivers.py; answers with one line of JSON.
_PROBE = """
import importlib.util, json, sys
answer = {}
try:
    stage = "driver"
    spec = importlib.util.spec_from_file_location("drivers", sys.argv[1])
    drivers = sys.modules["drivers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drivers)
    drivers.activate()
    stage = "wgpu"
    import wgpu
    answer["version"] = wgpu.__version__
    stage = "adapter"
    infos = [dict(a.info) for a in wgpu.gpu.enumerate_adapters_sync()]
    answer["adapters"] = [{k: str(v) for k, v in info.items()} for info in infos]
except Exception as e:
    kind = "" if stage == "driver" else f"{type(e).__name__}: "
    answer |= {"stage": stage, "error": f"{kind}{e}"}
print("\\n" + json.dumps(answer))
"""


# ----------------------------------------------------------------------- looking


def diagnose() -> list[Finding]:
    """Look at everything that portanet runs on. What is broken is a finding, no error."""
    return [
        _module("numpy", "numpy", "pip install numpy"),
        _module(
            "cpu",
            "portanet._c",
            "install a C compiler (gcc, clang or MSVC), then portanet again",
        ),
        _threads(),
        *_wgpu(),
        _unpacked(),
        _cuda(),
    ]


def _module(name: str, module: str, cure: str) -> Finding:
    """Whether a module can be imported here."""
    try:
        found = importlib.import_module(module)
    except ImportError as e:
        return Finding(name, False, str(e), cure)
    version = getattr(found, "__version__", "")
    return Finding(name, True, f"{module} {version}".strip())


def _threads() -> Finding:
    asked = os.environ.get("PORTANET_NUM_THREADS")
    if asked and not (asked.isdecimal() and int(asked) > 0):
        return Finding(
            "threads",
            False,
            f"PORTANET_NUM_THREADS is {asked!r}, not a positive number",
            "unset PORTANET_NUM_THREADS, or set it to a number of threads",
        )
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    chosen = f", PORTANET_NUM_THREADS is {asked}" if asked else ""
    return Finding("threads", True, f"{cores} processors{chosen}")


def _cuda() -> Finding:
    """Wrong only where NVIDIA's driver is there and something else is missing."""
    import ctypes

    from portanet.backend_cuda import installed
    from portanet.errors import DeviceError

    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return Finding("cuda", True, "no NVIDIA driver, so no cuda device")
    try:
        return Finding("cuda", True, ", ".join(installed.usable()))
    except DeviceError as why:
        detail, _, cure = str(why).partition("; ")
        return Finding("cuda", False, detail, cure or "update the NVIDIA driver")


def _unpacked() -> Finding:
    there = ", ".join(drivers.installed()) or "none"
    return Finding("drivers", True, f"{there} unpacked in {drivers.cache_dir()}")


def _wgpu() -> list[Finding]:
    """Whether wgpu loads, and the adapters that it finds."""
    answer = _probe()
    error, stage = answer.get("error"), answer.get("stage")
    if stage == "driver":  # drivers' messages end with what to do
        detail, _, cure = str(error).rpartition("; ")
        return [Finding("adapter", False, detail, cure)]
    if stage == "wgpu":
        return [Finding("wgpu", False, str(error), "pip install wgpu")]
    wgpu = [Finding("wgpu", True, f"wgpu {answer['version']}")] if not error else []
    if error:
        return [*wgpu, Finding("adapter", False, str(error), _adapter_cure())]
    usable = [a for a in answer["adapters"] if a.get("backend_type") in BACKENDS]
    if not usable:
        nothing = "no Vulkan, Metal or D3D12 adapter"
        return [*wgpu, Finding("adapter", False, nothing, _adapter_cure())]
    return wgpu + [Finding("adapter", True, _describe(a)) for a in usable]


def _describe(adapter: dict[str, str]) -> str:
    kind = "software" if adapter.get("adapter_type") == "CPU" else "GPU"
    parts = [adapter.get("device"), adapter.get("backend_type"), kind]
    if about := adapter.get("description"):
        parts.append(about)
    return ", ".join(filter(None, parts))


def _adapter_cure() -> str:
    import shutil

    if os.environ.get("PORTANET_SOFTWARE_DRIVER") == "none":
        return "unset PORTANET_SOFTWARE_DRIVER, then `portanet doctor --fix`"
    if sys.platform.startswith("linux") and shutil.which("apt-get"):
        return "portanet doctor --fix"
    if sys.platform.startswith("linux"):
        return "install a Vulkan driver, for instance Mesa's, with the package manager"
    return "install the current driver of the GPU from its maker"


def _probe() -> dict[str, Any]:
    """What the child process says; an `error` where it crashed or hung."""
    import json
    import subprocess

    # -P: a file in the current folder must not stand in for a module.
    command = [sys.executable, "-P", "-c", _PROBE, drivers.__file__]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        hung = f"the driver gave no answer in {PROBE_TIMEOUT_S} s"
        return {"stage": "adapter", "error": hung}
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        with contextlib.suppress(ValueError):
            return json.loads(lines[-1])
    last = "".join(done.stderr.splitlines()[-1:])
    crash = f"the driver crashed ({_status(done.returncode)}) {last}".strip()
    return {"stage": "adapter", "error": crash}


def _status(returncode: int) -> str:
    """How a process ended: the signal's name or the exit status."""
    import signal

    with contextlib.suppress(ValueError):
        if returncode < 0:
            return signal.Signals(-returncode).name
    return f"exit status {returncode}"


# ------------------------------------------------------------------------ curing


def fix(names: Iterable[str] = ()) -> list[Path]:
    """Unpack the software drivers `names`; none named: one if there is no adapter.

    That is the one that PORTANET_SOFTWARE_DRIVER names, or lavapipe. Returns their ICD files. Raises drivers.DriverError where that cannot be done.
    """
    wanted = list(names)
    if not wanted and not any(f.name == "adapter" and f.ok for f in _wgpu()):
        asked = os.environ.get("PORTANET_SOFTWARE_DRIVER", "")
        wanted = [asked if asked in drivers.DRIVERS else "lavapipe"]
    done = []
    for name in wanted:
        with _working(f"{name}: downloading and unpacking"):
            done.append(drivers.fetch(name))
        _say(f"{name}: {done[-1].parent}")
    return done


# ---------------------------------------------------------------------- printing


def _console():
    """rich's console, or None where rich is not installed."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(markup=False, highlight=False, soft_wrap=True)


def _say(text: str, style: str = "") -> None:
    console = _console()
    if console:
        console.print(text, style=style or None)
    else:
        print(text)


def _working(text: str) -> contextlib.AbstractContextManager[object]:
    """A line that moves while something runs, on a terminal."""
    console = _console()
    if console and console.is_terminal:
        return console.status(text)
    _say(text)
    return contextlib.nullcontext()


def report(findings: Sequence[Finding]) -> None:
    """Print the findings, one a line, each cure below."""
    for finding in findings:
        mark = "ok   " if finding.ok else "WRONG"
        style = "green" if finding.ok else "bold red"
        _say(f"{mark}  {finding.name:8}  {finding.detail}", style)
        if not finding.ok:
            _say(f"                 cure: {finding.cure}")


# ----------------------------------------------------------------------- command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `portanet doctor`."""
    parser.add_argument(
        "--fix",
        nargs="*",
        metavar="DRIVER",
        choices=tuple(drivers.DRIVERS),
        help="unpack software Vulkan drivers, without root "
        f"({', '.join(drivers.DRIVERS)}; default: one if there is no adapter)",
    )


def run(arguments: argparse.Namespace) -> int:
    """0 if all is usable, 1 if something is wrong."""
    failed = False
    if arguments.fix is not None:
        try:
            fix(arguments.fix)
        except drivers.DriverError as e:
            _say(str(e), "bold red")
            failed = True
    findings = diagnose()
    report(findings)
    return int(failed or not all(finding.ok for finding in findings))


def main(argv: Sequence[str] | None = None) -> int:
    """`portanet doctor [--fix [DRIVER ...]]`: exit status."""
    parser = argparse.ArgumentParser(prog="portanet doctor", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
