"""Weights and inputs as the papers draw them. What is drawn does not depend on the layout in memory."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from oneshot._lightning import BatchNorm, ConvNd
from oneshot.supernets.base import NORMALISATION

Initial = Literal["gaussian", "kaiming"]


def normal_like(x: Tensor) -> Tensor:
    """Numbers of N(0, 1) in the shape, type and layout of a tensor."""
    return torch.empty_like(x).copy_(torch.randn(x.shape, dtype=x.dtype, device=x.device))


@torch.no_grad()
def draw_weights(network: nn.Module, kind: Initial) -> None:
    """Draw all weights anew: parameters of two or more axes; biases are 0, scales of batch normalisation 1.

    A weight that is computed from others, such as by ``parametrizations.weight_norm``, becomes a plain one.

    Args:
        network: Changed in place.
        kind: ``"gaussian"`` is N(0, 1) (Zen-NAS, SWAP), ``"kaiming"`` N(0, 2 / inputs) (AZ-NAS).
    """
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]  # a ModuleDict
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
                value = getattr(module, name)
                delattr(module, name)  # without gradients it is left as a plain tensor
                module.register_parameter(name, nn.Parameter(value.detach(), requires_grad=value.is_floating_point()))
    for module in network.modules():
        layer = isinstance(module, ConvNd | nn.Linear)
        if isinstance(module, BatchNorm | nn.GroupNorm) and module.affine:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, NORMALISATION):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() >= 2 and parameter.is_floating_point():
                drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
                if kind == "gaussian":
                    nn.init.normal_(drawn)
                else:
                    nn.init.kaiming_normal_(drawn, mode="fan_in", nonlinearity="relu")
                parameter.copy_(drawn)
            elif layer and name == "bias":
                nn.init.zeros_(parameter)
