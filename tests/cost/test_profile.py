"""What the architectures of a space cost: against trying all of a small space, and for every kind of space."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oneshot
from oneshot.cost import SpaceProfile, count, count_candidates
from oneshot.cost import profile as module
from oneshot.cost.latency.measure import measure
from oneshot.supernets import (
    Choice,
    DARTSSupernet,
    FBNetSupernet,
    MobileNetV3Supernet,
    NASBench201Supernet,
    SearchSpace,
    SubnetConfig,
    ViTSupernet,
    darts_space,
)
from oneshot.supernets.base import Supernet
from oneshot.testing import PlantedSupernet

from .toys import SPACE, ToyDevice, ToySupernet, latency


def cell() -> NASBench201Supernet:
    return NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8, candidates=("none", "nor_conv_3x3"))


def elastic() -> MobileNetV3Supernet:
    depths = (1, 2)
    return MobileNetV3Supernet(
        num_classes=3,
        image_size=16,
        resolutions=(8, 16),
        widths=(0.25,),
        depths=depths,
        kernels=(3,),
        expansions=(3,),
        stem="cifar",
    )


def every_config(space: SearchSpace) -> list[SubnetConfig]:
    """All architectures, by trying every combination of picks one by one; independent of listings of ours."""
    found = {}
    for picks in itertools.product(*(choice.picks for choice in space.choices for _ in range(choice.rows))):
        rest = iter(picks)
        config = SubnetConfig(space.name, {c.name: [next(rest) for _ in range(c.rows)] for c in space.choices})
        try:
            space.validate(config)
        except ValueError:
            continue
        found[space.canonical(config)] = None
    return list(found)


def true_costs(supernet: Supernet) -> dict[str, dict[SubnetConfig, int]]:
    """Costs of all architectures: of each network by itself, without tables."""
    costs: dict[str, dict[SubnetConfig, int]] = {"params": {}, "macs": {}, "memory": {}}
    for config in every_config(supernet.space):
        network = supernet.extract(config, inherit=False)
        counted = count(network, network.input_shape)
        costs["params"][config] = sum(p.numel() for p in network.parameters())
        costs["macs"][config], costs["memory"][config] = counted.macs, counted.memory
    return costs


def converted() -> Supernet:
    """A network of one's own: two layers whose widths can vary, and a block that can be left out."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x)

    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Sequential(Block(), Block()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    )
    return oneshot.convert(net, torch.randn(2, 3, 8, 8), width=(0.5, 1.0))


@pytest.mark.parametrize("make", [cell, elastic, ToySupernet, converted], ids=["cell", "elastic", "chain", "converted"])
def test_a_small_space_is_what_counting_all_of_its_networks_gives(make: Any) -> None:
    supernet = make()
    truth = true_costs(supernet)
    bound = {name: float(np.quantile([*costs.values()], 0.4, method="lower")) for name, costs in truth.items()}
    found = oneshot.profile(supernet, bounds=bound)
    assert found.complete and found.samples == len(truth["params"]) and found.size == supernet.space.size
    kept = []
    for profiled, (name, costs) in zip(found.costs, truth.items(), strict=True):
        values = np.array([*costs.values()], float)
        assert profiled.name == name and profiled.proven
        assert (profiled.smallest, profiled.largest) == (values.min(), values.max())
        assert profiled.median == np.median(values) and profiled.centroid == costs[found.centroid]
        assert (costs[profiled.smallest_config], costs[profiled.largest_config]) == (values.min(), values.max())
        assert sum(profiled.counts) == len(values)
        assert list(profiled.counts) == np.histogram(values, profiled.edges)[0].tolist()
        kept.append(values <= bound[name])
    assert [b.within for b in found.bounds] == pytest.approx([k.mean() for k in kept], abs=1e-12)
    assert found.together is not None and found.together.within == pytest.approx(np.all(kept, 0).mean(), abs=1e-12)
    assert found.together.reachable == bool(np.all(kept, 0).any())


def test_the_comparison_can_tell_a_space_of_which_some_networks_are_left_out() -> None:
    truth = true_costs(elastic())["macs"]
    found = oneshot.profile(elastic(), samples=8, counts=["macs"])
    assert not found.complete and found["macs"].median != np.median([*truth.values()])
    assert (found["macs"].smallest, found["macs"].largest) == (min(truth.values()), max(truth.values()))


def test_random_architectures_tell_shares_as_all_of_them_do() -> None:
    supernet = FBNetSupernet(num_classes=10, image_size=32)
    costs = count_candidates(supernet, "macs")
    at_most = float(np.median(costs.costs(supernet.space.sample_matrix(20_000, 5))))
    found = oneshot.profile(supernet, counts=["macs"], bounds={"macs": at_most})
    assert found.samples == 10_000 and not found.complete
    assert found.bounds[0].within == pytest.approx(0.5, abs=0.02)
    assert found.bounds[0].reachable and costs.cost(found.bounds[0].nearest) <= at_most


