from __future__ import annotations

import numpy as np
import pytest

from oneshot.discrete import NSGA2, Proposal, RegularizedEvolution, Result, SearchStrategy
from oneshot.fronts.pareto import non_dominated
from oneshot.supernets import SearchSpace
from oneshot.testing.strategies import SPACE, StrategyContract


class TestRegularizedEvolution(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return RegularizedEvolution(space, population=10, sample=4, seed=seed)


class TestNSGA2(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return NSGA2(space, population=10, seed=seed)


def test_the_oldest_dies_even_if_it_is_the_best() -> None:
    strategy = RegularizedEvolution(SPACE, population=3, sample=50, seed=0)
    first, *others = strategy.ask(4)
    strategy.tell(Result(first.number, (0.0,)))
    for loss, proposal in zip((3.0, 2.0, 1.0), others):
        strategy.tell(Result(proposal.number, (loss,)))

    (child,) = strategy.ask()

    best_alive = SPACE.encode([others[2].config])
    assert (SPACE.encode([child.config]) != best_alive).sum() == 1, "one gene away from the best that is alive"


def test_a_population_smaller_than_what_is_in_flight_is_no_problem() -> None:
    strategy = RegularizedEvolution(SPACE, population=2, sample=5)
    flying = strategy.ask(20)
    assert len(flying) == 20
    for proposal in flying:
        strategy.tell(Result(proposal.number, (1.0,)))
    assert strategy.ask(3)


def test_a_space_is_used_up_and_then_there_is_nothing_left() -> None:
    strategy = RegularizedEvolution(SPACE, population=5, sample=2)
    seen = []
    while proposals := strategy.ask():
        seen += proposals
        strategy.tell(Result(proposals[0].number, (1.0,)))
    assert len({p.config for p in seen}) == len(seen) == SPACE.size


def objectives(proposal: Proposal) -> tuple[float, float]:
    genes = SPACE.encode([proposal.config])[0]
    return float(genes[:5].sum()), float((2 - genes[:5]).sum() + 3 * genes[5])


def test_nsga2_spreads_over_the_front() -> None:
    strategy = NSGA2(SPACE, population=12, seed=0)
    values = []
    for _ in range(100):
        (proposal,) = strategy.ask()
        values.append(objectives(proposal))
        strategy.tell(Result(proposal.number, values[-1]))

    found = np.unique(np.array(values)[non_dominated(values)], axis=0)

    assert len(found) >= 9, "of 11 points, sum of layers from 0 to 10"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: RegularizedEvolution(SPACE, population=0), "at least 1; got 0 and 25", id="population"),
        pytest.param(lambda: RegularizedEvolution(SPACE, sample=0), "at least 1; got 100 and 0", id="sample"),
        pytest.param(lambda: NSGA2(SPACE, population=1), "population must be at least 2", id="pair"),
        pytest.param(lambda: NSGA2(SPACE, crossover=1.5), "between 0 and 1; got 20 and 1.5", id="share"),
    ],
)
def test_bad_arguments_are_refused(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        build()
