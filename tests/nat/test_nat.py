"""NAT: the turns of training and search, what is trained between searches, and resuming."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from oneshot.callbacks import ParetoExport, SearchProgressBar
from oneshot.cost import LatencyTable, count_candidates, describe_supernet
from oneshot.cost.latency.table import describe_choices
from oneshot.evaluation import inherited
from oneshot.nat.evaluators import SupernetEvaluator, fingerprint
from oneshot.nat.nat import NAT
from oneshot.nat.objectives import Objective
from oneshot.regression.extra import ExtraFeatures
from oneshot.storage.run_log import RunLog
from oneshot.supernets import MobileNetV3Supernet, NASBenchMacroSupernet, SubnetConfig, Supernet
from oneshot.testing.methods import WINNER, PlantedSupernet, stripes
from oneshot.training.finite_loss import check_data

ROOT = Path(__file__).parents[2]


class Stripes(pl.LightningDataModule):
    """Rows and columns; the validation images are others."""

    def __init__(self, *, validation: int = 64, batch_size: int = 32, shuffle: bool = False) -> None:
        super().__init__()
        self.validation, self.batch_size, self.shuffle = validation, batch_size, shuffle

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*stripes(128, 0)), self.batch_size, shuffle=self.shuffle)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*stripes(self.validation, 1)), self.batch_size) if self.validation else []


def calibration() -> Tensor:
    return stripes(128, 0)[0][torch.randperm(128, generator=torch.Generator().manual_seed(0))[:64]]


def nat(kind: type[NAT] = NAT, **options: Any) -> NAT:
    torch.manual_seed(0)
    supernet = PlantedSupernet(["skip_connect", "nor_conv_1x1", WINNER], channels=4, edges=4)
    small = {"warmup_epochs": 1, "iterations": 2, "adapt_epochs": 1, "initial": 14, "batch": 4, "population": 20}
    rates = {"weight_lr": 0.1, "generations": 5, "calibration_images": 64, "evaluation_batch": 32}
    return kind(supernet, **{**small, **rates, **options})


def fit(search: NAT, folder: Path, data: pl.LightningDataModule | None = None, **options: Any) -> pl.Trainer:
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    checkpoint = options.pop("ckpt_path", None)
    epochs = search.warmup_epochs + search.iterations * search.adapt_epochs
    defaults: dict[str, Any] = {**dict.fromkeys(names, False), "limit_val_batches": 0, "max_epochs": epochs}
    trainer = pl.Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **{**defaults, **options})
    trainer.fit(search, datamodule=data or Stripes(), ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    return trainer


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> NAT:
    search = nat()
    fit(search, tmp_path_factory.mktemp("nat"))
    return search


def test_the_turns_of_training_and_search(done: NAT) -> None:
    sizes = [iteration.evaluations for iteration in done.pareto.history]
    assert sizes == [14, 18, 22]
    assert [done.searches_after(epochs) for epochs in range(5)] == [None, 0, 1, 2, None]
    later = nat(warmup_epochs=4, iterations=2, adapt_epochs=3)
    assert [epochs for epochs in range(12) if later.searches_after(epochs) is not None] == [4, 7, 10]


def test_the_archive_holds_the_smallest_and_the_largest(done: NAT) -> None:
    macs = count_candidates(done.supernet, "macs")  # type: ignore[arg-type]
    all_costs = macs.costs(done.supernet.space.repair(np.array(list(np.ndindex(3, 3, 3, 3)))))
    costs = done.pareto.archive.values[:, 1]
    assert {costs.min(), costs.max()} == {all_costs.min(), all_costs.max()}


def test_the_front_gets_the_planted_winner_and_gives_it_up_where_it_costs_too_much(done: NAT) -> None:
    archive, front = done.pareto.archive, done.pareto.front()
    configs = done.supernet.space.decode(archive.genes[front])
    errors = archive.values[front, 0]
    assert WINNER in done.derive()["edge"] and errors.min() < 0.1
    assert done.derive() == configs[int(errors.argmin())]
    smallest = configs[int(archive.values[front, 1].argmin())]
    assert smallest["edge"] == ("skip_connect",) * 4 and errors.max() > 0.3


def test_what_is_derived_keeps_the_constraints_although_others_have_less_error() -> None:
    macs = count_candidates(PlantedSupernet(["skip_connect", "nor_conv_1x1", WINNER], channels=4, edges=4), "macs")
    genes = np.unique(macs.space.repair(np.array(list(np.ndindex(3, 3, 3, 3)))), axis=0)
    costs = macs.costs(genes)
    bound = float(np.median(costs))
    search = nat(constraints={"macs": bound})
    errors = 1.0 - costs / (2 * costs.max())  # what costs more is better
    search.pareto.tell(genes, errors)
    derived = macs.cost(search.derive())
    assert derived == costs[costs <= bound].max() < costs.max()
    free = nat()
    free.pareto.tell(genes, errors)
    assert macs.cost(free.derive()) == costs.max()


def test_the_archive_is_measured_again_with_the_last_weights(done: NAT) -> None:
    x, y = stripes(64, 1)
    evaluator = SupernetEvaluator(done.supernet, x, y, calibration(), batch_size=32)
    archive = done.pareto.archive
    errors = evaluator.evaluate(done.supernet.space.decode(archive.genes))
    np.testing.assert_allclose(archive.values[:, 0], errors, atol=1e-12)


# Stopping early.


class StopAtBatch(pl.Callback):
    """In the middle of an epoch, as Timer does."""

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        trainer.should_stop |= trainer.current_epoch == 1 and args[-1] == 1


class StopAtEpoch(pl.Callback):
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop |= trainer.current_epoch == 1


class StopAfterEpoch(pl.callbacks.Checkpoint):
    """After the module's own hook, as EarlyStopping does."""

    on_train_epoch_end = StopAtEpoch.on_train_epoch_end


