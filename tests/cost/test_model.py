"""Cost tables give what a traced network costs, and their expectation is the cost at the corners."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from oneshot.cost import AdditiveCost, count, count_candidates
from oneshot.supernets import Choice, DARTSSupernet, NASBench201Supernet, SearchSpace
from oneshot.supernets.base import OperationSupernet

SUPERNETS = {
    "nasbench201": lambda: NASBench201Supernet(channels=4, cells_per_stage=1, image_size=9),
    "darts": lambda: DARTSSupernet(channels=4, cells=4, image_size=9),
}
SPACE = SearchSpace("toy", (Choice("layer", ("conv", "skip"), rows=2), Choice("edge", ("a", "b"), droppable=True)))
TABLE = {"layer": torch.tensor([[3.0, 1.0], [5.0, 0.5]]), "edge": torch.tensor([[0.25, 2.0]])}


@pytest.fixture(params=SUPERNETS)
def supernet(request: pytest.FixtureRequest) -> OperationSupernet:
    return SUPERNETS[request.param]()


def test_macs_by_table_are_those_of_the_extracted_network(supernet: OperationSupernet) -> None:
    model = count_candidates(supernet, "macs")
    for config in supernet.space.decode(supernet.space.sample_matrix(10, 0)):
        assert model.cost(config) == count(supernet.extract(config), supernet.input_shape).macs


def test_parameters_by_table_are_those_of_the_extracted_network_without_what_only_it_has(
    supernet: OperationSupernet,
) -> None:
    model = count_candidates(supernet, "params")
    for config in supernet.space.decode(supernet.space.sample_matrix(5, 0)):
        shared = {name for name, _ in supernet.extract(config).named_parameters()}
        network = supernet.extract(config)
        scales = {  # of batch normalisation, which the supernet has in its stem, reductions and head only
            f"{name}.{part}"
            for name, module in network.named_modules()
            if isinstance(module, torch.nn.BatchNorm2d) and (".ops." in name or "preprocess" in name)
            for part in ("weight", "bias")
        }
        kept = sum(p.numel() for name, p in network.named_parameters() if name in shared - scales)
        assert model.cost(config) == kept


def test_the_expectation_at_a_corner_is_the_cost(supernet: OperationSupernet) -> None:
    model = count_candidates(supernet, "macs")
    for seed in range(3):
        config = supernet.space.sample(seed)
        assert model.expected(supernet.one_hot(config)).item() == pytest.approx(model.cost(config), rel=1e-6)


def test_counting_leaves_the_supernet_as_it_was(supernet: OperationSupernet) -> None:
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    count_candidates(supernet, "macs")
    assert supernet.training and all(torch.equal(before[n], v) for n, v in supernet.state_dict().items())


def test_many_architectures_at_once() -> None:
    model = AdditiveCost(SPACE, TABLE, unit="ms", fixed=2.0)
    genes = SPACE.sample_matrix(50, 0)
    assert np.array_equal(model.costs(genes), [model.cost(config) for config in SPACE.decode(genes)])
    dropped = SPACE.encode([SPACE.decode(np.array([[1, 1, 2]]))[0]])
    assert model.costs(dropped)[0] == 2.0 + 1.0 + 0.5  # the edge that is left out costs nothing


@pytest.mark.parametrize(
    ("table", "message"),
    [
        pytest.param({"layer": TABLE["layer"]}, "has the shapes .*'edge'", id="missing"),
        pytest.param({**TABLE, "edge": torch.ones(1, 3)}, r"got .*\(1, 3\)", id="shape"),
        pytest.param({**TABLE, "edge": -TABLE["edge"]}, "not negative; those of 'edge' in ms", id="negative"),
        pytest.param({**TABLE, "edge": torch.full((1, 2), torch.nan)}, "finite", id="nan"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdditiveCost(SPACE, table, unit="ms")
