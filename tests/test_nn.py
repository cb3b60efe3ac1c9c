"""Modules and layers: what they list, save, move and compute, against NumPy."""

import copy
import math
import pickle

import numpy as np
import pytest

import portanet as pn
from portanet import nn
from portanet.nn import functional as F
from portanet.ops.normalise import moments
from portanet.testing import assert_close, check_grads
from tests.conftest import PRESENT

RNG = np.random.default_rng(0)


def float64(*shape):
    return pn.tensor(RNG.normal(size=shape), device="cpu")


def float32(device, *shape):
    return pn.tensor(RNG.normal(size=shape).astype(np.float32), device=device)


class Net(nn.Module):
    def __init__(self):
        self.first = nn.Linear(4, 3)
        self.scale = nn.Parameter(pn.ones(3))
        self.blocks = [nn.Linear(3, 3), nn.BatchNorm1d(3)]
        self.heads = {"a": nn.Linear(3, 2)}
        self.register_buffer("offset", pn.zeros(3))

    def forward(self, x):
        x = self.first(x) * self.scale + self.offset
        for block in self.blocks:
            x = block(x)
        return self.heads["a"](x)


NAMES = [
    "scale",
    "offset",
    "first.weight",
    "first.bias",
    "blocks.0.weight",
    "blocks.0.bias",
    "blocks.1.weight",
    "blocks.1.bias",
    "blocks.1.running_mean",
    "blocks.1.running_var",
    "blocks.1.num_batches_tracked",
    "heads.a.weight",
    "heads.a.bias",
]


# Modules -----------------------------------------------------------------------------------


def test_attributes_lists_and_dicts_are_searched_for_parameters_and_buffers():
    net = Net()
    assert list(net.state_dict()) == NAMES
    buffers = [name for name, _ in net.named_buffers()]
    assert buffers == [
        n for n in NAMES if "running" in n or "tracked" in n or n == "offset"
    ]
    assert [n for n, _ in net.named_parameters()] == [
        n for n in NAMES if n not in buffers
    ]
    assert len(list(net.parameters())) == 9
    assert [n for n, _ in net.named_children()] == [
        "first",
        "blocks.0",
        "blocks.1",
        "heads.a",
    ]
    assert len(list(net.modules())) == 5


def test_a_shared_parameter_is_listed_once_and_saved_under_both_names():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    assert len(list(net.parameters())) == 1
    assert list(net.state_dict()) == ["0.weight", "1.weight"]


def test_a_frozen_parameter_stays_a_parameter():
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad = False
    assert [n for n, _ in layer.named_parameters()] == ["weight", "bias"]
    layer.requires_grad_(False)
    assert not any(p.requires_grad for p in layer.parameters())
    assert not layer(pn.ones((1, 2))).requires_grad
    assert all(p.requires_grad for p in layer.requires_grad_().parameters())


def test_a_result_and_a_plain_tensor_are_no_parameters():
    layer = nn.Linear(2, 2)
    layer.seen = layer(pn.ones((1, 2)))
    layer.table = pn.ones(3)
    assert len(list(layer.parameters())) == 2
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_a_plain_tensor_can_not_take_the_place_of_a_parameter():
    layer = nn.Linear(2, 2)
    with pytest.raises(
        TypeError, match="Linear: weight is a parameter; assign nn.Parameter"
    ):
        layer.weight = pn.ones((2, 2))
    layer.bias = None
    assert [n for n, _ in layer.named_parameters()] == ["weight"]
    del layer.weight
    assert list(layer.parameters()) == []


def test_parameters_hidden_in_a_list_are_refused():
    module = nn.Module()
    with pytest.raises(TypeError, match="Module: rows holds parameters in a list"):
        module.rows = [nn.Parameter(pn.ones(1))]


def test_a_parameter_is_floating_and_takes_no_history():
    x = pn.ones(2, requires_grad=True)
    p = nn.Parameter(x * 2)
    assert p.is_leaf and p.requires_grad
    with pytest.raises(
        TypeError, match="Parameter: a floating dtype is needed, not int32"
    ):
        nn.Parameter([1, 2])


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Module: define forward"):
        nn.Module()(1)


def test_a_buffer_is_a_tensor():
    with pytest.raises(TypeError, match="register_buffer: a is a int, not a Tensor"):
        nn.Module().register_buffer("a", 3)


