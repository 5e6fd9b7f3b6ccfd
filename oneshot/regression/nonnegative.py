"""Least squares of relative errors with coefficients that are not negative, such as times that things take."""

from __future__ import annotations

import numpy as np

from oneshot.supernets.space import Floats

from .ridge import HUBER, ROUNDS


def relative_nonnegative(x: Floats, y: Floats) -> Floats:
    """Coefficients that are not negative and have the smallest relative errors, ``[P]``.

    Non-negative least squares (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23); samples that are
    far off count less (Huber's weights, 1964).

    Args:
        x: Features, not negative, ``[N, P]``; one of ones is the intercept.
        y: Targets, ``[N]``, above 0.

    Example:
        >>> x = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 3.0]])
        >>> relative_nonnegative(x, np.array([2.0, 2.5, 3.5])).round(6).tolist()
        [2.0, 0.5]
    """
    from scipy.optimize import nnls

    weights = np.ones(len(y))
    found = np.zeros(x.shape[1])
    for _ in range(ROUNDS):
        root = np.sqrt(weights)
        found = np.asarray(nnls(x / y[:, None] * root[:, None], root)[0])
        error = np.abs(x @ found / y - 1)
        size = 1.4826 * np.median(error) + 1e-12
        weights = np.minimum(1, HUBER * size / np.maximum(error, 1e-12))
    return found
