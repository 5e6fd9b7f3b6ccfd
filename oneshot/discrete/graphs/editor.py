"""Editing a graph and its weights: how nodes and channels are added, repeated and left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from oneshot.supernets.space import RNG

from .graph import ACTIVATIONS, IMAGE, NetworkGraph, Node
from .network import GraphNetwork


class GraphEditor:
    """Mutable copy of a graph and its weights, from which a morphism builds the child.

    Args:
        network: The parent.
    """

    def __init__(self, network: GraphNetwork) -> None:
        self.parent = network
        self.nodes = {node.name: node for node in network.graph.nodes}
        self.tensors: dict[str, dict[str, Tensor]] = {name: {} for name in self.nodes}  # a sketch has none
        for name, module in network.ops.items():
            self.tensors[name] = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
        self.end = network.graph.nodes[-1].name

    def add(self, op: str, inputs: Iterable[str], tensors: Mapping[str, Tensor] | None = None, **options: int) -> str:
        """Put a node with its tensors into the editor, and return its name."""
        name = f"new{len(self.nodes)}"
        self.nodes[name] = Node(name, op, tuple(inputs), **options)
        self.tensors[name] = dict(tensors or {})
        return name

    def rewire(self, old: str, new: str, *, but: Sequence[str] = ()) -> None:
        """Let all that read ``old`` read ``new``."""
        for node in list(self.nodes.values()):
            if old in node.inputs and node.name not in but:
                self.nodes[node.name] = replace(node, inputs=tuple(new if s == old else s for s in node.inputs))

    def pad_kernel(self, name: str, kernel: int) -> None:
        """Put zeros around a kernel."""
        node = self.nodes[name]
        if node.op not in ("conv", "depthwise"):
            raise ValueError(f"Convolutions have kernels; {node} is none.")
        margin, odd = divmod(kernel - node.kernel, 2)
        if margin < 0 or odd:
            raise ValueError(f"A kernel must grow by an even number of pixels; {node} has {node.kernel}, got {kernel}.")
        self.nodes[name] = replace(node, kernel=kernel, width=node.window[1] + 2 * margin)
        if self.parent.ops:
            self.tensors[name]["weight"] = F.pad(self.tensors[name]["weight"], (margin,) * 4)

    def reindex(
        self,
        index: Mapping[str, Tensor],
        scale: Mapping[str, Tensor] | None = None,
        fresh: Mapping[str, Tensor] | None = None,
        rng: RNG = None,
    ) -> None:
        """Leave out or repeat channels.

        Args:
            index: For every node whose channels change, the old channel behind each new one.
            scale: What readers multiply each new channel with; 1 by default.
            fresh: New channels whose weights are drawn instead of copied.
            rng: Draws them.
        """
        scale, rng = scale or {}, np.random.default_rng(rng)
        for node in list(self.nodes.values()):
            tensors, source = self.tensors[node.name], node.inputs[0]
            reads, writes = index.get(source), index.get(node.name)
            if writes is not None and node.op == "conv":
                self.nodes[node.name] = replace(node, channels=len(writes))
            if not tensors:
                continue
            factors = torch.ones(()) if reads is None else scale.get(source, torch.ones(len(reads)))
            if reads is not None and node.op == "conv":
                tensors["weight"] = tensors["weight"][:, reads] * _per_input(factors, tensors["weight"])
            elif reads is not None and node.op == "classifier":
                weight = tensors["weight"].reshape(self.parent.num_classes, self.parent.shapes[source][0], -1)
                tensors["weight"] = (weight[:, reads] * factors.to(weight).view(1, -1, 1)).flatten(1)
            if writes is None:
                continue
            for key, tensor in tensors.items():
                if tensor.dim():
                    tensors[key] = tensor[writes]
            if fresh and node.op == "batch_norm":
                for key, start in _NEW_NORM.items():
                    tensors[key][fresh[node.name]] = start
            elif fresh and node.op in ("conv", "depthwise"):
                new = fresh[node.name]
                drawn = random_weights(tensors["weight"][new], rng)
                if node.op == "conv":
                    drawn *= _per_input(factors, drawn)  # what a new filter reads of new channels is 0
                tensors["weight"][new] = drawn
                if "bias" in tensors:
                    tensors["bias"][new] = 0

    def build(self) -> GraphNetwork:
        """The child: canonical, with the parent's device, type and mode, without nodes that no other reads."""
        parent, live, stack = self.parent, {self.end}, [self.end]
        while stack:
            for source in self.nodes[stack.pop()].inputs:
                if source not in live | {IMAGE}:
                    live.add(source)
                    stack.append(source)
        graph = NetworkGraph(tuple(node for name, node in self.nodes.items() if name in live))
        canonical, names = graph.canonical()
        if not parent.ops:
            return GraphNetwork.from_graph(canonical, parent.input_shape, parent.num_classes, weights=False)
        like = next(parent.parameters())
        with torch.random.fork_rng(devices=[]):  # the first weights are replaced, so they must not cost the caller's
            child = GraphNetwork.from_graph(canonical, parent.input_shape, parent.num_classes)
        child.to(device=like.device, dtype=like.dtype)
        tensors = {f"ops.{names[n]}.{key}": t for n in live for key, t in self.tensors[n].items()}
        child.load_state_dict(tensors)
        return child.train(parent.training)


_NEW_NORM = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def _per_input(factors: Tensor, weight: Tensor) -> Tensor:
    return factors.to(weight).view(1, -1, 1, 1)


def random_weights(like: Tensor, rng: np.random.Generator) -> Tensor:
    """Weights of convolutions, ``[filters, C, k, k]``, normal with variance 2 / fan-in (arXiv:1502.01852, eq. 10)."""
    fan_in = math.prod(like.shape[1:])
    return torch.from_numpy(rng.normal(0.0, math.sqrt(2 / fan_in), like.shape)).to(like)


