"""Evolution of a whole front: NSGA-II and NSGA-III with the operators of a search space."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

from .nsga2 import NSGA2, Rows
from .nsga3 import NSGA3
from .pareto import non_dominated

Evaluate: TypeAlias = Callable[[IntMatrix], Floats]

CROSSOVER = 0.9  # share of children that have two parents (Deb et al., IEEE TEC 2002, section V)
MOST_ENUMERATED = 100_000  # spellings of a space that are listed rather than searched
TRIES = 3  # rounds of mating to find children that are new, before there are fewer


def keys(genes: IntMatrix) -> list[bytes]:
    """One hashable value for each row of ``[N, G]``."""
    return [row.tobytes() for row in np.ascontiguousarray(genes, dtype=np.int64)]


def check_canonical(space: SearchSpace, genes: npt.ArrayLike) -> IntMatrix:
    """``genes`` as a new int64 array, if they are canonical.

    Raises:
        ValueError: If they are no genes of the space, or a row is not canonical (a hole, an edge that leads nowhere).
    """
    rows = np.array(space.check_genes(genes), dtype=np.int64)
    repaired = space.repair(rows)
    wrong = np.flatnonzero((repaired != rows).any(1))
    if len(wrong):
        raise ValueError(
            f"Genes of space {space.name!r} are canonical here; row {wrong[0]} is {rows[wrong[0]].tolist()}, "
            f"and its canonical form {repaired[wrong[0]].tolist()}. Pass space.repair(genes)."
        )
    return rows


def crossover(space: SearchSpace, first: IntMatrix, second: IntMatrix, rng: np.random.Generator) -> IntMatrix:
    """Uniform crossover of many pairs: every group of genes that belongs together comes from either parent.

    Args:
        space: The search space.
        first: ``[N, G]``.
        second: ``[N, G]``.
        rng: Source of chance.

    Returns:
        Children, ``[N, G]``, not yet repaired.
    """
    from_second = rng.random((len(first), len(space.gene_groups()))) < 0.5
    return np.where(from_second[:, _group_of(space)], second, first)


def mutate(space: SearchSpace, genes: IntMatrix, rng: np.random.Generator) -> IntMatrix:
    """Re-draw on average one gene of each row, or one group of genes; each with equal chance.

    A gene is drawn among its picks, a group is taken from an architecture that ``space`` samples, so that moves that
    need several genes at a time (another input of a node) are made, too.

    Args:
        space: The search space.
        genes: ``[N, G]``.
        rng: Source of chance.

    Returns:
        ``[N, G]``, not yet repaired.
    """
    groups = len(space.gene_groups())
    single = rng.integers(0, np.array(space.gene_sizes), size=genes.shape)
    one = rng.random(genes.shape) < 1 / space.num_genes
    some = (rng.random((len(genes), groups)) < 1 / groups)[:, _group_of(space)]
    by_gene = rng.random((len(genes), 1)) < 0.5
    whole = space.sample_matrix(len(genes), rng)
    return np.where(by_gene, np.where(one, single, genes), np.where(some, whole, genes))


def _group_of(space: SearchSpace) -> npt.NDArray[np.int64]:
    group = np.zeros(space.num_genes, dtype=np.int64)
    for number, genes in enumerate(space.gene_groups()):
        group[genes] = number
    return group


def smallest_population(objectives: int) -> int:
    """Smallest population of :func:`evolve`: for three and more objectives, the number of reference directions.

    These are Das and Dennis' (SIAM J. Optim. 1998) with at least two divisions of every edge, M (M + 1) / 2.
    """
    return 4 if objectives < 3 else objectives * (objectives + 1) // 2


def check_population(population: int, objectives: int) -> None:
    """Check that a population is large enough.

    Raises:
        ValueError: If it is not, with the size that is needed.
    """
    if population < smallest_population(objectives):
        why = " (one for each reference direction of NSGA-III)" if objectives > 2 else ""
        raise ValueError(
            f"A search of {objectives} objectives needs a population of at least {smallest_population(objectives)}"
            f"{why}; got {population}. Raise it{', or leave out objectives' if why else ''}."
        )


def evolve(
    space: SearchSpace,
    objectives: Evaluate,
    constraints: Evaluate | None = None,
    seeds: IntMatrix | None = None,
    *,
    population: int = 100,
    generations: int = 100,
    rng: np.random.Generator | int | None = None,
    exclude: IntMatrix | None = None,
    least: int = 1,
) -> tuple[IntMatrix, Floats]:
    """Search for architectures that no other one beats in all objectives.

    One objective is minimised by a genetic algorithm, two by NSGA-II (Deb et al., IEEE TEC 2002), more by NSGA-III (Deb
    and Jain, IEEE TEC 2014). No architecture is evaluated twice; the result depends on ``rng`` only. A space that is
    about as small as the number of evaluations is evaluated as a whole.

    Args:
        space: The search space.
        objectives: ``[N, G] -> [N, M]``, minimised.
        constraints: ``[N, G] -> [N, K]``, feasible where none is above 0.
        seeds: Canonical architectures of the first population, ``[S, G]``; random ones fill it up.
        population: Architectures that survive a generation, and new ones in each.
        generations: How many, the first population being one.
        rng: Generator or seed.
        exclude: Architectures that are not returned, ``[E, G]``, canonical.
        least: Return also what only returned ones dominate, and so on, until there are so many, if there are.

    Returns:
        Genes ``[n, G]`` and objectives ``[n, M]`` of what is not dominated among all that was evaluated and feasible,
        best first objective first. Empty if nothing was feasible.

    Raises:
        ValueError: If the population is too small for the objectives, seeds are not canonical, or ``objectives`` or
            ``constraints`` return something else than finite matrices.
    """
    generator = np.random.default_rng(rng)
    first = np.empty((0, space.num_genes), dtype=np.int64) if seeds is None else check_canonical(space, seeds)
    every = enumerate_space(space, 2 * population * generations)
    first = _fill_up(space, first, population, generator) if every is None else every
    seen = _Seen(objectives, constraints)
    values, excess = seen.evaluate(first)
    check_population(population, values.shape[1])
    if generations > 1 and every is None:
        _run(space, seen, first, values, excess, population, generations, generator)
    return seen.best(exclude, least)


def enumerate_space(space: SearchSpace, most: int) -> IntMatrix | None:
    """All canonical architectures, ``[N, G]`` in lexicographic order; None where there are over ``most`` spellings."""
    if math.prod(space.gene_sizes) > most:
        return None
    spellings = np.indices(space.gene_sizes).reshape(space.num_genes, -1).T
    return np.unique(space.repair(spellings), axis=0)


def minimise(
    space: SearchSpace,
    cost: Evaluate,
    *,
    seed: int = 0,
    seeds: IntMatrix | None = None,
    most: int = MOST_ENUMERATED,
) -> IntMatrix:
    """The architecture of the smallest cost, ``[1, G]``: exact in spaces that can be listed, else by evolution.

    Args:
        space: The search space.
        cost: ``[N, G] -> [N, 1]``.
        seed: Of the evolution.
        seeds: Canonical architectures that the evolution begins with, ``[S, G]``, 50 at most.
        most: Spellings of a space that is listed.
    """
    every = enumerate_space(space, most)
    if every is not None:
        best = int(_checked(cost(every), len(every), "Costs")[:, 0].argmin())
        return every[best : best + 1]
    return evolve(space, cost, seeds=seeds, population=50, generations=60, rng=seed)[0][:1]


class _Seen:
    """All architectures that were evaluated, with their objectives and constraints."""

    def __init__(self, objectives: Evaluate, constraints: Evaluate | None) -> None:
        self.objectives, self.constraints = objectives, constraints
        self.known: set[bytes] = set()
        self.parts: list[tuple[IntMatrix, Floats, Floats]] = []

    def evaluate(self, genes: IntMatrix) -> tuple[Floats, Floats]:
        values = _checked(self.objectives(genes), len(genes), "Objectives")
        excess = np.zeros((len(genes), 0))
        if self.constraints is not None:
            excess = _checked(self.constraints(genes), len(genes), "Constraints")
        self.parts.append((genes, values, excess))
        self.known.update(keys(genes))
        return values, excess

    def best(self, exclude: IntMatrix | None, least: int) -> tuple[IntMatrix, Floats]:
        genes, values, excess = (np.concatenate(part) for part in zip(*self.parts))
        left = np.asarray((excess <= 0).all(1))
        if exclude is not None and len(exclude):
            known = set(keys(exclude))
            left &= np.array([key not in known for key in keys(genes)])
        chosen: list[npt.NDArray[np.int64]] = []
        while sum(map(len, chosen)) < max(least, 1) and left.any():
            rows = np.flatnonzero(left)
            front = rows[non_dominated(values[rows])]
            chosen.append(front[np.lexsort(values[front].T[::-1])])
            left[front] = False
        rows = np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)
        return genes[rows], values[rows]


def _checked(values: Floats, n: int, what: str) -> Floats:
    y = np.asarray(values, np.float64)
    if y.ndim != 2 or len(y) != n or not np.isfinite(y).all():
        raise ValueError(f"{what} of {n} architectures are a finite matrix [{n}, ...]; got {y!r} of {list(y.shape)}.")
    return y


def _fill_up(space: SearchSpace, genes: IntMatrix, n: int, rng: np.random.Generator) -> IntMatrix:
    """Distinct architectures, the given ones first, random ones up to ``n`` if the space has as many."""
    found = dict(zip(keys(genes), genes))
    for _ in range(TRIES):
        if len(found) >= n:
            break
        drawn = space.repair(space.sample_matrix(n, rng))
        for key, row in zip(keys(drawn), drawn):
            if len(found) < n:
                found.setdefault(key, row)
    return np.array(list(found.values()), dtype=np.int64).reshape(-1, space.num_genes)


def _run(
    space: SearchSpace,
    seen: _Seen,
    genes: IntMatrix,
    values: Floats,
    excess: Floats,
    population: int,
    generations: int,
    rng: np.random.Generator,
) -> None:
    """Evaluate generation after generation, from the objectives and constraints of the first one on."""
    objectives = values.shape[1]
    selection = NSGA2() if objectives < 3 else NSGA3(objectives, population)
    for _ in range(generations - 1):
        kept, places = selection.survive(values, excess, population, rng)
        genes, values, excess = genes[kept], values[kept], excess[kept]
        children = _children(space, seen, genes, places, population, rng)
        if not len(children):
            return
        their_values, their_excess = seen.evaluate(children)
        genes = np.concatenate([genes, children])
        values, excess = np.concatenate([values, their_values]), np.concatenate([excess, their_excess])


def _children(
    space: SearchSpace, seen: _Seen, parents: IntMatrix, places: Rows, n: int, rng: np.random.Generator
) -> IntMatrix:
    """Children that were not evaluated before, ``[n, G]``; fewer where some rounds of mating find no more."""
    children: dict[bytes, IntMatrix] = {}
    for _ in range(TRIES):
        missing = n - len(children)
        pairs = _winners(places, 2 * missing, rng).reshape(missing, 2)  # neighbours, so hardly ever one and the same
        mother, father = parents[pairs].swapaxes(0, 1)
        father = np.where(rng.random((missing, 1)) < CROSSOVER, father, mother)
        drawn = space.repair(mutate(space, crossover(space, mother, father, rng), rng))
        children.update((key, row) for key, row in zip(keys(drawn), drawn) if key not in seen.known)
        if len(children) == n:
            break
    return np.array(list(children.values()), dtype=np.int64).reshape(-1, space.num_genes)


def _winners(places: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Winners of ``n`` tournaments of two, in which all members take part equally often; chance decides among equals.

    Args:
        places: Of the members, ``[N]``, smaller is better.
        n: How many.
        rng: Source of chance.

    Returns:
        Numbers of members, ``[n]``.
    """
    rounds = -(-2 * n // len(places))
    entered = np.concatenate([rng.permutation(len(places)) for _ in range(rounds)])[: 2 * n].reshape(n, 2)
    winners: Rows = entered[np.arange(n), places[entered].argmin(1)]
    return winners
