"""Costs of elastic spaces: exact, fast, and their expectation is a mean."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
import torch

from oneshot.cost import (
    AdditiveCost,
    ConditionalCost,
    Counted,
    TracedCost,
    count,
    count_candidates,
    fit_predictor,
    measure,
    measure_latencies,
)
from oneshot.cost.latency.device import LatencyDevice, Run
from oneshot.supernets import Choice, ElasticSupernet, MobileNetV3Supernet, SearchSpace
from oneshot.supernets.base import Subnet
from oneshot.supernets.elastic import ElasticSpace, elastic_choices

COUNTED: tuple[Counted, ...] = get_args(Counted)
SPACE = ElasticSpace("toy", elastic_choices((8, 16), (0.5, 1.0), ("small", "large"), (2, 1)), (1, 1))


@cache
def supernet_of(name: str) -> ElasticSupernet:
    if name == "mobilenetv3":
        return MobileNetV3Supernet(num_classes=3, resolutions=(17, 24), widths=(0.2, 0.35), stem="cifar")
    if name == "wide":
        return MobileNetV3Supernet(num_classes=3, resolutions=(16, 32), widths=(0.25, 0.5), stem="cifar")
    return MobileNetV3Supernet(num_classes=3, image_size=64, widths=(0.5,), depths=(1, 2, 3), kernels=(3, 5))


@cache
def model_of(name: str, what: Counted) -> ConditionalCost:
    model = count_candidates(supernet_of(name), what)
    assert isinstance(model, ConditionalCost)
    return model


def compare(name: str, number: int) -> None:
    supernet = supernet_of(name)
    genes = supernet.space.sample_matrix(number, 0)
    networks = [supernet.extract(config, inherit=False) for config in supernet.space.decode(genes)]
    counts = [count(network, network.input_shape) for network in networks]
    for what in COUNTED:
        found = [getattr(each, what) for each in counts]
        assert model_of(name, what).costs(genes).tolist() == found
        assert len(set(found)) > 3  # the comparison can tell them apart


@pytest.mark.parametrize("name", ["mobilenetv3", "mobilenetv3-imagenet"])
def test_tables_give_exactly_what_the_traced_networks_have(name: str) -> None:
    compare(name, 20)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["mobilenetv3", "mobilenetv3-imagenet"])
def test_tables_give_exactly_what_200_traced_networks_have(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    compare(name, 200)
    record_property("networks", 200)


def test_many_architectures_are_looked_up_together_and_none_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many a second is measured by experiments/benchmarks/cost_tables.py."""
    model = model_of("mobilenetv3", "macs")
    genes = model.space.sample_matrix(100_000, 0)

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("the table must be enough")

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "__init__", refuse)
        patch.setattr(type(model.space), "decode", refuse)
        costs = model.costs(genes)
    assert costs[:5].tolist() == [model.cost(config) for config in model.space.decode(genes[:5])]


def test_counting_leaves_the_supernet_and_the_callers_random_numbers_as_they_were() -> None:
    supernet = MobileNetV3Supernet(num_classes=3, image_size=8, widths=(0.2,), depths=(1,), kernels=(3,), stem="cifar")
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    count_candidates(supernet.train(), "memory")
    assert torch.equal(torch.rand(1), expected) and supernet.training
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())


class Uneven(MobileNetV3Supernet):
    """Its networks have a layer more where they are deep."""

    def standalone(self, arch: Any) -> Any:
        network = super().standalone(arch)
        if sum(map(len, arch.stages)) > 5:
            network.append_module = torch.nn.Linear(3, 5)
        return network


def test_an_elastic_space_whose_costs_are_not_those_of_its_layers_is_counted_network_by_network() -> None:
    small: dict[str, Any] = {"stem": "cifar", "depths": (1, 2), "kernels": (3,), "expansions": (2,)}
    supernet = Uneven(num_classes=3, resolutions=(16,), widths=(0.1,), **small)
    model, genes = count_candidates(supernet, "params"), supernet.space.sample_matrix(20, 0)
    networks = [supernet.extract(config, inherit=False) for config in supernet.space.decode(genes)]
    assert isinstance(model, TracedCost)
    assert model.costs(genes).tolist() == [sum(p.numel() for p in network.parameters()) for network in networks]
    assert len({any(hasattr(n, "append_module") for n in [network]) for network in networks}) == 2


def test_memory_is_that_of_the_supernets_precision() -> None:
    supernet = MobileNetV3Supernet(num_classes=3, image_size=8, widths=(0.2,), depths=(1,), kernels=(3,), stem="cifar")
    single, largest = count_candidates(supernet, "memory"), supernet.space.largest
    assert count_candidates(supernet.double(), "memory").cost(largest) == 2 * single.cost(largest)


