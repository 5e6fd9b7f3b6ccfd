"""Latency tables by measuring: whole networks, in a design from which the candidates' shares can be told.

A block that is timed alone, in a loop, finds its weights in the cache and its memory allocated, which it never does in
a network. So nothing is timed but whole networks, as ``extract`` builds them: a design of random ones in which all
candidates of a row appear equally often, each pass between two of one reference network, by which changes of the
machine's speed are divided out. Regression then gives every candidate its share. Every network informs every row,
which is more precise than exchanging one block at a time: a weighing design (Hotelling, 1944, Annals of Mathematical
Statistics 15, p. 297).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from oneshot.cost.counting.network import count
from oneshot.cost.record import Record, changes, describe_choices, describe_supernet
from oneshot.storage.journal import Journal
from oneshot.supernets.base import OperationSupernet, Subnet, Supernet
from oneshot.supernets.json_files import checked
from oneshot.supernets.space import Floats, IntMatrix

from .design import Places, balanced_design, fit_shares
from .device import LatencyDevice, Run
from .table import LatencyTable

Progress = Callable[[int, int], None]

WARM_UP, RUNS = 2, 11

LONE_RUNS = 25  # where every network stands for itself

REPEATED = 12  # networks that are measured a second time at the end, for the noise

PER_UNKNOWN = 3  # networks for each latency that is to be found, by default


class Visit(NamedTuple):
    """One network measured, pass by pass in turn with the reference.

    Args:
        genes: The network, length G.
        ms: Its passes.
        reference_ms: Those of the reference before each of them, and one after the last.
    """

    genes: tuple[int, ...]
    ms: tuple[float, ...]
    reference_ms: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Latency in units of the reference's, the median over the passes.

        The machine's speed, which may change several times a second, is divided out: every pass is compared with those
        of the reference just before and after it.
        """
        reference = np.asarray(self.reference_ms)
        return float(np.median(2 * np.asarray(self.ms) / (reference[:-1] + reference[1:])))


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
    reference = space.encode([space.sample(seed)])[0]
    settings = {"measured": "table", "networks": networks, "seed": seed, **describe(supernet, device)}
    log = Timings(journal, settings)
    plan = [*design, *design[:REPEATED]]
    measure_networks(supernet, device, reference, plan, log, progress)

    anchor = log.reference_ms()
    ratios = np.array([visit.ratio for visit in log.visits])
    shares = fit_shares(
        np.stack([places.occurrences(visit.genes) for visit in log.visits]),
        places.features,
        anchor * ratios,
    )
    table, fixed = places.tables(shares.entries, shares.fixed)
    spread, _ = places.tables(shares.errors, 0.0, level=False)
    with torch.random.fork_rng(devices=[]):
        network = supernet.extract(space.decode(reference[None])[0], inherit=False)
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
        reference={"config": space.decode(reference[None])[0].to_dict(), "ms": anchor, **_size(network)},
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
    space = supernet.space
    settings = {"measured": np.asarray(genes).tolist(), "seed": seed, **describe(supernet, device)}
    log = Timings(journal, settings)
    reference = space.encode([space.sample(seed)])[0]
    measure_networks(supernet, device, reference, list(genes), log, progress, runs=LONE_RUNS)
    return log.reference_ms() * np.array([visit.ratio for visit in log.visits])


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
    space, count = supernet.space, len(genes)
    again = genes[:REPEATED]
    about = describe(supernet, device)
    settings = {"measured": np.asarray(genes).tolist(), "repeated": len(again), "seed": seed, **about}
    log = Timings(journal, settings)
    reference = space.encode([space.sample(seed)])[0]
    measure_networks(supernet, device, reference, [*genes, *again], log, progress, runs=LONE_RUNS)
    ratios = np.array([visit.ratio for visit in log.visits])
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = Record(**about, noise=repeat_noise(ratios[: len(again)], ratios[count:]), date=date, seed=seed)
    return log.reference_ms() * ratios[:count], record


