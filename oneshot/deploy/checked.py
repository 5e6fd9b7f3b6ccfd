"""Whether a file gives, loaded again, what the network gives."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oneshot.inputs import cast
from oneshot.supernets.base import Subnet

ROUNDINGS = 4  # largest difference of a reloaded file in what the network itself is off by in 32 bits
TOLERANCE = 1e-5  # largest difference of a reloaded file, relative to the largest output where that exceeds 1


@dataclass(frozen=True)
class CheckedFile:
    """What a file takes, what the network gives for some batches, and what the file gives, loaded again."""

    takes: dict[str, Any]
    wanted: list[Tensor]
    got: list[Tensor]

    def difference(self, name: str, rounding: Callable[[], float]) -> float:
        """The largest difference.

        Args:
            name: Of the file.
            rounding: What the network itself is off by in 32 bits; a last layer with large weights multiplies it.

        Raises:
            RuntimeError: If it is not small.
        """
        wanted = torch.cat(self.wanted)
        difference = (torch.cat(self.got) - wanted).abs().max().item()
        small = TOLERANCE * max(1.0, wanted.abs().max().item())
        if not difference <= small and not difference <= ROUNDINGS * rounding():  # NaN fails too
            raise RuntimeError(
                f"{name}, loaded again, must give the outputs of the network; they differ by {difference:.1e}. "
                "A network that draws random numbers in eval mode, or gives NaN or infinity, cannot be exported."
            )
        return difference


def own_rounding(network: Subnet, batch: Any) -> float:
    """Largest difference between outputs in 32 and in 64 bits; 0 where two runs differ, or 64 bits cannot be run."""
    once, again = network(batch), network(batch)
    if not torch.equal(once, again):
        return 0.0
    try:
        precise = copy.deepcopy(network).double()
        found = (precise(cast(batch, next(precise.parameters()))) - once).abs().max().item()
    except (RuntimeError, StopIteration):
        return 0.0
    return found if math.isfinite(found) else 0.0
