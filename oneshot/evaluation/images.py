"""Images to evaluate and to calibrate with: resized for the network, shuffled, in batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from oneshot.inputs import Inputs, as_shape, cast, length, mapped
from oneshot.inputs import joined as joined_inputs
from oneshot.random_numbers import own_random_numbers
from oneshot.supernets.base import Subnet, Supernet
from oneshot.supernets.elastic import resized
from oneshot.supernets.space import SubnetConfig
from oneshot.training.batches import check_shape
from oneshot.training.samples import is_shuffleable, loader_samples, plain_samples

if TYPE_CHECKING:
    import pytorch_lightning as pl


def fitted(network: Supernet | Subnet, x: Inputs, config: SubnetConfig | None = None) -> Any:
    """Inputs as a network reads them: of its shape, on its device, in its type.

    Only images for networks whose space has resolutions are resized, in their proportions; all others must have the
    shape the network was built for, to the last side. Numbers of words stay whole numbers, and texts may have
    any length.

    Args:
        network: A supernet or a network.
        x: ``[B, ...]``, or a mapping of such.
        config: The architecture that a supernet runs; needed where the space has resolutions.

    Raises:
        ValueError: If the inputs do not fit, naming both shapes.
    """
    shape = network.input_shape
    if isinstance(network, Supernet) and config is not None:
        shape = network.shape_of(config)
    like = next(network.parameters(), None)
    if like is not None:
        x = cast(x, like)
    if network.has_resolutions and isinstance(x, Tensor) and x.dim() == 4 and x.shape[1] == as_shape(shape)[0]:  # type: ignore[index]
        return resized(x, shape[1:])
    check_shape(network, x, shape)
    return x


class FittedBatches:
    """Batches ``(x, y)`` with inputs as a network reads them, see :func:`fitted`.

    Args:
        batches: A loader.
        network: What reads them.
    """

    def __init__(self, batches: Any, network: Subnet) -> None:
        self.batches, self.network = batches, network

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for x, y in self.batches:
            yield fitted(self.network, x), y


class EvaluationData(NamedTuple):
    """What architectures are compared on, in memory.

    Args:
        images: Validation inputs ``[N, ...]``.
        labels: Their targets, ``[N, ...]``.
        calibration: Training inputs, not augmented, ``[M, ...]``.
        calibration_labels: Their targets, ``[M, ...]``.
    """

    images: Any
    labels: Tensor
    calibration: Any
    calibration_labels: Tensor


def decode_images(data: pl.LightningDataModule, calibration: int, *, batch_size: int = 256) -> EvaluationData:
    """Read validation samples, and ``calibration`` training samples, none augmented.

    Training images of a data module without ``eval_loader`` are those of :func:`training_images`, which may be
    augmented.

    Raises:
        ValueError: If there are no validation images.
    """
    validation = data.val_dataloader()
    if not validation:
        raise ValueError("Architectures must be compared on validation images; there are none. Use val_fraction=0.1.")
    return EvaluationData(*joined(validation), *calibration_samples(data, calibration, batch_size=batch_size))


def calibration_images(data: pl.LightningDataModule, count: int, *, batch_size: int = 256) -> Any:
    """The inputs of :func:`calibration_samples`."""
    return calibration_samples(data, count, batch_size=batch_size)[0]


def calibration_samples(data: pl.LightningDataModule, count: int, *, batch_size: int = 256) -> tuple[Any, Tensor]:
    """At most ``count`` training samples, inputs and targets ``[N, ...]``, not augmented; see :func:`decode_images`.

    They are drawn by a fixed seed: in a folder the images of a class stand together, and the first ones are of one or
    two classes.
    """
    plain = plain_samples(data, count, batch_size=batch_size)
    if plain is None:
        return training_samples(data.train_dataloader(), count, batch_size=batch_size)
    return first(plain, count)


def training_images(loader: Any, count: int, *, batch_size: int = 256) -> Any:
    """The inputs of :func:`training_samples`."""
    return training_samples(loader, count, batch_size=batch_size)[0]


def training_samples(loader: Any, count: int, *, batch_size: int = 256) -> tuple[Any, Tensor]:
    """At most ``count`` samples of a training loader, inputs and targets ``[N, ...]``; the same ones in every call.

    They are drawn by a fixed seed from the data set of the loader, however it shuffles, and the same in every process.
    Of a loader without a data set they are the first. Random augmentation is seeded as well, and the state of all
    random number generators is restored.
    """
    with loader_samples(loader, count, batch_size=batch_size) as batches:
        return first(batches, count)


def mixed(loader: Iterable[Any]) -> list[Any]:
    """One batch, drawn from all that a loader has: the same one in every call. Generators keep their state."""
    with own_random_numbers(0):
        return list(islice(shuffled(loader), 1))


def shuffled(loader: Iterable[Any], seed: int = 0) -> Iterable[Any]:
    """The batches of a loader in random order of the images: in a folder one batch would hold one or two classes.

    Anything but a ``DataLoader`` over a data set with a length, such as a list, stays as it is.
    """
    if not is_shuffleable(loader):
        return loader
    size = max(2, loader.batch_size or 0)  # one image has no variance
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(loader.dataset, size, shuffle=True, collate_fn=loader.collate_fn, generator=generator)


def in_parts(images: Any, most: int) -> tuple[Any, ...]:
    """Split into nearly equal batches of at most ``most`` images: their mean is then the mean over images.

    A small last batch would count as much as the others, and a single image has no variance.
    """
    count = max(1, math.ceil(length(images) / most))
    if isinstance(images, Mapping):
        parts = {name: torch.tensor_split(part, count) for name, part in images.items()}
        return tuple({name: part[i] for name, part in parts.items()} for i in range(count))
    return torch.tensor_split(images, count)


def joined(batches: Iterable[tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
    """All inputs and targets of a loader."""
    images, labels = zip(*batches, strict=True)
    return joined_inputs(images), torch.cat(labels)


def first(batches: Iterable[tuple[Any, Tensor]], count: int) -> tuple[Any, Tensor]:
    """The first ``count`` samples of batches; fewer if there are no more."""
    taken: list[tuple[Any, Tensor]] = []
    for x, y, *_ in batches:
        taken.append((x, y))
        if sum(len(labels) for _, labels in taken) >= count:
            break
    if not taken:
        return torch.empty(0), torch.empty(0)
    inputs, targets = joined(taken)
    return mapped(lambda part: part[:count], inputs), targets[:count]
