"""Evolution by tournaments: the best of a random sample is mutated. Papers differ in which member is removed."""

from __future__ import annotations

import math
from typing import Literal

from oneshot.discrete.protocol import Genes, Proposal, Result, Scalar, SearchStrategy
from oneshot.supernets.space import SearchSpace


class TournamentEvolution(SearchStrategy):
    """Mutates the best of a random share of the population; removes none, or the worst.

    The defaults are those of hierarchical evolution (Liu et al., ICLR 2018, arXiv:1711.00436, section 3.2), whose
    space is :class:`~oneshot.discrete.strategies.hierarchical.HierarchicalSpace`: 200 random architectures, then
    tournaments among 5 % of the population, which only grows. Results are taken in as they come, as in the paper.

    Args:
        space: The space to search.
        population: Random architectures to begin with, and with ``remove="worst"`` the most that live.
        share: Share of the population that meets in a tournament; at least one member.
        remove: Member that is removed when there are more: ``"none"``, or the ``"worst"``.
        mutations: Number of mutations from a parent to its child.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        population: int = 200,
        share: float = 0.05,
        remove: Literal["none", "worst"] = "none",
        mutations: int = 1,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(space, seed=seed, scalar=scalar)
        if population < 1 or mutations < 1 or not 0 < share <= 1:
            raise ValueError(
                "population and mutations must be at least 1, share above 0 and at most 1; got "
                f"population={population}, mutations={mutations}, share={share}."
            )
        if remove not in ("none", "worst"):
            raise ValueError(f"remove must be 'none' or 'worst'; got {remove!r}.")
        self.population, self.share, self.remove, self.mutations = population, share, remove, mutations
        self._alive: list[tuple[float, Genes]] = []
        self._to_draw = self.random_first = population

    def _propose(self) -> Proposal | None:
        if self._to_draw or not self._alive:
            self._to_draw = max(0, self._to_draw - 1)
            genes = self._fresh(self._random)
        else:
            genes = self._fresh(lambda: self._mutated(self._winner(), self.mutations))
        return None if genes is None else self._new(genes)

    def _winner(self) -> Genes:
        size = math.ceil(self.share * len(self._alive))
        drawn = self.rng.choice(len(self._alive), size=size, replace=False)
        return min((self._alive[int(i)] for i in drawn), key=lambda member: member[0])[1]

    def _learn(self, proposal: Proposal, result: Result) -> None:
        if result.values is None:
            return
        self._alive.append((self.loss(result), self._genes(proposal)))
        if self.remove == "worst" and len(self._alive) > self.population:
            del self._alive[max(range(len(self._alive)), key=lambda i: self._alive[i][0])]
