"""What a page shows of measured latencies: a table of candidates, or a CSV file of whole networks."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .about import said_time
from .contents import Figure, Files, Fold, Part, Section, Table, said
from .network import shape_text

MOST_ROWS = 200
POOR = 0.9  # share of networks within 10 %, below which a table predicts badly
NOISE = "of one network, from one measurement to the next"
AGREEMENTS = {
    "agreement": "predicted and measured",
    "by_the_clock": "predicted and measured, by the clock",
    "repeat": "measured twice",
}


def read_measurement(path: Path) -> Part:
    """Everything that a page shows of a file of ``oneshot measure``.

    Raises:
        ValueError: If it is neither a latency table nor a CSV file of measured networks.
    """
    part = Part("Latency table" if path.suffix == ".json" else "Measured networks")
    files = Files(path.parent)
    if path.suffix == ".json":
        _table(path, files, part)
    else:
        _networks(path, part)
    part.warnings += files.problems
    return part


def _table(path: Path, files: Files, part: Part) -> None:
    from oneshot.cost.latency.table import LatencyTable

    table = LatencyTable.load(path, warn=False)
    threads = table.device.get("threads")
    part.figures += [
        Figure("networks measured", f"{table.networks:,}", f"for {_unknowns(table.table):,} latencies of candidates"),
        Figure("noise", f"{table.noise:.1%}", NOISE),
        Figure("distance from the sums", f"{table.residual:.1%}", "of a network from the sum of its candidates"),
        Figure("reference network", f"{table.reference['ms']:.4g} ms", f"measured {said_time(table.date)}"),
    ]
    part.lines.append(
        f"{table.device.get('runtime')} on {table.device.get('name') or table.device.get('device')}, {threads} "
        f"thread{'' if threads == 1 else 's'}, batch {table.batch}, {table.dtype}; space {table.space!r}, input "
        f"{shape_text(list(table.input_shape))}."
    )
    part.warnings += [f"This table is doubtful: {doubt}. Measure again on an idle machine." for doubt in table.doubts]
    _verification(path, files, part)
    rows = [
        [f"{choice['name']} {row}", str(candidate), f"{table.table[choice['name']][row][i]:.4g}"]
        for choice in table.choices
        for row in range(choice["rows"])
        for i, candidate in enumerate(choice["candidates"])
    ]
    names = ["place", "candidate", "ms"]
    said_of = [f"Every network needs {table.fixed:.4g} ms besides. {path.name} has {len(rows):,} latencies."]
    shown = Section("candidates", "Latency of every candidate", said_of)
    if len(rows) <= MOST_ROWS // 5:
        shown.table = Table(names, rows, ["ms"])
    else:
        shown.folds = [Fold(f"The first {min(len(rows), MOST_ROWS)}", table=Table(names, rows[:MOST_ROWS], ["ms"]))]
    part.sections += [shown, _use(path), _device(table.device)]


def _verification(path: Path, files: Files, part: Part) -> None:
    """How well the table predicts whole networks, if that was measured."""
    found = files.object(path.with_suffix(".verify.json").name)
    if not found:
        part.warnings.append(
            "How well sums of candidates predict whole networks was not measured; --verify 50 of oneshot measure does."
        )
        return
    within = float(found["agreement"]["within_10"])
    if within < POOR:
        part.warnings.append(
            f"Only {within:.0%} of whole networks were predicted within 10 %. What a search finds may be slower than "
            "it says: measure it (oneshot derive --measure), or measure the table again on an idle machine."
        )
    names = ["compared", "within 5 %", "within 10 %", "RMSE, ms", "Kendall's tau", "Spearman's rho"]
    rows = []
    for key, name in AGREEMENTS.items():
        of = found.get(key) or {}
        shares = [f"{of[share]:.0%}" if share in of else "–" for share in ("within_5", "within_10")]
        rows.append([name, *shares, *(said(of.get(number)) for number in ("rmse", "kendall", "spearman"))])
    lines = [f"{len(found['genes'])} random networks, measured end to end {said_time(found.get('date'))}."]
    alt = "predicted against measured latency, a point for each network"
    pictures = files.picture(path.with_suffix(".verify.png").name, alt)
    table = Table(names, rows, names[1:])
    part.sections.append(Section("verified", "Verified on whole networks", lines, table=table, pictures=pictures))


def _networks(path: Path, part: Part) -> None:
    from oneshot.cost.latency.samples import read_record
    from oneshot.cost.record import noise_doubt
    from oneshot.storage.readers import csv_rows, read_table

    rows = [cells for _, cells in csv_rows(read_table(path), str(path)) if not cells[0].startswith("#")]
    if not rows or "ms" not in rows[0]:
        raise ValueError(
            f"{path} must be a file of 'oneshot measure': a latency table, or a CSV file with a column ms."
        )
    column = rows[0].index("ms")
    known = [float(row[column]) for row in rows[1:] if row[column].strip()]
    record = read_record(path)
    part.figures.append(Figure("networks measured", f"{len(known):,}", f"of {len(rows) - 1:,}"))
    if known:
        part.figures.append(Figure("latencies", f"{min(known):.4g} to {max(known):.4g} ms"))
    if record is not None:
        part.lines.append(f"Measured on {record.on()}.")
        if record.noise is not None and math.isfinite(record.noise):
            part.figures.append(
                Figure("noise", f"{record.noise:.1%}", "of one network, from one measurement to the next")
            )
        if doubt := noise_doubt(record.noise):
            part.warnings.append(f"This file of latencies is doubtful: {doubt}. Measure again on an idle machine.")
    part.sections.append(_use(path))
    if record is not None and record.device:
        part.sections.append(_device(record.device))


def _unknowns(table: Mapping[str, Any]) -> int:
    return sum(len(row) for rows in table.values() for row in rows)


def _use(path: Path) -> Section:
    lines = ["As the cost of a search, or as an objective of a front:"]
    commands = [
        shlex.join(["oneshot", "search", "--config", "search.yaml", "--model.penalty.cost", str(path)]),
        shlex.join(["oneshot", "pareto", "--config", "pareto.yaml", "--model.objectives", f"[{path}]"]),
    ]
    return Section("use", "How to use it", lines, commands=commands)


def _device(device: Mapping[str, Any]) -> Section:
    rows = [[str(name), said(value)] for name, value in device.items() if not isinstance(value, dict | list)]
    return Section("device", "Device and versions", table=Table(["what", "value"], rows))
