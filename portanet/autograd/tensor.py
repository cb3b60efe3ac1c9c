"""Tensor: a value, and the node that says where it came from.

A tensor is a handle. Its value is never changed, only exchanged, by `assign`, `x[...] = v`
and the in-place operators; what was computed from the old value keeps it.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import arrays
from ..devices import Device
from ..devices import device as InDevice
from ..devices import get as get_device
from ..dtypes import Dtype, as_dtype, float32
from ..op import Joint, Op, check_tensor
from ..ops import elementwise as e
from ..ops import index, shape
from .methods import Methods
from .tape import Node, Part, mode

_new = object.__new__


class Tensor(Methods):
    """An array on a device that records what it goes through.

    Make one with `tensor`, `zeros`, `rand` and the like. `requires_grad` asks for gradients
    with respect to it: `y.backward()` adds them to `.grad`.

    `Tensor(data)` is `tensor(data, dtype=float32)`: as in PyTorch the class gives float32
    whatever the data are, a copy without history. TypeError where sizes are given instead.

    >>> pn.Tensor([1, 2])
    tensor([1., 2.])
    """

    __slots__ = ("__weakref__", "node", "value")
    __array_ufunc__ = None  # NumPy leaves the operators to us
    __array_priority__ = 1000
    level = 2

    value: Any
    node: Any

    def __new__(cls, *data: Any, device: Any = None, **options: Any) -> Tensor:
        if len(data) != 1 or isinstance(data[0], numbers.Integral) or options:
            raise TypeError(
                "Tensor: one list, array or tensor of values is expected; sizes are for "
                "zeros(2, 3), a number or a dtype for tensor(5, dtype=int32)"
            )
        import portanet

        return portanet.tensor(data[0], dtype=float32, device=device)

    # What it is ---------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> Dtype:
        return self.value.dtype

    @property
    def device(self) -> Device:
        return self.value.device

    @property
    def ndim(self) -> int:
        return len(self.value.shape)

    @property
    def size(self) -> int:
        return self.value.size

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, as NumPy counts them."""
        return self.size * self.dtype.itemsize

    @property
    def T(self) -> Tensor:
        """A matrix transposed."""
        if self.ndim != 2:
            raise ValueError(f"T: 2 axes are needed, got shape {self.shape}; use .mT")
        return shape.matrix_transpose(self)

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return shape.matrix_transpose(self)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len: a 0-d tensor has no length")
        return self.shape[0]

    def __array_namespace__(self, *, api_version: str | None = None):
        import portanet

        return portanet

    # Gradients ------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if wanted and not self.dtype.is_float:
            raise TypeError(
                f"requires_grad: only floats have gradients, not {self.dtype.name}"
            )
        if wanted and self.node is None:
            self.node = Node(None, None, None, None, ())
            if mode.tracer is not None:
                mode.tracer.make_leaf(self)
        elif not wanted and self.node is not None:
            if self.node.op is not None:
                raise RuntimeError(
                    "requires_grad: the tensor is a result; use detach() for its value"
                )
            self.node = None

    def requires_grad_(self, wanted: bool = True) -> Tensor:
        """Set requires_grad, and return the tensor."""
        self.requires_grad = wanted
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether it was made by the user and not by an operator that was recorded."""
        return self.node is None or self.node.op is None

    @property
    def grad(self) -> Tensor | None:
        """What `backward` has added up, or None."""
        if self.node is None or not self.is_leaf:
            return None
        if mode.tracer is None:
            return self.node.grad
        value = mode.tracer.read_grad(self.node)
        return None if value is None else tensor_of(value)

    @grad.setter
    def grad(self, g: Tensor | None) -> None:
        if g is not None and (g.shape != self.shape or g.dtype is not self.dtype):
            raise ValueError(
                f"grad: {g.shape} {g.dtype.name} is not the gradient of "
                f"{self.shape} {self.dtype.name}"
            )
        if self.node is None:
            if g is not None:
                raise RuntimeError("grad: the tensor does not require a gradient")
            return
        if mode.tracer is not None:
            mode.tracer.look_at_grad(self.node)
        self.node.grad = g

    def backward(
        self,
        gradient: Tensor | None = None,
        *,
        retain_graph: bool = False,
        create_graph: bool = False,
    ) -> None:
        """Add d(self)/d(leaf) to the `.grad` of every leaf that self came from.

        gradient: the gradient of self, 1 for a scalar. The graph is freed, unless
        retain_graph. create_graph records the backward pass, for gradients of gradients.

        >>> x = pn.tensor([1.0, 2.0], requires_grad=True)
        >>> (x * x).sum().backward()
        >>> x.grad
        tensor([2., 4.])
        """
        from .functions import run_backward

        run_backward(self, gradient, retain_graph or create_graph, create_graph)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Any:
        """Call hook(gradient) in backward, when all of the gradient of this tensor is there;
        what it gives, unless None, takes the gradient's place. The handle's `remove()` ends
        that. RuntimeError where the tensor requires no gradient.

        In a function that `pn.compile` made, hooks run where it is traced; what they compute
        is replayed.

        >>> x = pn.tensor([1.0, 2.0], requires_grad=True)
        >>> handle = x.register_hook(lambda g: g * 10)
        >>> (x * x).sum().backward()
        >>> x.grad
        tensor([20., 40.])
        """
        from .hooks import hook_tensor

        return hook_tensor(self, hook)

    def zero_grad(self) -> None:
        """Forget the gradient."""
        if self.node is not None and self.is_leaf:
            self.grad = None

    def detach(self) -> Tensor:
        """The same value, without its history."""
        return tensor_of(self._read())

    def _read(self) -> Any:
        """The value; while a function is traced, as the tracer knows it."""
        tracer = mode.tracer
        return self.value if tracer is None else tracer.read(self)

    def _write(self, value: Any) -> None:
        """Exchange the value."""
        if mode.journal is not None:
            mode.journal.setdefault(id(self), (self, self._read()))
        if mode.tracer is None:
            self.value = value
        else:
            mode.tracer.write(self, value)

    # Calls -----------------------------------------------------------------------------------

    def constant(self, value: Any, dtype: Dtype) -> Tensor:
        """A 0-d tensor where this one is."""
        return tensor_of(self._read().constant(value, dtype))

    def from_numpy(self, values: np.ndarray, dtype: Dtype) -> Tensor:
        """A tensor with these values where this one is."""
        return tensor_of(self._read().from_numpy(values, dtype))

    def _apply(self, op: Op, args: Sequence[Any], static: dict[str, Any]) -> Any:
        xs, nodes, recorded = [], [], False
        tracer = mode.tracer
        for a in args:
            if type(a) is Tensor or isinstance(a, Tensor):
                xs.append(a.value if tracer is None else tracer.read(a))
                nodes.append(a.node)
                if a.node is not None:
                    recorded = True
            else:
                xs.append(a)
                nodes.append(None)
        if not recorded or not mode.enabled:
            y = xs[0]._apply(op, xs, static) if len(xs) == 1 else op(*xs, **static)
            if type(y) is tuple:
                return tuple(map(tensor_of, y))
            made = _new(Tensor)  # as tensor_of, without the call
            made.value, made.node = y, None
            return made
        if op.grad is None or type(op.grad) is Joint and _lacks(xs[0].device, op):
            if op.fallback is not None:
                return op.fallback(*args, **static)
            y = op(*xs, **static)
            return tuple(map(tensor_of, y)) if type(y) is tuple else tensor_of(y)
        y = op(*xs, **static)
        node = Node(op, static, xs, y, nodes)
        if type(y) is tuple:
            return tuple(tensor_of(v, Part(node, i)) for i, v in enumerate(y))
        made = _new(Tensor)
        made.value, made.node = y, node
        return made

    # Assignment -------------------------------------------------------------------------------

    def assign(self, value: Any) -> Tensor:
        """Take the value of another tensor of the same shape, dtype and device."""
        value = value._read() if isinstance(value, Tensor) else value
        mine = self.value
        try:
            fits = (
                mine.dtype is value.dtype
                and mine.device is value.device
                and mine.shape == value.shape
            )
        except AttributeError:
            check_tensor("assign", value)
            raise
        if not fits:
            _refuse_assign(mine, value)
        self._write(value)
        return self

    def _become(self, made: Tensor, name: str) -> Tensor:
        """Exchange value and history for those of a result: an in-place operation."""
        if self.node is not None and mode.enabled and self.is_leaf:
            raise RuntimeError(
                f"{name}: a tensor that requires a gradient can't be changed in place "
                "while it is recorded; do it inside no_grad()"
            )
        if made.shape != self.shape:
            raise ValueError(
                f"{name}: the result is {made.shape}, which {self.shape} can't hold"
            )
        self._write(e.astype(made, self.dtype)._read())
        if mode.enabled:
            self.node = made.node if self.dtype.is_float else None
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(value, Tensor) and np.ndim(value):
            made = np.asarray(value)
            is_cut = made.dtype.kind == "f" and not self.dtype.is_float
            value = self.from_numpy(made, float32 if is_cut else self.dtype)
        self._become(index.setitem(self, key, value), "assignment")

    def __getitem__(self, key: Any) -> Tensor:
        return index.getitem(self, key)

    def __iter__(self):
        if not self.shape:
            raise TypeError("iter: a 0-d tensor can't be iterated")
        return (self[i] for i in range(self.shape[0]))

    # To elsewhere -------------------------------------------------------------------------------

    def to(
        self,
        *where: Any,
        device: Any = None,
        dtype: Any = None,
        non_blocking: bool = False,
    ) -> Tensor:
        """On another device, or as another dtype, or both: `x.to("wgpu")`, `x.to(pn.float16)`,
        or as another tensor in both: `x.to(y)`.

        A copy to another device is recorded: its gradient comes back. non_blocking is
        PyTorch's: nothing waits here anyway.
        """
        x = self
        for w in (*where, *not_none(device, dtype)):
            if isinstance(w, Dtype):
                x = e.astype(x, w)
            elif isinstance(w, Tensor):
                x = e.astype(_move(x, w.device), w.dtype)
            elif isinstance(w, Device | InDevice) or (
                isinstance(w, str) and not _is_dtype(w)
            ):
                x = _move(x, get_device(w))
            else:
                x = e.astype(x, as_dtype(w))
        return x

    def cpu(self) -> Tensor:
        """On the cpu."""
        return self.to("cpu")

    def numpy(self) -> np.ndarray:
        """A NumPy copy. Waits for the device; the history does not come along."""
        return self._read().numpy()

    def item(self) -> Any:
        """The one element, as a Python number."""
        if self.size != 1:
            raise ValueError(
                f"item: a tensor of shape {self.shape} has {self.size} elements"
            )
        return self._read().item()

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        return self.numpy().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(
                "__array__: a tensor gives NumPy a copy; copy=False can't be"
            )
        values = self.numpy()
        return values if dtype is None else values.astype(dtype)

    def __dlpack__(self, **options: Any):
        lend = getattr(self.device.backend, "lend", None)
        if lend is None:
            return self._host("__dlpack__").__dlpack__(**options)
        array = self._read()
        return lend(array.buffer, array.layout, **options)

    def __dlpack_device__(self):
        device = getattr(self.device.backend, "dlpack_device", None)
        return device or self._host("__dlpack_device__").__dlpack_device__()

    def _host(self, name: str) -> np.ndarray:
        if self.device.type != "cpu":
            raise BufferError(
                f"{name}: the tensor is on {self.device}; use .to('cpu') first"
            )
        return self.numpy()

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"bool: a tensor of shape {self.shape} is neither true nor false; "
                "use .any() or .all()"
            )
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if not self.dtype.is_integer or self.ndim:
            raise TypeError("index: only a 0-d integer tensor is an index")
        return int(self.item())

    def __repr__(self) -> str:
        from .printing import text

        return text(self)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __reduce__(self):
        trained = self.requires_grad and self.is_leaf
        return (_rebuild, (self.numpy(), self.dtype.name, str(self.device), trained))

    def __copy__(self) -> Tensor:
        return tensor_of(self._read(), self.node)

    def __deepcopy__(self, memo: dict) -> Tensor:
        return tensor_of(self._read()).requires_grad_(
            self.requires_grad and self.is_leaf
        )


def tensor_of(value: Any, node: Any = None) -> Tensor:
    """The tensor whose value this array (or a tracer's value) is, come from a node."""
    made = _new(Tensor)
    made.value, made.node = value, node
    return made


def _refuse_assign(mine: Any, value: Any) -> None:
    for what in ("shape", "dtype", "device"):
        old, new = getattr(mine, what), getattr(value, what)
        if old != new:
            raise ValueError(f"assign: the {what} is {old}, the new value's is {new}")


def _lacks(device: Device, op: Op) -> bool:
    return op.kernel is not None and not device.backend.has(op.kernel)


def not_none(*values: Any) -> list[Any]:
    """Those that were given."""
    return [v for v in values if v is not None]


def _is_dtype(name: str) -> bool:
    try:
        as_dtype(name)
    except TypeError:
        return False
    return True


def _rebuild(values: np.ndarray, dtype: str, device: str, trained: bool) -> Tensor:
    made = tensor_of(arrays.from_numpy(values, as_dtype(dtype), get_device(device)))
    return made.requires_grad_(trained)


class _Transfer:
    """The operator of a copy between devices; its gradient is copied back."""

    name = "to"
    grad = (lambda g, y, x, *, device: _move_any(g, x.device),)
    fallback = None


def _move_any(x: Any, device: Device) -> Any:
    return _move(x, device) if isinstance(x, Tensor) else x.to(device)


def _move(x: Tensor, device: Device) -> Tensor:
    if device is x.device:
        return x
    value = x._read().to(device)
    if x.node is None or not mode.enabled:
        return tensor_of(value)
    return tensor_of(
        value, Node(_Transfer, {"device": device}, [x._read()], value, [x.node])
    )
