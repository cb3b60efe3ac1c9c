"""Data for training: datasets, and loaders that make batches of them.

dataset.py  TensorDataset, ArrayDataset, Subset, random_split
loader.py   DataLoader, collate
"""

from .dataset import ArrayDataset, Dataset, Subset, TensorDataset, random_split
from .loader import DataLoader, collate

__all__ = [
    "ArrayDataset",
    "DataLoader",
    "Dataset",
    "Subset",
    "TensorDataset",
    "collate",
    "random_split",
]
