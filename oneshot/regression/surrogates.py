"""The kinds of models that an accuracy predictor is chosen from; all fit standardised targets.

The cost of all is at most linear in the number of samples from ``LARGE`` on. Three of them see architectures only
through how many genes differ between two, the Hamming distance, which is half the squared distance of their one-hot
encodings; so their kernels are tables of at most G + 1 numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

from .boosting import BoostedTrees
from .encoding import one_hot
from .features import ArchitectureFeatures
from .gaussian_process import (
    EXACT,
    SELECTED,
    GaussianProcessRegression,
    Posterior,
    rank_normal,
    solve_lower,
    spread,
)
from .networks import NetworkEnsemble, silu, squared
from .ridge import ridge

Kind = Literal["rbf", "gp", "boosting", "mlp", "ridge", "rank_gp"]
KINDS: tuple[Kind, ...] = ("rbf", "gp", "boosting", "mlp", "ridge", "rank_gp")
SAMPLES: dict[Kind, int] = {  # fewer are refused
    "ridge": 6,
    "rbf": 12,
    "gp": 12,
    "boosting": 40,
    "mlp": 40,
    "rank_gp": 12,
}
LARGE = 1000  # samples up to which nothing is approximated

CHUNK = 1024  # architectures predicted at a time
MEMBERS = 12  # of the ensemble of radial basis functions
TAIL = 100.0  # prior variance of the linear tail over that of the cubic part: almost free, as in the saddle system
SMOOTHING = tuple(np.logspace(-4, 3, 15))
LENGTHS = (0.25, 0.5, 1.0, 2.0)  # of the Gaussian process, in units of the mean distance of two samples
LINEAR = (0.0, 1.0, 10.0)  # prior variance of its linear part
NOISE = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
TREES, LEAVES = 100, 8  # of boosting
NETWORKS, HIDDEN, STEPS = 4, 32, 120  # of the ensemble of networks
RATE, DECAY = 1e-2, 3e-2  # of its training
BATCH = 500  # samples of a step of it, where there are more than LARGE


class Surrogate(ABC):
    """A model of standardised targets."""

    @abstractmethod
    def predict(self, genes: IntMatrix) -> tuple[Floats, Floats]:
        """Mean and standard deviation, ``[N]`` each, of ``[N, G]``; zeros where it gives none."""


def fit(kind: Kind, space: SearchSpace, genes: IntMatrix, targets: Floats, seed: int) -> Surrogate:
    """Fit a model.

    Args:
        kind: Which model.
        space: The search space.
        genes: ``[N, G]``.
        targets: ``[N]``, of mean about 0 and standard deviation about 1.
        seed: Of subsets, trees and initial weights.
    """
    if kind == "rbf":
        rng, half = np.random.default_rng(seed), (space.num_genes + 1) // 2
        subsets = np.stack([rng.permutation(space.num_genes)[:half] for _ in range(MEMBERS)])
        if len(targets) <= LARGE:
            return HammingRBF(space, genes, targets, subsets)
        rows = [rng.permutation(len(targets))[:EXACT] for _ in subsets]
        return Mean([HammingRBF(space, genes[r], targets[r], s[None]) for s, r in zip(subsets, rows)])
    if kind == "ridge":
        if len(targets) > LARGE:
            return Linear(space, genes, targets)
        return HammingRBF(space, genes, targets, np.arange(space.num_genes)[None], cubic=False)
    if kind == "gp":
        return HammingGP(space, genes, targets)
    if kind == "rank_gp":
        return RankGP(space, genes, targets)
    if kind == "boosting":
        return Boosting(space, genes, targets, seed)
    return Networks(space, genes, targets, seed)


class HammingRBF(Surrogate):
    """Cubic radial basis functions with a linear tail, one for each of some subsets of genes; or the tail alone.

    What interpolates is a kernel sum, ``sum_i a_i k(h_i)`` with ``k(h) = h^(3/2) + t (1 + G - h)`` of the Hamming
    distances h: the cubic ``r^3`` and, with a large t, the linear functions of the one-hot genes. Targets have noise,
    so they are smoothed by what minimises the leave-one-out error (Golub, Heath and Wahba, Technometrics 1979). Unlike
    the ridge regressions of :mod:`.ridge`, it has no outliers to fear, and one smoothing for the mean of all members.

    Args:
        space: The search space.
        genes: ``[N, G]``.
        targets: ``[N]``.
        subsets: Genes that each member sees, ``[members, size]``.
        cubic: Without it there is the tail alone, a ridge regression.
    """

    def __init__(
        self,
        space: SearchSpace,
        genes: IntMatrix,
        targets: Floats,
        subsets: npt.NDArray[np.int64],
        *,
        cubic: bool = True,
    ) -> None:
        self.space, n, size = space, len(genes), subsets.shape[1]
        distance = np.arange(size + 1)
        self.kernel = TAIL * (1.0 + size - distance) / (1 + size) + (distance / size) ** 1.5 * cubic
        gene = np.repeat(np.arange(space.num_genes), space.gene_sizes)
        self.masks = np.array([np.isin(gene, subset) for subset in subsets], dtype=np.float32)
        self.size, self.samples = size, one_hot(space, genes).astype(np.float32)
        grams = self._kernels(self.samples).transpose(1, 0, 2)
        values, vectors = np.linalg.eigh(grams)
        inside = np.einsum("eij,i->ej", vectors, targets)
        best, self.dual = np.inf, np.zeros((len(subsets), n))
        for smoothing in SMOOTHING:
            inverse = 1 / np.maximum(values + smoothing, 1e-10)
            dual = np.einsum("eij,ej->ei", vectors, inside * inverse)
            left_out = dual / np.einsum("eij,ej->ei", vectors**2, inverse)
            error = float((left_out.mean(0) ** 2).mean())
            if error < best:
                best, self.dual = error, dual

    def _kernels(self, encoded: npt.NDArray[np.float32]) -> Floats:
        """``[n, P] -> [n, members, N]``."""
        masked = (self.masks[:, None] * self.samples).reshape(-1, self.samples.shape[1])
        distance = self.size - np.rint(encoded @ masked.T).astype(np.int64)
        return np.asarray(self.kernel[distance].reshape(len(encoded), len(self.masks), -1))

    def predict(self, genes: IntMatrix) -> tuple[Floats, Floats]:
        members = np.einsum("nek,ek->ne", self._kernels(one_hot(self.space, genes).astype(np.float32)), self.dual)
        return members.mean(1), members.std(1)


class Mean(Surrogate):
    """The mean of models, and how far they are apart: cubic functions that each saw some of many samples."""

    def __init__(self, models: Sequence[Surrogate]) -> None:
        self.models = models

    def predict(self, genes: IntMatrix) -> tuple[Floats, Floats]:
        members = np.stack([model.predict(genes)[0] for model in self.models])
        return members.mean(0), members.std(0)


class Linear(Surrogate):
    """:func:`~.ridge.ridge` of the one-hot genes: the tail alone, for many samples; it does not say how sure it is."""

    def __init__(self, space: SearchSpace, genes: IntMatrix, targets: Floats) -> None:
        self.space, self.fitted = space, ridge(one_hot(space, genes), targets[:, None])

    def predict(self, genes: IntMatrix) -> tuple[Floats, Floats]:
        mean = one_hot(self.space, genes) @ self.fitted.coefficients[:, 0] + self.fitted.intercept[0]
        return mean, np.zeros_like(mean)


class HammingGP(Surrogate):
    """Gaussian process: Matern 5/2 of the weighted Hamming distance, a linear part, and noise.

    Genes weigh alike, or as the variance of their main effects in a ridge regression; that, the length, the linear part
    and the noise are those of the largest marginal likelihood on a grid, the overall variance is the best in closed
    form (Rasmussen and Williams, 2006, equations 4.17 and 5.8). Of more than ``LARGE`` samples, these are chosen by
    some, evenly over the ranks of the targets, and others stand for all (:class:`~.gaussian_process.Posterior`).

    Args:
        space: The search space.
        genes: ``[N, G]``.
        targets: ``[N]``.
    """

    def __init__(self, space: SearchSpace, genes: IntMatrix, targets: Floats) -> None:
        self.space = space
        self.gene = np.repeat(np.arange(space.num_genes), space.gene_sizes)
        every, order = one_hot(space, genes), np.argsort(targets, kind="stable")
        large = len(genes) > LARGE
        few = order[spread(len(genes), SELECTED)] if large else np.arange(len(genes))
        self._choose(every[few], targets[few], fit("ridge", space, genes[few], targets[few], 0))
        rows = order[spread(len(genes), EXACT)] if large else few
        self.samples = every[rows]
        across = self._covariance(self.samples, every) if large else None
        inside = self._covariance(self.samples, self.samples)
        self._posterior = Posterior(inside, self.noise, targets, across)

    def _choose(self, samples: Floats, targets: Floats, ridge: Surrogate) -> None:
        """Take the hyper-parameters of the largest marginal likelihood."""
        n, identity, self.evidence = len(samples), np.eye(len(samples)), -np.inf
        for weights in (np.ones(self.space.num_genes), self._importance(ridge, samples)):
            root = np.sqrt(weights / weights.sum())[self.gene]
            matches = (samples * root) @ (samples * root).T
            distance = np.sqrt(np.maximum(1 - matches, 0))
            mean = distance.sum() / max(n * (n - 1), 1) or 1.0
            for length in LENGTHS:
                cubic = matern(distance / (length * mean))
                for linear in LINEAR:
                    for noise in NOISE:
                        factor = np.linalg.cholesky((cubic + linear * matches) / (1 + linear) + noise * identity)
                        white = solve_lower(factor, targets)
                        variance = float(white @ white) / n or 1e-12
                        evidence = -0.5 * n * np.log(variance) - np.log(np.diag(factor)).sum()
                        if evidence > self.evidence:
                            self.evidence, self.variance, self.noise, self.factor = evidence, variance, noise, factor
                            self.root, self.scale, self.linear = root, length * mean, linear

    def _importance(self, ridge: Surrogate, samples: Floats) -> Floats:
        """Variance of each gene's main effect, and a floor, ``[G]``."""
        assert isinstance(ridge, HammingRBF)
        effects = ridge.dual[0] @ samples
        share = samples.mean(0)
        main = np.bincount(self.gene, share * effects**2) - np.bincount(self.gene, share * effects) ** 2
        main = np.maximum(main, 0.0)
        return np.asarray(main + 0.1 * main.mean() + 1e-12)

    def _covariance(self, a: Floats, b: Floats) -> Floats:
        """``[n, P], [m, P] -> [n, m]``, in units of the variance."""
        matches = (a * self.root) @ (b * self.root).T
        cubic = matern(np.sqrt(np.maximum(1 - matches, 0)) / self.scale)
        return np.asarray((cubic + self.linear * matches) / (1 + self.linear))

    def predict(self, genes: IntMatrix) -> tuple[Floats, Floats]:
        cross = self._covariance(one_hot(self.space, genes), self.samples)
        factors, signs = self._posterior.explained(cross)
        left = np.maximum(1 - signs @ factors**2, 0)
        return self._posterior.mean(cross), np.sqrt(self.variance * left)


