"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .module import Module


class Sequential(Module):
    """Layers one after another: y = layer_n(... layer_1(x)).

    An integer index gives a layer, a slice another Sequential of the same layers.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> model(pn.ones((3, 4))).shape
    (3, 2)
    """

    def __init__(self, *layers: Module):
        self.layers: list[Module] = []
        for layer in layers:
            self.append(layer)

    def append(self, layer: Module) -> Sequential:
        """Put a layer at the end."""
        if not isinstance(layer, Module):
            raise TypeError(
                f"Sequential: layer {len(self.layers)} is a {type(layer).__name__}, not "
                "a Module"
            )
        self.layers.append(layer)
        return self

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def named_children(self) -> Iterator[tuple[str, Module]]:
        return ((str(i), layer) for i, layer in enumerate(self.layers))

    def __getitem__(self, key: int | slice) -> Module:
        if isinstance(key, slice):
            return type(self)(*self.layers[key])
        try:
            return self.layers[key]
        except IndexError:
            raise IndexError(
                f"Sequential: there is no layer {key} among {len(self.layers)}"
            ) from None

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
