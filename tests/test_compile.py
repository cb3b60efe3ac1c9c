"""Compiled functions: the same numbers as eager, states found, guards kept."""

import numpy as np
import pytest

import portanet as pn
from portanet.compiler.lazy import TraceError
from portanet.ops import optimise
from tests.conformance import as_tuple, cases_on, check_value, typed, wide
from tests.test_operators import CELLS, params

LISTED = [c for c in CELLS if c[2] in ("float32", "int32", "bool", "uint32")]


@pytest.mark.parametrize("op, device, dtype", params(LISTED))
def test_every_operator_compiled_is_within_its_bound(op, device, dtype):
    for case in cases_on(op, dtype, device):
        args = typed(case, dtype)
        xs = [pn.tensor(a, t, device) for a, t in args]
        run = pn.compile(lambda *a, static=case.static: op(*a, **static))
        with np.errstate(all="ignore"):
            want = as_tuple(op.reference(*wide(args), **case.static))
        for _ in range(2):
            got = as_tuple(run(*xs))
            for g, w in zip(got, want, strict=True):
                check_value(g.value, w, op.ulps, f"{op.name} compiled {case.static}")


def net(device, seed=0):
    rng = np.random.default_rng(seed)
    sizes = [(5, 16), (16,), (16, 3), (3,)]
    return [
        pn.tensor(0.3 * rng.normal(size=s), "float32", device, requires_grad=True)
        for s in sizes
    ]


def batch(device, n=8, seed=1):
    rng = np.random.default_rng(seed)
    x = pn.tensor(rng.normal(size=(n, 5)), "float32", device)
    return x, pn.tensor(rng.integers(0, 3, n), "int32", device)


def adam_step(weights):
    device = weights[0].device
    moments = [(pn.zeros_like(w.detach()), pn.zeros_like(w.detach())) for w in weights]
    rate, count = pn.tensor(0.01, device=device), pn.tensor(0.0, device=device)

    def step(x, y):
        a, b, c, d = weights
        loss = pn.cross_entropy(pn.relu(x @ a + b) @ c + d, y)
        loss.backward()
        with pn.no_grad():
            count.assign(count + 1)
            for w, (m, v) in zip(weights, moments, strict=True):
                new = optimise.adam(
                    w, w.grad, m, v, rate, count, beta1=0.9, beta2=0.999, eps=1e-8,
                    weight_decay=0.0, decoupled=False,
                )  # fmt: skip
                for old, value in zip((w, m, v), new, strict=True):
                    old.assign(value)
                w.zero_grad()
        return loss

    step.rate = rate
    return step


def test_a_training_step_gives_the_losses_of_eager(device):
    x, y = batch(device)
    eager, compiled = net(device), net(device)
    run, step = pn.compile(adam_step(compiled)), adam_step(eager)
    for _ in range(20):
        assert abs(step(x, y).item() - run(x, y).item()) < 1e-5
    for a, b in zip(eager, compiled, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)
    # The first call traces with moments that are still views of one zero.
    assert sum(map(len, run.traces.values())) == 1


def test_a_changed_learning_rate_is_obeyed(device):
    x, y = batch(device)
    weights = net(device)
    step = adam_step(weights)
    run = pn.compile(step)
    run(x, y)
    step.rate.assign(pn.tensor(0.0, device=device))
    before = [w.numpy() for w in weights]
    run(x, y)
    for w, old in zip(weights, before, strict=True):
        np.testing.assert_array_equal(w.numpy(), old)


def test_a_new_batch_size_is_traced_anew_and_both_are_kept(device):
    run = pn.compile(lambda x: (x * 2).sum())
    for n in (3, 5, 3, 5):
        assert run(pn.ones(n, device=device)).item() == 2 * n
    assert len(run.traces) == 2


def test_a_state_assigned_from_outside_is_seen(device):
    w = pn.tensor([1.0, 2.0], device=device)
    run = pn.compile(lambda x: x * w)
    x = pn.tensor([1.0, 1.0], device=device)
    run(x)
    w.assign(pn.tensor([5.0, 6.0], device=device))
    np.testing.assert_array_equal(run(x).numpy(), [5, 6])


def test_a_state_in_another_layout_is_traced_anew(device):
    w = pn.ones((2, 3), device=device) * 1
    run = pn.compile(lambda x: x + w)
    x = pn.zeros((2, 3), device=device)
    run(x)
    w.assign((pn.arange(6, dtype="float32", device=device).reshape(3, 2)).mT)
    np.testing.assert_array_equal(run(x).numpy(), [[0, 2, 4], [1, 3, 5]])


def test_random_numbers_go_on_from_call_to_call(device):
    run = pn.compile(lambda x: x + pn.rand(4, device=device))
    x = pn.zeros(4, device=device)
    pn.manual_seed(3)
    got = [run(x).numpy() for _ in range(3)]
    pn.manual_seed(3)
    want = [pn.rand(4, device=device).numpy() for _ in range(3)]
    np.testing.assert_array_equal(got, want)


