"""How exactly float32 matrices are multiplied. What cuda makes of it: test_backend_cuda.py."""

import pytest

import portanet as pn
from tests.conftest import PRESENT


@pytest.fixture
def high():
    pn.set_float32_matmul_precision("high")
    yield
    pn.set_float32_matmul_precision("highest")


def test_true_float32_is_the_default():
    assert pn.get_float32_matmul_precision() == "highest"


def test_an_unknown_precision_is_refused_and_nothing_changes():
    with pytest.raises(ValueError, match="'tf32' is unknown; known are 'highest', "):
        pn.set_float32_matmul_precision("tf32")
    assert pn.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("device", [name for name in PRESENT if name != "cuda"])
def test_devices_without_a_faster_way_give_the_same_bits(device, high):
    x = pn.rand(33, 65, device=device)
    fast = (x @ x.mT).numpy()
    pn.set_float32_matmul_precision("highest")
    assert (x @ x.mT).numpy().tobytes() == fast.tobytes()


def test_a_compiled_function_is_traced_for_each_precision(high):
    product = pn.compile(lambda x: x @ x)
    x = pn.ones((4, 4))
    for precision, plans in (("high", 1), ("medium", 2), ("high", 2), ("highest", 3)):
        pn.set_float32_matmul_precision(precision)
        product(x)
        assert len(product.reasons) == plans
