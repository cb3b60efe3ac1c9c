"""The documents are true: examples run, commands exist, and so do the files they name."""

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

import portanet as pn
from portanet.devices import get
from tests.conftest import PRESENT

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")]
    + list((ROOT / "docs").rglob("*.md"))
)
# Its blocks change the package; test_add_an_operator.py runs them in a copy.
IN_A_COPY = ROOT / "docs/add-an-operator.md"
SOURCES = sorted((ROOT / "portanet").rglob("*.py"))
LANGUAGES = {"python", "sh", "text"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def name(path):
    return str(path.relative_to(ROOT))


# Examples ----------------------------------------------------------------------------


def run_shell(example):
    for line in commands(example.parsed):
        check_command(line)


PARSERS = {
    ".md": [
        PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS),
        CodeBlockParser("sh", run_shell),
    ],
    ".py": [DocTestParser(doctest.ELLIPSIS)],
}


def examples(path):
    return list(Sybil(PARSERS[path.suffix]).parse(path).examples())


def with_examples(paths):
    return [
        pytest.param(p, id=name(p)) for p in paths if p != IN_A_COPY and examples(p)
    ]


def evaluate(path):
    document = Sybil(PARSERS[path.suffix]).parse(path)
    document.namespace |= {"pn": pn, "np": np, "nn": pn.nn, "optim": pn.optim}
    ran = 0
    for example in document.examples():
        example.evaluate()
        ran += 1
    return ran


@pytest.mark.parametrize("path", with_examples(DOCUMENTS))
def test_examples_of_a_document(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may write files
    assert evaluate(path)


@pytest.mark.parametrize("path", with_examples(SOURCES))
def test_examples_of_docstrings(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluate(path)


def test_no_example_is_lost():
    fences = [
        f for p in DOCUMENTS if p != IN_A_COPY for f in FENCE.findall(p.read_text())
    ]
    assert {language for language, _ in fences} <= LANGUAGES
    assert any(language == "python" for language, _ in fences)
    marked = sum(p.read_text().count(">>> ") for p in SOURCES)
    found = sum(len(examples(p)) for p in SOURCES)
    assert 60 <= found <= marked


# Commands ----------------------------------------------------------------------------

# They take under two seconds here and change nothing.
CHEAP = {"info", "show", "--version", "--help"}
# What a developer's machine has, or the documents tell how to get.
TOOLS = {"pip", "git", "uv"}


def commands(block):
    joined = block.replace("\\\n", " ")
    lines = [line.partition(" #")[0].strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def check_command(line):
    """The line parses, its program exists, and it takes these arguments."""
    subprocess.run(["bash", "-n", "-c", line], check=True)
    words = shlex.split(line)
    while re.match(r"[A-Z_]+=", words[0]):
        variable = words.pop(0).partition("=")[0]
        assert variable in variables(), f"nothing reads {variable}"
    if words[:2] == ["uv", "run"]:
        words = words[2:]
    if words[:2] == ["python", "-m"]:
        words = words[2:]
    check_program(words[0], words[1:], line)


def check_program(program, arguments, line):
    if program == "portanet":
        check_portanet(arguments)
    elif program == "make":
        assert set(arguments) <= set(targets()), line
    elif program in ("pytest", "bash", "python"):
        for path in arguments:
            assert "/" not in path or (ROOT / path.partition("::")[0]).exists(), line
    elif "/" in program:
        assert os.access(ROOT / program, os.X_OK), line
    else:
        assert program in TOOLS, f"{line}: {program} is not known"


def check_portanet(arguments):
    from portanet.cli import _parser

    try:
        _parser().parse_args(arguments)
    except SystemExit as end:  # --help and --version end so, and well
        assert end.code == 0, arguments
    if arguments[0] in CHEAP:
        command = [sys.executable, "-m", "portanet", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


# What the documents name ---------------------------------------------------------------

PATH = re.compile(
    r"`([\w.-]+(?:/[\w.*-]+)*/?(?:\.(?:py|pyi|md|c|h|wgsl|toml|sh|lock))?)`"
)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
SUFFIXES = (".py", ".pyi", ".md", ".c", ".h", ".wgsl", ".toml", ".sh", ".lock")


def named_paths(path):
    """Paths in backquotes (with a slash or a suffix of a source file) and in links."""
    text = FENCE.sub("", path.read_text())
    for found in PATH.findall(text):
        is_path = found.split("/")[0] in FOLDERS and "/" in found
        if is_path or found.endswith(SUFFIXES):
            yield ROOT / found if is_path or (ROOT / found).exists() else found
    for found in LINK.findall(text):
        yield path.parent / found


FOLDERS = {p.name for p in ROOT.iterdir() if p.is_dir()}


def exists(named, everywhere):
    if isinstance(named, str):  # a bare name such as `op.py`
        return named.rpartition("/")[2] in everywhere
    return bool(list(ROOT.glob(str(named.resolve().relative_to(ROOT)))))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_file_that_a_document_names_exists(path):
    folders = ("portanet", "tests", "docs", "demos", "benchmarks")
    everywhere = {p.name for f in folders for p in (ROOT / f).rglob("*")}
    made = re.findall(r"^Create `(.+)`", path.read_text(), re.M)
    known = {ROOT / m for m in made}
    lost = {
        p for p in named_paths(path) if p not in known and not exists(p, everywhere)
    }
    assert not lost


def test_the_map_of_the_architecture_names_every_module():
    text = (ROOT / "docs/architecture.md").read_text()
    for path in (ROOT / "portanet").iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"portanet/{path.name}/" in text, path
        if path.suffix == ".py" and not path.name.startswith("__"):
            assert f"portanet/{path.name}" in text, path


def variables():
    """The variables of the environment, PORTANET_ by name, that the code reads."""
    files = [*SOURCES, *(ROOT / "tests").glob("*.py")]
    text = "".join(p.read_text() for p in files if p != Path(__file__))
    return set(re.findall(r"PORTANET_[A-Z_]*[A-Z]", text))


def test_every_variable_of_the_environment_is_documented():
    text = (ROOT / "docs/devices.md").read_text()
    assert set(re.findall(r"^\| `(PORTANET_\w+)`", text, re.M)) == variables()


@pytest.mark.parametrize("device", PRESENT)
def test_the_table_of_dtypes_is_the_backends(device):
    text = (ROOT / "docs/devices.md").read_text()
    header, *rows = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in re.search(r"^\| dtype .*?\n\n", text, re.M | re.S)[0]
        .strip()
        .splitlines()
    ]
    column = header.index(device)
    said = {row[0].strip("`"): row[column] for row in rows[1:]}
    has = {t.name for t in get(device).backend.dtypes}
    assert {t for t, word in said.items() if word == "yes"} <= has
    assert has <= {t for t, word in said.items() if word != "no"}
    assert len(said) == 9


# The Makefile ------------------------------------------------------------------------------


def targets():
    text = (ROOT / "Makefile").read_text()
    return re.findall(r"^([\w-]+):", text, re.M)


def test_help_is_made_of_the_comments_and_names_every_target():
    make = shutil.which("make")
    assert make, "make is missing"
    done = subprocess.run(
        [make, "-s", "help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shown = {line.split()[0] for line in done.stdout.splitlines()}
    assert shown == set(targets())
    assert all(len(line.split()) > 1 for line in done.stdout.splitlines())
