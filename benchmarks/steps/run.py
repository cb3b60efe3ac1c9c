"""Training steps of portanet, PyTorch and JAX, on the same weights and data.

    python benchmarks/steps/run.py --torch-python PATH --jax-python PATH

Each library runs in a process of its own, all sides of a workload in turn (A B A B), warm;
a step reads its loss. The losses of the first steps must agree. The record has medians and
quartiles, the seconds of the first call, and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from portanet.cli import machine
from portanet.cli.measure import timing
from portanet.devices import devices
from workloads import WORKLOADS

HERE = Path(__file__).parent
RECORD = HERE.parent / "results" / "steps.json"
OURS = "portanet-cpu-compiled"
SAMPLE_S = 0.1  # of one sample
PAUSE_S = 0.02  # before each, until the threads of the side before have gone to sleep
AGREE = 1e-3  # of the losses of the first steps, relative


class Side:
    """A process that runs one library on one workload."""

    def __init__(self, workload: str, name: str, python: str):
        self.name = name
        self.process = subprocess.Popen(
            [python, str(HERE / "side.py"), workload, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()
        self.steps, self.seconds = 1, []

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"steps: {self.name} ended with status {self.process.wait()}")
        return json.loads(line)

    def sample(self) -> float:
        """Seconds of one step."""
        time.sleep(PAUSE_S)
        self.process.stdin.write(f"{self.steps}\n")
        self.process.stdin.flush()
        return self._answer()

    def warm_up(self) -> None:
        """Find how many steps a sample needs."""
        for _ in range(3):
            self.steps = max(1, round(SAMPLE_S / self.sample()))

    def close(self) -> dict:
        """What was found."""
        self.process.stdin.close()
        memory = self._answer()
        self.process.wait()
        taken = timing(self.seconds, self.steps)._asdict()
        return {**taken, **self.about, **memory}


def measure(workload: str, pythons: dict[str, str], budget_s: float) -> dict:
    """All sides of a workload, in turn for about `budget_s` seconds."""
    sides = [Side(workload, name, python) for name, python in pythons.items()]
    for side in sides[1:]:
        losses = [s.about["losses"] for s in (sides[0], side)]
        if not np.allclose(*losses, rtol=AGREE):
            sys.exit(f"steps: {workload}: the losses of {side.name} differ: {losses}")
    for side in sides:
        side.warm_up()
    start = time.perf_counter()
    while time.perf_counter() - start < budget_s:
        for side in sides:
            side.seconds.append(side.sample())
    return {side.name: side.close() for side in sides}


def sides_of(workload: str, arguments: argparse.Namespace) -> dict[str, str]:
    """The sides that can run here, and the Python of each."""
    found = {OURS: sys.executable, "portanet-cpu": sys.executable}
    if workload == "mlp-64" and "wgpu" in devices():
        found["portanet-wgpu-compiled"] = sys.executable
    if arguments.torch_python:
        found["torch"] = arguments.torch_python
        if arguments.torch_compile:
            found["torch-compiled"] = arguments.torch_python
    if arguments.jax_python:
        found["jax"] = arguments.jax_python
    return found


def show(workload: str, found: dict) -> None:
    """A table on the terminal; the ratio is theirs to ours."""
    print(workload)
    ours = found[OURS]["median_ms"]
    for name, side in found.items():
        low, middle, high = (side[k] for k in ("low_ms", "median_ms", "high_ms"))
        print(
            f"    {name:24} {middle:8.3f} ms ({low:.3f} to {high:.3f})"
            f"  x{middle / ours:5.2f}  first call {side['first_call_s']:6.3f} s"
            f"  memory +{side['over_the_start_mib']:.0f} MiB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", metavar="PATH", help="a Python with torch")
    parser.add_argument("--jax-python", metavar="PATH", help="a Python with jax")
    parser.add_argument("--torch-compile", action="store_true", help="measure it too")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=25, help="of each workload")
    parser.add_argument("--json", type=Path, default=RECORD)
    arguments = parser.parse_args()
    # The sides import portanet from where this process did.
    os.environ.setdefault("PYTHONPATH", str(machine.PACKAGE.parent))
    record = machine.record()
    for workload in arguments.only:
        sides = sides_of(workload, arguments)
        record[workload] = measure(workload, sides, arguments.seconds)
        show(workload, record[workload])
    arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    print(f"record: {arguments.json}")


if __name__ == "__main__":
    main()
