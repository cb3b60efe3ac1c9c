"""What is done to an image on its way into a batch.

An image is an array (channels, height, width), as convolutions take it: uint8 as files have
it, float32 from 0 to 1 after ToTensor. Everything here is NumPy, on one sample; the loader
makes tensors of whole batches. Random ones draw from the stream of the sample
(`draws.py`): a DataLoader's generator decides them, whatever the number of its workers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .draws import rng


def pillow() -> Any:
    """PIL.Image; an ImportError that names the extra where it is missing."""
    try:
        return importlib.import_module("PIL.Image")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Pillow is missing; `pip install 'portanet[data]'` brings it"
        ) from None


def _image(name: str, x: Any) -> np.ndarray:
    if not isinstance(x, np.ndarray) or x.ndim != 3:
        got = f"shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise ValueError(
            f"{name}: an image is an array (channels, height, width), not {got}"
        )
    return x


def _pair(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    sizes = (size, size) if isinstance(size, int) else tuple(size)
    if len(sizes) != 2 or any(not isinstance(n, int) or n < 1 for n in sizes):
        raise ValueError(
            f"{name}: size is (height, width), each at least 1, not {size}"
        )
    return sizes


def _chance(name: str, p: float) -> float:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p is from 0 to 1, not {p}")
    return p


def _by_channel(x: np.ndarray, change: Callable[[Any], Any]) -> np.ndarray:
    """Pillow's change of each channel: uint8 stays, the rest is done in float32."""
    kind = np.uint8 if x.dtype == np.uint8 else np.float32
    make = pillow().fromarray
    planes = [np.asarray(change(make(np.ascontiguousarray(c, kind)))) for c in x]
    return np.stack(planes).astype(x.dtype, copy=False)


class Compose:
    """One transform after the other.

    >>> twice = pn.data.transforms.Lambda(lambda x: 2 * x)
    >>> pn.data.transforms.Compose([twice, twice])(3)
    12
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]):
        self.transforms = list(transforms)

    def __call__(self, x: Any) -> Any:
        for transform in self.transforms:
            x = transform(x)
        return x


class Lambda:
    """A function of one's own as a transform."""

    def __init__(self, function: Callable[[Any], Any]):
        self.function = function

    def __call__(self, x: Any) -> Any:
        return self.function(x)


class ToTensor:
    """uint8 from 0 to 255 becomes float32 from 0 to 1; (height, width) gains its channel.

    A Pillow image becomes (channels, height, width). Other dtypes become float32 as they
    are. Still an array: the loader makes one tensor of a batch.

    >>> pn.data.transforms.ToTensor()(np.array([[0, 255]], np.uint8))
    array([[[0., 1.]]], dtype=float32)
    """

    def __call__(self, x: Any) -> np.ndarray:
        if not isinstance(x, np.ndarray):
            x = np.asarray(x)
            x = np.moveaxis(x, -1, 0) if x.ndim == 3 else x
        x = x[None] if x.ndim == 2 else x
        scale = np.float32(255 if x.dtype == np.uint8 else 1)
        return _image("ToTensor", x).astype(np.float32) / scale


class Normalize:
    """(x - mean) / std, by channel.

    mean, std: a number, or one for each channel.
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]):
        self.mean, self.std = (np.asarray(v, np.float32) for v in (mean, std))
        if not (self.std > 0).all():
            raise ValueError(f"Normalize: std must be above 0, not {std}")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        channels = _image("Normalize", x).shape[0]
        for v in (self.mean, self.std):
            if v.size not in (1, channels):
                raise ValueError(f"Normalize: {v.size} values for {channels} channels")
        mean, std = (v.reshape(-1, 1, 1) for v in (self.mean, self.std))
        return (x.astype(np.float32) - mean) / std


class RandomHorizontalFlip:
    """Left and right exchanged, with probability p."""

    def __init__(self, p: float = 0.5):
        self.p = _chance("RandomHorizontalFlip", p)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = _image("RandomHorizontalFlip", x)
        return x[:, :, ::-1] if rng().random() < self.p else x


class RandomVerticalFlip:
    """Top and bottom exchanged, with probability p."""

    def __init__(self, p: float = 0.5):
        self.p = _chance("RandomVerticalFlip", p)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = _image("RandomVerticalFlip", x)
        return x[:, ::-1] if rng().random() < self.p else x


def _cropped(name: str, x: np.ndarray, size: tuple[int, int], top: Any) -> np.ndarray:
    """The part of this size whose corner is top(room) on each axis."""
    room = [have - want for have, want in zip(x.shape[1:], size, strict=True)]
    if min(room) < 0:
        raise ValueError(f"{name}: {size} does not fit an image of {x.shape[1:]}")
    i, j = top(room[0]), top(room[1])
    return x[:, i : i + size[0], j : j + size[1]]


class CenterCrop:
    """The middle part of this size."""

    def __init__(self, size: int | Sequence[int]):
        self.size = _pair("CenterCrop", size)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = _image("CenterCrop", x)
        return _cropped("CenterCrop", x, self.size, lambda room: room // 2)


class RandomCrop:
    """A part of this size from anywhere, after `padding` pixels of `fill` on each side."""

    def __init__(self, size: int | Sequence[int], padding: int = 0, fill: float = 0):
        if not isinstance(padding, int) or padding < 0:
            raise ValueError(
                f"RandomCrop: padding is a number of pixels, not {padding}"
            )
        self.size, self.padding, self.fill = _pair("RandomCrop", size), padding, fill

    def __call__(self, x: np.ndarray) -> np.ndarray:
        n = self.padding
        edges = ((0, 0), (n, n), (n, n))
        padded = np.pad(_image("RandomCrop", x), edges, constant_values=self.fill)
        return _cropped(
            "RandomCrop", padded, self.size, lambda room: int(rng().integers(room + 1))
        )


class RandomRotation:
    """Turned about its middle by an angle from -degrees to degrees, bilinearly; Pillow.

    degrees: one number, or (least, most). What comes in from outside is `fill`.
    """

    def __init__(self, degrees: float | tuple[float, float], fill: float = 0):
        low, high = degrees if isinstance(degrees, tuple) else (-degrees, degrees)
        if low > high:
            raise ValueError(f"RandomRotation: from {low} to {high} degrees is empty")
        self.degrees, self.fill = (low, high), fill

    def __call__(self, x: np.ndarray) -> np.ndarray:
        angle, bilinear = rng().uniform(*self.degrees), pillow().Resampling.BILINEAR
        return _by_channel(
            _image("RandomRotation", x),
            lambda c: c.rotate(angle, bilinear, fillcolor=self.fill),
        )


class Resize:
    """Another size, bilinearly, averaging where it becomes smaller; Pillow.

    size: (height, width), or one number for both.
    """

    def __init__(self, size: int | Sequence[int]):
        self.size = _pair("Resize", size)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        size, bilinear = self.size[::-1], pillow().Resampling.BILINEAR
        return _by_channel(_image("Resize", x), lambda c: c.resize(size, bilinear))
