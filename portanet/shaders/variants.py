"""Which variant of a kernel a launch takes, its grid, and the words it reads.

A plan is mostly one or two steps. It depends on the program, its words, and whether the
adapter is software: there a sum of 1024 rows of 1024 with barriers takes 40 ms, without
them 1.2 ms (lavapipe, Mesa 25.0.7, two cores), so variants without them are taken.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from string import Template

from ..dtypes import Dtype, bool_, float32, int32
from ..program import Program, combined_in
from ..scalars import Expression
from . import attention, beside, indexing, recurrent
from .lower import (
    COMPUTED_AS,
    HERE,
    PREFIX,
    bound,
    cast,
    elementwise,
    elementwise_words,
    epilogue,
    has_rows,
    header,
    kernel_text,
    kinds,
    primitive,
    producer,
    rows,
    with_scalars,
)
from .step import Plan, Step
from .step import groups_of as _groups
from .step import one_step as _one


MAX_BUFFERS = 8  # storage buffers of one launch that every WebGPU device has


def plan(
    program: Program,
    words: Sequence[int],
    buffers: int = MAX_BUFFERS,
    on_cpu: bool = False,
) -> Plan:
    """What a launch of these words does; no steps where there is nothing to write.

    `buffers` is how many storage buffers a launch may bind; `on_cpu` says that the
    adapter is software.
    """
    is_wide = len(kinds(program)) - 1 > buffers and len(program.outputs) > 1
    if is_wide and program.kernel == "elementwise":
        return _one_output_each(program, tuple(words))
    return PLANS.get(program.kernel, _simple)(program, tuple(words), on_cpu)


def texts(program: Program) -> list[str]:
    """Every text that a launch of the program may use."""
    if program.kernel not in TEXTS:
        return [_simple_text(program)]
    return TEXTS[program.kernel](program)


@functools.cache
def has(kernel: str) -> bool:
    """Whether a kernel of this stem exists: its file does."""
    return kernel != "scalar" and (HERE / f"{kernel}.wgsl").is_file()


# ------------------------------------------- a kernel without a plan of its own


@functools.lru_cache(1024)
def _simple_text(program: Program) -> str:
    text = kernel_text(program.kernel)
    return with_scalars(header(program, REDUCE_WORDS) + "\n" + text)


def _simple(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    """As many threads as the first word says, in groups of 256."""
    n = words[0]
    if n == 0:
        return Plan(())
    # What a thread does is not known: a thousand operations are a guess on the safe side.
    text = _simple_text(program)
    return _one(
        program, text, program.kernel, _padded(words), _groups(n, 256), 1000.0 * n
    )


# ---------------------------------------------------------------- elementwise

# Groups of an elementwise launch. A GPU is full with 2^22 threads. On a CPU few groups
# are faster: 2^20 additions take 21 ms in 4096, 3 to 6 ms in 16 to 64 (lavapipe 25).
GPU_GROUPS = 16384
CPU_GROUPS = 32


@functools.lru_cache(4096)
def _elementwise_text(program: Program) -> str:
    return with_scalars(rows(program) if has_rows(program) else elementwise(program))


def _elementwise(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    n = words[0]
    if n == 0:
        return Plan(())
    assert program.expression is not None
    cost = 4 + 4 * len(program.expression.instructions) + 8 * program.rank
    text = _elementwise_text(program)
    if has_rows(program):
        return _rows(program, text, words, n * cost, on_cpu)
    groups = min(_groups(n, 256), CPU_GROUPS if on_cpu else GPU_GROUPS)
    return _one(program, text, "elementwise", words, groups, n * cost)


# From this length on a row is worth a group of 64 threads, half of whom have work then.
GROUP_ROW = 32


def _rows(program: Program, text: str, words: tuple, work: float, on_cpu: bool) -> Plan:
    """One thread or one group a row; several loops, so twice the work is a guess."""
    count = words[0] // words[-1]
    by_thread = on_cpu or words[-1] < GROUP_ROW
    groups = _groups(count, 64) if by_thread else count
    groups = min(groups, GPU_GROUPS)
    entry = "threads" if by_thread else "groups"
    return _one(program, text, entry, words, groups, 2 * work)


def _one_output_each(program: Program, words: tuple) -> Plan:
    """An elementwise program of many operands as one launch for each of its outputs."""
    steps: list[Step] = []
    for j in range(len(program.outputs)):
        part, part_words, operands = _part(program, words, j)
        for step in PLANS[part.kernel](part, part_words).steps:
            steps.append(replace(step, operands=operands))
    return Plan(tuple(steps))


def _part(program: Program, words: tuple, output: int) -> tuple[Program, tuple, tuple]:
    """The program of one output: it, its words, the operands that it binds."""
    whole = program.expression
    assert whole is not None
    k, needed = len(whole.inputs), {whole.outputs[output]}
    for j in range(len(whole.instructions) - 1, -1, -1):
        if k + j in needed:
            needed.update(whole.instructions[j].operands)
    kept = [j for j in range(k) if j in needed]
    # Inputs that nobody reads are dropped, so values are numbered again.
    number = {old: new for new, old in enumerate(kept)}
    instructions = []
    for j, i in enumerate(whole.instructions):
        if k + j in needed:
            number[k + j] = len(kept) + len(instructions)
            operands = tuple(number[o] for o in i.operands)
            instructions.append(replace(i, operands=operands))
    expression = Expression(
        tuple(whole.inputs[j] for j in kept),
        tuple(instructions),
        (number[whole.outputs[output]],),
    )
    bound = (output, *(len(program.outputs) + j for j in kept))
    modes = "".join(program.modes[b] for b in bound)
    part = replace(
        program,
        outputs=(program.outputs[output],),
        inputs=tuple(program.inputs[j] for j in kept),
        expression=expression,
        modes=modes,
        buffers=(),
    )
    part_words = _part_words(program, words, bound)
    part_words += words[-1:] if has_rows(part) else ()
    return part, part_words, bound


def _part_words(program: Program, words: tuple, bound: tuple[int, ...]) -> tuple:
    """n, offsets, shape and strides of the operands that a part binds."""
    modes, rank = program.modes, program.rank
    shape = 1 + len(modes)
    result = (words[0], *(words[1 + b] for b in bound), *words[shape : shape + rank])
    for b in bound:
        if modes[b] == "v":
            at = shape + rank * (1 + modes[:b].count("v"))
            result += words[at : at + rank]
    return result


# --------------------------------------------------------------------- reduce

_LOWEST = {"f": "-f_inf()", "i": "i32(-2147483648)", "u": "0u"}
_HIGHEST = {"f": "f_inf()", "i": "i32(2147483647)", "u": "4294967295u"}

# The first of equals, NaN before all: whether a is to be taken before b.
_BEATS = """\
struct Accumulated { value: T, at: u32 }
fn is_nan(x: T) -> bool { return $is_nan; }
fn combine(a: Accumulated, b: Accumulated) -> Accumulated {
    let a_nan = is_nan(a.value);
    let b_nan = is_nan(b.value);
    var b_wins = b.value $better a.value || (b.value == a.value && b.at < a.at);
    if (a_nan || b_nan) { b_wins = b_nan && (!a_nan || b.at < a.at); }
    if (b_wins) { return b; }
    return a;
}
"""


def _monoid(which: str, computed: Dtype) -> tuple[str, str, str]:
    """(definitions, initial value, value lifted from `v` at `r`) of a reduction."""
    p = PREFIX[computed]
    if which in ("argmax", "argmin"):
        fill = {
            "is_nan": "f_isnan(x)" if p == "f" else "false",
            "better": ">" if which == "argmax" else "<",
        }
        worst = (_LOWEST if which == "argmax" else _HIGHEST)[p]
        text = Template(_BEATS).substitute(fill)
        return text, f"Accumulated({worst}, 4294967295u)", "Accumulated(v, r)"
    start, formula = {
        "sum": ("T()", "a + b"),
        "mean": ("T()", "a + b"),
        "prod": ("T(1)", "a * b"),
        "any": ("0u", "a | b"),
        "all": ("1u", "a & b"),
        "max": (_LOWEST[p], primitive("maximum", computed, ("a", "b"))),
        "min": (_HIGHEST[p], primitive("minimum", computed, ("a", "b"))),
    }[which]
    combine = f"fn combine(a: T, b: T) -> T {{ return {formula}; }}\n"
    return f"alias Accumulated = T;\n{combine}", start, "v"


def _accumulator(program: Program, which: str) -> Dtype:
    """The compute type that a reduction or scan combines in."""
    source, target = program.inputs[0].compute, program.outputs[0].compute
    return combined_in(which, source, target)


# Room for the words of any rank: the text doesn't depend on it. With what launch_words
# adds, two slots of 256 bytes.
REDUCE_WORDS = 125


@functools.lru_cache(1024)
def _reduce_text(program: Program, reads_partial: bool, writes_partial: bool) -> str:
    """A pass of a reduction, from x or partial results, to y or partial ones. With an
    expression it has a producer, which makes x, or an epilogue, whose first input is x."""
    which, maker = program.options[0], ""
    plain = _plain_reduction(program)
    computed = _accumulator(plain, which)
    is_bool = computed is bool_
    stored = "u32" if is_bool else COMPUTED_AS[computed]
    definitions, start, lifted = _monoid(which, int32 if is_bool else computed)
    source, target = plain.inputs[0].compute, plain.outputs[0].compute
    value = cast("load_x0(at)", source, computed)
    if program.has_producer:
        value = cast("made(at)", source, computed)
        maker = producer(program.producer, REDUCE_WORDS)
    value = f"u32({value})" if is_bool else value
    fetched = "partial[at]" if reads_partial else lifted
    first = "" if reads_partial else f"let v = {value}; "
    result = {
        "mean": "a / f32(P(2u))",
        "argmax": "i32(a.at)",
        "argmin": "i32(a.at)",
        "any": "a != 0u",
        "all": "a != 0u",
    }.get(which) or cast("a", computed, target)
    if which in ("any", "all"):
        result = cast(f"({result})", bool_, target)
    joined = program.copies > 0
    if joined:
        fetched = fetched.replace("[at]", "[partial_at(at)]")
    place = "partial_at(i)" if joined else "i"
    stores = f"partial[{place}] = a;" if writes_partial else f"store_y0(i, {result});"
    if program.has_epilogue:
        ending = replace(program, kernel="elementwise", options=())
        stores = f"\n{epilogue(ending, REDUCED_WORDS, 'a', 1)}\n"
    monoid = (
        f"alias T = {stored};\n{definitions}{maker}"
        f"fn initial() -> Accumulated {{ return {start}; }}\n"
        f"fn fetch(at: u32, r: u32) -> Accumulated {{ {first}return {fetched}; }}\n"
        f"fn emit(i: u32, a: Accumulated) {{ {stores} }}\n"
    )
    partial = "x0" if reads_partial else "y0" if writes_partial else ""
    text = Template(kernel_text("reduce")).substitute(monoid=monoid)
    if joined:
        room = _reduce_room(program)
        top = beside.header(program, room, REDUCE_WORDS, reads_partial, writes_partial)
    else:
        top = header(program, _reduce_room(program), partial)
    return with_scalars(top + "\n" + text)


def _plain_reduction(program: Program) -> Program:
    """The reduction without what happens before and after."""
    if program.each:
        return _plain_reduction(program.each[0])
    if program.has_producer:
        return program.without_producer
    made, own = program.outputs, program.inputs[:1]
    if program.has_epilogue:
        made = own
    return Program("reduce", made, own, program.options, label=program.label)


def _reduce_room(program: Program) -> int:
    """Words that a step of a reduction has: those of a producer lie behind."""
    if program.each:
        return max(map(_reduce_room, program.each))
    if not program.has_producer:
        return REDUCE_WORDS
    return REDUCE_WORDS + elementwise_words(program.producer)


def _reduce_texts(program: Program) -> list[str]:
    second = _plain_reduction(program) if program.has_producer else program
    firsts = [_reduce_text(program, False, partial) for partial in (False, True)]
    return [*firsts, _reduce_text(second, True, False)]


def _padded(words: tuple) -> tuple:
    """The words of a launch, in the room that its text has for them."""
    assert len(words) <= REDUCE_WORDS, "more than 28 dimensions"
    return words + (0,) * (REDUCE_WORDS - len(words))


def _chunk(kept: int, reduced: int, by_rows: bool, is_made: bool) -> int:
    """How many elements a chunk has; `reduced` if it is not worth a second pass. Elements
    that are made keep a thread busy for longer, so more threads have fewer."""
    if by_rows:
        few = kept < 128 and reduced >= 16384
        return max(4096, _groups(reduced, 256)) if few else reduced
    few = kept < 16384 and reduced >= 1024 or reduced > 8192
    least = 64 if is_made else 256
    return max(least, _groups(reduced, 1024)) if few else reduced


def _reduce_step(program, words, chunks, chunk, total, by_rows, text, operands) -> Step:
    kept, reduced, cost = words[0], words[1], 8
    outputs, after = kept * chunks, ()
    if program.has_producer:
        own = 5 + 2 * (words[2] + words[3])
        words, after = words[:own], words[own:]
        made = program.producer
        cost += 4 * len(made.expression.instructions) + 8 * made.rank
    return Step(
        text,
        "rows" if by_rows else "lanes",
        kinds(program),
        operands,
        _padded((chunks, chunk, total, *words)) + after,
        outputs if by_rows else _groups(outputs, 256),
        cost * (kept * reduced + 256 * outputs if by_rows else kept * (reduced + 1)),
    )


def _reduce(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    if program.copies:
        one = functools.partial(_reduce, on_cpu=on_cpu)
        return beside.plan(program, words, one, _reduce_text, _reduce_room)
    kept, reduced, kept_rank, reduced_rank = words[:4]
    if kept == 0:
        return Plan(())
    strides = words[5 + 2 * kept_rank + reduced_rank :][:reduced_rank]
    is_along = bool(strides) and abs(_signed(strides[-1])) <= 1
    by_rows = not on_cpu and reduced >= 64 and (is_along or kept < 256)
    chunk = _chunk(kept, reduced, by_rows, program.has_producer)
    if chunk >= reduced:
        text = _reduce_text(program, False, False)
        step = _reduce_step(
            program, words, 1, max(reduced, 1), reduced, by_rows, text, bound(program)
        )
        return Plan((step,))
    chunks = _groups(reduced, chunk)
    text = _reduce_text(program, False, True)
    operands = tuple(i or -1 for i in bound(program))
    first = _reduce_step(
        program, words, chunks, chunk, reduced, by_rows, text, operands
    )
    plain = _plain_reduction(program)
    second = _combine_step(plain, kept, chunks, reduced, on_cpu)
    size = 8 if program.options[0].startswith("arg") else 4
    return Plan((first, second), kept * chunks * size)


def _combine_step(
    program: Program,
    kept: int,
    chunks: int,
    total: int,
    on_cpu: bool,
    operands: tuple[int, ...] = (0, -1),
    after: tuple[int, ...] = (),
) -> Step:
    """The second pass: y[k] = which over c of partial[c, k]; `after`: the words of an
    epilogue."""
    words = (kept, chunks, 1, 1, 0, kept, 1, chunks, kept)
    assert 3 + len(words) == REDUCED_WORDS
    text = _reduce_text(program, True, False)
    by_rows = not on_cpu and chunks >= 64 and kept < 256
    words += after
    return _reduce_step(program, words, 1, chunks, total, by_rows, text, operands)


REDUCED_WORDS = 12  # of the second pass, without those of an epilogue


def _signed(word: int) -> int:
    """A word that may be written as its two's complement in 32 bits."""
    return word - (1 << 32) if word >= 1 << 31 else word


