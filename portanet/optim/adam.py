"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

from ..autograd import Tensor
from ..ops import optimise
from .optimizer import Group, Optimizer, assign_each, zeros_of


class Adam(Optimizer):
    """p <- p - lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps).

    m and v are the running averages of g and g * g; g is the gradient plus
    weight_decay * p; t counts the steps. Kingma and Ba, ICLR 2015. amsgrad: v stands for
    its largest value so far; Reddi, Kale and Kumar, ICLR 2018. maximize: the gradient's
    sign is changed. One launch a parameter, and one to count.

    >>> p = nn.Parameter([1.0])
    >>> optimizer = pn.optim.Adam([p], lr=0.1)
    >>> (p * p).sum().backward()
    >>> optimizer.step(); round(p.item(), 4)
    0.9
    """

    state_names = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    decoupled = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "amsgrad": amsgrad, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group):
        adam_update(p, g, state, group, self.decoupled)


def adam_update(
    p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group, decoupled: bool
) -> None:
    """Assign p and its moments after a step of Adam, or of AdamW where decoupled."""
    highest = ("max_exp_avg_sq",) if group.get("amsgrad") else ()
    m, v, *most = zeros_of(p, state, "exp_avg", "exp_avg_sq", *highest)
    static = group.static("betas", "eps", "weight_decay")
    made = optimise.adam(
        p, g, m, v, group.rate(p), state["step"], *most, decoupled=decoupled, **static
    )
    assign_each((p, m, v, *most), made)


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
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize
        )
