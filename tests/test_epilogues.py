"""Epilogues: what a kernel does to its result before it is stored, on each device."""

import numpy as np
import pytest

import portanet as pn

SIZES = [(5, 7, 9), (1, 50, 33), (33, 50, 1), (1, 1, 1), (70, 900, 65), (3, 40, 2500)]


def drawn(device, *shapes, dtype="float32"):
    rng = np.random.default_rng(sum(map(sum, shapes)))
    return [pn.tensor(rng.normal(size=s), dtype, device) for s in shapes]


def compiled(function, xs, expected, kernel="matmul"):
    """What the function gives, compiled into as many launches as are expected where the
    device takes epilogues; each replay the same."""
    run = pn.compile(function)
    first = run(*xs)
    again = run(*xs)
    if kernel in getattr(xs[0].device.backend, "epilogues", ()):
        for trace in next(iter(run.traces.values())):
            assert len(trace.plan.launches) == expected, run.explain()
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    return [y.numpy() for y in first]


def close(got, want, k):
    """Sums of k products of normal numbers in float32: errors of a random walk are within
    k^(1/2) rounding errors of the largest, here with room for what follows."""
    scale = max(1.0, float(np.abs(want).max()))
    np.testing.assert_allclose(got, want, rtol=0, atol=4e-7 * k**0.5 * scale)


@pytest.fixture(params=["", "as a GPU"])
def variants(request, device, monkeypatch):
    """Takes the variants that a launch of wgpu has here, then those for a GPU."""
    backend = pn.zeros(1, device=device).device.backend
    if request.param and device == "wgpu":
        monkeypatch.setitem(backend._host.description, "software", False)


@pytest.mark.usefixtures("variants")
@pytest.mark.parametrize("m, k, n", SIZES)
def test_bias_activation_residual_and_what_backward_reads(m, k, n, device):
    def function(x, w, b, r):
        h = x @ w
        y = h + b
        return pn.relu(y) + r, h, y

    xs = drawn(device, (m, k), (k, n), (n,), (m, n))
    got = compiled(function, xs, 1)
    x, w, b, r = (a.numpy().astype(np.float64) for a in xs)
    h = x @ w
    for a, want in zip(got, (np.maximum(h + b, 0) + r, h, h + b), strict=True):
        close(a, want, k)


@pytest.mark.parametrize("m, k, n", SIZES)
def test_a_result_of_another_type_alone(m, k, n, device):
    xs = drawn(device, (m, k), (k, n), (n,))
    got = compiled(lambda x, w, b: (x @ w + b < 0,), xs, 1)
    made = compiled(lambda x, w, b: (x @ w + b,), xs, 1)
    np.testing.assert_array_equal(got[0], made[0] < 0)


def test_batches_with_operands_that_are_broadcast(device):
    xs = drawn(device, (3, 2, 9, 20), (2, 20, 17), (3, 1, 9, 1), (17,))
    got = compiled(lambda x, w, r, b: (pn.tanh(x @ w * r + b),), xs, 1)
    x, w, r, b = (a.numpy().astype(np.float64) for a in xs)
    close(got[0], np.tanh(x @ w * r + b), 20)


def test_positions_count_the_elements_of_the_result(device):
    def function(x, w):
        return (x @ w + pn.arange(30, device=device).reshape(5, 6),)

    xs = drawn(device, (5, 4), (4, 6))
    got = compiled(function, xs, 1)
    x, w = (a.numpy().astype(np.float64) for a in xs)
    close(got[0], x @ w + np.arange(30).reshape(5, 6), 4)


def test_integers(device):
    x = pn.tensor(np.arange(12).reshape(3, 4), "int32", device)
    w = pn.tensor(np.arange(20).reshape(4, 5), "int32", device)
    got = compiled(lambda x, w: ((x @ w) * 3 - 7,), (x, w), 1)
    np.testing.assert_array_equal(got[0], x.numpy() @ w.numpy() * 3 - 7)


def test_threads_and_tiles_change_no_bit(cpu_threads):
    xs = drawn("cpu", (700, 400), (400, 300), (300,), (700, 300))
    found = []
    for count in (1, 2, 5):
        cpu_threads(count)
        run = pn.compile(lambda x, w, b, r: (pn.gelu(x @ w + b) + r, x @ w))
        found.append([y.numpy() for y in run(*xs)])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture
def cpu_threads():
    """Sets the number of threads, which is what it was after the test."""
    from portanet import backend_cpu

    before = backend_cpu.num_threads()
    yield backend_cpu.set_num_threads
    backend_cpu.set_num_threads(before)


CONVOLUTIONS = [
    ((1, 1, 5), (2, 1, 3)),  # few images, one axis
    ((2, 3, 20, 21), (4, 3, 3, 3)),
    ((64, 8, 4, 4), (8, 8, 3, 3)),  # small planes, many images
    ((8, 30, 12, 12), (40, 30, 3, 3)),
]


@pytest.mark.usefixtures("variants")
@pytest.mark.parametrize("x, w", CONVOLUTIONS)
def test_a_convolution_with_bias_and_activation_and_its_gradients(x, w, device):
    """Of one axis or two: forward, both gradients, each with its epilogue, against the
    same without."""
    of = pn.nn.functional
    convolve = of.conv1d if len(x) == 3 else of.conv2d
    columns = (1, w[0], *(1 for _ in x[2:]))

    def function(x, w, b, r):
        x, w = x.detach(), w.detach()
        x.requires_grad = w.requires_grad = True
        y = convolve(x, w, padding=1)
        pn.tanh(y + b.reshape(columns)).sum().backward()
        return pn.relu(y.detach() + b.reshape(columns)), x.grad * 2 + r, w.grad * 3

    xs = drawn(device, x, w, (w[0],), x)
    got = compiled(function, xs, 3, "convolve")
    want = function(*xs)
    for a, b in zip(got, want, strict=True):
        close(a, b.numpy().astype(np.float64), int(np.prod(w)))
    (below,) = compiled(lambda x, w: (convolve(x, w) < 0,), xs[:2], 1, "convolve")
    np.testing.assert_array_equal(below, convolve(xs[0], xs[1]).numpy() < 0)
