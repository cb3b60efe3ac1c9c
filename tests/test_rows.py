"""Formulas that sum over rows, on every device that takes them: results of one element for
each element and of one for each row, of inputs that lie in every way."""

from __future__ import annotations

import numpy as np
import pytest

from portanet import _c, backend_cpu
from portanet import scalars as s
from portanet.arrays import Handle, elementwise_program, from_numpy, layout
from portanet.backend_cpu import rows
from portanet.devices import get
from portanet.dtypes import float16, float32, float64, int32
from tests.conftest import PRESENT

DEVICES = [d for d in PRESENT if getattr(get(d).backend, "sums_rows", False)]
SHAPES = [(1, 7), (3, 1), (3, 2), (70, 3), (9, 31), (2, 5, 33), (3, 1300), (2, 9, 64)]


def formula(x, y):
    """One for each element, then two for each row, one of which also picks an element."""
    away = x - s.row_max(x)
    total = s.row_sum(s.exp(away))
    last = s.where(s.row_index(x, int32) == 1, s.log(total), y)
    return away + s.row_mean(y) * total, s.row_sum(last) + total, 2 * s.row_max(y)


def expected(x, y):
    away = x - x.max(-1, keepdims=True)
    total = np.exp(away).sum(-1, keepdims=True)
    at = np.arange(x.shape[-1]) == 1
    last = np.where(at, np.log(total), y)
    each = away + y.mean(-1, keepdims=True) * total
    return each, last.sum(-1, keepdims=True) + total, 2 * y.max(-1, keepdims=True)


def lying(kind, shape, rng):
    """(values, a view of the shape) of one way to lie in memory."""
    if kind == "gaps":  # one for each row, with another between
        values = rng.normal(size=(*shape[:-1], 2)).astype(np.float32)
        return values, np.broadcast_to(values[..., :1], shape)
    stored = {"one": (1,) * len(shape), "rows": (*shape[:-1], 1),
              "columns": shape[-1:], "turned": shape[::-1]}.get(kind, shape)  # fmt: skip
    values = rng.normal(size=stored).astype(np.float32)
    return values, np.broadcast_to(values.T if kind == "turned" else values, shape)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
def test_results_for_elements_and_for_rows(name, shape):
    device = get(name)
    backend, rng, count = device.backend, np.random.default_rng(0), 0
    expression = s.trace(formula, (float32, float32))
    for kinds in (
        "plain plain",
        "one plain",
        "rows columns",
        "turned rows",
        "one one",
        "plain gaps",
    ):
        pairs = [lying(kind, shape, rng) for kind in kinds.split()]
        arrays = [from_numpy(values, float32, device) for values, _ in pairs]
        views = []
        for k, (a, kind) in enumerate(zip(arrays, kinds.split(), strict=True)):
            x = a.layout
            if kind == "turned":
                x = x.view(shape, x.strides[::-1])
            if kind == "gaps":
                x = x.view((*shape[:-1], 1), x.strides)
            views.append(Handle(3 + k, x))
        one = layout((*shape[:-1], 1), float32, device)
        outs = [Handle(0, layout(shape, float32, device))]
        outs += [Handle(k, one.expanded(shape)) for k in (1, 2)]
        program, words = elementwise_program("rows", expression, outs, views, shape[-1])
        if shape[-1] > 1:
            one_a_row = [1, 2, *(3 + k for k in (0, 1) if kinds.split()[k] == "rows")]
            assert all(program.modes[k] == "r" for k in one_a_row)
        sizes = [np.prod(shape), one.size, one.size]
        buffers = [backend.alloc(int(n) * 4) for n in sizes]
        backend.build(program, tuple(words))(*buffers, *(a.buffer for a in arrays))
        wanted = expected(*(v.astype(float) for _, v in pairs))
        for buffer, n, y in zip(buffers, sizes, wanted, strict=True):
            made = backend.read(buffer, float32, 0, int(n))
            # Sums of up to 1300 in float32, and exp within 1 to 3 ulp.
            np.testing.assert_allclose(made, y.reshape(-1), rtol=2e-5, atol=2e-5)
            count += 1
    assert count == 18


