"""Schedulers: the learning rate as a function of the number of steps taken.

A scheduler is a function `rate(t, i)` of the count t and the group i, and a count. What it
sets takes effect at once, also in a step that `pn.compile` replays: the rate is a tensor.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..autograd.tape import mode
from ..compiler.lazy import TraceError, user_line
from .optimizer import Optimizer


class LRScheduler:
    """The base of schedulers; a subclass says what `rate(t, i)` is.

    base_lrs: the rate that each group had before its first scheduler. Making a scheduler
    sets the rates for t = 0; each `step()` those for the next t.
    """

    def __init__(self, optimizer: Optimizer):
        self.name = type(self).__name__
        self.optimizer = _checked(self.name, optimizer)
        self.base_lrs: list[float] = []
        for group in optimizer.param_groups:
            if group.initial_lr is None:
                group.initial_lr = float(group["lr"])
            self.base_lrs.append(group.initial_lr)
        self.last_epoch: float = 0
        self._set()

    def rate(self, t: float, i: int) -> float:
        """The learning rate of group i after t steps."""
        raise NotImplementedError(f"{self.name}: define rate(t, i)")

    def step(self, epoch: float | None = None) -> None:
        """Go to the next count, or to a given one, which may be a fraction.

        In a function that `pn.compile` made, each replay does so when all else is done.
        """
        if mode.tracer is not None:
            mode.tracer.after.append((self, (epoch,)))
            return
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._set()

    def get_last_lr(self) -> list[float]:
        """The rate of each group, as it was last set."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def _set(self) -> None:
        rates = [self.rate(self.last_epoch, i) for i in range(len(self.base_lrs))]
        for group, lr in zip(self.optimizer.param_groups, rates, strict=False):
            group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        """The count and the base rates. The options are those that it is made with."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`: the rates are set to those of its count."""
        self._load_bases(state["base_lrs"])
        self.last_epoch = state["last_epoch"]
        self._set()

    def _load_bases(self, bases: Sequence[float]) -> None:
        if len(bases) != len(self.base_lrs):
            raise ValueError(
                f"{self.name}: load_state_dict: {len(bases)} groups were saved, the "
                f"optimizer has {len(self.base_lrs)}"
            )
        self.base_lrs = list(bases)
        for group, lr in zip(self.optimizer.param_groups, bases, strict=False):
            group.initial_lr = lr

    def _each(self, what: str, value: Any) -> list[Any]:
        """One value a group, from a list of them or from one for all."""
        n = len(self.optimizer.param_groups)
        if not isinstance(value, list | tuple):
            return [value] * n
        if len(value) != n:
            raise ValueError(
                f"{type(self).__name__}: {len(value)} of {what} were given for {n} groups"
            )
        return list(value)


def _checked(name: str, optimizer: Any) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"{name}: an Optimizer is expected, not {type(optimizer).__name__}"
        )
    return optimizer


def _at_least(name: str, what: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"{name}: {what} must be at least {least}, not {value}")


# Factors ---------------------------------------------------------------------------------


class LambdaLR(LRScheduler):
    """lr = base * lr_lambda(t), for a function or a list of one for each group.

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> scheduler = pn.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    >>> scheduler.step(); scheduler.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Any):
        self.optimizer = _checked("LambdaLR", optimizer)
        self.lr_lambdas = self._each("lr_lambda", lr_lambda)
        super().__init__(optimizer)

    def rate(self, t: float, i: int) -> float:
        return self.base_lrs[i] * self.lr_lambdas[i](t)


class MultiplicativeLR(LRScheduler):
    """lr = base * lr_lambda(1) * ... * lr_lambda(t), for a function or one for each group.

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> scheduler = pn.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda t: 0.5)
    >>> scheduler.step(3); scheduler.get_last_lr()
    [0.125]
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Any):
        self.optimizer = _checked("MultiplicativeLR", optimizer)
        self.lr_lambdas = self._each("lr_lambda", lr_lambda)
        # One a group: how far the product went, and the product.
        self.products = [(0, 1.0)] * len(self.lr_lambdas)
        super().__init__(optimizer)

    def rate(self, t: float, i: int) -> float:
        done, product = self.products[i]
        if t < done:
            done, product = 0, 1.0
        for k in range(done + 1, math.floor(t) + 1):
            product *= self.lr_lambdas[i](k)
        self.products[i] = (math.floor(t), product)
        return self.base_lrs[i] * product


