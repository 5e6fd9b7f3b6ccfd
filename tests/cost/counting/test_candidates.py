"""Cost tables give what a traced network costs, and their expectation is the cost at the corners."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
import torch

from oneshot.cost import AdditiveCost, CostModel, Counted, PeakCost, Segment, TracedCost, count, count_candidates
from oneshot.cost.counting.peak import always
from oneshot.supernets import (
    Choice,
    DARTSSupernet,
    FBNetSupernet,
    NASBench1Shot1Supernet,
    NASBench201Supernet,
    NASBenchMacroSupernet,
    OperationSupernet,
    ProxylessSupernet,
    RecurrentSupernet,
    SearchSpace,
    SegmentationSupernet,
    SubnetConfig,
    darts_space,
    reduced_space,
)
from oneshot.supernets.darts import DARTSSpace
from oneshot.supernets.execution import ChainPlan, EqualPlan
from oneshot.testing import PlantedSupernet

COUNTED: tuple[Counted, ...] = get_args(Counted)
SMALL: dict[str, Any] = {"num_classes": 3, "image_size": 9}
OPERATIONS = ("skip_connect", "max_pool_3x3", "sep_conv_3x3")
SUPERNETS: dict[str, Callable[[], OperationSupernet]] = {
    "darts": lambda: DARTSSupernet(channels=2, cells=4, **SMALL),
    "darts-s1": lambda: DARTSSupernet(reduced_space("s1"), channels=2, cells=3, **SMALL),
    "darts-s2": lambda: DARTSSupernet(reduced_space("s2"), channels=2, cells=3, **SMALL),
    "darts-s3": lambda: DARTSSupernet(reduced_space("s3"), channels=2, cells=3, **SMALL),
    "darts-s4": lambda: DARTSSupernet(reduced_space("s4"), channels=2, cells=3, **SMALL),
    "darts-imagenet": lambda: DARTSSupernet(
        darts_space(candidates=OPERATIONS, steps=3, multiplier=1),
        channels=2,
        cells=5,
        num_classes=3,
        image_size=64,
        stem="imagenet",
    ),
    "nasbench201": lambda: NASBench201Supernet(channels=4, cells_per_stage=2, **SMALL),
    "fbnet": lambda: FBNetSupernet(width=0.25, head_channels=8, stem="cifar", **SMALL),
    "proxyless": lambda: ProxylessSupernet(width=0.25, stem="cifar", **SMALL),
    "nasbenchmacro": lambda: NASBenchMacroSupernet(channels=4, **SMALL),
    "nasbench1shot1-1": lambda: NASBench1Shot1Supernet(1, channels=4, cells_per_stage=1, **SMALL),
    "nasbench1shot1-2": lambda: NASBench1Shot1Supernet(2, channels=4, cells_per_stage=2, **SMALL),
    "nasbench1shot1-3": lambda: NASBench1Shot1Supernet(3, channels=4, cells_per_stage=1, **SMALL),
    "recurrent": lambda: RecurrentSupernet(num_classes=12, size=6, window=5),
    "segmentation": lambda: SegmentationSupernet(layers_per_stage=2, width=0.25, num_classes=3, image_size=32),
    "segmentation-large": lambda: SegmentationSupernet(
        macro="large", layers_per_stage=1, width=0.25, num_classes=3, image_size=32
    ),
}
FEW = ("darts-s2", "nasbench201", "fbnet", "nasbench1shot1-1", "recurrent", "segmentation")
SPACE = SearchSpace("toy", (Choice("layer", ("conv", "skip"), rows=2), Choice("edge", ("a", "b"), droppable=True)))
TABLE = {"layer": torch.tensor([[3.0, 1.0], [5.0, 0.5]]), "edge": torch.tensor([[0.25, 2.0]])}


@cache
def model_of(name: str, what: Counted) -> AdditiveCost | PeakCost:
    model = count_candidates(SUPERNETS[name](), what)
    assert isinstance(model, AdditiveCost | PeakCost)
    return model


def few_genes(supernet: OperationSupernet, number: int) -> np.ndarray:
    """Random architectures; of DARTS also such as are never sampled, whose nodes have any number of inputs."""
    space = supernet.space
    genes = space.sample_matrix(number, 0)
    if isinstance(space, DARTSSpace):
        genes[1::2] = np.random.default_rng(0).integers(0, space.gene_sizes, genes[1::2].shape)
    return genes


def check(supernet: OperationSupernet, models: dict[Counted, CostModel], number: int) -> int:
    """Compare tables with traced networks; returns how many."""
    genes = few_genes(supernet, number)
    networks = [supernet.extract(config, inherit=False) for config in supernet.space.decode(genes)]
    traced = [count(network, supernet.input_shape) for network in networks]
    for what, model in models.items():
        assert model.costs(genes).tolist() == [getattr(counts, what) for counts in traced], what
    return len(networks)


@pytest.mark.parametrize("name", FEW)
def test_tables_give_exactly_what_the_traced_networks_have(name: str) -> None:
    check(SUPERNETS[name](), {what: model_of(name, what) for what in COUNTED}, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SUPERNETS if name not in FEW])
def test_so_do_the_tables_of_the_other_spaces(name: str) -> None:
    check(SUPERNETS[name](), {what: model_of(name, what) for what in COUNTED}, 8)


@pytest.mark.nightly
@pytest.mark.parametrize("name", SUPERNETS)
def test_tables_give_exactly_what_200_traced_networks_have(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    compared = check(SUPERNETS[name](), {what: model_of(name, what) for what in COUNTED}, 200)
    record_property("networks", compared)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param("darts", marks=pytest.mark.nightly), "nasbench201", "fbnet", "nasbench1shot1-3"],
)
def test_networks_of_the_papers_size_cost_what_their_tables_say(name: str) -> None:
    make: dict[str, Callable[[], OperationSupernet]] = {
        "darts": lambda: DARTSSupernet(channels=36, cells=20),
        "nasbench201": NASBench201Supernet,
        "fbnet": FBNetSupernet,
        "nasbench1shot1-3": lambda: NASBench1Shot1Supernet(3),
    }
    supernet = make[name]()
    check(supernet, {what: count_candidates(supernet, what) for what in COUNTED}, 6)


@pytest.mark.parametrize("size", [12, 33])
@pytest.mark.parametrize("name", ["nasbench201", "nasbenchmacro"])
def test_tables_of_another_resolution_are_those_of_images_of_that_size(name: str, size: int) -> None:
    supernet = SUPERNETS[name]()
    configs = supernet.space.decode(supernet.space.sample_matrix(3, 1))
    traced = [count(supernet.extract(config, inherit=False), (3, size, size)) for config in configs]
    for what in COUNTED:
        model = count_candidates(supernet, what, image_size=size)
        assert [model.cost(config) for config in configs] == [getattr(c, what) for c in traced]
        assert model.image_size == (None if what == "params" else size)


@pytest.mark.parametrize("what", COUNTED)
@pytest.mark.parametrize("name", FEW)
def test_the_expectation_at_a_corner_is_the_cost(name: str, what: Counted) -> None:
    supernet, model = SUPERNETS[name](), model_of(name, what)
    for config in supernet.space.decode(supernet.space.sample_matrix(5, 0)):
        assert model.expected(supernet.one_hot(config)).item() == pytest.approx(model.cost(config), rel=1e-6)


def random_weights(space: SearchSpace) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        c.name: torch.randn(c.rows, len(c.candidates), generator=generator, dtype=torch.float64).softmax(-1)
        for c in space.choices
    }


def over_all_architectures(model: AdditiveCost | PeakCost, weights: dict[str, torch.Tensor]) -> float:
    """The mean cost of a space without edges to leave out, architecture by architecture."""
    space = model.space
    rows = [row.numpy() for choice in space.choices for row in weights[choice.name]]
    genes = np.array(list(np.ndindex(*space.gene_sizes)))
    probabilities = np.prod([row[column] for row, column in zip(rows, genes.T, strict=True)], axis=0)
    return float(probabilities @ model.costs(genes))


@pytest.mark.parametrize("what", ["params", "macs"])
def test_the_expectation_where_channels_follow_the_wiring_is_the_mean_of_all_architectures(what: Counted) -> None:
    model = model_of("nasbench1shot1-1", what)
    weights = random_weights(model.space)
    assert isinstance(model, PeakCost)
    assert model.expected(weights).item() == pytest.approx(over_all_architectures(model, weights), rel=1e-9)


def test_the_expectation_of_a_peak_is_a_lower_bound_whose_gradient_leads_to_lower_peaks() -> None:
    space = SearchSpace("toy", (Choice("layer", ("conv", "skip"), rows=2), Choice("edge", ("a", "b", "c"))))
    model = PeakCost(space, random_tracks(), unit="bytes", floor=4.0)
    weights = random_weights(space)
    mean = over_all_architectures(model, weights)
    for row in weights.values():
        row.requires_grad_()

    expected = model.expected(weights)
    gradients = torch.autograd.grad(expected, list(weights.values()))

    assert 0.8 * mean < expected.item() < mean
    step = {name: row - 1e-3 * g for (name, row), g in zip(weights.items(), gradients, strict=True)}
    assert model.expected(step) < expected


@pytest.mark.parametrize("what", COUNTED)
def test_counting_leaves_the_supernet_and_the_callers_random_numbers_as_they_were(what: Counted) -> None:
    supernet = SUPERNETS["nasbench201"]()
    before, state = {name: value.clone() for name, value in supernet.state_dict().items()}, torch.get_rng_state()
    count_candidates(supernet, what)
    assert supernet.training and all(torch.equal(before[n], v) for n, v in supernet.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_a_supernet_that_reads_a_part_of_the_channels_yields_networks_of_all() -> None:
    whole, part = (NASBench201Supernet(channels=4, cells_per_stage=1, partial_channels=k, **SMALL) for k in (1, 2))
    config = whole.space.sample(0)
    for what in COUNTED:
        assert count_candidates(part, what).cost(config) == count_candidates(whole, what).cost(config)


def test_a_space_that_does_not_tell_its_modules_is_counted_network_by_network() -> None:
    supernet = PlantedSupernet(("nor_conv_3x3", "skip_connect", "nor_conv_1x1"), edges=3)
    check_genes = np.array(list(np.ndindex(*supernet.space.gene_sizes)))
    for what in ("params", "macs"):
        model = count_candidates(supernet, what)
        for genes, cost in zip(check_genes, model.costs(check_genes), strict=True):
            network = supernet.extract(supernet.space.decode(genes[None])[0])
            assert cost == getattr(count(network, supernet.input_shape), what)


class Planned(PlantedSupernet):
    """A supernet that counting does not know, and that says how it runs."""

    def picked_ops(self, network: Any) -> list[list[torch.nn.Module]]:
        return [[edge] for edge in network.edges]

    def execution_plan(self, network: Any) -> ChainPlan:
        return ChainPlan()


@pytest.mark.parametrize("what", COUNTED)
def test_a_supernet_that_says_how_it_runs_is_counted_like_the_others(what: Counted) -> None:
    supernet = Planned(["skip_connect", "sep_conv_3x3", "max_pool_3x3", "nor_conv_1x1"])
    model = count_candidates(supernet, what)
    for config in supernet.space.decode(np.arange(4)[:, None]):
        network = supernet.extract(config, inherit=False)
        assert model.cost(config) == getattr(count(network, supernet.input_shape), what)


def test_a_plan_that_says_that_all_costs_are_equal_is_checked() -> None:
    class Wrong(Planned):
        def execution_plan(self, network: Any) -> Any:
            return EqualPlan(tuple(self.space.decode(np.arange(2)[:, None])))

    with pytest.raises(ValueError, match="space 'planted' must cost the same, by its execution plan; got Counts"):
        count_candidates(Wrong(["skip_connect", "sep_conv_3x3"]), "params")


class Shared(PlantedSupernet):
    """Its networks have a layer more if both edges hold the same operation."""

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> Any:
        network = super().extract(config, inherit=inherit)
        if len(set(config["edge"])) == 1:
            network.head = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1), network.head)
        return network


@pytest.mark.parametrize(
    ("supernet", "what"),
    [(lambda: PlantedSupernet(), "memory"), (lambda: Shared(edges=2), "params"), (lambda: Shared(edges=2), "macs")],
    ids=["memory of an unknown space", "not a sum", "not a sum of MACs"],
)
def test_counts_that_are_no_sum_are_those_of_every_network(
    supernet: Callable[[], PlantedSupernet], what: Counted
) -> None:
    net = supernet()
    model, genes = count_candidates(net, what), net.space.sample_matrix(20, 0)

    networks = [net.extract(config, inherit=False) for config in net.space.decode(genes)]
    assert isinstance(model, TracedCost)
    assert model.costs(genes).tolist() == [getattr(count(network, net.input_shape), what) for network in networks]
    config = net.space.decode(genes)[0]
    corner = model.expected({name: torch.tensor(w) for name, w in net.space.one_hot(config).items()})
    assert float(corner) == model.cost(config)


@pytest.mark.parametrize(
    ("counting", "message"),
    [
        pytest.param(lambda: count_candidates(PlantedSupernet(), "flops"), "'macs', 'memory'; got 'flops'", id="what"),
        pytest.param(
            lambda: count_candidates(PlantedSupernet(), "macs", image_size=0), "at least 1; got 0", id="no pixels"
        ),
        pytest.param(
            lambda: count_candidates(SUPERNETS["recurrent"](), "macs", image_size=8),
            r"image_size must be the height and width of square images.*of shape \[5\]. Leave it out",
            id="words",
        ),
        pytest.param(
            lambda: count_candidates(DARTSSupernet(darts_space(steps=7), channels=2, cells=3, **SMALL), "memory"),
            "at most 4,194,304 combinations; 8 edges of space 'darts' have 16,777,216. Leave out",
            id="table too large",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(counting: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        counting()


# The two kinds of model.


def test_many_architectures_at_once() -> None:
    model = AdditiveCost(SPACE, TABLE, unit="ms", fixed=2.0)
    genes = SPACE.sample_matrix(5000, 0)  # more than a chunk
    assert np.array_equal(model.costs(genes), [model.cost(config) for config in SPACE.decode(genes)])
    dropped = SPACE.encode([SPACE.decode(np.array([[1, 1, 2]]))[0]])
    assert model.costs(dropped)[0] == 2.0 + 1.0 + 0.5  # the edge that is left out costs nothing
    assert model.costs(genes[:0]).shape == (0,)


def level_by_level(tracks: list[list[Segment]], floor: float, genes: np.ndarray, *, wrong: str = "") -> list[float]:
    """The highest level of each architecture, walked through one after the other."""
    costs = []
    for row in genes.tolist():
        highest = floor
        for track in tracks:
            level = 0.0
            for segment in track:
                picks = tuple(row[gene] for gene in segment.genes)
                highest = max(highest, level + segment.peak[picks])
                level += 0 if wrong == "nothing is kept" else segment.growth[picks]
            if wrong == "sum":
                highest += level
        costs.append(highest)
    return costs


def random_tracks() -> list[list[Segment]]:
    rng = np.random.default_rng(0)

    def segment(*genes: int) -> Segment:
        shape = tuple(SPACE.gene_sizes[gene] for gene in genes)
        return Segment(genes, rng.integers(0, 20, shape) * 1.0, rng.integers(-5, 15, shape) * 1.0)

    return [
        [always(3.0, 2.0), segment(0, 1), always(20.0, -3.0), segment(2), always(9.0)],
        [segment(2, 0), segment(2, 0), segment(1)],
        [segment(0, 1), segment(2)],
        [segment(1)],
        [segment(1), always(2.0)],
        [always(11.0)],
    ]


def test_the_highest_level_is_that_of_a_walk_through_all_tracks() -> None:
    tracks, genes = random_tracks(), np.array(list(np.ndindex(*SPACE.gene_sizes)))
    costs = PeakCost(SPACE, tracks, unit="bytes", floor=4.0).costs(genes).tolist()
    assert costs == level_by_level(tracks, 4.0, genes)
    assert len(set(costs)) > 3
    assert costs != level_by_level(tracks, 4.0, genes, wrong="nothing is kept")
    assert costs != level_by_level(tracks, 4.0, genes, wrong="sum")


def test_the_expected_level_leaves_an_edge_out_with_what_its_weights_leave() -> None:
    model = PeakCost(SPACE, [[Segment((2,), np.array([8.0, 4.0, 2.0]), np.zeros(3))]], unit="bytes")
    weights = {"layer": torch.full((2, 2), 0.5), "edge": torch.tensor([[0.5, 0.25]])}
    assert model.expected(weights).item() == 0.5 * 8 + 0.25 * 4 + 0.25 * 2


@pytest.mark.parametrize("model", [AdditiveCost(SPACE, TABLE, unit="ms"), PeakCost(SPACE, random_tracks(), unit="B")])
@pytest.mark.parametrize(
    ("genes", "message"),
    [
        pytest.param([[0, 0]], r"integer matrix \[N, 3\]; got int64 \[1, 2\]", id="shape"),
        pytest.param([[0.0, 0.0, 0.0]], "got float64", id="not integers"),
        pytest.param([[0, 0, 0], [0, 2, 0]], "Gene 1 .* index below 2; row 1 holds 2", id="too large"),
        pytest.param([[0, 0, -1]], "row 0 holds -1", id="negative"),
    ],
)
def test_genes_of_no_architecture_are_refused(
    model: AdditiveCost | PeakCost, genes: list[list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.costs(np.array(genes))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        pytest.param({"layer": TABLE["layer"]}, "must have the shapes .*'edge'", id="missing"),
        pytest.param({**TABLE, "edge": torch.ones(1, 3)}, r"got .*\(1, 3\)", id="shape"),
        pytest.param({**TABLE, "edge": -TABLE["edge"]}, "not negative; those of 'edge' in ms", id="negative"),
        pytest.param({**TABLE, "edge": torch.full((1, 2), torch.nan)}, "finite", id="nan"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdditiveCost(SPACE, table, unit="ms")


@pytest.mark.parametrize(
    ("peak", "growth", "message"),
    [
        pytest.param(np.zeros(3), np.zeros(2), r"genes \(0,\) .* shape \[2\]; its peak has \[3\]", id="peak"),
        pytest.param(np.zeros(2), np.zeros((2, 2)), r"its growth has \[2, 2\]", id="growth"),
        pytest.param(np.full(2, np.nan), np.zeros(2), "not finite", id="nan"),
    ],
)
def test_a_segment_that_does_not_fit_is_refused(peak: np.ndarray, growth: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PeakCost(SPACE, [[Segment((0,), peak, growth)]], unit="bytes")


def test_edge_weights_of_another_shape_are_refused() -> None:
    model = PeakCost(SPACE, random_tracks(), unit="bytes")
    with pytest.raises(ValueError, match=r"hold 'edge' with shape \[1, 2\]; got \[1, 3\]"):
        model.expected({"layer": torch.ones(2, 2), "edge": torch.ones(1, 3)})


def test_costs_meet_a_supernet_of_their_space_and_resolution_only() -> None:
    supernet, other = SUPERNETS["nasbenchmacro"](), NASBenchMacroSupernet(channels=4, num_classes=3, image_size=16)
    more = NASBenchMacroSupernet(channels=4, image_size=16)
    for what in COUNTED:
        count_candidates(supernet, what).check_supernet(supernet)
    count_candidates(supernet, "params").check_supernet(other)
    for what in ("macs", "memory"):
        model = count_candidates(supernet, what)
        with pytest.raises(ValueError, match="images of 9 pixels, the supernet reads 16.*at 16, or .*image_size=9"):
            model.check_supernet(other)
        count_candidates(supernet, what, image_size=16).check_supernet(other)
        with pytest.raises(ValueError, match="num_classes is 3 there, 10 here"):
            count_candidates(supernet, what, image_size=16).check_supernet(more)
    with pytest.raises(ValueError, match="must be of space 'planted'; it is of 'nasbenchmacro'"):
        count_candidates(supernet, "params").check_supernet(PlantedSupernet())
