"""Textbook NAS-Bench-201 networks: one module per candidate and edge (Dong & Yang, ICLR 2020, arXiv:2001.00326)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

CANDIDATES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4
EDGES = tuple((source, target) for target in range(1, NODES) for source in range(target))


class Zero(nn.Module):
    """The ``none`` operation."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def relu_conv_bn(c_in: int, c_out: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    """ReLU, convolution with "same" padding, batch norm."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(c_in, c_out, kernel, stride, padding=(kernel - 1) // 2, bias=False),
        nn.BatchNorm2d(c_out, affine=affine),
    )


def operation(name: str, c: int, affine: bool) -> nn.Module:
    """One candidate; the pool has no batch norm."""
    if name == "none":
        return Zero()
    if name == "skip_connect":
        return nn.Identity()
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)
    return relu_conv_bn(c, c, {"nor_conv_1x1": 1, "nor_conv_3x3": 3}[name], 1, affine)


class SearchCell(nn.Module):
    """Cell with all candidates on all six edges."""

    def __init__(self, c: int, pool_bn: bool) -> None:
        super().__init__()
        self.edges = nn.ModuleList()
        for _ in EDGES:
            ops = nn.ModuleList()
            for name in CANDIDATES:
                op = operation(name, c, affine=False)
                after_pool = pool_bn and "pool" in name
                ops.append(nn.Sequential(op, nn.BatchNorm2d(c, affine=False)) if after_pool else op)
            self.edges.append(ops)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        states = [x]
        for node in range(1, NODES):
            total = torch.zeros_like(x)
            for (source, target), ops, row in zip(EDGES, self.edges, weights, strict=True):
                if target == node:
                    assert isinstance(ops, nn.ModuleList)
                    for weight, op in zip(row, ops, strict=True):
                        total = total + weight * op(states[source])
            states.append(total)
        return states[-1]


class DerivedCell(nn.Module):
    """Cell with one operation on each of the six edges."""

    def __init__(self, c: int, picks: Sequence[str]) -> None:
        super().__init__()
        self.edges = nn.ModuleList(operation(name, c, affine=True) for name in picks)

    def forward(self, x: Tensor) -> Tensor:
        states = [x]
        for node in range(1, NODES):
            ops = [(source, op) for (source, target), op in zip(EDGES, self.edges, strict=True) if target == node]
            states.append(torch.stack([op(states[source]) for source, op in ops]).sum(0))
        return states[-1]


class ResidualBlock(nn.Module):
    """Basic residual block of stride 2 that doubles the channels."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv_a = relu_conv_bn(c_in, c_out, 3, 2, affine=True)
        self.conv_b = relu_conv_bn(c_out, c_out, 3, 1, affine=True)
        self.downsample = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(c_in, c_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.downsample(x) + self.conv_b(self.conv_a(x))
        return out


class _Skeleton(nn.Module):
    """Stem, three stages of cells with residual blocks between, head."""

    def __init__(
        self, cell: Callable[[int], nn.Module], channels: int, cells_per_stage: int, num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))
        self.stages = nn.ModuleList(
            nn.ModuleList(cell(channels * 2**stage) for _ in range(cells_per_stage)) for stage in range(3)
        )
        self.blocks = nn.ModuleList(ResidualBlock(channels * 2**i, channels * 2 ** (i + 1)) for i in range(2))
        self.last_bn = nn.BatchNorm2d(4 * channels)
        self.classifier = nn.Linear(4 * channels, num_classes)

    def run(self, x: Tensor, *cell_arguments: Tensor) -> Tensor:
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, nn.ModuleList)
            if index > 0:
                x = self.blocks[index - 1](x)
            for cell in stage:
                x = cell(x, *cell_arguments)
        logits: Tensor = self.classifier(self.last_bn(x).relu().mean(dim=(2, 3)))
        return logits


class NASBench201SearchNet(_Skeleton):
    """Search network; weights of the edges come from outside, ``[6, 5]``."""

    def __init__(
        self,
        channels: int = 16,
        cells_per_stage: int = 5,
        num_classes: int = 10,
        *,
        in_channels: int = 3,
        pool_bn: bool = False,
    ) -> None:
        super().__init__(lambda c: SearchCell(c, pool_bn), channels, cells_per_stage, num_classes, in_channels)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return self.run(x, weights)


class NASBench201DerivedNet(_Skeleton):
    """Standalone network of one operation per edge, edges in the order of ``EDGES``."""

    def __init__(
        self,
        picks: Sequence[str],
        channels: int = 16,
        cells_per_stage: int = 5,
        num_classes: int = 10,
        *,
        in_channels: int = 3,
    ) -> None:
        super().__init__(lambda c: DerivedCell(c, picks), channels, cells_per_stage, num_classes, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)
