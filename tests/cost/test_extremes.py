"""The cheapest and the dearest architecture that a cost model proves are those of the whole space."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from oneshot.cost import AdditiveCost, ConditionalCost, TracedCost
from oneshot.cost.model import CostModel, extremes_of_groups
from oneshot.supernets import Choice, FBNetSpace, NASBench201Space, SearchSpace, darts_space
from oneshot.supernets.elastic import ElasticSpace, elastic_choices


def additive(space: SearchSpace, seed: int) -> AdditiveCost:
    rng = np.random.default_rng(seed)
    table = {c.name: torch.from_numpy(rng.random((c.rows, len(c.candidates)))) for c in space.choices}
    return AdditiveCost(space, table, unit="ms", fixed=1.0)


def elastic(reduce: str, seed: int) -> ConditionalCost:
    rng = np.random.default_rng(seed)
    space = ElasticSpace("toy", elastic_choices((8, 16, 32), (0.5, 1.0), ("a", "b", "c"), (3, 2)), (1, 2))
    table = rng.random((3, 2, space.num_genes - 2, 4))
    table[..., -1] = 0  # what is left out
    return ConditionalCost(space, table, rng.random((3, 2)) / 3, unit="ms", reduce=reduce)  # type: ignore[arg-type]


def architectures(space: SearchSpace) -> np.ndarray:
    """All canonical genes: every combination that is its own canonical form."""
    genes = np.array([*itertools.product(*map(range, space.gene_sizes))])
    return genes[(space.repair(genes) == genes).all(1)]


SMALL_DARTS = darts_space(candidates=("none", "skip_connect", "max_pool_3x3"), steps=2)
MODELS = {
    "chain": lambda seed: additive(SearchSpace("chain", (Choice("x", "abc", 4), Choice("y", "ab", 2))), seed),
    "left out": lambda seed: additive(SearchSpace("drop", (Choice("x", "abc", 4, droppable=True),)), seed),
    "darts": lambda seed: additive(SMALL_DARTS, seed),
    "elastic sum": lambda seed: elastic("sum", seed),
    "elastic max": lambda seed: elastic("max", seed),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("seed", range(3))
def test_what_is_proven_is_what_trying_all_architectures_finds(make: object, seed: int) -> None:
    model: CostModel = make(seed)  # type: ignore[operator]
    every = architectures(model.space)
    costs = model.costs(every)
    found = model.proven_extremes()
    assert found is not None
    assert model.costs(np.stack(found)).tolist() == pytest.approx([costs.min(), costs.max()], rel=1e-12)
    assert (model.space.repair(np.stack(found)) == np.stack(found)).all()


def test_the_sum_of_the_least_of_every_row_is_no_architecture_of_darts() -> None:
    model = additive(SMALL_DARTS, 0)
    relaxed = model.fixed + sum(float(table.min(1).values.sum()) for table in model.table.values())
    found = model.proven_extremes()
    assert found is not None and abs(float(model.costs(found[0][None])[0]) - relaxed) > 0.1


def test_large_spaces_are_not_listed() -> None:
    model = additive(FBNetSpace(), 0)
    found = model.proven_extremes()
    assert found is not None and model.space.size > 10**20
    least = model.fixed + sum(float(table.min(1).values.sum()) for table in model.table.values())
    assert float(model.costs(found[0][None])[0]) == pytest.approx(least)


def test_models_that_cannot_prove_say_so() -> None:
    space = SearchSpace("toy", (Choice("width", (8, 16), rows=2),))
    assert TracedCost(space, lambda config: config["width"][0], unit="params").proven_extremes() is None
    # An operation without effect is none in the canonical form, whatever its group: the groups are not independent.
    cells = additive(NASBench201Space(), 0)
    assert extremes_of_groups(cells.space, cells.costs) is None


def test_plateaus_that_stop_a_descent_do_not_stop_a_proof() -> None:
    space = ElasticSpace("toy", elastic_choices((8,), (1.0,), ("small", "large"), (2, 2)), (2, 2))
    table = np.zeros((1, 1, 4, 3))
    table[..., 0], table[..., 1] = 1.0, 3.0
    table[0, 0, :, 0] = [1.0, 1.0, 1.0, 2.0]
    model = ConditionalCost(space, table, np.zeros((1, 1)), unit="bytes", reduce="max")
    assert model.costs(np.stack(model.proven_extremes())).tolist() == [2.0, 3.0]
    everywhere = np.array([[0, 0, 1, 1, 1, 1]])  # no single change lowers the maximum of four equal layers
    changed = model.space.neighbours(everywhere[0])
    assert model.costs(changed).min() == model.costs(everywhere)[0] == 3.0
