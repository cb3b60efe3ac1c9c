"""Embedding, norms, containers, activations and losses, against float64 NumPy.

Outputs, gradients and state names of layers and losses that PyTorch has were compared with
torch 2.13.0 in float32 once: they differ by less than 1e-6 relative to 1 + |value|, but for
the gradients of targets where a probability is just 0 or 1, which PyTorch gives as inf or NaN.
"""

import copy
import pickle

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


# Embedding ---------------------------------------------------------------------------------


def test_embedding_takes_rows_and_adds_up_their_gradients(device):
    layer = nn.Embedding(7, 3).to(device)
    rows = RNG.integers(0, 7, (4, 5)).astype(np.int32)
    y = layer(pn.tensor(rows, device=device))
    assert_close(y, layer.weight.numpy()[rows], rtol=0, atol=0)
    g = normal(4, 5, 3)
    y.backward(pn.tensor(g, device=device))
    want = np.zeros((7, 3))
    np.add.at(want, rows, g)
    assert_close(layer.weight.grad, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding_idx", [2, -5])
def test_the_padding_row_starts_at_zero_and_is_not_trained(padding_idx, device):
    layer = nn.Embedding(7, 3, padding_idx=padding_idx).to(device)
    assert layer.padding_idx == 2 and layer.weight[2].tolist() == [0.0] * 3
    layer(pn.tensor([0, 2, 2, 6], device=device)).sum().backward()
    grad = layer.weight.grad.numpy()
    assert grad[[0, 6]].tolist() == [[1.0] * 3] * 2
    assert not grad[[1, 2, 3, 4, 5]].any()


def test_a_padding_row_with_values_is_still_read():
    table = pn.tensor([[1.0], [2.0]])
    layer = nn.Embedding.from_pretrained(table, freeze=False, padding_idx=1)
    y = layer(pn.tensor([1, 0]))
    assert y.tolist() == [[2.0], [1.0]]
    y.sum().backward()
    assert layer.weight.grad.tolist() == [[1.0], [0.0]]


def test_a_pretrained_table_is_frozen_and_stays_a_parameter():
    layer = nn.Embedding.from_pretrained(pn.tensor([[1.0, 2.0]]))
    assert [n for n, _ in layer.named_parameters()] == ["weight"]
    assert not layer(pn.tensor([0])).requires_grad
    assert list(layer.state_dict()) == ["weight"]


@pytest.mark.parametrize("row", [-1, 3])
def test_a_number_outside_of_the_table_is_an_error(row, device):
    layer = nn.Embedding(3, 2).to(device)
    with pytest.raises(IndexError, match="embedding"):
        layer(pn.tensor([0, row], device=device)).numpy()


def test_embedding_of_no_numbers_is_empty():
    y = nn.Embedding(3, 2)(pn.tensor(np.zeros((0, 4), np.int32)))
    assert y.shape == (0, 4, 2)


# Positions ---------------------------------------------------------------------------------


def test_sinusoidal_positions_are_the_formula_also_from_an_offset(device):
    for dim in (6, 5):
        layer = nn.SinusoidalPositions(dim, max_len=20).to(device)
        x = normal(2, 4, dim)
        p = np.arange(3, 7)[:, None]
        i = np.arange(dim)
        angle = p / 10000.0 ** (2 * (i // 2) / dim)
        want = x + np.where(i % 2, np.cos(angle), np.sin(angle))
        assert_close(layer(pn.tensor(x, device=device), offset=3), want, rtol=1e-5)


def test_learned_positions_are_rows_that_are_trained(device):
    layer = nn.LearnedPositions(8, 3).to(device)
    x = normal(2, 4, 3)
    y = layer(pn.tensor(x, device=device), offset=1)
    assert_close(y, x + layer.weight.numpy()[1:5], rtol=1e-6)
    y.sum().backward()
    assert layer.weight.grad.numpy()[:, 0].tolist() == [0, 2, 2, 2, 2, 0, 0, 0]


def test_rotary_positions_turn_pairs_as_complex_numbers(device):
    layer = nn.RotaryPositions(6, max_len=16, base=100.0).to(device)
    x = normal(2, 3, 5, 6)
    angle = np.arange(2, 7)[:, None] / 100.0 ** (2 * np.arange(3) / 6)
    turned = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angle)
    want = np.concatenate([turned.real, turned.imag], -1)
    got = layer(pn.tensor(x, device=device), offset=2)
    assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_a_product_of_rotated_vectors_depends_on_their_distance():
    layer, q, k = nn.RotaryPositions(8), *on("cpu", normal(1, 8), normal(1, 8))
    near = (layer(q, offset=3) * layer(k, offset=1)).sum().item()
    far = (layer(q, offset=1003) * layer(k, offset=1001)).sum().item()
    assert near == pytest.approx(far, rel=1e-3)


@pytest.mark.parametrize(
    "layer", [nn.LearnedPositions(4, 6), nn.SinusoidalPositions(6, 4)]
)
def test_positions_past_the_last_are_refused(layer):
    assert layer(pn.zeros((4, 6))).shape == (4, 6)
    with pytest.raises(ValueError, match="positions 1 to 5 are past 4"):
        layer(pn.zeros((4, 6)), offset=1)
    with pytest.raises(ValueError, match=r"\(..., length, 6\) is needed, got \(4, 5\)"):
        layer(pn.zeros((4, 5)))


# Norms -------------------------------------------------------------------------------------


def standard(x, axes, eps=1e-5):
    x = np.float64(x)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def along(v, x):
    return np.reshape(v, (1, -1, *[1] * (x.ndim - 2)))


def random_affine(layer):
    for p in layer.parameters():
        p.assign(pn.tensor(normal(*p.shape), device=p.device))
    return [p.numpy() for p in layer.parameters()]


def test_rms_norm_is_the_formula(device):
    for shape, sizes in (((4, 6), 6), ((2, 3, 5), (3, 5)), ((2, 1031), 1031)):
        layer = nn.RMSNorm(sizes).to(device)
        (w,) = random_affine(layer)
        x = normal(*shape)
        axes = tuple(range(-w.ndim, 0))
        power = np.square(np.float64(x)).mean(axes, keepdims=True)
        want = x / np.sqrt(power + 2.0**-23) * w
        assert_close(layer(pn.tensor(x, device=device)), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 6), (3, 6, 5), (2, 6, 5, 3)])
