"""RNN, LSTM, GRU and their cells; weights and options are PyTorch's.

A layer multiplies its input by weight_ih for all steps at once, then runs one operator over
the sequence for each direction (ops/recurrent.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..casting import is_casting
from ..creation import empty, zeros
from ..dtypes import float32
from ..op import check_tensor
from ..ops import elementwise as e
from ..ops.index import take
from ..ops.linear import linear
from ..ops.recurrent import OPERATORS
from ..ops.shape import (
    concat,
    expand_dims,
    flip,
    permute_dims,
    reshape,
    split,
    squeeze,
    stack,
    unstack,
)
from . import functional as F
from . import init
from .module import Module, Parameter
from .utils.rnn import PackedSequence

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}


def _bias(kind: str, size: int, x: Any, b_ih: Any, b_hh: Any) -> Any:
    """The one bias that the operator adds: GRU's third gate keeps the two apart."""
    if b_ih is None:
        n = (4 if kind == "gru" else GATES[kind]) * size
        return zeros(n, dtype=x.dtype, device=x.device)
    if kind != "gru":
        return e.add(b_ih, b_hh)
    (a_ih, n_ih), (a_hh, n_hh) = (split(b, (2 * size, size)) for b in (b_ih, b_hh))
    return concat([e.add(a_ih, a_hh), n_ih, n_hh])


def _sequence(kind: str, x: Any, states: Sequence[Any], w: Any, b: Any):
    """(outputs, last states) of what the gates get, x (steps, batch, gates size)."""
    if x.dtype.itemsize < 4:  # half precision runs in float32
        wide = [e.astype(v, float32) for v in (x, *states, w, b)]
        y, last = _sequence(kind, wide[0], wide[1:-2], *wide[-2:])
        return e.astype(y, x.dtype), [e.astype(s, x.dtype) for s in last]
    made = OPERATORS[kind](x, *states, w, b)
    y = made[0]
    return y, [y[-1], made[1]] if kind == "lstm" else [y[-1]]


def _projected(x: Any, states: Sequence[Any], w: Any, b: Any, w_hr: Any):
    """The same for an LSTM whose output is projected, step by step; Sak et al., 2014."""
    h, c = states
    outputs = []
    for now in unstack(x):
        gates = e.add(e.add(now, b), linear(h, w))
        i, f, g, o = split(gates, c.shape[1], axis=1)
        c = e.add(e.multiply(e.sigmoid(f), c), e.multiply(e.sigmoid(i), e.tanh(g)))
        h = linear(e.multiply(e.sigmoid(o), e.tanh(c)), w_hr)
        outputs.append(h)
    return stack(outputs), [h, c]


class _Parameters(Module):
    """What layers and cells share: weights for some gates, drawn from +-1 / sqrt(size)."""

    hidden_size: int

    def _make(self, names: dict[str, tuple[int, ...]], device: Any, dtype: Any) -> None:
        for name, shape in names.items():
            made = empty(shape, dtype=dtype or "float32", device=device)
            setattr(self, name, Parameter(made))

    def reset_parameters(self) -> None:
        """Draw all weights and biases again."""
        bound = 1 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)


def _check_sizes(name: str, **sizes: Any) -> None:
    for what, n in sizes.items():
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"{name}: {what} is at least 1, not {n!r}")


