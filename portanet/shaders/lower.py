"""Program -> WGSL text: bindings, the kernel, and the scalar functions that it uses.

Pure functions of text; no device is needed. A text may have several entry points, the
variants of a kernel; `variants.py` says which a launch takes.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

import numpy as np

from ..dtypes import Dtype, bool_, float16, float32, int32, uint32
from ..program import Program
from ..scalars import Expression, Instruction

HERE = Path(__file__).parent
STORED_AS = {bool_: "u32", int32: "i32", uint32: "u32", float32: "f32", float16: "f16"}
COMPUTED_AS = {bool_: "bool", int32: "i32", uint32: "u32", float32: "f32"}
PREFIX = {bool_: "b", int32: "i", uint32: "u", float32: "f"}


# ---------------------------------------------------------------------- files


@functools.cache
def kernel_text(stem: str) -> str:
    """The file of a kernel."""
    return (HERE / f"{stem}.wgsl").read_text(encoding="utf-8")


@functools.cache
def _scalar_functions() -> dict[str, str]:
    """Name -> text of each declaration of scalar.wgsl, with the comment above it."""
    found: dict[str, str] = {}
    for part in re.split(r"\n\n+", kernel_text("scalar")):
        for name in re.findall(r"^(?:fn|const|var<private>) (\w+)", part, re.MULTILINE):
            found[name] = part.strip() + "\n"
    return found


def with_scalars(text: str) -> str:
    """The text, after the declarations of scalar.wgsl that it and they use."""
    functions = _scalar_functions()
    needed: dict[str, None] = {}
    waiting = [text]
    while waiting:
        for name in re.findall(r"\b[A-Za-z_]\w*\b", _without_comments(waiting.pop())):
            if name in functions and name not in needed:
                needed[name] = None
                waiting.append(functions[name])
    parts = dict.fromkeys(part for name, part in functions.items() if name in needed)
    enable = "enable f16;\n"  # must come first
    first = [enable] if text.startswith(enable) else []
    return "\n".join([*first, *parts, text.removeprefix(enable)])


def _without_comments(text: str) -> str:
    return re.sub(r"//.*", "", text)


# ------------------------------------------------------------------- bindings


def bound(program: Program) -> tuple[int, ...]:
    """The operands that have a binding of their own: of those in one buffer, the first."""
    count = len(program.outputs) + len(program.inputs)
    number = program.buffers or range(count)
    return tuple(i for i in range(count) if number[i] not in number[:i])


def kinds(program: Program) -> tuple[str, ...]:
    """How each binding is bound: the words, outputs, inputs, and the status if any."""
    operands, made = bound(program), len(program.outputs)
    outputs = ("write",) * sum(i < made for i in operands)
    inputs = ("read",) * sum(i >= made for i in operands)
    status = ("write",) if program.can_fault else ()
    return ("uniform", *outputs, *inputs, *status)


def words_declared(count: int) -> int:
    """vec4s of the uniform array for so many words: whole slots of 256 bytes."""
    return 16 * -(-count // 64)


def launch_words(words: Sequence[int], label: int, first: int) -> tuple[int, ...]:
    """The words of a launch: the kernel's, the number of the label that a fault names, 0
    that no compiler knows, the number of the first group."""
    return (*words, label, 0, first)


STATUS = """\
@group(0) @binding($binding) var<storage, read_write> status: array<atomic<u32>, 4>;

