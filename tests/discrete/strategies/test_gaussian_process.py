from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from oneshot.discrete import GaussianProcess, Proposal, Result, SearchStrategy, Study, TabularEvaluator
from oneshot.discrete.strategies.gaussian_process import LEVELS
from oneshot.fronts.pareto import hypervolume
from oneshot.regression.acquisition import expected_improvement
from oneshot.regression.extra import ExtraFeatures
from oneshot.regression.gaussian_process import Belief, GaussianProcessRegression, rank_normal
from oneshot.supernets import Choice, NASNetSpace, SearchSpace, SubnetConfig, darts_space
from oneshot.testing.strategies import SPACE, StrategyContract, planted

from .test_bananas import Sum


class TestGaussianProcess(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return GaussianProcess(space, initial=10, seed=seed)


class TestLargeSpace(StrategyContract):
    space = SearchSpace("planted", (Choice("layer", ("a", "b", "c"), rows=10), Choice("width", (8, 16))))

    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return GaussianProcess(space, initial=10, batch=3, pool=60, seed=seed)

    def test_it_is_better_than_random_search(self) -> None:
        losses = [min(planted(self.space, p) for p in self.run(self.build(self.space, seed), 60)) for seed in range(3)]
        assert np.mean(losses) < 2, "random search has 4 or 5"


class TestFront(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return GaussianProcess(space, initial=10, batch=3, front=True, seed=seed)

    def loss(self, proposal: Proposal) -> tuple[float, ...]:
        genes = self.space.encode([proposal.config])[0]
        return planted(self.space, proposal), float(5 - genes[:3].sum())


class TestFidelities(StrategyContract):
    evaluations = 90  # two thirds of them are short

    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return GaussianProcess(space, initial=10, fidelities=(1, 2, 4), seed=seed)


def told(strategy: SearchStrategy, n: int, values: int = 1) -> list[Proposal]:
    asked = []
    for _ in range(n):
        (proposal,) = strategy.ask()
        loss = planted(strategy.space, proposal)
        strategy.tell(Result(proposal.number, (loss, *(10.0 - loss * (m + 1) % 7 for m in range(values - 1)))))
        asked.append(proposal)
    return asked


def test_the_first_of_a_round_has_the_largest_expected_improvement_of_all_that_are_left() -> None:
    strategy = GaussianProcess(SPACE, initial=15, batch=4, seed=2)
    asked = told(strategy, 15)
    genes = SPACE.encode(proposal.config for proposal in asked)
    every = np.array([row for row in np.ndindex(*SPACE.gene_sizes) if list(row) not in genes.tolist()])
    y = rank_normal(genes.sum(1))
    blocks = strategy.features.encode(np.concatenate([genes, every]))
    model = GaussianProcessRegression([block[:15] for block in blocks], y)
    belief = Belief(model, [block[15:] for block in blocks])
    batch, best = [], float(y.min())
    for _ in range(4):
        gain = expected_improvement(belief.mean, belief.std, best)
        gain[batch] = -1
        batch.append(int(gain.argmax()))
        best = min(best, belief.mean[batch[-1]])
        belief.believe(batch[-1])
    ours = SPACE.encode(proposal.config for proposal in strategy.ask(4))
    np.testing.assert_array_equal(ours, every[batch])
    greedy = every[np.argsort(-expected_improvement(*model.predict([block[15:] for block in blocks]), y.min()))[:4]]
    assert ours.tolist() != greedy.tolist(), "the test can tell that the others are believed"


def test_what_is_in_flight_counts() -> None:
    """The next round does not propose what is like the one that has no result yet."""
    proposals = []
    for wait in (False, True):
        strategy = GaussianProcess(SPACE, initial=12, batch=2, seed=0)
        told(strategy, 12)
        first, second = strategy.ask(2)
        if not wait:
            for proposal in (first, second):
                strategy.tell(Result(proposal.number, None, failure="it hurt"))
        proposals.append((first, second, *strategy.ask(2)))
    assert proposals[0][:2] == proposals[1][:2] and proposals[0][2:] != proposals[1][2:]


def test_a_round_of_a_large_space_has_mutations_of_the_best_and_random_ones() -> None:
    strategy = GaussianProcess(TestLargeSpace.space, initial=30, pool=100, seed=0)
    asked = told(strategy, 30)
    known = strategy.space.encode(proposal.config for proposal in asked)
    best = known[np.argsort(known.sum(1), kind="stable")[:10]]
    rows = strategy._candidates()
    near = (rows[:, None] != best[None]).sum(-1).min(1)
    assert len(rows) == len(np.unique(rows, axis=0)) == 100
    assert (near[:50] <= 2).all() and (near[50:] > 2).mean() > 0.8


@pytest.mark.parametrize("space", [darts_space(), NASNetSpace()], ids=["darts", "nasnet"])
def test_spaces_of_graphs_are_searched(space: SearchSpace) -> None:
    strategy = GaussianProcess(space, initial=6, batch=2, pool=20, seed=0)
    asked = told(strategy, 10)
    assert len({proposal.config for proposal in asked}) == 10


def test_the_whole_of_a_space_is_proposed_and_then_nothing() -> None:
    space = SearchSpace("tiny", (Choice("layer", ("a", "b", "c"), rows=3),))
    strategy = GaussianProcess(space, initial=5, seed=0)
    assert len({proposal.config for proposal in told(strategy, 27)}) == 27
    assert strategy.ask() == []
    only = SearchSpace("one", (Choice("layer", ("a",)),))
    assert len(GaussianProcess(only).ask(3)) == 1


def test_without_two_results_it_draws_at_random() -> None:
    strategy = GaussianProcess(SPACE, initial=2, seed=0)
    for proposal in strategy.ask(30):
        strategy.tell(Result(proposal.number, None, failure="it hurt"))
    assert len(strategy.ask(3)) == 3


def test_it_begins_with_the_given_ones_then_with_the_best_by_score_then_at_random() -> None:
    first = [SPACE.sample(seed) for seed in (7, 8)]
    strategy = GaussianProcess(SPACE, initial=12, first=first, scores=lambda config: -planted_of(config), scored=100)
    configs = [proposal.config for proposal in strategy.ask(12)]
    assert configs[:2] == first
    losses = [planted_of(config) for config in configs]
    assert losses[2:7] == sorted(losses[2:7]) and losses[6] <= 3, "the five best of a hundred"
    assert np.mean(losses[7:]) > 3


def planted_of(config: object) -> float:
    return planted(SPACE, Proposal(0, config))  # type: ignore[arg-type]


def test_a_table_of_scores_may_hold_a_part_of_the_space() -> None:
    table = {SPACE.sample(seed): float(seed) for seed in range(6)}
    asked = [proposal.config for proposal in GaussianProcess(SPACE, initial=8, scores=table).ask(8)]
    assert asked[:4] == sorted(table, key=lambda config: -table[config])[:4]
    assert len(GaussianProcess(SPACE, initial=4, scores={}).ask(4)) == 4


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused(score: float) -> None:
    strategy = GaussianProcess(SPACE, scores=lambda config: score)
    with pytest.raises(ValueError, match=r"Scores of architectures must be finite; '.*' has (nan|inf)\. Leave it out"):
        strategy.ask()


def front_volume(strategy: SearchStrategy, objectives: int) -> float:
    values = [result.values for _, result in strategy.observed.values() if result.values]
    return hypervolume(np.array(values), np.full(objectives, 13.0))


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_a_front_has_more_volume_than_that_of_random_search(objectives: int) -> None:
    weights = np.random.default_rng(0).integers(0, 3, (objectives, SPACE.num_genes))

    def run(strategy: SearchStrategy) -> float:
        for _ in range(50):
            (proposal,) = strategy.ask()
            genes = SPACE.encode([proposal.config])[0]
            values = [float(abs(weight - genes).sum()) for weight in weights]
            strategy.tell(Result(proposal.number, tuple(values)))
        return front_volume(strategy, objectives)

    ours = np.mean([run(GaussianProcess(SPACE, initial=10, front=True, seed=seed)) for seed in range(3)])
    random = [run(GaussianProcess(SPACE, initial=50, front=True, seed=seed)) for seed in range(5)]
    assert ours > max(random)


def test_one_objective_is_a_front_of_one() -> None:
    asked = [[p.config for p in told(GaussianProcess(SPACE, initial=10, front=front), 25)] for front in (False, True)]
    assert asked[0] == asked[1]


def test_a_scalar_weighs_several_objectives() -> None:
    strategy = GaussianProcess(SPACE, initial=10, scalar=lambda values: values[1])
    told(strategy, 40, values=2)
    assert strategy.observed[strategy.best.number][1].values[1] == 4.0  # type: ignore[index]


def short_and_long(n: int, seed: int = 0) -> GaussianProcess:
    """Short trainings are noisy; long ones give what is planted."""
    strategy, rng = GaussianProcess(SPACE, initial=10, fidelities=(10, 100), seed=seed), np.random.default_rng(seed)
    for _ in range(n):
        (proposal,) = strategy.ask()
        loss = planted(SPACE, proposal)
        loss = 50 + 3 * loss + rng.normal(0, 2) if proposal.fidelity == 10 else loss
        strategy.tell(Result(proposal.number, (float(loss),)))
    return strategy


def test_fidelities_have_equal_shares_of_the_budget_and_trainings_go_on() -> None:
    strategy = short_and_long(70)
    proposals = [proposal for proposal, _ in strategy.observed.values()]
    assert [proposal.fidelity for proposal in proposals[:10]] == [10] * 10
    short = [proposal.config for proposal in proposals if proposal.fidelity == 10]
    longer = [proposal for proposal in proposals if proposal.fidelity == 100]
    for proposal in longer:
        assert proposal.trained == 10 and proposal.parent is not None
        assert strategy.observed[proposal.parent][0].config == proposal.config
        assert strategy.observed[proposal.parent][0].fidelity == 10
    assert len({proposal.config for proposal in longer}) == len(longer)
    assert len(set(short)) == len(short)
    assert abs(10 * len(short) - 90 * len(longer)) <= 90


def test_what_is_trained_longer_is_good_and_so_is_the_best() -> None:
    for seed in range(3):
        strategy = short_and_long(70, seed)
        longer = [p for p, _ in strategy.observed.values() if p.fidelity == 100]
        losses = [planted(SPACE, proposal) for proposal in longer]
        everything = [planted(SPACE, p) for p, _ in strategy.observed.values() if p.fidelity == 10]
        assert np.mean(losses) < np.mean(everything) and min(losses) <= 1
        assert strategy.best.fidelity == 100 and planted(SPACE, strategy.best) == min(losses)


def test_what_failed_is_not_trained_longer() -> None:
    strategy = GaussianProcess(SPACE, initial=8, fidelities=(1, 4), seed=0)
    failed = set()
    for number in range(40):
        (proposal,) = strategy.ask()
        assert proposal.parent not in failed
        if number % 3 == 0:
            failed.add(proposal.number)
        values = None if number % 3 == 0 else (planted(SPACE, proposal),)
        strategy.tell(Result(proposal.number, values, failure="it hurt"))
    assert any(proposal.fidelity == 4 for proposal, _ in strategy.observed.values())


def test_a_front_of_several_fidelities() -> None:
    strategy = GaussianProcess(SPACE, initial=10, fidelities=(1, 4), front=True, seed=0)
    for _ in range(40):
        (proposal,) = strategy.ask()
        genes = SPACE.encode([proposal.config])[0]
        strategy.tell(Result(proposal.number, (float(genes.sum()), float(5 - genes[:3].sum()))))
    assert sum(proposal.fidelity == 4 for proposal, _ in strategy.observed.values()) >= 5


@pytest.mark.parametrize("fidelities", [(), (0, 1), (12, 12), (200, 12), (1, math.inf), (math.nan, 2), 5, ("a",), "12"])
def test_fidelities_that_do_not_rise_are_refused(fidelities: Any) -> None:
    with pytest.raises(ValueError, match=r"numbers that rise from above 0, such as \(12, 200\); got"):
        GaussianProcess(SPACE, fidelities=fidelities)


def test_results_with_more_values_than_before_are_refused() -> None:
    strategy = GaussianProcess(SPACE, front=True)
    first, second = strategy.ask(2)
    strategy.tell(Result(first.number, (1.0, 2.0)))
    with pytest.raises(ValueError, match=r"earlier ones have 2, number 1 has 3: \(1.0, 2.0, 3.0\)"):
        strategy.tell(Result(second.number, (1.0, 2.0, 3.0)))
    strategy.tell(Result(second.number, (1.0, 3.0)))


def test_a_fidelity_that_the_table_does_not_have_is_named() -> None:
    genes = np.array(list(np.ndindex(*SPACE.gene_sizes)))
    table = TabularEvaluator(SPACE, genes, {"error": genes.sum(1)}, fidelities={12: {"error": genes.sum(1)}}, full=200)
    study = Study(GaussianProcess(SPACE, fidelities=(10, 200)), table, ["min error"], evaluations=3, progress=False)
    with pytest.warns(UserWarning, match="this is random search"):
        study.run()
    assert all("the table has fidelities 12, 200, not 10" in str(record.result.failure) for record in study.records)


def inexact(strategy: SearchStrategy, n: int, seed: int) -> list[float]:
    """Results with errors of deviation 2 on a loss of 0 to 11; returns them by number."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        (proposal,) = strategy.ask()
        found.append(planted(strategy.space, proposal) + float(rng.normal(0, 2)))
        strategy.tell(Result(proposal.number, (found[-1],)))
    return found


class TestNoisy(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return GaussianProcess(space, initial=10, noisy=True, seed=seed)


def test_of_inexact_results_the_best_is_what_the_model_holds_for_it() -> None:
    ours, luckiest = [], []
    for seed in range(12):
        strategy = GaussianProcess(SPACE, initial=15, noisy=True, seed=seed)
        values = inexact(strategy, 40, seed)
        best = strategy.best
        genes = SPACE.encode(proposal.config for proposal, _ in strategy.observed.values())
        blocks = strategy.features.encode(genes)
        model = GaussianProcessRegression(blocks, rank_normal(np.array(values)), start=strategy._start[0][0])
        assert best.number == int(Belief(model, blocks).mean.argmin())
        assert strategy.best.number == best.number
        ours.append(planted(SPACE, best))
        luckiest.append(planted(SPACE, strategy.observed[int(np.argmin(values))][0]))
    assert np.mean(ours) < np.mean(luckiest) - 0.25


def test_looking_at_the_best_of_inexact_results_changes_nothing_that_is_proposed() -> None:
    one, other = (GaussianProcess(SPACE, initial=12, noisy=True, seed=3) for _ in range(2))
    for number in range(30):
        (a,), (b,) = one.ask(), other.ask()
        assert a.config == b.config
        for strategy in (one, other):
            strategy.tell(Result(number, (planted(SPACE, a) + math.sin(7.0 * number),)))
        assert one.best.number <= number


def test_improvements_of_inexact_results_are_over_the_best_mean() -> None:
    strategy = GaussianProcess(SPACE, initial=15, batch=1, noisy=True, seed=4)
    values = inexact(strategy, 15, 4)
    genes = SPACE.encode(proposal.config for proposal, _ in strategy.observed.values())
    every = np.array([row for row in np.ndindex(*SPACE.gene_sizes) if list(row) not in genes.tolist()])
    blocks = strategy.features.encode(np.concatenate([genes, every]))
    model = GaussianProcessRegression([block[:15] for block in blocks], rank_normal(np.array(values)))
    mean = Belief(model, blocks).mean[:15].min()
    belief = Belief(model, [block[15:] for block in blocks])
    gain = expected_improvement(belief.mean, belief.std, float(mean))
    np.testing.assert_array_equal(SPACE.encode([strategy.ask()[0].config])[0], every[int(gain.argmax())])


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="noisy=True names one best architecture"):
        GaussianProcess(SPACE, front=True, noisy=True)
    with pytest.raises(ValueError, match="must be at least 1; got 20, 0, 1000, 200"):
        GaussianProcess(SPACE, batch=0)
    with pytest.raises(ValueError, match="front=True looks for the front of all: give one of the two"):
        GaussianProcess(SPACE, front=True, scalar=sum)
    with pytest.raises(ValueError, match="'planted' has no graph with paths"):
        GaussianProcess(SPACE, graphs="path")
    with pytest.raises(ValueError, match="must belong to space 'planted'; this one belongs to 'darts'"):
        GaussianProcess(SPACE, first=[darts_space().sample(0)])


class TestExtraFeatures(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return GaussianProcess(space, initial=10, pool=60, features=Sum(), seed=seed)


LARGE = SearchSpace("planted", (Choice("layer", ("a", "b", "c"), rows=10), Choice("width", (8, 16))))


class Hint(ExtraFeatures):
    """A number that goes along with the loss; shuffled, one that does not."""

    def __init__(self, shuffled: bool) -> None:
        self.shuffled = shuffled

    def __call__(self, configs: Sequence[SubnetConfig]) -> np.ndarray:
        rows = LARGE.encode(configs)
        noise = np.array([np.random.default_rng(row.tolist()).normal() for row in rows])
        return (noise if self.shuffled else puzzle(rows) + 0.2 * noise)[:, None]


def puzzle(genes: np.ndarray) -> np.ndarray:
    """A loss that genes alone tell little about: sums of products."""
    return np.asarray(((genes[:, :-1] + 1) * (genes[:, 1:] + 2) % 5).sum(1).astype(float))


def test_extra_features_help_if_they_tell_something() -> None:
    found = []
    for features in (Hint(False), Hint(True), None):
        best = []
        for seed in range(3):
            strategy = GaussianProcess(LARGE, initial=10, batch=5, pool=100, features=features, seed=seed)
            losses = []
            for _ in range(40):
                (proposal,) = strategy.ask()
                losses.append(float(puzzle(LARGE.encode([proposal.config]))[0]))
                strategy.tell(Result(proposal.number, (losses[-1],)))
            best.append(np.mean(sorted(losses)[:5]))
        found.append(np.mean(best))
    assert found[0] < found[1] - 1 and found[0] < found[2] - 1


def test_extra_features_are_a_kernel_of_their_own_and_computed_once() -> None:
    source = Sum()
    strategy = GaussianProcess(SPACE, initial=8, batch=4, pool=30, features=source)
    told(strategy, 20)
    assert len(source.asked) == len(set(source.asked)) < 486, "of the candidates, not of all"
    assert all(len(h.shares) == 3 for start in strategy._start.values() for h in start)
    every = GaussianProcess(SPACE, pool=500, features=(whole := Sum()))
    assert len(whole.asked) == 486 and every._blocks[-1].shape == (486, LEVELS)
    np.testing.assert_array_equal(np.argsort(every._blocks[-1].sum(1), kind="stable")[:1], [0])