def measure_networks(
    supernet: Supernet,
    device: LatencyDevice,
    reference: IntMatrix,
    plan: Sequence[IntMatrix],
    journal: Timings,
    progress: Progress | None = None,
    *,
    runs: int = RUNS,
) -> None:
    """Measure the networks of ``plan`` that are not in the journal yet, in turn with the reference.

    Args:
        supernet: Extracts the networks.
        device: What is measured on.
        reference: Genes of the reference network, ``[G]``.
        plan: Genes of the networks, in order.
        journal: Holds the first visits of the plan, and gets the others.
        progress: Called after every network with the number of those done and of all.
        runs: Passes of every network.

    Raises:
        RuntimeError: If the device fails, or gives times that are not positive.
    """
    if progress is not None:
        progress(len(journal.visits), len(plan))
    if len(journal.visits) >= len(plan):
        return
    try:
        with device.ready(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the weights
            base = _prepare(supernet, device, reference)
            for genes in plan[len(journal.visits) :]:
                journal.append(_visit(device, base, _prepare(supernet, device, genes), genes, runs))
                if progress is not None:
                    progress(len(journal.visits), len(plan))
    except RuntimeError as error:
        kept = f" {journal.path} keeps them; the same command goes on from there." if journal.path else ""
        raise RuntimeError(
            f"Measuring stopped after {len(journal.visits)} of {len(plan)} networks: {error} If the device has "
            f"vanished or its memory ran out, see to that first.{kept}"
        ) from error


class _Visit(TypedDict):
    """A :class:`Visit` as JSON."""

    genes: list[int]
    ms: list[float]
    reference_ms: list[float]


class Timings:
    """Raw timings in a journal: a line with the settings they were measured under, then one line a visit.

    Args:
        path: The file; None keeps them in memory.
        settings: What must be the same for timings to belong together.

    Raises:
        ValueError: If the file is there and has other settings, or is damaged.
    """

    def __init__(self, path: str | Path | None, settings: dict[str, Any]) -> None:
        advice = "Delete it to begin anew."
        self._journal = Journal(path, advice=advice, sync=True)
        self.path = self._journal.path
        self.visits: list[Visit] = []
        settings = json.loads(json.dumps(settings))
        if self.path is None or not self.path.exists():
            self._journal.append(settings)
            return
        then, *rows = self._journal.rows or [None]
        for number, row in enumerate(rows, start=2):
            values = checked(row, _Visit, self._journal.place(number), advice=advice)
            self.visits.append(Visit(**{name: tuple(value) for name, value in values.items()}))  # type: ignore[arg-type]  # lists
        if then != settings:
            different = changes(then if isinstance(then, dict) else {}, settings)
            raise ValueError(
                f"Measuring must go on with the settings it began with; in {self.path} {different}. Use those, delete "
                "the file to begin anew, or write to another."
            )

    def append(self, visit: Visit) -> None:
        """Keep a visit, on the disk if there is a file.

        Raises:
            OSError: If a full disk stays full.
        """
        self._journal.append(visit._asdict())
        self.visits.append(visit)

    def reference_ms(self) -> float:
        """Median of all passes of the reference."""
        return float(np.median([ms for visit in self.visits for ms in visit.reference_ms]))


def repeat_noise(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Relative standard deviation of one measurement, from pairs of them, by their median (outliers don't count)."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return float(1.4826 * np.median(np.abs(a - b) / ((a + b) / 2)) / math.sqrt(2))


def describe(supernet: Supernet, device: LatencyDevice) -> dict[str, Any]:
    """What timings depend on, JSON-able."""
    return {
        "supernet": describe_supernet(supernet),
        "batch": device.batch,
        "dtype": device.dtype,
        "device": device.facts(),
    }


def _prepare(supernet: Supernet, device: LatencyDevice, genes: IntMatrix) -> Run:
    return device.prepare(supernet.extract(supernet.space.decode(genes[None])[0], inherit=False).eval())


def _visit(device: LatencyDevice, reference: Run, run: Run, genes: IntMatrix, runs: int) -> Visit:
    times = [device.time(each) for _ in range(WARM_UP + runs) for each in (reference, run)] + [device.time(reference)]
    if not all(math.isfinite(ms) and ms > 0 for ms in times):
        raise RuntimeError(f"A pass takes a time above 0; the clock of the device said {times} ms.")
    kept = times[2 * WARM_UP :]
    return Visit(tuple(int(gene) for gene in genes), tuple(kept[1::2]), tuple(kept[::2]))


def _size(network: Subnet) -> dict[str, int]:
    if len(network.input_shape) != 3:
        return {}
    counts = count(network, network.input_shape)
    return {"params": counts.params, "macs": counts.macs, "memory": counts.memory}
