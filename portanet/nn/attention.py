"""MultiheadAttention, and the cache of keys and values that generation keeps."""

from __future__ import annotations

import math
from typing import Any

from ..creation import empty, zeros
from ..dtypes import bool_, int32
from ..ops import elementwise as e
from ..ops.attend import weights as weights_of
from ..ops.create import positions
from ..ops.index import take
from ..ops.linear import matmul
from ..ops.reduce import mean
from ..ops.shape import broadcast_to, concat, permute_dims, reshape, split
from . import functional as F
from . import init
from .layers import Linear
from .module import Module, Parameter


class KeyValueCache(Module):
    """The keys and values of the positions so far, for generation a few at a time.

    Its size is fixed, so that a compiled step is traced once: a step sees all max_len
    rows, and a mask tells which are there. Where it stands is a tensor. No gradient goes
    through it. Appending past max_len raises IndexError, on a GPU at the next read.

    >>> cache = nn.KeyValueCache(1, 2, 8, 4)
    >>> keys, values, seen = cache.append(pn.ones((1, 2, 3, 4)), pn.ones((1, 2, 3, 4)))
    >>> keys.shape, seen.shape, cache.length.item()
    ((1, 2, 8, 4), (3, 8), 3)
    """

    k: Any
    v: Any
    length: Any

    def __init__(
        self,
        batch: int,
        heads: int,
        max_len: int,
        width: int,
        device: Any = None,
        dtype: Any = None,
    ):
        shape = (batch, heads, max_len, width)
        if min(shape) < 1:
            raise ValueError(
                f"KeyValueCache: sizes of at least 1 are needed, not {shape}"
            )
        for name in ("k", "v"):
            rows = zeros(shape, dtype=dtype or "float32", device=device)
            self.register_buffer(name, rows)
        self.register_buffer("length", zeros((), dtype="int32", device=device))

    def append(self, k: Any, v: Any) -> tuple[Any, Any, Any]:
        """Put n rows after those that are there: (all keys, all values, seen), seen (n,
        max_len) true where a new row sees a key: those before it, and itself.

        k, v: (batch, heads, n, width).
        """
        shape, n = tuple(self.k.shape), k.shape[2] if k.ndim == 4 else 0
        for what, x in (("keys", k), ("values", v)):
            if tuple(x.shape) != (*shape[:2], n, shape[3]) or not 1 <= n <= shape[2]:
                raise ValueError(
                    f"KeyValueCache: {what} {tuple(x.shape)} do not fit a cache of {shape}"
                )
        rows = positions(self.k, shape[2], int32)
        new = e.subtract(rows, self.length)
        is_new = e.logical_and(e.greater_equal(new, 0), e.less(new, n))
        is_new = reshape(is_new, (shape[2], 1))
        source = e.clip(new, 0, n - 1)
        seen = e.less_equal(new, reshape(positions(self.k, n, int32), (n, 1)))
        for mine, x in ((self.k, k), (self.v, v)):
            x = e.astype(x.detach(), mine.dtype)
            mine.assign(e.where(is_new, take(x, source, axis=2), mine))
        # Looked up, so that a row past the last is an error.
        last = reshape(e.add(self.length, n - 1), (1,))
        last = take(rows, last, axis=0, name="KeyValueCache.append")
        self.length.assign(reshape(e.add(last, 1), ()))
        return self.k, self.v, seen

    def reset(self) -> None:
        """Forget all rows."""
        self.length.assign(e.zeros_like(self.length))

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.k.shape))


