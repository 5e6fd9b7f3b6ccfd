"""NASH (Elsken, Metzen and Hutter, 2017, arXiv:1711.04528): hill climbing by network morphisms."""

from __future__ import annotations

from collections.abc import Sequence

from oneshot.discrete.graphs.morphism import NASH_OPERATORS
from oneshot.discrete.protocol import Proposal, Result, Scalar

from .morphing import MorphismSearch, Start


class NASH(MorphismSearch):
    """Trains children of the best network for a few epochs, all from its weights, and goes on from the best of them.

    One of the children is the unchanged network itself, so that more training is not taken for a better architecture.
    Every training has a cosine of its own. Steps wait for all their children, as in the paper (algorithm 1). If the
    first network cannot be trained, the search is over.

    Args:
        start: The network to begin with, three convolutions in the paper.
        input_shape: C, H, W of the images.
        num_classes: Number of logits.
        steps: Steps of the climb, n_steps.
        neighbours: Children of a step, the unchanged one among them, n_neigh.
        morphisms: Operators applied to each of the others, n_NM.
        start_epochs: Training of the first network.
        epochs: Training of every child, epoch_neigh.
        final_epochs: Training of the best network at the end, epoch_final; 0 for none.
        operators: Names of morphisms.
        max_params: Children have at most so many parameters.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.

    Raises:
        ValueError: If a number is below its least, or there is more than one network to begin with.
    """

    def __init__(
        self,
        start: Start,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        steps: int = 5,
        neighbours: int = 8,
        morphisms: int = 5,
        start_epochs: int = 20,
        epochs: int = 17,
        final_epochs: int = 100,
        operators: Sequence[str] = NASH_OPERATORS,
        max_params: int | None = None,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(
            start, input_shape, num_classes, operators=operators, max_params=max_params, seed=seed, scalar=scalar
        )
        if min(steps, morphisms, start_epochs, epochs) < 1 or neighbours < 2 or final_epochs < 0:
            raise ValueError(
                "NASH must have at least 1 step, 2 neighbours (one is the unchanged network), 1 morphism and 1 "
                "epoch, and "
                f"final_epochs of at least 0; got {steps}, {neighbours}, {morphisms}, {min(start_epochs, epochs)} and "
                f"{final_epochs}."
            )
        self._first = self._only_start().config
        self.steps, self.neighbours, self.morphisms = steps, neighbours, morphisms
        self.start_epochs, self.epochs, self.final_epochs = start_epochs, epochs, final_epochs
        self.step = 0  # 0 is the training of the start
        self.current: Proposal | None = None
        self._to_ask = 1
        self._children: list[tuple[float, Proposal]] = []

    def _propose(self) -> Proposal | None:
        if not self._to_ask:
            return None
        self._to_ask -= 1
        if self.current is None:
            return self._number(self._first, fidelity=self.start_epochs)
        if self.step > self.steps:
            return self._number(self.current.config, parent=self.current.number, fidelity=self.final_epochs)
        if self._to_ask == self.neighbours - 1:  # the first child is the network itself
            return self._number(self.current.config, parent=self.current.number, fidelity=self.epochs)
        found = self._new_child(self.current.config, lambda: self.morphisms)
        if found is None:  # no morphism fits any more; the step is over with the children it has
            self._to_ask = 0
            self._advance()
            return self._propose()
        return self._number(found[0], parent=self.current.number, trace=found[1], fidelity=self.epochs)

    def _learn(self, proposal: Proposal, result: Result) -> None:
        if result.values is not None:
            self._children.append((self.loss(result), proposal))
        self._advance()

    def _advance(self) -> None:
        """Begin the next step, if this one has all its results."""
        if self.pending or self._to_ask:
            return
        if self._children:
            self.current = min(self._children, key=lambda child: (child[0], child[1].number))[1]
        elif self.current is None:
            return  # the start could not be trained; there is nothing to climb from
        self._children = []
        self.step += 1
        if self.step <= self.steps:
            self._to_ask = self.neighbours
        else:
            self._to_ask = int(self.step == self.steps + 1 and self.final_epochs > 0)
