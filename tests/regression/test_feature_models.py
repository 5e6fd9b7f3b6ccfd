"""A Gaussian process on numbers, against the formulas written out in float64, and boosted trees beside it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from oneshot.regression import feature_models as module
from oneshot.regression.feature_models import FeatureBoosting, FeatureGP


def samples(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal(5, 2, n), rng.integers(0, 4, n), np.full(n, 7.0)])
    return x, 80 + 2 * np.sin(x[:, 0]) + x[:, 1] + rng.normal(0, 0.2, n)


def matern_by_hand(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    r = np.array([[np.sqrt(((u - v) ** 2).sum()) for v in b] for u in a]) / length
    return np.asarray((1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r))


def test_the_posterior_is_that_of_the_formula() -> None:
    x, y = samples(60)
    test, _ = samples(9, seed=1)
    model = FeatureGP(x, y)
    mean, std = model.predict(test)

    scale = np.where(x.std(0) > 0, x.std(0), np.inf)
    a, b, t = (x - x.mean(0)) / scale, (test - x.mean(0)) / scale, (y - y.mean()) / y.std()
    apart = np.array([np.sqrt(((u - v) ** 2).sum()) for i, u in enumerate(a) for j, v in enumerate(a) if i != j])
    length = model.length * apart.mean()
    inside = matern_by_hand(a, a, length) + model.linear * a @ a.T / 3 + model.noise * np.eye(60)
    cross = matern_by_hand(b, a, length) + model.linear * b @ a.T / 3
    inverse = np.linalg.inv(inside)
    variance = t @ inverse @ t / 60
    prior = 1 + model.linear * (b**2).sum(1) / 3
    left = prior - np.einsum("ni,ij,nj->n", cross, inverse, cross) + model.noise
    np.testing.assert_allclose(mean, y.mean() + y.std() * cross @ inverse @ t, rtol=1e-9)
    np.testing.assert_allclose(std, y.std() * np.sqrt(variance * left), rtol=1e-7)
    without_noise = y.std() * np.sqrt(variance * (left - model.noise))
    assert not np.allclose(std, without_noise, rtol=1e-3)


def test_hyper_parameters_are_those_of_the_largest_evidence() -> None:
    x, y = samples(50)
    model = FeatureGP(x, y)
    scale = np.where(x.std(0) > 0, x.std(0), np.inf)
    a, t = (x - x.mean(0)) / scale, (y - y.mean()) / y.std()
    unit = np.array([np.sqrt(((u - v) ** 2).sum()) for i, u in enumerate(a) for j, v in enumerate(a) if i != j]).mean()

    def evidence(length: float, linear: float, noise: float) -> float:
        kernel = matern_by_hand(a, a, length * unit) + linear * a @ a.T / 3 + noise * np.eye(50)
        variance = t @ np.linalg.inv(kernel) @ t / 50
        return float(multivariate_normal(np.zeros(50), variance * kernel).logpdf(t))

    grid = [(s, a, n) for s in module.LENGTHS for a in module.LINEAR for n in module.NOISES]
    best = max(grid, key=lambda point: evidence(*point))
    assert best == (model.length, model.linear, model.noise)
    assert model.evidence == pytest.approx(evidence(*best), rel=1e-9)
    assert min(evidence(*point) for point in grid) < model.evidence - 1


def test_of_many_samples_a_part_chooses_the_grid_point_and_all_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = samples(200)
    monkeypatch.setattr(module, "SELECTED", 60)
    part, (test, truth) = FeatureGP(x, y), samples(100, seed=1)
    assert len(part._white) == 200
    alone = FeatureGP(x[:60], y[:60])
    error, of_part = (np.abs(model.predict(test)[0] - truth).mean() for model in (part, alone))
    assert error < of_part


def test_intervals_cover_new_samples() -> None:
    x, y = samples(150)
    test, truth = samples(600, seed=1)
    mean, std = FeatureGP(x, y).predict(test)
    assert 0.85 < (np.abs(truth - mean) < 1.645 * std).mean() < 0.95


def test_boosted_trees_are_a_function_of_their_seed() -> None:
    x, y = samples(200)
    test, truth = samples(100, seed=1)
    first, again, other = (FeatureBoosting(x, y, seed=seed).predict(test) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.abs(first - truth).mean() < 0.6 * np.abs(truth - y.mean()).mean()
