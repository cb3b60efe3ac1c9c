"""autocast and GradScaler: what is cast, what comes back, and that it trains."""

import threading

import numpy as np
import pytest

import portanet as pn
from portanet import casting, nn, optim
from portanet.devices import get
from tests.conftest import PRESENT

F = nn.functional
NARROW = [
    pytest.param(device, t, id=f"{device}-{t.name}")
    for device in PRESENT
    for t in (pn.float16, pn.bfloat16)
    if t in get(device).backend.dtypes
]
narrow = pytest.mark.parametrize("device, dtype", NARROW)
HALF = [p.values[0] for p in NARROW if p.values[1] == pn.float16]
in_half = pytest.mark.parametrize("device", HALF)

# The lists of PyTorch (docs.pytorch.org/docs/stable/amp.html), of what there is here: x is (4, 4)
# with elements in (0, 1), t a one-hot target, c classes, w (4, 4, 3) and i (1, 4, 9).
LOW = {
    "__matmul__": lambda x, **_: x @ x,
    "bmm": lambda x, **_: pn.matmul(x[None], x[None]),
    "mv": lambda x, **_: x @ x[0],
    "einsum": lambda x, **_: pn.einsum("ij,jk->ik", x, x),
    "linear": lambda x, **_: F.linear(x, x, x[0]),
    "conv1d": lambda x, i, w: F.conv1d(i, w, w[0, :, 0]),
    "conv_transpose1d": lambda x, i, w: F.conv_transpose1d(i, w, w[0, :, 0]),
    "prelu": lambda x, **_: F.prelu(x, x[0]),
    "scaled_dot_product_attention": lambda x, **_: F.scaled_dot_product_attention(
        x, x, x, x
    ),
}
FLOAT32 = {
    "__pow__": lambda x, **_: x**2,
    "__rpow__": lambda x, **_: 2**x,
    "__rtruediv__": lambda x, **_: 1 / x,
    **{
        name: lambda x, name=name, **_: getattr(pn, name)(x)
        for name in (
            "acos", "asin", "cosh", "erfinv", "exp",
            "expm1", "log", "log10", "log1p", "log2", "log_softmax", "norm", "prod",
            "reciprocal", "rsqrt", "sinh", "softmax", "softplus", "sum", "tan",
        )
    },
    **{
        name: lambda x, name=name, **_: getattr(F, name)(x, x)
        for name in (
            "binary_cross_entropy_with_logits", "cosine_similarity", "hinge_embedding_loss",
            "kl_div", "l1_loss", "mse_loss", "poisson_nll_loss", "smooth_l1_loss",
            "soft_margin_loss",
        )
    },
    "cumulative_sum": lambda x, **_: pn.cumulative_sum(x, axis=1),
    "cumulative_prod": lambda x, **_: pn.cumulative_prod(x, axis=1),
    "cosine_embedding_loss": lambda x, **_: F.cosine_embedding_loss(x, x, x[0]),
    "cross_entropy": lambda x, **_: F.cross_entropy(x, pn.ones(4, dtype=pn.int32, device=x.device)),
    "group_norm": lambda x, **_: F.group_norm(x, 2),
    "layer_norm": lambda x, **_: F.layer_norm(x, 4),
    "margin_ranking_loss": lambda x, **_: F.margin_ranking_loss(x, x, x),
    "multi_margin_loss": lambda x, **_: F.multi_margin_loss(
        x, pn.ones(4, dtype=pn.int32, device=x.device)
    ),
    "nll_loss": lambda x, **_: F.nll_loss(x, pn.ones(4, dtype=pn.int32, device=x.device)),
    "normalize": lambda x, **_: F.normalize(x),
    "pairwise_distance": lambda x, **_: F.pairwise_distance(x, x),
    "softmin": lambda x, **_: F.softmin(x),
    "triplet_margin_loss": lambda x, **_: F.triplet_margin_loss(x, x, x),
}  # fmt: skip
WIDEST = {
    "atan2": lambda x, y: pn.atan2(x, y),
    "concat": lambda x, y: pn.concat([x, y]),
    "stack": lambda x, y: pn.stack([x, y]),
    "grid_sample": lambda x, y: F.grid_sample(
        x[None, None], pn.stack([y, y], axis=-1)[None]
    ),
    "tensordot": lambda x, y: pn.tensordot(x, y, axes=1),
    "scatter_add": lambda x, y: pn.scatter_add(
        x, pn.zeros((4, 4), dtype=pn.int32, device=x.device), y
    ),
}


