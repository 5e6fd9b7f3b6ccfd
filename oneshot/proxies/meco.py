"""MeCo: minimum eigenvalue of the correlations of feature maps (Jiang et al., NeurIPS 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from oneshot.errors import NoScoreError

from .base import Batch, Proxy, numbers_with_digits, output_of
from .zen import gaussian_like


@dataclass(frozen=True)
class Meco(Proxy):
    """``sum_l min eigenvalue of corr(F_l)``, ``F_l`` the feature maps of a layer for one random image, a row a channel.

    Entries of the correlations that are not numbers, because a channel is constant, are 0, as in the authors' code.
    Layers are the modules without modules inside. The authors' code registers its hook with every module, so that the
    output of a block counts again for each module around it, and so does what an identity passes on; here each feature
    map counts once. Inputs are Gaussian images of the shape of the batch, for batch normalisation, and the first of
    them is looked at; the authors' is one image of 64 pixels a side.
    """

    name: ClassVar[str] = "meco"
    fewest: ClassVar[int] = 2

    @torch.no_grad()
    def __call__(self, network: nn.Module, batch: Batch) -> float:
        numbers_with_digits(batch.inputs, self.name)
        found: list[float] = []

        def look(module: nn.Module, args: object, out: object) -> None:
            if isinstance(out, Tensor) and out.dim() > 2 and out[0, 0].numel() > 1:
                found.append(least_eigenvalue(out[0].flatten(1)))

        for module in network.modules():
            if not any(True for _ in module.children()) and not isinstance(module, nn.Identity):
                module.register_forward_hook(look)
        output_of(network, gaussian_like(batch.inputs))
        if not found:
            raise NoScoreError(
                f"meco reads feature maps [B, C, ...] of layers, with several positions; {type(network).__name__} has "
                "none. Take a proxy of weights: synflow, snip."
            )
        return sum(found)


def least_eigenvalue(rows: Tensor) -> float:
    """Least eigenvalue of the correlations of finite rows ``[C, N]``; correlations with a constant row are 0."""
    if not rows.isfinite().all():
        return math.nan
    correlation = torch.nan_to_num(torch.corrcoef(rows.double()), nan=0.0, posinf=0.0, neginf=0.0)
    return float(torch.linalg.eigvalsh(correlation.reshape(len(rows), len(rows)))[0])
