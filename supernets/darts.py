"""The DARTS cell space (Liu et al., ICLR 2019, arXiv:1806.09055) and the reduced spaces S1 to S4 (arXiv:1909.09656).

A cell has two inputs and ``steps`` nodes; every node may read every earlier state. All normal cells share one set of
decisions, all reduction cells another. Supernet, derived network and genotypes follow the authors' code
(quark0/darts), except that odd image sizes work.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .base import OperationSupernet, Subnet, arguments, check_classes, check_image_size, image_shape, inherit_weights
from .connection import CellGraph
from .decisions import InputDecisions
from .execution import CellPlan, CellRun
from .genotype import Cell, Genotype
from .mixed_op import MixedOp, add_up, arch_of_cell, check_parts, has_weights, mixed_op
from .ops import FactorizedReduce, OwnOps, Seen, by_resolution, check_ops, make_op, relu_conv_bn, sum_in_turn
from .own_ops import checked_ops, saved_ops
from .space import NONE, ArchGraph, Candidate, Choice, IntMatrix, SearchSpace, SubnetConfig, natural

Kind = Literal["normal", "reduce"]
KINDS: tuple[Kind, Kind] = ("normal", "reduce")

CANDIDATES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


@dataclass(frozen=True)
class DARTSSpace(SearchSpace):
    """Which operation is on which edge. An edge that is left out holds ``none``.

    Sampling, mutation and crossover stay among cells whose nodes have ``edges_per_node`` inputs (all of them where a
    node has fewer predecessors), as derived cells do; a config with other in-degrees is legal all the same.

    Args:
        name: Name of the space.
        choices: ``normal`` and ``reduce`` with one row per edge, or one choice per edge (``normal_0``, ...).
        steps: Nodes per cell.
        edges_per_node: Inputs of a node in a derived cell.
        multiplier: The output of a cell concatenates its last ``multiplier`` nodes.
        ops: Operations of one's own among the candidates, see :func:`~oneshot.supernets.own_ops.checked_ops`.
    """

    steps: int = 4
    edges_per_node: int = 2
    multiplier: int = 4
    ops: OwnOps = field(default_factory=dict, hash=False, repr=False)  # checkpoints have a checksum of the text

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ops", checked_ops(self.ops))
        if not 1 <= self.multiplier <= self.steps:
            raise ValueError(
                f"A cell concatenates between 1 and steps={self.steps} of its nodes; got multiplier={self.multiplier}."
            )
        if self.edges_per_node < 1:
            raise ValueError(f"A node reads at least one state; got edges_per_node={self.edges_per_node}.")
        check_ops([pick for choice in self.choices for pick in choice.candidates], self.ops)
        if not all(NONE in choice.picks for choice in self.choices):
            raise ValueError(
                f"Edges of space {self.name!r} can be left out: give its choices 'none' or droppable=True."
            )
        for kind in KINDS:
            rows = sum(choice.rows for choice in self.choices_of(kind))
            if rows != self.num_edges:
                raise ValueError(f"A cell of {self.steps} steps has {self.num_edges} edges; {kind!r} has {rows} rows.")

    @property
    def num_edges(self) -> int:
        """Edges of one cell: ``2 + 3 + ... + (steps + 1)``."""
        return sum(i + 2 for i in range(self.steps))

    def choices_of(self, kind: Kind) -> list[Choice]:
        """Choices that decide the cells of one kind, in the order of the edges."""
        return [choice for choice in self.choices if choice.name.split("_")[0] == kind]

    def node_edges(self, node: int) -> range:
        """Edges that enter a node; edge ``i`` of the range leaves state ``i``."""
        first = sum(i + 2 for i in range(node))
        return range(first, first + node + 2)

    @property
    def size(self) -> int:
        return math.prod(sum(ways) for _, ways in map(self._subsets, self.nodes()))

    def genotype(self, config: SubnetConfig) -> Genotype:
        """The cells of a config: inverse of :meth:`config`, with the edges of a node in the order of their inputs."""
        self.validate(config)
        concat = tuple(range(2 + self.steps - self.multiplier, 2 + self.steps))
        cells: dict[Kind, Cell] = {}
        for kind in KINDS:
            picks = [str(pick) for choice in self.choices_of(kind) for pick in config[choice.name]]
            cells[kind] = tuple(
                tuple((picks[edge], state) for state, edge in enumerate(self.node_edges(node)) if picks[edge] != NONE)
                for node in range(self.steps)
            )
        return Genotype(cells["normal"], concat, cells["reduce"], concat)

    def config(self, genotype: Genotype) -> SubnetConfig:
        """The config that builds a genotype; edges are listed by the state they leave.

        Raises:
            ValueError: If the genotype is not in this space: another number of nodes, another concatenation, two edges
                between the same states, or an operation that is not a candidate there.
        """
        concat = tuple(range(2 + self.steps - self.multiplier, 2 + self.steps))
        picks: dict[str, tuple[str, ...]] = {}
        for kind in KINDS:
            cell: Cell = getattr(genotype, kind)
            if len(cell) != self.steps or getattr(genotype, f"{kind}_concat") != concat:
                raise ValueError(
                    f"Cells of {self.name!r} have {self.steps} nodes and concatenate {list(concat)}; this {kind} cell "
                    f"has {len(cell)} and concatenates {list(getattr(genotype, f'{kind}_concat'))}."
                )
            ops = [NONE] * self.num_edges
            for node, edges in enumerate(cell):
                for op, state in edges:
                    edge = self.node_edges(node)[state]
                    if op != NONE and ops[edge] != NONE:
                        raise ValueError(
                            f"A config of {self.name!r} holds one operation an edge; node {node} of the {kind} cell "
                            f"reads state {state} twice. DARTSNetwork(genotype) builds it directly."
                        )
                    ops[edge] = op if op != NONE else ops[edge]
            start = 0
            for choice in self.choices_of(kind):
                picks[choice.name] = tuple(ops[start : start + choice.rows])
                start += choice.rows
        config = SubnetConfig(self.name, {choice.name: picks[choice.name] for choice in self.choices})
        self.validate(config)
        return config

    def most_likely(self, probabilities: Mapping[str, npt.NDArray[np.floating[Any]]]) -> SubnetConfig:
        """Derive as the paper does (arXiv:1806.09055, section 2.4).

        Each node keeps the ``edges_per_node`` edges whose best operation is most likely, with that operation; ``none``
        takes part in neither comparison.

        Args:
            probabilities: ``{choice: [R, O]}``, rows sum to 1 with ``none`` where it is a candidate.
        """
        picks: list[Candidate] = []
        strength: list[float] = []
        for choice in self.choices:
            live = [o for o, candidate in enumerate(choice.candidates) if candidate != NONE]
            for row in probabilities[choice.name][:, live]:
                picks.append(choice.candidates[live[int(row.argmax())]])
                strength.append(float(row.max()))
        for node in self.nodes():
            for gene in sorted(node, key=lambda gene: -strength[gene])[self.edges_per_node :]:
                picks[gene] = NONE
        genes = [row.index(pick) for row, pick in zip(self._picks, picks, strict=True)]
        return self.decode(np.array([genes]))[0]

    def graphs(self, config: SubnetConfig) -> list[ArchGraph]:
        return self.genotype(config).graphs()

    def nodes(self) -> list[list[int]]:
        """Genes of the edges that enter each node, over both kinds."""
        starts = np.cumsum([0, *(choice.rows for choice in self.choices)])
        genes_of = {c.name: range(s, s + c.rows) for c, s in zip(self.choices, starts, strict=False)}
        nodes = []
        for kind in KINDS:
            genes = [gene for choice in self.choices_of(kind) for gene in genes_of[choice.name]]
            nodes += [[genes[edge] for edge in self.node_edges(node)] for node in range(self.steps)]
        return nodes

    def cell_graphs(self) -> list[CellGraph]:
        nodes, outputs = self.nodes(), tuple(range(2 + self.steps - self.multiplier, 2 + self.steps))
        graphs = []
        for first in (0, self.steps):
            own = enumerate(nodes[first : first + self.steps], start=2)
            edges = tuple((source, node, gene) for node, genes in own for source, gene in enumerate(genes))
            graphs.append(CellGraph(edges, inputs=(0, 1), outputs=outputs))
        return graphs

    def decisions(self) -> InputDecisions:
        return InputDecisions(self, self.nodes(), self.edges_per_node)

    def _live(self, gene: int) -> list[int]:
        """Codes of a gene that put an operation on its edge."""
        return [code for code, pick in enumerate(self._picks[gene]) if pick != NONE]

    def _none(self, gene: int) -> int:
        return self._picks[gene].index(NONE)

    @property
    def _picks(self) -> list[tuple[Candidate, ...]]:
        return [choice.picks for choice in self.choices for _ in range(choice.rows)]

    def _subsets(self, node: list[int]) -> tuple[list[tuple[int, ...]], list[int]]:
        """Sets of edges a node can keep, and the number of ways to put operations on each."""
        subsets = list(itertools.combinations(node, min(self.edges_per_node, len(node))))
        return subsets, [math.prod(len(self._live(gene)) for gene in subset) for subset in subsets]

    def draw_genes(self, n: int, rng: np.random.Generator) -> IntMatrix:
        genes = np.empty((n, self.num_genes), dtype=np.int64)
        for node in self.nodes():
            subsets, ways = self._subsets(node)
            kept = rng.choice(len(subsets), size=n, p=np.array(ways) / sum(ways))
            for gene in node:
                on = np.array([gene in subset for subset in subsets])[kept]
                genes[:, gene] = np.where(on, rng.choice(self._live(gene), size=n), self._none(gene))
        return genes

    def mutate_genes(self, genes: IntMatrix, rng: np.random.Generator) -> IntMatrix:
        """Change the operation of an edge, or let the edge leave another state (arXiv:1802.01548, section 3)."""
        operations: list[dict[int, int]] = []
        rewirings: list[dict[int, int]] = []
        for node in self.nodes():
            on = [gene for gene in node if genes[gene] != self._none(gene)]
            off = [gene for gene in node if gene not in on]
            operations += [{gene: code} for gene in on for code in self._live(gene) if code != genes[gene]]
            rewirings += [{old: self._none(old), new: code} for old in on for new in off for code in self._live(new)]
        kinds = [kind for kind in (operations, rewirings) if kind]
        if not kinds:
            raise ValueError(f"Space {self.name!r} has no other architecture with as many edges; nothing to mutate.")
        options = kinds[rng.integers(len(kinds))]
        child = genes.copy()
        for gene, code in options[rng.integers(len(options))].items():
            child[gene] = code
        return child

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        """Nodes that neither the output nor another node reads lose their edges."""
        nodes, none = self.nodes(), np.array([self._none(gene) for gene in range(self.num_genes)])
        for first in (0, self.steps):
            for node in reversed(range(self.steps - self.multiplier)):
                readers = [nodes[first + later][node + 2] for later in range(node + 1, self.steps)]
                unread = (genes[:, readers] == none[readers]).all(1)
                entering = nodes[first + node]
                genes[np.ix_(unread, entering)] = none[entering]
        return genes

    def repair_genes(self, genes: IntMatrix) -> IntMatrix:
        """Nodes get as many inputs as sampled ones have: the first they have, then the earliest states they lack."""
        for node in self.nodes():
            none = np.array([self._none(gene) for gene in node])
            on = genes[:, node] != none
            wanted = min(self.edges_per_node, len(node))
            kept = on & (on.cumsum(1) <= wanted)
            missing = wanted - kept.sum(1, keepdims=True)
            added = ~on & ((~on).cumsum(1) <= missing)
            first_live = np.array([self._live(gene)[0] for gene in node])
            genes[:, node] = np.where(added, first_live, np.where(kept, genes[:, node], none))
        return self.canonical_genes(genes)

    def gene_groups(self) -> list[list[int]]:
        return self.nodes()


def darts_space(
    *,
    candidates: Sequence[str] | None = None,
    steps: int = 4,
    multiplier: int | None = None,
    name: str = "darts",
    ops: OwnOps | None = None,
) -> DARTSSpace:
    """The space with the same candidates on every edge.

    Args:
        candidates: Operation names; by default the eight of the paper and then those of ``ops``. Without ``none`` an
            edge can still be left out of a derived cell.
        steps: Nodes per cell.
        multiplier: Nodes concatenated into the output of a cell; all of them by default.
        name: Name of the space.
        ops: Operations of one's own, by name: factories ``(channels, stride) -> nn.Module``, or their class paths.
    """
    edges, names = sum(i + 2 for i in range(steps)), (*CANDIDATES, *(ops or {})) if candidates is None else candidates
    choices = tuple(Choice(kind, tuple(names), rows=edges, droppable=True) for kind in KINDS)
    return DARTSSpace(name, choices, steps=steps, multiplier=steps if multiplier is None else multiplier, ops=ops or {})


# Candidates of every edge in space S1: (normal, reduction). From automl/RobustDARTS src/spaces.py.
S1_EDGES = (
    (("skip_connect", "dil_conv_3x3"), ("max_pool_3x3", "avg_pool_3x3")),
    (("skip_connect", "dil_conv_5x5"), ("max_pool_3x3", "dil_conv_3x3")),
    (("skip_connect", "dil_conv_5x5"), ("max_pool_3x3", "avg_pool_3x3")),
    (("skip_connect", "sep_conv_3x3"), ("max_pool_3x3", "avg_pool_3x3")),
    (("skip_connect", "dil_conv_3x3"), ("skip_connect", "dil_conv_5x5")),
    (("max_pool_3x3", "skip_connect"), ("max_pool_3x3", "avg_pool_3x3")),
    (("skip_connect", "sep_conv_3x3"), ("max_pool_3x3", "sep_conv_3x3")),
    (("skip_connect", "sep_conv_3x3"), ("skip_connect", "dil_conv_3x3")),
    (("skip_connect", "dil_conv_3x3"), ("skip_connect", "dil_conv_5x5")),
    (("skip_connect", "sep_conv_3x3"), ("max_pool_3x3", "avg_pool_3x3")),
    (("max_pool_3x3", "skip_connect"), ("max_pool_3x3", "avg_pool_3x3")),
    (("skip_connect", "dil_conv_3x3"), ("skip_connect", "dil_conv_5x5")),
    (("dil_conv_3x3", "dil_conv_5x5"), ("skip_connect", "dil_conv_5x5")),
    (("dil_conv_3x3", "dil_conv_5x5"), ("skip_connect", "dil_conv_5x5")),
)


REDUCED_SPACES: tuple[Literal["s1"], Literal["s2"], Literal["s3"], Literal["s4"]] = ("s1", "s2", "s3", "s4")


def reduced_space(name: Literal["s1", "s2", "s3", "s4"]) -> DARTSSpace:
    """The small spaces in which plain DARTS collapses (Zela et al., ICLR 2020, arXiv:1909.09656, section 3).

    Args:
        name: ``s1`` has two candidates an edge, other ones on every edge; ``s2`` skip and separable convolution; ``s3``
            adds ``none``; ``s4`` is noise against separable convolution.

    Raises:
        ValueError: If there is no such space.
    """
    same = {
        "s2": ("skip_connect", "sep_conv_3x3"),
        "s3": ("none", "skip_connect", "sep_conv_3x3"),
        "s4": ("noise", "sep_conv_3x3"),
    }
    if name in same:
        return darts_space(candidates=same[name], name=f"darts-{name}")
    if name != "s1":
        raise ValueError(f"The reduced spaces are 's1', 's2', 's3' and 's4'; got {name!r}.")
    choices = tuple(
        Choice(f"{kind}_{edge}", S1_EDGES[edge][k], droppable=True)
        for k, kind in enumerate(KINDS)
        for edge in range(len(S1_EDGES))
    )
    return DARTSSpace("darts-s1", choices)


class SearchCell(nn.Module):
    """A cell with a mixed operation on every edge; ``reduction`` halves the resolution on the edges from the inputs."""

    def __init__(
        self,
        candidates: Sequence[Sequence[str]],
        steps: int,
        multiplier: int,
        channels_in: tuple[int, int],
        channels: int,
        *,
        reduction: bool,
        reduction_before: bool,
        parts: int,
        own: OwnOps | None = None,
    ) -> None:
        super().__init__()
        check_parts(parts, channels)
        self.kind: Kind = "reduce" if reduction else "normal"
        self.steps, self.multiplier = steps, multiplier
        self.preprocess0, self.preprocess1 = preprocess(channels_in, channels, reduction_before, affine=False)
        sources = [state for node in range(steps) for state in range(node + 2)]
        shared: dict[tuple[int, str], nn.Module] = {}  # what has no weights is one module for all edges of a state
        self.edges = nn.ModuleList()
        for source, names in zip(sources, candidates, strict=True):
            ops, stride = [], 2 if reduction and source < 2 else 1
            for name in names:
                op = make_op(name, channels // parts, stride, affine=False, pool_bn=True, own=own)
                single = has_weights(op) or name == "noise" or name in (own or ())
                ops.append(op if single else shared.setdefault((source, name), op))
            self.edges.append(mixed_op(ops, parts=parts, stride=stride))

    def forward(self, s0: Tensor, s1: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Run the cell.

        Args:
            s0: Output of the cell before last, ``[B, C_0, H_0, W_0]``.
            s1: Output of the last cell, ``[B, C_1, H, W]``.
            weights: Candidate weights of every edge, ``[O]`` each.

        Returns:
            ``[B, multiplier * C, H', W']``.
        """
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        seen: list[Seen] = [{} for _ in range(self.steps + 2)]
        edge = 0
        for _ in range(self.steps):
            terms = [self.edges[edge + i](state, weights[edge + i], seen[i]) for i, state in enumerate(states)]
            edge += len(states)
            states.append(add_up(terms))
        return torch.cat(states[-self.multiplier :], dim=1)


