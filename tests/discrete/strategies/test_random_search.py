from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from oneshot.discrete import GridSearch, RandomSearch, RegularizedEvolution, Result, SearchStrategy
from oneshot.discrete.evaluators.tables import TableSpace
from oneshot.discrete.protocol import listed
from oneshot.supernets import Choice, NASBench201Space, SearchSpace
from oneshot.testing.strategies import SPACE, StrategyContract


class TestRandomSearch(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return RandomSearch(space, seed=seed)


def test_random_search_finds_every_architecture_once() -> None:
    space = NASBench201Space(choices=(Choice("cell", ("none", "skip_connect"), rows=6),))
    strategy = RandomSearch(space)
    proposals = strategy.ask(1000)
    assert len({p.config for p in proposals}) == len(proposals) == len(listed(space)) < 64


def test_the_grid_is_every_architecture_in_order() -> None:
    strategy = GridSearch(SPACE)
    proposals = strategy.ask(10_000)
    assert (SPACE.encode([p.config for p in proposals]) == listed(SPACE)).all()
    strategy.tell(Result(0, (1.0,)))
    assert strategy.ask() == []


def test_a_grid_of_a_large_space_is_refused() -> None:
    large = SearchSpace("large", (Choice("layer", tuple(range(10)), rows=8),))
    with pytest.raises(ValueError, match="up to 100,000 spellings are listed; 'large' has 100,000,000"):
        GridSearch(large)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(RandomSearch, id="random"),
        pytest.param(GridSearch, id="grid"),
        pytest.param(lambda space: RegularizedEvolution(space, population=5, sample=2), id="evolution"),
    ],
)
def test_a_table_of_a_large_space_is_searched_to_its_end(build: Callable[[SearchSpace], SearchStrategy]) -> None:
    choices = (Choice("layer", tuple(range(10)), rows=6),)
    rows = np.unique(np.random.default_rng(0).integers(10, size=(300, 6)), axis=0)[::-1]
    space = TableSpace("table", choices, rows=tuple(map(tuple, rows.tolist())))
    strategy, asked = build(space), []
    while proposals := strategy.ask():
        asked += space.encode([proposals[0].config]).tolist()
        strategy.tell(Result(proposals[0].number, (float(sum(asked[-1])),)))
    assert sorted(asked) == rows[::-1].tolist() == listed(space).tolist()


def test_the_best_of_a_grid_is_what_its_scalar_says() -> None:
    strategy = GridSearch(SPACE, scalar=lambda values: values[1])
    for proposal, values in zip(strategy.ask(2), [(1.0, 2.0), (2.0, 1.0)]):
        strategy.tell(Result(proposal.number, values))
    assert strategy.best.number == 1
