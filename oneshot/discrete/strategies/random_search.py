"""Random search, and all architectures in turn: the baselines of every comparison."""

from __future__ import annotations

from oneshot.supernets.space import SearchSpace

from ..protocol import Proposal, SearchStrategy, listed


class RandomSearch(SearchStrategy):
    """Architectures drawn from the space, without repetition (Li and Talwalkar, UAI 2019, arXiv:1902.07638)."""

    def _propose(self) -> Proposal | None:
        genes = self._fresh(self._random)
        return None if genes is None else self._new(genes)


class GridSearch(SearchStrategy):
    """Every architecture of a small space once, in lexicographic order of its genes.

    Raises:
        ValueError: If the space is too large to be listed.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0) -> None:
        super().__init__(space, seed=seed)
        self._left = iter(listed(space))

    def _propose(self) -> Proposal | None:
        genes = next(self._left, None)
        return None if genes is None else self._new(genes)
