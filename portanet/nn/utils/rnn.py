"""Sequences of different lengths: padded into one tensor, or packed without the padding.

The names are PyTorch's. Lengths are numbers that Python knows, as they shape the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...autograd import Tensor
from ...creation import full, tensor
from ...ops.index import take
from ...ops.shape import concat, permute_dims, reshape


class PackedSequence(NamedTuple):
    """Sequences of different lengths, step after step, without padding.

    data: (sum of the lengths, ...): the first elements of all sequences, longest first,
    then the second elements, and so on. batch_sizes: how many sequences each step has, a
    tuple of numbers. sorted_indices: the sequence at each place of the order by length,
    unsorted_indices: the place of each sequence; None where they came in that order.
    """

    data: Tensor
    batch_sizes: tuple[int, ...]
    sorted_indices: tuple[int, ...] | None = None
    unsorted_indices: tuple[int, ...] | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of each sequence, in the order in which they came."""
        sizes = np.array(self.batch_sizes)
        counts = [int((sizes > i).sum()) for i in range(self.batch_sizes[0])]
        back = self.unsorted_indices
        return tuple(counts if back is None else [counts[i] for i in back])


def _numbers(name: str, lengths: Any) -> np.ndarray:
    """Lengths as integers; ValueError for one below 1."""
    values = np.asarray(lengths.numpy() if isinstance(lengths, Tensor) else lengths)
    if values.ndim != 1 or not values.size or values.dtype.kind not in "iu":
        raise ValueError(f"{name}: lengths are a list of integers, not {lengths!r}")
    if values.min() < 1:
        raise ValueError(
            f"{name}: a sequence has at least 1 element; sequence {values.argmin()} has "
            f"{values.min()}"
        )
    return values


def _steps_first(name: str, x: Tensor, batch_first: bool) -> Tensor:
    if x.ndim < 2:
        raise ValueError(f"{name}: at least 2 axes are needed, got {x.shape}")
    return permute_dims(x, (1, 0, *range(2, x.ndim))) if batch_first else x


