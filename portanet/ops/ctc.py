"""Connectionist temporal classification: the likelihood of a text, whatever its timing."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..casting import casting
from .. import scalars as s
from ..dtypes import float32, int32, uint32
from ..op import check_tensor
from . import elementwise as e
from .create import positions
from .index import _as_index, take, take_along_axis
from .losses import _reduced
from .reduce import mean
from .shape import concat, expand_dims, flatten, pad, reshape, stack

NAME = "ctc_loss"
# The logarithm of what can't be. An infinity would make NaN of the gradients.
_NEVER = -1e30


def _step_formula(stay, next_, skip, emitted):
    top = s.maximum(s.maximum(stay, next_), skip)
    total = s.exp(stay - top) + s.exp(next_ - top) + s.exp(skip - top)
    return top + s.log(total) + emitted


_step = e.elementwise(
    "ctc_step",
    _step_formula,
    lambda stay, next_, skip, emitted: (
        np.logaddexp(np.logaddexp(stay, next_), skip) + emitted
    ),
    types="float",
    ulps=16,
    doc="log(exp(a) + exp(b) + exp(c)) + d: the likelihoods of the ways to a state of CTC, "
    "and of what it emits.",
)


def _lengths(name: str, like: Any, given: Any, most: int) -> Any:
    """Lengths as int32 where `like` is; numbers of the host are checked at once."""
    if not hasattr(given, "level"):
        values = np.asarray(given)
        if values.dtype.kind in "iu" and values.size:
            low, high = values.min(), values.max()
            if low < 0 or high > most:
                raise ValueError(
                    f"{NAME}: {name} from {low} to {high} are not in [0, {most}]"
                )
    return reshape(e.astype(_as_index(NAME, like, given), int32), (-1,))


def _padded(targets: Any, lengths: Any) -> Any:
    """Texts that follow each other as rows (n, longest). Reads their lengths."""
    sizes = np.asarray(lengths.numpy() if hasattr(lengths, "numpy") else lengths)
    sizes = sizes.reshape(-1)
    if sizes.sum() != targets.shape[0]:
        raise ValueError(
            f"{NAME}: targets {targets.shape} have not the {sizes.sum()} elements of "
            "target_lengths"
        )
    if not targets.shape[0]:
        return reshape(targets, (len(sizes), 0))
    starts = np.cumsum(sizes) - sizes
    places = starts[:, None] + np.arange(max(sizes.max(), 0))
    return take(targets, np.minimum(places, targets.shape[0] - 1), axis=0, name=NAME)


def _states(targets: Any, lengths: Any, blank: int) -> Any:
    """The labels of the states (n, 2 longest + 1): blanks around each label."""
    n, longest = targets.shape
    if not longest:
        return e.astype(e.add(reshape(lengths, (n, 1)) * 0, blank), int32)
    column = reshape(positions(targets, longest, int32), (1, longest))
    is_text = e.less(column, reshape(lengths, (n, 1)))
    text = e.where(is_text, e.astype(targets, int32), blank)
    pairs = flatten(stack([e.add(e.multiply(text, 0), blank), text], axis=2), 1)
    return pad(pairs, ((0, 0), (0, 1)), blank)


@casting
def ctc_loss(
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Any:
    """-log of the likelihood of each text, summed over all its alignments.

    log_probs: (steps, n, classes) of logarithms, as log_softmax gives, or (steps, classes).
    targets: (n, longest) labels, of which the first of each row count, or all texts one
    after the other in one axis (whose lengths are then read). input_lengths,
    target_lengths: n numbers each, in lists or tensors. blank: the class that says nothing.
    reduction: "mean" divides each loss by the length of its text (at least 1). A text that
    no alignment fits has an infinite loss, or 0 with zero_infinity, and no gradient.
    ValueError, or IndexError, at the next read on a GPU, for a length or label out of range.

    A step is two launches, forward. Graves et al., ICML 2006.

    >>> logits = pn.zeros((4, 1, 3))
    >>> loss = nn.functional.ctc_loss(
    ...     pn.log_softmax(logits), pn.tensor([[1, 2]]), [4], [2], reduction="sum"
    ... )
    >>> round(loss.item(), 4)  # 15 of 3 ** 4 sequences say "1 2"
    1.6864
    """
    check_tensor(NAME, log_probs, targets)
    if log_probs.ndim not in (2, 3) or not log_probs.dtype.is_float:
        raise ValueError(
            f"{NAME}: log_probs are floating, (steps, n, classes) or (steps, classes), not "
            f"{log_probs.dtype.name} {log_probs.shape}"
        )
    if targets.ndim not in (1, 2) or not targets.dtype.is_integer:
        raise ValueError(
            f"{NAME}: targets are integers with 1 or 2 axes, not {targets.dtype.name} "
            f"{targets.shape}"
        )
    is_single = log_probs.ndim == 2
    x = expand_dims(log_probs, axis=1) if is_single else log_probs
    steps, n, classes = x.shape
    if not 0 <= blank < classes or not steps:
        raise ValueError(
            f"{NAME}: blank {blank} is no class of log_probs {log_probs.shape}, or there "
            "are no steps"
        )
    if targets.ndim == 1:
        row = is_single and n == 1
        targets = (
            expand_dims(targets, axis=0) if row else _padded(targets, target_lengths)
        )
    inputs = _lengths("input_lengths", x, input_lengths, steps)
    texts = _lengths("target_lengths", x, target_lengths, targets.shape[1])
    for what, found in (("targets", targets), ("input_lengths", inputs),
                        ("target_lengths", texts)):  # fmt: skip
        if found.shape[0] != n:
            raise ValueError(
                f"{NAME}: log_probs {log_probs.shape} have {n} rows, {what} {found.shape[0]}"
            )
    losses = _losses(x, _states(targets, texts, blank), inputs, texts, blank)
    is_finite = e.less(losses, -_NEVER / 2)
    nothing = 0.0 if zero_infinity else float("inf")
    losses = e.astype(e.where(is_finite, losses, nothing), log_probs.dtype)
    if reduction == "mean":
        losses = e.divide(losses, e.astype(e.maximum(texts, 1), losses.dtype))
        return mean(losses)
    return _reduced(NAME, reshape(losses, ()) if is_single else losses, reduction)


def _losses(x: Any, labels: Any, inputs: Any, texts: Any, blank: int) -> Any:
    """One loss a row; x (steps, n, classes), labels (n, states)."""
    steps, n, _ = x.shape
    states = labels.shape[1]
    x = x if x.dtype.itemsize > 2 else e.astype(x, float32)
    # Unsigned: no label counts from the end.
    index = e.astype(expand_dims(labels, axis=0), uint32)
    emitted = take_along_axis(x, index, axis=2, name=NAME)
    column = reshape(positions(x, states, int32), (1, states))
    # From two states before, where that is another label: over the blank between them.
    before = pad(labels, ((0, 0), (2, 0)), blank)[:, :states]
    may_skip = e.logical_and(e.not_equal(labels, blank), e.not_equal(labels, before))
    toll = e.astype(e.where(may_skip, 0.0, _NEVER), x.dtype)
    start = e.astype(e.where(e.less(column, 2), 0.0, _NEVER), x.dtype)
    ways = [e.add(emitted[0], start)]
    for t in range(1, steps):
        wide = pad(ways[-1], ((0, 0), (2, 0)), _NEVER)
        skip = e.add(wide[:, :states], toll)
        ways.append(_step(wide[:, 2:], wide[:, 1:-1], skip, emitted[t]))
    last = e.astype(reshape(e.subtract(inputs, 1), (1, n, 1)), uint32)
    end = take_along_axis(stack(ways), last, axis=0, name=NAME)[0]
    at = reshape(e.multiply(texts, 2), (n, 1))
    ends = concat([at, e.maximum(e.subtract(at, 1), 0)], axis=1)
    both = take_along_axis(end, e.astype(ends, uint32), axis=1, name=NAME)
    other = e.where(e.greater(texts, 0), both[:, 1], _NEVER)
    return e.negative(e.logaddexp(both[:, 0], other))
