"""Training steps, one benchmark a model and device. The loss is not read back.

pytest benchmarks/test_bench_steps.py
"""

from portanet.cli.workloads import step_sides


def test_digits_step(benchmark, side):
    sides = step_sides([] if side == "numpy" else [side])

    def call():
        sides[side].call()
        sides[side].wait()

    benchmark(call)
