"""What those who come from PyTorch type first: it works, or the error says what does."""

import numpy as np
import pytest

import portanet as pn
from portanet import nn
from portanet.nn import functional as F
from portanet.renames import FUNCTIONS, METHODS

X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2

SAME = {
    "view": lambda x: (x.view(3, 2), X.reshape(3, 2)),
    "view(-1)": lambda x: (x.view(-1), X.reshape(-1)),
    "view_as": lambda x: (x.view_as(pn.ones((3, 2))), X.reshape(3, 2)),
    "expand_as": lambda x: (x[:1].expand_as(x), np.broadcast_to(X[:1], (2, 3))),
    "contiguous": lambda x: (x.T.contiguous(), X.T),
    "t": lambda x: (x.t(), X.T),
    "unbind": lambda x: (x.unbind(1)[2], X[:, 2]),
    "unflatten": lambda x: (x.unflatten(1, (3, 1)), X.reshape(2, 3, 1)),
    "unflatten -1": lambda x: (x.unflatten(-1, (1, -1)), X.reshape(2, 1, 3)),
    "narrow": lambda x: (x.narrow(1, 1, 2), X[:, 1:]),
    "narrow from the end": lambda x: (x.narrow(1, -2, 1), X[:, 1:2]),
    "select": lambda x: (x.select(1, -1), X[:, -1]),
    "repeat_interleave": lambda x: (x.repeat_interleave(2, dim=1), X.repeat(2, 1)),
    "clamp": lambda x: (x.clamp(-1, 1), X.clip(-1, 1)),
    "clamp min": lambda x: (x.clamp(min=0), X.clip(0, None)),
    "masked_fill": lambda x: (x.masked_fill(x > 0, -9.0), np.where(X > 0, -9, X)),
    "cumsum": lambda x: (x.cumsum(1), X.cumsum(1)),
    "cumprod": lambda x: (x.cumprod(0), X.cumprod(0)),
    "tril": lambda x: (x.tril(-1), np.tril(X, -1)),
    "triu": lambda x: (x.triu(1), np.triu(X, 1)),
    "softmax": lambda x: (x.softmax(dim=1).sum(1), np.ones(2)),
    "log_softmax": lambda x: (x.log_softmax(-1).exp().sum(1), np.ones(2)),
    "index_select": lambda x: (x.index_select(1, pn.tensor([2, 0])), X[:, [2, 0]]),
    "gather": lambda x: (x.gather(1, pn.tensor([[2], [0]])), X[[0, 1], [2, 0]][:, None]),
    "gather of less": lambda x: (x.gather(0, pn.tensor([[1, 0]])), [[X[1, 0], X[0, 1]]]),
    "float": lambda x: (x.int().float(), X),
    "bool": lambda x: (x.bool().int(), X != 0),
    "type_as": lambda x: (x.type_as(pn.ones(1, dtype="int32")), X),
    "sum dim": lambda x: (x.sum(dim=1), X.sum(1)),
    "mean keepdim": lambda x: (x.mean(1, keepdim=True), X.mean(1, keepdims=True)),
    "pn.sum dim": lambda x: (pn.sum(x, dim=(0, 1)), X.sum()),
    "pn.concat dim": lambda x: (pn.concat([x, x], dim=1), np.concatenate([X, X], 1)),
    "pn.stack dim": lambda x: (pn.stack([x, x], dim=2), np.stack([X, X], 2)),
    "F.softmax dim": lambda x: (F.softmax(x, dim=0).sum(0), np.ones(3)),
    "F.relu": lambda x: (F.relu(x, inplace=True), X.clip(0, None)),
    "F.relu6": lambda x: (F.relu6(x * 4, inplace=True), (X * 4).clip(0, 6)),
    "F.leaky_relu": lambda x: (F.leaky_relu(x, 0.5, inplace=True), np.where(X > 0, X, X / 2)),
    "F.dropout": lambda x: (F.dropout(x, 0.5, False, inplace=True), X),
    "F.pad": lambda x: (F.pad(x, (1, 2)), np.pad(X, ((0, 0), (1, 2)))),
    "F.pad of two": lambda x: (F.pad(x, (1, 0, 0, 2), value=7.0),
                               np.pad(X, ((0, 2), (1, 0)), constant_values=7)),
    "F.pad that cuts": lambda x: (F.pad(x, (-1, 1)), np.pad(X[:, 1:], ((0, 0), (0, 1)))),
    "F.pad reflect": lambda x: (F.pad(x, (2, 1), "reflect"),
                                np.pad(X, ((0, 0), (2, 1)), "reflect")),
    "F.pad replicate": lambda x: (F.pad(x, [1, 3], mode="replicate"),
                                  np.pad(X, ((0, 0), (1, 3)), "edge")),
    "F.pad circular": lambda x: (F.pad(x, (1, 1), mode="circular"),
                                 np.pad(X, ((0, 0), (1, 1)), "wrap")),
    "zeros": lambda x: (pn.zeros(2, 3), np.zeros((2, 3))),
    "ones": lambda x: (pn.ones(2, 3, dtype="int32"), np.ones((2, 3))),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_it_is_as_in_pytorch(name, device):
    with pn.device(device):
        found, want = SAME[name](pn.tensor(X, device=device))
        assert found.device == device
        np.testing.assert_allclose(found.numpy(), want, rtol=1e-6)


@pytest.mark.parametrize("name", SAME)
def test_it_is_so_in_a_compiled_function(name):
    run = pn.compile(lambda x: SAME[name](x)[0])
    x = pn.tensor(X)
    np.testing.assert_allclose(run(x).numpy(), SAME[name](x)[1], rtol=1e-6)


def test_sizes_are_numbers():
    x = pn.ones((2, 3))
    assert (x.dim(), x.numel()) == (2, 6)


def test_a_clone_is_assigned_apart_and_passes_gradients(device):
    x = pn.tensor([1.0, 2.0], device=device, requires_grad=True)
    y = x.clone()
    assert not y.is_leaf
    y[0] = 5.0
    (y * y).sum().backward()
    assert x.tolist() == [1.0, 2.0] and y.tolist() == [5.0, 2.0]
    assert x.grad is not None and x.grad.tolist() == [0.0, 4.0]


def test_gradients_go_through_masked_fill_and_gather(device):
    x = pn.tensor(X, device=device, requires_grad=True)
    at = pn.tensor([[2], [0]], device=device)
    (x.masked_fill(x > 2, 0.0).sum() + 10 * x.gather(1, at).sum()).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 1, 11], [11, 1, 0]]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_another_name_is_named(name):
    assert not hasattr(pn, name)
    with pytest.raises(
        AttributeError, match=f"no attribute '{name}'; here it is "
    ) as e:
        getattr(pn, name)
    said = FUNCTIONS[name].split(",")[0].split(";")[0].partition("(")[0]
    if said.isidentifier():
        assert hasattr(pn, said), e.value


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_can_not_be_says_what_can(name):
    assert not hasattr(pn.ones(2), name)
    with pytest.raises(AttributeError, match=f"Tensor.{name}: "):
        getattr(pn.ones(2), name)


