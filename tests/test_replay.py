"""Replays: where results go, what they allocate, how much work a submit holds."""

import numpy as np
import pytest

import portanet as pn
from portanet import arrays, nn, optim
from portanet.compiler import reuse
from portanet.devices import Device
from portanet.shaders import Backend as WgpuBackend
from tests.conftest import PRESENT
from tests.null_backend import NullBackend


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


def test_a_step_that_forgets_gradients_first_is_traced_once(device):
    step, parameters, batch = perceptron(device)
    run = pn.compile(step)
    run(*batch), run(*batch)
    parameters[0].grad = None
    run(*batch)
    assert len(run.reasons) == 1


def test_gradients_end_as_the_step_leaves_them(device):
    p = pn.ones(3, device=device).requires_grad_()
    rule = optim.SGD([p], lr=0.1)

    def step(x, set_to_none, back):
        rule.zero_grad(set_to_none)
        loss = (p * x).sum()
        if back:
            loss.backward()
        return loss.detach()

    x, found = pn.ones(3, device=device), []
    for run in (step, pn.compile(step)):
        p.grad = None
        for args in ((True, True), (False, True), (True, False), (False, False)) * 2:
            run(x, *args)
            found.append(None if p.grad is None else p.grad.tolist())
            run(x, True, True)
            run(x, *args)
            found.append(None if p.grad is None else p.grad.tolist())
    assert found[:16] == found[16:]
    assert [0.0] * 3 in found and [1.0] * 3 in found and None in found


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


# What a user may do between two calls ---------------------------------------------------------