# --------------------------------------------------------------------- matmul


# The place of an epilogue's words, behind those of a product of batch_rank 8.
PRODUCT_WORDS = 13 + 3 * 8


@functools.lru_cache(256)
def _matmul_text(program: Program, writes_partial: bool, in_rows: bool = False) -> str:
    """in_rows: the dimensions of the epilogue are the rows and columns of the product."""
    plain = program.without_epilogue
    target = plain.outputs[0].compute
    computed = float32 if target is bool_ else target
    stores = f"    store_y0(i, {cast('v', computed, target)});"
    if writes_partial:
        program, stores = plain, "    partial[i] = v;"
    elif program.has_epilogue:
        stores = epilogue(program.epilogue, PRODUCT_WORDS, "v", 2, in_rows)
    emit = (
        f"alias T = {COMPUTED_AS[computed]};\nalias Accumulated = T;\n"
        f"fn emit(i: u32, row: u32, column: u32, v: T) {{\n{stores}\n}}\n"
    )
    text = Template(kernel_text("matmul")).substitute(emit=emit)
    partial = "y0" if writes_partial else ""
    return with_scalars(header(program, REDUCE_WORDS, partial) + "\n" + text)


def _is_in_rows(program: Program, words: tuple, n: int) -> bool:
    """Whether the two dimensions that an epilogue goes over are rows of n and columns."""
    return program.rank == 2 and words[2 + len(program.modes)] == n


