"""Which network of a front is taken, whatever its units are."""

from __future__ import annotations

import numpy as np
import pytest

from oneshot.fronts.pick import at_most, knee, near

NAMES = ("error", "MACs")
FRONT = np.array([[0.05, 9e8], [0.06, 3e8], [0.10, 2.5e8], [0.20, 1e8], [0.30, 9e7]])


def farthest_before_the_ends(values: np.ndarray) -> int:
    """Das' rule for two objectives by geometry: distance from the line through the best of each, ranges scaled to 1."""
    scaled = (values - values.min(0)) / (values.max(0) - values.min(0))
    (x1, y1), (x2, y2) = scaled[scaled[:, 0].argmin()], scaled[scaled[:, 1].argmin()]
    distance = ((x2 - x1) * (y1 - scaled[:, 1]) - (x1 - scaled[:, 0]) * (y2 - y1)) / np.hypot(x2 - x1, y2 - y1)
    return int(np.argmax(distance))


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.0, 1e-6), (1e-6, 1.0), (100.0, 1e-9)])
def test_the_knee_is_the_same_in_all_units(scale: tuple[float, float]) -> None:
    assert knee(FRONT * scale) == farthest_before_the_ends(FRONT) == 1


@pytest.mark.parametrize("seed", range(10))
def test_the_knee_lies_farthest_before_the_line_through_the_ends(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.sort(rng.random(12))
    front = np.stack([x, np.sort(rng.random(12))[::-1] * 1e6], axis=1)
    assert knee(front) == farthest_before_the_ends(front)
    unscaled = int((front - front.min(0)).sum(1).argmin())
    assert unscaled == 11, "without scaling the network of least cost would win, whatever its error"


def test_the_knee_of_three_objectives_lies_farthest_before_the_plane_through_the_ends() -> None:
    ends = np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]) * [1, 1e6, 1e-3]
    middle = np.array([[0.5, 0.6, 0.7], [0.4, 0.5, 0.4], [0.8, 0.8, 0.1]]) * [1, 1e6, 1e-3]
    assert knee(np.concatenate([ends, middle])) == 4


def test_a_front_of_one_network_or_of_equal_costs_has_a_knee() -> None:
    assert knee(FRONT[:1]) == 0
    assert knee(np.array([[0.2, 5.0], [0.1, 5.0]])) == 1


def test_the_nearest_to_a_point_is_so_in_shares_of_the_ranges() -> None:
    assert near(NAMES, FRONT, {"error": 0.19, "MACs": 1.1e8}) == 3
    assert near(NAMES, FRONT * [1.0, 1e-8], {"error": 0.19, "MACs": 1.1}) == 3
    assert near(NAMES, FRONT, {"error": 0.21, "MACs": 2.5e8}) == 3, "far in MACs, but not in shares of their range"
    assert near(NAMES, FRONT, {"MACs": 2.6e8}) == 2
    with pytest.raises(ValueError, match="A point names some of the objectives error, MACs; got none"):
        near(NAMES, FRONT, {})


def test_the_best_that_keeps_every_bound_is_taken() -> None:
    assert at_most(NAMES, FRONT, {"MACs": 2.9e8}) == 2
    assert at_most(NAMES, FRONT, {"MACs": 3e8}) == 1, "a bound that is met exactly is kept"
    assert at_most(NAMES, FRONT, {"error": 0.25}) == 3, "the least of what has no bound"
    assert at_most(NAMES, FRONT, {"error": 0.15, "MACs": 5e8}) == 1, "where all have one, the least error"
    assert at_most(NAMES, FRONT, {"error": 0.15, "MACs": 5e8}, minimise="MACs") == 2
    both = np.array([[0.1, 9.0], [0.2, 5.0], [0.9, 1.0]])
    assert at_most(NAMES, both, {"error": 0.5, "MACs": 6.0}) == 1, "one bound of the two is not enough"
    with pytest.raises(ValueError, match=r"error <= 0.15 and MACs <= 2e\+08; the nearest has error 0.1, MACs 2.5e\+08"):
        at_most(NAMES, FRONT, {"error": 0.15, "MACs": 2e8})
    with pytest.raises(ValueError, match="The objectives of this front are error, MACs; got 'latency'"):
        at_most(NAMES, FRONT, {"latency": 1.0})
