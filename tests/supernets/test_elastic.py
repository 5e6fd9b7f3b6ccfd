"""Elastic spaces and layers, beyond what their contract says of any space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from oneshot.supernets.base import batch_statistics, frozen_batch_norm
from oneshot.supernets.elastic import (
    ElasticArch,
    ElasticSpace,
    ElasticSupernet,
    default_resolutions,
    elastic_choices,
    resized,
    sort_channels,
)
from oneshot.supernets.elastic_layers import (
    ElasticBatchNorm2d,
    ElasticBlock,
    ElasticConv2d,
    ElasticDepthwise,
    ElasticLinear,
    ElasticSqueezeExcitation,
    SqueezeExcitation,
    by_importance,
    inherit_slices,
)
from oneshot.supernets.elastic_resnet import ElasticResNetSupernet
from oneshot.supernets.mobilenetv3 import MobileNetV3Supernet
from oneshot.supernets.space import Choice, SubnetConfig

BLOCKS = ("small", "large")
SPACE = ElasticSpace("toy", elastic_choices((16, 32), (0.5, 1.0), BLOCKS, (3, 2)), (1, 2))
NONE = len(BLOCKS)


def config(**picks: list[Any]) -> SubnetConfig:
    return SubnetConfig(
        "toy",
        {"resolution": [16], "width": [1.0], "stage_0": ["small", "none", "none"], "stage_1": ["small"] * 2} | picks,
    )


def test_the_size_counts_every_architecture_once() -> None:
    assert SPACE.size == 2 * 2 * (2 + 2**2 + 2**3) * 2**2
    everything = np.array(list(np.ndindex(*SPACE.gene_sizes)))
    assert len(np.unique(SPACE.repair(everything), axis=0)) == SPACE.size


@pytest.mark.parametrize(
    ("genes", "repaired"),
    [
        pytest.param([0, 0, 0, 1, 0, 1, 1], [0, 0, 0, 1, 0, 1, 1], id="nothing to do"),
        pytest.param([1, 0, 1, NONE, 0, 1, 0], [1, 0, 1, 0, NONE, 1, 0], id="a hole closes, in order"),
        pytest.param([0, 1, NONE, NONE, NONE, 1, 1], [0, 1, 0, NONE, NONE, 1, 1], id="a first layer is filled in"),
        pytest.param([0, 0, NONE, NONE, 1, NONE, 1], [0, 0, 1, NONE, NONE, 1, 0], id="both in one genome"),
    ],
)
def test_repair(genes: list[int], repaired: list[int]) -> None:
    assert SPACE.repair([genes]).tolist() == [repaired]


@pytest.mark.parametrize(
    ("picks", "message"),
    [
        pytest.param(
            {"stage_0": ["small", "none", "large"]},
            r"'stage_0' of space 'toy' holds 'none' in row 1 of genome 0, \['small', 'none', 'large'\]; no row behind "
            r"a 'none' holds a layer. space.repair\(genes\) makes it so",
            id="hole",
        ),
        pytest.param(
            {"stage_1": ["large", "none"]},
            "'stage_1' of space 'toy' holds 'none' in row 1 .*; its first 2 rows hold a layer",
            id="first layer missing",
        ),
        pytest.param({"stage_0": ["none"] * 3}, "'stage_0' .* in row 0 .*; its first 1 rows hold a layer", id="empty"),
        pytest.param({"resolution": [24]}, "24 is not a candidate of 'resolution'", id="resolution"),
    ],
)
def test_a_config_that_breaks_a_rule_is_refused(picks: dict[str, list[Any]], message: str) -> None:
    SPACE.validate(config())
    with pytest.raises(ValueError, match=message):
        SPACE.validate(config(**picks))


def test_a_mutation_ends_a_stage_or_makes_it_grow() -> None:
    start, generator = config(stage_0=["small", "none", "none"]), np.random.default_rng(0)
    children = [SPACE.mutate(start, generator) for _ in range(500)]
    stages = {child["stage_0"] for child in children}
    assert ("large", "none", "none") in stages and ("small", "large", "none") in stages
    assert {s for s in stages if "none" not in s} == {("small", a, b) for a in BLOCKS for b in BLOCKS}
    ended = {SPACE.mutate(config(stage_0=["large"] * 3), generator)["stage_0"] for _ in range(500)}
    assert {("large", "large", "none"), ("large", "none", "none")} <= ended
    single = ElasticSpace("one", elastic_choices((8,), (1.0,), ("only",), (1,)), (1,))
    with pytest.raises(ValueError, match="'one' must have two architectures or more"):
        single.mutate(single.smallest)


def test_certainty_of_nothing_leaves_a_layer_out() -> None:
    likely = SPACE.one_hot(config(stage_0=["large", "small", "none"]))
    likely["stage_0"][1] = [0.2, 0.3]  # so 0.5 for none
    assert SPACE.most_likely(likely)["stage_0"] == ("large", "none", "none")


def test_an_architecture_is_drawn_as_a_chain_of_its_layers() -> None:
    (graph,) = SPACE.graphs(config(stage_0=["large", "small", "none"]))
    assert graph.nodes == ("16 px, width 1", "0.0", "0.1", "1.0", "1.1")
    assert [label for _, _, label in graph.edges] == ["large", "small", "small", "small"]


def test_an_architecture_of_another_space_has_no_config() -> None:
    with pytest.raises(ValueError, match="must have 2 stages; got 1"):
        SPACE.config(ElasticArch(16, 1.0, (("small",),)))
    with pytest.raises(ValueError, match="'stage_1' .* its first 2 rows"):
        SPACE.config(ElasticArch(16, 1.0, (("small",), ("small",))))


STAGE = Choice("stage_0", BLOCKS, rows=2, droppable=True)
RESOLUTION, WIDTH = Choice("resolution", (16, 32)), Choice("width", (1.0,))


@pytest.mark.parametrize(
    ("choices", "least", "message"),
    [
        pytest.param((WIDTH, RESOLUTION, STAGE), 1, r"choices \['resolution', 'width', 'stage_0'\]", id="order"),
        pytest.param((Choice("resolution", (32, 16)), WIDTH, STAGE), 1, "smallest to the largest", id="not sorted"),
        pytest.param((RESOLUTION, Choice("width", (0.0,)), STAGE), 1, "numbers above 0", id="no width"),
        pytest.param((RESOLUTION, WIDTH, STAGE), 0, "layers must be from 1 to all its rows", id="no layers"),
        pytest.param((RESOLUTION, WIDTH, STAGE), 3, "layers must be from 1 to all its rows", id="too many layers"),
        pytest.param((RESOLUTION, WIDTH, Choice("stage_0", BLOCKS, rows=2)), 1, "be droppable", id="not droppable"),
    ],
)
def test_a_space_that_cannot_be_is_refused(choices: tuple[Choice, ...], least: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ElasticSpace("toy", choices, (least,))


@pytest.mark.parametrize(
    ("size", "halvings", "expected"),
    [(32, 3, (16, 20, 24, 28, 32)), (28, 3, (16, 20, 24, 28)), (9, 3, (8, 9)), (224, 5, (112, 140, 168, 196, 224))],
)
def test_default_resolutions_end_at_the_images(size: int, halvings: int, expected: tuple[int, ...]) -> None:
    assert default_resolutions(size, halvings) == expected


def test_resizing_leaves_images_of_the_size_alone_and_keeps_their_type() -> None:
    x = torch.randn(2, 3, 16, 16)
    assert resized(x, 16) is x
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert resized(x.to(dtype), 12).dtype == dtype
    flat = resized(torch.full((1, 1, 20, 20), 0.7), 8)
    assert flat.shape == (1, 1, 8, 8)
    torch.testing.assert_close(flat, torch.full((1, 1, 8, 8), 0.7))


def by_hand(layer: ElasticDepthwise, channels: int, size: int) -> np.ndarray[Any, Any]:
    """The kernel transformation, one channel after the other."""
    weight = layer.weight.detach().double().numpy()[:channels, 0]
    for large, small in ((7, 5), (5, 3)):
        if small < size:
            break
        matrix = layer.matrices[f"{large}to{small}"].detach().double().numpy()
        centre = [w[1:-1, 1:-1].ravel() for w in weight]
        weight = np.stack([(matrix @ c).reshape(small, small) for c in centre])
    return weight[:, None]


@pytest.mark.parametrize("size", [3, 5, 7])
def test_smaller_kernels_are_the_transformed_centre_of_larger_ones(size: int) -> None:
    torch.manual_seed(0)
    layer = ElasticDepthwise(6, (7, 3, 5)).double()
    centre = layer.weight[:4, :, (7 - size) // 2 : (7 + size) // 2, (7 - size) // 2 : (7 + size) // 2]
    assert torch.equal(layer.kernel(4, size), centre)  # identities at first
    with torch.no_grad():
        for matrix in layer.matrices.values():
            matrix.add_(0.3 * torch.randn_like(matrix))
    kernel = layer.kernel(4, size).detach().numpy()
    np.testing.assert_allclose(kernel, by_hand(layer, 4, size), rtol=1e-12, atol=1e-12)
    if size < 7:
        assert not np.allclose(kernel, centre.detach(), rtol=1e-2)  # the comparison can tell
        for matrix in layer.matrices.values():
            matrix.data = matrix.data.T
        assert not np.allclose(layer.kernel(4, size).detach(), kernel, rtol=1e-2)


def test_without_matrices_smaller_kernels_are_the_centre() -> None:
    layer = ElasticDepthwise(4, (3, 7), transform=False)
    assert torch.equal(layer.kernel(2, 3), layer.weight[:2, :, 2:5, 2:5])
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


@pytest.mark.parametrize("kernels", [(), (3, 4), (-1,)])
def test_kernels_are_odd(kernels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Kernels must have odd sizes"):
        ElasticDepthwise(4, kernels)
    with pytest.raises(ValueError, match=r"must be one of \(3, 5\); got 7"):
        ElasticDepthwise(4, (3, 5)).kernel(4, 7)


def test_convolution_and_linear_layer_use_the_first_channels() -> None:
    torch.manual_seed(0)
    conv, linear, x = ElasticConv2d(6, 8, 3, stride=2, bias=True), ElasticLinear(6, 3), torch.randn(2, 4, 5, 5)
    plain = nn.Conv2d(4, 5, 3, 2, padding=1)
    inherit_slices(plain, conv)
    assert torch.equal(conv(x, 5), plain(x))
    assert conv(x).shape == (2, 8, 3, 3)
    head = nn.Linear(4, 3)
    inherit_slices(head, linear)
    assert torch.equal(linear(x.mean((2, 3))), head(x.mean((2, 3))))


def test_squeeze_and_excitation_is_the_formula_of_mobilenetv3() -> None:
    """Independent: arXiv:1905.02244, section 5.2 and 5.3, in float64."""
    torch.manual_seed(0)
    elastic, x = ElasticSqueezeExcitation(96).double(), torch.randn(2, 64, 3, 3, dtype=torch.float64)
    reduce, expand = elastic.reduce.weight[:16, :64, 0, 0], elastic.expand.weight[:64, :16, 0, 0]
    assert elastic.reduce.bias is not None and elastic.expand.bias is not None
    inner = (x.mean((2, 3)) @ reduce.T + elastic.reduce.bias[:16]).clamp_min(0)
    scale = ((inner @ expand.T + elastic.expand.bias[:64]) + 3).clamp(0, 6) / 6
    torch.testing.assert_close(elastic(x), x * scale[:, :, None, None], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(elastic(x), x * torch.sigmoid(scale)[:, :, None, None], rtol=1e-2)
    plain = SqueezeExcitation(64).double()
    inherit_slices(plain, elastic)
    assert torch.equal(plain(x), elastic(x))


@pytest.mark.parametrize("channels", [4, 8])
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("mode", ["train", "eval", "frozen", "batch"])
def test_batch_norm_is_that_of_as_many_channels(channels: int, momentum: float | None, mode: str) -> None:
    elastic, plain = ElasticBatchNorm2d(8, momentum=momentum), nn.BatchNorm2d(channels, momentum=momentum)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (elastic.weight, elastic.bias, elastic.running_mean, elastic.running_var):
            assert tensor is not None
            tensor.copy_(torch.rand(8, generator=generator) + 0.5)
    elastic.num_batches_tracked = torch.tensor(2)
    inherit_slices(plain, elastic)
    for layer in (elastic, plain):
        layer.train(mode in ("train", "frozen"))
    rest = [t[channels:].clone() for t in (elastic.running_mean, elastic.running_var) if t is not None]
    x = torch.randn(4, channels, 3, 3, generator=generator)
    context: Any = {"frozen": frozen_batch_norm, "batch": batch_statistics}.get(mode)
    for _ in range(2):
        if context is None:
            outputs = elastic(x), plain(x)
        else:
            with context(elastic), context(plain):
                outputs = elastic(x), plain(x)
        assert torch.equal(*outputs)
    for name, tensor in plain.state_dict().items():
        own = elastic.state_dict()[name]
        assert torch.equal(own[:channels] if own.dim() else own, tensor), name
    assert elastic.running_mean is not None and elastic.running_var is not None
    assert torch.equal(elastic.running_mean[channels:], rest[0])
    assert torch.equal(elastic.running_var[channels:], rest[1])
    elastic.reset_running_stats()
    assert not elastic.running_mean.any() and int(elastic.num_batches_tracked or 0) == 0


def test_batch_norm_without_statistics_or_scale() -> None:
    x = torch.randn(4, 3, 2, 2)
    for training in (True, False):
        bare = ElasticBatchNorm2d(5, affine=False, track_running_stats=False).train(training)
        torch.testing.assert_close(bare(x), nn.BatchNorm2d(3)(x))


def test_networks_whose_names_differ_cannot_inherit() -> None:
    with pytest.raises(
        ValueError, match=r"Sequential must have 0.weight, at least of shape \[3, 9, 1, 1\], for Sequential"
    ):
        inherit_slices(nn.Sequential(nn.Conv2d(9, 3, 1)), nn.Sequential(ElasticConv2d(8, 8)))
    with pytest.raises(ValueError, match="must have 1.weight"):
        inherit_slices(nn.Sequential(nn.ReLU(), nn.Linear(1, 1)), nn.Sequential(nn.ReLU()))


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("transform", [True, False])
def test_a_smaller_depthwise_kernel_is_one_with_its_own_padding(size: int, stride: int, transform: bool) -> None:
    layer = ElasticDepthwise(4, (3, 5, 7), stride=stride, transform=transform).double()
    for matrix in layer.matrices.values():
        nn.init.normal_(matrix)
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    plain = nn.Conv2d(4, 4, size, stride, padding=(size - 1) // 2, groups=4, bias=False).double()
    plain.weight.data.copy_(layer.kernel(4, size))
    ours = layer(x, size)
    torch.testing.assert_close(ours, plain(x), rtol=1e-12, atol=1e-12)
    assert ours.shape[2:] == ((9, 9) if stride == 1 else (5, 5))


def test_channels_that_are_read_with_large_weights_come_first() -> None:
    """A narrow network has the first ones (OFA, arXiv:1908.09791, section 3.2: the sum of absolute values)."""
    weight = torch.zeros(2, 4, 1, 1)
    weight[:, :, 0, 0] = torch.tensor([[1.0, -9.0, 0.0, 3.0], [2.0, 9.0, 0.5, 3.0]])  # sums 3, 18, 0.5, 6
    assert by_importance(weight).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("kind", [MobileNetV3Supernet, ElasticResNetSupernet])
def test_sorted_channels_fall_in_importance_in_every_block(kind: type[ElasticSupernet]) -> None:
    torch.manual_seed(0)
    supernet = kind(num_classes=3, image_size=32)
    sort_channels(supernet)
    readers = []
    for block in supernet.modules():
        if isinstance(block, ElasticBlock):
            names = ("project",) if kind is MobileNetV3Supernet else ("conv2", "conv3")
            if getattr(block, "expand", block) is not None:  # a block that does not expand stays as it is
                readers += [getattr(block, name).conv for name in names]
    assert len(readers) > 10
    for reader in readers:
        norms = reader.weight.detach().abs().sum((0, 2, 3))
        assert (norms[:-1] >= norms[1:]).all() and norms[0] > norms[-1]
