"""Textbook DARTS networks: one module per candidate and edge (Liu et al., ICLR 2019, arXiv:1806.09055, section 2, 3.1).

Written for reading, not for speed; the product may batch and share work and must give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

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
Node = Sequence[tuple[str, int]]  # (operation, input state) of each edge that enters a node


class Zero(nn.Module):
    """The ``none`` operation: zeros of the output's size."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class FactorizedReduce(nn.Module):
    """ReLU, two 1x1 convolutions of stride 2 on pixel grids shifted by one, concatenation, batch norm."""

    def __init__(self, c_in: int, c_out: int, affine: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(c_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        out: Tensor = self.bn(torch.cat([self.conv1(x), self.conv2(x[:, :, 1:, 1:])], dim=1))
        return out


def relu_conv_bn(c_in: int, c_out: int, affine: bool) -> nn.Sequential:
    """ReLU, 1x1 convolution, batch norm."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out, affine=affine))


def depthwise_separable(c: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    """ReLU, depthwise convolution, 1x1 convolution, batch norm; "same" padding."""
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(c, c, kernel, stride, padding, dilation, groups=c, bias=False),
        nn.Conv2d(c, c, 1, bias=False),
        nn.BatchNorm2d(c, affine=affine),
    ]


def operation(name: str, c: int, stride: int, affine: bool) -> nn.Module:
    """One candidate as in the evaluation network: pooling without batch norm."""
    if name == "none":
        return Zero(stride)
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, padding=1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(c, c, affine)
    if name == "conv_7x1_1x7":  # only in NASNet-like genotypes
        return nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(c, c, (1, 7), (1, stride), (0, 3), bias=False),
            nn.Conv2d(c, c, (7, 1), (stride, 1), (3, 0), bias=False),
            nn.BatchNorm2d(c, affine=affine),
        )
    kind, kernel = name[:3], int(name[-1])
    if kind == "sep":  # the separable convolution is applied twice
        first = depthwise_separable(c, kernel, stride, 1, affine)
        return nn.Sequential(*first, *depthwise_separable(c, kernel, 1, 1, affine))
    return nn.Sequential(*depthwise_separable(c, kernel, stride, 2, affine))


class MixedOp(nn.Module):
    """All candidates of one edge under given weights; batch norm follows the pools."""

    def __init__(self, candidates: Sequence[str], c: int, stride: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList()
        for name in candidates:
            op = operation(name, c, stride, affine=False)
            self.ops.append(nn.Sequential(op, nn.BatchNorm2d(c, affine=False)) if "pool" in name else op)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return torch.stack([w * op(x) for w, op in zip(weights, self.ops, strict=True)]).sum(0)


def preprocess(c_in: int, c: int, after_reduction: bool, affine: bool) -> nn.Module:
    """Brings an input state to the cell's width, and to its size when it is the state before a reduction."""
    return FactorizedReduce(c_in, c, affine) if after_reduction else relu_conv_bn(c_in, c, affine)


class SearchCell(nn.Module):
    """Cell in which every node sums a mixed operation on every earlier state."""

    def __init__(
        self,
        candidates: Sequence[str],
        steps: int,
        multiplier: int,
        c_prev_prev: int,
        c_prev: int,
        c: int,
        reduction: bool,
        reduction_prev: bool,
    ) -> None:
        super().__init__()
        self.steps, self.multiplier = steps, multiplier
        self.preprocess0 = preprocess(c_prev_prev, c, reduction_prev, affine=False)
        self.preprocess1 = preprocess(c_prev, c, False, affine=False)
        self.edges = nn.ModuleList(
            MixedOp(candidates, c, stride=2 if reduction and state < 2 else 1)
            for node in range(steps)
            for state in range(node + 2)
        )

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        edge = 0
        for _ in range(self.steps):
            incoming = []
            for state in states:
                incoming.append(self.edges[edge](state, weights[edge]))
                edge += 1
            states.append(torch.stack(incoming).sum(0))
        return torch.cat(states[-self.multiplier :], dim=1)


class DerivedCell(nn.Module):
    """Cell of a genotype."""

    def __init__(
        self,
        nodes: Sequence[Node],
        concat: Sequence[int],
        c_prev_prev: int,
        c_prev: int,
        c: int,
        reduction: bool,
        reduction_prev: bool,
    ) -> None:
        super().__init__()
        self.concat, self.multiplier = list(concat), len(concat)
        self.inputs = [[state for _, state in node] for node in nodes]
        self.preprocess0 = preprocess(c_prev_prev, c, reduction_prev, affine=True)
        self.preprocess1 = preprocess(c_prev, c, False, affine=True)
        self.nodes = nn.ModuleList(
            nn.ModuleList(operation(name, c, 2 if reduction and state < 2 else 1, affine=True) for name, state in node)
            for node in nodes
        )

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for ops, inputs in zip(self.nodes, self.inputs, strict=True):
            assert isinstance(ops, nn.ModuleList)
            states.append(torch.stack([op(states[i]) for op, i in zip(ops, inputs, strict=True)]).sum(0))
        return torch.cat([states[i] for i in self.concat], dim=1)


class Stem(nn.Module):
    """CIFAR: 3x3 convolution to three times the channels, seen twice. ImageNet: to 1/4 and 1/8 of the image size."""

    def __init__(self, channels: int, in_channels: int, imagenet: bool) -> None:
        super().__init__()
        half = channels // 2
        if imagenet:
            self.first = nn.Sequential(
                nn.Conv2d(in_channels, half, 3, 2, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(),
                nn.Conv2d(half, channels, 3, 2, 1, bias=False),
                nn.BatchNorm2d(channels),
            )
            self.second: nn.Module = nn.Sequential(
                nn.ReLU(), nn.Conv2d(channels, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels)
            )
        else:
            self.first = nn.Sequential(
                nn.Conv2d(in_channels, 3 * channels, 3, 1, 1, bias=False), nn.BatchNorm2d(3 * channels)
            )
            self.second = nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s0 = self.first(x)
        return s0, self.second(s0)


# (c_prev_prev, c_prev, c, reduction, reduction_prev)
CellFactory = Callable[[int, int, int, bool, bool], SearchCell | DerivedCell]


def build_cells(factory: CellFactory, channels: int, cells: int, imagenet: bool) -> tuple[nn.ModuleList, int]:
    """Cells at 1/3 and 2/3 of the depth are reductions and double the channels. Also gives the last cell's channels."""
    c = channels
    c_prev_prev = c_prev = c if imagenet else 3 * c
    reduction_prev = imagenet
    result = nn.ModuleList()
    for index in range(cells):
        reduction = index in (cells // 3, 2 * cells // 3)
        if reduction:
            c *= 2
        cell = factory(c_prev_prev, c_prev, c, reduction, reduction_prev)
        result.append(cell)
        c_prev_prev, c_prev, reduction_prev = c_prev, cell.multiplier * c, reduction
    return result, c_prev


class DARTSSearchNet(nn.Module):
    """Search network; weights of the edges come from outside, ``[edges, candidates]`` per kind of cell."""

    def __init__(
        self,
        channels: int = 16,
        cells: int = 8,
        num_classes: int = 10,
        *,
        steps: int = 4,
        multiplier: int = 4,
        in_channels: int = 3,
        imagenet: bool = False,
        candidates: Sequence[str] = CANDIDATES,
    ) -> None:
        super().__init__()
        self.reductions = (cells // 3, 2 * cells // 3)
        self.stem = Stem(channels, in_channels, imagenet)
        self.cells, c_last = build_cells(
            lambda *sizes: SearchCell(candidates, steps, multiplier, *sizes), channels, cells, imagenet
        )
        self.classifier = nn.Linear(c_last, num_classes)

    def forward(self, x: Tensor, normal: Tensor, reduce: Tensor) -> Tensor:
        s0, s1 = self.stem(x)
        for index, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1, reduce if index in self.reductions else normal)
        logits: Tensor = self.classifier(s1.mean(dim=(2, 3)))
        return logits


class DARTSDerivedNet(nn.Module):
    """Evaluation network of a genotype, without drop-path and without auxiliary head."""

    def __init__(
        self,
        normal: Sequence[Node],
        normal_concat: Sequence[int],
        reduce: Sequence[Node],
        reduce_concat: Sequence[int],
        channels: int = 36,
        cells: int = 20,
        num_classes: int = 10,
        *,
        in_channels: int = 3,
        imagenet: bool = False,
    ) -> None:
        super().__init__()
        self.stem = Stem(channels, in_channels, imagenet)
        kinds = {False: (normal, normal_concat), True: (reduce, reduce_concat)}
        self.cells, c_last = build_cells(
            lambda *sizes: DerivedCell(*kinds[sizes[3]], *sizes), channels, cells, imagenet
        )
        self.classifier = nn.Linear(c_last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        s0, s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1)
        logits: Tensor = self.classifier(s1.mean(dim=(2, 3)))
        return logits