def test_train_and_eval_reach_every_module():
    net = Net()
    assert all(not m.training for m in net.eval().modules())
    assert all(m.training for m in net.train().modules())


def test_apply_visits_children_before_parents():
    seen = []
    nn.Sequential(nn.Linear(1, 1), nn.Residual(nn.ReLU())).apply(
        lambda m: seen.append(type(m).__name__)
    )
    assert seen == ["ReLU", "Residual", "Linear", "Sequential"]


def test_the_repr_is_a_tree():
    net = nn.Sequential(
        nn.Linear(4, 3, bias=False), nn.Residual(nn.ReLU()), nn.Dropout(0.1)
    )
    assert repr(net) == (
        "Sequential(\n"
        "  (0): Linear(4, 3, bias=False)\n"
        "  (1): Residual(\n"
        "    (fn): ReLU()\n"
        "  )\n"
        "  (2): Dropout(p=0.1)\n"
        ")"
    )


def test_the_summary_has_a_line_for_each_layer_and_changes_nothing(device):
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten())
    net.to(device)[2].eval()
    before = net.state_dict()
    lines = net.summary((1, 4)).splitlines()
    assert [line.split() for line in lines[2:6]] == [
        ["0", "(Linear)", "(1,", "3)", "15"],
        ["1", "(BatchNorm1d)", "(1,", "3)", "6"],
        ["2", "(ReLU)", "(1,", "3)", "0"],
        ["3", "(Flatten)", "(1,", "3)", "0"],
    ]
    assert lines[-1] == "21 parameters, 112 bytes"
    assert [m.training for m in net] == [True, True, False, True]
    for name, value in net.state_dict().items():
        assert_close(value, before[name])


def test_the_summary_says_what_is_trained_and_counts_a_shared_layer_once():
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer, layer)
    layer.bias.requires_grad = False
    text = net.summary((1, 2))
    assert text.splitlines()[-2:] == ["6 parameters, 24 bytes", "4 of them trained"]


# Saving and moving -------------------------------------------------------------------------


def test_a_state_dict_is_a_snapshot_that_loads_into_another_module(device):
    pn.manual_seed(1)
    a, b = Net().to(device), Net().to(device)
    state = a.state_dict()
    assert b.load_state_dict(state) == ([], [])
    x = float32(device, 5, 4)
    assert_close(a.eval()(x), b.eval()(x), rtol=0, atol=0)
    nn.init.zeros_(a.scale)
    assert state["scale"].tolist() == [1.0, 1.0, 1.0]


def test_a_state_dict_may_hold_arrays_of_another_dtype():
    layer = nn.Linear(2, 1)
    layer.load_state_dict({"weight": np.ones((1, 2)), "bias": np.zeros(1)})
    assert layer.weight.dtype == pn.float32
    assert layer.weight.requires_grad


def test_everything_wrong_with_a_state_is_listed_and_nothing_is_loaded():
    layer = nn.Linear(3, 2)
    before = layer.state_dict()
    state = {"weight": pn.zeros((2, 4)), "scale": pn.zeros(2)}
    with pytest.raises(ValueError) as caught:
        layer.load_state_dict(state)
    assert str(caught.value).splitlines() == [
        "load_state_dict: Linear: nothing was loaded",
        "  missing: bias",
        "  unexpected: scale",
        "  shape: weight is (2, 3), the state's is (2, 4)",
    ]
    with pytest.raises(ValueError, match="shape: weight"):
        layer.load_state_dict(state, strict=False)
    for name, value in layer.state_dict().items():
        assert_close(value, before[name])


def test_a_state_that_is_not_strict_may_lack_names():
    layer = nn.Linear(3, 2)
    found = layer.load_state_dict(
        {"bias": pn.ones(2), "scale": pn.ones(1)}, strict=False
    )
    assert found.missing_keys == ["weight"]
    assert found.unexpected_keys == ["scale"]
    assert layer.bias.tolist() == [1.0, 1.0]


def test_a_state_holds_tensors():
    with pytest.raises(
        TypeError, match="load_state_dict: bias is a list, not a tensor"
    ):
        nn.Linear(1, 1).load_state_dict({"bias": [1.0], "weight": pn.ones((1, 1))})


