"""Folders of images."""

from __future__ import annotations

import logging
import os
import re
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oneshot.data import ImageFolder
from oneshot.data.listing import images_in
from oneshot.data.verification import inspect


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


def test_a_truncated_image_of_any_part_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    tree(tmp_path, "train", "test")
    path = tmp_path / "test" / "bee" / "3.png"
    path.write_bytes(path.read_bytes()[:80])  # the header is whole
    with pytest.raises(ValueError, match=r"must be readable; '.*/test/bee/3.png' is not .* Repair or remove it"):
        ImageFolder(tmp_path)


def test_a_file_that_is_damaged_later_is_named(tmp_path: Path) -> None:
    data = ImageFolder(tree(tmp_path, "train", "test"))
    path = tmp_path / "test" / "bee" / "3.png"
    path.write_bytes(path.read_bytes()[:80])
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


# What people have beside and among their images.


def broken(root: Path) -> dict[str, str]:
    """Files that cannot be read, in both parts, and what is said of them."""
    tree(root, "train", "test")
    good = (root / "train/ant/0.png").read_bytes()
    (root / "train/ant/half.png").write_bytes(good[: len(good) // 2])
    (root / "train/bee/zero.jpg").touch()
    (root / "test/ant/page.jpg").write_text("<html>404</html>")
    (root / "test/bee/gone.png").symlink_to("nowhere.png")
    os.mkfifo(root / "test/bee/pipe.png")
    names = {"half.png": "truncated", "zero.jpg": "empty", "page.jpg": "web page", "gone.png": "link to nowhere"}
    return {**names, "pipe.png": "named pipe"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_all_files_that_cannot_be_read_are_named_at_once_or_left_out_with_a_warning(tmp_path: Path) -> None:
    named = broken(tmp_path)
    with pytest.raises(ValueError, match=r"5 of 25 are not:[\s\S]*unreadable='skip'") as refused:
        ImageFolder(tmp_path)
    with pytest.warns(UserWarning, match="5 of 25 images cannot be read and are left out") as warned:
        data = ImageFolder(tmp_path, unreadable="skip", batch_size=5)
    for name, reason in named.items():
        assert re.search(rf"/{name}' (is not )?\([^)]*{reason}", str(refused.value).replace("\n", " ")), name
        assert f"/{name}' (" in str(warned[0].message)
    ImageFolder(tmp_path, unreadable="skip")  # said once: a second warning would be an error here
    assert (len(data.train_images), len(data.test_images)) == (10, 10)
    assert sum(len(y) for _, y in data.test_dataloader()) == 10
    with pytest.raises(ValueError, match="unreadable is 'refuse' or 'skip'; got 'ignore'"):
        ImageFolder(tmp_path, unreadable="ignore")  # type: ignore[arg-type]  # that is the point


def test_classes_without_images_are_left_out_only_if_they_are_to_be_skipped(tmp_path: Path) -> None:
    tree(tmp_path, ".")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/0.png").write_text("nothing")
    with pytest.raises(ValueError, match=r"cat/0\.png' is not [\s\S]*Every class needs images; '.*/cat' has none"):
        ImageFolder(tmp_path)
    with pytest.warns(UserWarning) as warned:
        data = ImageFolder(tmp_path, unreadable="skip")
    assert data.classes == ("ant", "bee") and any("'" + str(tmp_path / "cat") + "'" in str(w.message) for w in warned)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="'cat' has none that can be read"):
        ImageFolder(tmp_path, unreadable="skip", class_names=("ant", "cat"))


def test_hidden_files_and_what_systems_make_are_no_data(tmp_path: Path) -> None:
    clean = ImageFolder(tree(tmp_path / "clean", "train", "test"), batch_size=5)
    dirty = tree(tmp_path / "dirty", "train", "test")
    for folder in (dirty, dirty / "train", dirty / "train/ant", dirty / "test/bee"):
        for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trash-1000"):
            write(folder / name / "x.png")
        for name in (".DS_Store", "Thumbs.db", "._0.png", ".hidden.png", "notes.txt"):
            (folder / name).write_bytes(b"\0\5\26\7")
    (dirty / "train/ant/album.png").mkdir()
    data = ImageFolder(dirty, batch_size=5)
    assert data.classes == ("ant", "bee")
    for ours, theirs in zip(data.test_dataloader(), clean.test_dataloader(), strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    tree(tmp_path / "images", ".")
    tree(tmp_path / "elsewhere", ".", classes=("cat",))
    (tmp_path / "images/cat").symlink_to(tmp_path / "elsewhere/cat")
    (tmp_path / "images/ant/up").symlink_to(tmp_path / "images")
    (tmp_path / "images/ant/self").symlink_to(".")
    (tmp_path / "images/bee/a").mkdir()
    (tmp_path / "images/bee/a/back").symlink_to("../../bee")
    data = ImageFolder(tmp_path / "images")
    assert data.classes == ("ant", "bee", "cat")
    assert len(data.train_images) + len(data.test_images) == 15


@pytest.mark.parametrize(
    "names",
    [("Train", "Test"), ("TRAIN", "VAL"), ("training", "validation"), ("train", "valid"), ("Training", "Testing")],
    ids="+".join,
)
def test_parts_are_told_by_their_usual_names(names: tuple[str, str], tmp_path: Path) -> None:
    data = ImageFolder(tree(tmp_path, *names))
    assert (data.classes, len(data.train_images), len(data.test_images)) == (("ant", "bee"), 10, 10)
    wanted = np.asarray(Image.open(tmp_path / names[1] / "ant/0.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.test_images.pixels[torch.tensor([0])][0], wanted)


def test_parts_with_three_other_names_are_three_parts(tmp_path: Path) -> None:
    data = ImageFolder(tree(tmp_path, "Training", "valid", "TEST"))
    assert data.val_images is not None and (len(data.val_images), len(data.test_images)) == (10, 10)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/ant", "Training/ant", "test/ant"), "has Training and train, which mean the same"),
        (("train_images/ant", "test_images/ant"), "has test_images, train_images, which look like parts. Rename them"),
        (("train2017", "val2017"), "has train2017, val2017, which look like parts"),
        (("TrainSet", "TestSet"), "which look like parts. Rename them; if they are classes, list"),
        (("val/ant", "test/ant"), "A folder with val and test needs train beside it"),
        (("ant", "bee", "test"), "A folder with test needs train beside it; .* list all classes as class_names"),
        (("ant/train", "ant/test", "bee/train", "bee/test"), "'.*/ant' is a class that holds parts: test, train. Move"),
        (
            ("images/train/ant", "images/test/ant"),
            "'images' only, which holds folders itself. Did you mean '.*/images'",
        ),
        (("images/ant", "images/bee"), "Did you mean '.*/images'"),
        (("train", "test"), "one sub-folder per class; '.*/train' has no sub-folders"),
    ],
)
def test_other_layouts_are_refused(folders: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for i, folder in enumerate(folders):
        for j in range(3):
            write(tmp_path / folder / f"{j}.png", seed=9 * i + j)
    with pytest.raises(ValueError, match=message):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("name", ["train", "valid"])
def test_a_class_may_have_the_name_of_a_part(name: str, tmp_path: Path) -> None:
    assert ImageFolder(tree(tmp_path, ".", classes=("bus", name))).classes == ("bus", name)


def test_classes_may_have_names_that_begin_like_parts(tmp_path: Path) -> None:
    names = ("trainers", "testament", "valley")
    assert ImageFolder(tree(tmp_path, ".", classes=names)).classes == tuple(sorted(names))


def test_classes_that_differ_in_case_only_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i, name in enumerate(("cat", "Cat", "dog")):
        for j in range(3):
            write(tmp_path / name / f"{j}.png", seed=3 * i + j)
    if len(list(tmp_path.iterdir())) == 2:
        pytest.skip("this file system does not tell them apart")
    ImageFolder(tmp_path)
    assert "The classes 'Cat', 'cat' differ in upper and lower case only" in caplog.text


def test_listed_classes_may_have_the_names_of_parts(tmp_path: Path) -> None:
    tree(tmp_path, ".", classes=("test", "bus"))
    assert ImageFolder(tmp_path, class_names=("test", "bus")).classes == ("test", "bus")


def test_what_is_left_out_and_may_be_missed_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path, "train", "test")
    write(tmp_path / "train/stray.png", seed=77)
    (tmp_path / "test/ant/phone.HEIC").touch()
    write(tmp_path / "extra/0.png", seed=78)
    data = ImageFolder(tmp_path)
    assert data.classes == ("ant", "bee") and len(data.train_images) == 10
    assert "1 images in " in caplog.text and "have no class and are left out: stray.png" in caplog.text
    assert "kinds that are not read (.heic) and are left out: phone.HEIC" in caplog.text
    assert "'extra' beside train are no parts and are not used" in caplog.text


def test_an_image_that_is_in_two_parts_or_two_classes_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ImageFolder(tree(tmp_path, "train", "test"))
    assert not caplog.text
    shutil.copy(tmp_path / "train/ant/0.png", tmp_path / "test/ant/copy.png")
    shutil.copy(tmp_path / "train/ant/1.png", tmp_path / "train/bee/copy.png")
    ImageFolder(tmp_path)
    assert re.search(r"1 images are in more than one part .*train/ant/0.png' = '.*test/ant/copy.png'", caplog.text)
    assert re.search(r"1 images are in more than one class: '.*/ant/1.png' = '.*/bee/copy.png'", caplog.text)


def test_copies_within_a_class_that_the_split_tears_apart_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree(tmp_path, ".")
    for name in ("ant", "bee"):
        for i in range(5):
            shutil.copy(tmp_path / name / f"{i}.png", tmp_path / name / f"{i} (copy).png")
    ImageFolder(tmp_path, test_fraction=0.1)
    assert "are in more than one part" in caplog.text


def test_classes_match_in_both_forms_of_unicode(tmp_path: Path) -> None:
    for part, form in (("train", "NFC"), ("test", "NFD")):
        tree(tmp_path, part, classes=(unicodedata.normalize(form, "Bär"), "ant"))
    data = ImageFolder(tmp_path)
    assert (data.classes, len(data.test_images)) == ((unicodedata.normalize("NFC", "Bär"), "ant"), 10)


def test_the_order_depends_neither_on_the_file_system_nor_on_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["b.png", "B.png", "a.png", "ä.png", "10.png", "9.png", "Z/a.png", "_.png"]
    for i, name in enumerate(names):
        for kind in ("ant", "bee"):
            write(tmp_path / kind / name, seed=2 * i + (kind == "bee"))
    files = [path.relative_to(tmp_path / "ant").as_posix() for path in images_in(tmp_path / "ant")]
    assert files == ["10.png", "9.png", "B.png", "Z/a.png", "_.png", "a.png", "b.png", "ä.png"]
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(list(iterdir(self))))
    assert [path.relative_to(tmp_path / "ant").as_posix() for path in images_in(tmp_path / "ant")] == files


def test_size_and_channels_are_those_of_all_training_images_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            for i in range(40):
                write(tmp_path / part / name / f"{i}.png", size=(20, 10), mode="L", seed=i + 100 * len(part + name))
    assert ImageFolder(tmp_path).input_shape == (1, 10, 10)
    Image.fromarray(np.full((10, 20, 3), 9, np.uint8)).save(tmp_path / "train/bee/39.png")  # one of eighty
    assert ImageFolder(tmp_path).input_shape[0] == 3
    Image.fromarray(np.eye(10, 20, dtype=np.uint8)).save(tmp_path / "train/bee/39.png", exif=exif)
    assert inspect(tmp_path / "train/bee/39.png").size == (10, 20)


def test_an_image_with_an_orientation_is_read_as_its_upright_copy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tree(tmp_path / "a", "train", "test", size=(12, 8))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for tag in range(1, 9):
        upright = Image.fromarray(rng.integers(256, size=(8, 12, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = tag
        undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 5: Image.Transpose.TRANSPOSE}
        undo |= {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM}
        undo[7] = Image.Transpose.TRANSVERSE
        tagged = upright.transpose(undo[tag]) if tag in undo else upright
        upright.save(tmp_path / f"a/test/ant/{tag}x.png")
        tagged.save(tmp_path / f"b/test/ant/{tag}x.png", exif=exif)
    first, second = (ImageFolder(tmp_path / name, batch_size=32) for name in "ab")
    for a, b in zip(first.test_dataloader(), second.test_dataloader(), strict=True):
        assert torch.equal(a[0], b[0])


def test_the_files_of_a_folder_are_predicted_or_the_test_images(tmp_path: Path) -> None:
    root = tree(tmp_path / "photos", "train", "test")
    new = [tmp_path / "new" / f"{name}.png" for name in "ba"]
    for seed, path in enumerate(new):
        write(path, size=(16, 8), seed=seed)
    data = ImageFolder(root, predict=tmp_path / "new", batch_size=4)
    assert data.predict_files == sorted(new)
    (x,) = data.predict_dataloader()
    given = ImageFolder(root, predict=new)
    assert given.predict_files == new and torch.equal(next(iter(given.predict_dataloader())), x.flip(0))
    assert x.shape == (2, 3, 8, 8)
    tests = ImageFolder(root)
    assert len(tests.predict_files) == 10
    assert torch.equal(next(iter(tests.predict_dataloader())), next(iter(tests.test_dataloader()))[0])
    with pytest.raises(FileNotFoundError, match="predict must name files or a folder; there is no .*none"):
        ImageFolder(root, predict=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="predict must name images; there are none in"):
        ImageFolder(root, predict=tmp_path / "empty")
    (tmp_path / "new" / "c.png").write_text("no image")
    with pytest.raises(ValueError, match=r"c\.png' is not"):
        ImageFolder(root, predict=tmp_path / "new")
