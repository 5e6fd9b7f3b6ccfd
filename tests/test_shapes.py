"""Inputs of any shape: what networks really read, and that the numbers are those of a plain loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import oneshot
from oneshot.cli.pick import _finetuned
from oneshot.cost import AdditiveCost, count, count_candidates
from oneshot.cost.latency.device import example_input
from oneshot.deploy.export import export_subnet
from oneshot.discrete import Proposal, RandomSearch, Study, TrainingEvaluator
from oneshot.discrete import SupernetEvaluator as InheritedEvaluator
from oneshot.evaluation.accuracy import evaluate_configs, inherited_error
from oneshot.evaluation.images import fitted
from oneshot.evaluation.recalibration import recalibrate_on
from oneshot.methods.darts import DARTS
from oneshot.methods.fairnas import FairNAS
from oneshot.methods.random_sharing import RandomSharing
from oneshot.nat.evaluators import SupernetEvaluator
from oneshot.nat.nat import NAT
from oneshot.supernets import ArchGraph, Choice, MobileNetV3Supernet, SearchSpace, SubnetConfig
from oneshot.supernets.base import OperationSupernet, Subnet, inherit_weights
from oneshot.supernets.elastic import resized
from oneshot.supernets.mixed_op import MixedOp
from oneshot.training.batches import check_shape
from oneshot.training.finite_loss import check_data
from oneshot.training.retrain import Retrain

SPACE = SearchSpace("any_shape", (Choice("layer", ("one", "three", "skip"), rows=2),))
CLASSES, WIDTH, WORDS = 3, 6, 11
KINDS = [
    pytest.param("images", (1, 16, 32), id="wide-images"),
    pytest.param("signals", (2, 12), id="signals"),
    pytest.param("tables", (5,), id="tables"),
    pytest.param("volumes", (2, 4, 6, 8), id="volumes"),
    pytest.param("words", (7,), id="words"),
]
CONVOLUTIONS: dict[str, Any] = {"words": nn.Conv1d, "signals": nn.Conv1d, "images": nn.Conv2d, "volumes": nn.Conv3d}
NORMS: dict[str, Any] = {"words": nn.BatchNorm1d, "signals": nn.BatchNorm1d, "tables": nn.BatchNorm1d}
NORMS |= {"images": nn.BatchNorm2d, "volumes": nn.BatchNorm3d}
seen: set[tuple[int, ...]] = set()  # what stems have read


class Stem(nn.Module):
    """Notes the shape of what it reads; words become vectors."""

    def __init__(self, kind: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.kind = kind
        self.words = nn.Embedding(WORDS, 4) if kind == "words" else None
        channels = 4 if kind == "words" else shape[0]
        self.layer = nn.Linear(channels, WIDTH) if kind == "tables" else CONVOLUTIONS[kind](channels, WIDTH, 1)
        self.norm = NORMS[kind](WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            seen.add(tuple(x.shape[1:]))
        if self.words is not None:
            x = self.words(x).transpose(1, 2)
        out: Tensor = self.norm(self.layer(x))
        return out


def candidate(kind: str, name: object) -> nn.Module:
    if name == "skip":
        return nn.Identity()
    size = 1 if name == "one" else 3
    layer = nn.Linear(WIDTH, WIDTH) if kind == "tables" else CONVOLUTIONS[kind](WIDTH, WIDTH, size, padding=size // 2)
    return nn.Sequential(nn.ReLU(), layer, NORMS[kind](WIDTH))


class AnyNetwork(Subnet):
    """Last sides weigh in, so that a distorted input gives other logits."""

    def __init__(self, kind: str, shape: list[int], layers: list[str]) -> None:
        super().__init__()
        self.init_args = {"kind": kind, "shape": list(shape), "layers": list(layers)}
        self.input_shape, self.num_classes = tuple(shape), CLASSES
        self.config = SubnetConfig("any_shape", {"layer": layers})
        self.stem = Stem(kind, self.input_shape)
        self.layers = nn.ModuleList(candidate(kind, name) for name in layers)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x.flatten(2).mean(2) if x.dim() > 2 else x)
        return logits

    def graphs(self) -> list[ArchGraph]:
        return []


class AnySupernet(OperationSupernet):
    def __init__(self, kind: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.kind, self.space, self.input_shape, self.num_classes = kind, SPACE, shape, CLASSES
        self.stem = Stem(kind, shape)
        self.layers = nn.ModuleList(MixedOp([candidate(kind, n) for n in SPACE["layer"].candidates]) for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, arch: Mapping[str, Tensor]) -> Tensor:
        x = self.stem(x)
        for row, layer in enumerate(self.layers):
            x = layer(x, arch["layer"][row])
        logits: Tensor = self.head(x.flatten(2).mean(2) if x.dim() > 2 else x)
        return logits

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> AnyNetwork:
        self.space.validate(config)
        network = AnyNetwork(self.kind, [*self.input_shape], [str(pick) for pick in config["layer"]])
        if inherit:
            for own, shared in ((network.stem, self.stem), (network.head, self.head)):
                inherit_weights(own, shared)
            for layer, mixed, pick in zip(network.layers, self.layers, config["layer"], strict=True):
                inherit_weights(layer, mixed.ops[SPACE["layer"].candidates.index(pick)])  # type: ignore[union-attr,index]
        return network.to(next(self.parameters()).dtype).train(self.training)

    def mixed_ops(self) -> dict[str, list[list[MixedOp]]]:
        return {"layer": [[layer] for layer in self.layers]}  # type: ignore[list-item]  # ModuleList is untyped


def inputs(kind: str, shape: tuple[int, ...], n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Classes can be told apart, and more images lie on one side than on the other."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    if kind == "words":
        return (torch.randint(WORDS - CLASSES, (n, *shape), generator=generator) + y[:, None]), y
    return torch.randn(n, *shape, generator=generator) + y.view(-1, *[1] * len(shape)), y


class AnyData(pl.LightningDataModule):
    def __init__(self, kind: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.kind, self.input_shape, self.num_classes = kind, shape, CLASSES

    def _loader(self, n: int, seed: int, **options: Any) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*inputs(self.kind, self.input_shape, n, seed)), 36, **options)

    def train_dataloader(self) -> Any:
        return self._loader(36, 1, drop_last=True)

    def val_dataloader(self) -> Any:
        return self._loader(30, 2)

    def test_dataloader(self) -> Any:
        return self._loader(30, 3)


class TwoStreams(AnyData):
    def train_dataloader(self) -> Any:
        return {"weights": self._loader(24, 1), "arch": self._loader(24, 4)}


def make(kind: str, shape: tuple[int, ...]) -> AnySupernet:
    torch.manual_seed(0)
    supernet = AnySupernet(kind, shape)
    for x in (inputs(kind, shape, 12, seed)[0] for seed in (8, 9)):  # statistics of something else
        supernet.run_config(x * 3 if x.is_floating_point() else x, SPACE.sample(0))
    return supernet


def trainer(folder: Path, epochs: int = 1, **options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", enable_model_summary=False, default_root_dir=folder, **quiet, **options
    )


def by_hand(network: Subnet, x: Tensor, y: Tensor, calibration: Tensor) -> float:
    """Accuracy of a network whose statistics are those of all calibration inputs as one batch."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        network(calibration)
        network.eval()
        right = [int(network(x[i : i + 1]).argmax()) == int(y[i]) for i in range(len(x))]
    return sum(right) / len(right)


