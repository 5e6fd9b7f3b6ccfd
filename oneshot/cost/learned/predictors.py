"""Cost models that :func:`~oneshot.cost.fit_predictor` learns from measured architectures.

``additive`` is a ridge regression on the one-hot genes, ``pairwise`` has a term for every pair of picks as well,
``floor`` is additive costs with a least cost, as on devices that wait for launches or transfers. ``boosting`` is
gradient boosting and ``mlp`` an ensemble of small networks, both of the logarithm. ``elastic``, of elastic spaces only,
is linear in what a layer costs at its resolution and width. ``work``, of converted networks, is linear in what their
operators do.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oneshot.cost.counting.elastic import expectation, gather
from oneshot.cost.counting.work import Work
from oneshot.cost.model import CostModel, above_zero, expected_above_zero
from oneshot.regression.boosting import BoostedTrees
from oneshot.regression.encoding import one_hot, soft_one_hot
from oneshot.regression.networks import DifferentiableEnsemble
from oneshot.regression.nonnegative import relative_nonnegative
from oneshot.regression.ridge import robust_ridge
from oneshot.regression.scores import Agreement
from oneshot.supernets.elastic import RESOLUTION, WIDTH, ElasticSpace
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

from .ceiling import NoiseCeiling

Kind = Literal["additive", "pairwise", "floor", "boosting", "mlp", "elastic", "work"]

TREES, LEAVES = 300, 31  # of boosting

MEMBERS, HIDDEN, STEPS = 4, 64, 300  # of the ensemble of networks


class Predictor(CostModel):
    """A learned cost model.

    Attributes:
        validation: How well each kind did in cross-validation, that of this model first.
        kind: Which kind this is.
        ceiling: How well a perfect model would do, if the noise of the measurements is known.
    """

    kind: Kind

    def __init__(self, space: SearchSpace, *, unit: str) -> None:
        super().__init__()
        self.space, self.unit = space, unit
        self.validation: dict[Kind, Agreement] = {}
        self.ceiling: NoiseCeiling | None = None
        self._seen: npt.NDArray[np.bool_] | None = None
        self._errors: Floats | None = None

    @abstractmethod
    def predict(self, genes: IntMatrix) -> Floats:
        """Costs ``[N]`` of ``[N, G]``, without a look at what was sampled."""

    @abstractmethod
    def predict_expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Expected cost under edge weights, without a look at what was sampled."""

    def costs(self, genes: IntMatrix) -> Floats:
        """Costs of many architectures: ``[N, G]`` -> ``[N]``. Warns of picks that no sample had."""
        if self._seen is not None and len(genes):
            self._warn_out_of_support(genes)
        return above_zero(self.predict(genes), self.least)

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Expected cost under edge weights ``{choice: [R, O]}``; scalar, differentiable in them."""
        return expected_above_zero(self.predict_expected(weights), self.least)

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
            raise ValueError(f"The level of an interval must be between 0 and 1, such as 0.9; got {level}.")
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
                f"Linear costs of space {space.name!r} must have {size} coefficients, and {size} x {size} of pairs or "
                f"none; got shapes {list(vector.shape)} and {list(matrix.shape)}. Are they of another space?"
            )
        if not (np.isfinite(vector).all() and np.isfinite(matrix).all() and np.isfinite(self.offset)):
            raise ValueError(f"Coefficients of costs must be finite; those in {unit} are not.")
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

    def predict_expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        x = soft_one_hot(self.space, weights)
        total = self.offset + self.get_buffer("coefficients").to(x) @ x
        pairs = self.get_buffer("pairs").to(x)
        return total + x @ pairs @ x / 2 if len(pairs) else total

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; numbers keep six digits, of pairs only those between different genes are listed."""
        pairs = self.get_buffer("pairs").cpu().numpy()
        listed = {} if not len(pairs) else {"pairs": [_digits(pairs[i, i + 1 :]) for i in range(len(pairs) - 1)]}
        coefficients = _digits(self.get_buffer("coefficients").cpu().numpy())
        least = {} if self.least is None else {"least": float(f"{self.least:.6g}")}
        return {
            "unit": self.unit,
            "offset": float(f"{self.offset:.6g}"),
            "coefficients": coefficients,
            **least,
            **listed,
        }

    @classmethod
    def from_dict(cls, space: SearchSpace, data: Mapping[str, Any]) -> LinearPredictor:
        """Inverse of :meth:`to_dict`."""
        pairs = None
        if "pairs" in data:
            size = len(data["pairs"]) + 1
            pairs = np.zeros((size, size))
            pairs[np.triu_indices(size, 1)] = np.concatenate([np.asarray(row, np.float64) for row in data["pairs"]])
            pairs += pairs.T
        found = cls(space, data["coefficients"], offset=data["offset"], pairs=pairs, unit=data["unit"])
        found.least = data.get("least")
        return found


