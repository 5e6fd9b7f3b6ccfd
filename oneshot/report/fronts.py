"""Pictures of a front: a figure, and a page with points to hover over."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oneshot.fronts.numbers import scale_of
from oneshot.supernets.space import Floats, SubnetConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRONT, OTHERS, PICKED = "#c0392b", "#9aa5b1", "#1f4e79"
PAGE = Path(__file__).with_name("front.html")


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
) -> str:
    """A page that stands alone: points to hover over and to click on, and a table of the front. It loads nothing.

    Args:
        names: See :func:`draw_front`.
        units: Likewise.
        values: Likewise.
        front: Likewise.
        configs: Architectures of everything that was evaluated, N.
        title: Heading of the page.
    """
    on_front = set(front)
    points = [
        {"i": i, "v": [float(v) for v in row], "f": i in on_front, "c": str(config)}
        for i, (row, config) in enumerate(zip(values, configs, strict=True))
        if not np.isnan(row).any()
    ]
    head = "".join(
        f"<th>{html.escape(n)}{html.escape(f' [{u}]' if u else '')}</th>" for n, u in zip(names, units, strict=True)
    )
    data = json.dumps({"names": list(names), "units": list(units), "points": points}).replace("<", "\\u003c")
    page = PAGE.read_text(encoding="utf-8")
    return page.replace("@TITLE@", html.escape(title)).replace("@HEAD@", head).replace("@DATA@", data)
