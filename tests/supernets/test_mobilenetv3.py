"""The elastic MobileNetV3 against once-for-all's and NAT's published numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from oneshot.cli.main import main
from oneshot.cost.counting.network import count
from oneshot.deploy.export import export_subnet, load
from oneshot.supernets.elastic import ElasticSupernet
from oneshot.supernets.mobilenetv3 import Block, MobileNetV3Network, MobileNetV3Space, MobileNetV3Supernet
from oneshot.supernets.space import load_config
from oneshot.testing import ElasticContract

# Released by NAT's authors for CIFAR-10 (human-analysis/neural-architecture-transfer).
NAT_CIFAR10: dict[str, Any] = {
    "ks": [7, 7, 7, 7, 7, 3, 7, 5, 7, 7, 7, 3, 7, 7, 7, 3],
    "e": [3, 3, 6, 4, 6, 4, 3, 3, 6, 4, 6, 6, 6, 6, 3, 3],
    "d": [2, 2, 4, 4, 4],
    "r": 224,
    "w": 1.2,
}
LARGEST = [["k7_e6"] * 4] * 5


class TestMobileNetV3(ElasticContract):
    @pytest.fixture
    def supernet(self) -> ElasticSupernet:
        return MobileNetV3Supernet(
            num_classes=3, in_channels=2, image_size=16, widths=(0.2, 0.35), stem="cifar", dropout=0.0
        )


class TestWithoutTransformation(ElasticContract):
    """One width, two blocks, the stem for large images."""

    configs_tested = 3
    genes_per_mutation = 1
    blocks_differ_in_channels = False

    @pytest.fixture
    def supernet(self) -> ElasticSupernet:
        return MobileNetV3Supernet(
            num_classes=3,
            resolutions=(32, 40),
            widths=(0.25,),
            depths=(1, 2),
            kernels=(3, 5),
            expansions=(2,),
            kernel_transform=False,
            dropout=0.0,
        )


def divisible(channels: float) -> int:
    """Multiples of 8, not below nine tenths: MobileNetV2's code, written once more."""
    rounded = max(8, 8 * math.floor(channels / 8 + 0.5))
    return rounded + 8 if rounded < 0.9 * channels else rounded


