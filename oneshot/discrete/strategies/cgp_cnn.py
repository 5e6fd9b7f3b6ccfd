"""CGP-CNN (Suganuma et al., GECCO 2017, arXiv:1704.00764): networks as genotypes of Cartesian genetic programming."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from oneshot.discrete.graphs.encoding import GraphBuilder, GraphSpace, SizedWriter
from oneshot.discrete.graphs.graph import IMAGE, NetworkGraph
from oneshot.discrete.protocol import TRIES, Genes, Proposal, Result, Scalar, SearchStrategy
from oneshot.supernets.space import Choice, IntMatrix, SubnetConfig

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CGPSpace(GraphSpace):
    """A grid of nodes, each a function of one or two nodes of the columns before it; one gene says which is the output.

    Choice ``function`` holds the function of every node, column by column; ``inputs_1``, ``inputs_2``, ... hold two
    nodes for each node of a column, numbered from 1; 0 is the image, which stands for column 0. A node reads the
    ``levels_back`` columns before its own, and the output is one node of the last ``levels_back`` columns.

    Functions (section 3.1): convolution blocks (Conv-BN-ReLU) or residual blocks (Conv-BN-ReLU-Conv-BN, plus the input,
    ReLU) of all channels and kernels, max and average pooling of 2x2, sum, concatenation. Of two inputs of different
    resolution, the larger one is max-pooled. Where the paper fills up missing channels of a sum or a residual block
    with zeros, a 1x1 convolution with batch normalisation brings the narrower input to the wider's channels (in a
    residual block: the input to the block's). A pixel is not pooled any further, and a concatenation of more than
    ``most_channels`` channels is brought back to so many by such a convolution; both are ours. The paper's bounds of
    the number of active nodes are left out.

    In the canonical form, genes that do not matter are the first candidates: all genes of nodes that the output does
    not need, and second inputs of functions of one. The inputs of a sum are in order.

    Args:
        rows: Rows of the grid; 5 in the paper.
        columns: Columns of the grid; 30 in the paper.
        levels_back: Columns that a node can read; 10 in the paper.
        blocks: ``"conv"`` for the paper's ConvSet, ``"res"`` for its ResSet.
        channels: Channels that a block can have.
        kernels: Kernel sizes that a block can have.
        most_channels: Most channels of a concatenation.
        input_shape: C, H, W of the images; :meth:`network` sets it.

    Raises:
        ValueError: If a number is below 1, the blocks are none of the two, or there are none.

    Example:
        >>> space = CGPSpace(rows=2, columns=3, levels_back=1, channels=(8,), kernels=(3,))
        >>> [choice.name for choice in space.choices]
        ['function', 'inputs_1', 'inputs_2', 'inputs_3', 'output']
        >>> space["inputs_3"].candidates, space["output"].candidates
        ((3, 4), (5, 6))
    """

    name: str = field(init=False, default="cgp_cnn")
    choices: tuple[Choice, ...] = field(init=False)
    rows: int = 5
    columns: int = 30
    levels_back: int = 10
    blocks: Literal["conv", "res"] = "conv"
    channels: tuple[int, ...] = (32, 64, 128)
    kernels: tuple[int, ...] = (3, 5)
    most_channels: int = 512
    input_shape: tuple[int, ...] = (3, 32, 32)

    def __post_init__(self) -> None:
        for name in ("channels", "kernels", "input_shape"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        numbers = (self.rows, self.columns, self.levels_back, self.most_channels)
        if min(numbers) < 1 or self.blocks not in ("conv", "res") or not self.channels or not self.kernels:
            raise ValueError(
                "rows, columns, levels_back and most_channels must be at least 1, blocks are 'conv' or 'res', and "
                "there is "
                f"at least one of channels and kernels; got {numbers}, {self.blocks!r}, channels={self.channels}, "
                f"kernels={self.kernels}."
            )
        functions = [f"{self.blocks}_{channels}_{kernel}" for channels in self.channels for kernel in self.kernels]
        choices = [Choice("function", (*functions, "max_pool", "avg_pool", "sum", "concat"), rows=self.num_nodes)]
        for column in range(1, self.columns + 1):
            choices.append(Choice(f"inputs_{column}", tuple(self._readable(column)), rows=2 * self.rows))
        last = self._readable(self.columns + 1)
        choices.append(Choice("output", tuple(node for node in last if node)))
        object.__setattr__(self, "choices", tuple(choices))
        super().__post_init__()

    @property
    def num_nodes(self) -> int:
        """Nodes of the grid."""
        return self.rows * self.columns

    def network(self, input_shape: Sequence[int], num_classes: int) -> GraphBuilder:
        return GraphBuilder(replace(self, input_shape=tuple(input_shape)), tuple(input_shape), num_classes)

    def graph(self, config: SubnetConfig) -> NetworkGraph:
        genes = self.genes_of(config)
        writer = _Writer(self)
        for node in self.active_nodes(genes):
            function, inputs = self._function(genes, node), self._inputs(genes, node)
            writer.write(node, function, inputs)
        return writer.finish(writer.names[self._output(genes)])

    def active_nodes(self, genes: IntMatrix) -> list[int]:
        """The nodes that the output needs, in order: genes ``[G]`` -> numbers from 1."""
        needed = {self._output(genes)}
        for node in range(self.num_nodes, 0, -1):
            if node in needed:
                needed.update(self._inputs(genes, node))
        return sorted(needed - {0})

    def active_genes(self, genes: IntMatrix) -> Mask:
        """The genes that matter, ``[G]``."""
        mask = np.zeros(self.num_genes, dtype=bool)
        mask[-1] = True
        for node in self.active_nodes(genes):
            first = self.num_nodes + 2 * (node - 1)
            mask[node - 1] = True
            mask[first : first + len(self._inputs(genes, node))] = True
        return mask

    def _readable(self, column: int) -> range:
        first = max(0, column - self.levels_back)
        return range((first - 1) * self.rows + 1 if first else 0, (column - 1) * self.rows + 1)

    def _function(self, genes: IntMatrix, node: int) -> str:
        return str(self.choices[0].candidates[genes[node - 1]])

    def _inputs(self, genes: IntMatrix, node: int) -> list[int]:
        column, first = (node - 1) // self.rows + 1, self.num_nodes + 2 * (node - 1)
        reads = 2 if self._function(genes, node) in ("sum", "concat") else 1
        return [self._readable(column)[gene] for gene in genes[first : first + reads].tolist()]

    def _output(self, genes: IntMatrix) -> int:
        return int(self.choices[-1].candidates[genes[-1]])

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        return np.stack([self.canonical_row(row) for row in genes])

    def canonical_row(self, genes: IntMatrix) -> IntMatrix:
        """Canonical genes of one architecture, ``[G] -> [G]``."""
        canonical = np.where(self.active_genes(genes), genes, 0)
        for node in self.active_nodes(genes):
            if self._function(genes, node) == "sum":
                first = self.num_nodes + 2 * (node - 1)
                canonical[first : first + 2].sort()
        return canonical


class _Writer(SizedWriter):
    """Writes active nodes one after the other, and makes their inputs fit."""

    def __init__(self, space: CGPSpace) -> None:
        super().__init__(space.input_shape)
        self.most, self.names = space.most_channels, {0: IMAGE}

    def write(self, node: int, function: str, inputs: Sequence[int]) -> None:
        names = self.same_size([self.names[i] for i in inputs])
        match function:
            case "max_pool" | "avg_pool":
                x = self.pool(function, names[0])
            case "sum":
                x = self.widened_sum(names)
            case "concat":
                x = self.add("concat", *names)
                x = self.widen(x, min(self.channels[x], self.most))
            case _:
                kind, width, kernel = function.split("_")[0], *map(int, function.split("_")[1:])
                x = self.conv(names[0], width, kernel)
                if kind == "res":
                    x = self.conv(x, width, kernel, relu=False)
                    x = self.add("relu", self.add("add", x, self.widen(names[0], width)))
        self.names[node] = x


class CGPCNN(SearchStrategy):
    """(1 + lambda): children of one parent, mutated until they are other networks; neutral drift if none is better.

    Every gene is drawn anew with probability ``rate``, again and again until an active one has changed (forced
    mutation). When ``children`` results are in, the best of them takes the parent's place if it is better; if none is,
    the inactive genes of the parent are mutated, so that its next children differ in other ways (section 3.2).

    Proposals are canonical; the genotypes with their inactive genes are state of the strategy. More children may be in
    flight than a generation has: all are of the parent at the time they were asked for. What was proposed already is
    not evaluated again.

    Args:
        space: The grid.
        children: lambda.
        rate: Chance of each gene to mutate.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.

    Raises:
        ValueError: If there are no children, or the rate is no probability above 0.
    """

    space: CGPSpace

    def __init__(
        self,
        space: CGPSpace,
        *,
        children: int = 2,
        rate: float = 0.05,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(space, seed=seed, scalar=scalar)
        if children < 1 or not 0 < rate <= 1:
            raise ValueError(f"children must be at least 1, rate above 0 and at most 1; got {children} and {rate}.")
        self.children, self.rate = children, rate
        self.parent: tuple[float, Genes] | None = None
        self._genotypes: dict[int, Genes] = {}
        self._brood: list[tuple[float, Genes]] = []

    def _propose(self) -> Proposal | None:
        drawn: dict[bytes, Genes] = {}

        def draw() -> Genes:
            genotype = self.space.sample_matrix(1, self.rng)[0] if self.parent is None else self.mutant(self.parent[1])
            genes = self.space.canonical_row(genotype)
            drawn[genes.tobytes()] = genotype
            return genes

        genes = self._fresh(draw)
        if genes is None:
            return None
        proposal = self._new(genes)
        self._genotypes[proposal.number] = drawn.get(genes.tobytes(), genes)
        return proposal

    def mutant(self, genotype: Genes) -> Genes:
        """A genotype of another network."""
        before, child = self.space.canonical_row(genotype), genotype
        for _ in range(TRIES):
            child = self._redrawn(child)
            if (self.space.canonical_row(child) != before).any():
                break
        return child

    def drifted(self, genotype: Genes) -> Genes:
        """Another genotype of the same network."""
        return np.where(self.space.active_genes(genotype), genotype, self._redrawn(genotype))

    def _redrawn(self, genotype: Genes) -> Genes:
        hit = self.rng.random(len(genotype)) < self.rate
        return np.where(hit, self.rng.integers(np.array(self.space.gene_sizes)), genotype)

    def _learn(self, proposal: Proposal, result: Result) -> None:
        told = self.loss(result), self._genotypes.pop(proposal.number)
        if self.parent is None:
            self.parent = told if result.values is not None else None
            return
        self._brood.append(told)
        if len(self._brood) < self.children:
            return
        best = min(self._brood, key=lambda member: member[0])
        self.parent = best if best[0] < self.parent[0] else (self.parent[0], self.drifted(self.parent[1]))
        self._brood.clear()
