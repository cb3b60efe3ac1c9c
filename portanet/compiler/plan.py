"""A plan: built launches in order, the buffers they run on, and what is assigned after."""

from __future__ import annotations

import operator
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import starmap
from typing import Any

from ..arrays import Array
from ..program import Program
from . import (
    beside,
    fold,
    fuse,
    hoist,
    inline,
    lengthen,
    memory,
    order,
    pack,
    recompute,
)
from . import prove, regions, share, sums, turn, unturn
from .epilogue import give_epilogues
from .graph import Graph, program_of
from .lazy import Source
from .packed import Packed
from .produce import give_producers
from .reuse import Old, Target, take


def optimise(
    graph: Graph,
    replaced: dict[int, Any] | None = None,
    memory_limit: int | None = None,
) -> None:
    """The passes, in order. `replaced`: see `Plan`; `memory_limit`: bytes."""
    most = getattr(graph.device.backend, "max_operands", 7)
    share.drop_unread(graph)
    fold.fold_numbers(graph)
    fold.simplify(graph)
    share.share_common(graph)
    regions.merge_regions(graph)
    turn.turn(graph)
    share.drop_copies(graph)
    lengthen.lengthen(graph)
    unturn.unturn(graph)
    inline.inline(graph, most)
    hoist.hoist(graph)
    pairs = new_for_old(graph, replaced or {})
    if memory_limit is None:  # what a kernel has taken can't be computed again alone
        able = getattr(graph.device.backend, "epilogues", ())
        give_epilogues(graph, able, most, pairs)
    formulas = sums.lift(graph)
    packs = _packs(graph.device.backend) and memory_limit is None
    copies = getattr(graph.device.backend, "copies", ()) if memory_limit is None else ()
    # Work that joins only to save a launch would have all its inputs wait for it.
    fuse.fuse(
        graph,
        most,
        fuse.SMALL if memory_limit is None else 0,
        _alike(graph, pairs, packs, copies),
    )
    sums.settle(graph, formulas)
    give_producers(graph, most)
    fold.simplify(graph)
    share.drop_unread(graph)
    prove.prove(graph)
    order.reorder(graph, pairs, one_by_one=not packs)
    if memory_limit is not None:
        shared = _written_in_place(graph, pairs)
        fresh = {h.slot for h in graph.results} - set(shared)
        results = sum(graph.slots[s].nbytes for s in fresh)
        recompute.recompute(graph, memory_limit, results)
    if packs:
        pack.pack(graph, pairs, most)
    copied = getattr(graph.device.backend, "max_copied", None)
    beside.join(graph, copies, most, copied)


def _packs(backend: Any) -> bool:
    """Whether states are put into common buffers: where a launch costs most. A state that
    is written in place stays where it is."""
    in_place = getattr(backend, "writes_in_place", False)
    return hasattr(backend, "part") and not in_place


def _alike(
    graph: Graph, pairs: dict[int, int], packs: bool, copies: Collection[str]
) -> Collection[int]:
    """Slots whose writers are to stay alike: new values of states and, where each update
    has operands of its own, what is made for it alone, as a clipped gradient."""
    if "elementwise" in copies:
        read = [h for w in graph.work if pack.updates(graph, w, pairs) for h in w.ins]
        return pairs.keys() | {h.slot for h in read}
    return pairs if packs else ()


def _written_in_place(graph: Graph, pairs: dict[int, int]) -> dict[int, int]:
    """Slot of a new value -> slot of the state whose memory it takes."""
    able = getattr(graph.device.backend, "writes_in_place", False)
    return memory.in_place(graph, pairs) if able else {}


def new_for_old(graph: Graph, replaced: dict[int, Any]) -> dict[int, int]:
    """Slot of a new value -> slot of the state that it replaces, of those that are read."""
    slots = {id(s.source): i for i, s in enumerate(graph.slots) if s.source}
    return {
        graph.results[i].slot: slots[id(source)]
        for i, source in replaced.items()
        if id(source) in slots
    }


