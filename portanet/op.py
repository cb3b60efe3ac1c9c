"""An operator: what it computes, its gradient, and how to test it. Backends hold the how."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import casting
from .dtypes import Dtype, promote, scalar_dtype

OPS: dict[str, Op] = {}
PARTS: dict[str, Op] = {}  # those with a kernel that are not listed
LONGEST_ROW = 1 << 14  # that a formula sums: it stays in a cache until it is read again


class Spec(NamedTuple):
    """What is known of a value before it is computed."""

    shape: tuple[int, ...]
    dtype: Dtype


class Case(NamedTuple):
    """One input of an operator's tests: NumPy arrays, the static arguments, the dtypes.

    Floating arrays are tried in each of `dtypes` that the device has.
    """

    args: Sequence[Any]
    static: dict[str, Any] = {}
    dtypes: Sequence[str] = ("float32",)


class Bad(NamedTuple):
    """One call that must be refused: shapes and dtypes of the arguments, and the message."""

    specs: Sequence[tuple[tuple[int, ...], str]]
    static: dict[str, Any]
    error: type[Exception]
    message: str


class Joint(NamedTuple):
    """The gradient of all inputs by one call, as a fused operator's kernel gives it.

    rule(needed, g, y, *xs, **static) -> one gradient an input, or None. `needed` says of each
    input whether its gradient is asked for; of several results, g is None where nobody
    differentiates one. The rule itself has no gradient: gradients of gradients, and devices
    without the kernel, go through the operator's fallback.
    """

    rule: Callable[..., Sequence[Any]]


@dataclass(eq=False)
class Op:
    """One operator. Arrays are positional, everything static is a hashable keyword.

    rule(*specs, **static) -> Spec or a tuple of them. Raises before any work.
    grad: one function an input, `(g, y, *xs, **static) -> gradient of that input`, or None
        where it is not differentiable; or one function `(i, g, y, *xs, **static)` for all;
        or a Joint, which gives them all at once.
    reference(*ndarrays, **static): float64 NumPy, the definition of correct.
    cases(rng) -> list of Case, which every backend must pass; `bad`: what must be refused.
    How it is computed, one of:
        formula(*scalars, **static): elementwise; see scalars.py.
        lower(emit, *handles, **static): kernels and views; see arrays.Emitter. With a
            formula beside it, it is for the devices that have `kernel`, unless formulas
            come first there.
        fallback(*xs, **static): the same in other operators. With a `lower` beside it, it is
            the path of a backend without `kernel`, the gradient, and the kernel's oracle.
    casts(*dtypes, **static) -> the compute type of each input of a formula.
    row(*specs, **static) -> of a formula that sums rows (scalars.ROWS), how many elements a
        row has; 0 where the elements of a row don't follow each other. Needs a fallback.
    ulps: the bound of the error against the reference, in ulps of the result's magnitude.
    """

    name: str
    rule: Callable[..., Any]
    grad: Sequence[Callable | None] | Callable | Joint | None = None
    reference: Callable | None = None
    cases: Callable[[Any], list[Case]] | None = None
    formula: Callable | None = None
    lower: Callable | None = None
    fallback: Callable | None = None
    casts: Callable[..., Sequence[Dtype]] | None = None
    row: Callable[..., int] | None = None
    kernel: str | None = None
    bad: Sequence[Bad] = ()
    ulps: float = 4.0
    doc: str = ""
    listed: bool = True  # False: a part of another operator, tested through it
    is_cast: bool = field(init=False, default=False)  # once there is an autocast

    def __post_init__(self):
        if self.listed or self.kernel:
            if named(self.name) is not None:
                raise ValueError(f"operator {self.name!r} is already defined")
            (OPS if self.listed else PARTS)[self.name] = self
        casting.enlist(self)
        self.__doc__ = self.doc
        self.__name__ = self.name

    def takes_formula(self, device: Any, specs: Sequence[Spec], static: dict) -> bool:
        """Whether a call runs the formula; else it runs what is lowered, or falls back."""
        if self.formula is None or self.row is None:
            own = self.kernel is not None and device.backend.has(self.kernel)
            first = getattr(device.backend, "formulas_first", False)
            return self.formula is not None and (first or not own)
        row = self.row(*specs, **static)
        if not row or not getattr(device.backend, "sums_rows", False):
            return False
        rows = max(math.prod(x.shape) for x in specs) // row
        return row <= LONGEST_ROW or rows >= getattr(
            device.backend, "long_rows", rows + 1
        )

    def __repr__(self) -> str:
        return f"<operator {self.name}>"

    def __call__(self, *args: Any, **static: Any) -> Any:
        """Hand the call to the most derived argument: Tensor records, Array runs."""
        if self.is_cast and casting.mode.active is not None:
            return casting.through(self, args, static)
        try:
            first = args[0]
        except IndexError:
            raise TypeError(f"{self.name}: nothing is given") from None
        kind = type(first)
        for a in args:
            if type(a) is not kind:
                return self._mixed(args, static)
        try:
            hand = first._apply
        except AttributeError:
            return self._mixed(args, static)
        return hand(self, args, static)

    def _mixed(self, args: Sequence[Any], static: dict[str, Any]) -> Any:
        """A call whose arguments are numbers and values of different levels."""
        values = [a for a in args if hasattr(a, "level")]
        if not values:
            check_tensor(self.name, *args)
        top = max(values, key=lambda a: a.level)
        dtype = values[0].dtype
        for v in values[1:]:
            dtype = promote(dtype, v.dtype)
        lifted = [a if hasattr(a, "level") else self._lift(top, a, dtype) for a in args]
        return top._apply(self, lifted, static)

    def _lift(self, top: Any, value: Any, dtype: Dtype) -> Any:
        if hasattr(value, "item") and getattr(value, "shape", None) == ():
            value = value.item()  # a NumPy scalar
        if not isinstance(value, numbers.Real):
            raise TypeError(
                f"{self.name}: {type(value).__name__} is not a tensor or a number; "
                "make it one with tensor(...)"
            )
        try:
            return top.constant(value, scalar_dtype(value, dtype))
        except OverflowError:
            raise OverflowError(
                f"{self.name}: {value} does not fit {dtype.name}; "
                "cast the tensor with astype first"
            ) from None


def check_tensor(name: str, *values: Any) -> None:
    """TypeError, which names the operator, where a value is no tensor."""
    for value in values:
        if not hasattr(value, "level"):
            raise TypeError(
                f"{name}: a tensor is expected, not {type(value).__name__}; make it one "
                "with tensor(...)"
            )


def named(name: str) -> Op | None:
    """The operator of this name: a listed one, or a part with a kernel."""
    return OPS.get(name) or PARTS.get(name)


def grad_of(op: Op, i: int) -> Callable | None:
    """The gradient rule of the i-th input: `(g, y, *xs, **static)`, or None."""
    rules = op.grad
    assert not isinstance(rules, Joint), "a joint gradient has no parts"
    if rules is None:
        return None
    if callable(rules):
        return lambda *a, **s: rules(i, *a, **s)
    return rules[i]
