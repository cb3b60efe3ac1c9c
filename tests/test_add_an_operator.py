"""docs/add-an-operator.md, followed to the letter in a copy of the package.

The copy gets the blocks that the page says to append or create, is built, and must then pass
the generated tests of both operators and the page's examples, on every device.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import PRESENT

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/add-an-operator.md"
EDIT = re.compile(r"^(Append to|Create) `(.+?)`:\n\n```\w+\n(.*?)^```$", re.M | re.S)
EXAMPLE = re.compile(r"^```python\n(>>> .*?)^```$", re.M | re.S)
COPIED = ("portanet", "tests", "CMakeLists.txt", "pyproject.toml", "README.md")


def python(copy, *arguments, device=""):
    """Run Python on the copy. -S: no .pth file may put the original in its place."""
    path = os.pathsep.join([str(copy), sysconfig.get_paths()["purelib"]])
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": path, "PORTANET_DEVICE": device},
        capture_output=True,
        text=True,
    )


def tool(name):
    """A build tool: beside this Python, where pip puts it, or else on the path."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is missing; uv sync brings it"
    return found


def build(copy):
    """What `uv sync --reinstall-package portanet` does, without a network."""
    steps = [
        [
            "-S",
            ".",
            "-B",
            "build",
            "-G",
            "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DPN_LEVELS=base",  # one instruction-set level is enough to add a kernel
        ],
        ["--build", "build"],
        ["--install", "build", "--prefix", "."],
    ]
    env = {**os.environ, "PATH": f"{Path(tool('ninja')).parent}:{os.environ['PATH']}"}
    for step in steps:
        command = [tool("cmake"), *step]
        done = subprocess.run(
            command, cwd=copy, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package with both operators of the page, built."""
    folder = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder / name)
    for verb, name, text in EDIT.findall(PAGE.read_text()):
        file = folder / name
        assert file.exists() == (verb == "Append to"), f"{verb} {name}"
        with file.open("a") as out:
            out.write(f"\n\n{text}" if verb == "Append to" else text)
    build(folder)
    return folder


def passed(done, *words):
    """How many tests passed whose line has all the words; none may fail."""
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if " PASSED" in line]
    return sum(all(w in line for w in words) for line in lines)


def test_the_page_is_read_whole():
    text = PAGE.read_text()
    edits = [(verb, name) for verb, name, _ in EDIT.findall(text)]
    assert edits == [
        ("Append to", "portanet/ops/elementwise.py"),
        ("Append to", "portanet/ops/reduce.py"),
        ("Create", "portanet/shaders/moving_sum.wgsl"),
        ("Create", "portanet/backend_cpu/moving_sum.c"),
    ]
    shell = len(re.findall(r"^```sh$", text, re.M))
    assert len(edits) + len(EXAMPLE.findall(text)) + shell == text.count("\n```\n")


def test_the_commands_of_the_page_exist():
    from tests.test_docs import check_command, commands

    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.M | re.S):
        for line in commands(block):
            check_command(line)


@pytest.mark.parametrize("operator", ["smooth_relu", "moving_sum"])
def test_an_operator_gets_its_tests(copy, operator):
    arguments = [
        "tests/test_operators.py",
        "-k",
        operator,
        "-v",
        "-n0",  # a worker process would import the installed package
        "-p",
        "no:cacheprovider",
    ]
    done = python(copy, "-m", "pytest", *arguments)
    for device in PRESENT:
        assert passed(done, "test_value", operator, device, "float32") == 1
        assert passed(done, "test_gradient[", operator, device) == 1
        if operator == "smooth_relu":
            assert passed(done, "test_special_values", device) == 1
        else:
            assert passed(done, "test_bad_input", device) == 2
    assert passed(done, "test_gradient_of_the_gradient", operator) == 1


def test_the_examples_of_the_page_run(copy):
    blocks = EXAMPLE.findall(PAGE.read_text())
    assert len(blocks) == 2
    (copy / "examples.txt").write_text("\n".join(blocks))
    done = python(copy, "-m", "doctest", "-o", "ELLIPSIS", "examples.txt", device="cpu")
    assert done.returncode == 0, done.stdout + done.stderr
