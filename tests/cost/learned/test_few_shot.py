"""Transfer to a new device from ten measurements, against the formulas written out and against a planted device."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from oneshot.cost import (
    CostModel,
    FewShot,
    LinearPredictor,
    TransferredCost,
    bundled_sources,
    nonnegative_mixture,
    read_csv,
    write_csv,
)
from oneshot.cost.learned import few_shot as module
from oneshot.cost.learned.few_shot import FewShotKind, log_evidence
from oneshot.supernets import Choice, FBNetSpace, NASBench201Space, SearchSpace
from tests.processes import run_python
from tests.tables import EXTRACTS

SPACE = SearchSpace("toy", (Choice("layer", ("a", "b", "c"), rows=8), Choice("edge", ("x", "y"), droppable=True)))
PLACES = sum(SPACE.gene_sizes)
TYPICAL = np.random.default_rng(0).uniform(0.5, 3.0, PLACES)


def device(seed: int, spread: float = 0.3, scale: float = 1.0) -> LinearPredictor:
    """A device like the typical one, but for its own taste."""
    rng = np.random.default_rng(seed)
    return LinearPredictor(SPACE, scale * TYPICAL * rng.lognormal(0, spread, PLACES), offset=scale * rng.uniform(2, 6))


SOURCES: list[CostModel] = [device(seed, scale=seed) for seed in range(1, 7)]
TARGET = device(99, scale=20.0)


def measure(genes: np.ndarray, noise: float = 0.01, seed: int = 0, target: CostModel = TARGET) -> np.ndarray:
    return np.asarray(target.costs(genes) * np.random.default_rng(seed).normal(1, noise, len(genes)))


def spearman(model: CostModel, target: CostModel = TARGET) -> float:
    genes = SPACE.sample_matrix(500, 77)
    rank = [np.argsort(np.argsort(m.costs(genes))) for m in (model, target)]
    return float(np.corrcoef(rank)[0, 1])


@pytest.fixture(scope="module")
def transfer() -> FewShot:
    return FewShot(SPACE, SOURCES)


def test_the_evidence_is_the_density_of_a_normal_distribution() -> None:
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(0)
    y, centres = rng.normal(size=5), rng.normal(size=(5, 2))
    kernels = np.stack([(a := rng.normal(size=(5, 3))) @ a.T for _ in range(2)])
    noises, scales = np.array([0.3, 1.0]), np.array([0.5, 1.0, 2.0])
    ours = log_evidence(y, centres, kernels, noises, scales) - 2.5 * np.log(2 * np.pi)
    for h, v, s, j in np.ndindex(2, 2, 3, 2):
        covariance = scales[s] ** 2 * (kernels[h] + noises[v] ** 2 * np.eye(5))
        exact = multivariate_normal(scales[s] * centres[:, j], covariance).logpdf(y)
        assert ours[h, v, s, j] == pytest.approx(exact, rel=1e-9)
        wrong = multivariate_normal(centres[:, j], covariance).logpdf(y)  # a centre that is not scaled
        assert scales[s] == 1 or ours[h, v, s, j] != pytest.approx(wrong, rel=1e-3)


def test_the_posterior_is_that_of_bayesian_regression(transfer: FewShot) -> None:
    rng = np.random.default_rng(0)
    x = transfer._shapes(SPACE.sample_matrix(6, 3))
    y = rng.normal(size=6)
    kernels = np.stack([(x @ f) @ (x @ f).T for f in transfer._factors])
    shape = (len(kernels), len(module.NOISES), len(module.SCALES), len(SOURCES))
    weights = rng.dirichlet(np.ones(int(np.prod(shape)))).reshape(shape)
    mean, covariance, noise = transfer._posterior(y, x, weights, kernels)

    # each hypothesis by itself, with a prior made invertible; then the moments of the mixture
    means, seconds, variance = 0.0, 0.0, 0.0
    for h, v, s, j in np.ndindex(shape):
        scale, sigma = module.SCALES[s], module.SCALES[s] * module.NOISES[v]
        prior = scale**2 * transfer._factors[h] @ transfer._factors[h].T
        start = np.zeros(x.shape[1])
        start[1 + j] = scale
        gain = prior @ x.T @ np.linalg.inv(x @ prior @ x.T + sigma**2 * np.eye(6))
        one, within = start + gain @ (y - x @ start), prior - gain @ x @ prior
        means = means + weights[h, v, s, j] * one
        seconds = seconds + weights[h, v, s, j] * (within + np.outer(one, one))
        variance += weights[h, v, s, j] * sigma**2
    np.testing.assert_allclose(mean, means, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(covariance, seconds - np.outer(means, means), rtol=1e-5, atol=1e-6)
    assert noise == pytest.approx(np.sqrt(variance))


def test_surprise_is_the_error_of_predicting_each_measurement_from_the_others(transfer: FewShot) -> None:
    rng = np.random.default_rng(0)
    x, y = transfer._shapes(SPACE.sample_matrix(5, 3)), rng.normal(size=5)
    kernels = np.stack([(x @ f) @ (x @ f).T for f in transfer._factors])
    weights = np.zeros((len(kernels), len(module.NOISES), len(module.SCALES), len(SOURCES)))
    weights[1, 2, 4, 3] = 1
    scale, noise, centre = module.SCALES[4], module.NOISES[2], module.SCALES[4] * x[:, 4]
    full = scale**2 * (kernels[1] + noise**2 * np.eye(5))
    for i, ours in enumerate(transfer._surprise(y, x, weights, kernels)):
        r = np.delete(np.arange(5), i)
        gain = full[i, r] @ np.linalg.inv(full[np.ix_(r, r)])
        error = y[i] - centre[i] - gain @ (y[r] - centre[r])
        assert ours == pytest.approx(error**2 / (full[i, i] - gain @ full[r, i]), rel=1e-6)


def test_the_mixture_is_non_negative_least_squares() -> None:
    genes = SPACE.sample_matrix(12, 0)
    y = measure(genes)
    model = nonnegative_mixture(SOURCES, genes, y)
    weights = model.mean[: 1 + len(SOURCES)]
    design = np.column_stack([np.ones(12), *(s.costs(genes) for s in SOURCES)])
    gradient = design.T @ (design @ weights - y)  # the conditions of Karush, Kuhn and Tucker
    assert (weights >= 0).all() and (gradient > -1e-6 * np.abs(y).sum()).all()
    np.testing.assert_allclose(gradient[weights > 0], 0, atol=1e-6 * np.abs(y).sum())
    free = np.linalg.lstsq(design, y, rcond=None)[0]
    assert free.min() < 0  # the condition makes a difference here


def test_ten_measurements_rank_a_new_device_better_than_any_source_and_than_the_mixture(transfer: FewShot) -> None:
    ours, mixture = [], []
    for seed in range(5):
        genes = SPACE.sample_matrix(10, seed)
        y = measure(genes, 0.01, seed)
        ours.append(spearman(transfer.fit(genes, y)))
        mixture.append(spearman(nonnegative_mixture(SOURCES, genes, y)))
    assert np.mean(ours) > max(spearman(source) for source in SOURCES)
    assert np.mean(ours) > np.mean(mixture)


@pytest.mark.filterwarnings("ignore:The known devices explain little")
def test_proposed_architectures_tell_more_than_random_ones(transfer: FewShot) -> None:
    proposed, at_random = [], []
    for seed in range(5):
        genes = transfer.propose(10, seed=seed)
        assert len(np.unique(genes, axis=0)) == 10
        proposed.append(spearman(transfer.fit(genes, measure(genes, 0.02, seed))))
        genes = SPACE.sample_matrix(10, seed)
        at_random.append(spearman(transfer.fit(genes, measure(genes, 0.02, seed))))
    assert np.mean(proposed) > np.mean(at_random)
    assert np.array_equal(transfer.propose(4, seed=3), transfer.propose(10, seed=3)[:4])


def test_a_proposal_is_the_one_that_leaves_the_smallest_variance(transfer: FewShot) -> None:
    candidates = SPACE.sample_matrix(30, 5)
    chosen = transfer.propose(3, candidates=candidates)
    factor = np.hstack([transfer._factors[module.PROPOSAL], transfer._scale_factor()])
    everywhere = transfer._shapes(transfer._population) @ factor

    def left(genes: np.ndarray) -> float:
        x = transfer._shapes(genes) @ factor
        covariance = np.linalg.inv(np.eye(factor.shape[1]) + x.T @ x / 0.3**2)
        return float(np.einsum("np,pq,nq->", everywhere, covariance, everywhere))

    for n in (1, 2, 3):
        others = [left(np.vstack([chosen[: n - 1], c[None]])) for c in candidates]
        assert left(chosen[:n]) == pytest.approx(min(others), rel=1e-6)


@pytest.mark.filterwarnings("ignore:The known devices explain little")
def test_a_stalled_measurement_is_not_believed(transfer: FewShot) -> None:
    genes = transfer.propose(12)
    y = measure(genes)
    y[2] *= 2.5
    rest = np.delete(np.arange(12), 2)
    clean, stalled = spearman(transfer.fit(genes[rest], y[rest])), spearman(transfer.fit(genes, y))
    assert stalled > spearman(nonnegative_mixture(SOURCES, genes, y)) and stalled > clean - 0.1


@pytest.mark.filterwarnings("ignore:The known devices explain little")
def test_the_interval_covers_new_devices_and_their_noise(transfer: FewShot) -> None:
    test, inside, widths = SPACE.sample_matrix(300, 5), [], []
    for seed in range(12):
        target = device(200 + seed, scale=3.0)
        genes = transfer.propose(10, seed=seed)
        model = transfer.fit(genes, measure(genes, 0.02, seed, target))
        low, high = model.interval(test, 0.9)
        y = measure(test, 0.02, seed + 50, target)
        inside.append(((low <= y) & (y <= high)).mean())
        widths.append(((high - low) / y).mean())
    assert 0.8 < np.mean(inside) < 1.0 and np.mean(widths) < 0.5


def test_a_device_like_none_of_the_sources_is_said_to_be_one(transfer: FewShot) -> None:
    rng = np.random.default_rng(3)
    genes = SPACE.sample_matrix(12, 0)
    with pytest.warns(UserWarning, match="explain little of these 12 measurements"):
        strange = transfer.fit(genes, rng.uniform(5, 50, 12))
    low, high = strange.interval(genes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        usual = transfer.fit(genes, measure(genes))
    least, most = usual.interval(genes)
    assert ((high - low) / strange.costs(genes)).mean() > 5 * ((most - least) / usual.costs(genes)).mean()


def test_the_expectation_at_a_corner_is_the_cost_and_has_a_gradient(transfer: FewShot) -> None:
    genes = transfer.propose(10)
    model = transfer.fit(genes, measure(genes))
    for config in SPACE.decode(SPACE.sample_matrix(20, 4)):
        weights = {name: torch.from_numpy(w).double() for name, w in SPACE.one_hot(config).items()}
        assert model.expected(weights).item() == pytest.approx(model.cost(config), rel=1e-9)
    alphas = {c.name: torch.zeros(c.rows, len(c.candidates), requires_grad=True) for c in SPACE.choices}
    model.expected({name: a.softmax(-1) for name, a in alphas.items()}).backward()  # type: ignore[no-untyped-call]
    assert all(a.grad is not None and bool((a.grad != 0).any()) for a in alphas.values())


def test_no_transferred_cost_is_negative(transfer: FewShot) -> None:
    genes, every = SPACE.sample_matrix(12, 0), SPACE.sample_matrix(2000, 1)
    steep = np.exp(TARGET.costs(genes) / 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sources explain little of it
        model = transfer.fit(genes, steep, kind="transfer")
    sums = transfer_sums(model, every)
    costs = model.costs(every)
    assert sums.min() < 0 < costs.min() and model.least == steep.min() / 2
    assert np.array_equal(np.argsort(sums, kind="stable"), np.argsort(costs, kind="stable"))
    low = SPACE.decode(every[[int(np.argmin(sums))]])[0]
    weights = {name: torch.from_numpy(w).double() for name, w in SPACE.one_hot(low).items()}
    assert model.expected(weights).item() == pytest.approx(model.cost(low), rel=1e-9)
    assert (model.interval(every)[1] > 0).all()


def transfer_sums(model: TransferredCost, genes: np.ndarray) -> np.ndarray:
    """The sum of learned terms, which may be negative."""
    return np.asarray(model._features(genes) @ model.mean)


def test_units_of_sources_and_target_do_not_matter(transfer: FewShot) -> None:
    genes = SPACE.sample_matrix(10, 0)
    y, test = measure(genes), SPACE.sample_matrix(50, 1)
    micro = transfer.fit(genes, 1000 * y, unit="us")
    np.testing.assert_allclose(micro.costs(test), 1000 * transfer.fit(genes, y).costs(test), rtol=1e-6)
    larger = [
        LinearPredictor(SPACE, 7 * s.get_buffer("coefficients").numpy(), offset=7 * s.offset)
        for s in SOURCES
        if isinstance(s, LinearPredictor)
    ]
    np.testing.assert_allclose(FewShot(SPACE, larger).fit(genes, y).costs(test), micro.costs(test) / 1000, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:The known devices explain little")
@pytest.mark.parametrize("space", [FBNetSpace(), NASBench201Space()], ids=lambda space: space.name)
def test_rounding_is_noise_of_known_size(space: SearchSpace) -> None:
    """On real devices whose clock is made as coarse as the differences between networks, and twice as coarse."""
    sources, test = bundled_sources(space), space.sample_matrix(300, 5)
    found: dict[str, list[float]] = {"noise": [], "as read": [], "cut off": []}
    inside = []
    for device in ("samsung_a50", "gold_6240", "titanx_1"):
        others = {name: source for name, source in sources.items() if name != device}
        few_shot, exact = FewShot(space, others), sources[device].costs(test)
        for step in (exact.std(), 2 * exact.std()):
            genes = space.sample_matrix(30, 1)
            read = np.maximum(np.rint(sources[device].costs(genes) / step), 1)
            # the clock does not cut off: a model that believes so is wrong by half a step
            cases = {"noise": (read, 1.0), "as read": (read, 0.0), "cut off": (read + 0.5, 1.0)}
            for name, (values, each) in cases.items():
                model = few_shot.fit(genes, values, step=each)
                found[name].append(float(np.abs(model.costs(test) * step - exact).mean() / exact.std()))
                if name == "noise":
                    low, high = model.interval(test)
                    inside.append(((low * step <= exact) & (exact <= high * step)).mean())
    error = {name: np.mean(each) for name, each in found.items()}
    assert error["noise"] < error["as read"] < error["cut off"] and error["noise"] < 0.25
    assert np.mean(inside) > 0.85


def test_one_network_tells_nothing_however_often_it_was_measured(transfer: FewShot) -> None:
    genes = SPACE.sample_matrix(2, 0).repeat(5, 0)
    with pytest.raises(ValueError, match="at least 3 different architectures, better 10; got 10 of 2 different"):
        transfer.fit(genes, measure(genes))


@pytest.mark.parametrize("kind", ["mixture", "auto", "transfer"])
def test_a_warning_says_that_known_devices_explain_little(kind: FewShotKind) -> None:
    genes = SPACE.sample_matrix(12, 0)
    noise = np.random.default_rng(0).permutation(measure(genes))
    with pytest.warns(UserWarning, match="explain little of these 12 measurements"):
        FewShot(SPACE, SOURCES).fit(genes, noise, kind=kind, throughput=False)


def test_the_step_of_the_clock_is_found_in_the_values(transfer: FewShot) -> None:
    genes, test = transfer.propose(10), SPACE.sample_matrix(50, 1)
    read = np.rint(measure(genes) / 40) * 40 / 40  # whole numbers
    np.testing.assert_array_equal(
        transfer.fit(genes, read).costs(test), transfer.fit(genes, read, step=1.0).costs(test)
    )
    assert not np.allclose(transfer.fit(genes, read).costs(test), transfer.fit(genes, read, step=0.0).costs(test))
    fine = measure(genes)
    np.testing.assert_array_equal(
        transfer.fit(genes, fine).costs(test), transfer.fit(genes, fine, step=0.0).costs(test)
    )


def test_sources_may_have_names(transfer: FewShot) -> None:
    named = FewShot(SPACE, {f"phone {i}": source for i, source in enumerate(SOURCES)})
    genes = SPACE.sample_matrix(10, 0)
    np.testing.assert_array_equal(
        named.fit(genes, measure(genes)).costs(genes), transfer.fit(genes, measure(genes)).costs(genes)
    )
    with pytest.raises(ValueError, match="those on tablet do not"):
        FewShot(SPACE, {"phone": SOURCES[0], "tablet": LinearPredictor(SPACE, np.ones(PLACES))})


def test_images_per_second_become_milliseconds(transfer: FewShot) -> None:
    genes, test = transfer.propose(10), SPACE.sample_matrix(300, 77)
    y = measure(genes)
    model = transfer.fit(genes, 1000 / y, throughput=True)
    np.testing.assert_allclose(model.costs(test), transfer.fit(genes, y).costs(test), rtol=1e-6)
    assert model.unit == "ms" and spearman(model) > 0.8


def test_values_that_rank_architectures_the_other_way_round_are_refused(transfer: FewShot) -> None:
    genes = transfer.propose(10)
    y = measure(genes)
    with pytest.raises(ValueError, match=r"these 10 fall \(rank correlation -0\.\d+ .*give throughput=True"):
        transfer.fit(genes, 1000 / y)
    with pytest.raises(ValueError, match="if these are milliseconds already, leave throughput=True out"):
        transfer.fit(genes, y, throughput=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The known devices explain little")
        model = transfer.fit(genes, 1000 / y, throughput=False)  # taken as they are
    assert 1000 / y.max() < np.median(model.costs(SPACE.sample_matrix(100, 1))) < 1000 / y.min()


@pytest.mark.filterwarnings("ignore:The known devices explain little")
def test_an_order_that_may_be_opposite_by_chance_is_a_warning(transfer: FewShot) -> None:
    genes = transfer.propose(5)
    order = transfer._shapes(genes)[:, 1 : 1 + len(SOURCES)].mean(1).argsort()
    y = np.empty(5)
    y[order] = [50.5, 60.5, 40.5, 30.5, 20.5]  # rank correlation -0.9, by chance in 4 of 100 cases
    with pytest.warns(UserWarning, match="these 5 fall .*throughput=False takes them as they are"):
        transfer.fit(genes, y)


@pytest.mark.filterwarnings("ignore:The known devices explain little")
def test_cross_validation_takes_the_mixture_where_the_device_is_one() -> None:
    share = np.array([0.6, 0.4, 0.0, 0.0, 0.0, 0.0])
    genes, test = SPACE.sample_matrix(20, 3), SPACE.sample_matrix(50, 1)
    y = np.stack([s.costs(genes) for s in SOURCES], 1) @ share + 3.0
    few_shot, mixture = FewShot(SPACE, SOURCES), nonnegative_mixture(SOURCES, genes, y)
    auto = few_shot.fit(genes, y, kind="auto")
    np.testing.assert_allclose(auto.costs(test), mixture.costs(test), rtol=1e-9)
    np.testing.assert_allclose(few_shot.fit(genes, y, kind="mixture").costs(test), mixture.costs(test), rtol=1e-9)
    assert not np.allclose(few_shot.fit(genes, y).costs(test), mixture.costs(test), rtol=1e-6)
    equal = [50.0] * 4 + [60.0]  # without the last one, nothing differs
    first = few_shot.fit(genes[:5], equal, kind="auto", throughput=False)
    np.testing.assert_array_equal(first.costs(test), few_shot.fit(genes[:5], equal, throughput=False).costs(test))
    # a device with a taste of its own is left to the other model
    own = measure(genes)
    np.testing.assert_array_equal(
        few_shot.fit(genes, own, kind="auto").costs(test), few_shot.fit(genes, own).costs(test)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"kind": "best"}, "transfer, mixture, auto; got 'best'", id="kind"),
        pytest.param({"step": -1.0}, "step must be 0 or more.*got -1.0", id="step"),
        pytest.param({"throughput": True, "unit": "us"}, "leave unit='us'", id="unit"),
        pytest.param({"throughput": True, "step": 1.0}, "step=1.0 out", id="step of throughput"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    transfer: FewShot, options: dict[str, object], message: str
) -> None:
    genes = SPACE.sample_matrix(10, 0)
    with pytest.raises(ValueError, match=message):
        transfer.fit(genes, measure(genes), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("space", [FBNetSpace(), NASBench201Space()], ids=["fbnet", "nasbench201"])
def test_bundled_devices_transfer(space: SearchSpace) -> None:
    sources = bundled_sources(space)
    assert len(sources) == 15 and sources["macs"].unit == "MACs" and sources["gold_6240"].unit == "ms"
    target = sources.pop("gold_6240")
    transfer = FewShot(space, sources)
    genes = transfer.propose(10)
    model = transfer.fit(genes, target.costs(genes))
    test = space.sample_matrix(200, 1)
    assert np.abs(model.costs(test) / target.costs(test) - 1).mean() < 0.05


def test_only_some_spaces_have_bundled_devices() -> None:
    with pytest.raises(ValueError, match="fbnet, nasbench201; got 'toy'"):
        bundled_sources(SPACE)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        pytest.param(SOURCES[:1], "two or more source devices; got 1", id="one"),
        pytest.param([*SOURCES, *bundled_sources(FBNetSpace()).values()], "it is of 'fbnet'", id="space"),
        pytest.param(
            [*SOURCES, LinearPredictor(SPACE, np.ones(PLACES))], "must differ between architectures", id="constant"
        ),
    ],
)
def test_sources_that_cannot_be_used_are_refused(sources: list[CostModel], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FewShot(SPACE, sources)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param([3.0, -1.0, 2.0], "row 1: -1.0", id="negative"),
        pytest.param([3.0, float("nan"), 2.0], "row 1: nan", id="nan"),
        pytest.param([3.0, 2.0], "3 architectures", id="length"),
        pytest.param([7.0, 7.0, 7.0], "All 3 measurements are 7.0 ms", id="same"),
    ],
)
def test_bad_measurements_are_refused(transfer: FewShot, values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transfer.fit(SPACE.sample_matrix(3, 0), values)


def test_what_cannot_be_asked_is_refused(transfer: FewShot) -> None:
    genes = SPACE.sample_matrix(10, 0)
    with pytest.raises(ValueError, match="at least 3 different architectures, better 10; got 2[.]"):
        transfer.fit(genes[:2], [1.0, 2.0])
    with pytest.raises(ValueError, match="n must be between 1 and 10, .* n=11"):
        transfer.propose(11, candidates=genes)
    with pytest.raises(ValueError, match="between 0 and 1"):
        transfer.fit(genes, measure(genes)).interval(genes, 0.0)


def test_numbers_make_the_round_trip_through_a_file(tmp_path: Path) -> None:
    genes = SPACE.sample_matrix(4, 0)
    path = write_csv(tmp_path / "measure.csv", SPACE, genes)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("layer_0,layer_1,") and lines[0].endswith(",edge_0,ms")
    filled = [f"{line}{i + 0.5}" for i, line in enumerate(lines[1:])]
    path.write_text("\ufeff" + "\r\n".join([lines[0], *filled, ""]) + "\r\n", encoding="utf-8")  # as spreadsheets save
    again, times = read_csv(path, SPACE)
    assert np.array_equal(again, genes) and times.tolist() == [0.5, 1.5, 2.5, 3.5]


ROW = "a,b,c,a,b,c,a,b,none,"
HEADER = ",".join([f"layer_{i}" for i in range(8)] + ["edge_0", "ms"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "line 1: the columns .* got nothing", id="empty"),
        pytest.param("arch,ms\n", "line 1: the columns .* layer_0, .* got arch, ms", id="columns"),
        pytest.param(f"{HEADER}\n", "must hold architectures; it has none", id="no rows"),
        pytest.param(f"{HEADER}\n{ROW}1\na,b,1\n", "line 3: there must be 10 columns; got 3", id="cells"),
        pytest.param(f"{HEADER}\n{ROW}1\n{ROW.replace('c', 'd', 1)}2\n", "line 3: 'd' is not .* layer_2", id="pick"),
        pytest.param(f"{HEADER}\n{ROW}\n", "line 2: the time is missing", id="missing"),
        pytest.param(
            f"{HEADER}\n{ROW}fast\n", "line 2: a time must be a number of milliseconds, .*; got 'fast'", id="text"
        ),
        pytest.param(f"{HEADER}\n{ROW}nan\n", "line 2: a time must be finite and above 0; got 'nan'", id="nan"),
        pytest.param(f"{HEADER}\n{ROW}-3\n", "line 2: a time must be finite and above 0; got '-3'", id="negative"),
    ],
)
def test_a_file_that_is_not_right_is_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "measure.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{message}"):
        read_csv(path, SPACE)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read.*write_csv"):
        read_csv(tmp_path / "nothing.csv", SPACE)


@pytest.mark.slow
def test_the_benchmark_reads_its_tables() -> None:
    """From extracts, which have the columns of the whole ones."""
    folder = Path(__file__).parents[3] / "experiments" / "latency"
    code = (
        "from tables import *; s, g, d = accel_nasbench(); assert g.shape == (len(next(iter(d.values()))), 7); "
        "s.decode(g[:5]); s, g, d = fbnet(); assert len(d) == 13 and s.decode(g[:2])"
    )
    run_python("-c", code, cwd=folder, env={**os.environ, "ONESHOT_DATA": str(EXTRACTS)}).check_returncode()
