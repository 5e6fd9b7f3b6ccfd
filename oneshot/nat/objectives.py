"""Costs that a search minimises besides the error, and their upper bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from oneshot.cost.learned.predictors import Predictor
from oneshot.cost.learned.transferred import TransferredCost
from oneshot.cost.model import CostModel
from oneshot.fronts.numbers import rounded_up
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

from .evolution import minimise

ERROR = "error"  # the one objective that is measured
SAMPLES = 1000  # architectures looked at before a constraint is searched for

CostFunction: TypeAlias = Callable[[IntMatrix], npt.ArrayLike]


@dataclass(frozen=True)
class Objective:
    """A cost that is minimised, known for every architecture without training.

    Args:
        name: What it is called in archives and plots.
        unit: Unit of the values; that of the model by default.
        model: A cost model, or a function ``[N, G] -> [N]`` of genes.
        deviation: Standard deviation of the truth from the model, relative, where the model itself does not know.

    Raises:
        ValueError: If there is no model, the name is that of the measured objective, or the deviation negative.

    Example:
        >>> width = Objective("width", "channels", lambda genes: genes.sum(1))
        >>> width.values(np.array([[1, 2], [0, 1]]))
        array([3., 1.])
    """

    name: str
    unit: str = ""
    model: CostModel | CostFunction | None = None
    deviation: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        if self.name == ERROR:
            raise ValueError(
                f"Objectives must be costs; the error is measured in every search, so leave out {ERROR!r}."
            )
        if self.model is None or not callable(self.model):
            raise ValueError(
                f"Objective {self.name!r} must have a model: a CostModel (counts, a latency table, a predictor) or a "
                "function of genes [N, G] -> [N]. Count it with count_candidates, or measure it with 'oneshot measure'."
            )
        if not 0 <= self.deviation < np.inf:
            raise ValueError(
                f"The deviation of objective {self.name!r} must be a share, at least 0; got {self.deviation}."
            )
        if not self.unit and isinstance(self.model, CostModel):
            object.__setattr__(self, "unit", self.model.unit)

    def check_space(self, space: SearchSpace) -> None:
        """Check that the model is of ``space``.

        Raises:
            ValueError: If it is of another.
        """
        if isinstance(self.model, CostModel):
            way_out = "Build it for the space of the search."
            space.check_same(self.model.space, f"The model of objective {self.name!r}", way_out)

    def values(self, genes: IntMatrix, *, exact: bool = False) -> Floats:
        """Costs of architectures, ``[N, G]`` -> ``[N]``.

        Args:
            genes: The architectures.
            exact: Whether they are to be reported, see :meth:`~oneshot.cost.CostModel.exact_costs`.

        Raises:
            ValueError: If the model returns something else than finite numbers.
        """
        assert self.model is not None
        if isinstance(self.model, CostModel):
            costs: npt.ArrayLike = self.model.exact_costs(genes) if exact else self.model.costs(genes)
        else:
            costs = self.model(genes)
        y = np.asarray(costs, np.float64)
        if y.shape != (len(genes),) or not np.isfinite(y).all():
            bad = "" if y.shape != (len(genes),) else f" with {int((~np.isfinite(y)).sum())} values that are not finite"
            raise ValueError(
                f"The model of objective {self.name!r} must return a finite cost for each of {len(genes)} "
                f"architectures; got shape {list(y.shape)}{bad}."
            )
        return y

    def upper(self, genes: IntMatrix, probability: float) -> Floats:
        """Upper bound of the cost that holds with a probability, ``[N]``.

        Learned costs know their interval, which is taken to be symmetric. All others are taken as normally
        distributed with :attr:`deviation`, exact where that is 0.
        """
        if probability == 0.5 or not isinstance(self.model, Predictor | TransferredCost):
            return self.values(genes) * (1 + self.deviation * NormalDist().inv_cdf(probability))
        lower, upper = self.model.interval(genes, abs(2 * probability - 1))
        return np.asarray(upper if probability > 0.5 else lower, np.float64)


@dataclass(frozen=True)
class Constraint:
    """An upper bound of a cost.

    Args:
        objective: The cost; it need not be among those minimised.
        at_most: The bound, in the unit of the objective.
        probability: With which it must hold, where the model is learned or the objective says how wrong it is.

    Raises:
        ValueError: If the bound is not finite or the probability not between 0 and 1.
    """

    objective: Objective
    at_most: float
    probability: float = field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        if not np.isfinite(self.at_most):
            raise ValueError(
                f"The bound of {self.objective.name!r} must be finite; got {self.at_most}. Leave it out instead."
            )
        if not 0 < self.probability < 1:
            raise ValueError(f"The probability of a constraint must be between 0 and 1; got {self.probability}.")

    def __str__(self) -> str:
        chance = "" if self.probability == 0.5 else f" with probability {self.probability:g}"
        return f"{self.objective.name} <= {self.at_most:g} {self.objective.unit}".rstrip() + chance

    def excess(self, genes: IntMatrix) -> Floats:
        """How far above the bound, ``[N]``, as a share of it; not above 0 where it holds."""
        bound = self.at_most
        return (self.objective.upper(genes, self.probability) - bound) / (abs(bound) or 1.0)


def excesses(constraints: Sequence[Constraint], genes: IntMatrix) -> Floats:
    """Of all constraints, ``[N, K]``."""
    return np.stack([c.excess(genes) for c in constraints], axis=1) if constraints else np.zeros((len(genes), 0))


def check_feasible(space: SearchSpace, constraints: Sequence[Constraint], *, seed: int = 0) -> None:
    """Check that some architecture keeps all constraints: by samples, and then by minimising the excess.

    Args:
        space: The search space.
        constraints: All of them.
        seed: Of samples and evolution.

    Raises:
        ValueError: If none was found, with the smallest values that were.
    """
    genes = space.repair(space.sample_matrix(SAMPLES, seed))
    if (excesses(constraints, genes) <= 0).all(1).any():
        return
    for constraint in constraints:
        nearest, excess = _least_excess(space, [constraint], seed)
        if excess > 0:
            raise ValueError(
                f"No architecture of space {space.name!r} has {constraint}; the smallest found is "
                f"{_said(constraint, nearest)}. Raise the bound to that at least."
            )
    nearest, excess = _least_excess(space, constraints, seed)
    if excess > 0:
        found = ", ".join(f"{c.objective.name} {_said(c, nearest)}" for c in constraints)
        raise ValueError(
            f"No architecture of space {space.name!r} has {' and '.join(map(str, constraints))} at once, though each "
            f"can be had alone; the nearest found has {found}. Raise one of the bounds."
        )


def _least_excess(space: SearchSpace, constraints: Sequence[Constraint], seed: int) -> tuple[IntMatrix, float]:
    """The architecture whose largest excess is smallest, ``[1, G]``, and that excess."""

    def largest(genes: IntMatrix) -> Floats:
        return np.asarray(excesses(constraints, genes).max(1, keepdims=True))

    genes = minimise(space, largest, seed=seed)
    return genes, float(largest(genes)[0, 0])


def _said(constraint: Constraint, genes: IntMatrix) -> str:
    value = float(constraint.objective.upper(genes, constraint.probability)[0])
    return f"{rounded_up(value)} {constraint.objective.unit}".rstrip()