class _Recurrent(_Parameters):
    """The base of RNN, LSTM and GRU."""

    kind: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        device: Any,
        dtype: Any,
    ):
        name = type(self).__name__
        _check_sizes(
            name, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers
        )
        F.check_probability(name, dropout)
        if not 0 <= proj_size < hidden_size:
            raise ValueError(
                f"{name}: proj_size is less than hidden_size {hidden_size}, and 0 for no "
                f"projection, not {proj_size}"
            )
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers, self.bias = num_layers, bias
        self.batch_first, self.dropout = batch_first, dropout
        self.bidirectional, self.proj_size = bidirectional, proj_size
        self._make(self._shapes(), device, dtype)
        self.reset_parameters()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each weight, by the name that PyTorch has for it."""
        rows, out = GATES[self.kind] * self.hidden_size, self._output_size()
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.num_layers):
            width = self.input_size if layer == 0 else out * self._directions()
            for end in self._ends(layer):
                shapes[f"weight_ih_{end}"] = (rows, width)
                shapes[f"weight_hh_{end}"] = (rows, out)
                if self.bias:
                    shapes[f"bias_ih_{end}"] = shapes[f"bias_hh_{end}"] = (rows,)
                if self.proj_size:
                    shapes[f"weight_hr_{end}"] = (out, self.hidden_size)
        return shapes

    def _output_size(self) -> int:
        return self.proj_size or self.hidden_size

    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _ends(self, layer: int) -> list[str]:
        """How the names of a layer's weights end, for each direction."""
        return [f"l{layer}{way}" for way in ("", "_reverse")[: self._directions()]]

    # Forward ------------------------------------------------------------------------------

    def forward(self, input: Any, hx: Any = None) -> Any:
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        name = type(self).__name__
        check_tensor(name, input)
        if input.ndim not in (2, 3):
            raise ValueError(
                f"{name}: the input is (steps, batch, {self.input_size}), or (steps, "
                f"{self.input_size}) without a batch, not {input.shape}"
            )
        is_alone = input.ndim == 2
        swap = self.batch_first and not is_alone
        x = expand_dims(input, axis=1) if is_alone else input
        x = permute_dims(x, (1, 0, 2)) if swap else x
        self._check_input(x, input.shape)
        states = self._initial(hx, x.shape[1], x, is_alone)
        y, last = self._layers(x, states, None)
        y = permute_dims(y, (1, 0, 2)) if swap else y
        if is_alone:
            y, last = squeeze(y, axis=1), [squeeze(s, axis=1) for s in last]
        return y, self._given(last)

    def _given(self, states: Sequence[Any]) -> Any:
        return tuple(states) if self.kind == "lstm" else states[0]

    def _check_input(self, x: Any, shape: Any) -> None:
        name, weight = type(self).__name__, self.weight_ih_l0
        if x.shape[-1] != self.input_size:
            raise ValueError(
                f"{name}: the input {shape} has {x.shape[-1]} features, the layer expects "
                f"{self.input_size}"
            )
        if not x.shape[0]:
            raise ValueError(f"{name}: the input {shape} has no steps")
        if x.dtype is not weight.dtype and not is_casting(x):
            raise TypeError(
                f"{name}: the input is {x.dtype.name}, the weights are "
                f"{weight.dtype.name}; cast one"
            )

    weight_ih_l0: Any

    def _initial(self, hx: Any, batch: int, x: Any, is_alone: bool = False):
        """The first states (layers * directions, batch, size), zeros where none are given."""
        name, count = type(self).__name__, self.num_layers * self._directions()
        sizes = [self._output_size()]
        sizes += [self.hidden_size] if self.kind == "lstm" else []
        if hx is None:
            shapes = [(count, batch, n) for n in sizes]
            return [zeros(s, dtype=x.dtype, device=x.device) for s in shapes]
        given = list(hx) if isinstance(hx, tuple | list) else [hx]
        if len(given) != len(sizes):
            wanted = "(h_0, c_0)" if self.kind == "lstm" else "h_0"
            raise ValueError(f"{name}: the state is {wanted}, got {len(given)} tensors")
        states = []
        for what, s, n in zip(("h_0", "c_0"), given, sizes):
            wanted = (count, n) if is_alone else (count, batch, n)
            if tuple(s.shape) != wanted:
                raise ValueError(f"{name}: {what} is {s.shape}, {wanted} is needed")
            states.append(expand_dims(s, axis=1) if is_alone else s)
        return states

    def _packed(self, x: PackedSequence, hx: Any) -> Any:
        """The same over packed sequences; states are in the order of the sequences."""
        data, sizes, order, back = x
        if data.ndim != 2:
            raise ValueError(
                f"{type(self).__name__}: packed data is (elements, {self.input_size}), "
                f"not {data.shape}"
            )
        self._check_input(data, data.shape)
        states = self._initial(hx, sizes[0], data)
        if order is not None and hx is not None:
            states = [take(s, list(order), axis=1) for s in states]
        y, last = self._layers(data, states, sizes)
        if back is not None:
            last = [take(s, list(back), axis=1) for s in last]
        return PackedSequence(y, sizes, order, back), self._given(last)

    def _layers(self, x: Any, states: Sequence[Any], sizes: Any):
        """Layer on layer; last states by layer, then by direction."""
        firsts = list(zip(*[unstack(s) for s in states], strict=True))
        lasts: list[Any] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for end in self._ends(layer):
                first = firsts[len(lasts)]
                y, last = self._direction(x, first, end, sizes)
                outputs.append(y)
                lasts.append(last)
            x = outputs[0] if len(outputs) == 1 else concat(outputs, axis=-1)
        return x, [stack(s) for s in zip(*lasts, strict=True)]

    def _direction(self, x: Any, states: Sequence[Any], end: str, sizes: Any):
        """One layer in one direction."""
        gates = F.linear(x, getattr(self, f"weight_ih_{end}"), name=type(self).__name__)
        biases = [
            getattr(self, f"bias_{w}_{end}") if self.bias else None for w in _WAYS
        ]
        b = _bias(self.kind, self.hidden_size, x, *biases)
        w, reverse = getattr(self, f"weight_hh_{end}"), end.endswith("_reverse")

        def run(part: Any, states: Sequence[Any]):
            part = flip(part, axis=0) if reverse else part
            if self.proj_size:
                w_hr = getattr(self, f"weight_hr_{end}")
                y, last = _projected(part, states, w, b, w_hr)
            else:
                y, last = _sequence(self.kind, part, states, w, b)
            return (flip(y, axis=0) if reverse else y), last

        if sizes is None:
            return run(gates, states)
        return _in_parts(run, gates, states, sizes, reverse)

    def extra_repr(self) -> str:
        shown = [str(self.input_size), str(self.hidden_size)]
        for name, usual in (
            ("num_layers", 1), ("bias", True), ("batch_first", False), ("dropout", 0.0),
            ("bidirectional", False), ("proj_size", 0),
        ):  # fmt: skip
            if getattr(self, name) != usual:
                shown.append(f"{name}={getattr(self, name)}")
        return ", ".join(shown)


