"""CoDeepNEAT (Miikkulainen et al., 2017, arXiv:1703.00548): blueprints and modules that evolve together."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import numpy as np

from oneshot.discrete.graphs.encoding import SizedWriter
from oneshot.discrete.graphs.graph import IMAGE, NetworkGraph
from oneshot.discrete.graphs.network import num_params
from oneshot.discrete.protocol import TRIES, Proposal, Result, Scalar
from oneshot.supernets.space import SubnetConfig

from .genomes import INPUT, OUTPUT, Category, Genome, Markings, Range, Traits, grown
from .graph_search import GraphSearch
from .neat import NEATSettings, Population

Merge = Literal["sum", "concat"]
DRAWS = 10  # choices of modules for one blueprint that may be known or too large
DEFAULTS = NEATSettings()


def assemble(
    blueprint: Genome, modules: Mapping[int, Genome], input_shape: Sequence[int], *, merge: Merge = "sum"
) -> NetworkGraph:
    """The network of a blueprint, every node replaced by the module of the species that it points to.

    A node of a module is a convolution with batch normalisation and ReLU, followed by max pooling if it says so. Inputs
    of different resolution are max-pooled to the smallest one, as in the paper; a pixel is not pooled any further.
    Global pooling and a classifier follow.

    Args:
        blueprint: A genome whose nodes have one trait, a species of modules.
        modules: A genome for each of these species; its nodes have filters, kernel, and 1 for max pooling.
        input_shape: C, H, W of the images.
        merge: How a node reads several inputs: their sum (1x1 convolutions make the channels equal) or their
            concatenation.
    """
    writer = SizedWriter(input_shape)

    def run(genome: Genome, x: str, node: Callable[[str, Traits], str]) -> str:
        states = {INPUT: x}
        for marking, sources in genome.inputs.items():
            inputs = writer.same_size(list(dict.fromkeys(states[source] for source in sources)))
            state = writer.widened_sum(inputs) if merge == "sum" else writer.concat(inputs)
            states[marking] = state if marking == OUTPUT else node(state, genome.traits[marking])
        return states[OUTPUT]

    def layer(x: str, traits: Traits) -> str:
        filters, kernel, pooled = traits
        x = writer.conv(x, filters, kernel)
        return writer.pool("max_pool", x) if pooled else x

    def module(x: str, traits: Traits) -> str:
        return run(modules[traits[0]], x, layer)

    return writer.finish(run(blueprint, IMAGE, module))


def pointers(blueprint: Genome) -> list[int]:
    """The species of modules that the network of a blueprint needs."""
    return sorted({blueprint.traits[marking][0] for marking in blueprint.inputs if marking != OUTPUT})


def average_fitness(values: Sequence[float], members: Sequence[Collection[int]], size: int) -> list[float]:
    """Fitness of blueprints or modules: the average over all networks with them (section 3.2); NaN for none.

    Args:
        values: Fitness of the networks.
        members: Which individuals each network is made of; one that is used several times counts once.
        size: Number of individuals.
    """
    of = [[v for v, used in zip(values, members, strict=True) if i in used] for i in range(size)]
    return [math.fsum(found) / len(found) if found else math.nan for found in of]


class _Assembling(GraphSearch, ABC):
    """A search among networks that are assembled from blueprints and modules."""

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        filters: Sequence[int],
        kernels: Sequence[int],
        merge: Merge,
        max_params: int | None,
        seed: int,
        scalar: Scalar | None,
    ) -> None:
        super().__init__(input_shape, num_classes, max_params=max_params, seed=seed, scalar=scalar)
        if len(filters) != 2 or not 1 <= filters[0] <= filters[1]:
            raise ValueError(f"filters must be the least and the most of a layer, from 1; got {list(filters)}.")
        if not kernels or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"kernels must be odd numbers, at least one; got {list(kernels)}.")
        if merge not in ("sum", "concat"):
            raise ValueError(f"merge must be 'sum' or 'concat'; got {merge!r}.")
        self.merge = merge
        self.traits = (Range(*filters), Category(tuple(dict.fromkeys(kernels))), Category((0, 1)))
        writer = SizedWriter(input_shape)
        least = writer.finish(writer.conv(IMAGE, filters[0], min(kernels)))
        size = num_params(least, input_shape, num_classes)  # also checks the shape of the images
        if max_params is not None and size > max_params:
            raise ValueError(
                f"max_params must be at least {size:,}, the size of one layer of {filters[0]} filters; got "
                f"{max_params:,}. Allow fewer filters, or more parameters."
            )

    def _assembled(self, blueprint: Genome, modules: Mapping[int, Genome]) -> tuple[SubnetConfig | None, float]:
        """The network, and how many times it is as large as it may be; None if it is too large."""
        graph = assemble(blueprint, modules, self.input_shape, merge=self.merge)
        if self.max_params is None:
            return graph.config, 0.0
        size = num_params(graph, self.input_shape, self.num_classes) / self.max_params
        return (graph.config if size <= 1 else None), size  # the canonical form of a large graph takes long


class CoDeepNEAT(_Assembling):
    """Evolves blueprints, graphs whose nodes point to species of modules, together with the modules, small networks.

    Both populations evolve as in NEAT: historical markings, species by compatibility distance, shared fitness. In every
    generation networks are assembled: each blueprint in turn, with a random module of every species that it points to,
    the same one wherever it points there. Their fitness counts for the blueprint and the modules as the average over
    all networks with them (section 3.2). The paper's figures are the defaults: 25 blueprints, 45 modules, 100 networks
    a generation, 72 generations for CIFAR-10.

    What the paper leaves open is done so: a network that was evaluated before is drawn again up to ten times, then
    answered from the log of the study. A network that fails counts like the worst of its generation. One of more than
    ``max_params`` is drawn again, too; then it is not evaluated and counts less than the worst, the larger the less.
    A module that is in no network has the mean of its species. A node whose species has died out points to another
    one, drawn at random. A generation waits for all its networks.

    Of the paper's hyperparameters, filters, kernel and max pooling are searched; dropout, the scale of the first
    weights and those of the whole network (learning rate, augmentation) are the evaluator's. Proposals are plain
    graphs: every evaluator of graphs trains them, and the result is a plain module.

    Args:
        input_shape: C, H, W of the images.
        num_classes: Number of logits.
        blueprints: Blueprints in a generation.
        modules: Modules in a generation.
        networks: Networks in a generation.
        filters: The least and the most filters of a layer.
        kernels: Kernel sizes of a layer.
        merge: How a node reads several inputs; see :func:`assemble`.
        grow: Most random nodes and connections of the first blueprints and modules, 0 in the paper. Searches of some
            hundred networks have few generations to grow in.
        max_params: Networks have at most so many parameters.
        neat: Settings of the evolution of both populations.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.

    Attributes:
        generation: Number of the generation, from 0.
        blueprints: The population of blueprints.
        modules: The population of modules.

    Raises:
        ValueError: If a number is too small, or no network has at most ``max_params``.

    Example:
        >>> strategy = CoDeepNEAT((1, 8, 8), 10, blueprints=3, modules=5, networks=6, filters=(4, 8))
        >>> len(strategy.ask(6)), strategy.ask()  # the next generation needs these results
        (6, [])
    """

    repeats = True

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        blueprints: int = 25,
        modules: int = 45,
        networks: int = 100,
        filters: Sequence[int] = (32, 256),
        kernels: Sequence[int] = (1, 3),
        merge: Merge = "sum",
        grow: int = 0,
        max_params: int | None = None,
        neat: NEATSettings = DEFAULTS,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(
            input_shape,
            num_classes,
            filters=filters,
            kernels=kernels,
            merge=merge,
            max_params=max_params,
            seed=seed,
            scalar=scalar,
        )
        if min(blueprints, modules) < 2 or networks < blueprints or grow < 0:
            raise ValueError(
                "blueprints and modules must be at least 2, networks as many as blueprints, grow at least 0; got "
                f"blueprints={blueprints}, modules={modules}, networks={networks}, grow={grow}."
            )
        self.networks = self.random_first = networks
        self.generation = 0
        self.modules = Population(modules, self.traits, neat, self.rng, grow=grow)
        living = Category(tuple(self.modules.species))
        self.blueprints = Population(blueprints, [living], neat, self.rng, grow=grow)
        self._slot = 0  # networks of this generation that were asked for, or found too large
        self._used: dict[int, tuple[int, tuple[int, ...]]] = {}  # blueprint and modules of every network
        self._losses: dict[int, float] = {}
        self._too_large: list[tuple[float, int, tuple[int, ...]]] = []  # times max_params, blueprint, modules

    def _propose(self) -> Proposal | None:
        for _ in range(TRIES):  # generations of which no network is small enough
            while self._slot < self.networks:
                blueprint = self._slot % len(self.blueprints.genomes)
                self._slot += 1
                if (proposal := self._draw(blueprint)) is not None:
                    return proposal
            if self.pending:
                return None
            self._evolve()
        return None

    def _draw(self, blueprint: int) -> Proposal | None:
        """A network of a blueprint, one that was not evaluated yet if there is any; None if all are too large."""
        genome, kept, size = self.blueprints.genomes[blueprint], None, 0.0
        modules: tuple[int, ...] = ()
        for _ in range(DRAWS):
            drawn = {number: int(self.rng.choice(self.modules.species[number])) for number in pointers(genome)}
            modules = tuple(drawn.values())
            config, size = self._assembled(genome, {n: self.modules.genomes[i] for n, i in drawn.items()})
            if config is not None:
                kept = config, modules
                if not self._was_proposed(config):
                    break
        if kept is None:
            self._too_large.append((size, blueprint, modules))
            return None
        proposal = self._number(kept[0])
        self._used[proposal.number] = blueprint, kept[1]
        return proposal

    def _learn(self, proposal: Proposal, result: Result) -> None:
        self._losses[proposal.number] = self.loss(result)

    def _evolve(self) -> None:
        """Attribute fitness, and let both populations make their next generation."""
        fitness = -np.array([self._losses[number] for number in self._used])
        good = fitness[np.isfinite(fitness)]
        worst, best = (float(good.min()), float(good.max())) if len(good) else (0.0, 0.0)
        spread = best - worst or 1.0
        values = np.where(np.isfinite(fitness), fitness, worst).tolist()
        values += [worst - spread * (1 - 1 / size) for size, _, _ in self._too_large]
        parts = [*self._used.values(), *((blueprint, modules) for _, blueprint, modules in self._too_large)]
        of_blueprints = average_fitness(values, [{blueprint} for blueprint, _ in parts], len(self.blueprints.genomes))
        of_modules = average_fitness(values, [modules for _, modules in parts], len(self.modules.genomes))
        self.modules.evolve(_completed(of_modules, self.modules.species))
        self._point_to_living()
        self.blueprints.evolve(of_blueprints)
        self.generation, self._slot = self.generation + 1, 0
        for of_this_generation in (self._used, self._losses, self._too_large):
            of_this_generation.clear()

    def _point_to_living(self) -> None:
        """Let nodes that point to a species which has died out point to another."""
        living = Category(tuple(self.modules.species))
        self.blueprints.traits = (living,)
        self.blueprints.genomes = [
            Genome(
                tuple((m, own if own[0] in living.values else (living.draw(self.rng),)) for m, own in genome.nodes),
                genome.connections,
            )
            for genome in self.blueprints.genomes
        ]


def _completed(fitness: Sequence[float], species: Mapping[int, Sequence[int]]) -> list[float]:
    """Fitness with the mean of the species where there is none, or the mean of all."""
    known = [value for value in fitness if not math.isnan(value)]
    completed = list(fitness)
    for members in species.values():
        own = [fitness[i] for i in members if not math.isnan(fitness[i])] or known or [0.0]
        for i in members:
            completed[i] = math.fsum(own) / len(own) if math.isnan(fitness[i]) else fitness[i]
    return completed


class RandomAssemblies(_Assembling):
    """Random search in the space of :class:`CoDeepNEAT`: random blueprints of random modules, each network new.

    The baseline: what CoDeepNEAT begins with, where ``grow`` is the same.

    Args:
        input_shape: C, H, W of the images.
        num_classes: Number of logits.
        species: Most modules in a blueprint that differ.
        filters: The least and the most filters of a layer.
        kernels: Kernel sizes of a layer.
        merge: How a node reads several inputs; see :func:`assemble`.
        grow: Most random nodes and connections of blueprint and modules.
        max_params: Networks have at most so many parameters.
        seed: Seed of all random choices.
        scalar: What the best network minimises, given all values.

    Raises:
        ValueError: If a number is too small, or no network has at most ``max_params``.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        species: int = 4,
        filters: Sequence[int] = (32, 256),
        kernels: Sequence[int] = (1, 3),
        merge: Merge = "sum",
        grow: int = 6,
        max_params: int | None = None,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(
            input_shape,
            num_classes,
            filters=filters,
            kernels=kernels,
            merge=merge,
            max_params=max_params,
            seed=seed,
            scalar=scalar,
        )
        if species < 1 or grow < 0:
            raise ValueError(f"species must be at least 1, grow at least 0; got {species} and {grow}.")
        self.species, self.grow = species, grow

    def _propose(self) -> Proposal | None:
        for _ in range(10 * TRIES):
            numbers = tuple(range(self.species))
            modules = {number: grown(self.traits, Markings(), self.rng, self.grow) for number in numbers}
            blueprint = grown([Category(numbers)], Markings(), self.rng, self.grow)
            config, _ = self._assembled(blueprint, modules)
            if config is not None and not self._was_proposed(config):
                return self._number(config)
        return None