def given(device, dtype):
    rng = np.random.default_rng(3)
    shapes = {"x": (4, 4), "i": (1, 4, 9), "w": (4, 4, 3)}
    made = {n: rng.uniform(0.1, 0.9, s) for n, s in shapes.items()}
    return {n: pn.tensor(v, dtype=dtype, device=device) for n, v in made.items()}


@narrow
@pytest.mark.parametrize("name", LOW)
def test_products_are_narrow(device, dtype, name):
    for start in (pn.float32, dtype):
        with pn.autocast(dtype=dtype):
            y = LOW[name](**given(device, start))
        assert y.dtype == dtype
    assert LOW[name](**given(device, pn.float32)).dtype == pn.float32


@narrow
@pytest.mark.parametrize("name", FLOAT32)
def test_sums_and_losses_are_float32(device, dtype, name):
    for start in (pn.float32, dtype):
        values = given(device, start)
        with pn.autocast(dtype=dtype):
            y = FLOAT32[name](**values)
        assert y.dtype == pn.float32
        wide = {n: v.float() for n, v in values.items()}
        np.testing.assert_array_equal(y.numpy(), FLOAT32[name](**wide).numpy())


@narrow
@pytest.mark.parametrize("name", WIDEST)
def test_others_promote(device, dtype, name):
    x = given(device, pn.float32)["x"]
    with pn.autocast(dtype=dtype):
        assert WIDEST[name](x, x.astype(dtype)).dtype == pn.float32
        assert WIDEST[name](x.astype(dtype), x.astype(dtype)).dtype == dtype


def test_every_name_of_the_table_is_that_of_something_which_asks_it():
    found = {op.name for op in casting.listed}
    for place in (
        "losses", "distances", "ctc", "normalise", "norms", "reduce", "scan", "attend",
        "convolve", "activations", "linear", "elementwise",
    ):  # fmt: skip
        module = __import__(f"portanet.ops.{place}", fromlist=["*"])
        found |= {n for n, f in vars(module).items() if hasattr(f, "__wrapped__")}
    found |= {"linear", "normalize", "__rtruediv__"}
    table = casting.NARROW | casting.WIDE | casting.PROMOTED
    assert table <= found
    assert not casting.NARROW & casting.WIDE


@narrow
def test_numbers_beside_a_wide_operator_are_not_rounded(device, dtype):
    x = pn.tensor([0.5], dtype=dtype, device=device)
    with pn.autocast(dtype=dtype):
        assert (x**0.3).item() == pytest.approx(0.5**0.3, rel=1e-6)


@narrow
def test_explicit_dtypes_integers_and_float64_are_left_alone(device, dtype):
    x = pn.ones((2, 2), dtype=dtype, device=device)
    whole = pn.ones((2, 2), dtype=pn.int32, device=device)
    with pn.autocast(dtype=dtype):
        assert x.sum(dtype=dtype).dtype == dtype
        assert (whole @ whole).dtype == pn.int32 and whole.sum().dtype == pn.int32
        double = pn.ones((2, 2), dtype=pn.float64, device="cpu")
        assert (double @ double).dtype == pn.float64
        assert F.mse_loss(double, double).dtype == pn.float64


