"""Chains of residual convolutions for series ``[C, T]``, volumes ``[C, D, H, W]`` and texts ``[T]``: one code for all.

Everything is fully convolutional up to an average over all places, so sides may have any length that survives the
strides, and need not be divisible or equal. A layer adds a candidate to its input where the shape stays. Candidates are
in the order of DARTS, ReLU, convolution, batch normalisation (arXiv:1806.09055), for one, two or three dimensions.
Three stages of doubling width with kernels of several sizes follow the residual network that is the usual baseline for
series (Wang, Yan, Oates, arXiv:1611.06455); the space is our own, not that of a paper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from .base import arguments
from .chain import ChainNetwork, ChainSupernet, EqualLayers, Layer, Skeleton, check_dropout, layers_of, make_divisible

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOLS: dict[int, Any] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
SKIP = "skip"
NAMED = re.compile(r"(conv|sep_conv|dil_conv|se_conv)_([1-9]\d*)")
DILATION = 4
SERIES_CANDIDATES = (
    "conv_3",
    "conv_5",
    "conv_9",
    "conv_17",
    "sep_conv_9",
    "sep_conv_17",
    "dil_conv_9",
    "se_conv_5",
    SKIP,
)
VOLUME_CANDIDATES = ("conv_3", "sep_conv_3", "sep_conv_5", "dil_conv_3", "se_conv_3", SKIP)
TEXT_CANDIDATES = ("conv_3", "conv_5", "sep_conv_3", "sep_conv_7", "dil_conv_3", "se_conv_3", SKIP)


@dataclass(frozen=True)
class ResidualSpace(EqualLayers):
    """Candidates by name, ``K`` being the kernel, the same along every side, an odd number.

    | name | what it is |
    |---|---|
    | ``conv_K`` | convolution |
    | ``sep_conv_K`` | depthwise convolution, then a pointwise one |
    | ``dil_conv_K`` | the same, the depthwise one of dilation 4: it reads ``4 * (K - 1) + 1`` places |
    | ``se_conv_K`` | convolution, then squeeze-and-excitation (arXiv:1709.01507) |
    | ``skip`` | the input; where the shape changes, a pointwise convolution |

    Raises:
        ValueError: If a candidate is none of these.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.candidates:
            kernel_of(name)


@dataclass(frozen=True)
class SeriesSpace(ResidualSpace):
    """Layers for series, see :class:`ResidualSpace`.

    Args:
        name: Name of the space.
        layers: Number of layers.
        candidates: What a layer can be.

    Example:
        >>> space = SeriesSpace()
        >>> space.num_genes, space.size == 9**9
        (9, True)
    """

    name: str = "series"
    layers: int = 9
    candidates: tuple[str, ...] = SERIES_CANDIDATES


@dataclass(frozen=True)
class VolumeSpace(ResidualSpace):
    """Layers for volumes, see :class:`SeriesSpace`."""

    name: str = "volume"
    layers: int = 6
    candidates: tuple[str, ...] = VOLUME_CANDIDATES


@dataclass(frozen=True)
class TextSpace(ResidualSpace):
    """Layers for texts, see :class:`SeriesSpace`."""

    name: str = "text"
    layers: int = 4
    candidates: tuple[str, ...] = TEXT_CANDIDATES


def kernel_of(name: str) -> int:
    """Kernel of a candidate; 1 of ``skip``.

    Raises:
        ValueError: If there is no such candidate.

    Example:
        >>> kernel_of("sep_conv_17"), kernel_of("skip")
        (17, 1)
    """
    match = NAMED.fullmatch(str(name))
    if name != SKIP and (match is None or int(match[2]) % 2 == 0):
        raise ValueError(
            f"A candidate must be 'skip', or one of conv_K, sep_conv_K, dil_conv_K and se_conv_K with an odd kernel K; "
            f"got {name!r}. Write for example 'conv_5'."
        )
    return int(match[2]) if match else 1


class SqueezeExcite(nn.Module):
    """Scale every channel by what the averages of all channels say (arXiv:1709.01507, section 3), for any sides.

    Args:
        channels: C; a quarter of it, rounded to a multiple of 8, is in between.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = make_divisible(channels // 4)
        self.gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, *sides] -> [B, C, *sides]``."""
        scales: Tensor = self.gate(x.flatten(2).mean(2))
        return x * scales.reshape(*scales.shape, *[1] * (x.dim() - 2))


