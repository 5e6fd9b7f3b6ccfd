"""Files of converted networks: written, read back by the factory of the original, and refused where they differ."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

import oneshot
from oneshot.conversion import ConvertedNetwork, ConvertedSupernet, build
from oneshot.supernets.base import example_inputs

OWN = '''
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self, channels: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.head = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(torch.relu(self.bn(self.stem(x)))).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand, self.project = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.project(torch.relu(self.expand(x)))


class TwoInputs(nn.Module):
    """An image and a row of numbers, by name; two outputs, by name."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.image, self.table = nn.Conv2d(3, width, 3, stride=2), nn.Linear(6, width)
        self.hidden, self.head = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, 4)
        self.other = nn.Linear(width, 2)

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        image, table = torch.relu(self.image(inputs["image"])).mean((2, 3)), torch.relu(self.table(inputs["table"]))
        both = torch.relu(self.hidden(torch.cat([image, table], 1)))
        return {"other": self.other(table), "classes": self.head(both)}


def small(channels: int = 16, blocks: int = 3) -> nn.Module:
    return Small(channels, blocks)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of networks, which Python finds."""
    (tmp_path / "my_files.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_files", raising=False)
    return tmp_path


def of_images(source: str, side: int = 64, **arguments: Any) -> Callable[[], ConvertedSupernet]:
    def make() -> ConvertedSupernet:
        return oneshot.convert(source=source, arguments=arguments, input_shape=(3, side, side), width=(0.5, 1.0))

    return make


def of_dicts() -> ConvertedSupernet:
    example = {"image": torch.randn(2, 3, 8, 8), "table": torch.randn(2, 6)}
    return oneshot.convert(None, example, source="my_files.TwoInputs", output="classes", multiple=4)


NETWORKS: dict[str, tuple[Callable[[], ConvertedSupernet], str]] = {
    "own": (of_images("my_files.small", 8), "Small"),
    "dicts": (of_dicts, "TwoInputs"),
    "resnet10t": (of_images("timm:resnet10t", 32), "ResNet"),
}
LARGE: dict[str, tuple[Callable[[], ConvertedSupernet], str]] = {
    "resnet18": (of_images("torchvision:resnet18"), "ResNet"),
    "lite0": (of_images("timm:tf_efficientnet_lite0"), "EfficientNet"),
    "vit": (of_images("timm:vit_tiny_patch16_224", img_size=64), "VisionTransformer"),
}


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        *(pytest.param(*NETWORKS[name], id=name) for name in ("own", "dicts")),
        pytest.param(*NETWORKS["resnet10t"], id="resnet10t", marks=pytest.mark.nightly),
        *(pytest.param(*case, id=name, marks=pytest.mark.nightly) for name, case in LARGE.items()),
    ],
)
def test_a_variant_is_written_as_all_files_and_read_back_bit_by_bit(
    make: Callable[[], ConvertedSupernet], kind: str, own: Path
) -> None:
    torch.manual_seed(0)
    supernet = make().eval()
    for seed, config in enumerate([supernet.space.smallest, supernet.space.sample(1)]):
        network = supernet.extract(config)
        folder = oneshot.export_subnet(network, own / f"export{seed}")
        again = oneshot.load(folder, trust=("my_files",))
        assert isinstance(again, ConvertedNetwork)
        assert type(again.network).__name__ == kind
        assert again.config == config
        assert not hasattr(again, "space")
        batch = example_inputs(network, 3)
        with torch.no_grad():
            wanted = network(batch)
            torch.testing.assert_close(again(batch), wanted, rtol=0, atol=0)
            torch.testing.assert_close(again(batch), supernet(batch, config), rtol=0, atol=0)
            program = torch.export.load(folder / "model.pt2").module()
            torch.testing.assert_close(program(batch), wanted, rtol=1e-4, atol=1e-5)
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        arrays = batch if isinstance(batch, dict) else {"images": batch}
        (found,) = session.run(None, {name: part.numpy() for name, part in arrays.items()})
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-5)
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["params"] == sum(p.numel() for p in network.network.parameters())
        assert manifest["class_path"] == "oneshot.conversion.ConvertedNetwork"


def exported(own: Path, name: str = "own") -> Path:
    """A variant with smaller layers and without a block, written."""
    torch.manual_seed(0)
    supernet = NETWORKS[name][0]()
    return oneshot.export_subnet(supernet.extract(supernet.space.smallest), own / "export", formats=())


def change(folder: Path, **changes: Any) -> None:
    """Change arguments of the network in the file of an export, as somebody would who knows no better."""
    path = folder / "subnet.json"
    said = json.loads(path.read_text())
    said["network"]["init_args"] |= changes
    path.write_text(json.dumps(said))
    (folder / "manifest.json").unlink()


def test_the_original_comes_back_too(own: Path) -> None:
    supernet = oneshot.convert(source="my_files.small", input_shape=(3, 8, 8)).eval()
    network = supernet.extract(supernet.space.largest)
    again = oneshot.load(oneshot.export_subnet(network, own / "largest", formats=()), trust=("my_files",))
    assert again.init_args["shapes"] == {} and again.init_args["dropped"] == []
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(again(x), supernet.network(x), rtol=0, atol=0)


def test_a_network_without_a_source_is_not_written(own: Path) -> None:
    supernet = oneshot.convert(build("my_files.small"), torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"source must name what builds the network.*Pass source= to oneshot.convert"):
        oneshot.export_subnet(supernet.extract(supernet.space.smallest), own / "export")
    assert not (own / "export").exists()


def test_the_source_of_a_file_is_built_only_where_it_is_trusted(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported(own)
    monkeypatch.delitem(sys.modules, "my_files")
    with pytest.raises(
        ValueError, match=r"this is my_files.small. If you trust it, pass trust=\('my_files',\)"
    ) as error:
        oneshot.load(folder)
    assert "\n" not in str(error.value) and "my_files" not in sys.modules
    oneshot.load(folder, trust=("my_files",))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "timm:resnet10t"}, r"is missing in what it builds now"),
        ({"source": "timm:resnt18"}, r"Did you mean"),
        ({"source": None}, r"source must name what builds"),
        ({"source": "my_files.smal"}, r"has no attribute 'smal'\. Did you mean 'small'"),
        ({"arguments": {"channels": 4}}, r"Use the version of the package"),
        ({"arguments": {"blocks": 1}}, r"is missing in what it builds now"),
        ({"arguments": {"weights": "x"}}, r"unexpected keyword argument 'weights'"),
        ({"dropped": ["blocks.9"]}, r"block 'blocks.9' that is left out is missing"),
        ({"attributes": [["stem", "no_such", None, 3]]}, r"attribute 'no_such' of module 'stem' is missing"),
        ({"attributes": [["stem", "out_channels", None, "many"]]}, r"attributes must hold a path and whole numbers"),
        ({"attributes": [["stem", "__class__", None, 3]]}, r"attribute '__class__' of module 'stem' is missing"),
        ({"attributes": [["stem"]]}, r"attributes must hold"),
        ({"attributes": "stem"}, r"attributes must hold"),
        ({"shapes": {"stem.weight": [99, 3, 3, 3]}}, r"1 of 1 tensors, such as 'stem.weight', are missing or smaller"),
        ({"shapes": {"stem.weight": [4, 3, 3]}}, r"are missing or smaller"),
        ({"shapes": {"stem.weight": "four"}}, r"stem.weight\[0\] must be a whole number"),
        ({"shapes": {}}, r"weights of another network"),
        ({"head": ["no_such", 3]}, r"must have the layer 'no_such'"),
        ({"head": ["head", 10**12]}, r"num_classes must be at most"),
        ({"head": "head"}, r"head must hold"),
        ({"num_classes": 6}, r"has outputs \[1, 5\], not 6 of them"),
        ({"output": [3]}, r"output must be"),
    ],
    ids=str,
)
def test_a_file_that_was_changed_or_is_of_another_version_is_refused_in_one_line(
    changes: dict[str, Any], said: str, own: Path
) -> None:
    folder = exported(own)
    change(folder, **changes)
    with pytest.raises(ValueError, match=said) as error:
        oneshot.load(folder, trust=("my_files",))
    assert len(str(error.value).splitlines()) == 1
    assert str(folder) in str(error.value)


def test_a_source_that_builds_something_else_now_is_refused(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported(own)
    (own / "my_files.py").write_text(
        OWN.replace("self.stem, self.bn", "self.first, self.bn").replace("self.stem(", "self.first(")
    )
    monkeypatch.delitem(sys.modules, "my_files")
    with pytest.raises(ValueError, match=r"The source must build the network that was converted"):
        oneshot.load(folder, trust=("my_files",))


def test_a_class_that_is_no_module_of_the_source_is_not_built(own: Path) -> None:
    (own / "my_files.py").write_text(OWN + "\n\ndef nothing() -> str:\n    return 'nothing'\n")
    folder = exported(own)
    change(folder, source="my_files.nothing")
    with pytest.raises(ValueError, match=r"must return an nn.Module; it returned a str"):
        oneshot.load(folder, trust=("my_files",))


def test_a_new_classifier_is_part_of_the_file(own: Path) -> None:
    supernet = oneshot.convert(source="my_files.small", input_shape=(3, 8, 8), num_classes=7, multiple=4).eval()
    network = supernet.extract(supernet.space.smallest)
    again = oneshot.load(oneshot.export_subnet(network, own / "seven", formats=()), trust=("my_files",))
    assert again.num_classes == 7 and again(torch.zeros(2, 3, 8, 8)).shape == (2, 7)
    assert isinstance(again.network.head, nn.Linear) and again.network.head.out_features == 7  # type: ignore[attr-defined]


def test_images_of_other_sizes_are_resized_after_loading_too(own: Path) -> None:
    supernet = oneshot.convert(source="my_files.small", input_shape=(3, 8, 8), resolutions=(8, 12), multiple=4).eval()
    config = supernet.space.smallest
    again = oneshot.load(oneshot.export_subnet(supernet.extract(config), own / "two", formats=()), trust=("my_files",))
    assert again.has_resolutions
    assert tuple(again.input_shape) == (3, 8, 8)