def layers():
    x, image = pn.randn(2, 3, 8), pn.randn(2, 4, 6, 6)
    return {
        "Linear": (nn.Linear(8, 3), x),
        "Conv2d": (nn.Conv2d(4, 3, 3), image),
        "BatchNorm2d": (nn.BatchNorm2d(4), image),
        "LayerNorm": (nn.LayerNorm(8), x),
        "LSTM": (nn.LSTM(8, 4, 2, bidirectional=True), x),
        "LSTM, projected": (nn.LSTM(8, 4, proj_size=2), x),
        "GRUCell": (nn.GRUCell(8, 4), x[0]),
        "MultiheadAttention": (nn.MultiheadAttention(8, 2), x, x, x),
        "TransformerEncoderLayer": (nn.TransformerEncoderLayer(8, 2, 16), x),
    }


@narrow
@pytest.mark.parametrize("name", layers())
def test_gradients_of_layers_come_in_the_dtype_of_the_parameters(device, dtype, name):
    layer, *args = layers()[name]
    layer = layer.to(device).eval()  # without dropout
    args = [a.to(device) for a in args]

    def run():
        layer.zero_grad()
        y = layer(*args)
        first = y[0] if isinstance(y, tuple) else y
        F.mse_loss(first, pn.zeros_like(first)).backward()
        return [p.grad for p in layer.parameters()]

    wanted = run()
    with pn.autocast(dtype=dtype):  # nothing is cast in backward
        found = run()
    assert all(g.dtype == pn.float32 for g in found)
    # Three products one after another, each rounded to the narrow type, forward and back.
    bound = 16 * float(dtype.limits.eps)
    size = max(np.abs(w.numpy()).max() for w in wanted)
    for a, b in zip(found, wanted, strict=True):
        assert np.abs(a.numpy() - b.numpy()).max() <= bound * size


@in_half
def test_it_holds_for_its_device_its_thread_and_its_block(device):
    x, seen = pn.ones((2, 2), device=device), []
    here = PRESENT[0] if device != PRESENT[0] else PRESENT[-1]
    with pn.autocast(dtype=pn.float16) as outer:
        with pn.autocast(enabled=False):
            assert (x @ x).dtype == pn.float32
            with outer:
                assert (x @ x).dtype == pn.float16
            assert (x @ x).dtype == pn.float32
        worker = threading.Thread(target=lambda: seen.append((x @ x).dtype))
        worker.start(), worker.join()
        assert (x @ x).dtype == pn.float16
    assert seen == [pn.float32]
    with pn.autocast(device, pn.float16):
        assert (x @ x).dtype == pn.float16
    with pytest.raises(ZeroDivisionError), outer:
        _ = 1 / 0
    assert (x @ x).dtype == pn.float32
    if here != device:
        with pn.autocast(here):
            assert (x @ x).dtype == pn.float32


def test_it_decorates_a_function():
    @pn.autocast("cpu")
    def product(x):
        """x x"""
        return x @ x

    assert product(pn.ones((2, 2))).dtype == pn.bfloat16 and product.__doc__ == "x x"
    assert repr(pn.autocast("cpu", pn.float16)) == "autocast('cpu', dtype=float16)"


def test_what_a_device_lacks_is_said():
    with pytest.raises(
        TypeError, match="autocast: the dtype is float16 or bfloat16, not"
    ):
        pn.autocast(dtype=pn.float32)
    place = get("cpu")

    class Lacking:
        type, backend = "wgpu", type("B", (), {"dtypes": {pn.float32, pn.float16}})

        def __str__(self):
            return "wgpu"

    with pytest.raises(TypeError, match="wgpu has no bfloat16; use dtype=float16"):
        pn.autocast(dtype=pn.bfloat16).dtype_on(Lacking())
    Lacking.backend.dtypes = {pn.float32}
    with pytest.raises(
        TypeError, match="wgpu has no float16; leave it out, or enabled="
    ):
        pn.autocast().dtype_on(Lacking())
    assert pn.autocast().dtype_on(place) == pn.bfloat16


