"""Random tensors: the same bits for the same seed on every device.

A Generator keeps its key and counter as a tensor on each device that it has drawn on; a draw
takes a block of the counter and assigns the state that follows.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from . import arrays
from .autograd import Tensor, no_grad, tensor_of
from .devices import Device, default_device
from .devices import get as get_device
from .dtypes import as_dtype, float32, float64, int32, uint32
from .ops import elementwise as e
from .ops.reduce import argmax
from .ops.sort import topk
from .ops import random as r
from .ops.shape import as_shape, expand_dims, reshape


class Generator:
    """A stream of random numbers: Philox4x32-10, keyed by a 64-bit seed.

    >>> a, b = pn.Generator(7), pn.Generator(7)
    >>> bool((pn.rand(3, generator=a) == pn.rand(3, generator=b)).all())
    True
    """

    def __init__(self, seed: int | None = None):
        self.states: dict[Device, Tensor] = {}
        self.manual_seed(
            int.from_bytes(os.urandom(8), "little") if seed is None else seed
        )

    def manual_seed(self, seed: int) -> Generator:
        """Start again from a seed: its lowest 64 bits are the key, the counter is 0."""
        self.seed = int(seed) & ((1 << 64) - 1)
        for device in self.states:
            self._put(device, self._start())
        return self

    def _start(self) -> list[int]:
        return [self.seed & 0xFFFFFFFF, self.seed >> 32, 0, 0]

    def _put(self, device: Device, words: list[int]) -> None:
        """Assign a state: compiled functions hold its tensor, so it stays the same one."""
        made = tensor_of(arrays.from_numpy(np.array(words, np.uint32), uint32, device))
        with no_grad():
            self.states.setdefault(device, made).assign(made)

    def state(self, device: Device) -> Tensor:
        """key0, key1, counter_low, counter_high on a device: a tensor that draws assign."""
        if device not in self.states:
            self._put(device, self._start())
        return self.states[device]

    def get_state(self) -> dict[str, list[int]]:
        """Where each device's stream stands; `set_state` goes back there."""
        return {str(d): s.tolist() for d, s in self.states.items()}

    def set_state(self, states: dict[str, list[int]]) -> None:
        """Go back to what `get_state` gave."""
        words = dict.fromkeys(self.states, self._start())
        words |= {get_device(name): state for name, state in states.items()}
        for device, state in words.items():
            self._put(device, state)

    def bits(self, n: int, device: Device) -> Tensor:
        """The next n words; the counter moves on by ceil(n / 4)."""
        state = self.state(device)
        with no_grad():
            made, after = r.random_bits(state, n=n)
            state.assign(after)
        return made


default_generator = Generator(0)


def manual_seed(seed: int) -> Generator:
    """Start the default generator again, on every device.

    >>> _ = pn.manual_seed(0); a = pn.rand(2)
    >>> _ = pn.manual_seed(0); bool((pn.rand(2) == a).all())
    True
    """
    return default_generator.manual_seed(seed)


def stream(name: str, generator: Generator | None) -> Generator:
    """The generator that is given, or the default one."""
    if generator is None:
        return default_generator
    if not isinstance(generator, Generator):
        raise TypeError(
            f"{name}: a pn.Generator is expected, not {type(generator).__name__}"
        )
    return generator


def _draw(name: str, shape: Any, words: int, device: Any, generator: Generator | None):
    """`words` tensors of random words, each flat, and the shape they are for."""
    sizes = as_shape(name, shape)
    if any(n < 0 for n in sizes):
        raise ValueError(f"{name}: sizes can't be negative: {sizes}")
    place = default_device() if device is None else get_device(device)
    n = math.prod(sizes)
    bits = stream(name, generator).bits(n * words, place)
    return [bits[i * n : (i + 1) * n] for i in range(words)], sizes


def _finished(values: Tensor, sizes, dtype, requires_grad: bool) -> Tensor:
    values = e.astype(reshape(values, sizes), dtype)
    return values.requires_grad_() if requires_grad else values


def _float(name: str, dtype: Any):
    chosen = float32 if dtype is None else as_dtype(dtype)
    if not chosen.is_float:
        raise TypeError(f"{name}: a floating dtype is needed, not {chosen.name}")
    return chosen


