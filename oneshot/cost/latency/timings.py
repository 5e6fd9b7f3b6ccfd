"""Timings of whole networks, each pass between two of a reference network, in a journal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from oneshot.cost.record import changes, describe_supernet
from oneshot.storage.journal import Journal
from oneshot.supernets.base import Supernet
from oneshot.supernets.json_files import checked
from oneshot.supernets.space import Floats, IntMatrix

from .device import LatencyDevice, Run

Progress = Callable[[int, int], None]

WARM_UP = 2  # passes of every network that do not count

AROUND = 6  # passes of the reference that one of another network is compared with

LONE_RUNS = 25  # passes where every network stands for itself


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
        of the reference around it, three before and three after. Their median counts, since another program now and
        then makes a pass several times as long.
        """
        reference = np.asarray(self.reference_ms)
        width = min(AROUND, len(reference))
        around = np.lib.stride_tricks.sliding_window_view(reference, width)
        first = np.clip(np.arange(len(self.ms)) + 1 - width // 2, 0, len(around) - 1)
        return float(np.median(np.asarray(self.ms) / np.median(around[first], axis=1)))


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

    @property
    def ratios(self) -> Floats:
        """Latencies of all visits in units of the reference's, ``[N]``."""
        return np.array([visit.ratio for visit in self.visits])

    def reference_ms(self) -> float:
        """Median of all passes of the reference."""
        return float(np.median([ms for visit in self.visits for ms in visit.reference_ms]))


def measure_networks(
    supernet: Supernet,
    device: LatencyDevice,
    plan: Sequence[IntMatrix],
    settings: Mapping[str, Any],
    *,
    seed: int,
    reference: IntMatrix | None = None,
    journal: str | Path | None = None,
    progress: Progress | None = None,
    runs: int = LONE_RUNS,
) -> Timings:
    """Measure networks in turn with a reference; those that the journal has already are not measured again.

    Args:
        supernet: Extracts the networks.
        device: What is measured on.
        plan: Genes of the networks, in order.
        settings: What is measured, for the journal.
        seed: The reference network is drawn from it; it belongs to the settings.
        reference: Genes of the reference network, ``[G]``, in place of a random one.
        journal: File that timings are appended to.
        progress: Called after every network with the number of those done and of all.
        runs: Passes of every network.

    Raises:
        ValueError: If the journal has other settings.
        RuntimeError: If the device fails, or gives times that are not positive.
    """
    log, space = Timings(journal, {**settings, "seed": seed, **describe(supernet, device)}), supernet.space
    if progress is not None:
        progress(len(log.visits), len(plan))
    if len(log.visits) >= len(plan):
        return log
    reference = space.encode([space.sample(seed)])[0] if reference is None else reference
    try:
        with device.ready(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the weights
            base = _prepare(supernet, device, reference)
            for genes in plan[len(log.visits) :]:
                log.append(_visit(device, base, _prepare(supernet, device, genes), genes, runs))
                if progress is not None:
                    progress(len(log.visits), len(plan))
    except RuntimeError as error:
        kept = f" {log.path} keeps them; the same command goes on from there." if log.path else ""
        raise RuntimeError(
            f"Measuring stopped after {len(log.visits)} of {len(plan)} networks: {error} If the device has "
            f"vanished or its memory ran out, see to that first.{kept}"
        ) from error
    return log


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
