"""Pass: work that earlier work would have stopped for the same indices can't be stopped.

The gradient of an embedding scatters to the rows that the forward pass has gathered from. With
that known, states may be replaced before the scatter.
"""

from __future__ import annotations

from collections.abc import Hashable

from .graph import Graph, Work


def prove(graph: Graph) -> None:
    """Mark gathers and scatters whose indices an earlier one of them has found in range."""
    writers, seen = graph.writers(), set()
    for i, w in enumerate(graph.work):
        if w.program is None or w.program.kernel not in ("gather", "scatter"):
            continue
        key = _indices(w)
        if key in seen and len(writers.get(w.ins[1].slot, ())) < 2:
            graph.work[i] = w.but(proven=True)
        seen.add(key)


def _indices(w: Work) -> Hashable:
    """What says which elements are read as indices, and the size that they are for."""
    sizes, places = w.words[:4], w.words[8:12]
    return w.ins[1].slot, sizes, places
