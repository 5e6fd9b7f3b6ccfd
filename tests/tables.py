"""Published benchmark tables: extracts beside the tests, and whole ones where ONESHOT_DATA names their folder."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import pytest

EXTRACTS = Path(__file__).parent / "data" / "extracts"
WITHOUT = "needs a whole table: set ONESHOT_DATA to the folder of the tables"

# For tests that take some rows as well as all of them.
whole_or_extract = pytest.mark.parametrize(
    "whole",
    [
        pytest.param(False, id="extract"),
        pytest.param(True, id="whole", marks=pytest.mark.skipif("ONESHOT_DATA" not in os.environ, reason=WITHOUT)),
    ],
)


def table(name: str, *, whole: bool = False) -> Path:
    """The file of a table, such as ``fbnet_latency``; skips the test where it wants a whole one that is not there."""
    if not whole:
        return EXTRACTS / f"{name}.csv.gz"
    if "ONESHOT_DATA" not in os.environ:
        pytest.skip(WITHOUT)
    return Path(os.environ["ONESHOT_DATA"]) / f"{name}.csv.gz"


def rows(name: str, *, whole: bool = False) -> list[dict[str, str]]:
    """Its rows, texts by the names of the columns."""
    with gzip.open(table(name, whole=whole), "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
