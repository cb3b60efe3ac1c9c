"""The cpu backend's kernels against NumPy in float64, at the level of programs and words."""

import itertools
import math

import ml_dtypes
import numpy as np
import pytest

from portanet import _c, backend_cpu, dtypes, program

cpu = backend_cpu.Backend()
LEVELS = _c.LEVELS[: _c.LEVELS.index(_c.level()) + 1]  # those that this machine runs
INDEX_TYPES = ("int32", "uint32", "int64", "uint8")
NUMBERS = (
    "uint8",
    "int32",
    "uint32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
)
EPS = {
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float32": 2.0**-24,
    "float64": 2.0**-53,
}


# ---- Launching


def launch(kernel, words, outputs, inputs, options=(), keep=None):
    """Results of one launch; `outputs` are (dtype name, count), `inputs` flat arrays.

    `keep` holds what the first output contains before the launch.
    """
    outs = [dtypes.as_dtype(name) for name, _ in outputs]
    ins = [dtypes.as_dtype(x.dtype) for x in inputs]
    made = program.Program(
        kernel, tuple(outs), tuple(ins), tuple(options), label="probe"
    )
    buffers = [
        cpu.alloc(max(n, 1) * t.itemsize)
        for t, (_, n) in zip(outs, outputs, strict=True)
    ]
    if keep is not None:
        buffers[0] = cpu.upload(keep, outs[0])
    given = [cpu.upload(x, t) for x, t in zip(inputs, ins, strict=True)]
    cpu.build(made, [int(w) for w in words])(*buffers, *given)
    read = [
        cpu.read(b, t, 0, n)
        for b, t, (_, n) in zip(buffers, outs, outputs, strict=True)
    ]
    return read[0] if len(read) == 1 else read


def offset_of(view, base):
    where = view.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return where // base.itemsize if view.size else 0


def strides_of(view):
    return [s // view.itemsize for s in view.strides]


def everywhere(run):
    """The result of `run`, after checking that every thread count gives the same bits.

    One result for each level.
    """
    level, threads = _c.level(), backend_cpu.num_threads()
    results = []
    try:
        for name in LEVELS:
            _c.set_level(name)
            of_threads = []
            for count in (1, 2, 5):
                backend_cpu.set_num_threads(count)
                of_threads.append(run())
            for other in of_threads[1:]:
                assert other.tobytes() == of_threads[0].tobytes()
            results.append(of_threads[0])
    finally:
        _c.set_level(level)
        backend_cpu.set_num_threads(threads)
    return results


def same_at_all_levels(run):
    first, *others = everywhere(run)
    for other in others:
        assert other.tobytes() == first.tobytes()
    return first


def draw(shape, name, seed=0):
    rng = np.random.default_rng([seed, dtypes.as_dtype(name).code])
    dtype = dtypes.as_dtype(name)
    if dtype.kind == "bool":
        return rng.random(shape) < 0.5
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    info = np.iinfo(dtype.numpy)
    return rng.integers(info.min, info.max, shape, dtype.numpy, endpoint=True)


def layouts(shape, name, seed=0):
    """(label, base, view): views of `shape` that lie differently in their bases."""
    shape = tuple(shape)
    plain = draw(shape, name, seed)
    yield "contiguous", plain, plain
    turned = draw(shape[::-1], name, seed)
    yield "transposed", turned, turned.T
    yield "reversed", plain, plain[tuple(slice(None, None, -1) for _ in shape)]
    wide = draw([2 * n + 3 for n in shape], name, seed)
    yield "sliced", wide, wide[tuple(slice(1, 1 + 2 * n, 2) for n in shape)]
    if shape and shape[0]:
        row = draw((1, *shape[1:]), name, seed)
        yield "broadcast", row, np.broadcast_to(row, shape)


# ---- matmul


def matmul(a, b, a_base=None, b_base=None, out=None, launch=launch):
    """a @ b for views of at least two dimensions with the same batch dimensions."""
    a_base, b_base = a if a_base is None else a_base, b if b_base is None else b_base
    *batch, m, k = a.shape
    n = b.shape[-1]
    *a_batch, a_row, a_column = strides_of(a)
    *b_batch, b_row, b_column = strides_of(b)
    count = math.prod(batch)
    words = [
        *(count, m, n, k, len(batch)),
        *(offset_of(a, a_base), a_row, a_column),
        *(offset_of(b, b_base), b_row, b_column),
        *(*batch, *a_batch, *b_batch),
    ]
    name = out or a.dtype.name
    y = launch("matmul", words, [(name, count * m * n)], [a_base, b_base])
    return y.reshape(*batch, m, n)


def check_matmul(y, a, b):
    """Bound: k + 1 roundings of the sum of |a| |b|, and one of the result's type."""
    a, b = np.asarray(a), np.asarray(b)
    if y.dtype.kind in "iu":
        np.testing.assert_array_equal(y, a @ b)
        return
    kept = EPS[y.dtype.name]
    a, b = a.astype(np.float64), b.astype(np.float64)
    bound = (a.shape[-1] + 1) * min(kept, EPS["float32"]) * (np.abs(a) @ np.abs(b))
    exact = a @ b
    error = np.abs(y.astype(np.float64) - exact)
    assert np.all(error <= bound + kept * np.abs(exact) + 2.0**-25 * (kept > 1e-6))


# Around the tiles of every level (4, 6, 14 rows; 4 to 32 columns) and the blocks of depth
# (384) and of columns (2048), and the least of everything.
SHAPES = [
    *itertools.product((0, 1, 2, 15), (0, 1, 3, 33), (0, 1, 2, 7)),
    *((13, 31, 14), (14, 32, 384), (29, 65, 385), (43, 17, 769), (61, 64, 64)),
    *((1, 513, 1000), (1000, 1, 513), (1, 2100, 13), (2100, 1, 13), (2, 2049, 5)),
    *((337, 33, 20), (128, 130, 131)),
]


@pytest.mark.parametrize("name", [*NUMBERS])
def test_matmul_of_every_shape(name):
    for m, n, k in SHAPES:
        a, b = draw((m, k), name, 1), draw((k, n), name, 2)
        for y in everywhere(lambda a=a, b=b: matmul(a, b)):
            check_matmul(y, a, b)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "shape", [(17, 37, 23), (1, 600, 43), (600, 1, 43), (70, 66, 400)]
)
def test_matmul_of_every_layout(name, shape):
    m, n, k = shape
    count = 0
    for _, a_base, a in layouts((m, k), name, 1):
        for _, b_base, b in layouts((k, n), name, 2):
            y = matmul(a, b, a_base, b_base)
            check_matmul(y, a, b)
            count += 1
    assert count == 25