@pytest.mark.parametrize("stop", [StopAtBatch, StopAtEpoch, StopAfterEpoch])
def test_a_fit_that_stops_early_ends_with_errors_of_its_last_weights(stop: type[pl.Callback], tmp_path: Path) -> None:
    search = nat(adapt_epochs=2)
    options: dict[str, Any] = {"enable_checkpointing": True, "callbacks": [stop(), ParetoExport(tmp_path)]}
    trainer = fit(search, tmp_path, **options)
    assert trainer.current_epoch == 2 and search.outdated() == 0
    evaluator = SupernetEvaluator(search.supernet, *stripes(64, 1), calibration(), batch_size=32)
    errors = evaluator.evaluate(search.supernet.space.decode(search.pareto.archive.genes))
    np.testing.assert_allclose(search.pareto.archive.values[:, 0], errors, atol=1e-12)
    assert [row[0] for row in json.loads((tmp_path / "archive.json").read_text())["values"]] == errors


def test_a_fit_goes_on_after_an_early_stop_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, again = nat(adapt_epochs=2, sampler="candidates"), nat(adapt_epochs=2, sampler="candidates")
    fit(whole, tmp_path / "whole")
    stopped = nat(adapt_epochs=2, sampler="candidates")
    fit(stopped, tmp_path, enable_checkpointing=True, callbacks=[StopAtEpoch(), Save()])
    fit(again, tmp_path / "again", ckpt_path=tmp_path / "1.ckpt")
    (weights, state), (weights_again, state_again) = everything(whole), everything(again)
    assert state == state_again
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


# What is trained.


