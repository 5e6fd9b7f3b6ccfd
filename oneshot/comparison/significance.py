"""What differences between methods are worth: seeds are pairs, and many comparisons are corrected for.

Two methods with the same seed see the same images in the same order, and their networks begin with weights of the same
stream of random numbers. What a seed does to both cancels in the difference, so differences are formed seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

LEVEL = 0.05  # what p-values are compared with; intervals cover the rest
RESAMPLES = 9999
MOST_EXACT = 13  # pairs of which all 2^n signs are tried; of more, RESAMPLES draws

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """The first method minus the second, over the seeds that both have finished.

    Args:
        first: Label of the first method.
        second: Label of the second method.
        seeds: Number of pairs, n.
        mean: Mean difference.
        low: Lower end of the 95 % interval; None with fewer than two pairs.
        high: Upper end.
        p: Two-sided p-value; None with fewer than two pairs.
        adjusted: The same after Holm's correction for all differences that are looked at together.
    """

    first: str
    second: str
    seeds: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted: float | None = None

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below 0.05."""
        return self.adjusted is not None and self.adjusted < LEVEL


def paired_interval(differences: npt.ArrayLike, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences by the bootstrap: percentiles of the means of resamples.

    Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7(1), 1979. Pairs are resampled,
    never the two sides on their own. With few pairs it is too narrow: a description, no guarantee.

    Args:
        differences: One for each pair, ``[N]``, at least two.
        seed: Of the resamples.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: If there are fewer than two, or one is not finite.
    """
    from scipy.stats import bootstrap

    d = _checked(differences)
    if np.ptp(d) == 0:
        return float(d[0]), float(d[0])
    interval = bootstrap(
        (d,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=1 - LEVEL,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def paired_p(differences: npt.ArrayLike, *, seed: int = 0) -> float:
    """The two-sided p-value of the mean of paired differences: how many signs give a mean that is as far from 0.

    If two methods are equally good, a difference is as likely to be positive as negative (Fisher's randomisation test).
    All ``2^N`` signs are tried with up to 13 pairs. So the smallest p-value of N pairs is ``2 / 2^N``, whatever the
    differences are; a bootstrap of three pairs of one sign would say 0.

    Args:
        differences: One for each pair, ``[N]``, at least two.
        seed: Of the draws, with more pairs.

    Raises:
        ValueError: If there are fewer than two, or one is not finite.
    """
    from scipy.stats import permutation_test

    d = _checked(differences)
    draws: float = np.inf if len(d) <= MOST_EXACT else RESAMPLES

    def mean_difference(first: Floats, second: Floats, axis: int = -1) -> Any:
        return np.mean(first - second, axis=axis)

    tested = permutation_test(
        (d, np.zeros_like(d)),
        mean_difference,
        permutation_type="samples",
        n_resamples=draws,
        vectorized=True,
        random_state=np.random.default_rng(seed),
    )
    return min(1.0, float(tested.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for being looked at together (Holm, Scandinavian Journal of Statistics 6(2), 1979).

    The i-th smallest of m is multiplied by ``m - i + 1``; none gets smaller than one before it, or larger than 1.

    Args:
        p_values: In any order.

    Returns:
        The corrected ones, in the same order.

    Raises:
        ValueError: If one is not in [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    if bad := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"P-values must be in [0, 1]; got {bad[0]}.")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def compare_pairs(values: Mapping[str, Mapping[int, float]], *, baseline: str | None = None) -> list[Difference]:
    """All pairs of methods, or all methods against one, over the seeds that both have.

    Args:
        values: ``{label: {seed: value}}``.
        baseline: Compare the others with this method only.

    Returns:
        The differences, corrected together; pairs without a common seed are left out.

    Raises:
        ValueError: If ``baseline`` is none of the labels.
    """
    if baseline is not None and baseline not in values:
        raise ValueError(f"The baseline must be one of {', '.join(values)}; got {baseline!r}.")
    pairs = combinations(values, 2) if baseline is None else ((label, baseline) for label in values)
    found = []
    for first, second in pairs:
        seeds = sorted(values[first].keys() & values[second].keys())
        if first == second or not seeds:
            continue
        d = np.array([values[first][seed] - values[second][seed] for seed in seeds], dtype=np.float64)
        difference = Difference(first, second, len(d), float(d.mean()))
        if len(d) > 1:
            low, high = paired_interval(d)
            difference = replace(difference, low=low, high=high, p=paired_p(d))
        found.append(difference)
    tested = [place for place, difference in enumerate(found) if difference.p is not None]
    for place, adjusted in zip(tested, holm([found[place].p or 0.0 for place in tested]), strict=True):
        found[place] = replace(found[place], adjusted=adjusted)
    return found


def seeds_needed(comparisons: int) -> int:
    """Fewest seeds with which one of so many differences can be significant.

    Example:
        >>> seeds_needed(1), seeds_needed(66)
        (6, 12)
    """
    return 1 + math.floor(math.log2(max(1, comparisons) / LEVEL)) + 1


def _checked(differences: npt.ArrayLike) -> Floats:
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or len(d) < 2 or not np.isfinite(d).all():
        raise ValueError(f"There must be two or more paired differences, all finite; got {d.tolist()}.")
    return d
