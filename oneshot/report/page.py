"""``report.html``: one page that shows what a run has found, and loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from oneshot.storage.files import write_atomically

from .contents import Part
from .kinds import Kind, kind_of, read_part
from .measured import read_measurement
from .render import render

REPORT = "report.html"
# Sub-folders that are read first: what was found comes before how.
FIRST = ("network", "picked", "export", "retrain", "search")


def write_report(folder: str | Path, *, running: bool = False, out: str | Path | None = None) -> Path:
    """Write ``report.html`` into the folder of a run, from the files that are in it and in its sub-folders.

    A run of any command: search, retrain, pareto, discrete, pick, export, compare, quickstart. Of a folder with
    ``summary.json``, a JSON object, its ``title``, ``test`` (metrics), ``file_ms``, ``limit_ms``, ``table`` (objects,
    one for each network that is compared), ``lines`` (texts) and ``warnings`` (texts) come first. What a folder does
    not have is left out. Files are read as data: nothing that they name is imported. One that is damaged is left out,
    and the page says so.

    Args:
        folder: The folder; or a file of ``oneshot measure``, which gets its page beside it, ``table.report.html``.
        running: Whether the run goes on; the page then says that it will change.
        out: Another place for the page, where the folder cannot be written to.

    Returns:
        The page.

    Raises:
        ValueError: If neither the folder nor a sub-folder is of a run.
        OSError: If the page cannot be written.
    """
    folder = Path(folder)
    beside = folder.with_suffix(f".{REPORT}") if folder.is_file() else folder / REPORT
    return write_atomically(out or beside, report_page(folder, running=running))


def report_page(folder: Path, *, running: bool = False) -> str:
    """The text of the page; see :func:`write_report`."""
    if folder.is_file():
        return _rendered([_placed(read_measurement(folder), 0, Path())], folder, whole=True, running=running)
    found = parts_of(folder)
    if not found:
        raise ValueError(
            f"RUN must be the folder of a run, a study, a comparison or an export, or hold such folders; {folder} is "
            f"none{'' if folder.is_dir() else ': there is no such folder'}."
        )
    parts = [_placed(read_part(place, kind), i, place.relative_to(folder)) for i, (place, kind) in enumerate(found)]
    whole = not found[0][0].relative_to(folder).parts  # the folder is of a run itself
    return _rendered(parts, folder, whole=whole, running=running)


def _rendered(parts: list[Part], folder: Path, *, whole: bool, running: bool) -> str:
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    going = "The run goes on; reload the page for what is new. " if running else ""
    title = parts[0].title if whole else "Runs"
    return render(
        "report.html",
        title=f"{title}: {folder.name or folder.resolve().name}",
        state=f"{going}As of {now}, {folder}.",
        parts=parts,
        whole=whole,
        links=_links(parts, whole),
    )


def parts_of(folder: Path) -> list[tuple[Path, Kind]]:
    """A folder and those of its sub-folders that are runs or exports, two levels deep, with their kinds."""
    return list(_parts(folder, 2))


def _parts(folder: Path, deep: int) -> Iterator[tuple[Path, Kind]]:
    if not folder.is_dir():
        return
    if (kind := kind_of(folder)) is not None:
        yield folder, kind
    if deep:
        inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        for path in sorted(inner, key=lambda p: (FIRST.index(p.name) if p.name in FIRST else len(FIRST), p.name)):
            yield from _parts(path, deep - 1)


def _placed(part: Part, number: int, place: Path) -> Part:
    """The part with anchors that no other part has, and the sub-folder it is of."""
    part.id = f"part{number}"
    if place.parts:
        part.title = f"{part.title}: {place}"
    for section in part.sections:
        section.id = f"{part.id}-{section.id}"
    return part


def _links(parts: list[Part], whole: bool) -> list[dict[str, Any]]:
    first = [{"id": s.id, "title": s.title} for s in parts[0].sections] if whole else []
    return [*first, *({"id": part.id, "title": part.title} for part in parts[int(whole) :])]
