"""Elementwise operators. Adding one means adding one entry here.

An entry is a formula (see scalars.py), from which every backend makes its code, and the
gradient is derived from it. A gradient is written out only where it reuses the result.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import scalars as s
from ..dtypes import Dtype, as_dtype, bool_, float32, promote
from ..op import Bad, Case, Op, Spec

# Shapes and types ------------------------------------------------------------------------


def broadcast(name: str, shapes) -> tuple[int, ...]:
    """The shape that all broadcast to; ValueError names the shapes and the axis."""
    first = shapes[0]
    if all(x == first for x in shapes):
        return first
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(x)) + tuple(x) for x in shapes]
    result = []
    for d, sizes in enumerate(zip(*padded, strict=True)):
        wide = {n for n in sizes if n != 1}
        if len(wide) > 1:
            listed = " and ".join(str(tuple(x)) for x in shapes)
            raise ValueError(
                f"{name}: shapes {listed} do not broadcast: "
                f"{' != '.join(map(str, sorted(wide)))} at axis {d - rank}"
            )
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def _promoted(dtypes) -> Dtype:
    return functools.reduce(promote, dtypes)


def _as_float(dtype: Dtype) -> Dtype:
    return dtype if dtype.is_float else float32


# How the types of the inputs give the one that the formula computes in, and the result's.
_TYPES: dict[str, Callable[..., tuple[Dtype, Dtype]]] = {
    "number": lambda *ts: (_promoted(ts), _promoted(ts)),
    "float": lambda *ts: (_as_float(_promoted(ts)), _as_float(_promoted(ts))),
    "compare": lambda *ts: (_promoted(ts), bool_),
    "test": lambda *ts: (_as_float(_promoted(ts)), bool_),
    "logic": lambda *ts: (bool_, bool_),
    "bits": lambda *ts: (_promoted(ts), _promoted(ts)),
}


def _picker(types: str | Callable) -> Callable[..., tuple[Any, Dtype]]:
    if callable(types):
        return types
    return lambda *ts, **static: _TYPES[types](*ts)


def _check_kind(name: str, types: str, formula_type: Dtype) -> None:
    if types == "bits" and formula_type.is_float:
        raise TypeError(
            f"{name}: {formula_type.name} has no bits; use an integer or bool"
        )


def fit(g: Any, x: Any) -> Any:
    """A gradient in the shape and dtype of the value it belongs to."""
    from .shape import sum_to

    if g.shape != x.shape:
        g = sum_to(g, shape=x.shape)
    return g if g.dtype is x.dtype else astype(g, x.dtype)


def _fitted(rule: Callable, i: int) -> Callable:
    return lambda g, y, *xs, **static: fit(rule(g, y, *xs, **static), xs[i])


# The entry -------------------------------------------------------------------------------


def elementwise(
    name: str,
    formula: Callable,
    reference: Callable | None = None,
    *,
    types: str | Callable = "number",
    grad: Any = "formula",
    domain: Any = (-3.0, 3.0),
    dtypes=("float32", "float64", "float16", "bfloat16"),
    static: tuple[dict[str, Any], ...] = ({},),
    ulps: float = 4.0,
    cases: Callable | None = None,
    bad=(),
    doc: str = "",
) -> Op:
    """An elementwise operator from its formula.

    `types` says how dtypes combine (see _TYPES); `grad` is "formula" (derived), None, or one
    function an input; `domain` is where the tests draw each input from.
    """
    code = formula.__code__
    arity = code.co_argcount
    inputs = code.co_varnames[:arity]
    options = code.co_varnames[arity : arity + code.co_kwonlyargcount]
    domains = [domain] * arity if isinstance(domain[0], float | int) else list(domain)
    pick = _picker(types)

    def rule(*specs: Spec, **static) -> Spec:
        if len(specs) != arity or not static.keys() <= {*options}:
            given = [*("..." for _ in specs), *(f"{k}=..." for k in static)]
            raise TypeError(
                f"{name}: it is {name}({', '.join([*inputs, *options])}), "
                f"not {name}({', '.join(given)})"
            )
        shape = broadcast(name, [x.shape for x in specs])
        computed, result = pick(*(x.dtype for x in specs), **static)
        if not callable(types):
            _check_kind(name, types, computed)
        return Spec(shape, result)

    def casts(*ts: Dtype, **static) -> list[Dtype]:
        computed = pick(*ts, **static)[0]
        each = computed if isinstance(computed, tuple) else (computed,) * arity
        return [t.compute for t in each]

    if grad == "formula":
        rules = [_derived(name, formula, types, i) for i in range(arity)]
    else:
        rules = grad and [r and _fitted(r, i) for i, r in enumerate(grad)]
    return Op(
        name,
        rule,
        rules,
        reference,
        cases or _cases(domains, dtypes, static),
        formula,
        casts=casts,
        ulps=ulps,
        bad=_bad(name, arity, bad),
        doc=doc,
    )


def _derived(name: str, formula: Callable, types: Any, i: int) -> Callable:
    """The gradient of input i as an elementwise operator of (g, *inputs), made when asked
    for, and differentiable in the same way."""

    @functools.cache
    def make() -> Op:
        def slope(g, *xs, **static):
            return g * s.derivative(formula(*xs, **static), xs[i])

        def pick(*ts, **static):
            return _picker(types)(*ts[1:], **static)[0], ts[0]

        return _part(f"{name}_grad{i}", slope, pick)

    return lambda g, y, *xs, **static: fit(make()(g, *xs, **static), xs[i])


def _part(name: str, formula: Callable, pick: Callable) -> Op:
    """An operator that is a part of another and not listed."""
    rules: dict[int, Callable] = {}

    def grad(i, *args, **static):
        if i not in rules:
            rules[i] = _derived(name, formula, pick, i)
        return rules[i](*args, **static)

    def rule(*specs, **static):
        shape = broadcast(name, [x.shape for x in specs])
        return Spec(shape, pick(*(x.dtype for x in specs), **static)[1])

    def casts(*ts, **static):
        return [pick(*ts, **static)[0].compute] * len(ts)

    return Op(name, rule, grad, formula=formula, casts=casts, listed=False)


def _cases(domains, dtypes, statics) -> Callable:
    arity = len(domains)
    shapes: list[list[tuple[int, ...]]] = [
        [(3, 5)] * arity,
        [()] * arity,
        [(0, 3)] * arity,
    ]
    if arity > 1:
        shapes.append([(4, 1, 7), (3, 7), *[(7,)] * arity][:arity])
    shapes.append([(257,)] * arity)

    def draw(rng, domain, shape):
        return rng.uniform(*domain, shape)

    def cases(rng):
        return [
            Case(
                [draw(rng, d, x) for d, x in zip(domains, each, strict=True)], k, dtypes
            )
            for each in shapes
            for k in statics
        ]

    return cases


def _bad(name: str, arity: int, extra) -> list[Bad]:
    found = list(extra)
    if arity == 2:
        specs = [((3, 4), "float32"), ((5,), "float32")]
        found.append(Bad(specs, {}, ValueError, f"{name}: shapes .* 4 != 5 at axis -1"))
    return found


_INTS = ("int32", "uint32", "int64", "uint8")
_ALL = ("float32", "float64", "float16", "bfloat16", *_INTS)
_POSITIVE = (0.1, 4.0)
_NONZERO = ((-3.0, 3.0), (0.5, 3.0))


def _flat(g, y, *xs, **static):
    """The gradient of a step: zero."""
    return zeros_like(g)


# Types and constants -----------------------------------------------------------------------

zeros_like = elementwise(
    "zeros_like", lambda x: x.const(0), np.zeros_like, grad=None, dtypes=_ALL,
    doc="0 in the shape and dtype of x.",
)  # fmt: skip


def _cast_formula(x, *, dtype):
    checked = x.dtype.is_float and dtype.is_integer
    return x.astype(dtype.compute, "cast_checked" if checked else "cast")


def _cast_reference(x, *, dtype):
    return x.astype(dtype.numpy) if dtype.kind != "float" else x


_astype = elementwise(
    "astype",
    _cast_formula,
    _cast_reference,
    types=lambda t, *, dtype: (t, dtype),
    grad=(lambda g, y, x, *, dtype: g,),
    cases=lambda rng: [
        Case([rng.uniform(lo, 9, (3, 5))], {"dtype": as_dtype(t)}, _ALL)
        for t, lo in [
            ("float32", -9), ("int32", -9), ("bool", -1), ("float16", -9),
            ("int64", -9), ("float64", -9), ("bfloat16", -9), ("uint8", 0), ("uint32", 0),
        ]
    ],
    doc="""x as another dtype. Floats truncate toward zero and saturate; NaN is an error.

    bool is x != 0; integers wrap.
    """,
)  # fmt: skip


def astype(x: Any, dtype: Any, /, *, copy: bool = True) -> Any:
    """x as another dtype; x itself where it has it already (tensors are values).

    Floats to integers truncate toward zero and saturate; a NaN raises ValueError (on a GPU
    at the next read). To bool: x != 0. Between integers: wraps.

    >>> pn.astype(pn.tensor([1.7, -1.7]), pn.int32)
    tensor([ 1, -1], dtype=int32)
    """
    dtype = as_dtype(dtype)
    if x.dtype is dtype:
        return x
    if not dtype.is_float and hasattr(x, "detach"):
        x = x.detach()  # a step: its gradient is zero
    return _astype(x, dtype=dtype)


# Arithmetic --------------------------------------------------------------------------------

add = elementwise(
    "add", lambda x, y: x + y, np.add, dtypes=_ALL,
    grad=(lambda g, z, x, y: g, lambda g, z, x, y: g),
    doc="x + y; or, for bools.",
)  # fmt: skip
subtract = elementwise(
    "subtract", lambda x, y: x - y, np.subtract, dtypes=_ALL,
    grad=(lambda g, z, x, y: g, lambda g, z, x, y: negative(g)),
    doc="x - y.",
)  # fmt: skip
multiply = elementwise(
    "multiply", lambda x, y: x * y, np.multiply, dtypes=_ALL,
    grad=(lambda g, z, x, y: multiply(g, y), lambda g, z, x, y: multiply(g, x)),
    doc="x * y; and, for bools.",
)  # fmt: skip
divide = elementwise(
    "divide", lambda x, y: x / y, np.divide, types="float", domain=_NONZERO,
    grad=(
        lambda g, z, x, y: divide(g, y),
        lambda g, z, x, y: negative(divide(multiply(g, z), y)),
    ),
    doc="x / y; integers divide as float32.",
)  # fmt: skip
floor_divide = elementwise(
    "floor_divide", lambda x, y: x // y, np.floor_divide,
    domain=((-9.0, 9.0), (0.6, 3.0)), dtypes=_ALL, grad=(_flat, _flat),
    doc="floor(x / y), as Python's //; an integer divided by 0 is 0.",
)  # fmt: skip
remainder = elementwise(
    "remainder", lambda x, y: x % y, np.remainder,
    domain=((-9.0, 9.0), (0.6, 3.0)), dtypes=_ALL,
    # The error is that of the quotient: an ulp of x, not of the remainder.
    ulps=16,
    doc="x - y * floor(x / y), with the sign of y, as Python's %.",
)  # fmt: skip
pow = elementwise(
    "pow", lambda x, y: x**y, np.power, domain=((0.2, 3.0), (-2.0, 3.0)), ulps=16,
    doc="x ** y. A negative base needs an integral exponent, else NaN.",
)  # fmt: skip
negative = elementwise(
    "negative", lambda x: -x, np.negative, dtypes=("float32", "float64", "int32", "int64"),
    grad=(lambda g, y, x: negative(g),), doc="-x.",
)  # fmt: skip
abs = elementwise(
    "abs", lambda x: s.apply("abs", x), np.abs, dtypes=("float32", "float64", "int32"),
    doc="|x|; the gradient at 0 is 0.",
)  # fmt: skip
sign = elementwise(
    "sign", lambda x: s.where(x == 0, x.const(0), s.sign(x)), np.sign, dtypes=("float32", "float64", "int32"),
    grad=(_flat,), doc="-1, 0 or 1; NaN for NaN.",
)  # fmt: skip
square = elementwise(
    "square", lambda x: x * x, np.square, dtypes=_ALL,
    grad=(lambda g, y, x: multiply(multiply(g, x), 2),), doc="x * x.",
)  # fmt: skip
reciprocal = elementwise(
    "reciprocal", lambda x: 1 / x, lambda x: 1 / x, types="float", domain=(0.5, 3.0),
    doc="1 / x.",
)  # fmt: skip
maximum = elementwise(
    "maximum", lambda x, y: s.maximum(x, y), np.maximum, dtypes=_ALL,
    doc="The larger of x and y; NaN if either is. Equal values share the gradient.",
)  # fmt: skip
minimum = elementwise(
    "minimum", lambda x, y: s.minimum(x, y), np.minimum, dtypes=_ALL,
    doc="The smaller of x and y; NaN if either is. Equal values share the gradient.",
)  # fmt: skip

# Powers, exponentials, logarithms ------------------------------------------------------------


def _unary(
    name: str,
    formula: Callable,
    reference: Callable,
    domain: Any = (-3.0, 3.0),
    grad: Any = "formula",
    ulps: float = 4.0,
    doc: str = "",
) -> Op:
    return elementwise(
        name,
        formula,
        reference,
        types="float",
        domain=domain,
        grad=grad,
        ulps=ulps,
        doc=doc,
    )


sqrt = _unary(
    "sqrt", lambda x: s.sqrt(x), np.sqrt, _POSITIVE, doc="The square root; NaN below 0."
)
rsqrt = _unary(
    "rsqrt",
    lambda x: s.rsqrt(x),
    lambda x: 1 / np.sqrt(x),
    _POSITIVE,
    doc="1 / sqrt(x).",
)
exp = _unary(
    "exp", lambda x: s.exp(x), np.exp, (-9, 9), (lambda g, y, x: multiply(g, y),),
    doc="e ** x.",
)  # fmt: skip
expm1 = _unary("expm1", lambda x: s.expm1(x), np.expm1, doc="e ** x - 1, exact near 0.")
log = _unary(
    "log", lambda x: s.log(x), np.log, _POSITIVE, (lambda g, y, x: divide(g, x),),
    doc="The natural logarithm; -inf at 0, NaN below.",
)  # fmt: skip
log1p = _unary(
    "log1p",
    lambda x: s.log1p(x),
    np.log1p,
    (-0.9, 4.0),
    doc="log(1 + x), exact near 0.",
)
log2 = _unary(
    "log2", lambda x: s.log2(x), np.log2, _POSITIVE, doc="The logarithm to base 2."
)
log10 = _unary(
    "log10", lambda x: s.log(x) * (1 / math.log(10)), np.log10, _POSITIVE, ulps=6,
    doc="The logarithm to base 10.",
)  # fmt: skip


def _logaddexp(x, y):
    apart = s.where(x == y, x.const(0), s.apply("abs", x - y))  # inf - inf is 0 here
    return s.maximum(x, y) + s.log1p(s.exp(-apart))


logaddexp = elementwise(
    "logaddexp", lambda x, y: _logaddexp(x, y), np.logaddexp,
    types="float", ulps=8, doc="log(exp(x) + exp(y)), without overflow.",
)  # fmt: skip

# Trigonometry --------------------------------------------------------------------------------

sin = _unary(
    "sin", lambda x: s.sin(x), np.sin, (-30, 30), doc="The sine of x in radians."
)
cos = _unary(
    "cos", lambda x: s.cos(x), np.cos, (-30, 30), doc="The cosine of x in radians."
)
tan = _unary(
    "tan", lambda x: s.tan(x), np.tan, (-1.4, 1.4), doc="The tangent of x in radians."
)
asin = _unary(
    "asin", lambda x: s.asin(x), np.arcsin, (-0.95, 0.95), doc="The arc sine."
)
acos = _unary(
    "acos", lambda x: s.acos(x), np.arccos, (-0.95, 0.95), doc="The arc cosine."
)
atan = _unary("atan", lambda x: s.atan(x), np.arctan, (-9, 9), doc="The arc tangent.")
atan2 = elementwise(
    "atan2", lambda y, x: s.atan2(y, x), np.arctan2, types="float",
    domain=((0.3, 3.0), (-3.0, 3.0)), doc="The angle of the point (x, y), in [-pi, pi].",
)  # fmt: skip
sinh = _unary("sinh", lambda x: s.sinh(x), np.sinh, doc="The hyperbolic sine.")
cosh = _unary("cosh", lambda x: s.cosh(x), np.cosh, doc="The hyperbolic cosine.")
tanh = _unary(
    "tanh", lambda x: s.tanh(x), np.tanh, (-9, 9),
    (lambda g, y, x: multiply(g, subtract(1, square(y))),), doc="The hyperbolic tangent.",
)  # fmt: skip
asinh = _unary("asinh", lambda x: s.asinh(x), np.arcsinh, doc="The inverse of sinh.")
acosh = _unary(
    "acosh", lambda x: s.acosh(x), np.arccosh, (1.2, 9.0), doc="The inverse of cosh."
)
atanh = _unary(
    "atanh", lambda x: s.atanh(x), np.arctanh, (-0.9, 0.9), doc="The inverse of tanh."
)


def _erf_reference(x):
    return np.vectorize(math.erf, otypes=[np.float64])(x)


erf = _unary(
    "erf", lambda x: s.erf(x), _erf_reference,
    doc="2 / sqrt(pi) times the integral of exp(-t * t) from 0 to x.",
)  # fmt: skip

# Steps -----------------------------------------------------------------------------------------

floor = _unary(
    "floor",
    lambda x: s.floor(x),
    np.floor,
    grad=(_flat,),
    doc="The integer at or below x.",
)
ceil = _unary(
    "ceil",
    lambda x: s.ceil(x),
    np.ceil,
    grad=(_flat,),
    doc="The integer at or above x.",
)
round = _unary(
    "round", lambda x: s.round(x), np.round, grad=(_flat,),
    doc="The nearest integer; halves go to the even one.",
)  # fmt: skip
trunc = _unary(
    "trunc",
    lambda x: s.trunc(x),
    np.trunc,
    grad=(_flat,),
    doc="x without its fraction.",
)

# Comparisons, tests, logic, bits -----------------------------------------------------------------


def _compare(name, formula, reference, doc):
    return elementwise(
        name, formula, reference, types="compare", grad=None, dtypes=(*_ALL, "bool"), doc=doc,
        cases=lambda rng: [
            Case([rng.integers(-2, 3, a), rng.integers(-2, 3, b)], {}, (*_ALL, "bool"))
            for a, b in [((3, 5), (3, 5)), ((4, 1, 7), (3, 7)), ((), ()), ((0,), (1,))]
        ],
    )  # fmt: skip


equal = _compare("equal", lambda x, y: x == y, np.equal, "x == y, as bools.")
not_equal = _compare(
    "not_equal", lambda x, y: x != y, np.not_equal, "x != y, as bools."
)
less = _compare("less", lambda x, y: x < y, np.less, "x < y, as bools.")
less_equal = _compare(
    "less_equal", lambda x, y: x <= y, np.less_equal, "x <= y, as bools."
)
greater = _compare("greater", lambda x, y: x > y, np.greater, "x > y, as bools.")
greater_equal = _compare(
    "greater_equal", lambda x, y: x >= y, np.greater_equal, "x >= y, as bools."
)

_SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -2.0)


def _test(name, formula, reference, doc):
    return elementwise(
        name, formula, reference, types="test", grad=None, doc=doc,
        cases=lambda rng: [
            Case([np.array(_SPECIAL)], {}, ("float32", "float64", "float16", "bfloat16")),
            Case([np.arange(4)], {}, _INTS),
        ],
    )  # fmt: skip


isnan = _test("isnan", lambda x: s.isnan(x), np.isnan, "Whether x is NaN.")
isinf = _test("isinf", lambda x: s.isinf(x), np.isinf, "Whether x is an infinity.")
isfinite = _test(
    "isfinite",
    lambda x: s.isfinite(x),
    np.isfinite,
    "Whether x is neither NaN nor infinite.",
)


def _logical(name, formula, reference, doc):
    arity = formula.__code__.co_argcount
    return elementwise(
        name, formula, reference, types="logic", grad=None, doc=doc,
        cases=lambda rng: [
            Case([rng.integers(0, 2, (3, 7)) for _ in range(arity)], {}, ("bool", *_ALL))
        ],
    )  # fmt: skip


logical_and = _logical(
    "logical_and", lambda x, y: x & y, np.logical_and, "Both are not 0."
)
logical_or = _logical(
    "logical_or", lambda x, y: x | y, np.logical_or, "Either is not 0."
)
logical_xor = _logical(
    "logical_xor", lambda x, y: x ^ y, np.logical_xor, "Just one is not 0."
)
logical_not = _logical("logical_not", lambda x: ~x, np.logical_not, "It is 0.")


def _bitwise(
    name, formula, reference, doc, high=1 << 20, dtypes=("int32", "int64", "uint32")
):
    arity = formula.__code__.co_argcount
    domain = [(0, 1 << 20), (0, high)][:arity]
    return elementwise(
        name, formula, reference, types="bits", grad=None, doc=doc,
        cases=lambda rng: [
            Case([rng.integers(*d, (3, 7)) for d in domain], {}, dtypes),
        ],
        bad=[Bad([((2,), "float32")] * arity, {}, TypeError, f"{name}: float32 has no bits")],
    )  # fmt: skip


bitwise_and = _bitwise("bitwise_and", lambda x, y: x & y, np.bitwise_and, "x & y.")
bitwise_or = _bitwise("bitwise_or", lambda x, y: x | y, np.bitwise_or, "x | y.")
bitwise_xor = _bitwise("bitwise_xor", lambda x, y: x ^ y, np.bitwise_xor, "x ^ y.")
bitwise_invert = _bitwise(
    "bitwise_invert", lambda x: ~x, np.invert, "~x.", dtypes=("int32", "int64", "bool")
)
bitwise_left_shift = _bitwise(
    "bitwise_left_shift", lambda x, y: x << y, np.left_shift, "x << y.", 10
)
bitwise_right_shift = _bitwise(
    "bitwise_right_shift", lambda x, y: x >> y, np.right_shift, "x >> y.", 10
)

# Choices -------------------------------------------------------------------------------------------


def _where_types(c, x, y):
    both = promote(x, y)
    return (bool_, both, both), both


where = elementwise(
    "where",
    lambda condition, x, y: s.where(condition, x, y),
    lambda condition, x, y: np.where(condition, x, y),
    types=_where_types,
    domain=((-1.0, 1.0), (-3.0, 3.0), (-3.0, 3.0)),
    dtypes=("float32", "float64"),
    grad=(
        None,
        lambda g, z, c, x, y: where(c, g, 0),
        lambda g, z, c, x, y: where(c, 0, g),
    ),
    cases=lambda rng: [
        Case(
            [rng.integers(0, 2, a), rng.normal(size=b), rng.normal(size=c)],
            {},
            _ALL[:2],
        )
        for a, b, c in [
            ((3, 5), (3, 5), (3, 5)),
            ((4, 1), (1, 5), ()),
            ((0,), (0,), (1,)),
        ]
    ],
    doc="x where the condition holds, else y.",
)

_clip = elementwise(
    "clip",
    lambda x, low, high: s.minimum(s.maximum(x, low), high),
    lambda x, low, high: np.minimum(np.maximum(x, low), high),
    domain=((-3.0, 3.0), (-2.0, -1.0), (1.0, 2.0)),
    grad=(
        lambda g, y, x, low, high: where(
            logical_and(greater_equal(x, low), less_equal(x, high)), g, 0
        ),
        lambda g, y, x, low, high: where(less(x, low), g, 0),
        lambda g, y, x, low, high: where(greater(x, high), g, 0),
    ),
    doc="x limited to [low, high].",
)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """x limited to [min, max]; None is no limit. NaN stays NaN.

    >>> pn.clip(pn.tensor([-2.0, 0.5, 9.0]), 0, 1)
    tensor([0. , 0.5, 1. ])
    """
    if min is None and max is None:
        return x
    if min is None:
        return minimum(x, max)
    return maximum(x, min) if max is None else _clip(x, min, max)


wrap_index = elementwise(
    "wrap_index",
    lambda i, n: s.wrap_index(i, n),
    lambda i, n: np.where(i < 0, i + n, i),
    grad=None,
    cases=lambda rng: [
        Case([rng.integers(-5, 5, (3, 7)), np.array(5)], {}, ("int32", "int64"))
    ],
    doc="i, or i + n where i < 0; IndexError outside [-n, n).",
)

# Activations ---------------------------------------------------------------------------------------


def _activation(
    name: str,
    formula: Callable,
    reference: Callable,
    *,
    static: tuple[dict[str, Any], ...] = ({},),
    grad: Any = "formula",
    ulps: float = 8.0,
    doc: str = "",
) -> Op:
    return elementwise(
        name, formula, reference, types="float", domain=(-6.0, 6.0), static=static, grad=grad,
        ulps=ulps, doc=doc,
    )  # fmt: skip


relu = _activation(
    "relu", lambda x: s.maximum(x, 0), lambda x: np.maximum(x, 0),
    # Of y, so that x need not be kept.
    grad=(lambda g, y, x: where(greater(y, 0), g, 0),), doc="max(x, 0).",
)  # fmt: skip


def _sigmoid(x):
    e = s.exp(-s.apply("abs", x))
    return s.where(x >= 0, x.const(1), e) / (1 + e)


sigmoid = _activation(
    "sigmoid", lambda x: _sigmoid(x), lambda x: 1 / (1 + np.exp(-x)),
    grad=(lambda g, y, x: multiply(g, multiply(y, subtract(1, y))),),
    doc="1 / (1 + exp(-x)), without overflow.",
)  # fmt: skip


def _softplus(x):
    return s.maximum(x, 0) + s.log1p(s.exp(-s.apply("abs", x)))


softplus = _activation(
    "softplus", lambda x: _softplus(x), lambda x: np.logaddexp(x, 0),
    grad=(lambda g, y, x: multiply(g, sigmoid(x)),),
    doc="log(1 + exp(x)), without overflow.",
)  # fmt: skip
silu = _activation(
    "silu",
    lambda x: x * _sigmoid(x),
    lambda x: x / (1 + np.exp(-x)),
    doc="x * sigmoid(x).",
)


def _mish_reference(x):
    return x * np.tanh(np.logaddexp(x, 0))


mish = _activation(
    "mish", lambda x: x * s.tanh(_softplus(x)), _mish_reference,
    doc="x * tanh(softplus(x)); Misra, BMVC 2020.",
)  # fmt: skip


def _gelu(x, *, approximate):
    if approximate == "none":
        return 0.5 * x * (1 + s.erf(x * math.sqrt(0.5)))
    return 0.5 * x * (1 + s.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _gelu_reference(x, *, approximate):
    if approximate == "none":
        return 0.5 * x * (1 + _erf_reference(x * math.sqrt(0.5)))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


# Below -3, 1 + erf cancels: the error is an ulp of 1, and the bound is one of |x|.
_gelu_op = _activation(
    "gelu", _gelu, _gelu_reference, ulps=8,
    static=({"approximate": "none"}, {"approximate": "tanh"}),
)  # fmt: skip


def gelu(x: Any, approximate: str = "none") -> Any:
    """x times the normal distribution function of x; Hendrycks and Gimpel, 2016.

    approximate: "none", or "tanh" for 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).

    >>> pn.gelu(pn.tensor(1.0)).item()
    0.84134...
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")
    return _gelu_op(x, approximate=approximate)


_leaky_relu = _activation(
    "leaky_relu",
    lambda x, *, slope: s.where(x > 0, x, x * slope),
    lambda x, *, slope: np.where(x > 0, x, x * slope),
    static=({"slope": 0.01},),
)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """x where x > 0, else negative_slope * x."""
    return _leaky_relu(x, slope=float(negative_slope))


_elu = _activation(
    "elu",
    lambda x, *, alpha: s.where(x > 0, x, alpha * s.expm1(s.minimum(x, 0))),
    lambda x, *, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    static=({"alpha": 1.0}, {"alpha": 0.5}),
    grad=(
        lambda g, y, x, *, alpha: where(greater(x, 0), g, multiply(g, add(y, alpha))),
    ),
)


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x where x > 0, else alpha * (exp(x) - 1); Clevert et al., ICLR 2016."""
    return _elu(x, alpha=float(alpha))
