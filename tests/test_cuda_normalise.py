"""The gradients of norms on cuda, without a GPU: as test_cuda_kernels.py has it."""

import functools
import shutil
import struct

import numpy as np
import pytest

from portanet.backend_cuda import normalise, plan_of
from portanet.backend_cuda.plan import Gpu
from portanet.dtypes import as_dtype
from portanet.program import Program

from .test_kernels_cpu import EPS, draw

pytest.importorskip("cuda.bindings")

from .cuda import compiled, simulate  # noqa: E402

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator is built by g++"
)
EPSILON = 1e-3
INPUTS = {"rows_slope": 3, "moments": 1, "channels_slope": 5}
OUTPUTS = {"rows_slope": 3, "moments": 2, "channels_slope": 3}


def words_of(images, rows, n, offsets):
    (bits,) = struct.unpack("q", struct.pack("d", EPSILON))
    return [images, rows, n, bits, 4, *offsets]


def program(which, name="float32"):
    t = as_dtype(name)
    return Program("normalise", (t,) * OUTPUTS[which], (t,) * INPUTS[which], (which,))


def run(which, shape, counts, inputs, offset=0, entries=None):
    """Results of a launch whose inputs begin after `offset` elements that must not count."""
    name = inputs[0].dtype.name
    given = [np.concatenate([np.full(offset, np.nan, name), x.ravel()]) for x in inputs]
    words = words_of(*shape, [offset] * len(inputs))
    return simulate.in_every_order(
        functools.partial(
            simulate.launch_program, program(which, name), words, counts, given,
            entries=entries,
        )
    )  # fmt: skip


def near(got, want, name, width=64):
    bound = width * EPS[name] * max(np.abs(want).max(), 1)
    np.testing.assert_allclose(
        got.astype(np.float64).reshape(want.shape), want, 0, bound
    )


# A warp a row and lanes that are left over; packs; a block a row; a row that is read again.
@pytest.mark.parametrize(
    "rows,n,name,offset",
    [(9, 5, "float32", 0), (11, 132, "float32", 4), (6, 132, "float32", 1),
     (5, 1500, "float32", 0), (5, 300, "float64", 0), (6, 8300, "float32", 0)],
)  # fmt: skip
def test_the_gradient_of_layer_norm(rows, n, name, offset):
    g, x, w = draw((rows, n), name, 1), draw((rows, n), name, 2), draw((n,), name, 3)
    count = -(-rows // 4)
    y, w_sum, b_sum = run(
        "rows_slope", (1, rows, n), [g.size, count * n, count * n], [g, x, w], offset
    )
    exact, p = x.astype(np.float64), g.astype(np.float64) * w
    scale = 1 / np.sqrt(exact.var(1, keepdims=True) + EPSILON)
    h = (exact - exact.mean(1, keepdims=True)) * scale
    inner = p - p.mean(1, keepdims=True) - h * (p * h).mean(1, keepdims=True)
    near(y, inner * scale, name)
    starts = range(0, rows, 4)
    near(w_sum, np.add.reduceat(g * h, starts, 0), name)
    near(b_sum, np.add.reduceat(g.astype(np.float64), starts, 0), name)


@pytest.mark.parametrize(
    "images,channels,n,name,offset",
    [(3, 5, 49, "float32", 0), (2, 3, 64, "float32", 4), (70, 2, 6, "float64", 1),
     (1, 2, 9000, "float32", 0)],
)  # fmt: skip
def test_the_moments_of_channels_and_the_gradient_of_batch_norm(
    images, channels, n, name, offset, monkeypatch
):
    monkeypatch.setattr(normalise, "BLOCKS", 4)
    shape, entries = (images, channels, n), set()
    x, g = draw(shape, name, 1) + np.array(5, name), draw(shape, name, 2)
    w = draw((channels,), name, 3)
    exact, axes = x.astype(np.float64), (0, 2)
    mean, var = exact.mean(axes), exact.var(axes)
    for got, want in zip(
        run("moments", shape, [channels] * 2, [x], offset, entries), (mean, var)
    ):
        near(got, want, name)
    given = [mean.astype(name), var.astype(name)]
    wide = [v[:, None] for v in (mean, var, w.astype(np.float64))]
    scale = 1 / np.sqrt(wide[1] + EPSILON)
    h = (exact - wide[0]) * scale
    y, gh_sum, g_sum = run(
        "channels_slope", shape, [x.size, channels, channels], [g, x, w, *given], offset,
        entries,
    )  # fmt: skip
    gh = (g * h).mean(axes, keepdims=True)[0]
    inner = g - g.mean(axes, dtype=np.float64, keepdims=True)[0] - h * gh
    near(y, inner * scale * wide[2], name)
    near(gh_sum, (g * h).sum(axes), name, 512)
    near(g_sum, g.sum(axes, dtype=np.float64), name, 512)
    assert entries == {
        "moments", "moments_second", "slope_sums", "slope_second", "slope",
    }  # fmt: skip


# name: (which, images, rows, n, dtype, loads of 16 bytes at least in the first step)
CODE = {
    "layer norm of 768": ("rows_slope", 1, 8192, 768, "float32", 12),
    "layer norm of 65": ("rows_slope", 1, 8192, 65, "float32", 0),
    "layer norm of 4096": ("rows_slope", 1, 8192, 4096, "float32", 16),
    "layer norm in float64": ("rows_slope", 1, 8192, 1024, "float64", 16),
    "layer norm of 16384": ("rows_slope", 1, 8192, 16384, "float32", 6),
    "moments": ("moments", 128, 64, 3136, "float32", 4),
    "its gradient": ("channels_slope", 128, 64, 3136, "float32", 4),
    "its gradient of small planes": ("channels_slope", 128, 512, 49, "float64", 0),
}


EVERYWHERE = (
    "layer norm of 768",
    "its gradient",
)  # the others where registers are fewest
CHOSEN = [(name, arch) for name in EVERYWHERE for arch in compiled.ARCHES]
CHOSEN += [(name, "120") for name in CODE if name not in EVERYWHERE]


@pytest.mark.parametrize("name,arch", CHOSEN)
def test_code_keeps_rows_in_registers(name, arch):
    which, *shape, dtype, packs = CODE[name]
    made, words = program(which, dtype), words_of(*shape, [0] * INPUTS[which])
    gpu = Gpu(int(arch.rstrip("a")), 100, 96 << 10)
    steps = plan_of(made, words, gpu).steps
    for k, step in enumerate(steps):
        (entry,) = compiled.entries(simulate.text(made, step), arch).values()
        assert (entry.spills, entry.stack) == (0, 0), step.entry
        assert not entry.count("LDL") and not entry.count("STL")
        assert entry.registers * step.threads <= 65536
        if k == 0:
            assert entry.count("LDG.E.128") + entry.count("LDG.E.EF.128") >= packs
