"""Training samples as they are evaluated: not augmented, drawn by a fixed seed, whatever the loader shuffles."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any, TypeGuard
from typing import cast as typed

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from oneshot.random_numbers import own_random_numbers

from .batches import pair_of

if TYPE_CHECKING:
    import pytorch_lightning as pl

Samples = Iterable[tuple[Any, Tensor]]


def plain_samples(data: Any, count: int, *, batch_size: int = 256) -> Samples | None:
    """Batches ``(x, y)`` of at most ``count`` training samples, not augmented; None where a data module has no such.

    They are drawn by a fixed seed: in a folder the images of a class stand together, and the first ones are of one or
    two classes.

    Args:
        data: A data module, set up for a fit.
        count: Most samples.
        batch_size: Samples in a batch.
    """
    inner: Any = getattr(data, "data", data)
    if not hasattr(inner, "eval_loader"):
        return None
    train = data.weights_images if hasattr(data, "weights_images") else inner.train_set
    drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count]
    loader: Samples = inner.eval_loader(train.subset(drawn), batch_size=batch_size)
    return loader


@contextlib.contextmanager
def loader_samples(loader: Any, count: int, *, batch_size: int = 256) -> Iterator[Iterable[Any]]:
    """Inside, batches of a training loader, of ``count`` samples where they can be drawn; the same ones in every call.

    They are drawn by a fixed seed from the data set of the loader, however it shuffles, and the same in every process.
    Of a loader without a data set they are all that it has, in its order. Random augmentation is seeded as well, and
    the state of all random number generators is restored at the end.

    Args:
        loader: A training loader, or a mapping that has one as ``"weights"``.
        count: Most samples.
        batch_size: Samples in a batch.
    """
    loader = loader["weights"] if isinstance(loader, Mapping) else loader
    with own_random_numbers(0):
        if is_shuffleable(loader):
            drawn: Any = Subset(loader.dataset, torch.randperm(len(typed(Sized, loader.dataset)))[:count].tolist())
            loader = DataLoader(drawn, batch_size, collate_fn=loader.collate_fn)
        yield (batch["weights"] if isinstance(batch, Mapping) else batch for batch in loader)


@contextlib.contextmanager
def fit_samples(trainer: pl.Trainer, count: int) -> Iterator[Samples]:
    """Inside, batches ``(x, y)`` of at most ``count`` training samples of a fit, as they are evaluated.

    Of loaders without a data module samples may be augmented.

    Args:
        trainer: Its loaders are set up.
        count: Most samples.
    """
    data = getattr(trainer, "datamodule", None)
    plain = None if data is None else plain_samples(data, count)
    if plain is not None:
        yield plain
        return
    with loader_samples(trainer.train_dataloader, count) as batches:
        yield _at_most(batches, count)


def _at_most(batches: Samples, count: int) -> Samples:
    for batch in batches:
        yield batch
        if (count := count - len(pair_of(batch)[1])) <= 0:
            return


def is_shuffleable(loader: Iterable[Any]) -> TypeGuard[DataLoader[Any]]:
    """Whether the samples of a loader can be drawn anew: those of a data set with a length, batched by the loader."""
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return False
    return not isinstance(loader.dataset, IterableDataset)
