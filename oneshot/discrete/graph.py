"""Networks as small graphs: a description that strategies hand around, and the module that runs it."""

from __future__ import annotations

import hashlib
import heapq
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from oneshot.supernets.base import Subnet
from oneshot.supernets.space import ArchGraph, Choice, SearchSpace, SubnetConfig

SPACE = "network_graph"
IMAGE = "image"  # the name of the input
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
}
POOLS = ("max_pool", "avg_pool", "global_pool")
# What each operation takes besides its inputs, and how many inputs it reads: at least, at most.
_OPTIONS: dict[str, tuple[str, ...]] = {
    "conv": ("channels", "kernel", "width", "stride", "groups", "bias"),
    "depthwise": ("kernel", "width", "stride", "bias"),
    "batch_norm": (),
    **{name: () for name in ACTIVATIONS},
    "max_pool": ("kernel", "stride"),
    "avg_pool": ("kernel", "stride"),
    "global_pool": (),
    "add": (),
    "gated_add": (),
    "concat": (),
    "classifier": (),
}
_ARITY = {"add": (2, 1 << 30), "concat": (2, 1 << 30), "gated_add": (2, 2)}
_DEFAULTS = {"channels": 0, "kernel": 0, "width": 0, "stride": 1, "groups": 1, "bias": 0}
_TEXT = re.compile(r"(\w+)\(([^()]*)\)")


@dataclass(frozen=True)
class Node:
    """One operation of a graph.

    Args:
        name: Anything but ``image``, which is the input of the network.
        op: ``conv``, ``depthwise``, ``batch_norm``, an activation (``relu``, ``relu6``, ``leaky_relu``, ``silu``,
            ``gelu``, ``hardswish``), ``max_pool``, ``avg_pool``, ``global_pool``, ``add``, ``gated_add``, ``concat``,
            ``classifier``.
        inputs: Names of the nodes it reads.
        channels: Filters of a ``conv``; everything else has the channels of what it reads.
        kernel: Side of a convolution (odd: half of it is padded) or of a pooling window.
        width: Of a convolution's kernel that is not square; ``kernel`` is its height then.
        stride: Of convolutions and pooling.
        groups: Of a ``conv``; a convolution of one filter for each channel is ``depthwise``.
        bias: 1 for convolutions that add a bias.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    channels: int = 0
    kernel: int = 0
    width: int = 0
    stride: int = 1
    groups: int = 1
    bias: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "width", 0 if self.width == self.kernel else self.width)
        if self.op not in _OPTIONS:
            raise ValueError(f"Node {self.name!r} has the unknown op {self.op!r}; ops are {', '.join(_OPTIONS)}.")
        low, high = _ARITY.get(self.op, (1, 1))
        if not low <= len(self.inputs) <= high:
            raise ValueError(f"{self} reads {low if low == high else f'{low} or more'} inputs; got {self.inputs}.")
        for option, default in _DEFAULTS.items():
            value, takes = getattr(self, option), option in _OPTIONS[self.op]
            low = 0 if option in ("bias", "width") else 1
            if (takes and value < low) or (not takes and value != default):
                rule = f"at least {low}" if takes else "not set: its op does not take it"
                raise ValueError(f"{option} of {self} must be {rule}; got {value}.")
        if self.op in ("conv", "depthwise") and not all(side % 2 for side in self.window):
            raise ValueError(
                f"kernel of {self} must be odd, so that both sides are padded alike; got "
                f"{self.kernel if len(set(self.window)) == 1 else self.window}."
            )

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.op})"

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of a convolution's kernel, or of a pooling window."""
        return self.kernel, self.width or self.kernel

    @property
    def signature(self) -> str:
        """The operation and the options that are not at their defaults: ``conv,channels=16,kernel=3``."""
        options = ((option, getattr(self, option)) for option in _OPTIONS[self.op])
        return ",".join([self.op, *(f"{option}={value}" for option, value in options if value != _DEFAULTS[option])])


