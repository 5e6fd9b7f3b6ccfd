"""The experiment on INT8, in small."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.processes import run_python

SCRIPT = Path(__file__).parents[2] / "experiments/int8/run.py"


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.skipif("ONESHOT_DATA" not in os.environ, reason="ONESHOT_DATA does not name the folder with CIFAR-10")
def test_both_fronts_are_deployed_and_what_is_there_is_not_computed_again(tmp_path: Path) -> None:
    small = {"limit": 200, "test-limit": 100, "size": 16, "channels": 4, "warmup": 1, "iterations": 1}
    small |= {"initial": 12, "networks": 2, "latency-networks": 20, "seeds": 0}
    options = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    options += ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results.json")]

    def run() -> str:
        done = run_python(SCRIPT, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = run()
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    assert {row["searched_with"] for row in rows} == {"float32", "int8"} and len(rows) <= 4
    assert all(row["float32_ms"] > 0 and row["int8_ms"] > 0 and row["samples"] == 100 for row in rows)
    assert json.loads((tmp_path / "work/int8.json").read_text(encoding="utf-8"))["dtype"] == "int8"
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| int8 | 1 |" in table and "Kendall's tau" in table and (tmp_path / "fronts.png").stat().st_size
    assert "float32: table of 20 networks" in said
    assert run() == ""
