"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .faults import announce, machine_fault, patiently
from .interrupts import uninterrupted
from .lock import OWNER, check_owned

CHECKSUMS = "sha256sums.txt"


def write_atomically(path: str | Path, content: str | bytes, *, patient: bool = False) -> Path:
    """Write a file so that a reader, or a crash, finds the old content or the new one, never a part.

    Args:
        path: The file; missing folders are made.
        content: Text is written as UTF-8.
        patient: Wait a while for room if the disk is full.

    Raises:
        FolderLostError: If the folder of the run that writes is gone.
    """
    path = Path(path)
    if patient:
        return patiently(lambda: write_atomically(path, content), f"{path} cannot be written")
    check_owned(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path, "tmp")
    try:
        with temporary.open("xb") as file:  # fails where something is, a link, too
            # Parts of a path that the locale could not decode are written as they are in the file system.
            file.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def append(path: Path, content: bytes, *, at: int, sync: bool = False) -> int:
    """Append to a file, whole or not at all.

    Args:
        path: The file; made, with its folder, if ``at`` is 0.
        content: Bytes to append.
        at: Bytes that stay; what a killed process left after them is cut off.
        sync: Wait until it survives a loss of power.

    Returns:
        Bytes of the file afterwards.

    Raises:
        OSError: If it cannot be written; it is as it was then, except for what was cut off.
    """
    check_owned(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if at or path.is_file() else "wb", buffering=0) as file:
        file.truncate(at)
        file.seek(at)
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            if sync:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(at)
            raise
    return at + len(content)


class Outbox:
    """Files that can be written later. If the disk is full, a warning says so, and the run goes on.

    Example:
        >>> outbox = Outbox()
        >>> outbox.put(Path("cells.png"), lambda: write_atomically("cells.png", picture))  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._waiting: dict[Path, Callable[[], object]] = {}

    def put(self, path: Path, write: Callable[[], object]) -> None:
        """Write a file, now or with the next that is put here; a later version takes the place of an earlier one."""
        late = bool(self._waiting)
        self._waiting[path] = write
        try:
            self._write()
        except Exception as error:
            if (why := machine_fault(error)) is None:
                raise
            if not late:
                announce(f"{path} cannot be written: {why}. The run goes on, and writes it when there is room.")

    def finish(self) -> None:
        """Write the files that are still waiting.

        Raises:
            OSError: If there is no room for it, also after a while.
        """
        patiently(self._write, f"{next(iter(self._waiting), '')} cannot be written")

    def _write(self) -> None:
        while self._waiting:
            path = next(iter(self._waiting))
            self._waiting[path]()
            del self._waiting[path]


def check_writable(path: Path) -> None:
    """Check that a file or folder that is there, or that is to be made, can be written.

    Raises:
        PermissionError: If it cannot.
    """
    there = path.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not os.access(there, os.W_OK):
        what = "it" if there == path.absolute() else str(there)
        raise PermissionError(f"{path} must be a place that can be written to; {what} cannot. Name another with --out.")


def check_new_folder(folder: Path, *, overwrite: bool, marker: str) -> bool:
    """Check that :func:`new_folder` may make a folder; returns whether there is something in it to replace.

    Raises:
        FileExistsError: If the folder exists and must not be replaced.
    """
    if not folder.exists() or (folder.is_dir() and not _content(folder)):
        return False
    if not overwrite:
        raise FileExistsError(
            f"The folder of a run must be new; {folder} exists. Choose another with --out, or replace it with "
            "--overwrite."
        )
    if not (folder / marker).is_file():
        raise FileExistsError(
            f"--overwrite replaces earlier runs only, which hold a {marker}; {folder} has none. Choose another "
            "folder with --out."
        )
    return True


@contextmanager
def new_folder(folder: Path, *, overwrite: bool, marker: str, keep: str) -> Iterator[Path]:
    """Make a folder for what the block writes. If the block fails early, everything is as it was before.

    Whoever calls it has the folder for itself: :class:`~oneshot.storage.lock.RunLock`.

    Args:
        folder: Must not exist, or be empty, unless ``overwrite`` is set. The block makes it.
        overwrite: Replace a folder that holds ``marker``; only what a run made is ever deleted, and only when the new
            run holds ``keep``.
        marker: File that every run writes first.
        keep: File that makes even a run that failed worth keeping.

    Raises:
        FileExistsError: If the folder exists and must not be replaced.
    """
    backup = folder / f".replaced.{os.getpid()}"
    if check_new_folder(folder, overwrite=overwrite, marker=marker):
        _move(_content(folder), backup)
    try:
        yield folder
    finally:
        with uninterrupted():
            if not (folder / keep).exists():
                for path in _content(folder):
                    if path != backup:
                        _remove(path)
                if backup.exists():
                    _move(list(backup.iterdir()), folder)
            shutil.rmtree(backup, ignore_errors=True)


def beside(path: Path, ending: str) -> Path:
    """A random name beside ``path`` for an unfinished file, so that no other process can put a link there before."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{ending}")


