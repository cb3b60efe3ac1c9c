"""Train a classifier of handwritten digits on every device, and compare the curves.

The same seed gives the same weights and batches everywhere, so the losses must agree. The
curves and the model are saved; `portanet classify` reads digits with it.

With a NAME, run that demo instead: `portanet demo --list` names them, and what follows the
name is for the demo (`portanet demo NAME --help`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import digits, gallery
from .messages import CommandError, extra, print_table

EPOCHS = 30
AGREE = 1e-3  # two devices' losses at every step, at EPOCHS epochs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="a demo to run")
    parser.add_argument(
        "rest", metavar="...", nargs=argparse.REMAINDER, help="its arguments"
    )
    parser.add_argument("--list", action="store_true", help="name the demos")
    parser.add_argument(
        "--device",
        default="all",
        metavar="D",
        help="cpu, wgpu, wgpu:1 ... (default: all)",
    )
    parser.add_argument(
        "--epochs", type=_count, default=EPOCHS, metavar="N", help=f"default: {EPOCHS}"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("portanet-demo"),
        metavar="FOLDER",
        help="for the curves and the model (default: portanet-demo)",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        return gallery.show()
    for needed in ("rich", "matplotlib", "sklearn"):
        extra(needed)
    if arguments.name is not None:
        return gallery.play(arguments.name, arguments.rest)
    data = digits.load()
    devices = _devices(arguments.device)
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(
        f"{len(data.images)} images to train on, {len(data.test_images)} held out; "
        f"{arguments.epochs} epochs of {digits.steps_an_epoch(data)} steps, "
        f"seed {arguments.seed}",
        flush=True,
    )
    model, results = None, []
    with digits.stop_on_interrupt() as interrupted:
        for device in devices:
            trained, curves = _train(device, data, arguments, interrupted)
            results.append(curves)
            # The first model is the one that is kept: they are all the same.
            model = model or trained
            if interrupted():
                break
    if interrupted():
        return _interrupted(model, results, arguments.output)
    return _report(model, results, arguments)


def _devices(asked: str) -> list[Any]:
    """The devices to train on; says which others are missing, and the cure."""
    from ..devices import Device, get, report

    if asked != "all":
        return [get(asked)]
    found = report()
    for name, why in found.items():
        if not isinstance(why, Device):
            print(why if str(why).startswith(f"{name}:") else f"{name}: {why}")
    usable = [d for d in found.values() if isinstance(d, Device)]
    if not usable:
        raise CommandError("demo: no device works here; see `portanet doctor`")
    return usable


def adapter(device: Any) -> str:
    """The name of what computes; a software adapter is called one."""
    about = device.backend.info()
    software = " (software)" if about.get("software") else ""
    return f"{about.get('adapter', 'unknown')}{software}"


def _train(device: Any, data: digits.Digits, arguments: Any, interrupted: Any) -> Any:
    import portanet as pn
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    print(f"{device}: {adapter(device)}", flush=True)
    pn.manual_seed(arguments.seed)
    model = digits.build(device)
    columns = [
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
    ]
    # Nothing is drawn where nobody watches.
    with Progress(
        *columns, disable=not sys.stdout or not sys.stdout.isatty()
    ) as progress:
        steps = arguments.epochs * digits.steps_an_epoch(data)
        task = progress.add_task(str(device), total=steps, now="")

        def on_step(curves: digits.Curves) -> bool:
            progress.update(task, advance=1, now=_now(curves))
            return interrupted()

        curves = digits.train(model, data, device, arguments.epochs, on_step)
    return model, curves


def _now(curves: digits.Curves) -> str:
    if not curves.accuracies:
        return ""
    return f"loss {curves.losses[-1]:.4f}, test {curves.accuracies[-1]:.1%}"


def _save(model: Any, folder: Path) -> Path:
    import portanet as pn

    path = folder / digits.MODEL_FILE
    pn.save(model.state_dict(), path)
    return path


def _interrupted(model: Any, results: Sequence[digits.Curves], folder: Path) -> int:
    first, last = results[0], results[-1]
    path = _save(model, folder)
    whole = len(last.accuracies)
    where = "" if last.finished else f" on {last.device}, {whole} epochs done"
    state = f"trained on {first.device}" if first.finished else "as it was then"
    print(
        f"portanet: interrupted{where}; kept: {path}, the model {state}",
        file=sys.stderr,
    )
    return 130


def _report(model: Any, results: Sequence[digits.Curves], arguments: Any) -> int:
    path = _save(model, arguments.output)
    gaps = [gap(curves, results[0]) for curves in results]
    picture = arguments.output / "digits.png"
    plot(results, picture)
    print_table(_table(results, gaps))
    print(f"curves: {picture}")
    print(f"model:  {path}; to read a digit with it: portanet classify {path}")
    wrong = [c.device for c, g in zip(results, gaps, strict=True) if not g <= AGREE]
    if wrong:
        names = ", ".join(map(str, wrong))
        print(
            f"portanet: the losses of {names} and {results[0].device} differ by more than "
            f"{AGREE:g}: one of them computes wrong numbers",
            file=sys.stderr,
        )
    return 1 if wrong else 0


def gap(curves: digits.Curves, other: digits.Curves) -> float:
    """The largest difference of two loss curves at the same step."""
    return float(np.abs(curves.losses - other.losses).max())


def _table(results: Sequence[digits.Curves], gaps: Sequence[float]) -> Any:
    from rich.table import Table

    widths = "-".join(map(str, digits.WIDTHS))
    table = Table(title=f"handwritten digits, MLP 64-{widths}-10")
    table.add_column("device")
    table.add_column("adapter", overflow="fold")
    against = f"largest difference\nfrom {results[0].device}'s losses"
    for name in ("step ms", "epoch s", "test accuracy", against):
        table.add_column(name, justify="right")
    for curves, difference in zip(results, gaps, strict=True):
        is_other = curves is not results[0]
        table.add_row(
            str(curves.device),
            adapter(curves.device),
            f"{curves.step_ms:.2f}",
            f"{curves.epoch_s:.3f}",
            f"{curves.accuracies[-1]:.2%}",
            f"{difference:.1e}" if is_other else "",
        )
    return table


def plot(results: Sequence[digits.Curves], path: Path) -> None:
    """A picture: the loss at every step, the test accuracy after every epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracies = figure.subplots(1, 2)
    for i, curves in enumerate(results):
        # The later curve lies on the earlier one: let that one show at its sides.
        style = {"label": str(curves.device), "linewidth": 3 / (i + 1), "alpha": 0.7}
        losses.plot(curves.losses, **style)
        epochs = range(1, len(curves.accuracies) + 1)
        accuracies.plot(epochs, curves.accuracies, marker=".", **style)
    losses.set(xlabel="step", ylabel="loss", yscale="log")
    accuracies.set(xlabel="epoch", ylabel="test accuracy")
    accuracies.legend()
    figure.savefig(path, dpi=120)
