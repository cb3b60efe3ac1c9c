"""All that needs an NVIDIA GPU, in one call and within eight minutes.

    python benchmarks/cuda_on_gpu.py [--seconds 450]

In turn: the operator suite on cuda and on wgpu (NVIDIA's Vulkan), some of it under
compute-sanitizer (memcheck, racecheck, synccheck), the seconds to the first result with an
empty and a full cache, and the kernels beside PyTorch's where torch is installed here. The
record says of each part what came out, or why it did not run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "results" / "cuda.json"
SANITIZED = "cuda and (sum or matmul or softmax or scatter or scan or cumsum or sort)"


def run(command: list[str], seconds: float, **environment: str) -> dict[str, Any]:
    """What a command ends with: its status, its seconds, its last lines."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=max(seconds, 1),
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        status: Any = done.returncode
        output = done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        status = "out of time"
        output = (late.stdout or b"").decode(errors="replace")
    took = time.perf_counter() - start
    tail = output.strip().splitlines()[-12:]
    return {"status": status, "seconds": round(took, 1), "tail": tail}


# ------------------------------------------------------------------------- suites


def suite(
    device: str, seconds: float, chosen: str = "", *, before=()
) -> dict[str, Any]:
    """The operator suite on a device."""
    workers = ["-n0"] if before else ["-n", str(min(os.cpu_count() or 1, 8))]
    command = [*before, sys.executable, "-m", "pytest", "-q", "-x" if before else "-q"]
    command += [*workers, "tests/test_operators.py", "-k", chosen or device]
    return run(command, seconds, PORTANET_REQUIRE_DEVICES=f"cpu,{device}")