def remove_unfinished(folder: Path) -> None:
    """Remove the files that a process was writing in a folder, or below it, when it was killed."""
    for path in folder.rglob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{16}\.tmp", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def write_recorded(path: str | Path, content: str | bytes, *, patient: bool = False) -> Path:
    """:func:`write_atomically`, and the SHA-256 of the content into :data:`CHECKSUMS` beside it, if that is there.

    A process that is killed in between leaves a file of which the checksum is known, the old or the new one.
    """
    path = Path(path)
    if patient:
        return patiently(lambda: write_recorded(path, content), f"{path} cannot be written")
    if not (path.parent / CHECKSUMS).is_file():
        return write_atomically(path, content)
    others = [(known, name) for known, name in _recorded(path.parent) if name != path.name]
    now = hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest(), path.name
    before = [(sha256_of(path), path.name)] if path.is_file() else []
    _write_checksums(path.parent, [*others, *before, now])
    write_atomically(path, content)
    _write_checksums(path.parent, [*others, now])
    return path


def begin_checksums(folder: Path) -> None:
    """Let :func:`write_recorded` write down checksums in a folder from now on."""
    if not (folder / CHECKSUMS).is_file():
        _write_checksums(folder, [])


def is_as_recorded(path: Path) -> bool:
    """Whether a file has the SHA-256 that :data:`CHECKSUMS` beside it has for its name; also if it has none."""
    known = [checksum for checksum, name in _recorded(path.parent) if name == path.name]
    return not known or sha256_of(path) in known


def check_recorded(path: Path) -> None:
    """Check a file that is about to be read against :data:`CHECKSUMS` beside it.

    Raises:
        ValueError: If it was damaged or changed.
    """
    if not is_as_recorded(path):
        raise ValueError(
            f"{path} must have the SHA-256 in {CHECKSUMS} beside it and has another: it was damaged or changed. "
            f"Restore it; after a change on purpose, delete its line in {CHECKSUMS}."
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _recorded(folder: Path) -> list[tuple[str, str]]:
    """Checksums and names, as ``sha256sum`` writes them."""
    path = folder / CHECKSUMS
    if not path.is_file():
        return []
    try:
        lines = [line.partition("  ") for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}). Restore it, or delete it to read without a check.") from error
    if bad := next((head + gap + name for head, gap, name in lines if len(head) != 64 or not name), None):
        raise ValueError(f"{path} has lines 'SHA-256  name'; {bad[:80]!r} is none. Restore it, or delete the line.")
    return [(head, name) for head, _, name in lines]


def _write_checksums(folder: Path, checksums: Sequence[tuple[str, str]]) -> None:
    write_atomically(folder / CHECKSUMS, "".join(f"{known}  {name}\n" for known, name in checksums))


def _content(folder: Path) -> list[Path]:
    """The content of a folder without the files of its lock."""
    return [path for path in folder.iterdir() if not path.name.startswith(OWNER)] if folder.is_dir() else []


def _move(paths: Sequence[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in paths:
        path.rename(folder / path.name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
