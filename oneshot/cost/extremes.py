"""The cheapest and the dearest architecture of a space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import NONE, IntMatrix, SearchSpace

from .model import CostModel


def extremes(
    model: CostModel, allowed: Sequence[npt.NDArray[np.bool_]] | None = None, *, starts: int = 8
) -> tuple[IntMatrix, IntMatrix]:
    """Genes ``[G]`` of the cheapest and of the dearest architecture.

    Every gene in turn takes its best pick until none changes anything, from several beginnings. Where the cost of a
    pick does not change its rank with other genes, as of parameters and MACs, that is the optimum. Where a cost is
    slow, the beginnings are two: the first pick of every gene, and the last.

    Args:
        model: What an architecture costs.
        allowed: Picks of every gene, G of ``[P]``; all by default.
        starts: Architectures to begin with, drawn by a fixed seed.

    Raises:
        ValueError: If no pick of a gene is allowed.
    """
    space = model.space
    picks = [np.arange(size) for size in space.gene_sizes]
    if allowed is not None:
        picks = [row[mask] for row, mask in zip(picks, allowed, strict=True)]
    if not all(len(row) for row in picks):
        gene = next(gene for gene, row in enumerate(picks) if not len(row))
        raise ValueError(
            f"Every gene must have a pick that is allowed; gene {gene} of space {space.name!r} has none. Allow one."
        )
    found = []
    first = space.sample_matrix(starts, 0)
    if model.slow:
        first = np.array([[row[0] for row in picks], [row[-1] for row in picks]])
    for sign in (1, -1):
        best: tuple[float, IntMatrix] | None = None
        for genes in space.repair(restrict(space, first, picks, np.random.default_rng(0))):
            genes, cost = _descend(model, genes, picks, sign)
            if best is None or cost < best[0]:
                best = cost, genes
        assert best is not None
        model.exact_costs(best[1][None])  # checks tables, if it has some that may be wrong
        found.append(best[1])
    return found[0], found[1]


def restrict(space: SearchSpace, genes: IntMatrix, picks: Sequence[IntMatrix], rng: np.random.Generator) -> IntMatrix:
    """Genes ``[N, G]`` with every pick that is not allowed drawn anew among those that are."""
    genes, column = genes.copy(), 0
    for choice in space.choices:
        none = choice.picks.index(NONE) if NONE in choice.picks else -1
        for _ in range(choice.rows):
            wrong = ~np.isin(genes[:, column], picks[column])
            others = picks[column][picks[column] != none]
            genes[wrong, column] = rng.choice(others if len(others) else picks[column], size=int(wrong.sum()))
            column += 1
    return genes


def _descend(model: CostModel, genes: IntMatrix, picks: Sequence[IntMatrix], sign: int) -> tuple[IntMatrix, float]:
    best = sign * float(model.costs(genes[None])[0])
    changed = True
    while changed:
        changed = False
        for gene, row in enumerate(picks):
            others = np.repeat(genes[None], len(row), 0)
            others[:, gene] = row
            others = model.space.repair(others)
            kept = [np.isin(column, allowed) for column, allowed in zip(others.T, picks, strict=True)]
            others = others[np.all(kept, axis=0)]  # what the repair has put in may not be allowed
            if not len(others):
                continue
            costs = sign * model.costs(others)
            if costs.min() < best:
                genes, best, changed = others[int(costs.argmin())], float(costs.min()), True
    return genes, best
