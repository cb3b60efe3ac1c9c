"""The demos: scripts of the folder `demos`, which a wheel has inside the package."""

from __future__ import annotations

import ast
import contextlib
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .messages import CommandError

HELPER = "demo_kit"  # what the demos share


def folder() -> Path:
    """Where the demos are: in the package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    for place in (package / "demos", package.parent / "demos"):
        if (place / f"{HELPER}.py").exists():
            return place
    raise CommandError(f"demo: the demos are missing: there is no {package / 'demos'}")


def demos() -> dict[str, Path]:
    """The files of the demos by name."""
    found = sorted(folder().glob("*.py"))
    return {p.stem: p for p in found if p.stem != HELPER}


def summary(path: Path) -> str:
    """The first line of a demo's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def show() -> int:
    """Print the demos and what each is; the exit status."""
    found = demos()
    width = max(map(len, found))
    for name, path in found.items():
        print(f"{name:<{width}}  {summary(path)}")
    return 0


def play(name: str, arguments: Sequence[str]) -> int:
    """Run a demo as a script; its exit status."""
    found = demos()
    if name not in found:
        raise CommandError(
            f"demo: there is no {name!r}; `portanet demo --list` names them"
        )
    with _as_script(found[name], arguments):
        try:
            runpy.run_path(str(found[name]), run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):
                raise CommandError(end.code) from None
            return end.code or 0
    return 0


@contextlib.contextmanager
def _as_script(path: Path, arguments: Sequence[str]) -> Iterator[None]:
    """sys.argv and sys.path as the script would find them."""
    argv, search = sys.argv, sys.path
    sys.argv, sys.path = [str(path), *arguments], [str(path.parent), *search]
    try:
        yield
    finally:
        sys.argv, sys.path = argv, search
