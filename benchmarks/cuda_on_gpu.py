"""All that needs an NVIDIA GPU, in one call and within eight minutes.

    python benchmarks/cuda_on_gpu.py [--seconds 450] [--log everything.txt]

In turn: products by every tensor-core entry against NumPy, the seconds to the first result
with an empty and a full cache, the operator suite on cuda, the kernels beside PyTorch's where
torch is installed here, the operator suite on wgpu (NVIDIA's Vulkan), and some of it under
compute-sanitizer (memcheck, racecheck, synccheck). The record says of each part what came
out, or why it did not run. Every part is a process of its own: one that crashes, or hangs
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "results" / "cuda.json"
SANITIZED = "sum or matmul or softmax or scatter or scan or sort or attention or lstm"
PATIENCE = 40.0  # seconds that one workload may take, then its process is killed

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


# Sizes that cut tiles, slices and boxes; so many tiles that Hopper takes wgmma's wide tile,
# its narrow one, and mma.sync. argv: what the sizes are divided by.
PRODUCTS = """
import sys
import numpy as np, portanet as pn
rng = np.random.default_rng(0)
by = int(sys.argv[1])
worst = {}
for dtype in ("float16", "bfloat16", "float32", "tf32"):
    pn.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    stored = "float32" if dtype == "tf32" else dtype
    for m, n, k in ((2000, 4104, 520), (1000, 2056, 200), (300, 136, 1160), (257, 131, 97)):
        m, n, k = (max(x // by // 8 * 8, 8) if x % 8 == 0 else x for x in (m, n, k))
        for turned in ("", "a", "b", "ab"):
            a, b = rng.normal(size=(m, k)), rng.normal(size=(k, n))
            x = pn.tensor(a.T.copy() if "a" in turned else a, stored, "cuda")
            y = pn.tensor(b.T.copy() if "b" in turned else b, stored, "cuda")
            x, y = (x.mT if "a" in turned else x), (y.mT if "b" in turned else y)
            a, b = x.numpy().astype("f8"), y.numpy().astype("f8")
            got, want = (x @ y).numpy().astype("f8"), a @ b
            # One rounding of the result, of each factor for TF32, and k of the sum.
            kept = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(dtype, 2.0**-24)
            sums = (2.0**-9 if dtype == "tf32" else 0) + k * 2.0**-24
            bound = kept * np.abs(want) + sums * (np.abs(a) @ np.abs(b)) + 1e-7
            off = float(np.max(np.abs(got - want) / bound))
            worst[dtype] = max(worst.get(dtype, 0), off)
            assert off <= 1, (dtype, m, n, k, turned, off)
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


class Work(NamedTuple):
    """One workload: the same of both libraries, bytes it must move, operations it does."""

    name: str
    arrays: tuple[np.ndarray, ...]
    dtype: str
    ours: Callable
    theirs: Callable  # of torch and the arrays
    nbytes: float = 0
    flops: float = 0
    off: float = 1e-4  # the largest difference over the mean magnitude
    precision: str = "highest"


def works(by: int = 1) -> Iterator[Callable[[], Work]]:
    """The workloads, made when they are called; sizes are divided by `by`."""
    import portanet as pn

    f = pn.nn.functional

    def normal(*shape: int) -> np.ndarray:
        small = (max(n // by, 8) for n in shape)
        return np.random.default_rng(0).standard_normal((*small,), dtype=np.float32)

    # Rounding of the result: both sides half a unit of the largest, 6 sigma.
    rounded = {"float32": 2e-4, "float16": 1e-2, "bfloat16": 6e-2}

    def product(n: int, dtype: str, precision: str = "highest") -> Work:
        a = normal(n, n)
        off = rounded[dtype] if precision == "highest" else 2e-2
        return Work(
            f"matmul {n}", (a, a[::-1].copy()), dtype, lambda x, y: x @ y,
            lambda t, x, y: x @ y, flops=2.0 * len(a) ** 3, off=off, precision=precision,
        )  # fmt: skip

    for n, dtype in ((1024, "float32"), (4096, "float32"), (4096, "float16"),
                     (4096, "bfloat16"), (8192, "bfloat16")):  # fmt: skip
        yield lambda n=n, dtype=dtype: product(n, dtype)
    yield lambda: product(4096, "float32", "high")

    def moving(
        name, ours, theirs, count, passes, off=1e-5, dtype="float32"
    ) -> Callable[[], Work]:
        def made() -> Work:
            arrays = tuple(normal(1 << 26) for _ in range(count))
            size = arrays[0].size * (4.0 if dtype == "float32" else 2.0)
            return Work(name, arrays, dtype, ours, theirs, passes * size, off=off)

        return made

    # A copy is the measure of what the memory can do.
    yield moving("copy 64M", lambda x: x + 0, lambda t, x: x.clone(),
                 1, 2)  # fmt: skip
    yield moving("negative 64M", lambda x: -x, lambda t, x: -x, 1, 2)
    yield moving("add 64M", lambda x, y: x + y, lambda t, x, y: x + y, 2, 3)
    yield moving("add 64M", lambda x, y: x + y, lambda t, x, y: x + y, 2, 3,
                 off=6e-2, dtype="bfloat16")  # fmt: skip
    yield moving("gelu 64M", f.gelu, lambda t, x: t.nn.functional.gelu(x), 1, 2)
    yield moving("sum 64M", lambda x: x.sum(),
                 lambda t, x: x.sum(), 1, 1, off=1e-2)  # fmt: skip

    def rows(name, ours, theirs, passes, *others, off=1e-4) -> Callable[[], Work]:
        def made() -> Work:
            x = normal(8192, 4096)
            extra = tuple(o(x) for o in others)
            return Work(name, (x, *extra), "float32", ours, theirs,
                        passes * 4.0 * x.size, off=off)  # fmt: skip

        return made

    for axis in (0, 1):
        yield rows(f"sum axis {axis}", lambda x, axis=axis: x.sum(axis),
                   lambda t, x, axis=axis: x.sum(axis), 1)  # fmt: skip
    yield rows("softmax", lambda x: f.softmax(x, -1), lambda t, x: t.softmax(x, -1), 2)

    def one(x):
        return np.ones(x.shape[1], np.float32)

    yield rows("layer_norm", lambda x, w, b: f.layer_norm(x, x.shape[-1:], w, b),
               lambda t, x, w, b: t.nn.functional.layer_norm(x, x.shape[-1:], w, b),
               2, one, one)  # fmt: skip
    yield rows("rms_norm", lambda x, w: f.rms_norm(x, x.shape[-1:], w, 1e-5),
               lambda t, x, w: t.nn.functional.rms_norm(x, x.shape[-1:], w, 1e-5),
               2, one)  # fmt: skip
    yield rows("cross_entropy", f.cross_entropy,
               lambda t, x, y: t.nn.functional.cross_entropy(x, y.long()), 1,
               lambda x: np.arange(len(x), dtype=np.int32) * 7 % x.shape[1])  # fmt: skip

    def attention(dtype: str, is_causal: bool) -> Work:
        q = normal(4, 16, 2048, 64)
        batch, heads, length, width = q.shape
        return Work(
            "attention" + " causal" * is_causal, (q, q, q), dtype,
            lambda q, k, v: f.scaled_dot_product_attention(q, k, v, is_causal=is_causal),
            lambda t, q, k, v: t.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=is_causal
            ),
            flops=4.0 * batch * heads * length**2 * width / (1 + is_causal),
            off=1e-3 if dtype == "float32" else 0.2,
        )  # fmt: skip

    for dtype in ("float32", "bfloat16"):
        for is_causal in (False, True):
            yield lambda dtype=dtype, causal=is_causal: attention(dtype, causal)

    # Gradients of half the squared result, for each input.
    def gradients(
        name, arrays, ours, theirs, nbytes=0.0, flops=0.0, off=1e-3,
        dtype="float32", precision="highest",
    ) -> Work:  # fmt: skip
        every = tuple(range(len(arrays)))

        def mine(*xs):
            return pn.grad(lambda *xs: (ours(*xs) ** 2).sum() / 2, every)(*xs)[0]

        def other(t, *xs):
            xs = [x.detach().requires_grad_() for x in xs]
            return t.autograd.grad((theirs(t, *xs) ** 2).sum() / 2, xs)[0]

        return Work(
            name, arrays, dtype, mine, other, nbytes, flops, off, precision=precision
        )

    def layer_norm_gradients() -> Work:
        x = normal(8192, 1024)
        return gradients(
            "layer_norm gradients", (x, one(x), one(x)),
            lambda x, w, b: f.layer_norm(x, x.shape[-1:], w, b),
            lambda t, x, w, b: t.nn.functional.layer_norm(x, x.shape[-1:], w, b),
            nbytes=8 * 4.0 * x.size,
        )  # fmt: skip

    def batch_norm_gradients() -> Work:
        x = normal(128, 64, 56, 56)
        return gradients(
            "batch_norm gradients", (x, one(x), one(x)),
            lambda x, w, b: f.batch_norm(x, None, None, w, b, training=True),
            lambda t, x, w, b: t.nn.functional.batch_norm(x, None, None, w, b, True),
            nbytes=9 * 4.0 * x.size,
        )  # fmt: skip

    def attention_gradients() -> Work:
        q = normal(4, 16, 2048, 64)
        batch, heads, length, width = q.shape
        return gradients(
            "attention gradients", (q, q, q), f.scaled_dot_product_attention,
            lambda t, *x: t.nn.functional.scaled_dot_product_attention(*x),
            flops=14.0 * batch * heads * length**2 * width,
        )  # fmt: skip

    # The stages of a ResNet, and one whose stride leaves places out: images, channels,
    # width, stride; of the gradients one half is the input's, the other the weight's.
    def convolution(shape, dtype: str, precision: str, has_gradients: bool) -> Work:
        images, channels, width, stride = shape
        x = normal(images, channels, width, width)
        name = f"conv2d {channels} to {channels * stride}, width {width}"
        outputs, channels = x.shape[1] * stride, x.shape[1]
        rng = np.random.default_rng(1)
        w = rng.standard_normal((outputs, channels, 3, 3), dtype=np.float32)
        places = len(x) * -((-x.shape[2] // stride) ** 2)
        flops = 2.0 * 9 * places * outputs * channels

        def ours(x, w):
            return f.conv2d(x, w, None, stride, 1)

        def theirs(t, x, w):
            return t.nn.functional.conv2d(x, w, None, stride, 1)

        off = rounded[dtype] if precision == "highest" else 2e-2
        if not has_gradients:
            return Work(name, (x, w), dtype, ours, theirs, 0, flops, off, precision)
        return gradients(
            f"{name}, gradients", (x, w), ours, theirs, 0, 3 * flops, 3 * off,
            dtype, precision,
        )  # fmt: skip

    shapes = (64, 64, 56, 1), (64, 128, 56, 2), (64, 256, 14, 1)
    kinds = ("float32", "highest"), ("float32", "high"), ("bfloat16", "highest")
    for shape in shapes:
        for dtype, precision in kinds[::2]:
            yield lambda s=shape, d=dtype, p=precision: convolution(s, d, p, False)
    yield lambda: convolution(shapes[0], *kinds[1], False)
    for dtype, precision in kinds:
        yield lambda d=dtype, p=precision: convolution(shapes[1], d, p, True)

    yield layer_norm_gradients
    yield batch_norm_gradients
    yield attention_gradients


def compare(work: Work, torch: Any) -> dict[str, Any]:
    """Median milliseconds of both, in turn, after their results agree."""
    import portanet as pn
    from portanet.cli.measure import Side, in_turn

    pn.set_float32_matmul_precision(work.precision)
    backend = pn.zeros(1, device="cuda").device.backend
    kinds = [a.dtype.name if a.dtype.kind == "i" else work.dtype for a in work.arrays]
    mine = [pn.tensor(a, k, "cuda") for a, k in zip(work.arrays, kinds, strict=True)]
    sides = {"portanet": Side(lambda: work.ours(*mine), backend.wait)}
    found: dict[str, Any] = {}
    got = work.ours(*mine).astype("float32").numpy()
    if torch is not None:
        torch.set_float32_matmul_precision(work.precision)
        torch.backends.cudnn.allow_tf32 = work.precision == "high"  # of convolutions
        pairs = zip(work.arrays, kinds, strict=True)
        theirs = [
            torch.tensor(a, device="cuda", dtype=getattr(torch, k)) for a, k in pairs
        ]
        sides["torch"] = Side(
            lambda: work.theirs(torch, *theirs), torch.cuda.synchronize
        )
        want = work.theirs(torch, *theirs).float().cpu().numpy()
        found["off"] = float(np.abs(got - want).max() / (np.abs(want).mean() + 1e-30))
        found["agrees"] = bool(found["off"] <= work.off)
    for name, t in in_turn(sides, budget_s=1.2, sample_s=0.02).items():
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


def measure(first: int, by: int) -> None:
    """Compare the workloads from number `first` on; a line of JSON for each."""
    try:
        import torch
    except ImportError:
        torch = None
    version = getattr(torch, "__version__", "not installed")
    print(json.dumps(["torch", version]), flush=True)
    for i, make in enumerate(works(by)):
        if i < first:
            continue
        print(json.dumps(["next", i]), flush=True)
        work = make()
        name = f"{work.name} {work.dtype}" + " TF32" * (work.precision == "high")
        print(json.dumps(["name", name]), flush=True)
        try:
            result: Any = compare(work, torch)
        except Exception as why:  # the other workloads are still worth their time
            result = f"{type(why).__name__}: {why}"
        print(json.dumps([name, result]), flush=True)
        if isinstance(result, str):
            return  # whoever started this goes on in a process without that error


def against_torch(until: float, by: int = 1) -> dict[str, Any]:
    """Each workload's result, or why it has none."""
    found: dict[str, Any] = {}
    first, count = 0, sum(1 for _ in works(by))
    while first < count and time.perf_counter() < until:
        process = Process(
            [sys.executable, __file__, "--measure", str(first), "--shrink", str(by)]
        )
        name, why = f"workload {first}", "its process ended"
        try:
            while (
                line := process.line(min(PATIENCE, until - time.perf_counter()))
            ) is not None:
                if not line.startswith("["):
                    continue
                key, value = json.loads(line)
                if key == "next":
                    first, name = value, f"workload {value}"
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


# ------------------------------------------------------------------------ command


def main() -> None:
    global LOG
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--log", type=Path, help="a file for all that the parts print")
    # To try the script where there is no GPU: sizes are divided by it.
    parser.add_argument("--shrink", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(arguments.measure, arguments.shrink)
        return
    LOG = arguments.log and arguments.log.open("w")
    start = time.perf_counter()

    def left() -> float:
        return arguments.seconds - (time.perf_counter() - start)

    from portanet.backend_cuda import installed
    from portanet.cli import machine

    print(", ".join(installed.usable()), flush=True)
    record = machine.record()
    products = [sys.executable, "-c", PRODUCTS, str(arguments.shrink)]
    parts: dict[str, Callable[[], Any]] = {
        "products": lambda: run(products, 60),
        "cold start": cold_start,
        "suite on cuda": lambda: suite("cuda", 0.35 * left()),
        "against torch": lambda: against_torch(
            time.perf_counter() + 0.5 * left(), arguments.shrink
        ),
        "suite on wgpu": lambda: suite("wgpu", 0.4 * left()),
        "sanitizers": lambda: sanitizers(left()),
    }
    for name, part in parts.items():
        record[name] = part()
        print(name, json.dumps(record[name], indent=1), flush=True)
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{time.perf_counter() - start:.0f} s, record: {arguments.record}")


if __name__ == "__main__":
    main()
