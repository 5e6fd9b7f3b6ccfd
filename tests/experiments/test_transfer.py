"""The experiment on transfer, in small, with random weights in place of those of ImageNet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from tests.processes import run_python

FOLDER = Path(__file__).parents[2] / "experiments/transfer"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    file = tmp_path / "lite0.pth"
    torch.save(
        {f"layer.{i}": w for i, w in enumerate(timm.create_model("tf_efficientnet_lite0").state_dict().values())}, file
    )
    return file


def run(script: str, *options: object) -> str:
    done = run_python(FOLDER / script, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return found


def small(tmp_path: Path, weights: Path) -> list[object]:
    return [
        *("--data", "digits", "--size", 32, "--limit", 120, "--test-limit", 60, "--epochs", 2, "--threads", 1),
        *("--weights", weights, "--results", tmp_path / "results.json"),
    ]


@pytest.mark.nightly
def test_the_original_is_transferred_once(tmp_path: Path, weights: Path) -> None:
    said = run("baseline.py", *small(tmp_path, weights), "--sides", "probe", "original", "plain")
    found = rows(tmp_path / "results.json")
    assert [row["side"] for row in found] == ["probe", "original", "plain"]
    assert all(0 <= row["accuracy"] <= 1 and row["images"] == 102 and row["test_images"] == 60 for row in found)
    assert "digits 32 px seed 0: original" in said
    run("baseline.py", *small(tmp_path, weights), "--sides", "probe", "original", "plain")
    assert rows(tmp_path / "results.json") == found  # CPU seconds, too
    assert "| digits | probe |" in run(
        "table.py", "--results", tmp_path / "results.json", "--size", 32, "--out", tmp_path
    )


@pytest.mark.nightly
def test_variants_stand_beside_uniform_widths_and_random_weights(tmp_path: Path, weights: Path) -> None:
    epochs = ["--variant-epochs", 1, "--iterations", 1, "--archive", 12, "--candidates", 2]
    more = ["--runtime", "eager", "--latency-networks", 24, "--noise", 9, "--targets", 0.9, "--work", tmp_path / "work"]
    run("run.py", *small(tmp_path, weights), *epochs, *more)
    found = {row["side"]: row for row in rows(tmp_path / "results.json")}
    assert list(found) == ["original", "nat", "uniform", "scratch", "mobilenetv3"]
    assert all(row["ms"] > 0 for row in found.values()) and found["original"]["part"] == 1
    assert found["uniform"]["macs"] == found["scratch"]["macs"] < found["original"]["macs"]
    assert found["nat"]["epochs"] == found["scratch"]["epochs"] == 1
    accuracies = {side: row["accuracy"] for side, row in found.items()}
    run("run.py", *small(tmp_path, weights), *epochs, *more)  # only timed anew
    assert {row["side"]: row["accuracy"] for row in rows(tmp_path / "results.json")} == accuracies
    run("table.py", "--results", tmp_path / "results.json", "--size", 32, "--out", tmp_path)
    assert (tmp_path / "digits.png").stat().st_size > 5_000 and "| digits | nat | 0.9 |" in (
        tmp_path / "table.md"
    ).read_text()


def test_a_folder_without_the_files_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from images import TransferImages  # type: ignore[import-not-found]
    from original import weights_file  # type: ignore[import-not-found]

    with pytest.raises(ValueError, match=r"Fashion-MNIST must lie in .*; train-images.*--fashion FOLDER"):
        TransferImages("fashion", fashion=tmp_path).load("train")
    monkeypatch.setenv("ONESHOT_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"must have the file dtd10\.npz"):
        TransferImages("dtd10")
    with pytest.raises(ValueError, match="The data set must be one of flower_photos"):
        TransferImages("roses")
    with pytest.raises(ValueError, match="--weights must be a file"):
        weights_file(tmp_path / "none.pth")
