"""Expected improvements are what simulations give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from oneshot.fronts.pareto import hypervolume
from oneshot.regression.acquisition import expected_hypervolume_improvement, expected_improvement


@pytest.mark.parametrize(("mean", "std", "best"), [(0.3, 0.5, 0.1), (-1.0, 0.2, 0.0), (2.0, 0.4, 0.0)])
def test_expected_improvement_is_the_integral(mean: float, std: float, best: float) -> None:
    exact = quad(lambda y: (best - y) * norm.pdf(y, mean, std), mean - 12 * std, best, epsabs=1e-14)[0]
    ours = expected_improvement(np.array([mean]), np.array([std]), best)
    np.testing.assert_allclose(ours, exact, rtol=1e-7, atol=1e-12)
    above = expected_improvement(-np.array([mean]), np.array([std]), -best)
    assert not np.allclose(above, exact, rtol=1e-2)  # of a maximum


def test_without_uncertainty_it_is_the_improvement() -> None:
    ours = expected_improvement(np.array([1.0, -2.0]), np.zeros(2), 0.0)
    np.testing.assert_allclose(ours, [0.0, 2.0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "front",
    [
        pytest.param([[0.2, 0.8], [0.5, 0.4], [0.9, 0.1]], id="two objectives"),
        pytest.param([[0.2, 0.8, 0.5], [0.5, 0.4, 0.6], [0.9, 0.1, 0.9], [0.6, 0.7, 0.2]], id="three objectives"),
        pytest.param(np.empty((0, 2)).tolist(), id="no front"),
    ],
)
def test_expected_hypervolume_improvement_is_the_mean_of_draws(front: list[list[float]]) -> None:
    points = np.array(front).reshape(-1, 2 if not front else len(front[0]))
    m = points.shape[1]
    reference, mean, std = np.full(m, 1.1), np.array([[0.3, 0.5, 0.4], [0.7, 0.9, 0.3]])[:, :m], np.full((2, m), 0.25)
    ours = expected_hypervolume_improvement(mean, std, points, reference)
    base, rng = hypervolume(points, reference), np.random.default_rng(0)
    for i in range(2):
        draws = rng.normal(mean[i], std[i], (4000, m))
        gains = [hypervolume(np.vstack([points, row]), reference) - base for row in draws]
        error = np.std(gains) / 4000**0.5
        assert abs(np.mean(gains) - ours[i]) < 4 * error
        if front:
            alone = float(np.prod(expected_improvement(mean[i], std[i], reference)))
            assert abs(alone - np.mean(gains)) > 8 * error, "what the front has already does not count twice"


def test_more_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match="two or three objectives; got 4. Weigh more of them"):
        expected_hypervolume_improvement(np.zeros((1, 4)), np.ones((1, 4)), np.zeros((1, 4)), np.ones(4))