@dataclass(frozen=True, eq=False)
class NetworkGraph:
    """A network as a directed acyclic graph that ends in one classifier; without weights, input shape and classes.

    Graphs are equal if they compute the same with the same weights, whatever their nodes are called and in whatever
    order they are listed. That is decided by :attr:`config`, the canonical form. Identical parallel branches are told
    apart by what they read only, so in rare symmetric graphs two spellings of one network can stay different.

    Args:
        nodes: The operations, in any order.

    Raises:
        ValueError: If names clash or are missing, if there is a cycle, or if not exactly one classifier is at the end.

    Example:
        >>> graph = plain_graph((8, 16))
        >>> print(graph.config["nodes"][:4])
        ('conv(0,channels=8,kernel=3)', 'batch_norm(1)', 'relu(2)', 'max_pool(3,kernel=2,stride=2)')
        >>> NetworkGraph.from_config(graph.config) == graph
        True
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        names = [node.name for node in self.nodes]
        if len({IMAGE, *names}) != len(names) + 1:
            raise ValueError(f"Nodes need distinct names, none of them {IMAGE!r}; got {names}.")
        for node in self.nodes:
            if missing := set(node.inputs) - {IMAGE, *names}:
                raise ValueError(f"{node} reads {sorted(missing)}, and there is no node of that name.")
        self._order  # noqa: B018  cycles are found on the way
        for node in self.nodes:
            if (node.op == "classifier") == bool(self.consumers[node.name]):
                rule = "nobody may read it" if node.op == "classifier" else "nothing reads it. Leave it out"
                raise ValueError(f"A graph ends in its classifier and nowhere else; {node}: {rule}.")
        if sum(node.op == "classifier" for node in self.nodes) != 1:
            raise ValueError(f"A graph has exactly one classifier; got the nodes {names}.")

    def __eq__(self, other: object) -> bool:
        return self.config == other.config if isinstance(other, NetworkGraph) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.config)

    def __getitem__(self, name: str) -> Node:
        if name not in self._named:
            raise ValueError(f"There is no node {name!r}; the graph has {list(self._named)}.")
        return self._named[name]

    @cached_property
    def _named(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def consumers(self) -> dict[str, list[str]]:
        """Who reads each node, the image included; a reader stands twice if it reads twice."""
        found: dict[str, list[str]] = {IMAGE: [], **{node.name: [] for node in self.nodes}}
        for node in self.nodes:
            for source in node.inputs:
                found[source].append(node.name)
        return found

    @cached_property
    def config(self) -> SubnetConfig:
        """The canonical form as an architecture of the space ``network_graph``: one pick a node, in order."""
        picks = []
        for node in self.canonical()[0].nodes:
            op, *options = node.signature.split(",")
            inputs = ["0" if source == IMAGE else source for source in node.inputs]
            picks.append(f"{op}({','.join([*inputs, *options])})")
        return SubnetConfig(SPACE, {"nodes": picks})

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that are equal for equal graphs, in all processes."""
        return hashlib.sha256(self.config.to_json().encode()).hexdigest()[:32]

    @classmethod
    def from_config(cls, config: SubnetConfig) -> NetworkGraph:
        """Inverse of :attr:`config`; the nodes are named by their positions, from 1.

        Raises:
            ValueError: If the config is of another space, or its text is no graph.
        """
        if config.space != SPACE or [name for name, _ in config.picks] != ["nodes"]:
            raise ValueError(
                f"A graph is a config of space {SPACE!r} with the choice 'nodes'; got space {config.space!r} with "
                f"{[name for name, _ in config.picks]}."
            )
        return _parse_all(tuple(map(str, config["nodes"])))

    def canonical(self) -> tuple[NetworkGraph, dict[str, str]]:
        """The same graph in its canonical order and names, and the new name of every node."""
        return self._form, self._canonical

    @cached_property
    def _form(self) -> NetworkGraph:
        names = {IMAGE: IMAGE, **self._canonical}
        nodes = []
        for node in sorted(self.nodes, key=lambda node: int(names[node.name])):
            inputs = [names[source] for source in node.inputs]
            if node.op == "add":
                inputs.sort(key=lambda name: 0 if name == IMAGE else int(name))
            nodes.append(replace(node, name=names[node.name], inputs=tuple(inputs)))
        form = NetworkGraph(tuple(nodes))
        form.__dict__.update(_form=form, _canonical={node.name: node.name for node in nodes})  # not found out again
        return form

    @cached_property
    def _canonical(self) -> dict[str, str]:
        """Canonical names: a topological order, where what is ready first is sorted by what is before and behind it."""
        order, nodes = self._order, self._named
        before: dict[str, str] = {IMAGE: IMAGE}
        for name in order:
            inputs = [before[source] for source in nodes[name].inputs]
            before[name] = _digest(nodes[name].signature, *(sorted(inputs) if nodes[name].op == "add" else inputs))
        label: dict[str, str] = {}
        for name in reversed(order):
            behind = []
            for reader in set(self.consumers[name]):
                places = [i for i, source in enumerate(nodes[reader].inputs) if source == name]
                behind.append(f"{label[reader]} {len(places) if nodes[reader].op == 'add' else places}")
            label[name] = _digest(before[name], *sorted(behind))

        number, place = {IMAGE: 0}, {name: i for i, name in enumerate(order)}
        missing = {name: set(nodes[name].inputs) - {IMAGE} for name in order}

        def ready(name: str) -> tuple[str, list[int], int, str]:
            inputs = [number[source] for source in nodes[name].inputs]
            return label[name], sorted(inputs) if nodes[name].op == "add" else inputs, place[name], name

        heap = [ready(name) for name in order if not missing[name]]
        heapq.heapify(heap)
        while heap:
            *_, name = heapq.heappop(heap)
            number[name] = len(number)
            for reader in dict.fromkeys(self.consumers[name]):
                missing[reader].discard(name)
                if not missing[reader]:
                    heapq.heappush(heap, ready(reader))
        return {name: str(i) for name, i in number.items() if name != IMAGE}

    @cached_property
    def _order(self) -> list[str]:
        """Topological: by the longest way from the image, and as they are listed."""
        place = {node.name: i for i, node in enumerate(self.nodes)}
        waiting = {node.name: len(set(node.inputs) - {IMAGE}) for node in self.nodes}
        order, free = list[str](), [name for name, inputs in waiting.items() if not inputs]
        while free:
            order += free
            ready = []
            for reader in (reader for name in free for reader in set(self.consumers[name])):
                waiting[reader] -= 1
                if not waiting[reader]:
                    ready.append(reader)
            free = sorted(ready, key=place.__getitem__)
        if stuck := waiting.keys() - order:
            raise ValueError(f"A graph has no cycles; these nodes wait for each other: {sorted(stuck)}.")
        return order

    def shapes(self, input_shape: Sequence[int]) -> dict[str, tuple[int, int, int]]:
        """Channels, height and width of the image and of every node but the classifier, without running anything.

        Args:
            input_shape: C, H, W of the images.

        Raises:
            ValueError: Naming the first node that does not fit what it reads.
        """
        if len(input_shape) != 3:
            raise ValueError(
                f"Network graphs read images, C, H, W; got inputs of shape {list(input_shape)}. Search these in a "
                "supernet of your own."
            )
        channels, height, width = input_shape
        shapes = {IMAGE: (channels, height, width)}
        for name in self._order:
            node = self[name]
            if node.op != "classifier":
                shapes[name] = _shape(node, [shapes[source] for source in node.inputs])
        return shapes

    def nonnegative(self) -> set[str]:
        """Nodes whose output is never below zero, whatever the weights are."""
        found: set[str] = set()
        for name in self._order:
            node = self[name]
            passes = node.op in (*POOLS, "add", "concat") and found.issuperset(node.inputs)
            if node.op in ("relu", "relu6") or passes:
                found.add(name)
        return found

    def descendants(self, name: str) -> set[str]:
        """All nodes that need ``name``, itself included."""
        found, stack = {name}, [name]
        while stack:
            new = set(self.consumers[stack.pop()]) - found
            found |= new
            stack += new
        return found


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
    """All inputs one behind the other, as channels."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, 1)


class Classifier(nn.Linear):
    """A linear layer over everything that is left: ``[B, C, H, W] -> [B, classes]``."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(1))


