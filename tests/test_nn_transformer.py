"""MultiheadAttention, the transformer's layers and stacks, generation with a cache."""

import re

import numpy as np
import pytest

import portanet as pn
from portanet import nn


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def filled(module, seed=0):
    """The module in evaluation, its parameters drawn anew and none of them 0."""
    rng = np.random.default_rng(seed)
    for p in module.parameters():
        p.assign(pn.tensor(rng.normal(0, 0.4, p.shape), p.dtype, p.device))
    return module.eval()


def state_of(module):
    return {k: v.numpy().astype(np.float64) for k, v in module.state_dict().items()}


def softmax(s):
    raised = np.exp(s - s.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def attended(state, heads, query, key, value, add=0.0):
    """(output, weights of each head) by the definition, the batch first, in float64."""
    n = query.shape[-1]
    if "in_proj_weight" in state:
        weights = np.split(state["in_proj_weight"], 3)
    else:
        weights = [state[f"{c}_proj_weight"] for c in "qkv"]
    biases = np.split(state.get("in_proj_bias", np.zeros(3 * n)), 3)
    q, k, v = (
        (x @ w.T + b).reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    p = softmax(q @ k.swapaxes(2, 3) / np.sqrt(n // heads) + add)
    y = (p @ v).swapaxes(1, 2).reshape(query.shape)
    return y @ state["out_proj.weight"].T + state.get("out_proj.bias", 0), p


def normed(x, state, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def part(state, name):
    return {k[len(name) + 1 :]: v for k, v in state.items() if k.startswith(name + ".")}


# MultiheadAttention ----------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 5, "vdim": 6}])
def test_attention_is_its_definition(device, options, batch_first):
    layer = filled(nn.MultiheadAttention(12, 3, batch_first=batch_first, **options))
    layer.to(device)
    query, key, value = (
        drawn(i, 2, n, w) for i, (n, w) in enumerate(
            [(7, 12), (5, layer.kdim), (5, layer.vdim)]
        )
    )  # fmt: skip
    want, weights = attended(state_of(layer), 3, query, key, value)
    inputs = (query, key, value)
    if not batch_first:
        inputs, want = [x.swapaxes(0, 1) for x in inputs], want.swapaxes(0, 1)
    inputs = [pn.tensor(x, device=device) for x in inputs]
    y, found = layer(*inputs)
    np.testing.assert_allclose(y.numpy(), want, atol=1e-5)
    np.testing.assert_allclose(found.numpy(), weights.mean(1), atol=1e-6)
    np.testing.assert_allclose(
        layer(*inputs, average_attn_weights=False)[1].numpy(), weights, atol=1e-6
    )
    y, nothing = layer(*inputs, need_weights=False)
    assert nothing is None
    np.testing.assert_allclose(y.numpy(), want, atol=1e-5)


def test_attention_without_a_batch():
    layer = filled(nn.MultiheadAttention(8, 2))
    x = pn.tensor(drawn(0, 1, 5, 8))
    whole, weights = layer(*[pn.permute_dims(x, (1, 0, 2))] * 3)
    y, found = layer(x[0], x[0], x[0])
    assert y.shape == (5, 8) and found.shape == (5, 5)
    np.testing.assert_allclose(y.numpy(), whole.numpy()[:, 0], atol=1e-6)
    np.testing.assert_allclose(found.numpy(), weights.numpy()[0], atol=1e-6)
    hidden = pn.tensor([False, False, True, False, False])
    y, found = layer(x[0], x[0], x[0], hidden)
    assert (found.numpy()[:, 2] == 0).all()


def test_equal_inputs_by_one_product_give_what_three_give(device):
    layer = filled(nn.MultiheadAttention(8, 2, batch_first=True)).to(device)
    x = pn.tensor(drawn(1, 2, 5, 8), device=device)
    one = layer(x, x, x)[0].numpy()
    three = layer(x, x + 0, x + 0)[0].numpy()
    np.testing.assert_allclose(one, three, atol=1e-6)


CAUSAL = np.triu(np.ones((6, 6), bool), 1)
PADDED = np.array([[False] * 4 + [True] * 2, [False] * 6])


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("kind", ["bool", "float", "mixed", "of heads", "is_causal"])
def test_masks_hide_keys(device, kind, need_weights):
    layer = filled(nn.MultiheadAttention(8, 2, batch_first=True)).to(device)
    x = drawn(2, 2, 6, 8)
    hide = np.where(CAUSAL | PADDED[:, None, None], -np.inf, 0.0)
    want, _ = attended(state_of(layer), 2, x, x, x, hide)
    added = np.where(CAUSAL, -np.inf, 0.0).astype(np.float32)
    masks = {
        "bool": {"attn_mask": CAUSAL, "key_padding_mask": PADDED},
        "float": {
            "attn_mask": added,
            "key_padding_mask": np.where(PADDED, -np.inf, 0).astype(np.float32),
        },
        "mixed": {"attn_mask": added, "key_padding_mask": PADDED},
        "of heads": {
            "attn_mask": np.tile(CAUSAL, (4, 1, 1)), "key_padding_mask": PADDED,
        },
        "is_causal": {"key_padding_mask": PADDED},
    }[kind]  # fmt: skip
    masks = {k: pn.tensor(v, device=device) for k, v in masks.items()}
    t = pn.tensor(x, device=device)
    y, _ = layer(
        t, t, t, need_weights=need_weights, is_causal=kind == "is_causal", **masks
    )
    np.testing.assert_allclose(y.numpy(), want, atol=1e-5)


def test_a_mask_of_heads_is_by_batch_then_head():
    layer = filled(nn.MultiheadAttention(8, 2, batch_first=True))
    x, add = drawn(3, 2, 3, 8), drawn(4, 4, 3, 3)
    want, _ = attended(state_of(layer), 2, x, x, x, add.reshape(2, 2, 3, 3))
    t = pn.tensor(x)
    y, _ = layer(t, t, t, attn_mask=pn.tensor(add), need_weights=False)
    np.testing.assert_allclose(y.numpy(), want, atol=1e-5)


def test_keys_that_every_query_sees():
    """bias_k and bias_v, and zeros, come after the keys; masks do not hide them."""
    layer = filled(
        nn.MultiheadAttention(
            8, 2, add_bias_kv=True, add_zero_attn=True, batch_first=True
        )
    )
    x, state = drawn(5, 2, 3, 8), state_of(layer)
    t = pn.tensor(x)
    y, weights = layer(t, t, t, is_causal=True, average_attn_weights=False)
    assert weights.shape == (2, 2, 3, 5)
    assert (weights.numpy()[..., 3:] > 0).all()
    assert (weights.numpy()[:, :, 0, 1:3] == 0).all()
    q, k, v = (
        (x @ w.T + b)
        for w, b in zip(
            np.split(state["in_proj_weight"], 3), np.split(state["in_proj_bias"], 3),
            strict=True,
        )
    )  # fmt: skip
    zero = np.zeros((2, 1, 8))
    k = np.concatenate([k, zero + state["bias_k"], zero], 1)
    v = np.concatenate([v, zero + state["bias_v"], zero], 1)
    heads = [z.reshape(2, -1, 2, 4).swapaxes(1, 2) for z in (q, k, v)]
    s = heads[0] @ heads[1].swapaxes(2, 3) / 2
    s[..., :3] += np.where(np.triu(np.ones((3, 3)), 1), -np.inf, 0)
    want = (softmax(s) @ heads[2]).swapaxes(1, 2).reshape(2, 3, 8)
    want = want @ state["out_proj.weight"].T + state["out_proj.bias"]
    np.testing.assert_allclose(y.numpy(), want, atol=1e-5)
    fast, _ = layer(t, t, t, is_causal=True, need_weights=False)
    np.testing.assert_allclose(fast.numpy(), want, atol=1e-5)


def test_dropout_is_of_the_weights_in_training_only(device):
    layer = filled(nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True))
    layer.to(device)
    x = pn.tensor(drawn(6, 4, 9, 8), device=device)
    still = layer(x, x, x, need_weights=False)[0].numpy()
    np.testing.assert_array_equal(layer(x, x, x, need_weights=False)[0].numpy(), still)
    layer.train()
    a, weights = layer(x, x, x, average_attn_weights=False)
    dropped = weights.numpy() == 0
    assert 0.4 < dropped.mean() < 0.6
    b = layer(x, x, x, need_weights=False)[0].numpy()
    assert abs(a.numpy() - still).max() > 0.01 and abs(b - still).max() > 0.01


def test_parameters_have_pytorchs_names_shapes_and_start():
    shapes = {k: v.shape for k, v in nn.MultiheadAttention(8, 2).state_dict().items()}
    assert shapes == {
        "in_proj_weight": (24, 8), "in_proj_bias": (24,), "out_proj.weight": (8, 8),
        "out_proj.bias": (8,),
    }  # fmt: skip
    layer = nn.MultiheadAttention(8, 2, kdim=5, add_bias_kv=True)
    shapes = {k: v.shape for k, v in layer.state_dict().items()}
    assert shapes == {
        "q_proj_weight": (8, 8), "k_proj_weight": (8, 5), "v_proj_weight": (8, 8),
        "in_proj_bias": (24,), "bias_k": (1, 1, 8), "bias_v": (1, 1, 8),
        "out_proj.weight": (8, 8), "out_proj.bias": (8,),
    }  # fmt: skip
    big = nn.MultiheadAttention(64, 2)
    bound = (6 / (64 + 192)) ** 0.5
    assert 0.95 * bound < abs(big.in_proj_weight.numpy()).max() <= bound
    assert not big.in_proj_bias.numpy().any() and not big.out_proj.bias.numpy().any()


@pytest.mark.parametrize("call, message, error", [
    (lambda: nn.MultiheadAttention(10, 3), "embed_dim 10 .* 3 heads", ValueError),
    (lambda: nn.MultiheadAttention(8, 2, dropout=2), "a probability", ValueError),
    (lambda: ask((5, 2, 7)), r"the query has shape \(5, 2, 7\); \(length", ValueError),
    (lambda: ask((5, 8), key=(5, 2, 8)), "the key has shape", ValueError),
    (lambda: ask((5, 3, 8), key=(5, 2, 8)), "do not fit", ValueError),
    (lambda: ask((5, 2, 8), value=(4, 2, 8)), "do not fit", ValueError),
    (lambda: ask((5, 2, 8), attn_mask=(4, 5)), r"attn_mask has shape \(4, 5\); \(5, 5\) or "
     r"\(4, 5, 5\)", ValueError),
    (lambda: ask((5, 2, 8), key_padding_mask=(5, 2)), "key_padding_mask .* is needed",
     ValueError),
    (lambda: ask((5, 2, 8), attn_mask=(5, 5), kind="int32"), "attn_mask is bool .* int32",
     TypeError),
])  # fmt: skip
def test_bad_input_is_named(call, message, error):
    with pytest.raises(error, match=f"MultiheadAttention: .*{message}"):
        call()


def ask(query, key=None, value=None, kind="float32", **masks):
    layer = nn.MultiheadAttention(8, 2)
    inputs = [pn.ones(s) for s in (query, key or query, value or key or query)]
    masks = {k: pn.zeros(s, dtype=kind) for k, s in masks.items()}
    return layer(*inputs, **masks)


# The layers of a transformer -------------------------------------------------------------


def fed(x, state, activation):
    x = activation(x @ state["linear1.weight"].T + state["linear1.bias"])
    return x @ state["linear2.weight"].T + state["linear2.bias"]


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", np.tanh], ids=["relu", "tanh"])
def test_an_encoder_layer_is_its_definition(device, norm_first, activation):
    own = activation if activation == "relu" else pn.tanh
    by_numpy = relu if activation == "relu" else np.tanh
    layer = nn.TransformerEncoderLayer(
        8, 2, 12, activation=own, norm_first=norm_first, batch_first=True
    )
    filled(layer).to(device)
    s, x = state_of(layer), drawn(7, 2, 6, 8)

    def attend(x):
        hide = np.where(CAUSAL | PADDED[:, None, None], -np.inf, 0.0)
        return attended(part(s, "self_attn"), 2, x, x, x, hide)[0]

    if norm_first:
        want = x + attend(normed(x, s, "norm1"))
        want = want + fed(normed(want, s, "norm2"), s, by_numpy)
    else:
        want = normed(x + attend(x), s, "norm1")
        want = normed(want + fed(want, s, by_numpy), s, "norm2")
    padded = pn.tensor(PADDED, device=device)
    y = layer(pn.tensor(x, device=device), None, padded, is_causal=True)
    np.testing.assert_allclose(y.numpy(), want, atol=2e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_decoder_layer_is_its_definition(device, norm_first):
    layer = nn.TransformerDecoderLayer(8, 2, 12, norm_first=norm_first)
    filled(layer).to(device)
    s, x, memory = state_of(layer), drawn(8, 2, 6, 8), drawn(9, 2, 4, 8)
    hidden = np.array([[False, False, True, False], [True, False, False, False]])

    def attend(x):
        return attended(part(s, "self_attn"), 2, x, x, x, np.where(CAUSAL, -np.inf, 0))[
            0
        ]

    def look(x):
        hide = np.where(hidden[:, None, None], -np.inf, 0)
        return attended(part(s, "multihead_attn"), 2, x, memory, memory, hide)[0]

    def feed(x):
        return fed(x, s, relu)

    want = x
    for i, branch in enumerate((attend, look, feed), 1):
        if norm_first:
            want = want + branch(normed(want, s, f"norm{i}"))
        else:
            want = normed(want + branch(want), s, f"norm{i}")
    tgt, memory = (pn.tensor(v.swapaxes(0, 1), device=device) for v in (x, memory))
    y = layer(
        tgt, memory, pn.tensor(CAUSAL, device=device),
        memory_key_padding_mask=pn.tensor(hidden, device=device),
    )  # fmt: skip
    np.testing.assert_allclose(y.numpy().swapaxes(0, 1), want, atol=2e-5)


def test_stacks_are_their_layers_and_a_norm(device):
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 12), 2, nn.LayerNorm(8)
    )
    filled(encoder).to(device)
    x = pn.tensor(drawn(10, 6, 2, 8), device=device)
    want = encoder.norm(encoder.layers[1](encoder.layers[0](x)))
    np.testing.assert_array_equal(encoder(x).numpy(), want.numpy())
    weights = [layer.linear1.weight.numpy() for layer in encoder.layers]
    assert (weights[0] != weights[1]).any()
    names = set(encoder.state_dict())
    assert {"layers.1.self_attn.in_proj_weight", "norm.bias"} <= names


def test_a_transformer_is_its_encoder_and_decoder(device):
    model = nn.Transformer(8, 2, 1, 2, 12, batch_first=True)
    filled(model).to(device)
    src, tgt = (
        pn.tensor(drawn(i, 2, n, 8), device=device) for i, n in [(0, 5), (1, 6)]
    )
    hidden = np.array([[False] * 3 + [True] * 2, [False] * 5])
    hidden = pn.tensor(hidden, device=device)
    mask = nn.Transformer.generate_square_subsequent_mask(6, device=device)
    want = model.decoder(
        tgt, model.encoder(src, None, hidden), tgt_mask=mask,
        memory_key_padding_mask=hidden,
    )  # fmt: skip
    y = model(
        src, tgt, tgt_is_causal=True, src_key_padding_mask=hidden,
        memory_key_padding_mask=hidden,
    )  # fmt: skip
    np.testing.assert_allclose(y.numpy(), want.numpy(), atol=1e-5)
    # What comes later changes nothing before it.
    other = tgt.numpy().copy()
    other[:, 4:] *= -1
    later = model(
        src, pn.tensor(other, device=device), tgt_is_causal=True,
        src_key_padding_mask=hidden, memory_key_padding_mask=hidden,
    ).numpy()  # fmt: skip
    np.testing.assert_allclose(later[:, :4], y.numpy()[:, :4], atol=1e-6)
    assert abs(later[:, 4:] - y.numpy()[:, 4:]).max() > 1e-4  # rounding gives 1e-6


def test_a_transformers_matrices_start_by_xavier():
    model = nn.Transformer(32, 2, 1, 1, 16)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            bound = (6 / sum(p.shape)) ** 0.5
            assert 0.9 * bound < abs(p.numpy()).max() <= bound, name


def test_a_transformer_without_biases_has_none():
    names = nn.Transformer(8, 2, 1, 1, 12, bias=False).state_dict()
    assert not [n for n in names if n.endswith("bias")]


@pytest.mark.parametrize("call, message", [
    (lambda: nn.TransformerEncoderLayer(8, 2, activation="tanh"), "activation is .* 'tanh'"),
    (lambda: nn.TransformerDecoderLayer(9, 2), "embed_dim 9 .* 2 heads"),
    (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 0), "at least 1 layer"),
    (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 2)(
        pn.ones((3, 1, 8)), caches=[None]), "1 caches for 2 layers"),
    (lambda: nn.Transformer(8, 2, 1, 1, 12)(pn.ones((3, 1, 8)), pn.ones((3, 1, 7))),
     r"Transformer: tgt has shape \(3, 1, 7\)"),
])  # fmt: skip
def test_bad_layers_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_compiled_training_step_learns_as_the_eager_one(device):
    """Dropout, masks, both stacks and an optimizer in one plan."""
    src, tgt = drawn(11, 2, 5, 8), drawn(12, 2, 6, 8)

    def trained(compiled):
        pn.manual_seed(0)
        model = filled(nn.Transformer(8, 2, 1, 1, 12, batch_first=True)).to(device)
        model.train()
        optimizer = pn.optim.SGD(model.parameters(), lr=0.1)

        def step(src, tgt):
            optimizer.zero_grad()
            y = model(src, tgt, tgt_is_causal=True)
            loss = ((y - tgt) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        run = pn.compile(step) if compiled else step
        pn.manual_seed(1)
        xs = [pn.tensor(v, device=device) for v in (src, tgt)]
        return [run(*xs).item() for _ in range(4)]

    np.testing.assert_allclose(trained(True), trained(False), rtol=1e-4)


# Generation ------------------------------------------------------------------------------


class Model(nn.Module):
    """A language model: a causal stack on tokens, with rotary or learned positions."""

    def __init__(self, vocabulary=11, width=8, max_len=12):
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.LearnedPositions(max_len, width)
        layer = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True)
        self.stack = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens, offset=0, caches=None):
        x = self.places(self.tokens(tokens), offset)
        return self.head(self.stack(x, is_causal=True, caches=caches))

    def caches(self, batch, max_len, device):
        return [nn.KeyValueCache(batch, 2, max_len, 4, device) for _ in range(2)]


