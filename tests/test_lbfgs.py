"""L-BFGS against the dense formula of BFGS, and the conditions of its line search."""

import numpy as np
import pytest

import portanet as pn
from portanet import nn, optim

START = [-1.2, 1.0, -0.5, 0.8]


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def slope(x):
    g = np.zeros_like(x)
    g[:-1] = -400 * x[:-1] * (x[1:] - x[:-1] ** 2) - 2 * (1 - x[:-1])
    g[1:] += 200 * (x[1:] - x[:-1] ** 2)
    return g


def made(device="cpu", dtype="float64", parts=1, **options):
    """Parameters, the optimizer, and its closure."""
    values = np.split(np.array(START), parts)
    params = [nn.Parameter(pn.tensor(v, dtype=dtype, device=device)) for v in values]
    rule = optim.LBFGS(params, **options)

    def closure():
        rule.zero_grad()
        loss = rosenbrock(pn.concat(params))
        loss.backward()
        return loss

    return params, rule, closure


def reference(steps, lr, history):
    """x after each step by H = (I - r s y') H (I - r y s') + r s s', from s.y / y.y."""
    x, pairs, found = np.array(START), [], []
    last = None
    for k in range(steps):
        g = slope(x)
        if last is not None:
            s, y = x - last[0], g - last[1]
            if s @ y > 1e-10:
                pairs = [*pairs, (s, y)][-history:]
                scale = s @ y / (y @ y)
        h = np.eye(len(x)) * (scale if pairs else 1.0)
        for s, y in pairs:
            r = 1 / (s @ y)
            left = np.eye(len(x)) - r * np.outer(s, y)
            h = left @ h @ left.T + r * np.outer(s, s)
        t = lr * min(1.0, 1 / np.abs(g).sum()) if k == 0 else lr
        last = (x, g)
        x = x - t * h @ g
        found.append(x)
    return found


@pytest.mark.parametrize("history", [2, 100])
def test_steps_are_those_of_the_dense_formula(history):
    (x,), rule, closure = made(lr=0.01, max_iter=1, history_size=history)
    for want in reference(8, 0.01, history):
        rule.step(closure)
        np.testing.assert_allclose(x.numpy(), want, rtol=1e-9)


def test_iterations_of_one_step_are_those_of_several():
    (x,), rule, closure = made(lr=0.01, max_iter=8, history_size=3)
    first = rule.step(closure)
    np.testing.assert_allclose(x.numpy(), reference(8, 0.01, 3)[-1], rtol=1e-9)
    assert first.item() == pytest.approx(float(rosenbrock(np.array(START))))
    assert rule.memory.func_evals == 8


def test_the_line_search_satisfies_the_conditions_of_wolfe():
    (x,), rule, closure = made(max_iter=1, line_search_fn="strong_wolfe")
    for _ in range(12):
        before = x.numpy()
        rule.step(closure)
        d, g = rule.memory.direction.numpy(), slope(before)
        t, start = rule.memory.t, d @ g
        np.testing.assert_allclose(x.numpy(), before + t * d, rtol=1e-12)
        fall = rosenbrock(before) + 1e-4 * t * start
        assert rosenbrock(x.numpy()) <= fall + 1e-12
        assert abs(d @ slope(x.numpy())) <= 0.9 * abs(start) + 1e-12


def test_it_finds_the_minimum(device):
    params, rule, closure = made(
        device, "float32", 2, max_iter=60, line_search_fn="strong_wolfe"
    )
    for _ in range(3):
        rule.step(closure)
    found = np.concatenate([p.numpy() for p in params])
    # The valley is flat: a loss of 1e-8, float32's rounding, is 1e-3 away.
    np.testing.assert_allclose(found, np.ones(4), atol=5e-3)
    assert all(p.dtype == pn.float32 and p.device == device for p in params)


