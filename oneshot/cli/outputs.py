"""Which files ``--out`` of a command means."""

from __future__ import annotations

from pathlib import Path

from oneshot.report.style import SUFFIXES


def picture_and_numbers(out: str | None, ending: str) -> tuple[Path | None, Path | None]:
    """The picture and the numbers to write: both of them, or the one that the name says by its ending.

    Args:
        out: What ``--out`` says.
        ending: Of the numbers, ``".csv"``.

    Example:
        >>> [path.name for path in picture_and_numbers("runs/space", ".csv")]
        ['space.png', 'space.csv']
        >>> picture_and_numbers("runs/space.csv", ".csv")[0] is None
        True
    """
    if out is None:
        return None, None
    path = Path(out)
    if path.suffix.lower() in SUFFIXES:
        return path, None
    if path.suffix.lower() == ending:
        return None, path
    return path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}{ending}")
