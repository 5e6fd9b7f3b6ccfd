"""Cost models learned from measured architectures, with an interval and a word where they know nothing.

``additive`` is a ridge regression on the one-hot genes, ``pairwise`` has a term for every pair of picks as well,
``boosting`` is gradient boosting and ``mlp`` an ensemble of small networks, both of the logarithm. ``elastic``, of
elastic spaces only, is linear in what a layer costs at its resolution and width. The linear ones fit
robustly (Cauchy weights of the leave-one-out residuals), because timers of phones round to milliseconds and stall.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from oneshot.cost.counting.elastic import expectation, gather
from oneshot.cost.model import CostModel
from oneshot.regression.encoding import Floats, one_hot, soft_one_hot
from oneshot.regression.ridge import of_features, of_gram, robust_dual, robust_ridge
from oneshot.regression.scores import Agreement
from oneshot.supernets.elastic import RESOLUTION, WIDTH, ElasticSpace
from oneshot.supernets.space import IntMatrix, SearchSpace

Kind = Literal["additive", "pairwise", "boosting", "mlp", "elastic"]

FOLDS = 5

SAMPLES: dict[Kind, int] = {
    "additive": 10,
    "pairwise": 30,
    "boosting": 50,
    "mlp": 50,
    "elastic": 30,
}  # fewer than that are refused

MOST_PAIRWISE = 2500  # samples; the time grows with their cube

PAIRS = (0.03, 0.3)  # prior variance of a pair's term, that of a single pick's term being 1

TREES = 300  # of boosting

MEMBERS, HIDDEN, STEPS = 4, 64, 300  # of the ensemble of networks


def check_samples(space: SearchSpace, genes: IntMatrix, values: npt.ArrayLike, *, what: str = "costs") -> Floats:
    """Values as a float vector, if they are measurements of ``genes``.

    Raises:
        ValueError: If a gene is out of range, the lengths differ, or a value is not finite or not above 0; the rows
            are named.
    """
    space.decode(genes)
    y = np.asarray(values, np.float64)
    if y.shape != (len(genes),):
        raise ValueError(f"{len(genes)} architectures have as many {what}; got values of shape {list(y.shape)}.")
    bad = np.flatnonzero(~(np.isfinite(y) & (y > 0)))
    if len(bad):
        rows = ", ".join(f"row {i}: {y[i]}" for i in bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise ValueError(f"Measured {what} are finite and above 0; got {rows}. Measure these again or leave them out.")
    return y


class Predictor(CostModel):
    """A learned cost model.

    Attributes:
        validation: How well each kind did in cross-validation.
        kind: Which kind this is.
    """

    kind: Kind

    def __init__(self, space: SearchSpace, *, unit: str) -> None:
        super().__init__()
        self.space, self.unit = space, unit
        self.validation: dict[Kind, Agreement] = {}
        self._seen: npt.NDArray[np.bool_] | None = None
        self._errors: Floats | None = None

    @abstractmethod
    def predict(self, genes: IntMatrix) -> Floats:
        """Costs ``[N]`` of ``[N, G]``, without a look at what was sampled."""

    def costs(self, genes: IntMatrix) -> Floats:
        """Costs of many architectures: ``[N, G]`` -> ``[N]``. Warns of picks that no sample had."""
        if self._seen is not None and len(genes):
            self._warn_out_of_support(genes)
        return self.predict(genes)

    def interval(self, genes: IntMatrix, level: float = 0.9) -> tuple[Floats, Floats]:
        """Where a measurement of each architecture falls with probability ``level``.

        Quantiles of the relative errors in cross-validation (split conformal prediction, Lei et al., JASA 2018, with
        the cross-validated residuals in place of held-out ones).

        Args:
            genes: Architectures, ``[N, G]``.
            level: Between 0 and 1.

        Returns:
            Lower and upper ends, ``[N]`` each.

        Raises:
            ValueError: If the level is not between 0 and 1, or needs more samples than there were.
            RuntimeError: If the predictor was not fitted here.
        """
        if self._errors is None:
            raise RuntimeError(
                "An interval needs the errors of cross-validation; get the predictor from fit_predictor."
            )
        if not 0 < level < 1:
            raise ValueError(f"The level of an interval is between 0 and 1, such as 0.9; got {level}.")
        n = len(self._errors)
        rank = int(np.ceil((n + 1) * level))
        if rank > n:
            raise ValueError(
                f"An interval of level {level} needs at least {int(np.ceil(level / (1 - level)))} samples; this "
                f"predictor had {n}. Measure more, or ask for a lower level."
            )
        middle = self.costs(genes)
        width = self._errors[rank - 1] * np.abs(middle)
        return np.maximum(middle - width, 0.0), middle + width

    def _warn_out_of_support(self, genes: IntMatrix) -> None:
        assert self._seen is not None
        names = [f"{c.name}[{row}] = {pick}" for c in self.space.choices for row in range(c.rows) for pick in c.picks]
        offsets = np.cumsum([0, *self.space.gene_sizes[:-1]])
        used = np.unique(genes + offsets)
        unseen = [names[i] for i in used[~self._seen[used]]]
        if unseen:
            listed = ", ".join(unseen[:3]) + (f" and {len(unseen) - 3} more" if len(unseen) > 3 else "")
            warnings.warn(
                f"No measured architecture has {listed}; the cost there is a guess. Measure some that do.", stacklevel=3
            )


class LinearPredictor(Predictor):
    """A cost for every pick in its place, and if wanted for every pair of picks.

    The expectation under edge weights is exact if the rows are independent.

    Args:
        space: The search space.
        coefficients: Of the picks of all genes, ``[P]``, in the order of :func:`one_hot`.
        offset: Cost of what is in every architecture.
        pairs: Of pairs of picks, ``[P, P]``, symmetric; an architecture pays every pair once. None for additive costs.
        unit: Unit of the costs.

    Raises:
        ValueError: If the coefficients do not have the shapes of the space, or are not finite.
    """

    def __init__(
        self,
        space: SearchSpace,
        coefficients: npt.ArrayLike,
        *,
        offset: float = 0.0,
        pairs: npt.ArrayLike | None = None,
        unit: str = "ms",
    ) -> None:
        super().__init__(space, unit=unit)
        self.kind = "additive" if pairs is None else "pairwise"
        self.offset = float(offset)
        size = sum(space.gene_sizes)
        matrix = np.zeros((0, 0)) if pairs is None else np.asarray(pairs, np.float64)
        vector = np.asarray(coefficients, np.float64)
        if vector.shape != (size,) or matrix.shape not in ((0, 0), (size, size)):
            raise ValueError(
                f"Linear costs of space {space.name!r} have {size} coefficients, and {size} x {size} of pairs or none; "
                f"got shapes {list(vector.shape)} and {list(matrix.shape)}. Are they of another space?"
            )
        if not (np.isfinite(vector).all() and np.isfinite(matrix).all() and np.isfinite(self.offset)):
            raise ValueError(f"Coefficients of costs are finite; those in {unit} are not.")
        self.register_buffer("coefficients", torch.from_numpy(vector.copy()))
        self.register_buffer("pairs", torch.from_numpy(matrix.copy()))

    def predict(self, genes: IntMatrix) -> Floats:
        table, total, start = self.get_buffer("coefficients").cpu().numpy(), np.full(len(genes), self.offset), 0
        for gene, size in enumerate(self.space.gene_sizes):
            total += table[start : start + size][genes[:, gene]]
            start += size
        pairs = self.get_buffer("pairs").cpu().numpy()
        if len(pairs):
            for first in range(0, len(genes), 4096):
                x = one_hot(self.space, genes[first : first + 4096])
                total[first : first + 4096] += ((x @ pairs) * x).sum(1) / 2
        return total

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        x = soft_one_hot(self.space, weights)
        total = self.offset + self.get_buffer("coefficients").to(x) @ x
        pairs = self.get_buffer("pairs").to(x)
        return total + x @ pairs @ x / 2 if len(pairs) else total

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; numbers keep six digits, of pairs only those between different genes are listed."""
        pairs = self.get_buffer("pairs").cpu().numpy()
        listed = {} if not len(pairs) else {"pairs": [_digits(pairs[i, i + 1 :]) for i in range(len(pairs) - 1)]}
        coefficients = _digits(self.get_buffer("coefficients").cpu().numpy())
        return {"unit": self.unit, "offset": float(f"{self.offset:.6g}"), "coefficients": coefficients, **listed}

    @classmethod
    def from_dict(cls, space: SearchSpace, data: Mapping[str, Any]) -> LinearPredictor:
        """Inverse of :meth:`to_dict`."""
        pairs = None
        if "pairs" in data:
            size = len(data["pairs"]) + 1
            pairs = np.zeros((size, size))
            pairs[np.triu_indices(size, 1)] = np.concatenate([np.asarray(row, np.float64) for row in data["pairs"]])
            pairs += pairs.T
        return cls(space, data["coefficients"], offset=data["offset"], pairs=pairs, unit=data["unit"])


