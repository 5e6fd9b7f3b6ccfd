"""NSGA-II and NSGA-III against pymoo's, which is used nowhere else, and against what the papers say."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pymoo.algorithms.moo.nsga3 import HyperplaneNormalization, ReferenceDirectionSurvival, associate_to_niches
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from pymoo.util.ref_dirs import get_reference_directions

from oneshot.fronts.nsga2 import NSGA2, by_rank_and_crowding, crowding_distance, ranks
from oneshot.fronts.nsga3 import NSGA3, reference_directions

RNG = np.random.default_rng(0)


def curved(n: int, objectives: int, seed: int = 0) -> np.ndarray:
    """Values near a sphere around the ideal point, some of them dominated: several fronts, the first one large."""
    rng = np.random.default_rng(seed)
    rows = np.abs(rng.normal(size=(n, objectives)))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) * (1 + rng.exponential(0.1, (n, 1)))


def unbounded(values: np.ndarray) -> np.ndarray:
    return np.zeros((len(values), 0))


# NSGA-II


@pytest.mark.parametrize("objectives", [1, 2, 3, 5])
@pytest.mark.parametrize("ties", [False, True])
def test_ranks_are_those_of_pymoo(objectives: int, ties: bool) -> None:
    values = RNG.random((200, objectives))
    values = values.round(1) if ties else values
    fronts = NonDominatedSorting().do(values)
    for number, front in enumerate(fronts):
        assert np.flatnonzero(ranks(values) == number).tolist() == sorted(front)
    few = ranks(values, 20)
    known = few < len(values)
    assert known.sum() >= 20 and np.array_equal(few[known], ranks(values)[known])


@pytest.mark.parametrize("objectives", [1, 2, 3, 5])
def test_the_crowding_distance_is_that_of_pymoo(objectives: int) -> None:
    values = RNG.random((40, objectives)) * 10.0 ** np.arange(objectives)
    with np.errstate(invalid="ignore"):
        theirs = calc_crowding_distance(values) * objectives  # the paper's equation has no mean over objectives
    np.testing.assert_allclose(crowding_distance(values), theirs, rtol=1e-12)
    if objectives > 1:  # without the range of each objective the largest unit decides
        ordered = np.sort(values, axis=0)
        gaps = np.abs(values[:, None] - ordered[None]).sum(-1)
        assert not np.allclose(np.sort(gaps, axis=1)[:, 1], theirs)


def test_the_crowding_distance_by_hand() -> None:
    front = [[0.0, 10.0], [1.0, 6.0], [5.0, 5.0], [10.0, 0.0]]
    assert crowding_distance(front).tolist() == [np.inf, 5 / 10 + 5 / 10, 9 / 10 + 6 / 10, np.inf]
    assert crowding_distance(front[:2]).tolist() == [np.inf, np.inf]
    assert crowding_distance(np.empty((0, 3))).tolist() == []
    level = [[0.0, 1.0], [1.0, 1.0], [3.0, 1.0]]  # the second objective says nothing
    assert crowding_distance(level).tolist() == [np.inf, 1.0, np.inf]


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("bounds", [0, 2])
def test_survivors_of_nsga2_are_those_of_pymoo(objectives: int, bounds: int) -> None:
    values = curved(100, objectives)  # the last place goes to a row with neighbours: ends of a front are equals
    excess = np.random.default_rng(1).normal(0.3, 1.0, (100, bounds))
    ours, places = NSGA2().survive(values, excess, 40, RNG)
    population = Population.new("X", np.arange(100)[:, None], "F", values, "G", excess, "CV", violations(excess))
    problem = Problem(n_var=1, n_obj=objectives, n_ieq_constr=bounds)
    theirs = RankAndCrowding().do(problem, population, n_survive=40, random_state=np.random.default_rng(0))
    assert sorted(ours) == sorted(theirs.get("X")[:, 0].tolist())
    best = NSGA2().survive(values, unbounded(values), 40, RNG)[0]
    assert (sorted(best) == sorted(ours)) == (bounds == 0)  # bounds matter
    assert places[0] == 0 and (np.diff(places) >= 0).all()


def violations(excess: np.ndarray) -> np.ndarray:
    return np.maximum(excess, 0).sum(1, keepdims=True)


def test_of_one_objective_the_smallest_survive_and_equals_have_one_place() -> None:
    values = np.array([[3.0], [1.0], [2.0], [1.0], [0.0], [-5.0]])
    excess = np.array([[0.0], [-1.0], [0.0], [0.0], [0.2], [0.1]])
    kept, places = NSGA2().survive(values, excess, 5, RNG)
    assert kept.tolist() == [1, 3, 2, 0, 5] and places.tolist() == [0, 0, 1, 2, 3]


def test_the_order_of_all_is_by_front_and_then_by_crowding() -> None:
    values = curved(60, 2)
    order = by_rank_and_crowding(np.concatenate([values, [[np.nan, 0.0]]]))
    assert sorted(order) == list(range(60))
    rank = ranks(values)[order]
    assert (np.diff(rank) >= 0).all()
    for number in range(rank.max() + 1):
        front = order[rank == number]
        distance = dict(zip(np.flatnonzero(ranks(values) == number), crowding_distance(values[np.sort(front)])))
        assert [distance[row] for row in front] == sorted(distance.values(), reverse=True)


# NSGA-III


@pytest.mark.parametrize("objectives", [2, 3, 5])
@pytest.mark.parametrize("divisions", [2, 3, 6])
def test_directions_are_those_of_das_and_dennis(objectives: int, divisions: int) -> None:
    ours = reference_directions(objectives, divisions)
    theirs = get_reference_directions("das-dennis", objectives, n_partitions=divisions)
    assert len(ours) == math.comb(divisions + objectives - 1, objectives - 1)
    np.testing.assert_allclose(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)], atol=1e-12)


def both(objectives: int, population: int) -> tuple[NSGA3, ReferenceDirectionSurvival]:
    ours = NSGA3(objectives, population)
    return ours, ReferenceDirectionSurvival(ours.directions.copy())


def of_one_range(n: int, objectives: int, seed: int = 0) -> np.ndarray:
    """Values from 0 to 2000 in every objective.

    pymoo compares objectives before they are scaled, and takes less than 0.001 for nothing, in whatever unit.
    """
    corners = 1.9 * (1 - np.eye(objectives))
    values = [2 * np.ones((1, objectives)), corners, curved(n - objectives - 1, objectives, seed)]
    return 1000 * np.minimum(np.concatenate(values), 2)


@pytest.mark.parametrize("objectives", [3, 4, 5])
def test_the_scale_of_nsga3_is_that_of_pymoo_over_generations(objectives: int) -> None:
    ours, theirs = NSGA3(objectives, 60), HyperplaneNormalization(objectives)
    planes = 0
    for generation in range(6):
        values = of_one_range(80, objectives, generation)
        first = ranks(values) == 0
        low, span = ours._scale(values, values[first])
        theirs.update(values, nds=np.flatnonzero(first))
        np.testing.assert_allclose(low, theirs.ideal_point)
        np.testing.assert_allclose(low + span, theirs.nadir_point, rtol=1e-6)
        planes += not np.allclose(low + span, values[first].max(0))
    assert planes > 0  # the plane decided at least once, not the worst of the front


@pytest.mark.parametrize("objectives", [3, 4, 5])
def test_survivors_of_nsga3_are_spread_over_directions_as_those_of_pymoo(objectives: int) -> None:
    """Chance chooses among equals, so fronts before the last and numbers in each niche are compared."""
    ours = NSGA3(objectives, 40)
    theirs = ReferenceDirectionSurvival(ours.directions.copy())
    values = of_one_range(100, objectives)
    kept, places = ours.survive(values, unbounded(values), 40, np.random.default_rng(0))
    population = Population.new(X=np.arange(100)[:, None], F=values, G=unbounded(values), CV=np.zeros((100, 1)))
    problem = Problem(n_var=1, n_obj=objectives)
    chosen = theirs.do(problem, population, n_survive=40, random_state=np.random.default_rng(0)).get("X")[:, 0]
    assert len(set(kept)) == 40 and not places.any()
    rank = ranks(values)
    last = np.sort(rank)[39]
    assert set(kept[rank[kept] < last]) == set(chosen[rank[chosen] < last])
    low, high = theirs.norm.ideal_point, theirs.norm.nadir_point
    niche, distance, _ = associate_to_niches(values, ours.directions, low, high)
    found = ours._nearest((values - low) / (high - low))
    assert np.array_equal(found[0], niche)
    np.testing.assert_allclose(found[1], distance, atol=1e-7)

    def in_niches(rows: np.ndarray) -> list[int]:
        return sorted(Counter(niche[rows].tolist()).values())

    assert in_niches(kept) == in_niches(chosen)
    assert in_niches(by_rank_and_crowding(values)[:40]) != in_niches(kept)  # NSGA-II chooses others


def test_units_of_objectives_do_not_matter() -> None:
    values, units = curved(100, 3), np.array([1e-6, 1.0, 1e7])
    first, second = NSGA3(3, 40), NSGA3(3, 40)
    for generation in range(3):
        rows = curved(100, 3, generation)
        a, b = (
            selection.survive(rows * unit, unbounded(values), 40, np.random.default_rng(5))[0]
            for selection, unit in ((first, np.ones(3)), (second, units))
        )
        assert np.array_equal(a, b)


def test_one_objective_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two objectives; got 1"):
        NSGA3(1, 10)


def test_nsga3_takes_what_keeps_the_bounds_and_then_what_breaks_them_least() -> None:
    values, excess = curved(30, 3), np.linspace(-1.0, 1.9, 30)[:, None]
    kept, places = NSGA3(3, 20).survive(values, excess, 20, RNG)
    assert sorted(kept) == list(range(20))
    assert [places[kept.tolist().index(row)] for row in range(20)] == [0] * 11 + list(range(1, 10))
    kept, places = NSGA3(3, 20).survive(values, excess + 5, 20, RNG)
    assert kept.tolist() == list(range(20)) and places.tolist() == list(range(20))


@pytest.mark.parametrize(
    "values", [np.ones((12, 3)), np.eye(3)[[0, 1, 2] * 4], np.linspace(0, 1, 12)[:, None] ** [1, 0, 0]]
)
def test_values_without_a_range_in_some_objective_are_no_failure(values: np.ndarray) -> None:
    with np.errstate(all="raise"):
        kept, _ = NSGA3(3, 6).survive(values, unbounded(values), 6, np.random.default_rng(0))
    assert len(set(kept)) == 6


def test_chance_decides_among_equals_and_nothing_else() -> None:
    values = curved(100, 3)
    choices: list[Any] = [
        NSGA3(3, 20).survive(values, unbounded(values), 20, np.random.default_rng(s))[0] for s in (0, 0, 1)
    ]
    assert np.array_equal(choices[0], choices[1]) and not np.array_equal(choices[0], choices[2])


def test_a_lonely_direction_gets_the_nearest_row_and_a_served_one_any() -> None:
    """Directions are the axes and the middles between them; the axes are served by the first front."""
    behind = np.array([[1.3, 0.01, 0.02], [1.2, 0.1, 0.05]])  # beyond the first axis, the first of them nearer
    beside = np.array([[0.50, 0.51, 0.0], [0.40, 0.62, 0.0]])  # near a middle, the first of them nearer
    taken: dict[str, set[int]] = {"served": set(), "lonely": set()}
    for seed in range(30):
        for name, rows in (("served", behind), ("lonely", beside)):
            values = np.concatenate([np.eye(3), rows])
            kept, _ = NSGA3(3, 6).survive(values, unbounded(values), 4, np.random.default_rng(seed))
            assert set(kept) >= {0, 1, 2}
            taken[name] |= set(kept.tolist()) - {0, 1, 2}
    assert taken == {"served": {3, 4}, "lonely": {3}}
