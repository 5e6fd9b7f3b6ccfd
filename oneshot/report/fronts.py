"""Pictures of a front: a figure, and a page with points to hover over."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oneshot.fronts.numbers import scale_of
from oneshot.supernets.space import Floats, SubnetConfig

from .render import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRONT, OTHERS, PICKED = "#c0392b", "#9aa5b1", "#1f4e79"
MOST_POINTS = 2000  # off the front; more would make a page slow


def draw_front(
    names: Sequence[str],
    units: Sequence[str],
    values: Floats,
    front: Sequence[int],
    *,
    bounds: Mapping[str, float] | None = None,
    picked: int | None = None,
    title: str | None = None,
) -> Figure:
    """Error against every other objective: all that was evaluated, the front, and a network that was picked.

    Args:
        names: Names of the objectives, M; the first is the error.
        units: Units of the objectives; "" of the error means a share, which is shown in percent.
        values: Values of everything that was evaluated, ``[N, M]``; NaN where it failed.
        front: Rows of the front.
        bounds: Upper bounds, drawn as lines.
        picked: Row to mark.
        title: Heading of the picture.
    """
    from matplotlib.figure import Figure

    panels = max(1, len(names) - 1)
    figure = Figure(figsize=(1.2 + 4.6 * panels, 4.2), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
    known = ~np.isnan(values[:, 0])
    on_front = np.zeros(len(values), dtype=bool)
    on_front[list(front)] = True
    for column, axis in enumerate(axes, start=1):
        costs = values[:, column] if column < len(names) else np.zeros(len(values))
        unit = units[column] if column < len(names) else ""
        factor, letter = (1.0, "") if unit == "ms" else scale_of(float(np.abs(costs).max(initial=0.0)))
        x, y = costs / factor, values[:, 0] if units[0] else 100 * values[:, 0]
        axis.scatter(x[known & ~on_front], y[known & ~on_front], s=14, color=OTHERS, linewidths=0, label="evaluated")
        order = np.argsort(x[on_front], kind="stable")
        fx, fy = x[on_front][order], y[on_front][order]
        if len(names) == 2:
            axis.step(fx, fy, where="post", color=FRONT, linewidth=1, alpha=0.6)
        axis.scatter(fx, fy, s=26, color=FRONT, zorder=3, label="front")
        if picked is not None:
            axis.scatter(x[picked], y[picked], s=120, facecolors="none", edgecolors=PICKED, linewidths=1.8, zorder=4)
            axis.annotate("picked", (x[picked], y[picked]), (8, 8), textcoords="offset points", color=PICKED)
        if bounds and column < len(names) and names[column] in bounds:
            axis.axvline(bounds[names[column]] / factor, color="#555555", linewidth=1, linestyle="--")
        axis.set_xlabel(f"{names[column]} [{f'{letter} {unit}'.strip()}]" if column < len(names) else "")
        axis.grid(alpha=0.25)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].set_ylabel(f"validation error [{units[0] or '%'}]")
    axes[0].legend(frameon=False, loc="upper right")
    if title:
        figure.suptitle(title)
    return figure


def front_page(
    names: Sequence[str],
    units: Sequence[str],
    values: Floats,
    front: Sequence[int],
    configs: Sequence[SubnetConfig],
    *,
    title: str,
    run: str | Path | None = None,
) -> str:
    """A page that stands alone: points to hover over and to click on, and a table of the front. It loads nothing.

    Args:
        names: See :func:`draw_front`.
        units: Likewise.
        values: Likewise.
        front: Likewise.
        configs: Architectures of everything that was evaluated, N.
        title: Heading of the page.
        run: Folder of the run, for the commands that pick a network of the front; None shows none.
    """
    data = front_data(names, units, values, front, [str(config) for config in configs], run=run)
    return render("front.html", title=title, data=data)


def front_data(
    names: Sequence[str],
    units: Sequence[str],
    values: Floats,
    front: Sequence[int],
    architectures: Sequence[str],
    *,
    signs: Sequence[float] | None = None,
    run: str | Path | None = None,
) -> dict[str, Any]:
    """What the interactive picture of a front reads, JSON-able.

    Args:
        names: See :func:`draw_front`.
        units: Likewise.
        values: Likewise, as they are shown.
        front: Likewise.
        architectures: What to call everything that was evaluated, N texts.
        signs: 1 for objectives that are minimised, -1 for those that are maximised; by default all are minimised.
        run: See :func:`front_page`.

    Returns:
        ``names``, ``units``, ``picks`` (whether there are commands), and ``points``: number ``i``, values ``v``,
        whether on the front ``f``, architecture ``c``, command ``k``. All of the front, and at most
        :data:`MOST_POINTS` others.
    """
    on_front, signs = set(front), signs or [1.0] * len(names)
    known = [i for i, row in enumerate(values) if np.isfinite(row).all()]
    others = [i for i in known if i not in on_front]
    kept = on_front | set(others[:: max(1, math.ceil(len(others) / MOST_POINTS))])
    points: list[dict[str, Any]] = []
    for i in known:
        if i in kept:
            row, on = [float(v) for v in values[i]], i in on_front
            command = pick_command(run, names, row, signs) if run is not None and on else ""
            points.append({"i": i, "v": row, "f": on, "c": architectures[i], "k": command})
    return {"names": list(names), "units": list(units), "points": points, "picks": any(point["k"] for point in points)}


def pick_command(run: str | Path, names: Sequence[str], values: Sequence[float], signs: Sequence[float]) -> str:
    """The command that picks a network of a front.

    No other network of a front is as good in all objectives but the first and better in that one. So bounds on the
    others, at the values of this network, pick this one. Where one is maximised, which has no bound, the nearest to all
    its values is picked.

    Args:
        run: Folder of the run.
        names: Of the objectives.
        values: Of the network.
        signs: See :func:`front_data`.
    """
    if len(names) == 1:
        return shlex.join(["oneshot", "pick", str(run), "--knee"])
    bounded = all(sign > 0 for sign in signs[1:])
    option, first = ("--at-most", 1) if bounded else ("--near", 0)
    pairs = [f"{name}={value!r}" for name, value in zip(names[first:], values[first:], strict=True)]
    return shlex.join(["oneshot", "pick", str(run), option, *pairs])
