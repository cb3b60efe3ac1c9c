"""Imports go one way: a layer knows those below it and none above.

Every import statement of the package is read, also those inside functions. The command
line and `python -m portanet` stand above all and may import anything.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import portanet

PACKAGE = Path(portanet.__file__).parent

# From the ground up. Modules of one row don't know each other.
LAYERS = (
    ("errors",),
    ("dtypes",),
    ("scalars",),
    ("program",),
    ("drivers",),
    ("backend_cpu", "backend_cuda", "shaders"),
    ("devices",),
    ("casting",),
    ("op",),
    ("naming", "renames"),
    ("arrays",),
    ("precision",),
    ("ops",),
    ("compiler",),
    ("autograd",),
    ("structure",),
    ("compiled",),
    ("creation",),
    ("random",),
    ("namespace",),
    ("testing", "compiled"),
    ("nn", "data", "io"),
    ("optim", "exported"),
    ("doctor",),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
RANK = {name: i for i, row in enumerate(LAYERS) for name in row}

# What goes up all the same: (importer, imported) and why.
UPWARD = {
    # NumPy's protocol asks a tensor for the namespace that its functions are in.
    ("autograd/tensor.py", "__init__"),
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def statements(tree):
    """Each import statement, but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        yield from statements(node)


def imported(node, path):
    """Absolute dotted names that a statement asks for."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = ["portanet", *path.relative_to(PACKAGE).parts[:-1]]
        package = package[: len(package) - node.level + 1]
        base = ".".join([*package, *([base] if base else [])])
    return [f"{base}.{alias.name}" for alias in node.names]


def layer_of_name(name):
    """The layer of an absolute name of ours, or None for another package."""
    parts = name.split(".")
    if parts[0] != "portanet" or parts[1:2] == ["_c"]:
        return None
    inner = parts[1] if len(parts) > 1 else ""
    is_module = (PACKAGE / inner).is_dir() or (PACKAGE / f"{inner}.py").exists()
    return inner if inner and is_module else "__init__"


def layer_of_file(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def edges():
    """(file, its layer, the layer it imports, line) for each import of ours by ours."""
    for path in modules():
        here = layer_of_file(path)
        for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
            for name in imported(node, path):
                there = layer_of_name(name)
                if there not in (None, here):
                    file = path.relative_to(PACKAGE).as_posix()
                    yield file, here, there, node.lineno


def test_every_module_has_its_place_in_the_order():
    assert {layer_of_file(p) for p in modules()} <= set(RANK)


def test_no_module_imports_one_above_it():
    upward = [
        f"portanet/{file}:{line}: {here} imports {there}"
        for file, here, there, line in edges()
        if RANK[there] >= RANK[here] and (file, there) not in UPWARD
    ]
    assert not upward, "\n".join(upward)


def test_the_exceptions_are_still_needed():
    assert {(file, there) for file, _, there, _ in edges()} >= UPWARD


def test_the_reader_sees_imports_of_every_form(tmp_path):
    path = PACKAGE / "ops" / "made_up.py"
    source = """
if TYPE_CHECKING:
    from ..nn import hidden
def f():
    from ..nn import Linear
from .. import io, errors
import portanet.optim.sgd
from . import index
from ..autograd.tape import mode
import numpy
"""
    found = []
    for node in statements(ast.parse(source)):
        found += [layer_of_name(name) for name in imported(node, path)]
    expected = ["nn", "__init__", "errors", "__init__", "ops", "autograd", None]
    if (PACKAGE / "io.py").exists() or (PACKAGE / "io").is_dir():
        expected[1] = "io"
    if (PACKAGE / "optim").is_dir():
        expected[3] = "optim"
    assert found == expected


@pytest.mark.parametrize("name", ["wgpu", "cuda", "safetensors", "ml_dtypes"])
def test_only_one_place_may_import(name):
    """What stands between us and another package is one file each."""
    places = {
        "wgpu": {"shaders/host.py"},
        "cuda": set(),  # backend_cuda/installed.py loads it by name
        "safetensors": {"io.py"},
        "ml_dtypes": {"dtypes.py"},
    }[name]
    found = set()
    for path in modules():
        for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
            if any(n.split(".")[0] == name for n in imported(node, path)):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found <= places, found - places


def test_importing_portanet_loads_no_driver_and_no_layer_that_may_wait():
    code = """
import sys
import portanet as pn
later = "nn optim data io testing doctor drivers cli backend_cpu backend_cuda shaders".split()
unwanted = {"wgpu", "cuda", "ml_dtypes", "safetensors", *(f"portanet.{m}" for m in later)}
assert not unwanted & set(sys.modules), unwanted & set(sys.modules)
pn.zeros(2, device="cpu").sum().item()
assert "wgpu" not in sys.modules, "the cpu device loads wgpu"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
