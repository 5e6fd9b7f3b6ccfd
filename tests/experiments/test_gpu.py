"""The script for a machine with a GPU, without one: a dry run, where packages are missing that such a machine lacks."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments/gpu/run.sh"
MISSING = ("fvcore", "wandb", "jsonargparse", "moocore")


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which these packages cannot be imported."""
    folder = tmp_path / "missing"
    folder.mkdir()
    for name in MISSING:
        (folder / f"{name}.py").write_text("raise ModuleNotFoundError('a bare machine does not have it')\n")
    return {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def run(out: Path, environment: dict[str, str], *options: str, limit: int = 500) -> tuple[int, dict[str, Any], str]:
    command = [str(SCRIPT), "--device", "cpu", "--small", "--out", str(out), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=limit)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return done.returncode, results, done.stdout + done.stderr


def test_a_bare_machine_checks_searches_and_measures(tmp_path: Path, bare: dict[str, str]) -> None:
    code, results, said = run(
        tmp_path / "out", bare, "--parts", "correct", "search", "--spaces", "nasbench201", "mobilenetv3"
    )
    assert code == 0, said
    assert {name: part["ended"] for name, part in results["parts"].items()} == dict.fromkeys(
        ("correct", "search"), "finished"
    )
    checks = {(row["space"], row["check"]): row for row in results["parts"]["correct"]["rows"]}
    spaces, kinds = ("nasbench201", "mobilenetv3"), ("float64", "float32", "bfloat16")
    assert set(checks) == {(space, kind) for space in spaces for kind in kinds} | {("nasbench201", "order 2")}
    assert checks["nasbench201", "float64"]["distance"] == 0 < checks["nasbench201", "float32"]["distance"] < 1e-5
    assert checks["nasbench201", "float32"]["distance"] < checks["nasbench201", "bfloat16"]["distance"] < 0.3
    (search,) = results["parts"]["search"]["rows"]
    assert search["finite"] and search["images"] == "random pixels" and len(search["epoch_seconds"]) == 1
    page = (tmp_path / "out/results.md").read_text(encoding="utf-8")
    assert "| nasbench201 | float64 | 0 | 1e-08 | yes |" in page and page.rstrip().endswith("Nothing.")


@pytest.mark.nightly
@pytest.mark.timeout(1700)
def test_a_bare_machine_runs_all_parts(tmp_path: Path, bare: dict[str, str]) -> None:
    code, results, said = run(tmp_path / "out", bare, "--minutes", "25", limit=1600)
    assert code == 0, said
    rows = {name: part["rows"] for name, part in results["parts"].items()}
    assert {row["side"] for row in rows["steps"]} == {"textbook", "oneshot", "checkpointing"}
    table, checked = rows["latency"]
    assert table["reference_ms"] > 0 and checked["verified"] == 10
    assert len({row["space"] for row in rows["correct"]}) == 16
    assert ("mlp", "compiled") in {(row["space"], row["check"]) for row in rows["correct"]}


def test_a_part_that_fails_is_told(tmp_path: Path, bare: dict[str, str]) -> None:
    (tmp_path / "missing/torchmetrics.py").write_text("raise ModuleNotFoundError('gone')\n")  # Lightning needs it
    code, results, _ = run(tmp_path / "out", bare, "--parts", "search")
    assert code == 1 and results["parts"]["search"]["ended"] == "failed, exit status 1"
    assert "## Not as it must be\n\n- search: " in (tmp_path / "out/results.md").read_text(encoding="utf-8")


def test_of_a_part_that_takes_too_long_the_results_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import run as script

    slow = tmp_path / "slow.py"
    slow.write_text(
        "import pathlib, sys, time\n"
        "(pathlib.Path(sys.argv[4]) / 'correct.jsonl').write_text('{\"space\": \"mlp\"}\\n')\n"
        "time.sleep(100)\n"
    )
    monkeypatch.setattr(script, "__file__", str(slow))
    (tmp_path / "search_step.json").write_text("of an earlier run")
    args = argparse.Namespace(out=tmp_path, device="cpu", small=True, data=None, spaces=None)
    told = script.run_part("correct", args, 3.0)
    assert told["ended"] == "stopped after 3 s" and told["rows"] == [{"space": "mlp"}]
    assert script.run_part("steps", args, 0.1)["rows"] == [] and not (tmp_path / "search_step.json").exists()


def test_a_wrong_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import run as script

    found: list[dict[str, Any]] = []
    expected = script.gradients("mlp", "cpu")
    script.compare(lambda **row: found.append(row), "mlp", "float64", lambda: expected * (1 + 1e-6), lambda: expected)
    script.compare(lambda **row: found.append(row), "mlp", "float64", lambda: expected, lambda: expected)
    script.compare(lambda **row: found.append(row), "mlp", "graph", lambda: expected[1:], lambda: expected)
    assert [row.get("passed") for row in found] == [False, True, None] and "RuntimeError" in found[2]["failure"]
    told = {"parts": {"correct": {"ended": "finished", "rows": found}}}
    assert len(script.failed(told)) == 2


def test_without_a_gpu_it_says_how_to_try(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, SCRIPT.with_suffix(".py"), "--out", tmp_path], capture_output=True, text=True
    )
    assert (
        done.returncode == 2 and "a CUDA device must be there" in done.stderr and "--device cpu --small" in done.stderr
    )
