"""Pass: elementwise work over the same elements becomes one launch.

Work joins the group of an earlier piece whose result it reads, element by element, or that
reads what it reads. What nobody else reads is not stored. Two pieces may only meet where
nothing outside needs the one and is needed by the other; each group knows all that must run
before it, as the bits of one number.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from ..arrays import Handle
from . import cost
from .absorb import absorb
from .graph import Graph, Work, dependencies
from .pack import updates

# Work over few elements shares a launch even if it shares no input.
SMALL = 4096
SIBLINGS = 8  # groups that are looked at for each input


def fuse(
    graph: Graph, max_operands: int, small: int = SMALL, packed: Container[int] = ()
) -> None:
    """Join elementwise work where it fits, in one pass over the work. What makes the slots
    `packed` is not joined to share a launch: it stays alike, for `pack` and `beside`."""
    groups = Groups(graph, max_operands, small, packed)
    for i in range(len(graph.work)):
        groups.add(i)
    graph.work = groups.ordered()


@dataclass
class Groups:
    """Pieces of work joined so far; a group is known by the number of its first piece."""

    graph: Graph
    max_operands: int
    most: int  # elements of work that joins work it shares nothing with
    packed: Container[int] = ()  # slots whose writers stay alike
    work: dict[int, Work] = field(default_factory=dict)
    into: dict[int, int] = field(default_factory=dict)  # a joined group -> by whom
    bits: dict[int, int] = field(default_factory=dict)  # of the pieces of a group
    below: dict[int, int] = field(default_factory=dict)  # pieces that must run before
    direct: dict[int, set[int]] = field(default_factory=dict)  # groups, some stale
    last: dict[int, int] = field(default_factory=dict)  # the last piece of a group

    def __post_init__(self):
        self.kernels = cost.kernels_before(self.graph.work)
        self.needs = dependencies(self.graph.work)
        self.writers = self.graph.writers()
        self.readers: dict[int, list[int]] = {}  # slot -> groups so far, some stale
        self.left = {s: len(r) for s, r in self.graph.readers().items()}
        self.small: dict[int, list[int]] = {}  # size -> groups

    def find(self, i: int) -> int:
        while i in self.into:
            i = self.into[i]
        return i

    def add(self, i: int) -> None:
        """The next piece of work, alone and then with what it fits together with."""
        w = self.graph.work[i]
        self.work[i], self.bits[i], self.last[i] = w, 1 << i, i
        self.direct[i] = {self.find(k) for k in self.needs[i]}
        self.below[i] = 0
        for k in self.direct[i]:
            self.below[i] |= self.below[k] | self.bits[k]
        joined = i if w.expression is not None else None
        group = i
        while joined is not None:
            group, joined = joined, self._join_one(joined)
        self._index(group)

    def _index(self, group: int) -> None:
        w = self.work[group]
        for h in w.ins:
            known = self.readers.setdefault(h.slot, [])
            if not known or known[-1] != group:
                known.append(group)
        alone = updates(self.graph, w, self.packed)
        if w.expression is not None and w.size <= self.most and not alone:
            self.small.setdefault(w.size, []).append(group)

    # ---- who may join whom

    def _join_one(self, b: int) -> int | None:
        """Join group b with an earlier one: the number of the joined group."""
        for a in self._candidates(b):
            made = self._joined(a, b)
            if made is not None:
                return self._become(a, b, made)
        return None

    def _candidates(self, b: int) -> Iterable[int]:
        """Groups that b reads from, the latest first; then those that read the same."""
        w, seen = self.work[b], {b}
        sources = [self.find(k) for h in w.ins for k in self.writers.get(h.slot, ())]
        for a in sorted((set(sources) - seen) & self.work.keys(), reverse=True):
            seen.add(a)
            yield a
        nearby = [
            self.find(k)
            for h in w.ins
            if any(h.layout.expanded(w.shape).strides)
            for k in self.readers.get(h.slot, ())[-SIBLINGS:]
        ]
        if updates(self.graph, w, self.packed):
            return
        if w.size <= self.most:
            nearby += [self.find(k) for k in self.small.get(w.size, ())[-SIBLINGS:]]
        for a in nearby:
            if a not in seen:
                seen.add(a)
                yield a

    def _joined(self, a: int, b: int) -> Work | None:
        p, w = self.work[a], self.work[b]
        if p.expression is None or p.size != w.size or not self._may_meet(a, b):
            return None
        mine = {h.slot for h in p.outs}
        reads = {h.slot for h in w.ins if h.slot in mine}
        if any(len(self.writers[s]) > 1 for s in reads):
            return None
        if not reads and not self._may_share_a_failure(p, w):
            return None
        if any(h.slot in mine for h in w.outs) or self._clash(p, w):
            return None
        keep = [h for h in p.outs if self._still_read(h, w)]
        far = self.kernels[self.last[b]] > self.kernels[self.last[a]]
        if far and not keep and cost.lingers(self.graph, p, self.left.__getitem__):
            return None
        operands = len({h.slot for h in (*p.ins, *w.ins)} - mine)
        if operands + len(keep) + len(w.outs) > self.max_operands:
            return None
        made = absorb(w, p, keep)
        if made is None or len(made.ins) + len(made.outs) > self.max_operands:
            return None
        return made

    def _may_share_a_failure(self, p: Work, w: Work) -> bool:
        """Whether two pieces that read nothing of each other may fail together: work that
        only shares a launch may not, nor may two that would be taken for one another."""
        if not p.can_fault and not w.can_fault:
            return True
        same = {h.slot for h in p.ins} & {h.slot for h in w.ins}
        return bool(same) and p.can_fault != w.can_fault

    def _clash(self, p: Work, w: Work) -> bool:
        """Whether one writes what the other reads before it is written."""
        theirs = {h.slot for h in w.outs}
        return any(h.slot in theirs for h in p.ins)

    def _may_meet(self, a: int, b: int) -> bool:
        """Whether a does not need b, and nothing else needs a and is needed by b."""
        mine = self.bits[a]
        if self.below[a] & self.bits[b]:
            return False
        return not any(k != a and self.below[k] & mine for k in self._direct(b))

    def _direct(self, g: int) -> set[int]:
        found = {self.find(k) for k in self.direct[g]} - {g}
        self.direct[g] = found
        return found

    def _still_read(self, h: Handle, w: Work) -> bool:
        """Whether anybody but w reads what a piece of work writes."""
        if self.graph.slots[h.slot].kept or len(self.writers[h.slot]) > 1:
            return True
        return self.left.get(h.slot, 0) > any(x.slot == h.slot for x in w.ins)

    # ---- joining

    def _become(self, a: int, b: int, made: Work) -> int:
        """Groups a and b are now one, with this work."""
        self._count((self.work[a], self.work.pop(b)), made)
        self.into[b], self.work[a] = a, made
        both = self.bits[a] | self.bits.pop(b)
        below = (self.below[a] | self.below.pop(b)) & ~both
        self.bits[a], self.below[a] = both, below
        self.direct[a] = (self.direct[a] | self.direct.pop(b)) - {a, b}
        self.last[a] = max(self.last[a], self.last.pop(b))
        for k, bits in self.below.items():
            if bits & both:
                self.below[k] = bits | both | below
        return a

    def _count(self, before: tuple[Work, Work], after: Work) -> None:
        """Keep the numbers of readers of each slot."""
        for w in before:
            for slot in {h.slot for h in w.ins}:
                self.left[slot] -= 1
        for slot in {h.slot for h in after.ins}:
            self.left[slot] = self.left.get(slot, 0) + 1

    def ordered(self) -> list[Work]:
        """The groups, each after those it needs, else as late as its last piece."""
        waits = {g: self._direct(g) for g in self.work}
        users: dict[int, list[int]] = {}
        for g, needs in waits.items():
            for k in needs:
                users.setdefault(k, []).append(g)
        missing = {g: len(needs) for g, needs in waits.items()}
        ready = [(self.last[g], g) for g, n in missing.items() if n == 0]
        heapq.heapify(ready)
        made = []
        while ready:
            _, g = heapq.heappop(ready)
            made.append(self.work[g])
            for k in users.get(g, ()):
                missing[k] -= 1
                if not missing[k]:
                    heapq.heappush(ready, (self.last[k], k))
        assert len(made) == len(self.work), "groups need each other"
        return made