class DARTSSupernet(OperationSupernet):
    """All cells of a :class:`DARTSSpace` at once.

    Args:
        space: The space; by default the eight candidates of the paper.
        channels: Initial channels, C; doubled by every reduction.
        cells: Number of cells; those at one and two thirds are reductions.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.
        stem: ``"cifar"`` keeps the resolution, ``"imagenet"`` divides it by 8.
        partial_channels: K: the candidates read one of K parts of the channels (PC-DARTS, arXiv:1907.05737).
        ops: Operations of one's own beside the eight, see :func:`darts_space`; a ``space`` has its own.

    Raises:
        ValueError: If the image is too small for the reductions, there is no output, or the channels
            cannot be divided into parts.

    Example:
        >>> net = DARTSSupernet(channels=4, cells=3, image_size=8)
        >>> config = net.space.sample(0)
        >>> net(torch.zeros(2, 3, 8, 8), net.one_hot(config)).shape
        torch.Size([2, 10])
    """

    space: DARTSSpace

    def __init__(
        self,
        space: DARTSSpace | None = None,
        *,
        channels: int = 16,
        cells: int = 8,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
        stem: Literal["cifar", "imagenet"] = "cifar",
        partial_channels: int = 1,
        ops: OwnOps | None = None,
    ) -> None:
        self._settings = arguments(locals(), "space", "partial_channels", "ops")
        super().__init__()
        if space is not None and ops:
            raise ValueError(
                f"Operations of one's own must be given to the space, darts_space(candidates=..., ops=...), or ops "
                f"without a space; got both, {sorted(ops)} and space {space.name!r}."
            )
        self.space, self.partial_channels = space or darts_space(ops=ops), partial_channels
        self.num_classes, self.input_shape = num_classes, image_shape(in_channels, image_size)
        _check(image_size, cells, stem, num_classes)
        edges = {
            kind: [tuple(map(str, c.candidates)) for c in self.space.choices_of(kind) for _ in range(c.rows)]
            for kind in KINDS
        }
        self.stem, channels_in, reduced = _stem(stem, in_channels, channels)
        self.cells = nn.ModuleList()
        for reduction in _reductions(cells):
            channels *= 2 if reduction else 1
            cell = SearchCell(
                edges["reduce" if reduction else "normal"],
                self.space.steps,
                self.space.multiplier,
                channels_in,
                channels,
                reduction=reduction,
                reduction_before=reduced,
                parts=partial_channels,
                own=self.space.ops,
            )
            self.cells.append(cell)
            channels_in, reduced = (channels_in[1], self.space.multiplier * channels), reduction
        self.classifier = nn.Linear(channels_in[1], num_classes)

    def forward(self, x: Tensor, arch: Mapping[str, Tensor]) -> Tensor:
        self.check_arch(arch)
        weights, numbers = {kind: self._rows(kind, arch) for kind in KINDS}, dict.fromkeys(KINDS, 0)
        s0, s1 = self.stem(x)
        for cell in self.cells:
            assert isinstance(cell, SearchCell)
            if (own := arch_of_cell(arch, numbers[cell.kind])) is not arch:
                weights[cell.kind] = self._rows(cell.kind, own)
            s0, s1 = s1, self.run_cell(cell, s0, s1, weights[cell.kind])
            numbers[cell.kind] += 1
        logits: Tensor = self.classifier(s1.mean(dim=(2, 3)))
        return logits

    def _rows(self, kind: Kind, arch: Mapping[str, Any]) -> list[Tensor]:
        """Weights of the edges of a cell; of the first one, if every cell has its own."""
        own = arch_of_cell(arch, 0)
        return [row for choice in self.space.choices_of(kind) for row in own[choice.name].unbind()]

    def shared_choices(self) -> dict[tuple[str, ...], int]:
        kinds = [cast(SearchCell, cell).kind for cell in self.cells]
        return {tuple(choice.name for choice in self.space.choices_of(kind)): kinds.count(kind) for kind in KINDS}

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> DARTSNetwork:
        self.check_inheritance(inherit)
        genotype = self.space.genotype(config)
        # The paper's networks have no batch normalisation after pooling; inherited weights were trained with it.
        own = self.space.ops
        net = self.prepare(DARTSNetwork(genotype, **self._settings, pool_bn=inherit, ops=own), config)
        if inherit:
            inherit_weights(net.stem, self.stem)
            inherit_weights(net.classifier, self.classifier)
            for cell, mine in zip(net.cells, self.cells, strict=True):
                assert isinstance(cell, DARTSCell) and isinstance(mine, SearchCell)
                inherit_weights(cell.preprocess0, mine.preprocess0)
                inherit_weights(cell.preprocess1, mine.preprocess1)
                names = [c.candidates for c in self.space.choices_of(mine.kind) for _ in range(c.rows)]
                for op, name, node, state in zip(cell.ops, cell.names, cell.targets, cell.sources, strict=True):
                    edge = self.space.node_edges(node)[state]
                    if name != NONE:
                        source = mine.edges[edge]
                        assert isinstance(source, MixedOp)
                        inherit_weights(op, source.ops[names[edge].index(name)])
        return net

    def mixed_ops(self) -> dict[str, list[list[MixedOp]]]:
        found: dict[str, list[list[MixedOp]]] = {}
        for kind in KINDS:
            edge = 0
            cells = [cell for cell in self.cells if isinstance(cell, SearchCell) and cell.kind == kind]
            for choice in self.space.choices_of(kind):
                found[choice.name] = [[cell.edges[edge + r] for cell in cells] for r in range(choice.rows)]  # type: ignore[misc]  # ModuleList is untyped
                edge += choice.rows
        return found

    def picked_ops(self, network: Subnet) -> list[list[nn.Module]]:
        assert isinstance(network, DARTSNetwork)
        genes: list[list[nn.Module]] = [[] for _ in range(self.space.num_genes)]
        nodes = self.space.nodes()
        for cell, mine in zip(network.cells, self.cells, strict=True):
            assert isinstance(cell, DARTSCell) and isinstance(mine, SearchCell)
            first = self.space.steps * KINDS.index(mine.kind)
            for op, name, node, state in zip(cell.ops, cell.names, cell.targets, cell.sources, strict=True):
                if name != NONE:
                    genes[nodes[first + node][state]].append(op)
        return genes

    def execution_plan(self, network: Subnet) -> CellPlan:
        assert isinstance(network, DARTSNetwork)
        found, nodes, steps = list[CellRun](), self.space.nodes(), self.space.steps
        for k, kind in enumerate(KINDS):
            alike = [
                c for c, mine in zip(network.cells, self.cells, strict=True) if cast(SearchCell, mine).kind == kind
            ]
            own = tuple(tuple(node) for node in nodes[k * steps : (k + 1) * steps])
            for place, cell in enumerate(alike):
                assert isinstance(cell, DARTSCell)
                found.append(CellRun(cell, (cell.preprocess0, cell.preprocess1), own, place, len(cell.concat)))
        return CellPlan(tuple(found))


