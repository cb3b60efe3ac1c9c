"""Peak memory of a training step, beside parameters and optimizer state: ours and PyTorch's.

    python benchmarks/steps/memory.py --torch-python PATH

Bytes that are alive at once in a step: activations, gradients, results. Of portanet, compiled
on cpu: the blocks that its plan keeps and what a replay asks for, counted, and compared with
the peak that the plan reports. Of PyTorch, eager: every allocation and release, as its
profiler records them from before the first tensor on. Room that a kernel has for itself counts
in neither.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from workloads import WORKLOADS, make

HERE = Path(__file__).parent
RECORD = HERE.parent / "results" / "memory.json"
STEPS = 3  # the last is measured


def portanet_peak(model: Any, weights: Any, sizes: Any, batch: Any) -> int:
    import portanet as pn

    step = pn.compile(model.build(weights, sizes, "cpu"))
    tensors = [pn.tensor(a, device="cpu") for a in batch]
    for _ in range(STEPS):
        step(*tensors).item()
    ((trace,),) = step.traces.values()
    plan, asked = trace.plan, []
    backend = type(plan.backend)
    real = backend.alloc

    def alloc(self, nbytes):
        asked.append(nbytes)
        return real(self, nbytes)

    backend.alloc = alloc
    step(*tensors)
    backend.alloc = real
    own = [i for i in plan.kept if i not in plan.shared]  # gradients
    apart = sum(plan.sizes[i] for i in own if plan.made[i] not in plan.lent)
    found = sum(b.nbytes for b in plan.blocks) + apart + sum(asked)
    assert found == plan.peak, (found, plan.peak)
    return found


def torch_peak(model: Any, weights: Any, sizes: Any, batch: Any) -> int:
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        step = model.build({k: torch.tensor(w) for k, w in weights.items()}, sizes)
        tensors = [torch.tensor(a) for a in batch]
        tensors = [t if t.is_floating_point() else t.long() for t in tensors]
        for _ in range(STEPS - 1):
            step(*tensors).item()
        optimizer = next(
            c.cell_contents
            for c in step.__closure__
            if isinstance(c.cell_contents, torch.optim.Optimizer)
        )
        leaves = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = sum(p.grad.nbytes for p in leaves)
        with record_function("the measured step"):
            loss = step(*tensors)
        del loss
    events = watch.profiler.kineto_results.events()
    (begin,) = [e.start_ns() for e in events if e.name() == "the measured step"]
    memory = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    now = peak = at_the_start = 0
    for when, nbytes in sorted(memory, key=lambda m: m[0]):
        if when < begin:
            at_the_start += nbytes
        now += nbytes
        peak = max(peak, now) if when >= begin else now
    return peak - (at_the_start - gradients)


SIDES = {"portanet": portanet_peak, "torch": torch_peak}


def side(workload: str, library: str) -> None:
    """Prints the bytes of one library."""
    weights, batches = make(workload)
    about = WORKLOADS[workload]
    model = importlib.import_module(f"{about.model}_{library}")
    print(SIDES[library](model, weights, about.sizes, batches[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", metavar="PATH", help="a Python with torch")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--json", type=Path, default=RECORD)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return side(*arguments.side)
    from portanet.cli import machine

    record = machine.record()
    pythons = {"portanet": sys.executable, "torch": arguments.torch_python}
    for workload in arguments.only:
        found = {}
        for library, python in pythons.items():
            if python:
                command = [python, __file__, "--side", workload, library]
                made = subprocess.run(command, capture_output=True, text=True)
                if made.returncode:
                    sys.exit(f"memory: {library} on {workload}: {made.stderr}")
                found[f"{library}_bytes"] = int(made.stdout.split()[-1])
        record[workload] = found
        print(workload, *(f"{k} {n:,}" for k, n in found.items()), sep="  ")
    arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    print(f"record: {arguments.json}")


if __name__ == "__main__":
    main()
