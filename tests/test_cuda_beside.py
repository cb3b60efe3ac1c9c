"""Launches side by side as one on cuda: in the simulator, as machine code, and in a step."""

import functools
import shutil

import numpy as np
import pytest

import portanet as pn
from portanet import nn, optim

from portanet.backend_cuda import beside, lower, plan_of
from portanet.backend_cuda.plan import Gpu
from portanet.dtypes import as_dtype
from portanet.program import Program
from portanet.scalars import trace

pytest.importorskip("cuda.bindings")

from .cuda import compiled, simulate  # noqa: E402

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator is built by g++"
)


def momentum(w, m, g, rate):
    """Two results of three arrays and a number."""
    moved = m * 0.5 + g
    return w - moved * rate, moved


def updates(sizes, name="float32"):
    """The program and words of an update of arrays of these sizes."""
    kinds = [as_dtype(name)] * 3 + [as_dtype("float32")]
    k, expression = len(sizes), trace(momentum, [t.compute for t in kinds])
    made = Program(
        "elementwise", (kinds[0],) * 2 * k, (*kinds,) * k, (), expression, "cccccs",
        label="update", copies=k,
    )  # fmt: skip
    words = [7, 0] * k
    for n in sizes:
        words += [n, 0, 0, 0, 0, 0, 0]
    return made, words


def operands(sizes, name="float32"):
    """Arrays in small whole numbers, of which every result is exact."""
    rng = np.random.default_rng(0)
    draw = as_dtype(name).numpy
    return [
        x
        for n in sizes
        for x in (
            *(rng.integers(-8, 8, n).astype(draw) for _ in range(3)),
            np.array([2], "f4"),
        )
    ]


def updated(sizes, arrays, name="float32"):
    """What the launches make, in every order of threads and blocks."""
    made, words = updates(sizes, name)
    counts = [n for n in sizes for _ in range(2)]
    return simulate.in_every_order(
        functools.partial(simulate.launch_program, made, words, counts, arrays)
    )


# Of one block, of several, of none that is full; one that is the last of its table.
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_each_array_is_updated_by_its_own(name):
    sizes = (1, 1024, 5, 2049, 1023, 7)
    arrays = operands(sizes, name)
    got = updated(sizes, arrays, name)
    for c in range(len(sizes)):
        w, m, g, rate = (x.astype("f4") for x in arrays[4 * c : 4 * c + 4])
        moved = m / 2 + g
        assert np.array_equal(got[2 * c].astype("f4"), w - moved * rate)
        assert np.array_equal(got[2 * c + 1].astype("f4"), moved)