class Recorded(NAT):
    """Remembers what it trains."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trained: list[tuple[int, list[SubnetConfig]]] = []

    def paths(self, step: int) -> list[SubnetConfig]:
        paths = super().paths(step)
        self.trained.append((self.current_epoch, paths[1:-1]))
        return paths


@pytest.mark.parametrize("sampler", ["archive", "candidates", "uniform"])
def test_what_is_trained_after_the_first_search(sampler: str, tmp_path: Path) -> None:
    search = nat(Recorded, sampler=sampler, random_paths=8)
    fit(search, tmp_path)
    seen = {
        path
        for epoch, paths in search.trained  # type: ignore[attr-defined]
        if epoch == 1
        for path in paths
    }
    genes = search.supernet.space.encode(seen)
    candidates = search.supernet.space.decode(search.pareto.archive.genes)
    if sampler == "candidates":
        assert seen <= {*candidates[:18]}
    else:
        assert not seen <= {*candidates}
    assert len(genes) >= (1 if sampler == "candidates" else 4)


def test_the_candidates_that_are_trained_keep_the_constraints() -> None:
    macs = nat().macs
    most = float(np.quantile(macs.costs(macs.space.sample_matrix(500, 0)), 0.3))
    search = nat(sampler="candidates", constraints={"macs": most})
    genes = search.pareto.ask()
    search.pareto.tell(genes, 1.0 / macs.costs(genes))  # the larger, the better: all are on the front without bounds
    assert (macs.costs(search.draw(50, np.random.default_rng(0))) <= most).all()
    assert macs.costs(search.pareto.archive.genes[search.pareto.archive.front()]).max() > most


@pytest.mark.parametrize("sampler", ["archive", "candidates"])
def test_where_all_evaluations_failed_draws_are_uniform(sampler: str) -> None:
    search = nat(sampler=sampler)
    genes = search.pareto.ask()
    search.pareto.tell(genes, np.full(len(genes), np.nan))
    drawn = search.draw(3000, np.random.default_rng(0))
    assert np.bincount(drawn.ravel(), minlength=3) / drawn.size == pytest.approx([1 / 3] * 3, abs=0.02)


def test_archive_draws_follow_its_categorical_distributions() -> None:
    search = nat()
    space = search.supernet.space
    genes = search.pareto.ask()
    search.pareto.tell(genes, np.linspace(0.1, 0.5, len(genes)))
    drawn = search.draw(20_000, np.random.default_rng(0))
    for gene, size in enumerate(space.gene_sizes):
        expected = (np.bincount(genes[:, gene], minlength=size) + 1 / size) / (len(genes) + 1)
        np.testing.assert_allclose(np.bincount(drawn[:, gene], minlength=size) / len(drawn), expected, atol=0.02)


def test_archive_draws_are_like_the_best_of_the_archive() -> None:
    few, all_of_it = nat(sampled_from=3), nat(sampled_from=None)
    genes = few.pareto.ask()
    costs = few.macs.costs(genes)
    for search in (few, all_of_it):
        search.pareto.ask()
        search.pareto.tell(genes, costs / costs.max())  # the smaller, the better in both objectives
    best = few.pareto.archive.genes[np.argsort(costs, kind="stable")[:3]]
    drawn = few.draw(5000, np.random.default_rng(0))
    for gene in range(4):
        expected = (np.bincount(best[:, gene], minlength=3) + 1 / 3) / 4
        np.testing.assert_allclose(np.bincount(drawn[:, gene], minlength=3) / 5000, expected, atol=0.03)
    assert few.macs.costs(drawn).mean() < 0.8 * few.macs.costs(all_of_it.draw(5000, np.random.default_rng(0))).mean()


def test_the_learning_rate_is_annealed_in_every_turn() -> None:
    class AtEpoch(NAT):
        epoch = 0

        @property
        def current_epoch(self) -> int:
            return self.epoch

    search = nat(AtEpoch, warmup_epochs=4, iterations=2, adapt_epochs=3)
    positions = []
    for epoch in range(10):
        search.epoch = epoch  # type: ignore[attr-defined]
        positions.append(search.schedule_position())
    assert positions == [(0, 4), (1, 4), (2, 4), (3, 4), *[(0, 3), (1, 3), (2, 3)] * 2]


# Objectives.


def table_of(supernet: Supernet, residual: float) -> LatencyTable:
    """A convolution of 3 x 3 takes 3 ms, of 1 x 1 one, on every edge."""
    return LatencyTable(
        space=supernet.space.name,
        choices=describe_choices(supernet.space),
        input_shape=supernet.input_shape,
        batch=1,
        dtype="float32",
        table={"edge": [[0.0, 1.0, 3.0]] * 4},
        fixed=2.0,
        spread={"edge": [[0.0, 0.0, 0.0]] * 4},
        noise=0.01,
        residual=residual,
        networks=20,
        reference={"config": supernet.space.sample(0).to_dict(), "ms": 5.0},
        device={"runtime": "eager", "name": "a chip", "threads": 1},
        date="2026-01-01T00:00:00+00:00",
        supernet=describe_supernet(supernet),
    )


def test_devices_are_told_apart_by_the_names_of_their_files(tmp_path: Path) -> None:
    supernet = PlantedSupernet(["skip_connect", "nor_conv_1x1", WINNER], channels=4, edges=4)
    for name in ("phone", "board"):
        table = table_of(supernet, residual=0.1)
        table.save(tmp_path / f"{name}.json")
    paths = [str(tmp_path / f"{name}.json") for name in ("phone", "board")]
    assert nat(objectives=paths).pareto.archive.objectives == ("error", "phone", "board")
    search = nat(objectives=["macs", paths[0]], constraints={"latency": (8.0, 0.9)})
    assert search.pareto.archive.objectives == ("error", "macs", "latency")
    (bound,) = search.pareto.constraints
    genes = search.supernet.space.sample_matrix(50, 0)
    sure = bound.objective.upper(genes, 0.9) / bound.objective.values(genes)
    assert sure == pytest.approx(1.12816, rel=1e-4)  # 1.2816 standard deviations of the table's residual above


def test_any_objectives_and_constraints() -> None:
    supernet = NASBenchMacroSupernet(channels=4, num_classes=2, in_channels=1, image_size=8)
    macs = count_candidates(supernet, "macs")
    most = float(np.median(macs.costs(macs.space.sample_matrix(100, 0))))
    search = NAT(supernet, objectives=["params", "macs", "memory"], constraints={"macs": most, "params": (1e6, 0.9)})
    assert search.pareto.archive.objectives == ("error", "params", "macs", "memory")
    assert [c.at_most for c in search.pareto.constraints] == [most, 1e6]
    assert search.pareto.constraints[1].probability == 0.9
    assert (macs.costs(search.pareto.ask()) <= most).sum() >= 98  # all but the smallest and the largest
    mine = nat(objectives=[Objective("edges", "edges", lambda genes: genes.sum(1))])
    assert mine.pareto.archive.objectives == ("error", "edges")


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"iterations": 0}, "adapt_epochs=1, iterations=0.", id="iterations"),
        pytest.param({"warmup_epochs": 0, "adapt_epochs": 0}, "one of them above 0", id="no epoch"),
        pytest.param({"sampler": "best"}, "'archive', 'candidates' or 'uniform'; got 'best'", id="sampler"),
        pytest.param(
            {"objectives": ["flops"]},
            "a CostModel, 'params', 'macs', 'memory', .*; got 'flops'",
            id="name",
        ),
        pytest.param({"objectives": ["nowhere.json"]}, "nowhere.json", id="no-table"),
        pytest.param(
            {"constraints": {"macs": 1.0}}, "No architecture of space 'planted' has macs <= 1", id="infeasible"
        ),
        pytest.param(
            {"constraints": {"latency": 1.0}},
            "must be on one of the objectives macs, .*; got 'latency'",
            id="no-objective",
        ),
        pytest.param({"constraints": {"macs": "1e9"}}, r"such as \(3e8, 0.9\); got '1e9' for 'macs'", id="text"),
        pytest.param({"constraints": {"macs": (1e9, 0.9, 1)}}, r"got \(1000000000.0, 0.9, 1\) for", id="triple"),
        pytest.param({"population": 1}, r"2 objectives needs .* at least 4; got 1. Raise it\.$", id="population"),
        pytest.param(
            {"sampled_from": 0},
            "sampled_from must be at least 1, or None for the whole archive; got 0",
            id="sampled-from",
        ),
        pytest.param({"calibration_images": 1}, "calibration_images must be at least 2; got 1", id="calibration"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        nat(**options)


def test_the_epochs_of_the_fit_are_those_of_the_turns(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("1 epochs of warm-up and 2 times 1; got max_epochs=5.")):
        fit(nat(), tmp_path, max_epochs=5)


def test_validation_images_are_there_and_of_several_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are none. Use val_fraction=0.1"):
        fit(nat(), tmp_path, Stripes(validation=0))
    with pytest.raises(ValueError, match=r"of one class \(\d\) tell no architectures apart"):
        fit(nat(), tmp_path, Stripes(validation=1))


def test_loaders_do_without_a_data_module(tmp_path: Path) -> None:
    data, search, same = Stripes(), nat(iterations=1), nat(iterations=1)
    fit(same, tmp_path / "module", data)
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options: dict[str, Any] = {**dict.fromkeys(names, False), "limit_val_batches": 0, "max_epochs": 2}
    trainer = pl.Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path / "loaders", **options)
    trainer.fit(search, data.train_dataloader(), data.val_dataloader())
    assert everything(search)[1] == everything(same)[1]


def mobile(**options: Any) -> MobileNetV3Supernet:
    sizes: Any = {"widths": (0.1,), "depths": (1,), "kernels": (3,), "expansions": (2, 3)}
    return MobileNetV3Supernet(num_classes=2, in_channels=1, stem="cifar", **sizes, **options)


@pytest.mark.parametrize("declared", [True, False])
def test_images_are_enlarged_only_where_that_is_asked_for(declared: bool, tmp_path: Path) -> None:
    data = Stripes()  # of 8 pixels
    if declared:
        data.input_shape = (1, 8, 8)  # type: ignore[attr-defined]
    small = {"warmup_epochs": 1, "iterations": 1, "adapt_epochs": 1, "initial": 6, "batch": 1, "population": 10}
    options = {**small, "generations": 2, "calibration_images": 8, "predictors": ["ridge"]}
    for warmup in (0, 1):
        search = NAT(mobile(resolutions=(8, 16)), **{**options, "warmup_epochs": warmup})
        message = r"must have 16 pixels, .*; they have 8\. .* Pass resolutions up to 8, or upsample=True"
        with pytest.raises(ValueError, match=message):
            fit(search, tmp_path, data, limit_train_batches=1)
        assert not len(search.pareto.archive)
    search = NAT(mobile(resolutions=(8, 16), upsample=True), **options)
    fit(search, tmp_path / "asked", data, limit_train_batches=1)
    assert {config["resolution"] for config in search.supernet.space.decode(search.pareto.archive.genes)} == {
        (8,),
        (16,),
    }


def test_images_larger_than_the_resolutions_are_made_smaller() -> None:
    supernet = mobile(resolutions=(8, 16))
    check_data(SimpleNamespace(num_classes=2, input_shape=(1, 20, 20)), supernet)
    for shape in [(1, 20, 24), (3, 20, 20)]:
        with pytest.raises(ValueError, match="input_shape of SimpleNamespace is"):
            check_data(SimpleNamespace(num_classes=2, input_shape=shape), supernet)


def test_synchronised_statistics_of_some_channels_are_refused(tmp_path: Path) -> None:
    search = NAT(mobile(resolutions=(8,)), warmup_epochs=0, iterations=1, adapt_epochs=1)
    message = "SyncBatchNorm, which the Trainer would put in its place, .* Remove sync_batchnorm=True"
    with mock.patch.dict(os.environ), pytest.raises(ValueError, match=message):  # it would keep LOCAL_RANK
        fit(search, tmp_path, sync_batchnorm=True, strategy="ddp")


def test_a_cluster_that_is_not_there_is_named_before_the_training(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    search = nat(ray="127.0.0.1:1")
    with pytest.raises(ConnectionError, match="no Ray cluster at '127.0.0.1:1': .* have one started on this machine"):
        fit(search, tmp_path)
    assert not len(search.pareto.archive)
    with pytest.raises(ValueError, match=r"ray_workers must be at least 1 and ray_gpus at least 0; got 0 and 0\.0"):
        nat(ray="local", ray_workers=0)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_search_that_evaluates_on_ray_ends_as_one_that_does_not(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    here, search, seen = nat(iterations=1), nat(iterations=1, ray="local", ray_workers=2), []
    fit(here, tmp_path / "here")
    search.progress = lambda *now: seen.append(now)
    try:
        fit(search, tmp_path)
        assert ray.cluster_resources()["CPU"] == 2
    finally:
        ray.shutdown()
    assert everything(search)[1] == everything(here)[1]
    assert seen.count(("evaluating the archive", 18, 18)) == 1  # all at the end, told one by one


# Progress.


def shown(folder: Path, capsys: pytest.CaptureFixture[str], **console: Any) -> str:
    bar = SearchProgressBar(console_kwargs={"width": 200, **console})
    fit(nat(), folder, enable_progress_bar=True, callbacks=[bar])
    text: str = capsys.readouterr().out
    return text


def test_a_terminal_shows_how_many_architectures_are_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(tmp_path, capsys, force_terminal=True)
    assert re.search(r"candidates .*\b\d+/14 ", text) and re.search(r"archive .*\b\d+/18 ", text)
    assert "predictor and evolution" in text


def test_a_log_has_no_bars_of_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(tmp_path, capsys, force_terminal=False)
    assert "Epoch 2/2" in text
    assert not any(word in text for word in ("archive", "candidates", "evolution"))
    assert len(text.splitlines()) < 10


def test_what_a_search_has_found_is_logged_however_rarely_steps_are(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    search = nat()
    fit(search, tmp_path, logger=log, log_every_n_steps=3)  # of the 4 of an epoch
    rows = [row for row in log.rows if "nat/hypervolume" in row]
    assert [float(row["nat/evaluations"]) for row in rows] == [18, 22, 22]
    assert float(rows[-1]["nat/hypervolume"]) == pytest.approx(search.pareto.history[-1].hypervolume, rel=1e-5)
    front = search.pareto.archive.values[search.pareto.front(), 0]
    assert float(rows[-1]["nat/best_error"]) == pytest.approx(front.min(), rel=1e-5)


def test_a_fit_keeps_one_cluster_and_gives_it_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its images are stored once, with whatever weights it evaluates; what is left of a fit can be copied."""
    made: list[Any] = []

    class Cluster:
        def __init__(self, local: Any, **options: Any) -> None:
            made.append(self)
            self.local, self.weights = local, []

        def evaluate(self, configs: Any, done: Any = None) -> list[float]:
            self.weights.append(fingerprint(self.local.inherited.supernet))
            return self.local.evaluate(configs, done)  # type: ignore[no-any-return]

    monkeypatch.setattr("oneshot.nat.nat.RayEvaluator", Cluster)
    search = nat(iterations=1, ray="local")
    fit(search, tmp_path)
    assert len(made) == 1 and len(set(made[0].weights)) > 1
    copied = copy.deepcopy(search)
    assert search._cluster is None and copied._cluster is None


