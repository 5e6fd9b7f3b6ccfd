"""Wider operations from narrower ones, whose weights are carried over: every channel is one that there was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from .mixed_op import PartialMixedOp
from .ops import FactorizedReduce

if TYPE_CHECKING:
    from .base import OperationSupernet

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Channels:
    """Which channel of a narrower tensor each channel of the wider one is a copy of.

    Args:
        rows: Of the first dimension, ``[C']``.
        columns: Of the second, ``[D']``; ``None`` if that stays as it is.
    """

    rows: Tensor
    columns: Tensor | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """The wider tensor, ``[C, D, ...] -> [C', D', ...]``."""
        wider = tensor[self.rows.to(tensor.device)]
        return wider if self.columns is None else wider[:, self.columns.to(tensor.device)]


Widened: TypeAlias = dict[nn.Parameter, Channels]


def drop_candidates(supernet: OperationSupernet, kept: Mapping[str, Sequence[Sequence[int]]]) -> None:
    """Drop candidates for good, of every mixed operation: their edge weights must be 0 from now on.

    Args:
        supernet: The supernet.
        kept: Indices of the others, of every choice and row.
    """
    for name, rows in supernet.mixed_ops().items():
        for own, row in zip(kept[name], rows, strict=True):
            for mixed in row:
                mixed.drop(own)


def widen_candidates(supernet: OperationSupernet, parts: int, generator: torch.Generator | None = None) -> Widened:
    """Have the candidates read a larger part of the channels, with the weights they have, see :func:`widen`.

    Args:
        supernet: One with partial channels.
        parts: K, fewer than before; 1 is all channels.
        generator: Draws which channels are copied; by default torch's.

    Returns:
        Of every parameter that was changed, what it is a copy of.

    Raises:
        ValueError: If there are not fewer parts, channels cannot be divided so, or a candidate cannot be widened.
    """
    mixed_ops = [mixed for rows in supernet.mixed_ops().values() for row in rows for mixed in row]
    partial = [mixed for mixed in mixed_ops if isinstance(mixed, PartialMixedOp)]
    if not 1 <= parts < supernet.partial_channels or len(partial) < len(mixed_ops):
        raise ValueError(
            f"partial_channels must become fewer, from {supernet.partial_channels} to at least 1; got {parts}. Build "
            f"{type(supernet).__name__} with more of them."
        )
    widened: Widened = {}
    for op in dict.fromkeys(op for mixed in partial for op in mixed.ops):  # edges share some
        widened |= widen(op, Fraction(supernet.partial_channels, parts), generator)
    for mixed in partial:
        mixed.parts = parts
    supernet.partial_channels = parts
    return widened


def widen(op: nn.Module, factor: Fraction, generator: torch.Generator | None = None) -> Widened:
    """Make every layer of an operation wider, in place; its parameters stay the same objects.

    Channel ``j`` of a wider layer is the old channel ``g(j)``: ``j`` itself for the old ones, drawn at random for the
    others. Weights are divided by how often their input channel is there. So of copied channels ``x[:, g]`` the
    operation computes copies of what it computed of ``x``, exactly: Net2WiderNet (Chen, Goodfellow and Shlens, ICLR
    2016, arXiv:1511.05641, section 2.1). The code of DrNAS (net2wider.py) does not divide.

    Args:
        op: Made of convolutions (of one group, or depthwise), linear layers, batch normalisation, and layers that hold
            nothing.
        factor: New channels for each old one.
        generator: Draws the copies; by default torch's.

    Returns:
        Of every parameter that was changed, what it is a copy of: an optimiser's state can follow.

    Raises:
        ValueError: If a layer cannot be widened, or would have a fraction of a channel; then ``op`` may be damaged.

    Example:
        >>> conv = nn.Conv2d(2, 2, 1, bias=False)
        >>> _ = widen(conv, Fraction(2))
        >>> conv.weight.shape
        torch.Size([4, 4, 1, 1])
    """
    maps: dict[int, Tensor] = {}  # by the old number of channels: one for all layers, so that they fit together

    def wider(channels: int) -> Tensor:
        new = channels * factor
        if new.denominator > 1:
            raise ValueError(
                f"Channels must stay whole numbers; {channels} of {type(op).__name__} would become {float(new):g}. "
                "Choose channels that all partial_channels divide."
            )
        if channels not in maps:
            added = torch.randint(channels, (new.numerator - channels,), generator=generator)
            maps[channels] = torch.cat([torch.arange(channels), added])
        return maps[channels]

    widened: Widened = {}
    reductions = {layer.bn for layer in op.modules() if isinstance(layer, FactorizedReduce)}
    for layer in op.modules():
        if isinstance(layer, nn.Conv2d):
            _widen_convolution(layer, wider, widened)
        elif isinstance(layer, nn.Linear):
            _widen_parameters(layer, Channels(wider(layer.out_features), wider(layer.in_features)), widened)
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, NORMS):
            rows = _halves(layer, wider) if layer in reductions else wider(layer.num_features)
            _widen_parameters(layer, Channels(rows), widened)
            for name in STATISTICS:
                if (buffer := getattr(layer, name)) is not None:
                    setattr(layer, name, Channels(rows).of(buffer))
            layer.num_features = len(rows)
        elif [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
            raise ValueError(
                "An operation that is widened must be made of convolutions, linear layers and batch normalisation; "
                f"{type(op).__name__} has a {type(layer).__name__}. Leave it out, or keep partial_channels as they are."
            )
    return widened


def _halves(norm: nn.Module, wider: Callable[[int], Tensor]) -> Tensor:
    """What the normalised channels of a FactorizedReduce are, which two convolutions make, half of them each."""
    half = int(getattr(norm, "num_features")) // 2  # noqa: B009
    return torch.cat([wider(half), half + wider(half)])


def _widen_convolution(conv: nn.Conv2d, wider: Callable[[int], Tensor], widened: Widened) -> None:
    depthwise = 1 < conv.groups == conv.in_channels == conv.out_channels
    if conv.in_channels == 1 or not (depthwise or conv.groups == 1):
        what = "one channel" if conv.in_channels == 1 else f"{conv.groups} groups of {conv.in_channels} channels"
        raise ValueError(
            f"A convolution that is widened must have at least two channels, and one group or as many as channels; "
            f"got {what}. Give the supernet more channels, or keep partial_channels as they are."
        )
    rows = wider(conv.out_channels)
    _widen_parameters(conv, Channels(rows, None if depthwise else wider(conv.in_channels)), widened)
    conv.in_channels = len(rows) if depthwise else conv.weight.shape[1]
    conv.out_channels, conv.groups = len(rows), len(rows) if depthwise else 1


@torch.no_grad()
def _widen_parameters(layer: nn.Module, channels: Channels, widened: Widened) -> None:
    """Put wider values into the parameters of a layer."""
    for name, parameter in layer.named_parameters(recurse=False):
        own = channels if name == "weight" else Channels(channels.rows)
        wider = own.of(parameter.data)
        if own.columns is not None:
            repeats = own.columns.bincount()[own.columns].to(wider)
            wider = wider / repeats.view(-1, *[1] * (wider.dim() - 2))
        parameter.data, parameter.grad, widened[parameter] = wider, None, own
