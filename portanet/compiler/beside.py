"""Pass: launches that need nothing of each other go side by side as one.

The gradients of biases, of the weights of a norm, are such launches: small sums over matrices
that are there at about the same time. So are the copies into regions of one array, as those of
`concat`. The earlier ones wait for the last, so what they read stays alive for longer; as long
as that is little.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field, replace

from ..arrays import Handle
from . import memory
from .absorb import absorb
from .cost import SLACK
from .graph import Graph, Work
from .regions import Box, box_of, meet
from .walk import is_whole

# Of the bytes of all temporaries, what may stay alive longer for one launch.
LONGER = 1 / 16


@dataclass
class _Group:
    """Work that may run where its last member does."""

    numbers: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)  # where each member writes
    outs: set[int] = field(default_factory=set)  # slots
    ins: set[int] = field(default_factory=set)


def join(graph: Graph, kernels: Collection[str], max_operands: int) -> None:
    """Join the work of these kernels, with at most so many buffers to bind."""
    if not kernels:
        return
    spans = memory.lifetimes(graph)
    most = max(SLACK, LONGER * memory.plan(graph).nbytes)
    done: list[_Group] = []
    groups: dict[Hashable, _Group] = {}
    for i, w in enumerate(graph.work):
        key = _key(graph, w, kernels)
        for k in [k for k, g in groups.items() if _needs(graph, w, g, k == key)]:
            done.append(groups.pop(k))
        if key is None:
            continue
        group = groups.get(key)
        if group is None or not _fits(graph, group, i, spans, most, max_operands):
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
        joined = _regions(work) if work[0].expression else _copies(graph, work)
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
        plain = not w.row and not w.can_fault and len(w.outs) == 1
        if not plain or _box(graph, w) is None:
            return None
        return w.outs[0].slot, w.shape, w.outs[0].layout.strides
    if p is None or p.kernel not in kernels or p.can_fault or p.expression is not None:
        return None
    if len(w.outs) != 1 or len(w.ins) != 1 or p.options[0].startswith("arg"):
        return None
    home = graph.home()
    apart = home.get(w.ins[0].slot, -1) != home.get(w.outs[0].slot, -2)
    return replace(p, label="") if apart else None


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
    if not steps or is_whole(x) and x.size == total:
        return None
    around = [total, *steps]
    pairs = zip(around, steps, strict=False)
    if any(s <= 0 or a % s for a, s in pairs) or steps[-1] != 1:
        return None
    sizes = [a // s for a, s in zip(around, steps, strict=False)]
    return box_of(x, sizes)


def _fits(graph: Graph, group: _Group, i: int, spans, most, max_operands: int) -> bool:
    w, home = graph.work[i], graph.home()
    slots = group.outs | {h.slot for h in w.outs}
    outs, ins = {home.get(s, s) for s in slots}, group.ins | {h.slot for h in w.ins}
    # Results in one buffer are bound once, others each.
    bound = 1 if len(outs) == 1 else len(slots)
    if bound + len(ins) > max_operands or {home.get(s, s) for s in ins} & outs:
        return False
    # What would end before this, and now waits for it.
    late = [s for s in group.ins if s in spans and spans[s][1] < i]
    return sum(graph.slots[s].nbytes for s in late) <= most


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
    outs, home = [w.outs[0] for w in work], graph.home()
    shared = {home.get(h.slot, -1) for h in outs}
    if len(shared) == 1 and shared != {-1}:
        outs = [_inside(graph, h, home[h.slot]) for h in outs]
    first = work[0].program
    assert first is not None
    program = replace(
        first,
        outputs=first.outputs * len(work),
        inputs=first.inputs * len(work),
        copies=len(work),
    )
    words = [n for w, h in zip(work, outs) for n in (len(w.words), h.layout.offset)]
    words += [n for w in work for n in w.words]
    parts = [p for w in work for p in w.parts]
    ins = [w.ins[0] for w in work]
    return work[-1].but(
        outs=outs, ins=ins, program=program, words=tuple(words), parts=parts
    )


def _inside(graph: Graph, h: Handle, whole: int) -> Handle:
    """A result seen in the slot around its own."""
    x = h.layout
    at = graph.packs[whole][h.slot] // graph.device.backend.itemsize(x.dtype)
    return Handle(whole, x.view(x.shape, x.strides, x.offset + at))
