"""The metrics of a run as a CSV file that a resumed run continues, without rows missing or doubled."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from oneshot.supernets.json_files import read_text, shorten

from .faults import announce, machine_fault, patiently
from .files import write_atomically
from .lock import check_owned
from .readers import csv_records

ADVICE = "Restore the file, or delete it: the run goes on without the rows before."


class RunLog(Logger):
    """Writes ``metrics.csv``: a row for every time something is logged, a column for every metric, in their order.

    Lightning's ``CSVLogger`` deletes what an earlier fit wrote. This one appends, and :meth:`truncate` forgets what was
    logged after the checkpoint a run is resumed from. While the disk is full, rows are kept in memory; they are written
    with the next row that finds room, or with the next checkpoint.

    Args:
        folder: Folder to write to.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._rows: list[dict[str, str]] | None = None
        self._columns: list[str] = []
        self._behind = False  # whether there are rows that could not be written

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def log_dir(self) -> str:
        return str(self.path.parent)

    @property
    def save_dir(self) -> str:
        return self.log_dir

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows that were logged so far, values as text."""
        if self._rows is None:
            self._rows = []
            if self.path.is_file():
                # The last row may be cut off; what is wrong elsewhere would move rows, and a resumed run counts them.
                text = read_text(self.path, advice=ADVICE)
                self._columns, rows = csv_records(text, str(self.path), advice=ADVICE, cut_off=True)
                for line, row in rows:
                    _check_numbers(row, f"{self.path}, line {line}")
                self._rows = [{name: value for name, value in row.items() if value} for _, row in rows]
        return self._rows

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {name: str(value) for name, value in {**metrics, "step": step}.items() if value is not None}
        rows, known = self.rows, set(self._columns)
        rows.append(row)
        if self._behind or not self.path.is_file() or not row.keys() <= known:
            self._columns = sorted(known | row.keys())
            self._try(self._write)
        else:
            self._try(lambda: self._append(row))

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the configuration of the run holds them."""

    @rank_zero_only
    def truncate(self, count: int) -> None:
        """Keep the first ``count`` rows."""
        self._rows = self.rows[:count]
        self._columns = sorted({name for row in self._rows for name in row})
        self._try(self._write)

    @rank_zero_only
    def sync(self) -> None:
        """Make sure that all rows are in the file, and survive a loss of power.

        Raises:
            OSError: If rows cannot be written, because the disk is full for example.
        """
        if self._behind:
            self._write()
        if self.path.is_file():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._behind and status == "success":
            patiently(self._write, f"{self.path} cannot be written")
        elif self._behind:
            self._try(self._write)

    def _try(self, write: Callable[[], None]) -> None:
        """Write now, or later if the disk is full."""
        try:
            write()
        except OSError as error:
            if (why := machine_fault(error)) is None:
                raise
            if not self._behind:
                announce(f"{self.path} cannot be written: {why}. The run goes on, and writes it when there is room.")
            self._behind = True

    def _append(self, row: Mapping[str, str]) -> None:
        check_owned(self.path)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _write(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, text.getvalue())
        self._behind = False


def _check_numbers(row: Mapping[str, str], where: str) -> None:
    for name, value in row.items():
        try:
            float(value or 0)
        except ValueError as error:
            raise ValueError(f"{where}: {name} must be a number; got {shorten(value)}. {ADVICE}") from error
