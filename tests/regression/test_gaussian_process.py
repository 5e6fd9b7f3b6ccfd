"""Our Gaussian process is the textbook's, and scikit-learn's with the same kernel."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Kernel

from oneshot.regression import gaussian_process as module
from oneshot.regression.features import ArchitectureFeatures
from oneshot.regression.gaussian_process import (
    LENGTHS,
    NOISES,
    PARTS,
    SLOPES,
    Belief,
    GaussianProcessRegression,
    Hyperparameters,
    inducing,
    log_evidence,
    rank_normal,
    spread,
)

from .toys import GENES, SPACE, TEST, errors

FEATURES = ArchitectureFeatures(SPACE)


class Mixture(Kernel):
    """The same kernel for scikit-learn: features side by side, distances summed element by element."""

    def __init__(self, shares: tuple[float, ...], scales: tuple[float, ...], widths: tuple[int, ...], slope: float):
        self.shares, self.scales, self.widths, self.slope = shares, scales, widths, slope

    def __call__(self, X: np.ndarray, Y: np.ndarray | None = None, eval_gradient: bool = False) -> np.ndarray:
        Y = X if Y is None else Y
        total, start = self.slope * np.outer(X[:, -1], Y[:, -1]), 0
        for share, scale, width in zip(self.shares, self.scales, self.widths):
            part = slice(start, start + width)
            total += share * np.exp(-np.abs(X[:, None, part] - Y[None, :, part]).sum(-1) / scale)
            start += width
        return np.asarray(total)

    def diag(self, X: np.ndarray) -> np.ndarray:
        return 1 + self.slope * X[:, -1] ** 2

    def is_stationary(self) -> bool:
        return False


def data(n: int, m: int = 60) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    """Features and targets of n architectures, features of m others, and a linear feature of both."""
    y = errors(GENES[:n], pairs=0.5)
    linear, other = (np.sin(genes.sum(1).astype(float)) for genes in (GENES[:n], TEST[:m]))
    return FEATURES.encode(GENES[:n]), rank_normal(y), FEATURES.encode(TEST[:m]), linear, other


def scikit(model: GaussianProcessRegression, blocks: list[np.ndarray], noise: float) -> GaussianProcessRegressor:
    shares, length, _, slope = model.hyperparameters
    scales = []
    for block in blocks:
        apart = np.abs(block[:, None] - block[None]).sum(-1, dtype=np.float64)
        scales.append(LENGTHS[length] * apart.sum() / (len(block) * (len(block) - 1)))
    kernel = Mixture(
        tuple(share / PARTS for share in shares), tuple(scales), tuple(b.shape[1] for b in blocks), SLOPES[slope]
    )
    return GaussianProcessRegressor(kernel, alpha=noise, optimizer=None)


@pytest.mark.parametrize("with_linear", [False, True])
def test_it_is_that_of_scikit_learn_with_the_same_kernel(with_linear: bool) -> None:
    blocks, y, others, linear, other_linear = data(70)
    linear, other_linear = (linear, other_linear) if with_linear else (0 * linear, 0 * other_linear)
    start = Hyperparameters((1, 3), 3, 2, 2 * with_linear)
    model = GaussianProcessRegression(blocks, y, linear=linear if with_linear else None, start=start)
    theirs = scikit(model, blocks, model.noise).fit(np.column_stack([*blocks, linear]).astype(float), y)
    mean, std = theirs.predict(np.column_stack([*others, other_linear]).astype(float), return_std=True)
    ours = model.predict(others, other_linear if with_linear else None)
    np.testing.assert_allclose(ours[0], mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(ours[1], std * model.variance**0.5, rtol=1e-7, atol=1e-9)
    wrong = scikit(model, blocks, 2 * model.noise).fit(np.column_stack([*blocks, linear]).astype(float), y)
    assert np.abs(wrong.predict(np.column_stack([*others, other_linear]).astype(float)) - mean).max() > 1e-4


@pytest.mark.parametrize("most", [0, 200_000], ids=["one by one", "all at once"])
def test_functions_of_distances_are_looked_up(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKED_UP", most)
    rng = np.random.default_rng(0)
    a, b = ([rng.integers(0, 2, (n, width)).astype(np.float32) for width in (5, 9, 2)] for n in (7, 4))
    tables = [rng.normal(size=width + 1) for width in (5, 9, 2)]
    apart = [np.abs(left[:, None] - right[None]).sum(-1).astype(int) for left, right in zip(a, b)]
    expected = sum(table[d] for table, d in zip(tables, apart))
    np.testing.assert_allclose(module.look_up(tables, a, b), expected, rtol=1e-13)


def test_the_evidence_is_the_density_of_the_targets() -> None:
    blocks, y, _, linear, _ = data(50)
    model = GaussianProcessRegression(blocks, y, linear=linear)
    kernel = model.kernel(blocks, linear, blocks, linear) + model.noise * np.eye(50)
    density = multivariate_normal(np.zeros(50), model.variance * kernel)
    assert model.evidence == pytest.approx(float(density.logpdf(y)), rel=1e-8)
    for variance in (0.9, 1.1):
        other = multivariate_normal(np.zeros(50), variance * model.variance * kernel)
        assert other.logpdf(y) < model.evidence, "the variance in closed form is the best"


def test_hyperparameters_are_those_of_the_largest_evidence_of_the_whole_grid() -> None:
    blocks, y, _, _, _ = data(60)
    model = GaussianProcessRegression(blocks, y)
    every = {}
    for first in range(PARTS + 1):
        for length in range(len(LENGTHS)):
            at = Hyperparameters((first, PARTS - first), length, 0)
            model.hyperparameters = at
            kernel = model.kernel(blocks, None, blocks, None)
            for noise, value in enumerate(NOISES):
                every[at._replace(noise=noise)] = log_evidence(kernel, y, value)[0]
    assert max(every.values()) == pytest.approx(model.evidence, abs=1e-9)
    assert model.evidence - np.median(list(every.values())) > 1.0


def test_all_samples_count_beyond_the_exact_number() -> None:
    """The projected process by dense matrices; with every sample inducing it is the exact one."""
    blocks, y, others, _, _ = data(120)
    model = GaussianProcessRegression(blocks, y, exact=50)
    rows = inducing(y, 50)
    few = [block[rows] for block in blocks]
    noise = model.noise
    across = model.kernel(blocks, None, few, None)
    inside = model.kernel(few, None, few, None) + module.JITTER * np.eye(50)
    near = model.kernel(others, None, few, None)
    nystroem = across @ np.linalg.solve(inside, across.T) + noise * np.eye(120)
    low = near @ np.linalg.solve(inside, across.T)
    mean, std = model.predict(others)
    np.testing.assert_allclose(mean, low @ np.linalg.solve(nystroem, y), rtol=1e-5, atol=1e-7)
    variance = 1 - np.einsum("ij,ji->i", low, np.linalg.solve(nystroem, low.T))  # 8.27 by the matrix inversion lemma
    np.testing.assert_allclose(std**2, model.variance * variance, rtol=1e-5, atol=1e-7)
    subset = np.linalg.solve(model.kernel(few, None, few, None) + noise * np.eye(50), y[rows])
    assert np.abs(near @ subset - mean).max() > 1e-2, "the test can tell that all samples count"


def test_inducing_samples_are_the_best_and_others_of_all_ranks() -> None:
    y = np.random.default_rng(0).normal(size=1000)
    rows = inducing(y, 100)
    ranks = np.sort(np.argsort(np.argsort(y))[rows])
    assert len(set(rows.tolist())) == 100
    assert ranks[:50].tolist() == list(range(50)) and ranks[-1] == 999 and np.diff(ranks[50:]).max() <= 21
    assert spread(10, 4).tolist() == [0, 3, 6, 9]


@pytest.mark.parametrize("exact", [600, 40])
def test_a_belief_is_a_fit_to_the_believed_result(exact: int) -> None:
    """Kriging believer: as if the mean had been measured; hyper-parameters stay."""
    blocks, y, others, _, _ = data(60)
    model = GaussianProcessRegression(blocks, y, exact=exact)
    belief = Belief(model, others)
    np.testing.assert_allclose(belief.std, model.predict(others)[1], rtol=1e-7, atol=1e-9)
    before = belief.std
    belief.believe(3)
    belief.believe(9)
    assert (belief.std <= before + 1e-12).all() and belief.std[3] < 0.8 * before[3]
    if exact == 600:
        both = [np.concatenate([block, other[[3, 9]]]) for block, other in zip(blocks, others)]
        kernel = model.kernel(both, None, both, None) + model.noise * np.eye(62)
        near = model.kernel(others, None, both, None)
        variance = 1 - np.einsum("ij,ji->i", near, np.linalg.solve(kernel, near.T))
        np.testing.assert_allclose(belief.std**2, model.variance * variance, rtol=1e-6, atol=1e-9)


def test_ranks_become_quantiles_of_a_normal_distribution() -> None:
    from statistics import NormalDist

    values = [7.0, 1e9, 7.0, -3.0, np.inf]
    quantile = NormalDist().inv_cdf
    expected = [quantile(0.4), quantile(0.7), quantile(0.4), quantile(0.1), quantile(0.9)]
    np.testing.assert_allclose(rank_normal(values), expected, rtol=1e-12)
    assert rank_normal([5.0] * 4).tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="must be numbers; 1 of 2 are NaN"):
        rank_normal([1.0, np.nan])


def test_equal_targets_are_predicted() -> None:
    mean, std = GaussianProcessRegression([np.eye(4, dtype=np.float32)], np.zeros(4)).predict(
        [np.eye(4, dtype=np.float32)]
    )
    assert (mean == 0).all() and np.isfinite(std).all()


def test_what_cannot_be_fitted_is_refused() -> None:
    x = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match=r"one target each; got targets \[2\] and features \[\[3, 3\]\]"):
        GaussianProcessRegression([x], np.zeros(2))
    with pytest.raises(ValueError, match="two or more samples"):
        GaussianProcessRegression([x[:1]], np.zeros(1))
    with pytest.raises(ValueError, match="must be finite; some are not"):
        GaussianProcessRegression([x], np.array([0.0, np.nan, 1.0]))
    with pytest.raises(ValueError, match="must be 0 or 1; some are not. Encode numbers as at least k"):
        GaussianProcessRegression([0.5 * x], np.zeros(3))


def test_five_thousand_samples_take_seconds() -> None:
    genes = SPACE.sample_matrix(5000, 3)
    y = rank_normal(errors(genes, pairs=0.5))
    blocks = FEATURES.encode(genes)
    start = time.process_time()
    model = GaussianProcessRegression(blocks, y)
    mean, _ = model.predict(FEATURES.encode(TEST))
    assert time.process_time() - start < 30
    assert np.corrcoef(mean, errors(TEST, pairs=0.5))[0, 1] > 0.95
