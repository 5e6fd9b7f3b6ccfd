"""Commands on data of other kinds: transforms in YAML, tables, series."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from oneshot.cli.main import main
from oneshot.cli.run import RunFolder
from oneshot.data import TableData
from tests.data.test_arrays import CSV
from tests.data.test_transforms import wide_images

V2 = "torchvision.transforms.v2"
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}


def part(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def config(folder: Path, supernet: dict[str, Any], data: dict[str, Any]) -> Path:
    path = folder / "search.yaml"
    model = {"class_path": "oneshot.RandomSharing", "init_args": {"supernet": supernet}}
    streams = {"class_path": "oneshot.data.SearchDataModule", "init_args": {"data": data, "batch_size": 4}}
    trainer = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, **QUIET}
    path.write_text(yaml.safe_dump({"seed_everything": 0, "model": model, "data": streams, "trainer": trainer}))
    return path


def searched(folder: Path, path: Path) -> RunFolder:
    assert main(["search", "--config", str(path), "--out", str(folder / "run")]) == 0
    return RunFolder(folder / "run")


def test_transforms_are_given_in_yaml_and_the_network_takes_the_rectangle(tmp_path: Path) -> None:
    transforms = [
        {
            "class_path": "torchvision.transforms.v2.RandomResizedCrop",
            "init_args": {"size": [16, 48], "scale": [0.5, 1]},
        },
        {"class_path": "torchvision.transforms.v2.ColorJitter", "init_args": {"brightness": 0.3}},
    ]
    data = {
        "class_path": "oneshot.data.ImageFolder",
        "init_args": {
            "root": str(wide_images(tmp_path / "wide")),
            "image_size": [16, 48],
            "train_transforms": transforms,
        },
    }
    supernet = {
        "class_path": "oneshot.supernets.NASBench201Supernet",
        "init_args": {"channels": 4, "cells_per_stage": 1},
    }
    run = searched(tmp_path, config(tmp_path, supernet, data))
    assert run.module().supernet.input_shape == (3, 16, 48)  # type: ignore[union-attr]  # of a search
    read = run.datamodule().data  # type: ignore[attr-defined]  # of the streams
    assert [type(transform).__name__ for transform in read.augmentation.transforms] == [
        "RandomResizedCrop",
        "ColorJitter",
    ]
    assert (run.facts() or {})["input_shape"] == [3, 16, 48]


def test_a_wrong_transform_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transforms = [{"class_path": "torchvision.transforms.v2.RandomCrop", "init_args": {"size": [8, 8]}}]
    data = {
        "class_path": "oneshot.data.ImageFolder",
        "init_args": {
            "root": str(wide_images(tmp_path / "wide")),
            "image_size": [16, 48],
            "train_transforms": transforms,
        },
    }
    path = config(tmp_path, {"class_path": "oneshot.supernets.NASBench201Supernet"}, data)
    assert main(["search", "--config", str(path), "--out", str(tmp_path / "run")]) != 0
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "subclass" not in said
    assert "train_transforms must give an image" in said and "RandomCrop, gave torch.uint8 [3, 8, 8]" in said


def test_a_table_and_series_are_searched_from_their_files(tmp_path: Path) -> None:
    (tmp_path / "houses.csv").write_text(CSV + "".join(f"{40 + i},Bonn,{1 + i % 4},{1 + i / 10}\n" for i in range(30)))
    table = part("oneshot.data.TableData", x=str(tmp_path / "houses.csv"), target="town")
    mlp = part("oneshot.supernets.MLPSupernet", width=8, layers=2)
    run = searched(tmp_path / "table", config(tmp_path, mlp, table))
    supernet: Any = run.module().supernet  # type: ignore[union-attr]  # of a search
    assert (supernet.input_shape, supernet.num_classes) == ((3,), 3)
    facts = run.facts() or {}
    assert facts["classes"] == ["Bonn", "Kiel", "Ulm"] and [c["name"] for c in facts["preprocessing"]["columns"]] == [
        "size",
        "rooms",
        "price",
    ]
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "gestures.npz", x=rng.normal(size=(40, 3, 20)), y=np.array(["a", "b"] * 20))
    series = {
        "class_path": "oneshot.data.TimeSeries",
        "init_args": {"x": str(tmp_path / "gestures.npz"), "jitter": 0.1},
    }
    net = {"class_path": "oneshot.supernets.SeriesSupernet", "init_args": {"channels": 4, "stages": 1}}
    run = searched(tmp_path / "series", config(tmp_path, net, series))
    assert run.module().supernet.input_shape == (3, 20)  # type: ignore[union-attr]  # of a search


def test_a_number_is_predicted_from_a_table_and_exported_with_its_units(tmp_path: Path) -> None:
    houses = tmp_path / "houses.csv"
    houses.write_text(CSV + "".join(f"{40 + i},Bonn,{1 + i % 4},{1 + i / 10}\n" for i in range(30)))
    table = part("oneshot.data.TableData", x=str(houses), target="price")
    mlp = part("oneshot.supernets.MLPSupernet", width=8, layers=2)
    run = searched(tmp_path, config(tmp_path, mlp, table))
    assert run.module().task.name == "regression"
    own = [
        "--data",
        "oneshot.data.TableData",
        "--data.x",
        str(houses),
        "--data.target",
        "price",
        "--data.batch_size",
        "8",
    ]
    cpu = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]
    cpu += ["--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    again = tmp_path / "again"
    assert main(["retrain", str(run.folder), "--out", str(again), *own, *cpu]) == 0
    assert {"test/r2", "test/mae"} <= set(RunFolder(again).results() or {})
    assert (
        main(["export", str(again), "--out", str(tmp_path / "export"), "--formats", "torch_export", "--no-measure"])
        == 0
    )
    manifest = json.loads((tmp_path / "export/manifest.json").read_text())
    data = TableData.from_csv(houses, target="price")
    assert manifest["task"]["init_args"] == {"mean": list(data.task.mean), "std": list(data.task.std)}
    assert manifest["preprocessing"] == json.loads(json.dumps(data.preprocessing))


def test_a_relative_file_is_found_again_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    rng = np.random.default_rng(0)
    np.savez("gestures.npz", x=rng.normal(size=(40, 3, 20)), y=np.array(["a", "b"] * 20))
    series = part("oneshot.data.TimeSeries", x="gestures.npz")
    net = part("oneshot.supernets.SeriesSupernet", channels=4, stages=1)
    searched(tmp_path, config(tmp_path, net, series))
    monkeypatch.chdir(tmp_path)
    assert RunFolder(tmp_path / "run").datamodule().data.input_shape == (3, 20)  # type: ignore[attr-defined]  # of the streams
