"""Large-scale evolution of image classifiers (Real et al., ICML 2017, arXiv:1703.01041): tournaments of two."""

from __future__ import annotations

from collections.abc import Sequence

from oneshot.discrete.graphs.morphism import LEMONADE_OPERATORS
from oneshot.discrete.protocol import Proposal, Result, Scalar

from .morphing import MorphismSearch, Start

OPERATORS = (*LEMONADE_OPERATORS, "enlarge_kernel")


class LargeScaleEvolution(MorphismSearch):
    """Draws two networks, removes the worse one, and trains a mutant of the better one from its weights.

    A mutant may also be the network itself, trained further, or its architecture with new weights. Where the paper
    inherits whatever weights still fit, mutations are morphisms here, so that most keep what was learned; the paper's
    mutations of the learning rate and of strides are left out. Where failures leave less than two networks alive, the
    search begins again with networks of the start.

    Args:
        start: Networks to begin with; the paper's is linear.
        input_shape: C, H, W of the images.
        num_classes: Number of logits.
        population: Networks alive, 1,000 in the paper.
        keep: Chance that a mutant is its parent, trained further.
        reset: Chance that it is its parent with new weights.
        epochs: Training of every network; None is the evaluator's.
        operators: Names of morphisms.
        max_params: Mutants have at most so many parameters.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.

    Raises:
        ValueError: If the population is below 2, or the chances are none.
    """

    repeats = True
    retrains = True

    def __init__(
        self,
        start: Start,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        population: int = 20,
        keep: float = 0.1,
        reset: float = 0.05,
        epochs: int | None = None,
        operators: Sequence[str] = OPERATORS,
        max_params: int | None = None,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(
            start, input_shape, num_classes, operators=operators, max_params=max_params, seed=seed, scalar=scalar
        )
        if population < 2 or min(keep, reset) < 0 or keep + reset > 1:
            raise ValueError(
                "A population must be at least 2, and the chances keep and reset at most 1 together; got "
                f"population={population}, keep={keep}, reset={reset}."
            )
        self.size, self.keep, self.reset, self.epochs = population, keep, reset, epochs
        self._alive: list[tuple[float, Proposal]] = []

    def _propose(self) -> Proposal | None:
        few = len(self._alive) < 2
        if self._next < self.size or (few and len(self._alive) + len(self.pending) < self.size):
            return self._number(self.start[self._next % len(self.start)].config, fidelity=self.epochs)
        if few:
            return None
        pair = self.rng.choice(len(self._alive), size=2, replace=False)
        (_, parent), _ = sorted((self._alive[i] for i in pair), key=lambda member: (member[0], member[1].number))
        if len(self._alive) + len(self.pending) >= self.size:
            del self._alive[max(pair, key=lambda i: (self._alive[i][0], self._alive[i][1].number))]
        chance = self.rng.random()
        if chance < self.reset:
            return self._number(parent.config, fidelity=self.epochs)
        found = self.child(parent.config, 1) if chance >= self.reset + self.keep else None
        if found is None:
            return self._number(parent.config, parent=parent.number, fidelity=self.epochs)
        return self._number(found[0], parent=parent.number, trace=found[1], fidelity=self.epochs)

    def _learn(self, proposal: Proposal, result: Result) -> None:
        if result.values is not None:
            self._alive.append((self.loss(result), proposal))
