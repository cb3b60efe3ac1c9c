"""Program -> CUDA C++ text: the operands' types, the kernel, the scalar functions it uses.

Pure functions of text; no device is needed.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from ..dtypes import (
    Dtype,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int32,
    int64,
    uint8,
    uint32,
)
from ..program import Program
from ..scalars import ROWS, Expression, Instruction
from .plan import Step

HERE = Path(__file__).parent
STORED_AS = {
    bool_: "bool", uint8: "unsigned char", int32: "int", uint32: "unsigned",
    int64: "long long", float16: "pn_float16", bfloat16: "pn_bfloat16",
    float32: "float", float64: "double",
}  # fmt: skip
COMPUTED_AS = {t: STORED_AS[t] for t in (bool_, int32, uint32, int64, float32, float64)}


# ---------------------------------------------------------------------- files


@functools.cache
def file_text(name: str) -> str:
    """A file of this folder; a line that includes another one is that one's text."""
    text = (HERE / name).read_text(encoding="utf-8")
    return re.sub(
        r'^#include "(\w+\.cuh)"$', lambda m: file_text(m[1]), text, flags=re.MULTILINE
    )


def with_headers(text: str) -> str:
    """The text with the files of this folder that it includes where it says so."""
    return re.sub(
        r'^#include "(\w+\.cuh)"$', lambda m: file_text(m[1]), text, flags=re.M
    )


@functools.cache
def _scalar_functions() -> dict[str, str]:
    """Name -> the part of scalar.cuh that declares it."""
    found: dict[str, str] = {}
    for part in re.split(r"\n\n+", file_text("scalar.cuh")):
        for name in re.findall(r"PN_DEVICE [\w ]+?(\w+)\(", part):
            found[name] = part.strip() + "\n"
    return found


def scalars_of(text: str) -> str:
    """The parts of scalar.cuh that a text and they themselves use."""
    functions = _scalar_functions()
    needed: set[str] = set()
    waiting = [text]
    while waiting:
        for name in re.findall(r"\bpn_\w+", re.sub(r"//.*", "", waiting.pop())):
            if name in functions and name not in needed:
                needed.add(name)
                waiting.append(functions[name])
    parts = dict.fromkeys(part for name, part in functions.items() if name in needed)
    return "\n".join(parts)


def words_declared(count: int) -> int:
    """Words of an entry's parameter for so many words: few sizes, so few texts; but all
    parameters have to fit 4 KiB."""
    if count > 256:
        return count + -count % 32
    return max(8, 1 << (count - 1).bit_length())


def text(program: Program, step: Step) -> str:
    """All that is compiled for a step, but for its first line, which names it."""
    program = step.of or program
    return _text(program, words_declared(len(step.words)), step.defines)


@functools.lru_cache(256)  # many steps of a plan may have one text
def _text(program: Program, words: int, defines: tuple) -> str:
    if program.copies:
        program = program.one_copy
    rows = program.expression is not None and program.expression.has_rows
    if program.has_epilogue and "PN_EPILOGUE" not in dict(defines):
        program = program.without_epilogue  # a step before the one that applies it
    names = [f"Y{j}" for j in range(len(program.outputs))]
    names += [f"X{j}" for j in range(len(program.inputs))]
    dtypes = (*program.outputs, *program.inputs)
    # Of launches side by side the plan says how many each has.
    lines = [] if "PN_WORDS" in dict(defines) else [f"#define PN_WORDS {words}"]
    lines += [
        f"#define PN_{name} {STORED_AS[t]}"
        for name, t in zip(names, dtypes, strict=True)
    ]
    # A number among the options says what may be compiled in; the plan does, or not.
    named = [option for option in program.options if not option.isdigit()]
    lines += [f"#define PN_OPTION_{option} 1" for option in named]
    lines += [f"#define {name} {value}" for name, value in defines]
    kernel = with_headers(file_text(f"{'rows' if rows else program.kernel}.cu"))
    if rows:
        kernel = over_rows(program, kernel, dict(defines))
    elif program.has_producer:
        kernel = producer(program, dict(defines)) + kernel
    elif program.has_epilogue:
        kernel = epilogue(program, dict(defines)) + kernel
    elif program.expression is not None:
        kernel = elementwise(program, kernel, dict(defines))
    parts = ["\n".join(lines), file_text("pn.cuh"), scalars_of(kernel), kernel]
    return "\n".join(parts)


# ---------------------------------------------------------------- elementwise


