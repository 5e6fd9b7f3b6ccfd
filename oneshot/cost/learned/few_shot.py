r"""Latency of a new device from a handful of measurements there and the cost models of known devices.

The *shape* of a device is its cost over the space, shifted and scaled to mean 0 and standard deviation 1. The prior
says that a new device has the shape of a known one plus a deviation, unknown offset, scale and noise:

.. math:: y = \mu + \sigma (z_j(x) + \delta(x)) + \varepsilon, \quad
    \delta \sim GP(0, a K_{devices} + b K_{places} + c K_{candidates}), \quad
    \varepsilon \sim N(0, \sigma^2 \nu^2), \quad \log(\sigma / \mu) \sim N(\log(\sigma_j / \mu_j), \tau^2)

with a kernel of the differences between devices, one in which every candidate in its place costs what it likes, and one
in which it costs the same in all places. All are linear in known features, so everything is in closed form (Rasmussen
and Williams, Gaussian Processes for Machine Learning, section 2.7), and :math:`j, \sigma, \nu` and :math:`(a, b, c)`
are summed over a grid by their evidence. How often a device needs which deviation is learned from the sources, each in
the role of the new device. Where a coarse clock has rounded y to a step s, errors have s^2 / 12 more variance
(Sheppard's correction). To transfer between devices from ten measurements is HELP's idea (arXiv:2106.08630); no network
and no meta-training is needed here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from oneshot.cost.model import CostModel
from oneshot.regression.folds import networks_of
from oneshot.regression.rounding import rounding_step
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

from .fit import check_samples
from .transferred import TransferredCost, features_of, nonnegative_mixture

# Variances of the deviation, relative to that of the shape: differences between devices, places, candidates.
DEVIATIONS = ((0.1, 0.003, 0.003), (0.1, 0.01, 0.03), (0.3, 0.01, 0.01), (1.0, 0.03, 0.1), (1.0, 0.3, 1.0))
NOISES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # standard deviation of a measurement, relative to that of the shape
SCALES = (0.4, 0.6, 0.8, 1.0, 1.25, 1.6, 2.5)  # factors to the scale that fits the average device
SPREAD = 0.4  # standard deviation of the logarithm of sigma / mu around that of the device that is resembled, tau
OFFSET = 100.0  # variance of the offset in units of the scale: as good as unknown
UNEXPLAINED = 0.7  # noise from which on the sources say little about the device
STUDENT = 4.0  # degrees of freedom of the errors of measurements
ROUNDS = 3  # of down-weighting what is far from what the others say
MEASUREMENTS = 3
POPULATION = 2000  # random architectures that stand for the space
PROPOSAL = 2  # deviation that proposals are made for
MOST_FOLDS = 10  # of the choice between the model of this file and the mixture
OPPOSITE = 5  # measurements from which on their order is compared with that of the sources
SURE, DOUBTFUL = 0.01, 0.1  # probabilities of an order that is opposite by chance, for an error and for a warning

FewShotKind = Literal["transfer", "mixture", "auto"]


def log_evidence(y: Floats, centres: Floats, kernels: Floats, noises: Floats, scales: Floats) -> Floats:
    """Logarithm of the density of measurements under every hypothesis.

    Under one of them, ``y ~ N(s * c, s^2 (K + v^2 I))``.

    Args:
        y: Measurements, ``[K]``.
        centres: c, ``[K, J]``.
        kernels: K, ``[H, K, K]``.
        noises: v, ``[V]``.
        scales: s, ``[S]``.

    Returns:
        ``[H, V, S, J]``, without the constant ``-K/2 log(2 pi)`` they share.
    """
    values, vectors = np.linalg.eigh(kernels)
    variance = values[:, None, :].clip(0) + noises[:, None] ** 2  # [H, V, K]
    rotated_y, rotated = np.einsum("hkl,k->hl", vectors, y), np.einsum("hkl,kj->hjl", vectors, centres)
    # (y - s c)' C^-1 (y - s c), multiplied out
    precision = 1 / variance
    yy = np.einsum("hk,hvk->hv", rotated_y**2, precision)[:, :, None, None]
    yc = np.einsum("hk,hjk,hvk->hvj", rotated_y, rotated, precision)[:, :, None, :]
    cc = np.einsum("hjk,hvk->hvj", rotated**2, precision)[:, :, None, :]
    s = scales[None, None, :, None]
    determinant = np.log(variance).sum(-1)[:, :, None, None] + 2 * len(y) * np.log(s)
    return np.asarray(-0.5 * ((yy - 2 * s * yc + s**2 * cc) / s**2 + determinant))


class FewShot:
    """Transfer from known devices to a new one.

    Args:
        space: The search space.
        sources: Cost models of known devices, two or more, by their names or without, in any units; counts of MACs
            and parameters may be among them. :func:`~oneshot.cost.bundled_sources` has some.

    Raises:
        ValueError: If there are fewer than two sources, one is of another space, or costs the same everywhere.

    Example:
        >>> from oneshot.cost import bundled_sources
        >>> from oneshot.supernets import FBNetSpace
        >>> space = FBNetSpace()
        >>> sources = bundled_sources(space)
        >>> phone = sources.pop("pixel3")  # let this be the new device
        >>> few_shot = FewShot(space, sources)
        >>> genes = few_shot.propose(10)
        >>> latency = few_shot.fit(genes, phone.costs(genes))
        >>> test = space.sample_matrix(200, 1)
        >>> bool(abs(latency.costs(test) / phone.costs(test) - 1).mean() < 0.05)
        True
    """

    def __init__(self, space: SearchSpace, sources: Mapping[str, CostModel] | Sequence[CostModel]) -> None:
        if len(sources) < 2:
            raise ValueError(f"Transfer needs two or more source devices; got {len(sources)}. Use fit_predictor.")
        self.names = list(sources) if isinstance(sources, Mapping) else [f"number {i}" for i in range(len(sources))]
        self.space, self.sources = space, list(sources.values() if isinstance(sources, Mapping) else sources)
        for source in self.sources:
            space.check_same(source.space, "The cost model of every source", "Leave it out.")
        self._population = space.sample_matrix(POPULATION, 0)
        raw = features_of(space, self.sources, self._population)
        n = 1 + len(sources)
        self._mean, self._std = raw[:, 1:n].mean(0), raw[:, 1:n].std(0)
        differ = self._std > 1e-9 * np.abs(self._mean)
        if not differ.all():
            raise ValueError(
                "Costs on a source device must differ between architectures; those on "
                f"{self.names[int(np.argmin(differ))]} do not. Leave it out."
            )
        self._picks_mean = raw[:, n:].mean(0)
        self._factors = self._factor_kernels(raw[:, n:])

    def propose(
        self, n: int = 10, *, seed: int = 0, candidates: IntMatrix | None = None, noise: float = 0.3
    ) -> IntMatrix:
        """Architectures to measure: those that together tell most about all others.

        Greedy reduction of the mean posterior variance over the space (A-optimal design; Krause, Singh and Guestrin,
        JMLR 2008, for the greedy choice), which needs no measurement to be decided.

        Args:
            n: How many.
            seed: Of the candidates.
            candidates: What can be measured, ``[N, G]``; random architectures unless given.
            noise: Standard deviation of a measurement, relative to that of the costs over the space.

        Returns:
            Genes, ``[n, G]``, distinct, the most informative first.

        Raises:
            ValueError: If ``n`` is below 1 or there are fewer candidates.
        """
        pool = self.space.sample_matrix(POPULATION, seed) if candidates is None else np.asarray(candidates)
        pool = np.unique(pool, axis=0)
        if not 1 <= n <= len(pool):
            raise ValueError(f"n must be between 1 and {len(pool)}, the number of distinct candidates; got n={n}.")
        factor = np.hstack([self._factors[PROPOSAL], self._scale_factor()])
        x, everywhere = self._shapes(pool) @ factor, self._shapes(self._population) @ factor
        goal = everywhere.T @ everywhere / len(everywhere)
        projected, towards = x.copy(), x @ goal  # x C and x C goal, C the posterior covariance, at first 1
        chosen: list[int] = []
        for _ in range(n):
            variance = (projected * x).sum(1) + noise**2
            gain = (towards * projected).sum(1) / variance
            gain[chosen] = -1.0
            best = int(gain.argmax())
            chosen.append(best)
            step, shared = projected[best].copy(), x @ projected[best] / variance[best]
            projected -= np.outer(shared, step)
            towards -= np.outer(shared, step @ goal)
        return pool[chosen]

    def fit(
        self,
        genes: IntMatrix,
        values: npt.ArrayLike,
        *,
        unit: str = "ms",
        throughput: bool | None = None,
        kind: FewShotKind = "transfer",
        step: float | None = None,
    ) -> TransferredCost:
        """Cost model of the device that was measured.

        Args:
            genes: Measured architectures, ``[K, G]``, three or more; ten are good.
            values: What they cost there, ``[K]``.
            unit: Unit of the values.
            throughput: Whether the values are images per second; the model is of their reciprocal, ms per image. None
                means that they are costs, and refuses those whose order is clearly opposite to that of the known
                devices, which ten values need not show; False takes them as costs, whatever their order.
            kind: ``"transfer"`` is the model of this file, ``"mixture"`` :func:`~oneshot.cost.nonnegative_mixture`.
                ``"auto"`` cross-validates both, and takes the mixture where its mean relative error is smaller by more
                than one standard error.
            step: What the clock has rounded the values to, in ``unit``, such as 1.0 for whole milliseconds; 0 for a
                fine clock. By default it is found in the values.

        Returns:
            The model. A warning says so if the sources explain little of what was measured.

        Raises:
            ValueError: If too few architectures were measured, some values are not positive and finite (the rows are
                named), all are the same, they rank architectures the other way round than known devices, or options
                contradict each other.
        """
        if kind not in get_args(FewShotKind):
            raise ValueError(f"kind must be {', '.join(get_args(FewShotKind))}; got {kind!r}.")
        if step is not None and not 0 <= step < np.inf:
            raise ValueError(f"step must be 0 or more, such as 1.0 for whole milliseconds; got {step}.")
        if throughput and (unit != "ms" or step):
            raise ValueError(
                "throughput=True takes images per second and gives ms, which no clock has rounded; leave "
                f"unit={unit!r} and step={step} out."
            )
        y = check_samples(self.space, genes, values, what="images per second" if throughput else "times")
        y = 1000.0 / y if throughput else y
        if (networks := len(np.unique(genes, axis=0))) < MEASUREMENTS:
            of = f" of {networks} different architectures" if networks < len(y) else ""
            raise ValueError(
                f"Transfer needs measurements of at least {MEASUREMENTS} different architectures, better 10; got "
                f"{len(y)}{of}."
            )
        if np.ptp(y) == 0:
            raise ValueError(
                f"All {len(y)} measurements are {y[0]} {unit}, which tells nothing. Is the timer too coarse? Measure "
                "larger batches, or architectures that differ more."
            )
        if throughput is not False:
            self._check_order(genes, y, bool(throughput))
        step = (0.0 if throughput else rounding_step(y)) if step is None else step

        def transfer(rows: IntMatrix, costs: Floats) -> TransferredCost:
            return self._transfer(rows, costs, step, unit)[0]

        def mixture(rows: IntMatrix, costs: Floats) -> TransferredCost:
            return nonnegative_mixture(self.sources, rows, costs, unit=unit)

        if kind == "mixture" or (kind == "auto" and _is_better(mixture, transfer, genes, y)):
            model = mixture(genes, y)
            explained = model.noise <= UNEXPLAINED * y.std()
        else:
            model, explained = self._transfer(genes, y, step, unit)
        if not explained:
            warnings.warn(
                f"The known devices explain little of these {len(y)} measurements: this device is like none of them, "
                "or the measurements are noisy. The interval is wide; measure more often, or more architectures.",
                stacklevel=2,
            )
        return model

    def _check_order(self, genes: IntMatrix, y: Floats, throughput: bool) -> None:
        """Refuse costs that fall where those of known devices rise: most likely, they are no costs."""
        from scipy.stats import spearmanr

        average = self._shapes(genes)[:, 1 : 1 + len(self.sources)].mean(1)
        if len(y) < OPPOSITE or np.ptp(average) == 0:
            return
        rho, chance = spearmanr(average, y)
        if rho >= 0 or chance > DOUBTFUL:
            return
        text = (
            f"Costs must rise where those of known devices rise; these {len(y)} fall (rank correlation {rho:.2f} with "
            "the mean of the sources). "
        )
        if throughput:
            text += "They are 1000 over the values that were given: if these are milliseconds already, leave "
            text += "throughput=True out."
        else:
            text += "If they are images per second, give throughput=True. If they are costs, check that every value "
            text += "belongs to the architecture of its row; throughput=False takes them as they are."
        if chance < SURE:
            raise ValueError(text)
        warnings.warn(text, stacklevel=3)

    def _transfer(self, genes: IntMatrix, y: Floats, step: float, unit: str) -> tuple[TransferredCost, bool]:
        """The model of costs ``[K]`` that were rounded to a step, and whether the sources explain them."""
        x = self._shapes(genes)
        devices, frequency = list(range(len(self.sources))), self._frequency(x)
        trust = np.ones(len(y))
        for _ in range(ROUNDS):
            root = np.sqrt(trust)[:, None]
            middle, scale, evidence, kernels = self._evidence(y, x, devices, trust, step**2 / 12)
            evidence += np.log(frequency)[:, None, None, None]
            weights = np.exp(evidence - evidence.max())
            weights /= weights.sum()
            weighted = (y - middle) / scale * root[:, 0], x * root
            trust = (STUDENT + 1) / (STUDENT + self._surprise(*weighted, weights, kernels) / trust)
        mean, covariance, noise = self._posterior(*weighted, weights, kernels)
        # from shapes back to the costs of the sources, and to the unit
        to_raw = np.eye(x.shape[1])
        n = 1 + len(self.sources)
        to_raw[range(1, n), range(1, n)] = 1 / self._std
        to_raw[0, 1:n] = -self._mean / self._std
        to_raw[0, n:] = -self._picks_mean
        mean, covariance = scale * to_raw @ mean, scale**2 * to_raw @ covariance @ to_raw.T
        mean[0] += middle
        model = TransferredCost(
            self.space, self.sources, mean, covariance, noise=scale * noise, freedom=len(y) - 1, unit=unit
        )
        model.least = float(y.min()) / 2
        return model, noise <= UNEXPLAINED

    def _shapes(self, genes: IntMatrix) -> Floats:
        """Constant, shapes of the sources, centred picks: ``[N, G]`` -> ``[N, 1 + S + P]``."""
        x = features_of(self.space, self.sources, genes)
        n = 1 + len(self.sources)
        x[:, 1:n] = (x[:, 1:n] - self._mean) / self._std
        x[:, n:] -= self._picks_mean
        return x

    def _factor_kernels(self, picks: Floats) -> list[Floats]:
        """For each deviation, F with ``kernel = (shapes F)(shapes F)'``, of which each part has mean variance 1."""
        devices, places = len(self.sources), picks.shape[1]
        centred = picks - self._picks_mean
        tied, start = np.zeros((places, 0)), 0
        for choice in self.space.choices:
            size = len(choice.picks)
            part = np.zeros((places, size))
            part[start : start + choice.rows * size] = np.tile(np.eye(size), (choice.rows, 1))
            tied, start = np.hstack([tied, part]), start + choice.rows * size
        by_place = np.eye(places) / np.sqrt((centred**2).sum(1).mean())
        by_candidate = tied / np.sqrt(((centred @ tied) ** 2).sum(1).mean())
        factors = []
        for device, place, candidate in DEVIATIONS:
            factor = np.zeros((1 + devices + places, 1 + devices + places + tied.shape[1]))
            factor[0, 0] = np.sqrt(OFFSET)
            factor[1 : 1 + devices, 1 : 1 + devices] = _differences(devices, device)
            factor[1 + devices :, 1 + devices :] = np.hstack(
                [np.sqrt(place) * by_place, np.sqrt(candidate) * by_candidate]
            )
            factors.append(factor)
        return factors

    def _scale_factor(self) -> Floats:
        """The direction of an unknown scale: the average device, half of it up or down."""
        factor = np.zeros((len(self._factors[0]), 1))
        factor[1 : 1 + len(self.sources)] = 0.5 / len(self.sources)
        return factor

    def _evidence(
        self, y: Floats, x: Floats, devices: list[int], trust: Floats, rounding: float = 0.0
    ) -> tuple[float, float, Floats, Floats]:
        """Middle and scale of measurements, their evidence ``[H, V, S, J]`` from these devices, and the kernels.

        The variance of the rounding of measurements is part of the kernels.
        """
        columns, scales = [1 + d for d in devices], np.array(SCALES)
        average = x[:, columns].mean(1)
        middle, scale = _middle_and_scale(y, average, trust)
        root = np.sqrt(trust)
        rows = x * root[:, None]
        kernels = []
        for factor, (device, _, _) in zip(self._factors, DEVIATIONS):
            part = factor.copy()
            part[1 : 1 + len(self.sources)] = 0
            part[np.ix_(columns, columns)] = _differences(len(devices), device)
            kernels.append((rows @ part) @ (rows @ part).T + np.diag(trust * rounding / scale**2))
        centred = (y - middle) / scale * root
        evidence = log_evidence(centred, rows[:, columns], np.stack(kernels), np.array(NOISES), scales)
        everywhere = middle - scale * float(
            trust @ average / trust.sum()
        )  # mean over the space, if this is the average device
        if everywhere > 0:
            known = np.log(self._std[devices] / np.abs(self._mean[devices]))
            evidence -= 0.5 * ((np.log(scale * scales / everywhere)[:, None] - known) / SPREAD) ** 2
        return middle, scale, evidence, np.stack(kernels)

    def _frequency(self, x: Floats) -> Floats:
        """How often each deviation is needed, ``[H]``: every source in the role of the new device, and one of each."""
        count = np.ones(len(DEVIATIONS))
        for device in range(len(self.sources)):
            others = [d for d in range(len(self.sources)) if d != device]
            y = self._mean[device] + self._std[device] * x[:, 1 + device]
            if np.ptp(y) == 0:
                continue
            *_, evidence, _ = self._evidence(y, x, others, np.ones(len(y)))
            share = np.exp(evidence - evidence.max()).sum((1, 2, 3))
            count += share / share.sum()
        return np.asarray(count / count.sum())

    def _surprise(self, y: Floats, x: Floats, weights: Floats, kernels: Floats) -> Floats:
        """Squared errors of measurements predicted from all others, in units of their variance, ``[K]``.

        They are averaged over all hypotheses, and in closed form (Rasmussen and Williams, section 5.4.2).
        """
        surprise, scales = np.zeros(len(y)), np.array(SCALES)
        centres = x[:, 1 : 1 + len(self.sources)]
        for h, kernel in enumerate(kernels):
            for v, noise in enumerate(NOISES):
                inverse = np.linalg.inv(kernel + noise**2 * np.eye(len(y)))
                alone = (inverse @ y)[:, None, None] / scales[:, None] - (inverse @ centres)[:, None]  # [K, S, J]
                surprise += np.einsum("ksj,sj->k", alone**2, weights[h, v]) / np.diag(inverse)
        return surprise

    def _posterior(self, y: Floats, x: Floats, weights: Floats, kernels: Floats) -> tuple[Floats, Floats, float]:
        """Mean and covariance of the coefficients of the shapes, and noise, averaged over all hypotheses."""
        size, devices = x.shape[1], len(self.sources)
        noises, scales = np.array(NOISES), np.array(SCALES)
        means, shares, covariance = [], [], np.zeros((size, size))
        for h, (factor, kernel) in enumerate(zip(self._factors, kernels)):
            prior = factor @ factor.T
            for v, noise in enumerate(noises):
                gain = np.linalg.solve(kernel + noise**2 * np.eye(len(y)), x @ prior).T  # [D, K]
                covariance += (weights[h, v].sum(1) * scales**2).sum() * (prior - gain @ x @ prior)
                from_centres = np.eye(size)[:, 1 : 1 + devices] - gain @ x[:, 1 : 1 + devices]
                means.append((gain @ y)[:, None, None] + scales[:, None] * from_centres[:, None, :])  # [D, S, J]
                shares.append(weights[h, v])
        every, share = (
            np.concatenate([m.reshape(size, -1) for m in means], axis=1),
            np.concatenate([w.ravel() for w in shares]),
        )
        mean = every @ share
        spread = (every - mean[:, None]) * np.sqrt(share)
        variance = np.einsum("hvsj,v,s->", weights, noises**2, scales**2)
        return mean, covariance + spread @ spread.T, float(np.sqrt(variance))