def options_of(node: Node, **changed: int) -> dict[str, int]:
    """The options of a node, some of them changed."""
    names = ("channels", "kernel", "width", "stride", "groups", "bias")
    return {name: getattr(node, name) for name in names} | changed


def conv_of(network: GraphNetwork, name: str, *, free: bool = False) -> Node:
    """The convolution without groups of that name; ``free`` if its number of filters is to change."""
    node = network.graph[name]
    if node.op != "conv" or node.groups > 1:
        raise ValueError(f"This must be a convolution without groups; {node} is none, or has {node.groups} groups.")
    if free and node not in free_convs(network):
        raise ValueError(f"The filters of {node} are added to the image, or tied to a grouped convolution: both fixed.")
    return node


def chain_of(network: GraphNetwork, name: str) -> list[Node]:
    """A convolution, and the batch normalisation and activation behind it, if no other node reads them."""
    chain = [network.graph[name]]
    for ops in (("batch_norm",), tuple(ACTIVATIONS)):
        readers = network.graph.consumers[chain[-1].name]
        if len(readers) == 1 and network.graph[readers[0]].op in ops:
            chain.append(network.graph[readers[0]])
    return chain


def channel_classes(network: GraphNetwork) -> tuple[dict[str, list[int]], set[int]]:
    """Which channels can only change together.

    Returns:
        For every node the class of each channel, and the classes that cannot change: of the image and of grouped
        convolutions.
    """
    parent: list[int] = []

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def new(count: int) -> list[int]:
        parent.extend(range(len(parent), len(parent) + count))
        return list(range(len(parent) - count, len(parent)))

    atoms = {IMAGE: new(network.input_shape[0])}
    frozen = [*atoms[IMAGE]]
    for node in network.graph.nodes:
        first, *others = (atoms[source] for source in node.inputs)
        if node.op == "conv":
            atoms[node.name] = new(node.channels)
            if node.groups > 1:
                frozen += [*first, *atoms[node.name]]
        elif node.op == "concat":
            atoms[node.name] = [*first, *(atom for other in others for atom in other)]
        elif node.op != "classifier":
            for other in others:  # sums
                for a, b in zip(first, other, strict=True):
                    parent[find(b)] = find(a)
            atoms[node.name] = first
    classes = {name: [find(atom) for atom in of] for name, of in atoms.items()}
    return classes, {find(atom) for atom in frozen}


def weakest(network: GraphNetwork, classes: Mapping[str, list[int]], node: str, count: int) -> set[int]:
    """Classes of the ``count`` channels of least norm, fewer if a node would lose all of its channels.

    Channels of one convolution may be tied to different others, as where a concatenation is part of a sum. Of every
    such kind go as many as is in proportion, whatever the norms are: which graph is left does not depend on weights, so
    a trace that was found with other weights makes the same child.
    """
    norms = dict.fromkeys(classes[node], 0.0)
    for conv in network.graph.nodes:
        if conv.op == "conv" and not norms.keys().isdisjoint(classes[conv.name]):
            filters = [0.0] * conv.channels
            if network.ops:
                filters = network.ops[conv.name].get_parameter("weight").detach().abs().sum((1, 2, 3)).tolist()
            for c, norm in zip(classes[conv.name], filters, strict=True):
                if c in norms:
                    norms[c] += norm
    tied = [Counter(of) for of in classes.values() if not norms.keys().isdisjoint(of)]
    kinds: dict[tuple[int, ...], list[int]] = {}
    for c in norms:
        kinds.setdefault(tuple(of[c] for of in tied), []).append(c)
    order = [
        ((place + 1) / len(of), kind, c)
        for kind, of in enumerate(kinds.values())
        for place, c in enumerate(sorted(of, key=norms.__getitem__))
    ]
    gone: set[int] = set()
    for _, _, c in sorted(order):
        if len(gone) < count and all(of.keys() - gone - {c} for of in tied):
            gone.add(c)
    return gone


def without_input(network: GraphNetwork, merge: Node, drop: int, *, strict: bool = True) -> dict[str, Tensor]:
    """Channels that are left of a concatenation, and of what is behind it, without one input.

    Raises:
        ValueError: If a sum or a grouped convolution needs the channels; an empty dictionary unless ``strict``.
    """
    shapes, index = network.shapes, {}
    starts = np.cumsum([0, *(shapes[source][0] for source in merge.inputs)])
    index[merge.name] = torch.tensor([i for i in range(starts[-1]) if not starts[drop] <= i < starts[drop + 1]])
    for node in network.graph.nodes:
        if node.name == merge.name or not index.keys() & set(node.inputs) or node.op == "classifier":
            continue
        if node.op == "conv" and node.groups == 1:
            continue
        if node.op in ("add", "gated_add", "conv"):
            if strict:
                raise ValueError(f"{node} needs all channels of {merge}, so none of its inputs can be left out.")
            return {}
        if node.op == "concat":
            offsets = np.cumsum([0, *(shapes[source][0] for source in node.inputs)])
            parts = [
                int(offset) + index.get(source, torch.arange(shapes[source][0]))
                for offset, source in zip(offsets, node.inputs, strict=False)
            ]
            index[node.name] = torch.cat(parts)
        else:
            index[node.name] = index[node.inputs[0]]
    return index


def free_convs(network: GraphNetwork) -> list[Node]:
    """Convolutions whose number of filters can change."""
    classes, frozen = channel_classes(network)
    return [n for n in network.graph.nodes if n.op == "conv" and n.groups == 1 and frozen.isdisjoint(classes[n.name])]
