"""States side by side in one buffer: which work becomes one launch, and what users see."""

import gc
import itertools

import numpy as np
import pytest

import portanet as pn
from portanet.autograd import tensor_of
from portanet import nn, optim
from portanet.compiler import memory, pack
from portanet.devices import Device
from portanet.nn.utils.rnn import pack_padded_sequence
from portanet.program import ALIGNMENT
from portanet.shaders import variants
from tests.conftest import PRESENT
from tests.null_backend import NullBackend
from tests.tint_compiler import compile_all


class Narrow(NullBackend):
    """Binds as few buffers as WebGPU's default limits allow, and joins reductions."""

    max_operands = 7
    copies = frozenset(("reduce",))


@pytest.fixture
def place():
    return Device("null", Narrow())


def training(device, optimizer=optim.Adam, sizes=(7, 5, 3), norm=True):
    """A compiled step of a perceptron on a device, its parts, and a batch."""
    pn.manual_seed(0)
    with pn.device(device):
        layers = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
            layers += [nn.BatchNorm1d(b)] if norm else []
        model = nn.Sequential(*layers)
        x, y = pn.randn(8, sizes[0]), pn.randint(0, sizes[-1], (8,))
    rule = optimizer(model.parameters(), lr=1e-2)

    @pn.compile
    def step(x, y):
        rule.zero_grad()
        loss = pn.cross_entropy(model(x), y)
        loss.backward()
        rule.step()
        return loss.detach()

    return step, model, rule, (x, y)


def plan_of(step):
    return [t for found in step.traces.values() for t in found][-1].plan


def launched(plan, name):
    return [w for w in plan.graph.work if name in w.parts]


# On graphs --------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(7, 5, 3), (64, 64, 64, 64, 10)])
@pytest.mark.parametrize(
    "optimizer, name", [(optim.Adam, "adam"), (optim.SGD, "sgd"), (optim.Lion, "lion")]
)
def test_the_updates_of_all_parameters_are_one_launch(place, optimizer, name, sizes):
    step, model, _, batch = training(place, optimizer, sizes)
    step(*batch)
    (w,) = launched(plan_of(step), name)
    assert w.size >= sum(p.size for p in model.parameters())
    assert len({h.slot for h in w.ins}) + len({h.slot for h in w.outs}) <= 7


def test_running_averages_of_one_size_are_one_launch(place):
    step, _, _, batch = training(place, sizes=(7, 5, 5, 5, 3))
    step(*batch)
    assert (
        len(launched(plan_of(step), "running_average")) == 2
    )  # of means, of variances


def test_an_update_of_another_formula_stays_alone(place):
    step, model, rule, batch = training(place)
    rule.add_param_group({"params": [nn.Parameter(pn.ones(3, device=place))]})
    first, *rest = rule.param_groups[0]["params"]
    rule.param_groups[0]["params"] = rest
    rule.param_groups[1] |= {"params": [first], "betas": (0.5, 0.5)}
    step(*batch)
    assert len(launched(plan_of(step), "adam")) == 2


def test_slots_lie_apart_in_their_buffers_and_aligned(place):
    step, _, _, batch = training(place)
    step(*batch)
    graph = plan_of(step).graph
    assert len(graph.packs) >= 3
    for whole, parts in graph.packs.items():
        ranges = sorted((at, at + graph.slots[s].nbytes) for s, at in parts.items())
        assert all(at % ALIGNMENT == 0 for at, _ in ranges)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ranges))
        assert ranges[-1][1] <= graph.slots[whole].nbytes


def recurrent_training(device):
    """A step of a layer whose biases have one gradient in pairs, and a batch."""
    pn.manual_seed(0)
    layer = nn.RNN(4, 5, num_layers=2, bidirectional=True).to(device)
    rule, x = optim.SGD(layer.parameters(), lr=0.05), pn.rand(4, 3, 4, device=device)

    def step(x):
        rule.zero_grad()
        packed = pack_padded_sequence(x, [4, 2, 2], enforce_sorted=False)
        loss = layer(packed)[0].data.square().sum()
        loss.backward()
        rule.step()
        return loss.detach()

    return step, layer, x


