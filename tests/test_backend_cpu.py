"""The cpu backend against NumPy, at the level of programs and words."""

import gc
import hashlib
import itertools
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import portanet as pn
from portanet import _c, backend_cpu, dtypes, errors, program, scalars

FLOATS = (dtypes.float32, dtypes.float64)
SIZES = (0, 1, 7, 64, 1023, 1024, 1025, 4099)
cpu = backend_cpu.Backend()


def make_program(formula, inputs, outputs, modes=None, rank=0, label="probe"):
    expression = scalars.trace(formula, inputs)
    modes = modes or "c" * (len(inputs) + len(outputs))
    return program.Program(
        "elementwise", tuple(outputs), tuple(inputs), (), expression, modes, rank, label
    )


def run(formula, arrays, outputs):
    """The results of a formula on contiguous arrays of one size."""
    inputs = [dtypes.as_dtype(x.dtype) for x in arrays]
    n = arrays[0].size
    made = make_program(formula, inputs, outputs)
    buffers = [cpu.upload(x, t) for x, t in zip(arrays, inputs, strict=True)]
    results = [cpu.alloc(n * t.itemsize) for t in outputs]
    cpu.build(made, [n, *[0] * (len(arrays) + len(outputs))])(*results, *buffers)
    return [cpu.read(r, t, 0, n) for r, t in zip(results, outputs, strict=True)]


def primitive(name):
    return lambda *xs: scalars.apply(name, *xs)


def result_of(name, dtype):
    return dtypes.bool_ if name in scalars._TO_BOOL else dtype


def same_bits(a, b):
    """Equal, bit for bit, but for the payload of NaN."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind not in "biu":
        assert np.array_equal(np.isnan(a), np.isnan(b))
        a, b = np.where(np.isnan(a), 0, a), np.where(np.isnan(b), 0, b)
        np.testing.assert_array_equal(np.signbit(a), np.signbit(b))
    np.testing.assert_array_equal(a, b)


# ---- Samples

SPECIAL_FLOATS = [0.0, -0.0, 1, -1, 0.5, -0.5, 2.5, -2.5, math.inf, -math.inf, math.nan]


def sample(dtype, n, seed=0):
    """Values of a type: special ones, then random ones of every magnitude."""
    rng = np.random.default_rng([seed, dtype.code])
    numpy = dtype.numpy
    if dtype.kind == "bool":
        return rng.integers(0, 2, n).astype(bool)
    if dtype.is_integer:
        info = np.iinfo(numpy)
        special = [0, 1, 2, 3, info.min, info.max, info.max - 1]
        near = rng.integers(max(info.min, -9), 9, n)
        wide = rng.integers(info.min, info.max, n, dtype=numpy, endpoint=True)
        x = np.where(rng.random(n) < 0.5, near, wide).astype(numpy)
    else:
        info = dtypes_finfo(dtype)
        special = [*SPECIAL_FLOATS, info[0], -info[0], info[1], 1e-4, 100.0]
        scale = np.exp2(rng.integers(-12, 12, n))
        with np.errstate(all="ignore"):
            x = (rng.standard_normal(n) * scale).astype(numpy)
            special = np.array(special).astype(numpy)
    x = np.concatenate([np.array(special).astype(numpy), x])[:n]
    return x if seed == 0 else rng.permutation(x)


def dtypes_finfo(dtype):
    """The largest finite and the smallest positive number."""
    import ml_dtypes

    info = ml_dtypes.finfo(dtype.numpy)
    return float(info.max), float(info.smallest_subnormal)


# ---- Every primitive and compute type

wide = np.longdouble


def turned(x, quarters):
    """sin(pi x + quarters pi / 2), by exact reduction."""
    r = np.fmod(x, wide(2))
    q = np.rint(2 * r)
    t = (r - q / 2) * wide("3.14159265358979323846264338327950288")
    k = (np.nan_to_num(q).astype(int) + quarters) % 4
    y = np.choose(k, [np.sin(t), np.cos(t), -np.sin(t), -np.cos(t)])
    if quarters:
        return y + 0.0
    return np.where(y == 0, np.copysign(0, x), y)


def power(x, y):
    if not np.issubdtype(x.dtype, np.integer):
        return np.power(x.astype(wide), y.astype(wide))
    bits = 8 * x.itemsize

    def one(a, b):
        a, b = int(a), int(b)
        if b < 0:
            return {1: 1, -1: 1 if b % 2 == 0 else -1}.get(a, 0)
        return pow(a, b, 1 << bits)

    values = [one(a, b) % (1 << bits) for a, b in zip(x, y, strict=True)]
    return np.array(values, np.uint64).astype(x.dtype)


def shift(left):
    def one(a, b, bits):
        a, b = int(a), int(b)
        if not 0 <= b < bits:
            return -1 if not left and a < 0 else 0
        return a << b if left else a >> b

    def all_of(x, y):
        bits = 8 * x.itemsize
        pairs = zip(x, y, strict=True)
        values = [one(a, b, bits) % (1 << bits) for a, b in pairs]
        return np.array(values, np.uint64).astype(x.dtype)

    return all_of


def propagating(choose):
    """NumPy's maximum and minimum, with the first of two zeros."""

    def pick(x, y):
        return np.where(choose(x, y) | (x != x), x, y)

    return pick


