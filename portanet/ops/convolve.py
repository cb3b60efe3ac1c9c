"""Convolutions over one to three axes, and transposed ones.

Three operators, each linear in both arguments, share one kernel: y of x and w, x of y
and w, w of x and y. They are each other's gradients, so gradients of any order need
nothing more. The size of the result is a static argument of each: x is 0 outside its
sizes, so every size has a meaning, and what a size must be is for the public functions
to say.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..casting import casting
from ..dtypes import float32, promote
from ..op import Bad, Case, Op, Spec, check_tensor
from ..precision import matmul_options
from . import elementwise as e
from .shape import reshape

# The three products -------------------------------------------------------------------
# Static: stride, padding (in front), dilation, one number an axis; groups; size, the
# result's sizes along those axes. x (n, groups c, *sizes), w (groups o, c, *kernel),
# y (n, groups o, *sizes).


def _check(name: str, a: Spec, b: Spec, rank: int):
    dtype = promote(a.dtype, b.dtype)
    if not dtype.is_float:
        raise TypeError(f"{name}: a floating dtype is needed, not {dtype.name}")
    for x in (a, b):
        if len(x.shape) != rank + 2:
            raise ValueError(f"{name}: {rank + 2} axes are needed, got {x.shape}")
    return dtype


def _forward_rule(x: Spec, w: Spec, *, stride, padding, dilation, groups, size) -> Spec:
    dtype = _check("convolve", x, w, len(size))
    if x.shape[1] != groups * w.shape[1] or w.shape[0] % groups:
        raise ValueError(
            f"convolve: input {x.shape} and weight {w.shape} do not fit {groups} groups"
        )
    return Spec((x.shape[0], w.shape[0], *size), dtype)


def _input_rule(y: Spec, w: Spec, *, stride, padding, dilation, groups, size) -> Spec:
    dtype = _check("convolve_input", y, w, len(size))
    if y.shape[1] != w.shape[0] or w.shape[0] % groups:
        raise ValueError(
            f"convolve_input: output {y.shape} and weight {w.shape} do not fit "
            f"{groups} groups"
        )
    return Spec((y.shape[0], groups * w.shape[1], *size), dtype)


def _weight_rule(x: Spec, y: Spec, *, stride, padding, dilation, groups, size) -> Spec:
    dtype = _check("convolve_weight", x, y, len(size))
    if x.shape[0] != y.shape[0] or x.shape[1] % groups or y.shape[1] % groups:
        raise ValueError(
            f"convolve_weight: input {x.shape} and output {y.shape} do not fit "
            f"{groups} groups"
        )
    return Spec((y.shape[1], x.shape[1] // groups, *size), dtype)


_RULES = {"forward": _forward_rule, "input": _input_rule, "weight": _weight_rule}


def _three(sizes: Sequence[int], fill: int = 1) -> list[int]:
    """Sizes of three axes: those in front have one element."""
    return [fill] * (3 - len(sizes)) + list(sizes)


def _lower(option: str):
    def lower(emit, a, b, *, stride, padding, dilation, groups, size):
        static = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        specs = [Spec(h.layout.shape, h.layout.dtype) for h in (a, b)]
        result = _RULES[option](*specs, **static, size=size)
        # Half precision is multiplied and summed in float32, by the kernel or cast before.
        dtype = emit.kernel_dtype("convolve", result.dtype)
        made = emit.empty(result.shape, dtype)
        if 0 in a.layout.shape or 0 in b.layout.shape:
            emit.fill(0, made)
        elif 0 not in result.shape:
            a, b = (emit.contiguous(emit.cast(h, dtype)) for h in (a, b))
            x, w, y = {
                "forward": (a, b, made), "input": (made, b, a), "weight": (a, made, b),
            }[option]  # fmt: skip
            x_shape, w_shape, y_shape = (h.layout.shape for h in (x, w, y))
            words = [x_shape[0], groups, w_shape[1], w_shape[0] // groups]
            words += [*_three(x_shape[2:]), *_three(y_shape[2:]), *_three(w_shape[2:])]
            words += [*_three(stride), *_three(padding, 0), *_three(dilation)]
            words += [h.layout.offset for h in (x, w, y)]
            precision = matmul_options(emit.device) if dtype is float32 else ()
            emit.kernel("convolve", words, [made], [a, b], (option, *precision))
        if dtype is result.dtype:
            return made
        narrow = emit.empty(*result)
        emit.copy(made, narrow)
        return narrow

    return lower


# References: a loop over taps, which are views of x with its border of zeros.


def _taps(shape, y_sizes, kernel, stride, padding, dilation):
    """(tap, where its elements of x lie in x with a border), and the border."""
    last = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(y_sizes, stride, kernel, dilation, strict=True)
    ]
    border = [
        (p, max(0, t - p - n)) for p, t, n in zip(padding, last, shape[2:], strict=True)
    ]
    slices = []
    for tap in itertools.product(*map(range, kernel)):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        ends = [
            i + (n - 1) * s + 1 for i, n, s in zip(starts, y_sizes, stride, strict=True)
        ]
        at = tuple(map(slice, starts, ends, stride))
        slices.append((tap, (slice(None), slice(None), slice(None), *at)))
    return slices, [(0, 0), (0, 0), (0, 0), *border]


def _by_group(x, groups):
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def _reference(x, w, *, stride, padding, dilation, groups, size):
    slices, border = _taps(x.shape, size, w.shape[2:], stride, padding, dilation)
    wide = np.pad(_by_group(x, groups), border)
    w = w.reshape(groups, -1, *w.shape[1:])
    y = np.zeros((x.shape[0], groups, w.shape[1], *size))
    for tap, at in slices:
        y += np.einsum("ngc...,goc->ngo...", wide[at], w[(..., *tap)])
    return y.reshape(x.shape[0], groups * w.shape[1], *size)


def _input_reference(y, w, *, stride, padding, dilation, groups, size):
    shape = (y.shape[0], groups * w.shape[1], *size)
    slices, border = _taps(shape, y.shape[2:], w.shape[2:], stride, padding, dilation)
    x = np.pad(np.zeros((y.shape[0], groups, w.shape[1], *size)), border)
    y, w = _by_group(y, groups), w.reshape(groups, -1, *w.shape[1:])
    for tap, at in slices:
        x[at] += np.einsum("ngo...,goc->ngc...", y, w[(..., *tap)])
    inside = [slice(p, p + n) for p, n in zip(padding, size, strict=True)]
    return x[(slice(None), slice(None), slice(None), *inside)].reshape(shape)


def _weight_reference(x, y, *, stride, padding, dilation, groups, size):
    slices, border = _taps(x.shape, y.shape[2:], size, stride, padding, dilation)
    wide, y = np.pad(_by_group(x, groups), border), _by_group(y, groups)
    y = y.reshape(*y.shape[:3], math.prod(y.shape[3:]))
    w = np.zeros((groups, y.shape[2], wide.shape[2], *size))
    for tap, at in slices:
        seen = wide[at].reshape(*wide.shape[:3], y.shape[3])
        w[(..., *tap)] = np.einsum("ngcp,ngop->goc", seen, y)
    return w.reshape(groups * w.shape[1], *w.shape[2:])


# n, groups, channels and outputs of a group; then for each axis of x: its size, kernel,
# stride, padding, dilation, and by how much the result is longer than it must be.
_SIZES = [
    (1, 1, 1, 1, (1, 1, 1, 0, 1, 0)),
    (2, 1, 3, 4, (7, 3, 1, 1, 1, 0)),
    (2, 2, 2, 3, (9, 4, 3, 2, 2, 0)),
    (3, 1, 5, 17, (8, 3, 1, 1, 1, 0), (8, 3, 1, 1, 1, 0)),
    (1, 1, 3, 2, (11, 7, 4, 3, 1, 0), (10, 7, 4, 3, 1, 0)),
    (2, 3, 1, 2, (6, 3, 2, 1, 1, 0), (5, 2, 1, 0, 3, 0)),
    (1, 4, 1, 1, (5, 3, 1, 2, 2, 0), (37, 5, 1, 2, 1, 0)),
    (2, 1, 2, 3, (5, 1, 2, 0, 1, 0), (6, 1, 3, 0, 1, 0)),
    (1, 1, 2, 2, (4, 2, 1, 1, 1, 0), (3, 3, 2, 1, 1, 0), (5, 2, 2, 0, 2, 0)),
    (2, 1, 40, 33, (6, 3, 1, 1, 1, 0), (5, 3, 1, 1, 1, 0)),
    (1, 1, 1, 2, (3, 2, 1, 4, 1, 1), (2, 2, 2, 0, 1, 1)),
    (0, 1, 2, 3, (4, 3, 1, 1, 1, 0)),
    (40, 1, 1, 3, (5, 3, 1, 1, 1, 0), (19, 3, 1, 1, 1, 0)),
    # Small planes of many images: the cpu sums over the batch.
    (33, 2, 15, 17, (3, 3, 1, 1, 1, 0), (2, 2, 1, 1, 1, 0)),
    (70, 1, 18, 40, (2, 3, 2, 1, 1, 0), (2, 3, 2, 1, 1, 0)),
    (34, 1, 34, 16, (4, 3, 2, 5, 2, 1)),
    # Rows that are read once for all residues by the stride.
    (1, 1, 3, 2, (5, 7, 4, 3, 1, 0), (37, 7, 4, 3, 1, 0)),
    (2, 1, 2, 3, (67, 3, 2, 1, 1, 0)),
    (1, 1, 2, 2, (4, 2, 2, 0, 1, 0), (41, 3, 2, 2, 3, 0)),
    (1, 1, 1, 2, (70, 5, 4, 2, 3, 1)),
    # Few results of deep sums: the cpu multiplies patches.
    (1, 1, 16, 5, (4, 3, 2, 1, 1, 0), (5, 3, 2, 1, 1, 0)),
    (3, 2, 11, 7, (2, 3, 2, 1, 1, 0), (2, 3, 1, 1, 1, 0)),
    (4, 1, 70, 1, (9, 1, 3, 0, 1, 0)),
    (1, 1, 7, 6, (1, 3, 1, 1, 1, 0), (3, 5, 1, 2, 1, 0), (2, 2, 1, 1, 2, 0)),
    (3, 1, 9, 16, (2, 1, 1, 0, 1, 0), (4, 1, 1, 0, 1, 0)),
]


def _out(n, kernel, stride, padding, dilation, more):
    return (n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 + more


def _cases(option: str):
    def cases(rng) -> list[Case]:
        made = []
        for n, groups, c, o, *axes in _SIZES:
            sizes, kernel, stride, padding, dilation, _ = zip(*axes, strict=True)
            shapes = {
                "input": (n, groups * c, *sizes),
                "weight": (groups * o, c, *kernel),
                "forward": (n, groups * o, *(_out(*a) for a in axes)),
            }
            static = dict(stride=stride, padding=padding, dilation=dilation)
            static |= {"groups": groups, "size": shapes[option][2:]}
            order = {
                "forward": ("input", "weight"), "input": ("forward", "weight"),
                "weight": ("input", "forward"),
            }[option]  # fmt: skip
            args = [rng.uniform(-1, 1, shapes[a]) for a in order]
            # Half precision has kernels of its own where there are many channels.
            made.append(Case(args, static, _FLOATS if o >= 16 else _FLOATS[:2]))
        return made

    return cases


_FLOATS = ("float32", "float64", "float16", "bfloat16")


def _static(stride, padding, dilation, groups, like):
    size = tuple(like.shape[2:])
    return dict(
        stride=stride, padding=padding, dilation=dilation, groups=groups, size=size
    )


def _grads(first, second):
    """The gradients of a product: the other two products."""

    def by_a(g, y, a, b, *, stride, padding, dilation, groups, size):
        made = first(g, a, b, _static(stride, padding, dilation, groups, a))
        return e.fit(made, a)

    def by_b(g, y, a, b, *, stride, padding, dilation, groups, size):
        made = second(g, a, b, _static(stride, padding, dilation, groups, b))
        return e.fit(made, b)

    return by_a, by_b


_PLAIN = {"stride": (1,), "padding": (0,), "dilation": (1,), "groups": 1, "size": (2,)}


def _bad(name: str, fit: str) -> list[Bad]:
    return [
        Bad([((3, 4, 5), "float32"), ((2, 3, 2), "float32")], _PLAIN, ValueError, fit),
        Bad(
            [((2, 4), "float32"), ((2, 4, 2), "float32")], _PLAIN, ValueError,
            rf"{name}: 3 axes are needed, got \(2, 4\)",
        ),
        Bad(
            [((2, 4, 5), "int32"), ((2, 4, 2), "int32")], _PLAIN, TypeError,
            f"{name}: a floating dtype",
        ),
    ]  # fmt: skip


convolve = Op(
    "convolve",
    _forward_rule,
    grad=_grads(
        lambda g, x, w, s: convolve_input(g, w, **s),
        lambda g, x, w, s: convolve_weight(x, g, **s),
    ),
    reference=_reference,
    cases=_cases("forward"),
    lower=_lower("forward"),
    kernel="convolve",
    bad=_bad("convolve", r"convolve: input \(3, 4, 5\) and weight \(2, 3, 2\)"),
    ulps=64,
    doc="y[n, o, p] = sum over c, t of x[n, c, p stride + t dilation - padding] "
    "w[o, c, t].",
)
convolve_input = Op(
    "convolve_input",
    _input_rule,
    grad=_grads(
        lambda g, y, w, s: convolve(g, w, **s),
        lambda g, y, w, s: convolve_weight(g, y, **s),
    ),
    reference=_input_reference,
    cases=_cases("input"),
    lower=_lower("input"),
    kernel="convolve",
    bad=_bad("convolve_input", r"convolve_input: output \(3, 4, 5\) and weight"),
    ulps=64,
    doc="The adjoint of `convolve` in x: x[n, c, q] = sum of y[n, o, p] w[o, c, t] "
    "over p stride + t dilation - padding = q.",
)
convolve_weight = Op(
    "convolve_weight",
    _weight_rule,
    grad=_grads(
        lambda g, x, y, s: convolve_input(y, g, **s),
        lambda g, x, y, s: convolve(x, g, **s),
    ),
    reference=_weight_reference,
    cases=_cases("weight"),
    lower=_lower("weight"),
    kernel="convolve",
    bad=_bad("convolve_weight", r"convolve_weight: input \(3, 4, 5\) and output"),
    ulps=64,
    doc="The adjoint of `convolve` in w: w[o, c, t] = sum over n, p of y[n, o, p] "
    "x[n, c, p stride + t dilation - padding].",
)

# The public functions -----------------------------------------------------------------


def numbers(name: str, what: str, value: Any, rank: int, least: int) -> tuple[int, ...]:
    """One integer an axis, from one for all or several; ValueError below `least`."""
    given = value if isinstance(value, tuple | list) else (value,) * rank
    try:
        found = tuple(operator.index(n) for n in given)
    except TypeError:
        raise TypeError(
            f"{name}: {what} is an integer or {rank} of them, not {value!r}"
        ) from None
    if len(found) == 1:
        found *= rank
    if len(found) != rank:
        raise ValueError(f"{name}: {what} {value!r} does not have {rank} numbers")
    if any(n < least for n in found):
        raise ValueError(f"{name}: {what} must be at least {least}, not {value!r}")
    return found


def _borders(name, padding, rank, kernel, stride, dilation):
    """(in front, behind) of each axis."""
    if padding == "valid":
        return ((0, 0),) * rank
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ValueError(
                f'{name}: padding="same" needs stride 1, not {stride}; '
                "give the padding as numbers"
            )
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(padding, str):
        raise ValueError(
            f'{name}: padding is numbers, "same" or "valid", not {padding!r}'
        )
    return tuple((p, p) for p in numbers(name, "padding", padding, rank, 0))


def _check_groups(name: str, groups: Any) -> None:
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"{name}: groups must be at least 1, not {groups!r}")


def _batched(name: str, x: Any, weight: Any, rank: int) -> Any:
    """x with an axis for the batch, which may be left out."""
    check_tensor(name, x, weight)
    if len(weight.shape) != rank + 2:
        raise ValueError(
            f"{name}: a weight has {rank + 2} axes (out, in, kernel), got shape "
            f"{tuple(weight.shape)}"
        )
    if len(x.shape) not in (rank + 1, rank + 2):
        raise ValueError(
            f"{name}: an input has {rank + 2} axes (batch, channels, sizes), or "
            f"{rank + 1} without a batch; got shape {tuple(x.shape)}"
        )
    if x.device is not weight.device:
        raise ValueError(
            f"{name}: the input is on {x.device}, the weight on {weight.device}; move "
            f'one with .to("{weight.device}")'
        )
    for what, t in (("input", x), ("weight", weight)):
        if not t.dtype.is_float:
            raise TypeError(
                f"{name}: a floating dtype is needed, the {what} is {t.dtype.name}"
            )
    if 0 in weight.shape:
        raise ValueError(f"{name}: the weight {tuple(weight.shape)} is empty")
    return reshape(x, (1, *x.shape)) if len(x.shape) == rank + 1 else x


def _check_bias(name: str, bias: Any, outputs: int) -> None:
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise ValueError(
            f"{name}: bias is {tuple(bias.shape)}, ({outputs},) is needed for "
            f"{outputs} output channels"
        )


def _with_bias(y: Any, bias: Any, rank: int, like: Any) -> Any:
    if bias is not None:
        y = e.add(y, reshape(bias, (-1, *[1] * rank)))
    return reshape(y, y.shape[1:]) if len(like.shape) == rank + 1 else y


@casting
def convolution(
    rank: int,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    name: str = "",
) -> Any:
    """conv1d, conv2d or conv3d, by `rank`."""
    name = name or f"conv{rank}d"
    stride = numbers(name, "stride", stride, rank, 1)
    dilation = numbers(name, "dilation", dilation, rank, 1)
    _check_groups(name, groups)
    batch = _batched(name, x, weight, rank)
    kernel = tuple(weight.shape[2:])
    outputs, channels = weight.shape[:2]
    if batch.shape[1] != channels * groups:
        each = f" in each of {groups} groups" if groups > 1 else ""
        raise ValueError(
            f"{name}: input {tuple(x.shape)} has {batch.shape[1]} channels, weight "
            f"{tuple(weight.shape)} expects {channels}{each}"
        )
    if outputs % groups:
        raise ValueError(
            f"{name}: {outputs} output channels do not divide into {groups} groups"
        )
    _check_bias(name, bias, outputs)
    borders = _borders(name, padding, rank, kernel, stride, dilation)
    size = []
    for n, k, s, d, (a, b) in zip(
        batch.shape[2:], kernel, stride, dilation, borders, strict=True
    ):
        if n + a + b < d * (k - 1) + 1:
            raise ValueError(
                f"{name}: a kernel of size {d * (k - 1) + 1} does not fit an axis of "
                f"size {n} with padding {a} + {b} (input {tuple(x.shape)})"
            )
        size.append((n + a + b - d * (k - 1) - 1) // s + 1)
    y = convolve(
        batch,
        weight,
        stride=stride,
        padding=tuple(a for a, _ in borders),
        dilation=dilation,
        groups=groups,
        size=tuple(size),
    )
    return _with_bias(y, bias, rank, x)  # fmt: skip


@casting
def transposed_convolution(
    rank: int,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    name: str = "",
) -> Any:
    """conv_transpose1d, 2d or 3d, by `rank`."""
    name = name or f"conv_transpose{rank}d"
    stride = numbers(name, "stride", stride, rank, 1)
    dilation = numbers(name, "dilation", dilation, rank, 1)
    padding = numbers(name, "padding", padding, rank, 0)
    more = numbers(name, "output_padding", output_padding, rank, 0)
    _check_groups(name, groups)
    batch = _batched(name, x, weight, rank)
    if batch.shape[1] != weight.shape[0]:
        raise ValueError(
            f"{name}: input {tuple(x.shape)} has {batch.shape[1]} channels, weight "
            f"{tuple(weight.shape)} expects {weight.shape[0]}"
        )
    if weight.shape[0] % groups:
        raise ValueError(
            f"{name}: {weight.shape[0]} input channels do not divide into "
            f"{groups} groups"
        )
    _check_bias(name, bias, weight.shape[1] * groups)
    size = []
    for n, k, s, p, d, m in zip(
        batch.shape[2:], weight.shape[2:], stride, padding, dilation, more, strict=True
    ):
        if m >= max(s, d):
            raise ValueError(
                f"{name}: output_padding {m} must be less than stride {s} or "
                f"dilation {d}"
            )
        size.append((n - 1) * s - 2 * p + d * (k - 1) + m + 1)
        if size[-1] < 1:
            raise ValueError(
                f"{name}: an axis of size {n} with padding {p} would become {size[-1]} "
                f"(input {tuple(x.shape)})"
            )
    y = convolve_input(
        batch,
        weight,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        size=tuple(size),
    )
    return _with_bias(y, bias, rank, x)  # fmt: skip


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    name: str = "conv1d",
) -> Any:
    """y[n, o, p] = bias[o] + sum over c, t of
    x[n, c, p stride + t dilation - padding] * weight[o, c, t].

    x: (n, c, length), or without n; weight: (o, c / groups, k); bias: (o,). padding:
    zeros on either side, or "same" (y is as long as x; stride 1) or "valid" (none).
    Channels of a group meet those of the same group. Half precision sums in float32.

    >>> nn.functional.conv1d(pn.ones((1, 1, 4)), pn.ones((1, 1, 2)))
    tensor([[[2., 2., 2.]]])
    """
    return convolution(
        1, x, weight, bias, stride, padding, dilation, groups, name=name
    )  # fmt: skip


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    name: str = "conv2d",
) -> Any:
    """As `conv1d`, for x (n, c, height, width) and weight (o, c / groups, kh, kw).

    >>> x = pn.ones((1, 1, 3, 3))
    >>> nn.functional.conv2d(x, x, padding="same")
    tensor([[[[4., 6., 4.],
              [6., 9., 6.],
              [4., 6., 4.]]]])
    """
    return convolution(
        2, x, weight, bias, stride, padding, dilation, groups, name=name
    )  # fmt: skip


def conv3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    name: str = "conv3d",
) -> Any:
    """As `conv1d`, for x (n, c, depth, height, width) and weight
    (o, c / groups, kd, kh, kw)."""
    return convolution(
        3, x, weight, bias, stride, padding, dilation, groups, name=name
    )  # fmt: skip


def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    name: str = "conv_transpose1d",
) -> Any:
    """The gradient of `conv1d` in its input, as a function of its own.

    x: (n, c, length); weight: (c, o / groups, k); the result has length
    (length - 1) stride - 2 padding + dilation (k - 1) + output_padding + 1.

    >>> nn.functional.conv_transpose1d(pn.ones((1, 1, 2)), pn.ones((1, 1, 2)), stride=2)
    tensor([[[1., 1., 1., 1.]]])
    """
    return transposed_convolution(
        1, x, weight, bias, stride, padding, output_padding, groups, dilation, name=name
    )


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    name: str = "conv_transpose2d",
) -> Any:
    """As `conv_transpose1d`, for x (n, c, height, width) and weight (c, o / groups, kh,
    kw)."""
    return transposed_convolution(
        2, x, weight, bias, stride, padding, output_padding, groups, dilation, name=name
    )


def conv_transpose3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    name: str = "conv_transpose3d",
) -> Any:
    """As `conv_transpose1d`, for x (n, c, depth, height, width) and weight
    (c, o / groups, kd, kh, kw)."""
    return transposed_convolution(
        3, x, weight, bias, stride, padding, output_padding, groups, dilation, name=name
    )
