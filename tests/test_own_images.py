"""From a folder of images as people have them to predictions by numpy, Pillow and onnxruntime alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from oneshot.cli.main import main
from oneshot.data import ImageFolder
from oneshot.deploy.export import load
from oneshot.evaluation.images import fitted
from tests.messy import messy
from tests.reference.manifest import logits

QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return messy(tmp_path_factory.mktemp("data") / "my images")


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> float:
    """The accuracy that ``oneshot evaluate`` prints."""
    capsys.readouterr()
    assert main(["evaluate", *arguments]) == 0
    out = capsys.readouterr().out
    assert "not prepared as" not in out
    found = re.search(r"test/accuracy[^0-9]*([0-9.]+)", out)
    assert found, out
    return float(found[1])


def check(export: Path, data: ImageFolder, accuracy: float, *, tolerance: float) -> None:
    """The file, run from the manifest alone, gives what the network gives for the images of the data module."""
    network, paths = load(export), data._files["test"][0]
    with torch.no_grad():
        ours = torch.cat([network(fitted(network, x)) for x, _ in data.test_dataloader()]).numpy()
    theirs = logits(export, paths)
    labels = np.array(data._files["test"][1])
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=tolerance * max(1.0, abs(ours).max()))
    np.testing.assert_array_equal(theirs.argmax(1), ours.argmax(1))
    assert len(paths) == len(labels) == 15
    assert (theirs.argmax(1) == labels).mean() == pytest.approx(accuracy, abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_retrained_network_is_reproduced_from_its_manifest(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"class_path": "oneshot.data.ImageFolder", "init_args": {"root": str(images), "batch_size": 15}}
    sizes = {"channels": 4, "cells_per_stage": 1, "num_classes": 3}
    options = [f"--model.network.init_args.{name}={value}" for name, value in sizes.items()]
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": data}))
    given, run = ["--config", str(tmp_path / "data.yaml")], tmp_path / "run"
    steps = ["--model.lr=0.1", "--trainer.max_epochs=4", "--trainer.limit_val_batches=0"]
    assert main(["retrain", ARCH, *given, *options, *steps, *QUIET, "--out", str(run)]) == 0
    accuracy = evaluated(capsys, str(run), "--trainer.enable_progress_bar=false")
    folder = ImageFolder(images, batch_size=15)
    for extra, tolerance in (([], 1e-5), (["--with-preprocessing"], 0.03)):
        export = tmp_path / f"export{len(extra)}"
        assert main(["export", str(run), "--formats", "onnx", *extra, "--out", str(export)]) == 0
        check(export, folder, accuracy, tolerance=tolerance)
        assert evaluated(capsys, str(export), *given, "--trainer.accelerator=cpu") == pytest.approx(accuracy)
    changed = ["--data.init_args.mean=[0.1,0.2,0.3]", "--data.init_args.std=[0.5,0.5,0.5]"]
    assert main(["evaluate", str(export), *given, *changed]) == 0
    assert "these images were not prepared as those the network was trained on: mean was" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.nightly
def test_a_network_picked_from_a_front_is_reproduced_from_its_manifest(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = {"root": str(images), "batch_size": 15, "val_fraction": 0.34}
    supernet: dict[str, Any] = {
        "stem": "cifar",
        "resolutions": [16, 24],
        "widths": [0.25],
        "depths": [1],
        "kernels": [3],
    }
    supernet |= {"expansions": [2, 3]}
    method: dict[str, Any] = {"objectives": ["macs"], "warmup_epochs": 1, "iterations": 1, "adapt_epochs": 1}
    method |= {"initial": 8, "batch": 2, "population": 10, "generations": 3, "calibration_images": 16}
    method["supernet"] = {"class_path": "oneshot.supernets.MobileNetV3Supernet", "init_args": supernet}
    config = {
        "model": {"class_path": "oneshot.NAT", "init_args": method},
        "data": {"class_path": "oneshot.data.ImageFolder", "init_args": folder},
        "trainer": {"max_epochs": 2, "limit_val_batches": 0},
    }
    (tmp_path / "nat.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": config["data"]}))
    run, given = tmp_path / "run", ["--config", str(tmp_path / "data.yaml")]
    assert main(["pareto", "--config", str(tmp_path / "nat.yaml"), *QUIET, "--out", str(run)]) == 0
    data = ImageFolder(**folder)
    for extra, tolerance in (([], 1e-4), (["--with-preprocessing"], 0.03)):
        export = tmp_path / f"picked{len(extra)}"
        command = ["pick", str(run), "--knee", "--formats", "onnx", *extra, "--out", str(export)]
        assert main(command) == 0
        said = json.loads((export / "manifest.json").read_text())
        (height, width), resolution = said["preprocessing"]["image_size"], said["input_shape"][-1]
        assert height == width == data.input_shape[1] > resolution
        assert said["preprocessing"]["then_resize"]["size"] == [resolution, resolution]
        accuracy = evaluated(capsys, str(export), *given, "--trainer.accelerator=cpu")
        check(export, data, accuracy, tolerance=tolerance)
