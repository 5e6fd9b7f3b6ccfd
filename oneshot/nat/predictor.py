"""Prediction of the error of architectures, by the kind of model that ranks held-out ones best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from oneshot.regression.extra import FeatureGenes, KnownFeatures
from oneshot.regression.folds import FOLDS, cross_validate, folds_of
from oneshot.regression.scores import kendall_within
from oneshot.regression.surrogates import CHUNK, KINDS, LARGE, SAMPLES, Kind, Surrogate, fit
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace


@dataclass(frozen=True)
class Warp:
    """Errors on a scale on which outliers count little: ``arcsinh((e - median) / spread)``.

    Linear within the spread, the middle half of the errors, and logarithmic beyond; the order stays.
    """

    median: float
    spread: float

    @classmethod
    def of(cls, errors: Floats) -> Warp:
        low, median, high = np.quantile(errors, (0.25, 0.5, 0.75))
        spread = float(high - low) or float(errors.std()) or 1.0
        return cls(float(median), spread)

    def forward(self, errors: Floats) -> Floats:
        return np.asarray(np.arcsinh((errors - self.median) / self.spread))

    def back(self, mean: Floats, std: Floats) -> tuple[Floats, Floats]:
        """Median and, to first order, standard deviation of the errors."""
        return self.median + self.spread * np.sinh(mean), self.spread * np.cosh(mean) * std


@dataclass(frozen=True)
class AccuracyPredictor:
    """A fitted model of the error.

    Args:
        space: The search space.
        kind: Which model was chosen; ``"constant"`` where all errors were equal.
        tau: Kendall's tau of each kind between predicted and measured errors in cross-validation by fifths, see
            :func:`~oneshot.regression.scores.kendall_within`.
        left_out: Kinds that were not tried, and why.
    """

    space: SearchSpace
    kind: Kind | Literal["constant"]
    tau: Mapping[Kind, float]
    left_out: Mapping[Kind, str] = field(default_factory=dict)
    _parts: tuple[Surrogate, Warp, float, float, float, float] | float = 0.0
    _more: FeatureGenes | None = None

    def predict(self, genes: IntMatrix) -> tuple[Floats, Floats]:
        """Errors and their standard deviations, ``[N]`` each, of ``[N, G]``, in the unit of the errors.

        The deviations are scaled to the residuals of cross-validation.
        """
        rows = self.space.check_genes(genes)
        if isinstance(self._parts, float):
            return np.full(len(rows), self._parts), np.zeros(len(rows))
        model, warp, shift, scale, stretch, floor = self._parts
        rows = rows if self._more is None else self._more.encode(rows)
        parts = [model.predict(rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK)]
        mean, std = (np.concatenate([part[j] for part in parts] or [np.empty(0)]) for j in range(2))
        return warp.back(shift + scale * mean, scale * np.sqrt((stretch * std) ** 2 + floor**2))


def fit_accuracy(
    space: SearchSpace,
    genes: IntMatrix,
    errors: npt.ArrayLike,
    *,
    kinds: Sequence[Kind] = KINDS,
    seed: int = 0,
    features: KnownFeatures | None = None,
) -> AccuracyPredictor:
    """Learn the error of architectures from evaluated ones.

    Every kind is fitted to four fifths of the samples five times; the one with the largest Kendall's tau on the rest is
    fitted to all. Of more than ``LARGE`` samples (:mod:`~oneshot.regression.surrogates`), only as many fifths are
    predicted as hold ``LARGE``. The same samples and seed give the same predictor.

    Args:
        space: The search space.
        genes: Evaluated architectures, ``[N, G]``.
        errors: Their errors, ``[N]``, finite.
        kinds: Which to try.
        seed: Of folds and models.
        features: Extra features, which every kind sees beside the genes
            (:class:`~oneshot.regression.extra.FeatureGenes`).

    Raises:
        ValueError: If a kind is unknown, an error is not finite, or there are too few samples for all kinds.
    """
    rows, y = space.check_genes(genes), np.asarray(errors, np.float64)
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(
            f"Accuracy predictors must be of the kinds {', '.join(KINDS)}; got {', '.join(kinds) or 'none'}."
        )
    if y.shape != (len(rows),) or not np.isfinite(y).all():
        raise ValueError(
            f"{len(rows)} architectures have as many finite errors; got shape {list(y.shape)} with "
            f"{int((~np.isfinite(y)).sum())} not finite. Leave failed evaluations out."
        )
    tried = [kind for kind in kinds if len(y) >= SAMPLES[kind]]
    left_out = {k: f"needs {SAMPLES[k]} samples, there are {len(y)}" for k in kinds if k not in tried}
    if not tried:
        raise ValueError(
            f"An accuracy predictor must have at least {min(SAMPLES[k] for k in kinds)} evaluated architectures for "
            f"the kinds {', '.join(kinds)}; got {len(y)}. Evaluate more first."
        )
    if np.ptp(y) == 0:
        return AccuracyPredictor(space, "constant", dict.fromkeys(tried, 0.0), left_out, float(y[0]))
    warp = Warp.of(y)
    z = warp.forward(y)
    shift, scale = float(z.mean()), float(z.std())
    target = (z - shift) / scale
    fold, folds = folds_of(len(y), seed), min(FOLDS, -(-FOLDS * LARGE // len(y)))
    tested = fold < folds
    more = None if features is None else FeatureGenes(features, rows)
    seen, inputs = (space, rows) if more is None else (more.space, more.encode(rows))
    held_out = {kind: _held_out(kind, seen, inputs, target, fold, folds, seed)[:, tested] for kind in tried}
    tau = {kind: kendall_within(fold[tested], mean, y[tested]) for kind, (mean, _) in held_out.items()}
    best = max(tried, key=lambda kind: tau[kind])
    stretch, floor = _calibrate(target[tested] - held_out[best][0], held_out[best][1])
    model = fit(best, seen, inputs, target, seed)
    return AccuracyPredictor(space, best, tau, left_out, (model, warp, shift, scale, stretch, floor), more)


def _held_out(
    kind: Kind,
    space: SearchSpace,
    genes: IntMatrix,
    target: Floats,
    fold: npt.NDArray[np.int64],
    folds: int,
    seed: int,
) -> Floats:
    """Mean and standard deviation of every sample of some folds by a model of the others, ``[2, N]``."""
    return cross_validate(
        fold,
        lambda train, test: np.stack(fit(kind, space, genes[train], target[train], seed).predict(genes[test])),
        folds,
    )


def _calibrate(residuals: Floats, std: Floats) -> tuple[float, float]:
    """Factor of the model's own deviations, and a constant, that together are as large as the residuals.

    Each gives half of the variance, so that a model that is sure of itself by chance is not believed; the constant
    gives all of it where the model has no deviations.
    """
    size = float(np.sqrt((residuals**2).mean()))
    typical = float(np.sqrt((std**2).mean()))
    return (0.5**0.5 * size / typical, 0.5**0.5 * size) if typical > 1e-6 else (0.0, size)