@narrow
def test_gradients_of_gradients_through_what_was_cast(device, dtype):
    x = pn.tensor([[0.5, 0.25]], device=device, requires_grad=True)
    with pn.autocast(dtype=dtype):
        y = ((x @ x.T) ** 2).sum()
        (g,) = pn.gradients(y, [x], create_graph=True)
    assert g.dtype == pn.float32
    (again,) = pn.gradients(g.sum(), [x])
    # y = (x . x)^2, whose second derivative is 4 (x . x) + 8 x x_i summed over i; all of these
    # are exact in 16 bits.
    s, v = 0.3125, np.array([[0.5, 0.25]])
    np.testing.assert_allclose(g.numpy(), 4 * s * v)
    np.testing.assert_allclose(again.numpy(), 4 * s + 8 * v * v.sum())


# Compiled --------------------------------------------------------------------------------


@narrow
def test_a_compiled_function_casts_as_the_eager_one(device, dtype):
    layer, x = nn.Linear(5, 3).to(device), pn.randn(4, 5).to(device)

    def loss(x):
        with pn.autocast(dtype=dtype):
            return layer(x).softmax(-1).square().sum(), layer(x)

    with pn.no_grad():
        compiled = pn.compile(loss)
        for a, b in zip(compiled(x), loss(x), strict=True):
            assert a.dtype == b.dtype
            # A product's sum may be in another order: one rounding to the narrow type.
            eps = float(b.dtype.limits.eps)
            np.testing.assert_allclose(
                a.float().numpy(), b.float().numpy(), rtol=2 * eps, atol=2 * eps
            )


@in_half
def test_a_compiled_function_is_traced_again_under_autocast(device):
    layer, x = nn.Linear(5, 3).to(device), pn.randn(4, 5).to(device)
    f = pn.compile(layer)
    with pn.no_grad():
        assert f(x).dtype == pn.float32
        with pn.autocast(dtype=pn.float16):
            assert f(x).dtype == pn.float16 and f(x).dtype == pn.float16
        assert f(x).dtype == pn.float32
    assert f.reasons[1:] == ["autocast casts to another dtype, or not any more"]


# Training --------------------------------------------------------------------------------


def spirals(n=96):
    """Two spirals (n, 2), and which of the two each point is of."""
    rng = np.random.default_rng(5)
    which = np.arange(n) % 2
    t = rng.uniform(0.3, 2.2, n)
    angle = t * 2.5 + np.pi * which
    points = np.stack([np.cos(angle), np.sin(angle)], 1) * t[:, None]
    return points.astype(np.float32), which.astype(np.int32)


def trained(device, dtype, compiled, scaler=None, steps=120):
    """Losses of a small net on the spirals."""
    pn.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2)).to(device)
    rule = optim.Adam(net.parameters(), lr=0.03)
    x, t = (pn.tensor(v, device=device) for v in spirals())

    def step(x, t):
        rule.zero_grad()
        with pn.autocast(dtype=dtype, enabled=dtype is not None):
            loss = F.cross_entropy(net(x), t)
        if scaler is None:
            loss.backward(), rule.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(rule)
            scaler.update()
        return loss.detach()

    step = pn.compile(step) if compiled else step
    return [step(x, t) for _ in range(steps)], net


@narrow
def test_it_trains_as_float32_does(device, dtype):
    losses, _ = trained(device, None, compiled=True)
    assert losses[0].item() > 0.6 and losses[-1].item() < 0.1
    scaler = pn.GradScaler(init_scale=2.0**30, growth_interval=20)
    mixed, net = trained(device, dtype, True, scaler)
    assert mixed[-1].item() < 0.1
    assert all(p.dtype == pn.float32 for p in net.parameters())
    if dtype == pn.float16:  # the first scale was too large, and came down
        assert 2.0 < scaler.get_scale() < 2.0**30