class StepLR(LRScheduler):
    """lr = base * gamma ** (t // step_size).

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> scheduler = pn.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    >>> for epoch in range(5):
    ...     print(scheduler.get_last_lr()[0], end=" ")
    ...     optimizer.step()
    ...     scheduler.step()
    1.0 1.0 0.5 0.5 0.25
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1):
        _at_least("StepLR", "step_size", step_size, 1)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def rate(self, t: float, i: int) -> float:
        return self.base_lrs[i] * self.gamma ** (t // self.step_size)


class MultiStepLR(LRScheduler):
    """lr = base * gamma ** k after k of the milestones; one that is listed twice counts
    twice.

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> scheduler = pn.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3], gamma=0.5)
    >>> scheduler.step(3); scheduler.get_last_lr()
    [0.25]
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1
    ):
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def rate(self, t: float, i: int) -> float:
        return self.base_lrs[i] * self.gamma ** bisect.bisect_right(self.milestones, t)


class ExponentialLR(LRScheduler):
    """lr = base * gamma ** t."""

    def __init__(self, optimizer: Optimizer, gamma: float):
        self.gamma = gamma
        super().__init__(optimizer)

    def rate(self, t: float, i: int) -> float:
        return self.base_lrs[i] * self.gamma**t


class LinearLR(LRScheduler):
    """lr = base * a factor that goes from start_factor to end_factor in total_iters steps
    and stays: a warm-up.

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> scheduler = pn.optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2)
    >>> scheduler.get_last_lr(), scheduler.step(), scheduler.get_last_lr()
    ([0.5], None, [0.75])
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ):
        for what, factor in (
            ("start_factor", start_factor),
            ("end_factor", end_factor),
        ):
            if not 0 <= factor <= 1:
                raise ValueError(f"LinearLR: {what} is in [0, 1], not {factor}")
        _at_least("LinearLR", "total_iters", total_iters, 1)
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = total_iters
        super().__init__(optimizer)

    def rate(self, t: float, i: int) -> float:
        part = min(t, self.total_iters) / self.total_iters
        factor = self.start_factor + (self.end_factor - self.start_factor) * part
        return self.base_lrs[i] * factor


class ConstantLR(LRScheduler):
    """lr = base * factor in the first total_iters steps, then base.

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> scheduler = pn.optim.lr_scheduler.ConstantLR(optimizer, 0.5, total_iters=1)
    >>> scheduler.get_last_lr(), scheduler.step(), scheduler.get_last_lr()
    ([0.5], None, [1.0])
    """

    def __init__(
        self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5
    ):
        if not 0 <= factor <= 1:
            raise ValueError(f"ConstantLR: factor is in [0, 1], not {factor}")
        _at_least("ConstantLR", "total_iters", total_iters, 1)
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer)

    def rate(self, t: float, i: int) -> float:
        return self.base_lrs[i] * (self.factor if t < self.total_iters else 1.0)


class PolynomialLR(LRScheduler):
    """lr = base * (1 - t / total_iters) ** power, 0 from total_iters steps on.

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> scheduler = pn.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=4, power=2.0)
    >>> scheduler.get_last_lr(), scheduler.step(), scheduler.get_last_lr()
    ([1.0], None, [0.5625])
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0):
        _at_least("PolynomialLR", "total_iters", total_iters, 1)
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer)

    def rate(self, t: float, i: int) -> float:
        left = max(0.0, 1 - t / self.total_iters)
        return self.base_lrs[i] * left**self.power


# Cosines ---------------------------------------------------------------------------------


