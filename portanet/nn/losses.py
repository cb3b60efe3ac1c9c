"""Losses as modules: called with (input, target), they give one number.

reduction: "mean" (the default), "sum", or "none" for the loss of each element.
"""

from __future__ import annotations

from typing import Any

from . import functional as F
from .module import Module


class _Loss(Module):
    def __init__(self, reduction: str = "mean"):
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(
                f"{type(self).__name__}: reduction is 'mean', 'sum' or 'none', not "
                f"{reduction!r}"
            )
        self.reduction = reduction

    def extra_repr(self) -> str:
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class CrossEntropyLoss(_Loss):
    """-log softmax(logits)[target]: logits (n, classes), target (n,) integers.

    Targets may also be probabilities of the shape of the logits. A target equal to
    ignore_index counts for nothing.

    >>> loss = nn.CrossEntropyLoss()
    >>> loss(pn.tensor([[0.0, 0.0]]), pn.tensor([1])).item()
    0.6931...
    """

    def __init__(
        self,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ):
        super().__init__(reduction)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(
                f"CrossEntropyLoss: label_smoothing is in [0, 1], not {label_smoothing}"
            )
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, logits: Any, target: Any) -> Any:
        return F.cross_entropy(
            logits,
            target,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )


class NLLLoss(_Loss):
    """-log_probabilities[target]; shapes as for CrossEntropyLoss."""

    def __init__(self, ignore_index: int | None = None, reduction: str = "mean"):
        super().__init__(reduction)
        self.ignore_index = ignore_index

    def forward(self, log_probabilities: Any, target: Any) -> Any:
        return F.nll_loss(
            log_probabilities,
            target,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


class MSELoss(_Loss):
    """(x - target) ** 2."""

    def forward(self, x: Any, target: Any) -> Any:
        return F.mse_loss(x, target, reduction=self.reduction)


class L1Loss(_Loss):
    """|x - target|."""

    def forward(self, x: Any, target: Any) -> Any:
        return F.l1_loss(x, target, reduction=self.reduction)


class HuberLoss(_Loss):
    """d * d / 2 where d = |x - target| < delta, else delta * (d - delta / 2)."""

    def __init__(self, delta: float = 1.0, reduction: str = "mean"):
        super().__init__(reduction)
        if not delta > 0:
            raise ValueError(f"HuberLoss: delta must be above 0, not {delta}")
        self.delta = delta

    def forward(self, x: Any, target: Any) -> Any:
        return F.huber_loss(x, target, delta=self.delta, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """-(t log sigmoid(x) + (1 - t) log(1 - sigmoid(x))), without overflow."""

    def forward(self, logits: Any, target: Any) -> Any:
        return F.binary_cross_entropy_with_logits(
            logits, target, reduction=self.reduction
        )