def test_gradients_left_by_the_step_are_there_after_each_replay(device):
    w = pn.tensor([1.0, 2.0], device=device, requires_grad=True)

    def step(x):
        w.zero_grad()
        (w * x).sum().backward()

    run = pn.compile(step)
    for k in (1.0, 2.0, 3.0):
        run(pn.full((2,), k, device=device))
        np.testing.assert_array_equal(w.grad.numpy(), [k, k])


def test_gradients_accumulate_over_replays(device):
    w = pn.tensor([1.0, 2.0], device=device, requires_grad=True)
    run = pn.compile(lambda x: (w * x).sum().backward())
    x = pn.ones(2, device=device)
    for k in (1, 2, 3, 4):
        run(x)
        np.testing.assert_array_equal(w.grad.numpy(), [k, k])


def test_two_replays_of_the_same_inputs_are_equal_bit_for_bit(device):
    rng = np.random.default_rng(0)
    x = pn.tensor(rng.normal(size=(33, 65)), "float32", device)
    run = pn.compile(lambda x: pn.softmax(pn.gelu(x) @ x.mT).sum(axis=0))
    assert run(x).numpy().tobytes() == run(x).numpy().tobytes()


def test_results_of_earlier_replays_are_not_overwritten(device):
    run = pn.compile(lambda x: x + 1)
    first = run(pn.zeros(3, device=device))
    run(pn.ones(3, device=device))
    np.testing.assert_array_equal(first.numpy(), [1, 1, 1])


def test_a_chain_is_one_launch(device):
    run = pn.compile(lambda x: pn.exp(pn.sin(x) * 2 + 1) / 3)
    run(pn.ones(5, device=device))
    (trace,) = next(iter(run.traces.values()))
    assert len(trace.plan.launches) == 1


def test_reading_a_value_in_a_trace_names_the_line(device):
    def step(x):
        return x * x.sum().item()

    with pytest.raises(TraceError, match=r"test_compile.py:\d+ in step reads the value"):
        pn.compile(step)(pn.ones(3, device=device))
    assert (pn.ones(3, device=device) + 1).sum().item() == 6  # nothing is left behind


def test_a_branch_on_a_value_is_refused(device):
    def step(x):
        return x if x.sum() > 0 else -x

    with pytest.raises(TraceError, match="reads the value of a tensor"):
        pn.compile(step)(pn.ones(3, device=device))


def test_a_result_with_a_history_is_refused_with_the_cure(device):
    w = pn.ones(2, device=device, requires_grad=True)
    with pytest.raises(TraceError, match=r"call backward\(\) inside"):
        pn.compile(lambda x: x * w)(pn.ones(2, device=device))


def test_an_exception_in_the_step_leaves_states_as_they_were(device):
    w = pn.tensor([1.0, 2.0], device=device)

    def step(x):
        w.assign(w * x)
        raise KeyError("on purpose")

    run = pn.compile(step)
    with pytest.raises(KeyError):
        run(pn.ones(2, device=device))
    np.testing.assert_array_equal(w.numpy(), [1, 2])


def looked_at(device):
    run = pn.compile(lambda x, w: pn.softmax(pn.gelu(x @ w)))
    x, w = pn.ones((4, 8), device=device), pn.ones((8, 3), device=device)
    run(x, w)
    return run, x, w


def test_explain_names_operators_lines_and_shapes(device):
    run, *_ = looked_at(device)
    text = run.explain()
    assert "matmul" in text and "gelu" in text and "test_compile.py:" in text
    assert "4x3" in text and "the first call" in text


def test_profile_times_each_launch_and_changes_nothing(device):
    w = pn.zeros(3, device=device) * 1
    run = pn.compile(lambda x: w.assign(w + x))
    x = pn.ones(3, device=device)
    text = run.profile(x)
    assert "GFLOP/s" in text
    np.testing.assert_array_equal(w.numpy(), [1, 1, 1])  # one call, whatever was timed


def test_the_graph_is_a_picture_and_the_trace_a_timeline(tmp_path, device):
    import json
    import xml.etree.ElementTree as tree

    run, x, w = looked_at(device)
    run.graph(tmp_path / "plan.svg")
    root = tree.parse(tmp_path / "plan.svg").getroot()
    boxes = [e for e in root.iter() if e.tag.endswith("title")]
    run.chrome_trace(tmp_path / "trace.json", x, w)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert len(boxes) == len(events) > 1
    assert all(event["dur"] > 0 for event in events)


def test_each_new_trace_is_explained(device):
    run = pn.compile(lambda x: x + 1)
    run(pn.ones(2, device=device))
    run(pn.ones(3, device=device))
    assert len(run.reasons) == 2 and "new shapes" in run.reasons[1]


def test_verify_compares_with_eager_and_leaves_states_right(device):
    x, y = batch(device)
    weights, plain = net(device), net(device)
    run, step = pn.compile(adam_step(weights), verify=True), adam_step(plain)
    for _ in range(3):
        run(x, y), step(x, y)
    for a, b in zip(weights, plain, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)


def test_explaining_before_the_first_call_says_what_to_do():
    with pytest.raises(RuntimeError, match="call it once first"):
        pn.compile(lambda x: x).explain()
