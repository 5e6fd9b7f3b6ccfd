"""The log of a study: one line an event, only appended, and whole after a process was killed in the middle of it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class EventLog:
    """Events of a study in a JSON-lines file; the truth about what was asked and answered.

    A last line that is cut off was being written when the process was killed. It is removed; what it would have said
    happens again.

    Args:
        path: The file; it and its folder are made with the first event. None keeps events in memory only.

    Raises:
        ValueError: If a line before the last is no event; the line is named.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self.events: list[dict[str, Any]] = []
        self._whole = self._size = 0  # bytes of whole lines, and of the file
        if self.path is not None and self.path.is_file():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        self._size, lines = len(content), content.splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            try:
                event = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                event = None
            if not isinstance(event, dict) or "event" not in event:
                if number == len(lines):
                    break
                raise ValueError(
                    f"{path}, line {number} is no event of a study: {line[:80]!r}. Restore the file, or begin another "
                    "study in a new folder."
                )
            self.events.append(event)
            self._whole += len(line)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this is entered, no other process, and no other log of this one, may be: they would cut each other off.

        Raises:
            RuntimeError: If another one is, or has written since this log was read.
        """
        if self.path is None:
            yield
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RuntimeError(
                    f"{self.path} is being written by another run. Wait for it, or choose another folder."
                ) from error
            if file.tell() != self._size:
                raise RuntimeError(f"{self.path} was written to since this study was constructed. Construct it again.")
            yield

    def append(self, event: Mapping[str, Any]) -> None:
        """Write an event; the operating system has it when this returns, so killing this process loses nothing."""
        if self.path is None:
            self.events.append(dict(event))
            return
        line = (json.dumps(event) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.is_file() else "wb") as file:
            file.truncate(self._whole)
            file.seek(self._whole)
            file.write(line)
        self.events.append(dict(event))
        self._whole += len(line)
        self._size = self._whole