def twice(device, change, optimizer=optim.Adam):
    """Losses and parameters after some steps, a change, and more, eager and compiled."""
    found = []
    for wrap in (lambda f: f, pn.compile):
        pn.manual_seed(0)
        with pn.device(device):
            model = nn.Sequential(
                nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
            )
            x, y = pn.randn(16, 6), pn.randint(0, 3, (16,))
        rule = optimizer(model.parameters(), lr=0.05)
        made = {"model": model, "rule": rule, "x": x, "y": y}

        def step(x, y, model=model, rule=rule):
            rule.zero_grad()
            loss = pn.cross_entropy(model(x), y)
            loss.backward()
            rule.step()
            return loss.detach()

        run, losses = wrap(step), []
        for k in range(6):
            if k == 3:
                change(made)
            losses.append(run(made["x"], made["y"]).item())
        found.append((losses, [t.numpy() for t in model.state_dict().values()]))
    (losses, states), (compiled, compiled_states) = found
    np.testing.assert_allclose(compiled, losses, rtol=1e-4)
    for a, b in zip(compiled_states, states, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def new_rate(made):
    made["rule"].param_groups[0]["lr"] = 0.001


def new_batch(made):
    made["x"], made["y"] = made["x"][:5], made["y"][:5]


def to_eval(made):
    made["model"].eval()


def loaded(made):
    state = {k: v.detach() * 0.5 for k, v in made["model"].state_dict().items()}
    made["model"].load_state_dict(state)


def frozen(made):
    made["model"].layers[0].weight.requires_grad = False


def new_seed(made):
    pn.manual_seed(99)


@pytest.mark.parametrize(
    "change", [new_rate, new_batch, to_eval, loaded, frozen, new_seed]
)
def test_a_change_between_calls_does_what_it_does_eagerly(device, change):
    twice(device, change)


@pytest.mark.skipif(len(PRESENT) < 2, reason="a second device is needed")
def test_a_module_that_moves_is_traced_where_it_is():
    model = nn.Linear(4, 2).to(PRESENT[0])
    run = pn.compile(pn.no_grad()(lambda x: model(x) * 2))
    x = pn.randn(3, 4, device=PRESENT[0])
    want = run(x).numpy()
    model.to(PRESENT[1])
    with pytest.raises(ValueError, match="move one with"):
        run(x)
    np.testing.assert_allclose(run(x.to(PRESENT[1])).numpy(), want, rtol=1e-5)
    model.to(PRESENT[0])
    np.testing.assert_array_equal(run(x).numpy(), want)


def test_ten_thousand_replays_take_no_memory(device):
    step, parameters, batch = perceptron(device, optim.SGD, (4, 2))
    run, memory = pn.compile(step), batch[0].device.backend.memory
    for _ in range(200):
        run(*batch)
    before = memory()
    for _ in range(10_000):
        run(*batch)
    pn.synchronize(device)
    after = memory()
    assert after["used"] <= before["used"] and after["peak"] <= before["peak"]
    assert after["reserved"] <= before["reserved"]
    assert np.isfinite(parameters[0].numpy()).all()


# How much a submit holds ---------------------------------------------------------------------


def submits(monkeypatch, backend):
    """A list that gets the work of each submit."""
    real, found = type(backend)._submit, []

    def submit(self):
        if self._pending:
            found.append(self._work)
        real(self)

    monkeypatch.setattr(type(backend), "_submit", submit)
    return found


@pytest.mark.skipif("wgpu" not in PRESENT, reason="no WebGPU adapter here")
@pytest.mark.parametrize("wrap", [lambda f: f, pn.compile], ids=["eager", "compiled"])
def test_long_work_is_sent_in_parts(wrap, monkeypatch):
    x = pn.ones((256, 256), device="wgpu")  # a product is 3.4e7 operations
    backend = x.device.backend

    def many(x):
        for _ in range(20):
            x = x @ x / 256
        return x

    run = wrap(many)
    run(x)
    backend.wait()
    monkeypatch.setattr(backend._pace, "limit", 1e8)
    found = submits(monkeypatch, backend)
    np.testing.assert_allclose(run(x).numpy(), 1, rtol=1e-5)
    assert len(found) >= 7 and max(found) <= 1e8


@pytest.mark.skipif("wgpu" not in PRESENT, reason="no WebGPU adapter here")
def test_a_long_launch_is_cut_into_pieces_with_the_same_bits(monkeypatch):
    from portanet.nn.functional import conv2d
    from portanet.shaders import step

    rng = np.random.default_rng(0)
    cases = [
        lambda x: x @ x.mT,
        lambda x: x.sum(axis=1),
        lambda x: pn.cumulative_sum(x, axis=0),
        lambda x: pn.take(x, pn.arange(99, device="wgpu"), axis=1),
        lambda x: conv2d(x.reshape(10, 1, 130, 99), x[:3, :9].reshape(3, 1, 3, 3)),
    ]
    values = rng.normal(size=(1300, 99)).astype(np.float32)
    for f in cases:
        x = pn.tensor(values, device="wgpu")
        whole = f(x).numpy()
        with monkeypatch.context() as patch:
            patch.setattr(step, "LONG_WORK", 1e3)
            arrays._plans.clear()
            backend = x.device.backend
            before, here = backend._launches, f(x).numpy()
            assert backend._launches > before + 1  # of which there were more
            arrays._plans.clear()
        np.testing.assert_array_equal(here, whole)


def test_every_kernel_with_groups_can_be_cut():
    from portanet.shaders.lower import HERE
    from portanet.shaders.step import CUT

    for path in HERE.glob("*.wgsl"):
        text = path.read_text()
        # Where groups go on in steps there is one operation or so for each element of a
        # buffer: such a launch is never long.
        in_steps = "let step = groups.x * groups.y" in text
        if "num_workgroups" in text and not in_steps:
            assert CUT in text and "groups.x" not in text, path.name


def test_the_pace_follows_what_the_device_can_do(monkeypatch):
    from portanet.shaders import pace

    now = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    device = pace.Pace()

    def run(work, seconds, host=0.0):
        device.sent(work)
        now[0] += host
        start = now[0]
        now[0] += seconds
        device.done(start)

    for _ in range(20):  # a fast one: 1e12 operations a second
        run(1e10, 0.01)
    assert device.limit == pace.MOST
    run(1e3, 0.0001, host=10.0)  # the host was slow, which says nothing
    run(1e6, 0.00001)  # so little that it says nothing
    assert device.limit == pace.MOST
    for _ in range(3):  # 1e8 operations a second
        run(device.limit, device.limit / 1e8)
    assert device.limit <= 1e8 * pace.WANTED_S
    run(1.0, 1e9)
    assert device.limit == pace.LEAST


# How many launches ------------------------------------------------------------------------------


class LikeWgpu(NullBackend):
    """Has the rules of wgpu at WebGPU's default limits."""

    max_operands = 7
    copies = WgpuBackend.copies
    epilogues = WgpuBackend.epilogues


def language_model():
    layers = [
        nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        for _ in range(3)
    ]
    return nn.Sequential(nn.Embedding(20, 32), *layers, nn.Linear(32, 20))


def convolutions():
    made = []
    for a, b in ((3, 8), (8, 8), (8, 16), (16, 16)):
        made += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*made, nn.Flatten(), nn.Linear(16 * 64, 10))


