"""Learn cost models from measured architectures, and choose among them by cross-validation.

The linear ones fit robustly (Cauchy weights of the leave-one-out residuals), because timers of phones round to
milliseconds and stall.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from oneshot.cost.counting.work import Work
from oneshot.regression.encoding import one_hot
from oneshot.regression.floors import robust_floor
from oneshot.regression.folds import Mask, cross_validate, folds_of, networks_of
from oneshot.regression.ridge import of_features, of_gram, robust_dual, robust_ridge
from oneshot.regression.scores import Agreement
from oneshot.supernets.elastic import ElasticSpace
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

from .ceiling import noise_ceiling
from .predictors import (
    BoostingPredictor,
    ElasticPredictor,
    FloorPredictor,
    Kind,
    LinearPredictor,
    MLPPredictor,
    Predictor,
    ResolutionPredictor,
    WorkPredictor,
)

SAMPLES: dict[Kind, int] = {
    "additive": 10,
    "pairwise": 30,
    "floor": 30,
    "boosting": 50,
    "mlp": 50,
    "elastic": 30,
    "work": 20,
}  # fewer than that are refused

MOST_PAIRWISE = 2500  # samples; the time grows with their cube

OUTLIER = 10  # times the median relative error: more does not count in the choice of a kind

PAIRS = (0.03, 0.3)  # prior variance of a pair's term, that of a single pick's term being 1


def check_samples(space: SearchSpace, genes: IntMatrix, values: npt.ArrayLike, *, what: str = "costs") -> Floats:
    """Values as a float vector, if they are measurements of ``genes``.

    Raises:
        ValueError: If a gene is out of range, the lengths differ, or a value is not finite or not above 0; the rows
            are named.
    """
    space.decode(genes)
    y = np.asarray(values, np.float64)
    if y.shape != (len(genes),):
        raise ValueError(f"{len(genes)} architectures must have as many {what}; got values of shape {list(y.shape)}.")
    bad = np.flatnonzero(~(np.isfinite(y) & (y > 0)))
    if len(bad):
        rows = ", ".join(f"row {i}: {y[i]}" for i in bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise ValueError(
            f"Measured {what} must be finite and above 0; got {rows}. Measure these again or leave them out."
        )
    return y


def fit_predictor(
    space: SearchSpace,
    genes: IntMatrix,
    values: npt.ArrayLike,
    *,
    kind: Kind | Literal["auto"] = "auto",
    unit: str = "ms",
    throughput: bool = False,
    image_sizes: npt.ArrayLike | None = None,
    work: Work | None = None,
    seed: int = 0,
    noise: float | None = None,
) -> Predictor:
    """Learn what architectures cost from measurements.

    Args:
        space: The search space.
        genes: Measured architectures, ``[N, G]``.
        values: What they cost, ``[N]``, above 0.
        kind: ``"auto"`` takes the kind with the smallest mean relative error in five-fold cross-validation, single
            errors cut at ten times their median, among those there are enough samples for; ``"floor"`` is among them
            where a floor is seen in the samples.
        unit: Unit of the values.
        throughput: The values are images per second; the predictor is of their reciprocal, ms per image, which layers
            add up to.
        image_sizes: Height and width each architecture was measured at, ``[N]``. Additive costs only; the result is a
            :class:`ResolutionPredictor` at the largest, and ``at(size)`` gives others.
        work: What the operators of the networks do, see :func:`~oneshot.cost.counting.work.work_of`; for the kind
            ``"work"``.
        seed: Of folds, boosting and networks.
        noise: Relative standard deviation of one measurement, if it is known; for the ceiling.

    Returns:
        The predictor; its ``validation`` holds Kendall's tau, the error bounds and the rest for every kind tried. Its
        ``ceiling`` says what a perfect model would reach, where the noise is known: from ``noise``, networks that were
        measured twice, or the step that the clock rounds to.

    Raises:
        ValueError: If there are too few samples (how many are needed is said), values are not positive and finite (the
            rows are named), or options contradict each other.
    """
    if throughput and unit != "ms":
        raise ValueError(f"throughput=True takes images per second and gives ms; leave unit={unit!r} out.")
    y = check_samples(space, genes, values)
    ceiling = noise_ceiling(genes, y, noise=noise, throughput=throughput)
    y = 1000.0 / y if throughput else y
    own = {"elastic": isinstance(space, ElasticSpace), "work": work is not None}
    known: list[Kind] = [k for k in get_args(Kind) if own.get(k, True)]
    if kind not in ("auto", *known):
        raise ValueError(f"kind must be auto, {', '.join(known)} in space {space.name!r}; got {kind!r}.")
    sizes = None if image_sizes is None else _check_sizes(image_sizes, len(y))
    if sizes is not None and kind not in ("auto", "additive"):
        raise ValueError(f"kind must be 'additive' where there are image sizes; got kind={kind!r}. Leave the kind out.")
    kinds: Sequence[Kind] = ["additive"] if sizes is not None else known if kind == "auto" else [kind]
    needed = min(SAMPLES[k] for k in kinds) * (1 if sizes is None else 2)
    if len(y) < needed:
        what = " with image sizes" if sizes is not None else ""
        raise ValueError(
            f"A predictor of kind {kind!r}{what} needs at least {needed} samples; got {len(y)}. Measure more, or "
            "transfer from known devices with FewShot."
        )
    tried = [
        k for k in kinds if len(y) >= SAMPLES[k] and not (k == "pairwise" and kind == "auto" and len(y) > MOST_PAIRWISE)
    ]
    if kind == "auto" and "floor" in tried and not additive_with_floor(space, genes, y).floor:
        tried.remove("floor")
    chosen = _best(tried, _Samples(space, genes, y, sizes, unit, seed, work))
    chosen.ceiling = ceiling if sizes is None else None  # of one size
    return chosen


@dataclass(frozen=True)
class _Samples:
    """Measurements, and what every kind of predictor is fitted with; see :func:`fit_predictor`."""

    space: SearchSpace
    genes: IntMatrix
    y: Floats
    sizes: npt.NDArray[np.int64] | None
    unit: str
    seed: int
    work: Work | None = None

    def of(self, rows: Mask) -> _Samples:
        """Some of them."""
        sizes = None if self.sizes is None else self.sizes[rows]
        return replace(self, genes=self.genes[rows], y=self.y[rows], sizes=sizes)

    def fit(self, kind: Kind) -> Predictor:
        """A predictor of them."""
        space, genes, y, unit = self.space, self.genes, self.y, self.unit
        if kind == "boosting":
            return BoostingPredictor(space, genes, y, unit=unit, seed=self.seed)
        if kind == "mlp":
            return MLPPredictor(space, genes, y, unit=unit, seed=self.seed)
        if kind == "work" and self.work is not None:
            return WorkPredictor(self.work, genes, y, unit=unit)
        if kind == "pairwise":
            return robust_pairwise(space, genes, y, unit=unit)
        if kind == "floor":
            return additive_with_floor(space, genes, y, unit=unit)
        if isinstance(space, ElasticSpace) and kind == "elastic":
            return ElasticPredictor(space, genes, y, unit=unit)
        if self.sizes is None:
            return robust_additive(space, genes, y, unit=unit)
        return robust_resolution(space, genes, y, self.sizes, unit=unit)

    def predict(self, model: Predictor) -> Floats:
        """What a model says of them, ``[N]``."""
        if self.sizes is None or not isinstance(model, ResolutionPredictor):
            return model.predict(self.genes)
        return model.constant.predict(self.genes) + self.sizes**2 * model.growth.predict(self.genes)

    def held_out(self, kind: Kind, fold: npt.NDArray[np.int64]) -> Floats:
        """What models of the other folds say of every sample, ``[N]``."""
        return cross_validate(fold, lambda train, test: self.of(test).predict(self.of(train).fit(kind)))


def _best(kinds: Sequence[Kind], samples: _Samples) -> Predictor:
    """The kind with the smallest mean relative error in cross-validation, fitted to all samples.

    Errors count up to ``OUTLIER`` times the median: a network that was measured while something else ran is wrong for
    all kinds, and does not choose.
    """
    space, y, networks = samples.space, samples.y, networks_of(samples.genes)
    fold = folds_of(int(networks.max()) + 1, samples.seed)[networks]  # a network in two folds would tell on itself
    held_out = {kind: samples.held_out(kind, fold) for kind in kinds}
    errors = {kind: np.abs(held_out[kind] / y - 1) for kind in kinds}
    most = OUTLIER * min(float(np.median(error)) for error in errors.values())
    best = min(errors, key=lambda kind: float(np.mean(np.minimum(errors[kind], most) if most else errors[kind])))
    chosen = samples.fit(best)
    chosen.least = float(y.min()) / 2
    order = sorted(held_out, key=lambda kind: kind != best)
    chosen.validation = {kind: Agreement.of(held_out[kind], y) for kind in order}
    chosen._seen = one_hot(space, samples.genes).sum(0) > 0
    chosen._errors = np.sort(np.abs(y - held_out[best]) / np.maximum(np.abs(held_out[best]), 1e-12))
    free = int(sum(space.gene_sizes) - space.num_genes + 1) * (1 if samples.sizes is None else 2)
    if best == "additive" and len(y) < free:
        warnings.warn(
            f"{len(y)} samples are fewer than the {free} costs of space {space.name!r}; the error in cross-validation "
            f"is {np.mean(chosen._errors):.0%}. Measure more, or transfer from known devices with FewShot.",
            stacklevel=3,
        )
    return chosen


def _check_sizes(image_sizes: npt.ArrayLike, n: int) -> npt.NDArray[np.int64]:
    sizes = np.asarray(image_sizes)
    if sizes.shape != (n,) or not np.issubdtype(sizes.dtype, np.integer) or (sizes < 1).any():
        raise ValueError(f"Image sizes must be one positive integer for each of {n} samples; got {sizes.tolist()[:5]}.")
    if len(np.unique(sizes)) < 2:
        raise ValueError(f"All samples have images of {sizes[0]} pixels; leave image_sizes out, or measure two sizes.")
    return sizes.astype(np.int64)


def robust_resolution(
    space: SearchSpace, genes: IntMatrix, y: Floats, sizes: npt.NDArray[np.int64], *, unit: str = "ms"
) -> ResolutionPredictor:
    """Additive costs of images of different sizes by :func:`robust_ridge`; ``[N, G]``, ``[N]`` and ``[N]``."""
    x = one_hot(space, genes)
    area = sizes[:, None] ** 2 / float(sizes.max()) ** 2
    features = np.hstack([x, area * x, area])
    both, offset = robust_ridge(features, y)
    size = x.shape[1]
    growth = both / float(sizes.max()) ** 2
    return ResolutionPredictor(
        LinearPredictor(space, both[:size], offset=offset, unit=unit),
        LinearPredictor(space, growth[size:-1], offset=growth[-1], unit=unit),
        image_size=int(sizes.max()),
    )


def robust_additive(space: SearchSpace, genes: IntMatrix, y: Floats, *, unit: str = "ms") -> LinearPredictor:
    """Additive costs by :func:`robust_ridge`; ``[N, G]`` and ``[N]``."""
    coefficients, offset = robust_ridge(one_hot(space, genes), y)
    return LinearPredictor(space, coefficients, offset=offset, unit=unit)


def additive_with_floor(space: SearchSpace, genes: IntMatrix, y: Floats, *, unit: str = "ms") -> FloorPredictor:
    """Additive costs with a floor by :func:`~oneshot.regression.floors.robust_floor`; ``[N, G]`` and ``[N]``."""
    found = robust_floor(one_hot(space, genes), y)
    additive = LinearPredictor(space, found.coefficients, offset=found.intercept, unit=unit)
    return FloorPredictor(additive, found.floor)


def robust_pairwise(space: SearchSpace, genes: IntMatrix, y: Floats, *, unit: str = "ms") -> LinearPredictor:
    """The same with pairs; by a kernel, where there are more pairs than samples.

    Raises:
        ValueError: If there are too many of both.
    """
    x = one_hot(space, genes)
    first, second = _different_genes(space)
    if min(len(first), len(y)) > MOST_PAIRWISE:
        raise ValueError(
            f"Pairwise costs of space {space.name!r} have {len(first)} pairs and are fitted to at most {MOST_PAIRWISE} "
            f"samples; got {len(y)}. Take fewer, or another kind."
        )
    fits = []
    for variance in PAIRS:
        if len(first) < len(y):
            decompose = of_features(np.hstack([x, np.sqrt(variance) * x[:, first] * x[:, second]]))
        else:
            matches = x @ x.T  # of m picks in common, m (m - 1) / 2 pairs are
            decompose = of_gram(matches + variance * (matches**2 - matches) / 2)
        fits.append((*robust_dual(y, decompose), variance))
    dual, share, middle, _, variance = min(fits, key=lambda fit: fit[3])
    every, together = variance * (x.T * dual) @ x, (x.T * share) @ x
    pairs = np.zeros_like(every)
    pairs[first, second], pairs[second, first] = every[first, second], every[second, first]
    coefficients = x.T @ dual
    offset = middle - share @ x @ coefficients - (pairs * together).sum() / 2
    return LinearPredictor(space, coefficients, offset=offset, pairs=pairs, unit=unit)


def _different_genes(space: SearchSpace) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Index pairs of picks, the first below the second, that can meet in an architecture."""
    gene = np.repeat(np.arange(space.num_genes), space.gene_sizes)
    first, second = np.triu_indices(len(gene), 1)
    meet = gene[first] != gene[second]
    return first[meet], second[meet]
