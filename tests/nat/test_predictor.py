"""The kind that ranks held-out architectures best predicts, and says how sure it is."""

from __future__ import annotations

import numpy as np
import pytest

from oneshot.nat import fit_accuracy
from oneshot.nat.predictor import Warp, _held_out
from oneshot.regression import surrogates as module
from oneshot.regression.encoding import one_hot
from oneshot.regression.extra import KnownFeatures
from oneshot.regression.folds import FOLDS, folds_of
from oneshot.regression.scores import kendall, kendall_within
from oneshot.regression.surrogates import KINDS, Kind
from oneshot.supernets import NASBench201Space

from ..regression.test_extra import SAMPLES, Hidden, hidden
from ..regression.test_extra import SPACE as HIDDEN_SPACE
from ..regression.toys import GENES, SPACE, TEST, errors


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_ranks_architectures_it_has_not_seen(kind: Kind) -> None:
    model = fit_accuracy(SPACE, GENES, errors(GENES, noise=0.3), kinds=[kind])
    mean, std = model.predict(TEST)
    tau = kendall(mean, errors(TEST))
    assert model.kind == kind and tau > 0.6
    assert model.tau[kind] == pytest.approx(tau, abs=0.15)
    assert (std > 0).all()
    surprise = (mean - errors(TEST, noise=0.3)) / std  # deviations are those of measurements, which have the noise
    assert 0.6 < np.sqrt((surprise**2).mean()) < 1.6


def test_the_kind_with_the_best_tau_is_taken_and_all_are_reported() -> None:
    model = fit_accuracy(SPACE, GENES, errors(GENES, noise=0.3))
    assert set(model.tau) == set(KINDS) and not model.left_out
    assert model.kind == max(KINDS, key=lambda kind: model.tau[kind])
    assert model.kind in ("ridge", "gp", "rbf", "rank_gp")  # the truth is additive, trees have a hard time


def test_where_there_is_nothing_to_learn_tau_is_zero() -> None:
    """Over all folds it would be far below: the mean of the rest is the lower, the higher a fold is."""
    within, over_all = [], []
    for seed in range(30):
        genes, noise = SPACE.sample_matrix(14, seed), np.random.default_rng(seed).normal(size=14)
        within.append(fit_accuracy(SPACE, genes, noise, kinds=["ridge"], seed=seed).tau["ridge"])
        fold = folds_of(14, seed)
        over_all.append(kendall(_held_out("ridge", SPACE, genes, noise, fold, FOLDS, seed)[0], noise))
    assert abs(np.mean(within)) < 0.11 and np.mean(over_all) < -0.13


def test_of_many_samples_as_many_folds_are_predicted_as_hold_a_thousand() -> None:
    genes = SPACE.sample_matrix(1500, 0)
    y = errors(genes, noise=1.0)
    model = fit_accuracy(SPACE, genes, y, kinds=["ridge"], seed=3)
    z = Warp.of(y).forward(y)
    target = (z - z.mean()) / z.std()
    fold = folds_of(1500, 3)
    mean, _ = _held_out("ridge", SPACE, genes, target, fold, FOLDS, 3)
    four, all_five = (kendall_within(fold[fold < n], mean[fold < n], y[fold < n]) for n in (4, 5))
    assert model.tau["ridge"] == pytest.approx(four, abs=1e-12) and four != all_five


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
    assert set(model.tau) == {"rbf", "gp", "ridge", "rank_gp"}
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
        pytest.param({"kinds": ["forest"]}, "Accuracy predictors must be of the kinds rbf, gp", id="kind"),
        pytest.param({"kinds": []}, "got none", id="none"),
        pytest.param({"genes": GENES + 5}, "must be an index below 5", id="genes"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"genes": GENES, "errors": np.ones(len(GENES)), "kinds": ["ridge"], **change}
    with pytest.raises(ValueError, match=message):
        fit_accuracy(SPACE, **arguments)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_sees_extra_features(kind: Kind) -> None:
    """Half of the error is a number that the genes do not tell."""
    source = Hidden(1)
    known, test = KnownFeatures(HIDDEN_SPACE, source), HIDDEN_SPACE.sample_matrix(200, 9)

    def truth(genes: np.ndarray) -> np.ndarray:
        return 2 * hidden(genes, 1)[:, 0] + (genes == 0).sum(1)

    with_it, without = (
        fit_accuracy(HIDDEN_SPACE, SAMPLES, truth(SAMPLES), kinds=[kind], features=features)
        for features in (known, None)
    )
    taus = [kendall(model.predict(test)[0], truth(test)) for model in (with_it, without)]
    assert taus[0] > 0.55 > 0.4 > taus[1]
    assert with_it.tau[kind] > without.tau[kind] + 0.2
    assert len(source.asked) == len(set(source.asked))
