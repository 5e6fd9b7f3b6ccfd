"""Costs that are sums of products of what genes decide: widths, and which blocks there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oneshot.conversion.axes import Extent
from oneshot.cost.model import CostModel, chunks
from oneshot.supernets.base import check_edge_weights
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

Monomial: TypeAlias = tuple[int, ...]  # numbers of variables, sorted; one may come twice
Polynomial: TypeAlias = dict[Monomial, int]

ENTRIES = 2**18  # of products at a time, so that they stay in the cache of a core


@dataclass(frozen=True)
class Variable:
    """A number that one gene decides.

    Args:
        gene: Which one.
        values: Of all its picks, not negative.
    """

    gene: int
    values: tuple[int, ...]


def constant(value: int) -> Polynomial:
    """A number."""
    return {(): value} if value else {}


def variable(number: int) -> Polynomial:
    """A variable by itself."""
    return {(number,): 1}


def plus(*parts: Polynomial) -> Polynomial:
    """Their sum."""
    found: Polynomial = {}
    for part in parts:
        for monomial, factor in part.items():
            found[monomial] = found.get(monomial, 0) + factor
    return {monomial: factor for monomial, factor in found.items() if factor}


def times(*parts: Polynomial) -> Polynomial:
    """Their product."""
    found = constant(1)
    for part in parts:
        terms = [(tuple(sorted(a + b)), x * y) for a, x in found.items() for b, y in part.items()]
        found = plus(*({monomial: factor} for monomial, factor in terms))
    return found


def of_extent(extent: Extent, leaves: Sequence[int]) -> Polynomial:
    """A size.

    Args:
        extent: The size.
        leaves: The variable of every leaf.
    """
    if extent.kind == "fixed":
        return constant(extent.size)
    if extent.kind == "leaf":
        return variable(leaves[extent.index])
    parts = [of_extent(part, leaves) for part in extent.parts]
    return times(*parts) if extent.kind == "product" else plus(*parts)


class PolynomialCost(CostModel):
    r"""The largest of some sums of products, as of memory; of parameters and MACs there is one sum.

    .. math:: c = \max_e \sum_m a_{em} \prod_{v \in m} x_v(g)

    where every variable x is a number that one gene decides: the channels of a group, or 1 where a block is there and 0
    where it is left out. All numbers are whole, and the results exact.

    The expectation is over independent genes: of one sum exact; of a maximum the largest of the sums' expectations, a
    lower bound (Jensen's inequality) that is equal to the cost at certainty.

    Args:
        space: The search space; every choice has one row.
        variables: The variables.
        cases: The sums of every case.
        unit: Unit of the cost.
        by: Genes that decide which case it is, such as the resolution.
        which: The number of the case for all picks of these genes, ``[P_1, ..., P_k]``; not needed if there is one.

    Example:
        >>> from oneshot.supernets import Choice, SubnetConfig
        >>> space = SearchSpace("toy", (Choice("width", (8, 16)), Choice("depth", (1, 2))))
        >>> width, second = Variable(0, (8, 16)), Variable(1, (0, 1))
        >>> squares = [{(0, 0): 1, (0, 0, 1): 1}]  # a square of the width for each of the blocks
        >>> model = PolynomialCost(space, [width, second], [squares], unit="params")
        >>> model.costs(np.array([[0, 0], [1, 1]])).tolist()
        [64.0, 512.0]
    """

    def __init__(
        self,
        space: SearchSpace,
        variables: Sequence[Variable],
        cases: Sequence[Sequence[Polynomial]],
        *,
        unit: str,
        by: Sequence[int] = (),
        which: npt.ArrayLike = 0,
    ) -> None:
        super().__init__()
        self.space, self.unit, self.variables, self.by = space, unit, tuple(variables), tuple(by)
        self.which = np.asarray(which, dtype=np.int64)
        self.cases = tuple(_Sums(_highest(case, self.variables)) for case in cases)

    def costs(self, genes: IntMatrix) -> Floats:
        """Costs of many architectures: ``[N, G] -> [N]``.

        Raises:
            ValueError: If the genes are not those of the space.
        """
        found = np.zeros(len(genes))
        tables = [(v.gene, np.array(v.values, dtype=np.float64)) for v in self.variables]
        for where, columns in chunks(self.space, genes):
            part, case_of = found[where], self.which[tuple(columns[gene] for gene in self.by)]
            for number, case in enumerate(self.cases):
                rows = np.flatnonzero(case_of == number) if self.by else slice(None)
                own = columns[:, rows]
                part[rows] = case.values([(table, own[gene]) for gene, table in tables], own.shape[1])
        return found

    def proven_extremes(self) -> tuple[IntMatrix, IntMatrix] | None:
        """The first and the last picks of all genes, where every sum grows with all of them."""
        if not all(case.grows(self.variables) for case in self.cases):
            return None
        found = []
        for end in (np.zeros(self.space.num_genes, dtype=np.int64), np.array(self.space.gene_sizes) - 1):
            rows = np.repeat(end[None], self.which.size, 0)
            rows[:, list(self.by)] = list(np.ndindex(self.which.shape))
            found.append(self.space.repair(rows))
        least, most = found
        return least[self.costs(least).argmin()], most[self.costs(most).argmax()]

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        check_edge_weights(self.space, weights)
        rows = [weights[choice.name][0] for choice in self.space.choices]
        total = torch.zeros(()).to(rows[0])
        for picks in np.ndindex(self.which.shape):
            own, chance = list(rows), torch.ones(()).to(rows[0])
            for gene, pick in zip(self.by, picks, strict=True):
                own[gene], chance = torch.eye(len(rows[gene])).to(rows[0])[pick], chance * rows[gene][pick]
            total = total + chance * self.cases[self.which[picks]].expected(self.variables, own)
        return total


class _Sums:
    """Sums of products, in the order in which they are computed."""

    def __init__(self, polynomials: Sequence[Polynomial]) -> None:
        needed = {m[:length] for p in polynomials for m in p for length in range(1, len(m) + 1)}
        self.monomials: list[Monomial] = [(), *sorted(needed, key=lambda m: (len(m), m))]
        places = {monomial: place for place, monomial in enumerate(self.monomials)}
        self.products = [(places[m[:-1]], m[-1]) for m in self.monomials[1:]]
        self.factors = np.zeros((len(polynomials), len(self.monomials)))
        for row, polynomial in enumerate(polynomials):
            for monomial, factor in polynomial.items():
                self.factors[row, places[monomial]] = factor

    def grows(self, variables: Sequence[Variable]) -> bool:
        """Whether no sum becomes smaller by a later pick of a gene."""
        used = {number for monomial in self.monomials for number in monomial}
        return bool((self.factors >= 0).all()) and all((np.diff(variables[n].values) >= 0).all() for n in used)

    def values(self, tables: Sequence[tuple[Floats, IntMatrix]], count: int) -> Floats:
        """The largest of the sums, ``[count]``, given the table of every variable and the picks of its gene."""
        found = np.zeros(count)
        step = max(64, ENTRIES // len(self.monomials))
        for start in range(0, count, step):
            where = slice(start, start + step)
            xs = [table.take(picks[where], mode="clip") for table, picks in tables]  # checked already
            products = np.empty((len(self.monomials), len(found[where])))
            products[0] = 1
            for place, (before, last) in enumerate(self.products, 1):
                np.multiply(products[before], xs[last], out=products[place])
            found[where] = (self.factors @ products).max(0)
        return found

    def expected(self, variables: Sequence[Variable], rows: Sequence[Tensor]) -> Tensor:
        """The largest expectation; scalar."""
        numbers: dict[Monomial, int] = {}
        means = [torch.ones(()).to(rows[0])]
        index = []
        for monomial in self.monomials:
            genes: dict[int, list[int]] = {}
            for number in monomial:
                genes.setdefault(variables[number].gene, []).append(number)
            own = []
            for gene, factors in genes.items():  # of one gene, products are not independent
                key = tuple(factors)
                if key not in numbers:
                    numbers[key] = len(means)
                    values = np.prod([variables[number].values for number in key], axis=0, dtype=np.float64)
                    means.append(rows[gene] @ torch.from_numpy(values).to(rows[gene]))
                own.append(numbers[key])
            index.append(own)
        longest = max(map(len, index))
        places = torch.tensor([own + [0] * (longest - len(own)) for own in index], device=rows[0].device)
        products = torch.stack(means)[places].prod(1) if longest else torch.stack(means).expand(len(index))
        return (torch.from_numpy(self.factors).to(products) @ products).max()


def _highest(polynomials: Sequence[Polynomial], variables: Sequence[Variable]) -> list[Polynomial]:
    """Those that can be the largest.

    One goes if another is at least as large whatever the variables are. For that, of every product in their difference
    the least is taken where it is added, and the most where it is subtracted.
    """
    unique = [dict(items) for items in dict.fromkeys(tuple(sorted(p.items())) for p in polynomials)]
    if len(unique) < 2:
        return unique or [{}]
    monomials = sorted({m for p in unique for m in p})
    bounds = [(min(v.values), max(v.values)) for v in variables]
    least, most = (np.array([np.prod([bounds[v][end] for v in m]) for m in monomials]) for end in (0, 1))
    matrix = np.array([[p.get(m, 0) for m in monomials] for p in unique], dtype=np.float64)
    order = np.argsort(-(matrix @ ((least + most) / 2)))
    kept: list[int] = []
    for row in order.tolist():
        difference = matrix[kept] - matrix[row]
        if not ((np.maximum(difference, 0) @ least + np.minimum(difference, 0) @ most) >= 0).any():
            kept.append(row)
    return [unique[row] for row in kept]
