"""The SqueezeNAS space against the facts its authors published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from oneshot.cost import count
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.segmentation import (
    CANDIDATES,
    SQUEEZENAS,
    STAGES,
    Macro,
    SegmentationNetwork,
    SegmentationSupernet,
    segmentation_space,
)
from oneshot.testing import SpaceContract

SMALL: dict[str, Any] = {"layers_per_stage": 2, "width": 0.25, "num_classes": 3, "image_size": 32}


class TestSegmentation(SpaceContract):
    configs_tested = 5

    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return SegmentationSupernet(layers_per_stage=2, width=0.25, num_classes=3, in_channels=2, image_size=32)


def test_a_layer_has_the_thirteen_candidates_of_the_paper() -> None:
    assert len(set(CANDIDATES)) == 13
    assert [name for name in CANDIDATES if name.endswith("_d2")] == ["k3_e1_d2", "k3_e1_g2_d2", "k3_e3_d2", "k3_e6_d2"]
    assert segmentation_space("small").size == 13**20
    assert segmentation_space("large").size == 13**22


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        pytest.param("squeezenas_mac_small", 3.007512576, id="mac_small"),
        pytest.param("squeezenas_lat_small", 4.47, id="lat_small"),
        pytest.param("squeezenas_mac_large", 9.38614784, id="mac_large"),
        pytest.param("squeezenas_lat_large", 19.57, id="lat_large"),
    ],
)
def test_a_published_network_has_its_published_number_of_macs(name: str, macs: float) -> None:
    """README of the authors' code, at 1024x2048; two of the numbers are given to the last digit."""
    with torch.device("meta"):
        network = SegmentationNetwork.published(name)
        ours = count(network, (3, 1024, 2048)).macs
    # The authors pool windows of 49x49 with strides 16 and 20, which leaves 1x4 values where we have one.
    ours += 3 * network.body.head.gate[1].weight.numel()
    assert round(ours / 1e9, len(str(macs).partition(".")[2])) == macs


def test_published_networks_hold_all_candidates_but_one_and_others_are_refused() -> None:
    used = {pick for _, layers in SQUEEZENAS.values() for pick in layers}
    assert set(CANDIDATES) - used == {"k5_e3"}  # for all others the numbers above speak
    with pytest.raises(ValueError, match="Published are squeezenas_mac_small, .*; got 'squeezenet'"):
        SegmentationNetwork.published("squeezenet")


@pytest.mark.parametrize("macro", list(STAGES))
def test_the_encoder_ends_at_a_sixteenth_and_the_head_reads_an_eighth(macro: Macro) -> None:
    net = SegmentationSupernet(macro=macro, **{**SMALL, "image_size": 64}).eval()
    sizes: dict[str, tuple[int, ...]] = {}
    net.body.head.register_forward_hook(
        lambda head, args, out: sizes.update(high=tuple(args[0].shape), low=tuple(args[1].shape), out=tuple(out.shape))
    )
    with torch.no_grad():
        logits = net(torch.randn(2, 3, 64, 64), net.one_hot(net.space.sample(0)))
    assert (sizes["high"][2:], sizes["low"][2:], sizes["out"]) == ((4, 4), (8, 8), (2, 3, 8, 8))
    assert logits.shape == (2, 3, 64, 64)


@pytest.mark.parametrize("shape", [(16, 16), (33, 47), (64, 32)])
def test_images_of_other_shapes_work(shape: tuple[int, int]) -> None:
    net = SegmentationSupernet(**SMALL).eval()
    x, config = torch.randn(1, 3, *shape), net.space.sample(0)
    with torch.no_grad():
        logits = net.run_config(x, config)
        assert logits.shape == (1, 3, *shape)
        assert torch.equal(net.extract(config)(x), logits)


def test_a_skip_between_equal_shapes_is_the_identity_and_costs_nothing() -> None:
    net = SegmentationNetwork(["k3_e1", "skip_connect"] * 5, **SMALL)
    x = torch.randn(1, *net.body.layers[0](torch.randn(1, 4, 16, 16)).shape[1:])
    assert net.body.layers[1](x) is x
    counts = SegmentationSupernet(**SMALL).candidate_parameters()["layer"][:, -1]
    assert (counts[1::2] == 0).all() and (counts[0::2] > 0).all()


def test_a_candidate_has_the_parameters_its_name_says() -> None:
    layer = 3  # 6 to 6 channels
    ops = SegmentationSupernet(**SMALL).mixed_ops()["layer"][layer][0].ops
    convs = [sum(m.weight.numel() for m in op.modules() if isinstance(m, nn.Conv2d)) for op in ops]
    c = 6

    def expected(kernel: int, expansion: int, groups: int) -> int:
        return 2 * expansion * c * c // groups + kernel**2 * expansion * c

    sizes = {3: [expected(3, e, g) for e, g in ((1, 1), (1, 2), (3, 1), (6, 1))]}
    sizes[5] = [expected(5, e, g) for e, g in ((1, 1), (1, 2), (3, 1), (6, 1))]
    assert convs == [*sizes[3], *sizes[5], *sizes[3], 0]


def test_batch_normalisation_of_the_supernet_has_scales_as_in_the_paper() -> None:
    norms = [m for m in SegmentationSupernet(**SMALL).modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(norm.affine for norm in norms)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        net = SegmentationSupernet(**SMALL)
        net.gradient_checkpointing = checkpointing
        arch = {"layer": torch.full((net.space.num_genes, len(CANDIDATES)), 1 / len(CANDIDATES))}
        net(torch.randn(2, 3, 32, 32), arch).square().mean().backward()
        gradients.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    "build",
    [SegmentationSupernet, lambda **options: SegmentationNetwork(["k3_e1"] * 10, **options)],
    ids=["supernet", "network"],
)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"macro": "huge"}, r"macro is one of \('small', 'large'\); got 'huge'", id="macro"),
        pytest.param({"layers_per_stage": 0}, "at least one layer; got layers_per_stage=0", id="no layers"),
        pytest.param({"width": 0.0}, r"must be positive; got 0\.0", id="no width"),
        pytest.param({"num_classes": 0}, "at least 1, and 2 for classes; got num_classes=0", id="one class"),
        pytest.param({"image_size": 15}, "at least 16 pixels; got image_size=15", id="small image"),
    ],
)
def test_a_network_that_cannot_work_is_refused(
    build: Callable[..., object], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        pytest.param(["k3_e1"] * 9, "must have 10 rows; got 9", id="a layer too few"),
        pytest.param(["k7_e1"] * 10, r"'k7_e1' is not a candidate of 'layer' \(row 0\)", id="unknown"),
    ],
)
def test_layers_that_are_not_of_the_space_are_refused(layers: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationNetwork(layers, **SMALL)
