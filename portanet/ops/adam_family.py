"""The updates of Adam's relatives: one formula, hence one launch, a parameter.

The order of operations is PyTorch's, so that the numbers are.
"""

from __future__ import annotations

import math
import numpy as np

from .. import scalars as s
from ..op import Case
from .optimise import _update

_BETAS = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}


def _decayed(p, g, lr, weight_decay, decoupled):
    """The parameter and the gradient after weight decay of either kind."""
    if weight_decay and decoupled:
        return p - lr * weight_decay * p, g
    return p, g + weight_decay * p if weight_decay else g


def _cases(statics, states: int, *numbers: float):
    """p, g, states that may be averages of squares, and 0-d numbers."""

    def cases(rng) -> list[Case]:
        made = []
        for static in statics:
            p, g, *kept = rng.normal(size=(2 + states, 7))
            squares = [v * v for v in kept]
            made.append(Case([p, g, *squares, *map(np.array, numbers)], static))
        return made

    return cases


# Adadelta --------------------------------------------------------------------------------


def _adadelta_with(sqrt):
    def adadelta(p, g, v, d, lr, *, rho, eps, weight_decay):
        p, g = _decayed(p, g, lr, weight_decay, False)
        v = rho * v + (1 - rho) * (g * g)
        step = sqrt(d + eps) / sqrt(v + eps) * g
        return p - lr * step, v, rho * d + (1 - rho) * (step * step)

    return adadelta


adadelta = _update(
    "adadelta", 3, _adadelta_with(s.sqrt), _adadelta_with(np.sqrt),
    _cases([{"rho": 0.9, "eps": 1e-6, "weight_decay": w} for w in (0.0, 0.01)], 2, 0.1),
    "The parameter, the running averages of g * g and of the squared step after a step of "
    "Adadelta; Zeiler, arXiv:1212.5701, 2012.",
)  # fmt: skip

# Adamax ----------------------------------------------------------------------------------


def _adamax_with(absolute, maximum, expm1):
    def adamax(p, g, m, u, lr, t, *, beta1, beta2, eps, weight_decay):
        p, g = _decayed(p, g, lr, weight_decay, False)
        m = m + (1 - beta1) * (g - m)
        u = maximum(beta2 * u, absolute(g) + eps)
        step = lr / -expm1(t * math.log(beta1)) if beta1 else lr
        return p - step * m / u, m, u

    return adamax


adamax = _update(
    "adamax", 3, _adamax_with(lambda x: s.apply("abs", x), s.maximum, s.expm1),
    _adamax_with(np.abs, np.maximum, np.expm1),
    _cases([{**_BETAS, "weight_decay": w} for w in (0.0, 0.01)], 2, 0.1, 3.0),
    "The parameter, the first moment and the largest gradient, which decays, after a step of "
    "Adamax; Kingma and Ba, ICLR 2015, section 7.",
)  # fmt: skip

# NAdam -----------------------------------------------------------------------------------


def _schedule_with(exp):
    def schedule(t, *, beta1, momentum_decay):
        return beta1 * (1 - 0.5 * exp(t * (momentum_decay * math.log(0.96))))

    return schedule


nadam_momentum = _update(
    "nadam_momentum", 1, _schedule_with(s.exp), _schedule_with(np.exp),
    lambda rng: [Case([np.array(3.0)], {"beta1": 0.9, "momentum_decay": 0.004})],
    "The momentum of NAdam at step t: beta1 * (1 - 0.96 ** (t * momentum_decay) / 2).",
)  # fmt: skip


def _nadam_with(sqrt, exp, expm1):
    momentum = _schedule_with(exp)

    def nadam(
        p, g, m, v, lr, t, product, *, beta1, beta2, eps, weight_decay, momentum_decay,
        decoupled,
    ):  # fmt: skip
        p, g = _decayed(p, g, lr, weight_decay, decoupled)
        now = momentum(t, beta1=beta1, momentum_decay=momentum_decay)
        then = momentum(t + 1, beta1=beta1, momentum_decay=momentum_decay)
        m = m + (1 - beta1) * (g - m)
        v = beta2 * v + (1 - beta2) * (g * g)
        size = sqrt(v / -expm1(t * math.log(beta2)) if beta2 else v) + eps
        p = p - lr * (1 - now) / (1 - product) * g / size
        return p - lr * then / (1 - product * then) * m / size, m, v

    return nadam


nadam = _update(
    "nadam", 3, _nadam_with(s.sqrt, s.exp, s.expm1), _nadam_with(np.sqrt, np.exp, np.expm1),
    _cases(
        [
            {**_BETAS, "weight_decay": w, "momentum_decay": 0.004, "decoupled": d}
            for w, d in [(0.0, False), (0.01, False), (0.01, True)]
        ],
        2, 0.1, 3.0, 0.1,
    ),
    "The parameter and both moments after a step of NAdam; the last input is the product of "
    "the momenta up to this step. Dozat, ICLR workshop 2016.",
)  # fmt: skip

# RAdam -----------------------------------------------------------------------------------


def _radam_with(sqrt, expm1, where, maximum):
    def radam(p, g, m, v, lr, t, *, beta1, beta2, eps, weight_decay, decoupled):
        p, g = _decayed(p, g, lr, weight_decay, decoupled)
        m = m + (1 - beta1) * (g - m)
        v = beta2 * v + (1 - beta2) * (g * g)
        step = lr / -expm1(t * math.log(beta1)) if beta1 else lr
        # rho = end - 2 t beta2^t / (1 - beta2^t). Both are about 2 / (1 - beta2), which in
        # float32 would leave three digits. With a = -log(beta2), x = a t it is
        # (end - 2 / a) + 2 / a * (expm1(x) - x) / expm1(x), a sum of what is not large.
        a = -math.log(beta2)
        end = 2 / (1 - beta2) - 1
        x = t * a
        series = x * x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x / 720))))
        excess = where(x < 0.1, series, expm1(x) - x)
        rho = (end - 2 / a) + 2 / a * (excess / expm1(x))
        is_sure = rho > 5
        safe = maximum(rho, 5)
        scale = (end / (end - 4)) / (end - 2)
        rectified = sqrt((safe - 4) * (safe - 2) / safe * scale * -expm1(-x))
        return p - step * m * where(is_sure, rectified / (sqrt(v) + eps), 1), m, v

    return radam


radam = _update(
    "radam", 3, _radam_with(s.sqrt, s.expm1, s.where, s.maximum),
    _radam_with(np.sqrt, np.expm1, np.where, np.maximum),
    lambda rng: [
        case
        for t in (2.0, 6.0, 200.0, 5000.0)
        for case in _cases(
            [
                {**_BETAS, "weight_decay": w, "decoupled": d}
                for w, d in [(0.0, False), (0.01, True)]
            ],
            2, 0.1, t,
        )(rng)
    ],
    "The parameter and both moments after a step of RAdam; Liu et al., ICLR 2020.",
)  # fmt: skip
