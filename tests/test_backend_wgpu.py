"""The wgpu backend against NumPy, launch by launch; its WGSL in both compilers."""

import gc
import itertools
import os

import numpy as np
import pytest

from portanet import scalars as S
from portanet.dtypes import bool_, float16, float32, int32, uint32
from portanet.errors import DeviceError, OutOfMemoryError
from portanet.program import Program
from portanet.shaders import lower, variants
from tests.tint_compiler import compile_all

RNG = np.random.default_rng(7)


@pytest.fixture(params=[False, True], ids=["as a GPU", "as software"])
def on_cpu(request, monkeypatch):
    """Takes the variants for a GPU, then those for a software adapter."""
    monkeypatch.setitem(BACKEND._host.description, "software", request.param)


def open_backend():
    from portanet.shaders import Backend

    try:
        return Backend()
    except DeviceError:
        if "wgpu" in os.environ.get("PORTANET_REQUIRE_DEVICES", ""):
            raise
        return None


BACKEND = open_backend()
pytestmark = pytest.mark.skipif(BACKEND is None, reason="no WebGPU adapter here")
FLOATS = [float32] + ([float16] if BACKEND and float16 in BACKEND.dtypes else [])


def elementwise(formula, outputs, inputs, modes, rank=0, label="test"):
    expression = S.trace(formula, inputs)
    return Program("elementwise", outputs, inputs, (), expression, modes, rank, label)


def launch(program, words, sizes, *arrays):
    """The outputs, of these sizes, of one launch on uploaded arrays."""
    buffers = [
        BACKEND.alloc(n * BACKEND.itemsize(t)) for n, t in zip(sizes, program.outputs)
    ]
    inputs = [BACKEND.upload(a, t) for a, t in zip(arrays, program.inputs, strict=True)]
    BACKEND.build(program, words)(*buffers, *inputs)
    found = [
        BACKEND.read(b, t, 0, n) for b, t, n in zip(buffers, program.outputs, sizes)
    ]
    return found[0] if len(found) == 1 else found


def values(dtype, *shape):
    if dtype is bool_:
        return RNG.integers(0, 2, shape).astype(bool)
    if dtype.is_float:
        return RNG.standard_normal(shape).astype(dtype.numpy)
    low = 0 if dtype is uint32 else -50
    return RNG.integers(low, 100, shape).astype(dtype.numpy)


def strides_of(array):
    return [s // array.itemsize for s in array.strides]


# ------------------------------------------------------------------- buffers


@pytest.mark.parametrize("dtype", [bool_, int32, uint32, *FLOATS], ids=str)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 257])
def test_what_is_uploaded_is_read_back(dtype, n):
    x = values(dtype, n)
    assert np.array_equal(BACKEND.read(BACKEND.upload(x, dtype), dtype, 0, n), x)


@pytest.mark.parametrize("dtype", [bool_, *FLOATS], ids=str)
def test_a_part_is_read_from_any_offset(dtype):
    x = values(dtype, 11)
    buffer = BACKEND.upload(x, dtype)
    for offset, count in itertools.product(range(5), range(6)):
        found = BACKEND.read(buffer, dtype, offset, count)
        assert np.array_equal(found, x[offset : offset + count])


def test_an_upload_does_not_overtake_recorded_launches():
    copy = elementwise(lambda x: x + 0, (int32,), (int32,), "cc")
    kept = []
    for i in range(200):
        source = BACKEND.upload(np.full(4, i, np.int32), int32)
        result = BACKEND.alloc(16)
        BACKEND.build(copy, (4, 0, 0))(result, source)
        kept.append(result)
    found = [BACKEND.read(b, int32, 0, 4)[0] for b in kept]
    assert found == list(range(200))


def test_words_of_dropped_launches_do_not_overtake_either():
    fill = elementwise(lambda x: x * 2, (int32,), (int32,), "cs")
    source = BACKEND.upload(np.arange(1000, dtype=np.int32), int32)
    kept = []
    for i in range(500):
        result = BACKEND.alloc(16)
        BACKEND.build(fill, (4, 0, i))(result, source)
        kept.append(result)
    assert [BACKEND.read(b, int32, 0, 1)[0] for b in kept] == [
        2 * i for i in range(500)
    ]


def test_memory_is_flat_over_ten_thousand_launches():
    add = elementwise(lambda x, y: x + y, (float32,), (float32, float32), "ccc")
    run = BACKEND.build(add, (1000, 0, 0, 0))
    x = BACKEND.upload(values(float32, 1000), float32)
    for i in range(10_000):
        y = BACKEND.alloc(4000)
        run(y, x, x)
        if i == 1000:
            before = BACKEND.memory()
    gc.collect()
    assert BACKEND.memory()["reserved"] == before["reserved"]
    assert BACKEND.memory()["used"] == before["used"]


