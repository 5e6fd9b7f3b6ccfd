"""The SqueezeNAS space for semantic segmentation (Shaw et al., 2019, arXiv:1908.01748): 13 candidates in every layer.

Skeletons, candidates and published networks follow the authors' code (ashaw596/squeezenas). An encoder of inverted
residuals ends at a sixteenth of the resolution; its last stages keep theirs, and dilation is the search's to choose.
The head is LR-ASPP (MobileNetV3, arXiv:1905.02244, section 6.4), which also reads the last layer at an eighth.

Batch normalisation has learnable scales in the supernet too, as the authors' has: every candidate starts at the same
scale, but nothing holds it there, and a candidate can trade its scale for its edge weight.

What differs from the authors: the head pools the whole image instead of windows of 49 pixels, so that it works at any
size; logits are enlarged with ``align_corners=False``; a width other than 1 also scales stem and head.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, TypedDict, cast

from torch import Tensor, nn
from torch.nn import functional as F

from .base import (
    OperationSupernet,
    Subnet,
    arguments,
    check_classes,
    check_image_size,
    image_shape,
    inherit_weights,
)
from .execution import ChainPlan
from .mixed_op import MixedOp
from .ops import DilatedDepthwise, FactorizedReduce, Zero, relu_conv_bn
from .space import ArchGraph, Choice, SearchSpace, SubnetConfig

Macro: TypeAlias = Literal["small", "large"]

SKIP = "skip_connect"
# k: kernel, e: expansion of the channels, g: groups of the 1x1 convolutions, d: dilation
CANDIDATES = (
    *(f"k{kernel}_{rest}" for kernel in (3, 5) for rest in ("e1", "e1_g2", "e3", "e6")),
    *(f"k3_{rest}_d2" for rest in ("e1", "e1_g2", "e3", "e6")),
    SKIP,
)

# Of each stage: channels, layers, stride of the first layer.
STAGES: dict[Macro, tuple[tuple[int, int, int], ...]] = {
    "small": ((16, 4, 2), (24, 4, 2), (40, 4, 2), (48, 4, 1), (96, 4, 1)),
    "large": ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (96, 4, 1), (160, 4, 1), (160, 1, 1)),
}
_STEM, _MID = 16, 128
_LAST: dict[Macro, int] = {"small": 256, "large": 0}  # channels of a last 1x1 convolution; 0 is none

# The published networks with this head, and the skeleton of each: authors' code, nets.py. "lat" was searched for low
# latency, "mac" for few MACs.
SQUEEZENAS: dict[str, tuple[Macro, tuple[str, ...]]] = {
    "squeezenas_mac_small": (
        "small",
        (
            *("k3_e1_g2", "k3_e1", "k3_e1", "k3_e1_g2", "k5_e6", "k3_e1", "k3_e1", "k3_e1_g2_d2", "k5_e6", "k3_e6_d2"),
            *(SKIP, "k3_e1_g2", "k5_e6", "k3_e3_d2", "k3_e1_d2", "k3_e1_d2", "k3_e6_d2"),
            *("k3_e1_g2_d2", "k3_e1_g2_d2", "k3_e1_g2_d2"),
        ),
    ),
    "squeezenas_lat_small": (
        "small",
        (
            *("k3_e1", SKIP, SKIP, SKIP, "k3_e6", "k3_e6", SKIP, SKIP, "k5_e6", "k3_e6_d2", "k5_e1_g2", "k3_e1_g2"),
            *("k3_e6_d2", "k3_e6_d2", "k3_e6_d2", "k3_e1_d2", "k3_e6_d2", "k3_e3_d2", "k3_e3_d2", "k3_e3_d2"),
        ),
    ),
    "squeezenas_mac_large": (
        "large",
        (
            *("k3_e1_g2", "k3_e6", "k3_e1_g2_d2", "k3_e1_g2", "k3_e1_g2", "k5_e6", "k5_e6", "k3_e6_d2", "k5_e6"),
            *("k5_e6", "k5_e6", "k5_e1", "k3_e3", "k5_e6", "k3_e1", "k5_e1", "k3_e3_d2", "k3_e6_d2"),
            *("k3_e1_g2_d2", "k3_e1_g2_d2", "k3_e1_g2_d2", "k3_e1_d2"),
        ),
    ),
    "squeezenas_lat_large": (
        "large",
        (
            *(SKIP, "k3_e6", "k3_e3", "k3_e1_d2", "k3_e3", "k5_e6", "k3_e6", "k3_e3", "k3_e6_d2", "k5_e6", "k5_e1"),
            *("k5_e1", "k5_e1_g2", "k3_e6_d2", "k3_e6_d2", "k3_e6_d2", "k3_e1"),
            *("k3_e6_d2", "k3_e6_d2", "k3_e6_d2", "k3_e6_d2", "k3_e6_d2"),
        ),
    ),
}


class Layer(TypedDict):
    """Shape of one layer of the encoder."""

    in_channels: int
    out_channels: int
    stride: int


def segmentation_space(macro: Macro = "small", layers_per_stage: int = 4) -> SearchSpace:
    """One decision for every layer of the encoder.

    Args:
        macro: Skeleton of the paper, 20 or 22 layers.
        layers_per_stage: Most layers in a stage; the paper has 4.

    Example:
        >>> space = segmentation_space()
        >>> space.size == 13**20
        True
    """
    return SearchSpace(
        f"squeezenas_{macro}", (Choice("layer", CANDIDATES, rows=len(_layers(macro, layers_per_stage))),)
    )


def _scaled(channels: int, width: float) -> int:
    """To an even number, which halves and groups need."""
    return max(2, 2 * round(channels * width / 2))


def _layers(macro: Macro, layers_per_stage: int, width: float = 1.0) -> list[Layer]:
    if macro not in STAGES:
        raise ValueError(f"macro is one of {tuple(STAGES)}; got {macro!r}.")
    if layers_per_stage < 1:
        raise ValueError(f"A stage has at least one layer; got layers_per_stage={layers_per_stage}.")
    if not width > 0:
        raise ValueError(f"width scales all channels and must be positive; got {width}.")
    layers: list[Layer] = []
    channels = _scaled(_STEM, width)
    for wanted, repeats, stride in STAGES[macro]:
        for number in range(min(repeats, layers_per_stage)):
            out = _scaled(wanted, width)
            layers.append(Layer(in_channels=channels, out_channels=out, stride=1 if number else stride))
            channels = out
    return layers


class MBConv(nn.Module):
    """Inverted residual without the residual: 1x1 convolution, depthwise convolution, linear 1x1 convolution.

    MobileNetV2 (arXiv:1801.04381) with ReLU, and with groups in the 1x1 convolutions. Unlike there, an expansion of 1
    keeps its first convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        kernel: int,
        expansion: int,
        groups: int,
        dilation: int,
    ) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.expand = _conv_bn_relu(in_channels, hidden, groups)
        self.depthwise = (
            DilatedDepthwise(hidden, kernel, stride=stride)
            if dilation == 2
            else nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        )
        self.norm = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, out_channels, 1, groups=groups, bias=False)
        self.last_norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, C_out, ceil(H / stride), ceil(W / stride)]``."""
        x = F.relu(self.norm(self.depthwise(self.expand(x))))
        out: Tensor = self.last_norm(self.project(x))
        return out


def _conv_bn_relu(in_channels: int, out_channels: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def _candidate(name: str, layer: Layer) -> nn.Module:
    """A candidate of a layer; what a residual connection adds anyway, ``skip_connect`` leaves to it."""
    c_in, c_out, stride = layer["in_channels"], layer["out_channels"], layer["stride"]
    if name == SKIP:
        if _is_residual(layer):
            return Zero(1)
        return relu_conv_bn(c_in, c_out, 1, 1) if stride == 1 else FactorizedReduce(c_in, c_out)
    match = re.fullmatch(r"k(\d)_e(\d)(?:_g(\d))?(?:_d(\d))?", name)
    assert match is not None
    kernel, expansion, groups, dilation = (int(number or 1) for number in match.groups())
    return MBConv(c_in, c_out, stride, kernel=kernel, expansion=expansion, groups=groups, dilation=dilation)


def _is_residual(layer: Layer) -> bool:
    return layer["stride"] == 1 and layer["in_channels"] == layer["out_channels"]


class SearchLayer(nn.Module):
    """All candidates of a layer, and the residual connection where the shape stays."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.mixed = MixedOp(_candidate(name, layer) for name in CANDIDATES)
        self.residual = _is_residual(layer)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """``[B, C_in, H, W]`` under candidate weights ``[O]`` -> ``[B, C_out, H', W']``."""
        y: Tensor = self.mixed(x, weights)
        return x + y if self.residual else y


