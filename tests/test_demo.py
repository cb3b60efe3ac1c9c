"""The demo: it learns, devices agree, and the saved model reads digits."""

import os
import signal
import subprocess
import sys

import numpy as np
import portanet as pn
import pytest
from portanet import cli
from portanet.cli import classify, demo, digits

from .conftest import PRESENT
from .test_cli import COMMAND, no_adapter, run  # noqa: F401, fixtures

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope="module")
def trained():
    """Model and curves of the whole demo, on every device."""
    data, found = digits.load(), {}
    for device in PRESENT:
        pn.manual_seed(0)
        model = digits.build(device)
        curves = digits.train(model, data, device, demo.EPOCHS, lambda curves: False)
        found[device] = model, curves
    return found


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / digits.MODEL_FILE
    pn.save(trained[PRESENT[0]][0].state_dict(), path)
    return path


def test_the_model_reads_97_percent_of_the_held_out_digits(trained, device):
    curves = trained[device][1]
    assert curves.finished and curves.accuracies[-1] >= 0.97


def test_devices_have_the_same_loss_at_every_step(trained, device):
    curves, first = (trained[d][1] for d in (device, PRESENT[0]))
    steps = demo.EPOCHS * digits.steps_an_epoch(digits.load())
    assert len(curves.losses) == steps and np.isfinite(curves.losses).all()
    assert demo.gap(curves, first) <= 1e-3


def test_every_fifth_image_is_held_out():
    data = digits.load()
    assert data.images.shape == (1437, 64) and data.test_images.shape == (360, 64)
    assert data.images.min() == 0 and data.images.max() == 1


