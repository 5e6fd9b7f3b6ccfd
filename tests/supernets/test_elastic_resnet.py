"""The elastic ResNet against ResNet-50D of timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch

from oneshot.cost import count, count_candidates
from oneshot.supernets.elastic import ElasticSupernet
from oneshot.supernets.elastic_resnet import ElasticResNetNetwork, ElasticResNetSpace, ElasticResNetSupernet, ratio_of
from oneshot.testing import ElasticContract

RESNET50D = [["e0.25"] * depth for depth in (3, 4, 6, 3)]


class TestElasticResNet(ElasticContract):
    configs_tested = 5

    @pytest.fixture
    def supernet(self) -> ElasticSupernet:
        return ElasticResNetSupernet(
            num_classes=3, in_channels=2, resolutions=(9, 16), widths=(0.06, 0.1), ratios=(0.5, 1.0, 1.5), stem="cifar"
        )


LARGE: dict[str, Any] = {
    "num_classes": 3,
    "resolutions": (32, 37),
    "widths": (0.06,),
    "extra_depths": (0, 1),
    "ratios": (0.5, 1.0),
}


class TestStemForLargeImages(ElasticContract):
    configs_tested = 3
    genes_per_mutation = 1

    @pytest.fixture
    def supernet(self) -> ElasticSupernet:
        return ElasticResNetSupernet(**LARGE)


class TestStemOfResNetD(TestStemForLargeImages):
    @pytest.fixture
    def supernet(self) -> ElasticSupernet:
        return ElasticResNetSupernet(**LARGE, stem_shortcut=False)


def test_resnet_50d_has_the_size_of_timms() -> None:
    with torch.device("meta"):
        ours = count(ElasticResNetNetwork(RESNET50D), (3, 224, 224))
        theirs = count(timm.create_model("resnet50d", pretrained=False), (3, 224, 224))
    assert (ours.params, ours.macs) == (theirs.params, theirs.macs)
    assert f"{ours.params / 1e6:.2f}" == "25.58"
    assert count(ElasticResNetNetwork(RESNET50D, width=0.1), (3, 32, 32)).params < ours.params / 50


def test_a_stage_has_up_to_two_layers_more_than_the_fewest() -> None:
    space = ElasticResNetSpace()
    assert space.min_depths == (2, 2, 4, 2)
    assert [stage.rows for stage in space.stages] == [4, 4, 6, 4]
    assert space["width"].candidates == (0.65, 0.8, 1.0)
    assert space["stage_0"].candidates == ("e0.2", "e0.25", "e0.35")


def test_costs_come_from_tables() -> None:
    supernet = ElasticResNetSupernet(
        num_classes=3, resolutions=(9, 16), widths=(0.06, 0.1), ratios=(0.5, 1.0, 1.5), stem="cifar"
    )
    genes = supernet.space.sample_matrix(20, 0)
    networks = [supernet.extract(config, inherit=False) for config in supernet.space.decode(genes)]
    counts = [count(network, network.input_shape) for network in networks]
    for what in ("params", "macs", "memory"):
        found = [getattr(each, what) for each in counts]
        assert count_candidates(supernet, what).costs(genes).tolist() == found


@pytest.mark.parametrize(
    ("stem", "size", "heights"),
    [
        pytest.param("imagenet", 224, (56, 28, 14, 7), id="imagenet"),
        pytest.param("cifar", 32, (32, 16, 8, 4), id="cifar"),
    ],
)
def test_the_shapes_are_those_of_the_paper(stem: Any, size: int, heights: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = ElasticResNetNetwork(RESNET50D, image_size=size, stem=stem)
    found: list[tuple[int, ...]] = []
    for stage in network.stages:
        stage[-1].register_forward_hook(  # type: ignore[index, union-attr]  # ModuleList is untyped
            lambda _m, _x, y: found.append((y.shape[1], y.shape[2]))
        )
    network.eval()(torch.zeros(1, 3, size, size, device="meta"))
    assert found == list(zip((256, 512, 1024, 2048), heights, strict=True))


@pytest.mark.parametrize("name", ["k3_e3", "e", "0.25", "e-1", "e0", "einf", "skip"])
def test_a_block_with_another_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"as 'e0.25'; got '{name}'"):
        ratio_of(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"num_classes": 0}, "at least 1, and 2 for classes; got num_classes=0", id="one class"),
        pytest.param({"stem": "mnist"}, "stem must be 'imagenet' or 'cifar'; got 'mnist'", id="unknown stem"),
        pytest.param({"image_size": 31}, "at least 32 pixels; got image_size=31", id="small image"),
    ],
)
@pytest.mark.parametrize("build", [ElasticResNetSupernet, lambda **options: ElasticResNetNetwork(RESNET50D, **options)])
def test_a_network_that_cannot_work_is_refused(
    build: Callable[..., object], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"extra_depths": (0, 2)}, "depths of a stage must be consecutive", id="depths"),
        pytest.param({"extra_depths": (-1, 0)}, "extra_depths are whole numbers from 0 on", id="negative"),
        pytest.param({"resolutions": ()}, r"at least one; got \(\). Pass None for", id="no resolutions"),
        pytest.param({"ratios": (0.0, 0.25)}, "as 'e0.25'; got 'e0'", id="no channels"),
        pytest.param(
            {"widths": (0.2, 1.0)},
            "at width 0.2, 0.2 and 0.25 of 48 channels are both 16, a multiple of 8. Leave one out",
            id="ratios that are one",
        ),
        pytest.param({"widths": (0.0,)}, "width multiplies the channels and must be above 0; got 0.0", id="no width"),
    ],
)
def test_a_supernet_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        ElasticResNetSupernet(**options)


def test_a_network_has_four_stages_with_layers() -> None:
    with pytest.raises(ValueError, match="4 stages with a layer at least"):
        ElasticResNetNetwork(RESNET50D[:3])
