"""NSGA-II's order of a population (Deb et al., IEEE TEC 6(2), 2002): by domination, then by crowding."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import Floats

from .pareto import matrix_of, non_dominated

Rows = npt.NDArray[np.int64]


def crowding_distance(values: npt.ArrayLike) -> Floats:
    """How far apart the neighbours of every row are, over all objectives (section III-B).

    Args:
        values: One front, ``[N, M]``, finite.

    Returns:
        ``[N]``: the sum over the objectives of the distance between the next row below and above, as a share of the
        front's range; infinite for the ends of the front.
    """
    y = matrix_of(values)
    distance = np.zeros(len(y))
    for column in y.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        span = ordered[-1] - ordered[0] if len(y) else 0.0
        if span > 0:  # an objective in which all are equal says nothing
            distance[order[1:-1]] += (ordered[2:] - ordered[:-2]) / span
            distance[order[[0, -1]]] = np.inf
    return distance if len(y) > 2 else np.full(len(y), np.inf)


def ranks(values: npt.ArrayLike, least: int | None = None) -> Rows:
    """Number of the front of every row: 0 is what no row dominates, 1 what only rows of front 0 dominate, and so on.

    Args:
        values: ``[N, M]``, finite.
        least: Rows that are needed: fronts after the one with which there are so many stay unsorted.

    Returns:
        ``[N]``; N for rows that stay unsorted.
    """
    y = matrix_of(values)
    unique, inverse = np.unique(y, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    if y.shape[1] == 1:
        return inverse.astype(np.int64)
    if y.shape[1] == 2:
        return _ranks_of_two(unique)[inverse]
    rank, left, number = np.full(len(y), len(y)), np.arange(len(y)), 0
    while len(left) and len(y) - len(left) < (len(y) if least is None else least):
        mask = non_dominated(y[left])
        rank[left[mask]] = number
        left, number = left[~mask], number + 1
    return rank


def _ranks_of_two(ordered: Floats) -> Rows:
    """Of distinct rows with two objectives in lexicographic order, each of which joins the first front that it can.

    In that order a front dominates a row if its last second objective is not larger, and these last ones grow from
    front to front (Jensen, IEEE TEC 7(5), 2003).
    """
    last: list[float] = []
    rank = np.empty(len(ordered), dtype=np.int64)
    for row, value in enumerate(ordered[:, 1].tolist()):
        front = rank[row] = bisect_right(last, value)
        last[front : front + 1] = [value]
    return rank


def by_rank_and_crowding(values: npt.ArrayLike) -> Rows:
    """Sort rows of ``[N, M]`` as NSGA-II does: by front, and within a front by falling crowding distance.

    Rows that are not finite are left out.
    """
    y = matrix_of(values)
    rows = np.flatnonzero(np.isfinite(y).all(1))
    rank = ranks(y[rows])
    return rows[np.lexsort((-_crowding_within(y[rows], rank), rank))].astype(np.int64)


def _crowding_within(values: Floats, rank: Rows) -> Floats:
    distance = np.zeros(len(values))
    for number in np.unique(rank[rank < len(values)]):
        front = np.flatnonzero(rank == number)
        distance[front] = crowding_distance(values[front])
    return distance


def violation_of(excess: Floats) -> Floats:
    """Sum of what every row has above the bounds, ``[N, K] -> [N]``; 0 where it keeps all of them."""
    return np.asarray(np.maximum(excess, 0.0).sum(1))


class NSGA2:
    """Survivors of a generation by constrained domination, rank and crowding (sections III-C and VI).

    With one objective this is the elitist genetic algorithm: by violation, then by value.
    """

    def survive(self, values: Floats, excess: Floats, n: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Choose survivors.

        Args:
            values: Objectives of parents and children, ``[N, M]``, minimised.
            excess: What they have above their bounds, ``[N, K]``; feasible where none is above 0.
            n: How many survive.
            rng: Not used: equals keep their order.

        Returns:
            Rows, ``[n]`` (fewer where there are not as many), and the place of each in a tournament, smaller is better.
        """
        violation = violation_of(excess)
        feasible = np.flatnonzero(violation == 0)
        rank, crowding = np.zeros(len(values), dtype=np.int64), np.zeros(len(values))
        rank[feasible] = ranks(values[feasible], n)
        if values.shape[1] > 1:
            crowding[feasible] = _crowding_within(values[feasible], rank[feasible])
        kept = np.lexsort((-crowding, rank, violation))[:n]
        order = np.column_stack([violation, rank, -crowding])[kept]
        return kept, np.append(0, (order[1:] != order[:-1]).any(1).cumsum())[: len(kept)]