_WAYS = ("ih", "hh")


def _in_parts(run, x: Any, states: Sequence[Any], sizes: Sequence[int], reverse: bool):
    """Packed sequences as a few runs, each of steps that have the same sequences.

    Forward, the shortest sequences leave after a run; in reverse they join before one.
    """
    parts: list[tuple[int, int]] = []  # steps, sequences
    for n in sizes:
        if parts and parts[-1][1] == n:
            parts[-1] = (parts[-1][0] + 1, n)
        else:
            parts.append((1, n))
    pieces = split(x, [steps * n for steps, n in parts])
    places = list(range(len(parts)))
    outputs: list[Any] = [None] * len(parts)
    gone: list[Sequence[Any]] = []
    now = [s[: parts[-1 if reverse else 0][1]] for s in states]
    for k in reversed(places) if reverse else places:
        steps, n = parts[k]
        have = now[0].shape[0]
        if have > n:
            gone.append([s[n:] for s in now])
            now = [s[:n] for s in now]
        elif have < n:
            now = [concat([a, s[have:n]]) for a, s in zip(now, states, strict=True)]
        y, now = run(reshape(pieces[k], (steps, n, x.shape[1])), now)
        outputs[k] = reshape(y, (steps * n, y.shape[2]))
    gone.append(now)
    last = [concat(list(reversed(s))) for s in zip(*gone, strict=True)]
    return concat(outputs), last


