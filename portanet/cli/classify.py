"""Read a digit with a model that `portanet demo` saved.

The digit is one of the held-out images (--index), or an image of your own: a .npy array or
a .png of any size, light ink on dark or the other way round.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from . import digits
from .messages import CommandError, extra

INK = " .:-=+*#%@"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .safetensors file")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--index", type=int, metavar="I", help="a held-out image (default: 0)"
    )
    which.add_argument("--image", type=Path, metavar="FILE", help="a .npy or .png file")
    parser.add_argument("--device", metavar="D", help="default: the default device")


def run(arguments: argparse.Namespace) -> int:
    import portanet as pn

    device = arguments.device or pn.default_device()
    model = digits.read(arguments.model, device)
    label = None
    if arguments.image is not None:
        image = read_image(arguments.image)
    else:
        image, label = _held_out(arguments.index or 0)
    with pn.no_grad():
        scores = model(pn.tensor(image.reshape(1, -1), device=device))
        chances = pn.softmax(scores).numpy()[0]
    print(art(image))
    for digit, chance in enumerate(chances):
        print(f"{digit}  {chance:7.2%}  {'#' * round(30 * float(chance))}")
    truth = "" if label is None else f"; it was written as a {label}"
    print(f"this is a {int(chances.argmax())}{truth}")
    return 0


def _held_out(index: int) -> tuple[np.ndarray, int]:
    data = digits.load()
    count = len(data.test_images)
    if not 0 <= index < count:
        raise CommandError(f"classify: index {index} is not in 0 to {count - 1}")
    return data.test_images[index].reshape(digits.SIDE, -1), int(
        data.test_labels[index]
    )


def read_image(path: Path) -> np.ndarray:
    """An image file as 8 x 8 values from 0 to 1, ink light."""
    if path.suffix == ".npy":
        image = _read_array(path)
    elif path.suffix == ".png":
        image = _read_png(path)
    else:
        raise CommandError(f"{path}: a .npy or .png file is expected")
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    if edge.mean() > 0.5:
        image = 1 - image
    return _resized(image).astype(np.float32)


def _read_array(path: Path) -> np.ndarray:
    """Values from 0 to 1, to 16 (as scikit-learn has them) or to 255, whichever fits."""
    try:
        image = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CommandError(f"{path}: {error}") from None
    if image.size == digits.SIDE**2:
        image = image.reshape(digits.SIDE, digits.SIDE)
    if image.ndim != 2 or not image.size or image.dtype.kind not in "buif":
        raise CommandError(
            f"{path}: an array (rows, columns) of numbers is expected, "
            f"not {image.shape} of {image.dtype}"
        )
    image = image.astype(np.float64)
    if not np.isfinite(image).all() or image.min() < 0 or image.max() > 255:
        raise CommandError(f"{path}: values from 0 to 255 are expected")
    top = image.max()
    return image / (1 if top <= 1 else 16 if top <= 16 else 255)


def _read_png(path: Path) -> np.ndarray:
    imread = extra("matplotlib.image").imread
    try:
        image = imread(path)
    except (SyntaxError, ValueError) as error:  # what PIL raises on a broken file
        raise CommandError(f"{path}: {error}") from None
    if image.ndim == 2:
        return image
    grey = image[..., :3].mean(axis=-1)
    # What is transparent is paper.
    return grey * image[..., 3] + 1 - image[..., 3] if image.shape[-1] == 4 else grey


def _resized(image: np.ndarray) -> np.ndarray:
    """The mean over the area of each of 8 x 8 equal parts."""
    rows, columns = (_overlaps(n) for n in image.shape)
    return rows @ image @ columns.T


def _overlaps(n: int) -> np.ndarray:
    """(8, n): how much of each of n pixels lies in each of 8 parts; rows sum to 1."""
    edges = np.arange(digits.SIDE + 1)[:, None] * (n / digits.SIDE)
    before = np.clip(edges - np.arange(n), 0, 1)
    return np.diff(before, axis=0) * (digits.SIDE / n)


def art(image: Any) -> str:
    """An image in letters, each pixel two of them wide."""
    levels = np.clip(image * len(INK), 0, len(INK) - 1).astype(int)
    return "\n".join("".join(INK[v] * 2 for v in row).rstrip() for row in levels)
