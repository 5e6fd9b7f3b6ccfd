"""Least squares of relative errors without negative coefficients, against a solver of another kind."""

from __future__ import annotations

import numpy as np
from scipy.optimize import lsq_linear

from oneshot.regression import nonnegative as module
from oneshot.regression.nonnegative import relative_nonnegative


def by_definition(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bounded least squares by the interior of the bounds, with Huber's weights of the relative errors."""
    weights, found = np.ones(len(y)), np.zeros(x.shape[1])
    for _ in range(module.ROUNDS):
        rows = np.sqrt(weights)[:, None] * x / y[:, None]
        found = lsq_linear(rows, np.sqrt(weights), bounds=(0, np.inf), method="bvls", tol=1e-14).x
        error = np.abs(x @ found / y - 1)
        typical = 1.4826 * np.median(error)
        weights = np.array([1.0 if e <= 1.5 * typical else 1.5 * typical / e for e in error])
    return np.asarray(found)


def test_it_is_what_its_definition_says_and_a_stall_does_not_move_it() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(40), rng.uniform(0, 3, (40, 4))])
    truth = np.array([0.5, 1.0, 0.0, 0.3, 2.0])
    y = x @ truth * rng.normal(1, 0.01, 40)
    y[7] /= 5
    found = relative_nonnegative(x, y)
    np.testing.assert_allclose(found, by_definition(x, y), atol=1e-8)
    np.testing.assert_allclose(found, truth, atol=0.05)
    plain = np.linalg.lstsq(x / y[:, None], np.ones(40), rcond=None)[0]
    assert np.abs(plain - truth).max() > 0.1


def test_no_coefficient_is_negative_where_noise_would_have_it_so() -> None:
    rng = np.random.default_rng(1)
    x = np.column_stack([np.ones(12), rng.uniform(0, 1, (12, 8))])
    y = 2 + rng.normal(0, 0.2, 12)
    assert relative_nonnegative(x, y).min() == 0
    assert np.linalg.lstsq(x / y[:, None], np.ones(12), rcond=None)[0].min() < 0