def toy(reduce: Any) -> ConditionalCost:
    generator = np.random.default_rng(0)
    table = generator.random((2, 2, 3, 3))
    table[..., 2] = 0
    return ConditionalCost(SPACE, table, 0.1 * generator.random((2, 2)), unit="ms", reduce=reduce)


def weights_of(seed: int) -> dict[str, torch.Tensor]:
    """Of random probabilities; rows that can be left out sum to less than 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for choice in SPACE.choices:
        rows = torch.rand(choice.rows, len(choice.picks), generator=generator, dtype=torch.float64)
        weights[choice.name] = (rows / rows.sum(-1, keepdim=True))[:, : len(choice.candidates)]
    return weights


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_costs_are_those_of_a_loop_and_expectations_at_corners(reduce: Any) -> None:
    model, combine = toy(reduce), {"sum": sum, "max": max}[reduce]
    table, fixed = model.get_buffer("table").reshape(2, 2, 3, 3).numpy(), model.get_buffer("fixed").reshape(2, 2)
    for genes in np.unique(SPACE.sample_matrix(500, 0), axis=0):
        r, w, *rows = genes
        expected = combine([float(fixed[r, w]), *(table[r, w, row, pick] for row, pick in enumerate(rows))])
        assert model.costs(genes[None])[0] == pytest.approx(expected, rel=1e-12)
        corner = {k: torch.from_numpy(v).double() for k, v in SPACE.one_hot(SPACE.decode(genes[None])[0]).items()}
        assert float(model.expected(corner)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_the_expectation_is_the_mean_over_independent_rows(reduce: Any) -> None:
    """Of a maximum, a lower bound."""
    model, weights = toy(reduce), weights_of(0)
    table, fixed = model.get_buffer("table").reshape(2, 2, 3, 3).numpy(), model.get_buffer("fixed").reshape(2, 2)
    combine = {"sum": sum, "max": max}[reduce]
    rows = [torch.cat([row, 1 - row.sum()[None]]) for c in SPACE.choices for row in weights[c.name]]
    mean = 0.0
    for r, w, *picks in itertools.product(range(2), range(2), range(3), range(3), range(3)):
        probability = float(torch.stack([row[pick] for row, pick in zip(rows, [r, w, *picks], strict=True)]).prod())
        mean += probability * combine([float(fixed[r, w]), *(table[r, w, row, p] for row, p in enumerate(picks))])
    for tensor in weights.values():
        tensor.requires_grad_()
    expected = model.expected(weights)
    expected.backward()  # type: ignore[no-untyped-call]  # torch
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in weights.values())
    if reduce == "sum":
        assert expected.item() == pytest.approx(mean, rel=1e-9)
    else:
        assert 0 < expected.item() < mean


def test_what_is_not_of_the_space_is_refused() -> None:
    model = toy("sum")
    with pytest.raises(ValueError, match="'stage_0' of space 'toy' holds 'none' in row 0 of genome 1"):
        model.costs(np.array([[0, 0, 0, 1, 1], [0, 0, 2, 1, 1]]))
    with pytest.raises(ValueError, match="belongs to 'mobilenetv3'"):
        model.cost(supernet_of("mobilenetv3").space.smallest)
    with pytest.raises(ValueError, match=r"hold 'width' with shape \[1, 2\]; got None"):
        model.expected({"resolution": torch.ones(1, 2)})
    with pytest.raises(ValueError, match=r"shapes \[2, 2, 3, 3\] and, fixed, \[2, 2\]; got \[2, 2, 3, 2\]"):
        ConditionalCost(SPACE, np.zeros((2, 2, 3, 2)), np.zeros((2, 2)), unit="ms")
    with pytest.raises(ValueError, match="not negative; those of space 'toy' in ms"):
        ConditionalCost(SPACE, np.zeros((2, 2, 3, 3)), np.full((2, 2), np.nan), unit="ms")
    with pytest.raises(ValueError, match=r"counted at all of \(17, 24\); got image_size=16"):
        count_candidates(supernet_of("mobilenetv3"), "macs", image_size=16)
    model_of("mobilenetv3", "macs").check_supernet(supernet_of("mobilenetv3"))
    with pytest.raises(ValueError, match="Build it for the space of the supernet"):
        model.check_supernet(supernet_of("mobilenetv3"))


class ByMacs(LatencyDevice):
    """A device that needs a millisecond for a million multiply-accumulates."""

    batch, dtype = 1, "float32"

    def prepare(self, network: Subnet) -> Run:
        assert network.config is not None and network.input_shape[1] == network.config["resolution"][0]
        macs = count(network, network.input_shape).macs
        return lambda: macs / 1e6

    def time(self, run: Run) -> float:
        ms = run()
        assert isinstance(ms, float)
        return ms

    def facts(self) -> dict[str, Any]:
        return {"runtime": "eager", "device": "cpu", "name": "toy", "threads": 1}


def test_whole_networks_are_measured_each_at_its_resolution() -> None:
    supernet = supernet_of("mobilenetv3")
    genes = supernet.space.sample_matrix(4, 0)
    ms = measure_latencies(supernet, ByMacs(), genes)
    np.testing.assert_allclose(ms, model_of("mobilenetv3", "macs").costs(genes) / 1e6, rtol=1e-9)


def test_there_is_no_latency_table_of_an_elastic_space() -> None:
    with pytest.raises(ValueError, match=r"in space 'mobilenetv3' it depends on other choices. .*measure_latencies"):
        measure(supernet_of("mobilenetv3"), ByMacs())
    with pytest.raises(ValueError, match="shapes"):
        AdditiveCost(SPACE, {}, unit="ms")


def test_a_predictor_of_elastic_spaces_learns_what_no_sum_over_genes_gives() -> None:
    """MACs with noise of 1 %, from 200 architectures: what a layer needs depends on resolution and width."""
    model = model_of("wide", "macs")
    space, generator = model.space, np.random.default_rng(0)
    genes, others = space.sample_matrix(200, 1), space.sample_matrix(500, 2)
    values = model.costs(genes) / 1e6 * (1 + 0.01 * generator.standard_normal(len(genes)))
    error = {}
    for kind in ("elastic", "additive"):
        predictor = fit_predictor(space, genes, values, kind=kind)  # type: ignore[arg-type]  # both are kinds
        error[kind] = np.mean(np.abs(predictor.costs(others) / (model.costs(others) / 1e6) - 1))
    assert error["elastic"] < 0.08 < 0.2 < error["additive"]
    predictor = fit_predictor(space, genes, values, kind="elastic")
    low, high = predictor.interval(others, 0.9)
    assert 0.8 < np.mean((low <= model.costs(others) / 1e6) & (model.costs(others) / 1e6 <= high)) <= 1
    for config in space.decode(others[:3]):
        corner = {name: torch.from_numpy(rows).double() for name, rows in space.one_hot(config).items()}
        assert predictor.expected(corner).item() == pytest.approx(predictor.cost(config), rel=1e-9)


def test_a_predictor_of_elastic_spaces_finds_costs_of_its_form() -> None:
    """Without noise, and with samples enough, it is exact; also of stages whose number of blocks differs."""
    stages = elastic_choices((8, 16), (0.5, 1.0), ("small", "middle", "large"), (2, 3))[2:]
    choices = (*elastic_choices((8, 16), (0.5, 1.0), ("small", "large"), (2,)), Choice("stage_1", *_second(stages)))
    space = ElasticSpace("toy", choices, (1, 2))
    generator = np.random.default_rng(0)
    r, w = np.array([0.5, 1.0])[:, None], np.array([0.5, 1.0])[None]
    growth = [np.ones((2, 2)), r**2 * w, r**2 * w**2]
    blocks = generator.random((3, 5, 4))
    table = sum(f[:, :, None, None] * b for f, b in zip(growth, blocks, strict=True))
    table[:, :, :2, 2:], table[:, :, 2:, 3:] = 0, 0
    truth = ConditionalCost(space, table, 1 + growth[2], unit="ms")
    genes, others = space.sample_matrix(2_000, 0), space.sample_matrix(200, 1)
    predictor = fit_predictor(space, genes, truth.costs(genes), kind="elastic")
    np.testing.assert_allclose(predictor.costs(others), truth.costs(others), rtol=1e-3)


def _second(stages: tuple[Choice, ...]) -> tuple[Any, ...]:
    return stages[1].candidates, stages[1].rows, True


def test_only_elastic_spaces_have_that_predictor() -> None:
    space = SearchSpace("plain", (Choice("layer", ("a", "b"), rows=8),))
    genes = space.sample_matrix(100, 0)
    with pytest.raises(
        ValueError, match="auto, additive, pairwise, floor, boosting, mlp in space 'plain'; got 'elastic'"
    ):
        fit_predictor(space, genes, 1.0 + genes.sum(1), kind="elastic")
    with pytest.raises(ValueError, match="at least 30 samples; got 20"):
        fit_predictor(SPACE, SPACE.sample_matrix(20, 0), np.ones(20), kind="elastic")
