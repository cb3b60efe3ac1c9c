"""Would the suite notice? Faults are planted, one by one; each must be caught.

A fault goes into a copy of the package; the part of the suite that guards the place
runs on the copy in a process of its own, and must fail with the test that is named. The
copy without a fault must pass all of them.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import portanet
from tests.conftest import PRESENT

PACKAGE = Path(portanet.__file__).parent
TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Fault:
    """In `file` of the package `right` becomes `wrong`; `test` fails (`-k chosen`)."""

    name: str
    file: str
    right: str
    wrong: str
    test: str
    chosen: str
    device: str = "cpu"


FAULTS = (
    Fault(
        "a sign in a gradient",
        "ops/elementwise.py",
        "grad=(lambda g, z, x, y: g, lambda g, z, x, y: negative(g)),",
        "grad=(lambda g, z, x, y: g, lambda g, z, x, y: g),",
        "test_operators.py::test_gradient",
        "subtract-cpu",
    ),
    Fault(
        "a short loop",
        "backend_cpu/scan.c",
        "for (int64_t j = 0; j < n; j++)",
        "for (int64_t j = 0; j < n - 1; j++)",
        "test_operators.py::test_value",
        "scan-cpu",
    ),
    Fault(
        "a wrong stride",
        "ops/shape.py",
        "strides.append(step * stride)",
        "strides.append(stride)",
        "test_tensor.py::test_basic_indexing_is_numpys",
        "cpu",
    ),
    Fault(
        "a missing barrier",
        "shaders/reduce.wgsl",
        "workgroupBarrier();",
        "",
        "test_wgsl_compiles.py::test_workgroup_memory_is_shared_only_across_a_barrier",
        "reduce",
    ),
    Fault(
        "an unstable softplus",
        "ops/elementwise.py",
        'return s.maximum(x, 0) + s.log1p(s.exp(-s.apply("abs", x)))',
        "return s.log1p(s.exp(x))",
        "test_operators.py::test_special_values_are_numpys",
        "softplus-cpu",
    ),
    Fault(
        "a read past a row",
        "backend_cpu/gather.c",
        "bad |= (uint64_t)row >= (uint64_t)g->size;",
        "bad |= (uint64_t)row > (uint64_t)g->size;",
        "test_errors.py::test_an_index_past_an_inner_axis_does_not_reach_the_next_row",
        "cpu",
    ),
    Fault(
        "a read past a row by a plain line",
        "backend_cpu/gather.c",
        "if (most >= 2 * (uint32_t)size) {",
        "if (most > 2 * (uint32_t)size) {",
        "test_errors.py::test_an_index_past_an_inner_axis_does_not_reach_the_next_row",
        "cpu",
    ),
    Fault(
        "a wrong dtype",
        "dtypes.py",
        "return max(a, b, key=lambda t: t.code)",
        "return min(a, b, key=lambda t: t.code)",
        "test_tensor.py::test_promotion_is_the_standards",
        "cpu",
    ),
)
# The same kinds of fault in shaders, where a device is there to run them.
ON_WGPU = (
    Fault(
        "a missing barrier, run",
        "shaders/reduce.wgsl",
        "workgroupBarrier();",
        "",
        "test_backend_wgpu.py::test_reduction",
        "(sum and GPU)",
        "wgpu",
    ),
    Fault(
        "a missing barrier between uses, run",
        "shaders/scan.wgsl",
        "            workgroupBarrier();\n            totals[thread] = sum;",
        "            totals[thread] = sum;",
        "test_backend_wgpu.py::test_scan",
        "(sum and GPU)",
        "wgpu",
    ),
    Fault(
        "a short loop in a shader",
        "shaders/scan.wgsl",
        "j < P(1u); j++",
        "j < P(1u) - 1u; j++",
        "test_operators.py::test_value",
        "scan-wgpu-float32",
        "wgpu",
    ),
    Fault(
        "a read past a row in a shader",
        "shaders/reduce.wgsl",
        "let end = min(begin + P(1u), P(4u));",
        "let end = min(begin + P(1u), P(4u)) + 1u;",
        "test_operators.py::test_value",
        "sum-wgpu-float32",
        "wgpu",
    ),
)
CHOSEN = (*FAULTS, *(ON_WGPU if "wgpu" in PRESENT else ()))
COMPILED = tuple(f for f in CHOSEN if f.file.endswith(".c"))


# The extension, built from a folder of sources for the base level only ----------------

FLAGS = (
    "-std=gnu11 -O1 -w -fPIC -fwrapv -ffp-contract=off -fno-math-errno -pthread".split()
)
FLAGS += ["-D_GNU_SOURCE", "-DPy_LIMITED_API=0x030b0000", "-DPN_LEVEL=base"]
NOT_KERNELS = {"module", "memory", "threads", "table"}


def write_table(sources):
    """The table that CMakeLists.txt writes, with one level."""
    stems = sorted(p.stem for p in sources.glob("*.c") if p.stem not in NOT_KERNELS)
    lines = ['#include "table.h"']
    lines += [f"void pn_{s}_base(const pn_args *args);" for s in stems]
    lines += ["const pn_kernel pn_kernels[] = {"]
    lines += [f'    {{"{s}", {{pn_{s}_base}}}},' for s in stems]
    lines += ["    {NULL, {NULL}}};", 'const char *const pn_levels[] = {"base", NULL};']
    sources.joinpath("table.c").write_text("\n".join(lines) + "\n")


def compile_file(source, folder):
    made = folder / f"{source.stem}.o"
    folders = [f"-I{source.parent}", f"-I{source.parent / 'stable_abi'}"]
    command = ["cc", *FLAGS, *folders, "-c", source, "-o", made]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{source.name}: {done.stderr[:1000]}"
    return made


def link(objects, into):
    mac = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    command = ["cc", "-shared", "-pthread", *mac, *objects, "-o", into, "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:1000]


@pytest.fixture(scope="session")
def objects(tmp_path_factory):
    """stem -> object file of each source, without a fault."""
    folder = tmp_path_factory.mktemp("objects")
    sources = folder / "backend_cpu"
    shutil.copytree(PACKAGE / "backend_cpu", sources)
    write_table(sources)
    with ThreadPoolExecutor(2) as pool:
        files = sorted(sources.glob("*.c"))
        return {o.stem: o for o in pool.map(lambda f: compile_file(f, folder), files)}


# A copy of the package, and the suite on it -------------------------------------------

# An editable install finds the package by a hook of its own, before any path.
RUN = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "Redirecting" not in type(f).__name__]
sys.path.insert(0, ".")
import portanet, pytest
assert portanet.__file__.startswith(sys.argv[1]), portanet.__file__
sys.exit(pytest.main(sys.argv[2:]))
"""