def test_parameters_of_one_gradient_do_not_both_lie_beside_it(place):
    step, _, x = recurrent_training(place)
    step = pn.compile(step)
    step(x)
    # The old states, the new ones, and the gradients of as many.
    counts = [len(parts) for parts in plan_of(step).graph.packs.values()]
    assert len(counts) == 3 and len(set(counts)) == 1, counts


def test_a_large_parameter_is_updated_alone(place, monkeypatch):
    monkeypatch.setattr(pack, "MEMBER_BYTES", 4 * 5 * 5)
    step, _, _, batch = training(place, sizes=(7, 5, 5, 3))
    step(*batch)
    sizes = sorted(w.size for w in launched(plan_of(step), "adam"))
    assert len(sizes) == 2 and sizes[0] == 35


def test_what_does_not_fit_into_one_buffer_is_several_launches(place, monkeypatch):
    monkeypatch.setattr(pack, "WHOLE_BYTES", 3 * 4 * 300)
    step, _, _, batch = training(place, sizes=(7, 5, 5, 3))
    step(*batch)
    plan = plan_of(step)
    assert 2 <= len(launched(plan, "adam")) <= 5
    assert all(plan.graph.slots[s].nbytes <= 3 * 4 * 300 for s in plan.graph.packs)


def test_a_device_that_writes_in_place_packs_nothing():
    backend = Narrow()
    backend.writes_in_place = frozenset({"elementwise"})
    step, _, _, batch = training(Device("null", backend))
    step(*batch)
    assert not plan_of(step).graph.packs


def test_gradients_that_are_sums_go_into_one_buffer_by_one_launch(place):
    step, _, _, batch = training(place, sizes=(7, 5, 5, 5, 3), norm=False)
    step(*batch)
    (w,) = [w for w in launched(plan_of(step), "sum") if w.program.copies]
    assert w.program.copies == 4 and len({h.slot for h in w.outs}) == 1
    assert len({h.layout.offset for h in w.outs}) == 4


def test_a_temporary_that_lies_in_another_lives_as_long_as_that(place):
    weights = [pn.ones(n, device=place).requires_grad_() for n in (3, 70)]

    @pn.compile
    def step(x):
        grads = pn.grad(lambda *ws: sum((w * x).sum() for w in ws), (0, 1))(*weights)
        for w, g in zip(weights, grads, strict=True):
            w.assign(w - 0.1 * pn.cumulative_sum(g))

    step(pn.ones((), device=place))
    plan = plan_of(step)
    (joined,) = [w for w in plan.graph.work if w.outs[0].slot in plan.graph.packs]
    spans, last = memory.lifetimes(plan.graph), plan.graph.work.index(joined)
    temporary = [s for s in plan.graph.packs if s in spans]
    assert temporary and all(spans[s][1] == last for s in temporary)
    assert not spans.keys() & plan.graph.home().keys()


# In replays -------------------------------------------------------------------------------


def copies(plan, monkeypatch):
    """The groups of states that were copied side by side, as they are."""
    found, real = [], type(plan.packed)._gathered

    def gathered(self, group, buffers):
        found.append(len(buffers))
        return real(self, group, buffers)

    monkeypatch.setattr(type(plan.packed), "_gathered", gathered)
    return found


def test_states_are_copied_once_and_after_one_was_assigned(place, monkeypatch):
    step, model, _, batch = training(place)
    step(*batch)
    found = copies(plan_of(step), monkeypatch)
    for _ in range(3):
        step(*batch)
    assert not found
    parameter = model[0].weight
    with pn.no_grad():
        parameter.assign(parameter + 1)
    for _ in range(3):
        step(*batch)
    assert len(found) == 1


def test_two_plans_find_each_others_states(place, monkeypatch):
    step, _, _, (x, y) = training(place)
    for _ in range(2):
        step(x, y), step(x[:4], y[:4])
    count, found = len(step.reasons), copies(plan_of(step), monkeypatch)
    for _ in range(2):
        step(x, y), step(x[:4], y[:4])
    assert not found and len(step.reasons) == count >= 2


