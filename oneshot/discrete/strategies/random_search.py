"""Random search and grid search: the baselines of every comparison."""

from __future__ import annotations

from oneshot.discrete.protocol import Proposal, Scalar, SearchStrategy, listed
from oneshot.supernets.space import SearchSpace


class RandomSearch(SearchStrategy):
    """Architectures drawn from the space, without repetition (Li and Talwalkar, UAI 2019, arXiv:1902.07638)."""

    def _propose(self) -> Proposal | None:
        genes = self._fresh(self._random)
        return None if genes is None else self._new(genes)


class GridSearch(SearchStrategy):
    """Every architecture of a small space, or of a table, once, in lexicographic order of its genes.

    Args:
        space: What is listed.
        seed: Changes nothing.
        scalar: What the best architecture minimises, given all values.

    Raises:
        ValueError: If the space is too large to be listed.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0, scalar: Scalar | None = None) -> None:
        super().__init__(space, seed=seed, scalar=scalar)
        self._left = iter(listed(space))

    def _propose(self) -> Proposal | None:
        genes = next(self._left, None)
        return None if genes is None else self._new(genes)
