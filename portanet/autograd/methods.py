"""The operators and functions that are methods of a tensor too, under the same names.

Each is one line: the function of `portanet.ops` that it is. They stand in a class of their
own so that editors and type checkers see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..casting import casting
from ..ops import elementwise as e
from ..ops import diagonal, index, linear, reduce, scan, shape
from ..ops import sort as order
from ..naming import naming
from .familiar import Familiar

if TYPE_CHECKING:
    from .tensor import Tensor


def _sizes(args: tuple) -> Any:
    """The arguments of x.reshape(2, 3) or x.reshape((2, 3))."""
    return args[0] if len(args) == 1 and isinstance(args[0], tuple | list) else args


def _absent(other: Any) -> bool:
    """What a tensor may be compared with for equality although it is no number."""
    return other is None or isinstance(other, str)


class Methods(Familiar):
    """What Tensor inherits: its operators and its named functions."""

    __slots__ = ()

    if TYPE_CHECKING:

        def _become(self, made: Tensor, name: str) -> Tensor: ...

    # Operators ----------------------------------------------------------------------------

    def __add__(self, other: Any) -> Tensor:
        return e.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return e.add(other, self)

    def __iadd__(self, other: Any) -> Tensor:
        return self._become(e.add(self, other), "add")

    def __sub__(self, other: Any) -> Tensor:
        return e.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return e.subtract(other, self)

    def __isub__(self, other: Any) -> Tensor:
        return self._become(e.subtract(self, other), "subtract")

    def __mul__(self, other: Any) -> Tensor:
        return e.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return e.multiply(other, self)

    def __imul__(self, other: Any) -> Tensor:
        return self._become(e.multiply(self, other), "multiply")

    def __truediv__(self, other: Any) -> Tensor:
        return e.divide(self, other)

    @casting
    def __rtruediv__(self, other: Any) -> Tensor:
        return e.divide(other, self)

    def __itruediv__(self, other: Any) -> Tensor:
        return self._become(e.divide(self, other), "divide")

    def __floordiv__(self, other: Any) -> Tensor:
        return e.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return e.floor_divide(other, self)

    def __ifloordiv__(self, other: Any) -> Tensor:
        return self._become(e.floor_divide(self, other), "floor_divide")

    def __mod__(self, other: Any) -> Tensor:
        return e.remainder(self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return e.remainder(other, self)

    def __imod__(self, other: Any) -> Tensor:
        return self._become(e.remainder(self, other), "remainder")

    def __and__(self, other: Any) -> Tensor:
        return e.bitwise_and(self, other)

    def __rand__(self, other: Any) -> Tensor:
        return e.bitwise_and(other, self)

    def __iand__(self, other: Any) -> Tensor:
        return self._become(e.bitwise_and(self, other), "bitwise_and")

    def __or__(self, other: Any) -> Tensor:
        return e.bitwise_or(self, other)

    def __ror__(self, other: Any) -> Tensor:
        return e.bitwise_or(other, self)

    def __ior__(self, other: Any) -> Tensor:
        return self._become(e.bitwise_or(self, other), "bitwise_or")

    def __xor__(self, other: Any) -> Tensor:
        return e.bitwise_xor(self, other)

    def __rxor__(self, other: Any) -> Tensor:
        return e.bitwise_xor(other, self)

    def __ixor__(self, other: Any) -> Tensor:
        return self._become(e.bitwise_xor(self, other), "bitwise_xor")

    def __lshift__(self, other: Any) -> Tensor:
        return e.bitwise_left_shift(self, other)

    def __rlshift__(self, other: Any) -> Tensor:
        return e.bitwise_left_shift(other, self)

    def __ilshift__(self, other: Any) -> Tensor:
        return self._become(e.bitwise_left_shift(self, other), "bitwise_left_shift")

    def __rshift__(self, other: Any) -> Tensor:
        return e.bitwise_right_shift(self, other)

    def __rrshift__(self, other: Any) -> Tensor:
        return e.bitwise_right_shift(other, self)

    def __irshift__(self, other: Any) -> Tensor:
        return self._become(e.bitwise_right_shift(self, other), "bitwise_right_shift")

    def __pow__(self, other: Any) -> Tensor:
        # A square as a product: its gradient is right at 0 and below.
        return (
            e.square(self) if type(other) is int and other == 2 else e.pow(self, other)
        )

    def __rpow__(self, other: Any) -> Tensor:
        return e.pow(other, self)

    def __ipow__(self, other: Any) -> Tensor:
        return self._become(self**other, "pow")

    def __matmul__(self, other: Any) -> Tensor:
        return linear.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return linear.matmul(other, self)

    def __neg__(self) -> Tensor:
        return e.negative(self)

    def __pos__(self) -> Tensor:
        return self  # type: ignore[return-value]

    def __abs__(self) -> Tensor:
        return e.abs(self)

    def __invert__(self) -> Tensor:
        return e.bitwise_invert(self)

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return False if _absent(other) else e.equal(self, other)  # type: ignore[return-value]

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return True if _absent(other) else e.not_equal(self, other)  # type: ignore[return-value]

    def __lt__(self, other: Any) -> Tensor:
        return NotImplemented if _absent(other) else e.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return NotImplemented if _absent(other) else e.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return NotImplemented if _absent(other) else e.greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return NotImplemented if _absent(other) else e.greater_equal(self, other)

    __hash__ = object.__hash__

    # Elementwise --------------------------------------------------------------------------

    def abs(self) -> Tensor:
        return e.abs(self)

    def sqrt(self) -> Tensor:
        return e.sqrt(self)

    def rsqrt(self) -> Tensor:
        return e.rsqrt(self)

    def square(self) -> Tensor:
        return e.square(self)

    def exp(self) -> Tensor:
        return e.exp(self)

    def expm1(self) -> Tensor:
        return e.expm1(self)

    def log(self) -> Tensor:
        return e.log(self)

    def log1p(self) -> Tensor:
        return e.log1p(self)

    def log2(self) -> Tensor:
        return e.log2(self)

    def sin(self) -> Tensor:
        return e.sin(self)

    def cos(self) -> Tensor:
        return e.cos(self)

    def tan(self) -> Tensor:
        return e.tan(self)

    def tanh(self) -> Tensor:
        return e.tanh(self)

    def sigmoid(self) -> Tensor:
        return e.sigmoid(self)

    def erf(self) -> Tensor:
        return e.erf(self)

    def floor(self) -> Tensor:
        return e.floor(self)

    def ceil(self) -> Tensor:
        return e.ceil(self)

    def round(self) -> Tensor:
        return e.round(self)

    def trunc(self) -> Tensor:
        return e.trunc(self)

    def sign(self) -> Tensor:
        return e.sign(self)

    def relu(self) -> Tensor:
        return e.relu(self)

    def isnan(self) -> Tensor:
        return e.isnan(self)

    def isinf(self) -> Tensor:
        return e.isinf(self)

    def isfinite(self) -> Tensor:
        return e.isfinite(self)

    def reciprocal(self) -> Tensor:
        return e.reciprocal(self)

    def maximum(self, other: Any) -> Tensor:
        return e.maximum(self, other)

    def minimum(self, other: Any) -> Tensor:
        return e.minimum(self, other)

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        return e.clip(self, min, max)

    def astype(self, dtype: Any, *, copy: bool = True) -> Tensor:
        return e.astype(self, dtype, copy=copy)

    # Reductions ---------------------------------------------------------------------------

    def mean(self, axis: Any = None, *, keepdims: bool = False) -> Tensor:
        return reduce.mean(self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, *, keepdims: bool = False) -> Tensor:
        return reduce.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, *, keepdims: bool = False) -> Tensor:
        return reduce.min(self, axis=axis, keepdims=keepdims)

    def any(self, axis: Any = None, *, keepdims: bool = False) -> Tensor:
        return reduce.any(self, axis=axis, keepdims=keepdims)

    def all(self, axis: Any = None, *, keepdims: bool = False) -> Tensor:
        return reduce.all(self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: Any = None, *, keepdims: bool = False) -> Tensor:
        return reduce.argmax(self, axis=axis, keepdims=keepdims)

    def argmin(self, axis: Any = None, *, keepdims: bool = False) -> Tensor:
        return reduce.argmin(self, axis=axis, keepdims=keepdims)

    def logsumexp(self, axis: Any = None, *, keepdims: bool = False) -> Tensor:
        return reduce.logsumexp(self, axis=axis, keepdims=keepdims)

    def sum(
        self, axis: Any = None, *, dtype: Any = None, keepdims: bool = False
    ) -> Tensor:
        return reduce.sum(self, axis=axis, dtype=dtype, keepdims=keepdims)

    def prod(
        self, axis: Any = None, *, dtype: Any = None, keepdims: bool = False
    ) -> Tensor:
        return reduce.prod(self, axis=axis, dtype=dtype, keepdims=keepdims)

    def var(
        self, axis: Any = None, *, correction: float = 0.0, keepdims: bool = False
    ) -> Tensor:
        return reduce.var(self, axis=axis, correction=correction, keepdims=keepdims)

    def std(
        self, axis: Any = None, *, correction: float = 0.0, keepdims: bool = False
    ) -> Tensor:
        return reduce.std(self, axis=axis, correction=correction, keepdims=keepdims)

    def norm(self, axis: Any = None, *, keepdims: bool = False, ord: Any = 2) -> Tensor:
        return reduce.norm(self, axis=axis, keepdims=keepdims, ord=ord)

    def cumulative_sum(self, axis: int | None = None, *, dtype: Any = None) -> Tensor:
        return scan.cumulative_sum(self, axis=axis, dtype=dtype)

    def cumulative_prod(self, axis: int | None = None, *, dtype: Any = None) -> Tensor:
        return scan.cumulative_prod(self, axis=axis, dtype=dtype)

    def cummax(self, axis: int | None = None) -> scan.Extremes:
        return scan.cummax(self, axis=axis)

    def cummin(self, axis: int | None = None) -> scan.Extremes:
        return scan.cummin(self, axis=axis)

    def logcumsumexp(self, axis: int | None = None) -> Tensor:
        return scan.logcumsumexp(self, axis=axis)

    # Shapes -------------------------------------------------------------------------------

    def reshape(self, *sizes: Any) -> Tensor:
        return shape.reshape(self, _sizes(sizes))

    def permute(self, *axes: Any) -> Tensor:
        return shape.permute_dims(self, _sizes(axes))

    def transpose(self, axis1: int, axis2: int) -> Tensor:
        return shape.swapaxes(self, axis1, axis2)

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        return shape.swapaxes(self, axis1, axis2)

    def moveaxis(self, source: Any, destination: Any) -> Tensor:
        return shape.moveaxis(self, source, destination)

    def unsqueeze(self, axis: int) -> Tensor:
        return shape.expand_dims(self, axis=axis)

    def squeeze(self, axis: Any = None) -> Tensor:
        return shape.squeeze(self, axis)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        return shape.flatten(self, start_dim, end_dim)

    def broadcast_to(self, size: Any) -> Tensor:
        return shape.broadcast_to(self, size)

    def expand(self, *sizes: Any) -> Tensor:
        """Broadcast; -1 leaves an axis as it is."""
        wanted: Sequence[int] = _sizes(sizes)
        lead = len(wanted) - self.ndim
        old = self.shape  # type: ignore[attr-defined]
        kept = [old[i - lead] if n == -1 else n for i, n in enumerate(wanted)]
        return shape.broadcast_to(self, tuple(kept))

    def split(self, size_or_sizes: Any, axis: int = 0) -> tuple[Tensor, ...]:
        return shape.split(self, size_or_sizes, axis=axis)

    def chunk(self, chunks: int, axis: int = 0) -> tuple[Tensor, ...]:
        return shape.chunk(self, chunks, axis=axis)

    def flip(self, axis: Any = None) -> Tensor:
        return shape.flip(self, axis=axis)

    def roll(self, shift: Any, axis: Any = None) -> Tensor:
        return shape.roll(self, shift, axis=axis)

    def tile(self, repetitions: Any) -> Tensor:
        return shape.tile(self, repetitions)

    # Products and indices -----------------------------------------------------------------

    def matmul(self, other: Any) -> Tensor:
        return linear.matmul(self, other)

    def diagonal(self, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Tensor:
        return diagonal.diagonal(self, offset=offset, axis1=axis1, axis2=axis2)

    def trace(self) -> Tensor:
        return diagonal.trace(self)

    def take(self, indices: Any, axis: int | None = None) -> Tensor:
        return index.take(self, indices, axis=axis)

    def take_along_axis(self, indices: Any, axis: int = -1) -> Tensor:
        return index.take_along_axis(self, indices, axis=axis)

    def index_add(self, indices: Any, source: Any, axis: int = 0) -> Tensor:
        return index.index_add(self, indices, source, axis=axis)

    def scatter_add(self, indices: Any, source: Any, axis: int = -1) -> Tensor:
        return index.scatter_add(self, indices, source, axis=axis)

    def nonzero(self) -> tuple[Tensor, ...]:
        return index.nonzero(self)

    # Order --------------------------------------------------------------------------------

    def sort(self, axis: int = -1, *, descending: bool = False) -> Tensor:
        return order.sort(self, axis=axis, descending=descending)

    def argsort(self, axis: int = -1, *, descending: bool = False) -> Tensor:
        return order.argsort(self, axis=axis, descending=descending)

    def topk(self, k: int, axis: int = -1, *, largest: bool = True) -> order.TopK:
        return order.topk(self, k, axis=axis, largest=largest)

    def quantile(self, q: Any, axis: Any = None, *, keepdims: bool = False) -> Tensor:
        return order.quantile(self, q, axis=axis, keepdims=keepdims)

    def median(self, axis: Any = None, *, keepdims: bool = False) -> Tensor:
        return order.median(self, axis=axis, keepdims=keepdims)


for _name, _method in list(vars(Methods).items()):
    if "axis" in getattr(getattr(_method, "__code__", None), "co_varnames", ()):
        setattr(Methods, _name, naming(_method))
