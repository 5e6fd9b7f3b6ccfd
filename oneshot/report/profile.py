"""Histograms of what the architectures of a space cost."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from oneshot.fronts.numbers import scale_of, short

from .style import CYCLE, DPI, INK, MUTED, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from oneshot.cost import BoundProfile, CostProfile, SpaceProfile

MARGIN = 0.15  # of the range of a cost, beside it
MARKS = (("smallest", ":"), ("centroid", "-"), ("median", "--"), ("largest", ":"))


def draw_profile(profile: SpaceProfile) -> Figure:
    """Draws a histogram of every cost, with the smallest, the centroid, the median, the largest, and bounds.

    Args:
        profile: What :func:`oneshot.profile` found.

    Returns:
        The figure, at most two panels to a line.
    """
    from matplotlib.figure import Figure

    columns = min(2, len(profile.costs))
    rows = math.ceil(len(profile.costs) / columns)
    figure = Figure(figsize=(4.6 * columns, 3.0 * rows + 0.4), dpi=DPI, facecolor="white", layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for cost, axes in zip(profile.costs, panels):  # which takes no more places than there are costs
        bounds = [bound for bound in profile.bounds if bound.costs == (cost.name,)]
        _draw(axes, cost, profile.samples, bounds)
    for axes in panels:  # places that have no panel
        axes.remove()
    looked = f"all {profile.samples:,} networks" if profile.complete else f"{profile.samples:,} random architectures"
    figure.suptitle(f"{profile.space}: {looked}", fontsize=10.5, weight="bold", color=INK)
    return figure


def _draw(axes: Axes, cost: CostProfile, samples: int, bounds: list[BoundProfile]) -> None:
    factor, letter = (1.0, "") if cost.unit == "ms" else scale_of(cost.largest)
    edges = [edge / factor for edge in cost.edges]
    widths = [high - low for low, high in pairwise(edges)]
    shares = [100 * n / samples for n in cost.counts]
    axes.bar(edges[:-1], shares, widths, align="edge", color="#7FB7DC", linewidth=0)
    for name, dash in MARKS:
        value = getattr(cost, name)
        colour = MUTED if name in ("smallest", "largest") else INK
        label = f"{name} {short(value)}"
        axes.axvline(value / factor, color=colour, linestyle=dash, linewidth=1.1, label=label)
    span = (edges[-1] - edges[0]) or 1.0
    axes.set_xlim(edges[0] - MARGIN * span, edges[-1] + MARGIN * span)
    for bound in bounds:
        (limit,) = bound.limits
        label, at = f"bound {short(limit)}", limit / factor
        if edges[0] - MARGIN * span <= at <= edges[-1] + MARGIN * span:
            axes.axvline(at, color=CYCLE[1], linewidth=1.6, label=label)
        else:  # it would leave no room for the histogram
            where = "left" if at < edges[0] else "right"
            axes.plot([], [], color=CYCLE[1], linewidth=1.6, label=f"{label}, off {where}")
    axes.set_ylim(0, 1.05 * max(shares))
    unit = f"{letter} {'' if cost.label == cost.name else cost.unit}".strip()
    axes.set_xlabel(f"{cost.name} [{unit}]" if unit else cost.name, fontsize=9, color=INK)
    axes.set_ylabel("architectures [%]", fontsize=9, color=INK)
    axes.legend(
        frameon=False,
        fontsize=7,
        loc="lower left",
        bbox_to_anchor=(-0.05, 1),
        ncols=3,
        borderaxespad=0.2,
        columnspacing=1.0,
        handlelength=1.6,
    )
    plain_axes(axes, 8)
