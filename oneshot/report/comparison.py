"""A picture of a comparison: every run as a dot, for each method."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from .style import CYCLE, DPI, INK, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_comparison(
    values: Mapping[str, Mapping[str, Mapping[int, float]]],
    directions: Mapping[str, Literal["min", "max"]],
    seconds: Mapping[str, Sequence[float]],
) -> Figure:
    """Draw one panel for each metric, and one for what a search takes; a row for each method.

    A dot is a run, and a seed has the same colour everywhere; the bar is the mean.

    Args:
        values: ``{metric: {method: {seed: value}}}``. The rows have the order of the first metric.
        directions: ``{metric: "min" or "max"}``.
        seconds: ``{method: seconds of every search}``; methods that search nothing have zeros.

    Raises:
        ValueError: If there is no metric or no method.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if not values or not all(values.values()):
        raise ValueError("draw_comparison must get at least one metric with one method; got none.")
    methods = list(dict.fromkeys(method for of in values.values() for method in of))
    seeds = list(dict.fromkeys(seed for of in values.values() for by_seed in of.values() for seed in by_seed))
    places = {seed: i for i, seed in enumerate(sorted(seeds))}
    colours = {seed: CYCLE[i % len(CYCLE)] for seed, i in places.items()}
    panels = len(values) + 1
    height = 1.5 + 0.38 * len(methods)
    figure = Figure(figsize=(2.0 + 3.6 * panels, height), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False, width_ratios=[3] * len(values) + [2])[0]
    for axis, (metric, of) in zip(axes, values.items(), strict=False):
        for row, method in enumerate(methods):
            if not (by_seed := of.get(method)):
                continue
            mean = statistics.fmean(by_seed.values())
            axis.plot([mean, mean], [row - 0.32, row + 0.32], color=INK, lw=1.8, zorder=2)
            for seed, value in by_seed.items():
                beside = 0.5 * ((places[seed] + 0.5) / len(places) - 0.5)  # equal values do not hide each other
                axis.plot(
                    value, row + beside, "o", color=colours[seed], ms=5.5, alpha=0.85, mec="white", mew=0.5, zorder=3
                )
        better = "higher is better" if directions[metric] == "max" else "lower is better"
        axis.set_title(metric, loc="left", fontsize=10, weight="bold", color=INK)
        axis.set_xlabel(better, fontsize=8.5, color=INK)
    for row, method in enumerate(methods):
        if any(seconds.get(method, ())):
            axes[-1].barh(row, statistics.fmean(seconds[method]), 0.55, color="#B9CFE0", zorder=2)
    axes[-1].set_title("time of a search", loc="left", fontsize=10, weight="bold", color=INK)
    axes[-1].set_xlabel("seconds, mean", fontsize=8.5, color=INK)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.4, -0.6)
    for axis in axes:
        plain_axes(axis, 8.5)
        axis.grid(visible=False, axis="y")
        axis.grid(axis="x", color="#E6E6E6", linewidth=0.6)
        axis.locator_params(axis="x", nbins=5)
    handles: list[Line2D] = [
        Line2D([], [], color=colours[seed], marker="o", ls="", ms=5.5, label=f"seed {seed}") for seed in sorted(seeds)
    ]
    handles = handles if len(handles) <= len(CYCLE) else []  # colours come again, and say nothing
    handles.append(Line2D([], [], color=INK, lw=1.8, label="mean"))
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=min(len(handles), 8),
        frameon=False,
        fontsize=8,
    )
    return figure