# Half precision.


def test_under_mixed_precision_errors_are_those_of_32_bits_and_a_resume_is_exact(done: NAT, tmp_path: Path) -> None:
    whole, again = nat(), nat()
    data = Stripes(validation=512)  # so many that rounding shows
    fit(whole, tmp_path, data, precision="bf16-mixed", enable_checkpointing=True, callbacks=[Save()])
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), done.parameters(), strict=True))
    x, y = stripes(512, 1)
    evaluator = SupernetEvaluator(whole.supernet, x, y, calibration(), batch_size=32)
    errors = evaluator.evaluate(whole.supernet.space.decode(whole.pareto.archive.genes))
    assert whole.pareto.archive.values[:, 0].tolist() == errors
    with torch.autocast("cpu", torch.bfloat16):
        rounded = evaluator.evaluate(whole.supernet.space.decode(whole.pareto.archive.genes))
    assert rounded != errors
    fit(again, tmp_path / "again", data, precision="bf16-mixed", ckpt_path=tmp_path / "1.ckpt")
    (weights, state), (weights_again, state_again) = everything(whole), everything(again)
    assert state == state_again
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


# Resuming.


class Save(pl.callbacks.Checkpoint):
    """After every epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(f"{trainer.default_root_dir}/{trainer.current_epoch}.ckpt")


def everything(search: NAT) -> tuple[dict[str, Tensor], str]:
    state = search.pareto.state_dict()
    for iteration in [*state["history"], state["proposal"]]:
        iteration["seconds"] = 0.0
    return copy.deepcopy(search.supernet.state_dict()), json.dumps(state)


@pytest.mark.parametrize("module", [True, False], ids=["data-module", "loaders"])
def test_what_is_evaluated_on_does_not_follow_the_random_numbers_of_a_run(module: bool, tmp_path: Path) -> None:
    seen = []
    for seed in (0, 1):
        search, data = nat(warmup_epochs=0, iterations=1), Stripes(shuffle=True)
        torch.manual_seed(seed)
        if module:
            fit(search, tmp_path / str(seed), data)
        else:
            names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
            trainer = pl.Trainer(
                accelerator="cpu",
                devices=1,
                default_root_dir=tmp_path / str(seed),
                max_epochs=1,
                limit_val_batches=0,
                **dict.fromkeys(names, False),
            )
            trainer.fit(search, data.train_dataloader(), data.val_dataloader())
        seen.append(search._images[2])  # type: ignore[index]  # the fit has read them
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], calibration())


def test_a_search_that_goes_on_with_other_images_is_told_so(tmp_path: Path) -> None:
    fit(nat(), tmp_path, enable_checkpointing=True, callbacks=[Save()])
    with pytest.warns(UserWarning, match="began with other validation images, .* Resume with the same data"):
        fit(nat(), tmp_path, Stripes(validation=60), ckpt_path=tmp_path / "1.ckpt")


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_resumed_fit_ends_as_an_uninterrupted_one(epoch: int, tmp_path: Path) -> None:
    whole = nat()
    fit(whole, tmp_path / "whole", enable_checkpointing=True, callbacks=[Save()])
    again = nat()
    fit(again, tmp_path / "again", ckpt_path=tmp_path / f"whole/{epoch}.ckpt")
    (weights, state), (weights_again, state_again) = everything(whole), everything(again)
    assert state == state_again
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


class Interrupted(RuntimeError):
    pass


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[SubnetConfig]:
    """From then on an evaluation raises; what was evaluated before is returned, as it happens."""
    measured: list[SubnetConfig] = []
    measure = inherited.inherited_error

    def counted(supernet: Supernet, config: SubnetConfig, *args: Any, **options: Any) -> float:
        if len(measured) == count:
            raise Interrupted
        measured.append(config)
        return measure(supernet, config, *args, **options)

    monkeypatch.setattr(inherited, "inherited_error", counted)
    return measured


@pytest.mark.parametrize("count", [5, 17, 30])
def test_nothing_is_evaluated_twice_after_an_interruption(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = nat()
    with monkeypatch.context() as patch:
        all_measured = interrupt_after(10**6, patch)
        fit(whole, tmp_path / "whole")
    with monkeypatch.context() as patch:
        before = interrupt_after(count, patch)
        with pytest.raises(Interrupted):
            fit(nat(), tmp_path / "run", enable_checkpointing=True, callbacks=[Save()])
    saved = sorted((tmp_path / "run").glob("*.ckpt"))
    with monkeypatch.context() as patch:
        after = interrupt_after(10**6, patch)
        again = nat()
        fit(again, tmp_path / "run", ckpt_path=saved[-1] if saved else None)
    assert everything(again)[1] == everything(whole)[1]
    assert len(before) + len(after) == len(all_measured)


def test_errors_of_other_images_are_not_read_back(tmp_path: Path) -> None:
    """Two searches in one folder that begin with the same weights, as pretrained ones are."""

    class Others(Stripes):
        def val_dataloader(self) -> Any:
            x, y = stripes(64, 1)
            return DataLoader(TensorDataset(x, 1 - y), 32)

    errors = []
    for data, folder in ((Stripes(), "one"), (Others(), "one"), (Others(), "another")):
        search = nat(warmup_epochs=0, iterations=1)
        fit(search, tmp_path / folder, data, enable_checkpointing=True, callbacks=[Save()])
        assert (tmp_path / folder / "evaluations").is_dir()
        errors.append(search.pareto.archive.values[:14, 0].tolist())
    assert errors[1] == errors[2] != errors[0]


@pytest.mark.nightly
def test_a_killed_run_goes_on_and_ends_as_another_one(tmp_path: Path) -> None:
    """SIGKILL at random moments; every evaluation that was written down is used."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from tests.nat.test_nat import Save, everything, fit, nat\n"
        "folder = Path(sys.argv[2]); search = nat(iterations=3)\n"
        "saved = sorted(folder.glob('*.ckpt'))\n"
        "fit(search, folder, enable_checkpointing=True, callbacks=[Save()], ckpt_path=saved[-1] if saved else None)\n"
        "(folder / 'state.json').write_text(everything(search)[1])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-c", script, str(ROOT), str(folder)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait(240) == 0
    folder, kills, rng = tmp_path / "killed", 0, np.random.default_rng(0)
    journal = folder / "evaluations/evaluations.0.jsonl"
    for _ in range(30):
        process, rows = start(folder), len(journal.read_bytes().splitlines()) if journal.is_file() else 0
        wanted, deadline = rows + int(rng.integers(5, 25)), time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if journal.is_file() and len(journal.read_bytes().splitlines()) >= wanted:
                process.send_signal(signal.SIGKILL)
                kills += 1
            time.sleep(0.002)
        process.wait()
        if (folder / "state.json").is_file():
            break
        written = journal.read_bytes().splitlines() if journal.is_file() else []
        assert len(written) >= rows  # nothing is lost
    assert (folder / "state.json").read_text() == (tmp_path / "whole/state.json").read_text()
    rows = [line for line in journal.read_text().splitlines() if line.endswith("}")]
    keys = [(row["weights"], row["config"]) for row in map(json.loads, rows)]
    assert len(keys) == len(set(keys)), "something was evaluated twice"
    assert kills >= 3


