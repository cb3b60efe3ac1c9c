"""Buffers that several states or results of a plan lie in, found and made at each replay."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from ..arrays import Handle, _identity, elementwise_program, layout
from .graph import Graph


class Packed:
    """What the slots of `graph.packs` are in a replay.

    New values go to one new buffer, of which each state gets a part. So in the next replay
    the states lie where that wants them; where one does not (at first, or when a user has
    assigned it), all of its group are copied side by side.
    """

    def __init__(self, graph: Graph, backend: Any):
        self.graph, self.backend = graph, backend
        slots = graph.slots
        # Written to new memory by each replay: slot, [(slot of a part, first byte, bytes)].
        self.made = [(s, self._parts(s)) for s in graph.packs if slots[s].kept]
        # Read: the same, of states.
        self.read = [
            _States(
                s,
                self._parts(s),
                slots[s].nbytes,
                source.index,
                self._parts(source.index),
            )
            for s in graph.packs
            if (source := slots[s].source) is not None
        ]
        self.copies: dict[int, Any] = {}  # slot -> the launch that copies it

    def _parts(self, whole: int) -> list[tuple[int, int, int]]:
        parts = self.graph.packs[whole].items()
        return [(s, at, self.graph.slots[s].nbytes) for s, at in parts]

    def part(self, buffer: Any, whole: int, slot: int) -> Any:
        """The buffer of a slot that lies in another one, which has this buffer."""
        at = self.graph.packs[whole][slot]
        return self.backend.part(buffer, at, self.graph.slots[slot].nbytes)

    def allocate(self, buffers: list[Any]) -> None:
        """New memory for what a replay makes."""
        for whole, parts in self.made:
            buffer = buffers[whole] = self.backend.alloc(self.graph.slots[whole].nbytes)
            for slot, at, nbytes in parts:
                buffers[slot] = self.backend.part(buffer, at, nbytes)

    def find(self, buffers: list[Any]) -> None:
        """The buffers in which states lie, given those of the states."""
        for group in self.read:
            found = group.of(buffers)
            if found != group.last:
                group.whole = _common(found, group.parts) or self._gathered(
                    group, found
                )
                group.last = found
            buffers[group.slot] = group.whole

    def assigned(self, buffers: Sequence[Any]) -> None:
        """The new values of these buffers are the states now."""
        for group in self.read:
            group.last, group.whole = group.new(buffers), buffers[group.next]

    def _gathered(self, group: _States, found: Sequence[Any]) -> Any:
        whole = self.backend.alloc(group.nbytes)
        for buffer, (slot, at, nbytes) in zip(found, group.parts, strict=True):
            if slot not in self.copies:
                self.copies[slot] = self._copy(slot)
            self.copies[slot](self.backend.part(whole, at, nbytes), buffer)
        return whole

    def _copy(self, slot: int) -> Any:
        source: Any = self.graph.slots[slot].source
        x = source.layout
        flat = Handle(0, layout((x.size,), x.dtype, x.device))
        same = _identity(x.dtype, x.dtype)
        program, words = elementwise_program("copy", same, [flat], [flat])
        return self.backend.build(program, tuple(words))


class _States:
    """States that lie in one buffer."""

    def __init__(self, slot: int, parts: list, nbytes: int, following: int, new: list):
        self.slot, self.parts, self.nbytes, self.next = slot, parts, nbytes, following
        # The states among all buffers, and their new values; two at least.
        self.of = itemgetter(*[s for s, _, _ in parts])
        slot_at = {at: s for s, at, _ in new}
        self.new = itemgetter(*[slot_at[at] for _, at, _ in parts])
        self.last: Any = None  # what it found
        self.whole: Any = None  # and the buffer around it


def _common(found: Sequence[Any], parts: Sequence[tuple[int, int, int]]) -> Any:
    """The buffer of which all are parts, each in its place; None where there is none."""
    whole = getattr(found[0], "whole", None)
    if whole is None:
        return None
    pairs = zip(found, parts, strict=True)
    there = all(
        getattr(b, "whole", None) is whole and b.offset == at for b, (_, at, _) in pairs
    )
    return whole if there else None
