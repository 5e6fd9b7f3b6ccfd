from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from rich.console import Console

import oneshot
from oneshot.cli.quickstart import quickstart
from oneshot.data import Digits

SMALL = {"search_epochs": 2, "retrain_epochs": 1, "random_networks": 2}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder, console = tmp_path_factory.mktemp("runs") / "quickstart", Console(file=io.StringIO(), width=120)
    quickstart(folder, console=console, **SMALL)
    return folder, console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO above


def test_it_leaves_pictures_an_architecture_and_a_network(result: tuple[Path, str]) -> None:
    folder, _ = result
    for name in ("cells.png", "alphas.png", "curves.png", "subnet.json", "results.json", "export/model.onnx"):
        assert (folder / name).stat().st_size > 0


def test_what_it_prints_is_what_it_measured(result: tuple[Path, str]) -> None:
    folder, text = result
    report = json.loads((folder / "results.json").read_text())
    assert f"{100 * report['found']['accuracy']:.2f}" in text
    accuracies = np.array([network["accuracy"] for network in report["random"]])
    assert f"{100 * accuracies.mean():.2f} ± {100 * accuracies.std(ddof=1):.2f}" in text
    assert report["found"]["arch"] in text.replace("\n", "")
    assert report["found"]["arch"] not in [network["arch"] for network in report["random"]]


def test_its_network_gives_the_same_outputs_from_all_three_files(result: tuple[Path, str]) -> None:
    export = result[0] / "export"
    x, y = next(iter(Digits(batch_size=359).test_dataloader()))
    with torch.no_grad():
        ours = oneshot.load(export)(x)
        program = torch.export.load(export / "model.pt2").module()(x)
    (onnx,) = onnxruntime.InferenceSession(export / "model.onnx").run(None, {"images": x.numpy()})
    torch.testing.assert_close(program, ours, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(onnx), ours, rtol=0, atol=1e-5)
    accuracy = (ours.argmax(1) == y).double().mean().item()
    report = json.loads((result[0] / "results.json").read_text())
    assert accuracy == pytest.approx(report["found"]["accuracy"], abs=1e-6)


def test_an_existing_folder_is_kept_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="--overwrite"):
        quickstart(tmp_path, **SMALL)
    with pytest.raises(FileExistsError, match="replaces earlier runs only"):
        quickstart(tmp_path, overwrite=True, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
