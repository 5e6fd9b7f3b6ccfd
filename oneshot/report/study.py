"""A picture of the results of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from oneshot.discrete.study import Study

BEST, OTHERS = "#c0392b", "#9aa5b1"


def draw_study(study: Study, *, title: str | None = None) -> Figure:
    """Draw every evaluation in the order in which it was finished, the best so far, and with more objectives the front.

    Args:
        study: With at least one evaluation that succeeded.
        title: Title of the whole picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    done = [(i, record) for i, record in enumerate(study.evaluated, 1) if record.result.values is not None]
    first, *others = study.objectives
    figure = Figure(figsize=(1.2 + 4.6 * (1 + len(others)), 4.2), layout="constrained")
    axes = figure.subplots(1, 1 + len(others), squeeze=False, sharey=True)[0]
    metrics = {o.metric: np.array([record.result.metrics[o.metric] for _, record in done]) for o in study.objectives}
    y = metrics[first.metric]
    so_far = np.minimum.accumulate(y) if first.direction == "min" else np.maximum.accumulate(y)
    places = [i for i, _ in done]
    axes[0].scatter(places, y, s=12, color=OTHERS, linewidths=0, label="evaluated")
    axes[0].step(places, so_far, where="post", color=BEST, label="best so far")
    axes[0].set_xlabel("evaluations")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel(first.metric.replace("_", " "))
    front = {id(record) for record in study.front()}
    on_front = np.array([id(record) in front for _, record in done])
    for axis, objective in zip(axes[1:], others):
        x = metrics[objective.metric]
        axis.scatter(x[~on_front], y[~on_front], s=12, color=OTHERS, linewidths=0, label="evaluated")
        axis.scatter(x[on_front], y[on_front], s=26, color=BEST, zorder=3, label="front")
        axis.set_xlabel(objective.metric.replace("_", " "))
        if (x > 0).all() and x.max() > 30 * x.min():
            axis.set_xscale("log")
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    if title:
        figure.suptitle(title)
    return figure