class Plan:
    """What a traced function has become. Call `run(arguments)` with the tensors."""

    def __init__(
        self,
        graph: Graph,
        replaced: dict[int, Any] | None = None,
        targets: Mapping[int, Target] | None = None,
    ):
        """`replaced`: number of a result -> the source of the state that it is assigned to;
        `targets`: number of a result -> where it is assigned."""
        backend = graph.device.backend
        self.graph, self.backend = graph, backend
        self.lock = threading.Lock()
        self.made = [h.slot for h in graph.results]
        self.sizes = [graph.slots[h.slot].nbytes for h in graph.results]
        self.layouts = [h.layout for h in graph.results]
        self.targets = dict(targets or {})
        self.shared = self._find_shared(replaced or {})
        # Results whose memory is that of the values that they replace, where it is free.
        self.kept = [i for i in self.targets if self._keeps(i)]
        grads = {self.made[i]: i for i in self.kept if i not in self.shared}
        self.memory = memory.least(graph, grads)
        # Gradients among the temporaries: slot -> number of the result.
        self.lent = {s: i for s, i in grads.items() if s in self.memory.block_of}
        self.leaves = tuple(self.targets[i].owner for i in self.lent.values())
        self.launches: list[tuple[Callable, tuple[int, ...]]] = []
        self.programs: list[Program] = []
        pairs = [program_of(w) for w in graph.work]
        getattr(backend, "prepare", lambda pairs: None)(pairs)
        for w, (program, words) in zip(graph.work, pairs, strict=True):
            slots = tuple(h.slot for h in (*w.outs, *w.ins))
            self.programs.append(program)
            self.launches.append((backend.build(program, tuple(words)), slots))
        self.fixed: list[Any] = [None] * len(graph.slots)
        home = graph.home()
        self.packed = Packed(graph, backend)
        self.blocks = self._lay_out(self.fixed)
        self.arguments: list[tuple[int, int]] = []  # slot, number of the argument
        # What is read anew: states by their tensors, the rest by a call.
        self.tensors: list[tuple[int, Any]] = []  # slot, tensor
        self.seen: list[Any] = []  # their layouts
        self.others: list[tuple[int, Callable, Any]] = []  # slot, call, layout
        for i, slot in enumerate(graph.slots):
            if slot.source is not None:
                self._add_source(i, slot.source)
        self.olds = tuple(map(self._old, self.kept))
        self.take = getattr(backend, "take", take)
        # Results, by number, that are always written to new memory, and their slots.
        self.fresh = {i: slot for i, slot in enumerate(self.made) if i not in self.kept}
        # Those of them whose memory is their own.
        self.single = [
            (s, self.sizes[i]) for i, s in self.fresh.items() if s not in home
        ]
        sequence = getattr(backend, "sequence", None)
        self.play = (
            sequence(self.launches, len(graph.slots)) if sequence else self._play
        )

    def _lay_out(self, buffers: list[Any]) -> list[Any]:
        """Put temporaries, and what lies among them, into new blocks of memory."""
        backend, graph = self.backend, self.graph
        blocks = [backend.alloc(n) for n in self.memory.sizes]
        for slot, block in self.memory.block_of.items():
            whole, at = blocks[block], self.memory.offset_of.get(slot)
            nbytes = graph.slots[slot].nbytes
            buffers[slot] = whole if at is None else backend.part(whole, at, nbytes)
        for slot, whole in graph.home().items():
            if buffers[whole] is not None:
                buffers[slot] = self.packed.part(buffers[whole], whole, slot)
        return blocks

    def _add_source(self, slot: int, source: Source) -> None:
        get: Any = source.get
        if source.kind == "argument":
            self.arguments.append((slot, source.index))
        elif source.kind == "pack":
            pass  # see Packed
        elif source.kind == "constant":
            self.fixed[slot] = get().buffer
        elif hasattr(source.owner, "value"):
            self.tensors.append((slot, source.owner))
            self.seen.append(source.layout)
        else:
            self.others.append((slot, get, source.layout))

    @property
    def peak(self) -> int:
        """Bytes that a replay has beside its arguments and states: temporaries, gradients,
        and results that are not written in place."""
        home = self.graph.home()
        fresh = [
            n
            for i, n in enumerate(self.sizes)
            if i not in self.shared
            and self.made[i] not in home
            and self.made[i] not in self.lent
        ]
        wholes = [self.graph.slots[whole].nbytes for whole, _ in self.packed.made]
        return self.memory.nbytes + sum(fresh) + sum(wholes)

    def _find_shared(self, replaced: dict[int, Any]) -> dict[int, Source]:
        """Result -> its state, for those that may be written in place."""
        safe = _written_in_place(self.graph, new_for_old(self.graph, replaced))
        return {i: s for i, s in replaced.items() if self.made[i] in safe}

    def _keeps(self, i: int) -> bool:
        """Whether a result may be written over what it replaces: a state of `shared`, or a
        gradient that is not read."""
        owner, attribute, _ = self.targets[i]
        if i in self.shared or attribute == "value" or type(owner) is int:
            return i in self.shared
        able = getattr(self.backend, "writes_in_place", False)
        return able and all(
            s.source is None or s.source.owner is not owner for s in self.graph.slots
        )

    def _old(self, i: int) -> Old:
        owner, attribute, _ = self.targets[i]
        refs = 2 if i in self.shared else 3 if self.made[i] in self.lent else 1
        return Old(self.made[i], owner, attribute == "grad", refs, self.layouts[i])

    def fits(self) -> bool:
        """Whether the states have the layouts that they had."""
        seen = [t.value.layout for _, t in self.tensors]
        others = all(get().layout is seen for _, get, seen in self.others)
        return seen == self.seen and others

    def _play(self, buffers: Sequence[Any]) -> None:
        for launch, slots in self.launches:
            launch(*[buffers[i] for i in slots])

    def scratch(self, arguments: Sequence[Any]) -> list[Any]:
        """Buffers to run single launches on: results go to memory of their own, and so do
        temporaries that are written over others, or all where gradients lie among them."""
        buffers = self._buffers(arguments)
        if self.lent:
            self._lay_out(buffers)
        for slot in self.memory.over:
            buffers[slot] = self.backend.alloc(self.graph.slots[slot].nbytes)
        for slot, nbytes in zip(self.made, self.sizes, strict=True):
            buffers[slot] = self.backend.alloc(nbytes)
        self.packed.allocate(buffers)
        return buffers

    def _buffers(self, arguments: Sequence[Any]) -> list[Any]:
        buffers = list(self.fixed)
        for slot, index in self.arguments:
            buffers[slot] = arguments[index].value.buffer
        for slot, tensor in self.tensors:
            buffers[slot] = tensor.value.buffer
        for slot, get, _ in self.others:
            buffers[slot] = get().buffer
        self.packed.find(buffers)
        return buffers

    def _take_back(self, held: Sequence[int], buffers: list[Any]) -> bool:
        """Make room for gradients that lie among the temporaries and are not the leaves' own
        any more: what somebody holds moves elsewhere. False if something can't move."""
        for slot in [self.olds[k].slot for k in held]:
            if slot not in self.lent:
                continue
            # It is in two lists: the plan's and this replay's.
            if not self.backend.vacate(buffers, slot, 2):
                return False
            if buffers[slot].whole is None:
                at, nbytes = self.memory.offset_of[slot], buffers[slot].nbytes
                part = self.backend.part(self.blocks[0], at, nbytes)
                self.fixed[slot] = buffers[slot] = part
        return True

    def run(
        self, arguments: Sequence[Any], count: int, calls: Sequence[tuple] = ()
    ) -> list[Array]:
        """Play the launches and assign to the targets; the first `count` results, which
        have none.

        The launches, the assignments and `calls` (function, *arguments) are all made or
        none: one call into C makes them, so no signal gets in between.
        """
        with self.lock:
            buffers = self._buffers(arguments)
            fresh, alloc = self.fresh, self.backend.alloc
            held = self.take(self.olds, buffers)
            if held and self.lent and not self._take_back(held, buffers):
                self.blocks = self._lay_out(self.fixed)
                buffers = self._buffers(arguments)
                held = self.take(self.olds, buffers)
            if held:
                lost = {self.kept[k]: self.olds[k].slot for k in held}
                for i, slot in lost.items():
                    if slot not in self.lent:
                        buffers[slot] = alloc(self.sizes[i])
                fresh = fresh | lost
            for slot, nbytes in self.single:
                buffers[slot] = alloc(nbytes)
            self.packed.allocate(buffers)
            made = {
                i: Array(buffers[slot], self.layouts[i]) for i, slot in fresh.items()
            }
            # A failing play forgets the leaves' gradients, which it has written over.
            given = (buffers, self.leaves) if self.leaves else (buffers,)
            todo: list[tuple] = [(self.play, *given)]
            for i, value in made.items():
                if i >= count:
                    owner, attribute, wrap = self.targets[i]
                    if type(owner) is int:
                        argument = arguments[owner]
                        owner = argument if attribute == "value" else argument.node
                    todo.append(
                        (setattr, owner, attribute, wrap(value) if wrap else value)
                    )
            deque(starmap(operator.call, [*todo, *calls]), maxlen=0)
            self.packed.assigned(buffers)
        return [made[i] for i in range(count)]
