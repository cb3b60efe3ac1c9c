"""GradScaler: losses scaled up so that gradients of 16 bits don't vanish."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from ..autograd import Tensor, no_grad, tensor_of
from ..autograd.tape import mode, revise
from ..casting import suspended
from ..devices import Device, default_device, get
from ..dtypes import float32, int32
from ..ops import elementwise as e
from ..ops.reduce import all as all_of
from .optimizer import Optimizer, number_at

_OPTIONS = ("growth_factor", "backoff_factor", "growth_interval")


class GradScaler:
    """Scales a loss, its gradients back, and skips a step whose gradients are not finite.

    The scale s starts at init_scale. A step that meets inf or NaN changes no parameter and
    no state of the optimizer, and s becomes s * backoff_factor; after growth_interval steps
    in a row without, s * growth_factor. enabled=False makes all of it nothing. What is
    skipped is chosen by a mask on the device: nothing is read, so that a compiled step may
    hold it all. Micikevicius et al., ICLR 2018; the options are PyTorch's.

    >>> p = nn.Parameter([1.0])
    >>> optimizer, scaler = pn.optim.SGD([p], lr=0.5), pn.GradScaler(init_scale=1024.0)
    >>> scaler.scale((p * p).sum()).backward()
    >>> scaler.step(optimizer)
    >>> scaler.update()
    >>> p.item(), scaler.get_scale()
    (0.0, 1024.0)
    """

    def __init__(
        self,
        device: Any = None,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ):
        self.growth_factor, self.backoff_factor = growth_factor, backoff_factor
        self.growth_interval, self._enabled = growth_interval, enabled
        self._check()
        if not init_scale > 0:
            raise ValueError(
                f"GradScaler: init_scale must be above 0, not {init_scale}"
            )
        self._start = (float(init_scale), 0)  # until there is a device
        self.device: Device | None = None
        if device is not None:
            self._place(get(device))
        # Of each optimizer since `update`: whether its gradients are finite, and whether it
        # has stepped.
        self._finite: dict[int, Tensor] = {}
        self._stepped: set[int] = set()
        self._tracer: Any = None

    def _check(self) -> None:
        if not self.growth_factor > 1:
            raise ValueError(
                f"GradScaler: growth_factor must be above 1, not {self.growth_factor}"
            )
        if not 0 < self.backoff_factor < 1:
            raise ValueError(
                f"GradScaler: backoff_factor must be in (0, 1), not {self.backoff_factor}"
            )
        if not self.growth_interval >= 1:
            raise ValueError(
                f"GradScaler: growth_interval is at least 1, not {self.growth_interval}"
            )

    def _place(self, device: Device) -> None:
        """Put s and its count where the first loss is; there they stay."""
        if self.device is None:
            self.device = device
            self._scale = number_at(self, self._start[0], float32)
            self._streak = number_at(self, self._start[1], int32)

    def is_enabled(self) -> bool:
        """Whether it does anything."""
        return self._enabled

    def scale(self, outputs: Any) -> Any:
        """outputs * s: of a tensor, or of each in a list or tuple."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            self._place(outputs.device)
            return e.multiply(outputs, self._scale.to(outputs.device))
        if isinstance(outputs, list | tuple):
            return type(outputs)(self.scale(x) for x in outputs)
        raise TypeError(
            f"GradScaler.scale: a tensor or a list of them is expected, not "
            f"{type(outputs).__name__}"
        )

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimizer by s, as before clipping them; `step` does it
        where it has not been done. RuntimeError the second time before `update`."""
        if not self._enabled:
            return
        self._begin()
        if id(optimizer) in self._finite:
            raise RuntimeError(
                "GradScaler.unscale_: it was called for this optimizer already; call "
                "update() after each step"
            )
        finite: dict[Device, Tensor] = {}
        inverse: dict[Device, Tensor] = {}
        with no_grad(), suspended():
            for p in optimizer._parameters():
                g = p.grad
                if g is None:
                    continue
                self._place(p.device)
                if p.device not in inverse:
                    inverse[p.device] = e.divide(1.0, self._scale.to(p.device))
                fine = all_of(e.isfinite(g))
                known = finite.get(p.device)
                finite[p.device] = fine if known is None else e.logical_and(known, fine)
                p.grad = e.astype(e.multiply(g, inverse[p.device]), g.dtype)
            if not finite:
                raise RuntimeError(
                    f"GradScaler: no parameter of {type(optimizer).__name__} has a gradient; "
                    "call scale(loss).backward() first"
                )
            self._finite[id(optimizer)] = self._all(finite.values())

    def _all(self, found: Iterable[Tensor]) -> Tensor:
        here = [f.to(self.device) for f in found]
        return functools.reduce(e.logical_and, here)

    def _begin(self) -> None:
        """Forget what a trace that broke off has left."""
        if self._tracer is not mode.tracer:
            if self._tracer is not None:
                self._finite, self._stepped = {}, set()
            self._tracer = mode.tracer

    def step(self, optimizer: Optimizer) -> Any:
        """optimizer.step() with gradients divided by s; parameters and states stay as they
        are where a gradient is not finite."""
        if not self._enabled:
            return optimizer.step()
        self._begin()
        if id(optimizer) in self._stepped:
            raise RuntimeError(
                "GradScaler.step: it was called for this optimizer already; call update() "
                "after each step"
            )
        if id(optimizer) not in self._finite:
            self.unscale_(optimizer)
        fine = self._finite[id(optimizer)]
        mode.journal = journal = {}
        try:
            result = optimizer.step()
        finally:
            mode.journal = None
        with no_grad():
            for tensor, old in journal.values():
                here = fine.to(tensor.device)
                tensor.assign(e.where(here, tensor.detach(), tensor_of(old)))
        self._stepped.add(id(optimizer))
        return result

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Change s after the steps of all optimizers, or set it."""
        if not self._enabled:
            return
        self._begin()
        with no_grad():
            if new_scale is not None:
                self._place(default_device())
                if not isinstance(new_scale, Tensor):
                    new_scale = number_at(self, new_scale, float32)
                self._scale.assign(e.astype(new_scale.to(self.device), float32))
            elif not self._finite:
                raise RuntimeError(
                    "GradScaler.update: no gradient was looked at; call step() first"
                )
            else:
                self._follow()
        self._finite, self._stepped = {}, set()

    def _follow(self) -> None:
        if mode.tracer is not None:  # a plan holds for these options
            for name in _OPTIONS:
                mode.tracer.look(self, name, getattr(self, name))
        fine = self._all(self._finite.values())
        streak = e.where(fine, e.add(self._streak, 1), 0)
        is_due = e.greater_equal(streak, self.growth_interval)
        grown = e.multiply(self._scale, self.growth_factor)
        grown = e.where(e.isfinite(grown), grown, self._scale)
        backed = e.multiply(self._scale, self.backoff_factor)
        kept = e.where(is_due, grown, self._scale)
        self._scale.assign(e.where(fine, kept, backed))
        self._streak.assign(e.where(is_due, 0, streak))

    def get_scale(self) -> float:
        """s, which is read from the device; 1 where it is not enabled."""
        return self._now()[0] if self._enabled else 1.0

    def _now(self) -> tuple[float, int]:
        if self.device is None:
            return self._start
        return self._scale.item(), self._streak.item()

    def state_dict(self) -> dict[str, Any]:
        """s, the steps since it changed, and the options; {} where it is not enabled."""
        if not self._enabled:
            return {}
        scale, streak = self._now()
        return {
            "scale": scale,
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": streak,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. ValueError where it lacks something."""
        if not self._enabled:
            return
        mine = self.state_dict()
        missing = [name for name in mine if name not in state]
        if missing:
            raise ValueError(
                f"GradScaler: load_state_dict: missing: {', '.join(missing)}"
            )
        revise()
        for name in _OPTIONS:
            setattr(self, name, state[name])
        self._check()
        self._start = (float(state["scale"]), int(state["_growth_tracker"]))
        if self.device is not None:
            self._scale.assign(number_at(self, self._start[0], float32))
            self._streak.assign(number_at(self, self._start[1], int32))

    def __repr__(self) -> str:
        return (
            f"GradScaler(growth_factor={self.growth_factor}, backoff_factor="
            f"{self.backoff_factor}, growth_interval={self.growth_interval}, "
            f"enabled={self._enabled})"
        )