@pytest.mark.parametrize("first", [1, 4])
def test_a_cache_gives_what_the_whole_sequence_gives(device, first):
    model = filled(Model()).to(device)
    tokens = np.random.default_rng(13).integers(0, 11, (3, 9)).astype(np.int32)
    with pn.no_grad():
        want = model(pn.tensor(tokens, device=device)).numpy()
        caches, found, at = model.caches(3, 12, device), [], 0
        for n in [first] + [1] * (9 - first):
            now = pn.tensor(tokens[:, at : at + n], device=device)
            found.append(model(now, at, caches).numpy())
            at += n
    np.testing.assert_allclose(np.concatenate(found, 1), want, atol=1e-5)
    assert [c.length.item() for c in caches] == [9, 9]


def test_a_compiled_step_with_a_cache_is_traced_once(device):
    model = filled(Model()).to(device)
    model.places.weight.assign(pn.zeros_like(model.places.weight))
    caches = model.caches(1, 12, device)

    @pn.compile
    def step(token):
        with pn.no_grad():
            return pn.argmax(model(token, 0, caches), axis=-1)

    tokens = [3]
    for _ in range(8):
        token = pn.tensor([tokens[-1:]], dtype="int32", device=device)
        tokens.append(step(token).item())
    assert step.explain().count("plan ") == 1
    seen, whole = [3], None
    with pn.no_grad():
        for _ in range(8):
            whole = model(pn.tensor([seen], dtype="int32", device=device))
            seen.append(pn.argmax(whole[:, -1], axis=-1).item())
    assert tokens == seen
    for cache in caches:
        cache.reset()
    token = pn.tensor([[3]], dtype="int32", device=device)
    assert step(token).item() == tokens[1]


