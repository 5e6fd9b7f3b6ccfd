"""Events of a study, and the journal that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypedDict

from oneshot.storage.journal import Journal
from oneshot.supernets.json_files import AtLeast, MayBeNaN, checked, shorten

LOG = "log.jsonl"  # in the folder of a study
ADVICE = "Restore the file, or begin another study in a new folder."

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


class EventLog(Journal):
    """Events of a study, one a line; the truth about what was asked and answered.

    Args:
        path: The file; it and its folder are made with the first event. None keeps events in memory only.

    Raises:
        ValueError: If a line is no event; the line is named.
    """

    def __init__(self, path: str | Path | None) -> None:
        super().__init__(path, advice=ADVICE, beginning=b'{"event": "', checksums=True, not_finite=True)
        for number, event in enumerate(self.rows, start=1):
            if not isinstance(event.get("event"), str):
                raise ValueError(f"{self.place(number)} must be an event of a study; got {shorten(event)}. {ADVICE}")

    @property
    def events(self) -> list[dict[str, Any]]:
        """What has happened, in order."""
        return self.rows
