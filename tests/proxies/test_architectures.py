"""Scores of architectures: drawn by seed, as features, as a start of a search."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oneshot.data import Digits
from oneshot.discrete import GaussianProcess
from oneshot.proxies import ArchitectureScorer, Batch, Proxy, ProxyFeatures, RankAgreement, combined, promising, score
from oneshot.proxies.architectures import batch_of
from oneshot.supernets import NASBench201Supernet, SubnetConfig

NAMES = ["params", "naswot", "synflow"]


@pytest.fixture(scope="module")
def supernet() -> NASBench201Supernet:
    return NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=8)


@pytest.fixture(scope="module")
def data() -> Digits:
    return Digits()


def test_a_score_is_a_function_of_the_architecture_and_the_seed(supernet: NASBench201Supernet, data: Digits) -> None:
    configs = [supernet.space.sample(seed) for seed in range(3)]
    torch.manual_seed(1)
    first = [ArchitectureScorer(supernet, NAMES, data)(config) for config in configs]
    torch.manual_seed(2)
    scorer = ArchitectureScorer(supernet, NAMES, data)
    assert [scorer(config) for config in configs[::-1]] == first[::-1]
    other = ArchitectureScorer(supernet, NAMES, data, seed=1)(configs[0])
    assert other["params"] == first[0]["params"] and other["naswot"] != first[0]["naswot"]
    by_hand = score(scorer.network(configs[0], 0), *batch_of(data, 32), names=NAMES)
    assert first[0] == by_hand


def test_repeats_are_the_mean_over_seeds(supernet: NASBench201Supernet) -> None:
    config = supernet.space.sample(0)
    runs = [ArchitectureScorer(supernet, "naswot", samples=8, seed=seed)(config)["naswot"] for seed in (5, 6, 7)]
    mean = ArchitectureScorer(supernet, "naswot", samples=8, seed=5, repeats=3)(config)["naswot"]
    assert mean == pytest.approx(sum(runs) / 3, rel=1e-12) and len(set(runs)) == 3


def test_architectures_are_scored_once(supernet: NASBench201Supernet) -> None:
    calls: list[int] = []

    class Counts(Proxy):
        name = "counts"

        def __call__(self, network: nn.Module, batch: Batch) -> float:
            calls.append(1)
            return float(len(calls))

    scorer = ArchitectureScorer(supernet, Counts())
    found = scorer(supernet.space.sample(0))
    found["counts"] = 7.0
    assert scorer(supernet.space.sample(0)) == {"counts": 1.0} and calls == [1]


def test_features_are_finite_of_one_scale_and_the_same_in_any_order(supernet: NASBench201Supernet) -> None:
    space = supernet.space
    dead = SubnetConfig(space.name, {"cell": ["none"] * 6})
    configs = [*space.decode(space.sample_matrix(20, 1)), dead]

    def features() -> ProxyFeatures:
        return ProxyFeatures(
            ArchitectureScorer(supernet, ["naswot", "synflow", "jacov"], samples=8), space, references=16
        )

    found = features()(configs)
    assert found.shape == (21, 3) and np.isfinite(found).all() and np.abs(found).max() <= 5
    np.testing.assert_array_equal(features()(configs[::-1]), found[::-1])
    assert found[-1, 2] == -5  # the Jacobian of the dead cell has no correlation
    assert 0.2 < np.median(np.abs(found[:-1])) < 2
    raw = [ArchitectureScorer(supernet, "synflow", samples=8)(config)["synflow"] for config in configs[:20]]
    inside = np.abs(found[:20, 1]) < 5
    assert (np.argsort(found[:20, 1][inside]) == np.argsort(np.array(raw)[inside])).all()
    assert features()([]).shape == (0, 3)
    assert features().score(dead) == found[-1].mean() < features().score(configs[0]) == found[0].mean()


def test_a_strategy_begins_with_the_best_by_their_features(supernet: NASBench201Supernet) -> None:
    space = supernet.space
    features = ProxyFeatures(ArchitectureScorer(supernet, ["params", "naswot"], samples=4), space, references=8)
    strategy = GaussianProcess(space, initial=4, scores=features.score, scored=20)
    first = [features.score(proposal.config) for proposal in strategy.ask(2)]
    drawn = [features.score(config) for config in space.decode(space.repair(space.sample_matrix(20, 7)))]
    assert min(first) > sorted(drawn)[10] and first == sorted(first, reverse=True)


def test_promising_architectures_are_the_best_of_the_pool_by_ranks(supernet: NASBench201Supernet) -> None:
    scorer, space = ArchitectureScorer(supernet, ["params", "synflow"], samples=4), supernet.space
    best = promising(scorer, space, 3, names=["params"], pool=30, seed=2)
    pool = space.decode(np.unique(space.repair(space.sample_matrix(30, 2)), axis=0))
    sizes = sorted((scorer(config)["params"] for config in pool), reverse=True)
    assert [scorer(config)["params"] for config in best] == sizes[:3]
    assert promising(scorer, space, 3, pool=30, seed=2) == promising(scorer, space, 5, pool=30, seed=2)[:3]


@pytest.mark.parametrize(("count", "pool"), [(0, 10), (11, 10), (1, 0)])
def test_pools_that_do_not_do(supernet: NASBench201Supernet, count: int, pool: int) -> None:
    scorer = ArchitectureScorer(supernet, "params")
    with pytest.raises(
        ValueError, match=f"count must be from 1 to .* of {pool} drawn; got {count}. Draw a larger pool"
    ):
        promising(scorer, supernet.space, count, pool=pool)


def test_scorers_that_do_not_do(supernet: NASBench201Supernet, data: Digits) -> None:
    with pytest.raises(ValueError, match="snip, zico take the loss of labelled data; give data="):
        ArchitectureScorer(supernet, ["snip", "zico"])
    with pytest.raises(ValueError, match="at least 1; got samples=0"):
        ArchitectureScorer(supernet, samples=0)
    with pytest.raises(ValueError, match="must have samples=5000; Digits has"):
        ArchitectureScorer(supernet, "snip", data, samples=5000)
    with pytest.raises(ValueError, match="must say their input_shape"):
        ArchitectureScorer(lambda config: nn.Linear(3, 3), "params")(supernet.space.sample(0))
    with pytest.raises(ValueError, match="at least two architectures; got references=1"):
        ProxyFeatures(ArchitectureScorer(supernet, "params"), supernet.space, references=1)


def test_ranks_by_several_scores_put_nan_last() -> None:
    rows = [{"a": 1.0, "b": 9.0}, {"a": math.nan, "b": 9.0}, {"a": 2.0, "b": 0.0}]
    expected = [
        math.log(2 / 3) + math.log(2.5 / 3),
        math.log(1 / 3) + math.log(2.5 / 3),
        math.log(3 / 3) + math.log(1 / 3),
    ]
    assert combined(rows, ["a", "b"]) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="network 0 has no c"):
        combined(rows, ["c"])
    with pytest.raises(ValueError, match="At least one score must be named"):
        combined(rows, [])


def test_agreement_counts_networks_without_a_score_as_the_worst() -> None:
    accuracy = [70.0, 90.0, 80.0, 10.0]
    found = RankAgreement.of([1.0, 3.0, 2.0, math.nan], accuracy)
    assert (found.spearman, found.kendall, found.networks, found.without_score) == (1.0, 1.0, 4, 1)
    assert RankAgreement.of([1.0, 3.0, 2.0, 9.0], accuracy).spearman == pytest.approx(-0.2)
    assert math.isnan(RankAgreement.of([1.0] * 4, accuracy).spearman)
    with pytest.raises(ValueError, match="At least two scores"):
        RankAgreement.of([1.0], [1.0])
    with pytest.raises(ValueError, match="must be finite"):
        RankAgreement.of([1.0, 2.0], [1.0, math.nan])


def test_scores_in_a_file_are_not_computed_again(supernet: NASBench201Supernet, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Counted(Proxy):
        name = "counted"
        factor: float = 1.0

        def __call__(self, network: nn.Module, batch: Batch) -> float:
            calls.append(1)
            return math.nan if len(calls) == 2 else self.factor * len(calls)

    calls: list[int] = []
    file, configs = tmp_path / "scores" / "counted.jsonl", [supernet.space.sample(seed) for seed in range(3)]
    first = ArchitectureScorer(supernet, Counted(), file=file)
    found = [first(config)["counted"] for config in configs]
    again = ArchitectureScorer(supernet, Counted(), file=file)
    assert str([again(config)["counted"] for config in configs]) == str(found) == "[1.0, nan, 3.0]" and len(calls) == 3
    for other in (
        lambda: ArchitectureScorer(supernet, Counted(2.0), file=file),
        lambda: ArchitectureScorer(supernet, Counted(), seed=1, file=file),
        lambda: ArchitectureScorer(supernet, Counted(), samples=8, file=file),
        lambda: ArchitectureScorer(NASBench201Supernet(channels=8, image_size=8), Counted(), file=file),
        lambda: ArchitectureScorer(supernet, Counted(), Digits(), file=file),
    ):
        with pytest.raises(ValueError, match=r"counted.jsonl must have scores of the same proxies.*or delete it"):
            other()
    first(supernet.space.sample(3))
    with pytest.raises(RuntimeError, match="was written to since it was read"):
        again(supernet.space.sample(4))
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], '{"config": 3, "scores": {}}', ""]))
    with pytest.raises(ValueError, match=r"counted.jsonl, line 3.*Delete the file to score anew"):
        ArchitectureScorer(supernet, Counted(), file=file)


@pytest.mark.parametrize("how", ["function", "partial", "lambda"])
def test_a_file_knows_networks_that_a_function_builds(supernet: NASBench201Supernet, tmp_path: Path, how: str) -> None:
    def build(config: SubnetConfig, width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def builder(width: int) -> Callable[[SubnetConfig], nn.Module]:
        if how == "partial":
            return partial(build, width=width)
        if how == "lambda":
            return lambda config: build(config, width)

        def built(config: SubnetConfig) -> nn.Module:
            return build(config, width)

        return built

    file, data, config = tmp_path / "scores.jsonl", Digits(), supernet.space.sample(0)
    first = ArchitectureScorer(builder(4), "params", data, samples=8, file=file)(config)
    assert ArchitectureScorer(builder(4), "params", data, samples=8, file=file)(config) == first
    with pytest.raises(ValueError, match=r"scores.jsonl must have scores of the same .* networks .* checksum"):
        ArchitectureScorer(builder(8), "params", data, samples=8, file=file)


def smooth_or_not(config: SubnetConfig) -> nn.Module:
    """A network with a ReLU for every second architecture."""
    activation = nn.ReLU() if zlib.crc32(config.to_json().encode()) % 2 else nn.SiLU()
    return nn.Sequential(nn.Conv2d(1, 4, 3), activation, nn.Flatten())


def test_networks_that_lack_what_a_proxy_reads_rank_last(supernet: NASBench201Supernet) -> None:
    scorer = ArchitectureScorer(smooth_or_not, ["naswot"], Digits(), samples=8)
    best = promising(scorer, supernet.space, 3, pool=12)
    assert all(np.isfinite(scorer(config)["naswot"]) for config in best)
    configs = supernet.space.decode(supernet.space.sample_matrix(12, 3))
    features = ProxyFeatures(scorer, supernet.space, references=12)(configs)
    assert np.isfinite(features).all() and features.min() == -5.0 < features.max()


def test_a_score_that_no_network_has_is_refused_with_the_reason(supernet: NASBench201Supernet) -> None:
    def smooth(config: SubnetConfig) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten())

    scorer = ArchitectureScorer(smooth, ["params", "naswot"], Digits(), samples=8)
    with pytest.raises(ValueError, match=r"a score of naswot; none of 4 has one.*it has SiLU only"):
        promising(scorer, supernet.space, 2, pool=4)
    with pytest.raises(ValueError, match=r"a score of naswot; none of 4 has one"):
        ProxyFeatures(scorer, supernet.space, references=4)([supernet.space.sample(0)])
    assert len(promising(scorer, supernet.space, 2, names=["params"], pool=4)) == 2


def test_features_take_the_space_of_the_supernet(supernet: NASBench201Supernet) -> None:
    scorer = ArchitectureScorer(supernet, "params")
    assert ProxyFeatures(scorer).space is supernet.space and ProxyFeatures(scorer).names == ("params",)
    with pytest.raises(ValueError, match="Features must have a space"):
        ProxyFeatures(ArchitectureScorer(lambda config: supernet.extract(config), "params"))
