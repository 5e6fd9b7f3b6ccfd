"""Learned cost models: what they fit, what they say of themselves, and what they refuse."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from oneshot.cost import Agreement, LinearPredictor, ResolutionPredictor, fit_predictor, noise_ceiling
from oneshot.cost.learned import fit
from oneshot.cost.learned import predictors as module
from oneshot.cost.learned.fit import robust_additive, robust_pairwise
from oneshot.cost.learned.predictors import FloorPredictor, Kind, Predictor
from oneshot.regression.encoding import one_hot, soft_one_hot
from oneshot.regression.ridge import of_features, of_gram, robust_dual
from oneshot.supernets import Choice, FBNetSpace, NASBench201Space, SearchSpace

SPACE = SearchSpace(
    "toy", (Choice("layer", ("a", "b", "c"), rows=4), Choice("edge", ("x", "y"), rows=2, droppable=True))
)
RNG = np.random.default_rng(0)
TRUTH = RNG.uniform(0.5, 3.0, sum(SPACE.gene_sizes))
KINDS: list[Kind] = ["additive", "pairwise", "boosting", "mlp"]


@pytest.fixture(autouse=True)
def _short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 60)
    monkeypatch.setattr(module, "TREES", 40)


def measure(genes: np.ndarray, noise: float = 0.0, seed: int = 1) -> np.ndarray:
    exact = 5.0 + one_hot(SPACE, genes) @ TRUTH
    return np.asarray(exact * np.random.default_rng(seed).normal(1, noise, len(genes)) if noise else exact)


def fitted(kind: Kind, n: int = 120, noise: float = 0.02) -> Predictor:
    genes = SPACE.sample_matrix(n, 0)
    return fit_predictor(SPACE, genes, measure(genes, noise), kind=kind)


def test_the_one_hot_of_a_config_is_that_of_its_edge_weights() -> None:
    genes = SPACE.sample_matrix(30, 3)
    for row, config in zip(one_hot(SPACE, genes), SPACE.decode(genes), strict=True):
        weights = {name: torch.from_numpy(w) for name, w in SPACE.one_hot(config).items()}
        assert np.array_equal(soft_one_hot(SPACE, weights).numpy(), row)


@pytest.mark.parametrize("kind", [*KINDS, "floor"])
def test_every_kind_learns_additive_costs(kind: Kind) -> None:
    model, test = fitted(kind, 200), SPACE.sample_matrix(300, 9)
    error = np.abs(model.costs(test) / measure(test) - 1)
    assert model.kind == kind and np.median(error) < 0.03
    assert np.allclose(model.costs(test[:5]), [model.cost(c) for c in SPACE.decode(test[:5])])


@pytest.mark.parametrize("kind", ["additive", "pairwise", "mlp"])
def test_the_expectation_at_a_corner_is_the_cost_and_has_a_gradient(kind: Kind) -> None:
    model = fitted(kind)
    for config in SPACE.decode(SPACE.sample_matrix(20, 4)):
        weights = {name: torch.from_numpy(w).double() for name, w in SPACE.one_hot(config).items()}
        assert model.expected(weights).item() == pytest.approx(model.cost(config), rel=1e-9)
    alphas = {c.name: torch.zeros(c.rows, len(c.candidates), requires_grad=True) for c in SPACE.choices}
    model.expected({name: a.softmax(-1) for name, a in alphas.items()}).backward()  # type: ignore[no-untyped-call]
    assert all(a.grad is not None and bool((a.grad != 0).any()) for a in alphas.values())


def test_the_expectation_of_pairs_is_the_mean_over_independent_rows() -> None:
    model = fitted("pairwise")
    rng = np.random.default_rng(5)
    weights = {c.name: rng.dirichlet(np.ones(len(c.candidates)), c.rows) for c in SPACE.choices}
    columns = [rng.choice(len(row), 200_000, p=row) for c in SPACE.choices for row in weights[c.name]]
    costs = model.costs(np.stack(columns, 1))
    expected = model.expected({name: torch.from_numpy(w) for name, w in weights.items()}).item()
    assert expected == pytest.approx(costs.mean(), abs=5 * costs.std() / 200_000**0.5)


def test_boosting_has_no_expectation_and_names_what_has() -> None:
    with pytest.raises(NotImplementedError, match="no gradient.*'additive', 'pairwise' or 'mlp'"):
        fitted("boosting").expected({})


def test_pairs_by_their_kernel_are_pairs_by_their_features() -> None:
    genes = SPACE.sample_matrix(60, 0)
    x, y = one_hot(SPACE, genes), measure(genes, 0.02)
    first, second = fit._different_genes(SPACE)
    assert len(first) == sum(a * b for i, a in enumerate(SPACE.gene_sizes) for b in SPACE.gene_sizes[i + 1 :])
    matches = x @ x.T
    gram = matches + 0.3 * (matches**2 - matches) / 2
    features = np.hstack([x, np.sqrt(0.3) * x[:, first] * x[:, second]])
    np.testing.assert_allclose(gram, features @ features.T, rtol=1e-12)
    assert not np.allclose(gram, features @ features.T + 0.3 * matches / 2)  # a pick is no pair with itself
    by_kernel = robust_dual(y, of_gram(gram))
    by_features = robust_dual(y, of_features(features))
    np.testing.assert_allclose(gram @ by_kernel[0], gram @ by_features[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n", [60, 500])
def test_pairs_are_found_where_additive_costs_fail(n: int) -> None:
    def cost(genes: np.ndarray) -> np.ndarray:
        return measure(genes) + 6.0 * (genes[:, 0] == 1) * (genes[:, 2] == 2) + 4.0 * (genes[:, 1] == genes[:, 3])

    train, test = SPACE.sample_matrix(n, 0), SPACE.sample_matrix(300, 8)
    pairwise = robust_pairwise(SPACE, train, cost(train)).predict(test)
    additive = robust_additive(SPACE, train, cost(train)).predict(test)
    assert np.abs(pairwise - cost(test)).mean() < 0.7 * np.abs(additive - cost(test)).mean()
    assert n < 500 or np.allclose(pairwise, cost(test), rtol=1e-3)


def test_too_many_pairs_and_samples_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "MOST_PAIRWISE", 40)
    genes = SPACE.sample_matrix(60, 0)
    with pytest.raises(ValueError, match="at most 40 samples; got 60"):
        robust_pairwise(SPACE, genes, measure(genes))


@pytest.mark.parametrize("pairs", [False, True], ids=["additive", "pairwise"])
def test_linear_costs_survive_json(pairs: bool) -> None:
    model = fitted("pairwise" if pairs else "additive")
    assert isinstance(model, LinearPredictor)
    again = LinearPredictor.from_dict(SPACE, json.loads(json.dumps(model.to_dict())))
    genes = SPACE.sample_matrix(50, 2)
    np.testing.assert_allclose(again.costs(genes), model.costs(genes), rtol=1e-4)
    assert again.kind == model.kind and again.unit == "ms"


def steep(genes: np.ndarray) -> np.ndarray:
    """Costs that multiply, so that a sum that is fitted to them is negative for cheap networks."""
    return np.asarray(np.exp(one_hot(SPACE, genes) @ (TRUTH - 2.0)))


@pytest.mark.parametrize("kind", ["additive", "pairwise"])
def test_no_cost_is_negative_and_the_order_stays(kind: Kind) -> None:
    genes, every = SPACE.sample_matrix(60, 0), SPACE.sample_matrix(500, 1)
    model = fit_predictor(SPACE, genes, steep(genes), kind=kind)
    plain, costs = model.predict(every), model.costs(every)
    assert plain.min() < 0 < costs.min() and model.least == steep(genes).min() / 2
    above = plain >= model.least
    assert 0 < above.sum() < len(every) and np.array_equal(costs[above], plain[above])
    assert np.array_equal(np.argsort(plain, kind="stable"), np.argsort(costs, kind="stable"))
    low = SPACE.decode(every[[int(np.argmin(plain))]])[0]
    weights = {name: torch.from_numpy(w).double().requires_grad_() for name, w in SPACE.one_hot(low).items()}
    expected = model.expected(weights)
    assert expected.item() == pytest.approx(model.cost(low), rel=1e-9)
    expected.backward()  # type: ignore[no-untyped-call]
    assert any(bool(w.grad.any()) for w in weights.values() if w.grad is not None)
    assert isinstance(model, LinearPredictor)
    again = LinearPredictor.from_dict(SPACE, json.loads(json.dumps(model.to_dict())))
    np.testing.assert_allclose(again.costs(every), costs, rtol=1e-3)


def test_one_measurement_that_failed_does_not_choose_the_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    genes = SPACE.sample_matrix(40, 0)
    y = measure(genes)
    found = {"additive": 1.02 * y, "pairwise": 1.04 * y}
    found["additive"][7], found["pairwise"][7] = 3.0 * y[7], 2.0 * y[7]
    monkeypatch.setattr(fit._Samples, "held_out", lambda self, kind, fold: found[kind])
    errors = {kind: np.abs(one / y - 1).mean() for kind, one in found.items()}
    assert errors["pairwise"] < errors["additive"], "by the plain mean, the worse kind would be taken"
    kinds: list[Kind] = ["additive", "pairwise"]
    samples = fit._Samples(SPACE, genes, y, None, "ms", 0)
    assert fit._best(kinds, samples).kind == "additive"


def test_throughput_becomes_milliseconds_which_add_up() -> None:
    genes, test = SPACE.sample_matrix(100, 0), SPACE.sample_matrix(50, 1)
    model = fit_predictor(SPACE, genes, 1000 / measure(genes), kind="additive", throughput=True)
    np.testing.assert_allclose(model.costs(test), measure(test), rtol=1e-4)
    wrong = fit_predictor(SPACE, genes, 1000 / measure(genes), kind="additive")
    assert np.abs(1000 / wrong.costs(test) / measure(test) - 1).max() > 1e-2
    assert model.unit == "ms"


def floored(genes: np.ndarray, floor: float, noise: float, seed: int) -> np.ndarray:
    """Half of the networks or so wait for launches."""
    return np.asarray(np.maximum(measure(genes), floor) * np.random.default_rng(seed).normal(1, noise, len(genes)))


def test_auto_finds_a_floor_where_there_is_one() -> None:
    genes, test = SPACE.sample_matrix(200, 0), SPACE.sample_matrix(400, 9)
    floor = float(np.median(measure(genes)))
    model = fit_predictor(SPACE, genes, 1000 / floored(genes, floor, 0.01, 1), throughput=True)
    assert isinstance(model, FloorPredictor) and model.floor == pytest.approx(floor, rel=0.01)
    within = Agreement.of(model.costs(test), floored(test, floor, 0.01, 2)).within_5
    additive = fit_predictor(SPACE, genes, floored(genes, floor, 0.01, 1), kind="additive")
    assert within > 0.95 > Agreement.of(additive.costs(test), floored(test, floor, 0.01, 2)).within_5 + 0.1
    assert model.validation["floor"].within_5 > model.validation["additive"].within_5


def test_a_floor_is_in_the_expected_cost_and_stops_its_gradient() -> None:
    genes = SPACE.sample_matrix(200, 0)
    floor = float(np.median(measure(genes)))
    model = fit_predictor(SPACE, genes, floored(genes, floor, 0.01, 1), kind="floor")
    assert isinstance(model, FloorPredictor)
    below = []
    for config in SPACE.decode(SPACE.sample_matrix(20, 4)):
        weights = {name: torch.from_numpy(w).double().requires_grad_() for name, w in SPACE.one_hot(config).items()}
        expected = model.expected(weights)
        assert expected.item() == pytest.approx(model.cost(config), rel=1e-9)
        expected.backward()  # type: ignore[no-untyped-call]
        moved = any(bool((w.grad != 0).any()) for w in weights.values() if w.grad is not None)
        assert moved == (model.cost(config) > model.floor)
        below.append(not moved)
    assert any(below) and not all(below)


@pytest.mark.parametrize("floor", [-1.0, float("nan"), float("inf")])
def test_a_floor_that_is_no_cost_is_refused(floor: float) -> None:
    with pytest.raises(ValueError, match="floor must be finite and 0 or more"):
        FloorPredictor(LinearPredictor(SPACE, TRUTH), floor)


def test_the_ceiling_is_the_agreement_of_the_truth_with_measurements() -> None:
    space = FBNetSpace()
    rng, genes = np.random.default_rng(0), space.sample_matrix(3000, 0)
    truth = 50 + genes @ rng.uniform(0, 0.3, 22)
    noise = 0.04
    y = truth * rng.normal(1, noise, len(truth))
    exact = Agreement.of(truth, y)
    ceiling = fit_predictor(space, genes[:400], y[:400], kind="additive", noise=noise).ceiling
    assert ceiling is not None and ceiling.reason == "measurements of the device"
    known = noise_ceiling(genes, y, noise=noise)
    assert known is not None and known.noise == pytest.approx(noise, rel=0.02)
    again = truth * rng.normal(1, noise, len(truth))
    twice = noise_ceiling(np.vstack([genes, genes]), np.concatenate([y, again]))
    assert twice is not None and twice.reason == "3000 pairs of measurements of one network"
    assert twice.noise == pytest.approx(noise, rel=0.05)
    for found in (known.agreement, twice.agreement):
        assert found.spearman == pytest.approx(exact.spearman, abs=0.02)
        assert found.kendall == pytest.approx(exact.kendall, abs=0.02)
        assert found.within_5 == pytest.approx(exact.within_5, abs=0.02)
    # the agreement of two measurements is not that of one with the truth
    assert Agreement.of(again, y).spearman < exact.spearman - 0.05
    assert Agreement.of(again, y).within_5 < exact.within_5 - 0.05
    # and noisy values that stand for the truth give too high a ceiling
    raw = Agreement.of(y, y * rng.normal(1, noise, len(y)))
    assert raw.spearman > exact.spearman + 0.05


def test_the_ceiling_of_images_per_second_is_that_of_milliseconds() -> None:
    space, rng = FBNetSpace(), np.random.default_rng(0)
    genes = space.sample_matrix(300, 0)
    truth = 5 + genes.sum(1) / 10
    ms = truth * (1 + 0.1 * rng.standard_normal(300))
    found = fit_predictor(space, genes, 1000 / ms, kind="additive", throughput=True, noise=0.1).ceiling
    known = noise_ceiling(genes, ms, noise=0.1)
    assert found is not None and known is not None
    assert found.agreement.rmse == pytest.approx(Agreement.of(truth, ms).rmse, rel=0.15)
    assert found.agreement.rmse == pytest.approx(known.agreement.rmse, rel=0.1)
    in_images = noise_ceiling(genes, 1000 / ms, noise=0.1)
    assert in_images is not None and in_images.agreement.rmse > 5 * found.agreement.rmse


def test_networks_that_were_measured_twice_are_in_one_fold() -> None:
    """Otherwise a network tells on itself, and a kind that learns networks by heart looks best."""
    space, rng = NASBench201Space(), np.random.default_rng(0)
    genes = space.sample_matrix(60, 0)
    own = 10 + 5 * rng.random(60)  # what no model can know
    twice, y = np.vstack([genes, genes]), np.concatenate([own, own]) * (1 + 0.02 * rng.standard_normal(120))
    model = fit_predictor(space, twice, y, kind="mlp")
    assert model.validation["mlp"].kendall < 0.4
    low, high = model.interval(space.sample_matrix(200, 9))
    assert np.mean(high - low) > 3  # of a spread from 10 to 15


def test_rounding_alone_has_a_ceiling() -> None:
    rng, genes = np.random.default_rng(0), SPACE.sample_matrix(300, 0)
    truth = rng.uniform(3, 9, 300)
    read = np.rint(truth)
    ceiling = fit_predictor(SPACE, genes, read, kind="additive").ceiling
    assert ceiling is None or "pairs" in ceiling.reason  # this space is so small that networks stand there twice
    distinct = FBNetSpace().sample_matrix(300, 0)
    ceiling = noise_ceiling(distinct, read)
    assert ceiling is not None and "a perfect model: " in str(ceiling) and "steps of 1 alone" in str(ceiling)
    assert ceiling.agreement.kendall == pytest.approx(Agreement.of(truth, read).kendall, abs=0.03)
    assert noise_ceiling(distinct, truth) is None and noise_ceiling(distinct[:1], read[:1]) is None
    with pytest.raises(ValueError, match="noise must be finite and 0 or more; got -0.1"):
        noise_ceiling(distinct, read, noise=-0.1)
    with pytest.raises(ValueError, match="step must be finite"):
        noise_ceiling(distinct, read, step=float("nan"))


def test_a_part_of_the_costs_grows_with_the_number_of_pixels() -> None:
    genes, sizes = SPACE.sample_matrix(200, 0), np.random.default_rng(0).choice([128, 160, 224], 200)
    model = fit_predictor(SPACE, genes, 4.0 + measure(genes) * (sizes / 224) ** 2, image_sizes=sizes)
    assert isinstance(model, ResolutionPredictor) and model.image_size == 224
    test = SPACE.sample_matrix(40, 1)
    np.testing.assert_allclose(model.at(160).costs(test), 4.0 + measure(test) * (160 / 224) ** 2, rtol=1e-3)
    config = SPACE.decode(test[:1])[0]
    weights = {name: torch.from_numpy(w).double() for name, w in SPACE.one_hot(config).items()}
    assert model.at(192).expected(weights).item() == pytest.approx(model.at(192).cost(config))
    low, high = model.at(160).interval(test)
    assert (low <= model.at(160).costs(test)).all() and (model.at(160).costs(test) <= high).all()


def test_auto_takes_the_kind_with_the_smallest_error_and_reports_all() -> None:
    genes = SPACE.sample_matrix(80, 0)
    model = fit_predictor(SPACE, genes, measure(genes, 0.01))
    assert model.kind == "additive" and set(model.validation) == set(KINDS)
    assert model.validation["additive"].kendall > 0.9
    again = fit_predictor(SPACE, genes, measure(genes, 0.01))
    assert np.array_equal(model.costs(genes), again.costs(genes))


@pytest.mark.parametrize("kind", ["additive", "boosting"])
def test_an_interval_covers_what_it_says(kind: Kind) -> None:
    model, test = fitted(kind, 150, 0.05), SPACE.sample_matrix(1000, 7)
    y = measure(test, 0.05, seed=3)
    for level in (0.5, 0.9):
        low, high = model.interval(test, level)
        assert abs(((low <= y) & (y <= high)).mean() - level) < 0.1


def test_a_pick_that_no_sample_had_is_named() -> None:
    genes = SPACE.sample_matrix(200, 0)
    genes = genes[genes[:, 1] != 2]
    model = fit_predictor(SPACE, genes, measure(genes), kind="additive")
    test = np.array([[0, 2, 0, 0, 0, 0]])
    with pytest.warns(UserWarning, match=r"No measured architecture has layer\[1\] = c;"):
        model.costs(test)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.costs(genes)


def test_fewer_samples_than_costs_is_said() -> None:
    space = FBNetSpace()
    genes = space.sample_matrix(30, 0)
    with pytest.warns(UserWarning, match="30 samples are fewer than the 177 costs of space 'fbnet'"):
        fit_predictor(space, genes, 20.0 + genes.sum(1), kind="additive")


GENES = SPACE.sample_matrix(60, 0)
GOOD = measure(GENES)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        pytest.param(np.where(np.arange(60) == 7, -1.0, GOOD), {}, "row 7: -1.0", id="negative"),
        pytest.param(np.where(np.arange(60) < 9, np.nan, GOOD), {}, "row 4: nan and 4 more", id="nan"),
        pytest.param(GOOD[:5], {}, r"60 architectures .* \[5\]", id="length"),
        pytest.param(GOOD, {"kind": "forest"}, "auto, additive, .*'forest'", id="kind"),
        pytest.param(GOOD, {"throughput": True, "unit": "us"}, "leave unit='us' out", id="unit"),
        pytest.param(GOOD, {"image_sizes": np.full(60, 224)}, "All samples have images of 224", id="one size"),
        pytest.param(GOOD, {"image_sizes": np.full(60, 0.5)}, "one positive integer", id="sizes"),
        pytest.param(
            GOOD, {"image_sizes": np.arange(1, 61), "kind": "mlp"}, "kind must be 'additive'", id="sizes of mlp"
        ),
    ],
)
def test_bad_measurements_are_refused(values: np.ndarray, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_predictor(SPACE, GENES, values, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "needed"), [("auto", 10), ("additive", 10), ("boosting", 50), ("mlp", 50)])
def test_too_few_samples_are_refused_with_how_many_are_needed(kind: Kind, needed: int) -> None:
    with pytest.raises(ValueError, match=f"needs at least {needed} samples; got 9"):
        fit_predictor(SPACE, GENES[:9], GOOD[:9], kind=kind)


def test_too_few_samples_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="with image sizes needs at least 20 samples; got 12"):
        fit_predictor(SPACE, GENES[:12], GOOD[:12], image_sizes=np.arange(1, 13))


def test_genes_of_another_space_are_refused() -> None:
    with pytest.raises(ValueError, match=r"integer matrix \[N, 6\]"):
        fit_predictor(SPACE, FBNetSpace().sample_matrix(60, 0), GOOD)


def test_an_interval_that_cannot_be_given_is_refused() -> None:
    model = fitted("additive", 20)
    with pytest.raises(ValueError, match="between 0 and 1.*got 1.5"):
        model.interval(GENES, 1.5)
    with pytest.raises(ValueError, match="level 0.99 needs at least 99 samples; this predictor had 20"):
        model.interval(GENES, 0.99)
    with pytest.raises(RuntimeError, match="get the predictor from fit_predictor"):
        LinearPredictor(SPACE, TRUTH).interval(GENES)


@pytest.mark.parametrize(
    ("coefficients", "pairs", "message"),
    [
        pytest.param(TRUTH[:-1], None, "Are they of another space", id="shape"),
        pytest.param(TRUTH, np.zeros((3, 3)), r"\[3, 3\]", id="pairs"),
        pytest.param(TRUTH * np.nan, None, "finite", id="nan"),
    ],
)
def test_coefficients_that_do_not_fit_are_refused(
    coefficients: np.ndarray, pairs: np.ndarray | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LinearPredictor(SPACE, coefficients, pairs=pairs)
