"""grid_sample, affine_grid and max unpooling against NumPy."""

import itertools

import numpy as np
import pytest

import portanet as pn
from portanet import nn
from portanet.testing import check_grads

F = nn.functional
RNG = np.random.default_rng(0)
A = -0.75


def pixel(g, n, align):
    return (g + 1) / 2 * (n - 1) if align else ((g + 1) * n - 1) / 2


def brought(p, n, padding, align):
    """The number of a pixel where the padding puts it."""
    if padding == "reflection":
        low, high = (0.0, n - 1.0) if align else (-0.5, n - 0.5)
        while high > low and not low <= p <= high:
            p = 2 * low - p if p < low else 2 * high - p
        p = 0.0 if high == low else p
    return p if padding == "zeros" else min(max(p, 0.0), n - 1.0)


def kernel(d):
    d = abs(d)
    if d <= 1:
        return (A + 2) * d**3 - (A + 3) * d**2 + 1
    return A * d**3 - 5 * A * d**2 + 8 * A * d - 4 * A


def taps(p, n, mode, padding, align):
    """(pixel, weight) pairs along one axis."""
    if mode == "bicubic":
        low = np.floor(p)
        near = [low - 1, low, low + 1, low + 2]
        return [(brought(q, n, padding, align), kernel(p - q)) for q in near]
    p = brought(p, n, padding, align)
    if mode == "nearest":
        return [(np.round(p), 1.0)]
    low = np.floor(p)
    return [(low, 1 - (p - low)), (low + 1, p - low)]


def sampled(x, grid, mode, padding, align):
    sizes = x.shape[2:]
    y = np.zeros((*x.shape[:2], *grid.shape[1:-1]))
    for place in np.ndindex(*grid.shape[:-1]):
        ends = [
            taps(pixel(g, n, align), n, mode, padding, align)
            for g, n in zip(grid[place][::-1], sizes, strict=True)
        ]
        for chosen in itertools.product(*ends):
            at = [q for q, _ in chosen]
            if all(0 <= q < n for q, n in zip(at, sizes, strict=True)):
                weight = np.prod([w for _, w in chosen])
                b, *rest = place
                y[(b, slice(None), *rest)] += (
                    weight * x[(b, slice(None), *map(int, at))]
                )
    return y


CASES = [
    (shape, out, mode, padding, align)
    for shape, out in [((2, 3, 4, 5), (3, 4)), ((1, 2, 1, 3), (2, 2)), ((2, 2, 3, 2, 4), (2, 1, 3))]
    for mode in ("bilinear", "nearest", "bicubic")[: 3 if len(shape) == 4 else 2]
    for padding in ("zeros", "border", "reflection")
    for align in (False, True)
]  # fmt: skip


def drawn(shape, out):
    rank = len(shape) - 2
    return RNG.normal(size=shape), RNG.uniform(-2.2, 2.2, (shape[0], *out, rank))


@pytest.mark.parametrize("shape, out, mode, padding, align", CASES)
def test_samples_are_those_of_the_reference(device, shape, out, mode, padding, align):
    x, grid = drawn(shape, out)
    got = F.grid_sample(
        pn.tensor(x, dtype="float32", device=device),
        pn.tensor(grid, dtype="float32", device=device),
        mode, padding, align,
    )  # fmt: skip
    # A coordinate of up to about 10 pixels has an error of 1e-6, and weights change by up to
    # 1.5 times as much; 16 taps of elements of size 3.
    want = sampled(x, grid, mode, padding, align)
    np.testing.assert_allclose(got.numpy(), want, atol=5e-5)


@pytest.mark.parametrize("shape, out, mode, padding, align", CASES)
def test_gradients_of_samples(shape, out, mode, padding, align):
    x, grid = (pn.tensor(v, dtype="float64") for v in drawn(shape, out))
    if mode == "nearest":  # steps, whose derivative by the grid is 0
        check_grads(lambda x: F.grid_sample(x, grid, mode, padding, align), x)
        moved = grid.requires_grad_()
        assert not F.grid_sample(x, moved, mode, padding, align).requires_grad
        return
    check_grads(lambda x, g: F.grid_sample(x, g, mode, padding, align), x, grid)


