"""Workloads on an NVIDIA GPU: portanet's cuda beside PyTorch, and beside its own wgpu.

    python benchmarks/cuda_workloads.py [--first NUMBER] [--shrink BY]

Prints a line of JSON for each. `cuda_on_gpu.py` runs it, again from the next one on where a
workload crashes or hangs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
STEPS = ("mlp-64", "mlp-784", "gpt", "lstm", "resnet-9")  # of benchmarks/steps


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


Maker = Callable[[], Work]
Normal = Callable[..., np.ndarray]  # of these sizes, divided
# Rounding of the result: both sides half a unit of the largest, 6 sigma.
ROUNDED = {"float32": 2e-4, "float16": 1e-2, "bfloat16": 6e-2}
ATTENTIONS = ("float32", 64), ("bfloat16", 64), ("bfloat16", 128)


def works(by: int = 1) -> Iterator[Maker]:
    """The workloads, made when they are called; sizes are divided by `by`."""

    def normal(*shape: int) -> np.ndarray:
        small = (max(n // by, 8) for n in shape)
        return np.random.default_rng(0).standard_normal((*small,), dtype=np.float32)

    for some in (products, moves, row_works, attentions, convolutions, norm_gradients,
                 attention_gradients):  # fmt: skip
        yield from some(normal)
    for name in STEPS:
        yield lambda name=name: training_step(name)


def products(normal: Normal) -> Iterator[Maker]:
    """Products of square matrices."""

    def product(n: int, dtype: str, precision: str = "highest") -> Work:
        a = normal(n, n)
        off = ROUNDED[dtype] if precision == "highest" else 2e-2
        return Work(
            f"matmul {n}", (a, a[::-1].copy()), dtype, lambda x, y: x @ y,
            lambda t, x, y: x @ y, flops=2.0 * len(a) ** 3, off=off, precision=precision,
        )  # fmt: skip

    for n, dtype in ((1024, "float32"), (4096, "float32"), (4096, "float16"),
                     (4096, "bfloat16"), (8192, "bfloat16")):  # fmt: skip
        yield lambda n=n, dtype=dtype: product(n, dtype)
    yield lambda: product(4096, "float32", "high")


def moves(normal: Normal) -> Iterator[Maker]:
    """What is bound by memory, of 64M elements."""
    import portanet as pn

    f = pn.nn.functional

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


def one(x):
    return np.ones(x.shape[1], np.float32)


def row_works(normal: Normal) -> Iterator[Maker]:
    """Sums, softmax, norms and losses of 8192 rows of 4096."""
    import portanet as pn

    f = pn.nn.functional

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

    yield rows("layer_norm", lambda x, w, b: f.layer_norm(x, x.shape[-1:], w, b),
               lambda t, x, w, b: t.nn.functional.layer_norm(x, x.shape[-1:], w, b),
               2, one, one)  # fmt: skip
    yield rows("rms_norm", lambda x, w: f.rms_norm(x, x.shape[-1:], w, 1e-5),
               lambda t, x, w: t.nn.functional.rms_norm(x, x.shape[-1:], w, 1e-5),
               2, one)  # fmt: skip
    yield rows("cross_entropy", f.cross_entropy,
               lambda t, x, y: t.nn.functional.cross_entropy(x, y.long()), 1,
               lambda x: np.arange(len(x), dtype=np.int32) * 7 % x.shape[1])  # fmt: skip


def wide(width: int) -> str:
    return f" {width} wide" if width != 64 else ""


def attentions(normal: Normal) -> Iterator[Maker]:
    """Attention of 64 heads of 2048 rows."""
    import portanet as pn

    f = pn.nn.functional

    def attention(dtype: str, is_causal: bool, width: int) -> Work:
        name = "attention" + wide(width) + " causal" * is_causal
        q = normal(4, 16, 2048, width)
        batch, heads, length, width = q.shape
        return Work(
            name, (q, q, q), dtype,
            lambda q, k, v: f.scaled_dot_product_attention(q, k, v, is_causal=is_causal),
            lambda t, q, k, v: t.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=is_causal
            ),
            flops=4.0 * batch * heads * length**2 * width / (1 + is_causal),
            off=1e-3 if dtype == "float32" else 0.2,
        )  # fmt: skip

    for dtype, width in ATTENTIONS:
        for is_causal in (False, True):
            yield lambda how=(dtype, is_causal, width): attention(*how)


# Gradients of half the squared result, for each input.
def gradients(
    name, arrays, ours, theirs, nbytes=0.0, flops=0.0, off=1e-3,
    dtype="float32", precision="highest",
) -> Work:  # fmt: skip
    import portanet as pn

    every = tuple(range(len(arrays)))

    def mine(*xs):
        return pn.grad(lambda *xs: (ours(*xs) ** 2).sum() / 2, every)(*xs)[0]

    def other(t, *xs):
        xs = [x.detach().requires_grad_() for x in xs]
        return t.autograd.grad((theirs(t, *xs) ** 2).sum() / 2, xs)[0]

    return Work(
        name, arrays, dtype, mine, other, nbytes, flops, off, precision=precision
    )


def norm_gradients(normal: Normal) -> Iterator[Maker]:
    """Gradients of layer and batch norm."""
    import portanet as pn

    f = pn.nn.functional

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

    yield layer_norm_gradients
    yield batch_norm_gradients


def attention_gradients(normal: Normal) -> Iterator[Maker]:
    """Gradients of attention."""
    import portanet as pn

    f = pn.nn.functional

    def one_of(dtype: str, width: int) -> Work:
        name = f"attention gradients{wide(width)}"
        q = normal(4, 16, 2048, width)
        batch, heads, length, width = q.shape
        return gradients(
            name, (q, q, q), f.scaled_dot_product_attention,
            lambda t, *x: t.nn.functional.scaled_dot_product_attention(*x),
            flops=14.0 * batch * heads * length**2 * width,
            off=1e-3 if dtype == "float32" else 0.2, dtype=dtype,
        )  # fmt: skip

    for how in ATTENTIONS:
        yield lambda how=how: one_of(*how)


def convolutions(normal: Normal) -> Iterator[Maker]:
    """Convolutions and their gradients."""
    import portanet as pn

    f = pn.nn.functional

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

        off = ROUNDED[dtype] if precision == "highest" else 2e-2
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


def training_step(name: str) -> Work:
    """A whole training step, compiled here, eager with fused optimizers there; both losses
    are of the first step from the same weights."""
    if str(HERE / "steps") not in sys.path:
        sys.path.insert(0, str(HERE / "steps"))
    workloads: Any = importlib.import_module("workloads")
    about = workloads.WORKLOADS[name]
    weights, (batch, *_) = workloads.make(name)
    built: dict[str, Callable] = {}

    def ours(*batch):
        import portanet as pn

        where = str(batch[0].device)
        if where not in built:
            model = importlib.import_module(f"{about.model}_portanet")
            built[where] = pn.compile(model.build(weights, about.sizes, where))
        return built[where](*batch)

    def theirs(torch, *batch):
        with torch.device(batch[0].device):
            if "torch" not in built:
                model = importlib.import_module(f"{about.model}_torch")
                given = {k: torch.tensor(w) for k, w in weights.items()}
                built["torch"] = model.build(given, about.sizes)
            whole = [x if x.is_floating_point() else x.long() for x in batch]
            return built["torch"](*whole)

    return Work(f"step {name}", batch, "float32", ours, theirs, off=1e-3)


def compare(work: Work, torch: Any, others: Sequence[str] = ()) -> dict[str, Any]:
    """Median milliseconds of all sides, in turn, after their results agree. `others` are
    devices that may fail at it: then the reason is in the place of the time."""
    import portanet as pn
    from portanet.cli.measure import Side, in_turn

    pn.set_float32_matmul_precision(work.precision)
    kinds = [a.dtype.name if a.dtype.kind == "i" else work.dtype for a in work.arrays]

    def side(device: str) -> tuple[Side, np.ndarray]:
        given = [pn.tensor(a, k, device) for a, k in zip(work.arrays, kinds)]
        first = work.ours(*given).astype("float32").numpy()
        return Side(lambda: work.ours(*given), given[0].device.backend.wait), first

    found: dict[str, Any] = {}
    sides: dict[str, Side] = {}
    sides["portanet"], got = side("cuda")
    for device in others:
        try:
            made, first = side(device)
        except Exception as why:  # a limit of its own is no reason to lose the rest
            found[device] = f"{type(why).__name__}: {str(why)[:200]}"
            continue
        found[f"{device} is off by"] = _off(first, got)
        sides[device] = made
    if torch is not None:
        torch.set_float32_matmul_precision(work.precision)
        torch.backends.cudnn.allow_tf32 = work.precision == "high"  # of convolutions
        theirs = [
            torch.tensor(a, device="cuda", dtype=getattr(torch, k))
            for a, k in zip(work.arrays, kinds)
        ]
        sides["torch"] = Side(
            lambda: work.theirs(torch, *theirs), torch.cuda.synchronize
        )
        found["off"] = _off(got, work.theirs(torch, *theirs).float().cpu().numpy())
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


def _off(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference over the mean magnitude."""
    return float(np.abs(got - want).max() / (np.abs(want).mean() + 1e-30))


def beside(work: Work) -> tuple[str, ...]:
    """The devices of the same GPU that have the workload: wgpu, where it is no software."""
    from portanet.devices import get

    if work.dtype != "float32" or work.precision != "highest":
        return ()
    try:
        about = get("wgpu").backend.info()
    except (RuntimeError, ImportError, OSError):  # DeviceError is the first
        return ()
    return () if about["software"] else ("wgpu",)


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
            result: Any = compare(work, torch, beside(work))
        except Exception as why:  # the other workloads are still worth their time
            result = f"{type(why).__name__}: {why}"
        print(json.dumps([name, result]), flush=True)
        if isinstance(result, str):
            return  # whoever started this goes on in a process without that error
    print(json.dumps(["end", ""]), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--shrink", type=int, default=1, help="sizes are divided by it")
    arguments = parser.parse_args()
    measure(arguments.first, arguments.shrink)
