"""The plans of attention: one launch forward, four backward, each binding what it reads.

The widths of rows are compiled in, since threads keep rows in registers; the other sizes are
words. WebGPU's default limit is 8 storage buffers a launch, and backward has 11.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from ..dtypes import bool_
from ..program import Program
from .lower import header, kernel_text, kinds, with_scalars
from .step import Plan, Step, groups_of

WORDS = 40
CHUNK = 16  # columns in fours that a thread sums: 64 floats
KEPT = 128  # a row of at most so many floats is kept in registers
STATISTICS = "statistics_of: array<vec2<f32>>"

_NAMES = {
    "forward": (("made", "lse", "state"), ("q", "k", "v")),
    "backward": (("queries", "keys", "values"), ("dy", "y", "lse", "q", "k", "v")),
}
# What each launch makes and reads; mask and state are read where they are there.
_PARTS = {
    "forward": ((), ("q", "k", "v", "mask", "state")),
    "statistics": ((), ("dy", "y", "lse")),
    "queries": (("queries",), ("dy", "q", "k", "v", "mask", "state")),
    "keys": (("keys",), ("dy", "q", "k", "v", "mask", "state")),
    "values": (("values",), ("dy", "q", "k", "mask", "state")),
}
_BY_VALUE = ("forward", "values")  # those that make rows of the width of v
_LOADS = ("dy", "y", "lse", "q", "k", "v", "mask", "state")


def _named(program: Program) -> tuple[list[str], list[str]]:
    """The names of the program's outputs and inputs, in order."""
    outputs, inputs = _NAMES[program.options[0]]
    found = list(inputs)
    rest = program.inputs[len(inputs) :]
    if rest and rest[0].is_integer:
        found += ["state"]
    elif rest:
        found += ["mask", "state"][: len(rest)]
    return list(outputs[: len(program.outputs)]), found


def _part(program: Program, entry: str) -> tuple[Program, list[str], list[str], tuple]:
    """The program of one launch, the names of what it binds, and their numbers."""
    outputs, inputs = _named(program)
    makes, reads = _PARTS[entry]
    made = outputs if entry == "forward" else [n for n in outputs if n in makes]
    read = [n for n in inputs if n in reads]
    part = replace(
        program,
        outputs=tuple(program.outputs[outputs.index(n)] for n in made),
        inputs=tuple(program.inputs[inputs.index(n)] for n in read),
    )
    numbers = [outputs.index(n) for n in made]
    numbers += [] if entry == "forward" else [-1]
    numbers += [len(outputs) + inputs.index(n) for n in read]
    return part, made, read, tuple(numbers)


def _accessors(part: Program, made: list[str], read: list[str]) -> str:
    """load_* and store_* by the names of operands; of those that are not bound, nothing."""
    lines = []
    for name in _LOADS:
        kind = "u32" if name == "state" else "f32"
        value = f"{kind}()"
        if name in read:
            x = f"load_x{read.index(name)}(i)"
            is_bool = part.inputs[read.index(name)] is bool_
            value = f"select(0.0, 1.0, {x})" if is_bool else x
        lines.append(f"fn load_{name}(i: u32) -> {kind} {{ return {value}; }}")
    stores = ["made", *made[1:]] if made else []  # what a launch of backward makes
    for name, kind in (("made", "f32"), ("lse", "f32"), ("state", "u32")):
        body = f"store_y{stores.index(name)}(i, v);" if name in stores else ""
        lines.append(f"fn store_{name}(i: u32, v: {kind}) {{ {body} }}")
    return "\n".join(lines)


