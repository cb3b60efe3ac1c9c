"""RNN, LSTM, GRU and their cells; padded and packed sequences; against float64 NumPy.

Outputs, gradients, states and state names were compared with torch 2.13.0 in float32 once,
over layers, directions, bias, batch_first, proj_size, given states, packed and unbatched
input: they differ by less than 1e-6 relative to 1 + |value|.
"""

import numpy as np
import pytest

import portanet as pn
from portanet import backend_cpu, nn
from portanet.nn.utils import rnn
from portanet.autograd import gradients
from portanet.ops.recurrent import OPERATORS
from portanet.testing import assert_close, check_grads

RNG = np.random.default_rng(0)
E, H = 4, 5
KINDS = {
    "tanh": lambda *a, **k: nn.RNN(*a, **k),
    "relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}
CELLS = {
    "tanh": nn.RNNCell,
    "relu": lambda *a, **k: nn.RNNCell(*a, nonlinearity="relu", **k),
    "lstm": nn.LSTMCell,
    "gru": nn.GRUCell,
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_operator = pytest.mark.parametrize("name", OPERATORS)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


# The reference ---------------------------------------------------------------------------


def logistic(x):
    return 1 / (1 + np.exp(-x))


def cell(kind, w, x, h, c):
    """(h, c) after one step; w: the arrays of one direction, without their endings."""
    a = x @ w["weight_ih"].T + w.get("bias_ih", 0)
    b = h @ w["weight_hh"].T + w.get("bias_hh", 0)
    if kind in ("tanh", "relu"):
        return (np.tanh(a + b) if kind == "tanh" else np.maximum(a + b, 0)), None
    if kind == "gru":
        (a_r, a_z, a_n), (b_r, b_z, b_n) = (np.split(v, 3, -1) for v in (a, b))
        r, z = logistic(a_r + b_r), logistic(a_z + b_z)
        return (1 - z) * np.tanh(a_n + r * b_n) + z * h, None
    i, f, g, o = np.split(a + b, 4, -1)
    c = logistic(f) * c + logistic(i) * np.tanh(g)
    h = logistic(o) * np.tanh(c)
    return (h @ w["weight_hr"].T if "weight_hr" in w else h), c


def reference(kind, layer, x, h0=None, c0=None):
    """Outputs and last states of one sequence x (steps, features), in float64."""
    weights = {k: v.numpy().astype(np.float64) for k, v in layer.state_dict().items()}
    ways = ("", "_reverse")[: 2 if layer.bidirectional else 1]
    hs, cs = [], []
    for k in range(layer.num_layers):
        outputs = []
        for way in ways:
            end = f"_l{k}{way}"
            w = {n[: -len(end)]: v for n, v in weights.items() if n.endswith(end)}
            h = np.zeros(w["weight_hh"].shape[1]) if h0 is None else h0[len(hs)]
            c = np.zeros(layer.hidden_size) if c0 is None else c0[len(cs)]
            made = []
            for now in x[::-1] if way else x:
                h, c = cell(kind, w, now, h, c)
                made.append(h)
            outputs.append(made[::-1] if way else made)
            hs.append(h)
            cs.append(c)
        x = np.concatenate([np.stack(o) for o in outputs], -1)
    return x, np.stack(hs), np.stack(cs) if kind == "lstm" else None


def states_of(kind, last):
    """(h, c) of what a layer gives as its last state."""
    return last if kind == "lstm" else (last, None)


OPTIONS = [
    {},
    {"bias": False},
    {"num_layers": 2, "bidirectional": True},
    {"batch_first": True, "num_layers": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@every_kind
def test_a_layer_is_its_cells_step_after_step(kind, options, device):
    layer = KINDS[kind](E, H, **options).to(device)
    x = normal(6, 3, E)
    first = options.get("batch_first", False)
    given = pn.tensor(x.swapaxes(0, 1) if first else x, device=device)
    y, last = layer(given)
    h, c = states_of(kind, last)
    y = y.numpy().swapaxes(0, 1) if first else y.numpy()
    for b in range(3):
        want_y, want_h, want_c = reference(kind, layer, x[:, b])
        np.testing.assert_allclose(y[:, b], want_y, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(h.numpy()[:, b], want_h, rtol=1e-5, atol=1e-6)
        if c is not None:
            np.testing.assert_allclose(c.numpy()[:, b], want_c, rtol=1e-5, atol=1e-6)


@every_kind
def test_a_layer_begins_with_the_state_that_it_is_given(kind, device):
    layer = KINDS[kind](E, H, num_layers=2).to(device)
    x, h0, c0 = normal(4, E), normal(2, H), normal(2, H)
    states = [pn.tensor(s, device=device) for s in (h0, c0)]
    y, last = layer(
        pn.tensor(x, device=device), tuple(states) if kind == "lstm" else states[0]
    )
    want_y, want_h, _ = reference(kind, layer, x, h0, c0)
    np.testing.assert_allclose(y.numpy(), want_y, rtol=1e-5, atol=1e-6)
    h = states_of(kind, last)[0]
    assert h.shape == (2, H)  # no batch in, none out
    np.testing.assert_allclose(h.numpy(), want_h, rtol=1e-5, atol=1e-6)


@every_kind
def test_a_layer_goes_on_where_it_stopped(kind, device):
    layer = KINDS[kind](E, H, num_layers=2).to(device)
    x = pn.tensor(normal(5, 2, E), device=device)
    whole, last = layer(x)
    first, middle = layer(x[:2])
    second, end = layer(x[2:], middle)
    assert_close(pn.concat([first, second]), whole.numpy(), rtol=1e-5, atol=1e-6)
    for a, b in zip(states_of(kind, end), states_of(kind, last), strict=True):
        assert a is None or np.allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


def test_a_projected_lstm_gives_the_smaller_state(device):
    layer = nn.LSTM(E, H, num_layers=2, proj_size=3, bidirectional=True).to(device)
    x = normal(4, E)
    y, (h, c) = layer(pn.tensor(x, device=device))
    assert (y.shape, h.shape, c.shape) == ((4, 6), (4, 3), (4, H))
    want_y, want_h, want_c = reference("lstm", layer, x)
    for got, want in ((y, want_y), (h, want_h), (c, want_c)):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


@every_kind
def test_a_cell_is_one_step_of_the_layer(kind, device):
    layer, one = KINDS[kind](E, H).to(device), CELLS[kind](E, H).to(device)
    one.load_state_dict(
        {k.removesuffix("_l0"): v for k, v in layer.state_dict().items()}
    )
    x = pn.tensor(normal(3, 2, E), device=device)
    y, _ = layer(x)
    state = None
    for t in range(3):
        state = one(x[t], state)
        h = state[0] if kind == "lstm" else state
        assert_close(h, y[t].numpy(), rtol=1e-5, atol=1e-6)
    alone = one(x[0, 1])
    alone = alone[0] if kind == "lstm" else alone
    assert_close(alone, y[0, 1].numpy(), rtol=1e-5, atol=1e-6)


# The operators ---------------------------------------------------------------------------


def case_of(name, i, dtype="float64", device="cpu"):
    args = OPERATORS[name].cases(np.random.default_rng(3))[i].args
    return [pn.tensor(a, dtype, device, requires_grad=True) for a in args]


def scalar_of(f, xs, results):
    """One number that depends on the results of an operator that are its own."""
    total = 0.0
    for k, y in enumerate(f(*xs)[:results]):
        v = np.random.default_rng(k).normal(size=y.shape)
        total = total + (y * pn.tensor(v, y.dtype, y.device)).sum()
    return total


@pytest.mark.parametrize("i", range(5))
@every_operator
def test_the_kernels_gradient_is_the_fallbacks(name, i, device):
    op, results = OPERATORS[name], 2 if name == "lstm" else 1
    kind, bound = ("float64", 1e-12) if device == "cpu" else ("float32", 1e-5)
    xs = case_of(name, i, kind, device)
    for f_results in {results, 1}:
        got, want = (
            gradients(scalar_of(f, xs, f_results), xs) for f in (op, op.fallback)
        )
        for a, b in zip(got, want, strict=True):
            assert_close(a, b.numpy(), rtol=bound, atol=bound)


@every_operator
def test_gradients_of_gradients_go_through_the_fallback(name):
    op, results = OPERATORS[name], 2 if name == "lstm" else 1
    for i in (0, 1):
        xs = case_of(name, i)
        check_grads(lambda *a: scalar_of(op, a, results), *xs, order=2, rtol=1e-5)


@every_operator
def test_no_result_depends_on_the_number_of_threads(name):
    args = [a.astype(np.float32) for a in OPERATORS[name].cases(RNG)[2].args]
    before, found = backend_cpu.num_threads(), []
    try:
        for threads in (1, 2, 5):
            backend_cpu.set_num_threads(threads)
            xs = [pn.tensor(a, device="cpu", requires_grad=True) for a in args]
            ys = OPERATORS[name](*xs)
            found.append([*ys, *gradients(ys[0].sum(), xs)])
    finally:
        backend_cpu.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_gates_far_out_are_finite_and_nan_stays_nan(device):
    for name, op in OPERATORS.items():
        xs = [np.array(a, np.float32) for a in op.cases(RNG)[1].args]
        xs[0][:, 0] = np.where(RNG.random(xs[0][:, 0].shape) < 0.5, -1e4, 1e4)
        xs[0][:, 1] = np.nan
        y = op(*[pn.tensor(a, device=device) for a in xs])[0].numpy()
        assert np.isfinite(y[:, 0]).all() and np.isnan(y[:, 1]).all(), name


# Sequences of different lengths ----------------------------------------------------------


LENGTHS = [
    ([5, 3, 3, 1], True),
    ([2, 5, 1, 5], False),
    ([4, 4, 4, 4], True),
    ([1], True),
]


@pytest.mark.parametrize("lengths, in_order", LENGTHS, ids=str)
@every_kind
def test_a_packed_batch_is_each_sequence_alone(kind, lengths, in_order, device):
    layer = KINDS[kind](E, H, num_layers=2, bidirectional=True).to(device)
    batch = len(lengths)
    x, h0, c0 = normal(5, batch, E), normal(4, batch, H), normal(4, batch, H)
    given = pn.tensor(x, device=device, requires_grad=True)
    packed = rnn.pack_padded_sequence(given, lengths, enforce_sorted=in_order)
    h, c = (pn.tensor(s, device=device) for s in (h0, c0))
    y, last = layer(packed, (h, c) if kind == "lstm" else h)
    padded, counts = rnn.pad_packed_sequence(y)
    assert counts.tolist() == lengths and padded.shape == (max(lengths), batch, 2 * H)
    last_h, last_c = states_of(kind, last)
    for b, n in enumerate(lengths):
        want = reference(kind, layer, x[:n, b], h0[:, b], c0[:, b])
        np.testing.assert_allclose(padded.numpy()[:n, b], want[0], rtol=1e-5, atol=1e-6)
        assert not padded.numpy()[n:, b].any()
        np.testing.assert_allclose(last_h.numpy()[:, b], want[1], rtol=1e-5, atol=1e-6)
        if kind == "lstm":
            np.testing.assert_allclose(
                last_c.numpy()[:, b], want[2], rtol=1e-5, atol=1e-6
            )
    padded.sum().backward()
    used = np.abs(given.grad.numpy()).sum(-1) > 0
    live = np.arange(5)[:, None] < lengths
    assert not used[~live].any()
    assert kind == "relu" or used[live].all()  # a relu may pass nothing on


def test_packing_puts_step_after_step():
    x = pn.tensor([[1, 2, 0], [3, 0, 0], [4, 5, 6]])
    packed = rnn.pack_padded_sequence(x, [2, 1, 3], True, enforce_sorted=False)
    assert packed.data.tolist() == [4, 1, 3, 5, 2, 6]
    assert packed.batch_sizes == (3, 2, 1) and packed.lengths == (2, 1, 3)
    assert packed.sorted_indices == (2, 0, 1) and packed.unsorted_indices == (1, 2, 0)
    back, counts = rnn.pad_packed_sequence(packed, True, total_length=4)
    assert back.tolist() == [[1, 2, 0, 0], [3, 0, 0, 0], [4, 5, 6, 0]]
    assert counts.tolist() == [2, 1, 3] and counts.dtype == "int64"
    filled, _ = rnn.pad_packed_sequence(packed, padding_value=-1)
    assert filled.T.tolist() == [[1, 2, -1], [3, -1, -1], [4, 5, 6]]


def test_sequences_are_padded_packed_and_come_back():
    xs = [pn.tensor(normal(n, 2)) for n in (2, 4, 1)]
    packed = rnn.pack_sequence(xs, enforce_sorted=False)
    for a, b in zip(rnn.unpack_sequence(packed), xs, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    left = rnn.pad_sequence(xs, padding_side="left", padding_value=7.0)
    assert left.shape == (4, 3, 2) and (left[:3, 2].numpy() == 7).all()
    for a, b in zip(
        rnn.unpad_sequence(rnn.pad_sequence(xs), [2, 4, 1]), xs, strict=True
    ):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


BAD_PACKS = [
    (lambda x: rnn.pack_padded_sequence(x, [3, 1]), "2 lengths for a batch of 3"),
    (lambda x: rnn.pack_padded_sequence(x, [1, 3, 2]), "not from the longest"),
    (lambda x: rnn.pack_padded_sequence(x, [5, 3, 2]), "sequence 0 has length 5, the "),
    (
        lambda x: rnn.pack_padded_sequence(x, [3, 1, 0]),
        "at least 1 element; sequence 2",
    ),
    (lambda x: rnn.pack_padded_sequence(x, [3.0, 2.0, 1.0]), "a list of integers"),
    (lambda x: rnn.pack_padded_sequence(x[0, 0], [2]), "at least 2 axes"),
    (lambda x: rnn.pad_sequence([]), "at least one sequence"),
    (lambda x: rnn.pad_sequence([x, x[0]]), "differ along the first axis only"),
    (lambda x: rnn.pad_sequence([x], padding_side="up"), "'left' or 'right'"),
    (lambda x: rnn.unpad_sequence(x, [1, 2]), "don't fit 3 sequences of 4"),
    (
        lambda x: rnn.pad_packed_sequence(
            rnn.pack_padded_sequence(x, [4, 2, 1]), total_length=3
        ),
        "total_length 3 is less than the longest sequence, 4",
    ),
]


@pytest.mark.parametrize("call, message", BAD_PACKS)
def test_bad_sequences_are_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call(pn.zeros((4, 3, E)))


# Layers ----------------------------------------------------------------------------------


BAD_CALLS = [
    (lambda: nn.LSTM(E, H)(pn.zeros((3, 2, 7))), "has 7 features, the layer expects 4"),
    (lambda: nn.LSTM(E, H)(pn.zeros(E)), r"the input is \(steps, batch, 4\)"),
    (lambda: nn.GRU(E, H)(pn.zeros((0, 2, E))), "has no steps"),
    (lambda: nn.GRU(E, H)(pn.zeros((3, 2, E)), pn.zeros((2, 2, H))), "h_0 is .2, 2, 5"),
    (
        lambda: nn.LSTM(E, H)(
            pn.zeros((3, E)), (pn.zeros((1, H)), pn.zeros((1, 1, H)))
        ),
        r"c_0 is \(1, 1, 5\), \(1, 5\) is needed",
    ),
    (
        lambda: nn.LSTM(E, H)(pn.zeros((3, E)), pn.zeros((1, H))),
        r"is \(h_0, c_0\), got 1",
    ),
    (lambda: nn.LSTM(0, H), "input_size is at least 1, not 0"),
    (lambda: nn.GRU(E, H, num_layers=0), "num_layers is at least 1"),
    (lambda: nn.RNN(E, H, nonlinearity="sin"), "'tanh' or 'relu', not 'sin'"),
    (lambda: nn.RNN(E, H, dropout=2), "probability"),
    (lambda: nn.LSTM(E, H, proj_size=H), "proj_size is less than hidden_size 5"),
    (lambda: nn.GRUCell(E, H)(pn.zeros((2, 3))), r"the input is \(batch, 4\)"),
    (lambda: nn.LSTMCell(E, H)(pn.zeros((2, E)), pn.zeros((2, H))), "2 of shape .2, 5"),
]


@pytest.mark.parametrize("call, message", BAD_CALLS)
def test_bad_calls_are_refused_with_the_sizes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_another_dtype_than_the_weights_is_refused():
    with pytest.raises(
        TypeError, match="the input is float64, the weights are float32"
    ):
        nn.GRU(E, H)(pn.zeros((2, E), dtype="float64", device="cpu"))


def test_weights_have_pytorchs_names_in_its_order():
    layer = nn.LSTM(E, H, num_layers=2, bidirectional=True, proj_size=2)
    names = [
        f"{what}_l{k}{way}"
        for k in (0, 1)
        for way in ("", "_reverse")
        for what in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    ]
    assert list(layer.state_dict()) == names
    assert layer.weight_ih_l1_reverse.shape == (4 * H, 4)
    assert list(nn.GRUCell(E, H, bias=False).state_dict()) == ["weight_ih", "weight_hh"]
    assert all((p.abs() <= H**-0.5).all().item() for p in layer.parameters())


def test_dropout_is_between_layers_and_in_training_only():
    layer = nn.GRU(E, H, num_layers=2, dropout=0.5)
    x = pn.tensor(normal(3, 2, E))
    a, b = layer(x)[0].numpy(), layer(x)[0].numpy()
    assert not np.array_equal(a, b)
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0].numpy(), layer(x)[0].numpy())
    single = nn.GRU(E, H, dropout=0.5)
    np.testing.assert_array_equal(single(x)[0].numpy(), single(x)[0].numpy())


def test_half_precision_runs_in_float32_inside():
    layer = nn.LSTM(E, H, dtype="float16", device="cpu")
    wide = nn.LSTM(E, H)
    wide.load_state_dict(layer.state_dict())
    x = pn.tensor(normal(4, 2, E))
    y, (h, c) = layer(x.astype("float16"))
    assert {v.dtype.name for v in (y, h, c)} == {"float16"}
    # The gates' inputs and the results are rounded to 11 bits.
    np.testing.assert_allclose(y.numpy(), wide(x)[0].numpy(), atol=4e-3)


def packed_loss(layer, x):
    packed = rnn.pack_padded_sequence(x, [4, 2, 2], enforce_sorted=False)
    return (layer(packed)[0].data ** 2).sum()


LOSSES = {
    "plain": lambda layer, x: (layer(x)[0] ** 2).sum(),
    "state": lambda layer, x: (pn.stack(list(_pair(layer(x)[1]))) ** 2).sum(),
    "packed": packed_loss,
}


def _pair(last):
    return last if isinstance(last, tuple) else (last, last)


@pytest.mark.parametrize("loss", LOSSES)
@every_kind
def test_a_compiled_step_is_the_eager_one(kind, loss, device):
    ends = []
    for wrap in (lambda f: f, pn.compile):
        pn.manual_seed(0)
        layer = KINDS[kind](E, H, num_layers=2, bidirectional=True).to(device)
        optimizer = pn.optim.SGD(layer.parameters(), lr=0.05)

        def step(x, layer=layer, optimizer=optimizer):
            optimizer.zero_grad()
            made = LOSSES[loss](layer, x)
            made.backward()
            optimizer.step()
            return made.detach()

        step = wrap(step)
        xs = np.random.default_rng(1).normal(size=(3, 4, 3, E)).astype(np.float32)
        losses = [step(pn.tensor(x, device=device)).item() for x in xs]
        ends.append((losses, [p.numpy() for p in layer.parameters()]))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-5)
    for a, b in zip(ends[0][1], ends[1][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 31, 32, 65])
@every_kind
def test_sizes_about_the_kernels_blocks(kind, size, device):
    layer = KINDS[kind](3, size).to(device)
    x = normal(2, 15, 3)
    y = layer(pn.tensor(x, device=device))[0].numpy()
    want = np.stack([reference(kind, layer, x[:, b])[0] for b in range(15)], 1)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)


@every_kind
@pytest.mark.parametrize("wants_state", [False, True])
def test_a_compiled_gradient_of_the_first_state_is_made_where_it_is_read(
    device, kind, wants_state
):
    layer = KINDS[kind](6, 40, device=device)
    x = pn.randn(5, 3, 6, device=device)
    first = pn.randn(1, 3, 40, device=device, requires_grad=wants_state)
    read = [*layer.parameters(), *([first] if wants_state else [])]

    def step(x):
        for p in read:
            p.grad = None
        state = (first, first) if kind == "lstm" else first
        (layer(x, state)[0] ** 2).sum().backward()

    step(x)
    want = [p.grad.numpy() for p in read]
    compiled = pn.compile(step)
    compiled(x)
    compiled(x)
    # As eager steps, but that sums of other lengths may be combined in another order.
    for p, w in zip(read, want, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), w, rtol=1e-5, atol=1e-5)
