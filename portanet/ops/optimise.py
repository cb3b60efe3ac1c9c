"""The updates of optimizers: one elementwise formula, hence one launch, a parameter.

Whatever changes from step to step (learning rate, step count) is an array; what stays is
static. The order of operations is PyTorch's, so that the numbers are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import scalars as s
from ..op import Case, Op, Spec
from . import elementwise as e
from .elementwise import broadcast
from .linear import matmul
from .reduce import norm
from .shape import matrix_transpose


def _update(name: str, outputs: int, formula, reference, cases, doc: str) -> Op:
    """An elementwise operator with several results, not differentiable.

    outputs: how many; below 1, so many fewer than the inputs that were given.
    """

    def rule(*specs: Spec, **static) -> Any:
        shape = broadcast(name, [x.shape for x in specs])
        made = Spec(shape, specs[0].dtype)
        count = outputs if outputs > 0 else len(specs) + outputs
        return (made,) * count if count > 1 else made

    def casts(*ts, **static):
        return [ts[0].compute] * len(ts)

    return Op(
        name, rule, None, reference, cases, formula, casts=casts, ulps=16, doc=doc
    )


def _sgd(p, g, v, lr, gain, *, momentum, nesterov, weight_decay):
    if weight_decay:
        g = g + weight_decay * p
    v = momentum * v + gain * g
    step = g + momentum * v if nesterov else v
    return p - lr * step, v


def _sgd_cases(rng) -> list[Case]:
    made = []
    for nesterov, gain in ((False, 1.0), (True, 1.0), (False, 0.5)):
        static = {"momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.01}
        args = [*rng.normal(size=(3, 7)), np.array(0.1), np.array(gain)]
        made.append(Case(args, static))
    return made


sgd_momentum = _update(
    "sgd_momentum", 2, _sgd, _sgd, _sgd_cases,
    "The parameter and the velocity after a step of SGD with momentum; Sutskever et al., "
    "ICML 2013, in PyTorch's form. gain: 1 - dampening, but 1 at the first step.",
)  # fmt: skip


def _plain(p, g, lr, *, weight_decay):
    if weight_decay:
        g = g + weight_decay * p
    return p - lr * g


sgd = _update(
    "sgd", 1, _plain, _plain,
    lambda rng: [Case([*rng.normal(size=(2, 7)), np.array(0.1)], {"weight_decay": 0.01})],
    "The parameter after a step of gradient descent.",
)  # fmt: skip


def _adam_with(sqrt, expm1, maximum):
    def adam(p, g, m, v, lr, t, *most, beta1, beta2, eps, weight_decay, decoupled):
        if weight_decay and decoupled:
            p = p - lr * weight_decay * p
        elif weight_decay:
            g = g + weight_decay * p
        m = m + (1 - beta1) * (g - m)
        v = beta2 * v + (1 - beta2) * (g * g)
        # 1 - beta ** t corrects the bias toward the zeros at the start. In float32 the
        # power would cancel (0.999 ** 1 leaves four digits); expm1 does not.
        step = lr / -expm1(t * math.log(beta1)) if beta1 else lr
        root = 1 / sqrt(-expm1(t * math.log(beta2))) if beta2 else 1
        top = [maximum(highest, v) for highest in most]
        return p - step * m / (sqrt(top[0] if most else v) * root + eps), m, v, *top

    return adam


def _adam_cases(rng) -> list[Case]:
    made = []
    for decoupled, beta1, amsgrad in (
        (False, 0.9, False), (True, 0.9, False), (False, 0.0, False), (True, 0.9, True)
    ):  # fmt: skip
        p, g, m, v = rng.normal(size=(4, 7))
        static = {
            "beta1": beta1, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01,
            "decoupled": decoupled,
        }  # fmt: skip
        most = [v[::-1] * v[::-1]] * amsgrad
        made.append(Case([p, g, m, v * v, np.array(0.1), np.array(3.0), *most], static))
    return made


adam = _update(
    "adam", -3, _adam_with(s.sqrt, s.expm1, s.maximum),
    _adam_with(np.sqrt, np.expm1, np.maximum), _adam_cases,
    "The parameter and both moments after a step of Adam (Kingma and Ba, ICLR 2015), or of "
    "AdamW where the weight decay is decoupled (Loshchilov and Hutter, ICLR 2019); with a "
    "seventh input, the highest second moment so far, also that (AMSGrad; Reddi, Kale and "
    "Kumar, ICLR 2018).",
)  # fmt: skip


# RMSprop and Adagrad ---------------------------------------------------------------------


def _rmsprop_with(sqrt, maximum):
    def rmsprop(p, g, lr, v, *averages, alpha, eps, weight_decay, momentum, centered):
        if weight_decay:
            g = g + weight_decay * p
        v = alpha * v + (1 - alpha) * (g * g)
        kept, spread = [], v
        if centered:
            m = averages[0] + (1 - alpha) * (g - averages[0])
            # Rounding may leave less than 0, whose root would be NaN.
            spread = maximum(v - m * m, 0)
            kept.append(m)
        step = g / (sqrt(spread) + eps)
        if momentum:
            step = momentum * averages[-1] + step
            kept.append(step)
        return (p - lr * step, v, *kept)

    return rmsprop


def _rmsprop_cases(rng) -> list[Case]:
    made = []
    for centered, momentum, decay in (
        (False, 0.0, 0.0), (False, 0.9, 0.01), (True, 0.0, 0.01), (True, 0.9, 0.0)
    ):  # fmt: skip
        p, g, m, b = rng.normal(size=(4, 7))
        v = m * m + rng.uniform(0.5, 2, 7)
        averages = [m] * centered + [b] * bool(momentum)
        static = {
            "alpha": 0.99, "eps": 1e-8, "weight_decay": decay, "momentum": momentum,
            "centered": centered,
        }  # fmt: skip
        made.append(Case([p, g, np.array(0.1), v, *averages], static))
    return made


rmsprop = _update(
    "rmsprop", -2, _rmsprop_with(s.sqrt, s.maximum), _rmsprop_with(np.sqrt, np.maximum),
    _rmsprop_cases,
    "The parameter, the running average of g * g, that of g where it is centered, and the "
    "velocity where there is momentum, after a step of RMSprop (Tieleman and Hinton, 2012; "
    "centered: Graves, 2013), in PyTorch's form. The result has as many as went in, but for "
    "g and lr.",
)  # fmt: skip


def _adagrad_with(sqrt):
    def adagrad(p, g, total, lr, t, *, lr_decay, eps, weight_decay):
        if weight_decay:
            g = g + weight_decay * p
        total = total + g * g
        rate = lr / (1 + (t - 1) * lr_decay) if lr_decay else lr
        return p - rate * g / (sqrt(total) + eps), total

    return adagrad


def _adagrad_cases(rng) -> list[Case]:
    made = []
    for lr_decay, decay in ((0.0, 0.0), (0.1, 0.01)):
        p, g, total = rng.normal(size=(3, 7))
        static = {"lr_decay": lr_decay, "eps": 1e-10, "weight_decay": decay}
        made.append(Case([p, g, total * total, np.array(0.1), np.array(3.0)], static))
    return made


adagrad = _update(
    "adagrad", 2, _adagrad_with(s.sqrt), _adagrad_with(np.sqrt), _adagrad_cases,
    "The parameter and the sum of g * g after a step of Adagrad; Duchi, Hazan and Singer, "
    "JMLR 12 (2011).",
)  # fmt: skip

# Lion ------------------------------------------------------------------------------------


def _sign(x):
    return s.where(x == 0, x.const(0), s.sign(x))


def _lion_with(sign):
    def lion(p, g, m, lr, *, beta1, beta2, weight_decay):
        step = sign(m + (1 - beta1) * (g - m))
        if weight_decay:
            step = step + weight_decay * p
        return p - lr * step, m + (1 - beta2) * (g - m)

    return lion


lion = _update(
    "lion", 2, _lion_with(_sign), _lion_with(np.sign),
    lambda rng: [
        Case(
            [*rng.normal(size=(3, 7)), np.array(0.1)],
            {"beta1": 0.9, "beta2": 0.99, "weight_decay": decay},
        )
        for decay in (0.0, 0.01)
    ],
    "The parameter and the momentum after a step of Lion; Chen et al., NeurIPS 2023.",
)  # fmt: skip

# LAMB ------------------------------------------------------------------------------------


def _lamb_direction_with(sqrt, expm1):
    def lamb_direction(p, g, m, v, t, *, beta1, beta2, eps, weight_decay):
        m = m + (1 - beta1) * (g - m)
        v = beta2 * v + (1 - beta2) * (g * g)
        # 1 - beta ** t, as in Adam.
        size = m / -expm1(t * math.log(beta1)) if beta1 else m
        root = sqrt(-expm1(t * math.log(beta2))) if beta2 else 1
        r = size / (sqrt(v) / root + eps)
        return (r + weight_decay * p if weight_decay else r), m, v

    return lamb_direction


def _lamb_cases(rng) -> list[Case]:
    made = []
    for decay, beta1 in ((0.0, 0.9), (0.01, 0.9), (0.01, 0.0)):
        p, g, m, v = rng.normal(size=(4, 7))
        static = {"beta1": beta1, "beta2": 0.999, "eps": 1e-6, "weight_decay": decay}
        made.append(Case([p, g, m, v * v, np.array(3.0)], static))
    return made


lamb_direction = _update(
    "lamb_direction", 3, _lamb_direction_with(s.sqrt, s.expm1),
    _lamb_direction_with(np.sqrt, np.expm1), _lamb_cases,
    "The direction r of LAMB and both moments: Adam's step plus weight_decay * p.",
)  # fmt: skip


def _lamb_with(where):
    def lamb_step(p, r, p_size, r_size, lr):
        moves = (p_size > 0) & (r_size > 0)
        trust = where(moves, p_size / where(moves, r_size, 1), 1)
        return p - lr * trust * r

    return lamb_step


_lamb_step = _update(
    "lamb_step", 1, _lamb_with(s.where), _lamb_with(np.where),
    lambda rng: [
        Case([*rng.normal(size=(2, 7)), np.array(a), np.array(b), np.array(0.1)])
        for a, b in [(2.0, 3.0), (0.0, 3.0), (2.0, 0.0)]
    ],
    "p - lr * (p_size / r_size) * r; the ratio is 1 where a size is 0.",
)  # fmt: skip


def lamb_step(p: Any, r: Any, lr: Any) -> Any:
    """p - lr * |p| / |r| * r, in Euclidean norms; You et al., ICLR 2020."""
    return _lamb_step(p, r, norm(p), norm(r), lr)


# Muon ------------------------------------------------------------------------------------


def _muon_momentum(v, g, momentum, *, nesterov):
    v = v + (1 - momentum) * (g - v)
    return v, g + momentum * (v - g) if nesterov else v


muon_momentum = _update(
    "muon_momentum", 2, _muon_momentum, _muon_momentum,
    lambda rng: [
        Case([*rng.normal(size=(2, 7)), np.array(0.95)], {"nesterov": nesterov})
        for nesterov in (False, True)
    ],
    "The velocity, an average of g, and the matrix that Muon makes orthogonal.",
)  # fmt: skip


def _mix(x, y, a, b):
    return a * x + b * y


_weighted_sum = _update(
    "weighted_sum", 1, _mix, _mix,
    lambda rng: [Case([*rng.normal(size=(2, 7)), np.array(3.4445), np.array(-4.775)])],
    "a * x + b * y, for numbers a and b.",
)  # fmt: skip

# Jordan et al., 2024: the slope at 0 as large as it gets while five steps leave singular
# values in about [0.7, 1.2].
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(x: Any, steps: int = 5, eps: float = 1e-7) -> Any:
    """About U @ V.T, for x = U @ diag(s) @ V.T: x with singular values brought to about 1.

    x: (rows, columns) float. Newton and Schulz's iteration x <- a x + (b A + c A A) x with
    A = x x.T; steps: how often. Five bring what is above 1e-3 of the norm into (0.5, 1.5).
    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """
    a, b, c = _QUINTIC
    tall = x.shape[0] > x.shape[1]
    x = matrix_transpose(x) if tall else x
    x = e.divide(x, e.maximum(norm(x), eps))
    for _ in range(steps):
        gram = matmul(x, matrix_transpose(x))
        step = _weighted_sum(gram, matmul(gram, gram), b, c)
        x = _weighted_sum(x, matmul(step, x), a, 1.0)
    return matrix_transpose(x) if tall else x


def _muon_step(p, o, lr, *, scale, weight_decay):
    p = p - lr * weight_decay * p if weight_decay else p
    return p - lr * scale * o


muon_step = _update(
    "muon_step", 1, _muon_step, _muon_step,
    lambda rng: [
        Case([*rng.normal(size=(2, 7)), np.array(0.1)], {"scale": 1.5, "weight_decay": decay})
        for decay in (0.0, 0.1)
    ],
    "p - lr * weight_decay * p - lr * scale * o.",
)  # fmt: skip
