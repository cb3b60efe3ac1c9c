"""Products in compiled functions: sums of them, and matrices read transposed by many."""

import numpy as np
import portanet as pn
from portanet import nn

STEPS, ROWS, WIDTH = 6, 3, 64


def _weight_and_rows():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 8
    x = rng.normal(size=(STEPS, ROWS, WIDTH)).astype(np.float32)
    return pn.tensor(w, device="cpu"), pn.tensor(x, device="cpu")


def _recurrence(w, xs):
    h = pn.zeros_like(xs[0])
    for x in pn.unstack(xs):
        h = pn.tanh(nn.functional.linear(h, w) + x)
    return h.sum()


def _products(compiled):
    plan = next(iter(compiled.traces.values()))[0].plan
    return [w for w in plan.graph.work if w.program and w.program.kernel == "matmul"]


def test_the_gradient_of_a_recurrent_weight_is_one_product():
    gradient = pn.grad(_recurrence)
    w, x = _weight_and_rows()
    compiled = pn.compile(gradient)
    np.testing.assert_allclose(compiled(w, x), gradient(w, x), rtol=1e-5, atol=1e-6)
    inner = [p.words[3] for p in _products(compiled) if p.words[1:3] == (WIDTH, WIDTH)]
    assert len(inner) == 1 and inner[0] >= ROWS * (STEPS - 1)


def test_a_weight_of_many_short_products_is_transposed_once():
    w, x = _weight_and_rows()
    compiled = pn.compile(_recurrence)
    np.testing.assert_allclose(compiled(w, x), _recurrence(w, x), rtol=1e-5, atol=1e-6)
    short = [p for p in _products(compiled) if p.words[1] == ROWS]
    assert len(short) >= STEPS - 1
    assert all(p.words[9:11] == (WIDTH, 1) for p in short)


def test_products_with_a_long_inner_axis_are_added():
    rng = np.random.default_rng(0)
    a, b = (pn.tensor(rng.normal(size=(8, 8)), device="cpu") for _ in range(2))
    compiled = pn.compile(lambda a, b: a @ b + b @ a)
    np.testing.assert_allclose(compiled(a, b), a @ b + b @ a, rtol=1e-12)
    assert len(_products(compiled)) == 2


def test_split_gives_each_part_its_gradient():
    x = pn.tensor(np.arange(5.0), device="cpu", requires_grad=True)
    a, _, c = pn.split(x, [2, 1, 2])
    ((a * a).sum() + 3 * c.sum()).backward()
    assert x.grad.tolist() == [0.0, 2.0, 0.0, 3.0, 3.0]
