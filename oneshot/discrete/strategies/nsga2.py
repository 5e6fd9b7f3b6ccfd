"""NSGA-II (Deb et al., IEEE TEC 6(2), 2002) with real evaluations, and any number of them in flight."""

from __future__ import annotations

import numpy as np

from oneshot.discrete.protocol import Genes, Proposal, Result, SearchStrategy
from oneshot.fronts.nsga2 import by_rank_and_crowding
from oneshot.supernets.space import SearchSpace


class NSGA2(SearchStrategy):
    """Evolution of a front: rank by domination, then by crowding.

    Parents are the best ``population`` of everything evaluated, which is the paper's elitist selection one child at a
    time, as asynchronous evaluation needs it. Every child is mutated once, where in the paper each of n genes changes
    with probability 1/n.

    Args:
        space: The space to search.
        population: Size of the population, and of the first, random one.
        crossover: Share of children that have two parents (section V of the paper).
        seed: Seed of all random choices.

    Raises:
        ValueError: If the population is below 2, or the share not between 0 and 1.
    """

    def __init__(self, space: SearchSpace, *, population: int = 20, crossover: float = 0.9, seed: int = 0) -> None:
        super().__init__(space, seed=seed)
        if population < 2 or not 0 <= crossover <= 1:
            raise ValueError(
                f"population must be at least 2 and crossover between 0 and 1; got {population} and {crossover}."
            )
        self.population, self.crossover = population, crossover
        self._members: list[tuple[tuple[float, ...], Genes]] = []  # best first
        self._to_draw = self.random_first = population

    def _propose(self) -> Proposal | None:
        if self._to_draw or not self._members:
            self._to_draw = max(0, self._to_draw - 1)
            genes = self._fresh(self._random)
        else:
            genes = self._fresh(self._child)
        return None if genes is None else self._new(genes)

    def _child(self) -> Genes:
        child = self._parent()
        if self.rng.random() < self.crossover:
            child = self._crossed(child, self._parent())
        return self._mutated(child)

    def _parent(self) -> Genes:
        """A parent by binary tournament; members are sorted."""
        return self._members[int(self.rng.integers(len(self._members), size=2).min())][1]

    def _learn(self, proposal: Proposal, result: Result) -> None:
        if result.values is None:
            return
        self._members.append((result.values, self._genes(proposal)))
        order = by_rank_and_crowding(np.array([values for values, _ in self._members]))
        self._members = [self._members[i] for i in order[: self.population]]