@narrow
def test_a_compiled_step_is_the_eager_one(device, dtype):
    ends = []
    for compiled in (False, True):
        scaler = pn.GradScaler(init_scale=2.0**22, growth_interval=3)
        losses, net = trained(device, dtype, compiled, scaler, steps=8)
        state = scaler.state_dict()
        ends.append((losses[-1].item(), state, net[0].weight.numpy()))
    (a, eager, w), (b, compiled, v) = ends
    assert eager == compiled
    # Roundings to the narrow type fall elsewhere where sums are in another order.
    bound = 8 * float(dtype.limits.eps)
    assert a == pytest.approx(b, rel=bound)
    np.testing.assert_allclose(w, v, atol=bound)


RULES = {
    "SGD": {"momentum": 0.9, "dampening": 0.5}, "Adam": {"amsgrad": True}, "AdamW": {},
    "Adadelta": {}, "Adamax": {}, "NAdam": {}, "RAdam": {}, "Adagrad": {},
    "RMSprop": {"momentum": 0.9, "centered": True}, "Lion": {}, "LAMB": {}, "Muon": {},
}  # fmt: skip


def test_every_optimizer_is_there():
    made = {
        name for name, c in vars(optim).items()
        if isinstance(c, type) and issubclass(c, optim.Optimizer)
    }  # fmt: skip
    assert made - {"Optimizer", "LBFGS"} == set(RULES)  # LBFGS asks for a closure


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", RULES)
def test_a_step_with_infinite_gradients_changes_nothing(device, name, compiled):
    p = nn.Parameter(pn.tensor([[0.5, -1.0], [2.0, 1.0]], device=device))
    twin = nn.Parameter(p.detach())
    rule, plain = (getattr(optim, name)([q], lr=0.1, **RULES[name]) for q in (p, twin))
    scaler = pn.GradScaler(init_scale=4.0)

    def step(factor):
        rule.zero_grad()
        scaler.scale((p * p * factor).sum()).backward()
        scaler.step(rule)
        scaler.update()

    step = pn.compile(step) if compiled else step
    one = pn.ones((), device=device)
    for factor in (float("inf"), 1.0, float("nan"), 1.0):
        before, state = p.numpy(), rule.state_dict()["state"]
        step(one * factor)
        if factor != 1.0:
            assert p.numpy().tolist() == before.tolist()
            for key, value in state.get(0, {}).items():
                now = rule.state_dict()["state"][0][key]
                assert now.tolist() == value.tolist(), key
            continue
        plain.zero_grad()
        (twin * twin).sum().backward()
        plain.step()
        # Compiled formulas are joined with others: a few roundings.
        np.testing.assert_allclose(p.numpy(), twin.numpy(), rtol=1e-5, atol=1e-6)
    assert scaler.get_scale() == 1.0


# The scale -------------------------------------------------------------------------------


def stepped(scaler, rule, p, factor=1.0):
    rule.zero_grad()
    scaler.scale((p * factor).sum()).backward()
    scaler.step(rule)
    scaler.update()


def test_the_scale_grows_after_an_interval_and_backs_off(device):
    p = nn.Parameter(pn.ones(3, device=device))
    rule = optim.SGD([p], lr=0.5)
    scaler = pn.GradScaler(
        init_scale=8.0, growth_factor=4.0, backoff_factor=0.25, growth_interval=2
    )
    scales = []
    for factor in (1.0, 1.0, 1.0, float("inf"), 1.0, 1.0):
        stepped(scaler, rule, p, factor)
        scales.append(scaler.get_scale())
    assert scales == [8.0, 32.0, 32.0, 8.0, 8.0, 32.0]
    assert p.tolist() == [1 - 5 * 0.5] * 3
    scaler.update(16.0)
    assert scaler.get_scale() == 16.0
    scaler.update(pn.tensor(2.0, device=device))
    assert scaler.get_scale() == 2.0


