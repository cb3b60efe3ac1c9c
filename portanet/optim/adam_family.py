"""Adam's relatives: Adadelta, Adamax, NAdam, RAdam, in PyTorch's forms."""

from __future__ import annotations

from typing import Any

from ..autograd import Tensor
from ..ops import adam_family as rules
from ..ops import elementwise as e
from .optimizer import Group, Optimizer, assign_each, number_at, zeros_of


class Adadelta(Optimizer):
    """p <- p - lr * d, where d = sqrt(D + eps) / sqrt(v + eps) * g.

    v and D are the running averages of g * g and d * d, with the weight 1 - rho. Zeiler,
    arXiv:1212.5701, 2012. One launch a parameter.

    >>> p = nn.Parameter([1.0])
    >>> optimizer = pn.optim.Adadelta([p])
    >>> (p * p).sum().backward()
    >>> optimizer.step(); round(p.item(), 4)
    0.9968
    """

    state_names = ("step", "square_avg", "acc_delta")

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check(self, option: str, value: Any) -> None:
        super().check(option, value)
        if option == "rho":
            self.check_number(option, value, below=1.0)

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group):
        v, d = zeros_of(p, state, "square_avg", "acc_delta")
        static = group.static("rho", "eps", "weight_decay")
        assign_each((p, v, d), rules.adadelta(p, g, v, d, group.rate(p), **static))


class Adamax(Optimizer):
    """p <- p - lr / (1 - beta1^t) * m / u, where u <- max(beta2 * u, |g| + eps).

    m is the running average of g. Kingma and Ba, ICLR 2015, section 7. One launch a
    parameter, and one to count.

    >>> p = nn.Parameter([1.0])
    >>> optimizer = pn.optim.Adamax([p], lr=0.1)
    >>> (p * p).sum().backward()
    >>> optimizer.step(); round(p.item(), 4)
    0.9
    """

    state_names = ("step", "exp_avg", "exp_inf")

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group):
        m, u = zeros_of(p, state, "exp_avg", "exp_inf")
        static = group.static("betas", "eps", "weight_decay")
        made = rules.adamax(p, g, m, u, group.rate(p), state["step"], **static)
        assign_each((p, m, u), made)


class NAdam(Optimizer):
    """Adam with Nesterov's momentum, whose weight grows: beta1 * (1 - 0.96^(t d) / 2) at
    step t, with d = momentum_decay.

    Dozat, ICLR workshop 2016. decoupled_weight_decay: as in AdamW. Two launches a
    parameter, and one to count.

    >>> p = nn.Parameter([1.0])
    >>> optimizer = pn.optim.NAdam([p], lr=0.1)
    >>> (p * p).sum().backward()
    >>> optimizer.step(); round(p.item(), 4)
    0.8944
    """

    state_names = ("step", "mu_product", "exp_avg", "exp_avg_sq")
    scalars = ("step", "mu_product")

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check(self, option: str, value: Any) -> None:
        super().check(option, value)
        if option == "momentum_decay":
            self.check_number(option, value)

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group):
        m, v = zeros_of(p, state, "exp_avg", "exp_avg_sq")
        if "mu_product" not in state:
            state["mu_product"] = number_at(p, 1.0, p.dtype.compute)
        static = group.static("betas", "eps", "weight_decay", "momentum_decay")
        now = rules.nadam_momentum(
            state["step"],
            beta1=static["beta1"],
            momentum_decay=static["momentum_decay"],
        )
        product = e.astype(e.multiply(state["mu_product"], now), p.dtype.compute)
        made = rules.nadam(
            p, g, m, v, group.rate(p), state["step"], product,
            decoupled=bool(group["decoupled_weight_decay"]), **static,
        )  # fmt: skip
        assign_each((p, m, v, state["mu_product"]), (*made, product))


class RAdam(Optimizer):
    """Adam, whose step is rectified by how sure the second moment is, and plain momentum
    as long as it is not.

    Liu et al., ICLR 2020. decoupled_weight_decay: as in AdamW. One launch a parameter, and
    one to count.

    >>> p = nn.Parameter([1.0])
    >>> optimizer = pn.optim.RAdam([p], lr=0.1)
    >>> (p * p).sum().backward()
    >>> optimizer.step(); round(p.item(), 4)
    0.8
    """

    state_names = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check(self, option: str, value: Any) -> None:
        super().check(option, value)
        # rho's limit 2 / (1 - beta2) - 1 must be above 5, or no step is ever rectified.
        if option == "betas" and not value[1] > 2 / 3:
            raise ValueError(f"RAdam: betas[1] must be above 2/3, not {value[1]}")

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group):
        m, v = zeros_of(p, state, "exp_avg", "exp_avg_sq")
        static = group.static("betas", "eps", "weight_decay")
        made = rules.radam(
            p, g, m, v, group.rate(p), state["step"],
            decoupled=bool(group["decoupled_weight_decay"]), **static,
        )  # fmt: skip
        assign_each((p, m, v), made)
