r"""Exact tables of a function of genes that is known only by its values: which genes act together, and what they give.

A function of genes is a sum over the sets of genes that act together. Its anchored decomposition (Sobol', 2003,
doi:10.1016/S0378-4754(02)00271-1; Kuo et al., 2010, doi:10.1090/S0025-5718-09-02319-9, equation 2.4) has one term for
every set of genes,

.. math:: f(x) = \sum_T f_T(x_T), \qquad f_T(x_T) = \sum_{U \subseteq T} (-1)^{|T| - |U|} f(b \leftarrow x_U),

with b an architecture and x_U the genes of U. A term is zero where two genes of its set never act together, which is
where all their mixed differences are zero. So the terms of sets in which all genes act together are enough.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

Values = Callable[[IntMatrix], Floats]

QUIET_ROUNDS = 4  # that find no new pair of genes before it is believed that there is none
CHECKED = 64  # random architectures that a table must give exactly
MOST_ENTRIES = 2048  # of all tables together
TOLERANCE = 1e-9  # relative; counts are integers, and exact


@dataclass(frozen=True)
class Interactions:
    """A function of genes as a sum of tables.

    Args:
        space: The space.
        genes: Those of every table.
        tables: Values for all picks of these genes, ``[P_1, ..., P_k]``.
        signs: The factor of every table, a whole number.
    """

    space: SearchSpace
    genes: tuple[tuple[int, ...], ...]
    tables: tuple[Floats, ...]
    signs: tuple[int, ...]

    def values(self, genes: IntMatrix) -> Floats:
        """``[N, G] -> [N]``."""
        total = np.zeros(len(genes))
        for own, table, sign in zip(self.genes, self.tables, self.signs, strict=True):
            total += sign * table[tuple(genes[:, gene] for gene in own)]
        return total

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The mean under independent rows ``{choice: [R, O]}``, scalar; what a row leaves out is its ``none``."""
        rows = [row for choice in self.space.choices for row in weights[choice.name].unbind()]
        full = [
            row if len(row) == size else torch.cat([row, (1 - row.sum())[None]])
            for row, size in zip(rows, self.space.gene_sizes, strict=True)
        ]
        total = full[0].new_zeros((), dtype=torch.float64)
        for own, table, sign in zip(self.genes, self.tables, self.signs, strict=True):
            mean = torch.from_numpy(table).to(full[0].device)
            for gene in own:
                mean = torch.tensordot(full[gene].double(), mean, dims=1)
            total = total + sign * mean
        return total.to(full[0])


