"""LayerNorm and BatchNorm1d."""

from __future__ import annotations

from typing import Any

from ..autograd import no_grad
from ..creation import ones, zeros
from ..ops.shape import as_shape
from . import functional as F
from .module import Module, Parameter


class LayerNorm(Module):
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last axes.

    normalized_shape: the sizes of those axes, also the shape of weight (ones at first) and
    bias (zeros). ValueError where the input ends in other sizes. Ba et al., 2016.

    >>> nn.LayerNorm(2, eps=0.0)(pn.tensor([[1.0, 3.0]])).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        self.normalized_shape = as_shape("LayerNorm", normalized_shape)
        if not self.normalized_shape or min(self.normalized_shape) < 1:
            raise ValueError(f"LayerNorm: no axis to normalise in {normalized_shape}")
        self.eps, self.elementwise_affine = eps, elementwise_affine
        options = {"dtype": dtype or "float32", "device": device}
        self.weight = self.bias = None
        if elementwise_affine:
            self.weight = Parameter(ones(self.normalized_shape, **options))
            if bias:
                self.bias = Parameter(zeros(self.normalized_shape, **options))

    def forward(self, x: Any) -> Any:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        tail = "" if self.elementwise_affine else ", elementwise_affine=False"
        return f"{self.normalized_shape}, eps={self.eps}{tail}"


class BatchNorm1d(Module):
    """y = (x - mean) / sqrt(var + eps) * weight + bias for each channel.

    x: (n, channels) or (n, channels, length). In training mean and variance are those of
    the batch, and the running ones move toward them by `momentum` (None: they are the
    average of all batches), the variance divided by n - 1. In evaluation the running ones
    are used. ValueError for one value per channel in training. Ioffe and Szegedy, ICML 2015.

    >>> nn.BatchNorm1d(3)(pn.randn(8, 3)).shape
    (8, 3)
    """

    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        if num_features < 1:
            raise ValueError(
                f"BatchNorm1d: at least 1 channel is needed, not {num_features}"
            )
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        options = {"dtype": dtype or "float32", "device": device}
        self.weight = Parameter(ones(num_features, **options)) if affine else None
        self.bias = Parameter(zeros(num_features, **options)) if affine else None
        kept = track_running_stats
        self.register_buffer(
            "running_mean", zeros(num_features, **options) if kept else None
        )
        self.register_buffer(
            "running_var", ones(num_features, **options) if kept else None
        )
        self.register_buffer(
            "num_batches_tracked",
            zeros((), dtype="int32", device=device) if kept else None,
        )

    def forward(self, x: Any) -> Any:
        if x.ndim not in (2, 3) or x.shape[1] != self.num_features:
            raise ValueError(
                f"BatchNorm1d: (n, {self.num_features}) or (n, {self.num_features}, "
                f"length) is needed, got shape {x.shape}"
            )
        counts = self.training and self.track_running_stats
        momentum = self._count() if counts else 0.0
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            momentum,
            self.eps,
            name="BatchNorm1d",
        )

    def _count(self) -> Any:
        """Count a batch; its share in the running statistics."""
        with no_grad():
            count = self.num_batches_tracked
            count.assign(count + 1)
            if self.momentum is not None:
                return self.momentum
            return 1 / count.astype(self.running_mean.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
