"""Bags of embeddings, p-norm pools, draws by probability, and other common functions."""

import numpy as np
import pytest

import portanet as pn
from portanet import nn
from portanet.nn import functional as F
from portanet.testing import assert_close, check_grads

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(6, 3)).astype(np.float32)
INDICES = np.array([4, 0, 2, 2, 5, 1, 4], np.int32)
OFFSETS = [0, 3, 3, 4]  # the second bag is empty
HOW = {"sum": np.sum, "mean": np.mean, "max": np.max}


def bag(rows, mode):
    return HOW[mode](rows, axis=0) if len(rows) else np.zeros(3)


@pytest.mark.parametrize("mode", HOW)
@pytest.mark.parametrize("padding_idx", [None, 2, -2])
def test_bags_are_reduced(device, mode, padding_idx):
    layer = nn.EmbeddingBag(6, 3, mode=mode, padding_idx=padding_idx).to(device)
    layer.load_state_dict({"weight": pn.tensor(TABLE)})
    pads = padding_idx if padding_idx is None else padding_idx % 6
    parts = np.split(INDICES, OFFSETS[1:])
    want = [bag(TABLE[[i for i in part if i != pads]], mode) for part in parts]
    x = pn.tensor(INDICES, device=device)
    assert_close(layer(x, pn.tensor(OFFSETS, device=device)), np.array(want), rtol=1e-6)
    layer.include_last_offset = True
    ends = pn.tensor([*OFFSETS, 7], device=device)
    assert_close(layer(x, ends), np.array(want), rtol=1e-6)
    rows = INDICES[:6].reshape(2, 3)
    want = [bag(TABLE[[i for i in row if i != pads]], mode) for row in rows]
    assert_close(layer(pn.tensor(rows, device=device)), np.array(want), rtol=1e-6)


@pytest.mark.parametrize("mode", HOW)
def test_gradients_of_bags(mode):
    x, at = pn.tensor(INDICES), pn.tensor(OFFSETS)
    table = pn.tensor(TABLE.astype(np.float64))
    check_grads(lambda w: F.embedding_bag(x, w, at, mode), table)
    rows = pn.tensor(INDICES[:6].reshape(2, 3))
    check_grads(lambda w: F.embedding_bag(rows, w, mode=mode, padding_idx=5), table)
    if mode == "sum":
        scale = pn.tensor(RNG.normal(size=7))
        call = lambda w, s: F.embedding_bag(x, w, at, mode, s)  # noqa: E731
        check_grads(call, table, scale)
        want = TABLE[INDICES] * scale.numpy()[:, None]
        want = [part.sum(0) for part in np.split(want, OFFSETS[1:])]
        assert_close(call(table, scale), np.array(want), rtol=1e-6)


def test_bags_are_compiled(device):
    layer = nn.EmbeddingBag(6, 3).to(device)
    x, at = pn.tensor(INDICES, device=device), pn.tensor(OFFSETS, device=device)
    run = pn.compile(lambda x, at: layer(x, at).detach())
    assert_close(run(x, at), layer(x, at).numpy(), rtol=1e-6)


def test_a_bag_may_hold_infinities(device):
    table = pn.tensor([[np.inf, -np.inf], [1.0, 2.0]], device=device)
    x = pn.tensor([0, 0], device=device)
    at = pn.tensor([0, 1, 2], device=device)
    for padding_idx in (None, 1):
        found = F.embedding_bag(x, table, at, "max", padding_idx=padding_idx)
        assert found.tolist() == [[np.inf, -np.inf]] * 2 + [[0, 0]]


@pytest.mark.parametrize("mode", HOW)
def test_indices_before_the_first_bag_are_refused(device, mode):
    x, table = pn.tensor(INDICES, device=device), pn.tensor(TABLE, device=device)
    with pytest.raises(
        IndexError, match="index -1 is out of range|first offset must be 0"
    ):
        F.embedding_bag(x, table, pn.tensor([1, 3], device=device), mode).numpy()