class ResolutionPredictor(Predictor):
    """Additive costs of which a part grows with the number of pixels: ``a(genes) + b(genes) * image_size ** 2``.

    Args:
        constant: a.
        growth: b.
        image_size: Height and width that :meth:`costs` and :meth:`expected` are for.
    """

    kind: Kind = "additive"

    def __init__(self, constant: LinearPredictor, growth: LinearPredictor, *, image_size: int) -> None:
        super().__init__(constant.space, unit=constant.unit)
        self.constant, self.growth, self.image_size = constant, growth, image_size

    def at(self, image_size: int) -> ResolutionPredictor:
        """The same predictor for images of another size."""
        other = ResolutionPredictor(self.constant, self.growth, image_size=image_size)
        other.validation, other._seen, other._errors = self.validation, self._seen, self._errors
        return other

    def predict(self, genes: IntMatrix) -> Floats:
        return self.constant.predict(genes) + self._pixels * self.growth.predict(genes)

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self.constant.expected(weights) + self._pixels * self.growth.expected(weights)

    @property
    def _pixels(self) -> int:
        assert self.image_size is not None
        return self.image_size**2


class ElasticPredictor(Predictor):
    r"""A cost for every block in its layer that depends on the resolution r and the width w, relative to the largest.

    .. math:: c = \sum_l \sum_j f_j(r, w) \, (a_{j l g_l} + b_{j s g_l} + d_{j g_l} + e_{j s}) + \sum_j f_j(r, w) h_j,
        \quad f = (1, r^2, r^2 w^2, r^2 [w = w_1], r^2 [w = w_2], \dots)

    where layer l of stage s has block g_l. Layers of a stage but the first share b, all layers d, all blocks of a stage
    e: so few samples tell what blocks have in common, and more of them where they differ.

    Args:
        space: The space.
        genes: Measured architectures, ``[N, G]``.
        values: Their costs, ``[N]``.
        unit: Unit of the costs.
    """

    kind: Kind = "elastic"

    def __init__(self, space: ElasticSpace, genes: IntMatrix, values: Floats, *, unit: str = "ms") -> None:
        super().__init__(space, unit=unit)
        factors = _growth(space)  # [K, J]
        shared = _shared_terms(space)  # [L * P, T]
        widths, layers = len(space[WIDTH].candidates), space.num_genes - 2
        picks = len(shared) // layers
        used = np.eye(picks)[np.minimum(genes[:, 2:], picks - 1)].reshape(len(genes), -1)
        for column, (gene, pick) in enumerate(np.ndindex(layers, picks)):
            used[:, column] *= pick < space.gene_sizes[2 + gene] - 1  # what is left out costs nothing
        terms = np.hstack([used @ shared, np.ones((len(genes), 1))])  # [N, T + 1]
        own = factors[genes[:, 0] * widths + genes[:, 1]]  # [N, J]
        features = (own[:, :, None] * terms[:, None]).reshape(len(genes), -1)
        coefficients, offset = robust_ridge(features, values)
        matrix = coefficients.reshape(own.shape[1], -1)  # [J, T + 1]
        table = (factors @ matrix[:, :-1] @ shared.T).reshape(len(factors), layers, picks)
        for gene in range(layers):
            table[:, gene, space.gene_sizes[2 + gene] - 1 :] = 0
        self.register_buffer("table", torch.from_numpy(table))
        self.register_buffer("fixed", torch.from_numpy(offset + factors @ matrix[:, -1]))

    def predict(self, genes: IntMatrix) -> Floats:
        assert isinstance(self.space, ElasticSpace)
        return gather(self.space, self.get_buffer("table").numpy(), self.get_buffer("fixed").numpy(), genes)

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        assert isinstance(self.space, ElasticSpace)
        return expectation(self.space, self.get_buffer("table"), self.get_buffer("fixed"), weights)


