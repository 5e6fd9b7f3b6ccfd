"""Weights of timm models, and checkpoints in once-for-all's layout that the tests make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn

from oneshot.supernets import ElasticResNetSupernet, MobileNetV3Supernet, convert_ofa, load_timm
from oneshot.supernets.elastic import ElasticArch
from oneshot.testing.spaces import disturb

SMALL: dict[str, Any] = {"num_classes": 3, "resolutions": (64,), "widths": (1.0,)}


def timm_model_of_the_largest_network(kernel: int, expansion: int, depth: int) -> nn.Module:
    """What timm builds of the description of a network, all of whose blocks are alike."""
    stages = [["ds_r1_k3_s1_e1_c16_nre"]]
    for channels, stride, rest in (
        (24, 2, "_nre"),
        (40, 2, "_se0.25_nre"),
        (80, 2, ""),
        (112, 1, "_se0.25"),
        (160, 2, "_se0.25"),
    ):
        stages.append([f"ir_r{depth}_k{kernel}_s{stride}_e{expansion}_c{channels}{rest}"])
    stages.append(["cn_r1_k1_s1_c960"])
    return MobileNetV3(
        decode_arch_def(stages),
        num_classes=3,
        num_features=1280,
        stem_size=16,
        head_bias=False,
        act_layer=nn.Hardswish,
        round_chs_fn=round_channels,
        se_layer=partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels),
    )


def test_a_timm_mobilenetv3_of_the_same_blocks_becomes_the_largest_network() -> None:
    """The same function by an independent implementation."""
    model = timm_model_of_the_largest_network(5, 4, 2)
    disturb(model).eval()
    supernet = MobileNetV3Supernet(depths=(1, 2), kernels=(3, 5), expansions=(3, 4), **SMALL).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = supernet(x, supernet.space.largest)
        result = load_timm(supernet, model)
        after = supernet(x, supernet.space.largest)
        torch.testing.assert_close(after, model(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, after, atol=1e-3)
    assert result.unused == ()
    assert all(name.endswith(("5to3", "num_batches_tracked")) for name in result.missing)
    assert set(result.loaded) | set(result.missing) == set(supernet.state_dict())


def test_of_mobilenetv3_large_what_fits_is_loaded_and_the_rest_is_named() -> None:
    model = timm.create_model("mobilenetv3_large_100", pretrained=False)
    disturb(model)
    supernet = MobileNetV3Supernet()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    result = load_timm(supernet, model.state_dict())
    after, source = supernet.state_dict(), model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in result.missing)
    for ours, theirs in {
        "stem.conv.weight": "conv_stem.weight",
        "stem.bn.running_var": "bn1.running_var",
        "first.project.conv.weight": "blocks.0.0.conv_pw.weight",
        "stages.3.1.se.reduce.bias": "blocks.4.1.se.conv_reduce.bias",
        "stages.4.2.project.conv.weight": "blocks.5.2.conv_pwl.weight",
        "expand.conv.weight": "blocks.6.0.conv.weight",
        "mix.weight": "conv_head.weight",
        "classifier.bias": "classifier.bias",
    }.items():
        assert ours in result.loaded
        assert torch.equal(after[ours], source[theirs])
    assert "blocks.4.1.conv_dw.weight" in result.unused and "conv_head.bias" in result.unused  # kernels are 7x7
    assert len(result.loaded) + len(result.unused) == len(source)
    # with the model's own blocks, more of it fits
    fitting = load_timm(MobileNetV3Supernet(kernels=(3, 5), expansions=(6,)), model)
    assert "blocks.5.2.conv_dw.weight" not in fitting.unused


def test_a_timm_resnet_50d_becomes_the_network_of_its_depths() -> None:
    """The same function by an independent implementation."""
    model = timm.create_model("resnet50d", pretrained=False, num_classes=3)
    for layer in disturb(model).modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
            layer.reset_running_stats()
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        model.train()(x)
    model.eval()
    options: dict[str, Any] = {"ratios": (0.2, 0.25), **SMALL}
    supernet = ElasticResNetSupernet(stem_shortcut=False, **options).eval()
    result = load_timm(supernet, model)
    assert result.unused == () and any(name.startswith("stages.0.3") for name in result.missing)
    config = supernet.space.config(ElasticArch(64, 1.0, tuple(("e0.25",) * depth for depth in (3, 4, 6, 3))))
    other = ElasticResNetSupernet(**options).eval()
    with torch.no_grad():
        torch.testing.assert_close(supernet(x, config), model(x), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(supernet.extract(config)(x), model(x), rtol=1e-3, atol=1e-4)
        with pytest.raises(ValueError, match=r"no shortcut, that of this supernet has one.*\(stem_shortcut=False\)"):
            load_timm(other, model)
        other.load_state_dict(supernet.state_dict())
        assert not torch.allclose(other(x, config), model(x), rtol=0.1)


def test_without_its_stem_a_network_for_small_images_has_the_stages() -> None:
    supernet = ElasticResNetSupernet(num_classes=3, image_size=32, widths=(1.0,), ratios=(0.2, 0.25), stem="cifar")
    result = load_timm(supernet, timm.create_model("resnet26d", pretrained=False, num_classes=3))
    assert {name.split(".")[0] for name in result.unused} == {"conv1", "bn1"}
    loaded = {name.split(".")[0] for name in result.loaded if not name.endswith("num_batches_tracked")}
    assert loaded == {"stages", "classifier"}


RESNET: dict[str, Any] = {"image_size": 32, "widths": (1.0,), "ratios": (0.25,), "stem_shortcut": False}


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        pytest.param("efficientnet_b0", r"se.conv_reduce.weight \(no place\)", id="efficientnet"),
        pytest.param("mobilenetv3_small_100", r"blocks.0.0.se.conv_reduce.weight \(no place\)", id="small"),
        pytest.param("mobilenetv3_large_075", r"stages.1.0.project.bn.weight \(none, or of another", id="width"),
        pytest.param("tf_mobilenetv3_large_100", r"conv_stem \(padding \(0, 0\) .* bn1 \(eps 0.001, not", id="tf"),
        pytest.param("resnet50", r"conv1.weight \(no place\)", id="stem"),
        pytest.param("resnet34d", r"stages.0.0.conv3.bn.weight \(none", id="basic blocks"),
        pytest.param("resnet50t", r"stem.0.bn.weight \(none, or of another shape\)", id="stem channels"),
    ],
)
def test_another_model_is_refused_and_changes_nothing(name: str, difference: str) -> None:
    resnet = name.startswith("resnet")
    supernet = ElasticResNetSupernet(**RESNET) if resnet else MobileNetV3Supernet(depths=(2,), expansions=(6,))
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    known = "resnet50d" if resnet else "mobilenetv3_large_100"
    with pytest.raises(ValueError, match=f"come from a timm {known}, or .* alike; .*{difference}.*Load that model"):
        load_timm(supernet, timm.create_model(name, pretrained=False))
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())


@pytest.mark.parametrize("source", [{}, {"features.0.weight": torch.zeros(1)}, {"fc.bias": torch.zeros(1000)}])
def test_what_holds_no_such_model_is_refused(source: Mapping[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"come from a timm resnet50d, or .*differs is "):
        load_timm(ElasticResNetSupernet(**RESNET), source)


def once_for_all(supernet: MobileNetV3Supernet, generation: int) -> dict[str, Tensor]:
    """A checkpoint of the layout of mit-han-lab/once-for-all; the second generation renamed the blocks."""
    block = {1: "mobile_inverted_conv", 2: "conv"}[generation]
    rows = supernet.space.stages[0].rows
    checkpoint = {}
    for name, tensor in disturb(supernet).state_dict().items():
        part, rest = name.split(".", 1)
        if part in ("stages", "first"):
            stage, row, rest = rest.split(".", 2) if part == "stages" else ("-", "-", rest)
            number = 0 if part == "first" else 1 + int(stage) * rows + int(row)
            elastic = "" if part == "first" else ".conv"  # an elastic layer holds a plain one
            normal = "" if part == "first" else ".bn"
            rest = re.sub(r"^depthwise\.conv\.matrices\.(\w+)", r"depth_conv.conv.\1_matrix", rest)
            rest = re.sub(r"^expand\.conv\.", f"inverted_bottleneck.conv{elastic}.", rest)
            rest = re.sub(r"^depthwise\.conv\.", f"depth_conv.conv{elastic}.", rest)
            rest = re.sub(r"^project\.conv\.", f"point_linear.conv{elastic}.", rest)
            for ours, theirs in (
                ("expand", "inverted_bottleneck"),
                ("depthwise", "depth_conv"),
                ("project", "point_linear"),
            ):
                rest = re.sub(rf"^{ours}\.bn\.", f"{theirs}.bn{normal}.", rest)
            rest = re.sub(r"^se\.", "depth_conv.se.fc.", rest)
            theirs = f"blocks.{number}.{block}.{rest}"
        else:
            layer = {"stem": "first_conv", "expand": "final_expand_layer", "mix": "feature_mix_layer.conv"}
            theirs = f"{layer.get(part, 'classifier.linear')}.{rest}"
        checkpoint[theirs] = tensor.clone()
    return checkpoint


SUPERNET: dict[str, Any] = {
    "num_classes": 3,
    "resolutions": (32, 40),
    "widths": (0.25,),
    "depths": (2, 3),
    "dropout": 0.0,
}


@pytest.mark.parametrize("generation", [1, 2])
def test_checkpoints_of_once_for_all_are_converted(generation: int, tmp_path: Path) -> None:
    source, target = MobileNetV3Supernet(**SUPERNET).eval(), MobileNetV3Supernet(**SUPERNET).eval()
    weights = once_for_all(source, generation)
    names = {
        1: "blocks.3.mobile_inverted_conv.depth_conv.conv.7to5_matrix",
        2: "blocks.3.conv.point_linear.bn.bn.weight",
    }
    assert names[generation] in weights and "blocks.6.conv.depth_conv.se.fc.reduce.weight" in {
        name.replace("mobile_inverted_conv", "conv") for name in weights
    }
    torch.save({"state_dict": weights, "acc": 1.0}, tmp_path / "ofa.pth")
    checkpoint = torch.load(tmp_path / "ofa.pth", weights_only=True)
    target.load_state_dict(convert_ofa(checkpoint, target), strict=True)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name]), name
    x, config = torch.randn(2, 3, 40, 40), target.space.sample(0)
    assert torch.equal(source(x, config), target(x, config))
    bare = {name: tensor for name, tensor in weights.items() if "num_batches_tracked" not in name}
    target.load_state_dict(convert_ofa(bare, target), strict=True)


def test_a_checkpoint_that_does_not_fit_is_refused_by_name() -> None:
    supernet = MobileNetV3Supernet(**SUPERNET)
    weights = once_for_all(supernet, 2)
    del weights["first_conv.conv.weight"]
    weights["blocks.1.conv.extra.weight"] = torch.zeros(1)
    weights["classifier.linear.bias"] = torch.zeros(5)
    with pytest.raises(ValueError) as error:
        convert_ofa(weights, supernet)
    for part in (
        "blocks.1.conv.extra.weight has no place",
        "classifier.linear.bias is [5], needed is [3]",
        "stem.conv.weight is missing",
    ):
        assert part in str(error.value)
    plain = MobileNetV3Supernet(**SUPERNET, kernel_transform=False)
    with pytest.raises(ValueError, match=r"7to5_matrix has no place"):
        convert_ofa(once_for_all(supernet, 2), plain)
    with pytest.raises(ValueError, match=r"matrices.7to5 is missing.*kernel_transform=False"):
        convert_ofa(once_for_all(plain, 2), supernet)