class MultiheadAttention(Module):
    """out_proj of the heads' softmax(q k^T / sqrt(width)) v, where q, k and v are
    projections of query, key and value, num_heads heads of width embed_dim / num_heads.

    query: (queries, batch, embed_dim), key: (keys, batch, kdim), value: (keys, batch,
    vdim), the batch first with batch_first, or all without a batch. Returns (output, in the
    order of query, weights): the weights (batch, queries, keys) are the mean over the
    heads, or (batch, heads, queries, keys) with average_attn_weights=False, and None with
    need_weights=False, which takes memory that grows with the length and not its square.

    key_padding_mask: (batch, keys), attn_mask: (queries, keys) or (batch * num_heads,
    queries, keys); bool, True where a key is NOT seen (as PyTorch has it here, the opposite
    of scaled_dot_product_attention), or floats to add. is_causal: query i sees keys up to
    i, with an attn_mask or without. A query that sees no key gives out_proj of 0. dropout:
    the part of the weights set to 0 in training.

    cache: a KeyValueCache for the heads; key and value are put into it, and query, at the
    same positions, sees all that is in it up to its own. Masks are then for all its rows.

    The weights have PyTorch's names: in_proj_weight (3 embed_dim, embed_dim), or
    q_proj_weight, k_proj_weight and v_proj_weight where kdim or vdim differ; in_proj_bias;
    bias_k and bias_v with add_bias_kv; out_proj. Vaswani et al., NeurIPS 2017.

    >>> attend = nn.MultiheadAttention(8, 2, batch_first=True)
    >>> x = pn.ones((1, 3, 8))
    >>> y, weights = attend(x, x, x)
    >>> y.shape, weights.shape
    ((1, 3, 8), (1, 3, 3))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        name = "MultiheadAttention"
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                f"{name}: embed_dim {embed_dim} does not divide into {num_heads} heads"
            )
        F.check_probability(name, dropout)
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.head_dim = embed_dim // num_heads
        self.batch_first, self.add_zero_attn = batch_first, add_zero_attn
        where = {"dtype": dtype or "float32", "device": device}

        def parameter(*shape):
            return Parameter(empty(shape, **where))

        self.in_proj_weight = self.in_proj_bias = self.bias_k = self.bias_v = None
        self.q_proj_weight = self.k_proj_weight = self.v_proj_weight = None
        if self.kdim == self.vdim == embed_dim:
            self.in_proj_weight = parameter(3 * embed_dim, embed_dim)
        else:
            self.q_proj_weight = parameter(embed_dim, embed_dim)
            self.k_proj_weight = parameter(embed_dim, self.kdim)
            self.v_proj_weight = parameter(embed_dim, self.vdim)
        if bias:
            self.in_proj_bias = parameter(3 * embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim, bias, **where)
        if add_bias_kv:
            self.bias_k = parameter(1, 1, embed_dim)
            self.bias_v = parameter(1, 1, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the projections again, by Xavier; biases start as 0."""
        for name in (
            "in_proj_weight",
            "q_proj_weight",
            "k_proj_weight",
            "v_proj_weight",
        ):
            if (weight := getattr(self, name)) is not None:
                init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        cache: KeyValueCache | None = None,
    ) -> tuple[Any, Any]:
        self._check(query, key, value)
        has_batch = query.ndim == 3
        q, k, v = (self._by_head(x) for x in self._projected(query, key, value))
        there = []
        if cache is not None:
            k, v, seen = cache.append(k, v)
            there, is_causal = [reshape(seen, (1, 1, *seen.shape))], False
        masks = there + self._masks(attn_mask, key_padding_mask, q, k.shape[2])
        k, v, masks, is_causal = self._lengthened(k, v, masks, is_causal, q)
        mask = _merged(masks, q.dtype)
        y, weights = self._attend(q, k, v, mask, is_causal, need_weights)
        y = self.out_proj(self._joined(y, has_batch))
        if weights is not None:
            weights = mean(weights, axis=1) if average_attn_weights else weights
            weights = weights if has_batch else reshape(weights, weights.shape[1:])
        return y, weights

    def _check(self, query: Any, key: Any, value: Any) -> None:
        sizes = (self.embed_dim, self.kdim, self.vdim)
        for what, x, size in zip(
            ("query", "key", "value"), (query, key, value), sizes, strict=True
        ):
            if x.ndim not in (2, 3) or x.ndim != query.ndim or x.shape[-1] != size:
                order = "(batch, length" if self.batch_first else "(length, batch"
                raise ValueError(
                    f"MultiheadAttention: the {what} has shape {tuple(x.shape)}; {order}, "
                    f"{size}), or without the batch for all three, is needed"
                )
        at = 0 if self.batch_first else 1
        if key.shape[:-1] != value.shape[:-1] or (
            query.ndim == 3 and query.shape[at] != key.shape[at]
        ):
            raise ValueError(
                f"MultiheadAttention: query {tuple(query.shape)}, key {tuple(key.shape)} "
                f"and value {tuple(value.shape)} do not fit"
            )

    def _projected(self, query: Any, key: Any, value: Any):
        """q, k and v before they are cut into heads; equal inputs by one product."""
        n, bias = self.embed_dim, self.in_proj_bias
        if self.in_proj_weight is None:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        elif query is key and key is value:
            return split(F.linear(query, self.in_proj_weight, bias), n, axis=-1)
        else:
            weights = split(self.in_proj_weight, n)
        biases = [None] * 3 if bias is None else split(bias, n)
        return [
            F.linear(x, w, b)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        ]

    def _by_head(self, x: Any) -> Any:
        """(batch, heads, length, width) of a projection."""
        x = reshape(x, (*x.shape[:-1], self.num_heads, self.head_dim))
        if x.ndim == 3:
            return permute_dims(reshape(x, (1, *x.shape)), (0, 2, 1, 3))
        return permute_dims(x, (0, 2, 1, 3) if self.batch_first else (1, 2, 0, 3))

    def _joined(self, y: Any, has_batch: bool) -> Any:
        """The heads side by side, in the order of the query."""
        by_length = not has_batch or self.batch_first
        y = permute_dims(y, (0, 2, 1, 3) if by_length else (2, 0, 1, 3))
        shape = y.shape[:2] if has_batch else y.shape[1:2]
        return reshape(y, (*shape, self.embed_dim))

    def _masks(self, attn_mask: Any, padding: Any, q: Any, keys: int) -> list[Any]:
        """The masks with four axes: bools true where a key is seen, or floats to add."""
        batch, heads, queries, _ = q.shape
        made = []
        for what, mask, shapes in (
            ("attn_mask", attn_mask, [(queries, keys), (batch * heads, queries, keys)]),
            ("key_padding_mask", padding, [(batch, keys)] + [(keys,)] * (batch == 1)),
        ):
            if mask is None:
                continue
            shape = tuple(mask.shape)
            if shape not in shapes:
                wanted = " or ".join(map(str, shapes))
                raise ValueError(
                    f"MultiheadAttention: {what} has shape {shape}; {wanted} is needed"
                )
            if not (mask.dtype is bool_ or mask.dtype.is_float):
                raise TypeError(
                    f"MultiheadAttention: {what} is bool (True where a key is not seen) or "
                    f"floats to add, not {mask.dtype.name}"
                )
            mask = e.logical_not(mask) if mask.dtype is bool_ else mask
            if what == "key_padding_mask":
                made.append(reshape(mask, (batch, 1, 1, keys)))
            elif len(shape) == 2:
                made.append(reshape(mask, (1, 1, queries, keys)))
            else:
                made.append(reshape(mask, (batch, heads, queries, keys)))
        return made

    def _lengthened(self, k: Any, v: Any, masks: list[Any], is_causal: bool, q: Any):
        """With the keys and values that every query sees: bias_k and bias_v, and 0."""
        more = (self.bias_k is not None) + self.add_zero_attn
        if not more:
            return k, v, masks, is_causal
        batch, heads, keys, width = k.shape
        if is_causal:  # of the keys that are given, not of those that are added
            row = reshape(positions(q, q.shape[2], int32), (1, 1, q.shape[2], 1))
            masks.append(e.greater_equal(row, positions(q, keys, int32)))
        for bias_k, bias_v in [(self.bias_k, self.bias_v)] * (
            self.bias_k is not None
        ) + [(None, None)] * self.add_zero_attn:
            for_all = (batch, heads, 1, width)
            added = [
                k.constant(0, k.dtype)
                if bias is None
                else reshape(bias, (1, heads, 1, width))
                for bias in (bias_k, bias_v)
            ]
            k, v = (
                concat([x, broadcast_to(b, for_all)], axis=2)
                for x, b in zip((k, v), added, strict=True)
            )
        seen = []
        for mask in masks:
            one = mask.constant(mask.dtype is bool_, mask.dtype)
            end = broadcast_to(one, (*mask.shape[:3], more))
            seen.append(concat([mask, end], axis=3))
        return k, v, seen, False

    def _attend(self, q, k, v, mask, is_causal: bool, need_weights: bool):
        p = self.dropout if self.training else 0.0
        if not need_weights:
            y = F.scaled_dot_product_attention(q, k, v, mask, p, is_causal)
            return y, None
        weights = weights_of(q, k, mask, is_causal)
        weights = F.dropout(weights, p, self.training)
        return matmul(weights, v), weights

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}, dropout={self.dropout}"


def _merged(masks: list[Any], dtype: Any) -> Any:
    """One mask of several: bools are all to hold, floats are added."""
    if not masks:
        return None
    is_bool = all(m.dtype is bool_ for m in masks)
    if not is_bool:
        masks = [
            e.where(m, m.constant(0, dtype), -math.inf) if m.dtype is bool_ else m
            for m in masks
        ]
    merged = masks[0]
    for m in masks[1:]:
        merged = e.logical_and(merged, m) if is_bool else e.add(merged, m)
    return merged
