from __future__ import annotations

import numpy as np
import pytest

from oneshot.discrete import LocalSearch, Result, SearchStrategy
from oneshot.supernets import Choice, SearchSpace
from oneshot.testing.strategies import SPACE, StrategyContract, planted


class TestFirstImprovement(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return LocalSearch(space, seed=seed)


class TestFullNeighbourhood(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return LocalSearch(space, neighbourhood="full", initial=3, seed=seed)


class TestBestFirst(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return LocalSearch(space, best_first=True, initial=5, seed=seed)


class TestBestFirstFull(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return LocalSearch(space, best_first=True, neighbourhood="full", seed=seed)


@pytest.mark.parametrize("neighbourhood", ["first", "full"])
def test_best_first_goes_on_from_the_next_best_with_unknown_neighbours(neighbourhood: str) -> None:
    """Past the optimum every proposal is a neighbour of the best that still has unknown ones."""
    strategy = LocalSearch(SPACE, neighbourhood=neighbourhood, best_first=True, seed=2)  # type: ignore[arg-type]
    losses: dict[bytes, float] = {}
    beyond = 0
    for _ in range(120):
        (proposal,) = strategy.ask()
        genes = SPACE.encode([proposal.config])[0]
        if 0.0 in losses.values():
            keys = sorted(losses, key=losses.__getitem__)
            open_ones = [key for key in keys if unknown(key, losses)]
            near = [key for key in open_ones if (np.frombuffer(key, np.int64) != genes).sum() == 1]
            assert losses[near[0]] <= losses[open_ones[0]] + 1, "a better neighbour may have been moved to"
            beyond += 1
        losses[genes.tobytes()] = planted(SPACE, proposal)
        strategy.tell(Result(proposal.number, (losses[genes.tobytes()],)))
    assert beyond > 80
    far = max(sum(np.frombuffer(key, np.int64)) for key in list(losses)[-40:])
    assert far < 6, "no random architecture"


def unknown(key: bytes, losses: dict[bytes, float]) -> bool:
    around = SPACE.neighbours(np.frombuffer(key, dtype=np.int64))
    return any(row.tobytes() not in losses for row in around)


def test_best_first_ends_with_the_space() -> None:
    space = SearchSpace("tiny", (Choice("layer", ("a", "b", "c"), rows=3),))
    strategy = LocalSearch(space, best_first=True)
    for _ in range(27):
        (proposal,) = strategy.ask()
        strategy.tell(Result(proposal.number, (planted(space, proposal),)))
    assert strategy.ask() == []


@pytest.mark.parametrize("neighbourhood", ["first", "full"])
def test_it_ends_a_climb_at_a_local_optimum_and_begins_another(neighbourhood: str) -> None:
    strategy = LocalSearch(SPACE, neighbourhood=neighbourhood, seed=2)  # type: ignore[arg-type]
    losses = []
    while not losses or losses[-1] > 0:
        (proposal,) = strategy.ask()
        losses.append(planted(SPACE, proposal))
        strategy.tell(Result(proposal.number, (losses[-1],)))
    around = len(SPACE.neighbours(SPACE.encode([proposal.config])[0]))
    later = []
    for _ in range(around + 1):
        (proposal,) = strategy.ask()
        later.append(planted(SPACE, proposal))
        strategy.tell(Result(proposal.number, (later[-1],)))
    assert max(later) > 2, "a random architecture, for all around the optimum are known"


def test_the_full_neighbourhood_moves_to_the_best_neighbour() -> None:
    space = SearchSpace("line", (Choice("layer", tuple(range(6)), rows=2),))
    strategy = LocalSearch(space, neighbourhood="full", seed=0)
    (start,) = strategy.ask()
    strategy.tell(Result(start.number, (100.0,)))
    losses = {}
    for _ in range(10):
        (proposal,) = strategy.ask()
        losses[proposal] = float(space.encode([proposal.config])[0] @ [1, 10])
        strategy.tell(Result(proposal.number, (losses[proposal],)))
    best = min(losses, key=losses.__getitem__)
    (then,) = strategy.ask()
    assert (space.encode([then.config]) != space.encode([best.config])).sum() == 1


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one architecture; got initial=0"):
        LocalSearch(SPACE, initial=0)
    with pytest.raises(ValueError, match="'first' or 'full'; got 'best'"):
        LocalSearch(SPACE, neighbourhood="best")  # type: ignore[arg-type]


@pytest.mark.parametrize("neighbourhood", ["first", "full"])
def test_a_neighbour_that_is_as_good_is_no_reason_to_move(neighbourhood: str) -> None:
    """On a plateau a walk would go on for ever; here a new start follows, and is far away."""
    space = SearchSpace("plateau", (Choice("layer", ("a", "b", "c"), rows=20),))
    strategy = LocalSearch(space, neighbourhood=neighbourhood, seed=0)  # type: ignore[arg-type]
    genes = []
    for _ in range(1 + 40 + 2):
        (proposal,) = strategy.ask()
        genes.append(space.encode([proposal.config])[0])
        strategy.tell(Result(proposal.number, (1.0,)))
    assert [int((row != genes[0]).sum()) for row in genes[1:41]] == [1] * 40
    assert (genes[41] != genes[0]).sum() > 5 and (genes[42] != genes[41]).sum() == 1
