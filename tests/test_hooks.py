"""Hooks around a module's forward; parts of modules by name, and layers that are exchanged."""

import copy

import pytest

import portanet as pn
from portanet import nn


def test_hooks_see_and_change_what_passes(device):
    layer, seen = nn.Linear(2, 2).to(device), []
    x = pn.ones((1, 2), device=device)
    plain = layer(x)
    double = layer.register_forward_pre_hook(lambda m, args: args[0] * 2)
    layer.register_forward_pre_hook(lambda m, args: seen.append(args[0].tolist()))
    negate = layer.register_forward_hook(lambda m, args, y: -y)
    layer.register_forward_hook(lambda m, args, y: seen.append(m is layer))
    y = layer(x)
    assert seen == [[[2.0, 2.0]], True]
    assert y.tolist() == (-(x * 2 @ layer.weight.T + layer.bias)).tolist()
    double.remove(), negate.remove(), negate.remove()
    assert layer(x).tolist() == plain.tolist()
    assert copy.deepcopy(layer)(x).tolist() == plain.tolist()


def test_a_hook_that_gives_a_tuple_gives_the_arguments():
    class Sum(nn.Module):
        def forward(self, a, b):
            return a + b

    layer = Sum()
    with layer.register_forward_pre_hook(lambda m, args: args[::-1] + ()):
        assert layer(pn.ones(1), pn.zeros(1)).tolist() == [1.0]
    layer.register_forward_pre_hook(lambda m, args: (args[0], args[0]))
    assert layer(pn.ones(1), pn.zeros(1)).tolist() == [2.0]


def test_a_hook_is_no_state():
    layer = nn.Linear(1, 1)
    names = list(layer.state_dict())
    layer.register_forward_hook(lambda m, args, y: None)
    assert list(layer.state_dict()) == names and not list(layer.children())
    with pytest.raises(TypeError, match="hook: a function is expected, not int"):
        layer.register_forward_hook(3)


def test_parts_are_found_by_name():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3)))
    assert model.get_submodule("1.0") is model[1][0]
    assert model.get_submodule("") is model
    assert model.get_parameter("0.weight") is model[0].weight
    assert model.get_buffer("1.0.running_mean") is model[1][0].running_mean
    with pytest.raises(
        AttributeError, match="no parameter '0.wieght'; there is '0.weight'"
    ):
        model.get_parameter("0.wieght")
    with pytest.raises(AttributeError, match="Sequential: there is no module 'bogus'$"):
        model.get_submodule("bogus")


def test_parts_are_registered_by_name():
    class Block(nn.Module):
        def __init__(self):
            self.register_parameter("scale", nn.Parameter([2.0]))
            self.register_parameter("bias", None)
            self.add_module("inner", nn.Linear(1, 1))

    block = Block()
    assert [n for n, _ in block.named_parameters()] == [
        "scale", "inner.weight", "inner.bias",
    ]  # fmt: skip
    assert block.bias is None
    with pytest.raises(TypeError, match="register_parameter: a is a Tensor; make it"):
        block.register_parameter("a", pn.ones(1))


def test_a_module_is_cast_and_moved_by_keyword(device):
    model = nn.Linear(2, 2)
    assert model.half().weight.dtype == pn.float16 and model.float() is model
    assert model.to(device=device, dtype="float32").weight.device == device
    x = pn.ones(2).to(device=device, dtype=pn.float32, non_blocking=True)
    assert x.device == device and model.cpu().weight.device == "cpu"


def test_layers_of_a_sequential_have_names():
    model = nn.Sequential({"first": nn.Linear(2, 3), "act": nn.ReLU()})
    model.add_module("last", nn.Linear(3, 1))
    assert list(model.state_dict()) == [
        "first.weight", "first.bias", "last.weight", "last.bias",
    ]  # fmt: skip
    assert model.last is model[2] and model(pn.ones((1, 2))).shape == (1, 1)
    assert [n for n, _ in model[1:].named_children()] == ["act", "last"]
    model.add_module("act", nn.Tanh())
    assert isinstance(model[1], nn.Tanh) and len(model) == 3
    with pytest.raises(AttributeError, match="no attribute 'second'"):
        _ = model.second
    twin = copy.deepcopy(model)
    assert twin.last.weight.tolist() == model.last.weight.tolist()
    assert twin.last is not model.last


def test_layers_of_a_sequential_are_exchanged():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    model[1] = nn.Tanh()
    model.insert(1, nn.Identity()).extend([nn.Linear(3, 1)])
    names = ["Linear", "Identity", "Tanh", "Linear"]
    assert [type(m).__name__ for m in model] == names
    del model[1]
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    del model[1:]
    assert len(model) == 1
    with pytest.raises(IndexError, match="Sequential: there is no layer 4 among 1"):
        model[4] = nn.ReLU()
    with pytest.raises(TypeError, match="Sequential: layer 0 is a int, not a Module"):
        model[0] = 3


def test_modules_of_a_dict_are_attributes():
    heads = nn.ModuleDict({"low": nn.Linear(1, 2)})
    assert heads.low is heads["low"]
    with pytest.raises(AttributeError, match="no attribute 'high'"):
        _ = heads.high


def test_names_with_one_more_part_in_front_are_explained():
    layer = nn.Linear(2, 2)
    state = {f"module.{name}": v for name, v in layer.state_dict().items()}
    with pytest.raises(ValueError, match="the names begin with 'module.': take it off"):
        layer.load_state_dict(state)
    with pytest.raises(ValueError) as e:
        layer.load_state_dict({"other.thing": pn.ones(1)})
    assert "begin with" not in str(e.value)


def test_the_gradients_of_a_module_are_clipped():
    layer = nn.Linear(1, 1, bias=False)
    (layer(pn.ones((1, 1))) * 4).sum().backward()
    assert nn.utils.clip_grad_norm_(layer, 1.0).item() == 4.0
    nn.utils.clip_grad_value_(layer, 0.5)
    assert layer.weight.grad.item() == 0.5
