"""Averages of a model's weights over training, under PyTorch's names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ..autograd import Tensor, no_grad
from ..creation import zeros
from ..nn import Module
from ..ops import elementwise as e

Average = Callable[[Tensor, Tensor, Tensor], Tensor]


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """average <- decay * average + (1 - decay) * current."""
    if not 0 <= decay <= 1:
        raise ValueError(f"get_ema_avg_fn: decay is in [0, 1], not {decay}")
    return lambda average, current, n: average + (1 - decay) * (current - average)


def get_swa_avg_fn() -> Average:
    """average <- average + (current - average) / (n + 1): the mean of all so far.

    Izmailov et al., UAI 2018.
    """
    return lambda average, current, n: average + (current - average) / (n + 1)


class AveragedModel(Module):
    """A copy of a model whose parameters follow the average of the model's.

    Each `update_parameters(model)` takes in the model's parameters, the first by copying
    them. avg_fn(average, current, n), n of them taken in before, gives the new average: the
    mean of all unless given; `get_ema_avg_fn(decay)` is a running one. use_buffers:
    floating buffers are averaged too, else all are copied. In a compiled step it is a part
    of the plan.

    >>> model = nn.Linear(2, 1)
    >>> ema = optim.swa_utils.get_ema_avg_fn(0.9)
    >>> average = optim.swa_utils.AveragedModel(model, avg_fn=ema)
    >>> average.update_parameters(model)
    >>> average(pn.ones((1, 2))).shape
    (1, 1)
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: Average | None = None,
        use_buffers: bool = False,
    ):
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module.to(device)
        place = next((t.device for t in self.module.state_dict().values()), None)
        self.register_buffer("n_averaged", zeros((), dtype="int32", device=place))
        self.avg_fn = avg_fn or get_swa_avg_fn()
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take in the parameters that the model has now."""
        with no_grad():
            pairs = list(zip(self.module.parameters(), model.parameters(), strict=True))
            buffers = zip(self.module.buffers(), model.buffers(), strict=True)
            copied = []
            for mine, theirs in buffers:
                is_mean = self.use_buffers and mine.dtype.is_float
                (pairs if is_mean else copied).append((mine, theirs))
            is_first = e.equal(self.n_averaged, 0)
            for mine, theirs in pairs:
                now = theirs.detach().to(mine.device)
                n = e.astype(self.n_averaged, mine.dtype)
                new = self.avg_fn(mine.detach(), now, n)
                mine.assign(e.astype(e.where(is_first, now, new), mine.dtype))
            for mine, theirs in copied:
                mine.assign(theirs.detach().to(mine.device))
            self.n_averaged.assign(e.add(self.n_averaged, 1))
