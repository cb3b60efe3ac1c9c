"""Gradients that lie among the temporaries of a compiled step: taken back when nobody else
holds them, and never wrong in the hands of who does."""

import gc
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import portanet as pn
from portanet import _c, nn, optim
from portanet.compiler import memory
from tests.test_interrupts import At, count_places, signalled

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
CLASSES = 5


def training(seed=0, width=48, **options):
    """(the eager step, the compiled one, a function that makes a batch, parameters) of one
    model; both start from the same values, each with parameters of its own."""
    made = []
    for wrap in (lambda f: f, lambda f: pn.compile(f, **options)):
        pn.manual_seed(seed)
        with pn.device("cpu"):
            model = nn.Sequential(
                nn.Linear(16, width), nn.GELU(), nn.Linear(width, width), nn.GELU(),
                nn.Linear(width, CLASSES),
            )  # fmt: skip
        rule = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

        def step(x, y, model=model, rule=rule):
            rule.zero_grad()
            loss = pn.cross_entropy(model(x), y)
            loss.backward()
            rule.step()
            return loss.detach()

        made.append((wrap(step), list(model.parameters())))
    rng = np.random.default_rng(seed)

    def data(rows=64):
        x = pn.tensor(rng.normal(size=(rows, 16)).astype("float32"))
        return x, pn.tensor(rng.integers(0, CLASSES, rows).astype("int32"))

    return *made, data


def plans(run):
    return [t.plan for found in run.traces.values() for t in found]


