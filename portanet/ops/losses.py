"""Softmax and the losses: each is its definition in other operators, with its gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..casting import casting
from .. import scalars as s
from ..dtypes import uint32
from ..op import Bad, Case, Op, Spec
from . import elementwise as e
from .create import one_hot
from .index import take, take_along_axis
from .reduce import _logsumexp, _spread, mean
from .reduce import max as maximum_of
from .reduce import sum as total
from .shape import moveaxis, normalise_axis, reshape

# Softmax ---------------------------------------------------------------------------------


def _keeps(name: str):
    def rule(x: Spec, *, axis) -> Spec:
        if not x.dtype.is_float:
            raise TypeError(f"{name}: a floating dtype is needed, not {x.dtype.name}")
        if x.shape[axis] == 0:
            raise ValueError(f"{name}: axis {axis} of shape {x.shape} is empty")
        return Spec(x.shape, x.dtype)

    return rule


def _softmax_fallback(x, *, axis):
    top = maximum_of(x, axis=axis, keepdims=True)
    raised = e.exp(e.subtract(x, top))
    return e.divide(raised, total(raised, axis=axis, keepdims=True))


def _softmax_reference(x, *, axis):
    raised = np.exp(x - x.max(axis, keepdims=True))
    return raised / raised.sum(axis, keepdims=True)


def _cases(rng) -> list[Case]:
    sizes = [((7,), 0), ((3, 5), 1), ((3, 5), 0), ((2, 3, 4), 1), ((2, 1000), 1)]
    made = [
        Case([rng.uniform(-9, 9, s)], {"axis": a}, ("float32", "float64"))
        for s, a in sizes
    ]
    return [*made, Case([np.array([[1000.0, 999.0, -1000.0]])], {"axis": 1})]


def _row(*specs, axis) -> int:
    shape = specs[0].shape
    return shape[-1] if axis == len(shape) - 1 else 0


def _softmax_formula(x, *, axis):
    raised = s.exp(x - s.row_max(x))
    return raised * (1 / s.row_sum(raised))


def _softmax_slope_fallback(g, y, *, axis):
    inner = total(e.multiply(g, y), axis=axis, keepdims=True)
    return e.multiply(y, e.subtract(g, inner))


def _pairs(rng) -> list[Case]:
    return [
        Case([rng.uniform(-1, 1, x.args[0].shape), x.args[0] / 9], x.static, x.dtypes)
        for x in _cases(rng)[:-1]
    ]


softmax_slope = Op(
    "softmax_slope",
    lambda g, y, *, axis: Spec(y.shape, y.dtype),
    reference=lambda g, y, *, axis: y * (g - (g * y).sum(axis, keepdims=True)),
    cases=_pairs,
    formula=lambda g, y, *, axis: y * (g - s.row_sum(g * y)),
    row=_row,
    fallback=_softmax_slope_fallback,
    ulps=64,
    doc="The gradient of y = softmax(x): y * (g - sum(g * y)).",
)


log_softmax_slope = Op(
    "log_softmax_slope",
    lambda g, y, *, axis: Spec(y.shape, y.dtype),
    reference=lambda g, y, *, axis: g - np.exp(y) * g.sum(axis, keepdims=True),
    cases=_pairs,
    formula=lambda g, y, *, axis: g - s.exp(y) * s.row_sum(g),
    row=_row,
    fallback=lambda g, y, *, axis: e.subtract(
        g, e.multiply(e.exp(y), total(g, axis=axis, keepdims=True))
    ),
    ulps=64,
    doc="The gradient of y = log_softmax(x): g - exp(y) * sum(g).",
)


_softmax = Op(
    "softmax",
    _keeps("softmax"),
    grad=(lambda g, y, x, *, axis: softmax_slope(g, y, axis=axis),),
    formula=_softmax_formula,
    row=_row,
    reference=_softmax_reference,
    cases=_cases,
    fallback=_softmax_fallback,
    bad=[
        Bad([((2, 0), "float32")], {"axis": 1}, ValueError, "softmax: axis 1 .* empty"),
        Bad([((2, 2), "int32")], {"axis": 1}, TypeError, "softmax: a floating dtype"),
    ],
    ulps=32,
)


def softmax(x: Any, axis: int = -1) -> Any:
    """exp(x) / sum(exp(x)) along an axis, shifted by the maximum.

    >>> pn.softmax(pn.tensor([0.0, 0.0]))
    tensor([0.5, 0.5])
    """
    return _softmax(x, axis=normalise_axis("softmax", axis, x.ndim, x.shape))


def _log_softmax_formula(x, *, axis):
    away = x - s.row_max(x)
    return away - s.log(s.row_sum(s.exp(away)))


def _log_softmax_fallback(x, *, axis):
    return e.subtract(x, _spread(_logsumexp(x, axes=(axis,)), x.shape, (axis,)))


def _log_softmax_reference(x, *, axis):
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


_log_softmax = Op(
    "log_softmax",
    _keeps("log_softmax"),
    grad=(lambda g, y, x, *, axis: log_softmax_slope(g, y, axis=axis),),
    formula=_log_softmax_formula,
    row=_row,
    reference=_log_softmax_reference,
    cases=_cases,
    fallback=_log_softmax_fallback,
    bad=[
        Bad(
            [((2, 0), "float32")],
            {"axis": 1},
            ValueError,
            "log_softmax: axis 1 .* empty",
        )
    ],
    ulps=32,
)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """x - logsumexp(x) along an axis."""
    return _log_softmax(x, axis=normalise_axis("log_softmax", axis, x.ndim, x.shape))


# Losses ------------------------------------------------------------------------------------


def _reduced(name: str, values: Any, reduction: str) -> Any:
    if reduction == "mean":
        return mean(values)
    if reduction == "sum":
        return total(values)
    if reduction == "none":
        return values
    raise ValueError(f"{name}: reduction is 'mean', 'sum' or 'none', not {reduction!r}")


def _same_shape(name: str, x: Any, target: Any) -> None:
    if tuple(x.shape) != tuple(target.shape):
        raise ValueError(
            f"{name}: input {x.shape} and target {target.shape} differ in shape"
        )


def _check_targets(name: str, x: tuple[int, ...], target: tuple[int, ...]) -> None:
    if x[:-1] != target:
        raise ValueError(
            f"{name}: logits {x} need targets of shape {x[:-1]}, not {target}"
        )
    if x[-1] == 0 and math.prod(target):
        raise ValueError(f"{name}: logits {x} have no classes")


def _cross_entropy_rule(logits: Spec, target: Spec, *, classes) -> Spec:
    _check_targets("cross_entropy", logits.shape, target.shape[:-1])
    return Spec(target.shape, logits.dtype)


def _picked(x, target, name):
    """x at the target class, along the last axis; a negative class is out of range, not one
    from the end."""
    return take_along_axis(x, e.astype(target, uint32), axis=-1, name=name)


def _cross_entropy_formula(x, target, *, classes):
    at = target.astype(uint32)  # a negative class is out of range, not one from the end
    is_there = s.wrap_index(at, at.const(classes)) == at
    hit = s.row_index(at, uint32) == at
    away = x - s.row_max(x)
    found = s.row_sum(s.where(hit, away, 0))
    return s.log(s.row_sum(s.exp(away))) - s.where(is_there, found, 0)


def _cross_entropy_fallback(x, target, *, classes):
    return e.negative(_picked(log_softmax(x), target, "cross_entropy"))


def _slope_formula(g, x, target):
    at = target.astype(uint32)
    hit = s.row_index(at, uint32) == at
    return (_softmax_formula(x, axis=-1) - s.where(hit, x.const(1), 0)) * g


def _slope_fallback(g, x, target):
    hit = one_hot(reshape(target, target.shape[:-1]), x.shape[-1], x.dtype)
    return e.multiply(e.subtract(softmax(x), hit), g)


def _slope_reference(g, x, target):
    hit = np.arange(x.shape[-1]) == target
    return (_softmax_reference(x, axis=-1) - hit) * g


_LOGITS = [((5,), 3), ((2, 3), 7), ((4,), 1000), ((), 4)]

_cross_entropy_slope = Op(
    "cross_entropy_slope",
    lambda g, x, target: Spec(x.shape, x.dtype),
    reference=_slope_reference,
    cases=lambda rng: [
        Case(
            [
                rng.normal(size=(*rows, 1)),
                rng.normal(size=(*rows, n)),
                rng.integers(0, n, (*rows, 1)),
            ],
            {},
            ("float32", "float64"),
        )
        for rows, n in _LOGITS
    ],
    formula=_slope_formula,
    row=lambda g, x, target: x.shape[-1],
    fallback=_slope_fallback,
    ulps=32,
    doc="(softmax(x) - one_hot(target)) * g; g and target have a last axis of size 1.",
)


def _cross_entropy_grad(g, y, x, target, *, classes):
    return _cross_entropy_slope(g, x, target)


def _cross_entropy_reference(x, target, *, classes):
    logp = _log_softmax_reference(x, axis=-1)
    return -np.take_along_axis(logp, target.astype(int), -1)


_cross_entropy = Op(
    "cross_entropy",
    _cross_entropy_rule,
    grad=(_cross_entropy_grad, None),
    reference=_cross_entropy_reference,
    cases=lambda rng: [
        Case(
            [rng.normal(size=(*rows, n)), rng.integers(0, n, (*rows, 1))],
            {"classes": n},
            ("float32", "float64"),
        )
        for rows, n in _LOGITS
    ],
    formula=_cross_entropy_formula,
    row=lambda x, target, *, classes: classes,
    fallback=_cross_entropy_fallback,
    bad=[
        Bad(
            [((2, 0), "float32"), ((2, 1), "int32")],
            {"classes": 0},
            ValueError,
            r"cross_entropy: logits \(2, 0\) have no classes",
        ),
        Bad(
            [((2, 3), "float32"), ((3, 1), "int32")],
            {"classes": 3},
            ValueError,
            r"cross_entropy: logits \(2, 3\) need targets of shape \(2,\), not \(3,\)",
        ),
    ],
    ulps=32,
    doc="-log_softmax(x) at the target; target and result have a last axis of size 1.",
)


def _class_axis(name: str, x: Any) -> Any:
    """x with its classes last: axis 1, or 0 where there is only one."""
    if x.ndim == 0:
        raise ValueError(f"{name}: logits need a class axis, got a 0-d tensor")
    if not x.dtype.is_float:
        raise TypeError(f"{name}: logits are floating, not {x.dtype.name}")
    return moveaxis(x, 1, -1) if x.ndim > 2 else x


def _weigh(
    name: str, losses: Any, target: Any, ignore_index: int | None, how: str, scale: Any
) -> Any:
    """The reduction of the losses of classes: the mean is one weighted by `scale`."""
    if ignore_index is not None:
        keep = e.not_equal(target, ignore_index)
        losses = e.where(keep, losses, 0)
        if how == "mean":
            scale = e.astype(keep, losses.dtype) if scale is None else scale
            scale = e.where(keep, scale, 0)
    if how == "mean" and scale is not None:
        return e.divide(total(losses), total(scale))
    return _reduced(name, losses, how)


def _without_ignored(target: Any, ignore_index: int | None) -> Any:
    if ignore_index is None:
        return target
    return e.where(e.equal(target, ignore_index), 0, target)


def _check_weight(name: str, weight: Any, classes: int) -> None:
    if weight is not None and tuple(weight.shape) != (classes,):
        raise ValueError(
            f"{name}: weight is {tuple(weight.shape)}, one number for each of {classes} "
            "classes is needed"
        )


@casting
def cross_entropy(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """-log softmax(logits)[target]: the loss of a classifier.

    logits: (n, classes), (classes,), or (n, classes, d1, ...). target: the classes, integers
    of the same shape without the class axis, or probabilities of the shape of the logits.
    weight: (classes,), by which the loss of each class is multiplied; the mean is divided by
    the weights of the targets. A class out of range raises IndexError, at the next read on a
    GPU; one equal to ignore_index counts for nothing.

    >>> pn.cross_entropy(pn.tensor([[0.0, 0.0]]), pn.tensor([1])).item()
    0.6931...
    """
    name = "cross_entropy"
    x = _class_axis(name, logits)
    _check_weight(name, weight, x.shape[-1])
    if target.dtype.is_float:
        _same_shape(name, logits, target)
        t = moveaxis(target, 1, -1) if target.ndim > 2 else target
        t = _smoothed(t, label_smoothing)
        t = t if weight is None else e.multiply(t, weight)
        losses = e.negative(total(e.multiply(t, log_softmax(x)), axis=-1))
        return _reduced(name, losses, reduction)
    safe = _without_ignored(target, ignore_index)
    column = reshape(safe, (*safe.shape, 1))
    losses = _cross_entropy(x, column, classes=x.shape[-1])
    losses, scale = reshape(losses, safe.shape), None
    if weight is not None:
        scale = take(weight, e.astype(safe, uint32), axis=0, name=name)
        losses = e.multiply(losses, scale)
    if label_smoothing:
        each = log_softmax(x)
        each = each if weight is None else e.multiply(each, weight)
        losses = e.subtract(
            e.multiply(losses, 1 - label_smoothing),
            e.multiply(mean(each, axis=-1), label_smoothing),
        )
    return _weigh(name, losses, target, ignore_index, reduction, scale)


def _smoothed(t: Any, amount: float) -> Any:
    if not amount:
        return t
    return e.add(e.multiply(t, 1 - amount), amount / t.shape[-1])


@casting
def nll_loss(
    log_probabilities: Any,
    target: Any,
    *,
    weight: Any = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Any:
    """-log_probabilities[target]; shapes and weight as for cross_entropy."""
    name = "nll_loss"
    x = _class_axis(name, log_probabilities)
    _check_targets(name, tuple(x.shape), tuple(target.shape))
    _check_weight(name, weight, x.shape[-1])
    safe = _without_ignored(target, ignore_index)
    picked = reshape(_picked(x, reshape(safe, (*safe.shape, 1)), name), safe.shape)
    losses, scale = e.negative(picked), None
    if weight is not None:
        scale = take(weight, e.astype(safe, uint32), axis=0, name=name)
        losses = e.multiply(losses, scale)
    return _weigh(name, losses, target, ignore_index, reduction, scale)


@casting
def mse_loss(x: Any, target: Any, *, reduction: str = "mean") -> Any:
    """(x - target) ** 2.

    >>> pn.mse_loss(pn.tensor([1.0, 3.0]), pn.tensor([1.0, 1.0])).item()
    2.0
    """
    _same_shape("mse_loss", x, target)
    return _reduced("mse_loss", e.square(e.subtract(x, target)), reduction)


@casting
def l1_loss(x: Any, target: Any, *, reduction: str = "mean") -> Any:
    """|x - target|."""
    _same_shape("l1_loss", x, target)
    return _reduced("l1_loss", e.abs(e.subtract(x, target)), reduction)


@casting
def huber_loss(
    x: Any, target: Any, *, delta: float = 1.0, reduction: str = "mean"
) -> Any:
    """d * d / 2 where d = |x - target| < delta, else delta * (d - delta / 2).

    Huber, Ann. Math. Stat. 35 (1964).
    """
    _same_shape("huber_loss", x, target)
    if not delta > 0:
        raise ValueError(f"huber_loss: delta must be above 0, not {delta}")
    return _reduced(
        "huber_loss", _huber(e.subtract(x, target), delta=float(delta)), reduction
    )


def _huber_formula(d, *, delta):
    size = s.apply("abs", d)
    return s.where(size < delta, 0.5 * d * d, delta * (size - 0.5 * delta))


_huber = e.elementwise(
    "huber",
    _huber_formula,
    lambda d, *, delta: np.where(
        np.abs(d) < delta, 0.5 * d * d, delta * (np.abs(d) - 0.5 * delta)
    ),
    types="float",
    static=({"delta": 1.0}, {"delta": 0.5}),
    ulps=8,
)


def _bce_formula(x, t):
    step = s.where(x > 0, x.const(1), x.const(0))
    return x * (step - t) + s.log1p(s.exp(-s.apply("abs", x)))


_bce = e.elementwise(
    "binary_cross_entropy",
    _bce_formula,
    lambda x, t: x * ((x > 0) - t) + np.log1p(np.exp(-np.abs(x))),
    types="float",
    domain=((-9.0, 9.0), (0.0, 1.0)),
    grad=(
        lambda g, y, x, t: e.multiply(g, e.subtract(e.sigmoid(x), t)),
        lambda g, y, x, t: e.negative(e.multiply(g, x)),
    ),
    # Terms of the size of |x| cancel: the bound is on their size.
    ulps=64,
)


@casting
def binary_cross_entropy_with_logits(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: str = "mean",
) -> Any:
    """-(t log sigmoid(x) + (1 - t) log(1 - sigmoid(x))), without overflow.

    weight: what each loss is multiplied by; pos_weight: what t log sigmoid(x) is, by itself.
    Both broadcast to the shape of the logits.
    """
    name = "binary_cross_entropy_with_logits"
    _same_shape(name, logits, target)
    if pos_weight is None:
        values = _bce(logits, target)
    else:
        share = e.add(1, e.multiply(e.subtract(pos_weight, 1), target))
        away = e.multiply(e.subtract(1, target), logits)
        values = e.add(away, e.multiply(share, e.softplus(e.negative(logits))))
    return _reduced(name, _weighted(name, values, weight), reduction)


def _weighted(name: str, values: Any, weight: Any) -> Any:
    if weight is None:
        return values
    if e.broadcast(name, [values.shape, weight.shape]) != tuple(values.shape):
        raise ValueError(
            f"{name}: weight {tuple(weight.shape)} is larger than the input "
            f"{tuple(values.shape)}"
        )
    return e.multiply(values, weight)


_smooth_l1 = e.elementwise(
    "smooth_l1",
    lambda d, *, beta: _huber_formula(d, delta=beta) * (1 / beta),
    lambda d, *, beta: np.where(
        np.abs(d) < beta, 0.5 * d * d / beta, np.abs(d) - 0.5 * beta
    ),
    types="float",
    static=({"beta": 1.0}, {"beta": 0.5}),
    ulps=8,
)


@casting
def smooth_l1_loss(
    x: Any, target: Any, *, beta: float = 1.0, reduction: str = "mean"
) -> Any:
    """d * d / (2 beta) where d = |x - target| < beta, else d - beta / 2.

    beta 0: the l1 loss. Girshick, ICCV 2015.
    """
    name = "smooth_l1_loss"
    _same_shape(name, x, target)
    if not beta >= 0:
        raise ValueError(f"{name}: beta can't be negative: {beta}")
    if beta == 0:
        return l1_loss(x, target, reduction=reduction)
    return _reduced(
        name, _smooth_l1(e.subtract(x, target), beta=float(beta)), reduction
    )
