"""Methods under PyTorch's names for what has another name as a function, or none.

The array API names functions and no methods, so a tensor's methods are PyTorch's where it
has them. Their arguments are PyTorch's too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import dtypes
from ..ops import create, index, losses, scan, shape
from ..ops import elementwise as e
from ..naming import naming
from ..renames import METHODS, Elsewhere

if TYPE_CHECKING:
    from .tensor import Tensor


class Familiar:
    """What Tensor inherits for those who come from PyTorch."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def shape(self) -> tuple[Any, ...]: ...
        @property
        def ndim(self) -> Any: ...
        @property
        def size(self) -> Any: ...
        @property
        def dtype(self) -> dtypes.Dtype: ...

        def reshape(self, *sizes: Any) -> Tensor: ...
        def to(self, *where: Any) -> Tensor: ...

    # As another dtype -------------------------------------------------------------------------

    def float(self) -> Tensor:
        return e.astype(self, dtypes.float32)

    def double(self) -> Tensor:
        return e.astype(self, dtypes.float64)

    def half(self) -> Tensor:
        return e.astype(self, dtypes.float16)

    def bfloat16(self) -> Tensor:
        return e.astype(self, dtypes.bfloat16)

    def int(self) -> Tensor:
        return e.astype(self, dtypes.int32)

    def long(self) -> Tensor:
        """As int64, which wgpu lacks; labels and indices may be int32."""
        return e.astype(self, dtypes.int64)

    def bool(self) -> Tensor:
        return e.astype(self, dtypes.bool_)

    def type_as(self, other: Tensor) -> Tensor:
        return e.astype(self, other.dtype)

    # Shapes -----------------------------------------------------------------------------------

    def dim(self) -> Any:
        """The number of axes."""
        return self.ndim

    def numel(self) -> Any:
        """The number of elements."""
        return self.size

    def view(self, *sizes: Any) -> Tensor:
        """reshape: a view where strides allow it, else a copy; never an error for strides."""
        return self.reshape(*sizes)

    def view_as(self, other: Tensor) -> Tensor:
        return shape.reshape(self, other.shape)

    def expand_as(self, other: Tensor) -> Tensor:
        return shape.broadcast_to(self, other.shape)

    def contiguous(self) -> Tensor:
        """Itself: operators take any strides."""
        return self  # type: ignore[return-value]

    def t(self) -> Tensor:
        return self.T  # type: ignore[attr-defined]

    def unbind(self, dim: Any = 0) -> Any:
        return shape.unstack(self, axis=dim)

    def unflatten(self, dim: Any, sizes: Any) -> Tensor:
        """One axis made several.

        >>> pn.arange(6).unflatten(0, (2, 3)).shape
        (2, 3)
        """
        at = shape.normalise_axis("unflatten", dim, self.ndim, self.shape)
        return self.reshape(*self.shape[:at], *sizes, *self.shape[at + 1 :])

    def narrow(self, dim: Any, start: Any, length: Any) -> Tensor:
        """`length` elements along an axis, from `start` on."""
        at = shape.normalise_axis("narrow", dim, self.ndim, self.shape)
        n = self.shape[at]
        first = start + n if start < 0 else start
        if not 0 <= first <= first + length <= n:
            raise IndexError(
                f"narrow: {length} elements from {start} are not in axis {dim} of shape "
                f"{self.shape}"
            )
        return self[(slice(None),) * at + (slice(first, first + length),)]  # type: ignore

    def select(self, dim: Any, index: Any) -> Tensor:
        """One place along an axis, which goes."""
        at = shape.normalise_axis("select", dim, self.ndim, self.shape)
        return self[(slice(None),) * at + (index,)]  # type: ignore

    def repeat_interleave(self, repeats: Any, dim: Any = None) -> Tensor:
        return shape.repeat(self, repeats, axis=dim)

    # Values -----------------------------------------------------------------------------------

    def clone(self) -> Tensor:
        """Another tensor of the same value, which is assigned apart from this; recorded.

        >>> x = pn.ones(2); y = x.clone(); y[0] = 5.0
        >>> x.tolist(), y.tolist()
        ([1.0, 1.0], [5.0, 1.0])
        """
        return shape._reshape(self, shape=self.shape)

    def clamp(self, min: Any = None, max: Any = None) -> Tensor:
        return e.clip(self, min, max)

    def masked_fill(self, mask: Any, value: Any) -> Tensor:
        """`value` where the mask is true, else the element; mask broadcasts.

        >>> x = pn.tensor([1.0, 2.0])
        >>> x.masked_fill(x > 1.5, float("-inf"))
        tensor([  1., -inf])
        """
        if mask.dtype is not dtypes.bool_:
            raise TypeError(
                f"masked_fill: a mask of bools is needed, not {mask.dtype.name}"
            )
        return e.astype(e.where(mask, value, self), self.dtype)

    def softmax(self, dim: Any) -> Tensor:
        return losses.softmax(self, dim)

    def log_softmax(self, dim: Any) -> Tensor:
        return losses.log_softmax(self, dim)

    def cumsum(self, dim: Any) -> Tensor:
        return scan.cumulative_sum(self, axis=dim)

    def cumprod(self, dim: Any) -> Tensor:
        return scan.cumulative_prod(self, axis=dim)

    def tril(self, diagonal: Any = 0) -> Tensor:
        return create.tril(self, k=diagonal)

    def triu(self, diagonal: Any = 0) -> Tensor:
        return create.triu(self, k=diagonal)

    def index_select(self, dim: Any, index: Any) -> Tensor:
        return _take(self, index, axis=dim, name="index_select")

    def gather(self, dim: Any, index: Any) -> Tensor:
        """y[i, j, k] = x[i, index[i, j, k], k], for dim=1; of the shape of index.

        index may be smaller than x along the other axes, whose ends are then not read.

        >>> pn.tensor([[1, 2], [3, 4]]).gather(1, pn.tensor([[1], [0]])).tolist()
        [[2], [3]]
        """
        at = shape.normalise_axis("gather", dim, self.ndim, self.shape)
        sizes = tuple(index.shape)
        if len(sizes) != self.ndim or any(
            m > n
            for i, (m, n) in enumerate(zip(sizes, self.shape, strict=False))
            if i != at
        ):
            raise ValueError(
                f"gather: an index of shape {sizes} does not fit {self.shape} beside "
                f"axis {dim}"
            )
        part = tuple(slice(None if i == at else n) for i, n in enumerate(sizes))
        return _gather(self[part], index, axis=at, name="gather")  # type: ignore


for _name, _method in list(vars(Familiar).items()):
    if getattr(getattr(_method, "__code__", None), "co_argcount", 0) > 1:
        setattr(Familiar, _name, naming(_method))

# Not shadowed by the methods' arguments.
_take, _gather = index.take, index.take_along_axis

for _name, _hint in METHODS.items():
    setattr(Familiar, _name, Elsewhere(_name, _hint))
