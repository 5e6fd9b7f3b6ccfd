"""YAML and CSV files that may be damaged or foreign, read strictly. JSON: ``oneshot.supernets.json_files``."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from oneshot.supernets.json_files import DEEPEST, LARGEST, decode, read_content, read_text, shorten

MOST_VALUES = 1_000_000  # of a YAML file, with what its aliases repeat


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with an error for a key that comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {shorten(key)} comes twice", key_node.start_mark
                    )
                seen.add(key)
        found: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return found


def read_yaml(path: str | Path, *, advice: str = "") -> Any:
    """The value of a YAML file: plain values only.

    Args:
        path: The file.
        advice: The way out, last in an error.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not YAML in UTF-8, a key comes twice, or it is nested or repeated without end; file and
            line are named.
        OSError: If it cannot be read.
    """
    text = read_text(path, advice=advice)
    try:
        value = yaml.load(text, _Loader)  # it is a safe loader
        _check_size(value)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        reason = " ".join(str(error.problem or error.context).split())
        raise ValueError(f"{path}{line} must be YAML; {reason}. {advice}".strip()) from error
    except RecursionError as error:
        raise ValueError(f"{path} must not be nested deeper than {DEEPEST} levels. {advice}".strip()) from error
    except Exception as error:  # PyYAML passes on what Python's numbers, dates and tables raise
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} must be YAML; {reason}. {advice}".strip()) from error
    return value


def _check_size(value: object) -> None:
    """Refuse aliases that make a few lines stand for too many values, or a list an element of itself."""
    level: list[Any] = [value]
    count = 0
    for _ in range(DEEPEST + 1):
        level = [outer for outer in level if isinstance(outer, dict | list)]
        if not level:
            return
        count += sum(map(len, level))
        if count > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} values")
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    raise RecursionError


def read_table(path: str | Path, *, advice: str = "") -> str:
    """The text of a CSV file, unpacked if its name ends in ``.gz``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not UTF-8, or a packed file is damaged or larger than 1 GiB.
        OSError: If it cannot be read.
    """
    content = read_content(path)
    if Path(path).suffix == ".gz":
        try:
            with gzip.open(io.BytesIO(content)) as file:
                content = file.read(LARGEST + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} must be packed by gzip; {error}. {advice}".strip()) from error
        if len(content) > LARGEST:
            raise ValueError(f"{path} must have at most {LARGEST:,} bytes when it is unpacked; it has more.")
    return decode(content, str(path), advice=advice)


def csv_rows(text: str, where: str, *, advice: str = "", delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV text with the numbers of their last lines, empty ones left out.

    Args:
        text: Text of the file.
        where: What errors call it.
        advice: The way out, last in an error.
        delimiter: What stands between cells, one character.

    Raises:
        ValueError: If a row is not CSV; its line is named.
    """
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{where}, line {line} must be text; it has a byte that is 0. {advice}".strip())
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{where}, line {max(reader.line_num, 1)} must be CSV; {error}. {advice}".strip()
            ) from error
        if row:
            yield reader.line_num, row


def csv_records(
    text: str, where: str, *, advice: str = "", cut_off: bool = False, delimiter: str = ","
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header of a CSV text, and its other rows by the names of their columns, each with its line number.

    Args:
        text: Text of the file.
        where: What errors call it.
        advice: The way out, last in an error.
        cut_off: Whether a process may have been killed while it wrote; a last line without an end is left out then.
        delimiter: What stands between cells, one character.

    Raises:
        ValueError: If a row is not CSV or has more or fewer cells than the header, or a column comes twice.
    """
    if cut_off and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
    rows = csv_rows(text, where, advice=advice, delimiter=delimiter)
    _, header = next(rows, (1, list[str]()))
    if twice := [name for name in header if header.count(name) > 1]:
        raise ValueError(f"{where}, line 1: the column {shorten(twice[0])} comes twice. {advice}".strip())
    found: list[tuple[int, dict[str, str]]] = []
    for line, row in rows:
        place = f"{where}, line {line}"
        if len(row) > len(header):
            raise ValueError(
                f"{place} has more cells than the header. Put names that hold commas into quotes. {advice}".strip()
            )
        if len(row) < len(header):
            raise ValueError(
                f"{place} has no column {header[len(row)]!r}; columns are {', '.join(header[: len(row)])}: it must "
                f"have as many cells as the header. {advice}".strip()
            )
        found.append((line, dict(zip(header, row, strict=True))))
    return header, found
