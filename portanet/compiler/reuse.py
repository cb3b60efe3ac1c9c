"""Which memory a replay may write its results to: that of old values nobody else holds.

A state that is updated in place keeps its array, so that a training step makes no objects
and takes no memory. Who else holds a value is seen by the counts of references.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from sys import getrefcount
from typing import Any, NamedTuple

from ..arrays import Layout


class Target(NamedTuple):
    """Where a result is assigned: setattr(owner, attribute, wrap(array)). The attribute is
    "value" of a tensor or "grad" of a leaf, whose value the wrap makes a tensor. An owner
    that is a number is the argument of that number, or its leaf."""

    owner: Any
    attribute: str
    wrap: Callable | None = None


class Old(NamedTuple):
    """An old value, whose memory a result may take."""

    slot: int  # of the result
    owner: Any  # a tensor, or a leaf where it is the gradient
    is_grad: bool
    # To its buffer: by its array, by the replay's list where it is read, and by the plan's
    # too where it is the plan's own, in the slot already.
    refs: int
    layout: Layout  # of the result


def take(olds: Sequence[Old], buffers: list[Any]) -> list[int]:
    """Put the buffers of old values into their slots; the numbers of those whose value
    somebody else holds, or whose layout is another, or which are not what is in the slot
    already. Backends may have it in C."""
    return [k for k, old in enumerate(olds) if not _take_one(old, buffers)]


def _take_one(old: Old, buffers: list[Any]) -> bool:
    tensor = old.owner.grad if old.is_grad else old.owner
    # Beside the leaf: the name here and getrefcount's argument.
    if tensor is None or old.is_grad and getrefcount(tensor) != 3:
        return False
    value = tensor.value
    buffer = value.buffer
    if getrefcount(value) != 3 or getrefcount(buffer) != 2 + old.refs:
        return False
    if value.layout is not old.layout or buffers[old.slot] not in (None, buffer):
        return False
    buffers[old.slot] = buffer
    return True
