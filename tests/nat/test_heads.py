"""Heads of their own: architectures whose last layer is fitted to their features wherever they are evaluated."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

import oneshot
from oneshot.callbacks import SubnetExport
from oneshot.evaluation.inherited import InheritedEvaluation
from oneshot.nat.evaluators import SupernetEvaluator
from oneshot.nat.nat import NAT
from oneshot.supernets import Supernet
from oneshot.testing.methods import WINNER, PlantedSupernet, stripes

from .test_nat import Stripes, fit, nat


class Colours(nn.Module):
    """A few lines of a user, with a head that knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()
        )
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def colours(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a weak tint, and which of three it is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    return torch.randn(count, 3, 8, 8, generator=generator) + 0.7 * torch.eye(3)[labels][:, :, None, None], labels


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    network = Colours()
    with torch.no_grad():  # statistics of other images
        network.features[1].running_mean += 3.0  # type: ignore[operator, union-attr]  # a tensor
    converted = oneshot.convert(network, torch.randn(2, 3, 8, 8), width=(0.25, 0.5, 1.0)).eval()
    converted.own_head = True
    return converted


def by_hand(supernet: Supernet, config: Any, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Accuracy of a ridge regression by the normal equations, in float64, of the least penalty."""
    network: Any = supernet.extract(config).double().eval()
    norm = network.network.features[1]
    before = network.network.features[0](train[0].double())
    norm.running_mean, norm.running_var = before.mean((0, 2, 3)).detach(), before.var((0, 2, 3)).detach()

    def features(x: Tensor) -> Tensor:
        found = network.network.features(x.double()).mean((2, 3)).detach()
        return torch.cat([found, torch.ones(len(x), 1)], 1)

    x, y = features(train[0]), torch.eye(3, dtype=torch.float64)[train[1]]
    weights = torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(x.shape[1]), x.T @ y)
    return float(((features(test[0]) @ weights).argmax(1) == test[1]).double().mean())


def test_architectures_are_as_good_as_a_regression_on_their_features(supernet: Supernet) -> None:
    train, test = colours(600, 0), colours(300, 1)
    before = copy.deepcopy(supernet.state_dict())
    evaluation = InheritedEvaluation(supernet, *test, *train)
    shared = copy.copy(supernet)
    shared.own_head = False
    for config in (supernet.space.largest, supernet.space.smallest):  # type: ignore[attr-defined]  # of converted ones
        error = evaluation.error(config)
        assert 1 - error == pytest.approx(by_hand(supernet, config, train, test), abs=0.03)
        assert error < InheritedEvaluation(shared, *test, *train).error(config) - 0.2, "the shared head knows nothing"
        network = evaluation.network(config)
        assert float((network(test[0]).argmax(1) != test[1]).double().mean()) == pytest.approx(error)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_features_that_tell_nothing_are_a_failure_and_no_error_of_chance(supernet: Supernet) -> None:
    dead = copy.deepcopy(supernet)
    with torch.no_grad():
        for parameter in dead.parameters():
            parameter.zero_()
    train, test = colours(60, 0), colours(30, 1)
    assert np.isnan(InheritedEvaluation(dead, *test, *train).error(dead.space.sample(0)))


def test_labels_are_needed_for_heads(supernet: Supernet) -> None:
    train, test = colours(60, 0), colours(30, 1)
    with pytest.raises(ValueError, match="Heads must be fitted to labels; got none"):
        InheritedEvaluation(supernet, *test, train[0])
    moved = SupernetEvaluator(supernet, *test, *train).to("cpu")
    here = SupernetEvaluator(supernet, *test, *train)
    config = supernet.space.sample(0)
    assert moved.evaluate([config]) == here.evaluate([config])


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[NAT, Path]:
    folder, search = tmp_path_factory.mktemp("heads"), nat(fit_heads=True, calibration_images=128)
    (folder / "evaluations").mkdir()  # where it is, evaluations are kept without checkpoints
    fit(search, folder, callbacks=[SubnetExport(folder / "out", network=True)])
    return search, folder


def test_the_exported_network_is_the_one_that_was_evaluated(searched: tuple[NAT, Path]) -> None:
    search, folder = searched
    x, y = stripes(64, 1)
    network = oneshot.load(folder / "out" / "network")
    archive = search.pareto.archive
    (row,) = np.flatnonzero((archive.genes == search.supernet.space.encode([search.derive()])).all(1))
    assert float((network(x).argmax(1) != y).double().mean()) == pytest.approx(archive.values[row, 0])
    assert search.facts()["heads"] == "their own"


def test_evaluations_with_the_shared_head_are_not_taken_for_others(searched: tuple[NAT, Path]) -> None:
    folder = searched[1]
    journal = folder / "evaluations" / "evaluations.0.jsonl"
    own = {json.loads(line)["weights"] for line in journal.read_text(encoding="utf-8").splitlines()}
    other = nat(calibration_images=128)
    fit(other, folder)  # the same folder, data, seed: the same weights
    rows = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    assert {row["weights"] for row in rows} > own
    assert "heads" not in other.facts() and not other.supernet.own_head


def test_a_task_without_a_closed_form_is_refused_when_the_search_is_built() -> None:
    supernet = PlantedSupernet(["skip_connect", "nor_conv_1x1", WINNER], channels=4, edges=4)
    supernet.task = oneshot.tasks.Segmentation()
    with pytest.raises(ValueError, match="fit_head fits a linear layer to one target for each input"):
        NAT(supernet, fit_heads=True)


def test_loaders_without_a_data_module_give_their_labels(tmp_path: Path) -> None:
    data, search = Stripes(), nat(fit_heads=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=3,
        default_root_dir=tmp_path,
        limit_val_batches=0,
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    trainer.fit(search, data.train_dataloader(), data.val_dataloader())
    images = search._images
    assert images is not None
    found = {tuple(x.flatten().tolist()): int(y) for x, y in zip(*stripes(128, 0), strict=True)}
    pairs = zip(images.calibration, images.calibration_labels, strict=True)
    assert all(found[tuple(x.flatten().tolist())] == int(y) for x, y in pairs)