def pack_padded_sequence(
    input: Tensor,
    lengths: Any,
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:
    """The first lengths[b] elements of each sequence b of a padded tensor, packed.

    input: (steps, batch, ...), or with batch_first (batch, steps, ...). lengths: integers in
    a list, an array or a tensor, which is read; from the longest to the shortest, unless
    enforce_sorted is False.

    >>> x = pn.tensor([[1, 2, 3], [4, 0, 0]])
    >>> packed = nn.utils.rnn.pack_padded_sequence(x, [3, 1], batch_first=True)
    >>> packed.data.tolist(), packed.batch_sizes
    ([1, 4, 2, 3], (2, 1, 1))
    """
    name = "pack_padded_sequence"
    x = _steps_first(name, input, batch_first)
    steps, batch = x.shape[:2]
    counts = _numbers(name, lengths)
    if len(counts) != batch:
        raise ValueError(f"{name}: {len(counts)} lengths for a batch of {batch}")
    if counts.max() > steps:
        raise ValueError(
            f"{name}: sequence {counts.argmax()} has length {counts.max()}, the input has "
            f"{steps} steps"
        )
    order = np.argsort(-counts, kind="stable")
    is_sorted = bool((np.diff(counts) <= 0).all())
    if enforce_sorted and not is_sorted:
        raise ValueError(
            f"{name}: lengths {counts.tolist()} are not from the longest to the shortest; "
            "sort them, or use enforce_sorted=False"
        )
    at, sizes = _places(counts[order], order, batch)
    rows = reshape(x, (steps * batch, *x.shape[2:]))
    data = take(rows, at, axis=0, name=name)
    if enforce_sorted:
        return PackedSequence(data, sizes)
    back = np.argsort(order, kind="stable")
    return PackedSequence(data, sizes, tuple(order.tolist()), tuple(back.tolist()))


def _places(
    counts: np.ndarray, order: np.ndarray, batch: int
) -> tuple[np.ndarray, tuple]:
    """Where each packed element lies in (steps * batch), and how many a step has; counts
    are sorted, `order` says whose they are."""
    live = np.arange(counts[0])[:, None] < counts  # at [step, place]
    step, place = np.nonzero(live)
    return step * batch + order[place], tuple(live.sum(1).tolist())


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(padded, lengths): a packed sequence as one tensor, (steps, batch, ...) or with
    batch_first (batch, steps, ...), and how long each sequence is, int64 on the cpu.

    steps: the longest length, or total_length.

    >>> packed = nn.utils.rnn.pack_sequence([pn.tensor([1, 2]), pn.tensor([3])])
    >>> nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)[0].tolist()
    [[1, 2], [3, 0]]
    """
    name = "pad_packed_sequence"
    if not isinstance(sequence, PackedSequence):
        raise TypeError(
            f"{name}: a PackedSequence is needed, not {type(sequence).__name__}"
        )
    counts = np.array(sequence.lengths)
    longest = len(sequence.batch_sizes)
    steps = longest if total_length is None else total_length
    if steps < longest:
        raise ValueError(
            f"{name}: total_length {steps} is less than the longest sequence, {longest}"
        )
    data, batch = sequence.data, len(counts)
    order = np.argsort(-counts, kind="stable")
    if sequence.sorted_indices is not None:
        order = np.array(sequence.sorted_indices)
    at, _ = _places(counts[order], order, batch)
    # Every place that no element has takes the row after the last, which is padding.
    source = np.full(steps * batch, len(at))
    source[at] = np.arange(len(at))
    pad = full(
        (1, *data.shape[1:]), padding_value, dtype=data.dtype, device=data.device
    )
    rows = take(concat([data, pad]), source, axis=0, name=name)
    padded = reshape(rows, (steps, batch, *data.shape[1:]))
    padded = _steps_first(name, padded, batch_first)
    return padded, tensor(counts, dtype="int64", device="cpu")


def pad_sequence(
    sequences: Sequence[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Tensors (length, ...) of different lengths in one (longest, batch, ...), or with
    batch_first (batch, longest, ...); padded behind, or with padding_side "left" in front.

    >>> nn.utils.rnn.pad_sequence([pn.tensor([1, 2]), pn.tensor([3])], batch_first=True)
    tensor([[1, 2],
            [3, 0]], dtype=int32)
    """
    name = "pad_sequence"
    xs = list(sequences)
    if padding_side not in ("left", "right"):
        raise ValueError(
            f"{name}: padding_side is 'left' or 'right', not {padding_side!r}"
        )
    if not xs:
        raise ValueError(f"{name}: at least one sequence is needed")
    for i, x in enumerate(xs):
        if not x.ndim or x.shape[1:] != xs[0].shape[1:]:
            raise ValueError(
                f"{name}: sequence {i} is {x.shape} and sequence 0 is {xs[0].shape}; they "
                "may differ along the first axis only"
            )
    longest = max(x.shape[0] for x in xs)
    rows = []
    for x in xs:
        rest = (longest - x.shape[0], *x.shape[1:])
        pad = full(rest, padding_value, dtype=x.dtype, device=x.device)
        both = [x, pad] if padding_side == "right" else [pad, x]
        rows.append(concat(both) if rest[0] else x)
    made = reshape(concat(rows), (len(xs), longest, *xs[0].shape[1:]))
    return made if batch_first else _steps_first(name, made, True)


def unpad_sequence(
    padded_sequences: Tensor, lengths: Any, batch_first: bool = False
) -> list[Tensor]:
    """The first lengths[b] elements of each sequence b, without padding.

    >>> x = pn.tensor([[1, 2], [3, 0]])
    >>> [y.tolist() for y in nn.utils.rnn.unpad_sequence(x, [2, 1], batch_first=True)]
    [[1, 2], [3]]
    """
    name = "unpad_sequence"
    counts = _numbers(name, lengths)
    x = _steps_first(name, padded_sequences, batch_first)
    if len(counts) != x.shape[1] or counts.max() > x.shape[0]:
        raise ValueError(
            f"{name}: lengths {counts.tolist()} don't fit {x.shape[1]} sequences of "
            f"{x.shape[0]} steps"
        )
    return [x[: int(n), i] for i, n in enumerate(counts)]


def pack_sequence(
    sequences: Sequence[Tensor], enforce_sorted: bool = True
) -> PackedSequence:
    """Tensors (length, ...) packed; from the longest to the shortest, unless enforce_sorted
    is False.

    >>> nn.utils.rnn.pack_sequence([pn.tensor([1, 2]), pn.tensor([3])]).data.tolist()
    [1, 3, 2]
    """
    xs = list(sequences)
    counts = [x.shape[0] if x.ndim else 0 for x in xs]
    return pack_padded_sequence(pad_sequence(xs), counts, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences of a PackedSequence, in the order in which they came."""
    padded, _ = pad_packed_sequence(packed_sequences)
    return unpad_sequence(padded, packed_sequences.lengths)
