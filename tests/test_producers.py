"""Reductions that compute what they reduce, on each device."""

import numpy as np
import pytest

import portanet as pn
from portanet import nn, optim

COLUMNS = [(4096, 64), (640, 100), (257, 8), (3000, 33)]
PLANES = [(5, 3, 20, 33), (9, 12, 24, 130)]


def drawn(device, *shapes, dtype="float32"):
    rng = np.random.default_rng(sum(map(sum, shapes)))
    return [pn.tensor(rng.normal(size=s), dtype, device) for s in shapes]


def compiled(function, xs, expected=1):
    """What the function gives, compiled into as many launches as are expected where its
    device takes producers; each replay the same, and on cpu the bits of the eager call."""
    run = pn.compile(function)
    first = run(*xs)
    np.testing.assert_array_equal(first.numpy(), run(*xs).numpy())
    backend = xs[0].device.backend
    plan = next(iter(run.traces.values()))[0].plan
    if backend.name != "cpu" and hasattr(backend, "produces"):
        assert len(plan.launches) == expected, run.explain()
    made = any(w.producer for w in plan.graph.work)
    if made and backend.name == "cpu":
        np.testing.assert_array_equal(first.numpy(), function(*xs).numpy())
    return first.numpy(), made


def close(got, want, terms):
    """Trees over normal numbers in float32: errors of a random walk are within terms^(1/2)
    rounding errors of a term, of which the largest here are about 10."""
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * terms**0.5)


@pytest.fixture(params=["", "as a GPU"])
def variants(request, device, monkeypatch):
    """Takes the variants that a launch of wgpu has here, then those for a GPU."""
    backend = pn.zeros(1, device=device).device.backend
    if request.param and device == "wgpu":
        monkeypatch.setitem(backend._host.description, "software", False)


@pytest.mark.usefixtures("variants")
@pytest.mark.parametrize("shape", [*COLUMNS, (5, 1), (1, 5), (70, 1000), (100000, 2)])
@pytest.mark.parametrize("which", ["sum", "mean", "max"])
def test_products_over_the_first_axis(which, shape, device):
    def function(x, y):
        return getattr(pn, which)(x * y, axis=0)

    xs = drawn(device, shape, shape)
    got, made = compiled(function, xs)
    x, y = (a.numpy().astype(np.float64) for a in xs)
    close(got, getattr(np, which)(x * y, axis=0), shape[0])
    assert made or device != "cpu" or shape not in COLUMNS


@pytest.mark.usefixtures("variants")
@pytest.mark.parametrize("shape", [*PLANES, (40, 5, 2, 2), (7, 6, 1, 1)])
@pytest.mark.parametrize("axes", [(0, 2, 3), (1, 2), (0, 2), (0, 1, 2, 3)])
def test_distances_over_some_axes(axes, shape, device):
    def function(x, m):
        return pn.mean(pn.square(x - m.reshape(-1, 1, 1)), axis=axes)

    xs = drawn(device, shape, shape[1:2])
    got, made = compiled(function, xs)
    x, m = (a.numpy().astype(np.float64) for a in xs)
    close(got, ((x - m.reshape(-1, 1, 1)) ** 2).mean(axes), 1)
    if device == "cpu" and shape == PLANES[1] and axes == (0, 1, 2, 3):
        assert made


@pytest.mark.parametrize("which", ["prod", "min", "any", "all"])
def test_other_reductions(which, device):
    of_truth = which in ("any", "all")

    def function(x, y):
        made = pn.abs(x) < pn.exp(y) if of_truth else x * 0.01 + pn.tanh(y * 0.01) + 1
        return getattr(pn, which)(made, axis=0)

    xs = drawn(device, (300, 50), (300, 50))
    got, _ = compiled(function, xs)
    x, y = (a.numpy().astype(np.float64) for a in xs)
    values = np.abs(x) < np.exp(y) if of_truth else x * 0.01 + np.tanh(y * 0.01) + 1
    np.testing.assert_allclose(got, getattr(np, which)(values, axis=0), rtol=1e-4)


@pytest.mark.parametrize("which", ["any", "all", "max", "min"])
def test_numbers_are_true_and_truths_have_an_order(which, device):
    def function(x, y):
        made = x * (y > 1) if which in ("any", "all") else x > y
        return getattr(pn, which)(made, axis=0)

    for shape in ((700, 100), (5000, 9)):
        xs = drawn(device, shape, shape)
        got, made = compiled(function, xs)
        x, y = (a.numpy() for a in xs)
        values = x * (y > 1) if which in ("any", "all") else x > y
        np.testing.assert_array_equal(got, getattr(np, which)(values, axis=0))
        assert made or not hasattr(xs[0].device.backend, "produces")


def test_truths_are_counted_and_integers_summed(device):
    xs = drawn(device, (1000, 16), (1000, 1))
    got, made = compiled(lambda x, y: pn.sum(x > y, axis=0), xs)
    x, y = (a.numpy() for a in xs)
    assert got.dtype == np.int32 and (
        made or not hasattr(xs[0].device.backend, "produces")
    )
    np.testing.assert_array_equal(got, (x > y).sum(0))
    n = pn.tensor(np.arange(48000).reshape(3000, 16), "int32", device)
    got, _ = compiled(lambda n: pn.sum(n * n - 7, axis=0), [n])
    want = (n.numpy().astype(np.int64) ** 2 - 7).sum(0).astype(np.int32)
    np.testing.assert_array_equal(got, want)