def test_group_norm_is_the_formula(shape, device):
    layer = nn.GroupNorm(3, 6).to(device)
    w, b = random_affine(layer)
    x = normal(*shape)
    y = standard(x.reshape(shape[0], 3, -1), 2).reshape(shape)
    want = y * along(w, x) + along(b, x)
    assert_close(layer(pn.tensor(x, device=device)), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 6), (0, 6, 5, 3)])
def test_group_norm_of_no_rows_has_gradients_of_zero(shape, device):
    layer = nn.GroupNorm(3, 6).to(device)
    x = pn.zeros(shape, device=device, requires_grad=True)
    got = pn.gradients(layer(x).sum(), [x, layer.weight, layer.bias])
    assert [g.shape for g in got] == [shape, (6,), (6,)]
    assert not any(g.numpy().any() for g in got)
    assert F.instance_norm(pn.zeros((2, 0, 3), device=device)).shape == (2, 0, 3)


def test_gradients_of_group_norm_on_a_kernel_are_those_of_its_fallback(device):
    x, w, b = normal(70, 6, 3, 5), normal(6), normal(6)
    g = pn.tensor(normal(*x.shape), device=device)
    found = []
    for create_graph in (False, True):
        ts = [pn.tensor(a, device=device, requires_grad=True) for a in (x, w, b)]
        y = F.group_norm(ts[0], 2, *ts[1:])
        found.append(pn.gradients(y, ts, g, create_graph=create_graph))
        compiled = pn.compile(
            lambda *ts: (F.group_norm(ts[0], 2, *ts[1:]) * 2).detach()
        )
        assert_close(compiled(*ts), y.numpy() * 2, rtol=1e-5, atol=1e-5)
    for a, b in zip(*found, strict=True):
        # Sums of 70 * 15 terms of size 1, in another order.
        assert_close(a, b.numpy(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "kind, shape",
    [(nn.InstanceNorm1d, (3, 4, 7)), (nn.InstanceNorm2d, (3, 4, 5, 2))],
)
def test_instance_norm_is_the_formula_and_keeps_averages_if_asked(kind, shape, device):
    axes = tuple(range(2, len(shape)))
    x = normal(*shape)
    plain = kind(4).to(device)
    assert list(plain.state_dict()) == []
    got = plain(pn.tensor(x, device=device))
    assert_close(got, standard(x, axes), rtol=1e-5, atol=1e-5)

    layer = kind(4, affine=True, track_running_stats=True, momentum=0.5).to(device)
    w, b = random_affine(layer)
    layer(pn.tensor(x, device=device))
    mean = 0.5 * x.mean(axes).mean(0)
    var = 0.5 + 0.5 * x.var(axes, ddof=1).mean(0)
    assert_close(layer.running_mean, mean, rtol=1e-5, atol=1e-6)
    assert_close(layer.running_var, var, rtol=1e-5)
    want = (x - along(mean, x)) / np.sqrt(along(var, x) + 1e-5)
    want = want * along(w, x) + along(b, x)
    got = layer.eval()(pn.tensor(x, device=device))
    assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "kind, shape",
    [(nn.BatchNorm2d, (3, 4, 5, 2)), (nn.BatchNorm3d, (2, 4, 3, 2, 2))],
)
def test_batch_norm_over_images_is_the_formula(kind, shape, device):
    axes = (0, *range(2, len(shape)))
    layer = kind(4).to(device)
    w, b = random_affine(layer)
    x = normal(*shape)
    want = standard(x, axes) * along(w, x) + along(b, x)
    got = layer(pn.tensor(x, device=device))
    assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert_close(layer.running_mean, 0.1 * x.mean(axes), rtol=1e-5, atol=1e-6)
    var = 0.9 + 0.1 * x.var(axes, ddof=1)
    assert_close(layer.running_var, var, rtol=1e-5)
    names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(layer.state_dict()) == names


