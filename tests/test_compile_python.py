"""What a trace takes for granted of Python: arguments that are no tensors, attributes of
modules, options of optimizers; and what it can't hold, which is an error with the cure."""

import copy
import dataclasses
import threading

import numpy as np
import pytest

import portanet as pn
from portanet import nn, optim
from portanet.compiler.lazy import TraceError
from portanet.optim import lr_scheduler
from tests.conftest import PRESENT


def ones(*shape):
    return pn.ones(shape or (2,))


def alike(got, want):
    np.testing.assert_array_equal(got.numpy(), np.asarray(want, np.float32))


# Arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, wanted",
    [
        ([0.0, -0.0], [np.inf, -np.inf]),
        ([1, True, 1.0], [1, 1, 1]),
        ([{1}, {1, 2}], [1, 0.5]),
    ],
)
def test_arguments_that_differ_have_plans_of_their_own(values, wanted):
    @pn.compile
    def run(x, value):
        return x / (len(value) if isinstance(value, set) else x * value)

    for value, want in zip(values, wanted, strict=True):
        alike(run(ones(1), value), [want])
    assert len(run.reasons) == len(values)


def test_a_set_that_changes_is_seen():
    run, known = pn.compile(lambda x, known: x * len(known)), {1}
    alike(run(ones(), known), [1, 1])
    known.add(2)
    alike(run(ones(), known), [2, 2])


def test_a_numpy_array_is_refused_with_the_cure():
    with pytest.raises(TypeError, match=r"NumPy array of shape \(2,\).*pn.asarray"):
        pn.compile(lambda x, a: x + pn.tensor(a))(ones(), np.ones(2))


@dataclasses.dataclass
class Pair:
    a: pn.Tensor
    scale: float = 1.0


def test_dataclasses_are_seen_through():
    run = pn.compile(lambda p: Pair(p.a * p.scale, p.scale))
    found = run(Pair(ones() * 1, 2.0))
    alike(found.a, [2, 2])
    assert found.scale == 2.0
    alike(run(Pair(ones() * 3, 2.0)).a, [6, 6])
    alike(run(Pair(ones() * 1, 5.0)).a, [5, 5])
    assert run.reasons == ["the first call", "5.0 in place of 2.0"]


class Holder:
    def __init__(self, x):
        self.x = x


@pytest.mark.parametrize("make", [Holder, lambda x: {x}, lambda x: frozenset([x])])
def test_tensors_hidden_in_a_result_are_refused(make):
    with pytest.raises(TraceError, match="tuple, list, dict or dataclass"):
        pn.compile(lambda x: make(x * 2))(ones())


def grow(x, found):
    found.append(x * 2)
    return x + 1


def exchange(x, found):
    found[0] = x * 2
    return x + 1


@pytest.mark.parametrize("function", [grow, exchange])
def test_a_list_that_the_function_changes_is_refused(function):
    with pytest.raises(TraceError, match="changes what is in a list.*return"):
        pn.compile(function)(ones(), [ones()])


# What is kept outside ------------------------------------------------------------------------


def test_a_tensor_kept_beyond_its_trace_names_both_lines():
    kept = []

    def step(x):
        kept.append(x * 2)
        return x + 1

    pn.compile(step)(ones())
    uses = [lambda y: y + 1, lambda y: y.numpy(), repr, pn.compile(lambda y: y * 2)]
    uses.append(lambda y: pn.compile(lambda x: x + y)(ones()))
    for use in uses:
        with pytest.raises(TraceError, match=r"test_compile_python.*in step computed"):
            use(kept[0])


def test_a_history_may_not_stay_in_a_tensor_from_outside():
    w, total = ones().requires_grad_(), pn.zeros(2)

    def step(x):
        kept = total
        kept += w * x
        return x

    with pytest.raises(TraceError, match=r"assigned a result with a history.*detach"):
        pn.compile(step)(ones())
    alike(total, [0, 0])


