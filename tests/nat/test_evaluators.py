"""Errors with inherited weights: those of networks that stand alone, wherever they are measured."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from oneshot.evaluation import inherited
from oneshot.evaluation.recalibration import recalibrate
from oneshot.nat.evaluators import (
    Done,
    Evaluator,
    JournalledEvaluator,
    RayEvaluator,
    SupernetEvaluator,
    checksum,
    fingerprint,
)
from oneshot.supernets import SubnetConfig
from oneshot.supernets.base import Supernet

from ..evaluation.small import images, macro, mobile


def configs_of(supernet: Supernet, n: int) -> list[SubnetConfig]:
    return supernet.space.unique(supernet.space.decode(supernet.space.sample_matrix(n, 0)))


def alone(
    supernet: Supernet, config: SubnetConfig, x: Tensor, y: Tensor, calibration: Tensor | None, parts: Any = 20
) -> float:
    """The extracted network, calibrated by the function that ``oneshot pick`` uses."""
    network = supernet.extract(config).eval()
    size = network.input_shape[-1]

    def resized(t: Tensor) -> Tensor:
        if t.shape[-1] == size:
            return t
        return F.interpolate(t, size=(size, size), mode="bilinear", antialias=True, align_corners=False)

    if calibration is not None:
        recalibrate(network, resized(calibration).split(parts))
    with torch.no_grad():
        return 1 - float((network(resized(x)).argmax(1) == y).double().mean())


@pytest.mark.parametrize("make", [macro, mobile])
def test_errors_are_those_of_calibrated_networks(make: Any) -> None:
    supernet, (x, y), (calibration, _) = make(), images(60, 1), images(40, 2)
    configs = configs_of(supernet, 12)
    if make is mobile:
        assert len({supernet.resolution(config) for config in configs}) == 2
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    told: list[tuple[SubnetConfig, float]] = []
    errors = SupernetEvaluator(supernet, x, y, calibration, batch_size=20).evaluate(
        configs, lambda config, error: told.append((config, error))
    )
    expected = [alone(supernet, config, x, y, calibration) for config in configs]
    assert errors == pytest.approx(expected, abs=0.04)  # an image on the edge of two classes
    assert sum(abs(a - b) < 1e-6 for a, b in zip(errors, expected, strict=True)) >= len(configs) - 2
    uncalibrated = [alone(supernet, config, x, y, None) for config in configs]
    assert errors != pytest.approx(uncalibrated, abs=0.04)
    assert sorted(told, key=str) == sorted(zip(configs, errors, strict=True), key=str)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_a_network_whose_output_is_not_finite_has_failed() -> None:
    supernet, (x, y) = macro(), images(20, 1)
    with torch.no_grad():
        supernet.layers[7].ops[2].body[0].weight.fill_(float("nan"))  # type: ignore[union-attr,index,operator,attr-defined]
    space = supernet.space
    broken, whole = space.decode([[0] * 7 + [2], [0] * 8])
    errors = SupernetEvaluator(supernet, x, y, x).evaluate([broken, whole])
    assert math.isnan(errors[0]) and not math.isnan(errors[1])


def test_no_calibration_image_is_alone_in_a_batch() -> None:
    """At 8 pixels the last layers have one pixel, of which a single image has no variance."""
    supernet, (x, y), (calibration, _) = mobile(), images(20, 1), images(21, 2)
    low = next(config for config in configs_of(supernet, 12) if supernet.resolution(config) == 8)
    (error,) = SupernetEvaluator(supernet, x, y, calibration, batch_size=20).evaluate([low])
    assert error == pytest.approx(alone(supernet, low, x, y, calibration, parts=(11, 10)), abs=1e-6)


# The journal.


class Counting(Evaluator):
    """Names of length n have error n / 1000; the third evaluation may raise."""

    def __init__(self, fails: bool = False) -> None:
        self.asked: list[SubnetConfig] = []
        self.fails = fails

    def evaluate(self, configs: Sequence[SubnetConfig], done: Done | None = None) -> list[float]:
        errors = []
        for config in configs:
            if self.fails and len(self.asked) == 3:
                raise RuntimeError("out of memory")
            self.asked.append(config)
            errors.append(math.nan if config["layers"][0] == "identity" else len(str(config)) / 1000)
            if done is not None:
                done(config, errors[-1])
        return errors


def test_the_journal_gives_back_what_was_measured_with_the_same_weights(tmp_path: Path) -> None:
    configs = configs_of(macro(), 10)
    first, second, third, other = Counting(fails=True), Counting(), Counting(), Counting()
    with pytest.raises(RuntimeError, match="out of memory"):
        JournalledEvaluator(first, tmp_path, weights=7).evaluate(configs)
    with (tmp_path / "evaluations.0.jsonl").open("a") as file:
        file.write('{"weights": 7, "conf')  # killed while it wrote
    errors = JournalledEvaluator(second, tmp_path, weights=7).evaluate(configs)
    assert second.asked == configs[3:]
    expected = Counting().evaluate(configs)
    assert str(errors) == str(expected) and any(map(math.isnan, errors))
    assert str(JournalledEvaluator(third, tmp_path, weights=7).evaluate(configs)) == str(expected)
    assert third.asked == [], "the line that was cut off must not spoil the one behind it"
    JournalledEvaluator(other, tmp_path, weights=8).evaluate(configs)
    assert other.asked == configs


def test_images_are_resized_once_for_all_architectures_of_a_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where each is evaluated by a call of its own, as workers of a cluster do."""
    supernet, (x, y), sizes = mobile(), images(20, 1), list[int]()
    fit = inherited.fitted

    def fitted(network: Supernet, part: Tensor, config: SubnetConfig) -> Tensor:
        if len(part) > 1:  # one is tried when an evaluator is made
            sizes.append(network.resolution(config))
        return fit(network, part, config)

    monkeypatch.setattr(inherited, "fitted", fitted)
    configs = configs_of(supernet, 12)
    together, alone = SupernetEvaluator(supernet, x, y, x), SupernetEvaluator(supernet, x, y, x)
    errors = together.evaluate(configs)
    assert sorted(sizes) == [8, 8, 16, 16]
    order = alone.order(configs)
    assert [alone.evaluate([configs[i]])[0] for i in order] == [errors[i] for i in order]
    assert sorted(sizes) == [8] * 4 + [16] * 4 and order != sorted(order)


