"""Gaps are filled, in the same way every time."""

from __future__ import annotations

import numpy as np
import pytest

from oneshot.fronts.pareto import hypervolume
from oneshot.nat import diverse_subset, largest_gain
from oneshot.nat.selection import spread_over, spread_sample


def test_the_widest_gap_of_the_front_is_filled_first() -> None:
    kept = [[0.0, 1.0], [0.1, 0.9], [1.0, 0.0]]
    candidates = [[0.05, 0.95], [0.5, 0.5], [0.9, 0.1], [0.75, 0.25]]
    assert diverse_subset(candidates, 2, kept).tolist() == [1, 3]


def test_units_do_not_matter() -> None:
    values, kept = np.random.default_rng(0).random((50, 3)), np.random.default_rng(1).random((5, 3))
    scale = np.array([1.0, 1e6, 1e-3])
    assert np.array_equal(diverse_subset(values, 8, kept), diverse_subset(values * scale, 8, kept * scale))


def test_each_is_the_farthest_from_all_before() -> None:
    values = np.random.default_rng(0).random((60, 2))
    values[:2] = [[0, 0], [1, 1]]  # the scale is 1
    taken = diverse_subset(values, 10, values[:2]).tolist()
    before = values[:2]
    for row in taken:
        distances = ((values[:, None] - before[None]) ** 2).sum(-1).min(1)
        assert distances[row] == pytest.approx(distances.max())
        before = np.concatenate([before, values[[row]]])


def test_without_anything_kept_it_begins_with_the_best() -> None:
    assert diverse_subset([[2.0, 0.0], [1.0, 5.0], [1.5, 1.0]], 2).tolist() == [1, 0]


def test_there_are_never_more_than_there_are_nor_one_twice() -> None:
    assert sorted(diverse_subset(np.ones((3, 2)), 8, np.ones((1, 2))).tolist()) == [0, 1, 2]
    assert diverse_subset(np.empty((0, 2)), 8).tolist() == []
    with pytest.raises(ValueError, match="as many objectives"):
        diverse_subset(np.ones((3, 2)), 8, np.ones((1, 3)))


def test_what_adds_most_is_taken_first_as_exact_volumes_say() -> None:
    rng = np.random.default_rng(0)
    kept = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    values = rng.random((30, 3))
    taken = largest_gain(values, 5, kept, points=50_000).tolist()
    reference, before = np.full(3, 1.1), kept
    for row in taken:
        gains = np.array([hypervolume(np.concatenate([before, [v]]), reference) for v in values])
        gains -= hypervolume(before, reference)
        assert gains[row] > 0.95 * gains.max()
        before = np.concatenate([before, values[[row]]])
    assert taken != diverse_subset(values, 5, kept).tolist()


def test_what_is_dominated_is_taken_last_but_taken() -> None:
    kept = [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    candidates = [[0.9, 0.9], [0.7, 0.6], [0.2, 0.7]]
    assert largest_gain(candidates, 1, kept).tolist() == [2]
    assert sorted(largest_gain(candidates, 8, kept).tolist()) == [0, 1, 2]
    assert largest_gain(candidates, 2, np.empty((0, 2))).tolist() == diverse_subset(candidates, 2).tolist()
    assert largest_gain(np.empty((0, 2)), 2, kept).tolist() == []


def test_units_of_gains_do_not_matter() -> None:
    values, kept = np.random.default_rng(0).random((50, 3)), np.random.default_rng(1).random((5, 3))
    scale = np.array([1.0, 2.0**20, 2.0**-10])
    assert np.array_equal(largest_gain(values, 8, kept), largest_gain(values * scale, 8, kept * scale))


def test_a_spread_sample_differs_in_more_genes_than_a_random_one() -> None:
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 4, (500, 10))

    def nearest(rows: np.ndarray) -> float:
        distance = (rows[:, None] != rows[None]).sum(-1) + 99 * np.eye(len(rows))
        return float(distance.min(1).mean())

    chosen = spread_sample(pool, 30, pool[:2])
    assert nearest(pool[chosen]) > nearest(pool[:30]) + 1
    assert len(set(chosen.tolist())) == 30


def test_a_sample_spread_over_a_number_has_all_of_its_range() -> None:
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 4, (400, 10))
    places = rng.normal(size=400)  # most in the middle
    chosen = spread_over(places, pool, 20, pool[:0])
    assert len(set(chosen.tolist())) == 20
    gaps = np.diff(np.sort(places[chosen]))
    drawn = np.diff(np.sort(places[:20]))
    assert np.ptp(places[chosen]) > 0.9 * np.ptp(places) and gaps.max() < drawn.max()
    # Where one part has no candidates, others give more; all the same number, and genes alone decide.
    far = spread_over(np.where(np.arange(400) < 200, 0.0, 1.0), pool, 20, pool[:0])
    assert sorted((far < 200).tolist()) == [False] * 10 + [True] * 10
    same = spread_over(np.zeros(400), pool, 20, pool[:2])
    assert same.tolist() == spread_sample(pool, 20, pool[:2]).tolist()
    assert spread_over(places[:3], pool[:3], 20, pool[:0]).shape == (3,)
    assert spread_over(places[:0], pool[:0], 5, pool[:2]).shape == (0,)
