"""The formula language: symbolic scalars, traced once into a small typed expression.

A formula is a Python function of scalars, `lambda x: maximum(x, 0) + log1p(exp(-abs(x)))`.
Tracing it gives an Expression in static single assignment form, common subexpressions
shared, which the backends lower to WGSL, to CUDA, or to the C backend's bytecode.

Every primitive has one meaning per compute type (bool, int32, uint32, int64, float32,
float64), written out in PRIMITIVES. Storage types convert where they are loaded and stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .dtypes import (
    Dtype,
    bool_,
    float32,
    float64,
    int32,
    int64,
    promote,
    scalar_dtype,
    uint32,
)

FLOATS = (float32, float64)
INTEGERS = (int32, uint32, int64)
NUMBERS = INTEGERS + FLOATS

# name -> (number of operands, compute types of the operands it is defined for).
# The result has the operands' type, but for comparisons and tests, which give bool.
PRIMITIVES: dict[str, tuple[int, tuple[Dtype, ...]]] = {
    # Integers wrap; x / 0 is 0 for integers; mod has the sign of the divisor, as in Python.
    **dict.fromkeys(("add", "sub", "mul", "floordiv", "mod"), (2, NUMBERS)),
    "div": (2, FLOATS),
    **dict.fromkeys(("neg", "abs", "sign"), (1, NUMBERS)),
    # NaN in either operand gives NaN.
    **dict.fromkeys(("maximum", "minimum"), (2, NUMBERS)),
    # As C's libm for every input: signed zeros, infinities, NaN, negative bases.
    "pow": (2, NUMBERS),
    "atan2": (2, FLOATS),
    **dict.fromkeys(
        "sqrt rsqrt exp expm1 log log1p log2 sin cos tan asin acos atan sinh cosh tanh "
        "asinh acosh atanh erf floor ceil round trunc".split(),
        (1, FLOATS),
    ),
    # sin(pi x), cos(pi x): exact reduction, so that normals are within 4 ulp everywhere.
    **dict.fromkeys(("sinpi", "cospi"), (1, FLOATS)),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), (2, (bool_, *NUMBERS))),
    **dict.fromkeys(("isnan", "isinf", "isfinite"), (1, FLOATS)),
    **dict.fromkeys(("and", "or", "xor"), (2, (bool_, *INTEGERS))),
    "not": (1, (bool_, *INTEGERS)),
    # Shifting by the width or more gives 0 (or -1 for a negative int shifted right).
    **dict.fromkeys(("shl", "shr"), (2, INTEGERS)),
}
_TO_BOOL = {"eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "isfinite"}

# Instructions that are no plain function of their operands' type:
#   const      immediate = the Python number
#   index      the row-major position of the element in the result
#   cast       operand of any compute type; float to integer truncates, saturates, NaN is 0;
#              anything to bool is x != 0; int64 to a narrower integer wraps
#   cast_checked  the same from a float to an integer, but NaN is a fault (program.FAULTS)
#   where      (bool, T, T) -> T
#   wrap_index (i, n) -> i if i >= 0 else i + n; a fault where that is outside [0, n)
#   row_sum, row_mean, row_max  of the elements of the row that the element is in, by a
#              tree of fixed shape; NaN wins the maximum. A row is a number of elements that
#              follow each other in the result, which the launch knows; floats only
#   row_index  the position of the element in its row
ROWS = ("row_sum", "row_mean", "row_max", "row_index")
SPECIAL = ("const", "index", "cast", "cast_checked", "where", "wrap_index", *ROWS)
FAULTING = {"cast_checked", "wrap_index"}


@dataclass(frozen=True, eq=False)
class Instruction:
    """Value number k + j of an expression with k inputs is made by its j-th instruction."""

    name: str
    dtype: Dtype  # compute type of the result
    operands: tuple[int, ...] = ()
    immediate: Any = None

    @property
    def key(self) -> tuple:
        """What makes it that instruction. repr tells 0.0 from -0.0, and makes NaN itself."""
        return self.name, self.dtype, self.operands, repr(self.immediate)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instruction) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class Expression:
    """Typed straight-line code. Values 0..k-1 are the inputs in their compute types.

    `outputs[j]` is the value number of the j-th result; the program that holds the
    expression says as which storage type it is kept.
    """

    inputs: tuple[Dtype, ...]  # compute types
    instructions: tuple[Instruction, ...]
    outputs: tuple[int, ...]

    def dtype_of(self, value: int) -> Dtype:
        """The compute type of a value."""
        k = len(self.inputs)
        return self.inputs[value] if value < k else self.instructions[value - k].dtype

    @property
    def can_fault(self) -> bool:
        return any(i.name in FAULTING for i in self.instructions)

    @property
    def has_rows(self) -> bool:
        """Whether elements of a row are computed together."""
        return any(i.name in ROWS for i in self.instructions)

    def __str__(self) -> str:
        k = len(self.inputs)
        lines = [f"v{j}: {t.name} = input {j}" for j, t in enumerate(self.inputs)]
        for j, i in enumerate(self.instructions):
            what = " ".join([i.name, *(f"v{o}" for o in i.operands)])
            tail = "" if i.immediate is None else f" {i.immediate!r}"
            lines.append(f"v{k + j}: {i.dtype.name} = {what}{tail}")
        return "\n".join([*lines, "out " + " ".join(f"v{o}" for o in self.outputs)])


class Builder:
    """Collects instructions; the same instruction asked for twice is made once."""

    def __init__(self, inputs: Sequence[Dtype]):
        self.inputs = tuple(inputs)
        self.instructions: list[Instruction] = []
        self.known: dict[Any, int] = {}

    def dtype_of(self, value: int) -> Dtype:
        """The compute type of a value."""
        k = len(self.inputs)
        return self.inputs[value] if value < k else self.instructions[value - k].dtype

    def emit(
        self, name: str, dtype: Dtype, operands: tuple = (), immediate: Any = None
    ) -> Scalar:
        # repr tells 0.0 from -0.0 and makes NaN equal to itself.
        key = (name, dtype, operands, repr(immediate))
        if key not in self.known:
            made = Instruction(name, dtype, operands, immediate)
            self.instructions.append(made)
            self.known[key] = len(self.inputs) + len(self.instructions) - 1
        return Scalar(self, self.known[key], dtype)


class Scalar:
    """A value in a formula: a number that is not known yet."""

    __slots__ = ("builder", "dtype", "value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, builder: Builder, value: int, dtype: Dtype):
        self.builder, self.value, self.dtype = builder, value, dtype

    def astype(self, dtype: Dtype, name: str = "cast") -> Scalar:
        if dtype is self.dtype:
            return self
        return self.builder.emit(name, dtype, (self.value,))

    def const(self, value: Any) -> Scalar:
        """A constant of this scalar's type."""
        return self.builder.emit("const", self.dtype, (), _python(value, self.dtype))

    def __bool__(self):
        raise TypeError(
            "formula: a scalar has no truth value while it is traced; use where(c, a, b)"
        )

    def __add__(self, o):
        return apply("or" if self.dtype is bool_ else "add", self, o)

    def __mul__(self, o):
        return apply("and" if self.dtype is bool_ else "mul", self, o)

    def __radd__(self, o):
        return apply("add", o, self)

    def __rmul__(self, o):
        return apply("mul", o, self)

    def __sub__(self, o):
        return apply("sub", self, o)

    def __rsub__(self, o):
        return apply("sub", o, self)

    def __truediv__(self, o):
        return apply("div", self, o)

    def __rtruediv__(self, o):
        return apply("div", o, self)

    def __floordiv__(self, o):
        return apply("floordiv", self, o)

    def __mod__(self, o):
        return apply("mod", self, o)

    def __pow__(self, o):
        return apply("pow", self, o)

    def __neg__(self):
        return apply("neg", self)

    def __abs__(self):
        return apply("abs", self)

    def __eq__(self, o):  # pyright: ignore[reportIncompatibleMethodOverride]
        return apply("eq", self, o)

    def __ne__(self, o):  # pyright: ignore[reportIncompatibleMethodOverride]
        return apply("ne", self, o)

    def __lt__(self, o):
        return apply("lt", self, o)

    def __le__(self, o):
        return apply("le", self, o)

    def __gt__(self, o):
        return apply("gt", self, o)

    def __ge__(self, o):
        return apply("ge", self, o)

    def __and__(self, o):
        return apply("and", self, o)

    def __or__(self, o):
        return apply("or", self, o)

    def __xor__(self, o):
        return apply("xor", self, o)

    def __invert__(self):
        return apply("not", self)

    def __lshift__(self, o):
        return apply("shl", self, o)

    def __rshift__(self, o):
        return apply("shr", self, o)