def by_hand(stages: list[list[str]], width: float, size: int, classes: int) -> tuple[int, int]:
    """Parameters and MACs of a network from the table of arXiv:1908.09791's code, layer by layer."""
    params = macs = 0

    def conv(
        c_in: int, c_out: int, kernel: int, size: int, groups: int = 1, bias: bool = False, norm: bool = True
    ) -> None:
        nonlocal params, macs
        weights = c_in // groups * c_out * kernel**2
        params += weights + bias * c_out + norm * 2 * c_out
        macs += weights * size**2

    base = [divisible(c * width) for c in (16, 16, 24, 40, 80, 112, 160, 960, 1280)]
    size = math.ceil(size / 2)
    conv(3, base[0], 3, size)
    conv(base[0], base[0], 3, size, groups=base[0])
    conv(base[0], base[1], 1, size)
    c = base[1]
    for blocks, c_out, stride, excites in zip(stages, base[2:7], (2, 2, 2, 1, 2), (0, 1, 0, 1, 1), strict=True):
        for index, block in enumerate(blocks):
            kernel, expansion = int(block[1]), int(block[-1])
            middle = divisible(c * expansion)
            conv(c, middle, 1, size)
            size = math.ceil(size / stride) if index == 0 else size
            conv(middle, middle, kernel, size, groups=middle)
            if excites:
                conv(middle, divisible(middle // 4), 1, 1, bias=True, norm=False)
                conv(divisible(middle // 4), middle, 1, 1, bias=True, norm=False)
            conv(middle, c_out, 1, size)
            c = c_out
    conv(c, base[7], 1, size)
    conv(base[7], base[8], 1, 1, norm=False)
    conv(base[8], classes, 1, 1, bias=True, norm=False)
    return params, macs


def measured(stages: list[list[str]], **options: Any) -> tuple[int, int]:
    with torch.device("meta"):
        network = MobileNetV3Network(stages, **options)
        counts = count(network, network.input_shape)
    return counts.params, counts.macs


def test_the_largest_network_has_the_size_of_once_for_alls() -> None:
    """7.6 M parameters (mmrazor's converted supernet)."""
    params, macs = measured(LARGEST)
    assert (params, macs) == by_hand(LARGEST, 1.0, 224, 1000) == (7_664_760, 566_170_656)


def test_nats_network_for_cifar_10_has_the_published_size() -> None:
    """6.9 M parameters, 468 M multiply-adds; the convolutions have 1 % less."""
    space = MobileNetV3Space(resolutions=range(192, 257, 4), widths=(1.0, 1.2))
    config = space.config(space.from_lists(**NAT_CIFAR10))
    assert config["stage_0"] == ("k7_e3", "k7_e3", "none", "none") and config["width"] == (1.2,)
    stages = [list(stage) for stage in space.arch(config).stages]
    params, macs = measured(stages, width=1.2, num_classes=10)
    assert (params, macs) == by_hand(stages, 1.2, 224, 10)
    assert f"{params / 1e6:.1f}" == "6.9" and 0.985 * 468e6 < macs < 468e6


@pytest.mark.parametrize("width", [0.5, 1.2])
@pytest.mark.parametrize("block", ["k3_e3", "k5_e4"])
def test_other_networks_have_the_size_of_the_table(block: str, width: float) -> None:
    stages = [[block] * depth for depth in (2, 3, 4, 3, 2)]
    assert measured(stages, width=width, image_size=160) == by_hand(stages, width, 160, 1000)
    deeper = [[*stage, "k7_e6"] for stage in stages]
    assert measured(deeper, width=width, image_size=160) != by_hand(stages, width, 160, 1000)


def test_the_space_is_nats() -> None:
    space = MobileNetV3Space(resolutions=range(192, 257, 4), widths=(1.0, 1.2))
    assert space.gene_sizes == (17, 2, *[10] * 20)
    assert space.size == 17 * 2 * (9**2 + 9**3 + 9**4) ** 5
    order = tuple(f"k{k}_e{e}" for e in (3, 4, 6) for k in (3, 5, 7))  # NAT's 1 to 9
    assert space["stage_4"].candidates == order


def test_lists_of_all_rows_are_cut_to_the_depths() -> None:
    space = MobileNetV3Space()
    arch = space.from_lists(ks=[3, 5, 7, 3] * 5, e=[3, 4, 6, 6] * 5, d=[2, 3, 4, 2, 3], r=224)
    assert arch.stages[0] == ("k3_e3", "k5_e4") and arch.stages[2] == ("k3_e3", "k5_e4", "k7_e6", "k3_e6")
    assert arch == space.arch(space.config(arch))
    with pytest.raises(ValueError, match=r"layers \(14\) or rows \(20\); got 5, 13 and 13"):
        space.from_lists(ks=[3] * 13, e=[3] * 13, d=[2, 3, 4, 2, 3], r=224)


@pytest.mark.parametrize(
    ("stem", "size", "heights"),
    [
        pytest.param("imagenet", 224, (112, 112, 56, 28, 14, 14, 7), id="imagenet"),
        pytest.param("cifar", 32, (32, 32, 32, 16, 8, 8, 4), id="cifar"),
    ],
)
def test_the_shapes_are_those_of_the_paper(stem: Any, size: int, heights: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = MobileNetV3Network([["k3_e3"] * 2] * 5, image_size=size, stem=stem)
    found: list[tuple[int, ...]] = []
    for module in (network.stem, network.first, *(stage[-1] for stage in network.stages)):  # type: ignore[index]  # untyped
        module.register_forward_hook(lambda _m, _x, y: found.append((y.shape[1], y.shape[2])))
    network.eval()(torch.zeros(1, 3, size, size, device="meta"))
    assert found == list(zip((16, 16, 24, 40, 80, 112, 160), heights, strict=True))


def test_activations_and_excitation_are_in_the_stages_of_the_paper() -> None:
    network = MobileNetV3Network([["k3_e3"] * 2] * 5, width=0.25)
    kinds = [
        [{type(m) for m in layer.modules() if isinstance(m, nn.ReLU | nn.Hardswish)} for layer in stage]  # type: ignore[union-attr]  # untyped
        for stage in network.stages
    ]
    assert kinds == [[{nn.ReLU}] * 2] * 2 + [[{nn.Hardswish}] * 2] * 3
    assert [[layer.se is not None for layer in stage] for stage in network.stages] == [  # type: ignore[union-attr]  # untyped
        [excites] * 2 for excites in (False, True, False, True, True)
    ]


def test_resolutions_follow_the_images_unless_they_are_given() -> None:
    small: dict[str, Any] = {"widths": (0.1,), "depths": (1,), "stem": "cifar"}
    assert MobileNetV3Supernet(image_size=32, **small).space["resolution"].candidates == (16, 20, 24, 28, 32)
    given = MobileNetV3Supernet(image_size=32, resolutions=(48, 40), **small)
    assert given.space["resolution"].candidates == (40, 48)
    assert given.input_shape == (3, 48, 48)


def test_dropout_is_the_classifiers_and_of_training_only() -> None:
    supernet = MobileNetV3Supernet(num_classes=3, image_size=16, widths=(0.1,), stem="cifar", dropout=0.9)
    network, x = supernet.extract(supernet.space.largest), torch.randn(4, 3, 16, 16)
    for module, args in ((supernet, (x, supernet.space.largest)), (network, (x,))):
        assert not torch.equal(module(*args), module(*args))
        module.eval()
        assert torch.equal(module(*args), module(*args))


@pytest.mark.parametrize("name", ["k3", "e3_k3", "k3_e", "skip", "kx_e3", "k-3_e3"])
def test_a_block_with_another_name_is_refused(name: str) -> None:
    assert all(Block.parse(str(Block(k, e))) == (k, e) for k, e in itertools.product((3, 11), (1, 6)))
    with pytest.raises(ValueError, match=f"as 'k3_e6'; got '{name}'"):
        Block.parse(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"num_classes": 0}, "at least 1, and 2 for classes; got num_classes=0", id="one class"),
        pytest.param({"stem": "mnist"}, "stem must be 'imagenet' or 'cifar'; got 'mnist'", id="unknown stem"),
        pytest.param({"image_size": 31}, "at least 32 pixels; got image_size=31", id="small image"),
    ],
)
@pytest.mark.parametrize("build", [MobileNetV3Supernet, lambda **options: MobileNetV3Network(LARGEST, **options)])
def test_a_network_that_cannot_work_is_refused(
    build: Callable[..., object], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"resolutions": (64, 16)}, "at least 32 pixels; got image_size=16", id="low resolution"),
        pytest.param({"depths": (2, 4)}, r"consecutive, such as 2, 3, 4; got \(2, 4\)", id="depths"),
        pytest.param({"depths": (0, 1)}, r"depths are whole numbers from 1 on", id="no depth"),
        pytest.param({"resolutions": ()}, r"at least one; got \(\). Pass None for", id="no resolutions"),
        pytest.param({"widths": ()}, "width multiplies the channels and must be above 0", id="no widths"),
        pytest.param({"kernels": (3, 4)}, "Kernels must have odd sizes", id="even kernel"),
        pytest.param({"expansions": ()}, "expansions are whole numbers from 1 on", id="no expansions"),
    ],
)
def test_a_supernet_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        MobileNetV3Supernet(**options)


def test_an_extracted_network_is_exported_loaded_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    supernet = MobileNetV3Supernet(num_classes=3, image_size=16, widths=(0.2, 0.35), stem="cifar")
    network = supernet.extract(supernet.space.sample(0)).eval()
    folder = export_subnet(network, tmp_path / "export", formats=())
    loaded, x = load(folder), torch.randn(2, *network.input_shape)
    assert torch.equal(loaded(x), network(x))
    assert loaded.config == network.config
    supernet.space.validate(load_config(folder / "subnet.json"))
    assert main(["show", str(folder), "--out", str(tmp_path / "picture.png")]) == 0
    said = capsys.readouterr().out
    assert "MobileNetV3Network" in said and network.arch.stages[4][0] in said
    assert (tmp_path / "picture.png").is_file()


@pytest.mark.parametrize("stages", [[["k3_e3"]] * 4, [["k3_e3"]] * 4 + [[]]])
def test_a_network_has_five_stages_with_layers(stages: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="5 stages with a layer at least"):
        MobileNetV3Network(stages)
