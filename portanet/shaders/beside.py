"""Some reductions as one dispatch: each group of threads works on one of them.

A step of the joined program has the words of each copy in turn, in the room that one has; then
for each the number of its first group, the first of its partial results, and the first element
of its output. The kernel's text is that of one reduction: what reads words and buffers looks up
which copy the group is at work on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..dtypes import Dtype, float16
from ..program import Program
from .lower import COMPUTED_AS, accessors, binding, bound, producer, words_declared
from .step import Plan, Step

FIRST_GROUP, PARTIAL, OUTPUT = 0, 1, 2  # the table after the words of all


def _some(program: Program, chosen: Sequence[int]) -> tuple[Program, list[int]]:
    """The program of some of the copies, and which operands it has."""
    members = [program.members[c] for c in chosen]
    starts, at = [], program.copies
    for one in program.members:
        starts.append(range(at, at + len(one.inputs)))
        at += len(one.inputs)
    operands = [*chosen, *(i for c in chosen for i in starts[c])]
    buffers = tuple(program.buffers[i] for i in operands) if program.buffers else ()
    number = {b: i for i, b in enumerate(dict.fromkeys(buffers))}
    made = replace(
        program,
        outputs=tuple(program.outputs[c] for c in chosen),
        inputs=tuple(t for one in members for t in one.inputs),
        buffers=tuple(number[b] for b in buffers),
        copies=len(chosen),
        each=tuple(members) if program.each else (),
    )
    return made, operands


def plan(
    program: Program,
    words: Sequence[int],
    plan_one: Callable[[Program, tuple], Plan],
    text: Callable[[Program, bool, bool], str],
    room_of: Callable[[Program], int],
) -> Plan:
    """Those that take the same steps go side by side. `text`: of a program that reads, and
    that writes partial results; `room_of`: words that a step of one of a program's copies
    has."""
    copies = program.copies_of(words)
    plans = [plan_one(m, one) for m, (_, one) in zip(program.members, copies)]
    alike: dict[tuple, list[int]] = {}
    for c, made in enumerate(plans):
        alike.setdefault(tuple(s.entry for s in made.steps), []).append(c)
    steps: list[Step] = []
    temporary = 0
    for key, chosen in alike.items():
        some, operands = _some(program, chosen)
        room = room_of(some)
        start = [temporary // 4]
        for c in chosen:
            temporary += plans[c].temporary
            start.append(temporary // 4)
        for number in range(len(key)):
            reads, writes = number > 0, number + 1 < len(key)
            these = [plans[c].steps[number] for c in chosen]
            groups = [s.groups for s in these]
            table = [sum(groups[:j]) for j in range(len(these))]
            offsets = [copies[c][0] for c in chosen]
            packed = [
                w for s in these for w in (*s.words, *[0] * (room - len(s.words)))
            ]
            tail = [*table, *start[:-1], *offsets]
            packed += tail + [0] * (-len(tail) % room)
            steps.append(
                Step(
                    text(some, reads, writes),
                    these[0].entry,
                    _kinds(some, reads, writes),
                    _operands(some, operands, reads, writes),
                    tuple(packed),
                    sum(groups),
                    sum(s.work for s in these),
                )
            )
    return Plan(tuple(steps), temporary)


def _bound(program: Program) -> tuple[list[int], list[int]]:
    """The outputs and the inputs that have a binding."""
    every, k = bound(program), program.copies
    return [i for i in every if i < k], [i for i in every if i >= k]


def _kinds(program: Program, reads: bool, writes: bool) -> tuple[str, ...]:
    outs, ins = _bound(program)
    written = 1 if writes else len(outs)
    read = 1 if reads else len(ins)
    return ("uniform", *["write"] * written, *["read"] * read)


def _operands(program, operands: list[int], reads: bool, writes: bool):
    outs, ins = _bound(program)
    written = [-1] if writes else [operands[i] for i in outs]
    read = [-1] if reads else [operands[i] for i in ins]
    return (*written, *read)


def header(
    program: Program, room: int, produced: int, reads: bool, writes: bool
) -> str:
    """Bindings and accessors, as those of one reduction are named (lower.header).
    `produced`: the place of a producer's words."""
    k = program.copies
    tail = 3 * k + -3 * k % room
    words = k * room + tail
    count = words_declared(words + 3)
    lines = ["enable f16;\n"] if float16 in (*program.outputs, *program.inputs) else []
    lines += [
        f"@group(0) @binding(0) var<uniform> words: array<vec4<u32>, {count}>;",
        "fn W(i: u32) -> u32 { return words[i >> 2u][i & 3u]; }",
        "// The copy that a group is at work on.",
        "var<private> copy: u32;",
        f"fn P(i: u32) -> u32 {{ return W(copy * {room}u + i); }}",
        f"fn zero() -> u32 {{ return W({words + 1}u); }}",
        f"fn of_copy(which: u32) -> u32 {{ return W({k * room}u + which * {k}u + copy); }}",
        "fn group_number(group: vec3<u32>, groups: vec3<u32>) -> u32 {",
        f"    let number = W({words + 2}u) + group.x + group.y * groups.x;",
        "    copy = 0u;",
        f"    while (copy + 1u < {k}u && number >= W({k * room + 1}u + copy)) {{ copy++; }}",
        f"    return number - of_copy({FIRST_GROUP}u);",
        "}",
        f"fn partial_at(i: u32) -> u32 {{ return i + of_copy({PARTIAL}u); }}",
    ]
    every, names = bound(program), _names(program)
    operands = (*program.outputs, *program.inputs)
    numbers, at = range(k, k + len(program.inputs)), 1
    for name, mine, is_output, partial in (
        ("y0", range(k), True, writes),
        ("x0", numbers, False, reads),
    ):
        if partial:
            access = "read_write" if is_output else "read"
            lines.append(
                f"@group(0) @binding({at}) var<storage, {access}> partial: "
                "array<Accumulated>;"
            )
            at += 1
            continue
        for i in mine:
            if i in every:
                lines.append(binding(at, names[i], operands[i], is_output))
                at += 1
            else:
                owner = names[program.buffers.index(program.buffers[i])]
                lines += accessors(names[i], operands[i], is_output, owner)
        dtype = program.outputs[0]
        if not is_output:
            dtype = _reduced(program.one_copy)
            lines += _producers(program, produced)
        lines += _switch(name, [dtype] * k, is_output)
    return "\n".join(lines) + "\n"


