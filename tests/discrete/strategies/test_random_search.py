from __future__ import annotations

import pytest

from oneshot.discrete import GridSearch, RandomSearch, Result, SearchStrategy
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
    with pytest.raises(ValueError, match="up to 100,000 architectures are listed; 'large' has 100,000,000"):
        GridSearch(large)
