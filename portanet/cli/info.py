"""The devices of this machine: which are available, what they are, why others are not."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> int:
    found = collect()
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print(text(found))
    return 0


def collect() -> dict[str, Any]:
    """All that `portanet info` knows, as JSON has it."""
    from ..devices import DeviceError, default_device, report

    try:
        default: Any = default_device().name
    except DeviceError as error:
        default = f"none: {error}"
    found = {name: _device(what) for name, what in report().items()}
    return {"versions": versions(), "default": default, "devices": found}


def versions() -> dict[str, str]:
    """Of portanet, Python, and the packages that results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    import portanet

    known = {"portanet": portanet.__version__, "python": sys.version.split()[0]}
    for package in ("numpy", "wgpu"):
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            known[package] = "missing"
    return known


def _device(found: Any) -> dict[str, Any]:
    from ..devices import Device
    from ..dtypes import ALL

    if not isinstance(found, Device):
        return {"available": False, "reason": str(found)}
    backend = found.backend
    dtypes = [t.name for t in ALL if t in backend.dtypes]
    return {"available": True, **backend.info(), "dtypes": dtypes}


def text(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [" ".join(f"{name} {v}," for name, v in found["versions"].items())[:-1]]
    lines += [f"default device: {found['default']}"]
    for name, about in found["devices"].items():
        lines.append("")
        if not about["available"]:
            lines += [f"{name}: not available", f"    {about['reason']}"]
            continue
        software = ", a software adapter" if about.get("software") else ""
        lines.append(f"{name}: available{software}")
        for key, value in about.items():
            if key not in ("available", "software"):
                lines += _entry(key, value)
    return "\n".join(lines)


def _entry(key: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        inner = [f"        {name:42} {v}" for name, v in value.items()]
        return [f"    {key}", *inner]
    if isinstance(value, list):
        value = " ".join(map(str, value)) or "none"
    return [f"    {key:10} {value}"]
