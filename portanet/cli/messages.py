"""What commands say: tables, and why one can't go on."""

from __future__ import annotations

import importlib
from typing import Any


class CommandError(Exception):
    """A command can't be done; the text is for the user, one line."""


def extra(name: str) -> Any:
    """A module that comes with portanet[demos]; CommandError where it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name.partition(".")[0]:
            raise
        package = {"sklearn": "scikit-learn"}.get(error.name, error.name)
        raise CommandError(
            f"{package} is missing; `pip install 'portanet[demos]'` brings it"
        ) from None


def print_table(table: Any) -> None:
    """Print a rich table, as wide as it needs to be where that is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 240
    console.print(table)