class RNN(_Recurrent):
    """h[t] = tanh(W_ih x[t] + b_ih + W_hh h[t-1] + b_hh), Elman's recurrent layer.

    input: (steps, batch, input_size), with batch_first (batch, steps, input_size), without a
    batch (steps, input_size), or a PackedSequence. hx: the first state, (num_layers *
    directions, batch, hidden_size), else zeros. The result is (the last layer's h of each
    step, the last h of each layer). nonlinearity: "tanh" or "relu". With several layers each
    takes the outputs of the one below, after `dropout` in training; bidirectional layers
    give both directions side by side. Weights start uniform in +-1 / sqrt(hidden_size).
    Elman, Cognitive Science 14 (1990).

    >>> y, h = nn.RNN(3, 5, num_layers=2)(pn.ones((4, 2, 3)))
    >>> y.shape, h.shape
    ((4, 2, 5), (2, 2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        self.nonlinearity = _activation("RNN", nonlinearity)
        self.kind = f"rnn_{nonlinearity}"
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip


class LSTM(_Recurrent):
    """i, f, g, o = W_ih x[t] + b_ih + W_hh h[t-1] + b_hh; c[t] = sigmoid(f) c[t-1] +
    sigmoid(i) tanh(g); h[t] = sigmoid(o) tanh(c[t]).

    As RNN, but the state is (h, c), both given and returned. With proj_size > 0 the output
    is h projected to that size by a matrix without bias. Hochreiter and Schmidhuber, Neural
    Computation 9 (1997).

    >>> y, (h, c) = nn.LSTM(3, 5, bidirectional=True)(pn.ones((4, 2, 3)))
    >>> y.shape, h.shape, c.shape
    ((4, 2, 10), (2, 2, 5), (2, 2, 5))
    """

    kind = "lstm"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, proj_size, device, dtype,
        )  # fmt: skip


class GRU(_Recurrent):
    """r, z = sigmoid(W_ih x[t] + b_ih + W_hh h[t-1] + b_hh); n = tanh(W_in x[t] + b_in + r
    (W_hn h[t-1] + b_hn)); h[t] = (1 - z) n + z h[t-1].

    As RNN otherwise. Cho et al., EMNLP 2014.

    >>> y, h = nn.GRU(3, 5, batch_first=True)(pn.ones((2, 4, 3)))
    >>> y.shape, h.shape
    ((2, 4, 5), (1, 2, 5))
    """

    kind = "gru"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip


def _activation(name: str, nonlinearity: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(
            f"{name}: nonlinearity is 'tanh' or 'relu', not {nonlinearity!r}"
        )
    return nonlinearity


# Cells -----------------------------------------------------------------------------------


class _Cell(_Parameters):
    """The base of the cells: one step."""

    kind: str
    weight_ih: Any
    weight_hh: Any
    bias_ih: Any
    bias_hh: Any

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, device: Any, dtype: Any
    ):
        _check_sizes(
            type(self).__name__, input_size=input_size, hidden_size=hidden_size
        )
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = GATES[self.kind] * hidden_size
        shapes = {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size)}
        if bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        self._make(shapes, device, dtype)
        self.reset_parameters()

    def forward(self, input: Any, hx: Any = None) -> Any:
        name, size = type(self).__name__, self.hidden_size
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(
                f"{name}: the input is (batch, {self.input_size}) or ({self.input_size},), "
                f"not {input.shape}"
            )
        wanted = (*input.shape[:-1], size)
        count = 2 if self.kind == "lstm" else 1
        if hx is None:
            given = [zeros(wanted, dtype=input.dtype, device=input.device)] * count
        else:
            given = list(hx) if isinstance(hx, tuple | list) else [hx]
        if len(given) != count or any(tuple(s.shape) != wanted for s in given):
            found = ", ".join(str(tuple(s.shape)) for s in given)
            raise ValueError(
                f"{name}: {count} of shape {wanted} are needed as the state, got {found}"
            )
        rows = reshape(input, (-1, self.input_size))
        states = [reshape(s, (-1, size)) for s in given]
        x = F.linear(rows, self.weight_ih, name=name)
        biases = (self.bias_ih, self.bias_hh) if self.bias else (None, None)
        b = _bias(self.kind, size, x, *biases)
        _, last = _sequence(
            self.kind, expand_dims(x, axis=0), states, self.weight_hh, b
        )
        last = [reshape(s, wanted) for s in last]
        return tuple(last) if self.kind == "lstm" else last[0]

    def extra_repr(self) -> str:
        tail = "" if self.bias else ", bias=False"
        return f"{self.input_size}, {self.hidden_size}{tail}"


class RNNCell(_Cell):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), one step of RNN.

    input: (batch, input_size) or (input_size,); hx: h, (batch, hidden_size) or
    (hidden_size,), else zeros. nonlinearity: "tanh" or "relu".

    >>> nn.RNNCell(3, 5)(pn.ones((2, 3))).shape
    (2, 5)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ):
        self.nonlinearity = _activation("RNNCell", nonlinearity)
        self.kind = f"rnn_{nonlinearity}"
        super().__init__(input_size, hidden_size, bias, device, dtype)


class LSTMCell(_Cell):
    """One step of LSTM: input and (h, c) give (h', c').

    >>> h, c = nn.LSTMCell(3, 5)(pn.ones((2, 3)))
    >>> h.shape, c.shape
    ((2, 5), (2, 5))
    """

    kind = "lstm"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(input_size, hidden_size, bias, device, dtype)


class GRUCell(_Cell):
    """One step of GRU: input and h give h'.

    >>> nn.GRUCell(3, 5)(pn.ones((2, 3))).shape
    (2, 5)
    """

    kind = "gru"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(input_size, hidden_size, bias, device, dtype)
