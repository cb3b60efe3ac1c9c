"""Embedding, and where a position is put into it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..autograd import Tensor, no_grad
from ..creation import empty, tensor
from ..ops.lookup import renormalised
from ..ops.shape import concat
from . import functional as F
from . import init
from .module import Module, Parameter


class Embedding(Module):
    """y = weight[x]: a learned row for each of num_embeddings numbers.

    x: integers of any shape; y: (*x.shape, embedding_dim). weight starts normal with mean 0
    and variance 1; the row padding_idx starts as zeros and gets no gradient. max_norm: rows
    that are asked for are first scaled down to this norm (of norm_type), in the table too.
    scale_grad_by_freq: a row's gradient is divided by how often it was asked for. IndexError
    for a number outside [0, num_embeddings), on a GPU at the next read. sparse is refused:
    gradients are dense.

    >>> nn.Embedding(10, 3)(pn.tensor([[1, 2], [3, 9]])).shape
    (2, 2, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        if num_embeddings < 1 or embedding_dim < 1:
            raise ValueError(
                f"Embedding: at least 1 row of 1 is needed, not {num_embeddings} of "
                f"{embedding_dim}"
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = _row("Embedding", padding_idx, num_embeddings)
        self._set(max_norm, norm_type, scale_grad_by_freq, sparse)
        shape = (num_embeddings, embedding_dim)
        self.weight = Parameter(empty(shape, dtype=dtype or "float32", device=device))
        self.reset_parameters()

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Embedding:
        """A layer with these rows, a (num_embeddings, embedding_dim) tensor; with freeze
        they are not trained.

        >>> table = nn.Embedding.from_pretrained(pn.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> table(pn.tensor([1])).tolist(), table.weight.requires_grad
        ([[3.0, 4.0]], False)
        """
        if embeddings.ndim != 2:
            raise ValueError(
                f"Embedding: from_pretrained: a (rows, size) tensor is needed, got "
                f"{embeddings.shape}"
            )
        made = cls.__new__(cls)
        made.num_embeddings, made.embedding_dim = embeddings.shape
        made.padding_idx = _row("Embedding", padding_idx, made.num_embeddings)
        made._set(max_norm, norm_type, scale_grad_by_freq, sparse)
        made.weight = Parameter(embeddings)
        made.weight.requires_grad = not freeze
        return made

    def _set(
        self, max_norm: float | None, norm_type: float, by_freq: bool, sparse: bool
    ) -> None:
        if sparse:
            raise ValueError(
                "Embedding: there are no sparse gradients; leave sparse=True out"
            )
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"Embedding: max_norm must be above 0, not {max_norm}")
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq = by_freq

    def reset_parameters(self) -> None:
        """Draw the rows again."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                rows = self.weight.detach()
                rows[self.padding_idx] = 0.0
                self.weight.assign(rows)

    def _renormalise(self, x: Any) -> None:
        if self.max_norm is not None:
            with no_grad():
                rows = self.weight.detach()
                self.weight.assign(renormalised(x, rows, self.max_norm, self.norm_type))

    def forward(self, x: Any) -> Any:
        self._renormalise(x)
        return F.embedding(x, self.weight, self.padding_idx, self.scale_grad_by_freq)

    def extra_repr(self) -> str:
        pads = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{pads}"


def _row(name: str, padding_idx: int | None, rows: int) -> int | None:
    """The number of a row, counted from the end where it is below 0."""
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise ValueError(f"{name}: padding_idx {padding_idx} is no row of {rows}")
    return padding_idx % rows


# Positions -------------------------------------------------------------------------------


def _check_length(name: str, x: Any, size: int, first: int, max_len: int) -> int:
    """The number of positions, axis -2 of x."""
    if x.ndim < 2 or x.shape[-1] != size:
        raise ValueError(f"{name}: (..., length, {size}) is needed, got {x.shape}")
    if not 0 <= first <= max_len - x.shape[-2]:
        raise ValueError(
            f"{name}: positions {first} to {first + x.shape[-2]} are past {max_len}; "
            "make the layer with a larger max_len"
        )
    return x.shape[-2]


class EmbeddingBag(Embedding):
    """The sum, mean or maximum of the rows of each bag, in one result (bags, embedding_dim).

    x: (bags, n) integers, or (count,) with offsets (bags,), where each bag begins.
    Otherwise as `nn.functional.embedding_bag`; max_norm and the like as in Embedding.

    >>> nn.EmbeddingBag(10, 3)(pn.tensor([1, 2, 4]), pn.tensor([0, 2])).shape
    (2, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ):
        if mode not in ("sum", "mean", "max"):
            raise ValueError(
                f"EmbeddingBag: mode is 'sum', 'mean' or 'max', not {mode!r}"
            )
        if scale_grad_by_freq:
            raise ValueError("EmbeddingBag: scale_grad_by_freq is not supported")
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type,
            sparse=sparse, device=device, dtype=dtype,
        )  # fmt: skip
        self.mode, self.include_last_offset = mode, include_last_offset

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        *,
        mode: str = "mean",
        include_last_offset: bool = False,
        **options: Any,
    ) -> EmbeddingBag:
        """A layer with these rows; options as for Embedding."""
        made = super().from_pretrained(embeddings, freeze, **options)
        made.mode, made.include_last_offset = mode, include_last_offset  # type: ignore
        return made  # type: ignore[return-value]

    def forward(
        self, x: Any, offsets: Any = None, per_sample_weights: Any = None
    ) -> Any:
        self._renormalise(x)
        return F.embedding_bag(
            x, self.weight, offsets, self.mode, per_sample_weights,
            self.include_last_offset, self.padding_idx,
        )  # fmt: skip


