"""Borders made of the tensor's own elements: reflected, repeated, or from the other end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .index import take
from .shape import pad

# As NumPy's pad calls them.
_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def bordered(
    name: str, x: Any, widths: Sequence[tuple[int, int]], mode: str, value: float = 0.0
) -> Any:
    """x with (before, after) more elements along each of its last axes.

    mode: "constant" or "zeros", "reflect" (without the edge itself), "replicate" (the edge
    again), "circular" (from the other end). ValueError where the border has not enough to
    take from.
    """
    first = x.ndim - len(widths)
    if mode in ("constant", "zeros"):
        return pad(x, [(0, 0)] * first + list(widths), value)
    if mode not in _MODES:
        raise ValueError(
            f"{name}: the border is zeros, {', '.join(_MODES)}, not {mode!r}"
        )
    for axis, (before, after) in enumerate(widths, first):
        n = x.shape[axis]
        most = {"reflect": n - 1, "circular": n}.get(mode, before + after if n else 0)
        if max(before, after) > most:
            raise ValueError(
                f"{name}: a {mode} border of {max(before, after)} is too wide for axis "
                f"{axis} of shape {x.shape}; it may be {max(most, 0)}"
            )
        if before or after:
            places: Any = np.pad(np.arange(n), (before, after), _MODES[mode])  # type: ignore
            x = take(x, places, axis=axis, name=name)
    return x
