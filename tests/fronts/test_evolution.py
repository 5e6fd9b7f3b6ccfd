"""The evolution finds the front, keeps to constraints and depends on nothing but its seed."""

from __future__ import annotations

import numpy as np
import pytest

from oneshot.fronts.evolution import (
    check_population,
    crossover,
    enumerate_space,
    mutate,
    smallest_population,
)
from oneshot.fronts.nsga3 import NSGA3
from oneshot.fronts.pareto import non_dominated
from oneshot.nat import evolve
from oneshot.supernets import (
    Choice,
    FBNetSpace,
    NASBench1Shot1Space,
    NASBench201Space,
    RecurrentSpace,
    SearchSpace,
    darts_space,
)

TOY = SearchSpace("toy", (Choice("layer", ("a", "b", "c", "d"), rows=12),))


def counts(genes: np.ndarray) -> np.ndarray:
    """Two costs that conflict: what is small in one is large in the other. All of the front has a sum of 36."""
    return np.stack([genes.sum(1), (3 - genes).sum(1)], 1).astype(float)


def tables(objectives: int, space: SearchSpace = TOY):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(7)
    costs = [[rng.random(size) for size in space.gene_sizes] for _ in range(objectives)]
    return lambda genes: np.stack([sum(c[g][genes[:, g]] for g in range(space.num_genes)) for c in costs], 1)


def test_one_objective_is_minimised() -> None:
    space, table = FBNetSpace(), tables(1, FBNetSpace())
    best = (
        sum(
            min(table(np.eye(1, space.num_genes, g, dtype=np.int64) * pick)[0, 0] for pick in range(size))
            - table(np.zeros((1, space.num_genes), dtype=np.int64))[0, 0]
            for g, size in enumerate(space.gene_sizes)
        )
        + table(np.zeros((1, space.num_genes), dtype=np.int64))[0, 0]
    )
    genes, values = evolve(space, table, rng=0)
    assert len(genes) == 1
    assert values[0, 0] == pytest.approx(best, rel=0.15)


def test_two_objectives_reach_the_whole_front() -> None:
    ends = np.array([[0] * 12, [3] * 12])
    genes, values = evolve(TOY, counts, seeds=ends, population=60, generations=40, rng=0)
    assert sorted(set(values[:, 0])) == list(range(37))  # every compromise there is
    assert np.array_equal(values, counts(genes))


def test_three_objectives_dominate_random_search() -> None:
    table = tables(3)
    genes, values = evolve(TOY, table, population=60, generations=30, rng=0)
    random = table(TOY.sample_matrix(60 * 30, 1))
    both = np.concatenate([values, random])
    assert non_dominated(both)[: len(values)].mean() > 0.95
    assert not non_dominated(both)[len(values) :].any()
    assert len(np.unique(genes, axis=0)) == len(genes)


def test_infeasible_ones_are_never_returned() -> None:
    genes, values = evolve(TOY, counts, lambda g: 20.0 - g.sum(1, keepdims=True), population=40, generations=40, rng=0)
    assert (genes.sum(1) >= 20).all() and values[:, 0].min() == 20
    genes, values = evolve(TOY, counts, lambda g: np.ones((len(g), 1)), population=8, generations=3, rng=0)
    assert genes.shape == (0, 12) and values.shape == (0, 2)


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_result_depends_on_the_seed_only(objectives: int) -> None:
    table = tables(objectives)
    np.random.seed(0)
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    first = evolve(TOY, table, population=20, generations=3, rng=3)
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]
    np.random.seed(1)
    second = evolve(TOY, table, population=20, generations=3, rng=np.random.default_rng(3))
    other = evolve(TOY, table, population=20, generations=3, rng=4)
    assert np.array_equal(first[0], second[0]) and first[1].tobytes() == second[1].tobytes()
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(
    "space", [darts_space(multiplier=2), RecurrentSpace(), NASBench1Shot1Space(3), FBNetSpace()], ids=lambda s: s.name
)
def test_everything_it_evaluates_is_canonical_and_new(space: SearchSpace) -> None:
    seen: list[np.ndarray] = []

    def table(genes: np.ndarray) -> np.ndarray:
        seen.append(genes)
        return np.stack([genes.sum(1), -genes[:, ::2].sum(1)], 1).astype(float)

    seeds = space.repair(space.sample_matrix(5, 9))
    evolve(space, table, seeds=seeds, population=20, generations=10, rng=0)
    every = np.concatenate(seen)
    assert np.array_equal(space.repair(every), every)
    assert len(np.unique(every, axis=0)) == len(every) and 150 < len(every) <= 200
    assert np.array_equal(every[:5], seeds)