def _python(value: Any, dtype: Dtype) -> bool | int | float:
    if dtype is bool_:
        return bool(value)
    if dtype.is_float:
        return float(value)
    # Written as the two's complement value of the type, so 0xFFFFFFFF is an int32 -1.
    bits = 8 * dtype.itemsize
    value = int(value) & ((1 << bits) - 1)
    if dtype.kind == "signed" and value >> (bits - 1):
        value -= 1 << bits
    return value


def _together(operands: Sequence[Any]) -> list[Scalar]:
    """The operands as scalars of one compute type."""
    first = next(o for o in operands if isinstance(o, Scalar))
    dtype = first.dtype
    for o in operands:
        other = o.dtype if isinstance(o, Scalar) else scalar_dtype(o, dtype)
        dtype = promote(dtype, other).compute
    like = first.builder.emit
    return [
        o.astype(dtype)
        if isinstance(o, Scalar)
        else like("const", dtype, (), _python(o, dtype))
        for o in operands
    ]


def apply(name: str, *operands: Any) -> Scalar:
    """Emit one primitive."""
    values = _together(operands)
    count, types = PRIMITIVES[name]
    dtype = values[0].dtype
    if len(values) != count:
        raise TypeError(f"{name}: {count} operands expected, {len(values)} given")
    if dtype not in types:
        known = ", ".join(t.name for t in types)
        raise TypeError(f"{name}: not defined for {dtype.name}; cast to one of {known}")
    result = bool_ if name in _TO_BOOL else dtype
    numbers = tuple(v.value for v in values)
    return values[0].builder.emit(name, result, numbers)


