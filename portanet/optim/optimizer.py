"""The base of optimizers: groups of parameters, their state, and what changes each step.

The learning rate and the count of steps are 0-d tensors where the parameters are, and are
assigned, so that a step that is replayed reads their values of the day.
"""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..arrays import Array, constant, from_numpy
from ..casting import suspended
from ..autograd import Tensor, no_grad, tensor_of
from ..autograd.tape import mode, revise
from ..compiler.lazy import TraceError, user_line
from ..devices import Device
from ..dtypes import Dtype, float32
from ..ops import elementwise as e


# State is made of arrays and not by operators, so that a step that is traced finds it as if
# it had been there before.


def number_at(p: Any, value: float, dtype: Dtype) -> Tensor:
    """A 0-d tensor of its own, on the device of p."""
    return tensor_of(from_numpy(np.array(value, dtype.numpy), dtype, p.device))


def zeros_at(p: Tensor) -> Tensor:
    """Zeros like p, which take the room of one until they are assigned."""
    return full_at(p, 0)


def full_at(p: Tensor, value: float) -> Tensor:
    """One number in the shape of p, in the room of one until it is assigned."""
    number = constant(value, p.dtype, p.device)
    return tensor_of(Array(number.buffer, number.layout.expanded(p.shape)))


def zeros_of(p: Tensor, state: dict[str, Tensor], *names: str) -> list[Tensor]:
    """The states of these names, zeros like p at first."""
    for name in names:
        if name not in state:
            state[name] = zeros_at(p)
    return [state[name] for name in names]


def assign_each(old: Iterable[Tensor], new: Iterable[Tensor]) -> None:
    """Assign to each of these its new value."""
    for tensor, value in zip(old, new, strict=True):
        tensor.assign(value)


class Group(dict):
    """One group's parameters and options. `group["lr"] = x` takes effect at once.

    initial_lr: the rate that schedulers start from, None before there is one.
    """

    initial_lr: float | None = None

    def __init__(self, options: Mapping[str, Any], check: Callable[[str, Any], None]):
        super().__init__()
        self.check, self.lr_is_read = check, False
        self.rates: dict[tuple[Device, Dtype], Tensor] = {}
        self.update(options)

    def __setitem__(self, name: str, value: Any) -> None:
        if mode.tracer is not None and name in self:
            raise TraceError(
                f"compile: {user_line()} sets {name!r} of an optimizer's group, which a "
                "replay would not; set it outside, or call step() of a scheduler"
            )
        self.check(name, value)
        super().__setitem__(name, value)
        if name != "lr" or self.lr_is_read:
            revise()
        if name == "lr":
            for rate in self.rates.values():
                rate.assign(number_at(rate, value, rate.dtype))

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if mode.tracer is not None:
            self.lr_is_read |= name == "lr"
            mode.tracer.look(self, name, value)
        return value

    def update(self, options: Mapping[str, Any]) -> None:  # type: ignore[override]
        for name, value in options.items():
            self[name] = value

    def static(self, *names: str) -> dict[str, float]:
        """Options as the static arguments of a rule; "betas" are beta1 and beta2."""
        made = {name: float(self[name]) for name in names if name != "betas"}
        if "betas" in names:
            made["beta1"], made["beta2"] = map(float, self["betas"])
        return made

    def rate(self, p: Tensor) -> Tensor:
        """The learning rate where p is."""
        key = (p.device, p.dtype.compute)
        if key not in self.rates:
            self.rates[key] = number_at(p, super().__getitem__("lr"), p.dtype.compute)
        return self.rates[key]

    def __reduce__(self):
        kept = None if self.initial_lr is None else {"initial_lr": self.initial_lr}
        return (Group, (dict(self), self.check), kept)


