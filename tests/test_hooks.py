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


# Gradients -------------------------------------------------------------------------------


def test_hooks_of_a_tensor_see_and_change_its_gradient(device):
    x = pn.tensor([1.0, 2.0], device=device, requires_grad=True)
    y = x * 3
    z = y * y  # before the hook is registered
    seen = []
    handle = y.register_hook(lambda g: seen.append(g.tolist()))
    double = x.register_hook(lambda g: g * 2)
    (z + y).sum().backward(retain_graph=True)
    assert seen == [[7.0, 13.0]]  # 2 y + 1: all that comes, at once
    assert x.grad.tolist() == [42.0, 78.0]
    handle.remove(), double.remove(), double.remove()
    x.grad = None
    (z + y).sum().backward()
    assert len(seen) == 1 and x.grad.tolist() == [21.0, 39.0]


def test_hooks_run_in_order_and_before_gradients_are_added_up():
    x = pn.ones(1, requires_grad=True)
    x.register_hook(lambda g: g + 1)
    with x.register_hook(lambda g: g * 10):
        (x * 2).sum().backward()
        (x * 2).sum().backward()
    assert x.grad.tolist() == [60.0]
    (g,) = pn.gradients((x * 2).sum(), [x])
    assert g.tolist() == [3.0]


def test_the_hook_of_one_of_several_results_sees_its_gradient():
    x = pn.tensor([1.0, 2.0, 3.0], requires_grad=True)
    a, b = x.split((1, 2))
    b.register_hook(lambda g: g * 5)
    (a.sum() + b.sum()).backward()
    assert x.grad.tolist() == [1.0, 5.0, 5.0]


def test_hooks_are_recorded_with_create_graph(device):
    x = pn.tensor(2.0, device=device, requires_grad=True)
    y = x * x
    y.register_hook(lambda g: g * x)
    (g,) = pn.gradients(y, [x], create_graph=True)
    (again,) = pn.gradients(g, [x])
    assert (g.item(), again.item()) == (8.0, 8.0)  # 2 x * x, and its derivative 4 x


def test_hooks_that_can_not_be_are_refused():
    with pytest.raises(
        RuntimeError, match="register_hook: the tensor does not require"
    ):
        pn.ones(1).register_hook(print)
    x = pn.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match="hook: a function is expected, not int"):
        x.register_hook(3)
    with (
        x.register_hook(lambda g: 3),
        pytest.raises(TypeError, match="register_hook: a hook gives a tensor or None"),
    ):
        x.sum().backward()
    with (
        x.register_hook(lambda g: g[:1]),
        pytest.raises(ValueError, match=r"register_hook: the hook gave \(1,\) float32"),
    ):
        x.sum().backward()


def test_hooks_of_a_modules_backward_see_and_change_gradients(device):
    layer, seen = nn.Linear(2, 1, bias=False).to(device), []
    nn.init.constant_(layer.weight, 3.0)
    x = pn.ones((1, 2), device=device, requires_grad=True)

    def look(module, gx, gy):
        seen.append((module is layer, gx[0].tolist(), gy[0].tolist()))

    first = layer.register_full_backward_hook(look)
    layer.register_full_backward_hook(lambda m, gx, gy: (gx[0] * 10,))
    before = layer.register_full_backward_pre_hook(lambda m, gy: gy[0] * 2)
    layer(x).sum().backward()
    assert seen == [(True, [[6.0, 6.0]], [[2.0]])]
    assert x.grad.tolist() == [[60.0, 60.0]]
    assert layer.weight.grad.tolist() == [[2.0, 2.0]]
    first.remove(), before.remove()
    x.grad = None
    layer(x).sum().backward()
    assert len(seen) == 1 and x.grad.tolist() == [[30.0, 30.0]]


def test_a_modules_hooks_are_called_once_for_several_arguments_and_results():
    class Both(nn.Module):
        def forward(self, a, scale, b):
            return {"sum": (a + b) * scale, "product": a * b}

    module, seen = Both(), []
    module.register_full_backward_hook(
        lambda m, gx, gy: seen.append(
            [g if g is None else g.item() for g in (*gx, *gy)]
        )
    )
    a, b = (pn.tensor(v, requires_grad=True) for v in (2.0, 5.0))
    for _ in range(2):
        y = module(a, 3.0, b)
        (y["sum"] + y["product"]).backward()
    assert seen == [[8.0, None, 5.0, 1.0, 1.0]] * 2
    assert (a.grad.item(), b.grad.item()) == (16.0, 10.0)
    with pn.no_grad():
        module(a, 3.0, b)


def test_a_modules_hooks_are_called_where_no_argument_has_a_gradient():
    layer, seen = nn.Linear(1, 1), []
    layer.register_full_backward_hook(
        lambda m, gx, gy: seen.append((gx, gy[0].tolist()))
    )
    layer(pn.ones((1, 1))).sum().backward()
    assert seen == [((None,), [[1.0]])]
    layer.register_full_backward_hook(lambda m, gx, gy: (gx[0], gx[0]))
    with pytest.raises(
        ValueError, match="register_full_backward_hook: the hook gave 2"
    ):
        layer(pn.ones((1, 1), requires_grad=True)).sum().backward()


def test_a_modules_hooks_are_recorded_with_create_graph():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    x = pn.tensor([[2.0]], requires_grad=True)
    layer.register_full_backward_hook(lambda m, gx, gy: (gx[0] * x,))
    (g,) = pn.gradients((layer(x) ** 2).sum(), [x], create_graph=True)
    (again,) = pn.gradients(g.sum(), [x])
    # 2 * 9 x times x, and the hook again on the way back through the layer: the derivative
    # 36 x, of which the part that goes through the layer, 18 x, is times x once more.
    assert g.item() == 72.0
    assert again.item() == 18 * 2.0 + 18 * 2.0 * 2.0


def test_what_hooks_compute_is_in_a_compiled_step(device):
    layer, calls = nn.Linear(2, 1).to(device), []

    def step(x):
        layer.zero_grad()
        y = layer(x)
        y.register_hook(lambda g: calls.append(1) or g * 2)
        y.sum().backward()
        return layer.weight.grad

    compiled, x = pn.compile(step), pn.ones((3, 2), device=device)
    assert compiled(x).tolist() == compiled(x).tolist() == [[6.0, 6.0]]
    assert len(calls) == 1  # where it is traced
    with layer.weight.register_hook(lambda g: g + 1):
        assert compiled(x).tolist() == [[7.0, 7.0]]
    assert compiled(x).tolist() == [[6.0, 6.0]]
    with layer.register_full_backward_pre_hook(lambda m, gy: gy[0] * 3):
        assert compiled(x).tolist() == [[18.0, 18.0]]
    assert compiled(x).tolist() == step(x).tolist() == [[6.0, 6.0]]


def test_hooks_of_arguments_of_a_compiled_function_are_refused():
    x = pn.ones(2, requires_grad=True)
    f = pn.compile(lambda x: (x * 2).detach())
    with (
        x.register_hook(print),
        pytest.raises(
            RuntimeError, match="compile: argument 0 has a hook, which replays"
        ),
    ):
        f(x)
    assert f(x).tolist() == [2.0, 2.0]
