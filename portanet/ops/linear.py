"""Matrix products: matmul with batches, and what is made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


from ..casting import casting
from ..arrays import collapse
from ..dtypes import float32, promote
from ..op import Bad, Case, Op, Spec
from ..precision import matmul_options
from . import elementwise as e
from .shape import (
    broadcast_to,
    matrix_transpose,
    normalise_axis,
    permute_dims,
    reshape,
)


def _matmul_rule(a: Spec, b: Spec) -> Spec:
    (m, k), (k2, n) = a.shape[-2:], b.shape[-2:]
    if k != k2:
        raise ValueError(
            f"matmul: inner sizes differ: {a.shape} @ {b.shape}, {k} != {k2}"
        )
    dtype = promote(a.dtype, b.dtype)
    if dtype.kind == "bool":
        raise TypeError("matmul: not defined for bool; cast to a number with astype")
    return Spec((*e.broadcast("matmul", [a.shape[:-2], b.shape[:-2]]), m, n), dtype)


def _lower_matmul(emit, a, b):
    specs = [Spec(h.layout.shape, h.layout.dtype) for h in (a, b)]
    result = _matmul_rule(*specs)
    a, b = (emit.cast(h, result.dtype) for h in (a, b))
    batch = result.shape[:-2]
    (m, k), n = specs[0].shape[-2:], specs[1].shape[-1]
    y = emit.empty(*result)
    if not k:
        emit.fill(0, y)
        return y
    wide = [h.layout.expanded((*batch, *h.layout.shape[-2:])) for h in (a, b)]
    sizes, (a_steps, b_steps) = collapse(batch, [w.strides[:-2] for w in wide])
    words = [math.prod(batch), m, n, k, len(sizes)]
    for w in wide:
        words += [w.offset, *w.strides[-2:]]
    options = matmul_options(emit.device) if result.dtype is float32 else ()
    emit.kernel("matmul", [*words, *sizes, *a_steps, *b_steps], [y], [a, b], options)
    return y


def _grad_a(g, y, a, b):
    return e.fit(_matmul(g, matrix_transpose(b)), a)


def _grad_b(g, y, a, b):
    if len(b.shape) == 2 and len(a.shape) > 2 and 0 not in a.shape:
        # The batches' rows make one matrix: one long product instead of a sum of many.
        a, g = (reshape(x, (-1, x.shape[-1])) for x in (a, g))
    return e.fit(_matmul(matrix_transpose(a), g), b)


def _matmul_cases(rng) -> list[Case]:
    sizes = [((1, 1), (1, 1)), ((17, 31), (31, 13)), ((64, 64), (64, 64))]
    sizes += [((2, 3, 5), (5, 4)), ((4, 1, 3, 5), (2, 5, 4)), ((0, 3), (3, 2))]
    sizes += [
        ((2, 0), (0, 3)),
        ((1, 300), (300, 7)),
        ((70, 3), (3, 1)),
        ((3, 5), (2, 5, 4)),
    ]
    made = [
        Case([rng.uniform(-1, 1, a), rng.uniform(-1, 1, b)], {}, _FLOATS)
        for a, b in sizes
    ]
    whole = [rng.integers(-9, 9, (5, 7)), rng.integers(-9, 9, (7, 3))]
    return [*made, Case(whole, {}, ("int32", "int64"))]


_FLOATS = ("float32", "float64", "float16", "bfloat16")

_matmul = Op(
    "matmul",
    _matmul_rule,
    grad=(_grad_a, _grad_b),
    reference=lambda a, b: a @ b,
    cases=_matmul_cases,
    lower=_lower_matmul,
    kernel="matmul",
    bad=[
        Bad(
            [((3, 4), "float32"), ((5, 6), "float32")], {}, ValueError,
            r"matmul: inner sizes differ: \(3, 4\) @ \(5, 6\), 4 != 5",
        ),
        Bad(
            [((2, 3, 4), "float32"), ((3, 4, 6), "float32")], {}, ValueError,
            "matmul: shapes .* do not broadcast",
        ),
        Bad([((2, 2), "bool"), ((2, 2), "bool")], {}, TypeError, "matmul: not defined"),
    ],
    # A sum of k products of numbers up to 1: k/2 roundings of the magnitude at worst.
    ulps=64,
)  # fmt: skip


def _linear_rule(x: Spec, w: Spec) -> Spec:
    if not x.shape or len(w.shape) != 2:
        raise ValueError(
            f"linear: (..., n) and a weight (outputs, n) are needed, not {x.shape} and "
            f"{w.shape}"
        )
    k, (columns, k2) = x.shape[-1], w.shape
    if k != k2:
        raise ValueError(f"linear: rows of {x.shape} and {w.shape} differ: {k} != {k2}")
    return _matmul_rule(x, Spec((k2, columns), w.dtype))


def _lower_linear(emit, x, w):
    (columns, k), (row, column) = w.layout.shape, w.layout.strides
    return _lower_matmul(emit, x, emit.view(w, (k, columns), (column, row)))


# The gradient of w has the order of w, so that an optimizer reads both alike; the one that
# x @ w.T has is a transposed view.
linear = Op(
    "linear",
    _linear_rule,
    grad=(
        lambda g, y, x, w: e.fit(_matmul(g, w), x),
        lambda g, y, x, w: e.fit(_matmul(matrix_transpose(g), x), w),
    ),
    reference=lambda x, w: x @ w.T,
    cases=lambda rng: [
        Case([rng.uniform(-1, 1, (m, k)), rng.uniform(-1, 1, (n, k))], {}, _FLOATS)
        for m, k, n in [(1, 1, 1), (17, 31, 13), (64, 64, 64), (2, 0, 3), (5, 300, 1)]
    ],
    lower=_lower_linear,
    kernel="matmul",
    bad=[
        Bad(
            [((3, 4), "float32"), ((5, 6), "float32")], {}, ValueError,
            r"linear: rows of \(3, 4\) and \(5, 6\) differ: 4 != 6",
        ),
    ],
    ulps=64,
    doc="x @ w.T for matrices.",
)  # fmt: skip


def matmul(a: Any, b: Any, /) -> Any:
    """a @ b: (..., m, k) @ (..., k, n) -> (..., m, n); leading axes broadcast.

    A 1-d operand is a row on the left or a column on the right, and its axis is dropped.
    float16 and bfloat16 accumulate in float32. Raises ValueError where sizes differ.

    >>> pn.matmul(pn.ones((2, 3)), pn.ones((3, 4))).shape
    (2, 4)
    """
    for x in (a, b):
        if not getattr(x, "shape", None):
            what = "a 0-d tensor" if hasattr(x, "level") else type(x).__name__
            raise ValueError(f"matmul: operands need at least 1 axis, got {what}")
    row, column = len(a.shape) == 1, len(b.shape) == 1
    y = _matmul(
        reshape(a, (1, *a.shape)) if row else a,
        reshape(b, (*b.shape, 1)) if column else b,
    )
    if not row and not column:
        return y
    kept = (
        y.shape[:-2]
        + (() if row else y.shape[-2:-1])
        + (() if column else y.shape[-1:])
    )
    return reshape(y, kept)


def outer(a: Any, b: Any, /) -> Any:
    """y[i, j] = a[i] * b[j] for 1-d a and b."""
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"outer: both are 1-d, got {a.shape} and {b.shape}")
    return e.multiply(reshape(a, (a.shape[0], 1)), b)


def vecdot(a: Any, b: Any, /, *, axis: int = -1) -> Any:
    """The sum of a * b along an axis."""
    from .reduce import sum as total

    return total(e.multiply(a, b), axis=axis)


@casting
def tensordot(a: Any, b: Any, /, *, axes: Any = 2) -> Any:
    """The product summed over axes of a paired with axes of b.

    axes: a number n, the last n of a with the first n of b; or two sequences.

    >>> pn.tensordot(pn.ones((2, 3)), pn.ones((3, 4)), axes=1).shape
    (2, 4)
    """
    if isinstance(axes, int):
        if not 0 <= axes <= min(a.ndim, b.ndim):
            raise ValueError(f"tensordot: {axes} axes of {a.shape} and {b.shape}")
        axes = (range(a.ndim - axes, a.ndim), range(axes))
    left = [normalise_axis("tensordot", i, a.ndim, a.shape) for i in axes[0]]
    right = [normalise_axis("tensordot", i, b.ndim, b.shape) for i in axes[1]]
    for i, j in zip(left, right, strict=True):
        if a.shape[i] != b.shape[j]:
            raise ValueError(
                f"tensordot: axis {i} of {a.shape} and axis {j} of {b.shape} differ: "
                f"{a.shape[i]} != {b.shape[j]}"
            )
    free_a = [i for i in range(a.ndim) if i not in left]
    free_b = [j for j in range(b.ndim) if j not in right]
    inner = math.prod(a.shape[i] for i in left)
    rows = [a.shape[i] for i in free_a]
    columns = [b.shape[j] for j in free_b]
    x = reshape(permute_dims(a, [*free_a, *left]), (math.prod(rows), inner))
    y = reshape(permute_dims(b, [*right, *free_b]), (inner, math.prod(columns)))
    return reshape(_matmul(x, y), (*rows, *columns))


# einsum ------------------------------------------------------------------------------------


def _parse(equation: str, operands: Sequence[Any]) -> tuple[list[str], str]:
    """The letters of each operand and of the result; '...' becomes upper-case letters that
    the equation does not use, counted from the last."""
    if not isinstance(equation, str):
        raise TypeError(f"einsum: the equation is a str, not {type(equation).__name__}")
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise ValueError(
            f"einsum: {equation!r} has {len(terms)} operands, {len(operands)} given"
        )
    spare = [c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in equation]
    dots = ""
    for i, (term, x) in enumerate(zip(terms, operands, strict=True)):
        if "..." in term:
            extra = x.ndim - (len(term) - 3)
            if extra < 0:
                raise ValueError(
                    f"einsum: operand {i} of shape {x.shape} is not {term!r}"
                )
            letters = "".join(spare[:extra][::-1])
            dots = max(dots, letters, key=len)
            terms[i] = term.replace("...", letters)
        if len(terms[i]) != x.ndim:
            raise ValueError(f"einsum: operand {i} of shape {x.shape} is not {term!r}")
    if arrow:
        result = right.replace("...", dots)
    else:
        text = "".join(terms)
        once = sorted(c for c in set(text) if text.count(c) == 1 and c not in dots)
        result = dots + "".join(once)
    for c in set("".join(terms) + result):
        if not c.isalpha():
            raise ValueError(f"einsum: {equation!r} holds {c!r}, which is no letter")
    if len(set(result)) < len(result) or set(result) - set("".join(terms)):
        raise ValueError(f"einsum: the result {result!r} repeats or invents a letter")
    return terms, result


def _diagonal(x: Any, term: str) -> tuple[Any, str]:
    """x with a letter that stands twice walked along the diagonal."""
    from .diagonal import diagonal

    for c in term:
        while term.count(c) > 1:
            i, j = term.index(c), term.rindex(c)
            if x.shape[i] != x.shape[j]:
                raise ValueError(f"einsum: {c!r} is both {x.shape[i]} and {x.shape[j]}")
            x = diagonal(x, axis1=i, axis2=j)
            term = term[:i] + term[i + 1 : j] + term[j + 1 :] + c
    return x, term


def _sum_out(x: Any, term: str, keep: str) -> tuple[Any, str]:
    from .reduce import sum as total

    gone = tuple(i for i, c in enumerate(term) if c not in keep)
    if gone:
        x = total(x, axis=gone, dtype=x.dtype)
    return x, "".join(c for c in term if c in keep)


def _pair(a, ta: str, b, tb: str, keep: str):
    """One matmul of two terms: batch letters, then rows, then columns."""
    both = [c for c in ta if c in tb]
    batch = [c for c in both if c in keep]
    inner = [c for c in both if c not in keep]
    rows = [c for c in ta if c not in tb]
    columns = [c for c in tb if c not in ta]
    size = {
        **dict(zip(tb, b.shape, strict=True)),
        **dict(zip(ta, a.shape, strict=True)),
    }
    for c, n in zip(tb, b.shape, strict=True):
        if size[c] == 1:
            size[c] = n
        if n not in (1, size[c]):
            raise ValueError(f"einsum: {c!r} is both {size[c]} and {n}")

    def matrix(x, term, letters, left, right):
        x = permute_dims(x, [term.index(c) for c in letters])
        x = broadcast_to(x, tuple(size[c] for c in letters))
        shape = [size[c] for c in batch]
        shape += [math.prod(size[c] for c in part) for part in (left, right)]
        return reshape(x, tuple(shape))

    x = matrix(a, ta, [*batch, *rows, *inner], rows, inner)
    y = matrix(b, tb, [*batch, *inner, *columns], inner, columns)
    z = _matmul(x, y)
    letters = [*batch, *rows, *columns]
    return reshape(z, tuple(size[c] for c in letters)), "".join(letters)


def einsum(equation: str, /, *operands: Any) -> Any:
    """The sum of products that the equation names, as in NumPy: 'bij,bjk->bik'.

    Letters are axes; those not in the result are summed over; '...' stands for any leading
    axes. Operands are multiplied from left to right, each pair by one matmul.

    >>> pn.einsum("ij,j->i", pn.ones((2, 3)), pn.ones(3))
    tensor([3., 3.])
    """
    if not operands:
        raise ValueError("einsum: at least one operand is needed")
    terms, result = _parse(equation, operands)
    values = [_diagonal(x, t) for x, t in zip(operands, terms, strict=True)]
    x, term = values[0]
    for i, (y, other) in enumerate(values[1:], 1):
        keep = result + "".join(t for _, t in values[i + 1 :])
        x, term = _sum_out(x, term, keep + other)
        y, other = _sum_out(y, other, keep + term)
        x, term = _pair(x, term, y, other, keep)
    x, term = _sum_out(x, term, result)
    return permute_dims(x, [term.index(c) for c in result]) if term != result else x
