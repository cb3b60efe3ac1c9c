"""Scaled-dot-product attention: the public function, its kernels against its definition."""

import re
import subprocess
import sys

import numpy as np
import pytest

import portanet as pn
from portanet.autograd import gradients
from portanet.nn import functional as F
from portanet.ops import attention as ops
from portanet.random import Generator

attend = F.scaled_dot_product_attention


def drawn(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, shape) for shape in shapes]


def by_definition(q, k, v, mask=None, scale=None, causal=False):
    """softmax(q k^T scale + mask) v in float64, 0 for a row that sees nothing."""
    s = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask
    if causal:
        s = np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)
    top = np.where(np.isinf(s.max(-1)), 0, s.max(-1))[..., None]
    raised = np.exp(s - top)
    total = raised.sum(-1, keepdims=True)
    return raised / np.where(total == 0, 1, total) @ v


def on(device, *arrays, dtype="float32"):
    return [pn.tensor(a, "bool" if a.dtype == bool else dtype, device) for a in arrays]


MASKS = {
    "none": None,
    "bool of each pair": (2, 3, 70, 150),
    "bool of heads": (3, 1, 150),
    "bool of keys": (2, 1, 1, 150),
    "bool of queries": (70, 1),
    "floats of pairs": (70, 150),
    "floats of batch and head": (2, 3, 1, 1),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", MASKS)
def test_every_mask_broadcasts(device, kind, causal):
    q, k, v = drawn(0, (2, 3, 70, 12), (2, 3, 150, 12), (2, 3, 150, 20))
    mask = None
    if MASKS[kind]:
        mask = np.random.default_rng(1).uniform(-1, 1, MASKS[kind])
        mask = mask > 0 if kind.startswith("bool") else mask
    want = by_definition(q, k, v, mask, causal=causal)
    xs = on(device, q, k, v) + ([None] if mask is None else on(device, mask))
    got = attend(*xs, is_causal=causal)
    np.testing.assert_allclose(got.numpy(), want, atol=2e-6)


@pytest.mark.parametrize("shapes", [
    ((5, 4), (7, 4), (7, 3)),
    ((2, 5, 4), (2, 7, 4), (2, 7, 3)),
    ((2, 1, 5, 4), (1, 3, 7, 4), (3, 7, 3)),
    ((2, 3, 2, 5, 4), (3, 2, 7, 4), (2, 1, 2, 7, 3)),
])  # fmt: skip
def test_axes_before_the_last_two_broadcast(device, shapes):
    q, k, v = drawn(2, *shapes)
    want = by_definition(q, k, v)
    got = attend(*on(device, q, k, v))
    assert got.shape == want.shape
    np.testing.assert_allclose(got.numpy(), want, atol=2e-6)


def test_a_mask_broadcasts_over_more_batch_axes(device):
    q, mask = drawn(3, (2, 3, 2, 5, 4), (3, 1, 5, 5))
    want = by_definition(q, q, q, mask)
    x, m = on(device, q, mask)
    np.testing.assert_allclose(attend(x, x, x, m).numpy(), want, atol=2e-6)


def test_key_heads_are_shared_by_neighbours(device):
    q, k, v = drawn(4, (2, 6, 9, 4), (2, 2, 11, 4), (2, 2, 11, 4))
    wide = by_definition(q, k.repeat(3, 1), v.repeat(3, 1))
    got = attend(*on(device, q, k, v), enable_gqa=True)
    np.testing.assert_allclose(got.numpy(), wide, atol=2e-6)


def test_rows_that_see_nothing_are_0_and_so_is_their_gradient(device):
    q, k, v = drawn(5, (1, 2, 4, 3), (1, 2, 5, 3), (1, 2, 5, 3))
    mask = np.ones((4, 5), bool)
    mask[1] = False
    *xs, m = on(device, q, k, v, mask)
    for x in xs:
        x.requires_grad = True
    y = attend(*xs, m)
    assert (y.numpy()[:, :, 1] == 0).all()
    dq, dk, dv = gradients(y, xs, pn.ones_like(y))
    assert (dq.numpy()[:, :, 1] == 0).all()
    assert np.isfinite(dk.numpy()).all() and np.isfinite(dv.numpy()).all()


def test_scores_past_the_range_of_exp_do_not_overflow(device):
    x = np.array([[[[100.0, 0.0], [0.0, 100.0], [99.0, 0.0]]]])
    got = attend(*on(device, x, x, x), scale=1.0)
    np.testing.assert_allclose(
        got.numpy(), by_definition(x, x, x, scale=1.0), rtol=1e-6
    )


# Each pair of two settings is there; a text for wgpu takes a second to compile.
STATIC = [
    dict(zip(("causal", "p", "mask", "groups"), v, strict=True))
    for v in [
        (False, 0.0, None, 1), (True, 0.3, None, 2), (False, 0.3, "bool", 2),
        (True, 0.0, "bool", 1), (False, 0.0, "float", 2), (True, 0.3, "float", 1),
    ]
]  # fmt: skip


@pytest.mark.parametrize("chosen", STATIC, ids=lambda c: "-".join(map(str, c.values())))
def test_kernels_are_their_fallback(device, chosen):
    """All results and gradients, with lengths past one block of either kernel."""
    heads, n, m = 2, 150, 141
    shapes = [
        (2, heads, n, 8),
        (2, chosen["groups"], m, 8),
        (2, chosen["groups"], m, 5),
    ]
    args = on(device, *drawn(6, *shapes))
    if chosen["mask"]:
        mask = drawn(7, (2, 1, n, m))[0]
        args += on(device, mask > -0.5 if chosen["mask"] == "bool" else mask)
    if chosen["p"]:
        args.append(Generator(5).state(args[0].device))
    static = dict(scale=0.4, causal=chosen["causal"], p=chosen["p"])
    y, lse, *after = ops.attention(*args, **static)
    want = ops._fallback(*args, **static)
    np.testing.assert_allclose(y.numpy(), want[0].numpy(), atol=2e-6)
    np.testing.assert_allclose(lse.numpy(), want[1].numpy(), atol=2e-6)
    for a, b in zip(after, want[2:], strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    dy = on(device, drawn(8, y.shape)[0])[0]
    got = ops.attention_grad(dy, y, lse, *args, **static)
    want = ops._back_fallback(dy, y, lse, *args, **static)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)


def test_dropout_drops_a_part_and_keeps_the_mean(device):
    n = 200
    q = pn.zeros((1, 2, n, 4), device=device)
    v = pn.ones((1, 2, n, 1), device=device)
    y = attend(q, q, v, dropout_p=0.25, generator=Generator(1)).numpy()
    # y is the number kept / (0.75 n), of 400 rows: within 5 standard deviations.
    assert abs(y.mean() - 1) < 5 * np.sqrt(0.25 / 0.75 / n / y.size)
    kept = y * 0.75 * n
    np.testing.assert_allclose(kept, kept.round(), atol=1e-3)
    assert len(set(kept.round().ravel())) > 10


def test_dropout_draws_anew_and_again_for_the_same_seed(device):
    q, k, v = on(device, *drawn(9, *[(1, 1, 9, 4)] * 3))
    a, b = Generator(3), Generator(3)
    first, second = (attend(q, k, v, None, 0.5, generator=a).numpy() for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(
        attend(q, k, v, None, 0.5, generator=b).numpy(), first
    )
    assert a.get_state()[str(q.device)][2] == 2 * 9 * 3  # blocks of 4 words


def test_dropout_of_everything_is_0(device):
    x = on(device, *drawn(9, (1, 1, 3, 4)))[0]
    assert (attend(x, x, x, dropout_p=1.0).numpy() == 0).all()


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("mask", [None, (1, 2, 1, 6), (5, 6)])
def test_gradients_of_all_inputs_twice(mask, p):
    """In float64 by differences; backward the kernel, and its gradient the fallback's."""
    q, k, v = (
        pn.tensor(a) for a in drawn(10, (1, 2, 5, 3), (1, 1, 6, 3), (1, 1, 6, 2))
    )
    masks = [] if mask is None else [pn.tensor(drawn(11, mask)[0])]

    def f(q, k, v, *mask):
        return attend(
            q, k, v, *(mask or [None]), p, is_causal=True, enable_gqa=True,
            generator=Generator(2),
        )  # fmt: skip

    pn.testing.check_grads(f, q, k, v, *masks, order=2, rtol=1e-5)


def test_only_the_gradients_asked_for_are_made(device):
    q, k, v = on(device, *drawn(12, *[(1, 2, 5, 4)] * 3))
    k.requires_grad = True
    (dk,) = gradients(attend(q, k, v).sum(), [k])
    want = ops._back_fallback(
        pn.ones_like(q), None, None, q, k, v, scale=0.5, causal=False, p=0.0
    )[1]
    np.testing.assert_allclose(dk.numpy(), want.numpy(), atol=1e-6)


def test_the_gradient_of_the_logsumexp(device):
    """Nothing public asks for it; the operator has it."""
    q, k, v = on(device, *drawn(13, *[(1, 1, 5, 4)] * 3))
    q.requires_grad = True
    y, lse = ops.attention(q, k, v, scale=0.5, causal=False, p=0.0)
    (got,) = gradients((y * 2).sum() + lse.sum(), [q])
    s = pn.matrix_transpose(k)
    plain = q.detach()
    plain.requires_grad = True
    scores = plain @ s * 0.5
    whole = (pn.softmax(scores) @ v * 2).sum() + pn.logsumexp(scores, axis=-1).sum()
    (want,) = gradients(whole, [plain])
    np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-5)


def test_strided_queries_keys_and_values(device):
    """Heads split from one product, as a model has them, are read where they lie."""
    (qkv,) = drawn(14, (2, 9, 3, 4, 8))
    (x,) = on(device, qkv)
    q, k, v = pn.unstack(pn.permute_dims(x, (2, 0, 3, 1, 4)))
    want = by_definition(*np.moveaxis(qkv, (2, 3), (0, 2)), causal=True)
    np.testing.assert_allclose(attend(q, k, v, is_causal=True).numpy(), want, atol=2e-6)
    turned = [pn.matrix_transpose(pn.matrix_transpose(t) + 0) for t in (q, k, v)]
    np.testing.assert_allclose(attend(*turned, is_causal=True).numpy(), want, atol=2e-6)


def test_results_do_not_depend_on_the_threads():
    """Also where keys are cut into chunks, and with dropout."""
    from portanet.backend_cpu import num_threads, set_num_threads

    xs = [pn.tensor(a, "float32") for a in drawn(15, *[(1, 2, 700, 16)] * 3)]
    for x in xs:
        x.requires_grad = True

    def run():
        y = attend(*xs, None, 0.1, is_causal=True, generator=Generator(4))
        return [t.numpy() for t in (y, *gradients(y, xs, pn.ones_like(y)))]

    before = num_threads()
    try:
        found = []
        for count in (1, 2, 5):
            set_num_threads(count)
            found.append(run())
    finally:
        set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_compiled_attention_is_one_launch_each_way(device):
    arrays = drawn(16, *[(2, 3, 40, 8)] * 3)

    def step(q, k, v):
        xs = [t.detach().requires_grad_() for t in (q, k, v)]
        y = attend(*xs, None, 0.2, is_causal=True)
        return (y.detach(), *gradients(y, xs, y.detach()))

    compiled = pn.compile(step)
    for _ in range(2):
        pn.manual_seed(8)
        want = step(*on(device, *arrays))
        pn.manual_seed(8)
        got = compiled(*on(device, *arrays))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-6)
    if on(device, arrays[0])[0].device.backend.has("attention"):
        text = compiled.explain()
        kernels = re.findall(r"^ *\d+ (\w+)", text, re.MULTILINE)
        assert kernels.count("attention") == 2, text
        assert "attention_grad" in text
        pairs = 40 * 41 // 2  # of a causal product, for 2 x 3 heads of width 8
        assert str(2 * 6 * pairs * 16) in text and str(2 * 6 * pairs * 40) in text


