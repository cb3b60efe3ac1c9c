"""Functions in files: the numbers of the function on any device, and files that lie."""

import functools
import itertools
import json
import math
import os
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
from tests.conformance import as_tuple, cases_on, check_value, typed, wide
from tests.conftest import PRESENT
from tests.test_operators import CELLS, params

import portanet as pn
from portanet import io, nn, optim
from portanet.compiler.lazy import TraceError
from portanet.exported import file
from portanet.exported.recording import record
from portanet.op import Op, Spec


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pnx"


def mlp(device="cpu"):
    # No bias before the norm: its gradient is rounding, which Adam makes a step of.
    model = nn.Sequential(
        nn.Linear(12, 16, bias=False),
        nn.BatchNorm1d(16),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Linear(16, 4),
    )
    return model.to(device)


def batch(device="cpu"):
    rng = np.random.default_rng(3)
    x = pn.tensor(rng.normal(size=(24, 12)).astype("float32"), device=device)
    return x, pn.tensor(rng.integers(0, 4, 24).astype("int32"), device=device)


def training(model):
    optimizer = optim.AdamW(model.parameters(), lr=0.02)

    def step(x, y):
        loss = pn.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


# The same numbers ---------------------------------------------------------------------


@pytest.mark.parametrize("made_on", PRESENT)
@pytest.mark.parametrize("run_on", PRESENT)
def test_an_inference_is_the_models_on_any_device(path, made_on, run_on):
    model, (x, _) = mlp(made_on).eval(), batch(made_on)
    pn.export(model, (x,), path)
    loaded = pn.load_exported(path, device=run_on)
    with pn.no_grad():
        want = model(x).numpy()
    got = loaded(x.numpy())
    assert got.device == run_on and not got.requires_grad
    np.testing.assert_allclose(got.numpy(), want, atol=1e-5)
    np.testing.assert_array_equal(loaded(x.to(run_on)).numpy(), got.numpy())


@pytest.mark.parametrize("made_on", PRESENT)
@pytest.mark.parametrize("run_on", PRESENT)
def test_five_training_steps_are_those_of_the_compiled_function(path, made_on, run_on):
    model, example = mlp(made_on), batch(made_on)
    step = training(model)
    pn.export(step, example, path)
    loaded = pn.load_exported(path, device=run_on)
    compiled = pn.compile(step)
    for _ in range(5):
        want = compiled(*example).item()
        got = loaded(*(t.numpy() for t in example)).item()
        assert abs(got - want) < 1e-5
    states, wanted = loaded.states(), model.state_dict()
    assert set(wanted) < set(states)
    for name, value in wanted.items():
        np.testing.assert_allclose(states[name].numpy(), value.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "op, device, dtype", params([c for c in CELLS if c[1] == "cpu"])
)
def test_every_operator_comes_back(op, device, dtype, path):
    for case in itertools.islice(cases_on(op, dtype, device), 2):
        args = typed(case, dtype)
        xs = [pn.tensor(a, t, device) for a, t in args]
        pn.export(lambda *a, static=case.static: op(*a, **static), xs, path)
        with np.errstate(all="ignore"):
            want = as_tuple(op.reference(*wide(args), **case.static))
        got = as_tuple(pn.load_exported(path, device=device)(*xs))
        for g, w in zip(got, want, strict=True):
            check_value(g.value, w, op.ulps, f"{op.name} exported {case.static}")


def test_gradients_of_gradients_come_back(path):
    """Their operators are in no list: a file holds what they compute."""

    def second(x):
        slope = pn.grad(lambda t: pn.mish(t * t).sum())
        return pn.grad(lambda t: slope(t).sum())(x)

    x = pn.linspace(-1, 1, 7)
    assert any(call.part is not None for call in record(second, (x,)).calls)
    pn.export(second, (x,), path)
    got = pn.load_exported(path)(x).numpy()
    np.testing.assert_allclose(got, second(x).numpy(), atol=1e-6)


def test_random_numbers_go_on_where_they_were(path):
    def draw(x):
        return x + pn.rand(4)

    x = pn.zeros(4)
    draw(x)
    pn.export(draw, (x,), path)
    loaded = pn.load_exported(path)
    for _ in range(3):
        np.testing.assert_array_equal(loaded(x).numpy(), draw(x).numpy())


def test_exporting_changes_nothing(path):
    model, (x, y) = mlp(), batch()
    step, before = (
        training(model),
        {k: v.numpy() for k, v in model.state_dict().items()},
    )
    pn.export(step, (x, y), path)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    assert all(p.grad is None for p in model.parameters())


# Gradients that outlive a call --------------------------------------------------------


