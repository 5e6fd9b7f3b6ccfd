"""The module that runs a network graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from oneshot.supernets.base import Subnet
from oneshot.supernets.space import ArchGraph, SubnetConfig

from .graph import ACTIVATIONS, IMAGE, SPACE, NetworkGraph, Node, padding_of


class GatedAdd(nn.Module):
    """``(1 - gate) y + gate h`` with one learnable gate, which starts at 0.

    The gate is not held in [0, 1]: at 0, where it starts, a gradient that points outside would keep h from ever being
    trained. Exclude it from weight decay, as is usual for parameters of fewer than two dimensions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, y: Tensor, h: Tensor) -> Tensor:
        return (1 - self.gate) * y + self.gate * h


class Add(nn.Module):
    """The sum of all inputs."""

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = first + other
        return first


class Concat(nn.Module):
    """The channels of all inputs, in order."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, 1)


class Classifier(nn.Linear):
    """A linear layer over all values: ``[B, C, H, W] -> [B, classes]``."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(1))


class GraphNetwork(Subnet):
    """A graph that runs and trains.

    Its nodes have their canonical names: the layer of the i-th pick of ``config`` is ``ops[str(i)]``.

    Args:
        nodes: The picks of a config of the space ``network_graph``, in any order that is a graph.
        input_shape: C, H, W of the images.
        num_classes: Number of logits.
        weights: Without them, it is a sketch of a network: it cannot run, but takes next to no time to build and morph.

    Raises:
        ValueError: If the nodes are no graph, or do not fit each other or the image; the node is named.

    Example:
        >>> from oneshot.discrete.graphs.graph import plain_graph
        >>> network = GraphNetwork.from_graph(plain_graph((8, 16)), (3, 8, 8), 10)
        >>> network(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    config: SubnetConfig

    def __init__(
        self, nodes: Sequence[str], input_shape: Sequence[int], num_classes: int, *, weights: bool = True
    ) -> None:
        super().__init__()
        given = NetworkGraph.from_config(SubnetConfig(SPACE, {"nodes": list(nodes)}))
        given.shapes(input_shape)
        self.graph, _ = given.canonical()
        self.config = self.graph.config
        channels, height, width = input_shape
        self.input_shape, self.num_classes = (channels, height, width), num_classes
        self.init_args = {
            "nodes": list(self.config["nodes"]),
            "input_shape": list(self.input_shape),
            "num_classes": num_classes,
        }
        self.shapes = self.graph.shapes(input_shape)
        self.ops = nn.ModuleDict()
        for node in self.graph.nodes if weights else ():
            self.ops[node.name] = _module(node, self.shapes[node.inputs[0]], num_classes)
        self._last_use = {source: node.name for node in self.graph.nodes for source in node.inputs}

    @property
    def num_params(self) -> int:
        """Parameters, also of a sketch."""
        return num_params(self.graph, self.input_shape, self.num_classes)

    @classmethod
    def from_config(
        cls, config: SubnetConfig, input_shape: Sequence[int], num_classes: int, *, weights: bool = True
    ) -> GraphNetwork:
        """Build the network of a config, with new weights."""
        return cls.from_graph(NetworkGraph.from_config(config), input_shape, num_classes, weights=weights)

    @classmethod
    def from_graph(
        cls, graph: NetworkGraph, input_shape: Sequence[int], num_classes: int, *, weights: bool = True
    ) -> GraphNetwork:
        """Build the network of a graph, with new weights."""
        graph.shapes(input_shape)  # errors call the nodes by the names they have here
        return cls([str(pick) for pick in graph.config["nodes"]], input_shape, num_classes, weights=weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_of(x, self.graph.nodes[-1].name)

    def output_of(self, x: Tensor, name: str) -> Tensor:
        """What the node ``name`` makes of images ``[B, C, H, W]``; what it does not need, and is behind it, is not run.

        Args:
            x: Images.
            name: A node, or ``image``.
        """
        return x if name == IMAGE else self._outputs(x, [self.graph[name].name])[0]

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        last = {}
        for node in self.graph.nodes[:-1]:
            _, height, width = self.shapes[node.name]
            if height * width > 1:
                last[height, width] = node.name
        return self._outputs(x, [last[size] for size in sorted(last, key=math.prod, reverse=True)])

    def _outputs(self, x: Tensor, names: Sequence[str]) -> list[Tensor]:
        if not self.ops:
            raise RuntimeError("A sketch has no weights and cannot run. Build the network with weights=True.")
        values, found = {IMAGE: x}, dict[str, Tensor]()
        for node in self.graph.nodes:
            y: Tensor = self.ops[node.name](*(values[source] for source in node.inputs))
            if node.name in names:
                found[node.name] = y
                if len(found) == len(names):
                    break
            values[node.name] = y
            for source in set(node.inputs):
                if self._last_use[source] == node.name:
                    del values[source]  # frees memory as early as possible
        return [found[name] for name in names]

    def graphs(self) -> list[ArchGraph]:
        labels, index = [IMAGE], {IMAGE: 0}
        for i, node in enumerate(self.graph.nodes, 1):
            labels.append(node.signature)
            index[node.name] = i
        edges = tuple((index[s], index[node.name], "") for node in self.graph.nodes for s in node.inputs)
        return [ArchGraph("network", tuple(labels), edges)]


def num_params(graph: NetworkGraph, input_shape: Sequence[int], num_classes: int) -> int:
    """Parameters of the network of a graph, without building it."""
    shapes = graph.shapes(input_shape)
    return sum(_params(node, shapes[node.inputs[0]], num_classes) for node in graph.nodes)


def _params(node: Node, shape: tuple[int, int, int], num_classes: int) -> int:
    channels = shape[0]
    match node.op:
        case "conv":
            return node.channels * (channels // node.groups * node.kernel**2 + node.bias)
        case "depthwise":
            return channels * (node.kernel**2 + node.bias)
        case "batch_norm":
            return 2 * channels
        case "gated_add":
            return 1
        case "classifier":
            return num_classes * (channels * shape[1] * shape[2] + 1)
    return 0


def _module(node: Node, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    channels = shape[0]
    window: Mapping[str, Any] = {"kernel_size": node.window, "stride": node.stride, "padding": padding_of(node)}
    match node.op:
        case "conv" | "depthwise":
            out, groups = (channels, channels) if node.op == "depthwise" else (node.channels, node.groups)
            conv = nn.Conv2d(channels, out, groups=groups, bias=bool(node.bias), **window)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            return conv
        case "batch_norm":
            return nn.BatchNorm2d(channels)
        case "max_pool":
            return nn.MaxPool2d(**window)
        case "avg_pool":
            return nn.AvgPool2d(**window, count_include_pad=False)
        case "global_pool":
            return nn.AdaptiveAvgPool2d(1)
        case "add":
            return Add()
        case "gated_add":
            return GatedAdd()
        case "concat":
            return Concat()
        case "classifier":
            return Classifier(channels * shape[1] * shape[2], num_classes)
    return ACTIVATIONS[node.op]()
