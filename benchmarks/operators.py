"""Layers of ResNet-9, GPT and LSTM, forward and backward, on one thread: ours and PyTorch's.

    python benchmarks/operators.py --torch-python PATH [--only PATTERN]

Each library runs in a process of its own, in turn (A B A B), warm; what is taken is the time
of the processor, the least of the samples: other work on the machine does not count. Results
and gradients must agree. The record has microseconds of one call, and the ratio of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RECORD = Path(__file__).parent / "results" / "operators.json"
SAMPLE_S = 0.02
AGREE = 1e-3  # of the checksums, relative to the sum of the magnitudes


class Case(NamedTuple):
    """call(F, *tensors), F the functions of a library; `index`: arrays of integers."""

    name: str
    shapes: list[tuple[int, ...]]
    call: Callable[..., Any]
    index: dict[int, int] = {}  # position -> how many values it may have
    split: bool = False  # the gradients of input and weight apart


def _layers() -> list[tuple[int, int, int, int, int]]:
    """(inputs, outputs, kernel, stride, side) of ResNet-9's convolutions."""
    sys.path.insert(0, str(Path(__file__).parent / "steps"))
    from resnet_sizes import layers

    found, side = [], 32
    for part in layers():
        for a, b, k, s in part if isinstance(part, list) else [part]:
            found.append((a, b, k, s, side))
            side = -(-side // s)
    return list(dict.fromkeys(found))


def cases() -> Iterator[Case]:
    for n in (1, 8, 32, 128):
        for a, b, k, s, side in _layers():
            yield Case(
                f"conv2d {a}->{b} {k}x{k} stride {s}, {n} of {side}x{side}",
                [(n, a, side, side), (b, a, k, k)],
                lambda F, x, w, s=s, p=k // 2: F.conv2d(x, w, None, s, p),
                split=True,
            )
    for shape in [(64, 16, 8, 8), (64, 32, 4, 4), (64, 64, 2, 2), (64, 128, 1, 1)]:
        vectors = [(shape[1],)] * 2
        yield Case(
            f"batch_norm {shape}", [shape, *vectors],
            lambda F, x, w, b: F.batch_norm(x, None, None, w, b, True),
        )  # fmt: skip
        if shape[2] > 1:
            yield Case(
                f"group_norm {shape}, 8 groups", [shape, *vectors],
                lambda F, x, w, b: F.group_norm(x, 8, w, b),
            )  # fmt: skip
            for pool in ("max_pool2d", "avg_pool2d"):
                yield Case(
                    f"{pool} {shape}", [shape], lambda F, x, f=pool: getattr(F, f)(x, 2)
                )
            for pool in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
                yield Case(
                    f"{pool} {shape}, to 1", [shape],
                    lambda F, x, f=pool: getattr(F, f)(x, 1),
                )  # fmt: skip
    for rows, n in [(1024, 128), (4096, 256), (512, 1024)]:
        yield Case(
            f"layer_norm ({rows}, {n})", [(rows, n), (n,), (n,)],
            lambda F, x, w, b: F.layer_norm(x, x.shape[-1:], w, b),
        )  # fmt: skip
        yield Case(
            f"rms_norm ({rows}, {n})", [(rows, n), (n,)],
            lambda F, x, w: F.rms_norm(x, x.shape[-1:], w, 1e-5),
        )  # fmt: skip
    for shape in [(16, 4, 64, 32), (4, 4, 256, 64), (2, 4, 1024, 64)]:
        yield Case(
            f"attention {shape}, causal", [shape] * 3,
            lambda F, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        )  # fmt: skip
    for batch in (1, 16):
        yield Case(f"lstm 128->256, 40 steps of {batch}", [(40, batch, 128)], _lstm)
    yield Case(
        "embedding 640 of (1000, 128)", [(640,), (1000, 128)],
        lambda F, i, w: F.embedding(i, w), {0: 1000},
    )  # fmt: skip
    for rows, n in [(128, 10), (640, 1000), (1024, 256)]:
        yield Case(
            f"cross_entropy ({rows}, {n})", [(rows, n), (rows,)],
            lambda F, x, i: F.cross_entropy(x, i), {1: n},
        )  # fmt: skip


def _lstm(F: Any, x: Any) -> Any:
    return F.own_lstm(x)


# A side --------------------------------------------------------------------------------------


class Ours:
    """portanet on the cpu."""

    def __init__(self):
        import portanet as pn
        from portanet import nn
        from portanet.nn import functional

        self.pn, self.F = pn, functional
        self.F.own_lstm = self._lstm = lambda x: self.module(x)[0]  # type: ignore[attr-defined]
        self.module = nn.LSTM(128, 256).to("cpu")
        self.module.load_state_dict(
            {k: pn.tensor(v, device="cpu") for k, v in lstm_weights().items()}
        )

    def tensor(self, array, requires_grad=False):
        kind = None if array.dtype == np.float32 else "int32"
        return self.pn.tensor(array, kind, "cpu", requires_grad=requires_grad)

    def free(self, call):
        with self.pn.no_grad():
            return call()

    def gradients(self, y, xs, g):
        return self.pn.gradients(y, xs, g)


class Torch:
    """PyTorch."""

    def __init__(self):
        import torch

        self.torch, self.F = torch, torch.nn.functional
        torch.set_num_threads(1)
        self.F.own_lstm = lambda x: self.module(x)[0]
        self.module = torch.nn.LSTM(128, 256)
        weights = {k: torch.tensor(v) for k, v in lstm_weights().items()}
        self.module.load_state_dict(weights)

    def tensor(self, array, requires_grad=False):
        return self.torch.tensor(array).requires_grad_(requires_grad)

    def free(self, call):
        with self.torch.no_grad():
            return call()

    def gradients(self, y, xs, g):
        return self.torch.autograd.grad(y, xs, g, retain_graph=True)


def lstm_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"weight_ih_l0": (1024, 128), "weight_hh_l0": (1024, 256)}
    shapes |= {"bias_ih_l0": (1024,), "bias_hh_l0": (1024,)}
    return {k: rng.uniform(-1, 1, s).astype("f") / 16 for k, s in shapes.items()}


