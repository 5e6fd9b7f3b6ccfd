"""Networks of a table are chosen evenly, and the shares of their candidates are those of a regression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from oneshot.cost.latency.design import Places, balanced_design, fit_shares
from oneshot.supernets import (
    DARTSSupernet,
    FBNetSupernet,
    NASBench1Shot1Supernet,
    NASBench201Supernet,
    RecurrentSupernet,
)
from oneshot.supernets.base import OperationSupernet

from ..toys import ToySupernet


@pytest.mark.parametrize(
    "supernet", [FBNetSupernet(width=0.25, image_size=32), DARTSSupernet(channels=4, cells=4)], ids=["fbnet", "darts"]
)
def test_a_design_has_all_picks_of_a_gene_about_equally_often(supernet: OperationSupernet) -> None:
    space = supernet.space
    design = balanced_design(space, 90, 0)
    plain = space.sample_matrix(90, 0)

    def spread(genes: np.ndarray[Any, Any]) -> float:
        counts = [np.bincount(column, minlength=size) for column, size in zip(genes.T, space.gene_sizes, strict=True)]
        return float(np.mean([np.sort(count)[:-1].std() for count in counts]))  # but for `none`, made frequent by rules

    assert spread(design) < 0.8 * spread(plain)
    assert np.array_equal(design, balanced_design(space, 90, 0))
    assert np.array_equal(design[:30], balanced_design(space, 30, 0))
    assert not np.array_equal(design, balanced_design(space, 90, 1))
    for config in space.decode(design):
        space.validate(config)


def ridge_by_hand(a: Any, f: Any, y: Any, ridge: float) -> Any:
    """Least squares with the penalty as rows of data: another way to the same minimum, without robust weights."""
    scale = y.mean() / a.sum(1).mean()
    inputs = np.hstack([a @ f * scale, np.ones((len(y), 1)), a * scale]) / y[:, None]
    free = f.shape[1] + 1
    penalty = np.hstack([np.zeros((a.shape[1], free)), ridge * np.eye(a.shape[1])])
    solution = np.linalg.lstsq(np.vstack([inputs, penalty]), np.r_[np.ones(len(y)), np.zeros(a.shape[1])], rcond=None)[
        0
    ]
    return scale * (f @ solution[: free - 1] + solution[free:]), solution[free - 1]


@pytest.fixture
def wholes() -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(0)
    a = np.zeros((120, 20))
    for row in a:
        for group in range(5):
            row[4 * group + rng.integers(4)] += 1
    features = rng.uniform(0, 2, (20, 2))
    parts = features @ [1.0, 0.5] + rng.uniform(0, 0.5, 20)
    return a, features, parts, 2 + a @ parts


def test_shares_are_those_of_an_independent_regression(
    wholes: tuple[Any, Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, features, _, y = wholes
    y = y * np.random.default_rng(1).normal(1, 0.02, len(y))
    monkeypatch.setattr("oneshot.regression.ridge.RIDGES", [0.1])
    monkeypatch.setattr("oneshot.regression.ridge.HUBER", 1e9)
    shares = fit_shares(a, features, y)
    exact, fixed = ridge_by_hand(a, features, y, 0.1)
    np.testing.assert_allclose(a @ shares.entries + shares.fixed, a @ exact + fixed, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shares.entries, exact, rtol=1e-3, atol=1e-4)
    wrong = a @ ridge_by_hand(a, features, y, 0.5)[0]
    assert not np.allclose(a @ shares.entries, wrong, rtol=1e-3)


def test_the_residual_is_that_of_networks_the_sum_did_not_know(
    wholes: tuple[Any, Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, features, _, y = wholes
    y = y * np.random.default_rng(1).normal(1, 0.05, len(y))
    monkeypatch.setattr("oneshot.regression.ridge.RIDGES", [0.1])
    monkeypatch.setattr("oneshot.regression.ridge.HUBER", 1e9)
    errors = []
    for n in range(len(y)):
        rest = np.arange(len(y)) != n
        # the scale of the penalty is part of the model: it stays that of all networks
        scale = (y.mean() / a.sum(1).mean()) / (y[rest].mean() / a[rest].sum(1).mean())
        entries, fixed = ridge_by_hand(a[rest], features, y[rest], 0.1 / scale)
        errors.append((a[n] @ entries + fixed) / y[n] - 1)
    shares = fit_shares(a, features, y)
    assert shares.residual == pytest.approx(float(np.sqrt(np.mean(np.square(errors)))), rel=0.01)
    inside = float(np.std((a @ shares.entries + shares.fixed) / y - 1))
    assert inside < 0.97 * shares.residual  # the error on what was fitted is told apart


def test_a_few_bursts_of_load_do_not_matter(wholes: tuple[Any, Any, Any, Any]) -> None:
    a, features, _, y = wholes
    measured = y * np.random.default_rng(1).normal(1, 0.01, len(y))
    measured[::12] *= 1.5
    shares = fit_shares(a, features, measured)
    ours = np.abs((a @ shares.entries + shares.fixed) / y - 1).mean()
    naive = np.linalg.lstsq(np.hstack([a, np.ones((len(y), 1))]), measured, rcond=None)[0]
    theirs = np.abs((a @ naive[:-1] + naive[-1]) / y - 1).mean()
    assert ours < 0.015 < 0.03 < theirs


def test_standard_errors_cover_the_truth(wholes: tuple[Any, Any, Any, Any]) -> None:
    a, features, parts, y = wholes
    shares = fit_shares(a, features, y * np.random.default_rng(1).normal(1, 0.02, len(y)))
    deviation = np.abs(shares.entries - parts) / shares.errors
    assert np.mean(deviation < 2) > 0.5 and deviation.max() < 6


def test_fewer_networks_than_unknowns_lean_on_what_the_work_suggests(wholes: tuple[Any, Any, Any, Any]) -> None:
    a, features, _, y = wholes
    shares = fit_shares(a[:16], features, y[:16])
    error = np.abs((a[16:] @ shares.entries + shares.fixed) / y[16:] - 1).mean()
    assert error < 0.06


@pytest.mark.parametrize(
    ("make", "unknowns"),
    [
        # 12 different layers of 9 blocks
        pytest.param(lambda: FBNetSupernet(width=0.25, num_classes=10, image_size=32), 108, id="fbnet"),
        pytest.param(lambda: NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8), 5, id="nasbench201"),
        # 3 operations in each of 4 blocks of different inputs, and wires, each for itself
        pytest.param(lambda: NASBench1Shot1Supernet(channels=4, cells_per_stage=1, image_size=8), 22, id="1shot1"),
        pytest.param(lambda: RecurrentSupernet(num_classes=50, size=8), 5, id="recurrent"),
        pytest.param(ToySupernet, 3 + 3 + 2, id="toy"),
    ],
)
def test_the_same_candidate_in_the_same_place_is_one_unknown(
    make: Callable[[], OperationSupernet], unknowns: int
) -> None:
    supernet = make()
    places = Places.of(supernet)
    assert len(places.names) == len(places.features) == unknowns
    genes = supernet.space.sample_matrix(3, 0)
    for row in genes:
        picked = sum(
            pick != "none" or "none" in choice.candidates
            for choice in supernet.space.choices
            for pick in supernet.space.decode(row[None])[0][choice.name]
        )
        assert places.occurrences(row).sum() == len(places.of_genes(row)) == picked


def test_the_work_of_a_candidate_is_what_it_is() -> None:
    places = Places.of(ToySupernet())
    macs = {name: work for name, work in zip(places.names, places.features[:, 0], strict=True)}
    assert macs["three in row 0 of 'layers'"] == pytest.approx(9 * macs["one in row 0 of 'layers'"])
    assert macs["one in row 2 of 'layers'"] == pytest.approx(4 * macs["one in row 0 of 'layers'"])
    assert not places.features[places.names.index("skip in row 0 of 'layers'")].any()
