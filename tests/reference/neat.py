"""NEAT and CoDeepNEAT written down a second time, in plain Python, from the equations; genes are dictionaries.

A genome is ``{marking: None | (numbers between 0 and 1 or categories)}``: connections have None, nodes their traits.
Arguments with a default change one thing each, so that tests can show that they would notice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

Gene = Mapping[int, Any]


def gap(first: object, second: object) -> float:
    """Difference of a trait: of numbers, their distance; of words, 0 or 1."""
    if isinstance(first, str) or isinstance(second, str):
        return 0.0 if first == second else 1.0
    return abs(float(first) - float(second))  # type: ignore[arg-type]


def delta(
    one: Gene,
    two: Gene,
    c1: float,
    c2: float,
    c3: float,
    *,
    smaller: bool = False,
    no_excess: bool = False,
    summed: bool = False,
) -> float:
    """Stanley and Miikkulainen (2002), equation 1: a walk along both lists of genes, lined up by their markings."""
    left, right = sorted(one), sorted(two)
    excess = disjoint = matching = 0
    total = 0.0
    i = j = 0
    while i < len(left) or j < len(right):
        if i == len(left) or j == len(right):
            if no_excess:
                disjoint += 1
            else:
                excess += 1
            i, j = i + (i < len(left)), j + (j < len(right))
        elif left[i] < right[j]:
            disjoint, i = disjoint + 1, i + 1
        elif left[i] > right[j]:
            disjoint, j = disjoint + 1, j + 1
        else:
            mine, yours = one[left[i]], two[right[j]]
            if mine is not None:
                gaps = [gap(a, b) for a, b in zip(mine, yours)]
                total += sum(gaps) / len(gaps)
                matching += 1
            i, j = i + 1, j + 1
    genes = min(len(left), len(right)) if smaller else max(len(left), len(right))
    mean = 0.0 if not matching else total if summed else total / matching
    return c1 * excess / genes + c2 * disjoint / genes + c3 * mean


def sort_into_species(
    genomes: Sequence[Any],
    old: Sequence[tuple[int, Any]],
    threshold: float,
    measure: Callable[[Any, Any], float],
    *,
    nearest: bool = False,
) -> list[int]:
    """Section 3.3: the species of every genome, the first that is compatible with its representative."""
    table, found = list(old), []
    new = max((name for name, _ in old), default=-1) + 1
    for genome in genomes:
        fits = [(measure(genome, other), name) for name, other in table if measure(genome, other) < threshold]
        if fits:
            found.append(min(fits)[1] if nearest else fits[0][1])
        else:
            table.append((new, genome))
            found.append(new)
            new += 1
    return found


def adjusted(fitness: Sequence[float], species_of: Sequence[int], *, ranked: bool = False) -> list[float]:
    """Equation 2: ``f_i / sum_j sh(d(i, j))``, where sh is 1 for individuals of one species, else 0."""
    if ranked:
        return list(fitness)
    return [f / sum(1 for other in species_of if other == mine) for f, mine in zip(fitness, species_of)]


def places(adjusted_fitness: Sequence[float], species_of: Sequence[int], total: int) -> dict[int, int]:
    """One place for every species; the others in proportion to sums, with exact fractions and largest remainders."""
    names = sorted(set(species_of))
    sums = {n: sum((Fraction(f) for f, s in zip(adjusted_fitness, species_of) if s == n), Fraction(0)) for n in names}
    whole = sum(sums.values())
    share = {n: (total - len(names)) * (sums[n] / whole if whole else Fraction(1, len(names))) for n in names}
    given = {n: 1 + share[n].numerator // share[n].denominator for n in names}
    while sum(given.values()) < total:
        neediest = min(names, key=lambda n: (given[n] - 1 - share[n], n))
        given[neediest] += 1
    return given


def attributed(
    networks: Sequence[tuple[float, Sequence[str]]], *, summed: bool = False, every_use: bool = False
) -> dict[str, float]:
    """Miikkulainen et al. (2017), section 3.2: the average fitness of the networks that a part is in."""
    sums: dict[str, list[float]] = {}
    for fitness, parts in networks:
        for part in parts if every_use else set(parts):
            sums.setdefault(part, []).append(fitness)
    return {part: sum(found) if summed else sum(found) / len(found) for part, found in sums.items()}
