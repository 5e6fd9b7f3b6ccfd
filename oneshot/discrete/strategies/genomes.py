"""Genomes of NEAT (Stanley and Miikkulainen, Evolutionary Computation 10(2), 2002): graphs with historical markings.

A node is a layer, or anything else that a few traits describe, as in DeepNEAT (Miikkulainen et al., arXiv:1703.00548);
connections have no weights. Mutations add nodes and connections, switch connections off and on, and alter traits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

INPUT, OUTPUT = 0, 1  # markings of the two nodes that every genome has; they have no traits
STAYS_OFF = 0.75  # chance that a connection which is disabled in one parent is disabled in the child (section 4.1)
SPREAD = 0.15  # standard deviation of a mutation, as a share of its range

Traits = tuple[int, ...]


@dataclass(frozen=True)
class Range:
    """A trait with an order, such as a number of filters: any integer from ``low`` to ``high``."""

    low: int
    high: int

    def draw(self, rng: np.random.Generator) -> int:
        """Any value."""
        return int(rng.integers(self.low, self.high + 1))

    def mutated(self, value: int, rng: np.random.Generator) -> int:
        """A value near by, after a Gaussian step of at least 1."""
        step = rng.normal(0, SPREAD * (self.high - self.low))
        step = math.copysign(max(1, round(abs(step))), step)
        return int(np.clip(value + step, self.low, self.high))

    def difference(self, first: int, second: int) -> float:
        """Distance as a share of the range."""
        return abs(first - second) / max(1, self.high - self.low)


@dataclass(frozen=True)
class Category:
    """A trait without an order, such as a species: one of some values."""

    values: tuple[int, ...]

    def draw(self, rng: np.random.Generator) -> int:
        """Any value."""
        return self.values[rng.integers(len(self.values))]

    def mutated(self, value: int, rng: np.random.Generator) -> int:
        """Another value, if there is one."""
        others = [other for other in self.values if other != value]
        return others[rng.integers(len(others))] if others else value

    def difference(self, first: int, second: int) -> float:
        """1 for different values."""
        return float(first != second)


Trait = Range | Category


@dataclass(frozen=True)
class Connection:
    """A gene that connects two nodes.

    Args:
        marking: Its historical marking; equal markings connect equal nodes, in all genomes.
        source: Marking of the node that it reads.
        target: Marking of the node that reads.
        enabled: Whether the network has it.
    """

    marking: int
    source: int
    target: int
    enabled: bool = True


@dataclass(frozen=True)
class Genome:
    """An acyclic graph from one input to one output.

    Disabled connections count for the absence of cycles, so that enabling one never makes a cycle.

    Args:
        nodes: Marking and traits of every node between input and output, by marking.
        connections: All connections, by marking.
    """

    nodes: tuple[tuple[int, Traits], ...]
    connections: tuple[Connection, ...]

    @cached_property
    def traits(self) -> dict[int, Traits]:
        """The traits of every node."""
        return dict(self.nodes)

    @cached_property
    def links(self) -> dict[int, Connection]:
        """Connections by their markings."""
        return {connection.marking: connection for connection in self.connections}

    @cached_property
    def markings(self) -> frozenset[int]:
        """Markings of all genes."""
        return frozenset(self.traits) | frozenset(self.links)

    @cached_property
    def inputs(self) -> dict[int, list[int]]:
        """What every node reads that is on an enabled way from input to output; in topological order, the output last.

        Empty if there is no such way.
        """
        enabled = [link for link in self.connections if link.enabled]
        forth = _reached(INPUT, [(link.source, link.target) for link in enabled])
        back = _reached(OUTPUT, [(link.target, link.source) for link in enabled])
        alive = forth & back
        waiting = [*sorted(alive - {INPUT, OUTPUT}), OUTPUT] if alive else []
        sources = {
            node: [link.source for link in enabled if link.target == node and link.source in alive] for node in waiting
        }
        reads: dict[int, list[int]] = {}
        while waiting:
            node = next(node for node in waiting if all(s == INPUT or s in reads for s in sources[node]))
            reads[node] = sources[node]
            waiting.remove(node)
        return reads

    @property
    def works(self) -> bool:
        """Whether a node is on a way from input to output; mutations and crossover keep it so."""
        return len(self.inputs) > 1

    def free_pairs(self) -> list[tuple[int, int]]:
        """Pairs of nodes, source and target, that can be connected without a cycle and are not."""
        edges = [(link.source, link.target) for link in self.connections]
        nodes, taken = [INPUT, *self.traits, OUTPUT], set(edges)
        behind = {node: _reached(node, edges) for node in nodes}
        return [
            (source, target)
            for source in nodes
            for target in nodes
            if source != OUTPUT and target != INPUT and source not in behind[target] and (source, target) not in taken
        ]


def _reached(start: int, edges: Collection[tuple[int, int]]) -> set[int]:
    """``start``, and what edges lead to from there."""
    found, stack = {start}, [start]
    while stack:
        node = stack.pop()
        new = {target for source, target in edges if source == node} - found
        found |= new
        stack += new
    return found


class Markings:
    """Historical markings: numbers of genes, given once and never again; equal structure gets equal numbers.

    NEAT remembers the innovations of one generation. This remembers all of them, so that a marking always stands for
    the same connection, and the same split of the same connection, whenever it appears.
    """

    def __init__(self) -> None:
        self._next = OUTPUT + 1
        self._links: dict[tuple[int, int], int] = {}
        self._splits: dict[tuple[int, int], list[int]] = {}

    def connection(self, source: int, target: int) -> int:
        """The marking of a connection."""
        if (source, target) not in self._links:
            self._links[source, target] = self._new()
        return self._links[source, target]

    def node(self, source: int, target: int, taken: Collection[int]) -> int:
        """The marking of a node between two; a connection that is split again in one genome gets another node."""
        known = self._splits.setdefault((source, target), [])
        for marking in known:
            if marking not in taken:
                return marking
        known.append(self._new())
        return known[-1]

    def _new(self) -> int:
        self._next += 1
        return self._next - 1


# Mutations and crossover.


def minimal(traits: Sequence[Trait], markings: Markings, rng: np.random.Generator) -> Genome:
    """A genome of one node."""
    return _with_node((), (), INPUT, OUTPUT, traits, markings, rng)


def add_node(genome: Genome, traits: Sequence[Trait], markings: Markings, rng: np.random.Generator) -> Genome:
    """Split an enabled connection in two, with a new node between them; the old connection is disabled (figure 3)."""
    enabled = [link for link in genome.connections if link.enabled]
    split = enabled[rng.integers(len(enabled))]
    rest = [replace(link, enabled=False) if link is split else link for link in genome.connections]
    return _with_node(genome.nodes, rest, split.source, split.target, traits, markings, rng)


def _with_node(
    nodes: Sequence[tuple[int, Traits]],
    connections: Sequence[Connection],
    source: int,
    target: int,
    traits: Sequence[Trait],
    markings: Markings,
    rng: np.random.Generator,
) -> Genome:
    new = markings.node(source, target, dict(nodes))
    ways = [Connection(markings.connection(*way), *way) for way in ((source, new), (new, target))]
    drawn = tuple(trait.draw(rng) for trait in traits)
    return Genome(tuple(sorted([*nodes, (new, drawn)])), _sorted([*connections, *ways]))


def _sorted(connections: Sequence[Connection]) -> tuple[Connection, ...]:
    return tuple(sorted(connections, key=lambda link: link.marking))


def add_connection(genome: Genome, markings: Markings, rng: np.random.Generator) -> Genome:
    """Connect two nodes, if there are two without a connection."""
    pairs = genome.free_pairs()
    if not pairs:
        return genome
    source, target = pairs[rng.integers(len(pairs))]
    new = Connection(markings.connection(source, target), source, target)
    return replace(genome, connections=_sorted([*genome.connections, new]))


def toggle(genome: Genome, rng: np.random.Generator) -> Genome:
    """Switch a connection on, or off if the genome still works; so networks shrink, and genomes do not."""
    chosen = genome.connections[rng.integers(len(genome.connections))]
    links = (replace(link, enabled=not link.enabled) if link is chosen else link for link in genome.connections)
    child = replace(genome, connections=tuple(links))
    return child if child.works else genome


def alter(genome: Genome, traits: Sequence[Trait], rng: np.random.Generator, chance: float) -> Genome:
    """Mutate every trait of every node with a chance."""
    nodes = [
        (marking, tuple(t.mutated(v, rng) if rng.random() < chance else v for t, v in zip(traits, own, strict=True)))
        for marking, own in genome.nodes
    ]
    return replace(genome, nodes=tuple(nodes))


def grown(traits: Sequence[Trait], markings: Markings, rng: np.random.Generator, steps: int) -> Genome:
    """A minimal genome after up to ``steps`` random nodes and connections, any number with the same chance."""
    genome = minimal(traits, markings, rng)
    for _ in range(rng.integers(steps + 1)):
        if rng.random() < 0.5:
            genome = add_node(genome, traits, markings, rng)
        else:
            genome = add_connection(genome, markings, rng)
    return genome


def crossed(fitter: Genome, other: Genome, rng: np.random.Generator) -> Genome:
    """Crossover of genomes lined up by their markings (figure 4).

    Matching genes are from either parent, disjoint and excess ones from the fitter. A connection that is disabled in
    either parent is disabled with a chance of ``STAYS_OFF``; if the child does not work, all are as in the fitter
    parent.
    """
    nodes = tuple(
        (marking, other.traits[marking] if marking in other.traits and rng.random() < 0.5 else own)
        for marking, own in fitter.nodes
    )
    links = []
    for link in fitter.connections:
        mate = other.links.get(link.marking)
        if mate is not None and not (link.enabled and mate.enabled):
            link = replace(link, enabled=bool(rng.random() >= STAYS_OFF))
        links.append(link)
    child = Genome(nodes, tuple(links))
    return child if child.works else Genome(nodes, fitter.connections)
