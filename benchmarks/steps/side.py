"""One library on one workload, in a process of its own, driven by lines on stdin.

    python benchmarks/steps/side.py WORKLOAD portanet-cpu-compiled --profile

Sides: portanet-DEVICE, portanet-DEVICE-compiled, torch, torch-compiled, jax. A step is a
call and the reading of its loss. At the start a line of JSON: the losses of the first steps,
the seconds of the first, the version. For each line with a number it takes that many steps
and answers with the seconds of one. At the end, its memory.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

from workloads import WORKLOADS, Batch, Weights, make

CHECKED = 8  # losses that are compared between the libraries


def portanet_step(model: Any, weights: Weights, sizes, batches, device, mode="eager"):
    import portanet as pn

    step = model.build(weights, sizes, device)
    step = pn.compile(step) if mode == "compiled" else step
    tensors = [[pn.tensor(a, device=device) for a in pair] for pair in batches]
    there = cycle(tensors)
    if "--profile" in sys.argv:
        step(*tensors[0])
        print(step.profile(*tensors[0]))
        sys.exit()
    return lambda: step(*next(there)).item()


def torch_step(model: Any, weights: Weights, sizes, batches: list[Batch], mode="eager"):
    import torch

    step = model.build({k: torch.tensor(w) for k, w in weights.items()}, sizes)
    step = torch.compile(step) if mode == "compiled" else step
    tensors = [[torch.tensor(a) for a in pair] for pair in batches]
    whole = [
        [t if t.is_floating_point() else t.long() for t in pair] for pair in tensors
    ]
    there = cycle(whole)
    return lambda: step(*next(there)).item()


def jax_step(model: Any, weights: Weights, sizes, batches: list[Batch]):
    import jax

    arrays = {k: jax.numpy.asarray(w) for k, w in weights.items()}
    state, step = model.build(arrays, sizes)
    step = jax.jit(step, donate_argnums=0)
    there = cycle([[jax.numpy.asarray(a) for a in pair] for pair in batches])

    def call():
        nonlocal state
        state, loss = step(state, *next(there))
        return loss.item()

    return call


LIBRARIES: dict[str, Callable] = {
    "portanet": portanet_step,
    "torch": torch_step,
    "jax": jax_step,
}


def memory_mib() -> dict[str, float]:
    """Of the process: now, and at the peak. Linux only."""
    status = Path("/proc/self/status")
    if not status.exists():
        return {}
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    names = {"now": "VmRSS", "peak": "VmHWM"}
    return {k: int(lines[v].split()[0]) / 1024 for k, v in names.items()}


def main() -> None:
    workload, (library, *how) = sys.argv[1], sys.argv[2].split("-")
    weights, batches = make(workload)
    model = importlib.import_module(f"{WORKLOADS[workload].model}_{library}")
    start = memory_mib().get("now", 0)
    sizes = WORKLOADS[workload].sizes
    step = LIBRARIES[library](model, weights, sizes, batches, *how)
    began = time.perf_counter()
    losses = [step()]
    first = time.perf_counter() - began
    losses += [step() for _ in range(CHECKED - 1)]
    version = importlib.import_module(library).__version__
    found = {"losses": losses, "first_call_s": first, "version": version}
    print(json.dumps(found), flush=True)
    for line in sys.stdin:
        steps = int(line)
        step()  # wakes the threads up
        began = time.perf_counter()
        for _ in range(steps):
            step()
        print((time.perf_counter() - began) / steps, flush=True)
    peak = memory_mib().get("peak", 0)
    print(
        json.dumps({"peak_mib": peak, "over_the_start_mib": peak - start}), flush=True
    )


if __name__ == "__main__":
    main()
