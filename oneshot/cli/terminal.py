"""Print plain text on a terminal, whatever characters the text has and the terminal lacks."""

from __future__ import annotations

import codecs
import locale
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ERRORS = "oneshot.plain"
PLAIN = {"→": "->", "×": "x", "±": "+-", "–": "-", "—": "-", "…": "...", "·": "."}  # others become "?"


def console(file: TextIO | None = None, *, stderr: bool = False) -> Console:
    """A console that shows text as it is: brackets in a path or a name are no markup, and ``:x:`` is no picture."""
    from rich.console import Console  # the command line imports this file, and answers --help at once

    return Console(file=file, stderr=stderr, markup=False, emoji=False, highlight=False)


def say(what: str | Table, on: Console | None = None) -> None:
    """Print a text or a table; long lines are not broken.

    A table that is too wide for the terminal is printed as text, a line for each row, so that no number is cut off.

    Args:
        what: What to print, as it is.
        on: Where to; standard output by default.
    """
    from rich.measure import Measurement
    from rich.text import Text

    on = on or console()
    shown: str | Table | Text = what
    if not isinstance(what, str) and Measurement.get(on, on.options.update(width=10_000), what).minimum > on.width:
        shown = Text(_as_text(what))
    on.print(shown, soft_wrap=True, highlight=False)


def _as_text(table: Table) -> str:
    """The cells of a table: ``found: accuracy 0.94, ms 4.2``."""
    names = [str(column.header) for column in table.columns]
    rows = zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)
    lines = [f"{row[0]}: " + ", ".join(map(" ".join, zip(names[1:], row[1:], strict=True))) for row in rows]
    return "\n".join([*([str(table.title)] if table.title else []), *lines])


@contextmanager
def bars_on_a_terminal() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on a terminal, which are gone afterwards; nothing where there is none.

    Yields:
        A function of what goes on, how much of it is done, and of how much.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    on = console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=on, transient=True, disable=not on.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show


def tolerate_encodings() -> None:
    """Let standard output and errors replace what their encodings lack, where Python would raise."""
    codecs.register_error(ERRORS, _plain)
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)  # not every replacement of a stream has it
        if reconfigure is not None:
            reconfigure(errors=ERRORS)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in missing), error.end


def with_configurations_as_utf8(words: Sequence[str]) -> list[str]:
    """Replace configuration files by their content where the locale would read them in another encoding than UTF-8.

    Args:
        words: Words of a command line, with ``--config FILE`` or ``--config=FILE``.
    """
    words = list(words)
    if codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8":
        return words
    for i, word in enumerate(words):
        if word.startswith("--config="):
            words[i] = f"--config={_content(word.removeprefix('--config='))}"
        elif i and words[i - 1] == "--config":
            words[i] = _content(word)
    return words


def _content(file: str) -> str:
    import yaml

    try:
        text = Path(file).read_text(encoding="utf-8")
        # With escapes: Lightning first looks whether the text is the name of a file.
        return file if text.isascii() else yaml.safe_dump(yaml.safe_load(text), sort_keys=False)
    except (OSError, ValueError, yaml.YAMLError):
        return file  # the parser reads it and says what is wrong
