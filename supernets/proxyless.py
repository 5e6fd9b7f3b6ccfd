"""The ProxylessNAS space for ImageNet (Cai, Zhu, Han, ICLR 2019, arXiv:1812.00332): 21 layers of inverted residuals.

Depths, strides, blocks, ReLU6 and batch normalisation (with scale, epsilon 1e-3) follow the authors' search
(mit-han-lab/proxylessnas, ``search/``). The widths are those of the published Proxyless-Mobile (figure 4 of the paper);
the default of the published search has 24 channels instead of 32 in the first stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
from .space import Choice

SKIP = "skip"
# name -> kernel, expansion
BLOCKS = {"k3_e3": (3, 3), "k3_e6": (3, 6), "k5_e3": (5, 3), "k5_e6": (5, 6), "k7_e3": (7, 3), "k7_e6": (7, 6)}
STEM_CHANNELS, FIRST_CHANNELS, HEAD_CHANNELS = 32, 16, 1280
STAGES = ((32, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1))
EPS = 1e-3

# Proxyless-Mobile, figure 4 of the paper; stage by stage.
# fmt: off
PROXYLESS_MOBILE = (
    "k5_e3", "k3_e3", "skip", "skip",
    "k7_e3", "k3_e3", "k5_e3", "k5_e3",
    "k7_e6", "k5_e3", "k5_e3", "k5_e3",
    "k5_e6", "k5_e3", "k5_e3", "k5_e3",
    "k7_e6", "k7_e6", "k7_e3", "k7_e3",
    "k7_e6",
)
# fmt: on


def _choices() -> tuple[Choice, ...]:
    """One choice per layer: only those behind the first of a stage can be left out."""
    first = [index == 0 for _, depth, _ in STAGES for index in range(depth)]
    blocks = tuple(BLOCKS)
    return tuple(Choice(f"layer_{i:02d}", blocks if f else (*blocks, SKIP)) for i, f in enumerate(first, 1))


@dataclass(frozen=True)
class ProxylessSpace(ChainSpace):
    """Choices ``layer_01`` to ``layer_21``. The first layer of a stage is a block, the others may be left out.

    What the authors call the zero operation is ``skip`` here: beside a shortcut, nothing leaves the input.

    Example:
        >>> space = ProxylessSpace()
        >>> space.num_genes, space.size == 6**6 * 7**15
        (21, True)
    """

    name: str = "proxyless"
    choices: tuple[Choice, ...] = field(default_factory=_choices)


def _block(name: str, layer: Layer) -> nn.Module:
    if name == SKIP:
        return nn.Identity()
    kernel, expansion = BLOCKS[name]
    return MBConv(layer, kernel, expansion, activation=nn.ReLU6, eps=EPS)


def _skeleton(
    *,
    width: float,
    num_classes: int,
    in_channels: int,
    image_size: int | tuple[int, int],
    stem: Literal["imagenet", "cifar"],
) -> Skeleton:
    stride, stages = scale_stages(STAGES, width, stem)
    channels, first = make_divisible(width * STEM_CHANNELS), make_divisible(width * FIRST_CHANNELS)
    head_channels = make_divisible(max(1.0, width) * HEAD_CHANNELS)
    return image_skeleton(
        nn.Sequential(
            *conv_bn(in_channels, channels, 3, stride=stride, activation=nn.ReLU6, eps=EPS),
            MBConv(Layer(channels, first), 3, None, activation=nn.ReLU6, eps=EPS),
        ),
        layers_of(first, stages),
        pooled_head(stages[-1][0], head_channels, num_classes, activation=nn.ReLU6, eps=EPS),
        in_channels=in_channels,
        image_size=image_size,
        num_classes=num_classes,
    )


class ProxylessSupernet(ChainSupernet):
    """All blocks in all 21 layers; defaults are the paper's for ImageNet.

    As in the authors' code, batch normalisation in the blocks has a learnable scale in search, too.

    Args:
        width: Multiplies all channels, those of the head only if it is above 1.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.
        stem: ``"imagenet"`` divides the resolution by 32 in all, ``"cifar"`` by 8.

    Raises:
        ValueError: If the image is too small, there is no output, or the width is not positive.

    Example:
        >>> import torch
        >>> net = ProxylessSupernet(width=0.25, num_classes=10, image_size=8, stem="cifar")
        >>> net(torch.zeros(2, 3, 8, 8), net.one_hot(net.space.sample(0))).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 224,
        stem: Literal["imagenet", "cifar"] = "imagenet",
    ) -> None:
        self._settings = arguments(locals())
        super().__init__(ProxylessSpace(), _skeleton(**self._settings), _block)

    def standalone(self, operations: Sequence[str]) -> ProxylessNetwork:
        return ProxylessNetwork(operations, **self._settings)


class ProxylessNetwork(ChainNetwork):
    """A network of up to 21 blocks, to be trained from scratch.

    Args:
        operations: The block of every layer, or ``skip``.
        width: See :class:`ProxylessSupernet`.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.
        stem: See :class:`ProxylessSupernet`.

    Raises:
        ValueError: If there is not a candidate for each of the 21 layers, or the image is too small.

    Example:
        >>> net = ProxylessNetwork(PROXYLESS_MOBILE)
        >>> sum(p.numel() for p in net.parameters())
        4080512
    """

    def __init__(
        self,
        operations: Sequence[str],
        *,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 224,
        stem: Literal["imagenet", "cifar"] = "imagenet",
    ) -> None:
        settings = arguments(locals(), "operations")
        super().__init__(ProxylessSpace(), operations, _skeleton(**settings), _block)
        self.init_args = {"operations": list(operations), **settings}