// Keeps the first fault: code and label, value, size, whether they are unsigned.
fn fault(code: u32, value: u32, size: u32, unsigned: u32) {
    let word = code | (P($label) << 4u);
    loop {
        let seen = atomicCompareExchangeWeak(&status[0], 0u, word);
        if (seen.exchanged) { break; }
        if (seen.old_value != 0u) { return; }
    }
    atomicStore(&status[1], value);
    atomicStore(&status[2], size);
    atomicStore(&status[3], unsigned);
}
"""


def header(program: Program, words: int, partial: str = "", temporary: str = "") -> str:
    """Bindings, and a load and a store for each operand. `words` is their number.

    The operand named `partial` is a temporary array of partial results instead. A
    `temporary`, its name and type, is bound after the outputs.
    """
    uses_f16 = float16 in (*program.outputs, *program.inputs)
    count = words_declared(words + 3)
    lines = ["enable f16;\n"] if uses_f16 else []
    lines += [
        f"@group(0) @binding(0) var<uniform> words: array<vec4<u32>, {count}>;",
        "fn P(i: u32) -> u32 { return words[i >> 2u][i & 3u]; }",
        # See launch_words for what follows the kernel's words.
        f"fn zero() -> u32 {{ return P({words + 1}u); }}",
        # The number of a group: a grid has at most 65,535 groups a dimension, and a long
        # launch is cut into several.
        "fn group_number(group: vec3<u32>, groups: vec3<u32>) -> u32 {",
        f"    return P({words + 2}u) + group.x + group.y * groups.x;",
        "}",
    ]
    names = [f"y{j}" for j in range(len(program.outputs))]
    names += [f"x{j}" for j in range(len(program.inputs))]
    outputs, extra = len(program.outputs), bool(temporary)
    operands = bound(program)
    if temporary:
        at = sum(i < outputs for i in operands) + 1
        lines.append(f"@group(0) @binding({at}) var<storage, read_write> {temporary};")
    for i, (name, dtype) in enumerate(zip(names, program.outputs + program.inputs)):
        is_output = i < outputs
        if i not in operands:
            first = names[program.buffers.index(program.buffers[i])]
            lines += accessors(name, dtype, is_output, first)
            continue
        b = operands.index(i) + (0 if is_output else extra)
        if name == partial:
            access = "read_write" if is_output else "read"
            lines.append(
                f"@group(0) @binding({b + 1}) var<storage, {access}> partial: "
                "array<Accumulated>;"
            )
        else:
            lines.append(binding(b + 1, name, dtype, is_output))
    if program.can_fault:
        fill = {"binding": len(operands) + extra + 1, "label": f"{words}u"}
        lines.append(Template(STATUS).substitute(fill))
    return "\n".join(lines) + "\n"


def binding(binding: int, name: str, dtype: Dtype, is_output: bool) -> str:
    access = "read_write" if is_output else "read"
    variable = f"var<storage, {access}> {name}: array<{STORED_AS[dtype]}>"
    lines = [f"@group(0) @binding({binding}) {variable};"]
    return "\n".join(lines + accessors(name, dtype, is_output, name))


def accessors(name: str, dtype: Dtype, is_output: bool, array: str) -> list[str]:
    """The load and the store of an operand that is in this array."""
    computed = COMPUTED_AS[dtype.compute]
    load, store = f"{array}[i]", "v"
    if dtype is bool_:
        load, store = f"{array}[i] != 0u", "select(0u, 1u, v)"
    elif dtype is float16:
        load, store = f"f32({array}[i])", "f16(v)"
    lines = [f"fn load_{name}(i: u32) -> {computed} {{ return {load}; }}"]
    if is_output:
        store = f"{{ {array}[i] = {store}; }}"
        lines.append(f"fn store_{name}(i: u32, v: {computed}) {store}")
    return lines


# ---------------------------------------------------------------- elementwise


def elementwise_words(program: Program) -> int:
    """How many words an elementwise program has."""
    operands = len(program.outputs) + len(program.inputs)
    strided = program.rank * (1 + program.modes.count("v"))
    return 1 + operands + strided + has_rows(program)


def has_rows(program: Program) -> bool:
    """Whether elements of a row are computed together."""
    return program.expression is not None and program.expression.has_rows


def elementwise(program: Program) -> str:
    """The whole text of an elementwise program."""
    assert program.expression is not None
    lines = _coordinates(program)
    at = _positions(program)
    outputs = len(program.outputs)
    for j in range(len(program.inputs)):
        lines.append(f"let v{j} = load_x{j}({at[outputs + j]});")
    lines += body(program.expression)
    for j, value in enumerate(program.expression.outputs):
        lines.append(f"store_y{j}({at[j]}, v{value});")
    text = Template(kernel_text("elementwise")).substitute(
        body="\n".join(f"        {line}" for line in lines)
    )
    return header(program, elementwise_words(program)) + "\n" + text


def rows(program: Program) -> str:
    """The whole text of an elementwise program whose expression has rows."""
    words = elementwise_words(program)
    text = Template(kernel_text("rows")).substitute(
        row=words - 1,
        by_thread=_indented(_row_loops(program, "0u", "1u", "{}")),
        by_group=_indented(
            _row_loops(program, "thread", "64u", "fold(thread, {}, {})")
        ),
    )
    return header(program, words) + "\n" + text


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"        {line}" for line in lines)


def _row_loops(program: Program, first: str, step: str, fold: str) -> list[str]:
    """A loop over row r for each sum or maximum, in order, then one for the results."""
    expression = program.expression
    assert expression is not None
    k, lines = len(expression.inputs), []
    for j, i in enumerate(expression.instructions):
        if i.name not in _OVER_ROWS:
            continue
        most = "true" if i.name == "row_max" else "false"
        start = "-f_inf()" if i.name == "row_max" else "0.0"
        total, (x,) = f"total{k + j}", i.operands
        lines += [
            f"var {total} = {start};",
            f"for (var j = {first}; j < row;) {{",
            f"    let stop = min(row, j + 32u * {step});",
            f"    var part = {start};",
            f"    for (; j < stop; j += {step}) {{",
            *(f"        {line}" for line in _row_slice(program, [x])),
            f"        part = combined(part, v{x}, {most});",
            "    }",
            f"    {total} = combined({total}, part, {most});",
            "}",
        ]
        value = fold.format(total, most)
        value += " / f32(row)" if i.name == "row_mean" else ""
        lines.append(f"let v{k + j} = {value};")
    at = _positions(program)
    each = [
        n for n, mode in enumerate(program.modes[: len(program.outputs)]) if mode != "r"
    ]
    one = [n for n in range(len(program.outputs)) if n not in each]
    for loop, numbers in (
        (f"for (var j = {first}; j < row; j += {step}) {{", each),
        (f"for (var j = {first}; j < 1u; j += {step}) {{", one),
    ):
        ends = [expression.outputs[n] for n in numbers]
        stores = [f"store_y{n}({at[n]}, v{expression.outputs[n]});" for n in numbers]
        made = [*_row_slice(program, ends), *stores]
        lines += [loop, *(f"    {line}" for line in made), "}"] if numbers else []
    return lines


_OVER_ROWS = ("row_sum", "row_mean", "row_max")


def _row_slice(program: Program, ends: Sequence[int]) -> list[str]:
    """The values `ends` at element j of row r; those of the whole row are known."""
    expression = program.expression
    assert expression is not None
    k, needed = len(expression.inputs), set(ends)
    for j in range(len(expression.instructions) - 1, -1, -1):
        i = expression.instructions[j]
        if k + j in needed and i.name not in _OVER_ROWS:
            needed.update(i.operands)
    at = _positions(program)[len(program.outputs) :]
    lines = ["let i = r * row + j;", *_coordinates(program)]
    lines += [f"let v{n} = load_x{n}({at[n]});" for n in range(k) if n in needed]
    for j, line in enumerate(body(expression)):
        known = expression.instructions[j].name in _OVER_ROWS
        lines += [line] if k + j in needed and not known else []
    return lines


def epilogue(
    program: Program, first: int, result: str, inputs: int, in_rows: bool = False
) -> str:
    """The lines that apply an epilogue to element i of a result, and store what it makes.

    program: the elementwise one; first: the place of its words; inputs: the number of the
    input that its second one is; in_rows: its dimensions are `row` and `column`.
    """
    assert program.expression is not None
    at, outputs = _positions(program, first), len(program.outputs)
    rows = ["let c0 = row;", "let c1 = column;"]
    lines = rows if in_rows else _coordinates(program, first)
    lines.append(f"let v0 = {result};")
    for j in range(1, len(program.inputs)):
        lines.append(f"let v{j} = load_x{inputs + j - 1}({at[outputs + j]});")
    lines += body(program.expression)
    for j, value in enumerate(program.expression.outputs):
        lines.append(f"store_y{j}({at[j]}, v{value});")
    return "\n".join(f"    {line}" for line in lines)


def producer(
    program: Program, first: int, name: str = "made", load: str = "load_x{}"
) -> str:
    """The function that makes element i of what a reduction reduces. program: the
    elementwise one; first: the place of its words; load: the name of an input's load."""
    assert program.expression is not None
    at, expression = _positions(program, first), program.expression
    lines = _coordinates(program, first)
    for j in range(len(program.inputs)):
        lines.append(f"let v{j} = {load.format(j)}({at[1 + j]});")
    lines += [*body(expression), f"return v{expression.outputs[0]};"]
    kind = COMPUTED_AS[program.outputs[0]]
    inner = "\n".join(f"    {line}" for line in lines)
    return f"fn {name}(i: u32) -> {kind} {{\n{inner}\n}}\n"


