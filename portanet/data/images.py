"""MNIST, Fashion-MNIST and CIFAR-10, from the files that their authors publish.

Samples are (image, label): image an array (channels, height, width) of uint8, label an int.
The checksums and the addresses are those of TensorFlow Datasets (url_checksums/mnist.txt,
fashion_mnist.txt, cifar10.txt); further addresses are torchvision's.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from .dataset import ArrayDataset
from .download import RemoteFile, data_folder, fetch

# The third byte of an idx file, http://yann.lecun.com/exdb/mnist/: the type of its values.
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
RECORD = 1 + 3 * 32 * 32  # bytes of an image of CIFAR-10: its label, then its channels


def read_idx(path: Any) -> np.ndarray:
    """The array of an idx file, compressed with gzip or not.

    The format: two zero bytes, the type, the number of axes, the size of each as 4 bytes,
    the values; all of it big-endian. ValueError names the file that is none.
    """
    data = _unpacked(Path(path))
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES:
        raise ValueError(f"{path}: no idx file: it begins with {data[:4].hex()}")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise ValueError(f"{path}: the file ends in its header, at byte {len(data)}")
    shape = tuple(np.frombuffer(data, ">u4", data[3], 4).tolist())
    dtype = np.dtype(IDX_TYPES[data[2]])
    expected = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(data) != expected:
        raise ValueError(
            f"{path}: {shape} of {dtype.name} is {expected} bytes, the file has {len(data)}"
        )
    values = np.frombuffer(data, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _unpacked(path: Path) -> bytes:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed:
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged: {error}") from None


def read_cifar10(path: Any, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) uint8 and labels (n,) int32 of these files of the archive.

    A record is a byte, the label, and 3072 more: red, green, blue, each 32 rows. It is read
    where it is packed; nothing is written.
    """
    found: dict[str, np.ndarray] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                file = archive.extractfile(member) if name in names else None
                if file is not None:
                    found[name] = _records(f"{path}: {name}", file)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged: {error}") from None
    if missing := [n for n in names if n not in found]:
        raise ValueError(f"{path}: {', '.join(missing)} is not in the archive")
    records = np.concatenate([found[n] for n in names])
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int32)


def _records(where: str, file: BinaryIO | Any) -> np.ndarray:
    data = np.frombuffer(file.read(), np.uint8)
    if not data.size or data.size % RECORD:
        raise ValueError(
            f"{where}: {data.size} bytes are not a whole number of images of {RECORD}"
        )
    _check_labels(where, data[::RECORD])
    return data.reshape(-1, RECORD)


def _check_labels(where: str, labels: np.ndarray) -> None:
    if labels.size and labels.max() > 9:
        raise ValueError(f"{where}: a label is {labels.max()}, and 9 is the last class")


class ImageDataset:
    """Images (n, channels, height, width) and labels (n,) in memory.

    transform and target_transform, where given, see the image and the label of each sample.

    >>> data = pn.data.ImageDataset(np.zeros((5, 1, 8, 8), np.uint8), np.arange(5))
    >>> image, label = data[4]
    >>> image.shape, int(label)
    ((1, 8, 8), 4)
    """

    classes: Sequence[str] = ()

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
    ):
        self.samples = ArrayDataset(images, labels)
        self.images, self.labels = self.samples.arrays
        self.transform, self.target_transform = transform, target_transform

    @property
    def batch(self) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
        """Many samples at once; there only without transforms, which see single ones."""
        if self.transform is not None or self.target_transform is not None:
            raise AttributeError("batch: each sample is transformed")
        return self.samples.batch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = self.samples[index]
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            label = self.target_transform(int(label))
        return image, label

    def __repr__(self) -> str:
        shape = tuple(self.images.shape[1:])
        return f"{type(self).__name__}({len(self)} images of {shape})"


class MNIST(ImageDataset):
    """60,000 handwritten digits to train on, 10,000 to test; 28 x 28 pixels, grey.

    LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist/. root: the folder of the four
    files, where they are downloaded if they aren't there; by default one in the cache.
    """

    classes = tuple("0123456789")
    folder: ClassVar[str] = "mnist"
    addresses: ClassVar[Sequence[str]] = (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    )
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }

    def __init__(
        self,
        train: bool = True,
        *,
        root: Any = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
    ):
        part = "train" if train else "t10k"
        images = self._read(f"{part}-images-idx3-ubyte.gz", root)
        labels = self._read(f"{part}-labels-idx1-ubyte.gz", root)
        where = f"{type(self).__name__}: {part}"
        if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{where}: images of shape {images.shape} don't fit labels of shape "
                f"{labels.shape}; (n, 28, 28) and (n,) are expected"
            )
        _check_labels(where, labels)
        super().__init__(
            images[:, None], labels.astype(np.int32), transform, target_transform
        )

    def _read(self, name: str, root: Any) -> np.ndarray:
        urls = [address + name for address in self.addresses]
        file = RemoteFile(name, f"sha256:{self.sha256[name]}", urls)
        return read_idx(fetch(file, data_folder(self.folder, root)))


class FashionMNIST(MNIST):
    """Photographs of clothes, of MNIST's size and number; Xiao, Rasul, Vollgraf,
    arXiv:1708.07747."""

    classes = (
        "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt",
        "sneaker", "bag", "ankle boot",
    )  # fmt: skip
    folder = "fashion-mnist"
    addresses = (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    )
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    }


class CIFAR10(ImageDataset):
    """50,000 photographs of 10 kinds of things to train on, 10,000 to test; 32 x 32, colour.

    Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009); the binary
    version, one archive of 170 MB. root: its folder; by default one in the cache.
    """

    classes = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
        "truck",
    )  # fmt: skip
    file: ClassVar[RemoteFile] = RemoteFile(
        "cifar-10-binary.tar.gz",
        "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    )

    def __init__(
        self,
        train: bool = True,
        *,
        root: Any = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
    ):
        names = (
            [f"data_batch_{i}.bin" for i in range(1, 6)]
            if train
            else ["test_batch.bin"]
        )
        path = fetch(self.file, data_folder("cifar-10", root))
        super().__init__(*read_cifar10(path, names), transform, target_transform)