@pytest.mark.parametrize("name", ["float32", "int64"])
def test_matmul_of_batches(name):
    for batch in [(3,), (2, 5), (0,), (1, 4)]:
        a, b = draw((*batch, 9, 20), name, 1), draw((*batch, 20, 35), name, 2)
        check_matmul(matmul(a, b), a, b)
        one = np.broadcast_to(b[:1], b.shape) if b.size else b
        check_matmul(matmul(a, one, None, b), a, one)
        if b.size:  # one matrix for all: the batch folds into the rows of a
            all_one = np.broadcast_to(b[(0,) * len(batch)], b.shape)
            check_matmul(matmul(a, all_one, None, b), a, all_one)
            row = a[..., :1, :]
            check_matmul(matmul(row, all_one, a, b), row, all_one)
        column = b[..., :1]
        check_matmul(matmul(a, column, None, b), a, column)


def test_matmul_on_threads_has_the_bits_of_one_thread():
    for m, n, k in [(511, 513, 200), (1030, 64, 400), (64, 3000, 100), (1, 4000, 900)]:
        for name in ("float32", "float16"):
            a, b = draw((m, k), name, 1), draw((k, n), name, 2)
            for y in everywhere(lambda a=a, b=b: matmul(a, b)):
                check_matmul(y, a, b)


def test_matmul_writes_nothing_beside_its_result():
    a, b = draw((15, 20), "float32"), draw((20, 33), "float32")
    keep = np.full(15 * 33 + 64, 7, np.float32)
    words = [1, 15, 33, 20, 0, 0, 20, 1, 0, 33, 1]
    y = launch("matmul", words, [("float32", keep.size)], [a, b], keep=keep)
    assert np.all(y[15 * 33 :] == 7)


def test_matmul_lets_infinities_and_nan_through():
    a, b = np.ones((20, 40), np.float32), np.ones((40, 50), np.float32)
    a[3, 5], a[7, 0], b[9, 11] = np.inf, np.nan, -np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(matmul(a, b), a @ b)