def check(eager, compiled):
    """Parameters and gradients of both are the same."""
    for p, q in zip(eager, compiled, strict=True):
        np.testing.assert_allclose(q.grad.numpy(), p.grad.numpy(), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(q.numpy(), p.numpy(), rtol=1e-3, atol=1e-6)


def in_turn(count, eager, compiled, data, between=lambda k, parameters: None, rows=()):
    """So many steps of both, checked after each."""
    (step, ps), (run, qs) = eager, compiled
    for k in range(count):
        batch = data(*rows)
        a, b = step(*batch).item(), run(*batch).item()
        assert b == pytest.approx(a, rel=1e-4)
        check(ps, qs)
        between(k, qs)


# Where they lie -----------------------------------------------------------------------------


def test_gradients_share_the_memory_of_temporaries():
    eager, compiled, data = training()
    in_turn(3, eager, compiled, data)
    (plan,) = plans(compiled[0])
    assert len(plan.lent) == len(compiled[1]) == 6
    alone = memory.least(plan.graph).nbytes
    grads = sum(p.grad.value.buffer.nbytes for p in compiled[1])
    assert plan.memory.nbytes < alone + grads
    assert plan.peak == plan.memory.nbytes + 4  # and the loss
    wholes = {id(p.grad.value.buffer.whole) for p in compiled[1]}
    assert wholes == {id(plan.blocks[0])}


def test_no_two_values_that_live_at_once_share_a_byte():
    from tests.test_passes import check_apart

    eager, compiled, data = training()
    in_turn(1, eager, compiled, data)
    (plan,) = plans(compiled[0])
    spans = memory.lifetimes(plan.graph, plan.lent)
    end = len(plan.graph.work) - 1
    assert all(spans[s][1] == end for s in plan.lent)
    check_apart(plan.graph, spans, plan.memory)


def test_gradients_that_would_not_lower_the_peak_have_their_own_memory():
    p = pn.ones(1000, device="cpu").requires_grad_()

    @pn.compile
    def step(x):  # no temporary lives anywhere
        p.grad = None
        (p * x).sum().backward()

    for k in range(3):
        step(pn.full((1000,), float(k), device="cpu"))
        assert (p.grad.numpy() == k).all()
    assert not plans(step)[0].lent


def test_replays_make_no_objects_for_gradients():
    eager, compiled, data = training()
    in_turn(3, eager, compiled, data)
    ids = [(id(p.grad), id(p.grad.value), id(p.grad.value.buffer)) for p in compiled[1]]
    in_turn(5, eager, compiled, data)
    assert ids == [
        (id(p.grad), id(p.grad.value), id(p.grad.value.buffer)) for p in compiled[1]
    ]


# Held ---------------------------------------------------------------------------------------


HOLDERS = {
    "tensor": lambda g: g,
    "detached": lambda g: g.detach(),
    "transposed": lambda g: g.T,
    "sliced": lambda g: g[1:],
    "array": lambda g: g.value,
    "NumPy view": lambda g: np.frombuffer(g.value.buffer, np.float32),
    "memoryview": lambda g: memoryview(g.value.buffer),
    "part": lambda g: _c.part(g.value.buffer, 64, 64),
    "DLPack": lambda g: np.from_dlpack(g),
}


def values(held):
    if isinstance(held, pn.Tensor):
        return held.numpy().copy()
    if hasattr(held, "layout"):
        return held.numpy()
    return np.frombuffer(held, np.float32).copy()


@pytest.mark.parametrize("how", HOLDERS)
def test_a_held_gradient_keeps_its_values(how):
    eager, compiled, data = training()
    in_turn(2, eager, compiled, data)
    held, wanted = [], []

    def hold(k, parameters):
        for p in parameters[:1] if k < 3 else ():
            held.append(HOLDERS[how](p.grad))
            wanted.append(values(held[-1]))

    in_turn(6, eager, compiled, data, hold)
    for h, w in zip(held, wanted, strict=True):
        np.testing.assert_array_equal(values(h), w)
    assert not np.array_equal(wanted[0], wanted[1])


def test_held_gradients_take_their_own_bytes_alone():
    eager, compiled, data = training()
    in_turn(3, eager, compiled, data)
    batch, (run, parameters) = data(), compiled
    gc.collect()
    before, held = _c.memory()["used"], []
    for _ in range(20):
        run(*batch)
        held.append([p.grad for p in parameters])
    run(*batch)
    gc.collect()
    grads = sum(p.grad.value.buffer.nbytes for p in parameters)
    assert _c.memory()["used"] - before < 20 * grads * 1.3 + 4096


def test_a_numpy_view_costs_one_arena_until_it_goes():
    eager, compiled, data = training()
    in_turn(3, eager, compiled, data)
    batch, (run, parameters) = data(), compiled
    before = _c.memory()["used"]
    view = np.frombuffer(parameters[0].grad.value.buffer, np.float32)
    for _ in range(10):
        run(*batch)
    arena = plans(run)[0].memory.nbytes
    assert _c.memory()["used"] - before < 1.3 * arena
    del view
    assert _c.memory()["used"] <= before + 64


def test_gradients_outlive_the_compiled_function():
    eager, compiled, data = training()
    in_turn(2, eager, compiled, data)
    parameters = compiled[1]
    wanted = [p.grad.numpy() for p in parameters]
    del compiled
    gc.collect()
    for p, w in zip(parameters, wanted, strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), w)


# What a user does with them between steps ---------------------------------------------------


def forget(k, parameters):
    for p in parameters:
        p.grad = None


def own(k, parameters):
    for p in parameters[::2]:
        p.grad = pn.ones(p.shape) * k


def transposed(k, parameters):
    parameters[2].grad = parameters[2].grad.T


def exchanged(k, parameters):
    a, b = parameters[3], parameters[1]
    a.grad, b.grad = b.grad, a.grad


def clipped(k, parameters):
    nn.utils.clip_grad_norm_(parameters, 0.01)


def accumulated(k, parameters):
    (parameters[0] * 2).sum().backward()


def backward_of_another(k, parameters):
    sum((p * p).sum() for p in parameters).backward()


@pytest.mark.parametrize(
    "between",
    [forget, own, transposed, exchanged, clipped, accumulated, backward_of_another],
)
def test_steps_are_right_whatever_became_of_the_gradients(between):
    eager, compiled, data = training()
    in_turn(6, eager, compiled, data, between)


