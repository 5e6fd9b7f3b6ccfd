"""The loop of weight sharing: what it sees, when and on what it compares, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from oneshot.callbacks import SubnetExport
from oneshot.data import FakeImages, SearchDataModule
from oneshot.engine.paths import Stream
from oneshot.engine.sharing import WeightSharingSearch
from oneshot.evaluation.accuracy import evaluate_configs, inherited_error
from oneshot.evaluation.images import in_parts, joined, training_images
from oneshot.methods.bignas import BigNAS
from oneshot.supernets.mobilenetv3 import MobileNetV3Supernet
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.supernets.space import SubnetConfig, load_config
from oneshot.testing import PlantedSupernet, fit, random_streams


class OnePath(WeightSharingSearch):
    """Trains the same path in every step, and remembers what it was compared on."""

    def __init__(self, supernet: Any = None, **options: Any) -> None:
        super().__init__(supernet or PlantedSupernet(channels=2), **{"candidates": 8, "finalists": 3, **options})
        self.streams: list[Stream] = []

    def paths(self, step: int) -> list[SubnetConfig]:
        return [self.supernet.space.decode([[1] * self.supernet.space.num_genes])[0]]

    def rank(self, batches: Stream, calibration: Sequence[Tensor] = ()) -> None:
        self.streams.append(batches)
        super().rank(batches, calibration)


class LookAtTheEnd(pl.Callback):
    """What other callbacks see after each epoch."""

    def __init__(self) -> None:
        self.rankings: list[int] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, WeightSharingSearch)
        self.rankings.append(len(pl_module.ranking))


def data(**options: Any) -> FakeImages:
    return FakeImages(num_classes=2, input_shape=(1, 8, 8), train_size=48, test_size=8, batch_size=8, **options)


def test_only_the_weights_on_the_path_move() -> None:
    search = OnePath(NASBench201Supernet(channels=2, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8))
    before = {name: p.detach().clone() for name, p in search.supernet.named_parameters()}
    fit(search, random_streams(search.supernet), epochs=1)
    moved = {name for name, p in search.supernet.named_parameters() if not torch.equal(p, before[name])}
    assert moved and not any("edges" in name for name in moved)  # the path is all skip connections


def test_callbacks_of_the_last_epoch_see_the_ranking(tmp_path: Path) -> None:
    search, look, export = OnePath(), LookAtTheEnd(), SubnetExport(tmp_path)
    fit(search, random_streams(search.supernet), epochs=3, callbacks=[look, export])
    assert look.rankings == [0, 0, 3]
    assert load_config(tmp_path / "subnet.json") == search.derive() == search.ranking[0][0]


def test_a_fit_that_is_stopped_early_is_ranked_before_its_last_checkpoint(tmp_path: Path) -> None:
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.should_stop = trainer.current_epoch == 1

    search, save = OnePath(), ModelCheckpoint(tmp_path, filename="last", save_top_k=1)
    fit(search, random_streams(search.supernet), epochs=5, callbacks=[Stop(), save], enable_checkpointing=True)
    again = OnePath()
    again.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    assert again.ranking == search.ranking != []


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("split", [True, False], ids=["two-streams", "validation-stream"])
def test_architectures_are_compared_on_the_held_out_images(split: bool, every: int) -> None:
    source = SearchDataModule(data()) if split else data(val_fraction=0.5)
    search = OnePath()
    fit(search, source, epochs=2, limit_val_batches=1.0, check_val_every_n_epoch=every, num_sanity_val_steps=0)
    held = source.arch_images if isinstance(source, SearchDataModule) else source.val_images
    (stream,) = search.streams
    assert held is not None
    assert torch.equal(torch.cat([y for _, y in stream]), held.labels)
    configs, accuracies = zip(*search.ranking, strict=True)
    train = source.weights_images if isinstance(source, SearchDataModule) else source.train_images
    loader = data().eval_loader(train, batch_size=48)
    calibration = in_parts(torch.cat([x for x, _ in loader])[torch.randperm(len(train))], 8)
    ours = evaluate_configs(search.supernet, configs, stream, calibration=calibration)
    assert list(accuracies) == pytest.approx(ours)


def test_without_validation_the_stream_of_the_architecture_takes_its_place() -> None:
    search, streams = OnePath(), random_streams(PlantedSupernet(channels=2))
    fit(search, streams, epochs=1)
    assert search.streams == [streams["arch"]]


def test_all_candidates_are_screened_on_one_batch_and_the_best_are_compared_on_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[list[SubnetConfig], int]] = []

    def evaluate(supernet: Any, configs: Any, batches: Any, **options: Any) -> list[float]:
        calls.append((list(configs), len(list(batches))))
        return [float(config["cell"].count("skip_connect")) / 10 for config in configs]

    monkeypatch.setattr("oneshot.engine.sharing.evaluate_configs", evaluate)
    supernet = NASBench201Supernet(channels=2, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)
    search = OnePath(supernet, candidates=50, finalists=5)
    search.rank(list(random_streams(supernet)["arch"]))
    (screened, one), (finalists, every) = calls
    assert 40 < len(screened) <= 50  # those that build the same network count once
    assert (one, len(finalists), every) == (1, 5, 3)
    skips = sorted((config["cell"].count("skip_connect") for config in screened), reverse=True)
    assert [config["cell"].count("skip_connect") for config in finalists] == skips[:5]
    assert [config for config, _ in search.ranking] == finalists


def by_class(n: int, *, size: int = 16) -> DataLoader[Any]:
    """Images of noise around a mean of their class, one class after the other."""
    labels = torch.arange(n) * 3 // n
    x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n)) + labels[:, None, None, None]
    return DataLoader(TensorDataset(x, labels), batch_size=8)


def test_images_in_the_order_of_their_classes_are_ranked_in_statistics_of_all_of_them() -> None:
    """Also where the last batch has one image, and one pixel: of these there are no batch statistics."""
    options: dict[str, Any] = {"resolutions": (32,), "widths": (0.2,), "depths": (1, 2), "dropout": 0.0}
    search = BigNAS(MobileNetV3Supernet(num_classes=3, **options), candidates=6, finalists=3, weight_lr=0.1)
    train, held = by_class(48, size=32), by_class(17, size=32)
    fit(search, {"weights": train, "arch": held}, epochs=2)
    (x, y), calibration = joined(held), training_images(train, 48, batch_size=8)
    for config, accuracy in search.ranking:
        error = inherited_error(search.supernet, config, x, y, calibration, batch_size=8)
        assert accuracy == pytest.approx(1 - error, abs=1e-6)


def test_screening_sees_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def evaluate(supernet: Any, configs: Any, batches: Any, **options: Any) -> list[float]:
        seen.append([set(y.tolist()) for _, y in batches])
        return [0.0 for _ in configs]

    monkeypatch.setattr("oneshot.engine.sharing.evaluate_configs", evaluate)
    OnePath().rank(by_class(24))
    assert seen == [[{0, 1, 2}], [{0}, {1}, {2}]]


def test_a_second_ranking_replaces_the_first() -> None:
    search = OnePath(candidates=40, finalists=4)
    search.rank(list(random_streams(search.supernet)["arch"]))
    assert len(search.ranking) == 4
    search.candidates = search.finalists = 1
    search.rank(list(random_streams(search.supernet)["arch"]))
    assert len(search.ranking) == 1


def test_images_without_any_held_out_are_refused_before_the_first_step() -> None:
    search = OnePath()
    with pytest.raises(ValueError, match=r"OnePath compares architectures .* SearchDataModule.* or hold some back"):
        fit(search, data(), epochs=1)
    assert int(search._fit_metric._update_count) == 0  # no step was made


@pytest.mark.filterwarnings("ignore:Total length of `list`")  # this data has no validation stream
def test_a_fast_dev_run_compares_on_one_batch() -> None:
    search = OnePath()
    fit(search, random_streams(search.supernet), epochs=1, fast_dev_run=1)
    (stream,) = search.streams
    assert len(list(stream)) == 1


def test_another_number_of_finalists_is_not_resumed(tmp_path: Path) -> None:
    search, path = OnePath(), tmp_path / "first.ckpt"
    fit(
        search,
        random_streams(search.supernet),
        epochs=1,
        callbacks=[ModelCheckpoint(tmp_path, filename="first")],
        enable_checkpointing=True,
    )
    with pytest.raises(ValueError, match="candidates: 8, 3 finalists, now 8, 2 finalists"):
        fit(OnePath(finalists=2), random_streams(search.supernet), epochs=1, ckpt_path=path)


@pytest.mark.parametrize("options", [{"candidates": 2, "finalists": 3}, {"finalists": 0}])
def test_finalists_are_some_of_the_candidates(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"finalists must be some of the candidates, at least one; got candidates="):
        OnePath(**options)


@pytest.mark.parametrize("name", ["arch_lr", "penalty", "compile", "alpha_std"])
def test_what_belongs_to_alphas_is_not_accepted(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        OnePath(**{name: None})


def test_there_are_no_alphas_and_no_preferences() -> None:
    search = OnePath()
    assert search.arch_parameters() == [] and not any(name.startswith("alphas") for name in search.state_dict())
    assert torch.equal(search.probabilities()["edge"], torch.full((1, 5), 0.2))


def test_checkpoints_of_earlier_releases_hold_zeros_in_place_of_alphas() -> None:
    search, state = OnePath(), OnePath().state_dict()
    search.load_state_dict({**state, "alphas.edge": torch.zeros(1, 5)})
    torch.testing.assert_close(search.state_dict(), state, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(RuntimeError, match="betas"):
        search.load_state_dict({**state, "betas.edge": torch.zeros(1, 5)})