def _operands(program: Program) -> list[str]:
    """The parameters of an entry, but for the words."""
    operands = [f"PN_Y{j} *y{j}" for j in range(len(program.outputs))]
    operands += [f"const PN_X{j} *x{j}" for j in range(len(program.inputs))]
    return [*operands, "pn_fault fault"] if program.can_fault else operands


def over_rows(program: Program, template: str, defines: dict) -> str:
    """The kernel of an elementwise program with sums over rows."""
    from . import phases

    row = 1 + len(program.modes) + program.rank * (1 + program.modes.count("v"))
    return Template(template).substitute(
        operands=", ".join(_operands(program)),
        row=row,
        kernel="\n".join(f"    {line}" for line in phases.kernel(program, defines)),
    )


def elementwise(program: Program, template: str, defines: dict) -> str:
    """The kernel of an elementwise program."""
    assert program.expression is not None
    parameters = ["PN_INDEX i"]
    parameters += [
        f"{COMPUTED_AS[t.compute]} v{j}" for j, t in enumerate(program.inputs)
    ]
    parameters += [f"PN_Y{j} *y{j}" for j in range(len(program.outputs))]
    if program.can_fault:
        parameters.append("pn_fault fault")
    copied = "PN_COPIES" in defines
    lines = body(program.expression)
    lines += [
        f"pn_convert(y{j}, v{v});" for j, v in enumerate(program.expression.outputs)
    ]
    return Template(template).substitute(
        parameters=", ".join(parameters),
        operands="PN_T table" if copied else ", ".join([*_operands(program), "PN_P P"]),
        start="\n".join(f"    {line}" for line in _start(program, copied)),
        body="\n".join(f"    {line}" for line in lines),
        kernel="\n".join(f"    {line}" for line in _kernel(program, defines)),
    )


def _start(program: Program, copied: bool) -> list[str]:
    """The block's number and, of launches side by side, what is its own of the table."""
    if not copied:
        return ["const unsigned block = blockIdx.x;"]
    outputs = len(program.outputs)
    lines = ["const int copy = pn_copy(table, blockIdx.x);"]
    lines.append("const unsigned block = blockIdx.x - (unsigned)table.first[copy];")
    lines.append("const pn_words &P = table.words[copy];")
    for k, operand in enumerate(_operands(program)):
        kind = f"PN_Y{k} *" if k < outputs else f"const PN_X{k - outputs} *"
        lines.append(f"{operand} = ({kind})table.at[copy][{k}];")
    return lines


def epilogue(program: Program, defines: dict) -> str:
    """What a kernel calls for each element of its result; see matmul.cu."""
    made = program.epilogue
    assert made.expression is not None
    own = len(program.inputs) - len(made.inputs) + 1  # the kernel's inputs
    outputs = [f"PN_Y{j} *y{j}" for j in range(len(made.outputs))]
    further = [f"const PN_X{j} *x{j}" for j in range(own, len(program.inputs))]
    names = [f"y{j}" for j in range(len(made.outputs))]
    names += [f"x{j}" for j in range(own, len(program.inputs))]
    kind = COMPUTED_AS[made.inputs[0].compute]
    at = positions(made, "i")
    in_rows = ["const PN_PLACE c0 = row, c1 = column;"]
    lines = in_rows if defines["PN_IN_ROWS"] else coordinates(made, "i")
    for j in range(1, len(made.inputs)):
        place = at[len(made.outputs) + j]
        lines.append(f"const auto v{j} = pn_load(x{own + j - 1}, {place});")
    lines += body(made.expression)
    for j, value in enumerate(made.expression.outputs):
        lines.append(f"pn_store(y{j}, {at[j]}, v{value});")
    parameters = ["const pn_words &P", "PN_PLACE i", "PN_PLACE row", "PN_PLACE column"]
    parameters += [f"{kind} v0", *outputs, *further]
    text = [
        f"#define PN_RESULT {STORED_AS[made.inputs[0]]}",
        f"#define PN_RESULTS {', '.join(outputs)}",
        f"#define PN_FURTHER {''.join(f', {x}' for x in further)}",
        f"#define PN_OPERANDS {', '.join(names)}",
        "#define W(k) ((PN_PLACE)P[PN_EPILOGUE + (k)])",
        f"PN_DEVICE void pn_epilogue({', '.join(parameters)}) {{",
        *(f"    {line.replace('PN_INDEX', 'PN_PLACE')}" for line in lines),
        "}",
    ]
    return "\n".join(text) + "\n"