def test_a_gradient_as_an_argument_and_as_a_state():
    eager, compiled, data = training()
    in_turn(2, eager, compiled, data)
    run, parameters = compiled
    shown, kept = pn.tensor(parameters[2].numpy() * 0), pn.zeros((48, 48)) * 1

    @pn.compile
    def store(g):  # another function reads what lies in the first one's memory
        kept.assign(kept * 0.5 + g)
        shown.assign(parameters[2].grad * 1)
        return (g * 2).sum()

    wanted = np.zeros((48, 48), np.float32)
    for _ in range(4):
        in_turn(1, eager, compiled, data)
        g = parameters[2].grad.numpy()
        wanted = wanted * 0.5 + g
        assert store(parameters[2].grad).item() == pytest.approx(2 * g.sum(), rel=1e-3)
        np.testing.assert_allclose(kept.numpy(), wanted, rtol=1e-4)
        np.testing.assert_array_equal(shown.numpy(), g)


def test_a_state_that_is_a_gradient_of_the_step_before():
    """The step reads a state whose buffer lies among the temporaries that it writes."""
    found = []
    for wrap in (lambda f: f, pn.compile):
        pn.manual_seed(3)
        w = pn.randn(64, 64, device="cpu").requires_grad_()
        last = pn.zeros((64, 64), device="cpu") * 1

        def step(x, w=w, last=last):
            w.grad = None
            (pn.tanh(pn.tanh(x @ w) @ w) ** 2).mean().backward()
            with pn.no_grad():
                w.assign(w - 0.1 * w.grad - 0.05 * last)
            return (last * last).sum()

        run, rng, losses = wrap(step), np.random.default_rng(0), []
        for _ in range(5):
            x = pn.tensor(rng.normal(size=(256, 64)).astype("float32"))
            losses.append(run(x).item())
            last.assign(w.grad)  # the same memory
        found.append((losses, w.numpy(), w.grad.numpy()))
    assert plans(run)[0].lent
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-6)


def test_the_arguments_of_a_step_may_be_its_gradients():
    """x is the gradient of the step before, so its memory is read and must not be written."""
    found = []
    for wrap in (lambda f: f, pn.compile):
        pn.manual_seed(3)
        w = pn.randn(64, 64, device="cpu").requires_grad_()

        def step(x, w=w):
            w.grad = None
            (pn.tanh(pn.tanh(x @ w) @ w) ** 2).mean().backward()
            return x.sum()

        run, made = wrap(step), []
        run(pn.ones((64, 64), device="cpu"))
        for _ in range(4):
            made.append(run(w.grad * 100).item())
            made.append(run(w.grad).item())
        found.append([*made, w.grad.numpy()])
    assert plans(run)[0].lent
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-6)


def test_steps_that_add_to_gradients_go_beside_steps_that_do_not():
    found = []
    for wrap in (lambda f: f, pn.compile):
        (_, ps), _, data = training()
        model = [p.requires_grad_() for p in ps]

        def loss_of(x, y, model=model):
            for i in (0, 2):
                x = pn.gelu(x @ model[i].T + model[i + 1])
            return pn.cross_entropy(x @ model[4].T + model[5], y)

        def first(x, y, model=model, loss_of=loss_of):
            for p in model:
                p.grad = None
            loss_of(x, y).backward()

        def more(x, y, model=model, loss_of=loss_of):
            loss_of(x, y).backward()

        first, more = wrap(first), wrap(more)
        for _ in range(3):
            first(*data()), more(*data()), more(*data())
        found.append([p.grad.numpy() for p in model])
    assert plans(first)[0].lent and not any(p.lent for p in plans(more))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-6)


# Other plans --------------------------------------------------------------------------------


def test_two_functions_that_share_parameters():
    (step, ps), (run, qs), data = training()
    again = pn.compile(run.function)
    for k in range(8):
        batch = data()
        step(*batch), (run, again)[k % 3 == 1](*batch)
        check(ps, qs)


