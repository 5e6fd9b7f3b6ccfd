from __future__ import annotations

import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from oneshot.data import FakeImages
from oneshot.discrete import (
    NASH,
    GeneticCNNSpace,
    GraphNetwork,
    MorphismRecord,
    Proposal,
    RandomSearch,
    Study,
    SuccessiveHalving,
    TrainingEvaluator,
    plain_graph,
    replay,
)
from oneshot.supernets import NASBench201Supernet

SHAPE = (1, 8, 8)


def images(**changes: Any) -> FakeImages:
    options: dict[str, Any] = {"num_classes": 3, "input_shape": SHAPE, "train_size": 60, "test_size": 6}
    return FakeImages(**{**options, "batch_size": 16, "val_fraction": 0.3, **changes})


def evaluator(folder: Path, **changes: Any) -> TrainingEvaluator:
    return TrainingEvaluator(images(), folder, **{"epochs": 1, "calibration": 32, **changes})


class Loaders(pl.LightningDataModule):
    """Data of a user that say nothing about themselves."""

    def setup(self, stage: str) -> None:
        self.images = images()
        self.images.setup(stage)

    def train_dataloader(self) -> Any:
        return self.images.train_dataloader()

    def val_dataloader(self) -> Any:
        return self.images.val_dataloader()


def first(number: int = 0, **changes: Any) -> Proposal:
    return Proposal(number, plain_graph((4, 4)).config, **changes)


def test_the_same_proposal_gives_the_same_weights_and_leaves_random_numbers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    expected = torch.rand(3), random.random(), np.random.rand()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    one, two = evaluator(tmp_path / "1"), evaluator(tmp_path / "2")
    assert one(first()) == two(first())
    got = torch.rand(3), random.random(), np.random.rand()
    assert torch.equal(expected[0], got[0]) and expected[1:] == got[1:]
    assert "PL_GLOBAL_SEED" not in os.environ, "data that is made later takes its seed from there"
    for a, b in zip(one.load(0).state_dict().values(), two.load(0).state_dict().values()):
        assert torch.equal(a, b)


def test_another_proposal_or_another_seed_is_another_training(tmp_path: Path) -> None:
    """Of one architecture: other initial weights, and so on; one seed for all would be a study of one training."""
    one, other = evaluator(tmp_path / "1"), evaluator(tmp_path / "2", seed=1)
    for it, proposal in ((one, first(0)), (one, first(1)), (other, first(0))):
        it(proposal)
    networks = [one.load(0), one.load(1), other.load(0)]
    weights = [dict(network.named_parameters()) for network in networks]
    assert len(weights[0]) > 2
    for name in (name for name, weight in weights[0].items() if weight.ndim > 1):
        assert len({tuple(part[name].flatten().tolist()) for part in weights}) == 3, name


def test_metrics_are_those_of_the_network(tmp_path: Path) -> None:
    it = evaluator(tmp_path, costs={"convs": lambda net: sum(isinstance(m, torch.nn.Conv2d) for m in net.modules())})
    found = it(first())
    network = it.network(first())
    assert tuple(found) == it.metrics == ("accuracy", "error", "params", "macs", "convs")
    assert found["params"] == sum(p.numel() for p in network.parameters()) and found["convs"] == 2
    assert 0 <= found["accuracy"] <= 1 and found["error"] == 1 - found["accuracy"]
    data = images()
    data.setup("fit")
    x, y = zip(*data.val_dataloader())
    accuracy = (network(torch.cat(x)).argmax(1) == torch.cat(y)).float().mean()
    assert float(accuracy) == pytest.approx(found["accuracy"])


def test_weights_are_found_from_another_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    it = evaluator(Path("weights"))
    it(first())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert it.beginning(first(1, parent=0)).config == first().config


def test_a_higher_fidelity_goes_on_from_the_weights_of_the_lower_one(tmp_path: Path) -> None:
    it = evaluator(tmp_path)
    it(first(fidelity=1))
    higher = first(1, parent=0, fidelity=3, trained=1)
    begun = it.beginning(higher)
    for a, b in zip(begun.state_dict().values(), it.load(0).state_dict().values()):
        assert torch.equal(a, b)
    it(higher)
    with pytest.raises(ValueError, match="a training must have at least one epoch; fidelity 3 after 3 leaves 0"):
        it(first(2, parent=1, fidelity=3, trained=3))


def test_another_architecture_inherits_the_weights_that_fit(tmp_path: Path) -> None:
    it = evaluator(tmp_path)
    it(first())
    wider = it.beginning(Proposal(1, plain_graph((4, 6)).config, parent=0)).state_dict()
    before = it.load(0).state_dict()
    kept = {name for name, value in wider.items() if name in before and torch.equal(value, before[name])}
    assert "ops.1.weight" in kept, "the first convolution"
    assert not any(value.shape != before[name].shape for name, value in wider.items() if name in kept)
    assert len(kept) < len(before)


