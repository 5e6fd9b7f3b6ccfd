"""Regularised (aging) evolution (Real et al., AAAI 2019, arXiv:1802.01548, algorithm 1)."""

from __future__ import annotations

from collections import deque

from oneshot.discrete.protocol import Genes, Proposal, Result, Scalar, SearchStrategy
from oneshot.supernets.space import SearchSpace


class RegularizedEvolution(SearchStrategy):
    """Mutates the best of a random sample, and removes the oldest, however good it is.

    Age counts from when a result came in, so that any number of evaluations may be in flight. What a mutation leads to
    is new, where the space has anything new near: a repeated evaluation would tell nothing.

    Args:
        space: The space to search.
        population: P of the paper, whose 100 is for 20,000 evaluations; 30 suits some hundred.
        sample: S of the paper, drawn with replacement; 25 of 100, 10 of 30.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.

    Raises:
        ValueError: If the population or the sample is empty.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        population: int = 100,
        sample: int = 25,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(space, seed=seed, scalar=scalar)
        if population < 1 or sample < 1:
            raise ValueError(f"population and sample must be at least 1; got {population} and {sample}.")
        self.sample = sample
        self._alive: deque[tuple[float, Genes]] = deque(maxlen=population)
        self._to_draw = self.random_first = population

    def _propose(self) -> Proposal | None:
        if self._to_draw or not self._alive:
            self._to_draw = max(0, self._to_draw - 1)
            genes = self._fresh(self._random)
        else:
            drawn = [self._alive[i] for i in self.rng.integers(len(self._alive), size=self.sample)]
            parent = min(drawn, key=lambda member: member[0])[1]
            genes = self._fresh(lambda: self._mutated(parent))
        return None if genes is None else self._new(genes)

    def _learn(self, proposal: Proposal, result: Result) -> None:
        self._alive.append((self.loss(result), self._genes(proposal)))