NORMS = [
    (lambda: nn.RMSNorm(5), (3, 5)),
    (lambda: nn.GroupNorm(2, 4), (3, 4, 3)),
    (lambda: nn.InstanceNorm1d(4, affine=True), (2, 4, 3)),
    (lambda: nn.BatchNorm2d(3), (2, 3, 2, 2)),
]


@pytest.mark.parametrize(
    "make, shape", NORMS, ids=["rms", "group", "instance", "batch"]
)
def test_gradients_of_norms_are_those_of_differences(make, shape):
    layer = make().to("float64")
    w = pn.tensor(RNG.normal(size=shape))
    check_grads(lambda x: layer(x) * w, pn.tensor(RNG.normal(size=shape)), order=2)


def test_half_precision_is_normalised_in_float32():
    x = pn.tensor(normal(2, 4, 8)).astype("float16")
    for y in (F.rms_norm(x, 8), F.group_norm(x, 2), F.instance_norm(x)):
        assert y.dtype == "float16" and np.isfinite(y.numpy()).all()


def test_norms_name_the_sizes_that_do_not_fit():
    bad = [
        (lambda: nn.GroupNorm(4, 6), "GroupNorm: 6 channels do not divide into 4"),
        (lambda: nn.GroupNorm(2, 6)(pn.ones((2, 4, 3))), r"GroupNorm: \(n, 6, ...\)"),
        (lambda: nn.RMSNorm(4)(pn.ones((2, 3))), r"rms_norm: the last axes .* \(4,\)"),
        (lambda: nn.RMSNorm(0), "RMSNorm: no axis to normalise"),
        (
            lambda: nn.BatchNorm2d(3)(pn.ones((2, 3, 4))),
            r"BatchNorm2d: \(n, 3, h, w\) is needed, got shape \(2, 3, 4\)",
        ),
        (
            lambda: nn.InstanceNorm1d(3)(pn.ones((2, 3, 1))),
            "instance_norm: more than one value per channel",
        ),
        (lambda: nn.BatchNorm3d(0), "BatchNorm3d: at least 1 channel"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()


# Containers --------------------------------------------------------------------------------


def test_a_module_list_is_a_list():
    a, b, c, d = (nn.Linear(n, 1) for n in (1, 2, 3, 4))
    layers = nn.ModuleList([a])
    layers.append(c).extend([d])
    layers.insert(1, b)
    assert list(layers) == [a, b, c, d] and len(layers) == 4
    assert layers[-1] is d and list(layers[1:3]) == [b, c]
    del layers[0]
    layers[0] = a
    assert list(layers) == [a, c, d]
    assert list(layers.state_dict())[:3] == ["0.weight", "0.bias", "1.weight"]
    with pytest.raises(IndexError, match="ModuleList: there is no module 3 among 3"):
        layers[3]
    with pytest.raises(TypeError, match="ModuleList: module 3 is a int, not a Module"):
        layers.append(1)


def test_a_module_dict_is_a_dict():
    a, b = nn.Linear(1, 1), nn.Linear(2, 1)
    heads = nn.ModuleDict({"a": a})
    heads["b"] = b
    assert list(heads) == ["a", "b"] and "a" in heads and "c" not in heads
    assert dict(heads.items()) == {"a": a, "b": b} and list(heads.values()) == [a, b]
    assert list(heads.state_dict()) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    assert heads.pop("a") is a and len(heads) == 1
    del heads["b"]
    assert not list(heads.parameters())
    with pytest.raises(KeyError, match="there is no module 'x'; it has nothing"):
        heads["x"]
    with pytest.raises(ValueError, match="a name is a string without a dot"):
        heads["a.b"] = a


def test_modules_in_containers_are_moved_switched_copied_and_pickled():
    class Net(nn.Module):
        def __init__(self):
            self.stages = nn.ModuleList([nn.Linear(2, 2), nn.Dropout()])
            self.heads = nn.ModuleDict({"a": nn.Linear(2, 1)})

    net = Net()
    names = [name for name, _ in net.named_parameters()]
    assert names == [
        "stages.0.weight", "stages.0.bias", "heads.a.weight", "heads.a.bias",
    ]  # fmt: skip
    assert not net.eval().stages[1].training
    stages = pickle.loads(pickle.dumps(net.stages))
    assert stages[0].weight.tolist() == net.stages[0].weight.tolist()
    assert copy.deepcopy(net).heads["a"] is not net.heads["a"]
    assert "(0): Linear" in repr(net) and "(a): Linear" in repr(net)


# Pixels ------------------------------------------------------------------------------------


def test_pixel_shuffle_moves_channels_into_space_and_back(device):
    x = normal(2, 8, 3, 5)
    want = np.zeros((2, 2, 6, 10), np.float32)
    for i, j in np.ndindex(2, 2):
        want[:, :, i::2, j::2] = x[:, 2 * i + j :: 4]
    y = nn.PixelShuffle(2)(pn.tensor(x, device=device))
    assert_close(y, want, rtol=0, atol=0)
    assert_close(nn.PixelUnshuffle(2)(y), x, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"8 channels .* no multiple of 3 \* 3"):
        F.pixel_shuffle(y.reshape(1, 8, 3, 10), 3)
    with pytest.raises(ValueError, match="6 x 10 .* no multiple of 4"):
        F.pixel_unshuffle(y, 4)


def test_upsample_repeats_elements_and_adds_up_their_gradients(device):
    x = pn.tensor(normal(2, 3, 4, 5), device=device, requires_grad=True)
    y = nn.Upsample(scale_factor=(2, 3))(x)
    assert_close(y, x.numpy().repeat(2, 2).repeat(3, 3), rtol=0, atol=0)
    y.sum().backward()
    assert_close(x.grad, np.full(x.shape, 6.0))
    with pytest.raises(ValueError, match="2 axes after the channels, 1 factors"):
        F.upsample_nearest(x, (2,))
    with pytest.raises(ValueError, match="the factor is a number above 0, not 0.5"):
        F.upsample_nearest(x, 0.5)


# Activations -------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = [
    (nn.SELU(), lambda x: 1.05070099 * np.where(x > 0, x, 1.67326324 * np.expm1(x))),
    (nn.CELU(2.0), lambda x: np.where(x > 0, x, 2 * np.expm1(x / 2))),
    (nn.Softsign(), lambda x: x / (1 + np.abs(x))),
    (nn.Hardswish(), lambda x: x * np.clip(x + 3, 0, 6) / 6),
    (nn.Hardsigmoid(), lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    (nn.LogSigmoid(), lambda x: np.log(sigmoid(x))),
    (nn.PReLU(), lambda x: np.where(x > 0, x, x / 4)),
    (nn.GLU(1), lambda x: x[:, :3] * sigmoid(x[:, 3:])),
]


@pytest.mark.parametrize(
    "layer, formula", ACTIVATIONS, ids=[type(a[0]).__name__ for a in ACTIVATIONS]
)
def test_an_activation_is_its_formula(layer, formula, device):
    x = 3 * normal(4, 6, 5)
    layer = copy.deepcopy(layer).to(device)
    got = layer(pn.tensor(x, device=device))
    assert_close(got, formula(np.float64(x)), rtol=1e-5, atol=1e-6)


def test_prelu_has_a_slope_for_each_channel_if_asked():
    layer = nn.PReLU(3)
    layer.weight.assign(pn.tensor([0.0, 0.5, 1.0]))
    y = layer(pn.full((2, 3, 4), -2.0))
    assert y[0, :, 0].tolist() == [0.0, -1.0, -2.0]
    y.sum().backward()
    assert layer.weight.grad.tolist() == [-16.0] * 3
    with pytest.raises(ValueError, match=r"has 4 channels, weight is \(3,\)"):
        layer(pn.ones((2, 4)))


def test_activations_name_what_does_not_fit():
    with pytest.raises(ValueError, match=r"glu: axis -1 of shape \(2, 3\)"):
        F.glu(pn.ones((2, 3)))
    for make in (lambda: nn.CELU(0.0), lambda: F.celu(pn.ones(1), 0.0)):
        with pytest.raises(ValueError, match="alpha can't be 0"):
            make()


# Losses ------------------------------------------------------------------------------------


def simplex(*shape):
    x = np.exp(RNG.normal(size=shape))
    return (x / x.sum(-1, keepdims=True)).astype(np.float32)


def signs(*shape):
    return np.where(RNG.random(shape) < 0.5, -1, 1).astype(np.float32)


def cosine(a, b):
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def distance(a, b):
    return np.sqrt(np.square(a - b + 1e-6).sum(-1))


P = RNG.uniform(0.05, 0.95, (2, 5, 4)).astype(np.float32)
X, S, Z = normal(3, 5, 4), signs(5, 4), signs(5)
LOSSES = [
    (
        nn.KLDivLoss,
        {},
        [np.log(simplex(5, 4)), simplex(5, 4)],
        lambda x, t: t * (np.log(t) - x),
    ),
    (
        nn.KLDivLoss,
        {"log_target": True},
        [np.log(simplex(5, 4)), np.log(simplex(5, 4))],
        lambda x, t: np.exp(t) * (t - x),
    ),
    (
        nn.BCELoss,
        {},
        [P[0], P[1]],
        lambda p, t: -(t * np.log(p) + (1 - t) * np.log(1 - p)),
    ),
    (
        nn.HingeEmbeddingLoss,
        {"margin": 0.7},
        [X[0], S],
        lambda x, t: np.where(t == 1, x, np.maximum(0, 0.7 - x)),
    ),
    (
        nn.MarginRankingLoss,
        {"margin": 0.3},
        [X[0], X[1], S],
        lambda a, b, t: np.maximum(0, 0.3 - t * (a - b)),
    ),
    (
        nn.CosineEmbeddingLoss,
        {"margin": 0.1},
        [X[0], X[1], Z],
        lambda a, b, t: np.where(
            t == 1, 1 - cosine(a, b), np.maximum(0, cosine(a, b) - 0.1)
        ),
    ),
    (
        nn.TripletMarginLoss,
        {"margin": 0.8},
        [X[0], X[1], X[2]],
        lambda a, p, n: np.maximum(0, 0.8 + distance(a, p) - distance(a, n)),
    ),
    (
        nn.TripletMarginLoss,
        {"margin": 1.8, "swap": True},
        [X[0], X[1], X[2]],
        lambda a, p, n: np.maximum(
            0, 1.8 + distance(a, p) - np.minimum(distance(a, n), distance(p, n))
        ),
    ),
]


@pytest.mark.parametrize(
    "kind, options, inputs, formula",
    LOSSES,
    ids=[f"{c[0].__name__}-{i}" for i, c in enumerate(LOSSES)],
)
def test_a_loss_is_its_formula_in_every_reduction(
    kind, options, inputs, formula, device
):
    exact = formula(*map(np.float64, inputs))
    xs = on(device, *inputs)
    for reduction, want in (
        ("none", exact), ("sum", exact.sum()), ("mean", exact.mean())
    ):  # fmt: skip
        got = kind(reduction=reduction, **options)(*xs)
        assert_close(got, want, rtol=1e-5, atol=1e-6)
    exact = [pn.tensor(np.float64(a)) for a in inputs]
    classes = [x for x, a in zip(exact, inputs, strict=True) if (abs(a) == 1).all()]
    rest = exact[: len(exact) - len(classes)]
    check_grads(lambda *a: kind(**options)(*a, *classes), *rest)


def test_kl_of_a_row_is_the_mean_over_the_batch_and_zero_weighs_nothing(device):
    p, q = simplex(5, 4), simplex(5, 4)
    p[0, 0] = 0.0
    got = F.kl_div(*on(device, np.log(q), p), reduction="batchmean")
    safe = np.where(p > 0, p, 1).astype(np.float64)
    want = (p * (np.log(safe) - np.log(np.float64(q)))).sum() / 5
    assert_close(got, want, rtol=1e-5)


def test_binary_cross_entropy_of_certain_answers_is_finite(device):
    p, t = on(device, np.float32([0, 1, 0, 1]), np.float32([0, 1, 1, 0]))
    p.requires_grad = True
    losses = nn.BCELoss(reduction="none")(p, t)
    assert losses.tolist() == [0.0, 0.0, 100.0, 100.0]
    losses.sum().backward()
    assert np.isfinite(p.grad.numpy()).all()


def test_cosine_similarity_and_distance_are_their_formulas(device):
    a, b = normal(5, 4), normal(5, 4)
    x, y = on(device, a, b)
    assert_close(nn.CosineSimilarity()(x, y), cosine(a, b), rtol=1e-5, atol=1e-6)
    got = nn.CosineSimilarity(dim=0)(x, y)
    assert_close(got, cosine(a.T, b.T), rtol=1e-5, atol=1e-6)
    assert_close(nn.PairwiseDistance()(x, y), distance(a, b), rtol=1e-5)
    zero = pn.zeros((1, 4), device=device)
    assert F.cosine_similarity(zero, y[:1]).tolist() == [0.0]


def test_losses_name_what_does_not_fit():
    x, y = pn.ones((2, 3)), pn.ones((3, 2))
    bad = [
        (lambda: F.kl_div(x, y), r"kl_div: input \(2, 3\) and target \(3, 2\)"),
        (lambda: nn.BCELoss()(x, y), "binary_cross_entropy: input .* differ in shape"),
        (lambda: F.triplet_margin_loss(x, x, y), "triplet_margin_loss: input"),
        (lambda: F.cosine_embedding_loss(x, x, x), r"the target \(n,\), got"),
        (lambda: nn.KLDivLoss("max"), "KLDivLoss: reduction is 'mean', 'sum' or"),
        (lambda: nn.TripletMarginLoss(margin=0.0), "margin must be above 0"),
        (lambda: F.margin_ranking_loss(x, x, y), "margin_ranking_loss: input"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()


# Together ----------------------------------------------------------------------------------


def test_a_model_of_these_trains_as_well_when_it_is_compiled(device):
    words = pn.tensor(RNG.integers(0, 12, (16, 6)).astype(np.int32), device=device)
    label = words[:, 0] % 3
    losses = []
    for compiled in (False, True):
        pn.manual_seed(1)
        model = nn.Sequential(
            nn.Embedding(12, 8, padding_idx=0), nn.LearnedPositions(6, 8),
            nn.RotaryPositions(8), nn.RMSNorm(8), nn.Linear(8, 8), nn.GLU(),
            nn.PReLU(), nn.GroupNorm(2, 6), nn.Flatten(), nn.Linear(24, 3),
        ).to(device)  # fmt: skip
        optimizer = pn.optim.Lion(model.parameters(), lr=0.01)

        def step(x, y, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        run = pn.compile(step) if compiled else step
        losses.append([run(words, label).item() for _ in range(12)])
    assert losses[0][-1] < 0.7 * losses[0][0]
    # Fused work is rounded otherwise, and Lion's sign of a sum near 0 may turn.
    assert_close(np.array(losses[1]), np.array(losses[0]), rtol=2e-2)
