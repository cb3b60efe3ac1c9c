"""Plans of the kernels that move elements by index, and of those that find the order."""

from __future__ import annotations

import functools
from math import prod
from string import Template

from ..dtypes import Dtype, bool_
from ..program import Program
from .lower import COMPUTED_AS, PREFIX, header, kernel_text, kinds, with_scalars
from .step import Plan, Step, groups_of, one_step

# ----------------------------------------------------------------------- sort

RUN = 32  # neighbours whose order is counted before runs are merged
RECORD = 8  # bytes of a key and a position
SORT_WORDS = 9


def _sort_steps(
    program: Program, text: str, rows: int, n: int, tail: tuple, operands, to_output
) -> list[Step]:
    """Runs, then merges of twice the width each, the last into the result."""
    widths = [RUN]
    while widths[-1] < n:
        widths.append(2 * widths[-1])
    status = ("write",) if program.can_fault else ()
    bound = kinds(program)
    bound = (*bound[:2], "write", *bound[2 : len(bound) - len(status)], *status)
    steps = []
    for i, width in enumerate(widths):
        target = 2 if to_output and i == len(widths) - 1 else i % 2
        # A merge makes runs of `width` from runs half as wide.
        words = (rows, n, width if i == 0 else width // 2, 1 - i % 2, target, *tail)
        entry = "merge" if i else "runs"
        groups, work = groups_of(rows * n, 64), 8.0 * rows * n * (RUN if i == 0 else 20)
        steps.append(Step(text, entry, bound, operands, words, groups, work))
    return steps


@functools.lru_cache(64)
def _sort_text(program: Program) -> str:
    p = PREFIX[program.inputs[0].compute]
    flip = "~" if program.options == ("descending",) else ""
    definitions = (
        "fn key_at(row: u32, j: u32) -> u32 {\n"
        f"    return {flip}{p}_order(load_x0(P(5u) + row * P(6u) + j * P(7u)));\n"
        "}\n"
        "fn put_order(row: u32, place: u32, position: u32) {\n"
        "    if (place < P(8u)) { store_y0(row * P(8u) + place, i32(position)); }\n"
        "}\n"
    )
    text = header(program, SORT_WORDS, temporary="records: array<vec2<u32>>")
    return with_scalars(f"{text}\n{definitions}{kernel_text('sort')}")


def _sort(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    rows, n, kept = words[:3]
    if rows * kept == 0:
        return Plan(())
    text, tail = _sort_text(program), (*words[3:6], kept)
    steps = _sort_steps(program, text, rows, n, tail, (0, -1, 1), True)
    return Plan(tuple(steps), 2 * RECORD * rows * n if n > RUN else RECORD)


@functools.lru_cache(64)
def _search_text(program: Program) -> str:
    is_right = "true" if program.options == ("right",) else "false"
    text = Template(kernel_text("search")).substitute(
        p=PREFIX[program.inputs[0].compute], option=f"const is_right = {is_right};"
    )
    return with_scalars(header(program, 9) + "\n" + text)


def _search(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    n, _, size = words[:3]
    if n == 0:
        return Plan(())
    text, work = _search_text(program), 20.0 * n * size.bit_length() + n
    return one_step(program, text, "search", words, groups_of(n, 64), work)


# ------------------------------------------------------------- gather, scatter


def _index_names(dtype: Dtype) -> dict[str, str]:
    return {"index": COMPUTED_AS[dtype.compute], "p": PREFIX[dtype.compute]}


@functools.lru_cache(64)
def _gather_text(program: Program) -> str:
    names = _index_names(program.inputs[1])
    text = Template(kernel_text("gather")).substitute(names)
    return with_scalars(header(program, 12) + "\n" + text)


def _gather(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    n = prod(words[:3])
    if n == 0:
        return Plan(())
    text = _gather_text(program)
    return one_step(program, text, "gather", words, groups_of(n, 256), 40 * n)


# A record's key is the index of element j, or past all where it is out of range.
_INDEX_KEY = """\
fn key_at(row: u32, j: u32) -> u32 {
    let index = load_x1(P(5u) + row * P(6u) + j * P(7u));
    let a = u32(${p}_wrap_index(index, $index(P(8u))));
    return select(0xffffffffu, a, is_inside(index, P(8u)));
}
fn put_order(row: u32, place: u32, position: u32) {}
"""


@functools.lru_cache(64)
def _scatter_text(program: Program, sorts: bool) -> str:
    names = _index_names(program.inputs[1])
    computed = program.outputs[0].compute
    add = "old | v" if computed is bool_ else "old + v"
    result = add if program.options == ("add",) else "v"
    low = "index >= -i32(n) && " if names["p"] == "i" else ""
    inside = f"{low}index < {names['index']}(n)"
    parts = [
        f"alias T = {COMPUTED_AS[computed]};",
        f"fn update(old: T, v: T) -> T {{ return {result}; }}",
        f"fn is_inside(index: {names['index']}, n: u32) -> bool {{ return {inside}; }}",
    ]
    temporary = ""
    if sorts:
        temporary = "records: array<vec2<u32>>"
        parts += [Template(_INDEX_KEY).substitute(names), kernel_text("sort")]
    else:  # named by an entry that is not taken
        parts.append("var<private> records: array<vec2<u32>, 1>;")
    parts.append(Template(kernel_text("scatter")).substitute(names))
    text = header(program, 12, temporary=temporary)
    return with_scalars("\n".join([text, *parts]))


def _segments(program: Program, words: tuple) -> Plan:
    """The indices of each o (of all, if they share them) sorted, then segments of them."""
    outer, count, inner, size = words[:4]
    at, by_outer, by_count = words[8:11]
    text, lists = _scatter_text(program, True), outer if by_outer else 1
    tail = (at, by_outer, by_count, size, 0, 0, 0)
    operands = (0, -1, 1, 2)
    steps = _sort_steps(program, text, lists, count, tail, operands, False)
    half = (len(steps) - 1) % 2
    found = (half * lists * count, count if by_outer else 0)
    rows, work = outer * inner * size, 10.0 * outer * inner * (size * 20 + count)
    steps.append(
        Step(
            text,
            "segments",
            steps[0].kinds,
            operands,
            (*words[:8], *found, 0, 0),
            groups_of(rows, 64),
            work,
        )
    )
    return Plan(tuple(steps), 2 * RECORD * lists * count)


# A GPU is full with so many threads; lanes that fill it lose nothing by their serial walk.
MANY_LANES = 1 << 15
FEW_LANES = 64  # the same of a CPU that runs WGSL
MANY_READS = 1 << 22  # indices that `rows` may read, where sorting would read fewer


def _scatter(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    outer, count, inner, size = words[:4]
    lanes, rows = outer * inner, outer * inner * size
    if lanes * count == 0:
        return Plan(())
    is_shared = inner == 1 or words[11] == 0
    text = _scatter_text(program, False)
    if lanes >= (FEW_LANES if on_cpu else MANY_LANES) or count <= 16 or size == 1:
        work = 60.0 * lanes * count
        return one_step(program, text, "lanes", words, groups_of(lanes, 64), work)
    if is_shared and rows * count > MANY_READS:
        return _segments(program, words)
    if rows * count <= 1 << 26:
        work = 10.0 * rows * count
        return one_step(program, text, "rows", words, groups_of(rows, 64), work)
    work = 60.0 * lanes * count
    return one_step(program, text, "lanes", words, groups_of(lanes, 64), work)


PLANS = {"sort": _sort, "search": _search, "gather": _gather, "scatter": _scatter}
TEXTS = {
    "sort": lambda program: [_sort_text(program)],
    "search": lambda program: [_search_text(program)],
    "gather": lambda program: [_gather_text(program)],
    "scatter": lambda program: [_scatter_text(program, s) for s in (False, True)],
}
