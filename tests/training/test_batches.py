"""Labels, inputs and logits that do not fit are refused wherever they enter, by one message that names what came."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from oneshot.discrete import Proposal, TrainingEvaluator
from oneshot.discrete import SupernetEvaluator as InheritedEvaluator
from oneshot.engine.module import SearchModule
from oneshot.engine.sandwich import SandwichSearch
from oneshot.evaluation.accuracy import evaluate_configs, inherited_error, score
from oneshot.evaluation.images import fitted
from oneshot.evaluation.inherited import InheritedEvaluation
from oneshot.methods.darts import DARTS
from oneshot.methods.enas import ENAS
from oneshot.methods.fairnas import FairNAS
from oneshot.methods.proxylessnas import ProxylessNAS, Reward
from oneshot.methods.snas import SNAS
from oneshot.nat.evaluators import SupernetEvaluator
from oneshot.nat.nat import NAT
from oneshot.supernets import NASBench201Supernet, SegmentationSupernet, SubnetConfig
from oneshot.supernets.recurrent import RecurrentLanguageModel
from oneshot.testing import PlantedSupernet
from oneshot.training.batches import check_batch, check_labels, check_logits, pair_of
from oneshot.training.finite_loss import check_data
from oneshot.training.language import RetrainLanguage
from oneshot.training.retrain import Retrain
from oneshot.training.tasks import IGNORED, loss_of, metric_of

B, CLASSES = 8, 3
GOOD = torch.arange(B) % CLASSES
SHAPE = r"Labels are whole numbers of shape \[8\], a number of a class for every input; got "
RANGE = "Labels are numbers of classes, from 0 to 2 as the network has 3; got "
BAD = [
    pytest.param(GOOD.float() * 7.5, SHAPE + r"torch.float32 of shape \[8\]", id="numbers"),
    pytest.param(GOOD.double()[:, None], SHAPE + r"torch.float64 of shape \[8, 1\]", id="a column of numbers"),
    pytest.param(GOOD[:, None], SHAPE + r"torch.int64 of shape \[8, 1\]", id="a column"),
    pytest.param(nn.functional.one_hot(GOOD), SHAPE + r"torch.int64 of shape \[8, 3\]", id="one-hot"),
    pytest.param(nn.functional.one_hot(GOOD).float(), SHAPE + r"torch.float32 of shape \[8, 3\]", id="soft"),
    pytest.param(GOOD == 1, SHAPE + "torch.bool", id="bool"),
    pytest.param(GOOD - 1, RANGE + "-1. Number the classes anew", id="negative"),
    pytest.param(GOOD + 1, RANGE + "3. Number the classes anew from 0, or build .* num_classes=4", id="from 1"),
    pytest.param(torch.where(GOOD == 0, -100, GOOD), RANGE + "-100", id="what torch ignores"),
    pytest.param(torch.where(GOOD == 0, IGNORED, GOOD), RANGE + "255", id="what segmentation ignores"),
    pytest.param(GOOD.view(2, 4), SHAPE + r"torch.int64 of shape \[2, 4\]", id="another shape"),
]


def supernet() -> NASBench201Supernet:
    return NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=CLASSES, in_channels=1, image_size=8)


def images() -> Tensor:
    return torch.randn(B, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def batches(y: Tensor) -> DataLoader[Any]:
    """Batches of one loader, whatever the length of the labels: no collation, no shuffling."""
    return DataLoader([(images(), y)], batch_size=None)  # type: ignore[arg-type]  # a list is a data set


class Data(pl.LightningDataModule):
    def __init__(self, y: Tensor, validation: Tensor | None = None, *, two: bool = False) -> None:
        super().__init__()
        self.y, self.validation, self.two = y, y if validation is None else validation, two

    def train_dataloader(self) -> Any:
        good = batches(GOOD)
        return {"weights": good, "arch": batches(self.y)} if self.two else batches(self.y)

    def val_dataloader(self) -> Any:
        return batches(self.validation)

    def test_dataloader(self) -> Any:
        return batches(self.validation)


def trainer(folder: Path, epochs: int = 1) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options: dict[str, Any] = {"num_sanity_val_steps": 0, "enable_model_summary": False, "accelerator": "cpu", **quiet}
    return pl.Trainer(max_epochs=epochs, default_root_dir=folder, **options)


SHARING: dict[str, Any] = {"candidates": 2, "finalists": 1}
MODULES: dict[str, Callable[[], Any]] = {
    "bilevel": lambda: DARTS(supernet()),
    "own criterion": lambda: DARTS(supernet(), criterion=nn.MSELoss()),
    "single level": lambda: SNAS(supernet()),
    "two paths": lambda: ProxylessNAS(supernet()),
    "sharing": lambda: FairNAS(supernet(), **SHARING),
    "sandwich": lambda: SandwichSearch(supernet(), **SHARING),
    "ENAS": lambda: ENAS(supernet(), **SHARING),
    "NAT": lambda: NAT(supernet(), warmup_epochs=1, iterations=1, adapt_epochs=1, initial=6, batch=2),
    "retrain": lambda: Retrain(supernet().extract(supernet().space.sample(0))),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(("y", "message"), BAD)
def test_trainings_refuse_labels_that_are_no_classes(name: str, y: Tensor, message: str, tmp_path: Path) -> None:
    module = MODULES[name]()
    two = isinstance(module, SearchModule) and name in ("bilevel", "own criterion", "two paths")
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, 2).fit(module, datamodule=Data(y, GOOD, two=two))


@pytest.mark.parametrize("name", ["bilevel", "single level", "sharing", "retrain"])
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_validation_and_test_refuse_them_too(name: str, stage: str, tmp_path: Path) -> None:
    module, run = MODULES[name](), trainer(tmp_path)
    for y, message in (case.values for case in BAD):  # type: ignore[misc]
        with pytest.raises(ValueError, match=str(message)):
            getattr(run, stage)(module, datamodule=Data(GOOD, y), verbose=False)  # type: ignore[arg-type]
    assert getattr(run, stage)(module, datamodule=Data(GOOD, GOOD), verbose=False)


@pytest.mark.parametrize(("y", "message"), BAD)
def test_evaluations_refuse_them_too(y: Tensor, message: str, tmp_path: Path) -> None:
    network, x = supernet(), images()
    config = network.space.sample(0)
    subnet = network.extract(config)
    calls: list[Callable[[], Any]] = [
        lambda: evaluate_configs(network, [config], [(x, y)]),
        lambda: InheritedEvaluator(network, Data(GOOD, y)),
        lambda: TrainingEvaluator(Data(y, GOOD), tmp_path, build=network, epochs=1)(Proposal(0, config)),
        lambda: TrainingEvaluator(Data(GOOD, y), tmp_path, build=network, epochs=1)(Proposal(0, config)),
        lambda: check_batch(network, x, y),
        lambda: check_batch(subnet, x, y),
    ]
    if len(y) == B:
        calls.append(lambda: SupernetEvaluator(network, x, y, x))
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()
    of_values = message if message.startswith("Labels are numbers") else "Labels are whole numbers"
    if y.dim() == 1:
        for check in (lambda: inherited_error(network, config, x, y, x), lambda: score(subnet, x, y, 4)):
            with pytest.raises(ValueError, match=of_values):
                check()


def test_integers_of_every_type_are_labels_and_count_the_same(tmp_path: Path) -> None:
    network, config = supernet(), supernet().space.sample(0)
    accuracies = set()
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        y = GOOD.to(dtype)
        accuracies.add(tuple(evaluate_configs(network, [config], [(images(), y)])))
        for module in (DARTS(supernet()), Retrain(network.extract(config), mixup=0.2)):
            trainer(tmp_path).fit(module, datamodule=Data(y, GOOD, two=isinstance(module, DARTS)))
    assert len(accuracies) == 1


def test_the_loss_of_images_ignores_no_label_on_any_device() -> None:
    """On the CPU the labels are looked at; elsewhere torch must not leave out what it leaves out by default."""
    logits = torch.randn(4, 3)
    with pytest.raises(IndexError, match="out of bounds"):
        loss_of("classification")(logits, torch.tensor([0, 1, 2, -100]))
    assert torch.isfinite(nn.CrossEntropyLoss()(logits, torch.tensor([0, 1, 2, -100]))), "which is what torch does"


# Segmentation.


def segmentation() -> SegmentationSupernet:
    return SegmentationSupernet(layers_per_stage=1, width=0.25, num_classes=CLASSES, image_size=32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda y: y.float(), r"of shape \[2, 32, 32\], one for every pixel; got torch.float", id="float"),
        pytest.param(lambda y: y[:, 0, 0], r"of shape \[2, 32, 32\], one for every pixel; got .* \[2\]", id="row"),
        pytest.param(lambda y: y[:, None], r"got torch.int64 of shape \[2, 1, 32, 32\]", id="a channel"),
        pytest.param(lambda y: y[:, ::2, ::2], r"of shape \[2, 32, 32\].* got .* \[2, 16, 16\]", id="smaller"),
        pytest.param(lambda y: y - 1, "from 0 to 2 as the network has 3, or 255 for pixels of none; got -1", id="void"),
        pytest.param(lambda y: y + 1, "or 255 for pixels of none; got 3", id="from 1"),
    ],
)
def test_masks_are_checked_likewise(change: Callable[[Tensor], Tensor], message: str) -> None:
    network, x = segmentation(), torch.randn(2, 3, 32, 32)
    good = torch.randint(3, (2, 32, 32))
    good[:, :4] = IGNORED
    check_batch(network, x, good)
    good[:, :4] = 0
    good[0, 0, 0], good[0, 0, 1] = 2, 0
    with pytest.raises(ValueError, match=message):
        check_batch(network, x, change(good))
    with pytest.raises(ValueError, match=message):
        evaluate_configs(network, [network.space.sample(0)], [(x, change(good))])


def test_ignored_pixels_count_in_no_accuracy(tmp_path: Path) -> None:
    network, x = segmentation(), torch.randn(2, 3, 32, 32)
    config = network.space.sample(0)
    subnet = network.extract(config).eval()
    with torch.no_grad():
        y = subnet(x).argmax(1)
    y[:, :16] = (y[:, :16] + 1) % CLASSES  # wrong
    y[:, 16:24] = IGNORED
    network.eval()

    retrain = Retrain(subnet)
    loader = DataLoader(TensorDataset(x, y), 2)
    (test,) = trainer(tmp_path).test(retrain, loader, verbose=False)
    assert test["test/accuracy"] == pytest.approx(1 / 3, abs=1e-6)
    assert int(retrain.confusion().sum()) == 2 * 24 * 32

    one = {name: weights for name, weights in network.one_hot(config).items()}
    with torch.no_grad():
        logits = subnet(x)
    assert float(Reward()(logits, y, one)) == pytest.approx(1 / 3, abs=1e-6)
    known = [*range(16), *range(24, 32)]
    expected = metric_of("segmentation", CLASSES)(logits[:, :, known], y[:, known])
    assert metric_of("segmentation", CLASSES)(logits, y) == pytest.approx(float(expected))
    with pytest.raises(ValueError, match="one class .1. tell no architectures apart"):
        SupernetEvaluator(network, x, torch.where(y == IGNORED, IGNORED, 1), x)


# Logits, words, and batches that are none.


@pytest.mark.parametrize(
    ("logits", "got"),
    [
        pytest.param(torch.zeros(B), r"\[8\]", id="binary"),
        pytest.param(torch.zeros(B, 1), r"\[8, 1\]", id="one"),
        pytest.param(torch.zeros(B, CLASSES + 1), r"\[8, 4\]", id="more than classes"),
        pytest.param(torch.zeros(B, CLASSES, 2), r"\[8, 3, 2\]", id="places"),
        pytest.param(torch.zeros(B // 2, CLASSES), r"\[4, 3\]", id="fewer inputs"),
        pytest.param((torch.zeros(B, CLASSES), None), "tuple", id="a pair"),
    ],
)
def test_logits_of_another_shape_are_refused(logits: Any, got: str, tmp_path: Path, monkeypatch: Any) -> None:
    message = rf"A network must give num_classes outputs, .*: \[8, 3\]; NASBench201\w+ with num_classes=3 gave {got}"
    network = supernet()
    config = network.space.sample(0)
    subnet = network.extract(config)
    with pytest.raises(ValueError, match=message):
        check_logits(logits, network, images())
    for kind in (type(network), type(subnet)):
        monkeypatch.setattr(kind, "forward", lambda *_: logits)
    x = images()
    for call in (
        lambda: evaluate_configs(network, [config], [(x, GOOD)]),
        lambda: inherited_error(network, config, x, GOOD, x),
        lambda: score(subnet, x, GOOD, B),
        lambda: trainer(tmp_path).fit(Retrain(subnet), datamodule=Data(GOOD)),
        lambda: trainer(tmp_path).test(Retrain(subnet), datamodule=Data(GOOD)),
        lambda: trainer(tmp_path).fit(DARTS(network), datamodule=Data(GOOD, two=True)),
        lambda: trainer(tmp_path).fit(ProxylessNAS(network), datamodule=Data(GOOD, two=True)),
        lambda: trainer(tmp_path).fit(SNAS(network), datamodule=Data(GOOD)),
        lambda: trainer(tmp_path).fit(FairNAS(network, **SHARING), datamodule=Data(GOOD)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_single_class_is_refused() -> None:
    network = supernet()
    config = network.space.sample(0)
    subnet = network.extract(config)
    network.num_classes = subnet.num_classes = 1
    for call in (
        lambda: DARTS(network),
        lambda: Retrain(subnet),
        lambda: metric_of("segmentation", 1),
        lambda: inherited_error(network, config, images(), GOOD * 0, images()),
        lambda: evaluate_configs(network, [config], [(images(), GOOD * 0)]),
    ):
        with pytest.raises(ValueError, match="at least two classes to tell apart; got num_classes=1"):
            call()


def test_numbers_of_words_are_checked_likewise(tmp_path: Path) -> None:
    genotype = "DARTS_V2"
    model = RecurrentLanguageModel(genotype, num_classes=5, size=4, window=6)
    x = torch.randint(5, (2, 6))
    check_batch(model, x, x)
    check_batch(model, x[:, :3], x[:, :3])  # the end of a text
    for y, message in (
        (x.float(), "got torch.float32"),
        (x[:, 0], r"of shape \[2, 6\]|got torch.int64 of shape \[2\]"),
        (x - 5, "from 0 to 4 as the network has 5; got -"),
        (x + 5, "from 0 to 4 as the network has 5; got "),
    ):
        loader = DataLoader([(x, y)], batch_size=None)  # type: ignore[arg-type]  # a list is a data set
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path).fit(RetrainLanguage(model), loader, loader)
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path).test(RetrainLanguage(model), loader)


def test_batches_that_are_none_are_refused(tmp_path: Path) -> None:
    x = images()
    for batch, message in (
        ((x, GOOD, GOOD), r"a pair \(x, y\) of inputs and labels; got a (list|tuple) of 3"),
        (x, "got a Tensor"),
        ((x, [0, 1, 2, 0, 1, 2, 0, 1]), "got Tensor and list"),
    ):
        with pytest.raises(ValueError, match=message):
            check_batch(supernet(), *pair_of(batch))
    with pytest.raises(ValueError, match=r"of shape \[0\]"):
        check_batch(supernet(), x[:0], GOOD[:0])
    check_labels(torch.full((2, 4, 4), IGNORED), 3, "segmentation")


class OfTwoResolutions(PlantedSupernet):
    """A supernet of no class that the checks know: it says itself that its architectures differ in resolution."""

    has_resolutions = True

    def shape_of(self, config: SubnetConfig) -> tuple[int, ...]:
        return (1, 4, 4) if config["edge"] == ("skip_connect",) else self.input_shape

    def check_images(self, size: int) -> None:
        if size < 8:
            raise ValueError(f"Images must have 8 pixels; got {size}.")


def test_any_supernet_may_say_that_its_architectures_differ_in_resolution() -> None:
    network, x, y = OfTwoResolutions(channels=2), torch.randn(B, 1, 16, 16), torch.arange(B) % 2
    low, high = network.space.decode([[1], [2]])
    assert [fitted(network, x, config).shape[2:] for config in (low, high)] == [(4, 4), (8, 8)]
    check_batch(network, x, y)
    for call in (
        lambda: InheritedEvaluation(network, x[..., :6, :6], y, x),
        lambda: check_data(Namespace(num_classes=2, input_shape=(1, 6, 6)), network),
    ):
        with pytest.raises(ValueError, match="Images must have 8 pixels; got 6"):
            call()
    check_data(Namespace(num_classes=2, input_shape=(1, 16, 16)), network)
    with pytest.raises(ValueError, match=r"reads \[1, 8, 8\], got \[1, 16, 16\]"):
        check_batch(PlantedSupernet(channels=2), x, y)


def test_any_supernet_may_say_that_its_inputs_are_texts() -> None:
    network, words = PlantedSupernet(channels=2), torch.randint(2, (B, 6))
    network.input_shape = (6,)
    with pytest.raises(ValueError, match=r"Labels are whole numbers of shape \[8\]"):
        check_batch(network, words, words)
    network.texts = True
    check_batch(network, words, words)
