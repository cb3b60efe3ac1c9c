"""Recurrent layers over whole sequences: RNN, LSTM and GRU from their gates' inputs.

The products with the weights of the input are made before, for all steps at once; here the
state goes through the steps. Each is one kernel for the whole sequence, forward and backward;
the fallback is the same in public operators, step by step, and carries the gradients of
gradients.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..arrays import row_major
from ..op import Bad, Case, Joint, Op, Spec
from . import elementwise as e
from .linear import linear, matmul
from .reduce import sum as total
from .shape import concat, matrix_transpose, reshape, split, stack, unstack

# Rows of the weights of the state, and of the bias, by the size of the state.
_GATES = {"rnn_tanh": (1, 1), "rnn_relu": (1, 1), "lstm": (4, 4), "gru": (3, 4)}


def _rule(name: str, x: Spec, h0: Spec, *rest: Spec) -> tuple[Spec, ...]:
    """y, (c of the last step,) the states, (those of c,) (what the cells keep)."""
    *c0, w, b = rest
    gates, biases = _GATES[name]
    for what, s in [("x", x), ("h0", h0), *[("c0", s) for s in c0], ("w", w), ("b", b)]:
        if s.dtype.name not in ("float32", "float64"):
            raise TypeError(f"{name}: {what} is {s.dtype.name}; use float32 or float64")
        if s.dtype is not x.dtype:
            raise TypeError(f"{name}: {what} is {s.dtype.name}, x is {x.dtype.name}")
    if len(h0.shape) != 2 or len(x.shape) != 3 or len(w.shape) != 2:
        raise ValueError(
            f"{name}: x (steps, batch, {gates} size), h0 (batch, size) and w ({gates} size, "
            f"size) are needed, got {x.shape}, {h0.shape} and {w.shape}"
        )
    steps = x.shape[0]
    batch, size = h0.shape
    wanted = [
        ("x", x, (steps, batch, gates * size)),
        *[("c0", c, (batch, size)) for c in c0],
        ("w", w, (gates * size, size)),
        ("b", b, (biases * size,)),
    ]
    for what, s, shape in wanted:
        if s.shape != shape:
            raise ValueError(
                f"{name}: {what} is {s.shape}, {shape} is needed for a state {h0.shape}"
            )
    if not steps or not size:
        raise ValueError(
            f"{name}: at least 1 step and a state of 1 are needed, got {steps} and {size}"
        )
    y, last = Spec((steps, batch, size), x.dtype), Spec(h0.shape, x.dtype)
    states = Spec((steps + 1, batch, size), x.dtype)
    if name == "lstm":
        return (y, last, states, states, Spec(x.shape, x.dtype))
    if name == "gru":
        return (y, states, Spec((steps, batch, 4 * size), x.dtype))
    return (y, states)


# The kernels -----------------------------------------------------------------------------


def _launch(emit, name: str, way: str, size: int, outputs, inputs) -> None:
    """The kernel `recurrent`; its first input may have any strides but along the state."""
    first, *rest = inputs
    if first.layout.strides[2] != 1 and first.layout.shape[2] > 1:
        first = emit.contiguous(first)
    rest = [emit.contiguous(h) for h in rest]
    x = first.layout
    words = [*x.shape[:2], size, x.offset, *x.strides[:2]]
    words += [h.layout.offset for h in rest]
    cell = name.removeprefix("rnn_")
    emit.kernel("recurrent", words, outputs, [first, *rest], (cell, way))


def _lower(name: str, emit, x, h0, *rest):
    steps, batch, size = x.layout.shape[0], *h0.layout.shape
    dtype = x.layout.dtype
    states = [emit.empty((steps + 1, batch, size), dtype)]
    if name == "lstm":
        states.append(emit.empty((steps + 1, batch, size), dtype))
    kept = []
    if name in ("lstm", "gru"):
        kept.append(emit.empty((steps, batch, 4 * size), dtype))
    _launch(emit, name, "forward", size, [*states, *kept], [x, h0, *rest])
    shape = (steps, batch, size)
    ends = [emit.view(states[0], shape, row_major(shape), batch * size)]
    if name == "lstm":
        last = row_major((batch, size))
        ends.append(emit.view(states[1], (batch, size), last, steps * batch * size))
    return (*ends, *states, *kept)


def _lower_slope(name: str, emit, g, *rest):
    """The gradients of what goes into the cells, and of the first states."""
    steps, batch, size = g.layout.shape
    dtype = g.layout.dtype
    biases = _GATES[name][1]
    made = [emit.empty((steps, batch, biases * size), dtype)]
    made += [
        emit.empty((batch, size), dtype) for _ in range(2 if name == "lstm" else 1)
    ]
    _launch(emit, name, "backward", size, made, [g, *rest])
    return tuple(made)


def _slope_rule(name: str, g: Spec, *rest: Spec) -> tuple[Spec, ...]:
    steps, batch, size = g.shape
    whole = Spec((steps, batch, _GATES[name][1] * size), g.dtype)
    return (whole, *[Spec((batch, size), g.dtype)] * (2 if name == "lstm" else 1))


def _slope_of(name: str) -> Op:
    # A part: tested through the gradient of what it is a part of.
    return Op(
        f"{name}_backward",
        functools.partial(_slope_rule, name),
        lower=functools.partial(_lower_slope, name),
        kernel="recurrent",
        listed=False,
    )


_SLOPES = {name: _slope_of(name) for name in _GATES}


def _grad(name: str, needed, g, y, x, h0, *rest):
    """All gradients: those of the weights by one product over all steps."""
    *c0, w, b = rest
    gates, size = _GATES[name][0], h0.shape[1]
    g_y = e.zeros_like(y[0]) if g[0] is None else g[0]
    if name == "lstm":
        _, last, states, c, kept = y
        g_c = e.zeros_like(last) if g[1] is None else g[1]
        made, *firsts = _SLOPES[name](g_y, g_c, kept, c, w)
    elif name == "gru":
        _, states, kept = y
        made, *firsts = _SLOPES[name](g_y, kept, states, w)
    else:
        states = y[1]
        made, *firsts = _SLOPES[name](g_y, states, w)
    rows = reshape(made, (-1, made.shape[2]))
    g_w = None
    if needed[-2]:
        before = reshape(split(states, (x.shape[0], 1))[0], (-1, size))
        parts = [rows] if name != "gru" else _without_the_third(rows, size)
        g_w = concat([matmul(matrix_transpose(p), before) for p in parts])
    g_x = made if made.shape == x.shape else split(made, gates * size, axis=2)[0]
    g_b = total(rows, axis=0) if needed[-1] else None
    return (g_x, *firsts, g_w, g_b)


def _without_the_third(rows: Any, size: int) -> list[Any]:
    """GRU: what the products with the state get, r, z and then q."""
    first, _, last = split(rows, (2 * size, size, size), axis=1)
    return [first, last]


# The same in public operators ------------------------------------------------------------


def _rnn_step(name: str):
    act = e.tanh if name == "rnn_tanh" else e.relu

    def fallback(x, h0, w, b):
        h, states = h0, [h0]
        for now in unstack(x):
            h = act(e.add(e.add(now, b), linear(h, w)))
            states.append(h)
        return stack(states[1:]), stack(states)

    return fallback


def _lstm_fallback(x, h0, c0, w, b):
    h, c, hs, cs, kept = h0, c0, [h0], [c0], []
    for now in unstack(x):
        gates = e.add(e.add(now, b), linear(h, w))
        i, f, g, o = split(gates, h0.shape[1], axis=1)
        i, f, g, o = e.sigmoid(i), e.sigmoid(f), e.tanh(g), e.sigmoid(o)
        c = e.add(e.multiply(f, c), e.multiply(i, g))
        h = e.multiply(o, e.tanh(c))
        hs.append(h)
        cs.append(c)
        kept.append(concat([i, f, g, o], axis=1))
    return stack(hs[1:]), c, stack(hs), stack(cs), stack(kept)


def _gru_fallback(x, h0, w, b):
    size = h0.shape[1]
    h, hs, kept = h0, [h0], []
    b_r, b_z, b_n, b_q = split(b, size)
    for now in unstack(x):
        x_r, x_z, x_n = split(now, size, axis=1)
        h_r, h_z, h_n = split(linear(h, w), size, axis=1)
        r = e.sigmoid(e.add(e.add(x_r, b_r), h_r))
        z = e.sigmoid(e.add(e.add(x_z, b_z), h_z))
        q = e.add(b_q, h_n)
        n = e.tanh(e.add(e.add(x_n, b_n), e.multiply(r, q)))
        h = e.add(n, e.multiply(z, e.subtract(h, n)))
        hs.append(h)
        kept.append(concat([r, z, n, q], axis=1))
    return stack(hs[1:]), stack(hs), stack(kept)


# References and cases --------------------------------------------------------------------


def _logistic(x):
    return 1 / (1 + np.exp(-x))


def _rnn_reference(act, x, h0, w, b):
    hs = [h0]
    for now in x:
        hs.append(act(now + b + hs[-1] @ w.T))
    return np.stack(hs[1:]), np.stack(hs)


def _lstm_reference(x, h0, c0, w, b):
    hs, cs, kept = [h0], [c0], []
    for now in x:
        i, f, g, o = np.split(now + b + hs[-1] @ w.T, 4, 1)
        i, f, g, o = _logistic(i), _logistic(f), np.tanh(g), _logistic(o)
        cs.append(f * cs[-1] + i * g)
        hs.append(o * np.tanh(cs[-1]))
        kept.append(np.concatenate([i, f, g, o], 1))
    return np.stack(hs[1:]), cs[-1], np.stack(hs), np.stack(cs), np.stack(kept)


def _gru_reference(x, h0, w, b):
    hs, kept = [h0], []
    size = h0.shape[1]
    for now in x:
        p = hs[-1] @ w.T
        r, z = np.split(_logistic((now + b[: 3 * size] + p)[:, : 2 * size]), 2, 1)
        q = b[3 * size :] + p[:, 2 * size :]
        n = np.tanh(now[:, 2 * size :] + b[2 * size : 3 * size] + r * q)
        hs.append((1 - z) * n + z * hs[-1])
        kept.append(np.concatenate([r, z, n, q], 1))
    return np.stack(hs[1:]), np.stack(hs), np.stack(kept)


def _cases(name: str, rng) -> list[Case]:
    gates, biases = _GATES[name]
    made = []
    # Sizes about those of the kernels' blocks: 32 or 16 of the state, 14 of the batch.
    for steps, batch, size in [
        (1, 1, 1),
        (3, 2, 5),
        (4, 17, 33),
        (2, 0, 3),
        (5, 3, 64),
    ]:
        x = rng.uniform(-2, 2, (steps, batch, gates * size))
        states = rng.uniform(-1, 1, (2 if name == "lstm" else 1, batch, size))
        w = rng.uniform(-1, 1, (gates * size, size)) / size**0.5
        b = rng.uniform(-1, 1, biases * size)
        made.append(Case([x, *states, w, b], {}, ("float32", "float64")))
    return made


def _bad(name: str) -> list[Bad]:
    gates, biases = _GATES[name]
    state = ((2, 5), "float32")
    more = [state] if name == "lstm" else []

    def of(x, w, b, kind="float32") -> list[Any]:
        return [(x, kind), state, *more, (w, "float32"), (b, "float32")]

    x, w, b = (3, 2, 5 * gates), (5 * gates, 5), (5 * biases,)
    return [
        Bad(of((3, 2, 7), w, b), {}, ValueError, f"{name}: x is .* is needed"),
        Bad(of(x, (5 * gates, 4), b), {}, ValueError, f"{name}: w is .* is needed"),
        Bad(of(x, w, (3,)), {}, ValueError, f"{name}: b is .* is needed"),
        Bad(of((0, *x[1:]), w, b), {}, ValueError, f"{name}: at least 1 step"),
        Bad(of(x[1:], w, b), {}, ValueError, f"{name}: x .steps, batch"),
        Bad(of(x, w, b, "int32"), {}, TypeError, f"{name}: x is int32; use float32"),
    ]


def _recurrent(name: str, fallback: Any, reference: Any, doc: str) -> Op:
    return Op(
        name,
        functools.partial(_rule, name),
        Joint(functools.partial(_grad, name)),
        reference,
        functools.partial(_cases, name),
        lower=functools.partial(_lower, name),
        fallback=fallback,
        kernel="recurrent",
        bad=_bad(name),
        # Sums of `size` products up to 1, which several steps carry on.
        ulps=64,
        doc=doc,
    )


_SHAPES = " x (steps, batch, {0} size), h0{1} (batch, size), w ({0} size, size), b ({2} size,)."

rnn_tanh = _recurrent(
    "rnn_tanh", _rnn_step("rnn_tanh"), functools.partial(_rnn_reference, np.tanh),
    "h[t] = tanh(x[t] + b + h[t-1] w^T); the result is (h of each step, h with h0 before)."
    + _SHAPES.format("1", "", "1"),
)  # fmt: skip
rnn_relu = _recurrent(
    "rnn_relu", _rnn_step("rnn_relu"),
    functools.partial(_rnn_reference, lambda v: np.maximum(v, 0)),
    "h[t] = max(x[t] + b + h[t-1] w^T, 0); else as rnn_tanh.",
)  # fmt: skip
lstm = _recurrent(
    "lstm", _lstm_fallback, _lstm_reference,
    "i, f, g, o = the four parts of x[t] + b + h[t-1] w^T; c = sigmoid(f) c + sigmoid(i) "
    "tanh(g), h = sigmoid(o) tanh(c). The result is (h of each step, c of the last, h with "
    "h0 before, c with c0 before, the gates). Hochreiter and Schmidhuber, Neural "
    "Computation 9 (1997); Gers et al., Neural Computation 12 (2000)."
    + _SHAPES.format("4", ", c0", "4"),
)  # fmt: skip
gru = _recurrent(
    "gru", _gru_fallback, _gru_reference,
    "r, z = sigmoid of two parts of x[t] + b + h[t-1] w^T, q = the third of b_q + h[t-1] "
    "w^T, n = tanh(x_n + b_n + r q), h = (1 - z) n + z h. The result is (h of each step, h "
    "with h0 before, what the cells keep). Cho et al., EMNLP 2014, in cuDNN's form."
    + _SHAPES.format("3", "", "4"),
)  # fmt: skip

OPERATORS: dict[str, Op] = {
    "rnn_tanh": rnn_tanh,
    "rnn_relu": rnn_relu,
    "lstm": lstm,
    "gru": gru,
}
