"""Folders of images with one sub-folder per class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from .decoding import decode, is_grey
from .images import ImageSet, Pixels, stratified_split
from .listing import Listing, images_in, list_folder, some
from .options import Unpack, VisionOptions
from .preprocessing import of_files, with_transforms
from .verification import ImageFacts, Unreadable, check_unreadable, repeated, report_unreadable, tell, verify
from .vision import Split, VisionData


class ImageFolder(VisionData):
    """A folder of images in one of two layouts.

    * ``root/train/<class>/*`` with ``root/test/<class>/*``, ``root/val/<class>/*`` or both. Where there is only one of
      them, it is the held-out test set. ``Train``, ``training``, ``valid``, ``validation``, ``testing`` mean the same.
    * ``root/<class>/*``: a stratified share of each class is the test set.

    Images in folders within a class's folder are of that class. Hidden files and folders, and those that systems make
    (``__MACOSX``, ``Thumbs.db``), are no data. Every image of every part is decoded once, before anything is trained.

    What is not given is inferred: classes from the names of the folders, size and channels from the training images (a
    square of the median shorter side, because networks take squares), mean and std from up to 1,000 of them. Images are
    turned upright as their EXIF orientation says, transparent pixels become white, 16 bits become 8. They are resized
    to cover the size, then cropped at the centre; `preprocessing` says it exactly. Training images get the same
    augmentation as every other data set; there is no random resizing.

    Args:
        root: The folder.
        image_size: Side, or height and width, in pixels; None infers it.
        class_names: Which folders to use and the order of their labels; None takes all, sorted.
        test_fraction: Share of the test set in the second layout.
        split_seed: Which images these are; leave it alone to compare results.
        in_memory: Decode all images once, to a uint8 tensor; otherwise each time they are used.
        unreadable: Whether files that cannot be read, and classes without images, are refused or left out with a
            warning.
        predict: A folder of images, or files, for ``trainer.predict``, in the order of their names or as given; by
            default the test images.
        **options: See `VisionData`. Pass ``flip=False`` where left and right matter.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If it is not laid out as above, a class has no images, or images cannot be read: all are named.
    """

    statistics_sample = 1000

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: int | tuple[int, int] | None = None,
        class_names: Sequence[str] | None = None,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        in_memory: bool = False,
        unreadable: Unreadable = "refuse",
        predict: str | Path | Sequence[str | Path] | None = None,
        **options: Unpack[VisionOptions],
    ) -> None:
        check_unreadable(unreadable)
        self._predicted = None if predict is None else _to_predict(predict)
        listing = list_folder(Path(root), class_names)
        facts, reasons = verify(listing.paths())
        classes = _usable(listing, reasons, unreadable, named=class_names is not None)
        self._files: dict[str, tuple[list[Path], list[int]]] = {
            part: (
                [path for name in classes for path in files[name]],
                [label for label, name in enumerate(classes) for _ in files[name]],
            )
            for part, files in listing.files.items()
        }
        shape = common_shape([facts[path] for path in self._files["train"][0]], image_size)
        if "test" not in self._files:
            paths, labels = self._files["train"]
            train, test = stratified_split(torch.tensor(labels), test_fraction, seed=split_seed, names=classes)
            for part, chosen in (("train", train.tolist()), ("test", test.tolist())):
                self._files[part] = [paths[i] for i in chosen], [labels[i] for i in chosen]
        super().__init__(classes, shape, **options)
        self.in_memory = in_memory
        for note in (*listing.notes, *repetitions(self._files, classes, facts)):
            tell(f"{note}.")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How the files are read, for manifests. May read training images."""
        return with_transforms(of_files(self.input_shape, self.mean, self.std), self.eval_transforms)

    @property
    def predict_files(self) -> list[Path]:
        """The files that ``trainer.predict`` predicts, in this order."""
        return self._files["test"][0] if self._predicted is None else self._predicted

    @property
    def predict_set(self) -> ImageSet:
        """The images given as ``predict``, or the test images."""
        if self._predicted is None:
            return self.test_set
        return ImageSet.whole(
            Decoder(self._predicted, self.input_shape), torch.zeros(len(self._predicted), dtype=torch.int64)
        )

    def load(self, split: Split) -> ImageSet | None:
        """Lists a split's images and, with ``in_memory``, decodes them."""
        if split not in self._files:
            return None
        paths, labels = self._files[split]
        pixels: Pixels = Decoder(paths, self.input_shape)
        if self.in_memory:
            rank_zero_info(f"Decoding {len(paths)} {split} images of {len(self.classes)} classes into memory.")
            pixels = pixels[torch.arange(len(paths))]
        return ImageSet.whole(pixels, torch.tensor(labels))


def _to_predict(given: str | Path | Sequence[str | Path]) -> list[Path]:
    """Files to predict: those of a folder, or as given.

    Raises:
        FileNotFoundError: If a file or folder is not there.
        ValueError: If there are none, or some cannot be read: all are named.
    """
    one = isinstance(given, (str, Path))
    paths = [Path(given)] if isinstance(given, (str, Path)) else [Path(path) for path in given]
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(f"predict must name files or a folder; there is no {some(missing)}.")
    if one and paths[0].is_dir():
        paths = images_in(paths[0])
    if not paths:
        raise ValueError(f"predict must name images; there are none in {str(given)!r}.")
    _, reasons = verify(paths)
    report_unreadable(reasons, len(paths), "refuse", empty=())
    return paths


def _usable(listing: Listing, reasons: Mapping[Path, str], unreadable: Unreadable, *, named: bool) -> tuple[str, ...]:
    """Remove unreadable files from a listing, and return the classes that are left.

    Raises:
        ValueError: If that is refused, or leaves a class that was asked for without images.
    """
    total = len(listing.paths())
    for files in listing.files.values():
        for name, paths in files.items():
            files[name] = [path for path in paths if path not in reasons]
    bare = {part: [name for name, paths in files.items() if not paths] for part, files in listing.files.items()}
    gone = [name for name in listing.classes if not any(files[name] for files in listing.files.values())]
    places = [str(listing.places[part][name]) for part, names in bare.items() for name in names]
    report_unreadable(reasons, total, unreadable, empty=places)
    if missing := [name for name in bare["train"] if named or name not in gone]:
        raise ValueError(
            f"Every class needs training images; {', '.join(map(repr, missing))} has none that can be read. Add some, "
            "or list the classes to use as class_names."
        )
    return tuple(name for name in listing.classes if name not in gone)


def repetitions(
    files: Mapping[str, tuple[Sequence[Path], Sequence[int]]],
    classes: Sequence[str],
    facts: Mapping[Path, ImageFacts],
) -> list[str]:
    """Messages about files with the same bytes in two parts or in two classes.

    Args:
        files: Paths and labels of every part.
        classes: Names of the labels.
        facts: Of all files.
    """
    by_part = repeated({part: paths for part, (paths, _) in files.items()}, facts)
    by_class: dict[str, list[Path]] = {}
    for paths, labels in files.values():
        for path, label in zip(paths, labels, strict=True):
            by_class.setdefault(classes[label], []).append(path)
    notes = []
    for found, what in (
        (by_part, "in more than one part (train, val, test), which makes results too good"),
        (repeated(by_class, facts), "in more than one class"),
    ):
        if found:
            pairs = [" = ".join(repr(str(path)) for _, path in places[:3]) for places in found]
            notes.append(f"{len(found)} images are {what}: {some(pairs, 3)}")
    return notes


class Decoder:
    """Decodes images on demand."""

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int, int]) -> None:
        self.paths, self.shape = paths, shape

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """uint8 ``[B, C, H, W]`` of rows ``[B]``."""
        images = np.empty((len(rows), *self.shape), dtype=np.uint8)

        def fill(slot: int, row: int) -> None:
            images[slot] = decode(self.paths[row], self.shape)

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without the interpreter lock
            for _ in pool.map(fill, range(len(rows)), rows.tolist()):
                pass
        return torch.from_numpy(images)


def files_of(samples: object) -> list[Path] | None:
    """The files of the images of a set, in its order; None if it is not made of files, or holds decoded images."""
    if not isinstance(samples, ImageSet) or not isinstance(samples.pixels, Decoder):
        return None
    return [samples.pixels.paths[row] for row in samples.rows.tolist()]


def common_shape(facts: Sequence[ImageFacts], image_size: int | tuple[int, int] | None) -> tuple[int, int, int]:
    """Channels, height, width: one channel where all images are grey, a square of their median shorter side."""
    if isinstance(image_size, int):
        image_size = image_size, image_size
    elif image_size is None:
        side = int(np.median([min(known.size) for known in facts]))
        image_size = side, side
    if min(image_size) < 1:
        raise ValueError(f"image_size must be at least 1 pixel; got {image_size}.")
    return 1 if all(is_grey(known.mode) for known in facts) else 3, *image_size
