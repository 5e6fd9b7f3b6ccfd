from __future__ import annotations

import numpy as np
import pytest

from oneshot.discrete import (
    Hyperband,
    Proposal,
    RegularizedEvolution,
    Result,
    SearchStrategy,
    Study,
    SuccessiveHalving,
    TabularEvaluator,
)
from oneshot.discrete.protocol import listed
from oneshot.discrete.strategies.hyperband import rungs
from oneshot.supernets import SearchSpace, SubnetConfig
from oneshot.testing.strategies import SPACE, StrategyContract, planted


class TestSuccessiveHalving(StrategyContract):
    evaluations = 90

    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return SuccessiveHalving(space, least=1, most=9, seed=seed)


class TestHyperband(StrategyContract):
    evaluations = 90

    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return Hyperband(space, least=1, most=9, seed=seed)

    def test_it_is_better_than_random_search(self) -> None:
        best = []
        for seed in range(5):
            strategy = self.build(self.space, seed)
            self.run(strategy, 90)
            best.append(planted(self.space, strategy.best))
        assert np.mean(best) < np.quantile(listed(self.space).sum(1), 0.05), "as some 20 random ones would"


class TestSuccessiveHalvingOfEvolution(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return SuccessiveHalving(
            space, least=1, most=4, eta=2, seed=seed, sampler=lambda s, n: RegularizedEvolution(s, population=6, seed=n)
        )


@pytest.mark.parametrize(
    ("least", "most", "eta", "expected"),
    [(1, 27, 3, (1, 3, 9, 27)), (2, 27, 3, (3, 9, 27)), (5, 5, 2, (5,)), (1, 10, 2, (1.25, 2.5, 5, 10))],
)
def test_rungs_divide_the_highest_fidelity(least: float, most: float, eta: int, expected: tuple[float, ...]) -> None:
    assert rungs(least, most, eta) == expected


def test_one_in_eta_is_promoted_and_goes_on_from_its_lower_rung() -> None:
    strategy = SuccessiveHalving(SPACE, least=1, most=9, seed=0)
    asked: list[Proposal] = []
    for _ in range(200):
        (proposal,) = strategy.ask()
        asked.append(proposal)
        strategy.tell(Result(proposal.number, (planted(SPACE, proposal),)))
    by_rung = {f: [p for p in asked if p.fidelity == f] for f in (1, 3, 9)}
    assert len(by_rung[1]) >= 130 and 2.5 < len(by_rung[1]) / len(by_rung[3]) < 4
    assert 2.5 < len(by_rung[3]) / len(by_rung[9]) < 5
    for proposal in by_rung[3] + by_rung[9]:
        lower = asked[proposal.parent or 0]
        assert lower.config == proposal.config and lower.fidelity == proposal.trained == (proposal.fidelity or 0) / 3
    promoted = sum(planted(SPACE, p) for p in by_rung[3]) / len(by_rung[3])
    everyone = sum(planted(SPACE, p) for p in by_rung[1]) / len(by_rung[1])
    assert promoted < everyone - 0.5


def test_what_failed_is_not_promoted() -> None:
    strategy = SuccessiveHalving(SPACE, least=1, most=3, seed=0)
    for _ in range(30):
        (proposal,) = strategy.ask()
        strategy.tell(Result(proposal.number, None))
        assert proposal.fidelity == 1


def test_brackets_share_the_budget() -> None:
    strategy = Hyperband(SPACE, least=1, most=9, seed=0)
    spent = {bracket: 0.0 for bracket in range(3)}
    for _ in range(150):
        (proposal,) = strategy.ask()
        spent[strategy._from[proposal.number][0]] += (proposal.fidelity or 0) - proposal.trained
        strategy.tell(Result(proposal.number, (planted(SPACE, proposal),)))
    assert max(spent.values()) - min(spent.values()) <= 9
    assert strategy.best.fidelity == 9


def test_brackets_of_one_seed_are_not_those_of_the_next() -> None:
    seeds = [bracket.seed for seed in range(20) for bracket in Hyperband(SPACE, least=1, most=27, seed=seed).brackets]
    assert len(set(seeds)) == len(seeds) == 80


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="eta must be at least 2; got least=1, most=27, eta=1"):
        SuccessiveHalving(SPACE, eta=1)
    with pytest.raises(ValueError, match="rise from above 0.*least=5, most=3"):
        SuccessiveHalving(SPACE, least=5, most=3)


def test_short_trainings_are_no_front_and_no_best() -> None:
    genes = listed(SPACE)
    error = genes.sum(1) + 1.0
    table = TabularEvaluator(
        SPACE, genes, {"error": error}, fidelities={f: {"error": error * 0} for f in (1, 3)}, full=9
    )
    study = Study(SuccessiveHalving(SPACE, least=1, most=9, eta=3), table, ["min error"], evaluations=60).run()
    assert {record.proposal.fidelity for record in study.front()} == {9}
    assert study.best.proposal.fidelity == 9 and study.trajectory()[-1] == study.best.result.values[0]  # type: ignore[index]


def test_what_is_promoted_is_among_the_best_of_eta_rounded_down() -> None:
    """The best third of two is none, of five one (ASHA, algorithm 2); whatever is in it is promoted at once."""
    strategy = SuccessiveHalving(SPACE, least=1, most=3, eta=3, seed=0)
    lower: dict[SubnetConfig, float] = {}
    promoted: set[SubnetConfig] = set()
    fidelities = []
    for _ in range(60):
        best = sorted(lower, key=lower.__getitem__)[: int(len(lower) / 3)]
        (proposal,) = strategy.ask()
        fidelities.append(proposal.fidelity)
        loss = planted(SPACE, proposal) + 1e-3 * proposal.number  # no two are equal
        if proposal.fidelity == 3:
            assert proposal.config in set(best) - promoted
            promoted.add(proposal.config)
        else:
            assert set(best) <= promoted
            lower[proposal.config] = loss
        strategy.tell(Result(proposal.number, (loss,)))
    assert fidelities[:4] == [1, 1, 1, 3] and len(promoted) > 10
