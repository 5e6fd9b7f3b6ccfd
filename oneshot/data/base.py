"""What data modules of labelled samples share: streams that can be resumed, splits, balanced classes, predictions."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from oneshot.tasks import Classification

from .images import ShuffleSampler, StreamLoader, balancing
from .samples import labels_of

Split = Literal["train", "val", "test"]


class SampleSet(Protocol):
    """Samples with their targets."""

    @property
    def labels(self) -> Tensor:
        """Targets, ``[N, ...]``."""

    def __len__(self) -> int: ...

    def subset(self, indices: Tensor) -> Any:
        """The samples at ``indices``, int64 ``[M]``, CPU."""

    def split(self, fraction: float, *, seed: int) -> tuple[Any, Any]:
        """Two parts; ``fraction`` is the share of the second."""

    def fingerprint(self) -> int:
        """Checksum."""


S = TypeVar("S", bound=SampleSet)


class LabelledData(pl.LightningDataModule, ABC, Generic[S]):
    """Labelled samples as a data module. `SearchDataModule` splits its training samples into two streams.

    A data set supplies ``load`` and ``dataset``, and says ``num_classes``, ``input_shape`` and ``task`` after its
    construction. Samples are read on first use.

    Args:
        batch_size: Samples in a batch.
        num_workers: Processes that prepare batches; 0 is fastest for what is held in memory.
        seed: Order and augmentation of the training stream, and the validation split, depend on it and on nothing else;
            by default the seed of ``pl.seed_everything``, or 0 before it was called.
        val_fraction: Share of the training samples held back for validation; 0 gives no validation stream.
        balanced: Whether the training stream draws every class equally often, with replacement; an epoch has as many
            samples as without.
        weigh_classes: Whether ``task`` is a classification whose loss weighs classes by inverse frequency.

    Raises:
        ValueError: If an argument is out of its range.
    """

    num_classes: Any
    input_shape: Any
    classes: Any = None
    default_task: ClassVar[str] = "classification"

    def __init__(
        self,
        *,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int | None = None,
        val_fraction: float = 0.0,
        balanced: bool | None = None,
        weigh_classes: bool | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction must be in [0, 1); got {val_fraction}. 0 holds nothing back.")
        self.batch_size, self.num_workers, self.val_fraction = batch_size, num_workers, val_fraction
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.balanced, self.weigh_classes = bool(balanced), bool(weigh_classes)

    # What a data set supplies.

    @abstractmethod
    def load(self, split: Split) -> S | None:
        """Reads one split; None for "val" when the data set has none of its own (then ``val_fraction`` decides)."""

    @abstractmethod
    def dataset(self, samples: S, *, train: bool) -> Dataset[Any]:
        """Samples as a data set whose ``__getitems__`` gives whole batches, of the pairs of a `ShuffleSampler`, too.

        Args:
            samples: What to load.
            train: Whether they are augmented.
        """

    # What they share.

    def _read(self, split: Split) -> S | None:
        return self.load(split)

    def _needed(self, split: Split) -> S:
        samples = self._read(split)
        if samples is None:
            raise RuntimeError(f"{type(self).__name__}.load({split!r}) must return {self._samples}; it returned None.")
        return samples

    @cached_property
    def _train_val(self) -> tuple[S, S | None]:
        train, val = self._needed("train"), self._read("val")
        if not self.val_fraction:
            return train, val
        if val is not None:
            raise ValueError(
                f"val_fraction={self.val_fraction} holds training {self._samples} back, but the data has a validation "
                "part of its own. Use val_fraction=0."
            )
        parts: tuple[S, S] = train.split(self.val_fraction, seed=self.seed)
        return parts

    @cached_property
    def _checksum(self) -> int:
        return self.train_set.fingerprint()

    @property
    def train_set(self) -> S:
        """Training samples, without those held back for validation."""
        return self._train_val[0]

    @property
    def val_set(self) -> S | None:
        """Validation samples; None when nothing is held back."""
        return self._train_val[1]

    @cached_property
    def test_set(self) -> S:
        """Held-out test samples."""
        return self._needed("test")

    @property
    def task(self) -> Any:
        """The task or its name."""
        given = self.__dict__.get("_task", self.default_task)
        if not self.weigh_classes:
            return given
        if not isinstance(given, str):
            raise ValueError(f"weigh_classes=True makes the task, and {given!r} is given. Say class_weights there.")
        return Classification(class_weights=self.class_weights())

    @task.setter
    def task(self, task: Any) -> None:
        self.__dict__["_task"] = task

    @property
    def _task_name(self) -> str:
        given = self.__dict__.get("_task", self.default_task)
        if not isinstance(type(self).task, property):  # a class of a user says: task = "..."
            given = self.task
        return plain_name(given if isinstance(given, str) else given.name)

    @property
    def class_counts(self) -> tuple[int, ...] | None:
        """Training samples of every class, in the order of the labels; None where targets are no classes."""
        labels = labels_of(self.train_set.labels, self._task_name)
        return None if labels is None else tuple(torch.bincount(labels.cpu(), minlength=self.num_classes).tolist())

    def class_weights(self) -> tuple[float, ...]:
        """Weights of the classes in a loss by inverse frequency, see `class_weights`.

        Raises:
            ValueError: If targets are no classes, or a class has no training sample.
        """
        if self.class_counts is None:
            raise ValueError(
                f"Class weights need class labels, one for each sample; {type(self).__name__} has targets of "
                f"{self._task_name!r}."
            )
        return class_weights(self.class_counts)

    def setup(self, stage: str | None = None) -> None:
        """Reads the samples, once."""
        _ = self.train_set, self.test_set

    def train_loader(
        self,
        samples: S,
        *,
        batch_size: int | None = None,
        name: str = "train",
        stream: int = 0,
        epoch: int = 0,
        balanced: bool | None = None,
    ) -> DataLoader[Any]:
        """A shuffled, augmented loader of full batches; an incomplete last batch is dropped.

        Args:
            samples: What to load.
            batch_size: By default the module's.
            name: What an error calls the stream.
            stream: Tells streams apart that share the seed.
            epoch: The epoch to begin with.
            balanced: Whether every class is drawn equally often; by default as the module says.

        Raises:
            ValueError: If there are fewer samples than a batch, or classes cannot be balanced because there are none.
        """
        batch_size = batch_size or self.batch_size
        dataset = self.dataset(samples, train=True)
        weights = None
        if self.balanced if balanced is None else balanced:
            labels = labels_of(samples.labels, self._task_name)
            if labels is None:
                raise ValueError(
                    f"balanced=True draws every class equally often; {type(self).__name__} has targets of "
                    f"{self._task_name!r}, not one class for each sample. Leave it out."
                )
            weights = balancing(labels)
        sampler = ShuffleSampler(dataset, seed=self.seed, stream=stream, epoch=epoch, weights=weights)
        if len(sampler) < batch_size:
            raise ValueError(
                f"The {name} stream needs at least one full batch of {batch_size} {self._samples}; it has "
                f"{len(sampler)}. Lower batch_size, add {self._samples}, or give the stream a larger share."
            )
        return self._loader(dataset, batch_size, StreamLoader, sampler=sampler, drop_last=True)

    _samples = "samples"  # what messages call them

    def eval_loader(self, samples: S, *, batch_size: int | None = None) -> DataLoader[Any]:
        """A loader of all samples in order, without augmentation."""
        return self._loader(self.dataset(samples, train=False), batch_size or self.batch_size)

    def fingerprint(self) -> dict[str, Any]:
        """Plain values, by name, that decide which batches a training sees."""
        return {
            "name": type(self).__name__,
            "images": len(self.train_set),
            "checksum": self._checksum,
            "batch size": self.batch_size,
            "seed": self.seed,
            **({"balanced": True} if self.balanced else {}),
            **({"class weights": True} if self.weigh_classes else {}),
        }

    def _loader(
        self, dataset: Dataset[Any], batch_size: int, kind: type[DataLoader[Any]] = DataLoader, **options: Any
    ) -> DataLoader[Any]:
        return kind(
            dataset,
            batch_size=batch_size,
            num_workers=self.num_workers,
            collate_fn=options.pop("collate_fn", as_it_is),
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator().manual_seed(self.seed),  # or it would draw from torch's global state
            pin_memory=self._on_cpu and torch.cuda.is_available(),
            **options,
        )

    _on_cpu = True

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, augmented, full batches."""
        return self.train_loader(self.train_set, epoch=self.trainer.current_epoch if self.trainer else 0)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Validation samples in order, not augmented.

        Without any, an empty list: Lightning then skips validation and warns, unless ``limit_val_batches=0`` says so.
        """
        return [] if self.val_set is None else self.eval_loader(self.val_set)

    def test_dataloader(self) -> DataLoader[Any]:
        """Test samples in order, not augmented."""
        return self.eval_loader(self.test_set)

    @property
    def predict_set(self) -> S:
        """What ``trainer.predict`` predicts: the test samples, or what the data set was given as ``predict``."""
        return self.test_set

    def predict_dataloader(self) -> DataLoader[Any]:
        """Inputs without targets, in order, not augmented: those of :attr:`predict_set`."""
        return self._loader(self.dataset(self.predict_set, train=False), self.batch_size, collate_fn=inputs_of)


def class_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """Weights of classes by inverse frequency: ``N / (K * n)`` of a class with n of N samples, one of K classes.

    The mean weight of a sample is 1; scikit-learn calls these weights "balanced".

    Args:
        counts: Samples of each class, K numbers.

    Raises:
        ValueError: If a class has none.

    Example:
        >>> class_weights([30, 10])
        (0.6666666666666666, 2.0)
    """
    if not counts or min(counts) < 1:
        raise ValueError(
            f"Every class must have a training sample to have a weight; the counts are {list(counts)}. Add samples, or "
            "leave the class out."
        )
    return tuple(sum(counts) / (len(counts) * count) for count in counts)


def plain_name(task: str) -> str:
    """The name of a task, however it is written."""
    return task.lower().replace("-", "").replace("_", "")


def as_it_is(batch: Any) -> Any:
    """Return a batch unchanged: data sets here give whole batches, nothing is left to collate."""
    return batch


def inputs_of(batch: Any) -> Any:
    """The inputs of a batch ``(x, y)``."""
    return batch[0]