def test_too_large_a_buffer_is_an_error_with_the_sizes():
    with pytest.raises(OutOfMemoryError, match="1,099,511,627,776 bytes"):
        BACKEND.alloc(1 << 40)


def test_a_collection_runs_before_much_memory_is_added():
    class Holder:
        pass

    size = 64 << 20
    gc.disable()
    try:
        for _ in range(12):
            holder = Holder()
            holder.cycle, holder.buffer = holder, BACKEND.alloc(size)
        del holder
        assert BACKEND.memory()["used"] < 9 * size
    finally:
        gc.enable()
        gc.collect()


def test_memory_beyond_what_is_kept_is_given_up():
    size = 32 << 20
    many = [BACKEND.alloc(size) for _ in range(20)]
    assert BACKEND.memory()["reserved"] >= 20 * size
    many.clear()
    BACKEND.alloc(48 << 20)
    assert BACKEND.memory()["reserved"] <= (256 << 20) + (128 << 20)


def test_a_lost_device_is_an_error_that_says_so():
    from portanet.shaders import Backend

    backend = Backend()
    add = elementwise(lambda x, y: x + y, (float32,), (float32, float32), "ccc")
    x, y = (backend.upload(values(float32, 4), float32) for _ in range(2))
    run = backend.build(add, (4, 0, 0, 0))
    out = backend.alloc(16)
    run(out, x, y)
    backend._host.device.destroy()
    with pytest.raises(DeviceError, match="was lost"):
        backend.read(out, float32, 0, 4)
    with pytest.raises(DeviceError, match="was lost"):
        backend.upload(values(float32, 4), float32)
    with pytest.raises(DeviceError, match="was lost"):
        backend.wait()


def test_an_adapter_that_is_not_there_is_an_error_with_those_that_are():
    from portanet.shaders import Backend

    with pytest.raises(DeviceError, match="counted from 0"):
        Backend(99)


def test_an_output_that_is_also_an_input_is_refused():
    add = elementwise(lambda x, y: x + y, (float32,), (float32, float32), "ccc")
    x = BACKEND.upload(values(float32, 4), float32)
    with pytest.raises(ValueError, match="an output is also an input"):
        BACKEND.build(add, (4, 0, 0, 0))(x, x, x)


def test_info_names_the_adapter_and_its_limits():
    info = BACKEND.info()
    assert {"adapter", "backend", "driver", "type", "software", "limits"} <= info.keys()


# --------------------------------------------------------------- elementwise


@pytest.mark.parametrize("n", [1, 5, 256, 257, 65_537, 65_536 * 256 + 3])
def test_addition_of_any_number_of_elements(n):
    add = elementwise(lambda x, y: x + y, (float32,), (float32, float32), "ccs")
    x, y = values(float32, n), values(float32, 3)
    assert np.array_equal(launch(add, (n, 0, 0, 1), [n], x, y), x + y[1])


@pytest.mark.parametrize("dtype", [bool_, int32, uint32, *FLOATS], ids=str)
def test_strided_operands_with_negative_steps_and_offsets(dtype):
    x, y = values(dtype, 4, 5, 6), values(dtype, 5)
    copy = elementwise(
        lambda a, b: S.where(a > b, a, b), (dtype,), (dtype, dtype), "cvv", 3
    )
    view = x.transpose(2, 0, 1)[::-1, 1:, ::2]
    offset = (6 - 1) + 30
    words = (view.size, 0, offset, 0, *view.shape, *strides_of(view), 0, 0, 2)
    expected = np.maximum(view, y[::2])
    found = launch(copy, words, [view.size], x, y)
    assert np.array_equal(found.reshape(view.shape), expected)


def test_the_output_may_be_strided():
    copy = elementwise(lambda a: a, (int32,), (int32,), "vc", 1)
    x = values(int32, 5)
    found = launch(copy, (5, 8, 0, 5, -2), [9], x)
    assert np.array_equal(found[8::-2], x)


def test_many_outputs_and_inputs_are_more_than_one_launch():
    def formula(a, b, c, d, e, f):
        return a + b * c, b - d, a * e + f

    program = elementwise(formula, (float32,) * 3, (float32,) * 6, "ccvccccvc", 1)
    x = [values(float32, 20) for _ in range(6)]
    words = (10, *range(9), 10, 2, 2)
    steps = variants.plan(program, words, 8).steps
    assert len(steps) == 3
    offset = [v[3 + j :][:10] for j, v in enumerate(x)]
    offset[4] = x[4][7:27:2]
    x[4] = np.concatenate([x[4], values(float32, 20)])
    offset[4] = x[4][7:27:2]
    a, b, c, d, e, f = offset
    expected = [a + b * c, b - d, a * e + f]
    found = launch(program, words, [20, 20, 30], *x)
    assert np.allclose(found[0][:10], expected[0])
    assert np.allclose(found[1][1:11], expected[1])
    assert np.allclose(found[2][2:22:2], expected[2])


