"""Folders of images."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oneshot.data import ImageFolder


def write(path: Path, *, size: tuple[int, int] = (8, 8), mode: str = "RGB", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    Image.fromarray(np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)).save(path)


def tree(root: Path, *parts: str, classes: tuple[str, ...] = ("ant", "bee"), count: int = 5, **options: Any) -> Path:
    for part in parts:
        for name in classes:
            for i in range(count):
                write(root / part / name / f"{i}.png", seed=sum(map(ord, part + name)) * 100 + i, **options)
    return root


@pytest.mark.parametrize("in_memory", [False, True], ids=["on demand", "in memory"])
def test_a_split_folder_is_described_and_decoded(tmp_path: Path, in_memory: bool) -> None:
    data = ImageFolder(tree(tmp_path, "train", "test"), in_memory=in_memory, batch_size=5)
    assert (data.classes, data.input_shape, data.num_classes) == (("ant", "bee"), (3, 8, 8), 2)
    assert (len(data.train_images), len(data.test_images), data.val_images) == (10, 10, None)
    paths = [tmp_path / "train" / name / f"{i}.png" for name in ("ant", "bee") for i in range(5)]
    images = [np.asarray(Image.open(path)) / 255 for path in paths]
    np.testing.assert_allclose(data.mean, np.mean(images, (0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, np.std(images, (0, 1, 2)), rtol=1e-12)
    first, second = data.eval_loader(data.train_images)
    expected = (np.transpose(images[7], (2, 0, 1)) - np.reshape(data.mean, (3, 1, 1))) / np.reshape(data.std, (3, 1, 1))
    np.testing.assert_allclose(second[0][2], expected, atol=1e-5)
    assert (first[1].tolist(), second[1].tolist()) == ([0] * 5, [1] * 5)
    assert isinstance(data.train_images.pixels, torch.Tensor) == in_memory


# Python 3.12 warns when a process with threads forks, as torch's workers do; how they start is not what is tested.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_images_decoded_on_demand_and_in_memory_give_the_same_training_batches(tmp_path: Path) -> None:
    tree(tmp_path, "train", "test", size=(12, 9))
    loaders = [
        ImageFolder(tmp_path, batch_size=4, cutout=3, **options).train_dataloader()
        for options in ({}, {"num_workers": 2}, {"in_memory": True})
    ]
    for batches in zip(*loaders, strict=True):
        assert all(torch.equal(batches[0][0], x) and torch.equal(batches[0][1], y) for x, y in batches)


def test_decoding_into_memory_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = ImageFolder(tree(tmp_path, "train", "test"), in_memory=True)
    with caplog.at_level(logging.INFO):
        data.setup()
    assert "Decoding 10 train images of 2 classes into memory." in caplog.text


def test_a_folder_with_val_only_is_tested_on_it(tmp_path: Path) -> None:
    data = ImageFolder(tree(tmp_path, "train", "val"))
    assert data.val_images is None
    assert len(data.test_images) == 10


def test_a_folder_with_val_and_test_has_three_parts(tmp_path: Path) -> None:
    data = ImageFolder(tree(tmp_path, "train", "val", "test"))
    assert data.val_images is not None
    images = [part.pixels[torch.tensor([0])] for part in (data.train_images, data.val_images, data.test_images)]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])


def test_a_folder_of_classes_is_split_by_seed_and_stratified(tmp_path: Path) -> None:
    tree(tmp_path, ".", classes=("ant", "bee", "cat"), count=10)
    data = ImageFolder(tmp_path, test_fraction=0.3, batch_size=9)
    assert torch.bincount(data.test_images.labels).tolist() == [3, 3, 3]
    assert len(data.train_images) == 21
    test = next(iter(data.test_dataloader()))[0]
    assert torch.equal(test, next(iter(ImageFolder(tmp_path, test_fraction=0.3, batch_size=9).test_dataloader()))[0])
    other = ImageFolder(tmp_path, test_fraction=0.3, batch_size=9, split_seed=1, mean=data.mean, std=data.std)
    assert not torch.equal(test, next(iter(other.test_dataloader()))[0])


def test_classes_can_be_chosen_and_ordered(tmp_path: Path) -> None:
    tree(tmp_path, "train", "test", classes=("ant", "bee", "cat"))
    data = ImageFolder(tmp_path, class_names=("cat", "ant"))
    assert data.classes == ("cat", "ant")
    assert len(data.train_images) == 10
    image = data.train_images.pixels[torch.tensor([0])][0]
    np.testing.assert_array_equal(image.permute(1, 2, 0), np.asarray(Image.open(tmp_path / "train" / "cat" / "0.png")))


def test_images_of_different_sizes_become_squares_of_the_median_shorter_side(tmp_path: Path) -> None:
    tree(tmp_path, "train", "test", size=(10, 20))
    for i in range(3):
        write(tmp_path / "train" / "ant" / f"small{i}.png", size=(9, 6))
    assert ImageFolder(tmp_path).input_shape == (3, 10, 10)


def test_an_image_is_resized_to_cover_the_size_and_cropped_at_the_centre(tmp_path: Path) -> None:
    stripes = np.zeros((4, 12), dtype=np.uint8)
    stripes[:, 4:8] = 255
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            write(tmp_path / part / name / "0.png", mode="L")
            Image.fromarray(stripes).save(tmp_path / part / name / "1.png")
    data = ImageFolder(tmp_path, image_size=4)
    assert data.input_shape == (1, 4, 4)
    assert (data.train_images.pixels[torch.tensor([1])] == 255).all()


def test_size_and_normalisation_can_be_given(tmp_path: Path) -> None:
    tree(tmp_path, "train", "test")
    data = ImageFolder(tmp_path, image_size=(6, 4), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), batch_size=2)
    assert (data.mean, data.std) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert next(iter(data.train_dataloader()))[0].shape == (2, 3, 6, 4)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"existing folder; '.*/nowhere' is not\. Check the path"):
        ImageFolder(tmp_path / "nowhere")


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"one sub-folder per class; .* has no sub-folders"):
        ImageFolder(tmp_path)


def test_a_folder_with_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least two classes; got \('ant',\)"):
        ImageFolder(tree(tmp_path, "train", "test", classes=("ant",)))


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "train", "test")
    (tmp_path / "train" / "cat").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"Every class needs images; '.*/train/cat' has none"):
        ImageFolder(tmp_path)


def test_a_class_that_is_only_in_the_test_folder_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "train", "test")
    write(tmp_path / "test" / "cat" / "0.png")
    with pytest.raises(ValueError, match=r"Every class must be in train; test has \['cat'\]"):
        ImageFolder(tmp_path)


def test_a_train_folder_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs test or val beside it; .* name '.*/train' as root"):
        ImageFolder(tree(tmp_path, "train"))


def test_a_size_of_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"image_size must be at least 1 pixel; got \(0, 0\)"):
        ImageFolder(tree(tmp_path, "train", "test"), image_size=0)


@pytest.mark.parametrize("in_memory", [False, True], ids=["on demand", "in memory"])
def test_a_truncated_image_is_named(tmp_path: Path, in_memory: bool) -> None:
    tree(tmp_path, "train", "test")
    path = tmp_path / "test" / "bee" / "3.png"
    path.write_bytes(path.read_bytes()[:80])  # the header is whole
    data = ImageFolder(tmp_path, in_memory=in_memory)
    with pytest.raises(ValueError, match=r"must be readable; '.*/test/bee/3.png' is not .* Repair or remove it"):
        list(data.test_dataloader())


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    tree(tmp_path, "train", "test")
    (tmp_path / "train" / "ant" / "0.png").write_text("hello")
    with pytest.raises(ValueError, match=r"must be readable; '.*/train/ant/0.png' is not"):
        ImageFolder(tmp_path)


def test_images_read_on_demand_cannot_live_on_a_device(tmp_path: Path) -> None:
    data = ImageFolder(tree(tmp_path, "train", "test"), device="meta")
    with pytest.raises(ValueError, match=r"can live on meta; these are read on demand\. Pass in_memory=True"):
        data.setup()


@pytest.mark.skipif("ONESHOT_DATA" not in os.environ, reason="needs real images: set ONESHOT_DATA to their folder")
def test_real_photographs_are_read_and_have_the_known_statistics(tmp_path: Path) -> None:
    with np.load(Path(os.environ["ONESHOT_DATA"]) / "cifar10_jpeg_test.npz") as pack:
        jpeg, offsets, labels, classes = (pack[key] for key in ("jpeg", "offsets", "labels", "classes"))
    for i in range(200):
        path = tmp_path / str(classes[labels[i]]) / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg[offsets[i] : offsets[i + 1]].tobytes())
    data = ImageFolder(tmp_path, in_memory=True, batch_size=32)
    assert data.classes == tuple(sorted(map(str, classes)))
    assert data.input_shape == (3, 32, 32)
    np.testing.assert_allclose(data.mean, (0.4914, 0.4822, 0.4465), atol=0.05)
    np.testing.assert_allclose(data.std, (0.2470, 0.2435, 0.2616), atol=0.05)
    x, _ = next(iter(data.train_dataloader()))
    assert x.shape == (32, 3, 32, 32)