def _coordinates(program: Program, first: int = 0) -> list[str]:
    """c0, c1, ...: the element's position in each dimension; first: the place of the words
    of elementwise work."""
    rank, lines, rest = program.rank, [], "i"
    shape = first + 1 + len(program.modes)
    for d in range(rank - 1, 0, -1):
        lines.append(f"let r{d} = {rest} / P({shape + d}u);")
        lines.append(f"let c{d} = {rest} - r{d} * P({shape + d}u);")
        rest = f"r{d}"
    if rank:
        lines.append(f"let c0 = {rest};")
    return lines


def _positions(program: Program, first: int = 0) -> list[str]:
    """Where each operand's element lies, as WGSL expressions."""
    rank, found = program.rank, []
    strides = first + 1 + len(program.modes) + rank
    for j, mode in enumerate(program.modes):
        at = f"P({first + 1 + j}u)"
        if mode == "c":
            at += " + i"
        elif mode == "r":
            at += " + r"
        elif mode == "v":
            at += "".join(f" + c{d} * P({strides + d}u)" for d in range(rank))
            strides += rank
        found.append(at)
    return found


# ----------------------------------------------------------------- expressions


def body(expression: Expression) -> list[str]:
    """One `let` for each instruction."""
    k = len(expression.inputs)
    lines = []
    for j, instruction in enumerate(expression.instructions):
        types = [expression.dtype_of(o) for o in instruction.operands]
        names = [f"v{o}" for o in instruction.operands]
        lines.append(f"let v{k + j} = {_instruction(instruction, types, names)};")
    return lines


