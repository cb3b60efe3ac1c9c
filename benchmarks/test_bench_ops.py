"""Operators over a range of sizes, one benchmark a workload, size and device.

pytest benchmarks/test_bench_ops.py --benchmark-group-by=param:name,param:n
"""

import pytest
from portanet.cli.workloads import TINY, WORKLOADS, copy_sides, operator_sides

WORKLOAD = {w.name: w for w in (*TINY, *WORKLOADS)}
CASES = [(w.name, n) for w in WORKLOAD.values() for n in w.sizes]
COPIES = [1 << 10, 1 << 16, 1 << 22]


def run(benchmark, side):
    """Time a side, whose work is done when the call returns."""

    def call():
        side.call()
        side.wait()

    benchmark(call)


@pytest.mark.parametrize(("name", "n"), CASES)
def test_operator(benchmark, name, n, side):
    sides = operator_sides(WORKLOAD[name], n, [] if side == "numpy" else [side])
    run(benchmark, sides[side])


@pytest.mark.parametrize("n", COPIES)
@pytest.mark.parametrize("direction", ["upload", "download"])
def test_copy(benchmark, direction, n, side):
    sides = copy_sides(direction, n, [] if side == "numpy" else [side])
    run(benchmark, sides[side])
