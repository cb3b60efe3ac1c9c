"""Attention on cuda, without a GPU: as test_cuda_kernels.py has it."""

import functools
import shutil

import numpy as np
import pytest

from portanet.backend_cuda import plan_of
from portanet.backend_cuda.plan import Gpu
from portanet.dtypes import as_dtype
from portanet.ops import attention as entry
from portanet.ops import dropout
from portanet.program import Program

from .test_kernels_cpu import EPS

pytest.importorskip("cuda.bindings")

from .cuda import compiled, simulate  # noqa: E402

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator is built by g++"
)

# batch, heads, groups, queries, keys, width, value width, causal, dtype, mask, dropped,
# scale where it is another than usual. Those of 16 bits run on tensor cores, but for heads wider than 128.
CASES = [
    (1, 2, 1, 70, 75, 36, 20, True, "float32", None, 0.0),
    (2, 2, 2, 5, 130, 9, 5, False, "float32", "bool", 0.3),
    (1, 1, 1, 66, 9, 70, 130, False, "float32", "float16", 0.0),
    (1, 2, 2, 35, 40, 40, 6, True, "float64", None, 0.5),
    (1, 1, 1, 9, 40, 130, 6, True, "float16", None, 0.0),
    (1, 2, 1, 70, 150, 40, 24, True, "bfloat16", None, 0.0),
    (1, 1, 1, 5, 70, 9, 5, False, "float16", "bool", 0.3),
    (1, 2, 1, 66, 9, 70, 128, False, "bfloat16", "float16", 0.0),
    (1, 2, 2, 135, 70, 16, 16, False, "float16", None, 0.5, -0.3),
]


def by_length(shape):
    """The strides of (batch, heads, length, width) in memory (batch, length, heads, width)."""
    return entry._steps(shape)


def scale_of(case):
    return case[11] if len(case) > 11 else case[5] ** -0.5


def sizes(case):
    b, h, g, n, m, width, values = case[:7]
    shapes = [(b, h, n, width), (b, g, m, width), (b, g, m, values), (b, h, n, values)]
    return shapes, (b, h, n)


def words_of(case, which, views):
    """The words of a launch of contiguous inputs, `views` (offset, strides) of q, k, v, dy."""
    b, h, g, n, m, width, values, causal, _, mask, p = case[:11]
    words = [b, h, g, n, m, width, values, int(causal), int(mask is not None)]
    words += [dropout.threshold(p) if p else 0]
    words += [*entry._bits(scale_of(case)), *entry._bits(1 / (1 - p))]
    for offset, strides in views[: 3 if which == "forward" else 4]:
        words += [offset, *strides[:3]]
    words += [0, 0, 0, m, 1] if mask else []
    return [*words, 0] if p else words


def contiguous(shape):
    return tuple(int(np.prod(shape[d + 1 :])) for d in range(len(shape)))


def program(case, which):
    name, mask, p = case[8:11]
    f, u = as_dtype(name), as_dtype("uint32")
    rest = [as_dtype(mask)] if mask else []
    rest += [u] if p else []
    options = (which, str(case[5]), str(case[6]))
    if which == "forward":
        outputs, inputs = (f, f.compute, *([u] if p else [])), (f,) * 3
    else:
        outputs, inputs = (f,) * 3, (f, f, f.compute, f, f, f)
    return Program("attention", outputs, (*inputs, *rest), options)


def arrays(case):
    """q, k, v, dy, [mask,] [state], and where a row of 16 elements in front lies."""
    shapes, _ = sizes(case)
    rng = np.random.default_rng(0)
    name, mask, p = case[8:11]
    made = [rng.uniform(-1, 1, s).astype(name) for s in shapes]
    rest = []
    if mask:
        seen = rng.uniform(-2, 2, (case[3], case[4])).astype("float16")
        seen[:, 1] = -np.inf
        seen[3] = -np.inf  # a row that sees nothing
        rest.append(seen > -1 if mask == "bool" else seen)
    if p:
        rest.append(np.array([1, 2, 0xFFFFFFF0, 4], np.uint32))
    return made, rest


