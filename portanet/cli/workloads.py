"""What `portanet bench` times: for each workload a NumPy side and a portanet side.

A workload makes its inputs for a size, and says how far the two may differ: `bound`, in
units of float32's eps and of the largest element of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .measure import Side
from .messages import CommandError

EPS = float(np.finfo(np.float32).eps)


BLAS_RESTS = 0.2  # seconds after which OpenBLAS's threads spin no more


@dataclass(frozen=True)
class Workload:
    """`inputs(rng, n)` gives float32 arrays; `ours(pn, *tensors)` and `numpy(*arrays)` do
    the same with them. `size_is` names n."""

    name: str
    ours: Callable[..., Any]
    numpy: Callable[..., Any]
    inputs: Callable[[np.random.Generator, int], Sequence[np.ndarray]]
    sizes: Sequence[int]
    bound: Callable[[int], float] = lambda n: 8
    size_is: str = "elements"


def _vectors(count: int) -> Callable[[np.random.Generator, int], list[np.ndarray]]:
    def make(rng: np.random.Generator, n: int) -> list[np.ndarray]:
        return [rng.normal(size=n).astype(np.float32) for _ in range(count)]

    return make


def _positive(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    """Nothing cancels in their sum, so its error is one of its own size."""
    return [rng.random(n, np.float32)]


def _rows(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    return [rng.normal(size=(n // 64, 64)).astype(np.float32)]


def _matrices(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    return [rng.normal(size=(n, n)).astype(np.float32) for _ in range(2)]


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


_SIZES = tuple(1 << k for k in (10, 12, 14, 16, 18, 20, 22))
_SIDES = (16, 64, 128, 256, 512, 1024)

WORKLOADS = (
    Workload("add", lambda pn, x, y: x + y, np.add, _vectors(2), _SIZES),
    Workload("exp", lambda pn, x: pn.exp(x), np.exp, _vectors(1), _SIZES),
    Workload(
        "gelu", lambda pn, x: pn.gelu(x, approximate="tanh"), _gelu, _vectors(1), _SIZES
    ),
    Workload("sum", lambda pn, x: pn.sum(x), np.sum, _positive, _SIZES),
    Workload("softmax", lambda pn, x: pn.softmax(x), _softmax, _rows, _SIZES),
    Workload(
        "matmul", lambda pn, x, y: x @ y, np.matmul, _matrices, _SIDES,
        lambda n: 8 * n**0.5, "rows",
    ),
)  # fmt: skip

# The host's cost of a launch: sizes at which the device has nothing to do.
TINY = (
    Workload("launch", lambda pn, x, y: x + y, np.add, _vectors(2), (4,)),
)  # fmt: skip


def operator_sides(
    workload: Workload, n: int, devices: Sequence[str]
) -> dict[str, Side]:
    """A side for NumPy and for each device, its inputs there and its result checked."""
    import portanet as pn

    arrays = workload.inputs(np.random.default_rng(n), n)
    exact = workload.numpy(*(a.astype(np.float64) for a in arrays))
    rest = BLAS_RESTS if workload.name == "matmul" else 0.0
    sides = {"numpy": Side(lambda: workload.numpy(*arrays), rest_s=rest)}
    for device in devices:
        tensors = [pn.tensor(a, device=device) for a in arrays]
        sides[device] = _side(device, lambda t=tensors: workload.ours(pn, *t))
    for name, side in sides.items():
        _check(
            f"{workload.name} of {n} on {name}", side.call(), exact, workload.bound(n)
        )
    return sides


def _side(device: str, call: Callable[[], object]) -> Side:
    import portanet as pn

    return Side(call, lambda: pn.synchronize(device))


def _check(what: str, found: Any, exact: Any, bound: float) -> None:
    difference = np.abs(np.asarray(found, np.float64) - exact).max(initial=0)
    allowed = bound * EPS * max(np.abs(exact).max(initial=0), 1e-30)
    if not difference <= allowed:
        raise CommandError(
            f"bench: {what} is wrong by {difference:.3g}, more than {allowed:.3g}; "
            "nothing was timed"
        )


def copy_sides(direction: str, n: int, devices: Sequence[str]) -> dict[str, Side]:
    """A copy of n float32 to a device ("upload") or from it ("download"); NumPy copies
    in its own memory."""
    import portanet as pn

    array = np.random.default_rng(n).normal(size=n).astype(np.float32)
    sides = {"numpy": Side(array.copy)}
    for device in devices:
        there = pn.tensor(array, device=device)
        _check(f"{direction} on {device}", there.numpy(), array, 0)
        if direction == "upload":
            sides[device] = _side(device, lambda d=device: pn.tensor(array, device=d))
        else:
            sides[device] = Side(there.numpy)
    return sides


# The digits' training step --------------------------------------------------------------


class NumpyMlp:
    """The model of the demo and Adam, written out in NumPy: the other side of its step."""

    def __init__(self, parameters: Sequence[np.ndarray], lr: float):
        self.p = [p.copy() for p in parameters]  # weight (out, in), bias, weight ...
        self.m = [np.zeros_like(p) for p in self.p]
        self.v = [np.zeros_like(p) for p in self.p]
        self.lr, self.t = lr, 0

    def step(self, x: np.ndarray, labels: np.ndarray) -> float:
        w0, b0, w1, b1, w2, b2 = self.p
        h0 = np.maximum(x @ w0.T + b0, 0)
        h1 = np.maximum(h0 @ w1.T + b1, 0)
        probability = _softmax(h1 @ w2.T + b2)
        rows = np.arange(len(x))
        loss = -np.log(probability[rows, labels]).mean()
        probability[rows, labels] -= 1
        g2 = probability / np.float32(len(x))
        g1 = g2 @ w2 * (h1 > 0)
        g0 = g1 @ w1 * (h0 > 0)
        self._adam([g0.T @ x, g0.sum(0), g1.T @ h0, g1.sum(0), g2.T @ h1, g2.sum(0)])
        return float(loss)

    def _adam(self, gradients: Sequence[np.ndarray]) -> None:
        self.t += 1
        low, high = 1 - 0.9**self.t, 1 - 0.999**self.t
        for p, g, m, v in zip(self.p, gradients, self.m, self.v, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= self.lr / low * m / (np.sqrt(v / high) + 1e-8)


STEP_WIDTHS = (64, 64)
CHECKED_STEPS = 20
AGREE = 1e-4  # of the losses of the first steps


def step_sides(devices: Sequence[str]) -> dict[str, Side]:
    """A training step of the digits, MLP 64-64-64-10 (the size that peers publish), batch
    32, Adam; the losses of the first steps agree."""
    import portanet as pn

    from . import digits

    data = digits.load()
    batches = [
        slice(i * digits.BATCH, (i + 1) * digits.BATCH) for i in range(CHECKED_STEPS)
    ]
    arrays = [(data.images[b], data.labels[b]) for b in batches]
    pn.manual_seed(0)
    weights = digits.build("cpu", STEP_WIDTHS).state_dict()
    theirs = NumpyMlp([w.numpy() for w in weights.values()], digits.LEARNING_RATE)
    expected = [theirs.step(*a) for a in arrays]
    sides = {"numpy": Side(lambda: theirs.step(*arrays[0]), rest_s=BLAS_RESTS)}
    for device in devices:
        model = digits.build(device, STEP_WIDTHS)
        model.load_state_dict({k: pn.tensor(w.numpy()) for k, w in weights.items()})
        step = digits.stepper(model)
        there = [[pn.tensor(a, device=device) for a in pair] for pair in arrays]
        found = [step(*pair).item() for pair in there]
        _check(f"digits step on {device}", found, np.array(expected), AGREE / EPS)
        sides[device] = _side(device, lambda s=step, pair=there[0]: s(*pair))
    return sides
