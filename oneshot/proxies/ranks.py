"""Ranks of networks: by several scores together, and how well they agree with what is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


def combined(scores: Sequence[Mapping[str, float]], names: Sequence[str]) -> list[float]:
    """One score for each network of a set: ``sum_k log(rank_k / M)``, ranks from 1 (worst) to M.

    A network must be good by all scores to come first, for a logarithm falls fastest at the low ranks
    (AZ-NAS, arXiv:2403.19232, equation 9). Equal scores share the mean of their ranks. A score that is NaN is worse
    than all others.

    Args:
        scores: Of M networks, by name.
        names: Those that count.

    Raises:
        ValueError: If there are no names, or a score is missing.

    Example:
        >>> combined([{"snip": 1.0}, {"snip": 3.0}], ["snip"])
        [-0.6931471805599453, 0.0]
    """
    if not names:
        raise ValueError("At least one score must be named to rank by; got none.")
    for i, row in enumerate(scores):
        if missing := [name for name in names if name not in row]:
            raise ValueError(
                f"Ranks are by {', '.join(names)}; network {i} has no {missing[0]}. Score it by these names first."
            )
    total = np.zeros(len(scores))
    for name in names:
        total += np.log(ranks([row[name] for row in scores]) / max(len(scores), 1))
    return [float(value) for value in total]


def ranks(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Ranks from 1 (worst) to M; equal scores share the mean of theirs, and NaN is worse than all others."""
    from scipy.stats import rankdata

    column = np.asarray(scores, dtype=np.float64)
    return np.asarray(rankdata(np.where(np.isnan(column), -np.inf, column)), dtype=np.float64)


@dataclass(frozen=True)
class RankAgreement:
    """How the order by a score agrees with that by known values.

    Args:
        spearman: Spearman's rho.
        kendall: Kendall's tau-b.
        networks: How many were compared.
        without_score: How many of them had a score of NaN; they rank last.
    """

    spearman: float
    kendall: float
    networks: int
    without_score: int

    @classmethod
    def of(cls, scores: npt.ArrayLike, values: npt.ArrayLike) -> RankAgreement:
        """Compare ``[N]`` scores with as many values; NaN where all scores, or all values, are the same.

        Raises:
            ValueError: If there are fewer than two, the lengths differ, or a value is not finite.

        Example:
            >>> RankAgreement.of([1.0, float("nan"), 3.0], [80.0, 70.0, 90.0]).spearman
            1.0
        """
        from scipy.stats import kendalltau, spearmanr

        s, v = np.asarray(scores, dtype=np.float64), np.asarray(values, dtype=np.float64)
        if s.shape != v.shape or s.ndim != 1 or len(s) < 2:
            raise ValueError(
                f"At least two scores and as many values must be compared; got shapes {s.shape} and {v.shape}."
            )
        if not np.isfinite(v).all():
            raise ValueError("Values that scores are compared with must be finite; some are not.")
        ours = ranks(s)
        if np.ptp(ours) == 0 or np.ptp(v) == 0:
            return cls(float("nan"), float("nan"), len(s), int(np.isnan(s).sum()))
        rho, tau = float(spearmanr(ours, v)[0]), float(kendalltau(ours, v)[0])
        return cls(rho, tau, len(s), int(np.isnan(s).sum()))
