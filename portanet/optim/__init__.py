"""Optimizers: what changes parameters by their gradients.

    optimizer.py     groups, state, counting, saving
    sgd.py           SGD with momentum, Nesterov's, weight decay
    adam.py          Adam, AdamW
    adam_family.py   Adadelta, Adamax, NAdam, RAdam
    adaptive.py      RMSprop, Adagrad
    lion.py          Lion
    lamb.py          LAMB
    lbfgs.py         L-BFGS, whose steps call a closure
    muon.py          Muon, for matrices, and AdamW for the rest
    grad_scaler.py   GradScaler, beside autocast; it is pn.GradScaler
    lr_scheduler.py  what changes the learning rate
    swa_utils.py     averages of a model's weights

The update of a parameter is a formula, in portanet/ops/optimise.py.
"""

from . import lr_scheduler, swa_utils
from .adam import Adam, AdamW
from .adam_family import Adadelta, Adamax, NAdam, RAdam
from .adaptive import Adagrad, RMSprop
from .lamb import LAMB
from .lbfgs import LBFGS
from .lion import Lion
from .muon import Muon
from .optimizer import Optimizer
from .sgd import SGD

__all__ = [
    "LAMB",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "lr_scheduler",
    "swa_utils",
]
