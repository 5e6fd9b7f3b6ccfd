"""Textbook NAS-Bench-101 networks (arXiv:1902.09635) and the shared networks of NAS-Bench-1Shot1 (arXiv:2001.10422)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

OPERATIONS = ("maxpool3x3", "conv1x1-bn-relu", "conv3x3-bn-relu")
PARENTS = {  # of blocks 1, 2, ... and of the output
    1: (1, 2, 2, 2, 2),
    2: (1, 1, 2, 2, 3),
    3: (1, 1, 1, 2, 2, 2),
}


def conv_bn_relu(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    """Convolution with "same" padding, batch norm, ReLU."""
    conv = nn.Conv2d(c_in, c_out, kernel, padding=(kernel - 1) // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


def operation(name: str, c: int) -> nn.Module:
    """One candidate."""
    if name == "maxpool3x3":
        return nn.MaxPool2d(3, 1, 1)
    return conv_bn_relu(c, c, {"conv1x1-bn-relu": 1, "conv3x3-bn-relu": 3}[name])


def halve(x: Tensor) -> Tensor:
    """The largest of each four pixels."""
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).amax((3, 5))


class SearchCell(nn.Module):
    """Every block with every set of parents; the output concatenates."""

    def __init__(self, number: int, c_in: int, c: int) -> None:
        super().__init__()
        self.sets = [list(itertools.combinations(range(n + 1), k)) for n, k in enumerate(PARENTS[number])]
        blocks = len(self.sets) - 1
        self.projections = nn.ModuleList(conv_bn_relu(c_in, c, 1) for _ in range(blocks + 1))
        self.blocks = nn.ModuleList(nn.ModuleList(operation(name, c) for name in OPERATIONS) for _ in range(blocks))

    def forward(self, x: Tensor, alphas: Tensor, wirings: Sequence[Tensor]) -> Tensor:
        """Sum over the sets of parents of a block: weight of the set times the sum of the parents in it."""
        outputs: list[Tensor] = []
        for n, ops in enumerate(self.blocks):
            assert isinstance(ops, nn.ModuleList)
            nodes = [self.projections[n](x), *outputs]
            taken = torch.zeros_like(nodes[0])
            for weight, picked in zip(wirings[n], self.sets[n], strict=True):
                for parent in picked:
                    taken = taken + weight * nodes[parent]
            mixed = torch.zeros_like(taken)
            for weight, op in zip(alphas[n], ops, strict=True):
                mixed = mixed + weight * op(taken)
            outputs.append(mixed)
        nodes = [self.projections[-1](x), *outputs]
        out = torch.zeros_like(torch.cat(nodes, dim=1))
        for weight, picked in zip(wirings[-1], self.sets[-1], strict=True):
            kept = [node if i in picked else torch.zeros_like(node) for i, node in enumerate(nodes)]
            out = out + weight * torch.cat(kept, dim=1)
        return out


class NASBench1Shot1SearchNet(nn.Module):
    """Three stages of cells; a pool before the second and the third, a 1x1 convolution at the end."""

    def __init__(self, number: int, channels: int, cells_per_stage: int, num_classes: int = 10) -> None:
        super().__init__()
        self.cells_per_stage = cells_per_stage
        nodes = len(PARENTS[number])
        self.stem = conv_bn_relu(3, channels, 3)
        self.cells = nn.ModuleList()
        c_in = channels
        for layer in range(3 * cells_per_stage):
            c = channels * 2 ** (layer // cells_per_stage)
            self.cells.append(SearchCell(number, c_in, c))
            c_in = nodes * c
        self.squeeze = nn.Sequential(
            nn.ReLU(), nn.Conv2d(c_in, 4 * channels, 1, bias=False), nn.BatchNorm2d(4 * channels, affine=False)
        )
        self.classifier = nn.Linear(4 * channels, num_classes)

    def forward(self, x: Tensor, alphas: Tensor, wirings: Sequence[Tensor]) -> Tensor:
        x = self.stem(x)
        for layer, cell in enumerate(self.cells):
            if layer in (self.cells_per_stage, 2 * self.cells_per_stage):
                x = halve(x)
            x = cell(x, alphas, wirings)
        logits: Tensor = self.classifier(self.squeeze(x).mean((2, 3)))
        return logits


class NASBench101Cell(nn.Module):
    """Vertices by recursion from the output."""

    def __init__(self, matrix: Sequence[Sequence[int]], ops: Sequence[str], c_in: int, c: int) -> None:
        super().__init__()
        self.matrix, self.last = matrix, len(matrix) - 1
        joined = [v for v in range(1, self.last) if matrix[v][self.last]]

        def width(v: int) -> int:
            if v == self.last:
                return c
            if v in joined:
                extra = 1 if joined.index(v) < c % len(joined) else 0
                return c // len(joined) + extra
            return max(width(t) for t in range(v + 1, self.last) if matrix[v][t])

        self.widths = {v: width(v) for v in range(1, self.last + 1)}
        self.from_input = nn.ModuleDict(
            {str(v): conv_bn_relu(c_in, self.widths[v], 1) for v in self.widths if matrix[0][v]}
        )
        self.vertices = nn.ModuleDict({str(v): operation(ops[v], self.widths[v]) for v in range(1, self.last)})

    def forward(self, x: Tensor) -> Tensor:
        def value(v: int) -> Tensor:
            total = torch.zeros(len(x), self.widths[v], *x.shape[2:], dtype=x.dtype)
            for source in range(1, v):
                if self.matrix[source][v]:
                    total = total + known[source][:, : self.widths[v]]
            if self.matrix[0][v]:
                total = total + self.from_input[str(v)](x)
            out: Tensor = self.vertices[str(v)](total)
            return out

        known: dict[int, Tensor] = {}
        for v in range(1, self.last):
            known[v] = value(v)
        parts = [known[v] for v in known if self.matrix[v][self.last]]
        direct = self.from_input[str(self.last)](x) if self.matrix[0][self.last] else 0
        result: Tensor = torch.cat(parts, 1) + direct if parts else direct
        return result


class NASBench101Net(nn.Module):
    """Stem, three stages of cells, pools between, head; the cell holds no vertex that does not matter."""

    def __init__(
        self,
        matrix: Sequence[Sequence[int]],
        ops: Sequence[str],
        channels: int = 128,
        cells_per_stage: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.cells_per_stage = cells_per_stage
        self.stem = conv_bn_relu(3, channels, 3)
        self.cells = nn.ModuleList()
        c_in = channels
        for layer in range(3 * cells_per_stage):
            c = channels * 2 ** (layer // cells_per_stage)
            self.cells.append(NASBench101Cell(matrix, ops, c_in, c))
            c_in = c
        self.classifier = nn.Linear(4 * channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer, cell in enumerate(self.cells):
            if layer in (self.cells_per_stage, 2 * self.cells_per_stage):
                x = halve(x)
            x = cell(x)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
