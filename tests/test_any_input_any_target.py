"""Inputs of any shape, targets of any kind, and every kind of search: from the search to the loaded export."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import oneshot
from oneshot.deploy.export import export_subnet
from oneshot.deploy.manifest import read_manifest
from oneshot.discrete import RandomSearch, Study, TrainingEvaluator
from oneshot.inputs import Inputs, length, mapped
from oneshot.supernets import (
    MLPSupernet,
    NASBench201Supernet,
    SeriesSupernet,
    TextSupernet,
    VolumeSupernet,
)
from oneshot.supernets.base import Subnet, Supernet
from oneshot.supernets.space import Choice, SearchSpace, SubnetConfig
from oneshot.tasks import Classification, MultiLabel, Regression, Task
from oneshot.training.retrain import Retrain

WORDS = 11
SMALL: dict[str, Any] = {"channels": 4, "layers_per_stage": 1, "stages": 2}
CELLS: dict[str, Any] = {"channels": 4, "cells_per_stage": 1}


class TwoInputs(Subnet):
    """A series and a row of a table, one network for both: a plain space that knows nothing of images."""

    vocabularies: Mapping[str, int] = {}

    def __init__(self, width: int, activation: str, num_classes: int) -> None:
        super().__init__()
        self.init_args = {"width": width, "activation": activation, "num_classes": num_classes}
        self.input_shape, self.num_classes = {"series": (2, 8), "row": (3,)}, num_classes
        self.series, self.row = nn.Conv1d(2, width, 3), nn.Linear(3, width)
        self.act = getattr(nn, activation)()
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.head(self.act(self.series(x["series"]).mean(2) + self.row(x["row"])))
        return logits

    def graphs(self) -> list[Any]:
        return []


class TwoInputsSupernet(Supernet):
    """Networks of one width and three activations, which share their weights."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.space = SearchSpace(
            "two_inputs", [Choice("activation", ("ReLU", "SiLU", "Tanh", "ELU", "GELU", "Mish", "CELU", "SELU"))]
        )
        self.shared = TwoInputs(6, "ReLU", num_classes)
        self.input_shape, self.num_classes = self.shared.input_shape, num_classes

    def forward(self, x: Mapping[str, Tensor], arch: SubnetConfig) -> Tensor:
        self.shared.act = getattr(nn, str(arch["activation"][0]))()
        logits: Tensor = self.shared(x)
        return logits

    def run_config(self, x: Mapping[str, Tensor], config: SubnetConfig) -> Tensor:
        self.space.validate(config)
        return self(x, config)

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> TwoInputs:
        network = TwoInputs(6, str(config["activation"][0]), self.num_classes)
        if inherit:
            network.load_state_dict(self.shared.state_dict())
        return self.prepare(network, config)


INPUTS: dict[str, Callable[[int], Supernet]] = {
    "square": lambda outputs: NASBench201Supernet(**CELLS, image_size=8, num_classes=outputs),
    "16x48": lambda outputs: NASBench201Supernet(**CELLS, image_size=(16, 48), num_classes=outputs),
    "1-D": lambda outputs: SeriesSupernet(**SMALL, in_channels=2, length=13, num_classes=outputs),
    "3-D": lambda outputs: VolumeSupernet(**SMALL, volume_size=(5, 9, 6), num_classes=outputs),
    "table": lambda outputs: MLPSupernet(width=8, layers=2, features=5, num_classes=outputs),
    "tokens": lambda outputs: TextSupernet(**SMALL, vocabulary=WORDS, length=7, num_classes=outputs),
    "two inputs": TwoInputsSupernet,
}
TARGETS: dict[str, tuple[Task, int]] = {
    "classification": (Classification("balanced_accuracy"), 3),
    "multi-label": (MultiLabel("f1"), 4),
    "regression": (Regression("huber", "mae", mean=[10.0], std=[2.0]), 1),
}
FEW: dict[str, Any] = {"candidates": 3, "finalists": 2}
SHORT: dict[str, Any] = {"warmup_epochs": 1, "iterations": 1, "adapt_epochs": 1, "objectives": ("params",)}
SEARCHES: dict[str, Callable[..., Any]] = {
    "DARTS": oneshot.DARTS,
    "GDAS": oneshot.GDAS,
    "RandomSharing": lambda supernet, **task: oneshot.RandomSharing(supernet, **FEW, **task),
    "BigNAS": lambda supernet, **task: oneshot.BigNAS(supernet, **FEW, **task),
    "NAT": lambda supernet, **task: oneshot.NAT(
        supernet, **SHORT, initial=6, batch=1, population=4, generations=1, **task
    ),
}


class Samples(Dataset[Any]):
    """Inputs whose mean says what the target is."""

    def __init__(self, shape: Any, words: int | None, task: Task, outputs: int, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        level = torch.rand(count, generator=generator)

        def part(sides: tuple[int, ...]) -> Tensor:
            if words is not None:
                noise = torch.randint(0, 3, (count, *sides), generator=generator)
                return (level.view(-1, *[1] * len(sides)) * (words - 3)).long() + noise
            return torch.randn(count, *sides, generator=generator) + 3 * level.view(-1, *[1] * len(sides))

        self.x: Inputs = {name: part(s) for name, s in shape.items()} if isinstance(shape, Mapping) else part(shape)
        if isinstance(task, Regression):
            self.y = 10 + 4 * (level - 0.5)
        elif isinstance(task, MultiLabel):
            self.y = (level[:, None] > torch.linspace(0.2, 0.8, outputs)).long()
        else:
            self.y = (level * outputs).long()

    def __len__(self) -> int:
        return length(self.x)

    def __getitem__(self, index: int) -> Any:
        return mapped(lambda part: part[index], self.x), self.y[index]


class Data(pl.LightningDataModule):
    """Batches for a supernet and a task; declares the task."""

    def __init__(self, supernet: Supernet, task: Task, *, two_streams: bool = False) -> None:
        super().__init__()
        self.task, self.num_classes, self.input_shape = task, supernet.num_classes, supernet.input_shape
        self.words = WORDS if isinstance(supernet, TextSupernet) else None
        self.two_streams = two_streams

    def loader(self, count: int, seed: int) -> DataLoader[Any]:
        samples = Samples(self.input_shape, self.words, self.task, self.num_classes, count, seed)
        return DataLoader(samples, 8)

    def train_dataloader(self) -> Any:
        streams = {"weights": self.loader(24, 1), "arch": self.loader(16, 2)}
        return streams if self.two_streams else streams["weights"]

    def val_dataloader(self) -> Any:
        return self.loader(16, 3)

    def test_dataloader(self) -> Any:
        return self.loader(16, 4)


def trainer(folder: Path, epochs: int = 1) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", enable_model_summary=False, default_root_dir=folder, **quiet
    )


