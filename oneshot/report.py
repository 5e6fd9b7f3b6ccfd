"""Pictures and tables of results: cells, alphas, learning curves, comparisons.

Everything is drawn on a bare ``matplotlib.figure.Figure`` with explicit colours and font sizes: pyplot is never
imported and no global setting (``rcParams``, backend) is changed. matplotlib and rich are imported by the function that
needs them. Colours are the colour-blind safe set of Okabe and Ito (https://jfly.uni-koeln.de/color/), with a lighter or
darker sibling where one family of operations has two kernel sizes.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

    from oneshot.supernets.space import ArchGraph

    from .cost import Verification

DPI = 150
SUFFIXES = (".png", ".svg", ".pdf")
_NUMBERS = (int, float, np.integer, np.floating)

_INK, _MUTED, _FAINT = "#222222", "#767676", "#D0D0D0"
_CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255", "#999933", "#44AA99")
_DASHES = ("-", "--", ":", "-.")
_OP_COLOURS = {
    "none": "#BBBBBB",
    "skip_connect": "#222222",
    "max_pool_3x3": "#009E73",
    "avg_pool_3x3": "#7CCBAF",
    "sep_conv_3x3": "#0072B2",
    "sep_conv_5x5": "#56B4E9",
    "sep_conv_7x7": "#332288",
    "dil_conv_3x3": "#D55E00",
    "dil_conv_5x5": "#E69F00",
    "nor_conv_1x1": "#CC79A7",
    "nor_conv_3x3": "#882255",
    "noise": "#999933",
}

# Everything a cell picture is made of, in points.
_NODE_FONT, _LABEL_FONT, _TITLE_FONT = 9.0, 8.0, 10.5
_NODE_HEIGHT, _LABEL_HEIGHT, _PASSING_HEIGHT = 22.0, 15.0, 4.0
_SPACING, _MARGIN, _ROW_GAP, _MAX_WIDTH = 7.0, 14.0, 26.0, 860.0


# --- cells


@dataclass(eq=False)
class _Slot:
    """A place in a column of the layout: a node, the label of an edge, or an edge that passes by."""

    width: float
    height: float
    text: str = ""
    y: float = 0.0
    left: list[_Slot] = field(default_factory=list)
    right: list[_Slot] = field(default_factory=list)


@dataclass
class _Layout:
    """Columns of slots with their place on the page, in points, y downwards."""

    columns: list[list[_Slot]]
    nodes: list[_Slot]
    routes: list[tuple[str, list[_Slot]]]
    spans: list[tuple[float, float]]  # per column: left and right end
    rows: list[int]  # per column: the line of the page it stands in
    width: float
    height: float


def draw_cells(graphs: Sequence[ArchGraph], *, title: str | None = None) -> Figure:
    """Draws cells left to right: nodes as boxes, operations as labelled edges.

    Cells stand side by side when they fit, else below each other; long chains wrap like text. Edges whose operation is
    ``none`` are omitted, and a node that has no other edge is drawn faint. ``skip_connect`` is dashed.
    Edges with an empty label (the concatenation at the end of a cell) are thin and grey.

    Args:
        graphs: The cells; nodes in topological order.
        title: Heading of the whole picture.

    Returns:
        A figure as large as its content, for :func:`save_figure`.

    Raises:
        ValueError: If there is no graph, or an edge does not lead from an earlier to a later node.
    """
    from matplotlib.figure import Figure

    if not graphs:
        raise ValueError("draw_cells needs at least one graph, got none; pass space.graphs(config).")
    layouts = [_layout(graph) for graph in graphs]
    colours = _op_colours(sorted({label for graph in graphs for _, _, label in graph.edges if label}))
    heading = 20.0  # above each cell, for its name
    top = 30.0 if title else 4.0
    side_by_side = sum(layout.width for layout in layouts) <= _MAX_WIDTH
    if side_by_side:
        width = sum(layout.width for layout in layouts)
        height = top + heading + max(layout.height for layout in layouts)
    else:
        width = max(layout.width for layout in layouts)
        height = top + sum(heading + layout.height for layout in layouts)
    if title:
        width = max(width, _text_width(title, 12.0) + 2 * _MARGIN)
    figure = Figure(figsize=(width / 72, height / 72), dpi=DPI, facecolor="white")
    if title:
        figure.text(_MARGIN / width, 1 - 18 / height, title, fontsize=12, color=_INK, va="center", parse_math=False)
    x, y = 0.0, top
    for graph, layout in zip(graphs, layouts):
        y += heading
        box = (x / width, 1 - (y + layout.height) / height, layout.width / width, layout.height / height)
        axes = figure.add_axes(box)
        axes.set(xlim=(0, layout.width), ylim=(layout.height, 0))
        axes.set_axis_off()
        axes.text(_MARGIN, -8, graph.name, fontsize=_TITLE_FONT, weight="bold", color=_INK, va="center", clip_on=False)
        _draw_layout(axes, layout, colours)
        if side_by_side:
            x, y = x + layout.width, top
        else:
            y += layout.height
    return figure


def _layout(graph: ArchGraph) -> _Layout:
    """Layered layout in the manner of Sugiyama, Tagawa and Toda (1981).

    Nodes stand in even columns by their longest distance from an input, labels in odd columns; an edge has a slot of
    its own in every column it crosses and changes its height only between columns. So nothing can overlap.
    """
    rank = [0] * len(graph.nodes)
    for source, target, label in sorted(graph.edges):
        if not 0 <= source < target < len(graph.nodes):
            raise ValueError(
                f"An edge must lead from an earlier to a later node, got {source} -> {target} ({label!r}) among "
                f"{len(graph.nodes)} nodes of {graph.name!r}; list the nodes in topological order."
            )
        rank[target] = max(rank[target], rank[source] + 1)
    columns: list[list[_Slot]] = [[] for _ in range(2 * max(rank, default=0) + 1)]
    nodes = [_Slot(max(26.0, _text_width(_math(name), _NODE_FONT) + 14), _NODE_HEIGHT, name) for name in graph.nodes]
    for node, column in zip(nodes, rank):
        columns[2 * column].append(node)
    routes = []
    for source, target, label in graph.edges:
        if label == "none":
            continue
        route, first, last = [nodes[source]], 2 * rank[source] + 1, 2 * rank[target]
        # Labels go to the emptiest of the columns that the edge crosses.
        home = min(range(first, last, 2), key=lambda c: sum(bool(slot.text) for slot in columns[c]))
        for c in range(first, last):
            if c == home and label:
                route.append(_Slot(_text_width(label, _LABEL_FONT) + 10, _LABEL_HEIGHT, label))
            else:
                route.append(_Slot(0.0, _PASSING_HEIGHT))
            columns[c].append(route[-1])
        route.append(nodes[target])
        for a, b in itertools.pairwise(route):
            a.right.append(b)
            b.left.append(a)
        routes.append((label, route))
    _order(columns)
    _place(columns)
    return _paginate(columns, nodes, routes)


def _order(columns: list[list[_Slot]]) -> None:
    """Sorts each column in place so that few edges cross: barycentre sweeps, the best order wins."""
    best, fewest = [list(column) for column in columns], _crossings(columns)
    for sweep in range(16):
        forward = sweep % 2 == 0
        order = range(1, len(columns)) if forward else range(len(columns) - 2, -1, -1)
        for c in order:
            place = {slot: i for i, slot in enumerate(columns[c - 1 if forward else c + 1])}
            keys = {}
            for i, slot in enumerate(columns[c]):
                others = slot.left if forward else slot.right
                keys[slot] = sum(place[other] for other in others) / len(others) if others else float(i)
            columns[c].sort(key=keys.__getitem__)
        crossings = _crossings(columns)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    columns[:] = best


def _crossings(columns: list[list[_Slot]]) -> int:
    total = 0
    for column, following in itertools.pairwise(columns):
        place = {slot: i for i, slot in enumerate(following)}
        ends = [sorted(place[other] for other in slot.right) for slot in column]
        flat = [(i, end) for i, some in enumerate(ends) for end in some]
        total += sum(a[0] < b[0] and a[1] > b[1] for a in flat for b in flat)
    return total


def _place(columns: list[list[_Slot]]) -> None:
    """Sets ``y`` of all slots: each as near to the mean of its neighbours as order and spacing allow."""
    for column in columns:
        _settle(column, [0.0] * len(column))
    for sweep in range(60):
        for column in columns if sweep % 2 else reversed(columns):
            wishes = []
            for slot in column:
                others = slot.left + slot.right
                wishes.append(sum(other.y for other in others) / len(others) if others else slot.y)
            _settle(column, wishes)


def _settle(column: Sequence[_Slot], wishes: Sequence[float]) -> None:
    """Least squares fit of the heights to ``wishes`` under order and spacing (pool adjacent violators)."""
    offsets = [0.0]
    for above, below in itertools.pairwise(column):
        offsets.append(offsets[-1] + (above.height + below.height) / 2 + _SPACING)
    blocks: list[list[float]] = []  # each block moves as one: [mean, size]
    for wish, offset in zip(wishes, offsets):
        blocks.append([wish - offset, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, size = blocks.pop()
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + mean * size) / (blocks[-1][1] + size), blocks[-1][1] + size]
    means = [mean for mean, size in blocks for _ in range(int(size))]
    for slot, mean, offset in zip(column, means, offsets):
        slot.y = mean + offset


def _paginate(columns: list[list[_Slot]], nodes: list[_Slot], routes: list[tuple[str, list[_Slot]]]) -> _Layout:
    """Gives columns their horizontal place and breaks lines behind single nodes when the page is full."""
    spans: list[tuple[float, float]] = []
    rows: list[int] = []
    x, row = _MARGIN, 0
    widths = [max((slot.width for slot in column), default=0.0) for column in columns]
    for c in range(len(columns)):
        if c % 2 and len(columns[c - 1]) == 1 and x + widths[c] + 24 + widths[c + 1] > _MAX_WIDTH:
            x, row = _MARGIN + 12, row + 1
        elif c:
            climb = max((abs(a.y - b.y) for a in columns[c - 1] for b in a.right), default=0.0)
            x += min(max(12.0, 0.35 * climb), 48.0)
        spans.append((x, x + widths[c]))
        rows.append(row)
        x += widths[c]
    top = 6.0
    for line in range(row + 1):
        slots = [slot for column, at in zip(columns, rows) if at == line for slot in column]
        high = min(slot.y - slot.height / 2 for slot in slots)
        low = max(slot.y + slot.height / 2 for slot in slots)
        for slot in slots:
            slot.y += top - high
        top += low - high + _ROW_GAP
    width = max(right for _, right in spans) + _MARGIN + (12 if row else 0)
    return _Layout(columns, nodes, routes, spans, rows, width, top - _ROW_GAP + _MARGIN)


def _draw_layout(axes: Axes, layout: _Layout, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
    from matplotlib.path import Path as Curve

    where = {slot: c for c, column in enumerate(layout.columns) for slot in column}
    centre = {slot: sum(layout.spans[c]) / 2 for slot, c in where.items()}
    for label, route in layout.routes:
        colour = colours[label] if label else _MUTED
        start, end = route[0], route[-1]
        tip = centre[end] - end.width / 2 - 1
        points, codes = [(centre[start] + start.width / 2, start.y)], [Curve.MOVETO]
        for a, b in itertools.pairwise(route):
            x0, x1 = layout.spans[where[a]][1], layout.spans[where[b]][0]
            if layout.rows[where[a]] == layout.rows[where[b]]:
                middle = (x0 + x1) / 2
                points += [(x0, a.y), (middle, a.y), (middle, b.y), (x1, b.y)]
                codes += [Curve.LINETO] + 3 * [Curve.CURVE4]
            else:  # carriage return
                turn = max(s.y + s.height / 2 for s in layout.columns[where[a]]) + _ROW_GAP / 2
                points += [(x0 + 10, a.y), (x0 + 10, turn), (x1 - 12, turn), (x1 - 12, b.y), (x1, b.y)]
                codes += 5 * [Curve.LINETO]
        points.append((tip - 5, end.y))
        codes.append(Curve.LINETO)
        style = (0, (4, 2.5)) if label == "skip_connect" else "-"
        axes.add_patch(
            PathPatch(
                Curve(points, codes), fill=False, edgecolor=colour, linewidth=1.4 if label else 0.8, linestyle=style
            )
        )
        head = [(tip, end.y), (tip - 6, end.y - 2.8), (tip - 6, end.y + 2.8)]
        axes.add_patch(Polygon(head, closed=True, facecolor=colour, edgecolor="none"))

    def box(slot: _Slot, face: str, edge: str, rounding: float, gid: str) -> None:
        corner = (centre[slot] - slot.width / 2, slot.y - slot.height / 2)
        style = f"round,pad=0,rounding_size={rounding}"
        patch = FancyBboxPatch(corner, slot.width, slot.height, boxstyle=style, fc=face, ec=edge, lw=0.9, zorder=3)
        patch.set_gid(gid)
        axes.add_patch(patch)

    def write(slot: _Slot, text: str, size: float, colour: str, gid: str) -> None:
        axes.text(
            centre[slot],
            slot.y,
            text,
            fontsize=size,
            color=colour,
            ha="center",
            va="center_baseline",
            zorder=4,
            gid=gid,
        )

    for label, route in layout.routes:
        for slot in route[1:-1]:
            if slot.text:
                box(slot, _tint(colours[label]), colours[label], 4.0, "label-box")
                write(slot, slot.text, _LABEL_FONT, _INK, "label")
    for node in layout.nodes:
        used = node.left or node.right
        face = "white" if not used else "#E9E9E9" if node.left and node.right else "#D3DCE6"
        box(node, face, "#555555" if used else _FAINT, 7.0, "node-box")
        write(node, _math(node.text), _NODE_FONT, _INK if used else _MUTED, "node")


def _math(name: str) -> str:
    return f"${name}$" if re.fullmatch(r"[A-Za-z]+_\{[\w+-]+\}", name) else name.replace("$", r"\$")


def _text_width(text: str, size: float) -> float:
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, size=size).get_extents().width) if text.strip() else 0.0


def _tint(colour: str) -> str:
    """The colour on 12 % opacity over white."""
    return "#" + "".join(f"{round(255 - 0.12 * (255 - int(colour[i : i + 2], 16))):02X}" for i in (1, 3, 5))


def _op_colours(ops: Iterable[str]) -> dict[str, str]:
    """A colour per operation: fixed for those of the published spaces, else from the rest of the cycle in turn."""
    ops = list(dict.fromkeys(ops))
    taken = {_OP_COLOURS[op] for op in ops if op in _OP_COLOURS}
    free = [colour for colour in _CYCLE if colour not in taken] or list(_CYCLE)
    unknown = [op for op in ops if op not in _OP_COLOURS]
    return {op: _OP_COLOURS[op] if op in _OP_COLOURS else free[unknown.index(op) % len(free)] for op in ops}


def save_figure(figure: Figure, path: str | Path, *, patient: bool = False) -> Path:
    """Writes a figure whole or not at all: to a temporary file beside the target, then renamed.

    Args:
        figure: Any matplotlib figure.
        path: Target; the suffix says the format. Missing folders are made.
        patient: Wait a while for room if the disk is full.

    Returns:
        The path written.

    Raises:
        ValueError: If the suffix is none of ``.png``, ``.svg``, ``.pdf``.
    """
    return write_atomically(path, picture(figure, Path(path)), patient=patient)


def picture(figure: Figure, path: Path) -> bytes:
    """Content of a file with a figure.

    Args:
        figure: Any matplotlib figure.
        path: The file; the suffix says the format.

    Raises:
        ValueError: If the suffix is none of ``.png``, ``.svg``, ``.pdf``.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"Pictures are written as one of {SUFFIXES}, got {path.name!r}; change the suffix.")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=DPI)
    return buffer.getvalue()


