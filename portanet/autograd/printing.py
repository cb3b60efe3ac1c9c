"""How a tensor prints: as NumPy would, reading back only what is shown."""

from __future__ import annotations

import numpy as np

from ..dtypes import bool_, float32

THRESHOLD = 1000  # elements; more are summarised
EDGE = 3  # elements shown at each end of an axis


def _edges(x):
    """The corners of a large tensor, in few reads, with room for NumPy to shorten."""
    from ..ops.shape import concat

    for axis, n in enumerate(x.shape):
        if n > 2 * EDGE + 1:
            at = (slice(None),) * axis
            first, last = x[(*at, slice(EDGE + 1))], x[(*at, slice(n - EDGE, n))]
            x = concat([first, last], axis=axis)
    return x.numpy()


def text(x) -> str:
    """`tensor([...], dtype=..., device=...)`; what is usual is left out."""
    is_trained, x = x.requires_grad, x.detach()
    large = x.size > THRESHOLD
    values = _edges(x) if large else x.numpy()
    if values.dtype.name == "bfloat16":
        values = values.astype(np.float32)
    # The corners are printed as if the middle were there: `threshold` 0 puts the dots in.
    body = np.array2string(
        values,
        separator=", ",
        prefix="tensor(",
        threshold=0 if large else THRESHOLD,
        edgeitems=EDGE,
    )
    parts = [body]
    if large or 0 in x.shape:
        parts.append(f"shape={x.shape}")
    if x.dtype not in (float32, bool_):
        parts.append(f"dtype={x.dtype.name}")
    if x.device.type != "cpu":
        parts.append(f"device='{x.device}'")
    if is_trained:
        parts.append("requires_grad=True")
    return f"tensor({', '.join(parts)})"
