"""Textbook chains of mobile blocks, one module per candidate and layer.

FBNet (Wu et al., CVPR 2019, arXiv:1812.03443, figure 2), ProxylessNAS (Cai et al., ICLR 2019, arXiv:1812.00332),
NAS-Bench-Macro (Su et al., CVPR 2021, arXiv:2103.11922).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]  # channels in, channels out, stride


class InvertedResidual(nn.Module):
    """Pointwise, depthwise, pointwise convolution; the input is added where nothing changes shape."""

    def __init__(
        self,
        shape: Shape,
        kernel: int,
        expansion: int,
        *,
        groups: int = 1,
        expand: bool = True,
        limit: float = float("inf"),
        affine: bool,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        c_in, c_out, stride = shape
        hidden = c_in * expansion
        self.expand, self.groups, self.limit = expand, groups, limit
        self.residual = stride == 1 and c_in == c_out
        self.shuffled = groups > 1
        if expand:
            self.conv1 = nn.Conv2d(c_in, hidden, 1, groups=groups, bias=False)
            self.bn1 = nn.BatchNorm2d(hidden, eps=eps, affine=affine)
        self.conv2 = nn.Conv2d(hidden, hidden, kernel, stride, (kernel - 1) // 2, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden, eps=eps, affine=affine)
        self.conv3 = nn.Conv2d(hidden, c_out, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out, eps=eps, affine=affine)

    def shuffle(self, x: Tensor) -> Tensor:
        """First channels of all groups, then all second channels, and so on."""
        size = x.shape[1] // self.groups
        order = [group * size + i for i in range(size) for group in range(self.groups)]
        return x[:, order]

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expand:
            y = self.bn1(self.conv1(y)).clamp(0, self.limit)
        if self.shuffled:
            y = self.shuffle(y)
        y = self.bn2(self.conv2(y)).clamp(0, self.limit)
        y = self.bn3(self.conv3(y))
        return x + y if self.residual else y


class Pass(nn.Module):
    """What a skip does where it changes the shape: pointwise convolution and batch norm, in FBNet a ReLU too."""

    def __init__(self, shape: Shape, *, relu: bool, affine: bool) -> None:
        super().__init__()
        c_in, c_out, stride = shape
        self.conv = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
        self.bn = nn.BatchNorm2d(c_out, affine=affine)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y.clamp(min=0) if self.relu else y


def skip(shape: Shape, *, relu: bool, affine: bool) -> nn.Module:
    c_in, c_out, stride = shape
    return nn.Identity() if c_in == c_out and stride == 1 else Pass(shape, relu=relu, affine=affine)


def fbnet_block(name: str, shape: Shape, *, affine: bool) -> nn.Module:
    """``k5_e1_g2``: kernel 5, expansion 1, 2 groups."""
    if name == "skip":
        return skip(shape, relu=True, affine=affine)
    kernel, expansion, *groups = (int(part[1:]) for part in name.split("_"))
    return InvertedResidual(shape, kernel, expansion, groups=groups[0] if groups else 1, affine=affine)


def proxyless_block(name: str, shape: Shape, *, affine: bool = True) -> nn.Module:
    """``k5_e3``: kernel 5, expansion 3. Scale and shift in search, too."""
    if name == "skip":
        return nn.Identity()
    kernel, expansion = (int(part[1:]) for part in name.split("_"))
    return InvertedResidual(shape, kernel, expansion, limit=6.0, affine=True, eps=1e-3)


def macro_block(name: str, shape: Shape, *, affine: bool) -> nn.Module:
    """``0``, ``1``, ``2``: identity; kernel 3 and expansion 3; kernel 5 and expansion 6."""
    if name == "0":
        return skip(shape, relu=False, affine=affine)
    return InvertedResidual(shape, 3 if name == "1" else 5, 3 if name == "1" else 6, affine=affine)


class Head(nn.Module):
    """Pointwise convolution, average over the image, classifier."""

    def __init__(self, c_in: int, c: int, classes: int, *, limit: float = float("inf"), eps: float = 1e-5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c, 1, bias=False)
        self.bn = nn.BatchNorm2d(c, eps=eps)
        self.classifier = nn.Linear(c, classes)
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.bn(self.conv(x)).clamp(0, self.limit).mean(dim=(2, 3)))
        return logits


class Stem(nn.Module):
    """3x3 convolution; in ProxylessNAS a block that does not expand follows."""

    def __init__(
        self, c: int, stride: int, block: nn.Module | None = None, *, limit: float = float("inf"), eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, c, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(c, eps=eps)
        self.block = block or nn.Identity()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(self.bn(self.conv(x)).clamp(0, self.limit))
        return y


class SearchChain(nn.Module):
    """All candidates of all layers; weights come from outside, one vector per layer."""

    def __init__(self, stem: nn.Module, head: nn.Module, layers: Sequence[Sequence[nn.Module]]) -> None:
        super().__init__()
        self.stem, self.head = stem, head
        self.layers = nn.ModuleList(nn.ModuleList(candidates) for candidates in layers)

    def forward(self, x: Tensor, rows: Sequence[Tensor]) -> Tensor:
        x = self.stem(x)
        for candidates, weights in zip(self.layers, rows, strict=True):
            assert isinstance(candidates, nn.ModuleList)
            x = torch.stack([w * op(x) for w, op in zip(weights, candidates, strict=True)]).sum(0)
        logits: Tensor = self.head(x)
        return logits


class DerivedChain(nn.Module):
    """One block per layer."""

    def __init__(self, stem: nn.Module, head: nn.Module, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem, self.head = stem, head
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x)
        return logits
