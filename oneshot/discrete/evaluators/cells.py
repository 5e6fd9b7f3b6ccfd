"""DARTS cells as numbers, for models of how good they are: what lies on the paths through a cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from oneshot.supernets.darts import CANDIDATES
from oneshot.supernets.genotype import Cell, Edge, Genotype
from oneshot.supernets.space import NONE, Floats

NODES, INPUTS, EDGES = 4, 2, 2  # edges of a node, at most
CONCAT = tuple(range(INPUTS, INPUTS + NODES))
OPERATIONS = tuple(name for name in CANDIDATES if name != NONE)
# By how many pixels an operation widens what a position sees; those with weights are the convolutions.
WIDENS = {
    "max_pool_3x3": 2,
    "avg_pool_3x3": 2,
    "skip_connect": 0,
    "sep_conv_3x3": 4,
    "sep_conv_5x5": 8,
    "dil_conv_3x3": 4,
    "dil_conv_5x5": 8,
}
CONVOLUTIONS = frozenset(name for name in OPERATIONS if "conv" in name)
SOURCES = ("c_{k-2}", "c_{k-1}", "a node")

FEATURES = (
    *(f"{name} that reads {source}" for source in SOURCES for name in OPERATIONS),
    *OPERATIONS,
    *(f"log of 1 + paths with {n} convolutions" for n in range(NODES + 1)),
    *(f"log of 1 + paths of {n} operations" for n in range(1, NODES + 1)),
    "nodes with an input",
    "edges",
    *(
        f"{what}, {how}"
        for what in ("operations", "convolutions", "pixels")
        for how in ("longest path", "mean of nodes")
    ),
)


def check_cells(genotype: Genotype) -> None:
    """Whether both cells are cells of the DARTS space, in which a node may also read one state twice.

    Raises:
        ValueError: If not; the rule that is broken is named.
    """
    for kind in ("normal", "reduce"):
        cell, concat = getattr(genotype, kind), getattr(genotype, f"{kind}_concat")
        if len(cell) != NODES or concat != CONCAT or getattr(genotype, f"{kind}_joined"):
            raise ValueError(
                f"DARTS cells must have {NODES} nodes that add, and concatenate the states {list(CONCAT)}; the {kind} "
                f"cell has {len(cell)} and concatenates {list(concat)}."
            )
        if len(most := max(cell, key=len)) > EDGES:
            raise ValueError(
                f"Nodes of a DARTS cell must have at most {EDGES} edges; one of the {kind} cell has {len(most)}."
            )
        unknown = sorted({op for node in cell for op, _ in node} - set(CANDIDATES))
        if unknown:
            raise ValueError(
                f"Operations of a DARTS cell must be {', '.join(CANDIDATES)}; the {kind} cell has {unknown[0]!r}."
            )


def live_edges(cell: Cell) -> list[list[Edge]]:
    """The edges of every node that carry something: no ``none``, and no state that reads nothing."""
    live, found = set(range(INPUTS)), []
    for state, node in enumerate(cell, start=INPUTS):
        edges = [(op, source) for op, source in node if op != NONE and source in live]
        found.append(edges)
        if edges:
            live.add(state)
    return found


def is_dead(cell: Cell) -> bool:
    """Whether the output of a cell depends on no input."""
    return not any(live_edges(cell))


def cell_features(cells: Iterable[Cell]) -> Floats:
    """Features of cells, ``[N, len(FEATURES)]``, in the order of :data:`FEATURES`.

    Counts of operations by what they read; numbers of paths from an input to the output by their convolutions and by
    their length; and for every node the longest path to it, in operations, in convolutions and in pixels that a
    position sees.
    """
    return np.array([_features(cell) for cell in cells], np.float64).reshape(-1, len(FEATURES))


def _features(cell: Cell) -> list[float]:
    edges = live_edges(cell)
    reads = Counter((min(source, INPUTS), op) for node in edges for op, source in node)
    counts = [float(reads[source, op]) for source in range(len(SOURCES)) for op in OPERATIONS]
    totals = [float(sum(reads[source, op] for source in range(len(SOURCES)))) for op in OPERATIONS]
    paths: list[Counter[tuple[int, int]]] = [Counter({(0, 0): 1}) for _ in range(INPUTS)]  # (convolutions, length)
    longest = [[0, 0, 0] for _ in range(INPUTS)]
    for node in edges:
        found: Counter[tuple[int, int]] = Counter()
        most = [0, 0, 0]
        for op, source in node:
            own = op in CONVOLUTIONS
            for (convolutions, length), number in paths[source].items():
                found[convolutions + own, length + 1] += number
            steps = (1, int(own), WIDENS[op])
            most = [max(old, before + step) for old, before, step in zip(most, longest[source], steps, strict=True)]
        paths.append(found)
        longest.append(most)
    every: Counter[tuple[int, int]] = sum(paths[INPUTS:], Counter())
    by_convolutions = [sum(n for (c, _), n in every.items() if c == k) for k in range(NODES + 1)]
    by_length = [sum(n for (_, length), n in every.items() if length == k) for k in range(1, NODES + 1)]
    nodes = np.array(longest[INPUTS:], np.float64)
    extent = np.stack([nodes.max(0), nodes.mean(0)], 1).ravel().tolist()
    return [
        *counts,
        *totals,
        *np.log1p(by_convolutions).tolist(),
        *np.log1p(by_length).tolist(),
        float(sum(bool(node) for node in edges)),
        float(sum(map(len, edges))),
        *extent,
    ]