def test_moving_keeps_the_tensors_and_brings_their_gradients(device):
    net = Net()
    net(pn.ones((4, 4))).sum().backward()
    parameters, grads = (
        list(net.parameters()),
        [p.grad.numpy() for p in net.parameters()],
    )
    assert net.to(device) is net
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    for p, g in zip(parameters, grads, strict=True):
        assert p.device == device and p.grad.device == device and p.requires_grad
        assert_close(p.grad, g)
    assert all(b.device == device for b in net.buffers())


def test_a_dtype_casts_the_floating_tensors_and_their_gradients():
    net = Net()
    net(pn.ones((4, 4))).sum().backward()
    net.to("cpu", pn.float64)
    assert {p.dtype.name for p in net.parameters()} == {"float64"}
    assert {p.grad.dtype.name for p in net.parameters()} == {"float64"}
    assert net.blocks[1].num_batches_tracked.dtype == pn.int32
    with pytest.raises(TypeError, match="floating dtype, which int32 is not"):
        net.to(pn.int32)


def test_where_one_tensor_can_not_be_moved_none_is():
    others = [d for d in PRESENT if d != "cpu"]
    for device in others:
        net = nn.Linear(2, 2, dtype="float64")
        with pytest.raises(TypeError, match="no float64"):
            net.to(device)
        assert net.weight.device == "cpu"
        net.to(device, "float32")
        assert net.weight.device == device
        net.to("cpu", "float64")
        assert net.weight.dtype == pn.float64


def test_copies_and_pickles_of_a_module_are_independent(device):
    net = Net().to(device)
    x = float32(device, 3, 4)
    want = net.eval()(x).numpy()
    for made in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert_close(made(x), want, rtol=0, atol=0)
        assert [n for n, _ in made.named_parameters()] == [
            n for n, _ in net.named_parameters()
        ]
        assert all(p.requires_grad for p in made.parameters())
        nn.init.zeros_(made.scale)
    assert_close(net(x), want, rtol=0, atol=0)


def test_a_copy_keeps_shared_parameters_shared():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    for made in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert made[1].weight is made[0].weight


# Layers ------------------------------------------------------------------------------------


def test_linear_is_x_times_the_transposed_weight_plus_bias(device):
    layer = nn.Linear(4, 3).to(device)
    w, b = layer.weight.numpy(), layer.bias.numpy()
    for shape in [(4,), (5, 4), (2, 3, 4), (0, 4)]:
        x = float32(device, *shape)
        assert_close(layer(x), x.numpy() @ w.T + b)
    plain = nn.Linear(4, 3, bias=False, device=device)
    assert_close(plain(x), x.numpy() @ plain.weight.numpy().T)
    check_grads(F.linear, float64(2, 3, 4), float64(5, 4), float64(5), order=2)


def test_linear_starts_uniform_within_one_over_the_root_of_its_inputs():
    layer = nn.Linear(100, 300)
    for p in layer.parameters():
        values = p.numpy()
        assert np.abs(values).max() <= 0.1
        assert abs(values.std() - 0.1 / math.sqrt(3)) < 0.005


def test_linear_starts_with_the_same_numbers_on_every_device(device):
    pn.manual_seed(3)
    here = nn.Linear(7, 5, device=device).weight.numpy()
    pn.manual_seed(3)
    assert_close(here, nn.Linear(7, 5, device="cpu").weight, rtol=0, atol=0)


def test_linear_refuses_other_widths_and_devices():
    with pytest.raises(ValueError) as caught:
        nn.Linear(4, 2)(pn.ones((2, 5)))
    assert str(caught.value) == (
        "Linear: input has 5 features, weight expects 4 (input shape (2, 5))"
    )
    with pytest.raises(
        ValueError, match=r"linear: input has no features, weight expects 4"
    ):
        F.linear(pn.tensor(1.0), pn.ones((2, 4)))
    with pytest.raises(ValueError, match="Linear: at least 1 feature"):
        nn.Linear(0, 2)
    for device in PRESENT:
        if device != "cpu":
            message = f"Linear: the input is on cpu, the weight on {device}; move"
            with pytest.raises(ValueError, match=message):
                nn.Linear(4, 2, device=device)(pn.ones((2, 4), device="cpu"))


