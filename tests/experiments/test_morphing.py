"""The experiment on searches by morphisms, in small."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_python

SCRIPT = Path(__file__).parents[2] / "experiments/discrete/morphing.py"


@pytest.mark.nightly
def test_a_search_goes_on_with_a_larger_budget_and_is_reported(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = run_python(SCRIPT, "--out", tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def searched(budget: int) -> list[dict[str, Any]]:
        run("run", "digits", "--strategies", "NASH", "--budget", str(budget))
        result = json.loads((tmp_path / "digits-NASH-0/result.json").read_text())
        assert sum(row["cpu_seconds"] for row in result["evaluations"]) >= budget
        assert result["front"] and all(0 <= point["test_error"] <= 1 for point in result["front"])
        evaluations: list[dict[str, Any]] = result["evaluations"]
        return evaluations

    first = searched(2)
    more = searched(math.ceil(sum(row["cpu_seconds"] for row in first)) + 1)
    assert more[: len(first)] == first and len(more) > len(first)
    table = run("report", "--to", str(tmp_path))
    assert "| NASH | " in table and (tmp_path / "morphing.png").exists()
    assert json.loads((tmp_path / "morphing.json").read_text())["runs"][0]["strategy"] == "NASH"
