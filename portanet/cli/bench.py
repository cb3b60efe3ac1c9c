"""Time operators, copies, launches and a training step on every device, NumPy beside.

Results are checked before anything is timed. All sides of a row run in turn, warm; a row
has medians and quartiles of the time of one call.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import machine, workloads
from .measure import Side, Timing, in_turn
from .messages import CommandError, extra, print_table


class Row(NamedTuple):
    """One workload at one size: a Timing for each side, "numpy" and the devices."""

    workload: str
    size: int
    size_is: str
    timings: dict[str, Timing]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", nargs="+", metavar="D", help="default: every device that works"
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes and samples")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw time over size, a .png or .svg"
    )


def run(arguments: argparse.Namespace) -> int:
    extra("rich")
    if arguments.plot:
        extra("matplotlib")
    devices = _devices(arguments.device)
    record = machine.record()
    rows = measure(devices, arguments.quick)
    _print(rows, devices)
    if arguments.json:
        found = {**record, "quick": arguments.quick, "rows": _as_json(rows)}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
        print(f"record: {arguments.json}")
    if arguments.plot:
        plot(rows, arguments.plot)
        print(f"plot: {arguments.plot}")
    return 0


def _devices(asked: Sequence[str] | None) -> list[str]:
    from ..devices import devices, get

    found = [get(name).name for name in asked] if asked else devices()
    if not found:
        raise CommandError("bench: no device works here; see `portanet doctor`")
    return list(dict.fromkeys(found))


def _jobs(
    devices: Sequence[str], quick: bool
) -> Iterator[tuple[str, int, str, Callable[[], dict[str, Side]]]]:
    """(workload, size, what the size is, what makes the sides) of each row."""
    for w in (*workloads.TINY, *workloads.WORKLOADS):
        for n in _sizes(w.sizes, quick):
            yield (
                w.name,
                n,
                w.size_is,
                lambda w=w, n=n: workloads.operator_sides(w, n, devices),
            )
    for direction in ("upload", "download"):
        for n in _sizes(workloads.WORKLOADS[0].sizes, quick):
            yield (
                direction,
                n,
                "elements",
                (lambda d=direction, n=n: workloads.copy_sides(d, n, devices)),
            )
    yield "digits step", 32, "images", lambda: workloads.step_sides(devices)


def _sizes(sizes: Sequence[int], quick: bool) -> Sequence[int]:
    return sizes[:-2:3] if quick and len(sizes) > 1 else sizes


def measure(devices: Sequence[str], quick: bool) -> list[Row]:
    """Every row, with a line that moves on a terminal."""
    from rich.progress import track

    budget, each = (0.05, 0.001) if quick else (1.0, 0.01)
    jobs = list(_jobs(devices, quick))
    rows = []
    for name, n, size_is, make in track(jobs, "measuring", transient=True):
        rows.append(Row(name, n, size_is, in_turn(make(), budget, each)))
    return rows


def _as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {"workload": row.workload, row.size_is: row.size, "side": side, **t._asdict()}
        for row in rows
        for side, t in row.timings.items()
    ]


def _print(rows: Sequence[Row], devices: Sequence[str]) -> None:
    from rich.table import Table

    table = Table(title="time of one call: median, and half of the quartiles' distance")
    for name in ("workload", "size", "numpy", *devices):
        side = "left" if name == "workload" else "right"
        table.add_column(name, justify=side, no_wrap=True)
    ratios = [("numpy", device) for device in devices]
    ratios += [(devices[0], device) for device in devices[1:]]
    for base, device in ratios:
        table.add_column(f"{device} /\n{base}", justify="right", no_wrap=True)
    for row in rows:
        cells = [_cell(row.timings[side]) for side in ("numpy", *devices)]
        for base, device in ratios:
            times = [row.timings[side].median_ms for side in (device, base)]
            cells.append(f"{times[0] / times[1]:.2f}")
        table.add_row(row.workload, f"{row.size:,}", *cells)
    print_table(table)


def _cell(t: Timing) -> str:
    unit, scale = ("us", 1e3) if t.median_ms < 1 else ("ms", 1)
    spread = (t.high_ms - t.low_ms) / 2 / t.median_ms
    return f"{t.median_ms * scale:.3g} {unit} ±{spread:4.0%}"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Time over size, one panel a workload; the band is from quartile to quartile."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(r.workload for r in rows))
    names = [n for n in names if sum(r.workload == n for r in rows) > 1]
    figure = Figure(figsize=(14, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(2, -(-len(names) // 2), squeeze=False).flat)
    for panel, name in zip(panels, names, strict=False):
        mine = [r for r in rows if r.workload == name]
        sizes = [r.size for r in mine]
        for side in mine[0].timings:
            timings = [r.timings[side] for r in mine]
            (line,) = panel.plot(
                sizes, [t.median_ms for t in timings], ".-", label=side
            )
            low, high = ([t[i] for t in timings] for i in (1, 2))
            panel.fill_between(sizes, low, high, alpha=0.2, color=line.get_color())
        panel.set(title=name, xscale="log", yscale="log", xlabel=mine[0].size_is)
        panel.set_ylabel("ms of one call")
    panels[0].legend()
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    try:
        figure.savefig(path)
    except ValueError as error:
        raise CommandError(f"bench: {path}: {error}") from None
