"""CTC against all alignments, one by one; its lengths, layouts and reductions."""

import itertools

import numpy as np
import pytest

import portanet as pn
from portanet import nn
from portanet.nn import functional as F
from portanet.testing import assert_close, check_grads

RNG = np.random.default_rng(0)


def said(path, blank):
    """The text of an alignment: repeats made one, then blanks left out."""
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def reference(log_probs, text, steps, blank):
    """-log of the sum over every alignment of its likelihood."""
    classes, total = log_probs.shape[1], 0.0
    for path in itertools.product(range(classes), repeat=steps):
        if said(path, blank) == tuple(text):
            total += np.exp(sum(log_probs[t, k] for t, k in enumerate(path)))
    return -np.log(total) if total else np.inf


TEXTS = [[1, 2], [1, 1], [], [2, 1, 2], [1, 1, 1]]
STEPS = [5, 5, 4, 5, 4]  # the last can't be said: it needs a blank between its labels


def batch(device, blank=0, dtype=np.float64):
    logits = RNG.normal(size=(5, len(TEXTS), 3))
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    texts = [[(k + blank) % 3 for k in t] for t in TEXTS]
    padded = np.full((len(TEXTS), 3), -1, np.int32)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = text
    want = [reference(log_probs[:, i], t, STEPS[i], blank) for i, t in enumerate(texts)]
    x = pn.tensor(log_probs.astype(dtype), device=device)
    return x, pn.tensor(padded, device=device), texts, np.array(want)


LENGTHS = [len(t) for t in TEXTS]


@pytest.mark.parametrize("blank", [0, 1, 2])
def test_the_loss_is_the_sum_over_all_alignments(device, blank):
    x, targets, texts, want = batch(device, blank, np.float32)
    losses = F.ctc_loss(x, targets, STEPS, LENGTHS, blank, "none")
    assert np.isinf(want[-1])
    assert_close(losses, want, rtol=1e-5)
    flat = pn.tensor(sum(texts, []), device=device)
    assert_close(F.ctc_loss(x, flat, STEPS, LENGTHS, blank, "none"), want, rtol=1e-5)
    lengths = pn.tensor(STEPS, device=device), pn.tensor(LENGTHS, device=device)
    assert_close(F.ctc_loss(x, targets, *lengths, blank, "none"), want, rtol=1e-5)
    one = F.ctc_loss(x[:, 0], targets[0, :2], 5, 2, blank, "none")
    assert one.shape == ()
    assert_close(one, want[0], rtol=1e-5)


def test_reductions(device):
    x, targets, _, want = batch(device, dtype=np.float32)
    zero = np.where(np.isinf(want), 0, want)
    call = lambda how: nn.CTCLoss(reduction=how, zero_infinity=True)(  # noqa: E731
        x, targets, STEPS, LENGTHS
    )
    assert_close(call("none"), zero, rtol=1e-5)
    assert_close(call("sum"), zero.sum(), rtol=1e-5)
    assert_close(call("mean"), (zero / np.maximum(LENGTHS, 1)).mean(), rtol=1e-5)
    assert np.isinf(nn.CTCLoss()(x, targets, STEPS, LENGTHS).item())


def test_gradients_are_those_of_the_definition():
    x, targets, texts, _ = batch("cpu")
    x = x[:, :4].detach()

    def loss(x):
        return F.ctc_loss(
            pn.log_softmax(x), targets[:4], STEPS[:4], LENGTHS[:4], 0, "sum"
        )

    check_grads(loss, x)
    x.requires_grad_()
    loss(x).backward()
    found = x.grad.numpy()
    h = 1e-6
    for t, i, k in [(0, 0, 1), (4, 3, 2), (2, 1, 0), (4, 2, 1)]:
        moved = []
        for step in (h, -h):
            z = x.detach().numpy()[:, i].copy()
            z[t, k] += step
            z = z - np.log(np.exp(z).sum(-1, keepdims=True))
            moved.append(reference(z, texts[i], STEPS[i], 0))
        assert abs(found[t, i, k] - (moved[0] - moved[1]) / (2 * h)) < 1e-6
    assert not found[4, 2].any()  # past the end of the third


def test_what_can_not_be_said_has_no_gradient(device):
    for zero in (False, True):
        x = pn.zeros((4, 1, 3), device=device, requires_grad=True)
        text = pn.tensor([[1, 1, 1]], device=device)
        F.ctc_loss(pn.log_softmax(x), text, [4], [3], zero_infinity=zero).backward()
        assert not x.grad.numpy().any()


def test_a_compiled_step_learns_to_say(device):
    pn.manual_seed(0)
    model = nn.Linear(4, 3).to(device)
    optimizer = pn.optim.Adam(model.parameters(), lr=0.1)
    x = pn.randn(6, 2, 4, device=device)
    texts = pn.tensor([[1, 2], [2, 0]], device=device)
    lengths = pn.tensor([6, 5], device=device), pn.tensor([2, 1], device=device)

    def step(x):
        optimizer.zero_grad()
        loss = F.ctc_loss(pn.log_softmax(model(x)), texts, *lengths)
        loss.backward()
        optimizer.step()
        return loss

    eager = step(x).item()
    model.load_state_dict(model.state_dict())
    run = pn.compile(step)
    losses = [run(x).item() for _ in range(40)]
    assert losses[0] < eager and losses[-1] < 0.2


def test_half_precision_is_computed_in_float32():
    x, targets, _, want = batch("cpu")
    half = F.ctc_loss(x.half(), targets, STEPS, LENGTHS, 0, "none")
    assert half.dtype == pn.float16
    assert_close(half, want, rtol=5e-3)


BAD = [
    (lambda x, t: F.ctc_loss(x, t, [6] + STEPS[1:], LENGTHS), ValueError,
     r"input_lengths from 4 to 6 are not in \[0, 5\]"),
    (lambda x, t: F.ctc_loss(x, t, STEPS, [4] + LENGTHS[1:]), ValueError,
     r"target_lengths from 0 to 4 are not in \[0, 3\]"),
    (lambda x, t: F.ctc_loss(x, t, STEPS[:2], LENGTHS), ValueError,
     "have 5 rows, input_lengths 2"),
    (lambda x, t: F.ctc_loss(x, t, STEPS, LENGTHS, blank=3), ValueError, "blank 3 is no"),
    (lambda x, t: F.ctc_loss(x[0, 0], t, STEPS, LENGTHS), ValueError, "log_probs are fl"),
    (lambda x, t: F.ctc_loss(x, t.float(), STEPS, LENGTHS), ValueError, "targets are int"),
    (lambda x, t: F.ctc_loss(x, t[0], STEPS, LENGTHS), ValueError, "have not the 10 el"),
    (lambda x, t: F.ctc_loss(x, t, STEPS, LENGTHS, 0, "total"), ValueError, "reduction is"),
    (lambda x, t: F.ctc_loss(x, t + 5, STEPS, LENGTHS).item(), IndexError, "ctc_loss: in"),
    (lambda x, t: F.ctc_loss(x, t, pn.tensor([9] * 5, device=x.device), LENGTHS).item(),
     IndexError, "ctc_loss: index 8 is out of range"),
    (lambda x, t: F.ctc_loss(x.numpy(), t, STEPS, LENGTHS), TypeError, "a tensor is exp"),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(BAD)))
def test_bad_calls_are_refused(device, i):
    call, kind, message = BAD[i]
    x, targets, _, _ = batch(device, dtype=np.float32)
    with pytest.raises(kind, match=message):
        call(x, targets)