class FloorPredictor(Predictor):
    r"""Additive costs that are never below a floor: :math:`c = \max(f, \sum_g a_g)`.

    The expected cost is the larger one of the floor and the expected sum: equal to the cost at the corners, a lower
    bound between them. Where the sum is below the floor, the gradient is 0: nothing is gained there.

    Args:
        additive: The sum.
        floor: f, in the same unit; 0 for none.

    Raises:
        ValueError: If the floor is negative or not finite.
    """

    kind: Kind = "floor"

    def __init__(self, additive: LinearPredictor, floor: float) -> None:
        super().__init__(additive.space, unit=additive.unit)
        if not 0 <= floor < float("inf"):
            raise ValueError(f"A floor must be finite and 0 or more; got {floor}.")
        self.additive, self.floor = additive, float(floor)

    def predict(self, genes: IntMatrix) -> Floats:
        return np.maximum(self.additive.predict(genes), self.floor)

    def predict_expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self.additive.predict_expected(weights).clamp(min=self.floor)


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
        other.validation, other.ceiling = self.validation, self.ceiling
        other.least, other._seen, other._errors = self.least, self._seen, self._errors
        return other

    def predict(self, genes: IntMatrix) -> Floats:
        return self.constant.predict(genes) + self._pixels * self.growth.predict(genes)

    def predict_expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self.constant.predict_expected(weights) + self._pixels * self.growth.predict_expected(weights)

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

    def predict_expected(self, weights: Mapping[str, Tensor]) -> Tensor:
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


class WorkPredictor(Predictor):
    r"""A cost that is what operators do, at the speed of the device: :math:`c = \sum_k \theta_k f_k + \theta_0`.

    The features f are those of :class:`~oneshot.cost.counting.work.Work`. No speed is negative, so a network that does
    more never costs less, and few measurements are enough for many widths.

    Args:
        work: The features.
        genes: Measured architectures, ``[N, G]``.
        values: Their costs, ``[N]``.
        unit: Unit of the costs.
    """

    kind: Kind = "work"

    def __init__(self, work: Work, genes: IntMatrix, values: Floats, *, unit: str = "ms") -> None:
        super().__init__(work.space, unit=unit)
        self.work = work
        found = relative_nonnegative(self._features(genes), values)
        self.register_buffer("coefficients", torch.from_numpy(found))

    @property
    def shares(self) -> dict[str, float]:
        """What every feature costs in the largest network, the largest first; only those that cost something."""
        names = [*self.work.names, "everything else"]
        found = zip(names, self.get_buffer("coefficients").tolist(), strict=True)
        return dict(sorted(((name, cost) for name, cost in found if cost > 0), key=lambda item: -item[1]))

    def _features(self, genes: IntMatrix) -> Floats:
        return np.hstack([self.work.values(genes), np.ones((len(genes), 1))])

    def predict(self, genes: IntMatrix) -> Floats:
        found: Floats = self._features(genes) @ self.get_buffer("coefficients").cpu().numpy()
        return found

    def predict_expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError(
            "Channels that are rounded up have no gradient, so a cost of kind 'work' gives no expected cost. Choose "
            "kind='additive', 'pairwise' or 'mlp' for a search by gradient descent."
        )


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
        super().__init__(space, unit=unit)
        self._model = BoostedTrees(space, genes, np.log(values), trees=TREES, leaves=LEAVES, seed=seed)

    def predict(self, genes: IntMatrix) -> Floats:
        return np.asarray(np.exp(self._model.predict(genes)))

    def predict_expected(self, weights: Mapping[str, Tensor]) -> Tensor:
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
        self.networks = DifferentiableEnsemble(
            x,
            (y - self.shift) / self.scale,
            fan_in=space.num_genes,
            networks=MEMBERS,
            hidden=HIDDEN,
            steps=STEPS,
            seed=seed,
        )

    def _of(self, x: Tensor) -> Tensor:
        mean: Tensor = self.networks(x).mean(0)
        return (mean * self.scale + self.shift).exp()

    def predict(self, genes: IntMatrix) -> Floats:
        like = self.networks.weights[0]
        return np.concatenate(
            [
                self._of(torch.from_numpy(one_hot(self.space, genes[i : i + 4096])).to(like.device)).cpu().numpy()
                for i in range(0, len(genes), 4096)
            ]
            or [np.empty(0)]
        )

    def predict_expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self._of(soft_one_hot(self.space, weights).to(self.networks.weights[0])[None])[0]


def _digits(values: Floats) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