# ---- reduce

REDUCTIONS = ("sum", "mean", "prod", "max", "min", "any", "all", "argmax", "argmin")


def reduce(which, x, axes, base=None, out=None, launch=launch):
    base = x if base is None else base
    strides = strides_of(x)
    kept = [d for d in range(x.ndim) if d not in axes]
    k, r = [x.shape[d] for d in kept], [x.shape[d] for d in axes]
    words = [math.prod(k), math.prod(r), len(k), len(r), offset_of(x, base)]
    words += [*k, *(strides[d] for d in kept), *r, *(strides[d] for d in axes)]
    of_which = {"any": "bool", "all": "bool", "argmax": "int32", "argmin": "int32"}
    name = out or of_which.get(which, x.dtype.name)
    return launch("reduce", words, [(name, words[0])], [base], (which,)).reshape(k)


def reduce_reference(which, x, axes):
    """As `which` of NumPy, in float64 for floats, over `axes` flattened into one."""
    kept = [d for d in range(x.ndim) if d not in axes]
    flat = x.transpose(*kept, *axes).reshape(*(x.shape[d] for d in kept), -1)
    if x.dtype.kind not in "biu":
        flat = flat.astype(np.float64)
    with np.errstate(all="ignore"):
        if which in ("sum", "prod"):
            of_type = x.dtype if x.dtype.kind in "iu" else None
            return getattr(np, which)(flat, axis=-1, dtype=of_type)
        return getattr(np, which)(flat, axis=-1)


def check_reduce(which, y, x, axes):
    expected = reduce_reference(which, x, axes)
    if which not in ("sum", "mean", "prod") or y.dtype.kind in "biu":
        np.testing.assert_array_equal(y.astype(expected.dtype), expected)
        return
    n = max(1, math.prod(x.shape[d] for d in axes))
    steps = 16 + 4 + max(0, math.ceil(math.log2(n / 256))) + 1
    kept, computed = EPS[y.dtype.name], min(EPS[y.dtype.name], EPS["float32"])
    if which == "prod":
        bound = n * computed * np.abs(expected)
    else:
        bound = steps * computed * reduce_reference(which, np.abs(x), axes)
    error = np.abs(y.astype(np.float64) - expected)
    assert np.all(error <= bound + kept * np.abs(expected) + 2.0**-25 * (kept > 1e-6))


def values_for(which, shape, name, seed=0):
    x = draw(shape, name, seed)
    if which == "prod" and dtypes.as_dtype(name).is_float:
        return np.exp2(x.astype(np.float64) / 16).astype(x.dtype)
    if which in ("any", "all"):
        mostly = which == "all"
        return np.where(draw(shape, "float64", 7) > 2.2, not mostly, mostly).astype(
            x.dtype
        )
    return x


def applies(which, name):
    if which == "mean":
        return dtypes.as_dtype(name).is_float
    return name != "bool" or which not in ("sum", "prod")


# Lengths around the lanes (16, 64), the blocks (256, 2048) and the spans of threads.
LENGTHS = (1, 2, 7, 15, 16, 17, 63, 65, 255, 257, 511, 513, 2049, 40009)


@pytest.mark.parametrize("which", REDUCTIONS)
def test_reduce_of_rows_and_columns_of_every_length(which):
    for name in ("bool", *NUMBERS):
        if not applies(which, name):
            continue
        for n in LENGTHS:
            rows = values_for(which, (3, n), name)
            columns = np.ascontiguousarray(rows.T)
            first = same_at_all_levels(lambda x=rows: reduce(which, x, (1,)))
            check_reduce(which, first, rows, (1,))
            second = same_at_all_levels(lambda x=columns: reduce(which, x, (0,)))
            assert first.tobytes() == second.tobytes()  # one tree, whatever the layout


@pytest.mark.parametrize("name", ("bool", *NUMBERS))
def test_reduce_of_every_layout_and_choice_of_axes(name):
    count = 0
    for shape in [(5, 67, 9), (3, 4, 300), (130, 3, 2), (70, 1, 70)]:
        for _, base, x in layouts(shape, name):
            for axes in [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2), ()]:
                for which in ("sum", "max", "argmin", "any"):
                    if applies(which, name):
                        check_reduce(which, reduce(which, x, axes, base), x, axes)
                        count += 1
    assert count == 4 * 5 * 8 * (3 if name == "bool" else 4)


