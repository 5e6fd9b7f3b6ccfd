"""Spaces for images of any height and width: image_size is one number, or two."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from oneshot.cost import count_candidates
from oneshot.cost.counting.network import count
from oneshot.supernets import (
    PUBLISHED,
    DARTSNetwork,
    DARTSSupernet,
    ElasticResNetNetwork,
    ElasticResNetSupernet,
    FBNetSupernet,
    MobileNetV3Network,
    MobileNetV3Supernet,
    NASBench1Shot1Supernet,
    NASBench101Network,
    NASBench201Supernet,
    NASBenchMacroSupernet,
    NASNetNetwork,
    NASNetSupernet,
    OperationSupernet,
    ProxylessSupernet,
    SegmentationSupernet,
    Supernet,
)
from oneshot.testing.spaces import disturb

SMALL: dict[str, Any] = {"num_classes": 3, "in_channels": 2}
SUPERNETS: dict[str, Callable[..., Supernet]] = {
    "darts": lambda size: DARTSSupernet(channels=4, cells=3, image_size=size, **SMALL),
    "nasbench201": lambda size: NASBench201Supernet(channels=4, cells_per_stage=1, image_size=size, **SMALL),
    "nasbench1shot1": lambda size: NASBench1Shot1Supernet(1, channels=4, cells_per_stage=1, image_size=size, **SMALL),
    "nasbenchmacro": lambda size: NASBenchMacroSupernet(channels=4, image_size=size, **SMALL),
    "nasnet": lambda size: NASNetSupernet(channels=4, cells_per_stage=1, image_size=size, **SMALL),
    "fbnet": lambda size: FBNetSupernet(width=0.25, stem="cifar", image_size=size, **SMALL),
    "proxyless": lambda size: ProxylessSupernet(width=0.25, stem="cifar", image_size=size, **SMALL),
    "segmentation": lambda size: SegmentationSupernet(layers_per_stage=1, width=0.25, image_size=size, **SMALL),
}


@pytest.mark.parametrize("name", SUPERNETS)
def test_networks_for_rectangles_are_extracted_rebuilt_and_counted(name: str) -> None:
    supernet = disturb(SUPERNETS[name]((17, 40))).eval()
    assert isinstance(supernet, Supernet) and supernet.input_shape == (2, 17, 40)
    config, x = supernet.space.sample(0), torch.randn(2, 2, 17, 40)
    with torch.no_grad():
        network = supernet.extract(config)
        rebuilt = type(network)(**json.loads(json.dumps(network.init_args))).eval()
        rebuilt.load_state_dict(network.state_dict())
        assert torch.equal(network(x), supernet.run_config(x, config))
        assert torch.equal(rebuilt(x), network(x))
    assert rebuilt.init_args == network.init_args and network.init_args["image_size"] == [17, 40]
    assert rebuilt.input_shape == network.input_shape == (2, 17, 40)


@pytest.mark.parametrize("name", [name for name in SUPERNETS if name != "nasnet"])
def test_costs_are_those_of_rectangles(name: str) -> None:
    supernet = SUPERNETS[name]((17, 40))
    assert isinstance(supernet, OperationSupernet)
    costs, config = count_candidates(supernet, "macs"), supernet.space.sample(1)
    expected = count(supernet.extract(config, inherit=False), (2, 17, 40)).macs
    assert costs.cost(config) == expected
    assert expected != count(supernet.extract(config, inherit=False), (2, 40, 40)).macs
    costs.check_supernet(SUPERNETS[name]((17, 40)))
    with pytest.raises(ValueError, match=r"inputs of shape \[2, 17, 40\], the supernet reads \[2, 40, 17\]"):
        costs.check_supernet(SUPERNETS[name]((40, 17)))


@pytest.mark.parametrize("name", SUPERNETS)
def test_one_number_stays_one_number(name: str) -> None:
    """Files of earlier releases have one."""
    supernet = SUPERNETS[name](16)
    assert supernet.input_shape == (2, 16, 16)
    assert supernet.extract(supernet.space.sample(0), inherit=False).init_args["image_size"] == 16


@pytest.mark.parametrize("name", SUPERNETS)
def test_both_sides_must_be_large_enough(name: str) -> None:
    with pytest.raises(ValueError, match=r"images must have at least \d+ pixels; got image_size=.40, 1[])]"):
        SUPERNETS[name]((40, 1))
    for wrong in ((8, 8, 8), (8,), (16, 8.5)):
        with pytest.raises(ValueError, match="image_size must be one whole number, or height and width; got"):
            SUPERNETS[name](wrong)


@pytest.mark.parametrize(
    ("sides", "pool"),
    [
        pytest.param((32, 32), nn.AvgPool2d, id="the paper's"),
        pytest.param((8, 8), nn.Identity, id="two by two"),
        pytest.param((32, 64), nn.AdaptiveAvgPool2d, id="wide"),
        pytest.param((8, 32), nn.AdaptiveAvgPool2d, id="flat"),
        pytest.param((16, 16), nn.AdaptiveAvgPool2d, id="small"),
    ],
)
def test_the_auxiliary_head_of_darts_reads_rectangles(sides: tuple[int, int], pool: type[nn.Module]) -> None:
    network = DARTSNetwork(str(PUBLISHED["DARTS_V2"]), channels=4, cells=3, image_size=sides, auxiliary=True)
    assert network.auxiliary_head is not None
    assert type(network.auxiliary_head[1]) is pool  # type: ignore[index]  # a Sequential
    _, auxiliary = network(torch.zeros(2, 3, *sides)), network.forward_with_auxiliary(torch.zeros(2, 3, *sides))[1]
    assert auxiliary is not None and auxiliary.shape == (2, 10)


@pytest.mark.parametrize("sides", [(32, 32), (32, 64), (8, 40)])
def test_the_auxiliary_head_of_nasnet_reads_rectangles(sides: tuple[int, int]) -> None:
    supernet = NASNetSupernet(channels=4, cells_per_stage=1, image_size=sides)
    found = supernet.extract(supernet.space.sample(0), inherit=False)
    network = NASNetNetwork(**{**found.init_args, "auxiliary": True})
    _, auxiliary = network.forward_with_auxiliary(torch.zeros(2, 3, *sides))
    assert auxiliary is not None and auxiliary.shape == (2, 10)


def test_a_network_of_nasbench_101_reads_rectangles() -> None:
    matrix = [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    network = NASBench101Network(
        matrix, ["input", "conv3x3-bn-relu", "output"], channels=4, cells_per_stage=1, image_size=(8, 21)
    )
    assert network.input_shape == (3, 8, 21) and network(torch.zeros(2, 3, 8, 21)).shape == (2, 10)


@pytest.mark.parametrize("build", [MobileNetV3Supernet, ElasticResNetSupernet])
def test_elastic_supernets_say_that_they_have_square_resolutions(build: Any) -> None:
    with pytest.raises(ValueError, match=r"side of square images, .* got \(32, 64\). .* such as FBNetSupernet"):
        build(image_size=(32, 64))


@pytest.mark.parametrize("build", [MobileNetV3Network, ElasticResNetNetwork])
def test_elastic_networks_say_so_too(build: Any) -> None:
    space = {MobileNetV3Network: MobileNetV3Supernet, ElasticResNetNetwork: ElasticResNetSupernet}[build]
    with torch.device("meta"):
        supernet: Any = space(image_size=64)
        arguments = supernet.extract(supernet.space.sample(0), inherit=False).init_args
    with pytest.raises(ValueError, match=r"side of square images, .* got \[32, 64\]"), torch.device("meta"):
        build(**{**arguments, "image_size": [32, 64]})