def test_any_supernet_or_function_builds_networks(tmp_path: Path) -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)
    it = evaluator(tmp_path / "supernet", build=supernet)
    assert it.space is supernet.space
    study = Study(RandomSearch(supernet.space), it, ["max accuracy"], evaluations=2, retries=0).run()
    assert [record.result.failure for record in study.records] == [None, None]
    encoding = GeneticCNNSpace(nodes_per_stage=(2,), channels=(4,))
    for build in (encoding.network(SHAPE, 3), encoding):  # of the shape and the classes of the data
        it = evaluator(tmp_path / "encoding", build=build)
        assert it.space == encoding and it(Proposal(0, encoding.sample(0)))["params"] > 0
    with pytest.raises(ValueError, match="Data must have input_shape and num_classes, .* Loaders lacks one"):
        TrainingEvaluator(Loaders(), tmp_path / "loaders", build=encoding)
    built = partial(GraphNetwork.from_config, input_shape=SHAPE, num_classes=3)
    assert evaluator(tmp_path / "function", build=built)(first())["params"] > 0


def test_successive_halving_trains_on_and_a_study_that_was_stopped_ends_alike(tmp_path: Path) -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)

    def study(folder: Path, evaluations: int) -> Study:
        strategy = SuccessiveHalving(supernet.space, least=1, most=2, eta=2)
        it = evaluator(folder / "weights", build=supernet)
        return Study(strategy, it, ["max accuracy"], folder=folder, evaluations=evaluations, retries=0)

    whole = study(tmp_path / "whole", 6).run()
    for evaluations in (2, 5, 6):
        parts = study(tmp_path / "parts", evaluations).run()
    assert any(record.proposal.trained for record in whole.records)
    assert [(r.proposal, r.result.values) for r in parts.records] == [
        (r.proposal, r.result.values) for r in whole.records
    ]


def test_an_epoch_of_distillation_sees_all_training_images_or_as_many_as_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, step = [0], torch.optim.Adam.step

    def counted(self: torch.optim.Adam, *args: Any) -> Any:
        steps[0] += 1
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    data = images(train_size=400)  # 280 to train with
    TrainingEvaluator(data, tmp_path, epochs=1)(first())
    separate = {"operator": "separate", "arguments": {"node": "1"}, "seed": 0}
    widen = {"operator": "widen", "arguments": {"node": "1", "channels": 8}, "seed": 0}
    for trace, options, expected in (
        (separate, {}, 1 * 4),  # batches of 64
        (separate, {"distil": 3}, 3 * 4),
        (separate, {"distil": 3, "distil_images": 130}, 3 * 2),
        (separate, {"distil": 0}, 0),
        (widen, {}, 0),
    ):
        it = TrainingEvaluator(data, tmp_path, calibration=32, **options)  # type: ignore[arg-type]
        steps[0] = 0
        records = [MorphismRecord.from_dict(trace)]
        child = replay(it.load(0), records, torch.zeros(2, *SHAPE))  # type: ignore[arg-type]
        it.beginning(Proposal(1, child.config, parent=0, trace=(trace,)))
        assert steps[0] == expected


@pytest.mark.slow
def test_nash_climbs_with_weights_and_all(tmp_path: Path) -> None:
    strategy = NASH([(4, 4)], SHAPE, 3, steps=2, neighbours=3, morphisms=1, start_epochs=3, epochs=2, final_epochs=1)
    study = Study(strategy, evaluator(tmp_path), ["max accuracy"], evaluations=20, retries=0).run()
    assert len(study.evaluated) == 1 + 3 + 3 + 1
    assert all(record.result.failure is None for record in study.records)


def test_faults_name_what_is_wrong(tmp_path: Path) -> None:
    it = evaluator(tmp_path)
    with pytest.raises(ValueError, match="the weights of proposal 7 are not in"):
        it(first(8, parent=7))
    it(first())
    deeper = {"operator": "widen", "arguments": {"node": "1", "channels": 8}, "seed": 0}
    with pytest.raises(ValueError, match="the trace of proposal 3 makes another network than it proposes"):
        it(first(3, parent=0, trace=(deeper,)))
    with pytest.raises(ValueError, match="there are none. Use val_fraction=0.1"):
        TrainingEvaluator(images(val_fraction=0.0), tmp_path)
    with pytest.raises(ValueError, match="got epochs=0, calibration=256, distil=1, distil_images=10000"):
        TrainingEvaluator(images(), tmp_path, epochs=0)
    with pytest.raises(ValueError, match="distil_images at least 2; .*distil_images=1"):
        TrainingEvaluator(images(), tmp_path, distil_images=1)


def test_graphs_are_not_what_other_strategies_search(tmp_path: Path) -> None:
    strategy = RandomSearch(NASBench201Supernet(channels=4, cells_per_stage=1).space)
    with pytest.raises(ValueError, match="evaluator must be of space 'nasbench201'; it is of 'network_graph'"):
        Study(strategy, evaluator(tmp_path), ["max accuracy"], evaluations=2)