class Optimizer:
    """The base of optimizers; SGD and Adam say what a step is.

    params: parameters, or dicts {"params": parameters, "lr": ...} whose options differ from
    the defaults. ValueError where there are none, or one is listed twice.

    A subclass defines `update(p, g, state, group)`, which assigns the parameter p and its
    state, a dict of tensors; and sets `state_names`. A state named "step" counts the steps
    of its parameter.
    """

    state_names: tuple[str, ...] = ()
    scalars = ("step", "gain")  # states that are one number, and keep their own dtype

    def __init__(self, params: Any, defaults: Mapping[str, Any]):
        self.name = type(self).__name__
        self.defaults = dict(defaults)
        self.param_groups: list[Group] = []
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        for option, value in defaults.items():
            self.check(option, value)
        for group in self._groups(params):
            self.add_param_group(group)

    def check(self, option: str, value: Any) -> None:
        """ValueError or TypeError where an option can't have this value."""
        if option in ("lr", "weight_decay", "eps"):
            self.check_number(option, value)
        elif option == "betas":
            if not isinstance(value, tuple | list) or len(value) != 2:
                raise TypeError(f"{self.name}: betas are two numbers, not {value!r}")
            for i, beta in enumerate(value):
                self.check_number(f"betas[{i}]", beta, below=1.0)

    def check_number(self, option: str, value: Any, below: float = math.inf) -> None:
        """A number in [0, below)."""
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(
                f"{self.name}: {option} is a number, not {type(value).__name__}"
            )
        if not 0 <= float(value) < below:
            rule = "at least 0 and finite" if below == math.inf else f"in [0, {below})"
            raise ValueError(f"{self.name}: {option} must be {rule}, not {value}")

    def _groups(self, params: Any) -> list[Mapping[str, Any]]:
        if isinstance(params, Tensor | Mapping) or not isinstance(params, Iterable):
            asks = "; give it .parameters()" if hasattr(params, "parameters") else ""
            raise TypeError(
                f"{self.name}: a list of parameters is expected, not one "
                f"{type(params).__name__}{asks}"
            )
        given = list(params)
        if not given:
            raise ValueError(f"{self.name}: the list of parameters is empty")
        if isinstance(given[0], Mapping):
            return given
        return [{"params": given}]

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Train more parameters, with options of their own."""
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(
                f'{self.name}: a group is a dict with "params", not a '
                f"{type(group).__name__}"
            )
        unknown = sorted(set(group) - set(self.defaults) - {"params"})
        if unknown:
            raise ValueError(
                f"{self.name}: there is no option {', '.join(unknown)}; "
                f"known are {', '.join(self.defaults)}"
            )
        params = group["params"]
        chosen = [params] if isinstance(params, Tensor) else list(params)
        taken = set(map(id, self._parameters()))
        for i, p in enumerate(chosen):
            self._check_parameter(i, p)
            if id(p) in taken:
                raise ValueError(
                    f"{self.name}: parameter {i} of shape {p.shape} is listed twice"
                )
            taken.add(id(p))
        made = Group({**self.defaults, **group, "params": chosen}, self.check)
        self.param_groups.append(made)
        revise()

    def _check_parameter(self, i: int, p: Any) -> None:
        if not isinstance(p, Tensor):
            raise TypeError(
                f"{self.name}: parameter {i} is a {type(p).__name__}, not a Tensor"
            )
        if not p.is_leaf:
            raise ValueError(
                f"{self.name}: parameter {i} is a result of operators; only tensors made "
                "by nn.Parameter or requires_grad_() can be trained"
            )

    # Steps --------------------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients; with set_to_none=False they become zeros."""
        for p in self._parameters():
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad = zeros_at(p)

    def step(self) -> None:
        """Change each parameter that has a gradient; the others, and their state, stay."""
        # A plan holds for the tensors that it was traced with.
        if mode.tracer is not None:
            mode.tracer.optimizers.setdefault(id(self), (self, self.state))
            self._look(mode.tracer)
        with no_grad(), suspended():
            live = [
                (p, g, group)
                for group in self.param_groups
                for p in group["params"]
                if (g := p.grad) is not None
            ]
            self._prepare([p for p, _, _ in live])
            for p, g, group in live:
                g = e.negative(g) if group.get("maximize") else g
                self.update(p, g, self.state[p], group)

    def _look(self, tracer: Any) -> None:
        """A plan holds for these groups and their options, but for the rates."""
        if any(scheduler.optimizer is self for scheduler, _ in tracer.after):
            raise TraceError(
                f"compile: {user_line()} calls step() of the optimizer after that of its "
                "scheduler; call the scheduler's after it"
            )
        tracer.look(self, "param_groups", self.param_groups)
        for group in self.param_groups:
            for name in group.keys() - {"lr"}:
                tracer.look(group, name, group.get(name))

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: Group):
        """Assign p and its state; g is its gradient."""
        raise NotImplementedError(f"{self.name}: define update(p, g, state, group)")

    def _prepare(self, live: list[Tensor]) -> None:
        """Give each of these a state, bring it to where its parameter is, count the step."""
        brought: dict[Any, Tensor] = {}
        for p in live:
            state = self.state.setdefault(p, {})
            for name, s in state.items():
                dtype = s.dtype if name in self.scalars else p.dtype
                if s.device is not p.device or s.dtype is not dtype:
                    key = (id(s), p.device, dtype)
                    if key not in brought:
                        brought[key] = _brought(s, p.device, dtype)
                    state[name] = brought[key]
        if "step" in self.state_names:
            self._count(live)

    def _count(self, live: list[Tensor]) -> None:
        """Add 1 to the step of each of these. Those that have taken the same steps share
        one tensor, so that counting is one launch and not one a parameter."""
        first: dict[Device, Tensor] = {}
        for p in live:
            state = self.state[p]
            if "step" not in state:
                if p.device not in first:
                    first[p.device] = number_at(p, 0, float32)
                state["step"] = first[p.device]
        users = Counter(id(s["step"]) for s in self.state.values() if "step" in s)
        sharing: dict[int, list[dict[str, Tensor]]] = {}
        for p in live:
            state = self.state[p]
            sharing.setdefault(id(state["step"]), []).append(state)
        for states in sharing.values():
            counter = states[0]["step"]
            if len(states) == users[id(counter)]:
                counter.assign(e.add(counter, 1))
                continue
            own = tensor_of(counter.value)  # the others did not take this step
            own.assign(e.add(own, 1))
            for state in states:
                state["step"] = own

    # Saving -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state of each parameter by its number, and the options of the groups.

        Parameters are numbered in the order of the groups, as in PyTorch.
        """
        number = {id(p): i for i, p in enumerate(self._parameters())}
        groups = [
            {**group, "params": [number[id(p)] for p in group["params"]]}
            for group in self.param_groups
        ]
        state = {
            number[id(p)]: {name: t.detach() for name, t in kept.items()}
            for p, kept in self.state.items()
        }
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of such an optimizer over parameters of these shapes.

        ValueError where groups, options or shapes differ; then nothing is changed.
        """
        groups = saved["param_groups"]
        theirs = [len(g["params"]) for g in groups]
        mine = [len(g["params"]) for g in self.param_groups]
        if theirs != mine:
            raise ValueError(
                f"{self.name}: load_state_dict: groups of {theirs} parameters were saved, "
                f"this optimizer has {mine}"
            )
        options = [{k: v for k, v in g.items() if k != "params"} for g in groups]
        for option, value in (pair for o in options for pair in o.items()):
            if option not in self.defaults:
                raise ValueError(
                    f"{self.name}: load_state_dict: there is no option {option}"
                )
            self.check(option, value)
        params, steps = self._parameters(), {}
        with no_grad():
            state = {
                params[i]: self._loaded(i, params[i], kept, steps)
                for i, kept in saved["state"].items()
            }
        self.state = state
        for group, given in zip(self.param_groups, options, strict=True):
            group.update(given)

    def _loaded(self, i: int, p: Tensor, kept: Mapping[str, Tensor], steps: dict):
        state = {}
        for name, value in kept.items():
            shape = () if name in self.scalars else p.shape
            if name not in self.state_names or value.shape != shape:
                raise ValueError(
                    f"{self.name}: load_state_dict: {name} {value.shape} is no state of "
                    f"parameter {i} of shape {p.shape}"
                )
            dtype = value.dtype if name in self.scalars else p.dtype
            state[name] = tensor_of(_brought(value, p.device, dtype).value)
            if name == "step":  # equal counts share one tensor again
                key = (value.item(), p.device)
                state[name] = steps.setdefault(key, state[name])
        return state

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def __repr__(self) -> str:
        lines = []
        for group in self.param_groups:
            options = ", ".join(f"{k}={v}" for k, v in group.items() if k != "params")
            lines.append(f"  {len(group['params'])} parameters, {options}")
        return "\n".join([f"{self.name}(", *lines, ")"])


def _brought(s: Tensor, device: Device, dtype: Dtype) -> Tensor:
    """A state on another device or as another dtype, cast where both dtypes exist."""
    if dtype in s.device.backend.dtypes:
        return e.astype(s, dtype).to(device)
    return e.astype(s.to(device), dtype)
