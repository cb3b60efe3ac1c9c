"""Arguments of compiled functions that are assigned, or get gradients."""

import numpy as np
import pytest

import portanet as pn
from portanet import nn
from portanet.compiler.lazy import TraceError


def both(function, device, make, calls=4):
    """What an eager and a compiled function return, and what becomes of their arguments."""
    found = []
    for wrap in (lambda f: f, pn.compile):
        rng = np.random.default_rng(0)
        run, args, seen = wrap(function), make(rng, device), []
        for _ in range(calls):
            made = run(*args)
            made = made if isinstance(made, tuple) else (made,)
            seen += [t.numpy() for t in made if t is not None]
            seen += [t.numpy() for t in args]
            seen += [t.grad.numpy() if t.grad is not None else np.nan for t in args]
        found.append(seen)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
    return run


def pair(rng, device, grad=False):
    made = [pn.tensor(rng.normal(size=(5, 5)).astype("float32"), device=device)
            for _ in range(2)]  # fmt: skip
    made[0].requires_grad = grad
    return made


def leaf_and_data(rng, device):
    return pair(rng, device, grad=True)


def assigned(x, y):
    x.assign(x * 0.5 + y)
    return x.sum()


def set_item(x, y):
    x[1:3] = y[:2] * 2
    x[0, 0] = 7.0
    return y.sum(), x * 1


def exchanged(x, y):
    old = x.detach()
    x.assign(y)
    y.assign(old)


@pytest.mark.parametrize("function", [assigned, set_item, exchanged])
def test_arguments_are_assigned(function, device):
    both(function, device, pair)


def added_up(w, x):
    (pn.tanh(x @ w) ** 2).sum().backward()


def anew(w, x):
    w.grad = None
    loss = (x @ w).sum()
    loss.backward()
    return loss.detach()


def trained(w, x):
    loss = ((x @ w - 1) ** 2).mean()
    loss.backward()
    with pn.no_grad():
        w.assign(w - 0.1 * w.grad)
        w.grad = None
    return loss.detach()


def asked_inside(x, y):
    x.requires_grad_()
    x.grad = None
    (x * y).sum().backward()
    return x.grad * 2


@pytest.mark.parametrize("function", [added_up, anew, trained])
def test_a_leaf_that_is_an_argument_gets_its_gradient(function, device):
    run = both(function, device, leaf_and_data)
    assert len(run.reasons) <= 2


def test_an_argument_may_become_a_leaf_inside(device):
    both(asked_inside, device, pair)


def test_another_leaf_gets_its_own_gradient(device):
    """As in a search for adversarial examples: a new leaf for each call, one trace."""
    w = pn.full((3,), 2.0, device=device)
    run = pn.compile(lambda x: (x * x * w).sum().backward())
    for k in range(4):
        x = pn.full((3,), float(k), device=device).requires_grad_()
        run(x)
        assert (x.grad.numpy() == 4 * k).all()
    assert len(run.reasons) == 1


def test_a_plain_tensor_and_a_leaf_are_two_traces(device):
    run = pn.compile(lambda x: pn.zeros(2) if x.requires_grad else pn.ones(2))
    x = pn.ones(3, device=device)
    assert run(x).tolist() == [1, 1]
    assert run(x.requires_grad_()).tolist() == [0, 0]


def test_verify_compares_what_becomes_of_arguments(device):
    w, x = leaf_and_data(np.random.default_rng(0), device)
    eager, data = leaf_and_data(np.random.default_rng(0), device)
    run = pn.compile(trained, verify=True)
    for _ in range(3):
        assert run(w, x).item() == pytest.approx(trained(eager, data).item(), rel=1e-5)
    np.testing.assert_allclose(w.numpy(), eager.numpy(), rtol=1e-5)


def test_an_argument_that_has_two_names_is_refused(device):
    x = pn.ones(3, device=device)
    run = pn.compile(lambda a, b: a.assign(a + b))
    with pytest.raises(TraceError, match="argument 0 is assigned .* by another name"):
        run(x, x)
    run(x, x * 1)
    with pytest.raises(TraceError, match="another name"):
        run(x, x)
    assert (x.numpy() == 2).all()
    outer = pn.compile(lambda a: a.assign(x + a))
    with pytest.raises(TraceError, match="another name"):
        outer(x)


def test_an_argument_with_a_history_is_refused_with_the_cure(device):
    x = pn.ones(3, device=device).requires_grad_()
    run = pn.compile(lambda a: (a * 2).detach())
    with pytest.raises(
        TraceError, match=r"argument 0 is a result with a history.*detach"
    ):
        run(x * 2)
    assert (run((x * 2).detach()).numpy() == 4).all()
    with pn.no_grad():
        assert (run(x * 2).numpy() == 4).all()


def test_a_result_with_a_history_from_an_argument_is_refused(device):
    x = pn.ones(3, device=device).requires_grad_()
    with pytest.raises(TraceError, match="result 0 still has a history"):
        pn.compile(lambda a: a * 2)(x)


def test_a_cache_that_is_an_argument_is_filled(device):
    """A step of generation that writes a row of its cache."""
    pn.manual_seed(0)
    layer = nn.Linear(4, 4).to(device)

    @pn.compile
    @pn.no_grad()
    def step(x, cache, at):
        rows = pn.arange(6, device=device).reshape(6, 1)
        cache.assign(pn.where(rows == at, layer(x), cache))
        return cache.sum(axis=0)

    cache = pn.zeros((6, 4), device=device) * 1
    x = pn.ones((1, 4), device=device)
    for k in range(6):
        step(x, cache, pn.tensor(k, dtype=pn.int32, device=device))
    wanted = layer(x).numpy()
    for row in cache.numpy():
        np.testing.assert_allclose(row, wanted[0], rtol=1e-5)


def test_a_function_that_assigns_to_its_argument_is_not_exported(tmp_path):
    with pytest.raises(TraceError, match="assigns to its argument 0"):
        pn.export(assigned, tuple(pair(np.random.default_rng(0), "cpu")),
                  tmp_path / "a.pnx")  # fmt: skip
