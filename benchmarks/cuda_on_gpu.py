"""All that needs an NVIDIA GPU, in one call and within eight minutes.

    python benchmarks/cuda_on_gpu.py [--seconds 450] [--log everything.txt]

In turn: products by every tensor-core entry against NumPy, convolutions against the cpu, the
seconds to the first result with an empty and a full cache, the operator suite on cuda, the
kernels and some training steps beside PyTorch's where torch is installed here, and beside wgpu (NVIDIA's Vulkan), the operator
suite on wgpu, and some of it under compute-sanitizer (memcheck, racecheck, synccheck); in the
end what is reached of GOALS. The record says of each part what came out, or why it did not
run, and is written after each. Every part is a process of its own: one that crashes, or hangs
until its time is over, costs the others nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "results" / "cuda.json"
SANITIZED = "sum or matmul or softmax or scatter or scan or sort or attention or lstm"
PATIENCE = 40.0  # seconds that one workload may take, then its process is killed
WORKLOADS = ROOT / "benchmarks" / "cuda_workloads.py"

# ---------------------------------------------------------------------- processes


class Process:
    """A command whose lines are read as they come, and which can be ended with all that
    it started."""

    def __init__(self, command: Sequence[str], **environment: str):
        self.start = time.perf_counter()
        self.lines: list[str] = []
        self.waiting: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            list(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.waiting.put(line.rstrip())
        self.waiting.put(None)

    def line(self, seconds: float) -> str | None:
        """The next line, None at the end. TimeoutError where none came in time."""
        try:
            found = self.waiting.get(timeout=max(seconds, 0.1))
        except queue.Empty:
            raise TimeoutError from None
        if found is not None:
            self.lines.append(found)
            if LOG is not None:
                print(found, file=LOG, flush=True)
        return found

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


LOG: Any = None


def run(command: Sequence[str], seconds: float, **environment: str) -> dict[str, Any]:
    """What a command ends with: its status, its seconds, what failed, its last lines."""
    until = time.perf_counter() + seconds
    process = Process(command, **environment)
    status: Any = None
    try:
        while process.line(until - time.perf_counter()) is not None:
            pass
        status = process.process.wait()
    except TimeoutError:
        status = "out of time"
    finally:
        process.end()
    failed = [x for x in process.lines if x.startswith(("FAILED", "ERROR", "E   "))]
    took = round(time.perf_counter() - process.start, 1)
    found = {"status": status, "seconds": took, "tail": process.lines[-6:]}
    return found | ({"failed": failed[:60]} if failed else {})


# ------------------------------------------------------------------------- suites


def suite(device: str, seconds: float) -> dict[str, Any]:
    """The operator suite on a device. A test that hangs is named after a minute."""
    workers = str(min(os.cpu_count() or 1, 8))
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-n", workers]
    command += [
        "-o",
        "faulthandler_timeout=60",
        "tests/test_operators.py",
        "-k",
        device,
    ]
    return run(command, seconds, PORTANET_REQUIRE_DEVICES=f"cpu,{device}")


def sanitizers(seconds: float) -> dict[str, Any]:
    """Each tool on the products and on a few operators."""
    found = shutil.which("compute-sanitizer")
    if not found:
        return {"status": "compute-sanitizer is not installed"}
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n0",
        "tests/test_operators.py",
    ]
    tests += ["-k", f"test_value and float32 and cuda and ({SANITIZED})"]
    until, made = time.perf_counter() + seconds, {}
    tools = ("memcheck", "racecheck", "synccheck")
    for left, tool in zip((6, 4, 2), tools, strict=True):
        before = [found, "--tool", tool, "--error-exitcode", "9"]
        for name, command in (("products", [sys.executable, "-c", PRODUCTS, "1"]),
                              ("operators", tests)):  # fmt: skip
            part = (until - time.perf_counter()) / left
            made[f"{tool}, {name}"] = run(
                [*before, *command], part, PORTANET_REQUIRE_DEVICES="cpu,cuda"
            )
            left -= 1
    return made


# argv: what sizes are divided by. kinds: of each way to multiply its name, what is stored,
# one rounding of a result, and those of two factors.
START = """
import sys
import numpy as np, portanet as pn
rng = np.random.default_rng(0)
by = int(sys.argv[1])
worst = {}
def kinds(*names):
    for name in names:
        pn.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        kept = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(name, 2.0**-24)
        is_tf32 = name == "tf32"
        yield name, "float32" if is_tf32 else name, kept, 2.0**-9 if is_tf32 else 0
