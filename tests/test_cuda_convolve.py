"""Convolutions on cuda, without a GPU: as test_cuda_kernels.py has it."""

import functools
import shutil

import numpy as np
import pytest

from portanet.backend_cuda import plan_of
from portanet.backend_cuda.plan import Gpu
from portanet.dtypes import as_dtype
from portanet.op import OPS
from portanet.program import Program
from portanet.scalars import trace

from .test_kernels_cpu import EPS, draw

pytest.importorskip("cuda.bindings")

from .cuda import compiled, simulate  # noqa: E402

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator is built by g++"
)

PRODUCTS = ("forward", "input", "weight")
# (n, groups, channels, outputs, x, kernel, stride, padding, dilation)
CASES = [
    (2, 1, 3, 9, (1, 7, 9), (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1)),
    (1, 2, 17, 34, (1, 6, 6), (1, 1, 1), (1, 1, 2), (0, 0, 0), (1, 1, 1)),
    (3, 3, 1, 2, (1, 9, 8), (1, 3, 2), (1, 2, 3), (0, 2, 0), (1, 2, 1)),
    (2, 1, 5, 50, (4, 5, 6), (2, 3, 2), (2, 1, 2), (1, 0, 1), (1, 2, 1)),
    (40, 1, 2, 100, (1, 1, 30), (1, 1, 5), (1, 1, 2), (0, 0, 2), (1, 1, 1)),
]
# By tensor cores: channels that are not multiples of 8, groups, three axes, strides that
# miss taps (whose multiples of a dilation of 2 have one residue only), sums in parts.
TENSOR_CASES = [
    (2, 2, 11, 34, (1, 5, 7), (1, 3, 3), (1, 1, 1), (0, 1, 0), (1, 1, 2)),
    (2, 1, 9, 20, (3, 5, 6), (2, 3, 2), (2, 1, 2), (1, 0, 1), (1, 2, 1)),
    (5, 1, 40, 100, (1, 6, 9), (1, 3, 4), (1, 2, 4), (0, 2, 1), (1, 2, 2)),
]


