"""Computed parameters: weight norm, spectral norm, functions of one's own."""

import copy
import pickle

import numpy as np
import pytest

import portanet as pn
from portanet import nn, optim
from portanet.nn.utils import parametrizations, parametrize
from portanet.testing import assert_close


class Double(nn.Module):
    def forward(self, x):
        return x * 2

    def right_inverse(self, x):
        return x / 2


class Plus(nn.Module):
    def forward(self, x):
        return x + 1


def test_weight_norm_keeps_the_weight_and_trains_length_and_direction(device):
    layer = nn.Conv2d(3, 4, 2).to(device)
    w = layer.weight.numpy()
    x = pn.ones((1, 3, 4, 4), device=device)
    y = layer(x).numpy()
    assert parametrizations.weight_norm(layer) is layer
    assert_close(layer(x), y, rtol=1e-5, atol=1e-6)
    assert sorted(n for n, _ in layer.named_parameters()) == [
        "bias",
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
    ]
    g = layer.parametrizations.weight.original0
    assert g.shape == (4, 1, 1, 1)
    assert_close(g, np.sqrt((w**2).sum((1, 2, 3), keepdims=True)), rtol=1e-6)
    (layer.weight * pn.ones_like(layer.weight)).sum().backward()
    direction = w / np.sqrt((w**2).sum((1, 2, 3), keepdims=True))
    assert_close(g.grad, direction.sum((1, 2, 3), keepdims=True), rtol=1e-5, atol=1e-6)
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Conv2d and [n for n, _ in layer.named_parameters()] == [
        "bias", "weight",
    ]  # fmt: skip
    assert_close(layer.weight, w, rtol=1e-6)


def test_weight_norm_of_all_and_of_another_axis():
    for dim, shape in ((None, (1, 1)), (1, (1, 3)), (-1, (1, 3))):
        layer = parametrizations.weight_norm(nn.Linear(3, 2), dim=dim)
        assert layer.parametrizations.weight.original0.shape == shape


def test_spectral_norm_divides_by_the_largest_singular_value(device):
    for layer in (nn.Linear(5, 4), nn.ConvTranspose2d(3, 4, 2)):
        layer = parametrizations.spectral_norm(layer.to(device), n_power_iterations=20)
        for _ in range(10):
            w = layer.weight
        assert not w.is_leaf
        dim = 0 if w.ndim == 2 else 1
        matrix = np.moveaxis(w.numpy(), dim, 0).reshape(w.shape[dim], -1)
        assert abs(np.linalg.norm(matrix, 2) - 1) < 1e-3
        u = layer.get_buffer("parametrizations.weight.0._u").tolist()
        layer.eval()
        assert layer.weight.tolist() == layer.weight.tolist()
        assert layer.get_buffer("parametrizations.weight.0._u").tolist() == u


def test_the_gradient_of_spectral_norm_is_that_with_fixed_vectors():
    layer = parametrizations.spectral_norm(nn.Linear(3, 3)).eval()
    original = layer.parametrizations.weight.original
    held = layer.parametrizations.weight[0]
    u, v, w = (np.float64(t.numpy()) for t in (held._u, held._v, original))
    layer.weight.sum().backward()
    sigma = u @ w @ v
    want = 1 / sigma - w.sum() / sigma**2 * np.outer(u, v)
    assert_close(original.grad, want, rtol=1e-4, atol=1e-5)


def test_functions_are_applied_in_turn():
    layer = nn.Linear(2, 2)
    w = layer.weight.numpy()
    parametrize.register_parametrization(layer, "weight", Double())
    parametrize.register_parametrization(layer, "weight", Plus())
    parametrize.register_parametrization(layer, "bias", Plus())
    assert_close(layer.weight, w + 1, rtol=1e-6)
    assert parametrize.is_parametrized(layer, "bias") and parametrize.is_parametrized(
        layer
    )
    assert type(layer).__name__ == "ParametrizedLinear"
    parametrize.remove_parametrizations(layer, "bias")
    assert not parametrize.is_parametrized(layer, "bias")
    assert_close(layer.weight, w + 1, rtol=1e-6)