_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and": "&", "or": "|",
}  # fmt: skip
# Functions of WGSL that are exact, or within 2.5 ulp, for every input.
_BUILTIN = {
    "f": {"abs", "floor", "ceil", "trunc", "round"},
    "i": {"abs"},
    "u": set(),
    "b": set(),
}


def _instruction(i: Instruction, types: Sequence[Dtype], v: Sequence[str]) -> str:
    if i.name == "const":
        return constant(i.immediate, i.dtype)
    if i.name == "index":
        return cast("i", uint32, i.dtype)
    if i.name == "row_index":
        return cast("j", uint32, i.dtype)
    if i.name in _OVER_ROWS:
        return ""  # made by a loop of its own
    if i.name == "cast":
        return cast(v[0], types[0], i.dtype)
    if i.name == "cast_checked":
        return f"f_to_{PREFIX[i.dtype]}_checked({v[0]})"
    if i.name == "where":
        return f"select({v[2]}, {v[1]}, {v[0]})"
    return primitive(i.name, types[0], v)


def primitive(name: str, dtype: Dtype, v: Sequence[str]) -> str:
    """A primitive on values of one compute type, as a WGSL expression."""
    p = PREFIX[dtype]
    if p == "b" and name in ("lt", "le", "gt", "ge"):
        return f"u32({v[0]}) {_INFIX[name]} u32({v[1]})"
    if name == "ne" and p != "f" or name == "xor" and p == "b":
        return f"{v[0]} != {v[1]}"
    if name == "xor":
        return f"{v[0]} ^ {v[1]}"
    if name == "not":
        return f"!{v[0]}" if p == "b" else f"~{v[0]}"
    if name == "neg" and p == "u":
        return f"0u - {v[0]}"
    if name == "neg":
        return f"-{v[0]}"
    if name == "abs" and p == "u":
        return v[0]
    if name in _INFIX:
        return f"{v[0]} {_INFIX[name]} {v[1]}"
    if name in _BUILTIN[p]:
        return f"{name}({', '.join(v)})"
    if name in ("maximum", "minimum") and p != "f":
        return f"{name[:3]}({', '.join(v)})"
    return f"{p}_{name}({', '.join(v)})"


def cast(v: str, source: Dtype, target: Dtype) -> str:
    """`v` in another compute type, as a WGSL expression."""
    if source is target:
        return v
    if source is float32 and target is bool_:
        return f"f_to_b({v})"
    if source is float32:
        return f"f_to_{PREFIX[target]}({v})"
    return f"{COMPUTED_AS[target]}({v})"


def constant(value: float, dtype: Dtype) -> str:
    """A literal. Infinity, NaN, -0 and denormals are made from their bits."""
    if dtype is bool_:
        return "true" if value else "false"
    if dtype is int32:
        return f"i32({value})"
    if dtype is uint32:
        return f"{value}u"
    with np.errstate(over="ignore"):
        x = np.float32(value)
    # naga and Tint reject constants that are not finite, so these must not be constant.
    if np.isnan(x):
        return "f_nan()"
    if np.isinf(x):
        return "f_inf()" if x > 0 else "-f_inf()"
    if x == 0 and not math.copysign(1, x) > 0 or 0 < abs(x) < np.finfo(x).tiny:
        return f"bitcast<f32>({x.view(np.uint32)}u)"
    text = str(x)
    return f"f32({text})" if text.startswith("-") else f"{text}f"


# -------------------------------------------------------------------- programs


def wgsl(program: Program, words: Sequence[int] | None = None) -> str:
    """The text of a launch of these words; without words, every text of the program."""
    from . import variants

    if words is None:
        return "\n\n".join(variants.texts(program))
    steps = variants.plan(program, words).steps
    return "\n\n".join(dict.fromkeys(step.text for step in steps))


def variants(program: Program) -> list[str]:
    """Every text that a launch of the program may use."""
    from . import variants

    return variants.texts(program)