def _options(program: Program, entry: str) -> str:
    """masked and factors, and where the words that they read are."""
    first = 28 if entry == "forward" else 32
    names = _named(program)[1]
    has_mask = "mask" in names
    masked, factor = "x", "vec4<f32>(1.0)"
    if has_mask:
        mask = program.inputs[names.index("mask")]
        value = "load_mask(at)"
        masked = f"x + {value}"
        if mask is bool_:
            masked = f"select(LOWEST, x, {value} != 0.0)"
    if "state" in names:
        factor = "drawn(row, c)"
    return (
        f"const STATE_AT = {first + 5 * has_mask}u;\n"
        "fn masked(x: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {\n"
        f"    let at = P({first}u) + b * P({first + 1}u) + h * P({first + 2}u)\n"
        f"        + i * P({first + 3}u) + j * P({first + 4}u);\n"
        f"    let y = {masked};\n"
        "    return select(y, LOWEST, y < LOWEST);\n"
        "}\n"
        f"fn factors(row: u32, c: u32) -> vec4<f32> {{ return {factor}; }}\n"
    )


@functools.lru_cache(256)
def _text(program: Program, entry: str, on_cpu: bool) -> str:
    """The text of one launch."""
    width, values = map(int, program.options[1:])
    part, made, read, _ = _part(program, entry)
    temporary = "" if entry == "forward" else STATISTICS
    get, put = "vec2<f32>()", ""
    if temporary:
        get, put = "statistics_of[row]", "statistics_of[row] = v;"
    own_q, own_v, most = width <= KEPT, values <= KEPT, CHUNK
    if on_cpu:  # one text for all widths: there a text takes a second to compile
        width = values = KEPT
    else:
        most = min(CHUNK, groups_of(values if entry in _BY_VALUE else width, 4))
    constants = (
        f"const WIDTH = {width}u;\nconst VALUES = {values}u;\n"
        f"const CHUNK = {most}u;\n"
        f"const IS_EXACT = {str(not on_cpu).lower()};\n"
        f"const OWN_Q = {str(own_q).lower()};\n"
        f"const OWN_V = {str(own_v).lower()};\n"
        f"fn get_statistics(row: u32) -> vec2<f32> {{ return {get}; }}\n"
        f"fn put_statistics(row: u32, v: vec2<f32>) {{ {put} }}\n"
    )
    text = "\n".join([
        header(part, WORDS, temporary=temporary), constants, _accessors(part, made, read),
        _options(program, entry), kernel_text("attention"),
    ])  # fmt: skip
    return with_scalars(text)


def _entries(program: Program) -> list[str]:
    """The launches in order."""
    first, *others = _PARTS
    return [first] if program.options[0] == first else others


def texts(program: Program) -> list[str]:
    """Every text that a launch may use."""
    return [
        _text(program, e, on_cpu) for e in _entries(program) for on_cpu in (False, True)
    ]


def _step(program: Program, entry: str, words: tuple, on_cpu: bool) -> Step:
    batch, heads, groups, queries, keys, width, values = words[:7]
    part, _, _, numbers = _part(program, entry)
    count, rows, columns = {
        "forward": (heads, queries, values),
        "statistics": (heads, queries, 1),
        "queries": (heads, queries, width),
        "keys": (groups, keys, width),
        "values": (groups, keys, values),
    }[entry]
    fours = groups_of(columns, 4)
    chunks = groups_of(fours, min(CHUNK, fours))
    scores = batch * heads * queries * keys
    work = 4.0 * scores * (2 * width + values) * chunks
    if entry == "statistics":
        work = 4.0 * batch * heads * queries * values
    bound = kinds(part)
    if entry != "forward":
        made = 1 + len(part.outputs)
        bound = (*bound[:made], "write", *bound[made:])
    launched = words + (0,) * (WORDS - len(words))
    text = _text(program, entry, on_cpu)
    size = batch * count * groups_of(rows, 64) * chunks
    return Step(text, entry, bound, numbers, launched, size, work)


def plan(program: Program, words: tuple, on_cpu: bool = False) -> Plan:
    """One launch forward; backward the statistics of rows, then each gradient."""
    batch, heads, _, queries = words[:4]
    steps = [_step(program, e, words, on_cpu) for e in _entries(program)]
    return Plan(tuple(steps), 8 * batch * heads * queries * (len(steps) > 1))