class RankGP(Surrogate):
    """Gaussian process of ranks: a mixture of exponential kernels of genes and of counts of picks.

    Targets become quantiles of a normal distribution by their rank (:func:`~.gaussian_process.rank_normal`), and
    predictions go back by linear interpolation between the targets, beyond the least and the largest of them with the
    slope of a normal distribution of their mean and deviation. Many samples: see
    :class:`~.gaussian_process.GaussianProcessRegression`.

    Args:
        space: The search space.
        genes: ``[N, G]``.
        targets: ``[N]``.
    """

    def __init__(self, space: SearchSpace, genes: IntMatrix, targets: Floats) -> None:
        self.features = ArchitectureFeatures(space, "none")
        quantiles = rank_normal(targets)
        self.model = GaussianProcessRegression(self.features.encode(genes), quantiles)
        self.quantiles, first = np.unique(quantiles, return_index=True)
        self.targets = np.asarray(targets, np.float64)[first]
        self.slope = float(np.std(targets)) or 1.0

    def predict(self, genes: IntMatrix) -> tuple[Floats, Floats]:
        mean, std = self.model.predict(self.features.encode(genes))
        return self._back(mean), 0.5 * (self._back(mean + std) - self._back(mean - std))

    def _back(self, z: Floats) -> Floats:
        inside = np.clip(z, self.quantiles[0], self.quantiles[-1])
        return np.interp(inside, self.quantiles, self.targets) + self.slope * (z - inside)