class DARTSCell(nn.Module):
    """A derived cell. Nodes that read nothing are zero."""

    def __init__(
        self,
        cell: Cell,
        concat: Sequence[int],
        channels_in: tuple[int, int],
        channels: int,
        *,
        reduction: bool,
        reduction_before: bool,
        affine: bool,
        pool_bn: bool,
        own: OwnOps | None = None,
    ) -> None:
        super().__init__()
        self.concat, self.steps, self.drop_path = tuple(concat), len(cell), 0.0
        self.preprocess0, self.preprocess1 = preprocess(channels_in, channels, reduction_before, affine=affine)
        edges = [(i, op, state) for i, node in enumerate(cell) for op, state in (node or ((NONE, 0),))]
        self.targets = [node for node, _, _ in edges]
        self.names = [op for _, op, _ in edges]
        self.sources = [state for _, _, state in edges]
        self.ops = nn.ModuleList(
            make_op(op, channels, 2 if reduction and state < 2 else 1, affine=affine, pool_bn=pool_bn, own=own)
            for _, op, state in edges
        )

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        """``[B, C_0, H_0, W_0], [B, C_1, H, W] -> [B, len(concat) * C, H', W']``."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        drop = self.drop_path if self.training else 0.0
        for node in range(self.steps):
            edges = zip(self.ops, self.targets, self.sources, strict=True)
            entering = [(op, source) for op, target, source in edges if target == node]
            states.append(sum_in_turn(states, entering, drop))
        return torch.cat([states[state] for state in self.concat], dim=1)


class DARTSNetwork(Subnet):
    """The network of a genotype, to be trained from scratch; defaults are the paper's for CIFAR-10.

    Args:
        genotype: The cells, as an object or as text.
        channels: Initial channels, C.
        cells: Number of cells.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.
        stem: ``"cifar"`` keeps the resolution, ``"imagenet"`` divides it by 8.
        auxiliary: Add the auxiliary classifier after the second reduction (used by ``forward_with_auxiliary``).
        affine: Learnable scale in batch normalisation.
        pool_bn: Batch normalisation after pooling, as in the supernet; the paper's networks have none.
        ops: Operations of one's own in the genotype, see :func:`darts_space`.

    Raises:
        ValueError: If an operation is unknown, a node concatenates, or the image is too small.

    Example:
        >>> from oneshot.supernets.genotype import PUBLISHED
        >>> net = DARTSNetwork(PUBLISHED["DARTS_V2"])
        >>> round(sum(p.numel() for p in net.parameters()) / 1e6, 1)
        3.3
    """

    def __init__(
        self,
        genotype: Genotype | str,
        *,
        channels: int = 36,
        cells: int = 20,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
        stem: Literal["cifar", "imagenet"] = "cifar",
        auxiliary: bool = False,
        affine: bool = True,
        pool_bn: bool = False,
        ops: OwnOps | None = None,
    ) -> None:
        self.init_args = arguments(locals(), "ops")
        super().__init__()
        self.genotype = genotype if isinstance(genotype, Genotype) else Genotype.parse(genotype)
        own = checked_ops(ops)
        self.init_args |= {"genotype": str(self.genotype), **saved_ops(own, self.genotype.ops)}
        self.num_classes, self.input_shape = num_classes, image_shape(in_channels, image_size)
        check_ops(sorted(self.genotype.ops), own)
        if self.genotype.normal_joined or self.genotype.reduce_joined:
            raise ValueError(
                "Nodes of a DARTS cell add what enters them; this genotype has nodes that concatenate. "
                "NASNetNetwork(genotype) builds it."
            )
        _check(image_size, cells, stem, num_classes)
        self.stem, channels_in, reduced = _stem(stem, in_channels, channels)
        self.cells = nn.ModuleList()
        self.auxiliary_head: nn.Module | None = None
        sides = [math.ceil(side / (8 if stem == "imagenet" else 1)) for side in self.input_shape[1:]]
        for index, reduction in enumerate(_reductions(cells)):
            channels *= 2 if reduction else 1
            sides = [math.ceil(side / 2) for side in sides] if reduction else sides
            concat = self.genotype.reduce_concat if reduction else self.genotype.normal_concat
            self.cells.append(
                DARTSCell(
                    self.genotype.reduce if reduction else self.genotype.normal,
                    concat,
                    channels_in,
                    channels,
                    reduction=reduction,
                    reduction_before=reduced,
                    affine=affine,
                    pool_bn=pool_bn,
                    own=own,
                )
            )
            channels_in, reduced = (channels_in[1], len(concat) * channels), reduction
            if auxiliary and index == 2 * cells // 3:
                self.auxiliary_head = _auxiliary(channels_in[1], num_classes, sides, stem)
        self.classifier = nn.Linear(channels_in[1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self._features(x)[0].mean(dim=(2, 3)))  # type: ignore[no-any-return]  # nn.Module

    def forward_with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        features, at_two_thirds = self._features(x)
        logits = self.classifier(features.mean(dim=(2, 3)))
        return logits, None if self.auxiliary_head is None else self.auxiliary_head(at_two_thirds)

    def graphs(self) -> list[ArchGraph]:
        return self.genotype.graphs()

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        return by_resolution(self._outputs(x))

    def describes(self, config: SubnetConfig) -> bool:
        for kind in KINDS:
            names = [name for name, _ in config.picks if name.split("_")[0] == kind]
            picks = [str(pick) for name in sorted(names, key=natural) for pick in config[name]]
            cell: Cell = getattr(self.genotype, kind)
            first = 0
            for node, edges in enumerate(cell):
                entering = picks[first : first + node + 2]
                first += node + 2
                if sorted(edges) != sorted((op, state) for state, op in enumerate(entering) if op != NONE):
                    return False
            if first != len(picks):
                return False
        return True

    def strip_auxiliary(self) -> None:
        self.auxiliary_head = None
        self.init_args = {**self.init_args, "auxiliary": False}

    def set_drop_path(self, probability: float) -> None:
        """Drop each non-identity path with this probability, per image (arXiv:1707.07012, ScheduledDropPath)."""
        for cell in self.cells:
            assert isinstance(cell, DARTSCell)
            cell.drop_path = probability

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the classifier reads, and the auxiliary head, which is kept only if there is one."""
        at_two_thirds: Tensor | None = None
        for index, features in enumerate(self._outputs(x)):
            if index == 2 * len(self.cells) // 3 and self.auxiliary_head is not None:
                at_two_thirds = features
        return features, at_two_thirds

    def _outputs(self, x: Tensor) -> Iterator[Tensor]:
        """The output of every cell."""
        s0, s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1)
            yield s1


