"""A latency table of small cells, with numbers that can be added by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oneshot.cost import LatencyTable, describe_supernet
from oneshot.cost.record import describe_choices
from oneshot.supernets import NASBench201Supernet

CELLS: dict[str, Any] = {"channels": 4, "cells_per_stage": 1, "num_classes": 3, "image_size": 8}


def table_of(supernet: NASBench201Supernet, path: Path, **facts: Any) -> str:
    """Write the table to ``path``; ``facts`` of its device differ from those of a chip with one thread."""
    device = {"runtime": "eager", "device": "cpu", "name": "a chip", "threads": 1} | facts
    table = LatencyTable(
        space=supernet.space.name,
        choices=describe_choices(supernet.space),
        input_shape=supernet.input_shape,
        batch=1,
        dtype="float32",
        table={"cell": [[0.0, 0.25, 1.5, 4.0, 0.75]] * 6},
        fixed=2.0,
        spread={},
        noise=0.01,
        residual=0.02,
        networks=30,
        reference={"config": supernet.space.sample(0).to_dict(), "ms": 6.0},
        device=device,
        date="2026-01-02T00:00:00+00:00",
        supernet=describe_supernet(supernet),
    )
    return str(table.save(path))
