"""Muon: momentum made orthogonal, for the matrices of hidden layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..autograd import Tensor
from ..ops import optimise
from .adam import adam_update
from .optimizer import Group, Optimizer, assign_each, zeros_of

_SCALES = {
    "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    # As large as AdamW's steps; Liu et al., arXiv:2502.16982, 2025.
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}


class Muon(Optimizer):
    """p <- p - lr * weight_decay * p - lr * scale * orthogonal(g + momentum * (v - g)).

    v is the running average of g with the weight 1 - momentum (without nesterov it is what
    is made orthogonal). orthogonal: `ns_steps` of Newton and Schulz's iteration, by matmul.
    scale: sqrt(max(1, rows / columns)), or with adjust_lr_fn="match_rms_adamw"
    0.2 * sqrt(max(rows, columns)). Jordan et al., "Muon: an optimizer for hidden layers in
    neural networks", 2024. The iteration is in the dtype of p; PyTorch's is in bfloat16.

    Muon is for the matrices of hidden layers. A group with "use_muon": False, for biases,
    norms, embeddings and the last layer, is trained by AdamW with its own lr, betas and
    weight_decay. ValueError for a parameter in a group of Muon's that is not 2-d.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> hidden = [p for p in model[0].parameters() if p.ndim == 2]
    >>> others = [p for p in model.parameters() if all(p is not h for h in hidden)]
    >>> groups = [{"params": hidden}, {"params": others, "use_muon": False, "lr": 3e-4}]
    >>> optimizer = pn.optim.Muon(groups, lr=0.02)
    """

    state_names = ("step", "momentum_buffer", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str = "original",
        betas: tuple[float, float] = (0.9, 0.95),
        use_muon: bool = True,
    ):
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum,
            "nesterov": nesterov, "eps": eps, "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn, "betas": betas, "use_muon": use_muon,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check(self, option: str, value: Any) -> None:
        super().check(option, value)
        if option == "momentum":
            self.check_number(option, value, below=1.0)
        elif option == "ns_steps" and not (isinstance(value, int) and 0 < value < 100):
            raise ValueError(f"Muon: ns_steps is a number in [1, 100), not {value!r}")
        elif option == "adjust_lr_fn" and value not in _SCALES:
            known = " or ".join(map(repr, _SCALES))
            raise ValueError(f"Muon: adjust_lr_fn is {known}, not {value!r}")

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        super().add_param_group(group)
        added = self.param_groups[-1]
        for i, p in enumerate(added["params"]):
            if added["use_muon"] and p.ndim != 2:
                del self.param_groups[-1]
                raise ValueError(
                    f"Muon: parameter {i} has shape {p.shape}, a matrix is needed; put "
                    'it into a group with "use_muon": False, which AdamW trains'
                )

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group):
        if not group["use_muon"]:
            adam_update(p, g, state, group, decoupled=True)
            return
        (v,) = zeros_of(p, state, "momentum_buffer")
        velocity, direction = optimise.muon_momentum(
            v, g, float(group["momentum"]), nesterov=bool(group["nesterov"])
        )
        steps, eps = group["ns_steps"], float(group["eps"])
        orthogonal = optimise.orthogonalise(direction, steps, eps)
        new = optimise.muon_step(
            p, orthogonal, group.rate(p), scale=_SCALES[group["adjust_lr_fn"]](*p.shape),
            weight_decay=float(group["weight_decay"]),
        )  # fmt: skip
        assign_each((p, v), (new, velocity))
