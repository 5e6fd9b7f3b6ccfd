"""A network tells whether a config is of its architecture, also when it was built again from its arguments."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from oneshot.discrete.graphs.graph import plain_graph
from oneshot.discrete.graphs.network import GraphNetwork
from oneshot.supernets import (
    DARTSSupernet,
    ElasticResNetSupernet,
    FBNetSupernet,
    MLPSupernet,
    MobileNetV3Supernet,
    NASBench1Shot1Supernet,
    NASBench201Supernet,
    NASBenchMacroSupernet,
    NASNetSupernet,
    ProxylessSupernet,
    RecurrentSupernet,
    SegmentationSupernet,
    SeriesSupernet,
    Supernet,
    TextSupernet,
    ViTSupernet,
    VolumeSupernet,
    reduced_space,
)
from oneshot.supernets.nasbench101 import NASBench101Network, NASBench101Space

SUPERNETS: dict[str, Callable[[], Supernet]] = {
    "darts": lambda: DARTSSupernet(channels=4, cells=3, image_size=16),
    "s1": lambda: DARTSSupernet(reduced_space("s1"), channels=4, cells=3, image_size=16),
    "nasbench201": lambda: NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8),
    "nasbench1shot1": lambda: NASBench1Shot1Supernet(1, channels=4, cells_per_stage=1, image_size=8),
    "nasbenchmacro": lambda: NASBenchMacroSupernet(),
    "nasnet": lambda: NASNetSupernet(channels=4, cells_per_stage=1, image_size=16),
    "fbnet": lambda: FBNetSupernet(width=0.25, image_size=32),
    "proxyless": lambda: ProxylessSupernet(width=0.25, image_size=32),
    "mobilenetv3": lambda: MobileNetV3Supernet(image_size=32, widths=(0.2, 0.25)),
    "resnet": lambda: ElasticResNetSupernet(image_size=32),
    "vit": lambda: ViTSupernet(image_size=32, embed_dims=(64, 96)),
    "recurrent": lambda: RecurrentSupernet(num_classes=30, size=8),
    "series": lambda: SeriesSupernet(channels=4),
    "volume": lambda: VolumeSupernet(channels=4),
    "text": lambda: TextSupernet(channels=4),
    "mlp": lambda: MLPSupernet(width=8),
    "segmentation": lambda: SegmentationSupernet(layers_per_stage=1, width=0.25, image_size=64, num_classes=3),
}


@pytest.mark.parametrize("name", SUPERNETS)
def test_a_network_describes_its_own_config_and_no_neighbour(name: str) -> None:
    supernet = SUPERNETS[name]()
    space = supernet.space
    for seed in range(5):
        config = space.sample(seed)
        network = supernet.extract(config, inherit=False)
        rebuilt = type(network)(**network.init_args)
        assert network.describes(config) and rebuilt.describes(config)
        others = [space.mutate(config, rng) for rng in range(10)] + [space.sample(100 + seed)]
        differ = [other for other in others if space.canonical(other) != space.canonical(config)]
        assert differ and not any(rebuilt.describes(other) for other in differ)


def test_a_network_describes_no_config_of_another_space() -> None:
    spaces = {name: make().space for name, make in SUPERNETS.items()}
    for name in ("darts", "nasnet", "mobilenetv3", "recurrent", "nasbench201"):
        supernet = SUPERNETS[name]()
        network = supernet.extract(supernet.space.sample(0), inherit=False)
        rebuilt = type(network)(**network.init_args)
        foreign = [space.sample(0) for other, space in spaces.items() if space.name != supernet.space.name]
        assert not any(rebuilt.describes(config) for config in foreign)


def test_a_network_of_nasbench101_describes_its_cell() -> None:
    space = NASBench101Space()
    first, second = space.sample(0), space.sample(1)
    cell = space.cell(first)
    network = NASBench101Network(cell.matrix, cell.operations, channels=8, cells_per_stage=1, image_size=8)
    assert network.describes(first) and not network.describes(second)
    assert not network.describes(SUPERNETS["darts"]().space.sample(0))


def test_a_network_graph_describes_itself() -> None:
    graph, other = (GraphNetwork.from_graph(plain_graph(sizes), (3, 8, 8), 10) for sizes in ((4, 8), (4, 4)))
    assert graph.describes(graph.config) and not graph.describes(other.config)
