"""Scalar functions of WGSL against NumPy in float64, in ulps, over the whole range.

The reference is exact to far below a float32 ulp. Inputs and results that are denormal
may be flushed (SwiftShader does); the rest is held to the bound in scalar.wgsl.
"""

import itertools
import math

import numpy as np
import pytest

from portanet import scalars as S
from portanet.dtypes import bool_, float32, int32, uint32
from portanet.program import Program
from tests.test_backend_wgpu import BACKEND

pytestmark = pytest.mark.skipif(BACKEND is None, reason="no WebGPU adapter here")
TINY = 2.0**-126  # the smallest normal float32


@pytest.fixture(autouse=True)
def overflow_is_expected():
    with np.errstate(all="ignore"):
        yield


def run(formula, *arrays, dtypes=None):
    """The formula of arrays, element by element, on the device."""
    inputs = dtypes or (float32,) * len(arrays)
    expression = S.trace(formula, inputs)
    output = expression.dtype_of(expression.outputs[0])
    modes = "c" * (1 + len(arrays))
    program = Program("elementwise", (output,), inputs, (), expression, modes)
    n = len(arrays[0])
    buffers = [BACKEND.upload(a, t) for a, t in zip(arrays, inputs, strict=True)]
    y = BACKEND.alloc(4 * n)
    BACKEND.build(program, (n, *[0] * len(modes)))(y, *buffers)
    return BACKEND.read(y, output, 0, n)


def ulps(found, exact):
    """Errors in ulps of the exact result; infinite where the kind or sign is wrong."""
    size = np.abs(exact)
    exponent = np.floor(np.log2(np.clip(size, TINY, 2.0**127)))
    error = np.abs(found.astype(np.float64) - exact) / 2.0 ** (exponent - 23)
    rounded = exact.astype(np.float32)
    same = (found == rounded) | (np.isnan(found) & np.isnan(exact))
    flushed = (size < TINY) & (np.abs(found) <= TINY)
    error = np.where(same | flushed, 0, error)
    near_overflow = np.abs(size / np.finfo(np.float32).max - 1) < 1e-6
    wrong = np.isnan(found) != np.isnan(exact)
    wrong |= (np.isinf(found) != np.isinf(rounded)) & ~near_overflow
    wrong |= (found == 0) & (exact == 0) & (np.signbit(found) != np.signbit(exact))
    return np.where(wrong, np.inf, error)


def worst(found, exact, *inputs):
    """(largest error, inputs there, what was found); denormal inputs don't count."""
    error = ulps(found, exact)
    for x in inputs:
        error = np.where((np.abs(x) < TINY) & (x != 0), 0, error)
    at = int(np.argmax(error))
    return error[at], [float(x[at]) for x in inputs], float(found[at])


SPECIAL = np.float32(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2, -2, 0.5, -0.5, 3, -3, 3.4028235e38]
    + [-3.4028235e38, 1.1754944e-38, -1.1754944e-38, 16777215, 33554432, 1e10, 1 / 3]
    + [88.72284, 88.7228, -87.4, -103.9, 89.41, 89.42, 6.3818672e36, 8388607.5, -1e5]
)


def any_float(n, seed):
    """Uniform over the bit patterns."""
    bits = np.random.default_rng(seed).integers(0, 1 << 32, n, dtype=np.uint64)
    return bits.astype(np.uint32).view(np.float32)


def points():
    """Inputs of functions of one argument: every size, and near what is difficult."""
    rng = np.random.default_rng(1)
    n = 1 << 14
    scales = (1e-3, 0.1, 1, 3, 10, 50, 200, 1e4)
    parts = [rng.standard_normal(n) * s for s in scales]
    parts += [1 + rng.standard_normal(n) * 1e-2, rng.uniform(-1.2, 1.2, n)]
    parts += [np.arange(-3000, 3000) / 8, np.arange(-3000, 3000) * (np.pi / 4)]
    x = np.concatenate(parts).astype(np.float32)
    inf = np.float32(np.inf)
    beside = [np.nextafter(x[-6000:], inf), np.nextafter(x[-6000:], -inf)]
    return np.concatenate([SPECIAL, any_float(1 << 18, 0), x, *beside])


def quadrant(x, add):
    """sin(pi x) for add 0, cos(pi x) for 1; the reduction is exact."""
    turn = np.fmod(x, 2)
    n = np.round(2 * turn)
    r = np.pi * (turn - n / 2)
    which = (np.nan_to_num(n).astype(int) + add) & 3
    y = np.choose(which, [np.sin(r), np.cos(r), -np.sin(r), -np.cos(r)])
    zero = np.copysign(0, x) if add == 0 else 0.0
    return np.where(y == 0, zero, y)


