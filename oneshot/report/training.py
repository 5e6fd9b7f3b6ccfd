"""What ``metrics.csv`` of a run shows: learning curves, and the alphas over time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .contents import Files, Panels, Section
from .render import finite

METRICS = "metrics.csv"
PROBABILITY = re.compile(r"probability/(.+)/(\d+)/([^/]+)")
OF_ALPHAS = ("alpha/", "probability/", "choice/")
MOST_POINTS = 400  # of a curve
MOST_ROWS = 60  # of the architecture, that have a chart each
KNOWN = ("loss", "accuracy")  # the first panels
STAGES = ("train", "arch", "val")  # the first colours

Series = dict[str, tuple[list[float], list[float]]]


def read_metrics(files: Files) -> Series:
    """``{metric: (epochs, values)}``: the mean of what was logged in an epoch; epochs count from 1."""
    names, rows = files.rows(METRICS)
    found: dict[str, dict[int, list[float]]] = {}
    epoch = 0
    for row in rows:
        epoch = int(float(row["epoch"])) if row.get("epoch") else epoch
        for name in names:
            if row[name] and name not in ("epoch", "step"):
                found.setdefault(name, {}).setdefault(epoch + 1, []).append(float(row[name]))
    series = {}
    for name, by_epoch in found.items():
        kept = sorted(by_epoch)[:: max(1, -(-len(by_epoch) // MOST_POINTS))]
        means = [sum(by_epoch[e]) / len(by_epoch[e]) for e in kept]
        pairs = [(float(e), v) for e, v in zip(kept, means, strict=True) if finite(v) is not None]
        if pairs:
            series[name] = [e for e, _ in pairs], [v for _, v in pairs]
    return series


def curves(series: Series) -> Section | None:
    """Learning curves: a chart for each metric, a colour for each stage; what else was logged is closed at first."""
    panels: dict[str, Series] = {}
    for name, curve in series.items():
        stage, _, metric = name.partition("/")
        if metric and stage in STAGES and not name.startswith(OF_ALPHAS):
            panels.setdefault(re.sub(r"_(step|epoch)$", "", metric), {}).setdefault(stage, curve)
    if not panels:
        return None
    order = sorted(panels, key=lambda metric: KNOWN.index(metric) if metric in KNOWN else len(KNOWN))
    stages = [s for s in STAGES if any(s in panel for panel in panels.values())]
    charts = [chart(metric, panels[metric], stages) for metric in order]
    more = [
        chart(name, {"": curve}, [""])
        for name, curve in series.items()
        if name.partition("/")[0] not in (*STAGES, "test") and not name.startswith(OF_ALPHAS) and not _of_a_row(name)
    ]
    others = [Panels("What else was logged", more, small=True)] if more else []
    return Section("curves", "Learning curves", legend=stages, panels=[Panels("", charts), *others])


def alphas(series: Series) -> Section | None:
    """Probabilities of the candidates over time: a chart for each row of each choice."""
    rows: dict[tuple[str, int], Series] = {}
    for name, curve in series.items():
        if (found := PROBABILITY.fullmatch(name)) is not None:
            rows.setdefault((found[1], int(found[2])), {})[found[3]] = curve
    if not rows:
        return None
    candidates = list(dict.fromkeys(name for row in rows.values() for name in row))
    groups: dict[str, list[Mapping[str, Any]]] = {}
    highest = max(v for row in rows.values() for _, y in row.values() for v in y)
    for choice, row in sorted(rows)[:MOST_ROWS]:
        of = rows[choice, row]
        likeliest = max(of, key=lambda name: of[name][1][-1])
        made = chart(f"{row}: {likeliest}", of, candidates, height=120)
        last = f"epoch {int(of[likeliest][0][-1])}: {likeliest} {of[likeliest][1][-1]:.3g}"
        groups.setdefault(choice, []).append({**made, "range": [0.0, min(1.0, 1.1 * highest)], "last": last})
    said = ["The probability of every candidate. A chart has the number of its row, and the likeliest candidate now."]
    if len(rows) > MOST_ROWS:
        said.append(f"The first {MOST_ROWS} of {len(rows)} rows.")
    panels = [Panels(f"Choice {choice!r}", charts, small=True) for choice, charts in groups.items()]
    return Section("alphas", "Architecture weights over time", said, legend=candidates, panels=panels)


def epochs_of(series: Series) -> int:
    """How many epochs of training were logged."""
    return int(max((x[-1] for name, (x, _) in series.items() if not name.startswith("test/")), default=0))


def last_of(series: Series, name: str) -> float | None:
    """The last value of a metric."""
    return series[name][1][-1] if name in series else None


def chart(title: str, lines: Series, colours: Sequence[str], *, height: int | None = None) -> dict[str, Any]:
    """A chart of curves, as ``lines`` in ``charts.js`` reads it."""
    series = [
        {"name": name, "k": colours.index(name) if name in colours else 0, "x": x, "y": [float(f"{v:.5g}") for v in y]}
        for name, (x, y) in lines.items()
    ]
    last = ", ".join(f"{name} {y[-1]:.4g}".strip() for name, (_, y) in lines.items())
    ends = int(max(x[-1] for x, _ in lines.values()))
    found = {"title": title, "x": "epoch", "series": series, "last": f"epoch {ends}: {last}", "height": height}
    return dict(finite({**found, "range": None}))


def _of_a_row(name: str) -> bool:
    return re.fullmatch(r"entropy/.+/\d+", name) is not None
