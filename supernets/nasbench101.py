"""NAS-Bench-101 cells and the networks its tables measured (Ying et al., ICML 2019, arXiv:1902.09635).

A cell is a graph with operations on its vertices. Pruning, limits, channels and skeleton follow the authors' code
(google-research/nasbench), so that a cell is found in their tables and its network has the parameters they list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .base import Subnet, check_image_size
from .ops import make_op
from .space import ArchGraph

INPUT, OUTPUT = "input", "output"
OPERATIONS = ("maxpool3x3", "conv1x1-bn-relu", "conv3x3-bn-relu")
MAX_VERTICES, MAX_EDGES = 7, 9

Matrix: TypeAlias = tuple[tuple[int, ...], ...]


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
    image_size: int,
    joined: int = 1,
) -> tuple[nn.Module, nn.ModuleList]:
    """Stem and three stages of cells; before the second and the third, resolution is halved and channels double.

    Args:
        cell: Builds one from the channels it reads and its own channels C.
        channels: C of the first stage.
        cells_per_stage: Cells in each stage.
        num_classes: Checked here for both networks.
        in_channels: Channels of an image.
        image_size: Height and width of an image.
        joined: The output of a cell has ``joined * C`` channels.

    Raises:
        ValueError: If a number is too small.
    """
    if cells_per_stage < 1:
        raise ValueError(f"A stage has at least one cell; got cells_per_stage={cells_per_stage}.")
    if num_classes < 2:
        raise ValueError(f"Classification needs at least two classes; got num_classes={num_classes}.")
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
        image_size: Height and width of an image.

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
        image_size: int = 32,
    ) -> None:
        super().__init__()
        self.cell = cell = NASBench101Cell(matrix, operations)
        self.num_classes, self.input_shape = num_classes, (in_channels, image_size, image_size)
        settings = {
            "channels": channels,
            "cells_per_stage": cells_per_stage,
            "num_classes": num_classes,
            "in_channels": in_channels,
            "image_size": image_size,
        }
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

    def graphs(self) -> list[ArchGraph]:
        return [self.cell.graph()]