# One element for each row, r, and one row for all, w, wherever an operation may take them.
MIXED = [
    lambda x, w, r: ((x - r) * w + r, r * w - x, s.row_sum(x * w) + r),
    lambda x, w, r: (s.where(x > r, w, r), s.where(w < x, r, x), s.row_max(r - x)),
    lambda x, w, r: (s.maximum(r, x) * s.row_max(w), w / r, r + s.row_mean(w) + 1),
    lambda x, w, r: (s.where(s.row_index(x, int32) == 3, r, w), 1 - w, s.row_sum(w)),
    lambda x, w, r: (w, r - x * (w - r) - r, s.row_sum(s.where(x == w, r * 2, x * r))),
    lambda x, w, r: (s.atan2(r, s.exp(w)), s.exp(r - w) - (w + r), s.row_max(x)),
]


@pytest.mark.parametrize("shape", [(70, 64), (1, 100), (9, 1024), (2, 33, 129)])
@pytest.mark.parametrize("dtype", [float32, float64, float16], ids=lambda t: t.name)
def test_long_rows_one_by_one_have_the_bits_of_whole_blocks(dtype, shape, monkeypatch):
    device, rng, count = get("cpu"), np.random.default_rng(0), 0
    backend, size = device.backend, int(np.prod(shape))
    kinds = [shape, shape[-1:], (*shape[:-1], 1)]
    arrays = [from_numpy(rng.normal(size=k), dtype, device) for k in kinds]
    one = layout((*shape[:-1], 1), dtype, device)
    for formula in MIXED:
        expression = s.trace(formula, (dtype.compute,) * 3)
        outs = [Handle(k, layout(shape, dtype, device)) for k in range(2)]
        outs.append(Handle(2, one.expanded(shape)))
        views = [Handle(3 + k, a.layout) for k, a in enumerate(arrays)]
        program, words = elementwise_program("rows", expression, outs, views, shape[-1])
        found = []
        for known in (rows.rows_of(program, words), rows.Rows()):
            with monkeypatch.context() as patch:
                patch.setattr(backend_cpu, "rows_of", lambda *a, known=known: known)
                launch = backend.build(program, tuple(words))
            buffers = [
                backend.alloc(n * dtype.itemsize) for n in (size, size, one.size)
            ]
            launch(*buffers, *(a.buffer for a in arrays))
            pairs = zip(buffers, (size, size, one.size), strict=True)
            found.append([backend.read(b, dtype, 0, n).tobytes() for b, n in pairs])
            text = backend_cpu.listing(program, _c.OPCODES, known)
            assert ("row by row" in text) == known.are_long
        assert found[0] == found[1]
        count += 1
    assert count == len(MIXED)


def test_rows_are_long_and_one_for_all_by_the_words():
    device = get("cpu")
    expression = s.trace(lambda x, w: s.row_sum(x * w) + x, (float32,) * 2)

    def found(shape, w):
        x = layout(shape, float32, device)
        program, words = elementwise_program(
            "rows", expression, [Handle(0, x)], [Handle(1, x), Handle(2, w)], shape[-1]
        )
        return rows.rows_of(program, words)

    one = layout((200,), float32, device)
    assert found((3, 4, 200), one) == (True, {2})
    assert found((3, 4, 200), layout((4, 200), float32, device)) == (True, set())
    assert found((3, 4, 200), one.view((200,), (2,))) == (True, set())
    assert found((3, 4, 200), one.view((1, 1), (0, 0))) == (True, set())
    assert found((3, 1, 200), one) == (True, {2})
    assert found((9, 63), layout((63,), float32, device)) == (False, set())


def test_every_device_that_is_here_was_asked():
    assert "cpu" in DEVICES
