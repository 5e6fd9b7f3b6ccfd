"""Architectures as sequences of decisions, which is how a policy writes them down. NumPy only, no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .space import NONE, IntMatrix, SearchSpace

Mask = npt.NDArray[np.bool_]


class Decisions:
    """The decisions that describe one architecture, and the genes that their picks mean.

    This class has one decision for every gene, in order. Where a space has rules between genes, the picks are repaired.
    Log-probabilities are those of the picks before the repair, and several picks may mean one architecture.

    Args:
        space: The space.

    Attributes:
        sizes: Number of picks of every decision, length D.
        steps: The decisions that each step of a policy makes.
        anchors: Steps whose decisions are skip connections, in order. The i-th has one for each anchor before it.
    """

    anchors: tuple[int, ...] = ()

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.sizes: tuple[int, ...] = space.gene_sizes
        self.steps: tuple[tuple[int, ...], ...] = tuple((d,) for d in range(len(self.sizes)))

    def genes(self, picks: IntMatrix) -> IntMatrix:
        """Picks ``[N, D]`` -> canonical genes ``[N, G]``."""
        return self.space.repair(picks)

    def legal(self, decision: int, picks: IntMatrix) -> Mask:
        """Which picks a decision may take, given those before it.

        Args:
            decision: Number of the decision.
            picks: ``[N, D]``.

        Returns:
            ``[N, O]`` or ``[1, O]``, where O is the largest of the sizes.
        """
        return np.arange(max(self.sizes))[None] < self.sizes[decision]


class InputDecisions(Decisions):
    """For cells whose nodes read a given number of states: first which states, then the operation on each.

    With one decision for every edge, most would have to be ``none``. A node may not read a state twice, so states that
    it already reads are not legal.

    Args:
        space: A space in which an edge that is not read holds ``none``.
        nodes: Genes of the edges that enter each node.
        inputs: How many states a node reads; a node with fewer edges reads all.
    """

    def __init__(self, space: SearchSpace, nodes: Sequence[Sequence[int]], inputs: int) -> None:
        super().__init__(space)
        picks = [choice.picks for choice in space.choices for _ in range(choice.rows)]
        self._none = np.array([row.index(NONE) if NONE in row else -1 for row in picks])
        self._live = [[code for code, pick in enumerate(row) if pick != NONE] for row in picks]
        self._nodes: list[tuple[list[int], range, range]] = []  # genes, and decisions about states and operations
        self._before: dict[int, range] = {}
        self._reads: dict[int, tuple[int, Mask]] = {}  # decision about an operation -> that about its state, legal
        sizes: list[int] = []
        largest = max(max(map(len, self._live)), max(map(len, nodes)))
        for genes in nodes:
            kept = min(inputs, len(genes))
            states = range(len(sizes), len(sizes) + kept)
            operations = range(states.stop, states.stop + kept)
            most = max(len(self._live[gene]) for gene in genes)
            sizes += [len(genes)] * kept + [most] * kept
            live = np.array([[code < len(self._live[gene]) for code in range(largest)] for gene in genes])
            for state, operation in zip(states, operations):
                self._before[state] = range(states.start, state)
                self._reads[operation] = state, live
            self._nodes.append((list(genes), states, operations))
        self.sizes = tuple(sizes)
        self.steps = tuple((d,) for d in range(len(sizes)))

    def genes(self, picks: IntMatrix) -> IntMatrix:
        matrix, rows = np.tile(self._none, (len(picks), 1)), np.arange(len(picks))
        for genes, states, operations in self._nodes:
            for state, operation in zip(states, operations):
                gene = np.array(genes)[picks[:, state]]
                matrix[rows, gene] = [self._live[g][o] for g, o in zip(gene, picks[:, operation])]
        return self.space.repair(matrix)

    def legal(self, decision: int, picks: IntMatrix) -> Mask:
        if decision in self._reads:
            state, live = self._reads[decision]
            return live[picks[:, state]]
        legal = super().legal(decision, picks).repeat(len(picks), axis=0)
        for earlier in self._before[decision]:
            np.put_along_axis(legal, picks[:, earlier, None], False, axis=1)
        return legal
