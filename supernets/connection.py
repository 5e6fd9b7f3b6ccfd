"""Whether the output of a cell reads its input, and which edges to add where it does not. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .space import NONE, IntMatrix, SearchSpace, SubnetConfig

if TYPE_CHECKING:
    Bits = npt.NDArray[np.bool_]
    Scores = Mapping[str, npt.NDArray[np.floating[Any]]]

LEAST = 1e-300  # stands for a probability of 0 in sums of logarithms


@dataclass(frozen=True)
class CellGraph:
    """The edges of a cell that may hold ``none``: which states they join, and which gene decides about each.

    Args:
        edges: ``(source, target, gene)``. All edges that enter a state come before those that leave it.
        inputs: States that the cell is given.
        outputs: States that are its output. One of them must read an input, maybe by way of other states.
    """

    edges: tuple[tuple[int, int, int], ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def reached(self, live: Bits) -> Bits:
        """Whether the output reads an input, ``[N]``, given which genes put an operation on their edge, ``[N, G]``."""
        never = np.zeros(len(live), dtype=bool)
        states = dict.fromkeys(self.inputs, ~never)
        for source, target, gene in self.edges:
            states[target] = states.get(target, never) | (states.get(source, never) & live[:, gene])
        return np.asarray(np.any([states.get(output, never) for output in self.outputs], axis=0))

    def ways(self) -> Iterator[list[int]]:
        """All ways from an input to an output, each as the genes of its edges."""
        yield from self._ways_from(self.inputs)

    def _ways_from(self, states: Sequence[int]) -> Iterator[list[int]]:
        for source, target, gene in self.edges:
            if source in states:
                if target in self.outputs:
                    yield [gene]
                yield from ([gene, *rest] for rest in self._ways_from([target]))

    def best_way(self, gains: npt.NDArray[np.float64]) -> list[int]:
        """Genes of the way from an input to an output with the largest sum of gains; empty if all are minus infinity.

        Args:
            gains: Of every gene, ``[G]``.
        """
        best = {state: (0.0, list[int]()) for state in self.inputs}
        for source, target, gene in self.edges:
            if source in best and gains[gene] > -np.inf:
                gain = best[source][0] + float(gains[gene])
                if target not in best or gain > best[target][0]:
                    best[target] = (gain, [*best[source][1], gene])
        found = [best[output] for output in self.outputs if output in best]
        return max(found, key=lambda way: way[0])[1] if found else []


def live_genes(space: SearchSpace, genes: IntMatrix) -> Bits:
    """Which genes put an operation on their edge, and not ``none``: ``[N, G] -> [N, G]``."""
    picks = [choice.picks for choice in space.choices for _ in range(choice.rows)]
    none = np.array([row.index(NONE) if NONE in row else -1 for row in picks])
    return np.asarray(genes != none)


def connected(space: SearchSpace, genes: IntMatrix) -> Bits:
    """Whether the output of every cell reads an input of the cell: ``[N, G] -> [N]``.

    True for all architectures of a space without :meth:`~oneshot.supernets.SearchSpace.cell_graphs`.
    """
    live = live_genes(space, genes)
    reached = [graph.reached(live) for graph in space.cell_graphs()]
    return np.asarray(np.all([np.ones(len(genes), dtype=bool), *reached], axis=0))


def connect(space: SearchSpace, config: SubnetConfig, scores: Scores) -> SubnetConfig:
    """The likeliest architecture with an output, given the likeliest of all.

    A cell without an output gets the operations of one way from an input to its output: of all ways the one that costs
    the least likelihood. If the rows are independent, no other architecture with an output is more likely.

    Args:
        space: The space.
        config: The likeliest architecture.
        scores: Probabilities, or other positive values of which ratios count, ``{choice: [R, O]}``.

    Raises:
        ValueError: If no architecture of the space has an output.
    """
    graphs = space.cell_graphs()
    if not graphs or connected(space, genes := space.genes_of(config)[None])[0]:
        return config
    (row,), live = genes.copy(), live_genes(space, genes)[0]
    better, gains = _likeliest_operations(space, row, scores)
    for graph in graphs:
        if not graph.reached(live[None])[0]:
            way = graph.best_way(np.where(live, 0.0, gains))
            if not way:
                raise ValueError(
                    f"A cell must have an operation on the way from its input to its output; the candidates of space "
                    f"{space.name!r} leave no way. Give it others than 'none'."
                )
            row[way] = np.where(live[way], row[way], better[way])
            live[way] = True
    return space.config_of(row)


def _likeliest_operations(
    space: SearchSpace, genes: IntMatrix, scores: Scores
) -> tuple[IntMatrix, npt.NDArray[np.float64]]:
    """Of every gene the likeliest operation, and the logarithm of how much likelier it is than the pick, ``[G]`` each.

    Minus infinity where there is no operation but ``none``.
    """
    better, gains, position = genes.copy(), np.full(len(genes), -np.inf), 0
    for choice in space.choices:
        live = [o for o, candidate in enumerate(choice.candidates) if candidate != NONE]
        for row in np.maximum(np.asarray(scores[choice.name], dtype=np.float64), LEAST):
            if live:
                picked = row[genes[position]] if genes[position] < len(row) else 1.0  # left out, without a score
                better[position] = live[int(row[live].argmax())]
                gains[position] = np.log(row[live].max() / picked)
            position += 1
    return better, gains