def test_a_gradient_from_outside_is_read_anew():
    p, given = pn.zeros(2).requires_grad_(), ones()
    rule = optim.SGD([p], lr=1.0)

    @pn.compile
    def step():
        p.grad = given
        rule.step()

    step()
    given.assign(ones() * 10)
    step()
    alike(p.detach(), [-11, -11])


def test_gradients_of_what_the_function_makes_are_not_kept():
    def step(x):
        inner = (x * 2).requires_grad_()
        (inner * inner).sum().backward()
        return inner.grad * 1

    run = pn.compile(step, verify=True)
    alike(run(ones()), [4, 4])
    plain = pn.compile(lambda x: (step(x), None)[1])
    plain(ones())
    assert "0 launches" in plain.explain()


def test_copies_of_a_tensor_from_outside_are_read_anew():
    x = ones()
    run = pn.compile(lambda: copy.deepcopy(x) + copy.copy(x))
    alike(run(), [2, 2])
    x.assign(x * 5)
    alike(run(), [10, 10])


# Modules -----------------------------------------------------------------------------------


def replaced_weight(model):
    model[0].weight = nn.Parameter(pn.ones((2, 2)) * 7)


def replaced_layer(model):
    model[0] = nn.Linear(2, 2)


def another_layer(model):
    model.append(nn.Linear(2, 2))


def one_layer_less(model):
    del model[1]


def another_rate(model):
    model[1].p = 1.0


def a_hook(model):
    model[0].register_forward_hook(lambda m, args, y: y * 0)


def evaluated(model):
    model.train()


def frozen_and_evaluated(model):
    model[1].training = True


CHANGES = [
    replaced_weight, replaced_layer, another_layer, one_layer_less, another_rate, a_hook,
    evaluated, frozen_and_evaluated,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_module_is_traced_anew(change):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0), nn.ReLU()).eval()
    model[1].p = 0.0
    run, x = pn.compile(lambda x: model(x).detach()), pn.randn(3, 2)
    run(x), run(x)
    assert len(run.reasons) == 1
    change(model)
    if change is another_rate:
        model.train()
    np.testing.assert_allclose(run(x).numpy(), model(x).numpy(), rtol=1e-6)
    assert len(run.reasons) == (2 if run.reasons[1:] else 1)


def test_what_a_module_holds_that_nobody_reads_may_change():
    model = nn.Linear(2, 2)
    run = pn.compile(lambda x: model(x).detach())
    for k in range(3):
        model.steps = k
        run(ones(1, 2))
    assert len(run.reasons) == 1


def test_a_hook_that_is_removed_is_gone():
    model = nn.Linear(2, 2)
    run = pn.compile(lambda x: model(x).detach())
    with model.register_forward_hook(lambda m, args, y: y * 0):
        alike(run(ones(1, 2)), [[0, 0]])
    np.testing.assert_allclose(run(ones(1, 2)).numpy(), model(ones(1, 2)).numpy())


def test_a_function_may_switch_between_training_and_evaluation():
    model, x = nn.Dropout(0.5), pn.ones(64)

    @pn.compile
    def run(x):
        before = model(x)
        model.eval()
        return before, model(x)

    for _ in range(3):
        model.train()
        before, after = run(x)
        assert (before.numpy() == 0).any() and not model.training
        alike(after, np.ones(64))
    assert len(run.reasons) == 1
    before, _ = run(x)  # evaluating from the start
    alike(before, np.ones(64))
    assert run.reasons[1:] == ["Dropout.training is False in place of True"]


class Remembers(nn.Module):
    def __init__(self):
        self.last, self.count = pn.zeros(2), 0

    def forward(self, x):
        self.last = self.last + x
        return self.last * 1


class Counts(Remembers):
    def forward(self, x):
        self.count += 1
        return x * self.count


@pytest.mark.parametrize("kind, name", [(Remembers, "last"), (Counts, "count")])
def test_a_module_that_keeps_python_state_is_refused_with_the_cure(kind, name):
    model = kind()
    with pytest.raises(TraceError, match=rf"in forward .*\.{name}.*register_buffer"):
        pn.compile(model)(ones())
    alike(model.last, [0, 0])
    assert model.count == 0
    alike(model(ones()), [1, 1])  # eagerly it goes


