"""Reductions side by side in one launch: which are joined, and what they compute."""

import numpy as np
import pytest

import portanet as pn
from portanet.arrays import Handle, layout
from portanet.compiler import beside, cost, explain
from portanet.compiler.graph import Graph, Work, program_of
from portanet.devices import Device
from portanet.scalars import trace
from portanet.shaders import variants
from portanet.shaders.step import CUT
from tests.null_backend import NullBackend
from tests.test_passes import graph_of
from tests.tint_compiler import compile_all


class Joining(NullBackend):
    """Binds as few buffers as WebGPU's default limits allow, and joins reductions."""

    max_operands = 7
    copies = frozenset(("reduce",))


@pytest.fixture
def place():
    return Device("null", Joining())


def joined(place, function, *shapes):
    """How many reductions each piece of work does, once they are joined."""
    graph = graph_of(place, function, *shapes)
    beside.join(graph, place.backend.copies, place.backend.max_operands)
    return [w.program.copies or 1 for w in graph.work if w.program is not None]


def sums(*xs):
    return tuple(x.sum(axis=0) for x in xs)


def test_sums_that_need_nothing_of_each_other_are_one_launch(place):
    assert joined(place, sums, (5, 3), (70, 8), (9, 2, 3)) == [3]


def test_no_more_are_joined_than_there_are_bindings(place):
    assert joined(place, sums, *[(5, 3)] * 5) == [3, 2]


def test_results_in_two_buffers_are_bound_each(place):
    graph = graph_of(place, sums, *[(5, 3)] * 5)
    made = [w.outs[0].slot for w in graph.work]
    for parts in (made[:3], made[3:]):  # as pack.py puts states of two formulas
        whole = graph.slot(2048)
        graph.packs[whole] = {s: 256 * k for k, s in enumerate(parts)}
    beside.join(graph, place.backend.copies, place.backend.max_operands)
    most = place.backend.max_operands
    pairs = [program_of(w) for w in graph.work]
    assert all(len(variants.kinds(program)) - 1 <= most for program, _ in pairs)
    assert len(pairs) < 5


def test_a_sum_that_reads_another_is_not_joined_to_it(place):
    assert joined(place, lambda x: x.sum(axis=0).sum(), (5, 3)) == [1, 1]


def test_only_the_same_reduction_is_joined(place):
    def several(x, y):
        return x.sum(axis=0), y.max(axis=0), y.sum(axis=0), x.max(axis=0)

    assert joined(place, several, (5, 3), (4, 2)) == [2, 2]
    assert (
        joined(place, lambda x, y: (pn.argmax(x), pn.argmax(y)), (5,), (4,)) == [1] * 2
    )


def test_a_sum_that_is_read_before_the_last_is_left_where_it_is(place):
    def several(x, y):
        a = x.sum(axis=0)
        return a, (y - a).sum(axis=0)

    assert joined(place, several, (5, 3), (4, 3)) == [1, 1]


def test_what_a_sum_reads_does_not_wait_where_it_adds_to_the_peak(place):
    def several(n, m):
        def function(x, y):
            a = pn.exp(x).sum(axis=0)
            for _ in range(3):
                y = y @ y  # while these run, exp(x) would wait
            return a, y, y.sum(axis=0)

        return joined(place, function, (n, 3), (m, m))

    assert several(100, 8) == [1, 1, 1, 2]
    assert several(cost.SLACK, 8) == [1, 1, 1, 2]  # less than at exp(x) itself
    assert several(cost.SLACK, 256) == [1, 1, 1, 1, 1]


def test_a_device_that_joins_nothing_has_the_launches_as_they_are():
    place = Device("null", NullBackend())
    graph = graph_of(place, sums, (5, 3), (4, 3))
    before = list(graph.work)
    beside.join(graph, (), 7)
    assert graph.work == before


def written(place, function, *shapes):
    """How many outputs each elementwise work has, once they are joined."""
    graph = graph_of(place, function, *shapes)
    beside.join(graph, place.backend.copies, place.backend.max_operands)
    return [len(w.outs) for w in graph.work if w.expression is not None]


