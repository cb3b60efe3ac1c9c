"""Convolutions: the public functions and layers, on every device."""

import re

import numpy as np
import pytest

import portanet as pn
from portanet import nn
from portanet.nn import functional as F
from portanet.ops import convolve as ops


def drawn(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, shape) for shape in shapes]


def by_definition(x, w, stride, padding, dilation, groups):
    """conv2d with zeros on either side, one product at a time, in float64."""
    x = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    spans = [d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]
    size = [
        (n - span) // s + 1
        for n, span, s in zip(x.shape[2:], spans, stride, strict=True)
    ]
    y = np.zeros((x.shape[0], w.shape[0], *size))
    c, o = w.shape[1], w.shape[0] // groups
    for n, k, i, j in np.ndindex(y.shape):
        seen = x[n, k // o * c : (k // o + 1) * c]
        seen = seen[:, i * stride[0] :, j * stride[1] :]
        seen = seen[:, : spans[0] : dilation[0], : spans[1] : dilation[1]]
        y[n, k, i, j] = (seen * w[k]).sum()
    return y


SETTINGS = [
    ((1, 1), (0, 0), (1, 1), 1),
    ((2, 1), (1, 2), (1, 2), 1),
    ((3, 2), (2, 0), (2, 1), 2),
    ((1, 2), (1, 1), (1, 1), 4),
]


@pytest.mark.parametrize("stride, padding, dilation, groups", SETTINGS)
def test_conv2d_is_its_definition(device, stride, padding, dilation, groups):
    x, w, b = drawn(0, (2, 4, 9, 8), (8, 4 // groups, 3, 2), (8,))
    want = by_definition(x, w, stride, padding, dilation, groups) + b[:, None, None]
    x, w, b = (pn.tensor(v, "float32", device) for v in (x, w, b))
    y = F.conv2d(x, w, b, stride, padding, dilation, groups)
    np.testing.assert_allclose(y.numpy(), want, atol=1e-5)


def test_lower_and_higher_ranks_are_conv2d_with_sizes_of_1(device):
    x, w = (pn.tensor(v, "float32", device) for v in drawn(1, (2, 3, 9), (4, 3, 2)))
    plane = F.conv2d(pn.reshape(x, (2, 3, 1, 9)), pn.reshape(w, (4, 3, 1, 2)))
    y = F.conv1d(x, w)
    np.testing.assert_array_equal(y.numpy(), plane.numpy()[:, :, 0])
    solid = F.conv3d(pn.reshape(x, (2, 3, 1, 9, 1)), pn.reshape(w, (4, 3, 1, 2, 1)))
    np.testing.assert_allclose(solid.numpy()[:, :, 0, :, 0], y.numpy(), atol=1e-6)


@pytest.mark.parametrize("kernel, dilation", [(3, 1), (4, 1), (2, 3), (1, 2)])
def test_same_keeps_the_sizes(device, kernel, dilation):
    x, w = drawn(2, (1, 2, 7), (3, 2, kernel))
    x, w = pn.tensor(x, "float32", device), pn.tensor(w, "float32", device)
    y = F.conv1d(x, w, padding="same", dilation=dilation)
    assert y.shape == (1, 3, 7)
    before = dilation * (kernel - 1) // 2
    after = dilation * (kernel - 1) - before
    wide = pn.pad(x, ((0, 0), (0, 0), (before, after)))
    valid = F.conv1d(wide, w, padding="valid", dilation=dilation)
    np.testing.assert_allclose(y.numpy(), valid.numpy(), atol=1e-6)


def test_an_input_without_a_batch_gives_a_result_without_one():
    assert F.conv2d(pn.ones((3, 5, 5)), pn.ones((4, 3, 2, 2))).shape == (4, 4, 4)
    assert F.conv_transpose1d(pn.ones((3, 5)), pn.ones((3, 4, 2))).shape == (4, 6)


@pytest.mark.parametrize("more", [0, 1])
def test_a_transposed_convolution_is_the_adjoint(device, more):
    """<conv(x), y> = <x, conv_transpose(y)>."""
    stride, padding = (2, 3), (1, 0)
    x, w, y = drawn(3, (2, 4, 9 + more, 8 + more), (6, 2, 3, 2), (2, 6, 5, 3))
    x, w, y = (pn.tensor(v, "float32", device) for v in (x, w, y))
    forward = F.conv2d(x, w, None, stride, padding, groups=2)
    back = F.conv_transpose2d(y, w, None, stride, padding, more, groups=2)
    assert (forward.shape, back.shape) == (y.shape, x.shape)
    left, right = (forward * y).sum().item(), (x * back).sum().item()
    assert left == pytest.approx(right, abs=1e-4)


def test_gradients_of_gradients():
    x, w, b = (pn.tensor(v, "float64") for v in drawn(4, (2, 2, 5), (4, 1, 2), (4,)))
    pn.testing.check_grads(
        lambda x, w, b: F.conv1d(x, w, b, 2, 1, 2, groups=2),
        x,
        w,
        b,
        order=2,
        rtol=1e-5,
    )
    x, w = (pn.tensor(v, "float64") for v in drawn(5, (1, 4, 3), (4, 1, 3)))
    pn.testing.check_grads(
        lambda x, w: F.conv_transpose1d(x, w, None, 2, 1, 1, groups=2), x, w,
        order=2, rtol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(40, 3, 29, 27), (1, 6, 40, 33)])
def test_results_do_not_depend_on_the_batch_they_are_in(shape):
    """Few images share one copy of the input, many have a copy each. Of smaller planes the
    batch is the direction of the vectors if it is long enough, and the order another."""
    x, w = drawn(6, shape, (5, shape[1], 3, 3))
    x, w = pn.tensor(x, "float32"), pn.tensor(w, "float32")
    whole = F.conv2d(x, w, stride=2, padding=1).numpy()
    for i in range(shape[0]):
        one = F.conv2d(x[i : i + 1], w, stride=2, padding=1).numpy()
        np.testing.assert_array_equal(one[0], whole[i])


def test_infinities_meet_only_the_taps_that_read_them(device):
    x = np.zeros((1, 1, 5), "float32")
    x[0, 0, 0] = np.inf
    y = F.conv1d(
        pn.tensor(x, device=device), pn.ones((1, 1, 3), device=device), padding=1
    )
    np.testing.assert_array_equal(y.numpy()[0, 0], [np.inf, np.inf, 0, 0, 0])


REFUSED = [
    (lambda x, w: F.conv2d(x, w[:, :2]), ValueError, "weight (4, 2, 2, 2)"),
    (lambda x, w: F.conv2d(x, w, groups=3), ValueError, "in each of 3 groups"),
    (lambda x, w: F.conv2d(x, w, groups=0), ValueError, "groups must be at least 1"),
    (lambda x, w: F.conv2d(x, w, pn.ones(3)), ValueError, "bias is (3,), (4,) is"),
    (lambda x, w: F.conv2d(x, w, stride=0), ValueError, "stride must be at least 1"),
    (lambda x, w: F.conv2d(x, w, stride=(1, 2, 3)), ValueError, "have 2 numbers"),
    (lambda x, w: F.conv2d(x, w, stride=1.5), TypeError, "stride is an integer or 2"),
    (lambda x, w: F.conv2d(x, w, padding=-1), ValueError, "padding must be at least 0"),
    (lambda x, w: F.conv2d(x, w, padding="full"), ValueError, "not 'full'"),
    (lambda x, w: F.conv2d(x, w, stride=2, padding="same"), ValueError, "stride 1"),
    (lambda x, w: F.conv2d(x, w, dilation=9), ValueError, "size 10 does not fit"),
    (lambda x, w: F.conv2d(x[0, 0], w), ValueError, "got shape (5, 5)"),
    (lambda x, w: F.conv2d(x, w[0]), ValueError, "a weight has 4 axes"),
    (lambda x, w: F.conv2d(x.astype("int32"), w), TypeError, "the input is int32"),
    (lambda x, w: F.conv2d(x, w[:0]), ValueError, "is empty"),
    (lambda x, w: nn.Conv2d(2, 4, 2)(x), ValueError, "Conv2d: input (2, 3, 5, 5)"),
    (lambda x, w: nn.Conv2d(3, 4, 2, groups=2), ValueError, "divide into 2 groups"),
    (lambda x, w: nn.Conv1d(0, 4, 2), ValueError, "Conv1d: at least 1 channel"),
    (lambda x, w: nn.Conv1d(1, 4, 0), ValueError, "kernel_size must be at least 1"),
    (lambda x, w: F.conv_transpose2d(x, w), ValueError, "weight (4, 3, 2, 2)"),
    (
        lambda x, w: F.conv_transpose2d(x, w[:3], output_padding=1), ValueError,
        "output_padding 1 must be less than stride 1",
    ),
    (lambda x, w: F.conv_transpose2d(x, w[:3], padding=4), ValueError, "become -2"),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(REFUSED)))
def test_what_does_not_fit_is_refused_with_its_sizes(i):
    call, error, message = REFUSED[i]
    with pytest.raises(error, match=re.escape(message)):
        call(pn.ones((2, 3, 5, 5)), pn.ones((4, 3, 2, 2)))


def test_layers_have_the_fields_shapes_and_bounds():
    layer = nn.Conv2d(6, 8, (3, 2), groups=2)
    assert layer.weight.shape == (8, 3, 3, 2) and layer.bias.shape == (8,)
    bound = 1 / np.sqrt(3 * 3 * 2)
    for p in layer.parameters():
        values = np.abs(p.numpy())
        assert 0.5 * bound < values.max() <= bound * (1 + 1e-6)
    assert nn.Conv1d(2, 3, 5, bias=False).bias is None
    assert nn.ConvTranspose2d(6, 8, 3, groups=2).weight.shape == (6, 4, 3, 3)
    assert list(nn.Conv3d(1, 2, 3).state_dict()) == ["weight", "bias"]
    assert repr(nn.Conv2d(3, 4, 3, padding=1)) == (
        "Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))"
    )


def test_a_layer_is_its_function(device):
    x = pn.tensor(drawn(7, (2, 4, 6, 5))[0], "float32", device)
    layer = nn.Conv2d(4, 6, 3, 2, "valid", groups=2, device=device)
    want = F.conv2d(x, layer.weight, layer.bias, 2, groups=2)
    np.testing.assert_array_equal(layer(x).numpy(), want.numpy())
    back = nn.ConvTranspose2d(4, 2, 3, 2, 1, 1, device=device)
    want = F.conv_transpose2d(x, back.weight, back.bias, 2, 1, 1)
    assert back(x).shape == (2, 2, 12, 10)
    np.testing.assert_array_equal(back(x).numpy(), want.numpy())


def test_a_long_sum_is_cut_on_wgpu_and_stays_exact_enough(device):
    """The gradient of a small weight over many positions."""
    x, y = drawn(8, (4, 3, 40, 40), (4, 5, 40, 40))
    static = dict(stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1, size=(3, 3))
    want = ops.convolve_weight.reference(x, y, **static)
    x, y = (pn.tensor(v, "float32", device) for v in (x, y))
    got = ops.convolve_weight(x, y, **static).numpy()
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_a_batch_of_no_images_has_no_results(device):
    x = pn.zeros((0, 3, 5, 5), device=device)
    w = pn.ones((2, 3, 3, 3), device=device)
    w.requires_grad = True
    y = F.conv2d(x, w)
    assert y.shape == (0, 2, 3, 3)
    y.sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), np.zeros(w.shape))