error_function = np.vectorize(math.erf, otypes=[float])

# name -> the exact result, elementwise on arrays of the compute type.
EXACT = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "neg": np.negative,
    "abs": np.abs,
    "sign": lambda x: np.where(x == 0, x, np.sign(x)),
    "maximum": propagating(np.greater_equal),
    "minimum": propagating(np.less_equal),
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "isfinite": np.isfinite,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "shl": shift(left=True),
    "shr": shift(left=False),
}
# name -> (the function in more precision, bound in ulps for float32).
ROUNDED = {
    "exp": (np.exp, 1.0),
    "expm1": (np.expm1, 0.6),
    "log": (np.log, 1.0),
    "log1p": (np.log1p, 0.6),
    "log2": (np.log2, 0.6),
    "sin": (np.sin, 0.6),
    "cos": (np.cos, 0.6),
    "tan": (np.tan, 1.0),
    "asin": (np.arcsin, 0.6),
    "acos": (np.arccos, 0.6),
    "atan": (np.arctan, 0.6),
    "sinh": (np.sinh, 0.6),
    "cosh": (np.cosh, 0.6),
    "tanh": (np.tanh, 1.5),
    "asinh": (np.arcsinh, 0.6),
    "acosh": (np.arccosh, 0.6),
    "atanh": (np.arctanh, 0.6),
    "erf": (error_function, 5.1),
    "sinpi": (lambda x: turned(x, 0), 0.6),
    "cospi": (lambda x: turned(x, 1), 0.6),
    "pow": (power, 0.6),
    "atan2": (np.arctan2, 0.6),
}
LIBM_ULPS = 3  # float64 is libm's, and erf's reference is itself a double
CASES = [
    pytest.param(name, t, id=f"{name}-{t.name}")
    for name, (_, types) in scalars.PRIMITIVES.items()
    for t in types
]