"""

# Sizes that cut tiles, slices and boxes; so many tiles that Hopper takes wgmma's wide tile,
# its narrow one, and mma.sync.
PRODUCTS = f"""{START}
for dtype, stored, kept, rounded in kinds("float16", "bfloat16", "float32", "tf32"):
    for m, n, k in ((2000, 4104, 520), (1000, 2056, 200), (300, 136, 1160), (257, 131, 97)):
        m, n, k = (max(x // by // 8 * 8, 8) if x % 8 == 0 else x for x in (m, n, k))
        for turned in ("", "a", "b", "ab"):
            a, b = rng.normal(size=(m, k)), rng.normal(size=(k, n))
            x = pn.tensor(a.T.copy() if "a" in turned else a, stored, "cuda")
            y = pn.tensor(b.T.copy() if "b" in turned else b, stored, "cuda")
            x, y = (x.mT if "a" in turned else x), (y.mT if "b" in turned else y)
            a, b = x.numpy().astype("f8"), y.numpy().astype("f8")
            got, want = (x @ y).numpy().astype("f8"), a @ b
            sums = rounded + k * 2.0**-24
            bound = kept * np.abs(want) + sums * (np.abs(a) @ np.abs(b)) + 1e-7
            off = float(np.max(np.abs(got - want) / bound))
            worst[dtype] = max(worst.get(dtype, 0), off)
            assert off <= 1, (dtype, m, n, k, turned, off)
print("error / bound", worst)
"""

# Convolutions and both gradients against float64 on the cpu: whole tiles and cut ones,
# strides, groups, one tap, and long sums in parts.
CONVOLUTIONS = f"""{START}
f = pn.nn.functional
for dtype, stored, kept, rounded in kinds("bfloat16", "tf32", "float32"):
    for n, c, o, size, taps, stride, groups in (
        (9, 136, 128, 40, 3, 1, 1), (5, 68, 200, 33, 3, 2, 1), (4, 96, 64, 31, 5, 3, 2),
        (8, 256, 72, 16, 1, 1, 1)):
        if by > 1:
            n, c, o, size = 2, max(c // by // 8 * 8, 16), max(o // by // 8 * 8, 16), 8
        places = (size + 2 * (taps // 2) - taps) // stride + 1
        shapes = (n, c, size, size), (o, c // groups, taps, taps), (n, o, places, places)
        on_gpu = [pn.tensor(rng.normal(size=s), stored, "cuda") for s in shapes]
        on_cpu = [t.to("cpu").astype("float64") for t in on_gpu]
        def made(x, w, g):
            def y(x, w):
                return f.conv2d(x, w, None, stride, taps // 2, 1, groups)
            gradients = pn.grad(lambda x, w: (y(x, w) * g).sum(), (0, 1))(x, w)
            return [t.numpy().astype("f8") for t in (y(x, w), *gradients)]
        results = zip(made(*on_gpu), made(*on_cpu), made(*map(pn.abs, on_cpu)))
        terms = c // groups * taps**2, o // groups * taps**2, n * places**2
        for k, (got, want, size_of_terms) in zip(terms, results):
            sums = rounded + k * 2.0**-24
            bound = kept * np.abs(want) + sums * size_of_terms + 1e-7
            off = float(np.max(np.abs(got - want) / bound))
            worst[dtype] = max(worst.get(dtype, 0), off)
            assert off <= 1, (dtype, n, c, o, size, taps, stride, groups, k, off)
print("error / bound", worst)
"""

FIRST = """
import time
start = time.perf_counter()
import portanet as pn
imported = time.perf_counter()
x = pn.ones((256, 256), device="cuda")
opened = time.perf_counter()
(x + x).sum().item()
print(imported - start, opened - imported, time.perf_counter() - opened)
"""


def cold_start() -> dict[str, Any]:
    """Seconds to import, to open the device and fill a tensor, to the first result."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("empty cache", "full cache", "full cache again"):
            done = run([sys.executable, "-c", FIRST], 60, PORTANET_CACHE=cache)
            names = ("import", "open", "first result")
            values = done["tail"][-1].split() if done["status"] == 0 else []
            found[name] = dict(zip(names, map(float, values), strict=False)) or done
    return found


# ---------------------------------------------------------------- against PyTorch


def against_torch(until: float, by: int = 1) -> dict[str, Any]:
    """Each workload's result, or why it has none."""
    found: dict[str, Any] = {}
    first, more = 0, True
    while more and time.perf_counter() < until:
        command = [sys.executable, str(WORKLOADS), "--first", str(first)]
        process = Process([*command, "--shrink", str(by)])
        name, why, more = f"workload {first}", "its process ended", False
        try:
            while (
                line := process.line(min(PATIENCE, until - time.perf_counter()))
            ) is not None:
                if not line.startswith('["'):
                    continue
                key, value = json.loads(line)
                if key == "end":
                    return found
                if key == "next":
                    first, name, more = value, f"workload {value}", True
                elif key == "name":
                    name = value
                else:
                    found[key] = value
                    print(key, json.dumps(value), flush=True)
        except TimeoutError:
            why = "out of time"
        finally:
            process.end()
        if name not in found:
            found[name] = f"{why}: {' / '.join(process.lines[-3:])}"
        first += 1
    return found


# ----------------------------------------------------------------------- summary

SPEED = "torch's time / ours"


def _rate(record: dict, name: str, *way: str) -> float | None:
    """A figure of a workload; None where there is none."""
    found: Any = record.get("against torch", {})
    for key in (name, *way):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _of_copy(record: dict, name: str) -> float | None:
    """Its bytes a second, as a part of the best copy's."""
    copies = [
        _rate(record, "copy 64M float32", side, "gb_per_s")
        for side in ("portanet", "torch")
    ]
    mine = _rate(record, name, "portanet", "gb_per_s")
    best = max((c for c in copies if c), default=None)
    return mine / best if mine and best else None


def _first(record: dict, cache: str) -> float | None:
    """Seconds until the first result, from the opening of the device on."""
    found = record.get("cold start", {}).get(cache, {})
    known = "open" in found and "first result" in found
    return found["open"] + found["first result"] if known else None


# What is to be reached: name, the figure, at least, or (with a minus) at most.
GOALS: tuple[tuple[str, Callable[[dict], float | None], float], ...] = (
    *(
        (f"{name}: {SPEED}", lambda r, name=name: _rate(r, name, SPEED), least)
        for name, least in (
            ("matmul 4096 float32", 0.85),
            ("matmul 8192 bfloat16", 0.6),
            ("softmax float32", 1.0),
            ("layer_norm float32", 1.0),
            ("rms_norm float32", 1.0),
            ("cross_entropy float32", 1.0),
            ("attention float32", 0.5),
            ("attention causal float32", 0.5),
            ("attention bfloat16", 0.5),
            ("attention causal bfloat16", 0.5),
            ("attention 128 wide bfloat16", 0.5),
            ("attention gradients bfloat16", 0.5),
            ("attention gradients 128 wide bfloat16", 0.5),
        )
    ),
    *(
        (f"{name}: of a copy's bandwidth", lambda r, name=name: _of_copy(r, name), 0.9)
        for name in (
            "negative 64M float32",
            "add 64M float32",
            "add 64M bfloat16",
            "gelu 64M float32",
            "sum 64M float32",
            "sum axis 0 float32",
            "sum axis 1 float32",
        )
    ),
    ("first result, empty cache, s", lambda r: _first(r, "empty cache"), -1.0),
    ("first result, full cache, s", lambda r: _first(r, "full cache"), -0.3),
)


def summary(record: dict[str, Any]) -> dict[str, str]:
    """Each goal: whether it is reached, and by what; each suite: how it ended."""
    found = {}
    for name in ("products", "convolutions", "suite on cuda", "suite on wgpu"):
        part = record.get(name, {})
        tail = part.get("tail") or [""]
        reached = "yes" if part.get("status") == 0 else "NO"
        found[name] = f"{reached}: status {part.get('status')}, {tail[-1]}"
    for name, figure, wanted in GOALS:
        got = figure(record)
        if got is None:
            found[name] = "not measured"
            continue
        reached = got >= wanted if wanted > 0 else got <= -wanted
        bound = f"{'at least' if wanted > 0 else 'at most'} {abs(wanted)}"
        found[name] = f"{'yes' if reached else 'NO'}: {got:.3g}, {bound} is wanted"
    wrong = [
        name
        for name, result in record.get("against torch", {}).items()
        if isinstance(result, dict) and not result.get("agrees", True)
    ]
    found["differ from torch"] = ", ".join(wrong) or "none"
    return found


# ------------------------------------------------------------------------ command


def main() -> None:
    global LOG
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--log", type=Path, help="a file for all that the parts print")
    # To try the script where there is no GPU: sizes are divided by it.
    parser.add_argument("--shrink", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    LOG = arguments.log and arguments.log.open("w")
    start = time.perf_counter()

    def left() -> float:
        return arguments.seconds - (time.perf_counter() - start)

    from portanet.backend_cuda import installed

    print(", ".join(installed.usable()), flush=True)
    products = [sys.executable, "-c", PRODUCTS, str(arguments.shrink)]
    convolutions = [sys.executable, "-c", CONVOLUTIONS, str(arguments.shrink)]
    parts: dict[str, Callable[[], Any]] = {
        "products": lambda: run(products, 60),
        "convolutions": lambda: run(convolutions, 60),
        "cold start": cold_start,
        "suite on cuda": lambda: suite("cuda", 0.35 * left()),
        "against torch": lambda: against_torch(
            time.perf_counter() + 0.5 * left(), arguments.shrink
        ),
        "suite on wgpu": lambda: suite("wgpu", 0.4 * left()),
        "sanitizers": lambda: sanitizers(left()),
    }
    record = play(parts, arguments.record)
    print(json.dumps(record["summary"], indent=1))
    print(f"{time.perf_counter() - start:.0f} s, record: {arguments.record}")


def play(parts: dict[str, Callable[[], Any]], to: Path) -> dict[str, Any]:
    """Run the parts, each whatever became of those before, and write down what is known."""
    from portanet.cli import machine

    record: dict[str, Any] = {}
    for name, part in {"machine": machine.record, **parts}.items():
        try:
            found = part()
        except Exception as why:  # the other parts are still worth their time
            found = {"status": f"{type(why).__name__}: {why}"}
        record |= found if name == "machine" else {name: found}
        record["summary"] = summary(record)
        print(name, json.dumps(found, indent=1), flush=True)
        to.write_text(json.dumps(record, indent=1) + "\n")
    return record


if __name__ == "__main__":
    main()