def test_constants_that_are_not_finite():
    def formula(x):
        big = S.where(x > 0, float("inf"), x.const(float("-inf")))
        return big, S.where(x > 0, float("nan"), x), x * -0.0 + x.const(1e-40) * 0

    program = elementwise(formula, (float32,) * 3, (float32,), "cccc")
    a, b, _ = launch(program, (2, 0, 0, 0, 0), [2, 2, 2], np.float32([1, -1]))
    assert list(a) == [np.inf, -np.inf]
    assert np.isnan(b[0]) and b[1] == -1


# ------------------------------------------------------------------- reduce

REDUCTIONS = {
    "sum": np.sum, "mean": np.mean, "prod": np.prod, "max": np.max, "min": np.min,
    "any": np.any, "all": np.all, "argmax": np.argmax, "argmin": np.argmin,
}  # fmt: skip


def reduce_program(which, dtype):
    output = {"any": bool_, "all": bool_, "argmax": int32, "argmin": int32}
    return Program("reduce", (output.get(which, dtype),), (dtype,), (which,))


def reduce_words(x, axes, offset=0):
    """Words of a reduction of a view over some axes, and the kept shape."""
    strides = strides_of(x)
    kept = [d for d in range(x.ndim) if d not in axes]
    parts = [
        [v[d] for d in which] for which in (kept, axes) for v in (x.shape, strides)
    ]
    sizes = [int(np.prod(parts[0])), int(np.prod(parts[2]))]
    ranks = [len(kept), len(axes)]
    return (*sizes, *ranks, offset, *itertools.chain(*parts)), parts[0]