def leftover(order):
    w = pn.tensor([1.0, -2.0], requires_grad=True)

    def step(x):
        if order == "before":
            w.grad = None
        loss = (w * x).sum()
        loss.backward()
        with pn.no_grad():
            w.assign(w - 0.1 * w.grad)
        if order == "after":
            w.grad = None
        return loss

    return w, step


@pytest.mark.parametrize("order", ["before", "after", "never"])
@pytest.mark.parametrize("stale", [False, True])
def test_gradients_are_cleared_or_added_up_as_eagerly(order, stale, path):
    w, step = leftover(order)
    x = pn.tensor([3.0, 0.5])
    if stale:
        (w * x).sum().backward()
    kept = w.grad
    pn.export(step, (x,), path)
    assert w.grad is kept
    loaded = pn.load_exported(path)
    assert ("w.grad" in loaded.states()) == (order == "never")
    if order == "after":  # a file holds calls that follow each other
        w.grad = None
    for _ in range(4):
        assert abs(loaded(x).item() - step(x).item()) < 1e-5
    np.testing.assert_allclose(loaded.states()["w"].numpy(), w.numpy(), atol=1e-6)


# Arguments, results, states -----------------------------------------------------------

Pair = namedtuple("Pair", "left right")


def test_nested_arguments_and_results_keep_their_shape(path):
    def f(batch, scale, *rest, flip=False):
        x = batch["x"] * scale + sum(rest)
        y = -x if flip else x
        return {
            "sum": y.sum(),
            "all": [y, (batch["pair"][1], 3)],
            2: None,
            "inf": math.inf,
        }

    b = {"x": pn.arange(3.0), "pair": Pair(pn.ones(1), pn.zeros(2))}
    pn.export(f, (b, 2, pn.ones(3)), path)
    loaded = pn.load_exported(path)
    assert list(loaded.inputs) == ["batch.x", "batch.pair.0", "batch.pair.1", "rest0"]
    assert loaded.inputs["batch.x"] == Spec((3,), pn.float32)
    backwards = {"pair": b["pair"], "x": b["x"]}
    for got in (loaded(b, 2, pn.ones(3)), loaded(backwards, rest0=pn.ones(3))):
        assert list(got) == ["sum", "all", 2, "inf"] and got["inf"] == math.inf
        assert got["sum"].item() == 9 and got[2] is None
        y, (second, three) = got["all"]
        assert y.tolist() == [1, 3, 5] and second.tolist() == [0, 0] and three == 3


def test_keywords_and_one_tensor_are_examples_too(path):
    pn.export(lambda *, a, b: a - b, {"b": pn.ones(2), "a": pn.zeros(2)}, path)
    assert pn.load_exported(path)(a=pn.ones(2), b=pn.zeros(2)).tolist() == [1, 1]
    pn.export(lambda x: x * 2, np.ones(2, "float32"), path)
    assert pn.load_exported(path)(pn.ones(2)).tolist() == [2, 2]


def test_an_object_that_only_the_trace_needs_may_be_an_argument(path):
    model = nn.Linear(2, 2)
    pn.export(lambda net, x: net(x), (model, pn.ones((1, 2))), path)
    loaded = pn.load_exported(path)
    assert sorted(loaded.states()) == ["bias", "weight"]
    want = model(pn.ones((1, 2))).numpy()
    np.testing.assert_allclose(loaded(x=pn.ones((1, 2))).numpy(), want, atol=1e-6)
    np.testing.assert_array_equal(
        loaded(None, pn.ones((1, 2))).numpy(), loaded(x=pn.ones((1, 2))).numpy()
    )


def test_wrong_arguments_are_named(path):
    pn.export(lambda x, n, y: x * n + y, (pn.ones((2, 3)), 2, pn.arange(3)), path)
    loaded = pn.load_exported(path)
    x, y = pn.ones((2, 3)), pn.arange(3)
    for error, message, args in [
        (
            ValueError,
            r"x has shape \(3, 2\), but float32 \(2, 3\)",
            (pn.ones((3, 2)), 2, y),
        ),
        (TypeError, r"x is float64, but float32 \(2, 3\)", (np.ones((2, 3)), 2, y)),
        (TypeError, r"y is .*float32, but int32 \(3,\)", (x, 2, pn.ones(3))),
        (TypeError, "x is a float, not a tensor", (1.0, 2, y)),
        (ValueError, "n is 2 in this file, not 3; export it again", (x, 3, y)),
        (TypeError, "y missing; it takes x, y", (x, 2)),
        (TypeError, "4 arguments are given, 3 are taken", (x, 2, y, y)),
    ]:
        with pytest.raises(error, match=message):
            loaded(*args)
    with pytest.raises(TypeError, match="there is no argument z"):
        loaded(x, 2, y, z=1)
    assert loaded(x, 2, y).tolist() == [[2, 3, 4]] * 2


