"""Fronts, and numbers that say how good a front is. All objectives are minimised.

The reference point of a search is :func:`reference_point` of its initial sample, and stays where it is, so that the
hypervolumes of all iterations compare.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import Floats

BLOCK = 256  # rows compared at a time
EXACT = 6  # objectives up to which a hypervolume is exact, in a fraction of a second for hundreds of rows
POINTS = 50_000  # of an estimate


def matrix_of(values: npt.ArrayLike) -> Floats:
    """``values`` as a float64 matrix ``[N, M]``, if they are one."""
    y = np.asarray(values, np.float64)
    if y.ndim != 2 or not y.shape[1]:
        raise ValueError(f"Values of objectives are a matrix [N, M]; got shape {list(y.shape)}.")
    return y


def non_dominated(values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which rows no other row dominates; equal rows do not dominate each other.

    Args:
        values: ``[N, M]``. Rows that are not finite are dominated by definition, and dominate nothing.

    Returns:
        Mask, ``[N]``.
    """
    y = matrix_of(values)
    kept = np.zeros(len(y), dtype=bool)
    rows = np.flatnonzero(np.isfinite(y).all(1))
    if not len(rows):
        return kept
    # In lexicographic order a row can only be dominated by one before it.
    unique, inverse = np.unique(y[rows], axis=0, return_inverse=True)
    mask = _sweep(unique) if y.shape[1] <= 2 else _by_blocks(unique)
    kept[rows] = mask[inverse.reshape(-1)]
    return kept


def _sweep(ordered: Floats) -> npt.NDArray[np.bool_]:
    """Mask of the rows that no other dominates, of distinct rows in lexicographic order with one or two objectives."""
    last = ordered[:, -1]
    best = np.minimum.accumulate(last)
    return np.concatenate([[True], last[1:] < best[:-1]])


def _by_blocks(ordered: Floats) -> npt.NDArray[np.bool_]:
    kept = np.zeros(len(ordered), dtype=bool)
    front = ordered[:0]
    for start in range(0, len(ordered), BLOCK):
        block = ordered[start : start + BLOCK]
        against = np.concatenate([front, block])
        below = np.ones((len(block), len(against)), dtype=bool)
        for m in range(ordered.shape[1]):
            below &= against[None, :, m] <= block[:, None, m]
        below[np.arange(len(block)), len(front) + np.arange(len(block))] = False  # a row and itself
        mask = ~below.any(1)
        kept[start : start + BLOCK] = mask
        front = np.concatenate([front, block[mask]])
    return kept


def reference_point(values: npt.ArrayLike, margin: float = 0.1) -> Floats:
    """The worst value of every objective, plus a share of its range, so that the ends of a front have volume, too.

    Args:
        values: ``[N, M]``; rows that are not finite are left out.
        margin: Share of the range.

    Returns:
        ``[M]``.

    Raises:
        ValueError: If no row is finite.
    """
    y = matrix_of(values)
    y = y[np.isfinite(y).all(1)]
    if not len(y):
        raise ValueError("A reference point needs at least one row of finite values; all evaluations failed.")
    spread = y.max(0) - y.min(0)
    return np.asarray(y.max(0) + margin * np.where(spread > 0, spread, np.maximum(np.abs(y.max(0)), 1.0)))


def hypervolume(values: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Volume between a front and a reference point (Zitzler and Thiele, 1999).

    Args:
        values: ``[N, M]``; what is dominated, not finite, or not better than the reference in all objectives adds
            nothing.
        reference: ``[M]``.

    Returns:
        The volume, in units of the product of the objectives. Exact up to six objectives (of three and more by
        ``moocore``); of more, where that could take hours, an estimate, the same for the same front.
    """
    y, r = matrix_of(values), np.asarray(reference, np.float64)
    if r.shape != (y.shape[1],):
        raise ValueError(f"The reference point has one value for each of {y.shape[1]} objectives; got {list(r.shape)}.")
    y = y[np.isfinite(y).all(1) & (y < r).all(1)]
    front = np.unique(y[non_dominated(y)], axis=0)
    if not len(front):
        return 0.0
    if len(r) <= 2:  # stairs: rows are in the order of the first objective, so the last one falls
        steps = np.append(r[-1], front[:-1, -1]) - front[:, -1]
        return float((steps * np.prod(r[:-1] - front[:, :-1], axis=1)).sum())
    if len(r) > EXACT:
        return _estimate(front, r)
    import moocore

    return float(moocore.hypervolume(front, ref=r))


def _estimate(front: Floats, reference: Floats) -> float:
    """Estimate the volume of a union of boxes: their total volume, times the mean of 1 / (boxes around a random point).

    Unbiased in any number of dimensions (Karp, Luby and Madras, J. Algorithms 10, 1989).
    """
    rng, sides = np.random.default_rng(0), reference - front
    volumes = sides.prod(1)
    boxes = rng.choice(len(front), POINTS, p=volumes / volumes.sum())
    points = front[boxes] + rng.random((POINTS, front.shape[1])) * sides[boxes]
    count = np.zeros(POINTS)
    for row in front:
        count += (row <= points).all(1)
    return float(volumes.sum() * (1 / np.maximum(count, 1)).mean())


def igd_plus(values: npt.ArrayLike, front: npt.ArrayLike) -> float:
    """Modified inverted generational distance (Ishibuchi et al., EMO 2015, equations 16 and 18).

    The mean over the true front of how far the nearest found point falls short of it; 0 if it is reached everywhere.

    Args:
        values: What was found, ``[N, M]``; rows that are not finite are left out.
        front: The true front, ``[F, M]``. Scale both sides first where objectives have different units.

    Raises:
        ValueError: If nothing was found, or the numbers of objectives differ.
    """
    y, z = matrix_of(values), matrix_of(front)
    y = y[np.isfinite(y).all(1)]
    if not len(y) or not len(z) or y.shape[1] != z.shape[1]:
        raise ValueError(
            "A distance to a front needs values and a front with as many objectives; got shapes "
            f"{list(y.shape)} and {list(z.shape)}."
        )
    short = np.maximum(y[None] - z[:, None], 0.0)
    return float(np.sqrt((short**2).sum(-1)).min(1).mean())