def _names(program: Program) -> list[str]:
    """What the operands are called: y0_1 is what copy 1 writes, x0_1 what it reduces, m0_1
    and m1_1 what it makes that of."""
    names = [f"y0_{c}" for c in range(program.copies)]
    for c, one in enumerate(program.members):
        letter = "m" if one.has_producer else "x"
        names += [f"{letter}{j}_{c}" for j in range(len(one.inputs))]
    return names


def _reduced(one: Program) -> Dtype:
    """What a reduction reduces."""
    return (one.without_producer if one.has_producer else one).inputs[0]


def _producers(program: Program, first: int) -> list[str]:
    """The load of what a copy reduces, where it makes that."""
    return [
        producer(one.producer, first, f"load_x0_{c}", f"load_m{{}}_{c}")
        for c, one in enumerate(program.members)
        if one.has_producer
    ]


def _switch(name: str, dtypes: Sequence[Dtype], is_output: bool) -> list[str]:
    """The load of an input, or the store of an output, of the copy at work."""
    t = COMPUTED_AS[dtypes[0].compute]
    call = f"store_{name}_{{}}(at, v);" if is_output else f"v = load_{name}_{{}}(i);"
    cases = [f"        case {c}u: {{ {call.format(c)} }}" for c in range(len(dtypes))]
    cases += ["        default: {}"]
    if is_output:
        start = [
            f"fn store_{name}(i: u32, v: {t}) {{",
            f"    let at = i + of_copy({OUTPUT}u);",
        ]
        return [*start, "    switch copy {", *cases, "    }", "}"]
    start = [f"fn load_{name}(i: u32) -> {t} {{", f"    var v: {t};"]
    return [*start, "    switch copy {", *cases, "    }", "    return v;", "}"]
