"""The two streams of a bilevel search."""

from __future__ import annotations

from collections.abc import Sized
from functools import cached_property
from typing import Any, cast

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from .images import Batch, Stats
from .streams import TrainingSet
from .text import TextData, TextSearchData
from .vision import VisionData


class SearchDataModule(pl.LightningDataModule):
    """Splits the TRAINING images into one stream for the weights and one for the architecture; test is not used.

    Under Lightning a training batch is ``{"weights": (x, y), "arch": (x, y)}``, x ``[B, C, H, W]``, y ``[B]``, or
    ``[B, H, W]`` where every pixel has a label. An epoch is one pass over the longer stream; the other is shuffled anew
    each time it is used up. Both are augmented and both drop an incomplete last batch.

    Any other data module works if its ``train_dataloader`` gives a ``DataLoader`` over a data set with a length, whose
    samples are an image, a floating-point tensor, and the number of its class. That data set is split, with its own
    transforms, whose random numbers follow from the seed. It is stratified where the data set lists its labels as
    ``targets``. What the data module says of itself (``num_classes``, ``classes``, ``input_shape``, ``mean``, ``std``,
    ``preprocessing``) is passed on.

    Args:
        data: The data set; its ``train_images`` are split, its ``val_images`` are not used. Or any data module.
        arch_fraction: Share of the architecture stream, stratified unless every pixel has a label; DARTS
            (arXiv:1806.09055) uses half.
        seed: Which image goes to which stream. Order and augmentation follow ``data.seed``.
        batch_size: Images in a batch of each stream; by default the data set's.

    Raises:
        ValueError: If ``arch_fraction`` is not inside (0, 1), ``batch_size`` is below 1, or ``data`` is no data module
            of images. On first use also if a class has a single training image, a stream fewer images than a batch, or
            the training set of another data module is not as above.
    """

    def __init__(
        self,
        data: pl.LightningDataModule,
        *,
        arch_fraction: float = 0.5,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(data, pl.LightningDataModule):
            raise ValueError(
                f"SearchDataModule takes a LightningDataModule; got a {type(data).__name__}. A data set becomes one by "
                "LightningDataModule.from_datasets(train_dataset=..., batch_size=64)."
            )
        if isinstance(data, (TextData, TextSearchData, SearchDataModule)):
            way = "TextSearchData is that for words" if isinstance(data, TextData) else "Use it as it is"
            raise ValueError(f"SearchDataModule splits images with labels; got {type(data).__name__}. {way}.")
        if not 0 < arch_fraction < 1:
            raise ValueError(
                f"arch_fraction must be strictly between 0 and 1; got {arch_fraction}. Both streams need training "
                "images; 0.5 is usual."
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        self.data: Any = data
        self.arch_fraction, self.seed = arch_fraction, seed
        self._batch_size = batch_size

    @property
    def batch_size(self) -> int:
        """Images in a batch of each stream."""
        if self._batch_size is not None:
            return self._batch_size
        return int(self.data.batch_size if self._is_ours else self._training_set.batch_size)

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._batch_size = size

    @property
    def _is_ours(self) -> bool:
        return isinstance(self.data, VisionData)

    @cached_property
    def _training_set(self) -> TrainingSet:
        """Training set of a data module that is not ours."""
        return TrainingSet.of(self.data)

    @property
    def num_classes(self) -> int | None:
        """Number of classes."""
        return getattr(self.data, "num_classes", None)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the order of the labels."""
        return getattr(self.data, "classes", None)

    @property
    def input_shape(self) -> tuple[int, int, int] | None:
        """Channels, height, width."""
        return getattr(self.data, "input_shape", None)

    @property
    def mean(self) -> Stats | None:
        """Per-channel mean of values scaled to 0..1."""
        return getattr(self.data, "mean", None)

    @property
    def std(self) -> Stats | None:
        """Per-channel standard deviation of values scaled to 0..1."""
        return getattr(self.data, "std", None)

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """What was done to an image before a network sees it, for manifests."""
        return getattr(self.data, "preprocessing", None)

    @cached_property
    def _streams(self) -> tuple[Any, Any]:
        source = self.data.train_images if self._is_ours else self._training_set
        return source.split(self.arch_fraction, seed=self.seed)

    @property
    def weights_images(self) -> Any:
        """The training images the weights are trained on: an ``ImageSet``; of other data modules, a ``Subset``."""
        return self._streams[0]

    @property
    def arch_images(self) -> Any:
        """The training images that the architecture is trained on; same types."""
        return self._streams[1]

    def fingerprint(self) -> dict[str, Any]:
        """Plain values, by name, that decide which batches a search sees."""
        split = {"split": f"{self.arch_fraction} with seed {self.seed}", "batch size": self.batch_size}
        if self._is_ours:
            return {**self.data.fingerprint(), **split}
        known = self._training_set
        images = len(cast(Sized, known.dataset))
        return {"name": type(self.data).__name__, "images": images, "seed": known.seed, **split}

    def prepare_data(self) -> None:
        """Downloads the data set if ``download`` is set."""
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
        source = self.data if self._is_ours else self._training_set
        return {
            name: source.train_loader(images, batch_size=self.batch_size, name=name, stream=number, epoch=epoch)
            for number, (name, images) in enumerate(streams.items())
        }

    def val_dataloader(self) -> DataLoader[Batch]:
        """The architecture split: optimistic, because the alphas were trained on these images.

        Without augmentation; of another data module, with whatever its data set does.
        """
        source = self.data if self._is_ours else self._training_set
        loader: DataLoader[Batch] = source.eval_loader(self.arch_images, batch_size=self.batch_size)
        return loader

    def test_dataloader(self) -> Any:
        """The held-out test images."""
        if not self._is_ours:
            return self.data.test_dataloader()
        return self.data.eval_loader(self.data.test_images, batch_size=self.batch_size)
