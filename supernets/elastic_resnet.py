"""The elastic ResNet-50D of once-for-all (mit-han-lab/once-for-all, ``ofa_resnets.py``; He et al., arXiv:1812.01187).

Four stages of bottlenecks, each with a ratio of inner to outer channels to choose, and up to two layers more than the
fewest. What differs from the authors: one width for the whole network instead of one for every stage, and a stem that
always has its three convolutions. As theirs, the stem adds its second convolution to what that reads; ResNet-D has no
such shortcut, and ``stem_shortcut=False`` leaves it out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from .base import arguments, check_classes, check_image_size
from .chain import make_divisible
from .elastic import (
    ElasticArch,
    ElasticNetwork,
    ElasticSpace,
    ElasticSupernet,
    check_depths,
    check_square,
    checked_resolutions,
    default_resolutions,
    elastic_choices,
)
from .elastic_layers import (
    ElasticBlock,
    ElasticConv2d,
    ElasticConvNorm,
    ElasticLinear,
    by_importance,
    conv_norm,
    permute_inputs,
    permute_outputs,
)

STEM_CHANNELS = 64
STAGES = ((256, 2, 1), (512, 2, 2), (1024, 4, 2), (2048, 2, 2))  # channels, fewest layers, stride of the first

Stem = Literal["imagenet", "cifar"]


def ratio_of(block: str) -> float:
    """Inner channels per outer channel of a block.

    Raises:
        ValueError: If it is no such name.

    Example:
        >>> ratio_of("e0.25")
        0.25
    """
    try:
        ratio = float(block.removeprefix("e"))
    except ValueError:
        ratio = 0.0
    if not (block.startswith("e") and 0 < ratio < float("inf")):
        raise ValueError(f"A bottleneck is named for its ratio of inner to outer channels, as 'e0.25'; got {block!r}.")
    return ratio


@dataclass(frozen=True, init=False)
class ElasticResNetSpace(ElasticSpace):
    """Resolution, width, and in each of four stages a ratio for every layer.

    Args:
        resolutions: Sizes of the images.
        widths: Multipliers of the channels.
        extra_depths: Layers that a stage can have beyond 2, 2, 4 and 2, consecutive.
        ratios: Inner channels per outer channel; at every width they give different numbers of channels.

    Raises:
        ValueError: If depths leave one out, there is nothing to choose from, or two ratios are one at some width.

    Example:
        >>> space = ElasticResNetSpace()
        >>> space.num_genes, space.size == 5 * 3 * (3**2 + 3**3 + 3**4) ** 3 * (3**4 + 3**5 + 3**6)
        (20, True)
    """

    def __init__(
        self,
        *,
        resolutions: Sequence[int] = default_resolutions(224, 5),
        widths: Sequence[float] = (0.65, 0.8, 1.0),
        extra_depths: Sequence[int] = (0, 1, 2),
        ratios: Sequence[float] = (0.2, 0.25, 0.35),
    ) -> None:
        if not extra_depths or min(extra_depths) < 0:
            raise ValueError(f"extra_depths are whole numbers from 0 on, at least one; got {tuple(extra_depths)}.")
        check_depths(extra_depths)
        blocks = [f"e{ratio:g}" for ratio in sorted(set(ratios))]
        for width, (first, second) in itertools.product(widths, itertools.pairwise(map(ratio_of, blocks))):
            for channels in _shape(width, "cifar").stages:
                if inner_channels(channels, first) == (inner := inner_channels(channels, second)):
                    raise ValueError(
                        f"Ratios stand for different networks; at width {width:g}, {first:g} and {second:g} of "
                        f"{channels} channels are both {inner}, a multiple of 8. Leave one out, or take others."
                    )
        choices = elastic_choices(resolutions, widths, blocks, [least + max(extra_depths) for _, least, _ in STAGES])
        super().__init__("elastic_resnet", choices, tuple(least + min(extra_depths) for _, least, _ in STAGES))


def inner_channels(channels: int, ratio: float) -> int:
    """Channels inside of a block that has so many outside.

    Example:
        >>> inner_channels(256, 0.35)
        88
    """
    return make_divisible(round(channels * ratio))


class _Shape(NamedTuple):
    """Channels of a width."""

    inner: int  # of the stem
    stem: int
    stages: list[int]


def _shape(width: float, stem: Stem) -> _Shape:
    if not width > 0:
        raise ValueError(f"width multiplies the channels and must be above 0; got {width}.")
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"stem must be 'imagenet' or 'cifar'; got {stem!r}.")
    channels = make_divisible(width * STEM_CHANNELS)
    return _Shape(make_divisible(channels // 2), channels, [make_divisible(width * c) for c, _, _ in STAGES])


def _halvings(stem: Stem) -> int:
    return 3 if stem == "cifar" else 5


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1, each with batch normalisation; plus the input, averaged and projected if need be.

    Args:
        in_channels: C_in.
        channels: Inner channels.
        out_channels: C_out.
        stride: 2 halves the resolution.
        project: Whether the input is projected.
    """

    def __init__(self, in_channels: int, channels: int, out_channels: int, *, stride: int, project: bool) -> None:
        super().__init__()
        middle = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.conv1 = conv_norm(nn.Conv2d(in_channels, channels, 1, bias=False), nn.ReLU())
        self.conv2 = conv_norm(middle, nn.ReLU())
        self.conv3 = conv_norm(nn.Conv2d(channels, out_channels, 1, bias=False))
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else None
        self.shortcut = conv_norm(nn.Conv2d(in_channels, out_channels, 1, bias=False)) if project else None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, C_out, ceil(H / stride), ceil(W / stride)]``."""
        y = self.conv3(self.conv2(self.conv1(x)))
        x = x if self.pool is None else self.pool(x)
        out: Tensor = self.act(y + (x if self.shortcut is None else self.shortcut(x)))
        return out


class ElasticBottleneck(ElasticBlock):
    """:class:`Bottleneck` of any ratio and width up to its largest.

    Args:
        in_channels: Most channels in.
        channels: Most inner channels.
        out_channels: Most channels out.
        stride: 2 halves the resolution.
        project: Whether the input is projected.
    """

    def __init__(self, in_channels: int, channels: int, out_channels: int, *, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = ElasticConvNorm(ElasticConv2d(in_channels, channels), nn.ReLU())
        self.conv2 = ElasticConvNorm(ElasticConv2d(channels, channels, 3, stride=stride), nn.ReLU())
        self.conv3 = ElasticConvNorm(ElasticConv2d(channels, out_channels))
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else None
        self.shortcut = ElasticConvNorm(ElasticConv2d(in_channels, out_channels)) if project else None
        self.act = nn.ReLU()

    def forward(self, x: Tensor, channels: int, out_channels: int) -> Tensor:
        """``[B, C_in, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)]``."""
        y = self.conv3(self.conv2(self.conv1(x, channels), channels), out_channels)
        x = x if self.pool is None else self.pool(x)
        out: Tensor = self.act(y + (x if self.shortcut is None else self.shortcut(x, out_channels)))
        return out

    def sort_channels(self) -> None:
        """Those between the second and the third convolution, then those between the first and the second."""
        with torch.no_grad():
            for writer, reader in ((self.conv2, self.conv3), (self.conv1, self.conv2)):
                order = by_importance(reader.conv.weight)
                permute_inputs(reader.conv, order)
                permute_outputs(writer, order)


class ElasticResNetSupernet(ElasticSupernet):
    """Shared weights of all architectures of an :class:`ElasticResNetSpace`.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, where the default ``resolutions`` come from; otherwise not read.
        resolutions: See :class:`ElasticResNetSpace`; by default up to five from a half of ``image_size`` on.
        widths: See :class:`ElasticResNetSpace`.
        extra_depths: See :class:`ElasticResNetSpace`.
        ratios: See :class:`ElasticResNetSpace`.
        stem: ``"imagenet"``, three convolutions and a maximum, divides the resolution by 32 in all; ``"cifar"``, one
            convolution, by 8.
        stem_shortcut: Whether the second of the stem's three convolutions is added to its input. Not in timm's.
        dropout: Of the classifier's input, in training.
        upsample: Whether images smaller than a resolution may be enlarged to it, as NAT does with CIFAR-10.

    Raises:
        ValueError: If the lowest resolution is too small, there is no output, or no such space.

    Example:
        >>> small = {"num_classes": 10, "image_size": 32, "stem": "cifar"}
        >>> net = ElasticResNetSupernet(widths=(0.1, 0.2), ratios=(0.5, 1.0), **small).eval()
        >>> net(torch.zeros(2, 3, 32, 32), net.space.smallest).shape
        torch.Size([2, 10])
    """

    space: ElasticResNetSpace

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        resolutions: tuple[int, ...] | None = None,
        widths: tuple[float, ...] = (0.65, 0.8, 1.0),
        extra_depths: tuple[int, ...] = (0, 1, 2),
        ratios: tuple[float, ...] = (0.2, 0.25, 0.35),
        stem: Stem = "imagenet",
        stem_shortcut: bool = True,
        dropout: float = 0.0,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        check_classes(num_classes)
        shape = _shape(max(widths, default=0.0), stem)
        sizes = checked_resolutions(resolutions, image_size, _halvings(stem))
        check_image_size(min(sizes), _halvings(stem), type(self).__name__)
        self.space = ElasticResNetSpace(resolutions=sizes, widths=widths, extra_depths=extra_depths, ratios=ratios)
        self.input_shape, self.num_classes = (in_channels, max(sizes), max(sizes)), num_classes
        self.upsample = upsample
        self._stem: Stem = stem
        self.stem_shortcut = stem_shortcut
        self.settings = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "stem": stem,
            "stem_shortcut": stem_shortcut,
            "dropout": dropout,
        }

        def layer(c_in: int, c_out: int, stride: int = 1) -> ElasticConvNorm:
            return ElasticConvNorm(ElasticConv2d(c_in, c_out, 3, stride=stride), nn.ReLU())

        if stem == "cifar":
            self.stem = nn.ModuleList([layer(in_channels, shape.stem)])
        else:
            inner = shape.inner
            stem_layers = [layer(in_channels, inner, 2), layer(inner, inner), layer(inner, shape.stem)]
            self.stem = nn.ModuleList(stem_layers)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.stages = nn.ModuleList()
        c = shape.stem
        for c_out, (_, _, stride), choice in zip(shape.stages, STAGES, self.space.stages, strict=True):
            inner, stage = inner_channels(c_out, max(ratios)), nn.ModuleList()
            for row in range(choice.rows):
                first = row == 0
                stage.append(ElasticBottleneck(c, inner, c_out, stride=stride if first else 1, project=first))
                c = c_out
            self.stages.append(stage)
        self.dropout = nn.Dropout(dropout)
        self.classifier = ElasticLinear(c, num_classes)

    def run(self, x: Tensor, arch: ElasticArch) -> Tensor:
        shape = _shape(arch.width, self._stem)
        if self._stem == "cifar":
            x = self.stem[0](x, shape.stem)
        else:
            x = self.stem[0](x, shape.inner)
            y = self.stem[1](x, shape.inner)
            x = x + y if self.stem_shortcut else y
            x = self.pool(self.stem[2](x, shape.stem))
        for modules, c, names in zip(self.stages, shape.stages, arch.stages, strict=True):
            assert isinstance(modules, nn.ModuleList)
            for module, name in zip(modules, names, strict=False):  # those behind are left out
                x = self.run_cell(module, x, inner_channels(c, ratio_of(name)), c)
        logits: Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return logits

    def standalone(self, arch: ElasticArch) -> ElasticResNetNetwork:
        return ElasticResNetNetwork(arch.stages, width=arch.width, image_size=arch.resolution, **self.settings)


class ElasticResNetNetwork(ElasticNetwork):
    """A network of bottlenecks; see :class:`ElasticResNetSupernet`.

    Args:
        stages: Blocks of all layers, for each of the four stages.
        width: Multiplies the channels.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image.
        stem: See :class:`ElasticResNetSupernet`.
        stem_shortcut: See :class:`ElasticResNetSupernet`.
        dropout: Of the classifier's input, in training.

    Raises:
        ValueError: If there are not four stages with layers, a block has another name, or the image is too small.

    Example:
        >>> net = ElasticResNetNetwork([["e0.25"] * depth for depth in (3, 4, 6, 3)], stem_shortcut=False)  # ResNet-50D
        >>> sum(p.numel() for p in net.parameters())
        25576264
    """

    space_name = "elastic_resnet"

    def __init__(
        self,
        stages: Sequence[Sequence[str]],
        *,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        stem: Stem = "imagenet",
        stem_shortcut: bool = True,
        dropout: float = 0.0,
    ) -> None:
        self.init_args = arguments(locals()) | {"stages": [list(stage) for stage in stages]}
        super().__init__()
        check_classes(num_classes)
        if len(stages) != len(STAGES) or not all(stages):
            raise ValueError(f"There are {len(STAGES)} stages with a layer at least; got {stages}.")
        shape = _shape(width, stem)
        check_square(image_size)
        check_image_size(image_size, _halvings(stem), type(self).__name__)
        self.input_shape, self.num_classes = (in_channels, image_size, image_size), num_classes
        self.stem_shortcut = stem_shortcut
        self.arch = ElasticArch(image_size, width, tuple(tuple(stage) for stage in stages))

        def layer(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
            return conv_norm(nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False), nn.ReLU())

        inner = shape.inner
        if stem == "cifar":
            self.stem = nn.ModuleList([layer(in_channels, shape.stem)])
        else:
            self.stem = nn.ModuleList([layer(in_channels, inner, 2), layer(inner, inner), layer(inner, shape.stem)])
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.stages = nn.ModuleList()
        c = shape.stem
        for c_out, (_, _, stride), names in zip(shape.stages, STAGES, stages, strict=True):
            stage = nn.ModuleList()
            for row, name in enumerate(names):
                channels, first = inner_channels(c_out, ratio_of(name)), row == 0
                stage.append(Bottleneck(c, channels, c_out, stride=stride if first else 1, project=first))
                c = c_out
            self.stages.append(stage)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem[0](x)
        if len(self.stem) > 1:
            y = self.stem[1](x)
            x = x + y if self.stem_shortcut else y
            x = self.pool(self.stem[2](x))
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                x = block(x)
        logits: Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return logits
