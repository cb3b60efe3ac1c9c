"""Pass: work that updates many states by one formula becomes one launch over all of them.

The update of each parameter is elementwise work with the same expression. Where what it reads
and writes lies side by side, in the same order in each buffer, one launch goes over it all.
So the states of such work are put into one buffer, their new values into another, and each
temporary that it reads (the gradients) into a third: a slot there is a range of a larger one.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence
from typing import Any

from ..arrays import Handle, layout
from ..program import ALIGNMENT
from .graph import Graph, Work
from .lazy import Source
from .walk import is_whole

# Of one member: a launch over more takes longer than it costs to start.
MEMBER_BYTES = 4 << 20
# Of one buffer: well below WebGPU's smallest limit of a binding, 128 MiB.
WHOLE_BYTES = 32 << 20


def pack(graph: Graph, replaced: Mapping[int, int], max_operands: int) -> None:
    """Join what fits. `replaced`: slot of a new value -> slot of the state it replaces."""
    writers = graph.writers()
    groups: dict[Hashable, list[int]] = {}
    for i, w in enumerate(graph.work):
        key = _key(graph, w, replaced, writers)
        if key is not None:
            groups.setdefault(key, []).append(i)
    made: dict[int, Work] = {}  # number of the last member -> the joined work
    gone: set[int] = set()
    for numbers in groups.values():
        numbers = _movable(graph, _without_shared(graph, numbers))
        for chunk in _chunks(graph, numbers):
            joined = _join(
                graph, [graph.work[i] for i in chunk], replaced, max_operands
            )
            if joined is not None:
                gone.update(chunk)
                made[chunk[-1]] = joined
    graph.work = [
        made.get(i, w) for i, w in enumerate(graph.work) if i in made or i not in gone
    ]


def updates(graph: Graph, w: Work, new: Container[int]) -> bool:
    """Whether w makes new values of states, whose slots are `new`, and only results."""
    if w.expression is None or not any(h.slot in new for h in w.outs):
        return False
    return all(graph.slots[h.slot].kept for h in w.outs)


def _key(graph: Graph, w: Work, replaced, writers) -> Hashable:
    """What work has in common that may be joined; None where it can't be."""
    if not updates(graph, w, replaced) or w.row or w.can_fault:
        return None
    assert w.expression is not None
    if any(j.name == "index" for j in w.expression.instructions):
        return None
    dtype, roles = w.outs[0].layout.dtype, []
    old = [replaced.get(h.slot) for h in w.outs]
    for h in w.outs:
        alone = len(writers[h.slot]) == 1 and h.layout.dtype is dtype
        if not alone or not _fills(graph, h, w):
            return None
    for h in w.ins:
        role = _role(graph, h, w, old)
        if role is None:
            return None
        roles.append(role)
    return w.expression, dtype, tuple(roles)


def _role(graph: Graph, h: Handle, w: Work, old: Sequence[int | None]) -> Hashable:
    """How an input is found in the joined work: as it is, where it is one number; as the
    old value of an output; as a temporary. None: not at all."""
    if h.slot not in old and not any(h.layout.expanded(w.shape).strides):
        return "one", h.slot, h.layout.offset, h.layout.dtype
    if not _fills(graph, h, w) or sum(h.slot == x.slot for x in w.ins) > 1:
        return None
    source = graph.slots[h.slot].source
    if h.slot in old:
        owned = source is not None and hasattr(source.owner, "value")
        same = h.layout.dtype is w.outs[0].layout.dtype
        return ("state", old.index(h.slot)) if owned and same else None
    return ("made", h.layout.dtype) if source is None else None


def _fills(graph: Graph, h: Handle, w: Work) -> bool:
    """Whether a handle sees all of its slot, in the order of w, and the slot may move."""
    x = h.layout
    nbytes = x.size * graph.device.backend.itemsize(x.dtype)
    whole = is_whole(x) and x.size == w.size and graph.slots[h.slot].nbytes == nbytes
    return whole and nbytes <= MEMBER_BYTES and h.slot not in graph.home()


def _without_shared(graph: Graph, numbers: list[int]) -> list[int]:
    """Those that share no operand, but for single numbers: a slot lies in one place. Two
    parameters may have one gradient, as the two biases of a recurrent layer."""
    seen: set[int] = set()
    kept = []
    for i in numbers:
        w = graph.work[i]
        handles = [h for h in w.ins if any(h.layout.expanded(w.shape).strides)]
        mine = {h.slot for h in (*w.outs, *handles)}
        if not mine & seen:
            kept.append(i)
            seen |= mine
    return kept


