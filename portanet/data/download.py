"""Files fetched once, checked, and kept in the cache.

A file is in the cache whole, with the right checksum, or not at all: a download goes to a
temporary file that takes its place when it has been checked. PORTANET_OFFLINE forbids to
download; PORTANET_CACHE replaces the cache folder.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..drivers import cache_root

TRIES = 3  # of each address
TIMEOUT_S = 30


class RemoteFile(NamedTuple):
    """A file, its checksum ("sha256:..." or "md5:..."), and where it is."""

    name: str
    checksum: str
    urls: Sequence[str]


def data_folder(dataset: str, root: Any = None) -> Path:
    """The folder of a data set's files: `root`, or one in the cache."""
    return Path(root) if root is not None else cache_root() / "data" / dataset


def fetch(file: RemoteFile, folder: Path) -> Path:
    """The path of a file in this folder, downloaded where it isn't there.

    A file that is there is checked. One that is damaged is replaced by a good one; where
    there is none to be had, ValueError. FileNotFoundError: it may not be downloaded;
    ConnectionError: it can't be.
    """
    path = folder / file.name
    damage = _damage(path, file.checksum) if path.exists() else None
    if path.exists() and damage is None:
        return path
    try:
        _download(file, folder)
    except OSError as error:
        if damage is None:
            raise
        raise ValueError(f"{path}: damaged: {damage}; {error}") from None
    return path


def _damage(path: Path, checksum: str) -> str | None:
    """What is wrong with a file, or None."""
    kind, _, expected = checksum.partition(":")
    with open(path, "rb") as opened:
        found = hashlib.file_digest(opened, kind).hexdigest()
    return None if found == expected else f"its {kind} is {found}, not {expected}"


def _download(file: RemoteFile, folder: Path) -> None:
    if os.environ.get("PORTANET_OFFLINE", "0") not in ("", "0"):
        raise FileNotFoundError(
            f"{file.name} can't be downloaded, PORTANET_OFFLINE is set; put the file "
            f"that is at {file.urls[0]} into {folder}"
        )
    try:
        pooch = importlib.import_module("pooch")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "pooch is missing; `pip install 'portanet[data]'` brings it"
        ) from None
    pooch.get_logger().setLevel("WARNING")
    failures = []
    for url in file.urls:
        downloader = pooch.HTTPDownloader(
            timeout=TIMEOUT_S, progressbar=_bar(file.name)
        )
        store = pooch.create(
            path=folder,
            base_url="",
            registry={file.name: file.checksum},
            urls={file.name: url},
            retry_if_failed=TRIES - 1,
        )
        try:
            store.fetch(file.name, downloader=downloader)
            return
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            failures.append(f"{url}: {' '.join(str(error).split())}")
    raise ConnectionError(
        f"{file.name} can't be downloaded to {folder}: {'; '.join(failures)}"
    )


def _bar(name: str) -> Any:
    """What pooch reports its progress to: a bar where a person watches, or nothing."""
    if not sys.stderr or not sys.stderr.isatty():
        return False
    try:
        progress = importlib.import_module("rich.progress")
        console = importlib.import_module("rich.console").Console(stderr=True)
    except ModuleNotFoundError:
        return False
    return _Bar(name, progress, console)


class _Bar:
    """rich's progress bar under the names of tqdm's, which pooch calls."""

    def __init__(self, name: str, progress: Any, console: Any):
        self.progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TimeRemainingColumn(),
            console=console,
        )
        self.task = self.progress.add_task(name)
        self.total = 0

    def update(self, count: int) -> None:
        self.progress.start()
        self.progress.update(self.task, advance=count, total=self.total or None)

    def reset(self) -> None:
        self.progress.reset(self.task)

    def close(self) -> None:
        self.progress.stop()