def _gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


ACTIVATIONS = [
    (nn.Identity(), lambda x: x),
    (nn.ReLU(), lambda x: np.maximum(x, 0)),
    (nn.LeakyReLU(0.1), lambda x: np.where(x > 0, x, 0.1 * x)),
    (nn.ELU(0.5), lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
    (nn.GELU(), _gelu),
    (
        nn.GELU("tanh"),
        lambda x: (
            0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        ),
    ),
    (nn.SiLU(), lambda x: x / (1 + np.exp(-x))),
    (nn.Sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
    (nn.Tanh(), np.tanh),
    (nn.Softplus(), lambda x: np.log1p(np.exp(x))),
    (nn.Mish(), lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    (nn.Hardtanh(-0.5, 2.0), lambda x: np.clip(x, -0.5, 2.0)),
    (nn.Softmax(), lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    (nn.Softmax(0), lambda x: np.exp(x) / np.exp(x).sum(0, keepdims=True)),
    (nn.LogSoftmax(), lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))),
    (nn.Flatten(), lambda x: x.reshape(x.shape[0], -1)),
    (nn.Flatten(0, 1), lambda x: x.reshape(-1, x.shape[2])),
    (nn.Residual(nn.Tanh()), lambda x: x + np.tanh(x)),
]


@pytest.mark.parametrize(
    "layer, reference", ACTIVATIONS, ids=[repr(a[0]) for a in ACTIVATIONS]
)
def test_a_layer_without_parameters_computes_its_formula(layer, reference, device):
    x = pn.tensor(RNG.normal(size=(3, 4, 5)).astype(np.float32), device=device)
    assert_close(
        layer(x), reference(x.numpy().astype(np.float64)), rtol=2e-6, atol=1e-6
    )
    check_grads(layer, float64(3, 4, 2))


def test_options_of_activations_are_checked():
    with pytest.raises(ValueError, match="GELU: approximate is 'none' or 'tanh'"):
        nn.GELU("fast")
    with pytest.raises(ValueError, match="Hardtanh: min_val 1 must be below max_val 0"):
        nn.Hardtanh(1, 0)


def test_a_residual_branch_must_keep_the_shape():
    with pytest.raises(
        ValueError, match=r"Residual: the branch gives \(2, 1\) for an input"
    ):
        nn.Residual(nn.Linear(3, 1))(pn.ones((2, 3)))


def test_sequential_can_be_indexed_sliced_and_extended():
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU()).append(nn.Linear(2, 1))
    assert len(net) == 3 and isinstance(net[-2], nn.ReLU)
    assert net[1:][1] is net[2]
    assert [type(m).__name__ for m in net] == ["Linear", "ReLU", "Linear"]
    with pytest.raises(IndexError, match="Sequential: there is no layer 3 among 3"):
        net[3]
    with pytest.raises(
        TypeError, match="Sequential: layer 0 is a builtin_function_or_method"
    ):
        nn.Sequential(abs)


# Dropout -----------------------------------------------------------------------------------


def test_dropout_zeroes_its_share_and_keeps_the_mean(device):
    x = pn.ones(100_000, device=device)
    y = nn.Dropout(0.3)(x).numpy()
    kept = y != 0
    assert abs(kept.mean() - 0.7) < 0.006  # four standard deviations
    assert_close(y[kept], np.full(kept.sum(), 1 / 0.7), rtol=1e-6)


def test_dropout_draws_the_same_mask_on_every_device(device):
    masks = []
    for place in ("cpu", device):
        pn.manual_seed(5)
        masks.append(nn.Dropout(0.5)(pn.ones((3, 41), device=place)).numpy())
    np.testing.assert_array_equal(*masks)


def test_dropout_draws_another_mask_each_time():
    layer, x = nn.Dropout(0.5), pn.ones(1000)
    assert (layer(x) != layer(x)).any().item()


def test_dropout_passes_the_gradient_of_what_it_kept(device):
    x = pn.ones(1000, device=device, requires_grad=True)
    y = nn.Dropout(0.25)(x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


def test_dropout_at_its_ends_and_in_evaluation():
    x = pn.tensor([1.0, -2.0])
    assert nn.Dropout(0.0)(x) is x
    assert nn.Dropout(1.0)(x).tolist() == [0.0, 0.0]
    assert nn.Dropout(0.5).eval()(x) is x
    with pytest.raises(ValueError, match="Dropout: p is a probability"):
        nn.Dropout(1.5)
    with pytest.raises(
        TypeError, match="dropout: a floating dtype is needed, not int32"
    ):
        F.dropout(pn.arange(3))


def test_a_compiled_call_follows_train_and_eval(device):
    layer, x = nn.Dropout(0.5), pn.ones(1000, device=device)
    call = pn.compile(lambda x: layer(x))
    assert (call(x) == 0).any().item()
    layer.eval()
    assert (call(x) == 1).all().item()
    layer.train()
    assert (call(x) != call(x)).any().item()


# Normalisation -------------------------------------------------------------------------------


def normalised(x, axes, eps=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def test_layer_norm_normalises_the_last_axes(device):
    for shape, sizes in [
        ((4, 5), 5),
        ((2, 3, 4), (3, 4)),
        ((2, 3, 1031), (1031,)),
        ((0, 5), 5),
    ]:
        x = float32(device, *shape)
        layer = nn.LayerNorm(sizes).to(device)
        nn.init.uniform_(layer.weight, 0.5, 2.0)
        nn.init.uniform_(layer.bias, -1.0, 1.0)
        axes = tuple(range(len(shape) - len(layer.normalized_shape), len(shape)))
        want = normalised(x.numpy().astype(np.float64), axes)
        want = want * layer.weight.numpy() + layer.bias.numpy()
        assert_close(layer(x), want, rtol=1e-5, atol=2e-6)


def test_layer_norm_has_right_gradients_of_first_and_second_order():
    x, w, b = float64(3, 4), float64(4), float64(4)
    check_grads(lambda x, w, b: F.layer_norm(x, 4, w, b), x, w, b, order=2)
    check_grads(lambda x: F.layer_norm(x, (3, 4)), x, order=2)


def test_layer_norm_has_the_gradient_of_float64_on_every_device(device):
    x = RNG.normal(size=(5, 7))
    v = RNG.normal(size=(5, 7))
    grads = []
    for dtype, place in (("float64", "cpu"), ("float32", device)):
        t = pn.tensor(x, dtype, place, requires_grad=True)
        F.layer_norm(t, 7).backward(pn.tensor(v, dtype, place))
        grads.append(t.grad.numpy())
    assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-5)


def test_layer_norm_is_stable_far_from_zero():
    x = pn.tensor([[1e4 + 1.0, 1e4 + 2.0, 1e4 + 3.0]])
    assert_close(F.layer_norm(x, 3), normalised(np.array([[1.0, 2, 3]]), 1), rtol=1e-4)


def test_half_precision_is_normalised_in_float32():
    x = RNG.normal(size=(4, 64)) * 200
    for name, bound in (("float16", 2e-3), ("bfloat16", 2e-2)):
        half = pn.tensor(x, name)
        y = F.layer_norm(half, 64)
        assert y.dtype == name
        want = normalised(half.numpy().astype(np.float64), -1)
        assert_close(y.numpy().astype(np.float64), want, rtol=bound, atol=bound)


def test_layer_norm_refuses_other_shapes():
    with pytest.raises(
        ValueError, match=r"layer_norm: the last axes of .*\(2, 3\) must be \(4,\)"
    ):
        nn.LayerNorm(4)(pn.ones((2, 3)))
    with pytest.raises(
        ValueError, match=r"layer_norm: weight is \(2,\), \(3,\) is needed"
    ):
        F.layer_norm(pn.ones((2, 3)), 3, pn.ones(2))
    with pytest.raises(
        TypeError, match="layer_norm: a floating dtype is needed, not int32"
    ):
        F.layer_norm(pn.arange(3), 3)
    with pytest.raises(ValueError, match="LayerNorm: no axis"):
        nn.LayerNorm(())


def test_batch_norm_normalises_each_channel_over_the_batch(device):
    for shape, axes in [((6, 3), (0,)), ((4, 3, 5), (0, 2))]:
        x = float32(device, *shape)
        layer = nn.BatchNorm1d(3).to(device)
        layer.weight.assign(pn.tensor([0.5, 1.0, 2.0], device=device))
        wide = [1, 3, 1][: len(shape)]
        x64 = x.numpy().astype(np.float64)
        want = normalised(x64, axes) * np.array([0.5, 1, 2]).reshape(wide)
        assert_close(layer(x), want, rtol=1e-5, atol=2e-6)
        count = x.size / 3
        var = x64.var(axes) * count / (count - 1)
        assert_close(layer.running_mean, 0.1 * x64.mean(axes), rtol=1e-5)
        assert_close(layer.running_var, 0.9 + 0.1 * var, rtol=1e-5)
        assert layer.num_batches_tracked.item() == 1


def test_batch_norm_uses_the_running_statistics_in_evaluation(device):
    layer = nn.BatchNorm1d(3).to(device)
    for _ in range(3):
        layer(float32(device, 8, 3) * 2 + 1)
    mean, var = layer.running_mean.numpy(), layer.running_var.numpy()
    x = float32(device, 1, 3)
    assert_close(layer.eval()(x), (x.numpy() - mean) / np.sqrt(var + 1e-5))
    np.testing.assert_array_equal(layer.running_mean.numpy(), mean)
    assert layer.num_batches_tracked.item() == 3


def test_batch_norm_without_momentum_keeps_the_average_of_all_batches():
    layer = nn.BatchNorm1d(2, momentum=None)
    batches = [float32("cpu", 5, 2) for _ in range(4)]
    for x in batches:
        layer(x)
    assert_close(layer.running_mean, np.mean([x.numpy().mean(0) for x in batches], 0))
    assert_close(
        layer.running_var, np.mean([x.numpy().var(0, ddof=1) for x in batches], 0)
    )


def test_batch_norm_without_running_statistics_uses_the_batch_in_evaluation():
    layer = nn.BatchNorm1d(2, track_running_stats=False, affine=False).eval()
    x = float32("cpu", 5, 2)
    assert list(layer.state_dict()) == []
    assert_close(layer(x), normalised(x.numpy(), 0), atol=1e-5)


def test_batch_norm_has_right_gradients_of_first_and_second_order():
    mean, var = float64(3), pn.square(float64(3)) + 0.5
    for x in (float64(4, 3), float64(4, 3, 2)):

        def training(x, w, b):
            return F.batch_norm(x, None, None, w, b, training=True)

        def evaluation(x, w, b):
            return F.batch_norm(x, mean, var, w, b)

        for f in (training, evaluation):
            check_grads(f, x, float64(3), float64(3), order=2)


def test_the_statistics_of_a_batch_have_right_gradients_of_first_and_second_order():
    for x in (float64(4, 3), float64(4, 3, 2)):
        axes = (0, *range(2, len(x.shape)))
        for chosen in (slice(0, 1), slice(1, 2), slice(0, 2)):

            def statistics(x, axes=axes, chosen=chosen):
                return sum(pn.sin(t).sum() for t in moments(x, axes)[chosen])

            check_grads(statistics, x, order=2)


def test_batch_norm_in_training_reads_its_input_by_kernels_alone():
    layer, x = nn.BatchNorm2d(3), pn.ones((2, 3, 4, 4), requires_grad=True)
    run = pn.value_and_grad(lambda x: layer(x).sum())
    step = pn.compile(lambda x: run(x)[0].detach())
    step(x)
    names = [
        line.split()[4] for line in step.explain().splitlines() if " reduce" in line
    ]
    assert "channel_moments" in step.explain() and len(names) <= 1  # the sum


@pytest.mark.parametrize(
    "shape", [(64, 33, 4, 4), (17, 600), (35, 5, 257), (3, 7, 5), (2, 2, 40, 40)]
)
def test_batch_norm_of_short_and_long_planes_is_the_formula(shape, device):
    c, axes = shape[1], (0, *range(2, len(shape)))
    wide = (1, c, *[1] * (len(shape) - 2))
    x, g = (RNG.normal(m, 2, shape).astype(np.float32) for m in (3, 0))
    w, b = (RNG.normal(size=c).astype(np.float32) for _ in range(2))
    tensors = [pn.tensor(a, device=device, requires_grad=True) for a in (x, w, b)]
    y = F.batch_norm(tensors[0], None, None, *tensors[1:], training=True)
    h = normalised(x.astype(np.float64), axes)
    assert_close(y, h * w.reshape(wide) + b.reshape(wide), rtol=1e-5, atol=1e-5)
    p = g.astype(np.float64) * w.reshape(wide)
    over = dict(axis=axes, keepdims=True)
    slope = p - p.mean(**over) - h * (p * h).mean(**over)
    slope /= np.sqrt(x.astype(np.float64).var(**over) + 1e-5)
    found = pn.gradients(y, tensors, pn.tensor(g, device=device))
    # Sums of n terms of size 10; the mean that x is less is itself rounded.
    close = dict(rtol=1e-5, atol=1e-7 * x.size / c + 1e-5)
    assert_close(found[0], slope, rtol=1e-5, atol=1e-5)
    assert_close(found[1], (g * h).sum(axes), **close)
    assert_close(found[2], g.astype(np.float64).sum(axes), **close)


def test_batch_norm_records_nothing_in_its_running_statistics():
    layer = nn.BatchNorm1d(2)
    layer(pn.ones((3, 2), requires_grad=True))
    assert not layer.running_mean.requires_grad


def test_batch_norm_refuses_one_value_per_channel_and_other_shapes():
    layer = nn.BatchNorm1d(4)
    message = (
        r"BatchNorm1d: more than one value per channel .* shape \(1, 4\); use a larger"
    )
    with pytest.raises(ValueError, match=message):
        layer(pn.ones((1, 4)))
    with pytest.raises(
        ValueError, match=r"BatchNorm1d: \(n, 4\) .* got shape \(2, 3\)"
    ):
        layer(pn.ones((2, 3)))
    with pytest.raises(ValueError, match="running statistics are needed"):
        F.batch_norm(pn.ones((2, 3)), None, None)
    with pytest.raises(ValueError, match=r"3 channels, weight is \(2,\)"):
        F.batch_norm(pn.ones((2, 3)), None, None, pn.ones(2), training=True)


# Losses --------------------------------------------------------------------------------------


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_losses_compute_their_formulas(device):
    x, t = (RNG.normal(size=(6, 4)).astype(np.float32) for _ in range(2))
    classes = RNG.integers(0, 4, 6).astype(np.int32)
    chosen = log_softmax(x)[np.arange(6), classes]
    d, p = x - t, 1 / (1 + np.exp(-t))
    cases = [
        (nn.CrossEntropyLoss, x, classes, -chosen),
        (nn.NLLLoss, x, classes, -x[np.arange(6), classes]),
        (nn.MSELoss, x, t, d * d),
        (nn.L1Loss, x, t, np.abs(d)),
        (nn.HuberLoss, x, t, np.where(np.abs(d) < 1, d * d / 2, np.abs(d) - 0.5)),
        (nn.BCEWithLogitsLoss, x, p, np.log1p(np.exp(x)) - x * p),
    ]
    reduced = {"mean": np.mean, "sum": np.sum, "none": lambda v: v}
    for loss, a, b, want in cases:
        a, b = (pn.tensor(v, device=device) for v in (a, b))
        for how, reduce in reduced.items():
            assert_close(loss(reduction=how)(a, b), reduce(want), rtol=1e-5, atol=1e-5)


def test_cross_entropy_smooths_labels_and_ignores_an_index():
    x, t = float32("cpu", 5, 3), pn.tensor([0, 1, 2, 1, 0])
    logp = log_softmax(x.numpy())
    picked = logp[np.arange(5), t.numpy()]
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)(x, t)
    assert_close(smooth, -(0.9 * picked + 0.1 * logp.mean(1)).mean(), rtol=1e-5)
    ignored = nn.CrossEntropyLoss(ignore_index=1)(x, t)
    assert_close(ignored, -picked[t.numpy() != 1].mean(), rtol=1e-5)


def test_options_of_losses_are_checked_when_they_are_made():
    with pytest.raises(
        ValueError, match="MSELoss: reduction is 'mean', 'sum' or 'none'"
    ):
        nn.MSELoss("average")
    with pytest.raises(ValueError, match="HuberLoss: delta must be above 0, not 0"):
        nn.HuberLoss(delta=0)
    with pytest.raises(ValueError, match="label_smoothing is in"):
        nn.CrossEntropyLoss(label_smoothing=2)


# Initialisers and clipping -------------------------------------------------------------------


def test_initialisers_have_the_spread_they_promise():
    cases = [
        (nn.init.xavier_uniform_, {}, math.sqrt(2 / 700)),
        (nn.init.xavier_normal_, {"gain": 2.0}, 2 * math.sqrt(2 / 700)),
        (nn.init.kaiming_uniform_, {"nonlinearity": "relu"}, math.sqrt(2 / 400)),
        (nn.init.kaiming_normal_, {"mode": "fan_out", "a": 1.0}, math.sqrt(1 / 300)),
        (nn.init.normal_, {"mean": 0.0, "std": 0.5}, 0.5),
        (nn.init.uniform_, {"a": -1.0, "b": 1.0}, 1 / math.sqrt(3)),
    ]
    for function, options, std in cases:
        x = nn.Parameter(pn.empty((300, 400)))
        assert function(x, **options) is x
        assert x.requires_grad and x.is_leaf
        values = x.numpy()
        assert abs(values.std() / std - 1) < 0.02
        assert abs(values.mean()) < 0.02 * std
    bound = math.sqrt(3) * math.sqrt(2 / 700)
    assert np.abs(nn.init.xavier_uniform_(x).numpy()).max() <= bound


def test_initialisers_set_constants_and_take_a_generator(device):
    x = pn.zeros((2, 3), device=device)
    assert nn.init.ones_(x).tolist() == [[1.0] * 3] * 2
    assert nn.init.constant_(x, 0.5).tolist() == [[0.5] * 3] * 2
    assert nn.init.zeros_(x).tolist() == [[0.0] * 3] * 2
    a = nn.init.normal_(x, generator=pn.Generator(1)).numpy()
    np.testing.assert_array_equal(
        a, nn.init.normal_(x, generator=pn.Generator(1)).numpy()
    )


def test_initialisers_refuse_what_they_can_not_do():
    with pytest.raises(
        ValueError, match=r"fans: a weight has at least 2 axes, got shape \(3,\)"
    ):
        nn.init.xavier_uniform_(pn.zeros(3))
    with pytest.raises(ValueError, match="calculate_gain: 'sine' is unknown"):
        nn.init.calculate_gain("sine")
    with pytest.raises(ValueError, match="mode is 'fan_in' or 'fan_out'"):
        nn.init.kaiming_normal_(pn.zeros((2, 2)), mode="fan")
    with pytest.raises(ValueError, match="std can't be negative: -1"):
        nn.init.normal_(pn.zeros(2), 0, -1)
    with pytest.raises(
        TypeError, match="zeros_|constant_: a Tensor is expected, not list"
    ):
        nn.init.zeros_([1.0])


def _with_grads(device, *grads):
    made = []
    for g in grads:
        p = nn.Parameter(pn.zeros(np.shape(g), device=device))
        p.grad = pn.tensor(np.asarray(g, np.float32), device=device)
        made.append(p)
    return made


def test_gradients_are_scaled_to_a_norm(device):
    ps = _with_grads(device, [3.0, 0.0], [[4.0]], 12.0)
    total = nn.utils.clip_grad_norm_(
        [*ps, nn.Parameter(pn.zeros(1, device=device))], 6.5
    )
    assert total.device == device
    assert_close(total, 13.0)
    assert_close(ps[0].grad, [1.5, 0.0])
    assert_close(ps[2].grad, 6.0)


def test_gradients_below_the_norm_are_left_as_they_are():
    ps = _with_grads("cpu", [3.0, 4.0])
    assert_close(nn.utils.clip_grad_norm_(ps[0], 10.0), 5.0)
    assert ps[0].grad.tolist() == [3.0, 4.0]
    assert_close(nn.utils.clip_grad_norm_(ps, 2.0, norm_type=math.inf), 4.0)
    assert_close(ps[0].grad, [1.5, 2.0])
    assert nn.utils.clip_grad_norm_([], 1.0).item() == 0.0
    with pytest.raises(ValueError, match="max_norm can't be negative: -1"):
        nn.utils.clip_grad_norm_(ps, -1)


def test_gradients_are_limited_in_each_element(device):
    ps = _with_grads(device, [3.0, -4.0, 0.5])
    nn.utils.clip_grad_value_(ps, 1.0)
    assert ps[0].grad.tolist() == [1.0, -1.0, 0.5]