def test_another_shape_in_between():
    eager, compiled, data = training()
    for rows in (64, 64, 3, 64, 17, 3, 64, 64):
        in_turn(1, eager, compiled, data, rows=(rows,))
    assert len(plans(compiled[0])) == 3
    assert any(p.lent for p in plans(compiled[0]))


def test_verify_compares_and_leaves_gradients_right():
    eager, compiled, data = training(verify=True)
    in_turn(2, eager, compiled, data)
    held = compiled[1][0].grad
    wanted = held.numpy()
    in_turn(2, eager, compiled, data, rows=(9,))  # a new trace, compared too
    np.testing.assert_array_equal(held.numpy(), wanted)


def test_clipping_inside_the_step_reads_the_gradients_of_the_step():
    found = []
    for wrap in (lambda f: f, pn.compile):
        pn.manual_seed(0)
        with pn.device("cpu"):
            model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, CLASSES))
        rule = optim.AdamW(model.parameters(), lr=0.01)

        def step(x, y, model=model, rule=rule):
            rule.zero_grad()
            pn.cross_entropy(model(x), y).backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            rule.step()
            return norm

        run, rng, norms = wrap(step), np.random.default_rng(0), []
        for _ in range(4):
            x = pn.tensor(rng.normal(size=(64, 16)).astype("float32"))
            y = pn.tensor(rng.integers(0, CLASSES, 64).astype("int32"))
            norms.append(run(x, y).item())
        found.append([norms, *(p.grad.numpy() for p in model.parameters())])
    assert plans(run)[0].lent
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-6)


def test_profiling_leaves_gradients_as_they_are():
    eager, compiled, data = training()
    in_turn(2, eager, compiled, data)
    run, parameters = compiled
    assert "us in all" in run.profile(*data())
    check(eager[1], parameters)
    in_turn(2, eager, compiled, data)


def test_an_exported_step_leaves_the_gradients_of_the_compiled_one(tmp_path):
    eager, compiled, data = training()
    in_turn(2, eager, compiled, data)
    run, parameters = compiled
    path = tmp_path / "step.pnx"
    pn.export(run.function, data(), path)
    check(eager[1], parameters)
    loaded = pn.load_exported(path)
    for _ in range(3):
        batch = data()
        wanted = eager[0](*batch).item()
        assert loaded(*batch).item() == pytest.approx(wanted, rel=1e-4)
        assert run(*batch).item() == pytest.approx(wanted, rel=1e-4)
        check(eager[1], parameters)


# Failing replays ----------------------------------------------------------------------------


def test_a_replay_that_fails_leaves_no_gradient():
    eager, compiled, data = training()
    in_turn(3, eager, compiled, data)
    run, parameters = compiled
    held, before = parameters[0].grad, [p.numpy() for p in parameters]
    wanted = held.numpy()
    x, y = data()
    with pytest.raises(IndexError, match="out of range"):
        run(x, y + CLASSES)
    assert plans(run)[0].lent and all(p.grad is None for p in parameters)
    np.testing.assert_array_equal(held.numpy(), wanted)
    for p, old in zip(parameters, before, strict=True):
        np.testing.assert_array_equal(p.numpy(), old)
    in_turn(3, eager, compiled, data)


def linear():
    """A compiled step whose gradients are known: counts up from step to step."""
    w = pn.zeros((32, 32), device="cpu").requires_grad_()
    v = pn.zeros((32, 32), device="cpu").requires_grad_()
    steps = pn.zeros((), device="cpu") * 1

    def step(x):
        w.grad = v.grad = None
        steps.assign(steps + 1)
        a = x * 2 + 1  # 3
        b = pn.flip(a, axis=0) @ w  # temporaries that lie where gradients will
        ((b + x @ v) * steps).sum().backward()
        return steps * 1

    def right():
        n = steps.item()
        for p, wanted in ((w, 3 * 64 * n), (v, 64 * n)):
            if p.grad is not None:
                assert (p.grad.numpy() == wanted).all(), (p.grad, n)
        return int(n)

    return pn.compile(step), pn.ones((64, 32), device="cpu"), right, (w, v)


