"""Costs that a search minimises besides the error, and their upper bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from oneshot.cost.bounds import upper_costs
from oneshot.cost.model import CostModel
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

ERROR = "error"  # the one objective that is measured

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
        """Upper bound that holds with a probability, ``[N]``; see :func:`~oneshot.cost.bounds.upper_costs`."""
        return upper_costs(self.model, self.values, genes, probability, self.deviation)


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

    @property
    def name(self) -> str:
        """Of the cost."""
        return self.objective.name

    @property
    def unit(self) -> str:
        """Of the cost."""
        return self.objective.unit

    def upper(self, genes: IntMatrix) -> Floats:
        """What must not be above the bound, ``[N, G] -> [N]``."""
        return self.objective.upper(genes, self.probability)

    def excess(self, genes: IntMatrix) -> Floats:
        """How far above the bound, ``[N]``, as a share of it; not above 0 where it holds."""
        bound = self.at_most
        return (self.upper(genes) - bound) / (abs(bound) or 1.0)

    def smallest(self) -> IntMatrix | None:
        """Genes ``[G]`` of the architecture with the smallest cost, where that is proven; otherwise None."""
        found = self.objective.model.proven_extremes() if isinstance(self.objective.model, CostModel) else None
        return None if found is None else found[0]


def excesses(constraints: Sequence[Constraint], genes: IntMatrix) -> Floats:
    """Of all constraints, ``[N, K]``."""
    return np.stack([c.excess(genes) for c in constraints], axis=1) if constraints else np.zeros((len(genes), 0))
