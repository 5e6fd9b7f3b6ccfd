"""ENAS keeps the contract of a search without alphas, and its controller learns what the shared weights say."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import oneshot
from oneshot.methods import enas
from oneshot.methods.enas import ENAS
from oneshot.supernets.elastic_resnet import ElasticResNetSupernet
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.testing import PlantedSupernet, SharingContract, fit, random_streams
from oneshot.testing.methods import CANDIDATES, WINNER, Method


class TestENAS(SharingContract):
    trained = ("supernet", "controller")

    @pytest.fixture
    def method(self) -> Method:
        options = {"updates": 3, "batch": 6, "candidates": 20, "finalists": 4}
        return lambda supernet: ENAS(supernet, weight_lr=0.1, controller_lr=0.02, **options)


def planted(**options: Any) -> ENAS:
    torch.manual_seed(0)
    return ENAS(PlantedSupernet(channels=2), candidates=4, finalists=1, **options)


def chance(search: ENAS, pick: str) -> float:
    log_probs, _ = search.controller.log_probs(torch.tensor([[CANDIDATES.index(pick)]]))
    return float(log_probs.detach().exp())


def test_the_controller_learns_what_is_accurate_and_nothing_else_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    def accuracies(supernet: Any, configs: Any, batches: Any, **options: Any) -> list[float]:
        return [float(config["edge"] == (WINNER,)) for config in configs]

    monkeypatch.setattr(enas, "evaluate_configs", accuracies)
    search = planted(controller_lr=0.02, updates=60)
    trainer = fit(search, random_streams(search.supernet, batches=1), epochs=1)
    assert chance(search, WINNER) > 0.5  # tanh=1.1 allows up to 0.69
    assert 0.2 < trainer.callback_metrics["controller/reward"] < trainer.callback_metrics["controller/baseline"] + 0.5
    before = {k: v.clone() for k, v in search.state_dict().items()}
    monkeypatch.setattr(search, "held_out", lambda: [(None, None)])
    monkeypatch.setattr(search, "log_dict", lambda *args, **options: None)
    search.train_controller()
    moved = {name for name, value in search.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("controller.") or name == "_baseline" for name in moved)


def test_the_statistics_of_the_supernet_are_not_touched_by_rewards() -> None:
    search = planted(updates=2)
    fit(search, random_streams(search.supernet, batches=1), epochs=1)
    before = copy.deepcopy(search.supernet.state_dict())
    optimizer = torch.optim.Adam(search.controller.parameters(), 0.01)
    reward, entropy = search._update(optimizer, next(iter(random_streams(search.supernet)["arch"])))
    assert 0 <= reward <= 1 and entropy == pytest.approx(math.log(5), abs=0.1)
    after = search.supernet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_baseline_holds_the_rewards_before_the_current_one_and_stays_in_the_state() -> None:
    search, decay = planted(baseline=0.9), 0.9
    rewards = torch.tensor([0.5, 0.7, 0.1, 0.9], dtype=torch.float64)
    ours = [*search._advantages(rewards[:2]).tolist(), *search._advantages(rewards[2:]).tolist()]
    expected, wrong, average, zero = [], [], 0.5, 0.0
    for reward in rewards.tolist():
        expected.append(reward - average)
        zero = decay * zero + (1 - decay) * reward  # the authors' code: from 0, and updated before it is used
        wrong.append(reward - zero)
        average = decay * average + (1 - decay) * reward
    assert ours == pytest.approx(expected, abs=1e-6)
    assert ours != pytest.approx(wrong, abs=1e-2)
    assert float(search.state_dict()["_baseline"]) == pytest.approx(average, rel=1e-5)


def test_held_out_batches_go_on_where_the_last_epoch_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    search = planted()
    monkeypatch.setattr(search, "held_out", lambda: ["a", "b", "c"])
    for number, expected in ((0, "abcab"), (4, "bcabc"), (5, "cabca")):
        assert "".join(itertools.islice(search._held_out_from(number), 5)) == expected  # type: ignore[arg-type]
    monkeypatch.setattr(search, "held_out", list)
    assert list(search._held_out_from(3)) == []


def test_paths_follow_the_controller() -> None:
    search = planted(tanh=None)
    with torch.no_grad():
        search.controller.biases[0, CANDIDATES.index(WINNER)] = 50
    assert {path["edge"] for step in range(10) for path in search.paths(step)} == {(WINNER,)}
    assert search.probabilities()["edge"].tolist() == [[float(name == WINNER) for name in CANDIDATES]]


@pytest.mark.slow
def test_an_elastic_supernet_is_searched_too() -> None:
    supernet = ElasticResNetSupernet(
        num_classes=3, resolutions=(16, 32), widths=(0.1, 0.2), ratios=(0.5, 1.0), stem="cifar"
    )
    search = ENAS(supernet, updates=1, batch=2, candidates=4, finalists=1)
    before = {name: value.clone() for name, value in search.named_parameters()}
    fit(search, random_streams(supernet, batches=1), epochs=1)
    moved = {name.split(".")[0] for name, value in search.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"supernet", "controller"}
    config = search.derive()
    network = supernet.extract(config).eval()
    x = torch.randn(2, *network.input_shape)
    with torch.no_grad():
        torch.testing.assert_close(network(x), supernet.eval().run_config(x, config), rtol=1e-5, atol=1e-6)


def test_defaults_are_those_of_the_authors_for_cells() -> None:
    search = ENAS(NASBench201Supernet(channels=2, cells_per_stage=1))
    assert oneshot.ENAS is ENAS
    assert (search.controller_lr, search.updates, search.batch) == (0.0035, 30, 10)
    settings = search.controller.settings
    assert (search.entropy, search.decay, settings.tanh, settings.temperature) == (1e-4, 0.99, 1.1, 1)
    assert search.controller.lstm.num_layers == 1 and search.controller.lstm.hidden_size == 64


BAD: dict[str, Callable[[], object]] = {
    "at least one step with one architecture; got updates=0": lambda: planted(updates=0),
    "controller_lr must be above 0, entropy at least 0": lambda: planted(controller_lr=0),
    "baseline from 0 to below 1": lambda: planted(baseline=1.0),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_argument_is_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_rewards_are_of_images_of_all_classes_in_every_epoch_others(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(4).repeat_interleave(32)  # in the order of their classes, as folders of images are
    ordered = DataLoader(TensorDataset(torch.zeros(128, 1), labels), batch_size=32)
    search = planted()
    monkeypatch.setattr(search, "held_out", lambda: ordered)
    first, again, later = (next(search._held_out_from(number))[1] for number in (0, 0, 3))
    assert len(first.unique()) == 4 and torch.equal(first, again) and not torch.equal(first, later)
    assert len(next(iter(ordered))[1].unique()) == 1, "as they come, a batch has one class"
