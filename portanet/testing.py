"""Checks for users' own code: gradients against differences, tensors against arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .autograd import Tensor, gradients
from .autograd.functions import _input
from .creation import tensor


def _draw(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def _slope(f: Callable, xs: list[Any], i: int, w: np.ndarray, v: np.ndarray, h: float):
    """<v, (f(x + h w) - f(x - h w)) / 2h> in float64."""
    ends = []
    for sign in (1, -1):
        moved = list(xs)
        step = sign * h * w
        moved[i] = tensor(xs[i].numpy() + step, xs[i].dtype, xs[i].device)
        ends.append(np.asarray(f(*moved).numpy(), np.float64))
    return float(np.sum(v * (ends[0] - ends[1])) / (2 * h))


def check_grads(
    f: Callable[..., Tensor],
    *xs: Tensor,
    order: int = 1,
    eps: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> None:
    """Compare the gradients of f at xs with central differences; AssertionError if they
    differ, naming the input and both numbers.

    f gives one tensor. Inputs that are not floating are left alone. order 2 checks the
    gradients of the gradients too. float64 inputs make the check sharp (rtol 1e-6);
    for float32 the differences themselves carry an error of 1e-2.

    >>> pn.testing.check_grads(lambda x: x.sin(), pn.tensor([0.5], "float64", "cpu"))
    """
    floating = [i for i, x in enumerate(xs) if x.dtype.is_float]
    if not floating:
        raise ValueError("check_grads: no input is floating")
    fine = all(xs[i].dtype.itemsize == 8 for i in floating)
    h = (1e-6 if fine else 1e-2) if eps is None else eps
    bound = (1e-6 if fine else 2e-2) if rtol is None else rtol
    inputs = [_input(x) if i in floating else x for i, x in enumerate(xs)]
    y = f(*inputs)
    v = _draw(y.shape, seed)
    cotangent = tensor(v, y.dtype, y.device)
    found = gradients(y, [inputs[i] for i in floating], cotangent)
    plain = [x.detach() for x in xs]
    for i, g in zip(floating, found, strict=True):
        w = _draw(xs[i].shape, seed + 1 + i)
        parts = w * np.asarray(g.numpy(), np.float64)
        got, size = float(parts.sum()), float(np.abs(parts).sum())
        want = _slope(f, plain, i, w, v, h)
        if not abs(got - want) <= bound * max(size, abs(want), 1e-3):
            raise AssertionError(
                f"check_grads: input {i}: the gradient gives {got!r}, "
                f"differences give {want!r}"
            )
    if order > 1:
        _check_again(f, xs, floating, cotangent, order, eps, rtol, seed)


def _check_again(f, xs, floating, cotangent, order, eps, rtol, seed) -> None:
    for i in floating:

        def first(*args, i=i):
            inputs = [_input(a) if j in floating else a for j, a in enumerate(args)]
            (g,) = gradients(f(*inputs), [inputs[i]], cotangent, create_graph=True)
            return g

        check_grads(first, *xs, order=order - 1, eps=eps, rtol=rtol, seed=seed + 7)


def assert_close(
    got: Any, want: Any, *, rtol: float = 1e-5, atol: float = 1e-6, message: str = ""
) -> None:
    """Compare tensors or arrays elementwise: |got - want| <= atol + rtol * |want|."""
    a, b = (np.asarray(x.numpy() if isinstance(x, Tensor) else x) for x in (got, want))
    if a.shape != b.shape:
        raise AssertionError(f"assert_close: shapes {a.shape} and {b.shape} differ")
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=message)
