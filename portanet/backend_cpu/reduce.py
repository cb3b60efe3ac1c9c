"""Which reductions compute what they reduce: those that are no slower for it."""

from __future__ import annotations

from collections.abc import Sequence

from ..dtypes import Dtype

# Measured on an AMD EPYC (Zen 4), one thread: from as many columns to as many, sums over rows
# take 0.4 to 1 of the time; wider ones are reduced in panels, which are short runs to interpret.
COLUMNS = range(8, 129)
LEAST_RUN = 128  # neighbours along what is reduced
LEAST_REDUCED = 2048  # to one result: what a producer makes at once


def produces(dtype: Dtype, words: Sequence[int]) -> bool:
    """Whether a reduction of these words computes what it reduces, which is of this dtype
    and contiguous."""
    kept, reduced, kept_rank, reduced_rank, _, *rest = words
    across = rest[kept_rank : 2 * kept_rank]
    along = rest[2 * kept_rank :]
    sizes, steps = along[:reduced_rank], along[reduced_rank:]
    if reduced_rank and steps[-1] == 1:
        is_long = sizes[-1] >= LEAST_RUN and reduced >= LEAST_REDUCED
        return is_long and dtype.itemsize >= 4  # narrow ones are quick to store
    return (
        kept in COLUMNS
        and list(across) == [1]
        and list(steps) == [kept]
        and reduced * kept >= LEAST_REDUCED
    )
