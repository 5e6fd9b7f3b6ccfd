"""What strategies with network morphisms share: a child begins with the weights of its parent."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from typing import Any

import torch

from oneshot.discrete.graphs.graph import NetworkGraph, plain_graph
from oneshot.discrete.graphs.morphism import EXACT_OPERATORS, MorphismRecord, random_morphism
from oneshot.discrete.graphs.network import GraphNetwork
from oneshot.discrete.protocol import TRIES, Proposal, Scalar
from oneshot.supernets.space import SubnetConfig

from .graph_search import GraphSearch

Cost = Callable[[GraphNetwork], float]
Start = NetworkGraph | Sequence[NetworkGraph | Sequence[int]]


class MorphismSearch(GraphSearch, ABC):
    """A search among graphs that grows (and shrinks) networks it has trained.

    A strategy sees architectures only: which operators fit, it finds out on sketches, and the evaluator repeats them on
    the weights of the parent.

    Args:
        start: Networks to begin with; numbers of filters stand for a plain graph.
        input_shape: C, H, W of the images.
        num_classes: Number of logits.
        operators: Names of morphisms, see ``oneshot.discrete.graphs.morphism``.
        max_params: Children have at most so many parameters.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.

    Raises:
        ValueError: If there is no network to begin with.
    """

    def __init__(
        self,
        start: Start,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        operators: Sequence[str] = EXACT_OPERATORS,
        max_params: int | None = None,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(input_shape, num_classes, max_params=max_params, seed=seed, scalar=scalar)
        given = [start] if isinstance(start, NetworkGraph) else list(start)
        if wrong := [graph for graph in given if isinstance(graph, int)]:
            raise ValueError(f"start must be a list of networks, each a graph or a list of filters; got {wrong[0]}.")
        self.start = [graph if isinstance(graph, NetworkGraph) else plain_graph(graph) for graph in given]
        if not self.start:
            raise ValueError("A search by morphisms must begin with at least one network; got none.")
        self.operators = tuple(operators)
        for graph in self.start:
            self.sketch(graph.config)  # shapes that do not fit are an error now

    def _only_start(self) -> NetworkGraph:
        if len(self.start) > 1:
            raise ValueError(f"{type(self).__name__} must begin with one network; got {len(self.start)}. Choose one.")
        return self.start[0]

    def child(self, config: SubnetConfig, steps: int) -> tuple[SubnetConfig, tuple[dict[str, Any], ...]] | None:
        """A child by random morphisms, and its trace; None if no morphism fits."""
        network, records = self.sketch(config), list[MorphismRecord]()
        images = torch.zeros(2, *self.input_shape)
        for _ in range(steps):
            try:
                network, record = random_morphism(
                    network, self.rng, images=images, operators=self.operators, max_params=self.max_params
                )
            except ValueError:
                break
            records.append(record)
        return (network.config, tuple(record.to_dict() for record in records)) if records else None

    def _new_child(
        self, parent: SubnetConfig, steps: Callable[[], int]
    ) -> tuple[SubnetConfig, tuple[dict[str, Any], ...]] | None:
        """A child that was not proposed yet."""
        for _ in range(TRIES):
            found = self.child(parent, steps())
            if found is not None and not self._was_proposed(found[0]):
                return found
        return None


class RandomGraphs(MorphismSearch):
    """Random search among graphs: random numbers of morphisms from a random start, each network trained from scratch.

    The baseline of searches that inherit weights.

    Args:
        steps: Most morphisms.
    """

    def __init__(
        self,
        start: Start,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        steps: int = 12,
        operators: Sequence[str] = EXACT_OPERATORS,
        max_params: int | None = None,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(
            start,
            input_shape,
            num_classes,
            operators=operators,
            max_params=max_params,
            seed=seed,
            scalar=scalar,
        )
        if steps < 1:
            raise ValueError(f"Random graphs must be at least one morphism away; got steps={steps}.")
        self.steps = steps

    def _propose(self) -> Proposal | None:
        if self._next < len(self.start):
            return self._number(self.start[self._next].config)
        parent = self.start[int(self.rng.integers(len(self.start)))].config
        found = self._new_child(parent, lambda: int(self.rng.integers(1, self.steps + 1)))
        return None if found is None else self._number(found[0])