class CIFARStem(nn.Module):
    """3x3 convolution and batch normalisation; both inputs of the first cell."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, C_in, H, W]`` -> twice ``[B, C, H, W]``."""
        x = self.bn(self.conv(x))
        return x, x


class ImageNetStem(nn.Module):
    """Three strided 3x3 convolutions: the inputs of the first cell have 1/4 and 1/8 of the resolution."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        if channels % 2:
            raise ValueError(
                f"The ImageNet stem halves its channels and needs an even number; got channels={channels}."
            )
        self.stem0 = nn.Sequential(
            nn.Conv2d(in_channels, half, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.stem1 = relu_conv_bn(channels, channels, 3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, C_in, H, W]`` -> ``[B, C, H/4, W/4]`` and ``[B, C, H/8, W/8]``."""
        s0 = self.stem0(x)
        return s0, self.stem1(s0)


def _stem(stem: str, in_channels: int, channels: int) -> tuple[nn.Module, tuple[int, int], bool]:
    """Stem, channels of its two outputs, and whether they differ in resolution."""
    if stem == "cifar":
        return CIFARStem(in_channels, 3 * channels), (3 * channels, 3 * channels), False
    if stem == "imagenet":
        return ImageNetStem(in_channels, channels), (channels, channels), True
    raise ValueError(f"stem must be 'cifar' or 'imagenet'; got {stem!r}.")


