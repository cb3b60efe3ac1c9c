"""Recurrent layers on cuda, without a GPU: as test_cuda_kernels.py has it."""

import functools
import shutil

import numpy as np
import pytest

from portanet.backend_cuda import plan_of
from portanet.backend_cuda.plan import Gpu
from portanet.dtypes import as_dtype
from portanet.program import Program

from . import test_kernels_cpu as cases

pytest.importorskip("cuda.bindings")

from .cuda import compiled, simulate  # noqa: E402

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator is built by g++"
)
GATES = {"tanh": (1, 1), "relu": (1, 1), "lstm": (4, 4), "gru": (3, 4)}


def launches(cell, steps, batch, size, name, offset=0):
    """(way, words, counts of the outputs, inputs) of both ways. Inputs begin after `offset`
    elements that must not count."""
    gates, biases = GATES[cell]
    number = iter(range(100))

    def made(*shape):
        return cases.draw(shape, name, next(number)) / np.array(4, name)

    x, h0, w = (
        made(steps, batch, gates * size),
        made(batch, size),
        made(gates * size, size),
    )
    b, g = made(biases * size), made(steps, batch, size)
    extra = [made(batch, size)] if cell == "lstm" else []  # c0, and the gradient of c
    states = made(steps + 1, batch, size)
    kept = np.abs(made(steps, batch, 4 * size)) + np.array(0.1, name)
    n, m = states.size, kept.size
    back = {
        "lstm": [g, *extra, kept, states, w],
        "gru": [g, kept, states, w],
    }.get(cell, [g, states, w])
    kind = {"lstm": [n, n, m], "gru": [n, m]}.get(cell, [n])
    ends = [batch * size] * (1 + len(extra))
    ways = [("forward", kind, [x, h0, *extra, w, b])]
    ways += [("backward", [steps * batch * biases * size, *ends], back)]
    for way, counts, inputs in ways:
        words = [
            steps,
            batch,
            size,
            offset,
            batch * inputs[0].shape[2],
            inputs[0].shape[2],
        ]
        given = [
            np.concatenate([np.full(offset, np.nan, name), v.ravel()]) for v in inputs
        ]
        yield way, words + [offset] * (len(inputs) - 1), counts, given


# Rows and elements that are left over of a warp; packs or none; steps.
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize(
    "steps,batch,size,name,offset",
    [(2, 9, 5, "float32", 3), (2, 3, 36, "float32", 4), (1, 2, 6, "float64", 0)],
)
def test_recurrent_is_the_cpus(cell, steps, batch, size, name, offset):
    for way, words, counts, inputs in launches(cell, steps, batch, size, name, offset):
        outputs = [(name, n) for n in counts]
        given = ("recurrent", words, outputs, inputs, (cell, way))
        found = simulate.in_every_order(functools.partial(simulate.launch, *given))
        wanted = cases.launch(*given)
        for a, b in zip(*[v if isinstance(v, list) else [v] for v in (found, wanted)]):
            np.testing.assert_allclose(a, b, 0, 64 * cases.EPS[name])


CODE = [("lstm", "float32", arch) for arch in compiled.ARCHES]
CODE += [
    ("gru", "float32", "75"),
    ("tanh", "float32", "120"),
    ("gru", "float64", "90a"),
]


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("cell,name,arch", CODE)
def test_code_keeps_sums_in_registers(cell, name, arch, way):
    sizes = launches(cell, 1, 2, 128, name)
    ((_, words, counts, inputs),) = [x for x in sizes if x[0] == way]
    t = as_dtype(name)
    made = Program("recurrent", (t,) * len(counts), (t,) * len(inputs), (cell, way))
    gpu = Gpu(int(arch.rstrip("a")), 100, 96 << 10)
    found = {}
    for step in plan_of(made, words, gpu).steps:
        if not found:  # one text for all
            found = compiled.entries(simulate.text(made, step), arch)
        entry = found[f"{step.entry}_text"]
        assert (entry.spills, entry.stack) == (0, 0), step.entry
        assert not entry.count("LDL") and not entry.count("STL")
        assert entry.registers * step.threads <= 65536
        if step.entry == "step":
            assert sum(op[:3] == "LDG" and ".128" in op for op in entry.code) >= 11
