"""DataLoader: batches of a dataset, in order or shuffled, made ahead by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..autograd import Tensor, no_grad
from ..creation import tensor
from ..devices import Device, default_device, get
from ..devices import device as using
from ..ops.shape import stack
from ..random import Generator, default_generator, permutation

# Added to the default seed, so that shuffling draws other numbers than the model does; the
# golden ratio's bits, as in Philox.
_STREAM = 0x9E3779B97F4A7C15


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

    shuffle: each pass in another order, drawn from `generator` (its own, seeded like the
    default one, unless given). drop_last leaves out a last batch that is not full.
    device: where batches go; the dataset's, or else the default. prefetch: a thread makes
    that many batches ahead; what goes wrong there is raised here, and leaving the loop
    early ends it.

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
        drop_last: bool = False,
        generator: Generator | None = None,
        device: Any = None,
        prefetch: int = 0,
        collate: Callable[[Sequence[Any]], Any] = collate,
    ):
        for name in ("__len__", "__getitem__"):
            if not hasattr(dataset, name):
                raise TypeError(
                    f"DataLoader: a {type(dataset).__name__} has no {name}; a dataset "
                    "needs __len__ and __getitem__"
                )
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(
                f"DataLoader: batch_size is an integer of at least 1, not {batch_size}"
            )
        if not isinstance(prefetch, int) or prefetch < 0:
            raise ValueError(
                f"DataLoader: prefetch is a number of batches, not {prefetch}"
            )
        self.dataset, self.batch_size, self.shuffle = dataset, batch_size, shuffle
        self.drop_last, self.prefetch, self.collate = drop_last, prefetch, collate
        self.device = None if device is None else get(device)
        self.generator = generator or Generator(default_generator.seed + _STREAM)

    def __len__(self) -> int:
        n = len(self.dataset)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        place = self.device or getattr(self.dataset, "device", None)
        place = place or default_device()
        count = len(self.dataset)
        if self.shuffle:
            order = permutation(count, device=place, generator=self.generator).numpy()
        else:
            order = np.arange(count, dtype=np.int32)
        made = self._batches(order, place)
        return _ahead(made, self.prefetch) if self.prefetch else made

    def _batches(self, order: np.ndarray, place: Device) -> Iterator[Any]:
        for i in range(len(self)):
            indices = order[i * self.batch_size : (i + 1) * self.batch_size]
            with using(place), no_grad():
                batch = _placed(self._fetch(indices), place)
            yield batch

    def _fetch(self, indices: np.ndarray) -> Any:
        if hasattr(self.dataset, "batch") and self.collate is collate:
            return self.dataset.batch(indices)
        return self.collate([self.dataset[int(i)] for i in indices])


_END = object()


def _ahead(items: Iterator[Any], count: int) -> Iterator[Any]:
    """The items, made by a thread that is at most `count` of them ahead."""
    made: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    room = threading.Semaphore(count)
    stop = threading.Event()

    def work() -> None:
        try:
            while room.acquire() and not stop.is_set():
                made.put((next(items, _END), None))
        except BaseException as error:  # raised again by whoever consumes
            made.put((_END, error))

    thread = threading.Thread(target=work, name="portanet-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = _next(made)
            if error is not None:
                raise error
            if item is _END:
                return
            room.release()
            yield item
    finally:
        stop.set()
        room.release()
        thread.join()


def _next(made: queue.SimpleQueue) -> Any:
    """The next item; in short waits, between which Ctrl-C is heard on Windows too."""
    while True:
        try:
            return made.get(timeout=0.2)
        except queue.Empty:
            continue