def _growth(space: ElasticSpace) -> Floats:
    """Factors by which costs grow with resolution and width, ``[resolutions * widths, 3 + widths]``."""
    sizes, widths = (np.array([float(c) for c in space[name].candidates]) for name in (RESOLUTION, WIDTH))
    r = np.repeat(sizes / sizes[-1], len(widths))[:, None]
    w = np.tile(widths / widths[-1], len(sizes))[:, None]
    return np.hstack([np.ones_like(r), r**2, r**2 * w**2, r**2 * np.tile(np.eye(len(widths)), (len(sizes), 1))])


def _shared_terms(space: ElasticSpace) -> Floats:
    """Which terms the cost of a block in a layer has: ``[layers * picks, T]`` of 0 and 1."""
    picks = max(len(stage.picks) for stage in space.stages)
    keys: dict[tuple[object, ...], int] = {}
    rows: list[list[int]] = []
    for stage, _, columns in space.stage_columns():
        for layer in range(columns.start, columns.stop):
            for pick in range(picks):
                name = stage.picks[min(pick, len(stage.picks) - 1)]
                terms: list[tuple[object, ...]] = [("layer", layer, pick), ("block", name), ("stage", stage.name)]
                if layer > columns.start:
                    terms.append(("later", stage.name, pick))
                rows.append([keys.setdefault(term, len(keys)) for term in terms])
    matrix = np.zeros((len(rows), len(keys)))
    for row, columns_of_row in enumerate(rows):
        matrix[row, columns_of_row] = 1
    return matrix