def test_a_closure_may_be_compiled_inside(device):
    pn.manual_seed(0)
    layer = nn.Linear(3, 1).to(device)
    rule = optim.LBFGS(layer.parameters(), line_search_fn="strong_wolfe")
    x = pn.tensor(
        np.random.default_rng(0).normal(size=(20, 3)), dtype="float32", device=device
    )
    y = x @ pn.tensor([[1.0], [-2.0], [0.5]], device=device) + 3.0

    @pn.compile
    def closure():
        rule.zero_grad()
        loss = nn.functional.mse_loss(layer(x), y)
        loss.backward()
        return loss.detach()

    for _ in range(3):
        rule.step(closure)
    np.testing.assert_allclose(layer.weight.numpy(), [[1.0, -2.0, 0.5]], atol=1e-3)
    np.testing.assert_allclose(layer.bias.numpy(), [3.0], atol=1e-3)


def test_it_goes_on_from_its_state(tmp_path):
    (x,), rule, closure = made(
        max_iter=4, history_size=3, line_search_fn="strong_wolfe"
    )
    assert rule.state_dict()["state"] == {}
    rule.step(closure)
    (twin,), other, its = made(
        max_iter=4, history_size=3, line_search_fn="strong_wolfe"
    )
    pn.save({"rule": rule.state_dict(), "x": x.detach()}, tmp_path / "state")
    saved = pn.load(tmp_path / "state")
    other.load_state_dict(saved["rule"])
    twin.assign(saved["x"])
    for _ in range(2):
        rule.step(closure), other.step(its)
        assert twin.tolist() == x.tolist()
    assert other.memory.func_evals == rule.memory.func_evals
    small = optim.LBFGS([nn.Parameter([1.0])], max_iter=4)
    with pytest.raises(
        ValueError, match=r"LBFGS: load_state_dict: a direction of \(4,\)"
    ):
        small.load_state_dict(rule.state_dict())


def test_it_stops_early():
    p = nn.Parameter([1.0])
    rule, calls = optim.LBFGS([p], max_iter=50), []

    def closure():
        calls.append(1)
        rule.zero_grad()
        loss = (p * p).sum() / 2
        loss.backward()
        return loss

    rule.step(closure)
    assert p.item() == 0.0 and len(calls) == 2  # the first step is at the minimum
    rule.step(closure)
    assert len(calls) == 3
    unused = nn.Parameter([2.0])
    both = optim.LBFGS([p, unused])
    both.step(closure)
    assert unused.item() == 2.0


def test_a_loss_that_is_no_number_ends_the_search():
    p = nn.Parameter([1.0])
    rule = optim.LBFGS([p], line_search_fn="strong_wolfe")

    def closure():
        rule.zero_grad()
        loss = (p.log() * float("nan")).sum()
        loss.backward()
        return loss

    rule.step(closure)  # returns


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": -1.0}, "LBFGS: lr must be at least 0"),
        ({"max_iter": 0}, "LBFGS: max_iter is an integer of at least 1, not 0"),
        ({"history_size": 1.5}, "LBFGS: history_size is an integer"),
        ({"tolerance_grad": -1.0}, "LBFGS: tolerance_grad must be at least 0"),
        (
            {"line_search_fn": "armijo"},
            "LBFGS: line_search_fn is None or 'strong_wolfe'",
        ),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        optim.LBFGS([nn.Parameter([1.0])], **options)


def test_what_it_can_not_do_is_refused():
    p, q = nn.Parameter([1.0]), nn.Parameter(pn.ones(1, dtype=pn.float16))
    with pytest.raises(ValueError, match="LBFGS: one group of parameters of one dtype"):
        optim.LBFGS([p, q])
    with pytest.raises(ValueError, match="not 2 groups"):
        optim.LBFGS([{"params": [p]}, {"params": [q]}])
    rule = optim.LBFGS([p])
    with pytest.raises(TypeError, match="LBFGS: step needs a closure"):
        rule.step()

    @pn.compile
    def step(x):
        def closure():
            rule.zero_grad()
            loss = (p * x).sum()
            loss.backward()
            return loss

        return rule.step(closure)

    with pytest.raises(RuntimeError, match="compile: .* reads the value of a tensor"):
        step(pn.ones(1))
