"""Genetic CNN (Xie & Yuille, ICCV 2017, arXiv:1703.01513): stages as bit strings, and a genetic algorithm on them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from oneshot.discrete.graphs.encoding import GraphSpace, GraphWriter, pairs
from oneshot.discrete.graphs.graph import IMAGE, NetworkGraph
from oneshot.discrete.protocol import Genes, Proposal, Result, Scalar, SearchStrategy
from oneshot.supernets.space import Choice, IntMatrix, SearchSpace, SubnetConfig

MOST_RELABELLED = 5  # nodes of a stage whose 2^(K (K - 1) / 2) wirings are compared under all K! orders


@dataclass(frozen=True)
class GeneticCNNSpace(GraphSpace):
    """Which nodes of a stage read which: one bit for each pair, ``1-2``, ``1-3``, ``2-3``, ``1-4``, ... (section 3.1).

    A node adds up what it reads and applies Conv-BN-ReLU. A default input node, which applies the same, feeds the
    nodes that read nothing else; a default output node reads those that no other reads. Isolated nodes are left out;
    where all are, the stage is one convolution. Max pooling halves the resolution behind every stage. Where the paper
    ends in a hidden layer with dropout, the graph ends in global pooling and the classifier.

    In the canonical form, nodes of a stage of up to five are numbered so that the bits are the smallest number.

    Args:
        nodes_per_stage: K of every stage; 3, 4, 5 for CIFAR-10 and 3, 5 for MNIST in the paper.
        channels: Filters of every stage.
        kernel: Kernel size of all convolutions.

    Raises:
        ValueError: If a stage has less than two nodes, or there is no number of channels for each.

    Example:
        >>> space = GeneticCNNSpace()
        >>> space.num_genes, space.size
        (19, 524288)
        >>> len(space.graph(space.sample(0)).nodes)
        48
    """

    name: str = field(init=False, default="genetic_cnn")
    choices: tuple[Choice, ...] = field(init=False)
    nodes_per_stage: tuple[int, ...] = (3, 4, 5)
    channels: tuple[int, ...] = (8, 16, 32)
    kernel: int = 3

    def __post_init__(self) -> None:
        for name in ("nodes_per_stage", "channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        sizes = self.nodes_per_stage
        if not sizes or min(sizes) < 2 or len(sizes) != len(self.channels):
            raise ValueError(
                "A stage must have at least two nodes, and every stage its channels; got "
                f"nodes_per_stage={sizes}, channels={self.channels}."
            )
        choices = (Choice(f"stage_{s}", (0, 1), rows=k * (k - 1) // 2) for s, k in enumerate(sizes, 1))
        object.__setattr__(self, "choices", tuple(choices))
        super().__post_init__()

    def graph(self, config: SubnetConfig) -> NetworkGraph:
        self.validate(config)
        writer, x = GraphWriter(), IMAGE
        for choice, size, channels in zip(self.choices, self.nodes_per_stage, self.channels, strict=True):
            edges = [pair for pair, bit in zip(pairs(size), config[choice.name], strict=True) if bit]
            start = writer.conv(x, channels, self.kernel)
            states: dict[int, str] = {}
            for node in sorted({node for edge in edges for node in edge}):
                inputs = [states[source] for source, target in edges if target == node] or [start]
                states[node] = writer.conv(writer.sum(inputs), channels, self.kernel)
            ends = [state for node, state in states.items() if all(source != node for source, _ in edges)]
            x = writer.conv(writer.sum(ends), channels, self.kernel) if ends else start
            x = writer.add("max_pool", x, kernel=2, stride=2)
        return writer.finish(x)

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        start = 0
        for size in self.nodes_per_stage:
            bits = size * (size - 1) // 2
            if size <= MOST_RELABELLED:
                place = 1 << np.arange(bits)
                codes = relabelled(size)[genes[:, start : start + bits] @ place]
                genes[:, start : start + bits] = (codes[:, None] & place) > 0
            start += bits
        return genes


@lru_cache
def relabelled(size: int) -> IntMatrix:
    """For each wiring of a stage the smallest one that differs in the order of its nodes: ``[2^(K (K - 1) / 2)]``.

    Bit ``i`` of a wiring is the ``i``-th pair. Only orders that let all edges lead from a smaller to a larger number
    are compared.
    """
    edges = pairs(size)
    codes = np.arange(1 << len(edges))
    bits = codes[:, None] >> np.arange(len(edges)) & 1
    best = codes.copy()
    for order in itertools.permutations(range(size)):
        moved = [(order[source], order[target]) for source, target in edges]
        weights = np.array([1 << edges.index(edge) if edge in edges else 0 for edge in moved])
        legal = (bits[:, weights == 0] == 0).all(1)
        best = np.where(legal, np.minimum(best, bits @ weights), best)
    best.flags.writeable = False
    return best


class GeneticCNN(SearchStrategy):
    """A genetic algorithm: parents by Russian roulette, crossover of whole stages, mutation of bits (algorithm 1).

    The roulette draws an individual with probability in proportion to ``r - min r``, r its reward. With probability
    ``crossover`` two parents swap each of their stages, the choices of the space, with probability ``stage``; else with
    probability ``mutation`` every bit flips with probability ``bit``.

    The paper goes by generations; here a child is made whenever one is asked for, and the worst of the population,
    which the roulette never draws, makes room for it. What was proposed already is not evaluated again, so parents that
    are not changed are drawn anew. In spaces of more than two candidates a flip is a change to any other one.

    Args:
        space: The space to search; the paper's is :class:`GeneticCNNSpace`.
        population: N.
        crossover: p_C.
        stage: q_C.
        mutation: p_M.
        bit: q_M.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.

    Raises:
        ValueError: If the population is below 2, or a probability is none.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        population: int = 20,
        crossover: float = 0.2,
        stage: float = 0.2,
        mutation: float = 0.8,
        bit: float = 0.05,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(space, seed=seed, scalar=scalar)
        chances = {"crossover": crossover, "stage": stage, "mutation": mutation, "bit": bit}
        if population < 2 or not all(0 <= chance <= 1 for chance in chances.values()):
            raise ValueError(
                f"population must be at least 2, and {', '.join(chances)} must be probabilities; got "
                f"{population} and {list(chances.values())}."
            )
        self.population, self.crossover, self.stage, self.mutation, self.bit = population, *chances.values()
        self._alive: list[tuple[float, Genes]] = []
        self._to_draw = self.random_first = population
        starts = np.cumsum([0, *(choice.rows for choice in space.choices)])
        self._stages = [np.arange(a, b) for a, b in itertools.pairwise(starts)]

    def _propose(self) -> Proposal | None:
        if self._to_draw or not self._alive:
            self._to_draw = max(0, self._to_draw - 1)
            genes = self._fresh(self._random)
        else:
            genes = self._fresh(self._child)
        return None if genes is None else self._new(genes)

    def _child(self) -> Genes:
        child = self._parent().copy()
        if self.rng.random() < self.crossover:
            other = self._parent()
            for genes in self._stages:
                if self.rng.random() < self.stage:
                    child[genes] = other[genes]
        elif self.rng.random() < self.mutation:
            sizes = np.array(self.space.gene_sizes)
            flips = (self.rng.random(len(child)) < self.bit) & (sizes > 1)
            child[flips] = (child[flips] + self.rng.integers(1, sizes[flips])) % sizes[flips]
        return np.asarray(self.space.repair(child[None])[0])

    def _parent(self) -> Genes:
        weights = roulette([loss for loss, _ in self._alive])
        return self._alive[int(self.rng.choice(len(self._alive), p=weights))][1]

    def _learn(self, proposal: Proposal, result: Result) -> None:
        if result.values is None:
            return
        self._alive.append((self.loss(result), self._genes(proposal)))
        if len(self._alive) > self.population:
            del self._alive[max(range(len(self._alive)), key=lambda i: self._alive[i][0])]


def roulette(losses: list[float]) -> npt.NDArray[np.float64]:
    """Probabilities in proportion to ``r - min r`` with ``r = -loss`` (section 3.2.2); equal ones if all r are."""
    better = np.max(losses) - np.asarray(losses, dtype=np.float64)
    total = better.sum()
    return better / total if total > 0 else np.full(len(better), 1 / len(better))