class Residual(nn.Module):
    """``x + body(x)`` where the shape stays, ``body(x)`` where it does not."""

    def __init__(self, body: nn.Module, layer: Layer) -> None:
        super().__init__()
        self.body, self.shortcut = body, layer.keeps_shape

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, *sides] -> [B, C_out, *(ceil(side / stride) for side in sides)]``."""
        y: Tensor = self.body(x)
        return x + y if self.shortcut else y


def residual_block(name: str, layer: Layer, *, dims: int, affine: bool) -> nn.Module:
    """A candidate of :class:`ResidualSpace`.

    Args:
        name: Its name.
        layer: Channels and stride.
        dims: Number of sides: 1, 2 or 3.
        affine: Learnable scale and shift in batch normalisation.
    """
    conv, norm = CONVOLUTIONS[dims], NORMS[dims](layer.out_channels, affine=affine)
    kernel, c = kernel_of(name), layer.in_channels
    if name == SKIP:
        if layer.keeps_shape:
            return nn.Identity()
        return nn.Sequential(conv(c, layer.out_channels, 1, layer.stride, bias=False), norm)
    if name.startswith(("sep_", "dil_")):
        holes = DILATION if name.startswith("dil_") else 1
        padding = holes * (kernel // 2)
        depthwise = conv(c, c, kernel, layer.stride, padding, dilation=holes, groups=c, bias=False)
        return Residual(nn.Sequential(nn.ReLU(), depthwise, conv(c, layer.out_channels, 1, bias=False), norm), layer)
    body = [nn.ReLU(), conv(c, layer.out_channels, kernel, layer.stride, kernel // 2, bias=False), norm]
    if name.startswith("se_"):
        body.append(SqueezeExcite(layer.out_channels))
    return Residual(nn.Sequential(*body), layer)


class ChannelsFirst(nn.Module):
    """Vectors of words to channels of a series."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, C] -> [B, C, T]``."""
        return x.transpose(1, 2)


def _head(channels: int, dims: int, dropout: float, num_classes: int) -> nn.Sequential:
    """Average over all places, dropout, linear layer."""
    return nn.Sequential(nn.ReLU(), POOLS[dims](1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, num_classes))


