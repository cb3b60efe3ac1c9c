"""Random numbers: the published bits, the same on every device, of the right shape."""

import hashlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest

import portanet as pn
from portanet.autograd import tensor_of
from portanet.devices import get
from portanet.ops.random import _normal_reference, philox
from tests.conftest import PRESENT

U32 = 0xFFFFFFFF


def philox4x32(counter, key):
    """Ten rounds of Philox4x32 with the whole 128-bit counter (SC11, section 3.3)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & U32, a >> 32 ^ c[3] ^ k[1], a & U32]
        k = [(k[0] + 0x9E3779B9) & U32, (k[1] + 0xBB67AE85) & U32]
    return c


# kat_vectors of Random123 1.14 (D. E. Shaw Research), "philox4x32 10": counter, key,
# result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(text):
    return [int(w, 16) for w in text.split()]


def state_of(device, key, counter):
    generator = pn.Generator(key)
    generator.set_state({device: [key & U32, key >> 32, counter & U32, counter >> 32]})
    return generator


def drawn(generator, n, device):
    return generator.bits(n, get(device)).tolist()


@pytest.mark.parametrize("counter, key, result", KNOWN)
def test_the_reference_gives_the_published_vectors(counter, key, result):
    assert philox4x32(words(counter), words(key)) == words(result)


def test_the_librarys_reference_is_the_same_function():
    rng = np.random.default_rng(0)
    for _ in range(100):
        c, k0, k1 = (int(v) for v in rng.integers(0, 2**63, 3))
        key = (k0 & U32, k1 & U32)
        assert philox(c, key) == philox4x32((c & U32, c >> 32, 0, 0), key)


def test_a_device_gives_the_published_bits(device):
    """The first vector as it is; others under every word that a device can be given."""
    assert drawn(pn.Generator(0), 4, device) == words(KNOWN[0][2])
    for key in (2**64 - 1, 0x299F31D0A4093822, 1, 1 << 32):
        for counter in (0, 2**32 - 2, 2**64 - 3, 0x85A308D3243F6A88):
            got = drawn(state_of(device, key, counter), 16, device)
            want = []
            for block in range(4):
                c = (counter + block) & (1 << 64) - 1
                want += philox4x32((c & U32, c >> 32, 0, 0), (key & U32, key >> 32))
            assert got == want, (key, counter)


def test_draws_follow_each_other_without_overlap(device):
    """A draw of n words moves the counter by ceil(n / 4): here 2, 1, 0 and 1 blocks."""
    a, b = pn.Generator(5), pn.Generator(5)
    whole = drawn(a, 16, device)
    parts = [drawn(b, n, device) for n in (5, 4, 0, 3)]
    assert parts == [whole[:5], whole[8:12], [], whole[12:15]]
    assert b.get_state()[device] == [5, 0, 4, 0]


def everything(device):
    """One draw of each kind; those without rounding of functions first."""
    pn.manual_seed(7)
    exact = [
        pn.rand(1001, device=device),
        pn.uniform(-2.0, 6.0, (7, 11), device=device),
        pn.randint(10, shape=(501,), device=device),
        pn.randint(-5, 1 << 20, (33,), device=device),
        pn.bernoulli(pn.full((401,), 0.3, device=device)),
        pn.permutation(257, device=device),
    ]
    return exact, pn.randn(100_001, device=device)


def test_every_device_draws_the_same_numbers():
    exact, normals = everything("cpu")
    for device in PRESENT:
        others, other = everything(device)
        for a, b in zip(exact, others, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
        np.testing.assert_allclose(
            normals.numpy(), other.numpy(), rtol=1e-6, atol=1e-12
        )


SUMMARY = """
import hashlib
from tests.test_random import everything
exact, normals = everything("cpu")
print([hashlib.sha256(x.numpy().tobytes()).hexdigest() for x in (*exact, normals)])
"""


def summary(**environment):
    done = subprocess.run(
        [sys.executable, "-c", SUMMARY],
        env={**os.environ, "PORTANET_SOFTWARE_DRIVER": "none", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_instruction_level_and_number_of_threads_draws_the_same_bits():
    info = get("cpu").backend.info()
    levels, best = info["levels"], info["levels"].index(info["level"])
    exact, normals = everything("cpu")
    here = [hashlib.sha256(x.numpy().tobytes()).hexdigest() for x in (*exact, normals)]
    for level in levels[: best + 1]:
        assert summary(PORTANET_CPU_LEVEL=level) == f"{here}\n", level
    assert summary(PORTANET_NUM_THREADS="1") == f"{here}\n"
    assert summary(PORTANET_NUM_THREADS="5") == f"{here}\n"


# Distributions ------------------------------------------------------------------------

N = 200_000


def test_uniforms_are_within_their_bounds_and_even(device):
    x = pn.rand(N, device=device).numpy()
    assert x.dtype == np.float32 and x.min() >= 0 and x.max() < 1
    assert np.array_equal(x * 2**24, np.floor(x * 2**24))
    assert abs(x.mean() - 0.5) < 5 * math.sqrt(1 / 12 / N)
    counts = np.histogram(x, 64, (0, 1))[0]
    chi2 = ((counts - N / 64) ** 2 / (N / 64)).sum()
    assert chi2 < 63 + 5 * math.sqrt(2 * 63)
    y = pn.uniform(-3.0, 5.0, (1000,), device=device).numpy()
    assert y.min() >= -3 and y.max() < 5


def test_the_extreme_words_stay_inside_the_bounds(device):
    from portanet.arrays import from_numpy
    from portanet.dtypes import uint32
    from portanet.ops import random as r

    ends = np.array([0, 255, 256, 2**31, 2**32 - 1], np.uint32)
    bits = tensor_of(from_numpy(ends, uint32, get(device)))
    u = r.uniform_from_bits(bits).numpy()
    assert u[0] == 0 and u[1] == 0 and u[2] == 2**-24 and u[-1] == 1 - 2**-24
    a, b = (pn.broadcast_to(bits.reshape(s), (5, 5)) for s in ((5, 1), (1, 5)))
    z = r.normal_from_bits(a, b).numpy()
    assert np.isfinite(z).all() and np.abs(z).max() < 6


def test_normals_have_the_moments_of_normals(device):
    x = pn.randn(N, device=device).numpy().astype(np.float64)
    for power, moment in [(1, 0), (2, 1), (3, 0), (4, 3), (5, 0), (6, 15)]:
        spread = math.sqrt({1: 1, 2: 2, 3: 15, 4: 96, 5: 945, 6: 10170}[power] / N)
        assert abs((x**power).mean() - moment) < 5 * spread, power
    assert 4 < np.abs(x).max() < 6
    y = pn.normal(10.0, 3.0, (N,), device=device).numpy()
    assert abs(y.mean() - 10) < 0.05 and abs(y.std() - 3) < 0.05


def test_normals_are_within_4_ulp_of_the_exact_value_of_their_bits(device):
    bits = np.array(drawn(pn.Generator(3), 2 * N, device), np.uint32)
    a, b = bits[:N], bits[N:]
    x = pn.randn(N, device=device, generator=pn.Generator(3)).numpy()
    want = _normal_reference(a, b)
    ulp = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
    far = np.abs(want) > 1e-30
    assert np.abs((x - want) / ulp)[far].max() <= 4
    assert np.abs(x[~far]).max(initial=0) < 1e-29


def test_float64_uniforms_have_53_bits():
    x = pn.rand(1000, dtype="float64", device="cpu").numpy()
    assert x.dtype == np.float64 and len(np.unique(x * 2**53 % 2**29)) > 990
    assert x.min() >= 0 and x.max() < 1


def test_half_precision_is_drawn_in_float32_and_rounded(device):
    if pn.float16 not in get(device).backend.dtypes:
        assert device != "cpu"
        return
    x = pn.rand(1000, dtype="float16", device=device, generator=pn.Generator(1))
    y = pn.rand(1000, device=device, generator=pn.Generator(1))
    np.testing.assert_array_equal(x.numpy(), y.numpy().astype(np.float16))


def test_integers_are_within_their_bounds_and_even(device):
    x = pn.randint(7, shape=(70_000,), device=device).numpy()
    assert x.dtype == np.int32
    counts = np.bincount(x, minlength=7)
    assert len(counts) == 7 and ((counts - 1e4) ** 2 / 1e4).sum() < 6 + 5 * math.sqrt(
        12
    )
    y = pn.randint(-3, -1, (100,), device=device).numpy()
    assert set(y) == {-3, -2}
    assert pn.randint(5, 6, (10,), device=device).tolist() == [5] * 10
    wide = pn.randint(0, 1 << 32, (1000,), dtype="uint32", device=device).numpy()
    assert wide.max() > 2**31 and wide.dtype == np.uint32


def test_bernoulli_at_0_and_1_is_certain(device):
    p = pn.tensor([0.0, 1.0, 0.5], device=device)
    x = pn.bernoulli(pn.broadcast_to(p, (20_000, 3))).numpy()
    assert x[:, 0].max() == 0 and x[:, 1].min() == 1
    assert abs(x[:, 2].mean() - 0.5) < 0.02 and set(x[:, 2]) == {0, 1}
    assert pn.bernoulli(p).dtype == pn.float32


def test_a_permutation_is_one(device):
    for n in (0, 1, 2, 257, 10_007):
        x = pn.permutation(n, device=device)
        assert x.dtype == pn.int32 and x.device == device
        assert sorted(x.tolist()) == list(range(n))
    assert pn.permutation(100).tolist() != pn.permutation(100).tolist()
    first = [pn.permutation(4).tolist()[0] for _ in range(400)]
    assert ((np.bincount(first) - 100) ** 2 / 100).sum() < 3 + 5 * math.sqrt(6)


# Seeds and states ---------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers(device):
    pn.manual_seed(3)
    a = pn.rand(10, device=device).tolist()
    b = pn.rand(10, device=device).tolist()
    pn.manual_seed(3)
    assert pn.rand(10, device=device).tolist() == a
    assert pn.rand(10, device=device).tolist() == b != a
    pn.manual_seed(4)
    assert pn.rand(10, device=device).tolist() != a


def test_a_seed_reaches_functions_that_are_compiled_already(device):
    draw = pn.compile(lambda x: pn.nn.functional.dropout(x, 0.5))
    x = pn.ones(64, device=device)
    draw(x)
    pn.manual_seed(6)
    eager = pn.nn.functional.dropout(x, 0.5)
    state = pn.random.default_generator.get_state()
    later = pn.nn.functional.dropout(x, 0.5)
    pn.manual_seed(6)
    np.testing.assert_array_equal(draw(x).numpy(), eager.numpy())
    draw(x)
    pn.random.default_generator.set_state(state)
    np.testing.assert_array_equal(draw(x).numpy(), later.numpy())


def test_seeds_differ_in_each_of_their_64_bits():
    seeds = [0, 1, 1 << 31, 1 << 32, 1 << 63, -1]
    draws = {tuple(pn.rand(4, generator=pn.Generator(s)).tolist()) for s in seeds}
    assert len(draws) == len(seeds)
    same = [pn.rand(4, generator=pn.Generator(s)).tolist() for s in (-1, 2**64 - 1)]
    assert same[0] == same[1]
    assert pn.Generator().seed != pn.Generator().seed


def test_a_generator_goes_back_to_a_state(device):
    generator = pn.Generator(11)
    pn.randn(7, device=device, generator=generator)
    state = generator.get_state()
    assert list(state) == [device] and all(isinstance(w, int) for w in state[device])
    a = pn.rand(5, device=device, generator=generator).tolist()
    generator.set_state(state)
    assert pn.rand(5, device=device, generator=generator).tolist() == a
    fresh = pn.Generator(0)
    fresh.set_state(state)
    assert pn.rand(5, device=device, generator=fresh).tolist() == a


def test_generators_do_not_disturb_each_other(device):
    pn.manual_seed(0)
    a = pn.rand(4, device=device).tolist()
    pn.manual_seed(0)
    pn.rand(100, device=device, generator=pn.Generator(1))
    for other in PRESENT:
        if other != device:
            pn.rand(9, device=other)
    assert pn.rand(4, device=device).tolist() == a


def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match="rand|uniform: sizes can't be negative"):
        pn.rand(-1)
    with pytest.raises(TypeError, match="a floating dtype is needed, not int32"):
        pn.rand(2, dtype="int32")
    with pytest.raises(ValueError, match=r"randint: \[5, 5\) must hold"):
        pn.randint(5, 5, (2,))
    with pytest.raises(TypeError, match="bernoulli: p is a tensor, not float"):
        pn.bernoulli(0.5)
    with pytest.raises(ValueError, match="permutation: n can't be negative"):
        pn.permutation(-1)


def test_a_draw_requires_a_gradient_where_asked(device):
    x = pn.randn(3, device=device, requires_grad=True)
    assert x.requires_grad and x.is_leaf
    assert not pn.rand(3, device=device).requires_grad
