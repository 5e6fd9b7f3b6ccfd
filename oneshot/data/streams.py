"""The training set of any data module, data set or loader, split into the two streams of a search."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from oneshot.random_numbers import own_random_numbers

from .base import as_it_is
from .images import Batch, ShuffleSampler, StreamLoader, balancing, stratified_split
from .samples import SampleStream, check_sample, labels_of, shapes_of, strata, targets_of

HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class LoadedData(pl.LightningDataModule):
    """Loaders as a data module: what `SearchDataModule` makes of data sets and loaders.

    Args:
        train: The training loader.
        val: What the architecture is trained on; None splits the training set.
        test: What a test takes.
        said: What the data are, by the names that data modules use: ``num_classes``, ``task``. The shape of an input
            and the number of outputs are taken from the first sample where they can be.
    """

    num_classes: int | None = None
    input_shape: Any = None
    classes: Any = None
    task: Any = None

    def __init__(
        self, train: DataLoader[Any], val: DataLoader[Any] | None, test: DataLoader[Any] | None, **said: Any
    ) -> None:
        super().__init__()
        self.train, self.val, self.test = train, val, test
        self.source = _name_of(train.dataset)
        for name, value in {**_seen(train), **{k: v for k, v in said.items() if v is not None}}.items():
            setattr(self, name, value)

    @classmethod
    def of(
        cls, source: Any, test: Any, *, batch_size: int | None = None, num_workers: int = 0, **said: Any
    ) -> LoadedData:
        """Data sets, loaders, or a pair of them, as a data module; see :func:`loader_of`.

        Raises:
            ValueError: If they are none of these, or a tuple is no pair.
        """
        parts = source if isinstance(source, tuple) else (source,)
        if len(parts) not in (1, 2):
            raise ValueError(
                f"A tuple must be a pair of data sets or loaders, for weights and architecture; got {len(parts)}."
            )
        loaders = [
            loader_of(part, what, batch_size=batch_size, num_workers=num_workers)
            for part, what in zip(parts, ("the training set", "the arch set"), strict=False)
        ]
        held = None
        if test is not None:
            held = loader_of(test, "the test set", batch_size=batch_size, num_workers=num_workers)
        return cls(loaders[0], loaders[1] if len(parts) == 2 else None, held, **said)

    def train_dataloader(self) -> DataLoader[Any]:
        """The training loader."""
        return self.train

    def test_dataloader(self) -> DataLoader[Any]:
        """The test loader.

        Raises:
            ValueError: If there is none.
        """
        if self.test is None:
            raise ValueError("A test needs test samples; there are none. Give SearchDataModule(..., test=...).")
        return self.test


def loader_of(source: Any, what: str, *, batch_size: int | None = None, num_workers: int = 0) -> DataLoader[Any]:
    """A loader as it is, or one over a data set.

    Args:
        source: A data set with a length, or a ``DataLoader``.
        what: What it is for, for messages.
        batch_size: Samples in a batch, of a data set; 64 by default.
        num_workers: Processes that load, of a data set.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(source, DataLoader):
        return source
    indexed = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    if not indexed or isinstance(source, IterableDataset | str | bytes | Mapping):
        kind = "an IterableDataset" if isinstance(source, IterableDataset) else f"a {type(source).__name__}"
        raise ValueError(
            f"SearchDataModule takes a LightningDataModule, a data set with __len__ and __getitem__, or a pair of data "
            f"sets or loaders; got {kind} as {what}."
        )
    if not len(source):
        raise ValueError(f"A data set must have samples; that of {what}, a {type(source).__name__}, has none.")
    return DataLoader(source, batch_size or 64, num_workers=num_workers, generator=torch.Generator().manual_seed(0))


def _name_of(dataset: Any) -> str:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return type(dataset).__name__


