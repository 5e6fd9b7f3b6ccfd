"""What a page shows of a folder: figures, sections, tables, charts; and how files that may be damaged are read."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from oneshot.storage.readers import csv_records, read_yaml
from oneshot.supernets.json_files import read_json, read_text

T = TypeVar("T")

LARGEST_PICTURE = 400_000  # bytes; a page has few of them and stays small


@dataclass(frozen=True)
class Figure:
    """A number that is shown large, and what it needs to be understood."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of texts; names of the columns that hold numbers, which are set to the right."""

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[str] = ()


@dataclass(frozen=True)
class Fold:
    """A table, or a text, that is opened by a click."""

    title: str
    text: str = ""
    table: Table | None = None


@dataclass(frozen=True)
class Panels:
    """Charts beside each other, see ``lines`` in ``charts.js``."""

    title: str
    charts: Sequence[Mapping[str, Any]]
    small: bool = False


@dataclass(frozen=True)
class Picture:
    """An image as a data URL, and its text for those who do not see it."""

    source: str
    alt: str


@dataclass
class Section:
    """A part of a page with a title; only what it has is shown.

    Args:
        id: Anchor in the page, completed by that of its part.
        title: Heading.
        lines: Paragraphs.
        items: A list.
        front: See :func:`~oneshot.report.fronts.front_data`.
        table: A table.
        confusion: ``names``, ``rows`` of ``count`` and ``share``, and whether names are ``turned``.
        mistakes: Pictures with ``text`` and ``where``.
        legend: Names of the colours.
        panels: Charts.
        pictures: Images.
        commands: Commands to copy.
        folds: Closed at first.
    """

    id: str
    title: str
    lines: list[str] = field(default_factory=list)
    items: Sequence[str] = ()
    front: Mapping[str, Any] | None = None
    table: Table | None = None
    confusion: Mapping[str, Any] | None = None
    mistakes: Sequence[Mapping[str, Any]] = ()
    legend: Sequence[str] = ()
    panels: Sequence[Panels] = ()
    pictures: Sequence[Picture] = ()
    commands: Sequence[str] = ()
    folds: Sequence[Fold] = ()


@dataclass
class Part:
    """A folder in a page: a run, a network that was exported, or the whole of several.

    Args:
        title: What it is.
        figures: What counts.
        lines: Sentences below.
        warnings: What its reader must know, in words.
        sections: In order.
    """

    title: str
    figures: list[Figure] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    id: str = "run"


class Files:
    """The files of a folder. One that is damaged is left out, and a warning says so.

    Args:
        folder: The folder.

    Attributes:
        problems: Sentences about files that could not be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.folder / name).is_file()

    def object(self, name: str) -> dict[str, Any]:
        """A JSON object; empty if the file is not there."""
        found = self._tried(name, lambda path: read_json(path, not_finite=True))
        if found is not None and not isinstance(found, dict):
            self.problems.append(f"{name} is left out: it must be a JSON object.")
        return found if isinstance(found, dict) else {}

    def array(self, name: str) -> list[Any]:
        """A JSON array; empty if the file is not there."""
        found = self._tried(name, lambda path: read_json(path, not_finite=True))
        return found if isinstance(found, list) else []

    def settings(self, name: str) -> dict[str, Any]:
        """A YAML mapping; empty if the file is not there."""
        found = self._tried(name, read_yaml)
        return found if isinstance(found, dict) else {}

    def text(self, name: str) -> str:
        """A text; empty if the file is not there."""
        return self._tried(name, read_text) or ""

    def rows(self, name: str) -> tuple[list[str], list[dict[str, str]]]:
        """Header and rows of a CSV file, whose last line may be cut off."""

        def read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
            header, rows = csv_records(read_text(path), str(path), cut_off=True)
            return header, [row for _, row in rows]

        return self._tried(name, read) or ([], [])

    def picture(self, name: str, alt: str) -> list[Picture]:
        """A PNG file as a list of one picture; of none if it is not there, or too large for a page."""
        path = self.folder / name
        if not path.is_file() or path.stat().st_size > LARGEST_PICTURE:
            return []
        return [Picture(data_url(path.read_bytes(), "image/png"), alt)]

    def part(self, what: str, read: Callable[[], T], otherwise: T) -> T:
        """What ``read`` makes of the files; if their content is not as it must be, a warning and ``otherwise``."""
        try:
            return read()
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            self.problems.append(f"{what} is left out: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            return otherwise

    def _tried(self, name: str, read: Callable[[Path], T]) -> T | None:
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            return read(path)
        except (ValueError, OSError) as error:
            self.problems.append(f"{name} is left out: {' '.join(str(error).split())[:300]}")
            return None


def data_url(content: bytes, kind: str) -> str:
    """Bytes of an image as a URL that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows by name as a table; columns in the order in which they first appear, numbers short."""
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    numbers = [n for n in names if all(isinstance(r.get(n), int | float) or r.get(n) is None for r in rows)]
    return Table(names, [[said(row.get(name)) for name in names] for row in rows], numbers)


def said(value: Any) -> str:
    """A value as a short text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def percent(share: float) -> str:
    """A share in per cent."""
    return f"{100 * share:.2f} %"


def size_text(size: int) -> str:
    """A number of bytes as a short text."""
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
