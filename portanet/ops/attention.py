"""Scaled-dot-product attention: one operator forward, one for its three gradients.

Both have kernels whose memory grows with the length and not with its square. What dropout
draws is drawn again backward, from the state that forward was given. A row whose keys are
all masked gives 0, as PyTorch's does; its logsumexp is -inf.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from ..arrays import row_major
from ..dtypes import bool_, int32, uint32
from ..op import Bad, Case, Joint, Op, Spec
from . import dropout as dropping
from . import elementwise as e
from .create import positions
from .linear import matmul
from .losses import softmax
from .random import philox, random_bits
from .reduce import logsumexp
from .reduce import max as maximum_of
from .reduce import sum as total
from .shape import broadcast_to, matrix_transpose, reshape, split

NAME = "scaled_dot_product_attention"

# The operators' arguments: q (batch, heads, queries, width), k (batch, groups, keys,
# width), v (batch, groups, keys, value width), then the mask (bool, or floats to add; its
# axes are those of the scores or 1) where there is one, and where p > 0 the state of a
# generator. Static: scale; causal; p, the part that is dropped.


def _rest(rest, p) -> tuple[Any, Any]:
    """The mask and the state among what follows v."""
    rest = list(rest)
    state = rest.pop() if p else None
    return (rest[0] if rest else None), state


def _check(q: Spec, k: Spec, v: Spec, rest, p: float) -> tuple[int, int, int, int]:
    """(batch, heads, queries, keys); TypeError or ValueError where shapes don't fit."""
    for what, x in (("query", q), ("key", k), ("value", v)):
        if not x.dtype.is_float:
            raise TypeError(
                f"{NAME}: a floating dtype is needed, the {what} is {x.dtype.name}"
            )
        if x.dtype is not q.dtype:
            raise TypeError(
                f"{NAME}: the query is {q.dtype.name}, the {what} {x.dtype.name}; cast "
                "one with astype"
            )
        if len(x.shape) != 4:
            raise ValueError(
                f"{NAME}: the {what} has shape {x.shape}; (batch, heads, length, width) "
                "is needed"
            )
        if not x.shape[3]:
            raise ValueError(f"{NAME}: the {what} {x.shape} has a width of 0")
    (batch, heads, queries, width), (_, groups, keys, _) = q.shape, k.shape
    if k.shape[0] != batch or k.shape[3] != width:
        raise ValueError(f"{NAME}: query {q.shape} and key {k.shape} do not fit")
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(f"{NAME}: key {k.shape} and value {v.shape} do not fit")
    if not groups or heads % groups:
        raise ValueError(
            f"{NAME}: {heads} query heads are no multiple of {groups} key heads"
        )
    mask, state = _rest(rest, p)
    if mask is not None:
        full = (batch, heads, queries, keys)
        if len(mask.shape) != 4 or any(
            m not in (1, n) for m, n in zip(mask.shape, full, strict=True)
        ):
            raise ValueError(
                f"{NAME}: attn_mask {mask.shape} does not broadcast to {full}"
            )
        if not (mask.dtype.is_float or mask.dtype is bool_):
            raise TypeError(
                f"{NAME}: attn_mask is bool (True where a key is seen) or floats to add, "
                f"not {mask.dtype.name}"
            )
    if state is not None and state != Spec((4,), uint32):
        raise ValueError(f"{NAME}: the state of a generator is uint32[4], not {state}")
    return batch, heads, queries, keys


def _rule(q: Spec, k: Spec, v: Spec, *rest: Spec, scale, causal, p):
    batch, heads, queries, _ = _check(q, k, v, rest, p)
    y = Spec((batch, heads, queries, v.shape[3]), q.dtype)
    lse = Spec((batch, heads, queries), q.dtype.compute)
    return (y, lse, Spec((4,), uint32)) if p else (y, lse)


def _back_rule(dy: Spec, y: Spec, lse: Spec, q, k, v, *rest, scale, causal, p):
    made = _rule(q, k, v, *rest, scale=scale, causal=causal, p=p)
    for what, got, wanted in (("gradient", dy, made[0]), ("lse", lse, made[1])):
        if got.shape != wanted.shape:
            raise ValueError(f"{NAME}: the {what} is {got.shape}, not {wanted.shape}")
    return tuple(Spec(x.shape, x.dtype) for x in (q, k, v))


