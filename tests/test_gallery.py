"""The demos: each runs on each device, in two steps here, and says what it would ask.

That they learn what their first lines say is checked by hand: `portanet demo NAME`.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from portanet.cli import gallery

from portanet.data import CIFAR10, MNIST, FashionMNIST, PennTreebank

from .test_cli import run  # noqa: F401, a fixture
from .test_data_files import cifar, place_cifar, place_ptb, small_mnist

NAMES = sorted(set(gallery.demos()) - {"digits"})  # test_demo.py trains that one
FOLDER = Path(__file__).parent.parent / "demos"
sys.path.insert(0, str(FOLDER))
import demo_kit  # noqa: E402


def test_all_demos_are_there():
    assert gallery.folder() == FOLDER
    assert len(NAMES) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_a_demo_runs_on_each_device(run, tmp_path, device, name, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PORTANET_VERIFY", "1")  # its compiled steps equal eager ones
    status, out, error = run(
        "demo", name, "--dry-run", "--device", device, "--output", tmp_path
    )
    assert status == 0, error
    assert out.startswith(f"{device}: ") and "dry run: nothing was asked" in out
    assert "(asked: " in out
    assert list(tmp_path.iterdir()) or "sample:" in out, "nothing to look at"


@pytest.mark.parametrize("name", NAMES)
def test_a_demo_is_short_and_says_what_it_reaches(name):
    path = FOLDER / f"{name}.py"
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < 200
    doc = ast.get_docstring(ast.parse(text))
    assert "\nFigure to reach: " in doc
    assert f"portanet demo {name}" in doc
    assert re.search(r"kit\.verdict\(", text)


def test_the_list_names_each_demo_in_one_line(run):  # noqa: F811
    status, out, _ = run("demo", "--list")
    assert status == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert sorted(lines) == sorted([*NAMES, "digits"])
    assert all(text.endswith(".") for text in lines.values())


def test_a_demo_has_its_own_help_and_unknown_ones_are_refused(run):  # noqa: F811
    status, out, _ = run("demo", "gan", "--help")
    assert status == 0 and "Figure to reach" in out and "--small" in out
    status, out, error = run("demo", "nonsense")
    assert status == 1 and "there is no 'nonsense'; `portanet demo --list`" in error
    status, _, error = run("demo", "gan", "--nonsense")
    assert status == 2 and "unrecognized arguments: --nonsense" in error


def test_large_data_that_is_not_there_is_one_line(run, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PORTANET_OFFLINE", "1")
    monkeypatch.setenv("PORTANET_CACHE", str(tmp_path / "cache"))
    status, _, error = run(
        "demo", "vae", "--data", "mnist", "--device", "cpu", "--output", tmp_path
    )
    assert status == 1 and error.count("\n") == 1
    assert "train-images-idx3-ubyte.gz can't be downloaded" in error


def place(data, cache, monkeypatch):
    """Small files in the true format, where a download would put the large ones."""
    folder = cache / "data" / {"fashion": "fashion-mnist"}.get(data, data)
    folder = folder.with_name("cifar-10") if data == "cifar10" else folder
    folder.mkdir(parents=True)
    if data in ("mnist", "fashion"):
        small_mnist(folder, monkeypatch, {"mnist": MNIST}.get(data, FashionMNIST), 130)
        return folder / "t10k-images-idx3-ubyte.gz"
    if data == "cifar10":
        place_cifar(folder, monkeypatch, cifar(26)[0])
        return folder / CIFAR10.file.name
    return place_ptb(folder, monkeypatch, 40) / PennTreebank.FILES["test"]


@pytest.mark.parametrize(
    ("name", "data"),
    [("vae", "mnist"), ("mlp_resnet", "fashion"), ("resnet9", "cifar10"),
     ("rnn_lm", "ptb")],
)  # fmt: skip
def test_a_demo_takes_the_large_data_from_the_cache_and_refuses_damage(
    run, tmp_path, monkeypatch, name, data  # noqa: F811
):  # fmt: skip
    monkeypatch.setenv("PORTANET_OFFLINE", "1")
    monkeypatch.setenv("PORTANET_CACHE", str(tmp_path / "cache"))
    path = place(data, tmp_path / "cache", monkeypatch)
    line = ["demo", name, "--data", data, "--dry-run", "--device", "cpu"]
    line += ["--output", tmp_path]
    status, out, error = run(*line)
    assert status == 0, error
    assert "(asked: " in out
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    status, _, error = run(*line)
    assert status == 1 and error.count("\n") == 1
    assert f"{path.name}: damaged: its " in error and "PORTANET_OFFLINE" in error
    assert path.read_bytes() == good[:-1], "nothing in the cache is lost"


def test_what_did_not_learn_fails(capsys):
    class Arguments:
        dry_run = False

    good, bad = ("loss", 1.0, "<=", 2.0), ("accuracy", 0.5, ">=", 0.9)
    nan = ("loss", float("nan"), "<=", 2.0)
    assert demo_kit.verdict(Arguments, good) == 0
    assert demo_kit.verdict(Arguments, good, bad) == 1
    assert "it did not learn: accuracy is 0.5, not >= 0.9" in capsys.readouterr().err
    assert demo_kit.verdict(Arguments, nan) == 1
    Arguments.dry_run = True
    assert demo_kit.verdict(Arguments, bad) == 0
    assert demo_kit.verdict(Arguments, nan) == 1


def test_topics_are_split_without_loss():
    corpus = demo_kit.topics()
    assert len(corpus.train) > 8 * len(corpus.test) > 0
    assert "import" in corpus.decode(corpus.test)


def test_a_demo_is_also_a_script(tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / "by_hand.py", "--dry-run", "--device", "cpu"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "portanet-demo" / "by_hand.png").exists()


def test_demos_inside_the_package_are_found_first(tmp_path, monkeypatch):
    """As a wheel has them."""
    package = tmp_path / "portanet"
    shutil.copytree(FOLDER, package / "demos")
    (package / "cli").mkdir()
    monkeypatch.setattr(gallery, "__file__", str(package / "cli" / "gallery.py"))
    assert gallery.folder() == package / "demos"
    assert set(gallery.demos()) == {*NAMES, "digits"}
    os.rename(package / "demos", package / "elsewhere")
    with pytest.raises(gallery.CommandError, match="the demos are missing"):
        gallery.folder()