@pytest.mark.parametrize(
    "which, dtype",
    [
        (which, dtype)
        for which in REDUCTIONS
        for dtype in (int32, uint32, *FLOATS)
        if which != "mean" or dtype.is_float
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "shape, axes",
    [
        ((7,), (0,)),
        ((1000,), (0,)),
        ((40_001,), (0,)),
        ((5, 300), (1,)),
        ((300, 5), (0,)),
        ((3001, 17), (0,)),
        ((4, 5, 6), (0, 2)),
        ((4, 5, 6), ()),
        ((3, 1), (1,)),
        ((300, 70), (1,)),
    ],
)
@pytest.mark.usefixtures("on_cpu")
def test_reduction(which, dtype, shape, axes):
    x = values(dtype, *shape)
    if which == "prod":
        x = np.where(RNG.random(shape) < 0.01, x, np.ones_like(x))
    words, kept = reduce_words(x, list(axes))
    n = words[0]
    found = launch(reduce_program(which, dtype), words, [n], x).reshape(kept)
    wide = x.astype(np.float64 if dtype.is_float else dtype.numpy)
    if which.startswith("arg"):
        wide = np.moveaxis(wide, axes, range(x.ndim - len(axes), x.ndim))
        expected = REDUCTIONS[which](wide.reshape(*kept, -1), axis=-1)
    else:
        expected = REDUCTIONS[which](wide, axis=axes)
    if dtype.is_float and which in ("sum", "mean", "prod"):
        scale = np.sum(np.abs(wide), axis=axes) if which != "prod" else np.abs(expected)
        error = np.abs(found.astype(np.float64) - expected)
        eps = 2**-10 if dtype is float16 else 2**-21
        assert np.all(error <= eps * (scale + 1e-3))
    else:
        # NumPy widens sums and products of integers; here they wrap.
        assert np.array_equal(found, np.asarray(expected).astype(found.dtype))


@pytest.mark.parametrize("n", [5, 1000, 40_000])
@pytest.mark.parametrize("which", ["max", "min", "argmax", "argmin"])
@pytest.mark.usefixtures("on_cpu")
def test_nan_wins_and_the_first_of_equals(which, n):
    x = values(float32, n)
    x[[n // 3, n // 2]] = np.nan
    found = launch(reduce_program(which, float32), reduce_words(x, [0])[0], [1], x)[0]
    assert found == n // 3 if which.startswith("arg") else np.isnan(found)
    ties = np.zeros(n, np.float32)
    found = launch(reduce_program(which, float32), reduce_words(x, [0])[0], [1], ties)
    assert found[0] == 0


def test_more_groups_than_one_dimension_of_a_grid_has(monkeypatch):
    monkeypatch.setitem(BACKEND._host.description, "software", False)
    x = RNG.integers(-9, 9, (65_537, 64)).astype(np.int32)
    words = reduce_words(x, [1])[0]
    (step,) = variants.plan(reduce_program("sum", int32), words).steps
    assert step.entry == "rows"
    assert step.groups == 65_537
    found = launch(reduce_program("sum", int32), words, [65_537], x)
    assert np.array_equal(found, x.sum(axis=1))


def test_extremes_of_infinities():
    x = np.float32([-np.inf, -np.inf])
    words = reduce_words(x, [0])[0]
    assert launch(reduce_program("max", float32), words, [1], x)[0] == -np.inf
    assert launch(reduce_program("argmax", float32), words, [1], x)[0] == 0


@pytest.mark.parametrize("which, expected", [("sum", 0), ("prod", 1)])
def test_reduction_of_no_elements_is_the_identity(which, expected):
    x = np.empty(0, np.float32)
    found = launch(reduce_program(which, float32), (2, 0, 1, 1, 0, 2, 0, 0, 1), [2], x)
    assert np.array_equal(found, [expected] * 2)


def test_a_sum_of_bools_counts():
    x = values(bool_, 500)
    program = Program("reduce", (int32,), (bool_,), ("sum",))
    assert launch(program, reduce_words(x, [0])[0], [1], x)[0] == x.sum()


def test_any_and_all_of_bools_and_of_nan():
    for x in (values(bool_, 300), np.zeros(300, bool), np.ones(300, bool)):
        words = reduce_words(x, [0])[0]
        assert launch(reduce_program("any", bool_), words, [1], x)[0] == x.any()
        assert launch(reduce_program("all", bool_), words, [1], x)[0] == x.all()
    x = np.float32([np.nan, 0])
    assert launch(reduce_program("any", float32), reduce_words(x, [0])[0], [1], x)[0]


@pytest.mark.usefixtures("on_cpu")
def test_a_sum_of_a_million_floats_is_accurate():
    x = RNG.random(1_000_003).astype(np.float32)
    found = launch(reduce_program("sum", float32), reduce_words(x, [0])[0], [1], x)[0]
    assert abs(found - x.sum(dtype=np.float64)) < 3e-7 * x.sum()


# ------------------------------------------------------------------- matmul


def matmul_words(a, b):
    batch = a.shape[:-2]
    m, k = a.shape[-2:]
    n = b.shape[-1]
    sa, sb = strides_of(a), strides_of(b)
    head = (int(np.prod(batch)), m, n, k, len(batch), 0, *sa[-2:], 0, *sb[-2:])
    return (*head, *batch, *sa[:-2], *sb[:-2])


@pytest.mark.parametrize("dtype", [int32, uint32, *FLOATS], ids=str)
@pytest.mark.parametrize(
    "batch, m, n, k",
    [
        ((), 1, 1, 1),
        ((), 3, 5, 7),
        ((), 1, 70, 300),
        ((), 70, 1, 300),
        ((), 64, 64, 64),
        ((), 65, 130, 33),
        ((), 20, 30, 4001),
        ((), 16, 16, 0),
        ((3,), 17, 19, 23),
        ((2, 3), 65, 16, 8),
        ((2,), 0, 3, 4),
        ((5,), 2, 3, 1000),
    ],
)
@pytest.mark.usefixtures("on_cpu")
def test_matrix_product_of_strided_operands(dtype, batch, m, n, k):
    program = Program("matmul", (dtype,), (dtype, dtype))
    for turned in range(4):
        a = values(dtype, *batch, *((k, m) if turned & 1 else (m, k)))
        b = values(dtype, *batch, *((n, k) if turned & 2 else (k, n)))
        at = a.swapaxes(-1, -2) if turned & 1 else a
        bt = b.swapaxes(-1, -2) if turned & 2 else b
        found = launch(
            program, matmul_words(at, bt), [int(np.prod(batch)) * m * n], a, b
        )
        wide = np.float64 if dtype.is_float else dtype.numpy
        expected = at.astype(wide) @ bt.astype(wide)
        found = found.reshape(expected.shape)
        if dtype.is_float:
            size = np.abs(at.astype(wide)) @ np.abs(bt.astype(wide))
            eps = 2**-10 if dtype is float16 else 2**-20
            assert np.all(np.abs(found - expected) <= eps * (size + 1e-2))
        else:
            assert np.array_equal(found, expected)


def test_matrix_product_broadcasts_a_batch_by_stride_zero():
    a, b = values(float32, 3, 20, 30), values(float32, 30, 40)
    program = Program("matmul", (float32,), (float32, float32))
    words = (3, 20, 40, 30, 1, 0, 30, 1, 0, 40, 1, 3, 600, 0)
    found = launch(program, words, [3 * 20 * 40], a, b).reshape(3, 20, 40)
    assert np.allclose(found, a @ b, atol=1e-4)


# --------------------------------------------------------------------- scan


@pytest.mark.parametrize("mode", ["inclusive", "exclusive"])
@pytest.mark.parametrize("which", ["sum", "prod"])
@pytest.mark.parametrize("dtype", [int32, uint32, *FLOATS], ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 5, 3), (3, 1000, 2), (1, 5000, 1), (2, 1024, 1), (2, 0, 1)]
)
@pytest.mark.usefixtures("on_cpu")
def test_scan(which, mode, dtype, shape):
    x = values(dtype, *shape)
    if which == "prod":
        x = np.where(RNG.random(shape) < 0.01, x, np.ones_like(x))
    program = Program("scan", (dtype,), (dtype,), (which, mode))
    words = (*shape, 0, *strides_of(x))
    found = launch(program, words, [x.size], x).reshape(shape)
    wide = x.astype(np.float64 if dtype.is_float else dtype.numpy)
    over = {"sum": np.cumsum, "prod": np.cumprod}[which]
    expected = over(wide, axis=1, dtype=wide.dtype)
    if mode == "exclusive":
        first = np.full_like(expected[:, :1], which == "prod")
        expected = np.concatenate([first, expected[:, :-1]], axis=1)[:, : shape[1]]
    if not dtype.is_float:
        assert np.array_equal(found, expected)
        return
    size = over(np.abs(wide), axis=1) if which == "sum" else np.abs(expected) + 1
    eps = 2**-9 if dtype is float16 else 2**-18
    assert np.all(np.abs(found - expected) <= eps * (size + 1))


@pytest.mark.parametrize("which", ["argmax", "argmin"])
@pytest.mark.parametrize("shape", [(2, 5, 3), (3, 1000, 2), (1, 5000, 1)])
@pytest.mark.usefixtures("on_cpu")
def test_scan_of_extremes_finds_the_last_of_equals(which, shape):
    x = np.round(RNG.normal(size=shape) * 3).astype(np.float32)
    program = Program("scan", (int32,), (float32,), (which, "inclusive"))
    words = (*shape, 0, *strides_of(x))
    found = launch(program, words, [x.size], x).reshape(shape)
    over = np.maximum if which == "argmax" else np.minimum
    met = x == over.accumulate(x, axis=1)
    places = np.arange(shape[1])[:, None]
    assert np.array_equal(found, np.maximum.accumulate(np.where(met, places, 0), 1))


@pytest.mark.usefixtures("on_cpu")
def test_scan_of_exponentials_does_not_overflow():
    x = RNG.uniform(-200, 200, (2, 3000, 1)).astype(np.float32)
    program = Program("scan", (float32,), (float32,), ("logsumexp", "inclusive"))
    found = launch(program, (*x.shape, 0, *strides_of(x)), [x.size], x).reshape(x.shape)
    expected = np.logaddexp.accumulate(x.astype(np.float64), axis=1)
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-5)


