"""What the host costs: an eager add, a matmul on one thread, `import portanet`.

    python benchmarks/host_cost.py [--torch-python PATH] [--json FILE]

Each side is a process of its own that takes a sample when it is told to, so that all sides
run in turn and one library's threads are not another's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from portanet.cli import machine
from portanet.cli.measure import timing
from portanet.devices import devices

ROUNDS = 30  # samples of each side
RESULTS = Path(__file__).parent / "results"

# A side: `step()` does `CALLS` calls, `after()` what is not timed.
SERVE = """
import sys, time
for _ in range(5): step(); after()
for line in sys.stdin:
    wall, host = time.perf_counter(), time.thread_time()
    step()
    wall, host = time.perf_counter() - wall, time.thread_time() - host
    after()
    print(wall / CALLS, host / CALLS, flush=True)
"""

# The sum of two four-element tensors, recorded for a gradient. On a GPU the launches are
# encoded and submitted but not waited for. "encoded" is a sample of fewer calls than a
# submit holds, so that a software GPU does not compute on the same cores meanwhile: the
# cost of the host alone.
ADD = """
import portanet as pn
CALLS = 1000
x = pn.tensor([1.0, 2.0, 3.0, 4.0], device=DEVICE, requires_grad=True)
y = pn.tensor([4.0, 3.0, 2.0, 1.0], device=DEVICE)
assert (x + y).tolist() == [5.0] * 4 and (x + y).requires_grad
def step():
    for _ in range(CALLS): x + y
def after(): pn.synchronize(DEVICE)
"""
TORCH_ADD = """
import torch
CALLS = 1000
x = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
y = torch.tensor([4.0, 3.0, 2.0, 1.0])
assert (x + y).tolist() == [5.0] * 4 and (x + y).requires_grad
def step():
    for _ in range(CALLS): x + y
def after(): pass
"""
MATRICES = """
import numpy as np
CALLS = 5
a, b = np.random.default_rng(0).normal(size=(2, 512, 512)).astype(np.float32)
"""
MATMUL = f"""{MATRICES}
import portanet as pn
x, y = pn.tensor(a, device="cpu"), pn.tensor(b, device="cpu")
exact = a.astype(np.float64) @ b
assert np.abs((x @ y).numpy() - exact).max() < 1e-4 * np.abs(exact).max()
def step():
    for _ in range(CALLS): x @ y
def after(): pass
"""
NUMPY_MATMUL = f"""{MATRICES}
def step():
    for _ in range(CALLS): a @ b
def after(): pass
"""
IMPORT = """
import sys, time
start = time.perf_counter(); import MODULE; took = time.perf_counter() - start
print(took, "wgpu" in sys.modules)
"""
ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PORTANET_NUM_THREADS": "1",
}


def start(code: str, python: str = sys.executable, env: dict | None = None):
    """A process that is a side."""
    return subprocess.Popen(
        [python, "-c", code + SERVE],
        env={**os.environ, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def in_turn(sides: dict, rounds: int) -> dict:
    """Timings of the sides, a sample of each in turn: of the clock ("median_ms" ...), and
    what the calling thread computed ("thread_ms")."""
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, process in sides.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                sys.exit(f"host_cost: {name} ended with status {process.wait()}")
            seconds[name].append([float(word) for word in line.split()])
    for process in sides.values():
        process.stdin.close()
        process.wait()
    found = {}
    for name, samples in seconds.items():
        wall, thread = (list(column) for column in zip(*samples, strict=True))
        thread_ms = 1e3 * statistics.median(thread)
        found[name] = {**timing(wall)._asdict(), "thread_ms": thread_ms}
    return found


def can_import_torch(python: str) -> bool:
    found = subprocess.run([python, "-c", "import torch"], capture_output=True)
    return found.returncode == 0


def add(rounds: int, torch_python: str | None) -> dict:
    sides = {
        name: start(f"DEVICE = {name!r}\n{ADD}")
        for name in devices()
        if name in ("cpu", "wgpu")
    }
    if "wgpu" in sides:
        few = ADD.replace("CALLS = 1000", "CALLS = 32")
        sides["wgpu, encoded"] = start(f"DEVICE = 'wgpu'\n{few}")
    if torch_python and can_import_torch(torch_python):
        sides["torch"] = start(TORCH_ADD, torch_python)
    return in_turn(sides, rounds)


def matmul(rounds: int) -> dict:
    sides = {"portanet": MATMUL, "numpy": NUMPY_MATMUL}
    processes = {name: start(code, env=ONE_THREAD) for name, code in sides.items()}
    found = in_turn(processes, rounds)
    speeds = [found[name]["median_ms"] for name in ("numpy", "portanet")]
    return {**found, "speed of numpy's": speeds[0] / speeds[1]}


def imports(rounds: int) -> dict:
    """Seconds of an import in a fresh process, in turn with NumPy's alone; from compiled
    bytecode, as after any first run."""
    seconds: dict[str, list[float]] = {"portanet": [], "numpy": []}
    wgpu = False
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        for number in range(rounds + 1):
            for module in seconds:
                command = [sys.executable, "-c", IMPORT.replace("MODULE", module)]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=True, env=env
                )
                took, has_wgpu = done.stdout.split()
                wgpu = wgpu or has_wgpu == "True"
                if number:  # the first compiles
                    seconds[module].append(float(took))
    return {
        **{m: statistics.median(s) for m, s in seconds.items()},
        "imports wgpu": wgpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--torch-python", metavar="PATH", help="to measure PyTorch beside"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    parser.add_argument("--json", type=Path, default=RESULTS / "host_cost.json")
    arguments = parser.parse_args()
    found = {
        **machine.record(),
        "add of 4 elements, recorded": add(arguments.rounds, arguments.torch_python),
        "matmul 512, float32, one thread": matmul(arguments.rounds),
        "import, s": imports(arguments.rounds),
    }
    for name, timings in list(found.items())[-3:]:
        print(name)
        for side, value in timings.items():
            if isinstance(value, dict):
                keys = ("low_ms", "median_ms", "high_ms", "thread_ms")
                low, middle, high, thread = (value[key] * 1e3 for key in keys)
                value = (
                    f"{middle:.2f} us ({low:.2f} to {high:.2f}), thread {thread:.2f}"
                )
            elif isinstance(value, float):
                value = f"{value:.3f}"
            print(f"    {side:18} {value}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"record: {arguments.json}")


if __name__ == "__main__":
    main()