def _is_better(
    first: Callable[[IntMatrix, Floats], CostModel],
    second: Callable[[IntMatrix, Floats], CostModel],
    genes: IntMatrix,
    y: Floats,
) -> bool:
    """Whether the first has the smaller relative error in cross-validation, by more than one standard error."""
    fold, gain = networks_of(genes) % MOST_FOLDS, np.zeros(len(y))
    for f in np.unique(fold):
        rest, out = fold != f, fold == f
        if np.ptp(y[rest]) == 0:
            return False  # no scale is known without these
        ours, theirs = (np.abs(fit(genes[rest], y[rest]).costs(genes[out]) / y[out] - 1) for fit in (first, second))
        gain[out] = theirs - ours
    return bool(gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)))


def _differences(devices: int, variance: float) -> Floats:
    """Factor of the kernel of the differences between devices, ``[S, S]``."""
    return np.asarray(np.sqrt(variance / devices) * (np.eye(devices) - 1 / devices))


def _middle_and_scale(y: Floats, average: Floats, trust: Floats) -> tuple[float, float]:
    """Mean of y, and the scale that fits the average device, at least half of what the spread of y says."""
    share = trust / trust.sum()
    middle, reference = float(share @ y), average - share @ average
    squares = max(float(share @ reference**2), 1e-12)
    spread = float(np.sqrt(share @ (y - middle) ** 2 / squares))
    return middle, max(float(share @ ((y - middle) * reference)) / squares, 0.5 * spread)
