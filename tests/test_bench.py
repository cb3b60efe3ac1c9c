"""The benchmark: sides in turn, results checked first, a record that says where it ran."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import portanet as pn
import pytest
from portanet import cli
from portanet.cli import bench, measure, workloads
from portanet.cli.messages import CommandError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def test_sides_run_in_turn_and_wait():
    order = []
    sides = {
        name: measure.Side(lambda n=name: order.append(n), lambda: order.append("wait"))
        for name in "ab"
    }
    found = measure.in_turn(sides, budget_s=0, sample_s=0)
    rounds = [name for name in order if name != "wait"][-2 * measure.MIN_SAMPLES :]
    assert rounds == ["a", "b"] * measure.MIN_SAMPLES
    assert order[-1] == "wait" and found["a"].samples == measure.MIN_SAMPLES


def test_median_and_quartiles_are_milliseconds():
    found = measure.timing([0.001, 0.002, 0.003, 0.004, 0.005], 7)
    assert found == measure.Timing(3.0, 2.0, 4.0, 5, 7)


def test_a_sample_lasts_about_as_long_as_asked():
    side = measure.Side(lambda: sum(range(1000)))
    calls = measure.calls_to_last(side, 0.005)
    assert 0.001 < calls * measure.sample(side, calls) < 0.1


@pytest.mark.parametrize(
    "workload", (*workloads.TINY, *workloads.WORKLOADS), ids=lambda w: w.name
)
def test_every_workload_agrees_with_numpy(workload, device):
    sides = workloads.operator_sides(workload, workload.sizes[0], [device])
    assert set(sides) == {"numpy", device}


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_copies_come_back(direction, device):
    assert set(workloads.copy_sides(direction, 1000, [device])) == {"numpy", device}


def test_the_step_has_the_losses_of_numpy(device):
    assert set(workloads.step_sides([device])) == {"numpy", device}


def test_wrong_results_are_not_timed():
    good = workloads.WORKLOADS[0]
    wrong = workloads.Workload(
        "wrong", lambda pn, x, y: x - y, np.add, good.inputs, good.sizes
    )
    with pytest.raises(
        CommandError, match=r"wrong of 8 on cpu is wrong by .* nothing was"
    ):
        workloads.operator_sides(wrong, 8, ["cpu"])


def test_bench_prints_a_table_a_record_and_a_plot(tmp_path, capsys):
    record, plot = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = [
        "--device",
        "cpu",
        "--quick",
        "--json",
        str(record),
        "--plot",
        str(plot),
    ]
    assert cli.main(["bench", *arguments]) == 0
    out = capsys.readouterr().out
    for name in ("launch", "matmul", "upload", "download", "digits step", "cpu /"):
        assert name in out
    found = json.loads(record.read_text())
    assert {"machine", "versions", "commit", "date", "devices", "rows"} <= set(found)
    assert {row["side"] for row in found["rows"]} == {"numpy", "cpu"}
    assert all(r["low_ms"] <= r["median_ms"] <= r["high_ms"] for r in found["rows"])
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_ratios_are_of_the_medians(capsys):
    slow, fast = measure.timing([0.002]), measure.timing([0.001])
    rows = [bench.Row("x", 4, "elements", {"numpy": fast, "cpu": slow, "wgpu": fast})]
    bench._print(rows, ["cpu", "wgpu"])
    line = next(x for x in capsys.readouterr().out.splitlines() if "│ x " in x)
    assert [w.strip() for w in line.split("│")][-4:-1] == ["2.00", "1.00", "0.50"]


def test_the_suites_of_benchmarks_run():
    chosen = "test_digits_step or launch or (test_copy and 1024)"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "benchmarks", "-q", "-k", chosen),
            *("--benchmark-disable", "-p", "no:cacheprovider"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout


def test_a_side_of_the_operators_answers():
    """Its other side is PyTorch, which is no dependency."""
    script = os.path.join(ROOT, "benchmarks", "operators.py")
    done = subprocess.run(
        [sys.executable, script, "--serve", "portanet"],
        input="forward 0\n2\ninput 0\nweight 0\n1\nbackward 24\n1\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [type(a) for a in answers] == [list, float, list, list, float, list, float]
    assert all(np.isfinite(a).all() for a in answers)


def test_host_cost_runs(tmp_path):
    record = tmp_path / "host_cost.json"
    script = os.path.join(ROOT, "benchmarks", "host_cost.py")
    arguments = [
        "--rounds",
        "1",
        "--torch-python",
        sys.executable,
        "--json",
        str(record),
    ]
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(record.read_text())
    assert found["import, s"]["imports wgpu"] is False
    assert found["add of 4 elements, recorded"]["cpu"]["median_ms"] > 0
    assert "torch" not in found["add of 4 elements, recorded"]


# ---- The script for a machine with an NVIDIA GPU, as far as it goes without one


def benchmark(name):
    path = os.path.join(ROOT, "benchmarks", f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def script():
    return benchmark("cuda_on_gpu")


def test_the_gpus_workloads_run_on_any_device(monkeypatch):
    script, names = benchmark("cuda_workloads"), []
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(script, "STEPS", ("mlp-64",))
    for make in script.works(1024):
        work = make()
        kinds = [
            a.dtype.name if a.dtype.kind == "i" else work.dtype for a in work.arrays
        ]
        y = work.ours(*map(pn.tensor, work.arrays, kinds))
        assert np.isfinite(y.astype("float32").numpy()).all(), work.name
        assert work.flops or work.nbytes or work.name == "step mlp-64"
        names.append(f"{work.name} {work.dtype} {work.precision}")
    assert len(names) == len(set(names)) == 40


def test_a_part_of_the_gpus_run_that_fails_loses_nothing_of_the_others(
    script, tmp_path
):
    to = tmp_path / "record.json"

    def broken():
        assert json.loads(to.read_text())["suite on cuda"]["status"] == 0
        raise OSError("no more disk")

    times = {"torch's time / ours": 0.9, "agrees": False}
    parts = {
        "suite on cuda": lambda: {"status": 0, "tail": ["3 passed"]},
        "cold start": broken,
        "against torch": lambda: {"matmul 4096 float32": times, "gelu": "crashed"},
    }
    record = script.play(parts, to)
    assert json.loads(to.read_text()) == record
    assert record["cold start"] == {"status": "OSError: no more disk"}
    found = record["summary"]
    assert found["suite on cuda"] == "yes: status 0, 3 passed"
    speed = "matmul 4096 float32: torch's time / ours"
    assert found[speed] == "yes: 0.9, at least 0.85 is wanted"
    assert found["matmul 8192 bfloat16: torch's time / ours"] == "not measured"
    assert found["first result, full cache, s"] == "not measured"
    assert found["differ from torch"] == "matmul 4096 float32"


def test_every_goal_of_the_gpus_run_is_of_a_workload(script):
    measured = {
        f"{work.name} {work.dtype}"
        for make in benchmark("cuda_workloads").works(1024)
        for work in (make(),)
    }
    side = {"gb_per_s": 3.0}
    result = {"torch's time / ours": 0.1, "portanet": side, "torch": side}
    cold = dict.fromkeys(("empty cache", "full cache"), {"open": 9, "first result": 9})
    found = script.summary(
        {"against torch": dict.fromkeys(measured, result), "cold start": cold}
    )
    assert not [name for name, said in found.items() if said == "not measured"]
    assert found["first result, full cache, s"].startswith("NO: 18")


def test_a_part_of_the_gpus_run_that_hangs_costs_only_its_time(script):
    code = "import os, time; print('begun', flush=True); os.fork(); time.sleep(99)"
    found = script.run([sys.executable, "-c", code], 2)
    assert found["status"] == "out of time" and found["tail"] == ["begun"]
    assert found["seconds"] < 20


def test_a_part_that_fails_leaves_its_words(script):
    found = script.run(
        [sys.executable, "-c", "print('E   wrong'); raise SystemExit(3)"], 60
    )
    assert found["status"] == 3 and found["failed"] == ["E   wrong"]
