"""Options of layers and losses, paddings, dropouts of channels; against float64 NumPy.

Values, gradients and buffers of every class here, and of those of test_nn.py and
test_nn_more.py with all their options, were compared with torch 2.13.0 in float32 once, on cpu
and wgpu: they differ by less than 3e-6 relative to 1 + |value|.
"""

import numpy as np
import pytest

import portanet as pn
from portanet import nn
from portanet.nn import functional as F
from portanet.testing import assert_close, check_grads

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def on(device, *arrays):
    return [pn.tensor(a, device=device) for a in arrays]


# Losses ------------------------------------------------------------------------------------

X, T = normal(5, 4), np.array([0, 3, 1, -100, 2], np.int32)
W = np.array([0.5, 2.0, 1.0, 0.25], np.float32)
KEPT = T != -100


def log_softmax(x):
    x = x.astype(np.float64) - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_are_weighted_and_some_ignored(smoothing, reduction, device):
    logp = log_softmax(X)
    own = np.where(KEPT, T, 0)
    each = -logp[np.arange(5), own] * W[own] * (1 - smoothing)
    each = np.where(KEPT, each - (logp * W).mean(1) * smoothing, 0)
    scale = (W[own] * KEPT).sum()
    want = {"mean": each.sum() / scale, "sum": each.sum(), "none": each}[reduction]
    x, t, w = on(device, X, T, W)
    loss = nn.CrossEntropyLoss(w, label_smoothing=smoothing, reduction=reduction)
    assert_close(loss(x, t), want)
    if not smoothing:
        nll = nn.NLLLoss(w, reduction=reduction)
        assert_close(nll(pn.log_softmax(x), t), want)
    assert list(loss.state_dict()) == ["weight"]


def test_weights_of_probabilities(device):
    p = np.exp(log_softmax(normal(5, 4))).astype(np.float32)
    x, t, w = on(device, X, p, W)
    want = -(log_softmax(X) * p * W).sum() / 5
    assert_close(nn.CrossEntropyLoss(w)(x, t), want)


def test_weights_of_binary_losses(device):
    t = (RNG.random((5, 4)) < 0.5).astype(np.float32)
    logp = -np.logaddexp(0, -np.float64(X))
    logq = -np.logaddexp(0, np.float64(X))
    x, target, w = on(device, X, t, W)
    want = -W * (3 * W * t * logp + (1 - t) * logq)
    loss = nn.BCEWithLogitsLoss(w, pos_weight=3 * w, reduction="none")
    assert_close(loss(x, target), want)
    want = -W * (t * logp + (1 - t) * logq)
    assert_close(
        nn.BCELoss(w, "none")(pn.sigmoid(x), target), want, rtol=1e-5, atol=1e-5
    )
    assert_close(nn.MultiLabelSoftMarginLoss(w)(x, target), want.mean(), rtol=1e-5)


