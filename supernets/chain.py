"""Chains of layers, the common part of the macro spaces: a stem, layers with a block to choose in each, a head.

The shortcut of a block is part of the candidate, so a layer is the sum of whole blocks, as FBNet has it
(arXiv:1812.03443, equation 5). ProxylessNAS's code adds one shortcut beside the mixture instead, which is the same
for weights that sum to 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from torch import Tensor, nn

from .base import OperationSupernet, Subnet, check_classes, check_image_size, image_shape, inherit_weights
from .execution import ChainPlan
from .mixed_op import MixedOp
from .ops import Pointwise
from .space import ArchGraph, Choice, SearchSpace, SubnetConfig


@dataclass(frozen=True)
class ChainSpace(SearchSpace):
    """A space of chains: the choices, row by row, decide about the layers in their order.

    Genes are therefore in the order of the layers, too.
    """

    def operations(self, config: SubnetConfig) -> tuple[str, ...]:
        """The picks of all layers, first to last."""
        self.validate(config)
        return tuple(str(pick) for choice in self.choices for pick in config[choice.name])

    def from_operations(self, operations: Sequence[str]) -> SubnetConfig:
        """Inverse of :meth:`operations`.

        Raises:
            ValueError: If there is not one candidate for every layer.
        """
        if len(operations) != self.num_genes:
            raise ValueError(
                f"A chain of space {self.name!r} must have {self.num_genes} layers; got {len(operations)} picks."
            )
        picks, rest = {}, list(operations)
        for choice in self.choices:
            picks[choice.name], rest = rest[: choice.rows], rest[choice.rows :]
        config = SubnetConfig(self.name, picks)
        self.validate(config)
        return config


@dataclass(frozen=True)
class EqualLayers(ChainSpace):
    """A space of chains whose layers all have the same candidates: choice ``layers``. Subclasses have the defaults.

    Args:
        name: Name of the space.
        layers: Number of layers.
        candidates: What a layer can be.

    Raises:
        ValueError: If there is no layer, no candidate, or one twice.
    """

    name: str
    choices: tuple[Choice, ...] = field(init=False)
    layers: int
    candidates: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"A chain must have at least one layer; got layers={self.layers}.")
        object.__setattr__(self, "candidates", tuple(self.candidates))
        object.__setattr__(self, "choices", (Choice("layers", self.candidates, rows=self.layers),))
        super().__post_init__()


@dataclass(frozen=True)
class Layer:
    """What a layer makes of the shape of its input, whatever block it holds.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        stride: 1 keeps the resolution, 2 halves it.
    """

    in_channels: int
    out_channels: int
    stride: int = 1

    @property
    def keeps_shape(self) -> bool:
        """Whether input and output have one shape, so that the input can be added or passed on."""
        return self.stride == 1 and self.in_channels == self.out_channels


def layers_of(in_channels: int, stages: Iterable[tuple[int, int, int]]) -> list[Layer]:
    """Layers of stages ``(channels, depth, stride)``; the first of a stage changes the channels and has the stride.

    Example:
        >>> [layer.stride for layer in layers_of(8, [(16, 2, 2), (32, 3, 1)])]
        [2, 1, 1, 1, 1]
    """
    layers = []
    for channels, depth, stride in stages:
        for index in range(depth):
            layers.append(Layer(in_channels, channels, 1 if index else stride))
            in_channels = channels
    return layers


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor``, one up where that would lose more than a tenth (MobileNetV2's code).

    Example:
        >>> make_divisible(0.5 * 24), make_divisible(0.35 * 32), make_divisible(1)
        (16, 16, 8)
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def scale_stages(
    stages: Iterable[tuple[int, int, int]], width: float, stem: Literal["imagenet", "cifar"]
) -> tuple[int, list[tuple[int, int, int]]]:
    """Fit the stages of a network for ImageNet to a width and to the size of images.

    For small images the stem and the first stage with a stride keep the resolution (as HW-NAS-Bench does with FBNet,
    arXiv:2103.10584), so that it is divided by 8 instead of 32.

    Args:
        stages: ``(channels, depth, stride)``.
        width: Multiplies the channels.
        stem: ``"imagenet"`` or ``"cifar"``.

    Returns:
        The stride of the stem, and the stages.

    Raises:
        ValueError: If the width is not positive or the stem unknown.

    Example:
        >>> scale_stages([(16, 1, 1), (24, 4, 2), (32, 4, 2)], 2.0, "cifar")
        (1, [(32, 1, 1), (48, 4, 1), (64, 4, 2)])
    """
    if not width > 0:
        raise ValueError(f"width multiplies the channels and must be above 0; got {width}.")
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"stem must be 'imagenet' or 'cifar'; got {stem!r}.")
    scaled = [(make_divisible(width * channels), depth, stride) for channels, depth, stride in stages]
    if stem == "imagenet":
        return 2, scaled
    first = next(i for i, (_, _, stride) in enumerate(scaled) if stride == 2)
    return 1, [(c, depth, 1 if i == first else stride) for i, (c, depth, stride) in enumerate(scaled)]


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
    affine: bool = True,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Convolution without bias, batch normalisation, activation; keeps the resolution at stride 1."""
    conv = (
        Pointwise(in_channels, out_channels, stride=stride)
        if kernel == 1
        else nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    )
    norm = nn.BatchNorm2d(out_channels, affine=affine, eps=eps)
    return nn.Sequential(conv, norm) if activation is None else nn.Sequential(conv, norm, activation())