# ----------------------------------------------------------- gather, scatter


@pytest.mark.parametrize("index_type", [int32, uint32], ids=str)
@pytest.mark.parametrize("dtype", [bool_, int32, *FLOATS], ids=str)
def test_gather(dtype, index_type):
    x = values(dtype, 3, 10, 4)
    low = -10 if index_type is int32 else 0
    index = RNG.integers(low, 10, (3, 7, 4)).astype(index_type.numpy)
    program = Program("gather", (dtype,), (dtype, index_type), label="take")
    words = (3, 7, 4, 10, 0, 40, 4, 1, 0, 28, 4, 1)
    found = launch(program, words, [84], x, index).reshape(3, 7, 4)
    assert np.array_equal(found, np.take_along_axis(x, index.astype(int) % 10, 1))


@pytest.mark.parametrize("option", ["add", "set"])
@pytest.mark.parametrize("dtype", [int32, *FLOATS], ids=str)
@pytest.mark.parametrize("outer, count, inner, size", [(2, 50, 3, 7), (5, 40, 70, 9)])
def test_scatter_in_order(option, dtype, outer, count, inner, size):
    v = values(dtype, outer, count, inner)
    index = RNG.integers(-size, size, (outer, count, inner)).astype(np.int32)
    y = values(dtype, outer, size, inner)
    program = Program("scatter", (dtype,), (dtype, int32), (option,), label="scatter")
    strides = (count * inner, inner, 1)
    words = (outer, count, inner, size, 0, *strides, 0, *strides)
    out, inputs = BACKEND.upload(y, dtype), [BACKEND.upload(v, dtype)]
    BACKEND.build(program, words)(out, *inputs, BACKEND.upload(index, int32))
    found = BACKEND.read(out, dtype, 0, y.size).reshape(y.shape)
    expected = y.copy()
    for o, j, i in np.ndindex(v.shape):
        at = (o, index[o, j, i] % size, i)
        expected[at] = expected[at] + v[o, j, i] if option == "add" else v[o, j, i]
    if dtype is float16:
        assert np.allclose(found, expected, atol=0.1)
    else:
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("option", ["add", "set"])
@pytest.mark.parametrize(
    "outer, count, inner, size, shared",
    [(1, 3000, 8, 500, True), (3, 2000, 1, 900, False), (2, 40, 3, 60000, True)],
)
@pytest.mark.usefixtures("on_cpu")
def test_scatter_of_sorted_indices_has_the_bits_of_one_in_order(
    option, outer, count, inner, size, shared
):
    v = values(float32, outer, count, inner)
    lists = 1 if shared else outer
    index = RNG.integers(-size // 3, size // 3, (lists, count, 1)).astype(np.int32)
    y = values(float32, outer, size, inner)
    program = Program("scatter", (float32,), (float32, int32), (option,), label="add")
    steps = (0 if shared else count, 1, 0)
    words = (outer, count, inner, size, 0, count * inner, inner, 1, 0, *steps)
    entries = [step.entry for step in variants.plan(program, words).steps]
    assert entries[0] == "runs" and entries[-1] == "segments"
    for bad in (False, True):
        if bad:
            index[0, count // 2] = size
        out = BACKEND.upload(y, float32)
        BACKEND.build(program, words)(
            out, BACKEND.upload(v, float32), BACKEND.upload(index, int32)
        )
        if bad:
            with pytest.raises(IndexError, match=f"add: index {size} is out of range"):
                BACKEND.read(out, float32, 0, y.size)
            continue
        found = BACKEND.read(out, float32, 0, y.size).reshape(y.shape)
        expected = y.copy()
        for o, j in np.ndindex(outer, count):
            at = (o, index[o % lists, j, 0] % size)
            expected[at] = expected[at] + v[o, j] if option == "add" else v[o, j]
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("kernel", ["gather", "scatter"])
@pytest.mark.parametrize("bad", [10, -11])
def test_an_index_out_of_range_is_raised_once_by_the_next_read(kernel, bad):
    x = values(float32, 10)
    index = np.int32([0, bad, 3])
    program = Program(kernel, (float32,), (float32, int32), ("add",), label="take")
    words = (1, 3, 1, 10, 0, 0, 1, 1, 0, 0, 1, 1)
    out = BACKEND.upload(np.zeros(10, np.float32), float32)
    inputs = BACKEND.upload(x, float32), BACKEND.upload(index, int32)
    BACKEND.build(program, words)(out, *inputs)
    message = f"take: index {bad} is out of range for an axis of size 10"
    with pytest.raises(IndexError, match=message):
        BACKEND.read(out, float32, 0, 1)
    BACKEND.read(out, float32, 0, 1)
    BACKEND.build(program, words)(out, *inputs)
    with pytest.raises(IndexError, match=message):
        BACKEND.wait()
    BACKEND.wait()


def test_nan_has_no_integer_value():
    def formula(x):
        return x.astype(int32, "cast_checked")

    program = elementwise(formula, (int32,), (float32,), "cc", label="astype")
    assert list(launch(program, (2, 0, 0), [2], np.float32([1.5, -2.5]))) == [1, -2]
    with pytest.raises(ValueError, match="astype: NaN has no integer value"):
        launch(program, (2, 0, 0), [2], np.float32([1, np.nan]))


# ------------------------------------------------------------------- random


def philox_state(key, counter):
    return np.uint32([key & 0xFFFFFFFF, key >> 32, counter & 0xFFFFFFFF, counter >> 32])


@pytest.mark.parametrize("n", [0, 1, 4, 1001])
def test_random_bits_and_the_next_state(n):
    program = Program("random", (uint32, uint32), (uint32,))
    blocks = -(-n // 4)
    state = philox_state(0, 0)
    bits, after = launch(program, (n, blocks, 0), [n, 4], state)
    known = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert list(bits[:4]) == known[:n]
    assert list(after) == [0, 0, blocks, 0]


def test_random_counter_carries_into_its_upper_word():
    program = Program("random", (uint32, uint32), (uint32,))
    state = philox_state(0x299F31D0A4093822, 2**32 - 2)
    bits, after = launch(program, (16, 4, 0), [16, 4], state)
    assert list(after[2:]) == [2, 1]
    later = philox_state(0x299F31D0A4093822, 2**32 + 1)
    assert list(bits[12:]) == list(launch(program, (4, 1, 0), [4, 4], later)[0])


# ------------------------------------------------------------ the WGSL itself


def kernel_programs():
    """Every kernel with every option, for each of the types that it is written for."""
    types = (int32, uint32, float32, float16)
    for t in types:
        for which in REDUCTIONS:
            if which != "mean" or t.is_float:
                yield reduce_program(which, t)
        yield Program("matmul", (t,), (t, t))
        if t is t.compute:
            yield from epilogue_programs(t)
        for which, mode in itertools.product(
            ("sum", "prod"), ("inclusive", "exclusive")
        ):
            yield Program("scan", (t,), (t,), (which, mode))
    for t, index in itertools.product((bool_, *types), (int32, uint32)):
        yield Program("gather", (t,), (t, index))
        for option in ("add", "set"):
            yield Program("scatter", (t,), (t, index), (option,))
    for which in ("any", "all"):
        yield reduce_program(which, bool_)
    yield Program("reduce", (int32,), (bool_,), ("sum",))
    yield Program("random", (uint32, uint32), (uint32,))


def epilogue_programs(t):
    """Products and convolutions that store what an expression makes of them, or that and themselves."""
    expression = S.trace(lambda y, b: (y + b > 1, y), (t, t))
    for modes, rank in (("cccc", 0), ("cccs", 0), ("cccv", 2), ("cvcv", 3)):
        made = (bool_, t), (t,) * 3
        yield Program("matmul", *made, (), expression, modes, rank)
        if t is float32:
            for which in ("forward", "input", "weight"):
                yield Program("convolve", *made, (which,), expression, modes, rank)


def primitive_programs():
    """Each primitive on each compute type that wgpu has."""
    for name, (count, types) in S.PRIMITIVES.items():
        for t in (bool_, int32, uint32, float32):
            if t in types:
                expression = S.trace(lambda *x, n=name: S.apply(n, *x), (t,) * count)
                output = expression.dtype_of(expression.outputs[0])
                modes = "c" * (1 + count)
                yield Program(
                    "elementwise", (output,), (t,) * count, (), expression, modes
                )
    for a, b in itertools.product((bool_, int32, uint32, float32), repeat=2):
        yield elementwise(lambda x, b=b: x.astype(b), (b,), (a,), "vv", 3)
    for t in (int32, uint32):
        yield elementwise(
            lambda x, t=t: x.astype(t, "cast_checked"), (t,), (float32,), "cc"
        )
        yield elementwise(S.wrap_index, (t,), (t, t), "ccs")
        yield elementwise(lambda x, t=t: S.index(x, t) + x, (t,), (t,), "cc")
    yield elementwise(lambda x: x + 1, (float16,), (float16,), "vs", 2)


def all_texts():
    """A name and the WGSL of every variant of the programs above."""
    for number, program in enumerate((*kernel_programs(), *primitive_programs())):
        for variant, text in enumerate(lower.variants(program)):
            yield f"{program.kernel} {number} {variant}", text


def test_every_plan_and_every_text_has_its_kernel_file():
    from portanet.shaders.lower import HERE

    made = {name.split()[0] for name, _ in all_texts()}
    files = {p.stem for p in HERE.glob("*.wgsl")} - {"scalar"}
    # Those that are not made here are in test_wgsl_compiles.py, from the operators.
    assert made <= files and set(variants.PLANS) <= files
    assert len(dict(all_texts())) > 200


def test_tint_accepts_every_text():
    texts = dict(all_texts())
    errors = {n: e for n, e in compile_all(texts).items() if e}
    assert not errors, "\n".join(f"{n}: {e}\n{texts[n]}" for n, e in errors.items())


def test_naga_accepts_every_text():
    device = BACKEND._host.device
    for name, text in all_texts():
        if "enable f16" not in text or float16 in BACKEND.dtypes:
            device.create_shader_module(code=text, label=name)


# ------------------------------------------------- the library under wgpu-py


def test_the_library_under_wgpu_py_has_what_the_recorder_calls():
    # Where this fails, wgpu-py's insides have changed: all works still, by its public
    # calls, but dispatches cost four times as much and Ctrl-C may lose recorded work.
    from portanet.shaders.recorder import Recorder

    assert BACKEND._host._native and type(BACKEND._host.recorder) is Recorder


def test_without_it_the_public_calls_do_the_same(monkeypatch):
    from portanet.shaders import Backend, host

    monkeypatch.setattr(host, "_native", lambda wgpu: None)
    backend = Backend()
    add = elementwise(lambda x, y: x + y, (float32,), (float32, float32), "ccc")
    x, y = (backend.upload(values(float32, 4), float32) for _ in range(2))
    run, out = backend.build(add, (4, 0, 0, 0)), backend.alloc(16)
    play = backend.sequence([(run, (0, 1, 2)), (run, (3, 0, 2))], 4)
    play([out, x, y, last := backend.alloc(16)])
    backend.wait()
    a, b = (backend.read(z, float32, 0, 4) for z in (x, y))
    assert np.array_equal(backend.read(last, float32, 0, 4), a + b + b)


def test_what_the_device_refuses_is_an_error_and_the_device_goes_on():
    add = elementwise(lambda x, y: x + y, (float32,), (float32, float32), "ccc")
    x = BACKEND.upload(values(float32, 4), float32)
    run, out = BACKEND.build(add, (4, 0, 0, 0)), BACKEND.alloc(16)
    run(out, x, x)
    recorder = BACKEND._host.recorder
    recorder.dispatch(run.pipeline, list(BACKEND._groups.values())[-1], 1 << 20, 1)
    with pytest.raises(DeviceError, match="recorded commands were refused"):
        BACKEND.wait()
    run(out, x, x)
    assert np.array_equal(
        BACKEND.read(out, float32, 0, 4), 2 * BACKEND.read(x, float32, 0, 4)
    )


# ------------------------------------------------------------------------- rows


def row_formula(x, y):
    away = x - S.row_max(x)
    first = S.row_index(x, int32) == 0
    total = S.row_sum(S.where(first, 0, S.exp(away)))
    return away + S.row_mean(y) * total, total


@pytest.mark.parametrize("shape", [(1, 1), (70, 3), (9, 31), (5, 32), (3, 1000)])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.usefixtures("on_cpu")
def test_rows(shape, turned):
    x, y = values(float32, *shape), values(float32, *shape)
    expression = S.trace(row_formula, (float32, float32))
    modes, words = "cccc", [x.size, 0, 0, 0, 0, shape[1]]
    given = y
    if turned:
        given, modes = np.ascontiguousarray(y.T), "cccv"
        words = [x.size, 0, 0, 0, 0, *shape, 1, shape[0], shape[1]]
    program = Program(
        "elementwise", (float32,) * 2, (float32,) * 2, (), expression, modes, 2 * turned
    )
    a, b = (BACKEND.alloc(4 * x.size) for _ in range(2))
    inputs = [BACKEND.upload(np.ascontiguousarray(v), float32) for v in (x, given)]
    BACKEND.build(program, tuple(words))(a, b, *inputs)
    away = x - x.max(1, keepdims=True)
    total = np.exp(away.astype(np.float64))[:, 1:].sum(1, keepdims=True)
    want = away + y.mean(1, keepdims=True, dtype=np.float64) * total
    found = BACKEND.read(a, float32, 0, x.size).reshape(shape)
    assert np.allclose(found, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    sums = BACKEND.read(b, float32, 0, x.size).reshape(shape)
    assert np.allclose(sums, np.broadcast_to(total, shape), rtol=1e-5)


# recurrent -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
@pytest.mark.usefixtures("on_cpu")
def test_a_recurrent_layer_and_its_gradients_are_the_cpus(name, monkeypatch):
    import portanet as pn
    from portanet import arrays
    from portanet.autograd import gradients
    from portanet.devices import get
    from portanet.ops.recurrent import _GATES, OPERATORS

    monkeypatch.setattr(arrays, "_plans", {})  # those made hold the other variant
    monkeypatch.setitem(
        get("wgpu").backend._host.description,
        "software",
        BACKEND._host.description["software"],
    )
    steps, batch, size = 3, 19, 21  # more than a tile, and no multiple of it
    gates, biases = _GATES[name]
    args = [values(float32, steps, batch, gates * size)]
    args += [values(float32, batch, size) for _ in range(2 if name == "lstm" else 1)]
    args += [
        values(float32, gates * size, size) / 8,
        values(float32, biases * size),
    ]
    ends = []
    for device in ("cpu", "wgpu"):
        xs = [pn.tensor(a, device=device, requires_grad=True) for a in args]
        ys = OPERATORS[name](*xs)
        g = pn.tensor(
            np.cos(np.arange(ys[0].size)).reshape(ys[0].shape), "float32", device
        )
        ends.append([*ys, *gradients((ys[0] * g).sum(), xs)])
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-5)
