"""Adam's relatives: Adadelta, Adamax, NAdam, RAdam, in PyTorch's forms."""

from __future__ import annotations

from typing import Any

from ..autograd import Tensor
from ..ops import adam_family as rules
from ..ops import elementwise as e
from .adam import moments
from .optimizer import Group, Optimizer, number_at, zeros_at


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
        if "square_avg" not in state:
            state["square_avg"], state["acc_delta"] = zeros_at(p), zeros_at(p)
        new, v, d = rules.adadelta(
            p, g, state["square_avg"], state["acc_delta"], group.rate(p),
            rho=float(group["rho"]), eps=float(group["eps"]),
            weight_decay=float(group["weight_decay"]),
        )  # fmt: skip
        p.assign(new)
        state["square_avg"].assign(v)
        state["acc_delta"].assign(d)


class _Betas(Optimizer):
    """What those with two betas share."""

    def options(self, group: Group, *names: str) -> dict[str, Any]:
        """The static arguments of the rule."""
        beta1, beta2 = map(float, group["betas"])
        kept = {name: float(group[name]) for name in ("eps", "weight_decay", *names)}
        made: dict[str, Any] = {"beta1": beta1, "beta2": beta2, **kept}
        if "decoupled_weight_decay" in group:
            made["decoupled"] = bool(group["decoupled_weight_decay"])
        return made


class Adamax(_Betas):
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
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_inf"] = zeros_at(p), zeros_at(p)
        m, u = state["exp_avg"], state["exp_inf"]
        new, new_m, new_u = rules.adamax(
            p, g, m, u, group.rate(p), state["step"], **self.options(group)
        )
        p.assign(new)
        m.assign(new_m)
        u.assign(new_u)


class NAdam(_Betas):
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
        m, v = moments(p, state)
        if "mu_product" not in state:
            state["mu_product"] = number_at(p, 1.0, p.dtype.compute)
        static = self.options(group, "momentum_decay")
        now = rules.nadam_momentum(
            state["step"],
            beta1=static["beta1"],
            momentum_decay=static["momentum_decay"],
        )
        product = e.astype(e.multiply(state["mu_product"], now), p.dtype.compute)
        new, new_m, new_v = rules.nadam(
            p, g, m, v, group.rate(p), state["step"], product, **static
        )
        p.assign(new)
        m.assign(new_m)
        v.assign(new_v)
        state["mu_product"].assign(product)


class RAdam(_Betas):
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
        m, v = moments(p, state)
        new, new_m, new_v = rules.radam(
            p, g, m, v, group.rate(p), state["step"], **self.options(group)
        )
        p.assign(new)
        m.assign(new_m)
        v.assign(new_v)
