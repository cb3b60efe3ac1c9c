"""ImageFolder: pictures of any format and size, in one folder for each class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .transforms import pillow

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageFolder:
    """The pictures root/CLASS/**/*.png (or .jpg, ...); Pillow reads them, as RGB.

    Classes are the folders, sorted by name; samples are (image, label), the image an array
    (3, height, width) of uint8. A picture that can't be read raises ValueError with its path
    when it is asked for. Resize, or crop, in `transform`: a batch needs images of one size.
    """

    def __init__(
        self,
        root: Any,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
    ):
        root = Path(root)
        self.classes = sorted(p.name for p in root.iterdir() if p.is_dir())
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.files: list[tuple[Path, int]] = []
        for label, name in enumerate(self.classes):
            found = sorted(
                p for p in (root / name).rglob("*") if p.suffix.lower() in SUFFIXES
            )
            if not found:
                raise ValueError(f"ImageFolder: {root / name} holds no picture")
            self.files += [(path, label) for path in found]
        if not self.files:
            raise ValueError(
                f"ImageFolder: {root} holds no folders, one for each class"
            )
        self.transform, self.target_transform = transform, target_transform
        self.image = pillow()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, label = self.files[index]
        try:
            with self.image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:  # as Pillow's readers raise
            raise ValueError(f"{path}: no picture that can be read: {error}") from None
        image: Any = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            label = self.target_transform(label)
        return image, label
