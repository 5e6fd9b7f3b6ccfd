"""NASNet's controller over NASNet's space (arXiv:1707.07012)."""

from __future__ import annotations

import numpy as np

from oneshot.discrete import PPO, Proposal, RegularizedEvolution, Result, SearchStrategy
from oneshot.supernets import NASNetSpace, SearchSpace
from oneshot.testing.strategies import StrategyContract

SPACE = NASNetSpace(blocks=2)


def missing(proposal: Proposal) -> float:
    """Operations of all blocks that are not the planted one."""
    picks = [pick for _, row in proposal.config.picks for pick in row]
    return float(sum(pick == "skip_connect" for pick in picks) - sum(pick == "sep_conv_3x3" for pick in picks))


class TestPPOOnCells(StrategyContract):
    space: SearchSpace = SPACE
    evaluations = 160

    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return PPO.small(space, seed=seed)

    def loss(self, proposal: Proposal) -> tuple[float, ...]:
        return (missing(proposal),)

    def test_it_is_better_than_random_search(self) -> None:
        losses = [missing(proposal) for proposal in self.run(self.build(self.space, 0), self.evaluations)]
        assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 1


def test_evolution_of_amoebanet_moves_by_inputs_and_operations() -> None:
    strategy = RegularizedEvolution(SPACE, population=10, sample=5, seed=0)
    losses = []
    for _ in range(150):
        (proposal,) = strategy.ask()
        SPACE.validate(proposal.config)
        losses.append(missing(proposal))
        strategy.tell(Result(proposal.number, (losses[-1],)))
    assert min(losses) < min(losses[:10])