def test_the_fingerprint_changes_with_a_weight_and_not_with_a_statistic() -> None:
    supernet = macro()
    before = fingerprint(supernet)
    supernet.layers[0].ops[1].body[1].running_mean.add_(1.0)  # type: ignore[union-attr,index,operator,attr-defined]
    assert fingerprint(supernet) == before
    with torch.no_grad():
        next(supernet.parameters()).view(-1)[0].add_(1e-6)
    assert fingerprint(supernet) != before


def test_the_fingerprint_changes_with_what_is_evaluated_on() -> None:
    supernet, (x, y) = macro(), images(4, 1)
    first, other, again = (
        fingerprint(supernet, checksum([("images", x), ("labels", labels)])) for labels in (y, 2 - y, y)
    )
    assert first == again != other


# Ray.


class Dying(Evaluator):
    """Its process dies at the first evaluation that finds no file; then the file is there."""

    def __init__(self, file: Path, config: SubnetConfig) -> None:
        self.file, self.config = file, config

    def evaluate(self, configs: Sequence[SubnetConfig], done: Done | None = None) -> list[float]:
        if configs[0] == self.config and not self.file.exists():
            self.file.write_text(json.dumps(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return [len(str(config)) / 1000 for config in configs]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    cluster = pytest.importorskip("ray")
    yield cluster
    cluster.shutdown()


def test_an_evaluator_without_its_images_is_small_and_with_them_again_the_same() -> None:
    supernet, (x, y), (calibration, _) = macro(), images(400, 1), images(20, 2)
    local, configs = SupernetEvaluator(supernet, x, y, calibration, batch_size=20), configs_of(supernet, 2)
    errors = local.evaluate(configs)  # has resized its images
    bare, data = local.without_data()
    assert len(pickle.dumps(bare)) + x.nbytes < len(pickle.dumps(local))
    assert data[0] is x and data[1] is y
    assert pickle.loads(pickle.dumps(bare)).with_data(data).evaluate(configs) == errors
    assert local.evaluate(configs) == errors, "the evaluator itself has not changed"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.nightly
def test_a_ray_cluster_measures_the_same_and_a_lost_worker_costs_nothing(ray: Any, tmp_path: Path) -> None:
    supernet, (x, y), (calibration, _) = macro(), images(40, 1), images(20, 2)
    configs = configs_of(supernet, 8)
    local = SupernetEvaluator(supernet, x, y, calibration, batch_size=20)
    told: list[SubnetConfig] = []
    handler = signal.getsignal(signal.SIGTERM)
    cluster = RayEvaluator(local, workers=2)
    assert signal.getsignal(signal.SIGTERM) == handler, "a fit that is stopped still saves its checkpoint"
    assert cluster.evaluate(configs, lambda config, error: told.append(config)) == local.evaluate(configs)
    assert sorted(map(str, told)) == sorted(map(str, configs))
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    stored, before = cluster._stored, local.evaluate(configs[:3])
    cluster.local = SupernetEvaluator(supernet, x, y, calibration, local.inherited.calibration_labels, batch_size=20)
    assert cluster.evaluate(configs[:3]) == before, "weights are those of now"
    assert cluster._stored is stored, "images stay in the cluster"
    cluster.local = SupernetEvaluator(supernet, x[:30], y[:30], calibration, batch_size=20)
    assert cluster.evaluate(configs[:3]) == cluster.local.evaluate(configs[:3]), "other images are sent"
    cluster.local = Dying(tmp_path / "died", configs[3])
    assert cluster.evaluate(configs) == [len(str(config)) / 1000 for config in configs]
    assert (tmp_path / "died").exists()


class Broken(Counting):
    """Cannot be where the workers are."""

    def to(self, device: str) -> Evaluator:
        if device != "cpu" or self.fails:
            raise RuntimeError("no such supernet here")
        return Broken(fails=True)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_workers_that_find_no_room_or_cannot_begin_do_not_keep_anybody_waiting(ray: Any) -> None:
    configs = configs_of(macro(), 6)
    cluster = RayEvaluator(Counting(), workers=2)
    cores = int(ray.cluster_resources()["CPU"])
    crowd = RayEvaluator(Counting(), workers=cores + 3)
    assert str(crowd.evaluate(configs)) == str(Counting().evaluate(configs))
    cluster.local, cluster.retries = Broken(), 1
    with pytest.raises(RuntimeError, match=r"(?s)die before they begin: .*no such supernet here"):
        cluster.evaluate(configs)
    with pytest.raises(ValueError, match=r"A worker needs 1 cores and 64 GPUs of one machine.* have \d+ cores, 0 GPUs"):
        RayEvaluator(Counting(), gpus=64)


def test_a_cluster_that_is_not_there_is_named(ray: Any) -> None:
    ray.shutdown()
    with pytest.raises(ConnectionError, match=r"no Ray cluster at '127.0.0.1:1'.*ray start --head"):
        RayEvaluator(Counting(), address="127.0.0.1:1")
    with pytest.raises(ValueError, match="workers is at least 1"):
        RayEvaluator(Counting(), workers=0)
