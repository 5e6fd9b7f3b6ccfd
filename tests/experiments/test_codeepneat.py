"""The experiment on CoDeepNEAT, in small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_python

SCRIPT = Path(__file__).parents[2] / "experiments/discrete/codeepneat.py"


@pytest.mark.nightly
def test_a_search_goes_on_with_more_evaluations_and_is_reported(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = run_python(SCRIPT, "--out", tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def searched(evaluations: int) -> list[dict[str, Any]]:
        run("run", "digits", "--evaluations", str(evaluations), "--strategies", "CoDeepNEAT", "RegularizedEvolution")
        result = json.loads((tmp_path / "digits-CoDeepNEAT-0/result.json").read_text())
        assert 0 <= result["best"]["test_error"] <= 1 and 0 <= result["best"]["test_error_from_scratch"] <= 1
        rows: list[dict[str, Any]] = result["rows"]
        assert len(rows) + result["failed"] == evaluations
        return rows

    first = searched(3)
    more = searched(5)
    assert more[: len(first)] == first and len(more) > len(first)
    table = run("report", "--to", str(tmp_path))
    assert "| CoDeepNEAT | 1 | 5 | " in table and "| RegularizedEvolution | " in table
    assert (tmp_path / "codeepneat.png").exists()
    assert len(json.loads((tmp_path / "codeepneat.json").read_text())["runs"]) == 2
