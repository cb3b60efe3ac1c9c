"""The command line: what it prints, how it fails, and its exit status."""

import json
import os
import subprocess
import sys

import portanet as pn
import pytest
from portanet import cli
from portanet.cli import machine, show
from portanet.op import OPS
from portanet.shaders import host

COMMAND = [sys.executable, "-m", "portanet"]


@pytest.fixture
def run(capsys):
    """Run a command here: (exit status, stdout, stderr)."""

    def run(*arguments):
        try:
            status = cli.main([str(a) for a in arguments])
        except SystemExit as error:  # argparse's way out
            status = error.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def no_adapter(monkeypatch):
    """A machine on which WebGPU finds no adapter."""
    opened = sys.modules["portanet.devices"]._open
    monkeypatch.delitem(opened, "wgpu", raising=False)
    monkeypatch.setattr(host, "adapters", list)
    yield
    assert "wgpu" not in opened


# All commands ----------------------------------------------------------------------------


def test_module_and_script_are_the_same_command():
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"portanet {pn.__version__}\n")


def test_help_lists_every_command_and_imports_nothing_slow():
    code = (
        "import sys; from portanet.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('slow:', {'wgpu', 'rich', 'matplotlib', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("slow: set()\n"), done
    for name in cli.COMMANDS:
        assert f"\n    {name} " in done.stdout


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["demo", "--epochs", "0"]])
def test_wrong_arguments_are_status_2(run, arguments):
    status, out, error = run(*arguments)
    assert status == 2 and not out and "usage: portanet" in error


def test_ctrl_c_is_status_130_and_one_line(run, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.info, "collect", interrupted)
    assert run("info") == (130, "", "portanet: interrupted\n")


def _without_reader(*arguments):
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.run(
            [*COMMAND, *arguments], stdout=write, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(write)


@pytest.mark.parametrize("command", [["info"], ["show", "add", "--device", "cpu"]])
def test_a_reader_that_left_is_no_traceback(command):
    done = _without_reader(*command)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "show", "add"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1 and done.stderr == "portanet: No space left on device\n"


@pytest.mark.parametrize("name", ["rich", "matplotlib", "sklearn"])
def test_a_missing_extra_names_the_install_command(run, monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, name, None)
    if name == "sklearn":
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    status, _, error = run("demo", "--epochs", 1, "--output", tmp_path)
    assert status == 1 and error.count("\n") == 1
    assert "missing" in error and "pip install 'portanet[demos]'" in error


# info ------------------------------------------------------------------------------------


def test_info_as_json_has_every_device(run, device):
    status, out, _ = run("info", "--json")
    found = json.loads(out)
    assert status == 0 and set(found["devices"]) >= {"cpu", "wgpu", "cuda"}
    assert set(found["versions"]) == {"portanet", "python", "numpy", "wgpu"}
    about = found["devices"][device]
    assert about["available"] and about["adapter"] and "float32" in about["dtypes"]


def test_info_says_what_each_device_is(run, device):
    status, out, _ = run("info")
    about = pn.device(device).device.backend.info()
    assert status == 0 and f"\n{device}: available" in out and about["adapter"] in out


def test_info_says_why_a_device_is_missing(run, no_adapter):
    status, out, _ = run("info")
    assert status == 0 and "wgpu: not available" in out
    assert "no Vulkan, Metal or Direct3D 12 adapter" in out
    found = json.loads(run("info", "--json")[1])["devices"]["wgpu"]
    assert found["available"] is False and "adapter" in found["reason"]


def test_records_name_the_machine():
    found = machine.record()
    assert found["machine"]["cores"] and found["versions"]["portanet"]
    assert found["devices"]["cpu"]["threads"] == pn.num_threads()


# doctor ----------------------------------------------------------------------------------


def test_doctor_is_wired(run, monkeypatch):
    from portanet import doctor

    monkeypatch.setattr(
        doctor, "diagnose", lambda: [doctor.Finding("x", False, "y", "z")]
    )
    status, out, _ = run("doctor")
    assert status == 1 and "WRONG" in out and "cure: z" in out


# show ------------------------------------------------------------------------------------


def test_show_gives_a_formula_as_wgsl_and_as_bytecode(run):
    status, out, _ = run("show", "softplus", "--device", "wgpu")
    assert status == 0 and "@compute" in out and "f_log1p" in out
    status, out, _ = run("show", "softplus", "--device", "cpu")
    assert status == 0 and "log1p.float32" in out


def test_show_gives_a_kernel_as_wgsl_and_as_c(run):
    status, out, _ = run("show", "matmul", "--device", "wgpu")
    assert status == 0 and "@compute" in out
    status, out, _ = run("show", "matmul", "--device", "cpu")
    assert status == 0 and "#include" in out


def test_show_follows_the_dtype(run):
    out = run("show", "add", "--device", "cpu", "--dtype", "float16")[1]
    assert "load.float16" in out and "float16 float16 -> float16" in out
    assert "array<f16>" in run("show", "add", "--dtype", "float16")[1]


def test_show_gives_every_launch_of_a_fallback(run):
    out = run("show", "logsumexp", "--device", "cpu")[1]
    assert "reduce: float32 -> float32" in out and "elementwise:" in out


def test_show_of_wgsl_needs_no_adapter(run, no_adapter):
    assert run("show", "sum", "--device", "wgpu")[0] == 0


def test_show_of_a_view_says_so(run):
    status, out, _ = run("show", "permute_dims", "--device", "cpu")
    assert status == 0 and "a view" in out and "nothing to launch" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gelo"], "show: there is no operator 'gelo'; close to it are gelu"),
        (["zzzzz"], "show: there is no operator 'zzzzz'\n"),
        (["add", "--dtype", "int64"], "wgpu has no int64; use int32, or device='cpu'"),
        (["add", "--dtype", "word"], "'word' is not a portanet dtype; use one of bool"),
        (["add", "--device", "tpu"], "'tpu' is unknown; known are cpu, wgpu, cuda"),
        (["bitwise_and", "--dtype", "float32"], "float32 has no bits"),
    ],
)
def test_show_refuses_with_one_line(run, arguments, message):
    status, out, error = run("show", *arguments)
    assert status == 1 and not out and message in error and error.count("\n") == 1


@pytest.mark.parametrize("language", ["cpu", "wgpu"])
def test_every_operator_has_a_text_or_is_a_view(run, language):
    shown = 0
    for name in OPS:
        status, out, error = run("show", name, "--device", language)
        lacks = f"{language} has no float64" in error
        assert status == 0 or lacks, (name, error)
        shown += status == 0 and "launch" not in out
    assert shown > 0.8 * len(OPS)


def test_show_computes_nothing():
    recorder = show.Recorder("cpu")
    x = recorder.device
    assert recorder.alloc(1 << 60) is None and x.backend is recorder