A, B = np.float64(normal(5, 4)), np.float64(normal(5, 4))
COUNTS = RNG.integers(0, 5, (5, 4)) + 0.25  # away from 1, where the formula changes
VAR = RNG.uniform(0.1, 2, (5, 4))
STIRLING = np.where(
    COUNTS > 1,
    COUNTS * np.log(np.maximum(COUNTS, 1)) - COUNTS
    + 0.5 * np.log(2 * np.pi * np.maximum(COUNTS, 1)),
    0,
)  # fmt: skip
D = np.abs(A - B)
CLASSES = np.array([0, 3, 1, 3, 2])
GAPS = np.maximum(0, 1 - A[np.arange(5), CLASSES][:, None] + A)
OTHERS = np.where(np.arange(4) == CLASSES[:, None], 0, 1)
LOSSES = {
    "smooth_l1": (
        nn.SmoothL1Loss(beta=0.5), (A, B), np.where(D < 0.5, D * D, D - 0.25).mean()
    ),
    "smooth_l1 of beta 0": (nn.SmoothL1Loss("sum", beta=0.0), (A, B), D.sum()),
    "huber": (
        nn.HuberLoss("sum", 0.5), (A, B),
        np.where(D < 0.5, D * D / 2, 0.5 * (D - 0.25)).sum(),
    ),
    "poisson": (
        nn.PoissonNLLLoss(full=True), (A, COUNTS), (np.exp(A) - COUNTS * A + STIRLING).mean()
    ),
    "poisson of rates": (
        nn.PoissonNLLLoss(log_input=False), (VAR, COUNTS),
        (VAR - COUNTS * np.log(VAR + 1e-8)).mean(),
    ),
    "gaussian": (
        nn.GaussianNLLLoss(full=True), (A, B, VAR),
        (0.5 * (np.log(VAR) + (A - B) ** 2 / VAR) + 0.5 * np.log(2 * np.pi)).mean(),
    ),
    "gaussian with a variance a row": (
        nn.GaussianNLLLoss(reduction="sum"), (A, B, VAR[:, 0]),
        (0.5 * (np.log(VAR[:, :1]) + (A - B) ** 2 / VAR[:, :1])).sum(),
    ),
    "soft margin": (
        nn.SoftMarginLoss(), (A, np.sign(B)), np.log1p(np.exp(-np.sign(B) * A)).mean()
    ),
    "multi margin": (nn.MultiMarginLoss(), (A, CLASSES), (GAPS * OTHERS).mean()),
    "multi margin squared": (
        nn.MultiMarginLoss(2, reduction="none"), (A, CLASSES), (GAPS**2 * OTHERS).mean(1)
    ),
    "triplet by a distance": (
        nn.TripletMarginWithDistanceLoss(
            distance_function=lambda a, b: (a - b).abs().sum(axis=-1), margin=2.0
        ),
        (A, B, A + 1), np.maximum(0, 2 + D.sum(1) - 4).mean(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_formula(name, device):
    loss, args, want = LOSSES[name]
    xs = [
        pn.tensor(a, "int32" if a.dtype.kind == "i" else "float32", device)
        for a in args
    ]
    assert_close(loss(*xs), want, rtol=1e-5, atol=1e-5)
    exact = [pn.tensor(a, device="cpu") for a in args]
    check_grads(lambda *a: loss(*a), *exact, rtol=1e-5)


BAD_LOSSES = [
    (
        lambda x: F.cross_entropy(x, pn.zeros(5, dtype="int32"), weight=x),
        r"weight is \(5, 4",
    ),
    (
        lambda x: F.binary_cross_entropy(x, x, weight=pn.ones((2, 5, 4))),
        "weight .2, 5, 4. is",
    ),
    (lambda x: F.gaussian_nll_loss(x, x, pn.ones(3)), r"var \(3,\) is not"),
    (lambda x: F.gaussian_nll_loss(x, x, x, eps=0), "eps must be above 0"),
    (lambda x: F.smooth_l1_loss(x, x, beta=-1), "beta can't be negative: -1"),
    (
        lambda x: F.multi_margin_loss(x, pn.zeros(4, dtype="int32")),
        r"the target \(n,\), got",
    ),
    (lambda x: nn.MultiMarginLoss(p=3), "p is 1 or 2, not 3"),
    (lambda x: F.softplus(x, beta=0), "beta must be above 0"),
    (lambda x: F.softshrink(x, -1), "lambd can't be negative: -1"),
]


@pytest.mark.parametrize("call, message", BAD_LOSSES)
def test_bad_arguments_of_losses_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(pn.ones((5, 4)))


# Activations -------------------------------------------------------------------------------

ACTIVATIONS = [
    (nn.ReLU6(), lambda x: np.clip(x, 0, 6)),
    (nn.Hardshrink(0.3), lambda x: np.where(np.abs(x) > 0.3, x, 0)),
    (nn.Softshrink(0.3), lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.3, 0)),
    (nn.Tanhshrink(), lambda x: x - np.tanh(x)),
    (nn.Threshold(0.1, 2.0), lambda x: np.where(x > 0.1, x, 2)),
    (
        nn.Softplus(2.0, 3.0),
        lambda x: np.where(2 * x > 3, x, np.log1p(np.exp(2 * x)) / 2),
    ),
    (nn.Softmin(dim=0), lambda x: np.exp(-x) / np.exp(-x).sum(0)),
    (nn.Softmax(dim=0), lambda x: np.exp(x) / np.exp(x).sum(0)),
    (nn.LeakyReLU(0.2, inplace=True), lambda x: np.where(x > 0, x, 0.2 * x)),
]


@pytest.mark.parametrize("layer, want", ACTIVATIONS, ids=lambda v: type(v).__name__)
def test_an_activation_is_its_formula(layer, want, device):
    x = 3 * normal(4, 5)
    assert_close(layer(pn.tensor(x, device=device)), want(np.float64(x)), rtol=1e-5)


def test_softmax_over_channels(device):
    x = normal(2, 3, 4, 5)
    y = nn.Softmax2d()(pn.tensor(x, device=device))
    assert_close(y, np.exp(x) / np.exp(x).sum(1, keepdims=True))
    with pytest.raises(ValueError, match="Softmax2d: .n, channels, h, w"):
        nn.Softmax2d()(pn.ones((2, 3)))


# Layers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_dropout_takes_whole_channels(rank, device):
    layer = getattr(nn, f"Dropout{rank}d")(0.25)
    shape = (20, 30, *[3] * rank)
    y = layer(pn.ones(shape, device=device)).numpy().reshape(20, 30, -1)
    assert (y == y[..., :1]).all() and set(np.unique(y)) == {0, np.float32(4 / 3)}
    assert 0.6 < (y[..., 0] > 0).mean() < 0.9
    assert layer.eval()(pn.ones(shape)).numpy().all()
    with pytest.raises(ValueError, match="axes after the channels"):
        layer(pn.ones(rank))


def test_alpha_dropout_keeps_mean_and_variance(device):
    y = nn.AlphaDropout(0.3)(pn.tensor(normal(300, 300), device=device)).numpy()
    # 90,000 numbers: the mean within 4 / 300, the variance within 4 sqrt(2) / 300.
    assert abs(y.mean()) < 0.015 and abs(y.var() - 1) < 0.03
    _, often = np.unique(y, return_counts=True)
    assert 0.25 < often.max() / y.size < 0.35  # the one value of all that is dropped


def test_bilinear_is_its_sum(device):
    layer = nn.Bilinear(3, 4, 5).to(device)
    a, b = normal(2, 6, 3), normal(2, 6, 4)
    want = np.einsum("...i,oij,...j->...o", a, layer.weight.numpy(), b)
    y = layer(*on(device, a, b))
    assert_close(y, want + layer.bias.numpy(), rtol=1e-5, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"Bilinear: \(..., 3\) and \(..., 4\) are needed"
    ):
        layer(*on(device, b, a))


def test_unflatten_and_channel_shuffle():
    x = pn.arange(24).reshape(2, 12)
    assert nn.Unflatten(1, (3, 4))(x).shape == (2, 3, 4)
    assert nn.Unflatten(-1, (-1, 2))(x).shape == (2, 6, 2)
    with pytest.raises(ValueError, match=r"axis 1 of shape \(2, 12\) is not \(5, 2\)"):
        nn.Unflatten(1, (5, 2))(x)
    y = nn.ChannelShuffle(3)(x.reshape(2, 6, 2))
    want = np.arange(24).reshape(2, 3, 2, 2).swapaxes(1, 2).reshape(2, 6, 2)
    np.testing.assert_array_equal(y.numpy(), want)
    with pytest.raises(ValueError, match="a multiple of 5 channels"):
        nn.ChannelShuffle(5)(x.reshape(2, 6, 2))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_instance_norm_without_a_batch(rank, device):
    layer = getattr(nn, f"InstanceNorm{rank}d")(5, affine=True).to(device)
    x = pn.tensor(normal(5, *[4, 3, 2][:rank]), device=device)
    alone = layer(x)
    assert alone.shape == x.shape
    assert_close(alone, layer(x.reshape(1, *x.shape)).numpy()[0], rtol=0, atol=0)
    with pytest.raises(ValueError, match="or without n, got shape"):
        layer(pn.ones((4, *x.shape[1:])))


def test_norms_without_a_bias():
    layers = [nn.BatchNorm1d(3, bias=False), nn.GroupNorm(1, 3, bias=False)]
    layers.append(nn.InstanceNorm2d(3, affine=True, bias=False))
    for layer in layers:
        assert [n for n, _ in layer.named_parameters()] == ["weight"]


def test_local_response_norm_is_its_formula(device):
    x = normal(2, 5, 3)
    wide = np.pad(np.square(np.float64(x)), ((0, 0), (2, 1), (0, 0)))
    around = sum(wide[:, i : i + 5] for i in range(4)) / 4
    y = nn.LocalResponseNorm(4, alpha=0.5, k=2.0)(pn.tensor(x, device=device))
    assert_close(y, x / (2 + 0.5 * around) ** 0.75, rtol=1e-5)


PADS = {
    "Zero": {},
    "Constant": {"constant_values": 1.5},
    "Reflection": {"mode": "reflect"},
    "Replication": {"mode": "edge"},
    "Circular": {"mode": "wrap"},
}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", PADS)
def test_a_border_is_numpys(kind, rank, device):
    widths = [1, 2, 0, 1, 2, 1][: 2 * rank]
    extra = (1.5,) if kind == "Constant" else ()
    layer = getattr(nn, f"{kind}Pad{rank}d")(tuple(widths), *extra)
    x = normal(2, 3, *[4, 5, 3][:rank])
    pairs = [(widths[i], widths[i + 1]) for i in range(0, 2 * rank, 2)][::-1]
    want = np.pad(x, [(0, 0), (0, 0), *pairs], **PADS[kind])
    np.testing.assert_array_equal(layer(pn.tensor(x, device=device)).numpy(), want)
    given = pn.tensor(np.float64(x), device="cpu")
    check_grads(layer, given, rtol=1e-5)


BAD_PADS = [
    (lambda: nn.ZeroPad2d((1, 2, 3)), "a number of at least 0, or 4 of them"),
    (lambda: nn.ReflectionPad1d(-1), "at least 0"),
    (
        lambda: nn.ReflectionPad1d(3)(pn.ones((1, 1, 3))),
        "too wide for axis 2 .* may be 2",
    ),
    (
        lambda: nn.CircularPad1d(4)(pn.ones((1, 1, 3))),
        "too wide for axis 2 .* may be 3",
    ),
    (lambda: nn.ReplicationPad1d(1)(pn.ones(3)), "with 1 axes after the channels"),
    (lambda: nn.Conv1d(1, 1, 3, padding_mode="mirror"), "padding_mode is one of zeros"),
]


@pytest.mark.parametrize("call, message", BAD_PADS)
def test_bad_borders_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, (2, 1), "same", "valid"])
def test_a_convolution_with_a_border_of_its_own(mode, padding, device):
    layer = nn.Conv2d(2, 3, (3, 4), padding=padding, padding_mode=mode).to(device)
    plain = nn.Conv2d(2, 3, (3, 4)).to(device)
    plain.load_state_dict(layer.state_dict())
    x = normal(2, 2, 6, 7)
    same, valid = [(1, 1), (1, 2)], [(0, 0), (0, 0)]
    widths = {"same": same, "valid": valid, 1: [(1, 1)] * 2}.get(
        padding, [(2, 2), (1, 1)]
    )
    by = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    wide = np.pad(x, [(0, 0), (0, 0), *widths], by)
    want = plain(pn.tensor(wide, device=device))
    assert_close(layer(pn.tensor(x, device=device)), want.numpy(), rtol=1e-5)