def test_a_bound_that_nothing_reaches_names_the_nearest_which_can_be_given_as_the_bound() -> None:
    supernet = elastic()
    least = min(true_costs(supernet)["macs"].values())
    found = oneshot.profile(supernet, bounds={"macs": least - 1, "params": 1e9})
    refused, free = found.bounds
    assert refused.reachable is False and refused.within == 0 and refused.values == (least,)
    assert count_candidates(supernet, "macs").cost(refused.nearest) == least
    assert "; the smallest is " in refused.sentence and str(refused.nearest) in refused.sentence
    assert free.reachable and free.within == 1.0 and free.sentence == ""
    assert found.together is not None and found.together.reachable is False and found.unreached == (refused.sentence,)
    assert "build a smaller supernet" in str(found).replace("\n", " ")
    named = float(refused.sentence.split("smallest is ")[1].split()[0])
    assert oneshot.profile(supernet, bounds={"macs": named}).bounds[0].reachable


def conflict(supernet: Supernet, sums: float) -> Mapping[str, Any]:
    """Two costs of which one falls where the other rises."""
    genes = supernet.space.encode
    rises = lambda config: float(genes([config]).sum())  # noqa: E731
    return {"rises": rises, "falls": lambda config: sums - rises(config)}


def test_bounds_that_can_be_had_alone_but_not_together_are_told_apart() -> None:
    supernet = FBNetSupernet(num_classes=4, image_size=32)  # too large to be listed
    costs = conflict(supernet, 100.0)
    easy = oneshot.profile(supernet, costs=costs, counts=[], bounds={"rises": 60, "falls": 60}, samples=50)
    assert easy.together is not None and easy.together.reachable
    hard = oneshot.profile(supernet, costs=costs, counts=[], bounds={"rises": 45, "falls": 45}, samples=50)
    assert [bound.reachable for bound in hard.bounds] == [True, True]
    assert hard.together is not None and hard.together.reachable is None
    assert "at once, though each can be had alone; the nearest found has rises 50, falls 50" in hard.together.sentence
    listed = ToySupernet()  # listed as a whole, so it is known
    both = oneshot.profile(listed, costs=conflict(listed, 10.0), counts=[], bounds={"rises": 4, "falls": 4})
    assert both.together is not None and both.together.reachable is False
    assert "the nearest has rises 5, falls 5" in both.together.sentence


