"""The product's segmentation networks against textbook networks with the same weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from oneshot.supernets.segmentation import CANDIDATES, SQUEEZENAS, Macro, SegmentationNetwork, SegmentationSupernet

from .segmentation_net import FactorizedReduce, SqueezeNASNet
from .test_networks import (
    assert_same_behaviour,
    copy_weights,
    largest_difference,
    parameters,
    random_input,
    random_weights,
    randomise,
)

# A quarter of the width, two layers a stage: the numbers are written out, not computed.
SMALL: dict[str, Any] = {
    "stages": ((4, 2, 2), (6, 2, 2), (10, 2, 2), (12, 2, 1), (24, 2, 1)),
    "stem": 4,
    "mid": 32,
    "last": 64,
    "low": 3,
    "classes": 3,
}
OPTIONS: dict[str, Any] = {"layers_per_stage": 2, "width": 0.25, "num_classes": 3, "image_size": 64}
SIZE = 64  # large enough for dilated convolutions to run as four without holes
Pair = tuple[SegmentationSupernet, SqueezeNASNet]


def rename(name: str) -> str:
    """Name in the textbook network -> name in the supernet."""
    name = re.sub(r"^conv1\.", "stem.", name)
    name = re.sub(r"^blocks\.(\d+)\.ops\.", r"layers.\1.mixed.ops.", name)
    heads = {"top_left": "features", "bottom_left": "gate.1", "top_right": "high_classifier"}
    for theirs, ours in {**heads, "bottom_right": "low_classifier"}.items():
        name = re.sub(rf"^{theirs}\.", f"head.{ours}.", name)
    if match := re.match(r"(layers\.\d+\.mixed\.ops\.(\d+))\.(\d)\.(.*)", name):
        layer, candidate, part, rest = match[1], int(match[2]), match[3], match[4]
        if candidate < 12:
            parts = {"0": "expand.0", "1": "expand.1", "3": "depthwise", "4": "norm", "6": "project", "7": "last_norm"}
            name = f"{layer}.{parts[part]}.{rest}"
    return f"body.{name}"


def rename_derived(picks: list[int]) -> Callable[[str], str]:
    """The same for a standalone network, in which every layer has one candidate."""

    def derived(name: str) -> str:
        match = re.match(r"blocks\.(\d+)\.ops\.0\.(.*)", name)
        if not match:
            return rename(name)
        layer = int(match[1])
        full = rename(f"blocks.{layer}.ops.{picks[layer]}.{match[2]}")
        return re.sub(r"\.mixed\.ops\.\d+\.", ".op.", full)

    return derived


def pair() -> Pair:
    ours = SegmentationSupernet(**OPTIONS).double()
    randomise(ours)
    textbook = SqueezeNASNet([range(13)] * 10, **SMALL).double()
    copy_weights(ours, textbook, rename)
    return ours, textbook


def test_the_supernet_equals_the_textbook_network_under_random_edge_weights() -> None:
    ours, textbook = pair()
    weights = random_weights(10, 13, seed=1)
    assert_same_behaviour(
        ours,
        textbook,
        rename,
        lambda x: ours(x, {"layer": weights}),
        lambda x: textbook(x, weights.unbind()),
        (weights,),
        size=SIZE,
    )


def undilate(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.dilation == (2, 2):
            module.dilation, module.padding = (1, 1), (1, 1)


def forget_a_residual_connection(network: nn.Module) -> None:
    network.blocks[1].residual = False


def read_another_layer(network: nn.Module) -> None:
    network.low = 2


def leave_the_gate_open(network: nn.Module) -> None:
    nn.init.zeros_(network.bottom_left.weight)


def swap_halves(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, FactorizedReduce):
            module.conv_1, module.conv_2 = module.conv_2, module.conv_1


@pytest.mark.parametrize(
    "spoil", [undilate, forget_a_residual_connection, read_another_layer, leave_the_gate_open, swap_halves]
)
def test_a_wrong_network_fails_the_comparison(spoil: Callable[[nn.Module], None]) -> None:
    ours, textbook = pair()
    weights, x = random_weights(10, 13, seed=1), random_input(SIZE)
    with torch.no_grad():
        logits = ours(x, {"layer": weights})
        assert largest_difference(logits, textbook(x, weights.unbind())) < 1e-10
        spoil(textbook)
        assert largest_difference(logits, textbook(x, weights.unbind())) > 1e-3


def test_wrong_edge_weights_fail_the_comparison() -> None:
    ours, textbook = pair()
    weights, x = random_weights(10, 13, seed=1), random_input(SIZE)
    with torch.no_grad():
        logits = ours(x, {"layer": weights})
        for wrong in (weights.flip(0), weights.flip(1)):
            assert largest_difference(logits, textbook(x, wrong.unbind())) > 1e-3


@pytest.mark.parametrize(
    "picks",
    [
        pytest.param([0, 12, 1, 12, 2, 3, 4, 5, 6, 7], id="kernels"),
        pytest.param([12, 8, 12, 9, 12, 10, 12, 11, 12, 12], id="skips and dilation"),
    ],
)
def test_the_network_equals_the_textbook_network(picks: list[int]) -> None:
    ours = SegmentationNetwork([CANDIDATES[pick] for pick in picks], **OPTIONS).double()
    randomise(ours)
    textbook = SqueezeNASNet([[pick] for pick in picks], **SMALL).double()
    names = rename_derived(picks)
    copy_weights(ours, textbook, names)
    one = [torch.ones(1, dtype=torch.float64)] * 10
    assert_same_behaviour(ours, textbook, names, ours, lambda x: textbook(x, one), size=SIZE)


LARGE = ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (96, 4, 1), (160, 4, 1), (160, 1, 1))
FULL: dict[Macro, dict[str, Any]] = {
    "small": {"stages": ((16, 4, 2), (24, 4, 2), (40, 4, 2), (48, 4, 1), (96, 4, 1)), "low": 7, "last": 256},
    "large": {"stages": LARGE, "low": 8, "last": 0},
}


@pytest.mark.parametrize("name", SQUEEZENAS)
def test_a_published_network_has_exactly_the_textbook_number_of_parameters(name: str) -> None:
    macro, layers = SQUEEZENAS[name]
    with torch.device("meta"):
        picks = [[CANDIDATES.index(layer)] for layer in layers]
        textbook = SqueezeNASNet(picks, **FULL[macro], stem=16, mid=128, classes=19)
        assert parameters(SegmentationNetwork.published(name)) == parameters(textbook)
