"""Module: an object whose attributes are parameters, buffers and other modules."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Tensor, no_grad, tensor_of
from ..autograd.hooks import Handle
from ..autograd.tape import mode, revise, while_traced
from ..autograd.tensor import not_none
from ..creation import tensor
from ..devices import Device, device, get
from ..dtypes import Dtype, as_dtype
from ..naming import no_tensor
from ..ops import elementwise as e
from .hooks import Hooks


def Parameter(data: Any, requires_grad: bool = True) -> Tensor:
    """A tensor to train: a module that it is assigned to lists it among its parameters.

    data: a floating tensor (whose value is taken, not its history), or what `tensor` takes.

    >>> nn.Parameter([1.0, 2.0]).requires_grad
    True
    """
    value = data.detach() if isinstance(data, Tensor) else tensor(data)
    if not value.dtype.is_float:
        raise TypeError(
            f"Parameter: a floating dtype is needed, not {value.dtype.name}; write floats, "
            "or cast with x.float()"
        )
    made = tensor_of(value.value)
    made.requires_grad = requires_grad
    return made


class Mismatch(NamedTuple):
    """The names that `load_state_dict` had no use for or did not find."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class _Watch(threading.local):
    seen: Callable[[Module, Any], None] | None = None


watch = _Watch()


class Module:
    """The base of layers and models. Assign in `__init__`, compute in `forward`.

    An attribute is a parameter if it is a tensor that requires a gradient (see `Parameter`),
    a buffer if it was given to `register_buffer`, a child if it is a Module; lists, tuples
    and dicts of modules are searched too. `super().__init__()` need not be called.

    >>> class Scale(nn.Module):
    ...     def __init__(self, n):
    ...         self.weight = nn.Parameter(pn.ones(n))
    ...
    ...     def forward(self, x):
    ...         return x * self.weight
    >>> [name for name, p in Scale(3).named_parameters()]
    ['weight']
    """

    training = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hooks = self.__dict__.get("_hooks")
        if mode.tracer is not None:
            mode.tracer.look(self, "_hooks", hooks)
        try:
            if hooks is None:
                y = self.forward(*args, **kwargs)
            else:
                y = hooks.call(self, args, kwargs)
        except AttributeError as error:
            values = (*args, *kwargs.values())
            better = no_tensor(type(self).__name__, error, values)
            if better is None:
                raise
            raise better from None
        if watching and watch.seen is not None:
            watch.seen(self, y)
        return y

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes. Every module defines its own."""
        raise NotImplementedError(f"{type(self).__name__}: define forward(self, ...)")

    def register_forward_hook(
        self, hook: Callable[[Module, tuple, Any], Any]
    ) -> Handle:
        """Call hook(module, args, result) after forward; what it gives, unless None, takes
        the place of the result. The handle's `remove()` ends that.

        In a function that `pn.compile` made, hooks run where it is traced, and not again.

        >>> layer, seen = nn.ReLU(), []
        >>> with layer.register_forward_hook(lambda m, args, y: seen.append(y.shape)):
        ...     _ = layer(pn.ones((2, 3)))
        >>> seen
        [(2, 3)]
        """
        return Handle(self._hooked().after, hook)

    def register_forward_pre_hook(self, hook: Callable[[Module, tuple], Any]) -> Handle:
        """Call hook(module, args) before forward; what it gives, unless None, takes the
        place of the arguments. Otherwise as `register_forward_hook`."""
        return Handle(self._hooked().before, hook)

    def register_full_backward_hook(
        self, hook: Callable[[Module, tuple, tuple], Any]
    ) -> Handle:
        """Call hook(module, gradients of the arguments, gradients of the result) in backward;
        what it gives, unless None, goes on in the place of the gradients of the arguments.

        Of the arguments by position, None where one has no gradient; of the result, each of
        its tensors. Otherwise as `register_forward_hook`.

        >>> layer, seen = nn.Linear(2, 3), []
        >>> x = pn.ones((1, 2), requires_grad=True)
        >>> with layer.register_full_backward_hook(lambda m, g, gy: seen.append(gy[0])):
        ...     layer(x).sum().backward()
        >>> seen
        [tensor([[1., 1., 1.]])]
        """
        return Handle(self._hooked().backward, hook)

    def register_full_backward_pre_hook(
        self, hook: Callable[[Module, tuple], Any]
    ) -> Handle:
        """Call hook(module, gradients of the result) before the module's backward; what it
        gives, unless None, takes their place. Otherwise as `register_full_backward_hook`."""
        return Handle(self._hooked().backward_before, hook)

    def _hooked(self) -> Hooks:
        return self.__dict__.setdefault("_hooks", Hooks())

    # Attributes ---------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        self._changes(name, value)
        roles = self._roles()
        role = roles.get(name)
        if isinstance(value, Tensor):
            if role is None and value.requires_grad and value.is_leaf:
                roles[name] = "parameter"
            elif role == "parameter" and not value.requires_grad:
                raise TypeError(
                    f"{type(self).__name__}: {name} is a parameter; assign "
                    f"nn.Parameter(...), or change its value by {name}.assign(...)"
                )
        else:
            _refuse_parameters(self, name, value)
            roles.pop(name, None)
        object.__setattr__(self, name, value)

    def _changes(self, name: str, value: Any) -> None:
        """An attribute gets a value: plans that have read it don't hold."""
        if mode.tracer is not None and not self.__dict__:
            mode.tracer.inner[id(self)] = self
        if mode.tracer is not None and (name in self.__dict__ or name == "training"):
            mode.tracer.give(self, name, getattr(self, name), value)
        if self.__dict__.get(name, revise) is not value:
            revise()

    def __delattr__(self, name: str) -> None:
        revise()
        object.__delattr__(self, name)
        self._roles().pop(name, None)

    def _roles(self) -> dict[str, str]:
        """The names of parameters and buffers, and which of the two each is."""
        return self.__dict__.setdefault("_names", {})

    def register_buffer(self, name: str, value: Tensor | None) -> None:
        """Make an attribute of a tensor that is saved and moved with the module, but not
        trained; a module changes it by `assign`."""
        self._changes(name, value)
        if value is None:
            object.__setattr__(self, name, None)
            return
        if not isinstance(value, Tensor):
            raise TypeError(
                f"register_buffer: {name} is a {type(value).__name__}, not a Tensor"
            )
        self._roles()[name] = "buffer"
        object.__setattr__(self, name, value.detach())

    def register_parameter(self, name: str, value: Tensor | None) -> None:
        """Make an attribute of a parameter, or None in the place of one."""
        if value is not None and not (
            isinstance(value, Tensor) and value.requires_grad
        ):
            raise TypeError(
                f"register_parameter: {name} is a {type(value).__name__}; make it a "
                "parameter with nn.Parameter"
            )
        setattr(self, name, value)

    def add_module(self, name: str, module: Module | None) -> None:
        """Make an attribute of a module."""
        setattr(self, name, module)

    def get_submodule(self, target: str) -> Module:
        """The module of a name such as "encoder.layers.0"; "" is this one.

        >>> nn.Sequential(nn.Linear(1, 2), nn.ReLU()).get_submodule("1")
        ReLU()
        """
        return self._found(target, dict(self.named_modules()), "module")

    def get_parameter(self, target: str) -> Tensor:
        """The parameter of a name such as "encoder.layers.0.weight"."""
        return self._found(target, self._of_role("parameter"), "parameter")

    def get_buffer(self, target: str) -> Tensor:
        """The buffer of a name such as "norm.running_mean"."""
        return self._found(target, self._of_role("buffer"), "buffer")

    def _of_role(self, role: str) -> dict[str, Tensor]:
        return {
            _joined(prefix, name): value
            for prefix, module in self.named_modules()
            for name, value in module._own(role)
        }

    def _found(self, target: str, known: Mapping[str, Any], kind: str) -> Any:
        if target not in known:
            near = difflib.get_close_matches(target, known, 1)
            hint = f"; there is {near[0]!r}" if near else ""
            raise AttributeError(
                f"{type(self).__name__}: there is no {kind} {target!r}{hint}"
            )
        return known[target]

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) for each module that is an attribute, or in a list or dict of them.

        A list's are called `layers.0`, `layers.1` and so on.
        """
        for name, value in self.__dict__.items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list | tuple):
                for i, v in enumerate(value):
                    if isinstance(v, Module):
                        yield f"{name}.{i}", v
            elif isinstance(value, dict) and name != "_names":
                for key, v in value.items():
                    if isinstance(v, Module):
                        yield f"{name}.{key}", v

    def children(self) -> Iterator[Module]:
        """The modules one level below."""
        return (m for _, m in self.named_children())

    def named_modules(
        self, prefix: str = "", memo: set[int] | None = None
    ) -> Iterator[tuple[str, Module]]:
        """(name, module) for this one, whose name is the prefix, and all below, each once."""
        memo = set() if memo is None else memo
        if id(self) in memo:
            return
        memo.add(id(self))
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(_joined(prefix, name), memo)

    def modules(self) -> Iterator[Module]:
        """This module and all below, each once."""
        return (m for _, m in self.named_modules())

    def _named(self, role: str) -> Iterator[tuple[str, Tensor]]:
        memo: set[int] = set()
        for prefix, module in self.named_modules():
            for name, value in module._own(role):
                if id(value) not in memo:
                    memo.add(id(value))
                    yield _joined(prefix, name), value

    def _own(self, role: str | None = None) -> Iterator[tuple[str, Tensor]]:
        for name, found in self._roles().items():
            if role in (None, found):
                yield name, self.__dict__[name]

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) for each parameter here and below, each once."""
        return self._named("parameter")

    def parameters(self) -> Iterator[Tensor]:
        """The parameters here and below, each once: what an optimizer takes."""
        return (p for _, p in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) for each buffer here and below, each once."""
        return self._named("buffer")

    def buffers(self) -> Iterator[Tensor]:
        """The buffers here and below, each once."""
        return (b for _, b in self.named_buffers())

    # Saving -------------------------------------------------------------------------------

    def _entries(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every name of every parameter and buffer; tied ones come under each name."""
        for name, value in self._own():
            yield _joined(prefix, name), value
        for name, child in self.named_children():
            yield from child._entries(_joined(prefix, name))

    def state_dict(self) -> dict[str, Tensor]:
        """The values of parameters and buffers by name, as they are now.

        >>> sorted(nn.Linear(2, 3).state_dict())
        ['bias', 'weight']
        """
        return {name: value.detach() for name, value in self._entries()}

    def load_state_dict(
        self, state: Mapping[str, Any], strict: bool = True
    ) -> Mismatch:
        """Take the values of a `state_dict`, cast and moved to where the parameters are.

        ValueError lists every name that is missing or unexpected (strict=False lets them
        be) and every shape that differs; then nothing is changed.
        """
        mine = dict(self._entries())
        missing = [name for name in mine if name not in state]
        unexpected = [name for name in state if name not in mine]
        wrong = []
        if strict:
            wrong += [f"missing: {name}" for name in missing]
            wrong += [f"unexpected: {name}" for name in unexpected]
        found = {name: _as_tensor(name, v) for name, v in state.items() if name in mine}
        for name, value in found.items():
            if value.shape != mine[name].shape:
                wrong.append(
                    f"shape: {name} is {mine[name].shape}, the state's is {value.shape}"
                )
        if wrong:
            listed = "\n  ".join(wrong + _prefix_hint(missing, unexpected))
            raise ValueError(
                f"load_state_dict: {type(self).__name__}: nothing was loaded\n  {listed}"
            )
        with no_grad():
            ready = {
                name: _converted(v, mine[name].device, mine[name].dtype)
                for name, v in found.items()
            }
            for name, value in ready.items():
                mine[name].assign(value)
        return Mismatch(missing, unexpected)

    # All at once --------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Module:
        """Switch this module and all below to training (or with False, to evaluation)."""
        for m in self.modules():
            m._changes("training", bool(mode))
            m.__dict__["training"] = bool(mode)
        return self

    def eval(self) -> Module:
        """Switch this module and all below to evaluation: no dropout, running statistics."""
        return self.train(False)

    def to(
        self,
        *where: Any,
        device: Any = None,
        dtype: Any = None,
        non_blocking: bool = False,
    ) -> Module:
        """Move every parameter, buffer and gradient to a device, or cast the floating ones
        to a dtype, or both. The tensors stay the same objects, so that an optimizer made
        before goes on; if one can't be moved, none is. non_blocking is PyTorch's: nothing
        waits here anyway.
        """
        place, dtype = _destination((*where, *not_none(device, dtype)))
        tensors = list(self._named("parameter")) + list(self._named("buffer"))
        with no_grad():
            moved = []
            for _, t in tensors:
                kind = dtype if dtype is not None and t.dtype.is_float else t.dtype
                target = t.device if place is None else place
                g = None if t.grad is None else _converted(t.grad, target, kind)
                moved.append((t, _converted(t, target, kind), g))
            for t, value, g in moved:
                t._write(value.value)
                if g is not None:
                    t.grad = g
        return self

    def cpu(self) -> Module:
        """On the cpu."""
        return self.to("cpu")

    def float(self) -> Module:
        """As float32, where it is floating."""
        return self.to("float32")

    def double(self) -> Module:
        """As float64, where it is floating."""
        return self.to("float64")

    def half(self) -> Module:
        """As float16, where it is floating."""
        return self.to("float16")

    def bfloat16(self) -> Module:
        """As bfloat16, where it is floating."""
        return self.to("bfloat16")

    def apply(self, function: Callable[[Module], Any]) -> Module:
        """Call a function with each module, children before parents."""
        for m in reversed(list(self.modules())):
            function(m)
        return self

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for p in self.parameters():
            p.grad = None

    def requires_grad_(self, wanted: bool = True) -> Module:
        """Train all parameters, or with False freeze them; they stay parameters."""
        for p in self.parameters():
            p.requires_grad = wanted
        return self

    # Looking at it ------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands between the parentheses of a layer's repr."""
        return ""

    def __repr__(self) -> str:
        lines = [
            f"({name}): " + repr(child).replace("\n", "\n  ")
            for name, child in self.named_children()
        ]
        extra, name = self.extra_repr(), type(self).__name__
        if not lines:
            return f"{name}({extra})"
        return "\n  ".join([f"{name}({extra}", *lines]) + "\n)"

    def summary(self, input_shape: Any, dtype: Any = "float32") -> str:
        """A table of the layers: their output shapes and parameters.

        input_shape: of the whole batch, (1, 64) for one row of 64; or a list of shapes,
        one an argument. The model runs once on zeros, in evaluation mode.
        """
        from .summary import summary

        return summary(self, input_shape, dtype)

    def __copy__(self) -> Module:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.__dict__["_names"] = dict(self._roles())
        return made


