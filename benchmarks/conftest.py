"""What the suites share: each benchmark runs on NumPy and on every device that works."""

import pytest
from portanet.cli import machine
from portanet.devices import devices

# devices() opens them; what can't be opened is left out, as `portanet info` explains.
SIDES = ("numpy", *devices())


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


def pytest_benchmark_update_machine_info(config, machine_info):
    """The record names drivers and versions, as all records here do."""
    machine_info["portanet"] = machine.record()
