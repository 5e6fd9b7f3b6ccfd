"""The log of a study: one line an event, only appended, and whole after a process was killed in the middle of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
        self._whole = 0  # bytes
        if self.path is not None and self.path.is_file():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
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

    def append(self, event: Mapping[str, Any]) -> None:
        """Write an event; the operating system has it when this returns, so killing this process loses nothing."""
        self.events.append(dict(event))
        if self.path is None:
            return
        line = (json.dumps(event) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.is_file() else "wb") as file:
            file.truncate(self._whole)
            file.seek(self._whole)
            file.write(line)
        self._whole += len(line)