@pytest.fixture(autouse=True)
def _nothing_seen() -> Iterator[None]:
    seen.clear()
    yield


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_inherited_weights_are_evaluated_on_inputs_as_they_are(kind: str, shape: tuple[int, ...]) -> None:
    supernet, data = make(kind, shape), AnyData(kind, shape)
    (x, y), (calibration, _) = inputs(kind, shape, 30, 2), inputs(kind, shape, 36, 1)
    configs = SPACE.unique(SPACE.decode(SPACE.sample_matrix(6, 0)))
    expected = [by_hand(supernet.extract(config), x, y, calibration) for config in configs]
    assert len(set(expected)) > 1 and max(expected) > 1 / CLASSES
    seen.clear()

    assert evaluate_configs(supernet, configs, [(x, y)], calibration=[calibration]) == pytest.approx(expected)
    errors = SupernetEvaluator(supernet, x, y, calibration).evaluate(configs)
    assert [1 - error for error in errors] == pytest.approx(expected)
    assert 1 - inherited_error(supernet, configs[0], x, y, calibration) == pytest.approx(expected[0])
    evaluator = InheritedEvaluator(supernet, data)
    found = [evaluator(Proposal(i, config)) for i, config in enumerate(configs)]
    assert [metrics["accuracy"] for metrics in found] == pytest.approx(expected)
    network = evaluator.network(Proposal(0, configs[0]))
    assert float((network(x).argmax(1) == y).float().mean()) == pytest.approx(expected[0])
    for config, metrics in zip(configs, found, strict=True):
        assert metrics["macs"] == count(supernet.extract(config), shape).macs
    assert seen == {shape}


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_searches_read_inputs_as_they_are(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    for search, data in (
        (RandomSharing(make(kind, shape), candidates=4, finalists=2), AnyData(kind, shape)),
        (FairNAS(make(kind, shape), candidates=4, finalists=2), AnyData(kind, shape)),
        (DARTS(make(kind, shape)), TwoStreams(kind, shape)),
    ):
        seen.clear()
        trainer(tmp_path).fit(search, datamodule=data)
        assert seen == {shape}
        if isinstance(search, RandomSharing):
            (x, y), (calibration, _) = inputs(kind, shape, 30, 2), inputs(kind, shape, 36, 1)
            for config, accuracy in search.ranking:
                assert accuracy == pytest.approx(by_hand(search.supernet.extract(config), x, y, calibration))


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_nat_and_pick_read_inputs_as_they_are(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    supernet, data = make(kind, shape), AnyData(kind, shape)
    epochs: dict[str, Any] = {"warmup_epochs": 1, "iterations": 1, "adapt_epochs": 1}
    search = NAT(supernet, **epochs, initial=6, batch=2, population=8, generations=2)
    seen.clear()
    trainer(tmp_path, 2).fit(search, datamodule=data)
    assert seen == {shape}
    archive = search.pareto.archive
    (x, y), (calibration, _) = inputs(kind, shape, 30, 2), inputs(kind, shape, 36, 1)
    for genes, values in zip(archive.genes, archive.values, strict=True):
        network = supernet.extract(SPACE.decode(genes[None])[0])
        assert 1 - values[0] == pytest.approx(by_hand(network, x, y, calibration))
    network = search.supernet.extract(search.derive())
    recalibrate_on(data, network)
    _finetuned(network, data, 1, 0.01)
    assert seen == {shape}


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_networks_are_trained_and_exported_with_inputs_as_they_are(
    kind: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    supernet, data = make(kind, shape), AnyData(kind, shape)
    seen.clear()
    evaluator = TrainingEvaluator(data, tmp_path / "weights", build=supernet, epochs=2, trainer={"accelerator": "cpu"})
    study = Study(RandomSearch(SPACE), evaluator, ["max accuracy"], evaluations=2).run()
    assert [record.result.failure for record in study.records] == [None, None]
    x, y = inputs(kind, shape, 30, 2)
    network = evaluator.network(study.best.proposal)
    right = [int(network(x[i : i + 1]).argmax()) == int(y[i]) for i in range(len(x))]
    assert study.best.result.metrics["accuracy"] == pytest.approx(sum(right) / len(right))

    retrained = Retrain(network)
    fit = trainer(tmp_path)
    fit.fit(retrained, datamodule=data)
    (test,) = fit.test(retrained, datamodule=data, verbose=False)
    network, (x, y) = retrained.network_for_export(), inputs(kind, shape, 30, 3)
    right = [int(network(x[i : i + 1]).argmax()) == int(y[i]) for i in range(len(x))]
    assert test["test/accuracy"] == pytest.approx(sum(right) / len(right))
    assert seen == {shape}

    folder = export_subnet(network, tmp_path / "export")
    torch.testing.assert_close(oneshot.load(folder, trust=(type(network).__module__,))(x), network(x))


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_example_inputs_have_the_shape_and_type_of_the_network(kind: str, shape: tuple[int, ...]) -> None:
    network = make(kind, shape).extract(SPACE.sample(0))
    x = example_input(network, 2, torch.float32)
    assert x.shape == (2, *shape) and x.is_floating_point() == (kind != "words")
    assert network(x).shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("kind", "shape", "other"),
    [
        ("images", (1, 16, 32), (1, 32, 32)),
        ("images", (1, 16, 32), (1, 32, 16)),
        ("signals", (2, 12), (2, 13)),
        ("tables", (5,), (6,)),
        ("volumes", (2, 4, 6, 8), (2, 4, 6, 9)),
    ],
)
def test_inputs_of_another_shape_are_refused_and_not_resized(
    kind: str, shape: tuple[int, ...], other: tuple[int, ...], tmp_path: Path
) -> None:
    supernet, config = make(kind, shape), SPACE.sample(0)
    x, y = inputs(kind, other, 6)
    both = rf"reads \{[*shape]}, got \{[*other]}".replace("]", "\\]")
    calls = [
        lambda: SupernetEvaluator(supernet, x, y, x),
        lambda: evaluate_configs(supernet, [config], [(x, y)]),
        lambda: fitted(supernet.extract(config), x),
        lambda: recalibrate_on(AnyData(kind, other), supernet.extract(config)),
        lambda: InheritedEvaluator(supernet, AnyData(kind, other))(Proposal(0, config)),
        lambda: check_shape(supernet, x),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=both):
            call()
    loaders = AnyData(kind, other)
    for module in (RandomSharing(supernet, candidates=2, finalists=1), Retrain(supernet.extract(config))):
        with pytest.raises(ValueError, match=both):
            trainer(tmp_path).fit(module, loaders.train_dataloader(), loaders.val_dataloader())
    with pytest.raises(ValueError, match="must be built for the data"):
        check_data(loaders, supernet)


def test_elastic_supernets_resize_in_proportion_or_refuse() -> None:
    sizes: Any = {"widths": (0.25,), "depths": (1, 2), "kernels": (3, 5), "expansions": (2, 3)}
    supernet = MobileNetV3Supernet(num_classes=3, resolutions=(8, 16), stem="cifar", **sizes)
    config, y = supernet.space.smallest, torch.arange(6) % 3
    assert supernet.shape_of(config) == (3, 8, 8)
    assert fitted(supernet, torch.zeros(6, 3, 20, 20), config).shape == (6, 3, 8, 8)
    wide = torch.randn(6, 3, 16, 32)
    for call in (
        lambda: SupernetEvaluator(supernet, wide, y, wide),
        lambda: evaluate_configs(supernet, [config], [(wide, y)]),
        lambda: fitted(supernet.extract(config), wide),
        lambda: supernet.run_config(wide, config),
    ):
        with pytest.raises(ValueError, match=r"proportions of \d+ x .*; got inputs of shape \[3, 16, 32\]"):
            call()
    with pytest.raises(ValueError, match=r"reads \[3, 8, 8\], got \[5\]"):
        fitted(supernet, torch.zeros(6, 5), config)
    supernet.input_shape = (3, 8, 16)  # of a space of wide images
    assert fitted(supernet, wide, config).shape == (6, 3, 4, 8)
    torch.testing.assert_close(
        fitted(supernet, wide, config),
        nn.functional.interpolate(wide, size=(4, 8), mode="bilinear", align_corners=False, antialias=True),
    )
    with pytest.raises(ValueError, match="must have the proportions"):
        fitted(supernet, torch.zeros(6, 3, 20, 20), config)
    assert resized(torch.zeros(1, 3, 30, 60), (15, 30)).shape == (1, 3, 15, 30)


def test_costs_of_one_shape_are_refused_for_another() -> None:
    wide, square, narrow = (make("images", (1, height, 32)) for height in (16, 32, 8))
    macs = count_candidates(wide, "macs")
    macs.check_supernet(wide)
    config = SPACE.sample(1)
    assert macs.cost(config) == count(wide.extract(config), (1, 16, 32)).macs
    for other in (square, narrow):
        with pytest.raises(ValueError, match=r"holds for inputs of shape \[1, 16, 32\], the supernet reads \[1, "):
            macs.check_supernet(other)
    with pytest.raises(ValueError, match=r"holds for inputs of shape \[2, 12\]"):
        count_candidates(make("signals", (2, 12)), "macs").check_supernet(make("signals", (2, 24)))
    with pytest.raises(ValueError, match=r"images of 32 pixels, the supernet reads \(16, 32\)"):
        AdditiveCost(SPACE, {"layer": torch.ones(2, 3)}, unit="ms", image_size=32).check_supernet(wide)
    with pytest.raises(ValueError, match="height and width of square images"):
        count_candidates(wide, "macs", image_size=32)
    count_candidates(wide, "params").check_supernet(wide)
    with pytest.raises(ValueError, match=r"shape is \[1, 16, 32\] there, \[1, 32, 32\] here"):
        count_candidates(wide, "params").check_supernet(square)
