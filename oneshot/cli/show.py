"""``oneshot show``: picture and size of an architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oneshot.cost.counting.network import count
from oneshot.report.cells import draw_cells
from oneshot.report.style import save_figure
from oneshot.report.tables import network_table

from .networks import GENOTYPE, network_named
from .terminal import say


def show(target: str, *, out: str | None = None, trust: Sequence[str] = ()) -> None:
    """``oneshot show TARGET``: picture of the architecture, table of parameters and MACs."""
    network = network_named(target, inherit=False, trust=trust)
    graphs = network.graphs()
    name = "genotype" if GENOTYPE.search(target) else Path(target).name
    path = save_figure(draw_cells(graphs, title=name), out or f"{_slug(name)}.png")
    counts = count(network, network.input_shape)
    edges = [
        {"cell": graph.name, "edge": f"{graph.nodes[source]} → {graph.nodes[end]}", "operation": label}
        for graph in graphs
        for source, end, label in graph.edges
        if label
    ]
    size = {
        "network": type(network).__name__,
        "input": _shape_text(network.input_shape),
        "params": counts.params,
        "MACs": counts.macs,
    }
    say(network_table(edges))
    say(network_table([size]))
    say(f"Picture: {path}")


def _shape_text(shape: Any) -> str:
    if isinstance(shape, Mapping):
        return ", ".join(f"{name} {_shape_text(part)}" for name, part in shape.items())
    return "x".join(map(str, shape))


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(text).name).strip("_") or "network"