def test_an_interrupt_anywhere_leaves_right_gradients_or_none():
    run, x, right, parameters = linear()
    for _ in range(3):
        run(x)
    assert plans(run)[0].lent

    def action():
        run(x)
        held.append(parameters[0].grad)  # so the next has to move it
        run(x)

    held = []
    total = count_places(action)
    for k in range(1, total):
        before = right()
        wanted = [h.numpy() for h in held]
        with At(k):
            action()
        assert before <= right() <= before + 2, f"interrupted at {k}"
        for h, old in zip(held, wanted, strict=False):
            np.testing.assert_array_equal(h.numpy(), old)
        if k % 5 == 0:
            held.clear()
    run(x)
    assert right() and parameters[0].grad is not None


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to a thread")
def test_a_signal_during_a_replay_leaves_right_gradients():
    run, x, right, _ = linear()
    run(x), run(x)
    for _ in signalled(lambda: run(x), 30):
        right()
    assert right() >= 2


def test_work_in_another_thread_reads_a_gradient_while_steps_go_on():
    """The other thread's product runs without Python's lock, on the gradient's memory."""
    _, (run, parameters), data = training(width=320)
    batch, wrong = data(2000), []
    run(*batch), run(*batch)
    assert plans(run)[0].lent

    def read(g, ready, stop):
        wanted = (g @ g).numpy()
        ready.set()
        while not stop.is_set():
            if not np.array_equal((g @ g).numpy(), wanted):
                wrong.append(g)

    for _ in range(5):
        ready, stop = threading.Event(), threading.Event()
        reader = threading.Thread(target=read, args=(parameters[2].grad, ready, stop))
        reader.start()
        ready.wait()
        run(*batch), run(*batch)
        stop.set()
        reader.join()
    assert not wrong


# The part of it that is in C ----------------------------------------------------------------


def test_a_part_is_vacated_where_somebody_holds_it():
    whole = _c.alloc(256)
    np.frombuffer(whole, np.uint8)[:] = 7
    buffers = [None, _c.part(whole, 64, 64)]
    assert _c.vacate(buffers, 1, 1) and buffers[1].whole is whole  # nobody else
    held = buffers[1]
    view = memoryview(held)
    assert not _c.vacate(buffers, 1, 1) and held.whole is whole  # a view points there
    view.release()
    assert _c.vacate(buffers, 1, 1) and held.whole is None and held.offset == 0
    np.frombuffer(whole, np.uint8)[:] = 1
    assert bytes(held) == b"\7" * 64
    assert _c.vacate(buffers, 1, 1) and bytes(held) == b"\7" * 64  # again
    with pytest.raises(TypeError, match="no cpu buffer"):
        _c.vacate(buffers, 0, 1)
    with pytest.raises(IndexError):
        _c.vacate(buffers, 2, 1)


def test_a_buffer_with_parts_stays_where_it_is():
    buffers = [_c.alloc(256)]
    held, part = buffers[0], _c.part(buffers[0], 0, 64)
    assert not _c.vacate(buffers, 0, 1)
    del part
    assert _c.vacate(buffers, 0, 1) and held.nbytes == 256


# How much in all ----------------------------------------------------------------------------


@pytest.mark.parametrize("workload", ["mlp-64", "mlp-784", "resnet-9", "lstm", "gpt"])
def test_a_step_takes_no_more_memory_than_pytorchs(workload):
    """As benchmarks/steps/memory.py measured that; the record says when and with which."""
    folder = Path(__file__).parent.parent / "benchmarks"
    record = json.loads((folder / "results" / "memory.json").read_text())
    script = [sys.executable, folder / "steps" / "memory.py"]
    made = subprocess.run(
        [*script, "--side", workload, "portanet"], capture_output=True, text=True
    )
    assert not made.returncode, made.stderr
    assert int(made.stdout) <= record[workload]["torch_bytes"]
