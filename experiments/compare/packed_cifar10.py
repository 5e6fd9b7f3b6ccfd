"""The first images of CIFAR-10, packed as JPEGs and made smaller: for searches that take a minute on one core."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps

from oneshot.data import VisionData
from oneshot.data.images import ImageSet


def data_folder() -> Path:
    """The folder with the packed images: the one that the environment variable ONESHOT_DATA names.

    Raises:
        ValueError: If it is not set.
    """
    if not (given := os.environ.get("ONESHOT_DATA")):
        raise ValueError("The environment variable ONESHOT_DATA must name the folder of the data; it is not set.")
    return Path(given)


def unpacked(
    file: Path, side: int, rows: np.ndarray | None = None, resample: Image.Resampling = Image.Resampling.BOX
) -> tuple[np.ndarray, np.ndarray]:
    """Images of a file of packed JPEGs, the middle square of each, and their labels.

    Args:
        file: ``.npz`` with the bytes of all images ``jpeg``, where each begins ``offsets``, and ``labels``.
        side: In pixels.
        rows: Which images; by default all.
        resample: How they are resized.

    Returns:
        uint8 ``[N, 3, side, side]`` and int64 ``[N]``.
    """
    with np.load(file) as pack:
        jpeg, offsets, labels = pack["jpeg"], pack["offsets"], pack["labels"]
    rows = np.arange(len(labels)) if rows is None else rows
    pixels = np.empty((len(rows), side, side, 3), np.uint8)
    for place, i in enumerate(rows):
        with Image.open(BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes())) as image:
            pixels[place] = ImageOps.fit(image.convert("RGB"), (side, side), resample)
    return pixels.transpose(0, 3, 1, 2).copy(), labels[rows].astype(np.int64)


class PackedCIFAR10(VisionData):
    """CIFAR-10 from ``cifar10_jpeg_train.npz`` and ``..._test.npz``, with arrays jpeg, offsets, labels and classes.

    Args:
        folder: Folder with the two files; by default the one that the environment variable ONESHOT_DATA names.
        image_size: Side in pixels.
        images: Training images.
        test_images: A fifth as many as training images if ``None``.
        **options: See `VisionData`.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        image_size: int = 16,
        images: int = 4000,
        test_images: int | None = None,
        **options: Any,
    ) -> None:
        given = Path(folder) if folder else data_folder()
        with np.load(given / "cifar10_jpeg_test.npz") as pack:
            classes = [str(name) for name in pack["classes"]]
        super().__init__(classes, (3, image_size, image_size), **options)
        self.folder, self.images = given, images
        self._test_images = images // 5 if test_images is None else test_images

    def load(self, split: Literal["train", "val", "test"]) -> ImageSet | None:
        if split == "val":
            return None
        side, limit = self.input_shape[1], self.images if split == "train" else self._test_images
        pixels, labels = unpacked(self.folder / f"cifar10_jpeg_{split}.npz", side, np.arange(limit))
        return ImageSet.whole(torch.from_numpy(pixels), torch.from_numpy(labels))
