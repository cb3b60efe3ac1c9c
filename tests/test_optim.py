"""Optimizers against float64 references written out here, and their state."""

import copy
import pickle

import numpy as np
import pytest

import portanet as pn
from portanet import nn
from portanet.testing import assert_close
from tests.conftest import PRESENT

RNG = np.random.default_rng(0)


def sgd(p, grads, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
    v = None
    for g in grads:
        g = g + weight_decay * p
        if momentum:
            v = g if v is None else momentum * v + (1 - dampening) * g
            g = g + momentum * v if nesterov else v
        p = p - lr * g
    return p


def adam(p, grads, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    m = v = np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        if decoupled:
            p = p * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        step = lr * m / (1 - betas[0] ** t)
        p = p - step / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


CASES = [
    (pn.optim.SGD, sgd, {"lr": 0.1}),
    (pn.optim.SGD, sgd, {"lr": 0.1, "weight_decay": 0.05}),
    (pn.optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9}),
    (pn.optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "dampening": 0.4}),
    (
        pn.optim.SGD,
        sgd,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
    ),
    (pn.optim.Adam, adam, {"lr": 0.01}),
    (pn.optim.Adam, adam, {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-3}),
    (pn.optim.Adam, adam, {"lr": 0.01, "betas": (0.0, 0.9), "weight_decay": 0.1}),
    (pn.optim.AdamW, adam, {"lr": 0.01, "weight_decay": 0.3}),
]


@pytest.mark.parametrize(
    "kind, reference, options", CASES, ids=[f"{c[0].__name__}-{c[2]}" for c in CASES]
)
def test_steps_are_those_of_the_reference(kind, reference, options, device):
    start = [RNG.normal(size=s).astype(np.float32) for s in ((3, 4), (5,), ())]
    grads = [
        [np.asarray(RNG.normal(size=p.shape), np.float32) for p in start]
        for _ in range(20)
    ]
    ps = [nn.Parameter(pn.tensor(p, device=device)) for p in start]
    optimizer = kind(ps, **options)
    for step in grads:
        for p, g in zip(ps, step, strict=True):
            p.grad = pn.tensor(g, device=device)
        optimizer.step()
    extra = {"decoupled": True} if kind is pn.optim.AdamW else {}
    for i, p in enumerate(ps):
        mine = [np.float64(step[i]) for step in grads]
        want = reference(np.float64(start[i]), mine, **options, **extra)
        # 20 steps, each of which rounds the parameter and the update.
        assert_close(p, want, rtol=4e-6, atol=4e-6)
        assert p.is_leaf and p.requires_grad and p.device == device


def test_float64_parameters_are_updated_in_float64():
    p = nn.Parameter(pn.tensor(np.ones(3)))
    optimizer = pn.optim.Adam([p], lr=0.1)
    for _ in range(5):
        p.grad = pn.tensor(np.full(3, 0.3))
        optimizer.step()
    assert_close(p, adam(np.ones(3), [np.full(3, 0.3)] * 5, 0.1), rtol=1e-14)


def test_half_precision_parameters_can_be_trained():
    for name in ("float16", "bfloat16"):
        p = nn.Parameter(pn.ones(3, dtype=name))
        optimizer = pn.optim.AdamW([p], lr=0.1)
        (p * p).sum().backward()
        optimizer.step()
        assert p.dtype == name
        assert_close(p.numpy().astype(np.float32), np.full(3, 0.899), rtol=1e-2)


def test_a_parameter_without_gradient_and_its_count_stay(device):
    a, b, c = (nn.Parameter(pn.ones(2, device=device)) for _ in range(3))
    optimizer = pn.optim.Adam([a, b, c], lr=0.1)
    for i in range(4):
        for p in (a, b) if i % 2 else (a,):
            p.grad = pn.full(2, 0.5, device=device)
        optimizer.step()
        optimizer.zero_grad()
    half = np.full(2, 0.5)
    assert_close(a, adam(np.ones(2), [half] * 4, 0.1), rtol=1e-6)
    assert_close(b, adam(np.ones(2), [half] * 2, 0.1), rtol=1e-6)
    assert c.tolist() == [1.0, 1.0]
    assert [optimizer.state[p]["step"].item() for p in (a, b)] == [4.0, 2.0]
    assert c not in optimizer.state


def test_parameters_that_step_together_share_one_count():
    ps = [nn.Parameter(pn.ones(1)) for _ in range(5)]
    optimizer = pn.optim.Adam(ps)
    for _ in range(3):
        for p in ps:
            p.grad = pn.ones(1)
        optimizer.step()
    assert len({id(s["step"]) for s in optimizer.state.values()}) == 1


