"""Gaussian-process regression on architectures: a mixture of exponential kernels, hyper-parameters by evidence.

Rasmussen and Williams, Gaussian Processes for Machine Learning, MIT Press 2006 (below: GPML).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import Floats

Blocks: TypeAlias = Sequence[npt.NDArray[np.float32]]  # features of each kind, [N, P] each, 0 or 1

# In units of the mean distance of two samples; a kernel of the longest is almost additive in the features.
LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
NOISES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # variance, in units of that of the function
SLOPES = (0.0, 0.1, 1.0, 10.0)  # variance of the slope of a linear part
PARTS = 4  # shares of the kernels are multiples of one over it
EXACT = 600  # samples up to which all of them are in the kernel matrix
SELECTED = 300  # samples that hyper-parameters are chosen by
JITTER = 1e-8
LOOKED_UP = 200_000  # combinations of distances up to which their kernels are in one table


class Hyperparameters(NamedTuple):
    """A point of the grid.

    Args:
        shares: Of the kernels, in parts of ``PARTS``; they add up to it.
        length: Index in ``LENGTHS``.
        noise: Index in ``NOISES``.
        slope: Index in ``SLOPES``.
    """

    shares: tuple[int, ...]
    length: int = 2
    noise: int = 2
    slope: int = 0


class GaussianProcessRegression:
    """Gaussian process whose kernel is a mixture of exponential ones, one for each kind of features.

    ``k(a, b) = sum_f share_f exp(-|a_f - b_f|_1 / (length * mean_f)) + slope s(a) s(b)``, with the mean distance of two
    samples ``mean_f``, and s a linear feature if there is one. The shares, the length, the noise and the slope are
    those of the largest marginal likelihood on a grid (GPML equation 2.30), where a climb over neighbours of the grid
    ends; the overall variance is the best in closed form.

    Up to ``exact`` samples the posterior is exact. Of more, as many inducing samples stand for all
    (:class:`Posterior`): every sample counts, at a cost that is linear in their number. Inducing samples are the better
    half of ``exact`` by target, because searches look there, and others evenly over the ranks of the rest;
    hyper-parameters are chosen by ``SELECTED`` samples evenly over all ranks.

    Args:
        blocks: Features of each kind, ``[N, P]`` each.
        targets: ``[N]``, of mean about 0, finite; the least are the best. See :func:`rank_normal`.
        linear: A linear feature, ``[N]``, of mean about 0 and deviation about 1.
        start: Where the climb begins, such as :attr:`hyperparameters` of a fit to fewer samples; by default it begins
            at equal shares and at each kernel alone.
        exact: Samples up to which nothing is approximated.

    Attributes:
        hyperparameters: Of the largest evidence.
        evidence: Logarithm of the marginal likelihood of the samples that they were chosen by, at the best variance.
        variance: Overall variance of the function.

    Raises:
        ValueError: If there are fewer than two samples, shapes differ, or a number is not finite.

    Example:
        >>> x = np.eye(4, dtype=np.float32)
        >>> mean, std = GaussianProcessRegression([x], np.array([-1.0, 0.0, 0.5, 0.5])).predict([x[:1]])
        >>> bool(mean[0] < 0 and std[0] > 0)
        True
    """

    def __init__(
        self,
        blocks: Blocks,
        targets: Floats,
        *,
        linear: Floats | None = None,
        start: Hyperparameters | None = None,
        exact: int = EXACT,
    ) -> None:
        y = np.asarray(targets, np.float64)
        _check(blocks, y, linear)
        rows = np.arange(len(y)) if len(y) <= exact else inducing(y, exact)
        few = rows if len(y) <= SELECTED else np.argsort(y, kind="stable")[spread(len(y), SELECTED)]
        between = [distances(block[few], block[few]) for block in blocks]
        self._scales = [max(d.sum() / (len(few) * (len(few) - 1)), 1e-12) for d in between]
        self.hyperparameters, self.evidence, self.variance = _climb(
            [d / scale for d, scale in zip(between, self._scales)],
            y[few],
            None if linear is None else linear[few],
            start,
        )
        self.noise = NOISES[self.hyperparameters.noise]
        self._blocks = [block[rows] for block in blocks]
        self._linear = None if linear is None else np.asarray(linear, np.float64)[rows]
        inside = self.kernel(self._blocks, self._linear, self._blocks, self._linear)
        exact = len(rows) == len(y)
        across = None if exact else self.kernel(self._blocks, self._linear, blocks, linear)
        self.posterior = Posterior(inside, self.noise, y, across)

    def kernel(self, a: Blocks, s: Floats | None, b: Blocks, t: Floats | None) -> Floats:
        """Prior covariance in units of :attr:`variance`, ``[N, M]``, of N and M architectures.

        Args:
            a: Features of N architectures.
            s: Their linear feature, ``[N]``.
            b: Features of M architectures.
            t: Their linear feature, ``[M]``.
        """
        shares, length, _, slope = self.hyperparameters
        used = [f for f, share in enumerate(shares) if share]
        tables = [
            shares[f] / PARTS * np.exp(np.arange(a[f].shape[1] + 1.0) / (-LENGTHS[length] * self._scales[f]))
            for f in used
        ]
        total = look_up(tables, [a[f] for f in used], [b[f] for f in used])
        if s is not None and t is not None and SLOPES[slope]:
            total += SLOPES[slope] * np.outer(s, t)
        return total

    def prior(self, linear: Floats | None, n: int) -> Floats:
        """Prior variance of n architectures, ``[n]``, in units of :attr:`variance`."""
        slope = SLOPES[self.hyperparameters.slope]
        return np.ones(n) if linear is None else 1 + slope * np.asarray(linear, np.float64) ** 2

    def cross(self, blocks: Blocks, linear: Floats | None = None) -> Floats:
        """:meth:`kernel` of N architectures and the samples, ``[N, samples]``."""
        return self.kernel(blocks, linear, self._blocks, self._linear)

    def predict(self, blocks: Blocks, linear: Floats | None = None) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the function without noise, ``[N]`` each.

        Args:
            blocks: Features of each kind, ``[N, P]`` each.
            linear: The linear feature, ``[N]``, if the model has one.
        """
        cross = self.cross(blocks, linear)
        factors, signs = self.posterior.explained(cross)
        left = np.maximum(self.prior(linear, len(cross)) - signs @ factors**2, 0)
        return self.posterior.mean(cross), np.sqrt(self.variance * left)


