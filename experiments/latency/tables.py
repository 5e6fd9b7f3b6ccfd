"""The tables of measured latencies, as genes of the search spaces: public ones, and files of other devices.

Public tables lie in the folder that ONESHOT_DATA names. Blank cells are counted, said, and NaN in the values.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import numpy.typing as npt

from oneshot.storage.readers import csv_records, read_table
from oneshot.supernets import Choice, FBNetSpace, NASBench201Space, SearchSpace
from oneshot.supernets.space import IntMatrix

PREFIX = "latency_ms_"
Table = tuple[SearchSpace, IntMatrix, dict[str, npt.NDArray[np.float64]]]
Rows = list[tuple[int, dict[str, str]]]


def rows(name: str, csv: Path | None = None) -> Rows:
    """Rows of a public table, or of another file, with the numbers of their lines."""
    if csv is None and "ONESHOT_DATA" not in os.environ:
        raise SystemExit(
            "The tables are in the folder that the environment variable ONESHOT_DATA names; it is not set."
        )
    path = csv or Path(os.environ["ONESHOT_DATA"]) / f"{name}.csv.gz"
    try:
        return csv_records(read_table(path), str(path))[1]
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error


def milliseconds(table: Rows, column: str) -> npt.NDArray[np.float64]:
    """A column; blank cells are NaN, and their number is printed.

    Columns with ``img_per_s`` or ``throughput`` in their names hold images per second, of which it is the reciprocal.
    """
    if column not in table[0][1]:
        raise SystemExit(f"The table has no column {column!r}; columns are {', '.join(table[0][1])}.")
    found = []
    for line, row in table:
        try:
            found.append(float(row[column].strip() or "nan"))
        except ValueError as error:
            raise SystemExit(f"Line {line}: column {column!r} must hold numbers; got {row[column]!r}.") from error
    values = np.array(found)
    if blank := int(np.isnan(values).sum()):
        print(f"{column}: {blank} of {len(values)} cells are blank, and left out", flush=True)
    return 1000 / values if "img_per_s" in column or "throughput" in column else values


def _latencies(table: Rows, columns: Sequence[str] | None) -> dict[str, npt.NDArray[np.float64]]:
    """Milliseconds of every device, or of some columns."""
    wanted = [column for column in table[0][1] if column.startswith(PREFIX)] if columns is None else columns
    return {column.removeprefix(PREFIX): milliseconds(table, column) for column in wanted}


def fbnet(csv: Path | None = None, columns: Sequence[str] | None = None) -> Table:
    """Space, genes ``[5000, 22]`` and milliseconds of every device; column ``ops`` names the architectures."""
    table, space = rows("fbnet_latency", csv), FBNetSpace()
    return space, space.encode([space.from_arch_string(row["ops"]) for _, row in table]), _latencies(table, columns)


def nasbench201(csv: Path | None = None, columns: Sequence[str] | None = None) -> Table:
    """Space, genes ``[15625, 6]`` and milliseconds of every device; column ``arch`` names the architectures."""
    table, space = rows("nats_bench_tss", csv), NASBench201Space()
    return space, space.encode([space.from_arch_string(row["arch"]) for _, row in table]), _latencies(table, columns)


def accel_nasbench(csv: Path | None = None, columns: Sequence[str] | None = None) -> Table:
    """Seven blocks, each with a joint choice of expansion, kernel, layers and squeeze-and-excitation; ms per image."""
    table = rows("accel_nasbench", csv)
    picks = [[tuple(row[f"block{b}_{what}"] for what in ("e", "k", "l", "se")) for b in range(7)] for _, row in table]
    names = [sorted({row[b] for row in picks}) for b in range(7)]
    choices = tuple(Choice(f"block_{b}", tuple("_".join(p) for p in names[b])) for b in range(7))
    genes = np.array([[names[b].index(row[b]) for b in range(7)] for row in picks])
    known = {"zcu102 latency": "zcu102_latency_ms", "a100 1/throughput": "a100_img_per_s"}
    wanted = known if columns is None else dict(zip(columns, columns, strict=True))
    costs = {label: milliseconds(table, column) for label, column in wanted.items()}
    return SearchSpace("accel_nasbench", choices), genes, costs
