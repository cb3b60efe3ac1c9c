"""Dropout: elements set to 0 at random, the others scaled so that the mean stays."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import scalars as s
from ..dtypes import uint32
from ..op import Case
from .elementwise import elementwise


def threshold(p: float) -> int:
    """Words of 32 random bits below this are dropped: a part p of them."""
    return min(round(p * 2**32), 2**32 - 1)


def _formula(x, bits, *, p):
    return s.where(bits >= threshold(p), x * (1 / (1 - p)), x.const(0))


dropout = elementwise(
    "dropout",
    _formula,
    lambda x, bits, *, p: np.where(bits >= threshold(p), x / (1 - p), 0),
    types=lambda x, bits, **static: ((x, uint32), x),
    grad=(lambda g, y, x, bits, *, p: dropout(g, bits, p=p), None),
    cases=lambda rng: [
        Case([rng.normal(size=shape), rng.integers(0, 2**31, shape)], {"p": p})
        for shape in ((3, 5), (257,), (), (0, 3))
        for p in (0.25, 0.1)
    ],
    doc="x / (1 - p) where the random word is at least p * 2 ** 32, else 0.",
)


def drop(x: Any, bits: Any, p: float) -> Any:
    """x with a part p of its elements set to 0, for random words of its shape."""
    return dropout(x, bits, p=float(p))
