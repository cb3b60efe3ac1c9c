"""Replays: where results go, what they allocate, how much work a submit holds."""

import numpy as np
import pytest

import portanet as pn
from portanet import nn, optim
from portanet.compiler import reuse


def perceptron(device, optimizer=optim.Adam, sizes=(20, 16, 16, 4)):
    """A compiled training step, its parameters, and a batch."""
    pn.manual_seed(0)
    with pn.device(device):
        layers = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(a, b), nn.ReLU()]
        model = nn.Sequential(*layers[:-1])
        x, y = pn.randn(8, sizes[0]), pn.randint(0, sizes[-1], (8,))
    rule = optimizer(model.parameters(), lr=1e-2)

    def step(x, y):
        rule.zero_grad()
        loss = pn.cross_entropy(model(x), y)
        loss.backward()
        rule.step()
        return loss.detach()

    return step, list(model.parameters()), (x, y)


def last_plan(run):
    return [t for found in run.traces.values() for t in found][-1].plan


def test_a_replayed_training_step_allocates_its_loss_alone(monkeypatch):
    step, parameters, batch = perceptron("cpu")
    run = pn.compile(step)
    for _ in range(3):
        run(*batch)
    plan, asked = last_plan(run), []
    real = type(plan.backend).alloc

    def alloc(self, nbytes):
        asked.append(nbytes)
        return real(self, nbytes)

    monkeypatch.setattr(type(plan.backend), "alloc", alloc)
    arrays = [(id(p.value), id(p.grad)) for p in parameters]
    for _ in range(5):
        run(*batch)
    assert asked == [4] * 5
    assert [(id(p.value), id(p.grad)) for p in parameters] == arrays


def test_what_a_gradient_was_stays_with_who_holds_it(device):
    step, parameters, batch = perceptron(device)
    run = pn.compile(step)
    for _ in range(3):
        run(*batch)
    tensor, view = parameters[0].grad, parameters[2].grad.T
    before = tensor.numpy(), view.numpy()
    for _ in range(3):
        run(*batch)
    np.testing.assert_array_equal(tensor.numpy(), before[0])
    np.testing.assert_array_equal(view.numpy(), before[1])
    assert (parameters[0].grad.numpy() != before[0]).any()


class Holder:
    """Stands for a tensor, a leaf and an array."""

    def __init__(self, **fields):
        self.__dict__.update(fields)


@pytest.mark.parametrize("where", ["here", "in C"])
@pytest.mark.parametrize("is_grad", [False, True])
def test_memory_is_taken_where_nobody_else_holds_it(where, is_grad):
    from portanet import _c

    take = _c.take if where == "in C" else reuse.take
    seen, other = object(), object()

    def owners():
        made = []
        for wanted in (seen, seen, other, seen, seen):
            tensor = Holder(value=Holder(buffer=Holder(), layout=wanted))
            made.append(Holder(grad=tensor) if is_grad else tensor)
        return made

    def value(owner):
        return owner.grad.value if is_grad else owner.value

    made = owners()
    held = [value(made[1]), value(made[3]).buffer]
    olds = tuple(reuse.Old(k, o, is_grad, 1, seen) for k, o in enumerate(made))
    buffers = [None] * 5
    assert take(olds, buffers) == [1, 2, 3] and len(held) == 2
    assert buffers == [value(made[0]).buffer, None, None, None, value(made[4]).buffer]


def test_a_gradient_that_is_none_has_no_memory_to_take():
    from portanet import _c

    olds = (reuse.Old(0, Holder(grad=None), True, 1, None),)
    assert _c.take(olds, [None]) == reuse.take(olds, [None]) == [0]
