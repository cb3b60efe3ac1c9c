"""A sequence: the launches of a replay, as one graph for each set of buffers seen twice.

A graph holds addresses. Those of a training step alternate between a few: what is freed is
handed out again. So the first replay of a set of addresses launches one by one, the second
records a graph, and from then on a replay is one call of the driver.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

MAX_GRAPHS = 16  # kept; then all are dropped
WORTH = 2  # launches from which on a graph is quicker


class Replay:
    """Call with the buffers of all slots; does not wait."""

    def __init__(self, backend: Any, steps: Sequence[tuple[Any, tuple[int, ...]]]):
        self.backend = backend
        # Launches run in order, so all have their temporaries in the same buffers.
        sizes = [getattr(launch, "temporaries", ()) for launch, _ in steps]
        self.temporaries = [
            backend.alloc(max(each)) for each in zip_longest(*sizes, fillvalue=0)
        ]
        self.steps: list[tuple[Any, list[Any]]] = []  # launch, slots or kept buffers
        for launch, slots in steps:
            self._add(launch, list(slots))
        self.slots = sorted(
            {s for _, at in self.steps for s in at if isinstance(s, int)}
        )
        self.seen: set[tuple] = set()
        self.graphs: dict[tuple, Any] = {}
        self.can_fault = any(launch.can_fault for launch, _ in self.steps)

    def _add(self, launch: Any, operands: list[Any]) -> None:
        """One launch; several with temporaries are taken apart."""
        if hasattr(launch, "function"):
            self.steps.append((launch, operands))
        elif hasattr(launch, "launches"):
            every = [*operands, *self.temporaries[: len(launch.temporaries)]]
            for part, chosen in zip(launch.launches, launch.operands, strict=True):
                self._add(part, [every[i] for i in chosen])

    def __call__(self, buffers: Sequence[Any]) -> None:
        backend = self.backend
        with backend._lock:
            host = backend._host
            host.use()
            key = tuple([buffers[s].address for s in self.slots])
            graph = self.graphs.get(key)
            if graph is None and (key not in self.seen or len(self.steps) < WORTH):
                if len(self.seen) > 64 * MAX_GRAPHS:
                    self.seen.clear()
                self.seen.add(key)
                self._play(buffers, host.stream)
                return
            if graph is None:
                graph = self._record(key, buffers)
            host.replay(graph)
            if self.can_fault:
                backend._may_have_faulted = True

    def _play(self, buffers: Sequence[Any], stream: Any) -> None:
        for launch, operands in self.steps:
            chosen = [buffers[s] if isinstance(s, int) else s for s in operands]
            launch.on(chosen, stream)

    def _record(self, key: tuple, buffers: Sequence[Any]) -> Any:
        if len(self.graphs) >= MAX_GRAPHS:
            self._drop()
        host = self.backend._host
        made = host.record(lambda stream: self._play(buffers, stream))
        self.graphs[key] = made
        return made

    def _drop(self) -> None:
        for graph in self.graphs.values():
            self.backend._host.forget(graph)
        self.graphs.clear()

    def __del__(self):
        if getattr(self, "graphs", None) and not sys.is_finalizing():
            self._drop()
