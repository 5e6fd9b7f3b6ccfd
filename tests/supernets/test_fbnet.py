"""The FBNet space against its paper and against the numbering of a latency table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from oneshot.cost.counting.network import count
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.fbnet import CANDIDATES, FBNET_A, FBNET_C, FBNetNetwork, FBNetSpace, FBNetSupernet
from oneshot.supernets.space import SubnetConfig
from oneshot.testing import SpaceContract
from tests.tables import rows, whole_or_extract

SPACE = FBNetSpace()


class TestFBNet(SpaceContract):
    configs_tested = 5

    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return FBNetSupernet(width=0.25, head_channels=16, num_classes=3, in_channels=2, image_size=9, stem="cifar")


def test_the_space_has_22_layers_of_9_blocks_in_the_order_of_the_table() -> None:
    assert SPACE.size == 9**22
    names = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
    assert names == CANDIDATES
    assert SPACE.gene_sizes == (9,) * 22


@whole_or_extract
def test_genes_are_the_numbers_of_the_latency_table(whole: bool) -> None:
    genes = [[int(op) for op in row["ops"].split()] for row in rows("fbnet_latency", whole=whole)]
    configs = SPACE.decode(genes)
    assert len(configs) == (5_000 if whole else 100)
    assert np.array_equal(SPACE.encode(configs), genes)
    assert SPACE.operations(configs[0])[:4] == ("k5_e6", "skip", "k3_e1_g2", "skip")  # the first row begins 7 8 1 8
    assert all(set(column) == set(range(9)) for column in zip(*genes, strict=True))  # every block in every layer


@whole_or_extract
def test_architecture_strings_are_those_of_the_latency_table(whole: bool) -> None:
    for row in rows("fbnet_latency", whole=whole):
        config = SPACE.from_arch_string(row["ops"])
        assert SPACE.arch_string(config) == row["ops"]
        assert SPACE.from_arch_string(str([int(op) for op in row["ops"].split()])) == config  # a list of Python
        assert [CANDIDATES.index(op) for op in SPACE.operations(config)] == [int(op) for op in row["ops"].split()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "22 numbers from 0 to 8.*got 0", id="empty"),
        pytest.param("1 " * 21, "got 21", id="too few"),
        pytest.param("1 " * 21 + "9", "got 22, '1 1", id="no block"),
        pytest.param("k3_e1 " * 22, "numbers from 0 to 8.*'k3_e1 ", id="names"),
        pytest.param("1" * 22, "got 1, '1111", id="no spaces"),
    ],
)
def test_an_architecture_string_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPACE.from_arch_string(text)


def test_fbnet_a_has_the_size_and_cost_of_the_paper() -> None:
    """Table 3: 4.3 M parameters, 249 M FLOPs (multiply-accumulates)."""
    with torch.device("meta"):
        counts = count(FBNetNetwork(FBNET_A, head_channels=1504), (3, 224, 224))
    assert (counts.params, counts.macs) == (4_321_464, 249_921_848)
    assert f"{counts.params / 1e6:.1f}" == "4.3" and counts.macs // 1_000_000 == 249


def test_fbnet_c_has_the_size_of_an_independent_implementation() -> None:
    """fbnet_cb of osmr/imgclsmob (pytorchcv), which holds the released weights."""
    with torch.device("meta"):
        assert count(FBNetNetwork(FBNET_C), (3, 224, 224)).params == 5_572_200


def shapes(network: nn.Module, size: int) -> list[tuple[int, int]]:
    """Channels and height behind the stem and every layer."""
    found = []
    for module in (network.stem, *network.layers):  # type: ignore[misc]  # nn.Module.__getattr__ is untyped
        module.register_forward_hook(lambda _m, _x, y: found.append((y.shape[1], y.shape[2])))
    network.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return found


@pytest.mark.parametrize("pick", ["k3_e3", "skip"])
@pytest.mark.parametrize(
    ("stem", "size", "heights"),
    [
        pytest.param("imagenet", 224, (112, 112, 56, 28, 14, 14, 7, 7), id="imagenet"),
        pytest.param("cifar", 32, (32, 32, 32, 16, 8, 8, 4, 4), id="cifar"),
    ],
)
def test_the_shapes_are_those_of_table_1(pick: str, stem: Any, size: int, heights: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = FBNetNetwork([pick] * 22, image_size=size, stem=stem)
    channels, depths = (16, 16, 24, 32, 64, 112, 184, 352), (1, 1, 4, 4, 4, 4, 4, 1)
    expected = [(c, h) for c, h, depth in zip(channels, heights, depths, strict=True) for _ in range(depth)]
    assert shapes(network, size) == expected


def test_a_skip_is_the_identity_where_it_can_be() -> None:
    network = FBNetNetwork(["skip"] * 22, width=0.5)
    changing = [i for i, layer in enumerate(network.layers) if not isinstance(layer, nn.Identity)]
    assert changing == [1, 5, 9, 13, 17, 21]
    for i in changing:
        conv, norm, relu = network.layers[i]  # type: ignore[misc]  # ModuleList is untyped
        assert conv.kernel_size == (1, 1) and isinstance(norm, nn.BatchNorm2d) and isinstance(relu, nn.ReLU)


@pytest.mark.parametrize(
    ("width", "channels", "head"),
    [
        pytest.param(0.35, [8, 8, 8, 16, 24, 40, 64, 120], 1984, id="narrow"),
        pytest.param(1.0, [16, 16, 24, 32, 64, 112, 184, 352], 1984, id="the paper's"),
        pytest.param(2.0, [32, 32, 48, 64, 128, 224, 368, 704], 3968, id="wide"),
    ],
)
def test_the_width_multiplies_channels_and_keeps_them_multiples_of_8(
    width: float, channels: list[int], head: int
) -> None:
    with torch.device("meta"):
        network = FBNetNetwork(["k3_e1"] * 22, width=width)
    found = [c for c, _ in shapes(network, 224)]
    assert [found[i] for i in (0, 1, 2, 6, 10, 14, 18, 22)] == channels
    assert network.head[-1].in_features == head


def test_a_network_needs_a_block_for_every_layer() -> None:
    with pytest.raises(ValueError, match="space 'fbnet' must have 22 layers; got 21 picks"):
        FBNetNetwork(["skip"] * 21)
    with pytest.raises(ValueError, match=r"'k9_e1' is not a candidate of 'layers' \(row 21\)"):
        FBNetNetwork(["skip"] * 21 + ["k9_e1"])


@pytest.mark.parametrize("build", [FBNetSupernet, lambda **options: FBNetNetwork(["skip"] * 22, **options)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"num_classes": 0}, "at least 1, and 2 for classes; got num_classes=0", id="one class"),
        pytest.param({"image_size": 31}, "at least 32 pixels; got image_size=31", id="small image"),
        pytest.param({"image_size": 7, "stem": "cifar"}, "at least 8 pixels; got image_size=7", id="tiny image"),
        pytest.param({"width": 0}, "width multiplies the channels and must be above 0; got 0", id="no width"),
        pytest.param({"stem": "mnist"}, "stem must be 'imagenet' or 'cifar'; got 'mnist'", id="unknown stem"),
    ],
)
def test_a_network_that_cannot_work_is_refused(
    build: Callable[..., object], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build(**options)


def test_edge_weights_of_another_shape_are_refused() -> None:
    supernet = FBNetSupernet(width=0.25, image_size=8, stem="cifar")
    with pytest.raises(ValueError, match=r"hold 'layers' with shape \[22, 9\]; got \[22, 8\]"):
        supernet(torch.zeros(2, 3, 8, 8), {"layers": torch.zeros(22, 8)})


def test_a_config_lists_the_layers_first_to_last() -> None:
    config = SPACE.from_operations(FBNET_A)
    assert config == SubnetConfig("fbnet", {"layers": FBNET_A})
    assert SPACE.operations(config) == FBNET_A
    (graph,) = SPACE.graphs(config)
    assert [label for _, _, label in graph.edges] == list(FBNET_A)
    assert all(target == source + 1 for source, target, _ in graph.edges)