def _seen(loader: DataLoader[Any]) -> dict[str, Any]:
    """What data sets say of themselves: shape of an input, classes, number of outputs, the task."""
    if isinstance(loader.dataset, IterableDataset) or not len(cast(Sized, loader.dataset)):
        return {}  # refused later, with a reason
    dataset, targets = loader.dataset, targets_of(loader.dataset)
    inner: Any = dataset
    while isinstance(inner, Subset):
        inner = inner.dataset
    seen: dict[str, Any] = {}
    classes = getattr(inner, "classes", None)
    if isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes):
        seen |= {"classes": tuple(classes), "num_classes": len(classes)}
    with own_random_numbers():
        sample = dataset[0]
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        return seen
    if loader.collate_fn is default_collate:
        shape = shapes_of(sample[0])
        seen["input_shape"] = {k: tuple(v) for k, v in shape.items()} if isinstance(shape, dict) else tuple(shape)
    if targets is not None and "num_classes" not in seen and targets.numel():
        if labels_of(targets) is not None:
            seen |= {"num_classes": int(targets.max()) + 1, "task": "classification"}
        elif targets.ndim == 1:
            seen |= {"num_classes": 1, "task": "regression"}
        elif targets.ndim == 2:  # labels, probabilities, or numbers: only the user knows
            seen["num_classes"] = targets.shape[1]
    return seen


