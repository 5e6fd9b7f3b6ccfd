"""Fronts, hypervolume and distances, against other ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest

from oneshot.fronts import pareto as fronts
from oneshot.fronts.nsga2 import by_rank_and_crowding
from oneshot.fronts.pareto import hypervolume, igd_plus, non_dominated, reference_point

RNG = np.random.default_rng(0)


def dominated_by_definition(values: np.ndarray) -> np.ndarray:
    return np.array([any((b <= a).all() and (b < a).any() for b in values) for a in values])


@pytest.mark.parametrize("objectives", [1, 2, 3, 5])
@pytest.mark.parametrize("ties", [False, True])
def test_the_front_is_what_the_definition_says(objectives: int, ties: bool) -> None:
    values = RNG.random((600, objectives))
    values = values.round(1) if ties else values
    assert np.array_equal(non_dominated(values), ~dominated_by_definition(values))


def test_rows_that_are_not_finite_are_in_no_front_and_dominate_nothing() -> None:
    values = np.array([[1.0, 2.0], [np.nan, 0.0], [0.0, np.inf], [2.0, 1.0], [-np.inf, 5.0]])
    assert non_dominated(values).tolist() == [True, False, False, True, False]
    assert non_dominated(np.empty((0, 2))).tolist() == []
    assert non_dominated(np.full((3, 2), np.nan)).tolist() == [False] * 3


def test_the_front_of_ten_thousand_is_found_in_a_moment() -> None:
    values = RNG.random((10_000, 3))
    front = non_dominated(values)
    assert 20 < front.sum() < 500


def steps(values: np.ndarray, reference: np.ndarray) -> float:
    """Area of a union of boxes on the grid of all coordinates; no notion of dominance."""
    x, y = (np.unique(np.append(np.minimum(values[:, m], reference[m]), reference[m])) for m in (0, 1))
    area = 0.0
    for i in range(len(x) - 1):
        for j in range(len(y) - 1):
            covered = ((values[:, 0] <= x[i]) & (values[:, 1] <= y[j])).any()
            area += (x[i + 1] - x[i]) * (y[j + 1] - y[j]) * covered
    return area


def test_two_objectives_are_as_on_a_grid() -> None:
    values, reference = RNG.random((40, 2)) * 1.3, np.array([1.0, 1.1])
    assert hypervolume(values, reference) == pytest.approx(steps(values, reference), rel=1e-12)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_it_is_the_share_of_random_points_that_the_front_dominates(objectives: int) -> None:
    values, reference = RNG.random((25, objectives)) * 1.2, np.ones(objectives)
    points = RNG.random((200_000, objectives))
    hit = np.zeros(len(points), dtype=bool)
    for row in values:
        hit |= (row <= points).all(1)
    share, exact = hit.mean(), hypervolume(values, reference)
    assert exact == pytest.approx(share, abs=5 * np.sqrt(0.25 / len(points)))
    assert abs(hypervolume(values[1:] + 0.05, reference) - share) > 0.01  # the test can tell another front apart


def sphere(n: int, objectives: int) -> np.ndarray:
    """Rows of which none dominates another."""
    rows = np.abs(np.random.default_rng(0).normal(size=(n, objectives)))
    return 1 - rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("objectives", [2, 4, 5])
def test_a_front_that_grows_never_loses_volume(objectives: int) -> None:
    rows = sphere(330, objectives)
    volumes = [hypervolume(rows[:n], np.ones(objectives)) for n in (300, 310, 315, 316, 317, 318, 320, 330)]
    assert np.all(np.diff(volumes) > 0)


def test_from_seven_objectives_on_it_is_estimated() -> None:
    front, reference = np.unique(sphere(40, 5), axis=0), np.ones(5)
    exact, estimate = hypervolume(front, reference), fronts._estimate(front, reference)
    assert estimate == pytest.approx(exact, rel=0.02) and estimate != exact
    assert (reference - front).prod(1).sum() > 1.5 * exact  # the sum of the boxes alone would not do
    many = sphere(300, 12)  # the exact volume of this front would take hours
    assert 0 < hypervolume(many, np.ones(12)) == hypervolume(many, np.ones(12)) < 1


def test_what_the_reference_point_excludes_adds_nothing() -> None:
    assert hypervolume([[0.5, 1.5], [np.nan, 0.0]], [1.0, 1.0]) == 0.0
    assert hypervolume(np.empty((0, 2)), [1.0, 1.0]) == 0.0
    many, outside = sphere(50, 8), np.array([[1.5, 1.5, *[0.1] * 6]])  # beyond in two of eight, so its box has a volume
    assert hypervolume(np.concatenate([many, outside]), np.ones(8)) == hypervolume(many, np.ones(8))
    assert hypervolume(outside, np.ones(8)) == 0.0
    assert hypervolume([[0.5, 0.5], [0.5, 0.5], [0.6, 0.6]], [1.0, 1.0]) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="one value for each of 2"):
        hypervolume([[1.0, 2.0]], [1.0])


def test_rows_are_ordered_by_front_and_then_by_how_alone_they_are() -> None:
    front = [[0.0, 10.0], [1.0, 8.9], [2.0, 8.0], [6.0, 4.0], [10.0, 0.0]]
    values = np.array([*front, [np.nan, 0.0], [7.0, 5.0], [8.0, 6.0]])
    order = by_rank_and_crowding(values)
    assert set(order[:2]) == {0, 4} and order[2:].tolist() == [3, 2, 1, 6, 7]
    assert by_rank_and_crowding(np.empty((0, 2))).tolist() == []


def test_the_reference_point_is_a_tenth_of_the_range_beyond_the_worst() -> None:
    assert reference_point([[0.0, 5.0], [10.0, 5.0], [np.nan, 99.0]]) == pytest.approx([11.0, 5.5])
    with pytest.raises(ValueError, match="all evaluations failed"):
        reference_point([[np.nan, 1.0]])


def test_the_distance_counts_only_what_falls_short() -> None:
    front = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert igd_plus(front, front) == 0.0
    assert igd_plus([[-1.0, -1.0]], front) == 0.0
    # (0.5, 0.5) is short by 0.5 in one objective of each point; plain IGD would say sqrt(0.5)
    assert igd_plus([[0.5, 0.5]], front) == pytest.approx(0.5)
    assert igd_plus([[0.0, 1.0], [np.nan, 0.0]], front) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="needs values and a front"):
        igd_plus([[np.nan, 0.0]], front)