def test_rotary_positions_go_with_the_heads(device):
    """Turned queries and keys meet by their distance, also from another offset."""
    turn = nn.RotaryPositions(4, device=device)
    q, k = (pn.tensor(drawn(i, 1, 2, 6, 4), device=device) for i in (14, 15))
    a, b = (
        nn.functional.scaled_dot_product_attention(turn(q, at), turn(k, at), k).numpy()
        for at in (0, 100)
    )
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_full_cache_is_an_error(device):
    cache = nn.KeyValueCache(1, 1, 4, 2, device)
    x = pn.ones((1, 1, 3, 2), device=device)
    cache.append(x, x)
    with pytest.raises(IndexError, match=re.escape("index 5 is out of range")):
        cache.append(x, x)
        cache.length.item()


@pytest.mark.parametrize("shape", [(1, 1, 5, 2), (2, 1, 1, 2), (1, 1, 2), (1, 1, 0, 2)])
def test_what_does_not_fit_a_cache_is_named(shape):
    cache = nn.KeyValueCache(1, 1, 4, 2)
    with pytest.raises(
        ValueError, match="KeyValueCache: keys .* do not fit a cache of"
    ):
        cache.append(pn.ones(shape), pn.ones(shape))
    with pytest.raises(ValueError, match="KeyValueCache: sizes of at least 1"):
        nn.KeyValueCache(1, 0, 4, 2)
