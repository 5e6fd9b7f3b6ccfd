"""A picture of the results of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from oneshot.discrete.record import Objective
    from oneshot.discrete.study import Study

BEST, OTHERS = "#c0392b", "#9aa5b1"
COLUMNS = 2  # panels beside each other, so that their text stays legible where the picture is made smaller
FAR, MOST_FAR = 3.0, 0.25  # distances between the quartiles, and the share of evaluations that may lie beyond
UNITS = {"latency": "ms"}

Floats = npt.NDArray[np.float64]


def draw_study(study: Study, *, title: str | None = None) -> Figure:
    """Draw every evaluation in the order in which it was finished, the best so far, and with more objectives the front.

    A few evaluations that are far worse than all others, such as trainings that came to nothing, are drawn as triangles
    at the edge, so that the others can be told apart; the legend counts them.

    Args:
        study: With at least one evaluation that succeeded.
        title: Title of the whole picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    done = [(i, record) for i, record in enumerate(study.evaluated, 1) if record.result.values is not None]
    first, *others = study.objectives
    count = 1 + len(others)
    columns, rows = min(count, COLUMNS), -(-count // COLUMNS)
    figure = Figure(figsize=(1.0 + 4.6 * columns, 0.4 + 3.7 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    axes, unused = grid[:count], grid[count:]
    for axis in unused:
        axis.set_axis_off()
    metrics = {o.metric: np.array([record.result.metrics[o.metric] for _, record in done]) for o in study.objectives}
    places, y = np.array([i for i, _ in done], dtype=float), metrics[first.metric]
    front = {id(record) for record in study.front()}
    on_front = np.array([id(record) in front for _, record in done])
    edge, far = _far_off(y, first)
    if (far & on_front).any():  # cheap and bad, and yet one to choose from
        edge, far = (-np.inf, np.inf), np.zeros(len(y), dtype=bool)

    so_far = np.minimum.accumulate(y) if first.direction == "min" else np.maximum.accumulate(y)
    _scatter(axes[0], places, y, first, edge, far)
    axes[0].step(places, np.clip(so_far, *edge), where="post", color=BEST, label=f"best so far, now {so_far[-1]:.4g}")
    axes[0].set_xlabel("evaluations, in the order in which they were finished")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis, objective in zip(axes[1:], others, strict=True):
        x = metrics[objective.metric]
        _scatter(axis, x[~on_front], y[~on_front], first, edge, far[~on_front])
        axis.scatter(x[on_front], y[on_front], s=30, color=BEST, zorder=3, label=f"front, {on_front.sum()} networks")
        if count == 2:
            order = np.argsort(x[on_front])
            axis.plot(x[on_front][order], y[on_front][order], color=BEST, linewidth=1, alpha=0.6)
        _scale(axis, x, objective)
    for axis in axes[::columns]:
        axis.set_ylabel(_name(first))
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize="small")
        axis.tick_params(labelleft=axis in axes[::columns])
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    if title:
        figure.suptitle(title)
    return figure


def _far_off(y: Floats, objective: Objective) -> tuple[tuple[float, float], npt.NDArray[np.bool_]]:
    """The range of values to show, and which of them are far worse."""
    worse = y if objective.direction == "min" else -y
    low, high = np.quantile(worse, [0.25, 0.75])
    far = worse > high + FAR * (high - low)
    if high == low or not 0 < far.mean() <= MOST_FAR:
        return (-np.inf, np.inf), np.zeros(len(y), dtype=bool)
    shown = y[~far]
    room = 0.08 * (np.ptp(shown) or 1.0)
    return ((-np.inf, shown.max() + room) if objective.direction == "min" else (shown.min() - room, np.inf)), far


def _scatter(
    axis: Axes, x: Floats, y: Floats, objective: Objective, edge: tuple[float, float], far: npt.NDArray[np.bool_]
) -> None:
    axis.scatter(x[~far], y[~far], s=14, color=OTHERS, linewidths=0, label="evaluated")
    if far.any():
        marker = "^" if objective.direction == "min" else "v"
        told = f"{far.sum()} far worse, beyond the edge"
        axis.scatter(x[far], np.clip(y[far], *edge), s=22, color=OTHERS, marker=marker, linewidths=0, label=told)


def _scale(axis: Axes, x: Floats, objective: Objective) -> None:
    """The axis of an objective: logarithmic where values are of several sizes, large numbers as 10k and 2M."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axis.set_xlabel(_name(objective))
    if (x > 0).all() and x.max() > 30 * x.min():
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=_marks(x), numticks=9))
        axis.xaxis.set_minor_formatter(NullFormatter())
    if np.abs(x).max() >= 1000:
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def _marks(x: Floats) -> Sequence[float]:
    """Which numbers of a decade are written: fewer, the more decades there are."""
    decades = np.log10(x.max() / x.min())
    return (1.0, 2.0, 5.0) if decades < 2 else (1.0, 3.0) if decades < 3 else (1.0,)


def _name(objective: Objective) -> str:
    unit = f", {UNITS[objective.metric]}" if objective.metric in UNITS else ""
    better = "less" if objective.direction == "min" else "more"
    return f"{objective.metric.replace('_', ' ')}{unit} ({better} is better)"
