"""What the documentation shows runs as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHOD, CONTRACT, SPACE, COST = re.findall(r"```python\n(.*?)```", (ROOT / "docs/adding.md").read_text(), re.DOTALL)


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    result = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_new_method_is_under_a_hundred_lines() -> None:
    assert len((METHOD + CONTRACT).splitlines()) < 100


@pytest.mark.slow
def test_the_new_method_searches(tmp_path: Path) -> None:
    assert re.search(r"^\|\w+~0\|\+", run(tmp_path, "-c", METHOD), re.MULTILINE)


@pytest.mark.slow
def test_the_new_method_keeps_the_contract(tmp_path: Path) -> None:
    definitions = METHOD[: METHOD.index("data = Digits()")]
    (tmp_path / "test_hardening.py").write_text(definitions + CONTRACT)
    assert " passed" in run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_hardening.py")


def test_a_space_of_ones_own_keeps_the_contract(tmp_path: Path) -> None:
    contract = """
import pytest
from oneshot.testing import SearchSpaceContract

class TestPairSpace(SearchSpaceContract):
    genes_per_mutation = 2

    @pytest.fixture
    def space(self):
        return PairSpace()
"""
    (tmp_path / "test_pair.py").write_text(SPACE + contract)
    assert " passed" in run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_pair.py")


def test_a_cost_of_ones_own_goes_into_a_search(tmp_path: Path) -> None:
    run(tmp_path, "-c", COST)


PAGE = (ROOT / "docs/discrete.md").read_text()
TRAINED, MINE, GREEDY, GREEDYS_CONTRACT = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_study_of_the_page_on_discrete_search_runs(tmp_path: Path) -> None:
    # spawned processes aside, a study needs no guard
    assert "accuracy" in run(tmp_path, "-c", TRAINED)
    assert (tmp_path / "runs/evolution/log.jsonl").is_file()


def test_the_table_and_the_evaluator_of_ones_own_are_searched_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine.csv").write_text("name,accuracy\n353-16,91.5\n333-8,90.0\n555-32,92.5\n")
    (commands,) = re.findall(r"```bash\n(oneshot discrete --strategy .*?)```", PAGE, re.DOTALL)
    mine, table = commands.replace("\\\n", "").strip().splitlines()
    assert "Best: kernel: 3 3 3; width: 32" in run(tmp_path, "-m", *shlex.split(mine))
    assert "Best: kernel: 5 5 5; width: 32" in run(tmp_path, "-m", *shlex.split(table), "--retries", "0")


def test_the_strategy_of_ones_own_searches_and_keeps_the_contract(tmp_path: Path) -> None:
    imports = "from oneshot.testing import StrategyContract\n"
    (tmp_path / "test_greedy.py").write_text(imports + GREEDY + GREEDYS_CONTRACT)
    assert " passed" in run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_greedy.py")
