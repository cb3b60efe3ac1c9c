"""Datasets: things with a length whose items are samples."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..autograd import Tensor
from ..dtypes import int32
from ..ops.index import take
from ..random import Generator, permutation


@runtime_checkable
class Dataset(Protocol):
    """What a DataLoader reads: `len(dataset)` samples, `dataset[i]` each.

    A dataset may also have `batch(indices)`, which gives the samples of an array of indices
    already put together; then it is not asked item by item.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class IterableDataset:
    """Samples that come one after another, of which nobody knows how many there are.

    Define `__iter__`. A DataLoader reads it from the start at each pass, in order and by
    one thread; it has no length, so a loader of it can't shuffle.

    >>> class Squares(pn.data.IterableDataset):
    ...     def __iter__(self):
    ...         return (i * i for i in range(5))
    >>> [x.tolist() for x in pn.data.DataLoader(Squares(), batch_size=3)]
    [[0, 1, 4], [9, 16]]
    """

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__}: define __iter__(self)")


def _same_length(name: str, values: Sequence[Any]) -> int:
    if not values:
        raise ValueError(f"{name}: at least one tensor or array is needed")
    for i, v in enumerate(values):
        if not np.shape(v) and not getattr(v, "shape", ()):
            raise ValueError(f"{name}: part {i} has no axis of samples")
    counts = [v.shape[0] for v in values]
    if len(set(counts)) > 1:
        listed = ", ".join(map(str, counts))
        raise ValueError(f"{name}: the parts have different lengths: {listed}")
    return counts[0]


def _position(index: Any, count: int) -> int:
    i = operator.index(index)
    if not -count <= i < count:
        raise IndexError(f"dataset: index {i} is out of range for {count} samples")
    return i % count


class TensorDataset:
    """Samples that are rows of tensors on one device: item i is (x[i], y[i], ...).

    >>> data = pn.data.TensorDataset(pn.arange(3), pn.arange(3) * 10)
    >>> [t.item() for t in data[2]]
    [2, 20]
    """

    def __init__(self, *tensors: Tensor):
        for i, t in enumerate(tensors):
            if not isinstance(t, Tensor):
                raise TypeError(
                    f"TensorDataset: part {i} is a {type(t).__name__}, not a Tensor; "
                    "ArrayDataset takes NumPy arrays"
                )
        self.count = _same_length("TensorDataset", tensors)
        self.tensors = tuple(t.detach() for t in tensors)
        self.device = tensors[0].device

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        i = _position(index, self.count)
        return tuple(t[i] for t in self.tensors)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, ...]:
        """The rows of an array of indices, gathered where the tensors are."""
        at = self.tensors[0].from_numpy(indices, int32)
        return tuple(take(t, at, axis=0) for t in self.tensors)


class ArrayDataset:
    """Samples that are rows of NumPy arrays; batches are copied to the device as they go."""

    def __init__(self, *arrays: Any):
        self.arrays = tuple(np.asarray(a) for a in arrays)
        self.count = _same_length("ArrayDataset", self.arrays)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        i = _position(index, self.count)
        return tuple(a[i] for a in self.arrays)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        """The rows of an array of indices."""
        return tuple(a[indices] for a in self.arrays)


class Subset:
    """Some samples of a dataset, by their indices."""

    def __init__(self, dataset: Any, indices: Any):
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        count = len(dataset)
        for i in self.indices:
            _position(i, count)
        if hasattr(dataset, "batch"):
            self.batch = lambda at: dataset.batch(self.indices[at])
        if hasattr(dataset, "device"):
            self.device = dataset.device

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[_position(index, len(self))])]


class ConcatDataset:
    """The samples of several datasets, one dataset after the other.

    >>> pn.data.ConcatDataset([range(3), range(10, 12)])[3]
    10
    """

    def __init__(self, datasets: Sequence[Any]):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset: at least one dataset is needed")
        self.ends = np.cumsum([len(d) for d in self.datasets])
        places = {getattr(d, "device", None) for d in self.datasets}
        if len(places) == 1 and None not in places:
            self.device = places.pop()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Any:
        i = _position(index, len(self))
        which = int(np.searchsorted(self.ends, i, side="right"))
        return self.datasets[which][i - (int(self.ends[which - 1]) if which else 0)]


def random_split(
    dataset: Any, lengths: Sequence[float], generator: Generator | None = None
) -> list[Subset]:
    """Subsets of these lengths, drawn without repetition.

    lengths: integers that add up to len(dataset), or fractions that add up to 1, where the
    first parts take what rounding leaves over.

    >>> [len(part) for part in pn.data.random_split(range(10), [0.75, 0.25])]
    [8, 2]
    """
    count, sizes = len(dataset), list(lengths)
    if any(isinstance(n, float) for n in sizes):
        if abs(sum(sizes) - 1) > 1e-6 or min(sizes) < 0:
            raise ValueError(f"random_split: fractions {sizes} don't add up to 1")
        sizes = [int(f * count + 1e-9) for f in sizes]
        for i in range(count - sum(sizes)):
            sizes[i % len(sizes)] += 1
    if sum(sizes) != count or min(sizes, default=0) < 0:
        raise ValueError(
            f"random_split: lengths {sizes} don't add up to {count} samples"
        )
    device = getattr(dataset, "device", None)
    order = permutation(count, device=device, generator=generator).numpy()
    ends = np.cumsum(sizes)
    return [Subset(dataset, order[e - n : e]) for e, n in zip(ends, sizes, strict=True)]