# Kernels ---------------------------------------------------------------------------------


def _bits(x: float) -> list[int]:
    """A number as words: the bits of a float32, and the halves of a float64."""
    return [
        *struct.unpack("=I", struct.pack("=f", x)),
        *struct.unpack("<2I", struct.pack("<d", x)),
    ]


def _rows(emit, x, dtype):
    """x in the dtype that is computed in, with contiguous rows."""
    if x.layout.dtype is not dtype:
        made = emit.empty(x.layout.shape, dtype)
        emit.copy(x, made)
        return made
    return x if x.layout.strides[3] == 1 else emit.contiguous(x)


def _steps(shape) -> tuple[int, ...]:
    """The strides of (batch, heads, length, width) in memory (batch, length, heads, width):
    that is the order in which a model splits and joins heads."""
    _, heads, length, width = shape
    return (length * heads * width, width, heads * width, 1)


def _by_length(emit, shape, dtype):
    """A new (batch, heads, length, width) with these strides."""
    return emit.view(emit.empty(shape, dtype), shape, _steps(shape))


def _narrow(emit, x, dtype):
    if x.layout.dtype is dtype:
        return x
    made = _by_length(emit, x.layout.shape, dtype)
    emit.copy(x, made)
    return made


def _as_written(emit, x, strides, dtype):
    """x where it is of this dtype and lies so from the first element on, else a copy."""
    seen = x.layout
    if seen.dtype is dtype and seen.strides == strides and not seen.offset:
        return x
    made = emit.view(emit.empty(seen.shape, dtype), seen.shape, strides)
    emit.copy(x, made)
    return made


def _words(full, q, k, v, dy, mask, state, scale, causal, p) -> list[int]:
    batch, heads, queries, keys = full
    words = [batch, heads, k.layout.shape[1], queries, keys, q.layout.shape[3]]
    words += [v.layout.shape[3], int(causal), int(mask is not None)]
    words += [dropping.threshold(p) if p else 0, *_bits(scale)]
    words += _bits(1 / (1 - p))
    for x in (q, k, v) if dy is None else (q, k, v, dy):
        words += [x.layout.offset, *x.layout.strides[:3]]
    if mask is not None:
        seen = mask.layout.expanded(full)
        words += [seen.offset, *seen.strides]
    return words if state is None else [*words, state.layout.offset]


def _options(which: str, words) -> tuple[str, ...]:
    """Which way; the widths of rows, which a backend may compile in."""
    return (which, str(words[5]), str(words[6]))


def _lower(emit, q, k, v, *rest, scale, causal, p):
    specs = [Spec(h.layout.shape, h.layout.dtype) for h in (q, k, v, *rest)]
    made = _rule(*specs, scale=scale, causal=causal, p=p)
    full, dtype = (*made[1].shape, specs[1].shape[2]), q.layout.dtype
    mask, state = _rest(rest, p)
    state = None if state is None else emit.contiguous(state)
    own = emit.kernel_dtype("attention", dtype)
    y = _by_length(emit, made[0].shape, own)
    lse = emit.empty(made[1].shape, dtype.compute)
    after = [emit.empty((4,), uint32)] if p else []
    if 0 in full:
        emit.fill(0, y)
        emit.fill(-math.inf, lse)
        if p:
            emit.copy(state, after[0])
    else:
        q, k, v = (_rows(emit, x, own) for x in (q, k, v))
        words = _words(full, q, k, v, None, mask, state, scale, causal, p)
        inputs = [x for x in (q, k, v, mask, state) if x is not None]
        emit.kernel(
            "attention", words, [y, lse, *after], inputs, _options("forward", words)
        )
    return [_narrow(emit, y, dtype), lse, *after]


def _lower_back(emit, dy, y, lse, q, k, v, *rest, scale, causal, p):
    shapes, dtype = [x.layout.shape for x in (q, k, v)], q.layout.dtype
    full = (*lse.layout.shape, shapes[1][2])
    own = emit.kernel_dtype("attention", dtype)
    made = [_by_length(emit, shape, own) for shape in shapes]
    if 0 in full:
        for x in made:
            emit.fill(0, x)
    else:
        mask, state = _rest(rest, p)
        state = None if state is None else emit.contiguous(state)
        dy, q, k, v = (_rows(emit, x, own) for x in (dy, q, k, v))
        words = _words(full, q, k, v, dy, mask, state, scale, causal, p)
        # The kernel reads y and lse as forward wrote them.
        y = _as_written(emit, y, _steps(y.layout.shape), own)
        lse = _as_written(emit, lse, row_major(lse.layout.shape), dtype.compute)
        inputs = [dy, y, lse, q, k, v, mask, state]
        inputs = [x for x in inputs if x is not None]
        emit.kernel("attention", words, made, inputs, _options("backward", words))
    return [_narrow(emit, x, dtype) for x in made]


