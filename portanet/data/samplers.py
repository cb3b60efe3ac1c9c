"""Samplers: in which order a pass goes through the samples of a dataset.

A sampler is anything with `__iter__` that gives indices; one with `__len__` gives a loader
its length. They draw on the default device, so that a seed gives the same order on each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..devices import default_device
from ..random import Generator, default_generator, permutation, stream

# Added to the default seed, so that shuffling draws other numbers than the model does; the
# golden ratio's bits, as in Philox.
_STREAM = 0x9E3779B97F4A7C15


def own_generator(name: str, given: Generator | None) -> Generator:
    """The generator that is given, or a new one that the default seed decides and that no
    model draws from."""
    if given is None:
        return Generator(default_generator.seed + _STREAM)
    return stream(name, given)


def uniform(n: int, generator: Generator) -> np.ndarray:
    """n float64 numbers in [0, 1): multiples of 2 ** -53."""
    words = generator.bits(2 * n, default_device()).numpy().astype(np.uint64)
    return ((words[:n] << np.uint64(21)) ^ (words[n:] >> np.uint64(11))) * 2.0**-53


class SequentialSampler:
    """0, 1, ... len(dataset) - 1."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.dataset)))


class RandomSampler:
    """Every index once, in another order at each pass; or `num_samples` draws with
    replacement.

    >>> sorted(pn.data.RandomSampler("abc"))
    [0, 1, 2]
    """

    def __init__(
        self,
        dataset: Any,
        *,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ):
        self.dataset, self.replacement = dataset, replacement
        self.count = len(dataset) if num_samples is None else num_samples
        if self.count < 0 or (self.count > len(dataset) and not replacement):
            raise ValueError(
                f"RandomSampler: num_samples {self.count} is not in 0 to {len(dataset)}; "
                "more need replacement=True"
            )
        if self.count and not len(dataset):
            raise ValueError("RandomSampler: the dataset is empty")
        self.generator = own_generator(type(self).__name__, generator)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        n = len(self.dataset)
        if self.replacement:
            return iter((uniform(self.count, self.generator) * n).astype(int).tolist())
        order = permutation(n, generator=self.generator).tolist()
        return iter(order[: self.count])


class SubsetRandomSampler:
    """These indices, each once, in another order at each pass."""

    def __init__(self, indices: Sequence[int], generator: Generator | None = None):
        self.indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        self.generator = own_generator(type(self).__name__, generator)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        order = permutation(len(self), generator=self.generator).numpy()
        return iter(self.indices[order].tolist())


class WeightedRandomSampler:
    """`num_samples` indices, each drawn with a probability proportional to its weight.

    Without replacement no index comes twice: the largest keys log(u) / weight are taken
    (Efraimidis and Spirakis, Inf. Process. Lett. 97 (2006)).

    >>> sampler = pn.data.WeightedRandomSampler([0.0, 3.0, 1.0], 100)
    >>> set(sampler) <= {1, 2}
    True
    """

    def __init__(
        self,
        weights: Sequence[float],
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ):
        self.weights = np.asarray(weights, dtype=np.float64).reshape(-1)
        self.count, self.replacement = num_samples, replacement
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all()):
            raise ValueError("WeightedRandomSampler: weights are finite and at least 0")
        possible = int((self.weights > 0).sum())
        most = num_samples if replacement and possible else possible
        if not 0 <= num_samples <= most:
            raise ValueError(
                f"WeightedRandomSampler: {num_samples} samples can't be drawn of "
                f"{possible} with a weight above 0"
            )
        self.generator = own_generator(type(self).__name__, generator)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        if self.replacement:
            ends = np.cumsum(self.weights)
            drawn = uniform(self.count, self.generator) * ends[-1:]
            found = np.searchsorted(ends, drawn, side="right")
            # A product that rounds up to the sum belongs to the last that has a weight.
            last = np.flatnonzero(self.weights)[-1:] if self.count else found
            return iter(np.minimum(found, last).tolist())
        u = uniform(len(self.weights), self.generator)
        with np.errstate(divide="ignore"):
            keys = np.where(self.weights > 0, np.log(u) / self.weights, -np.inf)
        return iter(np.argsort(-keys, kind="stable")[: self.count].tolist())


class BatchSampler:
    """The indices of a sampler, `batch_size` at a time, in lists.

    >>> list(pn.data.BatchSampler(range(5), 2, drop_last=True))
    [[0, 1], [2, 3]]
    """

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool = False):
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(
                f"BatchSampler: batch_size is an integer of at least 1, not {batch_size}"
            )
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __len__(self) -> int:
        n = len(self.sampler)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in self.sampler:
            batch.append(int(index))
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch
