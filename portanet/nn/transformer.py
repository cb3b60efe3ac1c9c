"""Transformer: the encoder's and the decoder's layers, stacks of them, and both together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from ..creation import full
from ..ops.create import triu
from . import functional as F
from . import init
from .attention import KeyValueCache, MultiheadAttention
from .containers import ModuleList
from .layers import Dropout, Linear
from .module import Module
from .normalise import LayerNorm

_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": F.relu, "gelu": F.gelu}


def _activation(name: str, given: str | Callable[[Any], Any]) -> Callable[[Any], Any]:
    if isinstance(given, str):
        if given not in _ACTIVATIONS:
            raise ValueError(
                f'{name}: activation is "relu", "gelu" or a function, not {given!r}'
            )
        return _ACTIVATIONS[given]
    return given


class TransformerEncoderLayer(Module):
    """x = norm1(x + self_attn(x)), then norm2(x + linear2(activation(linear1(x)))).

    With norm_first the norms stand before: x + self_attn(norm1(x)), x + ff(norm2(x)).
    Dropout follows the attention's weights, each branch and the activation. src: (length,
    batch, d_model), or (batch, length, d_model) with batch_first. The masks and the cache
    are MultiheadAttention's. activation: "relu", "gelu" or a function. Vaswani et al.,
    NeurIPS 2017; norm_first: Xiong et al., ICML 2020.

    >>> layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> layer(pn.ones((1, 3, 8)), is_causal=True).shape
    (1, 3, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Any], Any] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        where = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, **where
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias, **where)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **where)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, **where)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, **where)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.activation = _activation("TransformerEncoderLayer", activation)

    def forward(
        self,
        src: Any,
        src_mask: Any = None,
        src_key_padding_mask: Any = None,
        is_causal: bool = False,
        *,
        cache: KeyValueCache | None = None,
    ) -> Any:
        def attend(x):
            y = self.self_attn(
                x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal,
                cache=cache,
            )  # fmt: skip
            return self.dropout1(y[0])

        def feed(x):
            x = self.dropout(self.activation(self.linear1(x)))
            return self.dropout2(self.linear2(x))

        x = _branch(src, attend, self.norm1, self.norm_first)
        return _branch(x, feed, self.norm2, self.norm_first)


def _branch(x: Any, branch: Callable[[Any], Any], norm: Module, first: bool) -> Any:
    return x + branch(norm(x)) if first else norm(x + branch(x))