class Posterior:
    """What samples say of a function, given the kernel matrices of a Gaussian process.

    Exact (GPML equations 2.25 and 2.26), or by inducing samples that stand for all: projected process approximation
    (equations 8.26 and 8.27).

    Args:
        inside: Prior covariance of the samples, or of the inducing ones, ``[K, K]``.
        noise: Variance of the noise, in the unit of the covariance.
        targets: ``[N]``.
        across: Covariance of the inducing samples and all, ``[K, N]``; None for the exact posterior, where K is N.
    """

    def __init__(self, inside: Floats, noise: float, targets: Floats, across: Floats | None = None) -> None:
        identity = np.eye(len(inside))
        self._second: npt.NDArray[np.floating[Any]] | None = None
        if across is None:
            self._root = np.linalg.cholesky(inside + noise * identity)
            inner = solve_lower(self._root, targets)
        else:
            self._root = np.linalg.cholesky(inside + JITTER * identity)
            projected = solve_lower(self._root, across)
            self._second = np.linalg.cholesky(identity + projected @ projected.T / noise)
            inner = solve_lower(self._second, solve_lower(self._second, projected @ targets) / noise, True)
        self._dual = solve_lower(self._root, inner, True)

    def mean(self, cross: Floats) -> Floats:
        """Posterior mean, ``[M]``, of M architectures, by their covariance with the (inducing) samples, ``[M, K]``."""
        return np.asarray(cross @ self._dual)

    def explained(self, cross: Floats) -> tuple[Floats, Floats]:
        """What the samples say of M architectures, as factors F ``[J, M]`` and signs ``[J]``.

        The posterior covariance of two of them is ``k(a, b) - sum_j sign_j F_ja F_jb``.
        """
        first = solve_lower(self._root, cross.T)
        if self._second is None:
            return first, np.ones(len(first))
        second = solve_lower(self._second, first)
        return np.concatenate([first, second]), np.repeat([1.0, -1.0], len(first))