def test_a_small_space_is_evaluated_as_a_whole() -> None:
    space, seen = NASBench201Space(), []

    def table(genes: np.ndarray) -> np.ndarray:
        seen.append(genes)
        return counts(genes)

    evolve(space, table, rng=0)
    (every,) = seen
    canonical = space.repair(np.indices(space.gene_sizes).reshape(6, -1).T)
    assert np.array_equal(every, np.unique(canonical, axis=0))
    assert enumerate_space(FBNetSpace(), 10**6) is None


def test_excluded_ones_are_not_returned_and_the_next_fronts_fill_up() -> None:
    genes, _ = evolve(TOY, tables(2), population=20, generations=10, rng=0)
    others, values = evolve(TOY, tables(2), population=20, generations=10, rng=0, exclude=genes, least=50)
    assert len(others) >= 50
    assert not {tuple(g) for g in genes.tolist()} & {tuple(g) for g in others.tolist()}
    assert not non_dominated(values).all()


@pytest.mark.parametrize("space", [TOY, darts_space(), RecurrentSpace()], ids=lambda s: s.name)
def test_children_have_groups_of_either_parent(space: SearchSpace) -> None:
    a, b = space.sample_matrix(400, 0), space.sample_matrix(400, 1)
    child = crossover(space, a, b, np.random.default_rng(0))
    shares = []
    for group in space.gene_groups():
        first, second = ((child[:, group] == x[:, group]).all(1) for x in (a, b))
        assert (first | second).all()
        shares += list(first[~second | ~first])
    assert 0.45 < np.mean(shares) < 0.55
    assert np.array_equal(space.repair(child), child)


@pytest.mark.parametrize("space", [TOY, darts_space(), RecurrentSpace()], ids=lambda s: s.name)
def test_mutation_changes_little_and_reaches_everything(space: SearchSpace) -> None:
    parents = np.repeat(space.repair(space.sample_matrix(1, 0)), 4000, axis=0)
    child = space.repair(mutate(space, parents, np.random.default_rng(0)))
    changed = child != parents
    assert 0.3 < changed.any(1).mean() < 0.9
    assert changed.sum(1).mean() < 3
    assert changed.any(0).all()


def test_a_population_that_is_too_small_is_refused() -> None:
    for objectives, least in ((2, 4), (3, 6), (12, 78)):
        check_population(least, objectives)
        with pytest.raises(ValueError, match=f"{objectives} objectives needs a population of at least {least}"):
            check_population(least - 1, objectives)
    with pytest.raises(ValueError, match="3 objectives needs a population of at least 6"):
        evolve(TOY, tables(3), population=5)


def test_objectives_that_are_no_finite_matrix_are_refused() -> None:
    with pytest.raises(ValueError, match="Objectives of 10 architectures"):
        evolve(TOY, lambda g: g.sum(1), population=10)
    with pytest.raises(ValueError, match="Constraints of 10 architectures"):
        evolve(TOY, counts, lambda g: np.full((len(g), 1), np.nan), population=10)
    with pytest.raises(ValueError, match="canonical"):
        evolve(NASBench201Space(), counts, seeds=np.array([[0, 1, 1, 1, 1, 1]]))


def test_what_is_returned_keeps_every_constraint_and_not_one_of_them() -> None:
    """Genes of a sum from 14 to 22; each bound alone leaves the better half of one objective."""

    def excesses(genes: np.ndarray) -> np.ndarray:
        return np.stack([14.0 - genes.sum(1), genes.sum(1) - 22.0], 1)

    genes, values = evolve(TOY, counts, excesses, population=40, generations=30, rng=0)
    assert genes.sum(1).min() == 14 and genes.sum(1).max() == 22
    np.testing.assert_array_equal(values, counts(genes))
    small = SearchSpace("small", (Choice("layer", ("a", "b", "c", "d"), rows=3),))  # evaluated as a whole
    genes, _ = evolve(small, counts, lambda g: np.stack([4.0 - g.sum(1), g.sum(1) - 5.0], 1), rng=0)
    assert sorted(set(genes.sum(1))) == [4, 5]


@pytest.mark.parametrize("objectives", [3, 4, 5])
@pytest.mark.parametrize("population", [10, 15, 20, 21, 91, 100])
def test_nsga3_has_as_many_directions_as_survivors_can_serve(objectives: int, population: int) -> None:
    """Das and Dennis' directions, counted by hand: all ways to give d parts to M objectives."""
    if population < smallest_population(objectives):
        with pytest.raises(ValueError, match="Raise it, or leave out objectives"):
            check_population(population, objectives)
        return
    directions = NSGA3(objectives, population).directions

    def ways(divisions: int) -> int:
        return sum(sum(parts) == divisions for parts in np.ndindex(*[divisions + 1] * objectives))

    divisions = next(d for d in range(2, 20) if ways(d + 1) > population)
    assert len(directions) == ways(divisions) <= population
    np.testing.assert_allclose(directions.sum(1), 1.0)
