"""RMSprop, Adagrad, Lion, LAMB and Muon against float64 references written out here."""

import copy
import pickle

import numpy as np
import pytest

import portanet as pn
from portanet import nn, optim
from portanet.ops.optimise import orthogonalise
from portanet.devices import Device, _open
from portanet.testing import assert_close
from tests.null_backend import NullBackend

RNG = np.random.default_rng(0)


def rmsprop(
    p, grads, lr, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False
):
    v = m = b = np.zeros_like(p)
    for g in grads:
        g = g + weight_decay * p
        v = alpha * v + (1 - alpha) * g * g
        m = alpha * m + (1 - alpha) * g
        b = momentum * b + g / (np.sqrt(v - centered * m * m) + eps)
        p = p - lr * b
    return p


def adagrad(
    p, grads, lr, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0
):
    total = np.full_like(p, initial_accumulator_value)
    for t, g in enumerate(grads):
        g = g + weight_decay * p
        total = total + g * g
        p = p - lr / (1 + t * lr_decay) * g / (np.sqrt(total) + 1e-10)
    return p


def lion(p, grads, lr, betas=(0.9, 0.99), weight_decay=0.0):
    m = np.zeros_like(p)
    for g in grads:
        step = np.sign(betas[0] * m + (1 - betas[0]) * g)
        p = p - lr * (step + weight_decay * p)
        m = betas[1] * m + (1 - betas[1]) * g
    return p


def lamb(p, grads, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=1e-2):
    m = v = np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        r = m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        r = r + weight_decay * p
        sizes = np.sqrt((p * p).sum()), np.sqrt((r * r).sum())
        p = p - lr * (sizes[0] / sizes[1] if min(sizes) > 0 else 1) * r
    return p


def newton_schulz(x):
    tall = x.shape[0] > x.shape[1]
    x = (x.T if tall else x) / np.linalg.norm(x)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


def muon(
    p, grads, lr, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn=None
):
    rows, columns = p.shape
    scale = np.sqrt(max(1, rows / columns))
    if adjust_lr_fn == "match_rms_adamw":
        scale = 0.2 * np.sqrt(max(rows, columns))
    v = np.zeros_like(p)
    for g in grads:
        v = momentum * v + (1 - momentum) * g
        step = (1 - momentum) * g + momentum * v if nesterov else v
        p = p * (1 - lr * weight_decay) - lr * scale * newton_schulz(step)
    return p


