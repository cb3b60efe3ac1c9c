"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..autograd import Tensor
from ..autograd.tape import revise
from .module import Module, Parameter


class Sequential(Module):
    """Layers one after another: y = layer_n(... layer_1(x)).

    layers: modules, or one dict of modules by name, which are attributes then. An integer
    index gives a layer, a slice another Sequential of the same layers.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> model(pn.ones((3, 4))).shape
    (3, 2)
    >>> nn.Sequential({"hidden": nn.Linear(4, 8), "act": nn.ReLU()}).act
    ReLU()
    """

    def __init__(self, *layers: Module | Mapping[str, Module]):
        self.layers: list[Module] = []
        self.labels: list[str] | None = None  # None: the numbers
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            self.labels = []
            for name, layer in layers[0].items():
                self.add_module(name, layer)
        else:
            self.extend(layers)  # type: ignore[arg-type]

    def append(self, layer: Module) -> Sequential:
        """Put a layer at the end."""
        return self.insert(len(self.layers), layer)

    def extend(self, layers: Iterable[Module]) -> Sequential:
        """Put layers at the end."""
        for layer in layers:
            self.append(layer)
        return self

    def insert(self, index: int, layer: Module) -> Sequential:
        """Put a layer before the one at an index."""
        self.layers.insert(index, _checked("Sequential", index, layer, "layer"))
        revise()
        if self.labels is not None:
            self.labels.insert(index, str(len(self.labels)))
        return self

    def add_module(self, name: str, module: Module | None) -> None:
        """Put a layer at the end, under a name; one that is there already is replaced."""
        names = self._names_of_layers()
        if name in names:
            self[names.index(name)] = module  # type: ignore[assignment]
            return
        self.layers.append(_checked("Sequential", len(names), module, "layer"))
        revise()
        self.labels = [*names, name]

    def _names_of_layers(self) -> list[str]:
        if self.labels is not None:
            return self.labels
        return [str(i) for i in range(len(self.layers))]

    def __getattr__(self, name: str) -> Module:
        labels = self.__dict__.get("labels")
        if labels and name in labels:
            return self.layers[labels.index(name)]
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}",
            name=name, obj=self,
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def named_children(self) -> Iterator[tuple[str, Module]]:
        return zip(self._names_of_layers(), self.layers, strict=True)

    def _at(self, index: int) -> int:
        if not -len(self.layers) <= index < len(self.layers):
            raise IndexError(
                f"Sequential: there is no layer {index} among {len(self.layers)}"
            )
        return index

    def __getitem__(self, key: int | slice) -> Module:
        if not isinstance(key, slice):
            return self.layers[self._at(key)]
        if self.labels is None:
            return Sequential(*self.layers[key])
        pairs = zip(self.labels[key], self.layers[key], strict=True)
        return Sequential(dict(pairs))

    def __setitem__(self, index: int, layer: Module) -> None:
        self.layers[self._at(index)] = _checked("Sequential", index, layer, "layer")
        revise()

    def __delitem__(self, key: int | slice) -> None:
        """Take out a layer or several; those without names are numbered anew."""
        del self.layers[key if isinstance(key, slice) else self._at(key)]
        revise()
        if self.labels is not None:
            del self.labels[key]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)


class Residual(Module):
    """y = x + fn(x), for a module whose result has the shape of its input; He et al., 2016.

    >>> nn.Residual(nn.Identity())(pn.ones(2))
    tensor([2., 2.])
    """

    def __init__(self, fn: Module | Callable[[Any], Any]):
        self.fn = fn

    def forward(self, x: Any) -> Any:
        y = self.fn(x)
        if y.shape != x.shape:
            raise ValueError(
                f"Residual: the branch gives {y.shape} for an input {x.shape}; "
                "they must be equal"
            )
        return x + y


class ModuleList(Module):
    """Modules in a list, each found by its number; what calls them is up to the owner.

    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         self.stages = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    ...
    ...     def forward(self, x):
    ...         for stage in self.stages:
    ...             x = stage(x)
    ...         return x
    >>> [name for name, p in Net().named_parameters()][:2]
    ['stages.0.weight', 'stages.0.bias']
    """

    def __init__(self, modules: Iterable[Module] = ()):
        self.entries: list[Module] = []
        self.extend(modules)

    def append(self, module: Module) -> ModuleList:
        """Put a module at the end."""
        self.insert(len(self.entries), module)
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Put modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> None:
        """Put a module before the one at an index."""
        self.entries.insert(index, _checked("ModuleList", index, module))

    def named_children(self) -> Iterator[tuple[str, Module]]:
        return ((str(i), m) for i, m in enumerate(self.entries))

    def _at(self, index: int) -> int:
        if not -len(self.entries) <= index < len(self.entries):
            raise IndexError(
                f"ModuleList: there is no module {index} among {len(self.entries)}"
            )
        return index

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            return ModuleList(self.entries[key])
        return self.entries[self._at(key)]

    def __setitem__(self, index: int, module: Module) -> None:
        self.entries[self._at(index)] = _checked("ModuleList", index, module)

    def __delitem__(self, index: int) -> None:
        del self.entries[self._at(index)]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.entries)


