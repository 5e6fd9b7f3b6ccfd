"""Exact size of a network: parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Counts:
    """Size of a network.

    Args:
        params: Number of scalars in all parameters, those of an auxiliary head included.
        macs: Multiply-accumulates of one forward pass of one image.
    """

    params: int
    macs: int


def count(network: nn.Module, input_shape: tuple[int, ...]) -> Counts:
    """Count the parameters of ``network`` and the multiply-accumulates of ``network(x)`` for one image.

    MACs are what papers of this field call FLOPs: the multiplications of ``nn.Conv*d``, ``nn.ConvTranspose*d`` and
    ``nn.Linear``, as they run. Biases, batch normalisation, activations, pooling and additions count nothing, and
    neither does what ``forward`` does not run (an auxiliary head) or computes without such a module.

    The network runs once, in eval mode, where it is; its training flags are restored.

    Args:
        network: Takes ``[B, C, H, W]``.
        input_shape: Shape of one input, C, H, W.

    Example:
        >>> count(nn.Conv2d(3, 16, 3, padding=1, bias=False), (3, 32, 32))
        Counts(params=432, macs=442368)
    """
    like = next(network.parameters(), torch.empty(0))
    x = torch.zeros(1, *input_shape, device=like.device, dtype=like.dtype)
    return Counts(sum(p.numel() for p in network.parameters()), count_macs(network, lambda: network(x)))


def count_macs(network: nn.Module, run: Callable[[], object]) -> int:
    """Multiply-accumulates of the modules of ``network`` during ``run()``, in eval mode and without gradients."""
    macs = 0

    def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(module.weight, Tensor)
        # Every output (transposed: every input) meets the weights of one filter, or of one row of the matrix.
        applications = args[0].numel() if getattr(module, "transposed", False) else output.numel()
        macs += applications * module.weight[0].numel()

    training = {module: module.training for module in network.modules()}
    counted = [m for m in training if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)]
    hooks = [module.register_forward_hook(add) for module in counted]
    try:
        network.eval()
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
        for module, flag in training.items():
            module.training = flag
    return macs
