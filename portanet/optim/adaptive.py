"""RMSprop and Adagrad: steps divided by the size that gradients have had."""

from __future__ import annotations

from typing import Any

from ..autograd import Tensor
from ..ops import optimise
from .optimizer import Group, Optimizer, assign_each, full_at, zeros_of


class RMSprop(Optimizer):
    """p <- p - lr * b, where b <- momentum * b + g / (sqrt(v) + eps).

    v is the running average of g * g with the weight 1 - alpha; g is the gradient plus
    weight_decay * p. centered: v less the square of the running average of g, an estimate
    of the variance. Tieleman and Hinton, Coursera lecture 6.5, 2012; Graves,
    arXiv:1308.0850, 2013. One launch a parameter.

    >>> p = nn.Parameter([1.0])
    >>> optimizer = pn.optim.RMSprop([p], lr=0.01)
    >>> (p * p).sum().backward()
    >>> optimizer.step(); round(p.item(), 4)
    0.9
    """

    state_names = ("square_avg", "grad_avg", "momentum_buffer")

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay,
            "momentum": momentum, "centered": centered, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check(self, option: str, value: Any) -> None:
        super().check(option, value)
        if option in ("alpha", "momentum"):
            self.check_number(option, value)

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group):
        names = ["square_avg"]
        names += ["grad_avg"] if group["centered"] else []
        names += ["momentum_buffer"] if group["momentum"] else []
        averages = zeros_of(p, state, *names)
        made = optimise.rmsprop(
            p, g, group.rate(p), *averages, centered=bool(group["centered"]),
            **group.static("alpha", "eps", "weight_decay", "momentum"),
        )  # fmt: skip
        assign_each((p, *averages), made)


class Adagrad(Optimizer):
    """p <- p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(sum of g * g) + eps).

    g is the gradient plus weight_decay * p; t counts the steps; the sum starts at
    initial_accumulator_value. Duchi, Hazan and Singer, JMLR 12 (2011). One launch a
    parameter, and one to count.

    >>> p = nn.Parameter([1.0])
    >>> optimizer = pn.optim.Adagrad([p], lr=0.1)
    >>> (p * p).sum().backward()
    >>> optimizer.step(); round(p.item(), 4)
    0.9
    """

    state_names = ("step", "sum")

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value, "eps": eps,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check(self, option: str, value: Any) -> None:
        super().check(option, value)
        if option in ("lr_decay", "initial_accumulator_value"):
            self.check_number(option, value)

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group):
        if "sum" not in state:
            state["sum"] = full_at(p, group["initial_accumulator_value"])
        static = group.static("lr_decay", "eps", "weight_decay")
        total = state["sum"]
        made = optimise.adagrad(p, g, total, group.rate(p), state["step"], **static)
        assign_each((p, total), made)
