"""Resizing, cropping and normalising inside exported networks, and what manifests say of them."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from oneshot.data import CIFAR10, Digits, FakeImages, ImageFolder, SearchDataModule, Shapes
from oneshot.data.images import normalise
from oneshot.data.preprocessing import of_arrays, of_files
from oneshot.deploy import preprocessing as module
from oneshot.deploy.export import _takes, export_subnet
from oneshot.deploy.preprocessing import WithPreprocessing, _filtered, cover, shrink, then_resize, triangles
from oneshot.supernets import MobileNetV3Supernet, NASBench201Supernet
from oneshot.supernets.base import Subnet
from oneshot.supernets.elastic import resized
from tests.reference.manifest import logits, normalised

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def network(size: int = 8, channels: int = 3) -> Subnet:
    torch.manual_seed(0)
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=channels, image_size=size, num_classes=5)
    return trained(supernet.extract(supernet.space.sample(1)))


def elastic(resolution: int) -> Subnet:
    torch.manual_seed(0)
    supernet = MobileNetV3Supernet(
        num_classes=5, resolutions=(16, 24), widths=(0.25,), depths=(1, 2), expansions=(2, 3), stem="cifar"
    )
    config = next(c for c in map(supernet.space.sample, range(50)) if supernet.resolution(c) == resolution)
    return trained(supernet.extract(config))


def trained(net: Subnet) -> Subnet:
    """With weights and statistics that make outputs differ."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
    for _ in range(3):
        net.train()(torch.randn(8, *net.input_shape))
    return net.eval()


def pictures(folder: Path, mode: str = "RGB") -> list[Path]:
    rng, paths = np.random.default_rng(0), []
    for i, (height, width) in enumerate([(40, 60), (61, 23), (8, 8), (5, 7), (9, 30), (200, 210)]):
        coarse = rng.integers(256, size=(4, 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
        paths.append(folder / f"{i}.png")
        image.save(paths[-1])
    return paths


# The arithmetic.


@pytest.mark.parametrize("seed", range(4))
def test_covering_equals_pillow_but_for_the_order_of_its_two_passes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(60):
        height, width, new_height, new_width = (int(n) for n in rng.integers(1, 90, 4))
        wide = Image.fromarray(rng.integers(256, size=(new_height, width), dtype=np.uint8))  # only one pass
        one = np.asarray(wide.resize((new_width, new_height), Image.Resampling.BILINEAR))
        weights = triangles(
            torch.arange(width).double(), torch.tensor(float(width)), *map(torch.tensor, (0.0, width)), new_width
        )
        np.testing.assert_array_equal(_filtered(torch.from_numpy(np.array(wide)).double(), weights), one)
        pixels = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        wanted = np.asarray(ImageOps.fit(image, (new_width, new_height), Image.Resampling.BILINEAR)).astype(int)
        got = cover(torch.from_numpy(pixels).permute(2, 0, 1)[None], new_height, new_width)[0].permute(1, 2, 0)
        difference = abs(got.numpy() - wanted)
        assert difference.max() <= 1 and difference.mean() < 0.3
    plain = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), (new_height, new_width)
    )
    assert abs(plain[0].permute(1, 2, 0).numpy() - wanted).max() > 1  # the test can tell them apart


