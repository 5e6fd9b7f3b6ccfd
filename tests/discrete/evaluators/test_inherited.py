from __future__ import annotations

from typing import Any

import pytest
import torch

from oneshot.data import FakeImages
from oneshot.discrete import Proposal, RandomSearch, Study, SupernetEvaluator
from oneshot.supernets import NASBench201Supernet

OPTIONS: dict[str, Any] = {"num_classes": 3, "input_shape": (1, 8, 8), "train_size": 60, "test_size": 6}


def test_architectures_are_evaluated_with_the_weights_they_share() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)
    data = FakeImages(**OPTIONS, batch_size=16, val_fraction=0.3)
    evaluator = SupernetEvaluator(supernet, data, calibration=30)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    study = Study(RandomSearch(supernet.space), evaluator, ["max accuracy", "min params"], evaluations=5).run()
    assert all(record.result.failure is None for record in study.records)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())

    record = study.best
    network = evaluator.network(record.proposal)
    x, y = evaluator.inherited.images, evaluator.inherited.labels
    accuracy = float((network(x).argmax(1) == y).float().mean())
    assert accuracy == pytest.approx(record.result.metrics["accuracy"])
    assert record.result.metrics["params"] == sum(p.numel() for p in network.parameters())


def test_images_to_validate_with_are_needed() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)
    with pytest.raises(ValueError, match="compared on validation images; there are none"):
        SupernetEvaluator(supernet, FakeImages(**OPTIONS, batch_size=16, val_fraction=0.0))


def test_images_that_tell_no_architectures_apart_are_refused() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)
    data = FakeImages(**OPTIONS, batch_size=16, val_fraction=0.3)
    data.prepare_data()
    data.setup("fit")
    assert data.val_images is not None
    data.val_images.labels[:] = 1
    data.setup = lambda stage: None  # type: ignore[method-assign]  # keep these
    with pytest.raises(ValueError, match=r"one class \(1\) tell no architectures apart"):
        SupernetEvaluator(supernet, data, calibration=30)


def test_a_config_of_another_space_is_a_failure() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)
    evaluator = SupernetEvaluator(supernet, FakeImages(**OPTIONS, batch_size=16, val_fraction=0.3), calibration=30)
    from oneshot.supernets import SubnetConfig

    with pytest.raises(ValueError, match="The config must belong to space 'nasbench201'"):
        evaluator(Proposal(0, SubnetConfig("other", {"a": ["b"]})))
