"""Random calls against NumPy, drawn by hypothesis: the same examples on every run."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import portanet as pn
from portanet.devices import get
from portanet.dtypes import ALL, as_dtype

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, database=None)

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def numbers(shape, seed=0, low=-4, high=5):
    """Small whole numbers as float32: sums and products of them are exact."""
    rng = np.random.default_rng([seed, *shape])
    return rng.integers(low, high, shape).astype(np.float32)


def same(got, want):
    assert got.shape == np.shape(want)
    np.testing.assert_array_equal(got.numpy(), want)


# Indexing -----------------------------------------------------------------------------


@SETTINGS
@given(data=st.data(), shape=SHAPES)
def test_basic_indexing(device, data, shape):
    a = numbers(shape)
    key = data.draw(hnp.basic_indices(shape, max_dims=6, allow_newaxis=True))
    same(pn.tensor(a, device=device)[key], a[key])


@SETTINGS
@given(data=st.data(), shape=hnp.array_shapes(max_dims=3, max_side=5))
def test_indexing_by_integers_and_masks(device, data, shape):
    a = numbers(shape)
    place = data.draw(st.integers(0, len(shape) - 1))
    n = shape[place]
    inner = data.draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4))
    index = hnp.arrays(np.int32, inner, elements=st.integers(-n, n - 1))
    mask = hnp.arrays(bool, n)
    part = data.draw(st.one_of(index, mask))
    assume(part.ndim or part.dtype != bool)
    head = [
        data.draw(hnp.basic_indices((k,), max_dims=1, min_dims=1))
        for k in shape[:place]
    ]
    head = [h[0] if isinstance(h, tuple) and len(h) == 1 else h for h in head]
    assume(all(isinstance(h, slice) for h in head))
    key = (*head, part)
    same(pn.tensor(a, device=device)[key], a[key])


@SETTINGS
@given(data=st.data(), shape=hnp.array_shapes(max_dims=3, max_side=5, min_side=0))
def test_assignment(device, data, shape):
    a = numbers(shape)
    x = pn.tensor(a, device=device)
    key = data.draw(hnp.basic_indices(shape, max_dims=5, allow_newaxis=True))
    target = a[key].shape
    ones = data.draw(
        st.lists(st.booleans(), min_size=len(target), max_size=len(target))
    )
    sizes = [1 if one else n for one, n in zip(ones, target, strict=True)]
    value = numbers(sizes[data.draw(st.integers(0, len(sizes))) :], 1)
    a[key] = value
    x[key] = value
    same(x, a)


# Broadcasting and promotion -----------------------------------------------------------


@SETTINGS
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=4))
def test_broadcasting(device, shapes):
    a, b, c = (numbers(s, i) for i, s in enumerate(shapes.input_shapes))
    x, y, z = (pn.tensor(v, device=device) for v in (a, b, c))
    same(x * y + z, a * b + c)
    same(pn.where(x > y, y, z), np.where(a > b, b, c))
    assert pn.broadcast_shapes(*shapes.input_shapes) == shapes.result_shape
    for got, want in zip(
        pn.broadcast_arrays(x, y, z), np.broadcast_arrays(a, b, c), strict=True
    ):
        same(got, want)


@SETTINGS
@given(a=SHAPES, b=SHAPES)
def test_shapes_broadcast_or_fail_as_numpys(device, a, b):
    x, y = (numbers(s) for s in (a, b))
    try:
        want = x + y
    except ValueError:
        with pytest.raises(ValueError, match="do not broadcast"):
            pn.tensor(x, device=device) + pn.tensor(y, device=device)
    else:
        same(pn.tensor(x, device=device) + pn.tensor(y, device=device), want)


NAMES = [t.name for t in ALL]


@SETTINGS
@given(names=st.lists(st.sampled_from(NAMES), min_size=2, max_size=3))
def test_promotion_is_commutative_and_never_loses_a_kind(names):
    """Not associative: int32 with uint32 is int64, float16 with bfloat16 float32."""
    result = pn.result_type(*names[:2])
    assert result == pn.result_type(*names[1::-1])
    order = ["bool", "integer", "float"]
    kinds = [
        "integer" if as_dtype(n).is_integer else as_dtype(n).kind for n in names[:2]
    ]
    got = "integer" if result.is_integer else result.kind
    assert order.index(got) == max(map(order.index, kinds))
    assert pn.result_type(result, *names[:2]) == result
    if result.is_float and all(as_dtype(n).is_float for n in names[:2]):
        eps = [float(pn.finfo(t).eps) for t in (result, *names[:2])]
        assert eps[0] <= min(eps[1:])


@SETTINGS
@given(a=st.sampled_from(NAMES), b=st.sampled_from(NAMES), shape=SHAPES)
def test_mixed_dtypes_add_as_in_numpy(device, a, b, shape):
    result = pn.result_type(a, b)
    has = get(device).backend.dtypes
    assume({as_dtype(a), as_dtype(b), result} <= has)
    x, y = (
        numbers(shape, i, 0, 9).astype(as_dtype(t).numpy) for i, t in enumerate((a, b))
    )
    got = pn.tensor(x, device=device) + pn.tensor(y, device=device)
    assert got.dtype is result
    same(got, x.astype(result.numpy) + y.astype(result.numpy))


# Reductions ---------------------------------------------------------------------------

REDUCTIONS = {
    "sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min, "any": np.any,
    "all": np.all, "mean": np.mean, "count_nonzero": np.count_nonzero,
}  # fmt: skip


def wanted(name, a, **options):
    with np.errstate(all="ignore"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        return REDUCTIONS[name](a, **options)


@SETTINGS
@given(
    data=st.data(), shape=SHAPES, name=st.sampled_from(sorted(REDUCTIONS)),
    keepdims=st.booleans(), turned=st.booleans(),
    dtype=st.sampled_from(["float32", "int32"]),
)  # fmt: skip
def test_reductions(device, data, shape, name, keepdims, turned, dtype):
    a = numbers(shape, low=-2, high=3).astype(dtype)
    x = pn.tensor(a, device=device)
    if turned:
        a, x = a.T, x.permute(*range(a.ndim)[::-1]) if a.ndim else x
    axes = st.integers(-a.ndim, a.ndim - 1) if a.ndim else st.none()
    axis = data.draw(st.one_of(st.none(), axes, hnp.valid_tuple_axes(a.ndim)))
    call = getattr(pn, name)
    try:
        want = wanted(name, a, axis=axis, keepdims=keepdims)
    except ValueError:
        with pytest.raises(ValueError, match=f"{name}: axis .* is empty"):
            call(x, axis=axis, keepdims=keepdims)
        return
    got = call(x, axis=axis, keepdims=keepdims)
    assert got.shape == want.shape
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)


@SETTINGS
@given(
    data=st.data(),
    shape=hnp.array_shapes(max_dims=3, max_side=6),
    ddof=st.integers(0, 1),
)
def test_variance_and_logsumexp(device, data, shape, ddof):
    a = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    x = pn.tensor(a, device=device)
    axis = data.draw(st.one_of(st.none(), st.integers(0, a.ndim - 1)))
    assume((a.size if axis is None else a.shape[axis]) > 1)
    wide = a.astype(np.float64)
    got = pn.var(x, axis=axis, correction=ddof).numpy()
    np.testing.assert_allclose(got, wide.var(axis=axis, ddof=ddof), rtol=1e-5)
    got = pn.logsumexp(x, axis=axis).numpy()
    np.testing.assert_allclose(
        got, np.log(np.exp(wide).sum(axis=axis)), rtol=1e-5, atol=1e-6
    )


@SETTINGS
@given(
    data=st.data(), shape=hnp.array_shapes(max_dims=3, max_side=7),
    keepdims=st.booleans(),
    name=st.sampled_from(["argmax", "argmin"]),
)  # fmt: skip
def test_argmax_is_the_first(device, data, shape, name, keepdims):
    a = numbers(shape)
    axis = data.draw(st.one_of(st.none(), st.integers(-a.ndim, a.ndim - 1)))
    got = getattr(pn, name)(pn.tensor(a, device=device), axis=axis, keepdims=keepdims)
    same(got, getattr(np, name)(a, axis=axis, keepdims=keepdims))


@SETTINGS
@given(data=st.data(), shape=hnp.array_shapes(max_dims=3, max_side=6, min_side=0))
def test_running_sums(device, data, shape):
    a = numbers(shape)
    axis = data.draw(st.integers(-a.ndim, a.ndim - 1))
    x = pn.tensor(a, device=device)
    same(pn.cumulative_sum(x, axis=axis), np.cumsum(a, axis=axis))
    same(
        pn.cumulative_prod(x[..., ::-1], axis=axis), np.cumprod(a[..., ::-1], axis=axis)
    )


# Shapes -------------------------------------------------------------------------------


def factorised(draw, n):
    """Sizes whose product is n."""
    sizes = []
    while n > 1 and draw(st.booleans()):
        d = draw(st.sampled_from([k for k in range(1, n + 1) if n % k == 0]))
        sizes.append(d)
        n //= d
    return (*sizes, n)


@SETTINGS
@given(data=st.data(), shape=hnp.array_shapes(max_dims=4, max_side=6))
def test_chains_of_views(device, data, shape):
    a = numbers(shape)
    x = pn.tensor(a, device=device)
    for _ in range(data.draw(st.integers(1, 6))):
        step = data.draw(
            st.sampled_from(["reshape", "permute", "slice", "flip", "expand"])
        )
        if step == "reshape":
            new = factorised(data.draw, a.size) if a.size else a.shape
            a, x = a.reshape(new), x.reshape(new)
        elif step == "permute":
            order = data.draw(st.permutations(range(a.ndim)))
            a, x = a.transpose(order), x.permute(*order) if order else x
        elif step == "slice":
            key = data.draw(hnp.basic_indices(a.shape, max_dims=5, allow_newaxis=True))
            a, x = a[key], x[key]
        elif step == "flip":
            a, x = np.flip(a), pn.flip(x)
        elif a.size < 200:
            new = (2, *a.shape)
            a, x = np.broadcast_to(a, new), pn.broadcast_to(x, new)
        a = np.asarray(a)
        assert x.shape == a.shape
    same(x, a)
    same(x + 1, a + 1)
    same(pn.sum(x), np.sum(a))


@SETTINGS
@given(data=st.data(), shape=hnp.array_shapes(max_dims=3, max_side=5, min_side=0))
def test_moving_elements(device, data, shape):
    a = numbers(shape)
    x = pn.tensor(a, device=device)
    axis = data.draw(st.integers(-a.ndim, a.ndim - 1))
    shift = data.draw(st.integers(-9, 9))
    same(pn.roll(x, shift, axis=axis), np.roll(a, shift, axis=axis))
    same(pn.roll(x, shift), np.roll(a, shift))
    widths = data.draw(
        st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=a.ndim, max_size=a.ndim)
    )
    same(pn.pad(x, widths, 7), np.pad(a, widths, constant_values=7))
    times = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    same(pn.tile(x, times), np.tile(a, times))
    same(pn.repeat(x, 3, axis=axis), np.repeat(a, 3, axis=axis))
    same(pn.concat([x, x, x], axis=axis), np.concatenate([a] * 3, axis=axis))
    same(pn.stack([x, x], axis=axis), np.stack([a] * 2, axis=axis))


# Products -----------------------------------------------------------------------------


@SETTINGS
@given(
    shapes=hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=3),
    turned=st.booleans(),
)
def test_matmul(device, shapes, turned):
    a, b = (numbers(s, i) for i, s in enumerate(shapes.input_shapes))
    x, y = pn.tensor(a, device=device), pn.tensor(b, device=device)
    if turned:
        a, x = a[::-1], pn.flip(x, axis=0)
        assume(a.shape == x.shape)
    same(x @ y, a @ b)


@SETTINGS
@given(data=st.data())
def test_einsum(device, data):
    letters = "abcde"
    size = {c: data.draw(st.integers(1, 4), label=c) for c in letters}
    term = st.lists(st.sampled_from(letters), min_size=0, max_size=3).map("".join)
    terms = data.draw(st.lists(term, min_size=1, max_size=3))
    used = sorted(set("".join(terms)))
    result = "".join(
        c for c in data.draw(st.permutations(used)) if data.draw(st.booleans())
    )
    equation = ",".join(terms) + data.draw(st.sampled_from([f"->{result}", "->", ""]))
    arrays = [numbers([size[c] for c in t], i) for i, t in enumerate(terms)]
    xs = [pn.tensor(a, device=device) for a in arrays]
    same(pn.einsum(equation, *xs), np.einsum(equation, *arrays))


@SETTINGS
@given(
    data=st.data(), shape=hnp.array_shapes(max_dims=3, max_side=4), n=st.integers(0, 3)
)
def test_tensordot(device, data, shape, n):
    n = min(n, len(shape))
    tail = data.draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=4))
    a, b = numbers(shape), numbers((*shape[len(shape) - n :], *tail), 1)
    got = pn.tensordot(pn.tensor(a, device=device), pn.tensor(b, device=device), axes=n)
    same(got, np.tensordot(a, b, axes=n))


@SETTINGS
@given(
    start=st.integers(-50, 50), stop=st.integers(-50, 50), num=st.integers(0, 20),
    step=st.integers(-7, 7).filter(bool), end=st.booleans(),
)  # fmt: skip
def test_ramps(device, start, stop, step, num, end):
    same(pn.arange(start, stop, step, device=device), np.arange(start, stop, step))
    want = np.linspace(start, stop, num, endpoint=end).astype(np.float32)
    same(pn.linspace(start, stop, num, endpoint=end, device=device), want)
    n, k = num, start % 7 - 3
    same(pn.eye(n, n + 2, k=k, device=device), np.eye(n, n + 2, k=k, dtype=np.float32))
    a = numbers((n, 5))
    if n:
        same(pn.tril(pn.tensor(a, device=device), k=k), np.tril(a, k))
        same(pn.triu(pn.tensor(a, device=device), k=k), np.triu(a, k))


def test_sizes_at_the_edges_of_a_grid(device):
    """One past 65,535 groups, and primes: what a dispatch must split."""
    for n in (65_535 * 256 + 1, 1_000_003):
        x = pn.ones(n, device=device) * 3
        assert x[-1].item() == 3 and (x + x)[n - 1].item() == 6
    tall = pn.broadcast_to(pn.arange(3, device=device), (65_537, 3))
    assert tall.sum(axis=1).sum().item() == 3 * 65_537
    assert math.prod(tall.shape) == pn.ones((65_537, 3), device=device).sum().item()
