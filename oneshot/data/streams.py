"""The training set of any data module, split into the two streams of a search."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from .images import Batch, ShuffleSampler, StreamLoader, stratified_split
from .vision import as_it_is

HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class SampleStream(Dataset[Batch]):
    """Batches of the samples of any data set. A sampler's draws seed the random numbers of their augmentation.

    Args:
        dataset: Its samples are pairs.
        collate: Makes a batch of a list of samples.
    """

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.collate = dataset, collate

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, item: int | tuple[int, int]) -> Batch:
        """One sample."""
        x, y = self.__getitems__([item])
        return x[0], y[0]

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> Batch:
        """A batch of plain indices, or of the ``(index, draw)`` pairs of `ShuffleSampler`."""
        pairs = [item if isinstance(item, tuple) else (item, item) for item in items]
        with isolate_rng():
            random.seed(pairs[0][1])
            np.random.seed(pairs[0][1] % 2**32)
            torch.manual_seed(pairs[0][1])
            batch: Batch = self.collate([self.dataset[index] for index, _ in pairs])
        return batch


@dataclass(frozen=True)
class TrainingSet:
    """The data set behind a training loader, and how the loader makes batches of it."""

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any]
    batch_size: int
    num_workers: int
    seed: int

    @classmethod
    def of(cls, data: pl.LightningDataModule) -> TrainingSet:
        """That of a data module, which is set up.

        Raises:
            ValueError: If it cannot be split into streams of images and labels.
        """
        name = type(data).__name__
        loader = data.train_dataloader()
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
        for hook in HOOKS:
            if getattr(type(data), hook) is not getattr(pl.LightningDataModule, hook):
                raise ValueError(
                    f"Lightning calls {hook} of the data module it is given, which is SearchDataModule and not {name} "
                    "within it. Do that in the data set instead."
                )
        seed = getattr(data, "seed", None)
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if not isinstance(seed, int) else seed
        found = cls(loader.dataset, loader.collate_fn, loader.batch_size, loader.num_workers, seed)
        with isolate_rng():
            _check_sample(found.dataset[0], name)
        return found

    def split(self, fraction: float, *, seed: int) -> tuple[Dataset[Any], Dataset[Any]]:
        """Split into two parts, see `stratified_split`; not stratified if the data set has no list of labels."""
        labels = _labels(self.dataset)
        count = len(cast(Sized, self.dataset))
        first, second = stratified_split(torch.zeros(count) if labels is None else labels, fraction, seed=seed)
        return Subset(self.dataset, first.tolist()), Subset(self.dataset, second.tolist())

    def train_loader(
        self, part: Dataset[Any], batch_size: int, *, name: str, stream: int, epoch: int
    ) -> DataLoader[Batch]:
        """A shuffled loader of full batches, which can be resumed.

        Raises:
            ValueError: If there are fewer samples than a batch.
        """
        samples = SampleStream(part, self.collate)
        sampler = ShuffleSampler(samples, seed=self.seed, stream=stream, epoch=epoch)
        if len(sampler) < batch_size:
            raise ValueError(
                f"The {name} stream needs at least one full batch of {batch_size} images; it has {len(sampler)}. "
                "Lower batch_size, add images, or give the stream a larger share."
            )
        return self._loader(samples, batch_size, StreamLoader, sampler=sampler, drop_last=True)

    def eval_loader(self, part: Dataset[Any], batch_size: int) -> DataLoader[Batch]:
        """A loader of all samples in order; what the data set draws at random is the same every time."""
        return self._loader(SampleStream(part, self.collate), batch_size, DataLoader)

    def _loader(
        self, samples: SampleStream, batch_size: int, kind: type[DataLoader[Batch]], **options: Any
    ) -> DataLoader[Batch]:
        return kind(
            samples,
            batch_size,
            num_workers=self.num_workers,
            collate_fn=as_it_is,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator().manual_seed(self.seed),  # or it would draw from torch's global state
            **options,
        )


def _check_sample(sample: Any, name: str) -> None:
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        raise ValueError(f"A sample is an image and its label; the first of {name} is a {type(sample).__name__}.")
    x, y = sample
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        kind = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ValueError(
            f"Images are tensors of floating point, [C, H, W]; the first of {name} is {kind}. Add a transform, such as "
            "torchvision's ToTensor, to the data set."
        )
    whole = isinstance(y, (int, np.integer)) or (isinstance(y, (Tensor, np.ndarray)) and "int" in str(y.dtype))
    if not whole or isinstance(y, bool):
        raise ValueError(f"Labels are the numbers of classes, whole numbers; the first of {name} is {y!r}.")


def _labels(dataset: Dataset[Any]) -> Tensor | None:
    """Labels of all samples, int64 ``[N]``, where a data set has them in a list, as those of torchvision have."""
    if isinstance(dataset, Subset):
        labels = _labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(list(dataset.indices))]
    found = getattr(dataset, "targets", None)
    if found is None and len(getattr(dataset, "tensors", ())) == 2:
        found = dataset.tensors[1]  # type: ignore[attr-defined]  # of a TensorDataset
    try:
        labels = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        return None
    fits = labels.ndim == 1 and len(labels) == len(cast(Sized, dataset)) and not labels.is_floating_point()
    return labels.long() if fits else None
