"""Costs of spaces that nothing is known of: exact, each network counted once, and tables only where they are exact."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oneshot
from oneshot.cost import AdditiveCost, TracedCost, count, count_candidates
from oneshot.cost.counting.interactions import find_interactions, maximal_cliques
from oneshot.cost.extremes import extremes
from oneshot.cost.resolve import own_costs
from oneshot.supernets import ArchGraph, Choice, IntMatrix, SearchSpace, Subnet, SubnetConfig, Supernet

WIDTHS, KERNELS, DEPTHS = (2, 3, 4), (1, 3), (1, 2, 3)


@dataclass(frozen=True)
class DeepSpace(SearchSpace):
    """Layers beyond the depth are not there, and have the first pick."""

    name: str = "deep"
    choices: tuple[Choice, ...] = (
        Choice("width", WIDTHS, rows=3),
        Choice("kernel", KERNELS, rows=3),
        Choice("depth", DEPTHS),
    )

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        for row in range(3):
            genes[np.ix_(genes[:, -1] < row, [row, 3 + row])] = 0
        return genes


class DeepNetwork(Subnet):
    def __init__(self, width: Any, kernel: Any, depth: int) -> None:
        super().__init__()
        self.init_args = {"width": list(width), "kernel": list(kernel), "depth": depth}
        self.num_classes, self.input_shape = 2, (2, 5)
        sizes = [2, *width[:depth]]
        self.layers = nn.Sequential(
            *(nn.Conv1d(a, b, k, padding=k // 2) for a, b, k in zip(sizes, sizes[1:], kernel, strict=False))
        )
        self.head = nn.Linear(sizes[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layers(x).mean(2))
        return out

    def graphs(self) -> list[ArchGraph]:
        return []


class DeepSupernet(Supernet):
    """Neither of operation choices nor elastic; its networks share nothing but a number."""

    def __init__(self) -> None:
        super().__init__()
        self.space, self.num_classes, self.input_shape = DeepSpace(), 2, (2, 5)
        self.scale = nn.Parameter(torch.ones(()))
        self.extracted = 0

    def forward(self, x: Tensor, arch: SubnetConfig) -> Tensor:
        torch.manual_seed(0)
        return self.scale * self.extract(arch)(x)

    def run_config(self, x: Tensor, config: SubnetConfig) -> Tensor:
        out: Tensor = self(x, config)
        return out

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> DeepNetwork:
        self.extracted += 1
        network = DeepNetwork(config["width"], config["kernel"], int(config["depth"][0]))
        return self.prepare(network, config)


def macs_of(width: Any, kernel: Any, depth: int) -> int:
    """By hand: 5 positions, and two classes."""
    sizes = [2, *width[:depth]]
    return sum(5 * a * b * k for a, b, k in zip(sizes, sizes[1:], kernel, strict=False)) + 2 * sizes[-1]


def every(space: SearchSpace) -> IntMatrix:
    spellings = np.array(list(itertools.product(*map(range, space.gene_sizes))))
    return np.unique(space.repair(spellings), axis=0)


def test_every_architecture_of_a_plain_space_costs_what_its_network_does() -> None:
    supernet = DeepSupernet()
    model, genes = count_candidates(supernet, "macs"), every(DeepSpace())

    wanted = [macs_of(c["width"], c["kernel"], c["depth"][0]) for c in supernet.space.decode(genes)]
    assert isinstance(model, TracedCost) and not model.slow
    assert model.costs(genes).tolist() == wanted == model.exact_costs(genes).tolist()
    network = supernet.extract(supernet.space.decode(genes)[-1])
    assert wanted[-1] == count(network, (2, 5)).macs


@pytest.mark.parametrize("what", ["params", "macs", "memory"])
def test_each_network_is_counted_once_and_the_callers_random_numbers_stay(what: Any) -> None:
    supernet = DeepSupernet()
    model = TracedCost(supernet.space, count_candidates(supernet, what)._function, unit="")  # type: ignore[attr-defined]
    genes = supernet.space.sample_matrix(200, 0)
    before, state = supernet.extracted, torch.get_rng_state()

    model.costs(genes)
    model.costs(genes[::-1])

    assert supernet.extracted - before == model.traced == len(np.unique(genes, axis=0))
    assert torch.equal(state, torch.get_rng_state())


def test_tables_of_a_large_space_are_exact_and_take_few_values() -> None:
    space = SearchSpace("wide", (Choice("width", (8, 16, 24), rows=12), Choice("size", (1, 2))))
    calls = 0

    def values(genes: IntMatrix) -> np.ndarray:
        nonlocal calls
        calls += len(genes)
        w = np.array([8, 16, 24])[genes[:, :-1]]
        return (w[:, :-1] * w[:, 1:]).sum(1) * (1 + genes[:, -1]) + 7.0

    found = find_interactions(space, values)

    assert found is not None and calls < 2000
    assert max(map(len, found.genes)) == 3  # neighbours, and the size
    genes = space.sample_matrix(3000, 1)
    assert np.array_equal(found.values(genes), values(genes))
    wrong = AdditiveCost(space, {"width": torch.rand(12, 3), "size": torch.rand(1, 2)}, unit="")
    assert not np.allclose(wrong.costs(genes), values(genes))


def test_the_expectation_of_tables_is_the_mean_over_independent_rows() -> None:
    space = SearchSpace("toy", (Choice("a", ("x", "y", "z"), rows=2), Choice("b", ("p", "q"), droppable=True)))
    table = np.random.default_rng(0).random(space.gene_sizes)
    model = TracedCost(space, lambda config: float(table[tuple(space.genes_of(config))]), unit="")
    torch.manual_seed(0)
    weights = {"a": torch.rand(2, 3).softmax(-1).double(), "b": torch.tensor([[0.2, 0.3]], dtype=torch.float64)}
    weights["b"].requires_grad_()

    got = model.expected(weights)

    rows = [*weights["a"].tolist(), [0.2, 0.3, 0.5]]
    mean = sum(table[i, j, k] * rows[0][i] * rows[1][j] * rows[2][k] for i, j, k in np.ndindex(3, 3, 3))
    assert got.item() == pytest.approx(mean, rel=1e-12)
    (gradient,) = torch.autograd.grad(got, weights["b"])
    slope = sum(rows[0][i] * rows[1][j] * (table[i, j, 0] - table[i, j, 2]) for i, j in np.ndindex(3, 3))
    assert gradient[0, 0].item() == pytest.approx(slope, rel=1e-12)


def test_a_cost_in_which_all_genes_act_together_has_no_table_and_says_what_it_takes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    space = SearchSpace("peak", (Choice("layer", tuple(range(9)), rows=6),))
    model = TracedCost(space, lambda config: max(config["layer"]), unit="bytes", what="memory")
    with caplog.at_level("INFO"):
        assert not model.tabulate()
    assert "No tables of at most 2,048 entries give the memory of space 'peak'" in caplog.text
    low, high = extremes(model)
    assert model.slow and model.exact_costs(np.stack([low, high])).tolist() == [0, 8]
    with pytest.raises(ValueError, match="memory of space 'peak' have no tables, and so no gradients"):
        model.expected({"layer": torch.full((6, 9), 1 / 9)})


def test_a_table_that_turns_out_to_be_wrong_is_given_up_and_no_reported_cost_is_from_it() -> None:
    space = SearchSpace("rare", (Choice("layer", ("a", "b", "c", "d"), rows=9),))

    def cost(config: SubnetConfig) -> float:
        picks = "".join(map(str, config["layer"]))
        return picks.count("b") + 100.0 * (picks == "abcdabcda")

    model, rare = TracedCost(space, cost, unit=""), np.array([[0, 1, 2, 3, 0, 1, 2, 3, 0]])
    assert model.tabulate() and model.costs(rare)[0] == 2.0
    with pytest.warns(UserWarning, match="tables of cost of space 'rare' were wrong for an architecture"):
        assert model.exact_costs(rare)[0] == 102.0
    assert model.slow and model.costs(rare)[0] == 102.0


def test_maximal_cliques_are_those_of_a_search_through_all_sets() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        pairs = {(a, b) for a, b in itertools.combinations(range(7), 2) if rng.random() < 0.5}
        sets = [s for k in range(1, 8) for s in itertools.combinations(range(7), k)]
        cliques = [s for s in sets if all(pair in pairs for pair in itertools.combinations(s, 2))]
        largest = [s for s in cliques if not any(set(s) < set(other) for other in cliques)]
        assert maximal_cliques(7, pairs) == sorted(largest)


# In searches.


def test_the_sandwich_of_a_plain_supernet_holds_the_cheapest_and_the_dearest() -> None:
    search = oneshot.BigNAS(DeepSupernet())
    space = search.supernet.space
    found = [
        macs_of(c["width"], c["kernel"], c["depth"][0]) for c in space.decode(np.stack(search.smallest_and_largest[-1]))
    ]
    wanted = [macs_of(c["width"], c["kernel"], c["depth"][0]) for c in space.decode(every(space))]
    assert found == [min(wanted), max(wanted)]


def test_costs_of_ones_own_say_what_is_large_and_are_objectives_and_bounds() -> None:
    def energy(config: SubnetConfig) -> float:
        return 10.0 - int(config["depth"][0])

    supernet = DeepSupernet()
    reversed_ = oneshot.BigNAS(supernet, costs=energy)
    smallest = supernet.space.decode(reversed_.smallest_and_largest[-1][0][None])[0]
    assert smallest["depth"][0] == 3 and supernet.extracted == 0  # nothing was counted

    costs = {"energy": energy, "macs": lambda config: math.prod(config["width"])}
    nat = oneshot.NAT(supernet, objectives=("energy", "macs"), constraints={"energy": 8.0}, costs=costs)
    assert [o.name for o in nat.pareto.objectives] == ["energy", "macs"]
    assert nat.pareto.constraints[0].objective.values(supernet.space.sample_matrix(5, 0)).max() <= 9


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ({"energy": 3}, "must be a CostModel, its name or file, or a function of a SubnetConfig; got 3 for 'energy'"),
        ({"energy": "flops"}, "A cost must be a CostModel, 'params'.*got 'flops'"),
        ({"macs": lambda config: math.nan}, "macs of an architecture must be a finite number; got nan"),
    ],
    ids=["a number", "no name", "not finite"],
)
def test_what_is_no_cost_is_refused(costs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oneshot.BigNAS(DeepSupernet(), costs=costs)


def test_a_cost_model_of_another_space_is_refused() -> None:
    with pytest.raises(ValueError, match="must be of space 'deep'; it is of 'other'"):
        other = SearchSpace("other", (Choice("a", (1, 2)),))
        own_costs({"macs": TracedCost(other, lambda config: 1.0, unit="")}, DeepSupernet())
