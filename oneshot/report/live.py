"""The page of a run while it runs: written now and then, with the command, versions and warnings that belong to it."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType, TracebackType
from typing import TextIO

from oneshot._version import __version__
from oneshot.storage.command_line import said_command
from oneshot.storage.faults import announce
from oneshot.storage.files import write_atomically
from oneshot.storage.lock import FolderLostError
from oneshot.supernets.json_files import read_json

from .about import COMMANDS, WARNINGS
from .kinds import kind_of
from .page import write_report

EVERY = 30.0  # seconds between two pages
SHARE = 20  # a page that takes long is written so many times more rarely: it takes 5 % of the time at most
PACKAGES = ("torch", "pytorch-lightning", "timm", "numpy", "onnxruntime")
# Modules that pass a warning on; who warned stands above them.
PASSING_ON = ("warnings", "lightning_utilities", "pytorch_lightning.utilities", "lightning_fabric.utilities")


class LiveReport:
    """Keeps ``report.html`` of a run up to date, and the files that only the page needs.

    What fails here is told as a warning, once, and the run goes on.

    Inside of it as a context, what oneshot warns of is kept in ``warnings.json``.

    Args:
        folder: Folder of the run.
        active: Whether this process writes; only the first of a run does.
        every: Least seconds between two pages; more where a page takes long.
    """

    def __init__(self, folder: str | Path, *, active: bool = True, every: float = EVERY) -> None:
        self.folder, self.active, self.every = Path(folder), active, every
        self._written, self._least, self._told = time.monotonic(), every, False
        self._texts: list[str] = []
        self._before: list[Callable[..., None]] = []

    def begin(self) -> None:
        """Write the command and the versions into ``commands.json``, after those of earlier starts."""

        def write() -> None:
            path = self.folder / COMMANDS
            earlier = read_json(path) if path.is_file() else []
            now = {
                "command": said_command(),
                "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "folder": os.path.realpath("."),
                "versions": versions(),
            }
            write_atomically(path, json.dumps([*(earlier if isinstance(earlier, list) else []), now], indent=1) + "\n")

        self._attempt(write)

    def keep(self, name: str, content: Callable[[], str]) -> None:
        """Write a file that only the page needs.

        Args:
            name: Of the file in the folder.
            content: Makes its text.
        """
        self._attempt(lambda: write_atomically(self.folder / name, content()))

    def update(self, before: Callable[[], object] | None = None) -> None:
        """Write the page, unless it was written a short time ago.

        Args:
            before: Writes the files that the page is made of; only called if the page is written.
        """
        began = time.monotonic()
        if not self.active or began - self._written < self._least:
            return
        if before is not None:
            self._attempt(before)
        self._attempt(lambda: self._write(running=True))
        self._written = time.monotonic()
        self._least = max(self.every, SHARE * (self._written - began))

    def finish(self) -> None:
        """Write the page of a run that is over, or was stopped."""
        self._attempt(lambda: self._write(running=False))

    def _write(self, *, running: bool) -> None:
        if self.folder.is_file() or kind_of(self.folder) is not None:  # a run that failed early leaves nothing
            write_report(self.folder, running=running)

    def _attempt(self, write: Callable[[], object]) -> None:
        if not self.active:
            return
        try:
            write()
        except FolderLostError:  # the run says it, and ends
            pass
        except Exception as error:  # noqa: BLE001  # a page is never worth a run
            if not self._told:
                self._told = True
                why = f"{type(error).__name__}: {error}"
                announce(f"The report of {self.folder} cannot be written: {why}. The run goes on without it.")

    # Warnings.

    def __enter__(self) -> LiveReport:
        if self.active:
            self._before.append(warnings.showwarning)
            warnings.showwarning = self._heard
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.active:
            warnings.showwarning = self._before.pop()

    def _heard(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        self._before[-1](message, category, filename, lineno, file, line)
        text = " ".join(str(message).split())
        if issubclass(category, UserWarning) and text not in self._texts and _is_ours() and self.folder.is_dir():
            self._texts.append(text)
            path = self.folder / WARNINGS

            def write() -> None:
                earlier = read_json(path) if path.is_file() else []
                at = datetime.now(timezone.utc).isoformat(timespec="seconds")
                rows = [*(earlier if isinstance(earlier, list) else []), {"at": at, "text": text}]
                write_atomically(path, json.dumps(rows, indent=1) + "\n")

            self._attempt(write)


def versions() -> dict[str, str]:
    """Versions of what results depend on, and the machine."""
    found = {"oneshot": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}"}


def _is_ours() -> bool:
    """Whether code of oneshot warned just now."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(PASSING_ON):
            return name == "oneshot" or name.startswith("oneshot.")
        frame = frame.f_back
    return False