def test_copies_into_regions_of_one_array_are_one_launch(place):
    for axis in range(3):
        assert written(
            place, lambda *xs: pn.concat(xs, axis=axis), *[(2, 3, 4)] * 3
        ) == [3]
    assert written(place, lambda x, y: pn.stack([x, y], axis=1), (5, 4), (5, 4)) == [2]
    assert written(place, lambda *xs: pn.concat(xs), *[(2, 3)] * 9) == [
        6,
        3,
    ]  # bindings
    assert written(place, lambda x, y: pn.concat([x, y]), (2, 3), (1, 3)) == [1, 1]


def test_numbers_put_into_one_array_are_one_launch(place, tables):
    def together(*xs):
        return pn.stack(xs)

    assert written(place, together, *[()] * 6) == [6]
    many = written(tables, together, *[()] * 40)
    assert many == [beside.REGIONS, 40 - beside.REGIONS]


def test_a_region_over_another_is_written_after_it(place):
    flat = layout((4, 3), pn.float32, place)
    graph = Graph(place)
    x, y, whole = (graph.slot(n) for n in (24, 24, 48))
    copy = trace(lambda x: x, (pn.float32,))
    for slot, row in ((x, 0), (y, 1)):
        region = flat.view((2, 3), (3, 1), 3 * row)
        ins = [Handle(slot, layout((2, 3), pn.float32, place))]
        graph.work.append(Work([Handle(whole, region)], ins, "copy", "", copy))
    beside.join(graph, place.backend.copies, 7)
    assert [len(w.outs) for w in graph.work] == [1, 1]
    graph.work[1].outs = [Handle(whole, flat.view((2, 3), (3, 1), 6))]
    beside.join(graph, place.backend.copies, 7)
    assert [len(w.outs) for w in graph.work] == [2]


# Elementwise work on many arrays -----------------------------------------------------------


class Tables(NullBackend):
    """Joins what one formula makes of many arrays, and writes states in place."""

    max_operands = 60
    max_copied = 1000
    copies = frozenset(("elementwise",))
    writes_in_place = frozenset({"elementwise"})
    part = property()  # which it lacks


@pytest.fixture
def tables():
    return Device("null", Tables())


def copied(place, function, *shapes):
    """How many launches of a formula each elementwise work is, once they are joined."""
    graph = graph_of(place, function, *shapes)
    backend = place.backend
    beside.join(graph, backend.copies, backend.max_operands, backend.max_copied)
    assert all(w.expression is None or not w.program for w in graph.work)
    return [w.program.copies if w.program else 1 for w in graph.work]


def test_one_formula_of_many_arrays_is_one_launch(tables):
    shapes = [(5, 3), (70,), (1,), (2, 3, 4)]
    assert copied(tables, lambda *xs: tuple(map(pn.exp, xs)), *shapes) == [4]
    both = copied(tables, lambda x, y: (pn.exp(x), pn.tanh(y), pn.exp(y)), (5,), (3,))
    assert both == [1, 2]


