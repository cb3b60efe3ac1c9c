"""Random numbers from a counter: Philox4x32-10, and what is drawn from its bits.

Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC11. The state,
key and counter, is an array on the device; drawing n words gives them and the state whose
counter is ceil(n / 4) further, so every device and instruction level draws the same bits.
"""

from __future__ import annotations

import numpy as np

from .. import scalars as s
from ..dtypes import float32, float64, uint32
from ..op import Case, Op, Spec
from .elementwise import elementwise


def philox(counter: int, key: tuple[int, int]) -> list[int]:
    """The four words of block `counter`: ten rounds of Philox4x32 (the paper's figure 2)."""
    words = [counter & 0xFFFFFFFF, counter >> 32 & 0xFFFFFFFF, 0, 0]
    k0, k1 = key
    for _ in range(10):
        a, b = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [
            (b >> 32) ^ words[1] ^ k0,
            b & 0xFFFFFFFF,
            (a >> 32) ^ words[3] ^ k1,
            a & 0xFFFFFFFF,
        ]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return words


def _reference(state, *, n):
    k0, k1, low, high = (int(v) for v in state)
    blocks = -(-n // 4)
    counter = low | high << 32
    words = [w for b in range(blocks) for w in philox(counter + b, (k0, k1))]
    after = (counter + blocks) & (1 << 64) - 1
    return np.array(words[:n]), np.array([k0, k1, after & 0xFFFFFFFF, after >> 32])


def _lower(emit, state, *, n):
    bits, after = emit.empty((n,), uint32), emit.empty((4,), uint32)
    if not n:
        emit.copy(state, after)
        return bits, after
    state = emit.contiguous(state)
    words = [n, -(-n // 4), state.layout.offset]
    emit.kernel("random", words, [bits, after], [state])
    return bits, after


random_bits = Op(
    "random_bits",
    lambda state, *, n: (Spec((n,), uint32), Spec((4,), uint32)),
    reference=_reference,
    cases=lambda rng: [
        Case([np.array(state)], {"n": n}, ("uint32",))
        for n in (0, 1, 5, 1023)
        for state in ([0, 0, 0, 0], [7, 9, 0xFFFFFFFF, 3])
    ],
    lower=_lower,
    kernel="random",
    ulps=0,
    doc="n words of Philox4x32-10 from a state uint32[4], and the state after them.",
)

_WORDS = (0, 1 << 32)


def _word_cases(arity):
    return lambda rng: (
        [
            Case([rng.integers(*_WORDS, s) for _ in range(arity)], {}, ("uint32",))
            for s in ((), (257,), (3, 5))
        ]
        + [Case([np.array([0, 255, 256, 2**32 - 1])] * arity, {}, ("uint32",))]
    )


uniform_from_bits = elementwise(
    "uniform_from_bits",
    lambda b: (b >> 8).astype(float32) * 2.0**-24,
    lambda b: (b >> 8) * 2.0**-24,
    types=lambda t: (t, float32), grad=None, cases=_word_cases(1), ulps=0,
    doc="float32 in [0, 1) from the upper 24 bits of a word.",
)  # fmt: skip

uniform64_from_bits = elementwise(
    "uniform64_from_bits",
    lambda a, b: ((a >> 5).astype(float64) * 2.0**26 + (b >> 6).astype(float64)) * 2.0**-53,
    lambda a, b: ((a >> 5) * 2.0**26 + (b >> 6)) * 2.0**-53,
    types=lambda a, b: (a, float64), grad=None, cases=_word_cases(2), ulps=0,
    doc="float64 in [0, 1) from 53 bits of two words.",
)  # fmt: skip


def _box_muller(a, b, scale_a, scale_b, dtype):
    radius = s.sqrt(-2 * s.log(((a >> 8).astype(dtype) + 1) * scale_a))
    return radius * s.cospi((b >> 8).astype(dtype) * scale_b)


def _normal_reference(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    radius = np.sqrt(-2 * np.log((a // 256 + 1) * 2.0**-24))
    turn = b // 256 * 2.0**-23  # cos(pi turn), near a zero of the cosine as a sine
    near = np.abs(turn - 0.5) < 0.25
    far = np.abs(turn - 1.5) < 0.25
    return radius * np.where(
        near,
        np.sin(np.pi * (0.5 - turn)),
        np.where(far, np.sin(np.pi * (turn - 1.5)), np.cos(np.pi * turn)),
    )


normal_from_bits = elementwise(
    "normal_from_bits",
    lambda a, b: _box_muller(a, b, 2.0**-24, 2.0**-23, float32),
    _normal_reference,
    types=lambda a, b: (a, float32), grad=None, cases=_word_cases(2), ulps=4,
    doc="A float32 normal from two words; Box and Muller, Ann. Math. Stat. 29 (1958).",
)  # fmt: skip


def _high_product(b, n):
    """The upper word of b * n, by halves of 16 bits."""
    b0, b1, n0, n1 = b & 0xFFFF, b >> 16, n & 0xFFFF, n >> 16
    middle = b1 * n0 + ((b0 * n0) >> 16)
    rest = b0 * n1 + (middle & 0xFFFF)
    return b1 * n1 + (middle >> 16) + (rest >> 16)


integer_from_bits = elementwise(
    "integer_from_bits",
    lambda b, n: _high_product(b, n),
    lambda b, n: (b.astype(object) * n >> 32).astype(np.int64),
    grad=None, cases=_word_cases(2), ulps=0,
    doc="An integer in [0, n) from a word: the upper half of their product.",
)  # fmt: skip
