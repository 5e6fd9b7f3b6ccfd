"""One run for each folder. The run that writes there says so in a file; the file of a killed run does not count."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from .faults import announce, machine_fault
from .interrupts import uninterrupted

OWNER = ".owner"
BEAT = 10.0  # seconds between two signs of life, for other machines
SILENCE = 3 * BEAT  # without one, an owner on another machine is gone


class InUseError(RuntimeError):
    """Another run writes to the folder."""


class FolderLostError(RuntimeError):
    """The folder of a run was deleted or moved while it ran."""


class RunLock:
    """While this context is entered, this run is the only one that writes to a folder.

    The file ``.owner`` says which process on which machine that is, so that others can say it, too. An owner that was
    killed is no owner: on the same machine its process is looked for, on another one, or in another container, a sign
    of life that a living owner gives every ten seconds. No locks of the file system are relied on, which network file
    systems may lack. Meanwhile :func:`check_owned` notices that the folder is gone.

    Entering it again, inside, changes nothing. To read from a folder needs no lock.

    Args:
        folder: Made if it is missing, and removed again if nothing was written to it.
        name: Distinguishes runs that write different files of one folder.

    Raises:
        InUseError: When it is entered, if another run has the folder.
        NotADirectoryError: Likewise, if there is a file in its place.

    Example:
        >>> with RunLock("runs/digits"):  # doctest: +SKIP
        ...     trainer.fit(search, data)
    """

    def __init__(self, folder: str | Path, name: str = "") -> None:
        self.folder = Path(folder).absolute()
        self.path = self.folder / f"{f'.{name}' if name else ''}{OWNER}"
        self._shown = Path(folder) / name
        self._token = uuid.uuid4().hex
        self._depth, self._made = 0, False
        self._over = threading.Event()

    def __enter__(self) -> RunLock:
        if not self._depth:
            self._acquire()
        self._depth += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            with uninterrupted():
                self._release()

    def check(self) -> None:
        """Check that the folder still belongs to this run.

        Raises:
            FolderLostError: If it is not.
        """
        owner = _read(self.path)
        if owner is None or owner.get("token") != self._token:
            raise FolderLostError(
                f"{self._shown} was deleted, moved or given to another run while this run was writing there. What was "
                "in it is lost to this run, which ends here; begin it anew, or resume it where the folder is now."
            )

    def _acquire(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"A run writes to a folder, and {self._shown} is a file. Choose another place.")
        self._made = not self.folder.exists()
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._create()
                break
            except FileExistsError:
                self._remove_unless_alive()
        _held[self._token] = self
        self._over.clear()
        threading.Thread(target=self._beat, args=(self._over,), daemon=True).start()

    def _create(self) -> None:
        """Create the file with its whole content, unless it exists."""
        content, own = json.dumps(self._facts()), self.path.with_name(f"{self.path.name}.{self._token}")
        try:
            own.write_text(content, encoding="utf-8")
            os.link(own, self.path)
        except FileExistsError:
            raise
        except OSError as error:
            if machine_fault(error) is not None:
                raise
            with self.path.open("x", encoding="utf-8") as file:  # a file system without links
                file.write(content)
        finally:
            own.unlink(missing_ok=True)

    def _facts(self) -> dict[str, Any]:
        return {
            "token": self._token,
            "pid": os.getpid(),
            "process": None if os.name == "nt" else _process(os.getpid()),
            "machine": _machine(),
            "host": platform.node(),
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": " ".join(Path(word).name if i == 0 else word for i, word in enumerate(sys.argv))[:200],
        }

    def _remove_unless_alive(self) -> None:
        """Remove what an owner has left that is no more.

        Raises:
            InUseError: If it is alive.
        """
        owner = _read(self.path)
        if owner is None:
            time.sleep(1.0)  # it is being written, or just was removed; or it was cut off by a full disk or a crash
            owner = _read(self.path)
        if owner is not None and _alive(owner, self.path):
            here = "this process" if owner.get("pid") == os.getpid() else f"process {owner.get('pid')}"
            raise InUseError(
                f"{self._shown} is being written by another run: {here} on {owner.get('host')}, since "
                f"{owner.get('since')} ({owner.get('command')}). Wait for it, end it, or choose another folder."
            )
        guard = self.path.with_name(f"{self.path.name}.lock")
        with FileLock(guard, timeout=60):  # or two that remove would remove each other's
            if self.path.exists() and _read(self.path) == owner:
                self.path.unlink(missing_ok=True)

    def _release(self) -> None:
        self._over.set()
        _held.pop(self._token, None)
        owner = _read(self.path)
        if owner is not None and owner.get("token") == self._token:
            self.path.with_name(f"{self.path.name}.lock").unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        if self._made:
            with suppress(OSError):  # it is not empty
                self.folder.rmdir()

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(BEAT):
            with suppress(OSError):  # whoever writes next notices that it is gone
                os.utime(self.path)


_held: dict[str, RunLock] = {}


def check_owned(path: Path) -> None:
    """Check that the folder of a file that is about to be written still belongs to this run.

    Raises:
        FolderLostError: If it lies in a folder that a :class:`RunLock` of this process has lost.
    """
    for lock in list(_held.values()):
        if lock.folder in path.absolute().parents:
            lock.check()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and "token" in facts else None


def _alive(owner: dict[str, Any], path: Path) -> bool:
    if owner.get("machine") != _machine() or os.name == "nt":
        return _gives_signs(owner, path)
    if owner.get("pid") == os.getpid() and owner.get("process") == _process(os.getpid()):
        return owner.get("token") in _held
    return owner.get("process") is not None and _process(int(owner.get("pid", 0))) == owner["process"]


def _gives_signs(owner: dict[str, Any], path: Path) -> bool:
    """Whether the time of the file changes, by the clock of its file system; clocks of machines may differ."""
    announce(
        f"{path.parent} was written by process {owner.get('pid')} on {owner.get('host')}, which did not say that it "
        f"has ended. Waiting {SILENCE:g} seconds for a sign of life."
    )
    first, end = _time(path), time.monotonic() + SILENCE
    while time.monotonic() < end:
        time.sleep(min(1.0, SILENCE / 10))
        if _time(path) != first:
            return path.exists()
    return False


def _time(path: Path) -> int | None:
    try:
        with path.open("rb") as file:  # network file systems look again where a file is opened
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _machine() -> str:
    """An identity of this boot of this machine and of its process namespace."""
    parts = [platform.node()]
    with suppress(OSError):
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()]
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _process(pid: int) -> str | None:
    """Start time of a process, which tells it from later ones of the same number; None if there is no such process."""
    if Path("/proc/self/stat").exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
