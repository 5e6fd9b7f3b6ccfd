"""Scores of networks against what is known of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import CYCLE, DPI, INK, MUTED, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
DECADES = 100  # from this ratio of the largest score to the smallest on, the axis is logarithmic


def draw_ranking(
    scores: Mapping[str, Sequence[float]],
    values: Sequence[float],
    label: str,
    captions: Mapping[str, str] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Draws a panel for each score: the values of the networks against it.

    Args:
        scores: ``{name: [N]}``, NaN for networks without a score, which are left out of that panel.
        values: ``[N]``, such as accuracies.
        label: What the values are.
        captions: A line of text in a panel, by name.
        title: Heading of the picture.

    Returns:
        The figure, at most three panels to a line.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    columns = min(COLUMNS, len(scores))
    rows = math.ceil(len(scores) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.9 * rows + 0.4), dpi=DPI, facecolor="white", layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    y = np.asarray(values, dtype=np.float64)
    for (name, column), axes in zip(scores.items(), panels):  # there may be more panels than scores
        x = np.asarray(column, dtype=np.float64)
        known = np.isfinite(x)
        axes.scatter(x[known], y[known], s=14, color=CYCLE[0], alpha=0.7, linewidths=0)
        if known.any() and x[known].min() > 0 and x[known].max() > DECADES * x[known].min():
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel(name, fontsize=9, color=INK)
        axes.set_ylabel(label.replace("_", " "), fontsize=9, color=INK)
        if captions and name in captions:
            axes.set_title(captions[name], fontsize=8.5, color=MUTED, loc="left")
        plain_axes(axes, 8)
        axes.tick_params(axis="x", which="minor", labelsize=6)
    for axes in panels[len(scores) :]:
        axes.remove()
    if title:
        figure.suptitle(title, fontsize=10.5, weight="bold", color=INK)
    return figure
