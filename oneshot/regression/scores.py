"""How well predicted costs agree with measured ones, in the terms latency predictors are judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import Floats


@dataclass(frozen=True)
class Agreement:
    """Agreement of predictions with measurements.

    A rank alone is not enough for a hard constraint in milliseconds, so shares within an error bound stand beside it.

    Args:
        within_5: Share of predictions within 5 % of the measurement (nn-Meter, MobiSys 2021).
        within_10: The same within 10 %.
        rmse: Root mean square error, in the unit of the measurements.
        kendall: Kendall's tau-b.
        spearman: Spearman's rho.
    """

    within_5: float
    within_10: float
    rmse: float
    kendall: float
    spearman: float

    @classmethod
    def of(cls, predicted: npt.ArrayLike, measured: npt.ArrayLike) -> Agreement:
        """Compare ``[N]`` predictions with as many measurements.

        Raises:
            ValueError: If the shapes differ, there are fewer than two, or a value is not finite.

        Example:
            >>> Agreement.of([1.04, 2.0, 3.3], [1.0, 2.0, 3.0]).within_5
            0.6666666666666666
        """
        from scipy.stats import kendalltau, spearmanr

        p, m = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
        if p.shape != m.shape or p.ndim != 1 or len(p) < 2:
            raise ValueError(
                f"Agreement must be of two or more predictions and as many measurements; got shapes {p.shape} and "
                f"{m.shape}."
            )
        if not (np.isfinite(p).all() and np.isfinite(m).all() and (m > 0).all()):
            raise ValueError("Predictions must be finite, and measurements finite and above 0; some are not.")
        error = np.abs(p - m) / m
        rank = (float("nan"),) * 2 if np.ptp(p) == 0 or np.ptp(m) == 0 else (kendalltau(p, m)[0], spearmanr(p, m)[0])
        return cls(
            within_5=float((error <= 0.05).mean()),
            within_10=float((error <= 0.10).mean()),
            rmse=float(np.sqrt(((p - m) ** 2).mean())),
            kendall=float(rank[0]),
            spearman=float(rank[1]),
        )

    def __str__(self) -> str:
        return (
            f"{self.within_5:.0%} within 5 %, {self.within_10:.0%} within 10 %, RMSE {self.rmse:.3g}, "
            f"Kendall tau {self.kendall:.3f}, Spearman rho {self.spearman:.3f}"
        )


def kendall(predicted: Floats, measured: Floats) -> float:
    """Kendall's tau-b; 0 where one side is constant."""
    from scipy.stats import kendalltau

    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return 0.0
    return float(kendalltau(predicted, measured).statistic)


def kendall_within(fold: npt.NDArray[np.int64], predicted: Floats, measured: Floats) -> float:
    """Mean over folds of :func:`kendall`, each counting as its number of pairs; 0 without any pair.

    Predictions of different folds are of models with different means: the mean of the rest is the lower, the higher a
    fold is, so that a tau over all folds is below 0 where there is nothing to learn.
    """
    folds = [fold == f for f in np.unique(fold)]
    pairs = np.array([mask.sum() * (mask.sum() - 1) for mask in folds])
    taus = [kendall(predicted[mask], measured[mask]) for mask in folds]
    return float(pairs @ taus / max(pairs.sum(), 1))