def _function(name: str) -> Callable[..., Scalar]:
    def function(*operands):
        return apply(name, *operands)

    function.__name__ = name
    return function


(
    maximum, minimum, sqrt, rsqrt, exp, expm1, log, log1p, log2, sin, cos, tan, asin,
    acos, atan, atan2, sinh, cosh, tanh, asinh, acosh, atanh, erf, floor, ceil, round,
    trunc, sinpi, cospi, isnan, isinf, isfinite, sign, pow,
) = map(_function, (
    "maximum minimum sqrt rsqrt exp expm1 log log1p log2 sin cos tan asin acos atan "
    "atan2 sinh cosh tanh asinh acosh atanh erf floor ceil round trunc sinpi cospi "
    "isnan isinf isfinite sign pow"
).split())  # fmt: skip


def where(condition: Scalar, a: Any, b: Any) -> Scalar:
    """a where the condition holds, else b; both are computed."""
    if not isinstance(a, Scalar) and not isinstance(b, Scalar):
        raise TypeError("where: at least one of the two values must be a scalar")
    a, b = _together((a, b))
    operands = (condition.astype(bool_).value, a.value, b.value)
    return condition.builder.emit("where", a.dtype, operands)


def index(like: Scalar, dtype: Dtype) -> Scalar:
    """The row-major position of the element in the result."""
    return like.builder.emit("index", dtype)


def _of_row(name: str) -> Callable[[Scalar], Scalar]:
    def function(x: Scalar) -> Scalar:
        if x.dtype not in FLOATS:
            raise TypeError(f"{name}: a floating scalar is needed, not {x.dtype.name}")
        return x.builder.emit(name, x.dtype, (x.value,))

    function.__name__ = name
    function.__doc__ = f"{name[4:]} of x over the row of the element."
    return function


row_sum, row_mean, row_max = map(_of_row, ROWS[:3])


def row_index(like: Scalar, dtype: Dtype) -> Scalar:
    """The position of the element in its row."""
    return like.builder.emit("row_index", dtype)


def wrap_index(i: Scalar, n: Scalar) -> Scalar:
    """i, or i + n where i < 0; outside [0, n) it is a fault that names both."""
    i, n = _together((i, n))
    return i.builder.emit("wrap_index", i.dtype, (i.value, n.value))


def trace(formula: Callable, inputs: Sequence[Dtype]) -> Expression:
    """The expression of a formula for inputs of these storage types.

    >>> print(trace(lambda x, y: x * y + x * y, (float32, float32)))
    v0: float32 = input 0
    v1: float32 = input 1
    v2: float32 = mul v0 v1
    v3: float32 = add v2 v2
    out v3
    """
    builder = Builder([t.compute for t in inputs])
    xs = [Scalar(builder, i, t) for i, t in enumerate(builder.inputs)]
    result = formula(*xs)
    results = result if isinstance(result, tuple) else (result,)
    return finish(builder, [r.value for r in results])


def finish(builder: Builder, outputs: Sequence[int]) -> Expression:
    """The expression that computes these values, without instructions nobody reads."""
    k = len(builder.inputs)
    needed = set(outputs)
    for j in range(len(builder.instructions) - 1, -1, -1):
        if k + j in needed:
            needed.update(builder.instructions[j].operands)
    number = {i: i for i in range(k)}
    kept: list[Instruction] = []
    for j, i in enumerate(builder.instructions):
        if k + j in needed:
            number[k + j] = k + len(kept)
            operands = tuple(number[o] for o in i.operands)
            kept.append(Instruction(i.name, i.dtype, operands, i.immediate))
    return Expression(builder.inputs, tuple(kept), tuple(number[o] for o in outputs))


# Derivatives ---------------------------------------------------------------------------
# name -> the derivative of the result from the operands, their derivatives (None is zero)
# and the result.

_TWO_BY_SQRT_PI = 2 / math.sqrt(math.pi)

