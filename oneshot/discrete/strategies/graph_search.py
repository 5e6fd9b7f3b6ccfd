"""What strategies share that search among graphs, which have no genes."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any

import torch

from oneshot.discrete.graphs.graph import GRAPHS
from oneshot.discrete.graphs.network import GraphNetwork
from oneshot.discrete.protocol import Proposal, Scalar, SearchStrategy
from oneshot.supernets.space import SubnetConfig


class GraphSearch(SearchStrategy, ABC):
    """A search in the space of all graphs.

    Args:
        input_shape: C, H, W of the images.
        num_classes: Number of logits.
        max_params: Networks have at most so many parameters.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        max_params: int | None = None,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(GRAPHS, seed=seed, scalar=scalar)
        self.input_shape, self.num_classes, self.max_params = tuple(input_shape), num_classes, max_params

    def network(self, config: SubnetConfig) -> GraphNetwork:
        """A network of this architecture, with untrained weights."""
        with torch.random.fork_rng(devices=[]):
            return GraphNetwork.from_config(config, self.input_shape, self.num_classes)

    def sketch(self, config: SubnetConfig) -> GraphNetwork:
        """The network of this architecture without weights; it cannot run."""
        return GraphNetwork.from_config(config, self.input_shape, self.num_classes, weights=False)

    def _was_proposed(self, config: SubnetConfig) -> bool:
        return config.to_json().encode() in self._proposed

    def _number(self, config: SubnetConfig, **details: Any) -> Proposal:
        self._proposed.add(config.to_json().encode())
        return super()._number(config, **details)