class Belief:
    """What a model says of some architectures, while it takes its own mean as the result of those in flight.

    Kriging believer (Ginsbourger, Le Riche and Carraro, 2010): the mean stays, and the uncertainty of what is like
    the believed ones falls, so that proposals of one batch differ.

    Args:
        model: The model.
        blocks: Features of each kind, ``[N, P]`` each.
        linear: The linear feature, ``[N]``, if the model has one.

    Attributes:
        mean: ``[N]``.
    """

    def __init__(self, model: GaussianProcessRegression, blocks: Blocks, linear: Floats | None = None) -> None:
        self._model, self._blocks, self._linear = model, blocks, linear
        cross = model.cross(blocks, linear)
        self._believed: list[Floats] = []  # factors of those that are believed
        self.mean = model.posterior.mean(cross)
        self._factors, self._signs = model.posterior.explained(cross)
        self._left = np.maximum(model.prior(linear, len(cross)) - self._signs @ self._factors**2, 0)

    @property
    def std(self) -> Floats:
        """Standard deviation of the function, ``[N]``."""
        return np.sqrt(self._model.variance * self._left)

    def believe(self, i: int) -> None:
        """Take the mean of architecture i as its result."""
        one, linear = [block[i : i + 1] for block in self._blocks], self._linear
        prior = self._model.kernel(one, None if linear is None else linear[i : i + 1], self._blocks, linear)[0]
        with_i = prior - (self._signs * self._factors[:, i]) @ self._factors
        for factor in self._believed:
            with_i -= factor[i] * factor
        self._believed.append(with_i / np.sqrt(self._left[i] + self._model.noise))
        self._left = np.maximum(self._left - self._believed[-1] ** 2, 0)


