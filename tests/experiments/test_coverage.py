"""The table of networks that are converted: its script runs, and what the documentation shows is what it wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.processes import run_python

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments/convert"


def test_the_documentation_shows_what_the_script_wrote() -> None:
    lines = (FOLDER / "coverage.md").read_text().splitlines()
    page = (ROOT / "docs/convert.md").read_text()
    shown = re.findall(r"^\| ((?:timm|torchvision):.*) \|$", page, re.MULTILINE)
    assert len(shown) == 22
    assert [row for row in shown if not any(line.startswith(f"| {row} | ") for line in lines)] == []
    entries = json.loads((FOLDER / "coverage.json").read_text())
    kinds = [entry["converted"] for entry in entries]
    told = f"{kinds.count('wholly')} are converted wholly, {kinds.count('in part')} in part"
    assert told in page and f"converts {len(entries)} networks" in page


def test_all_networks_of_the_table_compute_what_they_should() -> None:
    for entry in json.loads((FOLDER / "coverage.json").read_text()):
        if entry["converted"] != "refused":
            assert entry["alone_equal"] and entry["largest_error"] < 1e-5, entry["network"]


@pytest.mark.slow
@pytest.mark.nightly
def test_the_script_writes_a_line_for_a_network(tmp_path: Path) -> None:
    script = FOLDER / "coverage.py"
    done = run_python(script, "--networks", "torchvision:squeezenet1_1", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads((tmp_path / "coverage.json").read_text())
    assert entry["converted"] == "wholly" and entry["alone_equal"] and entry["largest_error"] < 1e-5
    assert "| torchvision:squeezenet1_1 | wholly | 25 | 0 |" in (tmp_path / "coverage.md").read_text()
