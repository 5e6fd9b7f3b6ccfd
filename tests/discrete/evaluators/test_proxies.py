"""Zero-cost proxies as metrics of studies."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from oneshot.data import Digits
from oneshot.discrete import NSGA2, Proposal, ProxyEvaluator, RandomSearch, RegularizedEvolution, Study
from oneshot.supernets import NASBench201Supernet, SubnetConfig

SUPERNET = NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=8)


def test_proxies_are_the_metrics_of_a_study(tmp_path: Path) -> None:
    evaluator = ProxyEvaluator(["naswot", "synflow", "params"], SUPERNET, Digits(), samples=8)
    assert evaluator.metrics == ("naswot", "synflow", "params")
    objectives = ["max naswot", "max synflow", "min params"]
    study = Study(NSGA2(SUPERNET.space, population=4), evaluator, objectives, evaluations=8, folder=tmp_path)
    study.run()
    assert len(study.evaluated) == 8
    for record in study.evaluated:
        if record.result.values is not None:
            assert record.result.metrics == evaluator(record.proposal)


def test_several_proxies_become_one_objective_by_a_scalar() -> None:
    evaluator = ProxyEvaluator(["naswot", "params"], SUPERNET, samples=8)
    strategy = RegularizedEvolution(SUPERNET.space, population=4, sample=2, scalar=lambda v: v[0] + v[1] / 1e4)
    study = Study(strategy, evaluator, ["max naswot", "min params"], evaluations=6)
    study.run()
    done = [r.result.values for r in study.evaluated if r.result.values is not None]
    best = study.strategy.observed[study.strategy.best.number][1].values
    assert best is not None and best[0] + best[1] / 1e4 == min(a + b / 1e4 for a, b in done)


def test_a_network_without_a_score_is_a_failure_with_its_reason() -> None:
    evaluator = ProxyEvaluator("jacov", SUPERNET, samples=8)
    dead = SubnetConfig("nasbench201", {"cell": ["none"] * 6})
    with pytest.raises(ValueError, match="jacov must be finite; it is nan"):
        evaluator(Proposal(0, dead))


def test_an_evaluator_goes_to_other_processes() -> None:
    evaluator = ProxyEvaluator(["naswot"], SUPERNET, samples=8)
    proposal = RandomSearch(SUPERNET.space).ask()[0]
    assert pickle.loads(pickle.dumps(evaluator))(proposal) == evaluator(proposal)