@dataclass(frozen=True)
class TrainingSet:
    """A data set, and how the loader that it is from makes batches of it.

    Attributes:
        dataset: Its samples are pairs.
        collate: Makes a batch of a list of samples.
        batch_size: Of the loader.
        num_workers: Of the loader.
        seed: What order and augmentation follow from.
        targets: Of all samples, ``[N, ...]``, if the data set has a list of them.
        task: Name of the task, if the data say it.
        weights: How often each sample is drawn, in proportion, ``[N]``; None draws each once.
    """

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any]
    batch_size: int
    num_workers: int
    seed: int
    targets: Tensor | None = None
    task: str | None = None
    weights: Tensor | None = None

    @classmethod
    def of(cls, data: pl.LightningDataModule) -> TrainingSet:
        """That of a data module, which is set up.

        Raises:
            ValueError: If it cannot be split into streams of inputs and targets.
        """
        name = data.source if isinstance(data, LoadedData) else type(data).__name__
        for hook in HOOKS:
            if getattr(type(data), hook) is not getattr(pl.LightningDataModule, hook):
                raise ValueError(
                    f"Lightning calls {hook} of the data module it is given, which is SearchDataModule and not {name} "
                    "within it. Do that in the data set instead."
                )
        return cls.of_loader(data.train_dataloader(), data, name)

    @classmethod
    def of_loader(cls, loader: Any, data: Any, name: str) -> TrainingSet:
        """That of a loader of a data module.

        Args:
            loader: The loader.
            data: The data module; its ``seed``, ``num_classes`` and ``task`` count.
            name: What messages call it.

        Raises:
            ValueError: If it cannot be split into streams of inputs and targets.
        """
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            what = "a DataLoader over an IterableDataset" if isinstance(loader, DataLoader) else type(loader).__name__
            raise ValueError(
                f"SearchDataModule splits the data set behind a DataLoader, which needs a length; train_dataloader of "
                f"{name} gives {what}. Return a DataLoader over a data set with __len__ and __getitem__."
            )
        if loader.batch_size is None:
            raise ValueError(
                f"Streams have batches of a fixed size; the training loader of {name} has a batch sampler of its own "
                "or none. Give it a batch_size, and SearchDataModule shuffles."
            )
        seed = getattr(data, "seed", None)
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if not isinstance(seed, int) else seed
        task = getattr(data, "task", None)
        task = task if isinstance(task, str) else getattr(task, "name", None)
        indices, weights = _sampled(loader.sampler, name)
        dataset = loader.dataset if indices is None else Subset(loader.dataset, indices)
        with own_random_numbers():
            sample = dataset[0]
        if loader.collate_fn is default_collate:  # another one may make tensors of anything
            check_sample(sample, name, classes=getattr(data, "num_classes", None), task=task)
        targets = targets_of(dataset)
        return cls(dataset, loader.collate_fn, loader.batch_size, loader.num_workers, seed, targets, task, weights)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    @property
    def labels(self) -> Tensor | None:
        """Class labels of all samples, int64 ``[N]``; None where they are none, or the data set does not list them."""
        return labels_of(self.targets, self.task)

    def split(self, fraction: float, *, seed: int) -> tuple[TrainingSet, TrainingSet]:
        """Split into two parts, see `stratified_split` and `samples.strata`."""
        groups = strata(self.targets, len(self), fraction, self.task)
        first, second = (self.part(part) for part in stratified_split(groups, fraction, seed=seed))
        return first, second

    def part(self, indices: Tensor) -> TrainingSet:
        """The samples at ``indices``, int64 ``[M]``."""
        return replace(
            self,
            dataset=Subset(self.dataset, indices.tolist()),
            targets=None if self.targets is None else self.targets[indices],
            weights=None if self.weights is None else self.weights[indices],
        )

    def balanced(self) -> TrainingSet:
        """The same with every class drawn equally often.

        Raises:
            ValueError: If the labels are not known, or are no classes; or the loader has weights of its own.
        """
        if self.labels is None:
            raise ValueError(
                "balanced=True draws every class equally often, so the data set must list a class label for every "
                "sample, as 'targets'; it does not, or its targets are no classes. Add the list, or leave it out."
            )
        if self.weights is not None:
            raise ValueError("balanced=True and a WeightedRandomSampler contradict each other. Leave one of them out.")
        return replace(self, weights=balancing(self.labels))

    def train_loader(self, batch_size: int, *, name: str, stream: int, epoch: int) -> DataLoader[Batch]:
        """A shuffled loader of full batches, which can be resumed.

        Raises:
            ValueError: If there are fewer samples than a batch.
        """
        samples = SampleStream(self.dataset, self.collate)
        sampler = ShuffleSampler(samples, seed=self.seed, stream=stream, epoch=epoch, weights=self.weights)
        if len(sampler) < batch_size:
            raise ValueError(
                f"The {name} stream needs at least one full batch of {batch_size} samples; it has {len(sampler)}. "
                "Lower batch_size, add samples, or give the stream a larger share."
            )
        return self._loader(samples, batch_size, StreamLoader, sampler=sampler, drop_last=True)

    def eval_loader(self, batch_size: int) -> DataLoader[Batch]:
        """A loader of all samples in order; what the data set draws at random is the same every time."""
        return self._loader(SampleStream(self.dataset, self.collate), batch_size, DataLoader)

    def _loader(
        self, samples: SampleStream, batch_size: int, kind: type[DataLoader[Batch]], **options: Any
    ) -> DataLoader[Batch]:
        return kind(
            samples,
            batch_size=batch_size,
            num_workers=self.num_workers,
            collate_fn=as_it_is,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator().manual_seed(self.seed),  # or it would draw from torch's global state
            **options,
        )


def _sampled(sampler: Any, name: str) -> tuple[Sequence[int] | None, Tensor | None]:
    """Which samples a sampler draws, and how often; None is all, and all once.

    Raises:
        ValueError: If it draws in another way.
    """
    plain = isinstance(sampler, SequentialSampler | DistributedSampler) or (
        isinstance(sampler, RandomSampler)
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
    )
    if plain and getattr(sampler, "weights", None) is None:
        return None, None
    if isinstance(sampler, SubsetRandomSampler):
        return [int(index) for index in sampler.indices], None
    if isinstance(sampler, WeightedRandomSampler) and sampler.replacement:
        return None, torch.as_tensor(sampler.weights, dtype=torch.float64)
    raise ValueError(
        f"SearchDataModule draws the samples of its streams itself; of other samplers it keeps WeightedRandomSampler "
        f"with replacement and SubsetRandomSampler. The training loader of {name} has a {type(sampler).__name__}"
        f"{' with replacement or num_samples' if isinstance(sampler, RandomSampler) else ''}. Use one of these, or "
        "shuffle=True."
    )
