"""Weights as the papers draw them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from oneshot._lightning import BatchNorm, ConvNd

Initial = Literal["gaussian", "kaiming"]


@torch.no_grad()
def draw_weights(network: nn.Module, kind: Initial) -> None:
    """Draw the weights of convolutions and linear layers anew; biases are 0, scales of batch normalisation 1.

    Args:
        network: Changed in place.
        kind: ``"gaussian"`` is N(0, 1) (Zen-NAS, SWAP), ``"kaiming"`` N(0, 2 / inputs) (AZ-NAS).
    """
    for module in network.modules():
        if isinstance(module, ConvNd | nn.Linear):
            if kind == "gaussian":
                nn.init.normal_(module.weight)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, BatchNorm | nn.GroupNorm) and module.affine:
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
