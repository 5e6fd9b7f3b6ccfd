"""Curves over a search: architecture weights, losses and accuracies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .style import CYCLE, DASHES, DPI, INK, op_colours, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_alphas(
    history: Mapping[str, npt.NDArray[Any]], candidates: Mapping[str, Sequence[str | int | float]]
) -> Figure:
    """Draws candidate probabilities against the epoch, one small panel per row of each choice.

    The right-hand end of each panel's title names the candidate that is highest in the last epoch (``none`` included;
    the derivation rule of a space may choose another).

    Args:
        history: Per choice the probabilities of all epochs, ``[T, R, O]``.
        candidates: Per choice the names of the ``O`` candidates.

    Returns:
        The figure; all panels share both axes and one legend.

    Raises:
        ValueError: If there is no choice, no epoch, or a shape does not fit the candidates.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    names = _candidate_names(history, candidates, ndim=3, shape="[T, R, O]")
    styles = _line_styles([op for ops in names.values() for op in ops])
    grids = {}
    for choice, values in history.items():
        columns = min(7, values.shape[1])
        grids[choice] = (math.ceil(values.shape[1] / columns), columns)
    width = max(5.0, 1.75 * max(columns for _, columns in grids.values()) + 0.6)
    per_line = max(1, int(width / (0.095 * max(len(op) for op in styles) + 0.45)))
    legend_height = 0.22 * math.ceil(len(styles) / per_line) + 0.15
    heights = [1.4 * rows + 0.45 for rows, _ in grids.values()]
    figure = Figure(figsize=(width, sum(heights) + legend_height), dpi=DPI, facecolor="white", layout="constrained")
    ratios = [*heights, legend_height]
    *parts, footer = figure.subfigures(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0]
    top = min(1.0, 1.08 * max(float(np.nanmax(values)) for values in history.values()))
    for part, (choice, values) in zip(parts, history.items()):
        rows, columns = grids[choice]
        part.suptitle(choice, x=0.01, ha="left", fontsize=11, weight="bold", color=INK)
        part.supylabel("probability", fontsize=8, color=INK)
        panels = part.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        epochs = np.arange(values.shape[0])
        for r, axes in enumerate(panels.flat):
            if r >= values.shape[1]:
                axes.remove()
                continue
            for o, op in enumerate(names[choice]):
                marker = "." if len(epochs) == 1 else None
                axes.plot(epochs, values[:, r, o], color=styles[op][0], linestyle=styles[op][1], lw=1.3, marker=marker)
            winner = names[choice][int(np.argmax(values[-1, r]))]
            axes.set_title(f"{r}", loc="left", fontsize=8, weight="bold", color=INK, pad=3)
            axes.set_title(winner, loc="right", fontsize=7, color=INK, pad=3)
            plain_axes(axes, 7)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_ylim(0, top)
            if r + columns >= values.shape[1]:
                axes.set_xlabel("epoch", fontsize=7.5, color=INK)
                axes.tick_params(labelbottom=True)
    handles = [Line2D([], [], color=colour, linestyle=dash, lw=2) for colour, dash in styles.values()]
    footer.legend(handles, list(styles), loc="center", ncols=min(per_line, len(styles)), frameon=False, fontsize=8)
    return figure


