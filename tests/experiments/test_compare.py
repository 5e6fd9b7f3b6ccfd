"""The comparison of methods, on a space without a table of accuracies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments/compare/compare.py"


@pytest.mark.slow
def test_methods_are_compared_where_there_is_no_table(tmp_path: Path) -> None:
    command = [
        sys.executable,
        SCRIPT,
        "--methods",
        "gdas",
        "random",
        "--seeds",
        "0",
        "--space",
        "s2",
        "--data",
        "digits",
    ]
    command += ["--size", "8", "--channels", "4", "--cells", "3", "--epochs", "1", "--retrain", "1", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [(run["method"], run["seed"]) for run in runs] == [("gdas", 0), ("random", 0)]
    assert all(0 < run["retrained"] < 100 for run in runs)
    assert "| gdas | 1 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "accuracy.png").exists() and (tmp_path / "epochs.png").exists()

    done = subprocess.run([*command, "--images", "8"], capture_output=True, text=True)
    assert done.returncode == 1 and "holds runs that differ in images" in done.stderr
