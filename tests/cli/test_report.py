"""What commands leave for the pages of their runs; the pages themselves are in tests/report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from oneshot.cli.main import main
from oneshot.supernets import NASBench201Network

ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
NAMES = {"report.html", "commands.json", "network.json", "evaluation.json"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A retraining on photos of cats, which are dark, and dogs, of which one is as dark as a cat."""
    folder = tmp_path_factory.mktemp("project")
    rng = np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 5)):
        for name, light in (("cat", 0), ("dog", 200)):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                dark = part == "test" and name == "dog" and number == 3
                pixels = rng.integers(0, 56, (8, 8, 3), dtype=np.uint8) + np.uint8(0 if dark else light)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    images = {"root": str(folder), "batch_size": 4, "flip": False, "crop_padding": 0, "val_fraction": 0.25}
    config = {
        "model": {"lr": 0.05, "drop_path": 0.0, "network": {"init_args": {"channels": 4, "cells_per_stage": 1}}},
        "data": {"class_path": "oneshot.data.ImageFolder", "init_args": images},
        "trainer": {"max_epochs": 3, "log_every_n_steps": 1},
    }
    (folder / "retrain.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", str(folder / "retrain.yaml"), *QUIET, "--out", str(folder / "run")]
    assert main(["retrain", ARCH, *options]) == 0
    return folder / "run"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_retraining_keeps_what_its_page_shows(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= NAMES
    found, results, confusion = (read(run / f"{name}.json") for name in ("evaluation", "results", "confusion"))
    assert found["metrics"] == results and {n: found[n] for n in confusion} == confusion
    assert found["samples"] == 10 and found["independent"] and not found["part"]
    wrong = 10 - sum(row[i] for i, row in enumerate(found["confusion"]))
    assert len(found["mistakes"]) == wrong >= 1
    assert "dog/3.png" in [mistake["file"] for mistake in found["mistakes"]]
    for mistake in found["mistakes"]:
        assert mistake["file"].startswith(f"{mistake['true']}/") and mistake["picture"].startswith("data:image/png")
    assert read(run / "commands.json")[-1]["command"].startswith("oneshot retrain '|nor_conv_3x3~0|+|")
    counts = read(run / "data.json")
    assert counts["samples"] == {"train": 24, "val": 8, "test": 10} and counts["class_counts"] == [12, 12]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "dog/3.png" in page and "The run goes on" not in page and "95 %, Wilson" in page


def test_layers_are_those_of_the_network_and_add_up_to_it(run: Path) -> None:
    found = read(run / "network.json")
    network = NASBench201Network(ARCH, channels=4, cells_per_stage=1, num_classes=2, in_channels=3, image_size=8)
    assert found["params"] == sum(p.numel() for p in network.parameters())
    assert sum(layer["params"] for layer in found["layers"]) == found["params"]
    assert sum(layer["macs"] or 0 for layer in found["layers"]) == found["macs"] > 0
    outputs = [layer["output"] for layer in found["layers"]]
    assert outputs[0] == [4, 8, 8] and outputs[-1] == [2]  # in the order in which they run
    assert [graph["name"] for graph in found["graphs"]] == [graph.name for graph in network.graphs()]


def test_evaluate_puts_its_test_on_the_page_only_if_asked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    for name in NAMES:
        (again / name).unlink()
    before = {path.name for path in again.iterdir()}
    assert main(["evaluate", str(again), "--trainer.enable_progress_bar=false"]) == 0
    assert {path.name for path in again.iterdir()} == before
    assert main(["evaluate", str(again), "--report", "--trainer.enable_progress_bar=false"]) == 0
    assert {path.name for path in again.iterdir()} == before | {"report.html", "evaluation.json"}
    assert read(again / "evaluation.json") == read(run / "evaluation.json")
    assert f"Report: {again}/report.html" in capsys.readouterr().out


def test_report_writes_the_page_of_a_run_of_an_earlier_release(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    for name in NAMES:
        (again / name).unlink()
    facts = read(again / "data.json")
    del facts["samples"], facts["class_counts"]
    (again / "data.json").write_text(json.dumps(facts))
    assert main(["report", str(again)]) == 0
    assert f"Report: {again}/report.html" in capsys.readouterr().out
    page = (again / "report.html").read_text(encoding="utf-8")
    assert "95 %, Wilson" in page and "Confusion matrix" in page and "Learning curves" in page
    assert main(["report", str(again), "--out", str(tmp_path / "pages/one.html")]) == 0
    assert "Confusion matrix" in (tmp_path / "pages/one.html").read_text(encoding="utf-8")
    assert "Worst mistakes" not in page and "The commands that made it were not recorded." in page


def test_a_page_that_cannot_be_written_does_not_end_a_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> str:
        raise ZeroDivisionError("no page")

    monkeypatch.setattr("oneshot.report.page.report_page", broken)
    config = str(run.parent / "retrain.yaml")
    out = tmp_path / "run"
    with pytest.warns(UserWarning, match="The report of .* cannot be written: ZeroDivisionError: no page"):
        assert main(["retrain", ARCH, "--config", config, *QUIET, "--out", str(out), "--trainer.max_epochs=1"]) == 0
    assert (out / "results.json").is_file() and not (out / "report.html").exists()
