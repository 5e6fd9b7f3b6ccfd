"""Costs on one device as a sum of the costs on others and of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oneshot.cost.model import CostModel, above_zero, expected_above_zero
from oneshot.regression.encoding import one_hot, soft_one_hot
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

from .fit import check_samples


class TransferredCost(CostModel):
    """Costs on a new device: a sum of the sources' costs and of a table, as :meth:`FewShot.fit` makes it.

    Args:
        space: The search space.
        sources: Cost models of the same space, S of them.
        mean: Coefficients of offset, sources and candidates, ``[1 + S + P]``, P the picks of all genes.
        covariance: Of the coefficients, ``[1 + S + P, 1 + S + P]``; zero if nothing is known.
        noise: Standard deviation of one measurement, in ``unit``.
        freedom: Degrees of freedom of the Student-t interval.
        unit: Unit of the costs.

    Attributes:
        noise: See above. It holds what the sources cannot explain, be it noise or a device like none of them.
    """

    def __init__(
        self,
        space: SearchSpace,
        sources: Sequence[CostModel],
        mean: Floats,
        covariance: Floats,
        *,
        noise: float,
        freedom: int,
        unit: str = "ms",
    ) -> None:
        super().__init__()
        self.space, self.unit, self.noise, self.freedom = space, unit, noise, freedom
        self.sources = torch.nn.ModuleList(sources)
        self.mean, self.covariance = mean, covariance

    def costs(self, genes: IntMatrix) -> Floats:
        return above_zero(np.asarray(self._features(genes) @ self.mean), self.least)

    def interval(self, genes: IntMatrix, level: float = 0.9) -> tuple[Floats, Floats]:
        """Where a measurement of each architecture falls with probability ``level``.

        Args:
            genes: Architectures, ``[N, G]``.
            level: Between 0 and 1.

        Returns:
            Lower and upper ends, ``[N]`` each.

        Raises:
            ValueError: If the level is not between 0 and 1.
        """
        from scipy.stats import t

        if not 0 < level < 1:
            raise ValueError(f"The level of an interval must be between 0 and 1, such as 0.9; got {level}.")
        x = self._features(genes)
        width = t.ppf((1 + level) / 2, self.freedom) * np.sqrt(
            np.einsum("np,pq,nq->n", x, self.covariance, x, optimize=True).clip(0) + self.noise**2
        )
        middle = above_zero(np.asarray(x @ self.mean), self.least)
        return np.maximum(middle - width, 0.0), middle + width

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        x = soft_one_hot(self.space, weights)
        mean = torch.from_numpy(self.mean).to(x)
        total = mean[0] + mean[1 + len(self.sources) :] @ x
        for weight, source in zip(mean[1:], self.sources):
            assert isinstance(source, CostModel)
            if weight:
                total = total + weight * source.expected(weights).to(x)
        return expected_above_zero(total, self.least)

    def _features(self, genes: IntMatrix) -> Floats:
        return features_of(self.space, [s for s in self.sources if isinstance(s, CostModel)], genes)


def features_of(space: SearchSpace, sources: Sequence[CostModel], genes: IntMatrix) -> Floats:
    """Constant, sources and picks: ``[N, G]`` -> ``[N, 1 + S + P]``."""
    return np.column_stack([np.ones(len(genes)), *(source.costs(genes) for source in sources), one_hot(space, genes)])


def nonnegative_mixture(
    sources: Mapping[str, CostModel] | Sequence[CostModel],
    genes: IntMatrix,
    values: npt.ArrayLike,
    *,
    unit: str = "ms",
) -> TransferredCost:
    """The baseline: a sum of the sources with weights that are not negative, and a constant, by least squares.

    Args:
        sources: Cost models of one space, by their names or without.
        genes: Measured architectures, ``[K, G]``.
        values: Their costs, ``[K]``.
        unit: Unit of the costs.

    Raises:
        ValueError: If the values are not positive and finite.
    """
    from scipy.optimize import nnls

    sources = list(sources.values() if isinstance(sources, Mapping) else sources)
    space = sources[0].space
    y, x = check_samples(space, genes, values), features_of(space, sources, genes)
    weights = nnls(x[:, : 1 + len(sources)], y)[0]
    mean = np.concatenate([weights, np.zeros(x.shape[1] - len(weights))])
    left = max(1, len(y) - int((weights > 0).sum()))
    noise = float(np.sqrt(((y - x @ mean) ** 2).sum() / left))
    return TransferredCost(space, sources, mean, np.zeros((len(mean),) * 2), noise=noise, freedom=left, unit=unit)
