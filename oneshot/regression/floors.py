r"""Additive costs with a floor: :math:`y = \max(f, x \beta + b)`.

A device that waits for launches or transfers needs a least time, however small the network is. Below it, a measurement
only says that the sum is not above the floor.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import Floats

from .ridge import ridge, robust_ridge

SHARES = np.arange(0.05, 0.85, 0.1)  # of the samples that are at the floor
FINER = (-0.05, -0.025, 0.025, 0.05)  # around the best share
ROUNDS = 10  # of deciding which samples are above the floor
FEWEST = 10  # samples above it
SURE = 2.0  # standard errors by which a floor must be better than none


class FloorFit(NamedTuple):
    """What :func:`robust_floor` finds: predictions are ``max(floor, x @ coefficients + intercept)``.

    Args:
        coefficients: ``[P]``.
        intercept: Of the sum.
        floor: 0 where no floor is better than none.
    """

    coefficients: Floats
    intercept: float
    floor: float


class _Level(NamedTuple):
    """A fit under the hypothesis that samples up to a level are at the floor."""

    above: npt.NDArray[np.bool_]
    floor: float
    errors: Floats


def robust_floor(x: Floats, y: Floats) -> FloorFit:
    """Ridge regression with a floor that leaving one out chooses among quantiles of y, and outliers do not move much.

    For a level, the sum minimises the squared errors of all samples above the level, and of those below it for which
    the sum would be above: a convex problem, as for censored samples (Tobin, Econometrica 1958), solved by turns. The
    floor is the median of the others. The level with the smallest mean relative leave-one-out error is taken, if it is
    better than none by two standard errors. Then :func:`~.ridge.robust_ridge` fits the sum to the samples above.

    Args:
        x: Features, ``[N, P]``.
        y: Targets, ``[N]``, above 0.
    """
    none = _fit_above(x, y, 0.0)
    assert none is not None
    found = {share: fit for share in SHARES.tolist() if (fit := _fit_above(x, y, float(np.quantile(y, share))))}
    if found:
        best = min(found, key=lambda share: float(found[share].errors.mean()))
        for share in (best + step for step in FINER):
            if share > 0 and (fit := _fit_above(x, y, float(np.quantile(y, share)))):
                found[share] = fit
        chosen = min(found.values(), key=lambda fit: float(fit.errors.mean()))
        gain = none.errors - chosen.errors
        if gain.mean() > SURE * gain.std() / np.sqrt(len(y)):
            return FloorFit(*robust_ridge(x[chosen.above], y[chosen.above]), chosen.floor)
    return FloorFit(*robust_ridge(x, y), 0.0)


def _fit_above(x: Floats, y: Floats, level: float) -> _Level | None:
    """The fit for a level, with relative leave-one-out errors; None if too few samples are above it."""
    over = y > level
    above, target = over, np.maximum(y, level)
    for _ in range(ROUNDS):
        fitted = above
        if above.sum() < FEWEST or np.ptp(x[above], axis=0).max() == 0:
            return None
        fit = ridge(x[above], target[above, None])
        predicted = x @ fit.coefficients[:, 0] + fit.intercept[0]
        above = over | (predicted > level)
        if (above == fitted).all():
            break
    predicted[fitted] = fit.left_out[:, 0]
    below = predicted <= level
    floor = float(np.median(y[below])) if below.any() else 0.0
    return _Level(fitted, floor, np.abs(np.maximum(predicted, floor) / y - 1))
