"""A sequence: the launches of a replay, encoded with as few calls as they take.

Which bind groups the launches need depends only on the blocks that change between replays
(arguments, states, results). They are worked out once for each such set of blocks, and then
a replay is one call for each batch that is submitted together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .pace import BATCH
from .recorder import Dispatches

MAX_SETS = 64  # of blocks that were seen; a training step alternates between two


class Replay:
    """Call with the buffers of all slots; does not wait."""

    def __init__(
        self, backend: Any, launches: Sequence[tuple[Callable, tuple[int, ...]]]
    ):
        self.backend = backend
        self.steps: list[tuple[Any, list[Any]]] = []  # launch, slots or kept buffers
        for launch, slots in launches:
            self._add(launch, list(slots))
        self.slots = sorted(
            {s for _, at in self.steps for s in at if isinstance(s, int)}
        )
        self.ready: dict[tuple, list[Dispatches]] = {}
        self.limit = 0.0  # of a batch in `ready`
        self.faults = any(launch.can_fault for launch, _ in self.steps)

    def _add(self, launch: Any, operands: list[Any]) -> None:
        """One launch; several with a temporary are taken apart, the temporary kept."""
        if hasattr(launch, "pipeline"):
            self.steps.append((launch, operands))
        elif hasattr(launch, "launches"):
            every = [*operands, launch.pool.alloc(launch.temporary)]
            for part, chosen in zip(launch.launches, launch.operands, strict=True):
                self._add(part, [every[i] for i in chosen])

    def _bind(self, buffers: Sequence[Any]) -> list[Dispatches]:
        """The dispatches for these buffers, in batches: no watchdog fires within one."""
        batches, made, work, pending = [], [], 0.0, 0.0
        backend, limit = self.backend, self.limit
        for launch, operands in self.steps:
            chosen = [buffers[s] if isinstance(s, int) else s for s in operands]
            key = (launch.number, *[b.block for b in chosen])
            group = backend._groups.get(key)
            if group is None:
                group = backend._bind(launch, key)
            here = max(launch.work, limit / BATCH)
            if made and pending + here > limit:
                batches.append(Dispatches(made, work, pending))
                made, work, pending = [], 0.0, 0.0
            made.append((launch.pipeline, group, launch.x, launch.y))
            work, pending = work + launch.work, pending + here
        return [*batches, Dispatches(made, work, pending)]

    def __call__(self, buffers: Sequence[Any]) -> None:
        backend = self.backend
        with backend._lock:
            limit = backend._pace.limit
            if limit != self.limit:
                self.ready.clear()
                self.limit = limit
            key = tuple([buffers[s].block for s in self.slots])
            batches = self.ready.get(key)
            if batches is None:
                if len(self.ready) >= MAX_SETS:
                    self.ready.clear()
                batches = self.ready[key] = self._bind(buffers)
            if self.faults:
                backend._may_have_faulted = True
            for batch in batches:
                if backend._pending and backend._pending + batch.pending > limit:
                    backend._submit()
                backend._host.dispatch_all(batch)
                backend._work += batch.work
                backend._pending += batch.pending
