"""Reductions that compute what they reduce on cuda, without a GPU: as test_cuda_kernels.py
has it."""

import functools
import shutil

import numpy as np
import pytest

import portanet as pn
from portanet.backend_cuda import plan_of
from portanet.compiler.graph import program_of
from portanet.devices import Device

from .null_backend import NullBackend
from .test_passes import optimised

pytest.importorskip("cuda.bindings")

from .cuda import compiled, simulate  # noqa: E402

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator is built by g++"
)


def made_of(function, *arrays):
    """The program and words of a function that is one reduction with a producer."""
    place = Device("null", NullBackend())
    place.backend.produces = lambda dtype, words: True
    place.backend.sums_rows = False
    shapes = [x.shape for x in arrays]
    graph = optimised(place, function, *shapes, dtype=arrays[0].dtype.name)
    (w,) = graph.work
    program, words = program_of(w)
    assert program.has_producer
    read = [graph.slots[h.slot].source.index for h in w.ins]
    return program, words, [arrays[i] for i in read]


def reduced(function, *arrays, entries=None):
    program, words, inputs = made_of(function, *arrays)
    run = functools.partial(
        simulate.launch_program, program, words, [words[0]], inputs, entries=entries
    )
    return simulate.in_every_order(run)


def draw(*shape, dtype="float32"):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


# (shape, axis): each runs another entry.
CASES = [
    ((31, 3), 0), ((1100, 33), 1), ((5, 4097), 1), ((2, 40009), 1),
    ((65, 300), 0), ((3000, 33), 0), ((200, 5), 0), ((2000, 5), 0), ((3, 4), 1),
]  # fmt: skip


@pytest.mark.parametrize("which", ["sum", "max"])
def test_products_by_every_entry(which):
    entries = set()
    for shape, axis in CASES:
        x, y = draw(*shape), draw(*shape[:0:-1], shape[0])
        got = reduced(
            lambda x, y, axis=axis: getattr(pn, which)(x * y.T, axis=axis),
            x,
            y,
            entries=entries,
        )
        products = x.astype(np.float64) * y.T
        want = getattr(products, which)(axis)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    assert entries == {
        "lanes", "rows", "warps", "rows_first", "rows_second",
        "columns", "columns_first", "columns_second", "narrow", "narrow_first",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_planes_broadcasts_positions_and_types(dtype):
    x, m = draw(9, 4, 5, 7) * 9, draw(4) * 9
    x, m = x.astype(dtype), m.astype(dtype)

    def function(x, m):
        places = pn.arange(1260, dtype=dtype, device=x.device).reshape(x.shape)
        return pn.sum(pn.square(x - m.reshape(-1, 1, 1)) + places, axis=(0, 2, 3))

    wide = x.astype(np.float64) - m.reshape(-1, 1, 1)
    want = (wide**2 + np.arange(1260).reshape(x.shape)).sum((0, 2, 3))
    np.testing.assert_allclose(reduced(function, x, m), want, rtol=1e-5)


def test_truths():
    x, y = draw(300, 70), draw(300, 70)
    got = reduced(lambda x, y: pn.any(pn.abs(x) > 3 * pn.abs(y) + 2.2, axis=0), x, y)
    np.testing.assert_array_equal(got, (np.abs(x) > 3 * np.abs(y) + 2.2).any(0))
    got = reduced(lambda x, y: pn.sum(x > y, axis=0), x, y)
    np.testing.assert_array_equal(got, (x > y).sum(0))


@pytest.mark.parametrize("arch", compiled.ARCHES)
def test_nothing_is_spilled_and_the_words_stay_where_they_are(arch):
    """The struct that a producer is leaves no trace: no memory of a thread is used."""
    x = np.empty((300, 65), np.float32)

    def function(x, y):
        return pn.sum(x * pn.tanh(y), axis=0)

    program, words, _ = made_of(function, x, x)
    for step in plan_of(program, words, simulate.H200).steps:
        found = compiled.entries(simulate.text(program, step), arch)
        for entry in found.values():
            assert entry.stack == entry.spills == 0
