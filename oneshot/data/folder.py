"""Any folder of images, one sub-folder per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from .decoding import SUFFIXES, UnreadableImageError, decode, is_grey, opened, unreadable
from .images import ImageSet, Pixels, stratified_split
from .preprocessing import of_files
from .vision import Split, VisionData

_SIZE_SAMPLE = 64  # images whose headers decide size and channels


class ImageFolder(VisionData):
    """A folder of images in one of two layouts.

    * ``root/train/<class>/*`` with ``root/test/<class>/*``, ``root/val/<class>/*`` or both. Where there is only one of
      them, it is the held-out test set.
    * ``root/<class>/*``: a stratified share of each class is the test set.

    What is not given is inferred: classes from the names of the folders, size and channels from a sample of the images
    (a square of the median shorter side, because networks take squares), mean and std from up to 1,000 training images.
    Images are resized to cover the size, then cropped at the centre. Training images get the same augmentation as every
    other data set; there is no random resizing.

    Args:
        root: The folder.
        image_size: Side, or height and width, in pixels; None infers it.
        class_names: Which folders to use and the order of their labels; None takes all, sorted.
        test_fraction: Share of the test set in the second layout.
        split_seed: Which images these are; leave it alone to compare results.
        in_memory: Decode all images once, to a uint8 tensor; otherwise each time they are used.
        **options: See `VisionData`. Pass ``flip=False`` where left and right matter.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If it is not laid out as above, a class has no images, or an image cannot be read.
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
        **options: Any,
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(
                f"root must be an existing folder; {str(root.absolute())!r} is not. Check the path."
            )
        parts = {part: root / part for part in ("train", "val", "test") if (root / part).is_dir()}
        if "train" not in parts:
            parts = {"train": root}
        elif len(parts) == 1:
            raise ValueError(
                f"A folder with train needs test or val beside it; {str(root)!r} has neither. Add one, or name "
                f"{str(parts['train'])!r} as root to have a test set split off."
            )
        elif "test" not in parts:
            parts["test"] = parts.pop("val")
        classes = _classes(parts["train"]) if class_names is None else tuple(class_names)
        for part, folder in parts.items():
            if class_names is None and (unknown := set(_classes(folder)) - set(classes)):
                raise ValueError(
                    f"Every class must be in train; {part} has {sorted(unknown)}, train has {classes}. Add training "
                    "images of them or list the classes to use as class_names."
                )
        self._files = {part: _files(folder, classes) for part, folder in parts.items()}
        if "test" not in self._files:
            paths, labels = self._files["train"]
            train, test = stratified_split(torch.tensor(labels), test_fraction, seed=split_seed)
            for part, chosen in (("train", train.tolist()), ("test", test.tolist())):
                self._files[part] = [paths[i] for i in chosen], [labels[i] for i in chosen]
        super().__init__(classes, common_shape(self._files["train"][0], image_size), **options)
        self.in_memory = in_memory

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How the files are read, for manifests. May read training images."""
        return of_files(self.input_shape, self.mean, self.std)

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


class Decoder:
    """Decodes images when they are asked for."""

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


def _classes(folder: Path) -> tuple[str, ...]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise ValueError(f"An image folder needs one sub-folder per class; {str(folder)!r} has no sub-folders.")
    return tuple(names)


def _files(folder: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise ValueError(
                f"Every class needs images; {str(folder / name)!r} has none. Add some ("
                f"{', '.join(sorted(SUFFIXES))}) or list the classes to use as class_names."
            )
        paths += found
        labels += [label] * len(found)
    return paths, labels


def common_shape(paths: Sequence[Path], image_size: int | tuple[int, int] | None) -> tuple[int, int, int]:
    """Channels, height, width, from the headers of evenly spaced images."""
    sizes, modes = [], set()
    for index in np.linspace(0, len(paths) - 1, min(_SIZE_SAMPLE, len(paths))).round().astype(int):
        try:
            with opened(paths[index]) as image:
                sizes.append(image.size)
                modes.add(image.mode)
        except UnreadableImageError as error:
            raise ValueError(unreadable(paths[index], error)) from error
    if isinstance(image_size, int):
        image_size = image_size, image_size
    elif image_size is None:
        side = int(np.median([min(size) for size in sizes]))
        image_size = side, side
    if min(image_size) < 1:
        raise ValueError(f"image_size must be at least 1 pixel; got {image_size}.")
    return 1 if all(map(is_grey, modes)) else 3, *image_size
