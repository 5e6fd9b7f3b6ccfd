"""Latency as a metric of evaluators: measured on this machine, or by what was measured before."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

from oneshot.cost.latency.device import Device, DType, Runtime
from oneshot.cost.model import CostModel
from oneshot.cost.resolve import resolve_cost
from oneshot.discrete.protocol import Proposal
from oneshot.supernets.base import Subnet, Supernet

LATENCY = "latency"  # the metric


@dataclass(frozen=True)
class MeasuredLatency:
    """Latency of a network on this machine, the median of some passes.

    An evaluator that gets it has the metric ``latency``, in ms, which may be an objective: ``"min latency"``. Networks
    are measured one by one, right after their evaluation. What runs at the same time slows them down; with several
    ``workers`` that is the other evaluations, so that a table of ``oneshot measure`` is the better choice there.

    Args:
        runtime: See :class:`~oneshot.cost.Device`.
        device: Likewise.
        threads: Likewise.
        batch: Likewise.
        dtype: Likewise.
        passes: Passes that are timed.
        warm_up: Passes before them.

    Raises:
        ValueError: If a number is below its least; when a network is measured, if the device is not there.
        MissingExtraError: When a network is measured, if the runtime is not installed.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
        >>> MeasuredLatency(passes=3)(supernet.extract(supernet.space.sample(0))) > 0
        True
    """

    runtime: Runtime = "eager"
    device: str = "cpu"
    threads: int | None = None
    batch: int = 1
    dtype: DType = "float32"
    passes: int = 30
    warm_up: int = 5

    def __post_init__(self) -> None:
        if self.passes < 1 or self.warm_up < 0:
            raise ValueError(f"passes must be at least 1 and warm_up at least 0; got {self.passes} and {self.warm_up}.")

    def __call__(self, network: Subnet) -> float:
        """Milliseconds of one pass of a network; the network stays as it is."""
        device = Device(self.runtime, self.device, batch=self.batch, dtype=self.dtype, threads=self.threads)
        with device.ready():
            run = device.prepare(copy.deepcopy(network).cpu())
            for _ in range(self.warm_up):
                device.time(run)
            return float(median(device.time(run) for _ in range(self.passes)))


def latency_metric(given: MeasuredLatency | str, supernet: Supernet | None) -> Callable[[Proposal, Subnet], float]:
    """The latency of the network of a proposal, in ms.

    Args:
        given: What to measure on, or the file of a latency table or of measured networks, which knows the networks of
            the supernet.
        supernet: Whose networks are evaluated; None if they are of none.

    Raises:
        ValueError: If a file is of other networks, is doubtful, or there is no supernet to ask it for.
        FileNotFoundError: If there is no such file.
    """
    if isinstance(given, MeasuredLatency):
        return partial(_measured, given)
    if supernet is None:
        raise ValueError(
            f"latency must be a MeasuredLatency where networks are of no supernet; got {given!r}, a file, which knows "
            "the networks of one."
        )
    return partial(_looked_up, resolve_cost(given, supernet))


def _measured(given: MeasuredLatency, proposal: Proposal, network: Subnet) -> float:
    return given(network)


def _looked_up(cost: CostModel, proposal: Proposal, network: Subnet) -> float:
    return cost.cost(proposal.config)
