"""The models of accuracy predictors are those of their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import RBFInterpolator

from oneshot.regression import surrogates as module
from oneshot.regression.surrogates import HammingGP, HammingRBF, matern
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
