"""Models of numbers that describe an architecture: a Gaussian process, and boosted trees."""

from __future__ import annotations

from itertools import product

import numpy as np

from oneshot.supernets.space import Floats

from .gaussian_process import log_evidence, solve_lower, spread
from .surrogates import matern

LENGTHS = (0.5, 1.0, 2.0, 4.0)  # in units of the mean distance of two samples
LINEAR = (0.0, 0.3, 1.0, 3.0)  # prior variance of the linear part, in units of that of the rest
NOISES = (0.01, 0.03, 0.1, 0.3)  # variance, in the same unit
SELECTED = 400  # samples, evenly over the targets, that length, linear part and noise are chosen by
TREES, RATE, LEAVES, SHARE = 150, 0.06, 8, 0.5  # of boosting; share of the features that a split chooses from
MEMBERS = 2  # models of boosted trees whose mean is taken


class FeatureGP:
    r"""Gaussian process on standardised features: Matern 5/2 of their distance, a linear part, and noise.

    :math:`k(a, b) = m(|a - b| / (\ell \bar d)) + s \, a \cdot b / P`, with P features and the mean distance
    :math:`\bar d` of two samples. Length, share of the linear part and noise are those of the largest marginal
    likelihood of ``SELECTED`` samples on a grid, the overall variance is the best in closed form (Rasmussen and
    Williams, 2006, equations 2.25, 2.26, 2.30 and 4.17).

    Args:
        x: Features, ``[N, P]``; those that are the same everywhere count for nothing.
        y: Targets, ``[N]``.
    """

    def __init__(self, x: Floats, y: Floats) -> None:
        self._shift, deviation = x.mean(0), x.std(0)
        self._scale = np.where(deviation > 0, deviation, np.inf)
        self._middle, self._size = float(y.mean()), float(y.std()) or 1.0
        self._x, target = (x - self._shift) / self._scale, (y - self._middle) / self._size
        few = np.arange(len(y)) if len(y) <= SELECTED else np.argsort(y, kind="stable")[spread(len(y), SELECTED)]
        apart = _distances(self._x[few], self._x[few])
        self._unit = float(apart.sum() / max(len(few) * (len(few) - 1), 1)) or 1.0
        inner, best = self._x[few] @ self._x[few].T / x.shape[1], -np.inf
        for length in LENGTHS:
            smooth = matern(apart / (length * self._unit))
            for linear, noise in product(LINEAR, NOISES):
                evidence, _ = log_evidence(smooth + linear * inner, target[few], noise)
                if evidence > best:
                    best = evidence
                    self.length, self.linear, self.noise = length, linear, noise
        self.evidence = best
        self._factor = np.asarray(np.linalg.cholesky(self._kernel(self._x) + self.noise * np.eye(len(x))), np.float64)
        self._white = solve_lower(self._factor, target)
        self.variance = float(self._white @ self._white) / len(y) or 1e-12

    def _kernel(self, x: Floats) -> Floats:
        """Covariances with the samples, ``[N, P] -> [N, samples]``."""
        smooth = matern(_distances(x, self._x) / (self.length * self._unit))
        return np.asarray(smooth + self.linear * x @ self._x.T / x.shape[1])

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean, and standard deviation of one measurement, noise included: ``[N, P] -> [N]`` each."""
        x = (x - self._shift) / self._scale
        white = solve_lower(self._factor, self._kernel(x).T)
        prior = 1 + self.linear * (x**2).sum(1) / x.shape[1]
        left = np.maximum(prior - (white**2).sum(0), 0) + self.noise
        return self._middle + self._size * (white.T @ self._white), self._size * np.sqrt(self.variance * left)


class FeatureBoosting:
    """Mean of some gradient-boosted trees that differ in their random choices.

    Args:
        x: Features, ``[N, P]``.
        y: Targets, ``[N]``.
        seed: Of scikit-learn's random choices.
    """

    def __init__(self, x: Floats, y: Floats, *, seed: int) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        self._members = [
            HistGradientBoostingRegressor(
                max_iter=TREES,
                learning_rate=RATE,
                max_leaf_nodes=LEAVES,
                min_samples_leaf=8,
                max_features=SHARE,
                early_stopping=False,
                random_state=MEMBERS * seed + member,
            ).fit(x, y)
            for member in range(MEMBERS)
        ]

    def predict(self, x: Floats) -> Floats:
        """``[N, P] -> [N]``."""
        return np.asarray(np.mean([member.predict(x) for member in self._members], axis=0), np.float64)


def _distances(a: Floats, b: Floats) -> Floats:
    """Euclidean distances of rows, ``[N, P], [M, P] -> [N, M]``."""
    return np.asarray(np.sqrt(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)))