def ulps(y, exact):
    """The largest distance in ulps; what is not finite, and zeros' signs, must agree."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(y.dtype)
    finite = np.isfinite(rounded) & np.isfinite(y)
    same_bits(y[~finite], rounded[~finite])
    zero = (rounded == 0) & (y == 0)
    np.testing.assert_array_equal(np.signbit(y[zero]), np.signbit(rounded[zero]))
    y, exact = y[finite], exact[finite].astype(wide)
    spacing = np.spacing(np.abs(rounded[finite])).astype(wide)
    return float(np.max(np.abs(y.astype(wide) - exact) / spacing, initial=0))


def test_every_primitive_has_a_reference():
    assert set(EXACT) | set(ROUNDED) == set(scalars.PRIMITIVES)
    assert len(CASES) == 175


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_primitive_is_what_numpy_computes(name, dtype):
    count, _ = scalars.PRIMITIVES[name]
    for n in SIZES:
        arrays = [sample(dtype, n, seed) for seed in range(count)]
        (y,) = run(primitive(name), arrays, [result_of(name, dtype)])
        with np.errstate(all="ignore"):
            if name in EXACT or not dtype.is_float:
                exact = EXACT.get(name, power)(*arrays)
                same_bits(y, exact)
            else:
                reference, bound = ROUNDED[name]
                exact = reference(*[x.astype(wide) for x in arrays])
                assert ulps(y, exact) <= (bound if dtype.itemsize == 4 else LIBM_ULPS)


@pytest.mark.parametrize("name", [n for n in ROUNDED if n not in ("pow", "atan2")])
def test_float32_function_is_accurate_over_all_magnitudes(name):
    bits = np.arange(0, 1 << 32, 40_009, dtype=np.uint64).astype(np.uint32)
    near = np.random.default_rng(3).uniform(-10, 10, 100_003).astype(np.float32)
    x = np.concatenate([bits.view(np.float32), near, 1 + near / 100])
    (y,) = run(primitive(name), [x], [dtypes.float32])
    reference, bound = ROUNDED[name]
    with np.errstate(all="ignore"):
        exact = reference(x.astype(wide if "pi" in name else float))
    assert ulps(y, exact) <= bound


@pytest.mark.parametrize("name", ["pow", "atan2"])
def test_function_of_two_float32_is_accurate(name):
    rng = np.random.default_rng(4)
    x = np.exp2(rng.uniform(-20, 20, 200_003)).astype(np.float32)
    y = rng.uniform(-30, 30, x.size).astype(np.float32)
    special = np.array([*SPECIAL_FLOATS, 3, -3, 1e30, 1e-45, 2**24 + 2], np.float32)
    pairs = np.array(list(itertools.product(special, special)), np.float32)
    x, y = np.concatenate([x, pairs[:, 0]]), np.concatenate([y, pairs[:, 1]])
    (z,) = run(primitive(name), [x, y], [dtypes.float32])
    reference = np.power if name == "pow" else np.arctan2
    with np.errstate(all="ignore"):
        exact = reference(x.astype(float), y.astype(float))
    assert ulps(z, exact) <= ROUNDED[name][1]


# ---- Casts, selections, positions, faults

COMPUTE = sorted(set(dtypes.COMPUTE), key=lambda t: t.code)


def cast_reference(x, to):
    if to.kind == "bool":
        return x != 0
    if to.is_float or x.dtype.kind in "biu":
        return x.astype(to.numpy)
    info = np.iinfo(to.numpy)

    def one(v):
        if v != v:
            return 0
        return int(v) if info.min < v < info.max else info.max if v > 0 else info.min

    return np.array([one(v) for v in x.tolist()], to.numpy)


@pytest.mark.parametrize(
    ("source", "target"),
    [pytest.param(a, b, id=f"{a.name}-{b.name}") for a in COMPUTE for b in COMPUTE],
)
def test_cast(source, target):
    x = sample(source, 1025)
    (y,) = run(lambda v: v.astype(target), [x], [target])
    with np.errstate(all="ignore"):
        same_bits(y, cast_reference(x, target))


@pytest.mark.parametrize("source", FLOATS, ids=str)
@pytest.mark.parametrize("target", [dtypes.int32, dtypes.uint32, dtypes.int64], ids=str)
def test_checked_cast_refuses_nan_alone(source, target):
    x = sample(source, 1025)
    whole = np.where(np.isnan(x), 0, x)
    checked = lambda v: v.astype(target, "cast_checked")  # noqa: E731
    with np.errstate(all="ignore"):
        same_bits(run(checked, [whole], [target])[0], cast_reference(whole, target))
    with pytest.raises(ValueError, match=r"^probe: NaN has no integer value"):
        run(checked, [x], [target])


@pytest.mark.parametrize("dtype", COMPUTE, ids=str)
def test_where_chooses(dtype):
    a, b = sample(dtype, 1025), sample(dtype, 1025, 1)
    c = sample(dtypes.bool_, 1025, 2)
    same_bits(run(scalars.where, [c, a, b], [dtype])[0], np.where(c, a, b))
    one = a[1].item()
    for formula, expected in (
        (lambda c, a, b: scalars.where(c, a, a.const(one)), np.where(c, a, one)),
        (lambda c, a, b: scalars.where(c, a.const(one), b), np.where(c, one, b)),
        (
            lambda c, a, b: scalars.where(c, a.const(one), a.const(0)),
            np.where(c, one, 0),
        ),
    ):
        y = run(formula, [c, a, b], [dtype])[0]
        same_bits(y, expected.astype(dtype.numpy))


@pytest.mark.parametrize("dtype", scalars.NUMBERS, ids=str)
def test_index_is_the_position(dtype):
    n = 100_003
    (y,) = run(lambda x: scalars.index(x, dtype), [np.zeros(n, np.float32)], [dtype])
    same_bits(y, np.arange(n).astype(dtype.numpy))


@pytest.mark.parametrize("dtype", scalars.INTEGERS, ids=str)
def test_wrap_index_counts_from_the_end(dtype):
    wrap = lambda i: scalars.wrap_index(i, i.const(10))  # noqa: E731
    i = np.arange(10) if dtype.kind == "unsigned" else np.arange(-10, 10)
    i = i.astype(dtype.numpy)
    same_bits(run(wrap, [i], [dtype])[0], i % 10)
    i = np.tile(i, 5_000)
    i[[40_001, 40_007]] = 10, 11
    for threads in (1, 2):
        backend_cpu.set_num_threads(threads)
        with pytest.raises(IndexError) as caught:
            run(wrap, [i], [dtype])
        message = "probe: index 10 is out of range for an axis of size 10"
        assert str(caught.value) == message


def test_wrap_index_names_the_first_fault_of_all_blocks_and_threads():
    i = np.zeros(200_000, np.int32)
    i[1500:] = np.arange(1500, 200_000) + 5
    for _ in range(20):
        with pytest.raises(IndexError, match="index 1505 "):
            run(lambda i: scalars.wrap_index(i, i.const(1000)), [i], [dtypes.int32])


# ---- Storage types and layouts


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=str)
def test_half_floats_load_exactly_and_store_to_nearest_even(dtype):
    h = np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy)
    same_bits(run(lambda x: x, [h], [dtypes.float32])[0], h.astype(np.float32))
    with np.errstate(all="ignore"):
        same_bits(run(lambda x: x, [h], [dtype])[0].astype(float), h.astype(float))
    bits = np.arange(0, 1 << 32, 16_411, dtype=np.uint64).astype(np.uint32)
    finite = h[np.isfinite(h.astype(np.float32))].astype(np.float32)
    ties = np.sort(finite)[:-1] / 2 + np.sort(finite)[1:] / 2
    x = np.concatenate([bits.view(np.float32), ties, np.nextafter(ties, np.float32(0))])
    with np.errstate(all="ignore"):
        expected = x.astype(dtype.numpy).astype(np.float32)
        same_bits(run(lambda x: x, [x], [dtype])[0].astype(np.float32), expected)


def placed(values, kind):
    """(memory, offset, strides) that hold an array's values; sizes count elements."""
    if kind == "plain":
        memory = np.concatenate([values.reshape(-1)[:1].repeat(3), values.reshape(-1)])
        return memory, 3, natural_strides(values.shape)
    if kind == "transposed":
        strides = natural_strides(values.shape[::-1])[::-1]
        return np.ascontiguousarray(values.T), 0, strides
    if kind == "reversed":
        memory = np.ascontiguousarray(values[(slice(None, None, -1),) * values.ndim])
        strides = [-s for s in natural_strides(values.shape)]
        return memory, values.size - 1, strides
    if kind == "gaps":
        shape = (*values.shape[:-1], 2 * values.shape[-1] + 1)
        memory = np.zeros(shape, values.dtype)
        memory[..., 1::2] = values
        strides = natural_strides(shape)
        return memory, 1, [*strides[:-1], 2]
    assert kind == "rows"  # the first axis is broadcast
    strides = natural_strides(values.shape)
    return np.ascontiguousarray(values[0]), 0, [0, *strides[1:]]


