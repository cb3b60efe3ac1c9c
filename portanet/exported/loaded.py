"""`load_exported`: the function of a file, lowered, fused and planned for a device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array, layout
from ..autograd import Tensor, no_grad, tensor_of
from ..autograd.tape import mode
from ..compiled import Compiled
from ..compiler.lazy import Lazy, Tracer
from ..creation import tensor
from ..devices import Device, default_device, get
from ..dtypes import from_numpy
from ..op import Spec
from . import file, names
from .recording import Number, Recording, rebuilt


def load_exported(path: Any, *, device: Any = None) -> Exported:
    """The function that `export` wrote, on a device; see Exported.

    ValueError names the file and what is wrong with it: cut short, changed since it was
    written, written by a newer version, or with an operator that is not defined here.
    TypeError where the device lacks a dtype of the file.
    """
    place = default_device() if device is None else get(device)
    made = file.read(path, place)
    try:
        check(made, place)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as why:
        raise file._damaged(path, why) from None
    return Exported(made, place, Path(path).name)


def lifted(constant: Number | Tensor, tracer: Tracer, device: Device) -> Lazy:
    """A constant as a tracer knows it."""
    if isinstance(constant, Number):
        return tracer.number(constant.value, constant.dtype, device)
    return tracer.lift(constant.value)


def check(made: Recording, device: Device) -> None:
    """ValueError or the like where the calls do not follow from each other."""
    tracer = Tracer()
    inputs = [
        tracer.argument(Array(None, layout(*spec, device)), i)
        for i, spec in enumerate(made.inputs.values())
    ]
    values = made.play([*inputs, *sources(made, tracer, device)])
    for name, i in made.assigned.items():
        old, new = made.states[name], values[i]
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(f"{name} is assigned {new.shape} {new.dtype.name}")


def sources(made: Recording, tracer: Tracer, device: Device) -> list[Lazy]:
    """The states and constants of a recording as a tracer knows them."""
    states = [tracer.read(t) for t in made.states.values()]
    return states + [lifted(c, tracer, device) for c in made.constants]


class Exported:
    """A function from a file. Call it with the arguments that it was exported with.

    Tensors on its device, or NumPy arrays, of the shapes and dtypes of the example; by
    position or by name. What it returns has no history.
    """

    def __init__(self, made: Recording, device: Device, name: str):
        self.device, self.name, self.__name__ = device, name, name
        self.inputs: dict[str, Spec] = dict(made.inputs)
        self._made = made
        self._compiled = Compiled(self._play)

    def states(self) -> dict[str, Tensor]:
        """The tensors that it reads or assigns; `assign` to one to change it."""
        return dict(self._made.states)

    def explain(self) -> str:
        """The launches of each call so far, as of a compiled function."""
        return self._compiled.explain()

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        given = self._named(args, keywords)
        tensors = [self._tensor(name, given[name]) for name in self.inputs]
        with no_grad():
            made = self._compiled(*tensors)
        return rebuilt(self._made.structure, iter(made))

    def __repr__(self) -> str:
        shown = ", ".join(f"{n}: {_shown(s)}" for n, s in self.inputs.items())
        return f"<exported {self.name} on {self.device} ({shown})>"

    def _play(self, *inputs: Tensor) -> list[Tensor]:
        """Runs only while it is traced."""
        made, tracer = self._made, mode.tracer
        values = made.play(
            [*map(Tensor._read, inputs), *sources(made, tracer, self.device)]
        )
        for name, i in made.assigned.items():
            made.states[name].assign(tensor_of(values[i]))
        return [tensor_of(values[i]) for i in made.results]

    def _named(self, args: tuple, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors of a call by name, also those inside of tuples and dicts."""
        known = self._made.parameters
        if len(args) > len(known):
            raise TypeError(
                f"{self.name}: {len(args)} arguments are given, {len(known)} are taken"
            )
        given = {**dict(zip(known, args, strict=False)), **keywords}
        found = dict(pair for n in given for pair in names.leaves(given[n], n))
        for name, value in found.items():
            self._check_fixed(name, value)
        missing = [name for name in self.inputs if name not in found]
        if missing:
            raise TypeError(
                f"{self.name}: {', '.join(missing)} missing; it takes "
                f"{', '.join(self.inputs)}"
            )
        return found

    def _check_fixed(self, name: str, value: Any) -> None:
        if name in self.inputs:
            return
        if name not in self._made.fixed:
            raise TypeError(
                f"{self.name}: there is no argument {name}; it takes "
                f"{', '.join(self.inputs)}"
            )
        kept = self._made.fixed[name]
        if isinstance(kept, dict) and "object" in kept:
            return
        if value != file.decode(kept):
            raise ValueError(
                f"{self.name}: {name} is {file.decode(kept)!r} in this file, not "
                f"{value!r}; export it again with that"
            )

    def _tensor(self, name: str, value: Any) -> Tensor:
        """An argument where this function is, if it is what was exported."""
        if isinstance(value, np.ndarray | np.generic):
            wanted = from_numpy(value.dtype)
            found = Spec(value.shape, wanted) if wanted else None
        elif isinstance(value, Tensor):
            found = Spec(value.shape, value.dtype)
        else:
            kind = type(value).__name__
            raise TypeError(
                f"{self.name}: {name} is a {kind}, not a tensor or an array"
            )
        spec = self.inputs[name]
        if found is None or found.dtype is not spec.dtype:
            raise TypeError(
                f"{self.name}: {name} is {value.dtype}, but {_shown(spec)} was "
                "exported; cast it with astype"
            )
        if found.shape != spec.shape:
            raise ValueError(
                f"{self.name}: {name} has shape {found.shape}, but {_shown(spec)} was "
                "exported; export it again with such an example"
            )
        if not isinstance(value, Tensor):
            return tensor(value, spec.dtype, self.device)
        if value.device is not self.device:
            raise ValueError(
                f"{self.name}: {name} is on {value.device} and the function on "
                f'{self.device}; move it with .to("{self.device}")'
            )
        return value.detach()


def _shown(spec: Spec) -> str:
    return f"{spec.dtype.name} {spec.shape}"
