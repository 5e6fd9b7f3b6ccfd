"""The history of the benchmarks: figures of every file of results, added once, on a page and in a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments/benchmarks"))
import history  # type: ignore[import-not-found]  # a script

sys.path.pop(0)
FOLDER = Path(history.__file__).parent


def step(speed: float) -> dict[str, Any]:
    row = {"space": "darts", "order": 1, "speedup": {"oneshot": {"median": speed}}, "memory_ratio": {"oneshot": 0.5}}
    return {"hardware": "x86_64", "torch": "2.15", "results": [row]}


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*_cpu.json")))
def test_every_file_of_results_has_figures(name: str) -> None:
    found = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    figures = history.BENCHMARKS[name][1](found)
    assert figures and all(0 < value < float("inf") for value in figures.values())


def test_a_result_is_added_once_and_stands_beside_the_first_and_the_one_before(tmp_path: Path) -> None:
    for speed in (2.0, 2.5, 2.5, 3.0):
        (tmp_path / "search_step_cpu.json").write_text(json.dumps(step(speed)), encoding="utf-8")
        history.main(["--results", str(tmp_path), "--out", str(tmp_path / "history")])
    lines = (tmp_path / "history/history.jsonl").read_text(encoding="utf-8").splitlines()
    speeds = [next(iter(json.loads(line)["figures"].values())) for line in lines]
    assert speeds == [2.0, 2.5, 3.0]
    page = (tmp_path / "history/README.md").read_text(encoding="utf-8")
    assert "| darts, order 1: speed of a step, textbook = 1 | 2 | 2.5 | 3 | 1.50 |" in page
    assert "## A step of a training" not in page  # it has no results here
    assert (tmp_path / "history/history.png").stat().st_size > 1000


def test_the_page_that_is_kept_is_of_the_history_that_is_kept() -> None:
    rows = [json.loads(line) for line in (FOLDER / "history/history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert history.page(rows) == (FOLDER / "history/README.md").read_text(encoding="utf-8")