def test_a_pool_with_a_divisor_of_its_own(device):
    x = pn.tensor(normal(1, 2, 6, 6), device=device)
    y = nn.AvgPool2d(3, padding=1, divisor_override=2)(x)
    assert_close(y, nn.AvgPool2d(3, padding=1)(x).numpy() * 4.5, rtol=1e-5)
    with pytest.raises(ValueError, match="divisor_override can't be 0"):
        nn.AvgPool2d(3, divisor_override=0)(x)


# Embedding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
def test_long_rows_are_scaled_down_in_the_table_when_asked_for(compiled, device):
    layer = nn.Embedding(6, 3, max_norm=1.0).to(device)
    before = np.float64(layer.weight.numpy()) * 5
    layer.weight.assign(pn.tensor(before, "float32", device))
    call = pn.compile(lambda x: layer(x).detach()) if compiled else layer
    at = np.array([1, 4, 1], np.int32)
    y = call(pn.tensor(at, device=device)).numpy()
    sizes = np.linalg.norm(before, axis=1, keepdims=True)
    want = np.where(sizes > 1, before / (sizes + 1e-7), before)
    np.testing.assert_allclose(y, want[at], rtol=1e-5)
    after = layer.weight.numpy()
    np.testing.assert_allclose(after[[1, 4]], want[[1, 4]], rtol=1e-5)
    np.testing.assert_allclose(after[[0, 2, 3, 5]], before[[0, 2, 3, 5]], rtol=1e-6)