def _layers(channels: int, stages: int, layers_per_stage: int) -> list[Layer]:
    """Every stage but the first doubles the channels and halves the sides."""
    for name, value in (("channels", channels), ("stages", stages), ("layers_per_stage", layers_per_stage)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
    widths = [(channels * 2**stage, layers_per_stage, 2 if stage else 1) for stage in range(stages)]
    return layers_of(channels, widths)


def _check_sides(what: str, sides: Sequence[int], least: int) -> None:
    if min(sides) < least:
        raise ValueError(
            f"{what} must be at least {least}, since the network divides it by that; got {', '.join(map(str, sides))}. "
            "Take fewer stages, a smaller stem_stride, or larger inputs."
        )


def _convolutional(
    what: str,
    sides: tuple[int, ...],
    *,
    kernel: int,
    channels: int,
    stages: int,
    layers_per_stage: int,
    stem_stride: int,
    dropout: float,
    num_classes: int,
    in_channels: int,
) -> Skeleton:
    """The skeleton of networks that read numbers; the stem is a convolution without activation."""
    layers, dims = _layers(channels, stages, layers_per_stage), len(sides)
    if stem_stride < 1 or in_channels < 1:
        raise ValueError(
            f"stem_stride and in_channels must be at least 1; got stem_stride={stem_stride}, in_channels={in_channels}."
        )
    _check_sides(what, sides, stem_stride * 2 ** (stages - 1))
    check_dropout(dropout)
    stem = nn.Sequential(
        CONVOLUTIONS[dims](in_channels, channels, kernel, stem_stride, kernel // 2, bias=False), NORMS[dims](channels)
    )
    head = _head(layers[-1].out_channels, dims, dropout, num_classes)
    return Skeleton(stem, layers, head, (in_channels, *sides), num_classes)


# Series.


def _series(*, length: int, candidates: Sequence[str], **options: Any) -> tuple[SeriesSpace, Skeleton]:
    skeleton = _convolutional("length", (length,), kernel=7, **options)
    return SeriesSpace(layers=len(skeleton.layers), candidates=tuple(candidates)), skeleton


class SeriesSupernet(ChainSupernet):
    """All candidates in all layers of a network for series ``[C, T]``: signals, spectra, sensors.

    Args:
        channels: Channels of the stem and of the first stage; every further stage has twice as many.
        stages: Number of stages; every one but the first halves the length, rounded up.
        layers_per_stage: Layers of a stage.
        candidates: What a layer can be, see :class:`ResidualSpace`.
        stem_stride: Divides the length before the first stage.
        dropout: Probability of dropping an input of the last layer.
        num_classes: Number of logits.
        in_channels: C, variables of a series.
        length: T, steps of a series; any number from ``stem_stride * 2 ** (stages - 1)`` on.

    Raises:
        ValueError: If the series are too short, or an argument is out of range.

    Example:
        >>> import torch
        >>> net = SeriesSupernet(channels=4, layers_per_stage=1, in_channels=2, length=25)
        >>> net(torch.zeros(3, 2, 25), net.one_hot(net.space.sample(0))).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        *,
        channels: int = 32,
        stages: int = 3,
        layers_per_stage: int = 3,
        candidates: Sequence[str] = SERIES_CANDIDATES,
        stem_stride: int = 1,
        dropout: float = 0.0,
        num_classes: int = 2,
        in_channels: int = 1,
        length: int = 128,
    ) -> None:
        self._settings = arguments(locals())
        space, skeleton = _series(**self._settings)
        super().__init__(space, skeleton, partial(residual_block, dims=1, affine=False))

    def standalone(self, operations: Sequence[str]) -> SeriesNetwork:
        return SeriesNetwork(operations, **self._settings)


class SeriesNetwork(ChainNetwork):
    """A network for series, to be trained from scratch.

    Args:
        operations: The candidate of every layer.
        channels: See :class:`SeriesSupernet`.
        stages: See :class:`SeriesSupernet`.
        layers_per_stage: See :class:`SeriesSupernet`.
        candidates: See :class:`SeriesSupernet`.
        stem_stride: See :class:`SeriesSupernet`.
        dropout: See :class:`SeriesSupernet`.
        num_classes: Number of logits.
        in_channels: C, variables of a series.
        length: T, steps of a series.

    Raises:
        ValueError: See :class:`SeriesSupernet`; or if there is not one known candidate for every layer.

    Example:
        >>> net = SeriesNetwork(["conv_9", "skip", "dil_conv_9"], layers_per_stage=1, length=24)
        >>> net.input_shape, net.num_classes
        ((1, 24), 2)
    """

    def __init__(
        self,
        operations: Sequence[str],
        *,
        channels: int = 32,
        stages: int = 3,
        layers_per_stage: int = 3,
        candidates: Sequence[str] = SERIES_CANDIDATES,
        stem_stride: int = 1,
        dropout: float = 0.0,
        num_classes: int = 2,
        in_channels: int = 1,
        length: int = 128,
    ) -> None:
        settings = arguments(locals(), "operations")
        space, skeleton = _series(**settings)
        super().__init__(space, operations, skeleton, partial(residual_block, dims=1, affine=True))
        self.init_args = {"operations": list(operations), **settings}


# Volumes.


def _volumes(
    *, volume_size: int | Sequence[int], candidates: Sequence[str], **options: Any
) -> tuple[VolumeSpace, Skeleton]:
    sides = (volume_size,) * 3 if isinstance(volume_size, int) else tuple(volume_size)
    if len(sides) != 3:
        raise ValueError(f"volume_size must be one number, or depth, height and width; got {list(sides)}.")
    skeleton = _convolutional("volume_size", sides, kernel=3, **options)
    return VolumeSpace(layers=len(skeleton.layers), candidates=tuple(candidates)), skeleton


class VolumeSupernet(ChainSupernet):
    """All candidates in all layers of a network for volumes ``[C, D, H, W]``: scans, short films.

    Args:
        channels: Channels of the stem and of the first stage; every further stage has twice as many.
        stages: Number of stages; every one but the first halves all sides, rounded up.
        layers_per_stage: Layers of a stage.
        candidates: What a layer can be, see :class:`ResidualSpace`.
        stem_stride: Divides all sides before the first stage.
        dropout: Probability of dropping an input of the last layer.
        num_classes: Number of logits.
        in_channels: C, channels of a volume.
        volume_size: Depth, height and width, or one number for all three; each any number from
            ``stem_stride * 2 ** (stages - 1)`` on.

    Raises:
        ValueError: If the volumes are too small, or an argument is out of range.

    Example:
        >>> import torch
        >>> net = VolumeSupernet(channels=4, layers_per_stage=1, volume_size=(5, 9, 8))
        >>> net(torch.zeros(3, 1, 5, 9, 8), net.one_hot(net.space.sample(0))).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        *,
        channels: int = 16,
        stages: int = 3,
        layers_per_stage: int = 2,
        candidates: Sequence[str] = VOLUME_CANDIDATES,
        stem_stride: int = 1,
        dropout: float = 0.0,
        num_classes: int = 2,
        in_channels: int = 1,
        volume_size: int | tuple[int, int, int] = 32,
    ) -> None:
        self._settings = arguments(locals())
        space, skeleton = _volumes(**self._settings)
        super().__init__(space, skeleton, partial(residual_block, dims=3, affine=False))

    def standalone(self, operations: Sequence[str]) -> VolumeNetwork:
        return VolumeNetwork(operations, **self._settings)


class VolumeNetwork(ChainNetwork):
    """A network for volumes, to be trained from scratch.

    Args:
        operations: The candidate of every layer.
        channels: See :class:`VolumeSupernet`.
        stages: See :class:`VolumeSupernet`.
        layers_per_stage: See :class:`VolumeSupernet`.
        candidates: See :class:`VolumeSupernet`.
        stem_stride: See :class:`VolumeSupernet`.
        dropout: See :class:`VolumeSupernet`.
        num_classes: Number of logits.
        in_channels: C, channels of a volume.
        volume_size: Depth, height and width, or one number for all three.

    Raises:
        ValueError: See :class:`VolumeSupernet`; or if there is not one known candidate for every layer.
    """

    def __init__(
        self,
        operations: Sequence[str],
        *,
        channels: int = 16,
        stages: int = 3,
        layers_per_stage: int = 2,
        candidates: Sequence[str] = VOLUME_CANDIDATES,
        stem_stride: int = 1,
        dropout: float = 0.0,
        num_classes: int = 2,
        in_channels: int = 1,
        volume_size: int | tuple[int, int, int] = 32,
    ) -> None:
        settings = arguments(locals(), "operations")
        space, skeleton = _volumes(**settings)
        super().__init__(space, operations, skeleton, partial(residual_block, dims=3, affine=True))
        self.init_args = {"operations": list(operations), **settings}


# Texts.


def _texts(
    *,
    channels: int,
    stages: int,
    layers_per_stage: int,
    candidates: Sequence[str],
    dropout: float,
    num_classes: int,
    vocabulary: int,
    length: int,
) -> tuple[TextSpace, Skeleton]:
    layers = _layers(channels, stages, layers_per_stage)
    if vocabulary < 2:
        raise ValueError(f"A vocabulary must have at least two words; got vocabulary={vocabulary}.")
    _check_sides("length", (length,), 2 ** (stages - 1))
    check_dropout(dropout)
    stem = nn.Sequential(nn.Embedding(vocabulary, channels), ChannelsFirst(), nn.BatchNorm1d(channels))
    skeleton = Skeleton(stem, layers, _head(layers[-1].out_channels, 1, dropout, num_classes), (length,), num_classes)
    return TextSpace(layers=len(layers), candidates=tuple(candidates)), skeleton


class TextSupernet(ChainSupernet):
    """All candidates in all layers of a network that gives texts one label: words ``[T]`` (int64), in any order of ids.

    Words become vectors, which are a series. The average at the end is over all places, padding included, so pad with a
    word of its own.

    Args:
        channels: Length of the vectors and channels of the first stage; every further stage has twice as many.
        stages: Number of stages; every one but the first halves the length, rounded up.
        layers_per_stage: Layers of a stage.
        candidates: What a layer can be, see :class:`ResidualSpace`.
        dropout: Probability of dropping an input of the last layer.
        num_classes: Number of logits.
        vocabulary: Number of words; ids are below it.
        length: T, words of a text; any number from ``2 ** (stages - 1)`` on. Texts of other lengths are read, too.

    Raises:
        ValueError: If texts are too short, or an argument is out of range.

    Example:
        >>> import torch
        >>> net = TextSupernet(channels=4, layers_per_stage=1, vocabulary=50, length=9)
        >>> net(torch.randint(50, (3, 9)), net.one_hot(net.space.sample(0))).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        *,
        channels: int = 64,
        stages: int = 2,
        layers_per_stage: int = 2,
        candidates: Sequence[str] = TEXT_CANDIDATES,
        dropout: float = 0.0,
        num_classes: int = 2,
        vocabulary: int = 10_000,
        length: int = 64,
    ) -> None:
        self._settings = arguments(locals())
        space, skeleton = _texts(**self._settings)
        super().__init__(space, skeleton, partial(residual_block, dims=1, affine=False))

    def standalone(self, operations: Sequence[str]) -> TextNetwork:
        return TextNetwork(operations, **self._settings)


class TextNetwork(ChainNetwork):
    """A network that gives texts one label, to be trained from scratch.

    Args:
        operations: The candidate of every layer.
        channels: See :class:`TextSupernet`.
        stages: See :class:`TextSupernet`.
        layers_per_stage: See :class:`TextSupernet`.
        candidates: See :class:`TextSupernet`.
        dropout: See :class:`TextSupernet`.
        num_classes: Number of logits.
        vocabulary: Number of words.
        length: T, words of a text.

    Raises:
        ValueError: See :class:`TextSupernet`; or if there is not one known candidate for every layer.
    """

    def __init__(
        self,
        operations: Sequence[str],
        *,
        channels: int = 64,
        stages: int = 2,
        layers_per_stage: int = 2,
        candidates: Sequence[str] = TEXT_CANDIDATES,
        dropout: float = 0.0,
        num_classes: int = 2,
        vocabulary: int = 10_000,
        length: int = 64,
    ) -> None:
        settings = arguments(locals(), "operations")
        space, skeleton = _texts(**settings)
        super().__init__(space, operations, skeleton, partial(residual_block, dims=1, affine=True))
        self.init_args = {"operations": list(operations), **settings}
