"""Parameters and MACs: the baselines that must stand in every table of proxies.

ZiCo's authors found no earlier proxy that is better than the number of parameters everywhere (arXiv:2301.11300).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from oneshot.cost.counting.network import count
from oneshot.inputs import shape_of

from .base import Batch, Proxy


@dataclass(frozen=True)
class Params(Proxy):
    """Number of parameters, each counted once."""

    name: ClassVar[str] = "params"

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        return float(sum(parameter.numel() for parameter in network.parameters()))


@dataclass(frozen=True)
class Macs(Proxy):
    """Multiply-accumulates of one input, as :func:`oneshot.cost.count` counts them."""

    name: ClassVar[str] = "macs"

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        whole = isinstance(batch.inputs, Tensor) and not batch.inputs.is_floating_point()
        dtype = batch.inputs.dtype if isinstance(batch.inputs, Tensor) and whole else None
        if isinstance(batch.inputs, Mapping) and not hasattr(network, "vocabularies"):
            network.vocabularies = {n: 1 for n, part in batch.inputs.items() if not part.is_floating_point()}  # type: ignore[assignment]
        return float(count(network, shape_of(batch.inputs), dtype=dtype).macs)
