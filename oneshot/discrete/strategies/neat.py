"""NEAT (Stanley and Miikkulainen, Evolutionary Computation 10(2), 2002): populations in species that share fitness."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from oneshot.discrete.protocol import TRIES

from .genomes import Genome, Markings, Trait, add_connection, add_node, alter, crossed, grown, toggle


def distance(
    first: Genome,
    second: Genome,
    traits: Sequence[Trait],
    *,
    excess: float = 1.0,
    disjoint: float = 1.0,
    altered: float = 0.4,
) -> float:
    """Compatibility distance ``c1 E / N + c2 D / N + c3 W`` (equation 1).

    Genes are nodes and connections. E are those behind the last marking of the other genome, D the others that only one
    has, N all genes of the larger genome. W, the mean difference of the weights in NEAT, is the mean difference of the
    traits of matching nodes, each between 0 and 1.

    Args:
        first: A genome.
        second: Another one.
        traits: What the traits of their nodes are.
        excess: c1.
        disjoint: c2.
        altered: c3.
    """
    ours, theirs = first.markings, second.markings
    last = min(max(ours), max(theirs))
    only = ours ^ theirs
    behind = sum(marking > last for marking in only)
    size = max(len(ours), len(theirs))
    matching = [
        sum(t.difference(a, b) for t, a, b in zip(traits, own, second.traits[m], strict=True)) / len(traits)
        for m, own in first.nodes
        if m in second.traits
    ]
    mean = sum(matching) / len(matching) if matching else 0.0
    return (excess * behind + disjoint * (len(only) - behind)) / size + altered * mean


def speciate(
    genomes: Sequence[Genome],
    representatives: Mapping[int, Genome],
    threshold: float,
    measure: Callable[[Genome, Genome], float],
    first_new: int,
) -> dict[int, list[int]]:
    """The members of every species: a genome goes to the first whose representative is nearer than the threshold.

    Where there is none, it represents a new species. Species without members are left out.

    Args:
        genomes: The genomes.
        representatives: A genome of every species there was, by its number.
        threshold: The largest distance that is not compatible any more.
        measure: The distance.
        first_new: Number of the first new species.
    """
    known = dict(sorted(representatives.items()))
    members: dict[int, list[int]] = {number: [] for number in known}
    for i, genome in enumerate(genomes):
        number = next((n for n, other in known.items() if measure(genome, other) < threshold), None)
        if number is None:
            number, first_new = first_new, first_new + 1
            known[number], members[number] = genome, []
        members[number].append(i)
    return {number: found for number, found in members.items() if found}


def shared_fitness(fitness: Sequence[float], species: Mapping[int, Sequence[int]]) -> list[float]:
    """Explicit fitness sharing: the fitness of everyone, divided by the size of its species (equation 2)."""
    sizes = {i: len(members) for members in species.values() for i in members}
    return [value / sizes[i] for i, value in enumerate(fitness)]


def offspring(shared: Sequence[float], species: Mapping[int, Sequence[int]], total: int) -> dict[int, int]:
    """Places of every species in the next generation, in proportion to the sum of its members' shared fitness.

    Every species gets one place first (the best, where there are fewer places than species), so that a new one is not
    lost at once in populations of some tens; NEAT has proportions only. Fractions go to the largest remainders.

    Args:
        shared: Shared fitness, at least 0.
        species: Members of each.
        total: Places.
    """
    sums = {number: sum(shared[i] for i in members) for number, members in species.items()}
    if not sum(sums.values()):
        sums = dict.fromkeys(sums, 1.0)
    best = sorted(sums, key=lambda number: (-sums[number], number))[:total]
    free, whole = total - len(best), sum(sums[number] for number in best)
    wanted = {number: free * sums[number] / whole for number in best}
    places = {number: 1 + math.floor(wanted[number]) for number in best}
    order = sorted(best, key=lambda number: (math.floor(wanted[number]) - wanted[number], number))
    for number in order[: total - sum(places.values())]:
        places[number] += 1
    return {number: places.get(number, 0) for number in species}


@dataclass(frozen=True)
class NEATSettings:
    """Settings of the evolution of one population.

    The chances of new nodes and connections are larger than NEAT's (0.03 and 0.05), for searches of few generations.

    Args:
        excess: c1 of the compatibility distance.
        disjoint: c2.
        altered: c3.
        threshold: Distance from which on two genomes are of different species.
        species: Species to aim at: the threshold moves by ``step`` in every generation, and to where there are so many
            before the first one. None keeps the threshold.
        step: How far it moves; the least threshold is one step.
        survivors: Share of a species that has children, the best of it.
        champion: The best of a species with at least so many places is copied as it is; more than 5 in NEAT.
        crossover: Chance that a child has two parents.
        add_node: Chance that a child gets a node.
        add_connection: Chance that it gets a connection.
        toggle: Chance that one of its connections is switched off or on; 0 in the paper.
        alter: Chance of each of its traits to mutate.
        patience: A species that has not improved for so many generations dies out, unless it has the best genome.

    Raises:
        ValueError: If a number is out of its range.
    """

    excess: float = 1.0
    disjoint: float = 1.0
    altered: float = 0.4
    threshold: float = 0.5
    species: int | None = 4
    step: float = 0.05
    survivors: float = 0.4
    champion: int = 2
    crossover: float = 0.75
    add_node: float = 0.2
    add_connection: float = 0.2
    toggle: float = 0.1
    alter: float = 0.15
    patience: int = 15

    def __post_init__(self) -> None:
        for name in ("crossover", "add_node", "add_connection", "toggle", "alter"):
            if not 0 <= (chance := getattr(self, name)) <= 1:
                raise ValueError(f"{name} must be a probability, from 0 to 1; got {chance}.")
        if not 0 < self.survivors <= 1:
            raise ValueError(f"survivors must be a share above 0 and at most 1; got {self.survivors}.")
        if not (self.add_node or self.add_connection or self.toggle or self.alter):
            raise ValueError(
                "A child must be able to differ from its parent; add_node, add_connection, toggle and alter are 0."
            )
        for name in ("excess", "disjoint", "altered"):
            if not (weight := getattr(self, name)) >= 0:
                raise ValueError(f"{name} must be at least 0; got {weight}.")
        for name in ("threshold", "step"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name} must be above 0; got {value}.")
        for name in ("species", "champion", "patience"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"{name} must be at least 1; got {number}.")


@dataclass
class _Record:
    """The best fitness that a species has had, and in how many generations it has not been better since."""

    best: float = -math.inf
    stale: int = 0


class Population:
    """Genomes in species that evolve from generation to generation (section 3.3).

    Args:
        size: Number of genomes.
        traits: What the traits of their nodes are; may change between generations.
        settings: Settings of the evolution.
        rng: Where its random numbers are from.
        grow: Most random nodes and connections of the first genomes; see :func:`grown`.

    Attributes:
        genomes: The genomes of this generation.
        species: The members of every species, by its number. A species keeps its number as long as it lives.
        threshold: Distance from which on two genomes are of different species.
    """

    def __init__(
        self, size: int, traits: Sequence[Trait], settings: NEATSettings, rng: np.random.Generator, *, grow: int = 0
    ) -> None:
        self.traits, self.settings, self.rng, self.markings = tuple(traits), settings, rng, Markings()
        self.threshold, self._next, self._records = settings.threshold, 0, dict[int, _Record]()
        self.genomes = [grown(self.traits, self.markings, rng, grow) for _ in range(size)]
        self._first_species()

    def distance(self, first: Genome, second: Genome) -> float:
        """Compatibility distance with these settings."""
        of = self.settings
        return distance(first, second, self.traits, excess=of.excess, disjoint=of.disjoint, altered=of.altered)

    def evolve(self, fitness: Sequence[float]) -> None:
        """The next generation.

        Args:
            fitness: Fitness of every genome; larger is better.
        """
        places = self._places(fitness)
        representatives = {n: self.genomes[self.rng.choice(members)] for n, members in self.species.items()}
        children = []
        for number, members in self.species.items():
            if not places.get(number):
                continue
            ranked = sorted(members, key=lambda i: (-fitness[i], i))
            parents = ranked[: math.ceil(self.settings.survivors * len(ranked))]
            copied = int(places[number] >= self.settings.champion)
            children += [self.genomes[ranked[0]]] * copied
            children += [self._child(parents, fitness) for _ in range(places[number] - copied)]
        self.genomes = children
        self._sort(representatives)
        self.threshold = max(self.settings.step, self.threshold + self._way())

    def _places(self, fitness: Sequence[float]) -> dict[int, int]:
        """Places of each species; those that do not improve any more have none."""
        top = max(range(len(fitness)), key=lambda i: (fitness[i], -i))
        alive = {}
        for number, members in self.species.items():
            record, best = self._records.setdefault(number, _Record()), max(fitness[i] for i in members)
            record.stale = 0 if best > record.best else record.stale + 1
            record.best = max(best, record.best)
            if record.stale < self.settings.patience or top in members:
                alive[number] = members
        least = min(fitness)
        order = [i for members in alive.values() for i in members]
        place = {i: k for k, i in enumerate(order)}
        groups = {number: [place[i] for i in members] for number, members in alive.items()}
        shared = shared_fitness([fitness[i] - least for i in order], groups)
        return offspring(shared, groups, len(fitness))

    def _child(self, parents: Sequence[int], fitness: Sequence[float]) -> Genome:
        if len(parents) > 1 and self.rng.random() < self.settings.crossover:
            pair = self.rng.choice(parents, 2, replace=False).tolist()
            fitter, other = sorted(pair, key=lambda i: (-fitness[i], len(self.genomes[i].markings), i))
            return self.mutated(crossed(self.genomes[fitter], self.genomes[other], self.rng))
        parent = self.genomes[parents[int(self.rng.integers(len(parents)))]]
        for _ in range(TRIES):
            if (child := self.mutated(parent)) != parent:
                break
        return child

    def mutated(self, genome: Genome) -> Genome:
        """A genome after random mutations, which may be none."""
        of, rng = self.settings, self.rng
        if rng.random() < of.add_node:
            genome = add_node(genome, self.traits, self.markings, rng)
        if rng.random() < of.add_connection:
            genome = add_connection(genome, self.markings, rng)
        if rng.random() < of.toggle:
            genome = toggle(genome, rng)
        return alter(genome, self.traits, rng, of.alter)

    def _first_species(self) -> None:
        self._sort({})
        for _ in range(TRIES):
            if not (way := self._way()):
                break
            self.threshold, self._next = max(self.settings.step, self.threshold + way), 0
            self._sort({})
            if self._way() != way:
                break

    def _sort(self, representatives: Mapping[int, Genome]) -> None:
        self.species = speciate(self.genomes, representatives, self.threshold, self.distance, self._next)
        self._next = max(self._next, *(number + 1 for number in self.species))

    def _way(self) -> float:
        """How the threshold must move to come nearer to the number of species that is aimed at."""
        aim = self.settings.species
        return 0.0 if aim is None else self.settings.step * ((len(self.species) > aim) - (len(self.species) < aim))