def test_more_than_a_table_holds_take_several():
    sizes = [k % 5 + 1 for k in range(150)]
    made, words = updates(sizes)
    steps = plan_of(made, words, simulate.H200).steps
    assert [len(t.operands) // 6 for t in steps] == [50, 50, 50]
    for t in steps:
        assert 8 * (len(t.operands) + len(t.words)) <= beside.ARGUMENTS
    arrays = operands(sizes)
    got = simulate.launch_program(made, words, [n for n in sizes for _ in "ab"], arrays)
    for c in range(len(sizes)):
        assert np.array_equal(got[2 * c + 1], arrays[4 * c + 1] / 2 + arrays[4 * c + 2])


def sums(shapes, which="sum"):
    """The program and words of reductions over the first axis, of matrices in line."""
    kind, k = as_dtype("float32"), len(shapes)
    made = Program("reduce", (kind,) * k, (kind,) * k, (which,), copies=k)
    each = [(n, m, 1, 1, 0, n, 1, m, n) for m, n in shapes]
    words = [w for own in each for w in (len(own), 0)]
    return made, words + [w for own in each for w in own]


@pytest.mark.parametrize("which", ["sum", "max"])
def test_each_matrix_is_reduced_by_its_own(which):
    """In one pass and in two, by several entries, each of which has a table."""
    shapes = [(9, 33), (2100, 3), (300, 8), (5, 1), (1200, 5), (40, 3), (2, 7)]
    arrays = [
        np.random.default_rng(k).integers(-8, 8, s).astype("f4")
        for k, s in enumerate(shapes)
    ]
    made, words = sums(shapes, which)
    steps = plan_of(made, words, simulate.H200).steps
    assert len(steps) < len(shapes) and {s.is_table for s in steps} == {True}
    found = simulate.in_every_order(
        functools.partial(
            simulate.launch_program, made, words, [n for _, n in shapes], arrays
        )
    )
    for x, y in zip(arrays, found, strict=True):
        assert np.array_equal(y, getattr(x, which)(axis=0))


@pytest.mark.parametrize("shape", [(5000, 64), (3, 100)])
def test_tables_of_reductions_need_no_local_memory(shape):
    made, words = sums([shape] * 20)
    for step in plan_of(made, words, Gpu(75, 40, 64 << 10)).steps:
        text = "#define PN_TEXT text\n" + lower.text(made, step)
        (entry,) = compiled.entries(text, "75").values()
        assert (entry.spills, entry.stack) == (0, 0)


@pytest.mark.parametrize("arch", compiled.ARCHES)
def test_a_table_is_read_from_the_constant_bank(arch):
    made, words = updates([4096] * 40)
    (step,) = plan_of(made, words, Gpu(int(arch.rstrip("a")), 100, 96 << 10)).steps
    text = "#define PN_TEXT text\n" + lower.text(made, step)
    (entry,) = compiled.entries(text, arch).values()
    assert (entry.spills, entry.stack) == (0, 0)
    assert entry.count("LDG.E.128") == 3 and entry.count("STG.E.128") == 2
    assert not entry.count("LD.E") and entry.registers <= 64


# ---- In a training step


def training(rule, clip=0.0):
    """A compiled step of a perceptron on cuda, and the same step eagerly."""
    made = []
    for compiles in (True, False):
        pn.manual_seed(0)
        with pn.device("cuda"):
            layers = [nn.Linear(7, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)]
            model = nn.Sequential(*layers)
            x, y = pn.randn(8, 7), pn.randint(0, 3, (8,))
        update = rule(model.parameters())

        def step(x, y, model=model, update=update):
            update.zero_grad()
            loss = pn.cross_entropy(model(x), y)
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(list(model.parameters()), clip)
            update.step()
            return loss.detach()

        made.append((pn.compile(step) if compiles else step, model, (x, y)))
    return made


@pytest.mark.parametrize(
    "rule, clip",
    [
        (lambda ps: optim.AdamW(ps, lr=0.01), 1e-3),
        (lambda ps: optim.SGD(ps, lr=0.1, momentum=0.9), 0.0),
    ],
)
def test_all_parameters_are_updated_in_one_launch_and_in_place(rule, clip):
    (step, model, batch), (eager, other, _) = training(rule, clip)
    for _ in range(4):
        step(*batch)
        eager(*batch)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(p.numpy(), q.numpy(), 2e-5, 1e-6)
    (trace,) = [t for found in step.traces.values() for t in found]
    work = trace.plan.graph.work
    (w,) = [w for w in work if {"sgd_momentum", "adam"} & set(w.parts)]
    assert w.program.copies == len(list(model.parameters()))
    before = [p.value.buffer.address for p in model.parameters()]
    step(*batch)
    assert [p.value.buffer.address for p in model.parameters()] == before


def test_many_numbers_are_put_into_one_array():
    values = np.arange(1, 41, dtype="f4")
    xs = [pn.tensor(v, device="cuda") for v in values]
    step = pn.compile(lambda *xs: pn.stack([pn.sqrt(x) for x in xs]))
    np.testing.assert_allclose(step(*xs).numpy(), np.sqrt(values), 1e-6)
    (trace,) = [t for found in step.traces.values() for t in found]
    assert len(trace.plan.launches) == 2
