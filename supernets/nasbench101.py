"""NAS-Bench-101 cells and the networks its tables measured (Ying et al., ICML 2019, arXiv:1902.09635).

A cell is a graph with operations on its vertices. Pruning, limits, channels and skeleton follow the authors' code
(google-research/nasbench), so that a cell is found in their tables and its network has the parameters they list.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .base import Subnet, arguments, check_classes, check_image_size, image_shape
from .ops import make_op
from .space import ArchGraph, Choice, IntMatrix, SearchSpace, SubnetConfig

INPUT, OUTPUT = "input", "output"
OPERATIONS = ("maxpool3x3", "conv1x1-bn-relu", "conv3x3-bn-relu")
MAX_VERTICES, MAX_EDGES = 7, 9

Matrix: TypeAlias = tuple[tuple[int, ...], ...]
Bits: TypeAlias = npt.NDArray[np.bool_]

PAIRS = tuple(itertools.combinations(range(MAX_VERTICES), 2))  # 0-1, 0-2, ..., 0-6, 1-2, ...
ORDERS = np.array([(0, *order, MAX_VERTICES - 1) for order in itertools.permutations(range(1, MAX_VERTICES - 1))])


@dataclass(frozen=True)
class NASBench101Cell:
    """A cell as the benchmark spells it, without the vertices that lie on no path from the input to the output.

    Args:
        matrix: Adjacency, upper triangular, V rows of V zeros and ones; row ``i`` lists where vertex ``i`` leads.
        operations: Label of every vertex: ``"input"``, operations, ``"output"``.

    Raises:
        ValueError: If it is not such a graph, the output cannot be reached, or more than 7 vertices or 9 edges remain.

    Example:
        >>> cell = NASBench101Cell(
        ...     [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
        ...     ["input", "conv3x3-bn-relu", "maxpool3x3", "output"],
        ... )
        >>> cell.operations
        ('input', 'conv3x3-bn-relu', 'output')
    """

    matrix: Matrix
    operations: tuple[str, ...]

    def __init__(self, matrix: Sequence[Sequence[int]], operations: Sequence[str]) -> None:
        _check_graph(matrix, operations)
        kept = _on_a_path(matrix)
        pruned = tuple(tuple(int(matrix[i][j]) for j in kept) for i in kept)
        edges = sum(map(sum, pruned))
        if not edges:
            raise ValueError(
                f"A cell leads from its input to its output; this one does not: {list(map(list, matrix))}."
            )
        if len(kept) > MAX_VERTICES or edges > MAX_EDGES:
            raise ValueError(
                f"A NAS-Bench-101 cell has at most {MAX_VERTICES} vertices and {MAX_EDGES} edges; this one has "
                f"{len(kept)} and {edges} after pruning. Remove some; no table holds it."
            )
        object.__setattr__(self, "matrix", pruned)
        object.__setattr__(self, "operations", tuple(operations[i] for i in kept))

    def parents(self, vertex: int) -> tuple[int, ...]:
        """The vertices that lead to ``vertex``, in order."""
        return tuple(source for source in range(vertex) if self.matrix[source][vertex])

    def graph(self) -> ArchGraph:
        """What to draw."""
        size = len(self.matrix)
        return ArchGraph(
            "cell", self.operations, tuple((s, t, "") for t in range(size) for s in range(t) if self.matrix[s][t])
        )

    def channels(self, out_channels: int) -> tuple[int, ...]:
        """Channels of every operation, input and output left out.

        The operations that the output concatenates share its channels, the first ones taking one more where they do not
        divide; every other operation has as many as the widest it leads to.

        Raises:
            ValueError: If there are fewer channels than operations to share them.
        """
        last = len(self.matrix) - 1
        joined = [v for v in self.parents(last) if v]
        if out_channels < len(joined):
            raise ValueError(
                f"The output of this cell concatenates {len(joined)} operations, each of at least one channel; "
                f"got channels={out_channels}."
            )
        widths = {v: out_channels // len(joined) + (i < out_channels % len(joined)) for i, v in enumerate(joined)}
        for v in reversed(range(1, last)):
            if v not in widths:
                widths[v] = max(widths[t] for t in range(v + 1, last) if self.matrix[v][t])
        return tuple(widths[v] for v in range(1, last))


@dataclass(frozen=True)
class NASBench101Space(SearchSpace):
    """All cells of the benchmark: choice ``edges`` has a bit for each of ``PAIRS``, ``ops`` the operations between.

    Isomorphic cells share one canonical form: vertices on no path stand last, without edges and with the first
    operation, and of all orders of the others the one of the smallest number is taken. Sampling draws graphs and
    operations until they are a cell, as the authors do, and returns canonical forms: 423,624 of them.

    A mutation takes a random spelling of the cell, with random edges on no path, and changes edges and operations
    without leaving the space until it is another cell: so it can also add a vertex, which takes two edges. Crossover
    takes edges from one cell and operations from another. ``repair`` drops edges until there are nine, and joins input
    and output where no path does.

    Example:
        >>> space = NASBench101Space()
        >>> config = space.sample(0)
        >>> space.cell(config).operations
        ('input', 'conv3x3-bn-relu', 'conv1x1-bn-relu', 'conv1x1-bn-relu', 'output')
        >>> space.from_cell(space.cell(config)) == config
        True
    """

    name: str = "nasbench101"
    choices: tuple[Choice, ...] = field(
        default=(Choice("edges", (0, 1), rows=len(PAIRS)), Choice("ops", OPERATIONS, rows=MAX_VERTICES - 2))
    )

    @property
    def size(self) -> int:
        return 423_624  # arXiv:1902.09635, section 2.1

    def cell(self, config: SubnetConfig) -> NASBench101Cell:
        """The cell, without vertices on no path."""
        edges = dict(zip(PAIRS, map(int, config["edges"]), strict=True))
        matrix = [[edges.get((s, t), 0) for t in range(MAX_VERTICES)] for s in range(MAX_VERTICES)]
        return NASBench101Cell(matrix, [INPUT, *map(str, config["ops"]), OUTPUT])

    def from_cell(self, cell: NASBench101Cell) -> SubnetConfig:
        """The canonical config of a cell."""
        return self.config_of(self.from_matrices([cell.matrix], [cell.operations])[0])

    def from_matrices(
        self, matrices: Sequence[Sequence[Sequence[int]]], operations: Sequence[Sequence[str]]
    ) -> IntMatrix:
        """Canonical genes ``[N, G]`` of many cells, as :class:`NASBench101Cell` takes them.

        Raises:
            ValueError: If one of them is no cell of the benchmark.
        """
        edges = np.zeros((len(matrices), MAX_VERTICES, MAX_VERTICES), dtype=bool)
        ops = np.zeros((len(matrices), MAX_VERTICES - 2), dtype=np.int64)
        for i, (matrix, names) in enumerate(zip(matrices, operations, strict=True)):
            _check_graph(matrix, names)
            if len(names) > MAX_VERTICES:
                raise ValueError(f"A NAS-Bench-101 cell has at most {MAX_VERTICES} vertices; got {len(names)}.")
            places = [*range(len(names) - 1), MAX_VERTICES - 1]
            edges[i][np.ix_(places, places)] = np.asarray(matrix, dtype=bool)
            ops[i, : len(names) - 2] = [OPERATIONS.index(name) for name in names[1:-1]]
        edges = _pruned(edges)
        if not (legal := _legal(edges)).all():
            wrong = int(np.argmin(legal))
            NASBench101Cell(matrices[wrong], operations[wrong])  # says why
        return _smallest(edges, ops)

    def nodes(self) -> list[list[int]]:
        return [[e for e, (_, target) in enumerate(PAIRS) if target == node] for node in range(1, MAX_VERTICES)]

    def graphs(self, config: SubnetConfig) -> list[ArchGraph]:
        return [self.cell(config).graph()]

    def check_rules(self, genes: IntMatrix) -> None:
        for row in genes[~_legal(_pruned(_dense(genes)[0]))]:
            self.cell(self.config_of(row))  # says why

    def draw_genes(self, n: int, rng: np.random.Generator) -> IntMatrix:
        found = np.empty((0, self.num_genes), dtype=np.int64)
        while len(found) < n:
            drawn = super().draw_genes(2 * n + 8, rng)
            found = np.concatenate([found, drawn[_legal(_pruned(_dense(drawn)[0]))]])
        return self.canonical_genes(found[:n])

    def mutate_genes(self, genes: IntMatrix, rng: np.random.Generator) -> IntMatrix:
        edges, ops = _dense(genes[None])
        order = ORDERS[rng.choice(np.flatnonzero(_backward(edges)[0] == 0))]
        child = _flat(edges[0][np.ix_(order, order)][None], ops[:, order[1:-1] - 1])
        before, cell = self.canonical_genes(genes[None]), _pruned(_dense(child)[0])
        dead = ~_flat(cell, np.broadcast_to(cell[:, 1:-1].any(2), ops.shape))[0].astype(bool)
        for gene in rng.permutation(np.flatnonzero(dead)):  # genes that do not matter could be anything
            old, child[0, gene] = child[0, gene], rng.integers(self.gene_sizes[gene])
            if (_pruned(_dense(child)[0]) != cell).any():
                child[0, gene] = old
        while True:
            gene = int(rng.integers(self.num_genes))
            old = child[0, gene]
            child[0, gene] = (old + rng.integers(1, self.gene_sizes[gene])) % self.gene_sizes[gene]
            if not _legal(_pruned(_dense(child)[0])).all():
                child[0, gene] = old
            elif (self.canonical_genes(child) != before).any():
                return np.asarray(child[0])

    def gene_groups(self) -> list[list[int]]:
        return [list(range(len(PAIRS))), list(range(len(PAIRS), self.num_genes))]

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        edges, ops = _dense(genes)
        return _smallest(_pruned(edges), ops)

    def repair_genes(self, genes: IntMatrix) -> IntMatrix:
        edges, ops = _dense(genes)
        edges = _pruned(edges)
        for i in np.flatnonzero(~_legal(edges)):
            edges[i] = _nearest(edges[i])
        return _smallest(edges, ops)


def _dense(genes: IntMatrix) -> tuple[Bits, IntMatrix]:
    """Adjacency ``[N, V, V]`` and operations ``[N, V - 2]`` of genes ``[N, G]``."""
    edges = np.zeros((len(genes), MAX_VERTICES, MAX_VERTICES), dtype=bool)
    sources, targets = np.array(PAIRS).T
    edges[:, sources, targets] = genes[:, : len(PAIRS)]
    return edges, genes[:, len(PAIRS) :]


def _flat(edges: Bits, ops: IntMatrix) -> IntMatrix:
    """Inverse of :func:`_dense`."""
    sources, targets = np.array(PAIRS).T
    return np.concatenate([edges[:, sources, targets].astype(np.int64), ops], axis=1)


def _pruned(edges: Bits) -> Bits:
    """Without the edges that lie on no path from the input to the output, ``[N, V, V]``."""
    reached = np.zeros(edges.shape[:2], dtype=bool)
    useful = reached.copy()
    reached[:, 0] = useful[:, -1] = True
    for v in range(1, MAX_VERTICES):
        reached[:, v] = (edges[:, :, v] & reached).any(1)
        useful[:, -1 - v] = (edges[:, -1 - v] & useful).any(1)
    alive = reached & useful
    return np.asarray(edges & alive[:, :, None] & alive[:, None, :])


def _legal(pruned: Bits) -> Bits:
    """Which are cells, ``[N]``."""
    number = pruned.sum((1, 2))
    return np.asarray((number >= 1) & (number <= MAX_EDGES))


def _nearest(pruned: Bits) -> Bits:
    """A cell, from one graph ``[V, V]`` that is none: fewer edges, or the one from the input to the output."""
    if not pruned.any():
        pruned[0, -1] = True
    while pruned.sum() > MAX_EDGES:
        edges = np.argwhere(pruned)
        fewer = np.repeat(pruned[None], len(edges), axis=0)
        fewer[np.arange(len(edges)), edges[:, 0], edges[:, 1]] = False
        fewer = _pruned(fewer)
        pruned = fewer[fewer.sum((1, 2)).argmax()]  # the edge that takes the fewest others with it
    return pruned


def _backward(edges: Bits) -> npt.NDArray[np.float64]:
    """Number of edges that lead backward under each of the orders, ``[N, V, V] -> [N, 120]``."""
    place = np.argsort(ORDERS, axis=1)
    backward = (place[:, :, None] > place[:, None, :]).reshape(len(ORDERS), -1)
    return np.asarray(edges.reshape(len(edges), -1).astype(np.float64) @ backward.T.astype(np.float64))


def _smallest(edges: Bits, ops: IntMatrix, chunk: int = 20_000) -> IntMatrix:
    """Canonical genes ``[N, G]`` of pruned cells: the smallest of all orders with unused vertices last."""
    if len(edges) > chunk:
        parts = range(0, len(edges), chunk)
        return np.concatenate([_smallest(edges[i : i + chunk], ops[i : i + chunk]) for i in parts])
    used = edges[:, 1:-1].any(2)
    ops = np.where(used, ops, 0)
    place = np.argsort(ORDERS, axis=1)  # of each vertex, under each order
    bit = np.zeros((MAX_VERTICES, MAX_VERTICES))
    for i, (source, target) in enumerate(reversed(PAIRS)):
        bit[source, target] = 2.0**i * len(OPERATIONS) ** (MAX_VERTICES - 2)
    weights = bit[place[:, :, None], place[:, None, :]].reshape(len(ORDERS), -1)
    inner = place[:, 1:-1] - 1
    number = edges.reshape(len(edges), -1).astype(np.float64) @ weights.T
    number += ops @ (float(len(OPERATIONS)) ** (MAX_VERTICES - 3 - inner)).T  # below 2^53: exact
    last = used @ (2.0**inner).T >= 2.0 ** used.sum(1)[:, None]  # an unused vertex stands before a used one
    number[last | (_backward(edges) > 0)] = np.inf
    order = ORDERS[number.argmin(1)]
    row = np.arange(len(edges))[:, None]
    return _flat(edges[row[:, :, None], order[:, :, None], order[:, None, :]], ops[row, order[:, 1:-1] - 1])


def _check_graph(matrix: Sequence[Sequence[int]], operations: Sequence[str]) -> None:
    size = len(operations)
    square = len(matrix) == size >= 2 and all(len(row) == size for row in matrix)
    if not square or any(matrix[i][j] not in ((0, 1) if i < j else (0,)) for i in range(size) for j in range(size)):
        raise ValueError(
            "The matrix of a NAS-Bench-101 cell has a row and a column for each of its operations, input and output "
            f"among them, ones above the diagonal and zeros elsewhere; got {list(map(list, matrix))} for {size} "
            "operations."
        )
    if operations[0] != INPUT or operations[-1] != OUTPUT or not set(operations[1:-1]) <= set(OPERATIONS):
        raise ValueError(
            f"The operations of a NAS-Bench-101 cell are {INPUT!r}, any of {OPERATIONS}, and {OUTPUT!r}; "
            f"got {list(operations)}."
        )


def _on_a_path(matrix: Sequence[Sequence[int]]) -> list[int]:
    """The vertices that the input reaches and that reach the output; the input and the output in any case."""
    last = len(matrix) - 1
    reached, useful = {0}, {last}
    for v in range(1, last + 1):
        if any(matrix[s][v] for s in reached):
            reached.add(v)
    for v in reversed(range(last)):
        if any(matrix[v][t] for t in useful):
            useful.add(v)
    return sorted((reached & useful) | {0, last})


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU; keeps the resolution."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def make_operation(name: str, channels: int) -> nn.Module:
    """One of :data:`OPERATIONS`."""
    if name == "maxpool3x3":
        return make_op("max_pool_3x3", channels, 1, affine=True)
    return conv_bn_relu(channels, channels, 1 if name == "conv1x1-bn-relu" else 3)


def stem_and_blocks(
    cell: Callable[[int, int], nn.Module],
    *,
    channels: int,
    cells_per_stage: int,
    num_classes: int,
    in_channels: int,
    image_size: int | tuple[int, int],
    joined: int = 1,
) -> tuple[nn.Module, nn.ModuleList]:
    """Stem and three stages of cells; before the second and the third, resolution is halved and channels double.

    Args:
        cell: Builds one from the channels it reads and its own channels C.
        channels: C of the first stage.
        cells_per_stage: Cells in each stage.
        num_classes: Checked here for both networks.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.
        joined: The output of a cell has ``joined * C`` channels.

    Raises:
        ValueError: If a number is too small.
    """
    if cells_per_stage < 1:
        raise ValueError(f"A stage has at least one cell; got cells_per_stage={cells_per_stage}.")
    check_classes(num_classes)
    check_image_size(image_size, 2, "The NAS-Bench-101 skeleton")
    stem, blocks, width = conv_bn_relu(in_channels, channels, 3), nn.ModuleList(), channels
    for stage in range(3):
        if stage:
            blocks.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))  # what TensorFlow calls "same"
        for _ in range(cells_per_stage):
            blocks.append(cell(width, channels * 2**stage))
            width = joined * channels * 2**stage
    return stem, blocks


class NetworkCell(nn.Module):
    """The cell with channels of its own for each vertex."""

    def __init__(self, cell: NASBench101Cell, in_channels: int, channels: int) -> None:
        super().__init__()
        self.cell, self.widths = cell, cell.channels(channels)
        targets = [t for t, edge in enumerate(cell.matrix[0]) if edge]
        width = dict(enumerate([*self.widths, channels], start=1))
        self.projections = nn.ModuleDict({str(t): conv_bn_relu(in_channels, width[t], 1) for t in targets})
        self.ops = nn.ModuleList(
            make_operation(name, c) for name, c in zip(cell.operations[1:-1], self.widths, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, C, H, W]``."""
        states = [x]
        for v, (op, width) in enumerate(zip(self.ops, self.widths, strict=True), start=1):
            # A vertex may be one channel wider than the one it leads to; the input is projected to fit.
            terms = [self._project(x, v) if s == 0 else states[s][:, :width] for s in self.cell.parents(v)]
            states.append(op(sum(terms[1:], terms[0])))
        last = len(states)
        parents = self.cell.parents(last)
        joined = [states[v] for v in parents if v]
        if not joined:
            return self._project(x, last)
        out = torch.cat(joined, dim=1)
        return out + self._project(x, last) if 0 in parents else out

    def _project(self, x: Tensor, vertex: int) -> Tensor:
        y: Tensor = self.projections[str(vertex)](x)
        return y


class NASBench101Network(Subnet):
    """The network of a cell in the benchmark; defaults are the benchmark's for CIFAR-10.

    One thing is left to training: batch normalisation keeps PyTorch's momentum, 0.1, where the benchmark has 0.003.

    Args:
        matrix: See :class:`NASBench101Cell`.
        operations: See :class:`NASBench101Cell`.
        channels: C of the first stage, doubled by every reduction.
        cells_per_stage: Cells in each of the three stages.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.

    Raises:
        ValueError: If the cell is not of the benchmark or the image too small.
    """

    def __init__(
        self,
        matrix: Sequence[Sequence[int]],
        operations: Sequence[str],
        *,
        channels: int = 128,
        cells_per_stage: int = 3,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
    ) -> None:
        settings = arguments(locals(), "matrix", "operations")
        super().__init__()
        self.cell = cell = NASBench101Cell(matrix, operations)
        self.num_classes, self.input_shape = num_classes, image_shape(in_channels, image_size)
        self.init_args = {
            "matrix": [list(row) for row in cell.matrix],
            "operations": list(cell.operations),
            **settings,
        }
        self.stem, self.blocks = stem_and_blocks(lambda c_in, c: NetworkCell(cell, c_in, c), **settings)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * channels, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits

    def describes(self, config: SubnetConfig) -> bool:
        space = NASBench101Space()
        try:
            return space.canonical(config) == space.canonical(space.from_cell(self.cell))
        except ValueError:  # of another space
            return False

    def graphs(self) -> list[ArchGraph]:
        return [self.cell.graph()]
