"""The models of accuracy predictors are those of their formulas."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.interpolate import RBFInterpolator

from oneshot.regression import surrogates as module
from oneshot.regression.gaussian_process import rank_normal
from oneshot.regression.surrogates import KINDS, HammingGP, HammingRBF, RankGP, fit, matern
from oneshot.supernets import Choice, SearchSpace

from .toys import GENES, SPACE, TEST, errors


def test_the_cubic_with_its_tail_interpolates_as_scipy_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hardly any smoothing and a tail of all genes; two picks per gene, for which scipy's system is solvable."""
    space = SearchSpace("pairs", (Choice("layer", ("a", "b"), rows=6),))
    every = np.indices(space.gene_sizes).reshape(6, -1).T
    train, test = every[::2], every[1::2]
    train = np.unique(np.concatenate([train, [[0, 0, 0, 0, 0, 1]]]), axis=0)
    test = every[[not (row == train).all(1).any() for row in every]]
    y = np.sin(train @ np.arange(1.0, 7.0)) + train @ np.arange(6.0)
    y = (y - y.mean()) / y.std()
    exact = RBFInterpolator(train.astype(float), y, kernel="cubic")(test.astype(float))
    monkeypatch.setattr(module, "SMOOTHING", (1e-9,))
    monkeypatch.setattr(module, "TAIL", 1e5)
    ours = HammingRBF(space, train, y, np.arange(6)[None])
    np.testing.assert_allclose(ours.predict(test)[0], exact, rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(module, "TAIL", 1e-3)
    without = HammingRBF(space, train, y, np.arange(6)[None]).predict(test)[0]
    assert np.abs(without - exact).max() > 0.05  # the test can tell that the tail is missing


def test_the_gaussian_process_is_the_textbook_one() -> None:
    y = errors(GENES[:60], pairs=0.5)
    y = (y - y.mean()) / y.std()
    gp = HammingGP(SPACE, GENES[:60], y)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        weights = gp.root[np.cumsum([0, *SPACE.gene_sizes[:-1]])] ** 2
        matches = ((a[:, None] == b[None]) * weights).sum(-1)
        r = np.sqrt(np.maximum(1 - matches, 0)) / gp.scale
        part = (1 + 5**0.5 * r + 5 * r**2 / 3) * np.exp(-(5**0.5) * r)
        return np.asarray((part + gp.linear * matches) / (1 + gp.linear))

    noise = (gp.factor @ gp.factor.T)[0, 0] - 1
    gram = kernel(GENES[:60], GENES[:60]) + noise * np.eye(60)
    cross = kernel(TEST, GENES[:60])
    mean, std = gp.predict(TEST)
    np.testing.assert_allclose(mean, cross @ np.linalg.solve(gram, y), rtol=1e-6, atol=1e-8)
    variance = gp.variance * (1 - np.einsum("ij,ji->i", cross, np.linalg.solve(gram, cross.T)))
    np.testing.assert_allclose(std**2, variance, rtol=1e-5, atol=1e-8)
    wrong = (cross @ np.linalg.solve(gram - noise * np.eye(60) + 1e-8 * np.eye(60), y)) if noise > 1e-3 else mean + 1
    assert np.abs(wrong - mean).max() > 1e-3


def test_the_evidence_is_the_density_of_the_targets() -> None:
    from scipy.stats import multivariate_normal

    y = errors(GENES[:40], pairs=0.5)
    y = (y - y.mean()) / y.std()
    gp = HammingGP(SPACE, GENES[:40], y)
    density = multivariate_normal(np.zeros(40), gp.variance * gp.factor @ gp.factor.T).logpdf(y)
    assert gp.evidence == pytest.approx(density + 20 * (1 + np.log(2 * np.pi)), rel=1e-6)


def test_the_kernel_falls_from_one() -> None:
    r = np.linspace(0, 5, 50)
    assert matern(r)[0] == 1.0 and (np.diff(matern(r)) < 0).all()
    assert matern(np.array([1.0]))[0] == pytest.approx((1 + 5**0.5 + 5 / 3) * np.exp(-(5**0.5)))


def test_ranks_are_predicted_and_go_back_to_the_targets() -> None:
    y = np.exp(errors(GENES[:80], pairs=0.5) - 20)  # one tail is long
    y = (y - y.mean()) / y.std()
    model = RankGP(SPACE, GENES[:80], y)
    np.testing.assert_allclose(model._back(rank_normal(y)), y, rtol=1e-9, atol=1e-12)
    z = np.linspace(-4, 4, 200)
    assert (np.diff(model._back(z)) >= 0).all() and model._back(z)[0] < y.min() and model._back(z)[-1] > y.max()
    mean, std = model.predict(TEST)
    quantile, deviation = model.model.predict(model.features.encode(TEST))
    assert np.array_equal(np.argsort(np.argsort(mean)), np.argsort(np.argsort(quantile))), "the order stays"
    np.testing.assert_allclose(mean + std, model._back(quantile + deviation), atol=2 * std.max())
    assert (std > 0).all()


def test_ranks_have_no_outliers() -> None:
    y = errors(GENES[:100], noise=0.1)
    wild = y.copy()
    wild[:5] += 1e4
    truth = errors(TEST)
    taus = {}
    for kind in ("gp", "rank_gp"):
        model = fit(kind, SPACE, GENES[:100], (wild - wild.mean()) / wild.std(), 0)  # type: ignore[arg-type]
        taus[kind] = np.corrcoef(model.predict(TEST)[0].argsort().argsort(), truth.argsort().argsort())[0, 1]
    assert taus["rank_gp"] > taus["gp"] + 0.1


def test_equal_targets_have_equal_predictions() -> None:
    model = fit("rank_gp", SPACE, GENES[:20], np.zeros(20), 0)
    assert (model.predict(TEST)[0] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_many_samples_are_learned_at_a_cost_that_is_not_cubic(
    kind: module.Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above ``LARGE``; the predictions are as good as those of the exact model of 400, and come in time."""
    genes = SPACE.sample_matrix(5000, 4)
    y = errors(genes, pairs=0.5, noise=0.5)
    y = (y - y.mean()) / y.std()
    truth = errors(TEST, pairs=0.5)
    start = time.process_time()
    mean, std = fit(kind, SPACE, genes, y, 0).predict(TEST)
    assert time.process_time() - start < 20
    few = fit(kind, SPACE, genes[:400], y[:400], 0).predict(TEST)[0]
    assert np.corrcoef(mean, truth)[0, 1] > np.corrcoef(few, truth)[0, 1] - 0.01
    assert np.isfinite(std).all() and (std >= 0).all()