@pytest.mark.parametrize("change, message, error", [
    ({"query": (2, 5, 3)}, "query .* do not fit", ValueError),
    ({"value": (2, 6, 4)}, "key .* do not fit", ValueError),
    ({"query": (4,)}, r"the query has shape \(4,\)", ValueError),
    ({"query": (3, 2, 5, 4), "key": (2, 2, 7, 4)}, "do not broadcast", ValueError),
    ({"query": (6, 5, 4)}, "do not broadcast", ValueError),
    ({"query": (5, 0), "key": (7, 0)}, "a width of 0", ValueError),
    ({"attn_mask": (3, 7)}, r"attn_mask \(3, 7\) does not broadcast", ValueError),
    ({"attn_mask": (1, 1, 1, 5, 7)}, "attn_mask .* does not broadcast", ValueError),
    ({"dropout_p": 1.5}, r"a probability in \[0, 1\], not 1.5", ValueError),
    ({"enable_gqa": True, "query": (3, 5, 4)}, "3 query heads .* of 2", ValueError),
    ({"enable_gqa": True, "query": (5, 4)}, "heads, length, width", ValueError),
])  # fmt: skip
def test_bad_input_is_named(change, message, error):
    shapes = {"query": (2, 5, 4), "key": (2, 7, 4), "value": (2, 7, 4)} | change
    given = {
        name: pn.ones(s) if isinstance(s, tuple) else s for name, s in shapes.items()
    }
    with pytest.raises(error, match=f"scaled_dot_product_attention: .*{message}"):
        attend(**given)