def draw_alpha_heatmap(
    probabilities: Mapping[str, npt.NDArray[Any]], candidates: Mapping[str, Sequence[str | int | float]]
) -> Figure:
    """Draws one heat map per choice: rows against candidates, every value written, the highest of each row in bold.

    Args:
        probabilities: Per choice ``[R, O]``.
        candidates: Per choice the names of the ``O`` candidates.

    Returns:
        The figure; all maps share one colour scale from 0 to the highest value.

    Raises:
        ValueError: If there is no choice, or a shape does not fit the candidates.
    """
    from matplotlib.figure import Figure

    names = _candidate_names(probabilities, candidates, ndim=2, shape="[R, O]")
    widths = [0.5 * values.shape[1] + 0.5 for values in probabilities.values()]
    longest = max(len(op) for ops in names.values() for op in ops)
    height = 0.27 * max(values.shape[0] for values in probabilities.values()) + 0.5 + 0.06 * longest
    figure = Figure(figsize=(sum(widths), height), dpi=DPI, facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, width_ratios=widths)[0]
    top = max(float(np.nanmax(values)) for values in probabilities.values())
    for axes, (choice, values) in zip(panels, probabilities.items()):
        axes.imshow(values, cmap="Blues", vmin=0, vmax=1.1 * top, aspect="auto")
        for r, o in np.ndindex(values.shape):
            weight = "bold" if o == int(np.argmax(values[r])) else "normal"
            colour = "white" if values[r, o] > 0.62 * top else INK
            axes.text(o, r, f"{values[r, o]:.2f}", ha="center", va="center", fontsize=7, color=colour, weight=weight)
        axes.set_title(choice, loc="left", fontsize=11, weight="bold", color=INK)
        axes.set_xticks(range(len(names[choice])), names[choice], rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(values.shape[0]))
        axes.tick_params(length=0, labelsize=7.5, colors=INK)
        axes.spines[:].set_visible(False)
    return figure


def draw_curves(curves: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]) -> Figure:
    """Draws learning curves side by side; a series has the same colour in every panel.

    Args:
        curves: Panel (``"loss"``) -> series (``"train"``) -> epochs and values.

    Returns:
        The figure, at most three panels to a line, one legend.

    Raises:
        ValueError: If there is no series, or epochs and values of one differ in number.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    series = list(dict.fromkeys(name for panel in curves.values() for name in panel))
    if not series:
        raise ValueError("draw_curves must get at least one panel with a series; got none.")
    styles = {name: (CYCLE[i % len(CYCLE)], DASHES[i // len(CYCLE) % 4]) for i, name in enumerate(series)}
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    size = (4.0 * columns, 2.9 * rows + 0.3)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    handles = {}
    for (panel, lines), axes in zip(curves.items(), panels):  # which takes no more places than there are curves
        for name, (x, y) in lines.items():
            if len(x) != len(y):
                raise ValueError(
                    f"{panel}/{name} must have one value per epoch; got {len(x)} epochs and {len(y)} values."
                )
            marker = "o" if len(x) <= 12 else None
            (handles[name],) = axes.plot(
                x, y, color=styles[name][0], linestyle=styles[name][1], lw=1.6, marker=marker, markersize=3
            )
        axes.set_title(panel, loc="left", fontsize=10.5, weight="bold", color=INK)
        axes.set_xlabel("epoch", fontsize=8.5, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        plain_axes(axes, 8)
    for axes in panels:  # places that have no panel
        axes.remove()
    figure.legend(
        [handles[name] for name in series],
        series,
        loc="outside lower center",
        ncols=min(len(series), 2 * columns),
        frameon=False,
        fontsize=8.5,
    )
    return figure


def _candidate_names(
    arrays: Mapping[str, npt.NDArray[Any]],
    candidates: Mapping[str, Sequence[str | int | float]],
    *,
    ndim: int,
    shape: str,
) -> dict[str, list[str]]:
    if not arrays:
        raise ValueError("There must be at least one choice; got none.")
    for choice, values in arrays.items():
        known = len(candidates.get(choice, ()))
        if values.ndim != ndim or 0 in values.shape or values.shape[-1] != known:
            raise ValueError(
                f"Choice {choice!r} must have an array {shape}, none of them 0, O = {known} candidates; "
                f"got {values.shape}."
            )
    return {choice: [str(candidate) for candidate in candidates[choice]] for choice in arrays}


def _line_styles(ops: Iterable[str]) -> dict[str, tuple[str, Any]]:
    """Colour and dash per operation; the dash changes where a colour comes back."""
    styles: dict[str, tuple[str, Any]] = {}
    for op, colour in op_colours(ops).items():
        again = sum(colour == other for other, _ in styles.values())
        styles[op] = (colour, DASHES[again % len(DASHES)])
    return styles