class NetworkLayer(nn.Module):
    """One candidate of a layer, and the residual connection where the shape stays."""

    def __init__(self, name: str, layer: Layer) -> None:
        super().__init__()
        nothing = name == SKIP and _is_residual(layer)
        self.op = nn.Identity() if nothing else _candidate(name, layer)
        self.residual = _is_residual(layer) and not nothing

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, C_out, H', W']``."""
        y: Tensor = self.op(x)
        return x + y if self.residual else y


class LRASPP(nn.Module):
    """Lite reduced atrous spatial pyramid pooling (MobileNetV3, arXiv:1905.02244, section 6.4 and figure 10).

    Args:
        high: Channels of the features at the lowest resolution.
        low: Channels of the features at twice that resolution.
        mid: Channels in between.
        num_classes: Number of logits of a pixel.
    """

    def __init__(self, high: int, low: int, mid: int, num_classes: int) -> None:
        super().__init__()
        self.features = _conv_bn_relu(high, mid)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(high, mid, 1), nn.Sigmoid())
        self.high_classifier = nn.Conv2d(mid, num_classes, 1)
        self.low_classifier = nn.Conv2d(low, num_classes, 1)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """``[B, C_high, H / 2, W / 2]`` and ``[B, C_low, H, W]`` -> logits ``[B, classes, H, W]``."""
        x = self.features(high) * self.gate(high)
        x = F.interpolate(x, size=low.shape[2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.high_classifier(x) + self.low_classifier(low)
        return logits


class _Skeleton(nn.Module):
    """Stem, layers, head: what supernet and network have in common."""

    def __init__(
        self,
        layer: Callable[[int, Layer], nn.Module],
        *,
        macro: Macro,
        layers_per_stage: int,
        width: float,
        num_classes: int,
        in_channels: int,
        image_size: int | tuple[int, int],
    ) -> None:
        super().__init__()
        check_classes(num_classes)
        layers = _layers(macro, layers_per_stage, width)
        check_image_size(image_size, 4, "The encoder")
        stem = layers[0]["in_channels"]
        self.stem = nn.Sequential(nn.Conv2d(in_channels, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.layers = nn.ModuleList(layer(number, shape) for number, shape in enumerate(layers))
        high, last = layers[-1]["out_channels"], _LAST[macro]
        self.last: nn.Module = _conv_bn_relu(high, _scaled(last, width)) if last else nn.Identity()
        high = _scaled(last, width) if last else high
        # The last layer at an eighth of the resolution: the one before the last stride.
        self.low = max(number for number, shape in enumerate(layers) if shape["stride"] == 2) - 1
        self.head = LRASPP(high, layers[self.low]["out_channels"], _scaled(_MID, width), num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as the authors start
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def run(self, x: Tensor, layer: Callable[[int, nn.Module, Tensor], Tensor]) -> Tensor:
        """Images ``[B, C, H, W]`` -> logits ``[B, classes, H, W]``; ``layer`` runs one of the layers."""
        size, low = x.shape[2:], x
        x = self.stem(x)
        for number, module in enumerate(self.layers):
            x = layer(number, module, x)
            low = x if number == self.low else low
        return F.interpolate(self.head(self.last(x), low), size=size, mode="bilinear", align_corners=False)


class SegmentationSupernet(OperationSupernet):
    """All encoders of the space at once.

    Args:
        macro: Skeleton of the paper: 20 layers, or 22 wider ones.
        layers_per_stage: Most layers in a stage; the paper has 4.
        width: Factor of all numbers of channels, which become even.
        num_classes: Number of logits of a pixel.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both; the network itself takes others, too.

    Raises:
        ValueError: If an argument is out of its range, or the image too small for four reductions.

    Example:
        >>> import torch
        >>> net = SegmentationSupernet(layers_per_stage=1, width=0.25, num_classes=4, image_size=32)
        >>> net(torch.zeros(2, 3, 32, 32), net.one_hot(net.space.sample(0))).shape
        torch.Size([2, 4, 32, 32])
    """

    default_task = "segmentation"

    def __init__(
        self,
        *,
        macro: Macro = "small",
        layers_per_stage: int = 4,
        width: float = 1.0,
        num_classes: int = 19,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 512,
    ) -> None:
        self._settings = arguments(locals())
        super().__init__()
        self.num_classes, self.input_shape = num_classes, image_shape(in_channels, image_size)
        self.body = _Skeleton(lambda _, layer: SearchLayer(layer), **self._settings)
        self.space = segmentation_space(macro, layers_per_stage)

    def forward(self, x: Tensor, arch: Mapping[str, Tensor]) -> Tensor:
        """Run under edge weights.

        Args:
            x: Images, ``[B, C, H, W]``.
            arch: ``{"layer": [R, O]}``.

        Returns:
            Logits, ``[B, classes, H, W]``.
        """
        self.check_arch(arch)
        return self.body.run(x, lambda number, layer, x: self.run_cell(layer, x, arch["layer"][number]))

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> SegmentationNetwork:
        self.space.validate(config)
        net = self.prepare(SegmentationNetwork([str(pick) for pick in config["layer"]], **self._settings), config)
        if inherit:
            for part in ("stem", "last", "head"):
                inherit_weights(net.body.get_submodule(part), self.body.get_submodule(part))
            for layer, mine, pick in zip(net.body.layers, self._search_layers, config["layer"], strict=True):
                inherit_weights(cast(NetworkLayer, layer).op, mine.mixed.ops[CANDIDATES.index(str(pick))])
        return net

    @property
    def _search_layers(self) -> list[SearchLayer]:
        return [cast(SearchLayer, layer) for layer in self.body.layers]

    def mixed_ops(self) -> dict[str, list[list[MixedOp]]]:
        return {"layer": [[layer.mixed] for layer in self._search_layers]}

    def picked_ops(self, network: Subnet) -> list[list[nn.Module]]:
        assert isinstance(network, SegmentationNetwork)
        return [[layer] for layer in network.body.layers]

    def execution_plan(self, network: Subnet) -> ChainPlan:
        return ChainPlan()


class SegmentationNetwork(Subnet):
    """One encoder of the space with its head.

    Args:
        layers: Candidate of every layer, see ``CANDIDATES``.
        macro: Skeleton of the paper: 20 layers, or 22 wider ones.
        layers_per_stage: Most layers in a stage; the paper has 4.
        width: Factor of all numbers of channels, which become even.
        num_classes: Number of logits of a pixel.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both; the network itself takes others, too.

    Raises:
        ValueError: If the layers are not those of the space, or an argument is out of its range.
    """

    default_task = "segmentation"

    def __init__(
        self,
        layers: Sequence[str],
        *,
        macro: Macro = "small",
        layers_per_stage: int = 4,
        width: float = 1.0,
        num_classes: int = 19,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 512,
    ) -> None:
        settings = arguments(locals(), "layers")
        super().__init__()
        self.num_classes, self.input_shape = num_classes, image_shape(in_channels, image_size)
        self._space = segmentation_space(macro, layers_per_stage)
        self.config = SubnetConfig(self._space.name, {"layer": layers})
        self._space.validate(self.config)
        self.init_args = {"layers": list(layers), **settings}
        self.body = _Skeleton(lambda number, layer: NetworkLayer(layers[number], layer), **settings)

    @classmethod
    def published(
        cls, name: str, *, num_classes: int = 19, in_channels: int = 3, image_size: int | tuple[int, int] = 512
    ) -> SegmentationNetwork:
        """A network of the paper, with new weights.

        Args:
            name: A key of ``SQUEEZENAS``.
            num_classes: Number of logits of a pixel.
            in_channels: Channels of an image.
            image_size: Height and width of an image, or one number for both.

        Raises:
            ValueError: If there is none of that name.
        """
        if name not in SQUEEZENAS:
            raise ValueError(f"Published are {', '.join(SQUEEZENAS)}; got {name!r}.")
        macro, layers = SQUEEZENAS[name]
        return cls(layers, macro=macro, num_classes=num_classes, in_channels=in_channels, image_size=image_size)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, classes, H, W]``."""
        return self.body.run(x, lambda _, layer, x: layer(x))

    def graphs(self) -> list[ArchGraph]:
        assert self.config is not None
        return self._space.graphs(self.config)
