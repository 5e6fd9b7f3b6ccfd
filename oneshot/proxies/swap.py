"""SWAP: sample-wise activation patterns (Peng et al., ICLR 2024, arXiv:2403.04161)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from .activations import open_units
from .base import Batch, Proxy
from .counts import Params


@dataclass(frozen=True)
class Swap(Proxy):
    """Number of distinct patterns: of each ReLU, for which samples of the batch it is open (definition 3.2).

    The authors take the mean over 32 draws of the weights.
    See :mod:`oneshot.proxies.activations` for what counts as a ReLU.
    """

    name: ClassVar[str] = "swap"
    fewest: ClassVar[int] = 2

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        patterns: set[bytes] = set()

        def add(codes: Tensor) -> None:
            patterns.update(distinct_patterns(codes))

        return float(len(patterns)) if open_units(network, batch, add, self.name) else math.nan


def distinct_patterns(codes: Tensor) -> set[bytes]:
    """The distinct columns of codes ``[B, U]``, each as bits in bytes."""
    packed = np.packbits(codes.T.cpu().numpy(), axis=1)
    rows = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).ravel()
    return {bytes(row) for row in np.unique(rows)}


@dataclass(frozen=True)
class RegularisedSwap(Proxy):
    """:class:`Swap` times ``exp(-(P - mu)^2 / sigma)``, P the parameters in thousands (definition 3.5).

    ``mu`` is the size that is wanted and ``sigma`` how much other sizes count; both are of the space and of the
    networks that are scored, so there is no default.

    Args:
        mu: Thousands of parameters.
        sigma: Square of thousands of parameters.

    Raises:
        ValueError: If one of them is not given, or not above 0.
    """

    name: ClassVar[str] = "reg_swap"
    fewest: ClassVar[int] = 2
    mu: float = math.nan
    sigma: float = math.nan

    def __post_init__(self) -> None:
        if not (self.mu > 0 and self.sigma > 0):
            raise ValueError(
                f"reg_swap must be told the size that is wanted, mu > 0 in thousands of parameters, and sigma > 0, how "
                f"much other sizes count; got mu={self.mu}, sigma={self.sigma}. RegularisedSwap(mu=850, sigma=40000) "
                "halves the score 166,000 parameters away from 850,000."
            )

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        thousands = Params()(network, batch) / 1000
        factor = math.exp(-((thousands - self.mu) ** 2) / self.sigma)
        if factor == 0:  # all networks so far from mu would tie
            return math.nan
        return Swap()(network, batch) * factor
