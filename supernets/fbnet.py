"""The FBNet space (Wu et al., CVPR 2019, arXiv:1812.03443): 22 layers, 9 blocks, about 10^21 architectures.

Layers follow table 1 and figure 3 of the paper, blocks table 2. There is no official code of the search; what the
paper leaves open follows its authors' network builder (facebookresearch/maskrcnn-benchmark, ``fbnet_builder.py``):
convolutions have no bias, channels are shuffled after the first grouped convolution, and a ``skip`` of a layer that
changes the shape is a 1x1 convolution with the layer's stride, batch normalisation and ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from torch import nn

from .base import arguments
from .chain import (
    ChainNetwork,
    ChainSpace,
    ChainSupernet,
    Layer,
    MBConv,
    Skeleton,
    conv_bn,
    image_skeleton,
    layers_of,
    make_divisible,
    pooled_head,
    scale_stages,
)
from .json_files import shorten
from .space import Choice, SubnetConfig

SKIP = "skip"
# name -> kernel, expansion, groups; in the order of the numbers 0 to 8 of HW-NAS-Bench (arXiv:2103.10584)
BLOCKS = {
    "k3_e1": (3, 1, 1),
    "k3_e1_g2": (3, 1, 2),
    "k3_e3": (3, 3, 1),
    "k3_e6": (3, 6, 1),
    "k5_e1": (5, 1, 1),
    "k5_e1_g2": (5, 1, 2),
    "k5_e3": (5, 3, 1),
    "k5_e6": (5, 6, 1),
}
CANDIDATES = (*BLOCKS, SKIP)
# FBNet-A, figure 3 of the paper (its head has 1504 channels), and FBNet-C as its authors released it; stage by stage.
# fmt: off
FBNET_A = (
    "skip",
    "k3_e3", "k3_e1", "skip", "skip",
    "k5_e6", "k3_e3", "k5_e1", "k3_e3",
    "k5_e6", "k5_e3", "k5_e1_g2", "k5_e6",
    "k3_e6", "k5_e1_g2", "k5_e3", "k3_e1_g2",
    "k5_e6", "k5_e6", "k5_e3", "k5_e6",
    "k5_e6",
)
FBNET_C = (
    "k3_e1",
    "k3_e6", "skip", "k3_e1", "k3_e1",
    "k5_e6", "k5_e3", "k5_e6", "k3_e6",
    "k5_e6", "k5_e3", "k5_e6", "k5_e6",
    "k5_e6", "k5_e6", "k5_e6", "k5_e3",
    "k5_e6", "k5_e6", "k5_e6", "k5_e6",
    "k3_e6",
)
# fmt: on

STEM_CHANNELS = 16
STAGES = ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))


@dataclass(frozen=True)
class FBNetSpace(ChainSpace):
    """Choice ``layers`` holds the block of every layer.

    Genes are the numbers by which HW-NAS-Bench and latency tables made with it name the blocks:
    ``space.decode([[7, 8, 1, ...]])``.

    Example:
        >>> space = FBNetSpace()
        >>> space.num_genes, f"{space.size:.1e}"
        (22, '9.8e+20')
    """

    name: str = "fbnet"
    choices: tuple[Choice, ...] = field(
        default=(Choice("layers", CANDIDATES, rows=sum(depth for _, depth, _ in STAGES)),)
    )

    def arch_string(self, config: SubnetConfig) -> str:
        """The name of an architecture in tables of latencies: the number of every layer's block.

        Example:
            >>> space = FBNetSpace()
            >>> space.arch_string(space.from_operations(FBNET_A))
            '8 2 0 8 8 7 2 4 2 7 6 5 7 3 5 6 1 7 7 6 7 7'
        """
        return " ".join(str(CANDIDATES.index(op)) for op in self.operations(config))

    def from_arch_string(self, text: str) -> SubnetConfig:
        """Inverse of :meth:`arch_string`; the numbers stand between spaces, commas, or both, and brackets are ignored.

        Args:
            text: 22 numbers from 0 to 8, in the order of :data:`CANDIDATES` (HW-NAS-Bench, arXiv:2103.10584).

        Raises:
            ValueError: If it is anything else.

        Example:
            >>> space = FBNetSpace()
            >>> text = "[7, 8, 1, 8, 4, 8, 8, 8, 7, 4, 1, 4, 7, 3, 2, 7, 3, 2, 4, 2, 4, 5]"
            >>> space.arch_string(space.from_arch_string(text))
            '7 8 1 8 4 8 8 8 7 4 1 4 7 3 2 7 3 2 4 2 4 5'
        """
        numbers = text.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
        known = {str(i): name for i, name in enumerate(CANDIDATES)}
        if len(numbers) != self.num_genes or not set(numbers) <= known.keys():
            raise ValueError(
                f"An FBNet architecture must be {self.num_genes} numbers from 0 to {len(CANDIDATES) - 1}, one for "
                f"each layer, such as '7 8 1 ...'; got {len(numbers)}, {shorten(text)}."
            )
        return self.from_operations([known[number] for number in numbers])


def _block(name: str, layer: Layer, *, affine: bool) -> nn.Module:
    if name == SKIP:
        if layer.keeps_shape:
            return nn.Identity()
        return conv_bn(layer.in_channels, layer.out_channels, 1, stride=layer.stride, affine=affine)
    kernel, expansion, groups = BLOCKS[name]
    return MBConv(layer, kernel, expansion, groups=groups, affine=affine)


def _skeleton(
    *,
    width: float,
    head_channels: int,
    num_classes: int,
    in_channels: int,
    image_size: int | tuple[int, int],
    stem: Literal["imagenet", "cifar"],
) -> Skeleton:
    stride, stages = scale_stages(STAGES, width, stem)
    channels = make_divisible(width * STEM_CHANNELS)
    return image_skeleton(
        conv_bn(in_channels, channels, 3, stride=stride),
        layers_of(channels, stages),
        pooled_head(stages[-1][0], make_divisible(max(1.0, width) * head_channels), num_classes),
        in_channels=in_channels,
        image_size=image_size,
        num_classes=num_classes,
    )


class FBNetSupernet(ChainSupernet):
    """All blocks in all 22 layers; defaults are the paper's for ImageNet.

    Args:
        width: Multiplies all channels, those of the head only if it is above 1.
        head_channels: Channels of the last convolution: 1984 in FBNet-B and C, 1504 in FBNet-A.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.
        stem: ``"imagenet"`` divides the resolution by 32 in all, ``"cifar"`` by 8.

    Raises:
        ValueError: If the image is too small, there is no output, or the width is not positive.

    Example:
        >>> import torch
        >>> net = FBNetSupernet(width=0.25, num_classes=10, image_size=8, stem="cifar")
        >>> net(torch.zeros(2, 3, 8, 8), net.one_hot(net.space.sample(0))).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        head_channels: int = 1984,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 224,
        stem: Literal["imagenet", "cifar"] = "imagenet",
    ) -> None:
        self._settings = arguments(locals())
        super().__init__(FBNetSpace(), _skeleton(**self._settings), partial(_block, affine=False))

    def standalone(self, operations: Sequence[str]) -> FBNetNetwork:
        return FBNetNetwork(operations, **self._settings)


class FBNetNetwork(ChainNetwork):
    """A network of 22 blocks, to be trained from scratch.

    Args:
        operations: The block of every layer.
        width: See :class:`FBNetSupernet`.
        head_channels: See :class:`FBNetSupernet`.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.
        stem: See :class:`FBNetSupernet`.

    Raises:
        ValueError: If there are not 22 known blocks, or the image is too small.

    Example:
        >>> net = FBNetNetwork(FBNET_C)
        >>> sum(p.numel() for p in net.parameters())
        5572200
    """

    def __init__(
        self,
        operations: Sequence[str],
        *,
        width: float = 1.0,
        head_channels: int = 1984,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 224,
        stem: Literal["imagenet", "cifar"] = "imagenet",
    ) -> None:
        settings = arguments(locals(), "operations")
        super().__init__(FBNetSpace(), operations, _skeleton(**settings), partial(_block, affine=True))
        self.init_args = {"operations": list(operations), **settings}
