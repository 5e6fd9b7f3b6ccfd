"""Which architectures to evaluate next, by what a model expects of them: expected improvement, of one or of several."""

from __future__ import annotations

import numpy as np

from oneshot.supernets.space import Floats

DIMENSIONS = 3  # objectives up to which the hypervolume improvement is computed


def expected_improvement(mean: Floats, std: Floats, best: float | Floats) -> Floats:
    """How far a normal variable is expected to fall below ``best``, ``E max(0, best - Y)``.

    Jones, Schonlau and Welch, J. Global Optimization 13, 1998, equation 15.

    Args:
        mean: Any shape.
        std: The same shape, at least 0.
        best: The least value so far, or values that broadcast with the means.

    Example:
        >>> expected_improvement(np.zeros(1), np.ones(1), 0.0).round(4).tolist()
        [0.3989]
    """
    from scipy.special import ndtr

    gap = np.asarray(best - mean)
    scaled = gap / np.maximum(std, 1e-12)
    density = np.exp(-0.5 * np.minimum(scaled**2, 1400.0)) / np.sqrt(2 * np.pi)
    return np.asarray(np.maximum(gap * ndtr(scaled) + std * density, 0.0))


def expected_hypervolume_improvement(mean: Floats, std: Floats, front: Floats, reference: Floats) -> Floats:
    """How much hypervolume architectures are expected to add to a front, their objectives being independent.

    The region that no point of the front dominates is cut into boxes that are open below; the expectation of each is a
    product of differences of expected improvements (Emmerich, Deutz and Klinkenberg, IEEE CEC 2011). All objectives are
    minimised.

    Args:
        mean: ``[N, M]``, M two or three.
        std: ``[N, M]``.
        front: Points that do not dominate each other, ``[F, M]``, below the reference.
        reference: ``[M]``.

    Raises:
        ValueError: If there are not two or three objectives.
    """
    if not 2 <= mean.shape[1] <= DIMENSIONS:
        raise ValueError(
            f"Expected hypervolume improvement is for two or three objectives; got {mean.shape[1]}. Weigh more of them "
            "by a scalar."
        )
    *first, last = range(mean.shape[1])
    edges = [np.concatenate([[-np.inf], np.unique(front[:, m]), [reference[m]]]) for m in first]
    lengths = []
    for m, edge in zip(first, edges):
        below = expected_improvement(mean[:, [m]], std[:, [m]], edge[1:])
        lengths.append(np.diff(below, axis=1, prepend=0.0))  # [N, boxes along m]
    heights = np.append(np.unique(front[:, last]), reference[last])
    above = expected_improvement(mean[:, [last]], std[:, [last]], heights)
    total = np.zeros(len(mean))
    for box in np.ndindex(*(len(edge) - 1 for edge in edges)):
        corner = [edge[i] for edge, i in zip(edges, box)]
        under = front[(front[:, :last] <= corner).all(1), last]
        top = len(heights) - 1 if not len(under) else int(np.searchsorted(heights, under.min()))
        product = above[:, top].copy()
        for length, i in zip(lengths, box):
            product *= length[:, i]
        total += product
    return total
