"""Disks that are full for a while: a real one where this user may mount it, and one that is made up."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

Full = Callable[[], AbstractContextManager[None]]  # while it is entered, there is no room


class _NoRoom(io.FileIO):
    """Writes half of what it is given, as a disk does that is full in the middle of a file."""

    def write(self, content: Any, /) -> int:
        content = memoryview(content).cast("B")
        super().write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)


@contextmanager
def no_room(folder: Path) -> Iterator[None]:
    """Whatever is written in a folder raises that the disk is full, and leaves half of it."""
    honest, inside = io.open, str(folder.resolve())

    def open_(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+") or inside not in str(Path(file).resolve()):
            return honest(file, mode, buffering, *args, **options)
        raw = _NoRoom(str(file), mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", open_)
        patch.setattr(builtins, "open", open_)
        yield


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Full]:
    """A file system of its own, mounted at a folder; skips the test where only root may do that."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED on a real full disk: that needs the right to mount a tmpfs (root on Linux)")

    @contextmanager
    def full() -> Iterator[None]:
        filler = folder / ".filler"
        with contextlib.suppress(OSError), honest_open(filler) as file:
            while True:
                os.write(file, bytes(1024))
        try:
            yield
        finally:
            filler.unlink()

    try:
        yield full
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def honest_open(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def disk(kind: str, folder: Path, kilobytes: int = 2048) -> Iterator[tuple[Path, Full]]:
    """A folder, and what fills its disk: ``"injected"`` or ``"tmpfs"``."""
    if kind == "injected":
        folder.mkdir()
        yield folder, lambda: no_room(folder)
        return
    with small_disk(folder, kilobytes) as full:
        yield folder, full