def _cosine(start: float, end: float, part: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def _linear(start: float, end: float, part: float) -> float:
    return start + (end - start) * part


class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (base - eta_min) * (1 + cos(pi * t / T_max)) / 2.

    After T_max it rises again. Loshchilov and Hutter, ICLR 2017.

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> scheduler = pn.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    >>> scheduler.step(5); round(scheduler.get_last_lr()[0], 6)
    0.5
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0):
        _at_least("CosineAnnealingLR", "T_max", T_max, 1)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def rate(self, t: float, i: int) -> float:
        return _cosine(self.base_lrs[i], self.eta_min, t / self.T_max)


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half a cosine from base to eta_min, again and again: over T_0 steps, then over
    T_0 * T_mult, and so on. `step(epoch + part)` takes fractions.

    Loshchilov and Hutter, "SGDR", ICLR 2017.

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> schedulers = pn.optim.lr_scheduler
    >>> scheduler = schedulers.CosineAnnealingWarmRestarts(optimizer, T_0=4, T_mult=2)
    >>> scheduler.step(4); scheduler.get_last_lr()
    [1.0]
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0
    ):
        _at_least("CosineAnnealingWarmRestarts", "T_0", T_0, 1)
        _at_least("CosineAnnealingWarmRestarts", "T_mult", T_mult, 1)
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer)

    def rate(self, t: float, i: int) -> float:
        length = self.T_0
        if self.T_mult == 1:
            t = t % length
        while t >= length:
            t, length = t - length, length * self.T_mult
        return _cosine(self.base_lrs[i], self.eta_min, t / length)


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr, then down to the start / final_div_factor.

    The way up takes the part pct_start of total_steps (or of epochs * steps_per_epoch); with
    three_phase a way down to the start takes as long, and then comes the rest.
    anneal_strategy: "cos" or "linear". The optimizer's own rate is not used, and its momentum
    stays as it is. ValueError for a step past the last. Smith and Topin, arXiv:1708.07120.

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> cycle = pn.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=11)
    >>> cycle.step(2.3); round(cycle.get_last_lr()[0], 6)
    0.5
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: Any,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
    ):
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError(
                    "OneCycleLR: give total_steps, or epochs and steps_per_epoch"
                )
            total_steps = epochs * steps_per_epoch
        _at_least("OneCycleLR", "total_steps", total_steps, 1)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start is in [0, 1], not {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"OneCycleLR: anneal_strategy is 'cos' or 'linear', not "
                f"{anneal_strategy!r}"
            )
        self.optimizer = _checked("OneCycleLR", optimizer)
        self.total_steps = total_steps
        self.anneal = _cosine if anneal_strategy == "cos" else _linear
        up = pct_start * total_steps - 1
        ends = [up, 2 * up, total_steps - 1] if three_phase else [up, total_steps - 1]
        # One a group: (the last step of a phase, the rate there).
        self.phases = [
            list(zip(ends, self._tops(top, div_factor, final_div_factor, len(ends)),
                     strict=True))
            for top in self._each("max_lr", max_lr)
        ]  # fmt: skip
        self.starts = [top / div_factor for top in self._each("max_lr", max_lr)]
        super().__init__(optimizer)

    @staticmethod
    def _tops(top: float, div: float, final_div: float, phases: int) -> list[float]:
        """The rate at the end of each phase."""
        start = top / div
        return [top, *[start] * (phases - 2), start / final_div]

    def rate(self, t: float, i: int) -> float:
        if t > self.total_steps:
            raise ValueError(
                f"OneCycleLR: step {t} is past the last, of {self.total_steps} in total"
            )
        before, low = 0.0, self.starts[i]
        for end, high in self.phases[i]:
            if t <= end or end == self.phases[i][-1][0]:
                part = (t - before) / (end - before) if end != before else 1.0
                return self.anneal(low, high, min(part, 1.0))
            before, low = end, high
        raise AssertionError("a cycle has a last phase")