def _looked_at(self: Module, name: str) -> Any:
    """`getattr` while a function is traced: a plan holds for the attributes that it read."""
    value = object.__getattribute__(self, name)
    if mode.tracer is not None and (
        name == "training" or name in object.__getattribute__(self, "__dict__")
    ):
        mode.tracer.look(self, name, value)
    return value


while_traced.append((Module, "__getattribute__", _looked_at))
watching: list[Any] = []  # not empty while some thread runs a summary


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _refuse_parameters(module: Module, name: str, value: Any) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple) and any(
        isinstance(v, Tensor) and v.requires_grad and v.is_leaf for v in value
    ):
        raise TypeError(
            f"{type(module).__name__}: {name} holds parameters in a {type(value).__name__}"
            ", where they would not be found; give each an attribute with setattr"
        )


def _prefix_hint(missing: list[str], unexpected: list[str]) -> list[str]:
    """What to do where all names have one more part in front, as DataParallel's have."""
    fronts = {name.partition(".")[0] for name in unexpected}
    if len(fronts) != 1 or not set(missing) & {n.partition(".")[2] for n in unexpected}:
        return []
    front = fronts.pop() + "."
    return [f"the names begin with {front!r}: take it off with removeprefix"]


def _as_tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray | np.generic):
        return tensor(value, device="cpu")
    raise TypeError(
        f"load_state_dict: {name} is a {type(value).__name__}, not a tensor"
    )


def _destination(where: tuple) -> tuple[Device | None, Dtype | None]:
    """The device and the dtype among the arguments of `to`."""
    place, dtype = None, None
    for w in where:
        try:
            kind = None if isinstance(w, Device | device) else as_dtype(w)
        except TypeError:
            kind = None
        if kind is None:
            place = get(w)
        elif not kind.is_float:
            raise TypeError(
                f"to: parameters need a floating dtype, which {kind.name} is not"
            )
        else:
            dtype = kind
    return place, dtype


def _converted(x: Tensor, place: Device, dtype: Dtype) -> Tensor:
    """x elsewhere and as another dtype, cast on the side that has both dtypes."""
    x = x.detach()
    if dtype in x.device.backend.dtypes:
        return e.astype(x, dtype).to(place)
    return e.astype(x.to(place), dtype)