def test_the_state_of_a_scaler_is_saved(tmp_path):
    p = nn.Parameter([1.0])
    rule = optim.SGD([p], lr=0.5)
    scaler = pn.GradScaler(init_scale=8.0, growth_interval=7)
    assert scaler.state_dict()["scale"] == 8.0  # before there is a device
    stepped(scaler, rule, p)
    pn.save(scaler.state_dict(), tmp_path / "scaler")
    other = pn.GradScaler()
    other.load_state_dict(pn.load(tmp_path / "scaler"))
    assert other.state_dict() == scaler.state_dict()
    assert other.state_dict() == {
        "scale": 8.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 7,
        "_growth_tracker": 1,
    }  # fmt: skip
    stepped(other, rule, p)
    assert other.state_dict()["_growth_tracker"] == 2
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == scaler.state_dict()
    with pytest.raises(ValueError, match="GradScaler: load_state_dict: missing: scale"):
        scaler.load_state_dict({})


def test_gradients_are_clipped_after_unscale(device):
    p = nn.Parameter(pn.ones(1, device=device))
    rule = optim.SGD([p], lr=1.0)
    scaler = pn.GradScaler(init_scale=1024.0)
    scaler.scale((p * 3).sum()).backward()
    assert p.grad.item() == 3 * 1024
    scaler.unscale_(rule)
    assert p.grad.item() == 3
    nn.utils.clip_grad_norm_([p], 1.0)
    scaler.step(rule)
    assert p.item() == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(RuntimeError, match="GradScaler.unscale_: it was called"):
        scaler.unscale_(rule)
    with pytest.raises(RuntimeError, match="GradScaler.step: it was called"):
        scaler.step(rule)
    scaler.update()
    with pytest.raises(
        RuntimeError, match="GradScaler.update: no gradient was looked at"
    ):
        scaler.update()


def test_two_optimizers_share_a_scaler(device):
    a, b = (nn.Parameter(pn.ones(1, device=device)) for _ in range(2))
    rules = [optim.SGD([p], lr=0.5) for p in (a, b)]
    scaler = pn.GradScaler(init_scale=2.0)
    losses = scaler.scale([(a * 1.0).sum(), (b * float("inf")).sum()])
    for loss in losses:
        loss.backward()
    for rule in rules:
        scaler.step(rule)
    scaler.update()
    assert (a.item(), b.item(), scaler.get_scale()) == (0.5, 1.0, 1.0)


def test_a_scaler_that_is_not_enabled_does_nothing():
    p = nn.Parameter([1.0])
    rule = optim.SGD([p], lr=0.5)
    scaler = pn.GradScaler(enabled=False)
    stepped(scaler, rule, p)
    scaler.unscale_(rule)
    assert p.item() == 0.5 and not scaler.is_enabled()
    assert scaler.get_scale() == 1.0 and scaler.state_dict() == {}


def test_a_trace_that_broke_off_leaves_the_scaler_usable():
    p = nn.Parameter([1.0])
    rule = optim.SGD([p], lr=0.5)
    scaler = pn.GradScaler(init_scale=2.0)

    @pn.compile
    def step(x):
        scaler.scale((p * x).sum()).backward()
        scaler.step(rule)
        raise KeyError("interrupted")

    with pytest.raises(KeyError):
        step(pn.ones(1))
    rule.zero_grad()
    stepped(scaler, rule, p)
    assert p.item() == 0.5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"init_scale": 0.0}, "init_scale must be above 0, not 0.0"),
        ({"growth_factor": 1.0}, "growth_factor must be above 1"),
        ({"backoff_factor": 1.0}, r"backoff_factor must be in \(0, 1\)"),
        ({"growth_interval": 0}, "growth_interval is at least 1"),
    ],
)
def test_options_of_a_scaler_are_checked(options, message):
    with pytest.raises(ValueError, match=f"GradScaler: {message}"):
        pn.GradScaler(**options)


def test_calls_that_make_no_sense_are_refused():
    scaler = pn.GradScaler()
    with pytest.raises(RuntimeError, match="no parameter of SGD has a gradient"):
        scaler.step(optim.SGD([nn.Parameter([1.0])], lr=0.1))
    with pytest.raises(TypeError, match="GradScaler.scale: a tensor or a list of them"):
        scaler.scale(3.0)
    with pytest.raises(AttributeError, match="here it is autocast and GradScaler"):
        _ = pn.amp
