"""Mixed precision: which functions run in 16 bits and which in float32, decided here.

`NARROW`, `WIDE` and `PROMOTED` are the table. A name is that of an operator, which looks
itself up when it is made, or of a function made of several operators, which is marked
`@casting`. Both come to `through`, and only if they are in the table and autocast is on.
Until somebody first enters an autocast, nobody asks whether it is.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from .devices import Device, get
from .devices import device as InDevice
from .dtypes import Dtype, as_dtype, bfloat16, float16, float32

# The classes are those of PyTorch's autocast (docs.pytorch.org/docs/stable/amp.html, "Autocast
# Op Reference"). Wide here and not listed there: mean, var, logsumexp, logcumsumexp,
# rms_norm, and the losses binary_cross_entropy (an error there), ctc, Gaussian and Huber.
NARROW = frozenset({
    # products, convolutions, attention
    "matmul", "linear", "convolution", "transposed_convolution", "attend", "weights",
    "prelu",
})  # fmt: skip
WIDE = frozenset({
    # what overflows, or loses where values are small
    "__rtruediv__", "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10",
    "log1p", "log2", "pow", "reciprocal", "rsqrt", "sharp_softplus", "sinh", "softplus", "square",
    "tan",
    # sums and what is made of them
    "cosine_similarity", "cumulative_prod", "cumulative_sum", "log_softmax",
    "logcumsumexp", "logsumexp", "mean", "norm", "normalize", "pairwise_distance", "prod",
    "softmax", "sum", "var", "group_norm", "layer_norm", "rms_norm",
    # losses
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_embedding_loss",
    "cross_entropy", "ctc_loss", "gaussian_nll_loss", "hinge_embedding_loss",
    "huber_loss", "kl_div", "l1_loss", "margin_ranking_loss", "mse_loss",
    "multi_margin_loss", "nll_loss", "poisson_nll_loss", "smooth_l1_loss",
    "soft_margin_loss", "triplet_margin_loss",
})  # fmt: skip
# Made of products, but left to promotion; others that promote need no entry.
PROMOTED = frozenset({"tensordot"})


class _Mode(threading.local):
    active: autocast | None = None
    outer: Any = None  # what there was before: (its outer, its active)


mode = _Mode()
awake = False  # whether somebody has entered an autocast
listed: list[Any] = []  # the operators of the table


def enlist(op: Any) -> None:
    """Have an operator ask, from the first autocast on, if it is in the table."""
    if is_listed(op.name):
        listed.append(op)
        op.is_cast = awake


def _wake() -> None:
    global awake
    awake = True
    for op in listed:
        op.is_cast = True


def is_listed(name: str) -> bool:
    """Whether autocast has something to say of this operator or function."""
    return name in NARROW or name in WIDE or name in PROMOTED


def through(f: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """f of the arguments in the dtype of its class; nothing inside of it is cast again."""
    tensors = (a for a in (*args, *kwargs.values()) if _is_tensor(a))
    target = _target(f.__name__, next(tensors, None), kwargs.get("dtype"))
    if target is not None:
        args = [_cast(a, target) for a in args]
        kwargs = {name: _cast(a, target) for name, a in kwargs.items()}
    with suspended():
        return f(*args, **kwargs)


def _target(name: str, first: Any, asked: Any) -> Dtype | None:
    """What the tensors of a call become: the first of them says where that is."""
    chosen = mode.active
    if chosen is None or first is None or asked is not None:
        return None
    if not chosen.holds_on(first.device) or name in PROMOTED:
        return None
    return float32 if name in WIDE else chosen.dtype_on(first.device)


def is_casting(x: Any) -> bool:
    """Whether tensors like x are cast here, so that theirs need not be one dtype."""
    chosen = mode.active
    return chosen is not None and chosen.holds_on(x.device) and _is_narrow(x.dtype)


def _is_narrow(dtype: Dtype) -> bool:
    return dtype.is_float and dtype.itemsize <= 4


def _is_tensor(value: Any) -> bool:
    return getattr(value, "level", 0) == 2


def _cast(value: Any, dtype: Dtype) -> Any:
    """A tensor of at most 32 bits as this dtype; anything else as it is."""
    if not _is_tensor(value) or value.dtype is dtype:
        return value
    return value.astype(dtype) if _is_narrow(value.dtype) else value


def casting(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, of several operators, which is in the table under its name."""
    assert is_listed(f.__name__), f"{f.__name__} is not in the table of autocast"

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        if awake and mode.active is not None:
            return through(f, args, kwargs)
        return f(*args, **kwargs)

    return call


