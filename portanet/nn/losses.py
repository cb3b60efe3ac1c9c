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


class KLDivLoss(_Loss):
    """target * (log(target) - log_probabilities); Kullback and Leibler's divergence.

    log_target: targets are logarithms too. reduction: also "batchmean", the sum divided by
    the first axis, which is the divergence of a row.
    """

    def __init__(self, reduction: str = "mean", log_target: bool = False):
        super().__init__("mean" if reduction == "batchmean" else reduction)
        self.reduction, self.log_target = reduction, log_target

    def forward(self, log_probabilities: Any, target: Any) -> Any:
        return F.kl_div(
            log_probabilities,
            target,
            reduction=self.reduction,
            log_target=self.log_target,
        )


class BCELoss(_Loss):
    """-(t log(p) + (1 - t) log(1 - p)) for probabilities p, a logarithm at least -100."""

    def forward(self, p: Any, target: Any) -> Any:
        return F.binary_cross_entropy(p, target, reduction=self.reduction)


class HingeEmbeddingLoss(_Loss):
    """x where the target is 1, max(0, margin - x) where it is -1."""

    def __init__(self, margin: float = 1.0, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin = margin

    def forward(self, x: Any, target: Any) -> Any:
        return F.hinge_embedding_loss(
            x, target, margin=self.margin, reduction=self.reduction
        )


class MarginRankingLoss(_Loss):
    """max(0, margin - target * (x1 - x2)), for targets 1 or -1.

    >>> loss = nn.MarginRankingLoss()
    >>> loss(pn.tensor([2.0]), pn.tensor([3.0]), pn.tensor([1])).item()
    1.0
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin = margin

    def forward(self, x1: Any, x2: Any, target: Any) -> Any:
        return F.margin_ranking_loss(
            x1, x2, target, margin=self.margin, reduction=self.reduction
        )


class CosineEmbeddingLoss(_Loss):
    """1 - cos(x1, x2) where the target is 1, max(0, cos(x1, x2) - margin) where it is -1.

    x1, x2: (n, size); target: (n,).
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin = margin

    def forward(self, x1: Any, x2: Any, target: Any) -> Any:
        return F.cosine_embedding_loss(
            x1, x2, target, margin=self.margin, reduction=self.reduction
        )


class TripletMarginLoss(_Loss):
    """max(0, margin + |anchor - positive| - |anchor - negative|), p-norms of the last axis.

    swap: |positive - negative| where that is smaller than |anchor - negative|. Balntas et
    al., BMVC 2016.

    >>> loss = nn.TripletMarginLoss(margin=0.5)
    >>> loss(pn.zeros((1, 2)), pn.zeros((1, 2)), pn.ones((1, 2))).item()
    0.0
    """

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ):
        super().__init__(reduction)
        if not margin > 0:
            raise ValueError(f"TripletMarginLoss: margin must be above 0, not {margin}")
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def forward(self, anchor: Any, positive: Any, negative: Any) -> Any:
        return F.triplet_margin_loss(
            anchor, positive, negative, margin=self.margin, p=self.p, eps=self.eps,
            swap=self.swap, reduction=self.reduction,
        )  # fmt: skip


class CosineSimilarity(Module):
    """cos(x1, x2) along an axis, each size no less than eps.

    >>> nn.CosineSimilarity()(pn.tensor([[3.0, 4.0]]), pn.tensor([[4.0, 3.0]]))
    tensor([0.96...])
    """

    def __init__(self, axis: int = 1, eps: float = 1e-8):
        self.axis, self.eps = axis, eps

    def forward(self, x1: Any, x2: Any) -> Any:
        return F.cosine_similarity(x1, x2, self.axis, self.eps)


class PairwiseDistance(Module):
    """The p-norm of x1 - x2 + eps along the last axis."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdims: bool = False):
        self.p, self.eps, self.keepdims = p, eps, keepdims

    def forward(self, x1: Any, x2: Any) -> Any:
        return F.pairwise_distance(x1, x2, self.p, self.eps, self.keepdims)