def test_without_checkpoints_nothing_is_left_behind(tmp_path: Path) -> None:
    fit(nat(iterations=1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_search_is_refused(tmp_path: Path) -> None:
    fit(nat(), tmp_path, enable_checkpointing=True, callbacks=[Save()])
    with pytest.raises(ValueError, match="objectives: macs"):
        fit(nat(objectives=["params"]), tmp_path / "other", ckpt_path=tmp_path / "0.ckpt")


def test_all_searches_come_after_the_warm_up_where_nothing_is_adapted(tmp_path: Path) -> None:
    search = nat(warmup_epochs=2, adapt_epochs=0, iterations=3, random_paths=0, smallest=False)
    weights: list[dict[str, Tensor]] = []
    searched = search.search
    search.search = lambda number: weights.append(copy.deepcopy(search.supernet.state_dict())) or searched(number)  # type: ignore[method-assign, func-returns-value]
    (tmp_path / "evaluations").mkdir()  # where it is, and where there are checkpoints, evaluations are kept
    trainer = fit(search, tmp_path)
    assert [iteration.evaluations for iteration in search.pareto.history] == [14, 18, 22, 26] and len(weights) == 4
    assert all(torch.equal(weights[0][name], value) for name, value in search.supernet.state_dict().items())
    rows = (tmp_path / "evaluations" / "evaluations.0.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == len(search.pareto.archive) == 26, "nothing is evaluated twice"
    assert trainer.callback_metrics["nat/hypervolume"] == pytest.approx(search.pareto.history[-1].hypervolume)
    assert not search.outdated() and search.schedule_position() == (2, 2)


class Winners(ExtraFeatures):
    """How often an architecture has the planted winner."""

    names = ("winners",)

    def __call__(self, configs: Sequence[SubnetConfig]) -> Any:
        return np.array([[float(config["edge"].count(WINNER))] for config in configs])


def test_predictors_see_extra_features_and_a_fit_goes_on_with_the_same(tmp_path: Path) -> None:
    search = nat(features=Winners())
    fit(search, tmp_path / "whole", enable_checkpointing=True, callbacks=[Save()])
    assert search.pareto.features is not None and search.pareto.predictor is not None
    again = nat(features=Winners())
    fit(again, tmp_path / "again", ckpt_path=tmp_path / "whole/0.ckpt")
    assert everything(again)[1] == everything(search)[1]
    with pytest.raises(ValueError, match=r"features: .*Winners \(winners\), now None"):
        fit(nat(), tmp_path / "other", ckpt_path=tmp_path / "whole/0.ckpt")