def natural_strides(shape):
    return [math.prod(shape[d + 1 :]) for d in range(len(shape))]


SHAPES = [(1,), (1031,), (3, 401), (401, 3), (2, 3, 5, 43), (1, 1025), (70, 1500)]
KINDS = ["plain", "transposed", "reversed", "gaps", "rows"]


def mixed(x, y):
    """Two results of the kind that every type has."""
    if x.dtype is dtypes.bool_:
        return scalars.apply("xor", x, y), scalars.apply("or", x, y)
    return x * y + x, x - y


def mixed_reference(x, y, dtype):
    if dtype.kind == "bool":
        return x ^ y, x | y
    x, y = x.astype(dtype.compute.numpy), y.astype(dtype.compute.numpy)
    return (x * y + x).astype(dtype.numpy), (x - y).astype(dtype.numpy)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_layouts(dtype, shape):
    """Inputs of every kind and mode with two outputs, contiguous and strided."""
    n, rank = math.prod(shape), len(shape)
    x = sample(dtype, n).reshape(shape)
    cases = itertools.product(KINDS, ["plain", "rows", "one"], ["c", "v"], ["c", "v"])
    for x_kind, y_kind, x_mode, out_mode in cases:
        if x_mode == "c" and x_kind != "plain":
            continue
        y = sample(dtype, n, 1).reshape(shape)
        here = np.broadcast_to(x[:1], shape) if x_kind == "rows" else x
        y = np.broadcast_to(y[:1] if y_kind == "rows" else y.flat[0], shape)
        x_memory, x_offset, x_strides = placed(here, x_kind)
        if y_kind == "one":
            y_memory, y_offset, y_strides, y_mode = y.reshape(-1)[:1], 0, [], "s"
        else:
            y_memory, y_offset, y_strides = placed(y, y_kind)
            y_mode = "v"
        out_kind = "gaps" if out_mode == "v" else "plain"
        out = placed(np.zeros(shape, dtype.numpy), out_kind)
        modes = out_mode + "c" + x_mode + y_mode
        made = make_program(
            mixed, (dtype,) * 2, (dtype,) * 2, modes, rank if "v" in modes else 0
        )
        strides = [
            *(out[2] if out_mode == "v" else []),
            *(x_strides if x_mode == "v" else []),
            *(y_strides if y_mode == "v" else []),
        ]
        words = [n, out[1], 0, x_offset, y_offset]
        words += [*shape, *strides] if "v" in modes else []
        buffers = [cpu.upload(m, dtype) for m in (out[0], x_memory, y_memory)]
        second = cpu.alloc(n * dtype.itemsize)
        cpu.build(made, words)(buffers[0], second, *buffers[1:])
        with np.errstate(all="ignore"):
            a, b = mixed_reference(here, y, dtype)
        memory = cpu.read(buffers[0], dtype, 0, out[0].size)
        if out_mode == "v":
            memory = memory.reshape(out[0].shape)
            assert not np.any(memory[..., ::2].astype(bool))
            memory = memory[..., 1::2]
        else:
            memory = memory[3:]
        second = cpu.read(second, dtype, 0, n)
        same_bits(memory.reshape(-1).astype(float), a.reshape(-1).astype(float))
        same_bits(second.astype(float), b.reshape(-1).astype(float))