def test_the_learning_rate_can_be_changed_and_is_one_tensor_a_device(device):
    p = nn.Parameter(pn.ones(1, device=device))
    optimizer = pn.optim.SGD([p], lr=1.0)
    group = optimizer.param_groups[0]
    wanted = 1.0
    rate = group.rate(p)
    for lr in (1.0, 0.5, 0.125):
        group["lr"] = lr
        assert group.rate(p) is rate and rate.item() == lr and rate.device == device
        p.grad = pn.ones(1, device=device)
        optimizer.step()
        wanted -= lr
        assert p.item() == wanted


def test_groups_have_options_of_their_own():
    a, b = nn.Parameter(pn.ones(1)), nn.Parameter(pn.ones(1))
    optimizer = pn.optim.SGD([{"params": [a], "lr": 0.5}, {"params": b}], lr=0.25)
    for p in (a, b):
        p.grad = pn.ones(1)
    optimizer.step()
    assert (a.item(), b.item()) == (0.5, 0.75)
    c = nn.Parameter(pn.ones(1))
    optimizer.add_param_group({"params": [c], "lr": 0.125})
    c.grad = pn.ones(1)
    optimizer.step()
    assert c.item() == 0.875


def test_zero_grad_forgets_gradients_or_fills_them_with_zeros(device):
    p = nn.Parameter(pn.ones(2, device=device))
    optimizer = pn.optim.SGD([p])
    p.grad = pn.ones(2, device=device)
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0.0, 0.0] and p.grad.device == device
    optimizer.zero_grad()
    assert p.grad is None


# State -------------------------------------------------------------------------------------


def trained(kind, device, **options):
    pn.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(device)
    optimizer = kind(model.parameters(), lr=0.05, **options)
    advance(model, optimizer, 3)
    return model, optimizer


def advance(model, optimizer, steps):
    place = next(model.parameters()).device
    x = pn.tensor(
        np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32), device=place
    )
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()