class CyclicLR(LRScheduler):
    """Up from base_lr to max_lr in step_size_up steps, down in step_size_down, and again.

    step_size_down: None is as many as up. mode: "triangular"; "triangular2", whose height
    halves with each cycle; "exp_range", whose height is multiplied by gamma at each step.
    scale_fn: a function of the cycle, from 1 on, or of the step (scale_mode "iterations"),
    by which the height is multiplied instead. base_lr, max_lr: a number, or one a group;
    the optimizer's own rate is not used, and its momentum stays as it is. Smith, WACV 2017.

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> cycle = pn.optim.lr_scheduler.CyclicLR(optimizer, 0.1, 0.5, step_size_up=4)
    >>> cycle.step(2); round(cycle.get_last_lr()[0], 6)
    0.3
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: Any,
        max_lr: Any,
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Any = None,
        scale_mode: str = "cycle",
    ):
        self.optimizer = _checked("CyclicLR", optimizer)
        down = step_size_up if step_size_down is None else step_size_down
        _at_least("CyclicLR", "step_size_up", step_size_up, 1)
        _at_least("CyclicLR", "step_size_down", down, 1)
        modes = ("triangular", "triangular2", "exp_range")
        if mode not in modes and scale_fn is None:
            raise ValueError(f"CyclicLR: mode is one of {modes}, not {mode!r}")
        if scale_mode not in ("cycle", "iterations"):
            raise ValueError(
                f"CyclicLR: scale_mode is 'cycle' or 'iterations', not {scale_mode!r}"
            )
        self.lows, self.highs = (
            self._each("base_lr", base_lr),
            self._each("max_lr", max_lr),
        )
        self.up, self.length = step_size_up, step_size_up + down
        self.mode, self.gamma = mode, gamma
        self.scale_fn, self.scale_mode = scale_fn, scale_mode
        super().__init__(optimizer)

    def _scale(self, t: float, cycle: int) -> float:
        if self.scale_fn is not None:
            return self.scale_fn(cycle if self.scale_mode == "cycle" else t)
        if self.mode == "triangular2":
            return 0.5 ** (cycle - 1)
        return self.gamma**t if self.mode == "exp_range" else 1.0

    def rate(self, t: float, i: int) -> float:
        cycle, at = divmod(t, self.length)
        part = (
            at / self.up
            if at <= self.up
            else (self.length - at) / (self.length - self.up)
        )
        height = (self.highs[i] - self.lows[i]) * part
        return self.lows[i] + height * self._scale(t, int(cycle) + 1)


# Of several ------------------------------------------------------------------------------


class _Several(LRScheduler):
    """A scheduler made of others of the same optimizer, whose own counts it does not use."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler]):
        name = type(self).__name__
        if not schedulers:
            raise ValueError(f"{name}: the list of schedulers is empty")
        for i, s in enumerate(schedulers):
            if not isinstance(s, LRScheduler):
                raise TypeError(
                    f"{name}: scheduler {i} is a {type(s).__name__}, which is no "
                    "function of the count"
                )
            if s.optimizer is not optimizer:
                raise ValueError(f"{name}: scheduler {i} is of another optimizer")
        self.schedulers = list(schedulers)
        super().__init__(optimizer)

    def _load_bases(self, bases: Sequence[float]) -> None:
        super()._load_bases(bases)
        for s in self.schedulers:
            s._load_bases(bases)


