"""The random numbers of one sample: what makes augmentation the same for any workers.

While a DataLoader asks for a sample, that sample has a stream of its own, keyed by the
loader's generator, the pass and its position there; which thread asks makes no difference.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..devices import default_device
from ..random import default_generator


class _Local(threading.local):
    key: tuple[int, ...] | None = None
    rng: np.random.Generator | None = None


_local = _Local()


@contextmanager
def sample(key: tuple[int, ...]) -> Iterator[None]:
    """Inside, `rng()` is the stream of this key."""
    before = _local.key, _local.rng
    _local.key, _local.rng = key, None
    try:
        yield
    finally:
        _local.key, _local.rng = before


def rng() -> np.random.Generator:
    """The stream of the sample that is being made; elsewhere a new one, from the default
    generator.

    A transform of one's own draws from it:

    >>> from portanet.data.draws import rng
    >>> int(rng().integers(1, 2))
    1
    """
    if _local.key is None:
        words = default_generator.bits(4, default_device()).tolist()
        return np.random.Generator(np.random.Philox(words))
    if _local.rng is None:  # made when wanted: it takes 20 us
        _local.rng = np.random.Generator(np.random.Philox(list(_local.key)))
    return _local.rng