@dataclass(frozen=True)
class GraphSpace(SearchSpace):
    """A name for logs and configs: there is no end to its architectures, and they have no genes."""

    def validate(self, config: SubnetConfig) -> None:
        """Check that ``config`` is the text of a graph.

        Raises:
            ValueError: If it is not.
        """
        NetworkGraph.from_config(config)


GRAPHS = GraphSpace(SPACE, (Choice("nodes", ("any",)),))


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
        return sum(_params(node, self.shapes[node.inputs[0]], self.num_classes) for node in self.graph.nodes)

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


def plain_graph(channels: Sequence[int], *, kernel: int = 3, separable: Sequence[int] = ()) -> NetworkGraph:
    """Blocks of Conv-BN-ReLU with max pooling between them, global pooling, a classifier: what searches start from.

    Args:
        channels: Filters of each block.
        kernel: Of all convolutions.
        separable: Blocks, from 0, whose convolution is depthwise and then pointwise.

    Raises:
        ValueError: If there is no block.
    """
    if not channels:
        raise ValueError("A plain graph has at least one block; got no channels.")
    nodes: list[Node] = []

    def put(op: str, **options: int) -> None:
        nodes.append(Node(f"n{len(nodes)}", op, (nodes[-1].name if nodes else IMAGE,), **options))

    for block, width in enumerate(channels):
        if block:
            put("max_pool", kernel=2, stride=2)
        if block in separable:
            put("depthwise", kernel=kernel)
        put("conv", channels=width, kernel=1 if block in separable else kernel)
        put("batch_norm")
        put("relu")
    put("global_pool")
    put("classifier")
    return NetworkGraph(tuple(nodes))


