"""Training steps made at random do compiled what they do eagerly: models of layers drawn by a
seed, losses, optimizers, schedulers, clipping, accumulation, a penalty on a gradient.

In float64 rounding is far below the tolerance. To run more, or one that failed:

    python -m tests.test_compile_random_steps cpu float64 0 1000
    python -m tests.test_compile_random_steps wgpu float32 17

In float32 a gradient that is zero but for rounding is made a step by Adam and the like: what
differs there alone is no fault.
"""

import sys

import numpy as np
import pytest

import portanet as pn
from portanet import nn, optim
from portanet.nn import functional as F
from portanet.optim import lr_scheduler
from tests.test_compile_random import report

CLASSES = 5


# A model of (batch, time, width) --------------------------------------------------------


class Shared(nn.Module):
    """One layer used twice, whose gradient is a sum."""

    def __init__(self, width):
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        return pn.tanh(self.layer(x)) + self.layer(x * 0.5)


class Scaled(nn.Module):
    def __init__(self, width):
        self.gain, self.bias = (
            nn.Parameter(pn.ones(width)),
            nn.Parameter(pn.zeros(width)),
        )

    def forward(self, x):
        return x * self.gain + self.bias


class Attended(nn.Module):
    def __init__(self, width):
        self.layer = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x):
        return x + self.layer(x, x, x)[0]


class Recurrent(nn.Module):
    def __init__(self, kind, width):
        self.layer = kind(width, width, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0]


class Rows(nn.Module):
    """A layer over rows, for one that knows no time."""

    def __init__(self, layer):
        self.layer = layer

    def forward(self, x):
        return self.layer(x.reshape(-1, x.shape[-1])).reshape(x.shape)


class Turned(nn.Module):
    def __init__(self, layer):
        self.layer = layer

    def forward(self, x):
        return self.layer(x.mT).mT


class Function(nn.Module):
    def __init__(self, function):
        self.function = function

    def forward(self, x):
        return self.function(x)


def halves(x):
    n = x.shape[-1] // 2
    return pn.concat([x[..., n:] * x[..., :n], x[..., :n][..., ::-1]], axis=-1)


def gathered(x):
    places = np.arange(x.shape[1]) * 3 % x.shape[1]
    return pn.take(x, pn.tensor(places.astype(np.int32), device=x.device), axis=1)


FUNCTIONS = [
    halves,
    gathered,
    lambda x: pn.cumulative_sum(x, axis=1) * 0.3,
    lambda x: pn.softmax(x, axis=1) * 2,
    lambda x: x / (1 + pn.norm(x, axis=-1, keepdims=True)),
    lambda x: pn.einsum("btd,bsd->bts", x, x) @ x * 0.05,
    lambda x: x / pn.sqrt(0.1 + pn.var(x, axis=1, keepdims=True)),
    lambda x: x - x.mean(axis=1, keepdims=True) + x.max(axis=2, keepdims=True),
    lambda x: pn.maximum(x, 0.1 * x) * pn.sigmoid(x),
]
LAYERS = [
    lambda width: nn.Linear(width, width),
    lambda width: nn.Linear(width, width, bias=False),
    lambda width: nn.LayerNorm(width),
    lambda width: nn.RMSNorm(width),
    lambda width: Rows(nn.BatchNorm1d(width)),
    lambda width: nn.GELU(),
    lambda width: nn.ReLU(),
    lambda width: nn.SiLU(),
    lambda width: nn.Tanh(),
    lambda width: nn.Softplus(),
    lambda width: nn.Dropout(0.25),
    lambda width: nn.Dropout(0.0),
    Attended,
    Scaled,
    Shared,
    lambda width: Recurrent(nn.GRU, width),
    lambda width: Recurrent(nn.LSTM, width),
    lambda width: Turned(nn.Conv1d(width, width, 3, padding=1)),
    *[lambda width, f=f: Function(f) for f in FUNCTIONS],
]


# A step -----------------------------------------------------------------------------------


def muon(params):
    params = list(params)
    groups = [{"params": [p for p in params if p.ndim == 2]}]
    groups.append({"params": [p for p in params if p.ndim != 2], "use_muon": False})
    return optim.Muon(groups, lr=0.01)


# eps is large, so that a gradient that is zero but for rounding makes no step.
RULES = [
    lambda p: optim.SGD(p, lr=0.1),
    lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    lambda p: optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.1),
    lambda p: optim.Adam(p, lr=0.01, eps=1e-3),
    lambda p: optim.Adam(p, lr=0.01, eps=1e-3, amsgrad=True),
    lambda p: optim.AdamW(p, lr=0.01, eps=1e-3),
    lambda p: optim.RMSprop(p, lr=0.01, eps=1e-2),
    lambda p: optim.Adagrad(p, lr=0.01, eps=1e-2),
    lambda p: optim.NAdam(p, lr=0.01, eps=1e-3),
    lambda p: optim.RAdam(p, lr=0.01, eps=1e-3),
    lambda p: optim.Adamax(p, lr=0.01, eps=1e-2),
    lambda p: optim.Adadelta(p, eps=1e-2),
    lambda p: optim.LAMB(p, lr=0.01, eps=1e-2),
    muon,
]
SCHEDULERS = [
    lambda rule: None,
    lambda rule: lr_scheduler.ExponentialLR(rule, 0.7),
    lambda rule: lr_scheduler.CosineAnnealingLR(rule, 5),
    lambda rule: lr_scheduler.OneCycleLR(rule, 0.05, total_steps=20),
]
LOSSES = [
    lambda out, y, hot: F.cross_entropy(out.reshape(-1, CLASSES), y.reshape(-1)),
    lambda out, y, hot: F.cross_entropy(out[:, -1], y[:, -1], label_smoothing=0.1),
    lambda out, y, hot: ((out - hot) ** 2).mean(),
    lambda out, y, hot: F.huber_loss(out, hot),
    lambda out, y, hot: F.nll_loss(
        F.log_softmax(out, -1).reshape(-1, CLASSES), y.reshape(-1)
    ),
]