def test_gradients_by_how_often_a_row_is_asked_for(device):
    layer = nn.Embedding(5, 2, scale_grad_by_freq=True).to(device)
    x = pn.tensor([[1, 2, 2], [2, 4, 1]], device=device)
    y = layer(x)
    np.testing.assert_array_equal(y.numpy(), layer.weight.numpy()[x.numpy()])
    y.sum().backward()
    assert layer.weight.grad[:, 0].tolist() == pytest.approx([0, 1, 1, 0, 1])


def test_an_embedding_has_no_sparse_gradients():
    with pytest.raises(ValueError, match="there are no sparse gradients"):
        nn.Embedding(3, 2, sparse=True)
    with pytest.raises(ValueError, match="max_norm must be above 0, not 0"):
        nn.Embedding(3, 2, max_norm=0)


# Containers of parameters ------------------------------------------------------------------


def test_lists_and_dicts_of_parameters():
    class Net(nn.Module):
        def __init__(self):
            self.scales = nn.ParameterList([pn.ones(2), nn.Parameter([3.0])])
            self.named = nn.ParameterDict({"a": pn.zeros(3)})

    net = Net()
    net.scales.append(pn.ones(4))
    net.named["b"] = pn.ones(1)
    names = ["scales.0", "scales.1", "scales.2", "named.a", "named.b"]
    assert [n for n, _ in net.named_parameters()] == names == list(net.state_dict())
    assert [p.shape for p in net.scales] == [(2,), (1,), (4,)] and len(net.scales) == 3
    assert net.scales[-1] is net.scales[2]
    assert net.named.pop("a").shape == (3,) and "a" not in net.named
    with pytest.raises(IndexError, match="no parameter 3 among 3"):
        net.scales[3]
    with pytest.raises(KeyError, match="no parameter 'c'; it has b"):
        net.named["c"]
    with pytest.raises(ValueError, match="no attribute of a module, not 'train'"):
        net.named["train"] = pn.ones(1)