def test_gradients_of_gradients_of_samples(device):
    x = pn.tensor([[[[1.0, 2.0], [5.0, 3.0]]]], device=device)
    grid = pn.tensor([[[[0.1, 0.2]]]], device=device, requires_grad=True)
    y = F.grid_sample(x, grid, align_corners=True).sum()
    (g,) = pn.gradients(y, [grid], create_graph=True)
    (again,) = pn.gradients(g[..., 0].sum(), [grid])
    # Between four corners y is bilinear: d2y / dx dy is (1 - 2 - 5 + 3) / 4.
    np.testing.assert_allclose(again.numpy().ravel(), [0, -0.75], atol=1e-6)


def test_samples_at_no_number_or_far_away(device):
    x = pn.ones((1, 1, 3, 3), device=device)
    grid = pn.tensor(
        [[[[np.nan, 0], [np.inf, 0], [-np.inf, np.inf], [1e30, 0], [0, 0]]]],
        dtype="float32", device=device,
    )  # fmt: skip
    for mode in ("bilinear", "nearest", "bicubic"):
        y = F.grid_sample(x, grid, mode)
        found = np.nan_to_num(y.numpy().ravel()).tolist()
        assert found[:4] == [0] * 4 and found[4] == pytest.approx(1)
    inside = F.grid_sample(x, grid[:, :, 3:], padding_mode="border")
    assert inside.numpy().ravel().tolist() == [1, 1]


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (1, 1, 1, 3), (2, 1, 2, 3, 4)])
def test_affine_grids(device, align, size):
    rank = len(size) - 2
    theta = RNG.normal(size=(size[0], rank, rank + 1))
    got = F.affine_grid(
        pn.tensor(theta, dtype="float32", device=device), size, align_corners=align
    )
    assert got.shape == (size[0], *size[2:], rank)
    for place in np.ndindex(*size[2:]):
        own = [
            (0.0 if n == 1 else 2 * i / (n - 1) - 1) if align else (2 * i + 1) / n - 1
            for i, n in zip(place, size[2:], strict=True)
        ]
        want = theta @ np.array([*own[::-1], 1.0])
        np.testing.assert_allclose(
            got.numpy()[(slice(None), *place)], want, rtol=1e-5, atol=1e-5
        )


def test_a_spatial_transformer_is_compiled(device):
    theta = pn.tensor([[[0.8, 0.1, 0.0], [-0.1, 0.9, 0.2]]], device=device)
    theta.requires_grad = True
    x = pn.tensor(RNG.normal(size=(1, 2, 6, 6)), dtype="float32", device=device)

    def turned(x):
        theta.zero_grad()
        y = F.grid_sample(x, F.affine_grid(theta, (1, 2, 4, 4)))
        (y * y).sum().backward()
        return y.detach(), theta.grad

    for got, want in zip(pn.compile(turned)(x), turned(x), strict=True):
        # Sums of 32 products in another order.
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-4, atol=1e-4)


def test_samples_of_half_precision_keep_it(device):
    x = pn.tensor([[[[1.0, 3.0]]]], dtype=pn.float16, device=device)
    y = F.grid_sample(x, pn.zeros((1, 1, 1, 2), device=device))
    assert y.dtype == pn.float16 and y.item() == 2.0