class SequentialLR(_Several):
    """One scheduler after another: the next begins, at its own 0, at each milestone.

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> warm = pn.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10)
    >>> cool = pn.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    >>> both = pn.optim.lr_scheduler.SequentialLR(optimizer, [warm, cool], [10])
    >>> both.step(12); both.get_last_lr()
    [0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
    ):
        if len(milestones) != len(schedulers) - 1 or list(milestones) != sorted(
            milestones
        ):
            raise ValueError(
                f"SequentialLR: {len(schedulers)} schedulers need one ascending milestone "
                f"less, not {list(milestones)}"
            )
        self.milestones = list(milestones)
        super().__init__(optimizer, schedulers)

    def rate(self, t: float, i: int) -> float:
        k = bisect.bisect_right(self.milestones, t)
        return self.schedulers[k].rate(t - self.milestones[k - 1] if k else t, i)


class ChainedScheduler(_Several):
    """base times the factors rate / base of all schedulers.

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> half = pn.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    >>> warm = pn.optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2)
    >>> both = pn.optim.lr_scheduler.ChainedScheduler([half, warm])
    >>> both.step(); both.get_last_lr()
    [0.375]
    """

    def __init__(self, schedulers: Sequence[LRScheduler]):
        if not schedulers:
            raise ValueError("ChainedScheduler: the list of schedulers is empty")
        super().__init__(schedulers[0].optimizer, schedulers)

    def rate(self, t: float, i: int) -> float:
        base = self.base_lrs[i]
        if base == 0:
            return 0.0
        return base * math.prod(s.rate(t, i) / base for s in self.schedulers)


# By a measurement ------------------------------------------------------------------------


class ReduceLROnPlateau:
    """lr <- max(lr * factor, min_lr) when a measurement has not improved for more than
    `patience` steps.

    mode: "min" or "max", what is better. threshold: what counts as better, relative to the
    best ("rel") or as a difference ("abs"). cooldown: so many steps after a change do not
    count; changes below eps are not made.

    >>> optimizer = pn.optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> plateau = pn.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    >>> for loss in (2.0, 1.0, 1.0, 1.0):
    ...     plateau.step(loss)
    >>> plateau.get_last_lr()
    [0.1]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: Any = 0.0,
        eps: float = 1e-8,
    ):
        name = "ReduceLROnPlateau"
        _checked(name, optimizer)
        if not 0 <= factor < 1:
            raise ValueError(f"{name}: factor is in [0, 1), not {factor}")
        if mode not in ("min", "max"):
            raise ValueError(f"{name}: mode is 'min' or 'max', not {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f"{name}: threshold_mode is 'rel' or 'abs', not {threshold_mode!r}"
            )
        n = len(optimizer.param_groups)
        self.min_lrs = (
            list(min_lr) if isinstance(min_lr, list | tuple) else [min_lr] * n
        )
        if len(self.min_lrs) != n:
            raise ValueError(
                f"{name}: {len(self.min_lrs)} of min_lr were given for {n} groups"
            )
        self.optimizer, self.mode, self.factor = optimizer, mode, factor
        self.patience, self.threshold = patience, threshold
        self.threshold_mode, self.cooldown, self.eps = threshold_mode, cooldown, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0

    def step(self, metrics: Any) -> None:
        """Take a measurement: a number, or a tensor of one, which is read."""
        if mode.tracer is not None:
            raise TraceError(
                f"compile: {user_line()} calls step() of ReduceLROnPlateau, which reads "
                "its measurement; call it outside, with what the function returns"
            )
        value = float(metrics.item() if hasattr(metrics, "item") else metrics)
        self.last_epoch += 1
        if self._better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _better(self, value: float) -> bool:
        sign = 1 if self.mode == "min" else -1
        if self.threshold_mode == "abs":
            return sign * value < sign * self.best - self.threshold
        return sign * value < sign * self.best * (1 - sign * self.threshold)

    def _reduce(self) -> None:
        for group, least in zip(
            self.optimizer.param_groups, self.min_lrs, strict=False
        ):
            lr = max(group["lr"] * self.factor, least)
            if group["lr"] - lr > self.eps:
                group["lr"] = lr

    def get_last_lr(self) -> list[float]:
        """The rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    _saved = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")

    def state_dict(self) -> dict[str, Any]:
        """The counts, the best value, and the rates."""
        return {name: getattr(self, name) for name in self._saved} | {
            "lrs": self.get_last_lr()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; the options are those that it was made with."""
        groups = self.optimizer.param_groups
        if len(state["lrs"]) != len(groups):
            raise ValueError(
                f"ReduceLROnPlateau: load_state_dict: {len(state['lrs'])} groups were "
                f"saved, the optimizer has {len(groups)}"
            )
        for name in self._saved:
            setattr(self, name, state[name])
        for group, lr in zip(groups, state["lrs"], strict=True):
            group["lr"] = lr
