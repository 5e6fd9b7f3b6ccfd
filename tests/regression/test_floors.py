"""Additive costs with a floor, against a general optimiser of the same loss in float64."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from oneshot.regression import floors
from oneshot.regression.floors import robust_floor
from oneshot.regression.ridge import ridge


def samples(n: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, noisy costs with a floor of 3, and the sums without noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    exact = x @ [1.0, 0.5, -0.8, 0.2] + 3.2
    return x, np.maximum(exact, 3.0) * rng.normal(1, noise, n), exact


def test_the_sum_minimises_the_squares_above_the_level_and_what_exceeds_it_below() -> None:
    x, y, _ = samples(80, 0.05)
    level = float(np.quantile(y, 0.45))
    found = floors._fit_above(x, y, level)
    assert found is not None
    fit = ridge(x[found.above], np.maximum(y, level)[found.above, None])

    def loss(theta: np.ndarray) -> float:
        predicted = x @ theta[:4] + theta[4]
        below = np.maximum(predicted - level, 0) ** 2
        return float(np.where(y > level, (predicted - y) ** 2, below).sum() + fit.penalty * theta[:4] @ theta[:4])

    exact = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(fit.coefficients[:, 0], exact.x[:4], rtol=1e-4, atol=1e-5)
    assert fit.intercept[0] == pytest.approx(exact.x[4], rel=1e-4)
    wrong = ridge(x, y[:, None])  # samples at the floor, as if they were sums
    assert not np.allclose(wrong.coefficients[:, 0], exact.x[:4], rtol=0.1)


def test_errors_are_those_of_leaving_a_sample_out() -> None:
    x, y, _ = samples(60, 0.05)
    level = float(np.quantile(y, 0.4))
    found = floors._fit_above(x, y, level)
    assert found is not None
    penalty = ridge(x[found.above], np.maximum(y, level)[found.above, None]).penalty
    target = np.maximum(y, level)
    for i in np.flatnonzero(found.above)[:10]:
        rest = found.above & (np.arange(60) != i)
        # the same penalty, written out with an intercept that is not penalised
        centred, middle = x[rest] - x[rest].mean(0), target[rest].mean()
        slope = np.linalg.solve(centred.T @ centred + penalty * np.eye(4), centred.T @ (target[rest] - middle))
        predicted = max(found.floor, middle + (x[i] - x[rest].mean(0)) @ slope)
        assert found.errors[i] == pytest.approx(abs(predicted / y[i] - 1), rel=1e-6, abs=1e-9)
    whole = x @ ridge(x[found.above], target[found.above, None]).coefficients[:, 0]
    assert not np.allclose(found.errors, np.abs(np.maximum(whole, found.floor) / y - 1), rtol=1e-2)  # with the sample


def test_a_floor_is_found_with_the_sum_above_it() -> None:
    x, y, _ = samples(300, 0.01)
    found = robust_floor(x, y)
    assert found.floor == pytest.approx(3.0, rel=0.01)
    np.testing.assert_allclose(found.coefficients, [1.0, 0.5, -0.8, 0.2], atol=0.03)
    assert found.intercept == pytest.approx(3.2, abs=0.03)


@pytest.mark.parametrize("noise", [0.001, 0.05])
def test_no_floor_is_found_where_there_is_none(noise: float) -> None:
    x, _, exact = samples(200, 0.0)
    exact = exact - exact.min() + 1.0
    assert robust_floor(x, exact * np.random.default_rng(1).normal(1, noise, 200)).floor == 0.0


def test_few_samples_above_the_floor_are_not_fitted() -> None:
    x, y, _ = samples(12, 0.01)
    assert floors._fit_above(x, y, float(np.sort(y)[-3])) is None
    assert robust_floor(x, y).coefficients.shape == (4,)
