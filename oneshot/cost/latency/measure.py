"""Latency tables by measuring: whole networks, in a design from which the candidates' shares can be told.

A block that is timed alone, in a loop, finds its weights in the cache and its memory allocated; in a network it does
not. So only whole networks are timed, as ``extract`` builds them. They are random ones in which all candidates of a row
appear equally often. Each pass runs between two passes of one reference network, and is divided by them, so that
changes of the machine's speed do not matter. Regression then gives every candidate its share. Every network informs
every row, which is more precise than exchanging one block at a time: a weighing design (Hotelling, 1944, Annals of
Mathematical Statistics 15, p. 297).
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

from oneshot.cost.counting.network import count
from oneshot.cost.record import Record, describe_choices, describe_supernet
from oneshot.supernets.base import OperationSupernet, Subnet, Supernet
from oneshot.supernets.space import Floats, IntMatrix

from .design import Places, balanced_design, fit_shares
from .device import LatencyDevice
from .table import LatencyTable
from .timings import Progress, describe, measure_networks, repeat_noise

TABLE_RUNS = 11  # passes of a network of a table

REPEATED = 12  # networks that are measured a second time at the end, for the noise

PER_UNKNOWN = 3  # networks for each latency that is to be found, by default


def measure(
    supernet: Supernet,
    device: LatencyDevice,
    *,
    networks: int | None = None,
    seed: int = 0,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure a latency table of a supernet's candidates.

    Networks are ``supernet.extract(config, inherit=False)`` in eval mode; the supernet itself never runs on the device,
    and the caller's random numbers stay where they are.

    Args:
        supernet: The supernet, on the CPU.
        device: What is measured on.
        networks: How many networks to measure; three for each different latency by default.
        seed: Of the design.
        journal: File that raw timings are appended to, so that measuring goes on where it was interrupted.
        progress: Called after every network with the number of those done and of all.

    Raises:
        ValueError: If there are too few networks to see every candidate, the supernet is elastic, or the journal has
            other settings.
        RuntimeError: If the device fails, or gives times that are not positive.
    """
    if not isinstance(supernet, OperationSupernet):
        raise ValueError(
            f"A latency table has one latency for every candidate in its place; in space {supernet.space.name!r} it "
            "depends on other choices. Measure random networks: measure_latencies(supernet, device, genes), then "
            "fit_predictor(space, genes, latencies)."
        )
    space, places = supernet.space, Places.of(supernet)
    unknowns = len(places.features)
    networks = max(PER_UNKNOWN * unknowns, 2 * REPEATED) if networks is None else networks
    design = balanced_design(space, networks, seed)
    seen = {place for genes in design for place in places.of_genes(genes)}
    unseen = [name for place, name in enumerate(places.names) if place not in seen]
    if networks < REPEATED or unseen:
        raise ValueError(
            f"A table needs at least {REPEATED} networks, in which every candidate appears; got networks={networks}, "
            f"without {', '.join(unseen) or 'nothing'}. Measure more networks; {PER_UNKNOWN * unknowns} is the default."
        )
    plan, settings = [*design, *design[:REPEATED]], {"measured": "table", "networks": networks}
    log = measure_networks(
        supernet, device, plan, settings, seed=seed, journal=journal, progress=progress, runs=TABLE_RUNS
    )

    anchor, ratios, reference = log.reference_ms(), log.ratios, space.sample(seed)
    shares = fit_shares(
        np.stack([places.occurrences(visit.genes) for visit in log.visits]),
        places.features,
        anchor * ratios,
    )
    table, fixed = places.tables(shares.entries, shares.fixed)
    spread, _ = places.tables(shares.errors, 0.0, level=False)
    with torch.random.fork_rng(devices=[]):
        network = supernet.extract(reference, inherit=False)
    return LatencyTable(
        space=space.name,
        choices=describe_choices(space),
        input_shape=supernet.input_shape,
        batch=device.batch,
        dtype=device.dtype,
        table=table,
        fixed=fixed,
        spread=spread,
        noise=repeat_noise(ratios[:REPEATED], ratios[networks:]),
        residual=shares.residual,
        networks=networks,
        reference={"config": reference.to_dict(), "ms": anchor, **_size(network)},
        device=device.facts(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        supernet=describe_supernet(supernet),
    )


def measure_latencies(
    supernet: Supernet,
    device: LatencyDevice,
    genes: IntMatrix,
    *,
    seed: int = 0,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> Floats:
    """Latency of given whole networks, in ms at the speed the machine had most of the time: ``[N, G]`` -> ``[N]``.

    Args:
        supernet: Extracts the networks.
        device: What is measured on.
        genes: The networks.
        seed: The reference network is drawn from it.
        journal: See :func:`measure`.
        progress: Likewise.

    Raises:
        ValueError: If the journal has other settings.
        RuntimeError: If the device fails, or gives times that are not positive.
    """
    settings = {"measured": np.asarray(genes).tolist()}
    log = measure_networks(supernet, device, list(genes), settings, seed=seed, journal=journal, progress=progress)
    return log.reference_ms() * log.ratios


def measure_samples(
    supernet: Supernet,
    device: LatencyDevice,
    genes: IntMatrix,
    *,
    seed: int = 0,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[Floats, Record]:
    """Latency of given whole networks as :func:`measure_latencies`, ``[N]``, ms, and what it was measured for and on.

    The first networks are measured once more at the end, which tells the noise.

    Args:
        supernet: Extracts the networks.
        device: What is measured on.
        genes: The networks, ``[N, G]``.
        seed: The reference network is drawn from it.
        journal: See :func:`measure`.
        progress: Likewise.

    Raises:
        ValueError: If the journal has other settings.
        RuntimeError: If the device fails, or gives times that are not positive.
    """
    again, settings = genes[:REPEATED], {"measured": np.asarray(genes).tolist(), "repeated": len(genes[:REPEATED])}
    log = measure_networks(supernet, device, [*genes, *again], settings, seed=seed, journal=journal, progress=progress)
    noise = repeat_noise(log.ratios[: len(again)], log.ratios[len(genes) :])
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = Record(**describe(supernet, device), noise=noise, date=date, seed=seed)
    return log.reference_ms() * log.ratios[: len(genes)], record


def _size(network: Subnet) -> dict[str, int]:
    if len(network.input_shape) != 3:
        return {}
    counts = count(network, network.input_shape)
    return {"params": counts.params, "macs": counts.macs, "memory": counts.memory}