# The same in other operators -------------------------------------------------------------


def _spread_heads(x: Any, heads: int) -> Any:
    """(batch, groups, n, width) with each group repeated for its heads."""
    batch, groups, n, width = x.shape
    if groups == heads:
        return x
    wide = reshape(x, (batch, groups, 1, n, width))
    wide = broadcast_to(wide, (batch, groups, heads // groups, n, width))
    return reshape(wide, (batch, heads, n, width))


def _join_heads(x: Any, groups: int) -> Any:
    """The sum over the heads of each group."""
    batch, heads, n, width = x.shape
    if groups == heads:
        return x
    return total(reshape(x, (batch, groups, heads // groups, n, width)), axis=2)


def scores(q, k, mask, scale, causal):
    s = matmul(e.multiply(q, scale), matrix_transpose(k))
    if mask is not None and mask.dtype is bool_:
        s = e.where(mask, s, -math.inf)
    elif mask is not None:
        s = e.add(s, e.astype(mask, s.dtype))
    if causal:
        i = reshape(positions(s, s.shape[2], int32), (s.shape[2], 1))
        s = e.where(e.greater_equal(i, positions(s, s.shape[3], int32)), s, -math.inf)
    return s


def softmax_of(s):
    """softmax(s) and logsumexp(s) along the last axis; 0 and -inf where it is all -inf."""
    sees_none = e.equal(maximum_of(s, axis=-1, keepdims=True), -math.inf)
    s = e.where(sees_none, 0, s)
    lse = e.where(sees_none, -math.inf, logsumexp(s, axis=-1, keepdims=True))
    return e.where(sees_none, 0, softmax(s)), reshape(lse, s.shape[:3])


def _words_of(state, shape):
    """A word for each score; rows begin at whole blocks of the stream."""
    *lead, keys = shape
    wide = -(-keys // 4) * 4
    bits, after = random_bits(state, n=math.prod(lead) * wide)
    bits = reshape(bits, (*lead, wide))
    return (
        split(bits, (keys, wide - keys), axis=-1)[0] if wide > keys else bits
    ), after


def _computed(xs):
    return [e.astype(x, x.dtype.compute) for x in xs]


def _fallback(q, k, v, *rest, scale, causal, p):
    dtype, heads = q.dtype, q.shape[1]
    mask, state = _rest(rest, p)
    if not k.shape[2]:
        return _of_no_keys(q, v, state)
    q, k, v = _computed((q, k, v))
    k, v = (_spread_heads(x, heads) for x in (k, v))
    weights, lse = softmax_of(scores(q, k, mask, scale, causal))
    if not p:
        return e.astype(matmul(weights, v), dtype), lse
    bits, after = _words_of(state, weights.shape)
    dropped = dropping.dropout(weights, bits, p=p)
    return e.astype(matmul(dropped, v), dtype), lse, after


def _of_no_keys(q, v, state):
    y = broadcast_to(q.constant(0, q.dtype), (*q.shape[:3], v.shape[3]))
    dtype = q.dtype.compute
    lse = broadcast_to(q.constant(-math.inf, dtype), q.shape[:3])
    return (y, lse) if state is None else (y, lse, e.add(state, 0))


def _slopes(dy, dlse, q, k, v, mask, state, scale, causal, p):
    """(p as it meets v, ds), for the gradient ds of the scores; k and v have all heads."""
    weights, _ = softmax_of(scores(q, k, mask, scale, causal))
    dp, met = matmul(dy, matrix_transpose(v)), weights
    if p:
        bits, _ = _words_of(state, weights.shape)
        met, dp = (dropping.dropout(x, bits, p=p) for x in (weights, dp))
    inner = total(e.multiply(weights, dp), axis=-1, keepdims=True)
    if dlse is not None:
        inner = e.subtract(inner, reshape(dlse, (*dlse.shape, 1)))
    return met, e.multiply(weights, e.subtract(dp, inner))


def _back_fallback(dy, y, lse, q, k, v, *rest, scale, causal, p, dlse=None):
    """dq, dk and dv, of all scores at once; y and lse are for the kernel."""
    heads, groups, dtype = q.shape[1], k.shape[1], q.dtype
    mask, state = _rest(rest, p)
    if not k.shape[2]:
        return tuple(e.zeros_like(x) for x in (q, k, v))
    dy, q, k, v = _computed((dy, q, k, v))
    k, v = (_spread_heads(x, heads) for x in (k, v))
    met, ds = _slopes(dy, dlse, q, k, v, mask, state, scale, causal, p)
    ds = e.multiply(ds, scale)
    dk, dv = matmul(matrix_transpose(ds), q), matmul(matrix_transpose(met), dy)
    made = (matmul(ds, k), _join_heads(dk, groups), _join_heads(dv, groups))
    return tuple(e.astype(x, dtype) for x in made)


def _mask_grad(dy, dlse, q, k, v, mask, state, scale, causal, p):
    """The gradient of a mask that is added; of the size of all scores, as the mask may be."""
    if not k.shape[2]:
        return e.zeros_like(mask)
    dy, q, k, v = _computed((dy, q, k, v))
    k, v = (_spread_heads(x, q.shape[1]) for x in (k, v))
    _, ds = _slopes(dy, dlse, q, k, v, mask, state, scale, causal, p)
    return e.fit(ds, mask)


def _grads(needed, g, ys, q, k, v, *rest, scale, causal, p):
    static = dict(scale=scale, causal=causal, p=p)
    dy, dlse = g[:2]
    dy = e.zeros_like(ys[0]) if dy is None else dy
    if not any(needed[:3]):
        made: Any = (None, None, None)
    elif dlse is None:
        made = attention_grad(dy, *ys[:2], q, k, v, *rest, **static)
    else:
        made = _back_fallback(dy, *ys[:2], q, k, v, *rest, **static, dlse=dlse)
    more: list[Any] = [None] * len(rest)
    if any(needed[3:]):
        more[0] = _mask_grad(dy, dlse, q, k, v, *_rest(rest, p), **static)
    return (*made, *more)


# The definition, and cases ---------------------------------------------------------------


def _numpy_weights(q, k, v, rest, scale, causal, p):
    """(q, k, v with all heads, p, what dropout multiplies p by, lse), float64."""
    mask, state = _rest(rest, p)
    r = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, r, axis=1), np.repeat(v, r, axis=1)
    s = scale * (q @ np.swapaxes(k, 2, 3))
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask
    if causal:
        s = np.where(np.tri(*s.shape[2:], dtype=bool), s, -np.inf)
    with np.errstate(all="ignore"):
        lse = np.logaddexp.reduce(s, axis=3, initial=-np.inf)
        weights = np.exp(s - np.where(np.isinf(lse), 0, lse)[..., None])
    keep = np.ones(s.shape)
    if p:
        words = [int(w) for w in state]
        blocks = -(-s.shape[3] // 4)
        start = words[2] | words[3] << 32
        drawn = [
            philox(start + b, (words[0], words[1])) for b in range(lse.size * blocks)
        ]
        drawn = np.reshape(drawn, (*lse.shape, 4 * blocks))[..., : s.shape[3]]
        keep = np.where(drawn >= dropping.threshold(p), 1 / (1 - p), 0.0)
    return k, v, weights, keep, lse


def _reference(q, k, v, *rest, scale, causal, p):
    _, v, weights, keep, lse = _numpy_weights(q, k, v, rest, scale, causal, p)
    y = (weights * keep) @ v
    if not p:
        return y, lse
    words = [int(w) for w in rest[-1]]
    after = (words[2] | words[3] << 32) + lse.size * -(-k.shape[2] // 4)
    return y, lse, np.array([*words[:2], after & 0xFFFFFFFF, after >> 32 & 0xFFFFFFFF])


def _back_reference(dy, y, lse, q, k, v, *rest, scale, causal, p):
    groups = k.shape[1]
    k, v, weights, keep, _ = _numpy_weights(q, k, v, rest, scale, causal, p)
    dp = (dy @ np.swapaxes(v, 2, 3)) * keep
    ds = scale * weights * (dp - (weights * dp).sum(3, keepdims=True))
    dk, dv = np.swapaxes(ds, 2, 3) @ q, np.swapaxes(weights * keep, 2, 3) @ dy

    def joined(x):
        b, h, n, width = x.shape
        return x.reshape(b, groups, h // groups, n, width).sum(2)

    return ds @ k, joined(dk), joined(dv)


# batch, heads, groups, queries, keys, width, value width, causal, shape of the mask
_SIZES = [
    (1, 1, 1, 1, 1, 1, 1, False, None),
    (2, 3, 3, 5, 7, 4, 6, False, None),
    (2, 4, 2, 17, 17, 8, 8, True, None),
    (1, 2, 1, 33, 150, 20, 3, False, (1, 1, 33, 150)),
    (1, 2, 2, 150, 70, 16, 32, True, (1, 2, 1, 70)),
    (2, 2, 2, 3, 40, 5, 17, False, (2, 1, 1, 40)),
    (2, 2, 1, 0, 3, 4, 4, False, None),
    (1, 2, 2, 4, 0, 3, 2, False, None),
    (1, 1, 1, 300, 290, 33, 130, False, None),
    (1, 1, 1, 20, 300, 140, 2, True, None),
]


def _cases(rng, back: bool = False) -> list[Case]:
    made = []
    for b, h, g, n, m, width, values, causal, mask in _SIZES:
        shapes = [(b, h, n, width), (b, g, m, width), (b, g, m, values)]
        args = [rng.uniform(-1, 1, s) for s in shapes]
        static = {"scale": width**-0.5, "causal": causal, "p": 0.0}
        if mask:
            args.append(rng.uniform(-2, 2, mask))
            args[3][
                ..., :2
            ] = -np.inf  # two keys that nobody sees, or rows without keys
        if back:
            y, lse = _reference(*args, **static)[:2]
            args = [rng.uniform(-1, 1, y.shape), y, lse, *args]
        made.append(Case(args, static, _FLOATS[: 2 if back else 4]))
    return made


_FLOATS = ("float32", "float64", "float16", "bfloat16")
_PLAIN = {"scale": 1.0, "causal": False, "p": 0.0}


def _bad(*shapes, message, error: type[Exception] = ValueError, dtype="float32") -> Bad:
    return Bad([(s, dtype) for s in shapes], _PLAIN, error, message)


attention = Op(
    "attention",
    _rule,
    grad=Joint(_grads),
    reference=_reference,
    cases=_cases,
    lower=_lower,
    fallback=_fallback,
    kernel="attention",
    bad=[
        _bad((1, 2, 3, 4), (1, 2, 5, 3), (1, 2, 5, 4), message="query .* and key"),
        _bad((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 6, 4), message="key .* and value"),
        _bad((1, 3, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4), message="3 query heads .* of 2"),
        _bad((3, 4), (5, 4), (5, 4), message=r"the query has shape \(3, 4\)"),
        _bad((1, 1, 3, 0), (1, 1, 5, 0), (1, 1, 5, 2), message="query .* width of 0"),
        _bad((1, 1, 3, 2), (1, 1, 5, 2), (1, 1, 5, 2), (1, 1, 2, 5),
             message=r"attn_mask \(1, 1, 2, 5\) does not broadcast to \(1, 1, 3, 5\)"),
        _bad((1, 1, 3, 2), (1, 1, 5, 2), (1, 1, 5, 2), message="a floating dtype",
             error=TypeError, dtype="int32"),
    ],
    ulps=64,
    doc="(softmax(scale q @ k.T + mask) @ v, the logsumexp of the scores, the state after "
    "what dropout drew).",
)  # fmt: skip

attention_grad = Op(
    "attention_grad",
    _back_rule,
    reference=_back_reference,
    cases=lambda rng: _cases(rng, back=True),
    lower=_lower_back,
    fallback=_back_fallback,
    kernel="attention",
    bad=[
        Bad(
            [((1, 1, 3, 2), "float32"), ((1, 1, 3, 2), "float32"), ((1, 1, 3), "float32"),
             *[((1, 1, 4, 2), "float32")] * 3], _PLAIN, ValueError,
            r"the gradient is \(1, 1, 3, 2\), not \(1, 1, 4, 2\)",
        ),
    ],
    ulps=256,
    doc="The gradients of q, k and v for that of the first result of `attention`, given "
    "both of its results.",
)  # fmt: skip