def test_a_tensor_elsewhere_is_refused(path):
    others = [d for d in PRESENT if d != "cpu"]
    pn.export(lambda x: x + 1, (pn.ones(2),), path)
    for device in others:
        with pytest.raises(
            ValueError, match=f'x is on {device} .* move it with .to."cpu"'
        ):
            pn.load_exported(path, device="cpu")(pn.ones(2, device=device))


def test_a_state_may_be_changed(path):
    step = training(nn.Linear(12, 4))
    pn.export(step, batch(), path)
    loaded = pn.load_exported(path)
    states = loaded.states()
    assert {"weight", "bias", "optimizer.state.weight.exp_avg"} < set(states)
    (rate,) = [name for name in states if "rates" in name]
    before = states["weight"].numpy()
    states[rate].assign(pn.tensor(0.0))
    loaded(*batch())
    np.testing.assert_array_equal(states["weight"].numpy(), before)


class Holder:
    def __init__(self, net):
        self.net = net

    def call(self, x):
        return self.net(x)


def test_states_are_named_through_wrappers(path):
    net, x = nn.Linear(3, 2), pn.ones((1, 3))
    with pn.no_grad():
        want = net(x).tolist()
    for function, prefix in [
        (net, ""),
        (lambda x: net(x), ""),
        (pn.compile(lambda x: net(x)), ""),
        (pn.no_grad()(lambda x: net(x)), ""),
        (functools.partial(lambda model, x: model(x), net), ""),
        (Holder(net).call, "self.net."),
    ]:
        pn.export(function, (x,), path)
        loaded = pn.load_exported(path)
        assert list(loaded.states()) == [f"{prefix}weight", f"{prefix}bias"]
        assert loaded(x).tolist() == want


def test_states_without_a_name_are_numbered(path):
    hidden = [pn.ones(2)]

    def make():
        yield hidden[0]

    made = make()
    tensor = next(made)
    pn.export(lambda x, f=lambda t=tensor: t: x + f(), (pn.ones(2),), path)
    assert list(pn.load_exported(path).states()) == ["s0"]


def test_a_swap_of_states_is_a_swap(path):
    a, b = pn.tensor(1.0), pn.tensor(2.0)

    def swap(x):
        one, two = a.detach(), b.detach()
        a.assign(two)
        b.assign(one)
        return x + one

    pn.export(swap, (pn.tensor(0.0),), path)
    loaded = pn.load_exported(path)
    assert [loaded(pn.tensor(0.0)).item() for _ in range(3)] == [1, 2, 1]


def test_it_runs_without_the_python_that_made_it(path, tmp_path):
    (tmp_path / "theirs.py").write_text(
        "import portanet as pn\n"
        "class Net(pn.nn.Module):\n"
        "    def __init__(self): self.w = pn.nn.Parameter(pn.ones(3))\n"
        "    def forward(self, x): return pn.nn.functional.gelu(x * self.w)\n"
    )
    path = str(path)
    make = (
        f"import theirs as t, portanet as pn; pn.export(t.Net(), pn.ones(3), {path!r})"
    )
    use = (
        f"import sys, numpy as np, portanet as pn; m = pn.load_exported({path!r})\n"
        "print(m(np.ones(3, 'float32')).tolist())\n"
        "assert 'portanet.nn' not in sys.modules"
    )
    for code, cwd in ((make, tmp_path), (use, "/")):
        env = {**os.environ, "PORTANET_DEVICE": "cpu", "PYTHONPATH": str(cwd)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[0.841")


# What can't be ------------------------------------------------------------------------


def test_a_function_that_no_trace_holds_is_refused_and_writes_nothing(path):
    with pytest.raises(TraceError, match="reads the value of a tensor"):
        pn.export(lambda x: x * x.sum().item(), (pn.ones(2),), path)
    with pytest.raises(TypeError, match="a part of the result is a object"):
        pn.export(lambda x: (x, object()), (pn.ones(2),), path)
    assert not path.exists()


def test_an_operator_that_can_not_be_named_is_refused(path):
    hidden = Op("hidden", lambda x: x, lower=lambda emit, x: x, listed=False)
    with pytest.raises(TypeError, match="hidden is not listed and has no formula"):
        pn.export(lambda x: hidden(x) + 1, (pn.ones(2),), path)


@pytest.mark.parametrize(
    "value",
    [None, True, 3, -(2**70), 0.1, math.inf, -math.inf, "a", (), (1, ("b", None)),
     pn.int32],
)  # fmt: skip
def test_static_values_come_back(value):
    text = json.dumps(file.encode(value, "x"), allow_nan=False)
    found = file.decode(json.loads(text))
    assert found == value and type(found) is type(value)


def test_static_values_are_never_objects():
    for value in ([1], {"a": 1}, object(), print, b"bytes", (1, [2])):
        with pytest.raises(TypeError, match="what is a .*, which a file can't hold"):
            file.encode(value, "what")
    for text in ({"pickle": "x"}, {"tuple": [[1]]}, {"dtype": "complex64"}):
        with pytest.raises((ValueError, TypeError)):
            file.decode(text)


# Files that lie -----------------------------------------------------------------------


@pytest.fixture
def written(path):
    pn.export(training(mlp()), batch(), path)
    return path


def rewritten(path, change):
    """The file with its JSON changed, under a checksum that fits."""
    found = json.loads(io.load_metadata(path)[file.KEY])
    change(found)
    io.save(io.load(path), path, metadata={file.KEY: json.dumps(found)})


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_refused(written, part):
    data = written.read_bytes()
    written.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=f"{written.name} is damaged"):
        pn.load_exported(written)


def test_a_changed_byte_anywhere_is_refused(written):
    data = written.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(data), 25):
        changed = bytearray(data)
        changed[at] ^= 0x10
        written.write_bytes(changed)
        with pytest.raises(ValueError, match="model.pnx"):
            pn.load_exported(written)