def matern(r: Floats) -> Floats:
    """Matern kernel of smoothness 5/2 (Rasmussen and Williams, 2006, equation 4.17)."""
    s = np.sqrt(5.0) * r
    return np.asarray((1 + s + s**2 / 3) * np.exp(-s))


class Boosting(Surrogate):
    """:class:`~.boosting.BoostedTrees`, which do not say how sure they are."""

    def __init__(self, space: SearchSpace, genes: IntMatrix, targets: Floats, seed: int) -> None:
        self.model = BoostedTrees(space, genes, targets, trees=TREES, leaves=LEAVES, seed=seed)

    def predict(self, genes: IntMatrix) -> tuple[Floats, Floats]:
        mean = self.model.predict(genes)
        return mean, np.zeros_like(mean)


class Networks(Surrogate):
    """An ensemble of networks with two hidden layers of SiLU on the one-hot genes; its spread is its uncertainty.

    Trained by AdamW (arXiv:1711.05101) with a cosine schedule, on all samples at once; of more than ``LARGE``, on
    ``BATCH`` random ones in each step.

    Args:
        space: The search space.
        genes: ``[N, G]``.
        targets: ``[N]``.
        seed: Of the initial weights and batches.
    """

    def __init__(self, space: SearchSpace, genes: IntMatrix, targets: Floats, seed: int) -> None:
        self.space, rng = space, np.random.default_rng(seed)
        x, y = one_hot(space, genes).astype(np.float32), targets.astype(np.float32)[:, None]
        self.networks = NetworkEnsemble((x.shape[1], HIDDEN, HIDDEN, 1), NETWORKS, silu)
        for weight, fan_in in zip(self.networks.weights[::2], (space.num_genes, HIDDEN, HIDDEN), strict=True):
            weight[:] = rng.normal(0, (2 / fan_in) ** 0.5, weight.shape)
        flat = self.networks.flat
        for step in range(STEPS):
            rows = slice(None) if len(x) <= LARGE else rng.integers(len(x), size=BATCH)
            first, second, share, share_of_squares = self.networks.moments(x[rows], y[rows], squared)
            ratio = first / share / (np.sqrt(second / share_of_squares) + 1e-8)
            flat -= 0.5 * RATE * (1 + np.cos(np.pi * step / STEPS)) * (ratio + DECAY * flat)

    def predict(self, genes: IntMatrix) -> tuple[Floats, Floats]:
        members = self.networks.predict(one_hot(self.space, genes).astype(np.float32))
        return members.mean(0), members.std(0)
