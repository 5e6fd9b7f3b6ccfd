"""All commands on a folder as people have them, and the exported files run by numpy, Pillow and ONNX Runtime alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import oneshot
from oneshot.cli.main import main
from oneshot.data import ImageFolder

from .reference.manifest import logits
from .reference.messy import CLASSES, make_messy_folder

pytestmark = pytest.mark.slow
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "log_every_n_steps": 1}


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, int]]:
    root = tmp_path_factory.mktemp("messy") / "My Photos ü"
    return root, make_messy_folder(root)


def images(root: Path, **options: Any) -> dict[str, Any]:
    arguments = {"root": str(root), "image_size": 16, "batch_size": 16, "unreadable": "skip", **options}
    return {"class_path": "oneshot.data.ImageFolder", "init_args": arguments}


def written(path: Path, **parts: Any) -> str:
    path.write_text(yaml.safe_dump({"seed_everything": 0, **parts}, allow_unicode=True), encoding="utf-8")
    return str(path)


def run(*words: str | Path) -> None:
    assert main([str(word) for word in words]) == 0


def check(export: Path, root: Path, good: dict[Path, int], **options: Any) -> float:
    """Every test image is taken for the same class by the files alone as here; return how many are right, a share."""
    data = ImageFolder(root, image_size=16, batch_size=16, unreadable="skip", **options)
    data.setup("test")
    network = oneshot.load(export)
    ours = []
    with torch.no_grad():
        for x, _ in data.test_dataloader():
            size = network.input_shape[-1]
            if x.shape[-1] != size:
                x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
            ours.append(network(x).numpy())
    paths = data._files["test"][0]
    alone = logits(export, paths)
    assert set(paths) == set(good) and len(alone) == len(good) == sum(map(len, ours))
    np.testing.assert_allclose(alone, np.concatenate(ours), rtol=0, atol=1e-3)
    np.testing.assert_array_equal(alone.argmax(1), np.concatenate(ours).argmax(1))
    return float(np.mean(alone.argmax(1) == [good[path] for path in paths]))


def shown(output: str, metric: str) -> float:
    found = re.search(rf"{metric}\W+([0-9.]+)", output)
    assert found, output
    return float(found[1])


def test_broken_files_are_named_before_anything_is_trained(
    messy: tuple[Path, dict[Path, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"class_path": "oneshot.data.SearchDataModule", "init_args": {"data": images(messy[0], unreadable="refuse")}}
    model = {
        "class_path": "oneshot.DARTS",
        "init_args": {"supernet": {"class_path": "oneshot.supernets.DARTSSupernet"}},
    }
    config = written(tmp_path / "search.yaml", model=model, data=data, trainer={**QUIET, "max_epochs": 1})
    assert main(["search", "--config", config, "--out", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    for name in ("truncated.jpg", "empty.png", "page.jpg"):
        assert name in said, said
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.filterwarnings("ignore:.*left out.*")
def test_search_retrain_evaluate_export(
    messy: tuple[Path, dict[Path, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, good = messy
    supernet = {
        "class_path": "oneshot.supernets.NASBench201Supernet",
        "init_args": {"channels": 4, "cells_per_stage": 1},
    }
    search = written(
        tmp_path / "search.yaml",
        model={"class_path": "oneshot.DARTS", "init_args": {"supernet": supernet}},
        data={"class_path": "oneshot.data.SearchDataModule", "init_args": {"data": images(root)}},
        trainer={**QUIET, "max_epochs": 1},
    )
    run("search", "--config", search, "--out", tmp_path / "search")
    retrain = written(
        tmp_path / "retrain.yaml",
        model={"lr": 0.1, "auxiliary_weight": 0.0, "drop_path": 0.0},
        data=images(root, val_fraction=0.2, flip=False),
        trainer={**QUIET, "max_epochs": 4},
    )
    run("retrain", tmp_path / "search", "--config", retrain, "--out", tmp_path / "retrain")
    capsys.readouterr()
    run("evaluate", tmp_path / "retrain")
    accuracy = shown(capsys.readouterr().out, "test/accuracy")
    run("export", tmp_path / "retrain", "--out", tmp_path / "export")
    share = check(tmp_path / "export", root, good, val_fraction=0.2)
    assert share == pytest.approx(accuracy, abs=1e-4) and share > 1 / len(CLASSES)

    run("evaluate", tmp_path / "export", "--config", retrain)
    assert shown(capsys.readouterr().out, "test/accuracy") == pytest.approx(share, abs=1e-4)
    run("export", tmp_path / "retrain", "--out", tmp_path / "whole", "--with-preprocessing")
    whole, alone = (logits(tmp_path / name, list(good)) for name in ("whole", "export"))
    assert np.mean(whole.argmax(1) == alone.argmax(1)) > 0.9  # two passes of resizing are rounded in another order


@pytest.mark.filterwarnings("ignore:.*left out.*")
def test_pareto_and_pick(messy: tuple[Path, dict[Path, int]], tmp_path: Path) -> None:
    root, good = messy
    sizes: dict[str, Any] = {"widths": [0.25], "depths": [1, 2], "kernels": [3, 5], "expansions": [2, 3]}
    supernet = {
        "class_path": "oneshot.supernets.MobileNetV3Supernet",
        "init_args": {"stem": "cifar", "resolutions": [8, 12, 16], **sizes},
    }
    epochs = {"warmup_epochs": 2, "iterations": 1, "adapt_epochs": 1}
    search = {"initial": 10, "batch": 4, "population": 10, "generations": 4, "calibration_images": 32}
    config = written(
        tmp_path / "pareto.yaml",
        model={
            "class_path": "oneshot.NAT",
            "init_args": {"supernet": supernet, "weight_lr": 0.05, **epochs, **search},
        },
        data=images(root, val_fraction=0.3),
        trainer={**QUIET, "max_epochs": 3, "limit_val_batches": 0},
    )
    run("pareto", "--config", config, "--out", tmp_path / "run")
    resolutions = set()
    for name, wish in (("cheap", ["--max-error", "1.0"]), ("good", ["--macs", "1e12"])):
        run("pick", tmp_path / "run", *wish, "--finetune", "2", "--lr", "0.05", "--out", tmp_path / name)
        check(tmp_path / name, root, good, val_fraction=0.3)
        resolutions.add(oneshot.load(tmp_path / name).input_shape[-1])
    assert min(resolutions) < 16, "a second resizing is part of the test"


@pytest.mark.filterwarnings("ignore:.*left out.*")
def test_discrete_and_pick(messy: tuple[Path, dict[Path, int]], tmp_path: Path) -> None:
    root, good = messy
    strategy = {"start": [[4, 8]], "children": 4, "accepted": 2, "seed": 0}
    config = tmp_path / "discrete.yaml"
    parts = {
        "strategy": {"class_path": "oneshot.discrete.LEMONADE", "init_args": strategy},
        "evaluator": {
            "class_path": "oneshot.discrete.TrainingEvaluator",
            "init_args": {"data": images(root, val_fraction=0.3), "epochs": 2, "trainer": {"accelerator": "cpu"}},
        },
        "objectives": ["min error", "min params"],
        "evaluations": 4,
    }
    config.write_text(yaml.safe_dump(parts, allow_unicode=True), encoding="utf-8")
    run("discrete", "--config", config, "--out", tmp_path / "study")
    run("pick", tmp_path / "study", "--params", "1e9", "--out", tmp_path / "picked")
    check(tmp_path / "picked", root, good, val_fraction=0.3)
