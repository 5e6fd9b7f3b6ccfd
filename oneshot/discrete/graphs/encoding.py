"""Spaces whose architectures are graphs: encodings that papers search in, and the networks they stand for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from oneshot.supernets.space import SearchSpace, SubnetConfig

from .graph import IMAGE, NetworkGraph, Node
from .network import GraphNetwork


@dataclass(frozen=True)
class GraphSpace(SearchSpace, ABC):
    """A space that knows the graph of each of its architectures."""

    @abstractmethod
    def graph(self, config: SubnetConfig) -> NetworkGraph:
        """The network of an architecture, without weights."""

    def network(self, input_shape: Sequence[int], num_classes: int) -> GraphBuilder:
        """What trains architectures of this space: ``TrainingEvaluator(data, folder, build=space.network(...))``.

        Args:
            input_shape: C, H, W of the images.
            num_classes: Number of logits.
        """
        return GraphBuilder(self, tuple(input_shape), num_classes)


@dataclass(frozen=True)
class GraphBuilder:
    """From an architecture to its network, with new weights; pickles, so that other processes can train.

    Args:
        space: The space of the architectures.
        input_shape: C, H, W of the images.
        num_classes: Number of logits.
    """

    space: GraphSpace
    input_shape: tuple[int, ...]
    num_classes: int

    def __call__(self, config: SubnetConfig) -> GraphNetwork:
        return GraphNetwork.from_graph(self.space.graph(config), self.input_shape, self.num_classes)


class GraphWriter:
    """Writes a graph down node by node; every method returns the name of what it has added."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def add(self, op: str, *inputs: str, **options: int) -> str:
        """One node."""
        self.nodes.append(Node(f"n{len(self.nodes)}", op, inputs, **options))
        return self.nodes[-1].name

    def conv(self, x: str, channels: int, kernel: int, *, width: int = 0, relu: bool = True) -> str:
        """Convolution, batch normalisation, ReLU."""
        x = self.add("batch_norm", self.add("conv", x, channels=channels, kernel=kernel, width=width))
        return self.add("relu", x) if relu else x

    def separable(self, x: str, channels: int, kernel: int, *, stride: int = 1) -> str:
        """Depthwise, then pointwise convolution, batch normalisation, ReLU."""
        return self.conv(self.add("depthwise", x, kernel=kernel, stride=stride), channels, 1)

    def sum(self, inputs: Sequence[str]) -> str:
        """The sum; of one input, itself."""
        return self.add("add", *inputs) if len(inputs) > 1 else inputs[0]

    def concat(self, inputs: Sequence[str]) -> str:
        """The channels of all; of one input, itself."""
        return self.add("concat", *inputs) if len(inputs) > 1 else inputs[0]

    def finish(self, x: str = IMAGE) -> NetworkGraph:
        """Global pooling and a classifier."""
        self.add("classifier", self.add("global_pool", x))
        return NetworkGraph(tuple(self.nodes))


def pairs(size: int) -> list[tuple[int, int]]:
    """The edges of a directed acyclic graph of so many nodes, ``(source, target)`` from 0, target by target."""
    return [(source, target) for target in range(size) for source in range(target)]