def _digest(*parts: str) -> str:
    return hashlib.blake2b("|".join(parts).encode(), digest_size=12).hexdigest()


@lru_cache(maxsize=256)
def _parse_all(texts: tuple[str, ...]) -> NetworkGraph:
    return NetworkGraph(tuple(_parse(str(i), text) for i, text in enumerate(texts, 1)))


def _parse(name: str, text: str) -> Node:
    match = _TEXT.fullmatch(text)
    inputs: list[str] = []
    options: dict[str, int] = {}
    try:
        if match is None:
            raise ValueError("it has no brackets")
        for item in match[2].split(","):
            key, equals, value = item.rpartition("=")
            if equals and key not in _DEFAULTS:
                raise ValueError(f"{key!r} is no option")
            if equals:
                options[key] = int(value)
            else:
                inputs.append(IMAGE if int(value) == 0 else str(int(value)))
    except ValueError as error:
        raise ValueError(
            f"Node {name} is written 'op(inputs,options)', as 'conv(0,channels=16,kernel=3)'; got {text!r} ({error})."
        ) from error
    return Node(name, match[1], tuple(inputs), **options)


def _shape(node: Node, inputs: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    channels, height, width = inputs[0]
    if node.op == "concat":
        if len({shape[1:] for shape in inputs}) > 1:
            raise ValueError(f"{node} needs inputs of one height and width; got {_list(node, inputs)}.")
        return sum(shape[0] for shape in inputs), height, width
    if node.op in ("add", "gated_add"):
        if len(set(inputs)) > 1:
            raise ValueError(f"{node} needs inputs of one shape; got {_list(node, inputs)}.")
        return inputs[0]
    if node.op == "global_pool":
        return channels, 1, 1
    if not node.kernel:
        return inputs[0]
    height, width = (
        (size + 2 * padding - side) // node.stride + 1
        for size, side, padding in zip((height, width), node.window, _padding(node), strict=True)
    )
    if min(height, width) < 1:
        raise ValueError(f"{node} has a window of {node.kernel} pixels; its input is {_list(node, inputs)}.")
    if node.op == "conv":
        if channels % node.groups or node.channels % node.groups:
            raise ValueError(
                f"{node} divides {channels} channels and {node.channels} filters into {node.groups} groups, and "
                "both must come out even."
            )
        channels = node.channels
    return channels, height, width


def _list(node: Node, shapes: Sequence[tuple[int, int, int]]) -> str:
    return ", ".join(f"{source!r} {shape}" for source, shape in zip(node.inputs, shapes, strict=True))


def _padding(node: Node) -> tuple[int, int]:
    height, width = (side // 2 if side % 2 else 0 for side in node.window)
    return height, width


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
    window: Mapping[str, Any] = {"kernel_size": node.window, "stride": node.stride, "padding": _padding(node)}
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
