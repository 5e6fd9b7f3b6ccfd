"""The real images that the pretrained network is transferred to, at one size and in its normalisation."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "compare")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from packed_cifar10 import data_folder, unpacked  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from oneshot.data import Digits, VisionData  # noqa: E402
from oneshot.data.images import ImageSet  # noqa: E402

PACKED = ("flower_photos", "dtd10", "rsscn7", "hymenoptera")  # one file each, with its own split
NAMES = (*PACKED, "cifar10", "fashion", "digits")
FASHION = Path("/usr/share/datasets/fashion-mnist")  # of the Debian package dataset-fashion-mnist
SUBSET = {"train": 4_000, "test": 2_000}  # of CIFAR-10 and Fashion-MNIST, drawn by a fixed seed
MEAN = STD = (0.5, 0.5, 0.5)  # of EfficientNet-Lite0

Pixels = tuple[np.ndarray, np.ndarray]


class TransferImages(VisionData):
    """One of the data sets, as colour images of one size.

    Args:
        name: One of ``NAMES``.
        image_size: Side in pixels: the middle square of each image, resized bicubically.
        limit: Most training images, drawn by a fixed seed. None takes all.
        test_limit: Likewise of test images: for a try.
        fashion: Folder of the IDX files of Fashion-MNIST.
        **options: See `VisionData`.

    Raises:
        ValueError: If there is no such data set, or the folder with its files is not known or has none.
    """

    def __init__(
        self,
        name: str,
        *,
        image_size: int = 64,
        limit: int | None = None,
        test_limit: int | None = None,
        fashion: str | Path = FASHION,
        **options: Any,
    ) -> None:
        if name not in NAMES:
            raise ValueError(f"The data set must be one of {', '.join(NAMES)}; got {name!r}.")
        self.data_name, self.fashion, self.side = name, Path(fashion), image_size
        self.limits = {"train": limit, "test": test_limit}
        shift = v2.RandomCrop(image_size, padding=image_size // 16, padding_mode="reflect")
        mirror = [] if name == "digits" else [v2.RandomHorizontalFlip()]
        options = {"train_transforms": [shift, *mirror], "mean": MEAN, "std": STD, **options}
        super().__init__(self._classes(), (3, image_size, image_size), **options)

    @property
    def source(self) -> str:
        return f"{self.data_name}, the middle square of each image resized to {self.side}x{self.side} pixels"

    def load(self, split: Literal["train", "val", "test"]) -> ImageSet | None:
        if split == "val":
            return None
        pixels, labels = self._pixels(split)
        if (most := self.limits[split]) is not None:
            rows = np.random.default_rng(1).permutation(len(labels))[
                :most
            ]  # in files the images of a class are together
            pixels, labels = pixels[rows], labels[rows]
        return ImageSet.whole(torch.from_numpy(pixels), torch.from_numpy(labels))

    def _classes(self) -> tuple[str, ...]:
        if self.data_name in ("fashion", "digits"):
            return tuple(map(str, range(10)))
        with np.load(self._file("test")) as pack:
            return tuple(map(str, pack["classes"]))

    def _file(self, split: str) -> Path:
        file = f"cifar10_jpeg_{split}.npz" if self.data_name == "cifar10" else f"{self.data_name}.npz"
        path = data_folder() / file
        if not path.is_file():
            raise ValueError(f"The folder that ONESHOT_DATA names must have the file {file}; {path.parent} has none.")
        return path

    def _pixels(self, split: str) -> Pixels:
        if self.data_name == "digits":
            return self._digits(split)
        if self.data_name == "fashion":
            return self._fashion(split)
        with np.load(self._file(split)) as pack:
            count = len(pack["labels"])
            rows = (
                np.arange(count) if self.data_name == "cifar10" else np.flatnonzero(pack["split"] == (split == "test"))
            )
        if self.data_name == "cifar10":
            rows = _drawn(count, split)
        return unpacked(self._file(split), self.side, rows, Image.Resampling.BICUBIC)

    def _fashion(self, split: str) -> Pixels:
        part = "train" if split == "train" else "t10k"
        found = []
        for kind in ("images-idx3", "labels-idx1"):
            path = self.fashion / f"{part}-{kind}-ubyte.gz"
            if not path.is_file():
                raise ValueError(
                    f"Fashion-MNIST must lie in {self.fashion}; {path.name} is not there. Install the Debian package "
                    "dataset-fashion-mnist, or name the folder: --fashion FOLDER."
                )
            with gzip.open(path) as file:
                found.append(file.read())
        labels = np.frombuffer(found[1], np.uint8, offset=8)
        images = np.frombuffer(found[0], np.uint8, offset=16).reshape(len(labels), 28, 28)
        rows = _drawn(len(labels), split)
        return self._enlarged(images[rows]), labels[rows].astype(np.int64)

    def _digits(self, split: str) -> Pixels:
        digits = Digits()
        chosen = digits.train_set if split == "train" else digits.test_set
        pixels = chosen.pixels[chosen.rows]
        assert isinstance(pixels, Tensor)
        return self._enlarged(pixels[:, 0].numpy()), chosen.labels.numpy().astype(np.int64)

    def _enlarged(self, images: np.ndarray) -> np.ndarray:
        """Grey ``[N, H, W]`` to colour ``[N, 3, side, side]``."""
        sides = (self.side, self.side)
        large = [np.asarray(Image.fromarray(image).resize(sides, Image.Resampling.BICUBIC)) for image in images]
        return np.repeat(np.stack(large)[:, None], 3, axis=1)


def _drawn(count: int, split: str) -> np.ndarray:
    """Rows of a subset, in a random order that is always the same."""
    return np.random.default_rng(0).permutation(count)[: SUBSET[split]]