def rank_normal(values: npt.ArrayLike) -> Floats:
    """Ranks of values as quantiles of a standard normal distribution, ``[N]``; equal values share their mean rank.

    The quantile of rank r, from 1 on, is that of ``(r - 1/2) / N`` (van der Waerden scores with Hazen's positions).
    Infinity is the last rank.

    Raises:
        ValueError: If a value is NaN.

    Example:
        >>> rank_normal([3.0, 100.0, 2.0]).round(2).tolist()
        [0.0, 0.97, -0.97]
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    y = np.asarray(values, np.float64)
    if np.isnan(y).any():
        raise ValueError(f"Values to be ranked must be numbers; {int(np.isnan(y).sum())} of {len(y)} are NaN.")
    return np.asarray(ndtri((rankdata(y) - 0.5) / max(len(y), 1)))


def spread(n: int, k: int) -> npt.NDArray[np.int64]:
    """``k`` of the numbers below ``n``, evenly, with the first and the last."""
    return np.unique(np.linspace(0, n - 1, k).round().astype(np.int64))


def inducing(targets: Floats, k: int) -> npt.NDArray[np.int64]:
    """Which k samples stand for all: the half of k that is best, and others evenly over the ranks of the rest."""
    order, half = np.argsort(targets, kind="stable"), k // 2
    return np.concatenate([order[:half], order[half:][spread(len(order) - half, k - half)]])


def _check(blocks: Blocks, y: Floats, linear: Floats | None) -> None:
    shapes = [list(block.shape) for block in blocks] + ([] if linear is None else [list(linear.shape)])
    if y.ndim != 1 or len(y) < 2 or not blocks or any(shape[0] != len(y) for shape in shapes):
        raise ValueError(
            "A Gaussian process must have two or more samples, with features and one target each; got targets "
            f"{list(y.shape)} and features {shapes}."
        )
    if any(not np.isin(block, (0, 1)).all() for block in blocks):
        raise ValueError("Features of a Gaussian process must be 0 or 1; some are not. Encode numbers as at least k.")
    if not np.isfinite(y).all() or (linear is not None and not np.isfinite(linear).all()):
        raise ValueError("Targets and linear features of a Gaussian process must be finite; some are not.")


def look_up(tables: Sequence[Floats], a: Blocks, b: Blocks) -> Floats:
    """Sum over kinds of features of a function of the distance, ``[N, M]``.

    Distances are few, so that functions are looked up, those of all kinds at once where the table of all combinations
    is small.

    Args:
        tables: Of each kind, the values at the distances 0 to P.
        a: Features of each kind, ``[N, P]``.
        b: ``[M, P]``.
    """
    if np.prod([float(len(table)) for table in tables]) > LOOKED_UP:
        return np.asarray(sum(table[distances(left, right)] for table, left, right in zip(tables, a, b)))
    every, steps, step = np.zeros(1), list[int](), 1
    for table in tables:
        steps.append(step)
        every = (table[:, None] + every).ravel()
        step *= len(table)
    return every[_weighted_distances(a, b, steps)]


def distances(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """In how many features two rows of 0 and 1 differ, ``[N, P], [M, P] -> [N, M]``."""
    return _weighted_distances([a], [b], [1])


def _weighted_distances(a: Blocks, b: Blocks, weights: Sequence[int]) -> npt.NDArray[np.intp]:
    """Sum over kinds of features of weighted distances, ``[N, M]``."""
    differing = np.zeros((len(a[0]), len(b[0])), dtype=np.float32)  # exact for these integers
    for weight, left, right in zip(weights, a, b):
        if len(left) < len(right):
            differing += (-2 * weight * left) @ right.T
        else:
            differing += left @ (-2 * weight * right).T
    differing += sum(weight * left.sum(1) for weight, left in zip(weights, a))[:, None]
    differing += sum(weight * right.sum(1) for weight, right in zip(weights, b))
    return differing.astype(np.intp)


def _climb(
    apart: Sequence[Floats], y: Floats, linear: Floats | None, start: Hyperparameters | None
) -> tuple[Hyperparameters, float, float]:
    """Hyper-parameters with no neighbour of larger evidence, their evidence and variance; the best of the climbs."""
    known: dict[Hyperparameters, tuple[float, float]] = {}
    kernels: dict[tuple[int, int], Floats] = {}

    def value(at: Hyperparameters) -> float:
        if at not in known:
            total = np.zeros((len(y), len(y)))
            for f, share in enumerate(at.shares):
                if share and (f, at.length) not in kernels:
                    kernels[f, at.length] = np.exp(apart[f] / -LENGTHS[at.length])
                if share:
                    total += share / PARTS * kernels[f, at.length]
            if linear is not None and SLOPES[at.slope]:
                total += SLOPES[at.slope] * np.outer(linear, linear)
            known[at] = log_evidence(total, y, NOISES[at.noise])
        return known[at][0]

    for begin in [start] if start is not None else _starts(len(apart), linear is not None):
        at = begin
        while (best := max(_around(at, linear is not None), key=value)) != at and value(best) > value(at):
            at = best
    best = max(known, key=lambda at: known[at][0])
    return best, *known[best]


def log_evidence(kernel: Floats, y: Floats, noise: float) -> tuple[float, float]:
    """Logarithm of the marginal likelihood at the best overall variance, and that variance (GPML equation 2.30).

    Args:
        kernel: ``[N, N]``.
        y: ``[N]``.
        noise: Its variance, in units of that of the function.
    """
    factor = np.linalg.cholesky(kernel + noise * np.eye(len(y)))
    white = solve_lower(factor, y)
    variance = float(white @ white) / len(y) or 1e-12
    constant = 0.5 * len(y) * (1 + np.log(2 * np.pi))
    return float(-0.5 * len(y) * np.log(variance) - np.log(np.diag(factor)).sum() - constant), variance


def _starts(kinds: int, linear: bool) -> list[Hyperparameters]:
    """Equal shares, as far as there are parts for them, and every kernel alone."""
    equal = tuple(len(range(f, PARTS, kinds)) for f in range(kinds))
    alone = [tuple(PARTS * (f == g) for g in range(kinds)) for f in range(kinds)]
    return [Hyperparameters(shares, slope=int(linear)) for shares in dict.fromkeys([equal, *alone])]


def _around(at: Hyperparameters, linear: bool) -> list[Hyperparameters]:
    """The point and its neighbours on the grid."""
    found = [at]
    for name, grid in (("length", LENGTHS), ("noise", NOISES), ("slope", SLOPES if linear else ())):
        for index in (getattr(at, name) - 1, getattr(at, name) + 1):
            if 0 <= index < len(grid):
                found.append(at._replace(**{name: index}))
    for giver, share in enumerate(at.shares):
        for taker in range(len(at.shares)):
            if share and taker != giver:
                moved = list(at.shares)
                moved[giver] -= 1
                moved[taker] += 1
                found.append(at._replace(shares=tuple(moved)))
    return found


def solve_lower(factor: npt.NDArray[np.floating[Any]], right: Floats, transposed: bool = False) -> Floats:
    """``factor^-1 right`` of a lower triangular factor, or of its transpose."""
    from scipy.linalg import solve_triangular

    return np.asarray(solve_triangular(factor, right, lower=True, trans=int(transposed), check_finite=False))