def _movable(graph: Graph, numbers: list[int]) -> list[int]:
    """Those of equal work that may all run where the last of them does."""
    while len(numbers) > 1:
        mine = set(numbers)
        written: set[int] = set()
        read: set[int] = set()
        late: set[int] = set()  # slots that a later member must find as they are
        for i in range(numbers[0], numbers[-1]):
            w = graph.work[i]
            if i in mine:
                written.update(h.slot for h in w.outs)
                read.update(h.slot for h in w.ins)
                continue
            outs = {h.slot for h in w.outs}
            late |= written & {h.slot for h in (*w.ins, *w.outs)} | read & outs
        kept = [
            i
            for i in numbers
            if not late & {h.slot for h in (*graph.work[i].outs, *graph.work[i].ins)}
        ]
        if len(kept) == len(numbers):
            return numbers
        numbers = kept
    return []


def _chunks(graph: Graph, numbers: list[int]) -> list[list[int]]:
    """Members whose values fit into one buffer."""
    found: list[list[int]] = []
    room = 0
    for i in numbers:
        outs = graph.work[i].outs
        need = sum(graph.slots[h.slot].nbytes + ALIGNMENT for h in outs)
        if need > room:
            found.append([])
            room = WHOLE_BYTES
        found[-1].append(i)
        room -= need
    return [chunk for chunk in found if len(chunk) > 1]


def _join(graph: Graph, work: list[Work], replaced, max_operands: int) -> Work | None:
    """One piece of work in place of some, and their slots in larger ones."""
    first = work[0]
    roles: list[Any] = [
        _role(graph, h, first, [replaced.get(o.slot) for o in first.outs])
        for h in first.ins
    ]
    if None in roles:  # what was joined before took an operand
        return None
    itemsize = graph.device.backend.itemsize
    least = min(itemsize(h.layout.dtype) for h in (*first.outs, *first.ins))
    starts, n = [], 0  # of the members, in elements
    for w in work:
        starts.append(n)
        n += -(-w.size * least // ALIGNMENT) * ALIGNMENT // least

    def slots(handles: Sequence[Sequence[Handle]], at: Sequence[int]):
        """Slot of a member -> its first byte, for operands that begin at some bytes."""
        return {
            h.slot: byte + start * itemsize(h.layout.dtype)
            for members, byte in zip(handles, at, strict=True)
            for h, start in zip(members, starts, strict=True)
        }

    width = -(-n * itemsize(first.outs[0].layout.dtype) // ALIGNMENT) * ALIGNMENT
    outs = [[w.outs[k] for w in work] for k in range(len(first.outs))]
    new = slots(outs, [k * width for k in range(len(outs))])
    state = {j: r[1] for j, r in enumerate(roles) if r[0] == "state"}
    ins = {j: [w.ins[j] for w in work] for j in range(len(first.ins))}
    old = slots([ins[j] for j in state], [k * width for k in state.values()])
    made = {j: slots([ins[j]], [0]) for j, r in enumerate(roles) if r[0] == "made"}
    every = [new, old, *made.values()]
    count = bool(new) + bool(old) + len(ins) - len(state)
    if count > max_operands or _meets(graph, work, every):
        return None
    whole_of: dict[Any, int] = {}
    whole_of["new"] = _whole(graph, new, width * len(outs), None)
    if old:
        source = Source("pack", None, None, whole_of["new"])
        whole_of["old"] = _whole(graph, old, width * len(outs), source)
    for j, parts in made.items():
        nbytes = n * itemsize(first.ins[j].layout.dtype)
        whole_of[j] = _whole(graph, parts, nbytes, None)

    def seen(slot: int, like: Handle, byte: int) -> Handle:
        dtype = like.layout.dtype
        offset = byte // itemsize(dtype)
        return Handle(slot, layout((n,), dtype, graph.device, None, offset))

    inputs = []
    for j, h in enumerate(first.ins):
        if j in state:
            inputs.append(seen(whole_of["old"], h, state[j] * width))
        elif j in made:
            inputs.append(seen(whole_of[j], h, 0))
        else:
            one = h.layout.view((), (), h.layout.offset)
            inputs.append(Handle(h.slot, one))
    results = [seen(whole_of["new"], h, k * width) for k, h in enumerate(first.outs)]
    return first.but(outs=results, ins=inputs)


def _whole(graph: Graph, parts: dict[int, int], nbytes: int, source) -> int:
    slot = graph.slot(nbytes, source)
    graph.slots[slot].kept = any(graph.slots[s].kept for s in parts)
    graph.packs[slot] = parts
    return slot


def _meets(
    graph: Graph, work: Sequence[Work], wholes: Sequence[dict[int, int]]
) -> bool:
    """Whether other work would read and write one of these buffers, which WebGPU refuses,
    or a slot lies elsewhere already."""
    if any(graph.home().keys() & parts.keys() for parts in wholes):
        return True
    mine = set(map(id, work))
    for w in graph.work:
        if id(w) in mine:
            continue
        outs, ins = {h.slot for h in w.outs}, {h.slot for h in w.ins}
        for parts in wholes:
            if outs & parts.keys() and ins & parts.keys():
                return True
    return False