class suspended:
    """Inside, nothing is cast: in backward, in an optimizer's step, and in what is cast."""

    __slots__ = ("before",)

    def __enter__(self) -> None:
        self.before = mode.active
        mode.active = None

    def __exit__(self, *exc: object) -> None:
        mode.active = self.before


class autocast:
    """Inside, products, convolutions and attention run in 16 bits; sums, softmax, norms and
    losses in float32: `with autocast(dtype=pn.float16):`, or `@autocast()` on a function.

    device: where it holds ("cuda", "cpu" ...), everywhere if it is not given. dtype: float16
    or bfloat16; not given, bfloat16 on cpu and float16 elsewhere, as in PyTorch. Tensors of
    float32 and 16 bits are cast as operators take them, parameters too, whose gradients come
    back in their own dtype; what is in neither class takes what it is given, and promotes.
    An explicit dtype=, integers and float64 are left alone. Nothing is cast in backward, nor
    in the steps of optimizers. It holds in this thread, also inside compiled functions, and
    may be nested; enabled=False ends it inside. With float16 small gradients vanish: use a
    GradScaler. TypeError where the device has no such dtype (wgpu has no bfloat16, and
    float16 only with shader-f16). Micikevicius et al., ICLR 2018.

    >>> layer, x = nn.Linear(2, 3), pn.ones((1, 2))
    >>> with pn.autocast(dtype=pn.bfloat16):
    ...     y = layer(x)
    ...     y.dtype, y.sum().dtype
    (portanet.bfloat16, portanet.float32)
    >>> y.float().sum().backward()
    >>> layer.weight.grad.dtype
    portanet.float32
    """

    def __init__(
        self,
        device: str | Device | InDevice | None = None,
        dtype: Any = None,
        enabled: bool = True,
    ):
        self.device = None if device is None else get(device).type
        self.dtype = None if dtype is None else as_dtype(dtype)
        self.enabled = bool(enabled)
        if self.dtype not in (None, float16, bfloat16):
            raise TypeError(
                f"autocast: the dtype is float16 or bfloat16, not {self.dtype.name}"
            )
        if self.enabled and device is not None:
            self.dtype_on(get(device))

    def holds_on(self, device: Device) -> bool:
        """Whether tensors on this device are cast."""
        return self.device is None or self.device == device.type

    def dtype_on(self, device: Device) -> Dtype:
        """The narrow dtype of a device; TypeError where it has none."""
        usual = bfloat16 if device.type == "cpu" else float16
        dtype = self.dtype or usual
        has = device.backend.dtypes
        if dtype in has:
            return dtype
        others = [t.name for t in (float16, bfloat16) if t in has]
        use = f"use dtype={others[0]}" if others else "leave it out, or enabled=False"
        raise TypeError(f"autocast: {device} has no {dtype.name}; {use}")

    @property
    def key(self) -> tuple[str | None, Dtype | None]:
        """What a plan takes for granted of it."""
        return self.device, self.dtype

    def __enter__(self) -> autocast:
        if not awake:
            _wake()
        mode.outer = (mode.outer, mode.active)
        mode.active = self if self.enabled else None
        return self

    def __exit__(self, *exc: object) -> None:
        mode.outer, mode.active = mode.outer

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with autocast(self.device, self.dtype, self.enabled):
                return function(*args, **kwargs)

        return wrapped

    def __repr__(self) -> str:
        shown = [repr(self.device)] if self.device else []
        shown += [f"dtype={self.dtype.name}"] if self.dtype else []
        shown += [] if self.enabled else ["enabled=False"]
        return f"autocast({', '.join(shown)})"
