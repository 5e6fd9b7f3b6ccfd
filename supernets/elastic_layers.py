"""Layers that use the first channels, and the inner part of the kernels, of what they have (arXiv:1908.09791).

Those of transformers are in ``elastic_transformer.py``.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import layout_of
from .chain import make_divisible

REDUCTION = 4  # of the channels in squeeze-and-excitation (MobileNetV3, arXiv:1905.02244, section 5.3)


class PartialLayer(nn.Module, ABC):
    """A layer that uses another part of a tensor than the first entries of every dimension."""

    @abstractmethod
    def part(self, name: str, shape: Sequence[int]) -> Tensor | None:
        """What a layer of this shape uses of a parameter or buffer.

        Args:
            name: Of the parameter or buffer.
            shape: That of the part.

        Returns:
            A tensor of this shape; ``None`` where the first entries are meant.
        """


class ElasticConv2d(nn.Conv2d):
    """Convolution that uses its first input and output channels; keeps the resolution at stride 1.

    Args:
        in_channels: Most channels in.
        out_channels: Most channels out.
        kernel: Size of the kernel, odd.
        stride: 2 halves the resolution.
        bias: Whether something is added to every channel.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, *, stride: int = 1, bias: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor, out_channels: int | None = None) -> Tensor:
        """``[B, C_in, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)]``; by default all channels."""
        weight = laid_out(self.weight[:out_channels, : x.shape[1]], self.weight)
        bias = None if self.bias is None else self.bias[:out_channels]
        return F.conv2d(x, weight, bias, self.stride, self.padding)


