"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: str | Path, content: str | bytes) -> Path:
    """Write a file so that a reader, or a crash, finds the old content or the new one, never a part.

    Args:
        path: The file; missing folders are made.
        content: Text is written as UTF-8.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def new_folder(folder: Path, *, overwrite: bool, marker: str, keep: str) -> Iterator[Path]:
    """A folder for what the block writes. If the block fails early, everything is as it was before.

    Args:
        folder: Must not exist, or be empty, unless ``overwrite`` is set. The block makes it.
        overwrite: Replace a folder that holds ``marker``; only what a run made is ever deleted, and only when the new
            run holds ``keep``.
        marker: File that every run writes first.
        keep: File that makes even a run that failed worth keeping.

    Raises:
        FileExistsError: If the folder exists and must not be replaced.
    """
    backup = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise FileExistsError(
                f"A run needs a new folder; {folder} exists. Choose another with --out, or replace it with --overwrite."
            )
        if not (folder / marker).is_file():
            raise FileExistsError(
                f"--overwrite replaces earlier runs only, which hold a {marker}; {folder} has none. Choose another "
                "folder with --out."
            )
        folder.rename(backup)
    try:
        yield folder
    finally:
        if not (folder / keep).exists():
            shutil.rmtree(folder, ignore_errors=True)
            if backup.exists():
                backup.rename(folder)
        shutil.rmtree(backup, ignore_errors=True)
