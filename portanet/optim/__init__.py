"""Optimizers: what changes parameters by their gradients.

    optimizer.py  groups, state, counting, saving
    sgd.py        SGD with momentum, Nesterov's, weight decay
    adam.py       Adam, AdamW

The update of a parameter is one operator, in portanet/ops/optimise.py.
"""

from .adam import Adam, AdamW
from .optimizer import Optimizer
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer"]
