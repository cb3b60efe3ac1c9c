"""LayerNorm, RMSNorm, GroupNorm, and the norms by batch and by instance."""

from __future__ import annotations

from typing import Any

from ..autograd import no_grad
from ..creation import ones, zeros
from ..ops.shape import as_shape, expand_dims, pad, reshape, squeeze
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


class RMSNorm(Module):
    """y = x / sqrt(mean(x * x) + eps) * weight over the last axes.

    normalized_shape: the sizes of those axes, also the shape of weight (ones at first).
    eps: None is that of x's dtype, 2 ** -23 for float32. ValueError where the input ends in
    other sizes. Zhang and Sennrich, NeurIPS 2019.

    >>> nn.RMSNorm(2)(pn.tensor([[3.0, 3.0]])).tolist()
    [[1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: Any,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        self.normalized_shape = as_shape("RMSNorm", normalized_shape)
        if not self.normalized_shape or min(self.normalized_shape) < 1:
            raise ValueError(f"RMSNorm: no axis to normalise in {normalized_shape}")
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight = None
        if elementwise_affine:
            start = ones(self.normalized_shape, dtype=dtype or "float32", device=device)
            self.weight = Parameter(start)

    def forward(self, x: Any) -> Any:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        tail = "" if self.elementwise_affine else ", elementwise_affine=False"
        return f"{self.normalized_shape}, eps={self.eps}{tail}"


class GroupNorm(Module):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, over each group of channels.

    x: (n, num_channels, ...), which num_groups divides. weight and bias: one number a
    channel, ones and zeros at first. Wu and He, ECCV 2018.

    >>> nn.GroupNorm(2, 4)(pn.randn(3, 4, 5)).shape
    (3, 4, 5)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        bias: bool = True,
    ):
        if num_groups < 1 or num_channels < 1 or num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: {num_channels} channels do not divide into {num_groups} "
                "groups"
            )
        self.num_groups, self.num_channels = num_groups, num_channels
        self.eps, self.affine = eps, affine
        options = {"dtype": dtype or "float32", "device": device}
        self.weight = Parameter(ones(num_channels, **options)) if affine else None
        self.bias = None
        if affine and bias:
            self.bias = Parameter(zeros(num_channels, **options))

    def forward(self, x: Any) -> Any:
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(
                f"GroupNorm: (n, {self.num_channels}, ...) is needed, got shape {x.shape}"
            )
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        tail = "" if self.affine else ", affine=False"
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}{tail}"


class _ChannelNorm(Module):
    """A norm with one weight, bias and running mean and variance for each channel."""

    ranks: tuple[int, ...] = ()
    shapes = ""
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
        bias: bool = True,
    ):
        if num_features < 1:
            raise ValueError(
                f"{type(self).__name__}: at least 1 channel is needed, not {num_features}"
            )
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        options = {"dtype": dtype or "float32", "device": device}
        self.weight = Parameter(ones(num_features, **options)) if affine else None
        self.bias = None
        if affine and bias:
            self.bias = Parameter(zeros(num_features, **options))
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

    def _check(self, x: Any) -> None:
        if x.ndim not in self.ranks or x.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}: {self.shapes.format(self.num_features)} is "
                f"needed, got shape {x.shape}"
            )

    def _normalise(self, x: Any) -> Any:
        """By the batch in training, and where there are no running statistics."""
        self._check(x)
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
            name=type(self).__name__,
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


class BatchNorm1d(_ChannelNorm):
    """y = (x - mean) / sqrt(var + eps) * weight + bias for each channel.

    x: (n, channels) or (n, channels, length). In training mean and variance are those of
    the batch, and the running ones move toward them by `momentum` (None: they are the
    average of all batches), the variance divided by n - 1. In evaluation the running ones
    are used. ValueError for one value per channel in training. Ioffe and Szegedy, ICML 2015.

    >>> nn.BatchNorm1d(3)(pn.randn(8, 3)).shape
    (8, 3)
    """

    ranks, shapes = (2, 3), "(n, {0}) or (n, {0}, length)"

    def forward(self, x: Any) -> Any:
        return self._normalise(x)


class BatchNorm2d(_ChannelNorm):
    """BatchNorm1d for (n, channels, h, w): the mean is over n, h and w.

    >>> nn.BatchNorm2d(3)(pn.randn(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    ranks, shapes = (4,), "(n, {0}, h, w)"

    def forward(self, x: Any) -> Any:
        return self._normalise(x)


class BatchNorm3d(_ChannelNorm):
    """BatchNorm1d for (n, channels, d, h, w): the mean is over n, d, h and w."""

    ranks, shapes = (5,), "(n, {0}, d, h, w)"

    def forward(self, x: Any) -> Any:
        return self._normalise(x)


class _InstanceNorm(_ChannelNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        bias: bool = True,
    ):
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            bias,
        )

    def forward(self, x: Any) -> Any:
        """In training, and where there are no running statistics, each row by itself. As in
        PyTorch the batches are not counted."""
        is_alone = x.ndim == self.ranks[0] - 1
        rows = expand_dims(x, axis=0) if is_alone else x
        if rows.ndim not in self.ranks or rows.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}: {self.shapes.format(self.num_features)} is "
                f"needed, or without n, got shape {x.shape}"
            )
        y = F.instance_norm(
            rows,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            self.momentum or 0.0,
            self.eps,
        )
        return squeeze(y, axis=0) if is_alone else y


class InstanceNorm1d(_InstanceNorm):
    """y = (x - mean) / sqrt(var + eps), over each channel of each row.

    x: (n, channels, length), or without n. affine adds weight and bias, one number a channel.
    With track_running_stats the averages of the rows' mean and variance are kept in training,
    and used in evaluation. Ulyanov, Vedaldi and Lempitsky, arXiv:1607.08022, 2016.

    >>> nn.InstanceNorm1d(1, eps=0.0)(pn.tensor([[[1.0, 3.0]]])).tolist()
    [[[-1.0, 1.0]]]
    """

    ranks, shapes = (3,), "(n, {0}, length)"


class InstanceNorm2d(_InstanceNorm):
    """InstanceNorm1d for (n, channels, h, w): the mean is over h and w."""

    ranks, shapes = (4,), "(n, {0}, h, w)"


class InstanceNorm3d(_InstanceNorm):
    """InstanceNorm1d for (n, channels, d, h, w): the mean is over d, h and w."""

    ranks, shapes = (5,), "(n, {0}, d, h, w)"


class LocalResponseNorm(Module):
    """y = x / (k + alpha * mean of x * x over `size` channels around) ** beta.

    x: (n, channels, ...). Krizhevsky, Sutskever and Hinton, NeurIPS 2012.

    >>> nn.LocalResponseNorm(3)(pn.ones((1, 4, 2))).shape
    (1, 4, 2)
    """

    def __init__(
        self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
    ):
        if size < 1:
            raise ValueError(f"LocalResponseNorm: size is at least 1, not {size}")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Any) -> Any:
        if x.ndim < 3:
            raise ValueError(
                f"LocalResponseNorm: (n, channels, ...) is needed, got shape {x.shape}"
            )
        n, channels = x.shape[:2]
        squares = reshape(x * x, (n, 1, channels, -1))
        front, behind = self.size // 2, (self.size - 1) // 2
        wide = pad(squares, ((0, 0), (0, 0), (front, behind), (0, 0)))
        means = F.avg_pool2d(wide, (self.size, 1), 1)
        return x * (self.k + self.alpha * reshape(means, x.shape)) ** -self.beta

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
