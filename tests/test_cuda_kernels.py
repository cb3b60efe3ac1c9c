"""The cuda backend's kernels without a GPU: what they compute, and what they compile to.

Values: each kernel runs from its own .cu in a simulator (tests/cuda/cusim.h) in several
orders of its threads, against NumPy in float64, with the references and bounds of the cpu
backend's tests. Code: NVRTC compiles it for every architecture, and the machine code is
read. Not shown here: speed, and races between blocks.
"""

import functools
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from portanet.backend_cuda import matmul, plan_of
from portanet.dtypes import as_dtype
from portanet.program import Program

from . import test_kernels_cpu as cases
from .test_kernels_cpu import NUMBERS, check_matmul, check_reduce, draw, layouts

pytest.importorskip("cuda.bindings")

from .cuda import compiled, simulate  # noqa: E402

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator is built by g++"
)
ORDERS = ("forward", "reverse", "1")
IS_SANITIZED = simulate.IS_SANITIZED


@pytest.fixture
def entries():
    """The names of the entries that a test has launched."""
    return set()


@pytest.fixture
def launch(entries):
    """As `launch` of the cpu backend's tests, in every order: the bits must be the same."""

    def launch(*arguments, **named):
        found = []
        for order in ORDERS:
            os.environ["CUSIM_ORDER"] = order
            found.append(simulate.launch(*arguments, **named, entries=entries))
        for other in found[1:]:
            for a, b in zip(np.atleast_1d(found[0]), np.atleast_1d(other), strict=True):
                assert a.tobytes() == b.tobytes(), "the order of threads shows"
        return found[0]

    return launch


# ---- reduce

# (kept, reduced): each row runs another entry.
ROWS = [(3, 1), (3, 31), (3, 1000), (1100, 33), (2, 40009), (5, 4097)]
COLUMNS = [(40, 9), (300, 65), (33, 3000), (5, 2000), (5, 200), (70, 1025)]


@pytest.mark.parametrize("which", cases.REDUCTIONS)
def test_reduce_of_rows_and_columns(which, launch, entries):
    """One dtype for each, and the wide one where a sum's error shows."""
    reduce = functools.partial(cases.reduce, launch=launch)
    name = "bool" if which in ("any", "all") else "float32"
    for kept, n in ROWS:
        x = cases.values_for(which, (kept, n), name)
        check_reduce(which, reduce(which, x, (1,)), x, (1,))
    for kept, n in COLUMNS:
        x = cases.values_for(which, (n, kept), name)
        check_reduce(which, reduce(which, x, (0,)), x, (0,))
    assert entries == {
        "lanes", "rows", "warps", "rows_first", "rows_second",
        "columns", "columns_first", "columns_second", "narrow", "narrow_first",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["bool", *NUMBERS])
def test_reduce_of_every_dtype_and_layout(name, launch):
    reduce = functools.partial(cases.reduce, launch=launch)
    which = "argmin" if name in ("bool", "uint8", "int64") else "sum"
    count = 0
    for shape in [(5, 67, 9), (3, 4, 300)]:
        for _, base, x in layouts(shape, name):
            for axes in [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2), ()]:
                check_reduce(which, reduce(which, x, axes, base), x, axes)
                count += 1
    assert count == 2 * 5 * 8


