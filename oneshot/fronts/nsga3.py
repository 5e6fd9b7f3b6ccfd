"""NSGA-III's survivors (Deb and Jain, IEEE TEC 18(4), 2014): as many as possible near each of many directions."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from oneshot.supernets.space import Floats

from .nsga2 import Rows, ranks, violation_of

NEXT_TO = 1e-6  # weight of the other objectives in the scalarisation that finds extreme points (equation 4)


def reference_directions(objectives: int, divisions: int) -> Floats:
    """All ways to give ``divisions`` parts to the objectives (Das and Dennis, SIAM J. Optim. 8(3), 1998).

    Returns:
        ``[C(divisions + M - 1, M - 1), M]``; every row is positive and has the sum 1.
    """
    places = divisions + objectives - 1
    bars = np.array(list(combinations(range(places), objectives - 1))).reshape(-1, objectives - 1)
    ends = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, places)))
    return (np.diff(ends, axis=1) - 1) / divisions


class NSGA3:
    """Survivors of a generation by constrained domination, and by the directions that few survivors are near.

    Objectives are scaled anew in every generation, by the best values so far and by where a plane through the extreme
    points cuts their axes, so their units do not matter (algorithms 2 to 4).

    Args:
        objectives: How many, two at least.
        population: Survivors of a generation. There are as many directions as it can serve.

    Raises:
        ValueError: If there are fewer than two objectives.
    """

    def __init__(self, objectives: int, population: int) -> None:
        if objectives < 2:
            raise ValueError(f"NSGA-III must have at least two objectives; got {objectives}. Take NSGA2.")
        divisions = 2
        while math.comb(divisions + objectives, objectives - 1) <= population:
            divisions += 1
        self.directions = reference_directions(objectives, divisions)
        self.ideal = np.full(objectives, np.inf)
        self.worst = np.full(objectives, -np.inf)
        self.extreme = np.empty((0, objectives))

    def survive(self, values: Floats, excess: Floats, n: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Choose survivors.

        Args:
            values: Objectives of parents and children, ``[N, M]``, minimised.
            excess: What they have above their bounds, ``[N, K]``; feasible where none is above 0.
            n: How many survive.
            rng: Draws among equals.

        Returns:
            Rows, ``[n]`` (fewer where there are not as many), and the place of each in a tournament: 0 for all that
            keep the bounds, the others by what they have above them.
        """
        violation = violation_of(excess)
        feasible = np.flatnonzero(violation == 0)
        kept = feasible[self._niched(values[feasible], n, rng)] if len(feasible) else feasible
        others = np.flatnonzero(violation > 0)
        others = others[np.argsort(violation[others], kind="stable")][: n - len(kept)]
        kept = np.concatenate([kept, others])
        return kept, np.unique(violation[kept], return_inverse=True)[1].reshape(-1)

    def _niched(self, values: Floats, n: int, rng: np.random.Generator) -> Rows:
        """Whole fronts, as far as there is room for them, and from the next one what is near lonely directions."""
        rank = ranks(values, n)
        low, span = self._scale(values, values[rank == 0])
        last = int(np.sort(rank)[min(n, len(rank)) - 1])
        sure, maybe = np.flatnonzero(rank < last), np.flatnonzero(rank == last)
        if len(sure) + len(maybe) <= n:
            return np.concatenate([sure, maybe])
        niche, distance = self._nearest((values - low) / span)
        count = np.bincount(niche[sure], minlength=len(self.directions))
        waiting: dict[int, list[int]] = {}
        for row in rng.permutation(maybe).tolist():
            waiting.setdefault(int(niche[row]), []).append(row)
        taken: list[int] = []
        while len(taken) < n - len(sure):
            fewest = min(count[place] for place in waiting)
            lonely = rng.permutation([place for place in waiting if count[place] == fewest])
            for place in lonely[: n - len(sure) - len(taken)].tolist():
                rows = waiting[place]
                taken.append(rows.pop(int(np.argmin(distance[rows])) if count[place] == 0 else -1))
                count[place] += 1
                if not rows:
                    del waiting[place]
        return np.concatenate([sure, np.array(taken, dtype=np.int64)])

    def _scale(self, values: Floats, front: Floats) -> tuple[Floats, Floats]:
        """What is subtracted from all values, and what they are divided by (algorithm 2)."""
        self.ideal = np.minimum(self.ideal, values.min(0))
        self.worst = np.maximum(self.worst, values.max(0))
        candidates = np.concatenate([self.extreme, front])
        objectives = len(self.ideal)
        size = np.where(self.worst > self.ideal, self.worst - self.ideal, 1.0)
        along = (candidates - self.ideal) / size  # so that no unit is small beside NEXT_TO
        axes = np.where(np.eye(objectives, dtype=bool), 1.0, NEXT_TO)
        rows = (along[None] / axes[:, None]).max(2).argmin(1)
        self.extreme = candidates[rows]
        cuts = _cuts(along[rows])
        span = front.max(0) - self.ideal if cuts is None else np.minimum(cuts * size, self.worst - self.ideal)
        flat = span <= NEXT_TO * size
        span[flat] = (values.max(0) - self.ideal)[flat]
        return self.ideal, np.where(span > 0, span, 1.0)

    def _nearest(self, scaled: Floats) -> tuple[Rows, Floats]:
        """The nearest direction of every row, and its perpendicular distance (algorithm 3)."""
        unit = self.directions / np.linalg.norm(self.directions, axis=1, keepdims=True)
        along = scaled @ unit.T
        square = np.maximum((scaled**2).sum(1, keepdims=True) - along**2, 0.0)
        niche = square.argmin(1)
        return niche, np.sqrt(square[np.arange(len(scaled)), niche])


def _cuts(points: Floats) -> Floats | None:
    """Where the plane through M points cuts the M axes; None if it does not cut all of them beyond 0."""
    try:
        plane = np.linalg.solve(points, np.ones(len(points)))
    except np.linalg.LinAlgError:
        return None
    if not np.allclose(points @ plane, 1.0) or (plane <= 0).any() or (plane >= 1 / NEXT_TO).any():
        return None
    return np.asarray(1 / plane)
