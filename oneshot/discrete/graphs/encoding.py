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


class SizedWriter(GraphWriter):
    """A writer that knows how large all outputs are, and makes inputs fit each other.

    Args:
        input_shape: C, H, W of the images.
    """

    def __init__(self, input_shape: Sequence[int]) -> None:
        super().__init__()
        channels, *size = input_shape
        self.side, self.channels, self.halved = min(size), {IMAGE: channels}, {IMAGE: 0}

    def add(self, op: str, *inputs: str, **options: int) -> str:
        name = super().add(op, *inputs, **options)
        widths = [self.channels[source] for source in inputs]
        self.channels[name] = options.get("channels", sum(widths) if op == "concat" else widths[0])
        self.halved[name] = self.halved[inputs[0]] + options.get("stride", 1).bit_length() - 1
        return name

    def pool(self, op: str, x: str) -> str:
        """Pooling of 2x2, if ``x`` has two pixels in height and width."""
        return self.add(op, x, kernel=2, stride=2) if self.side >> self.halved[x] >= 2 else x

    def same_size(self, inputs: Sequence[str]) -> list[str]:
        """The inputs, all max-pooled to the resolution of the smallest."""
        least = max(self.halved[source] for source in inputs)
        windows = [1 << least - self.halved[source] for source in inputs]
        return [
            source if window == 1 else self.add("max_pool", source, kernel=window, stride=window)
            for source, window in zip(inputs, windows, strict=True)
        ]

    def widen(self, x: str, channels: int) -> str:
        """A 1x1 convolution with batch normalisation, where channels differ."""
        return x if self.channels[x] == channels else self.conv(x, channels, 1, relu=False)

    def widened_sum(self, inputs: Sequence[str]) -> str:
        """The sum of inputs of one resolution, all as wide as the widest."""
        channels = max(self.channels[source] for source in inputs)
        return self.sum([self.widen(source, channels) for source in inputs])


def pairs(size: int) -> list[tuple[int, int]]:
    """The edges of a directed acyclic graph of so many nodes, ``(source, target)`` from 0, target by target."""
    return [(source, target) for target in range(size) for source in range(target)]
