"""The kind that ranks held-out architectures best predicts, and says how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

from oneshot.nat import fit_accuracy
from oneshot.nat.predictor import Warp, _cross_validate, kendall, kendall_within
from oneshot.regression import surrogates as module
from oneshot.regression.encoding import one_hot
from oneshot.regression.surrogates import KINDS, HammingGP, HammingRBF, Kind, matern
from oneshot.supernets import Choice, NASBench201Space, SearchSpace

SPACE = SearchSpace("toy", (Choice("layer", ("a", "b", "c", "d"), rows=8, droppable=True),))
RNG = np.random.default_rng(0)
EFFECTS = [RNG.normal(size=5) for _ in range(8)]
PAIRS = [RNG.normal(size=(5, 5)) for _ in range(7)]


def errors(genes: np.ndarray, pairs: float = 0.0, noise: float = 0.0) -> np.ndarray:
    total = sum(e[genes[:, g]] for g, e in enumerate(EFFECTS)) + np.zeros(len(genes))
    total += pairs * sum(p[genes[:, g], genes[:, g + 1]] for g, p in enumerate(PAIRS))
    return 20.0 + total + noise * np.random.default_rng(5).normal(size=len(genes))


GENES, TEST = np.unique(SPACE.sample_matrix(150, 1), axis=0), SPACE.sample_matrix(400, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_ranks_architectures_it_has_not_seen(kind: Kind) -> None:
    model = fit_accuracy(SPACE, GENES, errors(GENES, noise=0.3), kinds=[kind])
    mean, std = model.predict(TEST)
    tau = kendall(mean, errors(TEST))
    assert model.kind == kind and tau > 0.6
    assert model.tau[kind] == pytest.approx(tau, abs=0.15)
    assert (std > 0).all()
    surprise = (mean - errors(TEST)) / std
    assert 0.6 < np.sqrt((surprise**2).mean()) < 1.6


def test_the_kind_with_the_best_tau_is_taken_and_all_are_reported() -> None:
    model = fit_accuracy(SPACE, GENES, errors(GENES, noise=0.3))
    assert set(model.tau) == set(KINDS) and not model.left_out
    assert model.kind == max(KINDS, key=lambda kind: model.tau[kind])
    assert model.kind in ("ridge", "gp", "rbf")  # the truth is additive, trees have a hard time


def test_where_there_is_nothing_to_learn_tau_is_zero() -> None:
    """Over all folds it would be far below: the mean of the rest is the lower, the higher a fold is."""
    within, over_all = [], []
    for seed in range(30):
        genes, noise = SPACE.sample_matrix(14, seed), np.random.default_rng(seed).normal(size=14)
        within.append(fit_accuracy(SPACE, genes, noise, kinds=["ridge"], seed=seed).tau["ridge"])
        fold = np.random.default_rng(seed).permutation(14) % 5
        over_all.append(kendall(_cross_validate("ridge", SPACE, genes, noise, fold, seed)[0], noise))
    assert abs(np.mean(within)) < 0.11 and np.mean(over_all) < -0.13


def test_folds_count_as_their_pairs() -> None:
    fold, truth = np.array([0, 0, 0, 1, 1, 2]), np.arange(6.0)
    assert kendall_within(fold, np.array([1.0, 2, 3, -7, -8, 0]), truth) == pytest.approx((3 - 1) / 4)
    assert kendall_within(np.arange(6), truth, truth) == 0.0


def test_it_follows_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 20)
    monkeypatch.setattr(module, "TREES", 20)
    first, second, other = (
        fit_accuracy(SPACE, GENES, errors(GENES), kinds=["rbf", "boosting", "mlp"], seed=seed) for seed in (1, 1, 2)
    )
    assert first.tau == second.tau and first.kind == second.kind != "constant"
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first.predict(TEST), second.predict(TEST)))
    assert first.tau != other.tau


def test_kinds_that_need_more_samples_are_left_out_and_named() -> None:
    model = fit_accuracy(SPACE, GENES[:20], errors(GENES[:20]))
    assert set(model.tau) == {"rbf", "gp", "ridge"}
    assert model.left_out == {k: "needs 40 samples, there are 20" for k in ("boosting", "mlp")}
    with pytest.raises(ValueError, match="at least 6 evaluated architectures"):
        fit_accuracy(SPACE, GENES[:5], errors(GENES[:5]))


def test_equal_errors_are_predicted_with_a_tau_of_zero() -> None:
    model = fit_accuracy(SPACE, GENES, np.full(len(GENES), 7.5))
    mean, std = model.predict(TEST)
    assert model.kind == "constant" and set(model.tau.values()) == {0.0}
    assert (mean == 7.5).all() and (std == 0).all()
    nearly = np.full(len(GENES), 7.5)
    nearly[3] = 8.0
    model = fit_accuracy(SPACE, GENES, nearly, kinds=["rbf", "gp", "ridge"])
    assert np.isfinite(list(model.tau.values())).all() and np.isfinite(model.predict(TEST)).all()


def test_one_disaster_does_not_spoil_the_ranking() -> None:
    y = errors(GENES, noise=0.3)
    y[:8] = 90.0
    good = np.arange(8, len(GENES))
    model = fit_accuracy(SPACE, GENES, y, kinds=["ridge"])
    plain = module.fit("ridge", SPACE, GENES, (y - y.mean()) / y.std(), 0)
    ours, theirs = (kendall(m[good], errors(GENES[good])) for m in (model.predict(GENES)[0], plain.predict(GENES)[0]))
    assert ours > theirs + 0.05


def test_the_warp_keeps_the_order_and_goes_back() -> None:
    y = np.array([5.0, 5.5, 6.0, 7.0, 95.0])
    warp = Warp.of(y)
    z = warp.forward(y)
    assert (np.diff(z) > 0).all() and np.ptp(z) < 10
    assert warp.back(z, np.zeros(5))[0] == pytest.approx(y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"errors": np.append(np.ones(len(GENES) - 1), np.nan)}, "1 not finite", id="nan"),
        pytest.param({"errors": np.ones(3)}, r"shape \[3\]", id="length"),
        pytest.param({"kinds": ["forest"]}, "The kinds of accuracy predictors are rbf, gp", id="kind"),
        pytest.param({"kinds": []}, "got none", id="none"),
        pytest.param({"genes": GENES + 5}, "is an index below 5", id="genes"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"genes": GENES, "errors": np.ones(len(GENES)), "kinds": ["ridge"], **change}
    with pytest.raises(ValueError, match=message):
        fit_accuracy(SPACE, **arguments)  # type: ignore[arg-type]


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


def test_the_gradients_of_the_networks_are_those_of_autograd() -> None:
    rng = np.random.default_rng(0)
    shapes = [(3, 5, 4), (3, 1, 4), (3, 4, 4), (3, 1, 4), (3, 4, 1), (3, 1, 1)]
    weights, x, y = [rng.normal(size=shape) for shape in shapes], rng.normal(size=(20, 5)), rng.normal(size=20)
    leaves = [torch.from_numpy(weight).requires_grad_() for weight in weights]
    hidden = torch.from_numpy(x)
    for i in range(3):
        hidden = hidden @ leaves[2 * i] + leaves[2 * i + 1]
        hidden = torch.nn.functional.silu(hidden) if i < 2 else hidden
    exact = torch.autograd.grad(((hidden[..., 0] - torch.from_numpy(y)) ** 2).mean(), leaves)
    for ours, theirs in zip(module.gradients(weights, x, y), exact, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-10, atol=1e-12)


def test_the_kernel_falls_from_one() -> None:
    r = np.linspace(0, 5, 50)
    assert matern(r)[0] == 1.0 and (np.diff(matern(r)) < 0).all()
    assert matern(np.array([1.0]))[0] == pytest.approx((1 + 5**0.5 + 5 / 3) * np.exp(-(5**0.5)))


def test_genes_that_are_left_out_count_as_one_pick() -> None:
    assert one_hot(SPACE, GENES).shape[1] == 8 * 5
    space = NASBench201Space()
    genes = space.repair(space.sample_matrix(60, 0))
    model = fit_accuracy(space, genes, genes.sum(1).astype(float), kinds=["ridge"])
    assert model.tau["ridge"] > 0.9


def test_the_scale_of_errors_and_its_inverse_are_their_formulas() -> None:
    """A deviation is carried back by the slope at its mean: far off, a step on the scale is a large step in errors."""
    y = np.array([10.0, 11.0, 12.0, 13.0, 90.0])
    warp = Warp.of(y)
    assert (warp.median, warp.spread) == (12.0, 2.0), "the middle half"
    z = warp.forward(y)
    np.testing.assert_allclose(z, np.log((y - 12) / 2 + np.sqrt(((y - 12) / 2) ** 2 + 1)), rtol=1e-12, atol=1e-12)
    std, step = np.full(5, 0.01), 1e-6
    mean, back = warp.back(z, std)
    np.testing.assert_allclose(mean, y, rtol=1e-12)
    slope = (warp.back(z + step, std)[0] - warp.back(z - step, std)[0]) / (2 * step)
    np.testing.assert_allclose(back, slope * std, rtol=1e-6)
    assert back[4] > 30 * back[2]