@pytest.fixture
def copy(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__", "_c*.so", "_c*.pyd")
    shutil.copytree(PACKAGE, tmp_path / "portanet", ignore=ignored)
    shutil.copytree(TESTS, tmp_path / "tests", ignore=ignored)
    shutil.copy(TESTS.parent / "pyproject.toml", tmp_path)
    return tmp_path


def use_installed_extension(copy):
    from portanet import _c

    shutil.copy(_c.__file__, copy / "portanet" / Path(_c.__file__).name)


def plant(copy, fault):
    path = copy / "portanet" / fault.file
    text = path.read_text(encoding="utf-8")
    assert fault.right in text, f"{fault.file} does not hold {fault.right!r}"
    path.write_text(text.replace(fault.right, fault.wrong, 1), encoding="utf-8")
    return path


def run_suite(copy, device, *arguments):
    """The exit status of pytest on a copy, and what it printed."""
    environment = {
        **os.environ,
        "PORTANET_REQUIRE_DEVICES": device,
        "PORTANET_NO_SKIPS": "",
        "PYTHONDONTWRITEBYTECODE": "1",
        # A driver's cache may hold the shader without the fault.
        "MESA_SHADER_CACHE_DISABLE": "true",
    }
    for name in [n for n in environment if n.startswith("PYTEST_")]:
        del environment[name]
    if device == "cpu":
        nothing = str(copy / "nothing.json")
        environment |= {"PORTANET_SOFTWARE_DRIVER": "none", "VK_DRIVER_FILES": nothing}
        environment |= {"VK_ICD_FILENAMES": nothing, "PORTANET_CPU_LEVEL": ""}
    options = [
        "-x",
        "-q",
        "-ra",
        "--tb=line",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
    ]
    command = [sys.executable, "-c", RUN, str(copy), *options, *arguments]
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def node(fault):
    return f"tests/{fault.test}"


NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which("cc") is None, reason="a fault in C needs a compiler"
)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(f, id=f.name, marks=[NEEDS_COMPILER] if f in COMPILED else [])
        for f in CHOSEN
    ],
)
def test_the_fault_is_caught(fault, copy, request):
    path = plant(copy, fault)
    if fault in COMPILED:
        built = dict(request.getfixturevalue("objects"))
        built[path.stem] = compile_file(path, copy)
        link(built.values(), copy / "portanet" / "_c.abi3.so")
    else:
        use_installed_extension(copy)
    status, output = run_suite(copy, fault.device, node(fault), "-k", fault.chosen)
    assert status == pytest.ExitCode.TESTS_FAILED, output[-3000:]
    assert f"FAILED {node(fault)}" in output, output[-3000:]


@pytest.mark.parametrize("device", ["cpu", *(["wgpu"] if "wgpu" in PRESENT else [])])
def test_without_a_fault_the_same_tests_pass(device, copy, request):
    if shutil.which("cc"):
        built = request.getfixturevalue("objects")
        link(built.values(), copy / "portanet" / "_c.abi3.so")
    else:
        use_installed_extension(copy)
    chosen = [f for f in CHOSEN if f.device == device]
    nodes = dict.fromkeys(node(f) for f in chosen)
    words = " or ".join(dict.fromkeys(f.chosen for f in chosen if f.chosen != "cpu"))
    words = (
        f"{words} or indexing or promotion or next_row" if device == "cpu" else words
    )
    status, output = run_suite(copy, device, *nodes, "-k", words)
    assert status == pytest.ExitCode.OK, output[-3000:]


def test_there_are_eight_kinds_of_fault():
    assert len(FAULTS) == 8
    assert {"cpu"} == {f.device for f in FAULTS}  # none needs an adapter to be caught
