"""Pooling: the public functions and layers, on every device."""

import re

import numpy as np
import pytest

import portanet as pn
from portanet import nn
from portanet.nn import functional as F


def drawn(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape)


def windows(n, k, s, p, out):
    return [
        [j for j in range(i * s - p, i * s - p + k) if 0 <= j < n] for i in range(out)
    ]


def pooled(x, axes, reduce):
    """reduce(elements of a window) for every window, in float64."""
    y = np.zeros((*x.shape[:2], *(len(a) for a in axes)))
    for p in np.ndindex(y.shape[2:]):
        at = np.ix_(*(axes[d][i] for d, i in enumerate(p)))
        y[(..., *p)] = reduce(
            x[(slice(None), slice(None), *at)].reshape(*x.shape[:2], -1)
        )
    return y


def test_max_pool_is_the_largest_of_each_window(device):
    x = drawn(2, 3, 9, 8)
    axes = [windows(9, 3, 2, 1, 5), windows(8, 2, 3, 0, 3)]
    want = pooled(x.astype("float32"), axes, lambda v: v.max(-1))
    y = F.max_pool2d(pn.tensor(x, "float32", device), (3, 2), (2, 3), (1, 0))
    np.testing.assert_array_equal(y.numpy(), want)


def test_avg_pool_counts_the_padding_or_not(device):
    x = drawn(2, 3, 9, 8)
    t = pn.tensor(x, "float32", device)
    axes = [windows(9, 3, 2, 1, 5), windows(8, 2, 3, 1, 3)]
    with_zeros = pooled(x, axes, lambda v: v.sum(-1) / 6)
    y = F.avg_pool2d(t, (3, 2), (2, 3), 1)
    np.testing.assert_allclose(y.numpy(), with_zeros, atol=1e-6)
    without = pooled(x, axes, lambda v: v.mean(-1))
    y = F.avg_pool2d(t, (3, 2), (2, 3), 1, count_include_pad=False)
    np.testing.assert_allclose(y.numpy(), without, atol=1e-6)


def test_ceil_mode_keeps_a_last_window_that_begins_inside(device):
    x = pn.tensor([[[1.0, 5.0, 2.0, 4.0, 3.0]]], device=device)
    assert F.max_pool1d(x, 2).numpy().tolist() == [[[5, 4]]]
    assert F.max_pool1d(x, 2, ceil_mode=True).numpy().tolist() == [[[5, 4, 3]]]
    assert F.avg_pool1d(x, 2, ceil_mode=True).numpy().tolist() == [[[3, 3, 3]]]
    # A window that would begin past the padding is left out.
    assert F.max_pool1d(x, 1, 5, ceil_mode=True).shape == (1, 1, 1)


@pytest.mark.parametrize("n, out", [(7, 3), (5, 8), (6, 3), (4, 1), (11, 10)])
def test_adaptive_pools_cover_every_element(device, n, out):
    x = drawn(2, 3, n, 6)
    t = pn.tensor(x, "float32", device)
    axes = [
        [range(i * m // o, -(-(i + 1) * m // o)) for i in range(o)]
        for m, o in ((n, out), (6, 4))
    ]
    mean = pooled(x, axes, lambda v: v.mean(-1))
    y = F.adaptive_avg_pool2d(t, (out, 4))
    np.testing.assert_allclose(y.numpy(), mean, atol=1e-6)
    largest = pooled(x.astype("float32"), axes, lambda v: v.max(-1))
    y = F.adaptive_max_pool2d(t, (out, 4))
    np.testing.assert_array_equal(y.numpy(), largest)


def test_the_first_of_equals_gets_the_gradient(device):
    x = pn.tensor([[[2.0, 2.0, 1.0, 3.0, 3.0]]], device=device)
    x.requires_grad = True
    y, places = F.max_pool1d(x, 3, 1, return_indices=True)
    assert places.numpy().tolist() == [[[0, 3, 3]]]
    y.sum().backward()
    assert x.grad.numpy().tolist() == [[[1, 0, 0, 2, 0]]]


def test_nan_is_the_largest(device):
    x = pn.tensor([[[1.0, float("nan"), 2.0, 3.0]]], device=device)
    assert np.isnan(F.max_pool1d(x, 2).numpy()).tolist() == [[[True, False]]]


def test_a_window_of_lowest_values_has_a_place_inside(device):
    x = pn.tensor([[[-np.inf, -np.inf]]], device=device)
    y, places = F.max_pool1d(x, 2, padding=1, return_indices=True)
    assert places.numpy().tolist() == [[[0, 1]]]
    assert np.isneginf(y.numpy()).all()


def test_gradients_of_gradients():
    x = pn.tensor(drawn(1, 2, 5, 6), "float64")
    for f in (
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        lambda x: F.adaptive_avg_pool2d(x, (2, 4)),
        lambda x: F.adaptive_max_pool2d(x, (3, 4)),
    ):
        pn.testing.check_grads(f, x, order=2, rtol=1e-5)


REFUSED = [
    (
        lambda x: F.max_pool2d(x, 7),
        ValueError,
        "a kernel of size 7 does not fit an axis",
    ),
    (
        lambda x: F.max_pool2d(x, 2, padding=2),
        ValueError,
        "more than half of the kernel",
    ),
    (lambda x: F.avg_pool2d(x, 0), ValueError, "kernel_size must be at least 1"),
    (lambda x: F.avg_pool2d(x, 2, 0), ValueError, "stride must be at least 1"),
    (lambda x: F.max_pool2d(x[0, 0], 2), ValueError, "got shape (5, 5)"),
    (lambda x: F.avg_pool2d(x.astype("int32"), 2), TypeError, "not int32"),
    (
        lambda x: F.adaptive_avg_pool2d(x, 0),
        ValueError,
        "output_size must be at least 1",
    ),
    (lambda x: F.adaptive_max_pool2d(x, (1, 2, 3)), ValueError, "have 2 numbers"),
    (lambda x: F.adaptive_max_pool2d(x[:, :, :0], 1), ValueError, "is empty"),
    (lambda x: nn.MaxPool2d(9)(x), ValueError, "MaxPool2d: a kernel of size 9"),
]


@pytest.mark.parametrize("i", range(len(REFUSED)))
def test_what_does_not_fit_is_refused_with_its_sizes(i):
    call, error, message = REFUSED[i]
    with pytest.raises(error, match=re.escape(message)):
        call(pn.ones((2, 3, 5, 5)))


def test_layers_are_their_functions(device):
    x = pn.tensor(drawn(2, 3, 6, 7), "float32", device)
    for layer, want in (
        (nn.MaxPool2d(3, 2, 1), F.max_pool2d(x, 3, 2, 1)),
        (nn.AvgPool2d(2), F.avg_pool2d(x, 2)),
        (nn.AdaptiveAvgPool2d((1, None)), F.adaptive_avg_pool2d(x, (1, None))),
        (nn.AdaptiveMaxPool2d(2), F.adaptive_max_pool2d(x, 2)),
        (nn.MaxPool1d(2), F.max_pool1d(x[0], 2)),
    ):
        given = x[0] if layer.rank == 1 else x
        np.testing.assert_array_equal(layer(given).numpy(), want.numpy())
    assert nn.AdaptiveAvgPool2d((1, None))(x).shape == (2, 3, 1, 7)
    assert repr(nn.AvgPool2d(2)) == "AvgPool2d(kernel_size=2, stride=2, padding=0)"