def test_an_output_may_be_the_memory_of_an_input():
    """As when an optimizer updates its state in place."""
    p, g, m = (sample(dtypes.float32, 5000, s) for s in range(3))
    p, g, m = (np.where(np.isfinite(x), x, 1).clip(-1e9, 1e9) for x in (p, g, m))

    def momentum(p, g, m):
        m = m * 0.5 + g
        return p - m * 0.25, m

    (p1, m1) = run(momentum, [p, g, m], [dtypes.float32] * 2)
    made = make_program(momentum, [dtypes.float32] * 3, [dtypes.float32] * 2)
    buffers = [cpu.upload(x, dtypes.float32) for x in (p, g, m)]
    cpu.build(made, [5000, 0, 0, 0, 0, 0])(buffers[0], buffers[2], *buffers)
    same_bits(cpu.read(buffers[0], dtypes.float32, 0, 5000), p1)
    same_bits(cpu.read(buffers[2], dtypes.float32, 0, 5000), m1)


def test_what_is_the_same_for_all_elements_is_computed_once():
    """With one element of a narrower type, a constant, and a function of both."""

    def formula(x, s):
        u = scalars.exp(s) + 2.0
        return x * u, u, scalars.pow(x, u), x.const(3.5)

    types = [dtypes.float32, dtypes.float16]
    made = make_program(formula, types, [dtypes.float32] * 4, "ccccc" + "s")
    x = np.abs(sample(dtypes.float32, 3001))
    s = np.array([9, 0.5], np.float16)
    buffers = [cpu.upload(x, types[0]), cpu.upload(s, types[1])]
    results = [cpu.alloc(4 * x.size) for _ in range(4)]
    cpu.build(made, [x.size, 0, 0, 0, 0, 0, 1])(*results, *buffers)
    product, u, powers, constant = (
        cpu.read(r, dtypes.float32, 0, x.size) for r in results
    )
    assert np.all(u == u[0]) and abs(u[0] - (math.exp(0.5) + 2)) < 1e-6
    with np.errstate(all="ignore"):
        same_bits(product, x * u)
        assert ulps(powers, x.astype(float) ** u.astype(float)) <= 0.6
    assert np.all(constant == 3.5)
    assert "once" in cpu.text(made)


def test_many_registers():
    """More values alive at once than L1 holds."""

    def formula(x):
        values = [x * float(k) for k in range(300)]
        total = values[0]
        for v in reversed(values):
            total = total + v
        return total

    x = np.arange(5000, dtype=np.float32) % 8
    same_bits(run(formula, [x], [dtypes.float32])[0], x * sum(range(300)))


# ---- Levels, threads, processes


def all_results(n=20_011):
    """The bytes of every float primitive's result, for comparing machines' ways."""
    digests = {}
    for name, (count, types) in scalars.PRIMITIVES.items():
        for t in types:
            arrays = [sample(t, n, s) for s in range(count)]
            (y,) = run(primitive(name), arrays, [result_of(name, t)])
            if t.is_float and y.dtype != bool:
                y = np.where(np.isnan(y), np.array(0, y.dtype), y)
            digests[f"{name}.{t.name}"] = hashlib.sha256(y.tobytes()).hexdigest()
    return digests


def python(code, **environment):
    """Runs Python code beside this file; its output."""
    here = os.path.dirname(__file__)
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {here!r})\n{code}"],
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def level_digest():
    text = repr(sorted(all_results().items()))
    return f"{_c.level()} {hashlib.sha256(text.encode()).hexdigest()}"


def runnable_levels():
    best = _c.LEVELS.index(cpu.info()["level"])
    return _c.LEVELS[: best + 1]


def test_every_level_has_the_same_bits():
    code = "import test_backend_cpu as t; print(t.level_digest())"
    results = [python(code, PORTANET_CPU_LEVEL=v).split() for v in runnable_levels()]
    assert [level for level, _ in results] == runnable_levels()
    assert len({digest for _, digest in results}) == 1


def test_every_number_of_threads_has_the_same_bits():
    results = []
    for threads in (1, 2, 3, 5):
        backend_cpu.set_num_threads(threads)
        assert backend_cpu.num_threads() == threads
        results.append(all_results(70_001))
    assert all(r == results[0] for r in results)


@pytest.fixture(autouse=True)
def default_threads():
    before = backend_cpu.num_threads()
    yield
    backend_cpu.set_num_threads(before)


