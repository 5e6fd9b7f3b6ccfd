"""The hierarchical space of cells made of motifs (Liu et al., ICLR 2018, arXiv:1711.00436).

It is searched with :class:`~oneshot.discrete.strategies.tournament_evolution.TournamentEvolution`, whose defaults are
those of the paper, or with any other strategy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from oneshot.discrete.graphs.encoding import GraphSpace, GraphWriter, pairs
from oneshot.discrete.graphs.graph import IMAGE, NetworkGraph
from oneshot.supernets.space import NONE, Choice, IntMatrix, SubnetConfig

PRIMITIVES = (
    "identity",
    "conv_1x1",
    "depthwise_conv_3x3",
    "sep_conv_3x3",
    "max_pool_3x3",
    "avg_pool_3x3",
)


@dataclass(frozen=True)
class HierarchicalSpace(GraphSpace):
    """Three levels: primitives on the edges of motifs, motifs on the edges of the cell (sections 2 and 3.1).

    Choices ``motif_1``, ``motif_2``, ... hold one primitive or ``none`` for each edge of a motif, ``cell`` one motif or
    ``none`` for each edge of the cell; edges are in the order 0-1, 0-2, 1-2, 0-3, ... The network is Conv-BN-ReLU,
    then stages of cells with a separable convolution of stride 2 and twice the channels between them, global pooling
    and a classifier. Convolutions are followed by batch normalisation and ReLU.

    A node concatenates what enters it, as in the paper; so that channels stay what they are, a 1x1 convolution (ours)
    follows where more than one edge enters. A motif without a path from its input to its output is ``none``, and so is
    a cell: then a stage is what lies between the stages.

    Random architectures are ``diversity`` random changes to the trivial one, a chain of identities (section 3.1). A
    change takes a level, a motif and an edge of it, each with equal chances (the paper takes the nodes of the edge one
    by one), and a pick for the edge. A mutation makes changes until the architecture is another; before, edges on no
    path and motifs that are not used are drawn at random. The paper's genotypes hold such genes, canonical forms do
    not, and without them a motif that was lost could never return.

    In the canonical form edges on no path hold ``none``, equal motifs are one, motifs are numbered as the cell meets
    them, and those it does not use hold ``none``.

    Args:
        motifs: Number of motifs.
        motif_nodes: Nodes of each, with input and output.
        cell_nodes: Nodes of the cell.
        diversity: Mutations of a random architecture; each may draw what is there already.
        channels: C of the first stage.
        stages: Number of stages.
        cells_per_stage: Cells in each.

    Raises:
        ValueError: If a number is too small.

    Example:
        >>> space = HierarchicalSpace()
        >>> space.num_genes
        46
        >>> print(space.canonical(space.trivial).picks[0])
        ('cell', ('motif_1', 'none', 'motif_1', 'none', 'none', 'motif_1', 'none', 'none', 'none', 'motif_1'))
    """

    name: str = field(init=False, default="hierarchical")
    choices: tuple[Choice, ...] = field(init=False)
    motifs: int = 6
    motif_nodes: int = 4
    cell_nodes: int = 5
    diversity: int = 1000
    channels: int = 16
    stages: int = 3
    cells_per_stage: int = 1

    def __post_init__(self) -> None:
        counts = (self.motifs, self.diversity, self.channels, self.stages, self.cells_per_stage)
        if min(counts) < 1 or min(self.motif_nodes, self.cell_nodes) < 2:
            raise ValueError(
                "motifs, diversity, channels, stages and cells_per_stage must be at least 1, motif_nodes and "
                "cell_nodes at "
                f"least 2; got {counts} and {(self.motif_nodes, self.cell_nodes)}."
            )
        names = [f"motif_{i}" for i in range(1, self.motifs + 1)]
        choices = [Choice(name, (NONE, *PRIMITIVES), rows=len(pairs(self.motif_nodes))) for name in names]
        cell = Choice("cell", (NONE, *names), rows=len(pairs(self.cell_nodes)))
        object.__setattr__(self, "choices", (*choices, cell))
        super().__post_init__()

    @property
    def trivial(self) -> SubnetConfig:
        """The trivial architecture: a chain of identities in every motif, a chain of the first motif in the cell."""
        return self.config_of(self._trivial())

    def graph(self, config: SubnetConfig) -> NetworkGraph:
        motifs, cell = self._split(self.canonical_row(self.genes_of(config)))
        writer = GraphWriter()
        x = writer.conv(IMAGE, self.channels, 3)
        for stage in range(self.stages):
            width = self.channels << stage

            def primitive(x: str, pick: int, width: int = width) -> str:
                return _primitive(writer, x, PRIMITIVES[pick - 1], width)

            def motif(x: str, pick: int, width: int = width, run: Callable[[str, int], str] = primitive) -> str:
                return _run(writer, x, motifs[pick - 1], self.motif_nodes, width, run)

            if stage:
                x = writer.separable(x, width, 3, stride=2)
            for _ in range(self.cells_per_stage):
                x = _run(writer, x, cell, self.cell_nodes, width, motif)
        return writer.finish(x)

    def _trivial(self) -> IntMatrix:
        motif = [int(target == source + 1) for source, target in pairs(self.motif_nodes)]
        cell = [int(target == source + 1) for source, target in pairs(self.cell_nodes)]
        return np.array([*motif * self.motifs, *cell], dtype=np.int64)

    def _split(self, genes: IntMatrix) -> tuple[IntMatrix, IntMatrix]:
        edges = len(pairs(self.motif_nodes))
        return genes[: self.motifs * edges].reshape(self.motifs, edges), genes[self.motifs * edges :]

    def _places(self, shape: tuple[int, ...], rng: np.random.Generator) -> IntMatrix:
        """Genes to mutate: a level first, then a motif and an edge of it."""
        low = self.motifs * len(pairs(self.motif_nodes))
        return np.where(
            rng.integers(2, size=shape), rng.integers(low, self.num_genes, size=shape), rng.integers(low, size=shape)
        )

    def draw_genes(self, n: int, rng: np.random.Generator) -> IntMatrix:
        genes = np.tile(self._trivial(), (n, 1))
        places = self._places((n, self.diversity), rng)
        genes[np.arange(n)[:, None], places] = rng.integers(np.array(self.gene_sizes)[places])
        return genes

    def mutate_genes(self, genes: IntMatrix, rng: np.random.Generator) -> IntMatrix:
        child, before = self._filled(genes, rng), self.canonical_row(genes)
        while (self.canonical_row(child) == before).all():
            gene = int(self._places((), rng))
            child[gene] = (child[gene] + rng.integers(1, self.gene_sizes[gene])) % self.gene_sizes[gene]
        return child

    def _filled(self, genes: IntMatrix, rng: np.random.Generator) -> IntMatrix:
        """The same architecture, with random picks where they change nothing."""
        child = self.canonical_row(genes)
        motifs, cell = self._split(child)
        used = int(cell.max())  # those behind are empty
        motifs[used:] = rng.integers(len(PRIMITIVES) + 1, size=motifs[used:].shape)
        parts = [(motif, self.motif_nodes, len(PRIMITIVES)) for motif in motifs[:used]]
        for edges, size, picks in [*parts, (cell, self.cell_nodes, self.motifs)]:
            live = edges.copy()
            for edge in rng.permutation(np.flatnonzero(live == 0)):
                edges[edge] = rng.integers(picks + 1)
                if (_on_paths(edges, size) != live).any():
                    edges[edge] = 0
        return child

    def gene_groups(self) -> list[list[int]]:
        starts = np.cumsum([0, *(choice.rows for choice in self.choices)]).tolist()
        return [list(range(a, b)) for a, b in itertools.pairwise(starts)]

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        return np.stack([self.canonical_row(row) for row in genes])

    def canonical_row(self, genes: IntMatrix) -> IntMatrix:
        """Canonical genes of one architecture, ``[G] -> [G]``."""
        motifs, cell = self._split(genes)
        cleaned = [tuple(_on_paths(motif, self.motif_nodes).tolist()) for motif in motifs]
        cell = np.array([pick if pick and any(cleaned[pick - 1]) else 0 for pick in cell], dtype=np.int64)
        cell = _on_paths(cell, self.cell_nodes)
        used = list(dict.fromkeys(cleaned[pick - 1] for pick in cell if pick))
        cell = np.array([1 + used.index(cleaned[pick - 1]) if pick else 0 for pick in cell], dtype=np.int64)
        result = np.zeros_like(genes)
        ours, end = self._split(result)
        for row, motif in zip(ours, used, strict=False):
            row[:] = motif
        end[:] = cell
        return result


def _on_paths(edges: IntMatrix, size: int) -> IntMatrix:
    """``none`` on all edges that lie on no path from the first node to the last."""
    wired = [edge for edge, pick in zip(pairs(size), edges.tolist(), strict=True) if pick]
    reached, useful = {0}, {size - 1}
    for source, target in wired:  # target by target
        if source in reached:
            reached.add(target)
    for source, target in reversed(wired):
        if target in useful:
            useful.add(source)
    alive = [source in reached and target in useful for source, target in pairs(size)]
    return np.where(alive, edges, 0)


def _run(writer: GraphWriter, x: str, edges: IntMatrix, size: int, width: int, apply: Callable[[str, int], str]) -> str:
    """The output of a cell or a motif; its input, if no path leads to the last node."""
    states = {0: x}
    for node in range(1, size):
        inputs = [
            apply(states[source], pick)
            for (source, target), pick in zip(pairs(size), edges.tolist(), strict=True)
            if target == node and pick
        ]
        if len(inputs) > 1:
            states[node] = writer.conv(writer.add("concat", *inputs), width, 1)
        elif inputs:
            states[node] = inputs[0]
    return states.get(size - 1, x)


def _primitive(writer: GraphWriter, x: str, name: str, channels: int) -> str:
    match name:
        case "conv_1x1":
            return writer.conv(x, channels, 1)
        case "depthwise_conv_3x3":
            return writer.add("relu", writer.add("batch_norm", writer.add("depthwise", x, kernel=3)))
        case "sep_conv_3x3":
            return writer.separable(x, channels, 3)
        case "max_pool_3x3" | "avg_pool_3x3":
            return writer.add(name.removesuffix("_3x3"), x, kernel=3)
    return x
