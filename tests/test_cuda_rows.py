"""Formulas with sums over rows on cuda, without a GPU: as test_cuda_kernels.py has it."""

import functools
import shutil

import numpy as np
import pytest

from portanet import scalars as s
from portanet.arrays import Handle, elementwise_program, layout
from portanet.backend_cuda import Backend, plan_of, rows
from portanet.backend_cuda.plan import Gpu
from portanet.devices import get
from portanet.dtypes import as_dtype, float32, int32
from portanet.op import LONGEST_ROW, OPS, Spec
from portanet.scalars import trace

from .test_kernels_cpu import EPS, draw

pytest.importorskip("cuda.bindings")

from .cuda import compiled, simulate  # noqa: E402

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator is built by g++"
)


def softmax(x):
    raised = s.exp(x - s.row_max(x))
    return raised * (1 / s.row_sum(raised))


def layer_norm(x, w, b):
    away = x - s.row_mean(x)
    return away * s.rsqrt(s.row_mean(away * away) + 1e-5) * w + b


def slope(g, x):
    away = x - s.row_mean(x)
    scale = s.rsqrt(s.row_mean(away * away) + 1e-5)
    y = away * scale
    return (g - s.row_mean(g) - y * s.row_mean(g * y)) * scale


def cross_entropy_slope(g, x, target):
    hit = s.row_index(target, target.dtype) == target
    return (softmax(x) - s.where(hit, x.const(1), 0)) * g