@pytest.mark.parametrize(("old", "new"), [(32, 24), (64, 20), (20, 32), (17, 17), (9, 1)])
def test_the_second_resizing_is_that_of_elastic_supernets_and_of_pillow(old: int, new: int) -> None:
    x = torch.randn(2, 3, old, old)
    rows = shrink(old, new)
    torch.testing.assert_close(rows @ x @ rows.T, resized(x, new), rtol=0, atol=1e-5)
    image = Image.fromarray(x[0, 0].numpy()).resize((new, new), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(np.asarray(image), resized(x, new)[0, 0], rtol=0, atol=1e-5)


def test_a_network_with_its_preprocessing_is_the_network_after_it() -> None:
    net, images = network(), torch.randint(256, (3, 8, 8, 3), dtype=torch.uint8)
    whole = WithPreprocessing(net, of_files((3, 8, 8), MEAN, STD))
    with torch.no_grad():  # their layouts in memory differ, so bits may
        expected = net(normalise(images.permute(0, 3, 1, 2), MEAN, STD))
        torch.testing.assert_close(whole(images), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(whole(images), net(normalise(images.permute(0, 3, 2, 1), MEAN, STD)), atol=1e-2)


# Data modules say what they do.


def test_data_modules_say_what_they_do(tmp_path: Path) -> None:
    for data in (FakeImages(input_shape=(3, 8, 8)), Digits(), Shapes(image_size=16, train_size=4, test_size=1)):
        said = data.preprocessing
        assert said == json.loads(json.dumps(said))
        assert said["resize"] is None and said["normalisation"]["mean"] == list(data.mean)
        assert said["image_size"] == list(data.input_shape[1:])
        assert SearchDataModule(data).preprocessing == said
    assert "interpolated bilinearly to 12x12" in Digits(image_size=12).preprocessing["source"]
    assert CIFAR10.preprocessing is FakeImages.preprocessing  # known without reading anything


def test_a_folder_says_how_its_files_are_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pictures(tmp_path / name)
    data = ImageFolder(tmp_path, image_size=(10, 12))
    said = data.preprocessing
    assert (said["orientation"], said["transparency"], said["colour"]) == ("EXIF", "white", "RGB")
    assert said["image_size"] == [10, 12] and said["resize"]["method"] == "cover"
    assert said == json.loads(json.dumps(said)) and said["normalisation"]["std"] == list(data.std)
    x, _ = next(iter(data.test_dataloader()))
    paths = data._files["test"][0]
    for image, path in zip(x, paths, strict=True):
        np.testing.assert_array_equal(image.numpy(), normalised(path, said)[0])


# Exports.


def exported(net: Subnet, folder: Path, preprocessing: Any, *, inside: bool = True, **options: Any) -> dict[str, Any]:
    export_subnet(net, folder, preprocessing=preprocessing, with_preprocessing=inside, **options)
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


@pytest.mark.parametrize(("mode", "inside"), [("RGB", False), ("RGB", True), ("L", True)])
def test_the_manifest_is_enough_to_run_the_file_on_pictures(mode: str, inside: bool, tmp_path: Path) -> None:
    channels = 3 if mode == "RGB" else 1
    net, preprocessing = network(channels=channels), of_files((channels, 8, 8), MEAN[:channels], STD[:channels])
    manifest = exported(net, tmp_path / "export", preprocessing, inside=inside)
    paths = pictures(tmp_path, mode)
    with torch.no_grad():
        wanted = np.concatenate([net(torch.from_numpy(normalised(p, preprocessing))) for p in paths])
    got = logits(tmp_path / "export", paths)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=0.1 if inside else 1e-4)
    assert abs(wanted[0] - wanted[1]).max() > 1  # the test can tell them apart
    takes = {name: entry["input"] for name, entry in manifest["files"].items() if "input" in entry}
    plain = {"layout": "NCHW", "shape": ["batch", channels, 8, 8], "dtype": "float32", "range": "normalised"}
    assert takes["model.safetensors"] == plain
    if inside:
        assert takes["model.onnx"] == takes["model.pt2"]
        assert takes["model.onnx"]["shape"] == ["batch", "height", "width", channels]
        assert takes["model.onnx"]["inside"] == ["resize", "crop", "normalisation"]
    else:
        assert takes == dict.fromkeys(("model.safetensors", "model.pt2", "model.onnx"), plain)


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
def test_a_second_resizing_to_a_resolution_is_in_the_manifest_and_in_the_file(inside: bool, tmp_path: Path) -> None:
    net, preprocessing = elastic(16), of_files((3, 28, 28), MEAN, STD)
    manifest = exported(net, tmp_path / "export", preprocessing, inside=inside)
    assert manifest["preprocessing"]["then_resize"] == then_resize([16, 16])
    paths = pictures(tmp_path)
    with torch.no_grad():
        once = [torch.from_numpy(normalised(path, preprocessing)) for path in paths]
        wanted = np.concatenate([net(resized(x, 16)) for x in once])
        at_once = np.concatenate(
            [net(torch.from_numpy(normalised(p, of_files((3, 16, 16), MEAN, STD)))) for p in paths]
        )
    got = logits(tmp_path / "export", paths)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=0.02 if inside else 1e-4)
    assert abs(at_once - wanted).max() > 0.05  # the test can tell them apart