def _sum_of(program: Program) -> Program:
    """The reduction that adds the partial results of a product, with its epilogue."""
    made = program.without_epilogue.outputs
    if not program.has_epilogue:
        return Program("reduce", made, made, ("sum",), label=program.label)
    inputs = program.epilogue.inputs
    return replace(program, kernel="reduce", inputs=inputs, options=("sum",))


def _split(
    program: Program,
    first: Step,
    outputs: int,
    splits: int,
    total: int,
    on_cpu: bool,
    after: tuple,
) -> Plan:
    """A product whose sums are cut: partial results, then their sums and the epilogue.
    first: its step for all operands; after: the words of the epilogue."""
    made = len(program.outputs)
    first = replace(
        first,
        kinds=kinds(program.without_epilogue),
        operands=(-1, made, made + 1),
    )
    extra = range(made + 2, made + len(program.inputs))
    operands = (*range(made), -1, *extra)
    second = _combine_step(
        _sum_of(program), outputs, splits, total, on_cpu, operands, after
    )
    return Plan((first, second), 4 * outputs * splits)


def _matmul_texts(program: Program) -> list[str]:
    in_rows = [False, True] if program.has_epilogue and program.rank == 2 else [False]
    return [
        *(_matmul_text(program, False, rows) for rows in in_rows),
        _matmul_text(program, True),
        _reduce_text(_sum_of(program), True, False),
    ]


