"""NEAT's genomes and species: markings, distance, speciation and sharing against a second implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from oneshot.discrete import NEATSettings
from oneshot.discrete.strategies.genomes import (
    INPUT,
    OUTPUT,
    Category,
    Connection,
    Genome,
    Markings,
    Range,
    Trait,
    add_connection,
    add_node,
    alter,
    crossed,
    grown,
    minimal,
    toggle,
)
from oneshot.discrete.strategies.neat import Population, distance, offspring, shared_fitness, speciate
from tests.reference import neat as reference

TRAITS: tuple[Trait, ...] = (Range(4, 24), Category((1, 3)), Category((0, 1)))
C = {"excess": 1.0, "disjoint": 0.7, "altered": 0.4}


def family(seed: int, size: int = 14, steps: int = 6) -> list[Genome]:
    """Related genomes of different sizes, some of them crossed."""
    rng, markings = np.random.default_rng(seed), Markings()
    genomes = [grown(TRAITS, markings, rng, steps) for _ in range(size)]
    for _ in range(size):
        one, two = (genomes[i] for i in rng.choice(len(genomes), 2, replace=False))
        child = alter(crossed(one, two, rng), TRAITS, rng, 0.3)
        genomes.append(add_node(child, TRAITS, markings, rng) if rng.random() < 0.5 else child)
    return genomes


def as_genes(genome: Genome) -> dict[int, Any]:
    """The genome as the reference writes it."""
    nodes = {m: ((filters - 4) / 20, f"k{kernel}", f"p{pool}") for m, (filters, kernel, pool) in genome.nodes}
    return nodes | {link.marking: None for link in genome.connections}


def has_cycle(edges: set[tuple[int, int]]) -> bool:
    """Take away nodes that nothing leads to, until none is left."""
    nodes = {node for edge in edges for node in edge}
    while nodes:
        free = {node for node in nodes if not any(target == node for _, target in edges)}
        if not free:
            return True
        nodes, edges = nodes - free, {edge for edge in edges if edge[0] not in free}
    return False


# Genomes.


def test_a_minimal_genome_is_one_node_between_input_and_output() -> None:
    genome = minimal(TRAITS, Markings(), np.random.default_rng(0))
    (node,) = genome.traits
    assert genome.inputs == {node: [INPUT], OUTPUT: [node]}
    assert sorted((link.source, link.target) for link in genome.connections) == [(INPUT, node), (node, OUTPUT)]


def test_a_new_node_splits_a_connection_and_disables_it() -> None:
    rng, markings = np.random.default_rng(0), Markings()
    before = minimal(TRAITS, markings, rng)
    after = add_node(before, TRAITS, markings, rng)
    (new,) = set(after.traits) - set(before.traits)
    (split,) = [link for link in after.connections if not link.enabled]
    assert before.links[split.marking].enabled
    assert {(split.source, new), (new, split.target)} <= {(link.source, link.target) for link in after.connections}
    assert list(after.inputs.values()).count([new]) == 1 and after.inputs[new] == [split.source]


def test_connections_are_added_until_no_pair_is_free_and_never_make_a_cycle() -> None:
    rng, markings = np.random.default_rng(1), Markings()
    genome = grown(TRAITS, markings, rng, 0)
    for _ in range(3):
        genome = add_node(genome, TRAITS, markings, rng)
    nodes = len(genome.nodes) + 2
    while (more := add_connection(genome, markings, rng)) != genome:
        genome = more
        assert not has_cycle({(link.source, link.target) for link in genome.connections})
    assert len(genome.connections) == nodes * (nodes - 1) // 2, "every pair, in one direction"
    assert not genome.free_pairs()


@pytest.mark.parametrize("seed", range(8))
def test_markings_are_unique_and_stand_for_the_same_in_all_genomes(seed: int) -> None:
    population = Population(
        12, TRAITS, NEATSettings(add_node=0.5, add_connection=0.5), np.random.default_rng(seed), grow=3
    )
    meaning: dict[int, object] = {}
    of: dict[object, int] = {}
    for _ in range(6):
        for genome in population.genomes:
            numbers = [*genome.traits, *(link.marking for link in genome.connections)]
            assert len(set(numbers)) == len(numbers) and not {INPUT, OUTPUT} & set(numbers)
            assert list(genome.traits) == sorted(genome.traits)
            for link in genome.connections:
                way = (link.source, link.target)
                assert meaning.setdefault(link.marking, way) == way, "one marking, one connection"
                assert of.setdefault(way, link.marking) == link.marking, "one connection, one marking"
                assert {link.source, link.target} <= {INPUT, OUTPUT, *genome.traits}
            for node in genome.traits:
                assert meaning.setdefault(node, "node") == "node", "no marking is of a node and of a connection"
            assert genome.works, "a node is on a way from input to output"
            assert not has_cycle({(link.source, link.target) for link in genome.connections})
        population.evolve(np.random.default_rng(seed).random(12).tolist())
    assert max(len(genome.nodes) for genome in population.genomes) > 3


def test_the_same_split_in_two_genomes_is_the_same_node_and_a_second_split_in_one_is_another() -> None:
    markings = Markings()
    first = markings.node(INPUT, OUTPUT, ())
    assert markings.node(INPUT, OUTPUT, ()) == first
    second = markings.node(INPUT, OUTPUT, {first})
    assert second != first and markings.node(INPUT, OUTPUT, {first}) == second
    assert markings.connection(INPUT, first) == markings.connection(INPUT, first) not in (first, second)


def test_what_is_on_no_enabled_way_is_no_part_of_the_network() -> None:
    nodes = tuple((m, (8, 3, 0)) for m in (2, 3, 4))
    links = [(5, INPUT, 2), (6, 2, OUTPUT), (7, INPUT, 3), (8, 4, OUTPUT)]  # 3 leads nowhere, nothing leads to 4
    genome = Genome(nodes, (*(Connection(*link) for link in links), Connection(9, 3, 4, enabled=False)))
    assert genome.inputs == {2: [INPUT], OUTPUT: [2]}
    assert Genome(nodes, genome.connections[2:]).inputs == {}


def test_crossover_takes_structure_from_the_fitter_and_matching_genes_from_both() -> None:
    rng, markings = np.random.default_rng(3), Markings()
    base = minimal(TRAITS, markings, rng)
    fitter = alter(add_node(add_node(base, TRAITS, markings, rng), TRAITS, markings, rng), TRAITS, rng, 1.0)
    other = alter(add_connection(add_node(base, TRAITS, markings, rng), markings, rng), TRAITS, rng, 1.0)
    shared = set(fitter.traits) & set(other.traits)
    assert shared and set(other.markings) - set(fitter.markings)
    seen: dict[int, set[Any]] = {m: set() for m in fitter.traits}
    switched = 0
    for _ in range(60):
        child = crossed(fitter, other, rng)
        assert child.markings == fitter.markings and child.works
        for m, own in child.nodes:
            seen[m].add(own)
        for link in child.connections:
            mate = other.links.get(link.marking)
            if mate is None or (mate.enabled and fitter.links[link.marking].enabled):
                assert link.enabled == fitter.links[link.marking].enabled
            else:
                switched += link.enabled
    for m in fitter.traits:
        assert seen[m] == ({fitter.traits[m], other.traits[m]} if m in shared else {fitter.traits[m]})
    assert switched, "now and then a disabled connection comes back"


def test_disabled_genes_stay_disabled_three_times_in_four() -> None:
    nodes = ((2, (8, 3, 0)),)
    on = Genome(nodes, (Connection(3, INPUT, 2), Connection(4, 2, OUTPUT), Connection(5, INPUT, OUTPUT)))
    off = Genome(nodes, (*on.connections[:2], Connection(5, INPUT, OUTPUT, enabled=False)))
    rng, n = np.random.default_rng(0), 4000
    share = sum(not crossed(on, off, rng).links[5].enabled for _ in range(n)) / n
    assert abs(share - 0.75) < 4 * math.sqrt(0.75 * 0.25 / n)


def test_a_child_always_works() -> None:
    nodes = ((2, (8, 3, 0)), (3, (8, 3, 0)))
    links = [Connection(4, INPUT, 2), Connection(5, 2, OUTPUT), Connection(6, INPUT, 3), Connection(7, 3, OUTPUT)]
    left = Genome(nodes, tuple(Connection(c.marking, c.source, c.target, c.marking in (4, 5)) for c in links))
    right = Genome(nodes, tuple(Connection(c.marking, c.source, c.target, c.marking in (6, 7)) for c in links))
    rng = np.random.default_rng(0)
    assert all(crossed(left, right, rng).works for _ in range(50))


def test_a_switched_connection_is_off_or_on_and_a_genome_keeps_working() -> None:
    rng, markings = np.random.default_rng(0), Markings()
    genome = add_connection(add_node(minimal(TRAITS, markings, rng), TRAITS, markings, rng), markings, rng)
    sizes, before = set(), genome
    for _ in range(200):
        after = toggle(before, rng)
        changed = [a.marking for a, b in zip(after.connections, before.connections) if a.enabled != b.enabled]
        assert len(changed) <= 1 and after.markings == genome.markings and after.works
        sizes.add(len(after.inputs))
        before = after
    assert sizes == {2, 3}, "the network shrinks and grows; the genome does not"


@pytest.mark.parametrize("trait", TRAITS, ids=["range", "kernel", "pool"])
def test_traits_stay_in_their_range_and_mutations_change_them(trait: Trait) -> None:
    rng = np.random.default_rng(0)
    allowed = set(range(4, 25)) if isinstance(trait, Range) else set(trait.values)
    drawn = {trait.draw(rng) for _ in range(500)}
    assert drawn == allowed
    changed = [trait.mutated(value, rng) != value for value in drawn for _ in range(10)]
    assert np.mean(changed) > 0.9, "but at the ends of a range"
    assert {trait.mutated(value, rng) for value in drawn for _ in range(10)} <= allowed


def test_a_trait_of_one_value_has_no_difference_and_no_mutation() -> None:
    rng = np.random.default_rng(0)
    assert Category((3,)).mutated(3, rng) == 3 and Range(8, 8).mutated(8, rng) == 8
    assert Range(8, 8).difference(8, 8) == 0


# Formulas against the second implementation.


@pytest.mark.parametrize("seed", range(4))
def test_the_compatibility_distance_is_that_of_the_reference(seed: int) -> None:
    genomes = family(seed)
    ours, exact, variants = [], [], dict[str, list[float]]()
    for one in genomes:
        for two in genomes:
            genes = as_genes(one), as_genes(two)
            ours.append(distance(one, two, TRAITS, **C))
            exact.append(reference.delta(*genes, *C.values()))
            for flag in ("smaller", "no_excess", "summed"):
                variants.setdefault(flag, []).append(reference.delta(*genes, *C.values(), **{flag: True}))
    np.testing.assert_allclose(ours, exact, rtol=1e-12, atol=1e-12)
    for flag, wrong in variants.items():
        assert not np.allclose(ours, wrong, rtol=1e-3), f"the test tells {flag} apart"


def test_the_distance_is_symmetric_and_zero_only_for_itself() -> None:
    genomes = family(9)
    for one in genomes:
        assert distance(one, one, TRAITS) == 0
        for two in genomes:
            assert distance(one, two, TRAITS) == pytest.approx(distance(two, one, TRAITS), abs=1e-15)
            same = one.markings == two.markings and one.traits == two.traits
            assert (distance(one, two, TRAITS) == 0) == same


@pytest.mark.parametrize("seed", range(4))
def test_genomes_go_to_the_species_of_the_reference(seed: int) -> None:
    genomes = family(seed, 20)
    old = {4: genomes[3], 7: genomes[11], 9: genomes[-1]}

    def measure(one: Genome, two: Genome) -> float:
        return distance(one, two, TRAITS, **C)

    def exact(one: Genome, two: Genome) -> float:
        return reference.delta(as_genes(one), as_genes(two), *C.values())

    found = speciate(genomes, old, 0.5, measure, 10)
    names = reference.sort_into_species(genomes, list(old.items()), 0.5, exact)
    assert found == {name: [i for i, other in enumerate(names) if other == name] for name in sorted(set(names))}
    assert len(found) > 3 and sorted(i for members in found.values() for i in members) == list(range(len(genomes)))
    nearest = reference.sort_into_species(genomes, list(old.items()), 0.5, exact, nearest=True)
    assert nearest != names, "the test tells the first compatible species from the nearest"


@pytest.mark.parametrize("seed", range(6))
def test_sharing_and_places_are_those_of_the_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    of = rng.integers(0, 4, 17)
    species = {int(name): np.flatnonzero(of == name).tolist() for name in np.unique(of)}
    fitness = rng.random(17).tolist()
    shared = shared_fitness(fitness, species)
    np.testing.assert_allclose(shared, reference.adjusted(fitness, of.tolist()), rtol=1e-14)
    assert not np.allclose(shared, reference.adjusted(fitness, of.tolist(), ranked=True))
    total = 23
    assert offspring(shared, species, total) == reference.places(shared, of.tolist(), total)
    unshared = reference.places(fitness, of.tolist(), total)
    assert offspring(shared, species, total) != unshared, "without sharing large species take the places"


def test_a_large_species_gets_no_more_places_than_a_small_one_that_is_as_good() -> None:
    species = {0: list(range(9)), 1: [9]}
    assert offspring(shared_fitness([1.0] * 10, species), species, 10) == {0: 5, 1: 5}


def test_species_without_any_fitness_share_the_places_and_the_best_come_first_where_they_are_few() -> None:
    assert offspring([0.0, 0.0, 0.0], {3: [0, 1], 5: [2]}, 4) == {3: 2, 5: 2}
    assert offspring([1.0, 3.0, 2.0], {0: [0], 1: [1], 2: [2]}, 2) == {0: 0, 1: 1, 2: 1}


# Generations.


def test_the_champion_of_a_species_is_kept_as_it_is() -> None:
    population = Population(16, TRAITS, NEATSettings(), np.random.default_rng(0), grow=3)
    for _ in range(5):
        fitness = [float(len(genome.nodes)) + 0.01 * i for i, genome in enumerate(population.genomes)]
        champion = population.genomes[int(np.argmax(fitness))]
        population.evolve(fitness)
        assert len(population.genomes) == 16 and champion in population.genomes
    unkept = Population(
        16, TRAITS, NEATSettings(champion=99, add_node=1.0, toggle=0.0), np.random.default_rng(0), grow=3
    )
    before = list(unkept.genomes)
    unkept.evolve([float(i) for i in range(16)])
    assert not set(before) & set(unkept.genomes), "and only the champion is"


def test_evolution_finds_what_fitness_asks_for() -> None:
    def wide(genome: Genome) -> float:
        return sum(traits[0] for traits in genome.traits.values()) - 5.0 * abs(len(genome.nodes) - 4)

    population = Population(20, TRAITS, NEATSettings(), np.random.default_rng(2))
    best = []
    for _ in range(25):
        fitness = [wide(genome) for genome in population.genomes]
        best.append(max(fitness))
        population.evolve(fitness)
    assert best == sorted(best), "the champion is kept, so the best never gets worse"
    assert best[-1] > 0.9 * 4 * 24 > best[0]


def test_a_species_that_does_not_improve_dies_out_unless_it_has_the_best() -> None:
    settings = NEATSettings(patience=3, species=None, threshold=0.3, add_node=0, add_connection=0, toggle=0, alter=1e-4)
    population = Population(12, TRAITS, settings, np.random.default_rng(1), grow=4)
    start = set(population.species)
    assert len(start) > 2
    for _ in range(6):
        species_of = {i: number for number, members in population.species.items() for i in members}
        population.evolve([float(species_of[i] == min(start)) for i in range(12)])
    assert min(start) in population.species and set(population.species) < start


def test_the_threshold_moves_to_the_number_of_species_that_is_aimed_at() -> None:
    counts = []
    for aim in (2, 5):
        population = Population(20, TRAITS, NEATSettings(species=aim), np.random.default_rng(4), grow=4)
        found = []
        for _ in range(15):
            population.evolve(np.random.default_rng(0).random(20).tolist())
            found.append(len(population.species))
        counts.append(np.mean(found))
    assert abs(counts[0] - 2) < 1 and abs(counts[1] - 5) < 1.5
    fixed = Population(20, TRAITS, NEATSettings(species=None, threshold=0.7), np.random.default_rng(4))
    fixed.evolve([0.0] * 20)
    assert fixed.threshold == 0.7


def test_species_keep_their_numbers_and_every_genome_is_in_one() -> None:
    population = Population(15, TRAITS, NEATSettings(), np.random.default_rng(5), grow=2)
    known: set[int] = set()
    for _ in range(10):
        assert sorted(i for members in population.species.values() for i in members) == list(range(15))
        fresh = set(population.species) - known
        assert not known or not fresh or min(fresh) > max(known), "a number is never used again"
        known |= fresh
        population.evolve(np.random.default_rng(6).random(15).tolist())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: NEATSettings(crossover=1.5), "crossover must be a probability.*got 1.5", id="chance"),
        pytest.param(lambda: NEATSettings(survivors=0), "survivors must be a share above 0", id="survivors"),
        pytest.param(
            lambda: NEATSettings(add_node=0, add_connection=0, toggle=0, alter=0),
            "must be able to differ.*toggle",
            id="none",
        ),
        pytest.param(lambda: NEATSettings(altered=-1), "altered must be at least 0; got -1", id="weight"),
        pytest.param(lambda: NEATSettings(threshold=0), "threshold must be above 0; got 0", id="threshold"),
        pytest.param(lambda: NEATSettings(species=0), "species must be at least 1; got 0", id="species"),
    ],
)
def test_bad_settings_are_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