ANY = ((3, 4), (5,), ())
MATRICES = ((6, 4), (3, 7), (5, 5))
CASES = [
    (optim.RMSprop, rmsprop, {"lr": 0.01}, ANY),
    (optim.RMSprop, rmsprop, {"lr": 0.01, "alpha": 0.9, "weight_decay": 0.1}, ANY),
    (optim.RMSprop, rmsprop, {"lr": 0.01, "momentum": 0.9}, ANY),
    (optim.RMSprop, rmsprop, {"lr": 0.01, "alpha": 0.9, "centered": True}, ANY),
    (
        optim.RMSprop,
        rmsprop,
        {"lr": 0.01, "alpha": 0.9, "momentum": 0.5, "centered": True},
        ANY,
    ),
    (optim.Adagrad, adagrad, {"lr": 0.1}, ANY),
    (
        optim.Adagrad,
        adagrad,
        {
            "lr": 0.1,
            "lr_decay": 0.1,
            "weight_decay": 0.1,
            "initial_accumulator_value": 0.5,
        },
        ANY,
    ),
    (optim.Lion, lion, {"lr": 0.01}, ANY),
    (optim.Lion, lion, {"lr": 0.01, "betas": (0.5, 0.8), "weight_decay": 0.3}, ANY),
    (optim.LAMB, lamb, {"lr": 0.01}, ANY),
    (optim.LAMB, lamb, {"lr": 0.01, "betas": (0.0, 0.9), "weight_decay": 0.0}, ANY),
    (optim.Muon, muon, {"lr": 0.02}, MATRICES),
    (optim.Muon, muon, {"lr": 0.02, "nesterov": False, "momentum": 0.9}, MATRICES),
    (
        optim.Muon,
        muon,
        {"lr": 0.02, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"},
        MATRICES,
    ),
]


@pytest.mark.parametrize(
    "kind, reference, options, shapes",
    CASES,
    ids=[f"{c[0].__name__}-{i}" for i, c in enumerate(CASES)],
)
def test_steps_are_those_of_the_reference(kind, reference, options, shapes, device):
    start = [np.asarray(RNG.normal(size=s), np.float32) for s in shapes]
    grads = [
        [np.asarray(RNG.normal(size=s), np.float32) for s in shapes] for _ in range(20)
    ]
    ps = [nn.Parameter(pn.tensor(p, device=device)) for p in start]
    optimizer = kind(ps, **options)
    for step in grads:
        for p, g in zip(ps, step, strict=True):
            p.grad = pn.tensor(g, device=device)
        optimizer.step()
    # 20 steps, each of which rounds the parameter and the update; Newton and Schulz's
    # iteration multiplies what is rounded of the small singular values by up to 3.4 ** 5.
    bound = 2e-5 if kind is optim.Muon else 4e-6
    for i, p in enumerate(ps):
        mine = [np.float64(step[i]) for step in grads]
        want = reference(np.float64(start[i]), mine, **options)
        assert_close(p, want, rtol=bound, atol=bound)
        assert p.is_leaf and p.requires_grad and p.device == device


# After three steps from p = (1, -2, 3, -4) / 4 with the gradients p, 2 p, -p of the first p,
# by torch 2.13.0 in float64 (Muon's iteration too, which PyTorch runs in bfloat16).
RECORDED = [
    (
        optim.RMSprop,
        {"lr": 0.01},
        (0.10149790471390188, -0.35149788006482974),
        (0.6014978718484705, -0.8514978677402905),
    ),
    (
        optim.RMSprop,
        {
            "lr": 0.01,
            "alpha": 0.9,
            "momentum": 0.5,
            "weight_decay": 0.1,
            "centered": True,
        },
        (0.15764240565389256, -0.40741144375146654),
        (0.6573342543896367, -0.9072956222211662),
    ),
    (
        optim.Adagrad,
        {
            "lr": 0.1,
            "lr_decay": 0.1,
            "weight_decay": 0.1,
            "initial_accumulator_value": 0.5,
        },
        (0.18277750591927547, -0.3962019551723532),
        (0.6277129854328516, -0.8678101879866451),
    ),
    (
        optim.Muon,
        {"lr": 0.02},
        (0.289261033140165, -0.4475726182614899),
        (0.701120165578335, -0.97847670344406),
    ),
    (
        optim.Muon,
        {
            "lr": 0.02,
            "nesterov": False,
            "momentum": 0.9,
            "adjust_lr_fn": "match_rms_adamw",
            "weight_decay": 0.0,
        },
        (0.2615512002130059, -0.48599012829006644),
        (0.7374197997387236, -0.9955971570302798),
    ),
]


@pytest.mark.parametrize(
    "kind, options, first, second",
    RECORDED,
    ids=[f"{r[0].__name__}-{i}" for i, r in enumerate(RECORDED)],
)
def test_steps_are_those_that_pytorch_took(kind, options, first, second):
    start = np.array([[1.0, -2.0], [3.0, -4.0]]) / 4
    p = nn.Parameter(pn.tensor(start))
    optimizer = kind([p], **options)
    for factor in (1.0, 2.0, -1.0):
        p.grad = pn.tensor(factor * start)
        optimizer.step()
    assert_close(p, np.array([first, second]), rtol=1e-9)


def test_a_centered_average_that_rounds_below_zero_gives_no_nan():
    p = nn.Parameter(pn.ones(64))
    optimizer = optim.RMSprop([p], lr=0.01, alpha=0.5, centered=True, eps=1e-3)
    for _ in range(60):  # a constant gradient: the variance falls to 0
        p.grad = pn.full(64, 0.1) * pn.linspace(1, 2, 64)
        optimizer.step()
    assert np.isfinite(p.numpy()).all()


def test_lamb_steps_by_r_where_a_parameter_or_its_step_is_zero():
    p = nn.Parameter(pn.zeros(3))
    optimizer = optim.LAMB([p], lr=0.5, weight_decay=0.0)
    p.grad = pn.ones(3)
    optimizer.step()
    assert_close(p, np.full(3, -0.5), rtol=1e-5)
    q = nn.Parameter(pn.ones(3))
    optimizer = optim.LAMB([q], lr=0.5, weight_decay=0.0)
    q.grad = pn.zeros(3)
    optimizer.step()
    assert q.tolist() == [1.0, 1.0, 1.0]


# Muon --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (7, 7), (1, 4), (1, 1)])
def test_orthogonalise_brings_singular_values_near_one(shape, device):
    x = RNG.normal(size=shape).astype(np.float32)
    y = orthogonalise(pn.tensor(x, device=device)).numpy()
    assert_close(y, newton_schulz(np.float64(x)), rtol=1e-4, atol=1e-4)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    left, mine, right = np.linalg.svd(y, full_matrices=False)
    assert 0.5 < mine.min() and mine.max() < 1.5
    assert abs(np.trace(y.T @ (u @ vt)) - mine.sum()) < 1e-3  # the same directions


def test_orthogonalise_of_zeros_is_zeros(device):
    y = orthogonalise(pn.zeros((3, 4), device=device))
    assert y.numpy().tolist() == np.zeros((3, 4)).tolist()


def test_muon_trains_matrices_and_adamw_the_rest():
    pn.manual_seed(0)
    twins = [nn.Linear(4, 3), nn.Linear(4, 3)]
    twins[1].load_state_dict(twins[0].state_dict())
    a, b = twins
    rest = {"lr": 0.1, "weight_decay": 0.2, "betas": (0.8, 0.9)}
    groups = [{"params": a.weight}, {"params": a.bias, "use_muon": False, **rest}]
    one = [optim.Muon(groups, lr=0.02)]
    two = [optim.Muon([b.weight], lr=0.02), optim.AdamW([b.bias], **rest, eps=1e-7)]
    for layer, optimizers in ((a, one), (b, two)):
        for _ in range(3):
            layer.zero_grad()
            (layer(pn.ones((2, 4))) ** 2).sum().backward()
            for o in optimizers:
                o.step()
    assert a.weight.tolist() == b.weight.tolist()
    assert a.bias.tolist() == b.bias.tolist()
    assert "exp_avg" not in one[0].state[a.weight]


def test_muon_refuses_what_is_no_matrix_and_says_where_it_belongs():
    p = nn.Parameter(pn.ones(3))
    with pytest.raises(ValueError, match=r"Muon: parameter 0 .* \(3,\).*use_muon"):
        optim.Muon([p])
    optimizer = optim.Muon([nn.Parameter(pn.ones((2, 2)))])
    with pytest.raises(ValueError, match="a matrix is needed"):
        optimizer.add_param_group({"params": [p]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [p], "use_muon": False})
    assert len(optimizer.param_groups) == 2


# State -------------------------------------------------------------------------------------

KINDS = [
    (optim.RMSprop, {"momentum": 0.9, "centered": True}),
    (optim.Adagrad, {"lr_decay": 0.1}),
    (optim.Lion, {}),
    (optim.LAMB, {}),
    (optim.Muon, {}),
]
NAMES = [k[0].__name__ for k in KINDS]


def groups_of(model, kind):
    if kind is not optim.Muon:
        return model.parameters()
    flat = [p for p in model.parameters() if p.ndim != 2]
    matrices = [p for p in model.parameters() if p.ndim == 2]
    return [{"params": matrices}, {"params": flat, "use_muon": False}]


def trained(kind, device, **options):
    pn.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(device)
    optimizer = kind(groups_of(model, kind), lr=0.05, **options)
    advance(model, optimizer, 3)
    return model, optimizer


def advance(model, optimizer, steps):
    place = next(model.parameters()).device
    x = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    x = pn.tensor(x, device=place)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind, options", KINDS, ids=NAMES)
def test_training_goes_on_from_a_state_as_if_it_had_not_stopped(kind, options, device):
    model, optimizer = trained(kind, device, **options)
    other = copy.deepcopy(model)
    resumed = kind(groups_of(other, kind), lr=9.0)
    resumed.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    advance(model, optimizer, 3)
    advance(other, resumed, 3)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("kind, options", KINDS, ids=NAMES)
def test_a_compiled_step_trains_as_the_same_step_does(kind, options, device):
    x = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    x, losses = pn.tensor(x, device=device), []
    for compiled in (False, True):
        pn.manual_seed(2)
        layers = [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)]
        model = nn.Sequential(*layers).to(device)
        optimizer = kind(groups_of(model, kind), lr=0.02, **options)

        def step(x, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        run = pn.compile(step) if compiled else step
        seen = []
        for i in range(8):
            if i == 4:  # a replay reads the rate of the day
                optimizer.param_groups[0]["lr"] = 0.1
            seen.append(run(x).item())
        losses.append(seen)
    # Fused work is rounded otherwise.
    assert_close(np.array(losses[1]), np.array(losses[0]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind, options", KINDS, ids=NAMES)
def test_a_network_learns_exclusive_or(kind, options, device):
    pn.manual_seed(0)
    x = pn.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], device=device)
    y = pn.tensor([0, 1, 1, 0], device=device)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).to(device)
    lr = {optim.Adagrad: 0.5, optim.RMSprop: 0.005, optim.Lion: 0.01}.get(kind, 0.05)
    optimizer = kind(groups_of(model, kind), lr=lr, **options)
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2
    assert model(x).argmax(axis=1).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    "kind, options, each, once",
    [
        (optim.RMSprop, {}, 1, 0),
        (optim.RMSprop, {"momentum": 0.9, "centered": True}, 1, 0),
        (optim.Adagrad, {}, 1, 1),
        (optim.Lion, {}, 1, 0),
        (optim.LAMB, {}, 8, 1),
    ],
)
def test_a_step_takes_so_many_launches_a_parameter(kind, options, each, once):
    place = _open["null"] = Device("null", NullBackend())
    try:
        ps = [nn.Parameter(pn.zeros((4, 3), device="null")) for _ in range(3)]
        optimizer = kind(ps, **options)
        for p in ps:
            p.grad = pn.ones((4, 3), device="null")
        optimizer.step()
        before = len(place.backend.launched)
        optimizer.step()
        assert len(place.backend.launched) - before == 3 * each + once
    finally:
        del _open["null"]


def test_options_are_checked_when_they_are_set():
    ps = [nn.Parameter(pn.ones((2, 2)))]
    bad = [
        (optim.RMSprop, {"alpha": -0.1}, ValueError, "RMSprop: alpha must be at least"),
        (optim.RMSprop, {"momentum": "a"}, TypeError, "RMSprop: momentum is a number"),
        (optim.Adagrad, {"lr_decay": -1}, ValueError, "Adagrad: lr_decay must be"),
        (optim.Lion, {"betas": (1.0, 0.9)}, ValueError, r"Lion: betas\[0\] must be in"),
        (optim.LAMB, {"betas": 0.9}, TypeError, "LAMB: betas are two numbers"),
        (optim.Muon, {"ns_steps": 0}, ValueError, r"Muon: ns_steps is a number in \[1"),
        (optim.Muon, {"adjust_lr_fn": "x"}, ValueError, "adjust_lr_fn is 'original'"),
        (optim.Muon, {"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1"),
    ]
    for kind, options, error, message in bad:
        with pytest.raises(error, match=message):
            kind(ps, **options)
