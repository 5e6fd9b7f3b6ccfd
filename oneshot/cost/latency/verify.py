"""Compare what a latency table predicts with measurements of networks that it was not made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from oneshot.regression.scores import Agreement
from oneshot.supernets.base import Supernet

from .device import LatencyDevice
from .table import LatencyTable
from .timings import Progress, measure_networks, repeat_noise

CHUNK = 10  # networks between the two measurements of each


@dataclass(frozen=True)
class Verification:
    """Predicted and measured latencies of random networks.

    Every network is measured twice. ``measured`` is the mean of both, relative to the reference network beside it and
    in ms of the table's reference, so that a machine that is slower today is not taken for a table that is wrong;
    ``drift`` says how much slower it was.

    Args:
        genes: The networks, ``[N][G]``.
        predicted: By the table, ms.
        measured: Mean of the two measurements, ms.
        repeats: The two measurements of every network, ``[N][2]``, ms.
        agreement: Of predictions with measurements.
        by_the_clock: The same with the latencies the clock said.
        repeat: Agreement of the second measurement with the first: what a perfect table could reach.
        noise: Standard deviation of one measurement, relative.
        drift: Latency of the reference now, relative to when the table was made, minus 1.
        device: What was measured on.
        date: When, ISO 8601.
    """

    genes: list[list[int]]
    predicted: list[float]
    measured: list[float]
    repeats: list[list[float]]
    agreement: Agreement
    by_the_clock: Agreement
    repeat: Agreement
    noise: float
    drift: float
    device: dict[str, Any]
    date: str

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return asdict(self)


def verify(
    table: LatencyTable,
    supernet: Supernet,
    device: LatencyDevice,
    *,
    networks: int = 50,
    seed: int = 1,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Measure whole random networks end to end, and compare with what the table predicts.

    Args:
        table: The table.
        supernet: Extracts the networks; of the table's space and input shape.
        device: The device; of the table's runtime, device, batch, threads and data type.
        networks: How many networks, N.
        seed: They are drawn from; another than that of the table.
        journal: See :func:`~oneshot.cost.latency.measure.measure`.
        progress: Likewise.

    Raises:
        ValueError: If there are fewer than two networks, the table is not of this supernet and device, or the journal
            has other settings.
        RuntimeError: If the device fails, or gives times that are not positive.
    """
    if networks < 2:
        raise ValueError(f"A verification must have two networks or more; got {networks}.")
    space = supernet.space
    cost = table.cost_of(supernet)
    check_device(table, device)
    genes = space.sample_matrix(networks, seed)
    plan = [row for k in range(0, networks, CHUNK) for row in (*genes[k : k + CHUNK], *genes[k : k + CHUNK])]
    order = [n for k in range(0, networks, CHUNK) for n in 2 * list(range(networks))[k : k + CHUNK]]
    log = measure_networks(
        supernet,
        device,
        plan,
        {"measured": "networks", "networks": networks},
        seed=seed,
        reference=space.encode([table.reference_config])[0],
        journal=journal,
        progress=progress,
    )

    ratios: list[list[float]] = [[] for _ in range(networks)]
    clock: list[list[float]] = [[] for _ in range(networks)]
    for n, visit in zip(order, log.visits, strict=True):
        ratios[n].append(visit.ratio)
        clock[n].append(float(np.median(visit.ms)))
    anchor, predicted = table.reference["ms"], cost.costs(genes)
    repeats = anchor * np.array(ratios)
    return Verification(
        genes=genes.tolist(),
        predicted=predicted.tolist(),
        measured=repeats.mean(1).tolist(),
        repeats=repeats.tolist(),
        agreement=Agreement.of(predicted, repeats.mean(1)),
        by_the_clock=Agreement.of(predicted, np.mean(clock, axis=1)),
        repeat=Agreement.of(repeats[:, 1], repeats[:, 0]),
        noise=repeat_noise(repeats[:, 0], repeats[:, 1]),
        drift=log.reference_ms() / anchor - 1,
        device=device.facts(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def check_device(table: LatencyTable, device: LatencyDevice) -> None:
    """Check that a device is the one a table was measured on; versions may be others.

    Raises:
        ValueError: Naming what differs.
    """
    then = {**table.device, "batch": table.batch, "dtype": table.dtype}
    now = {**device.facts(), "batch": device.batch, "dtype": device.dtype}
    same = ("runtime", "device", "name", "threads", "batch", "dtype")
    different = "; ".join(
        f"{key} was {then.get(key)}, is {now.get(key)}" for key in same if then.get(key) != now.get(key)
    )
    if different:
        raise ValueError(
            f"A table must be verified where it was measured; {different}. Use the same, or measure another table."
        )
