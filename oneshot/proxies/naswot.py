"""Neural architecture search without training (Mellor et al., ICML 2021, arXiv:2006.04647): naswot, and jacov of v1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from oneshot.inputs import length, mapped

from .activations import open_units
from .base import Batch, Proxy, gradients, numbers_with_digits, output_of


@dataclass(frozen=True)
class Naswot(Proxy):
    """``log |det K|``, ``K[i, j]`` the number of ReLUs that are alike for images i and j (arXiv:2006.04647, eq. 2).

    K is singular, and there is no score, if two images open the same ReLUs, for instance because they are equal.
    See :mod:`oneshot.proxies.activations` for what counts as a ReLU.
    """

    name: ClassVar[str] = "naswot"
    fewest: ClassVar[int] = 2

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        samples = length(batch.inputs)
        kernel = torch.zeros(samples, samples, dtype=torch.float64)

        def add(codes: Tensor) -> None:
            kernel.add_(alike(codes).cpu())

        if not open_units(network, batch, add, self.name):
            return math.nan
        return float(torch.linalg.slogdet(kernel)[1])


def alike(codes: Tensor) -> Tensor:
    """How many of U units are equal for each two of B samples: ``[B, U] -> [B, B]``, in 64 bits."""
    x = codes.float()  # sums below 2**24 are exact
    total = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)
    for part in torch.split(x, 2**23, dim=1):
        total += (part @ part.T).double() + ((1 - part) @ (1 - part).T).double()
    return total


@dataclass(frozen=True)
class Jacov(Proxy):
    """``-sum_i log(v_i + k) + 1 / (v_i + k)``, v the eigenvalues of the correlations of the images' Jacobians.

    The Jacobian of an image is the gradient of the sum of its outputs with respect to it, k is 1e-5
    (arXiv:2006.04647v1, section 3; the paper's second version replaces it by naswot).
    """

    name: ClassVar[str] = "jacov"
    needs_gradients: ClassVar[bool] = True
    fewest: ClassVar[int] = 2

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        x = mapped(lambda part: part.requires_grad_(True) if part.is_floating_point() else part, batch.inputs)
        parts = numbers_with_digits(x, self.name)
        jacobian = gradients(output_of(network, x).sum(), parts)
        return correlation_score(torch.cat([g.flatten(1) for g in jacobian], dim=1))


def correlation_score(rows: Tensor, k: float = 1e-5) -> float:
    """``-sum log(v + k) + 1 / (v + k)`` over the eigenvalues v of the correlations of rows ``[B, N]``."""
    correlation = torch.corrcoef(rows.double())
    if not correlation.isfinite().all():
        return float("nan")  # a row is constant
    v = torch.linalg.eigvalsh(correlation)
    return -float(((v + k).log() + 1 / (v + k)).sum())
