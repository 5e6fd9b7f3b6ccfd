"""Predicted against measured latency, as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .style import CYCLE, DPI, INK, MUTED, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from oneshot.cost import Verification


def draw_agreement(result: Verification, *, title: str | None = None) -> Figure:
    """Draws predicted latencies against measured ones, on the diagonal where they agree.

    A line through each point spans its two measurements. The bands are 5 and 10 % wide to each side.

    Args:
        result: What :func:`~oneshot.cost.latency.verify` found.
        title: Heading of the picture.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 5.4), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    values = [*result.predicted, *(ms for pair in result.repeats for ms in pair)]
    margin = 0.06 * (max(values) - min(values)) or 0.1 * max(values)
    ends = np.array([max(min(values) - margin, 0), max(values) + margin])
    for share, tint in ((0.10, "#F0F0F0"), (0.05, "#DEDEDE")):
        axes.fill_between(ends, ends * (1 - share), ends * (1 + share), color=tint, lw=0, zorder=1)
    axes.plot(ends, ends, color=MUTED, lw=0.9, zorder=2)
    for predicted, pair in zip(result.predicted, result.repeats):
        axes.plot(pair, [predicted] * 2, color="#7FB7DC", lw=1.2, zorder=3)
    axes.scatter(result.measured, result.predicted, s=20, color=CYCLE[0], edgecolors="white", lw=0.6, zorder=4)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set_xlabel("measured, ms", fontsize=9, color=INK)
    axes.set_ylabel("predicted by the table, ms", fontsize=9, color=INK)
    if title:
        figure.suptitle(title, fontsize=10.5, weight="bold", color=INK)
    agreement, ceiling = result.agreement, result.repeat
    axes.text(
        0.03,
        0.97,
        f"{agreement.within_5:.0%} within 5 %\n{agreement.within_10:.0%} within 10 %\n"
        f"RMSE {agreement.rmse:.2g} ms\nKendall τ {agreement.kendall:.3f}\nSpearman ρ {agreement.spearman:.3f}",
        transform=axes.transAxes,
        va="top",
        fontsize=8.5,
        color=INK,
        linespacing=1.5,
    )
    axes.text(
        0.97,
        0.03,
        f"{len(result.genes)} networks, measured twice:\nnoise {result.noise:.1%}, τ {ceiling.kendall:.3f} "
        "from one to the other\nbands: 5 and 10 %",
        transform=axes.transAxes,
        ha="right",
        fontsize=8,
        color=MUTED,
        linespacing=1.5,
    )
    plain_axes(axes, 8)
    return figure