KINDS = [
    (pn.optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
    (pn.optim.Adam, {}),
    (pn.optim.AdamW, {"weight_decay": 0.1}),
]


@pytest.mark.parametrize("kind, options", KINDS, ids=[k[0].__name__ for k in KINDS])
def test_training_goes_on_from_a_state_as_if_it_had_not_stopped(kind, options, device):
    model, optimizer = trained(kind, device, **options)
    other = copy.deepcopy(model)
    resumed = kind(other.parameters(), lr=9.0)
    resumed.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    assert resumed.param_groups[0]["lr"] == 0.05
    advance(model, optimizer, 3)
    advance(other, resumed, 3)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("kind, options", KINDS, ids=[k[0].__name__ for k in KINDS])
def test_model_and_optimizer_are_copied_and_pickled_together(kind, options):
    model, optimizer = trained(kind, "cpu", **options)
    pairs = [
        copy.deepcopy((model, optimizer)),
        pickle.loads(pickle.dumps((model, optimizer))),
    ]
    advance(model, optimizer, 2)
    for other, copied in pairs:
        advance(other, copied, 2)
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            assert_close(a, b, rtol=0, atol=0)


def test_an_optimizer_goes_on_where_its_model_is_moved():
    for device in PRESENT:
        still, first = trained(pn.optim.Adam, "cpu")
        model, optimizer = trained(pn.optim.Adam, "cpu")
        advance(still, first, 2)
        model.to(device)
        advance(model, optimizer, 2)
        for a, b in zip(still.parameters(), model.parameters(), strict=True):
            assert b.device == device
            assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert len({id(s["step"]) for s in optimizer.state.values()}) == 1


def test_a_state_that_does_not_fit_is_refused_and_nothing_changes():
    _, optimizer = trained(pn.optim.Adam, "cpu")
    saved = optimizer.state_dict()
    ps = [nn.Parameter(pn.ones(2)) for _ in range(4)]
    other = pn.optim.Adam(ps, lr=1.0)
    with pytest.raises(ValueError, match="exp_avg .*4, 3.* is no state of parameter 0"):
        other.load_state_dict(saved)
    with pytest.raises(
        ValueError, match=r"groups of \[4\] parameters .* this optimizer has \[1\]"
    ):
        pn.optim.Adam(ps[:1]).load_state_dict(saved)
    with pytest.raises(ValueError, match="SGD: load_state_dict: there is no option"):
        pn.optim.SGD(ps).load_state_dict(saved)
    assert other.state == {} and other.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize("kind, options", KINDS, ids=[k[0].__name__ for k in KINDS])
def test_a_compiled_step_trains_as_the_same_step_does(kind, options, device):
    x = pn.tensor(
        np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32), device=device
    )
    losses = []
    for compiled in (False, True):
        pn.manual_seed(2)
        layers = [
            nn.Linear(3, 4),
            nn.BatchNorm1d(4),
            nn.Tanh(),
            nn.Dropout(0.1),
            nn.Linear(4, 1),
        ]
        model = nn.Sequential(*layers).to(device)
        optimizer = kind(model.parameters(), lr=0.05, **options)

        def step(x, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss

        run = pn.compile(step) if compiled else step
        seen = []
        for i in range(10):
            if i == 5:  # a replay reads the rate of the day
                optimizer.param_groups[0]["lr"] = 0.2
            seen.append(run(x).item())
        losses.append([*seen, layers[1].num_batches_tracked.item()])
    # Fused work is rounded otherwise.
    assert_close(np.array(losses[1]), np.array(losses[0]), rtol=1e-4, atol=1e-5)


# Bad options --------------------------------------------------------------------------------


def test_parameters_are_checked():
    p = nn.Parameter(pn.ones(2))
    bad = [
        ([], ValueError, "SGD: the list of parameters is empty"),
        (p, TypeError, "SGD: a list of parameters is expected, not one Tensor"),
        ([1], TypeError, "SGD: parameter 0 is a int, not a Tensor"),
        ([p * 2], ValueError, "SGD: parameter 0 is a result of operators"),
        ([p, p], ValueError, r"SGD: parameter 1 of shape \(2,\) is listed twice"),
        ([{"lr": 1.0}], TypeError, 'SGD: a group is a dict with "params"'),
        (
            [{"params": p, "rate": 1.0}],
            ValueError,
            "SGD: there is no option rate; known are lr",
        ),
        ([{"params": p}, {"params": p}], ValueError, "listed twice"),
    ]
    for params, error, message in bad:
        with pytest.raises(error, match=message):
            pn.optim.SGD(params)


def test_options_are_checked_when_they_are_set():
    ps = [nn.Parameter(pn.ones(2))]
    bad = [
        (
            pn.optim.SGD,
            {"lr": -1.0},
            ValueError,
            "SGD: lr must be at least 0 and finite, not -1",
        ),
        (
            pn.optim.SGD,
            {"lr": float("nan")},
            ValueError,
            "lr must be at least 0 and finite",
        ),
        (pn.optim.SGD, {"lr": "fast"}, TypeError, "SGD: lr is a number, not str"),
        (
            pn.optim.SGD,
            {"momentum": -0.1},
            ValueError,
            "SGD: momentum must be at least 0",
        ),
        (
            pn.optim.SGD,
            {"nesterov": True},
            ValueError,
            "SGD: nesterov needs a momentum",
        ),
        (
            pn.optim.Adam,
            {"betas": (0.9, 1.0)},
            ValueError,
            r"Adam: betas\[1\] must be in \[0, 1",
        ),
        (
            pn.optim.Adam,
            {"betas": 0.9},
            TypeError,
            "Adam: betas are two numbers, not 0.9",
        ),
        (pn.optim.Adam, {"eps": -1}, ValueError, "Adam: eps must be at least 0"),
        (
            pn.optim.AdamW,
            {"weight_decay": -1},
            ValueError,
            "AdamW: weight_decay must be",
        ),
    ]
    for kind, options, error, message in bad:
        with pytest.raises(error, match=message):
            kind(ps, **options)
    group = pn.optim.SGD(ps).param_groups[0]
    with pytest.raises(ValueError, match="SGD: lr must be"):
        group["lr"] = -1.0
    assert group["lr"] == 1e-3


def test_an_optimizer_says_what_it_trains():
    text = repr(pn.optim.Adam([nn.Parameter(pn.ones(2))]))
    assert "1 parameters, lr=0.001, betas=(0.9, 0.999)" in text


# Learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, options", KINDS, ids=[k[0].__name__ for k in KINDS])
def test_a_network_learns_exclusive_or(kind, options, device):
    pn.manual_seed(0)
    x = pn.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], device=device)
    y = pn.tensor([0, 1, 1, 0], device=device)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).to(device)
    optimizer = kind(model.parameters(), lr=0.05, **{**options, "weight_decay": 0.0})
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < 0.1
    assert model(x).argmax(axis=1).tolist() == [0, 1, 1, 0]


def test_a_classifier_learns_digits_from_a_loader():
    from sklearn.datasets import load_digits

    images, labels = load_digits(n_class=4, return_X_y=True)
    x = (images / 16).astype(np.float32)
    whole = pn.data.ArrayDataset(x, labels.astype(np.int32))
    train, test = pn.data.random_split(whole, [0.8, 0.2])
    model = nn.Sequential(
        nn.Linear(64, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(32, 4),
    )
    optimizer = pn.optim.AdamW(model.parameters(), lr=0.01)
    loader = pn.data.DataLoader(train, 64, shuffle=True, drop_last=True, prefetch=2)
    for _ in range(4):
        for a, b in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(a), b).backward()
            optimizer.step()
    model.eval()
    ((a, b),) = pn.data.DataLoader(test, len(test))
    assert (model(a).argmax(axis=1) == b).numpy().mean() > 0.97