@pytest.mark.usefixtures("variants")
def test_views_and_positions_are_followed(device):
    """A transposed operand, a result read transposed and in part, numbers of elements."""

    def function(x, y):
        places = pn.arange(3000, device=device).reshape(60, 50)
        made = (x.T * y + places) * 0.01
        return pn.sum(made.T[:, 7:57], axis=1)

    xs = drawn(device, (50, 60), (60, 50))
    got, _ = compiled(function, xs)
    x, y = (a.numpy().astype(np.float64) for a in xs)
    made = (x.T * y + np.arange(3000).reshape(60, 50)) * 0.01
    np.testing.assert_allclose(got, made.T[:, 7:57].sum(1), rtol=1e-5, atol=1e-4)


def test_two_reductions_of_one_product(device):
    def function(x, y):
        z = x * y
        return pn.stack([pn.sum(z, axis=0), pn.max(z, axis=0)])

    xs = drawn(device, (500, 40), (500, 40))
    run = pn.compile(function)
    x, y = (a.numpy().astype(np.float64) for a in xs)
    close(run(*xs).numpy(), np.stack([(x * y).sum(0), (x * y).max(0)]), 500)


def test_a_gradient_of_a_scale_is_one_launch(device):
    def function(x, w, g):
        w = w.detach()
        w.requires_grad = True
        pn.sum(pn.tanh(x) * w * g).backward()
        return w.grad

    xs = drawn(device, (700, 90), (90,), (700, 90))
    got, _ = compiled(function, xs)
    x, _, g = (a.numpy().astype(np.float64) for a in xs)
    close(got, (np.tanh(x) * g).sum(0), 700)


def test_threads_change_no_bit(cpu_threads):
    rng = np.random.default_rng(0)
    for shape, axes in [
        ((40000, 16), 0),
        ((50, 3, 60, 130), (0, 2, 3)),
        ((500000,), 0),
    ]:
        xs = [pn.tensor(rng.normal(size=shape), "float32", "cpu") for _ in range(2)]
        found = []
        for count in (1, 2, 5):
            cpu_threads(count)
            run = pn.compile(lambda x, y, axes=axes: pn.sum(x * pn.exp(y), axis=axes))
            found.append(run(*xs).numpy())
        for other in found[1:]:
            np.testing.assert_array_equal(found[0], other)


@pytest.fixture
def cpu_threads():
    """Sets the number of threads, which is what it was after the test."""
    from portanet import backend_cpu

    before = backend_cpu.num_threads()
    yield backend_cpu.set_num_threads
    backend_cpu.set_num_threads(before)


@pytest.mark.usefixtures("variants")
@pytest.mark.parametrize("shape", [(300, 20), (5000, 3), (40, 1000)])
def test_reductions_side_by_side_compute_what_they_reduce(shape, device):
    """Plain ones beside those that make what they reduce, in one formula or another."""

    def function(x, y, z):
        mean = pn.mean
        a, b = mean(x * y, axis=0), mean(z, axis=0)
        return a, b, mean(y * z - x, axis=0), mean(y * z[::-1], axis=0)

    xs = drawn(device, shape, shape, shape)
    run = pn.compile(function)
    got = [y.numpy() for y in run(*xs)]
    for a, b in zip(got, run(*xs), strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    x, y, z = (a.numpy().astype(np.float64) for a in xs)
    for a, b in zip(got, (x * y, z, y * z - x, y * z[::-1]), strict=True):
        close(a, b.mean(0), 1)
    if getattr(xs[0].device.backend, "mixes", False):
        assert len(next(iter(run.traces.values()))[0].plan.launches) == 1


@pytest.mark.usefixtures("variants")
@pytest.mark.parametrize("name", ["sum", "max"])
def test_reductions_of_one_formula_go_side_by_side(name, device):
    def function(*xs):
        return tuple(
            getattr(pn, name)(x * y, axis=0) for x, y in zip(xs[::2], xs[1::2])
        )

    xs = drawn(device, *[(300, 20)] * 2, *[(700, 9)] * 2, *[(2000, 30)] * 2)
    run = pn.compile(function)
    for x, y, got in zip(xs[::2], xs[1::2], run(*xs), strict=True):
        alone = pn.compile(lambda x, y: getattr(pn, name)(x * y, axis=0))(x, y)
        np.testing.assert_array_equal(got.numpy(), alone.numpy())
    if device == "cuda":
        assert len(next(iter(run.traces.values()))[0].plan.launches) == 1
    elif (
        device == "wgpu"
    ):  # nine buffers; at WebGPU's default limits a launch has seven
        few = xs[0].device.backend.max_operands < 9
        assert len(next(iter(run.traces.values()))[0].plan.launches) == 1 + few


@pytest.mark.usefixtures("variants")
def test_reductions_that_take_two_steps_keep_their_place_beside_others(device):
    layer = nn.ParameterList([nn.Parameter(pn.zeros(n, device=device)) for n in (4, 1)])
    optimizer = optim.Adam(layer.parameters(), lr=0.1)
    x, y = drawn(device, (4, 4, 8, 8), (4, 1, 16, 16))

    def step(x, y):  # the gradients lie in one buffer, that of many terms not first
        optimizer.zero_grad()
        sums = (x * x).sum((0, 2, 3)), y.sum((0, 2, 3))
        sum((p * s).sum() for p, s in zip(layer, sums, strict=True)).backward()
        optimizer.step()

    for _ in range(2):
        step(x, y)
        want = [p.grad.numpy() for p in layer]
        pn.compile(step)(x, y)
        for p, w in zip(layer, want, strict=True):
            np.testing.assert_allclose(p.grad.numpy(), w, rtol=1e-5, atol=1e-4)