def test_environment_sets_the_threads():
    code = "from portanet import backend_cpu; print(backend_cpu.num_threads())"
    assert python(code, PORTANET_NUM_THREADS="3") == "3"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PORTANET_CPU_LEVEL", "v9", "PORTANET_CPU_LEVEL=v9: level v9 was not built"),
        ("PORTANET_NUM_THREADS", "many", "PORTANET_NUM_THREADS=many is no count"),
    ],
)
def test_a_bad_environment_is_an_error_that_names_it(variable, value, message):
    code = (
        "from portanet.errors import DeviceError\n"
        "try: import portanet.backend_cpu as b; b.Backend()\n"
        "except DeviceError as e: print(e)"
    )
    assert message in python(code, **{variable: value})


def square_sum(n=300_000):
    x = np.arange(n, dtype=np.float32)
    return float(run(lambda x: scalars.sqrt(x) * 2, [x], [dtypes.float32])[0].sum())


def test_a_child_process_has_a_pool_of_its_own():
    """After fork() only one thread is left; the child's kernels run all the same."""
    code = (
        "import os, warnings, test_backend_cpu as t\n"
        "warnings.simplefilter('ignore')\n"
        "t.backend_cpu.set_num_threads(3)\n"
        "want = t.square_sum()\n"
        "for _ in range(5):\n"
        "    pid = os.fork()\n"
        "    if not pid: os._exit(0 if t.square_sum() == want else 1)\n"
        "    assert t.square_sum() == want\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n"
        "print('done')"
    )
    assert python(code) == "done"


def test_threads_of_python_may_launch_at_once():
    backend_cpu.set_num_threads(2)
    want = square_sum()
    wrong = []

    def work():
        for _ in range(30):
            if square_sum() != want:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


# ---- Buffers


def test_buffers_are_aligned_writable_memory():
    for nbytes in (0, 1, 63, 64, 65, 1000, 5000, 1 << 20, 5_000_001):
        buffer = cpu.alloc(nbytes)
        assert buffer.nbytes == nbytes
        assert buffer.address % 64 == 0
        view = memoryview(buffer)
        assert view.nbytes == nbytes and not view.readonly
        np.frombuffer(view, np.uint8, nbytes)[:] = 7 if nbytes else 0


def test_a_view_keeps_its_buffer():
    buffer = cpu.upload(np.arange(5, dtype=np.int32), dtypes.int32)
    view = np.frombuffer(buffer, np.int32, 5)
    del buffer
    other = [cpu.alloc(20) for _ in range(10)]
    assert view.tolist() == [0, 1, 2, 3, 4] and len(other) == 10


def test_freed_memory_is_used_again_and_given_back():
    _c.trim()
    start = cpu.memory()
    buffer = cpu.alloc(3_000_000)
    held = cpu.memory()
    assert held["used"] - start["used"] >= 3_000_000
    assert held["peak"] >= held["used"]
    address = buffer.address
    del buffer
    kept = cpu.memory()
    assert kept["used"] == start["used"]
    assert kept["reserved"] >= start["reserved"] + 3_000_000
    assert cpu.alloc(2_900_000).address == address
    _c.trim()
    assert cpu.memory()["reserved"] == cpu.memory()["used"]


def test_ten_thousand_launches_keep_memory_flat():
    made = make_program(lambda x: x + 1, [dtypes.float32], [dtypes.float32])
    x = cpu.upload(np.ones(1000, np.float32), dtypes.float32)
    before = cpu.memory()
    for _ in range(10_000):
        y = cpu.alloc(4000)
        cpu.build(made, [1000, 0, 0])(y, x)
    del y
    assert cpu.memory()["used"] == before["used"]
    assert cpu.memory()["reserved"] <= before["reserved"] + (1 << 20)


@pytest.mark.parametrize("nbytes", [1 << 40, 1 << 50, (1 << 63) - 1])
def test_too_much_memory_is_an_error_with_the_sizes(nbytes):
    with pytest.raises(errors.OutOfMemoryError, match=rf"no room for {nbytes} bytes"):
        cpu.alloc(nbytes)
    with pytest.raises(MemoryError):
        cpu.alloc(nbytes)


def test_a_negative_size_is_an_error():
    with pytest.raises(ValueError, match="alloc: -4 bytes"):
        cpu.alloc(-4)


def test_cycles_of_references_do_not_keep_gigabytes():
    class Holder:
        pass

    def make_cycle():
        holder = Holder()
        holder.itself = holder
        holder.buffer = cpu.alloc(64 << 20)

    gc.collect()
    start = cpu.memory()["used"]
    gc.disable()
    try:
        most = 0
        for _ in range(40):
            make_cycle()
            most = max(most, cpu.memory()["used"] - start)
    finally:
        gc.enable()
        gc.collect()
    assert most <= max(256 << 20, 2 * start) + (128 << 20)


# ---- Launches


