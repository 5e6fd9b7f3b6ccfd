"""Which candidates of a front to evaluate: those that add volume to it, and those that fill its gaps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

POINTS = 4096  # in which a hypervolume is counted


def diverse_subset(values: npt.ArrayLike, k: int, kept: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
    """Candidates that lie far from what is there already and from each other (Gonzalez, TCS 1985).

    Objectives are scaled to the range of candidates and kept points together. One candidate after the other is taken,
    the one farthest from all kept and taken ones; the first, where nothing is kept, is the best in the first objective.
    The choice is deterministic: of equally far ones, the first.

    Args:
        values: Objectives of the candidates, ``[N, M]``, finite.
        k: How many; all of them if there are not more.
        kept: Objectives of what is there, ``[K, M]``, such as the front of an archive.

    Returns:
        Rows of ``values``, at most ``k``, in the order in which they were taken.

    Raises:
        ValueError: If the shapes do not fit, or ``k`` is negative.
    """
    y = np.asarray(values, np.float64)
    there = np.empty((0, y.shape[-1])) if kept is None else np.asarray(kept, np.float64)
    if y.ndim != 2 or there.ndim != 2 or there.shape[1] != y.shape[1] or k < 0:
        raise ValueError(
            "Candidates [N, M] and kept points [K, M] must have as many objectives, and k must not be negative; got "
            f"shapes {list(y.shape)} and {list(there.shape)}, k={k}."
        )
    if not len(y):
        return np.empty(0, dtype=np.int64)
    everything = np.concatenate([y, there])
    low, span = everything.min(0), np.ptp(everything, axis=0)
    span[span == 0] = 1.0
    y, there = (y - low) / span, (there - low) / span
    distance = np.full(len(y), np.inf)
    for point in there:
        distance = np.minimum(distance, ((y - point) ** 2).sum(1))
    taken: list[int] = []
    for _ in range(min(k, len(y))):
        best = int(distance.argmax()) if np.isfinite(distance).any() else int(np.lexsort(y.T[::-1])[0])
        taken.append(best)
        distance = np.minimum(distance, ((y - y[best]) ** 2).sum(1))
        distance[taken] = -1.0
    return np.array(taken, dtype=np.int64)


def largest_gain(values: npt.ArrayLike, k: int, kept: npt.ArrayLike, *, points: int = POINTS) -> npt.NDArray[np.int64]:
    """Candidates that add most to the hypervolume of what is there, one after the other.

    The volume is that of the box of candidates and kept points, a tenth of the range larger on the bad side, and is
    counted on fixed pseudo-random points, so that many candidates and objectives cost milliseconds. Where no candidate
    adds anything, :func:`diverse_subset` goes on.

    Args:
        values: Objectives of the candidates, ``[N, M]``, finite; optimistic ones reward what is uncertain.
        k: How many; all of them if there are not more.
        kept: Objectives of what is there, ``[K, M]``.
        points: Number of points.

    Returns:
        Rows of ``values``, at most ``k``, in the order in which they were taken.
    """
    y, there = np.asarray(values, np.float64), np.asarray(kept, np.float64)
    if not len(y) or not len(there):
        return diverse_subset(y, k, there)
    everything = np.concatenate([y, there])
    low, span = everything.min(0), np.ptp(everything, axis=0)
    box = low + np.random.default_rng(0).random((points, y.shape[1])) * np.where(span > 0, 1.1 * span, 1.0)
    free = box[~(there[:, None] <= box).all(-1).any(0)]
    reaches = np.ones((len(y), len(free)), dtype=bool)
    for m in range(y.shape[1]):
        reaches &= y[:, m, None] <= free[:, m]
    taken: list[int] = []
    while len(taken) < min(k, len(y)) and (gain := reaches.sum(1)).any():
        taken.append(int(gain.argmax()))
        reaches = reaches[:, ~reaches[taken[-1]]]
    rest = np.setdiff1d(np.arange(len(y)), taken)
    more = diverse_subset(y[rest], k - len(taken), np.concatenate([there, y[taken]]))
    return np.concatenate([np.array(taken, dtype=np.int64), rest[more]])


def spread_sample(candidates: npt.NDArray[np.int64], k: int, kept: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Architectures that differ in many genes from kept ones and from each other.

    Args:
        candidates: Genes, ``[N, G]``.
        k: How many.
        kept: Genes, ``[K, G]``.

    Returns:
        Rows of ``candidates``, at most ``k``; each differs from everything before it in as many genes as possible.
    """
    distance = np.full(len(candidates), np.iinfo(np.int64).max)
    for row in kept:
        distance = np.minimum(distance, (candidates != row).sum(1))
    taken: list[int] = []
    for _ in range(min(k, len(candidates))):
        best = int(distance.argmax())
        taken.append(best)
        distance = np.minimum(distance, (candidates != candidates[best]).sum(1))
        distance[taken] = -1
    return np.array(taken, dtype=np.int64)


def spread_over(
    places: npt.NDArray[np.float64], candidates: npt.NDArray[np.int64], k: int, kept: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Architectures that are spread evenly over a number, and those of like numbers differ in many genes.

    The range of the number is cut into ``k`` equal parts. Of every part that has candidates the one is taken that
    differs most from all kept and taken ones; then again, until there are enough.

    Args:
        places: The number of every candidate, such as its cost, ``[N]``.
        candidates: Genes, ``[N, G]``.
        k: How many.
        kept: Genes, ``[K, G]``.

    Returns:
        Rows of ``candidates``, at most ``k``, in the order in which they were taken.
    """
    span = np.ptp(places) if len(places) else 0.0
    parts = np.minimum((k * (places - places.min()) / span).astype(np.int64), k - 1) if span else np.zeros(len(places))
    distance = np.full(len(candidates), np.iinfo(np.int64).max)
    for row in kept:
        distance = np.minimum(distance, (candidates != row).sum(1))
    free, taken = np.ones(len(candidates), dtype=bool), list[int]()
    while len(taken) < min(k, len(candidates)):
        for part in np.unique(parts[free]):
            rows = np.flatnonzero(free & (parts == part))
            best = int(rows[distance[rows].argmax()])
            taken.append(best)
            free[best] = False
            distance = np.minimum(distance, (candidates != candidates[best]).sum(1))
    return np.array(taken[:k], dtype=np.int64)