@pytest.mark.parametrize("second", [False, True], ids=["at once", "resized again"])
def test_the_code_of_the_documentation_runs_and_gives_the_logits_of_the_network(
    second: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs/own_images.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    net, side = (elastic(16), 28) if second else (network(), 8)
    preprocessing = of_files((3, side, side), MEAN, STD)
    exported(net, tmp_path / "export", preprocessing, inside=False, formats=("onnx",))
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(pictures(tmp_path)[0]) as picture:
        picture.save("photo.jpg", exif=exif)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the page is short: it closes nothing
        exec(code, names)  # of our own page
    x = torch.from_numpy(normalised(Path("photo.jpg"), preprocessing))
    with torch.no_grad():
        wanted = net(resized(x, 16) if second else x)
    np.testing.assert_allclose(names["logits"], wanted, rtol=0, atol=1e-4)


def test_a_resolution_that_the_images_have_needs_no_second_resizing(tmp_path: Path) -> None:
    manifest = exported(elastic(24), tmp_path / "e", of_files((3, 24, 24), MEAN, STD), inside=False, formats=())
    assert "then_resize" not in manifest["preprocessing"]


def test_images_that_are_not_resized_come_in_their_size(tmp_path: Path) -> None:
    preprocessing = of_arrays((3, 8, 8), MEAN, STD, source="arrays")
    manifest = exported(network(), tmp_path / "e", preprocessing, formats=("torch_export",))
    takes = manifest["files"]["model.pt2"]["input"]
    assert (takes["shape"], takes["inside"], takes["exact"]) == (["batch", 8, 8, 3], ["normalisation"], True)


def test_networks_of_texts_take_numbers_of_words() -> None:
    takes = _takes((7,), torch.zeros(3, 7, dtype=torch.int64))
    wanted = {"layout": "NT", "shape": ["batch", 7], "dtype": "int64", "range": "numbers of words"}
    assert takes == wanted


def test_what_cannot_be_part_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the data have no preprocessing"):
        exported(network(), tmp_path / "e", None)
    with pytest.raises(
        ValueError, match=r"of the \[8, 8\] pixels that the network takes; that of the data makes \[9, 9\]"
    ):
        exported(network(), tmp_path / "e", of_files((3, 9, 9), MEAN, STD))
    with pytest.raises(ValueError, match="must say 'resize', 'image_size' and 'normalisation'"):
        exported(network(), tmp_path / "e", {"image_size": [8, 8]})
    strange = of_files((3, 8, 8), MEAN, STD)
    strange["resize"] = {**strange["resize"], "interpolation": "bicubic"}
    with pytest.raises(ValueError, match="resizing must be bilinear, to cover a size, .* without its preprocessing"):
        exported(network(), tmp_path / "e", strange)
    assert not (tmp_path / "e").exists()


def test_a_resizing_that_is_not_pillows_is_found_when_it_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearest(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return nn.functional.interpolate(x.float(), (height, width))

    monkeypatch.setattr(module, "cover", nearest)
    with pytest.raises(RuntimeError, match="resized as Pillow resizes them"):
        exported(network(), tmp_path / "e", of_files((3, 8, 8), MEAN, STD), formats=("torch_export",))
