"""Recording, walking back, gradients of gradients, and what is freed when."""

import gc
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import portanet as pn
from portanet.devices import get
from portanet.testing import assert_close, check_grads
from tests.conftest import PRESENT

MB = 1 << 20


def used(device):
    gc.collect()
    return get(device).backend.memory()["used"]


def leaf(values, device="cpu", dtype=None):
    return pn.tensor(values, dtype, device, requires_grad=True)


# backward -----------------------------------------------------------------------------


def test_gradients_accumulate_until_they_are_forgotten(device):
    x = leaf([1.0, 2.0], device)
    (x * x).sum().backward()
    assert x.grad.tolist() == [2, 4]
    (x * 3).sum().backward()
    assert x.grad.tolist() == [5, 7]
    x.zero_grad()
    assert x.grad is None
    x.grad = pn.tensor([10.0, 20.0], device=device)
    x.sum().backward()
    assert x.grad.tolist() == [11, 21]


def test_a_tensor_used_many_times_collects_all_its_gradients(device):
    x = leaf(3.0, device)
    y = x * x
    z = y * y + y * x + x
    z.backward()
    assert x.grad.item() == 4 * 27 + 3 * 9 + 1


def test_gradients_flow_only_to_leaves_that_ask(device):
    x, w = leaf([1.0, 2.0], device), pn.tensor([3.0, 4.0], device=device)
    y = x * w
    z = (y * y).sum()
    z.backward()
    assert w.grad is None and not w.requires_grad
    assert y.grad is None and not y.is_leaf and y.requires_grad
    assert x.grad.tolist() == [18, 64]


def test_backward_of_several_elements_needs_a_gradient(device):
    x = leaf([1.0, 2.0], device)
    with pytest.raises(
        ValueError, match=r"shape \(2,\); reduce it to one number, or give"
    ):
        (x * x).backward()
    (x * x).backward(pn.tensor([1.0, 10.0], device=device))
    assert x.grad.tolist() == [2, 40]
    with pytest.raises(ValueError, match=r"gradient \(3,\) of a tensor \(2,\)"):
        (x * x).backward(pn.ones(3, device=device))


def test_backward_where_nothing_was_recorded_is_an_error():
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        pn.ones(()).backward()
    x = leaf(1.0)
    with pn.no_grad():
        y = x * x
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        y.backward()
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        (x.detach() * 2).backward()


def test_backward_from_a_leaf_gives_one():
    x = leaf(5.0)
    x.backward()
    assert x.grad.item() == 1


def test_a_second_backward_through_a_freed_graph_is_an_error(device):
    x = leaf([1.0, 2.0], device)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(
        RuntimeError, match="freed by an earlier backward.*retain_graph=True"
    ):
        y.backward()


def test_retain_graph_allows_another_backward(device):
    x = leaf([1.0, 2.0], device)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [4, 8]


def test_only_floats_require_gradients():
    with pytest.raises(TypeError, match="only floats have gradients, not int32"):
        pn.tensor([1], requires_grad=True)
    x = leaf([1.0])
    with pytest.raises(RuntimeError, match=r"the tensor is a result; use detach\(\)"):
        (x * 2).requires_grad = False
    x.requires_grad = False
    assert not x.requires_grad


def test_a_gradient_must_fit_its_tensor():
    x = leaf([1.0, 2.0])
    with pytest.raises(
        ValueError, match=r"grad: \(3,\) float32 is not the gradient of"
    ):
        x.grad = pn.ones(3)
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        pn.ones(2).grad = pn.ones(2)


def test_steps_have_zero_gradients_and_integers_none(device):
    x = leaf([1.4, -2.6], device)
    y = pn.floor(x) + pn.sign(x) + pn.round(x) + x
    y.sum().backward()
    assert x.grad.tolist() == [1, 1]
    assert not x.astype(pn.int32).requires_grad
    (x.astype(pn.int32) * x).sum().backward()
    assert x.grad.tolist() == [1 + 1, 1 - 2]
    assert not (x > 0).requires_grad
    assert not pn.argmax(x).requires_grad


