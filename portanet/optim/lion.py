"""Lion: steps of one size, in the direction of a sign."""

from __future__ import annotations

from typing import Any

from ..autograd import Tensor
from ..ops import optimise
from .optimizer import Group, Optimizer, assign_each, zeros_of


class Lion(Optimizer):
    """p <- p - lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * p).

    Then m <- beta2 * m + (1 - beta2) * g, from 0. A good lr is 3 to 10 times smaller than
    AdamW's, and weight_decay as many times larger. Chen et al., NeurIPS 2023. One launch
    a parameter.

    >>> p = nn.Parameter([1.0])
    >>> optimizer = pn.optim.Lion([p], lr=0.125)
    >>> (p * p).sum().backward()
    >>> optimizer.step(); p.item()
    0.875
    """

    state_names = ("exp_avg",)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ):
        super().__init__(
            params, {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        )

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group):
        (m,) = zeros_of(p, state, "exp_avg")
        static = group.static("betas", "weight_decay")
        assign_each((p, m), optimise.lion(p, g, m, group.rate(p), **static))