def reorder(x, shape):
    """What a kernel wrote by length, as (batch, heads, length, width)."""
    b, h, n, w = shape
    return x.reshape(b, n, h, w).transpose(0, 2, 1, 3)


def check(found, want, bound):
    """That infinities are the same, and all else at most `bound` off."""
    found, is_finite = found.astype(float), np.isfinite(want)
    assert np.array_equal(found[~is_finite], want[~is_finite])
    off = np.where(is_finite, abs(found - np.where(is_finite, want, 0)) / bound, 0)
    assert off.max() <= 1, (off.max(), np.unravel_index(off.argmax(), off.shape))


def off_by(case, exact, rest, static):
    """How far y, lse, dq, dk and dv may be from their definition.

    Wide types: units of the sums. Of 16 bits, each value that is rounded is off by a part u:
    the weights, ds, and the results; backward also y, and what is off in it. Sums in float32
    are off by far less.
    """
    q, k, v, dy = exact
    u = EPS[case[8]]
    if np.dtype(case[8]).itemsize > 2:
        made = entry._back_reference(dy, None, None, q, k, v, *rest, **static)
        y, lse = entry._reference(q, k, v, *rest, **static)[:2]
        near = [64 * u * (1 + abs(x)) for x in (y, np.nan_to_num(lse, neginf=0))]
        return [*near, *(512 * u * abs(x).max() for x in made)]
    _, groups, scale = *k.shape[:2], abs(static["scale"])
    wide_k, wide_v, weights, keep, lse = entry._numpy_weights(q, k, v, rest, **static)
    met = weights * keep
    y = met @ abs(wide_v)
    dp = (dy @ np.swapaxes(wide_v, 2, 3)) * keep
    ds = abs(weights * (dp - (weights * dp).sum(3, keepdims=True)))
    ds = 2 * ds + 2 * weights * (abs(dy) * y).sum(3, keepdims=True)

    def joined(x):
        b, h, n, width = x.shape
        return x.reshape(b, groups, h // groups, n, width).sum(2)

    dq = scale * ds @ abs(wide_k)
    dk = joined(scale * np.swapaxes(ds, 2, 3) @ abs(q))
    dv = joined(2 * np.swapaxes(met, 2, 3) @ abs(dy))
    near = 64 * EPS["float32"] * (1 + abs(np.nan_to_num(lse, neginf=0)))
    return [2 * u * y + 1e-5, near, *(u * x + 1e-5 for x in (dq, dk, dv))]


@pytest.mark.parametrize("case", CASES)
def test_attention_and_its_gradients(case):
    """Against the definition in float64; the kernel's own results go into backward."""
    (q, k, v, dy), rest = arrays(case)
    shapes, rows = sizes(case)
    static = {"scale": scale_of(case), "causal": case[7], "p": case[10]}
    views = [(0, contiguous(s)) for s in shapes]

    def launch(which, counts, inputs):
        made, words = program(case, which), words_of(case, which, views)
        return simulate.in_every_order(
            functools.partial(simulate.launch_program, made, words, counts, inputs)
        )

    exact = [x.astype(np.float64) for x in (q, k, v)]
    wide = [
        x if x.dtype == bool or x.dtype == np.uint32 else x.astype(float) for x in rest
    ]
    want = entry._reference(*exact, *wide, **static)
    off = off_by(case, [*exact, dy.astype(float)], wide, static)
    counts = [dy.size, int(np.prod(rows))] + ([4] if case[10] else [])
    y, lse, *after = launch("forward", counts, [q, k, v, *rest])
    check(reorder(y, shapes[3]), want[0], off[0])
    check(lse.reshape(rows), want[1], off[1])
    if after:
        assert list(after[0]) == list(want[2])
    want = entry._back_reference(dy.astype(float), None, None, *exact, *wide, **static)
    found = launch("backward", [q.size, k.size, v.size], [dy, y, lse, q, k, v, *rest])
    for x, exactly, shape, bound in zip(found, want, shapes[:3], off[2:], strict=True):
        check(reorder(x, shape), exactly, bound)


def test_rows_that_are_out_of_line_and_headless_batches():
    """Views with offsets and steps: the same bits as those in line."""
    case = (2, 2, 2, 9, 12, 8, 8, False, "float32", None, 0.0)
    (q, k, v, _), _ = arrays(case)
    shapes, rows = sizes(case)
    made = program(case, "forward")
    counts = [int(np.prod(shapes[3])), int(np.prod(rows))]
    plain = [(0, contiguous(s)) for s in shapes]
    want = simulate.launch_program(
        made, words_of(case, "forward", plain), counts, [q, k, v]
    )
    bases, views = [], []
    for x in (q, k, v):
        b, h, n, w = x.shape
        base = np.full((b, n, h, w + 3), np.nan, x.dtype)
        base[..., 1 : 1 + w] = x.transpose(0, 2, 1, 3)
        bases.append(base)
        views.append((1, (n * h * (w + 3), w + 3, h * (w + 3), 1)))
    got = simulate.launch_program(made, words_of(case, "forward", views), counts, bases)
    for a, b in zip(got, want, strict=True):
        assert a.tobytes() == b.tobytes()


# ---- What they compile to


def plain(width, n=2048, name="float32", mask=None, p=0.0):
    return (4, 16, 16, n, n, width, width, False, name, mask, p)


CODE = [("64 wide", plain(64), arch) for arch in compiled.ARCHES]
CODE += [("128 wide", plain(128), "120")]
CODE += [("masked and dropped", plain(64, mask="float32", p=0.1), "120")]
HALVES = [
    ("64 wide", plain(64, name="bfloat16"), arch)
    for arch in compiled.ARCHES
    if arch != "75"
]
HALVES += [("128 wide", plain(128, name="float16"), "90a")]
MASKED = plain(128, name="bfloat16", mask="float32", p=0.1)
HALVES += [("128 wide, masked and dropped", MASKED, "80")]


def launches(case, which, arch):
    """The steps of a launch but the statistics, and what they are compiled to."""
    shared = {"75": 64, "80": 163, "90a": 227}.get(arch, 99) << 10
    views = [(0, contiguous(s)) for s in sizes(case)[0]]
    gpu = Gpu(int(arch.rstrip("a")), 100, shared)
    made = program(case, which)
    for step in plan_of(made, words_of(case, which, views), gpu).steps:
        if step.entry == "statistics" and case[5:] != plain(64)[5:]:
            continue
        (found,) = compiled.entries(simulate.text(made, step), arch).values()
        assert (found.spills, found.stack) == (0, 0), step.entry
        assert not found.count("LDL") and not found.count("STL")
        assert found.registers * step.threads <= 65536 and step.shared <= shared
        if step.entry != "statistics":
            yield step, found, shared


@pytest.mark.parametrize("which", ["forward", "backward"])
@pytest.mark.parametrize("name,case,arch", CODE, ids=lambda x: x if str(x) == x else "")
def test_code_keeps_sums_in_registers(name, case, which, arch):
    for _, found, _ in launches(case, which, arch):
        wide = [op[:3] for op in found.code if ".128" in op]
        assert wide.count("LDS") >= 16 and wide.count("LDG") >= 8


@pytest.mark.parametrize("which", ["forward", "backward"])
@pytest.mark.parametrize(
    "name,case,arch", HALVES, ids=lambda x: x if str(x) == x else ""
)
def test_code_keeps_tensor_cores_busy(name, case, which, arch):
    """Copies that nobody waits for, fragments by ldmatrix, and two warps for each of the
    four tensor cores of a multiprocessor where its shared memory allows it."""
    for step, found, shared in launches(case, which, arch):
        assert found.count("LDGSTS") >= 8 and not found.count("LDG.E.128")
        # A fragment of b is for two products at least.
        assert found.count("HMMA") >= 48
        assert found.count("LDSM") <= found.count("HMMA") * 3 // 4
        blocks = min(65536 // (found.registers * step.threads), shared // step.shared)
        assert blocks * step.threads >= 256 or (shared < 100 << 10 and case[5] > 64)
