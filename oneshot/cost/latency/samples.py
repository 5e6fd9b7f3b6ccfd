"""Measured networks as a CSV file: one line for each network, above them the supernet and the device."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oneshot.cost.record import OF_THE_FILE, Record
from oneshot.storage.files import write_atomically
from oneshot.supernets.json_files import parse_json, read_text, shorten
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

COMMENT, MARK = "#", "# oneshot "
EXPLANATION = "# Networks and their latencies in ms. The next line says what they were measured for and on; keep it."
FORMAT = 1


def write_csv(
    path: str | Path,
    space: SearchSpace,
    genes: IntMatrix,
    values: npt.ArrayLike | None = None,
    *,
    record: Record | None = None,
) -> Path:
    """Write architectures with a column ``ms``; without values it is empty, to be filled in on the device.

    Two lines that begin with ``#`` come first, if there is a record: the second has it as JSON.

    Args:
        path: The file.
        space: The search space.
        genes: Architectures, ``[N, G]``.
        values: Milliseconds, ``[N]``.
        record: The supernet and the device; a file without a record is used with a warning.
    """
    text = io.StringIO()
    if record is not None:
        text.write(f"{EXPLANATION}\n{MARK}{json.dumps({'format': FORMAT, **record.to_dict()})}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_header(space))
    times = [""] * len(genes) if values is None else [f"{ms:.6g}" for ms in np.asarray(values)]
    for config, ms in zip(space.decode(genes), times, strict=True):
        writer.writerow([*(pick for choice in space.choices for pick in config[choice.name]), ms])
    return write_atomically(path, text.getvalue())


def read_csv(path: str | Path, space: SearchSpace) -> tuple[IntMatrix, Floats]:
    """Read what :func:`write_csv` wrote and somebody filled in.

    Returns:
        Genes ``[N, G]`` and milliseconds ``[N]``.

    Raises:
        ValueError: If the file is missing or empty, columns are wrong, a pick is not of the space, or a time is
            missing, not a number or not above 0; the line is named.
    """
    path = Path(path)
    rows = [(line, cells) for line, cells in _rows(path) if not cells[:1] or not cells[0].startswith(COMMENT)]
    header = _header(space)
    if not rows or [name.strip() for name in rows[0][1]] != header:
        raise ValueError(
            f"{path}, line {rows[0][0] if rows else 1}: the columns for space {space.name!r} must be "
            f"{', '.join(header)}; got {', '.join(rows[0][1])[:200] if rows else 'nothing'}. Fill in the file as it "
            "was written."
        )
    genes, times = [], []
    indices = [{str(pick): i for i, pick in enumerate(c.picks)} for c in space.choices for _ in range(c.rows)]
    for line, row in rows[1:]:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise ValueError(f"{path}, line {line}: there must be {len(header)} columns; got {len(cells)}.")
        for name, cell, index in zip(header, cells, indices):
            if cell not in index:
                raise ValueError(
                    f"{path}, line {line}: {shorten(cell)} is not a candidate of {name}; they are {list(index)}."
                )
        times.append(_milliseconds(cells[-1], f"{path}, line {line}"))
        genes.append([index[cell] for cell, index in zip(cells, indices)])
    if not genes:
        raise ValueError(f"{path} must hold architectures; it has none. Fill in the file that write_csv made.")
    return np.array(genes, dtype=np.int64), np.array(times)


def read_record(path: str | Path) -> Record | None:
    """The supernet and the device of the networks in a CSV file, if the file names them.

    A line that a spreadsheet has changed by reading and writing it is understood, too.

    Raises:
        ValueError: If the file cannot be read, or its record is damaged.
    """
    for line, cells in _rows(Path(path)):
        text = ",".join(cells).rstrip(",") + " "
        if not text.startswith(MARK):
            continue
        try:
            data = parse_json(text.removeprefix(MARK), "it")
            if data.pop("format") != FORMAT:
                raise ValueError("it is of another release")
            names = {field.name for field in fields(Record)} - set(OF_THE_FILE)
            if not isinstance(data["supernet"], dict) or not isinstance(data["device"], dict) or data.keys() - names:
                raise ValueError(f"its fields must be {', '.join(sorted(names))}")
            return Record(**data, source=str(path))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path}, line {line}: the record of what was measured is damaged ({error}). Restore it from the file "
                "that 'oneshot measure' wrote; without the line, the file is used with a warning."
            ) from error
    return None


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number of every line, from 1, and its cells."""
    try:
        reader = csv.reader(io.StringIO(read_text(path)))
        for cells in reader:
            yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path} cannot be read as a CSV file: {error}. 'oneshot measure' or write_csv makes one."
        ) from error


def _header(space: SearchSpace) -> list[str]:
    return [f"{choice.name}_{row}" for choice in space.choices for row in range(choice.rows)] + ["ms"]


def _milliseconds(cell: str, where: str) -> float:
    if not cell:
        raise ValueError(f"{where}: the time is missing. Fill in the column ms, or delete the line.")
    try:
        value = float(cell)
    except ValueError as error:
        raise ValueError(
            f"{where}: a time must be a number of milliseconds, such as 12.5; got {shorten(cell)}."
        ) from error
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{where}: a time must be finite and above 0; got {shorten(cell)}.")
    return value