def check_export(network: Subnet, task: Task, data: Data, folder: Path, formats: Any = ()) -> None:
    """The exported network gives the same predictions, and its files say what they are."""
    (x, y), *_ = data.val_dataloader()
    loaded = oneshot.load(export_subnet(network.eval(), folder, formats=formats), trust=(__name__,))
    with torch.no_grad():
        outputs = loaded(x)
        torch.testing.assert_close(outputs, network(x), rtol=1e-4, atol=1e-5)  # layouts in memory may differ
    assert loaded.task == task == network.task
    assert task.decode(outputs).shape[0] == len(y)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest["task"]["metric"] == task.metric_name and manifest["task"]["direction"] == task.direction
    assert manifest["num_classes"] == loaded.num_classes


def combinations() -> Iterator[Any]:
    """All of them at night; before, every pair of two of the three at least once."""
    for i, method in enumerate(SEARCHES):
        for j, given in enumerate(INPUTS):
            for k, target in enumerate(TARGETS):
                at_night = [] if (i + j + k) % len(TARGETS) == 0 else [pytest.mark.nightly]
                yield pytest.param(method, given, target, marks=at_night)


@pytest.mark.parametrize(("method", "given", "target"), [*combinations()])
def test_from_the_search_to_the_loaded_export(method: str, given: str, target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task, outputs = TARGETS[target]
    supernet = INPUTS[given](outputs)
    if given == "two inputs" and method in ("DARTS", "GDAS"):
        with pytest.raises(ValueError, match="needs an OperationSupernet"):
            SEARCHES[method](supernet, task=task)
        return
    data = Data(supernet, task, two_streams=method in ("DARTS", "GDAS"))

    search = SEARCHES[method](supernet, task=task)
    fit = trainer(tmp_path, 2 if method == "NAT" else 1)
    fit.fit(search, datamodule=data)

    assert math.isfinite(float(fit.callback_metrics[f"train/{task.metric_name}"]))
    assert math.isfinite(float(fit.callback_metrics["val/loss"]))
    if method in ("RandomSharing", "BigNAS"):
        values = [value for _, value in search.ranking]
        assert values == sorted(values, reverse=task.direction == "max")
    predictions = fit.predict(search, data.test_dataloader())
    assert predictions is not None and sum(len(part) for part in predictions) == 16  # type: ignore[arg-type]
    network = supernet.extract(search.derive())
    check_export(network, task, data, tmp_path / "export", ("onnx", "torch_export") if method == "BigNAS" else ())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("given", INPUTS)
def test_a_study_trains_networks_and_knows_what_is_better(given: str, target: str, tmp_path: Path) -> None:
    task, outputs = TARGETS[target]
    supernet = INPUTS[given](outputs)
    data = Data(supernet, task)
    evaluator = TrainingEvaluator(
        data, tmp_path / "w", build=supernet, task=task, epochs=1, trainer={"accelerator": "cpu"}
    )

    study = Study(
        RandomSearch(supernet.space), evaluator, [f"{task.direction} {task.metric_name}"], evaluations=2
    ).run()

    assert [record.result.failure for record in study.records] == [None, None]
    metrics = [record.result.metrics for record in study.records]
    best = (max if task.direction == "max" else min)(m[task.metric_name] for m in metrics)
    assert study.best.result.metrics[task.metric_name] == best
    assert all(m["error"] == pytest.approx(task.error(m[task.metric_name])) for m in metrics)
    network = evaluator.network(study.best.proposal)
    assert isinstance(network, Subnet)
    check_export(network, task, data, tmp_path / "export")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("given", INPUTS)
def test_a_network_learns_its_task(given: str, target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task, outputs = TARGETS[target]
    supernet = INPUTS[given](outputs)
    retrain = Retrain(supernet.extract(supernet.space.sample(3), inherit=False), task=task, lr=0.01, optimizer="adamw")
    data, fit = Data(supernet, task), trainer(tmp_path, 12)
    (before,) = trainer(tmp_path).test(retrain, datamodule=data, verbose=False)

    fit.fit(retrain, datamodule=data)

    (after,) = fit.test(retrain, datamodule=data, verbose=False)
    assert after["test/loss"] < before["test/loss"]
    if target == "classification":
        counts = retrain.confusion()
        assert int(counts.sum()) == 16
        assert retrain.class_accuracies().tolist() == pytest.approx((counts.diag() / counts.sum(1)).tolist())
        assert after["test/balanced_accuracy"] == pytest.approx(float(retrain.class_accuracies().nanmean()), abs=1e-6)
    else:
        with pytest.raises(ValueError, match="A confusion matrix must be of classes"):
            retrain.confusion()
