"""Pictures of cells: nodes in columns, operations on the edges."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .style import DPI, FAINT, INK, MUTED, op_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from oneshot.supernets.space import ArchGraph


# Everything a cell picture is made of, in points.
_NODE_FONT, _LABEL_FONT, _TITLE_FONT = 9.0, 8.0, 10.5

_NODE_HEIGHT, _LABEL_HEIGHT, _PASSING_HEIGHT = 22.0, 15.0, 4.0

_SPACING, _MARGIN, _ROW_GAP, _MAX_WIDTH = 7.0, 14.0, 26.0, 860.0


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
        raise ValueError("draw_cells must get at least one graph; got none. Pass space.graphs(config).")
    layouts = [_layout(graph) for graph in graphs]
    colours = op_colours(sorted({label for graph in graphs for _, _, label in graph.edges if label}))
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
        figure.text(_MARGIN / width, 1 - 18 / height, title, fontsize=12, color=INK, va="center", parse_math=False)
    x, y = 0.0, top
    for graph, layout in zip(graphs, layouts):
        y += heading
        box = (x / width, 1 - (y + layout.height) / height, layout.width / width, layout.height / height)
        axes = figure.add_axes(box)
        axes.set(xlim=(0, layout.width), ylim=(layout.height, 0))
        axes.set_axis_off()
        axes.text(_MARGIN, -8, graph.name, fontsize=_TITLE_FONT, weight="bold", color=INK, va="center", clip_on=False)
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
        colour = colours[label] if label else MUTED
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
                write(slot, slot.text, _LABEL_FONT, INK, "label")
    for node in layout.nodes:
        used = node.left or node.right
        face = "white" if not used else "#E9E9E9" if node.left and node.right else "#D3DCE6"
        box(node, face, "#555555" if used else FAINT, 7.0, "node-box")
        write(node, _math(node.text), _NODE_FONT, INK if used else MUTED, "node")


def _math(name: str) -> str:
    return f"${name}$" if re.fullmatch(r"[A-Za-z]+_\{[\w+-]+\}", name) else name.replace("$", r"\$")


def _text_width(text: str, size: float) -> float:
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, size=size).get_extents().width) if text.strip() else 0.0


def _tint(colour: str) -> str:
    """The colour on 12 % opacity over white."""
    return "#" + "".join(f"{round(255 - 0.12 * (255 - int(colour[i : i + 2], 16))):02X}" for i in (1, 3, 5))