def numpy_softmax(x):
    raised = np.exp(x - x.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def numpy_layer_norm(x, w, b):
    return (x - x.mean(1, keepdims=True)) / np.sqrt(
        x.var(1, keepdims=True) + 1e-5
    ) * w + b


def numpy_slope(g, x):
    scale = 1 / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    y = (x - x.mean(1, keepdims=True)) * scale
    inner = (g * y).mean(1, keepdims=True)
    return (g - g.mean(1, keepdims=True) - y * inner) * scale


def numpy_cross_entropy_slope(g, x, target):
    return (numpy_softmax(x) - (np.arange(x.shape[1]) == target)) * g


def formula_program(formula, views, out=None, row=0):
    """The program and words of a formula of views, each (shape, dtype, strides, offset)."""
    place = get("cpu")
    handles = []
    for k, (shape, name, strides, offset) in enumerate(views):
        handles.append(Handle(k + 1, layout(shape, as_dtype(name), place)))
        if strides is not None:
            seen = handles[k].layout.view(shape, strides, offset)
            handles[k] = Handle(k + 1, seen)
    shape = np.broadcast_shapes(*[v[0] for v in views])
    kind = as_dtype(out or views[0][1])
    expression = trace(formula, tuple(h.layout.dtype.compute for h in handles))
    made = [Handle(0, layout(shape, kind, place))]
    return elementwise_program("probe", expression, made, handles, row or shape[-1])


def run(formula, arrays, entries=None, row=0):
    """The formula of arrays, which may be views of one that starts where they do."""
    bases = [np.ascontiguousarray(x) if x.base is None else x.base for x in arrays]
    views = []
    for x, base in zip(arrays, bases, strict=True):
        at = x.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        strides = [a // x.itemsize for a in x.strides]
        views.append((x.shape, x.dtype.name, strides, at // x.itemsize))
    made, words = formula_program(formula, views, row=row)
    found = simulate.in_every_order(
        functools.partial(
            simulate.launch_program, made, words, [words[0]], bases, entries=entries
        )
    )
    return found.reshape(np.broadcast_shapes(*[x.shape for x in arrays]))


def check(got, want, dtype):
    """Within a few roundings of the dtype, and of sums in float32."""
    error = np.abs(got.astype(np.float64) - want)
    wide = min(EPS[dtype], EPS["float32"])
    assert np.all(
        error <= 2 * EPS[dtype] * np.abs(want) + 64 * wide * np.abs(want).max()
    )


def exact(*arrays):
    return [x.astype(np.float64) for x in arrays]


# Rows of lanes that are left over, of lanes with one element, of a warp, of a block whose
# last packs are not all there.
@pytest.mark.parametrize("n", [1, 10, 65, 264, 1500])
def test_softmax_of_rows_of_every_length(n):
    x = draw((7, n), "float32")
    check(run(softmax, [x]), numpy_softmax(*exact(x)), "float32")


@pytest.mark.parametrize("name", ["bfloat16", "float64"])
def test_softmax_in_every_type(name):
    x = draw((3, 1160), name)
    check(run(softmax, [x]), numpy_softmax(*exact(x)), name)


def test_a_row_that_does_not_fit_registers_is_read_again(monkeypatch):
    monkeypatch.setattr(rows, "REGISTERS", 1)
    monkeypatch.setattr(rows, "THREADS", 64)
    for x, g in [(draw((3, 1100), "float32"), draw((3, 1100), "float32", 1))]:
        check(run(softmax, [x]), numpy_softmax(*exact(x)), "float32")
        check(run(slope, [g, x]), numpy_slope(*exact(g, x)), "float32")


def test_a_row_longer_than_what_512_threads_keep():
    x = draw((2, 16411), "float32")
    check(run(softmax, [x]), numpy_softmax(*exact(x)), "float32")


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows_of_any_length_are_a_formula_where_there_are_many(name):
    class Place:
        backend = Backend

    def takes(*shape):
        return OPS[name].takes_formula(
            Place, [Spec(shape, float32)], {"axis": len(shape) - 1}
        )

    assert takes(1, LONGEST_ROW) and takes(64, 50257) and takes(8, 8, LONGEST_ROW + 1)
    assert not takes(63, LONGEST_ROW + 1)


def test_operands_that_are_one_for_a_row_or_the_same_in_all():
    x, w, b = (
        draw((6, 40), "float32"),
        draw((40,), "float32", 1),
        draw((40,), "float32", 2),
    )
    check(run(layer_norm, [x, w, b]), numpy_layer_norm(*exact(x, w, b)), "float32")
    g = draw((6, 1), "float32", 3)
    target = np.array([[0], [39], [7], [8], [20], [3]], np.int32)
    want = numpy_cross_entropy_slope(*exact(g, x), target)
    check(run(cross_entropy_slope, [g, x, target]), want, "float32")


def test_rows_that_lie_anyhow_have_the_bits_of_those_in_line():
    """Neighbours that are out of line, columns, rows across two axes, rows in a batch."""
    g, x = draw((6, 84), "float32", 1), draw((6, 84), "float32")
    want = run(slope, [g, x])
    wide = draw((6, 91), "float32")
    wide[:, 3:87] = x
    assert run(slope, [g, wide[:, 3:87]]).tobytes() == want.tobytes()
    turned = np.ascontiguousarray(x.T)
    assert run(slope, [g, turned.T]).tobytes() == want.tobytes()
    split, turned = (
        g.reshape(6, 7, 12),
        np.ascontiguousarray(x.reshape(6, 7, 12).transpose(1, 2, 0)),
    )
    got = run(slope, [split, turned.transpose(2, 0, 1)], row=84)
    assert got.tobytes() == want.tobytes()
    one = np.broadcast_to(x[:2], (3, 2, 84))
    got = run(slope, [g.reshape(3, 2, 84), one])
    for k in range(3):
        check(got[k], numpy_slope(*exact(g[2 * k : 2 * k + 2], x[:2])), "float32")


def test_nan_and_infinity_spread_over_their_row_alone():
    x = draw((5, 200), "float32")
    x[1, 7], x[3, 190] = np.nan, -np.inf
    got, want = run(softmax, [x]), numpy_softmax(*exact(x))
    assert np.isnan(got[1]).all() and got[3, 190] == 0
    check(got[[0, 2, 3, 4]], want[[0, 2, 3, 4]], "float32")


def test_a_fault_of_a_row_is_found_and_what_is_not_there_makes_none():
    def picked(x, at):
        return s.row_sum(x) + s.wrap_index(at, x.astype(int32)).astype(x.dtype)

    x, at = np.full((3, 10), 4, np.float32), np.zeros((3, 10), np.int32)
    assert np.array_equal(run(picked, [x, at]), np.full((3, 10), 40))
    at[2, 9] = 4
    with pytest.raises(
        IndexError, match="index 4 is out of range for an axis of size 4"
    ):
        run(picked, [x, at])


# ---- What they compile to


def of(formula, shapes, names, out=None):
    views = [(shape, name, None, 0) for shape, name in zip(shapes, names, strict=True)]
    return formula_program(formula, views, out)


def code(n, formula, count, name="float32"):
    """Rows of n, `count` operands as long as the result and others of one row."""
    return of(formula, [(8192, n)] * count, [name] * count)


# name: (program and words, loads of 16 bytes at least)
CODE = {
    "softmax": (code(4096, softmax, 1), 8),
    "softmax of 50257": (code(50257, softmax, 1), 0),
    "softmax of short rows": (code(65, softmax, 1), 0),
    "softmax of bfloat16": (code(4096, softmax, 1, "bfloat16"), 4),
    "layer norm": (of(layer_norm, [(8192, 1024), (1024,), (1024,)], ["float32"] * 3), 24),
    "the slope of long rows": (code(16384, slope, 2), 16),
    "the slope in float64": (code(16384, slope, 2, "float64"), 4),
    "cross-entropy": (of(cross_entropy_slope, [(8192, 1), (8192, 1000), (8192, 1)],
                         ["float32", "float32", "int32"]), 8),
}  # fmt: skip


EVERYWHERE = (
    "softmax",
    "the slope of long rows",
)  # the others where registers are fewest
CHOSEN = [(name, arch) for name in EVERYWHERE for arch in compiled.ARCHES]
CHOSEN += [(name, "120") for name in CODE if name not in EVERYWHERE]


@pytest.mark.parametrize("name,arch", CHOSEN)
def test_code_keeps_rows_in_registers(name, arch):
    (made, words), packs = CODE[name]
    (step,) = plan_of(made, words, Gpu(int(arch.rstrip("a")), 100, 96 << 10)).steps
    (entry,) = compiled.entries(simulate.text(made, step), arch).values()
    assert (entry.spills, entry.stack) == (0, 0)
    assert not entry.count("LDL") and not entry.count("STL")
    assert entry.registers * step.threads <= 65536
    assert entry.count("LDG.E.128") + entry.count("LDG.E.EF.128") >= packs
