"""Sorting, searching, quantiles and distinct values, beyond what the entries' cases try."""

import numpy as np
import pytest

import portanet as pn
from tests.conftest import PRESENT

RNG = np.random.default_rng(11)


def draw(*shape):
    """float32 with many equals."""
    return np.round(RNG.normal(size=shape) * 9).astype(np.float32)


@pytest.mark.parametrize("device", PRESENT)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_sort_along_any_axis(device, axis):
    x = draw(5, 70, 3)
    t = pn.tensor(x, device=device)
    assert np.array_equal(pn.sort(t, axis=axis).numpy(), np.sort(x, axis))
    down = pn.sort(t, axis=axis, descending=True).numpy()
    assert np.array_equal(down, -np.sort(-x, axis))
    order = np.argsort(-x, axis, kind="stable")
    assert np.array_equal(t.argsort(axis, descending=True).numpy(), order)


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 70001), (2, 33000), (700, 65)])
def test_sort_does_not_depend_on_the_number_of_threads(name, shape):
    x = RNG.normal(size=shape).astype(name)
    before = pn.num_threads()
    try:
        for count in (1, 2, 3, 8):
            pn.set_num_threads(count)
            found = pn.argsort(pn.tensor(x, device="cpu")).numpy()
            assert np.array_equal(found, np.argsort(x, -1, kind="stable"))
    finally:
        pn.set_num_threads(before)


def test_sort_of_bfloat16():
    x = pn.tensor(draw(100), "bfloat16", "cpu")
    found = pn.sort(x).astype("float32").numpy()
    assert np.array_equal(found, np.sort(x.astype("float32").numpy()))


@pytest.mark.parametrize("device", PRESENT)
def test_the_gradient_of_sort_goes_to_where_a_value_came_from(device):
    x = pn.tensor(draw(4, 9), device=device, requires_grad=True)
    weights = pn.arange(9, dtype="float32", device=device)
    (pn.sort(x) * weights).sum().backward()
    place = np.argsort(np.argsort(x.numpy(), -1, kind="stable"), -1)
    assert np.array_equal(x.grad.numpy(), place)


@pytest.mark.parametrize("device", PRESENT)
def test_topk_is_the_head_of_the_order_and_compiles(device):
    x = draw(3, 50)
    compiled = pn.compile(lambda t: tuple(pn.topk(t, 4)))
    for f in (lambda t: pn.topk(t, 4), compiled, compiled):
        values, indices = f(pn.tensor(x, device=device))
        order = np.argsort(-x, -1, kind="stable")[:, :4]
        assert np.array_equal(indices.numpy(), order)
        assert np.array_equal(values.numpy(), np.take_along_axis(x, order, -1))
    low, at = pn.tensor(x, device=device).topk(2, axis=0, largest=False)
    assert np.array_equal(low.numpy(), np.sort(x, 0)[:2])
    assert at.shape == (2, 50)
    with pytest.raises(ValueError, match="topk: k is 51, axis 1"):
        pn.topk(pn.tensor(x, device=device), 51)


@pytest.mark.parametrize("device", PRESENT)
@pytest.mark.parametrize("q", [0.0, 0.3, 1, [0.25, 0.5, 0.9]])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_quantile_is_numpys(device, q, axis):
    x = RNG.normal(size=(5, 8)).astype(np.float32)
    t = pn.tensor(x, device=device)
    for keep in (False, True):
        want = np.quantile(x.astype(np.float64), q, axis=axis, keepdims=keep)
        found = pn.quantile(t, q, axis=axis, keepdims=keep).numpy()
        np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-7)
    want = np.median(x, axis=axis)
    # Half the last place of either middle value, which may be of opposite signs.
    np.testing.assert_allclose(t.median(axis).numpy(), want, rtol=1e-6, atol=1e-7)


def test_quantile_of_infinities_and_nan():
    assert pn.quantile(pn.tensor([1.0, np.inf, np.inf]), 0.75).item() == np.inf
    assert np.isnan(pn.median(pn.tensor([1.0, np.nan, 3.0])).item())
    with pytest.raises(ValueError, match="quantile: there is nothing"):
        pn.quantile(pn.zeros((2, 0)), 0.5, axis=1)
    with pytest.raises(ValueError, match="quantile: q is a number in"):
        pn.quantile(pn.zeros(3), 1.5)


@pytest.mark.parametrize("device", PRESENT)
def test_searchsorted_of_any_values_with_a_sorter(device):
    x, v = draw(30), draw(3, 4)
    t, s = pn.tensor(x, device=device), pn.tensor(v, device=device)
    for side in ("left", "right"):
        found = pn.searchsorted(t, s, side=side, sorter=pn.argsort(t))
        assert np.array_equal(found.numpy(), np.searchsorted(np.sort(x), v, side))
    with pytest.raises(ValueError, match="searchsorted: side"):
        pn.searchsorted(t, s, side="middle")


@pytest.mark.parametrize("device", PRESENT)
def test_unique_is_numpys(device):
    x = draw(6, 7)
    found = pn.unique_all(pn.tensor(x, device=device))
    want = np.unique(x, return_index=True, return_inverse=True, return_counts=True)
    for f, w in zip(found, want, strict=True):
        assert np.array_equal(f.numpy(), w.reshape(f.shape))
    assert pn.unique_values(pn.tensor(x, device=device)).shape == want[0].shape
    whole = pn.unique_counts(pn.tensor(x, device=device))
    assert np.array_equal(whole.counts.numpy(), want[3])
    inverse = pn.unique_inverse(pn.tensor(x, device=device))
    assert np.array_equal(inverse.values[inverse.inverse_indices].numpy(), x)


@pytest.mark.parametrize("function", [pn.unique_values, pn.nonzero])
def test_what_is_read_back_names_its_line_inside_compile(function):
    with pytest.raises(RuntimeError, match=r"test_sort\.py:\d+ in .* reads the value"):
        pn.compile(lambda x: function(x))(pn.ones(3))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8"])
@pytest.mark.parametrize("n, k", [(300, 1), (33, 8), (256, 48), (1031, 48), (5000, 7)])
def test_the_first_few_are_those_of_a_whole_sort(n, k, dtype):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 9, n), rng.integers(0, 200, n), np.arange(n) % 251]
    x = np.array([*rows, np.arange(n)[::-1] % 249]).astype(dtype)
    if dtype.startswith("float"):
        x[0, ::7], x[1, ::5], x[2, 3::11] = np.nan, -np.inf, -0.0
    t = pn.tensor(x, dtype, "cpu")
    for largest in (True, False):
        values, places = pn.topk(t, k, largest=largest)
        order = pn.argsort(t, descending=largest).numpy()[:, :k]
        np.testing.assert_array_equal(places.numpy(), order)
        np.testing.assert_array_equal(values.numpy(), np.take_along_axis(x, order, 1))
