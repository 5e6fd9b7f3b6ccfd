"""Costs that are sums of products: against sums that are written out one by one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from oneshot.conversion.axes import Extent
from oneshot.cost.counting.polynomials import Polynomial, PolynomialCost, Variable, constant, of_extent, plus, times
from oneshot.cost.extremes import extremes
from oneshot.supernets import Choice, SearchSpace

SPACE = SearchSpace(
    "toy",
    (
        Choice("resolution", (16, 32)),
        Choice("width_a", (8, 16, 24)),
        Choice("width_b", (4, 12)),
        Choice("depth", (1, 2, 3)),
    ),
)
GENES = np.array(list(itertools.product(range(2), range(3), range(2), range(3))))
VARIABLES = [Variable(1, (8, 16, 24)), Variable(2, (4, 12)), Variable(3, (0, 1, 1)), Variable(3, (0, 0, 1))]


def value(polynomial: Polynomial, genes: np.ndarray) -> int:
    """One sum, product by product."""
    total = 0
    for monomial, factor in polynomial.items():
        for number in monomial:
            factor *= VARIABLES[number].values[genes[VARIABLES[number].gene]]
        total += factor
    return total


def drawn(seed: int, sums: int, *, negative: bool = False) -> list[Polynomial]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(sums):
        monomials = [tuple(sorted(rng.integers(0, 4, rng.integers(0, 4)).tolist())) for _ in range(5)]
        found.append({m: int(rng.integers(-3 if negative else 0, 9)) for m in monomials})
    return found


@pytest.mark.parametrize("seed", range(8))
def test_the_cost_is_the_largest_sum_of_the_case(seed: int) -> None:
    cases = [drawn(seed, 12, negative=True), drawn(100 + seed, 3, negative=True)]
    model = PolynomialCost(SPACE, VARIABLES, cases, unit="bytes", by=(0,), which=[0, 1])
    assert model.costs(GENES).tolist() == [max(value(p, row) for p in cases[row[0]]) for row in GENES]


def test_sums_that_are_never_the_largest_are_not_computed() -> None:
    small, large, other = {(0,): 3}, {(0,): 3, (0, 2): 1}, {(1, 1): 1}
    model = PolynomialCost(SPACE, VARIABLES, [[small, large, other, {(): 5}]], unit="bytes")
    assert len(model.cases[0].factors) == 2
    assert model.costs(GENES).tolist() == [max(value(large, row), value(other, row)) for row in GENES]


def test_a_sum_that_is_the_largest_only_where_a_block_is_missing_stays() -> None:
    without, within = {(): 100}, {(2,): 150}
    model = PolynomialCost(SPACE, VARIABLES, [[without, within]], unit="bytes")
    assert sorted(set(model.costs(GENES).tolist())) == [100, 150]


@pytest.mark.parametrize(
    ("cases", "by", "which"),
    [
        ([drawn(1, 1)], (), 0),
        ([drawn(2, 1), drawn(3, 1)], (0,), [0, 1]),
        ([drawn(4, 1), drawn(5, 1), drawn(6, 1)], (0, 1), [[0, 1, 0], [2, 1, 2]]),
    ],
)
def test_the_expectation_of_a_sum_is_exact(cases: list[list[Polynomial]], by: tuple[int, ...], which: Any) -> None:
    model = PolynomialCost(SPACE, VARIABLES, cases, unit="MACs", by=by, which=which)
    rng = np.random.default_rng(0)
    weights = {
        c.name: torch.from_numpy(rng.dirichlet(np.ones(len(c.candidates)))[None]).requires_grad_()
        for c in SPACE.choices
    }
    rows = [weights[c.name][0].detach().numpy() for c in SPACE.choices]
    chances = np.array([np.prod([row[pick] for row, pick in zip(rows, genes, strict=True)]) for genes in GENES])
    found = model.expected(weights)
    assert float(found.detach()) == pytest.approx(float(chances @ model.costs(GENES)), rel=1e-12)
    found.backward()
    assert float(weights["depth"].grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_the_expectation_of_a_maximum_is_a_lower_bound_and_exact_at_certainty() -> None:
    model = PolynomialCost(SPACE, VARIABLES, [drawn(4, 6)], unit="bytes")
    for genes in GENES[::5]:
        weights = {
            c.name: torch.eye(len(c.candidates), dtype=torch.float64)[[pick]]
            for c, pick in zip(SPACE.choices, genes, strict=True)
        }
        assert float(model.expected(weights)) == model.costs(genes[None])[0]
    even = {
        c.name: torch.full((1, len(c.candidates)), 1 / len(c.candidates), dtype=torch.float64) for c in SPACE.choices
    }
    assert float(model.expected(even)) <= model.costs(GENES).mean()


def test_the_cheapest_and_the_dearest_are_proven_where_everything_grows() -> None:
    growing = PolynomialCost(SPACE, VARIABLES, [drawn(5, 4), drawn(6, 4)], unit="bytes", by=(1,), which=[0, 1, 0])
    proven = growing.proven_extremes()
    assert proven is not None
    costs = growing.costs(GENES)
    assert [growing.costs(genes[None])[0] for genes in proven] == [costs.min(), costs.max()]
    falling = PolynomialCost(SPACE, [*VARIABLES, Variable(3, (1, 0, 0))], [[{(4,): 7, (0,): 1}]], unit="bytes")
    assert falling.proven_extremes() is None
    found = [float(falling.costs(genes[None])[0]) for genes in extremes(falling)]
    assert found == [falling.costs(GENES).min(), falling.costs(GENES).max()]


def test_sizes_are_sums_and_products() -> None:
    leaf = Extent("leaf", 24, 0)
    parts = (Extent("sum", 30, parts=(leaf, Extent("fixed", 6))), Extent("leaf", 12, 1), Extent("fixed", 2))
    size = Extent("product", 720, parts=parts)
    found = of_extent(size, [0, 1])
    assert found == {(0, 1): 2, (1,): 12}
    assert [value(found, row) for row in GENES] == [
        size.at([VARIABLES[0].values[row[1]], VARIABLES[1].values[row[2]]]) for row in GENES
    ]


def test_sums_and_products_of_formulas() -> None:
    one, other = {(0,): 2, (): 3}, {(0,): -2, (1,): 1}
    assert plus(one, other) == {(): 3, (1,): 1}
    assert times(one, other) == {(0, 0): -4, (0, 1): 2, (0,): -6, (1,): 3}
    assert plus() == constant(0) == {} and times() == {(): 1}