class Step:
    """A training step whose kind is drawn once."""

    def __init__(self, rng, width, dtype, device):
        with pn.device(device):
            layers = [pick(rng, LAYERS)(width) for _ in range(rng.integers(1, 6))]
            self.model = nn.Sequential(*layers, nn.Linear(width, CLASSES)).to(dtype)
        self.rule = pick(rng, RULES)(self.model.parameters())
        self.scheduler = pick(rng, SCHEDULERS)(self.rule)
        self.loss_of = pick(rng, LOSSES)
        self.clip, self.forget, self.kind = (
            rng.integers(4),
            rng.integers(4),
            rng.integers(6),
        )
        self.total = pn.zeros((), dtype=dtype, device=device)

    def loss(self, x, y):
        out = self.model(x)
        return self.loss_of(out, y, F.one_hot(y, CLASSES).astype(out.dtype))

    def backward(self, x, y):
        if self.kind == 0:  # of two halves
            n = len(x) // 2
            for part in (slice(None, n), slice(n, None)):
                loss = self.loss(x[part], y[part]) * 0.5
                loss.backward()
            return loss
        if self.kind == 1:  # a penalty on the gradient
            x = x.detach().requires_grad_()
            loss = self.loss(x, y)
            (g,) = pn.gradients(loss, [x], create_graph=True)
            loss = loss + (g * g).sum()
        else:
            loss = self.loss(x, y)
        loss.backward()
        return loss

    def __call__(self, x, y):
        if self.forget == 0:
            self.rule.zero_grad()
        loss, found = self.backward(x, y).detach(), []
        if self.clip == 0:
            found.append(nn.utils.clip_grad_norm_(self.model.parameters(), 0.5))
        elif self.clip == 1:
            nn.utils.clip_grad_value_(self.model.parameters(), 0.05)
        self.rule.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.forget in (1, 2):
            self.rule.zero_grad(set_to_none=self.forget == 1)
        self.total.assign(self.total + loss)
        return loss, self.total, *found

    def states(self):
        params = list(self.model.parameters())
        kept = [
            s for p in params for _, s in sorted(self.rule.state.get(p, {}).items())
        ]
        return [*params, *self.model.buffers(), *(p.grad for p in params), *kept]


def pick(rng, options):
    return options[rng.integers(len(options))]


# Both ways ----------------------------------------------------------------------------------


def trained(seed, device, dtype, wrap):
    """What four steps give, and all that they leave."""
    rng = np.random.default_rng(seed)
    pn.manual_seed(seed)
    width = int(pick(rng, (4, 8, 12)))
    step = Step(rng, width, dtype, device)
    run, found = wrap(step), []
    for batch, time in ((4, 5), (4, 5), (6, 5), (4, 3)):
        x = pn.tensor(rng.normal(size=(batch, time, width)), dtype, device)
        labels = rng.integers(0, CLASSES, (batch, time)).astype(np.int32)
        if time == 3:
            step.model.train(bool(rng.integers(2)))
        results = run(x, pn.tensor(labels, device=device))
        found.append([*results, *step.states()])
        found[-1] = [None if t is None else t.numpy() for t in found[-1]]
    return found


def check(seed, device, dtype):
    """AssertionError where the compiled step is another one."""
    options = pick(
        np.random.default_rng(seed + 1),
        [{}, {}, {"memory_limit": 1 << 30}, {"verify": True}],
    )
    want = trained(seed, device, dtype, lambda step: step)
    got = trained(seed, device, dtype, lambda step: pn.compile(step, **options))
    bound = 1e-8 if dtype == "float64" else 2e-3
    for k, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert (a is None) == (b is None), f"call {k}, value {i}: {a} for {b}"
            if b is not None and np.isfinite(b).all():
                scale = max(1e-2, np.abs(b).max(initial=0))
                message = f"call {k}, value {i}"
                np.testing.assert_allclose(a, b, 0, bound * scale, err_msg=message)


@pytest.mark.parametrize("seed", range(16))
def test_a_random_training_step_does_what_it_does_eagerly(seed):
    check(seed, "cpu", "float64")


def main(device, dtype, first, last=None):
    report(lambda seed: check(seed, device, dtype), first, last)


if __name__ == "__main__":
    main(*sys.argv[1:])
