"""Networks as backbones of Faster R-CNN."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from oneshot.deploy.detection import PyramidBackbone, faster_rcnn
from oneshot.discrete import GraphNetwork, plain_graph
from oneshot.supernets import NASNET_CELLS
from oneshot.supernets.base import Subnet
from oneshot.supernets.darts import DARTSNetwork
from oneshot.supernets.genotype import PUBLISHED
from oneshot.supernets.nasbench201 import NASBench201Network
from oneshot.supernets.nasnet import NASNetNetwork

SCRIPT = Path(__file__).parents[2] / "experiments/detection/run.py"


def nasnet(**options: Any) -> NASNetNetwork:
    settings = {"channels": 4, "cells_per_stage": 1, "image_size": 32, **options}
    return NASNetNetwork(NASNET_CELLS["NASNet-A"], **settings)


def darts() -> DARTSNetwork:
    return DARTSNetwork(PUBLISHED["DARTS_V2"], channels=4, cells=5, image_size=32, auxiliary=True)


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT), run_name="script")


@pytest.mark.parametrize("build", [nasnet, darts])
def test_a_pyramid_has_a_level_for_each_resolution_and_a_pooled_one(build: Any) -> None:
    backbone = PyramidBackbone(build(), channels=6, levels=2).eval()
    x = torch.randn(2, 3, 32, 32)
    pyramid = backbone(x)
    assert {name: tuple(m.shape) for name, m in pyramid.items()} == {
        "0": (2, 6, 16, 16),
        "1": (2, 6, 8, 8),
        "pool": (2, 6, 4, 4),
    }
    assert backbone.strides == [2, 4, 8]
    fine, coarse = backbone.network.feature_maps(x)[-2:]  # FPN by hand: arXiv:1612.03144, figure 3
    inner, outer = backbone.fpn.inner_blocks, backbone.fpn.layer_blocks
    top = inner[1](coarse)
    torch.testing.assert_close(pyramid["1"], outer[1](top))
    torch.testing.assert_close(pyramid["0"], outer[0](inner[0](fine) + F.interpolate(top, scale_factor=2)))


@pytest.mark.parametrize("build", [nasnet, darts])
def test_every_weight_that_is_left_to_train_has_a_gradient(build: Any) -> None:
    network: Subnet = build()
    detector = faster_rcnn(network, 3, channels=8)
    boxes = {"boxes": torch.tensor([[4.0, 4.0, 20.0, 24.0]]), "labels": torch.tensor([1])}
    losses = detector.train()([torch.rand(3, 32, 32)] * 2, [boxes] * 2)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    torch.autograd.backward(sum(losses.values()))
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in network.named_parameters() if p.grad is not None}
    assert {name for name, _ in network.named_parameters()} - trained == {"classifier.weight", "classifier.bias"}


def losses_of(network: Subnet) -> Tensor:
    boxes = {"boxes": torch.tensor([[4.0, 4.0, 20.0, 24.0]]), "labels": torch.tensor([1])}
    losses = faster_rcnn(network, 3, channels=8).train()([torch.rand(3, 32, 32)] * 2, [boxes] * 2)
    return torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize("frozen", ["all", "all but the classifier", "the first half"])
def test_what_is_frozen_stays_frozen(frozen: str) -> None:
    network = darts()
    named = list(network.named_parameters())
    kept = {
        "all": {name for name, _ in named},
        "all but the classifier": {name for name, _ in named if not name.startswith("classifier")},
        "the first half": {name for name, _ in named[: len(named) // 2]},
    }[frozen]
    for name, p in named:
        p.requires_grad_(name not in kept)
    losses_of(network).backward()  # type: ignore[no-untyped-call]  # torch
    trained = {name for name, p in network.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in network.named_parameters() if p.requires_grad}
    assert not trained & kept and bool(trained) == (frozen == "the first half")


def test_a_pyramid_is_built_where_gradients_are_off() -> None:
    network = nasnet()
    with torch.no_grad():
        PyramidBackbone(network, channels=6)
    left = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert left == {"classifier.weight", "classifier.bias"}


def test_a_searched_graph_is_a_backbone() -> None:
    network = GraphNetwork.from_graph(plain_graph((4, 8, 8)), (3, 32, 32), 10).eval()
    x = torch.randn(2, 3, 32, 32)
    maps = network.feature_maps(x)
    for found, name in zip(maps, ("3", "7", "11"), strict=True):  # ends of the blocks
        torch.testing.assert_close(found, network.output_of(x, name))
    assert PyramidBackbone(network, channels=6).strides == [1, 2, 4, 8]
    losses_of(network).backward()  # type: ignore[no-untyped-call]  # torch
    left = {name for name, p in network.named_parameters() if p.grad is None}
    assert left == {name for name, _ in network.named_parameters() if name.startswith("ops.13.")}


def test_building_a_pyramid_leaves_mode_and_statistics_as_they_are() -> None:
    network = nasnet().train()
    norm = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)).eval()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    PyramidBackbone(network, channels=6)
    assert network.training and not norm.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_options_of_the_detector_come_before_the_defaults() -> None:
    detector = faster_rcnn(nasnet(), 3, channels=8, min_size=48, box_score_thresh=0.9)
    assert detector.transform.min_size == (48,) and detector.transform.max_size == 32
    assert detector.roi_heads.score_thresh == 0.9
    assert detector.rpn.anchor_generator.sizes == ((8,), (16,), (32,), (64,))


def test_what_cannot_be_a_detector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"resolutions, here 3; got levels=4"):
        PyramidBackbone(nasnet(), levels=4)
    with pytest.raises(ValueError, match=r"here 3; got levels=0"):
        faster_rcnn(nasnet(), 3, levels=0)
    with pytest.raises(ValueError, match="the background and one object; got 1"):
        faster_rcnn(nasnet(), 1)
    cell = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|none~2|"
    with pytest.raises(ValueError, match="NASBench201Network offers no feature maps"):
        faster_rcnn(NASBench201Network(cell, channels=4, cells_per_stage=1), 3)


def test_found_boxes_are_counted_once_and_by_their_class(script: dict[str, Any]) -> None:
    square = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [40.0, 0.0, 50.0, 10.0]])
    target = {"boxes": square, "labels": torch.tensor([1, 2, 3])}
    guesses = {
        # the first object twice, off by two columns and exactly; the second as another class; the third unsure
        "boxes": torch.cat([square[:1] + torch.tensor([[2.0, 0.0, 2.0, 0.0]]), square]),
        "labels": torch.tensor([1, 1, 1, 3]),
        "scores": torch.tensor([0.99, 0.9, 0.9, 0.4]),
    }

    class Fixed(torch.nn.Module):
        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            return [guesses] * len(images)

    result = script["measure"](Fixed(), [torch.zeros(1)] * 12, [target] * 12)
    assert result == {"recall": pytest.approx(1 / 3), "precision": pytest.approx(1 / 3), "mean_iou": 1.0, "objects": 36}


def test_drawn_boxes_hold_their_colour(script: dict[str, Any]) -> None:
    images, targets = script["draw_rectangles"](20, np.random.default_rng(0))
    colours = torch.tensor(list(script["COLOURS"].values()))
    for image, target in zip(images, targets, strict=True):
        x0, y0, x1, y1 = target["boxes"][-1].int().tolist()
        inside = image[:, y0:y1, x0:x1].mean((1, 2))
        assert int((inside - colours).square().sum(1).argmin()) + 1 == int(target["labels"][-1])


@pytest.mark.slow
@pytest.mark.parametrize("build", [pytest.param(nasnet, marks=pytest.mark.nightly), darts])
def test_a_detector_learns_to_find_rectangles(build: Any, script: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = (
        nasnet(channels=8, image_size=64)
        if build is nasnet
        else DARTSNetwork(PUBLISHED["DARTS_V2"], channels=8, cells=5, image_size=64)
    )
    images, targets = script["draw_rectangles"](20, np.random.default_rng(1))
    detector, losses = script["train"](network, steps=60)
    found = script["measure"](detector, images, targets)
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert found["recall"] > 0.3
    assert found["mean_iou"] > 0.55