class LearnedPositions(Module):
    """y = x + weight[offset : offset + length]: a learned row for each position.

    x: (..., length, dim), length + offset at most max_len. weight: (max_len, dim), normal
    with standard deviation 0.02 at first, as in GPT-2 (Radford et al., 2019).

    >>> nn.LearnedPositions(16, 4)(pn.zeros((2, 5, 4))).shape
    (2, 5, 4)
    """

    def __init__(self, max_len: int, dim: int, device: Any = None, dtype: Any = None):
        if max_len < 1 or dim < 1:
            raise ValueError(
                f"LearnedPositions: at least 1 row of 1 is needed, not {max_len} of {dim}"
            )
        self.max_len, self.dim = max_len, dim
        self.weight = Parameter(
            empty((max_len, dim), dtype=dtype or "float32", device=device)
        )
        init.normal_(self.weight, std=0.02)

    def forward(self, x: Any, offset: int = 0) -> Any:
        n = _check_length("LearnedPositions", x, self.dim, offset, self.max_len)
        return x + self.weight[offset : offset + n]

    def extra_repr(self) -> str:
        return f"{self.max_len}, {self.dim}"


class SinusoidalPositions(Module):
    """y[p, 2i] = x[p, 2i] + sin(p / 10000^(2i / dim)), y[p, 2i + 1] with the cosine.

    x: (..., length, dim), length + offset at most max_len. Vaswani et al., NeurIPS 2017.

    >>> nn.SinusoidalPositions(4)(pn.zeros((2, 4)))[0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """

    def __init__(self, dim: int, max_len: int = 5000, device: Any = None):
        if dim < 1 or max_len < 1:
            raise ValueError(
                f"SinusoidalPositions: at least 1 row of 1 is needed, not {max_len} of "
                f"{dim}"
            )
        self.dim, self.max_len = dim, max_len
        table = np.zeros((max_len, dim))
        angles = _angles(max_len, math.ceil(dim / 2), dim, 10000.0)
        table[:, 0::2] = np.sin(angles)
        table[:, 1::2] = np.cos(angles[:, : dim // 2])
        self.register_buffer("pe", tensor(table, dtype="float32", device=device))

    pe: Any

    def forward(self, x: Any, offset: int = 0) -> Any:
        n = _check_length("SinusoidalPositions", x, self.dim, offset, self.max_len)
        return x + self.pe[offset : offset + n].astype(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.dim}, max_len={self.max_len}"


class RotaryPositions(Module):
    """Each pair (x[i], x[i + dim / 2]) turned by the angle p / base^(2i / dim), for queries
    and keys.

    x: (..., length, dim) with an even dim; the position p is axis -2, from offset on; length
    + offset at most max_len. The product of a query and a key then depends on how far apart
    they are and not on where. Su et al., arXiv:2104.09864, 2021; pairs are those of the two
    halves, as in LLaMA's weights for Hugging Face.

    >>> turn = nn.RotaryPositions(2)
    >>> turn(pn.tensor([[1.0, 0.0], [1.0, 0.0]]))[1]
    tensor([0.5403..., 0.8414...])
    """

    def __init__(
        self,
        dim: int,
        max_len: int = 2048,
        base: float = 10000.0,
        device: Any = None,
    ):
        if dim < 2 or dim % 2 or max_len < 1:
            raise ValueError(
                f"RotaryPositions: an even dim and a max_len above 0 are needed, not "
                f"{dim} and {max_len}"
            )
        self.dim, self.max_len, self.base = dim, max_len, base
        angles = _angles(max_len, dim // 2, dim, base)
        for name, table in (("cos", np.cos(angles)), ("sin", np.sin(angles))):
            self.register_buffer(name, tensor(table, dtype="float32", device=device))

    cos: Any
    sin: Any

    def forward(self, x: Any, offset: int = 0) -> Any:
        n = _check_length("RotaryPositions", x, self.dim, offset, self.max_len)
        cos = self.cos[offset : offset + n].astype(x.dtype)
        sin = self.sin[offset : offset + n].astype(x.dtype)
        a, b = x[..., : self.dim // 2], x[..., self.dim // 2 :]
        return concat([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def extra_repr(self) -> str:
        return f"{self.dim}, max_len={self.max_len}, base={self.base}"


def _angles(positions: int, pairs: int, dim: int, base: float) -> np.ndarray:
    """p / base ** (2 i / dim) at [p, i], in float64."""
    speeds = base ** (-2 * np.arange(pairs) / dim)
    return np.arange(positions)[:, None] * speeds