def perceptrons():
    layers = [layer for _ in range(4) for layer in (nn.Linear(16, 16), nn.ReLU())]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam])
@pytest.mark.parametrize(
    "build, x, y",
    [
        (perceptrons, (8, 16), (8,)),
        (language_model, (4, 6), (4, 6)),
        (convolutions, (2, 3, 8, 8), (2,)),
    ],
)
def test_a_compiled_step_has_at_most_half_of_the_launches(optimizer, build, x, y):
    place = Device("null", LikeWgpu())
    model = build().to(place)
    rule = optimizer(model.parameters(), lr=0.01)

    def step(x, y):
        rule.zero_grad()
        logits = model(x)
        loss = pn.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))
        loss.backward()
        rule.step()
        return loss.detach()

    kind = pn.int32 if build is language_model else pn.float32
    batch = pn.zeros(x, dtype=kind), pn.zeros(y, dtype=pn.int32)
    batch = tuple(t.to(place) for t in batch)
    launched, counts = place.backend.launched, []
    for run in (step, pn.compile(step)):
        run(*batch), run(*batch)
        launched.clear()
        run(*batch)
        counts.append(len(launched))
    assert 2 * counts[1] <= counts[0], counts


# Before the first replay -------------------------------------------------------------------------


@pytest.mark.skipif("wgpu" not in PRESENT, reason="no WebGPU adapter here")
def test_a_plans_pipelines_are_compiled_together(monkeypatch):
    x = pn.ones((33, 7), device="wgpu")
    host, asked = type(x.device.backend._host), []
    real = host.pipelines

    def pipelines(self, wanted):
        asked.append(len(wanted))
        made = real(self, wanted)
        monkeypatch.setattr(host, "pipeline", None)  # none is compiled after these
        return made

    monkeypatch.setattr(host, "pipelines", pipelines)
    run = pn.compile(lambda x: pn.exp(x @ x.mT - 0.125).sum(axis=0) * 7.5 + x.max())
    assert run(x).shape == (33,) and asked[0] >= 2


# Times ------------------------------------------------------------------------------------------


def test_a_profile_has_the_times_of_all_launches_as_part_of_the_roofs(device):
    from portanet.compiler import explain

    step, _, batch = perceptron(device)
    run = pn.compile(step)
    run(*batch), run(*batch)
    plan = last_plan(run)
    rows = explain.profile(plan, plan.scratch(batch))
    assert len(rows) == len(plan.launches)
    assert all(0 < row.time_us < 1e6 and row.of_roof > 0 for row in rows)
    text = explain.text(plan, rows)
    assert "us in all; roofs of" in text and "GFLOP/s" in text


@pytest.mark.skipif("wgpu" not in PRESENT, reason="no WebGPU adapter here")
def test_the_device_times_a_launch_by_its_own_clock():
    x = pn.ones((256, 256), device="wgpu")
    backend = x.device.backend
    if "timestamp-query" not in backend._host.features:
        assert backend.times([], 1) is None
        return
    run = pn.compile(lambda x: (x @ x, pn.exp(x[:2, :2])))
    run(x)
    plan = last_plan(run)
    buffers = plan.scratch([x])
    calls = [(launch, [buffers[i] for i in at]) for launch, at in plan.launches]
    times = dict(zip([p.kernel for p in plan.programs], backend.times(calls, 5)))
    assert times["matmul"] > 3 * times["elementwise"] > 0
