"""What every strategy of a discrete search must hold."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod

import numpy as np
import pytest

from oneshot.discrete.protocol import Proposal, Result, SearchStrategy, listed
from oneshot.supernets.space import Choice, SearchSpace

SPACE = SearchSpace("planted", (Choice("layer", ("a", "b", "c"), rows=5), Choice("width", (8, 16))))


def planted(space: SearchSpace, proposal: Proposal) -> float:
    """A loss that rises with every gene; all zeros are best."""
    return float(space.encode([proposal.config]).sum())


class StrategyContract(ABC):
    """Subclass, say how to build the strategy, run pytest.

    Results are losses of ``planted`` in a small space. ``space`` and ``evaluations`` may be changed.
    """

    space: SearchSpace = SPACE
    evaluations: int = 60  # in which the strategy is better than the middle of random searches

    @abstractmethod
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        """The strategy, with a seed."""

    def loss(self, proposal: Proposal) -> tuple[float, ...]:
        """What an evaluation gives."""
        return (planted(self.space, proposal),)

    def run(self, strategy: SearchStrategy, n: int) -> list[Proposal]:
        """Ask and tell, one by one."""
        asked: list[Proposal] = []
        for _ in range(n):
            if not (proposals := strategy.ask()):
                break
            asked += proposals
            strategy.tell(Result(proposals[0].number, self.loss(proposals[0])))
        return asked

    def test_the_same_seed_proposes_the_same(self) -> None:
        first, second = (self.run(self.build(self.space, 3), 25) for _ in range(2))
        other = self.run(self.build(self.space, 4), 25)
        assert first == second
        assert [p.config for p in first] != [p.config for p in other]

    def test_proposals_are_canonical_and_repeated_only_by_strategies_that_say_so(self) -> None:
        strategy = self.build(self.space, 0)
        configs = [proposal.config for proposal in self.run(strategy, 40)]
        genes = self.space.encode(configs)
        np.testing.assert_array_equal(self.space.repair(genes), genes)
        assert strategy.repeats or len(set(configs)) == len(configs)

    def test_results_may_come_in_any_order_while_others_are_in_flight(self) -> None:
        strategy, rng = self.build(self.space, 0), np.random.default_rng(0)
        flying: list[Proposal] = []
        told = 0
        while told < 40:
            flying += strategy.ask() if len(flying) < 7 else []
            if len(flying) == 7 or not strategy.pending or rng.random() < 0.5:
                proposal = flying.pop(int(rng.integers(len(flying))))
                strategy.tell(Result(proposal.number, self.loss(proposal)))
                told += 1
        assert len(strategy.observed) == told

    def test_evaluations_that_fail_stop_nothing(self) -> None:
        strategy = self.build(self.space, 0)
        for number in range(40):
            (proposal,) = strategy.ask()
            failed = number % 2 == 0 or number < 5
            strategy.tell(Result(proposal.number, None if failed else self.loss(proposal), failure="it hurt"))
        assert strategy.best.number % 2 == 1

    def test_a_restored_strategy_goes_on_as_the_first_would_have(self) -> None:
        first = self.build(self.space, 1)
        self.run(first, 17)
        flying = first.ask(2)  # one result will be told after the state was saved
        second = self.build(self.space, 1)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        for strategy in (first, second):
            for proposal in flying:
                strategy.tell(Result(proposal.number, self.loss(proposal)))
        assert self.run(first, 15) == self.run(second, 15)

    def test_it_is_better_than_random_search(self) -> None:
        runs = [self.run(self.build(self.space, seed), self.evaluations) for seed in range(3)]
        losses = [min(planted(self.space, proposal) for proposal in run) for run in runs]
        rng = np.random.default_rng(0)
        every = listed(self.space).sum(1)
        random = [rng.choice(every, self.evaluations, replace=False).min() for _ in range(200)]
        assert np.mean(losses) <= np.median(random)

    def test_a_state_of_another_strategy_is_refused(self) -> None:
        state = self.build(self.space, 0).state_dict()
        with pytest.raises(ValueError, match="has the seed 1, the saved one 0"):
            self.build(self.space, 1).load_state_dict(state)
        with pytest.raises(ValueError, match="has the strategy"):
            self.build(self.space, 0).load_state_dict({**state, "strategy": "Another"})
