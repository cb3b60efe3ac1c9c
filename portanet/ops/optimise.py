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
from .elementwise import broadcast


def _update(name: str, outputs: int, formula, reference, cases, doc: str) -> Op:
    """An elementwise operator with several results, not differentiable."""

    def rule(*specs: Spec, **static) -> Any:
        shape = broadcast(name, [x.shape for x in specs])
        made = Spec(shape, specs[0].dtype)
        return (made,) * outputs if outputs > 1 else made

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


def _adam_with(sqrt, expm1):
    def adam(p, g, m, v, lr, t, *, beta1, beta2, eps, weight_decay, decoupled):
        if weight_decay and decoupled:
            p = p - lr * weight_decay * p
        elif weight_decay:
            g = g + weight_decay * p
        m = m + (1 - beta1) * (g - m)
        v = beta2 * v + (1 - beta2) * (g * g)
        # 1 - beta ** t corrects the bias toward the zeros at the start. In float32 the
        # power would cancel (0.999 ** 1 leaves four digits); expm1 does not.
        step = lr / -expm1(t * math.log(beta1)) if beta1 else lr
        root = sqrt(-expm1(t * math.log(beta2))) if beta2 else 1
        return p - step * m / (sqrt(v) / root + eps), m, v

    return adam


def _adam_cases(rng) -> list[Case]:
    made = []
    for decoupled, beta1 in ((False, 0.9), (True, 0.9), (False, 0.0)):
        p, g, m, v = rng.normal(size=(4, 7))
        static = {
            "beta1": beta1, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01,
            "decoupled": decoupled,
        }  # fmt: skip
        made.append(Case([p, g, m, v * v, np.array(0.1), np.array(3.0)], static))
    return made


adam = _update(
    "adam", 3, _adam_with(s.sqrt, s.expm1), _adam_with(np.sqrt, np.expm1), _adam_cases,
    "The parameter and both moments after a step of Adam (Kingma and Ba, ICLR 2015), or of "
    "AdamW where the weight decay is decoupled (Loshchilov and Hutter, ICLR 2019).",
)  # fmt: skip