# Activations at their corners -----------------------------------------------------------------

CORNERS = {  # of each: places, and the slopes there
    "relu6": ([-1, 0, 3, 6, 7], [0, 0, 1, 0, 0]),
    "hardtanh": ([-2, -1, 0, 1, 2], [0, 0, 1, 0, 0]),
    "hardsigmoid": ([-4, -3, 0, 3, 4], [0, 0, 1 / 6, 0, 0]),
    "hardswish": ([-np.inf, -3, 0, 3, np.inf], [0, 0, 0.5, 1, 1]),
    "hardshrink": ([-2, -0.5, 0, 0.5, 2], [1, 0, 0, 0, 1]),
    "softshrink": ([-2, -0.5, 0, 0.5, 2], [1, 0, 0, 0, 1]),
}


@pytest.mark.parametrize("name", CORNERS)
def test_slopes_at_corners_are_those_of_the_outside_and_nan_stays(device, name):
    places, slopes = CORNERS[name]
    f = getattr(F, name)
    x = pn.tensor(np.array(places, np.float32), device=device)
    found = pn.grad(lambda x: f(x).sum())(x)
    assert_close(found, np.array(slopes), rtol=1e-6)
    assert np.isnan(f(pn.tensor([np.nan], device=device)).item())


def test_nan_is_not_below_a_threshold(device):
    x = pn.tensor([np.nan, 1.0, 0.5], device=device)
    assert_close(F.threshold(x, 0.5, 7.0), np.array([np.nan, 1, 7]), rtol=0)


def test_hardtanh_takes_integers_and_refuses_crossed_bounds(device):
    assert F.hardtanh(pn.tensor([-5, 0, 5], device=device), -2, 2).tolist() == [
        -2,
        0,
        2,
    ]
    with pytest.raises(ValueError, match="hardtanh: min_val 2 is above max_val 1"):
        F.hardtanh(pn.ones(1, device=device), 2, 1)