def producer(program: Program, defines: dict) -> str:
    """The type of what a reduction reduces; see reduce.cu. Its words begin at number
    PN_PRODUCER."""
    made = program.producer
    assert made.expression is not None
    at, inputs = positions(made, "i"), range(len(made.inputs))
    lines = coordinates(made, "i")
    lines += [f"const auto v{j} = pn_load(x{j}, {at[1 + j]});" for j in inputs]
    lines += [*body(made.expression), f"return v{made.expression.outputs[0]};"]
    operands = [f"const PN_X{j} *x{j}" for j in inputs]
    table = [f"(const PN_X{j} *)at[{1 + j}]" for j in inputs]
    text = [
        f"#define PN_MADE {COMPUTED_AS[made.outputs[0]]}",
        f"#define PN_MADE_PARAMETERS {', '.join(operands)}",
        f"#define PN_MADE_OF {', '.join(f'x{j}' for j in inputs)}",
        f"#define PN_MADE_OF_TABLE {', '.join(table)}",
        f"#define W(k) ((PN_INDEX)P[{defines.get('PN_PRODUCER', 0)} + (k)])",
        "struct Made {",
        "    const pn_words &P;",
        *(f"    {operand};" for operand in operands),
        "    PN_MEMBER PN_MADE element(PN_INDEX i) const {",
        *(f"        {line}" for line in lines),
        "    }",
        "};",
        "#undef W",
    ]
    return "\n".join(text) + "\n"


def _kernel(program: Program, defines: dict) -> list[str]:
    """From the thread's first element to its stores."""
    together = defines["PN_TOGETHER"]  # a letter an operand: "p" in a pack, "o" one
    outputs, inputs = len(program.outputs), len(program.inputs)
    at = positions(program, "i", "PN_COPIES" not in defines)
    lines = coordinates(program, "i")
    for j in range(inputs):
        if together[outputs + j] == "o":
            lines.append(f"const auto a{j} = pn_load(x{j}, {at[outputs + j]});")
    many = []
    for j in range(inputs):
        if together[outputs + j] == "p":
            many.append(f"const auto a{j} = load_pack(x{j} + {at[outputs + j]});")
    many += [f"pack<PN_Y{j}> b{j};" for j in range(outputs)]
    values = ["i + j"]
    values += [
        f"pn_value(a{j}.at[j])" if together[outputs + j] == "p" else f"a{j}"
        for j in range(inputs)
    ]
    values += [f"&b{j}.at[j]" for j in range(outputs)]
    fault = ["fault"] if program.can_fault else []
    many.append("#pragma unroll")
    many.append(
        f"for (int j = 0; j < PN_VECTOR; ++j) element({', '.join(values + fault)});"
    )
    many += [f"store_pack(y{j} + {at[j]}, b{j});" for j in range(outputs)]
    if program.rank or defines["PN_VECTOR"] == 1:
        return lines + many
    # What is left over of n, one at a time.
    one = ["i"]
    one += [
        f"pn_load(x{j}, {at[outputs + j]})" if together[outputs + j] == "p" else f"a{j}"
        for j in range(inputs)
    ]
    one += [f"y{j} + ({at[j]})" for j in range(outputs)]
    many = [f"    {line}" for line in many]
    rest = f"    for (; i < n; ++i) element({', '.join(one + fault)});"
    return [*lines, "if (i + PN_VECTOR <= n) {", *many, "} else {", rest, "}"]


def coordinates(program: Program, element: str) -> list[str]:
    """c0, c1, ...: the position of element number `element` in each dimension."""
    rank, lines, rest = program.rank, [], element
    shape = 1 + len(program.modes)
    for d in range(rank - 1, 0, -1):
        lines.append(f"const PN_INDEX r{d} = pn_quotient({rest}, W({shape + d}));")
        lines.append(f"const PN_INDEX c{d} = {rest} - r{d} * W({shape + d});")
        rest = f"r{d}"
    if rank:
        lines.append(f"const PN_INDEX c0 = {rest};")
    return lines


def positions(program: Program, element: str, offsets: bool = True) -> list[str]:
    """Where each operand's element number `element` lies, as expressions; without `offsets`
    each begins where its buffer does."""
    rank, found = program.rank, []
    strides = 1 + len(program.modes) + rank
    for j, mode in enumerate(program.modes):
        at = f"W({1 + j})" if offsets else "0"
        if mode == "c":
            at += f" + {element}"
        elif mode == "r":
            at += " + r"
        elif mode == "v":
            at += "".join(f" + c{d} * W({strides + d})" for d in range(rank))
            strides += rank
        found.append(at)
    return found


