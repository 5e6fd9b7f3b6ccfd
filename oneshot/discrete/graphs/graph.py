"""Networks as small graphs, without weights."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from torch import nn

from oneshot.supernets.space import Choice, SearchSpace, SubnetConfig

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
        width: Width of a kernel that is not square; ``kernel`` is its height then.
        stride: Stride of a convolution or a pooling.
        groups: Groups of a ``conv``; a convolution of one filter for each channel is ``depthwise``.
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
            raise ValueError(f"Nodes must have distinct names, none of them {IMAGE!r}; got {names}.")
        for node in self.nodes:
            if missing := set(node.inputs) - {IMAGE, *names}:
                raise ValueError(f"{node} reads {sorted(missing)}, and there is no node of that name.")
        self._order  # noqa: B018  cycles are found on the way
        for node in self.nodes:
            if (node.op == "classifier") == bool(self.consumers[node.name]):
                rule = "no node may read it" if node.op == "classifier" else "nothing reads it. Leave it out"
                raise ValueError(f"A graph must end in its classifier and nowhere else; {node}: {rule}.")
        if sum(node.op == "classifier" for node in self.nodes) != 1:
            raise ValueError(f"A graph must have exactly one classifier; got the nodes {names}.")

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
        """The readers of each node and of the image; a node that reads twice is listed twice."""
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
                f"A graph must be a config of space {SPACE!r} with the choice 'nodes'; got space {config.space!r} with "
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
            raise ValueError(f"A graph must have no cycles; these nodes wait for each other: {sorted(stuck)}.")
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


@dataclass(frozen=True)
class GraphSpace(SearchSpace):
    """The space of all graphs: a name for logs and configs. It is infinite, and has no genes."""

    def validate(self, config: SubnetConfig) -> None:
        """Check that ``config`` is the text of a graph.

        Raises:
            ValueError: If it is not.
        """
        NetworkGraph.from_config(config)


GRAPHS = GraphSpace(SPACE, (Choice("nodes", ("any",)),))


def plain_graph(channels: Sequence[int], *, kernel: int = 3, separable: Sequence[int] = ()) -> NetworkGraph:
    """Blocks of Conv-BN-ReLU with max pooling between them, global pooling, a classifier: what searches start from.

    Args:
        channels: Filters of each block.
        kernel: Kernel size of all convolutions.
        separable: Blocks, from 0, whose convolution is depthwise and then pointwise.

    Raises:
        ValueError: If there is no block.
    """
    if not channels:
        raise ValueError("A plain graph must have at least one block; got no channels.")
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
            raise ValueError(f"{node} must have inputs of one height and width; got {_list(node, inputs)}.")
        return sum(shape[0] for shape in inputs), height, width
    if node.op in ("add", "gated_add"):
        if len(set(inputs)) > 1:
            raise ValueError(f"{node} must have inputs of one shape; got {_list(node, inputs)}.")
        return inputs[0]
    if node.op == "global_pool":
        return channels, 1, 1
    if not node.kernel:
        return inputs[0]
    height, width = (
        (size + 2 * padding - side) // node.stride + 1
        for size, side, padding in zip((height, width), node.window, padding_of(node), strict=True)
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


def padding_of(node: Node) -> tuple[int, int]:
    """Rows and columns of zeros at each side of a convolution, so that a stride of 1 keeps the size."""
    height, width = (side // 2 if side % 2 else 0 for side in node.window)
    return height, width
