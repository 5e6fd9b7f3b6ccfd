"""Two processes that share every batch end with the alphas and weights of one; the command line runs on two."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.timeout(1200)  # the first test runs all jobs
ROOT = Path(__file__).parents[2]
ALONE = ("DARTS-1", "DARTS-2", "SNAS", "GDAS", "OLES")
SHARING = ("RandomSharing", "FairNAS", "BigNAS", "OnceForAll", "Converted")
BOTH = [*(f"search:{name}" for name in ALONE), *(f"sharing:{name}" for name in SHARING), "head:"]
TWO = [*BOTH, "sharing:ENAS", "nat:loader", "nat:stream"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process wrote, and two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    launch = ["-m", "tests.distributed.launch"]
    run(*launch, "1", str(one), *BOTH)
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--rdzv_backend=c10d"]
    run(*torchrun, "--rdzv_endpoint=localhost:0", *launch, "2", str(two), *TWO)
    return one, two


def results(folders: tuple[Path, Path], job: str) -> list[dict[str, Any]]:
    """Of one process, if the job runs in one, and of both of two."""
    one, two = folders
    paths = [*([one / f"{job}.0"] if job in BOTH else []), two / f"{job}.0", two / f"{job}.1"]
    return [torch.load(path) for path in paths]


@pytest.mark.slow
@pytest.mark.parametrize("method", ALONE)
def test_two_processes_equal_one(
    method: str, folders: tuple[Path, Path], record_property: Callable[[str, object], None]
) -> None:
    one, first, second = results(folders, f"search:{method}")
    for name in ("alphas", "weights"):
        for a, b, c in zip(one[name], first[name], second[name], strict=True):
            assert torch.equal(b, c)
            torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)
            record_property("largest_difference", (b - a).abs().max().item() if a.numel() else 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("method", SHARING)
def test_two_processes_train_the_same_paths_and_agree_on_the_ranking(
    method: str, folders: tuple[Path, Path], record_property: Callable[[str, object], None]
) -> None:
    one, first, second = results(folders, f"sharing:{method}")
    for a, b, c in zip(one["weights"], first["weights"], second["weights"], strict=True):
        assert torch.equal(b, c)
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)
        record_property("largest_difference", (b - a).abs().max().item() if a.numel() else 0.0)
    assert first["ranking"] == second["ranking"] and len(first["ranking"]) == 3


@pytest.mark.slow
def test_two_processes_of_enas_have_one_controller(folders: tuple[Path, Path]) -> None:
    """Not that of one process: rewards are measured in the statistics of batches, which are smaller for two."""
    first, second = results(folders, "sharing:ENAS")
    assert len(first["controller"]) > 5
    for name in ("weights", "controller"):
        assert all(torch.equal(a, b) for a, b in zip(first[name], second[name], strict=True))
    assert first["ranking"] == second["ranking"] and len(first["ranking"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["loader", "stream"])
def test_two_processes_of_nat_share_the_evaluations_and_agree_on_the_archive(
    loader: str, folders: tuple[Path, Path]
) -> None:
    first, second = results(folders, f"nat:{loader}")
    assert len(first["images"][2]) == (16 if loader == "loader" else 12)
    assert all(torch.equal(a, b) for a, b in zip(first["images"], second["images"], strict=True))
    for name in ("genes", "values"):
        assert torch.equal(first[name], second[name])
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
    measured = [first["lines"][f"evaluations.{rank}.jsonl"] for rank in (0, 1)]
    assert len(first["genes"]) == 18  # 12, and 3 in each of two searches
    assert sum(measured) == 12 + 3 + 15 + 3 + 18 and abs(measured[0] - measured[1]) <= 5


@pytest.mark.slow
def test_the_command_line_runs_two_processes_and_writes_one_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {
        "config": ROOT / "experiments/digits/search.yaml",
        "out": out,
        "trainer.accelerator": "cpu",
        "trainer.devices": 2,
        "trainer.strategy": "ddp",
        "trainer.max_epochs": 2,
        "model.init_args.supernet.init_args.channels": 4,
        "data.init_args.batch_size": 128,
    }
    result = run("-m", "oneshot", "search", *(f"--{name}={value}" for name, value in options.items()))
    assert "sync_dist" not in result.stderr
    assert {"config.yaml", "metrics.csv", "subnet.json", "cells.png", "checkpoints"} <= {p.name for p in out.iterdir()}
    lines = (out / "metrics.csv").read_text().splitlines()
    assert len(lines) == len(set(lines))


@pytest.mark.slow
def test_two_processes_begin_with_the_head_of_one(folders: tuple[Path, Path]) -> None:
    one, first, second = results(folders, "head:")
    assert one["head"][0].abs().max() > 0.1
    for a, b, c in zip(one["head"], first["head"], second["head"], strict=True):
        assert torch.equal(a, b) and torch.equal(b, c)
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
