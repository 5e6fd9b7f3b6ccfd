"""Journals: lines of JSON that are only appended, and whole after a process was killed while it wrote one."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oneshot.supernets.json_files import parse_json, read_content, shorten

from .faults import patiently
from .files import Outbox, append
from .lock import RunLock

CHECKSUM = b', "crc32": '  # before the checksum, which ends a line


class Journal:
    """Rows in a JSON-lines file.

    A last line without an end was being written when the process was killed. The next append removes it.

    Args:
        path: The file; it and its folder are made with the first row. None keeps rows in memory only.
        advice: The way out of a damaged file, last in errors.
        beginning: What every line begins with. A last line without an end that has another beginning is an error.
        checksums: Write into every line, which must be a JSON object, the checksum of all lines up to it.
        not_finite: Whether NaN and Infinity are numbers.
        sync: Wait until every row survives a loss of power.
        outbox: Where rows wait while the disk is full. Without one, :meth:`append` waits.

    Attributes:
        rows: What was read and appended.
        lock: What :meth:`alone` enters; whoever has a lock of the folder already puts it here.

    Raises:
        ValueError: If a line is damaged; the file and the line are named.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        advice: str,
        beginning: bytes = b"",
        checksums: bool = False,
        not_finite: bool = False,
        sync: bool = False,
        outbox: Outbox | None = None,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.lock = None if self.path is None else RunLock(self.path.parent)
        self.rows: list[Any] = []
        self._advice, self._beginning = advice, beginning
        self._checksums, self._sync, self._outbox = checksums, sync, outbox
        self._altered: int | None = None  # the first line that does not have its checksum
        self._whole = self._size = 0  # bytes of whole lines, and of the file
        self._unwritten = b""
        self._crc = 0
        if self.path is not None and self.path.exists():
            self._read(self.path, not_finite)

    def place(self, number: int) -> str:
        """What errors call a line; the first has number 1."""
        return f"{self.path}, line {number}"

    def _read(self, path: Path, not_finite: bool) -> None:
        content = read_content(path)
        *lines, rest = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            row = parse_json(line, self.place(number), advice=self._advice, not_finite=not_finite)
            if self._checksums:
                if not isinstance(row, dict):
                    raise ValueError(f"{self.place(number)} must be a JSON object; got {shorten(row)}. {self._advice}")
                self._follow(line, row.pop("crc32", None), number)
            self.rows.append(row)
        if not (rest.startswith(self._beginning) or self._beginning.startswith(rest)):
            raise ValueError(
                f"{self.place(len(lines) + 1)} must be a whole line or the beginning of one; got {rest[:80]!r}. "
                f"{self._advice}"
            )
        self._size, self._whole = len(content), len(content) - len(rest)

    def _follow(self, line: bytes, crc: object, number: int) -> None:
        """Compare a line with its checksum, which stands for all lines up to it; older files have none."""
        body = line if crc is None else line[: line.rfind(CHECKSUM)] + b"}"
        self._crc = zlib.crc32(body, self._crc)
        if crc is not None and crc != self._crc:
            self._altered = self._altered or number
            self._crc = crc if isinstance(crc, int) and 0 <= crc < 2**32 else 0

    def check(self) -> None:
        """Compare the checksums of all lines.

        Raises:
            ValueError: If a line was changed, left out or moved; the first that does not fit is named.
        """
        if self._altered is not None:
            raise ValueError(
                f"{self.place(self._altered)} does not have its checksum: it was changed, or lines before it are "
                f"missing or in another order. {self._advice}"
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this is entered, no other process, and no other journal of this file, may append to it.

        Raises:
            InUseError: If another one is entered.
            RuntimeError: If another one has written since this journal was read.
        """
        if self.path is None or self.lock is None:
            yield
            return
        with self.lock:
            if (self.path.stat().st_size if self.path.is_file() else 0) != self._size:
                raise RuntimeError(f"{self.path} was written to since it was read. Construct again what reads it.")
            yield

    def append(self, row: Any) -> None:
        """Write a row; the operating system has it when this returns, so killing this process loses nothing.

        Raises:
            OSError: If it cannot be written, and a full disk stays full; the journal is what it was then.
        """
        crc = 0
        if self.path is not None:
            line = json.dumps(row).encode()
            if self._checksums:
                crc = zlib.crc32(line, self._crc)
                line = line[:-1] + CHECKSUM + str(crc).encode() + b"}"
            self._unwritten += line + b"\n"
            if self._outbox is not None:
                self._outbox.put(self.path, self._write)
            else:
                try:
                    patiently(self._write, f"{self.path} cannot be written")
                finally:
                    self._unwritten = b""
        self.rows.append(row)
        self._crc = crc

    def _write(self) -> None:
        """Append what is not in the file yet after its last whole line."""
        assert self.path is not None
        self._whole = self._size = append(self.path, self._unwritten, at=self._whole, sync=self._sync)
        self._unwritten = b""
