"""DataLoader: batches of a dataset, in order or shuffled, made ahead by threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from ..autograd import Tensor, no_grad
from ..creation import tensor
from ..devices import Device, default_device, get
from ..devices import device as using
from ..ops.shape import stack
from ..random import Generator
from . import draws
from .dataset import IterableDataset
from .samplers import BatchSampler, RandomSampler, SequentialSampler, own_generator
from .workers import ahead

_END: Any = object()


def collate(samples: Sequence[Any]) -> Any:
    """Samples as one batch: tensors, arrays and numbers are stacked, tuples and dicts part
    by part; anything else becomes a list.

    >>> [x.tolist() for x in pn.data.collate([(1.0, 2), (3.0, 4)])]
    [[1.0, 3.0], [2, 4]]
    """
    first = samples[0]
    if isinstance(first, Tensor):
        return stack(samples)
    if isinstance(first, np.ndarray | np.generic):
        return np.stack(samples)
    if isinstance(first, bool | int | float):
        return tensor(list(samples))
    if isinstance(first, Mapping):
        return {key: collate([s[key] for s in samples]) for key in first}
    if isinstance(first, tuple | list):
        for s in samples:
            if len(s) != len(first):
                raise ValueError(
                    f"collate: samples have {len(first)} and {len(s)} parts"
                )
        return tuple(collate(part) for part in zip(*samples, strict=True))
    return list(samples)


def _placed(batch: Any, place: Device) -> Any:
    """The batch with its tensors moved, and its arrays copied, to the device."""
    if isinstance(batch, Tensor):
        return batch.to(place)
    if isinstance(batch, np.ndarray):
        return tensor(batch, device=place) if batch.dtype.kind in "biufV" else batch
    if isinstance(batch, Mapping):
        return {key: _placed(v, place) for key, v in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_placed(v, place) for v in batch)
    return batch


class DataLoader:
    """Iterate over batches of a dataset, as often as wanted.

    The order: shuffle draws another one for each pass from `generator` (its own, seeded like
    the default one, unless given); or `sampler` gives the indices, or `batch_sampler` those
    of whole batches. drop_last leaves out a last batch that is not full.
    Samples are put together by collate_fn, by default `collate`. device: where batches go;
    the dataset's, or else the default.
    num_workers: threads that make batches, which come in order; prefetch: how many batches
    they are ahead of the loop at most (by default two a worker; prefetch alone asks for one
    worker). What goes wrong in a thread is raised here with its traceback, and leaving the
    loop early ends them. worker_init_fn(i) is called once in thread i of each pass. Python
    runs one thread at a time: workers help where samples wait for files, or for NumPy or
    Pillow. pin_memory and persistent_workers are PyTorch's and change nothing here.
    The random numbers of transforms depend on generator, pass and sample alone, so they are
    the same for any number of workers.

    >>> data = pn.data.TensorDataset(pn.arange(5))
    >>> [x.tolist() for x, in pn.data.DataLoader(data, batch_size=2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        sampler: Any = None,
        batch_sampler: Any = None,
        drop_last: bool = False,
        generator: Generator | None = None,
        device: Any = None,
        num_workers: int = 0,
        prefetch: int = 0,
        collate_fn: Callable[[Sequence[Any]], Any] | None = None,
        worker_init_fn: Callable[[int], None] | None = None,
        pin_memory: bool = False,
        persistent_workers: bool = False,
    ):
        self.is_iterable = isinstance(dataset, IterableDataset)
        self._check_dataset(dataset)
        for name, count in (("num_workers", num_workers), ("prefetch", prefetch)):
            if not isinstance(count, int) or count < 0:
                what = "threads" if name == "num_workers" else "batches"
                raise ValueError(
                    f"DataLoader: {name} is a number of {what}, not {count}"
                )
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(
                f"DataLoader: batch_size is an integer of at least 1, not {batch_size}"
            )
        self._check_order(shuffle, sampler, batch_sampler)
        if batch_sampler is not None and (batch_size != 1 or drop_last):
            raise ValueError(
                "DataLoader: batch_sampler decides batch_size and drop_last; leave them out"
            )
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.collate_fn = collate if collate_fn is None else collate_fn
        self.worker_init_fn = worker_init_fn
        self.num_workers = num_workers or min(prefetch, 1)
        self.prefetch = prefetch or 2 * num_workers
        self.device = None if device is None else get(device)
        self.generator = own_generator("DataLoader", generator)
        self.batch_sampler: Any = batch_sampler
        if batch_sampler is None and not self.is_iterable:
            if sampler is None and shuffle and len(dataset):
                sampler = RandomSampler(dataset, generator=self.generator)
            sampler = SequentialSampler(dataset) if sampler is None else sampler
            self.batch_sampler = BatchSampler(sampler, batch_size, drop_last)

    def _check_dataset(self, dataset: Any) -> None:
        for name in () if self.is_iterable else ("__len__", "__getitem__"):
            if not hasattr(dataset, name):
                raise TypeError(
                    f"DataLoader: a {type(dataset).__name__} has no {name}; a dataset "
                    "needs __len__ and __getitem__, or is an IterableDataset"
                )

    def _check_order(self, shuffle: bool, sampler: Any, batch_sampler: Any) -> None:
        """ValueError where more than one argument decides the order."""
        given = [
            name
            for name, value in (
                ("shuffle", shuffle),
                ("sampler", sampler is not None),
                ("batch_sampler", batch_sampler is not None),
            )
            if value
        ]
        if len(given) + self.is_iterable > 1:
            order = (
                "an IterableDataset has its order" if self.is_iterable else "choose one"
            )
            raise ValueError(f"DataLoader: {' and '.join(given)} given; {order}")

    def __len__(self) -> int:
        if self.is_iterable:
            raise TypeError("DataLoader: an IterableDataset has no length")
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        place = self.device or getattr(self.dataset, "device", None)
        place = place or default_device()
        key: tuple[int, ...] = ()
        if not self._has_batches():
            key = tuple(self.generator.bits(2, place).tolist())
        if self.is_iterable:
            return self._of_iterable(place, key)

        def make(task: tuple[int, Any]) -> Any:
            with using(place), no_grad():
                return _placed(self._fetch(*task, key), place)

        tasks = self._indices(place)
        if self.num_workers:
            return ahead(
                make, tasks, self.num_workers, self.prefetch, self.worker_init_fn
            )
        return (make(task) for task in tasks)

    def _of_iterable(self, place: Device, key: tuple[int, ...]) -> Iterator[Any]:
        """Batches of an IterableDataset: one thread reads it, since order is all it has."""
        samples = iter(self.dataset)

        def make(number: int) -> Any:
            with using(place), no_grad(), draws.sample((*key, number)):
                found = list(itertools.islice(samples, self.batch_size))
                if len(found) < (self.batch_size if self.drop_last else 1):
                    return _END
                return _placed(self.collate_fn(found), place)

        numbers = itertools.count()
        made = (make(number) for number in numbers)
        if self.num_workers:
            made = ahead(make, numbers, 1, self.prefetch, self.worker_init_fn)
        with closing(made):
            for batch in made:
                if batch is _END:
                    return
                yield batch

    def _has_batches(self) -> bool:
        return hasattr(self.dataset, "batch") and self.collate_fn is collate

    def _indices(self, place: Device) -> Iterator[tuple[int, Any]]:
        """(number of the batch, its indices); samplers draw where the batches go."""
        with using(place):
            batches = iter(self.batch_sampler)
        for number in itertools.count():
            with using(place):
                indices = next(batches, None)
            if indices is None:
                return
            yield number, indices

    def _fetch(self, number: int, found: Any, key: tuple[int, ...]) -> Any:
        if self._has_batches():
            return self.dataset.batch(np.asarray(found, dtype=np.int32))
        samples = []
        for i, index in enumerate(found):
            with draws.sample((*key, number << 32 | i)):
                samples.append(self.dataset[int(index)])
        return self.collate_fn(samples)