def ways(case: Case) -> list[str]:
    return ["forward", *(("input", "weight") if case.split else ("backward",))]


def prepare(side: Any, case: Case, way: str) -> Callable[[], list[Any]]:
    """A call that gives a list of tensors."""
    rng = np.random.default_rng(0)
    arrays = []
    for i, shape in enumerate(case.shapes):
        if i in case.index:
            arrays.append(rng.integers(0, case.index[i], shape))
        else:  # weights as small as those of a new layer
            size = max(1, np.prod(shape[1:])) ** (0.5 * (i > 0))
            arrays.append((rng.normal(size=shape) / size).astype("f"))
    if way == "forward":
        xs = [side.tensor(a) for a in arrays]
        return lambda: [side.free(lambda: case.call(side.F, *xs))]
    only = {"input": {0}, "weight": {1}}.get(way, set(range(len(arrays))))
    only -= set(case.index)
    xs = [side.tensor(a, i in only) for i, a in enumerate(arrays)]
    y = case.call(side.F, *xs)
    g = side.tensor(rng.normal(size=tuple(y.shape)).astype("f"))
    return lambda: side.gradients(y, [xs[i] for i in sorted(only)], g)


def serve(side: Any) -> None:
    """For a line `case way`, checksums; for a line of a number, seconds of so many calls."""
    known, call = list(cases()), None
    for line in sys.stdin:
        if line[0].isalpha():
            way, number = line.split()
            call = prepare(side, known[int(number)], way)
            values = [np.asarray(t.detach().numpy(), np.float64) for t in call()]
            sums = [[float(v.sum()), float(np.abs(v).sum())] for v in values]
            sums += [[float((v * v).sum())] * 2 for v in values]
            print(json.dumps(sums), flush=True)
            continue
        assert call is not None
        began = time.process_time()
        for _ in range(int(line)):
            call()
        print(time.process_time() - began, flush=True)


# Both ----------------------------------------------------------------------------------------


def measure(ask: Any, number: int, way: str, samples: int) -> dict[str, float]:
    """Microseconds of a call of each side, and the ratio."""
    sums = [ask(name, f"{way} {number}") for name in ("portanet", "torch")]
    for (a, size), (b, _) in zip(*sums, strict=True):
        if abs(a - b) > AGREE * max(size, 1e-3):
            sys.exit(f"operators: {way} {number}: the results differ: {sums}")
    calls = {}
    for name in ("portanet", "torch"):
        calls[name], took = 1, 0.0
        while took < SAMPLE_S / 2 and calls[name] < 10_000:
            calls[name] *= 2
            took = ask(name, str(calls[name]))
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(samples):
        for name, n in calls.items():
            least[name] = min(least[name], ask(name, str(n)) / n)
    found = {f"{name}_us": 1e6 * seconds for name, seconds in least.items()}
    return {**found, "ratio": least["portanet"] / least["torch"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", metavar="PATH", help="a Python with torch")
    parser.add_argument("--only", default="", metavar="PATTERN")
    parser.add_argument("--samples", type=int, default=15)
    parser.add_argument("--json", type=Path, default=RECORD)
    parser.add_argument(
        "--serve", choices=["portanet", "torch"], help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(Ours() if arguments.serve == "portanet" else Torch())
    from portanet.cli import machine

    record: dict[str, Any] = machine.record()
    environment = {**os.environ, "PORTANET_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment.setdefault("PYTHONPATH", str(machine.PACKAGE.parent))
    pythons = {"portanet": sys.executable, "torch": arguments.torch_python}
    sides = {
        name: subprocess.Popen(
            [python or sys.executable, __file__, "--serve", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for name, python in pythons.items()
    }  # fmt: skip

    def ask(name: str, line: str) -> Any:
        process = sides[name]
        assert process.stdin and process.stdout
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            sys.exit(f"operators: {name} ended with status {process.wait()}")
        return json.loads(answer)

    for number, case in enumerate(cases()):
        if not re.search(arguments.only, case.name):
            continue
        for way in ways(case):
            found = measure(ask, number, way, arguments.samples)
            record.setdefault(case.name, {})[way] = found
            print(
                f"{case.name:45} {way:9} {found['portanet_us']:10.1f} us"
                f"  torch {found['torch_us']:10.1f} us  x{found['ratio']:.2f}",
                flush=True,
            )
    for process in sides.values():
        assert process.stdin
        process.stdin.close()
        process.wait()
    arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    print(f"record: {arguments.json}")


if __name__ == "__main__":
    main()