TILE = 64


def _matmul(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    batch, m, n, k = words[:4]
    outputs = batch * m * n
    if outputs == 0:
        return Plan(())
    own = 11 + 3 * words[4]
    words, after = words[:own], words[own:]
    work = 2.0 * outputs * max(k, 1)
    if program.expression is not None:
        work += 4.0 * outputs * len(program.expression.instructions)
    operands = program.epilogue if program.has_epilogue else program
    text = _matmul_text(program, False, _is_in_rows(operands, after, n))
    space = (0,) * (PRODUCT_WORDS - 2 - own if after else 0)
    whole = _padded((1, max(k, 1), *words, *space, *after))
    if min(m, n) < (4 if on_cpu else 16) or k < 8:
        if outputs <= 4096 and k >= 256 and not on_cpu:
            return _one(program, text, "dot_product", whole, outputs, 4 * work)
        return _one(program, text, "each", whole, _groups(outputs, 64), 4 * work)
    entry = "block" if on_cpu else "tile"
    tiles = batch * _groups(m, TILE) * _groups(n, TILE)
    splits = min(_groups(64, tiles), k // 256) if tiles < 32 else 1
    if splits < 2:
        return _one(program, text, entry, whole, tiles, work)
    # Few tiles and a long sum, as for the gradient of weights: cut the sum.
    chunk = 16 * _groups(k, 16 * splits)
    splits = _groups(k, chunk)
    text = _matmul_text(program, True)
    cut = _padded((splits, chunk, *words))
    first = Step(text, entry, (), (), cut, tiles * splits, work)
    return _split(program, first, outputs, splits, k, on_cpu, after)


# ------------------------------------------------------------------- convolve

# What each option reads as a, reads as b, and where it writes; see convolve.wgsl.
_CONVOLVE = {
    "forward": """\
fn a_at(group: u32, i: u32, l: u32) -> T {
    return T(load_x1(P(28u) + (group * P(8u) + i) * P(4u) + l));
}
fn b_at(group: u32, l: u32, j: u32) -> T {
    let taps = count(three(15u));
    let results = count(three(12u));
    let plane = (j / results * P(6u) + group) * P(7u) + l / taps;
    return x_at(plane, j % results, l % taps);
}
fn r_at(group: u32, i: u32, j: u32) -> u32 {
    let results = count(three(12u));
    return ((j / results * P(6u) + group) * P(8u) + i) * results + j % results;
}
""",
    "input": """\
fn a_at(group: u32, i: u32, l: u32) -> T {
    let taps = count(three(15u));
    let row = (group * P(8u) + l / taps) * P(7u) + i;
    return T(load_x1(P(28u) + row * taps + l % taps));
}
fn b_at(group: u32, l: u32, j: u32) -> T {
    let taps = count(three(15u));
    let sizes = three(12u);
    let elements = count(three(9u));
    let tap = place(l % taps, three(15u)) * three(24u);
    let at = place(j % elements, three(9u)) + three(21u) - tap;
    let p = at / three(18u);
    if (any(p * three(18u) != at) || any(p >= sizes)) { return T(); }
    let plane = (j / elements * P(6u) + group) * P(8u) + l / taps;
    return T(load_x0(P(29u) + plane * count(sizes) + number(p, sizes)));
}
fn r_at(group: u32, i: u32, j: u32) -> u32 {
    let elements = count(three(9u));
    return ((j / elements * P(6u) + group) * P(7u) + i) * elements + j % elements;
}
""",
    "weight": """\
fn a_at(group: u32, i: u32, l: u32) -> T {
    let results = count(three(12u));
    let plane = (l / results * P(6u) + group) * P(8u) + i;
    return T(load_x1(P(29u) + plane * results + l % results));
}
fn b_at(group: u32, l: u32, j: u32) -> T {
    let taps = count(three(15u));
    let results = count(three(12u));
    let plane = (l / results * P(6u) + group) * P(7u) + j / taps;
    return x_at(plane, l % results, j % taps);
}
fn r_at(group: u32, i: u32, j: u32) -> u32 {
    return (group * P(8u) + i) * P(3u) + j;
}
""",
}


@functools.lru_cache(64)
def _convolve_text(program: Program, writes_partial: bool) -> str:
    stores = "    store_y0(i, v);"
    if writes_partial:
        program, stores = program.without_epilogue, "    partial[i] = v;"
    elif program.has_epilogue:
        stores = epilogue(program.epilogue, CONVOLVE_WORDS, "v", 2)
    option = (
        "alias T = f32;\nalias Accumulated = T;\n"
        f"fn emit(i: u32, v: T) {{\n{stores}\n}}\n{_CONVOLVE[program.options[0]]}"
    )
    text = Template(kernel_text("convolve")).substitute(option=option)
    partial = "y0" if writes_partial else ""
    return with_scalars(header(program, REDUCE_WORDS, partial) + "\n" + text)


CONVOLVE_WORDS = 30  # without those of an epilogue


def _convolve_texts(program: Program) -> list[str]:
    return [
        _convolve_text(program, False),
        _convolve_text(program, True),
        _reduce_text(_sum_of(program), True, False),
    ]


def _convolve(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    batch, groups, channels, rows = words[:4]
    x, y, taps = (prod(words[i : i + 3]) for i in (4, 7, 10))
    m, n, k = {
        "forward": (rows, batch * y, channels * taps),
        "input": (channels, batch * x, rows * taps),
        "weight": (rows, channels * taps, batch * y),
    }[program.options[0]]
    outputs = groups * m * n
    if outputs == 0:
        return Plan(())
    entry, side, each = "each", 1, 64
    if m >= 4:
        entry, side = "block", 4
    if m >= 24 and n >= 32 and k >= 8 and not on_cpu:
        entry, side, each = "tile", 64, 1
    pieces = groups * _groups(m, side) * _groups(n, side)
    # Few pieces and a long sum, as for the gradient of weights: cut the sum.
    wanted = 32 if entry == "tile" else 4096
    splits = max(
        1, min(_groups(2 * wanted, pieces), k // 256) if pieces < wanted else 1
    )
    chunk = 16 * _groups(k, 16 * splits)
    splits = _groups(k, chunk)
    launched = _padded((splits, chunk, m, n, k, *words))
    count, work = _groups(pieces * splits, each), 8.0 * outputs * k
    if program.expression is not None:
        work += 4.0 * outputs * len(program.expression.instructions)
    if splits == 1:
        text = _convolve_text(program, False)
        return _one(program, text, entry, launched, count, work)
    text = _convolve_text(program, True)
    cut = launched[:CONVOLVE_WORDS]
    first = Step(text, entry, (), (), _padded(cut), count, work)
    after = words[CONVOLVE_WORDS - 5 :]
    return _split(program, first, outputs, splits, k, on_cpu, after)


# ----------------------------------------------------------------------- pool


@functools.lru_cache(16)
def _pool_text(program: Program) -> str:
    computed = program.inputs[0].compute
    nan = "f_isnan(v)" if PREFIX[computed] == "f" else "false"
    option = (
        f"alias T = {COMPUTED_AS[computed]};\n"
        f"fn is_nan(v: T) -> bool {{ return {nan}; }}\n"
    )
    text = Template(kernel_text("pool")).substitute(option=option)
    return with_scalars(header(program, 20) + "\n" + text)


def _pool(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    n = words[0] * prod(words[4:7])
    if n == 0:
        return Plan(())
    taps = prod(k or x // y + 1 for x, y, k in zip(words[1:], words[4:], words[7:10]))
    text = _pool_text(program)
    return _one(program, text, "pool", words, _groups(n, 64), 20 * n * taps)


# ----------------------------------------------------------------------- scan


_SUM_SCAN = """\
alias T = $type;
fn initial() -> T { return $start; }
fn combine(a: T, b: T) -> T { return $formula; }
fn fetch(at: u32, j: u32) -> T { return $value; }
fn out_of(v: T) -> T { return v; }
"""
# A key that grows toward the extreme, NaN's above all, and the place of its last.
_EXTREME_SCAN = """\
alias T = vec2<u32>;
fn initial() -> T { return T(0u, 0u); }
fn combine(a: T, b: T) -> T {
    if (b.x >= a.x) { return b; }
    return a;
}
fn fetch(at: u32, j: u32) -> T {
    let v = load_x0(at);
    return T(select($key, 0xffffffffu, $nan), j);
}
fn out_of(v: T) -> i32 { return i32(v.y); }
"""


@functools.lru_cache(64)
def _scan_text(program: Program) -> str:
    which, mode = program.options
    monoid = _EXTREME_SCAN if which in ("argmax", "argmin") else _SUM_SCAN
    source, computed = program.inputs[0].compute, program.outputs[0].compute
    p, is_least = PREFIX[source], which == "argmin"
    start, formula = {
        "prod": ("T(1)", "a * b"),
        "logsumexp": ("-f_inf()", "f_logaddexp(a, b)"),
    }.get(which, ("T()", "a + b"))
    monoid = Template(monoid).substitute(
        type=COMPUTED_AS[computed],
        start=start,
        formula=formula,
        value=cast("load_x0(at)", source, computed),
        key=f"{'~' if is_least else ''}{p}_order(v)",
        nan="f_isnan(v)" if p == "f" else "false",
    )
    exclusive = "true" if mode == "exclusive" else "false"
    text = Template(kernel_text("scan"))
    text = text.substitute(monoid=monoid, exclusive=exclusive)
    return with_scalars(header(program, 7) + "\n" + text)


def _scan(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    outer, n, inner = words[:3]
    rows = outer * inner
    if rows * n == 0:
        return Plan(())
    text = _scan_text(program)
    if on_cpu or n <= 64 or rows >= 4096:
        return _one(program, text, "lanes", words, _groups(rows, 64), 8 * rows * n)
    work = 32 * rows * 1024 * _groups(n, 1024)
    return _one(program, text, "rows", words, rows, work)


# --------------------------------------------------------------------- random


@functools.lru_cache(4)
def _random_text(program: Program) -> str:
    return with_scalars(header(program, 3) + "\n" + kernel_text("random"))


def _random(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    blocks = words[1]
    groups = max(1, _groups(blocks, 64))
    return _one(program, _random_text(program), "random", words, groups, 200 * blocks)


PLANS = {
    "elementwise": _elementwise,
    "reduce": _reduce,
    "matmul": _matmul,
    "convolve": _convolve,
    "pool": _pool,
    "scan": _scan,
    "random": _random,
    "fold": _simple,
    "resample": _simple,
    "attention": attention.plan,
    **indexing.PLANS,
    **recurrent.PLANS,
}
TEXTS = {
    "elementwise": lambda program: [_elementwise_text(program)],
    "reduce": _reduce_texts,
    "matmul": _matmul_texts,
    "convolve": _convolve_texts,
    "pool": lambda program: [_pool_text(program)],
    "scan": lambda program: [_scan_text(program)],
    "random": lambda program: [_random_text(program)],
    "attention": attention.texts,
    **indexing.TEXTS,
    **recurrent.TEXTS,
}