def sanitizers(seconds: float) -> dict[str, Any]:
    found = shutil.which("compute-sanitizer")
    if not found:
        return {"status": "compute-sanitizer is not installed"}
    part = seconds / 3
    return {
        tool: suite(
            "cuda",
            part,
            f"test_value and float32 and {SANITIZED}",
            before=(found, "--tool", tool, "--error-exitcode", "9"),
        )
        for tool in ("memcheck", "racecheck", "synccheck")
    }


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
    """Seconds to import, to open the device, to the first result."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("empty cache", "full cache", "full cache again"):
            done = run([sys.executable, "-c", FIRST], 60, PORTANET_CACHE=cache)
            names = ("import", "open", "first result")
            values = done["tail"][-1].split() if done["status"] == 0 else []
            found[name] = dict(zip(names, map(float, values), strict=False)) or done
    return found


# ---------------------------------------------------------------- against PyTorch


class Work(NamedTuple):
    """One workload: the same of both libraries, bytes it must move, operations it does."""

    name: str
    arrays: tuple[np.ndarray, ...]
    dtype: str
    ours: Callable
    theirs: Callable
    nbytes: float = 0
    flops: float = 0
    rtol: float = 1e-4


def works() -> Iterator[Work]:
    import portanet as pn

    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    for n, dtype in ((1024, "float32"), (4096, "float32"), (4096, "float16"),
                     (4096, "bfloat16"), (8192, "bfloat16")):  # fmt: skip
        a, b = normal(n, n), normal(n, n)
        rtol = 1e-4 if dtype == "float32" else 3e-2
        yield Work(
            f"matmul {n}", (a, b), dtype, lambda x, y: x @ y, lambda t, x, y: x @ y,
            flops=2.0 * n**3, rtol=rtol,
        )  # fmt: skip
    x, y = normal(1 << 26), normal(1 << 26)
    size = 4.0 * x.size
    yield Work("add 64M", (x, y), "float32", lambda x, y: x + y,
               lambda t, x, y: x + y, nbytes=3 * size)  # fmt: skip
    yield Work("gelu 64M", (x,), "float32", pn.nn.functional.gelu,
               lambda t, x: t.nn.functional.gelu(x), nbytes=2 * size)  # fmt: skip
    yield Work("sum 64M", (x,), "float32", lambda x: x.sum(),
               lambda t, x: x.sum(), nbytes=size, rtol=1e-3)  # fmt: skip
    rows = normal(8192, 4096)
    size = 4.0 * rows.size
    for axis in (0, 1):
        yield Work(f"sum axis {axis}", (rows,), "float32",
                   lambda x, axis=axis: x.sum(axis),
                   lambda t, x, axis=axis: x.sum(axis), nbytes=size)  # fmt: skip
    f = pn.nn.functional
    yield Work("softmax", (rows,), "float32", lambda x: f.softmax(x, -1),
               lambda t, x: t.softmax(x, -1), nbytes=2 * size)  # fmt: skip
    one = np.ones(4096, np.float32)
    yield Work("layer_norm", (rows, one, one), "float32",
               lambda x, w, b: f.layer_norm(x, (4096,), w, b),
               lambda t, x, w, b: t.nn.functional.layer_norm(x, (4096,), w, b),
               nbytes=2 * size)  # fmt: skip
    q = normal(4, 16, 2048, 64)
    for dtype in ("float32", "bfloat16"):
        yield Work("attention", (q, q, q), dtype,
                   lambda q, k, v: f.scaled_dot_product_attention(q, k, v),
                   lambda t, q, k, v:
                       t.nn.functional.scaled_dot_product_attention(q, k, v),
                   flops=4.0 * 4 * 16 * 2048 * 2048 * 64, rtol=3e-2)  # fmt: skip


def compare(work: Work, torch: Any) -> dict[str, Any]:
    """Median milliseconds of both, in turn, after their results agree."""
    import portanet as pn
    from portanet.cli.measure import Side, in_turn

    backend = pn.zeros(1, device="cuda").device.backend
    mine = [pn.tensor(a, work.dtype, "cuda") for a in work.arrays]
    sides = {"portanet": Side(lambda: work.ours(*mine), backend.wait)}
    found: dict[str, Any] = {}
    if torch is not None:
        torch.backends.cuda.matmul.allow_tf32 = False
        kind = getattr(torch, work.dtype)
        theirs = [torch.tensor(a, device="cuda", dtype=kind) for a in work.arrays]
        sides["torch"] = Side(
            lambda: work.theirs(torch, *theirs), torch.cuda.synchronize
        )
        got = work.ours(*mine).astype("float32").numpy()
        want = work.theirs(torch, *theirs).float().cpu().numpy()
        scale = float(np.abs(want).mean()) + 1e-30
        found["off"] = float(np.abs(got - want).max() / scale)
        found["agrees"] = found["off"] < 100 * work.rtol
    for name, t in in_turn(sides, budget_s=1.5, sample_s=0.02).items():
        found[name] = {
            "median_ms": t.median_ms,
            "low_ms": t.low_ms,
            "high_ms": t.high_ms,
        }
        if work.flops:
            found[name]["tflops"] = work.flops / t.median_ms / 1e9
        if work.nbytes:
            found[name]["gb_per_s"] = work.nbytes / t.median_ms / 1e6
    if torch is not None:
        ours, other = found["portanet"]["median_ms"], found["torch"]["median_ms"]
        found["torch's time / ours"] = other / ours
    return found


def against_torch(until: float) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        torch = None
    found: dict[str, Any] = {"torch": getattr(torch, "__version__", "not installed")}
    for work in works():
        if time.perf_counter() > until:
            found[f"{work.name} {work.dtype}"] = "out of time"
            continue
        try:
            result: Any = compare(work, torch)
        except Exception as why:  # the other workloads are still worth their time
            result = f"{type(why).__name__}: {why}"
        found[f"{work.name} {work.dtype}"] = result
        print(work.name, work.dtype, json.dumps(result), flush=True)
    return found


# ------------------------------------------------------------------------ command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args()
    start = time.perf_counter()
    limit = arguments.seconds

    from portanet.backend_cuda import host
    from portanet.cli import machine

    print(", ".join(host.usable()), flush=True)
    record = machine.record()
    parts: dict[str, Callable[[], Any]] = {
        "cold start": cold_start,
        "against torch": lambda: against_torch(start + 0.35 * limit),
        "suite on cuda": lambda: suite("cuda", 0.3 * limit),
        "suite on wgpu": lambda: suite("wgpu", 0.2 * limit),
        "sanitizers": lambda: sanitizers(limit - (time.perf_counter() - start)),
    }
    for name, part in parts.items():
        record[name] = part()
        print(name, json.dumps(record[name], indent=1), flush=True)
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{time.perf_counter() - start:.0f} s, record: {arguments.record}")


if __name__ == "__main__":
    main()
