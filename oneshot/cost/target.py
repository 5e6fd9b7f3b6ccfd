"""Derive a network that meets the latency target of a search, by measuring it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.space import SubnetConfig

from .latency.device import LatencyDevice
from .latency.measure import measure_latencies
from .latency.table import UNIT
from .latency.timings import Progress
from .penalty import CostPenalty

REPEATS = 5  # measurements of a network, whose median counts
ABOVE = 1.01  # times the target still counts as met: timers are no better
AIM = 0.97  # times the target is aimed at, so that a network that is measured again is not above it


@dataclass(frozen=True)
class TargetAttempt:
    """One network that was derived for a target and measured.

    Args:
        config: The architecture.
        predicted: Its cost by the penalty's model, in the unit of the target.
        measured: Median of its measurements, in the same unit.
        measurements: All its measurements.
    """

    config: SubnetConfig
    predicted: float
    measured: float
    measurements: tuple[float, ...]

    def meets(self, target: float) -> bool:
        """Whether what was measured keeps to a target: 1 % above it is no more than timers are wrong by."""
        return self.measured <= ABOVE * target

    def verdict(self, target: float) -> str:
        """Whether a target was met, and by how much, in a sentence."""
        off, (low, high) = self.measured / target - 1, (min(self.measurements), max(self.measurements))
        where = f"{abs(off):.1%} {'above' if off > 0 else 'below'} it"
        return (
            f"Target of {target:g} {UNIT} {'met' if self.meets(target) else 'NOT met'}: {self.measured:.4g} {UNIT} "
            f"measured ({len(self.measurements)} times, {low:.4g} to {high:.4g}), {where}; up to {ABOVE - 1:.0%} above "
            "counts as met."
        )


def meet_target(
    penalty: CostPenalty,
    supernet: OperationSupernet,
    probabilities: Mapping[str, npt.NDArray[np.floating[Any]]],
    device: LatencyDevice,
    *,
    within: float = 0.05,
    attempts: int = 5,
    progress: Progress | None = None,
) -> list[TargetAttempt]:
    """Derive a network for the penalty's target, measure it, and derive again for what the prediction was off by.

    A latency table is right on average over the space; for one network, above all for a very fast or a very slow one,
    it may be off by more than a target allows. So the target that is derived for is divided by the measured error,
    until a measurement is at most 1 % above the target and not more than twice ``within`` below it.

    Args:
        penalty: Bound to the supernet, with the form ``target``.
        supernet: Extracts the networks.
        probabilities: ``{choice: [R, O]}``.
        device: Where the target is to be met.
        within: Relative tolerance.
        attempts: Networks to measure at most.
        progress: See :func:`~oneshot.cost.measure`.

    Returns:
        All that was measured, the best last: the slowest that keeps to the target, or if none does, the fastest.

    Raises:
        ValueError: If the penalty is of another form, or a number is out of its range.
    """
    if penalty.form != "target" or penalty.cost is None:
        raise ValueError(f"To meet a target, the form of the penalty must be 'target'; got {penalty.form!r}.")
    if penalty.cost.unit != UNIT:
        raise ValueError(f"A target that is measured must be in {UNIT}; the penalty has one in {penalty.cost.unit}.")
    if not (0 < within < 1 and attempts >= 1):
        raise ValueError(f"within must be between 0 and 1, and attempts at least 1; got {within} and {attempts}.")
    aim, found, space = penalty.target, list[TargetAttempt](), supernet.space
    for _ in range(attempts):
        config = penalty.most_likely(probabilities, space, target=aim)
        if any(config == attempt.config for attempt in found):
            break  # no other network lies between these
        times = measure_latencies(supernet, device, space.encode([config] * REPEATS), progress=progress)
        found.append(TargetAttempt(config, penalty.cost.cost(config), float(np.median(times)), tuple(times.tolist())))
        if (1 - 2 * within) * penalty.target <= found[-1].measured and found[-1].meets(penalty.target):
            break
        aim *= AIM * penalty.target / found[-1].measured
    kept = [attempt for attempt in found if attempt.meets(penalty.target)]
    best = max(kept, key=lambda it: it.measured) if kept else min(found, key=lambda it: it.measured)
    return [*(attempt for attempt in found if attempt is not best), best]
