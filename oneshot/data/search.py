"""The two streams of a bilevel search."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeAlias

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from oneshot.tasks import task_of

from .base import LabelledData, class_weights
from .images import Batch, Stats
from .streams import LoadedData, TrainingSet
from .text import TextData, TextSearchData

Part: TypeAlias = Dataset[Any] | DataLoader[Any]
Source: TypeAlias = pl.LightningDataModule | Part | tuple[Part, Part]


class SearchDataModule(pl.LightningDataModule):
    """Splits the TRAINING samples into one stream for the weights and one for the architecture; test is not used.

    Under Lightning a training batch is ``{"weights": (x, y), "arch": (x, y)}``. x are images ``[B, C, H, W]`` or inputs
    of any other shape, or several by name; y are labels ``[B]`` or whatever the task takes. An epoch is one pass over
    the longer stream; the other is shuffled anew each time it is used up. Both are augmented and both drop an
    incomplete last batch.

    ``data`` may be

    * a data module of oneshot,
    * any other data module whose ``train_dataloader`` gives a ``DataLoader`` over a data set with a length,
    * a data set with a length, such as torch's ``TensorDataset``,
    * a loader of one,
    * a pair of data sets or loaders. Then nothing is split: the first trains the weights, the second the architecture.

    Samples are pairs: an input, or a mapping of names to inputs, and a target. Inputs are tensors of floating point, or
    whole numbers of words (int64). A ``collate_fn`` of a loader is kept, so that it may make such batches of anything.
    The samples keep their own transforms, whose random numbers follow from the seed. Of a loader's samplers,
    ``WeightedRandomSampler`` and ``SubsetRandomSampler`` are kept; all others are refused but those that draw every
    sample once.

    Where the data set lists its targets as ``targets`` (or is a ``TensorDataset``), the split is stratified: by class
    labels, or by tenths of one number that is predicted. Otherwise it is random. What the data say of themselves
    (``num_classes``, ``task``, ``classes``, ``input_shape``, ``mean``, ``std``, ``preprocessing``) is passed on. Of
    data sets and loaders the shape of an input is that of the first sample, and the number of outputs follows from the
    list of targets, if there is one.

    Args:
        data: What is split, see above. Of ours, the ``train_images`` are split, the ``val_images`` are not used.
        arch_fraction: Share of the architecture stream; by default 0.5, as in DARTS (arXiv:1806.09055).
        seed: Which sample goes to which stream. Order and augmentation follow ``data.seed``.
        batch_size: Samples in a batch of each stream; by default the data's, and 64 for data sets.
        balanced: Whether both streams draw every class equally often, with replacement; None does what ``data`` does.
        test: Data set or loader for tests, where ``data`` is no data module.
        num_classes: Number of classes or outputs, where ``data`` is no data module and does not say it.
        task: The task or its name, likewise.
        num_workers: Processes that load, where ``data`` is a data set.

    Raises:
        ValueError: If ``arch_fraction`` is not inside (0, 1), ``batch_size`` is below 1, ``data`` is none of these, or
            an argument is for others of these. On first use also if a class has a single training sample, a stream
            fewer samples than a batch, or samples or loaders are not as above.
    """

    def __init__(
        self,
        data: Source,
        *,
        arch_fraction: float | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        balanced: bool | None = None,
        test: Any = None,
        num_classes: int | None = None,
        task: Any = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(data, (TextData, TextSearchData, SearchDataModule)):
            way = "TextSearchData is that for words" if isinstance(data, TextData) else "Use it as it is"
            raise ValueError(f"SearchDataModule splits images with labels; got {type(data).__name__}. {way}.")
        if arch_fraction is not None and not 0 < arch_fraction < 1:
            raise ValueError(
                f"arch_fraction must be strictly between 0 and 1; got {arch_fraction}. Both streams need training "
                "samples; 0.5 is usual."
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        if task is not None:
            task_of(task)  # a name that is none is an error now
        if not isinstance(data, pl.LightningDataModule):
            if isinstance(data, tuple) and arch_fraction is not None:
                raise ValueError(
                    f"Of a pair nothing is split; got arch_fraction={arch_fraction}. Leave it out, or give one set."
                )
            data = LoadedData.of(
                data, test, batch_size=batch_size, num_workers=num_workers, num_classes=num_classes, task=task
            )
        else:
            said = {"test": test, "num_classes": num_classes, "task": task, "num_workers": num_workers or None}
            if given := [name for name, value in said.items() if value is not None]:
                raise ValueError(
                    f"{', '.join(given)}: a data module says so itself; {type(data).__name__} is one. Set it there."
                )
        self.data: Any = data
        self.arch_fraction, self.seed = 0.5 if arch_fraction is None else arch_fraction, seed
        self.balanced = balanced
        self._batch_size = batch_size

    @property
    def batch_size(self) -> int:
        """Samples in a batch of each stream."""
        if self._batch_size is not None:
            return self._batch_size
        return int(self.data.batch_size if self._is_ours else self._sets[0].batch_size)

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._batch_size = size

    @property
    def _is_ours(self) -> bool:
        return isinstance(self.data, LabelledData)

    @cached_property
    def _sets(self) -> tuple[TrainingSet, TrainingSet]:
        """The streams of a data module that is not ours."""
        train = TrainingSet.of(self.data)
        val = self.data.val if isinstance(self.data, LoadedData) else None
        if val is None:
            parts = train.split(self.arch_fraction, seed=self.seed)
        else:
            parts = train, TrainingSet.of_loader(val, self.data, self.data.source)
        return (parts[0].balanced(), parts[1].balanced()) if self.balanced else parts

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or of other outputs."""
        return getattr(self.data, "num_classes", None)

    @property
    def task(self) -> Any:
        """The task, or its name."""
        return getattr(self.data, "task", None)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the order of the labels."""
        return getattr(self.data, "classes", None)

    @property
    def input_shape(self) -> Any:
        """Shape of an input, such as channels, height, width; of several, by name."""
        return getattr(self.data, "input_shape", None)

    @property
    def vocabulary(self) -> int | None:
        """Number that all words are below; None where inputs are not whole numbers, or the data do not say it."""
        return getattr(self.data, "vocabulary", None)

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
        """What was done to an input before a network sees it, for manifests."""
        return getattr(self.data, "preprocessing", None)

    @cached_property
    def _streams(self) -> tuple[Any, Any]:
        if self._is_ours:
            parts: tuple[Any, Any] = self.data.train_set.split(self.arch_fraction, seed=self.seed)
            return parts
        return self._sets[0].dataset, self._sets[1].dataset

    @property
    def weights_images(self) -> Any:
        """The training samples the weights are trained on: an ``ImageSet``; of other data, a ``Dataset``."""
        return self._streams[0]

    @property
    def arch_images(self) -> Any:
        """The training samples that the architecture is trained on; same types."""
        return self._streams[1]

    @property
    def class_counts(self) -> tuple[int, ...] | None:
        """Training samples of every class, of both streams; None where targets are no classes, or are not listed."""
        if self._is_ours:
            counts: tuple[int, ...] | None = self.data.class_counts
            return counts
        labels = [part.labels for part in self._sets]
        known = [part for part in labels if part is not None]
        if len(known) != len(labels):
            return None
        return tuple(torch.bincount(torch.cat(known), minlength=self.num_classes or 0).tolist())

    def class_weights(self) -> tuple[float, ...]:
        """Weights of the classes in a loss by inverse frequency, see `base.class_weights`.

        Raises:
            ValueError: If targets are no classes or are not listed, or a class has no training sample.
        """
        if self.class_counts is None:
            raise ValueError(
                "Class weights need a class label for every sample, in a list 'targets' of the data set; there is no "
                "list, or its targets are no classes."
            )
        return class_weights(self.class_counts)

    def fingerprint(self) -> dict[str, Any]:
        """Plain values, by name, that decide which batches a search sees."""
        split = {"split": f"{self.arch_fraction} with seed {self.seed}", "batch size": self.batch_size}
        if self.balanced is not None:
            split["balanced"] = self.balanced
        if self._is_ours:
            return {**self.data.fingerprint(), **split}
        name = self.data.source if isinstance(self.data, LoadedData) else type(self.data).__name__
        return {"name": name, "images": sum(map(len, self._sets)), "seed": self._sets[0].seed, **split}

    def prepare_data(self) -> None:
        """Downloads the data set if ``download`` is set."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Reads the samples and splits them, once."""
        self.data.setup(stage)
        _ = self._streams

    def train_dataloader(self) -> dict[str, DataLoader[Batch]]:
        """Both streams; Lightning cycles the shorter one.

        Raises:
            ValueError: If a stream has fewer samples than a batch.
        """
        epoch = self.trainer.current_epoch if self.trainer else 0
        loaders: dict[str, DataLoader[Batch]] = {}
        for number, name in enumerate(("weights", "arch")):
            options: dict[str, Any] = {"name": name, "stream": number, "epoch": epoch}
            if self._is_ours:
                loaders[name] = self.data.train_loader(
                    self._streams[number], batch_size=self.batch_size, balanced=self.balanced, **options
                )
            else:
                part = self._sets[number]
                loaders[name] = part.train_loader(self._batch_size or part.batch_size, **options)
        return loaders

    def val_dataloader(self) -> DataLoader[Batch]:
        """The architecture split: optimistic, because the alphas were trained on these samples.

        Without augmentation; of another data module, with whatever its data set does.
        """
        if self._is_ours:
            loader: DataLoader[Batch] = self.data.eval_loader(self.arch_images, batch_size=self.batch_size)
            return loader
        return self._sets[1].eval_loader(self._batch_size or self._sets[1].batch_size)

    def test_dataloader(self) -> Any:
        """The held-out test samples."""
        if not self._is_ours:
            return self.data.test_dataloader()
        return self.data.eval_loader(self.data.test_set, batch_size=self.batch_size)

    def predict_dataloader(self) -> Any:
        """What ``trainer.predict`` predicts: as the data say, or the test samples."""
        if self._is_ours or type(self.data).predict_dataloader is not pl.LightningDataModule.predict_dataloader:
            return self.data.predict_dataloader()
        return self.test_dataloader()
