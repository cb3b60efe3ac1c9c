"""How exactly products of float32 are made: a choice of the whole process."""

from __future__ import annotations

from .arrays import forget_plans
from .devices import Device

LEVELS = ("highest", "high", "medium")
_level = LEVELS[0]


def set_float32_matmul_precision(precision: str) -> None:
    """How matrix products and convolutions of float32 are made where the device has a
    faster way.

    "highest", the default: true float32. "high" and "medium": cuda from Ampere on rounds
    the factors of each product to 10 bits of fraction (TF32) and adds in float32, with a
    relative error of up to 2^-10 of |a| @ |b|; other devices, and other operators, do what
    they always do. It holds for the calls after it, forward and backward; compiled functions
    are traced again. The names are PyTorch's, whose convolutions have a switch of their own
    that is on by default; here, as in JAX, there is one, and it is off. ValueError names them.

    >>> pn.set_float32_matmul_precision("high")
    >>> pn.get_float32_matmul_precision()
    'high'
    >>> pn.set_float32_matmul_precision("highest")
    """
    global _level
    if precision not in LEVELS:
        known = ", ".join(map(repr, LEVELS))
        raise ValueError(
            f"set_float32_matmul_precision: {precision!r} is unknown; known are {known}"
        )
    if precision != _level:
        _level = precision
        forget_plans()


def get_float32_matmul_precision() -> str:
    """What `set_float32_matmul_precision` has set."""
    return _level


def matmul_options(device: Device) -> tuple[str, ...]:
    """The options of the program of a matrix product or a convolution on a device."""
    if _level == "highest" or not getattr(device.backend, "has_tf32", False):
        return ()
    return ("tf32",)