@pytest.mark.parametrize(
    "shape", [(1_000_003,), (150_000, 5), (5, 150_000), (900, 700)]
)
def test_reduce_of_much_has_the_bits_of_one_thread(shape):
    x = draw(shape, "float32")
    x[x > 4] = np.nan
    for which in ("sum", "argmax", "max"):
        for axis in range(len(shape)):
            y = same_at_all_levels(lambda w=which, a=axis: reduce(w, x, (a,)))
            if which != "sum":
                check_reduce(which, y, x, (axis,))
    x = np.nan_to_num(x)
    for axis in range(len(shape)):
        check_reduce("sum", reduce("sum", x, (axis,)), x, (axis,))


def test_sum_of_nothing_is_zero_and_so_on():
    x = np.empty((3, 0), np.float32)
    assert list(reduce("sum", x, (1,))) == [0] * 3
    assert list(reduce("prod", x, (1,))) == [1] * 3
    assert np.isnan(reduce("mean", x, (1,))).all()
    assert list(reduce("any", x, (1,))) == [False] * 3
    assert list(reduce("all", x, (1,))) == [True] * 3
    assert reduce("sum", x, (0,)).shape == (0,)
    assert list(reduce("prod", np.empty((2, 0), np.int64), (1,))) == [1, 1]


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("n", [1, 5, 70, 300, 5000])
def test_nan_wins_and_the_first_of_equals_stays(name, n):
    x = np.zeros((4, n), dtypes.as_dtype(name).numpy)
    x[1, n // 2] = np.nan
    x[1, n - 1] = np.nan
    x[2, n // 3 :] = np.inf
    x[3, n // 3 :] = -np.inf
    for view, axis in [(x, 1), (np.ascontiguousarray(x.T), 0)]:
        for which in ("max", "min", "argmax", "argmin"):
            expected = reduce_reference(which, view, (axis,))
            got = reduce(which, view, (axis,)).astype(expected.dtype)
            np.testing.assert_array_equal(got, expected)


def test_sums_may_be_kept_wider_than_their_terms():
    x = draw((7, 300), "bool")
    assert np.array_equal(reduce("sum", x, (1,), out="int32"), x.sum(1))
    x = draw((7, 300), "uint8")
    assert np.array_equal(reduce("sum", x, (1,), out="int64"), x.sum(1))
    x = draw((7, 3000), "float16")
    exact = x.astype(np.float64).sum(1)
    np.testing.assert_allclose(reduce("sum", x, (1,), out="float32"), exact, 1e-5, 1e-4)


def test_a_long_float32_sum_is_as_good_as_pairwise():
    x = np.full(3_000_000, 0.1, np.float32)
    exact = 3_000_000 * np.float64(np.float32(0.1))
    assert abs(float(reduce("sum", x, (0,))) - exact) / exact < 2e-6


# ---- scan


def scan(which, mode, x, base=None, out=None, launch=launch):
    base = x if base is None else base
    words = [*x.shape, offset_of(x, base), *strides_of(x)]
    name = out or x.dtype.name
    y = launch("scan", words, [(name, x.size)], [base], (which, mode))
    return y.reshape(x.shape)


def scan_reference(which, mode, x):
    wide = x if x.dtype.kind in "iu" else x.astype(np.float64)
    dtype = x.dtype if x.dtype.kind in "iu" else None
    with np.errstate(all="ignore"):
        total = (np.cumsum if which == "sum" else np.cumprod)(wide, axis=1, dtype=dtype)
    if mode == "inclusive" or not x.size:
        return total
    start = np.full_like(total[:, :1], which == "prod")
    return np.concatenate([start, total[:, :-1]], axis=1)


@pytest.mark.parametrize("which", ["sum", "prod"])
@pytest.mark.parametrize("mode", ["inclusive", "exclusive"])
@pytest.mark.parametrize("name", NUMBERS)
def test_scan(which, mode, name):
    count = 0
    for shape in [
        (0, 3, 2),
        (2, 0, 2),
        (1, 1, 1),
        (3, 513, 1),
        (2, 7, 65),
        (1, 1500, 3),
    ]:
        for _, base, x in layouts(shape, name):
            if which == "prod" and x.dtype.kind not in "iu":
                base[...] = np.exp2(base.astype(np.float64) / 32).astype(base.dtype)
            y = same_at_all_levels(lambda x=x, b=base: scan(which, mode, x, b))
            expected = scan_reference(which, mode, x)
            if x.dtype.kind in "iu":
                np.testing.assert_array_equal(y, expected)
            else:
                eps = 2.1 * EPS[name] + 2e-13
                inner = np.abs(expected) + 1e-13 * x.shape[1] + 2.0**-24 * (eps > 1e-6)
                wide = y.astype(np.float64)
                fits = np.abs(expected) < float(ml_dtypes.finfo(x.dtype).max)
                assert np.all(
                    np.abs(wide - expected)[fits] <= (eps * inner)[fits] + 1e-12
                )
            count += 1
    assert count == 29


# ---- gather and scatter


def gather(x, indices, x_base=None, i_base=None, launch=launch):
    x_base = x if x_base is None else x_base
    i_base = indices if i_base is None else i_base
    outer, count, inner = indices.shape
    words = [outer, count, inner, x.shape[1], offset_of(x, x_base), *strides_of(x)]
    words += [offset_of(indices, i_base), *strides_of(indices)]
    result = (x.dtype.name, outer * count * inner)
    return launch("gather", words, [result], [x_base, i_base]).reshape(indices.shape)


def scatter(mode, y, v, indices, v_base=None, i_base=None, launch=launch):
    v_base = v if v_base is None else v_base
    i_base = indices if i_base is None else i_base
    outer, size, inner = y.shape
    words = [outer, v.shape[1], inner, size, offset_of(v, v_base), *strides_of(v)]
    words += [offset_of(indices, i_base), *strides_of(indices)]
    result = (y.dtype.name, y.size)
    got = launch("scatter", words, [result], [v_base, i_base], (mode,), keep=y)
    return got.reshape(y.shape)


def scatter_reference(mode, y, v, indices):
    y = y.copy()
    for o, j, i in np.ndindex(v.shape):
        at = (o, int(indices[o, j, i]), i)
        y[at] = v[o, j, i] if mode == "set" else y[at] + v[o, j, i]
    return y


def draw_indices(shape, size, name, seed=3):
    rng = np.random.default_rng(seed)
    low = -size if name in ("int32", "int64") else 0
    return rng.integers(low, size, shape).astype(name)


SLOTS = [
    (1, 5, 1),
    (1, 300, 1),
    (4, 3, 1),
    (600, 1, 1),
    (9, 37, 1),
    (2, 9, 5),
    (1, 40, 130),
    (3, 0, 2),
]


@pytest.mark.parametrize("index_type", INDEX_TYPES)
@pytest.mark.parametrize("name", ["bool", *NUMBERS])
def test_gather(name, index_type):
    for outer, count, inner in SLOTS:
        for _, base, x in layouts((outer, 11, inner), name):
            whole = draw_indices((outer, count, inner), 11, index_type)
            rows = np.broadcast_to(whole[:, :, :1], whole.shape)
            backwards = whole[:, ::-1]
            for indices in (whole, rows, backwards):
                y = same_at_all_levels(
                    lambda x=x, b=base, i=indices, w=whole: gather(x, i, b, w)
                )
                wanted = np.take_along_axis(x, indices.astype(np.int64) % 11, 1)
                assert y.tobytes() == np.ascontiguousarray(wanted).tobytes()


@pytest.mark.parametrize("mode", ["add", "set"])
@pytest.mark.parametrize("name", ["bool", *NUMBERS])
def test_scatter(name, mode):
    for k, (outer, count, inner) in enumerate(SLOTS):
        for _, base, v in layouts((outer, count, inner), name):
            index_type = INDEX_TYPES[k % 4]
            whole = draw_indices((outer, count, inner), 7, index_type)
            rows = np.broadcast_to(whole[:, :, :1], whole.shape)
            y = draw((outer, 7, inner), name, 5)
            for indices in (whole, rows):
                got = same_at_all_levels(
                    lambda y=y, v=v, i=indices, b=base, w=whole: scatter(
                        mode, y, v, i, b, w
                    )
                )
                with np.errstate(over="ignore"):
                    wanted = scatter_reference(mode, y, v, indices)
                assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    "shape", [(1, 50_000, 1), (9, 5000, 1), (1, 400, 300), (2, 20_000, 3)]
)
def test_scatter_of_much_has_the_bits_of_one_thread(shape):
    v = draw(shape, "float32")
    indices = draw_indices((*shape[:2], 1), 101, "int32") + np.zeros(shape, np.int32)
    y = np.zeros((shape[0], 101, shape[2]), np.float32)
    got = same_at_all_levels(lambda: scatter("add", y, v, indices))
    assert np.array_equal(got, scatter_reference("add", y, v, indices))


BAD = [
    ("int32", 4),
    ("int32", -5),
    ("int64", 2**30),
    ("uint8", 200),
    ("uint32", 2**31 - 1),
]


@pytest.mark.parametrize("index_type,bad", BAD)
@pytest.mark.parametrize(
    "shape", [(1, 600, 1), (600, 1, 1), (9, 37, 1), (2, 3, 5), (1, 50_000, 2)]
)
def test_the_first_index_out_of_range_is_a_fault(index_type, bad, shape):
    message = f"probe: index {bad} is out of range for an axis of size 4"
    indices = np.zeros(shape, index_type)
    indices.reshape(-1)[[indices.size // 2, indices.size - 1]] = bad, 100
    x, v = draw((shape[0], 4, shape[2]), "float32"), draw(shape, "float32")
    threads = backend_cpu.num_threads()
    try:
        for count in (1, 2):
            backend_cpu.set_num_threads(count)
            with pytest.raises(IndexError, match=message):
                gather(x, indices)
            for mode in ("add", "set"):
                with pytest.raises(IndexError, match=message):
                    scatter(mode, x, v, indices)
    finally:
        backend_cpu.set_num_threads(threads)


def test_an_index_of_rows_out_of_range_is_a_fault():
    x, column = draw((1, 4, 8), "float32"), np.array([[[0], [4], [-5]]], np.int32)
    indices = np.broadcast_to(column, (1, 3, 8))
    with pytest.raises(
        IndexError, match="index 4 is out of range for an axis of size 4"
    ):
        gather(x, indices, None, column)
    with pytest.raises(
        IndexError, match="index 4 is out of range for an axis of size 4"
    ):
        scatter("add", x, draw((1, 3, 8), "float32"), indices, None, column)


def test_every_index_into_an_empty_axis_is_a_fault():
    x, indices = np.empty((1, 0, 2), np.float32), np.zeros((1, 3, 2), np.int32)
    with pytest.raises(
        IndexError, match="index 0 is out of range for an axis of size 0"
    ):
        gather(x, indices)
    with pytest.raises(
        IndexError, match="index 0 is out of range for an axis of size 0"
    ):
        scatter("add", x, draw((1, 3, 2), "float32"), indices)


# ---- random


def philox(counter, key):
    """Philox4x32-10 of one block, after Salmon et al., SC11."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q, (p >> 32) ^ c[3] ^ k[1], p]
        c = [x & 0xFFFFFFFF for x in c]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


ONES = 0xFFFFFFFF


def test_philox_gives_the_known_answers():
    """The vectors for philox4x32 10 in kat_vectors of the Random123 distribution."""
    zeros = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    assert philox([0] * 4, [0] * 2) == zeros
    assert philox([ONES] * 4, [ONES] * 2) == ones
    counter = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert philox(counter, [0xA4093822, 0x299F31D0]) == pi
    assert list(random(4, [0, 0, 0, 0])[0]) == zeros


def random(n, state, offset=0, launch=launch):
    states = np.array([9] * offset + list(state), np.uint32)
    words = [n, (n + 3) // 4, offset]
    return launch("random", words, [("uint32", n), ("uint32", 4)], [states])


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 127, 128, 129, 1001])
@pytest.mark.parametrize(
    "state",
    [[1, 2, 3, 4], [7, ONES, ONES - 5, 8], [0xA4093822, 0x299F31D0, ONES, ONES]],
)
def test_random_is_philox_of_a_counter_that_carries(n, state):
    bits, after = random(n, state, offset=3)
    start, blocks = state[2] | state[3] << 32, (n + 3) // 4
    expected = []
    for b in range(blocks):
        counter = (start + b) % 2**64
        expected += philox([counter & ONES, counter >> 32, 0, 0], state[:2])
    assert list(bits) == expected[:n]
    end = (start + blocks) % 2**64
    assert list(after) == [state[0], state[1], end & ONES, end >> 32]


def test_random_has_the_same_bits_on_any_threads():
    same_at_all_levels(lambda: random(300_001, [1, 2, ONES, 4])[0])
