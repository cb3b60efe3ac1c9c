"""Averages of weights: the mean, a running mean, buffers, compiled steps, states."""

import copy

import numpy as np
import pytest

import portanet as pn
from portanet import nn, optim
from portanet.optim.swa_utils import AveragedModel, get_ema_avg_fn
from portanet.testing import assert_close


def values(step):
    return np.array([[1.0, -2.0]], np.float32) * (step + 1) ** 2


def trained(average, model, device, steps=4, wrap=lambda f: f):
    run = wrap(
        lambda w: (model.weight.assign(w), average.update_parameters(model)) and None
    )
    for step in range(steps):
        run(pn.tensor(values(step), device=device))


@pytest.mark.parametrize("wrap", [lambda f: f, pn.compile], ids=["eager", "compiled"])
def test_averages_are_those_of_the_formulas(device, wrap):
    for decay in (None, 0.9):
        model = nn.Linear(2, 1).to(device)
        average = AveragedModel(model, avg_fn=decay and get_ema_avg_fn(decay))
        trained(average, model, device, wrap=wrap)
        want = values(0).astype(np.float64)
        for n in range(1, 4):
            part = 1 / (n + 1) if decay is None else 1 - decay
            want = want + (values(n) - want) * part
        assert_close(average.module.weight, want, rtol=1e-6)
        assert average.n_averaged.item() == 4
        assert model.weight.tolist() == values(3).tolist()


def test_buffers_are_copied_or_averaged(device):
    for use_buffers, want in ((False, 4.0), (True, 3.0)):
        model = nn.BatchNorm1d(1).to(device)
        average = AveragedModel(model, use_buffers=use_buffers)
        for value in (2.0, 4.0):
            model.running_mean.assign(pn.full((1,), value, device=device))
            average.update_parameters(model)
        assert average.module.running_mean.tolist() == [want]


def test_a_state_goes_on_and_has_pytorchs_names(device):
    model = nn.Linear(2, 1).to(device)
    average = AveragedModel(model)
    assert sorted(average.state_dict()) == [
        "module.bias",
        "module.weight",
        "n_averaged",
    ]
    trained(average, model, device, 2)
    other = AveragedModel(copy.deepcopy(model))
    other.load_state_dict(average.state_dict())
    for m in (average, other):
        m.update_parameters(model)
    assert other.module.weight.tolist() == average.module.weight.tolist()
    x = pn.ones((1, 2), device=device)
    assert average(x).tolist() == average.module(x).tolist()
    with pytest.raises(ValueError, match=r"decay is in \[0, 1\], not 2"):
        get_ema_avg_fn(2)
    with pytest.raises(ValueError):
        average.update_parameters(nn.Linear(2, 1, bias=False).to(device))
    assert optim.swa_utils.AveragedModel is AveragedModel
