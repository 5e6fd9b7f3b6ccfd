"""ZiCo: inverse coefficient of variation of gradients (Li et al., ICLR 2023, arXiv:2301.11300)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from oneshot.inputs import Inputs, length, mapped

from .base import Batch, Proxy, gradients, weights_of


@dataclass(frozen=True)
class Zico(Proxy):
    """``sum_l log sum_w E|g| / sqrt(Var g)``: mean and variance of every weight's gradient over batches (eq. 16).

    The batch is cut into ``batches`` parts; the authors take two batches of 128. The variance is that of the
    population, weights whose gradient does not vary are left out, and so are layers of such weights only.

    Args:
        batches: Parts, at least 2.

    Raises:
        ValueError: If there are fewer than two, or fewer samples than parts.
    """

    name: ClassVar[str] = "zico"
    needs_targets: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True
    fewest: ClassVar[int] = 2
    batches: int = 2

    def __post_init__(self) -> None:
        if self.batches < 2:
            raise ValueError(f"zico must have at least two batches, or nothing varies; got batches={self.batches}.")

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        if length(batch.inputs) < self.batches:
            raise ValueError(
                f"zico must have a sample for each of its {self.batches} batches; got {length(batch.inputs)}. Give "
                "more samples, or Zico(batches=2)."
            )
        assert batch.targets is not None  # `score` has checked it
        weights = weights_of(network)
        by_batch = []
        for i, targets in enumerate(torch.tensor_split(batch.targets, self.batches)):
            part = Batch(_part(batch.inputs, self.batches, i), targets, batch.task)
            by_batch.append(gradients(part.loss(network), weights))
        return float(sum(layer_score(torch.stack(g)) for g in zip(*by_batch, strict=True)))


def _part(inputs: Inputs, parts: int, i: int) -> Inputs:
    return mapped(lambda x: torch.tensor_split(x, parts)[i], inputs)


def layer_score(g: Tensor) -> float:
    """``log sum E|g| / sqrt(Var g)`` of the gradients of a layer, ``[batches, ...]``; 0 if none of them varies.

    It is NaN where one is not finite.
    """
    g = g.double().flatten(1)
    if not g.isfinite().all():
        return math.nan
    deviation = g.std(0, correction=0)
    varies = deviation > 0
    if not varies.any():
        return 0.0
    return float((g.abs().mean(0)[varies] / deviation[varies]).sum().log())
