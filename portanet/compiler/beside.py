"""Pass: launches that need nothing of each other go side by side as one.

The gradients of biases, of the weights of a norm, are such launches: small sums over matrices
that are there at about the same time. So are the copies into regions of one array, as those of
`concat`; and, on a device that joins elementwise work, what one formula makes of many arrays,
as the updates of all parameters. The earlier ones wait for the last, so what they read stays
alive for longer; as long as the most that is alive at once hardly grows.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace

from ..arrays import Handle, elementwise_program
from ..program import Program
from . import memory
from .absorb import absorb
from .cost import SLACK
from .graph import Graph, Work, program_of
from .pack import MEMBER_BYTES
from .regions import Box, box_of, meet
from .walk import is_whole

# Of the most bytes of temporaries alive at once, what may be added.
LONGER = 1 / 16
# Regions of one launch, each with a result and at least one input: their layouts are given
# to it too.
REGIONS = 24


@dataclass
class _Group:
    """Work that may run where its last member does."""

    numbers: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)  # where each member writes
    outs: set[int] = field(default_factory=set)  # slots
    ins: set[int] = field(default_factory=set)


class _Alive:
    """Bytes of temporaries alive at each piece of work."""

    def __init__(self, graph: Graph):
        self.spans = memory.lifetimes(graph)
        self.sizes = {s: graph.slots[s].nbytes for s in self.spans}
        self.at = [0] * len(graph.work)
        for slot, (first, last) in self.spans.items():
            self._add(slot, first, last)
        peak = max(self.at, default=0)
        self.most = peak + max(SLACK, LONGER * peak)

    def _add(self, slot: int, first: int, last: int) -> None:
        for k in range(first, last + 1):
            self.at[k] += self.sizes[slot]

    def wait(self, slots: set[int], i: int) -> bool:
        """Keep these alive up to number i, if that does not take too much."""
        late = [s for s in slots if s in self.spans and self.spans[s][1] < i]
        before = list(self.at)
        for s in late:
            self._add(s, self.spans[s][1] + 1, i)
        if late and max(self.at[: i + 1]) > self.most:
            self.at = before
            return False
        for s in late:
            self.spans[s] = self.spans[s][0], i
        return True


def join(
    graph: Graph,
    kernels: Collection[str],
    max_operands: int,
    max_copied: int | None = None,
) -> None:
    """Join the work of these kernels, with at most so many buffers to bind; `max_copied`
    where that differs for launches side by side."""
    if not kernels:
        return
    alive = _Alive(graph)
    done: list[_Group] = []
    groups: dict[Hashable, _Group] = {}
    for i, w in enumerate(graph.work):
        key = _key(graph, w, kernels)
        for k in [k for k, g in groups.items() if _needs(graph, w, g, k == key)]:
            done.append(groups.pop(k))
        if key is None:
            continue
        group = groups.get(key)
        most = max_operands
        if isinstance(key, Program) and max_copied is not None:
            most = max_copied
        if group is None or not _fits(graph, group, i, alive, most):
            done += [group] if group else []
            group = groups[key] = _Group()
        group.numbers.append(i)
        group.boxes += [box] if (box := _box(graph, w)) else []
        group.outs.update(h.slot for h in w.outs)
        group.ins.update(h.slot for h in w.ins)
    made: dict[int, Work] = {}
    gone: set[int] = set()
    for group in (*done, *groups.values()):
        work = [graph.work[i] for i in group.numbers]
        if len(work) < 2:
            continue
        is_region = _box(graph, work[0]) is not None
        joined = _regions(work) if is_region else _copies(graph, work)
        if joined is not None:
            gone.update(group.numbers)
            made[group.numbers[-1]] = joined
    graph.work = [
        made.get(i, w) for i, w in enumerate(graph.work) if i in made or i not in gone
    ]


def _key(graph: Graph, w: Work, kernels: Collection[str]) -> Hashable:
    """What is equal of work that may be joined; None where it may not be."""
    p = w.program
    if w.expression is not None:
        if w.row or w.can_fault:
            return None
        if len(w.outs) == 1 and _box(graph, w) is not None:
            return w.outs[0].slot, w.shape, w.outs[0].layout.strides
        return _formula(graph, w) if "elementwise" in kernels else None
    if p is None or p.kernel not in kernels or p.can_fault or p.expression is not None:
        return None
    if len(w.outs) != 1 or p.options[0].startswith("arg"):
        return None
    home = graph.home()
    whole = home.get(w.outs[0].slot, -2)
    if any(home.get(h.slot, -1) == whole for h in w.ins):
        return None
    if w.producer is not None:
        p, _ = program_of(w)
        mixes = getattr(graph.device.backend, "mixes", False)
        p = p.without_producer if mixes else replace(p, buffers=())
    return replace(p, label="")


def _formula(graph: Graph, w: Work) -> Program | None:
    """What is equal of elementwise work on many arrays: each operand is all of one, in order,
    or one number. None where launches are not what it costs."""
    if any(graph.slots[h.slot].nbytes > MEMBER_BYTES for h in w.outs):
        return None
    program, words = _program(w)
    plain = not program.rank and not any(words[1:])
    return replace(program, label="") if plain else None


def _program(w: Work) -> tuple[Program, Sequence[int]]:
    if w.expression is not None:
        return elementwise_program(w.label, w.expression, w.outs, w.ins)
    assert w.program is not None
    program, words = program_of(w)
    return replace(program, buffers=()), words


def _needs(graph: Graph, w: Work, group: _Group, alike: bool) -> bool:
    """Whether w must run after the group, or the group before it. Work that is `alike` may
    write another region of the same array."""
    reads, writes = (graph.touched(h.slot for h in hs) for hs in (w.ins, w.outs))
    outs, ins = graph.touched(group.outs), graph.touched(group.ins)
    if reads & outs or writes & ins:
        return True
    if not writes & outs:
        return False
    box = _box(graph, w) if alike else None
    return box is None or any(meet(box, other) for other in group.boxes)


def _box(graph: Graph, w: Work) -> Box | None:
    """The region of its array that elementwise work writes; None where it is all of it."""
    if w.expression is None:
        return None
    x = w.outs[0].layout
    total = graph.slots[w.outs[0].slot].nbytes // graph.device.backend.itemsize(x.dtype)
    steps = [s for n, s in zip(x.shape, x.strides, strict=True) if n > 1]
    if is_whole(x) and x.size == total:
        return None
    if not steps:
        return ((x.offset, x.offset),)
    around = [total, *steps]
    pairs = zip(around, steps, strict=False)
    if any(s <= 0 or a % s for a, s in pairs) or steps[-1] != 1:
        return None
    sizes = [a // s for a, s in zip(around, steps, strict=False)]
    return box_of(x, sizes)


def _fits(
    graph: Graph, group: _Group, i: int, alive: _Alive, max_operands: int
) -> bool:
    w, home = graph.work[i], graph.home()
    slots = group.outs | {h.slot for h in w.outs}
    outs, ins = {home.get(s, s) for s in slots}, group.ins | {h.slot for h in w.ins}
    # Results in one buffer are bound once, others each.
    bound = 1 if len(outs) == 1 else len(slots)
    if bound + len(ins) > max_operands or {home.get(s, s) for s in ins} & outs:
        return False
    if len(group.boxes) >= REGIONS:
        return False
    return alive.wait(group.ins, i)


def _regions(work: list[Work]) -> Work | None:
    """One piece of work that writes all regions."""
    made = work[0]
    for w in work[1:]:
        joined = absorb(w, made, made.outs)
        if joined is None:
            return None
        made = joined
    return made


def _copies(graph: Graph, work: list[Work]) -> Work:
    """Launches of one kernel as one."""
    outs, home = [h for w in work for h in w.outs], graph.home()
    shared = {home.get(h.slot, -1) for h in outs}
    if len(shared) == 1 and shared != {-1}:
        outs = [_inside(graph, h, home[h.slot]) for h in outs]
    pairs = [_program(w) for w in work]
    first, every = pairs[0][0], [words for _, words in pairs]
    program = replace(
        first,
        outputs=tuple(t for p, _ in pairs for t in p.outputs),
        inputs=tuple(t for p, _ in pairs for t in p.inputs),
        copies=len(work),
    )
    if any(p.has_producer for p, _ in pairs):
        each = tuple(p for p, _ in pairs)
        which = first.options[:1]
        program = replace(
            program, options=which, expression=None, modes="", rank=0, each=each
        )
    offsets = [h.layout.offset for h in outs[:: len(first.outputs)]]
    words = [n for own, at in zip(every, offsets) for n in (len(own), at)]
    words += [n for own in every for n in own]
    return work[-1].but(
        outs=outs,
        ins=[h for w in work for h in w.ins],
        expression=None,
        producer=None,
        program=program,
        words=tuple(words),
        parts=[p for w in work for p in w.parts],
    )


def _inside(graph: Graph, h: Handle, whole: int) -> Handle:
    """A result seen in the slot around its own."""
    x = h.layout
    at = graph.packs[whole][h.slot] // graph.device.backend.itemsize(x.dtype)
    return Handle(whole, x.view(x.shape, x.strides, x.offset + at))
