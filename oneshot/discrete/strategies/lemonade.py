"""LEMONADE (Elsken, Metzen and Hutter, ICLR 2019, arXiv:1804.09081): Lamarckian evolution of a front of networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from oneshot.discrete.graphs.morphism import LEMONADE_OPERATORS
from oneshot.discrete.graphs.network import GraphNetwork
from oneshot.discrete.protocol import TRIES, Proposal, Result
from oneshot.fronts.pareto import non_dominated
from oneshot.supernets.space import Floats, SubnetConfig

from .morphing import Cost, MorphismSearch, Start

BANDWIDTH = 0.1  # least width of the kernels, in standard deviations: populations begin with a handful of networks


def log_params(network: GraphNetwork) -> float:
    """Natural logarithm of the number of parameters, for costs that span powers of ten."""
    return math.log(network.num_params)


class LEMONADE(MorphismSearch):
    """Evolves the networks that no other beats in error and costs; children begin with their parents' weights.

    Costs are cheap: they are known without training. Parents are drawn where the population is thin in costs, and so
    are, out of many children, those that are trained (equations 1 and 2: both by the same kernel density estimate, of
    the population). A generation is proposed from the current front, and does not wait for the one before.

    Args:
        start: Networks to begin with; the paper's four have 15 to 400 thousand parameters.
        input_shape: C, H, W of the images.
        num_classes: Number of logits.
        children: Children of a generation of which costs are computed, n_pc.
        accepted: Those of them that are trained, n_ac.
        morphisms: Most operators applied to a child; how many is drawn uniformly. Where no child of a generation is
            new, another is drawn with one more.
        costs: The cheap objectives, as the density sees them.
        density: Where the density matters: ``"both"`` as in the paper, ``"parents"``, ``"children"``, or ``"none"``,
            for comparison.
        start_epochs: Training of the first networks; None is the evaluator's.
        epochs: Training of every child; None is the evaluator's.
        operators: Names of morphisms.
        max_params: Children have at most so many parameters.
        seed: Seed of all random choices.

    Raises:
        ValueError: If a number is below its least.
    """

    def __init__(
        self,
        start: Start,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        children: int = 40,
        accepted: int = 5,
        morphisms: int = 3,
        costs: Sequence[Cost] = (log_params,),
        density: Literal["both", "parents", "children", "none"] = "both",
        start_epochs: int | None = None,
        epochs: int | None = None,
        operators: Sequence[str] = LEMONADE_OPERATORS,
        max_params: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(start, input_shape, num_classes, operators=operators, max_params=max_params, seed=seed)
        if morphisms < 1 or not 1 <= accepted <= children:
            raise ValueError(
                f"morphisms must be at least 1, and accepted from 1 to children; got morphisms={morphisms}, "
                f"accepted={accepted}, children={children}."
            )
        if density not in ("both", "parents", "children", "none"):
            raise ValueError(f"density must be 'both', 'parents', 'children' or 'none'; got {density!r}.")
        self.children, self.accepted, self.morphisms, self.costs = children, accepted, morphisms, tuple(costs)
        self.density, self.start_epochs, self.epochs = density, start_epochs, epochs
        self.population: list[tuple[Proposal, tuple[float, ...]]] = []  # the front
        self._costs: dict[SubnetConfig, Floats] = {}
        self._queue: list[dict[str, Any]] = []

    def _propose(self) -> Proposal | None:
        if self._next < len(self.start):
            return self._number(self.start[self._next].config, fidelity=self.start_epochs)
        while self._queue:
            proposed = self._queue.pop(0)
            if not self._was_proposed(proposed["config"]):
                return self._number(fidelity=self.epochs, **proposed)
        if self.population:
            self._queue = self._generation()
        return self._number(fidelity=self.epochs, **self._queue.pop(0)) if self._queue else None

    def _generation(self) -> list[dict[str, Any]]:
        """The children that are trained; none if no morphism fits."""
        known = np.stack([self._cost(proposal.config) for proposal, _ in self.population])
        parents = rarity(known, known) if self.density in ("both", "parents") else np.full(len(known), 1 / len(known))
        found, barren = dict[SubnetConfig, dict[str, Any]](), set[int]()
        for most in range(self.morphisms, self.morphisms + TRIES):  # if all children are known, further away are others
            for _ in range(self.children):
                parent = self.population[int(self.rng.choice(len(parents), p=parents))][0]
                steps = int(self.rng.integers(1, most + 1))
                child = None if parent.number in barren else self.child(parent.config, steps)
                if child is None:
                    barren.add(parent.number)
                elif not self._was_proposed(child[0]):
                    found.setdefault(child[0], {"config": child[0], "parent": parent.number, "trace": child[1]})
            if found or len(barren) == len(self.population):
                break
        if not found:
            return []
        costs = np.stack([self._cost(config) for config in found])
        chances = rarity(known, costs) if self.density in ("both", "children") else np.full(len(costs), 1 / len(costs))
        count = min(self.accepted, int((chances > 0).sum()))
        chosen = self.rng.choice(len(costs), size=count, replace=False, p=chances)
        children = list(found.values())
        return [children[i] for i in chosen]

    def _cost(self, config: SubnetConfig) -> Floats:
        if config not in self._costs:
            network = self.sketch(config) if self.costs == (log_params,) else self.network(config)
            self._costs[config] = np.array([cost(network) for cost in self.costs], dtype=np.float64)
        return self._costs[config]

    def _learn(self, proposal: Proposal, result: Result) -> None:
        if result.values is None:
            return
        self.population.append((proposal, result.values))
        values = np.array([values for _, values in self.population])
        self.population = [self.population[i] for i in np.flatnonzero(non_dominated(values))]


def rarity(known: npt.ArrayLike, points: npt.ArrayLike) -> Floats:
    """Chances in proportion to one over the density of ``known`` (equations 1 and 2).

    A Gaussian kernel density estimate in standardised costs, of Scott's width and at least ``BANDWIDTH``.

    Args:
        known: Costs of the population, ``[N, K]``.
        points: Costs of what is drawn, ``[M, K]``.

    Returns:
        ``[M]``, of sum 1.

    Example:
        >>> chances = rarity([[1.0], [1.1], [0.9], [3.0]], [[1.0], [3.0]])
        >>> bool(chances[1] > chances[0])
        True
    """
    x, z = np.asarray(known, dtype=np.float64), np.asarray(points, dtype=np.float64)
    spread = x.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    width = max(len(x) ** (-1 / (x.shape[1] + 4)), BANDWIDTH)
    distance = (((z[:, None] - x[None]) / spread / width) ** 2).sum(-1)
    log_density = np.logaddexp.reduce(-distance / 2, axis=1)
    weights = np.exp(-np.maximum(log_density - log_density.min(), 0.0))
    return np.asarray(weights / weights.sum())
