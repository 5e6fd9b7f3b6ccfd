"""The NAS-Bench-Macro space (Su et al., CVPR 2021, arXiv:2103.11922): 8 layers, 3 blocks, 6,561 architectures.

Architecture strings, skeleton and blocks follow the authors' code (xiusu/NAS-Bench-Macro), so that a network is the one
its string means in the benchmark's table: same parameters, same FLOPs (which are multiply-accumulates there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

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
    pooled_head,
)
from .space import Choice, SubnetConfig

# In the order of the digits 0, 1, 2 of the table.
CANDIDATES = ("identity", "k3_e3", "k5_e6")
DEPTHS = (2, 3, 3)  # of the stages; each begins by halving the resolution and doubling the channels
HEAD_CHANNELS = 1280


@dataclass(frozen=True)
class NASBenchMacroSpace(ChainSpace):
    """Choice ``layers`` holds the block of every layer.

    The first ``identity`` of a stage is none: it changes the shape, by a strided 1x1 convolution with batch
    normalisation.

    Example:
        >>> space = NASBenchMacroSpace()
        >>> space.size
        6561
        >>> space.arch_string(space.sample(0))
        '21100000'
    """

    name: str = "nasbenchmacro"
    choices: tuple[Choice, ...] = field(default=(Choice("layers", CANDIDATES, rows=sum(DEPTHS)),))

    def arch_string(self, config: SubnetConfig) -> str:
        """The benchmark's name of an architecture: one digit per layer."""
        return "".join(str(CANDIDATES.index(op)) for op in self.operations(config))

    def from_arch_string(self, text: str) -> SubnetConfig:
        """Inverse of :meth:`arch_string`.

        Raises:
            ValueError: If the string is not eight digits from 0 to 2.
        """
        if len(text) != self.num_genes or not set(text) <= set("012"):
            raise ValueError(f"A NAS-Bench-Macro architecture is {self.num_genes} digits from 0 to 2; got {text!r}.")
        return self.from_operations([CANDIDATES[int(digit)] for digit in text])

    def unique_string(self, config: SubnetConfig) -> str:
        """The same text for architectures that are one network: 3,969 of the 6,561 differ.

        Behind the first layer of a stage an identity does nothing, so it does not matter where it stands; here it
        stands last. The weights that such architectures inherit are of other layers: tables may be de-duplicated by
        this text, weights may not be inherited across it.

        Example:
            >>> space = NASBenchMacroSpace()
            >>> space.unique_string(space.from_arch_string("01" "201" "002"))
            '01210020'
        """
        digits, unique = list(self.arch_string(config)), ""
        for depth in DEPTHS:
            stage, digits = digits[:depth], digits[depth:]
            unique += stage[0] + "".join(sorted(stage[1:], key="0".__eq__))
        return unique


def _block(name: str, layer: Layer, *, affine: bool) -> nn.Module:
    if name == "identity":
        if layer.keeps_shape:
            return nn.Identity()
        return conv_bn(layer.in_channels, layer.out_channels, 1, stride=layer.stride, activation=None, affine=affine)
    kernel, expansion = {"k3_e3": (3, 3), "k5_e6": (5, 6)}[name]
    return MBConv(layer, kernel, expansion, affine=affine)


def _skeleton(*, channels: int, num_classes: int, in_channels: int, image_size: int | tuple[int, int]) -> Skeleton:
    layers = layers_of(channels, [(channels * 2 ** (stage + 1), depth, 2) for stage, depth in enumerate(DEPTHS)])
    return image_skeleton(
        conv_bn(in_channels, channels, 3),
        layers,
        pooled_head(layers[-1].out_channels, HEAD_CHANNELS, num_classes),
        in_channels=in_channels,
        image_size=image_size,
        num_classes=num_classes,
    )


class NASBenchMacroSupernet(ChainSupernet):
    """All blocks in all eight layers; the benchmark's skeleton.

    Args:
        channels: C of the stem, doubled by every stage.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.

    Raises:
        ValueError: If the image is too small for the three stages, or there is no output.

    Example:
        >>> import torch
        >>> net = NASBenchMacroSupernet(channels=4, image_size=8)
        >>> net(torch.zeros(2, 3, 8, 8), net.one_hot(net.space.sample(0))).shape
        torch.Size([2, 10])
    """

    space: NASBenchMacroSpace

    def __init__(
        self, *, channels: int = 32, num_classes: int = 10, in_channels: int = 3, image_size: int | tuple[int, int] = 32
    ) -> None:
        self._settings = arguments(locals())
        super().__init__(NASBenchMacroSpace(), _skeleton(**self._settings), partial(_block, affine=False))

    def standalone(self, operations: Sequence[str]) -> NASBenchMacroNetwork:
        space = NASBenchMacroSpace()
        return NASBenchMacroNetwork(space.arch_string(space.from_operations(operations)), **self._settings)


class NASBenchMacroNetwork(ChainNetwork):
    """The network an architecture string means in the benchmark; defaults are the benchmark's for CIFAR-10.

    Args:
        arch: The benchmark's architecture string, eight digits.
        channels: C of the stem, doubled by every stage.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.

    Raises:
        ValueError: If the string is malformed or the image too small.

    Example:
        >>> net = NASBenchMacroNetwork("00000000")
        >>> sum(p.numel() for p in net.parameters())
        387882
    """

    def __init__(
        self,
        arch: str,
        *,
        channels: int = 32,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
    ) -> None:
        settings = arguments(locals(), "arch")
        space = NASBenchMacroSpace()
        operations = space.operations(space.from_arch_string(arch))
        super().__init__(space, operations, _skeleton(**settings), partial(_block, affine=True))
        self.init_args = {"arch": arch, **settings}
