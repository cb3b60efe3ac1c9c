"""Data for training: datasets, loaders that make batches of them, and what is downloaded.

dataset.py     TensorDataset, ArrayDataset, IterableDataset, Subset, ConcatDataset, random_split
samplers.py    the order of a pass: RandomSampler, WeightedRandomSampler ...
loader.py      DataLoader, collate
workers.py     threads that work ahead
draws.py       the random numbers of one sample
transforms.py  RandomCrop, Normalize ...
download.py    files fetched once, checked, kept
images.py      ImageDataset, MNIST, FashionMNIST, CIFAR10
folder.py      ImageFolder
text.py        Dictionary, Corpus, PennTreebank, batchify, get_batch
"""

from . import transforms
from .dataset import (
    ArrayDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)
from .folder import ImageFolder
from .images import CIFAR10, MNIST, FashionMNIST, ImageDataset
from .loader import DataLoader, collate
from .samplers import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from .text import Corpus, Dictionary, PennTreebank, batchify, get_batch

__all__ = [
    "CIFAR10",
    "MNIST",
    "ArrayDataset",
    "BatchSampler",
    "ConcatDataset",
    "Corpus",
    "DataLoader",
    "Dataset",
    "Dictionary",
    "FashionMNIST",
    "ImageDataset",
    "ImageFolder",
    "IterableDataset",
    "PennTreebank",
    "RandomSampler",
    "SequentialSampler",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "WeightedRandomSampler",
    "batchify",
    "collate",
    "get_batch",
    "random_split",
    "transforms",
]