def test_demo_and_classify_are_two_commands(tmp_path):
    done = subprocess.run(
        [*COMMAND, "demo", "--device", "cpu", "--epochs", "1", "--output", tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done
    for word in ("device", "adapter", "step ms", "epoch s", "test accuracy", "cpu"):
        assert word in done.stdout
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    model = tmp_path / digits.MODEL_FILE
    assert str(model) in done.stdout
    done = subprocess.run(
        [*COMMAND, "classify", model, "--index", "3", "--device", "cpu"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "this is a " in done.stdout
    assert "it was written as a " in done.stdout and done.stdout.count("%  ") == 10


def test_demo_goes_on_without_an_adapter_and_names_the_cure(run, no_adapter, tmp_path):  # noqa: F811
    status, out, _ = run("demo", "--epochs", 1, "--output", tmp_path)
    assert status == 0 and "cpu" in out
    if sys.platform.startswith("linux"):
        assert "no Vulkan, Metal or Direct3D 12 adapter" in out
        assert "portanet doctor --fix" in out


def test_demo_on_a_device_that_is_absent_fails(run, no_adapter, tmp_path):  # noqa: F811
    status, _, error = run("demo", "--device", "wgpu", "--output", tmp_path)
    assert status == 1 and error.startswith("portanet: wgpu: no ")
    assert not list(tmp_path.iterdir())


def test_curves_that_differ_fail_and_name_the_device(capsys, tmp_path):
    model = digits.build("cpu")
    good = digits.Curves("cpu", np.ones(3, np.float32), [0.5], [0.1], True)
    bad = digits.Curves("cpu", np.array([1, 1, 1.01], np.float32), [0.5], [0.1], True)
    nan = digits.Curves("cpu", np.array([1, 1, np.nan], np.float32), [0.5], [0.1], True)
    for curves in (good, bad, nan):
        for c in (good, curves):
            c.device = pn.device("cpu").device
    arguments = type("arguments", (), {"output": tmp_path})
    assert demo._report(model, [good, good], arguments) == 0
    assert demo._report(model, [good, bad], arguments) == 1
    assert demo._report(model, [good, nan], arguments) == 1
    assert "computes wrong numbers" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_keeps_the_model(tmp_path):
    # Where tests run in the background, SIGINT is ignored until asked for.
    code = (
        "import signal, sys; from portanet.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(main())"
    )
    arguments = ["demo", "--device", "cpu", "--epochs", "100000", "--output", tmp_path]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        for line in process.stdout:
            if line.startswith("cpu: "):  # training begins
                break
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # as `timeout -s INT` does
        _, error = process.communicate(timeout=60)
    model = tmp_path / digits.MODEL_FILE
    assert process.returncode == 130, error
    assert error.count("\n") == 1 and "interrupted on cpu" in error
    assert f"kept: {model}" in error
    assert cli.main(["classify", str(model), "--device", "cpu"]) == 0


def test_the_readable_demo_trains_and_saves(tmp_path):
    path = os.path.join(ROOT, "demos", "digits.py")
    with open(path) as file:
        text = file.read()
    assert text.count("\n") < 120 and "\nFigure to reach: " in text
    model = tmp_path / "model.safetensors"
    done = subprocess.run(
        [sys.executable, path, "--device", "cpu", "--epochs", "1", "--save", model],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "epoch  1  loss" in done.stdout, done
    assert "sample: this is a " in done.stdout
    assert "(asked after 30 epochs)" in done.stdout
    assert cli.main(["classify", str(model), "--device", "cpu"]) == 0


def test_the_readable_demo_fails_where_it_did_not_learn(monkeypatch, capsys):
    monkeypatch.syspath_prepend(os.path.join(ROOT, "demos"))
    import digits as readable

    monkeypatch.setattr(sys, "argv", ["digits.py", "--device", "cpu", "--epochs", "1"])
    monkeypatch.setattr(readable, "EPOCHS", 1)
    assert readable.main() == 1
    assert "(asked: >= 97%)" in capsys.readouterr().out
    monkeypatch.setattr(readable, "FIGURE", 0.5)
    assert readable.main() == 0


def test_a_second_ctrl_c_stops_at_once(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with digits.stop_on_interrupt() as interrupted:
            assert not interrupted()
            signal.raise_signal(signal.SIGINT)
            assert interrupted()
            monkeypatch.setattr(digits, "IMPATIENT_S", -1)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


# classify --------------------------------------------------------------------------------


def test_classify_reads_held_out_digits_on_each_device(run, saved, device):  # noqa: F811
    data, right = digits.load(), 0
    for index in range(10):
        label = data.test_labels[index]
        status, out, _ = run("classify", saved, "--index", index, "--device", device)
        assert status == 0 and out.endswith(f"; it was written as a {label}\n")
        right += f"this is a {label};" in out
    assert right >= 9


def _image(path, name):
    from matplotlib.image import imsave

    image = digits.load().test_images[0].reshape(8, 8)
    large = np.kron(image, np.ones((5, 5)))
    made = {
        "small.npy": (image * 16).astype(np.uint8),
        "flat.npy": image.reshape(64),
        "large.npy": large * 255,
        "ink.npy": 1 - large,
    }
    if name.endswith(".npy"):
        np.save(path / name, made[name])
    else:
        imsave(path / name, 1 - large, cmap="gray", vmin=0, vmax=1)
    return path / name


@pytest.mark.parametrize(
    "name", ["small.npy", "flat.npy", "large.npy", "ink.npy", "paper.png"]
)
def test_classify_reads_images_of_any_size_and_either_ink(run, saved, tmp_path, name):  # noqa: F811
    path = _image(tmp_path, name)
    assert np.allclose(
        classify.read_image(path), digits.load().test_images[0].reshape(8, 8), atol=0.01
    )
    status, out, _ = run("classify", saved, "--image", path, "--device", "cpu")
    assert status == 0 and out.endswith("this is a 0\n")


def test_classify_refuses_with_one_line(run, saved, tmp_path):  # noqa: F811
    (tmp_path / "x.png").write_bytes(b"no picture")
    (tmp_path / "x.npy").write_bytes(b"no array")
    np.save(tmp_path / "nan.npy", np.full((8, 8), np.nan))
    np.save(tmp_path / "cube.npy", np.zeros((8, 8, 8)))
    pn.save({"weight": pn.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(saved.read_bytes()[:1000])
    for arguments, message in [
        ([saved, "--index", 360], "index 360 is not in 0 to 359"),
        ([saved, "--image", tmp_path / "x.png"], "x.png: "),
        ([saved, "--image", tmp_path / "x.npy"], "x.npy: "),
        ([saved, "--image", tmp_path / "nan.npy"], "values from 0 to 255"),
        ([saved, "--image", tmp_path / "cube.npy"], "(rows, columns)"),
        ([saved, "--image", tmp_path / "none.npy"], "none.npy: No such file"),
        ([saved, "--image", tmp_path / "x.jpg"], "a .npy or .png file"),
        ([tmp_path / "none.safetensors"], "none.safetensors: No such file"),
        ([tmp_path / "other.safetensors"], "not a model of the demo"),
        ([tmp_path / "cut.safetensors"], "not a model of the demo"),
    ]:
        status, out, error = run("classify", *arguments, "--device", "cpu")
        assert status == 1 and not out, arguments
        assert message in error and error.count("\n") == 1, (arguments, error)
