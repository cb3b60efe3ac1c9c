"""LAMB: Adam's direction, as long as the parameter asks for."""

from __future__ import annotations

from typing import Any

from ..autograd import Tensor
from ..ops import optimise
from .optimizer import Group, Optimizer, assign_each, zeros_of


class LAMB(Optimizer):
    """p <- p - lr * |p| / |r| * r, where r is Adam's step plus weight_decay * p.

    r = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * p; the norms are
    those of the whole parameter, and their ratio is 1 where either is 0. For large batches:
    You et al., ICLR 2020. Eight launches a parameter, six of them for the norms, and one to
    count.

    >>> p = nn.Parameter([3.0, 4.0])
    >>> optimizer = pn.optim.LAMB([p], lr=0.1, weight_decay=0.0)
    >>> p.sum().backward()
    >>> optimizer.step(); round((pn.norm(p - pn.tensor([3.0, 4.0])) / 5).item(), 4)
    0.1
    """

    state_names = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
    ):
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group):
        m, v = zeros_of(p, state, "exp_avg", "exp_avg_sq")
        static = group.static("betas", "eps", "weight_decay")
        r, *moved = optimise.lamb_direction(p, g, m, v, state["step"], **static)
        assign_each((p, m, v), (optimise.lamb_step(p, r, group.rate(p)), *moved))