def test_a_flag_that_a_module_sets_is_set_by_replays():
    class Once(nn.Module):
        def __init__(self):
            self.is_ready = False

        def forward(self, x):
            y = x if self.is_ready else x * 10
            self.is_ready = True
            return y

    model = Once()
    run = pn.compile(model)
    found = [run(ones(1)).item() for _ in range(3)]
    model.is_ready = False
    assert [*found, run(ones(1)).item(), run(ones(1)).item()] == [10, 1, 1, 10, 1]
    assert len(run.reasons) == 2 and model.is_ready


def test_a_cast_of_a_module_in_a_trace_is_refused():
    model = nn.Linear(2, 2)
    with pytest.raises(TraceError, match="float32 one of float16"):
        pn.compile(lambda x: model.half()(x.half()).detach())(ones(1, 2))
    assert model.weight.dtype is pn.float32 and model(ones(1, 2)).shape == (1, 2)


def test_a_module_may_be_made_inside():
    @pn.compile
    def run(x):
        return nn.Linear(2, 3)(x).detach()

    x = pn.randn(4, 2)
    pn.manual_seed(1)
    want = nn.Linear(2, 3)(x).numpy()
    for _ in range(2):
        pn.manual_seed(1)
        np.testing.assert_allclose(run(x).numpy(), want, rtol=1e-6)
    assert len(run.reasons) == 1


def test_a_compiled_module_has_what_the_module_has():
    run = pn.compile(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    assert len(list(run.parameters())) == 2
    x = pn.randn(3, 2)
    with pn.no_grad():
        run.eval()
        want = run.layers[0](x).numpy()
        np.testing.assert_allclose(run(x).numpy(), want, rtol=1e-6)
        again = copy.deepcopy(run)
        run.layers[0].weight.assign(run.layers[0].weight * 0)
        np.testing.assert_allclose(again(x).numpy(), want, rtol=1e-6)
    assert repr(run) == "<compiled Sequential, 1 plans>"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"function": 3}, "a function is expected, not int"),
        ({"function": len, "memory_limit": "1GB"}, "number of bytes, not '1GB'"),
        ({"function": len, "memory_limit": -1}, "number of bytes, not -1"),
    ],
)
def test_wrong_options_are_refused_at_once(options, message):
    with pytest.raises(TypeError, match=message):
        pn.compile(**options)


# Optimizers ----------------------------------------------------------------------------------


def trained(wrap, change, rule_of, make=None):
    """A parameter after steps, a change, and more."""
    p, q = (pn.full((2,), 4.0).requires_grad_() for _ in "pq")
    rule = rule_of([p])
    scheduler = make(rule) if make else None

    def step():
        rule.zero_grad()
        q.zero_grad()
        (p * p + q * q * 0.5).sum().backward()
        rule.step()
        if scheduler is not None:
            scheduler.step()

    run = wrap(step)
    for k in range(8):
        if k == 4:
            change(rule, q)
        run()
    return np.concatenate([p.numpy(), q.numpy(), [rule.param_groups[0]["lr"]]]), run


def momentum(rule, q):
    rule.param_groups[0]["momentum"] = 0.0


def decay(rule, q):
    rule.param_groups[0]["weight_decay"] = 0.5


def another_group(rule, q):
    rule.add_param_group({"params": [q], "lr": 0.5})


def nothing(rule, q):
    pass


def of_sgd(params):
    return optim.SGD(params, lr=0.0625, momentum=0.5)


@pytest.mark.parametrize("change", [momentum, decay, another_group])
def test_changed_options_of_an_optimizer_are_obeyed(change):
    want, _ = trained(lambda f: f, change, of_sgd)
    got, run = trained(pn.compile, change, of_sgd)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert len(run.reasons) == 2 and "another layout" not in run.reasons[1]


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda rule: lr_scheduler.ExponentialLR(rule, 0.5),
        lambda rule: lr_scheduler.CosineAnnealingLR(rule, 6),
        lambda rule: lr_scheduler.SequentialLR(
            rule,
            [lr_scheduler.LinearLR(rule, 0.1), lr_scheduler.ExponentialLR(rule, 0.5)],
            [3],
        ),
    ],
)
def test_a_scheduler_inside_the_step_goes_on_in_each_replay(make, verify):
    want, _ = trained(lambda f: f, nothing, of_sgd, make)
    got, run = trained(lambda f: pn.compile(f, verify=verify), nothing, of_sgd, make)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert len(run.reasons) == 1


