"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

from ..autograd import Tensor
from ..ops import optimise
from .optimizer import Group, Optimizer, zeros_at


class Adam(Optimizer):
    """p <- p - lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps).

    m and v are the running averages of g and g * g; g is the gradient plus
    weight_decay * p; t counts the steps. Kingma and Ba, ICLR 2015. One launch a parameter,
    and one to count.

    >>> p = nn.Parameter([1.0])
    >>> optimizer = pn.optim.Adam([p], lr=0.1)
    >>> (p * p).sum().backward()
    >>> optimizer.step(); round(p.item(), 4)
    0.9
    """

    state_names = ("step", "exp_avg", "exp_avg_sq")
    decoupled = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group):
        adam_update(p, g, state, group, self.decoupled)


def moments(p: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The running averages of g and g * g, zeros at first."""
    if "exp_avg" not in state:
        state["exp_avg"], state["exp_avg_sq"] = zeros_at(p), zeros_at(p)
    return state["exp_avg"], state["exp_avg_sq"]


def adam_update(
    p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group, decoupled: bool
) -> None:
    """Assign p and its moments after a step of Adam, or of AdamW where decoupled."""
    m, v = moments(p, state)
    beta1, beta2 = group["betas"]
    new, new_m, new_v = optimise.adam(
        p, g, m, v, group.rate(p), state["step"], beta1=float(beta1),
        beta2=float(beta2), eps=float(group["eps"]),
        weight_decay=float(group["weight_decay"]), decoupled=decoupled,
    )  # fmt: skip
    p.assign(new)
    m.assign(new_m)
    v.assign(new_v)


class AdamW(Adam):
    """Adam, but p <- p - lr * weight_decay * p apart from the gradient.

    Loshchilov and Hutter, ICLR 2019.
    """

    decoupled = True

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        super().__init__(params, lr, betas, eps, weight_decay)
