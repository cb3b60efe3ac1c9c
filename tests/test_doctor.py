"""The doctor names what is wrong and its cure, and survives a driver that crashes."""

import pytest

from portanet import doctor, drivers

ADAPTER = {
    "device": "llvmpipe",
    "backend_type": "Vulkan",
    "adapter_type": "CPU",
    "description": "Mesa 25.0.7",
}


@pytest.fixture
def probe(monkeypatch):
    """Set what the child process says."""

    def say(**answer):
        monkeypatch.setattr(doctor, "_probe", lambda: answer)

    say(version="0.32.0", adapters=[ADAPTER])
    return say


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_every_part_is_looked_at(probe):
    names = {finding.name for finding in doctor.diagnose()}
    assert names == {"numpy", "cpu", "threads", "wgpu", "adapter", "drivers", "cuda"}


def test_what_is_wrong_has_a_cure_and_what_is_right_has_none(probe):
    probe(version="0.32.0", adapters=[])
    for finding in doctor.diagnose():
        assert finding.ok == (not finding.cure)


def test_a_software_adapter_is_named_as_such(probe):
    adapter = by_name(doctor.diagnose())["adapter"]
    assert adapter.ok
    assert adapter.detail == "llvmpipe, Vulkan, software, Mesa 25.0.7"


def test_a_gpu_is_named_as_such(probe):
    probe(version="1", adapters=[ADAPTER | {"adapter_type": "DiscreteGPU"}])
    assert "GPU" in by_name(doctor.diagnose())["adapter"].detail


def test_opengl_alone_is_no_adapter(probe):
    probe(version="1", adapters=[ADAPTER | {"backend_type": "OpenGL"}])
    assert not by_name(doctor.diagnose())["adapter"].ok


def test_missing_wgpu_is_found_with_its_cure(probe):
    probe(stage="wgpu", error="ModuleNotFoundError: No module named 'wgpu'")
    wgpu = by_name(doctor.diagnose())["wgpu"]
    assert not wgpu.ok
    assert wgpu.cure == "pip install wgpu"


def test_a_drivers_message_is_split_into_fault_and_cure(probe):
    probe(stage="driver", error="drivers: no apple; run `portanet doctor --fix`")
    adapter = by_name(doctor.diagnose())["adapter"]
    assert adapter.detail == "drivers: no apple"
    assert adapter.cure == "run `portanet doctor --fix`"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_bad_number_of_threads_is_wrong(probe, monkeypatch, value):
    monkeypatch.setenv("PORTANET_NUM_THREADS", value)
    threads = by_name(doctor.diagnose())["threads"]
    assert not threads.ok
    assert "PORTANET_NUM_THREADS" in threads.cure


def test_a_module_that_is_missing_is_wrong():
    finding = doctor._module("cpu", "portanet._no_such_module", "install it")
    assert finding == doctor.Finding(
        "cpu", False, "No module named 'portanet._no_such_module'", "install it"
    )


# ------------------------------------------------------------------ child processes


def test_a_crash_in_the_driver_is_a_finding(monkeypatch):
    monkeypatch.setattr(doctor, "_PROBE", "import os; os.abort()")
    answer = doctor._probe()
    assert answer["stage"] == "adapter"
    assert "crashed" in answer["error"]


def test_a_driver_that_hangs_is_a_finding(monkeypatch):
    monkeypatch.setattr(doctor, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 0.2)
    assert "no answer" in doctor._probe()["error"]


def test_noise_on_stdout_does_not_hide_the_answer(monkeypatch):
    monkeypatch.setattr(
        doctor, "_PROBE", "print('noise'); print('{\"version\": \"1\"}')"
    )
    assert doctor._probe() == {"version": "1"}


def test_the_real_probe_answers():
    answer = doctor._probe()
    assert "adapters" in answer or answer["stage"] in ("driver", "wgpu", "adapter")


# --------------------------------------------------------------------------- fixing


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """Names of the drivers that were fetched."""
    names = []

    def fetch(name):
        names.append(name)
        return tmp_path / name / "icd.json"

    monkeypatch.setattr(drivers, "fetch", fetch)
    monkeypatch.delenv("PORTANET_SOFTWARE_DRIVER", raising=False)
    return names


def test_fix_unpacks_lavapipe_where_there_is_no_adapter(probe, fetched):
    probe(version="1", adapters=[])
    doctor.fix()
    assert fetched == ["lavapipe"]


def test_fix_leaves_a_machine_with_an_adapter_alone(probe, fetched):
    doctor.fix()
    assert fetched == []


def test_fix_unpacks_the_drivers_that_are_named(probe, fetched):
    doctor.main(["--fix", "lavapipe", "swiftshader"])
    assert fetched == ["lavapipe", "swiftshader"]


def test_fix_unpacks_the_driver_that_the_environment_asks_for(
    probe, fetched, monkeypatch
):
    monkeypatch.setenv("PORTANET_SOFTWARE_DRIVER", "swiftshader")
    probe(stage="driver", error="drivers: absent; fetch it")
    doctor.fix()
    assert fetched == ["swiftshader"]


def test_a_fix_that_fails_is_told_and_exits_with_1(probe, monkeypatch, capsys):
    def fetch(name):
        raise drivers.DriverError("drivers: no network; check it")

    monkeypatch.setattr(drivers, "fetch", fetch)
    assert doctor.main(["--fix", "lavapipe"]) == 1
    assert "no network" in capsys.readouterr().out


# ------------------------------------------------------------------------- printing


@pytest.fixture(params=["rich", "plain"])
def output(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(doctor, "_console", lambda: None)


def test_the_exit_status_is_0_only_if_all_is_usable(probe, output, monkeypatch, capsys):
    good = doctor.Finding("numpy", True, "numpy 2 [array(0)]")
    bad = doctor.Finding("adapter", False, "none", "portanet doctor --fix")
    monkeypatch.setattr(doctor, "diagnose", lambda: [good])
    assert doctor.main([]) == 0
    monkeypatch.setattr(doctor, "diagnose", lambda: [good, bad])
    assert doctor.main([]) == 1
    text = capsys.readouterr().out
    assert "numpy 2 [array(0)]" in text
    assert "cure: portanet doctor --fix" in text