def preprocess(
    channels_in: tuple[int, int], channels: int, reduction_before: bool, *, affine: bool
) -> tuple[nn.Module, nn.Module]:
    """Bring the outputs of the cell before last and of the last cell to C channels and to one resolution."""
    first = (
        FactorizedReduce(channels_in[0], channels, affine=affine)
        if reduction_before
        else relu_conv_bn(channels_in[0], channels, 1, 1, affine=affine)
    )
    return first, relu_conv_bn(channels_in[1], channels, 1, 1, affine=affine)


def _reductions(cells: int) -> list[bool]:
    return [index in (cells // 3, 2 * cells // 3) for index in range(cells)]


def _check(image_size: int | tuple[int, int], cells: int, stem: str, num_classes: int) -> None:
    if cells < 1:
        raise ValueError(f"A network has at least one cell; got cells={cells}.")
    check_classes(num_classes)
    check_image_size(image_size, sum(_reductions(cells)) + (3 if stem == "imagenet" else 0), "This network")


def _auxiliary(channels: int, num_classes: int, sides: Sequence[int], stem: str) -> nn.Module:
    """The auxiliary classifier. For ImageNet the authors left out the second batch normalisation; so do we."""
    stride = 2 if stem == "imagenet" else 3
    pool: nn.Module = nn.AdaptiveAvgPool2d(2)
    if all(side >= 5 and (side - 5) // stride + 1 == 2 for side in sides):
        pool = nn.AvgPool2d(5, stride=stride, count_include_pad=False)
    elif all(side == 2 for side in sides):
        pool = nn.Identity()
    return nn.Sequential(
        nn.ReLU(),
        pool,
        nn.Conv2d(channels, 128, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 768, 2, bias=False),
        nn.BatchNorm2d(768) if stem == "cifar" else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, num_classes),
    )
