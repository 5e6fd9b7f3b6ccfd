from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

import oneshot
from oneshot.callbacks import CostMonitor
from oneshot.cost import AdditiveCost, CostModel, CostPenalty, count, count_candidates
from oneshot.engine.module import SearchModule
from oneshot.engine.sharing import WeightSharingSearch
from oneshot.methods.darts import DARTS
from oneshot.methods.fbnet import FBNet
from oneshot.supernets import FBNetSupernet, NASBenchMacroSupernet

from .searches import IMAGES, Unrelated, choose, fit, make_darts_supernet, make_search, make_trainer


class Logged(Callback):
    """What was logged in every epoch, and what should have been: probabilities and derived architecture."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.truth: list[tuple[dict[str, torch.Tensor], Any]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SearchModule)
        found = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("cost/")}
        self.metrics.append(found)
        self.truth.append((pl_module.probabilities(), pl_module.derive()))


def run(folder: Path, search: SearchModule, monitor: CostMonitor, **kwargs: Any) -> Logged:
    logged = Logged()
    fit(make_trainer(folder, monitor, logged, **kwargs), search)
    return logged


def make_fbnet_supernet() -> FBNetSupernet:
    return FBNetSupernet(width=0.25, head_channels=8, num_classes=10, stem="cifar", **IMAGES)


@pytest.mark.parametrize(
    ("make", "costs"),
    [
        pytest.param(lambda: make_search(make_darts_supernet()), ["params", "macs", "memory"], id="darts"),
        pytest.param(lambda: FBNet(make_fbnet_supernet(), CostPenalty("params", "fbnet")), "macs", id="fbnet"),
        pytest.param(lambda: oneshot.GDAS(make_darts_supernet()), ["macs"], id="sparse"),
        pytest.param(lambda: oneshot.FairDARTS(make_darts_supernet()), "params", id="probabilities that are no shares"),
    ],
)
def test_expected_and_derived_cost_are_logged_after_every_epoch(
    tmp_path: Path, make: Callable[[], SearchModule], costs: Any
) -> None:
    search = make()
    logged = run(tmp_path, search, CostMonitor(costs))

    assert len(logged.metrics) == 2
    for metrics, (probabilities, config) in zip(logged.metrics, logged.truth, strict=True):
        network = search.supernet.extract(config, inherit=False)
        counts = count(network, search.supernet.input_shape)
        assert len(metrics) == 2 * len([costs] if isinstance(costs, str) else costs)
        for what, unit in (("params", "params"), ("macs", "MACs"), ("memory", "bytes")):
            if what in costs:
                model = count_candidates(search.supernet, what)
                assert metrics[f"cost/derived_{unit}"] == getattr(counts, what)
                expected = float(model.expected(probabilities))
                assert metrics[f"cost/expected_{unit}"] == pytest.approx(expected, rel=1e-6)


def test_the_two_costs_meet_when_the_search_is_certain(tmp_path: Path) -> None:
    search = DARTS(NASBenchMacroSupernet(channels=4, **IMAGES), arch_lr=0.0)
    choose(search, "layers", "k3_e3")
    with torch.no_grad():
        search.alphas["layers"].mul_(10)

    metrics = run(tmp_path, search, CostMonitor("macs"), max_epochs=1).metrics[0]

    assert metrics["cost/expected_MACs"] == pytest.approx(metrics["cost/derived_MACs"], rel=1e-6)


def latency(unit: str = "ms") -> CostModel:
    supernet = make_search().supernet
    return AdditiveCost(supernet.space, {"cell": torch.rand(6, 5)}, unit=unit, fixed=1.0, image_size=8)


def test_models_of_several_units_are_logged_beside_each_other(tmp_path: Path) -> None:
    monitor = CostMonitor([latency("ms"), latency("ms on the phone"), "macs"], every_n_epochs=2)

    logged = run(tmp_path, make_search(), monitor)

    assert logged.metrics[0] == {}  # only every second epoch
    names = [f"cost/{kind}_{unit}" for unit in ("ms", "ms on the phone", "MACs") for kind in ("derived", "expected")]
    assert sorted(logged.metrics[1]) == sorted(names)


def test_weight_sharing_alone_has_a_cost_when_it_has_ranked_architectures(tmp_path: Path) -> None:
    search = oneshot.RandomSharing(make_search().supernet, candidates=2, finalists=1)
    assert isinstance(search, WeightSharingSearch)

    logged = run(tmp_path, search, CostMonitor("params"))

    assert logged.metrics[0] == {}
    derived = count(search.supernet.extract(search.ranking[0][0], inherit=False), (1, 8, 8)).params
    assert logged.metrics[1] == {"cost/derived_params": derived}


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        pytest.param("time", "'params', 'macs', 'memory', .*; got 'time'", id="unknown"),
        pytest.param([], r"costs must be one or several, each of another unit; got \[\]", id="none"),
        pytest.param(
            [latency(), latency()], r"got \['ms', 'ms'\]. .* name the devices in the units", id="a unit twice"
        ),
    ],
)
def test_costs_that_cannot_be_logged_are_refused(costs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CostMonitor(costs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(Unrelated, "CostMonitor looks at a search and needs a SearchModule", id="no search"),
        pytest.param(
            lambda: make_search(make_darts_supernet()), "must be of space 'darts'; it is of 'nasbench201'", id="space"
        ),
    ],
)
def test_what_the_costs_are_not_of_is_refused(
    tmp_path: Path, make: Callable[[], pl.LightningModule], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(make_trainer(tmp_path, CostMonitor(latency())), make())