def test_a_launch_checks_its_buffers():
    made = make_program(lambda x: -x, [dtypes.float32], [dtypes.float32])
    launch = cpu.build(made, [4, 0, 0])
    buffer = cpu.alloc(16)
    assert launch.words == [4, 0, 0] and launch.label == "probe"
    with pytest.raises(TypeError, match="probe: 2 buffers expected, 1 given"):
        launch(buffer)
    with pytest.raises(TypeError, match="probe: argument 1 is no cpu buffer: None"):
        launch(buffer, None)
    with pytest.raises(TypeError, match="no keywords"):
        launch(buffer, buffer, out=buffer)
    launch(*(buffer, buffer))


def test_an_unknown_kernel_is_an_error():
    assert not cpu.has("nothing") and cpu.has("elementwise")
    with pytest.raises(KeyError, match="no kernel nothing"):
        cpu.build(program.Program("nothing", (), ()), [])


def test_a_value_of_another_type_is_refused():
    made = make_program(lambda x: x * 2, [dtypes.int32], [dtypes.bool_])
    with pytest.raises(TypeError, match="a value of int32 can't be stored as bool"):
        cpu.build(made, [4, 0, 0])


def test_text_lists_the_bytecode():
    made = make_program(
        lambda x, y: x * 2.0 + y, [dtypes.float32, dtypes.bfloat16], [dtypes.float16]
    )
    lines = [line.split() for line in cpu.text(made).splitlines()[2:]]
    assert [line[2] for line in lines] == [
        "load.bfloat16",
        "mul_add.float32.vsv",
        "store.float16",
    ]


def test_info_names_the_machine():
    info = cpu.info()
    assert info["level"] in info["levels"] and info["threads"] >= 1
    assert set(dtypes.ALL) == cpu.dtypes


def test_there_is_one_cpu():
    with pytest.raises(errors.DeviceError, match="no cpu:1"):
        backend_cpu.Backend(1)


# ---- Sequences


def doubled_then_increased(n):
    """Launches x -> 2 x -> 2 x + 1 on slots 0 (result), 1 (temporary), 2 (x)."""
    f32 = [dtypes.float32]
    double = make_program(lambda x: x * 2, f32, f32)
    increase = make_program(lambda x: x + 1, f32, f32)
    words = [n, 0, 0]
    return [(cpu.build(double, words), (1, 2)), (cpu.build(increase, words), (0, 1))]


@pytest.mark.parametrize("n", [4, 100_003])
def test_a_sequence_runs_its_launches_in_order(n):
    replay = cpu.sequence(doubled_then_increased(n), 3)
    x = np.arange(n, dtype=np.float32)
    buffers = [cpu.alloc(4 * n), cpu.alloc(4 * n), cpu.upload(x, dtypes.float32)]
    for _ in range(3):
        replay(buffers)
    found = cpu.read(buffers[0], dtypes.float32, 0, n)
    np.testing.assert_array_equal(found, 2 * x + 1)


def test_a_sequence_stops_at_a_fault_and_names_its_launch():
    checked = lambda x: x.astype(dtypes.int32, "cast_checked")  # noqa: E731
    bad = make_program(checked, [dtypes.float32], [dtypes.int32], label="to_whole")
    steps = [(cpu.build(bad, [1, 0, 0]), (0, 1))]
    replay = cpu.sequence(steps, 2)
    nan = cpu.upload(np.array([np.nan], np.float32), dtypes.float32)
    with pytest.raises(ValueError, match="to_whole: NaN has no integer value"):
        replay([cpu.alloc(4), nan])


def test_a_sequence_refuses_wrong_steps_and_wrong_buffers():
    steps = doubled_then_increased(4)
    with pytest.raises(ValueError, match="slot 2 of 2"):
        cpu.sequence(steps, 2)
    with pytest.raises(TypeError, match="1 slots, its launch 2 buffers"):
        cpu.sequence([(steps[0][0], (0,))], 3)
    replay = cpu.sequence(steps, 3)
    with pytest.raises(TypeError, match="3 buffers, 1 given"):
        replay([cpu.alloc(16)])
    with pytest.raises(TypeError, match="slot 0 is no cpu buffer"):
        replay([b"", cpu.alloc(16), cpu.alloc(16)])


def test_a_constant_of_minus_zero_is_not_taken_for_zero():
    f32 = [dtypes.float32]
    results = []
    for zero in (0.0, -0.0):
        made = make_program(lambda x, zero=zero: x * 0 + x.const(zero), f32, f32)
        assert hash(made.expression) is not None
        x, y = cpu.upload(np.array([-1.0], np.float32), f32[0]), cpu.alloc(4)
        cpu.build(made, [1, 0, 0])(y, x)
        results.append(np.signbit(cpu.read(y, f32[0], 0, 1)[0]))
    assert results == [False, True]


# ---- Two operations in one pass

