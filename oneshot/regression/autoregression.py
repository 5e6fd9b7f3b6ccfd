"""Several fidelities in one model: each is a multiple of the one below, and a Gaussian process of the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from oneshot.supernets.space import Floats

from .gaussian_process import Belief, Blocks, GaussianProcessRegression, Hyperparameters

PRIOR = 2.0  # samples that the prior of a multiple counts as; it is 1, between standardised fidelities


class AutoregressiveRegression:
    """``f_j = rho_j f_(j-1) + delta_j``, with independent Gaussian processes ``f_0`` and ``delta_j``.

    Kennedy and O'Hagan, Biometrika 87(1), 2000, equation 1. Fitted level by level to targets of mean 0 and deviation 1:
    the mean of the level below is standardised over the samples of a level; rho is its least-squares multiple, at least
    0, with a prior of 1 that counts as ``PRIOR`` samples. So few long trainings are ranked as the short ones of the
    same architectures are, until they tell something else.

    Args:
        levels: Features and targets of each level, the lowest first; see
            :class:`~oneshot.regression.gaussian_process.GaussianProcessRegression`.
        start: Where the climbs to the hyper-parameters begin, of as many levels as there are.

    Example:
        >>> x = np.eye(6, dtype=np.float32)
        >>> low, high = np.linspace(-1.0, 1.0, 6), np.array([-1.0, 1.0])
        >>> model = AutoregressiveRegression([([x], low), ([x[[0, 3]]], high)])
        >>> bool(np.argmin(model.predict([x])[0]) == 0)
        True
    """

    def __init__(
        self, levels: Sequence[tuple[Blocks, Floats]], *, start: Sequence[Hyperparameters] | None = None
    ) -> None:
        self.models: list[GaussianProcessRegression] = []
        self.multiples: list[tuple[float, float]] = []  # of each level but the lowest: what is taken off, and rho
        for j, (blocks, targets) in enumerate(levels):
            rest = np.asarray(targets, np.float64)
            if j:
                below = self.predict(blocks)[0]
                middle, deviation = float(below.mean()), float(below.std()) or 1.0
                scaled = (below - middle) / deviation
                rho = max(float(scaled @ rest + PRIOR) / float(scaled @ scaled + PRIOR), 0.0)
                self.multiples.append((middle, rho / deviation))
                rest = rest - rho * scaled
            begin = start[j] if start is not None and j < len(start) else None
            self.models.append(GaussianProcessRegression(blocks, rest, start=begin))

    @property
    def hyperparameters(self) -> list[Hyperparameters]:
        """Of every level."""
        return [model.hyperparameters for model in self.models]

    def predict(self, blocks: Blocks) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the highest level, ``[N]`` each."""
        belief = AutoregressiveBelief(self, blocks)
        return belief.mean, belief.std


class AutoregressiveBelief:
    """What the model says of some architectures at the highest level, while it takes means for results in flight.

    Args:
        model: The model.
        blocks: Features of each kind, ``[N, P]`` each.

    Attributes:
        mean: ``[N]``.
        highest: Number of the highest level.
    """

    def __init__(self, model: AutoregressiveRegression, blocks: Blocks) -> None:
        self._levels = [Belief(part, blocks) for part in model.models]
        self.highest = len(self._levels) - 1
        self.mean, self._weights = self._levels[0].mean, [1.0]
        for (middle, rho), level in zip(model.multiples, self._levels[1:]):
            self.mean = rho * (self.mean - middle) + level.mean
            self._weights = [*(rho * weight for weight in self._weights), 1.0]

    @property
    def std(self) -> Floats:
        """Standard deviation, ``[N]``."""
        parts = [(weight * level.std) ** 2 for weight, level in zip(self._weights, self._levels)]
        return np.asarray(np.sqrt(sum(parts)))

    def believe(self, i: int, level: int = 0) -> None:
        """Take the mean of architecture i at a level as its result there; nothing where the model has no such level."""
        if level < len(self._levels):
            self._levels[level].believe(i)
