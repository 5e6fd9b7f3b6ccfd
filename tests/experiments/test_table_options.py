"""Experiments on tables take another file and another column."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.processes import run_python
from tests.tables import EXTRACTS, table

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def run(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ONESHOT_DATA": str(EXTRACTS)}
    return run_python(EXPERIMENTS / script, *words, env=environment)


@pytest.mark.slow
def test_strategies_are_compared_on_another_file_and_column(tmp_path: Path) -> None:
    other, out = tmp_path / "other.csv", tmp_path / "tables.json"
    with gzip.open(table("accel_nasbench"), "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with other.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "mine"])
        writer.writeheader()
        writer.writerows(row | {"mine": "" if i == 3 else str(i)} for i, row in enumerate(rows))
    options = ["--tables", "Accel-NASBench", "--csv", other, "--metric", "mine", "--seeds", 1, "--evaluations", 20]
    done = run("discrete/tables.py", *options, "--strategies", "random search", "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"1 of {len(rows)} lines are left out" in done.stderr
    (row,) = json.loads(out.read_text(encoding="utf-8"))["results"]
    assert row["table"] == "Accel-NASBench, other.csv, mine" and 0 <= row["mean"][-1] < 99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        pytest.param(
            "discrete/tables.py", ["--metric", "mine"], "are of one table; name it with --tables", id="discrete"
        ),
        pytest.param("nat/tables.py", ["--metric", "mine"], "are of one table; name it with --tables", id="nat"),
        pytest.param(
            "nat/tables.py", ["--metric", "mine", "--tables", "nats-bench"], "need --out, so that the results", id="out"
        ),
        pytest.param("latency/benchmark.py", ["--csv", "mine.csv"], "are given together", id="latency"),
        pytest.param(
            "latency/benchmark.py",
            ["--space", "fbnet", "--csv", "mine.csv", "--metric", "ms", "--out", "out.json"],
            "mine.csv",
            id="no file",
        ),
    ],
)
def test_options_that_are_not_enough_are_refused(script: str, words: list[str], message: str) -> None:
    done = run(script, *words)
    assert done.returncode != 0 and message in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
