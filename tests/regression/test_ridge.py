"""Ridge regression is what its definition says."""

from __future__ import annotations

import numpy as np
import pytest

from oneshot.regression import ridge as module
from oneshot.regression.ridge import ridge, robust_ridge


def ridge_by_definition(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Textbook: normal equations with an intercept, leave-one-out by leaving one out."""

    def solve(x: np.ndarray, y: np.ndarray, w: np.ndarray, penalty: float) -> np.ndarray:
        design = np.column_stack([np.ones(len(x)), x])
        ridge = penalty * np.eye(design.shape[1])
        ridge[0, 0] = 0
        return np.asarray(np.linalg.solve(design.T @ (w[:, None] * design) + ridge, design.T @ (w * y)))

    w = np.ones(len(y))
    for _ in range(module.ROUNDS):
        best, chosen, errors = np.inf, 0.0, np.zeros(len(y))
        for penalty in module.PENALTIES:
            rest = [np.delete(np.arange(len(y)), i) for i in range(len(y))]
            loo = np.array([y[i] - np.r_[1, x[i]] @ solve(x[r], y[r], w[r], penalty) for i, r in enumerate(rest)])
            if (w * loo**2).mean() < best:
                best, chosen, errors = (w * loo**2).mean(), penalty, loo
        solution = solve(x, y, w, chosen)
        scale = 1.4826 * np.median(np.abs(errors))
        w = 1 / (1 + (errors / (2.385 * scale)) ** 2)
    return solution[1:], float(solution[0])


def test_robust_ridge_is_what_its_definition_says() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(25, 4))
    y = 3 + x @ [1.0, -2.0, 0.5, 0.0] + rng.normal(0, 0.3, 25)
    y[3] += 20  # a stall
    exact, intercept = ridge_by_definition(x, y)
    ours, offset = robust_ridge(x, y)
    np.testing.assert_allclose(ours, exact, rtol=1e-6, atol=1e-8)
    assert offset == pytest.approx(intercept, rel=1e-6)
    plain = np.linalg.lstsq(np.column_stack([np.ones(25), x]), y, rcond=None)[0][1:]
    assert np.abs(plain - exact).max() > 0.1  # least squares follow the stall
    assert np.abs(ours - [1.0, -2.0, 0.5, 0.0]).max() < 0.25


def test_robust_ridge_with_more_features_than_samples() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 20))
    y = 3 + x[:, 0] + rng.normal(0, 0.1, 12)
    exact, intercept = ridge_by_definition(x, y)
    ours, offset = robust_ridge(x, y)
    np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-6)
    assert offset == pytest.approx(intercept, rel=1e-6)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("shape", [(25, 4), (12, 20)])
def test_ridge_of_several_targets_is_what_its_definition_says(shape: tuple[int, int], intercept: bool) -> None:
    rng = np.random.default_rng(0)
    x, noise, weights = rng.normal(1, 1, shape), rng.normal(0, 0.3, (shape[0], 3)), rng.uniform(0.2, 3, shape[0])
    y = 2 + 3 * x[:, :2] @ rng.normal(size=(2, 3)) + noise

    def solve(x: np.ndarray, y: np.ndarray, w: np.ndarray, penalty: float) -> np.ndarray:
        """Textbook: normal equations, the intercept first."""
        design = np.column_stack([np.ones(len(x)), x]) if intercept else x
        square = penalty * np.eye(design.shape[1])
        square[0, 0] *= not intercept
        found = np.linalg.solve(design.T @ (w[:, None] * design) + square, design.T @ (w[:, None] * y))
        return np.asarray(found if intercept else np.vstack([np.zeros(3), found]))

    mean = weights @ x / weights.sum() if intercept else 0.0
    squares = np.linalg.svd(np.sqrt(weights)[:, None] * (x - mean), compute_uv=False) ** 2
    squares = squares[squares > 1e-12 * squares.max()]
    best, chosen, left_out = np.inf, 0.0, y
    for penalty in module.SHARES * squares.mean():
        rest = [np.delete(np.arange(len(y)), i) for i in range(len(y))]
        loo = np.stack([np.r_[1, x[i]] @ solve(x[r], y[r], weights[r], penalty) for i, r in enumerate(rest)])
        error = (weights[:, None] * (loo - y) ** 2).mean()
        if error < best:
            best, chosen, left_out = error, penalty, loo
    exact, ours = solve(x, y, weights, chosen), ridge(x, y, weights, intercept=intercept)
    assert ours.penalty == pytest.approx(chosen, rel=1e-9)
    assert module.SHARES[0] < 1.01 * chosen / squares.mean() < module.SHARES[-1]  # at neither end
    np.testing.assert_allclose(ours.coefficients, exact[1:], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.intercept, exact[0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.left_out, left_out, rtol=1e-6, atol=1e-9)
    fitted = x @ ours.coefficients + ours.intercept
    assert np.abs(fitted - left_out).max() > 0.05  # with each sample left in it is something else
    assert np.abs(ridge(x, y, intercept=intercept).coefficients - exact[1:]).max() > 1e-3  # and so without weights


def test_ridge_of_features_that_do_not_differ_is_refused() -> None:
    with pytest.raises(ValueError, match="Features must differ between samples; all 5 have the same"):
        ridge(np.ones((5, 3)), np.arange(5.0)[:, None])