OPERATIONS = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def modes_and_arrays(letters):
    arrays = [
        sample(dtypes.float32, 3001 if c == "v" else 1, k)
        for k, c in enumerate(letters)
    ]
    return "c" + letters.replace("v", "c"), arrays


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of inf and NaN
@pytest.mark.parametrize("letters", ["vvv", "vvs", "vsv", "vss", "svv", "svs"])
@pytest.mark.parametrize("is_left", [True, False])
def test_two_operations_in_one_pass_round_twice(letters, is_left):
    modes, arrays = modes_and_arrays(letters)
    names = set()
    for one, two in itertools.product(OPERATIONS, OPERATIONS):

        def formula(x, y, z, one=one, two=two):
            first = scalars.apply(one, x, y)
            return scalars.apply(two, *((first, z) if is_left else (z, first)))

        float32 = dtypes.float32
        made_of = make_program(formula, [float32] * 3, [float32], modes)
        text = backend_cpu.listing(made_of, _c.OPCODES)
        (line,) = text.splitlines()[2:]
        names.add(line.split()[2])
        made = cpu.alloc(3001 * 4)
        buffers = [cpu.upload(a, dtypes.float32) for a in arrays]
        cpu.build(made_of, [3001, 0, 0, 0, 0])(made, *buffers)
        first = OPERATIONS[one](arrays[0], arrays[1])
        wanted = OPERATIONS[two](
            *((first, arrays[2]) if is_left else (arrays[2], first))
        )
        same_bits(
            cpu.read(made, dtypes.float32, 0, 3001), np.broadcast_to(wanted, 3001)
        )
    assert len(names) == 9 and all("_" in name for name in names)


@pytest.mark.parametrize("seed", range(40))
def test_random_arithmetic_gives_the_bits_of_single_operations(seed):
    rng = np.random.default_rng(seed)
    letters = "".join(rng.choice(["v", "s"], 4))
    modes, arrays = modes_and_arrays(letters if "v" in letters else "v" + letters[1:])
    steps = [(str(rng.choice([*OPERATIONS])), *map(int, rng.integers(0, 4 + k, 2)))
             for k in range(14)]  # fmt: skip
    ends = [17, *map(int, rng.integers(4, 17, 2))]

    def formula(*values):
        values = list(values)
        for name, a, b in steps:
            values.append(scalars.apply(name, values[a], values[b]))
        return tuple(values[e] for e in ends)

    float32 = dtypes.float32
    made_of = make_program(formula, [float32] * 4, [float32] * 3, "ccc" + modes[1:])
    results = [cpu.alloc(3001 * 4) for _ in ends]
    buffers = [cpu.upload(a, dtypes.float32) for a in arrays]
    cpu.build(made_of, [3001, *[0] * 7])(*results, *buffers)
    wanted = list(arrays)
    with np.errstate(all="ignore"):
        for name, a, b in steps:
            wanted.append(OPERATIONS[name](wanted[a], wanted[b]))
    for result, e in zip(results, ends, strict=True):
        same_bits(
            cpu.read(result, dtypes.float32, 0, 3001), np.broadcast_to(wanted[e], 3001)
        )


def test_a_part_is_memory_of_another_buffer_and_keeps_it():
    before = _c.memory()["used"]
    whole = _c.alloc(4096)
    np.frombuffer(whole, np.float32)[:] = np.arange(1024)
    part = _c.part(whole, 256, 40)
    assert (part.whole, part.offset, part.nbytes) == (whole, 256, 40)
    assert part.address == whole.address + 256 and whole.whole is None
    inner = _c.part(part, 8, 8)
    del whole, part
    np.testing.assert_array_equal(np.frombuffer(inner, np.float32), [66, 67])
    assert _c.memory()["used"] >= before + 4096
    del inner
    gc.collect()
    assert _c.memory()["used"] == before


@pytest.mark.parametrize(
    "offset, nbytes", [(-1, 4), (0, 65), (64, 1), (0, -1), (1 << 62, 1 << 62)]
)
def test_a_part_lies_in_its_buffer(offset, nbytes):
    with pytest.raises(ValueError, match="part: bytes"):
        _c.part(_c.alloc(64), offset, nbytes)


def test_temporaries_of_a_compiled_function_are_parts_of_one_buffer():
    x = pn.tensor(np.random.default_rng(0).normal(size=(64, 64)).astype("float32"))

    def several(x):  # a large value, then two of half its size at once
        small = x[:8] @ (x @ x)
        c = x[:32, :8] @ small
        d = c @ x
        return c.T @ d

    run = pn.compile(several)
    np.testing.assert_allclose(run(x).numpy(), several(x).numpy(), rtol=1e-3)
    (trace,) = [t for found in run.traces.values() for t in found]
    plan = trace.plan
    wholes = {plan.fixed[s].whole for s in plan.memory.offset_of}
    assert len(plan.memory.sizes) == len(wholes) == 1 and None not in wholes
