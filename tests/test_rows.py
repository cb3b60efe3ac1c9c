"""Formulas that sum over rows, on every device that takes them: results of one element for
each element and of one for each row, of inputs that lie in every way."""

from __future__ import annotations

import numpy as np
import pytest

from portanet.devices import get
from portanet import scalars as s
from portanet.arrays import Handle, elementwise_program, from_numpy, layout
from portanet.dtypes import float32, int32
from tests.conftest import PRESENT

DEVICES = [d for d in PRESENT if getattr(get(d).backend, "sums_rows", False)]
SHAPES = [(1, 7), (3, 1), (3, 2), (70, 3), (9, 31), (2, 5, 33), (3, 1300)]


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


def test_every_device_that_is_here_was_asked():
    assert "cpu" in DEVICES
