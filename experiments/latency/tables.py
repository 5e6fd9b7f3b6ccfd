"""The tables of measured latencies, as genes of the search spaces, from the folder that ONESHOT_DATA names."""

from __future__ import annotations

import csv
import gzip
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import numpy.typing as npt

from oneshot.supernets import Choice, FBNetSpace, NASBench201Space, SearchSpace
from oneshot.supernets.space import IntMatrix

PREFIX = "latency_ms_"
Table = tuple[SearchSpace, IntMatrix, dict[str, npt.NDArray[np.float64]]]


def rows(name: str) -> list[dict[str, str]]:
    """Rows of a table."""
    if "ONESHOT_DATA" not in os.environ:
        raise SystemExit(
            "The tables are in the folder that the environment variable ONESHOT_DATA names; it is not set."
        )
    with gzip.open(Path(os.environ["ONESHOT_DATA"]) / f"{name}.csv.gz", "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _latencies(table: list[dict[str, str]]) -> dict[str, npt.NDArray[np.float64]]:
    devices = [column for column in table[0] if column.startswith(PREFIX)]
    return {column.removeprefix(PREFIX): np.array([float(row[column]) for row in table]) for column in devices}


def fbnet() -> Table:
    """Space, genes ``[5000, 22]`` and milliseconds of every device."""
    table = rows("fbnet_latency")
    return FBNetSpace(), np.array([[int(op) for op in row["ops"].split()] for row in table]), _latencies(table)


def nasbench201() -> Table:
    """Space, genes ``[15625, 6]`` and milliseconds of every device."""
    table, space = rows("nats_bench_tss"), NASBench201Space()
    return space, space.encode([space.from_arch_string(row["arch"]) for row in table]), _latencies(table)


def accel_nasbench() -> Table:
    """Seven blocks, each with a joint choice of expansion, kernel, layers and squeeze-and-excitation; ms per image."""
    table = rows("accel_nasbench")
    picks = [[tuple(row[f"block{b}_{what}"] for what in ("e", "k", "l", "se")) for b in range(7)] for row in table]
    names = [sorted({row[b] for row in picks}) for b in range(7)]
    choices = tuple(Choice(f"block_{b}", tuple("_".join(p) for p in names[b])) for b in range(7))
    genes = np.array([[names[b].index(row[b]) for b in range(7)] for row in picks])
    costs = {
        "zcu102 latency": np.array([float(row["zcu102_latency_ms"]) for row in table]),
        "a100 1/throughput": np.array([1000 / float(row["a100_img_per_s"]) for row in table]),
    }
    return SearchSpace("accel_nasbench", choices), genes, costs
