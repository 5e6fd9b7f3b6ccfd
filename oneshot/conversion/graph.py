"""A network whose sizes are known as functions of what is kept, and the network at other sizes."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oneshot.supernets.space import IntMatrix

from .axes import Extent, Shape, cut
from .trace import Call, Trace


@dataclass(frozen=True)
class Group:
    """What is cut together.

    Args:
        name: Of the choice.
        leaves: Leaves of this size, one for each set of channels whose order is their own.
        size: Entries in the original network.
        unit: Channels of an entry.
        sizes: What can be kept, smallest first; the last is all.
        kind: ``"width"``, ``"heads"`` or ``"kernel"``.
        weights: Parameters and buffers that have it.
    """

    name: str
    leaves: tuple[int, ...]
    size: int
    unit: int
    sizes: tuple[int, ...]
    kind: str
    weights: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """Blocks one behind the other; the last ones can be left out.

    Args:
        name: Of the choice.
        blocks: Paths of those that can be left out, first to last.
        others: Blocks of the same container that cannot.
        least: Fewest of :attr:`blocks` that are kept.
    """

    name: str
    blocks: tuple[str, ...]
    others: int
    least: int


@dataclass(frozen=True)
class Fixed:
    """Something that does not vary.

    Args:
        what: Parameters that have the side, or the module.
        size: Entries.
        why: The reason.
    """

    what: str
    size: int
    why: str


@dataclass(frozen=True)
class Binding:
    """An attribute of a module that says a size.

    Args:
        module: Path of the module.
        name: Of the attribute.
        index: Place in a tuple or list; None for a number.
        extent: The size.
        offset: What is added to the size, after it was divided.
        divisor: What it is divided by, without rest.
        factor: What the quotient is multiplied by.
    """

    module: str
    name: str
    index: int | None
    extent: Extent
    offset: int = 0
    divisor: int = 1
    factor: int = 1

    def value(self, sizes: Sequence[int]) -> int:
        """The attribute in a network of these sizes."""
        return (self.extent.at(sizes) + self.offset) // self.divisor * self.factor


@dataclass(frozen=True)
class Graph:
    """A network whose sizes are known as functions of what is kept.

    Args:
        trace: All operators of one run.
        leaves: Entries of every leaf in the original network.
        centred: Leaves of which the middle is kept.
        shapes: Of every tensor of the trace.
        weights: Of every parameter and buffer, by name.
        factors: Of every operator that multiplies, by number: the product is its multiply-accumulates.
        bindings: Attributes that follow.
        groups: What can be cut.
        stages: What can be left out.
        fixed: What does not vary, and why.
        head: Path of the layer whose outputs are those of the network, if that is a linear layer or a convolution.
        unknown: Operators without a rule, with the module they ran in, each once.
    """

    trace: Trace
    leaves: tuple[int, ...]
    centred: frozenset[int]
    shapes: Mapping[int, Shape]
    weights: Mapping[str, Shape]
    factors: Mapping[int, Shape]
    bindings: tuple[Binding, ...]
    groups: tuple[Group, ...]
    stages: tuple[Stage, ...]
    fixed: tuple[Fixed, ...]
    head: str | None
    unknown: tuple[tuple[str, str], ...]

    def calls_of(self, block: str) -> Call:
        """When a block that can be left out ran."""
        return next(call for call in self.trace.calls if call.path == block)


def leaf_sizes(graph: Graph, kept: Sequence[int]) -> list[int]:
    """Entries of every leaf, if these are kept of every group."""
    sizes = list(graph.leaves)
    for group, size in zip(graph.groups, kept, strict=True):
        for leaf in group.leaves:
            sizes[leaf] = int(size)
    return sizes


def weights_at(
    network: nn.Module, graph: Graph, sizes: Sequence[int], dropped: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The part of all weights that a network of these sizes uses; views where possible."""
    gone = tuple(f"{path}." for path in dropped)
    named = [*network.named_parameters(), *network.named_buffers()]
    return {
        name: cut(tensor, graph.weights[name], sizes, graph.centred)
        for name, tensor in named
        if not name.startswith(gone)
    }


def sizes_matrix(graph: Graph, kept: IntMatrix) -> IntMatrix:
    """The same as :func:`leaf_sizes` for many networks: ``[N, groups] -> [N, leaves]``."""
    sizes = np.tile(np.array(graph.leaves, dtype=np.int64), (len(kept), 1))
    for place, group in enumerate(graph.groups):
        sizes[:, list(group.leaves)] = kept[:, [place]]
    return sizes


class Skip(nn.Identity):
    """Stands in the place of a block that is called with more than one argument: it returns the first."""

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The first argument, as it is."""
        return input


def left_out(block: nn.Module) -> nn.Module:
    """What stands in the place of a block: ``nn.Identity``, or :class:`Skip` if the block takes more arguments."""
    return nn.Identity() if len(inspect.signature(block.forward).parameters) == 1 else Skip()


@contextlib.contextmanager
def resized(network: nn.Module, graph: Graph, sizes: Sequence[int], dropped: Sequence[str] = ()) -> Iterator[None]:
    """Inside, attributes of modules are those of a network of these sizes, and blocks are left out.

    Args:
        network: What was analysed.
        graph: Of the network.
        sizes: Entries of every leaf that are kept.
        dropped: Blocks that are left out: ``nn.Identity`` stands in their places, or :class:`Skip`.
    """
    before: list[tuple[nn.Module, str, Any]] = []
    children: list[tuple[nn.Module, str, nn.Module]] = []
    modules = dict(network.named_modules())
    try:
        for binding in graph.bindings:
            value, module = binding.value(sizes), modules[binding.module]
            old = module.__dict__[binding.name]
            was = old if binding.index is None else old[binding.index]
            if was == value:
                continue
            before.append((module, binding.name, old))
            if binding.index is not None:
                changed = list(old)
                changed[binding.index] = value
                value = type(old)(changed)
            module.__dict__[binding.name] = value
        for path in dropped:
            parent, _, name = path.rpartition(".")
            module = modules[parent]
            children.append((module, name, getattr(module, name)))
            setattr(module, name, left_out(children[-1][2]))
        yield
    finally:
        for module, name, value in reversed(before):
            module.__dict__[name] = value
        for module, name, child in children:
            setattr(module, name, child)


def state_at(network: nn.Module, graph: Graph, sizes: Sequence[int]) -> dict[str, Tensor]:
    """Weights without numbers, of a network of these sizes."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {
        name: torch.empty([side.at(sizes) for side in graph.weights[name]], dtype=tensor.dtype)
        if any(side.kind != "fixed" for side in graph.weights[name])
        else tensor
        for name, tensor in named
    }