_SLOPES: dict[str, Callable] = {
    "neg": lambda x, y: x.const(-1),
    "abs": lambda x, y: sign(x),
    "sqrt": lambda x, y: 0.5 / y,
    "rsqrt": lambda x, y: -0.5 * y * y * y,
    "exp": lambda x, y: y,
    "expm1": lambda x, y: y + 1,
    "log": lambda x, y: 1 / x,
    "log1p": lambda x, y: 1 / (1 + x),
    "log2": lambda x, y: (1 / math.log(2)) / x,
    "sin": lambda x, y: cos(x),
    "cos": lambda x, y: -sin(x),
    "tan": lambda x, y: 1 + y * y,
    "asin": lambda x, y: rsqrt((1 - x) * (1 + x)),
    "acos": lambda x, y: -rsqrt((1 - x) * (1 + x)),
    "atan": lambda x, y: 1 / (1 + x * x),
    "sinh": lambda x, y: cosh(x),
    "cosh": lambda x, y: sinh(x),
    "tanh": lambda x, y: (1 - y) * (1 + y),
    "asinh": lambda x, y: rsqrt(x * x + 1),
    "acosh": lambda x, y: rsqrt((x - 1) * (x + 1)),
    "atanh": lambda x, y: 1 / ((1 - x) * (1 + x)),
    "erf": lambda x, y: _TWO_BY_SQRT_PI * exp(-x * x),
    "sinpi": lambda x, y: math.pi * cospi(x),
    "cospi": lambda x, y: -math.pi * sinpi(x),
}


def _sum(*terms: Scalar | None) -> Scalar | None:
    total = None
    for t in terms:
        if t is not None:
            total = t if total is None else total + t
    return total


def _times(slope: Any, d: Scalar | None) -> Scalar | None:
    return None if d is None else d * slope


def _d_choice(first_wins):
    def rule(a, b, y, da, db):
        zero = y.const(0)
        da, db = zero if da is None else da, zero if db is None else db
        tie = (da + db) * 0.5
        return where(a == b, tie, where(first_wins(a, b), da, db))

    return rule


def _d_pow(a, b, y, da, db):
    # At b == 0 the slope in a is 0; at a <= 0 the slope in b is taken as 0.
    in_a = None if da is None else where(b == 0, y.const(0), b * pow(a, b - 1)) * da
    safe = where(a > 0, a, 1)
    in_b = None if db is None else where(a > 0, y * log(safe), y.const(0)) * db
    return _sum(in_a, in_b)


_PAIRS: dict[str, Callable] = {
    "add": lambda a, b, y, da, db: _sum(da, db),
    "sub": lambda a, b, y, da, db: _sum(da, _times(-1, db)),
    "mul": lambda a, b, y, da, db: _sum(_times(b, da), _times(a, db)),
    "div": lambda a, b, y, da, db: _sum(_times(1 / b, da), _times(-(y / b), db)),
    "mod": lambda a, b, y, da, db: _sum(da, _times(-floor(a / b), db)),
    "pow": _d_pow,
    "atan2": lambda a, b, y, da, db: _sum(
        _times(b / (a * a + b * b), da), _times(-a / (a * a + b * b), db)
    ),
    "maximum": _d_choice(lambda a, b: a > b),
    "minimum": _d_choice(lambda a, b: a < b),
}


def _d_instruction(i: Instruction, y: Scalar, slopes: dict[int, Scalar]):
    """The derivative of one instruction, or None where it is zero everywhere."""
    builder = y.builder
    xs = [Scalar(builder, o, builder.dtype_of(o)) for o in i.operands]
    ds = [slopes.get(o) for o in i.operands]
    if all(d is None for d in ds) or not i.dtype.is_float:
        return None
    if i.name in _SLOPES:
        return _times(_SLOPES[i.name](*xs, y), ds[0])
    if i.name in _PAIRS:
        return _PAIRS[i.name](*xs, y, *ds)
    if i.name == "where":
        zero = y.const(0)
        return where(xs[0], *(zero if d is None else d for d in ds[1:]))
    if i.name == "cast":
        (d,) = ds
        return None if d is None else d.astype(i.dtype)
    return None  # steps: floor, sign, comparisons


def derivative(y: Scalar, x: Scalar) -> Scalar:
    """dy/dx, in forward mode through the instructions that made y.

    The rules are the textbook's; at ties maximum and minimum give each side half, as
    PyTorch and JAX do.
    """
    builder = y.builder
    slopes: dict[int, Scalar] = {x.value: x.const(1)}
    first = len(builder.inputs)
    for j in range(y.value - first + 1):
        value = first + j
        if value == x.value:
            continue
        made = Scalar(builder, value, builder.dtype_of(value))
        d = _d_instruction(builder.instructions[j], made, slopes)
        if d is not None:
            slopes[value] = d
    found = slopes.get(y.value)
    return y.const(0) if found is None else found
