"""Scaled-dot-product attention on any axes in front, as users call it; the weights alone."""

from __future__ import annotations

import math
from typing import Any

from ..casting import casting
from ..op import check_tensor
from . import elementwise as e
from .attention import NAME, attention, scores, softmax_of
from .shape import broadcast_to, reshape


def _lead(q, k, v, enable_gqa: bool):
    """(batch axes, query heads, key heads) of inputs (..., heads, length, width)."""
    for what, x in (("query", q), ("key", k), ("value", v)):
        check_tensor(NAME, x)
        if len(x.shape) < (3 if enable_gqa else 2):
            raise ValueError(
                f"{NAME}: the {what} has shape {tuple(x.shape)}; (..., "
                f"{'heads, ' if enable_gqa else ''}length, width) is needed"
            )
        if x.device is not q.device:
            raise ValueError(
                f"{NAME}: the query is on {q.device}, the {what} on {x.device}; move "
                f'one with .to("{q.device}")'
            )
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ValueError(
            f"{NAME}: query {tuple(q.shape)}, key {tuple(k.shape)} and value "
            f"{tuple(v.shape)} do not fit: query and key have one width, key and value "
            "one length"
        )
    batch = e.broadcast(NAME, [tuple(x.shape[:-3]) for x in (q, k, v)])
    heads, *others = [(1, *x.shape)[-3] if len(x.shape) < 3 else x.shape[-3]
                      for x in (q, k, v)]  # fmt: skip
    groups = e.broadcast(NAME, [(n,) for n in others])[0]
    if enable_gqa:
        return batch, heads, groups
    wide = e.broadcast(NAME, [(heads,), (groups,)])[0]
    return batch, wide, 1 if groups == 1 else wide


def _as_four(x: Any, batch, heads: int) -> Any:
    wide = (*batch, heads, *x.shape[-2:])
    x = x if tuple(x.shape) == wide else broadcast_to(x, wide)
    return x if len(batch) == 1 else reshape(x, (math.prod(batch), *wide[-3:]))


def _mask_as_four(mask: Any, batch, full) -> Any:
    """A mask that broadcasts to (*batch, heads, queries, keys), with four axes."""
    shape, whole = tuple(mask.shape), (*batch, *full)
    lead = (1,) * (len(whole) - len(shape)) + shape
    if len(shape) > len(whole) or any(
        m not in (1, n) for m, n in zip(lead, whole, strict=True)
    ):
        raise ValueError(f"{NAME}: attn_mask {shape} does not broadcast to {whole}")
    first = math.prod(lead[:-3])
    if first > 1 and first < math.prod(batch):
        mask = broadcast_to(reshape(mask, lead), (*batch, *lead[-3:]))
        first = math.prod(batch)
    four = (first, *lead[-3:])
    return mask if four == shape else reshape(mask, four)


@casting
def attend(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    state: Any = None,
    p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Any, Any]:
    """scaled_dot_product_attention, and the state after what dropout drew from `state`."""
    batch, heads, groups = _lead(query, key, value, enable_gqa)
    scale = query.shape[-1] ** -0.5 if scale is None and query.shape[-1] else scale
    q = _as_four(query, batch, heads)
    k, v = (_as_four(x, batch, groups) for x in (key, value))
    rest = []
    if attn_mask is not None:
        full = (heads, query.shape[-2], key.shape[-2])
        rest.append(_mask_as_four(attn_mask, batch, full))
    rest += [] if state is None else [state]
    static = dict(scale=float(scale or 0), causal=bool(is_causal), p=float(p))
    y, _, *after = attention(q, k, v, *rest, **static)
    rank = max(len(x.shape) for x in (query, key, value))
    shape = (*batch, heads, *y.shape[-2:])[-rank:]
    y = y if tuple(y.shape) == shape else reshape(y, shape)
    return y, (after[0] if after else None)


@casting
def weights(
    q: Any,
    k: Any,
    mask: Any = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Any:
    """The softmax of the scores, (batch, heads, queries, keys), for those who look at it;
    q and k have as many heads, the mask four axes."""
    scale = q.shape[3] ** -0.5 if scale is None else scale
    wide = q.dtype.compute
    s = scores(e.astype(q, wide), e.astype(k, wide), mask, scale, is_causal)
    return e.astype(softmax_of(s)[0], q.dtype)
