"""How the networks of a supernet run: what is needed to add up the memory of their candidates.

A supernet says it by :meth:`~oneshot.supernets.base.OperationSupernet.execution_plan`, in one of these forms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from .space import SubnetConfig


@dataclass(frozen=True)
class ChainPlan:
    """The picks are one module each and run one after the other; what they read does not depend on other picks."""


@dataclass(frozen=True)
class CellRun:
    """One cell of a network.

    Args:
        module: The cell.
        begin: The modules that run before its operations, in order.
        nodes: Genes of the edges that enter each node, in order.
        place: Which of the cells that share these genes it is, as :meth:`OperationSupernet.picked_ops` lists them.
        joined: How many states the output concatenates; 0 where the output is a state.
    """

    module: nn.Module
    begin: tuple[nn.Module, ...] = ()
    nodes: tuple[tuple[int, ...], ...] = ()
    place: int = 0
    joined: int = 0


@dataclass(frozen=True)
class CellPlan:
    """Nodes add up what enters them, one term after the other, and all states live until their cell ends."""

    cells: tuple[CellRun, ...]


@dataclass(frozen=True)
class Wiring:
    """What of the wiring of a cell costs something.

    Args:
        readers: How many nodes read the input of the cell.
        terms: The blocks that run, and how many states each adds up.
        joined: How many states the output concatenates.
    """

    readers: int
    terms: tuple[tuple[int, int], ...]
    joined: int


@dataclass(frozen=True)
class WiredPlan:
    """The first genes are operations of blocks, with the same candidates each, and the others wire them.

    All cells are alike. A cell begins with one projection of its input, which has a part for each of its readers.

    Args:
        cells: The cells of this network.
        blocks: How many genes are operations.
        wiring: What the wiring of an architecture costs.
    """

    cells: tuple[CellRun, ...]
    blocks: int
    wiring: Callable[[SubnetConfig], Wiring]


@dataclass(frozen=True)
class EqualPlan:
    """All architectures cost the same.

    Args:
        extremes: Architectures between which all others lie; that their costs are equal is checked.
    """

    extremes: tuple[SubnetConfig, ...]


ExecutionPlan: TypeAlias = ChainPlan | CellPlan | WiredPlan | EqualPlan