def test_gradients_keep_the_dtype_of_their_tensor(device):
    x = leaf([1.0, 2.0], device)
    names = {t.name for t in get(device).backend.dtypes}
    for other in ("float16", "float64"):
        if other in names:
            w = leaf([3.0, 4.0], device, other)
            (x * w).sum().backward()
            assert w.grad.dtype == other and x.grad.dtype == "float32"
    (x.astype("float32") * 2).sum().backward()
    assert x.grad.dtype == "float32"


@pytest.mark.parametrize(
    "a, b",
    [((3, 4), (4,)), ((3, 1), (1, 4)), ((), (2, 3)), ((2, 1, 3), (4, 1)), ((1, 1), ())],
)
def test_gradients_of_broadcast_operands_are_summed(device, a, b):
    rng = np.random.default_rng(0)
    x, y = (
        leaf(rng.normal(size=a), device, "float32"),
        leaf(rng.normal(size=b), device, "float32"),
    )
    (x * y).sum().backward()
    wide = np.broadcast_shapes(a, b)
    for mine, other in ((x, y), (y, x)):
        spread = np.broadcast_to(other.numpy(), wide)
        lead = len(wide) - len(mine.shape)
        axes = tuple(
            i for i in range(len(wide)) if i < lead or mine.shape[i - lead] == 1
        )
        want = spread.sum(axis=axes).reshape(mine.shape)
        np.testing.assert_allclose(mine.grad.numpy(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("there", PRESENT)
def test_the_gradient_comes_back_from_another_device(device, there):
    x = leaf([1.0, 2.0], device)
    y = (x * 2).to(there)
    (y * y).sum().backward()
    assert x.grad.device == device and x.grad.tolist() == [8, 16]
    (g,) = pn.gradients((x.to(there) ** 3).sum(), [x], create_graph=True)
    g.sum().backward()
    assert x.grad.tolist() == [8 + 6, 16 + 12]


# no_grad and detach -------------------------------------------------------------------


def test_no_grad_records_nothing_and_ends_with_its_block():
    x = leaf([1.0])
    assert pn.is_grad_enabled()
    with pn.no_grad():
        assert not pn.is_grad_enabled() and not (x * 2).requires_grad
        with pn.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad
    with pytest.raises(ZeroDivisionError), pn.no_grad():
        1 / 0  # noqa: B018
    assert pn.is_grad_enabled()

    @pn.no_grad()
    def twice(t):
        return t * 2

    assert not twice(x).requires_grad and twice.__name__ == "twice"


def test_detach_is_the_value_without_history(device):
    x = leaf([1.0, 2.0], device)
    y = x.detach()
    assert not y.requires_grad and y.is_leaf
    (x * x.detach()).sum().backward()
    assert x.grad.tolist() == [1, 2]


def test_threads_record_each_for_itself(device):
    found, errors = {}, []

    def work(i):
        try:
            assert pn.is_grad_enabled()
            x = leaf([float(i), 1.0], device)
            for _ in range(20):
                y = x
                for _ in range(5):
                    y = y * x
                x.zero_grad()
                y.sum().backward()
                with pn.no_grad():
                    assert not (x * 2).requires_grad
            found[i] = x.grad.tolist()
        except Exception as why:
            errors.append(why)

    with pn.no_grad():  # of this thread only
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not errors
    assert found == {i: [6.0 * i**5, 6.0] for i in range(4)}


# Functions of functions ---------------------------------------------------------------


def test_grad_of_a_function(device):
    x = pn.tensor([1.0, 2.0, 3.0], device=device)
    g = pn.grad(lambda x: (x**3).sum())(x)
    np.testing.assert_allclose(g.numpy(), [3, 12, 27], rtol=1e-5)
    assert not x.requires_grad and not g.requires_grad and x.grad is None


def test_value_and_grad_with_several_arguments_and_aux(device):
    def f(a, b, *, scale):
        y = a * b * scale
        return y.sum(), {"y": y.detach(), "note": "kept"}

    a, b = pn.tensor([1.0, 2.0], device=device), pn.tensor([3.0, 4.0], device=device)
    (value, aux), (ga, gb) = pn.value_and_grad(f, argnums=(0, 1), has_aux=True)(
        a, b, scale=10
    )
    assert value.item() == 110 and aux["note"] == "kept"
    assert aux["y"].tolist() == [30, 80]
    assert ga.tolist() == [30, 40] and gb.tolist() == [10, 20]
    g, aux = pn.grad(f, argnums=1, has_aux=True)(a, b, scale=1)
    assert g.tolist() == [1, 2] and aux["note"] == "kept"


def test_grad_needs_one_number_from_float_tensors():
    with pytest.raises(ValueError, match=r"must give one number, not shape \(2,\)"):
        pn.grad(lambda x: x * 2)(pn.ones(2))
    with pytest.raises(ValueError, match="must give one number, not float"):
        pn.grad(lambda x: 2.0)(pn.ones(2))
    with pytest.raises(TypeError, match="a tensor is expected, not float"):
        pn.grad(lambda x: x * 2)(2.0)
    with pytest.raises(TypeError, match="only floats have gradients, not int32"):
        pn.grad(lambda x: x * 2)(pn.tensor(2))


def test_where_the_result_does_not_depend_on_the_input_the_gradient_is_zero(device):
    x, y = pn.ones(3, device=device), leaf([1.0, 2.0], device)
    assert pn.grad(lambda x: pn.tensor(5.0, device=device))(x).tolist() == [0, 0, 0]
    other = leaf(2.0, device)
    (g,) = pn.gradients(other * other, [y])
    assert g.tolist() == [0, 0]
    with pytest.raises(RuntimeError, match="input 0 does not require a gradient"):
        pn.gradients(other, [x])


def test_gradients_of_something_on_the_way(device):
    x = leaf([1.0, 2.0], device)
    y = x * x
    z = (y * y).sum()
    gy, gx = pn.gradients(z, [y, x])
    assert gy.tolist() == [2, 8] and gx.tolist() == [4, 32]
    assert x.grad is None
    z.backward()  # gradients() frees nothing
    assert x.grad.tolist() == [4, 32]


def test_create_graph_makes_gradients_differentiable(device):
    x = leaf([1.0, 2.0], device)
    (x**3).sum().backward(create_graph=True)
    assert x.grad.requires_grad
    np.testing.assert_allclose(x.grad.numpy(), [3, 12], rtol=1e-5)
    g = x.grad
    x.zero_grad()
    g.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [6, 12], rtol=1e-5)


def test_third_derivatives(device):
    f = lambda x: (x**4).sum()  # noqa: E731
    third = pn.grad(lambda x: pn.grad(lambda x: pn.grad(f)(x).sum())(x).sum())
    np.testing.assert_allclose(
        third(pn.tensor([1.0, 2.0], device=device)).numpy(), [24, 48], rtol=1e-4
    )


def test_a_gradient_inside_a_function_that_is_differentiated(device):
    """d/dx of x * d/dy (x y^2) at y = x is d/dx of 2 x^3 where both are followed."""

    def outer(x):
        inner = pn.grad(lambda y: x * y * y)
        return x * inner(x)

    assert abs(pn.grad(outer)(pn.tensor(3.0, device=device)).item() - 54) < 1e-3


def test_a_penalty_on_the_gradient(device):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 3))
    w = leaf(rng.normal(size=3), device, "float32")
    x = leaf(a, device, "float32")

    def penalty(w):
        (g,) = pn.gradients(pn.tanh(x @ w).sum(), [x], create_graph=True)
        return (g * g).sum()

    penalty(w).backward()

    def exact(w):
        g = (1 - np.tanh(a @ w) ** 2)[:, None] * w
        return (g * g).sum()

    h, base = 1e-6, w.numpy().astype(np.float64)
    want = [(exact(base + h * d) - exact(base - h * d)) / (2 * h) for d in np.eye(3)]
    np.testing.assert_allclose(w.grad.numpy(), want, rtol=1e-4, atol=1e-5)