class ChannelShuffle(nn.Module):
    """Deal the channels of ``groups`` groups out in turn, so that the next groups see all (arXiv:1707.01083, 3.1)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C, H, W]``."""
        b, c, h, w = x.shape
        return x.reshape(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class MBConv(nn.Module):
    """Inverted residual block (MobileNetV2, arXiv:1801.04381, section 3): expand, depthwise, project.

    The input is added where the layer keeps its shape. Every convolution has batch normalisation, all but the last an
    activation.

    Args:
        layer: Channels and stride.
        kernel: Size of the depthwise convolution.
        expansion: Expanded channels per input channel; ``None`` leaves the first convolution out, 1 does not.
        groups: Groups of the pointwise convolutions; the expanded channels are shuffled if there are several.
        activation: Builds an activation.
        affine: Learnable scale and shift in batch normalisation.
        eps: Of batch normalisation.
    """

    def __init__(
        self,
        layer: Layer,
        kernel: int,
        expansion: int | None,
        *,
        groups: int = 1,
        activation: Callable[[], nn.Module] = nn.ReLU,
        affine: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        c = layer.in_channels * (expansion or 1)
        norm = partial(nn.BatchNorm2d, affine=affine, eps=eps)
        parts: list[nn.Module] = []
        if expansion is not None:
            parts += [nn.Conv2d(layer.in_channels, c, 1, groups=groups, bias=False), norm(c), activation()]
        if groups > 1:
            parts.append(ChannelShuffle(groups))
        parts += [
            nn.Conv2d(c, c, kernel, stride=layer.stride, padding=kernel // 2, groups=c, bias=False),
            norm(c),
            activation(),
            nn.Conv2d(c, layer.out_channels, 1, groups=groups, bias=False),
            norm(layer.out_channels),
        ]
        self.body = nn.Sequential(*parts)
        self.shortcut = layer.keeps_shape

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, C_out, ceil(H / stride), ceil(W / stride)]``."""
        y: Tensor = self.body(x)
        return x + y if self.shortcut else y


def pooled_head(
    in_channels: int,
    channels: int,
    num_classes: int,
    *,
    activation: Callable[[], nn.Module] = nn.ReLU,
    eps: float = 1e-5,
) -> nn.Sequential:
    """1x1 convolution to ``channels``, average over the image, linear classifier."""
    check_classes(num_classes)
    return nn.Sequential(
        *conv_bn(in_channels, channels, 1, activation=activation, eps=eps),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, num_classes),
    )


@dataclass(frozen=True)
class Skeleton:
    """What all architectures of a space have in common.

    Inputs may have any shape that the stem reads; whether they are large enough is for the space to check.

    Args:
        stem: ``[B, *input_shape]`` to the input of the first layer.
        layers: Shapes of the layers.
        head: Output of the last layer to logits, ``[B, num_classes]``.
        input_shape: Shape of one input: C, H, W of an image, C, T of a series, F of a row of a table.
        num_classes: Number of logits.

    Raises:
        ValueError: If there is no output.
    """

    stem: nn.Sequential
    layers: Sequence[Layer]
    head: nn.Sequential
    input_shape: tuple[int, ...]
    num_classes: int

    def __post_init__(self) -> None:
        check_classes(self.num_classes)


def image_skeleton(
    stem: nn.Sequential,
    layers: Sequence[Layer],
    head: nn.Sequential,
    *,
    in_channels: int,
    image_size: int | tuple[int, int],
    num_classes: int,
) -> Skeleton:
    """The skeleton of a chain for images, which checks that they have enough pixels for its strides.

    Raises:
        ValueError: If there is no output, or the image is too small.
    """
    strided = [m for m in stem.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
    halvings = len(strided) + sum(layer.stride == 2 for layer in layers)
    check_image_size(image_size, halvings, "This chain")
    return Skeleton(stem, layers, head, image_shape(in_channels, image_size), num_classes)


def check_dropout(dropout: float) -> None:
    """Check a probability of dropping units.

    Raises:
        ValueError: If it is not in [0, 1).
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1); got {dropout}.")


Block = Callable[[str, Layer], nn.Module]  # builds the candidate of that name


class ChainSupernet(OperationSupernet, ABC):
    """Every block in every layer at once.

    Args:
        space: One gene per layer.
        skeleton: Stem, shapes of the layers, head.
        block: Builds a candidate of the supernet.
    """

    space: ChainSpace

    def __init__(self, space: ChainSpace, skeleton: Skeleton, block: Block) -> None:
        super().__init__()
        self.space = space
        self.input_shape, self.num_classes = skeleton.input_shape, skeleton.num_classes
        self._rows = [(choice.name, row) for choice in space.choices for row in range(choice.rows)]
        candidates = [space[name].candidates for name, _ in self._rows]
        self.stem, self.head = skeleton.stem, skeleton.head
        self.layers = nn.ModuleList(
            MixedOp(block(str(name), layer) for name in names)
            for names, layer in zip(candidates, skeleton.layers, strict=True)
        )

    def forward(self, x: Tensor, arch: Mapping[str, Tensor]) -> Tensor:
        self.check_arch(arch)
        x = self.stem(x)
        for layer, (name, row) in zip(self.layers, self._rows, strict=True):
            x = self.run_cell(layer, x, arch[name][row])
        logits: Tensor = self.head(x)
        return logits

    @abstractmethod
    def standalone(self, operations: tuple[str, ...]) -> ChainNetwork:
        """A network of these blocks with this supernet's settings and weights of its own."""

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> ChainNetwork:
        net = self.prepare(self.standalone(self.space.operations(config)), config)
        if inherit:
            inherit_weights(net.stem, self.stem)
            inherit_weights(net.head, self.head)
            for block, layer, gene in zip(net.layers, self.layers, self.space.encode([config])[0], strict=True):
                assert isinstance(layer, MixedOp)
                inherit_weights(block, layer.ops[int(gene)])
        return net

    def mixed_ops(self) -> dict[str, list[list[MixedOp]]]:
        layers = iter(self.layers)
        return {c.name: [[next(layers)] for _ in range(c.rows)] for c in self.space.choices}  # type: ignore[list-item]  # ModuleList is untyped

    def picked_ops(self, network: Subnet) -> list[list[nn.Module]]:
        assert isinstance(network, ChainNetwork)
        return [[layer] for layer in network.layers]

    def execution_plan(self, network: Subnet) -> ChainPlan:
        return ChainPlan()


class ChainNetwork(Subnet, ABC):
    """One block in every layer.

    Args:
        space: One gene per layer.
        operations: The picks of all layers, first to last.
        skeleton: Stem, shapes of the layers, head.
        block: Builds a block of the network.
    """

    def __init__(self, space: ChainSpace, operations: Sequence[str], skeleton: Skeleton, block: Block) -> None:
        super().__init__()
        self.space, self.config = space, space.from_operations(operations)
        self.input_shape, self.num_classes = skeleton.input_shape, skeleton.num_classes
        self.stem, self.head = skeleton.stem, skeleton.head
        self.layers = nn.ModuleList(block(op, layer) for op, layer in zip(operations, skeleton.layers, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x)
        return logits

    def graphs(self) -> list[ArchGraph]:
        assert self.config is not None
        return self.space.graphs(self.config)
