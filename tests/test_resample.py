"""Interpolation, windows, diagonals and running extremes, against NumPy."""

import numpy as np
import pytest

import portanet as pn
from portanet import nn
from portanet.nn import functional as F

RNG = np.random.default_rng(5)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def linear_places(n, to, align):
    """Where the results lie between the elements of an axis."""
    if align:
        return np.linspace(0, n - 1, to) if to > 1 else np.zeros(1)
    return np.clip((np.arange(to) + 0.5) * n / to - 0.5, 0, n - 1)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("to", [(9, 4), (2, 11), (1, 1), (5, 6)])
def test_bilinear_is_linear_along_each_axis(device, align, to):
    x = draw(2, 3, 5, 6)
    rows, columns = (linear_places(n, m, align) for n, m in zip((5, 6), to))
    want = np.apply_along_axis(lambda v: np.interp(rows, range(5), v), 2, x)
    want = np.apply_along_axis(lambda v: np.interp(columns, range(6), v), 3, want)
    t = pn.tensor(x, device=device)
    y = F.interpolate(t, to, mode="bilinear", align_corners=align)
    np.testing.assert_allclose(y.numpy(), want, atol=1e-6)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area", "bicubic"])
def test_interpolation_keeps_a_constant_and_has_a_gradient(device, mode):
    x = pn.tensor(np.full((1, 2, 5, 4), 3, np.float32), device=device)
    x.requires_grad = True
    y = F.interpolate(x, (8, 3), mode=mode)
    np.testing.assert_allclose(y.numpy(), 3, rtol=1e-6)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy().sum(), y.size, rtol=1e-5)


def test_interpolation_in_float64_has_the_gradient_of_differences():
    x = pn.tensor(RNG.normal(size=(1, 2, 3, 4)))
    for mode in ("bilinear", "bicubic", "area", "nearest"):
        pn.testing.check_grads(
            lambda t, mode=mode: F.interpolate(t, (5, 2), mode=mode), x, order=2
        )


def test_interpolation_inside_compile_is_the_same(device):
    x = pn.tensor(draw(2, 3, 4, 5), device=device)
    f = lambda t: F.interpolate(t, scale_factor=1.5, mode="bilinear") * 2  # noqa: E731
    assert np.array_equal(pn.compile(f)(x).numpy(), f(x).numpy())


def test_upsample_says_what_it_cannot_do():
    x = pn.ones((1, 2, 3, 4))
    with pytest.raises(ValueError, match="interpolate: mode is one of"):
        nn.Upsample(scale_factor=2, mode="cosine")(x)
    with pytest.raises(ValueError, match="interpolate: mode 'linear' takes 3 axes"):
        nn.Upsample(scale_factor=2, mode="linear")(x)
    with pytest.raises(ValueError, match="give one of size and scale_factor"):
        nn.Upsample()(x)
    with pytest.raises(ValueError, match="leave nothing"):
        nn.Upsample(scale_factor=0.1)(x)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": (2, 3), "padding": 1, "stride": 2},
        {"kernel_size": 2, "dilation": 2, "padding": (0, 1), "stride": (1, 3)},
    ],
)
def test_fold_is_the_adjoint_of_unfold(device, options):
    x = pn.tensor(draw(2, 3, 6, 7), device=device)
    columns = nn.Unfold(**options)(x)
    v = pn.tensor(draw(*columns.shape), device=device)
    back = nn.Fold((6, 7), **options)(v)
    left, right = (columns * v).sum().item(), (x * back).sum().item()
    assert abs(left - right) < 1e-4
    counted = nn.Fold((6, 7), **options)(nn.Unfold(**options)(pn.ones((1, 1, 6, 7))))
    assert counted.shape == (1, 1, 6, 7)


def test_a_convolution_is_a_product_of_unfolded_windows(device):
    x, w = pn.tensor(draw(2, 3, 6, 5), device=device), draw(4, 3, 3, 2)
    w = pn.tensor(w, device=device)
    columns = F.unfold(x, (3, 2), padding=1, stride=2)
    y = w.reshape(4, -1) @ columns
    want = F.conv2d(x, w, stride=2, padding=1)
    np.testing.assert_allclose(y.numpy(), want.numpy().reshape(y.shape), atol=1e-5)