# Functions with a gradient of their own -----------------------------------------------


def test_a_custom_function_uses_its_own_gradient(device):
    f = pn.custom_function(lambda x, *, k: x * k, lambda g, y, x, *, k: g * 100)
    x = leaf([1.0, 2.0], device)
    y = f(x, k=3)
    assert y.tolist() == [3, 6]
    y.sum().backward()
    assert x.grad.tolist() == [100, 100]
    assert not f(x.detach(), k=3).requires_grad


def test_a_custom_function_of_several_results(device):
    """Sine and cosine at once: each result has its own gradient, also a missing one."""

    def forward(x):
        return pn.sin(x), pn.cos(x)

    def backward(g, y, x):
        return g[0] * y[1] - g[1] * y[0]

    f = pn.custom_function(forward, backward)
    x = leaf([0.3, 0.7], device)
    s, c = f(x)
    (s * 2 + c).sum().backward()
    want = 2 * np.cos(x.detach().numpy()) - np.sin(x.detach().numpy())
    np.testing.assert_allclose(x.grad.numpy(), want, rtol=1e-5)
    x.zero_grad()
    f(x)[1].sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), -np.sin(x.detach().numpy()), rtol=1e-5)


def test_a_custom_function_is_differentiated_again(device):
    f = pn.custom_function(lambda x: x**3, lambda g, y, x: g * 3 * x * x)
    second = pn.grad(lambda x: pn.grad(lambda x: f(x).sum())(x).sum())
    np.testing.assert_allclose(
        second(pn.tensor([1.0, 2.0], device=device)).numpy(), [6, 12], rtol=1e-5
    )


