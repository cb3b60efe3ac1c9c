"""Gradient descent, with momentum where asked."""

from __future__ import annotations

from typing import Any

from ..autograd import Tensor
from ..ops import optimise
from .optimizer import Group, Optimizer, assign_each, number_at, zeros_of


class SGD(Optimizer):
    """p <- p - lr * v, where v <- momentum * v + (1 - dampening) * g, at first g.

    g is the gradient plus weight_decay * p; with nesterov the step is g + momentum * v;
    with maximize the gradient's sign is changed. Sutskever et al., ICML 2013, in PyTorch's
    form. One launch a parameter.

    >>> p = nn.Parameter([1.0])
    >>> optimizer = pn.optim.SGD([p], lr=0.1)
    >>> (p * p).sum().backward()
    >>> optimizer.step(); p.tolist()
    [0.8...]
    """

    state_names = ("momentum_buffer", "gain")

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening,
            "weight_decay": weight_decay, "nesterov": nesterov, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)
        for group in self.param_groups:
            if group["nesterov"] and (not group["momentum"] or group["dampening"]):
                raise ValueError(
                    "SGD: nesterov needs a momentum above 0 and no dampening, not "
                    f"momentum={group['momentum']}, dampening={group['dampening']}"
                )

    def check(self, option: str, value: Any) -> None:
        super().check(option, value)
        if option in ("momentum", "dampening"):
            self.check_number(option, value)

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group):
        lr, decay = group.rate(p), float(group["weight_decay"])
        if not group["momentum"]:
            p.assign(optimise.sgd(p, g, lr, weight_decay=decay))
            return
        (v,) = zeros_of(p, state, "momentum_buffer")
        made = optimise.sgd_momentum(
            p, g, v, lr, _gain(p, state, group), momentum=float(group["momentum"]),
            nesterov=bool(group["nesterov"]), weight_decay=decay,
        )  # fmt: skip
        assign_each((p, v), made)
        if group["dampening"]:
            state["gain"].assign(p.constant(1 - group["dampening"], p.dtype.compute))


def _gain(p: Tensor, state: dict[str, Tensor], group: Group) -> Tensor:
    """What the gradient counts: all at the first step, 1 - dampening after it."""
    if not group["dampening"]:
        return p.constant(1.0, p.dtype.compute)
    if "gain" not in state:
        state["gain"] = number_at(p, 1.0, p.dtype.compute)
    return state["gain"]
