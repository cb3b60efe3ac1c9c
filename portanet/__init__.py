"""portanet: arrays, autograd and neural networks on any GPU.

    import portanet as pn
    x = pn.randn(32, 784, device="wgpu")

`device="cpu" | "wgpu" | "cuda"` is all that changes between machines. Functions follow the
Python array API standard; where it is silent, PyTorch.
"""

from __future__ import annotations

import importlib
from typing import Any

from .casting import autocast
from .autograd import (
    Tensor,
    custom_function,
    enable_grad,
    grad,
    gradients,
    is_grad_enabled,
    no_grad,
    value_and_grad,
)
from .creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    from_dlpack,
    full,
    full_like,
    linspace,
    meshgrid,
    ones,
    ones_like,
    tensor,
    zeros,
    zeros_like,
)
from .devices import default_device, device, devices, set_default_device
from .dtypes import Dtype as dtype
from .dtypes import bfloat16, float16, float32, float64, int32, int64, uint8, uint32
from .dtypes import bool_ as bool
from .errors import DeviceError, OutOfMemoryError
from .namespace import (
    broadcast_arrays,
    broadcast_shapes,
    can_cast,
    e,
    finfo,
    iinfo,
    inf,
    isdtype,
    nan,
    newaxis,
    num_threads,
    pi,
    result_type,
    set_num_threads,
    synchronize,
)
from .ops.create import one_hot, tril, triu
from .ops.diagonal import (
    bincount,
    diagonal,
    dilate,
    kron,
    rot90,
    trace,
    undilate,
)
from .ops.activations import hardtanh
from .ops.elementwise import (
    abs,
    acos,
    acosh,
    add,
    asin,
    asinh,
    astype,
    atan,
    atan2,
    atanh,
    bitwise_and,
    bitwise_invert,
    bitwise_left_shift,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    ceil,
    clip,
    cos,
    cosh,
    divide,
    elu,
    equal,
    erf,
    exp,
    expm1,
    floor,
    floor_divide,
    gelu,
    greater,
    greater_equal,
    isfinite,
    isinf,
    isnan,
    leaky_relu,
    less,
    less_equal,
    log,
    log1p,
    log2,
    log10,
    logaddexp,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    maximum,
    minimum,
    mish,
    multiply,
    negative,
    not_equal,
    pow,
    reciprocal,
    relu,
    remainder,
    round,
    rsqrt,
    sigmoid,
    sign,
    silu,
    sin,
    sinh,
    softplus,
    sqrt,
    square,
    subtract,
    tan,
    tanh,
    trunc,
    where,
)
from .ops.floats import (
    allclose,
    copysign,
    erfinv,
    hypot,
    isclose,
    lerp,
    nan_to_num,
    signbit,
)
from .ops.index import index_add, nonzero, scatter_add, take, take_along_axis
from .ops.linear import einsum, matmul, outer, tensordot, vecdot
from .ops.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    l1_loss,
    log_softmax,
    mse_loss,
    nll_loss,
    softmax,
)
from .ops.reduce import (
    all,
    any,
    argmax,
    argmin,
    count_nonzero,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    std,
    sum,
    var,
)
from .ops.scan import (
    cummax,
    cummin,
    cumulative_prod,
    cumulative_sum,
    logcumsumexp,
)
from .ops.shape import (
    broadcast_to,
    chunk,
    concat,
    expand_dims,
    flatten,
    flip,
    matrix_transpose,
    moveaxis,
    pad,
    permute_dims,
    repeat,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    swapaxes,
    tile,
    unstack,
)
from .ops.sort import (
    argsort,
    median,
    quantile,
    searchsorted,
    sort,
    topk,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
)
from .naming import name_errors as _name_errors
from .renames import no_function as _no_function
from .precision import get_float32_matmul_precision, set_float32_matmul_precision
from .random import (
    Generator,
    bernoulli,
    manual_seed,
    multinomial,
    normal,
    permutation,
    rand,
    randint,
    randn,
    uniform,
)

__version__ = "0.1.0"
_name_errors(
    globals(), *(f"portanet.{m}" for m in ("ops.", "creation", "random", "namespace"))
)
__array_api_version__ = "2024.12"

# Loaded when first used, so that importing portanet stays quick.
_LATER = {"nn", "optim", "data", "io", "testing"}
_FROM = {
    "save": "io", "load": "io", "compile": "compiled", "GradScaler": "optim.grad_scaler",
    **dict.fromkeys(("export", "load_exported", "export_web"), "exported"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f".{name}", __name__)
    if name in _FROM:
        return getattr(importlib.import_module(f".{_FROM[name]}", __name__), name)
    raise _no_function("portanet", name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_FROM})