def test_copies_and_states_go_on():
    layer = parametrizations.weight_norm(nn.Linear(3, 2))
    other = parametrizations.weight_norm(nn.Linear(3, 2))
    other.load_state_dict(layer.state_dict())
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.weight.tolist() == layer.weight.tolist()
        assert isinstance(twin, nn.Linear) and parametrize.is_parametrized(twin)


def test_a_compiled_step_trains_what_is_computed(device):
    ends = []
    for wrap in (lambda f: f, pn.compile):
        pn.manual_seed(0)
        model = nn.Sequential(
            parametrizations.weight_norm(nn.Linear(3, 4)),
            parametrizations.spectral_norm(nn.Linear(4, 1)),
        ).to(device)
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def step(x, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss

        run = wrap(step)
        x = pn.randn(8, 3, device=device)
        ends.append([run(x).item() for _ in range(5)])
    assert_close(np.array(ends[0]), np.array(ends[1]), rtol=1e-5)


def test_bad_calls_are_refused():
    layer = nn.Linear(2, 2)
    bad = [
        (
            lambda: parametrize.register_parametrization(layer, "w", Plus()),
            "no parameter 'w'",
        ),
        (
            lambda: parametrize.remove_parametrizations(layer, "weight"),
            "is not computed",
        ),
        (lambda: parametrizations.spectral_norm(layer, "bias"), "no matrix"),
        (
            lambda: parametrizations.spectral_norm(layer, n_power_iterations=0),
            "at least 1",
        ),
        (
            lambda: parametrize.register_parametrization(
                layer, "weight", nn.Flatten(0)
            ),
            r"weight is \(2, 2\), the function gives \(4,\)",
        ),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()
    assert [n for n, _ in layer.named_parameters()] == ["weight", "bias"]
    parametrizations.weight_norm(layer)
    with pytest.raises(AttributeError, match="weight is computed; assign to"):
        layer.weight = nn.Parameter(pn.ones((2, 2)))
    with pytest.raises(ValueError, match="with a right_inverse comes first"):
        parametrizations.weight_norm(layer)


def test_a_vector_of_parameters_goes_there_and_back(device):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).to(device)
    vector = nn.utils.parameters_to_vector(model.parameters())
    assert vector.shape == (11,) and vector.requires_grad
    nn.utils.vector_to_parameters(
        pn.arange(11, device=device).float(), model.parameters()
    )
    assert model[0].bias.tolist() == [6.0, 7.0] and model[1].bias.tolist() == [10.0]
    with pytest.raises(ValueError, match=r"11 elements are needed, got shape \(10,\)"):
        nn.utils.vector_to_parameters(pn.ones(10), model.parameters())


def test_starts_are_what_they_say(device):
    pn.manual_seed(0)
    w = nn.init.trunc_normal_(pn.zeros((100, 100), device=device), 1.0, 2.0, -1.0, 2.0)
    x = (w.numpy() - 1) / 2
    assert -1 <= x.min() and x.max() <= 0.5
    # Of a normal in [-1, 0.5]: mean (phi(-1) - phi(0.5)) / (Phi(0.5) - Phi(-1)).
    assert abs(x.mean() - (0.24197 - 0.35207) / (0.69146 - 0.15866)) < 0.02
    for shape in ((3, 5), (5, 3), (4, 2, 2)):
        q = nn.init.orthogonal_(pn.zeros(shape, device=device), gain=2.0).numpy()
        q = q.reshape(shape[0], -1)
        gram = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
        assert_close(gram, 4 * np.eye(len(gram)), atol=1e-5)
    assert (
        nn.init.eye_(pn.zeros((2, 3), device=device)).tolist() == np.eye(2, 3).tolist()
    )
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False).to(device)
    nn.init.dirac_(layer.weight, groups=2)
    x = pn.randn(1, 4, 5, 5, device=device)
    assert_close(layer(x), x.numpy(), rtol=1e-6)
    for call in (
        lambda: nn.init.trunc_normal_(pn.zeros(2), a=1.0, b=1.0),
        lambda: nn.init.eye_(pn.zeros(2)),
        lambda: nn.init.orthogonal_(pn.zeros(2)),
        lambda: nn.init.dirac_(pn.zeros((3, 1, 1)), 2),
    ):
        with pytest.raises(ValueError):
            call()