# name -> (reference, bound in ulps). The bounds are those of scalar.wgsl.
UNARY = {
    "sqrt": (np.sqrt, 3), "rsqrt": (lambda x: 1 / np.sqrt(x), 4),
    "exp": (np.exp, 2), "expm1": (np.expm1, 2),
    "log": (np.log, 2), "log1p": (np.log1p, 3), "log2": (np.log2, 3),
    "sin": (np.sin, 3), "cos": (np.cos, 3), "tan": (np.tan, 4),
    "asin": (np.arcsin, 3), "acos": (np.arccos, 4), "atan": (np.arctan, 3.1),
    "sinh": (np.sinh, 3), "cosh": (np.cosh, 3), "tanh": (np.tanh, 3),
    "asinh": (np.arcsinh, 3), "acosh": (np.arccosh, 4), "atanh": (np.arctanh, 4),
    "erf": (np.vectorize(math.erf, otypes=[float]), 2),
    "sinpi": (lambda x: quadrant(x, 0), 2), "cospi": (lambda x: quadrant(x, 1), 2),
    "floor": (np.floor, 0), "ceil": (np.ceil, 0), "round": (np.rint, 0),
    "trunc": (np.trunc, 0), "sign": (lambda x: np.sign(x) + 0.0, 0),
}  # fmt: skip
BINARY = {
    "add": (np.add, 0.5), "sub": (np.subtract, 0.5), "mul": (np.multiply, 0.5),
    "div": (np.divide, 2.5), "pow": (np.float_power, 3), "atan2": (np.arctan2, 4),
    "mod": (np.mod, 1), "floordiv": (np.floor_divide, 3),
    "maximum": (np.maximum, 0), "minimum": (np.minimum, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_function_of_one_argument_is_within_its_bound(name):
    reference, bound = UNARY[name]
    x = points()
    exact = reference(x.astype(np.float64))
    error, at, found = worst(run(getattr(S, name), x), exact, x)
    assert error <= bound, f"{name}{at} is {found}: {error:.3g} ulp"


def pairs():
    """Inputs of functions of two arguments."""
    rng = np.random.default_rng(2)
    n = 1 << 16
    normal, whole = rng.standard_normal, rng.integers(-20, 20, (2, n))
    a, b = (v.ravel() for v in np.meshgrid(SPECIAL, SPECIAL))
    left = [a, any_float(n, 3), np.abs(normal(n) * 3), 1 + normal(n) * 1e-3]
    left += [np.exp(rng.uniform(-80, 80, n)), normal(n) * 10, whole[0]]
    right = [b, any_float(n, 4), normal(n) * 20, normal(n) * 30000]
    right += [rng.uniform(-1.2, 1.2, n), normal(n) * 10, whole[1]]
    return [np.concatenate(v).astype(np.float32) for v in (left, right)]


@pytest.mark.parametrize("name", BINARY)
def test_function_of_two_arguments_is_within_its_bound(name):
    reference, bound = BINARY[name]
    a, b = pairs()
    exact = reference(a.astype(np.float64), b.astype(np.float64))
    if name == "pow":  # as C has it, NaN included
        exact = np.where((a == 1) | (b == 0), 1, exact)
    found = run(lambda x, y: S.apply(name, x, y), a, b)
    if name in ("maximum", "minimum"):  # of zeros, either
        found, exact = found + 0.0, exact + 0.0
    if name == "mod":  # a remainder that is denormal is flushed before y is added
        exact = np.where(np.abs(np.fmod(a, b)) < TINY, found, exact)
    error, at, found = worst(found, exact, a, b)
    assert error <= bound, f"{name}{at} is {found}: {error:.3g} ulp"


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
@pytest.mark.parametrize("dtype", [bool_, int32, uint32, float32], ids=str)
def test_comparison(name, dtype):
    a, b = (v.ravel() for v in np.meshgrid(SPECIAL, SPECIAL))
    if dtype is not float32:
        few = np.array([0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1], np.uint32)
        a, b = (v.ravel() for v in np.meshgrid(few, few))
        a, b = a.astype(dtype.numpy), b.astype(dtype.numpy)
    else:  # denormals may compare as zero
        a, b = (np.where(np.abs(v) < TINY, 0, v).astype(np.float32) for v in (a, b))
    names = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal"}
    names |= {"gt": "greater", "ge": "greater_equal"}
    found = run(lambda x, y: S.apply(name, x, y), a, b, dtypes=(dtype, dtype))
    assert np.array_equal(found, getattr(np, names[name])(a, b))


@pytest.mark.parametrize("name", ["isnan", "isinf", "isfinite"])
def test_kind_of_a_float(name):
    x = points()
    assert np.array_equal(run(getattr(S, name), x), getattr(np, name)(x))


# ------------------------------------------------------------------ integers

EDGES = np.array(
    [0, 1, 2, 3, 7, -1, -2, -3, -7, 31, 32, 33, 100, -100, 2**31 - 1, -(2**31)],
    np.int64,
)


def integer_reference(name, x, y, bits, signed):
    """One result on Python's integers."""
    if name in ("floordiv", "mod") and y == 0:
        return 0
    if name == "shl":
        return x << y if 0 <= y < bits else 0
    if name == "shr":
        return x >> y if 0 <= y < bits else (-1 if x < 0 else 0)
    if name == "pow" and y < 0:
        return {0: 0, 1: 1, -1: 1 - 2 * (y & 1)}.get(x, 0)
    return {
        "add": lambda: x + y,
        "sub": lambda: x - y,
        "mul": lambda: x * y,
        "floordiv": lambda: x // y,
        "mod": lambda: x % y,
        "maximum": lambda: max(x, y),
        "minimum": lambda: min(x, y),
        "pow": lambda: pow(x, y, 1 << bits),
        "and": lambda: x & y,
        "or": lambda: x | y,
        "xor": lambda: x ^ y,
    }[name]()


INTEGER = [
    "add", "sub", "mul", "floordiv", "mod", "maximum", "minimum", "pow", "and", "or",
    "xor", "shl", "shr",
]  # fmt: skip


@pytest.mark.parametrize("dtype", [int32, uint32], ids=str)
@pytest.mark.parametrize("name", INTEGER)
def test_integers_wrap_and_divide_as_in_python(name, dtype):
    values = EDGES.astype(dtype.numpy)
    a, b = (v.ravel() for v in np.meshgrid(values, values))
    found = run(lambda x, y: S.apply(name, x, y), a, b, dtypes=(dtype, dtype))
    exact = [
        integer_reference(name, int(x), int(y), 32, dtype is int32)
        for x, y in zip(a, b)
    ]
    wrapped = np.array([v & 0xFFFFFFFF for v in exact], np.uint32).view(dtype.numpy)
    assert np.array_equal(found, wrapped)


@pytest.mark.parametrize("dtype", [int32, uint32], ids=str)
@pytest.mark.parametrize("name", ["neg", "abs", "sign", "not"])
def test_functions_of_one_integer(name, dtype):
    x = EDGES.astype(dtype.numpy)
    wide = x.astype(np.int64)
    exact = {"neg": -wide, "abs": np.abs(wide), "sign": np.sign(wide), "not": ~wide}[
        name
    ]
    found = run(lambda v: S.apply(name, v), x, dtypes=(dtype,))
    assert np.array_equal(found, exact.astype(np.uint32).view(dtype.numpy))


@pytest.mark.parametrize("name", ["and", "or", "xor", "not"])
def test_logic(name):
    a, b = np.array(list(itertools.product([False, True], repeat=2))).T.copy()
    arrays = (a,) if name == "not" else (a, b)
    found = run(lambda *v: S.apply(name, *v), *arrays, dtypes=(bool_,) * len(arrays))
    assert np.array_equal(found, getattr(np, f"logical_{name}")(*arrays))


# --------------------------------------------------------------------- casts


@pytest.mark.parametrize("dtype", [int32, uint32], ids=str)
def test_floats_to_integers_truncate_and_saturate(dtype):
    x = np.concatenate([points(), np.float32([2**31, -(2**31), 2**32, 2147483520])])
    low, high = np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max
    exact = np.clip(np.trunc(np.nan_to_num(x.astype(np.float64))), low, high)
    exact = np.where(np.isinf(x), np.where(x > 0, high, low), exact)
    assert np.array_equal(run(lambda v: v.astype(dtype), x), exact.astype(dtype.numpy))


def test_anything_to_bool_is_whether_it_is_not_zero():
    x = np.concatenate([SPECIAL, np.float32([1e-45])])
    assert np.array_equal(run(lambda v: v.astype(bool_), x), x != 0)
    x = EDGES.astype(np.int32)
    assert np.array_equal(run(lambda v: v.astype(bool_), x, dtypes=(int32,)), x != 0)


def test_integers_and_bools_to_others():
    x = EDGES.astype(np.int32)
    as_unsigned = run(lambda v: v.astype(uint32), x, dtypes=(int32,))
    assert np.array_equal(as_unsigned, x.view(np.uint32))
    for dtype, array in ((int32, x), (uint32, x.view(np.uint32)), (bool_, x != 0)):
        found = run(lambda v: v.astype(float32), array, dtypes=(dtype,))
        assert np.array_equal(found, array.astype(np.float32))


def test_constants_are_exact():
    constants = [0.1, -0.0, 1e-45, 1e38, -3.5, 16777217.0, float("inf"), -float("inf")]
    x = np.float32([1])
    for c in constants:
        found = run(lambda v, c=c: S.where(v > 0, v.const(c), v), x)
        assert found.view(np.uint32)[0] == np.float32(c).view(np.uint32)
    for c in (-(2**31), 2**31 - 1, -1):
        assert run(lambda v, c=c: v * 0 + c, np.int32([1]), dtypes=(int32,))[0] == c