def test_a_device_object_stands_for_its_name(device):
    chosen = pn.device(device)
    assert (
        repr(chosen) == str(device)
        and chosen.type == pn.ones(1, device=device).device.type
    )
    assert nn.Linear(2, 2).to(chosen).weight.device == device
    assert pn.ones(2, device=chosen).to(chosen).device == device


MESSAGES = [
    (lambda: pn.sum(pn.ones(2), 0), TypeError, r"sum: .* it is sum\(x, /, \*, axis=None"),
    (lambda: pn.ones(2).sum(axs=0), TypeError, r"it is sum\(axis=None, \*, dtype=None"),
    (lambda: pn.zeros(), TypeError, r"zeros: a shape is needed; \(\) is that of a single"),
    (lambda: F.dropout(pn.ones(2), 2.0), ValueError, "^dropout: p is a probability"),
    (lambda: F.pad(pn.ones(2), (1, 1, 1, 1)), ValueError, "pad: two widths an axis"),
    (lambda: F.bogus, AttributeError, "no attribute 'bogus'$"),
    (lambda: F.cat, AttributeError, "here it is concat"),
    (lambda: pn.ones(2).masked_fill(pn.ones(2), 0), TypeError, "a mask of bools is needed"),
    (lambda: pn.ones(2, 3).gather(1, pn.ones((3, 1), dtype="int32")), ValueError,
     r"gather: an index of shape \(3, 1\) does not fit \(2, 3\) beside axis 1"),
    (lambda: pn.ones(2).narrow(0, 1, 2), IndexError, "narrow: 2 elements from 1 are not in"),
    (lambda: pn.ones(2).select(0, 5), IndexError, "index 5 is out of range"),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(MESSAGES)))
def test_messages_say_the_way_out(i):
    call, kind, message = MESSAGES[i]
    with pytest.raises(kind, match=message):
        call()