def _edits():
    def set_(*where, value):
        def change(found):
            for key in where[:-1]:
                found = found[key]
            found[where[-1]] = value

        return change

    def part_of(found):
        return next(c["part"] for c in found["calls"] if "part" in c)

    return {
        "a value that is not yet made": set_("calls", 0, "args", value=[10**6]),
        "a negative value": set_("results", value=[-1]),
        "too few arguments": set_("calls", 0, "args", value=[0]),
        "too many results": set_("results", value=[0, 1]),
        "another shape": set_("calls", 0, "specs", value=[[[1, 1], "float32"]]),
        "another dtype": set_("calls", 3, "specs", value=[[[24, 16], "int32"]]),
        "a shape of texts": set_("inputs", "x", value=[["a"], "float32"]),
        "no calls": set_("calls", value=None),
        "a call that is a number": set_("calls", 0, value=7),
        "an unknown static argument": set_("calls", 0, "static", value={"n": 1}),
        "a state that is not there": set_("states", value=["nothing"]),
        "an assigned state that is not there": set_("assigned", value={"nothing": 0}),
        "an assigned value of another shape": set_("assigned", value={"0.weight": 0}),
        "a structure of another kind": set_("structure", value={"set": []}),
        "an unknown instruction": lambda f: part_of(f)["instructions"][0].__setitem__(
            0, "go"
        ),
        "operands of nowhere": lambda f: part_of(f)["instructions"][0].__setitem__(
            2, [99]
        ),
        "an instruction of other types": lambda f: part_of(f).__setitem__(
            "inputs", ["bool"]
        ),
    }


@pytest.mark.parametrize("name", _edits())
def test_a_file_whose_calls_do_not_fit_is_refused(written, name):
    rewritten(written, _edits()[name])
    with pytest.raises(ValueError, match="load_exported: .*model.pnx is damaged: "):
        pn.load_exported(written)


def test_a_newer_format_and_unknown_operators_are_refused_by_name(written):
    rewritten(written, lambda found: found["calls"][0].update(op="frobnicate"))
    with pytest.raises(ValueError, match="needs operators that .*: frobnicate; import"):
        pn.load_exported(written)
    rewritten(written, lambda found: found.update(version=2))
    with pytest.raises(ValueError, match="version 2 of the format .* install a newer"):
        pn.load_exported(written)


def test_plain_tensors_and_missing_files_are_told_apart(path):
    pn.save({"x": pn.ones(2)}, path)
    with pytest.raises(
        ValueError, match="holds tensors and no exported function; use load"
    ):
        pn.load_exported(path)
    with pytest.raises(FileNotFoundError):
        pn.load_exported(path.with_name("nowhere.pnx"))


def test_a_device_without_the_dtype_says_so(path):
    if "wgpu" in PRESENT:
        pn.export(lambda x, w=pn.ones(2, dtype="float64"): x * w, (pn.ones(2),), path)
        w = pn.ones(2, dtype="float64")
        pn.export(lambda x: x * w, (pn.ones(2),), path)
        with pytest.raises((TypeError, ValueError), match="no float64"):
            pn.load_exported(path, device="wgpu")