@pytest.mark.parametrize(
    "supernet",
    [
        DARTSSupernet(darts_space(candidates=("none", "skip_connect", "sep_conv_3x3")), channels=4, cells=3),
        MobileNetV3Supernet(
            image_size=16, widths=(0.25,), depths=(1, 2, 3), kernels=(3, 5), expansions=(2, 3), stem="cifar"
        ),
        NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8),
        ViTSupernet(
            num_classes=10,
            image_size=8,
            patch_size=2,
            head_dim=8,
            embed_dims=(16, 24),
            depths=(5, 6, 7),
            heads=(2, 3),
            mlp_ratios=(2.0, 4.0),
        ),
        PlantedSupernet(channels=4, edges=2),
    ],
    ids=lambda supernet: type(supernet).__name__,
)
def test_every_kind_of_space_is_profiled(supernet: Supernet) -> None:
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    before = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
    found = oneshot.profile(supernet, samples=200, seed=1)
    assert before == (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
    assert [cost.name for cost in found.costs] == ["params", "macs", "memory"]
    for cost in found.costs:
        model = count_candidates(supernet, cost.name)  # type: ignore[arg-type]
        drawn = model.costs(supernet.space.repair(supernet.space.sample_matrix(200, 1)))
        assert cost.smallest <= drawn.min() and cost.largest >= drawn.max()
        assert (model.cost(cost.smallest_config), model.cost(cost.largest_config)) == (cost.smallest, cost.largest)
        assert model.cost(found.centroid) == cost.centroid and sum(cost.counts) == 200
    assert oneshot.profile(supernet, counts=["params"], samples=200, seed=1)["params"] == found["params"]
    assert json.loads(json.dumps(found.to_dict()))["costs"]["macs"]["largest"] == found["macs"].largest


def test_a_space_of_one_architecture_has_nothing_to_choose() -> None:
    supernet = MobileNetV3Supernet(
        image_size=16, resolutions=(16,), widths=(0.25,), depths=(1,), kernels=(3,), expansions=(3,), stem="cifar"
    )
    found = oneshot.profile(supernet, bounds={"macs": 1.0})
    assert found.size == found.samples == 1 and found.complete
    assert found["macs"].smallest == found["macs"].centroid == found["macs"].median == found["macs"].largest
    assert found.bounds[0].reachable is False
    assert "1 architecture;" in str(found) and "%" not in str(found).split("bound")[0]


def test_latencies_by_file_are_costs_and_bounds(tmp_path: Path) -> None:
    path = str(measure(ToySupernet(), ToyDevice(), networks=60).save(tmp_path / "toy.json"))
    truth = {config: latency(config) for config in every_config(SPACE)}
    found = oneshot.profile(ToySupernet(), costs=[path], counts=["macs"], bounds={"latency_ms": 8.0})
    assert [cost.label for cost in found.costs] == ["macs", "latency [ms]"]
    assert found["latency"].smallest == pytest.approx(min(truth.values()), rel=0.05)
    assert found["latency"].largest == pytest.approx(max(truth.values()), rel=0.05)
    assert found.bounds[0].costs == ("latency",)
    again = oneshot.profile(ToySupernet(), counts=["macs"], bounds={path: 8.0})
    assert again.bounds[0].within == found.bounds[0].within and again.costs[1].name == path
    (tmp_path / "other.json").write_bytes(Path(path).read_bytes())
    several = oneshot.profile(ToySupernet(), costs=[path, str(tmp_path / "other.json")], counts=[])
    assert [cost.name for cost in several.costs] == ["toy", "other"]


def test_a_bound_that_must_hold_with_a_probability_is_harder_to_keep(tmp_path: Path) -> None:
    noisy = measure(ToySupernet(), ToyDevice(noise=0.05), networks=60).cost_of(ToySupernet())
    assert noisy.deviation > 0
    shares = [
        oneshot.profile(ToySupernet(), costs=noisy, counts=[], bounds={"latency": (9.0, p)}).bounds[0].within
        for p in (0.01, 0.5, 0.99)
    ]
    assert shares[0] > shares[1] > shares[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"bounds": {"mac": 1.0}}, r"one of the costs params, macs, .*Did you mean 'macs'", id="name"),
        pytest.param({"bounds": {"latency": 8.0}}, "or of the file of a latency; got 'latency'", id="no-latency"),
        pytest.param({"bounds": {"macs_ms": 8.0}}, "got 'macs_ms'. Did you mean 'macs'", id="unit"),
        pytest.param({"bounds": {"macs": float("nan")}}, "bound of 'macs' must be finite; got nan", id="nan"),
        pytest.param({"bounds": {"macs": float("inf")}}, "must be finite; got inf. Leave it out", id="inf"),
        pytest.param({"bounds": {"macs": "3e8"}}, r"must be a number, or a pair .*got '3e8' for 'macs'", id="text"),
        pytest.param({"bounds": {"macs": True}}, "must be a number, or a pair", id="bool"),
        pytest.param({"bounds": {"macs": (1.0, 2.0)}}, "probability of a bound must be between", id="probability"),
        pytest.param({"bounds": {"macs": 1.0, "macs_macs": 2.0}}, "one bound; 'macs' has two", id="twice"),
        pytest.param({"counts": ["flops"]}, "one of 'params', 'macs', 'memory'; got 'flops'", id="count"),
        pytest.param({"counts": ["parms"]}, "got 'parms'. Did you mean 'params'", id="near-count"),
        pytest.param({"counts": []}, "must be a cost to look at; got none", id="nothing"),
        pytest.param({"samples": 0}, "samples must be at least 1, or None", id="samples"),
        pytest.param({"costs": ["time"]}, "A cost must be a CostModel, .* got 'time'", id="cost"),
        pytest.param({"costs": [3.0]}, "must be names or files of costs; got 3.0. Give it by name", id="number"),
        pytest.param({"costs": ["a/x.json", "b/x.json"]}, "'a/x.json' and 'b/x.json' are both 'x'", id="both"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_rule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oneshot.profile(ToySupernet(), **options)


def test_the_result_is_frozen_and_names_its_costs() -> None:
    found = oneshot.profile(ToySupernet(), samples=5)
    with pytest.raises(FrozenInstanceError):
        found.size = 3  # type: ignore[misc]
    with pytest.raises(KeyError, match=r"has the costs params, macs, memory, not 'mac'. Did you mean 'macs'"):
        found["mac"]
    assert isinstance(found, SpaceProfile)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_text_keeps_to_the_width_of_a_terminal(width: int) -> None:
    found = oneshot.profile(ToySupernet(), costs={"choices": lambda config: 1.0}, bounds={"macs": 3e3, "params": 50})
    text = found.text(width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width and text.isascii()
    for word in ("smallest", "centroid", "median", "largest", "reachable", "all together", "memory [bytes]"):
        assert word in text
    assert text.count(" to ") >= 30  # three histograms of ten lines; a cost that is always the same has none
    assert str(found) == found.text(80)


def test_slow_costs_are_looked_at_for_a_minute_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "SAMPLES", 20)
    supernet, done = FBNetSupernet(num_classes=4, image_size=32), []
    found = oneshot.profile(
        supernet, costs={"own": lambda config: 1.0}, counts=[], progress=lambda *said: done.append(said)
    )
    assert found.samples == module.TIMED and "fewer than 20 because each takes" in str(found)
    assert {("tables of costs", 1, 1), ("own", found.samples, found.samples)} <= {*done}
    assert done[-1] == ("smallest and largest", 1, 1)


def test_a_choice_of_one_candidate_is_no_problem() -> None:
    space = SearchSpace("one", (Choice("only", ("a",)),))
    assert space.centroid() == space.sample(0)
