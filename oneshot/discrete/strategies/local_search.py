"""Local search (White et al., UAI 2021, arXiv:2005.02960): move to a better neighbour until there is none.

What follows a local optimum is a new start, or, best first, the next best architecture with unknown neighbours.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from oneshot.discrete.protocol import Genes, Proposal, Result, Scalar, SearchStrategy
from oneshot.supernets.space import SearchSpace


class LocalSearch(SearchStrategy):
    """Hill climbing over architectures one gene away; at a local optimum it begins again from a random one.

    With ``best_first=True`` it goes on past the optimum, from the best architecture that has a neighbour which was not
    proposed yet: best-first search (Pearl, Heuristics, 1984, section 2.3.1) with the loss as its measure. Local optima
    lie near each other where landscapes have few of them, as those of NAS-Bench-201.

    With several evaluations in flight it looks at neighbours ahead of time; those of a centre it has left by then are
    results like any other, and it moves to whatever is best around.

    Args:
        space: The space to search.
        initial: Random architectures at every start, of which the best is where it begins.
        neighbourhood: Move to the first better neighbour, or to the best once all are known (algorithm 1 of the paper).
        best_first: Go on past a local optimum instead of beginning again.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        initial: int = 1,
        neighbourhood: Literal["first", "full"] = "first",
        best_first: bool = False,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(space, seed=seed, scalar=scalar)
        if initial < 1:
            raise ValueError(f"A local search must begin with at least one architecture; got initial={initial}.")
        if neighbourhood not in ("first", "full"):
            raise ValueError(f"neighbourhood must be 'first' or 'full'; got {neighbourhood!r}.")
        self.initial, self.neighbourhood, self.best_first = initial, neighbourhood, best_first
        self.random_first = initial
        self._losses: dict[bytes, float] = {}
        self._centre: Genes | None = None
        self._around: list[Genes] = []  # neighbours of the centre, in the order in which they are tried
        self._start: set[bytes] = set()  # of the start that is under way
        self._to_draw = initial
        self._exhausted: set[bytes] = set()  # architectures whose neighbours were all proposed

    def _propose(self) -> Proposal | None:
        while True:
            if self._centre is None and self._to_draw:
                self._to_draw -= 1
                genes = self._fresh(self._random)
                if genes is None:
                    return None
                self._start.add(genes.tobytes())
                return self._new(genes)
            while self._around:
                genes = self._around.pop()
                if self._is_new(genes):
                    return self._new(genes)
            if self.pending or self._move():
                if self._around or (self._centre is None and self._to_draw):
                    continue
                return None
            if not (self.best_first and self._go_on()):
                self._restart()

    def _restart(self) -> None:
        self._centre, self._start, self._to_draw = None, set(), self.initial

    def _learn(self, proposal: Proposal, result: Result) -> None:
        key = self._genes(proposal).tobytes()
        self._losses[key] = self.loss(result)
        if self._centre is None:
            if not self._to_draw and all(start in self._losses for start in self._start):
                self._go(min(self._start, key=self._losses.__getitem__))
        elif self.neighbourhood == "first" and self._losses[key] < self._losses[self._centre.tobytes()]:
            self._go(key)

    def _move(self) -> bool:
        """Go to the best known neighbour, if it is better than the centre."""
        if self._centre is None:
            return False
        around = {row.tobytes(): None for row in self.space.neighbours(self._centre)}
        best = min(around, key=lambda key: self._losses.get(key, math.inf), default=None)
        if best is None or self._losses.get(best, math.inf) >= self._losses[self._centre.tobytes()]:
            return False
        self._go(best)
        return True

    def _go_on(self) -> bool:
        """Go to the best architecture that has a neighbour which was not proposed; of equal ones, the first told."""
        for key in sorted(self._losses, key=self._losses.__getitem__):
            if math.isinf(self._losses[key]):
                return False
            if key in self._exhausted:
                continue
            if any(self._is_new(row) for row in self.space.neighbours(np.frombuffer(key, dtype=np.int64))):
                self._go(key)
                return True
            self._exhausted.add(key)
        return False

    def _go(self, key: bytes) -> None:
        self._centre = np.frombuffer(key, dtype=np.int64).copy()
        around = self.space.neighbours(self._centre)
        self._around = list(around[self.rng.permutation(len(around))])
