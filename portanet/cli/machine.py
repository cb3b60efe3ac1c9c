"""What a record of a measurement must have: machine, drivers, versions, commit, date."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from . import info

PACKAGE = Path(__file__).resolve().parent.parent


def record() -> dict[str, Any]:
    """Everything that figures depend on, as JSON has it."""
    found = info.collect()
    known = ("adapter", "backend", "driver", "software", "level", "threads")
    devices = {
        name: {key: about[key] for key in known if key in about}
        for name, about in found["devices"].items()
        if about["available"]
    }
    now = datetime.datetime.now(datetime.UTC)
    return {
        "date": now.isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            # Over the last minute; much more than 0 at the start is somebody else's work.
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        },
        "devices": devices,
        "versions": found["versions"],
    }


def commit() -> str | None:
    """The commit of the checkout that portanet runs from, "+" if it was changed since;
    None outside of one."""
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None  # installed, perhaps inside of another project's checkout
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", str(PACKAGE))
    return f"{_git('rev-parse', 'HEAD')}{'+' if changed else ''}"


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=PACKAGE,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
