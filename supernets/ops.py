"""Candidate operations, one dictionary from name to factory. Genotypes are text; this is what their words mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Zero(nn.Module):
    """Nothing: zeros in the shape the other candidates of the edge produce."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C, ceil(H / stride), ceil(W / stride)]``."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(nn.Module):
    """Standard normal noise in place of the input: the harmful candidate of space S4 (arXiv:1909.09656, section 3)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C, ceil(H / stride), ceil(W / stride)]``, new noise at every call."""
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


# What was computed of one state already, for all edges that leave it: by name, or by a module they share.
Seen: TypeAlias = dict[object, Tensor]


def once(seen: Seen, what: object, compute: Callable[[], Tensor]) -> Tensor:
    """Compute something of a state, or take what another edge has computed."""
    if what not in seen:
        seen[what] = compute()
    return seen[what]


class ReadsState(nn.Module):
    """An operation whose first steps depend on the state it reads only, so that other edges can use them."""

    def forward(self, x: Tensor, seen: Seen | None = None) -> Tensor:
        """Run on a state; ``seen`` is shared by all operations that read it."""
        raise NotImplementedError


class DilatedDepthwise(nn.Conv2d, ReadsState):
    """Depthwise convolution of dilation 2, computed as convolutions without holes where that is faster.

    Every output reads pixels that are a multiple of 2 apart. With stride 2 these are the even rows and columns, and the
    others can be left out. With stride 1 there are four sets of pixels that never meet, so the image falls into four of
    a quarter of its size, convolved as further images of the batch: the gradients of a dilated convolution take a CPU
    2 to 14 times as long. The function and its parameters are those of ``nn.Conv2d``. It reads the rectified state.

    Raises:
        ValueError: If the kernel is even, which cannot keep the resolution.
    """

    def __init__(self, channels: int, kernel: int, *, stride: int) -> None:
        if kernel % 2 == 0:
            raise ValueError(f"Kernels must have odd sizes, or the resolution would change; got {kernel}.")
        super().__init__(
            channels, channels, kernel, stride, padding=kernel - 1, dilation=2, groups=channels, bias=False
        )

    def forward(self, x: Tensor, seen: Seen | None = None) -> Tensor:
        """``[B, C, H, W] -> [B, C, ceil(H / stride), ceil(W / stride)]``."""
        padding, seen = self.kernel_size[0] // 2, {} if seen is None else seen
        if self.stride[0] == 2:
            even = once(seen, "even", lambda: contiguous_like(x[:, :, ::2, ::2], x))
            return F.conv2d(even, self.weight, padding=padding, groups=self.groups)
        b, c, h, w = x.shape
        learns = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        small = min(h, w) < 6  # parts smaller than a kernel of 3
        if x.device.type != "cpu" or h % 2 or w % 2 or small or not learns:
            return nn.Conv2d.forward(self, x)
        parts = once(seen, "phases", lambda: _phases(x))
        y = F.conv2d(parts, self.weight, padding=padding, groups=self.groups).permute(0, 2, 3, 1)
        whole = y.reshape(2, 2, b, h // 2, w // 2, c).permute(2, 3, 0, 4, 1, 5).reshape(b, h, w, c)
        return whole.permute(0, 3, 1, 2)


def _phases(x: Tensor) -> Tensor:
    """``[B, C, H, W] -> [4 * B, C, H / 2, W / 2]``: a quarter of the pixels each; channels last, which is fast."""
    b, c, h, w = x.shape
    parts = x.permute(0, 2, 3, 1).reshape(b, h // 2, 2, w // 2, 2, c).permute(2, 4, 0, 1, 3, 5)
    return parts.reshape(4 * b, h // 2, w // 2, c).permute(0, 3, 1, 2)


def contiguous_like(part: Tensor, whole: Tensor) -> Tensor:
    """A copy of some pixels in the layout of the image they are from."""
    last = whole.is_contiguous(memory_format=torch.channels_last)
    return part.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


class Pointwise(nn.Conv2d):
    """1x1 convolution without bias that picks the pixels it will read before it reads them.

    A strided ``nn.Conv2d`` computes the same, but writes out of its bounds on CPUs without AVX-512, for fewer than 8
    channels in channels-last layout (uxlfoundation/oneDNN issue 6035).
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__(in_channels, out_channels, 1, bias=False)
        self.step = stride

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, C_out, ceil(H / stride), ceil(W / stride)]``."""
        return super().forward(x[:, :, :: self.step, :: self.step])


class FactorizedReduce(ReadsState):
    """Halve the resolution without discarding pixels: two strided 1x1 convolutions, the second shifted by one pixel.

    Unlike the original, odd sizes work: the shifted copy is padded by a zero row and column that even sizes never read.

    Raises:
        ValueError: If ``out_channels`` is odd; each convolution makes half of them.
    """

    def __init__(self, in_channels: int, out_channels: int, *, affine: bool = True) -> None:
        super().__init__()
        if out_channels % 2:
            raise ValueError(
                f"FactorizedReduce must have an even number of output channels, which it makes in two halves; got "
                f"{out_channels}. Choose an even number of channels."
            )
        self.conv_1 = nn.Conv2d(in_channels, out_channels // 2, 1, bias=False)
        self.conv_2 = nn.Conv2d(in_channels, out_channels // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor, seen: Seen | None = None) -> Tensor:
        """``[B, C_in, H, W] -> [B, C_out, ceil(H / 2), ceil(W / 2)]``."""
        # Picking pixels and then convolving without stride, not with it: see Pointwise.
        seen = {} if seen is None else seen
        rectified = once(seen, "relu", lambda: F.relu(x))
        even = once(seen, "even", lambda: contiguous_like(rectified[:, :, ::2, ::2], x))
        odd = once(seen, "odd", lambda: contiguous_like(_odd(rectified), x))
        out: Tensor = self.bn(torch.cat([self.conv_1(even), self.conv_2(odd)], dim=1))
        return out


def _odd(x: Tensor) -> Tensor:
    """Every second pixel from the second on; zeros where an odd size has none."""
    height, width = x.shape[2:]
    return F.pad(x[:, :, 1::2, 1::2], (0, width % 2, 0, height % 2))


def relu_conv_bn(
    in_channels: int, out_channels: int, kernel: int, stride: int, *, affine: bool = True
) -> nn.Sequential:
    """ReLU, convolution without bias, batch normalisation; keeps the resolution at stride 1."""
    conv = (
        Pointwise(in_channels, out_channels, stride=stride)
        if kernel == 1
        else nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    )
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(out_channels, affine=affine))


def dil_conv(
    channels: int, kernel: int, stride: int, *, dilation: Literal[1, 2] = 2, affine: bool = True
) -> nn.Sequential:
    """ReLU, depthwise convolution (dilated), pointwise convolution, batch normalisation."""
    return nn.Sequential(
        nn.ReLU(),
        DilatedDepthwise(channels, kernel, stride=stride)
        if dilation == 2
        else nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def sep_conv(channels: int, kernel: int, stride: int, *, affine: bool = True) -> nn.Sequential:
    """Depthwise-separable convolution applied twice, the stride in the first."""
    return nn.Sequential(
        *dil_conv(channels, kernel, stride, dilation=1, affine=affine),
        *dil_conv(channels, kernel, 1, dilation=1, affine=affine),
    )


def rectangular_conv(channels: int, kernel: int, stride: int, *, affine: bool = True) -> nn.Sequential:
    """ReLU, 1xk then kx1 convolution, batch normalisation; each carries the stride along its own axis."""
    pad = kernel // 2
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, kernel), stride=(1, stride), padding=(0, pad), bias=False),
        nn.Conv2d(channels, channels, (kernel, 1), stride=(stride, 1), padding=(pad, 0), bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def dilated_conv_3x3(channels: int, stride: int, *, affine: bool = True) -> nn.Sequential:
    """ReLU, 3x3 convolution of dilation 2 over all channels (not depthwise, as :func:`dil_conv` is), normalisation."""
    conv = nn.Conv2d(channels, channels, 3, stride, padding=2, dilation=2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(channels, affine=affine))


def skip_connect(channels: int, stride: int, *, affine: bool = True) -> nn.Module:
    """The identity, or a :class:`FactorizedReduce` where the resolution changes."""
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine=affine)


# Operations of users: name -> factory(channels, stride), or its class path.
OpFactory: TypeAlias = Callable[[int, int], nn.Module]
OwnOps: TypeAlias = Mapping[str, str | OpFactory]

# name -> factory(channels, stride, affine)
OPS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "none": lambda c, s, a: Zero(s),
    "noise": lambda c, s, a: Noise(s),
    "skip_connect": lambda c, s, a: skip_connect(c, s, affine=a),
    "max_pool_3x3": lambda c, s, a: nn.MaxPool2d(3, stride=s, padding=1),
    "max_pool_5x5": lambda c, s, a: nn.MaxPool2d(5, stride=s, padding=2),
    "max_pool_7x7": lambda c, s, a: nn.MaxPool2d(7, stride=s, padding=3),
    "avg_pool_3x3": lambda c, s, a: nn.AvgPool2d(3, stride=s, padding=1, count_include_pad=False),
    "sep_conv_3x3": lambda c, s, a: sep_conv(c, 3, s, affine=a),
    "sep_conv_5x5": lambda c, s, a: sep_conv(c, 5, s, affine=a),
    "sep_conv_7x7": lambda c, s, a: sep_conv(c, 7, s, affine=a),
    "dil_conv_3x3": lambda c, s, a: dil_conv(c, 3, s, affine=a),
    "dil_conv_5x5": lambda c, s, a: dil_conv(c, 5, s, affine=a),
    "conv_3x1_1x3": lambda c, s, a: rectangular_conv(c, 3, s, affine=a),
    "conv_7x1_1x7": lambda c, s, a: rectangular_conv(c, 7, s, affine=a),
    "nor_conv_1x1": lambda c, s, a: relu_conv_bn(c, c, 1, s, affine=a),
    "nor_conv_3x3": lambda c, s, a: relu_conv_bn(c, c, 3, s, affine=a),
    "nor_dil_conv_3x3": lambda c, s, a: dilated_conv_3x3(c, s, affine=a),
}


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Zero each image of the batch with ``probability`` and scale the others up (arXiv:1605.07648, as in DARTS' code).

    Args:
        x: ``[B, ...]``.
        probability: In [0, 1).
    """
    keep = 1 - probability
    return x * x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(keep).div_(keep)


def scheduled_drop_path(final: float, *, step: int, steps: int, cell: int = 0, cells: int = 1) -> float:
    """Probability of dropping a path that grows over the training and with the depth (ScheduledDropPath).

    ``final * min(1, step / steps) * (cell + 1) / cells``. The paper has the growth over time (arXiv:1707.07012, section
    3.1); that over depth is the authors' code (tensorflow/models, slim, nasnet_utils, ``drop_connect_version`` v3).

    Args:
        final: In the last cell, at the end of the training.
        step: Steps taken so far.
        steps: Steps of this training; one that starts from trained weights counts its own.
        cell: Index of the cell, from 0.
        cells: Number of cells.

    Example:
        >>> scheduled_drop_path(0.4, step=50, steps=100, cell=9, cells=20)
        0.1
    """
    return final * min(1.0, step / steps) * (cell + 1) / cells


def by_resolution(maps: Iterable[Tensor]) -> list[Tensor]:
    """The last of every run of maps ``[B, C, H, W]`` of one height and width; only these are kept."""
    found: list[Tensor] = []
    for features in maps:
        if found and found[-1].shape[2:] == features.shape[2:]:
            found.pop()
        found.append(features)
    return found


def sum_in_turn(states: Sequence[Tensor], entering: Sequence[tuple[nn.Module, int]], drop: float = 0.0) -> Tensor:
    """State of a node: operations on earlier states, each added before the next one runs, so that few are kept.

    Args:
        states: Earlier states, ``[B, C, H, W]`` each.
        entering: The operation of every edge that enters the node, and the state it reads; at least one.
        drop: Probability of dropping a path that is not an identity (arXiv:1707.07012, ScheduledDropPath).
    """
    total: Tensor | None = None
    for op, source in entering:
        term = op(states[source])
        if drop > 0 and not isinstance(op, nn.Identity):
            term = drop_path(term, drop)
        total = term if total is None else total + term
        del term  # or it would be kept while the next one is computed
    assert total is not None
    return total


def check_ops(names: Sequence[object], own: OwnOps | None = None) -> None:
    """Check that every name is a known operation.

    Args:
        names: The names.
        own: Operations that are known beside :data:`OPS`.

    Raises:
        ValueError: Naming the unknown operation and all known ones.
    """
    for name in names:
        if name not in OPS and name not in (own or {}):
            raise ValueError(
                f"An operation must be one of {', '.join((*OPS, *(own or {})))}; got {name!r}. Give one of your own "
                f"with its factory: ops={{{name!r}: factory}}."
            )


def make_op(
    name: str, channels: int, stride: int, *, affine: bool, pool_bn: bool = False, own: OwnOps | None = None
) -> nn.Module:
    """Build one candidate operation that keeps the number of channels.

    Args:
        name: A key of :data:`OPS`, or of ``own``.
        channels: C in and out.
        stride: 1 keeps the resolution, 2 halves it.
        affine: Learnable scale and shift in batch normalisation.
        pool_bn: Batch normalisation without scale after pooling, as in a DARTS supernet (arXiv:1806.09055, code), where
            every candidate must arrive on the same scale.
        own: See :func:`~oneshot.supernets.own_ops.checked_ops`.

    Raises:
        ValueError: If the name is unknown, or an operation of one's own does not keep to its rules.
    """
    check_ops([name], own)
    if own and name in own:
        from .own_ops import make_own_op

        return make_own_op(name, own[name], channels, stride)
    op = OPS[name](channels, stride, affine)
    if pool_bn and "pool" in name:
        return nn.Sequential(op, nn.BatchNorm2d(channels, affine=False))
    return op