def test_bad_bags_are_refused():
    x, table = pn.tensor(INDICES), pn.tensor(TABLE)
    bad = [
        (lambda: F.embedding_bag(x, table), r"got \(7,\) without offsets"),
        (lambda: F.embedding_bag(x, table, pn.tensor(OFFSETS), "min"), "not 'min'"),
        (
            lambda: F.embedding_bag(x, table, pn.tensor(OFFSETS), padding_idx=9),
            "no row of 6",
        ),
        (
            lambda: F.embedding_bag(x, table, pn.tensor(OFFSETS), "mean", pn.ones(7)),
            "per_sample_weights need mode 'sum'",
        ),
        (
            lambda: F.embedding_bag(x, table, pn.tensor(OFFSETS), "sum", pn.ones(6)),
            r"per_sample_weights \(6,\) and indices \(7,\) differ",
        ),
        (lambda: nn.EmbeddingBag(2, 2, mode="x"), "EmbeddingBag: mode is"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()
    made = nn.EmbeddingBag.from_pretrained(table, mode="sum")
    assert_close(made(x.reshape(1, 7)), TABLE[INDICES].sum(0, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("p", [1, 2, 3.0])
def test_p_norms_of_windows(device, p):
    x = RNG.uniform(0.1, 2, (2, 3, 6, 7)).astype(np.float32)
    y = nn.LPPool2d(p, (2, 3), stride=(2, 2))(pn.tensor(x, device=device))
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 3), (2, 3))[
        :, :, ::2, ::2
    ]
    assert_close(y, (windows**p).sum((-1, -2)) ** (1 / p), rtol=1e-5)
    y = nn.LPPool1d(p, 3)(pn.tensor(x[0], device=device))
    assert_close(y, (x[0].reshape(3, 6, 7)[..., :6].reshape(3, 6, 2, 3) ** p).sum(-1)
                 ** (1 / p), rtol=1e-5)  # fmt: skip
    assert nn.LPPool3d(p, 2)(pn.ones((1, 2, 2, 2, 2), device=device)).shape == (
        1,
        2,
        1,
        1,
        1,
    )


def test_p_norms_have_gradients_also_of_zeros():
    x = pn.tensor(RNG.uniform(0.1, 2, (1, 1, 4, 4)))
    check_grads(lambda x: F.lp_pool2d(x, 3.0, 2), x)
    x = pn.zeros((1, 1, 4), requires_grad=True)
    F.lp_pool1d(x, 2.0, 2).sum().backward()
    assert x.grad.tolist() == [[[0.0] * 4]]
    with pytest.raises(ValueError, match="LPPool1d: norm_type must be above 0, not 0"):
        nn.LPPool1d(0, 2)(x)


def test_draws_by_probability(device):
    pn.manual_seed(0)
    p = pn.tensor([[0.1, 0.0, 0.6, 0.3], [1.0, 1.0, 1.0, 1.0]], device=device)
    drawn = pn.multinomial(p, 4000, replacement=True)
    assert drawn.shape == (2, 4000) and drawn.device == device
    for row, chance in zip(drawn.numpy(), p.numpy(), strict=True):
        part = np.bincount(row, minlength=4) / 4000
        # Four standard deviations of a part of 4000 draws are at most 0.032.
        assert np.abs(part - chance / chance.sum()).max() < 0.032
    without = pn.multinomial(p, 4)
    assert np.sort(without.numpy(), 1).tolist() == [[0, 1, 2, 3]] * 2
    assert without[0, 3].item() == 1  # what has no chance is last
    assert pn.multinomial(p[0], 1).shape == (1,)
    for call, kind in (
        (lambda: pn.multinomial(p, 5), ValueError),
        (lambda: pn.multinomial(p, 0), ValueError),
        (lambda: pn.multinomial([0.5], 1), TypeError),
    ):
        with pytest.raises(kind, match="multinomial: "):
            call()


def test_gumbel_softmax(device):
    pn.manual_seed(0)
    logits = pn.tensor(np.log([[0.2, 0.5, 0.3]]).astype(np.float32), device=device)
    many = pn.broadcast_to(logits, (4000, 3))
    hard = F.gumbel_softmax(many, hard=True).numpy()
    assert np.isin(hard, [0, 1]).all() or np.abs(hard - hard.round()).max() < 1e-6
    assert np.abs(hard.mean(0) - [0.2, 0.5, 0.3]).max() < 0.032
    x = pn.zeros((2, 3, 2), device=device, requires_grad=True)
    y = F.gumbel_softmax(x, tau=0.5, hard=True, dim=1)
    assert_close(y.sum(1), np.ones((2, 2)), rtol=1e-6)
    (y * pn.arange(3, device=device).float().reshape(1, 3, 1)).sum().backward()
    assert x.grad is not None and x.grad.numpy().any()
    with pytest.raises(ValueError, match="tau must be above 0"):
        F.gumbel_softmax(x, tau=0)


def test_the_smaller_functions(device):
    x = pn.tensor(RNG.normal(size=(2, 3, 4)).astype(np.float32), device=device)
    n = x.numpy()
    assert_close(F.normalize(x), n / np.sqrt((n**2).sum(1, keepdims=True)), rtol=1e-5)
    assert_close(
        F.normalize(x, p=1, dim=-1), n / np.abs(n).sum(-1, keepdims=True), rtol=1e-5
    )
    assert not F.normalize(pn.zeros((1, 3), device=device)).numpy().any()
    assert_close(F.softmin(x, dim=1), F.softmax(-x, 1).numpy(), rtol=1e-6)
    y = F.dropout1d(pn.ones((40, 50, 3), device=device), 0.5).numpy()
    assert set(np.unique(y)) == {0, 2} and (y == y[:, :, :1]).all()
    assert F.dropout2d(x, 0.5, training=False) is x
    z = F.alpha_dropout(pn.randn(20000, device=device), 0.2, training=True)
    assert abs(z.mean().item()) < 0.05 and abs(z.var().item() - 1) < 0.1
    with pytest.raises(ValueError, match="dropout3d: .* got shape"):
        F.dropout3d(x[0])


NEAR = [
    (pn.isclose, np.isclose), (pn.hypot, np.hypot), (pn.copysign, np.copysign),
]  # fmt: skip


@pytest.mark.parametrize("ours, numpys", NEAR)
def test_of_two_it_is_as_in_numpy(device, ours, numpys):
    v = np.array([0.0, -0.0, 1.0, 1 + 1e-6, -2.0, np.inf, -np.inf, 3e30], np.float32)
    a, b = np.meshgrid(v, v)
    with np.errstate(all="ignore"):
        want = numpys(a, b)
    found = ours(pn.tensor(a, device=device), pn.tensor(b, device=device)).numpy()
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert (np.signbit(found) == np.signbit(want)).all()


def test_nearness_of_all(device):
    x = pn.tensor([1.0, float("nan")], device=device)
    assert pn.allclose(x[:1], x[:1] + 1e-7) and not pn.allclose(x, x)
    assert pn.allclose(x, x, equal_nan=True)
    assert pn.nan_to_num(x, nan=2.0).tolist() == [1.0, 2.0]
    big = pn.nan_to_num(pn.tensor([np.inf, -np.inf], device=device), neginf=0.0)
    assert big.tolist() == [np.finfo(np.float32).max, 0.0]