def test_bad_dtypes_are_named():
    x = pn.ones((2, 5, 4))
    with pytest.raises(TypeError, match="the key float64; cast one"):
        attend(x, x.astype("float64"), x)
    with pytest.raises(
        TypeError, match="a floating dtype is needed, the query is int32"
    ):
        attend(*[x.astype("int32")] * 3)
    with pytest.raises(TypeError, match="attn_mask is bool .* not int32"):
        attend(x, x, x, pn.ones((5, 5), dtype="int32"))


LONG = """
import sys
import numpy as np
import portanet as pn
from portanet.autograd import gradients
from portanet.devices import get
from portanet.nn.functional import scaled_dot_product_attention

rng = np.random.default_rng(0)
xs = [pn.tensor(rng.normal(size=(1, 1, 16384, 64)), "float32") for _ in range(4)]
for x in xs[:3]:
    x.requires_grad = True
y = scaled_dot_product_attention(*xs[:3], None, 0.1, is_causal=True)
found = gradients(y, xs[:3], xs[3])
assert all(np.isfinite(g.numpy()).all() for g in found)
peak = get("cpu").backend.memory()["peak"]
assert peak < 192 << 20, peak  # 16 shares of dq and 8 more tensors take 96 MiB
if sys.platform == "linux":
    # The kernel's ru_maxrss also counts the process that started this one.
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    resident = int(status["VmHWM"].split()[0])  # KiB, at the peak
    assert resident < 1 << 20, resident
"""


def test_memory_grows_with_the_length():
    """One head of length 16,384, whose scores alone would take a GiB, in a process of its
    own that stays below that."""
    command = [sys.executable, "-c", LONG]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
