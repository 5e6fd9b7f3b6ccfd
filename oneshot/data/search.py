"""The two streams of a bilevel search."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from .images import Batch, ImageSet, Stats
from .vision import VisionData


class SearchDataModule(pl.LightningDataModule):
    """Splits the TRAINING images into one stream for the weights and one for the architecture; test stays untouched.

    Under Lightning a training batch is ``{"weights": (x, y), "arch": (x, y)}``, x ``[B, C, H, W]``, y ``[B]``, or
    ``[B, H, W]`` where every pixel has a label. An epoch is one pass over the longer stream; the other is shuffled anew
    each time it is used up. Both are augmented and both drop an incomplete last batch.

    Args:
        data: The data set; its ``train_images`` are split, its ``val_images`` are not used.
        arch_fraction: Share of the architecture stream, stratified unless every pixel has a label; DARTS
            (arXiv:1806.09055) uses half.
        seed: Which image goes to which stream. Order and augmentation follow ``data.seed``.
        batch_size: Images in a batch of each stream; by default the data set's.

    Raises:
        ValueError: If ``arch_fraction`` is not inside (0, 1) or ``batch_size`` is below 1. On first use also if a class
            has a single training image or a stream fewer images than a batch.
    """

    def __init__(
        self, data: VisionData, *, arch_fraction: float = 0.5, seed: int = 0, batch_size: int | None = None
    ) -> None:
        super().__init__()
        if not 0 < arch_fraction < 1:
            raise ValueError(
                f"arch_fraction must be strictly between 0 and 1; got {arch_fraction}. Both streams need training "
                "images; 0.5 is usual."
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        self.data, self.arch_fraction, self.seed = data, arch_fraction, seed
        self.batch_size = data.batch_size if batch_size is None else batch_size

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.data.num_classes

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return self.data.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.data.input_shape

    @property
    def mean(self) -> Stats:
        """Per-channel mean of values scaled to 0..1."""
        return self.data.mean

    @property
    def std(self) -> Stats:
        """Per-channel standard deviation of values scaled to 0..1."""
        return self.data.std

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """What was done to an image before a network sees it, for manifests."""
        return self.data.preprocessing

    @cached_property
    def _streams(self) -> tuple[ImageSet, ImageSet]:
        return self.data.train_images.split(self.arch_fraction, seed=self.seed)

    @property
    def weights_images(self) -> ImageSet:
        """The training images the weights are trained on."""
        return self._streams[0]

    @property
    def arch_images(self) -> ImageSet:
        """The training images the architecture is trained on."""
        return self._streams[1]

    def fingerprint(self) -> dict[str, Any]:
        """What decides which batches a search sees: plain values by name."""
        split = {"split": f"{self.arch_fraction} with seed {self.seed}", "batch size": self.batch_size}
        return {**self.data.fingerprint(), **split}

    def prepare_data(self) -> None:
        """Downloads, if the data set was asked to."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Reads the images and splits them, once."""
        self.data.setup(stage)
        _ = self._streams

    def train_dataloader(self) -> dict[str, DataLoader[Batch]]:
        """Both streams; Lightning cycles the shorter one.

        Raises:
            ValueError: If a stream has fewer images than a batch.
        """
        epoch = self.trainer.current_epoch if self.trainer else 0
        streams = {"weights": self.weights_images, "arch": self.arch_images}
        return {
            name: self.data.train_loader(images, batch_size=self.batch_size, name=name, stream=number, epoch=epoch)
            for number, (name, images) in enumerate(streams.items())
        }

    def val_dataloader(self) -> DataLoader[Batch]:
        """The architecture split without augmentation: optimistic, because the alphas were trained on these images."""
        return self.data.eval_loader(self.arch_images, batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The held-out test images."""
        return self.data.eval_loader(self.data.test_images, batch_size=self.batch_size)