def convolution(case, name):
    """x, w, y of the right sizes, the words, and the products by definition."""
    n, groups, channels, outputs, sizes, kernel, stride, padding, dilation = case
    reach = [(k - 1) * d for k, d in zip(kernel, dilation)]
    steps = zip(sizes, padding, reach, stride)
    results = [(s + 2 * p - r - 1) // t + 1 for s, p, r, t in steps]
    x = draw((n, groups, channels, *sizes), name, 1)
    w = draw((groups, outputs, channels, *kernel), name, 2)
    y = draw((n, groups, outputs, *results), name, 3)
    words = [n, groups, channels, outputs, *sizes, *results, *kernel, *stride]
    words += [*padding, *dilation, 0, 0, 0]

    def patches(of):
        """View or gradient of padded x: (n, g, c, results, kernel)."""
        strides = of.strides
        moves = [a * b for a, b in zip(strides[3:], stride)]
        taps = [a * b for a, b in zip(strides[3:], dilation)]
        shape = (*of.shape[:3], *results, *kernel)
        return np.lib.stride_tricks.as_strided(of, shape, (*strides[:3], *moves, *taps))

    def padded(of):
        return np.pad(of, [(0, 0)] * 3 + [(p, p + 9) for p in padding])

    exact = [a.astype(np.float64) for a in (x, w, y)]

    def products(x, w, y):
        at = patches(padded(x))
        to = padded(np.zeros_like(x))
        for p in np.ndindex(*results):
            spread = np.einsum("ngo,goctuv->ngctuv", y[(..., *p)], w)
            where = tuple(
                slice(a * s, a * s + (k - 1) * d + 1, d)
                for a, s, k, d in zip(p, stride, kernel, dilation)
            )
            to[(..., *where)] += spread
        inside = tuple(slice(p, p + s) for p, s in zip(padding, sizes))
        return {
            "forward": np.einsum("ngcxyztuv,goctuv->ngoxyz", at, w),
            "input": to[(..., *inside)],
            "weight": np.einsum("ngcxyztuv,ngoxyz->goctuv", at, y),
        }

    return (x, w, y), words, products(*exact), products(*map(np.abs, exact))


def run(case, which, name, launch, options=()):
    """The launch's result, what it should be, and the sum of its terms' magnitudes."""
    (x, w, y), words, expected, magnitude = convolution(case, name)
    inputs = {"forward": [x, w], "input": [y, w], "weight": [x, y]}[which]
    want = expected[which]
    got = launch("convolve", words, [(name, want.size)], inputs, (which, *options))
    return got.reshape(want.shape).astype(np.float64), want, magnitude[which]


def run_in_every_order(*arguments):
    found = []

    def once():
        found[:] = run(*arguments)
        return found[0]

    simulate.in_every_order(once)
    return found


@pytest.fixture
def entries():
    """The names of the entries that a test has launched."""
    return set()


@pytest.mark.parametrize("which", PRODUCTS)
@pytest.mark.parametrize("case", CASES)
def test_convolve(case, which, entries):
    """Without tensor cores; of half precision too."""
    name = ("float32", "float64", "float16", "bfloat16", "float32")[CASES.index(case)]
    volta = Gpu(70, 80, 96 << 10)
    launch = functools.partial(simulate.launch, entries=entries, gpu=volta)
    got, want, magnitude = run_in_every_order(case, which, name, launch)
    wide = min(EPS[name], EPS["float32"])
    assert np.all(
        np.abs(got - want) <= 64 * wide * magnitude + 2 * EPS[name] * np.abs(want)
    )
    assert entries <= {"tile", "each", "combine"}


def test_convolutions_take_each_entry(entries):
    for case in CASES:
        (x, w, y), words, *_ = convolution(case, "float32")
        given = ("convolve", words, [("float32", w.size)], [x, y], ("weight",))
        simulate.launch(*given, entries=entries)
    assert entries == {"tile", "each", "combine"}


@pytest.mark.parametrize("which", PRODUCTS)
@pytest.mark.parametrize("case", range(len(TENSOR_CASES)))
def test_convolve_by_tensor_cores(case, which, entries):
    """A product of two halves is exact, so sums alone round, up to 64 times on the way."""
    name, arch = [("bfloat16", 80), ("float16", 75), ("bfloat16", 90)][case]
    launch = functools.partial(
        simulate.launch, entries=entries, gpu=Gpu(arch, 100, 96 << 10)
    )
    got, want, magnitude = run_in_every_order(TENSOR_CASES[case], which, name, launch)
    bound = 64 * EPS["float32"] * magnitude + EPS[name] * np.abs(want)
    assert np.all(np.abs(got - want) <= bound)
    assert entries - {"combine"} == {"turn", "mma"}
    assert "combine" in entries or (case, which) != (2, "input")


@pytest.mark.parametrize("which", PRODUCTS)
def test_convolve_in_tf32_keeps_ten_bits_of_each_factor(which, entries):
    launch = functools.partial(simulate.launch, entries=entries)
    got, want, magnitude = run(TENSOR_CASES[1], which, "float32", launch, ("tf32",))
    error, bound = np.abs(got - want), 2.1 * 2.0**-11 * magnitude
    assert np.all(error <= bound) and np.any(error > bound / 1000)
    assert entries - {"combine"} == {"turn", "mma"}


# One tap: matrices as they lie.
POINTS = [
    (3, 2, 17, 34, (1, 4, 6), (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1)),
    (2, 1, 64, 72, (1, 8, 9), (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1)),
]


@pytest.mark.parametrize("which", ["forward", "input"])
@pytest.mark.parametrize("case", POINTS)
@pytest.mark.parametrize(
    "name, arch", [("float32", 80), ("bfloat16", 80), ("float16", 90)]
)
def test_convolutions_of_one_tap_are_products(case, which, name, arch, entries):
    gpu = Gpu(arch, 2, 227 << 10)
    launch = functools.partial(simulate.launch, entries=entries, gpu=gpu)
    got, want, magnitude = run(case, which, name, launch)
    bound = 64 * EPS["float32"] * magnitude + EPS[name] * np.abs(want)
    assert np.all(np.abs(got - want) <= bound)
    assert len(entries) == 1 and entries < {"tile", "mma", "wgmma"}
    made = program(name, which)
    words = convolution(case, name)[1]
    assert all(step.of.kernel == "matmul" for step in plan_of(made, words, gpu).steps)


@pytest.mark.parametrize("case", range(2))
def test_the_weights_of_one_tap_are_summed_as_x_and_y_lie(case, entries):
    name, arch = ("bfloat16", 80) if case else ("float16", 75)
    gpu = Gpu(arch, 100, 64 << 10)
    launch = functools.partial(simulate.launch, entries=entries, gpu=gpu)
    many = (30, *POINTS[1][1:]) if case else POINTS[0]  # whose sum is split
    got, want, magnitude = run_in_every_order(many, "weight", name, launch)
    bound = 64 * EPS["float32"] * magnitude + EPS[name] * np.abs(want)
    assert np.all(np.abs(got - want) <= bound)
    assert entries == ({"mma", "combine"} if case else {"mma"})


def test_rows_that_pieces_do_not_fit_are_laid_channels_last(entries):
    case = (2, 1, 24, 40, (1, 7, 7), (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1))
    launch = functools.partial(simulate.launch, entries=entries)
    got, want, magnitude = run(case, "forward", "bfloat16", launch)
    bound = 64 * EPS["float32"] * magnitude + EPS["bfloat16"] * np.abs(want)
    assert np.all(np.abs(got - want) <= bound) and entries == {"turn", "mma"}


def with_gelu(made, words, n, rows, places):
    """The same, that keeps its result and the GELU of it after a bias of `rows`."""
    t = made.outputs[0]
    expression = trace(
        lambda y, b: (OPS["gelu"].formula(y + b, approximate="none"), y), (t, t)
    )
    made = Program(
        "convolve", (t, t), (*made.inputs, t), made.options, expression, "cccv", 3
    )
    return made, [*words, n * rows * places, *[0] * 4, n, rows, places, 0, 1, 0]


LARGE = (2, 1, 12, 70, (1, 5, 6), (1, 3, 4), (1, 2, 2), (0, 1, 1), (1, 1, 1))


@pytest.mark.parametrize("case, which, options, last", [
    (LARGE, "forward", (), "tile"), (LARGE, "forward", ("tf32",), "mma"),
    (LARGE, "input", ("tf32",), "combine"), (POINTS[1], "forward", (), "tile"),
])  # fmt: skip
def test_an_epilogue_is_applied_once_to_each_sum(case, which, options, last):
    (x, w, y), words, expected, magnitude = convolution(case, "float32")
    inputs = {"forward": [x, w], "input": [y, w]}[which]
    want = expected[which][:, 0]
    n, rows, *places = want.shape
    bias = draw((rows,), "float32", 4)
    made = program("float32", which, options)
    made, words = with_gelu(made, words, n, rows, int(np.prod(places)))
    found = set()
    z, kept = simulate.launch_program(
        made, words, [want.size] * 2, [*inputs, bias], entries=found
    )
    assert last in found
    bound = (2.1 * 2.0**-11 if options else 64 * 2.0**-24) * magnitude[which][:, 0]
    assert np.all(np.abs(kept.reshape(want.shape) - want) <= bound)
    before = kept.reshape(n, rows, -1).astype(np.float64) + bias[:, None]
    after = OPS["gelu"].reference(before, approximate="none")
    np.testing.assert_allclose(z.reshape(after.shape), after, 1e-5, 1e-6)


# ---- What they compile to


def program(name, which, options=()):
    t = as_dtype(name)
    return Program("convolve", (t,), (t, t), (which, *options))


def convolution_words(channels=128, groups=1, size=28, kernel=3, stride=1, rank=2):
    """Of 32 images (of three axes: 4)."""

    def axes(number, fill=1):
        return [fill] * (3 - rank) + [number] * rank

    n, border = 32 if rank < 3 else 4, kernel // 2
    result = (size + 2 * border - kernel) // stride + 1
    words = [n, groups, channels, channels, *axes(size), *axes(result), *axes(kernel)]
    return [*words, *axes(stride), *axes(border, 0), *axes(1), 0, 0, 0]


def gelu(name, options=()):
    return with_gelu(
        program(name, "forward", options), convolution_words(), 32, 128, 784
    )


def plain(name, which, options=(), **sizes):
    return program(name, which, options), convolution_words(**sizes)


TF32 = ("tf32",)
MMA = {"HMMA": 32, "LDSM": 12}
FEW = ("80", "120")
# (program and words, {opcode: how many at least}, architectures)
CODE = {
    "forward": (plain("float32", "forward"), {"FFMA": 512}, compiled.ARCHES),
    "input": (plain("float32", "input"), {"FFMA": 512}, FEW),
    "weight": (plain("float32", "weight"), {"FFMA": 512}, FEW),
    "depthwise": (plain("float32", "forward", channels=1, groups=128), {}, FEW),
    "narrow": (plain("float32", "forward", channels=16), {"FFMA": 256}, FEW),
    "three axes": (plain("float32", "input", size=8, stride=2, rank=3), {"FFMA": 512}, FEW),
    "GELU": (gelu("float32"), {"FFMA": 512}, FEW),
    "mma": (plain("float16", "forward"), MMA, compiled.ARCHES),
    "mma input": (plain("float16", "input", stride=2), MMA, compiled.ARCHES),
    "mma weight": (plain("float16", "weight"), MMA, compiled.ARCHES),
    "mma weight of points": (plain("bfloat16", "weight", kernel=1), {"HMMA": 16, "LDSM": 8}, ("80", "90a", "120")),
    "mma of 64 rows": (plain("bfloat16", "forward", channels=64), MMA, FEW),
    "mma of 32 rows": (plain("bfloat16", "weight", channels=32), {"HMMA": 16, "LDSM": 8}, FEW),
    "mma small": (plain("bfloat16", "forward", channels=200, size=7), {"HMMA": 16, "LDSM": 8}, FEW),
    "mma of three axes": (plain("bfloat16", "input", size=16, stride=2, rank=3), MMA, FEW),
    "mma tf32": (plain("float32", "forward", TF32), MMA, ("80", "90a", "120")),
    "mma tf32 weight": (plain("float32", "weight", TF32), {"HMMA": 32}, FEW),
    "mma tf32, GELU": (gelu("float32", TF32), {"HMMA": 32}, FEW),
}  # fmt: skip
COMPILED = [(name, arch) for name in CODE for arch in CODE[name][2]]


@pytest.mark.parametrize("name, arch", COMPILED)
def test_code_keeps_to_registers(name, arch):
    (made, words), wanted, _ = CODE[name]
    steps = plan_of(made, words, Gpu(int(arch.rstrip("a")), 100, 96 << 10)).steps
    works = [step for step in steps if step.entry in ("tile", "each", "mma")]
    assert [step.entry for step in works] == [
        "mma" if "mma" in name else works[0].entry
    ]
    for step in steps if arch in FEW and name == "mma weight" else works:
        (entry,) = compiled.entries(simulate.text(made, step), arch).values()
        assert entry.name == f"{step.entry}_text"
        assert (entry.spills, entry.stack) == (0, 0)
        blocks = dict(step.defines).get("PN_BLOCKS", 1)
        assert entry.registers * step.threads * blocks <= 65536
        if step in works:
            wanted = dict(wanted)
            if step.entry == "mma" and int(arch.rstrip("a")) >= 80:
                wanted["LDGSTS"] = 8
            short = {k: entry.count(k) for k, n in wanted.items() if entry.count(k) < n}
            assert not short
