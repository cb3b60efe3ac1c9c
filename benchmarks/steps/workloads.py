"""The workloads: sizes, initial weights and batches, the same for every library.

Knows NumPy only. Weights have PyTorch's names and shapes (out, in).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from resnet_sizes import layers

BATCHES = 4  # taken in turn

Weights = dict[str, np.ndarray]
Batch = tuple[np.ndarray, np.ndarray]


class Workload(NamedTuple):
    """`model` is the stem of the files that implement it; `sizes` their parameters."""

    model: str
    sizes: dict[str, int]
    weights: Callable[[np.random.Generator, dict[str, int]], Weights]
    batch: Callable[[np.random.Generator, dict[str, int]], Batch]


def _uniform(rng: np.random.Generator, fan_in: int, *shape: int) -> np.ndarray:
    bound = fan_in**-0.5
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def _linear(rng, name: str, inputs: int, outputs: int) -> Weights:
    return {
        f"{name}.weight": _uniform(rng, inputs, outputs, inputs),
        f"{name}.bias": _uniform(rng, inputs, outputs),
    }


def _mlp_weights(rng, sizes) -> Weights:
    widths = [sizes["inputs"], sizes["hidden"], sizes["hidden"], sizes["classes"]]
    made: Weights = {}
    for i in range(3):
        made |= _linear(rng, str(2 * i), widths[i], widths[i + 1])
    return made


def _labelled_rows(rng, sizes) -> Batch:
    x = rng.normal(size=(sizes["batch"], sizes["inputs"])).astype(np.float32)
    return x, rng.integers(0, sizes["classes"], sizes["batch"]).astype(np.int32)


def _resnet_weights(rng, sizes) -> Weights:
    made: Weights = {}

    def conv_bn(at: str, a: int, b: int, k: int, _: int) -> None:
        made[f"{at}.0.weight"] = _uniform(rng, a * k * k, b, a, k, k)
        made[f"{at}.0.bias"] = _uniform(rng, a * k * k, b)
        made[f"{at}.1.weight"] = np.ones(b, np.float32)
        made[f"{at}.1.bias"] = np.zeros(b, np.float32)

    for i, part in enumerate(layers()):
        if isinstance(part, list):
            for j, shape in enumerate(part):
                conv_bn(f"{i}.{j}", *shape)
        else:
            conv_bn(str(i), *part)
    n = len(layers())
    made |= _linear(rng, str(n + 1), 128, 128)
    return made | _linear(rng, str(n + 3), 128, 10)


def _labelled_images(rng, sizes) -> Batch:
    x = rng.normal(size=(sizes["batch"], 3, 32, 32)).astype(np.float32)
    return x, rng.integers(0, 10, sizes["batch"]).astype(np.int32)


def _lstm_weights(rng, sizes) -> Weights:
    width, hidden = sizes["embedding"], sizes["hidden"]
    table = 0.1 * rng.normal(size=(sizes["vocabulary"], width))
    return {
        "embedding.weight": table.astype(np.float32),
        "lstm.weight_ih_l0": _uniform(rng, hidden, 4 * hidden, width),
        "lstm.weight_hh_l0": _uniform(rng, hidden, 4 * hidden, hidden),
        "lstm.bias_ih_l0": _uniform(rng, hidden, 4 * hidden),
        "lstm.bias_hh_l0": _uniform(rng, hidden, 4 * hidden),
        **_linear(rng, "head", hidden, sizes["vocabulary"]),
    }


def _tokens(rng, sizes, *shape: int) -> Batch:
    """Tokens, and the same one step later."""
    length, *rest = shape
    made = rng.integers(0, sizes["vocabulary"], (length + 1, *rest)).astype(np.int32)
    return made[:-1], made[1:]


def _time_first(rng, sizes) -> Batch:
    return _tokens(rng, sizes, sizes["length"], sizes["batch"])


def _batch_first(rng, sizes) -> Batch:
    x, y = _time_first(rng, sizes)
    return np.ascontiguousarray(x.T), np.ascontiguousarray(y.T)


def _gpt_weights(rng, sizes) -> Weights:
    width = sizes["width"]
    made = {
        "tokens.weight": 0.02 * rng.normal(size=(sizes["vocabulary"], width)),
        "places.weight": 0.02 * rng.normal(size=(sizes["length"], width)),
    }
    made = {name: w.astype(np.float32) for name, w in made.items()}

    def norm(name: str) -> Weights:
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        return {f"{name}.weight": ones, f"{name}.bias": zeros}

    for i in range(sizes["layers"]):
        at = f"blocks.{i}."
        made |= norm(at + "norm1") | _linear(rng, at + "qkv", width, 3 * width)
        made |= _linear(rng, at + "out", width, width) | norm(at + "norm2")
        made |= _linear(rng, at + "up", width, 4 * width)
        made |= _linear(rng, at + "down", 4 * width, width)
    return made | norm("norm") | _linear(rng, "head", width, sizes["vocabulary"])


WORKLOADS = {
    "mlp-64": Workload(
        "mlp",
        {"inputs": 64, "hidden": 64, "classes": 10, "batch": 32},
        _mlp_weights,
        _labelled_rows,
    ),
    "mlp-784": Workload(
        "mlp",
        {"inputs": 784, "hidden": 512, "classes": 10, "batch": 128},
        _mlp_weights,
        _labelled_rows,
    ),
    "resnet-9": Workload("resnet", {"batch": 64}, _resnet_weights, _labelled_images),
    "lstm": Workload(
        "lstm",
        {
            "vocabulary": 1000,
            "embedding": 128,
            "hidden": 256,
            "length": 40,
            "batch": 16,
        },
        _lstm_weights,
        _time_first,
    ),
    "gpt": Workload(
        "gpt",
        {
            "vocabulary": 256,
            "width": 128,
            "heads": 4,
            "layers": 4,
            "length": 64,
            "batch": 16,
        },
        _gpt_weights,
        _batch_first,
    ),
}


def make(name: str) -> tuple[Weights, list[Batch]]:
    """The initial weights and the batches of a workload."""
    w, rng = WORKLOADS[name], np.random.default_rng(0)
    weights = w.weights(rng, w.sizes)
    return weights, [w.batch(rng, w.sizes) for _ in range(BATCHES)]
