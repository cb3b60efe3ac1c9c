"""Temporaries that are written over others."""

import gc

import numpy as np
import pytest

import portanet as pn
from portanet import nn
from portanet.arrays import Handle, layout
from portanet.compiler import memory, overlay
from portanet.compiler.graph import Graph, Work
from portanet.compiler.plan import Plan
from portanet.devices import Device
from portanet.dtypes import float32
from portanet.program import Program
from portanet.scalars import Expression, trace
from tests.conftest import PRESENT
from tests.null_backend import NullBackend

RNG = np.random.default_rng(0)
SHAPE = (512, 512)  # of 1 MiB
DOUBLE = trace(lambda x: x + x, (float32,))
ADD = trace(lambda x, y: x + y, (float32, float32))


@pytest.fixture
def graph():
    backend = NullBackend()
    backend.writes_in_place = frozenset({"elementwise", "recurrent"})
    return Graph(Device("null", backend))


def slots(graph, count, shape=SHAPE):
    seen = layout(shape, float32, graph.device)
    return [Handle(graph.slot(4 * seen.size), seen) for _ in range(count)]


def overlaid(graph):
    return overlay.overlays(graph, memory.lifetimes(graph))


def elementwise(out, *ins, expression=None):
    return Work([out], list(ins), "", "", expression or (DOUBLE, ADD)[len(ins) - 1])


def test_a_chain_takes_the_memory_of_its_first(graph):
    a, b, c = slots(graph, 3)
    graph.work = [Work([a], [], "", "", program=Program("random", (float32,), ()))]
    graph.work += [elementwise(b, a), elementwise(c, b)]
    assert overlaid(graph) == {b.slot: a.slot, c.slot: a.slot}
    found = memory.least(graph)
    assert found.nbytes == 1 << 20
    assert found.over == {b.slot: a.slot, c.slot: a.slot}
    assert found.block_of[c.slot] == found.block_of[a.slot]


def test_what_is_read_again_stays(graph):
    a, b, c = slots(graph, 3)
    graph.work = [elementwise(b, a), elementwise(c, a, b)]
    assert overlaid(graph) == {c.slot: a.slot}
    graph.work.append(elementwise(*slots(graph, 1), a))
    assert overlaid(graph)[c.slot] == b.slot


def test_small_ones_other_sizes_and_other_orders_are_not_overlaid(graph):
    small = slots(graph, 2, (8, 8))
    a, b = slots(graph, 2)
    (row,) = slots(graph, 1, (512,))
    turned = Handle(a.slot, layout(SHAPE, float32, graph.device, (1, 512)))
    for work in (
        elementwise(small[1], small[0]),
        elementwise(b, turned),
        elementwise(b, a, turned),
        elementwise(b, Handle(row.slot, row.layout.expanded(SHAPE))),
        elementwise(b, a, expression=Expression((float32,), (), (0,))),
    ):
        graph.work = [work]
        assert overlaid(graph) == {}, work
    graph.work = [elementwise(b, a, a)]
    assert overlaid(graph) == {b.slot: a.slot}


def test_results_and_what_exists_before_keep_their_memory(graph):
    a, b, c = slots(graph, 3)
    graph.slots[c.slot].kept = True
    graph.work = [elementwise(b, a), elementwise(c, b)]
    assert overlaid(graph) == {b.slot: a.slot}


def test_kernels_say_which_of_their_inputs(graph):
    x, h, c, kept = slots(graph, 4)
    h0, c0, w, b = slots(graph, 4, (4,))
    lstm = Program("recurrent", (float32,) * 3, (float32,) * 5, ("lstm", "forward"))
    graph.work = [Work([h, c, kept], [x, h0, c0, w, b], "", "", program=lstm)]
    assert overlaid(graph) == {kept.slot: x.slot}
    graph.device.backend.writes_in_place = frozenset({"elementwise"})
    assert overlaid(graph) == {}


def writes_over(plan, w):
    return any(h.slot in plan.memory.over for h in w.outs)


@pytest.mark.parametrize("device", PRESENT)
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_a_recurrent_step_computes_the_same(device, layer, monkeypatch):
    monkeypatch.setattr(overlay, "LEAST", 1)
    with pn.device(device):
        model = layer(3, 5)
    x = pn.tensor(RNG.normal(size=(4, 3, 3)), dtype="float32", device=device)

    def step(x):
        model.zero_grad()
        y, _ = model(x)
        (pn.exp(y * 3) * y).mean().backward()
        return y.detach(), [p.grad for p in model.parameters()]

    wanted, grads = step(x)
    wanted, grads = wanted.numpy(), [g.numpy() for g in grads]
    replay = pn.compile(step)
    for _ in range(3):
        y, made = replay(x)
        np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-6, atol=1e-6)
        for g, w in zip(made, grads, strict=True):
            np.testing.assert_allclose(g.numpy(), w, rtol=1e-5, atol=1e-6)
    if device == "cpu":
        plans = [p for p in gc.get_objects() if isinstance(p, Plan)]
        over = [w for p in plans for w in p.graph.work if writes_over(p, w)]
        assert any(w.program and w.program.kernel == "recurrent" for w in over)
    assert "us" in str(replay.profile(x))


@pytest.mark.parametrize("device", PRESENT)
def test_what_may_stop_a_step_is_written_over_what_it_is_made_of(device, monkeypatch):
    monkeypatch.setattr(overlay, "LEAST", 1)
    with pn.device(device):
        head = nn.Linear(6, 20)
    x = pn.tensor(RNG.normal(size=(9, 6)).astype("float32"), device=device)
    good = pn.tensor(RNG.integers(0, 20, 9).astype("int32"), device=device)

    def step(x, classes):
        head.zero_grad()
        loss = pn.cross_entropy(head(x), classes)
        loss.backward()
        return loss.detach()

    loss, grads = step(x, good).item(), [p.grad.numpy() for p in head.parameters()]
    replay = pn.compile(step)
    for _ in range(2):
        assert replay(x, good).item() == pytest.approx(loss, rel=1e-6)
        with pytest.raises(IndexError, match="cross_entropy: index 20 is out of range"):
            replay(x, good + 20 - good[0]).item()
    replay(x, good)
    for p, want in zip(head.parameters(), grads, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), want, rtol=1e-5, atol=1e-7)
    if device == "cpu":
        plans = [p for p in gc.get_objects() if isinstance(p, Plan)]
        over = [w for p in plans for w in p.graph.work if writes_over(p, w)]
        assert any(w.can_fault for w in over)


@pytest.mark.parametrize("device", PRESENT)
def test_softmax_over_what_it_is_made_of(device, monkeypatch):
    monkeypatch.setattr(overlay, "LEAST", 1)
    x, w = (
        pn.tensor(RNG.normal(size=(30, 30)).astype("float32"), device=device)
        for _ in range(2)
    )

    def attend(x, w):
        scores = pn.softmax(x @ w * 0.3, -1)
        return pn.log_softmax(scores @ x, -1) @ w

    replay = pn.compile(attend)
    for _ in range(3):
        np.testing.assert_allclose(
            replay(x, w).numpy(), attend(x, w).numpy(), rtol=1e-5, atol=1e-5
        )
    if device == "cpu":
        plans = [p for p in gc.get_objects() if isinstance(p, Plan)]
        assert any(w.row and writes_over(p, w) for p in plans for w in p.graph.work)
