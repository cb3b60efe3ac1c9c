"""Parameters made of others: `layer.weight` computed, each time it is asked for, by a module.

As in PyTorch: what is trained is `layer.parametrizations.weight.original`, and each function
on the way from it to `layer.weight` is a module in that list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...autograd import Tensor, no_grad
from ..containers import ModuleDict, ModuleList
from ..module import Module, Parameter

_made: dict[tuple[type, tuple[str, ...]], type] = {}


class ParametrizationList(ModuleList):
    """The functions from the original, or the originals, of one parameter to its value."""

    def __init__(self, functions: Sequence[Module], originals: Sequence[Tensor]):
        super().__init__(functions)
        self.count = len(originals)
        for name, value in zip(self._names_of_originals(), originals, strict=True):
            setattr(self, name, Parameter(value))

    def _names_of_originals(self) -> list[str]:
        if self.count == 1:
            return ["original"]
        return [f"original{i}" for i in range(self.count)]

    def forward(self) -> Tensor:
        """The value of the parameter."""
        value = [getattr(self, name) for name in self._names_of_originals()]
        for function in self:
            value = [function(*value)]
        return value[0]


def _property(name: str) -> property:
    return property(lambda self: self.parametrizations[name]())


def _refuse_assignment(module: Module, name: str, value: Any) -> None:
    if name in type(module).parametrized:  # type: ignore[attr-defined]
        raise AttributeError(
            f"{type(module).__name__}: {name} is computed; assign to "
            f"parametrizations.{name}.original, or remove_parametrizations first"
        )
    Module.__setattr__(module, name, value)


def _class_with(base: type, names: tuple[str, ...]) -> type:
    """base with these attributes computed; one class for each base and names."""
    if (base, names) not in _made:
        body: dict[str, Any] = {name: _property(name) for name in names}
        body |= {"parametrized": names, "__setattr__": _refuse_assignment}
        body |= {"__reduce__": _reduce, "__module__": base.__module__}
        _made[base, names] = type(f"Parametrized{base.__name__}", (base,), body)
    return _made[base, names]


def _reduce(self: Module) -> tuple:
    base = type(self).__bases__[0]
    return _empty, (base, type(self).parametrized), self.__dict__  # type: ignore


def _empty(base: type, names: tuple[str, ...]) -> Module:
    return object.__new__(_class_with(base, names))


def _become(module: Module, names: tuple[str, ...]) -> None:
    base = type(module).__bases__[0] if is_parametrized(module) else type(module)
    module.__class__ = _class_with(base, names) if names else base


def is_parametrized(module: Module, name: str | None = None) -> bool:
    """Whether a parameter of the module, or this one, is computed."""
    names = getattr(type(module), "parametrized", ())
    return bool(names) if name is None else name in names


def register_parametrization(module: Module, name: str, function: Module) -> Module:
    """Compute a parameter of a module by another module, from now on.

    function(original) -> the value. function.right_inverse(value) -> the original, or a
    tuple of them, that the parameter's value now is made from; without it the value is the
    original. Further ones are applied to the value in turn. Gives the module.

    >>> class Symmetric(nn.Module):
    ...     def forward(self, x):
    ...         return pn.triu(x) + pn.triu(x, k=1).mT
    >>> layer = nn.utils.parametrize.register_parametrization(
    ...     nn.Linear(2, 2), "weight", Symmetric()
    ... )
    >>> bool((layer.weight == layer.weight.T).all())
    True
    """
    inverse = getattr(function, "right_inverse", None)
    if is_parametrized(module, name):
        if inverse is not None:
            raise ValueError(
                f"register_parametrization: {name} is computed already; one with a "
                "right_inverse comes first"
            )
        module.parametrizations[name].append(function)  # type: ignore[attr-defined]
        return module
    if module._roles().get(name) != "parameter":
        raise ValueError(
            f"register_parametrization: {type(module).__name__} has no parameter {name!r}"
        )
    value = getattr(module, name)
    with no_grad():
        made = value if inverse is None else inverse(value)
        originals = list(made) if isinstance(made, tuple | list) else [made]
        held = ParametrizationList([function], originals)
        shape = held().shape
    if shape != value.shape:
        raise ValueError(
            f"register_parametrization: {name} is {value.shape}, the function gives {shape}"
        )
    delattr(module, name)
    if not is_parametrized(module):
        module.parametrizations = ModuleDict()  # type: ignore[attr-defined]
    module.parametrizations[name] = held  # type: ignore[attr-defined]
    _become(module, (*getattr(type(module), "parametrized", ()), name))
    return module


def remove_parametrizations(module: Module, name: str) -> Module:
    """Make the value that a parameter has now the parameter. Gives the module."""
    if not is_parametrized(module, name):
        raise ValueError(
            f"remove_parametrizations: {name} of {type(module).__name__} is not computed"
        )
    with no_grad():
        value = getattr(module, name)
    names = tuple(n for n in type(module).parametrized if n != name)  # type: ignore
    del module.parametrizations[name]  # type: ignore[attr-defined]
    _become(module, names)
    if not names:
        del module.parametrizations  # type: ignore[attr-defined]
    setattr(module, name, Parameter(value))
    return module