class TransformerDecoderLayer(Module):
    """x = norm1(x + self_attn(x)), norm2(x + multihead_attn(x, memory)), then norm3(x +
    linear2(activation(linear1(x)))); with norm_first the norms stand before.

    tgt: (length, batch, d_model), memory: (its length, batch, d_model), the batch first
    with batch_first. Options, masks and cache (of self_attn) as in
    TransformerEncoderLayer.

    >>> layer = nn.TransformerDecoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> layer(pn.ones((1, 3, 8)), pn.ones((1, 5, 8)), tgt_is_causal=True).shape
    (1, 3, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Any], Any] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        where = {"device": device, "dtype": dtype}

        def attention():
            return MultiheadAttention(
                d_model, nhead, dropout, bias, batch_first=batch_first, **where
            )

        self.self_attn, self.multihead_attn = attention(), attention()
        self.linear1 = Linear(d_model, dim_feedforward, bias, **where)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **where)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, **where)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, **where)
        self.norm3 = LayerNorm(d_model, layer_norm_eps, bias=bias, **where)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.dropout3 = Dropout(dropout)
        self.activation = _activation("TransformerDecoderLayer", activation)

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
        *,
        cache: KeyValueCache | None = None,
    ) -> Any:
        def attend(x):
            y = self.self_attn(
                x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal,
                cache=cache,
            )  # fmt: skip
            return self.dropout1(y[0])

        def look(x):
            y = self.multihead_attn(
                x, memory, memory, memory_key_padding_mask, False, memory_mask,
                is_causal=memory_is_causal,
            )  # fmt: skip
            return self.dropout2(y[0])

        def feed(x):
            x = self.dropout(self.activation(self.linear1(x)))
            return self.dropout3(self.linear2(x))

        x = _branch(tgt, attend, self.norm1, self.norm_first)
        x = _branch(x, look, self.norm2, self.norm_first)
        return _branch(x, feed, self.norm3, self.norm_first)


def _copies(name: str, layer: Module, count: int) -> ModuleList:
    if count < 1:
        raise ValueError(f"{name}: at least 1 layer is needed, not {count}")
    return ModuleList(copy.deepcopy(layer) for _ in range(count))


def _caches(name: str, caches: Sequence[Any] | None, count: int) -> Sequence[Any]:
    if caches is None:
        return [None] * count
    if len(caches) != count:
        raise ValueError(f"{name}: {len(caches)} caches for {count} layers")
    return caches


class TransformerEncoder(Module):
    """Copies of an encoder layer one after another, then `norm` where one is given.

    caches: a KeyValueCache for each layer.

    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> nn.TransformerEncoder(layer, 2)(pn.ones((1, 3, 8))).shape
    (1, 3, 8)
    """

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: Module | None = None,
    ):
        self.layers = _copies("TransformerEncoder", encoder_layer, num_layers)
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self,
        src: Any,
        mask: Any = None,
        src_key_padding_mask: Any = None,
        is_causal: bool = False,
        *,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Any:
        kept = _caches("TransformerEncoder", caches, self.num_layers)
        for layer, cache in zip(self.layers, kept, strict=True):
            src = layer(src, mask, src_key_padding_mask, is_causal, cache=cache)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """Copies of a decoder layer one after another, then `norm` where one is given.

    caches: a KeyValueCache for each layer.

    >>> layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    >>> nn.TransformerDecoder(layer, 2)(pn.ones((1, 3, 8)), pn.ones((1, 5, 8))).shape
    (1, 3, 8)
    """

    def __init__(
        self,
        decoder_layer: TransformerDecoderLayer,
        num_layers: int,
        norm: Module | None = None,
    ):
        self.layers = _copies("TransformerDecoder", decoder_layer, num_layers)
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
        *,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Any:
        kept = _caches("TransformerDecoder", caches, self.num_layers)
        for layer, cache in zip(self.layers, kept, strict=True):
            tgt = layer(
                tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask,
                memory_key_padding_mask, tgt_is_causal, memory_is_causal, cache=cache,
            )  # fmt: skip
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(Module):
    """decoder(tgt, encoder(src)), each with a last LayerNorm; Vaswani et al., NeurIPS 2017.

    src: (length, batch, d_model), tgt: (its length, batch, d_model), the batch first with
    batch_first; the result is as tgt. Matrices start by Xavier. Options and masks as in the
    layers; custom_encoder and custom_decoder stand in for the stacks.

    >>> model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    >>> model(pn.ones((1, 5, 8)), pn.ones((1, 3, 8)), tgt_is_causal=True).shape
    (1, 3, 8)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Any], Any] = "relu",
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        where = {"device": device, "dtype": dtype}
        options = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps)
        options += (batch_first, norm_first, bias)

        def norm():
            return LayerNorm(d_model, layer_norm_eps, bias=bias, **where)

        self.encoder = custom_encoder or TransformerEncoder(
            TransformerEncoderLayer(*options, **where), num_encoder_layers, norm()
        )
        self.decoder = custom_decoder or TransformerDecoder(
            TransformerDecoderLayer(*options, **where), num_decoder_layers, norm()
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all matrices again."""
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p)

    @staticmethod
    def generate_square_subsequent_mask(
        size: int, device: Any = None, dtype: Any = None
    ) -> Any:
        """-inf above the diagonal of (size, size), else 0: what is_causal stands for.

        >>> nn.Transformer.generate_square_subsequent_mask(2)
        tensor([[  0., -inf],
                [  0.,   0.]])
        """
        hidden = full(
            (size, size), -float("inf"), dtype=dtype or "float32", device=device
        )
        return triu(hidden, k=1)

    def forward(
        self,
        src: Any,
        tgt: Any,
        src_mask: Any = None,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        src_key_padding_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        src_is_causal: bool = False,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Any:
        for what, x in (("src", src), ("tgt", tgt)):
            if x.shape[-1:] != (self.d_model,):
                raise ValueError(
                    f"Transformer: {what} has shape {tuple(x.shape)}; its last axis must "
                    f"be d_model, {self.d_model}"
                )
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(
            tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask,
            memory_key_padding_mask, tgt_is_causal, memory_is_causal,
        )  # fmt: skip
