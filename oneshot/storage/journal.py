"""The log of a study: one line an event, only appended, and whole after a process was killed in the middle of it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypedDict

from oneshot.supernets.json_files import AtLeast, MayBeNaN, checked, parse_json, read_content

from .faults import patiently
from .files import append
from .lock import RunLock

ADVICE = "Restore the file, or begin another study in a new folder."
BEGINNING, CHECKSUM = b'{"event": "', b', "crc32": '  # of every line, and of its end

Count: TypeAlias = Annotated[int, AtLeast(0)]
Seconds: TypeAlias = Annotated[float, AtLeast(0)]


class Header(TypedDict):
    """First line of a study."""

    event: Literal["study"]
    schema_version: int
    strategy: str
    seed: int
    space: dict[str, Any]
    objectives: list[str]


class _Start(TypedDict, total=False):
    parent: Count
    trace: list[dict[str, Any]]
    fidelity: float
    trained: float


class Asked(_Start):
    """What a strategy proposed."""

    event: Literal["ask"]
    number: Count
    config: dict[str, Any]
    at: Seconds


class Waited(TypedDict):
    """A strategy had nothing to propose."""

    event: Literal["wait"]
    at: Seconds


class Told(TypedDict):
    """What came of a proposal."""

    event: Literal["tell"]
    number: Count
    metrics: dict[str, MayBeNaN] | None
    failure: str | None
    seconds: Seconds
    repeated: bool
    at: Seconds


class Retried(TypedDict):
    """An evaluation failed and is to be tried again."""

    event: Literal["retry"]
    number: Count
    failure: str
    at: Seconds


Event: TypeAlias = Asked | Waited | Told | Retried
_KINDS: dict[str, Any] = {"ask": Asked, "wait": Waited, "tell": Told, "retry": Retried}


def checked_event(event: Mapping[str, Any], where: str) -> Event:
    """An event after the first, with everything that it must have.

    Raises:
        ValueError: If no study writes it; ``where`` is named.
    """
    if event["event"] not in _KINDS:
        raise ValueError(f"{where} has an event {event['event']!r}, which no study writes. {ADVICE}")
    found: Event = checked(dict(event), _KINDS[event["event"]], where, advice=ADVICE)
    if found["event"] == "tell" and (found["metrics"] is None) == (found["failure"] is None):
        raise ValueError(f"{where} must have either metrics or a failure. {ADVICE}")
    return found


class EventLog:
    """Events of a study in a JSON-lines file; the truth about what was asked and answered.

    A last line without an end was being written when the process was killed. It is removed; what it would have said
    happens again.

    Args:
        path: The file; it and its folder are made with the first event. None keeps events in memory only.

    Attributes:
        lock: What :meth:`alone` enters; whoever has it already puts it here.

    Raises:
        ValueError: If a line is no event; the line is named.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self.lock = None if self.path is None else RunLock(self.path.parent)
        self.events: list[dict[str, Any]] = []
        self.altered: int | None = None  # the first line that does not have its checksum
        self._whole = self._size = 0  # bytes of whole lines, and of the file
        self._crc = 0
        if self.path is not None and self.path.is_file():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        content = read_content(path)
        self._size = len(content)
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            place = f"{path}, line {number} is no event of a study: {line[:80]!r}"
            event = parse_json(line, f"{place}; it", advice=ADVICE, not_finite=True)
            if not isinstance(event, dict) or not isinstance(event.get("event"), str):
                raise ValueError(f"{place}. {ADVICE}")
            self._follow(line, event.pop("crc32", None), number)
            self.events.append(event)
            self._whole += len(line) + 1
        rest = content[self._whole :]
        if rest and not (rest.startswith(BEGINNING) or BEGINNING.startswith(rest)):
            raise ValueError(
                f"{path}, line {len(self.events) + 1} is no event of a study, nor the beginning of one: {rest[:80]!r}. "
                f"{ADVICE}"
            )

    def _follow(self, line: bytes, crc: object, number: int) -> None:
        """Compare a line with its checksum, which stands for all lines up to it; older logs have none."""
        body = line if crc is None else line[: line.rfind(CHECKSUM)] + b"}"
        self._crc = zlib.crc32(body, self._crc)
        if crc is not None and crc != self._crc:
            self.altered = self.altered or number
            self._crc = crc if isinstance(crc, int) and 0 <= crc < 2**32 else 0

    def _line(self, event: Mapping[str, Any]) -> tuple[bytes, int]:
        """An event as a line, and the checksum in it."""
        body = json.dumps(event).encode()
        crc = zlib.crc32(body, self._crc)
        return body[:-1] + CHECKSUM + str(crc).encode() + b"}\n", crc

    def check(self) -> None:
        """Compare the checksums of all lines.

        Raises:
            ValueError: If a line was changed, left out or moved; the first that does not fit is named.
        """
        if self.altered is not None:
            raise ValueError(
                f"{self.path}, line {self.altered} does not have its checksum: it was changed, or lines before it are "
                f"missing or in another order. {ADVICE}"
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this is entered, no other process, and no other log of this one, may be: they would cut each other off.

        Raises:
            InUseError: If another one is.
            RuntimeError: If another one has written since this log was read.
        """
        if self.path is None or self.lock is None:
            yield
            return
        with self.lock:
            if (self.path.stat().st_size if self.path.is_file() else 0) != self._size:
                raise RuntimeError(f"{self.path} was written to since this study was constructed. Construct it again.")
            yield

    def append(self, event: Mapping[str, Any]) -> None:
        """Write an event; the operating system has it when this returns, so killing this process loses nothing.

        Raises:
            OSError: If it cannot be written, and a full disk stays full; the log is what it was then.
        """
        if self.path is None:
            self.events.append(dict(event))
            return
        path, (line, crc) = self.path, self._line(event)
        self._whole = patiently(lambda: append(path, line, at=self._whole), f"{path} cannot be written")
        self.events.append(dict(event))
        self._size, self._crc = self._whole, crc
