"""Which devices are tested, and the promise that none is lost without a word.

PORTANET_REQUIRE_DEVICES=cpu,wgpu fails the run where one of them does not open.
PORTANET_NO_SKIPS=1 makes a skip a failure. PORTANET_FAKE_CUDA=1 puts the driver of
tests/cuda/fakecuda.cpp in place of NVIDIA's.
"""

import os

import numpy as np
import pytest

import portanet as pn
from portanet.devices import Device, report
from tests import browser

if os.environ.get("PORTANET_FAKE_CUDA"):
    from tests.cuda import fake

    fake.install()
else:  # a suite of its own, which needs g++
    collect_ignore = ["cuda", "test_backend_cuda.py"]
    collect_ignore_glob = ["test_cuda_*.py"]

REPORT = {n: d for n, d in report().items() if n in ("cpu", "wgpu", "cuda")}
PRESENT = [name for name, found in REPORT.items() if isinstance(found, Device)]
REQUIRED = [
    n for n in os.environ.get("PORTANET_REQUIRE_DEVICES", "cpu").split(",") if n
]


def pytest_report_header(config):
    lines = []
    for name, found in REPORT.items():
        if isinstance(found, Device):
            info = found.backend.info()
            lines.append(
                f"{name}: {info.get('adapter') or info.get('level') or 'present'}"
            )
        else:
            lines.append(f"{name}: NOT TESTED: {found}")
    missing = "NOT TESTED: the page exports need it (apt-get install chromium)"
    lines.append(f"chromium: {browser.CHROMIUM or missing}")
    return lines


def pytest_sessionstart(session):
    lost = [f"{n}: {REPORT.get(n)}" for n in REQUIRED if n not in PRESENT]
    if lost:
        pytest.exit("a required device is missing: " + "; ".join(lost), returncode=1)


def pytest_generate_tests(metafunc):
    given = [m.args[0] for m in metafunc.definition.iter_markers("parametrize")]
    if "device" in metafunc.fixturenames and not any("device" in g for g in given):
        metafunc.parametrize("device", PRESENT)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    result = outcome.get_result()
    if result.skipped and os.environ.get("PORTANET_NO_SKIPS"):
        result.outcome = "failed"
        result.longrepr = f"skipped, which PORTANET_NO_SKIPS forbids: {result.longrepr}"


@pytest.fixture(autouse=True)
def same_start(request):
    """Each test draws the same random numbers, whichever ran before it in its process, and
    makes tensors on the cpu by default."""
    if hasattr(request.module, "RNG"):
        request.module.RNG = np.random.default_rng(0)
    pn.set_default_device("cpu")
    states = pn.random.default_generator.states
    for place in [d for d in states if str(d).partition(":")[0] not in PRESENT]:
        del states[place]  # of a device that a test made for itself
    pn.manual_seed(0)