class ModuleDict(Module):
    """Modules by name, in the order in which they were put in.

    >>> heads = nn.ModuleDict({"low": nn.Linear(4, 2), "high": nn.Linear(4, 3)})
    >>> heads["high"](pn.ones((1, 4))).shape
    (1, 3)
    """

    def __init__(self, modules: Mapping[str, Module] | None = None):
        self.entries: dict[str, Module] = {}
        self.update(modules or {})

    def update(self, modules: Mapping[str, Module]) -> None:
        """Put in these modules; those under names that are there already are replaced."""
        for name, module in modules.items():
            self[name] = module

    def pop(self, name: str) -> Module:
        """Take a module out."""
        module = self[name]
        del self.entries[name]
        return module

    def keys(self) -> Iterable[str]:
        """The names."""
        return self.entries.keys()

    def values(self) -> Iterable[Module]:
        """The modules."""
        return self.entries.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Names and modules."""
        return self.entries.items()

    def named_children(self) -> Iterator[tuple[str, Module]]:
        return iter(self.entries.items())

    def __getattr__(self, name: str) -> Module:
        entries = self.__dict__.get("entries", {})
        if name in entries:
            return entries[name]
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}",
            name=name, obj=self,
        )  # fmt: skip

    def __getitem__(self, name: str) -> Module:
        if name not in self.entries:
            known = ", ".join(self.entries) or "nothing"
            raise KeyError(f"ModuleDict: there is no module {name!r}; it has {known}")
        return self.entries[name]

    def __setitem__(self, name: str, module: Module) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(
                f"ModuleDict: a name is a string without a dot, not {name!r}"
            )
        self.entries[name] = _checked("ModuleDict", name, module)

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)


class ParameterList(Module):
    """Parameters in a list, each found by its number; their names are "0", "1" and so on.

    >>> nn.ParameterList([pn.ones(2), pn.zeros(3)])[1].shape
    (3,)
    """

    def __init__(self, values: Iterable[Any] = ()):
        self.count = 0
        self.extend(values)

    def append(self, value: Any) -> ParameterList:
        """Put a tensor at the end, as a parameter."""
        setattr(self, str(self.count), _as_parameter(value))
        self.count += 1
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        """Put tensors at the end."""
        for value in values:
            self.append(value)
        return self

    def _name(self, index: int) -> str:
        if not -self.count <= index < self.count:
            raise IndexError(
                f"ParameterList: there is no parameter {index} among {self.count}"
            )
        return str(index % self.count)

    def __getitem__(self, index: int) -> Tensor:
        return getattr(self, self._name(index))

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, self._name(index), _as_parameter(value))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(self.count))


class ParameterDict(Module):
    """Parameters by name, in the order in which they were put in.

    >>> p = nn.ParameterDict({"scale": pn.ones(2)})
    >>> p["scale"].requires_grad, list(p)
    (True, ['scale'])
    """

    def __init__(self, values: Mapping[str, Any] | None = None):
        self.names: list[str] = []
        self.update(values or {})

    def update(self, values: Mapping[str, Any]) -> None:
        """Put in these tensors; those under names that are there already are replaced."""
        for name, value in values.items():
            self[name] = value

    def pop(self, name: str) -> Tensor:
        """Take a parameter out."""
        value = self[name]
        delattr(self, name)
        self.names.remove(name)
        return value

    def keys(self) -> Iterable[str]:
        """The names."""
        return tuple(self.names)

    def values(self) -> Iterable[Tensor]:
        """The parameters."""
        return [self[name] for name in self.names]

    def items(self) -> Iterable[tuple[str, Tensor]]:
        """Names and parameters."""
        return [(name, self[name]) for name in self.names]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            known = ", ".join(self.names) or "nothing"
            raise KeyError(
                f"ParameterDict: there is no parameter {name!r}; it has {known}"
            )
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        is_taken = (
            isinstance(name, str) and name not in self.names and hasattr(self, name)
        )
        if not isinstance(name, str) or not name or "." in name or is_taken:
            raise ValueError(
                "ParameterDict: a name is a string without a dot that is no attribute of "
                f"a module, not {name!r}"
            )
        setattr(self, name, _as_parameter(value))
        if name not in self.names:
            self.names.append(name)

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)


def _as_parameter(value: Any) -> Tensor:
    is_one = isinstance(value, Tensor) and value.requires_grad and value.is_leaf
    return value if is_one else Parameter(value)


def _checked(owner: str, key: Any, module: Any, kind: str = "module") -> Module:
    if not isinstance(module, Module):
        raise TypeError(
            f"{owner}: {kind} {key} is a {type(module).__name__}, not a Module"
        )
    return module
