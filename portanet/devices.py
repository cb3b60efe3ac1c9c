"""The device registry: a name, the class that opens it, and which one is the default.

    "cpu"      the C backend
    "wgpu"     the first adapter that WebGPU finds, "wgpu:1" the second
    "cuda"     NVIDIA GPUs

Other packages add devices by an entry point in the group `portanet.backends`, whose name is
the device's and whose value is a class as `portanet.program.Backend` describes.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from typing import Any

from .errors import DeviceError

PACKAGES = {"cpu": "backend_cpu", "wgpu": "shaders", "cuda": "backend_cuda"}
ENTRY_POINTS = "portanet.backends"


class Device:
    """A place where tensors live. `get(name)` gives the one object of a name."""

    __slots__ = ("backend", "name")

    def __init__(self, name: str, backend: Any):
        self.name, self.backend = name, backend

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return self.name == canonical(other)
        return self is other

    def __hash__(self) -> int:
        return hash(self.name)

    def __reduce__(self):
        return (get, (self.name,))

    @property
    def type(self) -> str:
        """The name without the number of the adapter."""
        return self.name.partition(":")[0]


_open: dict[str, Device] = {}
_lock = threading.RLock()


def canonical(name: str) -> str:
    """The name with the adapter's number left out where it is 0."""
    return name.removesuffix(":0")


def get(name: str | Device | device) -> Device:
    """The device of this name, opened. DeviceError says why it can't be."""
    if isinstance(name, Device):
        return name
    if isinstance(name, device):
        return name.device
    if not isinstance(name, str):
        raise TypeError(f"device: a name such as 'cpu' is expected, not {name!r}")
    found = _open.get(name)
    if found is not None:
        return found
    with _lock:
        key = canonical(name)
        if key not in _open:
            kind, _, index = key.partition(":")
            if index and not index.isdecimal():
                raise DeviceError(
                    f"device: {name!r}: {index!r} is not an adapter number"
                )
            _open[key] = Device(key, _backend_class(kind)(int(index or 0)))
        return _open[key]


def _backend_class(kind: str) -> Callable[[int], Any]:
    if kind in PACKAGES:
        module = importlib.import_module(f".{PACKAGES[kind]}", __package__)
        return module.Backend
    outside = _outside()
    if kind in outside:
        try:
            return outside[kind].load()
        except Exception as why:  # another package's import may raise anything
            raise DeviceError(
                f"device: {kind!r} ({outside[kind].value}) does not load: {why}"
            ) from why
    known = ", ".join([*PACKAGES, *outside])
    raise DeviceError(f"device: {kind!r} is unknown; known are {known}")


def _outside() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {e.name: e for e in entry_points(group=ENTRY_POINTS)}


def report() -> dict[str, Device | Exception]:
    """Each known device: opened, or the exception that says why not."""
    result: dict[str, Device | Exception] = {}
    for name in (*PACKAGES, *_outside()):
        try:
            result[name] = get(name)
        except (DeviceError, ImportError, OSError) as why:
            result[name] = why
    return result


def devices() -> list[str]:
    """Names of the devices that open here.

    >>> "cpu" in devices()
    True
    """
    return [name for name, found in report().items() if isinstance(found, Device)]


class _Choice(threading.local):
    stack: tuple[Device, ...] = ()


_choice = _Choice()
_named: Device | None = None  # by set_default_device
_found: Device | None = None  # where nobody named one


def chosen() -> Device | None:
    """The default that somebody named; None, and no device is opened, where nobody did."""
    return _choice.stack[-1] if _choice.stack else _named


def default_device() -> Device:
    """Where new tensors are made: the innermost `with device(...)`, else the one set by
    `set_default_device`, else PORTANET_DEVICE, else a real GPU, else cpu.

    A software adapter is never chosen unless it is named.
    """
    global _found
    named = chosen()
    if named is not None:
        return named
    if _found is None:
        _found = _first_choice()
    return _found


def _first_choice() -> Device:
    named = os.environ.get("PORTANET_DEVICE")
    if named:
        return get(named)
    for name in ("cuda", "wgpu"):
        try:
            found = get(name)
        except (DeviceError, ImportError, OSError):
            continue
        if not found.backend.info().get("software", False):
            return found
    return get("cpu")


def set_default_device(name: str | Device) -> None:
    """Make new tensors on this device from now on, in every thread."""
    global _named
    _named = get(name)


class device:
    """`with device("wgpu"):` makes new tensors there inside the block, in this thread.

    It may stand where a device is asked for, as in `model.to(pn.device("wgpu"))`.

    >>> import portanet as pn
    >>> with pn.device("cpu"):
    ...     pn.zeros(2).device
    cpu
    """

    def __init__(self, name: str | Device):
        self.device = get(name)

    def __repr__(self) -> str:
        return repr(self.device)

    @property
    def type(self) -> str:
        """The name without the number of the adapter."""
        return self.device.type

    def __enter__(self) -> Device:
        _choice.stack = (*_choice.stack, self.device)
        return self.device

    def __exit__(self, *exc: object) -> None:
        _choice.stack = _choice.stack[:-1]
