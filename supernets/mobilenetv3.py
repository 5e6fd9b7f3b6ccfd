"""The elastic MobileNetV3 of once-for-all (Cai et al., ICLR 2020, arXiv:1908.09791), in which NAT searches.

Five stages of two to four inverted residuals, each with a kernel and an expansion to choose; MobileNetV3-Large
(arXiv:1905.02244) gives the channels, strides, h-swish and squeeze-and-excitation. Skeleton and blocks follow the
authors' code (mit-han-lab/once-for-all). Their two widths, 1.0 and 1.2, are two supernets; here the channels of a
narrower network are the first ones of the widest, as those of its blocks are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from .base import arguments, check_classes, check_image_size
from .chain import Layer, layers_of, make_divisible, scale_stages
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
    ElasticDepthwise,
    ElasticLinear,
    ElasticSqueezeExcitation,
    SqueezeExcitation,
    by_importance,
    conv_norm,
    permute_inputs,
    permute_outputs,
)

STEM_CHANNELS, FIRST_CHANNELS, EXPAND_CHANNELS, FEATURES = 16, 16, 960, 1280
STAGES = ((24, 2), (40, 2), (80, 2), (112, 1), (160, 2))  # channels and stride of the first layer
SE_STAGES, RELU_STAGES = (1, 3, 4), (0, 1)  # which have squeeze-and-excitation; ReLU, the others h-swish

Stem = Literal["imagenet", "cifar"]


class Block(NamedTuple):
    """What is chosen in a layer.

    Args:
        kernel: Size of the depthwise convolution.
        expansion: Inner channels per input channel.
    """

    kernel: int
    expansion: int

    def __str__(self) -> str:
        return f"k{self.kernel}_e{self.expansion}"

    @classmethod
    def parse(cls, name: str) -> Block:
        """Inverse of ``str``.

        Raises:
            ValueError: If it is no such name.
        """
        kernel, found, expansion = name.removeprefix("k").partition("_e")
        if not (name.startswith("k") and found and kernel.isdecimal() and expansion.isdecimal()):
            raise ValueError(f"A block is named for its kernel and its expansion, as 'k3_e6'; got {name!r}.")
        return cls(int(kernel), int(expansion))


@dataclass(frozen=True, init=False)
class MobileNetV3Space(ElasticSpace):
    """Resolution, width, and in each of five stages up to four layers with a kernel and an expansion.

    With two widths it is the encoding of NAT: 22 integers.

    Args:
        resolutions: Sizes of the images.
        widths: Multipliers of the channels.
        depths: Numbers of layers a stage can have, consecutive.
        kernels: Sizes of the depthwise convolutions, odd.
        expansions: Inner channels per input channel.

    Raises:
        ValueError: If depths leave one out, or there is nothing to choose from.

    Example:
        >>> space = MobileNetV3Space(resolutions=range(192, 257, 4), widths=(1.0, 1.2))
        >>> space.num_genes, f"{space.size:.1e}"
        (22, '7.4e+20')
    """

    def __init__(
        self,
        *,
        resolutions: Sequence[int] = default_resolutions(224, 5),
        widths: Sequence[float] = (1.0,),
        depths: Sequence[int] = (2, 3, 4),
        kernels: Sequence[int] = (3, 5, 7),
        expansions: Sequence[int] = (3, 4, 6),
    ) -> None:
        for name, numbers in (("depths", depths), ("kernels", kernels), ("expansions", expansions)):
            if not numbers or min(numbers) < 1:
                raise ValueError(f"{name} are whole numbers from 1 on, at least one; got {tuple(numbers)}.")
        check_depths(depths)
        blocks = [str(Block(k, e)) for e in sorted(set(expansions)) for k in sorted(set(kernels))]
        choices = elastic_choices(resolutions, widths, blocks, [max(depths)] * len(STAGES))
        super().__init__("mobilenetv3", choices, (min(depths),) * len(STAGES))

    def from_lists(
        self, *, ks: Sequence[int], e: Sequence[int], d: Sequence[int], r: int, w: float = 1.0
    ) -> ElasticArch:
        """An architecture as once-for-all and NAT write it; see :meth:`ElasticSpace.config`.

        Args:
            ks: Kernels, of all rows (20) or of the layers there are.
            e: Expansions, likewise.
            d: Depth of every stage.
            r: Resolution.
            w: Width.

        Raises:
            ValueError: If the lists have other lengths.
        """
        rows = [stage.rows for stage in self.stages]
        if len(d) != len(rows) or len(ks) != len(e) or len(ks) not in (sum(d), sum(rows)):
            raise ValueError(
                f"There are depths d of {len(rows)} stages, and as many kernels ks and expansions e as layers "
                f"({sum(d)}) or rows ({sum(rows)}); got {len(d)}, {len(ks)} and {len(e)}."
            )
        blocks = iter([str(Block(*pair)) for pair in zip(ks, e, strict=True)])
        taken = [[next(blocks) for _ in range(n)] for n in (d if len(ks) == sum(d) else rows)]
        return ElasticArch(r, w, tuple(tuple(own[:n]) for own, n in zip(taken, d, strict=True)))


class _Shape(NamedTuple):
    """Channels and layers of a width."""

    stem: int
    stem_stride: int
    first: int
    stages: list[list[Layer]]
    expand: int
    features: int

    @property
    def halvings(self) -> int:
        return [self.stem_stride, *(layer.stride for stage in self.stages for layer in stage)].count(2)


def _shape(width: float, depths: Sequence[int], stem: Stem) -> _Shape:
    stages = [(channels, depth, stride) for (channels, stride), depth in zip(STAGES, depths, strict=True)]
    stride, scaled = scale_stages(stages, width, stem)
    first = make_divisible(width * FIRST_CHANNELS)
    layers = iter(layers_of(first, scaled))
    return _Shape(
        make_divisible(width * STEM_CHANNELS),
        stride,
        first,
        [[next(layers) for _ in range(depth)] for depth in depths],
        make_divisible(width * EXPAND_CHANNELS),
        make_divisible(width * FEATURES),
    )


def _activation(stage: int) -> Callable[[], nn.Module]:
    return nn.ReLU if stage in RELU_STAGES else nn.Hardswish


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, squeeze and excite, project; plus the input, where the shape stays.

    Args:
        layer: Channels and stride.
        kernel: Size of the depthwise convolution.
        channels: Channels inside; where they are those of the input and ``expand`` is false, nothing expands.
        act: Builds an activation.
        excite: Whether there is squeeze-and-excitation.
        expand: Whether there is a first convolution.
    """

    def __init__(
        self,
        layer: Layer,
        kernel: int,
        channels: int,
        *,
        act: Callable[[], nn.Module],
        excite: bool = False,
        expand: bool = True,
    ) -> None:
        super().__init__()
        c = channels
        depthwise = nn.Conv2d(c, c, kernel, layer.stride, padding=kernel // 2, groups=c, bias=False)
        self.expand = conv_norm(nn.Conv2d(layer.in_channels, c, 1, bias=False), act()) if expand else None
        self.depthwise = conv_norm(depthwise, act())
        self.se = SqueezeExcitation(c) if excite else None
        self.project = conv_norm(nn.Conv2d(c, layer.out_channels, 1, bias=False))
        self.shortcut = layer.keeps_shape

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, C_out, ceil(H / stride), ceil(W / stride)]``."""
        inner = self.depthwise(x if self.expand is None else self.expand(x))
        y: Tensor = self.project(inner if self.se is None else self.se(inner))
        return x + y if self.shortcut else y


class ElasticInvertedResidual(ElasticBlock):
    """:class:`InvertedResidual` of any kernel, expansion and width up to its largest.

    Args:
        layer: Most channels, and the stride.
        kernels: Sizes of the depthwise convolution.
        channels: Most channels inside.
        act: Builds an activation.
        excite: Whether there is squeeze-and-excitation.
        expand: Whether there is a first convolution.
        transform: See :class:`~.elastic_layers.ElasticDepthwise`.
    """

    def __init__(
        self,
        layer: Layer,
        kernels: Sequence[int],
        channels: int,
        *,
        act: Callable[[], nn.Module],
        excite: bool = False,
        expand: bool = True,
        transform: bool = True,
    ) -> None:
        super().__init__()
        depthwise = ElasticDepthwise(channels, kernels, stride=layer.stride, transform=transform)
        self.expand = ElasticConvNorm(ElasticConv2d(layer.in_channels, channels), act()) if expand else None
        self.depthwise = ElasticConvNorm(depthwise, act())
        self.se = ElasticSqueezeExcitation(channels) if excite else None
        self.project = ElasticConvNorm(ElasticConv2d(channels, layer.out_channels))

    def forward(self, x: Tensor, layer: Layer, kernel: int, channels: int) -> Tensor:
        """``[B, C_in, H, W] -> [B, C_out, ceil(H / stride), ceil(W / stride)]`` with the shape of ``layer``."""
        inner = self.depthwise(x if self.expand is None else self.expand(x, channels), kernel)
        y: Tensor = self.project(inner if self.se is None else self.se(inner), layer.out_channels)
        return x + y if layer.keeps_shape else y

    def sort_channels(self) -> None:
        """Those inside of squeeze-and-excitation, too. A block that does not expand stays as it is."""
        if self.expand is None:
            return
        with torch.no_grad():
            order = by_importance(self.project.conv.weight)
            permute_inputs(self.project.conv, order)
            for part in (self.expand, self.depthwise):
                permute_outputs(part, order)
            if self.se is not None:
                permute_inputs(self.se.reduce, order)
                permute_outputs(self.se.expand, order)
                order = by_importance(self.se.expand.weight)
                permute_inputs(self.se.expand, order)
                permute_outputs(self.se.reduce, order)


class MobileNetV3Supernet(ElasticSupernet):
    """Shared weights of all architectures of a :class:`MobileNetV3Space`.

    Narrow networks for small images are a matter of ``widths``, such as ``(0.35, 0.5)``.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, where the default ``resolutions`` come from; otherwise not read.
        resolutions: See :class:`MobileNetV3Space`; by default up to five from a half of ``image_size`` on.
        widths: See :class:`MobileNetV3Space`.
        depths: See :class:`MobileNetV3Space`.
        kernels: See :class:`MobileNetV3Space`.
        expansions: See :class:`MobileNetV3Space`.
        stem: ``"imagenet"`` divides the resolution by 32 in all, ``"cifar"`` by 8.
        kernel_transform: See :class:`~.elastic_layers.ElasticDepthwise`.
        dropout: Of the classifier's input, in training.
        upsample: Whether images smaller than a resolution may be enlarged to it, as NAT does with CIFAR-10.

    Raises:
        ValueError: If the lowest resolution is too small, there is no output, or no such space.

    Example:
        >>> net = MobileNetV3Supernet(num_classes=10, image_size=32, widths=(0.25, 0.5), stem="cifar").eval()
        >>> net.space["resolution"].candidates
        (16, 20, 24, 28, 32)
        >>> x = torch.zeros(2, 3, 32, 32)
        >>> net(x, net.space.smallest).shape, net.extract(net.space.smallest).input_shape
        (torch.Size([2, 10]), (3, 16, 16))
    """

    space: MobileNetV3Space

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        resolutions: tuple[int, ...] | None = None,
        widths: tuple[float, ...] = (1.0,),
        depths: tuple[int, ...] = (2, 3, 4),
        kernels: tuple[int, ...] = (3, 5, 7),
        expansions: tuple[int, ...] = (3, 4, 6),
        stem: Stem = "imagenet",
        kernel_transform: bool = True,
        dropout: float = 0.1,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        check_classes(num_classes)
        shape = _shape(max(widths, default=0.0), [max(depths, default=0)] * len(STAGES), stem)
        sizes = checked_resolutions(resolutions, image_size, shape.halvings)
        check_image_size(min(sizes), shape.halvings, type(self).__name__)
        self.space = MobileNetV3Space(
            resolutions=sizes, widths=widths, depths=depths, kernels=kernels, expansions=expansions
        )
        self.input_shape, self.num_classes = (in_channels, max(sizes), max(sizes)), num_classes
        self.upsample = upsample
        self._stem: Stem = stem
        self.settings = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "stem": stem,
            "dropout": dropout,
        }

        conv = ElasticConv2d(in_channels, shape.stem, 3, stride=shape.stem_stride)
        self.stem = ElasticConvNorm(conv, nn.Hardswish())
        self.first = ElasticInvertedResidual(
            Layer(shape.stem, shape.first), (3,), shape.stem, act=nn.ReLU, expand=False
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(
                ElasticInvertedResidual(
                    layer,
                    kernels,
                    make_divisible(layer.in_channels * max(expansions)),
                    act=_activation(index),
                    excite=index in SE_STAGES,
                    transform=kernel_transform,
                )
                for layer in layers
            )
            for index, layers in enumerate(shape.stages)
        )
        last = shape.stages[-1][-1].out_channels
        self.expand = ElasticConvNorm(ElasticConv2d(last, shape.expand), nn.Hardswish())
        self.mix = ElasticConv2d(shape.expand, shape.features)
        self.act, self.dropout = nn.Hardswish(), nn.Dropout(dropout)
        self.classifier = ElasticLinear(shape.features, num_classes)

    def run(self, x: Tensor, arch: ElasticArch) -> Tensor:
        shape = _shape(arch.width, [len(stage) for stage in arch.stages], self._stem)
        x = self.stem(x, shape.stem)
        x = self.first(x, Layer(shape.stem, shape.first), 3, shape.stem)
        for modules, layers, names in zip(self.stages, shape.stages, arch.stages, strict=True):
            assert isinstance(modules, nn.ModuleList)
            for module, layer, name in zip(modules, layers, names, strict=False):  # those behind are left out
                kernel, expansion = Block.parse(name)
                x = self.run_cell(module, x, layer, kernel, make_divisible(layer.in_channels * expansion))
        x = self.expand(x, shape.expand).mean((2, 3), keepdim=True)
        x = self.act(self.mix(x, shape.features))
        logits: Tensor = self.classifier(self.dropout(x.flatten(1)))
        return logits

    def standalone(self, arch: ElasticArch) -> MobileNetV3Network:
        return MobileNetV3Network(arch.stages, width=arch.width, image_size=arch.resolution, **self.settings)


class MobileNetV3Network(ElasticNetwork):
    """A network of inverted residuals; see :class:`MobileNetV3Supernet`.

    Args:
        stages: Blocks of all layers, for each of the five stages.
        width: Multiplies the channels.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image.
        stem: See :class:`MobileNetV3Supernet`.
        dropout: Of the classifier's input, in training.

    Raises:
        ValueError: If there are not five stages with layers, a block has another name, or the image is too small.

    Example:
        >>> net = MobileNetV3Network([["k7_e6"] * 4] * 5)
        >>> sum(p.numel() for p in net.parameters())
        7664760
    """

    space_name = "mobilenetv3"

    def __init__(
        self,
        stages: Sequence[Sequence[str]],
        *,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        stem: Stem = "imagenet",
        dropout: float = 0.1,
    ) -> None:
        self.init_args = arguments(locals()) | {"stages": [list(stage) for stage in stages]}
        super().__init__()
        check_classes(num_classes)
        if len(stages) != len(STAGES) or not all(stages):
            raise ValueError(f"There are {len(STAGES)} stages with a layer at least; got {stages}.")
        shape = _shape(width, [len(stage) for stage in stages], stem)
        check_square(image_size)
        check_image_size(image_size, shape.halvings, type(self).__name__)
        self.input_shape, self.num_classes = (in_channels, image_size, image_size), num_classes
        self.arch = ElasticArch(image_size, width, tuple(tuple(stage) for stage in stages))

        conv = nn.Conv2d(in_channels, shape.stem, 3, shape.stem_stride, padding=1, bias=False)
        self.stem = conv_norm(conv, nn.Hardswish())
        self.first = InvertedResidual(Layer(shape.stem, shape.first), 3, shape.stem, act=nn.ReLU, expand=False)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                InvertedResidual(
                    layer,
                    block.kernel,
                    make_divisible(layer.in_channels * block.expansion),
                    act=_activation(index),
                    excite=index in SE_STAGES,
                )
                for layer, block in zip(layers, map(Block.parse, names), strict=True)
            )
            for index, (layers, names) in enumerate(zip(shape.stages, stages, strict=True))
        )
        last = shape.stages[-1][-1].out_channels
        self.expand = conv_norm(nn.Conv2d(last, shape.expand, 1, bias=False), nn.Hardswish())
        self.mix = nn.Conv2d(shape.expand, shape.features, 1, bias=False)
        self.act, self.dropout = nn.Hardswish(), nn.Dropout(dropout)
        self.classifier = nn.Linear(shape.features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        for layers in self.stages:
            assert isinstance(layers, nn.ModuleList)
            for layer in layers:
                x = layer(x)
        x = self.expand(x).mean((2, 3), keepdim=True)
        logits: Tensor = self.classifier(self.dropout(self.act(self.mix(x)).flatten(1)))
        return logits
