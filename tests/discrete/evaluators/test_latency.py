"""Latency as a metric of evaluators."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from oneshot.cost import Device
from oneshot.data import FakeImages
from oneshot.discrete import MeasuredLatency, Proposal, RandomSearch, Study, SupernetEvaluator, TrainingEvaluator
from oneshot.supernets import NASBench201Supernet
from tests.latency_tables import CELLS, table_of

COSTS = {"none": 0.0, "skip_connect": 0.25, "nor_conv_1x1": 1.5, "nor_conv_3x3": 4.0, "avg_pool_3x3": 0.75}


def images() -> FakeImages:
    return FakeImages(num_classes=3, input_shape=(3, 8, 8), train_size=60, test_size=6, batch_size=16, val_fraction=0.3)


def evaluator(folder: Path, **options: Any) -> TrainingEvaluator:
    trainer = {"accelerator": "cpu", "limit_train_batches": 1, "limit_val_batches": 1}
    build = NASBench201Supernet(**CELLS)
    return TrainingEvaluator(images(), folder, build=build, epochs=1, trainer=trainer, **options)


def test_the_latency_is_the_median_of_the_passes_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([900.0, 800.0, 7.0, 3.0, 100.0])
    monkeypatch.setattr(Device, "time", lambda self, run: next(times))
    supernet = NASBench201Supernet(**CELLS)
    network = supernet.extract(supernet.space.sample(0))
    network.train()
    assert MeasuredLatency(passes=3, warm_up=2, dtype="bfloat16")(network) == 7.0
    assert network.training and all(part.dtype == torch.float32 for part in network.parameters()), "it is as it was"


def test_a_measured_latency_is_of_the_device_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Device] = []

    def time(self: Device, run: object) -> float:
        seen.append(self)
        return 1.0

    monkeypatch.setattr(Device, "time", time)
    supernet = NASBench201Supernet(**CELLS)
    MeasuredLatency(threads=1, batch=4, passes=1, warm_up=0)(supernet.extract(supernet.space.sample(0)))
    assert (seen[0].threads, seen[0].batch, seen[0].runtime) == (1, 4, "eager")


def test_a_study_minimises_the_latency_of_a_table(tmp_path: Path) -> None:
    supernet = NASBench201Supernet(**CELLS)
    table = table_of(supernet, tmp_path / "table.json")
    found = evaluator(tmp_path / "w", latency=table)
    assert "latency" in found.metrics
    study = Study(RandomSearch(supernet.space), found, ["min latency", "min error"], evaluations=2).run()
    for record in study.evaluated:
        expected = 2.0 + sum(COSTS[op] for op in record.proposal.config["cell"])  # the fixed part, and a cost per edge
        assert record.result.metrics["latency"] == pytest.approx(expected, rel=1e-9)
    assert study.best.result.metrics["latency"] == min(r.result.metrics["latency"] for r in study.evaluated)


def test_inherited_weights_have_a_latency_too(tmp_path: Path) -> None:
    supernet = NASBench201Supernet(**CELLS)
    table = table_of(supernet, tmp_path / "table.json")
    config = supernet.space.sample(1)
    metrics = SupernetEvaluator(supernet, images(), calibration=16, latency=table)(Proposal(0, config))
    assert metrics["latency"] == pytest.approx(2.0 + sum(COSTS[op] for op in config["cell"]), rel=1e-9)


def test_what_says_the_latency_goes_to_another_process(tmp_path: Path) -> None:
    given = evaluator(tmp_path, latency=MeasuredLatency(threads=1))
    metrics = ("accuracy", "error", "params", "macs", "latency")
    assert pickle.loads(pickle.dumps(given)).metrics == given.metrics == metrics


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"build": None, "latency": "t.json"}, "must be a MeasuredLatency where networks", id="graphs"),
        pytest.param({"latency": "t.txt"}, "A cost must be a CostModel", id="ending"),
        pytest.param(
            {"latency": MeasuredLatency(), "costs": {"latency": lambda network: 1.0}}, "must be given once", id="twice"
        ),
    ],
)
def test_what_is_no_latency_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    settings = {"build": NASBench201Supernet(**CELLS), "epochs": 1, **options}
    with pytest.raises(ValueError, match=message):
        TrainingEvaluator(images(), tmp_path, **settings)


def test_numbers_of_passes_are_checked() -> None:
    with pytest.raises(ValueError, match="passes must be at least 1 and warm_up at least 0; got 0 and 5"):
        MeasuredLatency(passes=0)


def test_the_way_to_a_latency_is_told_where_there_is_none(tmp_path: Path) -> None:
    space = NASBench201Supernet(**CELLS).space
    with pytest.raises(ValueError, match=r"got latency. TrainingEvaluator and .* latency=MeasuredLatency\(\)"):
        Study(RandomSearch(space), evaluator(tmp_path), ["min latency"], evaluations=1)
