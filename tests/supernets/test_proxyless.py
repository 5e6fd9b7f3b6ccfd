"""The ProxylessNAS space against its paper and the networks its authors released."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from oneshot.cost.counting.network import count
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.proxyless import PROXYLESS_MOBILE, ProxylessNetwork, ProxylessSpace, ProxylessSupernet
from oneshot.testing import SpaceContract

SPACE = ProxylessSpace()
FIRST = [0, 4, 8, 12, 16, 20]  # of the stages


class TestProxyless(SpaceContract):
    configs_tested = 5

    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return ProxylessSupernet(width=0.25, num_classes=3, in_channels=2, image_size=9, stem="cifar")


def test_only_layers_behind_the_first_of_a_stage_can_be_skipped() -> None:
    blocks = ("k3_e3", "k3_e6", "k5_e3", "k5_e6", "k7_e3", "k7_e6")
    for i, choice in enumerate(SPACE.choices):
        assert choice.candidates == (blocks if i in FIRST else (*blocks, "skip"))
    assert SPACE.num_genes == 21 and SPACE.size == 6**6 * 7**15


def test_genes_and_pictures_are_in_the_order_of_the_layers() -> None:
    config = SPACE.from_operations(PROXYLESS_MOBILE)
    assert SPACE.operations(config) == PROXYLESS_MOBILE
    assert [SPACE.choices[i].candidates[gene] for i, gene in enumerate(SPACE.encode([config])[0])] == list(
        PROXYLESS_MOBILE
    )
    (graph,) = SPACE.graphs(config)
    assert [label for _, _, label in graph.edges] == list(PROXYLESS_MOBILE)


def test_proxyless_mobile_has_the_released_size_and_cost() -> None:
    """4,080,512 parameters (released weights, as counted in osmr/imgclsmob); 320 M multiply-accumulates (README)."""
    with torch.device("meta"):
        counts = count(ProxylessNetwork(PROXYLESS_MOBILE), (3, 224, 224))
    assert (counts.params, counts.macs) == (4_080_512, 320_427_584)


@pytest.mark.parametrize(
    ("stem", "size", "heights"),
    [
        pytest.param("imagenet", 224, (112, 56, 28, 14, 14, 7, 7), id="imagenet"),
        pytest.param("cifar", 32, (32, 32, 16, 8, 8, 4, 4), id="cifar"),
    ],
)
def test_the_shapes_are_those_of_figure_4(stem: Any, size: int, heights: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = ProxylessNetwork(PROXYLESS_MOBILE, image_size=size, stem=stem)
    found = []
    for module in (network.stem, *network.layers):
        module.register_forward_hook(lambda _m, _x, y: found.append((y.shape[1], y.shape[2])))
    network.eval()(torch.zeros(1, 3, size, size, device="meta"))
    channels, depths = (16, 32, 40, 80, 96, 192, 320), (1, 4, 4, 4, 4, 4, 1)
    assert found == [(c, h) for c, h, depth in zip(channels, heights, depths, strict=True) for _ in range(depth)]


def test_batch_normalisation_is_the_authors_everywhere() -> None:
    for network in (ProxylessSupernet(width=0.25, image_size=32), ProxylessNetwork(PROXYLESS_MOBILE, width=0.25)):
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and all(norm.affine and norm.eps == 1e-3 for norm in norms)


def test_the_first_layer_of_a_stage_cannot_be_skipped() -> None:
    operations = ["k3_e3"] * 12 + ["skip"] + ["k3_e3"] * 8
    with pytest.raises(ValueError, match=r"'skip' is not a candidate of 'layer_13'"):
        ProxylessNetwork(operations)


@pytest.mark.parametrize("build", [ProxylessSupernet, lambda **options: ProxylessNetwork(PROXYLESS_MOBILE, **options)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"num_classes": 0}, "at least 1, and 2 for classes; got num_classes=0", id="one class"),
        pytest.param({"image_size": 31}, "at least 32 pixels; got image_size=31", id="small image"),
        pytest.param({"width": -1}, "width multiplies the channels and must be above 0; got -1", id="negative width"),
    ],
)
def test_a_network_that_cannot_work_is_refused(
    build: Callable[..., object], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build(**options)


def test_edge_weights_of_a_layer_that_cannot_be_skipped_have_no_column_for_it() -> None:
    supernet = ProxylessSupernet(width=0.25, image_size=8, stem="cifar")
    arch = {**supernet.one_hot(supernet.space.sample(0)), "layer_05": torch.zeros(1, 7)}
    with pytest.raises(ValueError, match=r"hold 'layer_05' with shape \[1, 6\]; got \[1, 7\]"):
        supernet(torch.zeros(2, 3, 8, 8), arch)
