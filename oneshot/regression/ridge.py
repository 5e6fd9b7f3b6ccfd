"""Ridge regression whose penalty is chosen by leaving one out: three of them.

:func:`ridge` predicts several targets at once. The others are robust against outliers: :func:`robust_ridge` penalises
all features alike and also takes kernels; :func:`relative_ridge` is of relative errors, leaves some features free, and
gives standard errors. A fourth one, of ensembles of kernels without an intercept and
without weights, is :class:`~.surrogates.HammingRBF`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from oneshot.supernets.space import Floats

Decompose = Callable[[Floats, Floats], tuple[Floats, Floats]]  # of shares in the mean and roots of weights, [N] each

PENALTIES = np.logspace(-6, 4, 21)

CAUCHY = 2.385  # times the standard deviation: 95 % efficient for normal errors

ROUNDS = 5

RIDGES = np.geomspace(1e-3, 10, 25)  # of relative_ridge

SHARES = np.geomspace(1e-4, 1e4, 25)  # of the mean squared singular value: penalties of ridge

HUBER = 1.5  # standard deviations a sample of relative_ridge may be off before it counts less


class RidgeFit(NamedTuple):
    """What :func:`ridge` finds: predictions are ``x @ coefficients + intercept``.

    Args:
        coefficients: ``[P, K]``.
        intercept: ``[K]``; 0 where there is none.
        penalty: The one with the smallest leave-one-out error.
        left_out: Predictions for every sample by the fit without it, ``[N, K]``.
    """

    coefficients: Floats
    intercept: Floats
    penalty: float
    left_out: Floats


def ridge(x: Floats, y: Floats, weights: Floats | None = None, *, intercept: bool = True) -> RidgeFit:
    """Ridge regression of several targets with one penalty for all, the one with the smallest leave-one-out error.

    Minimises ``sum_i w_i |y_i - x_i B - b|^2 + penalty * |B|^2``. The error of leaving sample i out is its residual
    over one minus its leverage (Allen, Technometrics 1974), so nothing is fitted twice; the weighted mean of its
    squares over samples and targets decides.

    Args:
        x: Features, ``[N, P]``.
        y: Targets, ``[N, K]``.
        weights: Of the samples, ``[N]``, above 0; by default all the same.
        intercept: Whether b is fitted; it is not penalised.

    Raises:
        ValueError: If the features are the same for all samples.
    """
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    share, root = weights / weights.sum() if intercept else np.zeros(len(x)), np.sqrt(weights)
    left, squares = of_features(x)(share, root)
    if not len(squares) or not squares[-1] > 0:
        raise ValueError(f"Features must differ between samples; all {len(x)} have the same.")
    middle = share @ y
    target = root[:, None] * (y - middle)
    inside = left.T @ target
    outside = target - left @ inside  # what no combination of the features reaches
    # One minus the leverage is at least what the intercept and the features leave.
    free = np.maximum(1 - (left**2).sum(1) - share, 0)
    best: tuple[float, float, Floats] | None = None
    for penalty in SHARES * squares.mean():
        left_over = penalty / (squares + penalty)
        freedom = np.maximum(left**2 @ left_over + free, 1e-12)
        residuals = (left @ (left_over[:, None] * inside) + outside) / freedom[:, None]
        error = float((residuals**2).mean())
        if best is None or error < best[0]:
            best = error, float(penalty), residuals
    assert best is not None
    dual = root[:, None] * (left @ (inside / (squares + best[1])[:, None]))
    dual -= share[:, None] * dual.sum(0)
    coefficients = x.T @ dual
    return RidgeFit(coefficients, middle - share @ x @ coefficients, best[1], y - best[2] / root[:, None])


def robust_ridge(x: Floats, y: Floats) -> tuple[Floats, float]:
    """Ridge regression that outliers do not move much; the intercept is free.

    Minimises the weighted squares plus the penalty that has the smallest leave-one-out error (Golub, Heath and Wahba,
    Technometrics 1979, before their rotation); five rounds of Cauchy weights ``1 / (1 + (e / c s)^2)`` of the
    leave-one-out residuals e, s from their median (Holland and Welsch, 1977).

    Args:
        x: Features, ``[N, P]``.
        y: Targets, ``[N]``.

    Returns:
        Coefficients, ``[P]``, and intercept.
    """
    dual, share, middle, _ = robust_dual(y, of_features(x))
    coefficients = x.T @ dual
    return coefficients, float(middle - share @ x @ coefficients)


def of_features(x: Floats) -> Decompose:
    """Left singular vectors and squared singular values of the weighted, centred features ``[N, P]``."""

    def decompose(share: Floats, root: Floats) -> tuple[Floats, Floats]:
        centred = root[:, None] * (x - share @ x)
        if len(x) <= x.shape[1]:
            return _nonempty(*np.linalg.eigh(centred @ centred.T))
        values, vectors = _nonempty(*np.linalg.eigh(centred.T @ centred))[::-1]
        return centred @ (vectors / np.sqrt(values)), values

    return decompose


def of_gram(gram: Floats) -> Decompose:
    """The same where only the inner products ``[N, N]`` of the features are at hand."""

    def decompose(share: Floats, root: Floats) -> tuple[Floats, Floats]:
        rows = gram @ share
        return _nonempty(*np.linalg.eigh(root[:, None] * (gram - rows[:, None] - rows + share @ rows) * root))

    return decompose


def _nonempty(values: Floats, vectors: Floats) -> tuple[Floats, Floats]:
    """Eigenvectors, eigenvalues; without the directions that centring, and one-hot rows that sum to 1, leave empty."""
    kept = values > 1e-12 * values[-1]
    return vectors[:, kept], values[kept]


def robust_dual(y: Floats, decompose: Decompose) -> tuple[Floats, Floats, float, float]:
    """Weights of the samples in the coefficients, shares of the samples in the means, mean of y, median error."""
    weights = np.ones(len(y))
    for _ in range(ROUNDS):
        share, root = weights / weights.sum(), np.sqrt(weights)
        left, squares = decompose(share, root)
        middle = float(share @ y)
        target = root * (y - middle)
        inside = left.T @ target
        # One minus the leverage, and the error, in terms that do not cancel when the penalty is tiny; a column each.
        left_over = PENALTIES / (squares[:, None] + PENALTIES)
        outside = np.maximum(1 - (left**2).sum(1) - share, 0)[:, None]
        freedom = np.maximum(left**2 @ left_over + outside, 1e-12)
        residuals = (left @ (left_over * inside[:, None]) + (target - left @ inside)[:, None]) / freedom
        best = int((residuals**2).mean(0).argmin())
        dual = root * (left @ (inside / (squares + PENALTIES[best])))
        dual -= share * dual.sum()
        error = np.abs(residuals[:, best] / root)
        typical = 1.4826 * float(np.median(error))
        if typical <= 1e-9 * abs(middle):
            break
        weights = 1 / (1 + (error / (CAUCHY * typical)) ** 2)
    return dual, share, middle, typical


class RelativeFit(NamedTuple):
    """What :func:`relative_ridge` finds.

    Args:
        coefficients: ``[P]``.
        inverse: Covariance of the coefficients over the squared residual, ``[P, P]``.
        residual: Standard deviation of a sample from what is fitted without it, relative.
    """

    coefficients: Floats
    inverse: Floats
    residual: float


def relative_ridge(x: Floats, y: Floats, free: int) -> RelativeFit:
    """Ridge regression of the relative errors, with an intercept only where x has a column for it.

    Samples that are far off count less (Huber's weights, 1964).

    Args:
        x: Features, ``[N, P]``.
        y: Targets, ``[N]``, above 0.
        free: How many of the features, the first ones, are not penalised.
    """
    penalised, weights = np.arange(x.shape[1]) >= free, np.ones(len(y))

    def solve(ridge: float) -> tuple[Floats, Floats, Floats]:
        rows = x / y[:, None] * np.sqrt(weights)[:, None]
        inverse = np.linalg.inv(rows.T @ rows + np.diag(np.where(penalised, ridge**2, 1e-9)))
        solution = inverse @ rows.T @ np.sqrt(weights)
        leverage = np.einsum("ni,ij,nj->n", rows, inverse, rows)
        error = (x @ solution / y - 1) / np.maximum(1 - leverage, 1e-3)
        return solution, inverse, error

    best = float(RIDGES[0])
    for _ in range(ROUNDS):
        errors = {float(ridge): solve(float(ridge))[2] for ridge in RIDGES}
        best = min(errors, key=lambda ridge: float((weights * errors[ridge] ** 2).sum()))
        size = 1.4826 * np.median(np.abs(errors[best])) + 1e-12
        weights = np.minimum(1, HUBER * size / np.maximum(np.abs(errors[best]), 1e-12))
    solution, inverse, error = solve(best)
    residual = float(np.sqrt((weights * error**2).sum() / weights.sum()))
    return RelativeFit(solution, inverse, residual)
