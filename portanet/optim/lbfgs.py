"""L-BFGS: Newton's method with curvature from the last gradients."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..autograd import Tensor, no_grad
from ..autograd.tape import enable_grad
from ..ops import elementwise as e
from ..ops.linear import vecdot
from ..ops.reduce import max as largest
from ..ops.reduce import sum as total
from ..ops.shape import concat, reshape, split, stack, unstack
from .optimizer import Optimizer, zeros_at

# Of the conditions of Wolfe, and how often a line is tried; Nocedal and Wright, p. 33 and 62.
_DECREASE, _CURVATURE, _TRIES = 1e-4, 0.9, 25
_LEAST_CURVATURE = 1e-10  # s . y of a pair that is kept


@dataclass
class _Memory:
    """What one iteration leaves to the next."""

    n_iter: int = 0
    func_evals: int = 0
    t: float = 0.0
    scale: float = 1.0  # of the first guess at the inverse Hessian
    direction: Any = None
    gradient: Any = None
    steps: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)  # of the gradient


class _Point(NamedTuple):
    """A place on the line: how far, the loss, the gradient, the slope along the line."""

    t: float
    loss: float
    gradient: Any
    slope: float


class LBFGS(Optimizer):
    """x <- x + t d, d = -H g, H the inverse Hessian as the last steps and gradients show it.

    `step(closure)` takes up to max_iter iterations and gives the loss that the first call of
    closure gave; closure clears the gradients, computes the loss, calls backward() and gives
    the loss. line_search_fn: None takes t = lr (at first at most lr / |g|_1), "strong_wolfe"
    searches a t from there by cubic interpolation until the loss and its slope fall enough.
    history_size: how many steps are kept. It ends early when max |g| is at most
    tolerance_grad, when a step or the loss changes by less than tolerance_change, or after
    max_eval calls (max_iter * 5 / 4 unless given). All parameters are one group, of one dtype
    and device. Losses are read, so that it can't be compiled; the closure's inside can.
    Liu and Nocedal, Mathematical Programming 45 (1989); Nocedal and Wright, Numerical
    Optimization (2006), algorithms 3.5, 3.6 and 7.4.

    >>> p = nn.Parameter([3.0, -1.0])
    >>> optimizer = pn.optim.LBFGS([p], line_search_fn="strong_wolfe")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = ((p - 1) ** 4).sum()
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure).item()
    32.0
    >>> closure().item() < 1e-6
    True
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ):
        if max_eval is None and isinstance(max_iter, int):
            max_eval = max_iter * 5 // 4
        defaults = {
            "lr": lr, "max_iter": max_iter, "max_eval": max_eval,
            "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change,
            "history_size": history_size, "line_search_fn": line_search_fn,
        }  # fmt: skip
        super().__init__(params, defaults)
        self.memory = _Memory()
        every = self._parameters()
        kinds = {(p.device, p.dtype) for p in every}
        if len(self.param_groups) > 1 or len(kinds) > 1:
            raise ValueError(
                "LBFGS: one group of parameters of one dtype on one device is needed, not "
                f"{len(self.param_groups)} groups of {len(kinds)} kinds"
            )

    def check(self, option: str, value: Any) -> None:
        super().check(option, value)
        if option in ("tolerance_grad", "tolerance_change"):
            self.check_number(option, value)
        if option in ("max_iter", "max_eval", "history_size"):
            if not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(
                    f"LBFGS: {option} is an integer of at least 1, not {value!r}"
                )
        if option == "line_search_fn" and value not in (None, "strong_wolfe"):
            raise ValueError(
                f"LBFGS: line_search_fn is None or 'strong_wolfe', not {value!r}"
            )

    # A step -------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Up to max_iter iterations; the loss before them."""
        if closure is None:
            raise TypeError(
                "LBFGS: step needs a closure that clears the gradients, computes the loss, "
                "calls backward() and gives the loss"
            )
        group, memory = self.param_groups[0], self.memory
        with no_grad():
            first, loss, g = self._evaluate(closure)
            calls, done = 1, 0
            while done < group["max_iter"] and not self._is_flat(g):
                done += 1
                memory.n_iter += 1
                d = self._direction(g)
                memory.direction, memory.gradient = d, g
                t = float(group["lr"])
                if memory.n_iter == 1:
                    t *= min(1.0, 1.0 / total(e.abs(g)).item())
                before, slope = loss, vecdot(g, d).item()
                if not slope <= -group["tolerance_change"]:
                    break
                start = self._flat(self._parameters())
                if group["line_search_fn"]:
                    origin = _Point(0.0, loss, g, slope)
                    found, tried = self._search(closure, start, d, origin, t)
                    t, loss, g, _ = found
                    self._move(start, d, t)
                    calls += tried
                else:
                    self._move(start, d, t)
                    if done < group["max_iter"]:
                        _, loss, g = self._evaluate(closure)
                        calls += 1
                memory.t = t
                if calls >= group["max_eval"] or self._is_small(d, t, before, loss):
                    break
        return first

    def _is_flat(self, g: Tensor) -> bool:
        return largest(e.abs(g)).item() <= self.param_groups[0]["tolerance_grad"]

    def _is_small(self, d: Tensor, t: float, before: float, loss: float) -> bool:
        least = self.param_groups[0]["tolerance_change"]
        return largest(e.abs(d)).item() * t <= least or abs(loss - before) < least

    def _evaluate(self, closure: Callable[[], Any]) -> tuple[Any, float, Tensor]:
        """The closure's loss, as it gave it and as a number, and the gradient."""
        with enable_grad():
            loss = closure()
        self.memory.func_evals += 1
        params = self._parameters()
        grads = [zeros_at(p) if p.grad is None else p.grad.detach() for p in params]
        return loss, float(loss), self._flat(grads)

    def _flat(self, tensors: list[Tensor]) -> Tensor:
        return concat([reshape(t.detach(), (-1,)) for t in tensors])

    def _move(self, start: Tensor, d: Tensor, t: float) -> None:
        """Put the parameters at start + t d."""
        params = self._parameters()
        parts = split(e.add(start, e.multiply(d, t)), [p.size for p in params])
        for p, part in zip(params, parts, strict=True):
            p.assign(reshape(part, p.shape))

    def _direction(self, g: Tensor) -> Tensor:
        """-H g, by the recursion of two loops over the pairs that are kept."""
        memory = self.memory
        if memory.n_iter == 1:
            return e.negative(g)
        change = e.subtract(g, memory.gradient)
        step = e.multiply(memory.direction, memory.t)
        curvature = vecdot(change, step).item()
        if curvature > _LEAST_CURVATURE:
            if len(memory.steps) >= self.param_groups[0]["history_size"]:
                del memory.steps[0], memory.changes[0]
            memory.steps.append(step)
            memory.changes.append(change)
            memory.scale = curvature / vecdot(change, change).item()
        pairs = [
            (s, y, e.divide(1.0, vecdot(y, s)))
            for s, y in zip(memory.steps, memory.changes, strict=True)
        ]
        d, shares = e.negative(g), []
        for s, y, rho in reversed(pairs):
            shares.append(e.multiply(rho, vecdot(s, d)))
            d = e.subtract(d, e.multiply(shares[-1], y))
        d = e.multiply(d, memory.scale)
        for (s, y, rho), share in zip(pairs, reversed(shares), strict=True):
            rest = e.subtract(share, e.multiply(rho, vecdot(y, d)))
            d = e.add(d, e.multiply(rest, s))
        return d

    # The line search ----------------------------------------------------------------------

    def _search(self, closure, start: Tensor, d: Tensor, origin: _Point, t: float):
        """A point that satisfies the strong conditions of Wolfe, or the best that was found,
        and how many were tried."""

        def at(t: float) -> _Point:
            self._move(start, d, t)
            _, loss, g = self._evaluate(closure)
            return _Point(t, loss, g, vecdot(g, d).item())

        low, high, tries = _bracket(at, origin, t)
        width = largest(e.abs(d)).item()
        least = self.param_groups[0]["tolerance_change"]
        stuck = False
        while high is not None and tries <= _TRIES:
            if abs(high.t - low.t) * width < least:
                break
            t, stuck = _away_from_ends(_cubic(low, high), low.t, high.t, stuck)
            new, tries = at(t), tries + 1
            if _is_high(new, origin) or new.loss >= low.loss:
                high = new
            elif _is_level(new, origin):
                low, high = new, None
            else:
                if new.slope * (high.t - low.t) >= 0:
                    high = low
                low = new
            if high is not None and high.loss < low.loss:
                low, high = high, low
        return low, tries

    # Saving -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The options, and the pairs that the next direction is made of."""
        saved, memory = super().state_dict(), self.memory
        if memory.n_iter:
            kept: dict[str, Any] = {
                "n_iter": memory.n_iter, "func_evals": memory.func_evals, "t": memory.t,
                "H_diag": memory.scale, "d": memory.direction.detach(),
                "prev_flat_grad": memory.gradient.detach(),
            }  # fmt: skip
            if memory.steps:
                kept["old_stps"] = stack(memory.steps)
                kept["old_dirs"] = stack(memory.changes)
            saved["state"] = {0: kept}
        return saved

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. ValueError where parameters of other sizes were saved."""
        kept = dict(saved["state"]).get(0)
        made = _Memory()
        if kept is not None:
            p, n = self._parameters()[0], sum(p.size for p in self._parameters())
            if tuple(kept["d"].shape) != (n,):
                raise ValueError(
                    f"LBFGS: load_state_dict: a direction of {kept['d'].shape} was saved, "
                    f"there are {n} parameters"
                )

            def here(name: str) -> Tensor:
                return e.astype(kept[name].to(p.device), p.dtype)

            made = _Memory(
                int(kept["n_iter"]), int(kept["func_evals"]), float(kept["t"]),
                float(kept["H_diag"]), here("d"), here("prev_flat_grad"),
            )  # fmt: skip
            if "old_stps" in kept:
                made.steps = list(unstack(here("old_stps")))
                made.changes = list(unstack(here("old_dirs")))
        super().load_state_dict({**saved, "state": {}})
        self.memory = made


def _is_high(p: _Point, origin: _Point) -> bool:
    """Whether the loss has fallen too little for the step."""
    return not p.loss <= origin.loss + _DECREASE * p.t * origin.slope


def _is_level(p: _Point, origin: _Point) -> bool:
    """Whether the slope has fallen enough."""
    return abs(p.slope) <= -_CURVATURE * origin.slope


def _bracket(at: Callable[[float], _Point], origin: _Point, t: float):
    """(low, high, tries): two points with a good one between them, the lower one first; or a
    good one and None."""
    last, new, tries = origin, at(t), 1
    while tries <= _TRIES:
        if _is_high(new, origin) or (tries > 2 and new.loss >= last.loss):
            break
        if _is_level(new, origin):
            return new, None, tries
        if new.slope >= 0:
            break
        bounds = (new.t + 0.01 * (new.t - last.t), new.t * 10)
        last, new, tries = new, at(_cubic(last, new, bounds)), tries + 1
    else:
        last = origin
    return (last, new, tries) if last.loss <= new.loss else (new, last, tries)


def _cubic(a: _Point, b: _Point, bounds: tuple[float, float] | None = None) -> float:
    """Where the cubic through two points with their slopes is least, within the bounds;
    Nocedal and Wright, equation 3.59."""
    a, b = (a, b) if a.t <= b.t else (b, a)
    low, high = bounds or (a.t, b.t)
    middle = (low + high) / 2
    if a.t == b.t:
        return middle
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return middle
    d2 = math.sqrt(square)
    below = b.slope - a.slope + 2 * d2
    if not below or not math.isfinite(below):
        return middle
    t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / below)
    return min(max(t, low), high)


def _away_from_ends(t: float, a: float, b: float, stuck: bool) -> tuple[float, bool]:
    """t, moved a tenth inside the second time that it lies next to an end."""
    low, high = min(a, b), max(a, b)
    least = 0.1 * (high - low)
    if min(high - t, t - low) >= least:
        return t, False
    if not stuck and low < t < high:
        return t, True
    return (high - least if abs(t - high) < abs(t - low) else low + least), False