class BoostingPredictor(Predictor):
    """Gradient boosting of the logarithm; ranks well from few samples, and has no gradient.

    Args:
        space: The search space.
        genes: Measured architectures, ``[N, G]``.
        values: Their costs, ``[N]``.
        unit: Unit of the costs.
        seed: Of the boosting.
    """

    kind: Kind = "boosting"

    def __init__(
        self, space: SearchSpace, genes: IntMatrix, values: Floats, *, unit: str = "ms", seed: int = 0
    ) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        super().__init__(space, unit=unit)
        self._model = HistGradientBoostingRegressor(
            max_iter=TREES, min_samples_leaf=5, categorical_features=list(range(space.num_genes)), random_state=seed
        )
        self._model.fit(genes, np.log(values))

    def predict(self, genes: IntMatrix) -> Floats:
        return np.asarray(np.exp(self._model.predict(genes)))

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError(
            "Boosted trees are steps and have no gradient, so they give no expected cost. Choose kind='additive', "
            "'pairwise' or 'mlp' for a search by gradient descent."
        )


class MLPPredictor(Predictor):
    """An ensemble of networks with two hidden layers, of the logarithm.

    The expected cost is the cost of the expected one-hot genes: equal to the cost at the corners, smooth between.

    Args:
        space: The search space.
        genes: Measured architectures, ``[N, G]``.
        values: Their costs, ``[N]``.
        unit: Unit of the costs.
        seed: Of the initial weights.
    """

    kind: Kind = "mlp"

    def __init__(
        self, space: SearchSpace, genes: IntMatrix, values: Floats, *, unit: str = "ms", seed: int = 0
    ) -> None:
        super().__init__(space, unit=unit)
        x, y = torch.from_numpy(one_hot(space, genes)), torch.from_numpy(np.log(values))
        self.shift, self.scale = float(y.mean()), max(float(y.std()), 1e-9)
        generator = torch.Generator().manual_seed(seed)
        sizes = (x.shape[1], HIDDEN, HIDDEN, 1)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            gain = (2 / (space.num_genes if fan_in == sizes[0] else fan_in)) ** 0.5
            draw = torch.randn(MEMBERS, fan_in, fan_out, generator=generator, dtype=torch.float64)
            self.weights.append(draw * gain)
            self.biases.append(torch.zeros(MEMBERS, 1, fan_out, dtype=torch.float64))
        with torch.enable_grad():
            self._train(x, (y - self.shift) / self.scale)
        self.requires_grad_(False)

    def _train(self, x: Tensor, target: Tensor) -> None:
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = ((self._members(x) - target) ** 2).mean()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()

    def _members(self, x: Tensor) -> Tensor:
        """``[N, P] -> [members, N]``, standardised logarithms."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = x @ weight + bias
            x = nn.functional.silu(x) if layer < 2 else x
        return x[..., 0]

    def _of(self, x: Tensor) -> Tensor:
        return (self._members(x).mean(0) * self.scale + self.shift).exp()

    def predict(self, genes: IntMatrix) -> Floats:
        like = self.weights[0]
        return np.concatenate(
            [
                self._of(torch.from_numpy(one_hot(self.space, genes[i : i + 4096])).to(like.device)).cpu().numpy()
                for i in range(0, len(genes), 4096)
            ]
            or [np.empty(0)]
        )

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self._of(soft_one_hot(self.space, weights).to(self.weights[0])[None])[0]


def fit_predictor(
    space: SearchSpace,
    genes: IntMatrix,
    values: npt.ArrayLike,
    *,
    kind: Kind | Literal["auto"] = "auto",
    unit: str = "ms",
    throughput: bool = False,
    image_sizes: npt.ArrayLike | None = None,
    seed: int = 0,
) -> Predictor:
    """Learn what architectures cost from measurements.

    Args:
        space: The search space.
        genes: Measured architectures, ``[N, G]``.
        values: What they cost, ``[N]``, above 0.
        kind: ``"auto"`` takes the kind with the smallest mean relative error in five-fold cross-validation, among those
            there are enough samples for.
        unit: Unit of the values.
        throughput: The values are images per second; the predictor is of their reciprocal, ms per image, which layers
            add up to.
        image_sizes: Height and width each architecture was measured at, ``[N]``. Additive costs only; the result is a
            :class:`ResolutionPredictor` at the largest, and ``at(size)`` gives others.
        seed: Of folds, boosting and networks.

    Returns:
        The predictor; its ``validation`` holds Kendall's tau, the error bounds and the rest for every kind tried.

    Raises:
        ValueError: If there are too few samples (how many are needed is said), values are not positive and finite (the
            rows are named), or options contradict each other.
    """
    if throughput and unit != "ms":
        raise ValueError(f"throughput=True takes images per second and gives ms; leave unit={unit!r} out.")
    y = check_samples(space, genes, values)
    y = 1000.0 / y if throughput else y
    known: list[Kind] = [k for k in get_args(Kind) if k != "elastic" or isinstance(space, ElasticSpace)]
    if kind not in ("auto", *known):
        raise ValueError(f"The kinds of predictors of space {space.name!r} are auto, {', '.join(known)}; got {kind!r}.")
    sizes = None if image_sizes is None else _check_sizes(image_sizes, len(y))
    if sizes is not None and kind not in ("auto", "additive"):
        raise ValueError(f"Image sizes go into additive costs only; got kind={kind!r}. Leave the kind out.")
    kinds: Sequence[Kind] = ["additive"] if sizes is not None else known if kind == "auto" else [kind]
    needed = min(SAMPLES[k] for k in kinds) * (1 if sizes is None else 2)
    if len(y) < needed:
        what = " with image sizes" if sizes is not None else ""
        raise ValueError(
            f"A predictor of kind {kind!r}{what} needs at least {needed} samples; got {len(y)}. Measure more, or "
            "transfer from known devices with FewShot."
        )
    fold = np.random.default_rng(seed).permutation(len(y)) % FOLDS
    validation, held_out = {}, {}
    for k in kinds:
        if len(y) < SAMPLES[k] or (k == "pairwise" and kind == "auto" and len(y) > MOST_PAIRWISE):
            continue
        predicted = np.empty(len(y))
        for f in range(FOLDS):
            train, test = fold != f, fold == f
            model = _fit(k, space, genes[train], y[train], None if sizes is None else sizes[train], unit, seed)
            predicted[test] = _predict(model, genes[test], None if sizes is None else sizes[test])
        held_out[k], validation[k] = predicted, Agreement.of(predicted, y)
    best = min(held_out, key=lambda k: float(np.mean(np.abs(held_out[k] / y - 1))))
    chosen = _fit(best, space, genes, y, sizes, unit, seed)
    chosen.validation = validation
    chosen._seen = one_hot(space, genes).sum(0) > 0
    chosen._errors = np.sort(np.abs(y - held_out[best]) / np.maximum(np.abs(held_out[best]), 1e-12))
    free = int(sum(space.gene_sizes) - space.num_genes + 1) * (1 if sizes is None else 2)
    if best == "additive" and len(y) < free:
        warnings.warn(
            f"{len(y)} samples are fewer than the {free} costs of space {space.name!r}; the error in cross-validation "
            f"is {np.mean(chosen._errors):.0%}. Measure more, or transfer from known devices with FewShot.",
            stacklevel=2,
        )
    return chosen


def _check_sizes(image_sizes: npt.ArrayLike, n: int) -> npt.NDArray[np.int64]:
    sizes = np.asarray(image_sizes)
    if sizes.shape != (n,) or not np.issubdtype(sizes.dtype, np.integer) or (sizes < 1).any():
        raise ValueError(f"Image sizes are one positive integer for each of {n} samples; got {sizes.tolist()[:5]}.")
    if len(np.unique(sizes)) < 2:
        raise ValueError(f"All samples have images of {sizes[0]} pixels; leave image_sizes out, or measure two sizes.")
    return sizes.astype(np.int64)


def _predict(model: Predictor, genes: IntMatrix, sizes: npt.NDArray[np.int64] | None) -> Floats:
    if sizes is None or not isinstance(model, ResolutionPredictor):
        return model.predict(genes)
    return model.constant.predict(genes) + sizes**2 * model.growth.predict(genes)


def _fit(
    kind: Kind,
    space: SearchSpace,
    genes: IntMatrix,
    y: Floats,
    sizes: npt.NDArray[np.int64] | None,
    unit: str,
    seed: int,
) -> Predictor:
    if kind == "boosting":
        return BoostingPredictor(space, genes, y, unit=unit, seed=seed)
    if kind == "mlp":
        return MLPPredictor(space, genes, y, unit=unit, seed=seed)
    if kind == "pairwise":
        return robust_pairwise(space, genes, y, unit=unit)
    if isinstance(space, ElasticSpace) and kind == "elastic":
        return ElasticPredictor(space, genes, y, unit=unit)
    if sizes is None:
        return robust_additive(space, genes, y, unit=unit)
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


def _digits(values: Floats) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