def test_old_states_are_freed(place):
    step, _, _, batch = training(place)
    step(*batch), step(*batch)
    gc.collect()  # what the trace left in cycles
    live = place.backend.live
    for _ in range(3):
        step(*batch)
    assert place.backend.live == live


def test_a_replay_allocates_for_the_results_of_an_update_once(place):
    step, model, _, batch = training(place)
    step(*batch), step(*batch)
    plan, asked = plan_of(step), []
    real = place.backend.alloc
    place.backend.alloc = lambda n: (asked.append(n), real(n))[1]
    step(*batch)
    assert len(asked) < len(list(model.parameters()))
    assert sum(asked) == plan.peak - plan.memory.nbytes


@pytest.mark.parametrize("optimizer", [optim.Adam, optim.SGD, optim.RMSprop])
def test_users_see_tensors_as_before(device, optimizer, tmp_path):
    """Read, kept, saved, loaded and replaced between replays, as eagerly."""
    found = []
    for compiled in (False, True):
        step, model, rule, batch = training(device, optimizer, norm=False)
        run = step if compiled else step.function
        for _ in range(3):
            run(*batch)
        kept = model[0].weight.detach()
        before, view = kept.numpy(), kept.T[1:]
        grads = [p.grad.numpy() for p in model.parameters()]
        saved, state = model.state_dict(), rule.state_dict()
        pn.save(saved, tmp_path / "model")
        run(*batch)
        np.testing.assert_array_equal(kept.numpy(), before)
        np.testing.assert_array_equal(view.numpy(), before.T[1:])
        model.load_state_dict(pn.load(tmp_path / "model", device=device))
        rule.load_state_dict(state)
        run(*batch)
        run(*batch)
        states = [t.numpy() for t in model.state_dict().values()]
        found.append([before, *grads, *states, (model[0].weight * 2).sum().numpy()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# Buffers that several operands are in -------------------------------------------------------


def packed_program():
    step, _, _, batch = training(Device("null", Narrow()))
    step(*batch)
    programs = [p for p in plan_of(step).programs if p.buffers]
    assert programs
    return programs[-1]


def test_operands_in_one_buffer_have_one_binding():
    program = packed_program()
    assert len(program.outputs) == 3 and len(set(program.buffers)) == 5
    (text,) = variants.texts(program)
    assert text.count("var<storage") == 5
    assert compile_all({"adam": text}) == {"adam": None}


@pytest.mark.skipif("wgpu" not in PRESENT, reason="no WebGPU adapter here")
def test_a_part_of_a_buffer_is_a_buffer():
    x = pn.arange(200, dtype=pn.float32, device="wgpu")
    backend = x.device.backend
    part = backend.part(x.value.buffer, 256, 80)
    assert (part.whole, part.offset) == (x.value.buffer, 256)
    np.testing.assert_array_equal(
        backend.read(part, pn.float32, 3, 5), np.arange(67, 72)
    )
    seen = tensor_of(
        type(x.value)(part, pn.zeros(20, device="wgpu").exp().value.layout)
    )
    del x
    np.testing.assert_array_equal((seen + 1).numpy(), np.arange(65, 85))
    assert backend.part(part.whole, 256, 80).block is part.block


@pytest.mark.skipif("wgpu" not in PRESENT, reason="no WebGPU adapter here")
def test_a_launch_refuses_a_buffer_that_it_reads_and_writes():
    x = pn.ones(200, device="wgpu").exp()
    backend = x.device.backend
    a, b = (backend.part(x.value.buffer, at, 256) for at in (0, 512))
    from portanet.arrays import Handle, elementwise_program, layout
    from portanet.scalars import trace

    flat = layout((64,), pn.float32, x.device)
    double = trace(lambda x: x + x, (pn.float32,))
    program, words = elementwise_program(
        "f", double, [Handle(0, flat)], [Handle(1, flat)]
    )
    with pytest.raises(ValueError, match="f: an output is also an input"):
        backend.build(program, tuple(words))(a, b)