def test_what_can_not_be_sampled_is_refused():
    x, grid = pn.ones((1, 1, 2, 2)), pn.zeros((1, 3, 3, 2))
    for args, error, message in [
        ((x, grid[0]), ValueError, r"grid_sample: an input \(n, c, h, w\) and a grid"),
        ((x, pn.zeros((2, 3, 3, 2))), ValueError, "grid_sample: .* of one batch"),
        ((x, grid.astype(pn.int32)), TypeError, "grid_sample: floats are needed"),
        ((x, grid, "cubic"), ValueError, "grid_sample: mode is one of .*, not 'cubic'"),
        ((x, grid, "nearest", "wrap"), ValueError, "padding_mode is one of"),
        (([1.0], grid), TypeError, "grid_sample: a tensor is expected, not list"),
    ]:
        with pytest.raises(error, match=message):
            F.grid_sample(*args)
    volume = pn.ones((1, 1, 2, 2, 2)), pn.zeros((1, 1, 1, 1, 3))
    with pytest.raises(ValueError, match=r"mode is one of \('bilinear', 'nearest'\)"):
        F.grid_sample(*volume, "bicubic")
    with pytest.raises(ValueError, match=r"affine_grid: size is \(n, c, h, w\)"):
        F.affine_grid(pn.ones((1, 2, 3)), (1, 2, 3))
    with pytest.raises(ValueError, match=r"affine_grid: theta is float32 \(1, 2, 2\)"):
        F.affine_grid(pn.ones((1, 2, 2)), (1, 1, 3, 3))


# Max unpooling ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 9), (3, 8), (2, 3, 6, 7), (1, 2, 4, 5, 6)])
def test_what_was_pooled_is_put_back(device, shape):
    rank = 1 if len(shape) < 4 else len(shape) - 2
    x = pn.tensor(RNG.normal(size=shape), dtype="float32", device=device)
    pool = getattr(nn, f"MaxPool{rank}d")(2, return_indices=True)
    unpool = getattr(nn, f"MaxUnpool{rank}d")(2)
    y, places = pool(x)
    y = y.detach().requires_grad_()
    z = unpool(y, places, output_size=x.shape)
    n = int(np.prod(shape[-rank:]))
    want = np.zeros((int(np.prod(shape[:-rank])), n), np.float32)
    rows = places.numpy().reshape(len(want), -1)
    np.put_along_axis(want, rows, y.numpy().reshape(rows.shape), 1)
    np.testing.assert_array_equal(z.numpy(), want.reshape(shape))
    again = unpool(y, places, output_size=shape[-rank:])
    np.testing.assert_array_equal(again.numpy(), z.numpy())
    g = RNG.normal(size=shape).astype(np.float32)
    (z * pn.tensor(g, device=device)).sum().backward()
    want = np.take_along_axis(g.reshape(want.shape), rows, 1).reshape(y.shape)
    np.testing.assert_array_equal(y.grad.numpy(), want)
    run = pn.compile(lambda y, i: unpool(y, i, output_size=shape))
    np.testing.assert_array_equal(run(y.detach(), places).numpy(), z.numpy())


def test_without_a_size_it_is_the_least_that_was_pooled(device):
    x = pn.tensor(RNG.normal(size=(1, 1, 7, 7)), dtype="float32", device=device)
    y, places = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert F.max_unpool2d(y, places, 3, 2, 1).shape == (1, 1, 7, 7)
    assert (
        repr(nn.MaxUnpool2d(3, 2)) == "MaxUnpool2d(kernel_size=3, stride=2, padding=0)"
    )


def test_what_can_not_be_put_back_is_refused():
    y, places = F.max_pool1d(pn.ones((1, 1, 4)), 2, return_indices=True)
    with pytest.raises(
        ValueError, match=r"max_unpool1d: sizes \(9,\) do not become \(2,\)"
    ):
        F.max_unpool1d(y, places, 2, output_size=(9,))
    with pytest.raises(ValueError, match="MaxUnpool2d: .* indices of the same shape"):
        nn.MaxUnpool2d(2)(y, places[0])
    with pytest.raises(TypeError, match="max_unpool1d: an index is an integer"):
        F.max_unpool1d(y, y, 2)
    with pytest.raises(IndexError, match="max_unpool1d"):
        F.max_unpool1d(y, places + 4, 2)
