"""Textbook SqueezeNAS networks, one module per candidate (arXiv:1908.01748; head: arXiv:1905.02244, figure 10)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# kernel, expansion, groups, dilation; None is the skip
CANDIDATES = (
    (3, 1, 1, 1),
    (3, 1, 2, 1),
    (3, 3, 1, 1),
    (3, 6, 1, 1),
    (5, 1, 1, 1),
    (5, 1, 2, 1),
    (5, 3, 1, 1),
    (5, 6, 1, 1),
    (3, 1, 1, 2),
    (3, 1, 2, 2),
    (3, 3, 1, 2),
    (3, 6, 1, 2),
    None,
)


class InvertedResidual(nn.Sequential):
    """Expand, depthwise, project; the last without activation."""

    def __init__(self, c_in: int, c_out: int, stride: int, kernel: int, expansion: int, groups: int, d: int) -> None:
        hidden = c_in * expansion
        super().__init__(
            nn.Conv2d(c_in, hidden, 1, groups=groups, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, kernel, stride, d * (kernel - 1) // 2, d, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, c_out, 1, groups=groups, bias=False),
            nn.BatchNorm2d(c_out),
        )


class FactorizedReduce(nn.Module):
    """Two strided 1x1 convolutions, the second on the image shifted by a pixel; images of even size only."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.conv_2 = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        out: Tensor = self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1))
        return out


class Zero(nn.Module):
    """The skip where there is a residual connection."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x


def candidate(index: int, c_in: int, c_out: int, stride: int) -> nn.Module:
    """One of the thirteen."""
    parts = CANDIDATES[index]
    if parts is not None:
        return InvertedResidual(c_in, c_out, stride, *parts)
    if stride == 2:
        return FactorizedReduce(c_in, c_out)
    if c_in == c_out:
        return Zero()
    return nn.Sequential(nn.ReLU(), nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))


class Block(nn.Module):
    """The candidates of a layer, weighted, and the residual connection."""

    def __init__(self, indices: Sequence[int], c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList(candidate(index, c_in, c_out, stride) for index in indices)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        out = torch.stack([w * op(x) for w, op in zip(weights, self.ops, strict=True)]).sum(0)
        return x + out if self.residual else out


class SqueezeNASNet(nn.Module):
    """Encoder and head; ``picks`` holds the candidates each layer has, one or all.

    ``stages`` are (channels, layers, stride), channels scaled already; ``low`` is the layer the head reads besides the
    last, ``last`` the channels of a last 1x1 convolution, 0 for none.
    """

    def __init__(
        self,
        picks: Sequence[Sequence[int]],
        stages: Sequence[tuple[int, int, int]],
        *,
        stem: int,
        mid: int,
        last: int,
        low: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.blocks, self.low = nn.ModuleList(), low
        channels, outputs = stem, []
        for c_out, repeats, stride in stages:
            for i in range(repeats):
                self.blocks.append(Block(picks[len(self.blocks)], channels, c_out, stride if i == 0 else 1))
                channels = c_out
                outputs.append(c_out)
        self.last: nn.Module = nn.Identity()
        if last:
            self.last = nn.Sequential(nn.Conv2d(channels, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU())
        high = last or channels
        self.top_left = nn.Sequential(nn.Conv2d(high, mid, 1, bias=False), nn.BatchNorm2d(mid), nn.ReLU())
        self.bottom_left = nn.Conv2d(high, mid, 1)
        self.top_right = nn.Conv2d(mid, classes, 1)
        self.bottom_right = nn.Conv2d(outputs[low], classes, 1)

    def forward(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        size = x.shape[-2:]
        x = self.conv1(x)
        states = []
        for block, row in zip(self.blocks, weights, strict=True):
            x = block(x, row)
            states.append(x)
        x = self.last(x)
        gate = torch.sigmoid(self.bottom_left(x.mean(dim=(2, 3), keepdim=True)))
        x = F.interpolate(self.top_left(x) * gate, scale_factor=2, mode="bilinear", align_corners=False)
        logits = self.top_right(x) + self.bottom_right(states[self.low])
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
