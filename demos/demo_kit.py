"""What the demos share: arguments, small data sets, progress, pictures, the verdict.

Each demo is one file with `main()`, which gives the exit status: 0 where it learned.
"""

import argparse
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import portanet as pn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from portanet.data import CIFAR10, MNIST, Corpus, FashionMNIST, ImageDataset
from portanet.data import PennTreebank
from rich.progress import Progress, TextColumn

LARGE = {"mnist": MNIST, "fashion": FashionMNIST, "cifar10": CIFAR10}


def arguments(doc, *, data=(), **options):
    """The command line of a demo, whose text is its docstring.

    data: the names of its data sets, the first by default; options: name=(default, help).
    The device becomes the default one, and the generator is seeded.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", help="cpu, wgpu, wgpu:1 ... (default: the best)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--small", action="store_true", help="less of everything, for slow devices"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="two steps, and nothing is asked of them"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("portanet-demo"), metavar="FOLDER",
        help="for pictures and models (default: portanet-demo)",
    )  # fmt: skip
    if data:
        parser.add_argument("--data", choices=data, default=data[0])
    for name, (default, text) in options.items():
        parser.add_argument(
            f"--{name}", default=default, type=type(default), help=f"{text} ({default})"
        )
    args = parser.parse_args()
    pn.set_default_device(args.device or pn.default_device())
    pn.manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    info = pn.default_device().backend.info()
    print(f"{pn.default_device()}: {info.get('adapter', 'unknown')}", flush=True)
    return args


def pick(args, full, small, dry=2):
    """One of three sizes, as the command line asks."""
    return dry if args.dry_run else small if args.small else full


# Data ------------------------------------------------------------------------------------


def _large(dataset, *which):
    """A data set of files; where they are missing or damaged, the end, in one line."""
    try:
        return dataset(*which)
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def images(args, transform=None):
    """(for training, for the test) of the data set; `transform` is for training alone.

    digits: scikit-learn's 1797 images of 8 x 8 pixels, every fifth held out.
    """
    if args.data in LARGE:
        train, test = (_large(LARGE[args.data], part) for part in (True, False))
        parts = [(d.images, d.labels) for d in (train, test)]
    else:
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels = (found.images * (255 / 16)).round().astype(np.uint8)[:, None]
        labels = found.target.astype(np.int32)
        held = np.arange(len(labels)) % 5 == 0
        parts = [(pixels[at], labels[at]) for at in (~held, held)]
    most = 100 if args.dry_run else None
    changes = (transform, None)
    return [
        ImageDataset(x[:most], y[:most], change)
        for (x, y), change in zip(parts, changes, strict=True)
    ]


def tensors(dataset, transform=None):
    """The images, from 0 to 1 (or what `transform` makes of each), and the labels."""
    pixels = dataset.images.astype(np.float32) / np.float32(255)
    if transform is not None:
        pixels = np.stack([transform(image) for image in dataset.images])
    return pn.tensor(pixels), pn.tensor(dataset.labels)


def topics():
    """The text of Python's own help on the language, by topic, every tenth held out."""
    from pydoc_data.topics import topics

    parts = [topics[name] for name in sorted(topics)]
    train = "\n".join(part for i, part in enumerate(parts) if i % 10)
    corpus = Corpus.from_text(train + "\n".join(parts[::10]), held_out=0)
    corpus.train, corpus.test = np.split(corpus.train, [len(train)])
    return corpus


def text(args):
    """A corpus: topics, by characters, or ptb, by words."""
    corpus = _large(PennTreebank) if args.data == "ptb" else topics()
    if args.dry_run:
        corpus.test = corpus.test[:200]
    return corpus


# Progress --------------------------------------------------------------------------------


def track(items, count, show=lambda: ""):
    """The items, `count` of them, under a progress bar; show() gives the text beside it,
    asked for ten times (it may wait for the device). Where nobody watches, it is printed."""
    watched = sys.stdout.isatty()
    columns = [*Progress.get_default_columns(), TextColumn("{task.fields[now]}")]
    with Progress(*columns, disable=not watched) as progress:
        task = progress.add_task("", total=count, now="")
        for i, item in enumerate(itertools.islice(items, count), 1):
            yield item
            progress.update(task, advance=1)
            if i % max(count // 10, 1) == 0:
                now = show()
                progress.update(task, now=now)
                if not watched:
                    print(f"step {i}/{count}  {now}", flush=True)


def batches(loader, steps, show):
    """`steps` batches of a loader, which is gone through as often as that takes."""
    passes = itertools.chain.from_iterable(itertools.repeat(loader))
    return track(passes, steps, show)


def last(losses):
    """The mean of the last ten of a list of tensors, in words."""
    return f"loss {pn.stack(losses[-10:]).mean().item():.4f}"


def accuracy(model, x, y, batch=512):
    """The part of the images whose highest score is that of their label, in eval mode."""
    model.eval()
    with pn.no_grad():
        right = [
            (model(x[i : i + batch]).argmax(axis=1) == y[i : i + batch]).numpy()
            for i in range(0, len(y), batch)
        ]
    model.train()
    return float(np.concatenate(right).mean())


# Pictures --------------------------------------------------------------------------------


def figure(width=8, height=4):
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made, args, name):
    """Write a figure to the folder of the command line."""
    path = args.output / f"{name}.png"
    made.savefig(path, dpi=120)
    print(f"picture: {path}")


def curve(args, name, losses, ylabel="loss"):
    """The picture of a list of losses; their values."""
    values = np.array([float(v) for v in pn.stack(losses).numpy()])
    made = figure()
    made.subplots().plot(values)
    made.axes[0].set(xlabel="step", ylabel=ylabel)
    save(made, args, name)
    return values


def montage(args, name, pictures, columns=10):
    """Images (n, height, width), grey, as one picture."""
    rows = -(-len(pictures) // columns)
    made = figure(columns * 0.8, rows * 0.8)
    axes = made.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, picture in zip(axes, pictures, strict=False):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
    save(made, args, name)


# The end ---------------------------------------------------------------------------------


def verdict(args, *claims):
    """The exit status of a demo: 0 if each claim (text, value, "<=" or ">=", bound) holds.

    A dry run asks only that the values are finite.
    """
    failed = []
    for text, value, relation, bound in claims:
        good = value <= bound if relation == "<=" else value >= bound
        if args.dry_run:
            good = math.isfinite(value)
        print(f"{text}: {value:.4g} (asked: {relation} {bound:g})")
        if not good:
            failed.append(f"{text} is {value:.4g}, not {relation} {bound:g}")
    if failed:
        print(f"it did not learn: {'; '.join(failed)}", file=sys.stderr)
        return 1
    print("dry run: nothing was asked" if args.dry_run else "it learned")
    return 0