def test_a_scheduler_that_steps_too_early_or_reads_is_refused():
    p = pn.zeros(2).requires_grad_()
    rule = optim.SGD([p], lr=1.0)
    scheduler = lr_scheduler.ExponentialLR(rule, 0.5)
    plateau = lr_scheduler.ReduceLROnPlateau(rule)

    def early():
        p.sum().backward()
        scheduler.step()
        rule.step()

    def reads():
        plateau.step(p.sum())

    def sets():
        rule.param_groups[0]["lr"] = 0.5

    for function, message in [
        (early, "the scheduler's after it"),
        (reads, "with what the function returns"),
        (sets, r"sets 'lr'.*step\(\) of a scheduler"),
    ]:
        with pytest.raises(TraceError, match=message):
            pn.compile(function)()
    assert scheduler.last_epoch == 0 and rule.param_groups[0]["lr"] == 1.0


def test_a_scheduler_is_not_exported(tmp_path):
    p = pn.zeros(2).requires_grad_()
    rule = optim.SGD([p], lr=1.0)
    scheduler = lr_scheduler.ExponentialLR(rule, 0.5)

    def step(x):
        (p * x).sum().backward()
        rule.step()
        scheduler.step()

    with pytest.raises(TraceError, match="export: .* scheduler"):
        pn.export(step, ones(), tmp_path / "step.pnx")
    assert scheduler.last_epoch == 0


def test_a_rate_that_is_read_as_a_number_is_the_one_of_the_day():
    p = pn.zeros(2).requires_grad_()
    rule = optim.SGD([p], lr=1.0)
    run = pn.compile(lambda: p.detach() + rule.param_groups[0]["lr"])
    alike(run(), [1, 1])
    rule.param_groups[0]["lr"] = 0.5
    alike(run(), [0.5, 0.5])


@pytest.mark.skipif(len(PRESENT) < 2, reason="a second device is needed")
def test_a_function_that_assigns_on_two_devices_is_refused():
    a, b = (pn.zeros(2, device=d) for d in PRESENT[:2])

    def step():
        a.assign(a + 1)
        b.assign(b + 1)

    with pytest.raises(TraceError, match="on .* and on .*stays on one device"):
        pn.compile(step)()
    alike(a, [0, 0])
    alike(b, [0, 0])


# Threads ---------------------------------------------------------------------------------------


def test_tensors_stay_as_they_are_for_others_while_a_function_is_traced():
    state, inside, go_on = ones(), threading.Event(), threading.Event()

    @pn.compile
    def step(x):
        state.assign(state + x)
        inside.set()
        assert go_on.wait(30)
        return state * 2

    thread = threading.Thread(target=step, args=(ones(),))
    thread.start()
    assert inside.wait(30)
    alike(state + 1, [2, 2])
    go_on.set()
    thread.join()
    alike(state, [2, 2])


def test_functions_that_share_states_may_be_called_from_threads():
    model = nn.Linear(4, 4)
    rule = optim.SGD(model.parameters(), lr=0.0)
    want = model(pn.ones((3, 4))).numpy()
    wrong = []

    @pn.compile
    def train(x):
        rule.zero_grad()
        model(x).sum().backward()
        rule.step()

    evaluate = pn.compile(pn.no_grad()(lambda x: model(x)))

    def work(function, check):
        for rows in (3, 4, 3, 5) * 4:
            y = function(pn.ones((rows, 4)))
            if check and not np.allclose(y.numpy()[:3], want, rtol=1e-5):
                wrong.append(y)

    threads = [
        threading.Thread(target=work, args=(f, f is evaluate))
        for f in (train, evaluate, train, evaluate)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