def test_formulas_of_views_or_of_their_own_results_stay_alone(tables):
    assert copied(tables, lambda x: pn.exp(pn.exp(x)), (5,)) == [1, 1]
    assert copied(tables, lambda x, y: (pn.exp(x.T), pn.exp(y.T)), (5, 3), (4, 2)) == [
        1,
        1,
    ]
    large = (beside.MEMBER_BYTES // 4 + 1,)
    assert copied(tables, lambda x, y: (pn.exp(x), pn.exp(y)), large, large) == [1, 1]


def stepped(place, update, count=5):
    """The plan of a step that replaces some states, and the states."""
    states = [pn.ones(3 + k, device=place) for k in range(count)]
    step = pn.compile(lambda: update(states))
    step()
    (trace,) = [t for found in step.traces.values() for t in found]
    return trace.plan, states


def test_states_that_are_replaced_side_by_side_are_written_in_place(tables):
    def update(states):
        for x in states:
            x.assign(pn.tanh(x) * 2)

    plan, _ = stepped(tables, update)
    assert [p.copies for p in plan.programs] == [5]
    assert len(plan.shared) == 5


def test_a_state_that_another_of_the_launches_reads_is_not_written_in_place(tables):
    def rotate(states):
        a, b, c = [pn.tanh(x) * 2 for x in states]
        states[0].assign(b)
        states[1].assign(a)
        states[2].assign(c)

    states = [pn.ones(4, device=tables) for _ in "abc"]
    step = pn.compile(lambda: rotate(states))
    step()
    (trace,) = [t for found in step.traces.values() for t in found]
    assert [p.copies for p in trace.plan.programs] == [3]
    assert [
        trace.assigned[i - trace.count] is states[2] for i in trace.plan.shared
    ] == [True]


def test_flops_and_bytes_of_launches_side_by_side_are_counted(tables):
    def update(states):
        for x in states:
            x.assign(pn.tanh(x) * 2)

    plan, _ = stepped(tables, update, 2)
    (row,) = explain.rows(plan)
    assert row.nbytes == 2 * 4 * (3 + 4) and row.flops == 2 * (3 + 4)


# What they compute ------------------------------------------------------------------------

SHAPES = [
    (3, 4),
    (300, 70),
    (70, 300),
    (5000, 3),
    (1, 5),
    (2, 65, 3),
    (40000, 1),
    (7, 1),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["sum", "mean", "max", "prod", "any"])
def test_reductions_side_by_side_are_those_alone_to_the_bit(device, name, dtype):
    rng = np.random.default_rng(0)
    xs = [pn.tensor(rng.normal(size=s), dtype=dtype, device=device) for s in SHAPES]
    xs[1], xs[4] = xs[1].T[::2], xs[4][:, ::-1]
    reduction = getattr(pn, name)

    def several(*xs):
        return [reduction(x, axis=0) for x in xs] + [reduction(x) for x in xs[:3]]

    run = pn.compile(several)
    for got, want in zip(run(*xs), several(*xs), strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())
    (trace,) = [t for found in run.traces.values() for t in found]
    if "reduce" in getattr(xs[0].device.backend, "copies", ()):
        assert len(trace.plan.launches) <= 4


def test_regions_written_at_once_hold_what_they_should(device):
    rng = np.random.default_rng(0)
    xs = [
        pn.tensor(rng.normal(size=(3, 4, 5)).astype("float32"), device=device)
        for _ in "abcd"
    ]

    def several(a, b, c, d):
        every = [a, b.permute(0, 1, 2)[:, ::-1], c * 2, d + a]
        return [pn.concat(every, axis=k) for k in (0, 1, 2)] + [
            pn.stack(every, axis=-1)
        ]

    run = pn.compile(several)
    for got, want in zip(run(*xs), several(*xs), strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())
    (trace,) = [t for found in run.traces.values() for t in found]
    if "reduce" in getattr(xs[0].device.backend, "copies", ()):
        assert len(trace.plan.launches) <= 4


def programs(place):
    step = pn.compile(lambda *xs: [f(x, axis=0) for f in (pn.sum, pn.any) for x in xs])
    step(*[pn.ones(s, device=place).exp() for s in ((5, 3), (300, 70), (5000, 3))])
    (trace,) = [t for found in step.traces.values() for t in found]
    plan = trace.plan
    return [
        (p, w.words)
        for p, w in zip(plan.programs, plan.graph.work, strict=True)
        if p.copies
    ]


@pytest.mark.parametrize("on_cpu", [False, True])
def test_a_second_compiler_takes_the_texts(place, on_cpu):
    made = programs(place)
    assert [p.copies for p, _ in made] == [3, 3]
    plans = [variants.plan(p, words, on_cpu=on_cpu) for p, words in made]
    texts = {s.text for plan in plans for s in plan.steps}
    assert all(CUT in text for text in texts)
    assert not [
        e for e in compile_all({str(i): t for i, t in enumerate(texts)}).values() if e
    ]


def test_reductions_that_take_different_steps_are_dispatched_apart(place):
    ((program, words), _) = programs(place)
    steps = variants.plan(program, words, on_cpu=True).steps
    assert len(steps) == 3  # two in one pass, and one in two
    assert [len(s.operands) for s in steps] == [4, 2, 2]