@pytest.mark.parametrize("n", [1, 70, 5000])
def test_nan_wins_and_the_first_of_equals_stays(n, launch):
    x = np.zeros((4, n), np.float32)
    x[1, [n // 2, n - 1]] = np.nan
    x[2, n // 3 :], x[3, n // 3 :] = np.inf, -np.inf
    for view, axis in [(x, 1), (np.ascontiguousarray(x.T), 0)]:
        for which in ("max", "min", "argmax", "argmin"):
            expected = cases.reduce_reference(which, view, (axis,))
            got = cases.reduce(which, view, (axis,), launch=launch)
            np.testing.assert_array_equal(got.astype(expected.dtype), expected)


def test_sums_may_be_wider_than_their_terms(launch):
    x = draw((7, 300), "bool")
    assert np.array_equal(
        cases.reduce("sum", x, (1,), out="int32", launch=launch), x.sum(1)
    )
    x = draw((7, 300), "uint8")
    assert np.array_equal(
        cases.reduce("sum", x, (1,), out="int64", launch=launch), x.sum(1)
    )


def test_sum_of_nothing_is_zero(launch):
    x = np.empty((3, 0), np.float32)
    assert list(cases.reduce("sum", x, (1,), launch=launch)) == [0] * 3
    assert cases.reduce("sum", x, (0,), launch=launch).shape == (0,)


# ---- matmul

# Around the tiles (32, 64, 128) and their slices (8, 16); vectors; splits of a long sum.
SHAPES = [
    *((0, 3, 2), (1, 1, 1), (3, 5, 4), (7, 9, 1), (17, 31, 13), (33, 65, 17)),
    *((64, 64, 64), (65, 129, 33), (40, 36, 1100), (1, 100, 300), (100, 1, 300)),
    *((1, 1, 9000), (130, 257, 20)),
]


@pytest.mark.parametrize("name", ["float32", "float64", "int32", "int64", "uint8"])
def test_matmul_of_every_shape(name, launch, entries):
    for m, n, k in SHAPES:
        a, b = draw((m, k), name, 1), draw((k, n), name, 2)
        check_matmul(cases.matmul(a, b, launch=launch), a, b)
    assert entries == {"tile", "each", "dots", "combine"}


@pytest.mark.parametrize("shape", [(17, 37, 24), (72, 68, 40), (1, 60, 300)])
def test_matmul_of_every_layout(shape, launch):
    m, n, k = shape
    count = 0
    for _, a_base, a in layouts((m, k), "float32", 1):
        for _, b_base, b in layouts((k, n), "float32", 2):
            check_matmul(cases.matmul(a, b, a_base, b_base, launch=launch), a, b)
            count += 1
    assert count == 25


def test_matmul_of_large_tiles(launch, monkeypatch):
    monkeypatch.setattr(matmul, "ENOUGH", 2)  # else only large products take them
    for m, n, k in [(132, 260, 12), (131, 257, 9)]:
        a, b = draw((m, k), "float32", 1), draw((k, n), "float32", 2)
        check_matmul(cases.matmul(a, b, launch=launch), a, b)


def test_matmul_of_batches(launch):
    product = functools.partial(cases.matmul, launch=launch)
    for batch in [(3,), (2, 5), (0,), (1, 4)]:
        a, b = draw((*batch, 9, 20), "float32", 1), draw((*batch, 20, 35), "float32", 2)
        check_matmul(product(a, b), a, b)
        if b.size:
            one = np.broadcast_to(b[(0,) * len(batch)], b.shape)
            check_matmul(product(a, one, None, b), a, one)
        column = b[..., :1]
        check_matmul(product(a, column, None, b), a, column)


def test_matmul_lets_infinities_and_nan_through(launch):
    a, b = np.ones((20, 40), np.float32), np.ones((40, 50), np.float32)
    a[3, 5], a[7, 0], b[9, 11] = np.inf, np.nan, -np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(cases.matmul(a, b, launch=launch), a @ b)


# ---- What they compile to


def program(kernel, out, ins, options=()):
    ins = tuple(as_dtype(t) for t in ins)
    return Program(kernel, (as_dtype(out),), ins, tuple(options))


def product(name, m, n, k, turned=""):
    """The program and words of a product, `turned` naming operands that are transposed."""
    a = (1, m) if "a" in turned else (k, 1)
    b = (1, k) if "b" in turned else (n, 1)
    words = [1, m, n, k, 0, 0, *a, 0, *b]
    return program("matmul", name, (name, name)), words


def reduction(which, name, kept, reduced, is_column=False):
    out = {"any": "bool", "argmax": "int32"}.get(which, name)
    strides = (1, kept) if is_column else (reduced, 1)
    words = [kept, reduced, 1, 1, 0, kept, strides[0], reduced, strides[1]]
    return program("reduce", out, (name,), (which,)), words


# name: (program and words, {opcode: how many at least}). 4096 has whole tiles.
CODE = {
    "matmul": (product("float32", 4096, 4096, 4096), {"LDG.E.128": 2, "FFMA": 512}),
    "matmul a.T": (product("float32", 4096, 4096, 4096, "a"), {"LDG.E.128": 2}),
    "matmul b.T": (product("float32", 4096, 4096, 4096, "b"), {"LDG.E.128": 2}),
    "matmul odd": (product("float32", 4097, 4095, 4095), {"FFMA": 512}),
    "matmul middle": (product("float32", 768, 768, 768), {"LDG.E.128": 2, "FFMA": 256}),
    "matmul split": (product("float32", 64, 64, 65536), {"LDG.E.128": 2}),
    "matmul float64": (product("float64", 1024, 1024, 1024), {"LDG.E.128": 2, "DFMA": 128}),
    "matmul int64": (product("int64", 1024, 1024, 1024), {}),
    "matmul uint8": (product("uint8", 4096, 4096, 4096), {}),
    "matrix by vector": (product("float32", 4096, 1, 4096), {"LDG.E": 2}),
    "vector by matrix": (product("float32", 1, 4096, 4096), {"LDG.E": 2}),
    "sum": (reduction("sum", "float32", 4, 1 << 24), {"LDG.E.128": 4}),
    "sum of rows": (reduction("sum", "float32", 4096, 1024), {"LDG.E.128": 4}),
    "sum of columns": (reduction("sum", "float32", 4096, 4096, True), {"LDG.E.128": 4}),
    "sum of few columns": (reduction("sum", "float32", 8, 4096, True), {"LDG.E.128": 4}),
    "any": (reduction("any", "bool", 4, 1 << 24), {"LDG.E.128": 2}),
    "argmax": (reduction("argmax", "float32", 4096, 1024), {"LDG.E.128": 4}),
    "argmax of columns": (reduction("argmax", "int64", 4096, 4096, True), {"LDG.E.128": 4}),
    "max": (reduction("max", "bfloat16", 4, 1 << 24), {"LDG.E.128": 4}),
    "sum of float16": (reduction("sum", "float16", 4096, 4096, True), {"LDG.E.128": 4}),
}  # fmt: skip


@pytest.mark.skipif(IS_SANITIZED, reason="nothing is run here")
@pytest.mark.parametrize("arch", compiled.ARCHES)
@pytest.mark.parametrize("name", CODE)
def test_code_keeps_to_registers_and_moves_16_bytes(name, arch):
    (made, words), wanted = CODE[name]
    first, *others = plan_of(made, words, simulate.H200).steps
    for step in (first, *others):
        (entry,) = compiled.entries(simulate.text(made, step), arch).values()
        assert entry.name == f"{step.entry}_text"
        assert (entry.spills, entry.stack) == (0, 0)
        assert not entry.count("LDL") and not entry.count("STL")
        assert entry.registers * step.threads <= 65536
        if step is first:
            short = {k: entry.count(k) for k, n in wanted.items() if entry.count(k) < n}
            assert not short


# ---- Under AddressSanitizer


@pytest.mark.skipif(IS_SANITIZED, reason="it starts this run")
def test_kernels_read_and_write_only_what_is_theirs():
    """A part of this file again, built with AddressSanitizer, in a process that has it."""
    library = subprocess.run(
        ["g++", "-print-file-name=libasan.so"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    standard = library.replace("libasan.so", "libstdc++.so")
    environment = {
        **os.environ,
        "CUSIM_SANITIZE": "1",
        "LD_PRELOAD": f"{library} {standard}",
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    }
    chosen = (
        "every_shape and (float32 or uint8) or every_layout and (float32 or float16)"
    )
    chosen += " or sum or argmax"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
    command += [__file__, "-k", chosen]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
