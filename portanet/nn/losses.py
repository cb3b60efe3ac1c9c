"""Losses as modules: called with (input, target), they give one number.

reduction: "mean" (the default), "sum", or "none" for the loss of each element.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..autograd import Tensor
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


class _Weighted(_Loss):
    """A loss with weights, a buffer that moves with the module and is saved with it."""

    weight: Any

    def __init__(self, weight: Tensor | None, reduction: str):
        super().__init__(reduction)
        self.register_buffer("weight", weight)


class CrossEntropyLoss(_Weighted):
    """-log softmax(logits)[target]: logits (n, classes), target (n,) integers.

    Targets may also be probabilities of the shape of the logits. A target equal to
    ignore_index counts for nothing. weight: (classes,), by which the loss of each class is
    multiplied; the mean is divided by the weights of the targets.

    >>> loss = nn.CrossEntropyLoss()
    >>> loss(pn.tensor([[0.0, 0.0]]), pn.tensor([1])).item()
    0.6931...
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ):
        super().__init__(weight, reduction)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(
                f"CrossEntropyLoss: label_smoothing is in [0, 1], not {label_smoothing}"
            )
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, logits: Any, target: Any) -> Any:
        return F.cross_entropy(
            logits,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )


class NLLLoss(_Weighted):
    """-log_probabilities[target]; shapes and options as for CrossEntropyLoss."""

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
        reduction: str = "mean",
    ):
        super().__init__(weight, reduction)
        self.ignore_index = ignore_index

    def forward(self, log_probabilities: Any, target: Any) -> Any:
        return F.nll_loss(
            log_probabilities,
            target,
            weight=self.weight,
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

    def __init__(self, reduction: str = "mean", delta: float = 1.0):
        super().__init__(reduction)
        if not delta > 0:
            raise ValueError(f"HuberLoss: delta must be above 0, not {delta}")
        self.delta = delta

    def forward(self, x: Any, target: Any) -> Any:
        return F.huber_loss(x, target, delta=self.delta, reduction=self.reduction)


class SmoothL1Loss(_Loss):
    """d * d / (2 beta) where d = |x - target| < beta, else d - beta / 2; Girshick, 2015."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0):
        super().__init__(reduction)
        if not beta >= 0:
            raise ValueError(f"SmoothL1Loss: beta can't be negative: {beta}")
        self.beta = beta

    def forward(self, x: Any, target: Any) -> Any:
        return F.smooth_l1_loss(x, target, beta=self.beta, reduction=self.reduction)


class BCEWithLogitsLoss(_Weighted):
    """-(t log sigmoid(x) + (1 - t) log(1 - sigmoid(x))), without overflow.

    weight: what each loss is multiplied by; pos_weight: what t log sigmoid(x) is, one number
    a class.
    """

    pos_weight: Any

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ):
        super().__init__(weight, reduction)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, logits: Any, target: Any) -> Any:
        return F.binary_cross_entropy_with_logits(
            logits,
            target,
            weight=self.weight,
            pos_weight=self.pos_weight,
            reduction=self.reduction,
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


class BCELoss(_Weighted):
    """-(t log(p) + (1 - t) log(1 - p)) for probabilities p, a logarithm at least -100.

    weight: what each loss is multiplied by; it broadcasts.
    """

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean"):
        super().__init__(weight, reduction)

    def forward(self, p: Any, target: Any) -> Any:
        return F.binary_cross_entropy(
            p, target, weight=self.weight, reduction=self.reduction
        )


class PoissonNLLLoss(_Loss):
    """exp(x) - target * x, or with log_input=False x - target * log(x + eps), of counts.

    full: with Stirling's approximation of log(target!).
    """

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        eps: float = 1e-8,
        reduction: str = "mean",
    ):
        super().__init__(reduction)
        self.log_input, self.full, self.eps = log_input, full, eps

    def forward(self, x: Any, target: Any) -> Any:
        return F.poisson_nll_loss(
            x, target, log_input=self.log_input, full=self.full, eps=self.eps,
            reduction=self.reduction,
        )  # fmt: skip


class GaussianNLLLoss(_Loss):
    """(log(v) + (x - target) ** 2 / v) / 2 for variances v = max(var, eps).

    Called with (x, target, var); full: with the constant log(2 pi) / 2.
    """

    def __init__(self, full: bool = False, eps: float = 1e-6, reduction: str = "mean"):
        super().__init__(reduction)
        self.full, self.eps = full, eps

    def forward(self, x: Any, target: Any, var: Any) -> Any:
        return F.gaussian_nll_loss(
            x, target, var, full=self.full, eps=self.eps, reduction=self.reduction
        )


class SoftMarginLoss(_Loss):
    """log(1 + exp(-target * x)) for targets 1 or -1."""

    def forward(self, x: Any, target: Any) -> Any:
        return F.soft_margin_loss(x, target, reduction=self.reduction)


class MultiLabelSoftMarginLoss(_Weighted):
    """The mean over the classes, the last axis, of BCEWithLogitsLoss."""

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean"):
        super().__init__(weight, reduction)

    def forward(self, x: Any, target: Any) -> Any:
        return F.multilabel_soft_margin_loss(
            x, target, weight=self.weight, reduction=self.reduction
        )


class MultiMarginLoss(_Weighted):
    """The mean over the other classes j of max(0, margin - x[target] + x[j]) ** p.

    x: (n, classes); target: (n,) integers; p: 1 or 2.
    """

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: Tensor | None = None,
        reduction: str = "mean",
    ):
        super().__init__(weight, reduction)
        if p not in (1, 2):
            raise ValueError(f"MultiMarginLoss: p is 1 or 2, not {p}")
        self.p, self.margin = p, margin

    def forward(self, x: Any, target: Any) -> Any:
        return F.multi_margin_loss(
            x, target, p=self.p, margin=self.margin, weight=self.weight,
            reduction=self.reduction,
        )  # fmt: skip


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


class TripletMarginWithDistanceLoss(_Loss):
    """TripletMarginLoss by any distance: a function of two tensors, or a module; that of
    PairwiseDistance where none is given."""

    def __init__(
        self,
        *,
        distance_function: Callable[[Any, Any], Any] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ):
        super().__init__(reduction)
        if not margin > 0:
            raise ValueError(
                f"TripletMarginWithDistanceLoss: margin must be above 0, not {margin}"
            )
        self.distance_function, self.margin, self.swap = distance_function, margin, swap

    def forward(self, anchor: Any, positive: Any, negative: Any) -> Any:
        return F.triplet_margin_with_distance_loss(
            anchor, positive, negative, distance_function=self.distance_function,
            margin=self.margin, swap=self.swap, reduction=self.reduction,
        )  # fmt: skip


class CosineSimilarity(Module):
    """cos(x1, x2) along an axis, each size no less than eps.

    >>> nn.CosineSimilarity()(pn.tensor([[3.0, 4.0]]), pn.tensor([[4.0, 3.0]]))
    tensor([0.96...])
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8):
        self.dim, self.eps = dim, eps

    def forward(self, x1: Any, x2: Any) -> Any:
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(Module):
    """The p-norm of x1 - x2 + eps along the last axis."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False):
        self.p, self.eps, self.keepdim = p, eps, keepdim

    def forward(self, x1: Any, x2: Any) -> Any:
        return F.pairwise_distance(x1, x2, self.p, self.eps, self.keepdim)


class CTCLoss(_Loss):
    """-log of the likelihood of each text over all its alignments to the steps; see
    `nn.functional.ctc_loss` for shapes. Graves et al., ICML 2006.

    >>> loss = nn.CTCLoss()
    >>> log_probs = pn.log_softmax(pn.zeros((4, 1, 3)))
    >>> round(loss(log_probs, pn.tensor([[1, 2]]), [4], [2]).item(), 4)
    0.8432
    """

    def __init__(
        self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False
    ):
        super().__init__(reduction)
        self.blank, self.zero_infinity = blank, zero_infinity

    def forward(
        self, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any
    ) -> Any:
        return F.ctc_loss(
            log_probs, targets, input_lengths, target_lengths, self.blank,
            self.reduction, self.zero_infinity,
        )  # fmt: skip