def test_a_custom_gradient_of_the_wrong_form_is_an_error():
    x, y = leaf([1.0, 2.0]), leaf([1.0, 2.0])
    f = pn.custom_function(lambda x, y: x * y, lambda g, z, x, y: g)
    with pytest.raises(ValueError, match="backward gave 1 gradients for 2 inputs"):
        f(x, y).sum().backward()
    f = pn.custom_function(lambda x, y: x * y, lambda g, z, x, y: (g, g.sum()))
    with pytest.raises(
        ValueError, match=r"the gradient of input 1 is \(\), not \(2,\)"
    ):
        f(x, y).sum().backward()
    f = pn.custom_function(lambda x, y: x * y, lambda g, z, x, y: (g * y, None))
    f(x, y).sum().backward()
    assert y.grad is None and x.grad.tolist() == [1, 2]


# check_grads --------------------------------------------------------------------------


def test_check_grads_passes_a_right_gradient():
    x = pn.tensor([0.3, -0.7], "float64", "cpu")
    check_grads(lambda x: pn.tanh(x) * x, x, order=2)
    check_grads(lambda x, y: x @ y, pn.randn(3, 4), pn.randn(4, 2))


WRONG = {
    "a sign": lambda g, y, x: -g * pn.cos(x),
    "a factor": lambda g, y, x: g * pn.cos(x) * 1.001,
    "a missing factor": lambda g, y, x: g,
    "one element": lambda g, y, x: (
        g * pn.cos(x) * pn.tensor([1.0, 1.0, 1.1], "float64")
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_check_grads_catches_a_wrong_gradient(fault):
    x = pn.tensor([0.3, -0.7, 1.1], "float64", "cpu")
    f = pn.custom_function(pn.sin, WRONG[fault])
    with pytest.raises(
        AssertionError, match="check_grads: input 0: the gradient gives"
    ):
        check_grads(f, x)


def test_check_grads_catches_a_wrong_second_gradient():
    inner = pn.custom_function(lambda x: 2 * x, lambda g, y, x: g * 3)
    f = pn.custom_function(lambda x: x * x, lambda g, y, x: g * inner(x))
    x = pn.tensor([0.3, -0.7], "float64", "cpu")
    check_grads(f, x)
    with pytest.raises(AssertionError, match="check_grads"):
        check_grads(f, x, order=2)


# What is freed ------------------------------------------------------------------------


def test_a_chain_of_a_hundred_thousand_operators_goes_back_without_recursion():
    limit = sys.getrecursionlimit()
    n = 100_000
    before = used("cpu")
    x = leaf([1.0, 2.0])
    y = x
    for _ in range(n):
        y = y + 1
    y.sum().backward()
    assert x.grad.tolist() == [1, 1]
    assert y.tolist() == [n + 1, n + 2]
    del y
    assert used("cpu") - before < 4096
    y = x
    for _ in range(n):
        y = y * 1.0
    del y  # freed without a walk, too: this must not recurse either
    assert used("cpu") - before < 4096
    assert sys.getrecursionlimit() == limit


def test_a_long_chain_on_every_device(device):
    x = leaf([1.0, 2.0], device)
    y = x
    for _ in range(5000):
        y = y + x
    y.sum().backward()
    assert x.grad.tolist() == [5001, 5001]
    del y


def test_a_graph_is_freed_after_backward(device):
    x = leaf(np.ones(MB // 4), device, "float32")
    before = used(device)
    y = x
    for _ in range(8):
        y = pn.sin(y)
    assert used(device) - before >= 8 * MB
    loss = y.sum()
    del y
    loss.backward()
    assert used(device) - before <= 2 * MB  # the gradient, and the loss
    x.zero_grad()
    assert used(device) - before <= MB
    del loss, x
    assert used(device) <= before


def test_a_graph_that_is_dropped_is_freed_at_once(device):
    """By counting references, without the collector: nodes make no cycles."""
    gc.collect()
    gc.disable()
    try:
        backend = get(device).backend
        x = leaf(np.ones(MB // 4), device, "float32")
        before = backend.memory()["used"]
        y = pn.softmax(pn.sin(x) * 2, axis=0).sum()
        node = weakref.ref(y)
        del y
        assert node() is None
        assert backend.memory()["used"] - before <= 1024
        loss = (pn.tanh(x) * x).sum()
        loss.backward()
        x.zero_grad()
        del loss
        assert backend.memory()["used"] - before <= 1024
    finally:
        gc.enable()


CYCLES = """
import gc, sys
import numpy as np
import portanet as pn
from portanet.devices import get

class Holder:
    pass

def cycle(i):
    holder = Holder()
    holder.me = holder
    values = np.full(1 << 20, i, np.float32)
    holder.x = pn.tensor(values, device=DEVICE, requires_grad=True)
    holder.y = holder.x * 2
    assert holder.y[5].item() == 2 * i

DEVICE = sys.argv[1]
for i in range(300):  # 2.4 GB in all
    cycle(i)
memory = get(DEVICE).backend.memory()
assert memory["peak"] <= 900 << 20, memory
gc.collect()
x = pn.tensor(np.ones(1 << 20, np.float32), device=DEVICE) + 1
assert (x == 2).all().item()
memory = get(DEVICE).backend.memory()
assert memory["used"] <= 16 << 20, memory
"""


def test_cycles_of_references_do_not_keep_device_memory(device):
    """In a process of its own: a driver that is handed a dead buffer aborts."""
    command = [sys.executable, "-c", CYCLES, device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


DEAD_BUFFER = """
import gc, sys
import numpy as np
import portanet as pn

gc.disable()
def cycle():
    holder = []
    holder.append(holder)
    holder.append(pn.tensor(np.zeros(100, np.float32), device=sys.argv[1]))
cycle()
gc.collect()
for i in range(10):
    x = pn.tensor(np.ones(100, np.float32), device=sys.argv[1])
    assert (x + i).tolist() == [i + 1] * 100
"""


def test_a_buffer_that_the_collector_gave_back_can_be_used_again(device):
    command = [sys.executable, "-c", DEAD_BUFFER, device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[:300]


@pytest.mark.parametrize("n", [1, 31, 33, 1100])
def test_running_products_have_their_gradients_at_zeros_too(n, device):
    rng = np.random.default_rng(n)
    x = rng.uniform(0.8, 1.2, (3, n)) * np.sign(rng.normal(size=(3, n)))
    for row, zeros in enumerate((0, 1, 3)):
        x[row, rng.integers(0, n, zeros)] = 0
    g = rng.normal(size=(3, n))
    want = np.zeros((3, n))
    for k in range(n):
        rest = np.where(np.arange(n) == k, 1, x)
        want[:, k] = (g * np.cumprod(rest, -1))[:, k:].sum(-1)
    t, h = (pn.tensor(v.astype(np.float32), device=device) for v in (x, g))
    t.requires_grad_()
    (found,) = pn.gradients(pn.cumulative_prod(t, axis=-1), [t], h)
    # Rounded products of up to n factors, relative to the largest.
    assert_close(found, want, atol=2e-5 * np.abs(want).max())


def test_running_products_have_second_gradients_past_a_row_of_the_table():
    x = np.random.default_rng(0).uniform(0.5, 1.5, (2, 40))
    x[0, 7] = x[1, 3] = x[1, 20] = 0
    check_grads(lambda t: pn.cumulative_prod(t, axis=-1), pn.tensor(x), order=2)