def rand(
    *shape: Any,
    dtype: Any = None,
    device: Any = None,
    generator: Generator | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform in [0, 1): multiples of 2 ** -24 (float64: of 2 ** -53)."""
    sizes = shape[0] if len(shape) == 1 else shape
    return uniform(
        0.0, 1.0, sizes, dtype=dtype, device=device, generator=generator,
        requires_grad=requires_grad,
    )  # fmt: skip


def uniform(
    low: float = 0.0,
    high: float = 1.0,
    shape: Any = (),
    *,
    dtype: Any = None,
    device: Any = None,
    generator: Generator | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform in [low, high)."""
    chosen = _float("uniform", dtype)
    words = 2 if chosen is float64 else 1
    bits, sizes = _draw("uniform", shape, words, device, generator)
    values = r.uniform64_from_bits(*bits) if words == 2 else r.uniform_from_bits(*bits)
    if (low, high) != (0.0, 1.0):
        values = e.add(e.multiply(values, high - low), low)
    return _finished(values, sizes, chosen, requires_grad)


def randn(
    *shape: Any,
    dtype: Any = None,
    device: Any = None,
    generator: Generator | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal with mean 0 and variance 1, within 4 ulp of the exact value of its bits."""
    sizes = shape[0] if len(shape) == 1 else shape
    return normal(
        0.0, 1.0, sizes, dtype=dtype, device=device, generator=generator,
        requires_grad=requires_grad,
    )  # fmt: skip


def normal(
    mean: float = 0.0,
    std: float = 1.0,
    shape: Any = (),
    *,
    dtype: Any = None,
    device: Any = None,
    generator: Generator | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal with this mean and standard deviation. Drawn in float32, also for float64."""
    chosen = _float("normal", dtype)
    bits, sizes = _draw("normal", shape, 2, device, generator)
    values = r.normal_from_bits(*bits)
    if std != 1.0:
        values = e.multiply(values, std)
    if mean != 0.0:
        values = e.add(values, mean)
    return _finished(values, sizes, chosen, requires_grad)


def randint(
    low: int,
    high: int | None = None,
    shape: Any = (),
    *,
    dtype: Any = None,
    device: Any = None,
    generator: Generator | None = None,
) -> Tensor:
    """Integers in [low, high), or [0, low) where high is left out; int32 by default.

    The probabilities are equal within (high - low) / 2 ** 32.
    """
    if high is None:
        low, high = 0, low
    if not 0 < high - low <= 1 << 32:
        raise ValueError(f"randint: [{low}, {high}) must hold 1 to 2 ** 32 integers")
    (bits,), sizes = _draw("randint", shape, 1, device, generator)
    if high - low < 1 << 32:
        bits = r.integer_from_bits(bits, high - low)
    chosen = as_dtype(int32 if dtype is None else dtype)
    values = e.astype(bits, chosen)
    return reshape(e.add(values, low) if low else values, sizes)


def bernoulli(p: Any, *, generator: Generator | None = None) -> Tensor:
    """1 with probability p, else 0, in the shape, dtype and place of p."""
    if not isinstance(p, Tensor):
        raise TypeError(f"bernoulli: p is a tensor, not {type(p).__name__}")
    draw = rand(p.shape, device=p.device, generator=generator)
    return e.astype(e.less(draw, e.astype(p.detach(), float32)), p.dtype)


def gumbel(
    shape: Any, device: Any = None, generator: Generator | None = None
) -> Tensor:
    """-log(-log(u)) for u uniform in (0, 1), float32: noise whose largest element, added to
    logits, is where a draw from their softmax falls."""
    # Half a step above the multiples of 2 ** -24: never 0, and 1 only where it rounds so.
    u = e.add(rand(shape, device=device, generator=generator), 2.0**-25)
    return e.negative(e.log(e.negative(e.log(e.minimum(u, 1 - 2.0**-24)))))


def multinomial(
    p: Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Indices drawn with probabilities proportional to p, int32.

    p: (n,) or (rows, n), not negative; the result is (num_samples,) or (rows, num_samples),
    without replacement in the order of the draws. What has p = 0 is drawn only where nothing
    else is left. With replacement it makes rows * num_samples * n numbers. By the largest of
    log p with Gumbel's noise; Gumbel, 1954.

    >>> pn.multinomial(pn.tensor([0.0, 1.0, 0.0]), 4, replacement=True)
    tensor([1, 1, 1, 1], dtype=int32)
    """
    if not isinstance(p, Tensor) or p.ndim not in (1, 2) or not p.dtype.is_float:
        raise TypeError(
            "multinomial: p is a floating tensor (n,) or (rows, n), not "
            f"{getattr(p, 'shape', type(p).__name__)}"
        )
    n = p.shape[-1]
    if not n or num_samples < 1 or not (replacement or num_samples <= n):
        raise ValueError(
            f"multinomial: {num_samples} samples can't be drawn from {n}"
            + ("" if replacement or not n else " without replacement")
        )
    chances = e.log(e.astype(p.detach(), float32))
    if replacement:
        shape = (*p.shape[:-1], num_samples, n)
        noise = gumbel(shape, p.device, generator)
        return argmax(e.add(expand_dims(chances, axis=-2), noise), axis=-1)
    noise = gumbel(p.shape, p.device, generator)
    return topk(e.add(chances, noise), num_samples).indices


def permutation(
    n: int, *, device: Any = None, generator: Generator | None = None
) -> Tensor:
    """0, 1, ... n - 1 in random order, int32; sorted by random keys on the host."""
    if n < 0:
        raise ValueError(f"permutation: n can't be negative: {n}")
    (high, low), _ = _draw("permutation", (n,), 2, device, generator)
    keys = high.numpy().astype(np.uint64) << np.uint64(32) | low.numpy().astype(
        np.uint64
    )
    order = np.argsort(keys, kind="stable").astype(np.int32)
    return tensor_of(arrays.from_numpy(order, int32, high.device))