def test_fold_names_the_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"fold: input \(1, 9, 5\) must be"):
        F.fold(pn.ones((1, 9, 5)), (4, 4), 3)
    with pytest.raises(ValueError, match="unfold: no window of kernel_size"):
        F.unfold(pn.ones((1, 1, 2, 2)), 3)


def test_diagonal_trace_and_kron_are_numpys(device):
    x, y = draw(4, 5, 3), draw(2, 3)
    t = pn.tensor(x, device=device)
    for k in (-4, -1, 0, 2, 9):
        found = pn.diagonal(t, offset=k, axis1=0, axis2=1).numpy()
        assert np.array_equal(found, np.diagonal(x, k, 0, 1))
    np.testing.assert_allclose(
        pn.trace(t).numpy(), np.trace(x, 0, -2, -1), rtol=1e-6, atol=1e-6
    )
    product = pn.kron(t, pn.tensor(y, device=device)).numpy()
    np.testing.assert_allclose(product, np.kron(x, y), rtol=1e-6)
    with pytest.raises(ValueError, match="axis1 and axis2 are both 1"):
        pn.diagonal(t, axis1=1, axis2=-2)


def test_dilate_puts_zeros_between_and_undilate_takes_them_out(device):
    x = draw(2, 3)
    t = pn.tensor(x, device=device)
    y = pn.dilate(t, (0, 1), 2)
    want = np.zeros((6, 9), np.float32)
    want[::3, ::3] = x
    assert np.array_equal(y.numpy(), want)
    assert np.array_equal(pn.undilate(y, (0, 1), 2).numpy(), x)
    with pytest.raises(ValueError, match="dilate: dilation is a number of zeros"):
        pn.dilate(t, 0, -1)


@pytest.mark.parametrize("k", [-1, 0, 1, 2, 3, 6])
def test_rot90_is_numpys(device, k):
    x = draw(3, 4, 2)
    for axes in ((0, 1), (2, 0)):
        found = pn.rot90(pn.tensor(x, device=device), k, axes).numpy()
        assert np.array_equal(found, np.rot90(x, k, axes))


def test_bincount_is_numpys(device):
    x = RNG.integers(0, 9, 50).astype(np.int32)
    w = draw(50)
    t = pn.tensor(x, device=device)
    assert np.array_equal(
        pn.bincount(t, minlength=12).numpy(), np.bincount(x, None, 12)
    )
    found = pn.bincount(t, pn.tensor(w, device=device)).numpy()
    np.testing.assert_allclose(found, np.bincount(x, w), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="bincount: element -1 is below 0"):
        pn.bincount(pn.tensor([-1], device=device))


@pytest.mark.parametrize("axis", [0, 1])
def test_running_extremes_are_numpys_and_have_a_gradient(device, axis):
    x = np.round(draw(5, 6) * 2)
    t = pn.tensor(x, device=device, requires_grad=True)
    high, at = pn.cummax(t, axis=axis)
    assert np.array_equal(high.numpy(), np.maximum.accumulate(x, axis))
    assert np.array_equal(np.take_along_axis(x, at.numpy(), axis), high.numpy())
    assert np.array_equal(t.cummin(axis).values.numpy(), np.minimum.accumulate(x, axis))
    high.sum().backward()
    want = np.zeros_like(x)
    for i, j in np.ndindex(x.shape):
        where = (at.numpy()[i, j], j) if axis == 0 else (i, at.numpy()[i, j])
        want[where] += 1
    assert np.array_equal(t.grad.numpy(), want)


def test_logcumsumexp_does_not_overflow(device):
    x = draw(3, 7) * 300
    y = pn.logcumsumexp(pn.tensor(x, device=device), axis=1).numpy()
    want = np.logaddexp.accumulate(x.astype(np.float64), 1)
    np.testing.assert_allclose(y, want, rtol=1e-6)
