"""The fronts that pages show: of ``oneshot pareto``, and of studies of the discrete search."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oneshot.discrete.record import Objective
from oneshot.fronts.numbers import short

from .contents import Figure, Files, Section
from .fronts import front_data
from .render import finite

FRONT, TABLE, HISTORY, ARCHIVE, LOG = "front.json", "evaluations.csv", "history.json", "archive.json", "log.jsonl"
SHARES = ("error", "accuracy")  # objectives that are a share unless a file says otherwise
UNITS = {"latency": "ms"}
POOR, GUESSING = 0.5, 0.2  # Kendall's tau of a predictor


def pareto_section(files: Files) -> tuple[Section | None, list[Figure]]:
    """The front of ``oneshot pareto``, interactive; and how large it is."""
    names, rows = files.rows(TABLE)
    if "in_front" not in names:
        return None, []
    objectives = names[1 : names.index("in_front")]
    known = files.object(FRONT)
    units = known.get("units") if known.get("names") == objectives else None
    values = np.array([[_number(row[name]) for name in objectives] for row in rows]).reshape(-1, len(objectives))
    units = units or _units(objectives, values)
    units = [units[0], *("" if u.lower() == n.lower() else u for n, u in zip(objectives[1:], units[1:], strict=True))]
    front = [i for i, row in enumerate(rows) if row["in_front"] == "1"]
    architectures = [_architecture(row, names[names.index("in_front") + 1 :]) for row in rows]
    data = front_data(objectives, units, values, front, architectures, run=files.folder)
    return _section(data, values, front, units[0] == "")


def study_section(files: Files, config: Mapping[str, Any]) -> tuple[Section | None, list[Figure]]:
    """The front, or the evaluations, of a study."""
    names, rows = files.rows(TABLE)
    given = [Objective.parse(str(text)) for text in config.get("objectives") or ()]
    objectives = [o for o in given if o.metric in names]
    if not rows or not objectives:
        return None, []
    metrics = [o.metric for o in objectives]
    values = np.array([[_number(row[name]) for name in metrics] for row in rows])
    signs = [1.0 if o.direction == "min" else -1.0 for o in objectives]
    front = [i for i, row in enumerate(rows) if row["in_front"] == "1"]
    units, texts = _units(metrics, values), [row["architecture"] for row in rows]
    data = front_data(metrics, units, values, front, texts, signs=signs, run=files.folder)
    return _section(data, values, front, not units[0])


def predictor_warnings(files: Files) -> list[str]:
    """What is to be known of the accuracy predictor, in words."""
    history = [one for one in files.array(HISTORY) if isinstance(one, dict) and one.get("tau")]
    if not history:
        return []
    last = history[-1]
    best = max(float(tau) for tau in last["tau"].values())
    if best >= POOR:
        return []
    worth = "hardly better than a guess" if best < GUESSING else "poor"
    return [
        f"The accuracy predictor of the last iteration is {worth}: Kendall's tau {best:.2f} in cross-validation (1 is "
        "perfect, 0 is chance). Its candidates are little better than drawn ones. Evaluate more networks (initial, "
        "batch), on more validation samples, or train longer before the search."
    ]


def history_line(files: Files) -> list[str]:
    """A sentence about the iterations of a search."""
    history = [one for one in files.array(HISTORY) if isinstance(one, dict)]
    if not history:
        return []
    last, seconds = history[-1], sum(float(one.get("seconds") or 0) for one in history)
    failed = f", {last['failed']} of them failed" if last.get("failed") else ""
    count = f"{len(history)} iteration{'' if len(history) == 1 else 's'}"
    volume = float(last.get("hypervolume") or 0)
    networks = f"{last.get('evaluations')} evaluated networks{failed}"
    return [f"{count}, {networks}; hypervolume {volume:.4g}; {seconds:.0f} s of search."]


def _section(
    data: dict[str, Any], values: Any, front: Sequence[int], share: bool
) -> tuple[Section | None, list[Figure]]:
    if not data["points"]:
        return None, []
    best = data["names"][0]
    of_front = values[list(front), 0] if front else values[:, 0]
    span = [float(np.nanmin(of_front)), float(np.nanmax(of_front))]
    text = " to ".join(dict.fromkeys(f"{100 * v:.2f}" if share else f"{v:.4g}" for v in span)) + (" %" if share else "")
    figures = [Figure("networks on the front", f"{len(front)}", f"of {len(values):,} evaluated"), Figure(best, text)]
    for i, name in enumerate(data["names"][1:], start=1):
        of = values[list(front), i] if front else values[:, i]
        ends = " to ".join(dict.fromkeys((short(float(np.nanmin(of))), short(float(np.nanmax(of))))))
        figures.append(Figure(name, f"{ends} {data['units'][i]}".strip(), "on the front"))
    return Section("front", "Front of networks", front=finite(data)), figures


def _architecture(row: Mapping[str, str], picks: Sequence[str]) -> str:
    """The picks of a row, those of a choice together, as a config is written."""
    found: dict[str, list[str]] = {}
    for name in picks:
        choice = re.sub(r"_\d+$", "", name)
        found.setdefault(choice, []).append(row[name])
    return "; ".join(f"{name}: {' '.join(values)}" for name, values in found.items())


def _units(names: Sequence[str], values: Any) -> list[str]:
    """Units of objectives by their names; "" of the first one means a share, " " a number without a unit."""
    share = names[0] in SHARES and bool((values[:, 0] <= 1).any()) and not bool((values[:, 0] > 1).any())
    return ["" if share else UNITS.get(names[0], " "), *(UNITS.get(name, "") for name in names[1:])]


def _number(text: str) -> float:
    return float(text) if text else float("nan")
