"""Images with masks: folders, shapes, joint augmentation, and the streams of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image, ImageOps

from oneshot.data import JointAugmentation, SearchDataModule, SegmentationFolder, Shapes, write_shapes
from oneshot.data.images import ImageStream
from oneshot.data.segmentation import scale_and_crop
from oneshot.methods.darts import DARTS
from oneshot.supernets.segmentation import SegmentationSupernet

OFF = {"scale": (1.0, 1.0), "flip": False}


def write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.astype(np.uint8)).save(path)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def tree(root: Path, *, count: int = 4, size: tuple[int, int] = (16, 20), parts: tuple[str, ...] = ()) -> Path:
    """Images and masks of classes 0 to 2 and pixels to ignore; ``size`` is height, width."""
    for p, part in enumerate(("train", "test", *parts)):
        for i in range(count):
            rng = np.random.default_rng((p, i))
            write(root / part / "images" / f"{i}.jpg", rng.integers(256, size=(*size, 3)))
            write(root / part / "masks" / f"{i}.png", rng.choice([0, 1, 2, 255], size=size))
    return root


# Folders.


@pytest.mark.parametrize("in_memory", [False, True], ids=["on demand", "in memory"])
def test_a_folder_gives_images_with_their_masks(tmp_path: Path, in_memory: bool) -> None:
    data = SegmentationFolder(tree(tmp_path), image_size=(16, 20), in_memory=in_memory, batch_size=4)
    assert (data.classes, data.num_classes, data.input_shape) == (("0", "1", "2"), 3, (3, 16, 20))
    ((x, y),) = data.test_dataloader()
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((4, 3, 16, 20), torch.float32, (4, 16, 20), torch.int64)
    for i in range(4):
        np.testing.assert_array_equal(y[i], read(tmp_path / f"test/masks/{i}.png"))
        image = read(tmp_path / f"test/images/{i}.jpg") / 255
        np.testing.assert_allclose(x[i].permute(1, 2, 0), (image - data.mean) / data.std, atol=1e-4)


def test_another_size_crops_both_alike_and_takes_the_nearest_number(tmp_path: Path) -> None:
    data = SegmentationFolder(tree(tmp_path), batch_size=4)
    assert data.input_shape == (3, 16, 16)
    ((_, y),) = SegmentationFolder(tmp_path, image_size=8, batch_size=4).test_dataloader()
    mask = Image.fromarray(read(tmp_path / "test/masks/2.png"))
    expected = ImageOps.fit(mask, (8, 8), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(y[2], np.asarray(expected))
    assert set(y.unique().tolist()) <= {0, 1, 2, 255}


def test_image_and_mask_stay_aligned_when_they_are_resized(tmp_path: Path) -> None:
    mask = np.zeros((24, 40), int)
    mask[6:18, 12:24] = 1
    for part in ("train", "test"):
        for name in "ab":
            write(tmp_path / part / "images" / f"{name}.png", np.repeat(255 * mask[..., None], 3, 2))
            write(tmp_path / part / "masks" / f"{name}.png", mask)
    data = SegmentationFolder(tmp_path, image_size=12, batch_size=2, mean=(0.5,) * 3, std=(0.5,) * 3)
    ((x, y),) = data.test_dataloader()
    assert ((x[:, 0] > 0).long() == y).float().mean() > 0.97 and y.float().mean() > 0.1


def test_names_of_classes_can_be_given_and_a_palette_is_no_hindrance(tmp_path: Path) -> None:
    tree(tmp_path)
    path = tmp_path / "test/masks/0.png"
    numbers = read(path)
    with_palette = Image.fromarray(numbers).convert("P")
    with_palette.putdata(numbers.flatten().tolist())
    with_palette.putpalette([i % 256 for i in range(768)])
    with_palette.save(path)
    with Image.open(path) as picture:
        assert picture.mode == "P"
    data = SegmentationFolder(tmp_path, class_names=("sky", "road", "car", "tree"), image_size=(16, 20), batch_size=4)
    assert data.num_classes == 4
    ((_, y),) = data.test_dataloader()
    np.testing.assert_array_equal(y[0], numbers)


def test_a_folder_with_val_is_validated_on_it_and_without_on_a_share(tmp_path: Path) -> None:
    data = SegmentationFolder(tree(tmp_path / "a", parts=("val",)))
    assert data.val_images is not None and len(data.val_images) == 4
    data = SegmentationFolder(tree(tmp_path / "b"), val_fraction=0.25)
    assert data.val_images is not None and (len(data.train_images), len(data.val_images)) == (3, 1)
    with pytest.raises(ValueError, match="has a validation part of its own"):
        _ = SegmentationFolder(tmp_path / "a", val_fraction=0.5).train_images


def spoil_nothing_there(root: Path) -> None:
    for path in (root / "test/images").iterdir():
        path.unlink()
    for path in (root / "test/masks").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(
            lambda root: (root / "train/masks/1.png").unlink(),
            r"in '.*/train' 1 of 4 have no mask: 1\.jpg\. Add or remove",
            id="no mask",
        ),
        pytest.param(
            lambda root: (root / "test/images/3.jpg").unlink(), r"1 of 4 have no image: 3\.png", id="no image"
        ),
        pytest.param(
            lambda root: write(root / "test/masks/2.png", np.zeros((20, 16))),
            r"'.*/test/masks/2\.png' is 16x20, 2\.jpg is 20x16\. Make it anew",
            id="size",
        ),
        pytest.param(
            lambda root: write(root / "train/masks/2.png", np.full((16, 20), 9)),
            r"numbers below 3, .*'.*/train/masks/2\.png' holds \[9\]\. Name all classes",
            id="number",
        ),
        pytest.param(
            lambda root: write(root / "train/masks/0.png", np.zeros((16, 20, 3))),
            r"mode L or P\); '.*/0\.png' has mode 'RGB'",
            id="colours",
        ),
        pytest.param(
            lambda root: (root / "train/masks/0.png").write_bytes(b"no picture"),
            r"must be readable; '.*/train/masks/0\.png' is not",
            id="no picture",
        ),
        pytest.param(spoil_nothing_there, r"A part needs images; '.*/test/images' has none", id="empty"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    spoil(tree(tmp_path))
    with pytest.raises(ValueError, match=message):
        SegmentationFolder(tmp_path, class_names=("a", "b", "c"), image_size=8).setup()


def test_an_image_that_is_none_is_named(tmp_path: Path) -> None:
    data = SegmentationFolder(tree(tmp_path), image_size=8)
    (tmp_path / "test/images/0.jpg").write_text("hello")
    with pytest.raises(ValueError, match=r"must be readable; '.*/test/images/0\.jpg' is not"):
        data.setup()


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no '.*/nowhere/train/images'"):
        SegmentationFolder(tmp_path / "nowhere")


def test_options_that_would_tear_mask_and_image_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cutout"):
        Shapes(cutout=4)


# Augmentation.


def by_the_pixel(image: np.ndarray, mask: np.ndarray, scale: float, top: float, left: float, flip: bool) -> Any:
    """Image ``[H, W]`` and mask ``[H, W]``, each new pixel from its definition."""
    h, w = mask.shape
    new_image, new_mask = np.zeros((h, w)), np.full((h, w), 255)
    padded = np.pad(image, 1)
    for i in range(h):
        for j in range(w):
            y = top * (h - h / scale) + (i + 0.5) / scale
            x = left * (w - w / scale) + ((w - 1 - j if flip else j) + 0.5) / scale
            if 0 <= y < h and 0 <= x < w:
                new_mask[i, j] = mask[int(y), int(x)]
            if -0.5 < y < h + 0.5 and -0.5 < x < w + 0.5:  # within reach of a pixel's centre
                r, c = int(np.floor(y - 0.5)), int(np.floor(x - 0.5))
                v, u = y - 0.5 - r, x - 0.5 - c
                a, b, d, e = (padded[r + 1 + k, c + 1 + m] for k in (0, 1) for m in (0, 1))
                new_image[i, j] = (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * e)
    return new_image, new_mask


def test_scaling_equals_its_definition_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    images, masks = rng.normal(size=(6, 1, 7, 9)), rng.integers(5, size=(6, 7, 9))
    scale, top, left = np.array([1.0, 0.53, 1.7, 2.0, 0.8, 1.31]), rng.random(6), rng.random(6)
    flip = np.array([False, True, False, True, False, True])
    x, y = scale_and_crop(*map(torch.from_numpy, (images, masks, scale, top, left, flip)))
    for n in range(6):
        image, mask = by_the_pixel(images[n, 0], masks[n], scale[n], top[n], left[n], bool(flip[n]))
        np.testing.assert_allclose(x[n, 0], image, rtol=0, atol=1e-10)
        np.testing.assert_array_equal(y[n], mask)
        mirrored = by_the_pixel(images[n, 0], masks[n], scale[n], top[n], left[n], not flip[n])
        assert not np.allclose(x[n, 0], mirrored[0], atol=1e-2)


def test_images_and_masks_move_together() -> None:
    """Images that show their mask: where no border is near, they still do."""
    masks = torch.zeros(64, 32, 32, dtype=torch.int64)
    masks[:, 8:24, 4:20] = 1
    pixels = (255 * masks[:, None]).to(torch.uint8)
    generator = torch.Generator().manual_seed(0)
    x, y = JointAugmentation().on_batch(pixels, masks, (0.5,), (0.5,), generator)
    certain = (x[:, 0].abs() > 0.999) & (y != 255)
    assert certain.float().mean() > 0.5
    assert torch.equal((x[:, 0] > 0)[certain].long(), y[certain])
    assert (y == 255).any() and (x[:, 0][y == 255].abs() < 1).all()


def test_turned_off_it_changes_nothing_and_draws_as_many_numbers() -> None:
    pixels = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    masks = torch.randint(3, (4, 8, 8))
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    x, y = JointAugmentation((1.0, 1.0), flip=False).on_batch(pixels, masks, (0.0,), (1 / 255,), generators[0])
    torch.testing.assert_close(x, pixels.float(), rtol=0, atol=1e-3)
    assert torch.equal(y, masks)
    JointAugmentation().on_batch(pixels, masks, (0.0,), (1 / 255,), generators[1])
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


@pytest.mark.parametrize("scale", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_factors_out_of_order_are_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"smallest and a largest factor, both positive; got \("):
        Shapes(scale=scale)


def test_every_batch_is_augmented_by_its_own_draw() -> None:
    data = Shapes(image_size=16, train_size=2, test_size=1)
    stream = ImageStream(data.train_images, data.mean, data.std, data.augmentation)
    first, again, other = (stream.__getitems__([(0, draw), (1, 0)]) for draw in (7, 7, 8))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])


# Shapes.


def test_shapes_have_every_class_and_follow_their_seed_only() -> None:
    data = Shapes(image_size=32, train_size=40, test_size=20, seed=1)
    share = torch.bincount(data.train_images.labels.flatten().long(), minlength=256) / (40 * 32 * 32)
    assert (share[1:4] > 0.05).all() and share[0] > 0.4 and share[4:].sum() == 0
    again = Shapes(image_size=32, train_size=40, test_size=20, seed=2)
    assert torch.equal(data.train_images.labels, again.train_images.labels)
    other = Shapes(image_size=32, train_size=40, test_size=20, images_seed=1)
    assert not torch.equal(data.train_images.labels, other.train_images.labels)
    assert not torch.equal(data.train_images.labels[:20], data.test_images.labels)


def test_shapes_are_of_the_area_they_are_given() -> None:
    from oneshot.data.segmentation import _inside

    v, u = np.mgrid[-1.5:1.5:600j, -1.5:1.5:600j]
    for kind in (1, 2, 3):
        assert _inside(kind, u, v).mean() * 9 == pytest.approx(1.0, abs=0.02)


def test_written_shapes_are_the_same_data(tmp_path: Path) -> None:
    options: dict[str, Any] = {"image_size": 16, "train_size": 6, "test_size": 3}
    written = SegmentationFolder(write_shapes(tmp_path, **options), batch_size=3, class_names=Shapes().classes)
    drawn = Shapes(**options, batch_size=3)
    assert written.input_shape == drawn.input_shape
    for ours, theirs in zip(written.train_dataloader(), drawn.train_dataloader(), strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_tiny_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 pixels .* got image_size=15"):
        Shapes(image_size=15)


# Under Lightning.


def small_data(**options: Any) -> SearchDataModule:
    return SearchDataModule(Shapes(image_size=32, train_size=32, test_size=4, batch_size=4, **options))


def test_a_search_gets_two_streams_of_masks_that_share_no_image() -> None:
    data = small_data(seed=3)
    weights, arch = set(data.weights_images.rows.tolist()), set(data.arch_images.rows.tolist())
    assert (len(weights), len(arch), len(weights | arch)) == (16, 16, 32)
    for x, y in (next(iter(loader)) for loader in data.train_dataloader().values()):
        assert (x.shape, y.shape, y.dtype) == ((4, 3, 32, 32), (4, 32, 32), torch.int64)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_training_batches_follow_the_seed_whatever_prepares_them(num_workers: int) -> None:
    torch.rand(3)
    first = list(Shapes(image_size=16, train_size=8, test_size=1, batch_size=4, seed=5).train_dataloader())
    options: dict[str, Any] = {"image_size": 16, "train_size": 8, "test_size": 1, "batch_size": 4}
    again = list(Shapes(**options, seed=5, num_workers=num_workers).train_dataloader())
    other = list(Shapes(**options, seed=6).train_dataloader())
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and not torch.equal(a[1], c[1])


class StopAfter(pl.Callback):
    """Saves in the middle of an epoch."""

    def __init__(self, batch: int, path: Path) -> None:
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            trainer.save_checkpoint(self.path)


def test_a_search_resumed_in_the_middle_of_an_epoch_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    def search(seed: int, checkpoint: Path | None = None, **options: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        supernet = SegmentationSupernet(layers_per_stage=1, width=0.25, num_classes=4, image_size=32)
        module = DARTS(supernet)
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_epochs=2, limit_val_batches=0, limit_test_batches=0, **quiet, **options
        )
        data = SearchDataModule(Shapes(image_size=32, train_size=12, test_size=2, batch_size=2, seed=0))
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        return {**module.state_dict(), "miou": trainer.callback_metrics["train/miou"]}

    path = tmp_path / "middle.ckpt"
    whole = search(0, enable_checkpointing=False, callbacks=[StopAfter(3, path)])
    progress = torch.load(path, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert progress["processed"] == 1  # of three
    resumed = search(1, path, enable_checkpointing=False)
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


# What people have beside and among their images.


def turnable(root: Path, image_tag: int, mask_tag: int | None, *, side: tuple[int, int] = (12, 20)) -> np.ndarray:
    """A folder whose images, seen upright, equal their masks; images are stored turned by their tag."""
    rng = np.random.default_rng(0)
    upright = rng.integers(2, size=side).repeat(1, 0)
    stored = {3: upright[::-1, ::-1], 6: np.rot90(upright), 1: upright}[image_tag]
    for part in ("train", "test"):
        for i in range(2):
            write(root / part / "masks" / f"{i}.png", upright if mask_tag is None else stored)
            (root / part / "images").mkdir(parents=True, exist_ok=True)
            exif = Image.Exif()
            exif[0x0112] = image_tag
            picture = Image.fromarray((255 * stored).astype(np.uint8))
            picture.save(root / part / "images" / f"{i}.png", exif=exif)
            if mask_tag:
                exif[0x0112] = mask_tag
                Image.fromarray(stored.astype(np.uint8)).save(root / part / "masks" / f"{i}.png", exif=exif)
    return upright


def aligned(data: SegmentationFolder, upright: np.ndarray) -> bool:
    ((x, y),) = data.test_dataloader()
    return bool(((x[:, 0] > 0) == y).all() and (y == torch.from_numpy(upright.copy())).all())


@pytest.mark.parametrize("tag", [1, 3, 6])
def test_image_and_mask_with_the_same_orientation_are_both_turned(tag: int, tmp_path: Path) -> None:
    upright = turnable(tmp_path, tag, tag)
    options: dict[str, Any] = {"image_size": upright.shape, "batch_size": 2, "mean": (0.5,), "std": (0.5,)}
    assert aligned(SegmentationFolder(tmp_path, **options), upright)


@pytest.mark.parametrize("mask_tag", [None, 0], ids=["drawn upright", "drawn as stored"])
def test_the_size_tells_on_what_a_mask_without_orientation_was_drawn(mask_tag: int | None, tmp_path: Path) -> None:
    upright = turnable(tmp_path, 6, mask_tag)
    options: dict[str, Any] = {"image_size": upright.shape, "batch_size": 2, "mean": (0.5,), "std": (0.5,)}
    assert aligned(SegmentationFolder(tmp_path, **options), upright)


@pytest.mark.parametrize(("tag", "side"), [(3, (12, 20)), (6, (12, 12))])
@pytest.mark.parametrize("mask_tag", [None, 0], ids=["drawn upright", "drawn as stored"])
def test_where_the_size_does_not_tell_an_option_has_to(
    tag: int, side: tuple[int, int], mask_tag: int | None, tmp_path: Path
) -> None:
    upright = turnable(tmp_path, tag, mask_tag, side=side)
    options: dict[str, Any] = {"image_size": upright.shape, "batch_size": 2, "mean": (0.5,), "std": (0.5,)}
    with pytest.raises(
        ValueError, match=rf"(?s)4 masks do not fit.*orientation of '.*' is {tag}, that of .* is 1: was"
    ):
        SegmentationFolder(tmp_path, **options)
    right, wrong = ("own", "image") if mask_tag is None else ("image", "own")
    assert aligned(SegmentationFolder(tmp_path, mask_orientation=right, **options), upright)
    assert not aligned(SegmentationFolder(tmp_path, mask_orientation=wrong, **options), upright)


def test_the_orientation_of_a_tiff_counts_although_its_decoder_forgets_it(tmp_path: Path) -> None:
    upright = turnable(tmp_path, 3, None)
    exif = Image.Exif()
    exif[0x0112] = 3
    for path in tmp_path.glob("*/images/*.png"):
        Image.fromarray(read(path)).save(path.with_suffix(".tif"), exif=exif)
        path.unlink()
    with pytest.raises(ValueError, match="is 3, that of .* is 1: was"):
        SegmentationFolder(tmp_path, image_size=upright.shape)


def test_all_files_of_all_parts_that_cannot_be_read_are_named_or_left_out_with_their_partners(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "train/images/0.jpg").write_text("hello")
    (tmp_path / "test/masks/1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"(?s)2 of 16 are not:.*/train/images/0\.jpg'.*/test/masks/1\.png'"):
        SegmentationFolder(tmp_path)
    with pytest.warns(UserWarning, match="2 of 16 images cannot be read and are left out"):
        data = SegmentationFolder(tmp_path, unreadable="skip", batch_size=8)
    assert (len(data.train_images), len(data.test_images)) == (3, 3)
    ((_, y),) = data.test_dataloader()
    assert len(y) == 3


def test_hidden_files_and_other_names_of_folders_do_not_matter(tmp_path: Path) -> None:
    tree(tmp_path / "a")
    for old, new in (("train", "Training"), ("test", "TEST")):
        (tmp_path / "a" / old).rename(tmp_path / "a" / new)
        (tmp_path / "a" / new / "images").rename(tmp_path / "a" / new / "Images")
        for folder in ("Images", "masks"):
            (tmp_path / "a" / new / folder / "._0.png").write_bytes(b"\0\5\26\7")
            (tmp_path / "a" / new / folder / ".ipynb_checkpoints").mkdir()
            write(tmp_path / "a" / new / folder / ".ipynb_checkpoints/x.png", np.zeros((4, 4)))
            (tmp_path / "a" / new / folder / "city").mkdir()
            write(tmp_path / "a" / new / folder / "city/0.png", np.zeros((16, 20)))
    data = SegmentationFolder(tmp_path / "a")
    assert len(data.train_images) == len(data.test_images) == 5


def test_two_images_for_one_mask_are_refused(tmp_path: Path) -> None:
    tree(tmp_path)
    write(tmp_path / "train/images/0.png", np.zeros((16, 20, 3)))
    with pytest.raises(ValueError, match=r"differ in more than their suffix; .* has 0\.jpg and 0\.png"):
        SegmentationFolder(tmp_path)


def test_the_preprocessing_is_said(tmp_path: Path) -> None:
    data = SegmentationFolder(tree(tmp_path), image_size=8)
    assert (data.preprocessing["image_size"], data.preprocessing["colour"]) == ([8, 8], "RGB")