# ----------------------------------------------------------------- expressions


def body(expression: Expression) -> list[str]:
    """One constant for each instruction."""
    k = len(expression.inputs)
    lines = []
    for j, instruction in enumerate(expression.instructions):
        types = [expression.dtype_of(o) for o in instruction.operands]
        names = [f"v{o}" for o in instruction.operands]
        kind = COMPUTED_AS[instruction.dtype]
        value = _instruction(instruction, types, names)
        lines.append(f"const {kind} v{k + j} = {value};")
    return lines


_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and": "&", "or": "|", "xor": "^",
}  # fmt: skip
_WRAPPING = {"add", "sub", "mul"}  # by a function where the type is signed
# CUDA's own names: of doubles, with an f behind of floats.
_MATH = {
    "round": "rint",
    **{
        name: name
        for name in "sqrt rsqrt exp expm1 log log1p log2 sin cos tan asin acos atan "
        "sinh cosh tanh asinh acosh atanh erf floor ceil trunc sinpi cospi atan2".split()
    },
}


def _instruction(i: Instruction, types: Sequence[Dtype], v: Sequence[str]) -> str:
    if i.name == "const":
        return constant(i.immediate, i.dtype)
    if i.name == "index":
        return f"({COMPUTED_AS[i.dtype]})i"
    if i.name == "row_index":
        return f"({COMPUTED_AS[i.dtype]})j"
    if i.name in ROWS:
        return ""  # made by the threads of a row together
    if i.name == "cast":
        return cast(v[0], types[0], i.dtype)
    if i.name == "cast_checked":
        return cast(f"pn_checked({v[0]}, fault)", types[0], i.dtype)
    if i.name == "where":
        return f"{v[0]} ? {v[1]} : {v[2]}"
    if i.name == "wrap_index":
        return f"pn_wrap_index({v[0]}, {v[1]}, fault)"
    return primitive(i.name, types[0], v)


def primitive(name: str, dtype: Dtype, v: Sequence[str]) -> str:
    """A primitive on values of one compute type, as an expression."""
    operands = ", ".join(v)
    if name in _WRAPPING and dtype.kind == "signed":
        return f"pn_{name}({operands})"
    if name in _INFIX:
        return f"{v[0]} {_INFIX[name]} {v[1]}"
    if name == "not":
        return f"!{v[0]}" if dtype is bool_ else f"~{v[0]}"
    if dtype is uint32 and name in ("neg", "abs"):
        return f"0u - {v[0]}" if name == "neg" else v[0]
    if not dtype.is_float:
        return f"pn_{name}({operands})"
    if name == "neg":
        return f"-{v[0]}"
    if name == "isnan":
        return f"{v[0]} != {v[0]}"
    if name in ("isinf", "isfinite"):
        return f"pn_abs({v[0]}) {'==' if name == 'isinf' else '<'} INFINITY"
    if name in _MATH:
        return f"{_MATH[name]}{'f' if dtype is float32 else ''}({operands})"
    return f"pn_{name}({operands})"


_TO_INTEGER = {int32: "pn_to_int", uint32: "pn_to_unsigned", int64: "pn_to_long"}


def cast(v: str, source: Dtype, target: Dtype) -> str:
    """`v` in another compute type, as an expression."""
    if source is target:
        return v
    if target is bool_:
        return f"{v} != 0"
    if source.is_float and target.is_integer:
        return f"{_TO_INTEGER[target]}({v})"
    return f"({COMPUTED_AS[target]}){v}"


def constant(value: float, dtype: Dtype) -> str:
    """A literal."""
    if dtype is bool_:
        return "true" if value else "false"
    if dtype is uint32:
        return f"{value}u"
    if dtype.is_integer:
        least = -(1 << (8 * dtype.itemsize - 1))
        end = "ll" if dtype is int64 else ""
        return f"{value + 1}{end} - 1" if value == least else f"{value}{end}"
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    if dtype is float64:
        return repr(value)
    import numpy as np

    with np.errstate(over="ignore"):
        narrow = np.float32(value)
    if np.isinf(narrow):
        return "INFINITY" if narrow > 0 else "-INFINITY"
    shown = str(narrow)
    return f"{shown}f" if set(shown) & set(".e") else f"{shown}.0f"