class ElasticDepthwise(nn.Conv2d, PartialLayer):
    """Depthwise convolution of the first channels with one of several kernels; keeps the resolution at stride 1.

    A smaller kernel is the centre of the next larger one, multiplied by a matrix that all channels of the layer share
    (arXiv:1908.09791, section 3.2): ``w_5 = M centre(w_7)`` with the 25 weights of a channel as a vector. The matrices
    start as identities. So kernels can differ though they share weights.

    Args:
        channels: Most channels.
        kernels: Sizes of the kernels, odd.
        stride: 2 halves the resolution.
        transform: Whether there are matrices; otherwise a smaller kernel is the centre of the largest.

    Raises:
        ValueError: If a size is even or there are none.
    """

    def __init__(self, channels: int, kernels: Sequence[int], *, stride: int = 1, transform: bool = True) -> None:
        kernels = tuple(sorted(set(kernels)))
        if not kernels or any(size < 1 or size % 2 == 0 for size in kernels):
            raise ValueError(f"Kernels must have odd sizes, or the resolution would change; got {kernels}.")
        super().__init__(channels, channels, kernels[-1], stride, padding=kernels[-1] // 2, groups=channels, bias=False)
        self.kernels = kernels
        steps = itertools.pairwise(kernels) if transform else ()
        self.matrices = nn.ParameterDict({f"{large}to{small}": torch.eye(small**2) for small, large in steps})

    def kernel(self, channels: int, size: int) -> Tensor:
        """Weights of the first channels, ``[channels, 1, size, size]``.

        Raises:
            ValueError: If there is no kernel of this size.
        """
        if size not in self.kernels:
            raise ValueError(f"The size of a kernel of this convolution must be one of {self.kernels}; got {size}.")
        weight = self.weight[:channels]
        if not self.matrices:
            return laid_out(_centre(weight, size), self.weight)
        with torch.autocast(weight.device.type, enabled=False):  # rounded once, as the weights of other layers are
            for small, large in zip(self.kernels[-2::-1], self.kernels[:0:-1], strict=True):
                if small < size:
                    break
                flat = _centre(weight, small).reshape(len(weight), small**2)
                weight = F.linear(flat, self.matrices[f"{large}to{small}"]).view(-1, 1, small, small)
        return laid_out(weight, self.weight)

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """``[B, C, H, W] -> [B, C, ceil(H / stride), ceil(W / stride)]``; by default with the largest kernel."""
        size, channels = size or self.kernels[-1], x.shape[1]
        return F.conv2d(x, self.kernel(channels, size), None, self.stride, size // 2, groups=channels)

    def part(self, name: str, shape: Sequence[int]) -> Tensor | None:
        return self.kernel(shape[0], shape[-1]) if shape[-1] in self.kernels else None


def laid_out(part: Tensor, whole: Tensor) -> Tensor:
    """A part of the weights as an extracted network has it: dense, with the strides its layout asks for."""
    layout = layout_of(whole)
    return part.contiguous(memory_format=layout).to(memory_format=layout)  # each leaves some strides alone


def _centre(weight: Tensor, size: int) -> Tensor:
    """The inner ``size`` by ``size`` of ``[C, 1, k, k]``."""
    margin = (weight.shape[-1] - size) // 2
    return weight[:, :, margin : margin + size, margin : margin + size]


class ElasticBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation of the first channels; running statistics of the others stay as they are.

    With ``momentum=None`` the average is over all batches since ``reset_running_stats()``, however many channels they
    had: recalibrate one architecture at a time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C, H, W]``."""
        channels = x.shape[1]
        if channels == self.num_features:
            return super().forward(x)
        average = 0.0 if self.momentum is None else self.momentum
        moves = self.training and self.track_running_stats
        if moves and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                average = 1.0 / float(self.num_batches_tracked)
        mean, var = self.running_mean, self.running_var
        uses = mean is not None and var is not None and (moves or not self.training)
        return F.batch_norm(
            x,
            mean[:channels] if uses and mean is not None else None,
            var[:channels] if uses and var is not None else None,
            self.weight[:channels] if self.affine else None,
            self.bias[:channels] if self.affine else None,
            self.training or mean is None,
            average,
            self.eps,
        )


class ElasticLinear(nn.Linear):
    """Linear layer that uses its first inputs and outputs."""

    def forward(self, x: Tensor, out_features: int | None = None) -> Tensor:
        """``[..., features] -> [..., out_features]``; by default all outputs."""
        own = self._parameters["bias"]
        bias = None if own is None else own[:out_features]
        return F.linear(x, self.weight[:out_features, : x.shape[-1]].contiguous(), bias)


class ElasticConvNorm(nn.Module):
    """Elastic convolution, batch normalisation, activation.

    Args:
        conv: The convolution.
        act: The activation; none by default.
    """

    def __init__(self, conv: ElasticConv2d | ElasticDepthwise, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.bn, self.act = conv, ElasticBatchNorm2d(conv.out_channels), act

    def forward(self, x: Tensor, choice: int | None = None) -> Tensor:
        """``[B, C_in, H, W] -> [B, C_out, H', W']``; ``choice`` is what the convolution leaves open."""
        y: Tensor = self.bn(self.conv(x, choice))
        return y if self.act is None else self.act(y)


class SqueezeExcitation(nn.Module):
    """Scale every channel by a function of the means of all channels (arXiv:1709.01507), as MobileNetV3 does.

    Args:
        channels: C; a quarter of it, rounded to a multiple of 8, is in between.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = make_divisible(channels // REDUCTION)
        self.reduce, self.expand = nn.Conv2d(channels, middle, 1), nn.Conv2d(middle, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C, H, W]``."""
        scale = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * F.hardsigmoid(scale)


class ElasticSqueezeExcitation(nn.Module):
    """:class:`SqueezeExcitation` of the first channels.

    Args:
        channels: Most channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = make_divisible(channels // REDUCTION)
        self.reduce = ElasticConv2d(channels, middle, bias=True)
        self.expand = ElasticConv2d(middle, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C, H, W]``."""
        channels = x.shape[1]
        middle = make_divisible(channels // REDUCTION)
        scale = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True), middle)), channels)
        return x * F.hardsigmoid(scale)


class ElasticBlock(nn.Module, ABC):
    """A block whose inner channels are interchangeable: any order of them computes the same."""

    @abstractmethod
    def sort_channels(self) -> None:
        """Put the inner channels in order of the absolute weights that read them, in place, largest sum first."""


def conv_norm(conv: nn.Conv2d, act: nn.Module | None = None) -> nn.Sequential:
    """The plain form of :class:`ElasticConvNorm`, with layers of the same names."""
    parts = {"conv": conv, "bn": nn.BatchNorm2d(conv.out_channels)}
    return nn.Sequential(OrderedDict(parts if act is None else {**parts, "act": act}))


def by_importance(weight: Tensor) -> Tensor:
    """Order of the channels that a convolution or a linear layer reads, ``[C]``: largest sum of absolute weights first.

    Args:
        weight: ``[C_out, C, ...]``.
    """
    others = [dim for dim in range(weight.dim()) if dim != 1]
    return weight.abs().sum(others).argsort(descending=True, stable=True)


def permute_inputs(layer: nn.Conv2d | nn.Linear, order: Tensor) -> None:
    """Let a layer read its channels in another order, in place."""
    layer.weight.copy_(layer.weight[:, order])


def permute_outputs(layer: ElasticConvNorm | nn.Conv2d | nn.Linear, order: Tensor) -> None:
    """Let a layer write its channels in another order, in place, and normalise them in that order."""
    parts: list[nn.Module] = [layer.conv, layer.bn] if isinstance(layer, ElasticConvNorm) else [layer]
    for part in parts:
        for name, tensor in {**part._parameters, **part._buffers}.items():
            if tensor is not None and name != "num_batches_tracked":
                tensor.copy_(tensor[order])


def inherit_slices(target: nn.Module, source: nn.Module) -> None:
    """Copy into every layer of ``target`` what the elastic layer of the same name in ``source`` uses for its shape.

    Raises:
        ValueError: If ``source`` has no such layer or tensor, or a smaller one.
    """
    elastic = dict(source.named_modules())
    with torch.no_grad():
        for name, layer in target.named_modules():
            shared = elastic.get(name)
            for part, own in {**layer._parameters, **layer._buffers}.items():
                if own is not None:
                    whole = _whole(shared, part, own)
                    if whole is None:
                        raise ValueError(
                            f"{type(source).__name__} must have {name}.{part}, at least of shape {list(own.shape)}, "
                            f"for {type(target).__name__} to inherit it. Give the layers of both the same names."
                        )
                    own.copy_(whole[tuple(slice(k) for k in own.shape)])


def _whole(layer: nn.Module | None, part: str, own: Tensor) -> Tensor | None:
    """The tensor that ``own`` is the first part of; none if there is none."""
    if isinstance(layer, PartialLayer) and (used := layer.part(part, own.shape)) is not None:
        return used
    whole = getattr(layer, part, None)
    if not isinstance(whole, Tensor) or whole.dim() != own.dim():
        return None
    return whole if all(n >= k for n, k in zip(whole.shape, own.shape, strict=True)) else None