# --- charts


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
        part.suptitle(choice, x=0.01, ha="left", fontsize=11, weight="bold", color=_INK)
        part.supylabel("probability", fontsize=8, color=_INK)
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
            axes.set_title(f"{r}", loc="left", fontsize=8, weight="bold", color=_INK, pad=3)
            axes.set_title(winner, loc="right", fontsize=7, color=_INK, pad=3)
            _plain_axes(axes, 7)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_ylim(0, top)
            if r + columns >= values.shape[1]:
                axes.set_xlabel("epoch", fontsize=7.5, color=_INK)
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
            colour = "white" if values[r, o] > 0.62 * top else _INK
            axes.text(o, r, f"{values[r, o]:.2f}", ha="center", va="center", fontsize=7, color=colour, weight=weight)
        axes.set_title(choice, loc="left", fontsize=11, weight="bold", color=_INK)
        axes.set_xticks(range(len(names[choice])), names[choice], rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(values.shape[0]))
        axes.tick_params(length=0, labelsize=7.5, colors=_INK)
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
        raise ValueError("draw_curves needs at least one panel with a series, got none.")
    styles = {name: (_CYCLE[i % len(_CYCLE)], _DASHES[i // len(_CYCLE) % 4]) for i, name in enumerate(series)}
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    size = (4.0 * columns, 2.9 * rows + 0.3)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    handles = {}
    for axes, (panel, lines) in zip(panels, curves.items()):
        for name, (x, y) in lines.items():
            if len(x) != len(y):
                raise ValueError(f"{panel}/{name} needs one value per epoch, got {len(x)} epochs and {len(y)} values.")
            marker = "o" if len(x) <= 12 else None
            (handles[name],) = axes.plot(
                x, y, color=styles[name][0], linestyle=styles[name][1], lw=1.6, marker=marker, markersize=3
            )
        axes.set_title(panel, loc="left", fontsize=10.5, weight="bold", color=_INK)
        axes.set_xlabel("epoch", fontsize=8.5, color=_INK)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _plain_axes(axes, 8)
    for axes in panels:  # what the panels left over
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
        raise ValueError("At least one choice is needed, got none.")
    for choice, values in arrays.items():
        known = len(candidates.get(choice, ()))
        if values.ndim != ndim or 0 in values.shape or values.shape[-1] != known:
            raise ValueError(
                f"Choice {choice!r} needs an array {shape}, none of them 0, O = {known} candidates; got {values.shape}."
            )
    return {choice: [str(candidate) for candidate in candidates[choice]] for choice in arrays}


def _line_styles(ops: Iterable[str]) -> dict[str, tuple[str, Any]]:
    """Colour and dash per operation; the dash changes where a colour comes back."""
    styles: dict[str, tuple[str, Any]] = {}
    for op, colour in _op_colours(ops).items():
        again = sum(colour == other for other, _ in styles.values())
        styles[op] = (colour, _DASHES[again % len(_DASHES)])
    return styles


def _plain_axes(axes: Axes, size: float) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_MUTED)
    axes.tick_params(labelsize=size, colors=_MUTED, labelcolor=_INK, length=2.5)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)


def draw_agreement(result: Verification, *, title: str | None = None) -> Figure:
    """Draws predicted latencies against measured ones, on the diagonal where they agree.

    A line through each point spans its two measurements. The bands are 5 and 10 % wide to each side.

    Args:
        result: What :func:`~oneshot.cost.verification` found.
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
    axes.plot(ends, ends, color=_MUTED, lw=0.9, zorder=2)
    for predicted, pair in zip(result.predicted, result.repeats):
        axes.plot(pair, [predicted] * 2, color="#7FB7DC", lw=1.2, zorder=3)
    axes.scatter(result.measured, result.predicted, s=20, color=_CYCLE[0], edgecolors="white", lw=0.6, zorder=4)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set_xlabel("measured, ms", fontsize=9, color=_INK)
    axes.set_ylabel("predicted by the table, ms", fontsize=9, color=_INK)
    if title:
        figure.suptitle(title, fontsize=10.5, weight="bold", color=_INK)
    agreement, ceiling = result.agreement, result.repeat
    axes.text(
        0.03,
        0.97,
        f"{agreement.within_5:.0%} within 5 %\n{agreement.within_10:.0%} within 10 %\n"
        f"RMSE {agreement.rmse:.2g} ms\nKendall τ {agreement.kendall:.3f}\nSpearman ρ {agreement.spearman:.3f}",
        transform=axes.transAxes,
        va="top",
        fontsize=8.5,
        color=_INK,
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
        color=_MUTED,
        linespacing=1.5,
    )
    _plain_axes(axes, 8)
    return figure


def draw_segmentations(
    images: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.integer[Any]],
    predictions: Mapping[str, npt.NDArray[np.integer[Any]]],
    classes: Sequence[str],
) -> Figure:
    """Draws image, mask and predictions side by side, one example to a line.

    Args:
        images: ``[N, H, W, 3]``, or ``[N, H, W, 1]`` for grey ones.
        masks: Class of every pixel, ``[N, H, W]``; 255 is ignored, and white.
        predictions: Heading (the name of a network) -> classes, ``[N, H, W]``.
        classes: Names of the classes, for the legend.

    Returns:
        The figure, with a colour to a class in all pictures.

    Raises:
        ValueError: If masks or predictions are not of the images' number and size, or hold what is neither a class nor
            255.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex, to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours: Sequence[str] = _CYCLE
    if len(classes) > len(_CYCLE):
        colours = [to_hex(colormaps["turbo"](i / (len(classes) - 1))) for i in range(len(classes))]
    palette = np.ones((256, 3))
    palette[: len(classes)] = [to_rgb(colour) for colour in colours[: len(classes)]]
    columns = {"image": images, "mask": masks, **predictions}
    for name, maps in list(columns.items())[1:]:
        if maps.shape != images.shape[:3]:
            raise ValueError(
                f"{name} needs a class for every pixel of the images, {images.shape[:3]}; got {maps.shape}."
            )
        if foreign := sorted(set(np.unique(maps).tolist()) - {*range(len(classes)), 255}):
            raise ValueError(f"{name} holds classes below {len(classes)}, or 255; got {foreign}.")
        columns[name] = palette[maps]
    count, height, width = images.shape[:3]
    size = 1.5
    page = (size * len(columns), (size * height / width + 0.03) * count + 0.6)
    figure = Figure(figsize=page, dpi=DPI, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)  # type: ignore[union-attr, call-arg]  # of constrained layout
    grid = figure.subplots(count, len(columns), squeeze=False)
    for column, (name, pictures) in enumerate(columns.items()):
        grid[0, column].set_title(name, fontsize=9, color=_INK)
        for axes, picture in zip(grid[:, column], pictures):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(_FAINT)
    handles = [Patch(facecolor=colour, label=name) for name, colour in zip(classes, colours)]
    if (masks == 255).any():
        handles.append(Patch(facecolor="white", edgecolor=_MUTED, label="ignored"))
    across = min(len(handles), 2 * len(columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=across, frameon=False, fontsize=8)
    return figure


# --- tables


def network_table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """Makes a table of networks, or of anything else: one line per mapping, one column per key.

    Columns come in the order in which the keys first appear. Columns of numbers are right-justified with the same
    number of decimals in all lines; a missing value or None is shown as a dash.

    Args:
        rows: The lines.
        title: Heading of the table.

    Returns:
        A table for ``rich.print`` or a ``rich.console.Console``.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = []
    for column in columns:
        values = [row.get(column) for row in rows]
        numbers = [float(v) for v in values if isinstance(v, _NUMBERS) and not isinstance(v, bool)]
        texts = [v for v in values if isinstance(v, bool) or not (v is None or isinstance(v, _NUMBERS))]
        table.add_column(Text(column), justify="right" if numbers and not texts else "left", no_wrap=bool(numbers))
        cells.append([Text(_format(value, numbers)) for value in values])
    for line in zip(*cells):
        table.add_row(*line)
    return table


def _format(value: object, column: Sequence[float]) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        largest = max((abs(v) for v in column if math.isfinite(v)), default=0.0)
        if 0 < largest < 1e-2:
            return f"{float(value):.2e}"
        decimals = 4 if largest < 2 else 2 if largest < 1000 else 0
        return f"{float(value):,.{decimals}f}"
    return str(value)


def comparison_table(
    found: Mapping[str, float],
    random: Sequence[Mapping[str, float]],
    *,
    title: str = "Found network against random ones",
) -> Table:
    """Sets a found network against random networks of the same space, trained the same way.

    Args:
        found: ``accuracy`` as a fraction, ``params`` and ``macs`` as counts.
        random: The same of each random network.
        title: Heading of the table.

    Returns:
        Table with the found network, the mean and sample standard deviation (N - 1) of the random networks, and the
        most accurate of them. Accuracy in percent, counts in thousands or millions.

    Raises:
        ValueError: If there is no random network.
    """
    from rich.table import Table
    from rich.text import Text

    if not random:
        raise ValueError("comparison_table needs at least one random network, got none.")
    best = max(random, key=lambda network: network["accuracy"])
    table = Table(title=Text(title), title_justify="left")
    several = f"random, mean ± std of {len(random)}" if len(random) > 1 else "random, 1 network"
    lines = [["found"], [several], ["random, most accurate"]]
    table.add_column("network")
    for key, name in (("accuracy", "accuracy [%]"), ("params", "params"), ("macs", "MACs")):
        values = np.array([network[key] for network in random], dtype=np.float64)
        unit, letter = 0.01, ""
        if key != "accuracy":
            largest = max(float(found[key]), float(values.max()))
            unit, letter = (1e6, "M") if largest >= 1e6 else (1e3, "k") if largest >= 1e4 else (1.0, "")
        table.add_column(Text(f"{name} [{letter}]" if letter else name), justify="right", no_wrap=True)
        decimals = 0 if unit == 1.0 else 2
        spread = f" ± {values.std(ddof=1) / unit:,.{decimals}f}" if len(values) > 1 else ""
        lines[0].append(f"{found[key] / unit:,.{decimals}f}")
        lines[1].append(f"{values.mean() / unit:,.{decimals}f}{spread}")
        lines[2].append(f"{best[key] / unit:,.{decimals}f}")
    for line in lines if len(random) > 1 else lines[:2]:
        table.add_row(*map(Text, line))
    return table