def find_interactions(space: SearchSpace, values: Values, *, seed: int = 0) -> Interactions | None:
    """Tables that give a function exactly, as far as :data:`CHECKED` random architectures can tell.

    Args:
        space: The space.
        values: The function, ``[N, G] -> [N]``, of any genes: those that break rules cost what their repair costs.
        seed: Of the architectures that are looked at.

    Returns:
        None if the tables would have more than :data:`MOST_ENTRIES` entries, or the function is not their sum.
    """
    rng, sizes = np.random.default_rng(seed), np.array(space.gene_sizes)
    base = space.sample_matrix(1, rng)[0]
    scale = float(np.abs(values(base[None]))[0])
    pairs = set[tuple[int, int]]()
    for attempt in range(2):
        if not _add_pairs(space, values, pairs, scale, rng, QUIET_ROUNDS * (attempt + 1)):
            return None
        cliques = maximal_cliques(space.num_genes, pairs)
        if sum(math.prod(sizes[list(clique)]) for clique in cliques) > MOST_ENTRIES:
            return None
        found = _tables(space, values, base, cliques)
        others = np.concatenate([rng.integers(0, sizes, (CHECKED // 2, len(sizes))), space.sample_matrix(CHECKED, rng)])
        if np.allclose(found.values(others), values(others), rtol=TOLERANCE, atol=TOLERANCE * scale):
            return found
    return None


def _add_pairs(
    space: SearchSpace,
    values: Values,
    pairs: set[tuple[int, int]],
    scale: float,
    rng: np.random.Generator,
    quiet: int,
) -> bool:
    """Find genes that act together, until some rounds have found no more; False where the tables become too large."""
    sizes, rounds = np.array(space.gene_sizes), 0
    while rounds < quiet:
        before, rounds = len(pairs), rounds + 1
        start, other = rng.integers(0, sizes, (2, len(sizes)))
        for gene in range(len(sizes)):
            rest = [g for g in range(len(sizes)) if g != gene and (min(g, gene), max(g, gene)) not in pairs]
            for found in _acting_with(gene, rest, start, other, values, scale):
                pairs.add((min(found, gene), max(found, gene)))
        if len(pairs) > before:
            rounds = 0
            cliques = maximal_cliques(len(sizes), pairs)
            if max(math.prod(sizes[list(clique)].tolist()) for clique in cliques) > MOST_ENTRIES:
                return False
    return True


def _acting_with(
    gene: int, rest: Sequence[int], start: IntMatrix, other: IntMatrix, values: Values, scale: float
) -> list[int]:
    """Genes of ``rest`` that change what ``gene`` does, where one after the other goes from ``start`` to ``other``."""
    moved = [g for g in rest if start[g] != other[g]]
    if not moved or start[gene] == other[gene]:
        return []
    both = start.copy()
    both[moved] = other[moved]
    corners = np.stack([start, start, both, both])
    corners[[1, 3], gene] = other[gene]
    a, b, c, d = values(corners).tolist()
    if abs(a - b - c + d) <= TOLERANCE * max(abs(a), abs(b), abs(c), abs(d), scale):
        return []
    if len(moved) == 1:
        return moved
    half = len(moved) // 2
    between = start.copy()
    between[moved[:half]] = other[moved[:half]]
    first = _acting_with(gene, moved[:half], start, other, values, scale)
    return first + _acting_with(gene, moved[half:], between, other, values, scale)


def _tables(space: SearchSpace, values: Values, base: IntMatrix, cliques: Sequence[tuple[int, ...]]) -> Interactions:
    """The sum of all terms, with those of one table put together."""
    factors: dict[tuple[int, ...], int] = {}
    for clique in {part for whole in cliques for part in _parts(whole)}:
        for part in _parts(clique):
            factors[part] = factors.get(part, 0) + (-1) ** (len(clique) - len(part))
    kept = {part: factor for part, factor in sorted(factors.items()) if factor}
    tables = []
    for part in kept:
        shape = tuple(space.gene_sizes[gene] for gene in part)
        rows = np.repeat(base[None], math.prod(shape), 0)
        rows[:, list(part)] = np.indices(shape).reshape(len(part), math.prod(shape)).T
        tables.append(values(rows).reshape(shape))
    return Interactions(space, tuple(kept), tuple(tables), tuple(kept.values()))


def _parts(genes: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [part for size in range(len(genes) + 1) for part in itertools.combinations(genes, size)]


def maximal_cliques(genes: int, pairs: set[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Largest sets of genes in which all pairs act together (Bron and Kerbosch, 1973, algorithm 457, with pivots)."""
    near: list[set[int]] = [set() for _ in range(genes)]
    for a, b in pairs:
        near[a].add(b)
        near[b].add(a)
    found = list[tuple[int, ...]]()

    def extend(clique: set[int], wanted: set[int], seen: set[int]) -> None:
        if not wanted and not seen:
            found.append(tuple(sorted(clique)))
            return
        pivot = max(wanted | seen, key=lambda gene: len(near[gene] & wanted))
        for gene in sorted(wanted - near[pivot]):
            extend(clique | {gene}, wanted & near[gene], seen & near[gene])
            wanted, seen = wanted - {gene}, seen | {gene}

    extend(set(), set(range(genes)), set())
    return sorted(found)
